import math
from typing import Any

import pytest
import torch

from stages.reporting import charts
from stages.reporting.charts import ConfusionMatrix, Curve, Plot
from stages.reporting.oversmoothing import Smoothness
from stages.sweep import Sweep

LINES: list[dict[str, Any]] = [
    {"iteration": 10, "learning_rate": 1e-4, "loss": 2.0, "ptc": 0.5},
    {"iteration": 20, "learning_rate": 1e-4, "loss": None, "ptc": 0.25},
    {"iteration": 20, "cam_miou": 0.5},
    {"iteration": 25, "loss": math.inf},
    {"iteration": 30, "learning_rate": 1e-4, "loss": 1.0, "ptc": 0.125},
    {"iteration": 30, "cam_miou": 0.75},
]


def plot(*points: tuple[float, float]) -> Plot:
    return Plot(title="", x_label="x", y_label="y", curves=[Curve("one", points)])


def test_losses__one_plot_each_and_no_learning_rate_or_missing_values() -> None:
    plots = charts.losses(LINES)
    assert [one.title for one in plots] == ["loss", "ptc"]
    assert plots[0].curves[0].points == ((10, 2.0), (30, 1.0))


def test_losses__no_plot_of_a_part_that_is_not_trained() -> None:
    part = {"ptc": 0.0, "ctc": 0.0, "segmentation": 0.0}
    lines = [{"iteration": 10, "loss": 0.0, **part}, {"iteration": 20, "loss": 0.0, **part, "segmentation": 0.5}]
    plots = charts.losses(lines)
    assert [one.title for one in plots] == ["loss", "segmentation"]
    assert plots[1].curves[0].points == ((10, 0.0), (20, 0.5))  # from the start, also where it is 0


def test_measurements__one_curve_each_in_percent() -> None:
    (plot,) = charts.measurements(LINES)
    assert plot.curves == [Curve("cam", ((20, 50.0), (30, 75.0)))]


def test_threshold_curve__marks_the_threshold_of_the_labels() -> None:
    curve = Sweep(source="cam", split="train", images=3, backgrounds=(0.2, 0.5), mious=(0.4, 0.6), used=0.5)
    assert charts.threshold_curve(curve).mark == (0.5, "used: 0.5")


def test_smoothness__the_last_point_is_the_norm() -> None:
    plot = charts.smoothness([Smoothness("after training", (0.2, 0.5, 0.6))])
    assert [(tick.percent, tick.text) for tick in plot.x_ticks] == [(0, "1"), (50, "2"), (100, "norm")]


def test_smoothness__of_a_deep_network_names_some_blocks_and_the_norm() -> None:
    ticks = charts.smoothness([Smoothness("deep", (0.5,) * 41)]).x_ticks
    assert len(ticks) <= 14
    assert ticks[-1].text == "norm"


def test_plot__positions_in_percent_from_the_upper_left_corner() -> None:
    made = plot((0.0, 0.0), (50.0, 2.0), (100.0, 10.0))
    assert made.path(made.curves[0]) == "M0.0 100.0L50.0 80.0L100.0 0.0"
    assert [(tick.percent, tick.text) for tick in made.y_ticks][:2] == [(100, "0"), (80, "2")]
    assert made.for_pointer()["curves"][0]["points"][1] == [50, 2.0, 50.0, 80.0]


@pytest.mark.parametrize(
    "points",
    [
        ((7.0, 0.3),),
        ((0.0, 0.0), (1.0, 0.0)),
        ((1.0, 5.0), (2.0, 5.0)),
        ((1.0, -3e-7), (2.0, 1e9)),
        ((1.0, 1e-12), (2.0, 2e-12)),
    ],
)
def test_plot__all_points_are_inside(points: tuple[tuple[float, float], ...]) -> None:
    made = plot(*points)
    assert all(0 <= made.place_x(x) <= 100 and 0 <= made.place_y(y) <= 100 for x, y in points)
    assert made.y_ticks
    assert all(0 <= tick.percent <= 100 for tick in [*made.x_ticks, *made.y_ticks])


def test_plot__rounding_errors_do_not_fill_the_axis() -> None:
    assert all(len(tick.text) <= 4 for tick in plot((1.0, 1.0), (2.0, 1.0000001)).y_ticks)


def test_plot__dots_only_where_they_can_be_told_apart() -> None:
    few, many = (plot(*((float(x), 1.0) for x in range(count))) for count in (3, 500))
    assert few.dots(few.curves[0]).count("h0") == 3
    assert many.dots(many.curves[0]) == ""


def matrix(counts: list[list[int]], names: list[str]) -> ConfusionMatrix:
    return charts.confusion_matrix(torch.tensor(counts), names, title="", words="Words.")


@pytest.mark.parametrize("ignored", [0, 4])
def test_confusion_matrix__percent_of_each_row_and_ignored_pixels_if_any(ignored: int) -> None:
    found = matrix([[5, 1, ignored], [0, 4, 0]], ["background", "傷"])
    assert list(found.rows) == ["background", "傷"]
    assert ("(ignored)" in found.columns) == bool(ignored)
    assert found.percent[0][0] == pytest.approx(500 / (6 + ignored))
    assert found.percent[1][:2] == [0, 100]


def test_confusion_matrix__of_many_classes_shows_those_with_most_wrong_pixels() -> None:
    classes = 80
    counts = 100 * torch.eye(classes, classes + 1, dtype=torch.int64)
    counts[50:, 0] = 7
    found = matrix(counts.tolist(), [f"class {number}" for number in range(classes)])
    assert list(found.rows) == list(found.columns) == [f"class {number}" for number in range(50, 80)]
    assert "30 of 80 classes" in found.words
