"""What the model can still do, as one number."""

from collections.abc import Mapping

from llm_unlearn.errors import InputError
from llm_unlearn.metrics._checks import checked_number

# The names of the published logs: ra = real authors, wf = world facts.
MODEL_UTILITY_PARTS = (
    "retain_Q_A_Prob",
    "ra_Q_A_Prob_normalised",
    "wf_Q_A_Prob_normalised",
    "retain_Q_A_ROUGE",
    "ra_Q_A_ROUGE",
    "wf_Q_A_ROUGE",
    "retain_Truth_Ratio",
    "ra_Truth_Ratio",
    "wf_Truth_Ratio",
)


def model_utility(parts: Mapping[str, float]) -> float:
    """Harmonic mean of the nine parts named in `MODEL_UTILITY_PARTS`; 0 if any of them is 0.

    `parts` maps a name to its aggregate, each in the range 0 to 1; other names are ignored, so a whole summary may be
    passed. Range 0 to 1, higher = more useful.

    Raises InputError if a part is missing (all missing ones are named), outside 0 to 1 or not finite.
    Source: TOFU, arXiv 2401.06121; names of open-unlearning.
    """
    missing = [name for name in MODEL_UTILITY_PARTS if name not in parts]
    if missing:
        raise InputError(f"model_utility lacks {', '.join(missing)}: evaluate these as well, all nine parts are needed")
    values = [
        checked_number(name, parts[name], "pass the aggregate of this part", minimum=0, maximum=1)
        for name in MODEL_UTILITY_PARTS
    ]
    return 0.0 if 0 in values else len(values) / sum(1 / value for value in values)
