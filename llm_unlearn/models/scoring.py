"""The one place that runs a model to judge it: examples in, one record per example out, batched."""

from __future__ import annotations

import contextlib
import inspect
import logging
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llm_unlearn.data.collators import EncodedRow
from llm_unlearn.errors import InputError
from llm_unlearn.files.batches import BatchRunner
from llm_unlearn.metrics import gradient_norm_score, knowledge_wins
from llm_unlearn.models.answer_trees import AnswerTree, answer_trees, pad_trees
from llm_unlearn.models.answers import answer_token_logps, narrowed_logits
from llm_unlearn.models.generation import answer_configuration, generating_by, settings_of
from llm_unlearn.models.precision import computing_dtype

logger = logging.getLogger(__name__)

POSITIONS_AT_ONCE = 256  # rows of logits that are reduced together: small enough to stay in a processor's cache


@dataclass(frozen=True)
class AnswerScore:
    """How a model sees one given answer, token by token (the end token is the last).

    Attributes:
        token_logps: log-probability of each answer token given all before it, in nats.
        token_hits: whether each token is the model's first choice there.
        vocabulary_means, vocabulary_variances: of the log-probability over the model's own choice of each token; only
            where they were asked for (`min_k_plus_plus_score` needs them).
    """

    token_logps: tuple[float, ...]
    token_hits: tuple[bool, ...]
    vocabulary_means: tuple[float, ...] | None = None
    vocabulary_variances: tuple[float, ...] | None = None

    @property
    def nll(self) -> float:
        """Negative log-likelihood of the whole answer, in nats."""
        return -math.fsum(self.token_logps)

    @property
    def length(self) -> int:
        """Answer tokens, end token included."""
        return len(self.token_logps)

    @property
    def mean_logp(self) -> float:
        """Log-probability per token, in nats."""
        return -self.nll / self.length

    @property
    def exact_match(self) -> bool:
        """Every token is the model's first choice: greedy generation gives exactly this answer."""
        return all(self.token_hits)

    @property
    def probability(self) -> float:
        """exp(-nll / length), the geometric mean of the token probabilities, in [0, 1]."""
        return math.exp(-self.nll / self.length)


def mean_scores(scores: Sequence[AnswerScore]) -> dict[str, float]:
    """Means over rows: exact_match and probability."""
    return {
        "exact_match": sum(score.exact_match for score in scores) / len(scores),
        "probability": sum(score.probability for score in scores) / len(scores),
    }


@torch.no_grad()
def score_answers(
    model: PreTrainedModel,
    rows: Sequence[EncodedRow],
    batch_size: int = 64,
    *,
    vocabulary_statistics: Collection[int] = (),
    runner: BatchRunner | None = None,
) -> list[AnswerScore]:
    """Score given answers; the records come back in the order of `rows` (`data.encode_dataset` makes rows).

    Equal rows are scored once. Rows with the same prompt share its tokens, and answers with the same beginning those
    (see `answer_trees`), wherever the model's attention allows that.

    Args:
        batch_size: rows that are scored at once.
        vocabulary_statistics: numbers of the rows whose scores need `vocabulary_means` and `vocabulary_variances`.
        runner: shares the batches with other processes, or keeps them in a journal.
    """
    runner = runner or BatchRunner()
    with evaluation_mode(model), narrowed_logits(model) as logits_only_at:
        engine = _ScoringEngine(model, logits_only_at, frozenset(vocabulary_statistics))
        trees = answer_trees(rows)
        branching = [tree for tree in trees if not tree.is_chain]
        if branching and not engine.can_share(branching):
            trees = answer_trees(rows, share_prompts=False)
        batches = _tree_batches(trees, batch_size)
        outcomes = runner.run(
            "scoring",
            [("score", [(t.tokens, t.parents, t.answers) for t in b], engine.statistics_in(b)) for b in batches],
            [len(batch) * len(batch[0].tokens) for batch in batches],
            lambda i: engine.run(batches[i]),
        )
    scores: list[AnswerScore | None] = [None] * len(rows)
    for batch, outcome in zip(batches, outcomes, strict=True):
        numbers = [number for tree in batch for number in tree.rows]
        for number, values in zip(numbers, outcome, strict=True):
            scores[number] = AnswerScore(*(None if value is None else tuple(value) for value in values))
    return scores


