"""How much memory does a step of `toco train-cam` take, with activation checkpointing and without?

    uv run python -m bench.step_memory [--size cpu | gpu] [--backbone NAME] [--image-size N] [--batch N]

Counted, not measured: the step runs on tensors that have shapes and no data (torch's FakeTensorMode), so this needs
neither a GPU nor time. Each tensor's storage counts once, from the operation that makes it until nothing holds it. What
no operation shows is not in it: CUDA's context, work space of libraries, the allocator's gaps, and the lattice of the
bilateral filter, whose size depends on the data; a GPU's peak is some gigabyte above.
"""

import argparse
import weakref
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bench.timing import print_table
from bench.workload import CLASSES, add_network_options, chosen_config, drawn_batch
from stages.config import TrainCam
from stages.networks.cam_model import new_cam_model
from stages.toco import energy
from stages.toco.step import Phase, StepBatch, TrainingStep
from stages.train_cam import step_settings
from stages.training.loop import new_optimizer

GIGA = 1e9


class Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of the storages that are alive, of those that operations within made; and their peak."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        result = operation(*arguments, **(options or {}))
        for one in tree_leaves(result):
            if isinstance(one, Tensor):
                self.add(one)
        return result

    def add(self, tensor: Tensor) -> None:
        """Count a tensor's storage until its end."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self.known:
            self.known.add(key)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


class Counted(NamedTuple):
    """Bytes."""

    weights: int  # with the projector's teacher
    gradients: int
    moments: int  # AdamW's two
    kept: int  # at the end of the forward pass, for the backward pass
    peak: int  # of all


class _NoLattice:
    """In place of the lattice, which only data can size."""

    def __init__(self, features: Tensor) -> None:
        pass

    def filter(self, values: Tensor) -> Tensor:
        return values.clone()


def main(arguments: Sequence[str] | None = None) -> None:
    """Count and print."""
    options = parse(arguments)
    config = chosen_config(options, torch.device("cuda"))
    batch = drawn_batch(config, seed=0)
    ways = {"toco": False, "--checkpoint-activations": True}
    counted = {name: count(config, batch, checkpoint=checkpoint) for name, checkpoint in ways.items()}
    print(f"{config.backbone}, {config.image_size} pixels, batch {config.batch_size}, {CLASSES} classes, bf16\n")
    rows = [[name, *(f"{size / GIGA:.2f}" for size in one)] for name, one in counted.items()]
    print_table(["way, GB", "weights", "gradients", "AdamW's moments", "kept for backward", "peak of all"], rows)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_network_options(parser)
    parser.set_defaults(size="gpu")  # it is counted, and computed nowhere
    parser.add_argument("--batch", dest="batch_size", type=int, help="images a step")
    return parser.parse_args(arguments)


def count(config: TrainCam, batch: StepBatch, *, checkpoint: bool) -> Counted:
    """Count two steps with the segmentation branch: at the second one AdamW's moments are there."""
    with torch.device("meta"):
        model, _ = new_cam_model(config, CLASSES)
    with FakeTensorMode(allow_non_fake_inputs=True), mock.patch.object(energy, "PermutohedralLattice", _NoLattice):
        model.to_empty(device="cpu")
        if checkpoint:
            model.backbone.checkpoint_activations()
        step = TrainingStep(model, step_settings(config, model.backbone.patch_size))
        optimizer = new_optimizer(step, model.backbone, config)
        fake = StepBatch._make([*(torch.empty_like(one) for one in batch[:-1]), batch.most_classes])
        live = Live()
        for one in (*step.parameters(), *step.buffers()):
            live.add(one)
        with live:
            for _ in range(2):
                before = live.now
                with torch.autocast("cpu", torch.bfloat16):
                    total = step(fake, Phase(contrast=True, segment=True), _generators(batch)).total
                kept = live.now - before
                total.backward()
                del total
                gradients = live.now - before
                optimizer.step()
                optimizer.zero_grad()
    weights = _bytes(step.parameters())
    moments = sum(_bytes(state.values()) for state in optimizer.state.values())
    return Counted(weights=weights, gradients=gradients, moments=moments, kept=kept, peak=live.peak)


def _generators(batch: StepBatch) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(place) for place in range(len(batch.image))]


def _bytes(tensors: Iterable[Any]) -> int:
    return sum(one.untyped_storage().nbytes() for one in tensors if isinstance(one, Tensor))


if __name__ == "__main__":
    main()
