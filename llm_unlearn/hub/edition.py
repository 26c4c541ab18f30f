"""The public edition of a run: a run folder of its own that holds weights, numbers and no text of the data.

It is built anew in RUN/hub at every push, from an explicit list of what may be in it, and then checked as a whole.
Because it is a run folder, `report.html` in it is the page of any run, and `llm-unlearn report` works on it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from types import NoneType
from typing import Any

from transformers import TrainingArguments

from llm_unlearn.data.identity import label
from llm_unlearn.data.loading import DEFAULT_FORGET_SPLIT, RETAIN_OF_FORGET
from llm_unlearn.errors import InputError, named
from llm_unlearn.examining.results import (
    VERSION,
    check_judgeable,
    read_run,
    read_verdict,
    write_evidence,
    write_verdict,
)
from llm_unlearn.examining.verdict import verdict_of
from llm_unlearn.files.run_files import RERUN, read_json, read_rows
from llm_unlearn.files.run_folder import WEIGHTS, check_weights, model_digests, weight_digests, weights_folder
from llm_unlearn.hub.leaks import Secrets
from llm_unlearn.models.smollm2 import SMOLLM2, is_located, is_made_from
from llm_unlearn.reporting.card import BOILERPLATE, write_card
from llm_unlearn.reporting.page import write_report

EDITION = "hub"  # folder within the run's
KINDS = ("adapter", "merged")  # what --push may ask for, where there is an adapter
_CONFIGURATION = ("config.json", "generation_config.json", "adapter_config.json", "model.safetensors.index.json")
_TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja"),
    *("vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model"),
)
_LOCAL_NAMES = ("_name_or_path", "name_or_path")  # where the files were loaded from
_TEXTS = ("answers", "generation", "ground_truth")  # what models said, and should have said
_WORDS = ("attacker", "resampled", "generation_config")  # the only strings that outcomes and records keep
_NUMBERS = ("abilities", "units", "style_rows", "rouge_tokenizers", "generation", "refusals")  # of what was examined
_TEXTUAL = ("alignment", "kinds", "notes")  # of transfer probes
_TRAINING = {  # fields of TrainingArguments that are published: what decided the weights
    *("learning_rate", "lr_scheduler_type", "warmup_steps", "warmup_ratio", "weight_decay", "max_grad_norm", "optim"),
    *("num_train_epochs", "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps", "seed"),
    *("data_seed", "bf16", "fp16", "activation_checkpointing"),
}
_DATA_FIELDS = ("forget_split", "retain_split", "dtype")
_PLAIN = re.compile(r"[A-Za-z0-9_.:+-]*")  # a value of ours, no path and no sentence
_HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+(@[\w.-]+)?")


def build_edition(folder: Path, repo_id: str, kind: str | None = None) -> dict[str, Path]:
    """Write RUN/hub and return what is to be uploaded, unchecked: path in the repository -> file.

    Args:
        folder: of a finished run.
        kind: "adapter" or "merged"; None: the adapter, or the model where all weights were trained.

    Raises:
        InputError: no results or weights there, or of other weights; weights that are no safetensors; a kind, and no
            adapter.
    """
    results, private = read_run(folder)
    weights = weights_folder(folder)
    is_adapter = (weights / "adapter_config.json").is_file()
    if kind is not None and not is_adapter:
        raise InputError(f"--push {kind}: {weights} is a whole model, without an adapter; leave the flag out")
    if not results.get("weights"):
        raise InputError(
            f"{folder / 'results.json'} does not say which weights it judged, so that nobody can tell whether they are "
            f"those in {weights}: {RERUN}"
        )
    check_weights(results, weights, folder)
    edition = folder / EDITION
    shutil.rmtree(edition, ignore_errors=True)
    edition.mkdir()
    names = public_names(results, weights)
    _copy_model(_merged(weights, results, folder) if kind == "merged" else weights, edition)
    public = public_results(results, names, kind or ("adapter" if is_adapter else "model"), folder)
    public["weights"] = model_digests(edition)
    public["base"] = base_facts(results, weights)
    records = {model: without_texts(by_metric) for model, by_metric in private.items()}
    write_evidence(edition, public, records)
    verdict = None
    if public["scores"]:
        check_judgeable(results, folder)
        # a reason why something was not measured may quote rows: then the verdict is made from what is public
        reasons = public.get("not_measured") or (public.get("audits") or {}).get("not_measured")
        is_told = (folder / "verdict.json").is_file() and not reasons
        with named(folder / "results.json"):
            verdict = _judged_again(folder, results, private) if is_told else verdict_of(public, records)
        write_verdict(edition, verdict)
        write_report(edition)
        for picture in edition.glob("*.png"):  # they are in the page
            picture.unlink()
    write_card(edition, repo_id, public, verdict)
    return {path.relative_to(edition).as_posix(): path for path in sorted(edition.rglob("*")) if path.is_file()}


def _judged_again(folder: Path, results: Mapping[str, Any], records: Mapping[str, Any]) -> dict[str, Any]:
    """The verdict of a run, which must say what its results say: nothing else is published.

    Raises:
        InputError: it says another thing.
    """
    fix = f"judge the results again with: llm-unlearn report {folder}"
    verdict, expected = read_verdict(folder, results, fix), verdict_of(results, records)
    for name in ("verdict", "by", "sentence"):
        if verdict.get(name) != expected[name]:
            raise InputError(
                f"{folder / 'verdict.json'} does not follow from results.json and records/ ({name}): {fix}"
            )
    return verdict


def is_ours(name: str) -> bool:
    """Whether a path in a repository is one that an edition may hold."""
    evidence = ("results.json", "verdict.json", "report.html")
    return (
        bool(WEIGHTS.fullmatch(name))
        or name in (*_CONFIGURATION, *_TOKENIZER, *evidence)
        or name.startswith("records/")
    )


def base_facts(results: Mapping[str, Any], weights: Path) -> dict[str, Any] | None:
    """What tells a base model that is on no hub from others: {"kind": "llama", "weights": file -> SHA-256}.

    None where it is on the hub, or no longer where it was.
    """
    base = (results.get("paths") or {}).get("original")
    if (weights / "adapter_config.json").is_file():
        base = _read_configuration(weights / "adapter_config.json").get("base_model_name_or_path")
    if not base or not (Path(base) / "config.json").is_file():
        return None
    return {
        "kind": _read_configuration(Path(base) / "config.json").get("model_type"),
        "weights": weight_digests(Path(base)),
    }


def secrets_of(folder: Path, repo_id: str, results: Mapping[str, Any]) -> Secrets:
    """What must not be in any file of this run's public edition.

    Raises:
        InputError: the rows to forget are not there to compare with.
    """
    rows = read_rows(folder / "forget.jsonl")
    if not rows:
        raise InputError(
            f"{folder / 'forget.jsonl'} is missing or empty: without the forget rows nobody can check that none of "
            f"them is uploaded; put it back, or {RERUN}"
        )
    people = {str(row["person"]) for row in rows if label(row, "person") is not None}
    texts = {text for row in rows for name, value in row.items() if name != "person" for text in _strings(value)}
    said = [results, *read_run(folder)[1].values()]
    texts |= {text for value in said for text in _strings_under(value, _TEXTS)}
    names = public_names(results, weights_folder(folder))
    oracles = [path for path in (results.get("paths") or {}).get("oracles") or [] if _is_hub_id(path)]
    told = {value for value in (repo_id, *names.values(), *oracles) if value}
    public = {value.partition("@")[0] for value in told}
    return Secrets(
        texts=sorted(texts),
        names=sorted(people),
        paths=sorted({str(folder.resolve()), *_local_paths(results)} - told - public),
        public=sorted(public, key=len, reverse=True),
        boilerplate=BOILERPLATE,
    )


# ---- what may be said ------------------------------------------------------------------------------------------------


def public_names(results: Mapping[str, Any], weights: Path) -> dict[str, str | None]:
    """What base model ("owner/name@commit") and data may be called in public: a hub id, or the embedded world.

    None: they are local; `made_from` says so of a local one that began as SmolLM2. Runs write local paths as absolute
    ones, which look like no hub id from anywhere.
    """
    data, paths = (results.get("config") or {}).get("data_arguments") or {}, results.get("paths") or {}
    spec = data.get("data") or (None if data.get("forget_file") or not data else "fictional")
    if spec is not None and not spec.startswith("fictional"):
        spec = paths.get("data", spec)
    base = paths.get("original")
    if (weights / "adapter_config.json").is_file():
        adapter = _read_configuration(weights / "adapter_config.json")
        base = adapter.get("base_model_name_or_path")
        base = f"{base}@{adapter['revision']}" if base and adapter.get("revision") else base
    if data and data.get("model_name_or_path") is None and spec is not None:  # the embedded model
        base = f"fictional:{spec.partition(':')[2] or 'small'}"
    elif is_located(base) or (data.get("model_name_or_path") == SMOLLM2 and not Path(SMOLLM2).is_dir()):
        base = SMOLLM2
    public = base if base and (base.startswith("fictional:") or base == SMOLLM2 or _is_hub_id(base)) else None
    return {
        "base_model": public,
        "data": spec if spec is not None and (spec.startswith("fictional") or _is_hub_id(spec)) else None,
    } | ({"made_from": SMOLLM2} if public is None and is_made_from(base) else {})  # its license goes on holding


def _is_hub_id(name: str) -> bool:
    """Whether a name can only be the hub's: written like one, and no file or folder here."""
    return bool(_HUB_ID.fullmatch(name)) and not Path(name).exists()


