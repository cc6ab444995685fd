"""`--from labelstudio`: the JSON export of Label Studio, a list of tasks with annotations.

Brush strokes, polygons, rectangles and ellipses of the newest annotation of each image are drawn in their order, so
that later regions cover earlier ones. Predictions, choices and texts are not read. Places are in percent of the image
(https://labelstud.io/guide/task_format.html); a brush region is a run-length code of rle-pack, see `brush_code`.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
from numpy.typing import NDArray

from data.coco_annotations import Annotation
from data.dataset import Mask
from data.errors import DataError, reason
from stages.exports.labelstudio import CHANNELS
from stages.imports.drawn_masks import ClassNumbers, DrawnMask, FoundMasks, Size

SHAPES = ("brush", "polygon", "rectangle", "ellipse")  # types of results that are drawn, also as 'brushlabels' ...
OTHER_SHAPES = ("keypoint", "bitmask", "magicwand", "vector", "cube")  # drawn by people, but not read here
UPLOADED = re.compile(r"[0-9a-f]{8}-")  # Label Studio writes this before the names of uploaded files
ELLIPSE_CORNERS = 90
EXPORT_ADVICE = "export from Label Studio as 'JSON' (not 'JSON-MIN')"


def find_labelling_tasks(path: Path, class_names: tuple[str, ...]) -> FoundMasks:
    """List the annotations of all tasks.

    Raises:
        DataError: The file is damaged, or is another format.
    """
    try:
        tasks = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as JSON ({reason(error)}): {EXPORT_ADVICE}") from error
    if not isinstance(tasks, list) or not all(isinstance(one, dict) for one in tasks):
        raise DataError(f"{path} is not a list of tasks: {EXPORT_ADVICE}")
    if any("annotations" not in one for one in tasks):
        raise DataError(f"{path} has tasks without 'annotations': {EXPORT_ADVICE}")
    found = FoundMasks()
    numbers = ClassNumbers(class_names)
    for place, task in enumerate(tasks):
        where = f"{path}, task {task.get('id', f'number {place + 1}')}"
        done = [one for one in task["annotations"] or () if isinstance(one, dict) and not one.get("was_cancelled")]
        names = tuple(_image_names(task.get("data")))
        if not done:
            found.unannotated += 1
        elif not names:
            found.problems.append(f"{where}: its data name no image")
        else:
            found.masks += [
                DrawnMask(
                    names=names,
                    where=f"{where}, annotation {one.get('id', number + 1)}",
                    read=partial(_draw, one, numbers),
                    annotator=_annotator(one.get("completed_by")),
                    annotated=str(one.get("updated_at") or one.get("created_at") or ""),
                )
                for number, one in enumerate(done)
            ]
    return found


def _image_names(data: Any) -> Iterator[str]:
    """Yield the names that a task's image may have: that of toco's export, the path in its URL, the uploaded name."""
    if not isinstance(data, Mapping):
        return
    if isinstance(data.get("image_id"), str):
        yield data["image_id"]
    for value in data.values():
        if not isinstance(value, str) or "/" not in value:
            continue
        url = urlsplit(value)
        path = parse_qs(url.query)["d"][0] if url.query.startswith("d=") else unquote(url.path)
        yield path.lstrip("/")
        last = path.rpartition("/")[2]
        if "upload/" in path and UPLOADED.match(last):
            yield last[len("01234567-") :]
        yield last


def _annotator(value: Any) -> str:
    if isinstance(value, Mapping):
        value = value.get("email") or value.get("username") or value.get("id")
    return "" if value is None else str(value)


def _draw(annotation: Mapping[str, Any], numbers: ClassNumbers, size: Size) -> Mask:
    results = annotation.get("result")
    if not isinstance(results, list) or not all(isinstance(one, dict) for one in results):
        raise DataError(f"its 'result' is not a list: {EXPORT_ADVICE}")
    labels: dict[Any, list[str]] = {}  # by region: a tag Labels writes them as a result of its own
    for one in results:
        if own := _labels(one):
            labels.setdefault(one.get("id"), own)
    mask = np.zeros(size, np.uint8)
    for one in results:
        kind = str(one.get("type", "")).removesuffix("labels")
        if kind in OTHER_SHAPES:
            raise DataError(
                f"it has a region of the type '{one['type']}': use the brush, polygons, rectangles or ellipses"
            )
        if kind not in SHAPES:
            continue
        names = _labels(one) or labels.get(one.get("id"), [])
        if len(names) != 1:
            raise DataError(f"a region has {len(names)} labels, {names or 'none'}: give each region one label")
        number = numbers.of(names[0])
        _check_size(one, size)
        try:
            mask[_pixels(kind, _values(one), number, size)] = number
        except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
            raise (
                error
                if isinstance(error, DataError)
                else DataError(f"a region of the type '{one['type']}' is damaged ({reason(error)}): {EXPORT_ADVICE}")
            ) from error
    return mask


def _values(result: Mapping[str, Any]) -> Mapping[str, Any]:
    value = result.get("value")
    return value if isinstance(value, Mapping) else {}


def _labels(result: Mapping[str, Any]) -> list[str]:
    found = (value for key, value in _values(result).items() if key.endswith("labels") and isinstance(value, list))
    return [str(name) for name in next(filter(None, found), [])]


def _check_size(result: Mapping[str, Any], size: Size) -> None:
    given = (result.get("original_height"), result.get("original_width"))
    if given != size:
        raise DataError(
            f"it was drawn on an image of {given[1]} x {given[0]} (width x height), the image has {size[1]} x {size[0]}"
        )
    if result.get("image_rotation"):
        raise DataError("its image is rotated in Label Studio: turn it back there")


def _pixels(kind: str, value: Mapping[str, Any], number: int, size: Size) -> NDArray[np.bool_]:
    height, width = size
    if kind == "brush":
        return brush_pixels(bytes(value["rle"]), size)
    if kind == "polygon":
        corners = [(float(x), float(y)) for x, y in value["points"]]
        corners = [(x * width / 100, y * height / 100) for x, y in corners]
    else:
        corners = list(_outline(kind, value, size))
    flat = [place for corner in corners for place in corner]
    region = Annotation("", "", [flat], None).region(number, size)
    return np.zeros(size, bool) if region is None else region.draw(height, width)


def _outline(kind: str, value: Mapping[str, Any], size: Size) -> Iterator[tuple[float, float]]:
    """Yield the corners, in pixels, of a rectangle or an ellipse that is rotated clockwise around `x`, `y`."""
    height, width = size
    x, y = value["x"] * width / 100, value["y"] * height / 100
    if kind == "rectangle":
        right, bottom = value["width"] * width / 100, value["height"] * height / 100
        offsets = [(0.0, 0.0), (right, 0.0), (right, bottom), (0.0, bottom)]
    else:
        across, down = value["radiusX"] * width / 100, value["radiusY"] * height / 100
        steps = [2 * math.pi * step / ELLIPSE_CORNERS for step in range(ELLIPSE_CORNERS)]
        offsets = [(across * math.cos(step), down * math.sin(step)) for step in steps]
    angle = math.radians(value.get("rotation") or 0)
    for dx, dy in offsets:
        yield x + dx * math.cos(angle) - dy * math.sin(angle), y + dx * math.sin(angle) + dy * math.cos(angle)


def brush_pixels(code: bytes, size: Size) -> NDArray[np.bool_]:
    """Decode the pixels (h, w) of a brush region: those whose opacity, the last of four channels, is not 0.

    The code is that of `stages.exports.labelstudio.brush_code`. Beside runs of one value, Label Studio writes lists of
    different values: they begin with 0 instead of 1.

    Raises:
        DataError: The code is damaged, or of another size.
    """
    text = "".join(f"{byte:08b}" for byte in code)
    place = 0

    def number(bits: int) -> int:
        nonlocal place
        place += bits
        if place > len(text):
            raise DataError("the code of a brush region ends too early: export again")
        return int(text[place - bits : place], 2)

    total, word = number(32), number(5) + 1
    if total != size[0] * size[1] * CHANNELS:
        raise DataError(f"a brush region has {total // CHANNELS} pixels, the image {size[0] * size[1]}")
    lengths = [number(4) + 1 for _ in range(4)]
    values = np.zeros(total, np.uint8)
    filled = 0
    while filled < total:
        same = number(1)
        length = number(lengths[number(2)]) + 1
        if filled + length > total:
            raise DataError("the code of a brush region is damaged: export again")
        if same:
            values[filled : filled + length] = number(word) > 0
        else:
            values[filled : filled + length] = [number(word) > 0 for _ in range(length)]
        filled += length
    return values[CHANNELS - 1 :: CHANNELS].reshape(size).astype(bool)
