"""What the model said before training, kept on disk by what it depends on."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedModel, TrainingArguments

from llm_unlearn.data.collators import EncodedRow
from llm_unlearn.files.batches import BatchRunner
from llm_unlearn.files.outcomes import remember, weights_digest
from llm_unlearn.models.scoring import score_answers

logger = logging.getLogger(__name__)

FILE = "reference_log_probs.json"


def reference_log_probs(
    model: PreTrainedModel, rows: Sequence[EncodedRow], args: TrainingArguments, adapter_is_fresh: bool
) -> list[float]:
    """Log-probability of the whole answer of each row, (rows,), under `model` as it is.

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
        return {"log_probs": [-score.nll for score in scores]}

    key = [
        weights_digest(model, without=fresh),
        [[row["input_ids"], row["labels"]] for row in rows],
        args.per_device_eval_batch_size,
    ]
    try:
        return remember(Path(args.output_dir) / FILE, key, compute)["log_probs"]
    except OSError as error:
        logger.warning("reference log-probabilities are not kept on disk: %s", error)
        return compute()["log_probs"]
