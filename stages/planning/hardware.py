"""What the planner knows about the machine."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from data.cores import cores
from stages.runtime.memory import free_memory
from stages.runtime.quick_imports import quick_imports


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """The device that the run uses.

    Attributes:
        kind: Which recipes are meant for it.
        name: A few words.
        cores: CPU cores that this process may use.
        memory: Free bytes of the device that computes; infinite if unknown.
    """

    kind: Literal["cpu", "gpu"]
    name: str
    cores: int
    memory: float

    def line(self) -> str:
        """Describe the machine in a few words."""
        memory = "" if math.isinf(self.memory) else f", {self.memory / 1e9:.1f} GB of memory free"
        return f"{self.name}{memory}"

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for --json."""
        return {**asdict(self), "memory": None if math.isinf(self.memory) else self.memory}


def hardware_of(device: str) -> Hardware:
    """Describe the device that `--device` means here.

    Raises:
        SettingsError: This machine lacks the device.
    """
    with quick_imports():
        import torch

        from stages.runtime.fabric import make_fabric

    chosen = make_fabric(device).device
    if chosen.type == "cpu":
        beside = " (there is a GPU, but --device cpu was given)" if torch.cuda.is_available() else ""
        return Hardware(kind="cpu", name=f"{cores()} CPU cores{beside}", cores=cores(), memory=free_memory())
    if chosen.type == "cuda":
        free, _ = torch.cuda.mem_get_info(chosen)
        return Hardware(kind="gpu", name=torch.cuda.get_device_name(chosen), cores=cores(), memory=float(free))
    return Hardware(kind="gpu", name=f"{chosen.type} GPU", cores=cores(), memory=math.inf)
