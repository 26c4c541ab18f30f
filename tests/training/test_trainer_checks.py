"""What the trainer refuses, when it stops, what it logs, and what `evaluate()` returns."""

import copy
import math
import re

import pytest
import torch
from builders import (
    arguments,
    encoded_rows,
    largest_difference,
    lora_config,
    qa_rows,
    step_logs,
    tiny_model,
    tiny_tokenizer,
    trainable,
    with_trained_adapter,
)
from datasets import Dataset
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig
from safetensors.torch import load_file
from transformers import TrainingArguments

from llm_unlearn import (
    DivergenceError,
    GradientAscentConfig,
    GradientAscentTrainer,
    InputError,
    NPOConfig,
    NPOTrainer,
    SsiuuConfig,
    SsiuuTrainer,
    UnlearnConfig,
)
from llm_unlearn.models import judging
from llm_unlearn.models.finetuning import finetune
from llm_unlearn.models.loading import load_model, load_tokenizer
from llm_unlearn.models.scoring import generate_answers, score_answers
from llm_unlearn.training import scores
from llm_unlearn.training.divergence import nll_bounds


@pytest.fixture(scope="module")
def memorizer():
    """Knows the forget rows 0 to 7 and the retain rows 20 to 27."""
    model = tiny_model()
    finetune(model, [*encoded_rows(8), *encoded_rows(8, 20)], learning_rate=5e-3, steps=80, batch_size=16, seed=0)
    return model


def build(trainer_class, config_class, folder, model=None, **changes):
    names = ("eval_dataset", "forget_dataset", "general_dataset", "near_duplicates", "peft_config")
    options = {name: changes.pop(name) for name in names if name in changes}
    retain = changes.pop("retain_dataset", qa_rows(8, start=20))
    return trainer_class(
        model=tiny_model() if model is None else copy.deepcopy(model),
        args=arguments(config_class, folder, **changes),
        retain_dataset=retain,
        processing_class=tiny_tokenizer(),
        **{"forget_dataset": qa_rows(8), "peft_config": lora_config()} | options,
    )


# ---- divergence ------------------------------------------------------------------------------------------------------


class Exploding(GradientAscentTrainer):
    """Fine for two steps, then a factor that no weight survives."""

    factor = math.nan

    def forget_loss(self, answers):
        return super().forget_loss(answers) * (self.factor if self.state.global_step == 2 else 1.0)


@pytest.mark.parametrize("factor", [math.nan, math.inf])
@pytest.mark.parametrize("lora", [True, False])
def test_divergence_stops_the_run_with_the_last_good_weights(lora, factor, tmp_path, monkeypatch):
    monkeypatch.setattr(Exploding, "factor", factor)
    peft_config = lora_config() if lora else None
    trainer = build(Exploding, GradientAscentConfig, tmp_path / "diverged", peft_config=peft_config)
    with pytest.raises(DivergenceError) as caught:
        trainer.train()
    message = str(caught.value)
    assert message.startswith("step 3: the loss diverged (NaN or infinite gradient);")
    assert "lower learning_rate (now 0.01)" in message
    assert message.endswith(f"The weights before that step are in {tmp_path / 'diverged'}")
    assert trainer.state.global_step == 2
    assert (tmp_path / "diverged" / "trainer_state.json").is_file()
    assert (
        not trainer.log_sums.step_nll and not trainer.log_sums.sums
    )  # nothing of that step is in what is trained next

    good = build(GradientAscentTrainer, GradientAscentConfig, tmp_path / "good", peft_config=peft_config, max_steps=2)
    good.train()
    good.save_model()
    name = "adapter_model.safetensors" if lora else "model.safetensors"
    saved, expected = (load_file(tmp_path / folder / name) for folder in ("diverged", "good"))
    assert all(value.isfinite().all() for value in saved.values())
    assert largest_difference(saved, expected) == 0.0


def test_a_learning_rate_that_explodes_is_caught(tmp_path):
    trainer = build(GradientAscentTrainer, GradientAscentConfig, tmp_path, learning_rate=1e25, peft_config=None)
    with pytest.raises(DivergenceError, match=r"now 1e\+25"):
        trainer.train()


