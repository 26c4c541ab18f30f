"""The counterfactual control: is there knowledge left, judged without an oracle?

The forget facts get answers that are not theirs, of the same form and as frequent: facts that the model was never
taught. The same relearning attack is run with the true rows and with the made-up ones, and what it recovers more of the
true ones is knowledge. A model that never knew guesses both equally well, whatever its calibration; below zero, it
avoids the true answers, which gives them away too.

Where answers are permuted, both sides hold the very same answers. Where they are TOFU's perturbed answers, only the
form is the same: the true answer may be the likelier one for who knows nothing, so there zero needs a check with a
model that never saw the rows (the base model): on TOFU and a small model it was (docs/results/counterfactual.md).

Sources: ours, after the oracle comparison of Yang et al., arXiv 2509.22263. Intervals: Owen and Eckles 2012, arXiv
1106.2125 (independent weights for each crossed factor; mildly conservative). p-value: Fisher's sign-flip randomization.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import numpy as np
from datasets import Dataset
from scipy.optimize import linear_sum_assignment
from scipy.stats import permutation_test
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llm_unlearn.attacks.adversarial_reinjection import adversarial_reinjection
from llm_unlearn.attacks.relearning import AttackBudget
from llm_unlearn.data import encode_dataset
from llm_unlearn.data.formats import Prompt, listed
from llm_unlearn.data.identity import facts_of, has_label, has_several, labels_of, people_of
from llm_unlearn.data.made_up import A_NAME, subjects_of, told_of
from llm_unlearn.data.validation import split_rows
from llm_unlearn.errors import InputError
from llm_unlearn.models.scoring import score_answers

PERTURBED = "perturbed_answer"
LABELS = ("fact_id", "person", "attribute", "template")  # what rows keep besides their texts
VALUES = ("probability", "exact_match")
RESAMPLES = 4999  # of intervals and p-values, which therefore are 1/5000 or more


def true_rows(dataset: Dataset, group_by: str | None = None) -> Dataset:
    """The true side of the control, in the form of `counterfactual_rows` of the same arguments.

    Perturbed answers have the form of the paraphrased answer, not of the answer: against the latter, a model's taste
    for one wording would pass for knowledge. So beside them the true answer is `paraphrased_answer`, if there is one.
    """
    rows, pairs = list(dataset), _pairs(dataset)
    answers = [answer for _, answer in pairs]
    if _kind_column(dataset, group_by) == PERTURBED:
        answers = [row.get("paraphrased_answer") or answer for row, answer in zip(rows, answers, strict=True)]
    return _with_answers(rows, pairs, answers)


def counterfactual_rows(dataset: Dataset, seed: int, group_by: str | None = None) -> Dataset:
    """The same questions with answers that are not theirs; no fact keeps one of its own.

    The answers of facts are permuted within each kind of question, at random among the permutations that leave no fact
    an answer of its own: every answer stays as frequent as it is, and all rows of a fact get those of one other fact.
    Where a question names the row's `person`, that name stands in its answer in place of the other fact's.

    Args:
        dataset: forget rows in any format with a question; `identity.facts_of` says which are of one fact.
        seed: chooses the permutation, or which perturbed answer each fact gets (as many consecutive seeds as there are
            perturbed answers give each of them once).
        group_by: the column that tells kinds of questions apart, or "perturbed_answer" for the shipped wrong answers
            instead of a permutation. Default: `attribute` (the fictional world), else `perturbed_answer` (TOFU), else
            all rows are of one kind.

    Returns:
        Rows with `prompt` and `completion`, and of `fact_id`, `person`, `attribute` and `template` what there is.

    Raises:
        InputError: no such column, plain text, a fact of two kinds, a kind whose answers cannot be permuted so, or a
            row without a wrong answer.
    """
    rows, pairs, facts = list(dataset), _pairs(dataset), facts_of(dataset)
    kind_column = _kind_column(dataset, group_by)
    if kind_column == PERTURBED:
        answers = [_wrong_answer(row, i, pairs[i][1], facts[i], seed) for i, row in enumerate(rows)]
    else:
        names = subjects_of(dataset)
        told = [told_of(answer, name, A_NAME) for (_, answer), name in zip(pairs, names, strict=True)]
        permuted = _permuted_answers(told, facts, _kinds(dataset, kind_column), seed)
        answers = [told_of(answer, A_NAME, name) for answer, name in zip(permuted, names, strict=True)]
    return _with_answers(rows, pairs, answers)


def knowledge_excess(
    model: PreTrainedModel,
    processing_class: PreTrainedTokenizerBase,
    forget: Dataset,
    budget: AttackBudget,
    derangement_seeds: Sequence[int] = (0, 1, 2),
    *,
    group_by: str | None = None,
    max_length: int | None = None,
    title: str = "counterfactual control",
    reinjection: dict | None = None,
) -> dict:
    """What adversarial reinjection recovers of the true facts beyond what it recovers of made-up ones.

    For each of `budget.seeds` the same facts are injected on both sides, and the others scored. Each side counts as an
    attack does: with the attacker and the learning rate that are strongest on that side, at the best step of each run.
    Every true run is paired with the run of each derangement that has its seed.

    The interval (95 %, percentiles of a bootstrap) draws people where rows name two or more in `person`, else facts,
    and besides them attack seeds and derangements. The p-value is one-sided. Its null hypothesis: for no fact can the
    model tell the true answer from the made-up one, so that what is recovered of either could as well have been the
    other's. It swaps the two for a fact in all pairs at once: runs repeat a fact, they are no further evidence. People
    do not matter to it, for without knowledge facts of one person are unrelated. In simulations without knowledge (6
    people, 7 facts each, 3 x 3 pairs) 96-98 % of the intervals held zero and 1-5 % of the p-values were under 0.05:
    where some answers come more easily than others, both are cautious, for the same answers stand on both sides.

    Args:
        reinjection: the outcome of `adversarial_reinjection` of this model with the same rows, facts and budget, where
            it is known: the true side is that very attack, unless the true answers are paraphrased ones.

    Returns:
        `probability` and `exact_match`, each {excess, interval, p_value, recovered, recovered_counterfactual};
        `excess_before`: the same of the model as it is, over all facts; `pairs`: the seeds and excesses of each;
        `control`: the column of kinds, "perturbed_answer" or "all rows"; `resampled`: "person" or "fact"; `true` and
        `counterfactual` (by derangement seed): outcomes as `curves.summarize_runs` gives them, with the values of
        each row, and in `before_by_index` those before the attack.

    Raises:
        InputError: derangement seeds are missing or repeated; as `counterfactual_rows` and `relearning.split_facts`.
    """
    if not derangement_seeds or len(set(derangement_seeds)) < len(derangement_seeds):
        raise InputError(f"derangement_seeds={tuple(derangement_seeds)} must be one or more different numbers")
    datasets = {"true": true_rows(forget, group_by)}  # all of them are made, and so checked, before anything runs
    datasets |= {str(seed): counterfactual_rows(forget, seed, group_by) for seed in derangement_seeds}
    facts = facts_of(forget)
    outcomes = {}
    for name, dataset in datasets.items():
        rows = encode_dataset(dataset, processing_class, max_length, f"forget set of the control ({name})")
        before = score_answers(model, rows)
        if name == "true" and reinjection is not None and _kind_column(forget, group_by) != PERTURBED:
            outcome = reinjection
        else:
            outcome = adversarial_reinjection(model, rows, [], budget, facts, f"{title} ({name})")
        outcomes[name] = outcome | {
            "before_by_index": {
                str(i): {"probability": score.probability, "exact_match": float(score.exact_match)}
                for i, score in enumerate(before)
            }
        }

    people, alone = people_of(forget), [("fact", fact) for fact in facts]
    has_people = has_several(people)
    drawn = [own if person is None or not has_people else person for person, own in zip(people, alone, strict=True)]
    units = _numbers(list(dict(zip(facts, drawn, strict=True)).values()))

    def sides(runs_of: Callable[[dict], list[dict]]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Of each value: the true side (runs, facts) and the made-up ones (derangements, runs, facts)."""
        means = np.array([[_fact_means(run, _numbers(facts)) for run in runs_of(side)] for side in outcomes.values()])
        return {name: (means[0, ..., i], means[1:, ..., i]) for i, name in enumerate(VALUES)}

    after, before = sides(_strongest_runs), sides(lambda outcome: [outcome["before_by_index"]])
    by_pair = {name: np.nanmean(true - made_up, axis=-1).tolist() for name, (true, made_up) in after.items()}
    return {name: _excess(*arrays, units) for name, arrays in after.items()} | {
        "excess_before": {name: _excess(*arrays, units) for name, arrays in before.items()},
        "pairs": [
            {"derangement_seed": derangement, "seed": seed} | {name: by_pair[name][d][s] for name in VALUES}
            for d, derangement in enumerate(derangement_seeds)
            for s, seed in enumerate(budget.seeds)
        ],
        "control": _kind_column(forget, group_by) or "all rows",
        "resampled": "person" if has_people else "fact",
        "true": outcomes.pop("true"),
        "counterfactual": outcomes,
    }


