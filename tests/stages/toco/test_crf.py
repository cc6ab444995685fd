import importlib.util
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stages.toco.crf import (
    FOR_PSEUDO_LABELS,
    FOR_SEGMENTATION,
    Backend,
    CrfParameters,
    PyDenseCrf,
    TorchCrf,
    dense_crf,
    log_probabilities,
    refine_with_crf,
)

PARAMETERS = pytest.mark.parametrize(
    "parameters", [FOR_PSEUDO_LABELS, FOR_SEGMENTATION], ids=["pseudo labels", "segmentation"]
)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(params=["torch", "pydensecrf"])
def backend(request: pytest.FixtureRequest) -> Backend:
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
    probabilities = random_probabilities(generator, labels)
    ours = TorchCrf(image, parameters).infer(probabilities)
    theirs = PyDenseCrf(image, parameters).infer(probabilities)
    assert (ours.argmax(dim=0) == theirs.argmax(dim=0)).double().mean() >= 0.999
    assert ((ours - theirs).abs().amax(dim=0) < 1e-3).double().mean() >= 0.999
    # It did something: not each pixel has the label that it came with.
    assert (ours.argmax(dim=0) != probabilities.argmax(dim=0)).any()


@PARAMETERS
def test_infer__sums_to_one(parameters: CrfParameters, backend: Backend, generator: torch.Generator) -> None:
    crf = dense_crf(textured_image(generator), parameters, backend)
    probabilities = random_probabilities(generator, 4)
    result = crf.infer(probabilities)
    assert result.shape == probabilities.shape
    torch.testing.assert_close(result.sum(dim=0), torch.ones(40, 48))


def test_infer__one_crf_serves_many_unaries(backend: Backend, generator: torch.Generator) -> None:
    image = textured_image(generator)
    crf = dense_crf(image, FOR_PSEUDO_LABELS, backend)
    first, other_count = random_probabilities(generator, 3), random_probabilities(generator, 2)
    expected = crf.infer(first)
    torch.testing.assert_close(crf.infer(other_count), dense_crf(image, FOR_PSEUDO_LABELS, backend).infer(other_count))
    torch.testing.assert_close(crf.infer(first), expected)


def test_infer__follows_the_edge(backend: Backend) -> None:
    # Scores whose boundary lies 3 pixels off the image's.
    probabilities = torch.full((2, 16, 24), 0.35)
    probabilities[0, :, :15] = probabilities[1, :, 15:] = 0.65
    label = dense_crf(two_halves(), FOR_PSEUDO_LABELS, backend).infer(probabilities).argmax(dim=0)
    assert (label == (torch.arange(24) >= 12)).all()


def test_infer__without_kernels_is_the_unary(backend: Backend, generator: torch.Generator) -> None:
    parameters = CrfParameters(
        gaussian_xy=3.0, gaussian_weight=0.0, bilateral_xy=36.0, bilateral_rgb=3.0, bilateral_weight=0.0
    )
    probabilities = random_probabilities(generator, 3)
    result = dense_crf(textured_image(generator), parameters, backend).infer(probabilities)
    torch.testing.assert_close(result, probabilities, rtol=1e-4, atol=1e-5)


def test_infer__image_and_probabilities_do_not_change(backend: Backend, generator: torch.Generator) -> None:
    image, probabilities = textured_image(generator), random_probabilities(generator, 2)
    before = image.clone(), probabilities.clone()
    dense_crf(image, FOR_PSEUDO_LABELS, backend).infer(probabilities)
    assert torch.equal(image, before[0])
    assert torch.equal(probabilities, before[1])


def test_infer__zero_probabilities_are_finite(backend: Backend) -> None:
    probabilities = torch.zeros(2, 16, 24)
    probabilities[0] = 1
    result = dense_crf(two_halves(), FOR_PSEUDO_LABELS, backend).infer(probabilities)
    assert result.isfinite().all()
    assert not result.argmax(dim=0).any()


def test_log_probabilities__floor() -> None:
    assert log_probabilities(torch.tensor([0.0, 1.0])).tolist() == pytest.approx([-11.5129, 0.0], abs=1e-4)


def test_refine_with_crf__labels(backend: Backend) -> None:
    cam = torch.zeros(2, 16, 24)
    cam[0, :, :12] = 0.95  # sure, and on an object of its own colour
    label = refine_with_crf(cam, two_halves(), backend=backend)
    assert (label[:, :12] == 1).all()
    assert (label[:, 12:] == 0).all()
    unsure = refine_with_crf(cam / 2, two_halves(), backend=backend)
    assert (unsure[:, :12] == 255).all()  # above the low background, below the high one
    assert (unsure[:, 12:] == 0).all()
    assert (refine_with_crf(cam / 2, two_halves(), high=0.4, low=0.1, backend=backend)[:, :12] == 1).all()


def test_refine_with_crf__image_without_classes(backend: Backend) -> None:
    label = refine_with_crf(torch.zeros(0, 16, 24), two_halves(), backend=backend)
    assert label.shape == (16, 24)
    assert not label.any()


def test_refine_with_crf__backends_agree(generator: torch.Generator) -> None:
    pytest.importorskip("pydensecrf")
    image = textured_image(generator)
    cam = F.interpolate(torch.rand(1, 3, 5, 6, generator=generator), size=(40, 48), mode="bilinear")[0]
    ours = refine_with_crf(cam, image, backend="torch")
    theirs = refine_with_crf(cam, image, backend="pydensecrf")
    assert (ours == theirs).double().mean() >= 0.999
    assert len(set(ours.flatten().tolist())) > 2


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
        dense_crf(two_halves(), FOR_PSEUDO_LABELS, "pydensecrf")
    assert "--crf-backend torch" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("no_pydensecrf")
def test_dense_crf__auto_does_without_pydensecrf() -> None:
    assert isinstance(dense_crf(two_halves(), FOR_PSEUDO_LABELS), TorchCrf)


def test_dense_crf__auto_takes_pydensecrf_on_a_cpu() -> None:
    pytest.importorskip("pydensecrf")
    assert isinstance(dense_crf(two_halves(), FOR_PSEUDO_LABELS), PyDenseCrf)
    assert isinstance(dense_crf(two_halves(), FOR_PSEUDO_LABELS, "torch"), TorchCrf)
