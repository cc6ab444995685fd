"""Results as tables for a terminal."""

from rich.table import Table

from stages.evaluate import UNLABELLED, Column, Evaluation


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


def _summary(columns: tuple[Column, ...]) -> dict[str, list[float]]:
    scores = [column.scores for column in columns]
    return {
        "mean (mIoU)": [one.miou for one in scores],
        "mean where labelled": [one.miou_ignoring_unlabelled for one in scores],
        "pixels labelled": [one.labelled for one in scores],
    }


def _percent(value: float) -> str:
    return "-" if value != value else f"{100 * value:.1f}"
