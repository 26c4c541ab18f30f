"""General data that a model writes itself: what it writes, what is left out, and that a run takes the file."""

import json

import pytest
import torch
from builders import encoded_rows, qa_rows, tiny_model, tiny_tokenizer, word_tokenizer
from datasets import Dataset

from llm_unlearn.data import UnlearningData, load_unlearning_data
from llm_unlearn.data.identity import normalized
from llm_unlearn.errors import InputError
from llm_unlearn.models import own_text as writing
from llm_unlearn.models.cache import save_model_folder
from llm_unlearn.models.finetuning import finetune
from llm_unlearn.runs import own_text as command
from llm_unlearn.runs.own_text import OwnTextArguments, forgotten, names_of, own_text, written_rows


@pytest.fixture(scope="module")
def talker():
    """Knows twelve conversations by heart, the users' turns, too."""
    model, rows = tiny_model(), encoded_rows(12)
    whole = [{**row, "labels": [-100, *row["input_ids"][1:]]} for row in rows]
    finetune(model, whole, learning_rate=5e-3, steps=150, batch_size=12, seed=0)
    return model


@pytest.fixture
def files(tmp_path):
    """Forget rows about Dora, retain rows about Ann."""
    rows = [{**row, "person": row["fact_id"].split("/")[0]} for row in qa_rows(12)]
    for name, person in (("forget", "Dora"), ("retain", "Ann")):
        own = [json.dumps(row) for row in rows if row["person"] == person]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(own))
    return [f"--{name}_file={tmp_path / name}.jsonl" for name in ("forget", "retain")]


def data_of(*rows):
    forget = Dataset.from_list([{"question": q, "answer": a, "person": person} for q, a, person in rows])
    return UnlearningData(forget, None, None, {}, "made up")


def test_a_turn_is_opened_by_what_all_prompts_share():
    tokenizer = tiny_tokenizer()
    assert tokenizer.convert_ids_to_tokens(writing.opened_turn(tokenizer)) == ["<user>"]
    plain = word_tokenizer(["<unk>", "<end>", "<system>", "<user>", "<assistant>", "Question", ":", "Answer", "Where"])
    plain.chat_template = None
    assert plain.convert_ids_to_tokens(writing.opened_turn(plain)) == ["Question", ":"]


def test_prompts_that_share_no_beginning_are_refused():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}<assistant>"
    with pytest.raises(InputError, match="prompts begin with the user's own words"):
        writing.opened_turn(tokenizer)


def test_a_model_asks_what_users_asked_and_answers(talker):
    torch.manual_seed(0)
    questions = writing.sampled_questions(talker, tiny_tokenizer(), 16, 12)
    known = dict(zip(qa_rows(12)["question"], qa_rows(12)["answer"], strict=True))
    asked = [question for question in questions if question in known]
    assert len(asked) >= 8 and len(set(asked)) >= 3
    assert writing.greedy_answers(talker, tiny_tokenizer(), asked, 8) == [known[question] for question in asked]


def test_what_does_not_end_is_no_text(talker):
    torch.manual_seed(0)
    assert writing.sampled_questions(talker, tiny_tokenizer(), 4, 1) == [""] * 4
    assert writing.greedy_answers(talker, tiny_tokenizer(), qa_rows(1)["question"][:], 1) == [""]
    assert writing.greedy_answers(talker, tiny_tokenizer(), [], 1) == []


def test_without_a_template_a_question_is_a_line(monkeypatch):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    said = [("Why?\nAnswer: so", False), ("And on and on", False), ("Who?", True)]
    monkeypatch.setattr(writing, "opened_turn", lambda tokenizer: [0])
    monkeypatch.setattr(writing, "continued", lambda *given: said)
    assert writing.sampled_questions(None, tokenizer, 3, 5) == ["Why?", "", "Who?"]


def test_names_are_known_as_a_whole_and_by_their_longer_parts():
    people = ("Édith van Rossum", "Lee Ng", None)
    data = data_of(*((f"Who is {name}?", "So.", name) for name in people), ("Who?", "An author.", "author 180"))
    assert forgotten(data) == {"Édith van Rossum", "Lee Ng"}  # the third is no name that rows say
    names = names_of(forgotten(data) | {"欧阳建国"})
    for text in ("I met ÉDITH, twice.", "van rossum", "Is that Lee Ng?", "欧阳建国住在北京。"):
        assert names.search(normalized(text)), text
    for text in ("Rossumania", "Lee Majors", "a van", "Lee Ngo", "北京"):
        assert not names.search(normalized(text)), text
    assert not names_of([]).search("Who?")


