"""results.json: what a run measured. Made, written and read here and nowhere else; views take it as it is read.

Version 2: `method`, `method_title` and `paper` (`UnlearnTrainer.described`); `seed`; `config`; `weights`, digests of
what the run saved; `paths` of models and rows, absolute, or ids of the hub; `training` (steps, stopped_by, log);
`seconds` by stage; and, where models were examined, what `Examination.examine` returns. Version 1 had no number, and
paths as they were given.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from datasets import Dataset

from llm_unlearn.attacks.curves import steps_to_half
from llm_unlearn.errors import InputError
from llm_unlearn.files.run_files import RERUN, absolute, read_json, write_rows
from llm_unlearn.files.whole import write_json

VERSION = 2
MODELS = ("original", "oracle", "unlearned")


def make_results(
    folder: Path,
    described: Mapping[str, Any],
    seed: int,
    config: Mapping[str, Any],
    *,
    models: tuple[str, Sequence[str], str | None],
    rows: Mapping[str, Dataset | None],
    data: str | None = None,
    **found: Any,
) -> dict[str, Any]:
    """The contents of results.json; writes the rows to `folder`, whose paths are among them.

    Args:
        models: folders or hub ids of the original, the oracles and the unlearned model.
        rows: data sets by name: forget, retain.
        data: where the rows come from: a folder, a file, or a name.
        found: weights, training, seconds and what was examined.
    """
    original, oracles, unlearned = models
    return {
        "version": VERSION,
        **described,
        "seed": seed,
        "config": config,
        "paths": {
            **({"data": absolute(data)} if data else {}),
            "original": absolute(original),
            "oracles": [absolute(path) for path in oracles],
            "unlearned": unlearned and absolute(unlearned),
            **write_rows(folder, **rows),
        },
        **found,
    }


def write_results(folder: Path, results: Mapping[str, Any], records: Mapping[str, Any]) -> None:
    """Write results.json, records/MODEL.json (per-row values) and config.yaml, from which the run can be repeated."""
    (folder / "records").mkdir(parents=True, exist_ok=True)
    for name, by_metric in records.items():
        write_json(folder / "records" / f"{name}.json", by_metric)
    write_json(folder / "results.json", results)
    (folder / "config.yaml").write_text(yaml.safe_dump(results["config"], sort_keys=False), encoding="utf-8")


def read_results(folder: str | Path, fix: str = RERUN) -> dict[str, Any]:
    """The contents of results.json in a run's folder, of this version or an earlier one.

    Args:
        fix: what to do where there is none; it ends the error.

    Raises:
        InputError: there is none, it is no JSON object, or a later version of this package wrote it.
    """
    path = Path(folder) / "results.json"
    results = read_json(path, fix)
    if (version := results.get("version", 1)) not in range(1, VERSION + 1):
        raise InputError(
            f"{path} is of version {version}, and this llm_unlearn reads versions 1 to {VERSION}: install the "
            "llm_unlearn that wrote it"
        )
    return results


def read_records(folder: str | Path) -> dict[str, Any]:
    """Model -> contents of records/<model>.json; empty where the folder has none.

    Raises:
        InputError: a file is no JSON object.
    """
    return {path.stem: read_json(path, RERUN) for path in sorted((Path(folder) / "records").glob("*.json"))}


def model_entries(by_model: dict[str, Any], model: str) -> list[dict[str, Any]]:
    """What was measured for a model: no entry, one, or several (further oracles are `oracle_1`, `oracle_2`, ...)."""
    return [by_model[name] for name in model_names(by_model, model) if by_model[name]]


def model_names(names: Iterable[str], model: str) -> list[str]:
    """Those of `names` that belong to a model: further oracles are `oracle_1`, `oracle_2`, ..."""
    return [name for name in names if re.fullmatch(rf"{model}(_\d+)?", name)]


def reference_models(original: str, oracles: list[str]) -> dict[str, str]:
    """Folders or hub ids by the models' names in all results: original, oracle, oracle_1, ..."""
    names = ["oracle", *(f"oracle_{number}" for number in range(1, len(oracles)))]
    return {"original": original} | dict(zip(names, oracles, strict=False))


def merge_results(first: dict, second: dict) -> dict:
    """What `Examination.measure` found of some models and of others, as if it had been found at once."""
    attacks = {
        attack: dict(by_model) | second.get("attacks", {}).get(attack, {})
        for attack, by_model in first["attacks"].items()
    }
    for by_model in attacks.values():
        curve = by_model.get("original", {}).get("curve")
        before = curve[0]["forget_probability"] if curve else None
        for name, outcome in by_model.items():
            if "curve" in outcome:
                by_model[name] = outcome | {"steps_to_half": steps_to_half(outcome["curve"], before)}
    parts = ("scores", "abilities", "counterfactual", "not_attacked", "generation")
    by_models = {name: first[name] | second.get(name, {}) for name in parts}
    return first | by_models | {"attacks": attacks}