def run_until_it_diverges(folder, **changes):
    """(trainer, message) of gradient ascent, step after step away from all that the model knows."""
    trainer = build(GradientAscentTrainer, GradientAscentConfig, folder, num_train_epochs=20, **changes)
    with pytest.raises(DivergenceError) as caught:
        trainer.train()
    return trainer, str(caught.value)


def test_forget_answers_that_are_past_the_bound_end_the_run(tmp_path):
    trainer, message = run_until_it_diverges(tmp_path, retain_loss="none", max_forget_nll=8.0)
    assert "forget answers have a negative log-likelihood of 8." in message
    assert "nats per token, above max_forget_nll (8; a blind guess has 3.95)" in message  # log(52 words)
    losses = [-line["forget/loss"] for line in step_logs(trainer)]  # of the steps that were taken
    assert max(losses) <= 8.0 and trainer.state.global_step == len(losses) > 5
    steps = {"max_steps": trainer.state.global_step, "retain_loss": "none"}
    good = build(GradientAscentTrainer, GradientAscentConfig, tmp_path / "good", **steps)
    good.train()
    good.save_model()
    saved, expected = (load_file(folder / "adapter_model.safetensors") for folder in (tmp_path, tmp_path / "good"))
    assert largest_difference(saved, expected) == 0.0


def test_retain_answers_that_are_lost_end_the_run_and_an_earlier_checkpoint_is_named(tmp_path):
    changes = {"max_retain_nll": 6.0, "retain_weight": 1e-3, "save_strategy": "steps", "save_steps": 1}
    trainer, message = run_until_it_diverges(tmp_path, **changes)
    assert "retain answers have a negative log-likelihood of 6." in message and "above max_retain_nll (6;" in message
    assert message.endswith(f"are in {tmp_path}, those of an earlier step in checkpoint-{trainer.state.global_step}")


def test_bounds_are_multiples_of_a_blind_guess_unless_they_are_given(tmp_path):
    assert nll_bounds(UnlearnConfig(), 1000) == pytest.approx(
        {"forget": 34.5388, "retain": 20.7233, "general": 20.7233}, rel=1e-5
    )
    given = UnlearnConfig(max_forget_nll=math.inf, max_retain_nll=3.0)
    assert nll_bounds(given, 1000) == {"forget": math.inf, "retain": 3.0, "general": 3.0}
    with pytest.raises(ValueError, match=r"max_retain_nll=0 must be above 0 \(inf: no bound\), or null"):
        UnlearnConfig(max_retain_nll=0)


# ---- stopping --------------------------------------------------------------------------------------------------------


def forget_scores(trainer):
    scores = score_answers(trainer.model, trainer.forget_rows)
    return sum(s.exact_match for s in scores) / 8, sum(s.probability for s in scores) / 8


@pytest.mark.parametrize(
    ("thresholds", "stopped_by"),
    [
        ({"stop_at_forget_exact_match": 0.25}, r"forget exact_match 0\.\d{3} <= 0\.25"),
        ({"stop_at_forget_probability": 0.6}, r"forget probability 0\.\d{3} <= 0\.6"),
        ({"stop_at_forget_rouge_l": 0.5}, r"forget rouge_l 0\.\d{3} <= 0\.5"),
        (
            {"stop_at_forget_probability": 0.99, "stop_at_forget_exact_match": 0.0},
            r"forget exact_match 0\.000 <= 0, forget probability 0\.\d{3} <= 0\.99",
        ),
    ],
)
def test_thresholds_stop_the_run(thresholds, stopped_by, memorizer, tmp_path):
    settings = {"num_train_epochs": 40, "learning_rate": 3e-3, "forget_check_steps": 2, "logging_steps": 1000}
    trainer = build(NPOTrainer, NPOConfig, tmp_path, memorizer, **settings, **thresholds)
    trainer.train()
    assert 2 <= trainer.state.global_step < 80
    assert trainer.state.global_step % 2 == 0
    assert re.fullmatch(stopped_by, trainer.stopped_by)
    exact_match, probability = forget_scores(trainer)
    assert exact_match <= thresholds.get("stop_at_forget_exact_match", 1)
    assert probability <= thresholds.get("stop_at_forget_probability", 1)
    assert len(step_logs(trainer)) == 1  # the last step is logged although it is no logging step


