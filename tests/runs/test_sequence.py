"""Requests one after the other, as a command: what is measured, kept, written to the trail, and refused."""

import json
from dataclasses import replace

import pytest
from builders import tiny_tokenizer
from chains import FORGET, asked, config, examination, flags, make_home, note_trainings
from datasets import Dataset

from llm_unlearn.arguments.groups import AdapterArguments
from llm_unlearn.cli.main import main
from llm_unlearn.data import encode_dataset
from llm_unlearn.data.unlearning_data import UnlearningData
from llm_unlearn.data.validation import split_rows
from llm_unlearn.errors import InputError
from llm_unlearn.files.audit_trail import FILE, append_line, broken_links, read_trail, row_digest
from llm_unlearn.files.run_folder import model_digests
from llm_unlearn.models.loading import load_model
from llm_unlearn.models.scoring import score_answers
from llm_unlearn.planning.requests import of_earlier
from llm_unlearn.runs.chain import Chain
from llm_unlearn.runs.sequence import Requests, SequenceArguments, of_rows, requested, sequence


def requests(home, out, count=2, **changes):
    given = examination(home)
    chosen, steps = SequenceArguments(method="gradient_ascent", requests=count).chosen(given.data)
    given = replace(given, data=chosen, original=str(home / "original"))
    settings = config(out, **{"max_steps": 2} | changes)
    chain = Chain(steps, settings, AdapterArguments(lora_r=4), given, str(home / "original"))
    return Requests(chain, [str(home / "oracle")])


def test_requests_are_served_measured_and_noted_and_a_killed_run_goes_on(tmp_path, monkeypatch, capsys):
    home, trained, out = make_home(tmp_path / "home"), note_trainings(monkeypatch), tmp_path / "out"
    trained.stop = 1
    with pytest.raises(KeyboardInterrupt):
        requests(home, out).serve()
    assert [line["request"] for line in read_trail(out)] == [1]
    kept, trained.stop = (out / FILE).read_bytes(), None
    done, served = requests(home, out).serve()
    assert trained.forget == [asked(0), asked(1)]  # nothing twice
    assert trained.retain == [asked(*range(6, 12), *later) for later in ((1,), ())]

    assert [(one["request"], one["rows"], one["steps"]) for one in served] == [(1, 2, 2), (2, 2, 2)]
    for number, one in enumerate(served, 1):
        scores = [one[name] for name in ("probability", "exact_match", "oracle_probability", "knowledge")]
        assert [len(values) for values in scores] == [number] * 4 and one["judgment"]
    assert served[0]["knowledge"] == [None]  # alone, no two facts are of a kind
    assert all(0 <= known <= 1 for known in served[1]["knowledge"])
    assert served[1]["oracle_probability"][:1] == served[0]["oracle_probability"]
    last = load_model(str(out / "steps" / "2" / "adapter"))
    rows = encode_dataset(FORGET[:4], tiny_tokenizer(), None, "rows")
    own = [score.probability for score in score_answers(last, rows)]
    assert served[1]["probability"] == pytest.approx([(own[i] + own[i + 1]) / 2 for i in (0, 2)], abs=1e-6)
    assert "request 2: 2 rows, 2 steps" in capsys.readouterr().out

    lines = read_trail(out)
    assert (out / FILE).read_bytes().startswith(kept) and broken_links(lines) == []
    assert lines[0]["before"] == model_digests(home / "original") and lines[1]["before"] == lines[0]["after"]
    assert lines[1]["after"] == done[1]["weights"] == model_digests(out / "steps" / "2" / "adapter")
    assert lines[0]["rows"][0] == row_digest([{"role": "user", "content": "Where does Ann live"}], "in Paris")
    settings = lines[0]["settings"]
    assert (settings["method"], settings["seed"], settings["learning_rate"]) == ("gradient_ascent", 3, 1e-2)
    assert (settings["max_steps"], settings["lora_r"]) == (2, 4) and "output_dir" not in settings
    assert lines[1]["verdict"]["knowledge_of_earlier"] == of_earlier(served[1]["knowledge"])
    assert not [secret for secret in ("Ann", "Paris", str(tmp_path)) if secret in (out / FILE).read_text()]

    others = requests(home, out)
    others.oracles = []  # what is known about oracles goes with them, and nothing is trained again
    assert [one["oracle_probability"] for one in others.serve()[1]] == [None, None] and len(trained.forget) == 2

    with pytest.raises(InputError, match="has more lines than there are requests: give another --output_dir"):
        requests(home, out, count=1).serve()
    with pytest.raises(InputError, match="line 1 is about other rows or settings than this run's request 1"):
        requests(home, out, learning_rate=1e-3).serve()
    assert len(trained.forget) == 2


@pytest.mark.long  # its parts are tested on their own
def test_the_command_writes_all_of_it(tmp_path, capsys):
    home, out = make_home(tmp_path / "home"), tmp_path / "out"
    found = sequence("", flags(home, out, "--requests=2", "--method=gradient_ascent", "--max_steps=2"))
    assert json.loads((out / "sequence.json").read_text()) == found and len(found["requests"]) == 2
    for name in ("sequence.png", "verdict.json", "report.html"):
        assert (out / name).stat().st_size > 1000
    assert f"llm-unlearn verify {out}" in capsys.readouterr().out
    main(["verify", str(out)])
    main(["verify", str(out), f"--forget_file={out / 'forget.jsonl'}", f"--retain_file={out / 'retain.jsonl'}"])
    # The rows as they were given, of which the requests are a part.
    main(["verify", str(out), f"--forget_file={home / 'forget.jsonl'}", f"--retain_file={home / 'retain.jsonl'}"])
    printed = capsys.readouterr().out
    assert printed.count("2 requests, each line as it was written") == 3
    assert printed.count("The card's scores are those") == 2 and "not verified" not in printed


def test_rows_that_a_trail_names_are_found_again(tmp_path):
    given, out = examination(make_home(tmp_path / "home")).data, tmp_path
    digests = [row_digest(*pair) for pair in split_rows(given.forget, "forget set")]
    append_line(out, rows=[digests[3], digests[2]], before={}, after={}, settings={}, verdict={})
    append_line(out, rows=[digests[0]], before={}, after={}, settings={}, verdict={})
    assert requested(given, out).forget["question"][:] == [FORGET[i]["question"] for i in (3, 2, 0)]


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
