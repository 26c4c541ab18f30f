"""`llm-unlearn run rum`: groups of rows to forget, one after the other, each by its own method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset
from rich.console import Console

from llm_unlearn.arguments.parsing import arguments_to_dict
from llm_unlearn.arguments.ranges import check_each_once
from llm_unlearn.errors import InputError
from llm_unlearn.files.outcomes import digest_of, remember
from llm_unlearn.files.run_files import read_json
from llm_unlearn.files.run_folder import locked, model_identity
from llm_unlearn.files.whole import write_json
from llm_unlearn.planning.groups import rows_by_label
from llm_unlearn.planning.hardness import SCORES, Hardness
from llm_unlearn.planning.tow import tug_of_war_of
from llm_unlearn.runs.chain import NOTHING, Chain, Step, parse_chain
from llm_unlearn.runs.compared_methods import method_of
from llm_unlearn.runs.plan import HardnessArguments
from llm_unlearn.training.paper import Paper

PAPER = Paper(
    arxiv="2406.01257",
    authors="Zhao et al.",
    year=2024,
    title="What makes unlearning hard and what to do about it",
)

console = Console(highlight=False)


@dataclass
class RumArguments:
    """Which groups, in which order, by which methods."""

    groups: str = field(
        default="memorization",
        metadata={
            "help": f"{' or '.join(SCORES)} (thirds of the people, or without two people of the facts: low, middle, "
            "high), a column of the forget rows, or a JSON file {group: [row numbers]}."
        },
    )
    group_methods: list[str] = field(
        default_factory=lambda: ["npo"],
        metadata={
            "help": "GROUP=METHOD for some groups, and a METHOD for all others; methods as `run robustness` takes them "
            f"(npo:beta=0.1), or {NOTHING}: the group is left as it is."
        },
    )
    order: list[str] | None = field(
        default=None, metadata={"help": "The groups as they are forgotten; default: low first, or as rows have them."}
    )

    def __post_init__(self):
        for one in self.group_methods:
            if (name := _method(one)) != NOTHING:
                method_of(name)
        check_each_once(self, ["group_methods"])
        if self.order is not None:
            check_each_once(self, ["order"])

    def steps(self, groups: dict[str, list[int]]) -> list[Step]:
        """A step for each group, in order.

        Raises:
            InputError: a group is unknown, is not in the order, or has no method.
        """
        names = [*groups] if self.order is None else self.order
        if {*names} != {*groups}:
            raise InputError(f"order={' '.join(names)} must name each group once: {', '.join(groups)}")
        of_group = {_group(one): _method(one) for one in self.group_methods if _group(one) is not None}
        others = [one for one in self.group_methods if _group(one) is None]
        if unknown := [name for name in of_group if name not in groups]:
            raise InputError(f"group_methods: {unknown[0]!r} is no group; choose from {', '.join(groups)}")
        if len(others) > 1:
            raise InputError(f"group_methods: {others[0]} and {others[1]} are both for all other groups; keep one")
        if without := [name for name in names if name not in of_group and not others]:
            raise InputError(
                f"group_methods: group {without[0]!r} has no method; give {without[0]}=METHOD, or a METHOD"
            )
        return [Step(name, of_group[name] if name in of_group else others[0], tuple(groups[name])) for name in names]


def _group(given: str) -> str | None:
    """The group in GROUP=METHOD; of METHOD alone, whose own fields come after a colon, None."""
    name, sign, _ = given.partition("=")
    return name if sign and ":" not in name else None


def _method(given: str) -> str:
    return given if _group(given) is None else given.partition("=")[2]


def read_groups(source: str, forget: Dataset) -> dict[str, list[int]]:
    """Group -> numbers of its rows: of a column's values in the order of the rows, or of a JSON file.

    Raises:
        InputError: neither, a row without a value, or something else than row numbers.
    """
    if source in forget.column_names:
        return rows_by_label(forget, source, "groups")
    if not Path(source).is_file():
        raise InputError(
            f"groups={source!r} is no score ({', '.join(SCORES)}), no column of the forget rows "
            f"({', '.join(forget.column_names)}) and no file; give one of them"
        )
    groups = read_json(Path(source), "write an object of groups, each a list of row numbers")
    for name, rows in groups.items():
        numbers = rows if isinstance(rows, list) else [rows]
        wrong = [row for row in numbers if type(row) is not int or row not in range(len(forget))]
        if wrong or not isinstance(rows, list) or not rows:
            raise InputError(
                f"{source}: group {name!r} holds {(wrong or [rows])[0]!r:.40}; give a list of row numbers from 0 to "
                f"{len(forget) - 1}"
            )
    return groups


def measured_groups(score: str, hardness: Hardness, folder: Path) -> tuple[dict[str, list[int]], dict[str, Any]]:
    """Low, middle and high by a score, and what was measured, which is kept in FOLDER/hardness.json.

    Raises:
        InputError: the score cannot be measured, or does not make three groups.
    """
    data = hardness.examination.data
    rows = [digest_of(rows.to_list()) if rows is not None else None for rows in (data.forget, data.retain)]
    models = [model_identity(path) for path in (hardness.original, *hardness.bases)]
    key = ["hardness", score, rows, models, hardness.layer, hardness.most_rows]
    key += [hardness.examination.kinds, hardness.examination.max_length]
    found = remember(folder / "hardness.json", key, lambda: hardness.measure([score]))
    if why := [*found["not_measured"].values()]:
        raise InputError(f"groups={score}: {why[0]}")
    nowhere = [row for unit in found["units"] if unit[score] is None for row in unit["rows"]]
    if nowhere:
        raise InputError(
            f"groups={score}: forget row {nowhere[0]} has no made-up answer to be compared with, nor has its person; "
            "give --base_model_name_or_path, or your own groups"
        )
    return found["groups"][score], found


def rum(description: str, argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run RUM; prints, writes and returns {"config", "groups", "hardness", "steps", "tug_of_war"}.

    Raises:
        InputError: arguments, groups or data that cannot be used.
    """
    groups = (RumArguments, HardnessArguments)
    arguments, data, examination, original, oracles = parse_chain(groups, argv, description, "outputs/rum")
    _, rum_args, hardness_args, adapter_args, _, config = arguments
    if examination is None:
        return {}
    with locked(config.output_dir) as folder:
        if rum_args.groups in SCORES:
            hardness = hardness_args.hardness(examination, original, oracles)
            chosen, measured = measured_groups(rum_args.groups, hardness, folder)
        else:
            chosen, measured = read_groups(rum_args.groups, data.forget), None
        steps = rum_args.steps(chosen)
        chain = Chain(steps, config, adapter_args, examination, original)
        chain.check()
        for number, step in enumerate(steps, 1):
            words = f"{number} of {len(steps)}: {step.name}, {len(step.rows)} rows, {step.method}"
            console.print(words, markup=False, soft_wrap=True)
        done = chain.run(lambda number, outcome, _model: say_step(steps[number], outcome))
        shown = arguments_to_dict(*arguments)
        by = f"by {rum_args.groups}" if rum_args.groups in SCORES else "of the user's"  # names of those may be people's
        title = f"RUM, {len(steps)} groups {by}"
        described = {"method": "rum", "method_title": title, "paper": PAPER._asdict()}
        results = chain.conclude(done, described, shown, oracles)
        found = {
            "config": shown,
            "groups": chosen,
            "hardness": measured,
            "steps": [
                {"group": step.name, "method": step.method, "rows": len(step.rows), **outcome}
                for step, outcome in zip(steps, done, strict=True)
            ],
            "tug_of_war": tug_of_war_of(results),
        }
        write_json(folder / "rum.json", found)
    console.print(_tow_words(found["tug_of_war"]), markup=False, soft_wrap=True)
    return found


def say_step(step: Step, outcome: dict[str, Any]) -> None:
    """A line on a step that is done."""
    words = "left alone" if step.method == NOTHING else f"{outcome['stopped_by'] or 'end of training'} after "
    words += "" if step.method == NOTHING else f"{outcome['steps']} steps"
    console.print(f"{step.name}: {words}", markup=False, soft_wrap=True)


def _tow_words(found: dict[str, Any] | None) -> str:
    if found is None:
        return "tug of war (ToW): not measured, for it needs an oracle"
    sides = (f"{name} {found['unlearned'][name]:.2f} (oracle {found['oracle'][name]:.2f})" for name in found["oracle"])
    return f"tug of war (ToW) {found['value']:.3f}; 1 is the oracle; exact match: {', '.join(sides)}"
