from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stages.toco.lattice import PermutohedralLattice, bilateral_features, spatial_features


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def picture(generator: torch.Generator, images: int = 1, height: int = 16, width: int = 20) -> Tensor:
    """Smooth colours with some noise, 0..255."""
    coarse = 255 * torch.rand(images, 3, 4, 5, generator=generator)
    smooth = F.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False)
    return (smooth + 5 * torch.randn(smooth.shape, generator=generator)).clamp(0, 255)


def brute_force(features: Tensor, values: Tensor) -> Tensor:
    """The exact Gaussian filter of standard deviation 1."""
    return torch.exp(-(torch.cdist(features, features) ** 2) / 2) @ values


def test_filter__golden(golden: Callable[[str], dict[str, Any]], assert_golden: Callable[..., None]) -> None:
    arrays = golden("bilateral_filter")
    values = arrays["values"]
    names = [key.removeprefix("sigma_rgb") for key in arrays if key.startswith("sigma_rgb")]
    assert names
    for name in names:
        features = bilateral_features(
            arrays["image"], sigma_xy=arrays["sigma_xy"], sigma_rgb=arrays[f"sigma_rgb{name}"]
        )
        filtered = PermutohedralLattice(features).filter(values.flatten(2).transpose(1, 2))
        assert_golden(filtered.transpose(1, 2).reshape(values.shape), arrays[f"filtered{name}"])


def test_filter__is_linear(generator: torch.Generator) -> None:
    lattice = PermutohedralLattice(bilateral_features(picture(generator), sigma_xy=6.0, sigma_rgb=30.0))
    one, two = (torch.randn(1, 320, 2, generator=generator) for _ in range(2))
    combined = lattice.filter(2 * one - 3 * two)
    torch.testing.assert_close(combined, 2 * lattice.filter(one) - 3 * lattice.filter(two), rtol=1e-4, atol=1e-4)


def test_filter__normalised_leaves_constants(generator: torch.Generator) -> None:
    lattice = PermutohedralLattice(bilateral_features(picture(generator), sigma_xy=6.0, sigma_rgb=30.0))
    constant = torch.tensor([3.0, -0.5]).expand(1, 320, 2)
    normalised = lattice.filter(constant) / lattice.filter(torch.ones(1, 320, 1))
    torch.testing.assert_close(normalised, constant)


def test_filter__images_of_a_batch_do_not_mix(generator: torch.Generator) -> None:
    features = bilateral_features(picture(generator, images=2), sigma_xy=6.0, sigma_rgb=30.0)
    # The points of the second image are close to those of the first, and have other values.
    features[1] = features[0] + 0.3 * torch.randn(features[0].shape, generator=generator)
    values = torch.randn(2, 320, 3, generator=generator)
    together = PermutohedralLattice(features)
    alone = [PermutohedralLattice(features[index : index + 1]) for index in range(2)]
    assert together.size == alone[0].size + alone[1].size
    filtered = torch.cat([alone[index].filter(values[index : index + 1]) for index in range(2)])
    torch.testing.assert_close(together.filter(values), filtered)


def test_filter__order_of_points_does_not_matter(generator: torch.Generator) -> None:
    features = bilateral_features(picture(generator), sigma_xy=6.0, sigma_rgb=30.0)
    values = torch.randn(1, 320, 2, generator=generator)
    order = torch.randperm(320, generator=generator)
    torch.testing.assert_close(
        PermutohedralLattice(features[:, order]).filter(values[:, order]),
        PermutohedralLattice(features).filter(values)[:, order],
        rtol=1e-4,
        atol=1e-5,
    )


def test_filter__values_do_not_change(generator: torch.Generator) -> None:
    features, values = torch.randn(1, 9, 3, generator=generator), torch.randn(1, 9, 2, generator=generator)
    before = features.clone(), values.clone()
    PermutohedralLattice(features).filter(values)
    assert torch.equal(features, before[0])
    assert torch.equal(values, before[1])


@pytest.mark.parametrize("dimensions", [2, 5])
def test_filter__close_to_the_exact_gaussian(dimensions: int, generator: torch.Generator) -> None:
    if dimensions == 2:
        features = spatial_features(16, 20, 3.0, torch.device("cpu"))
    else:
        features = bilateral_features(picture(generator), sigma_xy=8.0, sigma_rgb=40.0)
    values = torch.rand(1, 320, 4, generator=generator)
    lattice, ones = PermutohedralLattice(features), torch.ones(1, 320, 1)
    approximate = lattice.filter(values) / lattice.filter(ones)
    exact = brute_force(features, values) / brute_force(features, ones)
    # The lattice approximates the Gaussian; errors are a few hundredths.
    pair = torch.stack([approximate.flatten(), exact.flatten()])
    assert torch.corrcoef(pair)[0, 1] > 0.99
    assert (approximate - exact).abs().max() < 0.05


def test_filter__unnormalised_scale_of_the_exact_gaussian(generator: torch.Generator) -> None:
    features = spatial_features(16, 20, 3.0, torch.device("cpu"))
    ratio = PermutohedralLattice(features).filter(torch.ones(1, 320, 1)) / brute_force(features, torch.ones(1, 320, 1))
    # The factor is the same for all points, up to the approximation.
    assert ratio.std() / ratio.mean() < 0.05


def test_lattice__distant_points_do_not_affect_each_other() -> None:
    features = torch.tensor([[[0.0, 0.0], [100.0, -50.0]]])
    values = torch.tensor([[[1.0], [5.0]]])
    filtered = PermutohedralLattice(features).filter(values)
    alone = PermutohedralLattice(features[:, 1:]).filter(values[:, 1:])
    torch.testing.assert_close(filtered[:, 1:], alone)


def test_lattice__one_dimension_and_one_point() -> None:
    lattice = PermutohedralLattice(torch.zeros(1, 1, 1))
    assert lattice.size == 2  # the two ends of the cell
    assert lattice.filter(torch.full((1, 1, 1), 2.0)).item() > 0


def test_lattice__too_small_sigmas(generator: torch.Generator) -> None:
    features = bilateral_features(picture(generator), sigma_xy=1e-4, sigma_rgb=1e-3)
    with pytest.raises(ValueError, match=r"standard deviations are too small .* do not fit into 64 bits"):
        PermutohedralLattice(features)


def test_bilateral_features__by_hand() -> None:
    images = (
        torch.tensor([[10.0, 20.0], [30.0, 40.0]]).expand(2, 3, 2, 2) * torch.tensor([1.0, 2.0, 3.0])[:, None, None]
    )
    features = bilateral_features(images, sigma_xy=2.0, sigma_rgb=10.0)
    assert features.shape == (2, 4, 5)
    assert features[0].tolist() == [
        [0, 0, 1, 2, 3],
        [0.5, 0, 2, 4, 6],
        [0, 0.5, 3, 6, 9],
        [0.5, 0.5, 4, 8, 12],
    ]


def test_spatial_features__by_hand() -> None:
    features = spatial_features(2, 3, 2.0, torch.device("cpu"))
    assert features.tolist() == [[[0, 0], [0.5, 0], [1, 0], [0, 0.5], [0.5, 0.5], [1, 0.5]]]
