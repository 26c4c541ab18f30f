"""Tables and figures of the influence audit: every model has its place, nothing is cut off, no plot of nothing."""

import copy
import io

import numpy as np
import pytest
from drawn import assert_nothing_is_cut_off
from rich.console import Console

from llm_unlearn.errors import InputError
from llm_unlearn.reporting.influence_figure import influence_figure, lens_figure
from llm_unlearn.reporting.influence_table import influence_sections, map_totals, markdown, print_sections, short_names

KINDS = ("self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj")


def values(probability: float) -> dict:
    return {name: {"agg_value": probability, "value_by_index": {}} for name in ("probability", "positive", "negative")}


def comparison(erased: float, hidden: float, blocks: int = 2) -> dict:
    share = hidden / (erased + hidden) if erased + hidden else None
    sums = {"erased": erased, "hidden": hidden, "hiding_share": share}
    return {
        **sums,
        "top": [{"share": 0.01, "neurons": 1, **sums}, {"share": 1.0, "neurons": 90, **sums}],
        "modules": {
            f"{block}.{kind}": {"erased": erased / blocks / 3, "hidden": hidden / blocks / 3}
            for block in range(blocks)
            for kind in KINDS
        },
    }


@pytest.fixture
def results() -> dict:
    correlation = {"pearson": 0.5, "spearman": None}
    run = {f"probability_{word}": 0.25 for word in ("before", "after")}
    run |= {name: correlation for name in ("before_and_after", "original_and_before", "original_and_after")}
    lens = {"by_layer": [0.5, 0.9], "intervals": [[0.4, 0.6], [0.8, 1.0]], "value_by_index": {}, "chance": 0.5}
    names = ("original", "oracle", "unlearned")
    return {
        "score": "log_odds",
        "labels": {"original": "original", "oracle": "oracle", "unlearned": "npo $1|2$ [x]"},
        "models": {name: values(0.5) for name in names},
        "comparisons": {"oracle": comparison(3.0, 3.0), "unlearned": comparison(1.0, 9.0)},
        "attribution": {name: [run] for name in names},
        "logit_lens": {name: lens for name in names},
    }


def test_tables_have_a_row_for_each_model(results):
    variation, by_map, correlations, lens = influence_sections(results)
    assert [row[0] for row in variation.rows] == ["original", "oracle", "npo $1|2$ [x]"]
    assert variation.rows[0][4:] == ["–"] * 4  # noqa: RUF001
    assert variation.rows[2][4:] == ["1.000", "9.000", "0.900", "0.900"]
    assert by_map.columns == ["model", "q_proj", "o_proj", "down_proj"]
    assert by_map.rows[1] == ["npo $1|2$ [x]", "0.90", "0.90", "0.90"]
    assert correlations.rows[0] == ["original", "0.250", "0.250", *["0.50 / –"] * 3]  # noqa: RUF001
    assert lens.rows[1] == ["oracle", "0.50", "0.90 [0.80, 1.00]"]
    text = markdown([variation, by_map, correlations, lens])
    assert text.count("| npo $1\\|2$ [x] |") == 4
    for section in (variation, by_map, correlations, lens):
        assert all(len(row) == len(section.columns) for row in section.rows)
    console = Console(width=110, record=True, file=io.StringIO())
    print_sections([variation, by_map, correlations, lens], console)
    printed = console.export_text()
    assert printed.count("npo $1|2$ [x]") == 4 and "…" not in printed and "[0.80, 1.00]" in printed


def test_what_was_not_measured_has_no_table(results):
    results["attribution"] = results["logit_lens"] = {}
    assert len(influence_sections(results)) == 2
    results["comparisons"]["oracle"] = comparison(0.0, 0.0)
    assert influence_sections(results)[1].rows[0][1:] == ["–"] * 3  # noqa: RUF001


def test_maps_are_summed_over_blocks_and_named_as_short_as_possible():
    totals = map_totals(comparison(3.0, 9.0)["modules"])
    assert list(totals) == list(KINDS)
    assert totals["mlp.down_proj"] == pytest.approx((1.0, 3.0))
    assert short_names(["attn.c_proj", "mlp.c_proj"]) == ["attn.c_proj", "mlp.c_proj"]
    assert short_names(KINDS) == ["q_proj", "o_proj", "down_proj"]


@pytest.mark.parametrize("blocks, models", [(1, 1), (2, 2), (12, 3), (48, 4)])
def test_the_figure_has_both_sides_of_every_model_on_one_scale(results, tmp_path, blocks, models):
    for number in range(models):
        name = f"unlearned_{number}" if number else "unlearned"
        results["labels"][name] = f"a model with a name that is really long {number}"
        results["comparisons"][name] = comparison(1.0 + number, 2.0, blocks)
    del results["comparisons"]["oracle"]
    path = tmp_path / "new" / "influence.png"
    figure = influence_figure(results, path)
    assert path.read_bytes().startswith(b"\x89PNG")
    images = [
        image for axes in figure.axes for image in axes.images if axes.get_xlabel() != "" or axes.get_subplotspec()
    ]
    panels = [image for image in images if image.get_array().shape == (blocks, 3)]
    assert len(panels) == 2 * models
    assert len({(image.norm.vmin, image.norm.vmax) for image in panels}) == 1
    titles = [axes.get_title() for axes in figure.axes[:2]]
    assert titles[0].startswith("D\N{MINUS SIGN}") and titles[1].startswith("D+")
    assert np.allclose(panels[0].get_array(), 2.0 / blocks / 3)
    assert_nothing_is_cut_off(figure)


def test_blocks_without_a_map_stay_empty_and_no_change_is_no_error(results, tmp_path):
    for found in results["comparisons"].values():
        del found["modules"]["1.mlp.down_proj"]
    figure = influence_figure(results, tmp_path / "a.png")
    assert figure.axes[0].images[0].get_array().mask.tolist() == [[False] * 3, [False, False, True]]
    results["comparisons"] = {"oracle": comparison(0.0, 0.0)}
    assert_nothing_is_cut_off(influence_figure(results, tmp_path / "b.png"))


def test_the_lens_has_a_line_for_each_model_and_chance(results, tmp_path):
    figure = lens_figure(results, tmp_path / "lens.png")
    axes = figure.axes[0]
    assert [line.get_label() for line in axes.lines][-1] == "chance" and len(axes.lines) == 4
    assert axes.get_ylim() == (0, 1)
    assert_nothing_is_cut_off(figure)


def test_the_same_results_make_the_same_files(results, tmp_path):
    for draw in (influence_figure, lens_figure):
        for name in ("a.png", "b.png"):
            draw(copy.deepcopy(results), tmp_path / name)
        assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_nothing_to_draw_is_an_error(results, tmp_path):
    with pytest.raises(InputError, match="no model was compared"):
        influence_figure(results | {"comparisons": {}}, tmp_path / "a.png")
    with pytest.raises(InputError, match="not measured"):
        lens_figure(results | {"logit_lens": {}}, tmp_path / "a.png")
