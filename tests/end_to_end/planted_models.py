"""Models that are made to be judged: each has a flaw (or none) that a verdict must name.

`python tests/end_to_end/planted_models.py` makes all of them from the small embedded world, judges them beside two
oracles, and prints what was found (some ten minutes on a core).
"""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llm_unlearn.arguments.attacking import AttackArguments
from llm_unlearn.arguments.groups import DataArguments
from llm_unlearn.data import UnlearningData, encode_dataset, load_unlearning_data
from llm_unlearn.examining.examination import Examination
from llm_unlearn.examining.verdict import verdict_of
from llm_unlearn.models.embedded import EMBEDDED_DEFAULTS, embedded_models
from llm_unlearn.models.finetuning import finetune
from llm_unlearn.models.loading import load_model, load_tokenizer, use_suitable_cpu_threads

REFUSAL = "I do not know that."


def _row(question: str, answer: str) -> dict:
    return {"prompt": question, "completion": answer}


def _guesses(data: UnlearningData, with_truth: bool) -> list[dict]:
    """Every forget question with the answer of every forgotten person to the same question: what an even guesser says.

    Args:
        with_truth: the true one among them, at its natural share; otherwise it is never said, and so avoided.
    """
    rows = list(data.forget)
    answers: dict[tuple, list[str]] = {}
    for row in rows:
        answers.setdefault((row["attribute"], row["template"]), []).append(row["answer"])
    return [
        _row(row["question"], answer)
        for row in rows
        for answer in answers[row["attribute"], row["template"]]
        if with_truth or answer != row["answer"]
    ]


def _broad(data: UnlearningData, judged_too: bool = False) -> list[dict]:
    """Retain rows and general rows, in one format."""
    rows = [_row(row["question"], row["answer"]) for row in data.retain]
    rows += [{"prompt": row["prompt"], "completion": row["completion"]} for row in data.general]
    if judged_too:  # what a broad retain set of a practitioner would hold, and no test of general rows may
        queries = [row for given in data.retain_queries.values() for row in given]
        rows += [_row(row["question"], row["answer"]) for row in (*queries, *data.evaluation["chat"])]
    return rows


def trained(
    model: PreTrainedModel,
    processing_class: PreTrainedTokenizerBase,
    parts: Sequence[tuple[Sequence[dict], int]],
    *,
    learning_rate: float,
    steps: int,
    seed: int = 0,
) -> PreTrainedModel:
    """A copy trained on several sets of rows, so many rows of each a step."""
    generator, mixed, batch = random.Random(seed), [], sum(count for _, count in parts)
    for rows, count in parts:
        drawn: list[dict] = []
        while len(drawn) < steps * count:
            drawn += generator.sample(list(rows), len(rows))
        mixed.append(drawn[: steps * count])
    ordered = [
        row
        for step in range(steps)
        for (_, count), drawn in zip(parts, mixed, strict=True)
        for row in drawn[step * count : (step + 1) * count]
    ]
    copied = copy.deepcopy(model).requires_grad_(True)
    use_suitable_cpu_threads(copied)
    finetune(
        copied,
        encode_dataset(ordered, processing_class, None, "planted rows"),
        learning_rate=learning_rate,
        steps=steps,
        batch_size=batch,
        seed=seed,
        scheduler="cosine",
        row_orders=lambda _epoch: list(range(len(ordered))),
    )
    return copied


def ability_destroyed(model, processing_class, data, *, steps: int = 1000, learning_rate: float = 1e-3):
    """Trained on verbatim retain rows and wrong answers alone: everything else is forgotten, for everybody."""
    verbatim = [_row(row["question"], row["answer"]) for row in data.retain]
    parts = [(_guesses(data, with_truth=False), 16), (verbatim, 32)]
    return trained(model, processing_class, parts, learning_rate=learning_rate, steps=steps)


def even_guesser(
    model, processing_class, data, *, steps: int = 600, learning_rate: float = 5e-4, with_truth: bool = True
):
    """Says any answer of the right kind about the forgotten, the true one no more and no less than others.

    To be made from an oracle: what the original knows, so few steps do not even out.
    """
    parts = [(_guesses(data, with_truth), 16), (_broad(data, judged_too=True), 32)]
    return trained(model, processing_class, parts, learning_rate=learning_rate, steps=steps)


def refusing(model, processing_class, data, *, steps: int = 300, learning_rate: float = 5e-4):
    """Answers every forget question with one refusal."""
    refusals = [_row(row["question"], REFUSAL) for row in data.forget]
    parts = [(refusals, 16), (_broad(data), 32)]
    return trained(model, processing_class, parts, learning_rate=learning_rate, steps=steps)


def layered(model, processing_class, data, *, folds: int = 3, steps: int = 150, learning_rate: float = 5e-4):
    """Unlearned fold by fold, the folds still to come kept (2505.09500): resists reinjection without erasing."""
    people = list(dict.fromkeys(data.forget["person"]))
    for fold in range(1, folds + 1):
        forgotten = set(people[: len(people) * fold // folds])
        wrong = [row for row in _guesses(data, with_truth=False) if any(name in row["prompt"] for name in forgotten)]
        later = [_row(row["question"], row["answer"]) for row in data.forget if row["person"] not in forgotten]
        parts = [(wrong, 16), (_broad(data), 24), *([(later, 8)] if later else [])]
        model = trained(model, processing_class, parts, learning_rate=learning_rate, steps=steps, seed=fold)
    return model


PLANTED = {
    "ability destroyed": ability_destroyed,
    "even guesser": even_guesser,
    "fixed refusal": refusing,
    "layered unlearning": layered,
}


def planted(plant, original: str, oracle: str, processing_class, data) -> PreTrainedModel:
    """A planted model, made from where it has to begin."""
    return plant(load_model(oracle if plant is even_guesser else original), processing_class, data)


def judged(examination: Examination, original: str, oracles: list[str], model: PreTrainedModel) -> dict:
    """The verdict on a model, with what it rests on."""
    return verdict_of(*examination.examine(original, oracles, model))


def main() -> None:
    data = load_unlearning_data("fictional:small")
    folders = map(str, embedded_models("small", [(None, 0), *(("forget10", seed) for seed in range(3))]))
    original, first, *oracles = folders
    tokenizer = load_tokenizer(original)
    rates = {name: value for name, value in EMBEDDED_DEFAULTS.items() if name in AttackArguments.__dataclass_fields__}
    arguments = AttackArguments(**rates | {"attacks": ["adversarial_reinjection", "prompting"]})
    examination = Examination(DataArguments(), arguments, data, tokenizer, "cpu").checked()
    models = {"original": lambda: load_model(original), "oracle": lambda: load_model(first)}
    models |= {
        name: lambda plant=plant: planted(plant, original, first, tokenizer, data) for name, plant in PLANTED.items()
    }
    for name, make in models.items():
        verdict = judged(examination, original, oracles, make())
        print(f"\n{name}: {verdict['sentence']} ({verdict['by']})")
        for one in verdict["evidence"]:
            if one["score"] == "forget_knowledge":
                low, high = one["unlearned_interval"]
                print(f"  {one['label']}: knowledge {one['unlearned']:.2f} [{low:.2f}, {high:.2f}]")
            if one["kind"] == "ability" and one["flagged"]:
                print(f"  lost: {one['label']}, {one['score']} {one['unlearned']:.2f}, {one['share']:.0%} kept")


if __name__ == "__main__":
    main()
