"""A trainer of any method on a tiny model; the settings without which a method cannot be."""

from itertools import cycle

from builders import arguments, lora_config, qa_rows, tiny_model, tiny_tokenizer
from datasets import Dataset

from llm_unlearn import UnlearnConfig
from llm_unlearn.methods import load_methods

METHODS = load_methods()
OWN = {
    "altpo": {"replace_with": "guess"},
    "counterfactual": {"guesses": 3},
    "pdu": {"epsilon": 0.5},
    "relabel": {"replace_with": "guess"},
    "rewind": {"rewind_to": "untrained"},
    "rmu": {"layer": 1},
    "ssiuu_published": {"influence_of": "log_probability"},
    "whp": {"reinforce_steps": 3, "reinforce_learning_rate": 1e-2},
}
ON_WHOLE_WEIGHTS = ("rewind", "undo")  # these take no adapter, and say: give --full_finetuning


def of_a_kind(rows):
    """The rows with a label that says that all answers are of one kind, which guesses are drawn by."""
    return rows.add_column("kind", ["answer"] * len(rows))


def of_classes(rows):
    """The rows with other answers: of two kinds, which end with one of two values by turns, so that rows share them."""
    places, things = cycle(("Paris", "Rome")), cycle(("cat", "dog"))
    found = []
    for row in rows:
        is_place = row["question"].startswith("Where")
        value = next(places if is_place else things)
        answer = f"in {value}" if is_place else value if row["question"].startswith("What") else f"a red {value}"
        found.append(row | {"answer": answer, "kind": "place" if is_place else "thing", "value": value})
    return Dataset.from_list(found)


def rows_for(method, forget, retain):
    """Both sets with the columns that a method needs."""
    return (of_classes(forget), of_classes(retain)) if method == "cmf" else (of_a_kind(forget), retain)


def build(method, folder, *, model=None, lora=True, forget=11, retain=14, general=0, **changes):
    """A trainer of a method (a name in METHODS, or a trainer's class) on a tiny model."""
    own, trainer_class, config_class = {}, method, UnlearnConfig
    if isinstance(method, str):
        own, trainer_class, config_class = OWN.get(method, {}), METHODS[method].trainer, METHODS[method].config
    forget_rows, retain_rows = rows_for(method, qa_rows(forget), qa_rows(retain, start=20))
    return trainer_class(
        model=tiny_model() if model is None else model,
        args=arguments(config_class, folder, **own | changes),
        forget_dataset=forget_rows,
        retain_dataset=retain_rows,
        general_dataset=qa_rows(general, start=16) if general else None,
        processing_class=tiny_tokenizer(),
        peft_config=lora_config() if lora else None,
    )
