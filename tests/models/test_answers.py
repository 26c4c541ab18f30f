"""Logits at answer positions only, all at once and in chunks."""

import copy

import pytest
import torch
from builders import (
    FAMILIES,
    arguments,
    lora_config,
    mixed_batch,
    qa_rows,
    step_logs,
    tiny_model,
    tiny_tokenizer,
    trainable,
    with_trained_adapter,
)
from torch import nn
from transformers import AutoModelForCausalLM, Gemma2Config

from llm_unlearn import NPOConfig, NPOTrainer, SAMConfig, SAMTrainer, SsiuuConfig
from llm_unlearn.data.collators import FORGET, GENERAL, RETAIN, pad_rows
from llm_unlearn.errors import InputError
from llm_unlearn.models.answers import answer_token_logps, chunked_token_logps, forward_answers
from llm_unlearn.speed.measurement import AllocatedBytes


@torch.no_grad()
def naive_answers(model, batch):
    """Every row alone, without padding, all logits: (logits before answer tokens, answer tokens)."""
    logits, labels = [], []
    for ids, mask, row_labels in zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True):
        ids, row_labels = ids[mask.bool()], row_labels[mask.bool()]
        is_answer = row_labels[1:] != -100
        logits.append(model(input_ids=ids[None]).logits[0, :-1][is_answer])
        labels.append(row_labels[1:][is_answer])
    return torch.cat(logits), torch.cat(labels)


@pytest.mark.parametrize("split_roles", [False, True])
@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_answer_logits_are_those_of_the_full_forward(family, adapted, split_roles):
    model, batch = tiny_model(family), mixed_batch(filler=1)
    if adapted:
        base, model = model, with_trained_adapter(model)
        assert not torch.allclose(naive_answers(base, batch)[0], naive_answers(model, batch)[0], atol=1e-2)
    assert len(set(batch["attention_mask"].sum(1).tolist())) > 2  # rows of different lengths
    with torch.no_grad():
        answers = forward_answers(model, batch, split_roles=split_roles)
    logits, labels = naive_answers(model, batch)
    torch.testing.assert_close(answers.logits, logits, atol=1e-5, rtol=1e-5)
    assert answers.labels.tolist() == labels.tolist()


def test_answers_by_row_and_role():
    model, batch = tiny_model(), mixed_batch(forget=3, retain=2)
    with torch.no_grad():
        answers = forward_answers(model, batch)
    logits, labels = naive_answers(model, batch)
    logps = logits.log_softmax(-1).gather(1, labels[:, None])[:, 0]
    lengths = [3, 2, 4, 3, 2]
    assert answers.lengths.tolist() == lengths
    per_row = torch.stack([part.sum() for part in logps.split(lengths)])
    torch.testing.assert_close(answers.logps, per_row, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(answers.forget.logps, per_row[:3], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(answers.retain.logps, per_row[3:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(answers.retain.logits, logits[9:], atol=1e-5, rtol=1e-5)
    assert answers.retain.token_rows.tolist() == [0, 0, 0, 1, 1]
    answers.reference_logps = torch.arange(5.0)
    answers.reference_logits = logits
    for name in ("forget", "retain"):
        del answers.__dict__[name]
    assert answers.retain.reference_logps.tolist() == [3.0, 4.0]
    assert answers.forget.reference_logits.shape == (9, logits.shape[1])


def test_rows_keep_their_numbers():
    """Of their own set each; -1 of filler, and none where a batch has none."""
    batch = mixed_batch(forget=3, retain=2, filler=1)
    for options in ({}, {"split_roles": True}, {"chunk_size": 2}):
        answers = forward_answers(tiny_model(), batch, **options)
        assert answers.indices.tolist() == [0, 1, 2, -1, 0, 1]
        assert answers.forget.indices.tolist() == [0, 1, 2] and answers.retain.indices.tolist() == [0, 1]
    del batch["indices"]
    assert forward_answers(tiny_model(), batch).forget.indices is None


def test_gradients_are_the_same_together_and_split():
    gradients = []
    for split_roles in (False, True):
        model = tiny_model()
        answers = forward_answers(model, mixed_batch(), split_roles=split_roles)
        (answers.forget.logps.sum() - 2 * answers.retain.logps.sum()).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-4, rtol=1e-4)


def test_a_batch_of_one_role_runs_split_too():
    model, batch = tiny_model(), mixed_batch(forget=3, retain=0)
    with torch.no_grad():
        expected = forward_answers(model, batch).logits
        torch.testing.assert_close(forward_answers(model, batch, split_roles=True).logits, expected)
        batch["roles"] = torch.full_like(batch["roles"], FORGET + 1)
        torch.testing.assert_close(forward_answers(model, batch, split_roles=True).logits, expected)


def test_logits_are_computed_at_answer_positions_only():
    model, batch, seen = tiny_model(), mixed_batch(), []
    model.lm_head.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0].shape))
    forward_answers(model, batch)
    assert seen == [(14, 32)]  # 14 answer tokens of a batch of 5 x 12 tokens


