"""What the benches of the CAM network work on: sizes, drawn pictures, and how many operations that should take."""

import argparse
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.drawing.kinds import DEMO_KINDS
from data.drawing.scene import draw_scene
from stages.config import TrainCam
from stages.toco.backbone import Backbone
from stages.toco.cam import most_classes
from stages.toco.step import StepBatch
from stages.train_cam import step_settings

CLASSES = 20
SIZES: dict[str, dict[str, Any]] = {
    "cpu": {"backbone": "vit_small_patch16_224", "image_size": 224, "batch_size": 2},
    "gpu": {"backbone": "deit_base_patch16_224", "image_size": 448, "batch_size": 4},
}


def add_network_options(parser: argparse.ArgumentParser) -> None:
    """The options that `chosen_config` reads, but for the batch size, which a bench may have several of."""
    parser.add_argument("--size", choices=list(SIZES), help="preset [gpu where there is one]")
    parser.add_argument("--backbone", help="timm's name")
    parser.add_argument("--backbone-option", nargs="*", default=(), help="NAME=VALUE, as of toco train-cam")
    parser.add_argument("--image-size", type=int, help="pixels")


def chosen_config(options: argparse.Namespace, device: torch.device) -> TrainCam:
    """The preset of a size, and what was asked for in place of it."""
    asked = {name: getattr(options, name, None) for name in ("backbone", "image_size", "batch_size")}
    sizes = SIZES[options.size or ("gpu" if device.type == "cuda" else "cpu")]
    sizes = {**sizes, **{name: value for name, value in asked.items() if value}}
    return TrainCam(weights="none", backbone_option=tuple(options.backbone_option), **sizes)


def drawn_batch(config: TrainCam, seed: int, classes: int = CLASSES) -> StepBatch:
    """Drawn pictures with one to three of the classes each; every second one was padded to its square."""
    rng = np.random.default_rng(seed)
    count, side = config.batch_size, config.image_size

    def pictures() -> Tensor:
        scenes = [draw_scene(DEMO_KINDS, side, rng, first_kind=place % len(DEMO_KINDS)).image for place in range(count)]
        return torch.from_numpy(np.stack(scenes)).permute(0, 3, 1, 2).contiguous()

    labels = torch.zeros(count, classes)
    for place in range(count):
        labels[place, torch.from_numpy(rng.permutation(classes)[: 1 + place % 3])] = 1
    boxes = [[0, side, 0, side] if place % 2 else [0, side, side // 8, side] for place in range(count)]
    image = pictures()
    return StepBatch(
        image=image,
        second=pictures(),
        local=image.clone(),
        box=torch.tensor(boxes),
        class_labels=labels,
        most_classes=most_classes(labels),
    )


@dataclass(frozen=True)
class Operations:
    """The encoder's operations in a step, two for each multiplication with its addition (METHOD.md section 9)."""

    cam: float
    forward: float
    backward: float

    @property
    def total(self) -> float:
        """All together."""
        return self.cam + self.forward + self.backward


def operations(config: TrainCam, backbone: Backbone, *, published: bool = False) -> Operations:
    """Count them by the shapes: METHOD's 8.6 TFLOP, or 12.4 in the published order, at ViT-B, 448 pixels, batch 4."""
    width, depth, patch = backbone.embed_dim, len(backbone.vit.blocks), backbone.patch_size
    mlp = backbone.vit.blocks[0].mlp.fc1.out_features

    def encode(side: int) -> float:
        n = (side // patch) ** 2 + backbone.prefix_tokens
        count: float = depth * (n * width * (8 * width + 4 * mlp) + 4 * n * n * width) + 6 * (n * patch * patch * width)
        return count

    b, side = config.batch_size, config.image_size
    crop = step_settings(config, patch).local_crop_size
    cam = sum(2 * encode(int(scale * side)) for scale in config.scales)
    views, local = 2 * encode(side), config.local_crops * encode(crop)
    if published:
        return Operations(b * cam, b * (encode(side) + 2 * views + local), 2 * b * (encode(side) + views + local))
    known = encode(side) if 1.0 in config.scales else 0.0
    return Operations(b * (cam - known), b * (views + local), 2 * b * (views + local))
