"""The charts of a report as numbers and positions; the page draws them, and answers the pointer with the values."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from stages.reporting.oversmoothing import Smoothness
from stages.sweep import Sweep

MOST_TICKS = 5  # along an axis
MARKED_POINTS = 60  # a curve with more points has no dots
MOST_CONFUSED = 30  # a confusion matrix has at most this many rows
NO_PARTS = ("loss", "labelled")  # values that are logged beside the parts of the loss

Line = Mapping[str, Any]  # of metrics.jsonl


class Curve(NamedTuple):
    """One line of a plot."""

    name: str
    points: tuple[tuple[float, float], ...]  # x ascending, y


class Tick(NamedTuple):
    """A label at an axis."""

    percent: float  # of the axis
    text: str


@dataclass(frozen=True, kw_only=True)
class Plot:
    """Curves over one pair of axes. Positions are in percent of the axes, x from the left and y from the top."""

    title: str
    x_label: str
    y_label: str
    curves: Sequence[Curve]
    mark: tuple[float, str] | None = None  # a vertical line at x, and what it says
    x_names: Sequence[str] = ()  # names of x = 1, 2, ... in place of numbers

    @cached_property
    def x_range(self) -> tuple[float, float]:
        """Lowest and highest x."""
        values = [x for curve in self.curves for x, _ in curve.points]
        return (min(values), max(values)) if min(values) < max(values) else (values[0] - 1, values[0] + 1)

    @cached_property
    def y_steps(self) -> list[float]:
        """Round numbers around all values of y."""
        values = [y for curve in self.curves for _, y in curve.points]
        return _round_numbers(min(values), max(values))

    @property
    def x_ticks(self) -> list[Tick]:
        """Labels below the plot."""
        if self.x_names:
            every = -(-len(self.x_names) // 13)
            numbers = [*range(1, len(self.x_names), every), len(self.x_names)]
            return [Tick(self.place_x(float(number)), self.x_names[number - 1]) for number in numbers]
        low, high = self.x_range
        return [Tick(self.place_x(x), f"{x:,.10g}") for x in _round_numbers(low, high) if low <= x <= high]

    @property
    def y_ticks(self) -> list[Tick]:
        """Labels beside the plot."""
        return [Tick(self.place_y(y), f"{y:,.10g}") for y in self.y_steps]

    def place_x(self, x: float) -> float:
        """Return where an x is."""
        low, high = self.x_range
        return round(100 * (x - low) / (high - low), 2)

    def place_y(self, y: float) -> float:
        """Return where a y is."""
        low, high = self.y_steps[0], self.y_steps[-1]
        return round(100 * (high - y) / (high - low), 2)

    def path(self, curve: Curve) -> str:
        """Return a curve as the path of an SVG."""
        return "M" + "L".join(f"{self.place_x(x)} {self.place_y(y)}" for x, y in curve.points)

    def dots(self, curve: Curve) -> str:
        """Return the points of a curve as the path of an SVG, unless there are too many to tell apart."""
        if len(curve.points) > MARKED_POINTS:
            return ""
        return "".join(f"M{self.place_x(x)} {self.place_y(y)}h0" for x, y in curve.points)

    def for_pointer(self) -> dict[str, Any]:
        """Return the values and their positions for the page's script."""
        return {
            "x": self.x_label,
            "names": list(self.x_names),
            "curves": [
                {
                    "name": curve.name,
                    "points": [[x, float(f"{y:.4g}"), self.place_x(x), self.place_y(y)] for x, y in curve.points],
                }
                for curve in self.curves
            ],
        }


class Chart(NamedTuple):
    """Plots that belong together, and a description in words, also for people who cannot see them."""

    title: str
    words: str
    plots: Sequence[Plot]


@dataclass(frozen=True, kw_only=True)
class ConfusionMatrix:
    """Percent of the pixels of each class (row) that were predicted as each class (column)."""

    title: str
    words: str
    rows: Sequence[str]
    columns: Sequence[str]
    percent: Sequence[Sequence[float]]


