"""4-bit weights where the library's kernel is wrong: as on a processor with AVX-512, whichever this one is."""

import copy
import pickle

import bitsandbytes
import pytest
import torch
from bitsandbytes.functional import QuantState, dequantize_4bit, quantize_4bit
from builders import FAMILIES, encoded_rows, largest_difference, lora_config, mixed_batch, tiny_model
from peft import get_peft_model

from llm_unlearn.attacks.quantization import quantized_copy
from llm_unlearn.models import exact_quantization
from llm_unlearn.models.exact_quantization import ExactLinear4bit, dequantized, exact_where_kernels_are_wrong
from llm_unlearn.models.loading import load_model, quantization_config
from llm_unlearn.models.scoring import score_answers


@pytest.fixture(autouse=True)
def warned_anew():
    exact_quantization._warn_once.cache_clear()


@pytest.fixture
def right_kernel(monkeypatch):
    """The library's own kernel, asked for one long row: in that it counts blocks rightly on every processor."""
    operator = torch.ops.bitsandbytes.dequantize_4bit
    native = operator.default

    def right(packed, absmax, blocksize, quant_type, shape, dtype):
        row = native(packed, absmax, blocksize, quant_type, (1, shape[0] * shape[1]), dtype)
        return row.view(*shape)

    monkeypatch.setattr(operator, "default", right)
    return right


@pytest.fixture
def wrong_kernel(monkeypatch, right_kernel):
    """Plants the scales that the kernel for AVX-512 takes: it counts the whole blocks of each row."""

    def wrong(packed, absmax, blocksize, quant_type, shape, dtype):
        if shape[1] % 16:  # another path of that kernel
            return right_kernel(packed, absmax, blocksize, quant_type, shape, dtype)
        row, column = torch.arange(shape[0])[:, None], torch.arange(shape[1])
        scales = absmax[row * (shape[1] // blocksize) + column // blocksize]
        unscaled = right_kernel(packed, torch.ones_like(absmax), blocksize, quant_type, shape, torch.float32)
        return (unscaled * scales).to(dtype)

    def plant():
        monkeypatch.setattr(torch.ops.bitsandbytes.dequantize_4bit, "default", wrong)

    return plant


def logits(model):
    batch = mixed_batch(6)
    with torch.no_grad():
        return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits


def test_a_weight_is_its_entry_in_the_table_times_the_scale_of_its_block():
    # Blocks of four through rows of three, 1 1 1 | 1 2 2 | 2 2 3, scales 10, 20, 30; entries 0 to 8, the last unused.
    packed = torch.tensor([[0x01], [0x23], [0x45], [0x67], [0x8F]], dtype=torch.uint8)
    code = torch.arange(16.0) / 16
    state = QuantState(torch.tensor([10.0, 20.0, 30.0]), torch.Size([3, 3]), code, blocksize=4)
    expected = torch.tensor([[0, 10, 20], [30, 80, 100], [120, 140, 240]]) / 16
    assert torch.equal(dequantized(packed, state, torch.float32), expected)
    assert torch.equal(dequantized(packed.view(torch.int8), state, torch.bfloat16), expected.bfloat16())
    # The same scales in 8 bits: 1 + entry 2, 3 and 4 of the second table times 9, 9 and 28 (blocks of two).
    second = QuantState(torch.tensor([9.0, 28.0]), code=torch.tensor([0.0, 0.0, 1.0, 2.0, 1.0]), blocksize=2)
    state.absmax, state.offset = torch.tensor([2, 3, 4], dtype=torch.uint8), torch.tensor(1.0)
    state.state2, state.nested = second, True
    expected = torch.tensor([[0, 10, 20], [30, 76, 95], [114, 133, 232]]) / 16
    assert torch.equal(dequantized(packed, state, torch.float32), expected)


@pytest.mark.parametrize("shape", [(3, 64), (7, 12), (5, 50), (2, 576)])
@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("name", ["nf4", "fp4"])
def test_the_table_gives_what_the_library_gives_where_its_kernel_is_right(name, twice, shape):
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
        packed, state = quantize_4bit(weight, quant_type=name, compress_statistics=twice)
        torch.testing.assert_close(dequantized(packed, state, dtype), dequantize_4bit(packed, state))


def test_nothing_is_replaced_where_the_kernel_is_right(right_kernel, caplog):
    quantized = quantized_copy(tiny_model(), "nf4")
    kinds = {type(module) for module in quantized.modules() if isinstance(module, bitsandbytes.nn.Linear4bit)}
    assert kinds == {bitsandbytes.nn.Linear4bit} and not caplog.records


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["nf4", "fp4"])
def test_scores_under_a_wrong_kernel_are_those_under_the_right_one(name, family, dtype, right_kernel, wrong_kernel):
    model = tiny_model(family).to(dtype)
    right = quantized_copy(model, name)
    expected, scores = logits(right), score_answers(right, encoded_rows(4))
    wrong_kernel()
    assert (logits(right) - expected).abs().max() > 0.1 * expected.abs().max()  # silently
    mended = quantized_copy(model, name)
    assert torch.equal(logits(mended), expected) and score_answers(mended, encoded_rows(4)) == scores


def test_what_is_wrong_is_said_once_and_only_those_maps_are_replaced(wrong_kernel, caplog):
    wrong_kernel()
    model = tiny_model(hidden_size=64, head_dim=16, intermediate_size=96)
    for name in ("nf4", "fp4"):
        quantized = quantized_copy(model, name)
        replaced = [path for path, module in quantized.named_modules() if isinstance(module, ExactLinear4bit)]
        assert replaced == ["model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj"]
    (record,) = caplog.records
    assert "wrongly on this machine in 2 of 14 linear maps (input width 96)" in record.getMessage()


@pytest.fixture
def adapted(tmp_path, right_kernel):
    """Loads a base in 4 bits with double quantization, and gives it an adapter."""
    tiny_model("qwen2").to(torch.bfloat16).save_pretrained(tmp_path)

    def load():
        base = load_model(str(tmp_path), quantization_config=quantization_config(4))
        torch.manual_seed(0)
        return get_peft_model(base, lora_config(init_lora_weights=False, target_modules="all-linear"))

    return load


def gradients(model):
    model.zero_grad()
    batch = mixed_batch(6)
    output = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    output.float().log_softmax(-1)[..., 0].mean().backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.requires_grad}