def _kind_column(dataset: Dataset, group_by: str | None) -> str | None:
    columns = dataset.column_names
    if group_by is None:
        named = {"attribute": has_label(dataset, "attribute"), PERTURBED: PERTURBED in columns}
        return next((name for name, given in named.items() if given), None)
    if group_by not in columns:
        raise InputError(f"group_by={group_by!r} is not a column of the forget set; choose one of {', '.join(columns)}")
    return group_by


def _kinds(dataset: Dataset, column: str | None) -> list[str]:
    """What errors call the kind of question of each row."""
    if column is None:
        return ["the forget set"] * len(dataset)
    kinds = labels_of(dataset, column)
    if None in kinds:
        number = kinds.index(None)
        raise InputError(
            f"forget set row {number}: column {column!r} holds {dataset[number][column]!r}, and answers are exchanged "
            "within a kind; fill it, or give another column as group_by"
        )
    return [f"{column} {kind!r}" for kind in kinds]


def _pairs(dataset: Dataset) -> list[tuple[Prompt, str]]:
    pairs = split_rows(dataset, "forget set")
    if not pairs[0][0]:
        raise InputError("forget set: plain text has no question to give another answer to; split it into two columns")
    return pairs


def _with_answers(rows: list[dict], pairs: list[tuple[Prompt, str]], answers: list[str]) -> Dataset:
    return Dataset.from_list(
        [
            {name: row[name] for name in LABELS if name in row} | {"prompt": prompt, "completion": answer}
            for row, (prompt, _), answer in zip(rows, pairs, answers, strict=True)
        ]
    )


