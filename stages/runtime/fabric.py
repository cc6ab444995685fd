"""Devices, precision and processes, by Lightning Fabric."""

import atexit
import logging
import os
import subprocess
import warnings
from datetime import timedelta
from typing import Any, NamedTuple

import torch
from torch import Tensor

from data.errors import SettingsError
from stages.config import Parallel, Precision
from stages.runtime.launch import own_cores, started_by
from stages.runtime.lightning import (
    ClusterEnvironment,
    DDPStrategy,
    Fabric,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from stages.runtime.monitor import Monitor, SilentMonitor, WarningsOnly
from stages.toco.metrics import Confusion
from stages.toco.ranks import SINGLE_RANK, Ranks

SECONDS_TO_END = 3.0  # for the other processes to end after this one is done or failed


class Started(NamedTuple):
    """The device and processes of a stage, and the monitors of this rank."""

    fabric: Fabric
    monitor: Monitor  # for work that all ranks repeat: silent on ranks above 0
    share: Monitor  # for this rank's share of the images: rank 0 counts for all, the others only warn


def start(config: Parallel, monitor: Monitor, *, unused_parameters: bool = False) -> Started:
    """Set up the device and start all processes of a stage.

    Acts as a barrier: every process has finished its earlier reads of the run folder.

    Args:
        config: Devices, nodes and precision.
        monitor: The monitor of this process.
        unused_parameters: Whether some trained parameters get no gradient in some steps.

    Raises:
        SettingsError: This machine lacks the device, or the number of processes differs from --devices and --nodes.
    """
    starter, started = started_by()
    if starter and started != config.processes:
        raise SettingsError(
            f"{starter} started {started} processes, but --devices {config.devices} --nodes {config.nodes} needs "
            f"{config.processes}: --devices is the number of processes per machine, --nodes the number of machines"
        )
    fabric = make_fabric(
        config.device, config.devices, config.nodes, precision=config.precision, unused_parameters=unused_parameters
    )
    # Registered before they are started: Ctrl-C or an error may come during their start.
    atexit.register(end, getattr(fabric.strategy.launcher, "procs", []))
    fabric.launch()
    fabric.barrier()
    if fabric.is_global_zero:
        return Started(fabric, monitor, monitor)
    return Started(fabric, SilentMonitor(), WarningsOnly(monitor))


def end(children: "list[subprocess.Popen[bytes]]") -> None:
    """End the processes that this one started: after an error here, they would wait for it forever."""
    waited_for = list(children)
    # Lightning watches the same list and would kill this process when a child ends with an exit code other than 0.
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
        devices: Number of devices per machine. More than one in total means data-parallel training.
        nodes: Number of machines.
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
        environment: ClusterEnvironment = LightningEnvironment()  # given, so that Fabric does not detect one
        if devices * nodes > 1:
            for name in ("distributed", "rank_zero"):  # which announce each process
                logging.getLogger(f"lightning_fabric.utilities.{name}").setLevel(logging.WARNING)
            # Long, because ranks wait while rank 0 computes features or makes choices for all.
            strategy = DDPStrategy(find_unused_parameters=unused_parameters, timeout=timedelta(days=2))
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
    """Return what starts the processes: torchrun, srun, or toco itself on this machine.

    Raises:
        SettingsError: The addresses of the other machines are missing.
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
    """Return the ranks that share each batch."""

    def mean(value: Tensor) -> Tensor:
        reduced = fabric.all_reduce(value.detach().clone(), reduce_op="mean")  # in place
        assert isinstance(reduced, Tensor)
        return reduced

    return SINGLE_RANK if fabric.world_size == 1 else Ranks(fabric.world_size, mean)


def share_counts(confusion: Confusion, fabric: Fabric) -> Confusion:
    """Add up the counts of all ranks, each from its own images."""
    whole = Confusion(confusion.num_classes)
    counts = fabric.all_reduce(confusion.counts.to(fabric.device, copy=True), reduce_op="sum")
    assert isinstance(counts, Tensor)
    whole.counts = counts.cpu()
    return whole


def all_ids(own: set[str], fabric: Fabric) -> set[str]:
    """Return the ids of images that any rank has."""
    return set().union(*(fabric.broadcast(own, src=rank) for rank in range(fabric.world_size)))


def loader_workers(asked: int | None, device: torch.device, devices: int = 1) -> int:
    """Return the number of processes that load images for one device: as given, or as many as help."""
    if asked is not None:
        return asked
    return min(16, own_cores(devices)) if device.type == "cuda" else 0
