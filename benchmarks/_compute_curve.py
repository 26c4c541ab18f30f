"""What is left of the facts and of everything else, against compute: table and figure of docs/results/erase.md.

Commands of the repository alone. `python benchmarks/_compute_curve.py --rows FILE` writes, as general data, all that
the small world's oracle is trained on besides the retain rows. `python benchmarks/_compute_curve.py RUNS FIGURE` reads
RUNS, the output folders of recipes, named as the page says: way-share-seed (rewind-50-80).

Compute is counted in forward passes of rows, of which a training step has three a row (a forward, and a backward of
two), and a reference's pass one more; as a share of the oracle's training.
"""

import json
import sys
from collections import Counter, defaultdict
from pathlib import Path
from statistics import mean

import yaml
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from llm_unlearn.data.fictional import build_world
from llm_unlearn.models.embedded import training_rows

ORACLE = 3 * 22_599  # rows that an oracle of the small world is trained on, nine epochs
TRAINED, REFERENCE = 3, 1  # passes of a row
KINDS = {
    "rewind": 2,
    "undo": 2,
    "retain_only": 2,
    "counterfactual": 3,
    "npo": 3,
    "idk": 3,
    "maxent": 3,
}  # of rows in a step: retain, general, and of forget rows
NOT_TRAINED = "general_data"  # a fifth of the general rows, which judges; original and oracle were trained on it
TITLES = {
    "rewind": "rewind: untrained weights",
    "own8": "damage 0.8 and repair",
    "own6": "damage 0.6 and repair",
    "undo6": "UNDO: the same after counterfactuals",
    "cf": "counterfactuals alone",
    "cfdamage": "counterfactuals after damage 0.6",
    "t1": "counterfactual teacher",
    "tl": "counterfactual teacher, LoRA",
    "tt": "counterfactual teacher, transposed questions",
    "ttl": "counterfactual teacher, transposed questions, LoRA",
    "tp": "counterfactual teacher, transposed questions, along others' answers",
    "tpl": "counterfactual teacher, transposed questions, along others' answers, LoRA",
    "to": "control: the same settings, along the own answers alone",
    "tn": "control: the same settings, nothing transposed",
    "t2": "counterfactual teacher, high rate",
    "t3": "counterfactual teacher, high rate, after damage 0.6",
    "npo": "NPO",
    "maxent": "control: every token as likely",
    "fix1": "control: one wrong answer",
    "random": "control: random tokens",
    "retain": "control: retain and general rows alone",
}
DRAWN = ("rewind", "own6", "cf", "cfdamage", "t1", "tl", "tt", "tp", "tpl", "t3", "npo")
TEACHER, TAUGHT = "teacher", ("undo6",)


def kept_shares(results: dict) -> dict[str, float]:
    """Of every ability the share of exact match that is left, of the weaker of original and oracles."""
    abilities = results["abilities"]
    references = [abilities[name] for name in abilities if name == "original" or name.startswith("oracle")]
    return {
        name: found["exact_match"] / min(one[name]["exact_match"] for one in references)
        for name, found in abilities["unlearned"].items()
    }


def compute(results: dict, config: dict, asked_teacher: int) -> float:
    """Passes of a run's training, and of `asked_teacher` rows, as a share of the oracle's."""
    method = results["method"]
    settings = next(group for group in config.values() if "max_steps" in group)
    asked = sum(settings[f"{kind}_loss"] == "kl" for kind in ("retain", "general"))
    passes = TRAINED * KINDS[method] + REFERENCE * asked
    total = results["training"]["steps"] * settings["per_device_train_batch_size"] * passes
    return (total + asked_teacher) / ORACLE


def asked_teacher(folder: Path) -> int:
    """Rows that the model was asked about others."""
    file = folder / "counterfactual_teacher.json"
    return json.loads(file.read_text())["outcome"]["rows_asked"] if file.exists() else 0


def measured(folder: Path) -> dict:
    """The numbers of one run."""
    results = json.loads((folder / "results.json").read_text())
    attacks = results["attacks"]
    kept = kept_shares(results)
    unrepaired = kept.pop(NOT_TRAINED)
    return {
        "compute": compute(results, yaml.safe_load((folder / "config.yaml").read_text()), asked_teacher(folder)),
        "asked": results["scores"]["unlearned"]["forget_knowledge"],
        "reinjected": attacks["adversarial_reinjection"]["unlearned"]["forget_knowledge"],
        "reversed": attacks["prompting"]["unlearned"]["variants"]["reversed"]["forget_knowledge"],
        "kept": mean(min(1.0, share) for share in kept.values()),
        "unrepaired": unrepaired,
        "lowest": min(kept.values()),
        "which": min(kept, key=kept.get),
        "verdict": json.loads((folder / "verdict.json").read_text())["verdict"],
    }


