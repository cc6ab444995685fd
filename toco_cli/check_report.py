"""The output of 'toco check' on a terminal; a file of its own, since it must not import torch, which is slow."""

from collections.abc import Iterator
from pathlib import Path

from rich.table import Table
from rich.text import Text

from data.command_line import as_command
from data.findings import split_images
from stages.check import Check

SHOWN_ITEMS = 8  # per finding; --json has all
SHOWN_CHARACTERS = 240  # per item
LEVELS = {"error": ("Errors", "bold red"), "warning": ("Warnings", "bold yellow"), "note": ("Notes", "bold")}


def class_table(found: Check) -> Table:
    """Return a table of images per class and split; below, images without a class, all images, and masks."""
    table = Table(title="images that show each class")
    table.add_column("class")
    for split in found.splits:
        table.add_column(Text(split), justify="right")
    table.add_column("nearly always together with")
    for one in found.classes:
        table.add_row(Text(one.name), *(str(count) for count in one.images.values()), Text(", ".join(one.together)))
    table.add_section()
    table.add_row("none of them", *(str(counts.negatives) for counts in found.splits.values()))
    table.add_row("all images", *(str(counts.images) for counts in found.splits.values()))
    table.add_row("with a ground-truth mask", *(str(counts.masks) for counts in found.splits.values()))
    return table


def summary_line(found: Check) -> str:
    """Return one line about the folder: layout, numbers of classes and images, sizes."""
    layout = found.dataset.layout.replace("_", " ")
    images = len(split_images(found.dataset))
    parts = [f"{found.dataset.root}: layout {layout}", f"classes: {len(found.classes)}", f"images: {images}"]
    if found.sizes:
        sizes = vars(found.sizes).items()
        parts.append("width x height: " + ", ".join(f"{width} x {height} ({name})" for name, (height, width) in sizes))
    return "; ".join(parts)


def finding_lines(found: Check) -> Iterator[Text]:
    """Yield one line per finding, grouped by level, and below it a line with its first items."""
    for level, (heading, style) in LEVELS.items():
        findings = [finding for finding in found.findings if finding.level == level]
        if findings:
            yield Text(heading, style=style)
        for finding in findings:
            yield Text(f"- {finding.text}: {finding.advice}")
            if finding.items:
                yield Text(f"    {_shortened(finding.items)}", style="dim")


def _shortened(items: tuple[str, ...]) -> str:
    more = f"; and {len(items) - SHOWN_ITEMS} more" if len(items) > SHOWN_ITEMS else ""
    cut = (item if len(item) <= SHOWN_CHARACTERS else f"{item[:SHOWN_CHARACTERS]} ..." for item in items[:SHOWN_ITEMS])
    return "; ".join(cut) + more


def closing_line(found: Check, data: Path) -> str:
    """Return the next step for the data set in the folder `data`."""
    next_command = as_command("run", data, "--out", "RUN")
    if not found.errors:
        return f"The data set is ready for training. Next: {next_command}"
    if all(finding.skippable for finding in found.errors):
        return f"Fix the errors first, or skip these files: {next_command} --skip-bad"
    return "Fix the errors first. --skip-bad skips the files of those errors only whose advice says so."