def test_gradients_under_a_wrong_kernel_are_those_under_the_right_one(adapted, wrong_kernel, caplog):
    right = adapted()
    expected, outputs = gradients(right), logits(right)
    largest = max(float(value.abs().max()) for value in expected.values())
    assert not caplog.records
    wrong_kernel()
    assert largest_difference(gradients(right), expected) > 0.1 * largest
    mended = adapted()
    assert "in 14 of 14 linear maps (input width 32, 48)" in caplog.text
    for state in (mended.train(), mended.eval(), copy.deepcopy(mended), pickle.loads(pickle.dumps(mended))):
        assert largest_difference(gradients(state), expected) == 0.0
        assert torch.equal(logits(state), outputs)
    assert torch.equal(logits(mended.to("cpu")), outputs)


def test_whole_weights_are_not_kept_for_the_backward(wrong_kernel):
    wrong_kernel()
    layer = bitsandbytes.nn.Linear4bit(96, 64, bias=True, compute_dtype=torch.float32, quant_type="nf4").to("cpu")
    bias = layer.bias.requires_grad_(True)
    assert isinstance(exact_where_kernels_are_wrong(torch.nn.Sequential(layer))[0], ExactLinear4bit)
    kept, inputs = [], torch.randn(2, 3, 96, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda saved: kept.append(saved) or saved, lambda saved: saved):
        output = layer(inputs)
    assert not kept
    output.square().sum().backward()
    weight = dequantized(layer.weight.data, layer.weight.quant_state, torch.float32)
    torch.testing.assert_close(output, torch.nn.functional.linear(inputs, weight, bias))
    torch.testing.assert_close(inputs.grad, 2 * output @ weight)
    torch.testing.assert_close(bias.grad, 2 * output.sum((0, 1)))


def test_adapters_are_still_merged_into_exact_maps(adapted, right_kernel, wrong_kernel, monkeypatch):
    said = "4-bit linear may get different generations due to rounding errors"
    with pytest.warns(UserWarning, match=said):
        expected = logits(adapted().merge_and_unload())
    wrong_kernel()
    mended = adapted()
    # PEFT reads the base weights by the library's kernel, past the map.
    monkeypatch.setattr(torch.ops.bitsandbytes.dequantize_4bit, "default", right_kernel)
    with pytest.warns(UserWarning, match=said):
        merged = mended.merge_and_unload()
    wrong_kernel()
    assert torch.equal(logits(merged), expected)
