"""The speed measurement of training: what it counts, what it refuses, and one tiny run. No test asserts a time."""

import json
import sys

import pytest
import torch

from llm_unlearn.data import encode_dataset
from llm_unlearn.errors import InputError
from llm_unlearn.methods import load_methods
from llm_unlearn.speed.measurement import AllocatedBytes
from llm_unlearn.speed.training import PLAIN, counted_passes, head_share, training_speed
from llm_unlearn.speed.training_table import COLUMNS, markdown_table
from llm_unlearn.speed.workload import (
    TrainingSpeedArguments,
    measured_methods,
    method_trainer,
    random_llama,
    random_rows,
)

TINY = ["--vocabulary=40", "--hidden_size=64", "--layers=1", "--row_length=12", "--answer_tokens=3", "--batch_size=1"]


@pytest.mark.parametrize(
    ("name", "full", "lora"),
    [
        (None, 3.0, 2.0),
        # Half of the weights in the output embedding, a quarter of the positions: 1/2 + 1/2 * 1/4 = 5/8 of each pass.
        ("npo", 3 * 5 / 8, 2 * 5 / 8),
        ("gradient_ascent", 3 * 5 / 8, 2 * 5 / 8),
        # Half of the weights at a quarter of the positions once more: 1/8.
        ("npo_chunked", 3 * 5 / 8 + 1 / 8, 2 * 5 / 8 + 1 / 8),
        # Half of the rows once more, forward and backward.
        ("sam", 3 * 5 / 8 * 3 / 2, 2 * 5 / 8 * 3 / 2),
        ("dpo", 3 * 5 / 8 * 3 / 2, 2 * 5 / 8 * 3 / 2),
        ("relabel", 3 * 5 / 8, 2 * 5 / 8),  # the other answers are in the forgotten ones' place
        # Half of the rows forward alone, of the reference.
        ("undial", 3.5 * 5 / 8, 2.5 * 5 / 8),
        # Half of the rows take no part.
        ("retain_only", 1.5 * 5 / 8, 1.0 * 5 / 8),
        # One more pass of half the rows through the blocks, which are half of the weights: 1/4.
        ("ssiuu", 3 * 5 / 8 + 1 / 4, 2 * 5 / 8 + 1 / 4),
    ],
)
def test_counted_passes(name, full, lora):
    method = measured_methods()[name] if name else None
    assert counted_passes(method, False, 1 / 2, 1 / 4) == full
    assert counted_passes(method, True, 1 / 2, 1 / 4) == lora


def test_every_method_can_take_its_turn(tmp_path):
    """On one model that all share, whose weights and what of them is trained stay as they are."""
    arguments = TrainingSpeedArguments(
        vocabulary=40, hidden_size=64, layers=1, row_length=12, answer_tokens=3, batch_size=2, block_steps=1
    )
    assert set(load_methods()) - set(measured_methods()) == {"cmf", "rewind", "rmu", "undo"}
    tokenizer, model = random_llama(arguments)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    datasets = [random_rows(arguments, 2, seed) for seed in (0, 1)]
    own_ways = ("pdu", "retain_only", "task_vector", "undial", "whp")  # into a step; the others only take their place
    for name, measured in measured_methods().items():
        trainer = method_trainer(measured, arguments, model, tokenizer, datasets, str(tmp_path / name))
        if name in own_ways:
            trainer.train()
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_with_answers_everywhere_only_the_extra_backward_is_left():
    assert counted_passes(measured_methods()["npo"], False, 0.5, 1.0) == 3.0
    assert counted_passes(measured_methods()["ssiuu"], True, 0.0, 1.0) == 2.5


def test_rows_and_model_are_of_the_sizes_asked_for():
    arguments = TrainingSpeedArguments(vocabulary=40, hidden_size=64, layers=2, row_length=12, answer_tokens=3)
    tokenizer, model = random_llama(arguments)
    rows = encode_dataset(random_rows(arguments, 4, seed=0), tokenizer, None, "rows")
    assert [len(row["input_ids"]) for row in rows] == [12] * 4
    assert [sum(label != -100 for label in row["labels"]) for row in rows] == [3] * 4
    assert max(max(row["input_ids"]) for row in rows) < len(tokenizer) == model.config.vocab_size == 40
    block = 4 * 64 * 64 + 3 * 64 * 192
    assert head_share(model) == pytest.approx(40 * 64 / (40 * 64 + 2 * block))


def test_the_default_model_has_about_thirty_million_parameters():
    with torch.device("meta"):
        _, model = random_llama(TrainingSpeedArguments())
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(29.2e6, rel=0.01)


