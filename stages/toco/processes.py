"""What the losses need to know of other processes, so that several give what one gives with the whole batch."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


def _itself(value: Tensor) -> Tensor:
    return value


@dataclass(frozen=True)
class Processes:
    """How many share a batch evenly, and the mean over them of a value that carries no gradient.

    A data-parallel step averages the gradients of its processes. A loss that divides a sum by a count of the whole
    batch is therefore, in each process, its own sum divided by the mean count.
    """

    number: int = 1
    mean: Callable[[Tensor], Tensor] = _itself


SINGLE_PROCESS = Processes()
