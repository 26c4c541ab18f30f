"""RMU: its loss by a plain forward, what it trains, and what it leaves as it was."""

import copy

import pytest
import torch
from builders import FAMILIES, arguments, lora_config, qa_rows, step_logs, tiny_model, tiny_tokenizer, trainable

from llm_unlearn import InputError, RMUConfig, RMUTrainer
from llm_unlearn.data.collators import FORGET, GENERAL, RETAIN
from llm_unlearn.models.answers import Answers, forward_answers
from llm_unlearn.training.losses import hidden_states_loss


def build(folder, *, model=None, lora=False, general=5, **changes):
    return RMUTrainer(
        model=tiny_model() if model is None else model,
        args=arguments(RMUConfig, folder, **{"layer": 1} | changes),
        forget_dataset=qa_rows(7),
        retain_dataset=qa_rows(9, start=20),
        general_dataset=qa_rows(general, start=10) if general else None,
        processing_class=tiny_tokenizer(),
        peft_config=lora_config() if lora else None,
    )


def hidden_states(model, rows, layer):
    """Of every answer token's predecessor, by transformers' own output_hidden_states, row by row."""
    found = []
    for row in rows:
        with torch.no_grad():
            states = model(input_ids=torch.tensor([row["input_ids"]]), output_hidden_states=True).hidden_states
        positions = [i for i, label in enumerate(row["labels"][1:]) if label != -100]
        found.append(states[layer + 1][0, positions])
    return torch.cat(found)


def mean_squared(states, targets):
    return ((states - targets) ** 2).mean()


def test_the_loss_of_a_hidden_state_is_its_mean_squared_difference():
    states = torch.tensor([[1.0, 2.0], [0.0, -1.0]])
    assert hidden_states_loss(states, torch.tensor([1.0, 0.0]), "none").tolist() == [2.0, 1.0]
    assert hidden_states_loss(states.bfloat16(), torch.tensor([1.0, 0.0])).dtype == torch.float32


def test_what_is_frozen_stays_so_after_the_reference_has_run(tmp_path):
    """PEFT would train an adapter again that was switched off and on."""
    trainer = build(tmp_path, lora=True)
    first = next(parameter for name, parameter in trainer.model.named_parameters() if "lora_A" in name)
    first.requires_grad_(False)
    before = [parameter.requires_grad for parameter in trainer.model.parameters()]
    with trainer.reference.running():
        pass
    assert [parameter.requires_grad for parameter in trainer.model.parameters()] == before


@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_states_are_those_of_the_answer_positions(family, tmp_path):
    """Whether rows run apart or together, and whatever the logits are made in."""
    trainer = build(tmp_path, model=tiny_model(family), layer=0, per_device_train_batch_size=7, num_train_epochs=1)
    model = trainer.model.eval()
    batch = next(iter(trainer.get_train_dataloader()))
    order = zip(batch["roles"].tolist(), batch["indices"].tolist(), strict=True)
    names = {FORGET: "forget", RETAIN: "retain", GENERAL: "general"}
    rows = [trainer.row_sets[names[role]][index] for role, index in order]
    expected = hidden_states(model, rows, 0)
    for options in ({}, {"split_roles": True}, {"split_roles": True, "split_long": True}, {"chunk_size": 3}):
        answers = forward_answers(model, batch, hidden_layers=[0], **options)
        torch.testing.assert_close(answers.hidden_states[0], expected, atol=1e-5, rtol=1e-4)
        forget = answers.forget.hidden_states[0]
        torch.testing.assert_close(forget, expected[: len(forget)], atol=1e-5, rtol=1e-4)
    assert forward_answers(model, batch).hidden_states == {}


