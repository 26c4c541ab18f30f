"""Activation patching against the plain way: one text, one hook on one block, all of the model."""

import numpy as np
import pytest
import torch
from builders import FAMILIES, encoded_rows, tiny_model, with_trained_adapter

from llm_unlearn.models.hidden_states import states_at
from llm_unlearn.models.patching import Asked, log_prob_drops


def some_values() -> list[Asked]:
    texts = [row["input_ids"] for row in encoded_rows(5)]
    return [
        Asked(tuple(text), len(text) - 2 - number % 2, len(text) - number // 4) for number, text in enumerate(texts)
    ]


def naive_drops(original, source, asked: Asked) -> list[float]:
    ids = torch.tensor([asked.ids])
    taken: dict[int, torch.Tensor] = {}

    def take(layer):
        return lambda _block, _inputs, output: taken.update({layer: output[0] if isinstance(output, tuple) else output})

    def put(layer):
        def hook(_block, _inputs, output):
            hidden = output[0] if isinstance(output, tuple) else output
            hidden = hidden.clone()
            hidden[:, asked.start - 1 : asked.end - 1] = taken[layer][:, asked.start - 1 : asked.end - 1]
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        return hook

    def value_logp():
        logps = original(input_ids=ids).logits.log_softmax(-1)[0, asked.start - 1 : asked.end - 1]
        return float(logps.gather(1, torch.tensor(asked.value)[:, None]).mean())

    def blocks_of(model):
        return model.transformer.h if hasattr(model, "transformer") else getattr(model, "model", None).layers

    with torch.no_grad():
        hooks = [block.register_forward_hook(take(n)) for n, block in enumerate(blocks_of(source))]
        source(input_ids=ids)
        [hook.remove() for hook in hooks]
        whole, drops = value_logp(), []
        for layer, block in enumerate(blocks_of(original)):
            hook = block.register_forward_hook(put(layer))
            drops.append(whole - value_logp())
            hook.remove()
    return drops


@pytest.mark.parametrize("family", FAMILIES)
def test_drops_are_those_of_one_hook_at_a_time(family):
    original, source, asked = tiny_model(family, 0), tiny_model(family, 1), some_values()
    states = states_at(source, [one.ids for one in asked], [one.before for one in asked])
    found = log_prob_drops(original, asked, states, batch_size=2)
    if family == "gpt_neox":
        original.model, source.model = original.gpt_neox, source.gpt_neox
    expected = np.array([naive_drops(original, source, one) for one in asked]).T
    assert found == pytest.approx(expected, abs=1e-4) and np.abs(expected).max() > 1
    assert not any("forward" in vars(module) or module._forward_pre_hooks for module in original.modules())


def test_a_models_own_states_change_nothing_and_an_adapted_one_is_patched_alike():
    model = with_trained_adapter(tiny_model())
    asked = some_values()
    own = states_at(model, [one.ids for one in asked], [one.before for one in asked])
    assert log_prob_drops(model, asked, own) == pytest.approx(np.zeros((2, 5)), abs=1e-5)
    assert [one.value for one in asked[:2]] == [one.ids[-2 - n :] for n, one in enumerate(asked[:2])]
