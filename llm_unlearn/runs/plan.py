"""`llm-unlearn run plan`: what will be hard, what conflicts and what cannot be judged, before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from datasets import Dataset

from llm_unlearn.arguments.attacking import AttackArguments
from llm_unlearn.arguments.groups import DataArguments, parse_for_model
from llm_unlearn.arguments.parsing import arguments_to_dict
from llm_unlearn.arguments.ranges import COUNT, COUNT_OR_NONE, LENGTH, check_each_once, check_ranges
from llm_unlearn.data import UnlearningData
from llm_unlearn.data.general import read_general_data
from llm_unlearn.data.loading import read_rows_of, read_unlearning_data
from llm_unlearn.examining.examination import Examination
from llm_unlearn.files.disk import check_output_dir
from llm_unlearn.files.run_folder import locked
from llm_unlearn.files.whole import write_json
from llm_unlearn.models.embedded import EMBEDDED_DEFAULTS
from llm_unlearn.models.files import check_model_path
from llm_unlearn.models.loading import check_models
from llm_unlearn.models.smollm2 import located
from llm_unlearn.planning.conflicts import find_conflicts
from llm_unlearn.planning.forecast import forecast, is_better, read_fitted
from llm_unlearn.planning.gaps import find_gaps
from llm_unlearn.planning.hardness import Hardness
from llm_unlearn.reporting.planning_figures import plan_figure
from llm_unlearn.reporting.planning_tables import print_plan
from llm_unlearn.runs.benchmarking import show_dry_run
from llm_unlearn.runs.compared_methods import method_of
from llm_unlearn.runs.recipe import prepare_process


@dataclass
class HardnessArguments:
    """By what rows are called hard."""

    base_model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "The model before it was taught the rows: memorization is what the original gives an answer more. "
            "Default: the oracles, if any; else made-up answers take their place."
        },
    )
    layer: int | None = field(
        default=None,
        metadata={
            "help": "Number of the block (from 0) whose states at the end of a question are its embedding. Default: "
            "the one that tells retained people apart best."
        },
    )
    entanglement_retain_rows: int = field(
        default=1000, metadata={"help": "Most retain rows, evenly spread, that entanglement is measured against."}
    )

    def __post_init__(self):
        check_ranges(self, {"layer": COUNT_OR_NONE, "entanglement_retain_rows": COUNT})

    def bases(self, oracles: Sequence[str], trust_remote_code: bool) -> list[str]:
        """The models that memorization is compared with."""
        if self.base_model_name_or_path is None:
            return [*oracles]
        check_model_path(self.base_model_name_or_path, trust_remote_code)
        return [located(self.base_model_name_or_path)]

    def hardness(self, examination: Examination, original: str, oracles: Sequence[str]) -> Hardness:
        """What measures it."""
        bases = self.bases(oracles, examination.data_args.trust_remote_code)
        models = {"original": original, **{f"base {path!r}": path for path in bases}}
        forget, length = examination.data.forget, examination.max_length
        check_models(models, examination.processing_class, forget, length, examination.data_args.trust_remote_code)
        return Hardness(examination, original, bases, self.layer, self.entanglement_retain_rows)


@dataclass
class PlanArguments(DataArguments):
    """Which model is to forget what; `near_duplicates` changes nothing here: all of them are listed."""

    output_dir: str = field(default="outputs/plan", metadata={"help": "Folder that receives everything written."})
    counterfactual_group_by: str | None = field(
        default=None,
        metadata={
            "help": "Column that says which answers are of a kind (as `judge` has it); default: kind, attribute."
        },
    )
    methods: list[str] | None = field(
        default=None,
        metadata={
            "help": "Methods whose steps and price are forecast, as `run robustness` takes them "
            "(npo:learning_rate=1e-3); default: all of which runs were recorded. In the small embedded world alone."
        },
    )
    max_length: int | None = field(default=1024, metadata={"help": "Rows are cut to this many tokens."})
    batch_size: int = field(default=64, metadata={"help": "Rows that the model reads at once."})

    def __post_init__(self):
        check_ranges(self, {"batch_size": COUNT, "max_length": LENGTH})
        if self.methods is not None:
            check_each_once(self, ["methods"])
            for name in self.methods:
                method_of(name)
        if self.augment_forms:
            raise ValueError("augment_forms trains rows in further forms, and a plan trains nothing; leave it out")

    @property
    def embedded_oracles(self) -> int:
        return 0  # none is trained for a plan

    def forecast(self) -> dict[str, Any]:
        """What recorded runs say of each method: see `forecast_of`."""
        other = None
        if self.model_name_or_path is not None or self.forget_file is not None:
            other = "another model, or other rows"
        elif (self.data or "fictional") not in ("fictional", "fictional:small"):
            other = f"data={self.data}"
        elif self.forget_split not in (None, "forget10"):
            other = f"forget_split={self.forget_split}"
        return forecast_of(self.methods, other)

    def read_data(self) -> tuple[UnlearningData, dict[str, Dataset]]:
        """The data, unchecked for rows in two sets, and the sets that rows to forget may not be in."""
        data = read_unlearning_data(
            self.data,
            forget_split=self.forget_split,
            retain_split=self.retain_split,
            forget_file=self.forget_file,
            retain_file=self.retain_file,
        )
        kept = {} if data.retain is None else {"retain": data.retain}
        if self.general_data in (None, "embedded", "none"):
            kept |= {"general": data.general} if data.general is not None and self.general_data != "none" else {}
        else:
            kept["general_data"] = read_rows_of(read_general_data(self.general_data), "general data")
        if self.general_file is not None:
            kept["general_file"] = read_rows_of(self.general_file, "general file")
        return data, kept


def forecast_of(methods: Sequence[str] | None, other: str | None) -> dict[str, Any]:
    """Steps and price of methods by the runs that were recorded, or why they say nothing.

    Args:
        methods: with fields or without, as the defaults of the embedded world have them; None: all that were recorded.
        other: what this case has that recorded runs have not.

    Returns:
        {"why_not": why nothing is forecast, or None; "methods": [as `forecast.forecast`, and "name"]; "fit": of "steps"
        and of "kept" what `forecast.fitted` says of errors, and "is_better"; "runs": how many}.
    """
    fit = read_fitted()
    told = {
        what: {name: fit[what][name] for name in ("errors", "chosen", "gain")} | {"is_better": is_better(fit[what])}
        for what in ("steps", "kept")
    }
    found: dict[str, Any] = {"why_not": None, "methods": [], "fit": told, "runs": fit["runs"]}
    if other is not None:
        recorded = "all recorded runs are of the small embedded world, forget10, with its own model"
        return found | {"why_not": f"{recorded}, and this is {other}"}
    for name in methods or fit["methods"]:
        one = method_of(name)
        default = next(field.default for field in fields(one.method.config) if field.name == "forget_weight")
        settings = {"forget_weight": default, **EMBEDDED_DEFAULTS, **one.method.embedded_defaults, **one.fixed}
        given = settings["learning_rate"], settings["forget_weight"]
        told = forecast(fit, name.partition(":")[0], *given)
        for weight, recorded in fit["weights"].items():
            if one.fixed.get(weight, recorded) != recorded:
                words = f"recorded runs have a {weight} of {recorded:g}, not {one.fixed[weight]:g}"
                told |= {"steps": None, "kept": None, "why_not": words}
        found["methods"].append({"name": name, **told})
    return found


def plan(description: str, argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure what makes the rows hard; prints, writes and returns it.

    Returns:
        What `Hardness.measure` returns, and {"config", "data", "rows": {set: how many}, "conflicts": [as
        `conflicts.Conflict`], "gaps": [as `gaps.Gap`], "forecast": as `forecast_of`}.

    Raises:
        InputError: arguments, rows or a model that cannot be used; rows in two sets are no error here.
    """
    prepare_process()
    arguments = parse_for_model(
        (PlanArguments, HardnessArguments), argv, description=description, defaults={}, embedded_defaults={}
    )
    plan_args, hardness_args = arguments
    check_output_dir(plan_args.output_dir)
    data, kept = plan_args.read_data()
    if plan_args.dry_run:
        show_dry_run(data, *arguments)
        return {}
    original, oracles = plan_args.model_paths()
    examination = Examination(
        plan_args,
        AttackArguments(attacks=["none"], counterfactual_group_by=plan_args.counterfactual_group_by),
        data,
        plan_args.load_tokenizer(original),
        device="cuda" if torch.cuda.is_available() else "cpu",
        max_length=plan_args.max_length,
        batch_size=plan_args.batch_size,
    )
    hardness = hardness_args.hardness(examination, original, oracles)
    with locked(plan_args.output_dir) as folder:
        found = {
            "config": arguments_to_dict(*arguments),
            "data": data.source,
            "rows": {"forget": len(data.forget)} | {name: len(rows) for name, rows in kept.items()},
            "conflicts": [asdict(conflict) for conflict in find_conflicts(data.forget, kept)],
            "gaps": [gap._asdict() for gap in find_gaps(data, examination.kinds, oracles)],
            **hardness.measure(),
            "forecast": plan_args.forecast(),
        }
        write_json(folder / "plan.json", found)
        with_figure = plan_figure(found, folder / "plan.png") is not None
    print_plan(found, folder, with_figure)
    return found
