"""`labelmap.txt`: the colours of the classes, for CVAT and Datumaro."""

import re
from collections.abc import Sequence

from data.dataset import IGNORE_INDEX
from data.palette import colour_map


def label_map_lines(class_names: Sequence[str], *, ignored: bool) -> list[str]:
    """Return one line 'name:red,green,blue:parts:actions' for the background, each class, and ignored pixels."""
    colours = colour_map().tolist()
    numbered = [*enumerate(("background", *class_names)), *([(IGNORE_INDEX, "ignored")] if ignored else [])]
    lines = [f"{label_map_name(name)}:{','.join(map(str, colours[number]))}::" for number, name in numbered]
    return ["# label:color_rgb:parts:actions", *lines]


def label_map_name(name: str) -> str:
    """Replace ':', which ends a name in the file, and '#' at the start, where it begins a comment."""
    return re.sub("^#", "_", name.replace(":", "_"))
