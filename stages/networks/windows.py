"""Sliding windows: segment a large image piece by piece, each piece like a separate image, or make its CAMs.

Windows overlap. Each pixel takes its label from the window whose centre is nearest, because that window sees most of
the pixel's surroundings. Labels are joined rather than scores, so that memory does not grow with the number of classes.
CAMs are averaged instead, since only the few classes of the image have one.

Letters: h w pixels of the image, k its classes, s side of the network's square input.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import product

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from data.spans import spans
from stages.networks.cam_network import CamNetwork
from stages.networks.inference import ImageTensor, from_tensor, resize_maps, square_cams, squash
from stages.toco.cam import Cams, PresentClasses, normalise


def label_in_windows(
    image: ImageTensor,
    side: int,
    label: Callable[[Sequence[Tensor]], Iterable[Tensor]],
    batch_size: int = 1,
) -> UInt8[Tensor, "h w"]:
    """Label an image window by window.

    Args:
        image: The image.
        side: Side of a window, in pixels.
        label: Labels pieces of the image of equal size, (bands, _h, _w) each; returns (_h, _w) for each, on the CPU.
        batch_size: Pieces per call of `label`.
    """
    height, width = image.shape[-2:]
    windows = list(product(spans(height, side), spans(width, side)))
    result = torch.empty(height, width, dtype=torch.uint8)
    for first in range(0, len(windows), batch_size):
        some = windows[first : first + batch_size]
        labels = label([image[:, rows.seen, columns.seen] for rows, columns in some])
        for (rows, columns), piece in zip(some, labels, strict=True):
            result[rows.kept, columns.kept] = piece[rows.kept_of_seen, columns.kept_of_seen]
    return result


def cams_in_windows(
    model: CamNetwork,
    image: ImageTensor,
    present: PresentClasses,
    scales: Sequence[float],
    *,
    window: int,
    side: int,
    batch_size: int = 1,
) -> Cams:
    """Make the CAMs of an image window by window, so that small objects keep their pixels.

    Each window is resized to the network's input. The sums over its scales are averaged with those of its neighbours,
    with less weight near the border of a window. Only the joined map is stretched to 0..1: a window without an object
    would otherwise get a CAM as high as that of the object.

    Args:
        model: The network.
        image: The image, on the CPU.
        present: Its classes (b = 1), on the network's device.
        scales: Scales of each window.
        window: Side of a window in pixels of the image.
        side: Side of the network's input, s.
        batch_size: Windows per forward pass.

    Returns:
        CAMs in 0..1, (1, k, h, w), on the network's device.
    """
    height, width = image.shape[-2:]
    device = present.index.device
    windows = list(product(spans(height, window), spans(width, window)))
    total = torch.zeros(2, present.index.shape[1], height, width, device=device)
    weights = torch.zeros(height, width, device=device)
    for first in range(0, len(windows), batch_size):
        some = windows[first : first + batch_size]
        pieces = [squash(from_tensor(image[:, rows.seen, columns.seen]), side) for rows, columns in some]
        classes = PresentClasses(present.index.expand(len(some), -1), present.valid.expand(len(some), -1))
        cams = square_cams(model, torch.stack(pieces).to(device), classes, scales, normalised=False)
        for (rows, columns), *maps in zip(some, cams.final, cams.auxiliary, strict=True):
            size = (rows.seen.stop - rows.seen.start, columns.seen.stop - columns.seen.start)
            weight = _tent(size[0], device)[:, None] * _tent(size[1], device)
            weights[rows.seen, columns.seen] += weight
            for of_source, one in zip(total, maps, strict=True):
                of_source[:, rows.seen, columns.seen] += weight * resize_maps(one, size)
    final, auxiliary = (normalise((one / weights)[None]) * present.valid[:, :, None, None] for one in total)
    return Cams(final=final, auxiliary=auxiliary)


def _tent(length: int, device: torch.device) -> Float[Tensor, " {length}"]:
    """Return the distance of each pixel from the end of a window, 1 in the middle."""
    places = torch.arange(length, device=device) + 0.5
    return torch.minimum(places, length - places) / (length / 2)
