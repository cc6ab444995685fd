"""Two classes that are nearly always together: 'face' is in 20 of the 24 images that show 'body', 'car' is alone."""

from typing import Any

import pytest
import torch
from torch import Tensor

from stages.relabel import companions, rounds
from stages.relabel.companions import exchange_back
from stages.relabel.heads import one_hot
from stages.relabel.patches import Patches
from stages.relabel.rounds import relabel_rounds

BODY, FACE, CAR = 0, 1, 2
TOGETHER, ALONE, CARS = 20, 4, 6
IMAGES, PATCHES = TOGETHER + ALONE + CARS, 12  # of an image: 4 of background, and 8 of objects


@pytest.fixture
def patches() -> Patches:
    """Patches with the right labels; the labels of the first image were drawn."""
    generator = torch.Generator().manual_seed(0)
    allowed = torch.zeros(IMAGES, 3, dtype=torch.bool)
    allowed[: TOGETHER + ALONE, BODY] = True
    allowed[:TOGETHER, FACE] = True
    allowed[TOGETHER + ALONE :, CAR] = True
    labels = torch.zeros(IMAGES, PATCHES, dtype=torch.long)
    labels[:, 4:] = BODY + 1
    labels[:TOGETHER, 9:] = FACE + 1
    labels[TOGETHER + ALONE :, 4:] = CAR + 1
    centres = 2 * torch.randn(4, 16, generator=generator)
    features = centres[labels] + 0.3 * torch.randn(IMAGES, PATCHES, 16, generator=generator)
    return Patches(
        features=features.flatten(0, 1).half(),
        mean=torch.zeros(16),
        deviation=torch.ones(16),
        shares=one_hot(labels.flatten(), 3),
        image=torch.arange(IMAGES, dtype=torch.int32).repeat_interleave(PATCHES),
        allowed=allowed,
        fixed=torch.arange(IMAGES * PATCHES) < PATCHES,
    )


def swap(patches: Patches) -> Tensor:
    """Exchange the labels of body and face in the images with both, and return the right ones."""
    right = patches.shares.clone()
    together = patches.image < TOGETHER
    patches.shares[together] = right[together][:, [0, FACE + 1, BODY + 1, CAR + 1]]
    return right


def repaired(patches: Patches, known: Tensor | None = None) -> tuple[tuple[int, int], ...]:
    return exchange_back(patches, torch.ones(len(patches.allowed), dtype=torch.bool) if known is None else known)


def test_exchange_back__repairs_all_but_what_people_drew(patches: Patches) -> None:
    right = swap(patches)
    assert patches.fixed is not None
    drawn = patches.shares[patches.fixed].clone()
    with torch.inference_mode():  # as the labels of a round
        patches.shares = patches.shares.clone()
    assert repaired(patches) == ((BODY, FACE),)
    assert torch.equal(patches.shares[~patches.fixed], right[~patches.fixed])
    assert torch.equal(patches.shares[patches.fixed], drawn)


def test_exchange_back__keeps_right_labels(patches: Patches) -> None:
    right = patches.shares.clone()
    assert repaired(patches) == ()
    assert torch.equal(patches.shares, right)


@pytest.mark.parametrize(("name", "value"), [("FEWEST_ALONE", ALONE + 1), ("LEAST_SHARE", 0.5), ("NEARLY_ALL", 1.1)])
def test_exchange_back__keeps_labels_without_enough_evidence(
    patches: Patches, monkeypatch: pytest.MonkeyPatch, name: str, value: float
) -> None:
    monkeypatch.setattr(companions, name, value)
    swap(patches)
    assert repaired(patches) == ()


def test_exchange_back__predicted_classes_do_not_judge(patches: Patches) -> None:
    known = torch.ones(IMAGES, dtype=torch.bool)
    known[TOGETHER + 1 : TOGETHER + ALONE] = False
    swap(patches)
    assert repaired(patches, known) == ()


@pytest.mark.parametrize("left", [0, 1])
def test_exchange_back__a_class_that_is_lost_says_nothing(patches: Patches, left: int) -> None:
    """Bodies are face, but for at most a patch of background in each second image: nothing was exchanged."""
    together = (patches.image < TOGETHER)[:, None]
    body = patches.shares[:, BODY + 1 : BODY + 2]
    patches.shares[:, FACE + 1 : FACE + 2] += body * together
    patches.shares[:, BODY + 1 : BODY + 2] = body * ~together
    stray = torch.arange(0, TOGETHER * PATCHES, 2 * PATCHES)[: left * TOGETHER]
    patches.shares[stray] = one_hot(torch.full((len(stray),), BODY + 1), 3)
    assert repaired(patches) == ()


def test_exchange_back__asks_a_part_of_many_patches(patches: Patches, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(companions, "MOST_PATCHES", ALONE * PATCHES // 4)
    swap(patches)
    assert repaired(patches) == ((BODY, FACE),)


def test_exchange_back__needs_both_classes_to_contradict(patches: Patches, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lone bodies look like faces, and lone faces as they should: the labels are right. They are made from cars."""
    monkeypatch.setattr(companions, "CONTRADICTED", 0.6)  # above the mean of both classes
    faces = torch.arange(TOGETHER + ALONE, TOGETHER + 2 * ALONE)
    patches.allowed[faces] = torch.tensor([False, True, False])
    looks = patches.features[(patches.image < TOGETHER) & (patches.shares[:, FACE + 1] > 0)]
    objects = (patches.shares[:, 0] == 0) & (patches.image >= TOGETHER) & (patches.image < TOGETHER + 2 * ALONE)
    patches.features[objects] = looks.repeat(2, 1)[: int(objects.sum())]
    patches.shares[objects] = one_hot(torch.tensor([BODY + 1, FACE + 1]).repeat_interleave(ALONE * 8), 3)
    right = patches.shares.clone()
    assert repaired(patches) == ()
    assert torch.equal(patches.shares, right)


def test_companions__the_hardest_pairs_are_examined(monkeypatch: pytest.MonkeyPatch) -> None:
    """Class 1 is in all images of class 0 but 4, class 2 in all but 5, and class 3 in all."""
    present = torch.ones(30, 4, dtype=torch.bool)
    present[:4, 1] = False
    present[:5, 2] = False
    pairs = [(0, 1), (1, 3), (0, 2), (2, 3)]
    assert companions.companions(present) == pairs
    monkeypatch.setattr(companions, "MOST_PAIRS", 1)
    assert companions.companions(present) == pairs[:1]


@pytest.mark.parametrize(("number", "asked_after"), [(5, 2), (2, 1), (1, None)])
def test_relabel_rounds__exchange_back_after_half_of_the_rounds(
    patches: Patches, monkeypatch: pytest.MonkeyPatch, number: int, asked_after: int | None
) -> None:
    """A single round has no other half, which could learn the repaired labels. Drawn labels must stay."""
    finished: list[int] = []
    asked: list[int] = []

    def exchange(patches: Patches, known: Tensor) -> Any:
        asked.append(len(finished))
        assert known.all()
        return ((BODY, FACE),)

    monkeypatch.setattr(rounds, "exchange_back", exchange)
    relabel_rounds(patches, rounds=number, steps=2, after_round=lambda: finished.append(1))
    assert asked == ([] if asked_after is None else [asked_after - 1])
    assert patches.exchanged == (((BODY, FACE),) if asked else ())
