"""`UnlearnConfig`: `transformers.TrainingArguments` plus what unlearning needs; a method's own stands in its file."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

from accelerate.utils import parse_flag_from_env
from torch import zeros
from torch.optim import SGD
from transformers import TrainingArguments, get_scheduler
from transformers.integrations import get_available_reporting_integrations
from transformers.trainer_utils import HubStrategy
from transformers.utils import is_liger_kernel_available

from llm_unlearn.arguments.ranges import (
    BELOW_ONE,
    COUNT,
    COUNT_OR_NONE,
    LENGTH,
    NOT_NEGATIVE,
    SEED,
    check_ranges,
)

KEEPING_LOSSES = ("nll", "kl")
RANGES = {  # of fields of TrainingArguments, which are used only when training has begun
    "learning_rate": NOT_NEGATIVE,
    "warmup_steps": NOT_NEGATIVE,
    "weight_decay": NOT_NEGATIVE,
    "adam_beta1": BELOW_ONE,
    "adam_beta2": BELOW_ONE,
    "adam_epsilon": NOT_NEGATIVE,
    "max_grad_norm": NOT_NEGATIVE,
    "neftune_noise_alpha": NOT_NEGATIVE,
    "per_device_train_batch_size": COUNT,
    "per_device_eval_batch_size": COUNT,
    "gradient_accumulation_steps": COUNT,
    "eval_accumulation_steps": COUNT,
    "dataloader_num_workers": COUNT_OR_NONE,
    "ddp_bucket_cap_mb": COUNT,
    "ddp_timeout": COUNT,
    "logging_steps": NOT_NEGATIVE,
    "eval_steps": NOT_NEGATIVE,
    "eval_delay": NOT_NEGATIVE,
    "save_steps": NOT_NEGATIVE,
    "save_total_limit": COUNT,
    "seed": SEED,
    "data_seed": SEED,
}
STOPPING_SCORES = ("exact_match", "probability", "rouge_l", "value_said")
NEVER_STOPPED = {f"stop_at_forget_{score}": None for score in STOPPING_SCORES}  # the default of methods without an end


@dataclass
class UnlearnConfig(TrainingArguments):
    """Arguments of `UnlearnTrainer`; every field of `TrainingArguments` works as users know it.

    Total loss: `forget_weight * forget + retain_weight * retain + general_weight * general + regularizer`. Each part is
    a mean over the global batch (all processes, all accumulation steps). One epoch is one pass over the forget set,
    each forget row with one retain row beside it and, where there are general rows (those that protect abilities), one
    of them, so the effective batch is 2 or 3 x `per_device_train_batch_size` rows per process and step.
    """

    keeping_losses: ClassVar = KEEPING_LOSSES  # of retain and of general rows

    output_dir: str | None = field(default="outputs", metadata={"help": "Folder that receives everything written."})
    forget_weight: float = field(default=1.0, metadata={"help": "Weight of the forget loss."})
    retain_weight: float = field(default=1.0, metadata={"help": "Weight of the retain loss."})
    retain_loss: str = field(
        default="nll",
        metadata={
            "help": "nll (cross-entropy on retain rows), kl (stay close to the reference on retain rows) or none.",
            "choices": [*KEEPING_LOSSES, "none"],
        },
    )
    general_weight: float = field(
        default=1.0,
        metadata={"help": "Weight of the general loss, which protects abilities; 0: no general rows are drawn."},
    )
    general_loss: str = field(
        default="nll",
        metadata={
            "help": "nll (cross-entropy on general rows) or kl (stay close to the reference on general rows).",
            "choices": list(KEEPING_LOSSES),
        },
    )
    max_length: int | None = field(
        default=1024, metadata={"help": "Rows are cut to this many tokens; an answer that would vanish is an error."}
    )
    logits_chunk_size: int | None = field(
        default=None,
        metadata={
            "help": "Make the logits of so many answer tokens at a time (such as 256) and keep none: less memory with "
            "long answers and large vocabularies, for one more pass of the output embedding."
        },
    )
    stop_at_forget_exact_match: float | None = field(
        default=None, metadata={"help": "Stop at the first check with forget exact match at or below this (0 to 1)."}
    )
    stop_at_forget_probability: float | None = field(
        default=None,
        metadata={"help": "Stop at the first check with mean forget answer probability at or below this (0 to 1)."},
    )
    stop_at_forget_rouge_l: float | None = field(
        default=None,
        metadata={
            "help": "Stop at the first check with mean forget ROUGE-L recall at or below this (0 to 1; on TOFU, arXiv "
            "2509.22263 takes 0.1971, where a model that never knew has about 0.38)."
        },
    )
    stop_at_forget_value_said: float | None = field(
        default=None,
        metadata={
            "help": "Stop at the first check where at most this share of greedy answers says the row's `value` (0 to "
            "1; forget rows need the column). Unlike exact match it is not fooled by a misspelled name."
        },
    )
    forget_check_steps: int = field(
        default=1,
        metadata={"help": "Steps between two checks of the stop_at_* thresholds; all of those given must hold."},
    )
    max_forget_nll: float | None = field(
        default=None,
        metadata={
            "help": "A run ends as diverged where a batch's forget answers have a negative log-likelihood per token "
            "(nats) above this; default: 5 log(vocabulary), five times a blind guess's. inf: never."
        },
    )
    max_retain_nll: float | None = field(
        default=None, metadata={"help": "The same for retain and for general answers; default: 3 log(vocabulary)."}
    )
    # Defaults that differ from TrainingArguments.
    learning_rate: float = field(default=1e-4, metadata={"help": "Peak learning rate of AdamW."})
    num_train_epochs: float = field(default=10.0, metadata={"help": "Passes over the forget set, at most."})
    lr_scheduler_type: str = field(
        default="constant", metadata={"help": "Constant: a stopping rule ends the run, not the schedule."}
    )
    logging_steps: float = field(default=5, metadata={"help": "Steps between two log lines."})
    remove_unused_columns: bool | None = field(default=False, metadata={"help": "Row roles must reach the loss."})
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "NaN is never hidden here."})
    save_strategy: str = field(default="no", metadata={"help": "Checkpoints: no, steps or epoch."})
    hub_private_repo: bool | None = field(
        default=True, metadata={"help": "Make the repository private; false publishes the model."}
    )
    hub_strategy: str = field(
        default="end", metadata={"help": "When push_to_hub uploads: end, once, after every file was checked."}
    )
    push: str | None = field(
        default=None,
        metadata={
            "help": "What push_to_hub uploads: adapter (default; with full_finetuning the model), or merged: the "
            "adapter put into its base, so that nobody can take it off again.",
            "choices": ["adapter", "merged"],
        },
    )

    def __post_init__(self):
        check_ranges(self, RANGES)  # before transformers computes with them
        metric = (self.metric_for_best_model or "").removeprefix("eval_")
        if self.greater_is_better is None and metric.startswith("forget_"):
            self.greater_is_better = False  # of all that does not end in "loss" transformers would take the highest
        super().__post_init__()
        self._check_training_arguments()
        self._check_liger()
        for name, known in (("retain_loss", [*self.keeping_losses, "none"]), ("general_loss", self.keeping_losses)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r} is unknown; choose one of {', '.join(known)}")
        if self.push_to_hub and (HubStrategy(self.hub_strategy) != HubStrategy.END or self.hub_always_push):
            raise ValueError(
                f"hub_strategy={HubStrategy(self.hub_strategy).value} and hub_always_push upload checkpoints during "
                "training, which hold states and paths that nobody has checked for forget data; use hub_strategy=end, "
                "and hub_always_push=false"
            )
        weights = ("forget_weight", "retain_weight", "general_weight")
        check_ranges(self, dict.fromkeys(weights, NOT_NEGATIVE) | {"forget_check_steps": COUNT})
        for score, limit in self.stopping_thresholds.items():
            if not 0 <= limit <= 1:
                raise ValueError(f"stop_at_forget_{score}={limit} must lie between 0 and 1")
        for name in ("max_forget_nll", "max_retain_nll"):
            bound = getattr(self, name)
            if bound is not None and not bound > 0:
                raise ValueError(f"{name}={bound} must be above 0 (inf: no bound), or null for the default")
        check_ranges(self, {"max_length": LENGTH, "logits_chunk_size": COUNT})
        for name in ("retain_loss", "general_loss"):
            if self.logits_chunk_size is not None and getattr(self, name) == "kl":
                raise ValueError(
                    f"logits_chunk_size={self.logits_chunk_size} keeps no logits, which {name}='kl' compares; use "
                    f"{name}='nll', or leave logits_chunk_size out"
                )
        if self.activation_checkpointing:
            # Reentrant checkpointing lets data-parallel ranks diverge silently with LoRA.
            kwargs = dict(self.activation_checkpointing_kwargs or {})
            if kwargs.setdefault("use_reentrant", False):
                raise ValueError("activation_checkpointing_kwargs: use_reentrant=True is not supported; leave it out")
            self.activation_checkpointing_kwargs = kwargs

    def _check_liger(self) -> None:
        if not self.use_liger_kernel:
            return
        if self.device.type == "cpu":
            raise ValueError("use_liger_kernel=True: its kernels run on GPUs only; leave it out")
        if not is_liger_kernel_available():
            raise ValueError("use_liger_kernel=True needs liger-kernel; install it with pip install liger-kernel")

    def _check_training_arguments(self) -> None:
        """What transformers would find out only when training has begun, or never."""
        if self.max_steps != -1 and self.max_steps < 1:
            raise ValueError(f"max_steps={self.max_steps} must be 1 or more, or -1 for num_train_epochs")
        if self.max_steps == -1 and not 0 < self.num_train_epochs < math.inf:
            raise ValueError(f"num_train_epochs={self.num_train_epochs} must be above 0")
        for name in ("save_steps", "eval_steps"):
            value, strategy = getattr(self, name), getattr(self, f"{name.removesuffix('_steps')}_strategy")
            if strategy == "steps" and not (value and value > 0):
                raise ValueError(f"{name}={value} must be above 0 with {name.removesuffix('_steps')}_strategy=steps")
        if self.label_smoothing_factor:
            raise ValueError(f"label_smoothing_factor={self.label_smoothing_factor}: no loss here has it; leave it out")
        installed = get_available_reporting_integrations()
        for name in self.report_to:
            if name not in installed:
                known = ", ".join([*installed, "none"])
                raise ValueError(f"report_to: {name!r} is unknown or not installed; install it, or choose from {known}")
        kind, kwargs = getattr(self.lr_scheduler_type, "value", self.lr_scheduler_type), self.lr_scheduler_kwargs
        try:
            get_scheduler(kind, SGD([zeros(1)], lr=1.0), 0, 1, scheduler_specific_kwargs=kwargs)
        except (ValueError, TypeError) as error:
            raise ValueError(f"lr_scheduler_type={kind} with lr_scheduler_kwargs={kwargs}: {error}") from error
        best_is_wanted = self.load_best_model_at_end or self.save_strategy == "best"
        if best_is_wanted and self.metric_for_best_model in (None, "loss", "eval_loss"):
            raise ValueError(
                "metric_for_best_model is missing: checkpoints are compared by what evaluate() measures; give "
                "forget_probability, forget_exact_match, or SET_probability of a set in eval_dataset"
            )

    @property
    def stopping_thresholds(self) -> dict[str, float]:
        """The thresholds that were given: score name -> limit."""
        limits = {score: getattr(self, f"stop_at_forget_{score}") for score in STOPPING_SCORES}
        return {score: limit for score, limit in limits.items() if limit is not None}

    @property
    def push_arguments(self) -> dict[str, Any]:
        """The arguments of `hub.push_run` that are told here."""
        return {
            "repo_id": self.hub_model_id,
            "kind": self.push,
            "private": self.hub_private_repo is not False,
            "token": self.hub_token,
            "revision": self.hub_revision,
        }

    @property
    def sharded_by(self) -> str | None:
        """FSDP or DeepSpeed, where one of them was asked for, here or at the launcher."""
        for name in ("FSDP", "DeepSpeed"):
            if getattr(self, name.lower()) or parse_flag_from_env(f"ACCELERATE_USE_{name.upper()}"):
                return name
        return None

    def refuse_sharding(self, why: str) -> None:
        """For methods that cannot be sharded.

        Raises:
            ValueError: they are to be; `why` they cannot.
        """
        if self.sharded_by:
            raise ValueError(
                f"{self.sharded_by}: {why}; start with plain data parallelism (recipes/accelerate/multi_gpu.yaml), and "
                "with --load_in_4bit if memory is short"
            )
