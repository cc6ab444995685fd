"""Which images the comparison of network and head is made on."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock, Mock

import pytest
import torch

from data.dataset import Sample
from stages.config import MakeLabels
from stages.labels.maker import LabelMaker
from stages.relabel import choose_instances, instance_head
from stages.relabel.choose_instances import halves, learns_from_instances
from stages.relabel.patches import Patches


def test_learns_from_instances__draws_rare_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """40 of 2,000 images. 3 have class 2, and 3 lack class 1."""
    samples = [
        Sample(
            id=str(one),
            image=tmp_path,
            classes=(*((1,) if one % 700 != 50 else ()), *((2,) if one % 700 == 500 else ())),
            mask=None,
        )
        for one in range(2000)
    ]
    drawn: list[Sample] = []

    def learned(some: Sequence[Sample], maker: object) -> float:
        drawn.extend(some)
        return 1.0

    monkeypatch.setattr(choose_instances, "network_classification", learned)
    monkeypatch.setattr(choose_instances, "CLASSIFIED_IMAGES", 40)
    maker = Mock(spec=LabelMaker, model=SimpleNamespace(num_classes=2))
    assert not learns_from_instances(tmp_path, samples, maker, MakeLabels())
    assert len(drawn) == 40
    assert sum(2 in one.classes for one in drawn) == 3
    assert sum(1 not in one.classes for one in drawn) == 3


def test_learns_from_instances__shows_the_progress_of_the_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listener: Any
) -> None:
    """It takes half a minute with 100 images."""
    samples = [Sample(id=str(one), image=tmp_path, classes=(1,) * (one % 2), mask=None) for one in range(40)]
    patches = Patches(
        features=torch.randn(40, 3),
        mean=torch.zeros(3),
        deviation=torch.ones(3),
        shares=torch.zeros(40, 2),
        image=torch.arange(40),
        allowed=torch.tensor([[bool(one.classes)] for one in samples]),
    )
    for name, found in {"network_classification": 0.5, "feature_spec": None, "open_stage": None}.items():
        monkeypatch.setattr(choose_instances, name, Mock(return_value=found))
    monkeypatch.setattr(choose_instances, "compute_features", MagicMock())
    monkeypatch.setattr(choose_instances, "unlabelled_patches", Mock(return_value=patches))
    monkeypatch.setattr(instance_head, "STEPS", 5)
    maker = Mock(spec=LabelMaker, model=SimpleNamespace(num_classes=1), monitor=listener(), fabric=None)
    learns_from_instances(tmp_path, samples, maker, MakeLabels())
    assert maker.monitor.calls == ["start", *["advance"] * 20, "finish", "warn"]


def test_halves__divide_rare_classes_evenly() -> None:
    """Of 60 images, 2 have class 2, 4 class 3, and half class 1; an image that is not among them has all."""
    present = torch.zeros(61, 3, dtype=torch.bool)
    present[::2, 0] = True
    present[[6, 33, 60], 1] = True
    present[[11, 19, 38, 50, 60], 2] = True
    first, second = halves(torch.arange(60), present)
    assert sorted([*first.tolist(), *second.tolist()]) == list(range(60))
    for half in (first, second):
        assert present[half].sum(dim=0)[1:].tolist() == [1, 2]
        common = half[~present[half, 0] & ~present[half, 1:].any(dim=1)].tolist()
        assert common != sorted(common)  # shuffled, because data sets are often sorted
    nothing = torch.arange(0)
    assert [len(half) for half in halves(nothing, present)] == [0, 0]
