"""CMF: unlearning against class-mean features, so that no output head can look away from what stays.

Where a row decides on its value, z_c = T n(n(h) - mu) . n(m_c - mu) for each class c of its kind takes the place of the
head's logits: h is what the head is given, n divides by the length, m_c is the mean of n(h) over the class's rows as
they are labeled, a constant that is renewed every epoch, and mu the mean of the m_c that retain rows have.

loss = forget_weight * base loss on z of forget rows + class_weight * CE(class | z) of retain rows + retain_weight *
retain loss; base loss: CE(another class | z), drawn anew every epoch, or NPO on log softmax(z) of the true one. Only
blocks are trained: what follows them stays as it is, which is checked.

Source: Gao et al. 2026, "An Illusion of Unlearning?", arXiv 2604.08271, for image classes; carried over by us.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import nn

from llm_unlearn.arguments.ranges import COUNT, NOT_NEGATIVE, POSITIVE, check_ranges
from llm_unlearn.data.answer_classes import NO_CLASS, answer_classes
from llm_unlearn.data.collators import FORGET, EncodedRow
from llm_unlearn.data.queries import spread
from llm_unlearn.methods.method import Method
from llm_unlearn.models.answers import Answers
from llm_unlearn.models.outside_blocks import train_blocks_alone, unchanged_outside_blocks
from llm_unlearn.models.scoring import evaluation_mode
from llm_unlearn.training.config import UnlearnConfig
from llm_unlearn.training.losses import npo_loss
from llm_unlearn.training.paper import Paper
from llm_unlearn.training.trainer import UnlearnTrainer

BASE_LOSSES = ("random_label", "npo")
HEAD = -1  # among `hidden_states`, where blocks have their numbers: what the output head is given


@dataclass
class CMFConfig(UnlearnConfig):
    """Arguments of `CMFTrainer`."""

    base_loss: str = field(
        default="random_label",
        metadata={
            "help": "Of forget rows, on their class logits: random_label (another class that retain rows have, drawn "
            "anew every epoch) or npo.",
            "choices": list(BASE_LOSSES),
        },
    )
    temperature: float = field(default=20.0, metadata={"help": "T: what cosines are multiplied with (16 to 30)."})
    beta: float = field(default=0.5, metadata={"help": "NPO's inverse temperature, with base_loss npo."})
    class_weight: float = field(default=1.0, metadata={"help": "Weight of retain rows' cross-entropy of classes."})
    class_rows: int = field(default=32, metadata={"help": "Rows that a class's mean is taken over, at most."})

    def __post_init__(self):
        super().__post_init__()
        self.refuse_sharding("its class means come from forwards of the whole model, and its head is compared whole")
        check_ranges(self, {"temperature": POSITIVE, "beta": POSITIVE, "class_weight": NOT_NEGATIVE})
        check_ranges(self, {"class_rows": COUNT})
        if self.base_loss not in BASE_LOSSES:
            raise ValueError(f"base_loss={self.base_loss!r} is unknown; choose one of {', '.join(BASE_LOSSES)}")
        if self.retain_loss == "none":
            raise ValueError("retain_loss='none' leaves CMF without retained classes; choose nll or kl")


def class_log_probs(
    states: torch.Tensor,
    row_kinds: torch.Tensor,
    means: torch.Tensor,
    kinds: torch.Tensor,
    retained: torch.Tensor,
    temperature: float,
) -> torch.Tensor:
    """log softmax(z) of each row over the classes of its kind, (rows, classes); -inf for those of other kinds.

    Args:
        states: h, (rows, width). row_kinds: number of each row's kind, (rows,).
        means: m_c, (classes, width). kinds, retained: of each class its kind, and whether retain rows have it.
    """
    with torch.autocast(states.device.type, enabled=False):  # a cosine of three digits is too coarse to be multiplied
        of_kind = (torch.arange(int(kinds.max()) + 1, device=kinds.device)[:, None] == kinds) & retained
        centers = (of_kind / of_kind.sum(1, keepdim=True)).to(means.dtype) @ means
        directions = F.normalize(means - centers[kinds], dim=-1)
        features = F.normalize(F.normalize(states.to(means.dtype), dim=-1) - centers[row_kinds], dim=-1)
        z = temperature * features @ directions.T
        return z.masked_fill(row_kinds[:, None] != kinds, -torch.inf).log_softmax(-1)


class CMFTrainer(UnlearnTrainer):
    """Forgets by class means, and trains blocks alone; `args` is a `CMFConfig`.

    Raises:
        InputError: rows without classes (`data.answer_classes`), or an adapter that trains more than blocks.
        RuntimeError: from `train`, something changed what stands outside the blocks.
    """

    config_class = CMFConfig
    method_name, method_title = "cmf", "CMF"
    paper = Paper("2604.08271", "Gao and others", 2026, "An Illusion of Unlearning?")
    needs = frozenset({"logits"})  # made in chunks, they come from a head that is called past its hooks

    def __init__(self, *arguments, **keywords):
        super().__init__(*arguments, **keywords)
        train_blocks_alone(self.model)
        datasets = {"forget": self.forget_dataset, "retain": self.retain_dataset}
        encoded = {name: self.row_sets[name] for name in datasets}
        self._classes = found = answer_classes(datasets, encoded, self.processing_class)
        self._kinds, self._retained = self._tensor(found.kinds), self._tensor(found.retained)
        self._labels = {name: self._tensor(labels) for name, labels in found.labels.items()}
        self._places = {name: self._tensor(places) for name, places in found.places.items()}
        self._others = [
            [c for c, kind in enumerate(found.kinds) if kind == found.kinds[label] and found.retained[c] and c != label]
            for label in found.labels["forget"]
        ]

    def forget_loss(self, answers: Answers) -> torch.Tensor:
        numbers = answers.forget.indices
        logps = self._log_probs(self._states(answers.forget, "forget"), "forget", numbers)
        true = logps.gather(1, self._labels["forget"][numbers, None])[:, 0]
        self.add_to_log("forget/class_probability", true.detach().exp().sum() / self.forget_rows_in_step)
        if self.args.base_loss == "npo":
            return npo_loss(true, self._reference_logps[numbers], self.args.beta, reduction="none")
        return -logps.gather(1, self._drawn[numbers, None])[:, 0]

    def regularizer(self, answers: Answers) -> torch.Tensor:
        """Cross-entropy of each retain row's class, of which rows one is beside each forget row; 0 without a class."""
        numbers = answers.retain.indices
        labels = self._labels["retain"][numbers]
        logps = self._log_probs(self._states(answers.retain, "retain"), "retain", numbers)
        return -logps.gather(1, labels.clamp(min=0)[:, None])[:, 0].where(labels != NO_CLASS, 0.0)

    @property
    def part_weights(self) -> dict[str, float]:
        return super().part_weights | {"regularizer": self.args.class_weight}

    def compute_answers(self, model: nn.Module, inputs: dict[str, torch.Tensor]) -> Answers:
        given: list[torch.Tensor] = []  # in the last call (answer tokens, width)
        head = self.accelerator.unwrap_model(model).get_output_embeddings()
        handle = head.register_forward_hook(lambda _head, arguments, _logits: given.append(arguments[0]))
        try:
            answers = super().compute_answers(model, inputs)
        finally:
            handle.remove()
        answers.hidden_states[HEAD] = given[-1]
        return answers

    def _states(self, part: Answers, name: str) -> torch.Tensor:
        """h of each row where it decides, (rows, width)."""
        first = part.lengths.cumsum(0) - part.lengths
        return part.hidden_states[HEAD][first + self._places[name][part.indices]]

    def _log_probs(self, states: torch.Tensor, name: str, numbers: torch.Tensor) -> torch.Tensor:
        row_kinds = self._kinds[self._labels[name][numbers].clamp(min=0)]
        return class_log_probs(states, row_kinds, self._means, self._kinds, self._retained, self.args.temperature)

    # ---- from epoch to epoch ---------------------------------------------------------------------------------------

    def set_sampler_epoch(self, epoch: int) -> None:
        super().set_sampler_epoch(epoch)
        if self._epoch != epoch:  # else the run goes on within an epoch, with the means that it had
            self._renew_means()
            self._epoch = epoch
        draws = [random.Random(f"{self.args.seed} {epoch} {row}").choice(c) for row, c in enumerate(self._others)]
        self._drawn = self._tensor(draws)

    def _renew_means(self) -> None:
        """The means of all classes as the model is now, the same on all processes."""
        of_class: dict[int, list[EncodedRow]] = defaultdict(list)
        for name, labels in self._classes.labels.items():
            for row, label in zip(self._classes.rows[name], labels, strict=True):
                of_class[label].append(row)
        chosen = [spread(of_class[label], self.args.class_rows) for label in range(len(self._kinds))]
        states = F.normalize(self._states_of([row for rows in chosen for row in rows]), dim=-1)
        self._means = torch.stack([part.mean(0) for part in states.split([len(rows) for rows in chosen])])
        if self.args.base_loss == "npo" and self._reference_logps is None:  # before the first step
            numbers = torch.arange(len(self.forget_rows), device=self.args.device)
            logps = self._log_probs(self._states_of(self._classes.rows["forget"]), "forget", numbers)
            self._reference_logps = logps.gather(1, self._labels["forget"][:, None])[:, 0]

    @torch.no_grad()
    def _states_of(self, rows: Sequence[EncodedRow]) -> torch.Tensor:
        """h of rows that end where they decide, (rows, width); each process runs its share of them."""
        model, size = self.accelerator.unwrap_model(self.model), self.args.per_device_eval_batch_size
        states = torch.zeros(len(rows), model.get_output_embeddings().in_features, device=self.args.device)
        own = range(self.accelerator.process_index, len(rows), self.accelerator.num_processes)
        own = sorted(own, key=lambda number: len(rows[number]["input_ids"]))
        with evaluation_mode(model):
            for start in range(0, len(own), size):
                numbers = own[start : start + size]
                items = [{"forget": {**rows[number], "role": FORGET, "index": number}} for number in numbers]
                answers = self.compute_answers(model, self._prepare_inputs(self.data_collator(items)))
                states[numbers] = answers.hidden_states[HEAD].to(states.dtype)
        return self.accelerator.reduce(states, "sum")

    def method_state(self) -> dict[str, torch.Tensor]:
        state = {"class_means": self._means, "epoch": torch.tensor(self._epoch)}
        return state if self._reference_logps is None else state | {"class_reference_logps": self._reference_logps}

    def load_method_state(self, state: dict[str, torch.Tensor]) -> None:
        self._means, self._reference_logps = state.get("class_means"), state.get("class_reference_logps")
        self._epoch = int(state.get("epoch", -1))

    def train(self, resume_from_checkpoint=None, **keywords):
        with unchanged_outside_blocks(self.model):
            return super().train(resume_from_checkpoint, **keywords)

    def _tensor(self, values: Sequence) -> torch.Tensor:
        return torch.tensor(values, device=self.args.device)


METHOD = Method(
    CMFTrainer,
    summary="Unlearn with CMF (class-mean features): hidden states leave the mean of their answer's class, before a "
    "frozen output head",
    # On seed 100; at temperature 20 the small world's classes are so certain that NPO never begins.
    embedded_defaults={"base_loss": "npo", "temperature": 5.0},
    search_space={"base_loss": BASE_LOSSES, "temperature": (5.0, 20.0), "class_weight": (0.3, 1.0, 3.0)},
    extra_forwards=2,  # an epoch's means: once more all rows, where there are as many to keep as to forget
)
