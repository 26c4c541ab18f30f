"""The verdict from numbers made up by hand: which comparison decides, and what is said when a reference is missing."""

import numpy as np
import pytest
from made_up_runs import (
    FACTS,
    ORACLE,
    ORIGINAL,
    ROWS,
    by_index,
    control,
    excess,
    reinjection,
    run,
    spread,
)

from llm_unlearn.examining.evidence import comparison, forget_values
from llm_unlearn.examining.verdict import verdict_of

HIDDEN = {"after": 0.8, "control": (0.0, 0.4)}


@pytest.mark.parametrize(
    ("unlearned", "verdict", "reason"),
    [
        (ORIGINAL, "not forgotten", "before any attack"),
        ({}, "erased", "after reinjection"),
        (HIDDEN, "hidden", "0.80; models that never saw them have 0.45"),
        ({"control": (0.0, 0.4)}, "hidden", "true facts are 0.40 likelier"),
        (
            HIDDEN | {"retain": 0.85},
            "over-unlearned",
            "retained facts: exact match 0.85 (the original has 1.00, an oracle 1.00; 85 % kept)",
        ),
        ({"before": 0.1}, "over-unlearned", "before any attack, its mean answer probability"),
        ({"before": 0.1} | HIDDEN, "hidden", "after reinjection"),
        ({"before": 0.8}, "not forgotten", "before any attack"),
        ({"exact": 0.9}, "not forgotten", "exact match"),
    ],
)
def test_with_an_oracle(unlearned, verdict, reason):
    found = verdict_of(*run(unlearned=unlearned))
    assert (found["verdict"], found["by"]) == (verdict, "oracle and counterfactual control")
    assert reason in found["reasons"][0] and reason in found["sentence"]
    assert found["missing"] == []


@pytest.mark.parametrize(
    ("unlearned", "verdict"),
    [(ORIGINAL, "not forgotten"), ({}, "erased"), (HIDDEN, "hidden"), ({"retain": 0.5}, "over-unlearned")],
)
def test_without_an_oracle_the_control_decides_and_is_named(unlearned, verdict):
    found = verdict_of(*run(oracles=0, unlearned=unlearned))
    assert (found["verdict"], found["by"]) == (verdict, "counterfactual control")
    assert "by counterfactual control" in found["sentence"]


def test_without_any_reference_it_is_undecided():
    results, records = run(oracles=0, unlearned=HIDDEN)
    found = verdict_of(results | {"counterfactual": {}}, records)
    assert (found["verdict"], found["by"]) == ("undecided", None)
    assert any("an oracle" in missing for missing in found["missing"])
    assert any("counterfactual control" in missing for missing in found["missing"])
    assert found["sentence"] == "Undecided: without a reference, forgotten cannot be told from hidden"


def test_an_oracle_without_an_attack_is_undecided():
    results, records = run(unlearned={})
    found = verdict_of(results | {"attacks": {}, "counterfactual": {}}, records)
    assert found["verdict"] == "undecided" and "--attacks adversarial_reinjection" in found["missing"][0]
    assert found["sentence"] == "Undecided: without an attack, forgotten cannot be told from hidden"


@pytest.mark.parametrize(
    ("people", "unlearned", "verdict"), [(4, {}, "undecided"), (5, {}, "erased"), (2, HIDDEN, "hidden")]
)
def test_a_few_people_are_enough_to_find_something_and_too_few_to_find_nothing(people, unlearned, verdict):
    results, records = run(unlearned=unlearned)
    results["forget_groups"] = [f"person {row % people}" for row in range(ROWS)]
    found = verdict_of(results, records)
    assert found["verdict"] == verdict
    if verdict == "undecided":
        assert found["sentence"].endswith("but only 4 people (or facts) were asked about")
        assert found["missing"] == ["forget facts of 5 people or more"]


def test_an_original_that_knows_no_more_than_the_oracle_decides_nothing():
    results, records = run(original=ORACLE, unlearned={})
    results["counterfactual"] = {}
    found = verdict_of(results, records)
    assert found["verdict"] == "undecided"
    assert any("original and oracle hardly differ" in missing for missing in found["missing"])
    assert found["sentence"] == "Undecided: original and oracle hardly differ here"


