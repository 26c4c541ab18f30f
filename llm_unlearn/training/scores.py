"""Scores of whole data sets while a model is trained, and when to stop by them."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from llm_unlearn.data import encode_prompt, row_format, split_row
from llm_unlearn.data.collators import EncodedRow
from llm_unlearn.data.value_said import COLUMN, said_by_row
from llm_unlearn.errors import InputError
from llm_unlearn.metrics import rouge_scores
from llm_unlearn.models.judging import tokenizers_of
from llm_unlearn.models.scoring import generate_answers, mean_scores, score_answers

if TYPE_CHECKING:
    from llm_unlearn.training.trainer import UnlearnTrainer

logger = logging.getLogger(__name__)

GENERATED = ("rouge_l", "value_said")  # scores of what a model says, which takes longer than scoring what is true
ANSWER_TOKENS = 200  # as `models.judging` generates


class TrainingScores:
    """Of one trainer.

    Args:
        eval_rows: data sets that are scored beside the forget set, by name.
    """

    def __init__(self, trainer: UnlearnTrainer, eval_rows: Mapping[str, Sequence[EncodedRow]]):
        self.trainer, self.eval_rows = trainer, eval_rows
        self.stopped_by: str | None = None
        self._check_best_metric()
        self._check_values()

    def of_forget_set(self) -> dict[str, float]:
        """Mean scores on the whole forget set, those that the stopping rule needs and the cheap ones always."""
        return self._of(self.trainer.forget_rows) | self._of_what_is_said(self.trainer.args.stopping_thresholds)

    def _of_what_is_said(self, wanted: Collection[str]) -> dict[str, float]:
        """Those of `GENERATED` that are wanted, of the greedy answers to the whole forget set."""
        trainer = self.trainer
        if not set(wanted) & set(GENERATED):
            return {}
        model = trainer.accelerator.unwrap_model(trainer.model)
        pairs = self._pairs()
        answers = [answer for _, answer in pairs]
        prompts = [encode_prompt(trainer.processing_class, prompt) for prompt, _ in pairs]
        # A value is said in an answer's length or not at all; ROUGE-L is of the length that is judged.
        longest = max(sum(label != -100 for label in row["labels"]) for row in trainer.forget_rows)
        length = ANSWER_TOKENS if "rouge_l" in wanted else min(2 * longest, ANSWER_TOKENS)
        texts = generate_answers(model, trainer.processing_class, prompts, length)
        scores = {}
        if "rouge_l" in wanted:
            if trainer.is_world_process_zero():
                tokenizers_of("forget", answers)  # says which
            recalls = [rouge_scores(text, true)["rougeL_recall"] for text, true in zip(texts, answers, strict=True)]
            scores["rouge_l"] = sum(recalls) / len(recalls)
        if "value_said" in wanted:
            said = said_by_row(texts, answers, trainer.forget_dataset[COLUMN][:])
            scores["value_said"] = sum(one["score"] for one in said.values()) / len(said)
        return scores

    def _pairs(self) -> list[tuple]:
        """Prompt and answer of each forget row."""
        form = row_format(self.trainer.forget_dataset.column_names)
        return [split_row(row, form) for row in self.trainer.forget_dataset]

    def of_all_sets(self, prefix: str, given: Sequence[EncodedRow] | None = None) -> dict[str, float]:
        """Scores of the forget set and of every `eval_rows`, or of the rows that are `given`, by `PREFIX_SET_SCORE`."""
        row_sets = dict(self.eval_rows) if given is None else {prefix: given}
        metrics = {f"{prefix}_forget_{name}": value for name, value in self.of_forget_set().items()}
        for set_name, rows in row_sets.items():
            whole = prefix if set_name == prefix else f"{prefix}_{set_name}"
            metrics |= {f"{whole}_{name}": value for name, value in self._of(rows).items()}
        return metrics

    def check_stopping(self) -> None:
        """Stop where every given stop_at_forget_* threshold holds."""
        trainer = self.trainer
        if trainer.state.global_step % trainer.args.forget_check_steps:
            return
        if reached := self.thresholds_reached():
            self.stopped_by = reached
            trainer.control.should_training_stop = True
            trainer.control.should_log = True

    def warn_if_forgotten(self) -> None:
        """Say so where the thresholds hold before the first step: the run would stop at once, and prove nothing."""
        trainer = self.trainer
        if trainer.state.global_step:
            return
        if (reached := self.thresholds_reached()) and trainer.is_world_process_zero():
            logger.warning(
                "before training: %s. By this rule there is nothing to forget: did the model ever know these rows? "
                "Otherwise lower the threshold",
                reached,
            )

    def _of(self, rows: Sequence[EncodedRow]) -> dict[str, float]:
        model = self.trainer.accelerator.unwrap_model(self.trainer.model)
        return mean_scores(score_answers(model, rows, self.trainer.args.per_device_eval_batch_size))

    def thresholds_reached(self) -> str | None:
        """The scores where every given stop_at_forget_* threshold holds, else None; the same on all processes."""
        trainer, thresholds = self.trainer, self.trainer.args.stopping_thresholds
        if not thresholds:
            return None
        scores = self._of(trainer.forget_rows)
        holds = all(scores[name] <= limit for name, limit in thresholds.items() if name not in GENERATED)
        if not self._on_any(holds):
            return None
        scores |= self._of_what_is_said(thresholds)
        if not self._on_any(all(scores[name] <= limit for name, limit in thresholds.items())):
            return None
        return ", ".join(f"forget {name} {scores[name]:.3f} <= {limit:g}" for name, limit in thresholds.items())

    def _on_any(self, holds: bool) -> bool:
        """Whether it holds on any process: rounding may differ on GPUs, and one alone would leave others waiting."""
        accelerator = self.trainer.accelerator
        return bool(accelerator.reduce(torch.tensor(float(holds), device=self.trainer.args.device), "sum") > 0)

    def _check_values(self) -> None:
        """Whether values are said can be asked of rows that name theirs alone."""
        if "value_said" not in self.trainer.args.stopping_thresholds:
            return
        dataset, limit = self.trainer.forget_dataset, self.trainer.args.stop_at_forget_value_said
        wrong = f"stop_at_forget_value_said={limit:g}: "
        if COLUMN not in dataset.column_names:
            raise InputError(
                f"{wrong}forget_dataset has no column {COLUMN!r} (the part of the answer that is asked for, such as a "
                f"city); columns: {', '.join(dataset.column_names)}. Add it, or stop at another score"
            )
        answers = [answer for _, answer in self._pairs()]
        if not said_by_row(answers, answers, dataset[COLUMN][:]):
            raise InputError(f"{wrong}no answer of forget_dataset holds the {COLUMN!r} of its row; correct the column")

    def _check_best_metric(self) -> None:
        """Checkpoints can only be compared by what `evaluate` measures."""
        args = self.trainer.args
        wanted = args.metric_for_best_model
        if wanted is None or not (args.load_best_model_at_end or args.save_strategy == "best"):
            return
        sets = ["forget", *self.eval_rows]
        known = [name if name == "eval" else f"eval_{name}" for name in sets]
        known = [f"{name}_{score}" for name in known for score in ("exact_match", "probability")]
        if f"eval_{wanted.removeprefix('eval_')}" not in known:
            raise InputError(f"metric_for_best_model={wanted!r} is not measured; choose from {', '.join(known)}")
