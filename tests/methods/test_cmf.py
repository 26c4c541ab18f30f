"""CMF: its loss by the formula in float64, its class means by hand, what stays as it was, and what it refuses."""

import copy
import math

import pytest
import torch
from builders import (
    arguments,
    largest_difference,
    lora_config,
    qa_rows,
    step_logs,
    tiny_model,
    tiny_tokenizer,
    trainable,
)
from trainers import build as build_any
from trainers import of_classes
from transformers import TrainerCallback

from llm_unlearn import CMFConfig, CMFTrainer, InputError
from llm_unlearn.data.collators import RETAIN
from llm_unlearn.methods.cmf import class_log_probs

TOKENIZER = tiny_tokenizer()
KINDS = {"Paris": "place", "Rome": "place", "cat": "thing", "dog": "thing"}  # of every value in `of_classes`
OUTSIDE = ("embed_tokens", "model.norm", "lm_head", "wte", "wpe", "ln_f")


def build(folder, **changes):
    return build_any("cmf", folder, **{"lora": False, "forget": 6, "retain": 9, "learning_rate": 3e-3} | changes)


# ---- the formula, in float64, row by row without padding ------------------------------------------------------------


def feature(model, row):
    """What the head is given where the token of the value is predicted: the last but one, before the end token."""
    value = next(i for i in reversed(range(len(row["input_ids"]))) if word(row, i) in KINDS)
    return model.base_model(input_ids=torch.tensor([row["input_ids"]])).last_hidden_state[0, value - 1]


def word(row, place):
    return TOKENIZER.convert_ids_to_tokens(row["input_ids"][place])


def truth(row):
    return next(word(row, i) for i in reversed(range(len(row["input_ids"]))) if word(row, i) in KINDS)


def unit(vector):
    return vector / (vector**2).sum().sqrt()


def means_by_hand(model, rows):
    with torch.no_grad():
        features = [(truth(row), unit(feature(model, row))) for row in rows]
    means = {}
    for value in KINDS:
        own = [one for held, one in features if held == value]
        means[value] = sum(own) / len(own)
    return means


def class_logits(model, row, means, temperature):
    """Value -> z, over the values of the row's kind."""
    among = [value for value, kind in KINDS.items() if kind == KINDS[truth(row)]]
    mu = sum(means[value] for value in among) / len(among)
    z = unit(unit(feature(model, row)) - mu)
    return {value: temperature * (z * unit(means[value] - mu)).sum() for value in among}


def class_logp(model, row, means, temperature, value):
    logits = class_logits(model, row, means, temperature)
    return logits[value] - torch.stack([*logits.values()]).exp().sum().log()


def answer_nll(model, row):
    logps = model(input_ids=torch.tensor([row["input_ids"]])).logits[0].log_softmax(-1)
    places = [place for place, label in enumerate(row["labels"]) if label != -100]
    return [-logps[place - 1, row["input_ids"][place]] for place in places]


