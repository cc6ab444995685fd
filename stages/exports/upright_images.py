"""Upright copies of images. Programs that read exported images differ on whether they apply the EXIF orientation."""

from pathlib import Path
from typing import Any

from PIL import Image

from data.images import read_image
from data.pixel_rule import PixelRule

JPEG_QUALITY = 95  # higher values give larger files without a visible difference
SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    # Without chroma subsampling, which would blur the edges of colours.
    "JPEG": {"quality": JPEG_QUALITY, "subsampling": 0},
    "WEBP": {"lossless": True},
}


def save_upright(source: Path, file: Path, suffix: str, rule: PixelRule) -> None:
    """Decode an image, and save it upright in RGB, in the format of a suffix such as '.jpg'.

    Raises:
        DataError: The image is missing or unreadable.
    """
    format = Image.registered_extensions()[suffix.lower()]
    read_image(source, rule=rule).save(file, format=format, **SAVE_OPTIONS.get(format, {}))
