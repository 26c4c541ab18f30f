"""Every method's loss and gradient of all weights, against its paper's formula in float64, row by row without padding.

The formulas are written out once more here, on what a plain forward of transformers gives; nothing of the package's own
losses, batches or answer positions takes part.
"""

import copy
import json
import math
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from builders import encoded_rows, step_logs, tiny_model
from trainers import build

from llm_unlearn.models.finetuning import finetune

FORGET_WEIGHT, RETAIN_WEIGHT = 0.7, 1.3
BETA = 0.4


@dataclass
class Said:
    """Of the T answer tokens of a row: the logits that predict them, (T, vocabulary), and the first block's outputs."""

    logits: torch.Tensor
    states: torch.Tensor
    labels: torch.Tensor

    @property
    def logps(self):
        return self.logits.log_softmax(-1)[range(len(self.labels)), self.labels]

    @property
    def nll(self):
        return -self.logps.sum()


def said(model, row):
    output = model(input_ids=torch.tensor([row["input_ids"]]), output_hidden_states=True)
    places = [place - 1 for place, label in enumerate(row["labels"]) if label != -100]
    labels = torch.tensor([label for label in row["labels"] if label != -100])
    return Said(output.logits[0, places], output.hidden_states[1][0, places], labels)


def one_hot(row):
    return torch.nn.functional.one_hot(row.labels, row.logits.shape[1]).double()


# ---- formulas: of a row now and before, and of its other answer now and before; one value per row or token ----------


def gradient_ascent(now, before, other):
    return now.logps


def npo(now, before, other):
    return 2 / BETA * (1 + (BETA * (before.nll - now.nll)).exp()).log()[None]


def npo_per_token(now, before, other):
    return npo(now, before, other) / len(now.labels)


def dpo(now, before, other):
    preferred = other[1].nll - other[0].nll  # log of the ratio of the other answer's probabilities
    margin = preferred - (before.nll - now.nll)
    return 2 / BETA * (1 + (-BETA * margin).exp()).log()[None]


def dpo_per_token(now, before, other):
    return dpo(now, before, other) / len(now.labels)


def trained_on_the_other(now, before, other):
    return (other[0].nll / len(other[0].labels))[None]


def simnpo(now, before, other):
    return 2 / BETA * (1 + (-BETA * (now.nll / len(now.labels) - 0.3)).exp()).log()[None]


def undial(now, before, other):
    target = (before.logits - 2.5 * one_hot(before)).softmax(-1)
    return -(target * now.logits.log_softmax(-1)).sum(-1)


def wga(now, before, other):
    return now.logps.detach().exp() ** 0.5 * now.logps


def satimp(now, before, other):
    p = now.logps.detach().exp()
    return p**2.0 * (1 - p) ** 0.5 * now.logps


def ce_u(now, before, other):
    p = now.logits.detach().softmax(-1) * (1 - one_hot(now))
    return -(p / p.sum(-1, keepdim=True) * now.logits.log_softmax(-1)).sum(-1)


def maxent(now, before, other):
    p = now.logits.softmax(-1)
    return (p * (p * p.shape[1]).log()).sum(-1)  # KL(p || 1 / V)


def pdu(now, before, other):
    return (now.logits.max(-1).values - now.logits.sum(-1) / now.logits.shape[1]) ** 2


def rmu_towards(target, now):
    return ((now.states - target) ** 2).sum(-1) / now.states.shape[1]


CASES = {
    "gradient_ascent": ({}, gradient_ascent),
    "npo, answer": ({"beta": BETA, "forget_loss_unit": "answer"}, npo),
    "npo, token": ({"beta": BETA, "retain_loss": "kl"}, npo_per_token),
    "dpo, answer": ({"beta": BETA, "forget_loss_unit": "answer"}, dpo),
    "dpo, token": ({"beta": BETA}, dpo_per_token),
    "altpo": ({"beta": BETA}, dpo_per_token),
    "idk": ({}, trained_on_the_other),
    "relabel": ({}, trained_on_the_other),
    "simnpo": ({"beta": BETA, "delta": 0.3}, simnpo),
    "undial": ({"beta": 2.5, "retain_loss": "kl"}, undial),
    "wga": ({"beta": 0.5}, wga),
    "satimp": ({"beta1": 2.0, "beta2": 0.5}, satimp),
    "ce_u": ({}, ce_u),
    "maxent": ({}, maxent),
    "pdu": ({"epsilon": 0.5, "dual_warmup_steps": 9}, pdu),
    "rmu": ({"layer": 0, "steering_coefficient": 3.0}, None),
    "rmu, adaptive": ({"layer": 0, "steering_coefficient": 3.0, "adaptive": True}, None),
    "whp": ({"reinforce_steps": 4, "reinforce_learning_rate": 1e-2}, None),
}


def model_for(name):
    """Random weights; for WHP some that know the rows, so that reinforcing them lowers what they say."""
    model = tiny_model()
    if name == "whp":
        finetune(model, encoded_rows(2), learning_rate=1e-2, steps=4, batch_size=2, seed=0)
    return model


def prepared(name, folder):
    """A trainer that has its reference, and weights that are not the reference's; two rows of each set."""
    options, formula = CASES[name]
    weights = {"forget_weight": FORGET_WEIGHT, "retain_weight": RETAIN_WEIGHT}
    trainer = build(
        name.partition(",")[0],
        folder,
        model=model_for(name),
        lora=False,
        forget=2,
        retain=2,
        per_device_train_batch_size=2,
        learning_rate=0.0,  # a run that changes nothing, but prepares all that a method has
        max_steps=1,
        **weights | options,
    )
    before = copy.deepcopy(trainer.model).double()
    trainer.train()
    trainer.model.eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    trainer.model.zero_grad()
    trainer.log_sums.clear()
    return trainer, before, formula


