"""Other answers that the model itself makes up: drawn by the seed, kept, and never the true one."""

import json

import pytest
import torch
from builders import arguments, qa_rows, tiny_model, tiny_tokenizer
from trainers import METHODS
from transformers import LlamaForCausalLM

from llm_unlearn import InputError
from llm_unlearn.data.alternates import is_same
from llm_unlearn.methods import sampled_answers

RECORD = METHODS["altpo"]


@pytest.fixture(autouse=True)
def short_answers(monkeypatch):
    monkeypatch.setattr(sampled_answers, "MOST_NEW_TOKENS", 4)


@pytest.fixture
def calls(monkeypatch):
    """How often something was generated."""
    made, generate = [], LlamaForCausalLM.generate
    monkeypatch.setattr(LlamaForCausalLM, "generate", lambda *a, **k: made.append(1) or generate(*a, **k))
    return made


def altpo(folder, *, model=None, forget=4, forget_dataset=None, **changes):
    return RECORD.trainer(
        model=tiny_model() if model is None else model,
        args=arguments(RECORD.config, folder, **changes),
        forget_dataset=qa_rows(forget) if forget_dataset is None else forget_dataset,
        retain_dataset=qa_rows(4, start=20),
        processing_class=tiny_tokenizer(),
    )


def said_instead(trainer):
    tokenizer = tiny_tokenizer()
    answers = [[label for label in row["labels"] if label != -100] for row in trainer.row_sets["alternate"]]
    return [tokenizer.decode(answer, skip_special_tokens=True).strip() for answer in answers]


def test_answers_are_drawn_by_the_seed_and_kept(calls, tmp_path):
    torch.manual_seed(1)
    first = altpo(tmp_path / "first")
    kept = json.loads((tmp_path / "first" / sampled_answers.FILE).read_text())["outcome"]["answers"]
    assert [" ".join(text.split()) for text in said_instead(first)] == [" ".join(text.split()) for text in kept]
    assert len(kept) == 4 and all(kept)
    assert not any(is_same(text, row["answer"]) for text, row in zip(kept, qa_rows(4), strict=True))
    drawn = len(calls)
    assert drawn > 0
    altpo(tmp_path / "first")
    assert len(calls) == drawn  # taken from the folder

    torch.manual_seed(2)
    assert said_instead(altpo(tmp_path / "again")) == said_instead(first)
    assert said_instead(altpo(tmp_path / "other", seed=4)) != said_instead(first)
    first.train()
    assert first.state.global_step == 2


def test_sampling_leaves_the_random_numbers_of_training_as_they_were(tmp_path):
    model, pairs = tiny_model(), [([{"role": "user", "content": "Where does Ann live"}], "in Paris")]
    torch.manual_seed(1)
    before = torch.get_rng_state()
    sampled_answers.sampled_answers(model, tiny_tokenizer(), pairs, seed=3)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_model_s_own_generation_settings_play_no_part(tmp_path):
    """They would make it say one thing again and again: temperature 1 means its whole distribution."""
    odd = tiny_model()
    odd.generation_config.update(do_sample=True, top_p=1e-6, repetition_penalty=50.0, bad_words_ids=[[7]])
    assert said_instead(altpo(tmp_path / "odd", model=odd)) == said_instead(altpo(tmp_path / "plain"))
    assert odd.generation_config.top_p == 1e-6


def test_a_column_goes_before_what_would_be_sampled(calls, tmp_path):
    rows = qa_rows(2).add_column("instead", ["in Rome", "cake"])
    trainer = altpo(tmp_path, forget_dataset=rows, alternate_column="instead")
    assert said_instead(trainer) == ["in Rome", "cake"] and not calls


def test_a_model_that_says_nothing_but_the_truth(monkeypatch, tmp_path):
    truth = [row["answer"] for row in qa_rows(4)]

    def sample(model, tokenizer, prompts, *_):
        asked = [prompt[0]["content"] for prompt in prompts]
        return [next((one.upper() for one in truth if f"Answer: {one}\n" in text), "") for text in asked]

    monkeypatch.setattr(sampled_answers, "sample", sample)
    words = (
        "replace_with='sampled': asked for another answer to forget row 0, the model gave the true one or none 8 times"
    )
    with pytest.raises(InputError, match=words):
        altpo(tmp_path)


def test_nothing_is_sampled_for_rows_that_are_refused(calls, tmp_path):
    with pytest.raises(InputError, match="rows of the forget set that are in the retain set too: 2"):
        RECORD.trainer(
            model=tiny_model(),
            args=arguments(RECORD.config, tmp_path),
            forget_dataset=qa_rows(2),
            retain_dataset=qa_rows(2),
            processing_class=tiny_tokenizer(),
        )
    assert not calls


def test_interrupted_sampling_goes_on_where_it_stopped(tmp_path, monkeypatch):
    model, tokenizer, answered = tiny_model(), tiny_tokenizer(), sampled_answers.continued
    prompts = [[{"role": "user", "content": row["question"]}] for row in qa_rows(8)]
    monkeypatch.setattr(sampled_answers, "BATCH_SIZE", 2)
    whole = sampled_answers.sample(model, tokenizer, prompts, 3, "sampling")
    batches = []

    def interrupted(*arguments):
        if len(batches) == 3:
            raise KeyboardInterrupt
        batches.append(arguments)
        return answered(*arguments)

    monkeypatch.setattr(sampled_answers, "continued", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sampled_answers.sample(model, tokenizer, prompts, 3, "sampling", tmp_path)
    monkeypatch.setattr(
        sampled_answers, "continued", lambda *arguments: batches.append(arguments) or answered(*arguments)
    )
    assert sampled_answers.sample(model, tokenizer, prompts, 3, "sampling", tmp_path) == whole
    assert len(batches) == 4 and len(set(whole)) > 1
