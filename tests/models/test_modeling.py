"""Blocks found by structure, and loading with errors that name the fix."""

import copy
import json
import os
from pathlib import Path

import pytest
import torch
from builders import FAMILIES, mixed_batch, tiny_model, tiny_tokenizer, with_trained_adapter
from peft import PeftModel
from torch import nn

from llm_unlearn.errors import InputError
from llm_unlearn.models import loading as modeling
from llm_unlearn.models.files import check_rows_fit
from llm_unlearn.models.loading import decoder_layers, load_model, load_tokenizer, split_revision, with_pad_token


@pytest.mark.parametrize("family", FAMILIES)
def test_decoder_layers(family):
    model = tiny_model(family)
    body = model.base_model
    expected = body.h if family == "gpt2" else body.layers
    assert decoder_layers(model) is expected
    adapted = with_trained_adapter(model)
    assert len(decoder_layers(adapted)) == 2 and type(decoder_layers(adapted)[0]) is type(expected[0])


def test_decoder_layers_by_structure():
    class Experts(nn.Module):
        def __init__(self):
            super().__init__()
            self.experts = nn.ModuleList(nn.Linear(2, 2) for _ in range(8))

    model = nn.Module()
    model.towers = nn.ModuleList([nn.Linear(2, 2)])
    model.blocks = nn.ModuleList([Experts(), Experts(), Experts()])
    assert decoder_layers(model) is model.blocks  # neither the longer lists inside nor the shorter one outside
    with pytest.raises(InputError, match="Linear has no list of transformer blocks"):
        decoder_layers(nn.Linear(2, 2))


def test_load_model_and_tokenizer_from_a_folder(tmp_path, monkeypatch):
    model, batch = tiny_model(), mixed_batch()
    model.save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    loaded, tokenizer = load_model("./model"), load_tokenizer("./model")
    assert torch.equal(loaded(input_ids=batch["input_ids"]).logits, model(input_ids=batch["input_ids"]).logits)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == 1
    assert Path(loaded.config._name_or_path).is_absolute()  # an adapter saved later must find its base from anywhere
    assert load_model("./model", dtype="bfloat16").dtype == torch.bfloat16


def test_load_model_from_an_adapters_folder(tmp_path):
    tiny_model().save_pretrained(tmp_path / "base")
    adapted = with_trained_adapter(load_model(str(tmp_path / "base")))
    adapted.save_pretrained(tmp_path / "adapter")
    loaded = load_model(str(tmp_path / "adapter"))
    assert isinstance(loaded, PeftModel)
    ids = mixed_batch()["input_ids"]
    torch.testing.assert_close(loaded(input_ids=ids).logits, adapted(input_ids=ids).logits)
    assert not loaded.training
    assert {name for name, p in loaded.named_parameters() if p.requires_grad} == {
        name for name, _ in loaded.named_parameters() if "lora_" in name
    }


def test_an_adapter_without_its_base_model_is_an_error(tmp_path):
    tiny_model().save_pretrained(tmp_path / "base")
    with_trained_adapter(load_model(str(tmp_path / "base"))).save_pretrained(tmp_path / "adapter")
    (tmp_path / "base").rename(tmp_path / "elsewhere")
    with pytest.raises(InputError) as caught:
        load_model(str(tmp_path / "adapter"))
    assert f"{tmp_path}/base" in str(caught.value)


