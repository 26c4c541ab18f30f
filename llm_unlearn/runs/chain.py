"""Unlearnings one after the other: each step's model is the original of the next.

A step keeps the retain rows *and* what later steps will forget: until its turn comes, that is to be known as well as
any other row. Steps are kept as soon as they are done, so that a chain that was killed goes on where it was.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from datasets import Dataset
from rich.console import Console

from llm_unlearn.arguments.attacking import AttackArguments
from llm_unlearn.arguments.groups import AdapterArguments, DataArguments, parse_for_model
from llm_unlearn.arguments.parsing import arguments_to_dict
from llm_unlearn.data import UnlearningData, row_format, unusual_template
from llm_unlearn.data.formats import FORMATS
from llm_unlearn.data.identity import facts_of
from llm_unlearn.data.validation import split_rows, validate_trained
from llm_unlearn.errors import InputError
from llm_unlearn.examining.examination import Examination
from llm_unlearn.examining.preflight import check_loaded
from llm_unlearn.examining.results import make_results, reference_models
from llm_unlearn.files.disk import check_free_space, check_output_dir
from llm_unlearn.files.outcomes import digest_of, remember
from llm_unlearn.files.run_folder import model_digests, model_identity, move_aside
from llm_unlearn.hub.merging import write_merged
from llm_unlearn.models.embedded import EMBEDDED_DEFAULTS, EMBEDDED_FULL_DEFAULTS
from llm_unlearn.models.files import is_adapter
from llm_unlearn.runs.benchmarking import show_dry_run
from llm_unlearn.runs.compared_methods import method_of, trainer_of
from llm_unlearn.runs.examinations import checked_examination, settings_of
from llm_unlearn.runs.inside import audited
from llm_unlearn.runs.recipe import conclude, prepare_process, show_results
from llm_unlearn.training.config import UnlearnConfig
from llm_unlearn.training.memory import bytes_to_write
from llm_unlearn.training.trainer import UnlearnTrainer

NOTHING = "none"  # the method of rows that are left alone

console = Console(highlight=False)


@dataclass
class ChainConfig(UnlearnConfig):
    """What all steps have in common; a method's name sets what only one of them has (npo:beta=0.5)."""

    merge_between: bool = field(
        default=False,
        metadata={
            "help": "Put each step's adapter into the weights, and train a fresh one in the next step. Default: one "
            "adapter is trained further, and the original stays as it is."
        },
    )


@dataclass(frozen=True)
class Step:
    """A part of the forget rows, and what is done about it.

    Attributes:
        name: for people. method: as benchmarks take it (npo:beta=0.5), or NOTHING. rows: numbers of its forget rows.
    """

    name: str
    method: str
    rows: tuple[int, ...]


