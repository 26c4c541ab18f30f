"""Counterfactual teacher: at every forget answer token, what the model itself would say next of somebody made up.

Teacher p(. | t) = mean over made-up names k of p_before(. | question and answer up to t, told of k); the name's own
tokens in an answer are trained as they are, since the question gives them. Loss = cross-entropy against the teacher,
fixed before training: its floor is the teacher's entropy.

Sampled guesses have the same mean, one answer at a time; this gives the whole distribution at once, but only along the
true answer: what follows another first token is not trained.

Source: Liu et al. 2024, "Revisiting Who's Harry Potter", arXiv 2407.16997, section 3 (1 to 20 names).
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher
from pathlib import Path

import torch

from llm_unlearn.data.collators import FORGET, EncodedRow, UnlearnCollator
from llm_unlearn.data.encoding import IGNORED
from llm_unlearn.files.batches import BatchRunner
from llm_unlearn.files.outcomes import remember, weights_digest
from llm_unlearn.methods.sampled_guesses import made_up_names, people_of_all, rows_about_others
from llm_unlearn.models.answers import Answers, forward_answers
from llm_unlearn.models.scoring import evaluation_mode
from llm_unlearn.training.trainer import UnlearnTrainer

FILE = "counterfactual_teacher.json"
KEPT = 64  # likeliest next tokens of a teacher that are kept

Teacher = list[tuple[torch.Tensor, torch.Tensor]]  # of each forget row tokens and shares, (answer tokens, KEPT) both


def counterfactual_teacher(trainer: UnlearnTrainer, subjects: Sequence[str], names: int) -> Teacher:
    """What the trainer's model, as it is, would say of made-up people; kept in its `output_dir`.

    Args:
        subjects: the name in the question of each forget row. names: how many are made up for each.
    """
    args, model = trainer.args, trainer.accelerator.unwrap_model(trainer.model)
    made_up = made_up_names(subjects, people_of_all(subjects, trainer.retain_dataset), names, args.seed)
    others = rows_about_others(trainer.processing_class, trainer.forget_dataset, subjects, made_up, args.max_length)
    fresh = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    digest = weights_digest(model, without=fresh if trainer.reference.adapter_is_fresh else ())
    asked = [[row["input_ids"] for row in of_row] for of_row in others]
    key = [digest, [row["input_ids"] for row in trainer.forget_rows], asked, KEPT]
    collate = UnlearnCollator(trainer.processing_class.pad_token_id)

    @torch.no_grad()
    def of_row(number: int) -> list[list]:
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
            return {"teacher": runner.run("asking about made-up names", asked, costs, of_row)}

    kept = remember(Path(args.output_dir) / FILE, key, compute)["teacher"]
    return [tuple(torch.tensor(part, device=args.device) for part in of_row) for of_row in kept]


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
    rows = [teacher[number] for number in answers.indices.tolist()]
    if not rows:
        return logps.sum(-1)
    ids, shares = (torch.cat(part) for part in zip(*rows, strict=True))
    return -(shares * logps.gather(1, ids)).sum(-1)


def _answer(row: EncodedRow) -> list[int]:
    return [label for label in row["labels"] if label != IGNORED]
