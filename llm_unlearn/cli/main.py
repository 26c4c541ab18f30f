"""The command `llm-unlearn`: recipes, benchmarks and reports, in the repository and wherever the package is installed.

`run` hands a script and its flags to `accelerate launch`. Nothing heavy is imported before that, so that help and
mistakes in names are answered at once.
"""

from __future__ import annotations

import argparse
import ast
import logging
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from llm_unlearn import __version__, attacks
from llm_unlearn.arguments.flags import check_flags, did_you_mean
from llm_unlearn.errors import FAILURES, InputError
from llm_unlearn.methods import method_files, summaries

HELP = """\
Unlearn with one command, and get an honest, measured answer to "erased, or only hidden?"

usage: llm-unlearn COMMAND ...

  run [LAUNCHER FLAGS] NAME [FLAGS]   start a recipe or benchmark; without a NAME: list them
  judge [FLAGS]                       attack an unlearned model beside its original and oracles: verdict and page
  attack NAME [FLAGS]                 one attack alone; without a NAME: list them
  report FOLDER ...                   build verdict and page again from what a run has written, without any model
  leaderboard ACTION ...              add benchmarks to the leaderboard of methods, and build its page
  push FOLDER [FLAGS]                 upload a finished run to the hub with its evidence; private by default
  verify NAME [FLAGS]                 score a pushed model again and compare with its card
  env                                 versions, GPUs, cache and what is missing: paste it into a bug report

Start here (no GPU, no model and no data needed; a few minutes):

  llm-unlearn run ssiuu                                  unlearn, attack and judge in a small fictional world
  llm-unlearn run ssiuu --data fictional:tiny            quicker, in a world too small for conclusions
  llm-unlearn run npo --data fictional:smollm2           a real model, sentences: slower (extra smollm2)

Your own model and rows (question/answer as JSON lines, CSV or Parquet):

  llm-unlearn run npo --model_name_or_path MODEL --forget_file forget.jsonl --retain_file retain.jsonl --dry_run
  llm-unlearn judge --model_name_or_path ORIGINAL --unlearned_model_name_or_path outputs/npo/adapter \\
      --forget_file forget.jsonl --retain_file retain.jsonl

Flags after the NAME belong to it: llm-unlearn run ssiuu --help. Flags before it go to `accelerate launch`:

  llm-unlearn run --num_processes 2 ssiuu --learning_rate 1e-4

To the hub, and back (a run does the first by itself with --push_to_hub --hub_model_id me/npo):

  llm-unlearn push outputs/npo --hub_model_id me/npo
  llm-unlearn verify me/npo --data fictional

Exit codes: 0 done, 1 not verified, 2 bad input, 3 the loss diverged, 4 a file could not be written, 5 the hub failed
(try again: nothing is lost), 6 a file held what must not leave this machine (nothing was sent), 130 interrupted."""

