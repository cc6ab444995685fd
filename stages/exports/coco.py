"""`--format coco`: one file of instances as in COCO.

    annotations/instances_<split>.json      categories 1..C, images, annotations

The images stay where they are: `file_name` is relative to the data set's images' folder.

Each connected patch of a class is an instance whose segmentation is a compressed run-length code, exact to the pixel.
`iscrowd` is 0: pycocotools tells polygons from run lengths by the segmentation itself, while trainers take 1 for a
crowd and leave such instances out. Ignored pixels (255) belong to no instance.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as run_lengths

from data.atomic_write import atomic_write
from stages.exports.components import Component, components
from stages.exports.flat_names import flat_name
from stages.exports.labelled_images import LabelledImages


def export_coco(images: LabelledImages, out: Path) -> list[Path]:
    """Write the file; returns it alone. Memory holds the codes of all instances, but no masks."""
    entries: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, image in enumerate(images, start=1):
        height, width = image.mask.shape
        entries.append({"id": number, "file_name": image.file_name, "height": height, "width": width})
        for annotation in _annotations(image.mask):
            annotations.append({"id": len(annotations) + 1, "image_id": number, **annotation})
    content = {
        "info": {"description": f"pseudo masks made by toco from image labels, split '{images.split}'"},
        "licenses": [],
        "categories": [{"id": number, "name": name} for number, name in enumerate(images.class_names, start=1)],
        "images": entries,
        "annotations": annotations,
    }
    file = out / "annotations" / f"instances_{flat_name(images.split)}.json"
    with atomic_write(file) as temporary, temporary.open("w", encoding="utf-8") as stream:
        json.dump(content, stream)
    images.monitor.note(f"the image files' names are relative to {images.folder}")
    return [file]


def _annotations(mask: NDArray[np.uint8]) -> Iterator[Mapping[str, Any]]:
    for component in components(mask):
        height, width = component.pixels.shape
        yield {
            "category_id": component.class_number,
            "iscrowd": 0,
            "area": component.area,
            "bbox": [component.left, component.top, width, height],
            "segmentation": {"size": list(mask.shape), "counts": _counts(component, mask.shape)},
        }


def _counts(component: Component, shape: tuple[int, ...]) -> str:
    # Runs are counted in the cut-out: an image of (h, w) for each of its patches would be most of the work.
    height, width = shape
    columns, rows = np.nonzero(component.pixels.T)
    places = (component.left + columns) * height + component.top + rows  # column by column, ascending
    gaps = np.flatnonzero(np.diff(places) != 1)
    starts, ends = places[[0, *(gaps + 1)]], places[[*gaps, -1]] + 1
    borders = np.stack([starts, ends], axis=1).ravel()
    counts = np.diff(borders, prepend=0, append=height * width).tolist()  # of 0, 1, 0, ...
    if counts[-1] == 0:
        counts.pop()
    plain: Any = {"size": [height, width], "counts": counts}
    code: Any = run_lengths.frPyObjects(plain, height, width)
    packed: bytes = code["counts"]
    return packed.decode("ascii")
