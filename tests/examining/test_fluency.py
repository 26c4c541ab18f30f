"""Fluency: repeated words and the threshold by literals, the original's view of an answer computed again."""

import pytest
from builders import encoded_rows, qa_rows, tiny_model, tiny_tokenizer
from datasets import Dataset

from llm_unlearn.data import encode_dataset
from llm_unlearn.examining import fluency
from llm_unlearn.examining.fluency import (
    FLUENCY,
    MADE_UP_NAMES,
    fluency_records,
    fluency_threshold,
    repeats,
    well_formed,
)
from llm_unlearn.models.finetuning import finetune
from llm_unlearn.models.scoring import score_answers


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", False),
        ("the the the", False),  # thrice
        ("the the the the", True),
        ("he said the the the the end", True),
        ("a b a b a b", False),
        ("x a b a b a b a b", True),
        ("a b a b a b a c", False),
        ("one two three four five six seven eight " * 4, True),
        ("one two three four five six seven eight nine " * 4, False),  # longer than what is looked for
        ("no no. no no.", False),
        ("东京东京东京", False),  # thrice
        ("他说东京东京东京东京", True),
    ],
)
def test_repeats_by_hand(text, expected):
    assert repeats(text) is expected


def record(*values, repeated=()):
    rows = {str(i): {"avg_logp": value, "repeats": i in repeated} for i, value in enumerate(values)}
    return {"value_by_index": rows}


def test_the_threshold_is_the_fifth_percentile_of_all_answers_that_are_well_formed():
    first = record(*(-float(i) for i in range(11)))  # 0 to -10
    second = record(*(-float(i) for i in range(11, 21)), None, -99.0, repeated=(11,))  # -11 to -20; empty; repeated
    assert fluency_threshold([first, second]) == pytest.approx(-19.0)  # 20 steps between 21 values: the first of them
    assert fluency_threshold([]) is None and fluency_threshold([record(None)]) is None


def test_an_answer_is_well_formed_if_it_is_likely_enough_and_says_something_once():
    found = record(-1.0, -2.0, -2.1, None, -1.0, repeated=(4,))
    assert well_formed(found, -2.0) == [1.0, 1.0, 0.0, 0.0, 0.0]


def test_a_refusal_is_well_formed_however_unlikely_unless_it_repeats():
    found = record(-1.0, -9.0, -9.0, -9.0, repeated=(3,))
    refusals = {"value_by_index": {str(i): {"score": score} for i, score in enumerate((0.0, 1.0, 0.0, 1.0))}}
    assert well_formed(found, -2.0, refusals) == [1.0, 1.0, 0.0, 0.0]


@pytest.fixture(scope="module")
def original():
    model = tiny_model()
    finetune(model, encoded_rows(6), learning_rate=5e-3, steps=40, batch_size=6, seed=0)
    return model


def said(*texts):
    return {"forget_Q_A_ROUGE": {"value_by_index": {str(i): {"generation": text} for i, text in enumerate(texts)}}}


def test_answers_of_every_model_are_scored_by_the_original_and_empty_ones_have_no_score(original):
    texts = {"unlearned": ("in Oslo", "", "a a a a"), "original": ("in Paris", "rice", "a red cat")}
    records = {model: said(*given) for model, given in texts.items()} | {"oracle": {}}
    found = fluency_records(original, tiny_tokenizer(), qa_rows(3), records, made_up_names=False)
    assert set(found) == {"unlearned", "original"} and set(found["original"]) == {FLUENCY}
    for model, given in texts.items():
        for row, (question, text) in enumerate(zip(qa_rows(3)["question"], given, strict=True)):
            value = found[model][FLUENCY]["value_by_index"][str(row)]
            assert value["repeats"] is (text == "a a a a")
            if not text:
                assert value["avg_logp"] is None
                continue
            encoded = encode_dataset([{"question": question, "answer": text}], tiny_tokenizer(), None, "row")
            assert value["avg_logp"] == pytest.approx(score_answers(original, encoded)[0].mean_logp, abs=1e-5)


def test_plain_text_is_scored_as_text(original):
    forget = Dataset.from_dict({"text": ["Where does Ann live", "in Paris"]})
    found = fluency_records(
        original, tiny_tokenizer(), forget, {"unlearned": said("in Oslo", "")}, made_up_names=True, max_new_tokens=4
    )
    values = found["unlearned"][FLUENCY]["value_by_index"]
    encoded = encode_dataset([{"text": "in Oslo"}], tiny_tokenizer(), None, "row")
    assert values["0"]["avg_logp"] == pytest.approx(score_answers(original, encoded)[0].mean_logp, abs=1e-5)
    assert values["1"]["avg_logp"] is None and set(found) == {"unlearned"}


def test_without_an_oracle_the_original_is_asked_about_people_who_do_not_exist(original, monkeypatch):
    people = ["Ann Lee", "Ben Ode", "Cal Roe"]
    forget = Dataset.from_dict(
        {"question": [f"Where does {name} live" for name in people], "answer": ["in Rome"] * 3, "person": people}
    )
    asked, real = [], fluency.encode_prompt
    monkeypatch.setattr(
        fluency, "encode_prompt", lambda tokenizer, prompt: asked.append(prompt) or real(tokenizer, prompt)
    )
    records = {"original": said("in Rome", "in Rome", "in Rome")}
    found = fluency_records(original, tiny_tokenizer(), forget, records, made_up_names=True, max_new_tokens=4)
    assert set(found["original"]) == {FLUENCY, MADE_UP_NAMES}
    assert len(found["original"][MADE_UP_NAMES]["value_by_index"]) == 3
    for (message,) in asked:
        name = message["content"].removeprefix("Where does ").removesuffix(" live")
        first, last = name.split()
        assert name not in people and {first, last} <= {part for person in people for part in person.split()}
    nameless = fluency_records(
        original, tiny_tokenizer(), forget.remove_columns("person"), records, made_up_names=True, max_new_tokens=4
    )
    assert set(nameless["original"]) == {FLUENCY}
