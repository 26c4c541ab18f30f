"""What was found inside a run's models: the picture and the table of a verdict."""

import io

import pytest
from made_up_runs import ROWS, run
from rich.console import Console

from llm_unlearn.errors import InputError
from llm_unlearn.examining.verdict import verdict_of
from llm_unlearn.reporting.inside_figure import inside_figure
from llm_unlearn.reporting.page_sections import evidence_section
from llm_unlearn.reporting.verdict_table import print_verdict


def probed(*right: float) -> dict:
    """Readouts of two blocks; the second counts."""
    return {
        "block": 1,
        "layers": [{"forgotten": value, "shuffled": 0.1} for value in right],
        "majority": 0.1,
        "value_by_index": {str(row): float(row % 10 < 10 * right[1]) for row in range(ROWS)},
    }


AUDITS = {
    "probes": {
        "original": probed(0.8, 0.9),
        "oracle": probed(0.1, 0.1),
        "oracle_1": probed(0.2, 0.1),
        "unlearned": probed(0.4, 0.5),
    },
    "depth": {"unlearned": {"uds": 0.6, "interval": [0.5, 0.7], "unclipped": 1.0, "by_layer": [0.5, None]}},
    "not_measured": {},
}


def test_a_panel_for_each_audit_with_oracles_as_a_band(tmp_path):
    figure = inside_figure({"audits": AUDITS}, tmp_path / "inside.png")
    probes, depth = figure.axes
    lines = {line.get_label(): list(line.get_ydata()) for line in probes.lines}
    assert lines["original"] == [0.8, 0.9] and lines["unlearned"] == [0.4, 0.5]
    assert lines["oracles (band: range)"] == pytest.approx([0.15, 0.1])
    assert len(probes.collections) == 1 and not depth.collections
    lines = {line.get_label(): list(line.get_ydata()) for line in depth.lines}
    assert lines["original"] == [0, 0] and lines["oracle"] == [1, 1]  # by construction
    assert lines["unlearned"][0] == 0.5 and lines["unlearned"][1] != lines["unlearned"][1]
    assert (tmp_path / "inside.png").stat().st_size > 0


@pytest.mark.parametrize("audits", [None, {"not_measured": {}}, {"probes": {"original": probed(0.8, 0.9)}}])
def test_without_an_unlearned_model_there_is_nothing_to_draw(audits, tmp_path):
    with pytest.raises(InputError, match="none was made of the unlearned model"):
        inside_figure({"audits": audits} if audits else {}, tmp_path / "inside.png")


def test_terminal_and_page_have_a_part_of_its_own():
    results, records = run(unlearned={})
    verdict = verdict_of(results | {"audits": AUDITS}, records)
    console = Console(record=True, width=100, file=io.StringIO())
    print_verdict(verdict, console)
    lines = [" ".join(line.split()) for line in console.export_text().splitlines()]
    assert any(line.startswith("values read off the hidden states 0.90 0.10 0.50 [") for line in lines)
    assert "unlearning depth 0.00 1.00 0.60 [0.50, 0.70]" in lines
    inside = next(group for group in evidence_section(verdict) if group["title"].startswith("Inside"))
    assert [style["label"] for style in inside["styles"]] == ["values read off the hidden states", "unlearning depth"]
    assert inside["styles"][0]["rows"][0]["flagged"]
