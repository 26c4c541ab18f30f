"""Output metrics of one model on any number of data sets, as per-row records in the field's format.

Every metric is `{"agg_value": mean, "value_by_index": {"0": {...}, ...}}` under open-unlearning's names, so that
published logs can be read with ours and ours by others. Each (question, answer) is scored once and serves every metric
that needs it: first all rows of all sets are gathered, then one pass over the model scores them, then come the metrics.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llm_unlearn.data import encode_dataset, encode_prompt, row_format, split_row
from llm_unlearn.data.collators import EncodedRow
from llm_unlearn.data.formats import listed, rows_at_once
from llm_unlearn.data.made_up import MADE_UP, MADE_UP_QUESTION, MADE_UP_VALUE
from llm_unlearn.data.value_said import COLUMN, said_by_row
from llm_unlearn.errors import InputError
from llm_unlearn.files.batches import BatchRunner
from llm_unlearn.metrics import (
    aggregate,
    exact_memorization,
    extraction_strength,
    forget_truth_ratio,
    knowledge,
    knowledge_wins,
    leak_at_k,
    loss_score,
    membership_auc,
    min_k_plus_plus_score,
    min_k_score,
    reference_score,
    rouge_scores,
    truth_ratio,
    utility_truth_ratio,
    zlib_score,
)
from llm_unlearn.metrics import probability_with_options as with_options
from llm_unlearn.metrics.rouge import rouge_tokenizer
from llm_unlearn.models.generation import generation_settings
from llm_unlearn.models.scoring import AnswerScore, generate_answers, gradient_norm_scores, score_answers

Records = dict[str, dict]
logger = logging.getLogger(__name__)

LEAK_SAMPLES = (1, 64)  # how often someone asks, with sampling, until the answer comes


@dataclass
class GatheredAnswers:
    """All encoded rows of one pass over a model."""

    processing_class: PreTrainedTokenizerBase
    max_length: int | None
    rows: list[EncodedRow] = field(default_factory=list)

    def add(self, rows: Dataset | list[dict], what: str) -> range:
        """The numbers of these rows."""
        self.rows += encode_dataset(rows, self.processing_class, self.max_length, what)
        return range(len(self.rows) - len(rows), len(self.rows))

    def add_made_up(self, dataset: Dataset, answers: range, what: str) -> tuple[list[int], list[range]]:
        """The numbers of the true answers, and of the made-up ones that each is compared with (column made_up_answer).

        Args:
            answers: the numbers of the data set's own answers, which are the true ones unless made-up ones have a
                question of their own.
        """
        form, rows, truths, numbers = row_format(dataset.column_names), [], [], []
        start = len(self.rows)
        for own, row in zip(answers, rows_at_once(dataset), strict=True):
            prompt, answer = split_row(row, form)
            given = list(row[MADE_UP])
            if MADE_UP_QUESTION in row:
                prompt = [{"role": "user", "content": row[MADE_UP_QUESTION]}]
                truths.append(start + len(rows))
                given = [answer, *given]
            else:
                truths.append(own)
            first = start + len(rows) + (MADE_UP_QUESTION in row)
            rows += [{"prompt": prompt, "completion": one} for one in given]
            numbers.append(range(first, start + len(rows)))
        if rows:
            self.add(rows, what)
        return truths, numbers

    def add_lists(self, dataset: Dataset, column: str, what: str) -> list[range]:
        """The numbers of the answers in a column of lists, one range for each row of the data set.

        Raises:
            InputError: the rows have no plain `question`, or a list is empty.
        """
        if row_format(dataset.column_names) != "question/answer":
            raise InputError(f"{what}: column {column!r} goes with the columns question and answer; rename the others")
        questions, answers = dataset["question"][:], [listed(row) for row in dataset[column]]
        if empty := [number for number, row in enumerate(answers) if not row]:
            raise InputError(f"{what}: row {empty[0]} has none; fill its {column!r}, or drop the column from all rows")
        rows = [{"question": q, "answer": a} for q, row in zip(questions, answers, strict=True) for a in row]
        start, numbers = self.add(rows, what).start, []
        for row in answers:
            numbers.append(range(start, start + len(row)))
            start += len(row)
        return numbers


@dataclass
class JudgedSet:
    """Where one set's answers are among the gathered rows; None where the data has no such column."""

    name: str
    dataset: Dataset
    answers: range
    paraphrased: range | None
    perturbed: list[range] | None
    options: list[range] | None
    made_up: tuple[list[int], list[range]] | None  # the true answers, and those that each is compared with

    @classmethod
    def gather(cls, name: str, dataset: Dataset, gathered: GatheredAnswers) -> JudgedSet:
        """Adds all answers of a set to the gathered rows."""
        columns = dataset.column_names
        paraphrased = None
        if {"paraphrased_answer", "perturbed_answer"} <= set(columns):
            pairs = zip(dataset["question"], dataset["paraphrased_answer"], strict=True)
            rows = [{"question": question, "answer": answer} for question, answer in pairs]
            paraphrased = gathered.add(rows, f"{name} paraphrased answers")
        lists = {
            column: gathered.add_lists(dataset, column, f"{name} {column.replace('_', ' ')}s")
            if column in columns
            else None
            for column in ("perturbed_answer", "options")
        }
        if "options" in columns:
            pairs = enumerate(zip(dataset["answer"], dataset["options"], strict=True))
            if foreign := [number for number, (answer, options) in pairs if answer not in options]:
                raise InputError(f"{name}: row {foreign[0]} does not have its answer among its 'options'; add it there")
        answers = gathered.add(dataset, f"{name} answers")
        made_up = gathered.add_made_up(dataset, answers, f"{name} made-up answers") if MADE_UP in columns else None
        return cls(name, dataset, answers, paraphrased, lists["perturbed_answer"], lists["options"], made_up)


