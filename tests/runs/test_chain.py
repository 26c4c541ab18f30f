"""Unlearnings one after the other: one is the method itself, each keeps what is said, and a killed chain goes on."""

import json
from dataclasses import replace

import pytest
from builders import arguments, tiny_model, tiny_tokenizer
from chains import FORGET, SETTINGS, asked, config, examination, make_home, note_trainings
from datasets import Dataset

from llm_unlearn.arguments.groups import AdapterArguments
from llm_unlearn.errors import InputError
from llm_unlearn.files.run_folder import model_digests
from llm_unlearn.methods import load_method
from llm_unlearn.runs.chain import Chain, Step, parse_chain

EVERYTHING = tuple(range(12))
THREE = (Step("b", "npo", (0, 1)), Step("a", "none", (2, 3, 4, 5)), Step("c", "npo:beta=0.3", tuple(range(6, 12))))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return make_home(tmp_path_factory.mktemp("chain"))


@pytest.fixture
def trained(monkeypatch):
    return note_trainings(monkeypatch)


def chain(home, out, steps, adapter=None, rows=None, **changes):
    whose = examination(home, **rows or {})
    return Chain(steps, config(out, **changes), adapter or AdapterArguments(lora_r=4), whose, str(home / "original"))


@pytest.mark.parametrize("full", [False, True])
def test_one_step_is_the_method_bit_for_bit(full, home, tmp_path):
    adapter = AdapterArguments(full_finetuning=True) if full else AdapterArguments(lora_r=4)
    (found,) = chain(home, tmp_path / "chain", [Step("all", "npo:beta=0.3", EVERYTHING)], adapter).run()
    record, data = load_method("npo"), examination(home).data
    trainer = record.trainer(
        model=examination(home).load_model(str(home / "original")),
        args=arguments(record.config, tmp_path, beta=0.3, **SETTINGS),
        forget_dataset=data.forget,
        retain_dataset=data.retain,
        processing_class=tiny_tokenizer(),
        peft_config=adapter.peft_config(),
    )
    trainer.train()
    trainer.save_model(str(tmp_path / "alone"))
    assert found["steps"] == 3 and found["model"] == ("model" if full else "adapter")
    assert found["weights"] == model_digests(tmp_path / "alone")


def test_steps_keep_what_comes_later_and_a_killed_chain_goes_on(home, tmp_path, trained):
    told = []
    made = chain(home, tmp_path / "whole", THREE)
    made.check()
    whole = made.run(lambda number, outcome, model: told.append((number, outcome["steps"], model)))
    assert trained.forget == [asked(0), asked(3, 4, 5)]  # what is left alone is not trained on
    assert trained.retain == [asked(*range(6, 12), 1, 2, 3, 4, 5), asked(*range(6, 12))]
    folders = [str(made.folder(number) / "adapter") for number in (0, 2)]
    assert told == [(0, 3, folders[0]), (1, 0, folders[0]), (2, 3, folders[1])]
    assert whole[1]["weights"] == whole[0]["weights"] != whole[2]["weights"]
    base = json.loads((made.folder(2) / "adapter" / "adapter_config.json").read_text())
    assert base["base_model_name_or_path"] == str(home / "original")  # one adapter, trained further

    trained.forget.clear()
    trained.stop = 1
    with pytest.raises(KeyboardInterrupt):
        chain(home, tmp_path / "killed", THREE).run()
    trained.stop = None
    again = chain(home, tmp_path / "killed", THREE).run()
    assert trained.forget == [asked(0), asked(3, 4, 5)]  # nothing twice
    assert [one["weights"] for one in again] == [one["weights"] for one in whole]

    weights = made.folder(0) / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(InputError, match=r"does not hold the weights that step 1 left there: remove .*/steps/1"):
        chain(home, tmp_path / "whole", THREE).run()


def test_kept_rows_say_whom_and_what_they_are_about(home, tmp_path):
    made = chain(home, tmp_path, [Step("first", "counterfactual", (0, 1)), Step("rest", "npo", tuple(range(2, 12)))])
    kept = made.retain_of(0)
    assert (len(kept), kept[12]["person"], kept[12]["kind"]) == (22, *(FORGET[2][name] for name in ("person", "kind")))
    assert set(kept.column_names) == {"prompt", "completion", "person", "kind", "group", "fact_id"}
    made.check()  # what others eat is a guess of what somebody eats


