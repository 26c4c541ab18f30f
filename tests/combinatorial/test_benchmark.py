"""The laboratory through its command, in this process, with few seeds and steps."""

import json
import subprocess
import sys

import pytest

from llm_unlearn.errors import InputError
from llm_unlearn.reporting.combinatorial_table import LABELS, laboratory_sections
from llm_unlearn.runs.combinatorial import combinatorial_benchmark


def test_from_seeds_to_figures(tmp_path, capsys):
    flags = ["--seeds=2", "--training_steps=700", "--batch_size=128", "--learning_rate=0.005", "--recovery_steps=120"]
    found = combinatorial_benchmark("", [*flags, f"--output_dir={tmp_path / 'out'}"])
    assert json.loads((tmp_path / "out" / "combinatorial.json").read_text()) == found
    printed = capsys.readouterr().out
    assert "keep, as published" in printed and "GradDiff" in printed and "…" not in printed
    for name in ("codes.png", "recovery.png", "keep.png", "regularizer.png", "table.md"):
        assert (tmp_path / "out" / name).stat().st_size > 1000

    models = found["models"]
    assert list(models) == list(LABELS) and list(found["curves"]) == ["target", "all", "unrelated"]

    def value(model: str, what: str) -> float:
        return models[model][what]["agg_value"]

    assert value("original", "target_true_positive_rate") > 0.9 and value("original", "keep") == 1
    assert value("oracle", "target_true_positive_rate") < 0.1 and value("oracle", "keep") < 0.5
    assert value("original", "strength_over_null") > 2 * value("oracle", "strength_over_null")
    assert value("gradient_ascent", "target_true_positive_rate") < 0.15
    assert value("gradient_ascent", "keep") > 0.5 and value("gradient_ascent", "recovery_target") < 60
    assert set(models["npo"]["keep"]["value_by_index"]) == {"0", "1"}
    assert len(found["weights"]["models"]["oracle"]["w1"]) == 32 and len(found["weights"]["clauses"]) == 8
    assert found["regularizer"]["attribution"]["1.0"] == models["attribution"]

    # a network that did not come back has no number of steps
    models["oracle"]["recovery_all"] = {"agg_value": None, "interval": [100, None], "value_by_index": {}}
    cells = next(row for row in laboratory_sections(found)[2].rows if row[0] == LABELS["oracle"])
    assert cells[2] == ">120 [100, >120]"


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--seeds=0", "seeds=0 must be 1 or more"),
        ("--learning_rate=0", "learning_rate=0.0 must be above 0"),
        ("--hidden=many", "hidden: 'many' .* is not valid"),
        ("--seed=1", "unknown flag --seed .*; did you mean --seeds"),
    ],
)
def test_impossible_flags_name_the_field(flag, message):
    with pytest.raises(InputError, match=message):
        combinatorial_benchmark("", [flag])


def test_the_laboratory_needs_no_language_model():
    code = (
        "import sys, llm_unlearn.combinatorial.experiment; "
        "sys.exit(any(name in sys.modules for name in ('transformers', 'datasets', 'llm_unlearn.training.trainer')))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
