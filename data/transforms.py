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

from data.dataset import IGNORE_INDEX

# Padding has ImageNet's mean colour, which is zero after normalisation.
PADDING = (124, 116, 104)


class CamViews(NamedTuple):
    """The views of one image for a CAM training step; uint8, channels red, green, blue."""

    image: Tensor  # (3, s, s): the training image, which is also the first global view
    second: Tensor  # (3, s, s): the second global view, another crop
    local: Tensor  # (3, s, s): the training image with other colour changes; local crops are cut from it
    box: Tensor  # (4,) int64: the part of `image` and `local` that is not padding


class SegViews(NamedTuple):
    """An image, its mask and the confidence of the mask, in the same random view; uint8."""

    image: Tensor  # (3, s, s): red, green, blue
    mask: Tensor  # (s, s): class numbers; 255 in the padding
    confidence: Tensor  # (s, s): 0 to 255 (certain); 255 everywhere if none was given


def colour_jitter() -> v2.Transform:
    """Return the random change of brightness, contrast, saturation and hue, applied with probability 0.8."""
    return v2.RandomApply([v2.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)], p=0.8)


def photometric(size: int, *, blur: float, solarise: float = 0.0) -> v2.Transform:
    """Return the colour changes of a view: jitter, grey, blur, solarise.

    Args:
        size: Side of the view, in pixels.
        blur: Probability of the blur.
        solarise: Probability of inverting all values from 128 on.
    """
    return v2.Compose(
        [
            colour_jitter(),
            v2.RandomGrayscale(p=0.2),
            _Blur(blur, largest=2.0 * size / 448),
            v2.RandomSolarize(threshold=128, p=solarise),
        ]
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

    def __call__(self, image: Image.Image) -> CamViews:
        """Make random views of an RGB image."""
        crop, box = self._training_crop(image)
        # The published program flips the first global view a second time, but not its box and local crops. Here there
        # is one flip, before the crop, so that image, box and local crops always match.
        return CamViews(
            image=v2.functional.pil_to_tensor(self.first(crop)),
            second=v2.functional.pil_to_tensor(self.second(self.second_crop(image))),
            local=v2.functional.pil_to_tensor(self.local(crop)),
            box=box,
        )

    def _training_crop(self, image: Image.Image) -> tuple[Image.Image, Tensor]:
        size = rescaled_size(image.size, self.long_side, self.rescale)
        image = image.resize(size, Image.Resampling.BILINEAR)
        if torch.rand(()) < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        place = CropPlace.draw(image.size, self.size)
        return place.cut(image, PADDING), place.box


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
        self.jitter = colour_jitter()

    @property
    def needed_side(self) -> int:
        """Longer side in pixels that an image needs; more pixels do not change the sharpness of its view."""
        return needed_side(self.long_side, self.rescale)

    def __call__(
        self, image: Image.Image, mask: NDArray[np.uint8], confidence: NDArray[np.uint8] | None = None
    ) -> SegViews:
        """Make a random view of an RGB image with its mask and confidence (h, w).

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
            image, planes = (one.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for one in (image, planes))
        place = CropPlace.draw(size, self.size)
        view = v2.functional.pil_to_tensor(self.jitter(place.cut(image, PADDING)))
        cut_mask, cut_confidence = v2.functional.pil_to_tensor(place.cut(planes, (IGNORE_INDEX, 255)))
        return SegViews(image=view, mask=cut_mask, confidence=cut_confidence)


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
