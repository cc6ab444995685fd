import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from data.transforms import PADDING, CamTransform, CropPlace, Photometric, photometric, rescaled_size

COLOUR = (200, 30, 60)
SIZES = [(1, 1000), (1000, 1), (2, 3), (20, 20), (64, 48), (100, 333), (640, 480)]  # width and height


def picture(size: tuple[int, int]) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values)


def without_colours(transform: CamTransform) -> CamTransform:
    transform.first = transform.second = transform.local = Photometric(v2.Identity(), v2.Identity())
    return transform


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("side", [32, 48])
def test_cam_transform__box_is_the_part_that_is_image(size: tuple[int, int], side: int) -> None:
    transform = without_colours(CamTransform(side))
    image = Image.new("RGB", size, COLOUR)
    colour, padding = (torch.tensor(values, dtype=torch.uint8)[:, None, None] for values in (COLOUR, PADDING))
    boxes = set()
    for seed in range(30):
        torch.manual_seed(seed)
        views = transform(image)
        y0, y1, x0, x1 = views.box.tolist()
        boxes.add((y0, y1, x0, x1))
        assert 0 <= y0 < y1 <= side
        assert 0 <= x0 < x1 <= side
        inside = torch.zeros(side, side, dtype=torch.bool)
        inside[y0:y1, x0:x1] = True
        for view in (views.image, views.local):
            assert torch.equal(view, torch.where(inside, colour, padding))
        assert torch.equal(views.second, colour.expand(3, side, side))  # never padded
    assert len(boxes) > 5


@pytest.mark.parametrize("size", SIZES)
def test_cam_transform__views(size: tuple[int, int]) -> None:
    transform = CamTransform(32)
    for seed in range(5):
        torch.manual_seed(seed)
        views = transform(picture(size))
        for view in (views.image, views.second, views.local):
            assert view.shape == (3, 32, 32)
            assert view.dtype == torch.uint8
        assert views.box.shape == (4,)
        assert views.box.dtype == torch.int64


def test_cam_transform__the_same_under_the_same_seed() -> None:
    transform, image = CamTransform(32), picture((64, 48))

    def draw(seed: int) -> list[Tensor]:
        torch.manual_seed(seed)
        return list(pickle.loads(pickle.dumps(transform))(image)[:4])

    assert all(torch.equal(mine, theirs) for mine, theirs in zip(draw(3), draw(3), strict=True))
    assert not all(torch.equal(mine, theirs) for mine, theirs in zip(draw(3), draw(4), strict=True))


def test_cam_transform__leaves_the_image_as_it_is() -> None:
    image = picture((64, 48))
    before = image.tobytes()
    CamTransform(32)(image)
    assert image.tobytes() == before


def test_cam_transform__local_view_is_the_training_view_in_other_colours() -> None:
    """So that places found in the one are places in the other."""
    transform, image = without_colours(CamTransform(32)), picture((64, 48))
    torch.manual_seed(0)
    views = transform(image)
    assert torch.equal(views.image, views.local)
    assert not torch.equal(views.image, views.second)


def test_cam_transform__missing_pixels_follow_the_image() -> None:
    transform, missing = without_colours(CamTransform(32)), np.zeros((48, 64), bool)
    missing[:20, :30] = True
    white = Image.fromarray(np.where(missing[..., None], np.uint8(255), np.uint8(0)).repeat(3, axis=2))
    for seed in range(10):
        torch.manual_seed(seed)
        views = transform(white, missing)
        assert views.missing is not None
        shown = views.image[0]  # the edge is soft, the padding has another colour
        assert views.missing[shown == 255].all()
        assert not views.missing[shown == 0].any()
        assert not views.missing[shown == PADDING[0]].any()
        torch.manual_seed(seed)
        without = transform(white)
        assert without.missing is None
        assert all(map(torch.equal, views[:4], without[:4]))  # the same draws


def test_cam_transform__flips_half_of_the_images() -> None:
    transform = without_colours(CamTransform(32, long_side=32, rescale=(1.0, 1.0)))
    image = picture((32, 32))
    straight = v2.functional.pil_to_tensor(image)
    flipped = 0
    for seed in range(100):
        torch.manual_seed(seed)
        view = transform(image).image
        assert torch.equal(view, straight) or torch.equal(view, straight.flip(-1))
        flipped += torch.equal(view, straight.flip(-1))
    assert 30 < flipped < 70


def test_cam_transform__default_long_side_is_that_of_the_published_sizes() -> None:
    assert CamTransform(448).long_side == 500
    assert CamTransform(96).long_side == 107
    assert CamTransform(96, long_side=200).long_side == 200


@pytest.mark.parametrize(
    ("size", "factor", "expected"),
    [((500, 375), 1.0, (100, 75)), ((375, 500), 0.5, (38, 50)), ((1, 1000), 0.5, (1, 50)), ((10, 5), 2.0, (200, 100))],
)
def test_rescaled_size__keeps_the_shape(size: tuple[int, int], factor: float, expected: tuple[int, int]) -> None:
    assert rescaled_size(size, 100, (factor, factor)) == expected


def test_rescaled_size__draws_from_the_whole_range() -> None:
    torch.manual_seed(0)
    sides = [rescaled_size((100, 50), 100, (0.5, 2.0))[0] for _ in range(300)]
    assert 50 <= min(sides) < 55
    assert 195 < max(sides) <= 200


def test_crop_place__of_a_larger_image() -> None:
    image = picture((40, 30))
    torch.manual_seed(0)
    places = [CropPlace.draw(image.size, 20) for _ in range(200)]
    assert {place.left for place in places} == set(range(21))
    assert {place.top for place in places} == set(range(11))
    for place in places[:10]:
        assert place.box.tolist() == [0, 20, 0, 20]
        expected = image.crop((place.left, place.top, place.left + 20, place.top + 20))
        assert place.cut(image, PADDING).tobytes() == expected.tobytes()


def test_crop_place__of_a_smaller_image() -> None:
    image = Image.fromarray(np.arange(1, 7, dtype=np.uint8).reshape(2, 3))
    torch.manual_seed(0)
    places = [CropPlace.draw(image.size, 4) for _ in range(50)]
    assert {tuple(place.box.tolist()) for place in places} == {(y, y + 2, x, x + 3) for y in range(3) for x in range(2)}
    for place in places[:10]:
        y0, y1, x0, x1 = place.box.tolist()
        expected = np.full((4, 4), 255, np.uint8)
        expected[y0:y1, x0:x1] = np.asarray(image)
        np.testing.assert_array_equal(np.asarray(place.cut(image, (255,))), expected)


def test_photometric__probabilities_of_blur_and_solarise() -> None:
    image = picture((16, 16))
    kinds = (photometric(448, blur=1.0), photometric(448, blur=0.0), photometric(448, blur=0.0, solarise=1.0))
    for transform in kinds:
        assert transform(image).shape == (3, 16, 16)
    always, never = kinds[0].rgb.transforms[2], kinds[1].rgb.transforms[2]
    for seed in range(20):
        torch.manual_seed(seed)
        assert always(image).tobytes() != image.tobytes()
        assert never(image).tobytes() == image.tobytes()
    solarised = np.asarray(kinds[2].rgb.transforms[3](image))
    values = np.asarray(image)
    np.testing.assert_array_equal(solarised, np.where(values >= 128, 255 - values, values))
