"""WHP (Who's Harry Potter): train each forget answer token towards what a model that does not know would say.

Generic logits v = v_before - alpha relu(v_reinforced - v_before), where the reinforced model is the one at hand,
trained further on the forget rows: what it raises is what is special to them. Loss = cross-entropy of argmax v at
every answer token, fixed before training. Where that is still the true token, it goes on being trained.

The publication also replaces names by others before it asks for v; here nothing is replaced, and rows that the model
knows by heart leave the reinforcement little to raise (docs/methods/whp.md).

Source: Eldan and Russinovich 2023, "Who's Harry Potter?", arXiv 2310.02238, eq. 1 (alpha 5).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch

from llm_unlearn.arguments.ranges import COUNT, POSITIVE, check_ranges
from llm_unlearn.data.collators import FORGET, UnlearnCollator
from llm_unlearn.files.outcomes import remember, weights_digest
from llm_unlearn.methods.method import Method
from llm_unlearn.models.answers import Answers, forward_answers
from llm_unlearn.models.finetuning import finetune
from llm_unlearn.models.scoring import evaluation_mode
from llm_unlearn.training.config import UnlearnConfig
from llm_unlearn.training.paper import Paper
from llm_unlearn.training.trainer import UnlearnTrainer

FILE = "generic_labels.json"


@dataclass
class WHPConfig(UnlearnConfig):
    """Arguments of `WHPTrainer`."""

    alpha: float = field(default=5.0, metadata={"help": "How far what reinforcement raises is lowered (paper: 5)."})
    reinforce_steps: int = field(default=60, metadata={"help": "Steps that the reinforced model is trained for."})
    reinforce_learning_rate: float = field(default=1e-3, metadata={"help": "Its learning rate."})

    def __post_init__(self):
        super().__post_init__()
        self.refuse_sharding("its reinforced model is trained whole")
        check_ranges(self, {"alpha": POSITIVE, "reinforce_steps": COUNT, "reinforce_learning_rate": POSITIVE})


class WHPTrainer(UnlearnTrainer):
    """Training on generic labels; `args` is a `WHPConfig`."""

    config_class = WHPConfig
    method_name, method_title = "whp", "WHP"
    paper = Paper("2310.02238", "Eldan and Russinovich", 2023, "Who's Harry Potter? Approximate Unlearning in LLMs")
    needs = frozenset({"logits"})
    _generic: list[torch.Tensor] | None = None

    def train(self, resume_from_checkpoint=None, **keywords):
        if self._generic is None:
            args = self.args
            key = [weights_digest(self.model), [[row["input_ids"], row["labels"]] for row in self.forget_rows]]
            key += [args.alpha, args.reinforce_steps, args.reinforce_learning_rate, self._rows_in_step, args.seed]
            file = Path(args.output_dir) / FILE
            labels = remember(file, key, lambda: {"labels": self._generic_labels()})["labels"]
            self._generic = [torch.tensor(row, device=args.device) for row in labels]
        return super().train(resume_from_checkpoint, **keywords)

    def forget_loss(self, answers: Answers) -> torch.Tensor:
        forget = answers.forget
        labels = [self._generic[number] for number in forget.indices.tolist()]
        labels = torch.cat(labels) if labels else forget.labels
        return torch.nn.functional.cross_entropy(forget.logits.float(), labels, reduction="none")

    @property
    def _rows_in_step(self) -> int:
        """Forget rows of a step of training, and so of the reinforcement: alike however a batch is divided."""
        args = self.args
        return args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size

    def _generic_labels(self) -> list[list[int]]:
        """argmax v at each answer token of each forget row; the model is afterwards as it was."""
        model, args = self.accelerator.unwrap_model(self.model).to(self.args.device), self.args
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        before = [parameter.detach().clone() for parameter in trained]
        devices = [args.device] if args.device.type == "cuda" else []
        with torch.random.fork_rng(devices):  # dropout draws; training must not depend on whether the labels were kept
            torch.manual_seed(args.seed)
            finetune(
                model,
                self.forget_rows,
                learning_rate=args.reinforce_learning_rate,
                steps=args.reinforce_steps,
                batch_size=self._rows_in_step,
                micro_batch_size=args.per_device_train_batch_size,
                seed=args.seed,
            )
        reinforced = [parameter.detach().clone() for parameter in trained]
        collate, labels, size = UnlearnCollator(self.processing_class.pad_token_id), [], args.per_device_eval_batch_size
        with evaluation_mode(model), torch.no_grad():
            for start in range(0, len(self.forget_rows), size):  # batch by batch: logits of all rows would be large
                rows = self.forget_rows[start : start + size]
                batch = collate([{"forget": {**row, "role": FORGET, "index": i}} for i, row in enumerate(rows)])
                batch = {name: value.to(args.device) for name, value in batch.items()}
                torch._foreach_copy_(trained, reinforced)
                raised = forward_answers(model, batch).logits.float()
                torch._foreach_copy_(trained, before)
                answers = forward_answers(model, batch)
                v = answers.logits.float()
                generic = (v - args.alpha * (raised - v).relu()).argmax(-1)
                labels += [row.tolist() for row in generic.split(answers.lengths.tolist())]
        model.zero_grad()
        return labels


METHOD = Method(
    WHPTrainer,
    summary="Unlearn with WHP (Who's Harry Potter): train what a model would say that does not know",
    search_space={"alpha": (2.0, 5.0, 20.0), "reinforce_steps": (30, 100)},
)
