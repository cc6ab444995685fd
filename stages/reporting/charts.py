"""The charts of a report as SVG text: curves, and a confusion matrix."""

import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from stages.exports.xml_names import xml_name
from stages.reporting.oversmoothing import Smoothness
from stages.sweep import Sweep

LINE_STYLES = ("-", "--", ":", "-.")  # so that lines differ not only in colour
LINE_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito, dark ones first
LONGEST_NAME = 24  # characters; longer names would leave no space for the chart
NAMED_CLASSES = 40  # a confusion matrix with more classes has no space for their names
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: smaller files, and the browser has fonts for all scripts
    "svg.hashsalt": "toco",  # the same chart always gives the same text
    "text.parse_math": False,  # dollar signs in a name do not start a formula
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
}


def losses(lines: Sequence[Mapping[str, Any]]) -> str:
    """Draw the losses over the iterations, one small chart per loss because their ranges differ.

    Args:
        lines: Lines of metrics.jsonl that hold losses.
    """
    names = [name for name in _names(lines) if name not in ("iteration", "learning_rate") and "miou" not in name]
    return _grid(lines, names)


def measurements(lines: Sequence[Mapping[str, Any]]) -> str:
    """Draw each mIoU measured during training over the iterations.

    Args:
        lines: Lines of metrics.jsonl that hold an mIoU, 0 to 1.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7, 3), layout="constrained")
        axes = figure.subplots()
        names = [name for name in _names(lines) if "miou" in name]
        for number, name in enumerate(names):
            _line(axes, *_series(lines, name, factor=100.0), number, _words(name.removesuffix("_miou")), marker="o")
        axes.set(xlabel="iteration", ylabel="mIoU in %")
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
        return _svg(figure)


def threshold_curve(curve: Sweep) -> str:
    """Draw the mIoU of the CAM masks over the background threshold, and mark the threshold of the labels."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7, 3), layout="constrained")
        axes = figure.subplots()
        axes.plot(curve.backgrounds, [100 * miou for miou in curve.mious], "o-", color=LINE_COLOURS[0])
        axes.axvline(curve.used, linestyle="--", color=LINE_COLOURS[1])
        axes.annotate(
            f" used: {curve.used:g}", (curve.used, 0), xycoords=("data", "axes fraction"), va="bottom",
            color=LINE_COLOURS[1],
        )  # fmt: skip
        axes.set(xlabel="background threshold", ylabel="mIoU in %")
        return _svg(figure)


def confusion_matrix(counts: Tensor, class_names: Sequence[str]) -> str:
    """Draw a confusion matrix in percent of each row's pixels.

    Args:
        counts: int64 (classes, classes + 1): pixels by ground truth (row) and prediction (column); the last column
            counts the pixels predicted as ignored (255).
        class_names: Names of the rows, background first.
    """
    columns = counts.shape[1] if counts[:, -1].any() else counts.shape[1] - 1  # no empty column for ignored pixels
    used = list(range(columns))
    shares = counts.double() / counts.sum(dim=1, keepdim=True).clamp_min(1)
    side = float(np.clip(0.36 * len(class_names) + 1.5, 3.5, 14))
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(side + 1, side), layout="constrained")
        axes = figure.subplots()
        image = axes.imshow(100 * shares[:, used].numpy(), cmap="cividis", vmin=0, vmax=100)
        if len(class_names) <= NAMED_CLASSES:
            names = [chart_name(name) for name in (*class_names, "(ignored)")]
            axes.set_xticks(used, [names[index] for index in used], rotation=90)
            axes.set_yticks(range(len(class_names)), names[: len(class_names)])
        axes.set(xlabel="predicted class", ylabel="ground-truth class")
        figure.colorbar(image, ax=axes, label="% of the ground-truth class", shrink=0.7)
        return _svg(figure)


def smoothness(curves: Sequence[Smoothness]) -> str:
    """Draw the mean absolute cosine similarity between patch tokens over the blocks, one line per network."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7, 3), layout="constrained")
        axes = figure.subplots()
        for number, curve in enumerate(curves):
            _line(axes, range(1, len(curve.values) + 1), curve.values, number, chart_name(curve.name), marker="o")
        blocks = max(len(curve.values) for curve in curves) - 1  # the last value belongs to the final LayerNorm
        axes.set_xticks(range(1, blocks + 2), [*map(str, range(1, blocks + 1)), "norm"])
        axes.set(xlabel="block", ylabel="mean |cosine|", ylim=(0, 1.02))
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
        return _svg(figure)


def _grid(lines: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    """Draw one small chart per name, in rows of three."""
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.4 * columns, 2.1 * rows), layout="constrained")
        figure.subplots(rows, columns, squeeze=False)
        for number, (name, axes) in enumerate(zip(names, figure.axes, strict=False)):
            _line(axes, *_series(lines, name), 0, None, marker=".")
            axes.set_title(_words(name), fontsize=10)
            if number + columns >= len(names):  # the lowest chart of its column
                axes.set_xlabel("iteration")
        for axes in figure.axes[len(names) :]:
            axes.set_visible(False)
        return _svg(figure)


def _names(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """List the keys of all lines once, in the order of their first appearance."""
    return list(dict.fromkeys(name for line in lines for name in line))


def _series(lines: Sequence[Mapping[str, Any]], name: str, factor: float = 1.0) -> tuple[list[int], list[float]]:
    """Return the iterations and the values of one key, without lines that lack it."""
    pairs = [(line["iteration"], factor * line[name]) for line in lines if line.get(name) is not None]
    return [iteration for iteration, _ in pairs], [value for _, value in pairs]


def _line(axes: Axes, x: Any, y: Any, number: int, label: str | None, marker: str = "") -> None:
    colour, style = LINE_COLOURS[number % len(LINE_COLOURS)], LINE_STYLES[number % len(LINE_STYLES)]
    axes.plot(x, y, label=label, color=colour, linestyle=style, marker=marker, markersize=3)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _svg(figure: Figure) -> str:
    stream = io.StringIO()
    with missing_glyphs_allowed():  # the browser has fonts with these letters
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()


def chart_name(name: str) -> str:
    """Return a name for a chart: long ones are cut, and characters that SVG cannot hold are replaced."""
    text = xml_name(name)
    return text if len(text) <= LONGEST_NAME else f"{text[: LONGEST_NAME - 1]}\u2026"


@contextmanager
def missing_glyphs_allowed() -> Iterator[None]:
    """Suppress matplotlib's warnings about letters that its font lacks."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        yield
