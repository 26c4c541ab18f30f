"""How fast does an attacker of a given learning rate learn? Asked of facts that no model was ever taught.

An attack that is too weak finds nothing in any model, and one that is too strong breaks the model before it finds
anything. Both would pass for erasure. Here the attacker teaches an oracle rows about other people (holdout): what it
learns of them says what its steps can teach, and what is lost of the retained rows says what they break.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from llm_unlearn.arguments.groups import DataArguments, parse_for_model
from llm_unlearn.arguments.parsing import arguments_to_dict, is_main_process
from llm_unlearn.arguments.ranges import COUNT, LENGTH, POSITIVE, SEED, check_each_once, check_ranges
from llm_unlearn.attacks.copies import attackable_copy
from llm_unlearn.attacks.curves import RecoveryCurve
from llm_unlearn.attacks.relearning import AttackBudget, evenly_spread, relearn
from llm_unlearn.data import encode_dataset
from llm_unlearn.data.collators import EncodedRow
from llm_unlearn.errors import DivergenceError, InputError
from llm_unlearn.files.disk import check_output_dir
from llm_unlearn.files.whole import write_json
from llm_unlearn.models.loading import check_models
from llm_unlearn.runs.benchmarking import show_dry_run
from llm_unlearn.runs.recipe import prepare_process

KEPT = 0.9  # of the retained rows' probability before the attack: an attacker that keeps less breaks what it asks
FLAGS = {"full": "learning_rates", "lora": "lora_learning_rates"}


@dataclass
class CalibrationArguments(DataArguments):
    """Which attackers are tried on the first oracle."""

    attackers: list[str] = field(default_factory=lambda: ["full", "lora"], metadata={"help": "full and/or lora."})
    full_learning_rates: list[float] = field(
        default_factory=lambda: [1e-5, 3e-5, 1e-4, 3e-4], metadata={"help": "Tried by the attacker on all weights."}
    )
    lora_learning_rates: list[float] = field(
        default_factory=lambda: [1e-4, 3e-4, 1e-3, 3e-3], metadata={"help": "Tried by the attacker with an adapter."}
    )
    attack_lora_r: int = field(default=16, metadata={"help": "Rank of the lora attacker's matrices."})
    attack_steps: int = field(default=60, metadata={"help": "Optimizer steps of each attacker."})
    attack_batch_size: int = field(default=8, metadata={"help": "Rows per step."})
    attack_score_every: int = field(default=10, metadata={"help": "Steps between two scores."})
    retain_rows: int = field(default=50, metadata={"help": "Retain rows (evenly spread) that are scored."})
    holdout_rows: int = field(default=20, metadata={"help": "Never-seen rows (evenly spread) that are taught."})
    seed: int = field(default=0, metadata={"help": "Of the order of rows and the adapter's first weights."})
    max_length: int | None = field(default=1024, metadata={"help": "Rows are cut to this many tokens."})
    output_dir: str = field(default="outputs/calibrate", metadata={"help": "Folder that receives calibration.json."})

    def __post_init__(self):
        check_ranges(self, dict.fromkeys(("full_learning_rates", "lora_learning_rates"), POSITIVE))
        counts = ("attack_lora_r", "attack_steps", "attack_batch_size", "attack_score_every")
        check_ranges(self, dict.fromkeys([*counts, "retain_rows", "holdout_rows"], COUNT))
        check_ranges(self, {"seed": SEED, "max_length": LENGTH})
        check_each_once(self, ["full_learning_rates", "lora_learning_rates", "attackers"])
        self.budget()

    def budget(self) -> AttackBudget:
        """What every attacker may spend."""
        return AttackBudget(
            learning_rates=tuple(self.full_learning_rates),
            lora_learning_rates=tuple(self.lora_learning_rates),
            lora_r=self.attack_lora_r,
            attackers=tuple(self.attackers),
            seeds=(self.seed,),
            steps=self.attack_steps,
            batch_size=self.attack_batch_size,
            score_every=self.attack_score_every,
        )


def calibrate(description: str, argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Teach an oracle never-seen rows with every attacker and rate; print, write and return what it learned.

    Writes calibration.json under `output_dir`.

    Returns:
        {"config", "oracle", "runs": [{"attacker", "learning_rate", "curve": [{"step", "taught_probability",
        "taught_exact_match", "retain_probability", ...}]}], "chosen": attacker -> rate or None (see `chosen_rates`)}.

    Raises:
        InputError: the data has no holdout or retain rows, or there is no oracle.
    """
    prepare_process()
    (arguments,) = parse_for_model(
        (CalibrationArguments,), argv, description=description, defaults={}, embedded_defaults={}
    )
    check_output_dir(arguments.output_dir)
    data = arguments.load_data()
    if data.holdout is None or data.retain is None:
        lacking = "holdout" if data.holdout is None else "retain"
        raise InputError(
            "calibrating an attacker needs rows about people that no model was trained on, and retain rows; "
            f"{data.source} lacks {lacking} rows: use the fictional world or TOFU"
        )
    if arguments.dry_run:
        show_dry_run(data, arguments)
        return {}
    original, oracles = arguments.model_paths()
    if not oracles:
        raise InputError(
            "calibrating an attacker needs a model that knows none of the rows: give --oracle_model_name_or_path"
        )
    processing_class = arguments.load_tokenizer(original)
    check_models(
        {"oracle": oracles[0]}, processing_class, data.forget, arguments.max_length, arguments.trust_remote_code
    )
    if not is_main_process():
        return {}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    oracle = arguments.load_model(oracles[0]).to(device).eval()
    chosen = {"holdout": arguments.holdout_rows, "retain": arguments.retain_rows}
    rows = {
        name: evenly_spread(encode_dataset(getattr(data, name), processing_class, arguments.max_length, name), count)
        for name, count in chosen.items()
    }
    results = {
        "config": arguments_to_dict(arguments),
        "oracle": oracles[0],
        "runs": teach(oracle, rows, arguments.budget()),
    }
    results["chosen"] = chosen_rates(results["runs"])
    Path(arguments.output_dir).mkdir(parents=True, exist_ok=True)
    write_json(Path(arguments.output_dir) / "calibration.json", results)
    _show(results)
    return results


