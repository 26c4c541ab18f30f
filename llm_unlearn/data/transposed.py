"""Questions that general rows ask about retained people, asked about the forgotten ones.

General rows show in which further ways a model was taught to be asked about somebody: in reverse, through a second
fact, with options, about what no forget row says. Whoever forgets the forget rows' questions alone leaves these as they
were. No template is needed: the questions are there.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from llm_unlearn.data.formats import Prompt
from llm_unlearn.data.identity import question_key

if TYPE_CHECKING:
    from llm_unlearn.data.forms import Fact, Facts

TRANSPOSED = "transposed"


def transposed_rows(
    forgotten: Sequence[Fact],
    retained: Sequence[Fact],
    everybody: Facts,
    general: Sequence[tuple[Prompt, str]],
    asked: Collection[tuple],
) -> list[dict[str, Any]]:
    """General rows' questions about one retained person, asked about each forgotten one; and, where a retained person
    is the answer to what that one alone has, about what each forgotten one alone has of the kind.

    Every wording (the first line, without the name or value) is asked once of each.

    Args:
        everybody: owners of values, and all people.
        general: prompts and answers; those with several turns are left out.
        asked: keys of questions that must not be trained so.

    Returns:
        Rows as `Forms.forget` has them. The answer is the general row's, told of the forgotten person: of what is no
        forget row's it need not be true. `candidates` are the answers that the wording has in all general rows or,
        where the person is the answer, that with everybody's name.
    """
    facts_of, people = defaultdict(list), list(dict.fromkeys(fact.person for fact in forgotten))
    for fact in retained:
        facts_of[fact.person].append(fact)
    names, found, answers = _any_of(facts_of), {}, defaultdict(dict)

    def alone(fact: Fact) -> bool:
        return len(everybody.owners[fact.attribute, fact.value]) == 1

    for prompt, answer in general:
        if len(prompt or ()) != 1:
            continue
        question = prompt[0]["content"]
        said = {*names.findall(question)}
        if len(said) == 1:
            (name,) = said
            wording = _exchanged(question, name, "...").split("\n")[0]
            asking = [(one, None, _exchanged(question, name, one), _exchanged(answer, name, one)) for one in people]
        else:
            told = [] if said else [fact for name in {*names.findall(answer)} for fact in facts_of[name] if alone(fact)]
            holding = [fact for fact in told if _any_of([fact.value]).search(question)]
            if len(holding) != 1:
                continue
            (own,) = holding
            wording = _exchanged(question, own.value, "...").split("\n")[0]
            alike = [fact for fact in forgotten if fact.attribute == own.attribute and alone(fact)]
            asking = [
                (
                    fact.person,
                    fact,
                    _exchanged(question, own.value, fact.value),
                    _exchanged(answer, own.person, fact.person),
                )
                for fact in alike
            ]
        for person, fact, new_question, new_answer in asking:
            answers[wording, person].setdefault(new_answer)
            key = question_key([{"role": "user", "content": new_question}], new_answer)
            if key in asked or (wording, person) in found:
                continue
            labels = {"value": fact.value, "fact_id": fact.row.get("fact_id")} if fact else {"value": None}
            if fact:  # who else could be meant
                answers[wording, person] = {_exchanged(new_answer, person, one): None for one in everybody.people}
            found[wording, person] = {
                "question": new_question,
                "answer": new_answer,
                "person": person,
                "attribute": f"{wording} ({TRANSPOSED})",
                "fact_id": f"{person}/{wording}",
                **labels,
            }
    return [row | {"candidates": [*answers[key]]} for key, row in found.items()]


def _exchanged(text: str, old: str, new: str) -> str:
    return _any_of([old]).sub(lambda _found: new, text)


def _any_of(texts: Iterable[str]) -> re.Pattern[str]:
    """Finds any of the texts, the longest first, and not in a longer word."""
    alternatives = "|".join(map(re.escape, sorted(texts, key=len, reverse=True)))
    return re.compile(rf"(?<!\w)(?:{alternatives})(?!\w)")
