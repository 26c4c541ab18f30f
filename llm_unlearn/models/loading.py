"""Loading models and tokenizers, and what is asked of them before they are run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import psutil
import torch
from datasets import Dataset
from huggingface_hub import snapshot_download
from peft import PeftConfig, PeftModel, get_peft_model_state_dict
from safetensors import safe_open
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from llm_unlearn.data.chat_templates import NO_END_TOKEN, set_template_arguments
from llm_unlearn.data.encoding import encode_dataset
from llm_unlearn.data.hub_lookup import check_on_hub
from llm_unlearn.errors import InputError
from llm_unlearn.models.files import (
    ONLY_SAFETENSORS,
    check_adapter_kind,
    check_finite,
    check_model_path,
    check_rows_fit,
    check_saved_weights,
    config_of,
    hub_commit,
    is_adapter,
    local_folder,
    reason,
    split_revision,
)
from llm_unlearn.models.sharding import whole_models
from llm_unlearn.models.smollm2 import located

DTYPES = {"auto": "auto", "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

LAUNCHED = ("ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID")  # what launchers tell the processes they start

SMALL_MODEL = 4_000_000  # parameters, below which more threads than one slow a model down

_ADAPTER = ("adapter_config.json", "adapter_model.safetensors")


@whole_models()
def load_model(
    name_or_path: str,
    dtype: str = "auto",
    quantization_config: BitsAndBytesConfig | None = None,
    device: torch.device | str = "cpu",
    *,
    trust_remote_code: bool = False,
    base_model: str | None = None,
    is_trainable: bool = True,
    **kwargs,
) -> PreTrainedModel | PeftModel:
    """Load a causal LM, or a PEFT adapter on its base model (then a `PeftModel`), from a local folder or the hub.

    Only safetensors are read, and no code that comes with a model is run unless asked for. The model is whole in every
    process, also where training will shard it.

    Args:
        name_or_path: "name@revision" pins a hub id to a branch, tag or commit.
        quantization_config: as of `quantization_config`; a model that is loaded whole needs none.
        device: where quantized weights are put (they are made there); others are loaded to the CPU.
        trust_remote_code: run the model's own code from the hub.
        base_model: an adapter's base, where it is not the one that the adapter names.
        is_trainable: of an adapter.

    Raises:
        InputError: as `check_model_path`, or the weights do not fit the configuration, or the adapter its base.
    """
    if dtype not in DTYPES:
        raise InputError(f"dtype={dtype!r} is unknown; choose one of {', '.join(DTYPES)}")
    name_or_path, base_model = located(name_or_path), base_model and located(base_model)
    check_model_path(name_or_path, trust_remote_code, base_model)
    name, revision = split_revision(name_or_path)
    if Path(name).is_dir():
        name = str(Path(name).resolve())  # an adapter saved later remembers where its base is
    kwargs |= {"dtype": DTYPES[dtype], "trust_remote_code": trust_remote_code, "use_safetensors": True}
    if quantization_config is not None:
        kwargs |= {"quantization_config": quantization_config, "device_map": {"": device}}
    try:
        if not is_adapter(name_or_path):
            return _whole_model(name, revision, **kwargs)
        # Left to itself, `from_pretrained` hides the adapter inside a plain model, which no attack would merge.
        if not Path(name).is_dir():
            name = snapshot_download(name, revision=revision, allow_patterns=list(_ADAPTER))
        if not (Path(name) / _ADAPTER[1]).is_file():
            raise InputError(f"adapter {name_or_path!r} has no {_ADAPTER[1]}: {ONLY_SAFETENSORS}")
        adapter = PeftConfig.from_pretrained(name)
        check_adapter_kind(name_or_path, adapter.peft_type, adapter.task_type)
        base = (adapter.base_model_name_or_path, adapter.revision) if base_model is None else split_revision(base_model)
        whole = _with_embeddings_of(_whole_model(*base, **kwargs), Path(name))
        adapted = PeftModel.from_pretrained(whole, name, is_trainable=is_trainable).eval()
    except (InputError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # files may be wrong in as many ways as there are libraries that read them
        fix = ONLY_SAFETENSORS if "safetensors" in str(error) else _fix(name)
        raise InputError(f"model {name_or_path!r} could not be loaded: {reason(error)}; {fix}") from error
    _check_adapter(adapted, Path(name))
    return adapted


def _whole_model(name_or_path: str, revision: str | None, **kwargs) -> PreTrainedModel:
    """A model all of whose weights came from its files: what is missing there would get random values."""
    commit = None if Path(name_or_path).is_dir() else hub_commit(name_or_path, revision)
    model, found = AutoModelForCausalLM.from_pretrained(
        name_or_path, revision=commit or "main", output_loading_info=True, ignore_mismatched_sizes=True, **kwargs
    )
    model.config._commit_hash = commit  # is not saved; an adapter remembers it, and the results name it
    if found["mismatched_keys"]:
        name, saved, expected = min(found["mismatched_keys"])
        raise InputError(
            f"model {name_or_path!r}: its weights do not fit its config.json: {name} is {tuple(saved)}, not "
            f"{tuple(expected)}; take both from one model"
        )
    if missing := sorted(found["missing_keys"]):
        raise InputError(
            f"model {name_or_path!r}: its files lack {len(missing)} weights that its config.json asks for, such as "
            f"{missing[0]}; take both from one model"
        )
    check_finite(model.named_parameters(), f"model {name_or_path!r}")
    if getattr(model, "is_loaded_in_4bit", False):
        from llm_unlearn.models.exact_quantization import exact_where_kernels_are_wrong  # needs bitsandbytes

        exact_where_kernels_are_wrong(never_repacked(model))
    return model


def _with_embeddings_of(base: PreTrainedModel, adapter: Path) -> PreTrainedModel:
    """The base itself, with as many embeddings as an adapter has that was trained on resized ones and saved them.

    Raises:
        InputError: the adapter lacks one of the two ends, whose new rows would be random.
    """
    ends = {"input": base.get_input_embeddings(), "output": base.get_output_embeddings()}
    names = {module: name for name, module in base.named_modules()}
    rows = {}
    with safe_open(adapter / _ADAPTER[1], framework="pt") as weights:
        for key in weights.keys():  # noqa: SIM118 (no mapping)
            for end, module in ends.items():
                if key in (f"base_model.model.{names.get(module)}{layer}.weight" for layer in ("", ".base_layer")):
                    rows[end] = weights.get_slice(key).get_shape()[0]
    count, current = rows.get("input"), base.get_input_embeddings().weight.shape[0]
    if count in (None, current):
        return base
    is_tied = ends["output"] is None or ends["output"].weight is ends["input"].weight
    if not is_tied and rows.get("output") != count:
        raise InputError(
            f"adapter {str(adapter)!r} has {count} input embeddings and its base model {current}, but it lacks the "
            "output embeddings that go with them: save it with save_embedding_layers=True"
        )
    base.resize_token_embeddings(count, mean_resizing=False)  # all rows are read from the adapter
    return base


def _check_adapter(model: PeftModel, folder: Path) -> None:
    """PEFT passes over what the adapter's file and its configuration do not have in common."""
    file = folder / "adapter_model.safetensors"
    if not file.is_file():
        return
    with safe_open(file, framework="pt") as weights:
        saved = {name for name in weights.keys() if "lora_" in name}  # noqa: SIM118 (no mapping)
    adapter = get_peft_model_state_dict(model, save_embedding_layers=False)
    expected = {name for name in adapter if "lora_" in name}
    if saved != expected:
        names = sorted(saved ^ expected)
        raise InputError(
            f"adapter {str(folder)!r}: adapter_model.safetensors and adapter_config.json do not belong together: "
            f"{len(names)} weights are only in one of them, such as {names[0]}; take both from one adapter"
        )
    check_finite(adapter.items(), f"adapter {str(folder)!r}")


