"""How fast is a step of the student (`toco train-seg`), and where does its time go?

    uv run python -m bench.student [--size cpu | gpu] [--levers NAME ...]

DeepLabV3+ with random weights, drawn pictures and masks. Ways take turns, each with a network of its own; medians.
"""

import argparse
import copy
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from bench.levers import STUDENT_LEVERS, Lever
from bench.timing import (
    Parts,
    Way,
    bytes_held,
    count_operations,
    describe,
    measured_peak,
    print_parts,
    print_table,
    take_turns,
)
from data.drawing.kinds import DEMO_KINDS
from data.drawing.scene import draw_scene
from stages.config import TrainSeg
from stages.networks.student import Student, new_student
from stages.runtime.fabric import make_fabric
from stages.train_seg import cross_entropy
from stages.training.loop import new_optimizer

CLASSES = 20
SIZES: dict[str, dict[str, Any]] = {
    "cpu": {"encoder": "resnet18", "image_size": 192, "batch_size": 4},
    "gpu": {"encoder": "resnet101", "image_size": 512, "batch_size": 16},
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = parse(arguments)
    fabric = make_fabric(options.device)
    torch.set_num_threads(options.threads or torch.get_num_threads())
    on_gpu = fabric.device.type == "cuda"
    asked = {name: getattr(options, name) for name in ("arch", "encoder", "image_size", "batch_size")}
    sizes = SIZES[options.size or ("gpu" if on_gpu else "cpu")]
    config = TrainSeg(weights="none", **{**sizes, **{name: value for name, value in asked.items() if value}})
    torch.manual_seed(options.seed)
    student, _ = new_student(config, CLASSES)
    images, masks = drawn_pairs(config, options.seed)
    levers = {"toco": None, **{name: STUDENT_LEVERS[name] for name in options.levers}}
    steps = {
        name: StudentStep(copy.deepcopy(student), config, fabric, images, masks, lever)
        for name, lever in levers.items()
    }
    print(f"{describe(fabric.device)}, {'bf16' if on_gpu else 'float32'}, seed {options.seed}")
    size = f"{config.image_size} pixels, batch {config.batch_size}, {CLASSES} classes"
    print(f"{config.arch}, {config.encoder}, {size}; median of {options.repeats} steps\n")
    counted = {name: count_operations(step) for name, step in steps.items()}
    ways = [
        Way(name=name, run=step, parts=step.parts, holds=partial(bytes_held, step.student, step.optimizer))
        for name, step in steps.items()
    ]
    measured = take_turns(ways, fabric.device, repeats=options.repeats, warmup=options.warmup)
    peak = options.peak or measured_peak(fabric.device)
    print(f"peak {peak:.3g} TFLOP/s, {'as given' if options.peak else 'measured with a large product'}\n")
    rows = []
    for name, one in measured.items():
        floor = counted["toco"] / peak / 1e9
        row = [name, f"{one.milliseconds:.1f}", f"{1000 / one.milliseconds:.2f}"]
        row += [f"{1000 * config.batch_size / one.milliseconds:.2f}", f"{counted['toco'] / 1e12:.3f}"]
        row += [f"{floor:.1f}", f"{100 * floor / one.milliseconds:.0f}", f"{one.peak_bytes / 1e9:.2f}"]
        hours = 20_000 * one.milliseconds / 3_600_000
        rows.append([*row, f"{hours:.2f}", f"{measured['toco'].milliseconds / one.milliseconds:.2f} x"])
    headings = ["way", "ms a step", "steps a second", "images a second", "TFLOP", "floor, ms", "floor, %"]
    print_table([*headings, "peak memory, GB", "hours for 20,000 steps", "against toco"], rows)
    print_parts(measured)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=list(SIZES), help="preset [gpu where there is one]")
    parser.add_argument("--arch", help="network [DeepLabV3Plus]")
    parser.add_argument("--encoder", help="its encoder")
    parser.add_argument("--image-size", type=int, help="pixels")
    parser.add_argument("--batch", dest="batch_size", type=int, help="images a step")
    parser.add_argument("--levers", nargs="*", default=[], choices=list(STUDENT_LEVERS), help="with one each")
    parser.add_argument("--repeats", type=int, default=10, help="steps to measure of each way [10]")
    parser.add_argument("--warmup", type=int, default=2, help="steps before these [2]")
    parser.add_argument("--peak", type=float, help="TFLOP/s of the machine [a large matrix product]")
    parser.add_argument("--threads", type=int, help="CPU threads [torch's choice]")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


class StudentStep:
    """A student and how it does a step; calling it does one."""

    def __init__(
        self,
        student: Student,
        config: TrainSeg,
        fabric: Fabric,
        images: Tensor,
        masks: Tensor,
        lever: Lever | None = None,
    ) -> None:
        self.student, self.fabric = student, fabric
        pair = (images, masks)
        self.batch = tuple(one.pin_memory() for one in pair) if fabric.device.type == "cuda" else pair
        self.parts = Parts(fabric.device)
        optimizer = new_optimizer(student, student.network.encoder, config)
        if lever:
            lever(student, optimizer)
        self.module, self.optimizer = fabric.setup(student, optimizer)
        self.module.train()

    def __call__(self) -> Tensor:
        """One step of training."""
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


def drawn_pairs(config: TrainSeg, seed: int) -> tuple[Tensor, Tensor]:
    """Drawn pictures and their masks, uint8."""
    rng = np.random.default_rng(seed)
    scenes = [
        draw_scene(DEMO_KINDS, config.image_size, rng, first_kind=place % len(DEMO_KINDS))
        for place in range(config.batch_size)
    ]
    images = torch.from_numpy(np.stack([scene.image for scene in scenes])).permute(0, 3, 1, 2).contiguous()
    return images, torch.from_numpy(np.stack([scene.mask for scene in scenes]))


if __name__ == "__main__":
    main()
