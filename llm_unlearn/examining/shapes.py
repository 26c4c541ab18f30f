"""What the files of a run look like, as far as anything reads them: checked when they are read, whoever edited them.

Files of earlier versions lack parts and files of later ones have more: what is absent has a default, what is not named
here is not looked at.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, InstanceOf, TypeAdapter, ValidationError, model_validator

from llm_unlearn.errors import InputError

_EXCERPT = 60  # characters of a wrong value that an error shows
_LARGEST = 1e15  # of any number: beyond it, sums are no longer finite or whole

Text = InstanceOf[str]  # not `str`: what a model says may hold halves of characters
Number = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=-_LARGEST, le=_LARGEST)]
Share = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=-1e-4, le=1 + 1e-4)]  # a float32 may round past 1
Count = Annotated[int, Field(strict=True, ge=0, le=2**31)]
ModelName = Annotated[str, Field(pattern=r"^(original|oracle|unlearned)(_\d{1,4})?$")]
RowNumber = Annotated[str, Field(pattern=r"^(0|[1-9]\d{0,8})$")]
Interval = Annotated[list[Number], Field(min_length=2, max_length=2)]
Scores = dict[str, Number | None]
SCORES, RATES = TypeAdapter(Scores), TypeAdapter(list[Number])


class Shape(BaseModel):
    """No value is converted: "3" is no number, and 3.0 no count."""

    model_config = ConfigDict(strict=True)


# ---- rows ------------------------------------------------------------------------------------------------------------


class Probability(Shape):
    prob: Share


class Score(Shape):
    score: Number


class ValueSaid(Shape):
    score: Number
    made_up: Number | None = None


class Comparisons(Shape):
    wins: list[Share]


class Generation(Shape):
    rougeL_recall: Share = 0.0
    generation: Text | None = None
    ground_truth: Text | None = None


class Said(Shape):
    generation: Text | None = None


class Fluency(Shape):
    avg_logp: Number | None
    repeats: bool


class Attacked(Shape):
    """What an attack has of these, `evidence.forget_values` knows."""

    probability: Share = 0.0
    exact_match: Share = 0.0
    leak_at_64: Share = 0.0
    wins: list[Share] = []


Row = TypeVar("Row", bound=Shape)


class Table(Shape, Generic[Row]):
    value_by_index: dict[RowNumber, Row]


RECORDS = {  # end of a metric's name -> its rows; others are not looked at
    "_Q_A_Prob": Table[Probability],
    "_exact_match": Table[Score],
    "_knowledge": Table[Comparisons],
    "_Q_A_ROUGE": Table[Generation],
    "_fluency": Table[Fluency],
    "_answers": Table[Said],
    "_refusals": Table[Score],
    "_value_said": Table[ValueSaid],
}

# ---- results.json ----------------------------------------------------------------------------------------------------


class Point(Shape):
    step: Count
    forget_probability: Number = 0.0
    forget_exact_match: Number = 0.0
    forget_knowledge: Number | None = None
    retain_probability: Number | None = None


class Answers(Shape):
    step: Count
    by_index: dict[RowNumber, Text]


class Run(Shape):
    attacker: str = ""
    learning_rate: Number = 0.0
    seed: int = 0
    curve: list[Point] = []
    value_by_index: dict[RowNumber, Attacked] = {}
    retain_value_by_index: dict[RowNumber, Attacked] = {}
    answers: Answers | None = None


class Scored(Shape):
    """Beside what is named, any scores: those of the forget and of the retain rows are shown."""

    model_config = ConfigDict(strict=True, extra="allow")

    @model_validator(mode="after")
    def _scores_are_numbers(self) -> Scored:
        for name, value in (self.model_extra or {}).items():
            if name.startswith(("forget_", "retain_")):
                SCORES.validate_python({name: value})
        return self


class Variant(Scored):
    value_by_index: dict[RowNumber, Attacked] = {}


class Outcome(Scored):
    """Of an attack on a model: variants, or runs with attack seeds."""

    variants: dict[str, Variant] = {}
    attacker: str = ""
    learning_rate: Number = 0.0
    curve: list[Point] = []
    runs: list[Run] = []
    groups: dict[str, Scored] = {}
    retain_units: list[Count] = []
    steps_to_half: Count | None = None
    note: str | None = None


class Ability(Shape):
    exact_match: Number = 0.0
    probability: Number = 0.0
    rouge_l: Number = 0.0


class Excess(Shape):
    excess: Number
    interval: Interval
    p_value: Share | None = None
    recovered: Number | None = None
    recovered_counterfactual: Number | None = None


class Before(Shape):
    probability: Excess
    exact_match: Excess | None = None


class Control(Before):
    excess_before: Before


class Block(Shape):
    forgotten: Share
    shuffled: Share


class Members(Shape):
    forgotten: Share


class Probes(Shape):
    """What a verdict and a page take of transfer probes."""

    block: Count
    layers: list[Block]
    majority: Share
    value_by_index: dict[RowNumber, Share]
    membership: Members | None = None

    @model_validator(mode="after")
    def _the_block_is_there(self) -> Probes:
        if self.block >= len(self.layers):
            raise ValueError(f"block {self.block} of {len(self.layers)}")
        return self


class Depth(Shape):
    uds: Number
    interval: Interval | None = None
    unclipped: Number
    by_layer: list[Number | None] = []


class Consistent(Shape):
    value: Number | None
    interval: Interval | None = None
    by_layer: list[Number | None] = []


class Aligned(Shape):
    forget_consistency: Consistent


class Place(Shape):
    aligned: Aligned


Places = dict[Literal["value", "question"], Place]


class Audits(Shape):
    """What was found inside models, by section and model; other audits are not looked at."""

    probes: dict[ModelName, Probes] = {}
    depth: dict[ModelName, Depth] = {}
    consistency: dict[ModelName, Places] = {}
    consistency_ceiling: dict[ModelName, Places] = {}
    not_measured: dict[str, str] = {}


class Paths(Shape):
    data: str | None = None
    original: str | None = None
    oracles: list[str] | None = None
    unlearned: str | None = None
    forget: str | None = None
    retain: str | None = None


class Training(Shape):
    steps: Count | None = None
    stopped_by: str | None = None
    log: list[dict[str, Any]] = []


class Paper(Shape):
    arxiv: str
    title: str
    authors: str
    year: int


class Data(Shape):
    data: str | None = None
    forget_file: str | None = None
    forget_split: str | None = None
    retain_split: str | None = None
    model_name_or_path: str | None = None
    oracle_model_name_or_path: str | list[str] | None = None
    dtype: str | None = None


class Attacks(Shape):
    """How was attacked; every attack that trains has learning rates."""

    __pydantic_extra__: dict[str, Any]
    model_config = ConfigDict(strict=True, extra="allow")
    attackers: list[Literal["full", "lora"]] = []
    attack_steps: Count = 0
    attack_batch_size: Count = 0
    attack_seeds: list[int] = []
    reinjection_fraction: Share = 0.0

    @model_validator(mode="after")
    def _rates_are_numbers(self) -> Attacks:
        for name, value in (self.model_extra or {}).items():
            if name.endswith("_learning_rates"):
                RATES.validate_python(value)
        return self


class Configuration(Shape):
    __pydantic_extra__: dict[str, dict[str, Any]]
    model_config = ConfigDict(strict=True, extra="allow")
    data_arguments: Data = Data()
    attack_arguments: Attacks = Attacks()


class Generated(Shape):
    """How a model's answers were generated."""

    generation_config: str | None = None


