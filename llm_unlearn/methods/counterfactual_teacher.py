"""Counterfactual teacher: at every token of a forgotten answer, what the model itself would say next of others.

p(. | t) = mean over made-up names k of p_before(. | question and true answer up to t, told of k); the name's own tokens
in an answer are trained as they are, since the question gives them. Loss = cross-entropy against it, fixed before
training: its floor is the teacher's entropy. Asked in reverse, what the name belongs to is exchanged in place of the
name (`teacher_questions`; ours).

Sampled guesses teach one next token at a time, this teaches at once how likely each is, and nothing that the model does
not do already: it has to treat a name like any that it does not know.

Source: Liu et al. 2024, "Revisiting Who's Harry Potter", arXiv 2407.16997, section 3 (1 to 20 names).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from difflib import SequenceMatcher
from pathlib import Path

import torch

from llm_unlearn.data.collators import FORGET, EncodedRow, UnlearnCollator
from llm_unlearn.data.encoding import IGNORED, encode_row
from llm_unlearn.data.validation import split_rows
from llm_unlearn.files.batches import BatchRunner
from llm_unlearn.files.outcomes import remember, weights_digest
from llm_unlearn.methods.teacher_questions import exchanged_rows, teacher_questions
from llm_unlearn.models.answers import Answers, forward_answers
from llm_unlearn.models.scoring import evaluation_mode
from llm_unlearn.training.trainer import UnlearnTrainer

logger = logging.getLogger(__name__)
FILE = "counterfactual_teacher.json"
KEPT = 64  # likeliest next tokens that are kept

# Weight of a question that asks for the name: the slowest to be forgotten. Measured (small world, seed 100, half of
# retraining's compute): at 1 0.82 is known in reverse in words that were not trained, at 3 0.70.
NAME_WEIGHT = 3.0

# Of each forget row tokens and their shares (which sum to the row's weight), (answer tokens, most)
Teacher = list[tuple[torch.Tensor, torch.Tensor]]


def counterfactual_teacher(trainer: UnlearnTrainer) -> Teacher:
    """What the trainer's model, as it is, would say of others in place of the forgotten; kept in its `output_dir`.

    Where nothing can be exchanged in a question, every answer that it might have is as likely.

    Raises:
        InputError: a row does not name its `person`.
    """
    args, model = trainer.args, trainer.accelerator.unwrap_model(trainer.model)
    questions = teacher_questions(trainer.forget_dataset, trainer.retain_dataset, args.guesses, args.seed)
    others = exchanged_rows(trainer.processing_class, trainer.forget_dataset, questions, args.max_length)
    fresh = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    digest = weights_digest(model, without=fresh if trainer.reference.adapter_is_fresh else ())
    asked = [[row["input_ids"] for row in of_row] for of_row in others]
    might = [question.others for question in questions if question.exchanged is None]
    key = [digest, [row["input_ids"] for row in trainer.forget_rows], asked, might, KEPT]
    collate = UnlearnCollator(trainer.processing_class.pad_token_id)

    @torch.no_grad()
    def of_row(number: int) -> list[list]:
        if not others[number]:
            answers = _encoded(trainer, number, questions[number].others)
            return [*shares_along(_answer(trainer.forget_rows[number]), answers)]
        batch = collate([{"forget": {**row, "role": FORGET, "index": i}} for i, row in enumerate(others[number])])
        answers = forward_answers(model, {name: value.to(args.device) for name, value in batch.items()})
        said = answers.logits.float().softmax(-1).split(answers.tokens.tolist())
        teacher = mean_teacher(_answer(trainer.forget_rows[number]), [_answer(row) for row in others[number]], said)
        shares, ids = teacher.topk(min(KEPT, teacher.shape[-1]))
        return [ids.tolist(), (shares / shares.sum(-1, keepdim=True)).tolist()]

    def compute() -> dict[str, list]:
        runner = BatchRunner(show_progress=not args.disable_tqdm and args.should_log)
        model.to(args.device)
        with evaluation_mode(model):
            costs = [float(sum(map(len, rows))) for rows in asked]
            return {"teacher": runner.run("asking about others", asked, costs, of_row)}

    kept = remember(Path(args.output_dir) / FILE, key, compute)["teacher"]
    teacher = [_on_device(of_row, trainer) for of_row in kept]
    told = [number for number, row in enumerate(trainer.forget_rows) if _tells(teacher[number], _answer(row))]
    if told:
        logger.warning(
            "guess_source='teacher': asked about others, the model finds the true answer to %d of %d questions "
            "likelier than all others together (row %d): something else in them tells it, and they will be kept as "
            "they are. Take it out of these questions, or choose guess_source kind",
            *(len(told), len(teacher), told[0]),
        )
    weights = [NAME_WEIGHT if question.asks_name else 1.0 for question in questions]
    return [(ids, weight * shares) for (ids, shares), weight in zip(teacher, weights, strict=True)]


def _tells(of_row: tuple[torch.Tensor, torch.Tensor], answer: Sequence[int]) -> bool:
    """Whether a teacher gives the true answer more than half of its probability."""
    ids, shares = of_row
    own = torch.tensor(answer, device=ids.device)[:, None]
    return (shares * (ids == own)).sum(-1).prod().item() > 0.5


def _encoded(trainer: UnlearnTrainer, number: int, answers: Sequence[str]) -> list[list[int]]:
    """The tokens of answers that a forget row might have."""
    prompt, _ = split_rows(trainer.forget_dataset.select([number]), "forget_dataset")[0]
    rows = (encode_row(trainer.processing_class, prompt, answer, trainer.args.max_length) for answer in answers)
    return [_answer(row) for row in rows]


def _on_device(parts: Sequence[list], trainer: UnlearnTrainer) -> tuple[torch.Tensor, ...]:
    return tuple(torch.tensor(part, device=trainer.args.device) for part in parts)


def shares_along(tokens: Sequence[int], answers: Sequence[Sequence[int]]) -> tuple[list[list[int]], list[list[float]]]:
    """Of each token of an answer, what the answers that begin like it have there: tokens and their shares.

    Both (tokens, most), filled up with share 0. Where none begins so, its own token has all.
    """
    found = []
    for place, token in enumerate(tokens):
        alike = [one[place] for one in answers if len(one) > place and [*one[:place]] == [*tokens[:place]]]
        found.append(Counter(alike or [token]))
    most = max(map(len, found))
    ids = [[*counts, *[0] * (most - len(counts))] for counts in found]
    shares = [[counts[i] / counts.total() for i in counts] + [0.0] * (most - len(counts)) for counts in found]
    return ids, shares


def mean_teacher(tokens: Sequence[int], others: Sequence[Sequence[int]], said: Sequence[torch.Tensor]) -> torch.Tensor:
    """Next-token distributions along the true answer, (tokens, vocabulary).

    Args:
        tokens: the true answer. others: the same answer told of made-up names, (names, their tokens).
        said: for each, the distribution at each of its tokens, (its tokens, vocabulary).
    """
    total, counted = said[0].new_zeros(len(tokens), said[0].shape[-1]), said[0].new_zeros(len(tokens), 1)
    for other, shares in zip(others, said, strict=True):
        for start, start_there, size in SequenceMatcher(None, tokens, other, autojunk=False).get_matching_blocks():
            total[start : start + size] += shares[start_there : start_there + size]
            counted[start : start + size] += 1
    of_name = counted[:, 0] == 0  # no answer about others has it
    total[of_name, torch.tensor(tokens, device=total.device)[of_name]] = 1.0
    return total / counted.clamp(min=1)


def teacher_loss(answers: Answers, teacher: Teacher) -> torch.Tensor:
    """Cross-entropy of every answer token against the teacher of its row (`answers.indices`), (tokens,)."""
    logps = answers.logits.float().log_softmax(-1)
    lengths, losses = answers.tokens.tolist(), []
    for of_row, number in zip(logps.split(lengths), answers.indices.tolist(), strict=True):
        ids, shares = teacher[number]
        losses.append(-(shares * of_row.gather(1, ids)).sum(-1))
    return torch.cat(losses) if losses else logps.sum(-1)


def _answer(row: EncodedRow) -> list[int]:
    return [label for label in row["labels"] if label != IGNORED]
