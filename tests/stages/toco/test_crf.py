import importlib.util
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stages.toco.crf import (
    FOR_PSEUDO_LABELS,
    FOR_SEGMENTATION,
    IMPROBABLE,
    CrfBackend,
    CrfParameters,
    Merged,
    PyDenseCrf,
    TorchCrf,
    dense_crf,
    log_probabilities,
    sharpen,
)

PARAMETERS = pytest.mark.parametrize(
    "parameters", [FOR_PSEUDO_LABELS, FOR_SEGMENTATION], ids=["pseudo labels", "segmentation"]
)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(params=["torch", "pydensecrf"])
def backend(request: pytest.FixtureRequest) -> CrfBackend:
    if request.param == "pydensecrf":
        pytest.importorskip("pydensecrf")
        return "pydensecrf"
    return "torch"


def textured_image(generator: torch.Generator, height: int = 40, width: int = 48) -> Tensor:
    """Patches of colour with a grain, as in a photograph."""
    colours = 255 * torch.rand(1, 3, 4, 5, generator=generator)
    smooth = F.interpolate(colours, size=(height, width), mode="bilinear", align_corners=False)[0]
    grain = 6 * torch.randn(3, height, width, generator=generator)
    return (smooth + grain).clamp(0, 255).to(torch.uint8)


def random_probabilities(generator: torch.Generator, labels: int, height: int = 40, width: int = 48) -> Tensor:
    logits = 2 * torch.randn(1, labels, 5, 6, generator=generator)
    return F.interpolate(logits, size=(height, width), mode="bilinear", align_corners=False)[0].softmax(dim=0)