def collected(runs: Path) -> dict[str, dict[str, list[dict]]]:
    """Way -> share -> the runs of all seeds; what a teacher cost is added to what it taught."""
    found: dict[str, dict[str, list[dict]]] = defaultdict(lambda: defaultdict(list))
    teachers = {}
    for folder in sorted(path.parent for path in runs.glob("*/results.json")):
        way, *share, seed = folder.name.split("-")
        one = measured(folder)
        if way == TEACHER:
            teachers[seed] = one["compute"]
        found[way][share[0] if share else ""].append(one | {"seed": seed})
    for way in TAUGHT:
        for runs_of_share in found[way].values():
            for one in runs_of_share:
                one["compute"] += teachers[one["seed"]]
    return found


def write_rows(file: Path) -> None:
    """All that the oracle of the small world is trained on besides the retain rows."""
    world = build_world("small")
    asked_alone = len(world.splits["retain90"]) + len(world.splits["forget10"])
    with file.open("w", encoding="utf-8") as lines:
        for number, row in training_rows(world, "forget10").items():
            if number >= asked_alone:
                prompt = row["prompt"]
                messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
                lines.write(json.dumps({"prompt": messages, "completion": row["completion"]}) + "\n")


def main() -> None:
    if sys.argv[1] == "--rows":
        write_rows(Path(sys.argv[2]))
        return
    runs, figure_path = map(Path, sys.argv[1:])
    found = collected(runs)
    figure = Figure(figsize=(10, 4.4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharex=True)
    print(
        "| way | seeds | compute | as asked | after reinjection | in reverse | kept, mean | kept, least | unrepaired "
        "| verdicts |"
    )
    print("|---" * 10 + "|")
    for way, title in TITLES.items():
        points = []
        for _, ones in sorted(found[way].items(), key=lambda item: int(item[0] or 0)):
            of = {name: [one[name] for one in ones] for name in ones[0] if name not in ("which", "seed", "verdict")}
            points.append({name: (mean(values), min(values), max(values)) for name, values in of.items()})
            cells = " | ".join(f"{mean(of[name]):.2f}" for name in ("asked", "reinjected", "reversed", "kept"))
            worst = min(ones, key=lambda one: one["lowest"])
            words = f"{mean(of['lowest']):.2f} ({worst['which'].replace('_', ' ')}) | {mean(of['unrepaired']):.2f}"
            verdicts = ", ".join(f"{n} {verdict}" for verdict, n in Counter(one["verdict"] for one in ones).items())
            print(f"| {title} | {len(ones)} | {mean(of['compute']):.0%} | {cells} | {words} | {verdicts} |")
        if way not in DRAWN:
            continue
        number = DRAWN.index(way)
        for axes, name in ((left, "reinjected"), (right, "kept")):
            x = [point["compute"][0] for point in points]
            middle, low, high = zip(*(point[name] for point in points), strict=True) if points else ((), (), ())
            style = {
                "color": f"C{number}",
                "marker": "osD^vXP*hp"[number],
                "ms": 5,
                "label": title if axes is left else None,
            }
            axes.plot(x, middle, **style)
            axes.fill_between(x, low, high, color=f"C{number}", alpha=0.12, linewidth=0)
    left.axhline(0.5, color="gray", linestyle="--", linewidth=1)
    left.annotate("ignorant", (1, 0.5), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8)
    left.set_ylabel("knowledge after reinjection")
    right.set_ylabel("kept of other abilities (mean)")
    right.set_ylim(0, 1.03)
    for axes in (left, right):
        axes.axvline(1, color="gray", linewidth=0.8)
        axes.set_xscale("log")
        axes.set_xticks([0.25, 0.5, 1], ["25 %", "50 %", "100 %"])
        axes.minorticks_off()
        axes.set_xlabel("compute, as a share of retraining")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    figure.savefig(figure_path, metadata={"Software": None})


if __name__ == "__main__":
    main()