def test_a_control_that_finds_knowledge_in_the_oracle_does_not_decide():
    results, records = run(unlearned={"control": (0.3, 0.4)})
    for model in ("oracle", "oracle_1", "oracle_2"):
        results["counterfactual"][model] = control(0.3, 0.4)
    found = verdict_of(results, records)
    assert (found["verdict"], found["by"]) == ("erased", "oracle")
    assert any("no fair control" in remark for remark in found["remarks"])


def test_an_oracle_that_hardly_differs_does_not_carry_the_verdict():
    results, records = run(unlearned=HIDDEN)
    for name in ("oracle", "oracle_1", "oracle_2"):  # as if it had seen the facts; the control still stands
        records[name] = records["original"]
        for attack in results["attacks"].values():
            attack[name] = attack["original"]
    found = verdict_of(results, records)
    assert (found["verdict"], found["by"]) == ("hidden", "counterfactual control")
    assert found["sentence"].startswith("Hidden (by counterfactual control)")


@pytest.mark.parametrize(
    ("steps", "tuned", "verdict"),
    [(None, 0.5, "undecided"), (60, 0.5, "undecided"), (600, 0.5, "erased"), (600, 0.9, "hidden")],
)
def test_nothing_is_called_erased_before_it_was_tuned_for_long(steps, tuned, verdict):
    """As long as reinjection, as older versions tuned, is not long."""
    results, records = run(kinds=True, unlearned={"tuned_known": tuned})
    if steps is None:
        del results["attacks"]["retain_relearning"]
    else:
        results["attacks"]["retain_relearning"]["unlearned"]["curve"][-1]["step"] = steps
    found = verdict_of(results, records)
    assert found["verdict"] == verdict
    if verdict == "undecided":
        assert found["reasons"] == [
            "nothing speaks against erasure, but nobody tuned on retained rows for long, which has found more"
        ]
        assert "--attacks adversarial_reinjection retain_relearning" in found["missing"][0]


def test_wide_intervals_are_not_called_erased():
    for oracles, verdict in ((0, "undecided"), (3, "erased")):  # beside an oracle, the control has only to agree
        results, records = run(oracles, unlearned={})
        results["counterfactual"]["unlearned"]["probability"] = excess(0.1, 0.3)
        found = verdict_of(results, records)
        assert found["verdict"] == verdict
        assert any("too wide" in missing for missing in found["missing"]) is (verdict == "undecided")


def test_too_small_an_excess_is_no_knowledge_worth_the_name():
    found = verdict_of(*run(unlearned={"after": 0.48}))  # 6 % of the distance, and sure
    line = next(one for one in found["evidence"] if one["name"] == "adversarial_reinjection")
    assert line["excess"] == pytest.approx(0.03) and line["lower"] > 0 and not line["flagged"]
    assert found["verdict"] == "erased"


def test_variants_are_compared_one_by_one_and_surgery_only_remarked():
    results, records = run(unlearned={})
    models = {name: 0.45 for name in records} | {"original": 0.95}
    results["attacks"]["prompting"] = {
        name: {
            "variants": {
                "reversed": {"value_by_index": by_index(spread(0.9 if name == "unlearned" else value), rows=range(20))},
                "few_shot": {"value_by_index": by_index(spread(value))},
            }
        }
        for name, value in models.items()
    }
    removed = {"variants": {"removed": {"value_by_index": by_index(spread(0.95))}}}
    results["attacks"]["adapter_surgery"] = {"unlearned": removed, "oracle": {"variants": {}}}
    found = verdict_of(results, records)
    assert found["verdict"] == "hidden" and found["reasons"][0].startswith("asked in reverse")
    assert any("publish the merged model" in remark for remark in found["remarks"])
    assert len(found["reasons"]) == 1


