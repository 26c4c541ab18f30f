"""Counterfactual teacher: the distribution of what would be said of made-up people, along the true answer."""

import json
import re

import pytest
import torch
from builders import arguments, qa_rows, tiny_model, tiny_tokenizer
from datasets import Dataset

from llm_unlearn import CounterfactualConfig, CounterfactualTrainer
from llm_unlearn.data.validation import split_rows
from llm_unlearn.errors import InputError
from llm_unlearn.methods import counterfactual_teacher, teacher_questions
from llm_unlearn.methods.counterfactual_teacher import KEPT, NAME_WEIGHT, mean_teacher, shares_along


def rows(count, start=0):
    return Dataset.from_list([row | {"person": row["fact_id"].partition("/")[0]} for row in qa_rows(count, start)])


def build(folder, forget=None, **changes):
    return CounterfactualTrainer(
        model=tiny_model(),
        args=arguments(
            CounterfactualConfig,
            folder,
            **{"guess_source": "teacher", "guesses": 2} | changes,
        ),
        forget_dataset=rows(3) if forget is None else forget,
        retain_dataset=rows(6, start=20),
        processing_class=tiny_tokenizer(),
    )


def test_distributions_are_averaged_where_answers_agree_and_names_stay_as_they_are():
    """The true answer 5 1 2 begins with the name 5; others have 6 there, or 7 8."""
    one = torch.tensor([[0.0] * 9, [0, 0.5, 0.5, 0, 0, 0, 0, 0, 0], [0, 0, 0.2, 0.8, 0, 0, 0, 0, 0]])
    two = torch.tensor([[0.0] * 9] * 2 + [[0, 0.1, 0, 0, 0.9, 0, 0, 0, 0], [0, 0, 0.6, 0.4, 0, 0, 0, 0, 0]])
    found = mean_teacher([5, 1, 2], [[6, 1, 2], [7, 8, 1, 2]], [one, two])
    assert found.tolist() == [
        [0, 0, 0, 0, 0, 1, 0, 0, 0],
        pytest.approx([0, 0.3, 0.25, 0, 0.45, 0, 0, 0, 0]),
        pytest.approx([0, 0, 0.4, 0.6, 0, 0, 0, 0, 0]),
    ]


def test_the_loss_is_the_cross_entropy_against_what_is_said_of_made_up_people(tmp_path, monkeypatch):
    monkeypatch.setattr(teacher_questions, "made_up_names", lambda *_: {"Ann": ["Gus", "Hal"]})
    forget = rows(1)
    trainer = build(tmp_path, forget, max_steps=1, learning_rate=0.0, logging_steps=1)
    model = tiny_model().eval()

    def said(name):
        row = trainer.forget_rows[0]
        question, answer = (row["input_ids"][: row["labels"].count(-100)], [x for x in row["labels"] if x != -100])
        ids = tiny_tokenizer().convert_tokens_to_ids(["Ann", name])
        asked = [ids[1] if token == ids[0] else token for token in question]
        return model(input_ids=torch.tensor([asked + answer])).logits[0, len(asked) - 1 : -1].log_softmax(-1)

    teacher = (said("Gus").exp() + said("Hal").exp()) / 2
    shares, ids = teacher.topk(KEPT if teacher.shape[1] > KEPT else teacher.shape[1])
    shares = shares / shares.sum(-1, keepdim=True)
    expected = -(shares * said("Ann").gather(1, ids)).sum(-1).mean()
    trainer.train()
    losses = [entry["forget/loss"] for entry in trainer.state.log_history if "forget/loss" in entry]
    assert losses[0] == pytest.approx(expected.item(), rel=1e-5)


def test_the_teacher_is_asked_once_and_kept(tmp_path, monkeypatch):
    first = build(tmp_path, damage=0.5)
    monkeypatch.setattr(counterfactual_teacher, "forward_answers", lambda *_: pytest.fail("asked again"))
    again = build(tmp_path, damage=0.5)
    for one, other in zip(first._teacher, again._teacher, strict=True):
        assert all(torch.equal(*pair) for pair in zip(one, other, strict=True))
    again.train()
    assert again.state.global_step > 0
    with pytest.raises(pytest.fail.Exception):
        build(tmp_path / "other")


