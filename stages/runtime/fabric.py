"""Devices, precision and processes, by Lightning Fabric."""

import atexit
import logging
import os
import subprocess
import warnings
from typing import Any, NamedTuple

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import Tensor

from data.errors import SettingsError
from stages.config import Parallel, Precision
from stages.runtime.launch import own_cores, started_by
from stages.runtime.monitor import Monitor, SilentMonitor, WarningsOnly
from stages.toco.metrics import Confusion
from stages.toco.ranks import SINGLE_RANK, Ranks

SECONDS_TO_END = 3.0  # that other processes have after the first, when all is written


class Started(NamedTuple):
    """Where a process works, and who hears of what."""

    fabric: Fabric
    monitor: Monitor  # of work that all processes do alike: the first one's is heard
    share: Monitor  # of this process's share: the first counts for all, the others warn of their images


def start(config: Parallel, monitor: Monitor, *, unused_parameters: bool = False) -> Started:
    """Set up where a stage runs, and wait for all processes that share its work.

    What they have read of the run folder before, they have all read when this returns.

    Args:
        config: Says where.
        monitor: That of this process.
        unused_parameters: Whether not all of what is trained takes part in each step.

    Raises:
        SettingsError: This machine lacks the device, or another number of processes was started than was asked for.
    """
    starter, started = started_by()
    if starter and started != config.processes:
        raise SettingsError(
            f"{starter} started {started} processes, but --devices {config.devices} --nodes {config.nodes} asks for "
            f"{config.processes}: --devices is the number of processes on each machine, and --nodes that of machines"
        )
    fabric = make_fabric(
        config.device, config.devices, config.nodes, precision=config.precision, unused_parameters=unused_parameters
    )
    # Before they are started: Ctrl-C or an error may come while they get ready.
    atexit.register(end, getattr(fabric.strategy.launcher, "procs", []))
    fabric.launch()
    fabric.barrier()
    if fabric.is_global_zero:
        return Started(fabric, monitor, monitor)
    return Started(fabric, SilentMonitor(), WarningsOnly(monitor))


def end(children: "list[subprocess.Popen[bytes]]") -> None:
    """End the processes that this one has started: after an error here, they might wait for it for ever."""
    waited_for = list(children)
    # Lightning watches the same list, and would kill this process for a child that ends with another code than 0.
    children.clear()
    for child in waited_for:
        try:
            child.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            child.kill()


def make_fabric(
    device: str, devices: int = 1, nodes: int = 1, *, precision: Precision = "auto", unused_parameters: bool = False
) -> Fabric:
    """Set up the device, the number format and the processes of a stage.

    Args:
        device: auto, cpu, cuda or mps.
        devices: How many of them on each machine; more than one in all trains data-parallel.
        nodes: How many machines.
        precision: auto means bf16 (mixed precision) on GPUs that compute in it natively, float32 elsewhere.
        unused_parameters: Whether some trained parameters get no gradient in some steps.

    Raises:
        SettingsError: This machine lacks the device, or the addresses of the other machines are missing.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise SettingsError("--device cuda: torch finds no CUDA GPU on this machine; use --device auto or cpu")
    if device == "mps" and not torch.backends.mps.is_available():
        raise SettingsError("--device mps: torch sees no Apple GPU on this machine; use --device auto or cpu")
    if device == "cuda" and devices > torch.cuda.device_count():
        advice = "; give srun --gpus-per-node, not --gpus-per-task" if started_by().starter == "srun" else ""
        raise SettingsError(
            f"--devices {devices}: torch sees {torch.cuda.device_count()} CUDA GPUs on this machine{advice}"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice on other hardware and precisions
        strategy: Any = "auto"
        environment: ClusterEnvironment = LightningEnvironment()  # given, so that Fabric does not look for another
        if devices * nodes > 1:
            for name in ("distributed", "rank_zero"):  # where each process tells of its birth
                logging.getLogger(f"lightning_fabric.utilities.{name}").setLevel(logging.WARNING)
            strategy = DDPStrategy(find_unused_parameters=unused_parameters)
            environment = who_starts(devices, nodes)
        return Fabric(
            accelerator=device,
            devices=devices,
            num_nodes=nodes,
            strategy=strategy,
            precision="bf16-mixed" if _uses_bf16(device, precision) else "32-true",
            plugins=[environment],
        )


def _uses_bf16(device: str, precision: Precision) -> bool:
    if precision == "auto":  # older GPUs only emulate bf16, which is slower than float32
        return device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return precision == "bf16"


def who_starts(devices: int, nodes: int) -> ClusterEnvironment:
    """Who starts the processes of a command: torchrun, srun, or else itself, those of this machine.

    Raises:
        SettingsError: Nothing says where the other machines are.
    """
    starter, _ = started_by()
    if starter == "torchrun":
        return TorchElasticEnvironment()
    if starter == "srun":
        try:
            return SLURMEnvironment()
        except RuntimeError as error:  # --ntasks without --ntasks-per-node
            raise SettingsError(f"srun: start it with --nodes={nodes} --ntasks-per-node={devices}") from error
    if nodes > 1 and not {"MASTER_ADDR", "MASTER_PORT", "NODE_RANK"} <= os.environ.keys():
        raise SettingsError(
            f"--nodes {nodes}: start this command on each machine, by torchrun or srun (docs/how-to/several-gpus.md), "
            "or with MASTER_ADDR, MASTER_PORT and NODE_RANK set"
        )
    return LightningEnvironment()


def ranks_of(fabric: Fabric) -> Ranks:
    """The ranks that share each batch."""

    def mean(value: Tensor) -> Tensor:
        reduced = fabric.all_reduce(value.detach().clone(), reduce_op="mean")  # in place
        assert isinstance(reduced, Tensor)
        return reduced

    return SINGLE_RANK if fabric.world_size == 1 else Ranks(fabric.world_size, mean)


def share_counts(confusion: Confusion, fabric: Fabric) -> Confusion:
    """Add up what the processes have counted, each on its own images."""
    whole = Confusion(confusion.num_classes)
    counts = fabric.all_reduce(confusion.counts.to(fabric.device, copy=True), reduce_op="sum")
    assert isinstance(counts, Tensor)
    whole.counts = counts.cpu()
    return whole


def loader_workers(asked: int | None, device: torch.device, devices: int = 1) -> int:
    """Processes that load images for one of `devices`: as asked, else enough for a GPU, and none where a CPU works."""
    if asked is not None:
        return asked
    return min(16, own_cores(devices)) if device.type == "cuda" else 0
