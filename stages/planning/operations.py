"""Counted operations of the encoder, by which measured times are carried over to other settings."""

from dataclasses import dataclass
from typing import NamedTuple

from stages.config import TrainCam


class StepKind(NamedTuple):
    """What a training step computes; see `stages.toco.step.Phase`."""

    encoder: bool  # whether the encoder learns
    contrast: bool
    segment: bool


@dataclass(frozen=True, kw_only=True)
class VitShape:
    """What determines the operations of a Vision Transformer."""

    width: int
    depth: int
    patch_size: int
    prefix_tokens: int = 1
    mlp_width: int  # hidden width; of a gated MLP, that of a plain MLP with as many weights

    def encode(self, height: int, width: int | None = None) -> float:
        """Operations of one pass over an image of this size in pixels; a multiply-add counts as two."""
        across = height if width is None else width
        n = (height // self.patch_size) * (across // self.patch_size) + self.prefix_tokens
        blocks = self.depth * (n * self.width * (8 * self.width + 4 * self.mlp_width) + 4 * n * n * self.width)
        return float(blocks + 6 * n * self.patch_size**2 * self.width)


@dataclass(frozen=True, kw_only=True)
class MapShape:
    """A network with stages, whose operations grow with the area of the image."""

    operations_per_pixel: float
    patch_size: int

    def encode(self, height: int, width: int | None = None) -> float:
        """Operations of one pass over an image of this size in pixels; a multiply-add counts as two."""
        return self.operations_per_pixel * height * (height if width is None else width)


EncoderShape = VitShape | MapShape


class StepParts(NamedTuple):
    """Operations of the encoder in a training step, for one image (METHOD section 9)."""

    cam: float  # forward passes for the multi-scale CAM
    view: float  # one global view
    crops: float  # all local crops


def step_parts(config: TrainCam, shape: EncoderShape) -> StepParts:
    """Count the operations of the parts of a training step."""
    side = config.image_size
    cam = sum(2 * shape.encode(int(scale * side)) for scale in config.scales)
    if 1.0 in config.scales:  # the training pass provides the CAM of the unflipped image at scale 1
        cam -= shape.encode(side)
    crops = config.local_crops * shape.encode(config.crop_side(shape.patch_size))
    return StepParts(cam=cam, view=shape.encode(side), crops=crops)


def step_operations(kind: StepKind, config: TrainCam, shape: EncoderShape) -> float:
    """Operations of the encoder in one training step of a batch."""
    parts = step_parts(config, shape)
    contrast = kind.contrast and kind.encoder and (config.ptc_weight > 0 or config.ctc_weight > 0)
    views = parts.view + (parts.view + parts.crops if contrast and config.ctc_weight > 0 else 0)
    cams = parts.cam if contrast or kind.segment else 0
    return config.batch_size * (cams + views * (3 if kind.encoder else 1))


def step_kinds(config: TrainCam) -> dict[StepKind, float]:
    """Return the kinds of steps of a training, and the fraction of training that each takes."""
    starts = sorted({0.0, config.freeze_encoder_until, config.contrast_start, config.seg_start})
    kinds: dict[StepKind, float] = {}
    for start, end in zip(starts, [*starts[1:], 1.0], strict=True):
        kind = StepKind(
            encoder=start >= config.freeze_encoder_until,
            contrast=start >= config.contrast_start,
            segment=start >= config.seg_start,
        )
        if end > start:
            kinds[kind] = kinds.get(kind, 0.0) + end - start
    return kinds


def training_operations(config: TrainCam, shape: EncoderShape) -> float:
    """Operations of the encoder in a whole training."""
    kinds = step_kinds(config).items()
    return config.iterations * sum(share * step_operations(kind, config, shape) for kind, share in kinds)
