"""Checkpoints that are damaged or belong to another run, given to the command that made them.

In Python, file by file and setting by setting: tests/training/test_checkpoints.py.
"""

import shutil
from pathlib import Path

import pytest
from bad_commands import MODEL, QUICK, RECIPE, ROWS, change_json, run
from builders import tiny_model, tiny_tokenizer, with_trained_adapter
from safetensors.torch import load_file, save_file

SAVES = ["--save_strategy", "steps", "--save_steps", "1"]
RESUME = [*SAVES, "--resume_from_checkpoint", "last"]
CHECKPOINT = Path("outputs", "npo", "checkpoint-1")
FULL = ["--full_finetuning", "--output_dir", "outputs/full"]


@pytest.fixture(scope="module")
def two_runs(good_inputs, tmp_path_factory) -> Path:
    """outputs/npo and outputs/full as recipes left them after one step, with a checkpoint of it."""
    folder = tmp_path_factory.mktemp("run")
    shutil.copytree(good_inputs, folder, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("LLM_UNLEARN_CACHE", str(folder / "cache"))
        patch.setattr("llm_unlearn.runs.recipe.Recipe.finish", lambda *_: None)
        for flags in ([], FULL):
            done = run(RECIPE, [*MODEL, *ROWS, *QUICK, *SAVES, *flags])
            assert done.code == 0, done.stderr[-2000:]
    return folder / "outputs"


@pytest.fixture
def runs(two_runs, place) -> None:
    shutil.copytree(two_runs, place / "outputs")


def cut(name):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-100])


def other_rank(folder):
    with_trained_adapter(tiny_model(), r=8).save_pretrained(folder)


def other_names(folder):
    weights = load_file(folder / "adapter_model.safetensors")
    save_file({f"{name}.x": value for name, value in weights.items()}, folder / "adapter_model.safetensors")


STATES = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "adapter_model.safetensors", "trainer_state.json")
DAMAGES = {
    **{f"{name} cut off": (cut(name), [f"checkpoint-1/{name} is damaged", "its content is not"]) for name in STATES},
    "a record cut off": (cut("trained_on.json"), ["checkpoint-1/trained_on.json is damaged", "take an earlier one"]),
    "no record": (lambda folder: (folder / "trained_on.json").unlink(), ["checkpoint-1 has no trained_on.json"]),
    "no optimizer": (lambda folder: (folder / "optimizer.pt").unlink(), ["optimizer.pt is damaged (it is not there)"]),
    "an adapter of another rank": (other_rank, ["adapter_config.json is damaged", "not what was written"]),
    "an adapter of other modules": (other_names, ["adapter_model.safetensors is damaged", "not what was written"]),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_checkpoints(name, runs, refused):
    damage, words = DAMAGES[name]
    damage(CHECKPOINT)
    refused(RECIPE, [*MODEL, *ROWS, *QUICK, *RESUME], "resume_from_checkpoint: outputs/npo/", *words)


def test_damaged_weights_of_a_whole_model(runs, refused):
    cut("model.safetensors")(Path("outputs/full/checkpoint-1"))
    refused(RECIPE, [*MODEL, *ROWS, *QUICK, *RESUME, *FULL], "outputs/full/checkpoint-1/model.safetensors is damaged")


def test_a_model_of_another_size(runs, refused):
    shutil.rmtree("original")
    tiny_model(hidden_size=64).save_pretrained("original")
    tiny_tokenizer().save_pretrained("original")
    refused(RECIPE, [*MODEL, *ROWS, *QUICK, *RESUME], "checkpoint-1 was trained with another model; give what")


FLAGS = {
    "--learning_rate 0.5 --seed 7": ["learning_rate=0.0001 (now 0.5)", "seed=42 (now 7)"],
    "--lora_r 2": ["peft_config.r=16 (now 2)"],
    "--lora_target_modules q_proj": [
        "peft_config.target_modules=['model.layers.0.mlp.down_proj', ",
        "... (now ['q_proj'])",
    ],
    "--optim sgd": ["(now sgd)", "optimizer=AdamW (now SGD)"],
    "--beta 0.5": ["beta=0.1 (now 0.5)"],
    "--full_finetuning": ["peft_config=LoraConfig (now None)"],
}


@pytest.mark.parametrize("flags", FLAGS)
def test_other_settings(flags, runs, refused):
    words = FLAGS[flags]
    refused(RECIPE, [*MODEL, *ROWS, *QUICK, *RESUME, *flags.split()], "checkpoint-1 was trained with other", *words)


def test_a_new_run_where_another_has_checkpoints(runs, refused):
    words = ["output_dir='outputs/npo' holds checkpoints of another run", "checkpoint-1: go on", "another output_dir"]
    refused(RECIPE, [*MODEL, *ROWS, *QUICK, *SAVES], *words)


def test_saved_without_the_optimizer(runs, refused):
    change_json(CHECKPOINT / "trained_on.json", save_only_model=True)
    refused(RECIPE, [*MODEL, *ROWS, *QUICK, *RESUME], "checkpoint-1 was saved with save_only_model", "cannot go on")
