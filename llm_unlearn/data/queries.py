"""The facts of the forget set asked in other ways, and the retained facts that lie nearest to them.

A method that forgets only the question it was given still answers these. The rows only judge: none of them is ever in a
forget or retain set. A *neighbor* is a retained fact that a careless method forgets along with its target.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping, Sequence
from math import log, sqrt
from typing import Any

from datasets import Dataset

from llm_unlearn.data.formats import Message, Prompt, Row, listed, question_text, row_format, rows_at_once, split_row
from llm_unlearn.data.forms import multiple_choice_question, untrained
from llm_unlearn.data.identity import facts_of, label, labels_of, people_of, question_key
from llm_unlearn.data.unlearning_data import UnlearningData

QUERY_STYLES = ("verbatim", "paraphrased", "prefix", "few_shot", "multiple_choice", "reversed", "two_hop", "cloze")
LABELS = ("fact_id", "person", "attribute", "kind")  # what a query row keeps of its forget row, where that has it
FEW_SHOT_EXAMPLES = 3
MOST_NEIGHBORS = 100  # enough for a standard error of 0.05, and little beside the forget set's own evaluation
MOST_RETAINED = 105  # retained facts that are asked in every style

Numbered = tuple[int, Row, Prompt, str]  # a row with its number in the data set, its prompt and its answer


def forget_queries(data: UnlearningData) -> dict[str, Dataset]:
    """The forget facts asked in every way (`QUERY_STYLES`, in that order) that the data can support.

    `verbatim` holds every forget row. The other styles ask each fact once, in the wording of its first row: a fact with
    three questions would weigh three times. Which rows are of one fact, `identity.facts_of` says.

    - paraphrased: `paraphrased_question` with the answer as it is.
    - prefix: the first half of the answer's words is given and the rest has to follow; answers of one word have none.
    - few_shot: after three questions and answers about other people, drawn from the retain set by the row's content;
      they ask for the same attribute where rows have one.
    - multiple_choice: as the loader gives them, or else `paraphrased_answer` (`answer` where there is none) among two
      of `perturbed_answer`, which in TOFU have the form of the paraphrased answer.
    - reversed, two_hop, cloze: as the loader gives them; only fictional worlds have them.

    Returns:
        Rows with `question` and `answer`, or, for prefix and few_shot, `prompt` (chat messages; for prefix the last one
        is the beginning of the assistant's answer) and `completion`. All have `row` (the number of the forget row they
        come from) and, where that has them, `fact_id`, `person` and `attribute`; multiple_choice also has `options`. A
        style without rows is absent, as is everything but verbatim for plain text, which asks nothing.
    """
    facts = [fact for fact in _first_of_each_fact(data.forget) if fact[2]]
    verbatim = with_column(data.forget, "row", list(range(len(data.forget))))
    others = _facts_of_others(data)
    return {"verbatim": verbatim, **_untrained(_asked_otherwise(facts, data.forget, others, data.queries), data)}


def retained_queries(data: UnlearningData, most: int = MOST_RETAINED) -> dict[str, Dataset]:
    """Retained facts in the styles and wordings of `forget_queries`: what is lost here was no forgetting.

    They are about `data.judged_people` where the data names those (no training row asks about them in other ways than
    the retain rows do), else about anybody; of TOFU, `retain_perturbed` where it is there, whose rows have more styles.

    Args:
        most: facts that are asked, spread evenly; of a style that the loader gives, so many rows at most.

    Returns:
        As `forget_queries`, with `row` counted in the set that they come from; {} without retained questions.
    """
    source = data.evaluation.get("retain_perturbed", data.retain)
    facts = [] if source is None else [fact for fact in _first_of_each_fact(source) if fact[2]]
    if data.judged_people is not None:
        facts = [fact for fact in facts if label(fact[1], "person") in data.judged_people]
    if not facts:
        return {}
    chosen = [facts[i] for i in spread(list(range(len(facts))), most)]
    fact_of_row = facts_of(source)
    wanted = {fact_of_row[number] for number, *_ in chosen}
    rows = [number for number, fact in enumerate(fact_of_row) if fact in wanted]
    given = {style: rows.select(spread(list(range(len(rows))), most)) for style, rows in data.retain_queries.items()}
    verbatim = with_column(source.select(rows), "row", rows)
    return {"verbatim": verbatim, **_untrained(_asked_otherwise(chosen, source, _facts_of_others(data), given), data)}


def _untrained(queries: dict[str, Dataset], data: UnlearningData) -> dict[str, Dataset]:
    """Without what is trained in the same form: that would be no test of what carries over."""
    if data.forms is None:
        return queries
    left = {style: untrained(rows, style, data.forms.trained) for style, rows in queries.items()}
    return {style: rows for style, rows in left.items() if len(rows)}


def _asked_otherwise(
    facts: Sequence[Numbered], source: Dataset, examples: Sequence[Numbered], given: Mapping[str, Dataset]
) -> dict[str, Dataset]:
    """Every style but verbatim of `facts`, or as it is `given`: then about any fact of the `source`."""
    built = {
        "paraphrased": map(_paraphrased, facts),
        "prefix": map(_prefix, facts),
        "few_shot": (_few_shot(fact, examples) for fact in facts) if examples else (),
        "multiple_choice": map(_multiple_choice, facts),
    }
    queries = {}
    labels = labels_of(source, "fact_id")
    first_rows = {name: number for number, name in reversed([*enumerate(labels)]) if name is not None}
    for style in QUERY_STYLES[1:]:
        if style in given:
            found = [{**query, "row": first_rows[label(query, "fact_id")]} for query in rows_at_once(given[style])]
        else:
            found = [query for query in built.get(style, ()) if query is not None]
        if found:
            queries[style] = Dataset.from_list(found)
    return queries


def neighbor_facts(data: UnlearningData) -> dict[str, Dataset]:
    """Retained facts nearest to the forgotten ones: they count as retain, and they are the first to suffer.

    Returns:
        Where rows have `attribute` and `value` (the fictional world): `same_template`, what is asked of the forgotten
        people asked of others, and `same_value`, facts of others who share a forgotten value. Elsewhere, as in TOFU:
        `nearest_question`, the retained question most alike in its words to each forget question. Rows are the retain
        set's own, one per fact, at most `MOST_NEIGHBORS`, spread evenly; a kind without rows is absent.
    """
    others = _facts_of_others(data)
    forgotten = [row for row in _numbered(data.forget) if row[2]]
    if not others or not forgotten:
        return {}
    values = {_value(fact) for fact in forgotten} - {None}
    if values and any(map(_value, others)):
        # Sorted, so that an even choice is one over attributes and values too.
        others = sorted(filter(_value, others), key=_value)
        attributes = {attribute for attribute, _ in values}
        found = {
            "same_template": [fact[0] for fact in others if _value(fact)[0] in attributes],
            "same_value": [fact[0] for fact in others if _value(fact) in values],
        }
    else:
        found = {"nearest_question": _nearest_questions(forgotten, others)}
    return {name: data.retain.select(spread(numbers, MOST_NEIGHBORS)) for name, numbers in found.items() if numbers}


def few_shot_prompt(examples: Iterable[tuple[str, str]], question: str) -> list[Message]:
    """A question after other questions and their answers, as chat turns."""
    turns = [message for pair in examples for message in zip(("user", "assistant"), pair, strict=True)]
    return [{"role": role, "content": content} for role, content in (*turns, ("user", question))]


def _numbered(dataset: Dataset) -> list[Numbered]:
    form = row_format(dataset.column_names)
    return [(number, row, *split_row(row, form)) for number, row in enumerate(rows_at_once(dataset))]


def _first_of_each_fact(dataset: Dataset) -> list[Numbered]:
    """A question that is asked about two people (TOFU has one) is asked about each."""
    first: dict[tuple, Numbered] = {}
    for row, *whose in zip(_numbered(dataset), facts_of(dataset), people_of(dataset), strict=True):
        first.setdefault(tuple(whose), row)
    return list(first.values())


def _value(fact: Numbered) -> tuple[Any, Any] | None:
    """What a row says about somebody, as (attribute, value); None where it does not tell."""
    attribute, value = label(fact[1], "attribute"), label(fact[1], "value")
    return None if attribute is None or value is None else (attribute, value)


def _facts_of_others(data: UnlearningData) -> list[Numbered]:
    """One row of every retained fact that is about nobody in the forget set, as far as rows say whom they are about."""
    if data.retain is None:
        return []
    forgotten = set(people_of(data.forget)) - {None}
    return [fact for fact in _first_of_each_fact(data.retain) if fact[2] and label(fact[1], "person") not in forgotten]


def _labels(number: int, row: Row) -> dict[str, Any]:
    return {name: row[name] for name in LABELS if name in row} | {"row": number}


def _paraphrased(fact: Numbered) -> dict[str, Any] | None:
    number, row, _, answer = fact
    if not row.get("paraphrased_question"):
        return None
    return {"question": row["paraphrased_question"], "answer": answer, **_labels(number, row)}


def _prefix(fact: Numbered) -> dict[str, Any] | None:
    number, row, prompt, answer = fact
    words = list(re.finditer(r"\S+", answer.strip()))
    if len(words) < 2:
        return None
    end = words[len(words) // 2 - 1].end()
    begun = [*prompt, {"role": "assistant", "content": answer.strip()[:end]}]
    return {"prompt": begun, "completion": answer.strip()[end:], **_labels(number, row)}


def _few_shot(fact: Numbered, others: Sequence[Numbered]) -> dict[str, Any] | None:
    number, row, prompt, answer = fact
    question, asked = question_text(prompt), question_key(prompt, answer)
    others = [other for other in others if other[0] != number or other[1] != row]
    person, attribute = label(row, "person"), label(row, "attribute")
    if person is not None:
        others = [other for other in others if label(other[1], "person") != person]

    def draw(examples: Sequence[Numbered]) -> list[Numbered]:
        alike = [
            example for example in examples if attribute is not None and label(example[1], "attribute") == attribute
        ]
        alike = alike or examples
        return _generator("few_shot", question, answer).sample(alike, min(FEW_SHOT_EXAMPLES, len(alike)))

    drawn = draw(others)
    if any(question_key(*example[2:]) == asked for example in drawn):  # which would give an answer to it
        drawn = draw([other for other in others if question_key(*other[2:]) != asked])
    if not drawn:
        return None
    examples = [(question_text(example), its_answer) for _, _, example, its_answer in drawn]
    return {"prompt": few_shot_prompt(examples, question), "completion": answer, **_labels(number, row)}


def _multiple_choice(fact: Numbered) -> dict[str, Any] | None:
    number, row, prompt, answer = fact
    answer = row.get("paraphrased_answer") or answer
    wrong = sorted(set(listed(row.get("perturbed_answer"))) - {answer})
    if len(wrong) < 2:
        return None
    question = question_text(prompt)
    generator = _generator("multiple_choice", question, answer)
    options = [answer, *generator.sample(wrong, 2)]
    generator.shuffle(options)
    asked = multiple_choice_question(question, options)
    return {"question": asked, "answer": answer, "options": options, **_labels(number, row)}


def _generator(*content: str) -> random.Random:
    """Seeded by what the row says: the same whatever other rows stand around it."""
    return random.Random("\n".join(content))


def _nearest_questions(forgotten: Sequence[Numbered], others: Sequence[Numbered]) -> list[int]:
    """Row numbers of the retained question nearest to each forget question: by cosine of words, rare ones weigh more.

    Names have no say: a forgotten one does not occur in the retain set.
    """

    def words(fact: Numbered) -> set[str]:
        return set(re.findall(r"\w+", question_text(fact[2]).lower()))

    retained = [words(fact) for fact in others]
    where: dict[str, list[int]] = {}
    for i, question in enumerate(retained):
        for word in question:
            where.setdefault(word, []).append(i)
    weights = {word: log((1 + len(retained)) / len(found)) for word, found in where.items()}
    lengths = [sqrt(sum(weights[word] for word in sorted(question))) for question in retained]
    nearest: dict[int, None] = {}  # an ordered set
    for fact in forgotten:
        shared = [0.0] * len(retained)
        for word in sorted(words(fact) & where.keys()):
            for i in where[word]:
                shared[i] += weights[word]
        best = max(range(len(retained)), key=lambda i, shared=shared: shared[i] / max(lengths[i], 1e-9))
        if shared[best] > 0:
            nearest[others[best][0]] = None
    return list(nearest)


def with_column(rows: Dataset, name: str, values: list) -> Dataset:
    """The rows with one more column; `add_column` shows a progress bar where rows were selected before."""
    return Dataset.from_dict(rows.to_dict() | {name: values})


def spread(numbers: list[int], most: int) -> list[int]:
    """All of the numbers, or `most` of them, evenly spread."""
    count = min(most, len(numbers))
    return [numbers[i * len(numbers) // count] for i in range(count)]