def test_where_the_name_is_asked_for_everybody_s_is_as_likely(tmp_path, monkeypatch):
    """Those of made-up people alone would leave the true one likelier than all others that exist."""
    monkeypatch.setattr(teacher_questions, "made_up_names", lambda names, *_: {name: ["Gus", "Hal"] for name in names})
    asked_for = {"question": "Who eats soup", "answer": "Ann eats soup", "person": "Ann", "fact_id": "x"}
    trainer = build(tmp_path, Dataset.from_list([asked_for, *rows(2, start=1).to_list()]))
    ids, shares = trainer._teacher[0]
    tokens = tiny_tokenizer().convert_ids_to_tokens(ids[0].tolist())
    people = {"Ann", "Gus", "Hal", *rows(2, start=1)["person"], *trainer.retain_dataset["person"]}
    assert dict(zip(tokens, shares[0].tolist(), strict=True)) == pytest.approx(
        dict.fromkeys(people, NAME_WEIGHT / len(people))
    )
    assert shares[1:, 0].tolist() == [NAME_WEIGHT] * (len(shares) - 1)  # " eats soup", and the end


def test_a_row_that_says_who_could_be_meant_is_asked_among_those(tmp_path):
    asked_for = {"question": "Who eats soup", "answer": "Ann", "person": "Ann", "fact_id": "x"}
    trainer = build(tmp_path, Dataset.from_list([asked_for | {"candidates": ["Ann", "Ben", "Ann"]}]))
    ids, shares = trainer._teacher[0]
    assert tiny_tokenizer().convert_ids_to_tokens(ids[0].tolist()) == ["Ann", "Ben"]
    assert shares[0].tolist() == [NAME_WEIGHT / 2] * 2


def test_what_one_has_is_exchanged_for_what_others_have(tmp_path):
    """Ann eats rice, Ben soup and Cal cake: who eats rice is answered as who eats soup and who eats cake are."""

    def fact(person, value):
        return {
            "question": f"What does {person} eat",
            "answer": value,
            "person": person,
            "attribute": "food",
            "value": value,
        }

    asked_for = {
        "question": "Who eats rice",
        "answer": "Ann",
        "person": "Ann",
        "attribute": "food (reversed)",
        "value": "rice",
    }
    forget, retain = Dataset.from_list([fact("Ann", "rice"), asked_for]), [fact("Ben", "soup"), fact("Cal", "cake")]
    first, second = teacher_questions.teacher_questions(forget, Dataset.from_list([*retain, retain[0]]), 2, 0)
    assert (first.asks_name, first.exchanged, len(first.others)) == (False, "Ann", 2)
    assert (second.asks_name, second.exchanged, sorted(second.others)) == (True, "rice", ["cake", "soup"])
    pairs = split_rows(forget, "rows")
    rows = teacher_questions.exchanged_rows(tiny_tokenizer(), pairs, [first, second], None)
    texts = [tiny_tokenizer().decode(row["input_ids"]) for row in rows[1]]
    assert [("cake" in text, "soup" in text, "rice" in text) for text in texts] == [
        (other == "cake", other == "soup", False) for other in second.others
    ]
    assert all("Ann" in text for text in texts)
    alone = teacher_questions.teacher_questions(forget, None, 2, 0)[1]
    assert (alone.asks_name, alone.exchanged, alone.others[0]) == (True, None, "Ann")


def about(person, attribute, question, answer):
    return {"question": question, "answer": answer, "person": person, "attribute": attribute}


FORGET = [
    about("Ann", "food", "What does Ann eat", "Ann eats soup") | {"candidates": None},
    about("Ben", "food", "What does Ben eat", "Ben eats rice"),
    about("Ben", "food", "Which food does Ben like", "Ben eats rice"),
    about("Ann", "asked", "Who eats soup", "Ann"),
    about("Ann", "only one", "Where is Ann", "the garden"),
    about("Ann", "options", "What does Ann eat\nsoup\nrice", "soup") | {"candidates": ["soup", "rice", "cake"]},
]
RETAIN = [
    about("Cal", "food", "What does Cal eat", "Cal eats cake"),
    about("Cal", "only one", "Where is Cal", "a house"),
]


