"""From encoded rows to one padded batch in which rows of several roles travel together, each with its role.

Which rows meet is a deterministic function of (seed, epoch, position), so that a resumed run sees the same batches and
no two processes draw the same retain or general rows.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch.utils.data import Dataset, Sampler

FORGET, RETAIN, GENERAL, ALTERNATE, PADDING = 0, 1, 2, 3, -1
# By name, in the order of a batch. Alternate: another answer to the question of each forget row.
PART_ROLES = {"forget": FORGET, "alternate": ALTERNATE, "retain": RETAIN, "general": GENERAL}
# input_ids, labels (-100 where no answer token is), and weights of the answer tokens where a loss weighs them
EncodedRow = dict[str, list]


class PairedDataset(Dataset):
    """Forget rows with their alternate, retain and general partners; indexed by what `PairSampler` yields.

    Args:
        row_sets: role -> rows, None where there are none; of alternates one for each forget row, or several such lists
            in one.
    """

    def __init__(self, row_sets: Mapping[str, Sequence[EncodedRow] | None]):
        self.forget_rows = row_sets["forget"]
        self._row_sets = {name: row_sets.get(name) for name in PART_ROLES}

    def __len__(self) -> int:
        return len(self.forget_rows)

    def __getitem__(self, indices: tuple[int, ...] | None) -> dict:
        if indices is None:  # filler that evens out the last batch over processes; it carries no answer token
            first = self.forget_rows[0]["input_ids"][:1]
            return {"forget": {"input_ids": first, "labels": [-100], "role": PADDING, "index": -1}}
        forget, retain, general, *drawn = indices
        chosen = (forget, drawn[0] if drawn else forget, retain, general)
        return {
            name: {**rows[index], "role": PART_ROLES[name], "index": index}
            for (name, rows), index in zip(self._row_sets.items(), chosen, strict=True)
            if rows is not None
        }


class PairSampler(Sampler):
    """Yields (forget index, retain index, general index): every forget row once an epoch, the others in passes without
    repetition; -1 where there are no such rows. Where there are several lists of alternates (`draws`), a fourth number
    says which of them: every epoch draws a row's alternate anew.

    `multiple`: their number is filled up (with None) to a multiple of this, so that Accelerate never has to
    repeat rows to even out processes. Repeated rows would weigh double, and k processes would no longer equal one
    process that accumulates k batches.
    """

    def __init__(
        self,
        forget_count: int,
        retain_count: int | None,
        seed: int,
        multiple: int = 1,
        general_count: int | None = None,
        draws: int = 1,
    ):
        self.forget_count, self.seed, self.multiple, self.epoch = forget_count, seed, multiple, 0
        self.draws = draws
        self._partners = [_Passes(retain_count, seed + 1), _Passes(general_count, seed + 2)]

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.forget_count // self.multiple) * self.multiple

    def __iter__(self) -> Iterator[tuple[int, int, int] | None]:
        order = _permutation(self.forget_count, self.seed, self.epoch)
        for position, forget_index in enumerate(order):
            draw = self.epoch * self.forget_count + position
            retain_index, general_index = (rows.index(draw) for rows in self._partners)
            if self.draws == 1:
                yield forget_index, retain_index, general_index
            else:
                drawn = random.Random(f"{self.seed} {self.epoch} {forget_index}").randrange(self.draws)
                yield forget_index, retain_index, general_index, forget_index + self.forget_count * drawn
        yield from [None] * (len(self) - self.forget_count)


class _Passes:
    """The rows of a set in the order of a whole run: pass after pass over it, each newly shuffled."""

    def __init__(self, count: int | None, seed: int):
        self.count, self.seed = count, seed
        self._shuffled: tuple[int, list[int]] = (-1, [])  # the pass at hand and its order: one for all of its rows

    def index(self, draw: int) -> int:
        """The `draw`-th row of the run; -1 where there is no such set."""
        if self.count is None:
            return -1
        completed_passes, position = divmod(draw, self.count)
        if self._shuffled[0] != completed_passes:
            self._shuffled = completed_passes, _permutation(self.count, self.seed, completed_passes)
        return self._shuffled[1][position]


def _permutation(count: int, seed: int, pass_number: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed * 1_000_003 + pass_number)
    return torch.randperm(count, generator=generator).tolist()


class UnlearnCollator:
    """One right-padded batch: forget rows first (and filler), then alternate, retain, general rows, the longest last.

    Returns `input_ids`, `attention_mask` and `labels`, shape (rows, length), `roles` and `indices`, shape (rows,).
    Masks come from lengths, never from `ids != pad`: many tokenizers pad with their end token.
    """

    def __init__(self, pad_token_id: int):
        self.pad_token_id = pad_token_id

    def __call__(self, items: list[dict]) -> dict[str, torch.Tensor]:
        parts = {name: [item[name] for item in items if name in item] for name in PART_ROLES}
        parts["general"].sort(key=lambda row: len(row["input_ids"]))  # so that long ones can be run apart
        rows = [row for part in parts.values() for row in part]
        batch = pad_rows(rows, self.pad_token_id)
        batch["roles"] = torch.tensor([row["role"] for row in rows])
        batch["indices"] = torch.tensor([row["index"] for row in rows])
        return batch


def pad_rows(rows: Sequence[EncodedRow], pad_token_id: int) -> dict[str, torch.Tensor]:
    """Right-padded `input_ids`, `attention_mask` and `labels`, each (rows, longest row); `weights`, too, where a row
    has any: 1 in rows without.
    """
    length = max(len(row["input_ids"]) for row in rows)
    input_ids = torch.full((len(rows), length), pad_token_id)
    attention_mask = torch.zeros((len(rows), length), dtype=torch.long)
    labels = torch.full((len(rows), length), -100)
    for i, row in enumerate(rows):
        end = len(row["input_ids"])
        input_ids[i, :end] = torch.tensor(row["input_ids"])
        attention_mask[i, :end] = 1
        labels[i, :end] = torch.tensor(row["labels"])
    batch = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
    if any("weights" in row for row in rows):
        batch["weights"] = torch.ones((len(rows), length))
        for i, row in enumerate(rows):
            if "weights" in row:
                batch["weights"][i, : len(row["weights"])] = torch.tensor(row["weights"])
    return batch
