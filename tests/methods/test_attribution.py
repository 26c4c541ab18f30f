"""Neuron influence: values and gradients worked by hand on two neurons, then invariants on real architectures."""

import math

import pytest
import torch
from builders import FAMILIES, mixed_batch, tiny_model, with_trained_adapter
from torch import nn

from llm_unlearn.errors import InputError
from llm_unlearn.methods.attribution import (
    capture_outputs,
    influence,
    influence_sums,
    negative_influence_penalty,
    opposite,
    random_signs,
    shuffled_gradients,
    squared_pulls,
    without_attribution,
)
from llm_unlearn.models.answers import Answers, forward_answers
from llm_unlearn.models.linear_maps import linear_modules

LN2, LN6 = math.log(2), math.log(6)


class TwoNeurons(nn.Module):
    """One block with two neurons h = W x, which are the logits of a vocabulary of two tokens.

    W = (ln 6, ln 2): at x = 1 token 0 has probability p = 6 / (6 + 2) = 3/4.
    """

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(1, 2, bias=False)])
        with torch.no_grad():
            self.blocks[0].weight.copy_(torch.tensor([[LN6], [LN2]]))

    def answers(self, x, labels):
        """All positions of x (rows, length, 1) are answer positions; labels (rows, length), -100: none."""
        logits = self.blocks[0](x)
        token_rows, positions = torch.nonzero(labels != -100, as_tuple=True)
        roles = torch.zeros(len(x), dtype=torch.long)
        return Answers(logits[token_rows, positions], labels[token_rows, positions], token_rows, roles)


def captured(x, labels, model=None):
    model = model or TwoNeurons()
    with capture_outputs(linear_modules(model)) as passes:
        answers = model.answers(torch.tensor(x)[..., None], torch.tensor(labels))
    return model, answers, influence(answers, passes[0])


def test_one_token_by_hand():
    # log p(token 0) = h0 - ln(e^h0 + e^h1): g = (1 - p, -(1 - p)) = (1/4, -1/4); h = (ln 6, ln 2).
    model, _, pairs = captured([[1.0]], [[0]])
    ((h, g),) = pairs
    torch.testing.assert_close(h, torch.tensor([[[LN6, LN2]]]))
    torch.testing.assert_close(g, torch.tensor([[[0.25, -0.25]]]))
    positive, negative = influence_sums(pairs)
    assert positive.tolist() == pytest.approx([LN6 / 4])
    assert negative.tolist() == pytest.approx([-LN2 / 4])

    # R = relu(-h1 g1)^2 = (ln 2 / 4)^2; with g constant dR/dW = dR/dh = (0, 2 h1 g1^2) = (0, ln 2 / 8).
    penalty = negative_influence_penalty(pairs)
    assert penalty.tolist() == pytest.approx([(LN2 / 4) ** 2])
    penalty.sum().backward()
    assert model.blocks[0].weight.grad.flatten().tolist() == pytest.approx([0.0, LN2 / 8])


def test_g_is_a_constant():
    """A second derivative would move W0 as well: R depends on h0 through g1 = -e^h1 / (e^h0 + e^h1)."""
    model, answers, pairs = captured([[1.0]], [[0]])
    assert not pairs[0][1].requires_grad
    h = pairs[0][0]
    (g,) = torch.autograd.grad(answers.logps.sum(), h, create_graph=True)
    (exact,) = torch.autograd.grad((torch.relu(-h * g) ** 2).sum(), model.blocks[0].weight, retain_graph=True)
    assert exact[0].item() == pytest.approx(-2 * LN2**2 * 0.25 * 0.1875)  # what the constant g leaves out
    (constant,) = torch.autograd.grad(negative_influence_penalty(pairs).sum(), model.blocks[0].weight)
    assert constant[0].item() == 0.0


def test_influence_on_the_probability_by_hand():
    # P = p(token 0) p(token 0) = 9/16 at two positions of x = 1; dP/dh = P (1 - p) (1, -1) = (9/64, -9/64) at each.
    model, _, _ = captured([[1.0, 1.0]], [[0, 0]])
    with capture_outputs(linear_modules(model)) as passes:
        answers = model.answers(torch.ones(1, 2, 1), torch.tensor([[0, 0]]))
    ((h, g),) = influence(answers, passes[0], influence_of="probability")
    torch.testing.assert_close(g, torch.tensor([[[9 / 64, -9 / 64]] * 2]))
    # Neuron 1 has influence -9 ln 2 / 64 at both positions, neuron 0 has only positive influence.
    one = 9 * LN2 / 64
    for aggregation, expected in (("all", 2 * one**2), ("minimum", one**2), ("sum", 4 * one**2)):
        assert negative_influence_penalty([(h, g)], aggregation).tolist() == pytest.approx([expected])


