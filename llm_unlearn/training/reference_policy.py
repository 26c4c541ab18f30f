"""The reference policy: the model as it was before training, and what it said.

A fresh adapter is switched off; a model without one is copied where a loss compares whole distributions, and else only
the log-probabilities of its forget answers are kept, on disk by what they depend on.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers import PreTrainedModel, TrainingArguments

from llm_unlearn.data.collators import ALTERNATE, FORGET, GENERAL, RETAIN, EncodedRow
from llm_unlearn.data.encoding import IGNORED
from llm_unlearn.files.batches import BatchRunner
from llm_unlearn.files.outcomes import remember, weights_digest
from llm_unlearn.models.adapters import adapter_removed
from llm_unlearn.models.answers import Answers, forward_answers
from llm_unlearn.models.scoring import AnswerScore, evaluation_mode, score_answers
from llm_unlearn.training.losses import COMPARING_LOSSES

if TYPE_CHECKING:
    from llm_unlearn.training.trainer import UnlearnTrainer

logger = logging.getLogger(__name__)

FILE = "reference_log_probs.json"


class ReferencePolicy:
    """Of one trainer.

    Args:
        adapter_is_fresh: the trainer made the adapter, so that it changes nothing yet and can simply be switched off.
            An adapter that arrives with the model belongs to the reference.
    """

    def __init__(self, trainer: UnlearnTrainer, adapter_is_fresh: bool):
        self.trainer, self.adapter_is_fresh = trainer, adapter_is_fresh
        self.model: nn.Module | None = None  # a frozen copy, where there is no adapter to switch off
        self._logps: dict[str, torch.Tensor] | None = None

    @property
    def compared_roles(self) -> list[int]:
        """Roles of the rows whose logits or hidden states a loss compares with those before training."""
        args, roles = self.trainer.args, []
        if self.trainer.needs & {"reference_logits", "reference_hidden_states"}:
            roles += [FORGET, ALTERNATE]
        if args.retain_loss in COMPARING_LOSSES:
            roles.append(RETAIN)
        if self.trainer.row_sets["general"] is not None and args.general_loss in COMPARING_LOSSES:
            roles.append(GENERAL)
        return roles

    @property
    def logps(self) -> torch.Tensor:
        """Answer log-probs of all forget rows, (forget rows,), under the model as it was before training."""
        return self._known["forget"]

    @property
    def _known(self) -> dict[str, torch.Tensor]:
        """The same of forget rows and, where there are any, of alternate ones, which are known together."""
        if self._logps is None:
            trainer = self.trainer
            model = trainer.accelerator.unwrap_model(trainer.model)
            rows = [*trainer.forget_rows, *(trainer.row_sets["alternate"] or [])]
            known = reference_log_probs(model, rows, trainer.args, self.adapter_is_fresh)
            count = len(trainer.forget_rows)
            parts = torch.tensor(known, device=trainer.args.device).split([count, len(rows) - count])
            self._logps = dict(zip(("forget", "alternate"), parts, strict=True))
        return self._logps

    def prepare(self) -> None:
        """Before a checkpoint is loaded: the reference is the model as it was given."""
        if "reference_logps" in self.trainer.needs:
            _ = self._known
        if self.compared_roles and not self.adapter_is_fresh and self.model is None:
            # A model that will be sharded has been left on the CPU.
            self.model = copy.deepcopy(self.trainer.model).requires_grad_(False).eval().to(self.trainer.args.device)

    @contextlib.contextmanager
    def running(self) -> Iterator[nn.Module]:
        """The model as it was before training."""
        if self.adapter_is_fresh:
            model = self.trainer.accelerator.unwrap_model(self.trainer.model)
            with adapter_removed(model), evaluation_mode(model):  # RMU froze some blocks of the adapter
                yield model
        else:
            yield self.model

    def add_to(self, answers: Answers, inputs: dict[str, torch.Tensor]) -> None:
        """Give a batch's answers what the losses compare them with."""
        args, roles = self.trainer.args, inputs["roles"]
        if "reference_logps" in self.trainer.needs:
            answers.reference_logps = torch.zeros(len(roles), device=roles.device)
            for role, known in ((FORGET, self._known["forget"]), (ALTERNATE, self._known["alternate"])):
                rows = torch.nonzero(roles == role).flatten()
                answers.reference_logps[rows] = known[inputs["indices"][rows]]
        if self.compared_roles:
            rows = torch.isin(roles, torch.tensor(self.compared_roles, device=roles.device))
            if args.sharded_by:  # then all processes must run it alike, with rows to compare or not
                rows = torch.ones_like(rows)
            self._compare(answers, rows, {name: value[rows] for name, value in inputs.items()})

    @torch.no_grad()
    def _compare(self, answers: Answers, rows: torch.Tensor, inputs: dict[str, torch.Tensor]) -> None:
        """Give these rows, (rows of the batch,) bool, what the model before training says and holds."""
        tokens = rows[answers.token_rows]

        def among_all(values: torch.Tensor) -> torch.Tensor:
            whole = values.new_zeros(len(tokens), values.shape[1])
            whole[tokens] = values
            return whole

        if not rows.any():
            if answers.logits is not None:
                answers.reference_logits = torch.zeros_like(answers.logits)
            hidden = answers.hidden_states.items()
            answers.reference_hidden_states = {layer: torch.zeros_like(states) for layer, states in hidden}
            return
        args = self.trainer.args
        with self.running() as reference:
            said = forward_answers(
                reference,
                inputs,
                chunk_size=args.logits_chunk_size,
                split_long=not args.sharded_by,
                hidden_layers=self.trainer.hidden_layers,
            )
        if said.logits is not None:
            answers.reference_logits = among_all(said.logits)
        hidden = said.hidden_states.items()
        answers.reference_hidden_states = {layer: among_all(states) for layer, states in hidden}


def reference_log_probs(
    model: PreTrainedModel, rows: Sequence[EncodedRow], args: TrainingArguments, adapter_is_fresh: bool
) -> list[float]:
    """Log-probability of the whole answer of each row, (rows,), under `model` as it is; by tokens' weights if any.

    They are kept in `output_dir`, and taken from there where weights and rows are the same: a run that was killed goes
    on with the very same numbers, and of several processes one computes.

    Args:
        args: says where to, how many rows at a time, and whether with a progress bar.
        adapter_is_fresh: what is trainable changes nothing yet, whatever its weights are.
    """
    fresh = (
        {name for name, parameter in model.named_parameters() if parameter.requires_grad} if adapter_is_fresh else ()
    )

    def compute() -> dict[str, list[float]]:
        runner = BatchRunner(show_progress=not args.disable_tqdm and args.should_log)
        scores = score_answers(model, rows, args.per_device_eval_batch_size, runner=runner)
        return {"log_probs": [_log_prob(row, score) for row, score in zip(rows, scores, strict=True)]}

    key = [
        weights_digest(model, without=fresh),
        [[row["input_ids"], row["labels"], *([row["weights"]] if "weights" in row else [])] for row in rows],
        args.per_device_eval_batch_size,
    ]
    try:
        return remember(Path(args.output_dir) / FILE, key, compute)["log_probs"]
    except OSError as error:
        logger.warning("reference log-probabilities are not kept on disk: %s", error)
        return compute()["log_probs"]


def _log_prob(row: EncodedRow, score: AnswerScore) -> float:
    if "weights" not in row:
        return -score.nll
    weights = [weight for weight, label in zip(row["weights"], row["labels"], strict=True) if label != IGNORED]
    return math.fsum(weight * logp for weight, logp in zip(weights, score.token_logps, strict=True))
