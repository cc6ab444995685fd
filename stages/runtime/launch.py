"""What started this process, and its rank; without torch, so that commands can ask at once."""

import os
from typing import Literal, NamedTuple

from data.cores import cores


class Launch(NamedTuple):
    """The launcher of this process."""

    starter: Literal["torchrun", "srun", ""]
    processes: int  # number that it started, on all machines


def started_by() -> Launch:
    """Detect the launcher by environment variables; '' and 1 if toco starts its processes itself."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return Launch("torchrun", int(os.environ["WORLD_SIZE"]))
    # The job step exists only under srun; SLURM_NTASKS is also set in the job's script.
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", 1))
    return Launch("srun", tasks) if tasks > 1 else Launch("", 1)


def is_rank_zero() -> bool:
    """Return whether this process is rank 0, which prints the results."""
    names = {"torchrun": ("RANK",), "srun": ("SLURM_PROCID",), "": ("NODE_RANK", "LOCAL_RANK")}
    return all(os.environ.get(name, "0") == "0" for name in names[started_by().starter])


def is_local_child() -> bool:
    """Return whether toco itself started this process, as a copy of the one that the user started."""
    return not started_by().starter and os.environ.get("LOCAL_RANK", "0") != "0"


def own_cores(devices: int) -> int:
    """Return the number of cores for each of `devices` processes on this machine; srun has already divided them."""
    return cores() if started_by().starter == "srun" else max(1, cores() // devices)