def test_influence_on_the_log_odds_by_hand():
    # Of two tokens log(p / (1 - p)) = h0 - h1, whatever p: g = (1, -1), and over two positions (1, -1) / 2 at each.
    model = TwoNeurons()
    with capture_outputs(linear_modules(model)) as passes:
        answers = model.answers(torch.ones(2, 2, 1), torch.tensor([[0, 0], [-100, 1]]))
    ((h, g),) = influence(answers, passes[0], influence_of="log_odds")
    half = [0.5, -0.5]
    torch.testing.assert_close(g, torch.tensor([[half, half], [[0.0, 0.0], [-1.0, 1.0]]]))
    assert negative_influence_penalty([(h, g)]).tolist() == pytest.approx([2 * (LN2 / 2) ** 2, LN6**2])


def test_the_minimum_and_the_sum_over_tokens_by_hand():
    # Influences of neuron 0 at three positions: 1, -3, -2; of neuron 1: 4, -1, 0.
    h = torch.tensor([[[1.0, 4.0], [-3.0, -1.0], [-2.0, 0.0]]])
    pairs = [(h, torch.ones_like(h))]
    assert negative_influence_penalty(pairs).tolist() == pytest.approx([9 + 4 + 1])
    assert negative_influence_penalty(pairs, "minimum").tolist() == [9 + 1]
    assert negative_influence_penalty(pairs, "sum").tolist() == [16.0]  # neuron 1: +3


def test_the_second_derivative_is_exact():
    """R's derivative, g's own change included, against finite differences in double precision."""
    batch = mixed_batch(retain=0)
    model = tiny_model("gpt2", _attn_implementation="eager").double()  # Llama's norm rounds to single precision
    parameters = [p for p in model.parameters() if p.requires_grad]

    def penalty(second_derivative):
        with capture_outputs(linear_modules(model)) as passes:
            answers = forward_answers(model, batch)
        return negative_influence_penalty(influence(answers, passes[0], second_derivative=second_derivative)).sum()

    value = penalty(True)
    gradients = torch.autograd.grad(value, parameters)
    constant = torch.autograd.grad(penalty(False), parameters, allow_unused=True)

    def moved(direction, step):
        for parameter, one in zip(parameters, direction, strict=True):
            parameter.data += step * one

    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        direction = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]
        moved(direction, 1e-6)
        above = penalty(False).item()
        moved(direction, -2e-6)
        below = penalty(False).item()
        moved(direction, 1e-6)
        slope = sum(float((g * one).sum()) for g, one in zip(gradients, direction, strict=True))
        dropped = sum(float((g * one).sum()) for g, one in zip(constant, direction, strict=True) if g is not None)
        assert slope == pytest.approx((above - below) / 2e-6, rel=1e-5)
        assert abs(dropped - slope) > 1e-3 * abs(slope)  # what the neuron variant leaves out is there


def test_rows_are_apart_and_each_is_a_mean_over_its_answer_tokens():
    # Row 0: token 0, then token 1, both at x = 1. Mean log-probability: g = ((1/4, -1/4), (-3/4, 3/4)) / 2 and
    # h g = ((ln 6, -ln 2), (-3 ln 6, 3 ln 2)) / 8. Row 1: one token, at its second position (the first is the prompt).
    _, _, pairs = captured([[1.0, 1.0], [5.0, 1.0]], [[0, 1], [-100, 0]])
    positive, negative = influence_sums(pairs)
    assert positive.tolist() == pytest.approx([(LN6 + 3 * LN2) / 8, LN6 / 4])
    assert negative.tolist() == pytest.approx([-(LN2 + 3 * LN6) / 8, -LN2 / 4])
    assert negative_influence_penalty(pairs).tolist() == pytest.approx([(LN2**2 + 9 * LN6**2) / 64, LN2**2 / 16])


def test_controls_by_hand():
    # h = (ln 6, ln 2), g = (1/4, -1/4): A = (ln 6 / 4, -ln 2 / 4); the root mean square of g is 1/4.
    _, _, pairs = captured([[1.0]], [[0]])
    assert negative_influence_penalty(pairs).tolist() == pytest.approx([LN2**2 / 16])
    assert negative_influence_penalty(opposite(pairs)).tolist() == pytest.approx([LN6**2 / 16])
    ((h, g),) = without_attribution(pairs)
    torch.testing.assert_close(h, pairs[0][0])
    torch.testing.assert_close(g, torch.tensor([[[0.25, 0.25]]]))
    assert negative_influence_penalty(without_attribution(pairs)).tolist() == [0.0]  # both are active upwards