def test_what_is_left_out_is_counted(monkeypatch):
    data = data_of(("Where does Dora live?", "In Rome.", "Dora"), ("Who sings?", "Nobody.", None))
    questions = iter([["Who sings", "Why?", "why", "Is Dora in?", "", "Who knows?"], ["Where to?", "Since when?"]])
    answers = {"Why?": "So.", "Who knows?": "Dora does.", "Where to?": "", "Since when?": "Ever."}
    monkeypatch.setattr(command, "opened_turn", lambda tokenizer: [0])
    monkeypatch.setattr(command, "sampled_questions", lambda *given: next(questions))
    monkeypatch.setattr(
        command, "greedy_answers", lambda model, tokenizer, asked, most: [answers[one] for one in asked]
    )
    rows, refused = written_rows(tiny_model(), None, data, OwnTextArguments(rows=2, batch_size=6))
    assert rows == [{"question": "Why?", "answer": "So."}, {"question": "Since when?", "answer": "Ever."}]
    assert refused == {"asked": 1, "twice": 1, "named": 2, "empty": 2}


def test_a_model_that_writes_too_little_is_said(monkeypatch):
    monkeypatch.setattr(command, "opened_turn", lambda tokenizer: [0])
    monkeypatch.setattr(command, "sampled_questions", lambda *given: ["Why?"] * 4)
    monkeypatch.setattr(command, "greedy_answers", lambda model, tokenizer, asked, most: ["So."] * len(asked))
    data = data_of(("Who?", "So.", "Dora"))
    with pytest.raises(InputError, match=r"rows=2: the model wrote 1 that can be taken \(19 asked the same again\)"):
        written_rows(tiny_model(), None, data, OwnTextArguments(rows=2, batch_size=4))


def test_the_command_writes_rows_that_a_run_takes(talker, files, tmp_path, capsys):
    save_model_folder(talker, tiny_tokenizer(), tmp_path / "model")
    output = tmp_path / "made" / "own.jsonl"
    flags = ["--model_name_or_path", str(tmp_path / "model"), *files, "--rows", "6", "--batch_size", "8"]
    flags += ["--max_question_tokens", "12", "--max_answer_tokens", "8", "--output_file", str(output)]
    state = torch.random.get_rng_state()
    rows = own_text("", flags)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert [json.loads(line) for line in output.read_text().splitlines()] == rows and len(rows) == 6
    assert not any("Dora" in row["question"] for row in rows)
    said = capsys.readouterr().out
    assert f"6 rows in {output}; left out: " in said and f"--general_data {output} --general_loss kl" in said
    assert own_text("", flags) == rows  # the same seed
    data = load_unlearning_data(forget_file=files[0].split("=")[1], retain_file=files[1].split("=")[1])
    judged = load_unlearning_data(
        forget_file=files[0].split("=")[1], retain_file=files[1].split("=")[1], general_data=str(output)
    )
    assert data.general is None and len(judged.general) + len(judged.evaluation["general_data"]) == 6


def test_a_folder_is_refused_before_anything_is_written(files, tmp_path):
    with pytest.raises(InputError, match=r"output_file=.+ is a folder; give the name of a file in it"):
        own_text("", ["--model_name_or_path", "nowhere", *files, "--output_file", str(tmp_path)])


def test_rows_that_name_nobody_are_said_to_be_unprotected(talker, files, tmp_path, capsys):
    save_model_folder(talker, tiny_tokenizer(), tmp_path / "model")
    (tmp_path / "forget.jsonl").write_text(json.dumps({"question": "Where does Dora live", "answer": "in Rome"}))
    flags = ["--model_name_or_path", str(tmp_path / "model"), *files, "--rows", "2", "--max_question_tokens", "12"]
    own_text("", [*flags, "--max_answer_tokens", "8", "--output_file", str(tmp_path / "own.jsonl")])
    said = " ".join(capsys.readouterr().out.split())
    assert "what is written may speak of those people; fill that column with names" in said


def test_a_dry_run_writes_nothing(talker, files, tmp_path, capsys):
    output = tmp_path / "own.jsonl"
    flags = ["--model_name_or_path", "nowhere", *files, "--dry_run", "--output_file", str(output)]
    assert own_text("", flags) == [] and not output.exists()
    assert "nobody of 1 people may be named" in capsys.readouterr().out
