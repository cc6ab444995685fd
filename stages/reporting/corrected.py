"""Before and after: the corrected masks of a run, for its report."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image

from data.dataset import Mask
from data.images import read_image
from data.palette import class_colours
from data.pictures import coloured
from stages.corrections.correction_file import CorrectionFile
from stages.networks.inference import to_tensor
from stages.reporting.gallery import PICTURE_SIDE, data_url
from stages.reporting.products import RunProducts
from stages.run_folder.run_data import skipping, spread
from stages.runtime.monitor import Monitor

SHOWN_IMAGES = 12  # images


@dataclass(frozen=True, kw_only=True)
class CorrectedEntry:
    """One image with a corrected mask. Pictures are data URLs, by title."""

    name: str
    pictures: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class CorrectedMasks:
    """The corrected masks of a run: their number, and some of them."""

    count: int
    entries: tuple[CorrectedEntry, ...]


def corrected_masks(products: RunProducts, monitor: Monitor, *, skip_bad: bool) -> CorrectedMasks | None:
    """Draw some of the corrected masks, with the pseudo mask before and the mask of the present student.

    Returns:
        None if there are no corrected masks of images of the data set.

    Raises:
        DataError: An image cannot be read, and `skip_bad` is false.
        ArtifactError: corrections.h5 is damaged.
    """
    corrections = CorrectionFile(products.run, products.dataset.class_names)
    known = products.dataset.by_id()
    ids = sorted(one for one in corrections.classes if one in known)
    if not ids:
        return None
    colours = class_colours(len(products.dataset.class_names))
    found = []
    for image_id in spread(ids, SHOWN_IMAGES):
        with skipping(skip_bad, monitor):
            image = read_image(known[image_id].image, rule=known[image_id].pixels)
            masks: dict[str, Mask | None] = {
                "pseudo mask before": corrections.before(image_id),
                "corrected": corrections.mask(image_id).read(),
            }
            if products.student is not None:
                masks["student now"] = products.student(to_tensor(image)).numpy().astype(np.uint8)
            small = image.copy()
            small.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
            pictures = {"image": data_url(small)}
            for title, mask in masks.items():
                if mask is not None:
                    reduced = np.asarray(Image.fromarray(mask).resize(small.size, Image.Resampling.NEAREST))
                    pictures[title] = data_url(coloured(small, reduced, colours))
            found.append(CorrectedEntry(name=image_id, pictures=pictures))
    return CorrectedMasks(count=len(ids), entries=tuple(found))
