"""What the tests of training run in child processes: train or resume, perhaps until the power is cut."""

import os
import signal
from pathlib import Path
from typing import Literal

import small_heads  # type: ignore[import-not-found]  # noqa: F401

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


def train(data: Path, run: Path, settings: TrainCam, stop: Literal["", "cut", "interrupt"] = "") -> None:
    """Train, or resume what is there."""
    monitor = {"": SilentMonitor, "cut": PowerCut, "interrupt": CtrlC}[stop]()
    train_cam(data, run, settings, monitor, resume=(run / "cam").exists())
