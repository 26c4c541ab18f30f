"""`llm-unlearn push RUN_FOLDER` and `llm-unlearn verify NAME`.

What takes seconds to import is imported where it is used, so that help and mistakes are answered at once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llm_unlearn.arguments.flags import parse_command

if TYPE_CHECKING:
    from datasets import Dataset

TRAIL = "audit_trail.jsonl"  # `files.audit_trail.FILE`, whose import takes seconds

PUSH = """\
Upload a finished run: weights, tokenizer, model card, scores, verdict and report, in one commit.

A run folder is the --output_dir of a recipe, or of a trainer. No row and no generated text is sent, and nothing at all
if any file holds one, or a path, name or token of this machine. The repository is private unless asked otherwise. What
is sent lies in RUN_FOLDER/hub afterwards."""
PUSH_EXAMPLES = """\
examples:
  llm-unlearn push outputs/npo --dry_run                    # what would be sent, in outputs/npo/hub; needs no hub
  llm-unlearn push outputs/npo --hub_model_id me/npo        # log in before, once: hf auth login
  llm-unlearn push outputs/npo --hub_model_id me/npo-merged --push merged

An adapter leaves its base untouched: whoever drops it has the knowledge back. --push merged has no such way back.

exit codes: 0 sent; 2 bad input; 4 a file could not be written; 5 the hub failed (nothing is lost: the error names the
command that tries again); 6 a file held what must not leave (the error names file and line; nothing was sent)"""
VERIFY = """\
Load a pushed model (or a run's folder), score it again on the rows at hand, and compare with what its card says.

Are these the weights that were judged (by their SHA-256)? Do exact match and answer probability agree? It does not
attack again: that is `llm-unlearn judge`.

Of the folder of a sequence of requests, its audit trail is checked first: every line, and every model that is there.
Without rows (--data, --forget_file) that is all; with them, also whether the rows of each request are among them."""
VERIFY_EXAMPLES = """\
examples:
  llm-unlearn verify me/npo --data locuslab/TOFU --forget_split forget10
  llm-unlearn verify me/npo --forget_file forget.jsonl --retain_file retain.jsonl --base_model path/to/base
  llm-unlearn verify outputs/npo --data fictional
  llm-unlearn verify outputs/sequence                       # its audit trail alone

exit codes: 0 weights and scores are those of the card; 1 they are not; 2 bad input; 5 the hub failed"""


def push(argv: Sequence[str]) -> int:
    """Push, or show what would be pushed; returns 0.

    Raises:
        InputError, LeakError, HubError: as `hub.push_run`.
    """
    arguments = parse_command(_push_parser(), argv)
    from llm_unlearn.hub import push_run
    from llm_unlearn.hub.edition import EDITION
    from llm_unlearn.hub.upload import build_checked

    if arguments.dry_run:
        files = build_checked(arguments.folder, arguments.hub_model_id, arguments.push)
        for name, path in files.items():
            print(f"  {path.stat().st_size:>12,}  {name}")
        print(f"Checked, not sent: {arguments.folder / EDITION}")
        return 0
    pushed = push_run(
        arguments.folder,
        arguments.hub_model_id,
        arguments.push,
        private=arguments.hub_private_repo == "true",
        revision=arguments.hub_revision,
    )
    print(f"Pushed: {pushed.commit_url}")
    return 0


def verify(argv: Sequence[str]) -> int:
    """Verify and print a table; returns 0 where everything agrees, else 1. A folder's audit trail is checked before.

    Raises:
        InputError, HubError: as `hub.load_unlearned` and `hub.verify`.
    """
    arguments = parse_command(_verify_parser(), argv)
    from rich.console import Console

    from llm_unlearn import hub
    from llm_unlearn.data import load_unlearning_data
    from llm_unlearn.runs.recipe import prepare_process
    from llm_unlearn.runs.sequence import requested

    prepare_process()
    has_trail = (Path(arguments.name_or_path) / TRAIL).is_file()
    if has_trail and arguments.data is None and arguments.forget_file is None:
        return _verified_trail(Path(arguments.name_or_path))
    data = load_unlearning_data(
        arguments.data,
        forget_split=arguments.forget_split,
        retain_split=arguments.retain_split,
        forget_file=arguments.forget_file,
        retain_file=arguments.retain_file,
        near_duplicates="allow",  # the run that is verified has decided it
    )
    if has_trail:
        if code := _verified_trail(Path(arguments.name_or_path), data.forget):
            return code
        data = requested(data, Path(arguments.name_or_path))  # the card may be about a part of the rows
    unlearned = hub.load_unlearned(
        arguments.name_or_path,
        arguments.revision,
        base_model=arguments.base_model,
        dtype=arguments.dtype,
        trust_remote_code=arguments.trust_remote_code,
        check_weights=False,  # the table says so, and compares the scores of those that are there
    )
    tolerance = {} if arguments.tolerance is None else {"tolerance": arguments.tolerance}
    verification = hub.verify(unlearned, data, **tolerance)
    Console(highlight=False, soft_wrap=True).print(verification.table())
    if not verification.agrees:
        print(f"error: {arguments.name_or_path} is not what its card says", file=sys.stderr)
        return 1
    print("The card's scores are those of the model.")
    return 0


def _verified_trail(folder: Path, forget: Dataset | None = None) -> int:
    """Check the trail in a folder and say what was found; 0: all is well, 1: not."""
    from llm_unlearn.hub.verification import verify_trail

    found = verify_trail(folder, forget)
    for problem in found.problems:
        print(f"error: {folder / TRAIL}: {problem}", file=sys.stderr)
    if not found.problems:
        print(f"{folder / TRAIL}: {found.lines} requests, each line as it was written; last hash {found.last}")
    return 1 if found.problems else 0


def _parser(command: str, description: str, examples: str) -> argparse.ArgumentParser:
    how = {"formatter_class": argparse.RawDescriptionHelpFormatter}
    return argparse.ArgumentParser(f"llm-unlearn {command}", description=description, epilog=examples, **how)


def _push_parser() -> argparse.ArgumentParser:
    parser = _parser("push", PUSH, PUSH_EXAMPLES)
    parser.add_argument("folder", type=Path, metavar="RUN_FOLDER", help="output folder of a finished run")
    parser.add_argument("--hub_model_id", metavar="NAME", help="name or owner/name; default: the folder's name")
    parser.add_argument(
        "--push",
        choices=("adapter", "merged"),
        help="merged: the adapter put into its base; default: as trained",
    )
    parser.add_argument(
        "--hub_private_repo", choices=("true", "false"), default="true", help="false publishes; default: true"
    )
    parser.add_argument("--hub_revision", metavar="BRANCH", help="default: main")
    parser.add_argument("--dry_run", action="store_true", help="build and check what would be sent, and send nothing")
    return parser


def _verify_parser() -> argparse.ArgumentParser:
    parser = _parser("verify", VERIFY, VERIFY_EXAMPLES)
    parser.add_argument("name_or_path", metavar="NAME", help="hub id, owner/name@revision, or folder of a run")
    parser.add_argument("--revision", help="branch, tag or commit on the hub")
    parser.add_argument("--base_model", metavar="PATH", help="base of an adapter, where the card names none")
    parser.add_argument("--data", help="fictional[:tiny|small|medium], locuslab/TOFU, or a folder with TOFU's files")
    parser.add_argument("--forget_split", help="as in the run: the card's command has it")
    parser.add_argument("--retain_split", help="default: the complement of forget_split")
    parser.add_argument("--forget_file", help="the run's own rows to forget, instead of --data")
    parser.add_argument("--retain_file", help="its rows to keep")
    parser.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16", "float16"))
    parser.add_argument("--tolerance", type=float, help="absolute; default: 0.02, for other hardware")
    parser.add_argument("--trust_remote_code", action="store_true", help="run the base model's own code from the hub")
    return parser
