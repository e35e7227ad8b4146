"""Charts as standalone SVG files."""

from itertools import pairwise
from xml.etree import ElementTree

import pytest

from captioner.evaluation.charts import (
    Series,
    as_svg,
    difference_plot,
    line_plot,
    score_plot,
    ticks,
)

SVG = "{http://www.w3.org/2000/svg}"


def test_a_line_plot_has_its_points_where_the_scales_say() -> None:
    series = [
        Series("ideal", [(100, 0), (0, 10)], "ideal"),
        Series("ours & <theirs>", [(100, 5), (50, 10), (0, 0)], titles=["a", "b", "c"]),
    ]
    plot = line_plot(series, [100, 50, 0], [0, 5, 10], label="a plot", x_name="x", y_name="y")
    root = ElementTree.fromstring(as_svg(plot, width=500))
    assert (root.get("width"), root.get("viewBox")) == ("500", f"0 0 500 {plot.height}")
    assert root.get("aria-label") == "a plot"
    texts = [node.text for node in root.iter(f"{SVG}text")]
    assert {"x", "y", "ideal", "ours & <theirs>", "100", "50", "0", "5", "10"} == set(texts)
    dots = [dot for dot in root.iter(f"{SVG}circle") if dot.get("class") == "dot"]
    assert [dot.findtext(f"{SVG}title") for dot in dots] == ["a", "b", "c"]
    x, y = ([float(str(dot.get(name)).rstrip("%")) for dot in dots] for name in ("cx", "cy"))
    assert x[1] - x[0] == pytest.approx(x[2] - x[1]) and x[0] < x[1]
    assert y[1] < y[0] < y[2] and y[0] - y[1] == pytest.approx(y[2] - y[0])
    lines = [line for line in root.iter(f"{SVG}line") if line.get("class") == "line"]
    assert [(line.get("x1"), line.get("x2")) for line in lines] == [
        (dots[0].get("cx"), dots[1].get("cx")),
        (dots[1].get("cx"), dots[2].get("cx")),
    ]


@pytest.mark.parametrize("high", [0, 1e-300, 1e-14, 1e-7, 0.003, 7, 100, 1234.5])
def test_a_scale_encloses_its_values(high: float) -> None:
    for low in (0, -high):
        marks = ticks(low, high)
        steps = [after - before for before, after in pairwise(marks)]
        assert 2 <= len(marks) <= 14 and min(steps) == pytest.approx(max(steps)) and min(steps) > 0
        assert marks[0] <= low + 1e-6 and high <= marks[-1] + 1e-6
        assert score_plot(high / 100, (low / 100, high / 100), marks).shapes


def test_a_decrease_of_an_error_count_is_an_improvement() -> None:
    def kind(interval: tuple[float, float], lower_is_better: bool) -> object:
        plot = difference_plot(
            sum(interval) / 2, interval, [-10, 10], lower_is_better=lower_is_better
        )
        return plot.shapes[-1].attributes["class"]

    assert kind((-0.05, -0.01), True) == kind((0.01, 0.05), False) == "better"
    assert kind((0.01, 0.05), True) == kind((-0.05, -0.01), False) == "worse"
    assert kind((-0.01, 0.01), True) == kind((-0.01, 0.01), False) == "unclear"
