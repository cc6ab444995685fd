from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from data.dataset import Sample
from data.errors import DataError
from stages.networks.cam_model import load_cam_model
from stages.networks.inference import (
    class_label_matrix,
    decoder_probabilities,
    load_image,
    resize_maps,
    square_cams,
    to_tensor,
)
from stages.run_folder.artifacts import open_stage
from stages.toco.cam import PresentClasses, fuse_scales, present_classes
from stages.toco.model import ToCo


@pytest.fixture
def model(trained_run: Path) -> ToCo:
    return load_cam_model(open_stage(trained_run, "cam"))


@pytest.fixture
def images() -> Tensor:
    return torch.randint(0, 256, (2, 3, 32, 32), generator=torch.Generator().manual_seed(0)).byte()


def sample(path: Path, *classes: int) -> Sample:
    return Sample(id=path.stem, image=path, classes=classes, mask=None)


def test_load_image__squashed_and_as_it_is(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "a.png")
    loaded = load_image(sample(tmp_path / "a.png"), 16)
    assert loaded.squashed.shape == (3, 16, 16)
    assert loaded.squashed.dtype == torch.uint8
    np.testing.assert_array_equal(loaded.original.permute(1, 2, 0).numpy(), values)


def test_load_image__unreadable(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.png is missing"):
        load_image(sample(tmp_path / "a.png"), 16)


def test_to_tensor__is_a_copy() -> None:
    image = Image.new("RGB", (3, 2), (1, 2, 3))
    tensor = to_tensor(image)
    tensor[:] = 0
    assert tensor.shape == (3, 2, 3)
    assert image.getpixel((0, 0)) == (1, 2, 3)


def test_square_cams__by_the_rule_of_section_2(model: ToCo, images: Tensor) -> None:
    labels = torch.tensor([[0.0, 1.0], [1.0, 1.0]])
    cams = square_cams(model, images, present_classes(labels), (1.0, 0.5))
    raw = []
    with torch.inference_mode():
        for side in (32, 16):
            scaled = F.interpolate(
                model.backbone.normalise(images.float()), (side, side), mode="bilinear", align_corners=False
            )
            raw.append(model.raw_cams(torch.cat([scaled, scaled.flip(-1)])))
    final = fuse_scales([one.final for one in raw], (32, 32))
    auxiliary = fuse_scales([one.auxiliary for one in raw], (32, 32))
    for mine, theirs in ((cams.final, final), (cams.auxiliary, auxiliary)):
        torch.testing.assert_close(mine[0, 0], theirs[0, 1])
        torch.testing.assert_close(mine[1], theirs[1])
        assert not mine[0, 1].any()  # a filler: the first image has one class


def test_square_cams__mirror_image_gives_the_mirror_cam(model: ToCo, images: Tensor) -> None:
    present = PresentClasses(torch.tensor([[0, 1]] * 2), torch.ones(2, 2))
    straight = square_cams(model, images, present, (1.0, 1.5))
    mirrored = square_cams(model, images.flip(-1), present, (1.0, 1.5))
    for mine, theirs in zip(straight, mirrored, strict=True):
        torch.testing.assert_close(mine.flip(-1), theirs, rtol=1e-4, atol=1e-5)
        assert mine.min() >= 0
        assert 0.9 < mine.amax(dim=(2, 3)).max() < 1


def test_square_cams__images_without_any_class(model: ToCo, images: Tensor) -> None:
    cams = square_cams(model, images, present_classes(torch.zeros(2, 2)), (1.0,))
    assert not cams.final.any()
    assert not cams.auxiliary.any()


@pytest.mark.parametrize("side", [32, 40, 33, 47])
def test_square_cams__sizes(model: ToCo, side: int) -> None:
    images = torch.zeros(1, 3, side, side, dtype=torch.uint8)
    cams = square_cams(model, images, present_classes(torch.ones(1, 2)), (1.0, 0.5, 1.5))
    assert cams.final.shape == cams.auxiliary.shape == (1, 2, side, side)


def test_decoder_probabilities__one_scale_by_hand(model: ToCo, images: Tensor) -> None:
    probabilities = decoder_probabilities(model, images, (1.0,))
    with torch.inference_mode():
        normalised = model.backbone.normalise(images.float())
        straight, mirrored = (model(one).seg_logits for one in (normalised, normalised.flip(-1)))
        both = [F.interpolate(one, (32, 32), mode="bilinear", align_corners=False) for one in (straight, mirrored)]
        expected = (both[0] + both[1].flip(-1)).softmax(dim=1)
    torch.testing.assert_close(probabilities, expected)


def test_decoder_probabilities__scales(model: ToCo, images: Tensor) -> None:
    probabilities = decoder_probabilities(model, images)
    assert probabilities.shape == (2, 3, 32, 32)
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(2, 32, 32))
    mirrored = decoder_probabilities(model, images.flip(-1)).flip(-1)
    torch.testing.assert_close(probabilities, mirrored, rtol=1e-4, atol=1e-5)
    # The larger of two scales' sums, class by class, before the softmax.
    one, other, both = (decoder_probabilities(model, images, scales).log() for scales in ((1.0,), (1.5,), (1.0, 1.5)))
    assert not torch.allclose(one, both)
    assert not torch.allclose(other, both)
    with pytest.raises(ValueError, match="at least one scale"):
        decoder_probabilities(model, images, ())


def test_resize_maps__bilinear() -> None:
    maps = torch.tensor([[[0.0, 1.0]]])
    torch.testing.assert_close(resize_maps(maps, (2, 4)), torch.tensor([[[0, 0.25, 0.75, 1]] * 2]))
    assert resize_maps(maps.half(), (3, 3)).dtype == torch.float32


def test_class_label_matrix__by_hand(tmp_path: Path) -> None:
    samples = [sample(tmp_path / "a", 2, 3), sample(tmp_path / "b"), sample(tmp_path / "c", 1)]
    assert class_label_matrix(samples, 3).tolist() == [[0, 1, 1], [0, 0, 0], [1, 0, 0]]
