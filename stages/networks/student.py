"""Build the student network: from settings before training, from a run folder afterwards.

Letters: b images, h w pixels; `classes` includes the background, which comes first.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torchvision.transforms import v2

from data.dataset import list_names
from data.errors import ArtifactError, SettingsError, reason
from data.pixel_rule import AS_STORED, PixelRule
from stages.config import TrainSeg
from stages.networks.encoder_weights import (
    IMAGENET,
    Normalisation,
    download_of,
    load_encoder_weights,
    no_download,
    normalisation_of,
)
from stages.networks.feature_network import FeatureHead, FeatureNetwork
from stages.networks.frozen_encoder import FrozenEncoder, fitted_sides
from stages.networks.hub import failing_at_once
from stages.networks.inference import BatchTensor, ImageTensor, flip_pairs, fuse_logits
from stages.run_folder.artifacts import StageFolder, command_for
from stages.run_folder.saving import load_weights
from stages.toco.build_backbone import build_backbone

STRIDE = 32  # encoders take images whose sides are multiples of this


@dataclass(frozen=True, kw_only=True)
class StudentSpec:
    """Everything that determines the network's shape and input; saved beside its weights."""

    arch: str
    encoder: str
    num_classes: int  # foreground
    long_side: int  # pixels; the longer side of the training images
    channels: int = 3  # of the images
    features: Mapping[str, Any] | None = None  # the shape of a frozen encoder: arguments of `_frozen_encoder`


class Student(nn.Module):
    """A segmentation network for images of any size, with colours or other bands in 0..255."""

    network: Any
    mean: Tensor
    std: Tensor

    def __init__(
        self, network: nn.Module, normalisation: Normalisation = IMAGENET, *, long_side: int, stride: int = STRIDE
    ) -> None:
        """Wrap a network that takes normalised images whose sides are multiples of `stride`."""
        super().__init__()
        self.network = network
        self.long_side = long_side
        self.stride = stride
        # Buffers, so that they are saved with the weights.
        self.register_buffer("mean", 255 * torch.tensor(normalisation.mean)[:, None, None])
        self.register_buffer("std", 255 * torch.tensor(normalisation.std)[:, None, None])

    def forward(self, images: BatchTensor) -> Float[Tensor, "b classes h w"]:
        """Return class logits of the images' own size."""
        count, _, height, width = images.shape
        normalised = (images - self.mean) / self.std
        padded = F.pad(normalised, (0, -width % self.stride, 0, -height % self.stride))
        if self.training and count == 1:
            # Batch norm cannot train on a pooled image that has one value per channel, so the image is used twice.
            padded = padded.repeat(2, 1, 1, 1)
        logits: Tensor = self.network(padded)
        return logits[:count, :, :height, :width]

    def input_size(self, size: Sequence[int], scale: float) -> tuple[int, int]:
        """Height and width to which images of `size` (h, w) are resized for prediction, at a scale of the training's.

        A Vision Transformer gets whole patches, as in training, because its attention would see the padding.
        """
        if isinstance(self.network, FeatureNetwork):
            return fitted_sides(size, scale * self.long_side, self.stride)
        return fitted_size(size, scale * self.long_side)


def new_student(config: TrainSeg, num_classes: int, pixels: PixelRule = AS_STORED) -> tuple[Student, StudentSpec]:
    """Build the network that training starts from.

    Args:
        config: Settings.
        num_classes: Number of foreground classes.
        pixels: What the network gets of an image. With bands, they are normalised by their mean and deviation.

    Raises:
        SettingsError: Network, encoder or weights are not available or do not fit each other; says what to do.
    """
    spec = StudentSpec(
        arch=config.arch,
        encoder=config.encoder,
        num_classes=num_classes,
        # As published for VOC: images of 500 pixels, crops of 512.
        long_side=config.long_side or round(config.image_size * 500 / 512),
        channels=pixels.channels,
    )
    network, normalisation = _from_scratch(spec, config.image_size)
    if config.weights == "pretrained":
        network, normalisation = _pretrained(spec)
    elif config.weights != "none":
        path = Path(config.weights).expanduser()
        try:
            load_encoder_weights(network.encoder, load_weights(path), spec.encoder)
        except ValueError as error:
            raise SettingsError(f"--weights {path} {error}") from error
    if pixels.bands:
        mean, std = zip(*((band.mean, band.std) for band in pixels.bands), strict=True)
        normalisation = Normalisation(mean, std)
    return Student(network, normalisation, long_side=spec.long_side), spec


