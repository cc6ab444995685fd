"""Devices, precision and processes, by Lightning Fabric."""

import warnings
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import Tensor

from data.cores import cores
from stages.toco.processes import ALONE, Processes


def make_fabric(device: str, devices: int = 1) -> Fabric:
    """Set up where a stage runs: bf16 on CUDA, float32 elsewhere.

    Args:
        device: auto, cpu, cuda or mps.
        devices: How many of them; more than one trains data-parallel.

    Raises:
        ValueError: This machine does not have what was asked for.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch sees no CUDA GPU on this machine; use --device auto or cpu")
    if device == "mps" and not torch.backends.mps.is_available():
        raise ValueError("--device mps: torch sees no Apple GPU on this machine; use --device auto or cpu")
    if device == "cuda" and devices > torch.cuda.device_count():
        raise ValueError(f"--devices {devices}: torch sees {torch.cuda.device_count()} CUDA GPUs on this machine")
    # Parts of the network rest while their losses have no weight yet.
    strategy: Any = DDPStrategy(find_unused_parameters=True) if devices > 1 else "auto"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice on other hardware and precisions
        return Fabric(
            accelerator=device,
            devices=devices,
            strategy=strategy,
            precision="bf16-mixed" if device == "cuda" else "32-true",
        )


def processes_of(fabric: Fabric) -> Processes:
    """The processes that share each batch."""

    def mean(value: Tensor) -> Tensor:
        reduced = fabric.all_reduce(value.detach().clone(), reduce_op="mean")  # in place
        assert isinstance(reduced, Tensor)
        return reduced

    return ALONE if fabric.world_size == 1 else Processes(fabric.world_size, mean)


def loader_workers(asked: int | None, device: torch.device) -> int:
    """Processes that load images: as asked, else enough for a GPU, and none where the CPU computes anyway."""
    if asked is not None:
        return asked
    return min(16, cores()) if device.type == "cuda" else 0
