"""Word overlap of a generation with the answer."""

from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer

from llm_unlearn.errors import InputError
from llm_unlearn.metrics._checks import checked_text

# The stemmer is part of the definition: without it the published values are not reproduced.
_TOKENIZER = DefaultTokenizer(use_stemmer=True)
_SCORER = RougeScorer(["rouge1", "rougeL"], tokenizer=_TOKENIZER)


def rouge_scores(generation: str, answer: str) -> dict[str, float]:
    """ROUGE of one generation against one answer: {"rouge1_recall", "rougeL_f1", "rougeL_recall"}.

    Each in the range 0 to 1, higher = closer to the answer; TOFU reports "rougeL_recall". A generation that is empty or
    shares no word scores 0 in all three.

    Raises InputError if either is not a string, or if the answer has no word of the letters a-z or digits: ROUGE sees
    nothing else, so any generation would score 0 and a model that knows the answer would pass for one that forgot it.
    Source: TOFU, arXiv 2401.06121; rouge_score with its Porter stemmer, as in open-unlearning.
    """
    checked_text("generation", generation, "pass the decoded text")
    checked_text("answer", answer, "pass the answer text")
    if not _TOKENIZER.tokenize(answer):
        raise InputError(
            f"answer {answer!r:.80} has no word of a-z or 0-9, the only ones that ROUGE sees: use exact_match or "
            "probability for this row"
        )
    scores = _SCORER.score(target=answer, prediction=generation)
    return {
        "rouge1_recall": float(scores["rouge1"].recall),
        "rougeL_f1": float(scores["rougeL"].fmeasure),
        "rougeL_recall": float(scores["rougeL"].recall),
    }
