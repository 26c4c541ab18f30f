"""Sending a run to the hub: one commit, after every file was checked, into a repository that is private by default."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError
from huggingface_hub.utils import validate_repo_id

from llm_unlearn.errors import HubError, InputError, LeakError, StorageError
from llm_unlearn.examining.results import read_results
from llm_unlearn.files.run_folder import weights_folder
from llm_unlearn.hub.edition import EDITION, build_edition, is_ours, secrets_of
from llm_unlearn.hub.leaks import check_files

_SERVER_FAULT = 500
_XET_STATUS = re.compile(r"HTTP status (?:client|server) error \((\d{3})")


def push_run(
    folder: str | Path,
    repo_id: str | None = None,
    kind: str | None = None,
    *,
    private: bool = True,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
) -> CommitInfo:
    """Upload a finished run: weights, tokenizer, card and evidence, in one commit.

    What is sent is left in FOLDER/hub. Nothing else in the folder changes, so a push that failed can be repeated.

    Args:
        folder: `output_dir` of a recipe's run, or of a trainer that was pushed before.
        repo_id: "name" or "owner/name"; default: the folder's name.
        kind: "adapter" (default; "model" after full fine-tuning) or "merged": the adapter put into its base model.
        private: False makes a public repository. One that is there already must be as this says.
        token: default: that of `hf auth login` or HF_TOKEN.
        revision: branch; default: main.

    Raises:
        InputError: the run or the name is not usable, nobody is logged in, or the repository that is there is
            public, or private, other than asked for.
        LeakError: a file holds something of the forget set or of this machine; nothing was sent.
        HubError: the hub refused or dropped it; the message says what to do.
    """
    folder = Path(folder)
    repo_id = repo_id or folder.resolve().name
    read_results(folder)  # a folder without a run is said before a missing login
    check_ready(repo_id, token)
    retry = _retry_command(folder, repo_id, kind, private, revision)
    api = HfApi(token=token)
    if "/" not in repo_id:  # the card says under which full name it stands
        with _explained(repo_id, folder, retry):
            repo_id = f"{api.whoami()['name']}/{repo_id}"
    files = build_checked(folder, repo_id, kind)
    with _explained(repo_id, folder, retry):
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        _check_visibility(api, repo_id, private)
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        # Of an earlier push: an adapter beside merged weights would be loaded in their place.
        there = api.list_repo_files(repo_id, revision=revision)
        replaced = [name for name in there if is_ours(name) and name not in files]
        return api.create_commit(
            repo_id,
            [CommitOperationAdd(name, str(path)) for name, path in files.items()]
            + [CommitOperationDelete(name) for name in replaced],
            commit_message=commit_message or "Unlearned model with its evidence",
            revision=revision,
        )


def build_checked(folder: str | Path, repo_id: str | None = None, kind: str | None = None) -> dict[str, Path]:
    """The files to send, in FOLDER/hub: path in the repository -> file.

    Raises:
        InputError: as `push_run`.
        StorageError: FOLDER/hub cannot be written.
        LeakError: a file holds something of the forget set or of this machine.
    """
    folder = Path(folder)
    repo_id = repo_id or folder.resolve().name
    results = read_results(folder)
    try:
        files = build_edition(folder, repo_id, kind)
    except OSError as error:
        raise StorageError(
            f"the upload could not be prepared in {folder / EDITION} ({error.strerror or error}): free some space, or "
            "make the folder writable; nothing was sent"
        ) from error
    if found := check_files(files, secrets_of(folder, repo_id, results)):
        first, *others = found
        more = f" (and {len(others)} more: {'; '.join(map(str, others[:3]))})" if others else ""
        raise LeakError(
            f"nothing was uploaded: {first}{more}. {first.fix.capitalize()}: the file is {files[first.file]}, made of "
            f"{_source(folder, first.file)}. Then push again"
        )
    return files


def _source(folder: Path, name: str) -> str:
    """Where a file of the edition has its content from."""
    if (weights_folder(folder) / name).is_file():
        return str(weights_folder(folder) / name)
    if name in ("README.md", "report.html"):
        return f"results.json and verdict.json in {folder}, and the name of the repository"
    return str(folder / name)


def _check_visibility(api: HfApi, repo_id: str, private: bool) -> None:
    """A repository that was there before keeps its visibility, whatever `create_repo` was asked for."""
    if bool(api.repo_info(repo_id).private) == private:
        return
    if private:
        raise InputError(
            f"hub_model_id: {repo_id} is public, and this would publish the model: give another name, make the "
            "repository private, or give --hub_private_repo false"
        )
    raise InputError(
        f"hub_private_repo=false: {repo_id} is there and private: publish it in its settings, or leave the flag out"
    )


def check_ready(repo_id: str | None, token: str | None = None) -> None:
    """Raise InputError, without asking the hub, where a push could only fail: found before hours of training."""
    if repo_id is not None:
        try:
            validate_repo_id(repo_id)
        except HFValidationError as error:
            raise InputError(
                f"hub_model_id: {repo_id!r} is no name of a repository ({error}); give owner/name"
            ) from error
    if constants.HF_HUB_OFFLINE:
        raise InputError("push_to_hub: HF_HUB_OFFLINE=1 forbids it; unset it, or push the finished run later")
    if not (token or get_token()):
        raise InputError("push_to_hub: nobody is logged in; run `hf auth login`, or set HF_TOKEN")


def explain_status(status: int | None, repo_id: str, doing: str = "write") -> str:
    """What to do about an HTTP status of the hub (None: there was no answer)."""
    if status == 401:
        return "the hub does not accept the token (401): log in again with `hf auth login`, or set HF_TOKEN"
    if status == 403:
        return (
            f"the token may not {doing} {repo_id} (403): make one with {doing} access at "
            f"{constants.ENDPOINT}/settings/tokens, ask the owner for it, or give another name"
        )
    if status == 404:
        return f"{repo_id} is not there, or this token may not see it (404): check the name and log in"
    if status == 429:
        return "too many requests (429): wait some minutes"
    if status is None:
        return f"no connection to {constants.ENDPOINT}, or it broke: check the network"
    if status >= _SERVER_FAULT:
        return f"the hub is not well ({status}): wait some minutes"
    return f"the hub refused (HTTP {status})"


def http_status(error: BaseException | None) -> int | None:
    """The status that an exception of the client, or one behind it, stands for."""
    while error is not None:
        if isinstance(error, HfHubHTTPError):
            return error.response.status_code
        if told := _XET_STATUS.search(str(error)):  # hf_xet has it in its message alone
            return int(told[1])
        error = error.__cause__ or error.__context__
    return None


@contextlib.contextmanager
def _explained(repo_id: str, folder: Path, retry: str) -> Iterator[None]:
    """Within this scope, what the client raises about the hub becomes a `HubError` that says what to do."""
    try:
        yield
    except InputError:
        raise
    except (HTTPError, OSError, RuntimeError, ValueError) as error:  # of hf_xet: subclasses of OSError and RuntimeError
        raise HubError(
            f"the upload to {repo_id} failed: {_reason(error, repo_id)}. Nothing is lost: {folder} holds all that was "
            f"to be sent, and what has arrived is not sent again. Try again with: {retry}"
        ) from error


def _reason(error: Exception, repo_id: str) -> str:
    status = http_status(error)
    if status == 404 and "xet-write-token" in str(error):
        return (
            "the hub (or a mirror of it) speaks no xet (404), with which large files are sent: set HF_HUB_DISABLE_XET=1"
        )
    if status is not None or isinstance(error, HTTPError) or isinstance(error.__cause__, HTTPError):
        return explain_status(status, repo_id)
    said = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"  # neither an answer nor its absence
    return f"{said}; check the network, and where xet cannot pass (a proxy, a mirror), set HF_HUB_DISABLE_XET=1"


def _retry_command(folder: Path, repo_id: str, kind: str | None, private: bool, revision: str | None) -> str:
    words = ["llm-unlearn", "push", os.fspath(folder), "--hub_model_id", repo_id]
    words += ["--push", kind] if kind else []
    words += [] if private else ["--hub_private_repo", "false"]
    words += ["--hub_revision", revision] if revision else []
    return shlex.join(words)
