"""Loading an unlearned model together with the evidence of what it forgot, from the hub or from a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llm_unlearn.errors import HubError, InputError
from llm_unlearn.examining.results import read_run, read_verdict
from llm_unlearn.files import run_folder
from llm_unlearn.files.run_folder import weights_folder
from llm_unlearn.hub.upload import explain_status, http_status
from llm_unlearn.models.embedded import embedded_model
from llm_unlearn.models.files import split_revision
from llm_unlearn.models.loading import load_model, load_tokenizer
from llm_unlearn.models.smollm2 import SMOLLM2

# No pickles, and no code, which a repository may hold besides.
SAFE_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model", "README.md", "report.html"]
AGAIN = "download it again, or make it from the results with: llm-unlearn report FOLDER"


class UnlearnedModel(NamedTuple):
    """What `load_unlearned` returns.

    Attributes:
        model: in evaluation mode; a `PeftModel` where an adapter was published.
        processing_class: its tokenizer.
        evidence: {"results": results.json, "verdict": verdict.json or None, "records": model -> per-row records,
            "folder": where the files are}.
    """

    model: PreTrainedModel | PeftModel
    processing_class: PreTrainedTokenizerBase
    evidence: dict[str, Any]


def load_unlearned(
    name_or_path: str | Path,
    revision: str | None = None,
    *,
    base_model: str | None = None,
    dtype: str = "auto",
    trust_remote_code: bool = False,
    token: str | None = None,
    check_weights: bool = True,
) -> UnlearnedModel:
    """Load an unlearned model, its tokenizer and its evidence.

    Args:
        name_or_path: a hub id ("owner/name", or "owner/name@revision"), the output folder of a run, or a folder with a
            pushed run that was downloaded.
        revision: branch, tag or commit on the hub.
        base_model: folder or hub id of an adapter's base, where the evidence knows none that can be found from here.
        dtype: auto, float32, bfloat16 or float16.
        trust_remote_code: run the base model's own code from the hub.
        token: default: that of `hf auth login` or HF_TOKEN.
        check_weights: refuse weights that are not those that the evidence is about, by their SHA-256.

    Raises:
        InputError: no unlearned model there, weights that were not judged, or nobody says what the base model is.
        HubError: the hub refused, or cannot be reached.
    """
    folder = find_folder(name_or_path, revision, token, code=trust_remote_code)
    results, records = read_run(folder, "give the folder of a finished run, or a model that was pushed by one")
    is_run = any((folder / name).is_dir() for name in ("adapter", "model"))
    weights = weights_folder(folder) if is_run else folder
    if check_weights:
        run_folder.check_weights(results, weights, folder)
    verdict = read_verdict(folder, results, AGAIN) if (folder / "verdict.json").is_file() else None
    base = (results.get("names") or {}).get("base_model")
    if not is_run and base_model is None and (base or "").startswith("fictional:"):
        base_model = str(embedded_model(base.partition(":")[2]))
    elif not is_run and base_model is None and base == SMOLLM2:
        base_model = SMOLLM2
    model = load_model(
        str(weights), dtype, base_model=base_model, trust_remote_code=trust_remote_code, is_trainable=False
    )
    evidence = {
        "results": results,
        "verdict": verdict,
        "records": records,
        "folder": str(folder),
    }
    return UnlearnedModel(model.eval(), load_tokenizer(str(weights), trust_remote_code=trust_remote_code), evidence)


def find_folder(
    name_or_path: str | Path, revision: str | None = None, token: str | None = None, code: bool = False
) -> Path:
    """The folder itself, or the hub's files in the cache; of those, no code (unless asked for) and no pickles.

    Raises:
        InputError: neither a folder nor a hub id, or a revision of a folder.
        HubError: the hub refused, or cannot be reached.
    """
    name = str(name_or_path)
    if Path(name).is_dir():
        if revision is not None:
            raise InputError(f"revision={revision!r}: {name} is a folder, which has none; leave it out")
        return Path(name)
    repo_id, pinned = split_revision(name)
    patterns = [*SAFE_FILES, *(["*.py"] if code else [])]
    try:
        return Path(HfApi(token=token).snapshot_download(repo_id, revision=revision or pinned, allow_patterns=patterns))
    except (HfHubHTTPError, HTTPError, OfflineModeIsEnabled) as error:
        raise HubError(
            f"{name} could not be downloaded: {explain_status(http_status(error), repo_id, 'read')}"
        ) from error
    except (OSError, ValueError) as error:
        status = http_status(error)
        if status is not None:
            raise HubError(f"{name} could not be downloaded: {explain_status(status, repo_id, 'read')}") from error
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{name} is neither a folder nor a model on the hub that can be reached: {reason}") from error