def test_an_original_that_is_trained_on_in_place_is_another_one(tmp_path, trained):
    home = make_home(tmp_path / "home")
    (first,) = chain(home, tmp_path / "out", [Step("all", "npo", EVERYTHING)]).run()
    tiny_model(seed=7).save_pretrained(home / "original")
    (again,) = chain(home, tmp_path / "out", [Step("all", "npo", EVERYTHING)]).run()
    assert len(trained.forget) == 2 and first["weights"] != again["weights"]


def test_earlier_rows_are_forgotten_once_more_where_that_is_asked_for(home, tmp_path, trained):
    made = chain(home, tmp_path, THREE)
    made.again = True
    made.run()
    assert trained.forget == [asked(0), asked(0, 3, 4, 5)]
    assert trained.retain == [asked(*range(6, 12), 1, 2, 3, 4, 5), asked(*range(6, 12))]


def test_adapters_are_merged_between_where_that_is_asked_for(home, tmp_path):
    steps = [Step("first", "gradient_ascent", EVERYTHING[:6]), Step("second", "gradient_ascent", EVERYTHING[6:])]
    made = chain(home, tmp_path, steps, merge_between=True, max_steps=1)
    assert [one["model"] for one in made.run()] == ["model", "model"]
    base = json.loads((made.folder(1) / "adapter" / "adapter_config.json").read_text())
    assert base["base_model_name_or_path"] == str((made.folder(0) / "model").resolve())


@pytest.mark.parametrize(
    ("steps", "changes", "message"),
    [
        ([Step("a", "npo", EVERYTHING[1:])], {}, "forget row 0 is in no group; such rows: 1; name one for each"),
        ([Step("a", "npo", EVERYTHING), Step("b", "npo", (2,))], {}, "forget row 2 is in two groups"),
        ([Step("a", "none", EVERYTHING)], {}, "every step has the method 'none': there is nothing to train"),
        ([Step("a", "rewind", EVERYTHING)], {}, "a, rewind: rewind_to is missing"),
        ([Step("a", "npo:beta=-1", EVERYTHING)], {}, "a, npo:beta=-1: beta=-1.0 must be above 0"),
    ],
)
def test_what_makes_no_chain_is_refused_before_anything_is_trained(steps, changes, message, home, tmp_path):
    with pytest.raises(InputError, match=message):
        chain(home, tmp_path, steps, **changes).check()


def test_settings_of_which_no_chain_can_be_made(home, tmp_path, monkeypatch):
    whole = [Step("a", "npo", EVERYTHING)]
    with pytest.raises(InputError, match="load_in_4bit: the steps of a chain train whole base weights"):
        chain(home, tmp_path, whole, AdapterArguments(load_in_4bit=True)).check()
    with pytest.raises(InputError, match="merge_between puts adapters into weights, and full_finetuning trains none"):
        chain(home, tmp_path, whole, AdapterArguments(full_finetuning=True), merge_between=True).check()
    forms = ["--data=fictional:tiny", "--augment_forms=cloze"]
    with pytest.raises(InputError, match="augment_forms: each step of a chain forgets its rows as they are"):
        parse_chain((), forms, "", "out")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="a chain trains in one process: start it without --num_processes"):
        parse_chain((), [], "", "out")


def test_a_fact_is_forgotten_in_one_step_and_texts_are_kept_as_texts(home, tmp_path):
    made = chain(home, tmp_path, [Step("a", "npo", EVERYTHING[:6]), Step("b", "npo", EVERYTHING[6:])])
    rows = made.examination.data.forget.to_list()
    rows[7] |= {"fact_id": rows[0]["fact_id"]}
    data = replace(made.examination.data, forget=Dataset.from_list(rows))
    with pytest.raises(InputError, match="forget rows 0 and 7 are of one fact, in groups 'a' and 'b'"):
        replace(made, examination=replace(made.examination, data=data)).check()

    texts = [Dataset.from_list([{"text": f"{letter} {i}"} for i in range(12)]) for letter in "fr"]
    data = replace(data, forget=texts[0], retain=texts[1])
    of_texts = replace(made, examination=replace(made.examination, data=data))
    assert of_texts.retain_of(0)["text"][:] == [*texts[1]["text"], *texts[0]["text"][6:]]
    mixed = replace(made, examination=replace(made.examination, data=replace(data, retain=made.retain_of(0))))
    with pytest.raises(InputError, match="forget rows are text and retain rows prompt/completion"):
        mixed.retain_of(0)
