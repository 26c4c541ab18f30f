"""The leaderboard: one JSON file for each method that a benchmark measured, and the page that is made of them.

Whoever measured a method adds its file, and the page is built again from all of them; nobody writes a number by hand.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llm_unlearn.errors import InputError, named
from llm_unlearn.examining.evidence import KNOWLEDGE
from llm_unlearn.files.run_files import read_json
from llm_unlearn.files.whole import json_digest, write_json, write_whole
from llm_unlearn.reporting.leaderboard_figure import leaderboard_figure
from llm_unlearn.reporting.words import number_words

FORMAT, PAGE = 1, "README.md"
REPORT = "run `llm-unlearn report` on that folder, which must be one of `llm-unlearn run robustness`"
ADDED = "add a benchmark with `llm-unlearn leaderboard add FOLDER`"
ERASED = "erased"
KNOWN = {  # columns of knowledge: attack and variant
    "as asked": ("output", None),
    "asked in reverse": ("prompting", "reversed"),
    "after reinjection": ("adversarial_reinjection", None),
}
MOST = "most"
_SHOWN = ("retain_weight", "general_weight", "general_loss", "per_device_train_batch_size")
_EXPLAINED = """\
Knowledge: how often the true answer is likelier than made-up ones of its kind, of facts that no attack taught (0.50:
ignorant), with 95 % intervals over people and seeds; *most*: where it is largest among all attacks and ways to ask.
Kept: the ability of which least is left, as a share of the weakest of original and oracles. Methods are in the order of
how many of their runs are judged erased, of how many abilities they surely lose, of the most knowledge that is left,
and of what reinjection brings back. In worlds with answers of one word, reversed questions were trained as rows of
their own, which no forget set holds. Steps: the mean; in parentheses, how many runs ended without having reached their
stopping scores: such rows are not at matched forgetting.

Names are those of `llm-unlearn run robustness --methods`: `grad_diff` is `llm-unlearn run gradient_ascent`, and
`gradient_ascent` the same without retain or general loss; `ssiuu_grad_diff` is `ssiuu --backbone gradient_ascent`,
`ssiuu_shuffled` its control with attribution shuffled over neurons.

A run is added by `llm-unlearn leaderboard add FOLDER --leaderboard THIS_FOLDER` and a pull request; settings must
not have been chosen on the seeds that are reported."""


def add_benchmark(folder: Path, leaderboard: Path, by: str | None = None) -> list[Path]:
    """Write an entry for every method of a robustness benchmark; returns their files.

    Args:
        folder: with robustness.json and summary.json. by: who measured it.

    Raises:
        InputError: no such benchmark, or methods of which knowledge was not measured.
    """
    found, summary = (read_json(folder / name, REPORT) for name in ("robustness.json", "summary.json"))
    with named(folder / "summary.json"):
        entries = _entries(found, summary, by)
    leaderboard.mkdir(parents=True, exist_ok=True)
    files = [leaderboard / f"{_slug(entry)}.json" for entry in entries]
    for file, entry in zip(files, entries, strict=True):
        write_json(file, entry)
    return files


def build_page(leaderboard: Path) -> Path:
    """Write the page of a leaderboard's folder, and its figures, from its entries; returns the page's path."""
    path, entries = leaderboard / PAGE, read_entries(leaderboard)
    write_whole(path, [page_of(entries)])
    for title, own in _tables(entries).items():
        leaderboard_figure(own, short_names(own), leaderboard / _figure_name(title))
    return path


def read_entries(leaderboard: Path) -> list[dict[str, Any]]:
    """The entries of a leaderboard's folder, in the order of their files.

    Raises:
        InputError: there are none, or one that is not of this format.
    """
    entries = []
    for file in sorted(leaderboard.glob("*.json")):
        entry = read_json(file, ADDED)
        if entry.get("format") != FORMAT:
            raise InputError(f"{file}: format={entry.get('format')!r} is not {FORMAT}; add its benchmark again")
        entries.append(entry)
    if not entries:
        raise InputError(f"{leaderboard} has no entries: {ADDED}")
    return entries


def page_of(entries: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: a table for every world and setting, the best first, between what an oracle and the original have."""
    lines = ["# Leaderboard", "", _EXPLAINED, ""]
    for title, own in _tables(entries).items():
        figure = f"![what each method still knows, and what else it lost]({_figure_name(title)})"
        lines += [f"## {title}", "", figure, "", *_table(own), ""]
    return "\n".join(lines)


