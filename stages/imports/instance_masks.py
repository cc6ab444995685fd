"""`--from coco`: a JSON file of COCO instances, with polygons or run lengths. Later objects cover earlier ones.

Images without an object count as not annotated, because tools list all images, also those that were never opened.
"""

from functools import partial
from pathlib import Path

import numpy as np

from data.coco_annotations import ImageEntry, read_instances
from data.dataset import Mask
from data.errors import DataError
from stages.imports.drawn_masks import ClassNumbers, DrawnMask, FoundMasks, Size


def find_instance_masks(path: Path, class_names: tuple[str, ...]) -> FoundMasks:
    """List the images that have objects.

    Raises:
        DataError: The file is damaged, or is another format.
    """
    if not path.is_file():
        raise DataError(f"{path} is not a file: give the .json file with the instances")
    content = read_instances(path)
    numbers = ClassNumbers(class_names)
    annotated = [one for one in content.images if one.annotations]
    return FoundMasks(
        masks=[
            DrawnMask(
                names=(one.file_name,),
                where=f"{path}, {one.where}",
                read=partial(_draw, one, content.categories, numbers),
            )
            for one in annotated
        ],
        problems=[f"{path}, {one}: it is not in 'images'" for one in content.stray],
        unannotated=len(content.images) - len(annotated),
    )


def _draw(entry: ImageEntry, categories: dict[str, str], numbers: ClassNumbers, size: Size) -> Mask:
    if entry.size not in (None, size):
        raise DataError(f"it is for an image of {entry.size} (height, width), the image has {size}")
    mask = np.zeros(size, np.uint8)
    for one in entry.annotations:
        number = numbers.of(categories[one.category])
        if one.segmentation is None:
            raise DataError(f"{one.where} has only a box: draw its outline")
        if region := one.region(number, size):
            mask[region.draw(*size)] = number
    return mask
