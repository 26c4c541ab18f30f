"""Commands as a user types them, run in this process: imports would take most of a process's time."""

import io
import json
import runpy
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).parents[2]
MODEL = ["--model_name_or_path", "original"]
ROWS = ["--forget_file", "forget.jsonl", "--retain_file", "retain.jsonl"]
QUICK = ["--attacks", "none", "--max_steps", "1", "--use_cpu", "--disable_tqdm", "--report_to", "none"]
RECIPE = "recipes/npo.py"


def run(command: str, flags: list[str]) -> SimpleNamespace:
    """What a command prints and its exit code, as if typed; errors that no command catches are raised."""
    out, err, code, argv = io.StringIO(), io.StringIO(), 0, sys.argv
    sys.argv = [command, *flags]
    try:
        with redirect_stdout(out), redirect_stderr(err):
            if command.endswith(".py"):
                runpy.run_path(str(ROOT / command), run_name="__main__")
            else:
                runpy.run_module(command, run_name="__main__")
    except SystemExit as stopped:
        code = stopped.code
    finally:
        sys.argv = argv
    return SimpleNamespace(code=code, stdout=out.getvalue(), stderr=err.getvalue())


def snapshot(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_size for path in folder.rglob("*") if path.is_file()}


def change_json(path: Path, **changes) -> None:
    """Set keys of a JSON file; None removes one."""
    value = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: item for key, item in value.items() if item is not None}))
