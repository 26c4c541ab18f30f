"""What can be known about models before their weights are loaded: whether they are there, whole, and fit the rows.

A run loads its oracles only when training is done. What is wrong with them is found here, before it begins.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from peft import PeftConfig, PeftType
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from safetensors import SafetensorError, safe_open
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoConfig,
    PreTrainedConfig,
)
from transformers.utils import cached_file, find_adapter_config_file

from llm_unlearn.data.collators import EncodedRow
from llm_unlearn.data.encoding import IGNORED
from llm_unlearn.data.hub_lookup import check_on_hub
from llm_unlearn.errors import InputError
from llm_unlearn.models.smollm2 import located

AGAIN = "download or save it again"
OTHER_TASKS = ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS", "SEQ_2_SEQ_LM")  # of adapters, as PEFT calls them
OTHER_HEADS = ("Classification", "QuestionAnswering", "MultipleChoice", "RewardModel")  # in names of model classes
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
ONLY_SAFETENSORS = (
    "only safetensors are loaded, for other formats may hold code: convert the weights, or pin a revision that has them"
)


def split_revision(name_or_path: str) -> tuple[str, str | None]:
    """A hub id and the revision that it is pinned to: "name@revision"; a folder's name may have any letter."""
    if "@" not in name_or_path or Path(name_or_path).is_dir():
        return name_or_path, None
    name, _, revision = name_or_path.partition("@")
    return name, revision


def hub_commit(name_or_path: str, revision: str | None = None) -> str | None:
    """The commit that a branch or tag of a model on the hub stands for now; None for a folder."""
    file = Path(cached_file(name_or_path, "config.json", revision=revision or "main"))
    return file.parent.name if file.parent.parent.name == "snapshots" else None


def check_model_path(name_or_path: str, trust_remote_code: bool = False, base_model: str | None = None) -> None:
    """Refuse what cannot be loaded as a causal LM, or as an adapter on one; of its weights, only headers are read.

    Args:
        trust_remote_code: the model may be of a kind that its own code defines.
        base_model: an adapter's base, where it is not the one that the adapter names.

    Raises:
        InputError: the folder does not exist, holds no model or a damaged one, or no causal LM; the adapter's base is
            not there, or it has no base's weights to go into; or the hub has no such model.
    """
    name_or_path = located(name_or_path)
    path = local_folder(name_or_path, "config.json", "adapter_config.json")
    if path is None:
        check_on_hub(split_revision(name_or_path)[0])
        return
    if (path / "config.json").is_file():
        _check_config(path, trust_remote_code)
        _check_weights(path, "model")
        return
    _check_weights(path, "adapter_model")
    config = _read_object(path / "adapter_config.json")
    check_adapter_kind(name_or_path, config.get("peft_type"), config.get("task_type"))
    base = base_model or _base_of(path)
    try:
        check_model_path(base, trust_remote_code)
    except InputError as error:
        raise InputError(
            f"adapter {name_or_path!r}: its base model cannot be used: {error}. Where the base lies is "
            f"base_model_name_or_path in {path / 'adapter_config.json'}"
        ) from error


def check_adapter_kind(name: str, peft_type: str | None, task_type: str | None) -> None:
    """Refuse adapters that are none of a causal LM, or that no base model's weights can take in.

    Raises:
        InputError: the message has the adapter's kind, and what to give instead.
    """
    if task_type in OTHER_TASKS:
        raise InputError(
            f"adapter {name!r} has the task_type {task_type!r}, which is no causal language model's; give one that has "
            "CAUSAL_LM"
        )
    tuner = PEFT_TYPE_TO_TUNER_MAPPING.get(peft_type)
    if tuner is not None and not hasattr(tuner, "merge_and_unload"):
        raise InputError(
            f"adapter {name!r} is of type {PeftType(peft_type).value}, which adds inputs and cannot be merged into "
            "weights: what is attacked and pushed would not be what is scored; give one that can be, such as LORA"
        )


