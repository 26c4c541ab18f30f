"""What a verdict on these rows could not say, and what is missing for that; known before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from llm_unlearn.data import QUERY_STYLES, UnlearningData, forget_queries
from llm_unlearn.data.identity import has_several, people_of
from llm_unlearn.data.made_up import MADE_UP, with_made_up_answers
from llm_unlearn.examining.abilities import STYLE_WORDS


class Gap(NamedTuple):
    """Something that is missing, what cannot be judged without it, and how to get it."""

    missing: str
    effect: str
    fix: str


def find_gaps(data: UnlearningData, kinds: str | None, oracles: Sequence[str]) -> list[Gap]:
    """All gaps, the gravest first.

    Args:
        kinds: the column that says which answers are of a kind; None: there is none.
    """
    people = people_of(data.forget)
    nameless = sum(person is None for person in people)
    found = []
    if data.retain is None:
        found.append(
            Gap("retain rows", "nothing protects what is to be kept, and no price is known", "give --retain_file")
        )
    if not oracles:
        found.append(
            Gap(
                "oracle",
                "what a model that never saw the rows would say is unknown: knowledge is compared with 0.5, answer "
                "probability with nothing",
                "train one without the forget rows (llm-unlearn run train_references), and name it with "
                "--oracle_model_name_or_path",
            )
        )
    found += _made_up_gap(data, kinds)
    if not has_several(people):
        found.append(
            Gap(
                "person column",
                "no two people: intervals draw rows in place of people, and groups are of facts",
                "name in a column 'person' whom each row is about, and forget two people or more",
            )
        )
    elif nameless:
        found.append(
            Gap(
                f"person of {nameless} of {len(people)} forget rows",
                "each is a unit of its own, as if it were about nobody else",
                "fill the column 'person'",
            )
        )
    if data.general is None:
        found.append(
            Gap("general rows", "training protects no ability beyond the retain rows", "give --general_data FILE")
        )
    if not data.evaluation.keys() & {"general", "real_authors", "world_facts", "general_data"}:
        found.append(
            Gap("rows of general facts", "whether other knowledge suffers is not measured", "give --general_file FILE")
        )
    if "chat" not in data.evaluation:
        found.append(
            Gap(
                "rows of instructions",
                "whether following instructions suffers is measured on made-up ones, if at all",
                "the attack benign_relearning brings its own (--benign_data)",
            )
        )
    if data.holdout is None:
        found.append(
            Gap(
                "holdout rows",
                "membership inference has no rows that no model was trained on",
                "TOFU and the fictional worlds have them",
            )
        )
    asked = forget_queries(data)
    if unasked := [style for style in QUERY_STYLES if style not in asked]:
        found.append(
            Gap(
                f"questions {', '.join(STYLE_WORDS[style] for style in unasked)}",
                "who knows the facts in these ways only passes for one who forgot them",
                "'paraphrased_question', 'paraphrased_answer' and 'perturbed_answer' give the first of them",
            )
        )
    return found


def _made_up_gap(data: UnlearningData, kinds: str | None) -> list[Gap]:
    """Rows whose answer can be compared with no other one."""
    rows, fix = data.forget, "a column 'kind' (or 'attribute') that several forgotten facts share"
    without = len(rows)
    if kinds is not None:
        without = sum(not answers for answers in with_made_up_answers(rows, kinds)[MADE_UP])
    if not without:
        return []
    if without == len(rows):
        what = "kind column" if kinds is None else f"two facts of one kind (column {kinds!r})"
        return [Gap(what, "no made-up answers: probability is judged, which confuses knowledge with confidence", fix)]
    return [Gap(f"made-up answers of {without} of {len(rows)} forget rows", "knowledge is judged by the others", fix)]