def _wrong_answer(row: dict, number: int, answer: str, fact: str | int, seed: int) -> str:
    wrong = sorted(set(listed(row[PERTURBED])) - {answer, row.get("paraphrased_answer")})
    if not wrong:
        raise InputError(
            f"forget set row {number}: {PERTURBED!r} holds no wrong answer; fill it, or give a column of kinds of "
            "questions as group_by, so that answers are permuted"
        )
    random.Random(str(fact)).shuffle(wrong)  # by the fact: the same whatever other rows stand around it
    return wrong[seed % len(wrong)]


def _permuted_answers(answers: list[str], facts: list[str | int], kinds: list[str], seed: int) -> list[str]:
    """The answer of each row after a derangement of the facts within each kind."""
    rows_of: dict[str | int, list[int]] = {}
    facts_of: dict[str, list[str | int]] = {}
    for i, (fact, kind) in enumerate(zip(facts, kinds, strict=True)):
        if fact not in rows_of:
            facts_of.setdefault(kind, []).append(fact)
        rows_of.setdefault(fact, []).append(i)
        if kind != (first := kinds[rows_of[fact][0]]):
            raise InputError(
                f"forget set row {i}: fact {fact!r} has {kind} here and {first} before; group by a column "
                "that all rows of a fact share, or give the rows a fact_id and a question of their own"
            )
    permuted, generator = list(answers), np.random.default_rng(seed)
    for kind, members in facts_of.items():
        own = [{answers[i].strip() for i in rows_of[fact]} for fact in members]
        for fact, giver in zip(members, _derangement(own, generator, kind), strict=True):
            given = rows_of[members[giver]]
            for i, row in enumerate(rows_of[fact]):
                permuted[row] = answers[given[i % len(given)]]  # each wording of a fact may have an answer of its own
    return permuted


