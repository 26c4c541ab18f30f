"""Methods x attacks x seeds on one data set, matched: which method erased, and which only hid?

Every method stops at the same forget score. Its learning rate is chosen on tuning seeds, which are not reported: of the
rates at which it stops in time and keeps the retained facts, the one that recovers least under reinjection; a control
of equal steps takes the rate that needs as many steps as the method that it is a control of. Then come the reported
seeds, each run with its own folder, results and verdict.

Runs are kept as soon as they are done: an interrupted benchmark goes on where it was, and several processes share the
runs among them, each training alone.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.markup import escape

from llm_unlearn.arguments.groups import AdapterArguments
from llm_unlearn.arguments.parsing import arguments_to_dict
from llm_unlearn.arguments.ranges import POSITIVE, SEED, check_each_once, check_ranges
from llm_unlearn.data import unusual_template
from llm_unlearn.errors import DivergenceError, InputError
from llm_unlearn.examining.abilities import ability_label
from llm_unlearn.examining.examination import Examination
from llm_unlearn.examining.price import lowest_of_means, reference_abilities
from llm_unlearn.examining.results import make_results, merge_results, reference_models
from llm_unlearn.files.disk import check_free_space
from llm_unlearn.files.outcomes import digest_of, remember
from llm_unlearn.files.run_folder import model_identity
from llm_unlearn.models.judging import Records
from llm_unlearn.models.precision import without_mixed_precision
from llm_unlearn.reporting.robustness import run_folder
from llm_unlearn.runs.compared_methods import (
    ComparedMethod,
    compared_methods,
    controlled,
    method_of,
    trained_as,
    trainer_of,
)
from llm_unlearn.runs.recipe import conclude
from llm_unlearn.runs.sharing import share
from llm_unlearn.training.config import UnlearnConfig
from llm_unlearn.training.memory import bytes_to_write

logger = logging.getLogger(__name__)

KEPT = 0.95  # of the ability that loses most (older references: of the retain exact match): what a rate must keep
EQUAL_STEPS = 0.15  # relative difference of steps that counts as equal
SEARCHES = 4  # rates that are tried between those of the grid for equal steps

console = Console(highlight=False)


@dataclass
class RobustnessConfig(UnlearnConfig):
    """What all methods that are compared have in common; `--methods` sets what only one of them has."""


@dataclass
class RobustnessArguments:
    """Which methods are compared, on which seeds, and how their learning rates are chosen."""

    methods: list[str] = field(
        default_factory=lambda: [*compared_methods()],
        metadata={
            "help": f"Any of {', '.join(compared_methods())}; the last ones are controls of what ssiuu owes to its "
            "parts. A name may fix fields of its configuration: ssiuu:regularizer_weight=30,retain_weight=60."
        },
    )
    seeds: list[int] = field(
        default_factory=lambda: [20, 21, 22, 23, 24], metadata={"help": "Seeds of unlearning that are reported."}
    )
    tuning_seeds: list[int] = field(
        default_factory=lambda: [100], metadata={"help": "Seeds on which learning rates are chosen; never reported."}
    )
    learning_rates: list[float] = field(
        default_factory=lambda: [1e-5, 3e-5, 1e-4],
        metadata={
            "help": "Rates that every method may choose from; a single one needs no tuning, nor does a method that "
            "fixes its own (npo:learning_rate=1e-4)."
        },
    )

    def __post_init__(self):
        for name in self.methods:
            if (needed := method_of(name).steps_of) and controlled(name, self.methods) is None:
                raise ValueError(f"methods: {name} takes the steps of {needed}, which is not among them; add it")
        if shared := set(self.seeds) & set(self.tuning_seeds):
            raise ValueError(f"seeds: {min(shared)} is a tuning seed, too; a seed that chose a rate is not reported")
        check_each_once(self, ["methods", "seeds", "tuning_seeds", "learning_rates"])
        check_ranges(self, {"seeds": SEED, "tuning_seeds": SEED, "learning_rates": POSITIVE})


@dataclass
class Robustness:
    """One benchmark: what was asked for, and the folder that receives it.

    Attributes:
        config: the arguments that all trainings share; methods fix some of them, seeds and rates are set here.
        worker: number of this process among those that share the runs.
    """

    arguments: RobustnessArguments
    config: RobustnessConfig
    adapter_args: AdapterArguments
    examination: Examination
    original: str
    oracles: list[str]
    worker: int = 0

    def __post_init__(self):
        if self.examination.attack_args.reinjection_pool != "all":
            raise InputError("reinjection_pool='forgotten' differs from model to model; methods need the same: use all")
        if not self.config.stopping_thresholds:
            raise InputError(
                "methods are compared where they stop at the same forget score: give --stop_at_forget_probability "
                "(about what an oracle scores) and --stop_at_forget_exact_match"
            )
        if (bits := self.adapter_args.bits) is not None:
            raise InputError(f"load_in_{bits}bit: methods are compared on whole base weights; leave it out")
        if audits := self.examination.attack_args.audits:
            raise InputError(
                f"audits: {' '.join(audits)}: look into all runs at once when they are done: llm-unlearn run audits "
                f"--unlearned_model_name_or_path {self.output}/runs/*/adapter"
            )
        if "adversarial_reinjection" not in self.examination.attack_args.attacks:
            raise InputError("attacks: rates are chosen by adversarial_reinjection; add it")
        # What a method refuses is an error before hours of work; where nobody named it, it is left out.
        everything = self.arguments.methods == [*compared_methods()]
        for name in [*self.arguments.methods]:
            try:
                config = self._config(name, self.arguments.learning_rates[0], self.arguments.seeds[0], self.output)
                if everything:
                    trainer_of(method_of(name), config, self.adapter_args, self.examination, self.original)
            except (ValueError, InputError) as error:
                if not everything:
                    raise InputError(f"methods: {name}: {error}") from error
                self.arguments.methods.remove(name)
                logger.warning("methods: %s is left out: %s", name, error)

    @property
    def output(self) -> Path:
        """The folder of the whole benchmark."""
        return Path(self.config.output_dir)

    def run(self) -> dict[str, Any]:
        """References, tuning, reported seeds; returns what was found (JSON values): see `reporting.robustness`."""
        self.check_room()
        examination = replace(self.examination, output_dir=self.output / "references", original=self.original)
        measured, records = examination.measure(reference_models(self.original, self.oracles))
        retained = measured["scores"]["original"].get("retain_exact_match")
        chosen = self.choose_rates(retained, reference_abilities(measured["abilities"]))
        runs = {
            (name, seed): self._task(name, chosen[name]["learning_rate"], seed, (measured, records))
            for name in self.arguments.methods
            for seed in self.arguments.seeds
        }
        done = share(runs, self.worker)
        return {
            "references": measured,
            "chosen": chosen,
            "runs": [{"method": name, "seed": seed} | done[name, seed] for name, seed in runs],
        }

    def check_room(self) -> None:
        """Raise StorageError where the disk has too little room for the reported runs' weights and checkpoints."""
        name, seed = self.arguments.methods[0], self.arguments.seeds[0]
        config = self._config(name, self.arguments.learning_rates[0], seed, self.output)
        trainer = trainer_of(method_of(name), config, self.adapter_args, self.examination, self.original)
        runs = len(self.arguments.methods) * len(self.arguments.seeds)
        fix = "fewer --seeds, or --save_strategy no"
        check_free_space(self.output, runs * bytes_to_write(trainer), f"weights and checkpoints of {runs} runs", fix)

    # ---- learning rates --------------------------------------------------------------------------------------------

    def choose_rates(
        self, original_retain: float | None, references: Mapping[str, Mapping[str, float]]
    ) -> dict[str, dict[str, Any]]:
        """Method -> {learning_rate, why, tried: what each rate gave on the tuning seeds}; given ones are not tried.

        Args:
            original_retain: the original's retain exact match.
            references: what original and oracles can do, as `price.reference_abilities` has it.
        """
        arguments, rates = self.arguments, self.arguments.learning_rates
        given = {name: method_of(name).fixed.get("learning_rate") for name in arguments.methods}
        if len(rates) == 1:
            given = {name: rates[0] if rate is None else rate for name, rate in given.items()}
        chosen: dict[str, dict[str, Any]] = {
            name: {
                "learning_rate": rate,
                "why": "the only one",
                "tried": [],
                "control_of": controlled(name, arguments.methods),
            }
            for name, rate in given.items()
            if rate is not None
        }
        open_ones = [name for name in arguments.methods if name not in chosen]
        self._try({(name, rate) for name in open_ones for rate in rates}, references)
        for name in sorted(open_ones, key=lambda name: method_of(name).steps_of is not None):
            needed = controlled(name, arguments.methods)
            tried = {rate: self._try({(name, rate)}, references)[name, rate] for rate in rates}
            if needed is None:
                chosen[name] = most_robust(tried, original_retain)
            else:
                steps = chosen[needed]["steps"]
                for _ in range(SEARCHES):
                    rate = next_rate({rate: found["steps"] for rate, found in tried.items()}, steps)
                    if rate is None:
                        break
                    tried[rate] = self._try({(name, rate)}, references)[name, rate]
                chosen[name] = nearest_steps(tried, steps) | {"control_of": needed}
            chosen[name]["tried"] = [{"learning_rate": rate} | found for rate, found in sorted(tried.items())]
        forms = compared_methods()
        return {name: one | {"fixed": dict(forms[name.partition(":")[0]].fixed)} for name, one in chosen.items()}

    def _try(
        self, pairs: Iterable[tuple[str, float]], references: Mapping[str, Mapping[str, float]]
    ) -> dict[tuple[str, float], dict[str, Any]]:
        """What methods give at rates: means over the tuning seeds, and of these the ability that lost most."""
        pairs, seeds = sorted(pairs), self.arguments.tuning_seeds
        done = share({(*pair, seed): self._task(*pair, seed) for pair in pairs for seed in seeds}, self.worker)
        means = {}
        for pair in pairs:
            found = [done[(*pair, seed)] for seed in seeds]
            means[pair] = {
                name: None if found[0][name] is None else sum(one[name] for one in found) / len(found)
                for name in ("steps", "reached", "retain_exact_match", "reinjection_probability")
            }
            lowest = lowest_of_means(mean_abilities([one.get("abilities") or {} for one in found]), references)
            means[pair]["lowest_ability"], means[pair]["lowest_share"] = lowest or (None, None)
        return means

    # ---- runs ------------------------------------------------------------------------------------------------------

    def _task(
        self, name: str, rate: float, seed: int, references: tuple[dict, dict[str, Records]] | None = None
    ) -> Callable[[bool], dict | None]:
        """One run of one method: `references` are put beside it where it is a reported one."""
        if references is None:
            name = trained_as(name)
        method = method_of(name)
        folder = run_folder(self.output, name, seed)
        if references is None:
            folder = self.output / "tuning" / f"{name.replace(':', '-')}-rate{rate:.3g}-seed{seed}"
        config = self._config(name, rate, seed, folder)
        data = self.examination.data
        shown = arguments_to_dict(config, self.adapter_args, self.examination.attack_args)
        for group in shown.values():
            group.pop("output_dir", None)  # a folder that was moved holds the same runs
        trained = (data.trained_forget, data.retain, data.trained_general if config.general_weight else None)
        rows = [dataset and dataset.to_list() for dataset in trained]
        key = [name, shown, rows, self._identities[: None if references else 1], self._judged]
        key += unusual_template(self.examination.processing_class)

        def compute() -> dict:
            return self._run(method, name, config, folder, references)

        return lambda wait: remember(folder / "run.json", key, compute, wait=wait)

    @cached_property
    def _identities(self) -> list[dict[str, str]]:
        """Which models are meant by the original's and the oracles' names, whatever is trained into their folders."""
        return [model_identity(path) for path in (self.original, *self.oracles)]

    @cached_property
    def _judged(self) -> str:
        """What fixes the rows that models are judged and attacked with."""
        examination = self.examination
        sets = {name: rows.to_list() for name, rows in examination.judged.sets.items()}
        holdout = examination.data.holdout
        return digest_of([sets, holdout and holdout.to_list()])

    def _config(self, name: str, rate: float, seed: int, folder: Path) -> UnlearnConfig:
        set_here = {"output_dir": str(folder), "learning_rate": rate, "seed": seed}
        return method_of(name).configured(self.config, self.examination.data_args, **set_here)

    def _run(
        self,
        method: ComparedMethod,
        name: str,
        config: UnlearnConfig,
        folder: Path,
        references: tuple[dict, dict[str, Records]] | None,
    ) -> dict:
        """Train and examine; returns the run's outcome."""
        examination = replace(self.examination, output_dir=folder, seconds={}, original=self.original)
        if references is None:  # only what rates are chosen by
            attack_args = replace(examination.attack_args, attacks=["adversarial_reinjection"], counterfactual=False)
            examination = replace(examination, attack_args=attack_args)
        trainer = trainer_of(method, config, self.adapter_args, self.examination, self.original)
        described = trainer.described | {"method": name}
        training = {"steps": 0, "stopped_by": None}
        with examination.timed("unlearn"):
            try:
                trainer.train(resume_from_checkpoint="last" if config.save_strategy != "no" else None)
                training = {"steps": trainer.state.global_step, "stopped_by": trainer.stopped_by}
            except DivergenceError as error:  # a rate too high is an answer, too
                training = {"steps": trainer.state.global_step, "stopped_by": None, "diverged": str(error)}
        model = without_mixed_precision(trainer.accelerator.unwrap_model(trainer.model))
        measured, records = examination.measure({"unlearned": model})
        scores = measured["scores"]["unlearned"]
        outcome = training | {
            "learning_rate": config.learning_rate,
            "reached": float(training["stopped_by"] is not None),
            "retain_exact_match": scores.get("retain_exact_match"),
            "reinjection_probability": measured["attacks"]["adversarial_reinjection"]["unlearned"][
                "forget_probability"
            ],
            "scores": scores,
            "abilities": measured["abilities"]["unlearned"],
            "seconds": sum(examination.seconds.values()),
        }
        if references is not None:
            weights = folder / ("model" if self.adapter_args.full_finetuning else "adapter")
            trainer.save_model(str(weights))
            merged = merge_results(references[0], measured), references[1] | records
            outcome["verdict"] = self._write(described, config, training, weights, examination, *merged)
        self._say(f"{name} seed {config.seed} rate {config.learning_rate:.3g}", outcome)
        return outcome

    def _write(
        self,
        described: dict[str, Any],
        config: UnlearnConfig,
        training: dict,
        weights: Path,
        examination: Examination,
        measured: dict,
        records: dict[str, Records],
    ) -> str:
        """The run's folder, as a recipe would leave it; returns the verdict."""
        folder, data = weights.parent, examination.data
        results = make_results(
            folder,
            described,
            config.seed,
            arguments_to_dict(config, self.adapter_args, examination.attack_args),
            models=(self.original, self.oracles, str(weights)),
            rows={"forget": data.forget, "retain": data.retain},
            data=examination.data_args.data,
            training=training,
            **measured,
            seconds=examination.seconds,
        )
        return conclude(results, records, folder)["verdict"]

    def _say(self, title: str, outcome: dict[str, Any]) -> None:
        reached = "stopped" if outcome["reached"] else "[bold]did not reach the stopping score[/]"
        words = f"{escape(title)}: {reached} after {outcome['steps']} steps"
        if outcome["retain_exact_match"] is not None:
            words += f", retain exact match {outcome['retain_exact_match']:.3f}"
        words += f", {outcome['reinjection_probability']:.3f} after reinjection"
        console.print(words + (f": [bold]{outcome['verdict']}[/]" if "verdict" in outcome else ""), soft_wrap=True)


