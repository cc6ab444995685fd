"""Choosing heads on a data set of patches whose right labels are known: classes and background are clusters."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from stages.config import MakeLabels
from stages.relabel import choose_heads, heads
from stages.relabel.choose_heads import Chosen, chosen_heads, head_classification, objects_share, refinement_stays
from stages.relabel.heads import TwoHeads, one_hot
from stages.relabel.patches import Patches
from stages.runtime.monitor import SilentMonitor

CLASSES, IMAGES, GRID = 3, 24, 8
ALL = torch.ones(IMAGES, dtype=torch.bool)
Seeds = Callable[[Tensor, torch.Generator], Tensor]
CONFIG = MakeLabels(relabel_rounds=1, relabel_steps=20)  # how good the new labels are is given


def data_set(seeds: Seeds, *, classes: int = CLASSES) -> Patches:
    """Images of one class each; `seeds` turns the right labels (images, h, w) into those of the CAMs."""
    generator = torch.Generator().manual_seed(0)
    centres = 1.5 * torch.randn(classes + 1, 16, generator=generator)
    centres[1:] += 4 * torch.randn(16, generator=generator)  # what objects have in common
    own = torch.arange(IMAGES) % classes
    truth = torch.zeros(IMAGES, GRID, GRID, dtype=torch.long)
    truth[:, 2:6, 1:5] = own[:, None, None] + 1
    features = centres[truth] + 1.0 * torch.randn(IMAGES, GRID, GRID, 16, generator=generator)
    return Patches(
        features=features.flatten(0, 2).half(),
        mean=torch.zeros(16),
        deviation=torch.ones(16),
        shares=one_hot(seeds(truth, generator).flatten(), classes),
        image=torch.arange(IMAGES, dtype=torch.int32).repeat_interleave(GRID * GRID),
        allowed=torch.nn.functional.one_hot(own, classes).bool(),
    )


def misplaced(truth: Tensor, generator: torch.Generator) -> Tensor:
    """The labels lie beside the objects."""
    return truth.roll(4, dims=2)


def right(truth: Tensor, generator: torch.Generator) -> Tensor:
    return truth


class Notes(SilentMonitor):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The patches of these tests are few and have few features."""
    monkeypatch.setattr(heads, "PATCHES_PER_STEP", 256)
    monkeypatch.setattr(heads, "PROBE_LEARNING_RATE", 1e-2)
    monkeypatch.setattr(heads, "PROBE_STEPS", 100)


@pytest.mark.parametrize("classes", [2, 3])  # with two, the classes of the images alternate
def test_head_classification__better_labels_teach_more(classes: int) -> None:
    found = [head_classification(data_set(seeds, classes=classes), ALL) for seeds in (right, misplaced)]
    assert found[0] > 0.9
    assert found[1] < 0.7


def test_head_classification__predicted_classes_do_not_judge() -> None:
    """The classes of half of the images are wrong."""
    patches = data_set(right)
    wrong = torch.arange(IMAGES) % 4 < 2
    patches.allowed[wrong] = patches.allowed[wrong].roll(1, dims=1)
    assert head_classification(patches, ~wrong) > 0.9 > head_classification(patches, ALL)


@pytest.mark.parametrize("images", [1, 2])
def test_head_classification__of_very_few_images(images: int) -> None:
    patches = data_set(right)
    own = patches.image < images
    few = Patches(
        features=patches.features[own],
        mean=patches.mean,
        deviation=patches.deviation,
        shares=patches.shares[own],
        image=patches.image[own],
        allowed=patches.allowed[:images],
    )
    assert math.isnan(head_classification(few, ALL[:images]))