CONTROL = {"counterfactual": "the control: reinjection of true and of made-up facts, which needs no oracle"}
RUNS_ANY_METHOD = "llm_unlearn.runs"
LAUNCHER_FLAGS = (  # what is most often put behind the name by mistake
    *("num_processes", "config_file", "multi_gpu", "num_machines", "machine_rank", "main_process_port", "gpu_ids"),
    *("mixed_precision", "use_fsdp", "use_deepspeed", "num_cpu_threads_per_process"),
)


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command and exit with its code; what went wrong is one line on stderr."""
    name, *rest = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    try:
        if name in ("-h", "--help", "help"):
            print(HELP)
        elif name == "--version":
            print(f"llm_unlearn {__version__}")
        elif name in COMMANDS:
            if code := COMMANDS[name](rest):
                sys.exit(code)
        else:
            raise InputError(f"{name!r} is no command{did_you_mean(name, COMMANDS)}; llm-unlearn --help explains them")
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has seen enough; what is left must not be flushed at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except FAILURES as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        sys.exit(130)


def scripts() -> dict[str, Path]:
    """Name -> file of every recipe and benchmark."""
    base = scripts_folder()
    found = {path.stem: path for group in ("recipes", "benchmarks") for path in sorted((base / group).glob("*.py"))}
    return {name: path for name, path in found.items() if not name.startswith("_")}


def scripts_folder() -> Path:
    """The folder of recipes/ and benchmarks/: the package where it is installed, else the root of the repository."""
    package = Path(__file__).resolve().parents[1]
    return package if (package / "recipes").is_dir() else package.parent


def packaged_file(path: str) -> str:
    """`path` itself, or, where no such file is here, one that comes with the recipes: recipes/configs/npo.yaml."""
    packaged = scripts_folder() / path
    return str(packaged) if not Path(path).exists() and packaged.is_file() else path


def started_by(name: str) -> list[str]:
    """What Python is started with for `name`: a script, or where a method has none, the module that runs any method.

    Args:
        name: ssiuu, or as in the repository recipes/ssiuu.py.

    Raises:
        InputError: there is none; the message suggests the nearest.
    """
    known, methods = scripts(), method_files()
    stem = Path(name).name.removesuffix(".py").replace("-", "_")
    if stem in known:
        return [str(known[stem])]
    if stem in methods:
        return ["-m", RUNS_ANY_METHOD, stem]
    raise InputError(
        f"{name!r} is no recipe or benchmark{did_you_mean(stem, {*known, *methods})}; llm-unlearn run lists them"
    )


def run(arguments: list[str]) -> int:
    """`llm-unlearn run`: what stands before the name goes to `accelerate launch`, what follows to the script."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(run_help())
        return 0
    if not arguments[0].startswith("-"):
        started = started_by(arguments[0])  # a wrong name is found before the launcher is imported, in seconds
        _refuse_launcher_flags(*arguments)
        check_flags(arguments[1:], method_files().values())
        if arguments[-1] in ("-h", "--help", "--help_all"):
            return _run_here(*started, *arguments[1:])
    return launch(arguments)


def judge(arguments: list[str]) -> int:
    """`llm-unlearn judge`."""
    return run(["judge", *arguments])


def attack(arguments: list[str]) -> int:
    """`llm-unlearn attack NAME`: the judge with that attack alone."""
    name, *flags = arguments or ["--help"]
    known = attacks.summaries() | CONTROL
    if name in ("-h", "--help"):
        print("usage: llm-unlearn attack NAME --unlearned_model_name_or_path MODEL [FLAGS]\n")
        print("\n".join(_lines(known)))
        print("\nllm-unlearn attack NAME --help shows the flags; llm-unlearn judge runs several and reaches a verdict.")
        return 0
    chosen = name.replace("-", "_")
    if chosen not in known:
        raise InputError(f"{name!r} is no attack{did_you_mean(chosen, known)}; llm-unlearn attack lists them")
    if chosen in CONTROL:
        return run([f"{chosen}_control", *flags])
    has_folder = any(flag.partition("=")[0] in ("--output_dir", "--config") for flag in flags)
    folder = [] if has_folder else ["--output_dir", f"outputs/{chosen}"]  # not that of the judge's verdict
    return run(["judge", "--attacks", chosen, "--counterfactual", "false", *folder, *flags])


def report(arguments: list[str]) -> int:
    """`llm-unlearn report`."""
    from llm_unlearn.cli.report import main as build

    build(arguments)
    return 0


def leaderboard(arguments: list[str]) -> int:
    """`llm-unlearn leaderboard`."""
    from llm_unlearn.cli.leaderboard import main as keep

    return keep(arguments)


def push(arguments: list[str]) -> int:
    """`llm-unlearn push`."""
    from llm_unlearn.cli.hub import push

    return push(arguments)


def verify(arguments: list[str]) -> int:
    """`llm-unlearn verify`."""
    from llm_unlearn.cli.hub import verify

    return verify(arguments)


def environment(arguments: list[str]) -> int:
    """`llm-unlearn env`."""
    from llm_unlearn.cli.environment import describe_environment

    if arguments:
        raise InputError(f"env takes no arguments, got {' '.join(arguments)}")
    print(describe_environment())
    return 0


COMMANDS = {
    **{"run": run, "judge": judge, "attack": attack, "report": report},
    **{"leaderboard": leaderboard, "push": push, "verify": verify, "env": environment},
}


