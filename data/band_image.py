"""Images for networks that have other values than 8-bit red, green and blue.

An image of a data set is a Pillow image in RGB, or a `BandImage`: any number of bands in float32, so that no depth is
lost. Its values have the range of an RGB image's, so that networks and colour changes treat both alike.

Letters: h w pixels, c bands.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image

CLIPPED = "toco clipped"  # key of the info of Pillow images, which Pillow copies to images made from them
DARK = 20  # nearly black images have values (0..255) up to this
FEW_CLIPPED = 0.01  # share of the pixels of an image that may be clipped, since their ranges leave out extreme values

# Values may lie this far outside of the range of the training images, in units of it. What lies further out is clipped.
MARGIN = 1.0


@dataclass(frozen=True, eq=False)
class BandImage:
    """An image of any number of bands; it offers what training needs of a Pillow image, by the same names.

    Attributes:
        values: (h, w, c) float32. In each band, 0 to 255 is the range of the training images' values.
        fill: Value of each band where there is none: their mean in the training images.
        clipped: Share of the pixels, 0..1, with a value that was clipped, see `MARGIN`.
    """

    values: Float[NDArray[np.float32], "h w c"]
    fill: tuple[float, ...]
    clipped: float = 0.0

    @property
    def width(self) -> int:
        """Pixels across."""
        return int(self.values.shape[1])

    @property
    def height(self) -> int:
        """Pixels down."""
        return int(self.values.shape[0])

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.width, self.height

    def resize(
        self, size: tuple[int, int], resample: Image.Resampling, *, reducing_gap: float | None = None
    ) -> BandImage:
        """Resize as Pillow does, band by band."""
        bands = [
            Image.fromarray(np.ascontiguousarray(band)).resize(size, resample, reducing_gap=reducing_gap)
            for band in np.moveaxis(self.values, -1, 0)
        ]
        return BandImage(np.stack([np.asarray(band) for band in bands], axis=-1), self.fill, self.clipped)

    def tobytes(self) -> bytes:
        """Return the values as bytes, row by row."""
        return self.values.tobytes()

    def flipped(self) -> BandImage:
        """Return the image flipped horizontally."""
        return BandImage(self.values[:, ::-1], self.fill, self.clipped)

    def picture(self) -> Image.Image:
        """Return the image in 8-bit RGB, for people and for methods that follow edges."""
        shown = np.empty((self.height, self.width, 3), np.uint8)
        for place, band in enumerate(shown_bands(self.values.shape[2])):  # all at once, a large image needs gigabytes
            shown[..., place] = self.values[..., band].clip(0, 255).round()
        picture = Image.fromarray(shown)
        picture.info[CLIPPED] = clipped_share(self)
        return picture


Pixels = Image.Image | BandImage  # an image of a data set: 8-bit RGB, or bands


def as_picture(image: Pixels) -> Image.Image:
    """Return an image in 8-bit RGB, for people and for methods that follow edges."""
    return image.picture() if isinstance(image, BandImage) else image


def clipped_share(image: Pixels) -> float:
    """Return the share of the pixels of an image read by `read_pixels` in which a value was clipped, 0..1."""
    if isinstance(image, BandImage):
        return image.clipped if image.clipped > FEW_CLIPPED else 0.0
    return float(image.info.get(CLIPPED, 0.0))


def is_dark(picture: Image.Image) -> bool:
    """Whether a picture in RGB is nearly black: no value is above `DARK`."""
    extrema: tuple[tuple[int, int], ...] = picture.getextrema()  # type: ignore[assignment]  # of each band
    return max(high for _, high in extrema) <= DARK


def shown_bands(count: int) -> tuple[int, ...]:
    """Choose the bands, from 0, that are shown as red, green and blue: the first three, or the first one as grey."""
    return (0, 1, 2) if count >= 3 else (0, 0, 0)
