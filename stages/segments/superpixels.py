"""Superpixels: parts of an image of similar colour. This file does not import torch."""

import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray
from PIL import Image

from data.segment_files import pixels_by_number
from stages.config import MakeLabels

SLIC_PIXELS = 1_000_000  # superpixels of larger images are made at this size


def superpixels(image: UInt8[np.ndarray, "h w 3"], config: MakeLabels) -> list[NDArray[np.int64]]:
    """Return the pixels of each SLIC superpixel (Achanta et al., TPAMI 2012), as row * width + column.

    Those of a large image are made on a reduced one and enlarged: the image's own scores are coarser than that.
    """
    from skimage.segmentation import slic

    height, width = image.shape[:2]
    factor = min(1.0, (SLIC_PIXELS / (height * width)) ** 0.5)
    small = (max(1, round(factor * width)), max(1, round(factor * height)))
    reduced = np.asarray(Image.fromarray(image).resize(small, Image.Resampling.BOX)) if factor < 1 else image
    labels = slic(reduced, n_segments=config.slic_segments, compactness=config.slic_compactness, start_label=1)
    if factor < 1:
        enlarged = Image.fromarray(labels.astype(np.int32)).resize((width, height), Image.Resampling.NEAREST)
        labels = np.asarray(enlarged)
    return pixels_by_number(labels)
