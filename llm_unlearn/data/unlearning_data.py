"""What an unlearning task consists of."""

from __future__ import annotations

from dataclasses import dataclass, field

from datasets import Dataset

from llm_unlearn.data.forms import Forms, with_forms


@dataclass(frozen=True)
class UnlearningData:
    """The sets of one unlearning task; rows in any of the formats of `formats.FORMATS`, all validated.

    Rows may carry `fact_id` (shared by the questions about one fact) and `person`; `identity.py` says what they mean.
    """

    forget: Dataset
    retain: Dataset | None  # None: only methods without a retain loss can run
    holdout: Dataset | None  # never trained on by any model: the non-members of membership inference
    # Judge abilities and are never trained on. TOFU: real_authors, world_facts, retain_perturbed; fictional: general,
    # instructions, chat; with the user's general data, general_data, and with a general file, general.
    evaluation: dict[str, Dataset]
    source: str  # what was asked for, with the splits that were taken; for reports
    # Ways to ask the forget facts that forget rows cannot give, for `queries.forget_queries`: by style, with question,
    # answer and the `fact_id` of forget rows. Fictional: multiple_choice, reversed, two_hop.
    queries: dict[str, Dataset] = field(default_factory=dict)
    general: Dataset | None = None  # rows that training may protect abilities with, see `general.py`
    # As `queries`, about retained people whose facts are trained in no other form than as retain rows (fictional), and
    # the names of these people; None: nobody is known to be one.
    retain_queries: dict[str, Dataset] = field(default_factory=dict)
    judged_people: list[str] | None = None
    forms: Forms | None = None  # the same facts in further forms, for training (`forms.py`)

    @property
    def trained_forget(self) -> Dataset:
        """What is trained to be forgotten: the forget rows, and those in further forms."""
        return self.forget if self.forms is None else with_forms(self.forget, self.forms.forget, candidates=True)

    @property
    def trained_general(self) -> Dataset | None:
        """What protects abilities in training: the general rows, and retained facts in further forms."""
        return self.general if self.forms is None else with_forms(self.general, self.forms.retain)
