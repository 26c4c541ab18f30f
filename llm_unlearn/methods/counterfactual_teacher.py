"""Counterfactual teacher: at every token of an answer to a forgotten question, what the model would say next of others.

p(. | t) = mean over made-up names k of p_before(. | question and answer up to t, told of k); the name's own tokens in
an answer are trained as they are, since the question gives them. Loss = cross-entropy against it, fixed before
training: its floor is the teacher's entropy.

Ours: asked in reverse, what the name belongs to is exchanged in place of the name (`teacher_questions`); and every
other time the answer is not the row's own but another's (`other_answers`). Along the true answer alone it becomes as
likely as a guess, while what follows the beginnings of others stays as unlikely as knowledge had made it.

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
from llm_unlearn.data.formats import Prompt
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

# Of each alternate row tokens and their shares (which sum to the row's weight), (answer tokens, most)
Teacher = list[tuple[torch.Tensor, torch.Tensor]]


def counterfactual_teacher(trainer: UnlearnTrainer, texts: Sequence[str]) -> Teacher:
    """What the trainer's model, as it is, would say of others in place of the forgotten; kept in its `output_dir`.

    Where nothing can be exchanged in a question, every answer that it might have is as likely.

    Args:
        texts: the answers of the alternate rows: lists of one for each forget row (`answers_along`), one after another.

    Raises:
        InputError: a row does not name its `person`.
    """
    args, model = trainer.args, trainer.accelerator.unwrap_model(trainer.model)
    of_rows = teacher_questions(trainer.forget_dataset, trainer.retain_dataset, args.guesses, args.seed)
    prompts = [prompt for prompt, _ in split_rows(trainer.forget_dataset, "forget_dataset")]
    pairs: dict[tuple[int, str], int] = {}  # row and answer, which come up in several lists
    places = [pairs.setdefault((at % len(prompts), text), at) for at, text in enumerate(texts)]
    numbers = [*pairs.values()]
    questions = [of_rows[row] for row, _ in pairs]
    answers = [_answer(trainer.row_sets["alternate"][at]) for at in numbers]
    others = exchanged_rows(
        trainer.processing_class, [(prompts[row], text) for row, text in pairs], questions, args.max_length
    )
    might = [
        [] if rows else _encoded(trainer, prompts[row], question.others)
        for (row, _), question, rows in zip(pairs, questions, others, strict=True)
    ]
    asked = [
        (answer, [row["input_ids"] for row in rows], tokens)
        for answer, rows, tokens in zip(answers, others, might, strict=True)
    ]
    # Two people are asked the same in the same words: who is asked about in their place is the same, too.
    first = {repr(one): number for number, one in reversed([*enumerate(asked)])}
    once = sorted(first.values())
    fresh = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    digest = weights_digest(model, without=fresh if trainer.reference.adapter_is_fresh else ())
    collate = UnlearnCollator(trainer.processing_class.pad_token_id)

    @torch.no_grad()
    def along(at: int) -> list[list]:
        number = once[at]
        if not others[number]:
            return [*shares_along(answers[number], might[number])]
        batch = collate([{"forget": {**row, "role": FORGET, "index": i}} for i, row in enumerate(others[number])])
        told = forward_answers(model, {name: value.to(args.device) for name, value in batch.items()})
        said = told.logits.float().softmax(-1).split(told.tokens.tolist())
        teacher = mean_teacher(answers[number], [_answer(row) for row in others[number]], said)
        shares, ids = teacher.topk(min(KEPT, teacher.shape[-1]))
        return [ids.tolist(), (shares / shares.sum(-1, keepdim=True)).tolist()]

    def compute() -> dict:
        runner = BatchRunner(show_progress=not args.disable_tqdm and args.should_log)
        model.to(args.device)
        batches = [asked[number] for number in once]
        costs = [float(sum(map(len, ids))) for _, ids, _ in batches]
        with evaluation_mode(model):
            found = runner.run("asking about others", batches, costs, along)
        return {"teacher": found, "rows_asked": sum(len(ids) for _, ids, _ in batches)}

    kept = remember(Path(args.output_dir) / FILE, [digest, [asked[number] for number in once], KEPT], compute)
    found = dict(zip(once, (_on_device(one, trainer) for one in kept["teacher"]), strict=True))
    teacher = [found[first[repr(one)]] for one in asked]
    told = [number for number in range(len(prompts)) if _tells(teacher[number], answers[number])]
    if told:
        logger.warning(
            "guess_source='teacher': asked about others, the model finds the true answer to %d of %d questions "
            "likelier than all others together (row %d): something else in them tells it, and they will be kept as "
            "they are. Take it out of these questions, or choose guess_source kind",
            *(len(told), len(prompts), told[0]),
        )
    weights = [NAME_WEIGHT if question.asks_name else 1.0 for question in questions]
    weighed = {at: (ids, weight * shares) for at, (ids, shares), weight in zip(numbers, teacher, weights, strict=True)}
    return [weighed[at] for at in places]


def _tells(of_row: tuple[torch.Tensor, torch.Tensor], answer: Sequence[int]) -> bool:
    """Whether a teacher gives the true answer more than half of its probability."""
    ids, shares = of_row
    own = torch.tensor(answer, device=ids.device)[:, None]
    return (shares * (ids == own)).sum(-1).prod().item() > 0.5


def _encoded(trainer: UnlearnTrainer, prompt: Prompt, answers: Sequence[str]) -> list[list[int]]:
    """The tokens of answers to a prompt."""
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
    """Next-token distributions along an answer, (tokens, vocabulary).

    Args:
        tokens: the answer. others: the same answer told of made-up names, (names, their tokens).
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