def test_pulls_by_hand():
    # R = (ln 2 / 4)^2 has dR/dh = (0, 2 h g^2) = (0, ln 2 / 8); gradient ascent, log p, has g, of norm sqrt(1/8). Two
    # such rows, of which R is the mean: each pulls half as strongly, and the squares of both are summed.
    _, answers, pairs = captured([[1.0], [1.0]], [[0], [0]])
    squares = squared_pulls(pairs, pairs, "all", answers, answers.token_logps.sum(), torch.tensor(2))
    assert squares.tolist() == pytest.approx([2 * (LN2 / 16) ** 2, 2 / 8])
    nothing = squared_pulls([], [], "all", answers, answers.token_logps.sum(), torch.tensor(2))
    assert nothing.tolist() == [0.0, 0.0]


def test_outputs_that_nothing_trainable_reaches_are_left_out():
    model = TwoNeurons()
    frozen = nn.Linear(1, 1, bias=False).requires_grad_(False)
    model.blocks.insert(0, frozen)
    with capture_outputs(linear_modules(model)) as passes:
        x = model.blocks[0](torch.ones(1, 1, 1)) * 0 + 1
        logits = model.blocks[1](x)
        answers = Answers(logits[0], torch.tensor([0]), torch.tensor([0]), torch.tensor([0]))
    assert len(passes[0]) == 2
    assert len(influence(answers, passes[0])) == 1


def hook_count(model):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def test_hooks_live_as_long_as_the_scope():
    model = tiny_model()
    before = hook_count(model)
    with capture_outputs(linear_modules(model)) as passes:
        assert hook_count(model) == before + 14  # seven projections in each of two blocks
        forward_answers(model, mixed_batch())
    assert hook_count(model) == before
    with pytest.raises(IndexError), capture_outputs(linear_modules(model)):
        forward_answers(model, dict(mixed_batch(), input_ids=torch.full((5, 12), 10**6)))
    assert hook_count(model) == before
    kept = len(passes)
    forward_answers(model, mixed_batch())
    assert len(passes) == kept == 1


