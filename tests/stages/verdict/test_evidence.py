from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from torch import nn

from data.dataset import Sample
from data.readers import open_dataset
from stages.config import TrainCam
from stages.features.cache import FeatureCache
from stages.features.spec import FeatureSpec
from stages.labels.mask_shares import all_shares
from stages.relabel.patches import Patches
from stages.run_folder.artifacts import begin_stage
from stages.verdict import evidence
from stages.verdict.evidence import area_under_curve, collect_evidence, held_out


def sample(name: str, *classes: int) -> Sample:
    return Sample(id=name, image=Path(f"{name}.png"), classes=classes, mask=None)


@pytest.mark.parametrize(
    ("with_class", "without", "area"),
    [([3.0, 2.0], [1.0, 0.0], 1.0), ([0.0], [1.0, 2.0], 0.0), ([1.0], [1.0], 0.5), ([2.0, 0.0], [1.0], 0.5)],
)
def test_area_under_curve__by_hand(with_class: list[float], without: list[float], area: float) -> None:
    assert area_under_curve(torch.tensor(with_class), torch.tensor(without)) == pytest.approx(area)


def test_all_shares__ignored_pixels_count_for_no_class() -> None:
    shares = all_shares(np.array([[0, 1, 255, 255], [1, 1, 255, 2]], np.uint8), 2, (1, 2))
    torch.testing.assert_close(shares[:, 0], torch.tensor([[0.25, 0.0], [0.75, 0.0], [0.0, 0.25]]))


def test_held_out__masks_that_a_head_finds_again_and_masks_that_it_does_not() -> None:
    # Four images of two patches. The head takes the feature for the class; the second class's masks are wrong.
    features = torch.eye(3)[[0, 1, 0, 1, 0, 2, 0, 2]].half()
    labels = torch.tensor([0, 1, 0, 1, 2, 0, 2, 0])
    patches = Patches(
        features=features,
        mean=torch.zeros(3),
        deviation=torch.ones(3),
        shares=torch.eye(3)[labels].half(),
        image=torch.arange(4).repeat_interleave(2).int(),
        allowed=torch.tensor([[True, False], [True, False], [False, True], [False, True]]),
    )
    head = nn.Linear(3, 3, bias=False)
    head.weight.data = 10 * torch.eye(3)
    images = [sample("a", 1), sample("b", 1), sample("c", 2), sample("d", 2)]
    found = held_out(images, patches, [(torch.arange(4), head)])
    assert found.repeated == {1: 1.0, 2: 0.0}
    assert found.told_apart == {1: 1.0, 2: 1.0}
    assert found.images == {"a": 1.0, "b": 1.0, "c": 0.0, "d": 0.0}


def test_held_out__images_without_patches_are_left_out() -> None:
    patches = Patches(
        features=torch.eye(3)[[0, 1, 0]].half(),
        mean=torch.zeros(3),
        deviation=torch.ones(3),
        shares=torch.eye(3)[[0, 1, 0]].half(),
        image=torch.tensor([0, 0, 2], dtype=torch.int32),
        allowed=torch.tensor([[True, False], [True, False], [False, True]]),
    )
    head = nn.Linear(3, 3, bias=False)
    head.weight.data = 10 * torch.eye(3)
    found = held_out([sample("a", 1), sample("no value", 1), sample("c", 2)], patches, [(torch.arange(3), head)])
    assert found.images == {"a": 1.0, "c": 0.0}
    assert found.told_apart[1] == 1.0  # a score of 0 of the image without patches would be one of two


@pytest.fixture
def with_gaps(labelled_run_in: Any, tmp_path: Path) -> Any:
    """A run without ground truth. The last 4 of 64 rows of the image a have no value, and no pixel of c."""
    made = labelled_run_in(tmp_path)
    for path in (made.data / "masks").rglob("*.png"):
        path.unlink()
    cam = TrainCam(backbone="vit_tiny_patch16_224", weights="none", image_size=64, device="cpu")
    begin_stage(made.run, "cam", settings=cam, dataset=open_dataset(made.data))
    (made.run / "cam" / "model.safetensors").touch()
    for name, rows in (("a", 60), ("c", 0)):
        values = np.full((64, 64, 3), 9, np.uint8)
        values[rows:] = 0
        tag = [(42113, "s", 2, "0", True)]  # 0 is no value
        tifffile.imwrite(made.data / "images" / f"{name}.png", values, photometric="rgb", extratags=tag)
    return made


def test_collect_evidence__covers_are_of_the_pixels_with_a_value(with_gaps: Any, listener: Any) -> None:
    monitor = listener()
    found = collect_evidence(with_gaps.run, open_dataset(with_gaps.data), monitor)
    red, blue = found.classes
    assert (found.examined, red.examined, blue.examined) == (3, 1, 2)
    assert red.cover == pytest.approx(32 * 36 / (60 * 64))
    assert red.patches == pytest.approx(32 * 36 / (64 * 64) * 4**2)  # of the whole image, as the network gets it
    assert monitor.warnings == []
    dataset = open_dataset(with_gaps.data)
    (with_gaps.data / "images" / "a.png").unlink()
    assert collect_evidence(with_gaps.run, dataset, monitor).classes[0].cover == 32 * 36 / (64 * 64)
    (text,) = monitor.warnings
    assert text.startswith("judged as if all pixels of 'a' had a value: ")


def test_collect_evidence__heads_get_no_patches_without_a_value(
    with_gaps: Any, listener: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = open_dataset(with_gaps.data)
    spec = FeatureSpec(backbone="any", backbone_options={}, weights="none", digest=None, long_side=64, blocks=())
    values = np.zeros((2, 16, 16), np.float16)
    FeatureCache(with_gaps.run, spec).add([(one, values) for one in dataset.split("train")])
    seen: list[Patches] = []

    def held_out_heads(patches: Patches) -> list[Any]:
        seen.append(patches)
        return []

    monkeypatch.setattr(evidence, "held_out_heads", held_out_heads)
    collect_evidence(with_gaps.run, dataset, listener())
    (patches,) = seen
    assert patches.image.bincount().tolist() == [15 * 16, 16 * 16, 16 * 16]  # of a, b, deep/d