def two_halves(height: int = 16, width: int = 24) -> Tensor:
    image = torch.full((3, height, width), 40, dtype=torch.uint8)
    image[..., width // 2 :] = 200
    return image


@PARAMETERS
@pytest.mark.parametrize("labels", [2, 3, 21])
def test_torch_crf__equals_pydensecrf(parameters: CrfParameters, labels: int, generator: torch.Generator) -> None:
    pytest.importorskip("pydensecrf")
    image = textured_image(generator)
    probabilities = torch.stack([random_probabilities(generator, labels) for _ in range(2)])
    (ours,) = TorchCrf([image], parameters).infer([probabilities])
    (theirs,) = PyDenseCrf([image], parameters).infer([probabilities])
    assert (ours.argmax(dim=1) == theirs.argmax(dim=1)).double().mean() >= 0.999
    assert ((ours - theirs).abs().amax(dim=1) < 1e-3).double().mean() >= 0.999
    # The CRF changed some labels.
    assert (ours.argmax(dim=1) != probabilities.argmax(dim=1)).any()


def test_infer__stored_values_of_pydensecrf(backend: CrfBackend) -> None:
    """Two colours, two labels, two iterations; the result was computed by pydensecrf2 1.1."""
    image = torch.full((3, 3, 4), 40, dtype=torch.uint8)
    image[..., 2:] = 60
    first = torch.tensor([[0.9, 0.6, 0.6, 0.2], [0.7, 0.4, 0.5, 0.1], [0.8, 0.7, 0.3, 0.3]])
    parameters = CrfParameters(
        gaussian_xy=1.0,
        gaussian_weight=0.5,
        bilateral_xy=3.0,
        bilateral_rgb=10.0,
        bilateral_weight=1.0,
        iterations=2,
    )
    expected = [[0.9519, 0.7423, 0.4662, 0.1116], [0.8408, 0.5629, 0.3552, 0.05], [0.898, 0.812, 0.1896, 0.1725]]
    result = infer(image, torch.stack([first, 1 - first]), parameters, backend)
    torch.testing.assert_close(result[0], torch.tensor(expected), rtol=0, atol=1e-4)


@PARAMETERS
def test_infer__sums_to_one(parameters: CrfParameters, backend: CrfBackend, generator: torch.Generator) -> None:
    probabilities = random_probabilities(generator, 4)
    result = infer(textured_image(generator), probabilities, parameters, backend)
    assert result.shape == probabilities.shape
    torch.testing.assert_close(result.sum(dim=0), torch.ones(40, 48))


def infer(image: Tensor, probabilities: Tensor, parameters: CrfParameters, backend: CrfBackend) -> Tensor:
    """Run the CRF of one image on one unary, (l, h, w)."""
    return dense_crf([image], parameters, backend).infer([probabilities[None]])[0][0]


def test_infer__one_crf_serves_many_unaries(backend: CrfBackend, generator: torch.Generator) -> None:
    image = textured_image(generator)
    crf = dense_crf([image], FOR_PSEUDO_LABELS, backend)
    first, second = random_probabilities(generator, 3), random_probabilities(generator, 3)
    together = crf.infer([torch.stack([first, second])])[0]
    for one, result in zip((first, second), together, strict=True):
        torch.testing.assert_close(result, infer(image, one, FOR_PSEUDO_LABELS, backend), rtol=1e-4, atol=1e-5)
    other_count = random_probabilities(generator, 2)
    expected = infer(image, other_count, FOR_PSEUDO_LABELS, backend)
    torch.testing.assert_close(crf.infer([other_count[None]])[0][0], expected)


def test_infer__images_of_other_sizes_and_label_counts_do_not_mix(
    backend: CrfBackend, generator: torch.Generator
) -> None:
    sizes, counts = [(40, 48), (17, 30), (40, 48)], [2, 5, 3]
    images = [textured_image(generator, *size) for size in sizes]
    given = [random_probabilities(generator, count, *size) for count, size in zip(counts, sizes, strict=True)]
    together = dense_crf(images, FOR_PSEUDO_LABELS, backend).infer([one[None] for one in given])
    for image, one, result in zip(images, given, together, strict=True):
        alone = infer(image, one, FOR_PSEUDO_LABELS, backend)
        torch.testing.assert_close(result[0], alone, rtol=1e-3, atol=1e-4)


def test_infer__follows_the_edge(backend: CrfBackend) -> None:
    # The boundary of the scores is 3 pixels away from the edge in the image.
    probabilities = torch.full((2, 16, 24), 0.35)
    probabilities[0, :, :15] = probabilities[1, :, 15:] = 0.65
    label = infer(two_halves(), probabilities, FOR_PSEUDO_LABELS, backend).argmax(dim=0)
    assert (label == (torch.arange(24) >= 12)).all()


def test_infer__without_kernels_is_the_unary(backend: CrfBackend, generator: torch.Generator) -> None:
    parameters = CrfParameters(
        gaussian_xy=3.0, gaussian_weight=0.0, bilateral_xy=36.0, bilateral_rgb=3.0, bilateral_weight=0.0
    )
    probabilities = random_probabilities(generator, 3)
    result = infer(textured_image(generator), probabilities, parameters, backend)
    torch.testing.assert_close(result, probabilities, rtol=1e-4, atol=1e-5)


def test_infer__image_and_probabilities_do_not_change(backend: CrfBackend, generator: torch.Generator) -> None:
    image, probabilities = textured_image(generator), random_probabilities(generator, 2)
    before = image.clone(), probabilities.clone()
    infer(image, probabilities, FOR_PSEUDO_LABELS, backend)
    assert torch.equal(image, before[0])
    assert torch.equal(probabilities, before[1])


def test_infer__zero_probabilities_are_finite(backend: CrfBackend) -> None:
    probabilities = torch.zeros(2, 16, 24)
    probabilities[0] = 1
    result = infer(two_halves(), probabilities, FOR_PSEUDO_LABELS, backend)
    assert result.isfinite().all()
    assert not result.argmax(dim=0).any()


def test_log_probabilities__floor() -> None:
    assert log_probabilities(torch.tensor([0.0, 1.0])).tolist() == pytest.approx([-11.5129, 0.0], abs=1e-4)


def test_sharpen__fast_is_nearly_the_same(backend: CrfBackend, generator: torch.Generator) -> None:
    image = F.interpolate(two_halves(32, 48)[None].float(), size=(65, 97))[0].byte()
    probabilities = F.interpolate(random_probabilities(generator, 3)[None], size=(65, 97), mode="bilinear")
    (full,) = sharpen([image], [probabilities], FOR_PSEUDO_LABELS, backend)
    (fast,) = sharpen([image], [probabilities], FOR_PSEUDO_LABELS, backend, fast=True)
    assert full.shape == fast.shape == (1, 3, 65, 97)
    assert (full.argmax(dim=1) == fast.argmax(dim=1)).double().mean() > 0.95
    torch.testing.assert_close(fast.sum(dim=1), torch.ones(1, 65, 97))


def test_sharpen__fast_takes_an_image_of_one_pixel(backend: CrfBackend) -> None:
    probabilities = torch.tensor([0.25, 0.75]).reshape(1, 2, 1, 1)
    (result,) = sharpen(
        [torch.zeros(3, 1, 1, dtype=torch.uint8)], [probabilities], FOR_PSEUDO_LABELS, backend, fast=True
    )
    assert result.argmax(dim=1).item() == 1


def few_likely(generator: torch.Generator, labels: int = 21) -> Tensor:
    """Two unaries with three probable labels; the highest probabilities of the others sum to just below IMPROBABLE."""
    given = torch.stack([random_probabilities(generator, labels) for _ in range(2)])
    rare = torch.arange(labels) % 7 != 2
    given[:, rare] *= 0.999 * IMPROBABLE / given[:, rare].amax(dim=(0, 2, 3)).sum()
    given[:, ~rare] *= (1 - given[:, rare].sum(dim=1, keepdim=True)) / given[:, ~rare].sum(dim=1, keepdim=True)
    return given


@PARAMETERS
def test_sharpen__merging_improbable_labels_changes_little(
    parameters: CrfParameters, backend: CrfBackend, generator: torch.Generator
) -> None:
    image, given = textured_image(generator), few_likely(generator)
    assert Merged.of(given).probabilities.shape[1] == 4
    (merged,) = sharpen([image], [given], parameters, backend)
    (unmerged,) = dense_crf([image], parameters, backend).infer([given])
    torch.testing.assert_close(merged, unmerged, rtol=0, atol=3e-4)
    assert torch.equal(merged.argmax(dim=1), unmerged.argmax(dim=1))


def test_merged__improbable_labels_are_merged_and_split(generator: torch.Generator) -> None:
    given = few_likely(generator)
    merged = Merged.of(given)
    assert sorted(merged.order[:3]) == [2, 9, 16]
    assert sorted(merged.order) == list(range(21))
    torch.testing.assert_close(merged.split(merged.probabilities), given.clamp_min(1e-5))


def test_merged__labels_that_exceed_the_limit_together_stay() -> None:
    probabilities = torch.full((1, 5, 4, 4), 0.4 * IMPROBABLE)
    probabilities[:, 3] = 1 - 4 * 0.4 * IMPROBABLE
    merged = Merged.of(probabilities)
    assert merged.probabilities.shape[1] == 4
    torch.testing.assert_close(merged.split(merged.probabilities), probabilities)


@pytest.mark.parametrize("given", [[0.998, 0.002], [0.5, 0.499, 0.001], [0.2, 0.3, 0.5]])
def test_merged__nothing_to_merge(given: list[float]) -> None:
    probabilities = torch.tensor(given).reshape(1, -1, 1, 1)
    merged = Merged.of(probabilities)
    assert merged.probabilities is probabilities
    assert merged.split(merged.probabilities) is probabilities


def test_merged__the_most_probable_label_stays() -> None:
    merged = Merged.of(torch.zeros(1, 3, 1, 1))
    assert merged.probabilities.shape[1] == 2
    assert merged.split(merged.probabilities).shape[1] == 3


@pytest.fixture
def no_pydensecrf(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec: Callable[..., object] = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "pydensecrf" else find_spec(name, *rest),
    )


@pytest.mark.usefixtures("no_pydensecrf")
def test_dense_crf__pydensecrf_is_missing() -> None:
    with pytest.raises(ValueError, match="--crf-backend pydensecrf needs the package 'pydensecrf2'") as error:
        dense_crf([two_halves()], FOR_PSEUDO_LABELS, "pydensecrf")
    assert "--crf-backend torch" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("no_pydensecrf")
def test_dense_crf__auto_works_without_pydensecrf() -> None:
    assert isinstance(dense_crf([two_halves()], FOR_PSEUDO_LABELS, labels=21), TorchCrf)


def test_dense_crf__auto_takes_pydensecrf_for_many_labels_on_a_cpu() -> None:
    pytest.importorskip("pydensecrf")
    assert isinstance(dense_crf([two_halves()], FOR_PSEUDO_LABELS, labels=21), PyDenseCrf)
    assert isinstance(dense_crf([two_halves()], FOR_PSEUDO_LABELS, labels=3), TorchCrf)
    assert isinstance(dense_crf([two_halves()], FOR_PSEUDO_LABELS, "torch"), TorchCrf)
