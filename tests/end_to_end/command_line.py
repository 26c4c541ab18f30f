"""Scripts as a user types them."""

import os
import subprocess
import sys
from pathlib import Path

import fork_server

ROOT = Path(__file__).parents[2]


def run(script: str, *flags: str, cache: Path, cwd: Path, launcher: str = "") -> subprocess.CompletedProcess:
    """With a launcher in processes of their own, else forked from one that has imported the libraries."""
    environment = {"LLM_UNLEARN_CACHE": str(cache), "HF_HUB_OFFLINE": "1", "COLUMNS": "100"}
    command = [str(ROOT / script), *flags]
    if not launcher:
        return fork_server.run(command, cwd=cwd, environment=environment)
    return subprocess.run(
        [sys.executable, "-m", *launcher.split(), *command],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=400,
    )
