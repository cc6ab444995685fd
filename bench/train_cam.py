"""How fast is a step of `toco train-cam`, where does its time go, and how far is it from the arithmetic?

    uv run python -m bench.train_cam --published [--size cpu | gpu] [--early] [--levers NAME ...]

Random weights and drawn pictures. The ways (toco's step; the same in the published order; toco's with a lever) take
turns, each with a network of its own from the same weights; medians. Before that, their losses are compared in float32.
'METHOD' in the table counts the encoder's passes alone, as METHOD.md section 9 does. Peak memory is of the GPU's
tensors, or of the process on a CPU, less what the other ways hold.
"""

import argparse
import copy
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from unittest import mock

import torch
from lightning_fabric import Fabric
from torch.utils.data._utils.pin_memory import pin_memory

import bench.published_step
import stages.toco.step
from bench.levers import CAM_LEVERS, Lever, unfused
from bench.published_step import PublishedStep
from bench.timing import (
    Measured,
    Parts,
    Way,
    bytes_held,
    count_operations,
    count_waits,
    describe,
    exact,
    measured_peak,
    print_parts,
    print_table,
    take_turns,
    wait_for,
)
from bench.workload import CLASSES, add_network_options, chosen_config, drawn_batch, operations
from stages.config import TrainCam
from stages.networks.cam_model import new_cam_model
from stages.runtime.fabric import make_fabric
from stages.toco.backbone import Backbone
from stages.toco.model import ToCo
from stages.toco.step import Losses, Phase, StepBatch, TrainingStep
from stages.train_cam import step_settings
from stages.training.loop import new_optimizer

TOLERANCE = 1e-3  # relative, of losses in float32: rounding moves a pixel over a threshold here and there
# What a step calls, and the part of the step that it is.
METHODS = {"_cams": "CAM", "_ptc": "PTC", "_ctc": "CTC", "_segmentation": "segmentation + PAR"}
FUNCTIONS = ((stages.toco.step, "energy_loss"), (bench.published_step, "energy_one_by_one"))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = parse(arguments)
    fabric = make_fabric(options.device)
    torch.set_num_threads(options.threads or torch.get_num_threads())
    config = chosen_config(options, fabric.device)
    phase = Phase(contrast=True, segment=not options.early)
    torch.manual_seed(options.seed)
    model, _ = new_cam_model(config, CLASSES)
    batch = drawn_batch(config, options.seed)
    kinds: dict[str, tuple[type[TrainingStep], Lever | None]] = {}
    if options.published:
        kinds["published"] = (PublishedStep, unfused)
    kinds["toco"] = (TrainingStep, None)
    kinds.update({name: (TrainingStep, CAM_LEVERS[name]) for name in options.levers})
    steps = {
        name: CamStep(kind, copy.deepcopy(model), config, fabric, batch, phase, lever)
        for name, (kind, lever) in kinds.items()
    }
    print(f"{describe(fabric.device)}, {'bf16' if fabric.device.type == 'cuda' else 'float32'}, seed {options.seed}")
    print(
        f"{config.backbone}, {config.image_size} pixels, batch {config.batch_size}, {CLASSES} classes, "
        f"{'before' if options.early else 'with'} the segmentation branch; median of {options.repeats} steps\n"
    )
    expected = steps["toco"].losses_in_float32()
    counted: dict[str, int] = {}
    for name, step in steps.items():
        began = time.perf_counter()
        difference = check_losses(step.losses_in_float32(), expected, early=options.early)
        for _ in range(options.warmup):
            step()
        wait_for(fabric.device)
        seconds = time.perf_counter() - began
        print(f"{name}: losses in float32 differ from toco's by {difference:.1e} at most; warm after {seconds:.1f} s")
        if fabric.device.type == "cuda":
            print(f"{name}: the CPU waits for the GPU {count_waits(step, fabric.device)} times a step")
        counted[name] = count_operations(step)
    ways = [
        Way(name=name, run=step, parts=step.parts, holds=partial(bytes_held, step.step, step.optimizer))
        for name, step in steps.items()
    ]
    measured = take_turns(ways, fabric.device, repeats=options.repeats, warmup=1)
    peak = options.peak or measured_peak(fabric.device)
    print(f"peak {peak:.3g} TFLOP/s, {'as given' if options.peak else 'measured with a large product'}\n")
    print_ways(measured, counted, config, model.backbone, peak)
    print_parts(measured)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_network_options(parser)
    parser.add_argument("--batch", dest="batch_size", type=int, help="images a step")
    parser.add_argument("--published", action="store_true", help="measure the published order beside it")
    parser.add_argument("--early", action="store_true", help="the first iterations, before the segmentation branch")
    parser.add_argument("--levers", nargs="*", default=[], choices=list(CAM_LEVERS), help="toco's step with one each")
    parser.add_argument("--repeats", type=int, default=10, help="steps to measure of each way [10]")
    parser.add_argument("--warmup", type=int, default=2, help="steps before these [2]")
    parser.add_argument("--peak", type=float, help="TFLOP/s of the machine [a large matrix product]")
    parser.add_argument("--threads", type=int, help="CPU threads [torch's choice]")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


