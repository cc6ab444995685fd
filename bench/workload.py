"""Workload of the CAM network's benches: sizes, drawn pictures, and the operations that the method needs."""

import argparse
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.drawing.kinds import DEMO_KINDS
from data.drawing.scene import Scene, draw_scene
from stages.config import TrainCam
from stages.planning.measured_times import shape_of
from stages.planning.operations import step_parts
from stages.toco.backbone import Backbone
from stages.toco.cam import most_classes
from stages.toco.step import StepBatch

CLASSES = 20
SIZES: dict[str, dict[str, Any]] = {
    "cpu": {"backbone": "vit_small_patch16_224", "image_size": 224, "batch_size": 2},
    "gpu": {"backbone": "deit_base_patch16_224", "image_size": 448, "batch_size": 4},
}


def add_network_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that `chosen_config` reads, except the batch size."""
    parser.add_argument("--size", choices=list(SIZES), help="preset [gpu on a GPU, cpu elsewhere]")
    parser.add_argument("--backbone", help="timm name of the ViT")
    parser.add_argument("--backbone-option", nargs="*", default=(), help="NAME=VALUE, as in toco train-cam")
    parser.add_argument("--image-size", type=int, help="pixels")


def chosen_config(options: argparse.Namespace, device: torch.device) -> TrainCam:
    """Return the settings of the preset, with the options that the user gave in their place."""
    given = {name: getattr(options, name, None) for name in ("backbone", "image_size", "batch_size")}
    preset = SIZES[options.size or ("gpu" if device.type == "cuda" else "cpu")]
    sizes = {**preset, **{name: value for name, value in given.items() if value}}
    return TrainCam(weights="none", backbone_option=tuple(options.backbone_option), **sizes)


def draw_scenes(count: int, side: int, rng: np.random.Generator) -> list[Scene]:
    """Draw square pictures with their masks; each shows one to three objects."""
    return [draw_scene(DEMO_KINDS, side, rng, first_kind=place % len(DEMO_KINDS)) for place in range(count)]


def stacked(scenes: list[Scene]) -> Tensor:
    """Stack the pictures, (b, 3, h, w) in uint8."""
    return torch.from_numpy(np.stack([scene.image for scene in scenes])).permute(0, 3, 1, 2).contiguous()


def drawn_batch(config: TrainCam, seed: int, classes: int = CLASSES) -> StepBatch:
    """Draw a training batch. Images have one to three classes; every second image has padding at its left."""
    rng = np.random.default_rng(seed)
    count, side = config.batch_size, config.image_size
    labels = torch.zeros(count, classes)
    for place in range(count):
        labels[place, torch.from_numpy(rng.permutation(classes)[: 1 + place % 3])] = 1
    boxes = [[0, side, 0, side] if place % 2 else [0, side, side // 8, side] for place in range(count)]
    image = stacked(draw_scenes(count, side, rng))
    return StepBatch(
        image=image,
        second=stacked(draw_scenes(count, side, rng)),
        local=image.clone(),
        box=torch.tensor(boxes),
        class_labels=labels,
        most_classes=most_classes(labels),
    )


def encoder_operations(config: TrainCam, backbone: Backbone) -> dict[str, float]:
    """Operations of the encoder in one step, by shape; a multiply-add counts as two (METHOD.md section 9).

    Returns:
        Operations of 'cam', 'forward' and 'backward'; 8.6 TFLOP together for ViT-B, 448 pixels, batch 4.
    """
    parts, batch = step_parts(config, shape_of(backbone)), config.batch_size
    views = 2 * parts.view + parts.crops
    return {"cam": batch * parts.cam, "forward": batch * views, "backward": 2 * batch * views}
