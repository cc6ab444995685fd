from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from stages.toco.energy import energy_loss

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def whole(images: Tensor) -> Tensor:
    return torch.tensor([[0, images.shape[-2], 0, images.shape[-1]]]).expand(len(images), -1)


def unlabelled(images: Tensor) -> Tensor:
    return torch.full((len(images), *images.shape[-2:]), 255)


def gradient(loss: Tensor, of: Tensor) -> Tensor:
    (result,) = torch.autograd.grad(loss, of)
    return result


def test_energy_loss__golden(golden: Callable[[str], dict[str, Any]], assert_golden: Callable[..., None]) -> None:
    arrays = golden("energy_loss")
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    logits = arrays["logits"].requires_grad_()
    loss = energy_loss(
        logits,
        (arrays["images_normalized"] * std + mean) * 255,
        arrays["label"],
        arrays["image_box"],
        sigma_xy=arrays["sigma_xy"],
        sigma_rgb=arrays["sigma_rgb"],
        scale=arrays["scale_factor"],
        weight=arrays["weight"],
    )
    assert_golden(loss.detach(), arrays["loss"].squeeze())
    assert_golden(gradient(loss, logits), arrays["logits_grad"])


def test_energy_loss__nothing_counts_outside_the_box(generator: torch.Generator) -> None:
    images = 255 * torch.rand(1, 3, 16, 20, generator=generator)
    logits = torch.randn(1, 3, 16, 20, generator=generator).requires_grad_()
    box = torch.tensor([[4, 12, 0, 10]])
    loss = energy_loss(logits, images, unlabelled(images), box)
    grad = gradient(loss, logits)
    inside = torch.zeros(16, 20, dtype=torch.bool)
    inside[4:12, :10] = True
    assert not grad[..., ~inside].any()
    assert grad[..., inside].any()
    other = torch.where(inside, logits.detach(), torch.randn(1, 3, 16, 20, generator=generator))
    assert energy_loss(other, images, unlabelled(images), box) == loss


def test_energy_loss__gradient_pulls_towards_similar_neighbours() -> None:
    # A dark half of class 0 with one uncertain block, and a bright half of class 1.
    images = torch.zeros(1, 3, 12, 16)
    images[..., 8:] = 255
    logits = torch.zeros(1, 2, 12, 16)
    logits[:, 0, :, :8] = 4
    logits[:, 1, :, 8:] = 4
    logits[:, :, 4:8, 2:6] = 0
    logits.requires_grad_()
    loss = energy_loss(logits, images, unlabelled(images), whole(images), sigma_xy=20.0)
    grad = gradient(loss, logits)
    assert (grad[0, 0, 4:8, 2:6] < 0).all()  # gradient descent raises the class of the neighbours
    assert (grad[0, 1, 4:8, 2:6] > 0).all()
    better = logits.detach() - 1e3 * grad / grad.abs().max()
    assert energy_loss(better, images, unlabelled(images), whole(images), sigma_xy=20.0) < loss < 0


def test_energy_loss__agreement_within_a_colour_is_rewarded(generator: torch.Generator) -> None:
    images = torch.zeros(1, 3, 12, 16)
    images[..., 8:] = 255
    along = torch.zeros(1, 2, 12, 16)
    along[:, 0, :, :8] = along[:, 1, :, 8:] = 5
    across = torch.zeros(1, 2, 12, 16)
    across[:, 0, :6] = across[:, 1, 6:] = 5
    args = (images, unlabelled(images), whole(images))
    assert energy_loss(along, *args) < energy_loss(across, *args)


def test_energy_loss__confident_labelled_pixels_do_not_count(generator: torch.Generator) -> None:
    images = 255 * torch.rand(1, 3, 8, 8, generator=generator)
    logits = torch.zeros(1, 2, 8, 8)
    logits[:, 1] = 200  # probability 1
    label = torch.ones(1, 8, 8, dtype=torch.int64)
    assert energy_loss(logits, images, label, whole(images)) == 0
    label[:, 2:4, 2:4] = 255
    assert energy_loss(logits, images, label, whole(images)) < 0


def test_energy_loss__is_a_mean_over_images(generator: torch.Generator) -> None:
    images = 255 * torch.rand(2, 3, 12, 10, generator=generator)
    logits = torch.randn(2, 3, 12, 10, generator=generator)
    args = (images, unlabelled(images), whole(images))
    alone = [energy_loss(logits[[i]], *(value[[i]] for value in args)) for i in range(2)]
    torch.testing.assert_close(energy_loss(logits, *args), (alone[0] + alone[1]) / 2, rtol=1e-5, atol=0)


def test_energy_loss__weight_scales_value_and_gradient(generator: torch.Generator) -> None:
    images = 255 * torch.rand(1, 3, 8, 8, generator=generator)
    logits = torch.randn(1, 3, 8, 8, generator=generator).requires_grad_()
    args = (logits, images, unlabelled(images), whole(images))
    one, ten = energy_loss(*args, weight=1.0), energy_loss(*args, weight=10.0)
    torch.testing.assert_close(ten, 10 * one)
    torch.testing.assert_close(gradient(ten, logits), 10 * gradient(one, logits))


def test_energy_loss__odd_sides(generator: torch.Generator) -> None:
    images = 255 * torch.rand(1, 3, 9, 13, generator=generator)
    logits = torch.randn(1, 3, 9, 13, generator=generator).requires_grad_()
    loss = energy_loss(logits, images, unlabelled(images), whole(images))
    assert gradient(loss, logits).isfinite().all()
