"""Class activation maps (CAMs): fused over scales, and turned into labels (METHOD sections 2 and 3).

Letters: b images, c foreground classes, k classes of an image, h w height and width of a map in pixels (or in tokens,
where that is said). _h _w is any other size. b2 is a batch of b images followed by the same b images flipped.
Boxes are (y0, y1, x0, x1) in pixels of the map, half open: the part of a padded crop that is not padding.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

IGNORE_INDEX = 255  # the label of pixels that do not count, as in the VOC masks
SCALES = (1.0, 0.5, 1.5)  # section 2


class Cams(NamedTuple):
    """The two CAMs of one forward pass: from the final tokens and from the auxiliary block's tokens."""

    final: Float[Tensor, "b c h w"]
    auxiliary: Float[Tensor, "b c h w"]


def fuse_scales(
    maps: Sequence[Float[Tensor, "b2 c _h _w"]], size: tuple[int, int]
) -> Float[Tensor, "b c {size[0]} {size[1]}"]:
    """Fuse raw maps of several scales into one CAM for each image and class (section 2).

    CAM = normalise( sum over scales of  ReLU( max( map, unflipped map of the flipped image ) ) )

    Args:
        maps: One tensor per scale, any resolution; the first half of the batch are the images, the second half the same
            images flipped horizontally.
        size: Height and width of the result, in pixels.

    Returns:
        CAMs in [0, 1): zero at each map's minimum, just below one at its maximum.
    """
    return normalise(sum_scales(maps, size))


def sum_scales(
    maps: Sequence[Float[Tensor, "b2 c _h _w"]], size: tuple[int, int]
) -> Float[Tensor, "b c {size[0]} {size[1]}"]:
    """Sum over the scales: ReLU of the larger of a map and the map of the flipped image, flipped back.

    Raises:
        ValueError: There is no scale.
    """
    total: Tensor | None = None
    for raw in maps:
        # In float32 also under autocast: bf16 has only 128 steps between 0.5 and 1.
        resized = F.interpolate(raw.float(), size=size, mode="bilinear", align_corners=False)
        unflipped, flipped = resized.chunk(2)
        fused = torch.maximum(unflipped, flipped.flip(-1)).relu_()
        total = fused if total is None else total + fused
    if total is None:
        raise ValueError("sum_scales needs the maps of at least one scale")
    return total