def test_the_first_check_at_which_the_threshold_holds_is_the_one(memorizer, tmp_path):
    trainer = build(NPOTrainer, NPOConfig, tmp_path, memorizer, learning_rate=3e-3, num_train_epochs=40)
    history, step = [], trainer.scores.check_stopping
    trainer.scores.check_stopping = lambda: (history.append(forget_scores(trainer)[1]), step())
    trainer.args.stop_at_forget_probability = 0.6
    trainer.train()
    assert all(value > 0.6 for value in history[:-1]) and history[-1] <= 0.6 and len(history) > 1


@pytest.mark.parametrize(("threshold", "said"), [(0.5, False), (1.0, True)])
def test_a_threshold_that_holds_before_training_is_said(threshold, said, memorizer, tmp_path, caplog):
    trainer = build(NPOTrainer, NPOConfig, tmp_path, memorizer, max_steps=1, stop_at_forget_exact_match=threshold)
    trainer.train()
    words = f"before training: forget exact_match 1.000 <= {threshold:g}. By this rule there is nothing to forget"
    assert (words in caplog.text) is said


def test_a_run_without_thresholds_takes_all_its_steps(memorizer, tmp_path):
    trainer = build(NPOTrainer, NPOConfig, tmp_path, memorizer, num_train_epochs=3)
    trainer.train()
    assert trainer.state.global_step == 6 and trainer.stopped_by is None


# ---- evaluation and logging ------------------------------------------------------------------------------------------


def means(model, rows):
    scores = score_answers(model, rows)
    return (
        sum(s.exact_match for s in scores) / len(scores),
        sum(s.probability for s in scores) / len(scores),
    )


def test_evaluate_scores_the_forget_set_and_the_eval_dataset(memorizer, tmp_path):
    trainer = build(NPOTrainer, NPOConfig, tmp_path, memorizer, eval_dataset=qa_rows(6, start=28))
    metrics = trainer.evaluate()
    assert set(metrics) - {"epoch"} == {
        "eval_forget_exact_match",
        "eval_forget_probability",
        "eval_exact_match",
        "eval_probability",
    }
    exact_match, probability = means(memorizer, encoded_rows(8))
    assert exact_match == metrics["eval_forget_exact_match"] == 1.0
    assert metrics["eval_forget_probability"] == pytest.approx(probability, abs=1e-5)
    exact_match, probability = means(memorizer, encoded_rows(6, 28))
    assert metrics["eval_exact_match"] == pytest.approx(exact_match)
    assert metrics["eval_probability"] == pytest.approx(probability, abs=1e-5)
    assert trainer.state.log_history[-1].items() >= metrics.items()


def test_evaluate_with_several_or_other_or_no_datasets(tmp_path):
    several = {"retain": qa_rows(3, start=20), "unseen": qa_rows(2, start=30)}
    metrics = build(NPOTrainer, NPOConfig, tmp_path, eval_dataset=several).evaluate()
    assert {name for name in metrics if "forget" not in name} - {"epoch"} == {
        "eval_retain_exact_match",
        "eval_retain_probability",
        "eval_unseen_exact_match",
        "eval_unseen_probability",
    }
    assert metrics["eval_unseen_probability"] == pytest.approx(means(tiny_model(), encoded_rows(2, 30))[1], abs=1e-5)

    trainer = build(NPOTrainer, NPOConfig, tmp_path)
    assert set(trainer.evaluate()) - {"epoch"} == {"eval_forget_exact_match", "eval_forget_probability"}
    other = trainer.evaluate(qa_rows(2, start=30), metric_key_prefix="test")
    assert other["test_probability"] == pytest.approx(means(tiny_model(), encoded_rows(2, 30))[1], abs=1e-5)


def test_evaluation_adds_rouge_where_it_is_a_threshold(memorizer, tmp_path):
    trainer = build(NPOTrainer, NPOConfig, tmp_path, memorizer, stop_at_forget_rouge_l=0.1)
    assert trainer.evaluate()["eval_forget_rouge_l"] == 1.0


