"""How many rows, facts and people there are to forget, and how many of them each attack teaches and scores."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence

from llm_unlearn.arguments.attacking import AttackArguments
from llm_unlearn.attacks import load_attack
from llm_unlearn.attacks.attack import Target
from llm_unlearn.data import UnlearningData
from llm_unlearn.data.identity import facts_of, people_of
from llm_unlearn.errors import InputError

REINJECTION = "adversarial_reinjection"


def forget_words(data: UnlearningData, arguments: AttackArguments | None, pool: Sequence[int] | None = None) -> str:
    """One line: "126 rows, 42 facts, 6 people; adversarial reinjection teaches 13 facts (39 rows, 6 people), ...".

    Args:
        arguments: which attacks are run, and how; None: none.
        pool: numbers of the forget rows that take part in reinjection, where it is known; by default all.

    Raises:
        InputError: the rows are not enough for an attack, as its check has it.
    """
    facts, people = facts_of(data.forget), people_of(data.forget)
    nameless = people.count(None)
    found = [f"{_words([len(facts)], 'row')}, {_words([len(set(facts))], 'fact')}{_people_words([people])}"]
    if set(people) != {None} and nameless:
        found[0] += f", {_words([nameless], 'row')} about nobody named"
    if arguments is None:
        return found[0]
    untaught = []
    for name in arguments.attacks:
        record, words = load_attack(name), name.replace("_", " ")
        if record.taught is None:
            untaught.append(words)
        elif "pool" in record.needs and arguments.reinjection_pool == "forgotten" and pool is None:
            found.append(f"{words} teaches and scores what the unlearned model will answer wrongly")
        else:
            found.append(f"{words} {_taught_words(data, arguments, name, facts, people, pool)}")
    if arguments.counterfactual and (REINJECTION not in arguments.attacks or arguments.reinjection_pool == "forgotten"):
        with contextlib.suppress(InputError):  # for which the control alone is left out; results tell why
            found.append(f"the control {_taught_words(data, arguments, REINJECTION, facts, people, None)}")
    if untaught:
        found.append(f"{', '.join(untaught)}: no forget row is taught, all are scored")
    return "; ".join(found)


def _taught_words(
    data: UnlearningData,
    arguments: AttackArguments,
    attack: str,
    facts: Sequence[str | int],
    people: Sequence[str | None],
    pool: Sequence[int] | None,
) -> str:
    record = load_attack(attack)
    column = arguments.leave_out_column if "groups" in record.needs else None
    taught = record.taught(Target(None, None, data, arguments.budget(attack), pool=pool, group_column=column))
    sides = [
        f"{verb} {_words((len({facts[i] for i in rows}) for rows in runs), 'fact')} ({_words(map(len, runs), 'row')}"
        f"{_people_words([[people[i] for i in rows] for rows in runs])})"
        for verb, runs in zip(("teaches", "scores"), zip(*taught, strict=True), strict=True)
    ]
    return ", ".join(sides)


def _people_words(runs: Sequence[Sequence[str | None]]) -> str:
    """ ", 6 people"; nothing where no row of any run names somebody."""
    counts = [len(set(people) - {None}) for people in runs]
    return f", {_words(counts, 'person', 'people')}" if any(counts) else ""


def _words(counts: Iterable[int], one: str, many: str | None = None) -> str:
    """The number of something, or the least and the greatest where runs differ: "13 facts", "5-6 people"."""
    different = sorted({*counts})
    number = "-".join(map(str, dict.fromkeys((different[0], different[-1]))))
    return f"{number} {one if number == '1' else many or f'{one}s'}"