def _tables(entries: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """World and setting -> their entries, the best first."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for entry in entries:
        found.setdefault(f"{entry['world']}, {entry['setting']}", []).append(entry)
    return {title: sorted(own, key=_order) for title, own in found.items()}


def best_entries(entries: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """World and setting -> the entry that the page puts first."""
    return {title: own[0] for title, own in _tables(entries).items()}


def _figure_name(title: str) -> str:
    return f"{_file_words(title)}.png"


def short_names(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """The methods; with the settings in which they differ, where one is there several times."""
    methods = [entry["method"] for entry in entries]
    names = []
    for entry in entries:
        alike = [other["settings"] for other in entries if other["method"] == entry["method"]]
        own = {
            name: value
            for name, value in entry["settings"].items()
            if any(other.get(name) != value for other in alike) and methods.count(entry["method"]) > 1
        }
        words = ", ".join(
            f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in own.items()
        )
        names.append(f"{entry['method']}\n{words}" if words else entry["method"])
    return names


def _entries(found: Mapping[str, Any], summary: Mapping[str, Any], by: str | None) -> list[dict[str, Any]]:
    values = _values(found["config"])
    entries = []
    for name, method in summary["methods"].items():
        method_name, _, fixed = name.partition(":")
        entries.append(
            {
                "format": FORMAT,
                "method": method_name,
                "world": world_words(found["config"]),
                "setting": setting_words(found["config"]),
                "by": by,
                "settings": _shown(values, method.get("fixed", {}))
                | {one: _number(value) for one, value in (pair.split("=", 1) for pair in fixed.split(",") if pair)}
                | {"learning_rate": method["learning_rate"]},
                "attacks": {one: values.get(one) for one in ("attacks", "attackers", "attack_steps", "attack_seeds")},
                **{one: method[one] for one in ("seeds", "steps", "reached", "verdicts", "seconds", "lowest", "lost")},
                "knowledge": _knowledge(method["scores"], name),
                "control": method["control"],
                "references": {
                    model: {"models": one["models"], "knowledge": _knowledge(one["scores"], model)}
                    for model, one in summary["references"].items()
                },
            }
        )
    return entries


def _shown(values: Mapping[str, Any], fixed: Mapping[str, Any]) -> dict[str, Any]:
    """What all methods share, but for what a form fixes: GradDiff without a retain loss has no weight of it."""
    own = {name: fixed[name] for name in (*_SHOWN, "retain_loss") if name in fixed}
    shown = {name: values[name] for name in _SHOWN if values.get(name) is not None} | own
    if shown.get("retain_loss") == "none":
        shown.pop("retain_weight", None)
    return shown


def _values(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for group in config.values() if isinstance(group, dict) for name, value in group.items()}


def world_words(config: Mapping[str, Any]) -> str:
    """The data, the model unless it is the data's own, and the split of a configuration."""
    values = _values(config)
    world = values.get("data") or ("fictional" if values.get("forget_file") is None else "files of the submitter")
    if values.get("model_name_or_path"):
        world += f", {Path(values['model_name_or_path']).name}"
    return f"{world} ({values.get('forget_split') or 'forget10'})"


def setting_words(config: Mapping[str, Any]) -> str:
    """Which weights a configuration trains."""
    values = _values(config)
    return "full fine-tuning" if values["full_finetuning"] else f"LoRA of rank {values['lora_r']}"


def _number(value: str) -> float | str:
    try:
        return float(value)
    except ValueError:
        return value


def _knowledge(scores: Sequence[Mapping[str, Any]], name: str) -> dict[str, dict[str, Any]]:
    """Column -> {value, interval, label}; the largest is also under `MOST`."""
    own = {(score["name"], score["variant"]): score for score in scores if score["score"] == KNOWLEDGE}
    if KNOWN["as asked"] not in own:
        raise InputError(f"of {name} no knowledge was measured: rows need a column `attribute` or `kind`")
    kept = {key: {part: one[part] for part in ("value", "interval", "label")} for key, one in own.items()}
    columns = {column: kept[key] for column, key in KNOWN.items() if key in kept}
    return columns | {MOST: max(kept.values(), key=lambda one: one["value"])}


def _slug(entry: Mapping[str, Any]) -> str:
    """A name for the entry's file: the same method with the same settings in the same world replaces itself."""
    words = _file_words(f"{entry['world']} {entry['setting']} {entry['method']}")
    return f"{words}-{json_digest([entry['settings'], entry['attacks'], entry['by']])[:8]}"


def _file_words(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _order(entry: Mapping[str, Any]) -> tuple:
    erased = entry["verdicts"].get(ERASED, 0) / len(entry["seeds"])
    known = entry["knowledge"]
    after = known.get("after reinjection", known[MOST])["value"]
    return -erased, len(entry["lost"]), round(known[MOST]["value"], 2), after, entry["method"]


def _table(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """A row for each entry, with the settings in which they differ; those of all stand above."""
    names = dict.fromkeys(name for entry in entries for name in entry["settings"])
    values = {name: [entry["settings"].get(name) for entry in entries] for name in names}
    alike = {name: own[0] for name, own in values.items() if len(set(map(str, own))) == 1}
    header = ["method", "settings", "verdicts", *(f"knowledge {column}" for column in KNOWN), MOST, "kept", "steps"]
    rows = []
    for entry in entries:
        names, known = _names(entry, alike), _known(entry["knowledge"])
        rows.append([*names, *known, _price(entry), _steps(entry)])
    references = entries[0]["references"]
    rows += [
        [f"*{model}*", f"{one['models']} model{'s' * (one['models'] != 1)}", "", *_known(one["knowledge"]), "", ""]
        for model, one in references.items()
    ]
    lines = [header, ["---"] * 3 + ["---:"] * (len(header) - 3), *rows]
    shared = [f"All with {_settings_words(alike)}.", ""] if alike else []
    return shared + [f"| {' | '.join(line)} |" for line in lines]


def _names(entry: Mapping[str, Any], alike: Mapping[str, Any]) -> list[str]:
    own = {name: value for name, value in entry["settings"].items() if name not in alike}
    verdicts = ", ".join(f"{count} {verdict}" for verdict, count in entry["verdicts"].items())
    who = f" ({entry['by']})" if entry["by"] else ""
    return [f"{entry['method']}{who}", _settings_words(own), verdicts]


def _settings_words(settings: Mapping[str, Any]) -> str:
    numbers = {name: f"{value:g}" if isinstance(value, float) else value for name, value in settings.items()}
    return ", ".join(f"`{name} {value}`" for name, value in numbers.items())


def _known(knowledge: Mapping[str, Mapping[str, Any]]) -> list[str]:
    cells = []
    for column in (*KNOWN, MOST):
        one = knowledge.get(column)
        if one is None:
            cells.append("")
            continue
        ends = ", ".join(number_words(end, 2) for end in one["interval"])
        label = f" {one['label']}" if column == MOST else ""
        cells.append(f"{number_words(one['value'], 2)} [{ends}]{label}")
    return cells


def _steps(entry: Mapping[str, Any]) -> str:
    words = not_reached_words(entry)
    return f"{entry['steps']:.0f}" + (f" ({words})" if words else "")


def not_reached_words(entry: Mapping[str, Any]) -> str | None:
    """How many runs ended without the stopping scores; None: all have them."""
    seeds = len(entry["seeds"])
    return f"{seeds - entry['reached']:.0f} of {seeds} did not stop" if entry["reached"] < seeds else None


def _price(entry: Mapping[str, Any]) -> str:
    if entry["lowest"] is None:
        return ""
    lost = f", lost: {len(entry['lost'])}" if entry["lost"] else ""
    return f"{number_words(entry['lowest']['share'], 2)} {entry['lowest']['label']}{lost}"
