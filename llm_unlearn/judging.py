"""Output metrics of one model on one data set, as per-row records in the field's format.

Every metric is `{"agg_value": mean, "value_by_index": {"0": {...}, ...}}` under open-unlearning's names, so that
published logs can be read with ours and ours by others.
"""

from __future__ import annotations

import logging

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llm_unlearn.data import encode_dataset, encode_prompt, row_format, split_row
from llm_unlearn.errors import InputError
from llm_unlearn.metrics import aggregate, forget_truth_ratio, rouge_scores, truth_ratio, utility_truth_ratio
from llm_unlearn.metrics import probability_with_options as with_options
from llm_unlearn.scoring import generate_answers, score_answers

Records = dict[str, dict]
logger = logging.getLogger(__name__)


def judge_rows(
    model: PreTrainedModel,
    processing_class: PreTrainedTokenizerBase,
    dataset: Dataset,
    name: str,
    *,
    batch_size: int = 64,
    max_length: int | None = None,
    generate: bool = True,
    max_new_tokens: int = 200,
) -> Records:
    """Judge a model on rows with answers.

    Args:
        name: prefix of the metrics: "forget", "retain", "ra" (real authors), "wf" (world facts), ...
        generate: also generate greedily, for ROUGE.

    Returns:
        `{name}_Q_A_Prob` (fields prob, avg_loss), `{name}_exact_match` (score: 1 where greedy generation would give the
        answer) and, with `generate`, `{name}_Q_A_ROUGE` (recalls, F1, both texts). Where rows have `perturbed_answer`,
        also `{name}_Q_A_PERT_Prob`, `{name}_Truth_Ratio` ("forget_truth_ratio" on forget rows; of the paraphrased
        answer, or the answer itself where there is none) and `{name}_Q_A_Prob_normalised`, and where they have
        `paraphrased_answer` besides, `{name}_Q_A_PARA_Prob`.
    """

    def score(rows, what: str):
        return score_answers(model, encode_dataset(rows, processing_class, max_length, f"{name} {what}"), batch_size)

    scores = score(dataset, "answers")
    records = {
        f"{name}_Q_A_Prob": _records([_probability(s) for s in scores], "prob"),
        f"{name}_exact_match": _records([{"score": float(s.exact_match)} for s in scores], "score"),
    }
    if generate:
        form = row_format(dataset.column_names)
        pairs = [split_row(row, form) for row in dataset]
        prompts = [encode_prompt(processing_class, prompt) for prompt, _ in pairs]
        texts = generate_answers(model, processing_class, prompts, max_new_tokens, batch_size)
        try:
            rouge = [rouge_scores(text, answer) for text, (_, answer) in zip(texts, pairs, strict=True)]
        except InputError as error:  # ROUGE knows Latin letters and digits only; hours of work must not end on that
            logger.warning("%s_Q_A_ROUGE is left out: %s", name, error)
        else:
            shown = [
                {"ground_truth": answer, "generation": text} for text, (_, answer) in zip(texts, pairs, strict=True)
            ]
            rows = [values | both for values, both in zip(rouge, shown, strict=True)]
            records[f"{name}_Q_A_ROUGE"] = _records(rows, "rougeL_recall")
    if "perturbed_answer" in dataset.column_names:
        records |= _against_perturbed(dataset, name, scores, score)
    return records


def _against_perturbed(dataset: Dataset, name: str, scores: list, score) -> Records:
    questions, perturbed = dataset["question"], dataset["perturbed_answer"]
    wrong_rows = [
        {"question": q, "answer": a} for q, answers in zip(questions, perturbed, strict=True) for a in answers
    ]
    wrong = iter(_probability(s) for s in score(wrong_rows, "perturbed answers"))
    wrong = [[next(wrong) for _ in answers] for answers in perturbed]
    records = {
        f"{name}_Q_A_PERT_Prob": _records(
            [{"prob": [w["prob"] for w in row], "avg_loss": [w["avg_loss"] for w in row]} for row in wrong], None
        )
    }
    correct = [_probability(s) for s in scores]
    if "paraphrased_answer" in dataset.column_names:
        rows = [{"question": q, "answer": a} for q, a in zip(questions, dataset["paraphrased_answer"], strict=True)]
        correct = [_probability(s) for s in score(rows, "paraphrased answers")]
        records[f"{name}_Q_A_PARA_Prob"] = _records(correct, "prob")
    ratios = [
        float(truth_ratio(c["avg_loss"], [w["avg_loss"] for w in row])) for c, row in zip(correct, wrong, strict=True)
    ]
    aggregate_ratio = forget_truth_ratio if name == "forget" else utility_truth_ratio
    records[f"{name}_Truth_Ratio" if name != "forget" else "forget_truth_ratio"] = {
        "agg_value": aggregate_ratio(ratios),
        "value_by_index": {str(i): {"score": ratio} for i, ratio in enumerate(ratios)},
    }
    options = [
        {"prob": float(with_options(_probability(s)["prob"], [w["prob"] for w in row]))}
        for s, row in zip(scores, wrong, strict=True)
    ]
    records[f"{name}_Q_A_Prob_normalised"] = _records(options, "prob")
    return records


def _probability(score) -> dict[str, float]:
    return {"prob": score.probability, "avg_loss": score.nll / score.length}


def _records(rows: list[dict], field: str | None) -> dict:
    by_index = {str(i): row for i, row in enumerate(rows)}
    if field is None:
        return {"value_by_index": by_index}
    return {"agg_value": aggregate(by_index, field), "value_by_index": by_index}


def summarize(records: Records) -> dict[str, float]:
    """The scores of `results.json` from per-row records."""
    names = {
        "forget_exact_match": "forget_exact_match",
        "forget_probability": "forget_Q_A_Prob",
        "retain_exact_match": "retain_exact_match",
        "retain_probability": "retain_Q_A_Prob",
        "forget_rouge_l": "forget_Q_A_ROUGE",
        "forget_truth_ratio": "forget_truth_ratio",
    }
    return {name: records[metric]["agg_value"] for name, metric in names.items() if metric in records}
