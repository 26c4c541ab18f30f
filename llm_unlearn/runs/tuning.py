"""Settings of methods found with the same effort for each: trials drawn from its space, judged before any attack.

A trial is a setting under the name that benchmarks take (`npo:learning_rate=0.001,beta=0.5`), so what is compared later
is what was tried here. Outcomes are kept as soon as they are there: a search that was killed goes on, and several
processes share its trials.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.markup import escape

from llm_unlearn.arguments.groups import AdapterArguments, parse_for_model
from llm_unlearn.arguments.parsing import arguments_to_dict
from llm_unlearn.data import template_key
from llm_unlearn.data.made_up import MADE_UP
from llm_unlearn.errors import DivergenceError, InputError
from llm_unlearn.examining.examination import Examination
from llm_unlearn.examining.left import ignorance, scores_by_style
from llm_unlearn.examining.preflight import check_loaded
from llm_unlearn.examining.price import reference_abilities
from llm_unlearn.examining.results import reference_models
from llm_unlearn.files.disk import check_output_dir
from llm_unlearn.files.outcomes import digest_of, remember
from llm_unlearn.files.run_folder import model_identity
from llm_unlearn.files.whole import write_json, write_whole
from llm_unlearn.models.embedded import EMBEDDED_DEFAULTS
from llm_unlearn.models.precision import without_mixed_precision
from llm_unlearn.reporting.tuning_table import print_left_out, print_spaces, print_tuning, trial_words, tuning_csv
from llm_unlearn.runs.benchmarking import (
    EMBEDDED_FULL_LEARNING_RATES,
    ROBUSTNESS_DEFAULTS,
    ReferenceArguments,
    show_dry_run,
)
from llm_unlearn.runs.compared_methods import method_of, trainer_of
from llm_unlearn.runs.examinations import checked_examination, settings_of
from llm_unlearn.runs.recipe import prepare_process
from llm_unlearn.runs.sharing import become_worker, share
from llm_unlearn.runs.trials import best_trial, summed_up
from llm_unlearn.runs.tuning_plan import Plan, TuningArguments, TuningConfig
from llm_unlearn.training.config import UnlearnConfig
from llm_unlearn.training.trainer import UnlearnTrainer

console = Console(highlight=False)


@dataclass
class Tuning:
    """One search: what it tries, and on what.

    Attributes:
        worker: number of this process among those that share the trials.
    """

    plan: Plan
    examination: Examination
    original: str
    oracles: list[str]
    worker: int = 0
    _seconds: list[float] = field(init=False, default_factory=list)  # of every run that is done

    @property
    def output(self) -> Path:
        """The folder of the whole search."""
        return Path(self.plan.config.output_dir)

    @property
    def seeds(self) -> list[int]:
        """With which every trial is trained."""
        return self.plan.arguments.tuning_seeds

    def run(self) -> dict[str, Any]:
        """References, trials, the best of each method; returns what was found (JSON values).

        Returns:
            {"references": {"abilities", "score", "ignorance", "by_style"}, "least_kept", "left_out": {method: reason},
            "methods": {method: {"space", "settings" (how many there are), "trials": [{"name", "setting", "runs": [one
            for each seed], and what `summed_up` says}], "best" (number of the trial or None), "why"}}}.
        """
        self.check_methods()
        if not self.worker:
            print_left_out(self.plan.left_out)
        references = self._references()
        tasks = {(trial, seed): self._task(trial, seed) for trial in self.plan.trials for seed in self.seeds}
        done = share(tasks, self.worker, lambda task, outcome: self._say(task, outcome, references, len(tasks)))
        methods = {}
        for name, trials in self.plan.drawn.items():
            tried = []
            for trial, setting in trials.items():
                runs = [done[trial, seed] for seed in self.seeds]
                tried.append({"name": trial, "setting": setting, **summed_up(runs, references), "runs": runs})
            best, why = best_trial(tried, self.plan.arguments.least_kept)
            space = self.plan.spaces[name]
            methods[name] = {
                "space": {field: list(values) for field, values in space.values.items()},
                "settings": len(space.settings),
                "trials": tried,
                "best": best,
                "why": why,
            }
        least_kept = self.plan.arguments.least_kept
        return {"references": references, "least_kept": least_kept, "left_out": self.plan.left_out, "methods": methods}

    def check_methods(self) -> None:
        """Make a trainer of each method once: what only its trainer refuses is known before hours of work."""
        for name in [*self.plan.drawn]:
            self.plan.keep_if_possible(name, self._check_trainer)

    def _check_trainer(self, trial: str) -> None:
        if not self._file(trial, self.seeds[0]).exists():
            self._trainer(trial, self.seeds[0])

    def _references(self) -> dict[str, Any]:
        """What original and oracles can do, and what ignorance of the forgotten facts looks like."""
        models = reference_models(self.original, self.oracles)
        key = ["tuning references", self._judged, {name: model_identity(path) for name, path in models.items()}]

        def compute() -> dict:
            measured, records = self.examination.measure(models, attacks=[])
            by_style = {name: scores_by_style(records[name]) for name in models}
            score, ignorant = ignorance(by_style)
            return {
                "abilities": reference_abilities(measured["abilities"]),
                "score": score,
                "ignorance": ignorant,
                "by_style": by_style,
            }

        found = remember(self.output / "references.json", key, compute)
        if not found["ignorance"]:
            raise InputError(
                f"the original's {found['score']} of the forget rows is no better than that of models that never saw "
                "them: there is nothing to unlearn"
            )
        if not found["abilities"]:
            raise InputError("original and oracles can do nothing that is measured here: give --retain_file rows")
        return found

    @cached_property
    def _judged(self) -> str:
        """What fixes how models are judged."""
        examination, sets = self.examination, self.examination.judged.sets
        rows = {name: rows.to_list() for name, rows in sets.items()}
        how = [examination.attack_args.generation_config, examination.max_length, examination.data_args.dtype]
        return digest_of([rows, how, template_key(examination.processing_class)])

    @cached_property
    def _original(self) -> dict[str, str]:
        """Which model is meant by its name, whatever is trained into its folder later."""
        return model_identity(self.original)

    @cached_property
    def _rows(self) -> dict[str, str | None]:
        """What fixes the rows that are trained on."""
        data = self.examination.data
        sets = {"forget": data.trained_forget, "retain": data.retain, "general": data.trained_general}
        return {name: rows and digest_of(rows.to_list()) for name, rows in sets.items()}

    # ---- trials ----------------------------------------------------------------------------------------------------

    def _file(self, trial: str, seed: int) -> Path:
        """What keeps the outcome of a trial with a seed; its folder is that of the training."""
        method = trial.partition(":")[0]
        return self.output / "trials" / f"{method}-{digest_of(trial)}-seed{seed}" / "run.json"

    def _config(self, trial: str, seed: int) -> UnlearnConfig:
        return self.plan.configured(trial, seed=seed, output_dir=str(self._file(trial, seed).parent))

    def _trainer(self, trial: str, seed: int) -> UnlearnTrainer:
        config, adapter_args = self._config(trial, seed), self.plan.adapter_args
        return trainer_of(method_of(trial), config, adapter_args, self.examination, self.original)

    def _task(self, trial: str, seed: int) -> Callable[[bool], dict | None]:
        config = self._config(trial, seed)
        shown = arguments_to_dict(config, self.plan.adapter_args)
        for group in shown.values():
            group.pop("output_dir", None)  # a folder that was moved holds the same trials
        rows = self._rows | ({} if config.general_weight else {"general": None})
        key = ["trial", trial, shown, rows, self._original, self._judged]
        file = self._file(trial, seed)
        return lambda wait: remember(file, key, lambda: self._run(trial, seed), wait=wait)

    def _run(self, trial: str, seed: int) -> dict:
        """Train and score; a run that diverges is an outcome, too."""
        started = time.monotonic()
        trainer = self._trainer(trial, seed)
        try:
            trainer.train()
        except DivergenceError as error:
            found = {"steps": trainer.state.global_step, "stopped_by": None, "diverged": str(error)}
            return {"seed": seed, **found, "seconds": round(time.monotonic() - started, 2)}
        found = {"steps": trainer.state.global_step, "stopped_by": trainer.stopped_by, "diverged": None}
        model = without_mixed_precision(trainer.accelerator.unwrap_model(trainer.model))
        measured, records = self.examination.measure({"unlearned": model}, attacks=[])
        found |= {
            "scores": measured["scores"]["unlearned"],
            "by_style": scores_by_style(records["unlearned"]),
            "abilities": measured["abilities"]["unlearned"],
        }
        return {"seed": seed, **found, "seconds": round(time.monotonic() - started, 2)}

    def _say(self, task: tuple[str, int], outcome: dict, references: Mapping[str, Any], tasks: int) -> None:
        """A line on a finished run, and how long the rest takes at the mean pace so far."""
        self._seconds.append(outcome["seconds"])
        done = len(self._seconds)
        left = timedelta(seconds=round((tasks - done) * fmean(self._seconds)))
        more = f", about {left} left for one process" if left else ""
        words = f"{done} of {tasks}{more}: {task[0]} seed {task[1]}: "
        console.print(
            escape(words + trial_words(summed_up([outcome], references), references["score"])), soft_wrap=True
        )


def tune(description: str, argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Search the settings of methods; prints, writes and returns what was found: `Tuning.run`, and "config".

    Writes tune.json, tune.csv and best_methods.txt under `output_dir`.

    Raises:
        InputError: arguments, or rows by which no knowledge or no ability can be measured.
    """
    prepare_process()
    worker = become_worker()
    groups = (ReferenceArguments, TuningArguments, AdapterArguments, TuningConfig)
    taken = {name for group in groups for name in group.__dataclass_fields__}
    suited = {name: value for name, value in (EMBEDDED_DEFAULTS | ROBUSTNESS_DEFAULTS).items() if name in taken}
    arguments = parse_for_model(
        groups,
        argv,
        description=description,
        defaults={"output_dir": "outputs/tune"},
        embedded_defaults=suited,
        embedded_full_defaults={"learning_rates": EMBEDDED_FULL_LEARNING_RATES},
    )
    data_args, tuning_args, adapter_args, config = arguments
    check_output_dir(config.output_dir)
    plan = Plan(tuning_args, config, adapter_args, data_args)
    data = data_args.load_data()
    if data_args.dry_run:
        show_dry_run(data, *arguments)
        print_spaces(plan.spaces, plan.drawn, plan.left_out, len(tuning_args.tuning_seeds))
        return {}
    original, oracles = data_args.model_paths()
    references = reference_models(original, oracles)
    attack_args = tuning_args.attack_arguments()
    examination = checked_examination(data_args, attack_args, data, references, **settings_of(config))
    check_measurable(examination, oracles)
    if not worker:
        check_loaded(examination.asked, references)
    tuning = Tuning(plan, examination, original, oracles, worker)
    found = {"config": arguments_to_dict(*arguments)} | tuning.run()
    if worker:
        return found
    write_json(tuning.output / "tune.json", found)
    write_whole(tuning.output / "tune.csv", [tuning_csv(found)])
    best = [one["trials"][one["best"]]["name"] for one in found["methods"].values() if one["best"] is not None]
    write_whole(tuning.output / "best_methods.txt", [f"{name}\n" for name in best])
    print_tuning(found, tuning.output)
    return found


def check_measurable(examination: Examination, oracles: Sequence[str]) -> None:
    """Refuse rows by which trials cannot be told apart: no two answers of a kind and no oracle, or nothing to keep.

    Raises:
        InputError: the message has what is missing.
    """
    forget = examination.judged.sets["forget"]
    if not oracles and (MADE_UP not in forget.column_names or not any(forget[MADE_UP])):
        raise InputError(
            "trials are compared by knowledge, for which several forgotten facts must be of one kind: give the rows a "
            "column 'kind' (or 'attribute'), or name one with --counterfactual_group_by; or give an oracle, whose "
            "answer probabilities take its place"
        )
    if examination.data.retain is None:
        raise InputError("trials are compared by what they keep, which needs rows to keep: give --retain_file")