def test_the_stopping_rule_sees_other_scripts_and_says_so(memorizer, tmp_path, monkeypatch, caplog):
    judging._say_tokenizer.cache_clear()  # said once in a process
    trainer = build(NPOTrainer, NPOConfig, tmp_path, memorizer, stop_at_forget_rouge_l=0.1)
    rows = [{"question": "Where", "answer": "东京1987"}, {"question": "What", "answer": "soup 1987"}]
    monkeypatch.setattr(trainer, "forget_dataset", Dataset.from_list(rows))
    monkeypatch.setattr(scores, "generate_answers", lambda *_: ["北京1987", "北京 1987"])
    # 京 and 1987 of three tokens; 1987 of two words
    assert trainer.evaluate()["eval_forget_rouge_l"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    trainer.evaluate()
    (said,) = [record.getMessage() for record in caplog.records if "ROUGE" in record.getMessage()]
    assert said.startswith("forget set: ROUGE sees 1 of 2 answers by the Unicode tokenizer")


def test_evaluating_along_the_way_changes_nothing(memorizer, tmp_path):
    weights = []
    for changes in ({}, {"eval_strategy": "steps", "eval_steps": 1}):
        trainer = build(SsiuuTrainer, SsiuuConfig, tmp_path, memorizer, num_train_epochs=3, **changes)
        trainer.train()
        weights.append(trainable(trainer.model))
    assert largest_difference(*weights) == 0.0
    assert sum("eval_forget_probability" in line for line in trainer.state.log_history) == 6


def test_logged_names_and_values(memorizer, tmp_path):
    options = {"per_device_train_batch_size": 8, "regularizer_weight": 10.0}
    trainer = build(SsiuuTrainer, SsiuuConfig, tmp_path, memorizer, **options)
    trainer.train()
    first = step_logs(trainer)[0]
    ours = {name: first[name] for name in first if "/" in name}
    assert set(ours) == {
        "forget/loss",
        "forget/probability",
        "influence/negative",
        "influence/positive",
        "regularizer/gradient_ratio",
        "regularizer/loss",
        "regularizer/weight",
        "retain/loss",
        "retain/probability",
    }
    # One batch holds all rows, so the first line is about the model as it was given.
    assert ours["forget/probability"] == pytest.approx(means(memorizer, encoded_rows(8))[1], abs=1e-4)
    retain = score_answers(memorizer, encoded_rows(8, 20))
    assert ours["retain/probability"] == pytest.approx(sum(s.probability for s in retain) / 8, abs=1e-4)
    assert ours["retain/loss"] == pytest.approx(sum(s.nll for s in retain) / sum(s.length for s in retain), rel=1e-3)
    assert ours["influence/negative"] < 0 < ours["influence/positive"]
    assert ours["regularizer/gradient_ratio"] > 0


def test_log_lines_are_means_over_their_steps(memorizer, tmp_path):
    lines = []
    for every in (1, 2):
        trainer = build(SsiuuTrainer, SsiuuConfig, tmp_path, memorizer, logging_steps=every, regularizer_weight=10.0)
        trainer.train()
        lines.append(step_logs(trainer))
    single, double = lines
    assert (len(single), len(double)) == (4, 2)
    for name in ("loss", "forget/loss", "retain/probability", "regularizer/loss"):
        pairs = [(single[i][name] + single[i + 1][name]) / 2 for i in (0, 2)]
        assert [line[name] for line in double] == pytest.approx(pairs, rel=1e-5)
    for name in ("influence/negative", "regularizer/gradient_ratio"):  # of the last step of a line
        assert [line[name] for line in double] == [pytest.approx(single[i][name], rel=1e-5) for i in (1, 3)]


def test_gradient_ratio_is_that_of_the_weighted_parts(memorizer, tmp_path):
    ratios = []
    for changes in ({}, {"regularizer_weight": 20.0}, {"forget_weight": 4.0}):
        changes = {"regularizer_weight": 10.0} | changes
        trainer = build(SsiuuTrainer, SsiuuConfig, tmp_path, memorizer, max_steps=1, **changes)
        trainer.train()
        ratios.append(step_logs(trainer)[0]["regularizer/gradient_ratio"])
    assert ratios[1] == pytest.approx(2 * ratios[0], rel=1e-4)
    assert ratios[2] == pytest.approx(ratios[0] / 4, rel=1e-4)


def test_the_regularizer_alone_speaks_for_the_answer(tmp_path):
    """It weakens what suppresses the answer, so with g constant each step of it raises the answer's probability."""
    alone = {"forget_weight": 0.0, "retain_weight": 0.0, "regularizer_weight": 1.0}
    changes = {"per_device_train_batch_size": 8, "num_train_epochs": 6, "learning_rate": 1e-3} | alone
    trainer = build(SsiuuTrainer, SsiuuConfig, tmp_path, peft_config=None, **changes)
    trainer.train()
    probabilities = [line["forget/probability"] for line in step_logs(trainer)]
    assert probabilities == sorted(probabilities)
    assert probabilities[-1] > 1.1 * probabilities[0]


def test_ssiuu_on_gradient_ascent_needs_no_reference(memorizer, tmp_path):
    trainer = build(SsiuuTrainer, SsiuuConfig, tmp_path, memorizer, backbone="gradient_ascent", max_steps=1)
    trainer.train()
    assert trainer.reference._logps is None
    assert step_logs(trainer)[0]["forget/loss"] < 0


def test_without_a_retain_loss_there_is_no_retain_part(tmp_path):
    trainer = build(NPOTrainer, NPOConfig, tmp_path, retain_loss="none", retain_dataset=None)
    trainer.train()
    line = step_logs(trainer)[0]
    assert {name for name in line if "/" in name} == {"forget/loss", "forget/probability"}
    assert line["loss"] == pytest.approx(line["forget/loss"], rel=1e-5)


# ---- errors ----------------------------------------------------------------------------------------------------------

OVERLAP = qa_rows(3, start=6)  # rows 6 and 7 are forget rows
NEAR = Dataset.from_list([{"question": "WHAT does Ben eat?", "answer": "in Oslo"}])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"forget_dataset": None}, "forget_dataset is missing"),
        ({"retain_dataset": None}, "retain_loss='nll' needs a retain_dataset; pass one, or retain_loss='none'"),
        ({"retain_dataset": None, "retain_loss": "kl"}, "retain_loss='kl' needs a retain_dataset"),
        ({"forget_dataset": qa_rows(0)}, "forget_dataset is empty"),
        ({"retain_dataset": qa_rows(0)}, "retain_dataset is empty"),
        ({"retain_dataset": OVERLAP}, "rows of the forget set that are in the retain set too: 2 (forget rows 6, 7;"),
        ({"retain_dataset": OVERLAP, "retain_loss": "none"}, "in the retain set too: 2"),
        ({"retain_dataset": NEAR}, "forget set row 1 ('What does Ben eat') asks the same as retain set row 0 ("),
        ({"general_dataset": NEAR}, "forget set row 1 ('What does Ben eat') asks the same as general set row 0 ("),
        ({"max_length": 8}, "forget_dataset row 2: max_length=8 cuts off the whole answer"),
        ({"eval_dataset": {"mine": [{"question": "a"}]}}, "mine: columns ['question'] fit no row format"),
        ({"eval_dataset": {"mine": qa_rows(0)}}, "mine is empty"),
        ({"eval_dataset": {"forget": qa_rows(2, 30)}}, "a set called 'forget' would hide the forget set's own scores"),
        ({"peft_config": lora_config(layers_to_transform=[2])}, "layers_to_transform"),
    ],
)
def test_data_errors(changes, message, tmp_path):
    with pytest.raises(InputError) as caught:
        build(NPOTrainer, NPOConfig, tmp_path, **changes)
    assert message in str(caught.value)


