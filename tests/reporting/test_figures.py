"""The recovery figure: what is drawn and how it is labeled."""

import copy

import pytest

from llm_unlearn.errors import InputError
from llm_unlearn.reporting.figures import COLORS, recovery_figure


def lines_of(axes) -> dict[str, list[float]]:
    return {line.get_label(): list(line.get_ydata()) for line in axes.get_lines()}


def test_two_panels_with_all_models(results, tmp_path):
    path = tmp_path / "new" / "recovery.png"
    figure = recovery_figure(results, path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert figure.dpi == 150
    assert [axes.get_title() for axes in figure.axes] == ["Adversarial reinjection", "Benign tuning"]
    for axes in figure.axes:
        assert axes.get_xlabel() == "relearning optimizer steps"
        assert axes.get_ylim() == (0, 1)
        assert axes.get_legend() is None  # the legend of the figure stands outside the panels
        assert len(axes.get_lines()) == 6
    assert "mean answer probability" in figure.axes[0].get_ylabel()
    assert "of facts never reinjected" in figure.axes[0].get_ylabel()
    assert figure.get_suptitle() == "ssiuu, seed 7: do the unlearned facts come back?"
    assert lines_of(figure.axes[0])["unlearned forget_probability"] == [0.04, 0.5, 0.716]
    assert lines_of(figure.axes[1])["oracle forget_exact_match"] == [0.005, 0.01, 0.015]


def test_models_differ_in_color_and_marker_and_measures_in_style(results, tmp_path):
    lines = recovery_figure(results, tmp_path / "a.png").axes[0].get_lines()
    assert {line.get_color() for line in lines} == set(COLORS.values())
    assert len({line.get_marker() for line in lines}) == 3
    assert {line.get_linestyle() for line in lines if line.get_label().endswith("exact_match")} == {"--"}
    assert {line.get_linestyle() for line in lines if line.get_label().endswith("probability")} == {"-"}


def test_the_legend_lies_outside_the_panels_and_nothing_is_cut_off(results, tmp_path):
    figure = recovery_figure(results, tmp_path / "a.png")
    legend = figure.legends[0].get_window_extent()
    assert not any(legend.overlaps(axes.get_tightbbox()) for axes in figure.axes)
    assert all(figure.bbox.containsx(x) and figure.bbox.containsy(y) for x, y in legend.corners())
    for axes in figure.axes:
        assert all(figure.bbox.containsx(x) and figure.bbox.containsy(y) for x, y in axes.get_tightbbox().corners())
    texts = [text.get_text().strip() for text in figure.legends[0].get_texts()]
    assert texts == ["original", "answer probability", "oracle", "exact match", "unlearned", ""]


def test_runs_of_the_strongest_learning_rate_make_a_band(results, tmp_path):
    entry = results["attacks"]["adversarial_reinjection"]["unlearned"]
    other, weaker = copy.deepcopy(entry["runs"][0]), copy.deepcopy(entry["runs"][0])
    other["curve"][2]["forget_probability"] = 0.9
    weaker["learning_rate"] = 1e-5
    weaker["curve"][2]["forget_probability"] = 0.1
    adapter = copy.deepcopy(weaker) | {"attacker": "lora", "learning_rate": entry["learning_rate"]}
    entry["attacker"] = other["attacker"] = entry["runs"][0]["attacker"] = "full"
    entry["runs"] += [other, weaker, adapter]
    figure = recovery_figure(results, tmp_path / "a.png")
    bands = figure.axes[0].collections
    assert len(bands) == 1 and not figure.axes[1].collections
    heights = bands[0].get_paths()[0].vertices[:, 1]
    assert heights.max() == 0.9 and 0.1 not in heights
    assert "range of the runs" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_one_panel_without_oracle_says_so(results, tmp_path):
    results["attacks"]["benign_relearning"] = {}
    del results["attacks"]["adversarial_reinjection"]["oracle"]
    figure = recovery_figure(results, tmp_path / "a.png")
    assert len(figure.axes) == 1 and len(figure.axes[0].get_lines()) == 4
    assert "no oracle: the level of true erasure is unknown" in figure.get_suptitle()
    assert "oracle" not in [text.get_text() for text in figure.legends[0].get_texts()]


def test_three_attacks_fill_two_rows(results, tmp_path):
    results["attacks"]["retain_relearning"] = results["attacks"]["benign_relearning"]
    figure = recovery_figure(results, tmp_path / "a.png")
    assert [axes.get_title() for axes in figure.axes] == ["Adversarial reinjection", "Benign tuning", "Retain tuning"]
    tops = [axes.get_position().y1 for axes in figure.axes]
    assert tops[0] == pytest.approx(tops[1]) and tops[2] < figure.axes[0].get_position().y0
    assert [bool(axes.get_ylabel()) for axes in figure.axes] == [True, False, True]


def test_several_oracles_are_averaged(results, tmp_path):
    by_model = results["attacks"]["adversarial_reinjection"]
    second = copy.deepcopy(by_model["oracle"])
    second["curve"][2]["forget_probability"] = 0.254
    by_model["oracle_1"] = second
    axes = recovery_figure(results, tmp_path / "a.png").axes[0]
    assert lines_of(axes)["oracle forget_probability"] == pytest.approx([0.01, 0.02, 0.154])


def test_no_attack_is_an_error(results, tmp_path):
    with pytest.raises(InputError, match="attacks: the results hold none"):
        recovery_figure({**results, "attacks": {}}, tmp_path / "a.png")


def test_attacks_without_curves_are_ignored(results, tmp_path):
    variants = {"variants": {"nf4": {"forget_probability": 0.5}}}
    results["attacks"]["quantization"] = {"original": variants, "unlearned": variants}
    assert len(recovery_figure(results, tmp_path / "a.png").axes) == 2
    with pytest.raises(InputError, match="none with a curve"):
        recovery_figure({**results, "attacks": {"quantization": {"unlearned": variants}}}, tmp_path / "a.png")


def test_the_band_of_the_oracle_spans_oracles_without_runs_and_is_the_darkest(results, tmp_path):
    by_model = results["attacks"]["adversarial_reinjection"]
    second = copy.deepcopy(by_model["oracle"])
    second["curve"][2]["forget_probability"] = 0.254
    by_model["oracle_1"] = second
    for name in ("oracle", "oracle_1"):
        del by_model[name]["runs"]
    run = copy.deepcopy(by_model["unlearned"]["runs"][0])
    run["curve"][2]["forget_probability"] = 0.9
    by_model["unlearned"]["runs"].append(run)
    figure = recovery_figure(results, tmp_path / "a.png")
    oracle, unlearned = figure.axes[0].collections
    heights = oracle.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (0.01, 0.254)
    assert oracle.get_alpha() > unlearned.get_alpha() and oracle.get_linewidth()[0] > 0
    assert "range of the runs (and oracles)" in [text.get_text() for text in figure.legends[0].get_texts()]
