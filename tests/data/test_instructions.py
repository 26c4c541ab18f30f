"""Instruction data for benign relearning: embedded, or from a file in either of two formats."""

import json

import pytest

from llm_unlearn.data.fictional import build_world
from llm_unlearn.data.instructions import load_instructions
from llm_unlearn.errors import InputError


def written(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)


def test_embedded_instructions_are_those_that_the_models_never_saw():
    world = build_world("tiny")
    assert load_instructions(size="tiny").to_list() == world.splits["instructions"]
    trained = {row["question"] for row in world.splits["chat"]}
    assert trained.isdisjoint(load_instructions("embedded", "tiny")["question"])
    assert len(load_instructions(size="small")) > len(load_instructions(size="tiny"))


def test_alpaca_files(tmp_path):
    rows = [
        {"instruction": "Sort.", "input": "b a", "output": "a b"},
        {"instruction": "Greet.", "input": "", "output": "Hi."},
        {"instruction": "Say nothing.", "output": "  "},  # an empty output teaches nothing
        {"instruction": "Bow.", "output": "Bows."},
    ]
    assert load_instructions(written(tmp_path / "alpaca.jsonl", rows)).to_list() == [
        {"question": "Sort.\nb a", "answer": "a b"},
        {"question": "Greet.", "answer": "Hi."},
        {"question": "Bow.", "answer": "Bows."},
    ]


def test_question_answer_files(tmp_path):
    path = written(tmp_path / "mine.jsonl", [{"question": "a", "answer": "b", "source": "c"}])
    assert load_instructions(path).to_list() == [{"question": "a", "answer": "b"}]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"prompt": "a", "text": "b"}], "has the columns prompt, text; needed are instruction and output (Alpaca)"),
        ([{"question": "a", "answer": " "}], "instruction data row 0: column 'answer' is blank"),
        ([], "has the columns (none); needed are"),
    ],
)
def test_bad_files(rows, message, tmp_path):
    with pytest.raises(InputError) as caught:
        load_instructions(written(tmp_path / "mine.jsonl", rows))
    assert message in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError) as caught:
        load_instructions(str(tmp_path / "nothing.json"))
    assert "is neither 'embedded' nor a file" in str(caught.value)
