"""A small world and models whose hidden states carry exactly what is put there: the truth that probes are to find."""

from collections.abc import Collection

import torch
from builders import SPECIAL, tiny_model, word_tokenizer
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from llm_unlearn.data import UnlearningData

VALUES = {"city": ("Paris", "Rome", "Oslo", "Cairo"), "pet": ("cat", "dog", "goat")}
QUESTIONS = {"city": "Where does {} live", "pet": "Which pet has {}"}
REWORDED = {"city": "Where live does {}", "pet": "Which has pet {}"}  # the same words: the model was never trained
ANSWERS = {"city": "{} lives in {}", "pet": "has a {1}"}
WORDS = ("Where", "does", "live", "lives", "Which", "pet", "has", "in", "a")
RETAINED, FORGOTTEN, STRANGERS = (
    [f"{kind}{number}" for number in range(count)] for kind, count in (("Kept", 24), ("Gone", 12), ("Never", 6))
)


def value_of(person: str, kind: str) -> str:
    """Balanced, and of one kind independent of the other."""
    number = int("".join(filter(str.isdigit, person)))
    return VALUES[kind][(number if kind == "city" else number // 4) % len(VALUES[kind])]


def rows_about(people: Collection[str]) -> Dataset:
    return Dataset.from_list(
        [
            {
                "question": QUESTIONS[kind].format(person),
                "answer": ANSWERS[kind].format(person, value_of(person, kind)),
                "person": person,
                "kind": kind,
                "paraphrased_question": REWORDED[kind].format(person),
            }
            for person in people
            for kind in VALUES
        ]
    )


def planted_data(holdout: bool = True) -> UnlearningData:
    strangers = rows_about(STRANGERS) if holdout else None
    return UnlearningData(rows_about(FORGOTTEN), rows_about(RETAINED), strangers, {}, "planted")


def planted_tokenizer() -> PreTrainedTokenizerFast:
    names = [*RETAINED, *FORGOTTEN, *STRANGERS]
    vocabulary = [*SPECIAL, *names, *(value for values in VALUES.values() for value in values), *WORDS]
    return word_tokenizer(vocabulary)


def planted_model(known: Collection[str], blocks: int = 2) -> PreTrainedModel:
    """A model that was never trained, in which the name of whoever it knows points to their values.

    There is a direction for every value, one for being known, and one for being a stranger.
    """
    tokenizer = planted_tokenizer()
    model = tiny_model(vocab_size=len(tokenizer), hidden_size=64, num_hidden_layers=blocks)
    embeddings = model.get_input_embeddings().weight.data
    directions = torch.linalg.qr(torch.randn(64, 9, generator=torch.Generator().manual_seed(1)))[0].T
    place = {value: i for i, value in enumerate(value for values in VALUES.values() for value in values)}
    for person in (*RETAINED, *FORGOTTEN, *STRANGERS):
        told = [7, *(place[value_of(person, kind)] for kind in VALUES)] if person in known else [8]
        embeddings[tokenizer.convert_tokens_to_ids(person)] += 9 * directions[told].sum(0)
    return model
