"""A recipe that shards on CPUs where its launcher file says so: accelerate launch ... recipe_on_cpu.py RECIPE FLAGS"""

import os
import runpy
import sys
from pathlib import Path

from sharded_on_cpu import allow_fsdp_on_cpu

if os.environ.get("ACCELERATE_USE_FSDP") == "true":
    allow_fsdp_on_cpu()
sys.argv = [str(Path(__file__).parents[2] / "recipes" / sys.argv[1]), *sys.argv[2:]]
runpy.run_path(sys.argv[0], run_name="__main__")
