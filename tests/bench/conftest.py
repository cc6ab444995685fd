"""Benches take long, so all their tests belong to `make test-slow`."""

from pathlib import Path

import pytest


@pytest.hookimpl(tryfirst=True)  # before items are selected by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)
