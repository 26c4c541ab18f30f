"""Runs a recipe and kills it at random moments, again and again; started by test_kills.py.

    python run_with_kills.py RECIPE KILLS SEED LONGEST [FLAGS ...]

A child is forked from this process, which has imported everything: what is killed is the run, not Python's start.
Prints one line of JSON: for every kill, its second and what the run was at.
"""

import json
import os
import random
import runpy
import signal
import sys
import time
from pathlib import Path

import llm_unlearn.runs.recipe  # noqa: F401  (imported once, for all children)
from llm_unlearn import NPOTrainer, SsiuuTrainer  # noqa: F401


def start(recipe: str, flags: list[str], log: Path) -> int:
    child = os.fork()
    if child:
        return child
    with open(log, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = [recipe, *flags]
    code = 1
    try:
        runpy.run_path(recipe, run_name="__main__")
        code = 0
    except SystemExit as error:
        code = error.code or 0
    finally:
        os._exit(code)


def doing(output: Path) -> str:
    """What a run that has left this folder was at."""
    if not output.exists() or not (output / "reference_log_probs.json").exists():
        return "loading, or asking the reference"
    if (output / "unfinished-checkpoint").exists():
        return "writing a checkpoint"
    if not (output / "adapter" / "adapter_model.safetensors").exists():
        return "training"
    return "judging" if not (output / "verdict.json").exists() else "reporting"


def main(recipe: str, kills: str, seed: str, longest: str, *flags: str) -> None:
    output, random_numbers, killed = Path(flags[flags.index("--output_dir") + 1]), random.Random(int(seed)), []
    log = output.with_name(f"{output.name}.log")
    while True:
        child = start(recipe, [*flags, "--resume_from_checkpoint", "last"], log)
        moment = random_numbers.uniform(0, float(longest))
        started = time.monotonic()
        while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
            if len(killed) < int(kills) and time.monotonic() - started > moment:
                killed.append({"second": round(moment, 2), "doing": doing(output)})
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                break
            time.sleep(0.005)
        else:
            code = os.waitstatus_to_exitcode(ended[1])
            if code or len(killed) >= int(kills):
                print(json.dumps(killed))
                sys.exit(code)
            for file in sorted(output.rglob("*"), reverse=True):  # done too early: all over again
                file.rmdir() if file.is_dir() else file.unlink()


if __name__ == "__main__":
    main(*sys.argv[1:])
