"""Draw the panel of each training stage."""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from data.dataset import Mask, Sample
from data.palette import class_colours
from data.pictures import coloured, contact_sheet, heat
from stages.corrections.given_masks import GivenMasks
from stages.labels.pixel_labels import at_image_size
from stages.labels.store import LabelFile
from stages.networks.inference import class_label_matrix, square_cams, squash, to_tensor
from stages.networks.student import Student, label_map, student_probabilities
from stages.runtime.lightning import Fabric
from stages.toco.cam import labels_at, present_classes, to_class_numbers
from stages.toco.model import ToCo
from stages.training.panel import PanelImage, choose_panel, load_panel


def cam_panel(
    model: ToCo,
    samples: Sequence[Sample],
    class_names: Sequence[str],
    *,
    side: int,
    threshold: float,
    seed: int,
    fabric: Fabric,
) -> Callable[[], Image.Image]:
    """Return a function that draws images, their CAMs at one scale, the masks of these CAMs, and the ground truth.

    Args:
        model: The CAM network.
        samples: The training images.
        class_names: Names of the classes 1..C.
        side: Side of the network's input, in pixels.
        threshold: Background threshold of the masks.
        seed: Chooses the images.
        fabric: The device.
    """
    images = cache(lambda: load_panel(choose_panel(samples, seed), side, len(class_names)))

    def draw() -> Image.Image:
        heats, masks = [], []
        for one in images():
            square = squash(one.picture, side)[None].to(fabric.device)
            present = present_classes(class_label_matrix([one.sample], len(class_names)).to(fabric.device))
            with fabric.autocast():
                cams = square_cams(model, square, present, (1.0,)).final[0, : len(one.sample.classes)]
            maps = at_image_size(cams, (one.small.height, one.small.width)).float().cpu()
            best = maps.amax(dim=0) if len(maps) else maps.new_zeros(maps.shape[1:])
            heats.append(heat(one.small, best.numpy()))
            masks.append(to_class_numbers(labels_at(maps, threshold), one.sample.classes).byte().numpy())
        return _sheet(images(), class_names, {"CAM": heats}, {f"CAM above {threshold:g}": masks})

    return draw


def student_panel(
    student: Student,
    samples: Sequence[Sample],
    class_names: Sequence[str],
    *,
    labels: Path,
    given: GivenMasks,
    seed: int,
    fabric: Fabric,
) -> Callable[[], Image.Image]:
    """Return a function that draws images, the masks that the student learns from, its masks, and the ground truth.

    Args:
        student: The network.
        samples: The training images.
        class_names: Names of the classes 1..C.
        labels: RUN/labels/labels.h5.
        given: Masks that take the place of pseudo masks.
        seed: Chooses the images.
        fabric: The device.
    """
    images = cache(lambda: load_panel(choose_panel(samples, seed), student.long_side, len(class_names)))
    stored = LabelFile(labels, "masks")

    @cache
    def training_masks() -> list[Mask]:
        masks = []
        for one in images():
            mask = given.read(one.sample) if one.sample.id in given else stored.read(one.sample.id)
            masks.append(np.asarray(Image.fromarray(mask).resize(one.small.size, Image.Resampling.NEAREST)))
        return masks

    @torch.inference_mode()
    def draw() -> Image.Image:
        predicted = []
        for one in images():
            with fabric.autocast():
                (probabilities,) = student_probabilities(student, [to_tensor(one.picture)], flip_tta=False)
            predicted.append(label_map(probabilities, (one.small.height, one.small.width)).cpu().numpy())
        return _sheet(images(), class_names, {}, {"training mask": training_masks(), "student": predicted})

    return draw


def _sheet(
    images: Sequence[PanelImage],
    class_names: Sequence[str],
    pictures: dict[str, list[Image.Image]],
    masks: dict[str, list[Mask]],
) -> Image.Image:
    """Put the rows of a panel together: images, pictures, masks, ground truth, and the legend."""
    colours = class_colours(len(class_names))
    every_mask: dict[str, Sequence[Mask | None]] = {**masks, "ground truth": [one.truth for one in images]}
    drawn = {
        title: [
            None if mask is None else coloured(one.small, mask, colours) for one, mask in zip(images, row, strict=True)
        ]
        for title, row in every_mask.items()
    }
    shown = {number for one in images for number in one.sample.classes}
    shown |= {
        int(value) for row in every_mask.values() for mask in row if mask is not None for value in np.unique(mask)
    }
    legend = sorted(shown & set(range(1, len(class_names) + 1)))
    return contact_sheet({"image": [one.small for one in images], **pictures, **drawn}, legend, class_names)
