"""`trainer.push_to_hub()`, and that a trainer sends nothing in any other way."""

import json

import pytest
from builders import arguments, lora_config, qa_rows, tiny_model, tiny_tokenizer

from llm_unlearn import NPOConfig, NPOTrainer
from llm_unlearn.errors import InputError


def make_trainer(folder, adapter=True, **changes):
    return NPOTrainer(
        model=tiny_model(),
        args=arguments(NPOConfig, folder, max_steps=2, **changes),
        forget_dataset=qa_rows(4),
        retain_dataset=qa_rows(8, start=4),
        processing_class=tiny_tokenizer(),
        peft_config=lora_config() if adapter else None,
    )


@pytest.mark.parametrize("adapter", [True, False])
def test_a_trainer_pushes_once_when_it_is_told_to(adapter, hub, tmp_path):
    trainer = make_trainer(
        tmp_path / "out", adapter, push_to_hub=True, hub_model_id="me/npo", save_strategy="steps", save_steps=1
    )
    trainer.train()
    trainer.save_model()
    assert hub.requests == []  # no repository, no checkpoint, no card
    commit = trainer.push_to_hub(commit_message="two steps")
    repository = hub.repositories["me/npo"]
    assert commit.commit_message == "two steps" and repository.commits == 1 and repository.private
    assert ("adapter_model.safetensors" if adapter else "model.safetensors") in repository.files
    assert not [name for name in repository.files if name.endswith((".bin", ".pt", "state.json"))]
    card = repository.files["README.md"].decode()
    assert "the model was not examined" in card and "| `beta` | 0.1 |" in card
    assert ("whoever drops the adapter" in card) is adapter
    assert json.loads((tmp_path / "out" / "results.json").read_text())["training"]["steps"] == 2
    trainer.push_to_hub(private=True)  # again, with nothing changed: no second commit of the same files
    assert len(hub.asked("PUT", "/large/")) == 1


def test_results_of_other_weights_are_not_passed_off_as_these(hub, tmp_path):
    trainer = make_trainer(tmp_path, hub_model_id="me/npo")
    (tmp_path / "results.json").write_text(json.dumps({"scores": {"unlearned": {}}, "weights": {"a": "b"}}))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_text("judged before")
    with pytest.raises(InputError, match="are of other weights"):
        trainer.push_to_hub()
    assert hub.requests == [] and not (tmp_path / "to-compare").exists()
    assert (tmp_path / "model" / "model.safetensors").read_text() == "judged before"  # not written over


def test_what_cannot_be_checked_is_refused(hub, tmp_path):
    with pytest.raises(ValueError, match=r"hub_strategy=every_save.*use hub_strategy=end"):
        make_trainer(tmp_path, push_to_hub=True, hub_strategy="every_save")
    with pytest.raises(ValueError, match="hub_always_push=false"):
        make_trainer(tmp_path, push_to_hub=True, hub_always_push=True)
    trainer = make_trainer(tmp_path)
    for given, name in (({"blocking": False}, "blocking=False"), ({"license": "mit"}, "license")):
        with pytest.raises(InputError, match=f"push_to_hub: {name}: files are checked"):
            trainer.push_to_hub(**given)
    assert hub.requests == []
