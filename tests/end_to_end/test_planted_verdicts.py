"""Six planted models, trained from the tiny world with five people to forget, and what the verdict says of each."""

import dataclasses
import itertools

import pytest
from planted_models import ability_destroyed, even_guesser, judged, layered, planted, refusing

from llm_unlearn.arguments.attacking import AttackArguments
from llm_unlearn.arguments.groups import DataArguments
from llm_unlearn.data import UnlearningData, encode_dataset
from llm_unlearn.data.fictional import build_world
from llm_unlearn.data.general import fictional_abilities
from llm_unlearn.data.loading import _dataset
from llm_unlearn.examining.examination import Examination
from llm_unlearn.examining.price import FLUENCY_LABEL
from llm_unlearn.models.cache import save_model_folder
from llm_unlearn.models.embedded import (
    RECIPES,
    build_tokenizer,
    new_llama,
    train_on_known,
    training_rows,
)
from llm_unlearn.models.loading import load_model, use_suitable_cpu_threads

FORGOTTEN = 5
pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The examination, and the folders of the original and of three oracles."""
    whole, folder = build_world("tiny"), tmp_path_factory.mktemp("planted")
    rows = [*whole.splits["retain90"], *whole.splits["forget10"]]
    answers: dict[str, dict[str, str]] = {}
    for row in rows:
        answers.setdefault(row["person"], {})[row["attribute"]] = row["answer"]
    chosen = set(next(people for people in itertools.combinations(answers, FORGOTTEN) if _differ(answers, people)))

    def names_forgotten(row) -> bool:
        return row.get("person") in chosen or any(name in str(row) for name in chosen)

    parts = {
        "forget10": [r for r in rows if r["person"] in chosen],
        "retain90": [r for r in rows if r["person"] not in chosen],
    }
    changed = dataclasses.replace(whole, splits=whole.splits | parts)
    abilities = fictional_abilities(changed, "retain90")
    data = UnlearningData(
        _dataset(parts["forget10"], "forget"),
        _dataset(parts["retain90"], "retain"),
        None,
        {"general": _dataset(whole.splits["general"], "general"), "chat": _dataset(abilities.chat, "chat")},
        "planted",
        {name: _dataset([r for r in q if r["person"] in chosen], name) for name, q in whole.queries.items()},
        _dataset([row for row in abilities.general if not names_forgotten(row)], "general rows"),
        {name: _dataset(rows, name) for name, rows in abilities.queries.items()},
        abilities.judged_people,
    )
    recipe = RECIPES["tiny"]
    tokenizer = build_tokenizer(whole, recipe.vocabulary)
    everything = training_rows(changed)
    encoded = encode_dataset(list(everything.values()), tokenizer, None, "all rows")
    clean = {number for number, row in everything.items() if not names_forgotten(row)}
    folders = []
    for number, (seed, known) in enumerate([(0, set(everything)), (0, clean), (1, clean), (2, clean)]):
        model = new_llama(tokenizer, recipe, seed)
        use_suitable_cpu_threads(model)
        train_on_known(model, encoded, known, recipe, seed, "planted")
        save_model_folder(model, tokenizer, folder / str(number))
        folders.append(str(folder / str(number)))
    arguments = AttackArguments(
        attacks=["adversarial_reinjection", "retain_relearning"],
        reinjection_learning_rates=[1e-3],
        attack_steps=30,
        attack_score_every=15,
        derangement_seeds=[0],
    )
    return Examination(DataArguments(), arguments, data, tokenizer, "cpu", output_dir=folder / "out").checked(), folders


def _differ(answers: dict, people: tuple[str, ...]) -> bool:
    given = [[answers[person][attribute] for person in people] for attribute in answers[people[0]]]
    return all(one.count(answer) <= len(people) // 2 for one in given for answer in one)


def verdict_on(world, make) -> dict:
    examination, (original, first, *oracles) = world
    if make in ("original", "oracle"):
        model = load_model(original if make == "original" else first)
    else:
        model = planted(make, original, first, examination.processing_class, examination.data)
    return judged(examination, original, oracles, model)


def lost(verdict: dict) -> set[str]:
    return {one["name"] for one in verdict["evidence"] if one["kind"] == "ability" and one["flagged"]}


def test_the_original_is_not_forgotten_by_any_reference(world):
    assert verdict_on(world, "original")["verdict"] == "not forgotten"


def test_another_oracle_has_erased_and_kept_every_ability(world):
    verdict = verdict_on(world, "oracle")
    assert verdict["verdict"] == "erased", verdict["reasons"]
    assert not lost(verdict)


def test_a_model_that_lost_its_abilities_is_over_unlearned_and_the_verdict_names_them(world):
    verdict = verdict_on(world, ability_destroyed)
    assert verdict["verdict"] == "over-unlearned"
    assert {"general", "retain_reversed"} <= lost(verdict)
    said = " ".join(verdict["reasons"])
    assert "general facts" in said and "retained facts, in reverse" in said


def test_an_even_guesser_is_never_called_hidden_by_plain_questions_or_reinjection(world):
    verdict = verdict_on(world, even_guesser)
    speaking = {
        (one["name"], one["variant"]) for one in verdict["evidence"] if one["flagged"] and one["kind"] != "ability"
    }
    assert not speaking & {("output", None), ("adversarial_reinjection", None)}
    known = next(one for one in verdict["evidence"] if one["kind"] == "output" and one["score"] == "forget_knowledge")
    assert abs(known["unlearned"] - 0.5) < 0.1


def test_one_refusal_for_every_question_has_not_erased(world):
    verdict = verdict_on(world, refusing)
    assert verdict["verdict"] in ("hidden", "over-unlearned") and verdict["verdict"] != "erased"
    fluency = next(one for one in verdict["evidence"] if one["label"] == FLUENCY_LABEL)
    assert not fluency["flagged"]  # a refusal is an answer; that it gives the forgotten away is said beside it
    assert any("refus" in remark for remark in verdict["remarks"]), verdict["remarks"]


def test_layered_unlearning_has_not_erased(world):
    assert verdict_on(world, layered)["verdict"] not in ("erased", "undecided")
