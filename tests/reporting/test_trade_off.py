"""The trade-off figure: where points stand, and labels that cover neither points nor each other."""

import itertools
import random

import pytest
from matplotlib.text import Annotation, Text

from llm_unlearn.errors import InputError
from llm_unlearn.reporting.trade_off import AFTER_ATTACK, run_trade_off, trade_off_figure


def labels_of(figure) -> list[Annotation]:
    figure.draw_without_rendering()
    return [text for text in figure.axes[0].texts if isinstance(text, Annotation)]


def positions(figure) -> set[tuple[float, float]]:
    lines = [line for line in figure.axes[0].get_lines() if len(line.get_xdata()) == 1]
    return {(round(line.get_xdata()[0], 3), round(line.get_ydata()[0], 3)) for line in lines}


def assert_readable(figure):
    labels = labels_of(figure)
    boxes = [Text.get_window_extent(label) for label in labels]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    points = [figure.axes[0].transData.transform(position) for position in positions(figure)]
    assert not any(box.contains(*point) for box in boxes for point in points)
    for box in [
        *boxes,
        *(axes.get_tightbbox() for axes in figure.axes),
        *(one.get_window_extent() for one in figure.legends),
    ]:
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
    assert not any(legend.get_window_extent().overlaps(figure.axes[0].get_window_extent()) for legend in figure.legends)


def test_a_run_shows_the_models_and_the_unlearned_one_after_attacks(results, tmp_path):
    path = tmp_path / "new" / "a.png"
    entry = results["attacks"]["benign_relearning"]["unlearned"]
    entry["curve"][1] |= {"forget_probability": 0.9, "retain_probability": 0.5}
    results["attacks"]["quantization"] = {"unlearned": {"variants": {"nf4": {"forget_probability": 0.6}}}}
    figure = run_trade_off(results, path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert positions(figure) == {(0.981, 0.952), (0.012, 0.952), (0.043, 0.952), (0.716, 0.8), (0.9, 0.5)}
    texts = [label.get_text() for label in labels_of(figure)]
    assert texts == ["original", "oracle", "unlearned", "after reinjection", "after benign tuning"]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["original", "oracle", "unlearned", AFTER_ATTACK, "the oracle's level: the target"]
    axes = figure.axes[0]
    assert "mean answer probability" in axes.get_xlabel() and "mean answer probability" in axes.get_ylabel()
    assert axes.get_xlim() == axes.get_ylim() == (0, 1)
    assert_readable(figure)


def test_several_oracles_have_one_label_and_no_oracle_no_target(results, tmp_path):
    results["scores"]["oracle_1"] = results["scores"]["oracle"] | {"forget_probability": 0.112}
    figure = run_trade_off(results, tmp_path / "a.png")
    assert [label.get_text() for label in labels_of(figure)].count("oracle (of 2)") == 1
    cross = next(line for line in figure.axes[0].get_lines() if line.get_linestyle() == ":")
    assert cross.get_xdata()[0] == pytest.approx(0.062)
    for name in ("oracle", "oracle_1"):
        del results["scores"][name]
    figure = run_trade_off(results, tmp_path / "a.png")
    assert not any("target" in text.get_text() for text in figure.legends[0].get_texts())
    assert not any(line.get_linestyle() == ":" for line in figure.axes[0].get_lines())


def test_labels_find_free_places_among_many_points(tmp_path):
    draw = random.Random(0)
    points = [
        {
            "label": f"method {number % 5} with $learning_rate$ {number}",
            "forget": draw.uniform(0.1, 0.4),
            "retain": draw.uniform(0.8, 1.0),
            "group": f"method {number % 5}: a long name that has to be wrapped in the legend",
            "forget_interval": (0.1, 0.15) if number == 0 else None,
        }
        for number in range(12)
    ]
    assert_readable(trade_off_figure(points, tmp_path / "a.png"))


def test_groups_differ_in_color_and_marker(tmp_path):
    points = [{"label": "", "forget": 0.1, "retain": 0.9, "group": f"method {number}"} for number in range(6)]
    figure = trade_off_figure(points, tmp_path / "a.png")
    lines = figure.axes[0].get_lines()
    looks = {(line.get_color(), line.get_marker()) for line in lines}
    assert len(looks) == len({marker for _, marker in looks}) == 6
    assert not labels_of(figure)


def test_points_without_both_scores_are_left_out_and_none_is_an_error(results, tmp_path):
    for entry in results["scores"].values():
        del entry["retain_probability"]
    results["attacks"]["benign_relearning"]["unlearned"]["curve"][2].pop("retain_probability")
    assert positions(run_trade_off(results, tmp_path / "a.png")) == {(0.716, 0.8)}
    with pytest.raises(InputError, match="judge the models on a retain set"):
        run_trade_off({**results, "attacks": {}}, tmp_path / "a.png")


def test_the_same_points_make_the_same_file(results, tmp_path):
    for name in ("a.png", "b.png"):
        run_trade_off(results, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_where_abilities_and_knowledge_were_measured_they_are_the_axes(results, tmp_path):
    known = {"original": 1.0, "oracle": 0.5, "unlearned": 0.7}
    for name, value in known.items():
        results["scores"][name]["forget_knowledge"] = value
    results["attacks"]["adversarial_reinjection"]["unlearned"]["curve"][2]["forget_knowledge"] = 0.9
    results["abilities"] = {
        "original": {"retain": {"exact_match": 1.0}, "retain_reversed": {"exact_match": 0.8, "probability": 0.9}},
        "oracle": {"retain": {"exact_match": 0.9}, "retain_reversed": {"exact_match": 1.0, "probability": 0.9}},
        "unlearned": {"retain": {"exact_match": 0.9}, "retain_reversed": {"exact_match": 0.2, "probability": 0.3}},
    }
    figure = run_trade_off(results, tmp_path / "a.png")
    # the unlearned model keeps 0.2 / 0.8 of the reversed questions; after the attack its price is the same
    assert positions(figure) == {(1.0, 1.0), (0.5, 1.0), (0.7, 0.25), (0.9, 0.25)}
    labels = [" ".join(label.get_text().split()) for label in labels_of(figure)]
    assert "unlearned (least left: retained facts, in reverse)" in labels
    axes = figure.axes[0]
    assert "0.5 = ignorant" in axes.get_xlabel() and "ability that lost most" in axes.get_ylabel()
    crosses = [line for line in axes.get_lines() if line.get_linestyle() == ":"]
    assert crosses[0].get_xdata()[0] == 0.5 and crosses[1].get_ydata()[0] == 1.0
    assert figure.legends[0].get_texts()[-1].get_text() == "ignorant, and nothing lost: the target"
