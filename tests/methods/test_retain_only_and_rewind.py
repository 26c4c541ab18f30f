"""Training without the forget rows: from the model as it is, and from a checkpoint before them."""

import pytest
import torch
from builders import arguments, step_logs, tiny_model, tiny_tokenizer, trainable
from trainers import METHODS, build
from transformers import AutoModelForCausalLM, set_seed

from llm_unlearn import InputError


def tokens_that_enter(trainer):
    seen = set()
    embedding = trainer.model.get_input_embeddings()
    embedding.register_forward_pre_hook(lambda _, inputs: seen.update(inputs[0].flatten().tolist()))
    return seen


@pytest.mark.parametrize("method", ["retain_only", "rewind", "undo"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_no_forget_row_enters_the_model(method, accumulate, tmp_path):
    """The names in forget questions (Ann, Ben, Cal) are in no other row."""
    options = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": accumulate}
    trainer = build(method, tmp_path, lora=False, forget=3, retain=3, general=2, **options)
    seen = tokens_that_enter(trainer)
    trainer.train()
    names = {name: tiny_tokenizer().convert_tokens_to_ids(name) for name in ("Ann", "Ben", "Cal", "Ida", "Jon", "Eli")}
    assert {name for name, token in names.items() if token in seen} == {"Ida", "Jon", "Eli"}
    for line in step_logs(trainer):
        assert not [name for name in line if name.startswith("forget/")]
        assert line["loss"] == pytest.approx(line["retain/loss"] + line["general/loss"], rel=1e-5)
    assert trainer.evaluate()["eval_forget_probability"] > 0  # which is asked for


def test_retain_rows_alone_need_a_loss(tmp_path):
    with pytest.raises(ValueError, match="retain_loss='none' leaves nothing to train on; choose nll or kl"):
        arguments(METHODS["retain_only"].config, tmp_path, retain_loss="none")


def same_weights(first, second):
    return all(torch.equal(value, second[name]) for name, value in first.items()) and first.keys() == second.keys()


def test_training_begins_with_the_checkpoint(tmp_path):
    checkpoint = tiny_model(seed=7)
    checkpoint.save_pretrained(tmp_path / "before")
    trainer = build("rewind", tmp_path / "out", lora=False, rewind_to=str(tmp_path / "before"), forget=3, retain=3)
    assert same_weights(trainer.model.state_dict(), checkpoint.state_dict())
    assert not same_weights(trainer.model.state_dict(), tiny_model().state_dict())
    trainer.train()
    assert not same_weights(trainer.model.state_dict(), checkpoint.state_dict())


def test_untrained_weights_are_drawn_by_the_seed(tmp_path):
    torch.manual_seed(99)
    first, again, other = (trainable(build("rewind", tmp_path, lora=False, seed=s).model) for s in (4, 4, 5))
    assert same_weights(first, again) and not same_weights(first, other)
    set_seed(4)
    assert same_weights(first, AutoModelForCausalLM.from_config(tiny_model().config).state_dict())


def test_what_cannot_be_rewound(tmp_path):
    with pytest.raises(InputError, match="rewind puts an earlier checkpoint in the place of all weights: give --full"):
        build("rewind", tmp_path, lora=True)
    tiny_model(intermediate_size=40).save_pretrained(tmp_path / "narrow")
    words = r"mlp.gate_proj.weight has the shape \(40, 32\) there and \(48, 32\) in the model; give a checkpoint of the"
    with pytest.raises(InputError, match=words):
        build("rewind", tmp_path, lora=False, rewind_to=str(tmp_path / "narrow"))
    for layers, words in (
        (1, "has the shape of no weight there and"),
        (3, "and of no weight in the model; give a"),
    ):
        tiny_model(num_hidden_layers=layers).save_pretrained(tmp_path / "deep")
        with pytest.raises(InputError, match=words):
            build("rewind", tmp_path, lora=False, rewind_to=str(tmp_path / "deep"))
    with pytest.raises(InputError, match="no_such_folder"):
        build("rewind", tmp_path, lora=False, rewind_to=str(tmp_path / "no_such_folder"))


def test_settings_that_cannot_be(tmp_path):
    config = METHODS["rewind"].config
    with pytest.raises(ValueError, match="rewind_to is missing: the checkpoint before the data, such as the base"):
        arguments(config, tmp_path)
    for name in ("retain_loss", "general_loss"):
        with pytest.raises(ValueError, match=f"{name}='kl' would compare with the checkpoint; choose nll"):
            arguments(config, tmp_path, rewind_to="untrained", **{name: "kl"})
    with pytest.raises(
        ValueError, match=r"stop_at_forget_rouge_l=0.2 would hold at the first check, since the checkpoint"
    ):
        arguments(config, tmp_path, rewind_to="untrained", stop_at_forget_rouge_l=0.2)
