"""Every command and every Python block of README.md and docs/ runs, and every link leads somewhere.

The blocks of a page run in its order, in a folder of its own. A shell block is run by bash, in which the commands below
are stubs that note their arguments: so loops, variables and files that a block writes are bash's own business. Then:

- a recipe or benchmark runs in this process, from its file, with `--dry_run`; where a command names no data, with
  `--data fictional:tiny` too. Its launcher flags go through accelerate's parser;
- on pages in docs/results/, which reproduce long measurements, its flags go through its own parser and no further;
- a model, data folder or file of rows that is not there is stood in for by a tiny one of the same name;
- on a machine without a GPU, configurations for bfloat16 get `--use_cpu`;
- the exceptions are listed below, with reasons.
"""

import itertools
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NoReturn

import pytest
import torch
import yaml
from transformers import HfArgumentParser

from llm_unlearn.cli import main as command_line
from llm_unlearn.data.queries import retained_queries
from llm_unlearn.methods import method_files

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
STUBS = ("accelerate", "git", "llm-unlearn", "make", "pip", "python", "time")
UNCHECKED = {  # beginning of a command or a Python block -> why nothing of it is run
    "git clone": "needs the network",
    "python -m venv": "is Python's own",
    "llm-unlearn report": "needs the folder of a finished run; tests/reporting runs it",
    "llm-unlearn run npo --data fictional:smollm2": "trains a real model for half an hour first; tests/real has it",
    "llm-unlearn push": "needs a finished run, and a hub; tests/hub runs it",
    "llm-unlearn verify": "the same",
    "from llm_unlearn import load_unlearned": "the same",
    "accelerate launch benchmarks/robustness.py --learning_rates 1e-3 --tuning_seeds 999": "abbreviates with ...",
}
NO_DRY_RUN = {  # beginning of a script's name and flags -> where it is run; its flags are parsed
    "combinatorial": "tests/combinatorial",
    "speed train": "tests/speed",
    "tofu --recompute": "test_tofu.py",
}


