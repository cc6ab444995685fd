"""What tests of training run in processes of their own: train, or go on, and perhaps until the power is cut.

python training_process.py DATA RUN SETTINGS(JSON) [cut | interrupt]
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from stages.config import TrainCam
from stages.runtime.monitor import SilentMonitor
from stages.train_cam import train_cam


class PowerCut(SilentMonitor):
    """Kills its process at the third step, after the metrics of that step and the checkpoint of the second."""

    steps = 0

    def advance(self, steps: int = 1, **figures: float) -> None:
        self.steps += steps
        if self.steps == 3:
            os.kill(os.getpid(), signal.SIGKILL)


class CtrlC(SilentMonitor):
    """Interrupts all processes of the terminal, as Ctrl-C does, at the first step."""

    steps = 0

    def advance(self, steps: int = 1, **figures: float) -> None:
        self.steps += steps
        if self.steps == 1:
            os.killpg(0, signal.SIGINT)


MONITORS = {"cut": PowerCut, "interrupt": CtrlC}

if __name__ == "__main__":
    data, run, text, *how = sys.argv[1:]
    plain: dict[str, Any] = json.loads(text)
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in plain.items()}
    torch.set_num_threads(1)  # as in all tests
    monitor = MONITORS[how[0]]() if how else SilentMonitor()
    train_cam(Path(data), Path(run), TrainCam(**values), monitor, resume=(Path(run) / "cam").exists())
