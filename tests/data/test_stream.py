from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from data.dataset import Sample
from data.errors import DataError
from data.stream import LoadedBatch, SampleStream, StreamBatches, mixed_seed

# Loaders fork on Linux, of which Python 3.12 and later warn where threads run; torch warns of more loaders than cores.
LOADERS = pytest.mark.filterwarnings(
    "ignore:This process .* is multi-threaded:DeprecationWarning", "ignore:This DataLoader will create:UserWarning"
)


class Load:
    """Gives an image's number and a random one, as a transform draws it; raises for some numbers."""

    def __init__(self, *bad: int) -> None:
        self.bad = bad

    def __call__(self, sample: Sample) -> Tensor:
        number = int(sample.id)
        if number in self.bad:
            raise DataError(f"{number}.jpg is bad")
        return torch.stack([torch.tensor(float(number)), torch.rand(())])


def stream_of(count: int, *bad: int, seed: int = 0, skip_bad: bool = False) -> SampleStream:
    samples = [Sample(id=str(number), image=Path(f"{number}.jpg"), classes=(), mask=None) for number in range(count)]
    return SampleStream(samples, Load(*bad), seed=seed, skip_bad=skip_bad)


def values(stream: SampleStream, positions: range) -> list[list[float]]:
    return [stream[position].checked().tolist() for position in positions]


def load(stream: SampleStream, batches: StreamBatches, workers: int = 0) -> list[LoadedBatch]:
    return list(DataLoader(stream, batch_sampler=batches, num_workers=workers, collate_fn=stream.collate))


def test_stream__each_image_once_an_epoch() -> None:
    stream = stream_of(7)
    epochs = [[int(value[0]) for value in values(stream, range(7 * n, 7 * n + 7))] for n in range(5)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 5


def test_stream__every_nth_sample_is_one_of_those_drawn_often() -> None:
    samples = stream_of(7).samples
    stream = SampleStream(samples, Load(), seed=0, often={"2", "5"}, every_nth=3)
    drawn = [int(value[0]) for value in values(stream, range(60))]
    assert {*drawn[::3]} == {2, 5}
    assert drawn[::3].count(2) == 10
    others = [one for place, one in enumerate(drawn) if place % 3]
    assert all(sorted(others[first : first + 5]) == [0, 1, 3, 4, 6] for first in range(0, 40, 5))
    backwards = SampleStream(samples, Load(), seed=0, often={"2", "5"}, every_nth=3)
    assert [int(backwards[place].checked()[0]) for place in reversed(range(60))] == drawn[::-1]


def test_stream__a_function_of_seed_and_position() -> None:
    whole = values(stream_of(5), range(20))
    assert len({value[1] for value in whole}) == 20  # other views in each epoch
    backwards = stream_of(5)
    assert [backwards[position].checked().tolist() for position in reversed(range(20))] == whole[::-1]
    torch.manual_seed(99)  # whatever state the process is in
    assert values(stream_of(5), range(13, 20)) == whole[13:]
    assert values(stream_of(5, seed=1), range(20)) != whole


def test_stream__leaves_the_global_randomness_alone() -> None:
    torch.manual_seed(1)
    first = torch.rand(3)
    torch.manual_seed(1)
    values(stream_of(5), range(3))
    assert torch.equal(torch.rand(3), first)


@LOADERS
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_stream__the_same_from_any_number_of_workers(workers: int) -> None:
    batches = StreamBatches(start=2, iterations=9, batch_size=3)
    alone = load(stream_of(8), batches)
    assert len(alone) == 7
    for mine, theirs in zip(load(stream_of(8), batches, workers), alone, strict=True):
        assert torch.equal(mine.checked(), theirs.checked())


@LOADERS
@pytest.mark.parametrize("workers", [0, 2])
def test_stream__bad_image(workers: int) -> None:
    """The error is a value on the way from a worker, which would wrap it in a traceback of its own."""
    batches = StreamBatches(start=0, iterations=2, batch_size=4)
    loaded = load(stream_of(8, 3), batches, workers)
    bad = [batch for batch in loaded if batch.value is None]
    assert len(bad) == 1
    with pytest.raises(DataError) as caught:
        bad[0].checked()
    assert str(caught.value) == "3.jpg is bad: fix or remove it, or skip it with --skip-bad"


@LOADERS
@pytest.mark.parametrize("workers", [0, 2])
def test_stream__skips_bad_images(workers: int) -> None:
    batches = StreamBatches(start=0, iterations=2, batch_size=4)
    loaded = load(stream_of(8, 3, 5, skip_bad=True), batches, workers)
    images = torch.cat([batch.checked()[:, 0] for batch in loaded]).tolist()
    assert len(images) == 8
    assert set(images) == {0, 1, 2, 4, 6, 7}  # the good ones all the same, two of them twice
    assert {problem for batch in loaded for problem in batch.problems} == {"3.jpg is bad", "5.jpg is bad"}
    # The images that are good come in the same views as without the bad ones.
    whole = values(stream_of(8), range(8))
    assert [value for value in values(stream_of(8, 3, 5, skip_bad=True), range(8)) if value in whole] == [
        value for value in whole if value[0] not in (3, 5)
    ]


def test_stream__all_images_bad() -> None:
    with pytest.raises(DataError, match=r"\.jpg is bad: fix"):
        stream_of(3, 0, 1, 2, skip_bad=True)[0].checked()


def test_stream_batches__processes_share_the_positions() -> None:
    whole = StreamBatches(start=3, iterations=10, batch_size=6)
    assert len(whole) == 7
    assert next(iter(whole)) == list(range(18, 24))
    for processes in (1, 2, 3):
        shares = [
            list(StreamBatches(start=3, iterations=10, batch_size=6, rank=rank, processes=processes))
            for rank in range(processes)
        ]
        assert all(len(share) == 7 and len(share[0]) == 6 // processes for share in shares)
        for batches, together in zip(zip(*shares, strict=True), whole, strict=True):
            assert sorted(position for batch in batches for position in batch) == together


def test_stream_batches__two_processes_load_what_one_does() -> None:
    def images(rank: int, processes: int) -> list[list[list[float]]]:
        batches = StreamBatches(start=0, iterations=4, batch_size=4, rank=rank, processes=processes)
        return [batch.checked().tolist() for batch in load(stream_of(5), batches)]

    for first, second, both in zip(images(0, 2), images(1, 2), images(0, 1), strict=True):
        assert sorted(first + second) == sorted(both)


def test_stream_batches__nothing_left() -> None:
    assert list(StreamBatches(start=4, iterations=4, batch_size=2)) == []


def test_mixed_seed__takes_any_numbers() -> None:
    seeds = {mixed_seed(*numbers) for numbers in [(0,), (1,), (0, 1), (1, 1), (2**40, 3), (2**70, 2**70)]}
    assert len(seeds) == 6
    for seed in seeds:
        torch.Generator().manual_seed(seed)
    assert mixed_seed(5, 6) == mixed_seed(5, 6)
