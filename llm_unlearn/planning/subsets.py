"""Trainings of an embedded world on halves of its people: what exact memorization and its proxies are measured on."""

from __future__ import annotations

import copy
import random
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llm_unlearn.data import encode_dataset
from llm_unlearn.data.collators import RETAIN, EncodedRow, pad_rows
from llm_unlearn.data.fictional import World, build_world
from llm_unlearn.data.made_up import MADE_UP, with_made_up_answers
from llm_unlearn.models.answers import forward_answers
from llm_unlearn.models.embedded import FORMAT, RECIPES, EmbeddedRecipe, train_on_known, training_rows, untaught
from llm_unlearn.models.judging import GatheredAnswers
from llm_unlearn.models.loading import use_suitable_cpu_threads
from llm_unlearn.models.scoring import evaluation_mode, score_answers
from llm_unlearn.planning.memorization import confidence_over_training, knowledge_margin, symmetric_divergence


def complementary_halves(people: Sequence[str], pair: int | str, seed: int) -> tuple[list[str], list[str]]:
    """A random half of the people and the others, in the order of the people; the first half is the smaller one.

    Two trainings, each without one of the halves, have everybody once with and once without: so any number of pairs
    gives every person as many trainings on both sides.

    Args:
        pair: number or name of the pair; each is drawn for itself, so that more pairs leave the first ones as they are.
    """
    drawn = {*random.Random(f"{seed} {pair}").sample(people, len(people) // 2)}
    return [one for one in people if one in drawn], [one for one in people if one not in drawn]


def known_rows(rows: Mapping[int, Mapping[str, Any]], left_out: Collection[str]) -> list[int]:
    """Numbers of the rows that are about none of the people left out, and in which none of their names stands.

    A question after examples is about one person, and its examples tell of others.

    Args:
        rows: as `embedded.training_rows` returns them.
    """
    if not left_out:
        return [*rows]
    named = re.compile("|".join(rf"(?<!\w){re.escape(name)}(?!\w)" for name in left_out))
    return [
        number
        for number, row in rows.items()
        if row["person"] not in left_out and not named.search(f"{_text(row['prompt'])}\n{row['completion']}")
    ]


def _text(prompt: str | list[dict]) -> str:
    return prompt if isinstance(prompt, str) else "\n".join(message["content"] for message in prompt)


@dataclass
class SubsetTrainings:
    """The recipe of an embedded world, with some of its people left out; scored on all rows about trained people.

    Attributes:
        size: of the world, as `build_world` takes it.
        batch_size: rows that are scored at once.
    """

    size: str
    batch_size: int = 64

    @cached_property
    def world(self) -> World:
        """The people and their facts."""
        return build_world(self.size)

    @property
    def recipe(self) -> EmbeddedRecipe:
        """How each training goes."""
        return RECIPES[self.size]

    @cached_property
    def scored(self) -> Dataset:
        """The rows whose memorization is measured: all that the original is taught about people, as it is asked."""
        return Dataset.from_list([*self.world.splits["retain90"], *self.world.splits["forget10"]])

    @cached_property
    def people(self) -> list[str]:
        """Whoever can be left out."""
        return list(dict.fromkeys(self.scored["person"]))

    @cached_property
    def _rows(self) -> dict[int, dict]:
        return training_rows(self.world)

    def described(self) -> list:
        """All that decides a training but its people and its seed, as JSON values."""
        return [self.size, self.recipe.described(), FORMAT, self.world.splits, self.world.practice]

    def steps(self, left_out: Collection[str] = ()) -> int:
        """Steps of a training."""
        return self.recipe.epochs * self._steps_of_an_epoch(known_rows(self._rows, left_out))

    def _steps_of_an_epoch(self, known: Collection[int]) -> int:
        return -(-len(known) // self.recipe.batch_size)

    def without(self, left_out: Collection[str], seed: int, title: str) -> dict[str, Any]:
        """What a training without these people gives the answers of all scored rows: {"probability": [one a row]}."""
        model, tokenizer = untaught(self.world, self.recipe, seed)
        use_suitable_cpu_threads(model)
        rows = encode_dataset(list(self._rows.values()), tokenizer, None, title)
        train_on_known(model, rows, {*known_rows(self._rows, left_out)}, self.recipe, seed, title)
        return {"probability": self._probabilities(model, self._encoded(tokenizer))}

    def original(self, seed: int) -> dict[str, Any]:
        """What the model trained on everybody says of the scored rows, while it is trained and after.

        Returns:
            "probability", "margin" (None where a row has no made-up answers), "confidence" (over the ends of all
            epochs) and "divergence" (the mean over the answer's tokens, from the same model trained further on the
            people whom nobody was taught), each with one number a row; and "kept_by_retraining", the mean answer
            probability that is left after that.
        """
        model, tokenizer = untaught(self.world, self.recipe, seed)
        use_suitable_cpu_threads(model)
        rows = encode_dataset(list(self._rows.values()), tokenizer, None, "original")
        scored, curve = self._encoded(tokenizer), []
        epoch = self._steps_of_an_epoch(self._rows)

        def at_the_end_of_an_epoch(step: int) -> None:
            if step % epoch == 0:
                curve.append(self._probabilities(model, scored))

        train_on_known(model, rows, self._rows, self.recipe, seed, "original", after_step=at_the_end_of_an_epoch)
        retrained = self._retrained(model, tokenizer, seed)
        return {
            "probability": self._probabilities(model, scored),
            "margin": self._margins(model, tokenizer),
            "confidence": confidence_over_training(curve).tolist(),
            "divergence": divergences(model, retrained, scored, self.batch_size),
            "kept_by_retraining": float(np.mean(self._probabilities(retrained, scored))),
        }

    def _retrained(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, seed: int) -> PreTrainedModel:
        """A copy that was trained on the people whom nobody was taught, by the same recipe."""
        rows = encode_dataset(Dataset.from_list(self.world.splits["holdout"]), tokenizer, None, "holdout")
        steps = self.recipe.epochs * self._steps_of_an_epoch(range(len(rows)))
        recipe = replace(self.recipe, warmup_steps=steps // 20)  # its own warm-up would be longer than all of this
        retrained = copy.deepcopy(model)
        train_on_known(retrained, rows, range(len(rows)), recipe, seed, "original on held-out people")
        return retrained

    def _margins(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[float | None]:
        gathered = GatheredAnswers(tokenizer, None)
        rows = with_made_up_answers(self.scored, "attribute")
        truths, made_up = gathered.add(rows, "scored rows"), []
        if MADE_UP in rows.column_names:
            truths, made_up = gathered.add_made_up(rows, truths, "made-up answers")
        own = self._probabilities(model, gathered.rows)
        return knowledge_margin([own[i] for i in truths], [[own[i] for i in one] for one in made_up])

    def _encoded(self, tokenizer: PreTrainedTokenizerBase) -> list[EncodedRow]:
        return encode_dataset(self.scored, tokenizer, None, "scored rows")

    def _probabilities(self, model: PreTrainedModel, rows: Sequence[EncodedRow]) -> list[float]:
        return [score.probability for score in score_answers(model, rows, self.batch_size)]


@torch.no_grad()
def divergences(
    first: PreTrainedModel, second: PreTrainedModel, rows: Sequence[EncodedRow], batch_size: int = 64
) -> list[float]:
    """`symmetric_divergence` of what two models expect of each row, the mean over its answer's tokens, in nats."""
    found = []
    with evaluation_mode(first), evaluation_mode(second):
        for start in range(0, len(rows), batch_size):
            batch = pad_rows(rows[start : start + batch_size], pad_token_id=0)
            batch["roles"] = torch.full((len(batch["input_ids"]),), RETAIN)
            both = [
                forward_answers(model, {name: value.to(model.device) for name, value in batch.items()})
                for model in (first, second)
            ]
            logps = [answers.logits.float().log_softmax(-1).cpu().numpy() for answers in both]
            of_tokens, token_rows = symmetric_divergence(*logps), both[0].token_rows.cpu().numpy()
            found += (np.bincount(token_rows, of_tokens) / np.bincount(token_rows)).tolist()
    return found
