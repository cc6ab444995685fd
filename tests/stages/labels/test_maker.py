from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

import stages.labels.maker
from data.dataset import Sample
from data.errors import SettingsError
from stages.config import MakeLabels
from stages.labels.maker import LabelMaker, Pending, Scored


def test_label_maker__a_killed_process_is_reported_as_out_of_memory() -> None:
    future: Future[Any] = Future()
    future.set_exception(BrokenProcessPool("A process in the process pool was terminated abruptly"))
    sample = Sample(id="a", image=Path("a.jpg"), classes=(1,), mask=None)
    waiting = [Pending(sample, np.zeros((1, 4, 4), np.float16), None, future)]
    maker = cast(Any, SimpleNamespace(threads=8))
    with pytest.raises(
        SettingsError, match=r"memory ran out \(about 0\.9 GB for each .* --workers \(now 8\) .*--resume"
    ):
        LabelMaker._collect(maker, waiting)


def test_label_maker__says_once_that_memory_limits_the_processes(
    monkeypatch: pytest.MonkeyPatch, listener: Any
) -> None:
    monkeypatch.setattr(stages.labels.maker, "free_memory", lambda: 12e9)
    monitor = listener()
    maker = cast(Any, SimpleNamespace(threads=8, monitor=monitor, config=MakeLabels(devices=2)))
    LabelMaker.__post_init__(maker)
    sample = Sample(id="a", image=Path("a.jpg"), classes=(1,), mask=None)
    for height in (100, 2000, 3000):
        image = torch.zeros(3, height, 1000, dtype=torch.uint8)
        LabelMaker._tell_of_memory(maker, Scored(sample=sample, image=image, maps=torch.zeros(1, 4, 4), tokens=None))
    assert monitor.notes == [
        "free memory (6.0 GB) is enough for 3 instead of 8 processes that refine masks of 1000 x 2000 pixels"
    ]


def test_label_maker__counts_images_batch_by_batch_before_the_group_ends(listener: Any) -> None:
    """Otherwise, the rate would be that of the moment in which a group's masks are collected."""
    monitor = listener()
    maker = cast(
        Any,
        SimpleNamespace(
            threads=1,
            monitor=monitor,
            _process_pool=lambda stack: None,
            _batches=lambda samples, threads: iter([samples[:2], samples[2:]]),
            _submit=lambda batch, pool, threads: monitor.heard("submit") or batch,
            _collect=lambda waiting: monitor.heard("collect") or waiting,
        ),
    )
    group = [Sample(id=name, image=Path(name), classes=(1,), mask=None) for name in "abc"]
    assert len(list(LabelMaker.run(maker, [group]))) == 1
    assert monitor.calls == ["submit", "advance", "submit", "advance", "collect"]
    assert monitor.steps == 3
