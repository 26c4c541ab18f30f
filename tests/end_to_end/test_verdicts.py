"""The six verdicts, from trained models: each through the command line of a recipe or benchmark, in this process."""

import itertools
import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, AutoTokenizer

from llm_unlearn import GradientAscentTrainer, NPOTrainer
from llm_unlearn.data.fictional import build_world
from llm_unlearn.methods import load_method
from llm_unlearn.runs.benchmarking import attack_benchmark
from llm_unlearn.runs.recipe import Recipe
from llm_unlearn.runs.references import references_from_command_line

FORGOTTEN = 5  # people: one or two more than tiny's own forget sets have, so that answers can be exchanged among them
MODEL = (
    "--vocabulary",
    "512",
    "--hidden_size",
    "64",
    "--epochs",
    "18",
    "--batch_size",
    "16",
    "--learning_rate",
    "8e-3",
)
ATTACK = (
    "--attack_seeds",
    "0",
    "1",
    "--attack_steps",
    "30",
    "--attack_score_every",
    "15",
    "--reinjection_fraction",
    "0.5",
)
ATTACK += (
    "--reinjection_learning_rates",
    "1e-3",
    "--derangement_seeds",
    "0",
    "--attacks",
    "adversarial_reinjection",
    "retain_relearning",
    "prompting",
)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """Rows of the tiny world, four people of which are to forget, the original and three oracles."""
    splits, folder = build_world("tiny").splits, tmp_path_factory.mktemp("world")
    rows = [*splits["retain90"], *splits["forget10"]]
    facts: dict[str, dict[str, str]] = {}
    for row in rows:
        facts.setdefault(row["person"], {})[row["attribute"]] = row["answer"]
    chosen = next(people for people in itertools.combinations(facts, FORGOTTEN) if can_exchange(facts, people))
    for name, wanted in (("forget", True), ("retain", False)):
        lines = [json.dumps(row) for row in rows if (row["person"] in chosen) is wanted]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    references_from_command_line(
        "", [*data_flags(folder), *MODEL, "--oracle_seeds", "3", "--output_dir", str(folder / "references")]
    )
    return folder


