"""The order of training samples as a pure function of the seed and the position.

Nothing needs to be saved: a run that is resumed at any iteration, with any number of processes and workers, loads the
same samples in the same random views.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import default_collate

from data.dataset import Sample
from data.errors import FIX_OR_SKIP, DataError


class LoadedBatch(NamedTuple):
    """A batch, with the problems and warnings of its images."""

    value: Any | None  # stacked samples; None if an image could not be read
    problems: list[str]  # one for each image that could not be read
    warnings: tuple[str, ...] = ()  # other messages for the user

    def checked(self) -> Any:
        """Return the stacked samples.

        Raises:
            DataError: An image could not be read, and bad images are not skipped.
        """
        if self.value is None:
            raise DataError(f"{self.problems[0]}: {FIX_OR_SKIP}")
        return self.value


class SampleStream(TorchDataset[LoadedBatch]):
    """An endless stream of training samples: one random permutation of the images after another.

    The sample at a position depends on the seed and the position alone, not on the process or on earlier samples.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        load: Callable[[Sample], Any],
        *,
        seed: int,
        skip_bad: bool = False,
        stack: Callable[[list[Any]], Any] = default_collate,
        take_warnings: Callable[[], Sequence[str]] = tuple,
        often: Collection[str] = (),
        every_nth: int | None = None,
    ) -> None:
        """Set up.

        Args:
            samples: The images.
            load: Reads and transforms one sample; may use torch's global generator.
            seed: Seed of the order and of the random views.
            skip_bad: Replace an image that cannot be read by the next one.
            stack: Makes a batch from the results of `load`.
            take_warnings: Returns the warnings of `load` since the last call. Batches carry them from the workers to
                the training process.
            often: Ids of images that are drawn more often than the others.
            every_nth: Every n-th sample is one of `often`, and the others are the other images; None to draw all alike.
        """
        self.samples = samples
        self.load = load
        self.seed = seed
        self.skip_bad = skip_bad
        self.stack = stack
        self.take_warnings = take_warnings
        self.every_nth = every_nth
        self._often = [one for one in samples if every_nth and one.id in often]
        self._others = [one for one in samples if not (every_nth and one.id in often)]
        self._orders: dict[int, tuple[int, np.ndarray[Any, Any]]] = {}  # of each pool: epoch and order

    def __getitem__(self, position: int) -> LoadedBatch:
        """Load the sample at a position, 0 or more."""
        pool, place = self._others, position
        if self.every_nth:
            of_often = position % self.every_nth == 0
            pool, place = (
                (self._often, position // self.every_nth)
                if of_often
                else (self._others, position - position // self.every_nth - 1)
            )
        epoch, index = divmod(place, len(pool))
        order = self._order(epoch, pool)
        problems: list[str] = []
        # `load` uses the global generator. It is seeded for this position and restored afterwards, so that loading in
        # the training process (no workers) does not change the random numbers of the training step.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mixed_seed(self.seed, position))
            for attempt in range(len(pool) if self.skip_bad else 1):
                try:
                    sample = pool[order[(index + attempt) % len(pool)]]
                    return LoadedBatch(self.load(sample), problems, tuple(self.take_warnings()))
                except DataError as error:  # not raised: a worker would send its traceback as text
                    problems.append(str(error))
        return LoadedBatch(None, problems)

    def _order(self, epoch: int, pool: Sequence[Sample]) -> "np.ndarray[Any, Any]":
        # One generator per epoch, so that any epoch's order is known without drawing those before it.
        key = int(pool is self._often)
        if key not in self._orders or self._orders[key][0] != epoch:
            generator = np.random.default_rng([self.seed, epoch, *((1,) if key else ())])
            self._orders[key] = (epoch, generator.permutation(len(pool)))
        return self._orders[key][1]

    def collate(self, loaded: list[LoadedBatch]) -> LoadedBatch:
        """Stack samples to a batch, and join their problems and warnings."""
        problems = [problem for one in loaded for problem in one.problems]
        warnings = tuple(warning for one in loaded for warning in one.warnings)
        if any(one.value is None for one in loaded):
            return LoadedBatch(None, problems, warnings)
        return LoadedBatch(self.stack([one.value for one in loaded]), problems, warnings)


def mixed_seed(*numbers: int) -> int:
    """Return a seed for torch, 0 to 2**63 - 1, from integers that are 0 or more.

    Sums or products would give equal seeds to different numbers, for example to seed 0 at position 1 and seed 1 at
    position 0. A SeedSequence gives unrelated seeds also to neighbouring numbers.
    """
    high, low = np.random.SeedSequence(numbers).generate_state(2).tolist()
    return int(high) << 31 ^ int(low)


class StreamBatches:
    """LoadedBatch sampler: the positions that one process loads in each iteration."""

    def __init__(self, *, start: int, iterations: int, batch_size: int, rank: int = 0, processes: int = 1) -> None:
        """Set up for the iterations from `start` up to, but not including, `iterations`.

        Args:
            start: First iteration, from 0.
            iterations: End of training.
            batch_size: Number of samples per iteration in all processes together.
            rank: Number of this process, from 0.
            processes: Number of processes.
        """
        self.range = range(start, iterations)
        self.batch_size = batch_size
        self.rank = rank
        self.processes = processes

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the positions of each batch; processes take turns, so that together they load consecutive positions."""
        for iteration in self.range:
            first = iteration * self.batch_size
            yield list(range(first + self.rank, first + self.batch_size, self.processes))

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(self.range)
