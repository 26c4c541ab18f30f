"""The arguments that recipes and benchmarks share: which model and data, which adapter (attacks: `attacking`)."""

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
from llm_unlearn.arguments.ranges import BELOW_ONE, COUNT, check_ranges
from llm_unlearn.data import UnlearningData, load_unlearning_data
from llm_unlearn.data.chat_templates import TEMPLATE_DATE
from llm_unlearn.data.forms import FORM_NAMES
from llm_unlearn.data.validation import NEAR_DUPLICATES
from llm_unlearn.errors import InputError
from llm_unlearn.models.embedded import defaults_of_world, embedded_models
from llm_unlearn.models.files import check_model_path
from llm_unlearn.models.loading import load_model, load_tokenizer
from llm_unlearn.models.smollm2 import located

# fields of `AdapterArguments` that full fine-tuning has no use for
OF_ADAPTERS = ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules")


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
    forget_split: str | None = field(
        default=None,
        metadata={
            "help": "forget01, forget05 or forget10 (default); of the fictional world also forget20 or forget50."
        },
    )
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
            "help": "Forget in these forms, too, and keep retained facts in them (columns person, attribute, value). "
            "transposed: what general rows ask about retained people, asked about the forgotten.",
            "choices": [*FORM_NAMES],
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

    def parse(more: Mapping[str, Any], assumed: Mapping[str, Any] | None = None) -> tuple:
        others = {"embedded_defaults": embedded_defaults, "assumed": assumed}
        return parse_arguments(
            groups, argv, description=description, prog=prog, defaults={**more, **defaults}, **others
        )

    own = {one.name: one.default for group in groups for one in fields(group) if one.init}
    # What a method cannot do without is missing only where a model is named, which a first look has to find out.
    required = {name: value for name, value in embedded_defaults.items() if own.get(name, ...) is None}
    arguments, taken = parse({}, required), set(own)
    if arguments[0].model_name_or_path is None:
        full = any(getattr(group, "full_finetuning", False) for group in arguments)
        if full:
            taken -= {*OF_ADAPTERS}
            adapterless = {name: value for name, value in embedded_defaults.items() if name not in OF_ADAPTERS}
            embedded_defaults = {**adapterless, **(embedded_full_defaults or {})}
        embedded_defaults = defaults_of_world(arguments[0].embedded_size, embedded_defaults, taken, full)
        return parse(embedded_defaults)
    return parse({}) if required else arguments
