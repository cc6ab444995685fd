from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor

from stages.networks.windows import label_in_windows, spans


def test_spans__by_hand() -> None:
    # Windows of 8 start every 6 pixels, and the last one at 20 - 8; their centres are 4, 10 and 16.
    assert [(span.seen, span.kept) for span in spans(20, 8)] == [
        (slice(0, 8), slice(0, 7)),
        (slice(6, 14), slice(7, 13)),
        (slice(12, 20), slice(13, 20)),
    ]
    # The last one is shifted inwards: it starts at 9 - 8, and the centres are 4 and 5.
    assert [(span.seen, span.kept, span.kept_of_seen) for span in spans(9, 8)] == [
        (slice(0, 8), slice(0, 4), slice(0, 4)),
        (slice(1, 9), slice(4, 9), slice(3, 8)),
    ]


@pytest.mark.parametrize("length", [1, 7, 8])
def test_spans__a_short_axis_has_one_window(length: int) -> None:
    (span,) = spans(length, 8)
    assert span.seen == span.kept == slice(0, length)


@pytest.mark.parametrize("side", [1, 2, 3, 8, 9])
def test_spans__every_pixel_once_and_by_the_nearest_centre(side: int) -> None:
    for length in range(side, 40):
        windows = spans(length, side)
        centres = [(span.seen.start + span.seen.stop) / 2 for span in windows]
        labelled = [(pixel, number) for number, span in enumerate(windows) for pixel in range(length)[span.kept]]
        assert [pixel for pixel, _ in labelled] == list(range(length))
        for pixel, number in labelled:
            distances = [abs(pixel + 0.5 - centre) for centre in centres]
            assert distances[number] == min(distances)
            assert windows[number].seen.start <= pixel < windows[number].seen.stop


@pytest.mark.parametrize(("height", "width", "batch_size"), [(37, 50, 1), (37, 50, 4), (9, 50, 3), (64, 12, 100)])
def test_label_in_windows__pixel_by_pixel_as_the_whole(height: int, width: int, batch_size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)
    sizes: set[tuple[int, ...]] = set()
    counts = []

    def brightest(pieces: Sequence[Tensor]) -> Iterator[Tensor]:
        sizes.update(tuple(piece.shape[-2:]) for piece in pieces)
        counts.append(len(pieces))
        return (piece.argmax(dim=0).to(torch.uint8) for piece in pieces)

    label = label_in_windows(image, 16, brightest, batch_size)
    assert torch.equal(label, image.argmax(dim=0).to(torch.uint8))
    assert sizes == {(min(height, 16), min(width, 16))}
    assert max(counts) <= batch_size


def test_label_in_windows__each_pixel_from_the_nearest_window() -> None:
    # Each piece is labelled with its own number: 2 x 2 of side 8 in 10 x 14 pixels, starting at 0, 2 and 0, 6.
    numbers = iter(range(4))

    def numbered(pieces: Sequence[Tensor]) -> list[Tensor]:
        return [torch.full(piece.shape[-2:], next(numbers), dtype=torch.uint8) for piece in pieces]

    label = label_in_windows(torch.zeros(3, 10, 14, dtype=torch.uint8), 8, numbered)
    expected = torch.zeros(10, 14, dtype=torch.uint8)
    expected[:, 7:] += 1
    expected[5:] += 2
    assert torch.equal(label, expected)
