import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stages.toco.losses import (
    class_token_contrast,
    classification_loss,
    patch_token_contrast,
    segmentation_loss,
)
from stages.toco.ranks import Ranks

Golden = Callable[[str], dict[str, Any]]
AssertGolden = Callable[..., None]


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def gradient(loss: Tensor, of: Tensor) -> Tensor:
    (result,) = torch.autograd.grad(loss, of)
    return result


# --- classification ---


def test_classification_loss__by_hand() -> None:
    loss = classification_loss(torch.tensor([[2.0, -1.0]]), torch.tensor([[1.0, 0.0]]))
    expected = (math.log1p(math.exp(-2)) + math.log1p(math.exp(-1))) / 2
    assert loss.item() == pytest.approx(expected)


# --- patch tokens ---


def test_patch_token_contrast__golden(golden: Golden, assert_golden: AssertGolden) -> None:
    arrays = golden("ptc")
    features = arrays["features"].requires_grad_()
    loss = patch_token_contrast(features, arrays["token_labels"])
    assert_golden(loss.detach(), arrays["loss"])
    assert_golden(gradient(loss, features), arrays["features_grad"])


def test_patch_token_contrast__by_hand() -> None:
    # Tokens a, b / c, d of labels 0, 0 / 1, ignored; cosines: ab 0, ac -1, bc 0.
    tokens = torch.tensor([[[1.0, 0.0], [-2.0, 5.0]], [[0.0, 3.0], [0.0, 5.0]]])[None]
    labels = torch.tensor([[[0, 0], [1, 255]]])
    # Ordered pairs: positive ab, ba; negative ac, ca, bc, cb.
    assert patch_token_contrast(tokens, labels).item() == pytest.approx(0.5 * (1 - 0 / (2 + 1)) + 0.5 * 2 / (4 + 1))


def test_patch_token_contrast__sums_run_over_the_batch(generator: torch.Generator) -> None:
    tokens = torch.randn(2, 4, 3, 2, generator=generator)
    labels = torch.tensor([[[0, 1], [1, 255], [2, 2]], [[0, 0], [0, 0], [0, 0]]])
    cosine = torch.stack([F.normalize(image.flatten(1), dim=0) for image in tokens])
    positive: list[float] = []
    negative: list[float] = []
    for image in range(2):
        flat = labels[image].flatten().tolist()
        for i in range(6):
            for j in range(6):
                if i == j or 255 in (flat[i], flat[j]):
                    continue
                pairs = positive if flat[i] == flat[j] else negative
                pairs.append(abs((cosine[image, :, i] @ cosine[image, :, j]).item()))
    expected = 0.5 * (1 - sum(positive) / (len(positive) + 1)) + 0.5 * sum(negative) / (len(negative) + 1)
    assert patch_token_contrast(tokens, labels).item() == pytest.approx(expected, rel=1e-5)


def test_patch_token_contrast__ignored_tokens_change_nothing(generator: torch.Generator) -> None:
    tokens = torch.randn(2, 4, 3, 3, generator=generator).requires_grad_()
    labels = torch.randint(0, 3, (2, 3, 3), generator=generator)
    ignored = torch.rand(2, 3, 3, generator=generator) < 0.4
    labels[ignored] = 255
    loss = patch_token_contrast(tokens, labels)
    other = torch.where(ignored[:, None], torch.randn(2, 4, 3, 3, generator=generator), tokens)
    torch.testing.assert_close(patch_token_contrast(other, labels), loss)
    assert not gradient(loss, tokens).masked_select(ignored[:, None]).any()


def test_patch_token_contrast__scale_of_tokens_does_not_matter(generator: torch.Generator) -> None:
    tokens = torch.randn(1, 4, 3, 3, generator=generator)
    labels = torch.randint(0, 2, (1, 3, 3), generator=generator)
    torch.testing.assert_close(patch_token_contrast(7 * tokens, labels), patch_token_contrast(tokens, labels))


def test_patch_token_contrast__all_ignored_is_finite(generator: torch.Generator) -> None:
    tokens = torch.randn(1, 4, 2, 2, generator=generator).requires_grad_()
    loss = patch_token_contrast(tokens, torch.full((1, 2, 2), 255))
    assert loss.item() == 0.5
    assert not gradient(loss, tokens).any()


