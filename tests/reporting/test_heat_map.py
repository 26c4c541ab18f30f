"""The heat map: every number is written, nothing is cut off, and what is missing looks missing."""

import itertools

import numpy as np
import pytest
from drawn import assert_nothing_is_cut_off
from matplotlib.colors import to_rgb

from llm_unlearn.errors import InputError
from llm_unlearn.reporting.heat_map import attack_heat_map, run_heat_map

WORDS = {"title": "a title", "colorbar_label": "mean answer probability (0 to 1)"}


def cell_texts(figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def test_every_cell_has_its_number_or_a_dash(tmp_path):
    path = tmp_path / "new" / "map.png"
    figure = attack_heat_map(["one", "two"], ["a", "b"], [[0.1, None], [float("nan"), 1]], path, **WORDS)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert cell_texts(figure) == ["0.10", "–", "–", "1.00"]  # noqa: RUF001
    assert len(figure.axes[0].patches) == 2
    assert figure.axes[1].get_ylabel().replace("\n", " ") == WORDS["colorbar_label"]
    assert_nothing_is_cut_off(figure)


LONG = "an attack with a very long name, and then some $words$ more than anybody needs"


@pytest.mark.parametrize(
    "label, shape", [("a", (1, 1)), (LONG, (1, 1)), (LONG, (1, 5)), (LONG, (12, 1)), (LONG, (5, 4))]
)
def test_long_labels_and_any_shape_are_not_cut_off(tmp_path, label, shape):
    rows, columns = ([f"{label} {number}" for number in range(size)] for size in shape)
    figure = attack_heat_map(rows, columns, np.full(shape, 0.5).tolist(), tmp_path / "a.png", **WORDS)
    assert_nothing_is_cut_off(figure)


def test_row_labels_do_not_overlap(tmp_path):
    rows = ["quite a long name of an attack that fills more than two lines of text, or even three"] * 4
    figure = attack_heat_map(rows, ["a"], [[0.1]] * 4, tmp_path / "a.png", **WORDS)
    boxes = [label.get_window_extent() for label in figure.axes[0].get_yticklabels() if label.get_text()]
    assert not any(one.overlaps(other) for one, other in itertools.pairwise(boxes))


def test_text_contrasts_with_its_cell(tmp_path):
    values = np.linspace(0, 1, 21)
    for diverging in (False, True):
        figure = attack_heat_map(["a"], [""] * 21, [values.tolist()], tmp_path / "a.png", diverging=diverging, **WORDS)
        image = figure.axes[0].images[0]
        for value, text in zip(values, figure.axes[0].texts, strict=True):
            brightness = [
                linear_brightness(color) for color in (image.cmap(image.norm(value))[:3], to_rgb(text.get_color()))
            ]
            assert (max(brightness) + 0.05) / (min(brightness) + 0.05) >= 4.5


def linear_brightness(color) -> float:
    parts = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in color]
    return float(np.dot(parts, (0.2126, 0.7152, 0.0722)))


def test_diverging_colors_have_zero_in_the_middle_and_intervals_stand_below(tmp_path):
    figure = attack_heat_map(
        ["a"],
        ["b", "c"],
        [[-0.1, 0.4]],
        tmp_path / "a.png",
        diverging=True,
        vmin=None,
        vmax=None,
        intervals=[[(-0.2, -0.04), None]],
        **WORDS,
    )
    assert cell_texts(figure) == ["−0.10\n[−0.20, −0.04]", "0.40"]  # noqa: RUF001
    image = figure.axes[0].images[0]
    assert (image.norm.vmin, image.norm.vmax) == (-0.4, 0.4)
    assert image.cmap(image.norm(0.0))[:3] == pytest.approx((1, 1, 1), abs=0.02)
    assert_nothing_is_cut_off(figure)


def test_the_same_values_make_the_same_file(tmp_path):
    for name in ("a.png", "b.png"):
        attack_heat_map(["a"], ["b"], [[0.3]], tmp_path / name, **WORDS)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize("values", [[[None]], [[0.1, 0.2]], []])
def test_nothing_to_draw_and_wrong_shapes_are_errors(tmp_path, values):
    with pytest.raises(InputError, match="1 rows and 1 columns need a value for each cell"):
        attack_heat_map(["a"], ["b"], values, tmp_path / "a.png", **WORDS)


def test_a_run_has_a_row_for_each_attack_and_variant(results, tmp_path):
    results["scores"]["oracle_1"] = results["scores"]["oracle"] | {"forget_probability": 0.112}
    results["attacks"]["quantization"] = {
        "unlearned": {"variants": {"nf4": {"forget_probability": 0.6}, "int8": {"forget_probability": 0.5}}},
    }
    results["attacks"]["decoding"] = {
        "unlearned": {"variants": {"temperature_1.0": {"forget_leak_at_1": 0.1, "forget_leak_at_64": 0.8}}},
    }
    results["attacks"]["adapter_surgery"] = {"oracle": {"variants": {}, "note": "no adapter"}}
    figure = run_heat_map(results, tmp_path / "a.png")
    rows = [label.get_text().replace("\n", " ") for label in figure.axes[0].get_yticklabels() if label.get_text()]
    assert len(rows) == 6 and rows[:3] == ["before any attack", "reinjection", "benign tuning"]
    assert "nf4" in rows[3] and "int8" in rows[4] and "temperature 1.0" in rows[5]
    assert cell_texts(figure)[:6] == ["0.98", "0.06", "0.04", "1.00", "0.05", "0.72"]
    assert cell_texts(figure)[-3:] == ["–", "–", "0.80"]  # noqa: RUF001
    assert_nothing_is_cut_off(figure)


def test_models_that_are_missing_have_no_column(results, tmp_path):
    results["attacks"] = {}
    del results["scores"]["oracle"]
    figure = run_heat_map(results, tmp_path / "a.png")
    assert cell_texts(figure) == ["0.98", "0.04"]
    with pytest.raises(InputError, match="heat map"):
        run_heat_map({"method": "npo", "scores": {}, "attacks": {}}, tmp_path / "b.png")