def teach(
    oracle: PreTrainedModel, rows: Mapping[str, Sequence[EncodedRow]], budget: AttackBudget
) -> list[dict[str, Any]]:
    """What every attacker and rate of the budget learns of `rows["holdout"]`, and leaves of `rows["retain"]`.

    Returns:
        A run each, as `calibrate` has them; one that diverged has an `error` in place of what it did not reach.
    """
    runs = []
    sets = {name: (rows[source], []) for name, source in (("taught", "holdout"), ("retain", "retain"))}
    with tqdm(total=len(budget.grid) * budget.steps, desc="calibration", unit="step", dynamic_ncols=True) as progress:
        for attacker, rate in budget.grid:
            attacked = attackable_copy(oracle, budget.lora_r if attacker == "lora" else None, budget.seeds[0])
            curve = RecoveryCurve(attacked, sets, budget.steps, budget.score_every, progress)
            curve.score(0)
            run = {"attacker": attacker, "learning_rate": rate, "curve": curve.points}
            try:
                relearn(attacked, rows["holdout"], budget, rate, budget.seeds[0], curve.after_step)
            except DivergenceError as error:
                run["error"] = str(error)
            runs.append(run)
    return runs


def chosen_rates(runs: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Of each attacker the rate that taught most (mean probability at the last step) of those that keep `KEPT` of the
    retained rows' probability; None where none does.
    """
    chosen: dict[str, float | None] = {}
    best: dict[str, float] = {}
    for run in runs:
        attacker, first, last = run["attacker"], run["curve"][0], run["curve"][-1]
        chosen.setdefault(attacker, None)
        keeps = last["retain_probability"] >= KEPT * first["retain_probability"]
        if "error" not in run and keeps and last["taught_probability"] > best.get(attacker, 0.0):
            chosen[attacker], best[attacker] = run["learning_rate"], last["taught_probability"]
    return chosen


def _show(results: Mapping[str, Any]) -> None:
    steps = [point["step"] for point in max((run["curve"] for run in results["runs"]), key=len)]
    table = Table(
        title="mean probability of never-seen rows while they are taught", title_justify="left", box=box.SIMPLE_HEAD
    )
    for title in ("attacker", "rate", *(f"step {step}" for step in steps), "retained: before", "after"):
        table.add_column(title, justify="left" if title == "attacker" else "right")
    for run in results["runs"]:
        taught = [f"{point['taught_probability']:.3f}" for point in run["curve"]]
        taught += ["diverged"] * (len(steps) - len(taught))
        kept = [f"{run['curve'][place]['retain_probability']:.3f}" for place in (0, -1)]
        table.add_row(run["attacker"], f"{run['learning_rate']:g}", *taught, *kept)
    console = Console(highlight=False, width=max(Console().width, 100))
    console.print(table)
    for attacker, rate in results["chosen"].items():
        if rate is None:
            console.print(f"{attacker}: no rate keeps {KEPT:.0%} of the retained rows: try lower ones", soft_wrap=True)
            continue
        flags = " ".join(f"--{attack}_{FLAGS[attacker]} {rate:g}" for attack in ("reinjection", "benign"))
        console.print(
            f"{attacker}: of those that keep {KEPT:.0%} of the retained rows, {rate:g} teaches most: {flags}",
            soft_wrap=True,
        )