def quantization_config(bits: int, compute_dtype: torch.dtype = torch.float32) -> BitsAndBytesConfig:
    """Base weights in 4 bits (NF4 with double quantization, as QLoRA has it, arXiv 2305.14314) or 8 (LLM.int8()).

    Raises:
        InputError: bitsandbytes is not installed or does not load.
    """
    try:
        import bitsandbytes  # noqa: F401  (an optional extra)
    except ImportError as error:
        raise InputError(
            f'load_in_{bits}bit needs bitsandbytes ({error}); install it with pip install "llm_unlearn[quantization]"'
        ) from error
    if bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype,
    )


def never_repacked(model: nn.Module) -> nn.Module:
    """The model itself, whose 4-bit weights stay as they are stored.

    Else the first forward in evaluation mode repacks them in place on processors with AVX512-BF16: it changes what is
    computed, accepts few layer sizes, and gives later gradients wrong values without an error.
    """
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False
    return model


def load_tokenizer(
    name_or_path: str, *, enable_thinking: bool | None = None, template_date: str | None = None, **kwargs
) -> PreTrainedTokenizerBase:
    """Load a tokenizer; one without a pad token pads with its end token (harmless: masks come from lengths here).

    Args:
        enable_thinking: what its chat template is told (`data.chat_templates.set_template_arguments`), as
            `template_date`; by default what was saved with it, or else False and one day for all runs.
        kwargs: of `AutoTokenizer.from_pretrained`.

    Raises:
        InputError: no tokenizer there, one with neither pad nor end token, or a chat template that does not know
            `enable_thinking`.
    """
    name_or_path = located(name_or_path)
    name, revision = split_revision(name_or_path)
    if local_folder(name, "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json") is None:
        check_on_hub(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision or "main", **kwargs)
    except Exception as error:  # as in `load_model`
        raise InputError(f"tokenizer {name_or_path!r} could not be loaded: {reason(error)}; {_fix(name)}") from error
    return set_template_arguments(with_pad_token(tokenizer), enable_thinking, template_date)


