from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from data.errors import ArtifactError
from stages.config import Predict
from stages.networks.segmenter import Segmenter, open_segmenter

CONFIG = Predict(device="cpu")


def noise(height: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)


def test_open_segmenter__student_goes_before_decoder(student_run: Any, decoder_run: Any) -> None:
    run = student_run.run
    assert open_segmenter(run, CONFIG).folder.path.name == "seg"
    assert open_segmenter(run, replace(CONFIG, source="student")).folder.path.name == "seg"
    assert open_segmenter(run, replace(CONFIG, source="decoder")).folder.path.name == "cam"
    (run / "seg" / "model.safetensors").unlink()
    assert open_segmenter(run, CONFIG).folder.path.name == "cam"
    with pytest.raises(ArtifactError, match="'toco train-seg' did not finish there"):
        open_segmenter(run, replace(CONFIG, source="student"))


@pytest.mark.parametrize("source", ["student", "decoder"])
def test_segmenter__a_batch_is_as_one_by_one(source: Any, student_run: Any, decoder_run: Any) -> None:
    segmenter = open_segmenter(student_run.run, replace(CONFIG, source=source))
    images = [noise(50, 90, seed) for seed in range(3)]
    together = list(segmenter.segment(images))
    for image, (label, probabilities) in zip(images, together, strict=True):
        (alone,) = segmenter.segment([image])
        assert probabilities is not None
        assert alone.probabilities is not None
        torch.testing.assert_close(probabilities, alone.probabilities, rtol=1e-4, atol=1e-5)
        assert (label == alone.label).float().mean() >= 0.999
        assert torch.equal(segmenter(image), alone.label)


@pytest.mark.parametrize("source", ["student", "decoder"])
def test_segmenter__scales_and_mirror_are_used(source: Any, student_run: Any, decoder_run: Any) -> None:
    def probabilities(image: Tensor, **changes: Any) -> Tensor:
        segmenter = open_segmenter(student_run.run, replace(CONFIG, source=source, **changes))
        return segmenter.probabilities([image])[0]

    image = noise(64, 64)
    usual = probabilities(image)
    assert usual.shape == (3, 64, 64)
    assert not torch.allclose(usual, probabilities(image, scales=(1.0, 1.5)), atol=1e-6)
    # With mirroring, a mirrored image gives the mirrored result; without, it does not.
    torch.testing.assert_close(probabilities(image.flip(-1)).flip(-1), usual, rtol=1e-3, atol=1e-5)
    alone = probabilities(image, flip_tta=False)
    assert not torch.allclose(probabilities(image.flip(-1), flip_tta=False).flip(-1), alone, atol=1e-6)
    # The pair's logits are summed, and alone they count twice: log p = 2 z - constant, (z + z') - constant.
    other = probabilities(image.flip(-1), flip_tta=False).flip(-1)
    torch.testing.assert_close((alone.log() + other.log()).div(2).softmax(dim=0), usual, rtol=1e-3, atol=1e-5)


@pytest.fixture
def make_segmenter(student_run: Any) -> Callable[..., Segmenter]:
    """A segmenter with another network: it gives 0.8 to the class of each pixel's brightest colour."""

    def network(images: Sequence[Tensor]) -> Tensor:
        brightest = torch.stack(list(images)).argmax(dim=1)
        return 0.1 + 0.7 * torch.nn.functional.one_hot(brightest, 3).movedim(-1, 1).float()

    def make(**changes: Any) -> Segmenter:
        return replace(open_segmenter(student_run.run, replace(CONFIG, **changes)), network=network)

    return make


@pytest.mark.parametrize("batch_size", [None, 5])
def test_segmenter__windows_of_a_network_that_labels_pixels_alone(
    batch_size: int | None, make_segmenter: Callable[..., Segmenter]
) -> None:
    images = [noise(70, 45, seed) for seed in range(2)]
    whole = make_segmenter().segment(images)
    parts = make_segmenter(window=32, batch_size=batch_size).segment(images)
    for image, one, pieces in zip(images, whole, parts, strict=True):
        assert torch.equal(one.label, image.argmax(dim=0).to(torch.uint8))
        assert torch.equal(pieces.label, one.label)
        assert pieces.probabilities is None


def test_segmenter__images_no_larger_than_a_window_are_seen_whole(student_run: Any) -> None:
    image = noise(50, 90)
    whole = open_segmenter(student_run.run, CONFIG)(image)
    assert torch.equal(open_segmenter(student_run.run, replace(CONFIG, window=90))(image), whole)
    assert not torch.equal(open_segmenter(student_run.run, replace(CONFIG, window=89))(image), whole)


def test_segmenter__a_window_is_like_an_image_of_its_own(student_run: Any) -> None:
    image = noise(40, 60)  # windows of 40 start at 0 and 20: centres are 20 and 40
    segmenter = open_segmenter(student_run.run, replace(CONFIG, window=40))
    expected = torch.cat([segmenter(image[:, :, :40])[:, :30], segmenter(image[:, :, 20:])[:, 10:]], dim=1)
    assert torch.equal(segmenter(image), expected)


def test_segmenter__crf_follows_the_image(student_run: Any) -> None:
    image = torch.zeros(3, 24, 32, dtype=torch.uint8)
    image[:, :, 16:] = 255
    unsure = torch.full((1, 3, 24, 32), 0.1)
    unsure[:, 0, :, :14] = unsure[:, 1, :, 14:] = 0.8  # two pixels beside the edge
    segmenter = open_segmenter(student_run.run, replace(CONFIG, crf=True, crf_backend="torch"))
    label = replace(segmenter, network=lambda _: unsure)(image)
    assert torch.equal(label, (image[0] > 0).to(torch.uint8))


def test_batch_size__of_the_device(student_run: Any) -> None:
    assert open_segmenter(student_run.run, CONFIG).batch_size == 1
    assert open_segmenter(student_run.run, replace(CONFIG, batch_size=3)).batch_size == 3
