"""Whether open-unlearning's trainers and ours take the same steps: the same model, rows and optimizer, three steps.

Twice. First on rows of different lengths, as they are used. Then, of losses that differ by the positions that count, on
rows that are all answer and of one length, with labels where they are predicted: if nothing else differs, that must
agree.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainingArguments

from llm_unlearn.arguments.parsing import parse_arguments
from llm_unlearn.methods import load_method
from llm_unlearn.speed.depth_agreement import depth_agreement, depth_table
from llm_unlearn.speed.peer import PEERS, peer_trainer
from llm_unlearn.speed.workload import COMMON, TrainingSpeedArguments, random_llama, random_rows

SIZES = TrainingSpeedArguments(vocabulary=200, hidden_size=64, layers=2, row_length=14, answer_tokens=4)
LENGTHS = ((14, 4), (18, 7), (10, 2), (13, 3))  # tokens of a row, and of its answer
STEPS = 3
SHOULD_AGREE = 1e-5  # of the largest change
MOVED = {"pdu": ["forget"], "rmu": ["forget", "retain"]}  # masks that stand at the answer's own tokens
HEADER = ("", "as used", "positions alike", "set alike", "what differs")


@dataclass
class PeerArguments:
    """Whose trainers are compared with ours."""

    open_unlearning: str | None = field(
        default=None, metadata={"help": "Checkout of locuslab/open-unlearning, whose trainers are compared with ours."}
    )
    unlearning_depth: str | None = field(
        default=None, metadata={"help": "Checkout of gnueaj/unlearning-depth-score, whose UDS is compared with ours."}
    )


def peer_agreement(description: str, argv: list[str] | None = None) -> dict[str, dict[str, float | None]]:
    """Compare every trainer of `PEERS`, and print a table; return the differences by their module's name.

    Where a checkout of the unlearning depth score is given, its table is printed first.

    Raises:
        InputError: a folder is no checkout of what it should be.
    """
    (arguments,) = parse_arguments((PeerArguments,), argv, description=description)
    if arguments.unlearning_depth is not None:
        print(depth_table(depth_agreement(arguments.unlearning_depth)))
    elif arguments.open_unlearning is None:
        print(
            "nothing compared: give --open_unlearning FOLDER, a checkout of github.com/locuslab/open-unlearning, or "
            "--unlearning_depth FOLDER, one of github.com/gnueaj/unlearning-depth-score"
        )
    if arguments.open_unlearning is None:
        return {}
    found = {name: compared(name, arguments.open_unlearning) for name in PEERS}
    print(markdown_table(found))
    return found


def compared(name: str, folder: str) -> dict[str, float | None]:
    """The largest difference of a weight after three steps, as a share of the largest change of one.

    Of methods that differ by the positions that count, "positions alike" is the same where they do not.
    """
    used = [_mixed_rows(seed) for seed in (0, 1)]
    found = {"as used": _difference(name, folder, used), "positions alike": None}
    if PEERS[name].differs:
        even = [_even_rows(seed) for seed in (2, 3)]
        found["positions alike"] = _difference(name, folder, even, MOVED.get(name, ()))
    return found


def markdown_table(found: dict[str, dict[str, float | None]]) -> str:
    """One line for each of their trainers."""
    rows = [HEADER, ("---", "---:", "---:", "---", "---")]
    for name, values in found.items():
        peer = PEERS[name]
        shown = ["" if value is None else f"{value:.1e}" for value in values.values()]
        rows.append((peer.title, *shown, peer.set_alike, peer.differs))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _difference(name: str, folder: str, datasets: list[Dataset], moved: Sequence[str] = ()) -> float:
    peer, rows = PEERS[name], len(datasets[0])
    common = COMMON | {"learning_rate": 0.1, "optim": "sgd", "max_grad_norm": 0.0, "max_steps": STEPS, "use_cpu": True}
    common |= {"per_device_train_batch_size": rows, "remove_unused_columns": False, "dataloader_pin_memory": False}
    method = load_method(peer.method)
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer, model = _model()
        ours = method.trainer(
            model=model,
            args=method.config(output_dir=scratch, **common | dict(peer.config)),
            forget_dataset=datasets[0],
            retain_dataset=datasets[1],
            processing_class=tokenizer,
        )
        ours.remove_callback(PrinterCallback)
        before = _weights(model)
        args = TrainingArguments(output_dir=scratch, **common)
        theirs = peer_trainer(name, folder, args, _model()[1], tokenizer, datasets, moved)
        if hasattr(theirs, "control_vec"):  # drawn anew in each process
            theirs.control_vec = ours.target.double()[None, None]
        after = [_trained(trainer) for trainer in (ours, theirs)]
    change = max(float((after[0][key] - value).abs().max()) for key, value in before.items())
    return max(float((after[0][key] - after[1][key]).abs().max()) for key in before) / change


def _trained(trainer: Trainer) -> dict[str, torch.Tensor]:
    trainer.train()
    return _weights(trainer.model)


def _weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def _model():
    tokenizer, model = random_llama(SIZES)
    return tokenizer, model.double()  # so that what differs is no rounding


def _mixed_rows(seed: int) -> Dataset:
    sizes = [replace(SIZES, row_length=length, answer_tokens=answer) for length, answer in LENGTHS]
    return Dataset.from_list([random_rows(one, 1, 10 * seed + i)[0] for i, one in enumerate(sizes)])


def _even_rows(seed: int) -> Dataset:
    return Dataset.from_list([{"text": row["question"]} for row in random_rows(SIZES, len(LENGTHS), seed)])