@pytest.mark.parametrize("load", [load_model, load_tokenizer])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("{folder}/nothing", "model path '{folder}/nothing' does not exist (looked in {folder}/nothing)"),
        ("./nothing", "model path './nothing' does not exist (looked in "),
        ("a/b/c", "model path 'a/b/c' does not exist (looked in "),
        ("{folder}/empty", "the folder '{folder}/empty' has none of "),
        ("{folder}/broken", "{folder}/broken"),
        ("nobody/no-such-model", " 'nobody/no-such-model' could not be loaded: "),
    ],
)
def test_load_errors(load, name, message, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    for file in ("config.json", "tokenizer.json"):
        (tmp_path / "broken" / file).write_text("{")
    with pytest.raises(InputError) as caught:
        load(name.format(folder=tmp_path))
    assert message.format(folder=tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_dtype():
    with pytest.raises(InputError, match="dtype='fp8' is unknown; choose one of auto, float32, bfloat16, float16"):
        load_model("anything", dtype="fp8")


def test_pad_token():
    tokenizer = copy.deepcopy(tiny_tokenizer())
    tokenizer.pad_token = "Ann"
    assert with_pad_token(tokenizer).pad_token == "Ann"
    tokenizer.pad_token = tokenizer.eos_token = None
    with pytest.raises(
        InputError, match=r"has no end token: name one .* tokenizer_config\.json .* no pad token either"
    ):
        with_pad_token(tokenizer)


def test_tests_run_offline():
    assert os.environ["HF_HUB_OFFLINE"] == "1"


def test_small_models_get_one_thread_unless_more_are_asked_for(monkeypatch):
    before, chosen = torch.get_num_threads(), []
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    modeling.use_suitable_cpu_threads(tiny_model())
    assert chosen == [1]
    monkeypatch.setattr(modeling, "SMALL_MODEL", 1000)
    modeling.use_suitable_cpu_threads(tiny_model())
    monkeypatch.setattr(modeling, "SMALL_MODEL", 10**9)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    modeling.use_suitable_cpu_threads(tiny_model())
    assert chosen == [1] and torch.get_num_threads() == before


@pytest.mark.parametrize("processes, expected", [("1", 8), ("2", 4), ("3", 2), ("16", 1)])
def test_processes_of_a_machine_share_its_cores_also_where_affinity_is_unknown(processes, expected, monkeypatch):
    chosen = []
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    modeling.use_all_cpu_threads()
    monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    modeling.use_all_cpu_threads()
    assert chosen == [expected, expected]


@pytest.mark.parametrize("launcher", [*modeling.LAUNCHED, None])
@pytest.mark.parametrize("flags", [[], ["--num_cpu_threads_per_process", "1"]])
@pytest.mark.parametrize("given, told", [(None, None), (None, "1"), ("1", "1"), ("2", "2")])
def test_a_users_number_of_threads_is_kept_and_a_launchers_is_not(given, told, flags, launcher, monkeypatch):
    """`given` to the launcher, which was started with `flags` and has `told` its process."""
    chosen = []
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    for name in ("OMP_NUM_THREADS", *modeling.LAUNCHED):
        monkeypatch.delenv(name, raising=False)
    for name, value in ((launcher, "no"), ("OMP_NUM_THREADS", told)):
        if name is not None and value is not None:
            monkeypatch.setenv(name, value)
    started_in = {} if given is None else {"OMP_NUM_THREADS": given}

    class Launcher:
        def __init__(self, number):
            assert number == os.getppid()

        def environ(self):
            return started_in

        def cmdline(self):
            return ["accelerate", "launch", *flags]

    monkeypatch.setattr(modeling.psutil, "Process", Launcher)
    modeling.use_all_cpu_threads()
    modeling.use_suitable_cpu_threads(tiny_model())
    is_the_users = told == "2" or (told == "1" and (launcher is None or given == "1" or bool(flags)))
    assert chosen == ([] if is_the_users else [modeling.usable_cores(), 1])


@pytest.mark.parametrize(
    "answer_at, fix", [(4, "row 0, whose prompt alone has 4; then give"), (2, "give --max_length 3")]
)
def test_the_fix_for_too_many_tokens_is_one_that_works(answer_at, fix):
    config = tiny_model().config
    config.max_position_embeddings = 3
    labels = [-100] * answer_at + [1] * (5 - answer_at)
    with pytest.raises(InputError, match=f"m has 3 positions, but rows have up to 5 tokens: .*{fix}"):
        check_rows_fit(config, [{"input_ids": [1] * 5, "labels": labels}], 0, "m")


def test_only_safetensors_are_loaded(tmp_path):
    folder = tmp_path / "pickled"
    model = tiny_model()
    model.config.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="only safetensors are loaded, for other formats may hold code"):
        load_model(str(folder))
    with_trained_adapter(model).save_pretrained(tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_model.safetensors").rename(tmp_path / "adapter" / "adapter_model.bin")
    with pytest.raises(InputError, match=r"adapter_model\.safetensors is missing\); only safetensors"):
        load_model(str(tmp_path / "adapter"))


def test_code_that_comes_with_a_model_runs_only_if_asked_for(tmp_path):
    folder, witness = tmp_path / "model", tmp_path / "it-ran"
    folder.mkdir()
    code = {"AutoConfig": "code_of_a_model.Config", "AutoModelForCausalLM": "code_of_a_model.Model"}
    (folder / "config.json").write_text(json.dumps({"model_type": "of-its-own", "auto_map": code}))
    (folder / "code_of_a_model.py").write_text(f"open({str(witness)!r}, 'w').close()\nraise ValueError('ran')\n")
    with pytest.raises(InputError, match=r"contains custom code .* give --trust_remote_code to run it"):
        load_model(str(folder))
    assert not witness.exists()
    with pytest.raises(InputError, match="ran"):
        load_model(str(folder), trust_remote_code=True)
    assert witness.exists()


def test_a_hub_id_may_name_its_revision(tmp_path, monkeypatch):
    assert split_revision("owner/name@v1.0") == ("owner/name", "v1.0")
    assert split_revision("owner/name@refs/pr/3") == ("owner/name", "refs/pr/3")
    assert split_revision("owner/name") == ("owner/name", None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "me@home").mkdir()
    assert split_revision("me@home") == ("me@home", None)  # a folder