def _derangement(own: list[set[str]], generator: np.random.Generator, kind: str) -> list[int]:
    """From which fact each fact gets its answers: the cheapest assignment under random costs, if there is any."""
    costs = generator.random((len(own), len(own)))
    costs[np.array([[not mine.isdisjoint(other) for other in own] for mine in own])] = np.inf
    try:
        return linear_sum_assignment(costs)[1].tolist()
    except ValueError as error:
        raise InputError(
            f"{kind}: {len(own)} facts with {len(set().union(*own))} different answers cannot be given answers that "
            "none of them had (one answer may be that of half the facts at most); forget more facts, or give as "
            f"group_by another column of kinds of questions or, where rows have it, {PERTURBED!r}"
        ) from error


def _strongest_runs(outcome: dict) -> list[dict]:
    """The row values of each seed's run, by the attacker and at the learning rate that count."""
    strongest = (outcome["attacker"], outcome["learning_rate"])
    return [run["value_by_index"] for run in outcome["runs"] if (run["attacker"], run["learning_rate"]) == strongest]


def _numbers(names: Sequence) -> np.ndarray:
    """Each name's number, in the order of first appearance."""
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([numbers[name] for name in names])


def _fact_means(values: dict[str, dict], fact_of_row: np.ndarray) -> np.ndarray:
    """(facts, VALUES): means over the rows of each fact; NaN where the run did not score it."""
    rows = fact_of_row[[int(row) for row in values]]
    counts, *sums = (
        np.bincount(rows, weights=column, minlength=fact_of_row.max() + 1)
        for column in ([1.0] * len(rows), *([value[name] for value in values.values()] for name in VALUES))
    )
    return np.stack([np.where(counts > 0, total, np.nan) / np.maximum(counts, 1) for total in sums], axis=-1)


def _excess(true: np.ndarray, made_up: np.ndarray, units: np.ndarray) -> dict:
    """Mean difference over pairs and facts, with interval and p-value.

    Args:
        true: (runs, facts), NaN where a run did not score a fact. made_up: (derangements, runs, facts).
        units: number of the person, or whatever is drawn as a whole for the interval, of each fact.
    """
    scored = np.isfinite(true - made_up)
    sides = [np.where(scored, side, 0.0) for side in np.broadcast_arrays(true, made_up)]
    recovered, recovered_counterfactual = (float(side.sum() / scored.sum()) for side in sides)

    generator = np.random.default_rng(0)
    of_unit = np.eye(units.max() + 1)[units]
    sizes = (*made_up.shape[:2], len(of_unit[0]))
    drawn = [generator.multinomial(size, np.full(size, 1 / size), RESAMPLES).astype(float) for size in sizes]
    sums, counts = (
        np.einsum("rd,rs,ru,dsu->r", *drawn, part @ of_unit, optimize=True) for part in (sides[0] - sides[1], scored)
    )
    means = sums[counts > 0] / counts[counts > 0]  # no drawn run may have scored any drawn unit, where both are few

    test = permutation_test(
        [side.sum((0, 1)) for side in sides],
        lambda true_sums, made_up_sums, axis: (true_sums - made_up_sums).sum(axis),
        permutation_type="samples",
        alternative="greater",
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=500,
        random_state=np.random.default_rng(0),  # scipy 1.15 renamed it to rng, and still knows this name
    )
    return {
        "excess": recovered - recovered_counterfactual,
        "interval": np.quantile(means, [0.025, 0.975]).tolist(),
        "p_value": float(test.pvalue),
        "recovered": recovered,
        "recovered_counterfactual": recovered_counterfactual,
    }
