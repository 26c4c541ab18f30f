"""`verify` on the folder of a sequence: the chain, the models that are there, and the rows that are given."""

import json

import pytest
from builders import qa_rows, tiny_model

from llm_unlearn.cli import hub as command
from llm_unlearn.cli.main import main
from llm_unlearn.data.validation import split_rows
from llm_unlearn.files import audit_trail
from llm_unlearn.files.audit_trail import FILE, append_line, row_digest
from llm_unlearn.files.run_folder import model_digests
from llm_unlearn.hub.verification import verify_trail


@pytest.fixture
def folder(tmp_path):
    """Two requests of two rows each; the models after them in steps/, the last in model/, too."""
    before = {"model.safetensors": "0"}
    for number in (1, 2):
        saved = tmp_path / "steps" / str(number) / "model"
        tiny_model(seed=number).save_pretrained(saved)
        rows = [row_digest(*pair) for pair in split_rows(qa_rows(4), "rows")[2 * number - 2 : 2 * number]]
        after = model_digests(saved)
        append_line(tmp_path, rows=rows, before=before, after=after, settings={}, verdict={})
        before = after
    tiny_model(seed=2).save_pretrained(tmp_path / "model")
    return tmp_path


def test_a_trail_that_is_whole(folder, capsys):
    assert command.TRAIL == audit_trail.FILE
    assert verify_trail(folder).problems == [] and verify_trail(folder, qa_rows(6)).problems == []
    assert verify_trail(folder, qa_rows(3)).problems == ["line 2: 1 of its 2 rows are none of the given ones"]
    main(["verify", str(folder)])
    last = json.loads((folder / FILE).read_text().splitlines()[-1])["sha256"]
    assert capsys.readouterr().out == f"{folder / FILE}: 2 requests, each line as it was written; last hash {last}\n"


def test_a_line_that_was_left_out_and_a_model_that_was_exchanged(folder, capsys):
    (folder / FILE).write_text((folder / FILE).read_text().splitlines()[0] + "\n")  # the chain itself is whole
    assert verify_trail(folder).problems == [f"line 1 is about another model than that in {folder}"]
    with pytest.raises(SystemExit) as ended:
        main(["verify", str(folder)])
    assert ended.value.code == 1 and "line 1 is about another model" in capsys.readouterr().err
    (folder / FILE).write_text("")
    assert verify_trail(folder).problems == ["it has no line"]


def test_a_step_that_was_trained_again(folder):
    tiny_model(seed=5).save_pretrained(folder / "steps" / "1" / "model")
    assert verify_trail(folder).problems == [f"line 1 is about another model than that in {folder / 'steps' / '1'}"]