def test_allocated_bytes_by_hand():
    before = torch.zeros(100)
    with AllocatedBytes() as allocated:
        before.mul_(2)  # in place: nothing new
        first = before + 1  # 400 bytes
        view = first[:50]
        second = first * 2  # 400 more
        del second
        third = view.double()  # 50 numbers of 8 bytes: the peak stays at 800
        assert allocated.held == 800
        del first, view, third
    assert (allocated.held, allocated.peak) == (0, 800)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--methods", "npo", "nothing"],
            "methods: 'nothing' is unknown; choose from altpo, ce_u, counterfactual",
        ),
        (["--repeats=0"], "repeats=0 must be 1 or more"),
        (["--threads=0"], "threads=0 must be 1 or more"),
        (["--hidden_size=100"], "hidden_size=100 must be a multiple of 64"),
        (["--vocabulary=5"], "vocabulary=5 must be more than 5"),
        (["--answer_tokens=124"], "answer_tokens=124 must be at least 2 and leave more than 4 of the row_length=128"),
        (["--answer_tokens=1"], "answer_tokens=1 must be at least 2"),
        (["--dtype=float16"], "dtype: 'float16' .* give one of float32, bfloat16"),
        (["--full_finetuning=false", "--lora=false"], "nothing is left to measure"),
        (["--repeat=3"], "did you mean --repeats"),
    ],
)
def test_refused_arguments(flags, message):
    with pytest.raises(InputError, match=message):
        training_speed("speed", flags)


def test_markdown_table():
    found = {"seconds": 2.0, "seconds_over_plain": 1.0, "flops_over_plain": 1.0, "floor_over_plain": 1.0}
    found |= {"peak_bytes": 2**30, "peak_over_plain": 1.0}
    half = {"seconds": 1.0004, "seconds_over_plain": 0.5, "flops_over_plain": 0.4, "floor_over_plain": 0.3}
    half |= {"peak_bytes": 2**20, "peak_over_plain": 0.001}
    measured = {
        "config": {"training_speed": {"dtype": "float32", "batch_size": 4, "row_length": 128, "answer_tokens": 40}},
        "parameters": 29_200_000,
        "head_share": 0.565,
        "device": "cpu",
        "threads": 2,
        "settings": {"lora": {PLAIN: found, "npo": half}},
    }
    assert markdown_table(measured).splitlines() == [
        "29.2 M parameters (56% of the linear weights in the output embedding), float32, on cpu (2 threads); "
        "4 forget + 4 retain rows of 128 tokens, 40 of them answer tokens",
        "",
        f"| lora | {' | '.join(COLUMNS)} |",
        "|---|---:|---:|---:|---:|---:|---:|",
        "| plain supervised | 2.000 | 1.00 | 1.00 | 1.00 | 1,024 | 1.00 |",
        "| npo | 1.000 | 0.50 | 0.40 | 0.30 | 1 | 0.00 |",
    ]


def test_a_run_of_the_command(tmp_path, capsys):
    flags = ["--methods", "npo", "ssiuu", "--block_steps=1", "--repeats=2", "--threads=1", f"--output_dir={tmp_path}"]
    measured = training_speed("speed", [*TINY, *flags])
    assert json.loads((tmp_path / "train.json").read_text()) == json.loads(json.dumps(measured))
    assert list(measured["settings"]) == ["full_finetuning", "lora"]
    for found in measured["settings"].values():
        assert list(found) == [PLAIN, "npo", "ssiuu"]
        assert found[PLAIN]["seconds_over_plain"] == found[PLAIN]["flops_over_plain"] == 1.0
        assert all(len(trainer["seconds_per_block"]) == 2 for trainer in found.values())
        assert found["npo"]["flops"] < found[PLAIN]["flops"]  # the output embedding at 3 of 12 positions
        assert found["npo"]["flops"] < found["ssiuu"]["flops"]
        assert all(trainer["peak_bytes"] > 0 for trainer in found.values())
    # Counted by hand, in multiply-adds, two operations each: products of weights, then those inside attention.
    full, length, rows = measured["settings"]["full_finetuning"], 12, 2
    block, head, attention = 4 * 64 * 64 + 3 * 64 * 192, 40 * 64, 2 * length * 64
    forward = rows * length * (block + head + attention)
    backward = rows * length * (2 * block + 2 * head + 2.5 * attention)  # attention computes its scores again
    assert full[PLAIN]["flops"] == 2 * (forward + backward)
    assert "x plain" in capsys.readouterr().out
    assert (tmp_path / "table.md").read_text() == markdown_table(measured)


PEER = """
from transformers import Trainer

class NPO(Trainer):
    def __init__(self, beta, **arguments):
        super().__init__(**arguments)

    def compute_loss(self, model, inputs, return_outputs=False):
        forget, retain = (model(**inputs[role]).loss for role in ("forget", "retain"))
        return retain - forget
"""


def test_trainers_of_a_checkout_take_turns_with_ours(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "trainer"]:
        monkeypatch.delitem(sys.modules, name)
    place = tmp_path / "src" / "trainer" / "unlearn"
    place.mkdir(parents=True)
    (place / "npo.py").write_text(PEER)
    small = [*TINY, "--methods", "npo", "wga", "--full_finetuning=false", "--block_steps=5", "--repeats=1"]
    output = ["--output_dir", str(tmp_path / "out"), "--open_unlearning"]
    with pytest.raises(InputError, match=r"open_unlearning='.*' has no src/trainer/unlearn/wga\.py; give a checkout"):
        training_speed("", [*small, *output, str(tmp_path)])
    small.remove("wga")
    found = training_speed("", [*small, *output, str(tmp_path)])["settings"]["lora"]
    assert [*found] == [PLAIN, "npo", "open-unlearning npo"]
    assert found["open-unlearning npo"]["flops_over_plain"] == pytest.approx(1.0, rel=0.01)  # logits everywhere
