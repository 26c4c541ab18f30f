"""Batches that are shared out, noted in a journal, and not run again."""

import json
from types import SimpleNamespace

import pytest

from llm_unlearn.files.batches import BatchRunner


def run(runner, batches=("a", "b", "c"), costs=(1, 1, 1), fails_at=None):
    """Outcomes, and which batches were computed."""
    computed = []

    def compute(i):
        if batches[i] == fails_at:
            raise KeyboardInterrupt
        computed.append(batches[i])
        return [batches[i].upper()]

    try:
        return runner.run("test", batches, costs, compute), computed
    except KeyboardInterrupt:
        return None, computed


def test_alone_and_without_a_journal():
    assert run(BatchRunner()) == ([["A"], ["B"], ["C"]], ["a", "b", "c"])


def test_what_is_in_the_journal_is_not_run_again(tmp_path):
    runner = BatchRunner(journal=tmp_path / "journal")
    assert run(runner, fails_at="c") == (None, ["a", "b"])
    assert run(runner) == ([["A"], ["B"], ["C"]], ["c"])
    assert run(runner, batches=("c", "new", "a")) == ([["C"], ["NEW"], ["A"]], ["new"])


def test_a_line_that_a_crash_cut_off_is_run_again(tmp_path):
    runner = BatchRunner(journal=tmp_path)
    run(runner)
    file = tmp_path / "0.jsonl"
    file.write_text(file.read_text()[:-3])
    assert run(runner) == ([["A"], ["B"], ["C"]], ["c"])
    assert run(runner) == ([["A"], ["B"], ["C"]], [])
    lines = file.read_text().splitlines()
    assert [json.loads(line)[1] for line in (lines[0], lines[1], lines[3])] == [["A"], ["B"], ["C"]]


@pytest.mark.parametrize("process", [0, 1])
def test_costly_batches_are_shared_out_evenly(process):
    runner = BatchRunner(SimpleNamespace(num_processes=2, process_index=process, is_main_process=process == 0))
    assert runner._share([0, 1, 2, 3, 4], costs=[1, 5, 2, 2, 2]) == ([1, 0], [2, 3, 4])[process]
