"""Who started this process, and which of several it is; without torch, so that commands can ask at once."""

import os
from typing import Literal, NamedTuple

from data.cores import cores


class Launch(NamedTuple):
    """What started this process as one of several, if anything did."""

    starter: Literal["torchrun", "srun", ""]
    processes: int  # that it started, on all machines


def started_by() -> Launch:
    """Tell by the environment; nothing and 1 where toco starts its processes itself."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return Launch("torchrun", int(os.environ["WORLD_SIZE"]))
    # Of the job step, which is srun's own: SLURM_NTASKS is there in the job's script as well.
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", 1))
    return Launch("srun", tasks) if tasks > 1 else Launch("", 1)


def is_rank_zero() -> bool:
    """Whether this is the process that speaks for all."""
    names = {"torchrun": ("RANK",), "srun": ("SLURM_PROCID",), "": ("NODE_RANK", "LOCAL_RANK")}
    return all(os.environ.get(name, "0") == "0" for name in names[started_by().starter])


def is_local_child() -> bool:
    """Whether toco itself started this process, from the first one of this machine."""
    return not started_by().starter and os.environ.get("LOCAL_RANK", "0") != "0"


def own_cores(devices: int) -> int:
    """Cores for each of so many processes on this machine; srun has shared them out already."""
    return cores() if started_by().starter == "srun" else max(1, cores() // devices)
