"""Data-parallel losses: W ranks compute what one rank computes on the whole batch.

Data-parallel training averages the gradients of its W ranks. So that the average is that of a loss which divides a sum
over the whole batch by a count over the whole batch, each rank divides its own sum s_r by the mean count n:

    n = (1 / W) sum_r n_r        (1 / W) sum_r (s_r / n) = sum_r s_r / sum_r n_r

A constant 1 beside the count of the whole batch is 1 / W beside the mean count.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


def _identity(value: Tensor) -> Tensor:
    return value


@dataclass(frozen=True)
class Ranks:
    """The ranks that share each batch evenly."""

    world_size: int = 1
    mean: Callable[[Tensor], Tensor] = _identity  # over the ranks, of a value without gradient


SINGLE_RANK = Ranks()