@pytest.mark.parametrize("base_loss", ["random_label", "npo"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])  # GPT-2's head is its embedding
def test_loss_and_gradient_are_those_of_the_formula(family, base_loss, tmp_path):
    temperature, beta = 7.0, 0.4
    trainer = build(
        tmp_path,
        model=tiny_model(family),
        forget=2,
        per_device_train_batch_size=2,
        learning_rate=0.0,  # a run that changes nothing, and takes the class means
        max_steps=1,
        base_loss=base_loss,
        temperature=temperature,
        beta=beta,
        forget_weight=0.7,
        retain_weight=1.3,
        class_weight=0.6,
    )
    before = copy.deepcopy(trainer.model).double()
    trainer.train()
    trainer.model.eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    trainer.model.zero_grad()
    trainer.log_sums.clear()
    (batch, *_) = trainer.get_train_dataloader()
    assert len({int(mask.sum()) for mask in batch["attention_mask"]}) > 1  # there is padding
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()

    now = copy.deepcopy(trainer.model).double()
    now.zero_grad()
    forget = trainer.forget_rows
    retain = [trainer.row_sets["retain"][i] for i in batch["indices"][batch["roles"] == RETAIN]]
    assert len(forget) == len(retain) == 2
    means = means_by_hand(before, [*forget, *trainer.row_sets["retain"]])
    other = {"Paris": "Rome", "Rome": "Paris", "cat": "dog", "dog": "cat"}  # the only other one of a kind
    forgotten = []
    for row in forget:
        if base_loss == "npo":
            was = class_logp(before, row, means, temperature, truth(row)).detach()
            ratio = class_logp(now, row, means, temperature, truth(row)) - was
            forgotten.append(2 / beta * (1 + (beta * ratio).exp()).log())
        else:
            forgotten.append(-class_logp(now, row, means, temperature, other[truth(row)]))
    parts = {
        "forget": torch.stack(forgotten).mean(),
        "retain": torch.stack([nll for row in retain for nll in answer_nll(now, row)]).mean(),
        "regularizer": torch.stack([-class_logp(now, row, means, temperature, truth(row)) for row in retain]).mean(),
    }
    total = 0.7 * parts["forget"] + 1.3 * parts["retain"] + 0.6 * parts["regularizer"]
    total.backward()

    logged = {part: trainer.log_sums.sums[f"{part}/loss"][0].item() for part in parts}
    assert logged == pytest.approx({part: value.item() for part, value in parts.items()}, rel=1e-5)
    assert loss.item() == pytest.approx(total.item(), rel=1e-5)
    probability = sum(class_logp(now, row, means, temperature, truth(row)).exp().item() for row in forget) / 2
    assert trainer.log_sums.sums["forget/class_probability"][0].item() == pytest.approx(probability, rel=1e-5)
    expected = {name: parameter.grad for name, parameter in now.named_parameters() if parameter.requires_grad}
    size = math.sqrt(sum(float((gradient**2).sum()) for gradient in expected.values()))
    assert size > 1e-3
    for name, parameter in trainer.model.named_parameters():
        if parameter.requires_grad:
            assert (parameter.grad.double() - expected[name]).norm().item() < 1e-5 * size, name
        else:
            assert parameter.grad is None and any(part in name for part in OUTSIDE), name


def test_class_probabilities_by_hand():
    """Two classes of a kind whose means are (1, 0) and (0, 1), so that they stand against each other; one elsewhere."""
    means = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [0.8, 0.6]])
    kinds, retained = torch.tensor([0, 0, 1, 1]), torch.tensor([True, True, True, True])
    states, rows = torch.tensor([[2.0, 0.0], [0.0, 0.5], [1.0, 1.0]]), torch.tensor([0, 0, 0])

    def probabilities(retained=retained):
        return class_log_probs(states, rows, means, kinds, retained, math.log(3)).exp()

    # z = +-ln 3, so 3 / (3 + 1/3) and 1 / 3 / (3 + 1/3); a state between the two: (0.707, 0.707) - (0.5, 0.5) is at
    # right angles with (1, -1).
    expected = torch.tensor([[0.9, 0.1, 0.0, 0.0], [0.1, 0.9, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0]])
    torch.testing.assert_close(probabilities(), expected)
    # A class that nobody retains is none of those that mu is the mean of: that is (1, 0) then, and the first class,
    # which is all there is, has no direction.
    first = probabilities(torch.tensor([True, False, True, True]))
    torch.testing.assert_close(first[0, :2], torch.tensor([0.5, 0.5]))  # n(h) - mu is zero as well
    torch.testing.assert_close(first[1, :2], torch.tensor([1.0, 3.0]) / 4)  # z = 0, ln 3
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(probabilities(), class_log_probs(states, rows, means, kinds, retained, math.log(3)).exp())
        torch.testing.assert_close(probabilities(), expected)


