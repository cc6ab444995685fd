from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor

from stages.networks.windows import label_in_windows


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