def run_help() -> str:
    """All recipes and benchmarks with a line each, and where flags go."""
    base, known = scripts_folder(), scripts()
    lines = ["usage: llm-unlearn run [LAUNCHER FLAGS] NAME [FLAGS]"]
    for group, methods in (("recipes", summaries()), ("benchmarks", {})):
        of_group = {name: _first_line(path) for name, path in known.items() if path.parent.name == group}
        lines += ["", f"{group}:", *_lines(methods | {k: v for k, v in of_group.items() if k not in methods})]
    for folder, flag in (("configs", "after the NAME: --config"), ("accelerate", "before the NAME: --config_file")):
        files = sorted((base / "recipes" / folder).glob("*.yaml"))
        if files:
            lines += ["", f"{flag} FILE, also where there is no repository:"]
            lines += [f"  recipes/{folder}/{path.name}" for path in files]
    lines += ["", "llm-unlearn run NAME --help shows the flags of NAME; `accelerate launch --help` those before it."]
    return "\n".join(lines)


def _lines(explained: dict[str, str]) -> list[str]:
    width = max(map(len, explained))
    return [f"  {name:{width}}  {words}" for name, words in explained.items()]


def _first_line(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0].rstrip(".")


def _refuse_launcher_flags(name: str, *flags: str) -> None:
    for flag in flags:
        plain = flag.partition("=")[0].removeprefix("--").replace("-", "_")
        if flag.startswith("--") and plain in LAUNCHER_FLAGS:
            raise InputError(
                f"{flag} is a setting of the launcher: put it before the name, as in "
                f"llm-unlearn run --{plain} ... {name}"
            )


def _run_here(script: str, *arguments: str) -> int:
    """A script, or a module after "-m", in this process, for its help."""
    if script == "-m":
        module, *rest = arguments
        sys.argv = [module, *rest]
        runpy.run_module(module, run_name="__main__")
    else:
        sys.argv = [script, *arguments]
        runpy.run_path(script, run_name="__main__")
    return 0


def parse_launch(arguments: Sequence[str]) -> argparse.Namespace:
    """The arguments of `accelerate launch`, with the name of a recipe or benchmark in place of its file.

    Raises:
        InputError: a flag before the name is none of the launcher, or there is no name.
    """
    from accelerate.commands.launch import launch_command_parser

    def refuse(message: str) -> NoReturn:
        raise InputError(f"accelerate launch: {message}; flags before the name are its own, those after it the name's")

    parser = launch_command_parser()
    parser.error = refuse  # instead of three pages of usage
    parsed, unknown = parser.parse_known_args(list(arguments))
    if unknown:
        raise InputError(
            f"{unknown[0]} is no flag of accelerate launch; flags of a recipe follow its name: llm-unlearn run NAME "
            f"{unknown[0]} ..."
        )
    started = started_by(parsed.training_script)
    parsed.module = started[0] == "-m"
    parsed.training_script, *before = started[1:] if parsed.module else started
    if parsed.config_file is not None:
        parsed.config_file = packaged_file(parsed.config_file)
    flags = parsed.training_script_args
    check_flags(flags, method_files().values())
    for number, flag in enumerate(flags):
        if flag.startswith("--config="):
            flags[number] = f"--config={packaged_file(flag.partition('=')[2])}"
        elif number and flags[number - 1] == "--config":
            flags[number] = packaged_file(flag)
    parsed.training_script_args = [*before, *flags]
    return parsed


def launch(arguments: Sequence[str]) -> int:
    """`accelerate launch` in this process; returns the exit code of the first process that failed, or 0.

    Left to itself, the launcher answers a failed process with a traceback of its own and exit code 1.
    """
    from accelerate.commands.launch import launch_command
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    parsed = parse_launch(arguments)
    logging.getLogger("accelerate.commands.launch").setLevel(logging.ERROR)  # its list of defaults is no warning here
    logging.getLogger("torch.distributed.elastic.multiprocessing.api").setLevel(logging.CRITICAL)  # says it once more
    try:
        launch_command(parsed)
    except subprocess.CalledProcessError as error:
        code = error.returncode
    except ChildFailedError as error:
        code = error.get_first_failure()[1].exitcode
    except KeyboardInterrupt:
        code = 130
    except (ValueError, ImportError, OSError) as error:
        raise InputError(f"accelerate launch: {' '.join(str(error).split())}") from error
    else:
        return 0
    if code < 0:
        name = signal.Signals(-code).name
        hint = "; often there was not enough memory" if name == "SIGKILL" else ""
        print(f"error: a process was ended by {name}{hint}", file=sys.stderr)
        return 128 - code  # as a shell counts
    return code


if __name__ == "__main__":
    main()
