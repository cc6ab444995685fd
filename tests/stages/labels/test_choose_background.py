from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from data.dataset import Sample
from data.errors import DataError
from data.readers import open_dataset
from stages.config import MakeLabels
from stages.labels.choose_background import (
    GRID,
    agreement,
    calibration_samples,
    choose_background,
    reduced,
    sharpened_labels,
    token_contrast,
)
from stages.labels.maker import Scored
from stages.runtime.monitor import SilentMonitor
from stages.toco.metrics import Confusion

CONFIG = MakeLabels(device="cpu", background_threshold="auto")
SIZE = (24, 36)
NAMES = ("red",)


def object_mask() -> Tensor:
    mask = torch.zeros(SIZE, dtype=torch.bool)
    mask[6:18, 8:24] = True
    return mask


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    """Four images of an object of its own colour, with ground-truth masks."""
    generator = np.random.default_rng(0)
    inside = object_mask().numpy()
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for name in "abcd":
        picture = np.where(inside[..., None], (200, 60, 40), (40, 90, 180)) + generator.integers(-6, 6, (*SIZE, 3))
        Image.fromarray(picture.astype(np.uint8)).save(tmp_path / "images" / f"{name}.png")
        Image.fromarray(inside.astype(np.uint8)).save(tmp_path / "masks" / f"{name}.png")
    (tmp_path / "labels.csv").write_text("image,labels\n" + "".join(f"{name}.png,red\n" for name in "abcd"))
    return list(open_dataset(tmp_path).split())


def scores(chosen: Sequence[Sample], **more: object) -> Iterator[Scored]:
    """CAMs that fall off from the object's middle: 0.45 or more on it, 0.25 or less off it, noise on both."""
    generator = torch.Generator().manual_seed(1)
    for sample in chosen:
        image = torch.from_numpy(np.array(Image.open(sample.image))).permute(2, 0, 1)
        cam = torch.where(object_mask(), 0.5, 0.1) + 0.1 * torch.rand(SIZE, generator=generator)
        tokens = F.interpolate(image[None].float(), size=(8, 12), mode="area")[0]  # similar where colours are similar
        yield Scored(sample, image, cam[None], tokens=tokens)


def test_choose_background__without_masks(samples: list[Sample]) -> None:
    assert 0.2 <= choose_background(scores, samples, 1, CONFIG, SilentMonitor()) <= 0.5


def test_choose_background__by_ground_truth(samples: list[Sample], listener: Any) -> None:
    config = MakeLabels(device="cpu", calibration_images=2)
    seen: list[str] = []

    def recorded(chosen: Sequence[Sample], **more: object) -> Iterator[Scored]:
        seen.extend(sample.id for sample in chosen)
        return scores(chosen, **more)

    monitor = listener()
    chosen = calibration_samples(samples, NAMES, config, monitor)
    assert 0.2 <= choose_background(recorded, chosen, 1, config, monitor) <= 0.5
    assert seen == ["a", "c"]
    assert any(text.endswith("chosen with ground truth on 2 images") for text in monitor.notes)


def test_choose_background__nothing_to_choose_by(samples: list[Sample], tmp_path: Path) -> None:
    for path in (tmp_path / "masks").iterdir():
        path.unlink()
    samples = list(open_dataset(tmp_path).split())
    config = MakeLabels(calibration_images=3)
    chosen = calibration_samples(samples, NAMES, config, SilentMonitor())
    with pytest.raises(DataError, match="no image has a usable ground-truth mask to choose the background threshold"):
        choose_background(scores, chosen, 1, config, SilentMonitor())
    with pytest.raises(DataError, match="no image has a class to choose the background threshold by"):
        choose_background(scores, [], 1, CONFIG, SilentMonitor())


def test_calibration_samples__bad_masks(samples: list[Sample], tmp_path: Path, listener: Any) -> None:
    Image.new("L", (3, 3)).save(tmp_path / "masks" / "c.png")
    with pytest.raises(DataError, match=r"c\.png is 3 x 3 "):
        calibration_samples(samples, NAMES, MakeLabels(calibration_images=4), SilentMonitor())
    monitor = listener()
    config = MakeLabels(calibration_images=4, skip_bad=True)
    assert "c" not in {one.id for one in calibration_samples(samples, NAMES, config, monitor)}
    assert "not evaluated: " in monitor.warnings[0]
    assert "c.png is 3 x 3 " in monitor.warnings[0]


def test_token_contrast__is_highest_where_labels_fit(samples: list[Sample]) -> None:
    (one,) = scores(samples[:1])
    assert one.tokens is not None
    contrast = token_contrast(one.tokens, one.maps)
    assert contrast.shape == (len(GRID),)
    assert 0.2 <= GRID[int(contrast.argmax())] <= 0.5
    assert contrast.max() > contrast[0] + 0.1


def test_sharpened_labels__one_for_each_score(samples: list[Sample]) -> None:
    (one,) = scores(samples[:1])
    labels = sharpened_labels(one.image, one.maps, CONFIG)
    assert labels.shape == (15, *SIZE)
    assert labels[0].float().mean() > labels[-1].float().mean()


def test_reduced__only_large_images() -> None:
    image, cam = torch.full((3, 400, 500), 7, dtype=torch.uint8), torch.full((2, 400, 500), 0.25).half()
    same_image, same_cam = reduced(image, cam)
    assert same_image is image
    assert (same_cam.dtype, same_cam.shape) == (torch.float32, (2, 400, 500))
    large, cam = image.repeat(1, 2, 2), cam.repeat(1, 2, 2)
    small_image, small_cam = reduced(large, cam)
    assert (small_image.shape, small_cam.shape) == ((3, 400, 500), (2, 400, 500))
    assert set(small_image.flatten().tolist()) == {7}
    assert set(small_cam.flatten().tolist()) == {0.25}


def test_grid__ascends_within_0_and_1() -> None:
    assert list(GRID) == sorted(set(GRID))
    assert 0 < GRID[0] < GRID[-1] < 1


def test_agreement__of_two_label_maps_by_hand() -> None:
    confusion = Confusion(4)
    confusion.add(torch.tensor([[0, 0, 1, 1]]), torch.tensor([[0, 1, 1, 2]]))
    # 0: 1 of 2; 1: 1 of 3; 2: 0 of 1; 3 is in neither.
    assert agreement(confusion) == pytest.approx((1 / 2 + 1 / 3 + 0 + 0) / 4)
