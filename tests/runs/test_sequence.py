"""Requests one after the other, as a command: what is measured, kept, written to the trail, and refused."""

import json

import pytest
from chains import asked, flags, make_home, note_trainings
from datasets import Dataset

from llm_unlearn.data.unlearning_data import UnlearningData
from llm_unlearn.errors import InputError
from llm_unlearn.files.audit_trail import broken_links, read_trail, row_digest
from llm_unlearn.files.run_folder import model_digests
from llm_unlearn.runs.sequence import SequenceArguments, of_rows, sequence


def test_requests_are_served_measured_and_noted_and_a_killed_run_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("llm_unlearn.runs.recipe.write_report", lambda _folder: None)  # its figures take seconds
    home, trained, out = make_home(tmp_path / "home"), note_trainings(monkeypatch), tmp_path / "out"
    given = flags(home, out, "--requests=3", "--method=gradient_ascent", "--max_steps=2")
    trained.stop = 2
    with pytest.raises(KeyboardInterrupt):
        sequence("", given)
    assert [line["request"] for line in read_trail(out)] == [1, 2] and not (out / "sequence.json").exists()
    kept, trained.stop = (out / "audit_trail.jsonl").read_bytes(), None
    found = sequence("", given)
    assert trained.forget == [asked(0), asked(1), asked(2)]  # nothing twice
    assert trained.retain[0] == [*asked(*range(6, 12)), *asked(1, 2)] and trained.retain[2] == asked(*range(6, 12))

    requests = found["requests"]
    assert [(one["request"], one["rows"], one["steps"]) for one in requests] == [(1, 2, 2), (2, 2, 2), (3, 2, 2)]
    for number, one in enumerate(requests, 1):
        assert len(one["probability"]) == len(one["oracle_probability"]) == len(one["knowledge"]) == number
        assert (min(one["probability"]) >= 0 and one["kept"] is None) or one["kept"] > 0
    assert requests[0]["knowledge"] == [None]  # alone, no two facts are of a kind
    assert all(0 <= known <= 1 for known in requests[2]["knowledge"])
    assert requests[2]["oracle_probability"][:1] == requests[0]["oracle_probability"]
    assert json.loads((out / "sequence.json").read_text()) == found
    assert (out / "sequence.png").stat().st_size > 10_000 and (out / "verdict.json").is_file()
    printed = capsys.readouterr().out
    assert "request 3: 2 rows, 2 steps" in printed and f"llm-unlearn verify {out}" in printed

    lines = read_trail(out)
    assert (out / "audit_trail.jsonl").read_bytes().startswith(kept) and broken_links(lines) == []
    assert lines[0]["before"] == model_digests(home / "original") and lines[1]["before"] == lines[0]["after"]
    assert lines[2]["after"] == model_digests(out / "adapter") == requests[2]["weights"]
    question = [{"role": "user", "content": "Where does Ann live"}]
    assert lines[0]["rows"][0] == row_digest(question, "in Paris")
    settings = lines[0]["settings"]
    assert (settings["method"], settings["seed"], settings["learning_rate"]) == ("gradient_ascent", 3, 1e-2)
    assert (settings["max_steps"], settings["lora_r"]) == (2, 4) and "output_dir" not in settings
    text = (out / "audit_trail.jsonl").read_text()
    assert not [secret for secret in ("Ann", "Paris", str(tmp_path)) if secret in text]

    with pytest.raises(InputError, match="has more lines than there are requests: give another --output_dir"):
        sequence("", [*given, "--requests=2"])
    with pytest.raises(InputError, match="line 1 is about other rows or settings than this run's request 1"):
        sequence("", [*given, "--learning_rate=1e-3"])
    assert len(trained.forget) == 3


def data():
    rows = [{"question": f"q{i}", "answer": "a", "person": "AABA"[i], "fact_id": f"f{i}"} for i in range(4)]
    asked_otherwise = Dataset.from_list([{"question": f"r{i}", "answer": "a", "fact_id": f"f{i}"} for i in (3, 2, 0)])
    return UnlearningData(Dataset.from_list(rows), None, None, {}, "rows", {"reversed": asked_otherwise})


def test_rows_of_one_value_are_one_request():
    chosen, steps = SequenceArguments(method="npo:beta=0.1").chosen(data())
    assert chosen.forget["question"][:] == ["q0", "q1", "q3", "q2"]
    assert [(step.name, step.rows, step.method) for step in steps] == [
        ("request 1", (0, 1, 2), "npo:beta=0.1"),
        ("request 2", (3,), "npo:beta=0.1"),
    ]
    chosen, steps = SequenceArguments(requests=1, request_column="fact_id").chosen(data())
    assert chosen.forget["question"][:] == ["q0"] and len(steps) == 1
    assert chosen.queries["reversed"]["question"][:] == ["r0"] and of_rows(data(), [1]).queries == {}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"requests": 0}, "requests=0 must be 1 or more"),
        ({"requests": 3}, "requests=3: column 'person' has 2 values"),
        ({"method": "np"}, "methods: 'np' is unknown"),
        ({"request_column": "ticket"}, "request_column='ticket' is no column of the forget rows; choose from question"),
    ],
)
def test_requests_that_are_none(given, message):
    with pytest.raises(ValueError, match=message):
        SequenceArguments(**given).chosen(data())
