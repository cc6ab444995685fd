"""What the heads of relabelling learn from."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from data.dataset import Sample
from data.errors import DataError
from data.pixel_rule import BandRange, PixelRule
from stages.config import MakeLabels
from stages.corrections.given_masks import GivenMasks
from stages.labels.store import LabelFile
from stages.relabel import relabel_maker
from stages.relabel.choose_heads import Chosen
from stages.relabel.heads import TwoHeads
from stages.relabel.patches import Patches
from stages.relabel.relabel_maker import SeedTraining

RULE = PixelRule(bands=(BandRange(number=1, low=0, high=1, mean=0.5, std=1),), count=1)
CONFIG = MakeLabels(background_threshold=0.5)


class OneClass(LabelFile):
    """The same CAM for each image, which shows one class everywhere."""

    def __init__(self) -> None:
        pass

    def read(self, image_id: str) -> NDArray[Any]:
        return np.ones((1, 2, 3), np.float16)

    def classes(self, image_id: str) -> tuple[int, ...]:
        return (1,)


@pytest.fixture
def patches(tmp_path: Path) -> Callable[..., Patches]:
    """Load the patches, two by three in each image, of images that have no value in the given rows and columns."""

    def load(*missing: tuple[slice, slice], config: MakeLabels = CONFIG) -> Patches:
        samples = []
        for number, place in enumerate(missing):
            values = np.zeros((8, 12), np.float32)
            values[place] = np.nan
            path = tmp_path / f"{number}.npy"
            np.save(path, values)
            samples.append(Sample(id=path.stem, image=path, classes=(1,), mask=None, pixels=RULE))
        training: Any = SimpleNamespace(
            cams=OneClass(),
            features=SimpleNamespace(read=lambda _: np.arange(6, dtype=np.float16).reshape(1, 2, 3)),
            maker=SimpleNamespace(model=SimpleNamespace(num_classes=1), fabric=SimpleNamespace(device="cpu")),
        )
        return SeedTraining.patches(training, samples, config, ())

    return load


def test_patches__without_a_value_are_left_out(patches: Callable[..., Patches]) -> None:
    whole = patches((slice(0), slice(0)), (slice(0), slice(0)))
    assert len(whole.features) == 12
    found = patches((slice(4), slice(7)), (slice(8), slice(12)))  # two patches and some pixels of a third; all
    assert found.image.tolist() == [0, 0, 0, 0]
    numbers = found.features.float() * found.deviation + found.mean
    torch.testing.assert_close(numbers[:, 0], torch.tensor([2.0, 3.0, 4.0, 5.0]), rtol=0, atol=0.01)
    assert found.allowed.shape == (2, 1)


def test_patches__no_image_has_a_value(patches: Callable[..., Patches]) -> None:
    with pytest.raises(DataError, match=r"no image has pixels with a value .*: use --relabel none"):
        patches((slice(8), slice(12)))


def test_patches__mil_keeps_all(patches: Callable[..., Patches], monkeypatch: pytest.MonkeyPatch) -> None:
    """Any patch may be the object. Memory holds three of six patches of an image, which is for other heads."""
    monkeypatch.setattr(relabel_maker, "BYTES", 6)
    assert len(patches((slice(0), slice(0))).features) == 3
    assert len(patches((slice(0), slice(0)), config=replace(CONFIG, relabel="mil")).features) == 6


def test_heads__mil_learns_from_given_image_labels_that_memory_holds(
    tmp_path: Path, listener: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two images have image labels, of the third the network predicted them, and memory holds one image."""
    samples = [
        Sample(id=name, image=tmp_path / name, classes=(1,), mask=None, labelled=name != "predicted")
        for name in ("predicted", "first", "second")
    ]
    offered, monitor = [], listener()

    def one_image(usable: list[Sample], features: Any, first: Any) -> list[Sample]:
        offered.extend([sample.id for sample in usable])
        return usable[:1]

    monkeypatch.setattr(relabel_maker, "images_in_memory", one_image)
    monkeypatch.setattr(relabel_maker, "chosen_heads", lambda patches, labelled, *_: offered.append(labelled.tolist()))
    training: Any = SimpleNamespace(
        cams=SimpleNamespace(class_names=("cat",)),
        features=None,
        given=GivenMasks(num_classes=1),
        maker=SimpleNamespace(monitor=monitor),
        patches=lambda *_: None,
    )
    SeedTraining.heads(training, samples, replace(CONFIG, relabel="mil"), ())
    assert offered == ["first", "second", [True]]
    assert monitor.notes == ["--relabel mil learns from 1 of 2 images: their features take at most 2 GiB"]
    with pytest.raises(DataError, match="no image has known classes"):
        SeedTraining.heads(training, samples[:1], replace(CONFIG, relabel="mil"), ())


@pytest.mark.parametrize("taken", [True, False])
def test_heads__tells_of_exchanged_classes_of_the_new_masks(
    tmp_path: Path, listener: Any, monkeypatch: pytest.MonkeyPatch, taken: bool
) -> None:
    """If the masks of the CAMs stay, there is nothing to tell."""
    heads = TwoHeads(torch.zeros(1), torch.ones(1), 2)
    monkeypatch.setattr(relabel_maker, "chosen_heads", lambda *_: Chosen("linear", heads, ((0, 1),)) if taken else None)
    monitor = listener()
    training: Any = SimpleNamespace(
        cams=SimpleNamespace(class_names=("body", "face")),
        given=GivenMasks(num_classes=2),
        maker=SimpleNamespace(monitor=monitor),
        patches=lambda *_: None,
    )
    samples = [Sample(id="a", image=tmp_path / "a", classes=(1, 2), mask=None)]
    SeedTraining.heads(training, samples, replace(CONFIG, relabel="auto"), ())
    assert [
        note.startswith("relabelling: 'body' and 'face' occur in nearly the same images") for note in monitor.notes
    ] == [True] * taken
