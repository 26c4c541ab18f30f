"""Tables and figure of transfer probes: every number in its place, nothing cut off."""

import copy

import pytest
from drawn import assert_nothing_is_cut_off

from llm_unlearn.errors import InputError
from llm_unlearn.reporting.probes_figure import probes_figure
from llm_unlearn.reporting.probes_table import probes_sections


def found(forgotten: float, **more) -> dict:
    names = ("retained", "retained_held_out", "forgotten_held_out", "shuffled")
    layer = dict(zip(names, (0.9, 0.6, 0.4, 0.125), strict=True)) | {"forgotten": forgotten, "interval": [0.25, 1.0]}
    return {
        "block": 1,
        "layers": [layer | {"forgotten": 0.5}, layer],
        "chance": 0.1,
        "majority": 0.13,
        "people": {"retained": 54, "forgotten": 6, "never_trained": 7},
        "notes": ["6 forgotten facts are left out, book (6): nobody shares them"],
        "membership": {"block": 0, "auc": 0.75, "retained": 0.5, "never_trained": 0.25, "forgotten": 1.0}
        | {"interval": [1.0, 1.0]},
        "alignment": {"retained": [0.8, 0.25], "forgotten": None, "by_value": {"city: Rome": {}}, "left_out": 3},
    } | more


@pytest.fixture
def results() -> dict:
    accuracies = {"original": 1.0, "oracle": 0.125, "unlearned": 0.5}
    most = {"block": 0, "excess": 0.4375, "interval": [0.0, 0.75]}
    read = {"reading": accuracies | {"excess": 0.375, "interval": [-0.25, 0.5], "share": 0.4286, "most": most}}
    refused = {"reading": accuracies | {"refused": "they differ by too little"}}
    return {
        "labels": {"unlearned": "npo $1", "unlearned_1": "idk"} | {n: n for n in ("original", "oracle", "oracle_1")},
        "probes": {"original": found(1.0), "oracle": found(0.125), "oracle_1": found(0.25)}
        | {"unlearned": found(0.5, **read), "unlearned_1": found(0.5, **refused)},
    }


def test_tables(results):
    values, reading, membership, alignment = probes_sections(results)
    assert values.rows[0] == ["original", "0.90", "0.60", "1.00 [0.25, 1.00]", "0.40", "0.12"]
    assert "54 retained people" in values.caption and "book (6): nobody shares them." in values.caption
    assert reading.rows == [
        ["npo $1", "1.00", "0.12", "0.50", "0.38 [−0.25, 0.50]", "0.43", "0.44 [0.00, 0.75] (0)"],  # noqa: RUF001
        ["idk", "1.00", "0.12", "0.50", "–", "–", "–"],  # noqa: RUF001
    ]
    assert reading.caption.endswith("idk: they differ by too little.")
    assert membership.rows[4] == ["idk", "0", "0.75", "0.50", "0.25", "1.00 [1.00, 1.00]"]
    assert alignment.rows[1] == ["oracle", "0.80", "0.25", "–", "–"]  # noqa: RUF001
    assert "over 1 values. 3 values begin" in alignment.caption
    for section in (values, reading, membership, alignment):
        assert all(len(row) == len(section.columns) for row in section.rows)


def test_what_was_not_measured_has_no_table(results):
    assert probes_sections({"probes": {}}) == probes_sections({}) == []
    for one in results["probes"].values():
        del one["membership"]
        one["alignment"]["retained"] = None
        one.pop("reading", None)
    (values,) = probes_sections(results)
    assert len(values.rows) == 5


def test_figure(results, tmp_path):
    figure = probes_figure(results, tmp_path / "new" / "probes.png")
    assert (tmp_path / "new" / "probes.png").stat().st_size > 500
    (axes,) = figure.axes
    lines = {line.get_label(): [*line.get_ydata()] for line in axes.lines}
    assert lines["original"] == [0.5, 1.0] and lines[r"npo \$1"] == [0.5, 0.5] and lines["chance"] == [0.1, 0.1]
    assert [0.5, 0.1875] in [[*line.get_ydata()] for line in axes.lines]  # the oracles' mean
    assert figure.legends
    assert_nothing_is_cut_off(figure)
    single = copy.deepcopy(results)
    single["probes"] = {"original": found(1.0)}
    assert len(probes_figure(single, tmp_path / "single.png").axes[0].lines) == 3
    with pytest.raises(InputError, match="transfer probes: not measured"):
        probes_figure({"probes": {}}, tmp_path / "none.png")
