"""From data sets as they were loaded to one attack: what each record runs, and with what."""

from dataclasses import replace
from importlib import import_module

import pytest
from builders import encoded_rows, qa_rows, tiny_model, tiny_tokenizer, with_trained_adapter
from datasets import Dataset

from llm_unlearn.attacks import attack as module
from llm_unlearn.attacks import attack_names, curves, load_attack, summaries
from llm_unlearn.attacks.attack import Target, groups_of
from llm_unlearn.attacks.relearning import AttackBudget
from llm_unlearn.data import UnlearningData, encode_dataset
from llm_unlearn.errors import InputError
from llm_unlearn.files.outcomes import weights_digest
from llm_unlearn.models.finetuning import finetune
from llm_unlearn.models.scoring import generate_answers

BUDGET = AttackBudget(learning_rates=(5e-3,), fraction=0.5, seeds=(0,), steps=2, left_out_groups=2)


def data(forget=None, retain_count=40):
    retain = Dataset.from_list(
        [qa_rows(1, 20)[0] | {"question": f"Where does Ann live {i}"} for i in range(retain_count)]
    )
    holdout = qa_rows(3, start=33)
    return UnlearningData(forget or qa_rows(6), retain if retain_count else None, holdout, {}, "made up")


def attack(name, given, model=None, **options):
    beside = {"instructions": qa_rows(3, start=30), "title": name.replace("_", " ")} | options
    return load_attack(name).run(Target(model or tiny_model(), tiny_tokenizer(), given, BUDGET, **beside))


@pytest.fixture
def calls(monkeypatch):
    """(name, positional arguments, others) of every attack, in place of running it."""
    found = []
    modules = {name: import_module(f"llm_unlearn.attacks.{name}") for name in attack_names()}  # some take from others
    for name, file in modules.items():
        if not hasattr(file, name):  # a record of another file's function
            continue
        instead = lambda *args, _name=name, **named: found.append((_name, args, named)) or {}  # noqa: E731
        monkeypatch.setattr(file, name, instead)
    return found


def test_reinjection_gets_encoded_rows_and_facts(calls):
    attack("adversarial_reinjection", data(), title="mine")
    name, (_, forget, retain, budget, fact_ids, title), named = calls[0]
    assert (name, budget, title, named["pool"]) == ("adversarial_reinjection", BUDGET, "mine", None)
    assert forget == encoded_rows(6)
    assert list(fact_ids) == qa_rows(6)["fact_id"][:]
    assert len(retain) == 40


def test_benign_tuning_gets_instructions(calls):
    attack("benign_relearning", data())
    name, (_, instructions, forget, _, _, title), _ = calls[0]
    assert (name, title) == ("benign_relearning", "benign relearning")
    assert instructions == encoded_rows(3, 30) and forget == encoded_rows(6)


def test_reinjection_gets_its_pool(calls):
    attack("adversarial_reinjection", data(), pool=[1, 2])
    assert calls[0][2]["pool"] == [1, 2]


@pytest.mark.parametrize(("name", "part"), [("head_relearning", "head"), ("block_relearning", "blocks")])
def test_reinjection_of_a_part_is_reinjection(name, part, calls):
    attack(name, data(), pool=[1, 2])
    ((called, _, named),) = calls
    assert (called, named["part"], named["pool"]) == ("adversarial_reinjection", part, [1, 2])


def test_retain_tuning_gets_the_whole_retain_set_and_scores_a_part(calls):
    attack("retain_relearning", data(retain_count=40), retain_rows=10)
    name, (_, training, forget, retain, _, title), _ = calls[0]
    assert (name, title) == ("retain_relearning", "retain relearning")
    assert (len(training), len(retain)) == (40, 10) and training[::4] == retain and forget == encoded_rows(6)


def test_template_tuning_gets_the_holdout_set(calls):
    attack("template_relearning", replace(data(), holdout=qa_rows(4, 30)))
    name, (_, training, forget, _, _, title), _ = calls[0]
    assert (name, title) == ("template_relearning", "template relearning")
    assert training == encoded_rows(4, 30) and forget == encoded_rows(6)


def test_direct_attacks_get_what_they_need(calls):
    given = data(retain_count=40)
    names = ["quantization", "adapter_surgery", "decoding", "prompting"]
    assert sorted(names) == [name for name in attack_names() if not load_attack(name).trains]
    for name in names:
        attack(name, given, retain_rows=10, max_length=30)
    assert [name for name, _, _ in calls] == names
    quantized, surgery, decoded, prompted = (arguments[1:] for _, arguments, _ in calls)
    for forget, retain, made_up in (quantized, surgery):
        assert forget == encoded_rows(6) and len(retain) == 10 and not made_up
    assert decoded == (encoded_rows(6),)
    assert prompted[1:] == (given, 30, None)


