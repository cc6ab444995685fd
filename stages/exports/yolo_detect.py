"""`--format yolo-detect`: boxes for the detectors of the YOLO family.

The folders are those of yolo_folder.py. A label file has one line per object: the class from 0, then the centre x, y,
the width and the height of its box, each from 0 to 1. Ignored pixels (255) belong to no object.
"""

from pathlib import Path

from stages.exports.components import Component
from stages.exports.labelled_images import LabelledImages
from stages.exports.yolo_folder import write_yolo_folder


def export_yolo_detect(images: LabelledImages, out: Path) -> list[Path]:
    """Write the boxes, copies of the images, and data.yaml; return the files.

    Raises:
        DataError: An image is missing or unreadable, or its size differs from the size of its mask.
    """
    return write_yolo_folder(images, out, lambda image, objects: [box_line(one, image.mask.shape) for one in objects])


def box_line(region: Component, shape: tuple[int, ...]) -> str:
    """Format the bounding box of a region relative to an image of shape (h, w): its edges are those of the pixels."""
    height, width = region.pixels.shape
    centre = (region.left + width / 2) / shape[1], (region.top + height / 2) / shape[0]
    numbers = (*centre, width / shape[1], height / shape[0])
    return " ".join([str(region.class_number - 1), *(f"{number:.6f}" for number in numbers)])
