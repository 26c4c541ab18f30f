"""Models, adapters and oracles: found before any weight is loaded or, of the original, before anything is trained."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from bad_commands import MODEL, QUICK, RECIPE, ROWS, change_json
from builders import tiny_model, tiny_tokenizer, with_trained_adapter
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BertConfig,
    BertForMaskedLM,
    LlamaForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
)

from llm_unlearn import InputError
from llm_unlearn.models.loading import load_model


def cut(name: str, size: int) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


def write(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(text)


def remove(*names: str) -> Callable[[Path], None]:
    return lambda folder: [(folder / name).unlink() for name in names]


def change(name: str, **values) -> Callable[[Path], None]:
    return lambda folder: change_json(folder / name, **values)


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"abc")


def other_class(folder: Path) -> None:
    shutil.rmtree(folder)
    sizes = {"vocab_size": len(tiny_tokenizer()), "hidden_size": 32, "intermediate_size": 32}
    BertForMaskedLM(BertConfig(**sizes, num_hidden_layers=1, num_attention_heads=2)).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)


def encoder_decoder(folder: Path) -> None:
    shutil.rmtree(folder)
    sizes = {"vocab_size": len(tiny_tokenizer()), "d_model": 32, "d_ff": 32, "d_kv": 16}
    T5ForConditionalGeneration(T5Config(**sizes, num_layers=1, num_heads=2)).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)


def classifier(tied: bool) -> Callable[[Path], None]:
    """The body of a language model loads from it, and where embeddings are tied so does a head."""

    def build(folder: Path) -> None:
        config = AutoConfig.from_pretrained(folder)
        config.tie_word_embeddings, config.pad_token_id = tied, 1
        LlamaForSequenceClassification(config).save_pretrained(folder)

    return build


def small(**changes) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        tiny_model(changes.pop("family", "llama"), **changes).save_pretrained(folder)

    return build


def other_words(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    words["Where"], words["lives"] = words["lives"], words["Where"]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"
# what is done to a copy of the model's folder, and the words of the error
MODELS = {
    "no config": (remove(CONFIG), ["the folder 'broken' has none of config.json, adapter_config.json"]),
    "config cut off": (cut(CONFIG, 30), ["broken/config.json is not valid JSON", "download or save it again"]),
    "config is a list": (write(CONFIG, "[]"), ["broken/config.json holds a list, not an object"]),
    "config without a type": (write(CONFIG, "{}"), ["has no model_type"]),
    "unknown type": (change(CONFIG, model_type="nonsense"), ["config.json cannot be used", "`nonsense`"]),
    "impossible sizes": (change(CONFIG, num_attention_heads=5), ["config.json cannot be used"]),
    "code of its own": (
        change(CONFIG, model_type="own", auto_map={"AutoConfig": "own.Own"}),
        ["config.json cannot be used", "contains custom code"],
    ),
    "no weights": (remove(WEIGHTS), ["has no weights (model.safetensors is missing)"]),
    "weights cut off": (cut(WEIGHTS, 20_000), ["model.safetensors is damaged", "download or save it again"]),
    "empty weights": (cut(WEIGHTS, 0), ["model.safetensors is damaged"]),
    "a pointer of Git LFS": (
        write(WEIGHTS, "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        ["model.safetensors is damaged", "a pointer of Git LFS"],
    ),
    "an index of missing parts": (
        write("model.safetensors.index.json", '{"weight_map": {"lm_head.weight": "model-00001.safetensors"}}'),
        ["model-00001.safetensors is damaged", "No such file"],
    ),
    "pickled weights, broken": (
        pickled,
        ["model.safetensors is missing", "only safetensors are loaded", "convert the weights"],
    ),
    "more tokens than weights": (
        change(CONFIG, vocab_size=100),
        ["weights do not fit its config.json", "(52, 32), not (100, 32)"],
    ),
    "more layers than weights": (
        change(CONFIG, num_hidden_layers=3),
        ["its files lack 9 weights", "model.layers.2.input_layernorm.weight"],
    ),
    "weights of another family": (
        change(CONFIG, model_type="gpt2", architectures=["GPT2LMHeadModel"]),
        ["its files lack 28 weights", "transformer.h.0"],
    ),
    "an encoder": (other_class, ["is of type 'bert', which is no causal language model"]),
    "an encoder and a decoder": (encoder_decoder, ["is of type 't5', which is no causal language model"]),
    "a classifier": (classifier(False), ["is a LlamaForSequenceClassification, which is no causal language model"]),
    "a classifier, tied": (classifier(True), ["is a LlamaForSequenceClassification, which is no causal language"]),
    "no tokenizer": (remove(TOKENIZER, "tokenizer_config.json"), ["the folder 'broken' has none of tokenizer.json"]),
    "tokenizer cut off": (cut(TOKENIZER, 100), ["tokenizer 'broken' could not be loaded"]),
    "tokenizer of something else": (write(TOKENIZER, "{}"), ["tokenizer 'broken' could not be loaded", "KeyError"]),
    "broken chat template": (write("chat_template.jinja", "{% for %}"), ["chat template rejects the messages"]),
    "a template without answers": (
        write("chat_template.jinja", "{{ messages[0].content }}"),
        ["the chat template of 'broken' does not show the assistant's message"],
    ),
    "no end token": (
        change("tokenizer_config.json", eos_token=None, pad_token=None),
        ["the tokenizer of 'broken' has no end token: name one", "tokenizer_config.json", "no pad token either"],
    ),
    "fewer embeddings than tokens": (
        small(vocab_size=40),
        ["has embeddings for 40 tokens", "resize the model's embeddings"],
    ),
    "fewer positions than tokens": (
        small(family="gpt2", n_positions=8),
        ["has 8 positions", "rows have up to 12 tokens", "--max_length 8"],
    ),
    "fewer positions than tokens of a style": (
        small(family="gpt2", n_positions=32),
        ["has 32 positions, too few for forget_few_shot answers row", "give --max_length 32"],
    ),
}


def test_positions_for_what_is_generated_are_counted_before_training(place, refused):
    tiny_model("gpt2", n_positions=30).save_pretrained("original")
    words = ["'original' has 30 positions, too few for the prompt of forget answers row 2 (8 tokens) and up to 24 new"]
    for flags in ([], ["--dry_run"]):
        refused(RECIPE, [*MODEL, *ROWS, *QUICK, "--max_length", "30", *flags], *words)
    refused("benchmarks/judge.py", [*MODEL, *ROWS, "--attacks", "none", "--max_length", "30"], *words)


@pytest.mark.parametrize("name", MODELS)
def test_models(name, place, refused):
    breaking, words = MODELS[name]
    shutil.copytree("original", "broken")
    breaking(Path("broken"))
    refused(RECIPE, ["--model_name_or_path", "broken", *ROWS, *QUICK], *words)


ADAPTER, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
ADAPTERS = {
    "config cut off": (cut(ADAPTER, 30), ["adapter_config.json is not valid JSON"]),
    "base that is nowhere": (
        change(ADAPTER, base_model_name_or_path="/nowhere/base"),
        ["its base model cannot be used: model path '/nowhere/base' does not exist", "base_model_name_or_path in"],
    ),
    "no base": (change(ADAPTER, base_model_name_or_path=None), ["has no base_model_name_or_path"]),
    "no weights": (remove(ADAPTER_WEIGHTS), ["has no weights (adapter_model.safetensors is missing)"]),
    "weights cut off": (cut(ADAPTER_WEIGHTS, 5000), ["adapter_model.safetensors is damaged"]),
    "prompt tuning": (change(ADAPTER, peft_type="PROMPT_TUNING"), ["'broken' is of type PROMPT_TUNING, which adds"]),
    "prefix tuning": (change(ADAPTER, peft_type="PREFIX_TUNING"), ["'broken' is of type PREFIX_TUNING, which adds"]),
    "of a classifier": (change(ADAPTER, task_type="SEQ_CLS"), ["'broken' has the task_type 'SEQ_CLS', which is no"]),
}
# found when the weights are loaded: no benchmark has judged anything by then
ADAPTERS_LOADED = {
    "unknown kind": (change(ADAPTER, peft_type="LORAX"), ["could not be loaded: KeyError 'LORAX'"]),
    "other rank": (change(ADAPTER, r=8), ["could not be loaded", "size mismatch for", "lora_A"]),
    "other modules": (
        change(ADAPTER, target_modules=["q_proj"]),
        ["adapter_model.safetensors and adapter_config.json do not belong together", "take both from one adapter"],
    ),
    "modules that the base lacks": (change(ADAPTER, target_modules=["c_attn"]), ["'c_attn'", "not found"]),
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_adapters(name, place, refused):
    breaking, words = ADAPTERS[name]
    shutil.copytree("adapter", "broken")
    breaking(Path("broken"))
    unlearned = ["--unlearned_model_name_or_path", "broken"]
    refused("benchmarks/adversarial_reinjection.py", [*MODEL, *ROWS, *unlearned], *words)


@pytest.mark.parametrize("name", ADAPTERS_LOADED)
def test_adapters_whose_weights_do_not_fit(name, place, refused):
    breaking, words = ADAPTERS_LOADED[name]
    shutil.copytree("adapter", "broken")
    tiny_tokenizer().save_pretrained("broken")
    breaking(Path("broken"))
    refused("benchmarks/adversarial_reinjection.py", ["--model_name_or_path", "broken", *ROWS], *words)


def test_an_adapter_on_resized_embeddings_is_loaded_on_as_many_and_needs_both_ends(place):
    for tied in (False, True):
        tiny_model(tie_word_embeddings=tied).save_pretrained("base")
        base = AutoModelForCausalLM.from_pretrained("base")
        base.resize_token_embeddings(56, mean_resizing=False)
        adapted = with_trained_adapter(base)
        adapted.save_pretrained("resized")
        loaded = load_model("resized")
        ids = torch.arange(56)[None]
        assert torch.equal(loaded(input_ids=ids).logits, adapted.eval()(input_ids=ids).logits)
        file = place / "resized" / "adapter_model.safetensors"
        weights = load_file(file)
        weights.pop("base_model.model.lm_head.weight", None)
        save_file(weights, file, metadata={"format": "pt"})
        if tied:
            load_model("resized")
        else:
            with pytest.raises(InputError, match="has 56 input embeddings and its base model 52, but it lacks the out"):
                load_model("resized")


def test_an_adapter_cannot_be_unlearned(place, refused):
    tiny_tokenizer().save_pretrained("adapter")
    for more in ([], ["--full_finetuning"]):
        flags = ["--model_name_or_path", "adapter", *ROWS, *QUICK, *more]
        refused(RECIPE, flags, "model_name_or_path='adapter' is an adapter", "merge it into its base first")


PATHS = {
    "a file": ("forget.jsonl", ["model path 'forget.jsonl' is a file"]),
    "nothing": ("", ["model path '' is empty"]),
    "no such folder": ("./missing", ["model path './missing' does not exist (looked in"]),
    "no such model on the hub": ("nobody/nothing", ["'nobody/nothing' could not be loaded", "this machine can reach"]),
    "no name": ("a b c", ["'a b c' is neither a local folder nor an id of the hub"]),
}


@pytest.mark.parametrize("name", PATHS)
def test_paths(name, refused):
    path, words = PATHS[name]
    refused(RECIPE, ["--model_name_or_path", path, *ROWS, *QUICK], *words)


ORACLES = {
    "missing": (["a/b/c"], None, ["model path 'a/b/c' does not exist"]),
    "the original itself": (["./original"], None, ["'./original' is the model to unlearn itself"]),
    "one oracle twice": (["oracle", "oracle/"], None, ["'oracle/' is given twice"]),
    "weights cut off": (["oracle"], cut(WEIGHTS, 20_000), ["oracle/model.safetensors is damaged"]),
    "another tokenizer": (["oracle"], other_words, ["oracle 'oracle' has another tokenizer than original 'original'"]),
    "fewer embeddings": (["oracle"], small(vocab_size=40), ["oracle 'oracle' has embeddings for 40 tokens"]),
    "an encoder": (["oracle"], other_class, ["'oracle' is of type 'bert'"]),
}
COMMANDS = (RECIPE, "benchmarks/adversarial_reinjection.py", "benchmarks/tofu.py", "benchmarks/influence.py")


@pytest.mark.parametrize("name", ORACLES)
def test_oracles(name, place, refused):
    paths, breaking, words = ORACLES[name]
    if breaking:
        breaking(place / "oracle")
    command = COMMANDS[[*ORACLES].index(name) % len(COMMANDS)]
    quick = QUICK if command == RECIPE else []
    refused(command, [*MODEL, *ROWS, *quick, "--oracle_model_name_or_path", *paths], *words)


NOT_FINITE = {
    "the model": (RECIPE, "original", [*QUICK], ["'original', model.safetensors: its weight model.norm.weight is not"]),
    "an oracle": (
        RECIPE,
        "oracle",
        [*QUICK, "--oracle_model_name_or_path", "oracle"],
        ["'oracle', model.safetensors: its weight model.norm.weight is not finite"],
    ),
    "an unlearned model": (
        "benchmarks/judge.py",
        "adapter",
        ["--unlearned_model_name_or_path", "adapter"],
        ["'adapter', adapter_model.safetensors: its weight ", "lora_A"],
    ),
    "a model that is audited": (
        "benchmarks/influence.py",
        "oracle",
        ["--oracle_model_name_or_path", "oracle", "--attack_steps", "0"],
        ["'oracle', model.safetensors: its weight model.norm.weight is not finite"],
    ),
    "a model that is judged": (
        "benchmarks/tofu.py",
        "original",
        [],
        ["'original', model.safetensors: its weight model.norm.weight is not finite"],
    ),
}


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
@pytest.mark.parametrize("name", NOT_FINITE)
def test_weights_that_are_not_numbers(name, value, place, refused):
    """Headers say nothing of it, and an oracle is loaded only when training is done: its values are read before."""
    command, folder, flags, words = NOT_FINITE[name]
    file = next((place / folder).glob("*.safetensors"))
    weights = load_file(file)
    wanted = "model.norm.weight" if folder != "adapter" else min(key for key in weights if "lora_A" in key)
    weights[wanted].view(-1)[3] = value
    save_file(weights, file, metadata={"format": "pt"})
    refused(command, [*MODEL, *ROWS, *flags], *words)


def test_models_of_bad_weights_are_not_loaded(place):
    for folder, words in (
        ("original", "model .*original.*: its weight model.norm.weight is"),
        ("adapter", "adapter .*: "),
    ):
        file = next((place / folder).glob("*.safetensors"))
        weights = load_file(file)
        weights["model.norm.weight" if folder == "original" else min(weights)].view(-1)[0] = float("inf")
        (place / "good").mkdir(exist_ok=True)
        shutil.copytree(folder, f"good/{folder}")
        save_file(weights, f"good/{folder}/{file.name}", metadata={"format": "pt"})
        with pytest.raises(InputError, match=words + ".*not finite"):
            load_model(f"good/{folder}")
