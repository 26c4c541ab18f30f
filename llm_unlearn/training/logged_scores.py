"""What a trainer measures while it trains: sums behind its log lines, scores of whole data sets, when to stop."""

from __future__ import annotations

import logging

import torch

from llm_unlearn.data import encode_dataset, encode_prompt, row_format, split_row
from llm_unlearn.data.collators import PART_ROLES
from llm_unlearn.errors import InputError
from llm_unlearn.metrics import rouge_scores
from llm_unlearn.models.answers import Answers
from llm_unlearn.models.scoring import generate_answers, mean_scores, score_answers

logger = logging.getLogger(__name__)


class LoggedScores:
    """A mixin before `Trainer`."""

    def score_forget(self) -> dict[str, float]:
        """Mean scores on the whole forget set, those that the stopping rule needs and the cheap ones always."""
        model = self.accelerator.unwrap_model(self.model)
        scores = mean_scores(score_answers(model, self.forget_rows, self.args.per_device_eval_batch_size))
        if "rouge_l" in self.args.stopping_thresholds:
            form = row_format(self.forget_dataset.column_names)
            pairs = [split_row(row, form) for row in self.forget_dataset]
            prompts = [encode_prompt(self.processing_class, prompt) for prompt, _ in pairs]
            texts = generate_answers(model, self.processing_class, prompts)
            recalls = [rouge_scores(t, a)["rougeL_recall"] for t, (_, a) in zip(texts, pairs, strict=True)]
            scores["rouge_l"] = sum(recalls) / len(recalls)
        return scores

    def check_stopping(self) -> None:
        """Stop where every given stop_at_forget_* threshold holds."""
        if self.state.global_step % self.args.forget_check_steps:
            return
        if reached := self._thresholds_reached():
            self.stopped_by = reached
            self.control.should_training_stop = True
            self.control.should_log = True

    def warn_if_forgotten(self) -> None:
        """Say so where the thresholds hold before the first step: the run would stop at once, and prove nothing."""
        if self.state.global_step == 0 and (reached := self._thresholds_reached()) and self.is_world_process_zero():
            logger.warning(
                "before training: %s. By this rule there is nothing to forget: did the model ever know these rows? "
                "Otherwise lower the threshold",
                reached,
            )

    def _thresholds_reached(self) -> str | None:
        """The scores where every given stop_at_forget_* threshold holds, else None; the same on all processes."""
        thresholds = self.args.stopping_thresholds
        if not thresholds:
            return None
        scores = self.score_forget()
        reached = torch.tensor(float(all(scores[name] <= limit for name, limit in thresholds.items())))
        # Processes score alike, but rounding may differ on GPUs: one that stops alone would leave the others waiting.
        if self.accelerator.reduce(reached.to(self.args.device), "sum") > 0:
            return ", ".join(f"forget {name} {scores[name]:.3f} <= {limit:g}" for name, limit in thresholds.items())
        return None

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval") -> dict[str, float]:
        """Score the forget set and every `eval_dataset`; logs and returns mean probability and exact match of each."""
        row_sets = dict(self._eval_rows)
        if eval_dataset is not None:
            rows = encode_dataset(eval_dataset, self.processing_class, self.args.max_length, metric_key_prefix)
            row_sets = {metric_key_prefix: rows}
        metrics = {f"{metric_key_prefix}_forget_{name}": value for name, value in self.score_forget().items()}
        model = self.accelerator.unwrap_model(self.model)
        for set_name, rows in row_sets.items():
            scores = mean_scores(score_answers(model, rows, self.args.per_device_eval_batch_size))
            prefix = metric_key_prefix if set_name == metric_key_prefix else f"{metric_key_prefix}_{set_name}"
            metrics |= {f"{prefix}_{name}": value for name, value in scores.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    @torch.no_grad()
    def _sum_up(self, parts: dict[str, torch.Tensor], answers: Answers, counts: torch.Tensor) -> None:
        """Add this micro-batch's share to what the next log line shows."""
        for name, value in parts.items():
            self.add_to_log(f"{name}/loss", value.detach())
        for name, role in PART_ROLES.items():
            if name in parts:  # also where this process has none of those rows: log() sums over processes by name
                part = getattr(answers, name)
                probability = (part.logps.detach() / part.lengths).exp().sum() / counts[role][0]
                self.add_to_log(f"{name}/probability", probability)
                nll = -part.token_logps.detach().sum() / counts[role][1]
                self._step_nll[name] = self._step_nll.get(name, 0.0) + nll

    def add_to_log(self, name: str, value: torch.Tensor) -> None:
        """Add a micro-batch's share of a global mean; log lines show the mean over their steps.

        Every process must add to the same names, zero where it has no such rows.
        """
        total, steps = self._sums.get(name, (torch.zeros((), device=self.args.device), set()))
        steps.add(self.state.global_step)
        self._sums[name] = (total + value, steps)

    def training_step(self, *arguments, **keywords) -> torch.Tensor:
        """As in transformers, whose own sum of the losses starts anew where a run is resumed between two log lines."""
        loss = super().training_step(*arguments, **keywords)
        self.add_to_log("loss", loss / self.accelerator.num_processes)
        return loss

    def log_sums(self) -> dict[str, torch.Tensor]:
        """What has been added since the last log line, for a checkpoint: of each name the share of every process,
        (processes,), and the numbers of the steps. Every process must call it.
        """
        sums = {}
        for name in sorted(self._sums):
            share, steps = self._sums[name]
            sums[f"{name}: shares"] = self.accelerator.gather(share.detach().reshape(1))
            sums[f"{name}: steps"] = torch.tensor(sorted(steps))
        return sums

    def load_log_sums(self, sums: dict[str, torch.Tensor]) -> None:
        """Take over what `log_sums` gave; {}: nothing has been added."""
        self._sums = {}
        processes, own = self.accelerator.num_processes, self.accelerator.process_index
        for key, shares in sums.items():
            name, _, what = key.rpartition(": ")
            if what == "shares":
                if len(shares) != processes:  # of a run with more or fewer of them: the first process takes all
                    shares = torch.stack([shares.sum(), *[torch.zeros_like(shares[0])] * (processes - 1)])
                self._sums[name] = (shares[own].clone(), set(sums[f"{name}: steps"].tolist()))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if self._sums and "loss" in logs:
            names = sorted(self._sums)
            totals = torch.stack([self._sums[name][0] / len(self._sums[name][1]) for name in names])
            totals = self.accelerator.reduce(totals, "sum").tolist()
            logs = {**logs, **dict(zip(names, totals, strict=True))}
            self._sums = {}
        super().log(logs, start_time)

    def _check_best_metric(self) -> None:
        """Checkpoints can only be compared by what `evaluate` measures."""
        wanted = self.args.metric_for_best_model
        if wanted is None or not (self.args.load_best_model_at_end or self.args.save_strategy == "best"):
            return
        sets = ["forget", *self._eval_rows]
        known = [name if name == "eval" else f"eval_{name}" for name in sets]
        known = [f"{name}_{score}" for name in known for score in ("exact_match", "probability")]
        if f"eval_{wanted.removeprefix('eval_')}" not in known:
            raise InputError(f"metric_for_best_model={wanted!r} is not measured; choose from {', '.join(known)}")