def test_patch_token_contrast__best_and_worst() -> None:
    labels = torch.arange(32)[None, None] % 2
    apart = F.one_hot(labels, 2).permute(0, 3, 1, 2).float()
    assert patch_token_contrast(apart, labels) < 0.01
    # All tokens alike: the best for pairs with the same label, the worst for pairs with different labels.
    assert patch_token_contrast(torch.ones_like(apart), labels).item() == pytest.approx(0.5, abs=0.01)
    assert patch_token_contrast(apart, labels // 2 + torch.arange(32) // 2 % 2 * 2) > 0.4


# --- class tokens ---


def test_class_token_contrast__golden(golden: Golden) -> None:
    arrays = golden("ctc")
    images, views = arrays["positive"].shape
    assert views == arrays["num_crops"]

    def by_image(tokens: Tensor) -> Tensor:  # stored view by view, each with all images
        return tokens.reshape(-1, images, tokens.shape[-1]).transpose(0, 1)

    student = arrays["student"].requires_grad_()
    loss = class_token_contrast(
        by_image(student), by_image(arrays["teacher"]), arrays["positive"], arrays["temperature"]
    )
    # Value and gradient (about 1 and 0.05) are differences of numbers of size one, whose rounding error is 1e-7. If
    # every view is positive, nothing else is left of them.
    torch.testing.assert_close(loss.detach(), torch.tensor(arrays["loss"]), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(gradient(loss, student), arrays["student_grad"], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_class_token_contrast__by_the_formula(temperature: float, generator: torch.Generator) -> None:
    student = F.normalize(torch.randn(3, 5, 4, generator=generator), dim=-1)
    teacher = F.normalize(torch.randn(3, 2, 4, generator=generator), dim=-1)
    positive = torch.tensor([[1, 1, 0, 1, 0], [1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]).float()
    total = 0.0
    for image in range(3):
        value = 0.0
        for view in range(2):
            likeness = [
                math.exp((teacher[image, view] @ student[image, crop]).item() / temperature) for crop in range(5)
            ]
            negatives = sum(likeness[crop] for crop in range(5) if positive[image, crop] == 0)
            value += -math.log(1 / (1 + negatives + 1e-4))
            for crop in range(5):
                if positive[image, crop]:
                    value += -math.log(likeness[crop] / (likeness[crop] + negatives + 1e-4))
        total += value / 2 / (positive[image].sum().item() + 1e-4)
    loss = class_token_contrast(student, teacher, positive, temperature)
    assert loss.item() == pytest.approx(total / 3, rel=1e-5)


def test_class_token_contrast__no_gradient_into_the_teacher(generator: torch.Generator) -> None:
    student = torch.randn(1, 4, 3, generator=generator).requires_grad_()
    teacher = torch.randn(1, 2, 3, generator=generator).requires_grad_()
    loss = class_token_contrast(student, teacher, torch.tensor([[1.0, 1.0, 0.0, 1.0]]))
    torch.autograd.backward(loss)
    assert teacher.grad is None
    assert student.grad is not None
    assert student.grad.any()


def test_class_token_contrast__gradient_pulls_positives_and_pushes_negatives() -> None:
    student = torch.tensor([[[0.6, 0.8], [0.6, 0.8]]]).requires_grad_()
    teacher = torch.tensor([[[1.0, 0.0]]])
    loss = class_token_contrast(student, teacher, torch.tensor([[1.0, 0.0]]))
    towards = gradient(loss, student)[0, :, 0]
    assert towards[0] < 0 < towards[1]


def test_class_token_contrast__no_negatives_is_finite(generator: torch.Generator) -> None:
    student = F.normalize(torch.randn(2, 3, 4, generator=generator), dim=-1).requires_grad_()
    teacher = F.normalize(torch.randn(2, 2, 4, generator=generator), dim=-1)
    loss = class_token_contrast(student, teacher, torch.ones(2, 3))
    assert 0 <= loss.item() < 0.001  # without negatives only the formula's 1e-4 is left
    assert gradient(loss, student).isfinite().all()


# --- pseudo labels ---


def test_segmentation_loss__golden(golden: Golden, assert_golden: AssertGolden) -> None:
    arrays = golden("seg_loss")
    logits = arrays["logits"].requires_grad_()
    loss = segmentation_loss(logits, arrays["label"].long())
    assert_golden(loss.detach(), arrays["loss"])
    assert_golden(gradient(loss, logits), arrays["logits_grad"])


def test_segmentation_loss__by_hand() -> None:
    probabilities = torch.tensor([[[0.5, 0.2], [0.1, 0.25]], [[0.5, 0.8], [0.9, 0.75]]])[None]
    label = torch.tensor([[[0, 1], [255, 0]]])
    expected = 0.5 * (-math.log(0.5) - math.log(0.25)) / 2 + 0.5 * -math.log(0.8)
    assert segmentation_loss(probabilities.log(), label).item() == pytest.approx(expected)


# A deliberate departure: the published program's mean over zero pixels is NaN.
@pytest.mark.parametrize(
    ("values", "part"),
    [((1, 1, 2, 255), "foreground"), ((0, 0, 255, 0), "background"), ((255, 255, 255, 255), "nothing")],
)
def test_segmentation_loss__an_empty_part_counts_zero(
    values: tuple[int, ...], part: str, generator: torch.Generator
) -> None:
    logits = torch.randn(1, 3, 2, 2, generator=generator).requires_grad_()
    label = torch.tensor(values).reshape(1, 2, 2)
    loss = segmentation_loss(logits, label)
    expected = 0.0 if part == "nothing" else 0.5 * F.cross_entropy(logits, label, ignore_index=255).item()
    assert loss.item() == pytest.approx(expected)
    grad = gradient(loss, logits)
    assert grad.isfinite().all()
    assert grad.any() == (part != "nothing")


def test_segmentation_loss__ignored_pixels_change_nothing(generator: torch.Generator) -> None:
    logits = torch.randn(2, 4, 3, 3, generator=generator).requires_grad_()
    label = torch.randint(0, 4, (2, 3, 3), generator=generator)
    ignored = torch.rand(2, 3, 3, generator=generator) < 0.4
    label[ignored] = 255
    loss = segmentation_loss(logits, label)
    other = torch.where(ignored[:, None], torch.randn(2, 4, 3, 3, generator=generator), logits)
    assert torch.equal(segmentation_loss(other, label), loss)
    assert not gradient(loss, logits).masked_select(ignored[:, None]).any()


def test_losses__half_precision_is_computed_in_float32(generator: torch.Generator) -> None:
    logits = torch.randn(1, 3, 2, 2, generator=generator).bfloat16()
    label = torch.tensor([[[0, 1], [2, 255]]])
    assert segmentation_loss(logits, label) == segmentation_loss(logits.float(), label)
    assert patch_token_contrast(logits, label) == patch_token_contrast(logits.float(), label)


def test_class_token_contrast__large_dot_products_stay_finite() -> None:
    # 1024 equal cosines give a dot product of 1024, whose exponential is beyond float32.
    student = torch.ones(1, 3, 1024, requires_grad=True)
    loss = class_token_contrast(student, torch.ones(1, 2, 1024), torch.tensor([[1.0, 1.0, 0.0]]))
    (gradient,) = torch.autograd.grad(loss, student)
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient).all()


# --- data-parallel training ---


@pytest.mark.parametrize("loss", [patch_token_contrast, segmentation_loss])
def test_losses__mean_over_two_ranks_is_the_loss_of_the_whole_batch(
    loss: Callable[..., Tensor], generator: torch.Generator
) -> None:
    maps = torch.randn(2, 4, 3, 3, generator=generator)
    label = torch.randint(0, 4, (2, 3, 3), generator=generator)
    label[0, :2] = 255  # the ranks have different counts
    counts: list[list[Tensor]] = []
    for rank in range(2):  # collect the counts that each rank would send, in order
        counts.append([])

        def collect(value: Tensor, rank: int = rank) -> Tensor:
            counts[rank].append(value)
            return value

        loss(maps[[rank]], label[[rank]], ranks=Ranks(2, collect))
    parts = []
    for rank in range(2):
        means = [torch.stack(pair).mean() for pair in zip(*counts, strict=True)]

        def mean(value: Tensor, means: list[Tensor] = means) -> Tensor:
            return means.pop(0)

        parts.append(loss(maps[[rank]], label[[rank]], ranks=Ranks(2, mean)))
    torch.testing.assert_close(torch.stack(parts).mean(), loss(maps, label))
