"""The influence audit: D+ and D- worked by hand, then what must hold on real architectures."""

import math
from dataclasses import replace

import pytest
import torch
from builders import FAMILIES, encoded_rows, tiny_model, with_trained_adapter
from torch import nn

from llm_unlearn.attacks.relearning import AttackBudget
from llm_unlearn.audits.influence import (
    SCORES,
    ModelInfluence,
    NeuronInfluence,
    attribution_correlation,
    compare_influence,
    hiding_share,
    influence_variation,
    neuron_influence,
    summed_influence,
)
from llm_unlearn.audits.relearning import reinjected_influence
from llm_unlearn.errors import InputError

# Two rows of three tokens and two neurons; the second row has two tokens.
BEFORE = [[[0.5, -0.1], [0.2, -0.3], [0.0, -0.2]], [[0.3, 0.1], [0.1, 0.2], [9.0, -9.0]]]
AFTER = [[[0.1, -0.5], [-0.4, -0.1], [0.0, -0.3]], [[-0.3, 0.4], [-0.2, 0.1], [-9.0, 9.0]]]
LENGTHS = torch.tensor([3, 2])


def summary(values) -> NeuronInfluence:
    """The mean over rows."""
    return summed_influence(torch.tensor(values), LENGTHS)[0] / len(LENGTHS)


def assert_close(first: ModelInfluence, second: ModelInfluence, tolerance: float = 1e-5):
    assert list(first.modules) == list(second.modules)
    for name, neurons in first.modules.items():
        for part in ("highest", "positive", "lowest", "mean"):
            torch.testing.assert_close(
                getattr(neurons, part), getattr(second.modules[name], part), atol=tolerance, rtol=1e-4
            )
    for row, other in zip(first.rows, second.rows, strict=True):
        assert row == pytest.approx(other, abs=tolerance, rel=1e-3)


def test_two_neurons_by_hand():
    # highest: neuron 0 (0.5 + 0.3) / 2, neuron 1 (-0.1 + 0.2) / 2; lowest: (0 + 0.1) / 2 and (-0.3 + 0.1) / 2.
    before, after = summary(BEFORE), summary(AFTER)
    assert before.highest.tolist() == pytest.approx([0.4, 0.05])
    assert before.positive.tolist() == pytest.approx([0.4, 0.1])
    assert before.lowest.tolist() == pytest.approx([0.05, -0.1])
    assert before.mean.tolist() == pytest.approx([(0.7 / 3 + 0.2) / 2, (-0.2 + 0.15) / 2])
    # D+: 0.4 - (0.1 + 0) / 2, and 0.05 - (0 + 0.4) / 2 < 0. D-: 0.05 - (-0.4 - 0.3) / 2, and -0.1 - (-0.5 + 0.1) / 2.
    erased, hidden = influence_variation(before, after)
    assert erased.tolist() == pytest.approx([0.35, 0.0])
    assert hidden.tolist() == pytest.approx([0.4, 0.1])
    models = [ModelInfluence({"0.q": neurons}, []) for neurons in (before, after)]
    found = compare_influence(*models, top_shares=[0.5, 1.0])
    assert (found["erased"], found["hidden"]) == pytest.approx((0.35, 0.5))
    assert found["hiding_share"] == pytest.approx(0.5 / 0.85)
    half, whole = found["top"]
    assert (half["neurons"], half["erased"], half["hidden"]) == pytest.approx((1, 0.35, 0.4))
    assert whole["hiding_share"] == found["hiding_share"]
    cell = found["modules"]["0.q"]
    assert cell["neurons"] == 2 and cell["hiding_share"] == found["hiding_share"]
    assert (cell["positive_before"], cell["negative_before"]) == pytest.approx((0.5, -0.1))


def test_neurons_are_sorted_by_each_side_anew():
    erasing, hiding = summary(BEFORE), summary(BEFORE)
    before = replace(erasing, highest=torch.tensor([1.0, 0.0]), lowest=torch.tensor([0.0, 1.0]))
    after = replace(hiding, positive=torch.zeros(2), lowest=torch.zeros(2))
    found = compare_influence(ModelInfluence({"0.q": before}, []), ModelInfluence({"0.q": after}, []), [0.5])
    assert (found["top"][0]["erased"], found["top"][0]["hidden"]) == (1.0, 1.0)  # of two different neurons


