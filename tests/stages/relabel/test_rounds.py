"""A data set of patches whose right labels are known: three classes and background are four clusters."""

import numpy as np
import pytest
import torch
from torch import Tensor

from stages.features.cache import mean_and_deviation
from stages.relabel.patches import BYTES, Patches, collect_patches, patch_shares
from stages.relabel.rounds import relabel_rounds, train_heads

CLASSES, IMAGES, GRID = 3, 24, 8


def data_set(noise: float, drawn: tuple[str, ...] = (), limit: int = BYTES) -> tuple[Patches, Tensor]:
    """Images of one class each; of class 3 no seed is right. Seeds are flipped with probability `noise`.

    Of the images in `drawn`, people drew the right half.
    """
    generator = torch.Generator().manual_seed(0)
    centres = 2 * torch.randn(CLASSES + 1, 16, generator=generator)
    centres[1:] += 3 * torch.randn(16, generator=generator)  # what objects have in common
    truth = torch.zeros(IMAGES, GRID, GRID, dtype=torch.long)
    seeds = {}
    for number in range(IMAGES):
        own = number % CLASSES + 1
        truth[number, 2:6, 1:5] = own
        label = truth[number].clone()
        flipped = torch.rand(GRID, GRID, generator=generator) < noise
        label[flipped] = own - label[flipped]
        if own == 3:
            label = torch.where(torch.rand(GRID, GRID, generator=generator) < 0.25, 3, 0)
        seeds[str(number)] = label
    tokens = centres[truth] + 0.5 * torch.randn(IMAGES, GRID, GRID, 16, generator=generator)
    patches = collect_patches(
        lambda image: tokens[int(image)].permute(2, 0, 1).half().numpy(),
        lambda image, grid: patch_shares(seeds[image], CLASSES, grid),
        [(str(number), (number % CLASSES + 1,)) for number in range(IMAGES)],
        CLASSES,
        seed=0,
        given=lambda image, grid: right_half(truth[int(image)]) if image in drawn else None,
        limit=limit,
    )
    return patches, truth.flatten()


def right_half(label: Tensor) -> Tensor:
    shares = patch_shares(label, CLASSES, (GRID, GRID))
    shares[:, :, : GRID // 2] = 0
    return 0.8 * shares  # a fifth of each patch was not judged


def right(patches: Patches, truth: Tensor, number: int) -> float:
    """Part of the object patches of a class that have the right label."""
    return float((patches.shares.argmax(dim=1) == truth)[truth == number].float().mean())


def test_relabel_rounds__cleans_labels() -> None:
    patches, truth = data_set(noise=0.25)
    before = [right(patches, truth, number) for number in range(4)]
    told: list[int] = []
    relabel_rounds(patches, rounds=3, steps=300, after_round=lambda: told.append(1))
    after = [right(patches, truth, number) for number in range(4)]
    assert len(told) == 3
    assert max(before[1:3]) < 0.85
    assert before[3] < 0.4
    assert min(after) > 0.95  # also class 3, whose own seeds show nothing


def test_train_heads__a_small_class_beside_a_large_one_is_not_given_up() -> None:
    """Both classes are in every image, and most patches of the small one bear the label of the large one."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.tensor([0, 1, 1, 1, 1, 1, 1, 2]).repeat(400)
    features = torch.randn(3, 256, generator=generator)[truth] + torch.randn(len(truth), 256, generator=generator)
    wrong = torch.rand(len(truth), generator=generator) < 0.65
    label = torch.where((truth == 2) & wrong, 1, truth)
    patches = Patches(
        features=features.half(),
        mean=torch.zeros(256),
        deviation=torch.ones(256),
        shares=torch.nn.functional.one_hot(label, 3).half(),
        image=torch.zeros(len(truth), dtype=torch.int32),
        allowed=torch.ones(1, 2, dtype=torch.bool),
    )
    heads = train_heads(patches, steps=300, foreground_loss="gce", hidden=0, seed=0)
    found = heads.classes(features).argmax(dim=1) + 1
    assert float((found == truth)[truth == 1].float().mean()) > 0.95
    assert float((found == truth)[truth == 2].float().mean()) > 0.75


def test_relabel_rounds__masks_that_people_drew_stay() -> None:
    patches, truth = data_set(noise=0.25, drawn=("0", "4"))
    fixed = patches.fixed
    assert fixed is not None
    assert int(fixed.sum()) == 2 * GRID * GRID // 2
    assert (patches.shares.argmax(dim=1) == truth)[fixed].all()
    assert patches.shares[fixed].sum(dim=1).allclose(torch.ones(int(fixed.sum())).half())
    assert float(patches.weight[fixed].sum() / patches.weight.sum()) == pytest.approx(0.25)
    assert (patches.weight[~fixed] == 1).all()
    wrong = patches.shares[fixed].flip(1)  # whatever the heads find
    patches.shares[fixed] = wrong
    relabel_rounds(patches, rounds=2, steps=50, after_round=lambda: None)
    assert torch.equal(patches.shares[fixed], wrong)


def test_relabel_rounds__gives_only_known_classes() -> None:
    patches, _ = data_set(noise=0.25)
    patches.allowed[0] = False
    relabel_rounds(patches, rounds=1, steps=20, after_round=lambda: None)
    found = patches.shares.argmax(dim=1)
    own = patches.image.long() % CLASSES + 1
    assert ((found == 0) | (found == own)).all()
    assert (found[patches.image == 0] == 0).all()


def test_relabel_rounds__same_seed_same_heads() -> None:
    weights = []
    for seed in (0, 0, 1):
        patches, _ = data_set(noise=0.25)
        heads = relabel_rounds(patches, rounds=1, steps=5, after_round=lambda: None, hidden=4, seed=seed)
        weights.append(torch.cat([value.flatten() for value in heads.state_dict().values()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_collect_patches__a_part_of_each_image_of_a_large_data_set() -> None:
    whole, _ = data_set(noise=0.0)
    part, _ = data_set(noise=0.0, limit=whole.features.numel() * 2 // 4)
    assert len(part.features) == len(whole.features) // 4
    assert part.image.bincount().tolist() == [GRID * GRID // 4] * IMAGES


def test_mean_and_deviation__of_float16() -> None:
    values = torch.from_numpy(np.random.default_rng(0).normal(30, 0.1, (70_000, 3))).half()
    mean, deviation = mean_and_deviation(values)
    torch.testing.assert_close(mean, values.float().mean(dim=0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(deviation, values.float().std(dim=0), rtol=1e-2, atol=1e-4)


def test_patch_shares__areas() -> None:
    labels = torch.zeros(4, 4, dtype=torch.long)
    labels[0, :2] = 2
    shares = patch_shares(labels, 2, (2, 2))
    assert shares[:, 0, 0].tolist() == [0.5, 0, 0.5]
    assert shares[:, 1, 1].tolist() == [1, 0, 0]
