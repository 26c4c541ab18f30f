"""Audits as one command: original, oracles and unlearned models, from folders to figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llm_unlearn.arguments.groups import parse_for_model
from llm_unlearn.arguments.parsing import arguments_to_dict, is_main_process
from llm_unlearn.arguments.ranges import COUNT, LENGTH, SEED, check_each_once, check_ranges
from llm_unlearn.attacks.relearning import AttackBudget
from llm_unlearn.audits import audit_names, load_audit
from llm_unlearn.audits.audit import Inspection
from llm_unlearn.audits.foretelling import foretold
from llm_unlearn.audits.influence import SCORES
from llm_unlearn.audits.looking import look_inside
from llm_unlearn.data import UnlearningData
from llm_unlearn.errors import InputError
from llm_unlearn.examining.preflight import Asked, check_lengths, check_loaded
from llm_unlearn.examining.results import reference_models
from llm_unlearn.files.disk import check_output_dir
from llm_unlearn.files.run_folder import locked
from llm_unlearn.files.whole import write_json
from llm_unlearn.models.embedded import EMBEDDED_DEFAULTS
from llm_unlearn.models.files import check_model_path
from llm_unlearn.models.loading import check_models
from llm_unlearn.reporting.foretelling import foretelling_figure, foretelling_sections
from llm_unlearn.reporting.influence_figure import influence_figure, lens_figure
from llm_unlearn.reporting.influence_table import influence_sections, markdown, print_sections
from llm_unlearn.reporting.inside_table import inside_sections
from llm_unlearn.reporting.probes_figure import probes_figure
from llm_unlearn.reporting.probes_table import probes_sections
from llm_unlearn.runs.benchmarking import ReferenceArguments, show_dry_run
from llm_unlearn.runs.recipe import prepare_process

TABLES = (influence_sections, probes_sections, inside_sections, foretelling_sections)
FIGURES = {  # section of the results -> what draws it, and the file
    "comparisons": (influence_figure, "influence.png"),
    "logit_lens": (lens_figure, "logit_lens.png"),
    "probes": (probes_figure, "probes.png"),
    "foretold": (foretelling_figure, "foretold.png"),
}
console = Console(highlight=False, width=max(Console().width, 110))  # narrower, the tables would lose digits


@dataclass
class AuditsArguments(ReferenceArguments):
    """Which models are compared with the original; `model_name_or_path` is the original."""

    unlearned_model_name_or_path: list[str] | None = field(
        default=None,
        metadata={"help": "Adapters or model folders, or hub ids, to compare with it; default: only the oracles."},
    )
    audits: list[str] = field(
        default_factory=audit_names,
        metadata={"help": "What to look at; default: all.", "choices": audit_names()},
    )
    influence_score: str = field(
        default="log_odds",
        metadata={
            "help": "What influence is the influence on: the answer's probability (per token), its log_probability, or "
            "the log_odds of its tokens, the only one of them that does not vanish where an answer is certain.",
            "choices": list(SCORES),
        },
    )
    top_shares: list[float] = field(
        default_factory=lambda: [0.01, 0.05, 1.0],
        metadata={"help": "Shares of all neurons: those that changed most are summed."},
    )
    attack_seeds: list[int] = field(
        default_factory=lambda: [0],
        metadata={"help": "Seeds of the reinjection after which neurons are looked at again; one attack each."},
    )
    attack_learning_rate: float = field(default=1e-5, metadata={"help": "Of the reinjection."})
    attack_steps: int = field(default=60, metadata={"help": "Optimizer steps of the reinjection; 0: no attack."})
    attack_batch_size: int = field(default=8, metadata={"help": "Rows per step of the reinjection."})
    reinjection_fraction: float = field(default=0.3, metadata={"help": "Share of the forget facts that is reinjected."})
    derangement_seeds: list[int] = field(
        default_factory=lambda: [0, 1, 2],
        metadata={
            "help": "Each gives every forget row another answer, which the logit lens sets against the true one."
        },
    )
    counterfactual_group_by: str | None = field(
        default=None,
        metadata={
            "help": "Column with kinds of questions, within which answers are exchanged, or perturbed_answer to take "
            "the wrong answers of the data; default: attribute, else perturbed_answer, else all rows are of one kind. "
            "Probes take the column, too, if it is one of kinds; default: kind, else attribute."
        },
    )
    output_dir: str = field(default="outputs/audits", metadata={"help": "Folder that receives everything written."})
    max_length: int | None = field(default=1024, metadata={"help": "Rows are cut to this many tokens."})
    batch_size: int = field(
        default=16, metadata={"help": "Rows at once; all outputs of linear maps and their gradients are held for them."}
    )

    def __post_init__(self):
        super().__post_init__()
        check_ranges(self, {"batch_size": COUNT, "max_length": LENGTH, "attack_batch_size": COUNT})
        check_ranges(self, {"attack_seeds": SEED, "derangement_seeds": SEED})
        for name in self.audits:
            load_audit(name)  # refuses one that is not there
        check_each_once(self, ["audits", "attack_seeds", "derangement_seeds"])
        if not self.top_shares or not all(0 < share <= 1 for share in self.top_shares):
            raise ValueError(f"top_shares={self.top_shares} must be one or more shares, over 0 and up to 1")
        if self.attack_steps:
            self.budget()  # refuses an impossible one before any model is loaded

    def budget(self) -> AttackBudget:
        """What the reinjection may spend."""
        return AttackBudget(
            learning_rates=(self.attack_learning_rate,),
            fraction=self.reinjection_fraction,
            seeds=tuple(self.attack_seeds),
            steps=self.attack_steps,
            batch_size=self.attack_batch_size,
        )

    def inspection(self, data: UnlearningData, processing_class: PreTrainedTokenizerBase) -> Inspection:
        """What all models are looked at with."""
        return Inspection(
            data,
            processing_class,
            score=self.influence_score,
            top_shares=self.top_shares,
            budget=self.budget() if self.attack_steps else None,
            derangement_seeds=self.derangement_seeds,
            group_by=self.counterfactual_group_by,
            max_length=self.max_length,
            batch_size=self.batch_size,
        )

    def models(self) -> dict[str, str]:
        """Name -> folder or hub id: original, oracle, oracle_1, ..., unlearned, unlearned_1, ...

        Raises:
            InputError: a folder is missing or holds no model, or there is nothing to compare the original with.
        """
        unlearned = self.unlearned_model_name_or_path or []
        for path in unlearned:
            check_model_path(path, self.trust_remote_code)
        models = reference_models(*self.model_paths())
        for number, path in enumerate(unlearned):
            models[f"unlearned_{number}" if number else "unlearned"] = path
        if len(models) == 1:
            raise InputError(
                "audits compare models with the original: give --unlearned_model_name_or_path, "
                "--oracle_model_name_or_path or both"
            )
        return models


def audits_benchmark(
    description: str, argv: list[str] | None = None, *, audits: Sequence[str] | None = None, name: str = "audits"
) -> dict[str, Any]:
    """Audit all models; writes NAME.json, table.md and the figures, and returns the results.

    The results have, for each model by name, what the audits found, by the sections of their records, such as `models`
    (the values of every forget row) and `comparisons` with the original (see `audits.influence`), `attribution`
    (correlations before and after reinjection, one entry a seed), `logit_lens`; `not_measured` gives reasons.

    Args:
        audits: what is looked at unless `--audits` says otherwise; default: all.
        name: of the file, and of the folder in outputs/.
    """
    prepare_process()
    (arguments,) = parse_for_model(
        (AuditsArguments,),
        argv,
        description=description,
        defaults={"audits": list(audits or audit_names()), "output_dir": f"outputs/{name}"},
        embedded_defaults={"attack_learning_rate": EMBEDDED_DEFAULTS["reinjection_learning_rates"][0]},
    )
    check_output_dir(arguments.output_dir)
    data = arguments.load_data()
    if arguments.dry_run:
        show_dry_run(data, arguments)
        return {}
    if not is_main_process():
        return {}  # one process suffices: a few passes over the rows for each model
    with locked(arguments.output_dir) as output:
        return _written(_audit(arguments, data), output, f"{name}.json")


def influence_benchmark(description: str, argv: list[str] | None = None) -> dict[str, Any]:
    """The same with the audits of neurons and of answers at each block; writes influence.json."""
    return audits_benchmark(description, argv, audits=("influence", "logit_lens", "relearning"), name="influence")


def _written(results: dict[str, Any], output: Path, file: str) -> dict[str, Any]:
    """Write and show the results; returns them."""
    write_json(output / file, results)
    sections = [section for sections_of in TABLES for section in sections_of(results)]
    (output / "table.md").write_text(markdown(sections), encoding="utf-8")
    written = [file, "table.md"]
    for section, (figure, picture) in FIGURES.items():
        if results.get(section):
            figure(results, output / picture)
            written.append(picture)
    print_sections(sections, console)
    for name, reason in results["not_measured"].items():
        console.print(f"no {name.replace('_', ' ')}: {reason}", markup=False, soft_wrap=True)
    console.print(f"\nEverything is in {output}/: {', '.join(written)}", markup=False, soft_wrap=True)
    return results


def _audit(arguments: AuditsArguments, data: UnlearningData) -> dict[str, Any]:
    """All models one after the other, so that only one of them, and the copy that is attacked, is in memory.

    The audit of depth alone keeps the original, too.
    """
    models = arguments.models()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = arguments.load_tokenizer(models["original"])
    check_models(models, tokenizer, data.forget, arguments.max_length, arguments.trust_remote_code)
    beside = {"retain": data.retain, "holdout": data.holdout} if "probes" in arguments.audits else {}
    asked = Asked.of_sets(
        tokenizer,
        {"forget": data.forget},
        arguments.max_length,
        also_scored={name: rows for name, rows in beside.items() if rows is not None},
        max_new_tokens=0,
        load_model=lambda path: arguments.load_model(path).to(device),
        trust_remote_code=arguments.trust_remote_code,
        attacked="relearning" in arguments.audits and arguments.attack_steps > 0,
    )
    check_lengths(asked, models)
    check_loaded(asked, models)
    inspection = arguments.inspection(data, tokenizer)
    with console.status("looking inside") as status:
        findings, not_measured = look_inside(
            arguments.audits,
            inspection,
            {name: partial(_loaded, arguments, path, device) for name, path in models.items()},
            required=["logit_lens"] if arguments.counterfactual_group_by is not None else [],
            begin=lambda name, audits: status.update(f"{name}: {', '.join(audits).replace('_', ' ')}"),
        )
    ranked, unread = foretold(findings, models)
    return {
        "config": arguments_to_dict(arguments),
        "paths": models,
        "labels": {name: _label(name, path) for name, path in models.items()},
        "data": data.source,
        "score": arguments.influence_score,
        **findings,
        "foretold": ranked,
        "not_measured": not_measured | unread,
    }


def _loaded(arguments: AuditsArguments, path: str, device: str) -> PreTrainedModel:
    return arguments.load_model(path).to(device)


def _label(name: str, path: str) -> str:
    """What tables call a model: an unlearned one by its run's folder, since there may be several."""
    if not name.startswith("unlearned"):
        return name.replace("_", " ")
    folder = Path(path)
    return folder.resolve().parent.name if folder.is_dir() and folder.name in ("adapter", "model") else folder.name