def test_class_means_are_those_of_the_epoch_s_beginning(tmp_path):
    trainer = build(tmp_path, num_train_epochs=2, base_loss="npo")
    model, seen = trainer.model, []

    class Look(TrainerCallback):
        def on_epoch_begin(self, args, state, control, **keywords):
            rows = [*trainer.forget_rows, *trainer.row_sets["retain"]]
            seen.append((trainer._means.clone(), means_by_hand(copy.deepcopy(model).eval().double(), rows)))

    trainer.add_callback(Look())
    trainer.train()
    names = [TOKENIZER.convert_ids_to_tokens(row["input_ids"][-1]) for row in trainer._classes.rows["forget"]]
    labels = trainer._classes.labels["forget"]
    assert len(seen) == 2 and len(set(labels)) == 4
    for means, by_hand in seen:
        for name, label in zip(names, labels, strict=True):
            torch.testing.assert_close(means[label].double(), by_hand[name], atol=1e-6, rtol=1e-5)
    assert not torch.allclose(seen[0][0], seen[1][0], atol=1e-3)


def test_class_rows_bounds_what_a_mean_is_taken_over(tmp_path):
    trainer = build(tmp_path, class_rows=1, learning_rate=0.0, max_steps=1)
    trainer.train()
    labels = trainer._classes.labels["forget"]
    for label in set(labels):
        row = trainer.forget_rows[labels.index(label)]
        with torch.no_grad():
            state = feature(trainer.model.eval(), row)
        torch.testing.assert_close(trainer._means[label], unit(state), atol=1e-5, rtol=1e-4)


def test_another_retained_class_of_the_kind_is_drawn_anew_every_epoch(tmp_path):
    forget = of_classes(qa_rows(6))
    places = [
        {"question": f"Where does {name} live", "answer": f"in {city}", "kind": "place", "value": city}
        for name, city in (("Gus", "Oslo"), ("Hal", "Oslo"), ("Ida", "Lima"), ("Jon", "Lima"))
    ]
    retain = of_classes(qa_rows(9, start=20))
    retain = type(retain).from_list([*retain, *places])

    def trainer(folder, **options):
        return CMFTrainer(
            model=tiny_model(),
            args=arguments(CMFConfig, tmp_path / folder, num_train_epochs=4, **options),
            forget_dataset=forget,
            retain_dataset=retain,
            processing_class=TOKENIZER,
        )

    runs = {}
    for folder, options in (("first", {}), ("again", {"per_device_train_batch_size": 2}), ("other", {"seed": 4})):
        one = trainer(folder, **options)
        runs[folder] = drawn = []

        class Look(TrainerCallback):
            def on_epoch_begin(self, args, state, control, one=one, drawn=drawn, **keywords):
                drawn.append(one._drawn.tolist())

        one.add_callback(Look())
        one.train()
        classes = one._classes
        for draws in drawn:
            for label, other in zip(classes.labels["forget"], draws, strict=True):
                assert other != label and classes.kinds[other] == classes.kinds[label] and classes.retained[other]
    assert runs["first"] == runs["again"] != runs["other"]
    assert len({tuple(draws) for draws in runs["first"]}) > 1


