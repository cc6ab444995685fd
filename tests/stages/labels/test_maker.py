from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from data.dataset import Sample
from data.errors import SettingsError
from stages.labels.maker import LabelMaker, Pending


def test_label_maker__a_killed_process_is_reported_as_out_of_memory() -> None:
    future: Future[Any] = Future()
    future.set_exception(BrokenProcessPool("A process in the process pool was terminated abruptly"))
    sample = Sample(id="a", image=Path("a.jpg"), classes=(1,), mask=None)
    waiting = [Pending(sample, np.zeros((1, 4, 4), np.float16), future)]
    maker = cast(Any, SimpleNamespace(threads=8))
    with pytest.raises(
        SettingsError, match=r"memory ran out \(about 0\.9 GB for each .* --workers \(now 8\) .*--resume"
    ):
        LabelMaker._collect(maker, waiting)
