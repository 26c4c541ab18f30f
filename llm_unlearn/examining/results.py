"""results.json: what a run measured. Made, written and read here and nowhere else; views take it as it is read.

Version 3: `method`, `method_title` and `paper` (`UnlearnTrainer.described`); `seed`; `config`; `weights`, digests of
what the run saved; `paths` of models and rows, absolute, or ids of the hub; `training` (steps, stopped_by, log);
`seconds` by stage; and, where models were examined, what `Examination.examine` returns. `records` has a digest of every
records/MODEL.json, and `sha256` one of all else: whoever reads a result reads what was measured. Version 2 had no
digests, version 1 no number, and paths as they were given.
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
from llm_unlearn.examining.shapes import RECORDS, Results, Verdict, check_shape
from llm_unlearn.files.run_files import RERUN, absolute, read_json, write_rows
from llm_unlearn.files.run_folder import model_digests
from llm_unlearn.files.whole import json_digest, write_json

VERSION = 3
SEALED = 3  # the first version with digests
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
        found: training, seconds and what was examined; weights, where they were hashed before it was.
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
        "weights": model_digests(Path(unlearned)) if unlearned and Path(unlearned).is_dir() else {},
        **found,
    }


def write_results(folder: Path, results: Mapping[str, Any], records: Mapping[str, Any]) -> None:
    """Write results.json, records/MODEL.json (per-row values) and config.yaml, from which the run can be repeated."""
    write_evidence(folder, results, records)
    (folder / "config.yaml").write_text(yaml.safe_dump(results["config"], sort_keys=False), encoding="utf-8")


def write_evidence(folder: Path, results: Mapping[str, Any], records: Mapping[str, Any]) -> None:
    """Write results.json and records/MODEL.json."""
    (folder / "records").mkdir(parents=True, exist_ok=True)
    for name, by_metric in records.items():
        write_json(folder / "records" / f"{name}.json", by_metric)
    digests = {name: json_digest(by_metric) for name, by_metric in records.items()}
    write_json(folder / "results.json", _sealed({**results, "version": VERSION, "records": digests}))


def write_verdict(folder: Path, verdict: Mapping[str, Any]) -> None:
    """Write verdict.json."""
    write_json(folder / "verdict.json", _sealed(verdict))


def read_results(folder: str | Path, fix: str = RERUN) -> dict[str, Any]:
    """The contents of results.json in a run's folder, of this version or an earlier one, without its digests.

    Args:
        fix: what to do where it cannot be used; it ends the error.

    Raises:
        InputError: there is none, it is no JSON object, a later version of this package wrote it, somebody changed it,
            or a part of it is not what such a part is.
    """
    return _read_results(Path(folder) / "results.json", fix)[0]


def read_run(folder: str | Path, fix: str = RERUN) -> tuple[dict[str, Any], dict[str, Any]]:
    """`read_results`, and model -> contents of records/<model>.json; empty where the folder has none.

    Raises:
        InputError: as there, of any of the files; or one of the records is missing.
    """
    results, digests = _read_results(Path(folder) / "results.json", fix)
    records = {path.stem: read_json(path, fix) for path in sorted((Path(folder) / "records").glob("*.json"))}
    for name in sorted(digests.keys() | records.keys()) if digests is not None else ():
        if name not in records or json_digest(records[name]) != digests.get(name):
            what = "is missing" if name not in records else "is not what was measured with results.json"
            raise InputError(f"{Path(folder) / 'records' / name}.json {what}: {fix}")
    for name, by_metric in records.items():
        for metric, table in by_metric.items():
            for ending, shape in RECORDS.items():
                if metric.endswith(ending):
                    check_shape(table, shape, f"{Path(folder) / 'records' / name}.json: {metric}", fix)
    return results, records


def check_judgeable(results: Mapping[str, Any], folder: Path) -> None:
    """Refuse results that lack what a verdict is made of.

    Raises:
        InputError: the message has what is missing.
    """
    for key in ("scores", "attacks", "forget_groups"):
        if key not in results:
            raise InputError(
                f"{folder / 'results.json'} has no {key!r}, which a verdict needs; an older version wrote it: {RERUN}"
            )


def read_verdict(folder: str | Path, results: Mapping[str, Any], fix: str) -> dict[str, Any]:
    """The contents of verdict.json in a run's folder, on these results.

    Raises:
        InputError: there is none, it is no JSON object, somebody changed it, or a part of it is not what it should be.
    """
    path = Path(folder) / "verdict.json"
    verdict = _opened(path, read_json(path, fix), fix, required=results.get("version", 1) >= SEALED)
    check_shape(verdict, Verdict, path, fix)
    return verdict


def _read_results(path: Path, fix: str) -> tuple[dict[str, Any], dict[str, str] | None]:
    """The results, and the digests of the records; None in versions that had none."""
    results = read_json(path, fix)
    if type(version := results.get("version", 1)) is not int or version not in range(1, VERSION + 1):
        raise InputError(
            f"{path} is of version {version!r:.40}, and this llm_unlearn reads versions 1 to {VERSION}: install the "
            "llm_unlearn that wrote it"
        )
    results = _opened(path, results, fix, required=version >= SEALED)
    digests = results.pop("records", None)
    check_shape(results, Results, path, fix)
    return results, digests


def _sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    return {**value, "sha256": json_digest(value)}


def _opened(path: Path, value: dict[str, Any], fix: str, required: bool = False) -> dict[str, Any]:
    """A value without its digest, which must be that of the rest."""
    digest = value.pop("sha256", None)
    if (required or digest is not None) and digest != json_digest(value):
        raise InputError(f"{path} was changed after it was written: its sha256 is not that of its contents; {fix}")
    return value


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
    parts = ("scores", "abilities", "counterfactual", "not_attacked", "generation", "refusals")
    by_models = {name: first[name] | second.get(name, {}) for name in parts if name in first}
    return first | by_models | {"attacks": attacks}
