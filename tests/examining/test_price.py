"""The price of forgetting and the selectivity of a style, from numbers made up by hand."""

import pytest
from made_up_runs import answer_records

from llm_unlearn import InputError
from llm_unlearn.examining.evidence import Evidence
from llm_unlearn.examining.price import abilities, is_unsure, lost_abilities, lowest_share, selectivity


def evidence_of(unlearned, original=None, oracle=None, name="general"):
    """That of the probability of one ability, from values of its rows."""
    models = {"original": original or [1.0] * len(unlearned), "oracle": oracle, "unlearned": unlearned}
    records = {model: answer_records(name, values, values) for model, values in models.items() if values}
    return next(one for one in abilities({}, records) if one.score == "probability")


def around(mean: float, rows: int) -> list[float]:
    return [mean + 0.04 * (-1) ** row for row in range(rows)]


@pytest.mark.parametrize(
    ("values", "lost", "unsure"),
    [
        (around(0.94, 400), True, False),
        (around(0.94, 6), False, False),  # may be 0.95, and is no less than 0.8: kept
        ([1.0] * 7 + [0.5], False, True),  # 0.9375, and may be less than 0.8
        (around(0.96, 400), False, False),
        (around(0.6, 6), True, False),
        (around(0.94, 1100), True, False),  # more rows than are drawn apart
    ],
)
def test_an_ability_is_lost_where_the_interval_says_so(values, lost, unsure):
    one = evidence_of(values)
    assert (one.flagged, is_unsure(one), one.decides) == (lost, unsure, True)
    mean = sum(values) / len(values)
    assert one.share == pytest.approx(mean) and one.excess == pytest.approx(mean - 1) and one.rows == len(values)


def test_the_reference_is_the_weakest():
    for original, oracle, weaker in ((0.9, 0.8, 0.8), (0.7, 0.8, 0.7), (0.9, None, 0.9)):
        one = evidence_of([0.72] * 20, [original] * 20, None if oracle is None else [oracle] * 20)
        assert one.share == pytest.approx(0.72 / weaker) and one.flagged is (0.72 / weaker < 0.95)
        assert one.excess == pytest.approx(0.72 - weaker)


def test_a_reference_that_cannot_do_it_decides_nothing():
    one = evidence_of([0.0] * 20, [0.9] * 20, [0.05] * 20)
    assert not one.decides and not one.flagged and one.share is None and "nothing to lose" in one.note
    assert not is_unsure(one) and lowest_share([one]) is None


def test_a_lost_ability_is_named_once_by_what_is_least_kept():
    records = {
        model: answer_records("general", [probability] * 20, [exact] * 20)
        | answer_records("chat", [chat] * 20, [1.0] * 20)
        for model, probability, exact, chat in (("original", 1.0, 1.0, 1.0), ("unlearned", 0.8, 0.4, 0.7))
    }
    lost = lost_abilities(abilities({}, records))
    assert [(one.name, one.score, one.share) for one in lost] == [
        ("general", "exact_match", pytest.approx(0.4)),
        ("chat", "probability", pytest.approx(0.7)),
    ]
    assert lowest_share(abilities({}, records)).share == pytest.approx(0.4)


def refusing(refused: int, rows: int = 100) -> dict:
    """Records of a model that refuses so many of the retained questions, which are every other row."""
    scores = {str(2 * row): {"score": float(row < refused)} for row in range(rows)}
    return {**answer_records("retain", [1.0] * 200, [1.0] * 200), "retain_refusals": {"value_by_index": scores}}