def judge(
    model: PreTrainedModel,
    processing_class: PreTrainedTokenizerBase,
    sets: Mapping[str, Dataset],
    *,
    holdout: Dataset | None = None,
    generate: Collection[str] = (),
    gradient_norm: bool = False,
    batch_size: int = 64,
    max_length: int | None = None,
    max_new_tokens: int = 200,
    generation_config: str = "own",
    runner: BatchRunner | None = None,
) -> Records:
    """Judge a model on sets of rows with answers, in one pass.

    Args:
        sets: by the prefix of their metrics: "forget", "retain", "ra" (real authors), "wf" (world facts), ...
        holdout: rows that no model was trained on; with them come the membership attacks on the set "forget".
        generate: the sets for which answers are also generated greedily, for ROUGE.
        gradient_norm: also run the membership attack that needs a backward pass for each row.
        generation_config: "own", or "model" for the model's own configuration (see `models.generation`).
        runner: shares the work with other processes, or keeps it in a journal.

    Returns:
        For every set `{name}_Q_A_Prob` (fields prob, avg_loss, length) and `{name}_exact_match` (score: 1 where greedy
        generation would give the answer); where it generates, `{name}_Q_A_ROUGE` (recalls, F1, both texts; beside the
        rows `generated_by`, the settings of generation, and `tokenizers`, how many answers each one of ROUGE saw).
        Where rows have `perturbed_answer`, also `{name}_Q_A_PERT_Prob`, `{name}_Truth_Ratio` ("forget_truth_ratio" on
        forget rows; of the paraphrased answer, or the answer itself where there is none) and
        `{name}_Q_A_Prob_normalised`, and where they have `paraphrased_answer` besides, `{name}_Q_A_PARA_Prob`. Where
        they have `options`, `{name}_Q_A_Prob_normalised` among these and `{name}_accuracy` of the most probable one.
        Where they have `made_up_answer`, `{name}_knowledge` (wins: of the answer over each made-up one).
        For the set "forget" also `exact_memorization` and `extraction_strength` (with "_open_unlearning": as published
        code computes them), `leak_at_1` and `leak_at_64`, and with `holdout` the attacks `mia_loss`, `mia_zlib`,
        `mia_min_k`, `mia_min_k_plus_plus` and, if asked for, `mia_gradnorm`.
    """
    gathered = GatheredAnswers(processing_class, max_length)
    judged = {name: JudgedSet.gather(name, dataset, gathered) for name, dataset in sets.items()}
    members, non_members = range(0), range(0)
    if holdout is not None and "forget" in judged:
        members, non_members = judged["forget"].answers, gathered.add(holdout, "holdout answers")
    # The membership attacks look at single tokens and at what else the model might have said.
    statistics = {*members, *non_members}
    scores = score_answers(model, gathered.rows, batch_size, vocabulary_statistics=statistics, runner=runner)

    records: Records = {}
    for one in judged.values():
        records |= _answer_records(one, scores)
    if "forget" in judged:
        records |= _memorization_records([scores[i] for i in judged["forget"].answers])
    if members:
        groups = {"forget": members, "holdout": non_members}
        records |= _membership_records(groups, gathered.rows, scores, processing_class)
        if gradient_norm:
            rows = [gathered.rows[i] for numbers in groups.values() for i in numbers]
            norms = gradient_norm_scores(model, rows, runner=runner)
            values = {"forget": norms[: len(members)], "holdout": norms[len(members) :]}
            records["mia_gradnorm"] = attack_record(values)
    for name in generate:
        encoded = [gathered.rows[i] for i in judged[name].answers]
        records |= _rouge_records(
            model, processing_class, judged[name], encoded, max_new_tokens, batch_size, generation_config, runner
        )
    return records


