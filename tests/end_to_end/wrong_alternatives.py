"""What oracles seem to know where true answers are compared with those of retained people: the wrong alternatives.

`python tests/end_to_end/wrong_alternatives.py` prints knowledge of the small world's original and oracles by both (a
minute on a core, once the models are there). Who knows whose the retained values are knows that none of them is asked
for, and seems to avoid what it never saw.
"""

from __future__ import annotations

import random
from collections import defaultdict

from datasets import Dataset

from llm_unlearn.data import load_unlearning_data
from llm_unlearn.data.made_up import MADE_UP
from llm_unlearn.data.queries import with_column
from llm_unlearn.examining.abilities import judged_sets
from llm_unlearn.models.embedded import embedded_models
from llm_unlearn.models.judging import judge
from llm_unlearn.models.loading import load_model, load_tokenizer, use_suitable_cpu_threads

ALTERNATIVES = 5


def with_values_of_others(rows: Dataset, others: Dataset, columns: tuple[str, ...]) -> Dataset:
    """The rows with made-up answers drawn from `others`, among those that are alike in these columns."""
    values = defaultdict(set)
    for row in others:
        values[tuple(row[name] for name in columns)].add(row["answer"])
    drawn = []
    for number, row in enumerate(rows):
        alike = sorted(values[tuple(row[name] for name in columns)] - {row["answer"]})
        drawn.append(random.Random(number).sample(alike, min(ALTERNATIVES, len(alike))))
    return with_column(rows, MADE_UP, drawn)


def main() -> None:
    data = load_unlearning_data("fictional:small")
    judged = judged_sets(data, "attribute", None).sets
    verbatim, reverse = judged["forget"], judged["forget_reversed"]
    sets = {
        "verbatim": verbatim,
        "verbatim, wrong": with_values_of_others(data.forget, data.retain, ("attribute", "template")),
        "reversed": reverse,
        "reversed, wrong": with_values_of_others(
            reverse.remove_columns(MADE_UP), data.retain_queries["reversed"], ("attribute",)
        ),
    }
    folders = embedded_models("small", [(None, 0), *(("forget10", seed) for seed in range(3))])
    tokenizer = load_tokenizer(str(folders[0]))
    for name, folder in zip(("original", "oracle 0", "oracle 1", "oracle 2"), folders, strict=True):
        model = load_model(str(folder))
        use_suitable_cpu_threads(model)
        records = judge(model, tokenizer, sets)
        known = {kind: f"{records[f'{kind}_knowledge']['agg_value']:.2f}" for kind in sets}
        print(f"{name}: " + ", ".join(f"{kind} {value}" for kind, value in known.items()))


if __name__ == "__main__":
    main()
