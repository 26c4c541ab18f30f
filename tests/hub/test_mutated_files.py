"""Files of a finished run that were changed at random: each use of them succeeds or ends in one line, and what was
measured is never replaced in silence."""

import copy
import json
import random
import shutil

import pytest
from test_leaks import NAME

from llm_unlearn.cli import report
from llm_unlearn.errors import FAILURES
from llm_unlearn.files.outcomes import _kept
from llm_unlearn.hub import load_unlearned
from llm_unlearn.hub.upload import build_checked
from llm_unlearn.methods import load_method
from llm_unlearn.runs.recipe import Recipe

VALUES = (
    None,
    "x",
    "0.5",
    "",
    True,
    -1,
    0,
    7,
    0.5,
    10**400,
    -1e308,
    float("nan"),
    float("inf"),
    [],
    {},
    [[]],
    {"x": 1},
)
EVIDENCE = ("results.json", "verdict.json", "records/unlearned.json", "records/oracle.json", "records/original.json")
ADAPTER = ("adapter/adapter_config.json", "adapter/adapter_model.safetensors", "adapter/tokenizer_config.json")
ATTACK = "attacks/adversarial_reinjection-unlearned.json"
FILES = (*EVIDENCE, *ADAPTER, ATTACK, "config.yaml", "forget.jsonl")


def places(value, found):
    """Every container in a JSON value, with a key of it."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        found.append((value, key))
        if isinstance(item, (dict, list)):
            places(item, found)
    return found


def mutated(value, draw):
    """A copy of a JSON value in which one part is another."""
    value = copy.deepcopy(value)
    container, key = draw.choice(places(value, []))
    how = draw.choice(("delete", "replace", "replace", "swap", "rename", "cut", "text"))
    if how == "replace" or (how == "rename" and isinstance(container, list)):
        container[key] = draw.choice(VALUES)
    elif how == "delete":
        del container[key]
    elif how == "swap":
        other, its_key = draw.choice(places(value, []))
        container[key], other[its_key] = copy.deepcopy(other[its_key]), copy.deepcopy(container[key])
    elif how == "rename":
        container[draw.choice(("x", "oracle_9", "10000", "-1", f"{key}x"))] = container.pop(key)
    elif how == "cut":
        container[key] = container[key][: len(container[key]) // 2] if isinstance(container[key], (list, str)) else {}
    else:
        container[key] = str(container[key])
    return value


def mutate(path, draw):
    """Change a file: a part of its JSON, or its bytes."""
    content = path.read_bytes()
    if path.suffix == ".json" and draw.random() < 0.8:
        path.write_text(json.dumps(mutated(json.loads(content), draw)), encoding="utf-8")
    elif draw.random() < 0.3:
        path.write_bytes(content[: draw.randrange(len(content))])
    else:
        flipped = bytearray(content)
        for _ in range(draw.randint(1, 4)):
            flipped[draw.randrange(min(len(flipped), draw.choice((200, len(flipped)))))] = draw.randrange(256)
        path.write_bytes(bytes(flipped))


def use(run, name):
    """What people do with a file of a run; how many of the uses ended in a line."""
    refused = 0
    if name == "config.yaml":
        uses = [lambda: Recipe.from_command_line(load_method("npo"), ["--config", str(run / name)])]
    else:
        uses = [lambda: load_unlearned(run), lambda: build_checked(run, NAME)]
        uses += [] if name in ADAPTER else [lambda: report.main([str(run)])]
    for one in uses if name != ATTACK else ():
        try:
            one()
        except FAILURES as error:
            assert str(error) and "\n" not in str(error) and len(str(error)) < 1500, error
            refused += 1
    return refused


def contents(run):
    """What was measured, as JSON values."""
    return [json.loads((run / name).read_text()) for name in EVIDENCE if name != "verdict.json"]


def check(finished, tmp_path, name, seeds, old=False):
    """Mutate one file per seed.

    Args:
        old: the files are those of a version without digests, in which only the shape of a value can tell.
    """
    measured, refused = contents(finished), 0
    for seed in seeds:
        draw = random.Random(f"{name} {seed}")
        run = shutil.copytree(finished, tmp_path / "run")
        if old:
            results = json.loads((run / "results.json").read_text())
            for key in ("version", "sha256", "records"):
                del results[key]
            (run / "results.json").write_text(json.dumps(results))
            (run / "verdict.json").write_text(
                json.dumps(json.loads((run / "verdict.json").read_text()) | {"sha256": None})
            )
        mutate(run / name, draw)
        try:
            lines = use(run, name)
            refused += bool(lines)
            if name in EVIDENCE and name != "verdict.json" and lines == 0 and not old:
                assert contents(run) == measured, "a changed result was accepted"
            kept = _kept(run / ATTACK, json.loads((finished / ATTACK).read_text())["digest"])
            assert kept in (None, json.loads((finished / ATTACK).read_text())["outcome"])
        except BaseException as error:
            raise AssertionError(f"{name}, seed {seed}: {type(error).__name__}: {error}") from error
        shutil.rmtree(run)
    return refused


@pytest.mark.parametrize("name", FILES)
def test_a_few_mutations(finished_run, tmp_path, name, capsys):
    assert check(finished_run[0], tmp_path, name, range(3)) or name in ("forget.jsonl", ATTACK, *ADAPTER)


@pytest.mark.parametrize("name", EVIDENCE)
def test_a_few_mutations_of_files_without_digests(finished_run, tmp_path, name, capsys):
    check(finished_run[0], tmp_path, name, range(3), old=True)


@pytest.mark.long
@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("name", FILES)
def test_a_thousand_mutations(finished_run, tmp_path, name, old, figures, capsys):
    check(finished_run[0], tmp_path, name, range(3, 1000), old)
