import os
from typing import Any

import pytest
import torch

from data.cores import cores
from stages.machine import loader_workers, make_fabric


def test_make_fabric__cpu_computes_in_float32() -> None:
    fabric = make_fabric("cpu")
    assert fabric.device.type == "cpu"
    assert fabric.world_size == 1
    with fabric.autocast():
        assert torch.nn.Linear(2, 2)(torch.ones(1, 2)).dtype == torch.float32


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cuda", "--device cuda: torch sees no CUDA GPU on this machine; use --device auto or cpu"),
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


def test_loader_workers__as_asked_else_as_many_as_help() -> None:
    assert loader_workers(3, torch.device("cpu")) == 3
    assert loader_workers(0, torch.device("cuda")) == 0
    assert loader_workers(None, torch.device("cpu")) == 0
    assert loader_workers(None, torch.device("cuda")) == min(16, cores())
    assert 1 <= cores() <= (os.cpu_count() or 1)