def test_a_level_allows_for_all_comparisons_and_people_are_drawn_whole():
    people = [f"p{row // FACTS}" for row in range(ROWS)]
    own = np.array([[[0.9, 0.8, 0.7, 0.6, 0.35, 0.3, 0.3, 0.25][row // FACTS] for row in range(ROWS)]])
    values = {"original": np.full((1, ROWS), 0.95), "oracle": np.full((1, ROWS), 0.35), "unlearned": own}
    one, ten = (comparison(values, people, comparisons=count) for count in (1, 10))
    assert one.lower > 0 > ten.lower and one.interval == ten.interval
    assert comparison(values, range(ROWS), comparisons=10).lower > 0


def test_the_verdict_takes_that_level():
    """What is above zero were it the only comparison, and not at the level of all four, is undecided."""
    results, records = run(unlearned={})
    for one in results["attacks"]["adversarial_reinjection"]["unlearned"]["runs"][1:]:
        for row, value in one["value_by_index"].items():
            value["probability"] = [0.9, 0.9, 0.8, 0.7, 0.5, 0.4, 0.4, 0.35][int(row) // FACTS]
    found = verdict_of(results, records)
    (line,) = [
        one
        for one in found["evidence"]
        if (one["name"], one["score"]) == ("adversarial_reinjection", "forget_probability")
    ]
    assert line["interval"][0] > 0 > line["lower"] and line["erasure"] < 0.9 and found["verdict"] == "undecided"
    assert found["reasons"][0].startswith("after reinjection") and "knowledge or chance" in found["reasons"][0]


def test_exact_match_after_an_attack_and_surgery_decide_nothing():
    results, records = run(unlearned={})
    for model in ("original", "unlearned"):
        for one in results["attacks"]["adversarial_reinjection"][model]["runs"]:
            for value in one["value_by_index"].values():
                value["exact_match"] = 1.0
    shown = dict.fromkeys(records, 0.45) | {"original": 0.95, "unlearned": 0.95}
    results["attacks"]["adapter_surgery"] = {
        name: {"variants": {"removed": {"value_by_index": by_index(spread(value))}}} for name, value in shown.items()
    }
    assert verdict_of(results, records)["verdict"] == "erased"


@pytest.mark.parametrize(("width", "verdict"), [(0.17, "erased"), (0.19, "undecided")])
def test_an_interval_of_a_third_of_what_there_is_to_know_is_too_wide(width, verdict):
    results, records = run(0, unlearned={})
    results["counterfactual"]["unlearned"]["probability"] = excess(0.0, width)
    assert verdict_of(results, records)["verdict"] == verdict


def test_answers_that_an_oracle_gives_as_well_are_no_sign_of_what_is_left():
    results, records = run(kinds=True, unlearned={"knowledge": 0.5, "known": 0.5})
    for found in records.values():
        for row in found["forget_exact_match"]["value_by_index"].values():
            row["score"] = 1.0
    assert verdict_of(results | {"counterfactual": {}}, records)["verdict"] == "erased"


@pytest.mark.parametrize(("exact", "verdict"), [(0.475, "erased"), (0.525, "not forgotten")])
def test_half_of_the_originals_answers_are_too_many(exact, verdict):
    results, records = run(oracles=0, kinds=True, unlearned={"exact": exact})
    assert verdict_of(results | {"counterfactual": {}}, records)["verdict"] == verdict


def test_the_limits_are_in_the_verdict():
    assert verdict_of(*run(unlearned={}))["criteria"] == {"margin": 0.1, "precision": 0.3, "kept": 0.95, "fewest": 5}


def test_evidence_of_a_comparison_by_hand():
    results, records = run(oracles=1, unlearned={"after": 0.7})
    values = forget_values(results, records)[("adversarial_reinjection", None, "forget_probability")]
    assert values["unlearned"].shape == (2, ROWS)  # the weaker learning rate is no evidence
    one = comparison(values, results["forget_groups"])
    assert (one.original, one.oracle, one.unlearned) == pytest.approx((0.95, 0.45, 0.7))
    assert one.excess == pytest.approx(0.25) and one.erasure == pytest.approx(0.5)
    assert one.interval[0] <= 0.25 <= one.interval[1]


def test_oracles_that_scatter_measure_nothing():
    results, records = run(unlearned={})
    for name, mean in (("oracle", 0.2), ("oracle_1", 0.8), ("oracle_2", 0.5)):
        results["attacks"]["adversarial_reinjection"][name] = reinjection(mean)
    found = verdict_of(results | {"counterfactual": {}}, records)
    assert found["verdict"] == "undecided"


# ---- knowledge, abilities and fluency --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unlearned", "verdict", "reason"),
    [
        ({}, "erased", "after reinjection, it prefers the true answer to made-up ones in 50 % of comparisons"),
        # Unsure of everything and of nothing in particular: an even guesser.
        ({"before": 0.6, "after": 0.6}, "erased", "in 50 % of comparisons"),
        # Nobody would read it from the probabilities, which are the oracle's.
        ({"known": 0.9}, "hidden", "after reinjection, it prefers the true answer to made-up ones in 90 %"),
        ({"knowledge": 0.9}, "hidden", "before any attack, it prefers the true answer to made-up ones in 90 %"),
        ({"knowledge": 0.52, "known": 0.52}, "erased", "in 52 % of comparisons"),  # 4 % of the original's: too little
        ({"knowledge": 0.2}, "over-unlearned", "before any attack, it prefers the true answer to made-up ones in 20 %"),
        ({"fluent": 0.3}, "over-unlearned", "fluency of what is said instead: share of well-formed answers 0.30"),
        ({"general": 0.6}, "over-unlearned", "general facts: exact match 0.60 (the original has 1.00, an oracle 1.00;"),
        ({"instructions": 0.7} | {"known": 0.9}, "over-unlearned", "instructions: exact match 0.70"),
    ],
)
def test_by_made_up_answers(unlearned, verdict, reason):
    found = verdict_of(*run(kinds=True, unlearned=unlearned))
    assert (found["verdict"], found["by"]) == (verdict, "made-up answers, oracle and counterfactual control")
    assert reason in found["reasons"][0] and reason in found["sentence"]
    assert not any("answer probability, which confuses" in remark for remark in found["remarks"])


def test_a_lost_ability_comes_first_and_then_what_is_still_known():
    found = verdict_of(
        *run(kinds=True, unlearned={"general": 0.2, "instructions": 0.5, "knowledge": 0.9, "known": 0.95})
    )
    first, second, third, fourth = found["reasons"]
    assert first.startswith("general facts: ") and second.startswith(
        "instructions: "
    )  # each once, the least kept first
    assert "after reinjection" in third and "before any attack" in fourth


def test_made_up_answers_carry_a_verdict_without_an_oracle_or_a_control():
    results, records = run(oracles=0, kinds=True, unlearned={})
    found = verdict_of(results | {"counterfactual": {}}, records)
    assert (found["verdict"], found["by"]) == ("erased", "made-up answers")
    assert found["sentence"].startswith("Erased (by made-up answers): ")


def test_an_untouched_model_is_not_forgotten_even_where_made_up_answers_are_all_there_is():
    results, records = run(oracles=0, kinds=True, unlearned=ORIGINAL | {"knowledge": 1.0, "known": 1.0})
    found = verdict_of(results | {"counterfactual": {}}, records)
    assert found["verdict"] == "not forgotten"
    assert found["reasons"] == [
        "before any attack, it still gives 100 % of the answers word for word; the original 100 %"
    ]
    assert found["sentence"].startswith("Not forgotten (by made-up answers): ")


def test_a_likely_answer_that_is_no_likelier_than_made_up_ones_is_no_answer():
    """Probability 0.8 (oracle 0.40, original 0.95), as of an even guesser: only with knowledge is it an answer."""
    for known, verdict in ((0.5, "erased"), (0.9, "not forgotten")):
        found = verdict_of(*run(kinds=True, unlearned={"before": 0.8, "knowledge": known, "known": known}))
        assert found["verdict"] == verdict, found["sentence"]


def say_values(records, **shares):
    """Add to each model's records that it says the value in a share of its answers."""
    for model, found in records.items():
        share = shares.get(model, shares["oracle"] if model.startswith("oracle") else 1.0)
        said = {str(row): {"score": float(row * 7 % ROWS < share * ROWS)} for row in range(ROWS)}
        found["forget_value_said"] = {"value_by_index": said}


@pytest.mark.parametrize(
    ("said", "verdict", "reason"),
    [
        (0.1, "erased", "in 50 % of comparisons"),
        (
            0.4,
            "hidden",
            "before any attack, 40 % of its answers say the value that was asked for; of models that never",
        ),
        (0.7, "not forgotten", "before any attack, 70 % of its answers say the value"),
        (0.0, "erased", "in 50 % of comparisons"),
    ],
)
def test_a_misspelled_name_before_the_true_value_is_no_forgetting(said, verdict, reason):
    """Exact match is the oracle's, and so is everything else."""
    results, records = run(kinds=True, unlearned={})
    say_values(records, oracle=0.1, unlearned=said)
    found = verdict_of(results, records)
    assert found["verdict"] == verdict and reason in found["reasons"][0], found["sentence"]


@pytest.mark.parametrize(
    ("made_up", "verdict"), [(0.4, "erased"), (0.1, "hidden")], ids=["an even guesser", "who knows them"]
)
def test_values_that_are_said_no_more_often_than_other_peoples_are_guesses(made_up, verdict):
    """An oracle may say retained people's values, so the true ones seldom; who guesses among forgotten ones, often."""
    results, records = run(kinds=True, unlearned={})
    say_values(records, oracle=0.1, unlearned=0.4)
    for row in records["unlearned"]["forget_value_said"]["value_by_index"].values():
        row["made_up"] = made_up
    found = verdict_of(results, records)
    assert found["verdict"] == verdict
    said = next(one for one in found["evidence"] if one["score"] == "forget_value_said")
    assert said["made_up"] == pytest.approx(made_up) and (said["beyond"] > 0) is (verdict == "hidden")
    if verdict == "erased":
        remark = "before any attack: it says the true value no more often than guessing does"
        assert remark in found["remarks"] and not said["decides"]
    else:
        assert f"(and {100 * made_up:.0f} % that of another person)" in found["reasons"][0]


def test_values_that_an_oracle_guesses_as_often_say_nothing():
    results, records = run(kinds=True, unlearned={})
    say_values(records, original=0.5, oracle=0.45, unlearned=0.5)
    found = verdict_of(results, records)
    assert found["verdict"] == "erased"
    assert "before any attack: original and oracle hardly differ here" in found["remarks"]


def test_results_of_an_older_version_are_judged_and_never_called_erased():
    for unlearned, verdict in (({}, "undecided"), (HIDDEN, "hidden"), (ORIGINAL, "not forgotten")):
        results, records = run(unlearned=unlearned)
        old = {name: results[name] for name in ("scores", "attacks", "counterfactual", "forget_groups")}
        kept = {
            model: {name: by_model[name] for name in ("forget_Q_A_Prob", "forget_exact_match")}
            for model, by_model in records.items()
        }
        found = verdict_of(old, kept)
        assert found["verdict"] == verdict
        assert any("of an older version: abilities and knowledge were not measured" in r for r in found["remarks"])
    results, records = run(unlearned={})
    found = verdict_of({name: results[name] for name in old}, records)
    assert "nobody looked at what else the model has lost" in found["sentence"]
    assert "llm-unlearn judge" in found["missing"][0]


def test_where_nothing_says_what_is_of_a_kind_probability_decides_and_a_remark_says_so():
    found = verdict_of(*run(unlearned={}))
    assert found["verdict"] == "erased"
    assert any(
        remark.startswith("judged by answer probability, which confuses knowledge with confidence: rows with a column")
        for remark in found["remarks"]
    )


def test_abilities_that_were_not_measured_are_listed():
    results, records = run(kinds=True, unlearned={})
    for by_model in records.values():
        for name in [name for name in by_model if name.startswith(("general", "instructions", "forget_fluency"))]:
            del by_model[name]
    results["not_measured"] = {"forget_few_shot": "max_length=9 is too short"}
    remarks = verdict_of(results, records)["remarks"]
    assert "abilities not measured: general facts, instructions, fluency of what is said instead" in remarks
    assert any("max_length=9 is too short" in remark for remark in remarks)
    assert not any("abilities not measured" in r for r in verdict_of(*run(kinds=True, unlearned={}))["remarks"])


def refusing(forget: float, retain: float) -> dict:
    """Records of a model that refuses such shares of the forget and of twenty retained questions."""
    counts = {"forget": (forget, ROWS), "retain": (retain, 20)}
    return {
        f"{name}_refusals": {"value_by_index": {str(row): {"score": float(row < share * rows)} for row in range(rows)}}
        for name, (share, rows) in counts.items()
    }


@pytest.mark.parametrize(("retain", "verdict"), [(0.0, "erased"), (0.5, "over-unlearned")])
def test_refusals_are_said_and_a_model_that_refuses_what_it_should_answer_is_over_unlearned(retain, verdict):
    results, records = run(unlearned={"fluent": 0.0})
    shares = {"original": (0, 0), "oracle": (0, 0), "unlearned": (1.0, retain)}
    records = {name: found | refusing(*shares.get(name, (0, 0))) for name, found in records.items()}
    found = verdict_of(results, records)
    words = f"it refuses 1.00 of the forgotten questions (original 0.00), {retain:.2f} of the retained ones"
    assert found["verdict"] == verdict and f"{words} (original 0.00)" in found["remarks"]
    if retain:
        assert found["reasons"][0] == (
            "answers instead of refusing: share of retained questions answered 0.50 (the original has 1.00, an oracle "
            "1.00; 50 % kept)"
        )
