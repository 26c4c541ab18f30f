"""Damage: which weights change, by how much, and which outputs are chosen."""

import copy

import pytest
import torch
from builders import arguments, encoded_rows, qa_rows, tiny_model, tiny_tokenizer
from trainers import build, of_a_kind

from llm_unlearn import CounterfactualConfig, CounterfactualTrainer
from llm_unlearn.errors import InputError
from llm_unlearn.methods.damage import damage, influential_neurons, random_neurons, weights_for
from llm_unlearn.methods.ssiuu_published import PublishedSsiuuConfig
from llm_unlearn.methods.undo import UndoConfig
from llm_unlearn.models.linear_maps import linear_modules


def test_matrices_are_shrunk_and_blurred_and_norms_stay():
    before = tiny_model()
    after = copy.deepcopy(before)
    damage(after, 0.25, seed=1)
    for (name, old), new in zip(before.named_parameters(), after.parameters(), strict=True):
        if old.dim() != 2:
            assert torch.equal(old, new), name
            continue
        noise = (new - 0.75 * old).abs()  # 0.1 x 0.25 x U(-b, b)
        bound = 0.025 * (6 / sum(old.shape)) ** 0.5
        assert 0.9 * bound < noise.max() <= bound * (1 + 1e-4), name
        assert noise.mean().item() == pytest.approx(bound / 2, rel=0.1)


def test_experts_in_one_stack_are_matrices_like_any_other():
    mixture = torch.nn.Module()
    mixture.experts = torch.nn.Parameter(torch.ones(5, 30, 20))
    damage(mixture, 0.25, seed=1)
    noise = (mixture.experts - 0.75).abs()
    assert noise.max().item() == pytest.approx(0.025 * (6 / 50) ** 0.5, rel=0.02)


def test_equal_seeds_are_equal_and_zero_is_nothing():
    models = [tiny_model() for _ in range(4)]
    for model, (strength, seed) in zip(models, ((0.5, 1), (0.5, 1), (0.5, 2), (0.0, 1)), strict=True):
        damage(model, strength, seed)
    first, again, other, none = (torch.cat([p.flatten() for p in model.parameters()]) for model in models)
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(none, torch.cat([p.flatten() for p in tiny_model().parameters()]))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_only_the_chosen_outputs_of_a_map_are_damaged(family):
    before = tiny_model(family)
    after = copy.deepcopy(before)
    rows = encoded_rows(12)
    chosen = influential_neurons(before, rows[:4], rows[4:], 0.25, pad_token_id=1)
    damage(after, 0.5, 3, chosen)
    maps, damaged = linear_modules(before), linear_modules(after)
    assert chosen.keys() == maps.keys()
    for name, outputs in chosen.items():
        assert outputs.sum() == round(0.25 * len(outputs)), name
        change = (maps[name].weight - damaged[name].weight).abs()
        by_output = change.sum(1 if isinstance(maps[name], torch.nn.Linear) else 0)
        assert torch.equal(by_output > 0, outputs), name
    others = {id(module.weight) for module in damaged.values()}
    for old, new in zip(before.parameters(), after.parameters(), strict=True):
        assert id(new) in others or torch.equal(old, new)


def test_the_outputs_chosen_are_those_that_forget_rows_need_beside_retain_rows():
    """Against |h g| of each row alone, by autograd on the model's own logits."""
    model, rows = tiny_model(), encoded_rows(9)
    forget, retain = rows[:3], rows[3:]
    chosen = influential_neurons(model, forget, retain, 0.25, pad_token_id=1, batch_size=2)
    maps = linear_modules(model)

    def influence(row):
        outputs = []
        hooks = [one.register_forward_hook(lambda _m, _i, output: outputs.append(output)) for one in maps.values()]
        logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0].double()
        odds = []
        for position, label in enumerate(row["labels"]):
            if label != -100:
                p = logits[position - 1].softmax(-1)[label]
                odds.append((p / (1 - p)).log())
        for hook in hooks:
            hook.remove()
        gradients = torch.autograd.grad(torch.stack(odds).mean(), outputs)
        return [(h * g).abs().sum((0, 1)) for h, g in zip(outputs, gradients, strict=True)]

    sums = [[sum(parts) for parts in zip(*map(influence, part), strict=True)] for part in (forget, retain[::2][:3])]
    for (name, outputs), own, other in zip(chosen.items(), *sums, strict=True):
        ratio = own / (own + other)
        best = torch.zeros_like(outputs).index_fill(0, ratio.topk(int(outputs.sum())).indices, True)
        assert (best == outputs).float().mean() > 0.95, name  # but for ties