@pytest.mark.parametrize("lora", [False, True])
def test_the_losses_are_those_of_the_formula(lora, tmp_path):
    base = tiny_model()
    trainer = build(
        tmp_path,
        model=copy.deepcopy(base),
        lora=lora,
        layer=0,  # what transformers calls the last hidden state has gone through the final norm
        per_device_train_batch_size=7,
        num_train_epochs=3,
        learning_rate=3e-3,
        steering_coefficient=6.5,
        forget_weight=2.0,
        retain_weight=3.0,
    )
    direction = trainer.target / 6.5
    assert direction.norm().item() == pytest.approx(1.0) and (direction >= 0).all()
    drawn, expected, compute = [], [], trainer.compute_loss

    def watched(model, inputs, **keywords):
        roles, indices = inputs["roles"].tolist(), inputs["indices"].tolist()
        of = {role: [i for r, i in zip(roles, indices, strict=True) if r == role] for role in (FORGET, RETAIN, GENERAL)}
        drawn.append(of)
        trainer.model.eval()
        forget = hidden_states(trainer.model, [trainer.forget_rows[i] for i in of[FORGET]], 0)
        losses = {"forget/loss": mean_squared(forget, trainer.target)}
        for name, role in (("retain", RETAIN), ("general", GENERAL)):
            rows = [trainer.row_sets[name][i] for i in of[role]]
            losses[f"{name}/loss"] = mean_squared(hidden_states(trainer.model, rows, 0), hidden_states(base, rows, 0))
        trainer.model.train()
        expected.append({name: value.item() for name, value in losses.items()})
        return compute(model, inputs, **keywords)

    trainer.compute_loss = watched
    trainer.train()
    lines = step_logs(trainer)
    assert len(lines) == len(expected) == 3
    for line, losses in zip(lines, expected, strict=True):
        total = 2 * losses["forget/loss"] + 3 * losses["retain/loss"] + losses["general/loss"]
        for name, value in (losses | {"loss": total}).items():
            assert line[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name
    assert lines[0]["retain/loss"] == pytest.approx(0.0, abs=1e-8) and lines[-1]["retain/loss"] > 1e-6
    assert lines[-1]["forget/loss"] < lines[0]["forget/loss"]


def test_other_losses_keep_retain_and_general_rows_if_asked_to(tmp_path):
    trainer = build(tmp_path, retain_loss="nll", general_loss="kl", num_train_epochs=1)
    trainer.train()
    first = step_logs(trainer)[0]
    assert first["retain/loss"] > 1 and first["general/loss"] == pytest.approx(0.0, abs=1e-6)
    assert trainer.train_dataset[0, 0, 0].keys() == {"forget", "retain", "general"}
    nothing = build(tmp_path / "none", retain_loss="none", general=0)
    nothing.train()
    assert "retain/loss" not in step_logs(nothing)[0] and not nothing.reference.compared_roles


@pytest.mark.parametrize(("lora", "layer"), [(False, 1), (False, 0), (True, 0)])
def test_only_blocks_up_to_the_steered_one_are_trained(lora, layer, tmp_path):
    trainer = build(tmp_path, lora=lora, layer=layer)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trained = set(trainable(trainer.model))
    if lora:
        assert trained and all(".layers.0." in name and "lora_" in name for name in trained)
    else:
        assert trained == {f"model.layers.{number}.mlp.down_proj.weight" for number in range(layer + 1)}
    trainer.train()
    after = trainer.model.state_dict()
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed and changed <= trained
    assert (changed == trained) or lora


def test_forget_rows_are_led_astray_and_retain_rows_stay(tmp_path):
    base = tiny_model()
    trainer = build(
        tmp_path,
        model=copy.deepcopy(base),
        layer=0,
        num_train_epochs=60,
        learning_rate=3e-3,
        steering_coefficient=4.0,
        retain_weight=5.0,
        general=0,
    )
    trainer.train()
    moved = {}
    for name in ("forget", "retain"):
        now, was = (hidden_states(model, trainer.row_sets[name], 0) for model in (trainer.model, base))
        moved[name] = mean_squared(now, was).item()
    assert moved["forget"] > 5 * moved["retain"]


def test_the_direction_is_the_seed_s(tmp_path):
    first, again, other = (build(tmp_path, seed=seed).target for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert first.norm().item() == pytest.approx(20.0)


def test_settings_that_cannot_be(tmp_path):
    with pytest.raises(InputError, match=r"layer=2: the model has no such block; it has blocks 0 to 1"):
        build(tmp_path, layer=2)
    with pytest.raises(ValueError, match=r"layer=-1 must be 0 or more"):
        RMUConfig(str(tmp_path), layer=-1)
    with pytest.raises(ValueError, match=r"retain_loss='hidden' is unknown; choose one of hidden_states, nll, kl, n"):
        RMUConfig(str(tmp_path), retain_loss="hidden")
    with pytest.raises(ValueError, match=r"general_loss='none' is unknown; choose one of hidden_states, nll, kl"):
        RMUConfig(str(tmp_path), general_loss="none")


def test_roles_divide_hidden_states_too():
    states = {0: torch.arange(8.0).reshape(4, 2)}
    answers = Answers(
        torch.zeros(4, 3),
        torch.zeros(4, dtype=torch.long),
        torch.tensor([0, 0, 1, 1]),
        torch.tensor([FORGET, RETAIN]),
        hidden_states=states,
        reference_hidden_states=states,
    )
    assert answers.retain.hidden_states[0].tolist() == [[4.0, 5.0], [6.0, 7.0]]
    assert answers.forget.reference_hidden_states[0].tolist() == [[0.0, 1.0], [2.0, 3.0]]
