"""Scripts as a user types them."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(script: str, *flags: str, cache: Path, cwd: Path, launcher: str = "") -> subprocess.CompletedProcess:
    environment = os.environ | {"LLM_UNLEARN_CACHE": str(cache), "HF_HUB_OFFLINE": "1", "COLUMNS": "100"}
    start = [sys.executable, *(["-m", *launcher.split()] if launcher else [])]
    return subprocess.run(
        [*start, str(ROOT / script), *flags], cwd=cwd, env=environment, capture_output=True, text=True, timeout=400
    )