def public_results(results: Mapping[str, Any], names: Mapping[str, Any], kind: str, folder: Path) -> dict[str, Any]:
    """results.json with numbers, our own words and public names alone; people become "group 1", "group 2", ..."""
    groups = [str(group) for group in results.get("forget_groups") or []]
    pseudonyms = {group: f"group {number}" for number, group in enumerate(dict.fromkeys(groups), start=1)}
    for outcome in (
        entry for by_model in (results.get("attacks") or {}).values() for entry in (by_model or {}).values()
    ):
        for group in (outcome or {}).get("groups") or {}:
            pseudonyms.setdefault(str(group), f"group {len(pseudonyms) + 1}")
    training, paths = results.get("training") or {}, results.get("paths") or {}
    configuration = public_configuration(results.get("config") or {})
    if names["data"] is not None:
        configuration.setdefault("data_arguments", {})["data"] = names["data"]
    data = (results.get("config") or {}).get("data_arguments") or {}
    embedded = (names["base_model"] or "").startswith("fictional:") and not data.get("oracle_model_name_or_path")
    own = f"{names['base_model']} without the forget rows" if embedded else "a local model"
    return {
        "version": VERSION,
        "method": results.get("method"),
        "method_title": results.get("method_title"),
        "paper": results.get("paper"),
        "seed": results.get("seed"),
        "published": kind,
        "config": configuration,
        "names": dict(names),
        "data": _splits(data, names["data"])
        | {f"{name}_rows": _count_lines(folder / f"{name}.jsonl") for name in ("forget", "retain")},
        "paths": {
            "original": names["base_model"] or "a local model",
            "oracles": [path if _is_hub_id(path) else own for path in paths.get("oracles") or []],
        },
        "training": {name: training.get(name) for name in ("steps", "stopped_by")}
        | {"log": without_texts(training.get("log") or [])},
        "scores": without_texts(results.get("scores") or {}),
        **_examined(results),
        "attacks": without_texts(results.get("attacks") or {}, pseudonyms),
        "counterfactual": without_texts(results.get("counterfactual") or {}, pseudonyms),
        "not_attacked": {name: "not possible with these rows" for name in results.get("not_attacked") or {}},
        "forget_groups": [pseudonyms[group] for group in groups],
        "seconds": without_texts(results.get("seconds") or {}),
    }


