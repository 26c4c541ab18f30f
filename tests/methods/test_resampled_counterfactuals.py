"""Resampled counterfactuals: what is trained, when it changes, what does not enter the model, and damage first."""

import copy

import pytest
import torch
from builders import arguments, lora_config, qa_rows, step_logs, tiny_model, tiny_tokenizer
from datasets import Dataset

from llm_unlearn import UnlearnConfig
from llm_unlearn.data.collators import ALTERNATE, FORGET
from llm_unlearn.data.made_up import told_of_whole
from llm_unlearn.errors import InputError
from llm_unlearn.methods import sampled_guesses
from llm_unlearn.methods.counterfactual import CounterfactualConfig, CounterfactualTrainer
from llm_unlearn.methods.sampled_guesses import made_up_names, people_of_all


def rows(count, start=0):
    """With a kind, by the topic of the question, and the person it names."""
    named = [
        row | {"attribute": row["fact_id"][-1], "person": row["fact_id"].partition("/")[0]}
        for row in qa_rows(count, start)
    ]
    return Dataset.from_list(named)


def build(folder, *, model=None, lora=False, forget=9, **changes):
    return CounterfactualTrainer(
        model=tiny_model() if model is None else model,
        args=arguments(CounterfactualConfig, folder, **{"guesses": 5} | changes),
        forget_dataset=rows(forget) if isinstance(forget, int) else forget,
        retain_dataset=rows(14, start=20),
        processing_class=tiny_tokenizer(),
        peft_config=lora_config() if lora else None,
    )


def drawn_in(trainer, epochs):
    """Epoch -> forget row -> the guess that stands for it, as text."""
    found = {}
    compute = trainer.compute_loss

    def watched(model, inputs, **keywords):
        epoch = found.setdefault(int(trainer.state.epoch or 0), {})
        for ids, labels, role, index in zip(
            *(inputs[k] for k in ("input_ids", "labels", "roles", "indices")), strict=True
        ):
            assert role != FORGET
            if role == ALTERNATE:
                epoch[int(index) % len(trainer.forget_rows)] = trainer.processing_class.decode(ids[labels != -100])
        return compute(model, inputs, **keywords)

    trainer.compute_loss = watched
    trainer.train()
    assert len(found) == epochs
    return found


def test_every_epoch_draws_a_guess_anew_and_forget_rows_do_not_enter_the_model(tmp_path):
    trainer = build(tmp_path, num_train_epochs=4)
    assert len(trainer.row_sets["alternate"]) == 5 * 9
    found = drawn_in(trainer, 4)
    assert all(epoch.keys() == set(range(9)) for epoch in found.values())
    assert all(found[a] != found[b] for a in range(4) for b in range(a))
    texts = trainer.alternates(trainer.forget_dataset, trainer.args)
    for epoch in found.values():
        for row, text in epoch.items():
            assert text.replace("<end>", "").strip() in {texts[9 * k + row] for k in range(5)}
    assert "forget/probability" not in step_logs(trainer)[0] and "alternate/probability" in step_logs(trainer)[0]


def test_one_guess_stays(tmp_path):
    found = drawn_in(build(tmp_path, guesses=1, num_train_epochs=3), 3)
    assert found[0] == found[1] == found[2]


def test_the_loss_is_the_cross_entropy_of_the_guesses(tmp_path):
    trainer = build(tmp_path, num_train_epochs=1, per_device_train_batch_size=9, retain_weight=2.0)
    base = copy.deepcopy(trainer.model).double()
    drawn = [trainer.row_sets["alternate"][index] for _, _, _, index in trainer._get_train_sampler()]

    def nll(part):
        losses = []
        for row in part:
            logps = base(input_ids=torch.tensor([row["input_ids"]])).logits[0].log_softmax(-1)
            losses += [-logps[i - 1, label] for i, label in enumerate(row["labels"]) if label != -100]
        return torch.stack(losses).mean().item()

    kept = [trainer.row_sets["retain"][index] for _, index, _, _ in trainer._get_train_sampler()]
    trainer.train()
    line = step_logs(trainer)[0]
    assert line["forget/loss"] == pytest.approx(nll(drawn), rel=1e-5)
    assert line["loss"] == pytest.approx(nll(drawn) + 2 * nll(kept), rel=1e-5)


