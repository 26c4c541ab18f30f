"""The scaling measurement: one factor at a time around a starting point. No test asserts a time."""

import json

import pytest

from llm_unlearn.errors import InputError
from llm_unlearn.speed.scaling import ScalingArguments, markdown_tables, point, training_scaling
from llm_unlearn.speed.training import PLAIN

TINY = ["--vocabulary=40", "--hidden_size=64", "--layers=1", "--row_length=12", "--answer_tokens=3", "--batch_size=1"]


def test_a_point_changes_one_factor_and_keeps_the_share_of_answer_tokens():
    start = ScalingArguments()
    longer = point(start, "row_length", 512)
    assert (longer.row_length, longer.answer_tokens, longer.batch_size) == (512, 160, 2)
    wider = point(start, "hidden_size", 1024)
    assert (wider.hidden_size, wider.answer_tokens, wider.row_length) == (1024, 40, 128)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--batch_sizes", "2", "0"], "batch_sizes: batch_size=0 must be 1 or more"),
        (["--hidden_sizes", "100"], "hidden_sizes: hidden_size=100 must be a multiple of 64"),
        (["--row_lengths", "4"], "row_lengths: answer_tokens=1 must be at least 2"),
        (["--vocabularies", "5"], "vocabularies: vocabulary=5 must be more than 5"),
    ],
)
def test_refused_arguments(flags, message):
    with pytest.raises(InputError, match=message):
        training_scaling("scaling", flags)


def test_a_run_of_the_command(tmp_path, capsys):
    flags = ["--methods", "npo", "--block_steps=1", "--repeats=1", "--threads=1", f"--output_dir={tmp_path}"]
    factors = ["--batch_sizes", "1", "2", "--row_lengths", "12", "24", "--vocabularies", "80", "--hidden_sizes", "64"]
    measured = training_scaling("scaling", [*TINY, *flags, *factors])
    assert json.loads((tmp_path / "scaling.json").read_text()) == json.loads(json.dumps(measured))
    points = {factor: [*values] for factor, values in measured["factors"].items()}
    assert points == {"batch_size": ["1", "2"], "row_length": ["12", "24"], "vocabulary": ["80"], "hidden_size": ["64"]}
    by_rows = [measured["factors"]["batch_size"][n]["settings"]["lora"][PLAIN] for n in ("1", "2")]
    assert by_rows[1]["flops"] == 2 * by_rows[0]["flops"]
    assert measured["factors"]["row_length"]["12"] == measured["factors"]["batch_size"]["1"]  # measured once
    written = (tmp_path / "table.md").read_text()
    assert written == markdown_tables(measured)
    assert "| batch_size | parameters | plain seconds | plain MiB | npo x plain | x floor | x peak |" in written
    assert written.count("lora:") == 4
    assert "row_length, lora" in capsys.readouterr().out