def test_the_control_takes_as_many_outputs_elsewhere():
    rows = encoded_rows(8)
    chosen = influential_neurons(tiny_model(), rows[:4], rows[4:], 0.25, pad_token_id=1)
    drawn = random_neurons(chosen, seed=0)
    assert {name: int(one.sum()) for name, one in drawn.items()} == {n: int(one.sum()) for n, one in chosen.items()}
    assert any(not torch.equal(drawn[name], chosen[name]) for name in chosen)
    again = random_neurons(chosen, seed=0)
    assert all(torch.equal(drawn[name], again[name]) for name in drawn)


# ---- towards the model that this one was fine-tuned from ------------------------------------------------------------


def test_towards_a_base_every_weight_goes_that_share_of_the_way():
    before, base = tiny_model(), tiny_model(seed=1)
    after = copy.deepcopy(before)
    damage(after, 0.25, seed=1, base=weights_for(after, base, "base"))
    for (name, old), new, there in zip(before.named_parameters(), after.parameters(), base.parameters(), strict=True):
        assert torch.allclose(new, 0.75 * old + 0.25 * there, atol=1e-6), name


def test_towards_a_base_only_the_chosen_outputs_move():
    before, base, rows = tiny_model(), tiny_model(seed=1), encoded_rows(12)
    after = copy.deepcopy(before)
    chosen = influential_neurons(before, rows[:4], rows[4:], 0.25, pad_token_id=1)
    damage(after, 1.0, 3, chosen, weights_for(after, base, "base"))
    old, new, there = (linear_modules(model) for model in (before, after, base))
    for name, outputs in chosen.items():
        assert torch.equal(new[name].weight[outputs], there[name].weight[outputs]), name
        assert torch.equal(new[name].weight[~outputs], old[name].weight[~outputs]), name


def test_a_base_of_another_shape_is_refused():
    with pytest.raises(InputError, match=r"damage_toward='x': .* has the shape .* give a checkpoint of the same model"):
        weights_for(tiny_model(), tiny_model("gpt2"), "damage_toward='x'")


@pytest.mark.parametrize("method", ["counterfactual", "undo"])
def test_a_trainer_moves_its_model_towards_a_base_before_its_first_step(method, tmp_path):
    base = tiny_model(seed=1)
    base.save_pretrained(tmp_path / "base")
    toward = {"damage": 1.0, "damage_toward": str(tmp_path / "base")}
    trainer = build(method, tmp_path / "run", lora=False, learning_rate=0.0, max_steps=1, **toward)
    assert not torch.equal(*(model.get_output_embeddings().weight for model in (trainer.model, base)))
    trainer.train()
    assert all(map(torch.equal, trainer.model.parameters(), base.parameters()))


def test_training_that_begins_again_damages_nothing_again(tmp_path):
    trainer = build("undo", tmp_path / "run", lora=False, learning_rate=0.0, max_steps=1, damage=0.5)
    trainer.train()
    once = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    trainer.train()
    assert all(map(torch.equal, trainer.model.parameters(), once))


@pytest.mark.parametrize("scope", ["influence", "random"])
def test_a_scope_that_compares_with_retain_rows_needs_them(scope, tmp_path):
    settings = arguments(CounterfactualConfig, tmp_path, damage=0.5, damage_scope=scope, retain_loss="none")
    data = {"forget_dataset": of_a_kind(qa_rows(4)), "processing_class": tiny_tokenizer()}
    with pytest.raises(InputError, match=f"damage_scope='{scope}' takes what forget rows need beside retain rows"):
        CounterfactualTrainer(tiny_model(), settings, **data)


def test_a_base_without_damage_is_refused(tmp_path):
    with pytest.raises(ValueError, match="damage_toward='base' without damage does nothing; give damage a share"):
        CounterfactualConfig(output_dir=str(tmp_path), damage_toward="base")


@pytest.mark.parametrize(
    ("config", "changes"), [(UndoConfig, {}), (CounterfactualConfig, {"damage": 0.1}), (PublishedSsiuuConfig, {})]
)
def test_what_needs_whole_matrices_refuses_to_shard_them(config, changes, tmp_path):
    with pytest.raises(ValueError, match=r"FSDP: .*; start with plain data parallelism"):
        arguments(config, tmp_path, fsdp=True, fsdp_config={"version": 2}, **changes)
