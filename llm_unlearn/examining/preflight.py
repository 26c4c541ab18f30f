"""Before anything heavy: the longest row of every kind goes through scoring, and through generation for a step.

What is too long for a model, or what its class cannot do, is found in seconds, and not when training is done.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llm_unlearn.attacks.attack import prompt_of
from llm_unlearn.attacks.copies import merged_copy
from llm_unlearn.data import encode_dataset
from llm_unlearn.data.collators import EncodedRow
from llm_unlearn.errors import InputError
from llm_unlearn.examining.abilities import RETAIN
from llm_unlearn.examining.refusals import FIRST_TOKENS, is_asked
from llm_unlearn.examining.starts import is_same, tolerance_of, words
from llm_unlearn.models.files import config_of, is_adapter, reason
from llm_unlearn.models.judging import GatheredAnswers, JudgedSet
from llm_unlearn.models.loading import limited_positions
from llm_unlearn.models.scoring import generate_answers, mean_scores, score_answers
from llm_unlearn.models.sharding import whole_models

if TYPE_CHECKING:
    from llm_unlearn.examining.examination import Examination

STEPS = 2  # of generation: from the second on, the tokens before are cached
_NAMES = ("_name_or_path", "transformers_version", "architectures", "dtype")  # in configurations of models of one kind


@dataclass(frozen=True)
class LongestRow:
    """The longest of its kind, as the model sees it; `number` is that of the row among them.

    Of a prompt, `new_tokens` is how many are generated, where it is less than usual.
    """

    kind: str
    number: int
    row: EncodedRow
    new_tokens: int | None = None

    @property
    def words(self) -> str:
        return f"{self.kind} row {self.number} ({len(self.row['input_ids'])} tokens)"


@dataclass
class _LongestOnly(GatheredAnswers):
    """Gathers as judging does, and remembers the longest row of every kind."""

    longest: list[LongestRow] = field(default_factory=list)

    def add(self, rows: Dataset | list[dict], what: str) -> range:
        numbers = super().add(rows, what)
        self.longest.append(longest_of(what, self.rows[numbers.start : numbers.stop]))
        return numbers


def longest_of(kind: str, rows: list[EncodedRow], new_tokens: int | None = None) -> LongestRow:
    """The longest of some rows (the first of those)."""
    number = max(range(len(rows)), key=lambda i: len(rows[i]["input_ids"]))
    return LongestRow(kind, number, rows[number], new_tokens)


@dataclass(frozen=True)
class Asked:
    """What models will be asked, the longest of every kind.

    Attributes:
        rows: what is scored, or trained on by attacks. prompts: what answers are generated from, of up to
            `max_new_tokens`.
        load_model: gives the model of a folder or hub id, where it will be asked.
        attacked: copies are trained, into which adapters are merged. checkpointing: by activation checkpointing.
    """

    processing_class: PreTrainedTokenizerBase
    rows: list[LongestRow]
    prompts: list[LongestRow]
    max_new_tokens: int
    load_model: Callable[[str], PreTrainedModel]
    trust_remote_code: bool = False
    attacked: bool = False
    checkpointing: bool = False

    @classmethod
    def of_sets(
        cls,
        processing_class: PreTrainedTokenizerBase,
        sets: Mapping[str, Dataset],
        max_length: int | None,
        generated: Iterable[str] = (),
        begun: Iterable[str] = (),
        also_scored: Mapping[str, Dataset] | None = None,
        **settings: Any,
    ) -> Asked:
        """From data sets: `judging` asks `sets`, and has answers to the questions of those that are `generated`.

        Args:
            begun: sets to whose questions only the beginning of an answer is generated.
            also_scored: further rows, without wrong answers.
        """
        gathered = _LongestOnly(processing_class, max_length)
        for name, dataset in sets.items():
            JudgedSet.gather(name, dataset, gathered)
        for name, dataset in (also_scored or {}).items():
            gathered.add(dataset, name)
        prompts = []
        for name, most in [*((name, None) for name in generated), *((name, FIRST_TOKENS) for name in begun)]:
            rows = encode_dataset(sets[name], processing_class, max_length, name)
            prompts.append(longest_of(f"{name} answers", [{"input_ids": prompt_of(row)} for row in rows], most))
        return cls(processing_class, gathered.longest, prompts, **settings)


def asked_by(examination: Examination) -> Asked:
    """What is asked of every kind that is judged, and the instructions that attacks train on."""
    instructions, arguments = examination.instructions, examination.attack_args
    asked = [name for name in (RETAIN,) if is_asked(examination.judged.sets.get(name))]
    return Asked.of_sets(
        examination.processing_class,
        examination.judged.sets,
        examination.max_length,
        examination.judged.generated,
        asked,
        {} if instructions is None else {"instructions to train on": instructions},
        max_new_tokens=examination.max_new_tokens,
        load_model=examination.load_model,
        trust_remote_code=examination.data_args.trust_remote_code,
        attacked=examination.trains_attackers,
        checkpointing=arguments.attack_activation_checkpointing and examination.trains_attackers,
    )


def check_lengths(asked: Asked, models: Mapping[str, str]) -> None:
    """Compare the longest rows with the positions of models, of which only configurations are read.

    Args:
        models: name -> folder or hub id.

    Raises:
        InputError: the message has the row, both numbers and the fix.
    """
    for name, path in models.items():
        config = config_of(path, asked.trust_remote_code)
        positions = getattr(config.get_text_config(), "max_position_embeddings", None)
        for one in asked.rows:
            if positions is not None and len(one.row["input_ids"]) > positions > 0:
                raise InputError(
                    f"{name} {path!r} has {positions} positions, too few for {one.words}: give --max_length {positions}"
                )


@whole_models()
def check_loaded(asked: Asked, models: Mapping[str, str], known: Iterable[str] = ()) -> None:
    """`check_model` of one model of every kind, and of every adapter that is attacked also that it can be merged.

    Args:
        models: name -> folder or hub id.
        known: folders or hub ids of models that were checked, as were all of their kinds.

    Raises:
        InputError: as there, or a merged adapter says something else.
    """
    checked = [_kind_of(path, asked.trust_remote_code) for path in known]
    for name, path in models.items():
        if (kind := _kind_of(path, asked.trust_remote_code)) in checked:
            continue
        checked.append(kind)
        model = asked.load_model(path)
        check_model(asked, model, f"{name} {path!r}")
        if asked.attacked and isinstance(model, PeftModel):
            _check_merged(asked, model, f"{name} {path!r}")


def check_model(asked: Asked, model: PreTrainedModel | PeftModel, name: str) -> None:
    """Find out whether a model, and others like it, can be scored, generate and be attacked as was asked for.

    Args:
        name: what errors call it.

    Raises:
        InputError: it has no activation checkpointing, too few positions, or fails on a row; the message says which.
    """
    bare = model.get_base_model() if isinstance(model, PeftModel) else model
    if asked.checkpointing and not model.supports_gradient_checkpointing:
        raise InputError(
            f"attack_activation_checkpointing=True: {type(bare).__name__} has none; leave it out, or spare memory "
            "with --attack_micro_batch_size"
        )
    for one in asked.rows:
        with _explained(f"{name} ({type(bare).__name__}) cannot score {one.words}"):
            score_answers(model, [one.row])
    for one in asked.prompts:
        _check_room(bare, one, min(one.new_tokens or asked.max_new_tokens, asked.max_new_tokens), name)
        with _explained(f"{name} ({type(bare).__name__}) cannot generate from the prompt of {one.words}"):
            generate_answers(model, asked.processing_class, [one.row["input_ids"]], STEPS, min_new_tokens=STEPS)


def _check_room(model: PreTrainedModel, longest: LongestRow, room: int, name: str) -> None:
    """Of positions that a model has one by one; rotary ones go on."""
    positions, length = limited_positions(model), len(longest.row["input_ids"])
    if positions is not None and length + room - 1 > positions:  # the last token is not read again
        raise InputError(
            f"{name} has {positions} positions, too few for the prompt of {longest.words} and up to {room} new tokens: "
            f"leave out rows whose prompts are longer than {max(0, positions - room + 1)}, or take a model with more "
            "positions"
        )


def _check_merged(asked: Asked, model: PeftModel, name: str) -> None:
    """Attacks train the merged model: it must score the longest rows as the adapted one does."""
    rows = [one.row for one in asked.rows]
    with _explained(f"{name}: its adapter cannot be merged into its base model"):
        merged = merged_copy(model)
    expected, found = (mean_scores(score_answers(one, rows))["probability"] for one in (model, merged))
    if not is_same(found, expected, tolerance_of(model)):
        raise InputError(
            f"{name}: merged into its base model, the adapter gives the longest rows a mean probability of {found:.3g} "
            f"instead of {expected:.3g}, so that what is attacked would not be what is scored (allowed: "
            f"{words(tolerance_of(model))}); merge it yourself and give the merged model"
        )


def _kind_of(path: str, trust_remote_code: bool) -> tuple[dict, str | None]:
    """What models have in common that can do the same; every adapter is a kind of its own."""
    config = config_of(path, trust_remote_code).to_dict()
    kept = {name: value for name, value in config.items() if name not in _NAMES}
    return kept, path if is_adapter(path) else None


@contextlib.contextmanager
def _explained(words: str) -> Iterator[None]:
    """Within this scope, what a family's code raises becomes an `InputError` that begins with `words`."""
    try:
        yield
    except (InputError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # as many kinds as there are families
        raise InputError(
            f"{words}: {type(error).__name__}: {reason(error)}; take a model of another class, or shorter rows"
        ) from error
