"""`--format coco`: one file of instances in the format of COCO.

    annotations/instances_<split>.json      categories 1..C, images, annotations

The images are not copied: `file_name` is relative to the image folder of the data set. Sizes and masks are those of the
upright images, as Detectron2 and OpenCV load them.

Each object of instances.py is one instance, with a `score`; `info` says how touching objects were separated and what
the score is. The segmentation is a compressed run-length code, exact to the pixel. `iscrowd` is 0, although COCO uses
run lengths for crowds: trainers skip instances with `iscrowd` 1, and pycocotools recognises run lengths from the
segmentation itself. Ignored pixels (255) belong to no instance.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as run_lengths

from data.atomic_write import atomic_write
from stages.exports.components import Component
from stages.exports.flat_names import flat_name
from stages.exports.instances import InstanceFinder, mean_scores, open_score_maps
from stages.exports.labelled_images import LabelledImages

ROTATION_ADVICE = (
    "so Detectron2 and OpenCV load them; with torchvision or Pillow, which do not rotate, apply "
    "PIL.ImageOps.exif_transpose, or use --format voc or yolo, which write upright images"
)


def export_coco(images: LabelledImages, out: Path) -> list[Path]:
    """Write the annotation file, and return its path as the only item of a list.

    Memory holds the run-length codes of all instances, but only one mask at a time.

    Raises:
        DataError: An image is missing or unreadable, or its size differs from the size of its mask.
    """
    entries: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    finder, maps = InstanceFinder.of(images), open_score_maps(images)
    for number, image in enumerate(images, start=1):
        height, width = image.mask.shape
        entries.append({"id": number, "file_name": image.file_name, "height": height, "width": width})
        objects = finder(image)
        for one, score in zip(objects, mean_scores(maps, image, objects), strict=True):
            annotation = _annotation(one, score, image.mask.shape)
            annotations.append({"id": len(annotations) + 1, "image_id": number, **annotation})
    content = {
        "info": {
            "description": f"pseudo masks made by toco from image labels, split '{images.split}'",
            "instances": finder.summary,
            "score": f"mean over the object of the map of its class in {maps.path.name}, 0 to 1; it ranks objects, and "
            "is no measured probability",
        },
        "licenses": [],
        "categories": [{"id": number, "name": name} for number, name in enumerate(images.class_names, start=1)],
        "images": entries,
        "annotations": annotations,
    }
    file = out / "annotations" / f"instances_{flat_name(images.split)}.json"
    with atomic_write(file) as temporary, temporary.open("w", encoding="utf-8") as stream:
        json.dump(content, stream)
    images.warn_of_rotated(ROTATION_ADVICE)
    images.monitor.note(finder.summary)
    images.monitor.note(f"file_name is relative to the image folder {images.folder}")
    return [file]


def _annotation(one: Component, score: float | None, shape: tuple[int, ...]) -> Mapping[str, Any]:
    height, width = one.pixels.shape
    return {
        "category_id": one.class_number,
        "iscrowd": 0,
        "area": one.area,
        "bbox": [one.left, one.top, width, height],
        "segmentation": {"size": list(shape), "counts": _counts(one, shape)},
        **({} if score is None else {"score": round(score, 4)}),
    }


def _counts(component: Component, shape: tuple[int, ...]) -> str:
    """Encode a component as COCO's compressed run lengths in a mask of shape (h, w)."""
    # The runs are counted in the component's bounding box. A full mask (h, w) for each component is much slower.
    height, width = shape
    columns, rows = np.nonzero(component.pixels.T)
    places = (component.left + columns) * height + component.top + rows  # COCO counts column by column; ascending
    gaps = np.flatnonzero(np.diff(places) != 1)
    starts, ends = places[[0, *(gaps + 1)]], places[[*gaps, -1]] + 1
    borders = np.stack([starts, ends], axis=1).ravel()
    counts = np.diff(borders, prepend=0, append=height * width).tolist()  # lengths of runs of 0, 1, 0, ...
    if counts[-1] == 0:
        counts.pop()
    plain: Any = {"size": [height, width], "counts": counts}
    code: Any = run_lengths.frPyObjects(plain, height, width)
    packed: bytes = code["counts"]
    return packed.decode("ascii")