@pytest.mark.parametrize(("before", "after", "taken"), [(misplaced, right, True), (right, misplaced, False)])
def test_chosen_heads__auto_takes_the_better_labels(
    before: Seeds, after: Seeds, taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def relabel(patches: Patches, **_: Any) -> TwoHeads:
        patches.shares = data_set(after).shares
        return TwoHeads(patches.mean, patches.deviation, CLASSES)

    monkeypatch.setattr(choose_heads, "relabel_rounds", relabel)
    monitor = Notes()
    chosen = chosen_heads(data_set(before), ALL, CONFIG, monitor)
    assert (chosen and chosen[0]) == ("linear" if taken else None)
    assert any("the new masks are taken" in note for note in monitor.notes) == taken
    assert any("--calibration-images 10" in note for note in monitor.notes) == (not taken)


def test_chosen_heads__auto_says_that_one_class_in_all_images_tells_nothing() -> None:
    monitor = Notes()
    assert chosen_heads(data_set(right, classes=1), ALL, CONFIG, monitor) is None
    assert "cannot tell" in monitor.notes[-1]


def test_chosen_heads__auto_says_where_the_evidence_is_weak(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = iter([0.5, 0.495])
    monkeypatch.setattr(choose_heads, "head_classification", lambda patches, labelled: next(figures))
    monitor = Notes()
    assert chosen_heads(data_set(misplaced), ALL, CONFIG, monitor) is not None
    assert any("weak evidence" in note for note in monitor.notes)


@pytest.mark.parametrize(("before", "after", "warned"), [(0.7, 0.79, True), (0.81, 0.7, False), (0.7, 0.81, False)])
def test_chosen_heads__auto_warns_of_masks_that_teach_little(
    before: float, after: float, warned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = iter([before, after])
    monkeypatch.setattr(choose_heads, "head_classification", lambda patches, labelled: next(figures))
    monitor = Notes()
    warnings: list[str] = []
    monkeypatch.setattr(monitor, "warn", warnings.append)
    chosen_heads(data_set(misplaced), ALL, CONFIG, monitor)
    assert any("make-labels --relabel mil" in text for text in warnings) == warned


@pytest.mark.parametrize(
    ("linear", "mlp", "expected"), [(0.6, 0.5, "linear"), (0.55, 0.7, "mlp"), (0.4, 0.5, None), (0.5, 0.4, None)]
)
def test_chosen_heads__by_ground_truth(linear: float, mlp: float, expected: str | None) -> None:
    """The best wins, and the CAMs, with 0.5, stay if nothing is better."""
    monitor = Notes()
    measured = iter([0.5, linear, mlp])
    chosen = chosen_heads(data_set(misplaced), ALL, CONFIG, monitor, lambda _: next(measured))
    assert (chosen[0] if chosen else None) == expected
    assert f"none 50.0, linear {100 * linear:.1f}, mlp {100 * mlp:.1f}" in "".join(monitor.notes)


@pytest.mark.parametrize(
    ("kind", "objects", "warning"),
    [
        ("linear", right, "from 0% to 25%"),
        ("mil", right, None),
        ("mil", lambda truth, _: torch.ones_like(truth), "from 0% to 100%"),
        ("mil", lambda truth, _: torch.zeros_like(truth), "from 0% to 0%"),
    ],
)
def test_chosen_heads__warns_if_the_objects_grow(
    kind: Any, objects: Seeds, warning: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From no object; mil does not begin with the labels of the CAMs, but must not fill the images or find nothing."""
    patches = data_set(lambda truth, _: torch.zeros_like(truth))

    def relabel(patches: Patches, *_: Any) -> Chosen:
        patches.shares = data_set(objects).shares
        return Chosen(kind, TwoHeads(patches.mean, patches.deviation, CLASSES))

    monkeypatch.setattr(choose_heads, "_relabelled", relabel)
    warnings: list[str] = []
    monitor = Notes()
    monkeypatch.setattr(monitor, "warn", warnings.append)
    chosen_heads(patches, ALL, replace(CONFIG, relabel=kind), monitor)
    expected = [f"relabelling changed the share of the objects {warning}"] if warning else []
    assert [text.partition(":")[0] for text in warnings] == expected


def test_chosen_heads__given_heads_are_not_judged() -> None:
    patches = data_set(misplaced)
    chosen = chosen_heads(patches, ALL, MakeLabels(relabel="mlp", relabel_rounds=1, relabel_steps=20), SilentMonitor())
    assert chosen is not None
    assert chosen.kind == "mlp"
    assert isinstance(chosen.heads, TwoHeads)
    assert chosen.heads.foreground[0].out_features == 64  # type: ignore[index]


def test_head_classification__of_images_without_patches() -> None:
    """As those in which no pixel has a value."""
    patches = data_set(right)
    kept = patches.image > 1
    few = replace(patches, features=patches.features[kept], shares=patches.shares[kept], image=patches.image[kept])
    labelled = ALL.clone()
    labelled[:2] = False
    assert head_classification(few, labelled) > 0.9


def test_refinement_stays__only_if_it_does_not_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    monitor = SilentMonitor()
    warnings: list[str] = []
    monkeypatch.setattr(monitor, "warn", warnings.append)
    for before, after in ((0.6, 0.9), (0.9, 0.9), (0.9, 0.86), (math.nan, math.nan)):
        assert refinement_stays(before, after, "crf", monitor)
    assert not warnings
    assert not refinement_stays(0.9, 0.8, "crf", monitor)
    assert [text.count("--relabel none --refine crf") for text in warnings] == [1]


def test_head_classification__labels_that_are_lost_teach_nothing() -> None:
    good = data_set(right)
    assert head_classification(replace(good, shares=torch.zeros_like(good.shares)), ALL) < 0.7


def test_objects_share() -> None:
    assert objects_share(data_set(right)) == pytest.approx(16 / 64)
