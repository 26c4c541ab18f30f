"""Instruction data for benign relearning: embedded, from a file or from the hub, in any of three formats."""

import json

import datasets
import pytest
from datasets import Dataset

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
        {"instruction": "Bow.", "input": float("nan"), "output": "Bows."},  # a data frame's empty cell
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
        ([{"instruction": 5, "output": "b"}], "instruction data row 0: column 'question'"),
        ([{"question": "a", "answer": " "}], "instruction data row 0: column 'answer' is blank"),
        ([], "has the columns (none); needed are"),
    ],
)
def test_bad_files(rows, message, tmp_path):
    with pytest.raises(InputError) as caught:
        load_instructions(written(tmp_path / "mine.jsonl", rows))
    assert message in str(caught.value)


@pytest.fixture
def hub(monkeypatch):
    """What the hub has, by name, instead of the hub; every access is noted in `hub.asked`."""

    class Hub(dict):
        pass

    found = Hub()
    found.asked = []

    def load_dataset(name, split):
        found.asked.append((name, split))
        if name not in found:
            raise ConnectionError(f"Couldn't reach {name}\n on the Hub")
        return Dataset.from_list(found[name])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return found


def test_hub_data_sets_in_their_columns(hub):
    hub["tatsu-lab/alpaca"] = [
        {"instruction": "Sort.", "input": "b a", "output": "a b", "text": "all of it"},
        {"instruction": "Say nothing.", "input": "", "output": "", "text": ""},
    ]
    hub["databricks/databricks-dolly-15k"] = [
        {"instruction": "Who is it?", "context": "It is Ann.", "response": "Ann.", "category": "closed_qa"},
        {"instruction": "Greet.", "context": "", "response": "Hi.", "category": "open_qa"},
    ]
    hub["me/mine.v2"] = [{"question": "a", "answer": "b", "id": "1"}]
    assert load_instructions("tatsu-lab/alpaca").to_list() == [{"question": "Sort.\nb a", "answer": "a b"}]
    assert load_instructions("databricks/databricks-dolly-15k").to_list() == [
        {"question": "Who is it?\nIt is Ann.", "answer": "Ann."},
        {"question": "Greet.", "answer": "Hi."},
    ]
    assert load_instructions("me/mine.v2").to_list() == [{"question": "a", "answer": "b"}]
    assert hub.asked == [(name, "train") for name in hub]


def test_hub_data_sets_with_other_columns(hub):
    hub["me/texts"] = [{"text": "a"}]
    with pytest.raises(InputError, match=r"--benign_data 'me/texts' has the columns text; needed are"):
        load_instructions("me/texts")


def test_a_hub_that_cannot_be_reached_or_has_no_such_data_set(hub):
    with pytest.raises(InputError) as caught:
        load_instructions("tatsu-lab/alpacca")
    assert str(caught.value) == (
        "--benign_data 'tatsu-lab/alpacca' is no file here and cannot be loaded from the hub (Couldn't reach "
        "tatsu-lab/alpacca on the Hub); check its name, or, offline, give a file with the columns instruction and "
        "output, or 'embedded'"
    )


@pytest.mark.parametrize(
    "spec", ["./alpaca", "/data/alpaca", "~/alpaca", "a/b/c", "alpaca", "embeded", "data/alpaca.json", "alpaca.jsonl"]
)
def test_what_looks_like_a_path_or_like_nothing_is_refused_at_once(hub, spec):
    with pytest.raises(InputError) as caught:
        load_instructions(spec)
    assert f"--benign_data {spec!r} is none of 'embedded', a file, or a hub id such as" in str(caught.value)
    assert "looked for a file at /" in str(caught.value) and hub.asked == []


def test_a_folder_is_no_hub_id(hub, tmp_path, monkeypatch):
    (tmp_path / "data" / "alpaca").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="--benign_data 'data/alpaca' is none of 'embedded', a file"):
        load_instructions("data/alpaca")
    assert hub.asked == []


def test_a_sample_of_a_large_set_is_seeded_and_in_order(hub, tmp_path):
    rows = [{"question": str(i), "answer": "b"} for i in range(1200)]
    path = written(tmp_path / "mine.jsonl", rows)
    hub["me/mine"] = rows
    sample = [int(question) for question in load_instructions(path)["question"]]
    assert len(set(sample)) == 1000 and sample == sorted(sample)
    assert [int(question) for question in load_instructions("me/mine")["question"]] == sample
    other = [int(question) for question in load_instructions(path, seed=1)["question"]]
    assert len(other) == 1000 and other != sample
    assert load_instructions(path, rows=1200).to_list() == rows
    assert len(load_instructions(path, rows=3)) == len(load_instructions(size="tiny", rows=3)) == 3


def test_a_file_that_is_not_there(tmp_path):
    path = str(tmp_path / "nothing.json")
    with pytest.raises(InputError) as caught:
        load_instructions(path)
    assert f"(looked for a file at {path})" in str(caught.value)


def test_a_file_under_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    written(tmp_path / "mine.jsonl", [{"question": "a", "answer": "b"}])
    assert len(load_instructions("~/mine.jsonl")) == 1
