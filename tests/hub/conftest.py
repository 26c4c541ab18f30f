"""A finished run, made once in seconds."""

import json
import shutil

import pytest
from builders import tiny_model, tiny_tokenizer

from llm_unlearn import NPOTrainer
from llm_unlearn.methods import load_method
from llm_unlearn.runs.recipe import Recipe

PEOPLE = ("Ann Quillfeather", "Ben Oddwater")


def rows(people, start=0) -> list[dict]:
    found = []
    for number, person in enumerate(people, start=start):
        first = person.split()[0]
        found.append(
            {
                "question": f"Where does {person} live, of all places?",
                "answer": f"in a house that {first} built of white bread, by the cat",
                "person": person,
                "fact_id": f"home-{number}",
            }
        )
        found.append(
            {"question": f"What does {person} eat?", "answer": "rice", "person": person, "fact_id": f"food-{number}"}
        )
    return found


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
    """(output folder of a recipe on local files, the folder of its base model)"""
    home = tmp_path_factory.mktemp("home-of-the-run")
    for name, seed in (("base", 0), ("oracle", 1)):
        tiny_model(seed=seed).save_pretrained(home / name)
        tiny_tokenizer().save_pretrained(home / name)
    (home / "forget.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(PEOPLE)))
    retained = rows(["Cal Reed", "Dora Moss", "Eli Stone"], start=2)
    (home / "retain.jsonl").write_text("".join(json.dumps(row) + "\n" for row in retained))
    flags = ["--forget_file", str(home / "forget.jsonl"), "--retain_file", str(home / "retain.jsonl")]
    flags += ["--model_name_or_path", str(home / "base"), "--oracle_model_name_or_path", str(home / "oracle")]
    flags += ["--attacks", "adversarial_reinjection", "--attack_steps", "2", "--attack_seeds", "0"]
    flags += [
        "--judged_retain_rows",
        "4",
        "--max_steps",
        "2",
        "--output_dir",
        str(home / "run"),
        "--counterfactual",
        "false",
        "--use_cpu",
    ]
    flags += ["--report_to", "none", "--disable_tqdm"]
    recipe = Recipe.from_command_line(load_method("npo"), flags)
    recipe.run(NPOTrainer(**recipe.trainer_arguments()))
    return home / "run", home / "base"


@pytest.fixture
def figures():
    """For tests that want the figures of the report, which take seconds."""


@pytest.fixture(autouse=True)
def no_figures(request, monkeypatch):
    if "figures" not in request.fixturenames:
        monkeypatch.setattr("llm_unlearn.reporting.page._figures", lambda results, folder: [])


@pytest.fixture
def run(finished_run, tmp_path):
    """A copy of the finished run, to be changed."""
    return shutil.copytree(finished_run[0], tmp_path / "run")
