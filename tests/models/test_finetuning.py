"""The supervised loop: its loss, its order of rows, what it trains and what it leaves alone."""

import copy

import pytest
import torch
from builders import encoded_rows, largest_difference, tiny_model, trainable, with_trained_adapter

from llm_unlearn.errors import DivergenceError, InputError
from llm_unlearn.models import finetuning
from llm_unlearn.models.answers import forward_answers
from llm_unlearn.models.finetuning import finetune, forget_progress
from llm_unlearn.models.precision import with_master_weights
from llm_unlearn.models.scoring import score_answers

OPTIONS = {"learning_rate": 1e-2, "batch_size": 2, "seed": 0}


def trained(rows=None, model=None, **options):
    model = model or tiny_model()
    finetune(model, rows or encoded_rows(5), **{"steps": 7} | OPTIONS | options)
    return trainable(model)


def test_one_step_is_adamw_on_the_token_mean_of_answers():
    rows, model, reference = encoded_rows(2), tiny_model(), tiny_model()
    finetune(model, rows, **OPTIONS | {"steps": 1, "max_grad_norm": 1e9})
    scores = []
    for row in rows:
        labels = torch.tensor([row["labels"]])
        logits = reference(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1]
        scores.append(torch.nn.functional.cross_entropy(logits, labels[0, 1:], reduction="sum"))
    (sum(scores) / sum(label != -100 for row in rows for label in row["labels"])).backward()
    torch.optim.AdamW(reference.parameters(), lr=1e-2, weight_decay=0.0).step()
    # Adam's first step is as large as the learning rate wherever the gradient is clear of rounding.
    for mine, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        clear = theirs.grad.abs() > 1e-4
        assert clear.any()
        torch.testing.assert_close(mine[clear], theirs[clear], atol=1e-5, rtol=1e-4)


def test_long_rows_run_apart_and_weigh_the_same(monkeypatch):
    short, long = encoded_rows(5), [{"input_ids": [4] * 40, "labels": [-100] * 38 + [4] * 2}]
    passes = []

    def counted(model, batch):
        passes.append(tuple(batch["input_ids"].shape))
        return forward_answers(model, batch)

    monkeypatch.setattr(finetuning, "forward_answers", counted)
    rows, options = [short[0], *long, *short[1:]], {"steps": 3, "batch_size": 6}
    apart = trained(rows, **options)
    assert [rows for rows, _ in passes] == [5, 1] * 3
    monkeypatch.setattr(finetuning, "_by_length", lambda rows: [rows])
    assert largest_difference(apart, trained(rows, **options)) < 1e-3  # the learning rate is 1e-2


def test_rows_of_similar_length_run_together():
    rows = encoded_rows(5)
    assert finetuning._by_length(rows) == [rows]
    assert finetuning._by_length(rows[:1]) == [rows[:1]]


def test_gradients_are_clipped():
    assert largest_difference(trained(max_grad_norm=1e-12), trainable(tiny_model())) < 1e-4
    assert largest_difference(trained(), trainable(tiny_model())) > 1e-2


def test_equal_seeds_give_equal_models_and_others_do_not():
    assert largest_difference(trained(), trained()) == 0.0
    assert largest_difference(trained(), trained(seed=1)) > 1e-3


def test_row_orders_and_after_step():
    steps, epochs = [], []

    def only_first_three(epoch):
        epochs.append(epoch)
        return [0, 1, 2]

    weights = trained(row_orders=only_first_three, after_step=steps.append)
    assert steps == [1, 2, 3, 4, 5, 6, 7] and epochs == [0, 1, 2, 3]  # two steps an epoch
    fewer = trained(rows=encoded_rows(3), row_orders=lambda _epoch: [0, 1, 2])
    assert largest_difference(weights, fewer) == 0.0


def test_only_trainable_parameters_change_and_the_model_ends_in_evaluation_mode():
    model = with_trained_adapter(tiny_model())
    before = copy.deepcopy(model.state_dict())
    finetune(model, encoded_rows(5), steps=3, **OPTIONS)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if "lora_" in name}
    assert not model.training


def test_warmup_and_schedule():
    flat = trained(steps=1)
    start = trainable(tiny_model())
    assert largest_difference(flat, start) == pytest.approx(1e-2, rel=1e-3)
    warming = trained(steps=1, warmup_steps=10, scheduler="constant_with_warmup")
    assert largest_difference(warming, start) == 0.0  # the first step of a warm-up has a learning rate of zero
    warmer = trained(steps=2, warmup_steps=10, scheduler="constant_with_warmup")
    assert 0 < largest_difference(warmer, start) < 2e-3  # the second one a tenth
    assert largest_difference(trained(steps=3, scheduler="linear"), trained(steps=3)) > 1e-3


def test_a_loss_that_diverges_is_an_error():
    with pytest.raises(DivergenceError, match=r"fine-tuning diverged at step 2; lower its learning rate 1e\+30"):
        trained(learning_rate=1e30)


def test_it_memorizes():
    model, rows = tiny_model(), encoded_rows(6)
    finetune(model, rows, learning_rate=5e-3, steps=60, batch_size=6, seed=0)
    assert all(score.exact_match and score.probability > 0.9 for score in score_answers(model, rows))


def gradients_of(monkeypatch, model, rows, **options):
    """The gradients of one step."""
    found = []

    def keep(parameters, _norm):
        found.append([parameter.grad.clone() for parameter in parameters])

    monkeypatch.setattr(finetuning.nn.utils, "clip_grad_norm_", keep)
    finetune(model, rows, **OPTIONS | {"steps": 1, "batch_size": 8} | options)
    return found[0]


