"""Training views: what an image goes through before a network learns from it (METHOD section 7).

All randomness comes from torch's global generator, which `data.stream` seeds for each training sample.
Boxes are (y0, y1, x0, x1) in pixels, half open.
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

# Padding takes ImageNet's mean colour: a normalised zero to the networks.
PADDING = (124, 116, 104)


class CamViews(NamedTuple):
    """The views of one image that a CAM training step needs, uint8 red, green, blue."""

    image: Tensor  # (3, s, s): the training image, which is also the first global view
    second: Tensor  # (3, s, s): the second global view, another crop
    local: Tensor  # (3, s, s): the training image in other colours, to cut local crops from
    box: Tensor  # (4,) int64: the part of `image` and `local` that is not padding


class SegViews(NamedTuple):
    """An image, its mask and how sure that is, in the same random view, uint8."""

    image: Tensor  # (3, s, s): red, green, blue
    mask: Tensor  # (s, s): as given, and 255 where the image does not reach
    confidence: Tensor  # (s, s): 0 unsure to 255 sure; 255 where nothing was given


def colour_jitter() -> v2.Transform:
    """Changed brightness, contrast, saturation and hue, four times out of five."""
    return v2.RandomApply([v2.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)], p=0.8)


def photometric(size: int, *, blur: float, solarise: float = 0.0) -> v2.Transform:
    """Colour changes of a view of `size` pixels: jitter, grey, and blur and solarise with the given probabilities."""
    return v2.Compose(
        [
            colour_jitter(),
            v2.RandomGrayscale(p=0.2),
            _Blur(blur, largest=2.0 * size / 448),
            v2.RandomSolarize(threshold=128, p=solarise),
        ]
    )


class _Blur(nn.Module):
    """Gaussian blur of radius 0.1 to 2 pixels at the paper's 448; Pillow's is many times faster than a convolution.

    The radius goes with the size of the view: two pixels of a small picture are whole textures.
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
    """Make the views of one image."""

    def __init__(self, size: int, *, long_side: int | None = None, rescale: tuple[float, float] = (0.5, 2.0)) -> None:
        """Set up.

        Args:
            size: Side of the square views, in pixels.
            long_side: Images are first resized so that their longer side has this many pixels. The published
                program takes images as they are, which for VOC is 500 pixels at crops of 448; the default
                keeps that relation for images and crops of any size.
            rescale: Range of the random rescale factor after that.
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
        """Pixels of an image's longer side beyond which its views are hardly any sharper.

        Twice the view's: the second view may show four tenths of an image, of 4:3 as little as 0.47 of its width.
        """
        return max(2 * self.size, needed_side(self.long_side, self.rescale))

    def __call__(self, image: Image.Image) -> CamViews:
        """Draw the views of an RGB image."""
        crop, box = self._training_crop(image)
        # One mirroring, before the crop: the published program mirrors the first global view once more,
        # and its box and local crops not.
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
    """Make the training view of one image and its mask: rescaled, mirrored, cropped, in other colours."""

    def __init__(self, size: int, *, long_side: int, rescale: tuple[float, float] = (0.5, 2.0)) -> None:
        """Set up.

        Args:
            size: Side of the square view, in pixels.
            long_side: Images are first resized so that their longer side has this many pixels.
            rescale: Range of the random rescale factor after that.
        """
        self.size = size
        self.long_side = long_side
        self.rescale = rescale
        self.jitter = colour_jitter()

    @property
    def needed_side(self) -> int:
        """Pixels of an image's longer side beyond which its view is no sharper."""
        return needed_side(self.long_side, self.rescale)

    def __call__(
        self, image: Image.Image, mask: NDArray[np.uint8], confidence: NDArray[np.uint8] | None = None
    ) -> SegViews:
        """Draw the view of an RGB image, its mask and its confidence (h, w); the image may be a reduced one."""
        # The planes go together, as the two channels of one picture.
        indices = Image.fromarray(mask)
        sureness = Image.new("L", indices.size, 255) if confidence is None else Image.fromarray(confidence)
        planes = Image.merge("LA", [indices, sureness])
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
    """Pixels of the longer side of the largest image that `rescaled_size` asks for."""
    return math.ceil(long_side * rescale[1])


def rescaled_size(size: tuple[int, int], long_side: int, rescale: tuple[float, float]) -> tuple[int, int]:
    """Width and height after the resize to `long_side` and a random rescale within the given range."""
    factor = long_side / max(size) * float(torch.empty(()).uniform_(*rescale))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


class CropPlace(NamedTuple):
    """Where a square is cut; an image that is smaller lands at a random place of a padded square."""

    size: int  # side of the square
    left: int  # where the cut begins in the image
    top: int
    box: Tensor  # (4,) int64: the part of the square that is image

    @classmethod
    def draw(cls, image_size: tuple[int, int], size: int) -> "CropPlace":
        """Choose a place at random in an image of the given width and height."""
        left, x0, x1 = _place(image_size[0], size)
        top, y0, y1 = _place(image_size[1], size)
        return cls(size=size, left=left, top=top, box=torch.tensor([y0, y1, x0, x1]))

    def cut(self, picture: Image.Image, padding: tuple[int, ...]) -> Image.Image:
        """Cut the square out of a picture."""
        y0, y1, x0, x1 = self.box.tolist()
        square = Image.new(picture.mode, (self.size, self.size), padding)
        square.paste(picture.crop((self.left, self.top, self.left + x1 - x0, self.top + y1 - y0)), (x0, y0))
        return square


def _place(side: int, size: int) -> tuple[int, int, int]:
    """Where a crop starts in the image, and where the image starts and ends in the crop."""
    slack = int(torch.randint(abs(side - size) + 1, ()))
    return (slack, 0, size) if side >= size else (0, slack, slack + side)