def normalise(cam: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Stretch the map of each image and class to [0, 1): (x - min) / (max of that + 1e-5), constants as in section 2.

    A constant map becomes zero everywhere.
    """
    shifted = cam - cam.amin(dim=(-2, -1), keepdim=True)  # minima and maxima are (b, c, 1, 1)
    return shifted / (shifted.amax(dim=(-2, -1), keepdim=True) + 1e-5)


def multi_scale_cam(
    raw_cam: Callable[[Float[Tensor, "b bands _h _w"]], Float[Tensor, "b c _h _w"]],
    images: Float[Tensor, "b bands h w"],
    *,
    scales: Sequence[float] = SCALES,
    unflipped: Float[Tensor, "b c _h _w"] | None = None,
    normalised: bool = True,
) -> Float[Tensor, "b c h w"]:
    """Run a network on images and their horizontal flips at several scales, and fuse its maps (section 2).

    Args:
        raw_cam: The network: normalised images to raw maps on the token grid.
        images: Normalised images.
        scales: Factors on the image size.
        unflipped: Raw maps of the images at scale 1, if another pass has computed them already; then only the flipped
            images are run at that scale.
        normalised: Stretch each map to [0, 1); otherwise it is the sum over the scales, for a part of an image.
    """
    height, width = images.shape[-2:]
    maps = []
    for scale in scales:
        size = (int(scale * height), int(scale * width))  # cut to whole pixels, as in section 2
        scaled = (
            images
            if size == (height, width)
            else F.interpolate(images, size=size, mode="bilinear", align_corners=False)
        )
        if unflipped is not None and scaled is images:
            flipped = raw_cam(images.flip(-1))
            maps.append(torch.cat([unflipped.to(flipped), flipped]))  # (2b, c, _h, _w)
        else:
            maps.append(raw_cam(torch.cat([scaled, scaled.flip(-1)])))  # (2b, c, _h, _w)
    return fuse_scales(maps, (height, width)) if normalised else sum_scales(maps, (height, width))


def multi_scale_cams(
    raw_cams: Callable[[Float[Tensor, "b bands _h _w"]], Cams],
    images: Float[Tensor, "b bands h w"],
    *,
    scales: Sequence[float] = SCALES,
    unflipped: Cams | None = None,
    normalised: bool = True,
) -> Cams:
    """Apply `multi_scale_cam` to both CAMs of a network, in the same passes."""
    fused = multi_scale_cam(
        lambda scaled: torch.cat(raw_cams(scaled), dim=1),
        images,
        scales=scales,
        unflipped=None if unflipped is None else torch.cat(unflipped, dim=1),
        normalised=normalised,
    )
    final, auxiliary = fused.chunk(2, dim=1)
    return Cams(final=final, auxiliary=auxiliary)


class PresentClasses(NamedTuple):
    """The k classes to compute for each image: the work grows with these instead of with all c classes."""

    # 0-based. An image with fewer than k classes is padded with classes that it does not have. (Hides tuple.index.)
    index: Int[Tensor, "b k"]  # type: ignore[assignment]
    valid: Float[Tensor, "b k"]  # 1 where the image has that class, 0 for padding

    def pick(self, maps: Float[Tensor, "b_ c h w"]) -> Float[Tensor, "b_ k h w"]:
        """Select the maps of these classes; the batch may be the b images, or these followed by their flips."""
        index = self.index.repeat(len(maps) // len(self.index), 1)
        return maps.gather(1, index[:, :, None, None].expand(-1, -1, *maps.shape[-2:]))

    def pick_both(self, cams: Cams) -> Cams:
        """Apply `pick` to both maps."""
        return Cams(final=self.pick(cams.final), auxiliary=self.pick(cams.auxiliary))

    def class_numbers(self, label: Int[Tensor, "b h w"], ignore_index: int = IGNORE_INDEX) -> Tensor:
        """Turn labels 1..k among these classes into class numbers 1..c; 0 and `ignore_index` stay as they are."""
        table = self.index.new_zeros(len(self.index), ignore_index + 1)  # (b, 256): from a label to its class number
        table[:, 1 : self.index.shape[1] + 1] = self.index + 1
        table[:, ignore_index] = ignore_index
        return table.gather(1, label.flatten(1)).reshape(label.shape)


def present_classes(class_labels: Float[Tensor, "b c"], most: int | None = None) -> PresentClasses:
    """List the classes that each image has; there is at least one column, also for images without classes.

    Args:
        class_labels: 1 where the image has the class, else 0.
        most: The largest number of classes of one image; if it is not given, the CPU has to wait for a GPU to count.
    """
    count = max(1, most_classes(class_labels) if most is None else most)
    # Sort the class labels: the classes of an image (1) come before all others (0). A stable sort keeps their order.
    valid, index = class_labels.sort(dim=1, descending=True, stable=True)
    return PresentClasses(index=index[:, :count], valid=valid[:, :count])


def most_classes(class_labels: Float[Tensor, "b c"]) -> int:
    """Count the classes of each image and return the largest number."""
    return int((class_labels > 0).sum(dim=1).max())


def to_class_numbers(label: Int[Tensor, "*size"], classes: Sequence[int]) -> Int[Tensor, "*size"]:
    """Turn labels among the classes of one image into class numbers of the data set.

    Args:
        label: 0 background, 1..k the image's classes in order, `IGNORE_INDEX` ignored.
        classes: The image's classes, 1-based.

    Returns:
        0 background, class numbers, `IGNORE_INDEX` ignored.
    """
    table = torch.full((IGNORE_INDEX + 1,), IGNORE_INDEX, device=label.device)
    table[: len(classes) + 1] = torch.tensor([0, *classes], device=label.device)
    return table[label]


def keep_present(cam: Float[Tensor, "b c h w"], class_labels: Float[Tensor, "b c"]) -> Float[Tensor, "b c h w"]:
    """Set the maps of classes that the image does not have to zero: valid CAM = CAM * class label (section 3).

    Args:
        cam: CAMs in [0, 1].
        class_labels: 1 where the image has the class, else 0.
    """
    return cam * class_labels[:, :, None, None]


def label_one_threshold(valid_cam: Float[Tensor, "b c h w"], background: float = 0.5) -> Int[Tensor, "b h w"]:
    """Label each pixel with its highest class (1..c), or 0 where no score is above `background` (section 3)."""
    score, best = valid_cam.max(dim=1)
    return torch.where(score > background, best + 1, 0)


def labels_at(scores: Float[Tensor, "k h w"], background: float) -> Int[Tensor, "h w"]:
    """Label one image by one threshold: 0 background, 1..k its classes; all background if it has no class."""
    if not len(scores):
        return torch.zeros(scores.shape[1:], dtype=torch.int64, device=scores.device)
    return label_one_threshold(scores[None], background)[0]


def label_two_thresholds(
    valid_cam: Float[Tensor, "b c h w"],
    image_box: Int[Tensor, "b 4"] | None = None,
    *,
    high: float = 0.7,
    low: float = 0.25,
    ignore_index: int = IGNORE_INDEX,
) -> Int[Tensor, "b h w"]:
    """Label only confident pixels (section 3).

        score > high (0.7)     the highest class, 1..c
        score <= low (0.25)    0, background
        between                `ignore_index`

    Pixels outside `image_box` get `ignore_index` as well.
    """
    score, best = valid_cam.max(dim=1)  # (b, h, w); best is 0-based
    label = torch.where(score > high, best + 1, ignore_index)
    label = label.masked_fill(score <= low, 0)
    return label if image_box is None else ignore_outside(label, image_box, ignore_index)


def ignore_outside(
    label: Int[Tensor, "b h w"], image_box: Int[Tensor, "b 4"], ignore_index: int = IGNORE_INDEX
) -> Int[Tensor, "b h w"]:
    """Set the label of pixels outside each image's box to `ignore_index`."""
    return torch.where(inside_box(image_box, label.shape[-2], label.shape[-1]), label, ignore_index)


def inside_box(image_box: Int[Tensor, "b 4"], height: int, width: int) -> Tensor:
    """Mark the pixels inside each image's box: bool, shape (b, height, width)."""
    y0, y1, x0, x1 = image_box[:, :, None, None].unbind(dim=1)
    rows = torch.arange(height, device=image_box.device)[:, None]
    columns = torch.arange(width, device=image_box.device)
    return (rows >= y0) & (rows < y1) & (columns >= x0) & (columns < x1)


def uncertainty_map(
    valid_cam: Float[Tensor, "b c h w"], *, high: float = 0.7, low: float = 0.25
) -> Int[Tensor, "b h w"]:
    """Classify pixels by confidence: 0 background (score <= low), 2 object (score >= high), 1 uncertain (section 3)."""
    score = valid_cam.amax(dim=1)
    return (score > low).long() + (score >= high).long()
