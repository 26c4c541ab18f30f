"""Batches of work that no crash loses and any number of processes can share, with the same results either way."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from tqdm.auto import tqdm

SHOWN_AFTER = 3.0  # seconds until a bar is there


@dataclass
class BatchRunner:
    """Runs batches one after the other; by default in this process, keeping nothing.

    Attributes:
        state: the processes that share the work, each with the same model; None: this one works alone. Whole batches
            are handed out, so that what is computed does not depend on the number of processes.
        journal: folder where every finished batch is noted at once; batches that are noted there are not run again. It
            must belong to one model: what a batch is called says what is asked, not of whom.
        show_progress: a bar on the main process, where it takes more than a few seconds.
    """

    state: PartialState | None = None
    journal: Path | None = None
    show_progress: bool = False

    def run(
        self,
        title: str,
        batches: Sequence[Hashable],
        costs: Sequence[float],
        compute: Callable[[int], Any],
    ) -> list[Any]:
        """`compute(i)` for every batch i, in their order and on all processes.

        Args:
            title: of the progress bar.
            batches: all that the outcome of each batch depends on, besides the model (anything with a stable `repr`);
                the journal knows it by a hash of that.
            costs: expected cost of each batch, in any unit: the work is shared out evenly by it.
            compute: returns JSON values.
        """
        names = [hashlib.sha256(repr(batch).encode()).hexdigest() for batch in batches]
        done = self._read_journal(set(names))
        mine = self._share([i for i, name in enumerate(names) if name not in done], costs)
        hidden = not self.show_progress or not (self.state is None or self.state.is_main_process)
        for i in tqdm(mine, desc=title, unit="batch", disable=hidden, delay=SHOWN_AFTER, dynamic_ncols=True):
            done[names[i]] = outcome = compute(i)
            self._note(names[i], outcome)
        if self.state is not None and self.state.num_processes > 1:
            done.update(gather_object([(names[i], done[names[i]]) for i in mine]))
        return [done[name] for name in names]

    def _share(self, numbers: list[int], costs: Sequence[float]) -> list[int]:
        """This process's part: costly batches first, each to the process that has least to do so far."""
        if self.state is None:
            return numbers
        loads = [0.0] * self.state.num_processes
        mine = []
        for i in sorted(numbers, key=lambda i: -costs[i]):
            process = loads.index(min(loads))
            loads[process] += costs[i]
            if process == self.state.process_index:
                mine.append(i)
        return mine

    def _read_journal(self, wanted: set[str]) -> dict[str, Any]:
        """What earlier runs finished, as the main process finds it: all processes must agree on what is left."""
        done: dict[str, Any] = {}
        if self.journal is None:
            return done
        if self.state is None or self.state.is_main_process:
            for file in sorted(self.journal.glob("*.jsonl")):
                for line in file.read_text(encoding="utf-8").splitlines():
                    try:
                        name, outcome = json.loads(line)
                    except ValueError:  # the line that a crash cut off
                        continue
                    if name in wanted:
                        done[name] = outcome
        if self.state is not None and self.state.num_processes > 1:
            shared = [done]
            broadcast_object_list(shared)
            (done,) = shared
        return done

    def _note(self, name: str, outcome: Any) -> None:
        if self.journal is None:
            return
        self.journal.mkdir(parents=True, exist_ok=True)
        process = 0 if self.state is None else self.state.process_index
        with open(self.journal / f"{process}.jsonl", "a", encoding="utf-8") as file:
            file.write("\n" * (file.tell() > 0) + json.dumps([name, outcome]))
