import signal
import subprocess
import sys
from typing import Any

import pytest
import torch

import stages.runtime.fabric
from data.cores import cores
from stages.config import Predict
from stages.runtime.fabric import end, loader_workers, make_fabric, start
from stages.runtime.launch import is_local_child, is_rank_zero, own_cores, started_by
from stages.runtime.monitor import SilentMonitor


def test_make_fabric__cpu_computes_in_float32() -> None:
    fabric = make_fabric("cpu")
    assert fabric.device.type == "cpu"
    assert fabric.world_size == 1
    with fabric.autocast():
        assert torch.nn.Linear(2, 2)(torch.ones(1, 2)).dtype == torch.float32


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cuda", "--device cuda: torch finds no CUDA GPU on this machine; use --device auto or cpu"),
        ("mps", "--device mps: torch sees no Apple GPU on this machine; use --device auto or cpu"),
    ],
)
def test_make_fabric__missing_hardware(monkeypatch: pytest.MonkeyPatch, device: Any, message: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert make_fabric("auto").device.type == "cpu"
    with pytest.raises(ValueError, match="--device") as caught:
        make_fabric(device)
    assert str(caught.value) == message


def test_make_fabric__too_few_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match="--devices 3: torch sees 2 CUDA GPUs on this machine"):
        make_fabric("cuda", 3)


@pytest.mark.parametrize(
    ("starter", "environment"),
    [
        ("torchrun", {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "4"}),
        ("srun", {"SLURM_STEP_NUM_TASKS": "4", "SLURM_NTASKS": "4"}),
    ],
)
def test_start__other_processes_than_were_asked_for(
    monkeypatch: pytest.MonkeyPatch, starter: str, environment: dict[str, str]
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert started_by() == (starter, 4)
    for config in (Predict(device="cpu"), Predict(device="cpu", devices=2), Predict(device="cpu", devices=4, nodes=2)):
        with pytest.raises(ValueError, match=f"{starter} started 4 processes, but --devices {config.devices} --nodes"):
            start(config, SilentMonitor())


def test_start__a_script_of_slurm_is_no_step_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """There, without srun, a command is one process, however many tasks the job has."""
    monkeypatch.setenv("SLURM_NTASKS", "8")
    monkeypatch.setenv("SLURM_JOB_NAME", "job.sh")
    assert start(Predict(device="cpu"), SilentMonitor()).fabric.world_size == 1


def test_make_fabric__several_machines_must_be_known(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MASTER_ADDR", "NODE_RANK"):  # without MASTER_PORT, each machine would choose one
        with pytest.raises(ValueError, match="--nodes 2: start this command on each machine, by torchrun or srun"):
            make_fabric("cpu", nodes=2)
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    monkeypatch.setenv("SLURM_NTASKS", "4")
    with pytest.raises(ValueError, match="srun: start it with --nodes=2 --ntasks-per-node=2"):
        make_fabric("cpu", 2, 2)
    for name, value in {"NTASKS_PER_NODE": "2", "PROCID": "3", "LOCALID": "1", "NODEID": "1"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    fabric = make_fabric("cpu", 2, 2)
    assert (fabric.world_size, fabric.global_rank, fabric.node_rank, fabric.local_rank) == (4, 3, 1, 1)


def test_loader_workers__as_asked_else_as_many_as_help() -> None:
    assert loader_workers(3, torch.device("cpu")) == 3
    assert loader_workers(0, torch.device("cuda")) == 0
    assert loader_workers(None, torch.device("cpu")) == 0
    assert loader_workers(None, torch.device("cuda")) == min(16, cores())
    assert loader_workers(None, torch.device("cuda"), 1000) == 1


def test_own_cores__are_shared_but_by_srun(monkeypatch: pytest.MonkeyPatch) -> None:
    assert own_cores(1) == cores()
    assert own_cores(2 * cores()) == 1
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")  # which bound each of its tasks to some cores
    assert own_cores(2 * cores()) == cores()


@pytest.mark.parametrize(
    ("environment", "first"),
    [
        ({}, True),
        ({"RANK": "3"}, True),  # of something else
        ({"LOCAL_RANK": "1"}, False),
        ({"NODE_RANK": "1", "LOCAL_RANK": "0"}, False),
        ({"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "4", "RANK": "0"}, True),
        ({"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "0"}, False),
        ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "0"}, True),
        ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "2"}, False),
    ],
)
def test_is_rank_zero__by_the_variables_of_the_launcher(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], first: bool
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert is_rank_zero() == first
    assert is_local_child() == (environment == {"LOCAL_RANK": "1"})


def test_end__waits_and_then_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages.runtime.fabric, "SECONDS_TO_END", 2.0)
    waiting = "import time; time.sleep(600)"
    children = [subprocess.Popen([sys.executable, "-c", code]) for code in ("", waiting)]
    end(list(children))
    assert [child.wait() for child in children] == [0, -signal.SIGKILL]


@pytest.mark.slow  # a new process imports torch
def test_lightning__does_not_import_torchmetrics() -> None:
    program = "import sys, stages.runtime.fabric; sys.exit('torchmetrics' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
