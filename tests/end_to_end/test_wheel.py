"""The package as people install it: a wheel, in an environment and a folder that know nothing of the repository."""

import json
import os
import shutil
import site
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGED = ("llm_unlearn", "recipes", "benchmarks")


def outside() -> dict[str, str]:
    """An environment in which nothing points to the repository."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, because a build leaves files behind, and takes those of earlier builds with it."""
    source, output = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in PACKAGED:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, source)
    build = ["wheel", "--quiet", "--no-build-isolation", "--no-deps", "--no-index", "--wheel-dir", str(output)]
    subprocess.run([sys.executable, "-m", "pip", *build, str(source)], check=True, timeout=200)
    return next(output.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The bin folder of an environment with this package from the wheel and everything else from that of the tests."""
    environment = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True, timeout=100)
    install = ["--python", str(environment / "bin" / "python"), "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([sys.executable, "-m", "pip", *install, str(wheel)], check=True, timeout=200, env=outside())
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    folder = environment / "lib" / version / "site-packages"
    (folder / "libraries.pth").write_text("\n".join([*site.getsitepackages(), site.getusersitepackages()]))
    return environment / "bin"


def run_outside(*command: str, folder: Path, cache: Path) -> subprocess.CompletedProcess:
    environment = outside() | {"LLM_UNLEARN_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(list(command), cwd=folder, env=environment, capture_output=True, text=True, timeout=400)


def test_the_wheel_has_every_file_that_the_repository_has(wheel):
    with zipfile.ZipFile(wheel) as archive:
        packed = {name.removeprefix("llm_unlearn/") for name in archive.namelist() if ".dist-info/" not in name}
    expected = set()
    for name in PACKAGED:
        files = (path for path in (ROOT / name).rglob("*") if path.is_file() and path.suffix != ".pyc")
        expected |= {str(path.relative_to(ROOT / "llm_unlearn" if name == "llm_unlearn" else ROOT)) for path in files}
    assert packed == expected


@pytest.mark.long
def test_a_recipe_runs_to_its_verdict_where_there_is_no_repository(installed, cache, tmp_path):
    done = run_outside(
        *(str(installed / "llm-unlearn"), "run", "ssiuu", "--data", "fictional:tiny", "--max_steps", "4"),
        *("--attacks", "adversarial_reinjection", "--attack_steps", "4", "--attack_seeds", "0"),
        *("--counterfactual", "false", "--output_dir", "out"),
        folder=tmp_path,
        cache=cache,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "were not passed to" not in done.stderr  # the launcher's list of defaults
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["training"]["steps"] == 4 and set(results["scores"]) == {"original", "oracle", "unlearned"}
    assert (tmp_path / "out" / "report.html").is_file()  # made of a template that the wheel must have


def test_the_package_is_the_wheels_and_is_imported_without_any_library(installed, cache, tmp_path):
    code = (
        "import sys, llm_unlearn; from llm_unlearn import InputError\n"
        "names = {name.partition('.')[0] for name in sys.modules} & {'torch', 'transformers', 'numpy', 'datasets'}\n"
        "print(llm_unlearn.__file__, llm_unlearn.__version__, names, 'SsiuuTrainer' in dir(llm_unlearn))"
    )
    done = run_outside(str(installed / "python"), "-c", code, folder=tmp_path, cache=cache)
    home = installed.parent / "lib"
    assert done.stdout.startswith(str(home)) and done.stdout.endswith(" 0.1.0 set() True\n"), done.stderr
    assert (
        "recipes/configs/ssiuu.yaml"
        in run_outside(*(str(installed / "llm-unlearn"), "run"), folder=tmp_path, cache=cache).stdout
    )
    wrong = run_outside(str(installed / "llm-unlearn"), "run", "suiuu", folder=tmp_path, cache=cache)
    assert wrong.returncode == 2 and "did you mean ssiuu?" in wrong.stderr
