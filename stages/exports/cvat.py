"""`--format cvat`: CVAT's format 'Segmentation mask 1.1'.

    labelmap.txt                           name:red,green,blue:parts:actions, one line for each class
    SegmentationClass/<image id>.png       the colours of the classes
    SegmentationObject/<image id>.png      each object (see instances.py) in a colour of its own, up to 255
    ImageSets/Segmentation/default.txt     one image id per line

Masks keep the folders of their images, as the frames of a task do. Ignored pixels (255) are background here: CVAT
has no pixels without a label. See https://docs.cvat.ai/docs/dataset_management/formats/format-smask.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data.atomic_write import atomic_write
from data.dataset import IGNORE_INDEX, Mask
from data.errors import SettingsError
from data.output_place import check_file_names
from data.palette import colour_map
from stages.exports.components import Component
from stages.exports.instances import InstanceFinder
from stages.exports.label_map import label_map_lines, label_map_name
from stages.exports.labelled_images import LabelledImages

LAST_OBJECT = 255
Colours = NDArray[np.uint8]  # (n, 3): red, green, blue


def export_cvat(images: LabelledImages, out: Path) -> list[Path]:
    """Write the folder tree, and return its files.

    Raises:
        DataError: An image is missing or unreadable, or its size differs from the size of its mask.
        SettingsError: The name of a file is too long, or two classes have the same name in labelmap.txt.
    """
    names_there = [label_map_name(name) for name in images.class_names]
    if twice := [name for name in names_there if names_there.count(name) > 1]:
        raise SettingsError(
            f"labelmap.txt has '_' for ':' and for a first '#', so two classes would both be '{twice[0]}' in CVAT: use "
            "another format"
        )
    files: list[Path] = []
    names: list[str] = []
    check_file_names([out / "SegmentationObject" / f"{one.id}.png" for one in images.samples])
    finder = InstanceFinder.of(replace(images, min_area=1))  # people correct whole masks
    object_palette = _object_palette()
    crowded = 0
    for image in images:
        mask = np.where(image.mask == IGNORE_INDEX, 0, image.mask).astype(np.uint8)
        objects = finder(image)
        crowded += len(objects) > LAST_OBJECT
        numbers = _object_numbers(mask.shape, objects, len(images.class_names))
        pictures = {"SegmentationClass": colour_map()[mask], "SegmentationObject": object_palette[numbers]}
        for folder, pixels in pictures.items():
            files.append(out / folder / f"{image.id}.png")
            with atomic_write(files[-1]) as temporary:
                Image.fromarray(pixels).save(temporary, format="png")
        names.append(image.id)
    lists = {
        out / "labelmap.txt": label_map_lines(images.class_names, ignored=False),
        out / "ImageSets" / "Segmentation" / "default.txt": names,
    }
    for path, lines in lists.items():
        with atomic_write(path) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    images.monitor.note(finder.summary)
    if crowded:
        images.monitor.note(
            f"images with more than {LAST_OBJECT} objects, the most that CVAT can tell apart: {crowded}; there, the "
            "smallest ones of a class are one object"
        )
    return [*files, *lists]


def _object_numbers(shape: tuple[int, ...], objects: Sequence[Component], classes: int) -> Mask:
    """Number the objects (h, w) from 1 to 255; 0 is outside. In an image with more, the smallest ones share a number.

    Numbers are shared within a class only: CVAT gives all pixels of a number the same class.
    """
    numbers = np.zeros(shape, np.uint8)
    own = LAST_OBJECT if len(objects) <= LAST_OBJECT else LAST_OBJECT - classes
    for rank, one in enumerate(sorted(objects, key=lambda one: -one.area)):
        number = rank + 1 if rank < own else own + one.class_number
        numbers[one.window][one.pixels] = number
    return numbers


def _object_palette() -> Colours:
    """Return the colours (256, 3) of the object numbers, those of Pascal VOC: CVAT refuses any other."""
    numbers = np.arange(LAST_OBJECT + 1)
    # Bit 3 b + c of the number is bit 7 - b of channel c.
    channels = [sum((numbers >> 3 * bit + channel & 1) << 7 - bit for bit in range(3)) for channel in range(3)]
    return np.stack(channels, axis=1).astype(np.uint8)