def new_feature_student(
    encoder: FrozenEncoder, options: Mapping[str, Any], config: TrainSeg, num_classes: int, long_side: int
) -> tuple[Student, StudentSpec]:
    """Build a student from a frozen encoder and a head with random weights.

    Args:
        encoder: The encoder of the features.
        options: What changes the encoder's shape, as timm takes it.
        config: Settings; `arch` is the kind of the head.
        num_classes: Number of foreground classes.
        long_side: The longer side of the images that the features were computed from, in pixels.
    """
    backbone = encoder.backbone
    features = {
        "backbone": backbone.name,
        "backbone_options": dict(options),
        "position_grid": list(backbone.position_grid),
        "blocks": list(encoder.blocks),
    }
    spec = StudentSpec(
        arch=config.arch,
        encoder=backbone.name,
        num_classes=num_classes,
        long_side=long_side,
        channels=len(backbone.mean),
        features=features,
    )
    return _feature_student(spec, encoder), spec


def _feature_student(spec: StudentSpec, encoder: FrozenEncoder) -> Student:
    mean, std = (tuple(values.flatten().tolist()) for values in (encoder.backbone.mean, encoder.backbone.std))
    network = FeatureNetwork(encoder, FeatureHead(spec.arch, encoder.width, spec.num_classes + 1))
    return Student(network, Normalisation(mean, std), long_side=spec.long_side, stride=encoder.patch_size)


def _frozen_encoder(
    channels: int,
    backbone: str,
    backbone_options: Mapping[str, Any],
    position_grid: Sequence[int],
    blocks: Sequence[int],
) -> FrozenEncoder:
    """Build the encoder of a trained student, with random weights."""
    encoder = build_backbone(backbone, auxiliary_block=-1, channels=channels, **backbone_options)
    encoder.set_position_grid((position_grid[0], position_grid[1]))
    return FrozenEncoder(encoder, tuple(blocks))


def load_student(folder: StageFolder) -> Student:
    """Load the network of a finished `toco train-seg`, on the CPU, in evaluation mode.

    Raises:
        ArtifactError: The weights do not fit the folder's config.json.
    """
    path = folder.path / "model.safetensors"
    try:
        spec = StudentSpec(**folder.config["model"])
        if spec.features is not None:
            student = _feature_student(spec, _frozen_encoder(spec.channels, **spec.features))
        else:
            usual = IMAGENET if spec.channels == 3 else Normalisation((0,) * spec.channels, (1,) * spec.channels)
            student = Student(_network(spec), usual, long_side=spec.long_side)  # the file has the true one
        student.load_state_dict(load_weights(path))
    except (KeyError, TypeError, RuntimeError, ValueError) as error:
        raise ArtifactError(
            f"{path} does not fit {folder.path / 'config.json'} ({reason(error)}): run {command_for(path)}"
        ) from error
    return student.eval()


@torch.inference_mode()
def student_probabilities(
    student: Student,
    images: Sequence[ImageTensor],
    scales: Sequence[float] = (1.0,),
    *,
    flip_tta: bool = True,
) -> Float[Tensor, "b classes _h _w"]:
    """Class probabilities of images: sum over flips, maximum over scales, softmax (METHOD section 8).

    Args:
        student: The network, in evaluation mode.
        images: Images of one common size, any size.
        scales: Factors on the size of the training images.
        flip_tta: Flip test-time augmentation; see `flip_pairs` for what happens without it. A head on features never
            has it: it was trained without flips, and the features depend on the position. On magnetic tiles, flips
            cost 4.2 points of mIoU (bench/quality.md).

    Returns:
        Probabilities in 0..1, background first, at the size of the training images (longer side `student.long_side`).

    Raises:
        ValueError: `scales` is empty.
    """
    size = images[0].shape[-2:]
    height, width = fitted_size(size, float(student.long_side))

    def logits(scale: float) -> Tensor:
        scaled = list(student.input_size(size, scale))
        # On the CPU, because not every device can resize like Pillow, as training does. One image at a time, because
        # large images may not fit into memory together.
        batch = torch.stack([v2.functional.resize(image, scaled, antialias=True) for image in images])
        flip = flip_tta and not isinstance(student.network, FeatureNetwork)
        return flip_pairs(student, batch.to(student.mean.device), flip)

    return fuse_logits(map(logits, scales), (height, width)).softmax(dim=1)


