"""Tables of results for a terminal."""

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from rich.console import Console, ConsoleOptions
from rich.table import Table
from rich.text import Text

from stages.evaluate import SOURCE_TITLES, Column, Evaluation
from stages.pick import Picks
from stages.sweep import Sweep
from stages.verdict.judge import QUALITIES, Quality, Verdict

LONGEST_BAR = 40  # characters
STYLES: Mapping[Quality, str] = {"failed": "bold red", "weak": "yellow", "good": "green"}


def score_table(evaluation: Evaluation) -> Table:
    """Show the IoU in percent: one row per class, then the means; one column per product.

    A dash stands for a class that has no pixel in the ground truth.
    """
    table = Table(
        title="IoU in % against the ground truth", caption="\n".join(evaluation.remarks), caption_justify="left"
    )
    table.add_column("class")
    for column in evaluation.columns:
        table.add_column(f"{column.name}\n{column.split}, {column.measured}", justify="right")
    rows = [column.scores.iou.tolist() for column in evaluation.columns]
    for index, name in enumerate(evaluation.class_names):
        table.add_row(name, *(_percent(row[index]) for row in rows))
    table.add_section()
    for name, values in _summary(evaluation.columns).items():
        table.add_row(name, *map(_percent, values))
    return table


def verdict_table(verdict: Verdict) -> Table:
    """Show the level of each class and why, the worst first; good classes share one row."""
    table = Table(title="Are the masks good?")
    table.add_column("class")
    table.add_column("verdict")
    table.add_column("why")
    for level in QUALITIES[:-1]:
        for one in verdict.named(level):
            table.add_row(one.name, Text(level, style=STYLES[level]), "; ".join(one.reasons))
    if good := verdict.named("good"):
        names = ", ".join(one.name for one in good)
        table.add_row(names, Text("good", style=STYLES["good"]), good[0].reasons[0] if len(good) == 1 else "")
    return table


def sweep_table(curve: Sweep) -> Table:
    """Show the mIoU in percent at each background threshold, as numbers and as bars."""
    table = Table(
        title=f"mIoU in % of the {SOURCE_TITLES[curve.source]} by background threshold",
        caption=(
            f"the labels were made with {curve.used:g}; measured on the ground-truth masks of {curve.images} images of "
            f"split '{curve.split}': a threshold chosen by this table is fitted to these images"
        ),
        caption_justify="left",
    )
    for heading, side in (("threshold", "right"), ("mIoU", "right"), ("", "left")):
        table.add_column(heading, justify=side)  # type: ignore[arg-type]
    highest = max(curve.mious[curve.best], 1e-9)
    for place, (background, miou) in enumerate(zip(curve.backgrounds, curve.mious, strict=True)):
        bar = _Bar(round(LONGEST_BAR * miou / highest), " best" if place == curve.best else "")
        table.add_row(f"{background:.2f}", _percent(miou), bar)
    return table


def pick_table(picks: Picks) -> Table:
    """Show the images to correct: one row per image, in the order in which they were chosen."""
    table = Table(title=f"{len(picks.images)} images to correct", title_justify="left")
    for heading in ("image", "labels", "chosen for", "why"):
        table.add_column(heading, overflow="fold")
    for one in picks.images:
        table.add_row(one.id, ", ".join(one.classes) or "none", one.chosen_for, one.why)
    return table


class _Bar(NamedTuple):
    """A horizontal bar and a word behind it; of '#' where the terminal's encoding has no blocks."""

    length: int  # characters
    word: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        yield Text(("#" if options.ascii_only else "\u2588") * self.length + self.word)


def _summary(columns: tuple[Column, ...]) -> dict[str, list[float]]:
    """Return the rows below the classes: one value, 0..1, per column."""
    scores = [column.scores for column in columns]
    return {
        "mean (mIoU)": [one.miou for one in scores],
        "mean where labelled": [one.miou_ignoring_unlabelled for one in scores],
        "pixels labelled": [one.labelled for one in scores],
    }


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f}"
