"""Segment images in memory, with the pixels that `toco predict` writes.

Letters: h w pixels of an image; `classes` includes the background, which comes first.
"""

import warnings
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, overload

import numpy as np
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from PIL import Image

from data.band_image import Pixels, as_picture, clipped_share, is_dark
from data.errors import SettingsError
from data.images import as_pixels, read_pixels
from data.missing_pixels import without_missing_pixels
from data.pixel_facts import describe_clipped, describe_dark
from data.pixel_rule import PixelRule
from stages.config import Predict
from stages.networks.choose_network import rule_for_new_images
from stages.networks.inference import resize_maps, to_tensor
from stages.networks.segmenter import Segmenter, open_segmenter

ImageLike = NDArray[Any] | Image.Image | Path | str


class Predictor:
    """A trained network that segments images in memory; `toco.load` makes it.

    An image is a path, a Pillow image, or an array: (h, w) or (h, w, 3), uint8 or uint16, red first; if the network was
    trained on other bands, (h, w, bands) with all bands of a file. Files are read as
    `toco predict` reads them, with their EXIF orientation. Pillow images and arrays are not rotated.
    """

    def __init__(self, segmenter: Segmenter, pixels: PixelRule) -> None:
        """Use a network that is loaded already.

        Args:
            segmenter: The network.
            pixels: How values in images become 8-bit RGB.
        """
        self._segmenter = segmenter
        self._pixels = pixels

    def __repr__(self) -> str:
        return f"<toco network {self._segmenter.folder.path}, classes: {', '.join(self.class_names)}>"

    @property
    def class_names(self) -> tuple[str, ...]:
        """The foreground classes; class c of a mask is `class_names[c - 1]`."""
        return self._segmenter.folder.class_names

    @overload
    def predict(self, image: ImageLike) -> UInt8[np.ndarray, "h w"]: ...  # type: ignore[overload-overlap]  # str
    @overload
    def predict(self, image: Sequence[ImageLike]) -> list[NDArray[np.uint8]]: ...
    def predict(self, image: ImageLike | Sequence[ImageLike]) -> NDArray[np.uint8] | list[NDArray[np.uint8]]:
        """Label each pixel: 0 background, 1..C classes, 255 where the image has no value, such as NaN.

        Args:
            image: An image, or a list of images of any sizes. Neighbours of equal size share a forward pass.

        Returns:
            A mask (h, w) of the image's size; for a list, a list of masks.

        Raises:
            DataError: An image cannot be read, or has no standard conversion to 8-bit RGB.
        """
        pictures = self._read(image)
        labels = [
            result.label.numpy()
            for batch in self._batches(pictures)
            for result in self._segmenter.segment([to_tensor(one) for one in batch])
        ]
        files = [Path(one) if isinstance(one, str) else one for one in _listed(image)]
        masks = [without_missing_pixels(label, one, self._pixels) for label, one in zip(labels, files, strict=True)]
        return masks if isinstance(image, Sequence) and not isinstance(image, str) else masks[0]

    @overload
    def probabilities(self, image: ImageLike) -> Float[np.ndarray, "classes h w"]: ...  # type: ignore[overload-overlap]
    @overload
    def probabilities(self, image: Sequence[ImageLike]) -> list[NDArray[np.float32]]: ...
    def probabilities(self, image: ImageLike | Sequence[ImageLike]) -> NDArray[np.float32] | list[NDArray[np.float32]]:
        """Return the probability of each class at each pixel.

        Args:
            image: An image, or a list of images of any sizes.

        Returns:
            float32 (C + 1, h, w) in 0..1, background first; for a list, a list of these.

        Raises:
            DataError: An image cannot be read, or has no standard conversion to 8-bit RGB.
            SettingsError: The network was loaded with a window, which gives labels only.
        """
        if self._segmenter.config.window is not None:
            raise SettingsError("probabilities do not work with window: they need the whole image; load without it")
        pictures = self._read(image)
        maps = [
            resize_maps(one, (picture.height, picture.width)).cpu().numpy()
            for batch in self._batches(pictures)
            for picture, one in zip(batch, self._segmenter.probabilities([to_tensor(p) for p in batch]), strict=True)
        ]
        return maps if isinstance(image, Sequence) and not isinstance(image, str) else maps[0]

    def _read(self, given: ImageLike | Sequence[ImageLike]) -> list[Pixels]:
        pictures = [
            read_pixels(Path(one), rule=self._pixels) if isinstance(one, str | Path) else as_pixels(one, self._pixels)
            for one in _listed(given)
        ]
        clipped = describe_clipped(map(clipped_share, pictures), self._pixels)
        dark = [f"image {number}" for number, one in enumerate(pictures, 1) if is_dark(as_picture(one))]
        for text in (clipped, describe_dark(dark, len(pictures), self._pixels)):
            if text:
                warnings.warn(text, stacklevel=3)
        return pictures

    def _batches(self, pictures: Sequence[Pixels]) -> list[list[Pixels]]:
        size = self._segmenter.batch_size
        groups = [list(group) for _, group in groupby(pictures, key=lambda picture: picture.size)]
        return [group[first : first + size] for group in groups for first in range(0, len(group), size)]


def _listed(given: ImageLike | Sequence[ImageLike]) -> list[Any]:
    return list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]


def load_predictor(run: Path, config: Predict) -> Predictor:
    """Load the network of a run for images in memory.

    Args:
        run: A run folder in which `toco train-seg` finished (for the decoder, `toco train-cam`).
        config: Settings; `outputs` has no meaning here.

    Raises:
        ArtifactError: The network is missing or damaged.
        SettingsError: This machine lacks the device.
    """
    segmenter = open_segmenter(run, config)
    return Predictor(segmenter, rule_for_new_images(run, segmenter.folder.pixels))