def _examined(results: Mapping[str, Any]) -> dict[str, Any]:
    """Abilities and how they were measured, as far as these results have them; reasons may quote rows, names do not."""
    found = {name: without_texts(results[name]) for name in _NUMBERS if name in results}
    if "kinds" in results:
        found["kinds"] = results["kinds"] if _is_plain(results["kinds"]) else None
    if "not_measured" in results:
        found["not_measured"] = dict.fromkeys(results["not_measured"], "not possible with these rows")
    if "audits" in results:
        found["audits"] = _audits(results["audits"])
    return found


def _audits(audits: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of what was found inside models; where answers or kinds are keys, they stay here."""
    public: dict[str, Any] = {
        section: {
            model: without_texts({name: value for name, value in found.items() if name not in _TEXTUAL})
            for model, found in by_model.items()
        }
        for section, by_model in audits.items()
        if section != "not_measured"
    }
    return public | {"not_measured": dict.fromkeys(audits.get("not_measured", {}), "not possible with these rows")}


def _splits(data: Mapping[str, Any], name: str | None) -> dict[str, str]:
    """Those that were given, or that data of that name has by default."""
    forget = data.get("forget_split") or (DEFAULT_FORGET_SPLIT if name else None)
    retain = data.get("retain_split") or RETAIN_OF_FORGET.get(forget)
    return {key: split for key, split in (("forget_split", forget), ("retain_split", retain)) if split}


def public_configuration(groups: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """What decides a run's outcome: our own fields and the usual `TrainingArguments`, without paths and names."""
    inherited = {field.name for field in fields(TrainingArguments)} - _TRAINING
    public = {}
    for group, values in groups.items():
        if group == "data_arguments":
            # Attributes are words of the rows; of forms without them, those that were trained follow from the rows.
            fields_kept = (*_DATA_FIELDS, *(() if values.get("augment_attributes") else ("augment_forms",)))
            values = {name: value for name, value in values.items() if name in fields_kept}
        kept = {
            name: value
            for name, value in values.items()
            if name not in inherited and name not in ("push", "output_dir") and _is_plain(value)
        }
        if kept:
            public[group] = kept
    return public


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_plain(item) for item in value)
    return (
        value is None
        or isinstance(value, (bool, int, float))
        or (isinstance(value, str) and bool(_PLAIN.fullmatch(value)))
    )


