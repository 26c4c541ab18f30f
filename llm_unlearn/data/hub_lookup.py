"""Whether the hub has a repository, asked in one short request before anything is downloaded.

The loaders themselves ask again and again: an id that does not exist, or a hub that is out of reach, takes them a
minute to give up.
"""

from __future__ import annotations

import functools

from huggingface_hub import HfApi, constants, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id

from llm_unlearn.errors import InputError

TIMEOUT = 5.0  # seconds


@functools.cache  # an id is asked for again by every loader
def check_on_hub(repository: str, kind: str = "model") -> None:
    """Raise InputError where the hub has no such repository, or where it is neither in reach nor in the local cache.

    Args:
        kind: "model" or "dataset".
    """
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise InputError(f"{kind} {repository!r} is neither a local folder nor an id of the hub: {error}") from error
    if constants.HF_HUB_OFFLINE:
        return  # the loaders then look at the local cache alone, and say what is not there
    look_up = HfApi().model_info if kind == "model" else HfApi().dataset_info
    try:
        look_up(repository, timeout=TIMEOUT)
    except RepositoryNotFoundError as error:
        raise InputError(
            f"{kind} {repository!r} is neither a local folder nor a {kind} of the hub (or it is private: log in with "
            "`hf auth login`); check its name"
        ) from error
    except Exception as error:  # no network, a proxy, a hub that is down: each has its own kind of error
        names = ("config.json", "adapter_config.json") if kind == "model" else ("README.md",)
        if any(isinstance(try_to_load_from_cache(repository, name, repo_type=kind), str) for name in names):
            return
        raise InputError(
            f"{kind} {repository!r} is no local folder, it is not in the local cache, and the hub cannot be reached "
            f"({' '.join(str(error).split()) or type(error).__name__}); give a local folder, or check the network"
        ) from error
