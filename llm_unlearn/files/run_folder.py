"""The folder of a run: one run at a time, and nothing of an earlier one beside what this one writes."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from llm_unlearn.errors import InputError
from llm_unlearn.files.run_files import RERUN, read_json
from llm_unlearn.files.whole import json_digest

logger = logging.getLogger(__name__)

LOCK = ".running"
# What a run ends with. Attacks and reference scores stay: each knows the weights and rows that it belongs to.
EVIDENCE = (
    *("results.json", "verdict.json", "report.html", "config.yaml", "forget.jsonl", "retain.jsonl", "*.png"),
    *("records", "adapter", "model", "merged", "hub"),
)
EARLIER = "earlier-"
CONFIGURATIONS = ("adapter_config.json", "config.json")
LOCAL_NAMES = {"_name_or_path", "name_or_path", "base_model_name_or_path", "revision"}  # differ in a public edition
WEIGHTS = re.compile(r"(adapter_model|model)(-\d{5}-of-\d{5})?\.safetensors")


@contextlib.contextmanager
def locked(output_dir: str | Path) -> Iterator[Path]:
    """Within this scope, no other run can be in the folder; the operating system frees it when the process dies.

    Raises:
        InputError: another run is in it.
    """
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise InputError(
            f"output_dir={str(output_dir)!r}: another run is writing there; wait for its end, or give another folder"
        ) from error
    try:
        yield folder
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def move_aside(folder: Path) -> Path | None:
    """Move what an earlier run ended with into FOLDER/earlier-N, so that none of it stands beside other weights.

    Returns:
        Where to; None: there was nothing.
    """
    found = sorted(path for pattern in EVIDENCE for path in folder.glob(pattern))
    if not found:
        return None
    number = 1
    while (target := folder / f"{EARLIER}{number}").exists():
        number += 1
    target.mkdir()
    # Results last: where this is interrupted, what is left is no run's evidence without its weights.
    for path in sorted(found, key=lambda path: path.name == "results.json"):
        path.rename(target / path.name)
    return target


def stays(path: Path) -> bool:
    """Whether a file, by its path in the folder of a run, is still there after `move_aside` and another run."""
    return path.parts[0].startswith(EARLIER) or any(fnmatch(path.parts[0], pattern) for pattern in EVIDENCE)


def model_digests(folder: Path) -> dict[str, str]:
    """`weight_digests`, and of the configurations that say how the weights compute (an adapter's scale is in one of
    them), whatever they call the folder that they came from.
    """
    digests = weight_digests(folder)
    for name in CONFIGURATIONS:
        if (folder / name).is_file():
            content = read_json(folder / name, RERUN, finite=False)
            digests[name] = json_digest({key: content[key] for key in sorted(content.keys() - LOCAL_NAMES)})
    return digests


def model_identity(path: str) -> dict[str, str]:
    """What says which model it is, whatever is trained into its folder later: digests of it, or its name on the hub."""
    return model_digests(Path(path)) if Path(path).is_dir() else {"hub": path}


def weight_digests(folder: Path) -> dict[str, str]:
    """File -> SHA-256 of its bytes, of all weights in a folder."""
    digests = {}
    for path in sorted(folder.iterdir()):
        if WEIGHTS.fullmatch(path.name):
            with open(path, "rb") as file:
                digests[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def weights_folder(folder: Path) -> Path:
    """RUN/adapter or RUN/model.

    Raises:
        InputError: neither or both, or weights in a format that can hold code.
    """
    there = [folder / name for name in ("adapter", "model") if (folder / name).is_dir()]
    if not there:
        raise InputError(f"{folder} has neither adapter/ nor model/: give the --output_dir of a recipe's finished run")
    if len(there) > 1:
        raise InputError(
            f"{folder} has both adapter/ and model/, of which results.json can have judged but one; move the other away"
        )
    if not any(WEIGHTS.fullmatch(path.name) for path in there[0].iterdir()):
        raise InputError(f"{there[0]} holds no .safetensors; other formats are not uploaded: save it again")
    return there[0]


def other_file(judged: Mapping[str, str], weights: Path) -> str | None:
    """The first file in a folder that is not as it was judged, and how it differs; None: all are.

    Args:
        judged: `model_digests` of what was judged, or of an earlier version, which knew the weights alone.
    """
    now = model_digests(weights)
    if not judged.keys() & set(CONFIGURATIONS):
        now = {name: digest for name, digest in now.items() if WEIGHTS.fullmatch(name)}
    differing = sorted(name for name in judged.keys() | now.keys() if judged.get(name) != now.get(name))
    if not differing:
        return None
    name = differing[0]
    how = "is missing" if name not in now else "was not judged" if name not in judged else "has other contents"
    return f"{name} {how}"


def check_weights(results: Mapping[str, Any], weights: Path, source: Path) -> None:
    """Refuse results of other weights than those in a folder. Results that do not say what they judged pass.

    Args:
        source: where the results are, for the error.

    Raises:
        InputError: a file is another one than was judged, is missing, or was not judged.
    """
    judged = results.get("weights")
    if judged and (other := other_file(judged, weights)):
        raise InputError(
            f"{source / 'results.json'} is about other weights than those in {weights}: {other}. Put the judged ones "
            f"back, or judge these (llm-unlearn judge), or {RERUN}"
        )


def check_judged_weights(results: Mapping[str, Any], folder: Path) -> None:
    """`check_weights` of those in a run's folder, or else where the results say; none where they are gone.

    Raises:
        InputError: as there, or the folder has both an adapter and a model.
    """
    told = (results.get("paths") or {}).get("unlearned")
    own = any((folder / name).is_dir() for name in ("adapter", "model"))
    weights = weights_folder(folder) if own else Path(told) if told else None
    if weights is not None and weights.is_dir():
        check_weights(results, weights, folder)