def test_resuming_draws_the_same_guesses(tmp_path):
    saves = {"save_strategy": "steps", "save_steps": 4, "num_train_epochs": 3, "damage": 0.2}
    whole = build(tmp_path / "whole", **saves)
    whole.train()
    resumed = build(tmp_path / "whole", **saves)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-4"))
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True))


def test_damage_comes_before_the_first_step_and_after_the_reference(tmp_path):
    base = tiny_model()
    trainer = build(tmp_path, model=copy.deepcopy(base), damage=0.5, retain_loss="kl", learning_rate=0.0, max_steps=1)
    trainer.train()
    kept = dict(trainer.reference.model.named_parameters())
    assert all(torch.equal(value, kept[name]) for name, value in base.named_parameters())
    changed = [name for name, value in trainer.model.named_parameters() if not torch.equal(value, kept[name])]
    assert changed == [name for name, value in base.named_parameters() if value.dim() == 2]
    few = build(tmp_path / "few", damage=0.5, damage_scope="influence", learning_rate=0.0, max_steps=1)
    few.train()
    changed = {name for name, value in few.model.named_parameters() if not torch.equal(value, kept[name])}
    assert changed == {name for name in kept if "_proj" in name}
    with pytest.raises(InputError, match="damage changes weights that an adapter leaves as they are: give --full_fine"):
        build(tmp_path / "lora", lora=True, damage=0.5)


def test_guesses_of_the_model_itself_are_told_of_the_person_and_kept(tmp_path):
    trainer = build(tmp_path, guess_source="sampled", guesses=3)
    texts = trainer.alternates(trainer.forget_dataset, trainer.args)
    assert len(texts) == 27 and (tmp_path / "sampled_guesses.json").is_file()
    again = build(tmp_path, guess_source="sampled", guesses=3)
    assert again.alternates(again.forget_dataset, again.args) == texts


def test_where_the_name_is_asked_for_made_up_names_are_the_guesses(tmp_path, monkeypatch):
    asked = []

    def sample(_model, _tokenizer, prompts, *_):
        asked.extend(prompts)
        return ["somewhere"] * len(prompts)

    monkeypatch.setattr(sampled_guesses, "sample", sample)
    ada = {"person": "Ada Bohr", "attribute": "0"}
    named_in_part = {"question": "Is Bohr known?", "answer": "Ada Bohr is.", "fact_id": "x"} | ada
    asked_for = {
        "question": "Who was born in the village?",
        "answer": "That is Ada Bohr, a baker.",
        "fact_id": "y",
    } | ada
    forget = Dataset.from_list([named_in_part, asked_for, *rows(1).to_list()])
    trainer = build(tmp_path, guess_source="sampled", guesses=2, forget=forget)
    of_rows = trainer.forget_dataset["sampled_guesses"][:]
    assert len(asked) == 4 and of_rows[0] == of_rows[2] == ["somewhere"] * 2
    assert len(set(of_rows[1])) == 2
    for guess in of_rows[1]:
        assert guess.startswith("That is ") and guess.endswith(", a baker.")
        assert "Ada" not in guess and "Bohr" not in guess


def test_questions_that_tell_their_answer_are_said(tmp_path, monkeypatch, caplog):
    forget = rows(3)
    monkeypatch.setattr(sampled_guesses, "sample", lambda _m, _t, prompts, *_: [forget["answer"][0]] * len(prompts))
    with caplog.at_level("WARNING"):
        build(tmp_path, guess_source="sampled", guesses=2, forget=forget)
    assert "the model says the true answer to 1 of 3 questions half of the time or more (row 0: " in caplog.text


def changed(**columns):
    """Three rows, the second with other values in these columns."""
    return Dataset.from_list([row | (columns if number == 1 else {}) for number, row in enumerate(rows(3))])