def _answer_records(judged: JudgedSet, scores: Sequence[AnswerScore]) -> Records:
    name, own = judged.name, [scores[i] for i in judged.answers]
    records = {
        f"{name}_Q_A_Prob": _records([_probability(score) for score in own], "prob"),
        f"{name}_exact_match": _records([{"score": float(score.exact_match)} for score in own], "score"),
    }
    if judged.options is not None:
        options = [[scores[i].probability for i in row] for row in judged.options]
        truths = [
            row.index(answer) for row, answer in zip(judged.dataset["options"], judged.dataset["answer"], strict=True)
        ]
        records[f"{name}_Q_A_Prob_normalised"] = _records(
            [
                {"prob": float(with_options(row[truth], row[:truth] + row[truth + 1 :]))}
                for row, truth in zip(options, truths, strict=True)
            ],
            "prob",
        )
        hits = [{"score": float(row[truth] == max(row))} for row, truth in zip(options, truths, strict=True)]
        records[f"{name}_accuracy"] = _records(hits, "score")
    if judged.made_up is not None:
        rows = [
            {"wins": knowledge_wins(scores[truth].mean_logp, [scores[i].mean_logp for i in made_up])}
            for truth, made_up in zip(*judged.made_up, strict=True)
        ]
        by_index = {str(i): row for i, row in enumerate(rows)}
        records[f"{name}_knowledge"] = {"agg_value": knowledge(by_index), "value_by_index": by_index}
    if judged.perturbed is None:
        return records
    wrong = [[_probability(scores[i]) for i in row] for row in judged.perturbed]
    records[f"{name}_Q_A_PERT_Prob"] = _records(
        [{key: [answer[key] for answer in row] for key in ("prob", "avg_loss", "length")} for row in wrong], "prob"
    )
    correct = [_probability(score) for score in own]
    if judged.paraphrased is not None:
        correct = [_probability(scores[i]) for i in judged.paraphrased]
        records[f"{name}_Q_A_PARA_Prob"] = _records(correct, "prob")
    ratios = [
        float(truth_ratio(c["avg_loss"], [w["avg_loss"] for w in row])) for c, row in zip(correct, wrong, strict=True)
    ]
    aggregate_ratio = forget_truth_ratio if name == "forget" else utility_truth_ratio
    records[f"{name}_Truth_Ratio" if name != "forget" else "forget_truth_ratio"] = {
        "agg_value": aggregate_ratio(ratios),
        "value_by_index": {str(i): {"score": ratio} for i, ratio in enumerate(ratios)},
    }
    normalized = [
        {"prob": float(with_options(score.probability, [w["prob"] for w in row]))}
        for score, row in zip(own, wrong, strict=True)
    ]
    records[f"{name}_Q_A_Prob_normalised"] = _records(normalized, "prob")
    return records


def _memorization_records(scores: list[AnswerScore]) -> Records:
    records = {}
    for name, metric in (("exact_memorization", exact_memorization), ("extraction_strength", extraction_strength)):
        for suffix, compat in (("", None), ("_open_unlearning", "open-unlearning")):
            rows = [{"score": metric(score.token_hits, compat=compat)} for score in scores]
            records[name + suffix] = _records(rows, "score")
    for k in LEAK_SAMPLES:
        records[f"leak_at_{k}"] = _records([{"score": float(leak_at_k(score.nll, k))} for score in scores], "score")
    return records


def _membership_records(
    groups: Mapping[str, range],
    rows: Sequence[EncodedRow],
    scores: Sequence[AnswerScore],
    processing_class: PreTrainedTokenizerBase,
) -> Records:
    def text(row: EncodedRow) -> str:
        return processing_class.decode([label for label in row["labels"] if label != -100], skip_special_tokens=True)

    def tokens(score: AnswerScore) -> slice:
        """All but the end token, which the published logs count in the losses and not in the min-k scores."""
        return slice(max(1, score.length - 1))

    def min_k_plus_plus(score: AnswerScore) -> float:
        columns = (score.token_logps, score.vocabulary_means, score.vocabulary_variances)
        return min_k_plus_plus_score(*(column[tokens(score)] for column in columns))

    attacks = {
        "mia_loss": lambda i: loss_score(scores[i].nll, scores[i].length),
        "mia_zlib": lambda i: zlib_score(scores[i].nll / scores[i].length, text(rows[i])),
        "mia_min_k": lambda i: min_k_score(scores[i].token_logps[tokens(scores[i])]),
        "mia_min_k_plus_plus": lambda i: min_k_plus_plus(scores[i]),
    }
    return {
        name: attack_record({group: [float(attack(i)) for i in numbers] for group, numbers in groups.items()})
        for name, attack in attacks.items()
    }