def test_the_model_is_itself_again_afterwards():
    model, batch = tiny_model(), mixed_batch()
    ids = batch["input_ids"]
    before = model(input_ids=ids).logits
    forward_answers(model, batch)
    assert "forward" not in model.__dict__
    assert torch.equal(model(input_ids=ids).logits, before)

    broken = dict(batch, input_ids=torch.full_like(ids, 10**6))
    with pytest.raises(IndexError):
        forward_answers(model, broken)
    assert "forward" not in model.__dict__
    assert torch.equal(model(input_ids=ids).logits, before)


def test_a_forward_that_was_replaced_before_stays_in_place():
    model, batch, calls = tiny_model(), mixed_batch(), []
    original = model.forward

    def replacement(*args, **kwargs):  # what Accelerate does for mixed precision
        calls.append(1)
        return original(*args, **kwargs)

    model.forward = replacement
    forward_answers(model, batch)
    assert model.forward is replacement and len(calls) == 1


def test_a_model_without_output_embedding_is_an_error():
    model = tiny_model()
    model.get_output_embeddings = lambda: None
    with pytest.raises(InputError, match="LlamaForCausalLM has no output embedding"):
        forward_answers(model, mixed_batch())


# ---- in chunks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk_size", [1, 3, 7, 100])
def test_chunks_give_the_same_log_probabilities_and_gradients(chunk_size):
    torch.manual_seed(0)
    head, labels = nn.Linear(8, 50, dtype=torch.float64), torch.randint(50, (7,))
    hidden = torch.randn(7, 8, dtype=torch.float64, requires_grad=True)
    weights = torch.arange(1.0, 8.0, dtype=torch.float64)
    expected = answer_token_logps(head(hidden), labels)
    found = chunked_token_logps(head, hidden, labels, chunk_size)
    torch.testing.assert_close(found, expected)
    inputs = [hidden, head.weight, head.bias]
    for mine, theirs in zip(
        *(torch.autograd.grad((weights * x).sum(), inputs) for x in (found, expected)), strict=True
    ):
        torch.testing.assert_close(mine, theirs)


def test_half_precision_keeps_the_digits_of_float32():
    torch.manual_seed(0)
    head, hidden = nn.Linear(8, 50, dtype=torch.bfloat16), torch.randn(7, 8, dtype=torch.bfloat16)
    found = chunked_token_logps(head, hidden, torch.zeros(7, dtype=torch.long), 2)
    assert found.dtype == torch.float32
    assert not torch.equal(found, found.bfloat16().float())


def test_chunks_hold_one_chunk_of_logits_at_a_time():
    hidden, head = torch.randn(64, 4, requires_grad=True), nn.Linear(4, 5000, bias=False).requires_grad_(False)
    labels = torch.zeros(64, dtype=torch.long)
    peaks = []
    for size in (64, 4):
        with AllocatedBytes() as allocated:
            chunked_token_logps(head, hidden, labels, size).sum().backward()
        peaks.append(allocated.peak)
    logits = 64 * 5000 * 4  # bytes of all of them
    assert peaks[0] > 2 * logits
    assert peaks[1] < logits / 4


