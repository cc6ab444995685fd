from collections.abc import Callable
from typing import Any

import pytest
import torch

from stages.toco.schedule import learning_rate_factor


def test_learning_rate_factor__golden(
    golden: Callable[[str], dict[str, Any]], assert_golden: Callable[..., None]
) -> None:
    arrays = golden("schedule")
    factors = [
        learning_rate_factor(
            iteration,
            iterations=arrays["max_iterations"],
            warmup_iterations=arrays["warmup_iterations"],
            warmup_ratio=arrays["warmup_ratio"],
            power=arrays["power"],
        )
        for iteration in range(len(arrays["lr"]))
    ]
    rates = torch.tensor([arrays["base_lr"], arrays["head_lr"]], dtype=torch.float64)
    # Entries span seven powers of ten, so each is compared with itself alone.
    expected = torch.tensor(factors, dtype=torch.float64)[:, None] * rates
    torch.testing.assert_close(expected, arrays["lr"], rtol=1e-5, atol=0)


def test_learning_rate_factor__by_hand() -> None:
    factors = [
        learning_rate_factor(iteration, iterations=10, warmup_iterations=4, warmup_ratio=0.2, power=0.5)
        for iteration in (0, 1, 2, 3, 4, 9)
    ]
    assert factors == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.6**0.5, 0.1**0.5])


def test_learning_rate_factor__without_warm_up_starts_in_full() -> None:
    assert learning_rate_factor(0, iterations=10, warmup_iterations=0) == 1


def test_learning_rate_factor__never_zero_within_the_run() -> None:
    assert 0 < learning_rate_factor(99, iterations=100, warmup_iterations=10) < 0.02