@dataclass
class Chain:
    """Steps on the forget rows of an examination.

    Attributes:
        original: folder or hub id of the model that the first step begins with.
        again: whether each step forgets the rows of all steps before it once more (not those that were left alone).
    """

    steps: Sequence[Step]
    config: ChainConfig
    adapter_args: AdapterArguments
    examination: Examination
    original: str
    again: bool = False

    @property
    def output(self) -> Path:
        """The folder of the whole chain."""
        return Path(self.config.output_dir)

    def folder(self, number: int) -> Path:
        """That of a step, counted from 0; its name counts from 1."""
        return self.output / "steps" / str(number + 1)

    def forget_of(self, number: int) -> Dataset:
        """The rows that a step forgets."""
        return self.examination.data.forget.select(self.steps[number].rows)

    def retain_of(self, number: int) -> Dataset | None:
        """The rows that a step keeps: the retain rows, then those of all later steps, in the steps' order.

        They have the columns that both sets have, which say whom and what kind of thing a row is about.

        Raises:
            InputError: one of the sets is plain text, and the other asks questions.
        """
        retain, forget = self.examination.data.retain, self.examination.data.forget
        later = [row for step in self.steps[number + 1 :] for row in step.rows]
        if retain is None or not later:
            return retain
        forms = [row_format(rows.column_names) for rows in (retain, forget)]
        if ("text" in forms) != (forms == ["text", "text"]):
            raise InputError(
                f"forget rows are {forms[1]} and retain rows {forms[0]}: what is forgotten later is a retain row until "
                "then, so give both sets questions, or both plain text"
            )
        both = {name for name, kind in retain.features.items() if forget.features.get(name) == kind}
        both -= {column for columns in FORMATS.values() for column in columns}
        kept = []
        for rows, name in ((retain, "retain set"), (forget.select(later), "forget set")):
            labels = rows.select_columns(sorted(both)).to_list() if both else [{}] * len(rows)
            for (prompt, answer), own in zip(split_rows(rows, name), labels, strict=True):
                told = {"text": answer} if forms[0] == "text" else {"prompt": prompt, "completion": answer}
                kept.append(own | told)
        return Dataset.from_list(kept)

    # ---- before --------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Find out before any work what would end the chain later.

        Raises:
            InputError: a row in no step or in two, a fact in two, nothing to train, sets that contradict each other, or
                a method that cannot be trained here.
        """
        self._check_rows()
        if (bits := self.adapter_args.bits) is not None:
            raise InputError(f"load_in_{bits}bit: the steps of a chain train whole base weights; leave it out")
        if self.config.push_to_hub:
            raise InputError("push_to_hub: a chain keeps many models; push the last: llm-unlearn push OUTPUT_DIR")
        if self.config.merge_between and self.adapter_args.full_finetuning:
            raise InputError("merge_between puts adapters into weights, and full_finetuning trains none; give one")
        trained = [number for number, step in enumerate(self.steps) if step.method != NOTHING]
        if not trained:
            raise InputError(f"every step has the method {NOTHING!r}: there is nothing to train; name one")
        tried, trainer = set(), None
        for number in trained:
            method = self.steps[number].method
            try:
                data, config = self._data(number), self.config_of(number)
                validate_trained(data.forget, data.retain, data.general, config.retain_loss, self._near_duplicates)
                if method not in tried and not (self.folder(number) / "run.json").exists():
                    trainer = self._trainer(number, self.original)
            except ValueError as error:
                raise InputError(f"{self.steps[number].name}, {method}: {error}") from error
            tried.add(method)
        if trainer is not None:
            whole = self.config.merge_between * trainer.model.num_parameters() * 4
            needed = len(trained) * (bytes_to_write(trainer) + whole)
            check_free_space(self.output, needed, f"weights of {len(trained)} steps", "forget in fewer steps")

    def _check_rows(self) -> None:
        taken = [row for step in self.steps for row in step.rows]
        missing = set(range(len(self.examination.data.forget))) - set(taken)
        if missing:
            raise InputError(f"forget row {min(missing)} is in no group; such rows: {len(missing)}; name one for each")
        if len(taken) != len(set(taken)):
            twice = next(row for row in taken if taken.count(row) > 1)
            raise InputError(f"forget row {twice} is in two groups; leave it in one")
        step_of = {row: number for number, step in enumerate(self.steps) for row in step.rows}
        place: dict[Any, int] = {}
        for row, fact in enumerate(facts_of(self.examination.data.forget)):
            if place.setdefault(fact, row) != row and step_of[place[fact]] != step_of[row]:
                names = [self.steps[step_of[one]].name for one in (place[fact], row)]
                raise InputError(
                    f"forget rows {place[fact]} and {row} are of one fact, in groups {names[0]!r} and {names[1]!r}: "
                    "what one forgets the other would keep; put both into one"
                )

    @property
    def _near_duplicates(self) -> str:
        return self.examination.data_args.near_duplicates

    def _data(self, number: int) -> UnlearningData:
        forget = self.forget_of(number)
        if self.again:
            earlier = [row for step in self.steps[:number] if step.method != NOTHING for row in step.rows]
            forget = self.examination.data.forget.select([*earlier, *self.steps[number].rows])
        return replace(self.examination.data, forget=forget, retain=self.retain_of(number))

    def config_of(self, number: int) -> UnlearnConfig:
        """A step's own configuration: what the chain shares, and what the method's name fixes."""
        method, folder = method_of(self.steps[number].method), str(self.folder(number))
        return method.configured(self.config, self.examination.data_args, output_dir=folder)

    def _goes_on(self, number: int) -> bool:
        """Whether a step trains the adapter of an earlier one."""
        if self.adapter_args.full_finetuning or self.config.merge_between:
            return False
        return any(step.method != NOTHING for step in self.steps[:number])

    def _trainer(self, number: int, before: str, further: bool = False) -> UnlearnTrainer:
        examination = replace(self.examination, data=self._data(number))
        method = method_of(self.steps[number].method)
        return trainer_of(method, self.config_of(number), self.adapter_args, examination, before, further=further)

    # ---- running -------------------------------------------------------------------------------------------------

    def run(self, finished: Callable[[int, dict[str, Any], str], None] = lambda *_: None) -> list[dict[str, Any]]:
        """All steps, those that are done already from their files.

        Args:
            finished: is told of each step its number, its outcome, and the folder or hub id of the model after it.

        Returns:
            Of each step {"steps", "stopped_by", "seconds", "model" (folder below that of the step, None: nothing was
            trained), "weights" (digests of it)}.

        Raises:
            InputError: the weights of a step that is done are gone, or others.
            DivergenceError: a step diverged; those before it are kept.
        """
        done, before, weights = [], self.original, {}
        for number, step in enumerate(self.steps):
            if step.method == NOTHING:
                outcome = {"steps": 0, "stopped_by": None, "seconds": 0.0, "model": None, "weights": weights}
            else:
                outcome = self._remembered(number, before, weights)
                before, weights = str(self.folder(number) / outcome["model"]), outcome["weights"]
            done.append(outcome)
            finished(number, outcome, before)
        return done

    def _remembered(self, number: int, before: str, weights: dict[str, str]) -> dict[str, Any]:
        config, data = self.config_of(number), self._data(number)
        shown = arguments_to_dict(config, self.adapter_args)
        for group in shown.values():
            group.pop("output_dir", None)  # a folder that was moved holds the same steps
        sets = (data.forget, data.retain, data.general if config.general_weight else None)
        rows = [rows and digest_of(rows.to_list()) for rows in sets]
        template = unusual_template(self.examination.processing_class)
        original = model_identity(self.original)
        key = ["step", self.steps[number].method, shown, rows, original, weights, self.config.merge_between]
        file = self.folder(number) / "run.json"
        outcome = remember(file, key + template, lambda: self._trained(number, before))
        saved = self.folder(number) / outcome["model"]
        if not saved.is_dir() or model_digests(saved) != outcome["weights"]:
            raise InputError(
                f"{saved} does not hold the weights that step {number + 1} left there: remove {self.folder(number)}, "
                "and this step is trained again, with those that follow"
            )
        return outcome

    def _trained(self, number: int, before: str) -> dict[str, Any]:
        started, folder = time.monotonic(), self.folder(number)
        trainer = self._trainer(number, before, further=self._goes_on(number))
        trainer.train(resume_from_checkpoint="last" if self.config.save_strategy != "no" else None)
        kind = "model" if self.adapter_args.full_finetuning else "adapter"
        for name in ("adapter", "model"):
            shutil.rmtree(folder / name, ignore_errors=True)  # of a process that was killed while it saved
        trainer.save_model(str(folder / kind))
        if self.config.merge_between:
            write_merged(folder / "adapter", folder / "model", self.examination.data_args.dtype)
            self.examination.processing_class.save_pretrained(folder / "model")
            kind = "model"
        return {
            "steps": trainer.state.global_step,
            "stopped_by": trainer.stopped_by,
            "seconds": round(time.monotonic() - started, 2),
            "model": kind,
            "weights": model_digests(folder / kind),
        }

    # ---- after ---------------------------------------------------------------------------------------------------

    def conclude(self, done: Sequence[dict], described: dict[str, Any], config: dict, oracles: list[str]) -> dict:
        """Examine the last model as a recipe does; writes and shows results, verdict and page, and returns the results.

        Args:
            done: as `run` returns it. described: as `UnlearnTrainer.described`.
        """
        last = max(number for number, step in enumerate(self.steps) if step.method != NOTHING)
        if (earlier := move_aside(self.output)) is not None:
            console.print(f"what an earlier run left there is now in {earlier}", markup=False, soft_wrap=True)
        saved = self.output / done[last]["model"]
        shutil.copytree(self.folder(last) / done[last]["model"], saved)
        examination = replace(self.examination, output_dir=self.output, seconds={})
        examination.seconds["unlearn"] = round(sum(one["seconds"] for one in done), 2)
        examined, records = examination.examine(self.original, oracles, str(saved))
        inside = audited(examination, self.original, oracles, str(saved))
        results = make_results(
            self.output,
            described,
            self.config.seed,
            config,
            models=(self.original, oracles, str(saved)),
            rows={"forget": examination.data.forget, "retain": examination.data.retain},
            data=examination.data_args.data,
            training={"steps": sum(one["steps"] for one in done), "stopped_by": _stops(self.steps, done), "log": []},
            **examined,
            **inside,
            seconds=examination.seconds,
        )
        show_results(results, conclude(results, records, self.output))
        return results


def _stops(steps: Sequence[Step], done: Sequence[dict]) -> str:
    """Steps by their numbers: a group may be called by a person's name, and results are pushed."""
    return "; ".join(
        f"step {number}: {one['stopped_by'] or 'end of training'}"
        for number, (step, one) in enumerate(zip(steps, done, strict=True), 1)
        if step.method != NOTHING
    )