def mean_of_rows(formula, now, before, rows, others):
    """A mean over all values, of which a row has one, or one for each token."""
    values = []
    for row, other in zip(rows, others or [None] * len(rows), strict=True):
        with torch.no_grad():
            was = said(before, row), other and said(before, other)
        values.append(formula(said(now, row), was[0], (other and said(now, other), was[1])))
    return torch.cat(values).mean()


def cross_entropy(now, before, other):
    return -now.logps


def kl(now, before, other):
    p = before.logits.softmax(-1)
    return (p * (before.logits.log_softmax(-1) - now.logits.log_softmax(-1))).sum(-1)


def kept_states(now, before, other):
    return rmu_towards(before.states, now)


def generic_formula(trainer, before):
    """WHP's labels: of a copy that is trained further, AdamW on both rows at once, gradients cut to length 1."""
    reinforced = copy.deepcopy(before)
    optimizer = torch.optim.AdamW(reinforced.parameters(), lr=1e-2, weight_decay=0.0)
    for _ in range(4):
        (-torch.cat([said(reinforced, row).logps for row in trainer.forget_rows]).mean()).backward()
        torch.nn.utils.clip_grad_norm_(reinforced.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    labels = []
    with torch.no_grad():
        for row in trainer.forget_rows:
            v, raised = said(before, row).logits, said(reinforced, row).logits
            labels.append((v - 5.0 * torch.clamp(raised - v, min=0)).argmax(-1))
    kept = json.loads(Path(trainer.args.output_dir, "generic_labels.json").read_text())
    assert kept["outcome"]["labels"] == [one.tolist() for one in labels]
    true = [said(before, row) for row in trainer.forget_rows]
    assert any(not torch.equal(one, row.labels) for one, row in zip(labels, true, strict=True))
    assert any(not torch.equal(one, row.logits.argmax(-1)) for one, row in zip(labels, true, strict=True))
    by_row = {tuple(row.labels.tolist()): one for one, row in zip(labels, true, strict=True)}

    def formula(now, before, other):
        generic = by_row[tuple(now.labels.tolist())]
        return -now.logits.log_softmax(-1)[range(len(generic)), generic]

    return formula


def rmu_formula(trainer):
    direction = torch.rand(32, generator=torch.Generator().manual_seed(trainer.args.seed)).double()
    direction = direction / (direction**2).sum().sqrt()

    def formula(now, before, other):
        size = (before.states**2).sum(-1, keepdim=True).sqrt() if trainer.args.adaptive else 1.0
        return rmu_towards(3.0 * size * direction, now)

    return formula


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradient_are_those_of_the_formula(name, tmp_path):
    trainer, before, formula = prepared(name, tmp_path)
    if name.startswith("rmu"):
        formula = rmu_formula(trainer)
    if name == "whp":
        formula = generic_formula(trainer, before)
    keeping = {"nll": cross_entropy, "kl": kl, "hidden_states": kept_states}[trainer.args.retain_loss]

    (batch,) = trainer.get_train_dataloader()
    assert len({int(mask.sum()) for mask in batch["attention_mask"]}) > 1  # there is padding
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()

    now = copy.deepcopy(trainer.model).double()
    now.zero_grad()
    rows = trainer.row_sets
    parts = {
        "forget": mean_of_rows(formula, now, before, rows["forget"], rows["alternate"]),
        "retain": mean_of_rows(keeping, now, before, rows["retain"], None),
    }
    total = FORGET_WEIGHT * parts["forget"] + RETAIN_WEIGHT * parts["retain"]
    total.backward()

    logged = {part: trainer.log_sums.sums[f"{part}/loss"][0].item() for part in parts}
    assert logged == pytest.approx({part: value.item() for part, value in parts.items()}, rel=1e-5)
    assert loss.item() == pytest.approx(total.item(), rel=1e-5)
    expected = {n: p.grad for n, p in now.named_parameters() if p.requires_grad}
    size = math.sqrt(sum(float((gradient**2).sum()) for gradient in expected.values()))
    assert size > 1e-3
    for parameter_name, parameter in trainer.model.named_parameters():
        if parameter.requires_grad:
            difference = (parameter.grad.double() - expected[parameter_name]).norm().item()
            assert difference < 1e-5 * size, parameter_name
        else:
            assert parameter.grad is None


@pytest.mark.parametrize("name", ["npo, answer", "undial", "altpo", "whp"])
def test_a_run_begins_with_the_formula_at_the_reference(name, tmp_path):
    """The first log line: what a method compares with is the model itself."""
    options, formula = CASES[name]
    options = options | {"model": model_for(name), "lora": False, "forget": 2, "retain": 2}
    trainer = build(name.partition(",")[0], tmp_path, learning_rate=0.0, max_steps=1, **options)
    before = copy.deepcopy(trainer.model).double()
    trainer.train()
    if name == "whp":
        formula = generic_formula(trainer, before)
    rows = trainer.row_sets
    expected = mean_of_rows(formula, before, before, rows["forget"], rows["alternate"]).item()
    assert step_logs(trainer)[0]["forget/loss"] == pytest.approx(expected, rel=1e-5)
