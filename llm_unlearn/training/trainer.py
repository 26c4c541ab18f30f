"""`UnlearnTrainer`: the one training loop. A method is a forget loss; the rest (batches, references, retain and general
loss, logging, stopping, correctness under accumulation and data parallelism) is here."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence, Set
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from huggingface_hub import CommitInfo
from peft import PeftConfig, PeftModel
from torch import nn
from transformers import (
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    set_seed,
)
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.trainer_callback import ProgressCallback

from llm_unlearn.data import encode_dataset
from llm_unlearn.data.collators import (
    ALTERNATE,
    FORGET,
    GENERAL,
    PART_ROLES,
    RETAIN,
    EncodedRow,
    PairedDataset,
    PairSampler,
    UnlearnCollator,
)
from llm_unlearn.data.validation import validate_trained
from llm_unlearn.errors import DivergenceError, InputError, as_input_errors
from llm_unlearn.files.all_processes import failing_together
from llm_unlearn.models.adapters import remember_base, with_adapter
from llm_unlearn.models.answers import Answers, forward_answers
from llm_unlearn.models.files import check_rows_fit
from llm_unlearn.models.loading import load_model, tokenizer_of
from llm_unlearn.models.sharding import check_saves_whole
from llm_unlearn.training.callbacks import UnlearnCallback, UnlearnProgressCallback
from llm_unlearn.training.checkpoint_folders import last_checkpoint
from llm_unlearn.training.checkpoints import Checkpoints
from llm_unlearn.training.checks import check_arguments, check_hidden_layers, check_model
from llm_unlearn.training.config import UnlearnConfig
from llm_unlearn.training.divergence import count_not_finite, raise_if_diverged
from llm_unlearn.training.log_sums import LogSums
from llm_unlearn.training.losses import global_mean, keeping_loss
from llm_unlearn.training.paper import Paper
from llm_unlearn.training.passes import Pass, only_roles
from llm_unlearn.training.reference_policy import ReferencePolicy
from llm_unlearn.training.rows import count_items, encoded_row_sets
from llm_unlearn.training.scores import TrainingScores
from llm_unlearn.training.unused_parameters import look_for_unused_parameters_if_there_are
from llm_unlearn.training.uploads import push

logger = logging.getLogger(__name__)


class UnlearnTrainer(Trainer):
    """A `transformers.Trainer` that makes a causal LM forget one data set and keep another.

    Subclasses give `forget_loss` (one value per forget row or per forget answer token) and may give `regularizer`.

    Args:
        model: a hub id, a local folder, "smollm2" (see `models.smollm2`), a `PreTrainedModel`, or a `PeftModel` (whose
            adapter is then trained further).
        args: an `UnlearnConfig`.
        forget_dataset: rows as question/answer, prompt/completion, messages, or text.
        retain_dataset: likewise; needed unless `retain_loss="none"`.
        general_dataset: likewise: rows that protect abilities rather than facts, such as instructions; None: no such
            part. With `general_weight=0` none of them is drawn.
        eval_dataset: one more data set (or a dict of them) that `evaluate()` scores beside the forget set.
        processing_class: the tokenizer; by default the one in the model's folder.
        peft_config: e.g. `LoraConfig(r=16)`; without `target_modules`, every linear map of the blocks is adapted.
        quantization_config: e.g. `models.loading.quantization_config(4)` (QLoRA), where `model` is an id or a folder.
        near_duplicates: "refuse", or "allow" questions of forget rows in other sets, too, with another answer.

    Raises:
        InputError: empty, overlapping or malformed data, answers that truncation removes, a missing retain set,
            quantized weights without an adapter, FSDP on a CPU, a model that ZeRO 3 sharded before its reference,
            sharding that would save shards, `logits_chunk_size` with sharded weights or a model that changes its logits
            after the output embedding.
    """

    config_class = UnlearnConfig
    # What forget_loss reads beside what all have: of `answers.forget` "reference_logps", "reference_logits" or
    # "reference_hidden_states"; "alternates": another answer to each forget question, `answers.alternate`.
    needs: Set[str] = frozenset()
    hidden_layers: Sequence[int] = ()  # blocks whose outputs are answers.hidden_states
    roles: Sequence[int] = tuple(PART_ROLES.values())  # of the rows that enter the model
    alternates_may_be_true = False  # guesses, which are right by chance now and then
    method_name = "custom"  # on the command line and in results
    method_title: str | None = None  # in sentences; by default its name
    paper: Paper | None = None

    def __init__(
        self,
        model: str | PreTrainedModel | PeftModel,
        args: UnlearnConfig | None = None,
        forget_dataset: Dataset | None = None,
        retain_dataset: Dataset | None = None,
        general_dataset: Dataset | None = None,
        eval_dataset: Dataset | dict[str, Dataset] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        peft_config: PeftConfig | None = None,
        quantization_config: BitsAndBytesConfig | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple = (None, None),
        near_duplicates: str = "refuse",
    ):
        args = self.args = args or self.config_class()  # `needs` may depend on them
        check_arguments(self, args)
        if args.device.type == "cpu":
            args.dataloader_pin_memory = False  # pinning is for transfers to a GPU, and warns where there is none
        validate_trained(forget_dataset, retain_dataset, general_dataset, args.retain_loss, near_duplicates)
        processing_class = tokenizer_of(model, processing_class)
        encode = {"processing_class": processing_class, "max_length": args.max_length}
        self.forget_dataset, self.retain_dataset = forget_dataset, retain_dataset
        alternates = self.alternates(forget_dataset, args) if "alternates" in self.needs else None
        datasets = (forget_dataset, retain_dataset, general_dataset)
        self.row_sets = encoded_row_sets(*datasets, alternates, args, processing_class, self.alternates_may_be_true)
        if eval_dataset is not None and not isinstance(eval_dataset, dict):
            eval_dataset = {"eval": eval_dataset}
        eval_datasets = eval_dataset or {}
        if "forget" in eval_datasets:
            raise InputError("eval_dataset: a set called 'forget' would hide the forget set's own scores; rename it")
        eval_rows = {name: encode_dataset(rows, name=name, **encode) for name, rows in eval_datasets.items()}

        if isinstance(model, str):
            model = load_model(model, quantization_config=quantization_config, device=args.device)
        elif quantization_config is not None:
            raise InputError("quantization_config is for a model that is still to be loaded; pass its id or folder")
        self.reference = ReferencePolicy(self, adapter_is_fresh=peft_config is not None)
        if peft_config is not None:
            set_seed(args.seed)  # the Trainer does so later: too late for the adapter's first weights
            model = with_adapter(model, peft_config)
        elif isinstance(model, PeftModel):
            remember_base(model)
        elif getattr(model, "is_quantized", False):
            raise InputError(
                "quantized weights cannot be trained; pass peft_config=LoraConfig(...), or load them whole"
            )
        trained = (rows or [] for rows in self.row_sets.values())
        rows = [*itertools.chain(*trained, *eval_rows.values())]
        check_rows_fit(model.config, rows, processing_class.pad_token_id, f"model {model.config._name_or_path!r}")

        with as_input_errors(ValueError, ImportError, OSError):  # a missing package, a device without bf16, ...
            super().__init__(
                model=model,
                args=args,
                data_collator=UnlearnCollator(processing_class.pad_token_id),
                train_dataset=PairedDataset(self.row_sets),
                eval_dataset=eval_datasets or forget_dataset,  # evaluate() always scores the forget set
                processing_class=processing_class,
                callbacks=[*(callbacks or []), UnlearnCallback(self)],
                optimizers=optimizers,
            )
            self.get_optimizer_cls_and_kwargs(args, model)  # its package may be missing: better now than later
        check_model(self, adapter_is_made=peft_config is not None)
        check_saves_whole(self)
        self.step_batches: list[dict[str, torch.Tensor]] = []  # this process's micro-batches of the optimizer step
        self.scores = TrainingScores(self, eval_rows)
        self.log_sums = LogSums(self.accelerator, args.device)
        self.checkpoints = Checkpoints(self)
        if self.pop_callback(ProgressCallback) is not None:
            self.add_callback(UnlearnProgressCallback)
        self.loss_is_scaled_for_ga = True  # compute_loss divides by the counts of the whole accumulated batch
        self.model_accepts_loss_kwargs = True  # the same, for older versions of the Trainer

    @property
    def forget_rows(self) -> list[EncodedRow]:
        """The encoded forget rows."""
        return self.row_sets["forget"]

    @property
    def stopped_by(self) -> str | None:
        """The stop_at_forget_* thresholds that ended the training, with the scores; None: its steps did."""
        return self.scores.stopped_by

    @property
    def described(self) -> dict[str, Any]:
        """What results say of the method: its name, what to call it in sentences, and where it was published."""
        title, paper = self.method_title or self.method_name, self.paper and self.paper._asdict()
        return {"method": self.method_name, "method_title": title, "paper": paper}

    # ---- what a method defines -------------------------------------------------------------------------------------

    def forget_loss(self, answers: Answers) -> torch.Tensor:
        """One value per row or answer token of `answers.forget`; of `answers.alternate` where `roles` has no FORGET."""
        raise TypeError(f"{type(self).__name__} must define forget_loss(self, answers)")

    def alternates(self, forget_dataset: Dataset, args: UnlearnConfig) -> list[str]:
        """Another answer to each forget question, or several such lists in one, of which every epoch draws."""
        raise TypeError("a trainer that needs alternates must define alternates(forget_dataset, args)")

    def regularizer(self, answers: Answers) -> torch.Tensor | None:
        """An extra loss, one value per forget row, or None."""
        return None

    @property
    def part_weights(self) -> dict[str, float]:
        """Weight of each part of the total loss."""
        args = self.args
        weights = {"forget": args.forget_weight, "retain": args.retain_weight, "general": args.general_weight}
        return weights | {"regularizer": 1.0}

    def observe_parts(self, parts: dict[str, torch.Tensor]) -> None:
        """Called with the parts of the loss before the backward, for methods that log more (see `add_to_log`)."""

    def method_state(self) -> dict[str, torch.Tensor]:
        """What the method carries from step to step, the same on all processes; it goes into every checkpoint."""
        return {}

    def load_method_state(self, state: dict[str, torch.Tensor]) -> None:
        """Take over what `method_state` gave at a checkpoint; {}: training begins."""

    def retain_loss(self, answers: Answers) -> torch.Tensor:
        """The loss on `answers.retain`: one value per answer token."""
        return keeping_loss(answers.retain, self.args.retain_loss)

    def general_loss(self, answers: Answers) -> torch.Tensor:
        """The loss on `answers.general`, rows that protect abilities: one value per answer token."""
        return keeping_loss(answers.general, self.args.general_loss)

    def compute_answers(self, model: nn.Module, inputs: dict[str, torch.Tensor]) -> Answers:
        """The one wrapped forward of a step."""
        unwrapped = self.accelerator.unwrap_model(model)
        chunk_size, split_long = self.args.logits_chunk_size, not self.args.sharded_by
        layers = self.hidden_layers
        return forward_answers(
            model, inputs, unwrapped, chunk_size=chunk_size, split_long=split_long, hidden_layers=layers
        )

    def passes(self, model: nn.Module, counts: torch.Tensor) -> Sequence[Pass]:
        """The forwards of a micro-batch, each with its backward; `counts` as in `compute_loss`."""
        return [Pass(self.roles)]

    # ---- loss ------------------------------------------------------------------------------------------------------

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The weighted sum of forget, retain and general loss and regularizer, each a mean over the global batch."""
        answers = self.compute_answers(model, inputs)
        self.reference.add_to(answers, inputs)
        counts = num_items_in_batch if num_items_in_batch is not None else count_items([inputs], self.accelerator)
        self.forget_rows_in_step = counts[FORGET][0]  # in the global batch, for what methods log
        parts, role = {}, next((role for role in (FORGET, ALTERNATE) if role in self.roles), None)
        if role is not None:
            parts["forget"] = global_mean(self.forget_loss(answers), answers.with_role(role), counts[role])
        if self.row_sets["retain"] is not None:
            parts["retain"] = global_mean(self.retain_loss(answers), answers.retain, counts[RETAIN], True)
        if self.row_sets["general"] is not None:
            parts["general"] = global_mean(self.general_loss(answers), answers.general, counts[GENERAL], True)
        penalty = self.regularizer(answers)
        if penalty is not None:
            parts["regularizer"] = global_mean(penalty, answers.forget, counts[FORGET])
        self.observe_parts(parts)
        # A process whose share is only filler has a sum over no token here: zero, but with a graph for its backward.
        loss = sum(self.part_weights[name] * value for name, value in parts.items())
        self._sum_up(parts, answers, counts)
        if self.is_deepspeed_enabled:
            raise_if_diverged(self, (~loss.detach().isfinite()).float())
        # Data parallelism averages gradients over processes, while the parts above already are shares of a global mean.
        loss = loss * self.accelerator.num_processes
        return (loss, answers) if return_outputs else loss

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """The micro-batches of one optimizer step, with the rows and answer tokens of the *global* batch by role."""
        self.step_batches = [*itertools.islice(epoch_iterator, num_batches)]
        return self.step_batches, count_items(self.step_batches, self.accelerator) if self.step_batches else None

    @torch.no_grad()
    def _sum_up(self, parts: dict[str, torch.Tensor], answers: Answers, counts: torch.Tensor) -> None:
        """Add this micro-batch's share to what the next log line shows."""
        for name, value in parts.items():
            self.add_to_log(f"{name}/loss", value.detach())
        for name, role in PART_ROLES.items():
            # Also where this process has none of those rows: log() sums over processes by name.
            if self.row_sets[name] and role in self.roles:
                part = getattr(answers, name)
                probability = (part.logps.detach() / part.lengths).exp().sum() / counts[role][0]
                self.add_to_log(f"{name}/probability", probability)
                if name in parts:
                    self.log_sums.add_nll(name, -part.token_logps.detach().sum() / counts[role][1])

    def add_to_log(self, name: str, value: torch.Tensor) -> None:
        """Add a micro-batch's share of a global mean; log lines show the mean over their steps.

        Every process must add to the same names, zero where it has no such rows.
        """
        self.log_sums.add(name, value, self.state.global_step)

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        """As in transformers, for each of the `passes`. (Its own sum of the losses starts anew where a run is resumed
        between two log lines.)
        """
        *first, last = self.passes(model, num_items_in_batch)
        loss = 0.0
        for each in first:  # processes exchange gradients once, in the backward below
            with self.accelerator.no_sync(model), each.scope:
                rows = only_roles(inputs, each.roles)
                loss = loss + super().training_step(model, rows, num_items_in_batch)
        with last.scope:
            rows = inputs if set(PART_ROLES.values()) <= {*last.roles} else only_roles(inputs, last.roles)
            loss = loss + super().training_step(model, rows, num_items_in_batch)
        self.add_to_log("loss", loss / self.accelerator.num_processes)
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add to a log line of steps what they have summed up."""
        super().log({**logs, **self.log_sums.take()} if "loss" in logs else logs, start_time)

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval") -> dict[str, float]:
        """Score the forget set and every `eval_dataset`; logs and returns mean probability and exact match of each."""
        given = None
        if eval_dataset is not None:
            given = encode_dataset(eval_dataset, self.processing_class, self.args.max_length, metric_key_prefix)
        metrics = self.scores.of_all_sets(metric_key_prefix, given)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    # ---- training --------------------------------------------------------------------------------------------------

    def train(self, resume_from_checkpoint=None, **kwargs):
        """Train; see `transformers.Trainer.train`.

        Args:
            resume_from_checkpoint: a folder, or "last" (or True): the newest complete checkpoint in `output_dir`, if
                there is one. A resumed run goes on exactly where it was.

        Raises:
            InputError: no complete checkpoint there, a damaged one, or one of another method, model, rows or settings;
                or a run that begins, and would save checkpoints where another run has.
            DivergenceError: a gradient became NaN or infinite, or answers less likely than `max_forget_nll` and
                `max_retain_nll` allow. The weights before that step are in `output_dir`.
            StorageError: a checkpoint could not be written; earlier ones are as they were.
        """
        check_hidden_layers(self)  # again: a method may have set them when it was made
        checkpoint = self.checkpoints.prepare_to_resume(resume_from_checkpoint)
        self.reference.prepare()
        look_for_unused_parameters_if_there_are(self)
        try:
            return super().train(resume_from_checkpoint=checkpoint and str(checkpoint), **kwargs)
        except DivergenceError as error:
            self.model.zero_grad()
            self.log_sums.clear()  # of a step that was not taken
            with failing_together(self.args.output_dir):
                self.save_model(self.args.output_dir)
                self.save_state()
            kept = last_checkpoint(self.args.output_dir)
            earlier = f", those of an earlier step in {kept.name}" if kept else ""
            raise DivergenceError(
                f"{error}. The weights before that step are in {self.args.output_dir}{earlier}"
            ) from None

    def before_update(self) -> None:
        """Called when all micro-batches of a step have gone through the loss, for methods that look at a whole step."""

    def check_divergence(self) -> None:
        """Refuse the update of a step that says that the run has diverged; all processes find the same."""
        if not self.is_deepspeed_enabled:  # it has made the update when this is called: see compute_loss
            not_finite = torch.zeros((), device=self.args.device)
            if self.accelerator.scaler is None:  # fp16 meets infinities by design and skips those steps by itself
                not_finite += count_not_finite(self.model.parameters())
            raise_if_diverged(self, not_finite)
        self.log_sums.step_nll = {}

    @property
    def is_whole(self) -> bool:
        """Whether this process holds the trained model as it will be used: no shard of it, no rounded weights."""
        quantized = getattr(self.accelerator.unwrap_model(self.model), "is_quantized", False)
        return not (self.is_fsdp_enabled or is_deepspeed_zero3_enabled() or quantized)

    # ---- files -----------------------------------------------------------------------------------------------------

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model; unlike in transformers that uploads nothing, and of a checkpoint every process learns at once
        that it could not be written.
        """
        if not _internal_call or output_dir is None:
            return super().save_model(output_dir, _internal_call=True)
        with failing_together(Path(self.args.output_dir, Path(output_dir).name)):  # before processes meet again
            super().save_model(output_dir, _internal_call=True)

    def _save_checkpoint(self, model, trial) -> None:
        self.checkpoints.save(lambda: super(UnlearnTrainer, self)._save_checkpoint(model, trial))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.is_fsdp_enabled:
            self.checkpoints.save_sharded_optimizer(output_dir)
        else:
            super()._save_optimizer_and_scheduler(output_dir)

    def push_to_hub(
        self,
        commit_message: str | None = None,
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **card_fields,
    ) -> CommitInfo:
        """Save the model in `output_dir` and upload it with its card and what was measured; see `hub.push_run`.

        Every process calls it and gets the same commit, or the same error; the main one uploads, and the others wait no
        longer than `args.ddp_timeout` seconds. Where `output_dir` has no scores (no recipe judged the model), the card
        says that nothing was examined.

        Args:
            private: default: `args.hub_private_repo`, which is true unless it says otherwise.

        Raises:
            InputError: nobody is logged in, the results in `output_dir` are of other weights, or arguments that belong
                to an upload in the background or to the card of transformers.
            LeakError, HubError: as `hub.push_run`.
        """
        refused = card_fields | ({} if blocking else {"blocking=False": None})
        return push(self, commit_message, token, revision, private, **refused)

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Creates no repository: the upload does, when there is something to send."""

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Uploads no checkpoint: they hold optimizer states, arguments and paths."""

    # ---- batches ---------------------------------------------------------------------------------------------------

    def _get_train_sampler(self, train_dataset=None) -> PairSampler:
        processes = self.accelerator.num_processes
        retain_count, general_count = (rows and len(rows) for rows in map(self.row_sets.get, ("retain", "general")))
        multiple = self._train_batch_size * processes if processes > 1 else 1
        draws = len(self.row_sets["alternate"] or self.forget_rows) // len(self.forget_rows)
        self._sampler = PairSampler(len(self.forget_rows), retain_count, self.args.seed, multiple, general_count, draws)
        return self._sampler

    def set_sampler_epoch(self, epoch: int) -> None:
        """Set here, because Accelerate forgets it when it skips batches on resume with several processes."""
        self._sampler.set_epoch(epoch)