def without_texts(value: Any, pseudonyms: Mapping[str, str] | None = None, under: str | None = None) -> Any:
    """The numbers in a value: texts and whatever holds them are left out, names of groups replaced.

    Args:
        under: the key that the value stands under: keys are names of groups in `groups` alone, for a group may be
            called like a row (where rows name nobody, it is).
    """
    pseudonyms = pseudonyms or {}
    if isinstance(value, Mapping):
        kept = {}
        for key, item in value.items():
            is_group = key == "group" and item in pseudonyms
            if key in _TEXTS or (isinstance(item, str) and key not in _WORDS and not is_group):
                continue
            name = pseudonyms.get(key, key) if under == "groups" else key
            kept[name] = item if key in _WORDS else without_texts(item, pseudonyms, key)
        return kept
    if isinstance(value, list):
        return [without_texts(item, pseudonyms, under) for item in value if not isinstance(item, str)]
    return pseudonyms[value] if isinstance(value, str) else value


def _read_configuration(path: Path) -> dict[str, Any]:
    """A model's or adapter's.

    Raises:
        InputError: it is no JSON object, or a name in it is no name.
    """
    content = read_json(path, RERUN, finite=False)
    for name in ("base_model_name_or_path", "revision", "model_type"):
        if not isinstance(content.get(name), (str, NoneType)):
            raise InputError(f"{path}: {name} is {content[name]!r:.60}, not a name: {RERUN}")
    return content


# ---- files -----------------------------------------------------------------------------------------------------------


def _copy_model(source: Path, target: Path) -> None:
    """Weights, configuration and tokenizer by name: what else lies there (training arguments, cards) stays."""
    for path in sorted(source.iterdir()):
        if WEIGHTS.fullmatch(path.name):
            try:
                os.link(path, target / path.name)  # large; nothing writes into it
            except OSError:
                shutil.copyfile(path, target / path.name)
        elif path.name in _TOKENIZER or path.name in _CONFIGURATION:
            if path.suffix != ".json" or path.name == "tokenizer.json":
                shutil.copyfile(path, target / path.name)
                continue
            content = _read_configuration(path)
            content = {key: value for key, value in content.items() if key not in _LOCAL_NAMES}
            base = content.get("base_model_name_or_path")
            if base and not _is_hub_id(base):
                content |= {"base_model_name_or_path": None, "revision": None}
            _write(target / path.name, content)


def _merged(weights: Path, results: Mapping[str, Any], folder: Path) -> Path:
    """RUN/merged: the adapter put into its base model.

    Raises:
        InputError: what was written does not say what the adapted model says.
    """
    from llm_unlearn.hub.merging import write_merged  # slow to import

    dtype = ((results.get("config") or {}).get("data_arguments") or {}).get("dtype") or "auto"
    target = folder / "merged"
    shutil.rmtree(target, ignore_errors=True)
    write_merged(weights, target, dtype)
    for name in _TOKENIZER:
        if (weights / name).is_file():
            shutil.copyfile(weights / name, target / name)
    return target


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False), encoding="utf-8")


def _count_lines(path: Path) -> int | None:
    return len(read_rows(path)) if path.is_file() else None


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def _strings_under(value: Any, keys: tuple[str, ...]) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _strings(item) if key in keys else _strings_under(item, keys)
    elif isinstance(value, list):
        for item in value:
            yield from _strings_under(item, keys)


def _local_paths(results: Mapping[str, Any]) -> Iterator[str]:
    """Everything in the paths and the configuration that is written like a path."""
    for value in _strings([results.get("paths") or {}, results.get("config") or {}]):
        if ("/" in value or "\\" in value) and len(value) >= 4:
            yield value
