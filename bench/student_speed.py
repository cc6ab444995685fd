"""How fast is a training step of the student (`toco train-seg`), and where does its time go?

    uv run python -m bench.student_speed [--size cpu | gpu]

A network with random weights, drawn pictures and masks; figures are medians.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

import bench.timing
from bench.timing import Parts, Rows, Variant, add_options, count_operations, print_parts, print_table
from bench.workload import CLASSES, draw_scenes, stacked
from stages.config import TrainSeg
from stages.networks.student import Student, new_student
from stages.runtime.fabric import make_fabric
from stages.train_seg import cross_entropy
from stages.training.loop import new_optimizer

SIZES: dict[str, dict[str, Any]] = {
    "cpu": {"encoder": "resnet18", "image_size": 192, "batch_size": 4},
    "gpu": {"encoder": "resnet101", "image_size": 512, "batch_size": 16},
}


def main(arguments: Sequence[str] | None = None) -> Rows:
    """Measure, print, and return the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--size", choices=list(SIZES), help="preset [gpu on a GPU, cpu elsewhere]")
    parser.add_argument("--arch", help="network [DeepLabV3Plus]")
    parser.add_argument("--encoder", help="encoder of the network")
    parser.add_argument("--image-size", type=int, help="pixels")
    parser.add_argument("--batch", dest="batch_size", type=int, help="images in a step")
    options = parser.parse_args(arguments)
    fabric = make_fabric(options.device)
    device = fabric.device
    torch.set_num_threads(options.threads or torch.get_num_threads())
    given = {name: getattr(options, name) for name in ("arch", "encoder", "image_size", "batch_size")}
    preset = SIZES[options.size or ("gpu" if device.type == "cuda" else "cpu")]
    config = TrainSeg(weights="none", **{**preset, **{name: value for name, value in given.items() if value}})
    torch.manual_seed(options.seed)
    student, _ = new_student(config, CLASSES)
    scenes = draw_scenes(config.batch_size, config.image_size, np.random.default_rng(options.seed))
    masks = torch.from_numpy(np.stack([scene.mask for scene in scenes]))
    step = StudentStep(student, config, fabric, stacked(scenes), masks)
    print(f"{bench.timing.describe(device)}, seed {options.seed}")
    size = f"{config.image_size} pixels, batch {config.batch_size}, {CLASSES} classes"
    print(f"{config.arch}, {config.encoder}, {size}; median of {options.repeats} steps\n")
    measured = bench.timing.alternate([Variant("toco", step, step.parts)], device, repeats=options.repeats)
    figures = measured["toco"]
    counted, peak = count_operations(step), bench.timing.measured_peak(device)
    rows = [
        {
            "ms a step": figures.milliseconds,
            "images a second": 1000 * config.batch_size / figures.milliseconds,
            "TFLOP": counted / 1e12,
            "floor, % of the step": 100 * counted / peak / 1e9 / figures.milliseconds,
            "peak memory, GB": figures.peak_bytes / 1e9,
            "hours for 20,000 steps": 20_000 * figures.milliseconds / 3_600_000,
        }
    ]
    print(f"{peak:.3g} TFLOP/s in a large matrix product\n")
    print_table(rows)
    print_parts(measured)
    return rows


class StudentStep:
    """A student with its optimiser. A call does one training step."""

    def __init__(self, student: Student, config: TrainSeg, fabric: Fabric, images: Tensor, masks: Tensor) -> None:
        self.fabric = fabric
        pair = (images, masks)
        self.batch = tuple(one.pin_memory() for one in pair) if fabric.device.type == "cuda" else pair
        self.parts = Parts(fabric.device)
        self.module, self.optimizer = fabric.setup(student, new_optimizer(student, student.network.encoder, config))
        self.module.train()

    def __call__(self) -> Tensor:
        """Do one training step."""
        part = self.parts.part
        with part("data to device"):
            images, masks = self.fabric.to_device(self.batch)
        with part("forward"):
            logits = self.module(images)
        with part("loss"):
            loss = cross_entropy(logits, masks)
        with part("backward"):
            self.fabric.backward(loss)
        with part("optimiser"):
            self.optimizer.step()
            self.optimizer.zero_grad()
        return loss.detach()


if __name__ == "__main__":
    main()