def test_near_duplicates_can_be_allowed(tmp_path):
    build(NPOTrainer, NPOConfig, tmp_path, retain_dataset=NEAR, near_duplicates="allow")


def test_model_errors(tmp_path):
    common = {"args": arguments(NPOConfig, tmp_path), "forget_dataset": qa_rows(4), "retain_dataset": qa_rows(4, 20)}
    with pytest.raises(InputError, match="processing_class is missing, and the model came from no folder"):
        NPOTrainer(model=tiny_model(), **common)
    with pytest.raises(InputError, match="model already carries an adapter; pass peft_config=None"):
        NPOTrainer(
            model=with_trained_adapter(tiny_model()),
            processing_class=tiny_tokenizer(),
            peft_config=lora_config(),
            **common,
        )


@pytest.mark.parametrize("args", [UnlearnConfig, TrainingArguments])
def test_the_wrong_class_of_arguments_is_an_error(args, tmp_path):
    with pytest.raises(InputError, match=f"NPOTrainer needs args of class NPOConfig, got {args.__name__}"):
        NPOTrainer(
            model=tiny_model(),
            args=args(output_dir=str(tmp_path), use_cpu=True),
            forget_dataset=qa_rows(4),
            retain_dataset=qa_rows(4, start=20),
            processing_class=tiny_tokenizer(),
        )


