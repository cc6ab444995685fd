"""Run networks on images: class activation maps, class probabilities, flips and scales (METHOD section 8).

Letters: b images, c foreground classes, k classes of an image, s side of the square network input, h w pixels of the
original image; `classes` includes the background, which comes first.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from data.band_image import BandImage, Pixels, shown_bands
from data.dataset import Sample
from data.images import read_pixels
from stages.networks.cam_network import CamNetwork
from stages.toco.cam import Cams, PresentClasses, multi_scale_cams

DECODER_SCALES = (1.0, 1.25, 1.5)


# An image for a network: red, green and blue from 0 to 255, or any bands in float32, for which this is the usual range.
ImageTensor = UInt8[Tensor, "bands _h _w"] | Float[Tensor, "bands _h _w"]
BatchTensor = UInt8[Tensor, "b bands _h _w"] | Float[Tensor, "b bands _h _w"]


class LoadedImage(NamedTuple):
    """An image at the network's size and at its own size."""

    squashed: ImageTensor  # (bands, s, s)
    original: ImageTensor  # (bands, h, w)


def load_image(sample: Sample, side: int) -> LoadedImage:
    """Read an image and resize it to the network's square of `side` pixels.

    Raises:
        DataError: The image cannot be read.
    """
    image = read_pixels(sample.image, rule=sample.pixels)
    return LoadedImage(squashed=squash(image, side), original=to_tensor(image))


def squash(image: Pixels, side: int) -> ImageTensor:
    """Resize an image to the square that the CAM network takes; the aspect ratio is not kept."""
    return to_tensor(image.resize((side, side), Image.Resampling.BILINEAR))


def to_tensor(image: Pixels) -> ImageTensor:
    """Turn an image into a tensor; it shares the memory of bands, which are large."""
    values = np.ascontiguousarray(image.values) if isinstance(image, BandImage) else np.array(image)
    return torch.from_numpy(values).permute(2, 0, 1)


def from_tensor(image: ImageTensor) -> Pixels:
    """Turn a tensor on the CPU into an image."""
    values = image.permute(1, 2, 0).contiguous().numpy()
    return BandImage(values, (0.0,) * len(image)) if image.is_floating_point() else Image.fromarray(values)


def to_rgb(image: ImageTensor) -> UInt8[Tensor, "3 h w"]:
    """Return an image in RGB, on its device, as `BandImage.picture` shows it."""
    if not image.is_floating_point():
        return image
    return image[list(shown_bands(len(image)))].clamp(0, 255).round().byte()


@torch.inference_mode()
def square_cams(
    model: CamNetwork,
    images: BatchTensor,
    present: PresentClasses,
    scales: Sequence[float],
    *,
    normalised: bool = True,
) -> Cams:
    """Multi-scale CAMs of the present classes at the input's size, in 0..1 if normalised; padding classes are zero."""
    inputs = model.backbone.normalise(images.float())
    cams = multi_scale_cams(
        lambda scaled: present.pick_both(model.raw_cams(scaled)), inputs, scales=scales, normalised=normalised
    )
    valid = present.valid[:, :, None, None]
    return Cams(final=cams.final * valid, auxiliary=cams.auxiliary * valid)


@torch.inference_mode()
def patch_tokens(model: CamNetwork, images: BatchTensor) -> Float[Tensor, "b d h w"]:
    """Return the last block's patch tokens on the token grid, float32."""
    tokens: Tensor = model(model.backbone.normalise(images.float()), decode=False).patch_tokens
    return tokens.float()


def predicted_classes(model: CamNetwork, images: BatchTensor, threshold: float = 0.5) -> list[tuple[int, ...]]:
    """Predict the classes (1-based) of each image: those with a probability above `threshold`."""
    probabilities = class_probabilities(model, images)
    return [tuple((one > threshold).nonzero().flatten().add(1).tolist()) for one in probabilities]


@torch.inference_mode()
def class_probabilities(model: CamNetwork, images: BatchTensor) -> Float[Tensor, "b c"]:
    """Probability of each class: the sigmoid of the logits' mean over both classifiers, image and horizontal flip."""
    normalised = model.backbone.normalise(images.float())
    outputs = model(torch.cat([normalised, normalised.flip(-1)]), decode=False)
    logits = (outputs.class_logits + outputs.auxiliary_class_logits).float() / 2
    return torch.stack(logits.chunk(2)).mean(dim=0).sigmoid()


@torch.inference_mode()
def decoder_probabilities(
    model: CamNetwork,
    images: BatchTensor,
    scales: Sequence[float] = DECODER_SCALES,
    *,
    flip_tta: bool = True,
) -> Float[Tensor, "b classes s s"]:
    """The decoder's class probabilities in 0..1, background first: sum over flips, maximum over scales, softmax.

    See `flip_pairs` for what happens without `flip_tta`.
    """
    normalised = model.backbone.normalise(images.float())
    side, patch = images.shape[-1], model.backbone.patch_size

    def decode(images: Tensor) -> Tensor:
        seg_logits = model(images).seg_logits
        assert seg_logits is not None  # given unless decode=False
        return seg_logits

    def logits(scale: float) -> Tensor:
        size = max(1, round(scale * side / patch)) * patch
        scaled = F.interpolate(normalised, size=(size, size), mode="bilinear", align_corners=False)
        return flip_pairs(decode, scaled, flip_tta)

    return fuse_logits(map(logits, scales), (side, side)).softmax(dim=1)


def flip_pairs(
    network: Callable[[Tensor], Tensor], images: BatchTensor, flip_tta: bool
) -> Float[Tensor, "b2 classes _h _w"]:
    """Logits of the images, followed by those of their horizontal flips, as `fuse_logits` takes them.

    Without `flip_tta` the logits of the images themselves are used twice. This halves the work, and the sum over the
    pair keeps the same scale, so that the softmax is as sharp as with flips.
    """
    if flip_tta:
        return network(torch.cat([images, images.flip(-1)]))
    logits = network(images)
    return torch.cat([logits, logits.flip(-1)])


def fuse_logits(
    logits: Iterable[Float[Tensor, "b2 classes _h _w"]], size: tuple[int, int]
) -> Float[Tensor, "b classes h w"]:
    """Fuse segmentation logits of several scales: sum over flips, maximum over scales (METHOD section 8).

    Args:
        logits: One tensor per scale, any resolution. The first half of the batch holds the images, the second half the
            same images flipped horizontally.
        size: Height and width of the result.

    Raises:
        ValueError: `logits` is empty.
    """
    best: Tensor | None = None
    for raw in logits:
        resized = F.interpolate(raw.float(), size=size, mode="bilinear", align_corners=False)
        straight, flipped = resized.chunk(2)
        pair = straight + flipped.flip(-1)
        best = pair if best is None else torch.maximum(best, pair)
    if best is None:
        raise ValueError("fuse_logits needs at least one scale")
    return best


def resize_maps(maps: Float[Tensor, "k _h _w"], size: tuple[int, int]) -> Float[Tensor, "k h w"]:
    """Resize maps bilinearly to an image's own size (h, w), in float32."""
    return F.interpolate(maps[None].float(), size=size, mode="bilinear", align_corners=False)[0]


def class_label_matrix(samples: Sequence[Sample], num_classes: int) -> Float[Tensor, "b c"]:
    """Image labels as a matrix: 1 where an image has a class, otherwise 0."""
    labels = torch.zeros(len(samples), num_classes)
    for row, sample in enumerate(samples):
        labels[row, [number - 1 for number in sample.classes]] = 1
    return labels