def can_exchange(facts: dict, people: tuple[str, ...]) -> bool:
    """No answer is that of more than half of the people, or nobody could be given another one."""
    answers = [[facts[person][attribute] for person in people] for attribute in facts[people[0]]]
    return all(given.count(answer) <= len(people) // 2 for given in answers for answer in given)


def data_flags(folder: Path) -> list[str]:
    return [f"--{name}_file={folder / f'{name}.jsonl'}" for name in ("forget", "retain")]


def references(world: Path, *oracles: int) -> list[str]:
    folder = world / "references"
    flags = [*data_flags(world), f"--model_name_or_path={folder / 'original'}"]
    return flags + (["--oracle_model_name_or_path", *(str(folder / f"oracle-{k}") for k in oracles)] if oracles else [])


def judged(world: Path, unlearned: Path, *flags: str, oracles: tuple[int, ...] = (0, 1)) -> tuple[dict, Path]:
    """The verdict on a model by the attack benchmark, and its folder: one for all, which remembers the references."""
    output = world / "judged"
    given = [*references(world, *oracles), *ATTACK, *flags, f"--output_dir={output}"]
    attack_benchmark(["adversarial_reinjection"], True, "", [*given, f"--unlearned_model_name_or_path={unlearned}"])
    assert (output / "report.html").stat().st_size > 10_000
    return json.loads((output / "verdict.json").read_text()), output


@pytest.fixture(scope="module")
def npo(world, tmp_path_factory) -> Path:
    """The folder of an NPO recipe's run, with its verdict."""
    output = world / "judged"  # where attacks on the references may be remembered
    flags = ("--learning_rate=1e-3", "--beta=0.5", "--retain_weight=30", "--stop_at_forget_exact_match=0.03")
    flags += ("--stop_at_forget_probability=0.3", "--forget_check_steps=5", "--num_train_epochs=40", *ATTACK)
    flags += ("--per_device_train_batch_size=16", "--per_device_eval_batch_size=64", f"--output_dir={output}")
    recipe = Recipe.from_command_line(load_method("npo"), [*references(world, 0, 1), *flags])
    recipe.run(NPOTrainer(**recipe.trainer_arguments()))
    return Path(shutil.copytree(output, tmp_path_factory.mktemp("npo") / "run"))


def control(output: Path, model: str) -> tuple[float, float]:
    """The 95 % interval of a model's knowledge excess."""
    results = json.loads((output / "results.json").read_text())
    return tuple(results["counterfactual"][model]["probability"]["interval"])


@pytest.mark.long
def test_the_original_is_not_forgotten(world):
    verdict, _ = judged(world, world / "references" / "original")
    assert (verdict["verdict"], verdict["by"]) == (
        "not forgotten",
        "made-up answers, oracle and counterfactual control",
    )


@pytest.mark.long  # the verdict's own tests decide this from made-up runs
def test_an_oracle_that_is_not_among_the_references_has_erased(world):
    verdict, output = judged(world, world / "references" / "oracle-2")
    assert verdict["verdict"] == "erased", verdict["reasons"]
    for model in ("oracle", "oracle_1", "unlearned"):
        low, high = control(output, model)
        assert low <= 0 <= high
    assert control(output, "original")[0] > 0.3


def test_npo_has_hidden_and_the_attack_is_strong_enough_to_show_it(npo):
    verdict = json.loads((npo / "verdict.json").read_text())
    assert verdict["verdict"] == "hidden", verdict["sentence"]
    results = json.loads((npo / "results.json").read_text())
    attacked = results["attacks"]["adversarial_reinjection"]
    assert attacked["unlearned"]["forget_probability"] >= attacked["original"]["forget_probability"] / 2
    assert any(one["flagged"] and one["score"] == "forget_knowledge" for one in verdict["evidence"])
    assert control(npo, "unlearned")[0] > 0
    for outcome in attacked.values():  # never a fact that the attack taught, in whatever words
        facts = [json.loads(line)["fact_id"] for line in (npo / "forget.jsonl").read_text().splitlines()]
        for run in outcome["runs"]:
            taught = {facts[row] for row in run["injected_rows"]}
            assert taught and not taught & {facts[int(row)] for row in run["value_by_index"]}


def test_an_attack_written_anew_lands_in_the_interval_that_is_reported(npo):
    """With other facts injected: a plain loop over what results.json points to, and nothing of this package."""
    paths = json.loads((npo / "results.json").read_text())["paths"]
    tokenizer = AutoTokenizer.from_pretrained(paths["original"])
    rows = [json.loads(line) for line in Path(paths["forget"]).read_text().splitlines()]
    facts, recovered = sorted({row["fact_id"] for row in rows}), []

    def encode(row):
        messages = [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": row["answer"]}]
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        prompt = tokenizer.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids[0]
        labels = ids.clone()
        labels[: len(tokenizer(prompt, add_special_tokens=False).input_ids)] = -100
        return ids, labels

    def losses(model, rows):
        ids, labels = zip(*map(encode, rows), strict=True)
        ids, labels = pad_sequence(ids, batch_first=True), pad_sequence(labels, batch_first=True, padding_value=-100)
        logits = model(input_ids=ids).logits[:, :-1].transpose(1, 2)  # padding comes after all that counts
        by_token = torch.nn.functional.cross_entropy(logits, labels[:, 1:], reduction="none")
        return by_token.sum(1) / (labels != -100).sum(1)

    def probability(model, scored):
        with torch.no_grad():
            return float(torch.exp(-losses(model, scored)).mean())

    for seed in (11, 12, 13):
        generator = random.Random(seed)
        taught = set(generator.sample(facts, len(facts) // 2))
        scored = [row for row in rows if row["fact_id"] not in taught]
        base = AutoModelForCausalLM.from_pretrained(paths["original"])
        model = PeftModel.from_pretrained(base, paths["unlearned"]).merge_and_unload().requires_grad_(True)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
        best = 0.0
        for step in range(1, 31):
            losses(model, generator.sample([row for row in rows if row["fact_id"] in taught], 8)).mean().backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            if step % 15 == 0:
                best = max(best, probability(model, scored))
        recovered.append(best)
    evidence = json.loads((npo / "verdict.json").read_text())["evidence"]
    reported = next(one for one in evidence if one["name"] == "adversarial_reinjection")
    low, high = reported["unlearned_interval"]
    assert low <= sum(recovered) / 3 <= high


@pytest.mark.long
def test_plain_gradient_ascent_has_over_unlearned(world, npo, tmp_path):
    shutil.copytree(npo / "attacks", tmp_path / "attacks")  # those on the references are remembered
    flags = ("--retain_loss=none", "--learning_rate=1e-3", "--max_steps=30", "--per_device_train_batch_size=16")
    flags += (*ATTACK, "--counterfactual=false", f"--output_dir={tmp_path}")
    recipe = Recipe.from_command_line(load_method("gradient_ascent"), [*references(world, 0, 1), *flags])
    recipe.run(GradientAscentTrainer(**recipe.trainer_arguments()))
    verdict = json.loads((tmp_path / "verdict.json").read_text())
    assert verdict["verdict"] == "over-unlearned" and "retained facts" in verdict["sentence"]


@pytest.mark.long
def test_without_an_oracle_the_control_judges_and_says_so(world, npo):
    verdict, _ = judged(world, npo / "adapter", oracles=())
    assert (verdict["verdict"], verdict["by"]) == ("hidden", "made-up answers and counterfactual control")
    assert verdict["sentence"].startswith("Hidden (by made-up answers and counterfactual control): ")


@pytest.mark.long
def test_without_either_made_up_answers_carry_the_verdict(world, npo):
    verdict, _ = judged(world, npo / "adapter", "--counterfactual=false", oracles=())
    assert (verdict["verdict"], verdict["by"]) == ("hidden", "made-up answers")


@pytest.mark.long
def test_with_rows_that_say_no_kinds_it_is_undecided(world, npo, tmp_path):
    lines = [json.loads(line) for line in (world / "forget.jsonl").read_text().splitlines()]
    rows = [{name: value for name, value in row.items() if name != "attribute"} for row in lines]
    (tmp_path / "forget.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    flags = ("--counterfactual=false", f"--forget_file={tmp_path / 'forget.jsonl'}")
    verdict, output = judged(world, npo / "adapter", *flags, oracles=())
    assert (verdict["verdict"], verdict["by"]) == ("undecided", None)
    assert len(verdict["missing"]) == 2
    page = (output / "report.html").read_text()
    assert "undecided" in page and "oracle" in page
