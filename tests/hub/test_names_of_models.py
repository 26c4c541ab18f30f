"""What a pushed run calls its base and its data: the hub's names with their commit, and no name of a local folder."""

import json

import pytest
import torch
from builders import lora_config, qa_rows, tiny_model, tiny_tokenizer
from huggingface_hub import ModelCard
from loopback_hub import Repository
from peft import get_peft_model
from transformers import AutoModelForCausalLM

from llm_unlearn import NPOConfig, NPOTrainer
from llm_unlearn.data.hub_lookup import check_on_hub
from llm_unlearn.files.run_folder import weight_digests
from llm_unlearn.hub import load_unlearned, push_run
from llm_unlearn.methods import load_method
from llm_unlearn.models.loading import load_model
from llm_unlearn.runs.recipe import Recipe

BASE = "org/llama-tiny"


@pytest.fixture(autouse=True)
def unset_caches():
    """The hub's answers are remembered by repository, and every test has a hub of its own."""
    check_on_hub.cache_clear()


def model_files(folder, seed) -> dict[str, bytes]:
    tiny_model(seed=seed).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def write_rows(path, start) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in qa_rows(4, start)))


@pytest.fixture
def base(hub, tmp_path) -> str:
    """A base on the hub, of which there is a newer commit with other weights; returns the older one."""
    repository = hub.repositories[BASE] = Repository(private=False)
    commit = repository.commit(model_files(tmp_path / "first", seed=3))
    repository.commit(model_files(tmp_path / "second", seed=4))
    return commit


def make_trainer(model, output_dir, peft_config=None) -> NPOTrainer:
    return NPOTrainer(
        model=model,
        args=NPOConfig(output_dir=str(output_dir), max_steps=1, hub_model_id="me/npo", report_to="none", use_cpu=True),
        forget_dataset=qa_rows(4),
        retain_dataset=qa_rows(8, start=4),
        processing_class=tiny_tokenizer(),
        peft_config=peft_config,
    )


def run_recipe(*flags: str) -> None:
    flags = [*flags, "--attacks", "none", "--max_steps", "1", "--use_cpu", "--disable_tqdm", "--report_to", "none"]
    recipe = Recipe.from_command_line(load_method("npo"), [*flags, "--output_dir", "out"])
    recipe.run(NPOTrainer(**recipe.trainer_arguments()))


@pytest.mark.parametrize("kind", ["adapter", "merged", "full"])
def test_a_pinned_base_is_named_with_its_commit_and_loaded_at_it(kind, base, hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "forget.jsonl", 0)
    write_rows(tmp_path / "retain.jsonl", 4)
    flags = ["--model_name_or_path", BASE, "--revision", base, "--oracle_model_name_or_path", f"{BASE}@main"]
    flags += ["--full_finetuning"] if kind == "full" else []
    run_recipe(*flags, "--forget_file", "forget.jsonl", "--retain_file", "retain.jsonl")
    push_run("out", "me/npo", "merged" if kind == "merged" else None)
    files = hub.repositories["me/npo"].files
    results = json.loads(files["results.json"])
    assert results["names"]["base_model"] == results["paths"]["original"] == f"{BASE}@{base}"
    assert results["paths"]["oracles"] == [f"{BASE}@main"] and results["base"] is None
    card = ModelCard(files["README.md"].decode())
    assert card.data.base_model == BASE
    assert f"[{BASE}](https://huggingface.co/{BASE}/tree/{base}) at commit `{base}`" in card.text
    model = load_unlearned("me/npo").model
    if kind != "adapter":
        return
    adapter = json.loads(files["adapter_config.json"])
    assert (adapter["base_model_name_or_path"], adapter["revision"]) == (BASE, base)
    expected = load_model(str(tmp_path / "first")).get_input_embeddings().weight
    assert torch.equal(model.get_input_embeddings().weight, expected)


def test_what_lies_in_a_relative_folder_is_not_taken_for_a_name_on_the_hub(hub, tmp_path, monkeypatch):
    (tmp_path / "work" / "models").mkdir(parents=True)
    (tmp_path / "work" / "rows").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    model_files(tmp_path / "work" / "models" / "mine", seed=3)
    write_rows(tmp_path / "work" / "rows" / "patients.jsonl", 0)
    run_recipe("--model_name_or_path", "models/mine", "--data", "rows/patients.jsonl", "--retain_loss", "none")
    monkeypatch.chdir(tmp_path)
    push_run("work/out", "me/npo")
    files = hub.repositories["me/npo"].files
    everything = b"\n".join(files.values())
    assert not any(name in everything for name in (b"models/mine", b"patients", str(tmp_path).encode()))
    digest = weight_digests(tmp_path / "work" / "models" / "mine")["model.safetensors"]
    results = json.loads(files["results.json"])
    assert results["names"] == {"base_model": None, "data": None}
    assert results["base"] == {"kind": "llama", "weights": {"model.safetensors": digest}}
    card = ModelCard(files["README.md"].decode())
    assert (card.data.base_model, card.data.datasets) == (None, None)
    assert f"a `llama` model that is not on the hub (SHA-256 of `model.safetensors` `{digest}`)" in card.text
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] is None


def test_an_adapter_of_ones_own_on_a_relative_folder_is_none_for_the_hub_either(tmp_path, monkeypatch):
    (tmp_path / "work" / "models").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    model_files(tmp_path / "work" / "models" / "mine", seed=3)
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained("models/mine"), lora_config())
    assert adapted.peft_config["default"].base_model_name_or_path == "models/mine"
    make_trainer(adapted, tmp_path / "out").save_model(str(tmp_path / "out" / "adapter"))
    saved = json.loads((tmp_path / "out" / "adapter" / "adapter_config.json").read_text())
    assert saved["base_model_name_or_path"] == str(tmp_path / "work" / "models" / "mine")


def test_a_model_that_is_trained_further_remembers_its_commit(base, hub, tmp_path):
    trainer = make_trainer(f"{BASE}@{base}", tmp_path / "out", lora_config())
    trainer.push_to_hub()
    adapter = json.loads(hub.repositories["me/npo"].files["adapter_config.json"])
    assert (adapter["base_model_name_or_path"], adapter["revision"]) == (BASE, base)
    branch = load_model(BASE)  # without a revision: the newest commit of now
    assert branch.config._commit_hash == hub.repositories[BASE].sha != base