def parse_chain(
    groups: Sequence[type], argv: Sequence[str] | None, description: str, output_dir: str
) -> tuple[tuple, UnlearningData | None, Examination | None, str, list[str]]:
    """What the commands that run chains begin with: arguments, data, and the models that are examined.

    Args:
        groups: dataclasses of the command's own flags.

    Returns:
        The arguments as (DataArguments, *groups, AdapterArguments, AttackArguments, ChainConfig); then data,
        examination, original and oracles, which are None, "" and [] after a dry run.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("a chain trains in one process: start it without --num_processes or --multi_gpu")
    prepare_process()
    arguments = parse_for_model(
        (DataArguments, *groups, AdapterArguments, AttackArguments, ChainConfig),
        argv,
        description=description,
        defaults={"output_dir": output_dir},
        embedded_defaults=EMBEDDED_DEFAULTS,
        embedded_full_defaults=EMBEDDED_FULL_DEFAULTS,
    )
    data_args, *_, attack_args, config = arguments
    if data_args.augment_forms:
        raise InputError("augment_forms: each step of a chain forgets its rows as they are; leave it out")
    check_output_dir(config.output_dir)
    data = data_args.load_data()
    if data_args.dry_run:
        show_dry_run(data, *arguments)
        return arguments, None, None, "", []
    original, oracles = data_args.model_paths()
    if is_adapter(original):
        raise InputError(
            f"model_name_or_path={original!r} is an adapter: merge it into its base first (merge_and_unload() and "
            "save_pretrained() of its PeftModel)"
        )
    references = reference_models(original, oracles)
    examination = checked_examination(
        data_args, attack_args, data, references, **settings_of(config), original=original
    )
    check_loaded(examination.asked, references)
    return arguments, data, examination, original, oracles
