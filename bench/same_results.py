"""Does a seeded run of `toco train-cam` end where the published order of operations ends?

    uv run python -m bench.same_results [--size cpu | gpu] [--iterations 50] [--double] [--seg-start 0.1]

The stage runs twice on the same drawn pictures from the same seed, with its loader, schedule and optimiser: as it is,
and with the step of bench/published_step.py. In exact arithmetic both runs would be one; --double says how much of
their difference is rounding. The segmentation branch is there from the first step: the published order trains its
decoder with gradients of zero before, which counts as steps of AdamW, and toco leaves it alone; --seg-start shows that.
"""

import argparse
import json
import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import torch
from torch import Tensor

import stages.train_cam
from bench.published_step import PublishedStep
from bench.timing import describe, exact, print_table
from bench.workload import add_network_options, chosen_config
from data.dataset import Dataset
from data.drawing.sample import draw_sample
from data.readers import open_dataset
from stages.config import TrainCam
from stages.networks.cam_model import load_cam_model, new_cam_model
from stages.networks.inference import class_label_matrix, load_image, square_cams
from stages.run_folder.artifacts import open_stage
from stages.runtime.fabric import make_fabric
from stages.runtime.monitor import SilentMonitor
from stages.toco.cam import label_one_threshold, present_classes
from stages.toco.step import TrainingStep
from stages.train_cam import train_cam


class Comparison(NamedTuple):
    """How far two runs are apart."""

    losses: list[float]  # relative difference of the loss, step by step
    weights: float  # norm of the difference of the final weights, over the norm of what training changed
    labels: float  # share of equal pixels of the labels by the final CAMs, 0..1


def main(arguments: Sequence[str] | None = None) -> None:
    """Train twice, compare and print."""
    options = parse(arguments)
    device = make_fabric(options.device).device
    torch.set_num_threads(options.threads or torch.get_num_threads())
    config = replace(
        chosen_config(options, device),
        iterations=options.iterations,
        seg_start=options.seg_start,
        seed=options.seed,
        device=options.device,
    )
    precision = "float64" if options.double else "bf16" if device.type == "cuda" else "float32"
    print(f"{describe(device)}, {precision}, seed {options.seed}")
    work = f"{options.iterations} steps on {options.images} drawn pictures"
    print(f"{config.backbone}, {config.image_size} pixels, batch {config.batch_size}, {work}\n")
    with tempfile.TemporaryDirectory() as folder:
        result = compare(Path(folder), config, images=options.images, double=options.double)
    few = sorted({1, *(max(1, options.iterations * part // 5) for part in range(1, 6))})
    row = [*(f"{result.losses[step - 1]:.1e}" for step in few), f"{max(result.losses):.1e}"]
    headings = [*(f"loss of step {step}" for step in few), "largest", "weights", "equal CAM labels, %"]
    print_table(headings, [[*row, f"{result.weights:.1e}", f"{100 * result.labels:.4f}"]])


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_network_options(parser)
    parser.add_argument("--batch", dest="batch_size", type=int, help="images a step")
    parser.add_argument("--iterations", type=int, default=50, help="steps [50]")
    parser.add_argument("--seg-start", type=float, default=0.0, help="as of toco train-cam [0]")
    parser.add_argument("--images", type=int, default=40, help="drawn pictures [40]")
    parser.add_argument("--double", action="store_true", help="in float64; of a CPU alone")
    parser.add_argument("--threads", type=int, help="CPU threads [torch's choice]")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


def compare(folder: Path, config: TrainCam, *, images: int, double: bool = False) -> Comparison:
    """Train in both orders and compare.

    Args:
        folder: For the pictures and both runs.
        config: Of both runs; the losses of every step are logged.
        images: How many pictures to draw, of the training's size.
        double: Compute in float64 what the stage computes in float32.
    """
    draw_sample(folder / "data", images=images, validation=0, size=config.image_size, seed=config.seed)
    config = replace(config, log_every=1, evaluate_every=0, evaluate_images=1)
    dataset = open_dataset(folder / "data")
    with float64() if double else nullcontext(), exact():
        torch.manual_seed(config.seed)
        start = new_cam_model(config, len(dataset.class_names))[0].state_dict()
        ours, theirs = (
            Trained(folder / name, kind, dataset, config)
            for name, kind in (("toco", TrainingStep), ("published", PublishedStep))
        )
    moved = distance(ours.weights, start)
    equal = [(one == other).double().mean() for one, other in zip(ours.labels, theirs.labels, strict=True)]
    return Comparison(
        losses=[abs(one - other) / abs(other) for one, other in zip(ours.losses, theirs.losses, strict=True)],
        weights=distance(ours.weights, theirs.weights) / moved,
        labels=torch.stack(equal).mean().item(),
    )


class Trained:
    """A run of the stage with one kind of step, and what came of it."""

    def __init__(self, run: Path, kind: type[TrainingStep], dataset: Dataset, config: TrainCam) -> None:
        with mock.patch.object(stages.train_cam, "TrainingStep", kind):
            folder = train_cam(dataset.root, run, config, SilentMonitor())
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        self.losses = [line["loss"] for line in lines if "loss" in line]
        fabric = make_fabric(config.device)
        model = load_cam_model(open_stage(run, "cam"))
        self.weights = model.state_dict()
        fabric.to_device(model)
        self.labels: list[Tensor] = []  # class numbers, (h, w) of each image
        for sample in dataset.split():
            present = present_classes(class_label_matrix([sample], model.num_classes).to(fabric.device))
            images = load_image(sample, config.image_size).squashed[None].to(fabric.device)
            with fabric.autocast():
                cam = square_cams(model, images, present, config.scales).final
            self.labels.append(present.class_numbers(label_one_threshold(cam, config.background))[0].cpu())


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Euclidean, of all weights together."""
    return math.sqrt(sum((one[name] - other[name]).double().square().sum().item() for name in one))


@contextmanager
def float64() -> Iterator[None]:
    """Let new tensors, and what is asked for in float32, be of 64 bits."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with mock.patch.object(Tensor, "float", Tensor.double):
            yield
    finally:
        torch.set_default_dtype(before)


if __name__ == "__main__":
    main()
