"""The order of training samples, a function of the seed: nothing to save, and any run can go on anywhere."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import default_collate

from data.dataset import DataError, Sample


class LoadedBatch(NamedTuple):
    """A batch, and what was wrong with images on the way."""

    value: Any | None  # stacked samples; None where a bad image ended it
    problems: list[str]
    warnings: tuple[str, ...] = ()  # what else the user is to hear

    def checked(self) -> Any:
        """Return the stacked samples.

        Raises:
            DataError: An image was bad, and bad images are not to be skipped.
        """
        if self.value is None:
            raise DataError(f"{self.problems[0]}; mend or remove it, or go on without it: --skip-bad")
        return self.value


class SampleStream(TorchDataset[LoadedBatch]):
    """Training samples by position in an endless stream: one random permutation of the images after another.

    Position p gives the same image in the same random views whatever process asks, and whatever came before.
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
    ) -> None:
        """Set up.

        Args:
            samples: The images.
            load: Reads and transforms one; may draw from torch's global generator.
            seed: Order and views depend on this and on the position alone.
            skip_bad: Take the next image in place of one that cannot be read.
            stack: Makes a batch of what `load` gave.
            take_warnings: Gives what the user is to hear of loading since it was last called; batches take it along
                from process to process.
        """
        self.samples = samples
        self.load = load
        self.seed = seed
        self.skip_bad = skip_bad
        self.stack = stack
        self.take_warnings = take_warnings
        self._epoch = -1
        self._order: np.ndarray[Any, Any] = np.empty(0)

    def __getitem__(self, position: int) -> LoadedBatch:
        """Load the one sample at a position."""
        epoch, index = divmod(position, len(self.samples))
        if epoch != self._epoch:
            self._order = np.random.default_rng([self.seed, epoch]).permutation(len(self.samples))
            self._epoch = epoch
        problems: list[str] = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mixed_seed(self.seed, position))
            for attempt in range(len(self.samples) if self.skip_bad else 1):
                try:
                    sample = self.samples[self._order[(index + attempt) % len(self.samples)]]
                    return LoadedBatch(self.load(sample), problems, tuple(self.take_warnings()))
                except DataError as error:  # not raised here: a worker would wrap it in its own traceback
                    problems.append(str(error))
        return LoadedBatch(None, problems)

    def collate(self, loaded: list[LoadedBatch]) -> LoadedBatch:
        """Stack samples."""
        problems = [problem for one in loaded for problem in one.problems]
        warnings = tuple(warning for one in loaded for warning in one.warnings)
        if any(one.value is None for one in loaded):
            return LoadedBatch(None, problems, warnings)
        return LoadedBatch(self.stack([one.value for one in loaded]), problems, warnings)


def mixed_seed(*numbers: int) -> int:
    """Mix numbers of any size, 0 or above, into a seed for torch."""
    high, low = np.random.SeedSequence(numbers).generate_state(2).tolist()
    return int(high) << 31 ^ int(low)


class StreamBatches:
    """LoadedBatch sampler: the positions that one process loads, iteration by iteration."""

    def __init__(self, *, start: int, iterations: int, batch_size: int, rank: int = 0, processes: int = 1) -> None:
        """Set up for iterations `start` to `iterations`; `batch_size` counts all processes together."""
        self.range = range(start, iterations)
        self.batch_size = batch_size
        self.rank = rank
        self.processes = processes

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the positions of each batch."""
        for iteration in self.range:
            first = iteration * self.batch_size
            yield list(range(first + self.rank, first + self.batch_size, self.processes))

    def __len__(self) -> int:
        """Number of batches."""
        return len(self.range)
