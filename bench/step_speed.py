"""How fast is a training step of `toco train-cam`, and where does its time go?

    uv run python -m bench.step_speed [--size cpu | gpu] [--early] [--beside float32 compile grad-checkpointing]

Random weights and drawn pictures. Variants are measured in alternation, each with its own copy of the network;
figures are medians. 'TFLOP, counted' are all matrix products and convolutions of a step. 'TFLOP, METHOD' are the
encoder's passes alone (METHOD.md section 9). 'floor' is the time of the counted operations at the speed of a large
matrix product. Peak memory is of tensors on a GPU and of the process on a CPU, with the weights of all variants.
"""

import argparse
import copy
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from unittest import mock

import torch
from lightning_fabric import Fabric
from torch.utils.data._utils.pin_memory import pin_memory

import bench.timing
from bench.timing import Parts, Rows, Variant, add_options, count_operations, count_waits, print_parts, print_table
from bench.workload import CLASSES, add_network_options, chosen_config, drawn_batch, encoder_operations
from stages.config import TrainCam
from stages.networks.cam_model import new_cam_model
from stages.networks.compilation import compile_parts
from stages.runtime.fabric import make_fabric
from stages.runtime.monitor import SilentMonitor
from stages.toco.energy import energy_loss
from stages.toco.model import ToCo
from stages.toco.step import Losses, Phase, StepBatch, TrainingStep
from stages.train_cam import step_settings
from stages.training.loop import new_optimizer

VARIANTS = ("float32", "compile", "grad-checkpointing")
# Methods of the step, and the part that each stands for.
METHODS = {"_cams": "CAM", "_ptc": "PTC", "_ctc": "CTC", "_segmentation": "segmentation + PAR"}


def main(arguments: Sequence[str] | None = None) -> Rows:
    """Measure, print, and return the table of the variants."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_network_options(parser)
    add_options(parser)
    parser.add_argument("--batch", dest="batch_size", type=int, help="images in a step")
    parser.add_argument("--early", action="store_true", help="a step before the segmentation branch starts")
    parser.add_argument("--beside", nargs="*", default=[], choices=VARIANTS, help="more variants to measure")
    options = parser.parse_args(arguments)
    fabric = make_fabric(options.device)
    device = fabric.device
    torch.set_num_threads(options.threads or torch.get_num_threads())
    config = chosen_config(options, device)
    phase = Phase(contrast=True, segment=not options.early)
    torch.manual_seed(options.seed)
    model, _ = new_cam_model(config, CLASSES)
    batch = drawn_batch(config, options.seed)
    steps = {
        name: CamStep(copy.deepcopy(model), config, fabric, batch, phase, name) for name in ("toco", *options.beside)
    }
    print(f"{bench.timing.describe(device)}, seed {options.seed}")
    branch = "before" if options.early else "with"
    print(
        f"{config.backbone}, {config.image_size} pixels, batch {config.batch_size}, {CLASSES} classes, {branch} the "
        f"segmentation branch; median of {options.repeats} steps\n"
    )
    measured = bench.timing.alternate(
        [Variant(name, step, step.parts) for name, step in steps.items()], device, repeats=options.repeats
    )
    peak = bench.timing.measured_peak(device)
    counted = count_operations(steps["toco"])
    floor = counted / peak / 1e9
    rows = [
        {
            "variant": name,
            "ms a step": figures.milliseconds,
            "images a second": 1000 * config.batch_size / figures.milliseconds,
            "TFLOP, counted": counted / 1e12,
            "TFLOP, METHOD": sum(encoder_operations(config, model.backbone).values()) / 1e12,
            "floor, ms": floor,
            "floor, % of the step": 100 * floor / figures.milliseconds,
            "peak memory, GB": figures.peak_bytes / 1e9,
            "waits for the GPU": count_waits(steps[name], device),
        }
        for name, figures in measured.items()
    ]
    print(f"{peak:.3g} TFLOP/s in a large matrix product\n")
    print_table(rows)
    print_parts(measured)
    return rows


class CamStep:
    """A network with its optimiser. A call does one training step."""

    def __init__(
        self, model: ToCo, config: TrainCam, fabric: Fabric, batch: StepBatch, phase: Phase, variant: str = "toco"
    ) -> None:
        self.fabric, self.phase = fabric, phase
        self.batch = pin_memory(batch) if fabric.device.type == "cuda" else batch  # type: ignore[no-untyped-call]
        self.parts = Parts(fabric.device)
        self.step = TrainingStep(model, step_settings(config, model.backbone.patch_size))
        if variant == "grad-checkpointing":
            model.backbone.set_grad_checkpointing()
        if variant == "compile":
            compile_parts(model.backbone.parts, fabric.device, SilentMonitor())
        self.precision = "float32" if variant == "float32" else "auto"
        self.optimizer: torch.optim.Optimizer = new_optimizer(self.step, model.backbone, config)
        self.module: torch.nn.Module = self.step
        if self.precision == "float32":  # without Fabric's bf16
            self.step.to(fabric.device)
        else:
            self.module, self.optimizer = fabric.setup(self.step, self.optimizer)
        self.module.train()

    def __call__(self) -> Losses:
        """Do one training step; each step draws the same crops."""
        part = self.parts.part
        with part("data to device"):
            batch = self.fabric.to_device(self.batch)
        torch.manual_seed(0)
        generators = [torch.Generator().manual_seed(place) for place in range(len(self.batch.image))]
        with watched(self.step, self.parts):
            losses: Losses = self.module(batch, self.phase, generators)
        with part("backward"):
            self.fabric.backward(losses.total)
        with part("optimiser"):
            self.optimizer.step()
            self.optimizer.zero_grad()
        return Losses(*(loss.detach() for loss in losses))


@contextmanager
def watched(step: TrainingStep, parts: Parts) -> Iterator[None]:
    """Assign the calls inside a step to its parts."""
    with ExitStack() as stack:
        for name, part in METHODS.items():
            stack.enter_context(mock.patch.object(step, name, parts.around(part, getattr(step, name))))
        stack.enter_context(mock.patch("stages.toco.step.energy_loss", parts.around("energy", energy_loss)))
        forward = parts.around("main forward", step.model.forward)
        stack.enter_context(mock.patch.object(step.model, "forward", forward))
        yield


if __name__ == "__main__":
    main()