@pytest.mark.parametrize(
    ("original", "unlearned", "share", "lost"),
    [
        (0, 0, 1.0, False),
        (0, 4, 0.96, False),
        (0, 30, 0.7, True),
        (40, 40, 1.0, False),  # as shy as it was before
        (40, 70, 0.5, True),  # 0.3 / 0.6
    ],
)
def test_refusing_retained_questions_is_an_ability_lost(original, unlearned, share, lost):
    records = {"original": refusing(original), "unlearned": refusing(unlearned)}
    people = [row // 4 for row in range(200)]
    for units in ({}, {"retain": people}):
        one = next(one for one in abilities({"units": units}, records) if one.name == "answered")
        assert (one.share, one.flagged, one.rows) == (pytest.approx(share), lost, 100)
        assert one.label == "answers instead of refusing" and one.original == pytest.approx(1 - original / 100)
    assert lost is (one in lost_abilities([one]))


def test_refusals_that_are_not_measured_everywhere_are_no_ability_and_units_are_those_of_the_rows():
    records = {"original": refusing(0), "unlearned": refusing(0)}
    with pytest.raises(InputError, match=r"records, retain_refusals: row 198, and units\.retain has 150 rows"):
        abilities(
            {"units": {"retain": [0] * 150, "x": [0]}},
            records | {"original": refusing(0), "unlearned": {"retain_refusals": refusing(0)["retain_refusals"]}},
        )
    del records["original"]["retain_refusals"]
    assert "answered" not in {one.name for one in abilities({}, records)}


def output(forget, retain, decides=True, flagged=False):
    """Evidence about plain questions, after `selectivity`; (original, unlearned) probabilities of both sides."""
    records = {
        model: answer_records("forget", [forget[number]] * 10, [0.0] * 10)
        | answer_records("retain_verbatim", [retain[number]] * 10, [0.0] * 10)
        for number, model in enumerate(("original", "unlearned"))
    }
    one = Evidence("output", "output", "before any attack", "forget_probability", decides=decides, flagged=flagged)
    selectivity({"units": {"forget": list(range(10)), "retain_verbatim": list(range(10))}}, records, [one])
    return one


@pytest.mark.parametrize(
    ("forget", "retain", "expected", "decides"),
    [
        ((0.9, 0.3), (0.9, 0.9), 0.6, True),
        ((0.9, 0.3), (0.9, 0.5), 0.2, True),  # a third of the drop is theirs alone
        ((0.9, 0.3), (0.9, 0.33), 0.03, False),  # both fell alike
        ((0.9, 0.9), (0.9, 0.9), 0.0, True),  # none fell
        ((0.9, 0.3), (0.9, 0.95), 0.65, True),
        ((0.99, 0.989), (0.99, 0.98), -0.009, True),  # both fell surely, and by nothing: nothing is lost
    ],
)
def test_selectivity_by_hand(forget, retain, expected, decides):
    one = output(forget, retain)
    assert one.selectivity == pytest.approx(expected) and one.decides is decides
    assert one.selectivity_interval == pytest.approx((expected, expected))
    assert (one.note is None) is decides
    if not decides:
        drops = "the probability of retained facts fell by 0.57, that of forgotten ones by 0.60"
        assert one.note == f"ability lost, not forgetting: {drops}"


def test_what_speaks_against_erasure_does_so_even_where_an_ability_is_lost():
    one = output((0.99, 0.8), (0.99, 0.75), flagged=True)
    assert one.note.startswith("ability lost") and one.decides and one.flagged


def test_after_an_attack_that_trains_both_models_are_taken_after_it():
    def outcome(forget, retain):
        run = {"attacker": "full", "learning_rate": 1e-3, "seed": 0}
        values = {
            name: {str(row): {"probability": value} for row in range(4)}
            for name, value in (("value_by_index", forget), ("retain_value_by_index", retain))
        }
        weaker = run | {"learning_rate": 1e-4} | {name: {"0": {"probability": 0.0}} for name in values}
        return run | {"runs": [weaker, run | values], "retain_units": [0, 0, 1, 1]}

    attacks = {"benign_relearning": {"original": outcome(0.8, 0.9), "unlearned": outcome(0.3, 0.7)}}
    one = Evidence("attack", "benign_relearning", "benign tuning", "forget_probability", decides=True)
    selectivity({"attacks": attacks, "forget_groups": ["Ann", "Ann", "Ben", "Ben"]}, {}, [one])
    assert one.selectivity == pytest.approx(0.5 - 0.2) and one.decides
    del attacks["benign_relearning"]["original"]["retain_units"]  # of an older version
    one.selectivity = None
    selectivity({"attacks": attacks, "forget_groups": ["Ann", "Ann", "Ben", "Ben"]}, {}, [one])
    assert one.selectivity is None
