"""`--format labelstudio`: tasks with the masks as predictions, for correction with the brush of Label Studio.

    tasks.json      a list of tasks: the URL of an image, and one brush region for each class in its mask
    config.xml      the labelling interface, to paste into the project's settings

The images are not copied. Their URLs are those of Label Studio's local storage, and start with the name of the image
folder. Ignored pixels (255) belong to no region.

The run-length code is the format of rle-pack (https://github.com/thi-ng/umbrella/tree/develop/packages/rle-pack). It is
encoded here because the encoder of label-studio-sdk would add 45 packages (pandas, nltk, a code generator, OpenCV) and
an older numpy, and label-studio-converter is no longer maintained. The tests decode with label-studio-converter.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from data.atomic_write import atomic_write
from data.palette import class_colours
from stages.exports.labelled_images import LabelledImage, LabelledImages, classes_in_mask
from stages.exports.xml_names import xml_name

LENGTH_BITS = (3, 4, 8, 16)  # bits for the length of a run, for each of the four kinds of runs
CHANNELS = 4  # Label Studio stores a brush region as RGBA, with four equal channels
BRUSH, PICTURE = "brush", "image"  # names of the tags in the labelling interface


def export_labelstudio(images: LabelledImages, out: Path) -> list[Path]:
    """Write the tasks and the labelling interface, and return both files.

    Raises:
        DataError: An image is missing or unreadable, or its size differs from the size of its mask.
    """
    tasks, config = out / "tasks.json", out / "config.xml"
    with atomic_write(tasks) as temporary, temporary.open("w", encoding="utf-8") as stream:
        for number, image in enumerate(images):
            stream.write(",\n" if number else "[\n")
            json.dump(_task(image, images), stream)
        stream.write("\n]\n")
    with atomic_write(config) as temporary:
        _interface(images.class_names).write(temporary, encoding="utf-8")
    images.warn_of_rotated("so browsers show them; programs that read the corrected masks must rotate the images, too")
    images.monitor.note(f"the image URLs in the tasks are relative to {images.folder.parent}")
    return [tasks, config]


def _task(image: LabelledImage, images: LabelledImages) -> dict[str, Any]:
    path = f"{images.folder.name}/{image.file_name}"
    regions = list(_regions(image.mask, images.class_names))
    return {
        "data": {PICTURE: f"/data/local-files/?d={quote(path)}", "image_id": image.id},
        "predictions": [{"model_version": "toco", "result": regions}],
    }


def _regions(mask: NDArray[np.uint8], class_names: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    height, width = mask.shape
    for number in classes_in_mask(mask):
        yield {
            "id": f"class{number}",
            "type": "brushlabels",
            "from_name": BRUSH,
            "to_name": PICTURE,
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "value": {
                "format": "rle",
                "rle": list(brush_code(mask == number)),
                "brushlabels": [xml_name(class_names[number - 1])],  # as in the interface
            },
        }


def _interface(class_names: tuple[str, ...]) -> ElementTree.ElementTree:
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Image", name=PICTURE, value=f"${PICTURE}", zoom="true", zoomControl="true")
    brush = ElementTree.SubElement(view, "BrushLabels", name=BRUSH, toName=PICTURE)
    for name, colour in zip(class_names, class_colours(len(class_names)).tolist(), strict=True):
        ElementTree.SubElement(brush, "Label", value=xml_name(name), background="#{:02x}{:02x}{:02x}".format(*colour))
    ElementTree.indent(view)
    return ElementTree.ElementTree(view)


def brush_code(pixels: NDArray[np.bool_]) -> bytes:
    """Encode the pixels (h, w) of a brush region, row by row, as rle-pack.

    Numbers are written with the highest bit first. The header holds the number of values (32 bits), the bits per value
    minus 1 (5 bits), and for each of the four kinds of runs its LENGTH_BITS minus 1 (4 bits). Each run then holds a 1,
    its kind (2 bits), its length minus 1 (LENGTH_BITS of its kind), and its value, 0 or 255 (8 bits).
    """
    flat = pixels.ravel()
    borders = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    starts = [0, *borders.tolist()]
    lengths = np.diff([*starts, flat.size]) * CHANNELS
    bits = [f"{flat.size * CHANNELS:032b}", f"{8 - 1:05b}", *(f"{size - 1:04b}" for size in LENGTH_BITS)]
    for start, length in zip(starts, lengths.tolist(), strict=True):
        bits.extend(_run(length, "1" * 8 if flat[start] else "0" * 8))
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big")


def _run(length: int, value: str) -> Iterator[str]:
    longest = 1 << LENGTH_BITS[-1]
    while length > 0:
        part = min(length, longest)
        kind = next(kind for kind, size in enumerate(LENGTH_BITS) if part <= 1 << size)
        yield f"1{kind:02b}{part - 1:0{LENGTH_BITS[kind]}b}{value}"
        length -= part