def score_beside_made_up(
    model: PreTrainedModel, rows: Sequence[EncodedRow], made_up: Sequence[Sequence[EncodedRow]]
) -> tuple[list[AnswerScore], list[list[float]]]:
    """The scores of `rows`, and of each the wins over its made-up answers (`metrics.knowledge_wins`)."""
    others = [row for answers in made_up for row in answers]
    scores = score_answers(model, [*rows, *others])
    rest = iter(scores[len(rows) :])
    compared = zip(scores, made_up, strict=False)  # without made-up answers there are no wins
    wins = [knowledge_wins(score.mean_logp, [next(rest).mean_logp for _ in answers]) for score, answers in compared]
    return scores[: len(rows)], wins


def _tree_batches(trees: list[AnswerTree], batch_size: int) -> list[list[AnswerTree]]:
    """Trees of similar size together, the largest first (what does not fit into memory fails at once)."""
    batches: list[list[AnswerTree]] = []
    count = batch_size
    for tree in sorted(trees, key=lambda tree: (tree.is_chain, -len(tree.tokens))):
        count += len(tree.rows)
        if count > batch_size or batches[-1][0].is_chain != tree.is_chain:
            batches.append([])
            count = len(tree.rows)
        batches[-1].append(tree)
    return batches


@dataclass
class _ScoringEngine:
    model: PreTrainedModel
    logits_only_at: object
    statistics: frozenset[int]  # rows that need vocabulary means and variances

    def statistics_in(self, batch: list[AnswerTree]) -> list[int]:
        """Which rows of a batch need the statistics, counted within the batch."""
        numbers = [number for tree in batch for number in tree.rows]
        return [i for i, number in enumerate(numbers) if number in self.statistics]

    def can_share(self, branching: list[AnswerTree]) -> bool:
        """Whether the model gives the answers in branching rows the scores that they have in rows of their own.

        Known not to: attention that does not take a mask of its own, positions that no one can set, windows shorter
        than a row, and layers with a state instead of attention. The last word has a comparison on the smallest tree.
        """
        bare = self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model
        config = bare.config.get_text_config()
        if config._attn_implementation not in ("sdpa", "eager"):
            return False
        if "position_ids" not in inspect.signature(bare.forward).parameters:
            return False
        window = getattr(config, "sliding_window", None)
        if window is not None and window <= max(max(tree.depths) for tree in branching) + 1:
            return False
        tree = min(branching, key=lambda tree: len(tree.tokens))
        length = tree.first_predictor + 1
        plain = [
            {"input_ids": tree.tokens[:length] + answer, "labels": [-100] * length + answer} for answer in tree.answers
        ]
        apart = self.run([answer_trees([row])[0] for row in plain])
        slower = "every answer gets a row of its own, which is slower"
        try:
            together = self.run([tree])
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a family's code does with a mask that it does not know
            reason = " ".join(str(error).split())
            logger.warning("%s cannot score answers in a shared row (%.200s); %s", type(bare).__name__, reason, slower)
            return False
        worst = max(
            abs(one - other)
            for ours, theirs in zip(together, apart, strict=True)
            for one, other in zip(ours[0], theirs[0], strict=True)
        )
        tolerance = 1e-2 if computing_dtype(self.model) == torch.float32 else 0.5
        if worst > tolerance:
            logger.warning(
                "%s scores answers in a shared row differently (by up to %.2g nats a token); %s",
                type(bare).__name__,
                worst,
                slower,
            )
        return worst <= tolerance

    def run(self, batch: list[AnswerTree]) -> list[list]:
        """[token_logps, token_hits, vocabulary_means, vocabulary_variances] of each row, tree after tree."""
        inputs = {name: value.to(self.model.device) for name, value in pad_trees(batch).items()}
        wanted = inputs.pop("wanted")
        self.logits_only_at(wanted)
        if inputs["attention_mask"].ndim == 4 and self.model.config.get_text_config()._attn_implementation == "eager":
            mask, dtype = inputs["attention_mask"], self.model.dtype
            inputs["attention_mask"] = torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)
        logits = self.model(**inputs, use_cache=False).logits

        # Each answer token by the number of its predictor among the wanted positions, which go tree after tree.
        positions, labels, lengths, start = [], [], [], 0
        for tree in batch:
            for predictors, answer in zip(tree.predictors, tree.answers, strict=True):
                positions += [start + node - tree.first_predictor for node in predictors]
                labels += answer
                lengths.append(len(answer))
            start += len(tree.tokens) - tree.first_predictor
        with_statistics = set(self.statistics_in(batch))
        needs_statistics = [i in with_statistics for i, length in enumerate(lengths) for _ in range(length)]
        columns = _token_values(
            logits, *(torch.tensor(column, device=logits.device) for column in (positions, labels, needs_statistics))
        )
        if not columns[0].isfinite().all():
            raise InputError(
                f"{type(self.model).__name__} gives log-probabilities that are not finite (dtype {self.model.dtype}): "
                "its weights are broken, or too large for this type; check them, or load it with dtype=float32"
            )
        split = [[part.tolist() for part in column.split(lengths)] for column in columns]
        return [
            [logps, hits, *((mean, variance) if i in with_statistics else (None, None))]
            for i, (logps, hits, mean, variance) in enumerate(zip(*split, strict=True))
        ]