def test_default_arguments_are_those_of_the_method(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer = SsiuuTrainer(
        model=tiny_model(),
        forget_dataset=qa_rows(4),
        retain_dataset=qa_rows(4, start=20),
        processing_class=tiny_tokenizer(),
    )
    assert isinstance(trainer.args, SsiuuConfig) and trainer.args.output_dir == "outputs"


def test_peft_config_without_targets_adapts_every_linear_map_but_the_output_embedding(tmp_path):
    config = lora_config(task_type=None)
    trainer = build(NPOTrainer, NPOConfig, tmp_path, peft_config=config)
    adapted = {name.split(".lora_A")[0].rpartition(".")[2] for name in trainable(trainer.model) if "lora_A" in name}
    assert adapted == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert trainer.model.peft_config["default"].task_type == "CAUSAL_LM"


def test_a_saved_adapter_is_the_unlearned_model(memorizer, tmp_path):
    memorizer.save_pretrained(tmp_path / "base")
    trainer = NPOTrainer(
        model=str(tmp_path / "base"),
        args=arguments(NPOConfig, tmp_path / "out"),
        forget_dataset=qa_rows(8),
        retain_dataset=qa_rows(8, start=20),
        processing_class=tiny_tokenizer(),
        peft_config=lora_config(),
    )
    trainer.train()
    trainer.save_model()

    loaded = load_model(str(tmp_path / "out"))
    ids = torch.tensor([encoded_rows(1)[0]["input_ids"]])
    torch.testing.assert_close(loaded(input_ids=ids).logits, trainer.model.eval()(input_ids=ids).logits)
    tokenizer = load_tokenizer(str(tmp_path / "out"))
    assert tokenizer.get_vocab() == tiny_tokenizer().get_vocab()
    assert generate_answers(loaded, tokenizer, [ids[0, :6].tolist()], max_new_tokens=3)


@pytest.mark.parametrize("layer", [2, -1, "1"])
@pytest.mark.parametrize("when", ["class", "made"])
def test_a_block_that_the_model_does_not_have_is_named_before_training(layer, when, tmp_path):
    class Hidden(NPOTrainer):
        hidden_layers = (0, layer) if when == "class" else (1,)

        def __init__(self, *arguments, **keywords):
            super().__init__(*arguments, **keywords)
            self.hidden_layers = [1, layer]

    words = rf"Hidden.hidden_layers: layer={layer!r}: the model has no such block; it has blocks 0 to 1"
    if when == "class":
        with pytest.raises(InputError, match=words):
            build(Hidden, NPOConfig, tmp_path)
    else:
        trainer = build(Hidden, NPOConfig, tmp_path)
        with pytest.raises(InputError, match=words):
            trainer.train()
        assert trainer.state.global_step == 0 and not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            PromptTuningConfig(num_virtual_tokens=4),
            "'PromptTuningConfig' is of type PROMPT_TUNING, which adds",
        ),
        (
            PrefixTuningConfig(num_virtual_tokens=4),
            "PREFIX_TUNING, which adds inputs and cannot be merged into",
        ),
        (LoraConfig(task_type="SEQ_CLS"), "'LoraConfig' has the task_type 'SEQ_CLS', which is no causal"),
    ],
)
def test_an_adapter_that_could_not_be_attacked_or_pushed_is_not_made(config, words, tmp_path):
    with pytest.raises(InputError, match=words) as refused:
        build(NPOTrainer, NPOConfig, tmp_path, peft_config=config)
    assert "\n" not in str(refused.value)