def fitted_size(size: Sequence[int], long_side: float) -> tuple[int, int]:
    """Height and width after the longer side is resized to `long_side`."""
    factor = long_side / max(size)
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def label_map(probabilities: Float[Tensor, "classes _h _w"], size: tuple[int, int]) -> UInt8[Tensor, "h w"]:
    """Resize probabilities to the image's own size (h, w) and label each pixel with its most probable class.

    Works class by class, because all maps of a large photograph together may not fit into memory.
    """
    label = torch.zeros(size, dtype=torch.uint8, device=probabilities.device)
    score = torch.full(size, -1.0, device=probabilities.device)
    for number, plane in enumerate(probabilities):
        resized = F.interpolate(plane[None, None].float(), size=size, mode="bilinear", align_corners=False)
        label.masked_fill_(resized[0, 0] > score, number)
        torch.maximum(score, resized[0, 0], out=score)
    return label


def _network(spec: StudentSpec, weights: str | bool | None = None) -> Any:
    """Build the network, with random weights by default."""
    import segmentation_models_pytorch as smp

    return smp.create_model(
        spec.arch,
        encoder_name=spec.encoder,
        encoder_weights=weights,
        in_channels=spec.channels,
        classes=spec.num_classes + 1,
    )


def _from_scratch(spec: StudentSpec, side: int) -> tuple[Any, Normalisation]:
    """Build the network and run it once on an image of the training size.

    Raises:
        SettingsError: The network or the encoder does not exist, or they do not work together.
    """
    try:
        network = _network(spec)
        with torch.inference_mode():
            # Not square, because some encoders accept only one size.
            network.eval()(torch.zeros(1, spec.channels, side, side + STRIDE))
    except Exception as error:  # each network raises its own kind of exception
        raise SettingsError(_no_network(spec, side, error)) from error
    return network, normalisation_of(spec.encoder)


def _pretrained(spec: StudentSpec) -> tuple[Any, Normalisation]:
    download = download_of(spec.encoder)
    if download.key is None:
        raise SettingsError(
            f"--encoder {spec.encoder!r} has no pretrained weights to download: "
            "give a file with --weights FILE, or --weights none"
        )
    try:
        with failing_at_once():
            return _network(spec, download.key), normalisation_of(spec.encoder, download)
    except Exception as error:  # downloads fail in many ways; building without weights worked before
        raise SettingsError(no_download(spec.encoder, download, error)) from error


def _no_network(spec: StudentSpec, side: int, error: Exception) -> str:
    """Error text that says whether the network or the encoder is wrong."""
    import segmentation_models_pytorch as smp
    import timm

    archs = [one.__name__ for one in smp.MODEL_ARCHITECTURES_MAPPING.values()]
    if spec.arch.lower() not in (arch.lower() for arch in archs):
        return f"--arch {spec.arch!r} is unknown: choose one of {', '.join(archs)}, or a head: linear, mlp, conv"
    name = spec.encoder.removeprefix("tu-")
    from_timm = name != spec.encoder
    known = timm.list_models() if from_timm else smp.encoders.get_encoder_names()
    if name.split(".")[0] not in known:
        close = difflib.get_close_matches(name, known)
        return (
            f"--encoder {spec.encoder!r} is unknown: "
            + (f"timm has no {name!r}" if from_timm else "'tu-NAME' takes timm's NAME")
            + (f"; similar names: {list_names(close)}" if close else "")
        )
    return (
        f"--arch {spec.arch} with --encoder {spec.encoder} at --image-size {side} does not work ({reason(error)}): "
        "choose others"
    )
