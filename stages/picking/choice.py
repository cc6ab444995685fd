"""Choose images by their doubt, spread over classes and over what they look like."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from stages.picking.doubt import Doubt, ranks

CONSIDERED = 0.25  # part of a class's images, the most doubtful ones, among which the one unlike all others is taken
FEWEST_CONSIDERED = 4
WITHOUT_LABELS = 0.1  # part of the images that may have no labels, as long as there are others


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """An image that may be picked."""

    id: str
    classes: tuple[int, ...]  # by its image labels; empty if it shows none, or if they are not known
    doubt: Doubt
    look: Float[Tensor, " d"] | None  # mean of its features; None if there are none


@dataclass(frozen=True, kw_only=True)
class Picked:
    """An image to correct."""

    id: str
    chosen_for: int | None  # class 1..C whose turn it was; None for images without labels
    doubt: Doubt


def choose_images(
    candidates: Sequence[Candidate], count: int, turns: Mapping[int | None, int] | None = None
) -> list[Picked]:
    """Choose images; the same input gives the same images.

    The classes take turns: first those with most turns, then those whose images are most doubtful. Images without
    labels have their turn after all classes, for a tenth of all images at most. Of the most doubtful images of the
    class, the one is taken that looks least like those taken before.

    Args:
        candidates: The images.
        count: Number of images to choose.
        turns: How many images each class (1..C) gets in a round; classes that are left out get none. The key None is
            for images without labels. By default, one for all.
    """
    value = {
        one.id: sum(signs)
        for one, *signs in zip(
            candidates,
            ranks([one.doubt.unsure for one in candidates]),
            ranks([one.doubt.contradicted for one in candidates]),
            ranks([one.doubt.missing for one in candidates]),
            strict=True,
        )
    }
    by_class: dict[int | None, list[Candidate]] = {}
    for one in sorted(candidates, key=lambda one: (-value[one.id], one.id)):
        for number in one.classes or (None,):
            if turns is None or number in turns:
                by_class.setdefault(number, []).append(one)
    mean = {number: sum(value[one.id] for one in own) / len(own) for number, own in by_class.items()}
    given = dict.fromkeys(by_class, 1) if turns is None else turns
    waiting = sorted(by_class, key=lambda one: (one is None, -given[one], -mean[one], one or 0))
    chosen: list[Picked] = []
    taken: dict[str, Candidate] = {}
    while waiting and len(chosen) < count:
        # With turns 3, 2 and 1: a, then a b, then a b c. The worst class has its images also if few are chosen.
        for number in [one for least in range(max(given.values()), 0, -1) for one in waiting if given[one] >= least]:
            own = [one for one in by_class[number] if one.id not in taken]
            unlabelled = sum(one.chosen_for is None for one in chosen)
            enough = number is None and unlabelled >= int(WITHOUT_LABELS * count) and len(waiting) > 1
            if not own:
                waiting = [one for one in waiting if one != number]
            elif not enough and len(chosen) < count:
                best = _unlike(own[: max(FEWEST_CONSIDERED, round(CONSIDERED * len(own)))], list(taken.values()))
                taken[best.id] = best
                chosen.append(Picked(id=best.id, chosen_for=number, doubt=best.doubt))
    return chosen


def _unlike(own: Sequence[Candidate], taken: Sequence[Candidate]) -> Candidate:
    """Return the candidate whose nearest neighbour among the taken ones is farthest; the first one if none is taken."""
    looks = [one.look for one in taken if one.look is not None]
    if not looks:
        return own[0]
    others = torch.stack(looks)
    distances = [0.0 if one.look is None else float((others - one.look).norm(dim=1).min()) for one in own]
    return own[max(range(len(own)), key=distances.__getitem__)]