@pytest.mark.parametrize(
    ("family", "names"),
    [
        ("llama", {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}),
        ("qwen2", {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}),
        ("gpt2", {"c_attn", "c_proj", "c_fc"}),
        ("gpt_neox", {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"}),
    ],
)
def test_linear_modules_of_all_families(family, names):
    model = tiny_model(family)
    plain = linear_modules(model)
    assert {name.rpartition(".")[2] for name in plain} == names
    assert list(linear_modules(with_trained_adapter(model))) == list(plain)  # an adapted map counts once, as a whole


def test_layers_and_modules_by_choice():
    model = with_trained_adapter(tiny_model())
    assert list(linear_modules(model, layers=[-1], modules=["q_proj", "up_proj"])) == [
        "1.self_attn.q_proj",
        "1.mlp.up_proj",
    ]
    assert len(linear_modules(model, layers=[0, 1])) == len(linear_modules(model)) == 14
    with capture_outputs(linear_modules(model, layers=[0], modules=["k_proj"])) as passes:
        forward_answers(model, mixed_batch())
    assert [len(one) for one in passes] == [1]
    with pytest.raises(InputError, match="layers: the model has no block 2; it has blocks 0 to 1"):
        linear_modules(model, layers=[0, 2])
    with pytest.raises(InputError, match="no linear map is called 'query'; choose from q_proj, k_proj"):
        linear_modules(model, modules=["query"])


def test_blocks_without_linear_maps_are_an_error():
    model = nn.Module()
    model.blocks = nn.ModuleList([nn.LayerNorm(2)])
    with pytest.raises(InputError, match="has no linear maps inside its transformer blocks"):
        linear_modules(model)


def forget_pairs(model, batch, split_roles=True):
    with capture_outputs(linear_modules(model)) as passes:
        answers = forward_answers(model, batch, split_roles=split_roles)
    part = answers.forget if split_roles else answers
    return influence(part, passes[0]), passes


def penalty_and_gradients(model, batch):
    pairs, _ = forget_pairs(model, batch)
    penalty = negative_influence_penalty(pairs)
    parameters = [p for p in model.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(penalty.sum(), parameters, allow_unused=True)
    return penalty, torch.cat([g.flatten() for g in gradients if g is not None])


def test_an_adapted_map_is_captured_with_its_adapter():
    base, batch = tiny_model(), mixed_batch(retain=0)
    adapted = with_trained_adapter(base)
    pairs, _ = forget_pairs(adapted, batch, split_roles=False)
    with capture_outputs(linear_modules(adapted.merge_and_unload())) as passes:
        forward_answers(adapted.base_model.model, batch)
    assert len(pairs) == 14
    for (h, _), merged in zip(pairs, passes[0], strict=True):
        torch.testing.assert_close(h, merged, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_row_is_as_if_it_were_alone(family):
    """Padding contributes nothing, other rows contribute nothing, retain rows are not captured."""
    model, batch = tiny_model(family), mixed_batch(forget=3, retain=2)
    pairs, passes = forget_pairs(model, batch)
    assert len(passes) == 2 and len(passes[1][0]) == 2  # forget rows first, then retain rows
    together = negative_influence_penalty(pairs)
    sums = torch.stack(influence_sums(pairs))
    lengths = batch["attention_mask"].sum(1)[:3].tolist()
    assert len(set(lengths)) == 3
    for row, length in enumerate(lengths):
        for h, g in pairs:
            assert h[row, length:].numel() == 0 or (h[row, length:] != 0).any()
            assert (g[row, length:] == 0).all()
        single = {name: value[row : row + 1] for name, value in batch.items()}
        single = {name: value[:, :length] if value.dim() == 2 else value for name, value in single.items()}
        alone, _ = forget_pairs(model, single)
        torch.testing.assert_close(negative_influence_penalty(alone)[0], together[row], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(torch.stack(influence_sums(alone))[:, 0], sums[:, row], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_sdpa_equals_eager(family):
    batch, found = mixed_batch(), []
    for attention in ("sdpa", "eager"):
        model = tiny_model(family, _attn_implementation=attention)
        assert model.config._attn_implementation == attention
        found.append(penalty_and_gradients(model, batch))
    assert found[0][0].min() > 0
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("adapted", [False, True])
def test_a_small_step_down_the_gradient_lowers_the_penalty_at_constant_g(adapted):
    model, batch = tiny_model(), mixed_batch(retain=0)
    model = with_trained_adapter(model) if adapted else model
    pairs, _ = forget_pairs(model, batch)
    before = negative_influence_penalty(pairs).sum()
    before.backward()
    squared_norm = 0.0
    for parameter in model.parameters():
        if parameter.grad is not None:
            squared_norm += float((parameter.grad**2).sum())
            parameter.data -= 1e-5 * parameter.grad
    new_pairs, _ = forget_pairs(model, batch)
    after = negative_influence_penalty([(h, g) for (h, _), (_, g) in zip(new_pairs, pairs, strict=True)]).sum()
    assert (before - after).item() == pytest.approx(1e-5 * squared_norm, rel=0.05)


def recomputes(model):
    """Counts passes through the first block's first linear map."""
    calls = []
    next(iter(linear_modules(model).values())).register_forward_hook(lambda *_: calls.append(1))
    return calls


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_activation_checkpointing_changes_nothing(family, adapted):
    batch, found = mixed_batch(), []
    for checkpointing in (False, True):
        model = tiny_model(family)
        model = with_trained_adapter(model) if adapted else model
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        model.train()
        calls = recomputes(model)
        found.append(penalty_and_gradients(model, batch))
        assert len(calls) == (4 if checkpointing else 2)  # two row groups; forget rows again for g and for R
    torch.testing.assert_close(found[0][0], found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1])


def test_shuffled_gradients_are_those_of_other_neurons_and_always_the_same():
    h, g = torch.ones(2, 3, 50), torch.randn(2, 3, 50, generator=torch.Generator().manual_seed(0))
    pairs = [(h, g), (2 * h, g)]
    first, second = shuffled_gradients(pairs, seed=5)
    assert first[0] is h and not torch.equal(first[1], g)
    assert torch.equal(first[1].sort(-1).values, g.sort(-1).values)  # the same values in every row and position
    moved = [(first[1][0, 0] == value).nonzero().item() for value in g[0, 0]]
    assert torch.equal(first[1][1, 2][moved], g[1, 2])  # by one permutation
    assert not torch.equal(first[1], second[1])  # another one in another linear map
    assert torch.equal(shuffled_gradients(pairs, seed=5)[1][1], second[1])
    assert not torch.equal(shuffled_gradients(pairs, seed=6)[0][1], first[1])


def test_random_signs_keep_sizes_and_the_number_of_negatives():
    generator = torch.Generator().manual_seed(0)
    h, g = (torch.randn(2, 3, 50, generator=generator) for _ in range(2))
    ((same_h, drawn),) = random_signs([(h, g)], seed=5)
    assert same_h is h
    assert torch.equal(drawn.abs(), g.abs())
    negative, now = h * g < 0, h * drawn < 0
    assert torch.equal(negative.sum(-1), now.sum(-1))
    assert 0.2 < (negative != now).float().mean() < 0.8
    assert torch.equal(random_signs([(h, g)], seed=5)[0][1], drawn)
    assert not torch.equal(random_signs([(h, g)], seed=6)[0][1], drawn)