def is_adapter(name_or_path: str) -> bool:
    """Whether a folder or hub id holds an adapter and no whole model."""
    name_or_path = located(name_or_path)
    path = Path(name_or_path)
    if path.is_dir():
        return not (path / "config.json").is_file() and (path / "adapter_config.json").is_file()
    name, revision = split_revision(name_or_path)
    return find_adapter_config_file(name, revision=revision) is not None


def check_rows_fit(config: PreTrainedConfig, rows: Sequence[EncodedRow], pad_token_id: int | None, name: str) -> None:
    """Refuse a model with fewer embeddings than the tokenizer has tokens in use, or with too few positions.

    Raises:
        InputError: the message has both numbers and the fix; `name` is what it calls the model.
    """
    text_config = config.get_text_config()
    vocabulary = getattr(text_config, "vocab_size", None)
    largest = max(max(max(row["input_ids"]) for row in rows), pad_token_id or 0)
    if vocabulary is not None and largest >= vocabulary:
        raise InputError(
            f"{name} has embeddings for {vocabulary} tokens, but its tokenizer gives the rows token {largest}: take "
            "the tokenizer that the model was trained with, or resize the model's embeddings and save it"
        )
    positions = getattr(text_config, "max_position_embeddings", None)
    longest = max(len(row["input_ids"]) for row in rows)
    if positions is not None and longest > positions > 0:
        prompts = [sum(label == IGNORED for label in row["labels"]) for row in rows]
        too_long = [number for number, prompt in enumerate(prompts) if prompt >= positions]
        fix = f"give --max_length {positions}"
        if too_long:
            fix = f"shorten or drop row {too_long[0]}, whose prompt alone has {prompts[too_long[0]]}; then {fix}"
        raise InputError(f"{name} has {positions} positions, but rows have up to {longest} tokens: {fix}")


def local_folder(name_or_path: str, *expected: str) -> Path | None:
    """The folder that is meant, which must hold one of the expected files, or None for what may be a hub id.

    Raises:
        InputError: a file, a folder without any of them, or a path that does not exist.
    """
    path = Path(name_or_path)
    if not name_or_path.strip():
        raise InputError(f"model path {name_or_path!r} is empty; give a folder or a hub id")
    if path.is_dir():
        if not any((path / name).exists() for name in expected):
            raise InputError(f"the folder {name_or_path!r} has none of {', '.join(expected)}")
        return path
    if path.is_file():
        raise InputError(f"model path {name_or_path!r} is a file; give the folder that holds {' or '.join(expected)}")
    if path.is_absolute() or name_or_path.startswith((".", "~")) or name_or_path.partition("@")[0].count("/") > 1:
        raise InputError(f"model path {name_or_path!r} does not exist (looked in {path.absolute()})")
    return None