def _token_values(
    logits: torch.Tensor, positions: torch.Tensor, labels: torch.Tensor, needs_statistics: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """Per answer token: log-probability, hit, and mean and variance of the log-probability where needed (else 0).

    `logits` has shape (positions, vocabulary); the others (tokens,). Several tokens may stand at one position: the
    beginnings of different answers.
    """
    logps, means, variances = (torch.zeros(len(labels), device=logits.device) for _ in range(3))
    hits = torch.zeros_like(needs_statistics)
    for start in range(0, len(logits), POSITIONS_AT_ONCE):
        part = logits[start : start + POSITIONS_AT_ONCE].float().log_softmax(-1)
        here = torch.nonzero((positions >= start) & (positions < start + len(part))).flatten()
        rows = positions[here] - start
        logps[here] = part[rows, labels[here]]
        hits[here] = part.argmax(-1)[rows] == labels[here]
        if (chosen := needs_statistics[here]).any():
            wanted, slots = torch.unique(rows[chosen], return_inverse=True)
            all_logps = part[wanted]
            probabilities = all_logps.exp()
            mean = (probabilities * all_logps).sum(-1)
            means[here[chosen]] = mean[slots].clamp(max=0)
            variances[here[chosen]] = ((probabilities * all_logps.square()).sum(-1) - mean.square())[slots]
    return logps.clamp(max=0), hits, means, variances  # rounding can make 1e-8 of a log-probability


def gradient_norm_scores(
    model: PreTrainedModel, rows: Sequence[EncodedRow], *, runner: BatchRunner | None = None
) -> list[float]:
    """`metrics.gradient_norm_score` of each row's average loss (without the end token): one backward pass a row.

    For a model with an adapter the gradients are those of the merged weights.

    Raises:
        InputError: the weights are quantized, which leaves them no gradient.
    """
    adapter_prefix = model.base_model.prefix if isinstance(model, PeftModel) else None
    weights = [p for name, p in model.named_parameters() if adapter_prefix is None or adapter_prefix not in name]
    if not all(weight.is_floating_point() for weight in weights):
        raise InputError(
            "gradient norms need weights in floating point, and these are quantized: load them in bfloat16"
        )

    def score(row: EncodedRow) -> float:
        (tree,) = answer_trees([row])
        inputs = {name: value.to(model.device) for name, value in pad_trees([tree]).items()}
        logits_only_at(inputs.pop("wanted"))
        logits = model(**inputs, use_cache=False).logits
        logps = answer_token_logps(logits, torch.tensor(tree.answers[0], device=logits.device))
        loss = -(logps[:-1] if len(logps) > 1 else logps).mean()
        gradients = torch.autograd.grad(loss, weights, allow_unused=True)
        return gradient_norm_score(torch.stack([g.norm() for g in gradients if g is not None]).tolist())

    trainable = [weight.requires_grad for weight in weights]
    try:
        for weight in weights:
            weight.requires_grad_(True)
        with evaluation_mode(model), narrowed_logits(model) as logits_only_at:
            return (runner or BatchRunner()).run(
                "gradient norms",
                [("gradient norm", row["input_ids"], row["labels"]) for row in rows],
                [len(row["input_ids"]) for row in rows],
                lambda i: score(rows[i]),
            )
    finally:
        for weight, was_trainable in zip(weights, trainable, strict=True):
            weight.requires_grad_(was_trainable)


@torch.no_grad()
def generate_answers(
    model: PreTrainedModel,
    processing_class: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    max_new_tokens: int = 200,
    batch_size: int = 64,
    *,
    expected_lengths: Sequence[int] | None = None,
    generation_config: str = "own",
    min_new_tokens: int | None = None,
    runner: BatchRunner | None = None,
) -> list[str]:
    """Greedy answers to encoded prompts (`data.encode_prompt`), decoded without special tokens, in the order given.

    An empty prompt (plain text, and a tokenizer that adds no bos token) starts where another text has just ended.

    Args:
        expected_lengths: of the answers, in any unit: a batch is generated until its last answer ends, so answers of
            similar length go together. Default: by the length of the prompt.
        generation_config: "own", or "model" for the model's own configuration (see `models.generation`).
        min_new_tokens: so many are generated, whatever ends an answer.
        runner: shares the batches with other processes, or keeps them in a journal.
    """
    config = answer_configuration(model, processing_class, max_new_tokens, generation_config)
    config.min_new_tokens = min_new_tokens or config.min_new_tokens
    pad = processing_class.pad_token_id
    prompts = [prompt or [processing_class.eos_token_id] for prompt in prompts]
    sizes = [len(prompt) for prompt in prompts]
    order = sorted(range(len(prompts)), key=lambda i: ((expected_lengths or sizes)[i], sizes[i]), reverse=True)
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]

    def generate(numbers: list[int]) -> list[str]:
        length = max(sizes[i] for i in numbers)
        ids = torch.tensor([[pad] * (length - sizes[i]) + prompts[i] for i in numbers])
        mask = torch.tensor([[0] * (length - sizes[i]) + [1] * sizes[i] for i in numbers])
        output = model.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            generation_config=config,
            tokenizer=processing_class,  # which stop strings need
        )
        decoded = processing_class.batch_decode(output[:, length:], skip_special_tokens=True)
        return [text.strip() for text in decoded]

    with evaluation_mode(model), generating_by(model, config):
        outcomes = (runner or BatchRunner()).run(
            "generating",
            [("generate", [prompts[i] for i in numbers], settings_of(config)) for numbers in batches],
            [len(numbers) * ((expected_lengths or sizes)[numbers[0]] + 1) for numbers in batches],
            lambda number: generate(batches[number]),
        )
    texts: list[str] = [""] * len(prompts)
    for numbers, answers in zip(batches, outcomes, strict=True):
        for i, text in zip(numbers, answers, strict=True):
            texts[i] = text
    return texts


@contextlib.contextmanager
def evaluation_mode(model: PreTrainedModel) -> Iterator[None]:
    """Evaluation mode within the scope, the former mode after it.

    Mixtures of experts give no router logits there: their loss, which nobody asks for here, fails on cached tokens.
    """
    was_training = model.training
    config = model.config.get_text_config() if hasattr(model, "config") else None
    gives_router_logits = getattr(config, "output_router_logits", False)
    model.eval()
    if gives_router_logits:
        config.output_router_logits = False
    try:
        yield
    finally:
        model.train(was_training)
        if gives_router_logits:
            config.output_router_logits = True
