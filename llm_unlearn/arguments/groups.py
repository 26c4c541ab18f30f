"""The arguments that recipes and benchmarks share: which model and data, which adapter, which attacks."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from transformers import BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerBase

from llm_unlearn.arguments.parsing import parse_arguments
from llm_unlearn.arguments.ranges import BELOW_ONE, COUNT, NOT_NEGATIVE, SEED, check_each_once, check_ranges
from llm_unlearn.attacks import attack_names, load_attack
from llm_unlearn.attacks.relearning import AttackBudget
from llm_unlearn.data import UnlearningData, load_unlearning_data
from llm_unlearn.data.chat_templates import TEMPLATE_DATE
from llm_unlearn.data.forms import FORMS
from llm_unlearn.data.validation import NEAR_DUPLICATES
from llm_unlearn.errors import InputError
from llm_unlearn.models.embedded import defaults_of_world, embedded_models
from llm_unlearn.models.files import check_model_path
from llm_unlearn.models.generation import CHOICES
from llm_unlearn.models.loading import load_model, load_tokenizer
from llm_unlearn.models.smollm2 import located

# fields of `AdapterArguments` that full fine-tuning has no use for
OF_ADAPTERS = ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules")
GENERATION_CONFIG = {  # metadata of that flag
    "help": "How judged models answer: own (plain greedy, whatever their generation_config.json says) or model (as "
    "that file says, but never sampled: the product as shipped).",
    "choices": list(CHOICES),
}


@dataclass
class DataArguments:
    """Which model forgets what."""

    model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Hub id, local folder, or smollm2 (SmolLM2-135M-Instruct without a hub; needs the extra of that "
            "name); default: the embedded model of the fictional world."
        },
    )
    oracle_model_name_or_path: list[str] | None = field(
        default=None, metadata={"help": "Models retrained without the forget data (one or more), to compare with."}
    )
    data: str | None = field(
        default=None,
        metadata={
            "help": "fictional[:tiny|small|medium|smollm2] (default), locuslab/TOFU, or a folder with TOFU's files."
        },
    )
    forget_split: str | None = field(default=None, metadata={"help": "forget01, forget05 or forget10 (default)."})
    retain_split: str | None = field(default=None, metadata={"help": "Default: the complement of forget_split."})
    forget_file: str | None = field(
        default=None, metadata={"help": "Your own rows to forget: JSON, JSON lines, CSV or Parquet; instead of --data."}
    )
    retain_file: str | None = field(default=None, metadata={"help": "Your own rows to keep; goes with --forget_file."})
    general_data: str | None = field(
        default=None,
        metadata={
            "help": "Rows that protect abilities in training: embedded (default in the fictional world: instructions, "
            "and retained facts asked in other ways), none (default elsewhere), a file with instructions or rows like "
            "those to forget, or a data set on the hub (tatsu-lab/alpaca). A fifth of your own rows only judges."
        },
    )
    general_file: str | None = field(
        default=None,
        metadata={
            "help": "Your own rows that judge what a model knows besides, never trained on (in the fictional world "
            "instead of its own)."
        },
    )
    near_duplicates: str = field(
        default="refuse",
        metadata={
            "help": "Whether a question of the forget rows (but for case, spacing, Unicode form and final punctuation) "
            "may be asked in other sets, too, with another answer.",
            "choices": [*NEAR_DUPLICATES],
        },
    )
    augment_forms: list[str] | None = field(
        default=None,
        metadata={
            "help": "Forget in these forms, too, and keep retained facts in them (columns person, attribute, value).",
            "choices": [*FORMS],
        },
    )
    augment_attributes: list[str] | None = field(
        default=None, metadata={"help": "Attributes trained in these forms; default: every second, the others judge."}
    )
    dtype: str = field(
        default="auto",
        metadata={"help": "Weights' type.", "choices": ["auto", "float32", "bfloat16", "float16"]},
    )
    revision: str | None = field(
        default=None,
        metadata={"help": "Branch, tag or commit of model_name_or_path on the hub; any hub id also as name@revision."},
    )
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run code that comes with a model from the hub; without it, none is."}
    )
    enable_thinking: bool = field(
        default=False,
        metadata={
            "help": "Tell the chat template so, where it knows `enable_thinking`. An answer stands where its answered "
            "turn has it all the same: in many templates after an empty reasoning block."
        },
    )
    template_date: str = field(
        default=TEMPLATE_DATE,
        metadata={"help": "The day (YYYY-MM-DD) that chat templates with today's date write, whatever the day is."},
    )
    dry_run: bool = field(
        default=False,
        metadata={
            "help": "Show the configuration and what it would be run on (recipes: one decoded batch), then stop."
        },
    )

    def load_data(self) -> UnlearningData:
        """Load and validate the forget, retain and general rows."""
        return load_unlearning_data(
            self.data,
            forget_split=self.forget_split,
            retain_split=self.retain_split,
            forget_file=self.forget_file,
            retain_file=self.retain_file,
            general_data=self.general_data,
            general_file=self.general_file,
            near_duplicates=self.near_duplicates,
            augment_forms=self.augment_forms,
            augment_attributes=self.augment_attributes,
        )

    def model_paths(self) -> tuple[str, list[str]]:
        """The original model and its oracles; the embedded ones are trained on first use.

        Raises:
            InputError: data that the embedded model does not know, and no other model.
        """
        oracles = self.oracle_model_name_or_path and list(map(located, self.oracle_model_name_or_path))
        for path in (self.pinned_model, *(oracles or [])):
            if path is not None:
                check_model_path(path, self.trust_remote_code)  # before the first of them is used, which may take hours
        if (model := self.pinned_model) is not None:
            _check_different(model, oracles or [])
            return model, oracles or []
        spec = self.data or "fictional"
        if self.forget_file or not spec.startswith("fictional"):
            flag = "--forget_file" if self.forget_file else f"--data {spec}"
            raise InputError(f"{flag} needs --model_name_or_path: the embedded model knows only the fictional world")
        split = self.forget_split or "forget10"
        own = [] if oracles else [(split, seed) for seed in range(self.embedded_oracles)]
        original, *trained = map(str, embedded_models(self.embedded_size, [(None, 0), *own]))
        _check_different(original, oracles or [])
        return original, oracles or trained

    @property
    def pinned_model(self) -> str | None:
        """`model_name_or_path` with its revision, "name@revision"; of smollm2, the folder in the cache.

        Raises:
            InputError: `revision` goes with a folder, with a name that has one, or with none.
        """
        name, revision = self.model_name_or_path, self.revision
        if revision is None:
            return name and located(name)
        if name is None or "@" in name or Path(located(name)).is_dir():
            raise InputError(f"revision={revision!r} pins a hub id as model_name_or_path, which is {name!r}")
        return f"{name}@{revision}"

    def load_model(
        self, path: str, quantization_config: BitsAndBytesConfig | None = None, device: torch.device | str = "cpu"
    ) -> PreTrainedModel | PeftModel:
        """`models.loading.load_model` as these arguments want it."""
        return load_model(path, self.dtype, quantization_config, device, trust_remote_code=self.trust_remote_code)

    def load_tokenizer(self, path: str) -> PreTrainedTokenizerBase:
        """`models.loading.load_tokenizer` as these arguments want it."""
        return load_tokenizer(
            path,
            enable_thinking=self.enable_thinking,
            template_date=self.template_date,
            trust_remote_code=self.trust_remote_code,
        )

    @property
    def embedded_oracles(self) -> int:
        """How many oracles of the embedded world a run has beside it."""
        return 1

    @property
    def embedded_size(self) -> str:
        """Size of the fictional world whose model or instructions are used: that of the data, or "small"."""
        return (self.data or "").partition("fictional:")[2] or "small"


@dataclass
class AdapterArguments:
    """How the weights change: LoRA on every linear map of the blocks, of a quantized base too, or full fine-tuning."""

    full_finetuning: bool = field(default=False, metadata={"help": "Train all weights instead of a LoRA adapter."})
    lora_r: int = field(default=16, metadata={"help": "Rank of the LoRA matrices."})
    lora_alpha: int = field(default=32, metadata={"help": "LoRA scaling is lora_alpha / lora_r."})
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout on the adapter's input."})
    lora_target_modules: list[str] | None = field(
        default=None, metadata={"help": "Names of the modules to adapt; default: every linear map of the blocks."}
    )
    load_in_4bit: bool = field(
        default=False,
        metadata={
            "help": "QLoRA: train the adapter on base weights in 4 bits (NF4, double quantization; needs "
            "bitsandbytes). What is judged and attacked is the adapter on the whole base."
        },
    )
    load_in_8bit: bool = field(default=False, metadata={"help": "The same in 8 bits (LLM.int8())."})

    @property
    def bits(self) -> int | None:
        """4 or 8 where the base weights are quantized."""
        return 4 if self.load_in_4bit else 8 if self.load_in_8bit else None

    def __post_init__(self):
        if self.load_in_4bit and self.load_in_8bit:
            raise ValueError("load_in_4bit and load_in_8bit exclude each other; give one")
        if self.bits is not None and self.full_finetuning:
            raise ValueError(f"load_in_{self.bits}bit: rounded weights cannot be trained; leave out full_finetuning")
        check_ranges(self, {"lora_r": COUNT, "lora_alpha": COUNT, "lora_dropout": BELOW_ONE})
        defaults = AdapterArguments.__dataclass_fields__
        for name in OF_ADAPTERS if self.full_finetuning else ():
            if (value := getattr(self, name)) != defaults[name].default:
                raise ValueError(f"full_finetuning trains all weights, and {name}={value} is of an adapter; give one")

    def peft_config(self) -> LoraConfig | None:
        """The LoRA configuration, or None for full fine-tuning."""
        if self.full_finetuning:
            return None
        return LoraConfig(
            r=self.lora_r,
            lora_alpha=self.lora_alpha,
            lora_dropout=self.lora_dropout,
            target_modules=self.lora_target_modules or "all-linear",
            task_type="CAUSAL_LM",
        )


@dataclass
class AttackArguments:
    """Attacks on the original, the oracle and the unlearned model alike."""

    attacks: list[str] = field(
        default_factory=lambda: ["adversarial_reinjection", "benign_relearning", "prompting"],
        metadata={"help": f"Any of {', '.join(attack_names())}, or none to skip."},
    )
    attackers: list[str] = field(
        default_factory=lambda: ["full"],
        metadata={"help": "full (all weights are tuned) and/or lora (an adapter); the strongest counts."},
    )
    reinjection_learning_rates: list[float] = field(
        default_factory=lambda: [1e-5],
        metadata={
            "help": "The attacker tries each, the strongest counts (the paper's grid: 1e-5 5e-6 1e-6). Also those of "
            "leave_one_group_out."
        },
    )
    benign_learning_rates: list[float] = field(
        default_factory=lambda: [1e-5],
        metadata={
            "help": "The attacker tries each, the strongest counts (the paper's grid: 1e-5 1e-6 1e-7). Also those of "
            "retain_relearning and template_relearning."
        },
    )
    reinjection_lora_learning_rates: list[float] = field(
        default_factory=lambda: [1e-4], metadata={"help": "As reinjection_learning_rates, of the lora attacker."}
    )
    benign_lora_learning_rates: list[float] = field(
        default_factory=lambda: [1e-4], metadata={"help": "As benign_learning_rates, of the lora attacker."}
    )
    attack_lora_r: int = field(default=16, metadata={"help": "Rank of the lora attacker's matrices."})
    reinjection_fraction: float = field(default=0.3, metadata={"help": "Share of the forget facts that is reinjected."})
    reinjection_pool: str = field(
        default="all",
        metadata={
            "help": "Facts that are reinjected and scored: all, or only rows that the unlearned model answers wrongly.",
            "choices": ["all", "forgotten"],
        },
    )
    leave_out_column: str | None = field(
        default=None,
        metadata={
            "help": "Column of the groups of leave_one_group_out; default: person if rows have several, else fact_id."
        },
    )
    left_out_groups: int = field(
        default=5, metadata={"help": "So many groups, evenly spread, are left out in turn; one relearning each."}
    )
    attack_steps: int = field(default=60, metadata={"help": "Optimizer steps of each attack."})
    attack_batch_size: int = field(default=8, metadata={"help": "Rows per step of an attack."})
    attack_micro_batch_size: int | None = field(
        default=None,
        metadata={"help": "So many of them are run at once: less memory, the same attack. Default: all."},
    )
    attack_activation_checkpointing: bool = field(
        default=False,
        metadata={"help": "Attacks compute blocks again in the backward instead of keeping them: less memory, slower."},
    )
    attack_score_every: int = field(default=10, metadata={"help": "Steps between two points of the recovery curve."})
    attack_seeds: list[int] = field(
        default_factory=lambda: [0, 1, 2], metadata={"help": "Seeds of the reinjected facts and the order of rows."}
    )
    judged_retain_rows: int | None = field(
        default=None,
        metadata={
            "help": "Most rows of each set of retained facts (as trained, in other words, in reverse, ...) that models "
            "are judged on, evenly spread; default: all."
        },
    )
    attack_retain_rows: int = field(
        default=100, metadata={"help": "Retain rows (evenly spread) that are scored along the recovery curve."}
    )
    benign_data: str = field(
        default="embedded",
        metadata={
            "help": "Instructions for benign tuning: embedded, an Alpaca-format file, or a data set on the hub "
            "(tatsu-lab/alpaca, databricks/databricks-dolly-15k)."
        },
    )
    counterfactual: bool = field(
        default=True,
        metadata={
            "help": "Also the counterfactual control: reinjection of made-up facts, which shows without an oracle what "
            "a model still knows."
        },
    )
    derangement_seeds: list[int] = field(
        default_factory=lambda: [0, 1, 2],
        metadata={"help": "Each makes up other facts for the counterfactual control, which runs with each."},
    )
    counterfactual_group_by: str | None = field(
        default=None,
        metadata={
            "help": "Column with kinds of questions, within which answers are exchanged, or perturbed_answer to take "
            "the wrong answers of the data (person: within each author of TOFU); default: attribute, else "
            "perturbed_answer, else all rows are of one kind."
        },
    )
    generation_config: str = field(default="own", metadata=GENERATION_CONFIG)

    def __post_init__(self):
        rates = [name for name in self.__dataclass_fields__ if name.endswith("learning_rates")]
        counts = ["attack_lora_r", "attack_steps", "attack_batch_size", "attack_score_every", "attack_retain_rows"]
        counts.append("judged_retain_rows")
        check_ranges(self, dict.fromkeys(rates, NOT_NEGATIVE) | dict.fromkeys([*counts, "left_out_groups"], COUNT))
        check_ranges(self, {"attack_micro_batch_size": COUNT})
        check_ranges(self, {"attack_seeds": SEED, "derangement_seeds": SEED})
        check_each_once(self, ["attack_seeds", "derangement_seeds"])
        if "none" in self.attacks and len(self.attacks) > 1:
            raise ValueError(f"attacks: {' '.join(self.attacks)}: none stands alone, or leave it out")
        if self.attacks == ["none"]:
            self.attacks, self.counterfactual = [], False
        for name in self.attacks:
            if name not in attack_names():
                raise ValueError(f"attacks: {name!r} is unknown; choose from {', '.join(attack_names())}, or none")
        for name in attack_names():  # the counterfactual control has one, too
            self.budget(name)  # refuses an impossible one before anything is trained
        if len(set(self.attacks)) < len(self.attacks):
            raise ValueError(f"attacks: {' '.join(self.attacks)} names one twice; name each once")

    def budget(self, attack: str) -> AttackBudget:
        """What the attacker may spend on one attack."""
        is_benign = attack in attack_names() and load_attack(attack).rates == "benign"
        full, lora = (
            (self.benign_learning_rates, self.benign_lora_learning_rates)
            if is_benign
            else (self.reinjection_learning_rates, self.reinjection_lora_learning_rates)
        )
        return AttackBudget(
            learning_rates=tuple(full),
            fraction=self.reinjection_fraction,
            seeds=tuple(self.attack_seeds),
            steps=self.attack_steps,
            batch_size=self.attack_batch_size,
            score_every=self.attack_score_every,
            attackers=tuple(self.attackers),
            lora_learning_rates=tuple(lora),
            lora_r=self.attack_lora_r,
            left_out_groups=self.left_out_groups,
            micro_batch_size=self.attack_micro_batch_size,
            activation_checkpointing=self.attack_activation_checkpointing,
        )


def _check_different(original: str, oracles: Sequence[str]) -> None:
    """The same model under two names would pass for two."""
    seen: set[str] = set()
    for oracle in oracles:
        place = os.path.realpath(oracle)
        if place == os.path.realpath(original):
            raise InputError(
                f"oracle_model_name_or_path: {oracle!r} is the model to unlearn itself; give one that never saw the "
                "forget rows, or leave it out"
            )
        if place in seen:
            raise InputError(f"oracle_model_name_or_path: {oracle!r} is given twice; give each oracle once")
        seen.add(place)


def parse_for_model(
    groups: Sequence[type],
    argv: Sequence[str] | None,
    *,
    description: str,
    prog: str | None = None,
    defaults: Mapping[str, Any],
    embedded_defaults: Mapping[str, Any],
    embedded_full_defaults: Mapping[str, Any] | None = None,
) -> tuple:
    """As `parse_arguments`; where no model is named, the defaults are those that suit the embedded one.

    Args:
        groups: the first has `model_name_or_path`.
        embedded_defaults: beside `defaults`, in place of the dataclass defaults, which suit models a thousand times the
            embedded one's size.
        embedded_full_defaults: on top of those, with `--full_finetuning`.
    """

    def parse(more: Mapping[str, Any]) -> tuple:
        return parse_arguments(groups, argv, description=description, prog=prog, defaults={**more, **defaults})

    own = {one.name: one.default for group in groups for one in fields(group) if one.init}
    # What a method cannot do without is missing only where a model is named, which a first look has to find out.
    required = {name: value for name, value in embedded_defaults.items() if own.get(name, ...) is None}
    arguments, taken = parse(required), set(own)
    if arguments[0].model_name_or_path is None:
        full = any(getattr(group, "full_finetuning", False) for group in arguments)
        if full:
            taken -= {*OF_ADAPTERS}
            adapterless = {name: value for name, value in embedded_defaults.items() if name not in OF_ADAPTERS}
            embedded_defaults = {**adapterless, **(embedded_full_defaults or {})}
        embedded_defaults = defaults_of_world(arguments[0].embedded_size, embedded_defaults, taken, full)
        return parse(embedded_defaults)
    return parse({}) if required else arguments
