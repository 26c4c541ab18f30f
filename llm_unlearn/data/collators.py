"""From encoded rows to one padded batch in which forget and retain rows travel together, each with its role.

Pairing is a deterministic function of (seed, epoch, position), so that a resumed run sees the same batches and no two
processes draw the same retain rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Dataset, Sampler

FORGET, RETAIN, PADDING = 0, 1, -1
EncodedRow = dict[str, list[int]]  # input_ids, labels (-100 where no answer token is)


class PairedDataset(Dataset):
    """Forget rows with their retain partners; indexed by the pairs that `PairSampler` yields."""

    def __init__(self, forget_rows: Sequence[EncodedRow], retain_rows: Sequence[EncodedRow] | None):
        self.forget_rows, self.retain_rows = forget_rows, retain_rows

    def __len__(self) -> int:
        return len(self.forget_rows)

    def __getitem__(self, pair: tuple[int, int] | None) -> dict:
        if pair is None:  # filler that evens out the last batch over processes; it carries no answer token
            first = self.forget_rows[0]["input_ids"][:1]
            return {"forget": {"input_ids": first, "labels": [-100], "role": PADDING, "index": -1}}
        forget_index, retain_index = pair
        item = {"forget": {**self.forget_rows[forget_index], "role": FORGET, "index": forget_index}}
        if self.retain_rows is not None:
            item["retain"] = {**self.retain_rows[retain_index], "role": RETAIN, "index": retain_index}
        return item


class PairSampler(Sampler):
    """Yields (forget index, retain index): every forget row once an epoch, retain rows in passes without repetition.

    `multiple`: the number of pairs is filled up (with None) to a multiple of this, so that Accelerate never has to
    repeat rows to even out processes. Repeated rows would weigh double, and k processes would no longer equal one
    process that accumulates k batches.
    """

    def __init__(self, forget_count: int, retain_count: int | None, seed: int, multiple: int = 1):
        self.forget_count, self.retain_count = forget_count, retain_count
        self.seed, self.multiple, self.epoch = seed, multiple, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.forget_count // self.multiple) * self.multiple

    def __iter__(self) -> Iterator[tuple[int, int] | None]:
        order = _permutation(self.forget_count, self.seed, self.epoch)
        for position, forget_index in enumerate(order):
            yield forget_index, self._retain_index(self.epoch * self.forget_count + position)
        yield from [None] * (len(self) - self.forget_count)

    def _retain_index(self, draw: int) -> int:
        """The `draw`-th retain row of the whole run: pass after pass over the retain set, each newly shuffled."""
        if self.retain_count is None:
            return -1
        completed_passes, position = divmod(draw, self.retain_count)
        key = (completed_passes, self.retain_count)
        if getattr(self, "_cached_key", None) != key:  # one permutation per pass, not one per row
            self._cached_key = key
            self._cached_order = _permutation(self.retain_count, self.seed + 1, completed_passes)
        return self._cached_order[position]


def _permutation(count: int, seed: int, pass_number: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed * 1_000_003 + pass_number)
    return torch.randperm(count, generator=generator).tolist()


class UnlearnCollator:
    """One right-padded batch: forget rows first, then retain rows.

    Returns `input_ids`, `attention_mask` and `labels`, shape (rows, length), `roles` and `indices`, shape (rows,).
    Masks come from lengths, never from `ids != pad`: many tokenizers pad with their end token.
    """

    def __init__(self, pad_token_id: int):
        self.pad_token_id = pad_token_id

    def __call__(self, items: list[dict]) -> dict[str, torch.Tensor]:
        rows = [item["forget"] for item in items] + [item["retain"] for item in items if "retain" in item]
        batch = pad_rows(rows, self.pad_token_id)
        batch["roles"] = torch.tensor([row["role"] for row in rows])
        batch["indices"] = torch.tensor([row["index"] for row in rows])
        return batch


def pad_rows(rows: Sequence[EncodedRow], pad_token_id: int) -> dict[str, torch.Tensor]:
    """Right-padded `input_ids`, `attention_mask` and `labels`, each (rows, longest row)."""
    length = max(len(row["input_ids"]) for row in rows)
    input_ids = torch.full((len(rows), length), pad_token_id)
    attention_mask = torch.zeros((len(rows), length), dtype=torch.long)
    labels = torch.full((len(rows), length), -100)
    for i, row in enumerate(rows):
        end = len(row["input_ids"])
        input_ids[i, :end] = torch.tensor(row["input_ids"])
        attention_mask[i, :end] = 1
        labels[i, :end] = torch.tensor(row["labels"])
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
