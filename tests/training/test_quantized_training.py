"""QLoRA: adapters on base weights in 4 or 8 bits, on a CPU too."""

import pytest
import torch
import trainers as every_method
from builders import arguments, largest_difference, lora_config, qa_rows, tiny_model, tiny_tokenizer

from llm_unlearn import (
    GradientAscentConfig,
    GradientAscentTrainer,
    InputError,
    NPOConfig,
    NPOTrainer,
    SAMConfig,
    SAMTrainer,
    SsiuuConfig,
    SsiuuTrainer,
)
from llm_unlearn.data import encode_dataset, load_unlearning_data
from llm_unlearn.models.embedded import embedded_model
from llm_unlearn.models.finetuning import finetune
from llm_unlearn.models.loading import load_model, quantization_config
from llm_unlearn.models.scoring import score_answers
from llm_unlearn.training.memory import estimated_memory

METHODS = every_method.METHODS


TRAINERS = {
    "grad_diff": (GradientAscentTrainer, GradientAscentConfig, {}),
    "npo": (NPOTrainer, NPOConfig, {"retain_loss": "kl"}),
    "ssiuu": (SsiuuTrainer, SsiuuConfig, {}),
    "sam": (SAMTrainer, SAMConfig, {}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model that knows the forget rows 0 to 7 and the retain rows 20 to 27, with its tokenizer."""
    folder, model, tokenizer = tmp_path_factory.mktemp("whole"), tiny_model(), tiny_tokenizer()
    rows = [encode_dataset(qa_rows(8, start), tokenizer, None, "rows") for start in (0, 20)]
    finetune(model, rows[0] + rows[1], learning_rate=5e-3, steps=80, batch_size=16, seed=0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def build(name, folder, output, bits=4, **changes):
    trainer, config, options = TRAINERS[name]
    return trainer(
        model=str(folder),
        args=arguments(config, output, **options | changes),
        forget_dataset=qa_rows(8),
        retain_dataset=qa_rows(8, start=20),
        peft_config=lora_config(),
        quantization_config=bits and quantization_config(bits),
    )


def adapter_gradients(trainer):
    """Of the first batch, by the trainer's own loss."""
    trainer.model.train()
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.compute_loss(trainer.model, batch).backward()
    gradients = {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
    trainer.model.zero_grad()
    return gradients


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("name", TRAINERS)
def test_gradients_are_the_same_before_and_after_an_evaluation(name, bits, folder, tmp_path):
    trainer = build(name, folder, tmp_path, bits)
    before = adapter_gradients(trainer)
    assert max(float(value.abs().max()) for value in before.values()) > 1e-4
    trainer.evaluate()
    assert largest_difference(adapter_gradients(trainer), before) == 0.0


@pytest.mark.parametrize(
    "name", ["npo", *(pytest.param(name, marks=pytest.mark.long) for name in ("ssiuu", "grad_diff"))]
)
def test_four_bits_forget_as_whole_weights_do(name, tmp_path):
    data, stop = load_unlearning_data("fictional:tiny"), {"stop_at_forget_probability": 0.45, "forget_check_steps": 2}
    trainer_class, config, options = TRAINERS[name]
    steps, retained = {}, {}
    for bits in (None, 4):
        trainer = trainer_class(
            model=str(embedded_model("tiny")),
            args=arguments(
                config,
                tmp_path / f"{bits}",
                learning_rate=2e-3,
                num_train_epochs=60,
                per_device_train_batch_size=16,
                retain_weight=30.0,
                **options | stop,
            ),
            forget_dataset=data.forget,
            retain_dataset=data.retain,
            peft_config=lora_config(r=16, lora_alpha=32),
            quantization_config=bits and quantization_config(bits),
        )
        base = {key: value.clone() for key, value in trainer.model.state_dict().items() if "lora" not in key}
        trainer.train()
        assert trainer.stopped_by
        assert all(torch.equal(value, base[key]) for key, value in trainer.model.state_dict().items() if key in base)
        trainer.save_model()
        # What people will load: the adapter on the whole base.
        whole = load_model(str(tmp_path / f"{bits}"))
        forget, retain = (score_answers(whole, rows) for rows in (trainer.forget_rows, trainer.row_sets["retain"]))
        assert sum(score.probability for score in forget) / len(forget) < 0.5
        retained[bits] = sum(score.probability for score in retain) / len(retain)
        steps[bits] = trainer.state.global_step
    assert steps[4] == pytest.approx(steps[None], rel=0.5, abs=4)  # kernels for four bits differ by processor
    assert retained[4] == pytest.approx(retained[None], abs=0.1) and retained[4] > 0.8


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_an_adapter_on_four_bits(method, folder, tmp_path):
    quantized = load_model(str(folder), quantization_config=quantization_config(4))
    if method in every_method.ON_WHOLE_WEIGHTS:
        with pytest.raises(InputError, match="give --full_finetuning"):
            every_method.build(method, tmp_path, model=quantized)
        return
    trainer = every_method.build(method, tmp_path, model=quantized, forget=6, retain=6, num_train_epochs=2)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train()
    changed = {n for n, value in trainer.model.state_dict().items() if not torch.equal(value, before[n])}
    assert changed and changed <= {name for name in before if "lora_" in name}
    assert all(torch.isfinite(value).all() for name, value in trainer.model.state_dict().items() if "lora_" in name)


def test_the_reference_is_the_quantized_base(folder, tmp_path):
    trainer = build("npo", folder, tmp_path)
    plain = load_model(str(folder), quantization_config=quantization_config(4))
    expected = [-score.nll for score in score_answers(plain, trainer.forget_rows)]
    assert trainer.reference.logps.tolist() == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_memory_of_activations_does_not_depend_on_how_weights_are_stored(folder, tmp_path):
    whole, quantized = (estimated_memory(build("npo", folder, tmp_path, bits)) for bits in (None, 4))
    assert quantized["activations"] == whole["activations"] and quantized["weights"] < whole["weights"]


def test_what_cannot_be_trained_is_refused(folder, tmp_path):
    quantized = load_model(str(folder), quantization_config=quantization_config(4))
    rows = {"forget_dataset": qa_rows(8), "retain_dataset": qa_rows(8, start=20), "processing_class": tiny_tokenizer()}
    with pytest.raises(InputError, match="quantized weights cannot be trained; pass peft_config"):
        NPOTrainer(quantized, arguments(NPOConfig, tmp_path), **rows)
    with pytest.raises(InputError, match="quantization_config is for a model that is still to be loaded"):
        NPOTrainer(tiny_model(), arguments(NPOConfig, tmp_path), **rows, quantization_config=quantization_config(4))
    with pytest.raises(InputError, match="exact' needs second derivatives, which quantized weights lack"):
        build("ssiuu", folder, tmp_path, variant="exact")