def mean_abilities(by_seed: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """Ability -> score -> mean over seeds; of runs that an older version left unfinished, there is none."""
    if not all(by_seed):
        return {}
    return {
        name: {score: fmean(one[name][score] for one in by_seed) for score in scores}
        for name, scores in by_seed[0].items()
    }


def most_robust(tried: Mapping[float, Mapping[str, Any]], original_retain: float | None) -> dict[str, Any]:
    """Of the rates that stop in time and keep every ability, that with the least recovery under reinjection.

    Where no ability can be measured, the retained facts take their place; without those there is nothing to lose.

    Args:
        tried: rate -> {steps, reached, retain_exact_match, lowest_share, reinjection_probability}, means over seeds.
        original_retain: the original's retain exact match.
    """
    if all(found["lowest_share"] is not None for found in tried.values()):
        shares = {rate: found["lowest_share"] for rate, found in tried.items()}
        kept_words, most_words = "that keep every ability", "keeps most of the ability that loses most"
    elif original_retain:
        shares = {rate: found["retain_exact_match"] / original_retain for rate, found in tried.items()}
        kept_words, most_words = "that keep the retained facts", "keeps most of the retained facts"
    else:
        shares = dict.fromkeys(tried, 1.0)
        kept_words = most_words = "that stop in time"
    reached = {rate: found for rate, found in tried.items() if found["reached"] == 1}
    kept = {rate: found for rate, found in reached.items() if shares[rate] >= KEPT}
    if kept:
        rate = min(kept, key=lambda rate: kept[rate]["reinjection_probability"])
        why = f"recovers least of those {kept_words}"
    else:
        rate = max(reached or tried, key=lambda rate: (shares[rate], -rate))
        if lost := tried[rate].get("lowest_ability"):
            most_words += f" ({ability_label(lost)}, {shares[rate]:.0%})".replace("%", " %")
        why = most_words + ("" if reached else "; none reaches the stopping score")
    return {"learning_rate": rate, "steps": tried[rate]["steps"], "why": why}


def nearest_steps(tried: Mapping[float, Mapping[str, float]], steps: float) -> dict[str, Any]:
    """The rate that takes most nearly so many steps, of those that reach the stopping score if there are any."""
    reached = {rate: found for rate, found in tried.items() if found["reached"] == 1} or tried
    rate = min(reached, key=lambda rate: abs(math.log(max(1, reached[rate]["steps"]) / steps)))
    return {"learning_rate": rate, "steps": tried[rate]["steps"], "why": f"takes most nearly {steps:g} steps"}


def next_rate(steps_at: Mapping[float, float], wanted: float) -> float | None:
    """A rate that should take `wanted` steps, from those that are known; None where one of them does already.

    Between two rates the logarithm of steps is taken as linear in that of the rate; outside, steps as 1 / rate.
    """
    if any(abs(steps - wanted) <= EQUAL_STEPS * wanted for steps in steps_at.values()):
        return None
    slower = [rate for rate, steps in steps_at.items() if steps > wanted]
    faster = [rate for rate, steps in steps_at.items() if steps < wanted]
    if slower and faster and max(slower) < min(faster):
        low, high = max(slower), min(faster)
        span = math.log(steps_at[high] / steps_at[low])
        share = math.log(wanted / steps_at[low]) / span
        return round_rate(low * (high / low) ** min(0.9, max(0.1, share)))
    edge = min(faster) if faster else max(slower)
    return round_rate(edge * steps_at[edge] / wanted)


def round_rate(rate: float) -> float:
    """Two digits are precise enough, and read well."""
    return float(f"{rate:.1e}")
