"""What holds of any figure."""


def assert_nothing_is_cut_off(figure):
    """Axes, title and legends lie within the figure, to a pixel."""
    figure.draw_without_rendering()
    boxes = [axes.get_tightbbox() for axes in figure.axes]
    boxes += [figure._suptitle.get_window_extent(), *(legend.get_window_extent() for legend in figure.legends)]
    for box in boxes:
        assert box.x0 >= -1 and box.y0 >= -1, box
        assert box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1 + 1, box
