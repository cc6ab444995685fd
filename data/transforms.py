"""Random views of training images: rescaling, flips, crops and colour changes (METHOD section 7).

All randomness comes from torch's global generator, which `data.stream` seeds for each training sample. The order of the
draws is part of the result: changing it changes all seeded runs. Boxes are (y0, y1, x0, x1) in pixels; y1 and x1 are
exclusive. s is the side of the square views.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torch import Tensor, nn
from torchvision.transforms import v2

from data.band_image import BandImage, Pixels
from data.dataset import IGNORE_INDEX

# Padding has ImageNet's mean colour, which is zero after normalisation.
PADDING = (124, 116, 104)


class CamViews(NamedTuple):
    """The views of one image for a CAM training step; uint8 red, green, blue, or float32 bands in the same range."""

    image: Tensor  # (c, s, s): the training image, which is also the first global view
    second: Tensor  # (c, s, s): the second global view, another crop
    local: Tensor  # (c, s, s): the training image with other colour changes; local crops are cut from it
    box: Tensor  # (4,) int64: the part of `image` and `local` that is not padding
    missing: Tensor | None = None  # (s, s) bool: where `image` and `local` have no value; None if that was not given


class SegViews(NamedTuple):
    """An image, its mask and the confidence of the mask, in the same random view; uint8, but see `image`."""

    image: Tensor  # (c, s, s): red, green, blue, or float32 bands in the same range
    mask: Tensor  # (s, s): class numbers; 255 in the padding
    confidence: Tensor  # (s, s): 0 to 255 (certain); 255 everywhere if none was given


class Photometric:
    """Random changes of the colours of a view; the result is a tensor (c, s, s)."""

    def __init__(self, rgb: v2.Transform, bands: v2.Transform) -> None:
        """Set up.

        Args:
            rgb: Changes 8-bit RGB images of Pillow.
            bands: Changes tensors (c, s, s) of bands, whose usual range is 0..1.
        """
        self.rgb = rgb
        self.bands = bands

    def __call__(self, image: Image.Image | Tensor) -> Tensor:
        """Change an RGB image, or a tensor (c, s, s) of bands in 0..255."""
        if isinstance(image, Tensor):
            changed: Tensor = 255 * self.bands(image / 255)
            return changed
        view: Tensor = v2.functional.pil_to_tensor(self.rgb(image))
        return view


def jitter() -> Photometric:
    """Return the random change of brightness, contrast, and of the colours."""
    return Photometric(colour_jitter(), v2.RandomApply([BandJitter()], p=0.8))


def colour_jitter() -> v2.Transform:
    """Return the random change of brightness, contrast, saturation and hue, applied with probability 0.8."""
    return v2.RandomApply([v2.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)], p=0.8)


class BandJitter(nn.Module):
    """Random change of brightness and contrast, as large as in photographs, and of each band.

    Bands have no hue and no saturation, but light of another colour changes each of them by a factor of its own.
    """

    def __init__(self, brightness: float = 0.4, contrast: float = 0.4, band: float = 0.1) -> None:
        """Set the largest changes, as fractions."""
        super().__init__()
        self.brightness = brightness
        self.contrast = contrast
        self.band = band

    def forward(self, bands: Tensor) -> Tensor:
        """Change bands (c, h, w)."""
        count = len(bands)
        factor = _factor(1, self.brightness) * (_factor(count, self.band) if count > 1 else 1)
        bands = bands * factor
        mean = bands.mean(dim=(1, 2), keepdim=True)
        return (bands - mean) * _factor(1, self.contrast) + mean


def _factor(count: int, most: float) -> Tensor:
    """Draw factors (count, 1, 1) around 1."""
    return torch.empty(count, 1, 1).uniform_(1 - most, 1 + most)


def photometric(size: int, *, blur: float, solarise: float = 0.0) -> Photometric:
    """Return the colour changes of a view: jitter, grey (of RGB images), blur, solarise.

    Args:
        size: Side of the view, in pixels.
        blur: Probability of the blur.
        solarise: Probability of inverting all values from 128 on.
    """
    largest = 2.0 * size / 448
    # Torchvision's blur, because Pillow has none of floating-point values; the kernel holds four deviations.
    band_blur = v2.GaussianBlur(2 * math.ceil(2 * largest) + 1, sigma=(0.05 * largest, largest))
    return Photometric(
        v2.Compose(
            [
                colour_jitter(),
                v2.RandomGrayscale(p=0.2),
                _Blur(blur, largest=largest),
                v2.RandomSolarize(threshold=128, p=solarise),
            ]
        ),
        v2.Compose(
            [
                v2.RandomApply([BandJitter()], p=0.8),
                v2.RandomApply([band_blur], p=blur),
                v2.RandomSolarize(threshold=128 / 255, p=solarise),
            ]
        ),
    )


class _Blur(nn.Module):
    """Gaussian blur with a radius of 0.1 to 2 pixels at the paper's view of 448 pixels.

    The radius is proportional to the side of the view: in small views, two pixels would erase all texture. Pillow's
    blur is many times faster than torchvision's convolution.
    """

    def __init__(self, probability: float, largest: float) -> None:
        super().__init__()
        self.probability = probability
        self.largest = largest

    def forward(self, image: Image.Image) -> Image.Image:
        if torch.rand(()) >= self.probability:
            return image
        radius = float(torch.empty(()).uniform_(0.05 * self.largest, self.largest))
        return image.filter(ImageFilter.GaussianBlur(radius))


class CamTransform:
    """Make the views of one image for a CAM training step."""

    def __init__(self, size: int, *, long_side: int | None = None, rescale: tuple[float, float] = (0.5, 2.0)) -> None:
        """Set up.

        Args:
            size: Side of the square views, in pixels.
            long_side: Images are first resized so that their longer side has this many pixels. The published program
                does not resize: VOC's images have 500 pixels at crops of 448. The default keeps this ratio for images
                and crops of any size.
            rescale: Range of the random factor by which the image is rescaled afterwards.
        """
        self.size = size
        self.long_side = long_side or round(size * 500 / 448)
        self.rescale = rescale
        self.first = photometric(size, blur=1.0)
        self.second = photometric(size, blur=0.1, solarise=0.2)
        self.local = photometric(size, blur=0.5)
        self.second_crop = v2.Compose(
            [
                v2.RandomResizedCrop(size, scale=(0.4, 1.0), interpolation=v2.InterpolationMode.BICUBIC),
                v2.RandomHorizontalFlip(),
            ]
        )

    @property
    def needed_side(self) -> int:
        """Longer side in pixels that an image needs for sharp views; more pixels make hardly any difference.

        At least twice the side of the view: the second view may show only 0.4 of the area, which in images of 4:3 can
        be 0.47 of the width.
        """
        return max(2 * self.size, needed_side(self.long_side, self.rescale))

    def __call__(self, image: Pixels, missing: NDArray[np.bool_] | None = None) -> CamViews:
        """Make random views of an image.

        Args:
            image: The image.
            missing: Where it has no value (h, w); None if each pixel has one.
        """
        crop, box, cut_missing = self._training_crop(image, missing)
        # The published program flips the first global view a second time, but not its box and local crops. Here there
        # is one flip, before the crop, so that image, box and local crops always match.
        return CamViews(
            image=self.first(crop),
            second=self.second(self.second_crop(as_changeable(image))),
            local=self.local(crop),
            box=box,
            missing=cut_missing,
        )

    def _training_crop(
        self, image: Pixels, missing: NDArray[np.bool_] | None
    ) -> tuple[Image.Image | Tensor, Tensor, Tensor | None]:
        size = rescaled_size(image.size, self.long_side, self.rescale)
        image = image.resize(size, Image.Resampling.BILINEAR)
        flip = bool(torch.rand(()) < 0.5)
        if flip:
            image = flipped(image)
        place = CropPlace.draw(size, self.size)
        cut_missing = None
        if missing is not None:
            plane = Image.fromarray(missing.astype(np.uint8)).resize(size, Image.Resampling.NEAREST)
            plane = plane.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else plane
            cut_missing = v2.functional.pil_to_tensor(place.cut(plane, (0,)))[0].bool()
        return place.cut_image(image), place.box, cut_missing


class SegTransform:
    """Make the training view of one image and its mask: rescale, horizontal flip, crop, colour jitter."""

    def __init__(self, size: int, *, long_side: int, rescale: tuple[float, float] = (0.5, 2.0)) -> None:
        """Set up.

        Args:
            size: Side of the square view, in pixels.
            long_side: Images are first resized so that their longer side has this many pixels.
            rescale: Range of the random factor by which the image is rescaled afterwards.
        """
        self.size = size
        self.long_side = long_side
        self.rescale = rescale
        self.jitter = jitter()

    @property
    def needed_side(self) -> int:
        """Longer side in pixels that an image needs; more pixels do not change the sharpness of its view."""
        return needed_side(self.long_side, self.rescale)

    def __call__(self, image: Pixels, mask: NDArray[np.uint8], confidence: NDArray[np.uint8] | None = None) -> SegViews:
        """Make a random view of an image with its mask and confidence (h, w).

        The image may be a reduced copy, smaller than the mask: all are resized to the same size.
        """
        # Mask and confidence become the two channels of one image, so that they are resized and cut together.
        indices = Image.fromarray(mask)
        confidences = Image.new("L", indices.size, 255) if confidence is None else Image.fromarray(confidence)
        planes = Image.merge("LA", [indices, confidences])
        size = rescaled_size(planes.size, self.long_side, self.rescale)
        image = image.resize(size, Image.Resampling.BILINEAR)
        planes = planes.resize(size, Image.Resampling.NEAREST)
        if torch.rand(()) < 0.5:
            image, planes = flipped(image), planes.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        place = CropPlace.draw(size, self.size)
        view = self.jitter(place.cut_image(image))
        cut_mask, cut_confidence = v2.functional.pil_to_tensor(place.cut(planes, (IGNORE_INDEX, 255)))
        return SegViews(image=view, mask=cut_mask, confidence=cut_confidence)


def flipped(image: Pixels) -> Pixels:
    """Flip an image horizontally."""
    return image.flipped() if isinstance(image, BandImage) else image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def as_changeable(image: Pixels) -> Image.Image | Tensor:
    """Return what torchvision's transforms take: an RGB image of Pillow, or a tensor (c, h, w) of bands in 0..255."""
    if isinstance(image, BandImage):
        return torch.from_numpy(np.ascontiguousarray(image.values)).permute(2, 0, 1)
    return image