@pytest.mark.parametrize("split_roles", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_answers_in_chunks_are_those_of_all_logits(family, split_roles):
    model, batch = with_trained_adapter(tiny_model(family)), mixed_batch(filler=1)
    with torch.no_grad():
        expected = forward_answers(model, batch, split_roles=split_roles)
        found = forward_answers(model, batch, split_roles=split_roles, chunk_size=4)
    assert found.logits is None
    assert found.forget.logits is None
    torch.testing.assert_close(found.token_logps, expected.token_logps, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.retain.logps, expected.retain.logps, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("lora", [True, False])
@pytest.mark.parametrize(("trainer_class", "config_class"), [(NPOTrainer, NPOConfig), (SAMTrainer, SAMConfig)])
def test_a_run_in_chunks_is_the_same_run(trainer_class, config_class, lora, tmp_path):
    runs = []
    for size in (None, 3):
        trainer = trainer_class(
            model=tiny_model(),
            args=arguments(config_class, tmp_path / str(size), logits_chunk_size=size),
            forget_dataset=qa_rows(6),
            retain_dataset=qa_rows(6, start=20),
            processing_class=tiny_tokenizer(),
            peft_config=lora_config() if lora else None,
        )
        trainer.train()
        runs.append((step_logs(trainer), trainable(trainer.model)))
    for whole, chunked in zip(runs[0][0], runs[1][0], strict=True):
        assert chunked == pytest.approx(whole, rel=1e-4, abs=1e-6)
    for name, weight in runs[0][1].items():
        torch.testing.assert_close(runs[1][1][name], weight, atol=1e-4, rtol=1e-3)


def test_chunks_are_made_in_the_precision_of_training(tmp_path):
    first_steps = []
    for size in (None, 3):
        trainer = NPOTrainer(
            model=tiny_model(),
            args=arguments(NPOConfig, tmp_path / str(size), logits_chunk_size=size, bf16=True, max_steps=1),
            forget_dataset=qa_rows(6),
            retain_dataset=qa_rows(6, start=20),
            processing_class=tiny_tokenizer(),
        )
        trainer.train()
        first_steps.append(step_logs(trainer)[0])
    assert first_steps[1] == pytest.approx(first_steps[0], rel=1e-2)


def test_a_model_that_caps_its_logits_is_refused(tmp_path):
    config = Gemma2Config(
        vocab_size=len(tiny_tokenizer()),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        intermediate_size=48,
        initializer_range=1.0,
        final_logit_softcapping=5.0,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    data = {"forget_dataset": qa_rows(4), "retain_dataset": qa_rows(4, start=20)}
    with pytest.raises(InputError, match=r"logits_chunk_size=8: Gemma2ForCausalLM changes its logits after the output"):
        NPOTrainer(
            model=copy.deepcopy(model),
            args=arguments(NPOConfig, tmp_path, logits_chunk_size=8),
            **data,
            processing_class=tiny_tokenizer(),
        )
    NPOTrainer(model=model, args=arguments(NPOConfig, tmp_path), **data, processing_class=tiny_tokenizer())


@pytest.mark.parametrize(
    ("config_class", "changes", "message"),
    [
        (NPOConfig, {"logits_chunk_size": 0}, "logits_chunk_size=0 must be 1 or more"),
        (NPOConfig, {"logits_chunk_size": 8, "retain_loss": "kl"}, "keeps no logits, which retain_loss='kl' compares"),
        (SsiuuConfig, {"logits_chunk_size": 8}, "logits_chunk_size=8 keeps no logits to attribute"),
        (NPOConfig, {"use_liger_kernel": True}, "use_liger_kernel=True: its kernels run on GPUs only"),
    ],
)
def test_what_chunks_and_fused_kernels_cannot_do_is_refused(config_class, changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        arguments(config_class, tmp_path, **changes)


def test_long_general_rows_run_apart_and_say_the_same():
    """Rows of 4, 5, 6 and 20 tokens: as one group 4 x 20 = 80, with the last apart 3 x 6 + 20 = 38."""
    model, lengths = tiny_model(), []
    rows = [{"input_ids": [3 + i % 20 for i in range(n)], "labels": [-100] * (n - 2) + [5, 1]} for n in (4, 5, 6, 20)]
    batch = pad_rows(rows, 1) | {"roles": torch.tensor([FORGET, RETAIN, GENERAL, GENERAL])}
    handle = model.get_input_embeddings().register_forward_hook(lambda _, ids, out: lengths.append(tuple(ids[0].shape)))
    together, apart, by_role = (
        forward_answers(model, batch, **settings)
        for settings in ({}, {"split_long": True}, {"split_long": True, "split_roles": True})
    )
    assert lengths == [(4, 20), (3, 6), (1, 20), (1, 4), (2, 6), (1, 20)]
    for answers in (apart, by_role):
        torch.testing.assert_close(answers.logits, together.logits)
        assert torch.equal(answers.labels, together.labels) and torch.equal(answers.token_rows, together.token_rows)
    chunked = forward_answers(model, batch, chunk_size=3, split_long=True)
    torch.testing.assert_close(chunked.token_logps, together.token_logps)
    lengths.clear()
    forward_answers(model, {name: value[:3] for name, value in batch.items()}, split_long=True)
    forward_answers(model, batch | {"roles": torch.tensor([FORGET, RETAIN, RETAIN, RETAIN])}, split_long=True)
    assert lengths == [(3, 6), (4, 20)]  # nothing to spare there; and rows to keep are never split
    handle.remove()
