"""`UnlearnConfig`: `transformers.TrainingArguments` plus what unlearning needs; one small dataclass per method."""

from __future__ import annotations

from dataclasses import dataclass, field

from transformers import TrainingArguments

RETAIN_LOSSES = ("nll", "kl", "none")
BACKBONES = ("npo", "gradient_ascent")
ATTRIBUTIONS = ("negative", "positive", "shuffled")
STOPPING_SCORES = ("exact_match", "probability", "rouge_l")


@dataclass
class UnlearnConfig(TrainingArguments):
    """Arguments of `UnlearnTrainer`; every field of `TrainingArguments` works as users know it.

    Total loss: `forget_weight * forget + retain_weight * retain + regularizer`. Each part is a mean over the global
    batch (all processes, all accumulation steps). One epoch is one pass over the forget set, each forget row with one
    retain row beside it, so the effective batch is 2 x `per_device_train_batch_size` rows per process and step.
    """

    output_dir: str | None = field(default="outputs", metadata={"help": "Folder that receives everything written."})
    forget_weight: float = field(default=1.0, metadata={"help": "Weight of the forget loss."})
    retain_weight: float = field(default=1.0, metadata={"help": "Weight of the retain loss."})
    retain_loss: str = field(
        default="nll",
        metadata={
            "help": "nll (cross-entropy on retain rows), kl (stay close to the reference on retain rows) or none.",
            "choices": list(RETAIN_LOSSES),
        },
    )
    max_length: int | None = field(
        default=1024, metadata={"help": "Rows are cut to this many tokens; an answer that would vanish is an error."}
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
        metadata={"help": "Stop at the first check with mean forget ROUGE-L recall at or below this (TOFU: 0.1971)."},
    )
    forget_check_steps: int = field(
        default=1,
        metadata={"help": "Steps between two checks of the stop_at_* thresholds; all of those given must hold."},
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

    def __post_init__(self):
        super().__post_init__()
        if self.retain_loss not in RETAIN_LOSSES:
            raise ValueError(f"retain_loss={self.retain_loss!r} is unknown; choose one of {', '.join(RETAIN_LOSSES)}")
        for name in ("forget_weight", "retain_weight"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}={getattr(self, name)} must be 0 or more")
        for score, limit in self.stopping_thresholds.items():
            if not 0 <= limit <= 1:
                raise ValueError(f"stop_at_forget_{score}={limit} must lie between 0 and 1")
        if self.forget_check_steps < 1:
            raise ValueError(f"forget_check_steps={self.forget_check_steps} must be 1 or more")
        if self.max_length is not None and self.max_length < 2:
            raise ValueError(f"max_length={self.max_length} leaves no room for an answer; use 2 or more, or null")
        if self.activation_checkpointing:
            # Reentrant checkpointing lets data-parallel ranks diverge silently with LoRA.
            kwargs = dict(self.activation_checkpointing_kwargs or {})
            if kwargs.setdefault("use_reentrant", False):
                raise ValueError("activation_checkpointing_kwargs: use_reentrant=True is not supported; leave it out")
            self.activation_checkpointing_kwargs = kwargs

    @property
    def stopping_thresholds(self) -> dict[str, float]:
        """The thresholds that were given: score name -> limit."""
        limits = {score: getattr(self, f"stop_at_forget_{score}") for score in STOPPING_SCORES}
        return {score: limit for score, limit in limits.items() if limit is not None}


@dataclass
class GradientAscentConfig(UnlearnConfig):
    """Arguments of `GradientAscentTrainer`; with a retain loss the method is known as GradDiff."""


@dataclass
class NPOConfig(UnlearnConfig):
    """Arguments of `NPOTrainer`."""

    beta: float = field(
        default=0.1, metadata={"help": "NPO's inverse temperature (paper: 0.1 to 0.5); near 0 it is gradient ascent."}
    )

    def __post_init__(self):
        super().__post_init__()
        if not self.beta > 0:
            raise ValueError(f"beta={self.beta} must be above 0")


@dataclass
class SsiuuConfig(NPOConfig):
    """Arguments of `SsiuuTrainer`: a backbone forget loss plus the attribution regularizer."""

    backbone: str = field(
        default="npo",
        metadata={"help": "Forget loss that is regularized: npo or gradient_ascent.", "choices": list(BACKBONES)},
    )
    regularizer_weight: float = field(
        default=10.0,
        metadata={
            "help": "Weight of the attribution regularizer; its right size depends on model and backbone: watch the "
            "logged regularizer/gradient_ratio."
        },
    )
    attribution: str = field(
        default="negative",
        metadata={
            "help": "Influence that is regularized: negative, or, as controls of what the method owes to it, "
            "positive or shuffled (each neuron's with the gradient of another one).",
            "choices": list(ATTRIBUTIONS),
        },
    )

    def __post_init__(self):
        super().__post_init__()
        if self.backbone not in BACKBONES:
            raise ValueError(f"backbone={self.backbone!r} is unknown; choose one of {', '.join(BACKBONES)}")
        if self.attribution not in ATTRIBUTIONS:
            raise ValueError(f"attribution={self.attribution!r} is unknown; choose one of {', '.join(ATTRIBUTIONS)}")
        if not self.regularizer_weight >= 0:
            raise ValueError(f"regularizer_weight={self.regularizer_weight} must be 0 or more")
