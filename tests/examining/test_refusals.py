"""Which questions are refused: the sample of retained ones, and shares by hand."""

import pytest
from builders import encoded_rows, qa_rows, tiny_model, tiny_tokenizer
from datasets import Dataset

from llm_unlearn.data import encode_prompt
from llm_unlearn.examining import refusals
from llm_unlearn.examining.refusals import refusal_records, refusal_shares, refusal_words, retain_answers
from llm_unlearn.models.finetuning import finetune
from llm_unlearn.models.scoring import generate_answers


def test_a_sample_of_retained_questions_is_answered_and_cut_off_early(monkeypatch):
    model, tokenizer, rows = tiny_model(), tiny_tokenizer(), qa_rows(40)
    finetune(model, encoded_rows(40), learning_rate=5e-3, steps=40, batch_size=20, seed=0)
    monkeypatch.setattr(refusals, "MOST_ROWS", 6)
    found = retain_answers(model, tokenizer, rows, 24)["retain_answers"]["value_by_index"]
    numbers = list(map(int, found))
    assert len(set(numbers)) == 6 and numbers == sorted(numbers)
    assert [*retain_answers(tiny_model(seed=1), tokenizer, rows, 24)["retain_answers"]["value_by_index"]] == [*found]
    asked = [encode_prompt(tokenizer, [{"role": "user", "content": rows[i]["question"]}]) for i in numbers]
    whole = generate_answers(model, tokenizer, asked, 24)
    assert [row["generation"] for row in found.values()] == whole
    monkeypatch.setattr(refusals, "FIRST_TOKENS", 1)
    found = retain_answers(model, tokenizer, rows, 24)["retain_answers"]["value_by_index"]
    assert [row["generation"] for row in found.values()] == [text.split()[0] for text in whole]


def test_rows_that_ask_nothing_are_not_answered():
    assert retain_answers(tiny_model(), tiny_tokenizer(), None, 24) == {}
    assert retain_answers(tiny_model(), tiny_tokenizer(), Dataset.from_list([{"text": "Ann lives in Paris"}]), 24) == {}


def said(**texts) -> dict:
    names = {"forget": "forget_Q_A_ROUGE", "retain": "retain_answers", "instructions": "instructions_Q_A_ROUGE"}
    return {
        names[name]: {"value_by_index": {str(3 * i): {"generation": text} for i, text in enumerate(given)}}
        for name, given in texts.items()
    }


def test_shares_by_hand():
    given = {
        "original": said(forget=["Paris", "Rome", "Oslo", "Lima"], retain=["Cairo", "I'm not sure."]),
        "oracle": said(forget=["Rome", "I don't know.", "Lima", "Lima"]),
        "unlearned": said(
            forget=["I don't know.", "That is private.", "the the", "Rome"],
            retain=["Cairo", "Ask the press."],
            instructions=["Sorry, I can't help with that.", "The sum is 35."],
        ),
    }
    records = {model: refusal_records(found, ["That is private."]) for model, found in given.items()}
    assert records["unlearned"]["forget_refusals"] == {
        "agg_value": 0.5,
        "value_by_index": {"0": {"score": 1.0}, "3": {"score": 1.0}, "6": {"score": 0.0}, "9": {"score": 0.0}},
    }
    assert refusal_shares(records) == {
        "original": {"forget": 0.0, "retain": 0.5},
        "oracle": {"forget": 0.25},
        "unlearned": {"forget": 0.5, "retain": 0.0, "instructions": 0.5},
    }
    assert refusal_words(records) == (
        "it refuses 0.50 of the forgotten questions (original 0.00), 0.00 of the retained ones (original 0.50), "
        "0.50 of the instructions"
    )
    assert refusal_shares({"unlearned": refusal_records(given["unlearned"])})["unlearned"]["forget"] == 0.25


@pytest.mark.parametrize("records", [{}, {"original": {"forget_refusals": {"value_by_index": {"0": {"score": 1.0}}}}}])
def test_nothing_is_said_where_no_unlearned_model_answered(records):
    assert refusal_words(records) is None