def tokenizer_of(
    model: str | PreTrainedModel | PeftModel, given: PreTrainedTokenizerBase | None = None
) -> PreTrainedTokenizerBase:
    """The tokenizer that is given, or else the one in the model's folder; it pads.

    Raises:
        InputError: none is given, and the model came from no folder; or as `load_tokenizer`.
    """
    if given is None:
        name_or_path = model if isinstance(model, str) else model.config._name_or_path
        if not name_or_path:
            raise InputError("processing_class is missing, and the model came from no folder; pass the tokenizer")
        given = load_tokenizer(name_or_path)
    return with_pad_token(given)


def with_pad_token(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The tokenizer itself, padding with its end token where it has no pad token."""
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token is None:
            raise InputError(f"{NO_END_TOKEN.format(tokenizer.name_or_path)}; it has no pad token either")
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _fix(name_or_path: str) -> str:
    if Path(name_or_path).is_dir():
        return "correct the files of that folder, or download or save it again"
    return "give a local folder, or a hub id that this machine can reach"


def check_models(
    models: Mapping[str, str],
    processing_class: PreTrainedTokenizerBase,
    forget: Dataset,
    max_length: int | None = None,
    trust_remote_code: bool = False,
) -> None:
    """Refuse models that could not be judged on the same tokens, or whose weights are no numbers; loads no model.

    Args:
        models: name -> folder or hub id; `processing_class` is the tokenizer of the first.

    Raises:
        InputError: as `check_model_path` and `check_saved_weights`; a model has too few embeddings or positions for
            the rows; or its own tokenizer gives the forget rows other tokens than that of the first.
    """
    rows = encode_dataset(forget, processing_class, max_length, "forget set")
    texts = [processing_class.decode(row["input_ids"]) for row in rows[:20]]
    first = next(iter(models))
    for name, path in models.items():
        check_model_path(path, trust_remote_code)
        check_rows_fit(config_of(path, trust_remote_code), rows, processing_class.pad_token_id, f"{name} {path!r}")
        if name != first:
            own = _own_tokenizer(path, trust_remote_code)
            if own is not None:
                _check_tokenizer(f"{name} {path!r}", own, processing_class, texts, f"{first} {models[first]!r}")
    for path in models.values():
        check_saved_weights(path)


def _own_tokenizer(path: str, trust_remote_code: bool) -> PreTrainedTokenizerBase | None:
    """Of a folder without any: None."""
    folder = Path(path)
    if folder.is_dir() and not any(folder.glob("tokenizer*")):
        return None
    return load_tokenizer(path, trust_remote_code=trust_remote_code)


def _check_tokenizer(
    name: str, own: PreTrainedTokenizerBase, processing_class: PreTrainedTokenizerBase, texts: list[str], original: str
) -> None:
    """A model with a tokenizer of its own must give the same tokens: rows are encoded once, for all models."""
    for text in texts:
        ids, expected = (one(text, add_special_tokens=False)["input_ids"] for one in (own, processing_class))
        if ids != expected:
            raise InputError(
                f"{name} has another tokenizer than {original} ({text!r:.60} becomes {ids[:8]}, not "
                f"{expected[:8]}): compare models that were made from one base model"
            )


def usable_cores() -> int:
    """Cores that this process may run on; macOS and Windows tell only how many there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_all_cpu_threads() -> None:
    """Undo the OMP_NUM_THREADS=1 of `accelerate launch` and torchrun on machines without a GPU: it halves the speed.

    Each process of this machine gets its share of the cores, and at least one. What the user has set is kept.
    """
    if torch.cuda.is_available() or _user_chose_threads():
        return
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(max(1, usable_cores() // processes))


def use_suitable_cpu_threads(model: nn.Module) -> None:
    """One thread where `model` lies on a CPU and is small: its kernels end sooner than another thread wakes up.

    Measured on 2 cores, a Ssiuu step of a Llama of 1.07 M parameters: 150 ms with one thread, 287 ms with two. What is
    computed does not depend on the number of cores then, either. An OMP_NUM_THREADS that the user has set is kept.
    """
    if model.device.type != "cpu" or _user_chose_threads():
        return
    if sum(parameter.numel() for parameter in model.parameters()) < SMALL_MODEL:
        torch.set_num_threads(1)


def _user_chose_threads() -> bool:
    """Whether OMP_NUM_THREADS is the user's: a launcher sets it to 1 for the processes that it starts, unasked."""
    if (value := os.environ.get("OMP_NUM_THREADS")) is None:
        return False
    if value != "1" or not any(name in os.environ for name in LAUNCHED):
        return True
    launcher = psutil.Process(os.getppid())
    try:
        return "OMP_NUM_THREADS" in launcher.environ() or "--num_cpu_threads_per_process" in launcher.cmdline()
    except psutil.Error:  # no process tells another one's environment here
        return False


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """The model's transformer blocks, found by structure: the longest `ModuleList` outside any other.

    Raises:
        InputError: the model has no list of blocks.
    """
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) > 0]
    nested = {id(inner) for outer in lists for child in outer for inner in child.modules()}
    outermost = [module for module in lists if id(module) not in nested]
    if not outermost:
        raise InputError(f"{type(model).__name__} has no list of transformer blocks")
    return max(outermost, key=len)


def check_block(model: nn.Module, number: int, name: str) -> None:
    """Refuse a number that none of the model's blocks has.

    Args:
        name: of what holds the number, for the error.

    Raises:
        InputError: the message says which there are.
    """
    if number not in range(blocks := len(decoder_layers(model))):
        raise InputError(f"{name}={number!r}: the model has no such block; it has blocks 0 to {blocks - 1}")


def limited_positions(model: PreTrainedModel) -> int | None:
    """How many positions a model has embeddings for, learned or tabulated; None where it computes them."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if positions is None:
        return None
    tokens = model.get_input_embeddings().weight
    tables = [one.weight for one in model.modules() if isinstance(one, nn.Embedding) and one.weight is not tokens]
    tables += [buffer for name, buffer in model.named_buffers() if name.endswith("embed_positions")]
    # OPT and its kin keep two rows before the first position.
    return positions if any(len(table) in (positions, positions + 2) for table in tables) else None
