import sys

import pytest

from stages.planning import measured_times
from stages.runtime.fabric import make_fabric


def test_memory__is_unknown_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (measured_times._memory(make_fabric("cpu")) or 0.0) > 1e6  # bytes
    monkeypatch.setitem(sys.modules, "resource", None)
    assert measured_times._memory(make_fabric("cpu")) is None