def needed_side(long_side: int, rescale: tuple[float, float]) -> int:
    """Return the longer side, in pixels, of the largest image that `rescaled_size` can return."""
    return math.ceil(long_side * rescale[1])


def rescaled_size(size: tuple[int, int], long_side: int, rescale: tuple[float, float]) -> tuple[int, int]:
    """Return (width, height) after the resize to `long_side` and the random rescale within the given range."""
    factor = long_side / max(size) * float(torch.empty(()).uniform_(*rescale))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


class CropPlace(NamedTuple):
    """Position of a square crop in an image. A smaller image is put at a random position in a padded square."""

    size: int  # side of the square, in pixels
    left: int  # left edge of the crop in the image
    top: int  # upper edge of the crop in the image
    box: Tensor  # (4,) int64: the part of the square that is not padding

    @classmethod
    def draw(cls, image_size: tuple[int, int], size: int) -> "CropPlace":
        """Choose a random position in an image of the given (width, height)."""
        left, x0, x1 = _random_span(image_size[0], size)
        top, y0, y1 = _random_span(image_size[1], size)
        return cls(size=size, left=left, top=top, box=torch.tensor([y0, y1, x0, x1]))

    def cut_image(self, image: Pixels) -> Image.Image | Tensor:
        """Return the square of an image, see `as_changeable`; padding is zero for the network, or nearly so."""
        if not isinstance(image, BandImage):
            return self.cut(image, PADDING)
        y0, y1, x0, x1 = self.box.tolist()
        part = image.values[self.top : self.top + y1 - y0, self.left : self.left + x1 - x0]
        square = np.empty((self.size, self.size, len(image.fill)), np.float32)
        square[:] = image.fill
        square[y0:y1, x0:x1] = part
        return torch.from_numpy(square).permute(2, 0, 1)

    def cut(self, image: Image.Image, padding: tuple[int, ...]) -> Image.Image:
        """Return the square, with the given colour as padding."""
        y0, y1, x0, x1 = self.box.tolist()
        square = Image.new(image.mode, (self.size, self.size), padding)
        square.paste(image.crop((self.left, self.top, self.left + x1 - x0, self.top + y1 - y0)), (x0, y0))
        return square


def _random_span(side: int, size: int) -> tuple[int, int, int]:
    """Return a random position on one axis: start of the crop in the image, start and end of the image in the crop."""
    slack = int(torch.randint(abs(side - size) + 1, ()))
    return (slack, 0, size) if side >= size else (0, slack, slack + side)
