"""What a model is judged on: the forget facts in every style, and the abilities that forgetting may not cost.

An *ability* is a named set of rows that are nobody's to forget: retained facts as they are trained and in every style
in which forget facts are asked, neighbors of the forgotten, general facts, instructions. All of them are scored in the
same pass over the model as the forget rows, in the same way for every model.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, replace

from datasets import Dataset

from llm_unlearn.data import UnlearningData, forget_queries, neighbor_facts, retained_queries
from llm_unlearn.data.identity import units_of
from llm_unlearn.data.made_up import with_made_up_answers
from llm_unlearn.data.queries import QUERY_STYLES, spread

FORGET, RETAIN = "forget", "retain"
INSTRUCTIONS = "instructions"
MOST_ROWS = 100  # of an evaluation set: enough for a standard error of 0.05
_SCORED_ALONE = ("perturbed_answer", "paraphrased_answer", "options")  # more answers, which abilities do not need
EVALUATION = {  # evaluation sets that are abilities; others only serve metrics
    "general": "general",
    "real_authors": "real_authors",
    "world_facts": "world_facts",
    "chat": INSTRUCTIONS,
    "general_data": "general_data",
}
LABELS = {  # ability -> what sentences and tables call it; the style abilities are in `ability_label`
    RETAIN: "retained facts",
    "general": "general facts",
    "real_authors": "facts about real authors",
    "world_facts": "world facts",
    INSTRUCTIONS: "instructions",
    "general_data": "held-out rows of the general data",
    "neighbor_same_template": "neighbors: same question, other people",
    "neighbor_same_value": "neighbors: same answer, other people",
    "neighbor_nearest_question": "neighbors: nearest questions",
}
STYLE_WORDS = {
    "verbatim": "as they are trained",
    "paraphrased": "in other words",
    "prefix": "with half of the answer given",
    "few_shot": "after three examples",
    "multiple_choice": "as multiple choice",
    "reversed": "in reverse",
    "two_hop": "through a second fact",
    "cloze": "as a gap to fill",
}
EXPECTED = ("general", INSTRUCTIONS)  # what anybody would ask about; a verdict says where one of them was not measured


@dataclass(frozen=True)
class JudgedSets:
    """Sets by the prefix of their records.

    Attributes:
        sets: forget, forget_STYLE, retain, retain_STYLE, neighbor_KIND and the evaluation sets that are abilities.
        generated: those for which answers are also generated.
        units: number of the person (without people, of the row) that each row of a set is about: what intervals draw.
    """

    sets: dict[str, Dataset]
    generated: tuple[str, ...]
    units: dict[str, list[int]]

    @property
    def style_rows(self) -> dict[str, list[int]]:
        """Style -> the number of the forget row that each of its queries comes from."""
        names = {style: f"{FORGET}_{style}" for style in QUERY_STYLES}
        return {style: list(self.sets[name]["row"]) for style, name in names.items() if name in self.sets}

    def without(self, names: Container[str]) -> JudgedSets:
        """All but some of them."""
        kept = {name: rows for name, rows in self.sets.items() if name not in names}
        generated = tuple(name for name in self.generated if name in kept)
        return JudgedSets(kept, generated, {name: self.units[name] for name in kept})


def judged_sets(
    data: UnlearningData, kinds: str | None, instructions: Dataset | None = None, retain_rows: int | None = None
) -> JudgedSets:
    """All that the data lets a model be judged on.

    Args:
        kinds: column that says which answers are of a kind (`made_up.kind_column`); None: knowledge is not measured.
        instructions: rows that nothing was trained on, where the data has none of its own.
        retain_rows: most rows of each set of retained facts, evenly spread; None: all of them.
    """
    sets = {FORGET: with_made_up_answers(data.forget, kinds)}
    asked = {FORGET: forget_queries(data), RETAIN: retained_queries(data)}
    if data.retain is not None:
        sets[RETAIN] = _without(data.retain, _SCORED_ALONE)
    for side, queries in asked.items():
        source = data.forget if side == FORGET else data.evaluation.get("retain_perturbed", data.retain)
        for style, rows in queries.items():
            if style == "verbatim" and side == FORGET:
                continue
            rows = _with_kinds(rows, source, kinds)
            alone = _SCORED_ALONE if style != "multiple_choice" else _SCORED_ALONE[:2]
            sets[f"{side}_{style}"] = _without(with_made_up_answers(rows, kinds), alone)
    sets |= {f"neighbor_{kind}": _without(rows, _SCORED_ALONE) for kind, rows in neighbor_facts(data).items()}
    for name, ability in EVALUATION.items():
        if name in data.evaluation:
            rows = with_made_up_answers(_spread(data.evaluation[name], MOST_ROWS), kinds)
            sets[ability] = _without(rows, _SCORED_ALONE)
    if INSTRUCTIONS not in sets and instructions is not None:
        sets[INSTRUCTIONS] = _spread(instructions, MOST_ROWS)
    if retain_rows is not None:
        sets |= {name: _spread(rows, retain_rows) for name, rows in sets.items() if name.startswith(RETAIN)}
    generated = tuple(name for name in (FORGET, INSTRUCTIONS) if name in sets)
    return JudgedSets(sets, generated, {name: units_of(rows) for name, rows in sets.items()})


def wholly_trained(data: UnlearningData) -> dict[str, str]:
    """Sets that would judge a form in which everything is trained, and why they do not."""
    if data.forms is None:
        return {}
    gone = forget_queries(replace(data, forms=None)).keys() - forget_queries(data).keys()
    return {
        f"{FORGET}_{style}": "all that could be asked in this form is trained (augment_attributes)" for style in gone
    }


def ability_names(sets: Mapping[str, object]) -> list[str]:
    """Those of the judged sets that are abilities, `retain` first; "retain_verbatim" is a part of it."""
    others = (f"{FORGET}_", f"{RETAIN}_verbatim")
    return [name for name in sets if name != FORGET and not name.startswith(others)]


def ability_label(name: str) -> str:
    """What sentences and tables call an ability: "retain_reversed" -> "retained facts asked in reverse"."""
    side, _, style = name.partition("_")
    if side == RETAIN and style in QUERY_STYLES:
        return f"retained facts, {STYLE_WORDS[style]}"
    return LABELS.get(name, name.replace("_", " "))


def ability_scores(records: Mapping[str, Mapping], sets: JudgedSets) -> dict[str, dict[str, float]]:
    """Of every ability its mean scores, and how many rows they are of.

    Args:
        records: of one model, as `models.judging.judge` gives them.
    """
    found = {}
    for name in ability_names(sets.sets):
        fields = {"exact_match": f"{name}_exact_match", "probability": f"{name}_Q_A_Prob"}
        fields |= {"knowledge": f"{name}_knowledge", "rouge_l": f"{name}_Q_A_ROUGE"}
        values = {field: records[metric]["agg_value"] for field, metric in fields.items() if metric in records}
        found[name] = {field: value for field, value in values.items() if value is not None}
        found[name]["rows"] = len(sets.sets[name])
    return found


def _with_kinds(rows: Dataset, source: Dataset, kinds: str | None) -> Dataset:
    """Queries keep the usual labels of the row that they come from; a kind column of the user's is added."""
    if kinds is None or kinds in rows.column_names or kinds not in source.column_names:
        return rows
    values = source[kinds][:]
    return rows.add_column(kinds, [values[row] for row in rows["row"]])


def _without(rows: Dataset, columns: tuple[str, ...]) -> Dataset:
    return rows.remove_columns([name for name in columns if name in rows.column_names])


def _spread(rows: Dataset, most: int) -> Dataset:
    return rows.select(spread(list(range(len(rows))), most))
