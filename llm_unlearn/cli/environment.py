"""What a bug report needs to say about a machine, without names of hosts or people, tokens or other secrets."""

from __future__ import annotations

import getpass
import os
import platform
import shutil
import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from llm_unlearn import __version__

LIBRARIES = ("torch", "transformers", "peft", "accelerate", "datasets", "huggingface_hub", "bitsandbytes", "deepspeed")
EXTRAS = {  # extra of pyproject.toml -> what it is for
    "quantization": "4-bit and 8-bit base models, the attack `quantization`",
    "deepspeed": "training with DeepSpeed ZeRO",
}
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")


def describe_environment() -> str:
    """Several lines, ready to be pasted."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    lines = [
        ("llm_unlearn", __version__),
        ("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}, {cores} CPU cores"),
        *((name, _version(name) or "not installed") for name in LIBRARIES),
        ("GPUs", _gpus()),
        ("cache", _cache()),
        ("hub", _hub()),
    ]
    width = max(len(name) for name, _ in lines)
    return "\n".join([*(f"{name:{width}}  {value}" for name, value in lines), *_complaints()])


def without_names(path: Path) -> str:
    """The path with ~ for the home folder and USER wherever the user's name stands alone."""
    path, home = path.expanduser(), Path.home()
    if path.is_relative_to(home):
        return str("~" / path.relative_to(home))
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return str(path)
    return str(Path(*("USER" if part == user else part for part in path.parts)))


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _gpus() -> str:
    drivers = [name for name in ("nvidia-smi", "rocm-smi") if shutil.which(name)]
    if not drivers and sys.platform != "darwin":
        return "no driver found (nvidia-smi, rocm-smi)"
    import torch  # takes seconds, so only where there may be one

    if torch.cuda.is_available():
        each = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
        names = ", ".join(f"{one.name} ({one.total_memory / 2**30:.0f} GiB)" for one in each)
        return f"{names}; CUDA {torch.version.cuda or '-'}, bfloat16 {torch.cuda.is_bf16_supported()}"
    if torch.backends.mps.is_available():
        return "Apple GPU (mps)"
    return f"{', '.join(drivers) or 'none'} found, but this torch (CUDA {torch.version.cuda}) sees no GPU"


def _cache() -> str:
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "llm_unlearn"
    folder = Path(os.environ.get("LLM_UNLEARN_CACHE", default))
    worlds = sorted(path.name for path in folder.glob("fictional-*"))
    return f"{without_names(folder)} ({', '.join(worlds) or 'empty'})"


def _hub() -> str:
    switched = [name for name in OFFLINE if os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")]
    return f"offline ({', '.join(switched)})" if switched else "online, unless the network says otherwise"


def _complaints() -> list[str]:
    """One line for each requirement that is not met, with the command that installs it."""
    try:
        texts = metadata.requires("llm_unlearn") or []
    except metadata.PackageNotFoundError:
        return ["", "llm_unlearn is not installed as a package: pip install -e . in the repository"]
    lines = []
    for requirement in map(Requirement, texts):
        extra = next(
            (name for name in EXTRAS if requirement.marker and requirement.marker.evaluate({"extra": name})), ""
        )
        wanted = extra or requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        installed = _version(requirement.name)
        if not wanted or (installed and requirement.specifier.contains(installed, prereleases=True)):
            continue
        state = f"is there as {installed}" if installed else "is not installed"
        name = f"{requirement.name}{requirement.specifier}"
        if extra:
            lines.append(f'optional: {name} {state}; for {EXTRAS[extra]}: pip install "llm_unlearn[{extra}]"')
        else:
            lines.append(f"missing: {name} {state}: pip install -U llm_unlearn")
    return ["", *lines] if lines else []
