"""Folders that toco writes results to: marked, so that their pictures are never read as images or ground truth."""

from __future__ import annotations

import json
import os
from pathlib import Path

MARK = ".toco-output"
RECORD = "predict.json"  # of toco predict, which did not mark its folders before 0.2.0
MARKED = "marked"  # an entry of the records since: the folder, or each folder of results in it, has the mark
TEXT = """\
toco wrote this folder. Its pictures are results: toco skips the folder when it looks for images or ground-truth masks.
Delete this file if the folder now holds something else, for example masks that you corrected.
"""


def mark_as_written(folder: Path) -> None:
    """Mark a folder as written by toco; it is created if it does not exist."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).write_text(TEXT)


def written_by_toco(folder: Path) -> bool:
    """Tell whether toco wrote a folder: a run, an export, predictions or a demo. Links are followed."""
    return os.path.isfile(folder / MARK) or _has_record(folder / RECORD)


def _has_record(path: Path) -> bool:
    """Tell whether a file is the record of a toco predict that set no marks."""
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(record, dict) and {"toco", "weights"} <= record.keys() and MARKED not in record