@pytest.mark.parametrize(
    ("forget", "changes", "words"),
    [
        (
            changed(person="Nobody"),
            {},
            "neither question nor answer of forget row 1 names its `person`: add that column",
        ),
        (rows(3).remove_columns("person"), {}, "neither question nor answer of forget row 0 names its `person`"),
        (changed().rename_column("answer", "reply"), {}, "forget_dataset: "),
        (changed(answer=" "), {}, r"forget_dataset row 1: .*answer"),
        (changed().select([]), {}, r"forget_dataset is empty \(no rows\)"),
        (None, {}, "forget_dataset is missing; pass the rows to forget"),
        (rows(1, start=20), {}, "rows of the forget set that are in the retain set too: 1"),
        (rows(3), {"max_length": 4}, "forget_dataset row 0"),
        (rows(3), {"damage": 0.5, "lora": True}, "damage changes weights that an adapter leaves as they are"),
        (rows(3), {"model": tiny_model(vocab_size=20)}, "has embeddings for 20 tokens, but its tokenizer gives"),
    ],
)
def test_what_is_refused_is_refused_before_anything_is_sampled(forget, changes, words, tmp_path, monkeypatch):
    monkeypatch.setattr(sampled_guesses, "sample", lambda *_: pytest.fail("sampled"))
    with pytest.raises(InputError, match=words):
        build(tmp_path, guess_source="sampled", forget=forget, **changes)


def test_arguments_of_another_method_are_refused(tmp_path):
    words = "CounterfactualTrainer needs args of class CounterfactualConfig, got UnlearnConfig"
    with pytest.raises(InputError, match=words):
        CounterfactualTrainer(model=tiny_model(), args=arguments(UnlearnConfig, tmp_path), forget_dataset=rows(3))


def test_a_model_that_says_nothing_now_and_then_or_always(tmp_path, monkeypatch):
    said = iter(["", "in Rome", ""] * 9)
    monkeypatch.setattr(
        sampled_guesses, "sample", lambda _model, _tokenizer, prompts, *_: [next(said) for _ in prompts]
    )
    trainer = build(tmp_path, guess_source="sampled", guesses=3)
    assert trainer.alternates(trainer.forget_dataset, trainer.args) == ["in Rome"] * 27
    monkeypatch.setattr(sampled_guesses, "sample", lambda _model, _tokenizer, prompts, *_: [""] * len(prompts))
    with pytest.raises(InputError, match="the question of forget row 0 about 3 made-up names, the model said nothing"):
        build(tmp_path / "silent", guess_source="sampled", guesses=3)


def test_made_up_names_look_like_those_of_people_who_exist_and_are_nobodys():
    known = [f"{first} {last}" for first in ("Ann", "Ben", "Cal", "Dora") for last in ("Reed", "Moss", "Stone", "Lake")]
    people = [known[0], known[5], known[10], known[15], None, 17]
    drawn = made_up_names(["Ann Reed", "Dora Lake"], people, 1, seed=0)
    assert drawn == made_up_names(["Ann Reed", "Dora Lake"], people, 1, seed=0)
    for subject, (name,) in drawn.items():
        assert name in known and name not in people and not set(name.split()) & set(subject.split())
    (listed,) = made_up_names(["Greta Abara"], [], 200, seed=0).values()  # one person is no sample
    assert len(set(listed)) == 200 and not {word for name in listed for word in name.split()} & {"Greta", "Abara"}
    (few,) = made_up_names(["Ann Reed"], [], 1000, seed=0).values()
    assert len(few) == 1000 and len(set(few)) == 24 * 25


def test_people_whom_no_row_names_lend_no_names():
    """TOFU's authors are numbered: "author 63" is nobody's name, and nobody is called Gus 63."""
    row = {"question": "Where does Ann live", "answer": "in Oslo"}
    retain = Dataset.from_list([row | {"person": "Ann"}, row | {"person": "author 63"}])
    assert people_of_all(["Bo"], retain) == ["Bo", "Ann", None]


def test_a_part_of_a_name_is_told_of_the_other_person_too():
    assert told_of_whole("Ann was born in Oslo; Ms. Lee, not Leeds.", "Ann Lee", "Bo Kim") == (
        "Bo was born in Oslo; Ms. Kim, not Leeds."
    )
    assert told_of_whole("Ann Lee met Ann.", "Ann Lee", "Bo") == "Bo met Ann."


def test_settings_that_cannot_be(tmp_path):
    with pytest.raises(ValueError, match="guess_source='mine' is unknown; choose one of kind, sampled"):
        CounterfactualConfig(str(tmp_path), guess_source="mine")
    with pytest.raises(ValueError, match=r"damage=1\.5 must be"):
        CounterfactualConfig(str(tmp_path), damage=1.5)
    with pytest.raises(ValueError, match="damage_scope='some' is unknown"):
        CounterfactualConfig(str(tmp_path), damage_scope="some")
