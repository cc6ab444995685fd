"""What the test of killed processes runs in them; a file of its own, so that a new process can import it."""

import os
from pathlib import Path

import stages.make_labels
from stages.config import MakeLabels
from stages.make_labels import make_labels
from stages.monitor import SilentMonitor

CONFIG = MakeLabels(
    device="cpu", workers=1, batch_size=1, scales=(1.0, 0.5), crf="full", crf_backend="torch", confidence=True
)
SHARD = 2  # of eight images


def label_in_process(run: Path, log: Path, resume: bool) -> None:
    stages.make_labels.SHARD = SHARD
    with log.open("a") as file:
        make_labels(run, CONFIG, Counting(file.fileno()), resume=resume)


class Counting(SilentMonitor):
    """Writes a byte for each image that is labelled."""

    def __init__(self, log: int) -> None:
        self.log = log

    def advance(self, steps: int = 1, **figures: float) -> None:
        os.write(self.log, b".")
