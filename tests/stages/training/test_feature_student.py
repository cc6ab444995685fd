from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from data.dataset import IGNORE_INDEX, Sample
from data.errors import DataError
from data.pixel_rule import BandRange, PixelRule
from stages.corrections.given_masks import GivenMasks
from stages.features.cache import FeatureCache
from stages.networks.feature_network import FeatureHead
from stages.training import feature_student
from stages.training.feature_student import FeatureViews, LoadFeatures, feature_losses, label_weights

WIDTH, CLASSES = 3, 2


class Stored(FeatureCache):
    """Features and masks of images, in memory."""

    def __init__(self, values: Mapping[str, NDArray[Any]]) -> None:
        self.values = values

    def read(self, image_id: str) -> NDArray[Any]:
        return self.values[image_id]

    def close(self) -> None:
        pass


def loader(monkeypatch: pytest.MonkeyPatch, features: Any, mask: Any, head: FeatureHead, patches: int) -> LoadFeatures:
    monkeypatch.setattr(feature_student, "LabelFile", lambda *_: Stored({"a": mask}))
    return LoadFeatures(
        Stored({"a": features}),
        Path("nowhere"),
        head,
        patches,
        refined=False,
        given=GivenMasks(num_classes=head.num_classes),
    )


@pytest.fixture
def features() -> NDArray[np.float16]:
    """Of one image; the first feature is the number of the patch."""
    values = np.random.default_rng(0).normal(size=(WIDTH, 4, 5)).astype(np.float16)
    values[0] = np.arange(20).reshape(4, 5)
    return values


SAMPLE = Sample(id="a", image=Path("a.jpg"), classes=(1,), mask=None)


def views_of(load: LoadFeatures) -> FeatureViews:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return load(SAMPLE)


@pytest.mark.parametrize("kind", ["linear", "mlp", "conv"])
def test_load_features__windows_give_the_logits_of_the_whole_image(
    kind: str, features: NDArray[np.float16], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(1)
    head = FeatureHead(kind, WIDTH, CLASSES + 1).eval()
    head.mean.copy_(torch.tensor([8.0, 0.5, -0.25])[:, None, None])
    head.deviation.fill_(2.0)
    mask = np.zeros((8, 10), np.uint8)
    views = views_of(loader(monkeypatch, features, mask, head, 40))
    middle = head.reach
    places = views.features[:, 0, middle, middle].long()
    assert len(set(places.tolist())) > 10  # of 20; also at the border
    whole = head(torch.from_numpy(features)[None])[0].flatten(1)
    torch.testing.assert_close(head(views.features, whole=False).flatten(1), whole[:, places].T)


def test_load_features__shares_are_those_of_the_drawn_patches(
    features: NDArray[np.float16], monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = np.zeros((8, 10), np.uint8)  # two by two pixels a patch
    mask[:2, :2] = [[1, 1], [2, 0]]
    mask[:2, 2:4] = [[IGNORE_INDEX, 1], [IGNORE_INDEX, IGNORE_INDEX]]
    views = views_of(loader(monkeypatch, features, mask, FeatureHead("linear", WIDTH, CLASSES + 1), 400))
    expected = {0: [0.25, 0.5, 0.25], 1: [0, 0.25, 0], 2: [1, 0, 0], 19: [1, 0, 0]}
    places = views.features[:, 0, 0, 0].long().tolist()
    for place, shares in expected.items():
        assert views.shares[places.index(place)].tolist() == shares


def test_load_features__nothing_is_known_where_an_image_has_no_value(
    features: NDArray[np.float16], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The probabilities of relabelling go on there; masks are 255."""
    values = np.zeros((8, 10), np.float32)
    values[:2, :2], values[0, 3] = np.nan, np.nan  # the first patch, and a quarter of the second
    np.save(tmp_path / "a.npy", values)
    (tmp_path / "scores.h5").touch()
    rule = PixelRule(bands=(BandRange(number=1, low=0, high=1, mean=0.5, std=1),), count=1)
    scores = Stored({"a": np.full((1, 4, 5), 0.75, np.float16)})
    scores.classes = lambda image_id: (2,)  # type: ignore[attr-defined]
    monkeypatch.setattr(feature_student, "LabelFile", lambda *_: scores)
    head = FeatureHead("linear", WIDTH, CLASSES + 1)
    given = GivenMasks(num_classes=CLASSES + 1)
    load = LoadFeatures(Stored({"a": features}), tmp_path, head, 400, refined=False, given=given)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        views = load(replace(SAMPLE, image=tmp_path / "a.npy", pixels=rule))
    places = views.features[:, 0, 0, 0].long().tolist()
    for place, shares in {0: [0, 0, 0], 1: [0.25, 0, 0.75], 19: [0.25, 0, 0.75]}.items():
        assert views.shares[places.index(place)].tolist() == shares


def test_load_features__refuses_classes_that_do_not_exist(
    features: NDArray[np.float16], monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = np.full((8, 10), 3, np.uint8)
    with pytest.raises(DataError, match="the mask of 'a' has the value 3"):
        views_of(loader(monkeypatch, features, mask, FeatureHead("linear", WIDTH, CLASSES + 1), 4))


def test_feature_losses__are_the_mean_over_known_patches() -> None:
    class Fixed(torch.nn.Module):
        def forward(self, features: torch.Tensor, *, whole: bool) -> torch.Tensor:
            return torch.tensor([[2.0, 0.0], [0.0, 0.0], [1.0, 1.0]])[:, :, None, None]

    views = FeatureViews(torch.zeros(1, 3, 1, 1, 1), torch.tensor([[[1.0, 0.0], [0.5, 0.5], [0.0, 0.0]]]))
    first, second = np.log1p(np.exp(-2)), np.log(2)
    losses = feature_losses(torch.ones(2), Fixed(), views)
    assert losses["loss"].item() == pytest.approx((first + second) / 2)
    assert losses["labelled"].item() == pytest.approx(2 / 3)
    losses = feature_losses(torch.tensor([1.0, 3.0]), Fixed(), views)
    assert losses["loss"].item() == pytest.approx((first + 2 * second) / 3)
    assert losses["labelled"].item() == pytest.approx(2 / 3)


def test_label_weights__rare_classes_weigh_more_and_all_objects_what_they_cover(
    features: NDArray[np.float16], monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = np.zeros((8, 10), np.uint8)  # patches of 2 pixels
    mask[:2] = 2
    mask[:2, :2] = 1  # class 1 in one patch, class 2 in four
    load = loader(monkeypatch, features, mask, FeatureHead("linear", WIDTH, CLASSES + 1), 4)
    broken = replace(SAMPLE, id="broken")
    weights = label_weights(load, [SAMPLE, broken])
    assert weights[0] == 1
    assert float(weights[1] / weights[2]) == pytest.approx(2)
    assert float(weights[1] + 4 * weights[2]) == pytest.approx(5)
    assert label_weights(load, [broken]).tolist() == [1, 1, 1]
