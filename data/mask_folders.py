"""Names of the folders that hold ground-truth masks: the one that is read, and others that probably hold some."""

from __future__ import annotations

import re

MASKS_FOLDER = "masks"  # is read
_MASKS = r"masks?|targets?|labels?|gt|gt_?(fine|coarse)|seg(mentation)?s?"
# In class folders, also the results of other programs. These names are doubtful only beside a folder of images.
MASK_PART = re.compile(rf"{_MASKS}|outputs?|depth", re.IGNORECASE)
_PROBABLY = re.compile(
    rf"{_MASKS}|annotations?|.*[ _-]masks|.*ground[ _-]?truths?|segmentation(class|object).*", re.IGNORECASE
)


def probably_masks(name: str) -> bool:
    """Tell by the name of a folder beside images/ whether PNGs in it are probably ground-truth masks."""
    return _PROBABLY.fullmatch(name) is not None
