"""`--format cvat`: CVAT's format 'Segmentation mask 1.1'.

    labelmap.txt                           name:red,green,blue:parts:actions, one line for each class
    SegmentationClass/<image id>.png       the colours of the classes
    SegmentationObject/<image id>.png      each object (see instances.py) in a colour of its own
    ImageSets/Segmentation/default.txt     one image id per line

Masks keep the folders of their images, as the frames of a task do. Ignored pixels (255) are background here: CVAT
has no pixels without a label. See https://docs.cvat.ai/docs/dataset_management/formats/format-smask.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from data.atomic_write import atomic_write
from data.dataset import IGNORE_INDEX, Mask
from data.output_place import check_file_names
from data.palette import class_colours, colour_map
from stages.exports.instances import Instance, InstanceFinder
from stages.exports.labelled_images import LabelledImages


def export_cvat(images: LabelledImages, out: Path) -> list[Path]:
    """Write the folder tree, and return its files.

    Raises:
        DataError: An image is missing or unreadable, or its size differs from the size of its mask.
        SettingsError: The name of a file is too long.
    """
    files: list[Path] = []
    names: list[str] = []
    check_file_names([out / "SegmentationObject" / f"{one.id}.png" for one in images.samples])
    finder = InstanceFinder.of(images)
    for image in images:
        mask = np.where(image.mask == IGNORE_INDEX, 0, image.mask).astype(np.uint8)
        pictures = {"SegmentationClass": colour_map()[mask], "SegmentationObject": _object_colours(mask, finder(image))}
        for folder, pixels in pictures.items():
            files.append(out / folder / f"{image.id}.png")
            with atomic_write(files[-1]) as temporary:
                Image.fromarray(pixels).save(temporary, format="png")
        names.append(image.id)
    lists = {
        out / "labelmap.txt": cvat_label_map(images.class_names),
        out / "ImageSets" / "Segmentation" / "default.txt": names,
    }
    for path, lines in lists.items():
        with atomic_write(path) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    images.monitor.note(finder.summary)
    return [*files, *lists]


def cvat_label_map(class_names: tuple[str, ...]) -> list[str]:
    """Return one line 'name:red,green,blue:parts:actions' for the background and each class."""
    colours = colour_map().tolist()
    numbered = enumerate(("background", *class_names))
    lines = [f"{name.replace(':', '_')}:{','.join(map(str, colours[number]))}::" for number, name in numbered]
    return ["# label:color_rgb:parts:actions", *lines]


def _object_colours(mask: Mask, objects: Sequence[Instance]) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Colour each object (h, w, 3); the colours repeat after 254 objects."""
    colours = class_colours(254)
    pixels = np.zeros((*mask.shape, 3), np.uint8)
    for number, one in enumerate(objects):
        pixels[one.region.window][one.region.pixels] = colours[number % 254]
    return pixels