def test_a_retain_row_without_a_class_adds_nothing(tmp_path):
    retain = of_classes(qa_rows(9, start=20))
    values = [value if number % 9 else None for number, value in enumerate(retain["value"])]
    retain = retain.remove_columns("value").add_column("value", values)
    trainer = CMFTrainer(
        model=tiny_model(),
        args=arguments(CMFConfig, tmp_path, num_train_epochs=1, temperature=1.0),
        forget_dataset=of_classes(qa_rows(9)),
        retain_dataset=retain,
        processing_class=TOKENIZER,
    )
    assert trainer._classes.labels["retain"][0] == -1
    found, regularizer = [], trainer.regularizer

    def watched(answers):
        values = regularizer(answers)
        found.extend(zip(answers.retain.indices.tolist(), values.tolist(), strict=True))
        return values

    trainer.regularizer = watched
    trainer.train()
    assert len(found) == 9 and all((value == 0.0) == (index == 0) for index, value in found)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_blocks_are_trained_and_nothing_else(family, tmp_path):
    trainer = build(tmp_path, model=tiny_model(family), num_train_epochs=1)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    assert not any(part in name for name in trainable(trainer.model) for part in OUTSIDE)
    trainer.train()
    changed = {name for name, value in trainer.model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == set(trainable(trainer.model))


def test_a_head_that_changes_all_the_same_is_told_by_name(tmp_path):
    class Tamper(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **keywords):
            with torch.no_grad():
                model.lm_head.weight[3, 5] += 1e-6

    trainer = build(tmp_path, max_steps=1)
    trainer.add_callback(Tamper())
    with pytest.raises(RuntimeError, match=r"^lm_head\.weight: changed while the model was trained, .* a callback"):
        trainer.train()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"target_modules": ["q_proj", "lm_head"]}, r"lm_head\.lora_A"),
        ({"target_modules": ["q_proj"], "modules_to_save": ["norm"]}, r"model\.norm\.modules_to_save"),
    ],
)
def test_an_adapter_that_trains_the_head_is_refused(changes, named, tmp_path):
    with pytest.raises(InputError, match=rf"the adapter trains \S*{named}\S*, .*; leave it out of target_modules"):
        CMFTrainer(
            model=tiny_model(),
            args=arguments(CMFConfig, tmp_path),
            forget_dataset=of_classes(qa_rows(6)),
            retain_dataset=of_classes(qa_rows(9, start=20)),
            processing_class=TOKENIZER,
            peft_config=lora_config(**changes),
        )


@pytest.mark.parametrize("base_loss", ["random_label", "npo"])
@pytest.mark.parametrize("step", [2, 3])  # within an epoch, and between two
def test_resuming_equals_the_uninterrupted_run(base_loss, step, tmp_path):
    options = {"per_device_train_batch_size": 2, "save_strategy": "steps", "save_steps": 1, "base_loss": base_loss}
    whole = build(tmp_path, **options)
    whole.train()
    resumed = build(tmp_path, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
    assert step_logs(resumed) == step_logs(whole) and len(step_logs(whole)) == 6
    assert largest_difference(trainable(resumed.model), trainable(whole.model)) == 0.0
    assert torch.equal(resumed._means, whole._means)


@pytest.mark.parametrize("base_loss", ["random_label", "npo"])
def test_features_leave_their_class_and_retained_ones_stay(base_loss, tmp_path):
    options = {"retain": 14, "num_train_epochs": 30, "per_device_train_batch_size": 6, "temperature": 5.0}
    trainer = build(tmp_path, base_loss=base_loss, **options)
    trainer.train()
    first, last = step_logs(trainer)[0], step_logs(trainer)[-1]
    assert last["forget/class_probability"] < first["forget/class_probability"] / 2
    assert last["retain/loss"] < first["retain/loss"] / 2 and last["regularizer/loss"] < first["regularizer/loss"] / 2


def test_settings_that_cannot_be(tmp_path):
    for name in ("temperature", "beta", "class_rows"):
        with pytest.raises(ValueError, match=f"{name}=0"):
            arguments(CMFConfig, tmp_path, **{name: 0})
    with pytest.raises(ValueError, match="class_weight=-1"):
        arguments(CMFConfig, tmp_path, class_weight=-1)
    with pytest.raises(ValueError, match="base_loss='dpo' is unknown; choose one of random_label, npo"):
        arguments(CMFConfig, tmp_path, base_loss="dpo")
    with pytest.raises(ValueError, match="retain_loss='none' leaves CMF without retained classes; choose nll or kl"):
        arguments(CMFConfig, tmp_path, retain_loss="none")
    with pytest.raises(ValueError, match=r"FSDP: its class means .*; start with plain data parallelism"):
        arguments(CMFConfig, tmp_path, fsdp=True, fsdp_config={"version": 2})
    with pytest.raises(InputError, match="logits_chunk_size=8 keeps no logits, which CMFTrainer needs; leave it out"):
        build(tmp_path, logits_chunk_size=8)