class CamStep:
    """A network and how it does a step; calling it does one."""

    def __init__(
        self,
        kind: type[TrainingStep],
        model: ToCo,
        config: TrainCam,
        fabric: Fabric,
        batch: StepBatch,
        phase: Phase,
        lever: Lever | None = None,
    ) -> None:
        self.fabric, self.phase = fabric, phase
        self.batch = pin_memory(batch) if fabric.device.type == "cuda" else batch  # type: ignore[no-untyped-call]
        self.parts = Parts(fabric.device)
        self.step = kind(model, step_settings(config, model.backbone.patch_size))
        optimizer = new_optimizer(self.step, model.backbone, config)
        if lever:
            lever(self.step, optimizer)
        self.module, self.optimizer = fabric.setup(self.step, optimizer)
        self.module.train()

    @property
    def crops(self) -> list[torch.Generator]:
        """What draws the crops, the same in each step."""
        return [torch.Generator().manual_seed(place) for place in range(len(self.batch.image))]

    def __call__(self) -> Losses:
        """One step of training."""
        part = self.parts.part
        with part("data to device"):
            batch = self.fabric.to_device(self.batch)
        torch.manual_seed(0)
        with watched(self.step, self.parts):
            losses: Losses = self.module(batch, self.phase, self.crops)
        with part("backward"):
            self.fabric.backward(losses.total)
        with part("optimiser"):
            self.optimizer.step()
            self.optimizer.zero_grad()
        return losses

    @torch.no_grad()
    def losses_in_float32(self) -> Losses:
        """The losses, without learning anything from them."""
        self.step.eval()
        torch.manual_seed(0)
        with exact():
            losses: Losses = self.step(self.fabric.to_device(self.batch), self.phase, self.crops)
        self.step.train()
        return losses


@contextmanager
def watched(step: TrainingStep, parts: Parts) -> Iterator[None]:
    """Count the step's calls for its parts."""
    with ExitStack() as stack:
        for name, part in METHODS.items():
            around = parts.around(part, getattr(step, name))
            stack.enter_context(mock.patch.object(step, name, around))
        for module, name in FUNCTIONS:
            stack.enter_context(mock.patch.object(module, name, parts.around("energy", getattr(module, name))))
        forward = parts.around("main forward", step.model.forward)
        stack.enter_context(mock.patch.object(step.model, "forward", forward))
        yield


def check_losses(actual: Losses, expected: Losses, *, early: bool) -> float:
    """Largest relative difference; the published order has the branch's losses also where they do not count."""
    names = [name for name in Losses._fields if not (early and name in ("segmentation", "regularised"))]
    pairs = [(float(getattr(actual, name)), float(getattr(expected, name))) for name in names]
    difference = max(abs(one - other) / max(abs(other), 1e-12) for one, other in pairs)
    assert difference < TOLERANCE, f"the losses are not the same: {actual} and {expected}"
    return difference


def print_ways(
    measured: dict[str, Measured], counted: dict[str, int], config: TrainCam, backbone: Backbone, peak: float
) -> None:
    """Print a row for each way."""
    first = next(iter(measured.values())).milliseconds
    rows = []
    for name, one in measured.items():
        floor = counted[name] / peak / 1e9
        by_shapes = operations(config, backbone, published=name == "published").total
        row = [name, f"{one.milliseconds:.1f}"]
        row += [f"{1000 * config.batch_size / one.milliseconds:.2f}", f"{counted[name] / 1e12:.3f}"]
        row += [f"{by_shapes / 1e12:.3f}", f"{floor:.1f}", f"{100 * floor / one.milliseconds:.0f}"]
        rows.append([*row, f"{one.peak_bytes / 1e9:.2f}", f"{first / one.milliseconds:.2f} x"])
    headings = ["way", "ms a step", "images a second", "TFLOP, counted", "TFLOP, METHOD", "floor, ms"]
    print_table([*headings, "of the step, %", "peak memory, GB", f"against {next(iter(measured))}"], rows)


if __name__ == "__main__":
    main()
