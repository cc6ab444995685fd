from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from stages.toco.crops import CropPlaces, choose_crops, cut_crops, positive_views


def random_map(seed: int = 0, images: int = 3, height: int = 40, width: int = 52) -> Tensor:
    """Blocks of 0, 1 and 2."""
    blocks = torch.randint(0, 3, (images, height // 4, width // 4), generator=torch.Generator().manual_seed(seed))
    return blocks.repeat_interleave(4, dim=1).repeat_interleave(4, dim=2)


def draw(uncertainty: Tensor, count: int, size: int, seed: int = 0) -> CropPlaces:
    generators = [torch.Generator().manual_seed(1000 * seed + place) for place in range(len(uncertainty))]
    return choose_crops(uncertainty, count=count, size=size, generators=generators)


def centre_values(uncertainty: Tensor, places: CropPlaces, size: int) -> Tensor:
    batch = torch.arange(len(uncertainty))[:, None]
    return uncertainty[batch, places.top + size // 2, places.left + size // 2]


def test_positive_views__golden(golden: Callable[[str], dict[str, Any]]) -> None:
    arrays = golden("local_crops")
    places = CropPlaces(top=arrays["top"], left=arrays["left"])
    positive = positive_views(arrays["uncertainty_map"], places, arrays["crop_size"])
    assert torch.equal(positive, arrays["positive"])


@pytest.mark.parametrize("size", [1, 8, 9, 40])
def test_choose_crops__inside_the_image(size: int) -> None:
    uncertainty = random_map()
    places = draw(uncertainty, 6, size)
    assert places.top.shape == places.left.shape == (3, 6)
    assert places.top.min() >= 0
    assert places.left.min() >= 0
    assert places.top.max() <= 40 - size
    assert places.left.max() <= 52 - size


@pytest.mark.parametrize("size", [8, 9])
@pytest.mark.parametrize("seed", range(3))
def test_choose_crops__centres_on_background_or_uncertain_pixels(size: int, seed: int) -> None:
    uncertainty = random_map(seed)
    places = draw(uncertainty, 20, size, seed)
    assert (centre_values(uncertainty, places, size) <= 1).all()
    corners = places.top * 52 + places.left
    assert all(len(set(image.tolist())) == 20 for image in corners)  # no place is drawn twice


def test_choose_crops__exactly_as_many_allowed_as_wanted() -> None:
    uncertainty = torch.full((1, 12, 12), 2)
    allowed = [(3, 4), (7, 7), (9, 2)]
    for y, x in allowed:
        uncertainty[0, y, x] = 1
    places = draw(uncertainty, 3, 4)
    centres = zip((places.top[0] + 2).tolist(), (places.left[0] + 2).tolist(), strict=True)
    assert sorted(centres) == allowed


def test_choose_crops__fewer_allowed_than_wanted_draws_among_all() -> None:
    uncertainty = torch.full((2, 24, 24), 2)
    uncertainty[0, 12, 12] = 0
    uncertainty[1] = 0
    uncertainty[1, 12:] = 2
    places = draw(uncertainty, 8, 4)
    assert (centre_values(uncertainty, places, 4)[0] == 2).any()
    # In the other image of the batch only allowed pixels are drawn.
    assert (centre_values(uncertainty, places, 4)[1] == 0).all()


def test_choose_crops__allowed_pixels_near_the_border_do_not_count() -> None:
    uncertainty = torch.full((1, 20, 20), 2)
    uncertainty[:, :3] = 0
    uncertainty[:, :, :3] = 0
    uncertainty[:, 8:12, 8:12] = 1
    places = draw(uncertainty, 10, 8)
    assert (centre_values(uncertainty, places, 8) == 1).all()


def test_choose_crops__same_generator_state_same_places() -> None:
    uncertainty = random_map()
    first, again, other = draw(uncertainty, 5, 8), draw(uncertainty, 5, 8), draw(uncertainty, 5, 8, seed=1)
    assert torch.equal(first.top, again.top)
    assert torch.equal(first.left, again.left)
    assert not torch.equal(first.top, other.top)


def test_choose_crops__every_allowed_place_can_be_drawn() -> None:
    uncertainty = torch.zeros(1, 6, 6, dtype=torch.int64)
    places = draw(uncertainty.expand(200, -1, -1), 1, 4)
    assert set((places.top * 6 + places.left).flatten().tolist()) == {6 * y + x for y in range(3) for x in range(3)}


def test_choose_crops__more_crops_than_places_repeats_them() -> None:
    places = draw(torch.zeros(2, 4, 5, dtype=torch.int64), 5, 4)
    assert places.top.tolist() == [[0] * 5] * 2
    assert places.left.tolist() == [[0, 1, 0, 1, 0]] * 2


def test_choose_crops__larger_than_the_image() -> None:
    with pytest.raises(ValueError, match="local crops of 41 pixels do not fit into images of 40 x 52 pixels"):
        draw(random_map(), 2, 41)


def test_cut_crops__equals_slices() -> None:
    images = torch.rand(3, 3, 40, 52, generator=torch.Generator().manual_seed(0))
    places = draw(random_map(), 4, 9)
    crops = cut_crops(images, places, 9)
    assert crops.shape == (3, 4, 3, 9, 9)
    for image in range(3):
        for crop in range(4):
            top, left = int(places.top[image, crop]), int(places.left[image, crop])
            assert torch.equal(crops[image, crop], images[image, :, top : top + 9, left : left + 9])


def test_positive_views__by_hand() -> None:
    uncertainty = torch.tensor([[[0, 0, 2, 1], [0, 0, 0, 0]]])
    places = CropPlaces(top=torch.tensor([[0, 0, 0]]), left=torch.tensor([[0, 1, 2]]))
    # Means 0, 0.5 and 0.75; the two global views come first.
    assert positive_views(uncertainty, places, 2).tolist() == [[1, 1, 0, 1, 1]]
    assert positive_views(uncertainty, places, 2, threshold=0.5).tolist() == [[1, 1, 0, 0, 1]]
