"""Segment images with a network of a run: the student, or the CAM network's decoder (METHOD section 8).

Letters: b images, h w pixels of an image; `classes` includes the background, which comes first.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from stages.config import Predict
from stages.networks.cam_model import load_cam_model
from stages.networks.choose_network import choose_network
from stages.networks.inference import ImageTensor, decoder_probabilities, from_tensor, resize_maps, squash, to_rgb
from stages.networks.student import label_map, load_student, student_probabilities
from stages.networks.windows import label_in_windows
from stages.run_folder.artifacts import StageFolder
from stages.runtime.fabric import make_fabric
from stages.runtime.lightning import Fabric
from stages.toco.crf import FOR_SEGMENTATION, sharpen
from stages.toco.model import ToCo

BATCH_ON_GPU = 8

NetworkName = Literal["decoder", "student"]


class Segmentation(NamedTuple):
    """A network's prediction for one image."""

    label: UInt8[Tensor, "h w"]  # 0 background, 1..C classes; on the CPU
    probabilities: Float[Tensor, "classes _h _w"] | None  # at the network's resolution; None with windows


@dataclass(frozen=True)
class Segmenter:
    """A network that segments images, with its settings and device."""

    folder: StageFolder  # the stage that trained it
    network: Callable[
        [Sequence[Tensor]], Tensor
    ]  # images (bands, h, w) of one size -> probabilities (b, classes, _h, _w)
    config: Predict
    fabric: Fabric

    @property
    def batch_size(self) -> int:
        """Images per forward pass. On a CPU, large images are slower in a batch, so the default is 1."""
        return self.config.batch_size or (1 if self.fabric.device.type == "cpu" else BATCH_ON_GPU)

    def __call__(self, image: ImageTensor) -> UInt8[Tensor, "h w"]:
        """Label each pixel: 0 background, 1..C classes. Image and result are on the CPU."""
        return next(self.segment([image])).label

    def segment(self, images: Sequence[ImageTensor]) -> Iterator[Segmentation]:
        """Segment images of one common size, on the CPU: as a batch, or each in windows if larger than a window."""
        side = self.config.window
        height, width = images[0].shape[-2:]
        if side is not None and max(height, width) > side:
            for image in images:
                label = label_in_windows(image, side, self._labels, self.batch_size)
                yield Segmentation(label=label, probabilities=None)
            return
        for probabilities in self.probabilities(images):
            yield Segmentation(label_map(probabilities, (height, width)).cpu(), probabilities)

    def probabilities(self, images: Sequence[ImageTensor]) -> list[Float[Tensor, "classes _h _w"]]:
        """Class probabilities in 0..1, background first: at the network's resolution, with a CRF at the images' own."""
        with self.fabric.autocast():
            probabilities = self.network(images)
        if not self.config.crf:
            return list(probabilities)
        size = (images[0].shape[-2], images[0].shape[-1])
        sharpened = sharpen(
            [to_rgb(image.to(probabilities.device)) for image in images],
            [resize_maps(one, size)[None] for one in probabilities],
            FOR_SEGMENTATION,
            self.config.crf_backend,
        )
        return [one[0] for one in sharpened]

    def _labels(self, images: Sequence[Tensor]) -> Iterator[Tensor]:
        return (segmentation.label for segmentation in self.segment(images))


def open_segmenter(run: Path, config: Predict, fabric: Fabric | None = None) -> Segmenter:
    """Load the network of a run.

    Args:
        run: The run folder.
        config: Settings.
        fabric: Device and processes, if they are set up already; by default `config.device`.

    Raises:
        ArtifactError: The stage is not finished, or damaged.
        SettingsError: This machine lacks the device.
    """
    folder = choose_network(run, config)
    fabric = fabric or make_fabric(config.device, precision=config.precision)
    if folder.path.name == "seg":
        student = load_student(folder)
        fabric.to_device(student)
        network = partial(student_probabilities, student, scales=config.scales, flip_tta=config.flip_tta)
        return Segmenter(folder, network, config, fabric)
    model = load_cam_model(folder)
    fabric.to_device(model)
    return decoder_segmenter(folder, model, config, fabric)


def decoder_segmenter(folder: StageFolder, model: ToCo, config: Predict, fabric: Fabric) -> Segmenter:
    """Segment with the decoder of a CAM network that is loaded already.

    Args:
        folder: RUN/cam.
        model: Its network, on the device of `fabric`.
        config: Settings.
        fabric: The device.
    """
    side = folder.settings["image_size"]
    network = partial(_decode, model, side=side, scales=config.scales, flip_tta=config.flip_tta)
    return Segmenter(folder, network, config, fabric)


def _decode(
    model: ToCo, images: Sequence[ImageTensor], *, side: int, scales: Sequence[float], flip_tta: bool
) -> Float[Tensor, "b classes s s"]:
    """Class probabilities of the CAM network's decoder, which takes images resized to a square."""
    squares = torch.stack([squash(from_tensor(image), side) for image in images])
    return decoder_probabilities(model, squares.to(next(model.parameters()).device), scales, flip_tta=flip_tta)
