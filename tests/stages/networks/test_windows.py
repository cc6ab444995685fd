from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor

from stages.networks.inference import from_tensor, square_cams, squash
from stages.networks.windows import cams_in_windows, label_in_windows
from stages.toco.cam import Cams, PresentClasses
from stages.toco.model import Outputs


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


class Pixels:
    patch_size = 4

    def normalise(self, images: Tensor) -> Tensor:
        return images


class BrightRed:
    """A CAM network of one class, whose raw map is how much brighter red is than 100, per token of 4 pixels."""

    num_classes = 1
    backbone = Pixels()

    def __call__(self, images: Tensor, *, decode: bool = True) -> Outputs:
        raise NotImplementedError

    def raw_cams(self, images: Tensor) -> Cams:
        maps = torch.nn.functional.avg_pool2d(images[:, :1] - 100, 4)
        return Cams(final=maps, auxiliary=2 * maps)


@pytest.fixture
def dot() -> Tensor:
    """A small bright object on grey, in an image of 96 x 128 pixels."""
    image = torch.full((3, 96, 128), 110, dtype=torch.uint8)
    image[0, 70:76, 100:108] = 250
    return image


PRESENT = PresentClasses(index=torch.zeros(1, 1, dtype=torch.long), valid=torch.ones(1, 1))


def test_cams_in_windows__are_high_at_the_object_only(dot: Tensor) -> None:
    cams = cams_in_windows(BrightRed(), dot, PRESENT, [1.0], window=32, side=32, batch_size=3)
    assert cams.final.shape == (1, 1, 96, 128)
    cam = cams.final[0, 0]
    assert cam[70:76, 101:107].min() > 0.5
    elsewhere = cam.clone()
    elsewhere[64:82, 94:114] = 0
    assert elsewhere.max() < 0.01  # also in the windows that show nothing but grey
    assert torch.allclose(cams.auxiliary, cams.final, atol=1e-4)  # twice as high before it is stretched


def test_cams_in_windows__keep_an_object_that_the_whole_image_loses(dot: Tensor) -> None:
    square = squash(from_tensor(dot), 32)[None]
    whole = square_cams(BrightRed(), square, PRESENT, [1.0]).final
    of_whole = torch.nn.functional.interpolate(whole, size=(96, 128), mode="bilinear")[0, 0] > 0.5
    in_windows = cams_in_windows(BrightRed(), dot, PRESENT, [1.0], window=32, side=32).final[0, 0] > 0.5
    truth = dot[0] == 250

    def iou(found: Tensor) -> float:
        return float((found & truth).sum() / (found | truth).sum())

    assert iou(in_windows) > 2 * iou(of_whole)


def test_cams_in_windows__do_not_depend_on_the_batch_and_are_zero_without_the_class(dot: Tensor) -> None:
    one, several = (
        cams_in_windows(BrightRed(), dot, PRESENT, [1.0, 2.0], window=40, side=40, batch_size=size) for size in (1, 5)
    )
    assert torch.allclose(one.final, several.final, atol=1e-5)
    absent = PRESENT._replace(valid=torch.zeros(1, 1))
    assert not cams_in_windows(BrightRed(), dot, absent, [1.0], window=40, side=40).final.any()
