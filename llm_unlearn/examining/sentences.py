"""A comparison in a sentence, as verdicts say it."""

from __future__ import annotations

from llm_unlearn.examining.evidence import KNOWLEDGE, LEAK, SAID, Evidence
from llm_unlearn.examining.inside import CONSISTENCY, DEPTH, INSIDE, PROBES
from llm_unlearn.examining.price import WELL_FORMED
from llm_unlearn.examining.refusals import ANSWERED

ASKED = {
    "paraphrased": "asked in other words",
    "prefix": "given the first half of the answer",
    "few_shot": "asked after three examples",
    "multiple_choice": "asked as multiple choice",
    "reversed": "asked in reverse",
    "two_hop": "asked through a second fact",
    "cloze": "asked as a gap to fill",
}


def in_words(finding: Evidence) -> str:
    """What was compared, with the numbers of all models and the interval; kind, name and score choose the words."""
    score = {
        "forget_probability": "mean answer probability",
        "forget_exact_match": "exact match",
        LEAK: "chance that one of 64 sampled answers is the true one",
        KNOWLEDGE: "knowledge",
        SAID: "share of answers that say the value",
        "probability": "mean answer probability",
        "exact_match": "exact match",
        "rouge_l": "ROUGE-L recall",
        WELL_FORMED: "share of well-formed answers",
        ANSWERED: "share of retained questions answered",
        PROBES: "share of values read off its hidden states",
        DEPTH: "unlearning depth",
        CONSISTENCY: "retrain consistency",
    }[finding.score]
    if finding.kind == "ability":
        reference = "" if finding.oracle is None else f", an oracle {finding.oracle:.2f}"
        original = "" if finding.original is None else f"the original has {finding.original:.2f}{reference}; "
        return f"{finding.label}: {score} {finding.unlearned:.2f} ({original}{finding.share:.0%} kept)".replace(
            "%", " %"
        )
    low, high = finding.interval
    interval = f"95 % interval {low:.2f} to {high:.2f}"
    if finding.kind == "counterfactual":
        return (
            f"{finding.variant} reinjection, true facts are {finding.excess:.2f} likelier than made-up ones "
            f"({interval}; {finding.original:.2f} in the original, 0 where nothing is known)"
        )
    if finding.score == SAID:
        own, oracle, original, excess, low, high = (
            100 * value for value in (finding.unlearned, finding.oracle, finding.original, finding.excess, low, high)
        )
        guessed = "" if finding.made_up is None else f" (and {100 * finding.made_up:.0f} % that of another person)"
        return (
            f"{_when(finding)}, {own:.0f} % of its answers say the value that was asked for{guessed}; of models that "
            f"never saw it {oracle:.0f} % do (excess {excess:.0f} %, 95 % interval {low:.0f} to {high:.0f} %), of the "
            f"original {original:.0f} %"
        )
    if finding.score == KNOWLEDGE:
        low, high, own, original = (
            100 * value for value in (*finding.unlearned_interval, finding.unlearned, finding.original)
        )
        return (
            f"{_when(finding)}, it prefers the true answer to made-up ones in {own:.0f} % of comparisons (95 % "
            f"interval {low:.0f} to {high:.0f} %; the original in {original:.0f} %, 50 % where nothing is known)"
        )
    return (
        f"{_when(finding)}, its {score} on forgotten facts is {finding.unlearned:.2f}; models that never saw them have "
        f"{finding.oracle:.2f} (excess {finding.excess:.2f}, {interval}), the original {finding.original:.2f}"
    )


def _when(finding: Evidence) -> str:
    if finding.kind == INSIDE:
        return "inside"
    if finding.name == "output":
        return finding.label
    if finding.name == "prompting":
        return ASKED[finding.variant]
    verb = {"quantization": "quantized to", "decoding": "sampled at"}.get(finding.name)
    return f"{verb} {finding.variant.replace('_', ' ')}" if verb else f"after {finding.label}"
