from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stages.toco.par import combine_labels, neighbour_weights, refine_masks, refined_labels

Golden = Callable[[str], dict[str, Any]]


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def two_halves(height: int = 24, width: int = 32) -> Tensor:
    """A dark left and a bright right half."""
    images = torch.full((1, 3, height, width), 20.0)
    images[..., width // 2 :] = 230
    return images


def test_refine_masks__golden(golden: Golden, assert_golden: Callable[..., None]) -> None:
    arrays = golden("par")
    refined = refine_masks(
        arrays["masks"],
        arrays["images"],
        dilations=arrays["dilations"].tolist(),
        iterations=arrays["iterations"],
    )
    assert_golden(refined, arrays["refined"])


def test_refined_labels__golden(golden: Golden) -> None:
    arrays = golden("refine")
    label = refined_labels(
        arrays["valid_cam"],
        arrays["images"],
        arrays["class_labels"],
        arrays["image_box"],
        high=arrays["high"],
        low=arrays["low"],
        scale=1 / arrays["down_scale"],
        ignore_index=arrays["ignore_index"],
    )
    assert torch.equal(label, arrays["label"].long())


def test_neighbour_weights__by_the_formula(generator: torch.Generator) -> None:
    images = 255 * torch.rand(1, 3, 5, 6, generator=generator)
    dilations = (1, 3)
    weights = neighbour_weights(images, dilations)
    assert weights.shape == (1, 16, 5, 6)
    y, x = 1, 4
    places = [
        (y + dilation * dy, x + dilation * dx, dilation * (dy * dy + dx * dx) ** 0.5)
        for dilation in dilations
        for dy in (-1, 0, 1)
        for dx in (-1, 0, 1)
        if (dy, dx) != (0, 0)
    ]
    # Neighbours outside the image have the colour of the nearest pixel inside.
    colours = torch.stack([images[0, :, min(max(v, 0), 4), min(max(u, 0), 5)] for v, u, _ in places])
    distances = torch.tensor([distance for _, _, distance in places])
    colour = -(((colours - images[0, :, y, x]) / colours.std(dim=0) / 0.3) ** 2).mean(dim=1)
    position = -((distances / distances.std() / 0.3) ** 2)
    torch.testing.assert_close(weights[0, :, y, x], colour.softmax(dim=0) + 0.01 * position.softmax(dim=0))


def test_neighbour_weights__sum(generator: torch.Generator) -> None:
    weights = neighbour_weights(255 * torch.rand(2, 3, 9, 7, generator=generator))
    torch.testing.assert_close(weights.sum(dim=1), torch.full((2, 9, 7), 1.01))


def test_refine_masks__constant_masks_stay_constant(generator: torch.Generator) -> None:
    images = 255 * torch.rand(1, 3, 9, 7, generator=generator)
    refined = refine_masks(torch.tensor([0.2, 0.8]).view(1, 2, 1, 1).expand(1, 2, 4, 4), images)
    torch.testing.assert_close(refined[:, 0], torch.full((1, 9, 7), 0.2 * 1.01**10))
    torch.testing.assert_close(
        refined / refined.sum(dim=1, keepdim=True),
        torch.tensor([0.2, 0.8]).view(1, 2, 1, 1).expand(1, 2, 9, 7),
    )


def test_refine_masks__do_not_leak_across_a_strong_edge() -> None:
    masks = torch.zeros(1, 2, 24, 32)
    masks[:, 0, :, :16] = masks[:, 1, :, 16:] = 1
    refined = refine_masks(masks, two_halves())
    share = refined / refined.sum(dim=1, keepdim=True)
    assert (share[:, 0, :, :16] > 0.85).all()
    assert (share[:, 0, :, 16:] < 0.15).all()
    # On an image of one colour the same masks do leak.
    flat = refine_masks(masks, torch.full((1, 3, 24, 32), 20.0))
    assert (flat / flat.sum(dim=1, keepdim=True))[0, 0, :, 15].max() < 0.85


def test_refine_masks__fills_a_hole_within_a_colour() -> None:
    masks = torch.zeros(1, 2, 24, 32)
    masks[:, 0, :, :16] = masks[:, 1, :, 16:] = 1
    masks[:, :, 10:13, 6:9] = masks[:, :, 10:13, 6:9].flip(1)
    refined = refine_masks(masks, two_halves())
    assert (refined[0].argmax(dim=0) == (torch.arange(32) >= 16)).all()


def test_refine_masks__batch_of_two_equals_each_alone(generator: torch.Generator) -> None:
    images = 255 * torch.rand(2, 3, 10, 8, generator=generator)
    masks = torch.rand(2, 3, 5, 4, generator=generator)
    together = refine_masks(masks, images, iterations=2)
    for index in range(2):
        alone = refine_masks(masks[[index]], images[[index]], iterations=2)
        torch.testing.assert_close(together[[index]], alone)


def test_refine_masks__flipped_input_gives_flipped_masks(generator: torch.Generator) -> None:
    images = 255 * torch.rand(1, 3, 10, 8, generator=generator)
    masks = torch.rand(1, 2, 10, 8, generator=generator)
    flipped = refine_masks(masks.flip(-1), images.flip(-1), iterations=3)
    torch.testing.assert_close(flipped.flip(-1), refine_masks(masks, images, iterations=3))


def test_refine_masks__without_iterations_only_resizes(generator: torch.Generator) -> None:
    masks = torch.rand(1, 2, 3, 4, generator=generator)
    refined = refine_masks(masks, torch.zeros(1, 3, 6, 8), iterations=0)
    assert torch.equal(refined, F.interpolate(masks, size=(6, 8), mode="bilinear", align_corners=True))


def cam_of_left_half(score: float) -> Tensor:
    """Three classes; the second has `score` on the left half."""
    cam = torch.zeros(1, 3, 24, 32)
    cam[:, 1, :, :16] = score
    return cam


@pytest.mark.parametrize(("score", "left"), [(0.95, 2), (0.5, 255), (0.1, 0)])
def test_refined_labels__against_high_and_low_background(score: float, left: int) -> None:
    label = refined_labels(cam_of_left_half(score), two_halves(), torch.tensor([[0.0, 1.0, 0.0]]))
    assert (label[..., :16] == left).all()
    assert (label[..., 16:] == 0).all()


def test_refined_labels__outside_the_box_is_ignored() -> None:
    box = torch.tensor([[4, 20, 0, 24]])
    classes = torch.tensor([[0.0, 1.0, 0.0]])
    label = refined_labels(cam_of_left_half(0.95), two_halves(), classes, box)
    without_box = refined_labels(cam_of_left_half(0.95), two_halves(), classes)
    assert (label[:, :4] == 255).all()
    assert (label[:, 20:] == 255).all()
    assert (label[..., 24:] == 255).all()
    assert torch.equal(label[:, 4:20, :24], without_box[:, 4:20, :24])


def test_refined_labels__absent_classes_change_nothing(generator: torch.Generator) -> None:
    images = 255 * torch.rand(2, 3, 16, 12, generator=generator)
    class_labels = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    valid_cam = torch.rand(2, 3, 16, 12, generator=generator) * class_labels[:, :, None, None]
    label = refined_labels(valid_cam, images, class_labels)
    noisy = valid_cam + (1 - class_labels)[:, :, None, None] * torch.rand(2, 3, 16, 12, generator=generator)
    assert torch.equal(refined_labels(noisy, images, class_labels), label)
    assert not (label[0] == 2).any()
    # The result is that of a data set without the other classes.
    alone = refined_labels(valid_cam[1:, 2:], images[1:], torch.ones(1, 1))
    assert torch.equal(label[1:], torch.where(alone == 1, 3, alone))


def test_refined_labels__image_without_classes_is_background(generator: torch.Generator) -> None:
    images = 255 * torch.rand(1, 3, 16, 12, generator=generator)
    assert not refined_labels(torch.zeros(1, 2, 16, 12), images, torch.zeros(1, 2)).any()


def test_combine_labels__table() -> None:
    high, low = torch.tensor([[0, 0, 2, 2, 1]]), torch.tensor([[0, 2, 2, 1, 0]])
    assert combine_labels(high, low).tolist() == [[0, 255, 2, 2, 1]]
    assert combine_labels(high, low, -1).tolist() == [[0, -1, 2, 2, 1]]