def reason(error: Exception) -> str:
    """The first line of an error that says something, or two where the first only announces the others."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    text = " ".join(lines[: 2 if lines[0].endswith(":") else 1])
    return f"{type(error).__name__} {text}" if isinstance(error, KeyError) else text


def _read_object(path: Path) -> dict:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not valid JSON ({reason(error)}); {AGAIN}") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} holds a {type(value).__name__}, not an object; {AGAIN}")
    return value


def _check_config(folder: Path, trust_remote_code: bool) -> None:
    file = folder / "config.json"
    kind = _read_object(file).get("model_type")
    if kind is None:
        raise InputError(f"{file} has no model_type, so nobody can tell what model this is; {AGAIN}")
    config_of(str(folder), trust_remote_code)


def config_of(name_or_path: str, trust_remote_code: bool = False) -> PreTrainedConfig:
    """The configuration of a model, or of an adapter's base.

    Raises:
        InputError: it cannot be read, or is of no causal LM, or of an adapter that no model takes in.
    """
    name_or_path = located(name_or_path)
    if is_adapter(name_or_path):
        folder = Path(name_or_path)
        is_local = folder.is_dir()
        if is_local:
            return config_of(_base_of(folder), trust_remote_code)
        name, revision = split_revision(name_or_path)
        adapter = PeftConfig.from_pretrained(name, revision=revision)
        check_adapter_kind(name_or_path, adapter.peft_type, adapter.task_type)
        pin = f"@{adapter.revision}" if adapter.revision else ""
        return config_of(f"{adapter.base_model_name_or_path}{pin}", trust_remote_code)
    try:
        name, revision = split_revision(name_or_path)
        config = AutoConfig.from_pretrained(name, revision=revision or "main", trust_remote_code=trust_remote_code)
    except Exception as error:  # what may be wrong in a configuration has as many kinds of errors as there are models
        fix = "give --trust_remote_code to run it" if "trust_remote_code" in str(error) else AGAIN
        raise InputError(f"model {name_or_path!r}: its config.json cannot be used: {reason(error)}; {fix}") from error
    if not (trust_remote_code and hasattr(config, "auto_map")):
        _check_causal(config, name_or_path)
    return config


def _check_causal(config: PreTrainedConfig, name: str) -> None:
    heads = [head for head in config.architectures or () if any(other in head for other in OTHER_HEADS)]
    if heads:  # its body would load, under a head of a language model that nobody trained
        raise InputError(
            f"model {name!r} is a {heads[0]}, which is no causal language model; give the model that was made into it"
        )
    is_causal = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING
    # Masked language models see the answer that they are asked for; some load as causal ones all the same.
    if not is_causal or (type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False)):
        raise InputError(
            f"model {name!r} is of type {config.model_type!r}, which is no causal language model; give one that is"
        )


def _base_of(folder: Path) -> str:
    file = folder / "adapter_config.json"
    if not (base := _read_object(file).get("base_model_name_or_path")):
        raise InputError(
            f"{file} has no base_model_name_or_path: write there which model the adapter belongs to, "
            "or give it as base_model"
        )
    return str(base)


def check_finite(weights: Iterable[tuple[str, torch.Tensor]], name: str) -> None:
    """Refuse weights with NaN or infinity, with which every score and every step would be NaN.

    Weights that were rounded to integers, or are not there yet (on the meta device), are passed over.

    Args:
        weights: names and tensors.
        name: what the error calls the model.

    Raises:
        InputError: the message has the tensor's name.
    """
    for key, tensor in weights:
        if tensor.dtype not in FLOATS or tensor.is_meta or not tensor.numel():
            continue
        # NaN is both lowest and highest, where there is one; isfinite() of all values takes twenty times as long
        if not torch.stack(torch.aminmax(tensor.detach())).isfinite().all():
            raise InputError(
                f"{name}: its weight {key} is not finite (NaN or infinity is in it); {AGAIN}, or take one from before "
                "it diverged"
            )


def check_saved_weights(name_or_path: str) -> None:
    """`check_finite` of a local model's or adapter's files, read one tensor at a time; what is on the hub stays there.

    Raises:
        InputError: as there.
    """
    folder = Path(located(name_or_path))
    if not folder.is_dir():
        return
    for file in _weight_files(folder, "adapter_model" if is_adapter(name_or_path) else "model"):
        with safe_open(file, framework="pt") as weights:
            tensors = ((key, weights.get_tensor(key)) for key in weights.keys())  # noqa: SIM118 (no mapping)
            check_finite(tensors, f"{name_or_path!r}, {file.name}")


def _weight_files(folder: Path, stem: str) -> list[Path]:
    index = folder / f"{stem}.safetensors.index.json"
    if index.is_file():
        return sorted({folder / name for name in _read_object(index).get("weight_map", {}).values()})
    single = folder / f"{stem}.safetensors"
    return [single] if single.is_file() else []


def _check_weights(folder: Path, stem: str) -> None:
    """Open every file of the weights: a file that was cut off is shorter than its header says."""
    files = _weight_files(folder, stem)
    if not files and not [*folder.glob("*.safetensors")]:
        fix = ONLY_SAFETENSORS if [*folder.glob("*.bin*"), *folder.glob("*.pt*")] else AGAIN
        raise InputError(f"the folder {str(folder)!r} has no weights ({stem}.safetensors is missing); {fix}")
    for file in files:
        try:
            with safe_open(file, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise InputError(
                f"{file} is damaged ({reason(error)}): it was not written or downloaded to its end, or it is a pointer "
                f"of Git LFS; {AGAIN}"
            ) from error