def losses(lines: Sequence[Line]) -> list[Plot]:
    """Plot each loss over the iterations, one plot per loss because their ranges differ.

    A part of the loss that is exactly 0 at each point is left out: it is not part of the training, or not yet.

    Args:
        lines: Lines of metrics.jsonl that hold losses.
    """
    names = [name for name in _names(lines) if name not in ("iteration", "learning_rate") and "miou" not in name]
    return [
        Plot(title=curve.name, x_label="iteration", y_label="", curves=[curve])
        for curve in _curves(lines, names)
        if curve.name in NO_PARTS or any(y for _, y in curve.points)
    ]


def measurements(lines: Sequence[Line]) -> list[Plot]:
    """Plot each mIoU measured during training over the iterations.

    Args:
        lines: Lines of metrics.jsonl that hold an mIoU, 0 to 1.
    """
    curves = [
        Curve(curve.name.removesuffix(" miou"), tuple((x, 100 * y) for x, y in curve.points))
        for curve in _curves(lines, [name for name in _names(lines) if "miou" in name])
    ]
    return [Plot(title="", x_label="iteration", y_label="mIoU in %", curves=curves)] if curves else []


def threshold_curve(curve: Sweep) -> Plot:
    """Plot the mIoU of the CAM masks over the background threshold, and mark the threshold of the labels."""
    points = tuple((background, 100 * miou) for background, miou in zip(curve.backgrounds, curve.mious, strict=True))
    return Plot(
        title="",
        x_label="background threshold",
        y_label="mIoU in %",
        curves=[Curve("mIoU", points)],
        mark=(curve.used, f"used: {curve.used:g}"),
    )


def smoothness(curves: Sequence[Smoothness]) -> Plot:
    """Plot the mean absolute cosine similarity between patch tokens over the blocks, one line per network."""
    blocks = max(len(curve.values) for curve in curves) - 1  # the last value belongs to the final LayerNorm
    return Plot(
        title="",
        x_label="block",
        y_label="mean |cosine|",
        curves=[
            Curve(
                curve.name, tuple((float(number), float(value)) for number, value in enumerate(curve.values, start=1))
            )
            for curve in curves
        ],
        x_names=[*map(str, range(1, blocks + 1)), "norm"],
    )


def confusion_matrix(counts: Tensor, class_names: Sequence[str], *, title: str, words: str) -> ConfusionMatrix:
    """Return the shares of a confusion matrix; of many classes, those with most wrong pixels.

    Args:
        counts: int64 (classes, classes + 1): pixels by ground truth (row) and prediction (column); the last column
            counts the pixels predicted as ignored (255).
        class_names: Names of the rows, background first.
        title: Title of the chart.
        words: Its description.
    """
    classes = len(class_names)
    percent = 100 * counts.double() / counts.sum(dim=1, keepdim=True).clamp_min(1)
    wrong = counts.sum(dim=1) - counts.diagonal()[:classes]
    rows = sorted(wrong.argsort(descending=True, stable=True)[:MOST_CONFUSED].tolist())
    columns = [*rows, classes] if counts[:, -1].any() else rows  # no empty column for ignored pixels
    if classes > len(rows):
        words += f" Shown are the {len(rows)} of {classes} classes with most wrong pixels."
    return ConfusionMatrix(
        title=title,
        words=words,
        rows=[class_names[row] for row in rows],
        columns=[(*class_names, "(ignored)")[column] for column in columns],
        percent=percent[rows][:, columns].tolist(),
    )


def _round_numbers(low: float, high: float) -> list[float]:
    """Return a few round numbers, ascending, the first at most `low` and the last at least `high`."""
    from matplotlib.ticker import MaxNLocator  # late: a training imports this file first

    if high - low <= 1e-5 * max(abs(low), abs(high)):  # equal, but for rounding
        low, high = low - (abs(low) or 1) / 10, high + (abs(high) or 1) / 10
    return [round(float(one), 12) for one in np.unique(MaxNLocator(MOST_TICKS).tick_values(low, high))]


def _names(lines: Sequence[Line]) -> list[str]:
    """List the keys of all lines once, in the order of their first appearance."""
    return list(dict.fromkeys(name for line in lines for name in line))


def _curves(lines: Sequence[Line], names: Sequence[str]) -> Iterator[Curve]:
    """Yield the curve of each key over the iterations, without values that are missing or not finite."""
    for name in names:
        pairs = [(float(line["iteration"]), float(line[name])) for line in lines if line.get(name) is not None]
        if points := tuple((x, y) for x, y in pairs if math.isfinite(y)):
            yield Curve(name.replace("_", " "), points)