def blocks(page: Path) -> list[tuple[str, str]]:
    """(language, text) of every fenced block."""
    return re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def stand_ins(cache, tmp_path_factory) -> dict[str, Path]:
    """A tiny model, an adapter of it, TOFU-like data and rows: what a reader would bring along."""
    from peft import LoraConfig, get_peft_model

    from llm_unlearn.models.embedded import embedded_model
    from llm_unlearn.models.loading import load_model, load_tokenizer

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLM_UNLEARN_CACHE", str(cache))
        model = embedded_model("tiny")
    folder = tmp_path_factory.mktemp("stand_ins")
    adapted = get_peft_model(load_model(str(model)), LoraConfig(r=2, target_modules="all-linear"))
    adapted.save_pretrained(folder / "adapter")
    load_tokenizer(str(model)).save_pretrained(folder / "adapter")
    (folder / "data").mkdir()
    for name in ("forget01", "forget05", "forget10", "retain99", "retain95", "retain90"):
        group = name[:6]
        rows = [{"question": f"What is {group} {i}?", "answer": f"It is {group} number {i}."} for i in range(4)]
        (folder / "data" / f"{name}.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shutil.copytree(model, folder / "oracle")  # a model is no oracle of itself
    return {"model": model, "oracle": folder / "oracle", "adapter": folder / "adapter", "data": folder / "data"}


class Parsed(BaseException):
    """Raised where a command's flags have been parsed, when no more is wanted."""


class Sandbox:
    """A folder in which the blocks of one page run."""

    def __init__(self, folder: Path, stand_ins: dict[str, Path], parse_only: bool, patch: pytest.MonkeyPatch):
        self.folder, self.stand_ins, self.parse_only, self.patch = folder, stand_ins, parse_only, patch
        self.names: dict = {}
        self.checked = 0
        patch.chdir(folder)
        for name in ("recipes", "benchmarks", "constraints.txt", "pyproject.toml"):
            (folder / name).symlink_to(ROOT / name)
        (folder / ".venv" / "bin").mkdir(parents=True)
        (folder / ".venv" / "bin" / "activate").touch()
        stub = f"#!{sys.executable} -SE\nimport json, os, sys\n"
        stub += "with open(os.environ['COMMANDS'], 'a') as file:\n"
        stub += "    print(json.dumps([os.path.basename(sys.argv[0]), *sys.argv[1:]]), file=file)\n"
        (folder / "stubs").mkdir()
        for name in STUBS:
            (folder / "stubs" / name).write_text(stub)
            (folder / "stubs" / name).chmod(0o755)

    def run_shell(self, block: str) -> None:
        noted = self.folder / "commands"
        noted.write_text("")
        environment = os.environ | {"COMMANDS": str(noted), "PATH": f"{self.folder / 'stubs'}:/usr/bin:/bin"}
        done = subprocess.run(
            ["bash", "-euc", block], cwd=self.folder, env=environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, f"{block}\n{done.stderr}"
        for line in noted.read_text().splitlines():
            command = json.loads(line)
            try:
                self.check(command)
            except (Exception, SystemExit) as error:
                raise AssertionError(f"{shlex.join(command)}: {type(error).__name__} {error}") from error
            self.checked += 1

    def check(self, command: list[str]) -> None:
        if shlex.join(command).startswith(tuple(UNCHECKED)):
            return
        program, *arguments = command
        if program == "make":
            assert re.search(rf"^{arguments[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        elif program == "pip":
            self.check_pip(arguments)
        elif program == "llm-unlearn":
            self.patch.setattr(command_line, "launch", self.launch)
            assert command_line.COMMANDS[arguments[0]](arguments[1:]) == 0
        elif program == "accelerate":
            assert arguments[0] == "launch"
            self.launch(arguments[1:])
        else:
            assert program == "python" and arguments[0].endswith(".py"), "list it among the exceptions, with a reason"
            self.launch(arguments)

    def check_pip(self, arguments: list[str]) -> None:
        assert arguments[0] == "install"
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        for before, argument in itertools.pairwise(arguments):
            assert before != "-c" or Path(argument).is_file()
            for extra in re.findall(r"\[(\w+)\]", argument):
                assert extra in extras

    def launch(self, arguments: list[str]) -> int:
        """`accelerate launch`: its own flags by its parser, the script in this process."""
        names = {*command_line.scripts(), *method_files()}
        own = next(i for i, word in enumerate(arguments) if word.endswith(".py") or word in names)
        script = Path(arguments[own])
        with pytest.MonkeyPatch.context() as patch:
            if script.suffix == ".py" and not (ROOT / script).is_file():  # one that the page itself has written
                patch.setattr(command_line, "scripts", lambda: {script.stem: script})
            parsed = command_line.parse_launch(arguments)
        assert parsed.config_file is None or Path(parsed.config_file).is_file()
        run = runpy.run_module if parsed.module else runpy.run_path
        self.run_script(parsed.training_script, parsed.training_script_args, run)
        return 0

    def run_script(self, script: str, flags: list[str], run: Callable = runpy.run_path) -> None:
        parse_only = self.parse_only or " ".join([Path(script).stem, *flags]).startswith(tuple(NO_DRY_RUN))
        if not parse_only:
            flags = [*flags, *self.dry_flags(script, flags)]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [script, *flags])
            if parse_only:
                parse_dict = HfArgumentParser.parse_dict

                def parse_and_stop(*arguments) -> NoReturn:
                    parse_dict(*arguments)
                    raise Parsed

                patch.setattr(HfArgumentParser, "parse_dict", parse_and_stop)
            try:
                run(script, run_name="__main__")
            except Parsed:
                return
        assert not parse_only, "no flag was parsed"

    def dry_flags(self, script: str, flags: list[str]) -> list[str]:
        """What a command gets beside its own flags."""
        fields = self.stand_in(flags)
        added = ["--dry_run"]
        if not fields.keys() & {"data", "forget_file"}:
            added += ["--data", "fictional:tiny"]
        if "model_name_or_path" not in fields and Path(script).parent.name != "benchmarks":  # else one is trained
            added += ["--oracle_model_name_or_path", str(self.stand_ins["oracle"])]
        if fields.get("bf16") == [True] and not torch.cuda.is_available():
            added += ["--use_cpu"]
        return added

    def stand_in(self, flags: list[str]) -> dict[str, list]:
        """Put a tiny thing where a model, data or rows are named that are not there; returns all fields."""
        fields: dict[str, list] = {}
        for flag in flags:
            if flag.startswith("--"):
                name, _, value = flag[2:].partition("=")
                fields[name] = [value] if value else []
            elif fields:
                fields[list(fields)[-1]].append(flag)
        if "config" in fields:
            written = yaml.safe_load(Path(fields["config"][0]).read_text())
            fields = {name: value if isinstance(value, list) else [value] for name, value in written.items()} | fields
        for name, values in fields.items():
            for value in values:
                path = self.folder / str(value)
                if path.exists() or (name == "data" and value.startswith("fictional")):
                    continue
                if name.endswith("model_name_or_path") or name in ("rewind_to", "teacher"):
                    self.link(path, "adapter" if path.name == "adapter" else "model")
                elif name == "data":
                    self.link(path, "data")
                elif name in ("forget_file", "retain_file"):
                    rows = (self.stand_ins["data"] / f"{name[:6]}{'10' if name[0] == 'f' else '90'}.json").read_text()
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(rows)
        return fields

    def link(self, path: Path, kind: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(self.stand_ins[kind], path)  # each a model of its own

    def run_python(self, block: str) -> None:
        code = compile(block, "block", "exec")
        if not block.startswith(tuple(UNCHECKED)):
            exec(code, self.names)


@pytest.fixture
def sandbox(stand_ins, cache, tmp_path, monkeypatch):
    monkeypatch.setenv("LLM_UNLEARN_CACHE", str(cache))
    monkeypatch.setenv("COLUMNS", "100")
    few = partial(retained_queries, most=7)  # a dry run spends its time on rows that it only counts
    monkeypatch.setattr("llm_unlearn.examining.abilities.retained_queries", few)
    return lambda page: Sandbox(tmp_path, stand_ins, "results" in page.parent.parts, monkeypatch)


PAGES_WITH_BLOCKS = [page for page in PAGES if any(language in ("bash", "python") for language, _ in blocks(page))]


def quick(page):
    """Methods have pages of one form: by default those of two are run."""
    is_long = page.parent.name == "methods" and page.stem not in ("npo", "counterfactual")
    return pytest.param(page, marks=[pytest.mark.long] * is_long, id=str(page.relative_to(ROOT)))


@pytest.mark.parametrize("page", [quick(page) for page in PAGES_WITH_BLOCKS])
def test_every_block_runs(page, sandbox):
    place = sandbox(page)
    for language, text in blocks(page):
        if language == "python":
            place.run_python(text)
        elif language == "bash":
            place.run_shell(text)
        else:
            assert language in ("text", "json", "yaml", "toml"), f"a block of {page.name} has the language {language!r}"
    assert place.checked or place.names
    if page.name == "README.md":
        check_the_readme(place)
    elif page.name == "evaluation.md":
        scores = place.names["scores"]
        assert scores["exact_memorization"] == 2 / 3 and scores["leak_at_k"] > scores["probability"]


@pytest.mark.parametrize(
    ("folder", "block"),
    [
        ("docs", "llm-unlearn run npo --learning_rat 1e-4"),
        ("docs", "llm-unlearn run npo --num_processes 2"),
        ("docs", "llm-unlearn run --num_proceses 2 npo"),
        ("docs", "accelerate launch recipes/nothing.py"),
        ("docs", 'echo \'{"question": "Why?"}\' > forget.jsonl; llm-unlearn run npo --forget_file forget.jsonl'),
        ("docs", "for seed in 1 x; do llm-unlearn run npo --data fictional:tiny --seed $seed; done"),
        ("docs", "make nothing"),
        ("docs", "pip install 'llm_unlearn[nothing]'"),
        ("docs", "nothing --to_be_found"),
        ("docs/results", "python benchmarks/robustness.py --sedes 1"),
        ("docs/results", "llm-unlearn run combinatorial --seeds many"),
    ],
)
def test_a_stale_block_is_found(folder, block, sandbox):
    with pytest.raises(AssertionError):
        sandbox(Path(folder) / "page.md").run_shell(block)


def check_the_readme(place: Sandbox) -> None:
    names = place.names
    assert names["trainer"].state.global_step == 4
    assert (place.folder / "out" / "adapter_model.safetensors").is_file()
    trainer = names["ProbabilityTrainer"](
        model=str(names["embedded_model"]("tiny")),
        args=names["NPOConfig"](output_dir="out2", max_steps=1, logging_steps=1),
        forget_dataset=names["data"].forget,
        retain_dataset=names["data"].retain,
        peft_config=names["LoraConfig"](r=4),
    )
    trainer.train()
    assert 0 < trainer.state.log_history[0]["forget/loss"] <= 1  # the mean probability of an answer token


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link}"