class Results(Shape):
    """The contents of results.json."""

    method: str = ""
    method_title: str = ""
    paper: Paper | None = None
    seed: int | None = None
    config: Configuration = Configuration()
    paths: Paths = Paths()
    weights: dict[str, str] = {}
    training: Training = Training()
    seconds: dict[str, Number] = {}
    scores: dict[ModelName, Scores] = {}
    abilities: dict[ModelName, dict[str, Ability]] = {}
    kinds: str | None = None
    units: dict[str, list[Count]] = {}
    style_rows: dict[str, list[Count]] = {}
    not_measured: dict[str, str] = {}
    attacks: dict[str, dict[ModelName, Outcome]] = {}
    counterfactual: dict[ModelName, Control] = {}
    not_attacked: dict[str, str] = {}
    forget_groups: list[str] = []
    audits: Audits | None = None
    generation: dict[ModelName, Generated] = {}
    rouge_tokenizers: dict[str, dict[str, Count]] = {}
    refusals: dict[ModelName, dict[str, Share]] = {}
    # of a public edition
    published: str = ""
    names: dict[str, str | None] = {}


# ---- verdict.json ----------------------------------------------------------------------------------------------------


class Finding(Shape):
    """`evidence.Evidence`, as it is written."""

    kind: str
    name: str
    label: str
    score: str
    variant: str | None = None
    original: Number | None = None
    oracle: Number | None = None
    unlearned: Number | None = None
    unlearned_interval: Interval | None = None
    excess: Number | None = None
    interval: Interval | None = None
    lower: Number | None = None
    upper: Number | None = None
    erasure: Number | None = None
    decides: bool = False
    flagged: bool = False
    note: str | None = None
    rows: Count | None = None
    share: Number | None = None
    selectivity: Number | None = None
    selectivity_interval: Interval | None = None
    ability_lost: bool = False

    @model_validator(mode="after")
    def _what_decides_was_measured(self) -> Finding:
        if self.kind == "ability" and self.decides and None in (self.share, self.unlearned, self.excess, self.interval):
            raise ValueError("decides, and was not measured")
        return self


class Verdict(Shape):
    """The contents of verdict.json."""

    verdict: Literal["erased", "hidden", "not forgotten", "over-unlearned", "undecided"]
    by: str | None = None
    sentence: str = ""
    reasons: list[str] = []
    remarks: list[str] = []
    missing: list[str] = []
    evidence: list[Finding] = []
    criteria: dict[str, Number] = {}

    @model_validator(mode="after")
    def _the_sentence_says_the_verdict(self) -> Verdict:
        if not self.sentence.lower().startswith(self.verdict):
            raise ValueError(f"its sentence does not say {self.verdict!r}")
        return self


# ---- checking --------------------------------------------------------------------------------------------------------


def check_shape(value: Any, shape: type[Shape], where: object, fix: str) -> None:
    """Refuse a value read from JSON that is not of a shape.

    Args:
        where: what the value is the contents of, for the error.
        fix: what to do; it ends the error.

    Raises:
        InputError: the first part that is wrong, with its value.
    """
    try:
        shape.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
        given = "" if first["type"] in ("missing", "value_error") else f" is {first['input']!r:.{_EXCERPT}}"
        reason = re.sub(
            r"valid dictionary or instance of \w+", "valid object", first["msg"].removeprefix("Value error, ")
        )
        raise InputError(f"{where}: {place}{given}: {reason[:1].lower()}{reason[1:]}; {fix}") from error
