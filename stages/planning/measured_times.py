"""Times of three training steps and of one pass without gradients, with random weights and images of the data set."""

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle, islice

import torch
from torch.utils.flop_counter import FlopCounterMode

from data.dataset import Dataset, Sample
from data.errors import DataError
from stages.config import TrainCam
from stages.features.spec import PATCHES
from stages.networks.cam_model import new_cam_model
from stages.planning.operations import EncoderShape, MapShape, StepKind, VitShape, step_kinds
from stages.planning.planner import Times
from stages.run_folder.run_data import spread
from stages.runtime.fabric import make_fabric
from stages.runtime.lightning import Fabric
from stages.runtime.monitor import Monitor
from stages.toco.backbone import Backbone
from stages.toco.step import Phase, StepBatch, TrainingStep
from stages.toco.vit_backbone import VitBackbone
from stages.train_cam import LoadViews, step_settings
from stages.training.loop import new_optimizer

TIMED_KINDS = 2  # kinds of steps that are timed, after a step for warming up


def measure_times(dataset: Dataset, config: TrainCam, monitor: Monitor) -> Times:
    """Time the CAM network on this machine; takes seconds.

    Args:
        dataset: The data set; some images of the training split are read.
        config: Settings of the training. Its weights are not loaded.
        monitor: Receives progress.

    Raises:
        DataError: No image can be read.
        SettingsError: The network cannot be built with these settings, or this machine lacks the device.
    """
    config = replace(config, weights="none", compile=False, cache=None)
    fabric = make_fabric(config.device, precision=config.precision)
    with torch.random.fork_rng(devices=[]):
        model, _ = new_cam_model(config, len(dataset.class_names), dataset.pixels)
        began = time.perf_counter()
        batch, read = _batch(dataset.split(config.split), len(dataset.class_names), config)
        loading = (time.perf_counter() - began) / read
        kinds = sorted(step_kinds(config), key=step_kinds(config).__getitem__)[-TIMED_KINDS:]
        monitor.start("timing steps", len(kinds) + 2, unit="steps")
        step = TrainingStep(model, step_settings(config, model.backbone.patch_size, dataset.pixels.channels))
        module, optimizer = fabric.setup(step, new_optimizer(step, model.backbone, config))
        module.train()
        batch = fabric.to_device(batch)

        def seconds(kind: StepKind) -> float:
            began = _now(fabric)
            generators = [torch.Generator().manual_seed(place) for place in range(config.batch_size)]
            losses = module(batch, Phase(**kind._asdict()), generators)
            fabric.backward(losses.total)
            optimizer.step()
            optimizer.zero_grad()
            monitor.advance()
            return _now(fabric) - began

        seconds(max(kinds))  # the first step is slower
        load = loading * config.batch_size if fabric.device.type == "cpu" else 0.0  # a GPU does not wait for it
        steps = {kind: seconds(kind) + load for kind in kinds}
        memory = _memory(fabric)
        shape = shape_of(model.backbone.eval())
        speed = _pass_speed(model.backbone, shape, fabric)
        monitor.finish()
    return Times(shape=shape, config=config, steps=steps, pass_speed=speed, loading=loading, memory=memory)


def shape_of(backbone: Backbone) -> EncoderShape:
    """Return the shape of a network; of one with stages, the operations of a small image are counted."""
    if not isinstance(backbone, VitBackbone):
        side = 128
        weight = next(backbone.parameters())
        image = torch.zeros(1, len(backbone.mean), side, side, dtype=weight.dtype, device=weight.device)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            backbone(image)
        return MapShape(operations_per_pixel=counter.get_total_flops() / side**2, patch_size=backbone.patch_size)
    # A gated MLP has three matrices, a plain one two: count the weights, not the width of one matrix.
    mlp_weights = sum(weight.numel() for weight in backbone.vit.blocks[0].mlp.parameters() if weight.ndim == 2)
    return VitShape(
        width=backbone.embed_dim,
        depth=len(backbone.vit.blocks),
        patch_size=backbone.patch_size,
        prefix_tokens=backbone.prefix_tokens,
        mlp_width=mlp_weights // (2 * backbone.embed_dim),
    )


def _batch(samples: Sequence[Sample], num_classes: int, config: TrainCam) -> tuple[StepBatch, int]:
    """Load a batch of images, repeated if there are few, and count those that were read."""
    load = LoadViews(num_classes, config)
    views, problem = [], DataError("the split has no images")
    for sample in spread(samples, config.batch_size + 2):
        try:
            views.append(load(sample))
        except DataError as error:
            problem = error
        if len(views) == config.batch_size:
            break
    if not views:
        raise problem
    return StepBatch.stack(list(islice(cycle(views), config.batch_size))), len(views)


@torch.inference_mode()
def _pass_speed(backbone: Backbone, shape: EncoderShape, fabric: Fabric) -> float:
    """Operations in a second of a pass over an image of the size that the frozen features have."""
    side = PATCHES * shape.patch_size
    image = torch.zeros(1, 3, side, side, device=fabric.device)
    best = float("inf")
    for _ in range(2):
        began = _now(fabric)
        with fabric.autocast():
            backbone(image)
        best = min(best, _now(fabric) - began)
    return shape.encode(side) / best


def _now(fabric: Fabric) -> float:
    if fabric.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _memory(fabric: Fabric) -> float | None:
    """Bytes: the largest memory of tensors on a GPU, of the process on a CPU; None if the system does not say."""
    if fabric.device.type == "cuda":
        return float(torch.cuda.max_memory_allocated())
    try:
        import resource
    except ImportError:  # on Windows
        return None
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(largest if sys.platform == "darwin" else 1024 * largest)
