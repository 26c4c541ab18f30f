"""Scores of whole data sets while a model is trained, and when to stop by them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from llm_unlearn.data import encode_prompt, row_format, split_row
from llm_unlearn.data.collators import EncodedRow
from llm_unlearn.errors import InputError
from llm_unlearn.metrics import rouge_scores
from llm_unlearn.models.judging import tokenizers_of
from llm_unlearn.models.scoring import generate_answers, mean_scores, score_answers

if TYPE_CHECKING:
    from llm_unlearn.training.trainer import UnlearnTrainer

logger = logging.getLogger(__name__)


class TrainingScores:
    """Of one trainer.

    Args:
        eval_rows: data sets that are scored beside the forget set, by name.
    """

    def __init__(self, trainer: UnlearnTrainer, eval_rows: Mapping[str, Sequence[EncodedRow]]):
        self.trainer, self.eval_rows = trainer, eval_rows
        self.stopped_by: str | None = None
        self._check_best_metric()

    def of_forget_set(self) -> dict[str, float]:
        """Mean scores on the whole forget set, those that the stopping rule needs and the cheap ones always."""
        trainer = self.trainer
        scores = self._of(trainer.forget_rows)
        if "rouge_l" in trainer.args.stopping_thresholds:
            model = trainer.accelerator.unwrap_model(trainer.model)
            form = row_format(trainer.forget_dataset.column_names)
            pairs = [split_row(row, form) for row in trainer.forget_dataset]
            prompts = [encode_prompt(trainer.processing_class, prompt) for prompt, _ in pairs]
            if trainer.is_world_process_zero():
                tokenizers_of("forget", [answer for _, answer in pairs])  # says which
            texts = generate_answers(model, trainer.processing_class, prompts)
            recalls = [rouge_scores(t, a)["rougeL_recall"] for t, (_, a) in zip(texts, pairs, strict=True)]
            scores["rouge_l"] = sum(recalls) / len(recalls)
        return scores

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
        scores = self.of_forget_set()
        reached = torch.tensor(float(all(scores[name] <= limit for name, limit in thresholds.items())))
        # Processes score alike, but rounding may differ on GPUs: one that stops alone would leave the others waiting.
        if trainer.accelerator.reduce(reached.to(trainer.args.device), "sum") > 0:
            return ", ".join(f"forget {name} {scores[name]:.3f} <= {limit:g}" for name, limit in thresholds.items())
        return None

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