LONG_ROWS = [*encoded_rows(7), {"input_ids": [4] * 40, "labels": [-100] * 30 + [4] * 10}]


@pytest.mark.parametrize("size", [1, 3, 8, 99])
def test_micro_batches_have_the_gradient_of_the_whole_batch(monkeypatch, size):
    """Rows of different lengths, so that a mean of means would be another."""
    whole = gradients_of(monkeypatch, tiny_model(), LONG_ROWS)
    passes = []

    def counted(model, batch):
        passes.append(len(batch["input_ids"]))
        return forward_answers(model, batch)

    monkeypatch.setattr(finetuning, "forward_answers", counted)
    parts = gradients_of(monkeypatch, tiny_model(), LONG_ROWS, micro_batch_size=size)
    assert passes == {1: [1] * 8, 3: [3, 3, 1, 1], 8: [7, 1], 99: [7, 1]}[size]
    for mine, theirs in zip(parts, whole, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["full", "lora", "bfloat16"])
def test_activation_checkpointing_has_the_same_gradient(monkeypatch, kind):
    make = {
        "full": tiny_model,
        "lora": lambda: with_trained_adapter(tiny_model()),
        "bfloat16": lambda: with_master_weights(tiny_model().to(torch.bfloat16), torch.bfloat16),
    }[kind]
    plain, model = gradients_of(monkeypatch, make(), LONG_ROWS), make()
    recomputed = []
    handle = model.get_input_embeddings().register_forward_hook(lambda *_: recomputed.append("embeddings"))
    blocks = [module for name, module in model.named_modules() if name.endswith("layers.0.mlp")]
    blocks[0].register_forward_pre_hook(lambda *_: recomputed.append("block"))
    checkpointed = gradients_of(monkeypatch, model, LONG_ROWS, activation_checkpointing=True)
    handle.remove()
    assert recomputed.count("block") == 2 * recomputed.count("embeddings") == 4  # short and long rows, twice each
    assert not model.is_activation_checkpointing
    for mine, theirs in zip(checkpointed, plain, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=0)


def test_a_model_without_activation_checkpointing_is_refused(monkeypatch):
    model = tiny_model()
    monkeypatch.setattr(type(model), "supports_gradient_checkpointing", False)
    with pytest.raises(InputError, match=r"activation checkpointing: LlamaForCausalLM does not .+ without it"):
        finetune(model, encoded_rows(2), **OPTIONS, steps=1, activation_checkpointing=True)


def test_updates_smaller_than_half_a_last_digit_are_lost():
    """Just below 1, bfloat16 has steps of 1/256, and just below 1/8 of 1/2048: an update of 1e-3 moves only the latter.

    AdamW's first step is the learning rate times the gradient's sign. The third weight has no gradient to lose.
    """
    for dtype, expected in ((torch.bfloat16, 0.5), (torch.float32, 0.0)):
        weights = torch.nn.Parameter(torch.tensor([1.0, 0.125, 1.0], dtype=dtype))
        optimizer = torch.optim.AdamW([weights], lr=1e-3, weight_decay=0.0)
        weights.grad = torch.tensor([2.0, 0.5, 0.0], dtype=dtype)
        assert finetuning._lost_updates(optimizer) == pytest.approx(expected, abs=1e-3)
        assert (weights[0] == 1.0) == (expected == 0.5) and weights[1] < 0.125 and weights[2] == 1.0
    still = torch.nn.Parameter(torch.ones(3))
    still.grad = torch.zeros(3)
    assert finetuning._lost_updates(torch.optim.AdamW([still, torch.nn.Parameter(torch.ones(2))])) == 0.0


class Killed(BaseException):
    """Stands in for the end of a process."""


@pytest.mark.parametrize("killed_after", [1, 3, 6])
def test_an_interrupted_training_goes_on_to_the_same_end(tmp_path, monkeypatch, killed_after):
    monkeypatch.setattr(finetuning, "SAVE_SECONDS", 0)
    model = tiny_model()
    options = {"steps": 7, "scheduler": "cosine", "warmup_steps": 2, "weight_decay": 0.1, **OPTIONS}
    file = tmp_path / "training.progress"
    whole = copy.deepcopy(model)
    finetune(whole, encoded_rows(5), **options)

    def die(step):
        if step == killed_after + 1:
            raise Killed

    with pytest.raises(Killed):
        finetune(copy.deepcopy(model), encoded_rows(5), **options, progress_file=file, after_step=die)
    assert file.is_file() and [path.name for path in tmp_path.iterdir()] == [file.name]
    steps, resumed = [], copy.deepcopy(model)
    finetune(resumed, encoded_rows(5), **options, progress_file=file, after_step=steps.append)
    assert steps == list(range(killed_after, 8)) and file.exists()  # until the model is saved
    file.with_name(f"{file.name}.unfinished").touch()  # as a kill leaves it
    forget_progress(file)
    assert not [*tmp_path.iterdir()]
    assert all(torch.equal(one, other) for one, other in zip(resumed.parameters(), whole.parameters(), strict=True))


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("unexpected pos 64 vs 0")])
def test_a_disk_that_is_full_costs_the_resumption_alone(error, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(finetuning, "SAVE_SECONDS", 0)
    options = {"steps": 3, **OPTIONS}
    whole, model = tiny_model(), tiny_model()
    finetune(whole, encoded_rows(5), **options)

    def full(_states, path):
        path.write_bytes(b"half of it")
        raise error

    monkeypatch.setattr(finetuning.torch, "save", full)
    finetune(model, encoded_rows(5), **options, progress_file=tmp_path / "training.progress")
    assert not [*tmp_path.iterdir()] and "training goes on, but cannot be written down" in caplog.text
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), whole.parameters(), strict=True))
