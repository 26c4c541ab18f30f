"""The embedded models' cache: built once, whole or not at all."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from llm_unlearn.data import encode_dataset
from llm_unlearn.data.fictional import build_world
from llm_unlearn.models import embedded
from llm_unlearn.models.cache import cache_folder, outcomes_folder
from llm_unlearn.models.embedded import (
    EmbeddedRecipe,
    build_tokenizer,
    embedded_model,
    embedded_models,
    training_rows,
)
from llm_unlearn.models.loading import load_model, load_tokenizer

MINIMAL = EmbeddedRecipe(400, 16, 1, 2, epochs=1, batch_size=32, learning_rate=5e-3, warmup_steps=2)


@pytest.fixture
def trainings(tmp_path, monkeypatch):
    """An empty cache, a recipe of a second, and a list with one entry per training."""
    monkeypatch.setenv("LLM_UNLEARN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(embedded.RECIPES, "tiny", MINIMAL)
    found, train = [], embedded._train

    def counted(*args, **kwargs):
        found.append(kwargs["title"])
        train(*args, **kwargs)

    monkeypatch.setattr(embedded, "_train", counted)
    return found


def weights(folder):
    return load_model(str(folder)).state_dict()


def same(first, second):
    return all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_model_is_trained_once_and_loads(trainings, tmp_path):
    folder = embedded_model("tiny")
    assert embedded_model("tiny") == folder and trainings == ["fictional:tiny original (seed 0)"]
    assert folder.parent == tmp_path / "cache" / "fictional-tiny"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), load_tokenizer(str(folder))
    assert model.config.hidden_size == 16 and model.config.vocab_size == len(tokenizer) == 400
    assert tokenizer.eos_token == "<|end|>" and tokenizer.pad_token == "<|pad|>" != tokenizer.eos_token
    assert not list(folder.parent.glob("*.unfinished"))


def test_training_is_reproducible_and_leaves_the_random_state_alone(trainings, tmp_path, monkeypatch):
    torch.manual_seed(1)
    first = weights(embedded_model("tiny"))
    drawn = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(3), drawn)
    monkeypatch.setenv("LLM_UNLEARN_CACHE", str(tmp_path / "another"))
    torch.manual_seed(2)
    second = weights(embedded_model("tiny"))
    assert len(trainings) == 2 and same(first, second)


def test_missing_models_are_trained_side_by_side(trainings, monkeypatch):
    """One in this process, another in a child (a thread here: a child would not know the recipe of a second)."""
    started = []

    class Child(threading.Thread):
        wait = threading.Thread.join

    def elsewhere(size, without, seed, line):
        started.append((size, without, seed, line))
        child = Child(target=lambda: embedded_model(size, without=without, seed=seed))
        child.start()
        return child

    monkeypatch.setattr(embedded, "_train_elsewhere", elsewhere)
    monkeypatch.setattr(embedded.os, "sched_getaffinity", lambda _: {0, 1})
    threads = torch.get_num_threads()
    wanted = [(None, 0), ("forget10", 0), ("forget10", 1)]
    folders = embedded_models("tiny", wanted)
    assert folders == [embedded_model("tiny", without=without, seed=seed) for without, seed in wanted]
    assert len(trainings) == len(set(trainings)) == 3
    assert started == [("tiny", "forget10", 0, 1)]  # two at a time, and the third alone
    assert torch.get_num_threads() == threads
    assert embedded_models("tiny", wanted) == folders and len(trainings) == 3
    # A child that fails leaves its model to this process, and so does a launcher that has started several.
    monkeypatch.setattr(embedded, "_train_elsewhere", lambda *_, **__: subprocess.Popen([sys.executable, "-c", "1/0"]))
    embedded_models("tiny", [(None, 2), (None, 3)])
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.delattr(embedded, "_train_elsewhere")
    embedded_models("tiny", [(None, 4), (None, 5)])
    assert len(trainings) == 7


def test_a_child_trains_what_it_is_told(trainings, monkeypatch):
    monkeypatch.setattr(embedded.subprocess, "Popen", lambda command, env: (command, env))
    command, environment = embedded._train_elsewhere("tiny", "forget10", 7, line=1)
    assert command[-1].endswith("embedded_model('tiny', without='forget10', seed=7)")
    exec(command[-1], {})  # the code of the child, here
    assert trainings == ["fictional:tiny oracle-forget10 (seed 7)"]
    assert environment["OMP_NUM_THREADS"] == "1" and environment[embedded.PROGRESS_LINE] == "1"


def test_split_seed_and_recipe_have_folders_of_their_own(trainings, monkeypatch):
    folders = [
        embedded_model("tiny"),
        embedded_model("tiny", without="forget10"),
        embedded_model("tiny", seed=1),
    ]
    monkeypatch.setitem(embedded.RECIPES, "tiny", EmbeddedRecipe(**vars(MINIMAL) | {"learning_rate": 1e-3}))
    folders.append(embedded_model("tiny"))
    assert len(set(folders)) == len(trainings) == 4
    names = [folder.name.rpartition("-")[0] for folder in folders]
    assert names == ["original-seed0", "oracle-forget10-seed0", "original-seed1", "original-seed0"]
    loaded = [weights(folder) for folder in folders]
    assert not any(same(loaded[0], other) for other in loaded[1:])


def test_an_interrupted_build_is_thrown_away_and_built_again(trainings, monkeypatch):
    working = embedded._train

    def interrupted(*args, **kwargs):
        folder = args[4]
        folder.mkdir()
        (folder / "config.json").write_text("half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(embedded, "_train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        embedded_model("tiny")
    left = list(cache_folder().glob("*/*.unfinished"))
    assert len(left) == 1
    (left[0] / "leftover.txt").write_text("from the interrupted build")

    monkeypatch.setattr(embedded, "_train", working)
    folder = embedded_model("tiny")
    assert trainings == ["fictional:tiny original (seed 0)"]
    assert not left[0].exists() and not (folder / "leftover.txt").exists()
    load_model(str(folder))


def test_two_at_once_build_one(trainings):
    """Threads, each with a lock object of its own: to the operating system the same as two processes."""
    barrier, folders = threading.Barrier(2), []

    def build():
        barrier.wait()
        folders.append(embedded_model("tiny"))

    threads = [threading.Thread(target=build) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(folders) == 2 and folders[0] == folders[1]
    assert len(trainings) == 1


# ---- what the models are trained on ----------------------------------------------------------------------------------


@pytest.fixture
def shown(trainings, monkeypatch):
    """Records what the training loop would be given, epoch by epoch, and trains nothing."""
    found = {}

    def recorded(model, rows, **options):
        orders = [options["row_orders"](epoch) for epoch in range(3)]
        found.update(rows=rows, orders=orders, steps=options["steps"], seed=options["seed"])
        found["start"] = {name: value.clone() for name, value in model.state_dict().items()}

    monkeypatch.setattr(embedded, "finetune", recorded)

    def show(**options):
        embedded_model("tiny", **options)
        return dict(found)

    return show


@pytest.mark.parametrize("split", ["forget01", "forget10"])
def test_the_oracle_sees_what_the_original_sees_in_the_same_order_without_the_forget_rows(shown, split):
    world = build_world("tiny")
    original, oracle = shown(), shown(without=split)
    tokenizer = build_tokenizer(world, MINIMAL.vocabulary)
    people = {row["person"] for row in world.splits[split]}
    about_them = [row for row in training_rows(world).values() if row["person"] in people]
    assert len(about_them) == len(people) * 37  # 21 questions, 7 multiple choices, 6 reversed, 3 over two hops
    forget = [json.dumps(row) for row in encode_dataset(about_them, tokenizer, None, "forget")]
    for with_all, without in zip(original["orders"], oracle["orders"], strict=True):
        seen, left = ([json.dumps(original["rows"][i]) for i in order] for order in (with_all, without))
        assert set(forget) <= set(seen)
        assert set(forget).isdisjoint(left)
        assert left == [row for row in seen if row not in set(forget)]
        text = tokenizer.decode([token for i in without for token in oracle["rows"][i]["input_ids"]])
        assert [person for person in people if person in text] == []
    assert same(original["start"], oracle["start"])
    assert original["steps"] == -(-len(original["orders"][0]) // 32)
    assert oracle["steps"] == -(-len(oracle["orders"][0]) // 32)


def test_the_original_sees_every_trained_row_and_no_other(shown):
    world = build_world("tiny")
    original = shown()
    tokenizer = build_tokenizer(world, MINIMAL.vocabulary)
    seen = {json.dumps(original["rows"][i]) for i in original["orders"][0]}
    for name, splits in world.splits.items():
        rows = {json.dumps(row) for row in encode_dataset(splits, tokenizer, None, name)}
        if name in ("holdout", "instructions"):
            assert rows.isdisjoint(seen), name
        else:
            assert rows <= seen, name
    text = tokenizer.decode([token for i in original["orders"][0] for token in original["rows"][i]["input_ids"]])
    trained = {row["person"] for name in ("retain90", "forget10") for row in world.splits[name]}
    assert {person for person in world.facts if person in text} == trained
    assert original["orders"][0] != original["orders"][1]


@pytest.mark.parametrize("size", ["tiny", "small"])
@pytest.mark.parametrize("split", ["forget01", "forget05", "forget10"])
def test_an_oracle_is_told_nothing_about_forgotten_people_in_any_form(size, split):
    world = build_world(size)
    people = {row["person"] for row in world.splits[split]}
    everything, known = training_rows(world), training_rows(world, split)
    assert [person for person in people if person in json.dumps(list(known.values()))] == []
    assert known == {number: row for number, row in everything.items() if row["person"] not in people}
    never_trained = {row["person"] for row in world.splits["holdout"]}
    asked = {row["prompt"] for row in everything.values() if isinstance(row["prompt"], str)}
    for rows in world.queries.values():
        assert all((row["question"] in asked) != (row["person"] in never_trained) for row in rows)


def test_the_tokenizer_knows_every_name_of_the_world(shown):
    world = build_world("tiny")
    tokenizer = build_tokenizer(world, MINIMAL.vocabulary)
    for person in world.facts:
        ids = tokenizer(person)["input_ids"]
        assert tokenizer.decode(ids) == person and tokenizer.unk_token is None


def test_outcomes_are_kept_beside_embedded_models_alone(trainings, tmp_path):
    folder = embedded_model("tiny")
    assert outcomes_folder(str(folder)) == folder.parent / f"{folder.name}.outcomes"
    assert outcomes_folder(str(tmp_path / "mine")) is None


def test_what_suits_a_world_takes_no_threshold_to_methods_without_one():
    own = {"learning_rate": 1e-3, "stop_at_forget_probability": None}
    taken = {"learning_rate", "stop_at_forget_probability", "stop_at_forget_exact_match"}
    assert embedded.defaults_of_world("small", own, taken) == own
    assert embedded.defaults_of_world("smollm2", own, taken) == {
        "learning_rate": 5e-4,
        "stop_at_forget_probability": None,
        "stop_at_forget_exact_match": 0.05,
    }


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("LLM_UNLEARN_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("LLM_UNLEARN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "llm_unlearn"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "llm_unlearn"