def test_hiding_share():
    assert hiding_share(0.0, 0.0) is None
    assert hiding_share(1.0, 3.0) == 0.75


class OneToken(nn.Module):
    """A model of two tokens whose only block has two neurons h = W x; they are the logits of its vocabulary."""

    def __init__(self, weight):
        super().__init__()
        self.embedding = nn.Embedding(2, 1)
        self.blocks = nn.ModuleList([nn.Linear(1, 2, bias=False)])
        self.head = nn.Identity()
        with torch.no_grad():
            self.embedding.weight.fill_(1.0)
            self.blocks[0].weight.copy_(torch.tensor(weight)[:, None])

    def get_input_embeddings(self):
        return self.embedding

    def get_output_embeddings(self):
        return self.head

    def forward(self, input_ids, attention_mask, use_cache):
        output = type("Output", (), {})()
        output.logits = self.head(self.blocks[0](self.embedding(input_ids)))
        return output


ROW = {"input_ids": [0, 0], "labels": [-100, 0]}
LONGER = {"input_ids": [0, 0, 0], "labels": [-100, -100, 0]}  # its first token has no influence: lowest is at most 0
LN6, LN2 = math.log(6), math.log(2)


@pytest.mark.parametrize(
    "score, value, gradient",
    [("log_probability", math.log(3 / 4), 1 / 4), ("probability", 3 / 4, 3 / 16), ("log_odds", math.log(3), 1.0)],
)
def test_scores_and_their_gradients_by_hand(score, value, gradient):
    # Logits (ln 6, ln 2): p = 3/4. d log p = (1 - p) (dh0 - dh1), dp = p d log p; log-odds h0 - h1.
    found = neuron_influence(OneToken([LN6, LN2]), [ROW], score)
    expected = [LN6 * gradient, -LN2 * gradient]
    assert found.modules["0"].mean.tolist() == pytest.approx(expected)
    assert found.modules["0"].highest.tolist() == pytest.approx(expected)  # the last token, of influence 0, is left out
    assert found.rows == [
        pytest.approx({"score": value, "probability": 3 / 4, "positive": expected[0], "negative": expected[1]})
    ]


def test_a_planted_negative_neuron_is_hiding_and_a_silenced_one_is_erasure():
    original = neuron_influence(OneToken([LN6, 0.0]), [LONGER])
    planted = compare_influence(original, neuron_influence(OneToken([LN6, 2.0]), [LONGER]))
    assert (planted["erased"], planted["hidden"], planted["hiding_share"]) == pytest.approx((0.0, 2.0, 1.0))
    silenced = compare_influence(original, neuron_influence(OneToken([0.5, 0.0]), [LONGER]))
    assert (silenced["erased"], silenced["hidden"], silenced["hiding_share"]) == pytest.approx((LN6 - 0.5, 0.0, 0.0))


def test_probability_blames_who_never_knew_and_log_odds_do_not():
    # The original is certain, through neuron 0; what never knew has no preference, and nothing speaks against.
    original, ignorant = OneToken([12.0, 0.0]), OneToken([1.0, 0.9])
    shares = {
        score: compare_influence(*(neuron_influence(model, [LONGER], score) for model in (original, ignorant)))
        for score in SCORES
    }
    assert shares["probability"]["hiding_share"] > 0.99 and shares["log_probability"]["hiding_share"] > 0.99
    assert shares["log_odds"]["hiding_share"] < 0.1


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("score", SCORES)
def test_equal_models_give_zeros(family, score):
    rows = encoded_rows(4)
    one, other = (neuron_influence(tiny_model(family), rows, score) for _ in range(2))
    found = compare_influence(one, other)
    assert (found["erased"], found["hidden"], found["hiding_share"]) == (0.0, 0.0, None)
    assert all(top["hiding_share"] is None for top in found["top"])
    assert attribution_correlation(one, other) == pytest.approx({"pearson": 1.0, "spearman": 1.0})
    changed = compare_influence(one, neuron_influence(tiny_model(family, seed=1), rows, score))
    assert changed["erased"] > 0 and changed["hidden"] > 0
    assert sum(cell["hidden"] for cell in changed["modules"].values()) == pytest.approx(changed["hidden"])


