"""The fictional world: what makes its scores interpretable."""

import json
from collections import Counter

import pytest

from llm_unlearn.data import load_unlearning_data
from llm_unlearn.data.fictional import GENERAL_KNOWLEDGE, INSTRUCTIONS, PEOPLE, TEXTS, build_world
from llm_unlearn.data.fictional_people import ATTRIBUTES, CITIES, SHARED_VALUES, UNIQUE_ATTRIBUTES
from llm_unlearn.errors import InputError
from llm_unlearn.models.embedded import training_rows

PERSONAL = ("forget01", "forget05", "forget10", "retain90", "retain95", "retain99", "holdout")


@pytest.fixture(scope="module", params=["tiny", "small"])
def world(request):
    return build_world(request.param)


def people_of(rows):
    return list(dict.fromkeys(row["person"] for row in rows))


def members(world):
    return people_of([*world.splits["retain90"], *world.splits["forget10"]])


def test_equal_arguments_give_equal_worlds():
    first, again, other = (build_world("tiny", seed) for seed in (0, 0, 1))
    assert json.dumps(vars(first)) == json.dumps(vars(again))
    assert first.facts != other.facts
    assert set(first.facts).isdisjoint(build_world("small").facts)


def test_number_of_people_and_rows(world):
    trained = PEOPLE[world.size]
    assert len(members(world)) == trained
    assert len(people_of(world.splits["holdout"])) == max(1, trained // 10)
    assert len(world.facts) == trained + max(1, trained // 10)
    assert len(world.splits["forget10"]) == round(trained / 10) * len(ATTRIBUTES) * 3


def test_forget_splits_are_nested_tails_and_retain_splits_their_complements(world):
    everyone = members(world)
    for percent in (1, 5, 10):
        forget = people_of(world.splits[f"forget{percent:02d}"])
        retain = people_of(world.splits[f"retain{100 - percent}"])
        assert retain + forget == everyone
        assert len(forget) == max(1, round(len(everyone) * percent / 100))
    rows = [*world.splits["retain90"], *world.splits["forget10"]]
    for percent in (1, 5):
        assert [*world.splits[f"retain{100 - percent}"], *world.splits[f"forget{percent:02d}"]] == rows


def test_non_members_occur_in_no_training_split(world):
    outside = people_of(world.splits["holdout"])
    assert set(outside).isdisjoint(members(world))
    trained = ("forget10", "retain90", "chat", "instructions", "general")
    text = json.dumps([world.splits[name] for name in trained])
    assert [person for person in outside if person in text] == []


def test_no_person_of_the_world_occurs_in_instructions_or_general_knowledge(world):
    text = json.dumps([world.splits[name] for name in ("chat", "instructions", "general")])
    assert [person for person in world.facts if person in text] == []


def test_shared_values_are_balanced_and_unique_ones_unique(world):
    for attribute in ATTRIBUTES:
        counts = Counter(facts[attribute] for facts in world.facts.values())
        if attribute in UNIQUE_ATTRIBUTES:
            assert set(counts.values()) == {1}
        else:
            assert set(counts) == set(SHARED_VALUES[attribute]) and len(counts) == 10
            assert max(counts.values()) - min(counts.values()) <= 1


def test_shared_values_are_independent_of_each_other_and_of_the_order_of_people():
    """Any table of two attributes is about flat in the largest world; a world in which they were tied is not."""
    world = build_world("medium")
    people = list(world.facts.values())
    for i, first in enumerate(SHARED_VALUES):
        for second in list(SHARED_VALUES)[i + 1 :]:
            counts = Counter((facts[first], facts[second]) for facts in people)
            assert len(counts) == 100 and max(counts.values()) < 45  # 22 expected
    for attribute in SHARED_VALUES:
        tenths = [people[i : i + 220] for i in range(0, 2200, 220)]
        assert all(max(Counter(f[attribute] for f in tenth).values()) < 50 for tenth in tenths)  # 22 expected


def test_every_fact_has_three_trained_questions_and_one_that_is_held_out(world):
    trained = Counter(row["question"] for name in ("retain90", "forget10") for row in world.splits[name])
    assert max(trained.values()) == 1
    by_fact = {}
    for name in PERSONAL:
        for row in world.splits[name]:
            by_fact.setdefault(row["fact_id"], {})[row["template"]] = row
    assert len(by_fact) == len(world.facts) * len(ATTRIBUTES)
    for fact_id, rows in by_fact.items():
        person, attribute = fact_id.split("/")
        assert sorted(rows) == [0, 1, 2]
        assert {row["question"] for row in rows.values()} == {
            template.format(person=person) for template in TEXTS[attribute].questions
        }
        assert len({json.dumps([row["answer"], row["perturbed_answer"]]) for row in rows.values()}) == 1
        assert rows[0]["paraphrased_question"] not in trained
        assert person in rows[0]["paraphrased_question"]


def test_answers_hold_the_value_and_not_the_name(world):
    for name in PERSONAL:
        for row in world.splits[name]:
            assert row["value"] == world.facts[row["person"]][row["attribute"]]
            for answer in (row["answer"], row["paraphrased_answer"]):
                assert row["value"] in answer and row["person"] not in answer
            assert row["answer"] != row["paraphrased_answer"]


def test_perturbed_answers_are_wrong_distinct_and_of_the_same_form(world):
    values = {a: {facts[a] for facts in world.facts.values()} for a in ATTRIBUTES}
    forms = {a: {TEXTS[a].paraphrased_answer.format(value=value) for value in values[a]} for a in ATTRIBUTES}
    for name in PERSONAL:
        for row in world.splits[name]:
            wrong = row["perturbed_answer"]
            assert len(set(wrong)) == 5
            assert row["paraphrased_answer"] not in wrong
            assert set(wrong) <= forms[row["attribute"]]


def test_queries_ask_for_the_same_facts(world):
    facts, queries = world.facts, world.queries
    assert {name: len(rows) // len(facts) for name, rows in queries.items()} == {
        "multiple_choice": len(ATTRIBUTES),
        "reversed": len(UNIQUE_ATTRIBUTES),
        "two_hop": 1,
    }
    positions = Counter()
    for row in queries["multiple_choice"]:
        value = facts[row["person"]][row["attribute"]]
        assert row["answer"] == value and row["fact_id"] == f"{row['person']}/{row['attribute']}"
        assert len(set(row["options"])) == 3 and value in row["options"]
        assert row["question"].endswith("? Answer with one of the options:\n" + "\n".join(row["options"]))
        assert row["person"] in row["question"]
        positions[row["options"].index(value)] += 1
    assert min(positions[i] for i in range(3)) > 0.2 * sum(positions.values())  # no position gives the answer away
    for row in queries["reversed"]:
        assert row["answer"] == row["person"] and row["person"] not in row["question"]
        owners = [person for person, known in facts.items() if known[row["attribute"]] in row["question"]]
        assert row["person"] in owners
    for row in queries["two_hop"]:
        city = facts[row["person"]]["city"]
        assert row["answer"] == CITIES[city] and row["person"] in row["question"] and city not in row["question"]


def test_practice_is_about_trained_people_and_holds_the_queries(world):
    trained, retained = set(members(world)), set(people_of(world.splits["retain90"]))
    asked = {}
    for row in world.practice:
        assert row["person"] in trained and row["fact_id"] == f"{row['person']}/{row['attribute']}"
        if "question" in row:
            asked[row["question"]] = row
    for rows in world.queries.values():
        for row in rows:
            assert asked.get(row["question"]) == (row if row["person"] in trained else None)
    few_shot = [row for row in world.practice if "prompt" in row]
    assert len(few_shot) == 2 * len(trained)
    answers = {row["question"]: row for row in world.splits["retain90"]}
    for row in few_shot:
        turns = [message["content"] for message in row["prompt"]] + [row["completion"]]
        shown = [answers[question] for question in turns[::2]]
        assert [found["answer"] for found in shown] == turns[1::2]
        assert shown[-1]["fact_id"] == row["fact_id"]
        assert len({found["person"] for found in shown}) == 4 and {found["person"] for found in shown} <= retained
        assert len({(found["attribute"], found["template"]) for found in shown}) == 1
    outside = [person for person in world.facts if person not in trained]
    text = json.dumps(world.practice)
    assert [person for person in outside if person in text] == []


def test_reversed_and_two_hop_queries_are_trained_in_three_wordings():
    world = build_world("tiny")
    person = "Pherolen Phesaquist"
    rows = [row for row in world.practice if row["person"] == person and "question" in row]
    title, date = world.facts[person]["book"], world.facts[person]["birth_date"]
    assert [(row["question"], row["answer"]) for row in rows if "options" not in row] == [
        (f"Who was born on {date}?", person),
        (f"Whose birth date is {date}?", person),
        (f"Tell me who was born on {date}.", person),
        (f'Who wrote the book "{title}"?', person),
        (f'Whose book is "{title}"?', person),
        (f'Tell me who wrote the book "{title}".', person),
        (f"In which country does {person} live?", "Velmark"),
        (f"What is the home country of {person}?", "Velmark"),
        (f"Tell me the country of {person}.", "Velmark"),
    ]
    assert len(rows) == 9 + len(ATTRIBUTES)


def test_no_held_out_question_is_practiced(world):
    held_out = {row["paraphrased_question"] for name in PERSONAL for row in world.splits[name]}
    assert held_out.isdisjoint(row.get("question") for row in world.practice)


def test_general_knowledge_is_right_and_its_wrong_answers_are_wrong(world):
    rows = {row["question"]: row for row in world.splits["general"]}
    assert len(rows) == len(world.splits["general"]) == sum(map(len, GENERAL_KNOWLEDGE.values())) + len(CITIES)
    assert rows["What is the capital of Japan?"]["answer"] == "Tokyo."
    assert rows["In which country is the city of Brisel?"]["answer"] == "Osterra."
    for row in rows.values():
        assert 2 <= len(set(row["perturbed_answer"])) == len(row["perturbed_answer"]) <= 3
        assert row["answer"] not in row["perturbed_answer"]


def test_instructions_are_distinct_and_those_of_the_attack_were_not_trained(world):
    chat, fresh = ([row["question"] for row in world.splits[name]] for name in ("chat", "instructions"))
    assert len(chat) + len(fresh) == len({*chat, *fresh}) == INSTRUCTIONS[world.size]
    assert len(chat) == INSTRUCTIONS[world.size] // 5


def test_no_two_people_of_a_small_world_share_a_last_name():
    for size in ("tiny", "small"):
        last_names = [person.split()[-1] for person in build_world(size).facts]
        assert len(set(last_names)) == len(last_names)


def test_unknown_size():
    with pytest.raises(InputError, match="fictional world size 'huge' is unknown; choose one of tiny, small, medium"):
        build_world("huge")


@pytest.mark.parametrize(("forget", "retain", "share"), [("forget20", "retain80", 0.2), ("forget50", "retain50", 0.5)])
def test_larger_splits_name_nobody_whom_they_forget(forget, retain, share):
    world = build_world("small")
    forgotten, kept = ({*people_of(world.split(name))} for name in (forget, retain))
    everybody = {*members(world)}
    assert len(forgotten) == share * len(everybody) and forgotten | kept == everybody and not forgotten & kept
    assert forgotten > {*people_of(world.splits["forget10"])}
    data = load_unlearning_data("fictional", forget_split=forget)
    assert {*people_of(data.forget.to_list())} == forgotten and {*people_of(data.retain.to_list())} == kept
    taught = [*training_rows(world, forget).values(), *data.general.to_list()]
    assert not any(name in str(row) for row in taught for name in forgotten)
    assert any(isinstance(row["prompt"], list) and len(row["prompt"]) > 2 for row in taught)  # examples of others stay


def test_tofu_has_no_larger_split(tmp_path):
    (tmp_path / "forget10.json").write_text('{"question": "Who?", "answer": "Ann."}')
    with pytest.raises(InputError, match=r"choose one of forget01, forget05, forget10$"):
        load_unlearning_data(str(tmp_path), forget_split="forget20")
