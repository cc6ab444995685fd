"""Results as tables for a terminal."""

from rich.table import Table

from stages.evaluate import SOURCE_TITLES, UNLABELLED, Column, Evaluation
from stages.sweep import Sweep

BAR = 40  # characters of the highest bar


def score_table(evaluation: Evaluation) -> Table:
    """IoU in percent: a row a class and the means, a column a product; a dash where the truth has no such pixel."""
    table = Table(title="IoU in %, against true masks", caption=UNLABELLED, caption_justify="left")
    table.add_column("class")
    for column in evaluation.columns:
        table.add_column(f"{column.name}\n{column.split}, {column.images} images", justify="right")
    rows = [column.scores.iou.tolist() for column in evaluation.columns]
    for index, name in enumerate(evaluation.class_names):
        table.add_row(name, *(_percent(row[index]) for row in rows))
    table.add_section()
    for name, values in _summary(evaluation.columns).items():
        table.add_row(name, *map(_percent, values))
    return table


def sweep_table(curve: Sweep) -> Table:
    """MIoU in percent at each background score, as figures and as bars."""
    table = Table(
        title=f"mIoU in % of the {SOURCE_TITLES[curve.source]} by background score",
        caption=(
            f"measured with true masks of {curve.images} images of split '{curve.split}': a score chosen here is "
            f"chosen on these; the labels were made with {curve.used:g}"
        ),
        caption_justify="left",
    )
    for heading, side in (("background", "right"), ("mIoU", "right"), ("", "left")):
        table.add_column(heading, justify=side)  # type: ignore[arg-type]
    highest = max(curve.mious[curve.best], 1e-9)
    for place, (background, miou) in enumerate(zip(curve.backgrounds, curve.mious, strict=True)):
        bar = "\u2588" * round(BAR * miou / highest)
        table.add_row(f"{background:.2f}", _percent(miou), bar + (" best" if place == curve.best else ""))
    return table


def _summary(columns: tuple[Column, ...]) -> dict[str, list[float]]:
    scores = [column.scores for column in columns]
    return {
        "mean (mIoU)": [one.miou for one in scores],
        "mean where labelled": [one.miou_ignoring_unlabelled for one in scores],
        "pixels labelled": [one.labelled for one in scores],
    }


def _percent(value: float) -> str:
    return "-" if value != value else f"{100 * value:.1f}"