def attack_record(values: Mapping[str, Sequence[float]]) -> dict:
    """The log entry of a membership attack from its scores on the groups "forget" and "holdout"."""
    entry = {group: _records([{"score": value} for value in scores], "score") for group, scores in values.items()}
    auc = membership_auc(values["forget"], values["holdout"])
    return entry | {"auc": auc, "agg_value": auc}


def reference_attack(records: Records, retain_log: Mapping[str, dict]) -> Records:
    """`mia_reference` with the model of `retain_log` as reference; {} where one of the two has no `mia_loss`.

    Raises:
        InputError: the two logs have other rows.
    """
    if not all("mia_loss" in log for log in (records, retain_log)):
        return {}
    values = {}
    for group in ("forget", "holdout"):
        own, reference = (log["mia_loss"][group]["value_by_index"] for log in (records, retain_log))
        if own.keys() != reference.keys():
            raise InputError(
                f"mia_loss, {group}: {len(own)} rows here and {len(reference)} in the retain log: judge both models on "
                "the same split"
            )
        values[group] = [float(reference_score(own[i]["score"], reference[i]["score"])) for i in own]
    return {"mia_reference": attack_record(values)}


def _rouge_records(
    model: PreTrainedModel,
    processing_class: PreTrainedTokenizerBase,
    judged: JudgedSet,
    encoded: list[EncodedRow],
    max_new_tokens: int,
    batch_size: int,
    generation_config: str,
    runner: BatchRunner | None,
) -> Records:
    form = row_format(judged.dataset.column_names)
    pairs = [split_row(row, form) for row in rows_at_once(judged.dataset)]
    answers = [answer for _, answer in pairs]
    texts = generate_answers(
        model,
        processing_class,
        [encode_prompt(processing_class, prompt) for prompt, _ in pairs],
        max_new_tokens,
        batch_size,
        expected_lengths=[sum(label != -100 for label in row["labels"]) for row in encoded],
        generation_config=generation_config,
        runner=runner,
    )
    name = f"{judged.name}_Q_A_ROUGE"
    try:
        values = [rouge_scores(text, answer) for text, answer in zip(texts, answers, strict=True)]
    except InputError as error:  # an answer without a letter or digit; hours of work must not end on that
        logger.warning("%s is left out: %s", name, error)
        return {}
    shown = [{"ground_truth": answer, "generation": text} for text, answer in zip(texts, answers, strict=True)]
    record = _records([value | both for value, both in zip(values, shown, strict=True)], "rougeL_recall")
    settings = generation_settings(model, processing_class, max_new_tokens, generation_config)
    found = {name: record | {"generated_by": settings, "tokenizers": tokenizers_of(judged.name, answers)}}
    columns = judged.dataset.column_names
    values, made_up = (judged.dataset[name][:] if name in columns else None for name in (COLUMN, MADE_UP_VALUE))
    if values and (said := said_by_row(texts, answers, values, made_up)):
        found[f"{judged.name}_value_said"] = {"agg_value": aggregate(said, "score"), "value_by_index": said}
    return found


def tokenizers_of(name: str, answers: Sequence[str]) -> dict[str, int]:
    """How many answers of the set called `name` ROUGE sees by which tokenizer; logged once if any is not English."""
    found = dict(sorted(Counter(map(rouge_tokenizer, answers)).items()))
    if others := found.get("unicode"):
        _say_tokenizer(name, others, len(answers))
    return found


@cache
def _say_tokenizer(name: str, others: int, count: int) -> None:
    logger.warning(
        "%s set: ROUGE sees %d of %d answers by the Unicode tokenizer (at least half of their letters are not a-z): "
        "words, and characters of scripts without spaces, not stemmed",
        name,
        others,
        count,
    )


def _probability(score: AnswerScore) -> dict[str, float]:
    return {"prob": score.probability, "avg_loss": score.nll / score.length, "length": score.length}


def _records(rows: list[dict], field: str) -> dict:
    by_index = {str(i): row for i, row in enumerate(rows)}
    return {"agg_value": aggregate(by_index, field), "value_by_index": by_index}


def summarize(records: Records) -> dict[str, float]:
    """The scores of `results.json` from per-row records."""
    names = {
        "forget_exact_match": "forget_exact_match",
        "forget_probability": "forget_Q_A_Prob",
        "retain_exact_match": "retain_exact_match",
        "retain_probability": "retain_Q_A_Prob",
        "forget_rouge_l": "forget_Q_A_ROUGE",
        "forget_value_said": "forget_value_said",
        "forget_truth_ratio": "forget_truth_ratio",
        "forget_knowledge": "forget_knowledge",
        "retain_knowledge": "retain_verbatim_knowledge",
    }
    found = {name: records[metric]["agg_value"] for name, metric in names.items() if metric in records}
    return {name: value for name, value in found.items() if value is not None}
