"""What every command finds out before its heavy part: that a folder is another run's, and what models cannot do."""

import json
from dataclasses import replace

import pytest
from builders import qa_rows, tiny_model, tiny_tokenizer

from llm_unlearn.errors import InputError
from llm_unlearn.examining import preflight
from llm_unlearn.files.run_folder import LOCK, locked
from llm_unlearn.methods import load_method
from llm_unlearn.runs import recipe
from llm_unlearn.runs.audits import influence_benchmark
from llm_unlearn.runs.benchmarking import attack_benchmark
from llm_unlearn.runs.combinatorial import combinatorial_benchmark
from llm_unlearn.runs.plan import plan
from llm_unlearn.runs.recipe import Recipe
from llm_unlearn.runs.references import references_from_command_line
from llm_unlearn.runs.tofu import tofu_benchmark
from llm_unlearn.speed.evaluation import evaluation_speed
from llm_unlearn.speed.scaling import training_scaling
from llm_unlearn.speed.training import training_speed


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Models with 128 positions that a table holds, and rows."""
    folder = tmp_path_factory.mktemp("home")
    for name, seed in (("base", 0), ("other", 1)):
        tiny_model("gpt2", seed=seed).save_pretrained(folder / name)
        tiny_tokenizer().save_pretrained(folder / name)
    for name, rows in (("forget", qa_rows(4)), ("retain", qa_rows(4, 20))):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def rows(home):
    return [f"--forget_file={home / 'forget.jsonl'}", f"--retain_file={home / 'retain.jsonl'}"]


def judged(home):
    return [*rows(home), f"--model_name_or_path={home / 'base'}", f"--oracle_model_name_or_path={home / 'other'}"]


def judge(description, flags):
    return attack_benchmark(["adversarial_reinjection"], False, description, flags)


COMMANDS = {  # name -> (command, its flags)
    "tofu": (tofu_benchmark, lambda home: [*judged(home), "--max_new_tokens=4"]),
    "influence": (influence_benchmark, judged),
    "train_references": (references_from_command_line, rows),
    "combinatorial": (combinatorial_benchmark, lambda home: []),
    "plan": (plan, judged),
    "judge": (judge, lambda home: [*judged(home), f"--unlearned_model_name_or_path={home / 'other'}"]),
    "speed eval": (evaluation_speed, rows),
    "speed train": (training_speed, lambda home: []),
    "speed scaling": (training_scaling, lambda home: []),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_folder_in_which_another_run_is_stays_as_it_is(name, home, tmp_path):
    command, flags = COMMANDS[name]
    with (
        locked(tmp_path / "out") as folder,
        pytest.raises(InputError, match=r"output_dir='.*out': another run is writing there; wait for its end, or give"),
    ):
        command("", [*flags(home), f"--output_dir={folder}"])
    assert [*folder.iterdir()] == []


def refused(command, flags, folder):
    with pytest.raises(InputError) as error:
        command("", [*flags, f"--output_dir={folder}"])
    assert "\n" not in str(error.value) and not [path for path in folder.glob("*") if path.name != LOCK]
    return str(error.value)


def test_tofu_asks_the_longest_question_before_it_judges(home, tmp_path):
    words = refused(tofu_benchmark, judged(home), tmp_path)  # up to 200 new tokens
    assert "base' has 128 positions, too few for the prompt of forget answers row 2 (8 tokens) and up to 200 " in words


def test_speed_asks_it_before_it_measures(home, tmp_path):
    flags = [*judged(home), "--generated_tokens=122"]
    words = refused(evaluation_speed, flags, tmp_path)
    assert "base' has 128 positions, too few for the prompt of forget answers row 2 (8 tokens) and up to 122 " in words


def test_influence_scores_the_longest_row_before_it_audits(home, tmp_path, monkeypatch):
    def fail(_model, rows):
        assert [len(row["input_ids"]) for row in rows] == [12]
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(preflight, "score_answers", fail)
    words = refused(influence_benchmark, judged(home), tmp_path)
    assert "(GPT2LMHeadModel) cannot score forget answers row 2 (12 tokens): RuntimeError: no such kernel; " in words


def test_a_sharded_run_asks_a_whole_model_before_it_trains(home, tmp_path, monkeypatch):
    """Of a model that ZeRO 3 has taken apart, another copy; else the one that will be trained."""
    record, loaded = load_method("npo"), []
    flags = ["--attacks=prompting", "--counterfactual=false", f"--output_dir={tmp_path}", "--use_cpu"]
    made = Recipe.from_command_line(record, [*judged(home), *flags, "--report_to=none"])
    trainer, asked = record.trainer(**made.trainer_arguments()), made.examination.asked

    def load(path):
        loaded.append(path)
        return asked.load_model(path)

    for partitioned in (True, False):
        monkeypatch.setattr(recipe, "is_partitioned", lambda model, answer=partitioned: answer)
        loaded.clear()
        made.examination.asked = replace(asked, load_model=load, max_new_tokens=121)  # the longest prompt has 8 tokens
        made.preflight(trainer)
        assert loaded == ([str(home / "base")] if partitioned else [])
        made.examination.asked = replace(asked, load_model=load, max_new_tokens=122)
        with pytest.raises(InputError, match=r"base' has 128 positions, too few for the prompt .* up to 122 new"):
            made.preflight(trainer)
