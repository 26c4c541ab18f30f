"""`python -m llm_unlearn.hub push RUN_FOLDER --hub_model_id NAME` and `python -m llm_unlearn.hub verify NAME`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from llm_unlearn.arguments import run_main
from llm_unlearn.data import load_unlearning_data
from llm_unlearn.hub import load_unlearned, push_run, verify
from llm_unlearn.hub.edition import EDITION, KINDS
from llm_unlearn.hub.upload import build_checked
from llm_unlearn.hub.verification import TOLERANCE
from llm_unlearn.recipe import prepare_process

DESCRIPTION = """\
Unlearned models on the hub, with the evidence of what they forgot.

push    uploads a finished run: the adapter (or the model), its tokenizer, a model card, scores, verdict and report. No
        row and no generated text is sent, and nothing at all if any file holds one. Private, unless asked otherwise.
verify  loads a pushed model (or a run's folder), scores it again on the rows at hand, and compares with its card."""
EXAMPLES = """\
examples:
  python -m llm_unlearn.hub push outputs/npo --dry_run                 # what would be sent, in outputs/npo/hub
  python -m llm_unlearn.hub push outputs/npo --hub_model_id me/npo
  python -m llm_unlearn.hub push outputs/npo --hub_model_id me/npo-merged --push merged
  python -m llm_unlearn.hub verify me/npo --data locuslab/TOFU --forget_split forget10

exit codes: 0 done, or verified; 1 the scores are not those of the card; 2 bad input; 5 the hub failed (everything is
still there: try again); 6 a file held what must not leave (nothing was sent)"""


def main(argv: Sequence[str] | None = None) -> None:
    """Push or verify.

    Raises:
        InputError, LeakError, HubError: as `push_run`, `load_unlearned` and `verify`.
    """
    arguments = _parser().parse_args(argv)
    console = Console(highlight=False, soft_wrap=True)
    if arguments.command == "push":
        if arguments.dry_run:
            files = build_checked(arguments.folder, arguments.hub_model_id, arguments.push)
            for name, path in files.items():
                console.print(f"  {path.stat().st_size:>12,}  {name}", markup=False)
            console.print(f"Checked, not sent: {arguments.folder / EDITION}", markup=False)
            return
        private = arguments.hub_private_repo == "true"
        pushed = push_run(
            arguments.folder, arguments.hub_model_id, arguments.push, private=private, revision=arguments.hub_revision
        )
        console.print(f"Pushed: {pushed.commit_url}", markup=False)
        return
    prepare_process()
    data = load_unlearning_data(
        arguments.data,
        forget_split=arguments.forget_split,
        retain_split=arguments.retain_split,
        forget_file=arguments.forget_file,
        retain_file=arguments.retain_file,
    )
    unlearned = load_unlearned(
        arguments.name_or_path,
        arguments.revision,
        base_model=arguments.base_model,
        dtype=arguments.dtype,
        trust_remote_code=arguments.trust_remote_code,
    )
    verification = verify(unlearned, data, tolerance=arguments.tolerance)
    console.print(verification.table())
    if not verification.agrees:
        print(f"error: {arguments.name_or_path} is not what its card says", file=sys.stderr)
        sys.exit(1)
    console.print("The card's scores are those of the model.")


def _parser() -> argparse.ArgumentParser:
    how = {"formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = argparse.ArgumentParser("python -m llm_unlearn.hub", description=DESCRIPTION, epilog=EXAMPLES, **how)
    commands = parser.add_subparsers(dest="command", required=True)
    push = commands.add_parser("push", help="upload a finished run")
    push.add_argument("folder", type=Path, metavar="RUN_FOLDER", help="output folder of a recipe")
    push.add_argument("--hub_model_id", metavar="NAME", help="name or owner/name; default: the folder's name")
    push.add_argument("--push", choices=KINDS, help="default: the adapter, if there is one")
    push.add_argument("--hub_private_repo", choices=("true", "false"), default="true", help="default: true")
    push.add_argument("--hub_revision", metavar="BRANCH", help="default: main")
    push.add_argument("--dry_run", action="store_true", help="build and check what would be sent, and send nothing")
    check = commands.add_parser("verify", help="score a pushed model again and compare with its card")
    check.add_argument("name_or_path", metavar="NAME", help="hub id, or folder of a run")
    check.add_argument("--revision", help="branch, tag or commit on the hub")
    check.add_argument("--base_model", metavar="PATH", help="base of an adapter, where the hub has none")
    for name in ("data", "forget_split", "retain_split", "forget_file", "retain_file"):
        check.add_argument(f"--{name}", help="as in the recipes")
    check.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16", "float16"))
    check.add_argument("--tolerance", type=float, default=TOLERANCE, help=f"absolute; default: {TOLERANCE}")
    check.add_argument("--trust_remote_code", action="store_true", help="run the base model's own code from the hub")
    return parser


if __name__ == "__main__":
    run_main(main)