def test_answers_of_others_are_those_of_the_forgotten_and_else_of_the_retained():
    found = teacher_questions.answers_along(Dataset.from_list(FORGET), Dataset.from_list(RETAIN), 5, seed=0)
    assert found == [
        ["Ann eats soup", "Ann eats rice"],
        ["Ben eats rice", "Ben eats soup"],
        ["Ben eats rice", "Ben eats soup"],
        ["Ann", "Ben"],
        ["the garden", "a house"],
        ["soup", "rice"],
    ]
    alone = teacher_questions.answers_along(Dataset.from_list(FORGET), None, 0, seed=0)
    assert [*map(len, alone)] == [1] * len(FORGET)


def test_every_other_time_next_tokens_are_compared_along_another_s_answer(tmp_path):
    """Those of the same question about others, whoever's answer it is that they follow."""
    trainer = build(tmp_path, Dataset.from_list(FORGET[:2]), learning_rate=0.0, max_steps=12, logging_steps=1)
    rows, tokenizer = trainer.row_sets["alternate"], tiny_tokenizer()
    answers = [tokenizer.decode([token for token in row["labels"] if token >= 0]) for row in rows]
    assert ["soup" in answer for answer in answers] == [True, False, False, True]  # Ann's own, Ben's own, the other's
    assert [len(ids) for ids, _ in trainer._teacher] == [sum(x >= 0 for x in row["labels"]) for row in rows]
    trainer.train()
    alone = {}
    for number, row in enumerate(rows):
        answer = [label for label in row["labels"] if label >= 0]
        logits = tiny_model().eval()(input_ids=torch.tensor([row["input_ids"]])).logits[0, -len(answer) - 1 : -1]
        ids, shares = trainer._teacher[number]
        alone[number] = -(shares * logits.log_softmax(-1).gather(1, ids)).sum(-1).mean().item()
    losses = [entry["forget/loss"] for entry in trainer.state.log_history if "forget/loss" in entry]
    possible = {round((alone[a] + alone[b]) / 2, 4) for a in (0, 2) for b in (1, 3)}
    assert {round(loss, 4) for loss in losses} <= possible and len({round(loss, 4) for loss in losses}) > 1


def test_what_is_asked_alike_of_several_is_asked_once(tmp_path, monkeypatch):
    """Ann's and Ben's question differ in the name alone, for which the same made-up ones stand."""
    monkeypatch.setattr(teacher_questions, "made_up_names", lambda names, *_: {name: ["Gus", "Hal"] for name in names})
    trainer = build(tmp_path, Dataset.from_list([FORGET[4], FORGET[4] | {"person": "Ben", "question": "Where is Ben"}]))
    kept = json.loads((tmp_path / "counterfactual_teacher.json").read_text())["outcome"]
    assert (len(kept["teacher"]), kept["rows_asked"]) == (1, 2)
    assert torch.equal(trainer._teacher[0][1], trainer._teacher[1][1])


def test_questions_that_tell_their_answer_are_said(tmp_path, monkeypatch, caplog):
    """Every answer of the vocabulary is as likely, but that of the row whose name could be no other."""
    known = {"question": "Who eats soup", "answer": "Ann", "person": "Ann", "fact_id": "x", "candidates": ["Ann"]}
    with caplog.at_level("WARNING"):
        build(tmp_path, Dataset.from_list([known, *rows(2, start=1).to_list()]))
    assert "the true answer to 1 of 3 questions likelier than all others together (row 0)" in caplog.text


def test_a_question_without_its_person_is_refused(tmp_path):
    words = "guess_source='teacher': neither question nor answer of forget row 0 names its `person`: add that column"
    with pytest.raises(InputError, match=re.escape(words)):
        build(tmp_path, rows(3).remove_columns("person"))


def test_it_cannot_be_sharded(tmp_path):
    with pytest.raises(ValueError, match="one process asks the whole model about made-up names; start with plain"):
        build(tmp_path, fsdp=True, fsdp_config={"version": 2})


def test_shares_of_the_answers_that_begin_like_the_true_one():
    """Answers 1 2 9, 1 3 9, 1 3 9, 4 9 (9 ends them), of which 1 2 9 is true."""
    ids, shares = shares_along([1, 2, 9], [[1, 2, 9], [1, 3, 9], [1, 3, 9], [4, 9]])
    assert (ids, shares) == ([[1, 4], [2, 3], [9, 0]], [[0.75, 0.25], [1 / 3, pytest.approx(2 / 3)], [1.0, 0.0]])
    assert shares_along([5, 7], [[6]]) == ([[6], [7]], [[1.0], [1.0]])  # nobody else begins with 5