def test_groups_are_people_else_facts_else_rows_or_the_column_asked_for(calls):
    rows = qa_rows(6)
    facts = rows["fact_id"][:]
    people = [fact.split("/")[0] for fact in facts]
    assert groups_of(data(rows)) == facts
    assert groups_of(data(rows.remove_columns("fact_id"))) == [0, 1, 2, 3, 4, 5]
    rows = rows.add_column("person", people)
    assert groups_of(data(rows)) == people
    assert groups_of(data(rows), "fact_id") == facts
    assert groups_of(data(qa_rows(6).add_column("person", ["Ann"] * 6))) == facts
    with pytest.raises(InputError, match="leave_out_column='city' is no column of the forget rows: choose from quest"):
        groups_of(data(rows), "city")
    attack("leave_one_group_out", data(rows), group_column="answer")
    assert calls[0][1][4] == rows["answer"][:]


def test_an_unknown_attack():
    with pytest.raises(InputError, match="attack='benign' is unknown: choose from adapter_surgery, "):
        attack("benign", data())


def test_rows_without_fact_ids(calls):
    attack("adversarial_reinjection", data(qa_rows(6).remove_columns("fact_id")))
    assert calls[0][1][4] == [0, 1, 2, 3, 4, 5]


def test_max_length_cuts_every_row(calls):
    attack("adversarial_reinjection", data(), max_length=10)
    assert max(len(row["input_ids"]) for row in calls[0][1][1]) == 10


def test_the_sample_texts_are_greedy_answers_of_the_attacked_model_to_the_questions_alone(calls):
    attack("benign_relearning", data())
    model, tokenizer = tiny_model(), tiny_tokenizer()
    finetune(model, encoded_rows(6), learning_rate=5e-3, steps=60, batch_size=6, seed=0)
    texts = calls[0][2]["answer"](model, [4, 0])
    assert texts == [qa_rows(6)[4]["answer"], qa_rows(6)[0]["answer"]]
    prompts = [[3, *tokenizer(qa_rows(6)[i]["question"])["input_ids"], 1, 4] for i in (4, 0)]  # <user> ... <end>
    assert texts == generate_answers(model, tokenizer, prompts, 64)


def test_all_attacks_run_and_leave_the_model_as_it_is(monkeypatch):
    monkeypatch.setattr(module, "SAMPLE_TOKENS", 2)
    model = with_trained_adapter(tiny_model())
    digest = weights_digest(model)
    for name in attack_names():
        outcome = attack(name, data(), model)
        if load_attack(name).trains:
            assert [point["step"] for point in outcome["curve"]] == [0, 2]
            assert 0 < outcome["forget_probability"] < 1
            assert outcome["runs"][0]["answers"]["step"] == 2
        else:
            assert len(outcome["variants"]) >= 3
            for variant in outcome["variants"].values():
                assert all(0 <= score <= 1 for label, score in variant.items() if label.startswith("forget_"))
                assert {int(row) for row in variant["value_by_index"]} <= set(range(6))
    assert weights_digest(model) == digest


def test_after_reinjection_no_made_up_answer_is_one_that_was_injected(monkeypatch):
    """What the attack has just taught is likelier than any other answer, and no fair guess."""
    cities = ("Paris", "Rome", "Oslo", "Cairo", "Lima", "Kyoto", "Delhi")
    names = ("Ann", "Ben", "Cal", "Dora", "Eli", "Fay", "Gus")
    rows = [{"question": f"Where does {n} live", "answer": c, "kind": "x"} for n, c in zip(names, cities, strict=True)]
    compared, real = [], curves.score_beside_made_up
    monkeypatch.setattr(
        curves, "score_beside_made_up", lambda m, r, made_up: compared.append(made_up) or real(m, r, made_up)
    )
    given = data(Dataset.from_list(rows), retain_count=0)
    outcome = attack("adversarial_reinjection", given, kinds="kind")
    encoded = encode_dataset(rows, tiny_tokenizer(), None, "rows")
    answers = [[label for label in row["labels"] if label != -100] for row in encoded]
    (run_of,) = outcome["runs"]
    injected, scored = run_of["injected_rows"], [int(row) for row in run_of["value_by_index"]]
    assert injected and sorted([*injected, *scored]) == list(range(7))
    made_up = [one for each in compared[::2] for row in each for one in row]  # every second time: the retain rows
    found = [[label for label in one["labels"] if label != -100] for one in made_up]
    assert len(found) == 2 * len(scored) * (len(scored) - 1)  # at step 0 and at step 2
    assert all(one in [answers[i] for i in scored] for one in found)
    assert all(len(value["wins"]) == len(scored) - 1 for value in run_of["value_by_index"].values())
    assert 0 <= outcome["forget_knowledge"] <= 1


def test_every_record_says_what_lists_tables_and_cards_need():
    for name in attack_names():
        record = load_attack(name)
        assert record.name == name and record.summary == summaries()[name]  # as it is read without an import
        assert record.title and record.label and record.on_card
        assert record.trains == (record.rates in ("reinjection", "benign"))
