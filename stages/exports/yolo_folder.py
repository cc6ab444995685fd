"""The folders that the formats of the YOLO family share.

    images/<split>/<name>.<extension>       copies of the images; byte for byte, unless EXIF rotates them
    labels/<split>/<name>.txt               one line per object
    data.yaml                               the folders and the class names

Each <name> is a flat name, see flat_names.py.
"""

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import yaml

from data.atomic_write import atomic_write
from data.images import is_rotated
from stages.exports.components import Component
from stages.exports.flat_names import flat_name
from stages.exports.instances import InstanceFinder
from stages.exports.labelled_images import LabelledImage, LabelledImages
from stages.exports.upright_images import JPEG_QUALITY, save_upright

VAL_COMMENT = "# 'val' is required, so it repeats 'train': replace it by images with ground-truth masks.\n"


def write_yolo_folder(
    images: LabelledImages, out: Path, lines: Callable[[LabelledImage, list[Component]], Iterable[str]]
) -> list[Path]:
    """Write the labels, copies of the images, and data.yaml; return the files.

    Args:
        images: The images.
        out: The folder.
        lines: Gives the lines of an image's label file.

    Raises:
        DataError: An image is missing or unreadable, or its size differs from the size of its mask.
    """
    files = []
    turned = in_rgb = 0
    split = flat_name(images.split)
    finder = InstanceFinder.of(images)
    for image in images:
        name = flat_name(image.id)
        # Loaders take three channels of 8 bits, so that images with other bands are exported as they are shown.
        shown = bool(image.pixels.bands)
        picture = out / "images" / split / f"{name}{'.png' if shown else image.file.suffix}"
        label = out / "labels" / split / f"{name}.txt"
        text = "".join(f"{line}\n" for line in lines(image, finder(image)))
        rotated = is_rotated(image.file)
        turned += rotated and not shown
        in_rgb += shown
        with atomic_write(picture) as temporary:
            if rotated or shown:
                save_upright(image.file, temporary, picture.suffix, image.pixels)
            else:
                shutil.copyfile(image.file, temporary)
        with atomic_write(label) as temporary:
            temporary.write_text(text, encoding="utf-8")
        files += [picture, label]
    images.monitor.note(finder.summary)
    if stale := sorted(set((out / "labels" / split).glob("*.txt")) - set(files)):
        images.monitor.warn(
            f"{len(stale)} label file{'s are' if len(stale) > 1 else ' is'} of an earlier export (first {stale[0]}), "
            "and training reads all files of the folder: delete them with their images, or export into a new folder"
        )
    if in_rgb:
        images.monitor.note(f"saved as PNG in 8-bit RGB, because the images have other bands or more bits: {in_rgb}")
    if turned:
        images.monitor.note(
            f"saved upright, because not all loaders apply the rotation in EXIF (JPEG quality {JPEG_QUALITY}): "
            f"{turned} of {len(images.samples)} images"
        )
    content = {
        "train": f"images/{split}",
        "val": f"images/{split}",
        "names": dict(enumerate(images.class_names)),
    }
    with atomic_write(out / "data.yaml") as temporary:
        text = yaml.safe_dump(content, allow_unicode=True, sort_keys=False)
        temporary.write_text(VAL_COMMENT + text, encoding="utf-8")
    return [*files, out / "data.yaml"]
