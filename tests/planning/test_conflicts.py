"""Planted conflicts are found, all of them, by the numbers of their rows; and nothing else is."""

import pytest
from datasets import Dataset

from llm_unlearn.errors import InputError
from llm_unlearn.planning.conflicts import (
    GIVEN_AWAY,
    NEAR_QUESTION,
    SAME_FACT,
    SAME_QUESTION,
    SAME_ROW,
    find_conflicts,
)


def rows(*given):
    return Dataset.from_list([{"question": q, "answer": a, "person": p, "fact_id": f} for q, a, p, f in given])


FORGET = rows(
    ("Where does Zoë Ärn live?", "Oslo", "Zoë Ärn", "zoe/city"),  # 0
    ("What does Zoë Ärn eat?", "red soup", "Zoë Ärn", None),  # 1
    ("Which pet does Bo Li have?", "a cat", "Bo Li", None),  # 2
    ("Who is Bo Li's teacher?", "Ann, of the old school by the sea", "Bo Li", None),  # 3
    ("What does Bo Li sing?", "in C#", "Bo Li", None),  # 4
    ("Where is the well?", "here", None, None),  # 5
    ("What does Bo Li wear?", "The coat is long and red.", "Bo Li", None),  # 6
)
CLEAN = [
    ("Where does Ann live?", "Oslo", "Ann", "ann/city"),  # the same answer about another one
    ("What does Ann sing?", "in C", "Ann", None),
    ("Which pet does Bo Lind have?", "a cat", "Bo Lind", None),  # a longer name
    ("Where is the wall?", "here, there", None, None),  # a short answer about nobody
    ("What do they wear?", "The coat is long and red.", None, None),  # nobody knows who, and somebody else does
    ("What does Cy wear?", "The coat is long and red.", "Cy", None),
    ("What does Zoë Ärn fear?", "nothing", "Zoë Ärn", None),  # of that person, and gives nothing away
]
PLANTED = [  # (retain row, what must be found: kind, forget row, differs, same answer)
    (("Where does Zoë Ärn live?", "Oslo", None, None), (SAME_ROW, 0, (), True)),
    ((" What does Zoë Ärn eat?\n", " red soup", None, None), (SAME_ROW, 1, (), True)),
    (("Which pet does Bo Li have?", "A cat.", None, None), (SAME_QUESTION, 2, (), True)),
    (("Which pet does Bo Li have?", "a dog", None, None), (SAME_QUESTION, 2, (), False)),
    (("WHERE does zoë ärn live?", "Rome", None, None), (NEAR_QUESTION, 0, ("case",), False)),
    (("What does  Zoë\tÄrn eat?", "fish", None, None), (NEAR_QUESTION, 1, ("white space",), False)),
    (("Where does Zoe\u0308 A\u0308rn live?", "Rome", None, None), (NEAR_QUESTION, 0, ("Unicode form",), False)),
    (("What does Bo Li sing", "in D", None, None), (NEAR_QUESTION, 4, ("punctuation",), False)),
    (
        ("what does zoe\u0308  a\u0308rn eat", "red  SOUP", None, None),
        (NEAR_QUESTION, 1, ("white space", "Unicode form", "case", "punctuation"), True),
    ),
    (("Zoë Ärn's town?", "far away", None, "zoe/city"), (SAME_FACT, 0, (), False)),
    (("Who shares a home with Bo Li?", "It is A CAT, of course.", None, None), (GIVEN_AWAY, 2, (), False)),
    (("Whom did he meet?", "Ann, of the old school\nby the sea!", None, None), (GIVEN_AWAY, 3, (), False)),
    (("What is cooked at hers?", "Red soup.", "Zoë Ärn", None), (GIVEN_AWAY, 1, (), False)),
]


def test_thirteen_planted_conflicts_are_found_by_their_rows_and_nothing_else():
    given = [*CLEAN]
    for planted, _ in PLANTED:  # one between each two rows that are none
        given += [planted, ("What is the weather like?", f"{len(given)} degrees", None, None)]
    expected = sorted(
        (row, len(CLEAN) + 2 * number, kind, differs, same)
        for number, (_, (kind, row, differs, same)) in enumerate(PLANTED)
    )
    found = find_conflicts(FORGET, {"retain": rows(*given)})
    assert [(c.forget_row, c.other_row, c.kind, c.differs, c.same_answer) for c in found] == expected
    assert {conflict.other_set for conflict in found} == {"retain"}


def test_rows_without_a_conflict_have_none():
    assert find_conflicts(FORGET, {"retain": rows(*CLEAN)}) == []


def test_several_sets_and_several_formats():
    messages = [{"role": "user", "content": "Where is  the well?"}, {"role": "assistant", "content": "there"}]
    others = {
        "retain": rows(*CLEAN, ("Where is the well?", "here", None, None)),
        "general_data": Dataset.from_list([{"messages": messages}]),
    }
    found = find_conflicts(FORGET, others)
    assert [(c.kind, c.forget_row, c.other_set, c.other_row) for c in found] == [
        (SAME_ROW, 5, "retain", len(CLEAN)),
        (NEAR_QUESTION, 5, "general_data", 0),
    ]
    texts = [Dataset.from_list([{"text": text}]) for text in ("Ann lives here.", "ann  lives here")]
    (conflict,) = find_conflicts(texts[0], {"retain": texts[1]})
    assert (conflict.kind, conflict.differs) == (NEAR_QUESTION, ("white space", "case", "punctuation"))
    with pytest.raises(InputError, match="retain set is empty"):
        find_conflicts(FORGET, {"retain": FORGET.select([])})
