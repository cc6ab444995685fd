"""What the tests of killed processes run in child processes: make labels, and log the progress."""

import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from unittest import mock

import small_heads  # type: ignore[import-not-found]  # noqa: F401

import stages.make_labels
from data.dataset import Sample
from stages.config import MakeLabels
from stages.labels.maker import LabelMaker
from stages.make_labels import make_labels
from stages.networks.inference import LoadedImage
from stages.runtime.monitor import SilentMonitor

CONFIG = MakeLabels(
    device="cpu",
    workers=1,
    batch_size=1,
    scales=(1.0, 0.5),
    relabel="none",
    refine="crf",
    crf_backend="torch",
    confidence=True,
)
SHARD = 2  # of eight images


def label_in_process(run: Path, log: Path, resume: bool) -> None:
    """Make labels in one process; write a byte to the log for each image that is begun."""
    stages.make_labels.SHARD = SHARD
    load = LabelMaker._load

    def counted(maker: LabelMaker, sample: Sample) -> LoadedImage | None:
        os.write(file.fileno(), b".")
        return load(maker, sample)

    with (
        log.open("a") as file,
        ThreadPoolExecutor(1) as pool,  # starts faster than processes, with the same interface
        mock.patch.object(LabelMaker, "_load", counted),
        mock.patch.object(LabelMaker, "_process_pool", return_value=pool),
    ):
        make_labels(run, CONFIG, SilentMonitor(), resume=resume)


def label_with_others(run: Path, log: Path) -> None:
    """Make labels with processes that refine masks; write their numbers to the log."""
    stages.make_labels.SHARD = SHARD
    with log.open("a") as file:
        make_labels(run, replace(CONFIG, workers=2), Naming(file.fileno()))


class Naming(SilentMonitor):
    """Writes the numbers of this process's children to the log each time that an image is labelled."""

    def __init__(self, log: int) -> None:
        self.log = log

    def advance(self, steps: int = 1, **figures: float) -> None:
        os.write(self.log, "".join(f"{child.pid}\n" for child in multiprocessing.active_children()).encode())
