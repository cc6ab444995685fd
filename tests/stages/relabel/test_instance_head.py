"""A data set whose objects are single patches: of an image, only one of 64 patches tells its class."""

import math
import weakref
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.dataset import Sample
from data.errors import DataError
from stages.features.cache import FeatureCache
from stages.relabel import instance_head
from stages.relabel.choose_instances import instance_classification
from stages.relabel.instance_head import (
    InstanceHead,
    best_starts,
    image_score,
    image_scores_of,
    images_in_memory,
    images_of_all_classes,
    train_instance_head,
)
from stages.relabel.patches import Patches

CLASSES, IMAGES, PATCHES, WIDTH = 2, 60, 64, 16
ALL = torch.ones(IMAGES, dtype=torch.bool)


def data_set(*, strength: float = 6.0) -> tuple[Patches, Tensor]:
    """A third of the images has each class, a third none. Returns where the objects are, too: (images, patches)."""
    generator = torch.Generator().manual_seed(0)
    own = torch.arange(IMAGES) % (CLASSES + 1)  # 0 is none
    where = torch.zeros(IMAGES, PATCHES, dtype=torch.long)
    where[torch.arange(IMAGES), torch.randint(PATCHES, (IMAGES,), generator=generator)] = own
    centres = torch.randn(CLASSES + 1, WIDTH, generator=generator)
    centres[0] = 0
    features = torch.randn(IMAGES, PATCHES, WIDTH, generator=generator) + strength * centres[where]
    shares = torch.zeros(IMAGES * PATCHES, CLASSES + 1, dtype=torch.float16)
    shares[:, 0] = 1
    return Patches(
        features=features.flatten(0, 1).half(),
        mean=torch.zeros(WIDTH),
        deviation=torch.ones(WIDTH),
        shares=shares,
        image=torch.arange(IMAGES, dtype=torch.int32).repeat_interleave(PATCHES),
        allowed=torch.nn.functional.one_hot(own, CLASSES + 1)[:, 1:].bool(),
    ), where.flatten()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The patches of these tests have few features."""
    monkeypatch.setattr(instance_head, "STARTS", 4)
    monkeypatch.setattr(instance_head, "STEPS", 80)
    monkeypatch.setattr(instance_head, "INSTANCE_LEARNING_RATE", 1e-2)
    monkeypatch.setattr(instance_head, "TOP_PATCHES", 1)


def test_train_instance_head__finds_single_patches() -> None:
    """The labels do not say where the objects are, and they are on 1 of 64 patches."""
    patches, where = data_set()
    found = train_instance_head(patches, ALL)(patches.features.float()).argmax(dim=1)
    assert (found[where > 0] == where[where > 0]).float().mean() > 0.9
    assert (found[where == 0] > 0).float().mean() < 0.01


def test_best_starts__each_class_has_its_own() -> None:
    """Of two heads, the first tells class 1 apart, the second class 2, by features that only their objects have."""
    patches, where = data_set(strength=0.0)
    patches.features[:, :2] = torch.nn.functional.one_hot(where, CLASSES + 1)[:, 1:].half()
    several = torch.nn.Linear(WIDTH, 2 * CLASSES)
    several.weight.data.zero_()
    several.weight.data[0, 0] = several.weight.data[3, 1] = 1.0
    images = torch.arange(IMAGES)
    assert best_starts(several, patches, images[:12], images).tolist() == [0, 1]
    # No held-out image has class 2: it is judged by all images.
    without = images[~patches.allowed[:, 1]]
    assert best_starts(several, patches, without[:12], images).tolist() == [0, 1]


def test_image_scores_of__memory_holds_the_scores_of_one_image() -> None:
    """Those of 60 heads on all patches may be many gigabytes."""
    kept: list[weakref.ref[Tensor]] = []

    class Watched(torch.nn.Linear):
        def forward(self, features: Tensor) -> Tensor:
            assert sum(one() is not None for one in kept) <= 1
            scores = super().forward(features)
            kept.append(weakref.ref(scores))
            return scores

    assert image_scores_of(Watched(WIDTH, 3), data_set()[0]).shape == (IMAGES, 3)
    assert len(kept) == IMAGES


def test_train_instance_head__few_images_without_a_class_show_it() -> None:
    """The threshold of a class is reached in 2 % of the 40 images without it: in 1 of them."""
    patches, _ = data_set(strength=0.0)  # nothing to find
    head = train_instance_head(patches, ALL)
    above = (head.scores(patches.features.float()) > head.threshold).unflatten(0, (IMAGES, PATCHES)).any(dim=1)
    for number in range(CLASSES):
        assert int(above[~patches.allowed[:, number], number].sum()) == 1


def test_train_instance_head__only_images_with_known_classes_teach() -> None:
    patches, where = data_set()
    wrong = torch.arange(IMAGES) % 4 == 0
    patches.allowed[wrong] = ~patches.allowed[wrong]
    found = train_instance_head(patches, ~wrong)(patches.features.float()).argmax(dim=1)
    assert (found[where > 0] == where[where > 0]).float().mean() > 0.9


def test_train_instance_head__drawn_patches_teach() -> None:
    """The class is nowhere to be seen, but people drew it where the last feature is large."""
    patches, _ = data_set(strength=0.0)
    drawn = patches.features[:, -1] > 1.5
    patches.shares[drawn] = torch.tensor([0.0, 1.0, 0.0]).half()
    patches.fixed = torch.ones(len(drawn), dtype=torch.bool)
    assert train_instance_head(patches, ALL).scores.weight[0].argmax() == WIDTH - 1


def test_train_instance_head__images_without_patches() -> None:
    """No pixel of the first and the last image has a value."""
    patches, where = data_set()
    left = (patches.image > 0) & (patches.image < IMAGES - 1)
    patches.features, patches.image, patches.shares = patches.features[left], patches.image[left], patches.shares[left]
    found = train_instance_head(patches, ALL)(patches.features.float()).argmax(dim=1)
    assert (found == where[left]).float().mean() > 0.97


class SmallFeatures(FeatureCache):
    """12 bytes of each image, or as many values as given."""

    def __init__(self, values: Mapping[str, int] = MappingProxyType({})) -> None:
        self.values = values

    def read(self, image_id: str) -> NDArray[np.float16]:
        return np.zeros((1, 1, self.values.get(image_id, 6)), np.float16)


def test_images_in_memory__keeps_rare_classes_and_drawn_masks(tmp_path: Path) -> None:
    """Memory for 4 of 100 images. One alone has class 2, one alone lacks class 1, and one has a mask."""
    rare, without = 70, 30
    samples = [
        Sample(
            id=str(one), image=tmp_path, classes=(() if one == without else (1, 2) if one == rare else (1,)), mask=None
        )
        for one in range(100)
    ]
    features = SmallFeatures()
    found = [one.id for one in images_in_memory(samples, features, first={"85"}, limit=50)]
    assert len(found) == 4
    assert {"30", "70", "85"} < {*found}
    assert found == sorted(found, key=int)
    assert images_in_memory(samples, features, limit=1200) == samples


def test_images_of_all_classes__keep_images_without_a_class_that_most_have(tmp_path: Path) -> None:
    """Of 2,000 images, 40 lack class 20; each of the other 19 classes is in 10 images."""
    samples = [
        Sample(
            id=str(one),
            image=tmp_path,
            classes=(*((one % 200 + 1,) if one % 200 < 19 else ()), *((20,) if one % 50 else ())),
            mask=None,
        )
        for one in range(2000)
    ]
    found = images_of_all_classes(samples, 100)
    assert len(found) == 100
    assert sum(20 not in one.classes for one in found) >= 25
    for number in range(1, 20):
        assert any(number in one.classes for one in found)


def test_images_in_memory__of_several_shapes(tmp_path: Path) -> None:
    """The first image is narrow; the mean image has 6 values, 12 bytes."""
    samples = [Sample(id=one, image=tmp_path, classes=(1,), mask=None) for one in "abcd"]
    features = SmallFeatures({"a": 1, "b": 7, "c": 8, "d": 8})
    assert len(images_in_memory(samples, features, limit=36)) == 3


def test_train_instance_head__a_class_in_all_images() -> None:
    patches, _ = data_set()
    patches.allowed[:, 1] = True
    with pytest.raises(DataError, match="class 2 is in all images, and --relabel mil learns from the difference"):
        train_instance_head(patches, ALL)


def test_InstanceHead__probabilities() -> None:
    """By hand: a score at its threshold has 0.5, and classes that the image does not have have none."""
    head = InstanceHead(torch.zeros(2), torch.ones(2), classes=2)
    head.scores.weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    head.scores.bias.data.zero_()
    head.threshold.copy_(torch.tensor([1.0, 0.0]))
    first, second = head(torch.tensor([[1.0, 5.0], [1.1, -2.0]]), torch.tensor([[True, False]]))
    torch.testing.assert_close(first, torch.tensor([0.5, 0.5, 0.0]))
    torch.testing.assert_close(second, torch.tensor([0.1192, 0.8808, 0.0]), atol=1e-4, rtol=0)
    torch.testing.assert_close(head(torch.zeros(1, 2), torch.tensor([[False, False]])), torch.tensor([[1.0, 0.0, 0.0]]))


def test_image_score__mean_of_the_largest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instance_head, "TOP_PATCHES", 2)
    torch.testing.assert_close(
        image_score(torch.tensor([[1.0, 0.0], [5.0, -1.0], [3.0, -3.0]])), torch.tensor([4.0, -0.5])
    )
    torch.testing.assert_close(image_score(torch.tensor([[1.0, 7.0]])), torch.tensor([1.0, 7.0]))


def test_instance_classification__judges_images_that_were_not_learned() -> None:
    """With objects nearly all images are right; without, as good as chance, although each half is learned by heart."""
    steps: list[None] = []
    assert instance_classification(data_set()[0], lambda: steps.append(None)) > 0.9
    assert len(steps) == 4 * instance_head.STEPS
    assert instance_classification(data_set(strength=0.0)[0]) < 0.6


def test_instance_classification__one_image_with_patches() -> None:
    """No pixel of the others has a value, so that nothing is left to judge."""
    patches, _ = data_set()
    left = patches.image == 3
    patches.features, patches.image, patches.shares = patches.features[left], patches.image[left], patches.shares[left]
    assert math.isnan(instance_classification(patches))