@pytest.mark.parametrize("family", FAMILIES)
def test_batches_and_padding_do_not_matter(family):
    rows, model = encoded_rows(9), tiny_model(family)
    assert len({len(row["input_ids"]) for row in rows}) > 1
    apart = neuron_influence(model, rows, batch_size=1)
    assert_close(neuron_influence(model, rows, batch_size=9), apart)
    assert_close(neuron_influence(model, rows, batch_size=4), apart)


def test_the_influence_of_an_answer_is_what_scaling_its_neurons_changes():
    """An independent check: the sum over tokens of h ds/dh is ds/dc of the map's output times c, at c = 1."""
    model, rows = tiny_model().double(), encoded_rows(1)
    found = neuron_influence(model, rows, "log_probability")
    tokens = max(i for i, label in enumerate(rows[0]["labels"]) if label != -100)
    layer, neuron, scores = model.model.layers[0].mlp.gate_proj, 5, []
    for factor in (1 - 1e-4, 1 + 1e-4):

        def scale(_module, _inputs, output, factor=factor):
            scaled = output.clone()
            scaled[..., neuron] *= factor
            return scaled

        hook = layer.register_forward_hook(scale)
        scores.append(neuron_influence(model, rows, "log_probability").rows[0]["score"])
        hook.remove()
    slope = (scores[1] - scores[0]) / 2e-4
    assert float(found.modules["0.mlp.gate_proj"].mean[neuron]) * tokens == pytest.approx(slope, abs=2e-3)


def test_frozen_adapted_and_training_models_give_the_same_and_stay_as_they_are():
    rows = encoded_rows(3)
    model = tiny_model()
    expected = neuron_influence(model, rows)
    assert all(parameter.grad is None for parameter in model.parameters())
    frozen = tiny_model().requires_grad_(False).train()
    with torch.no_grad():
        assert_close(neuron_influence(frozen, rows), expected)
    assert frozen.training
    adapted = with_trained_adapter(model)
    merged = with_trained_adapter(model).merge_and_unload()
    assert_close(neuron_influence(adapted, rows), neuron_influence(merged, rows), tolerance=1e-4)
    assert compare_influence(expected, neuron_influence(adapted, rows))["hidden"] > 0


def test_correlation_without_spread_is_none_and_what_cannot_be_compared_is_refused():
    flat, _, _ = summed_influence(torch.ones(1, 1, 3), torch.tensor([1]))
    model = ModelInfluence({"0.q": flat}, [])
    assert attribution_correlation(model, model) == {"pearson": None, "spearman": None}
    with pytest.raises(InputError, match=r"different architecture .* 0.q has 3 and no"):
        compare_influence(model, ModelInfluence({"0.k": flat}, []))
    with pytest.raises(InputError, match="top_shares"):
        compare_influence(model, model, [0.0])
    with pytest.raises(InputError, match="score='logit' is unknown; choose one of probability"):
        neuron_influence(tiny_model(), encoded_rows(1), "logit")
    with pytest.raises(InputError, match="needs rows"):
        neuron_influence(tiny_model(), [])


def test_reinjection_changes_a_copy_and_looks_at_the_rows_that_it_did_not_train_on():
    model, rows = tiny_model(), encoded_rows(6)
    budget = AttackBudget(learning_rates=(1e-2,), fraction=0.5, seeds=(0,), steps=5, batch_size=3)
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    before, after = reinjected_influence(model, rows, list("aabbcc"), budget, 0)
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())
    assert len(before.rows) == len(after.rows) == 2  # two of three facts are injected
    correlation = attribution_correlation(before, after)
    assert -1 <= correlation["pearson"] < 0.999
    again, _ = reinjected_influence(with_trained_adapter(model), rows, list("aabbcc"), budget, 0)
    assert list(again.modules) == list(before.modules)
