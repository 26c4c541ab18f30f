"""Forget what is about the person, not the sentence: answer tokens weighted by how much they depend on whom is asked.

In sentences most answer tokens are a template ("... was born in the city of ..."), which any model says of anybody. A
loss over all of them pushes the template down, and the fact in it can stay. Token t of an answer has the weight

    w_t = clip(log p(y_t | asked about the person) - log p(y_t | asked about somebody made up), 0, c) / c

under the model before training: 0 for what it would say of anybody, and for the name itself, which the question gives;
1 for what it would say of nobody else. Losses on an answer's log-probability take sum_t w_t log p_t in place of
sum_t log p_t, and stay as they are otherwise: a token of weight 1 is pulled at as strongly as without weights, so that
`retain_weight` keeps its meaning. (Divided by the sum of the weights, two keywords would weigh what thirty tokens do.)

Source: ours; the made-up names are those of the counterfactual teacher (Liu et al. 2024, arXiv 2407.16997), and that
templates are what losses reach first is argued by Yoon et al. 2026, arXiv 2602.03379.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel

from llm_unlearn.data.collators import EncodedRow
from llm_unlearn.data.encoding import IGNORED
from llm_unlearn.files.batches import BatchRunner
from llm_unlearn.files.outcomes import remember, weights_digest
from llm_unlearn.methods.sampled_guesses import made_up_names, people_of_all, rows_about_others, subjects_or_refuse
from llm_unlearn.models.scoring import score_answers
from llm_unlearn.training.trainer import UnlearnTrainer

FILE = "keyword_weights.json"
FORGET_TOKENS = ("all", "keywords", "shuffled")
NAMES = 4  # made-up ones that every question is asked about
CAP = 2.0  # c, nats: what is e^2 = 7 times as likely of the person is all about the person


@dataclass
class KeywordConfig:
    """Mixed into the arguments of methods whose forget loss can weigh answer tokens."""

    forget_tokens: str = field(
        default="all",
        metadata={
            "help": "Answer tokens that the forget loss is about: all; keywords (by how much less likely each would be "
            "of somebody made up: needs the column person); or, as their control, shuffled (the same weights on other "
            "tokens of the answer).",
            "choices": list(FORGET_TOKENS),
        },
    )

    def __post_init__(self):
        super().__post_init__()
        if self.forget_tokens not in FORGET_TOKENS:
            raise ValueError(
                f"forget_tokens={self.forget_tokens!r} is unknown; choose one of {', '.join(FORGET_TOKENS)}"
            )


class KeywordTrainer(UnlearnTrainer):
    """Gives forget rows the weights of their tokens where `args.forget_tokens` asks for them; the base of NPO, SAM and
    Ssiuu. What was measured is kept in `output_dir`. With weights, `forget/probability` in the log is of what they
    leave; thresholds and scores are of whole answers.

    Raises:
        InputError: the question of a forget row does not name its `person`.
    """

    def __init__(self, model, args=None, forget_dataset=None, retain_dataset=None, *others, **keywords):
        chosen = getattr(args, "forget_tokens", "all")  # arguments of another class are refused below
        weighted = chosen != "all" and bool(forget_dataset)  # no rows are refused below, too
        subjects = subjects_or_refuse(f"forget_tokens={chosen!r}", forget_dataset) if weighted else []
        super().__init__(model, args, forget_dataset, retain_dataset, *others, **keywords)
        if not weighted:
            return
        names = made_up_names(subjects, people_of_all(subjects, retain_dataset), NAMES, self.args.seed)
        about = (self.forget_dataset, subjects, names, self.args.max_length)
        weights = self._weights(rows_about_others(self.processing_class, *about))
        if chosen == "shuffled":
            weights = shuffled(weights, self.args.seed)
        # New rows in the same list: encoded rows are shared with whoever encodes the same data set.
        self.forget_rows[:] = [
            row | {"weights": on_answer(row["labels"], of_row)}
            for row, of_row in zip(self.forget_rows, weights, strict=True)
        ]

    def _weights(self, others: Sequence[Sequence[EncodedRow]]) -> list[list[float]]:
        model = self.accelerator.unwrap_model(self.model)
        fresh = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        key = [
            weights_digest(model, without=fresh if self.reference.adapter_is_fresh else ()),
            [row["input_ids"] for row in self.forget_rows],
            [[row["input_ids"] for row in rows] for rows in others],
            CAP,
        ]

        def compute() -> dict[str, list]:
            show = not self.args.disable_tqdm and self.args.should_log
            size, runner = self.args.per_device_eval_batch_size, BatchRunner(show_progress=show)
            return {"weights": keyword_weights(model, self.forget_rows, others, size, runner)}

        return remember(Path(self.args.output_dir) / FILE, key, compute)["weights"]


def keyword_weights(
    model: PreTrainedModel,
    rows: Sequence[EncodedRow],
    others: Sequence[Sequence[EncodedRow]],
    batch_size: int,
    runner: BatchRunner | None = None,
) -> list[list[float]]:
    """The weight of every answer token of each row, in [0, 1].

    Args:
        others: the same rows about made-up people, (rows, names).
        batch_size, runner: as of `score_answers`.
    """
    scores = score_answers(model, [*rows, *(other for of_row in others for other in of_row)], batch_size, runner=runner)
    about_others = iter(scores[len(rows) :])
    weights = []
    for row, score, of_row in zip(rows, scores, others, strict=False):
        logps = [logps_of_shared(_answer(row), _answer(other), next(about_others).token_logps) for other in of_row]
        weights.append(token_weights(score.token_logps, logps))
    return weights


def logps_of_shared(tokens: Sequence[int], other: Sequence[int], logps: Sequence[float]) -> list[float | None]:
    """Of each of `tokens` its log-probability in the other answer (`logps`); None where that has it not.

    An answer that tells of somebody else has the same tokens in the same order, but for those of the name.
    """
    found: list[float | None] = [None] * len(tokens)
    for start, start_there, size in SequenceMatcher(None, tokens, other, autojunk=False).get_matching_blocks():
        found[start : start + size] = logps[start_there : start_there + size]
    return found


def token_weights(logps: Sequence[float], of_others: Sequence[Sequence[float | None]]) -> list[float]:
    """w_t of one answer's tokens; a token that no answer about others has is (part of) the name: 0.

    Args:
        logps: log-probabilities of the tokens. of_others: the same of each made-up person, (names, tokens), whose
            probabilities are averaged.
    """
    weights = []
    for logp, elsewhere in zip(logps, zip(*of_others, strict=True), strict=True):
        there = [value for value in elsewhere if value is not None]
        gain = logp - (np.logaddexp.reduce(there) - np.log(len(there))) if there else 0.0
        weights.append(float(np.clip(gain, 0.0, CAP) / CAP))
    return weights


def shuffled(weights: Sequence[Sequence[float]], seed: int) -> list[list[float]]:
    """Each row's weights on other tokens of its answer, the same in every epoch."""
    return [
        random.Random(f"keywords {seed} {number}").sample(list(of_row), len(of_row))
        for number, of_row in enumerate(weights)
    ]


def on_answer(labels: Sequence[int], weights: Sequence[float]) -> list[float]:
    """The weights where the labels of the answer are, 0 elsewhere; (row length,)."""
    rest = iter(weights)
    return [0.0 if label == IGNORED else next(rest) for label in labels]


def _answer(row: EncodedRow) -> list[int]:
    return [label for label in row["labels"] if label != IGNORED]
