from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from stages.toco.build_backbone import build_backbone
from stages.toco.cam import most_classes
from stages.toco.crops import CropPlaces, choose_crops
from stages.toco.model import ToCo
from stages.toco.step import Losses, Phase, StepBatch, StepSettings, TrainingStep, box_in_tokens

ALL = Phase(contrast=True, segment=True)
SETTINGS = StepSettings(local_crop_size=16)


def make_model() -> ToCo:
    torch.manual_seed(0)
    backbone = build_backbone(
        "vit_tiny_patch16_224", auxiliary_block=-2, patch_size=8, embed_dim=32, depth=2, num_heads=2, img_size=32
    )
    return ToCo(backbone, 3, decoder_channels=8, projector_hidden=16, projector_bottleneck=8, projector_out=16)


def make_step(settings: StepSettings = SETTINGS) -> TrainingStep:
    return TrainingStep(make_model(), settings)


def make_batch(class_labels: list[list[float]] | None = None) -> StepBatch:
    generator = torch.Generator().manual_seed(1)
    labels = torch.tensor([[1.0, 0, 1], [0, 1, 0]] if class_labels is None else class_labels)
    views = [torch.randint(0, 256, (len(labels), 3, 32, 32), generator=generator).byte() for _ in range(3)]
    box = torch.tensor([[0, 32, 0, 32], [5, 30, 0, 27]])[: len(labels)]
    return StepBatch(
        image=views[0],
        second=views[1],
        local=views[2],
        box=box,
        class_labels=labels,
        most_classes=most_classes(labels),
    )


def generators(seed: int = 2) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed + place) for place in range(2)]


def losses_of(step: TrainingStep, phase: Phase = ALL, batch: StepBatch | None = None) -> Losses:
    batch = batch or make_batch()
    result: Losses = step(batch, phase, generators()[: len(batch.image)])
    return result


@pytest.mark.parametrize("auxiliary_labels", [False, True])
def test_step__total_is_the_weighted_sum(auxiliary_labels: bool) -> None:
    settings = replace(SETTINGS, ptc_weight=0.3, ctc_weight=0.7, seg_weight=0.9, reg_weight=1.1)
    losses = losses_of(make_step(settings), ALL._replace(auxiliary_labels=auxiliary_labels))
    expected = (
        losses.classification
        + losses.auxiliary_classification
        + 0.3 * losses.ptc
        + 0.7 * losses.ctc
        + 0.9 * losses.segmentation
        + 1.1 * losses.regularised
    )
    torch.testing.assert_close(losses.total, expected)
    assert all(part.ndim == 0 and part.isfinite() for part in losses)
    assert all(part > 0 for part in losses[:5])
    assert losses.regularised != 0


def test_step__published_weights() -> None:
    defaults = StepSettings()
    assert (defaults.ptc_weight, defaults.ctc_weight, defaults.seg_weight, defaults.reg_weight) == (0.2, 0.5, 0.1, 0.05)
    assert (defaults.high_threshold, defaults.low_threshold) == (0.7, 0.25)
    assert (defaults.temperature, defaults.momentum) == (0.5, 0.9)
    assert (defaults.local_crops, defaults.local_crop_size, defaults.scales) == (8, 96, (1.0, 0.5, 1.5))


def test_step__stored_losses() -> None:
    """Stored values: they fix how the losses are put together; each loss has a golden test of its own.

    With these thresholds some local crops are negative. The tolerance allows for a pixel whose label differs
    because of rounding.
    """
    losses = losses_of(make_step(replace(SETTINGS, high_threshold=0.8, low_threshold=0.6)))
    stored = {
        "classification": 0.597702,
        "auxiliary_classification": 0.700776,
        "ptc": 0.509789,
        "ctc": 3.526028,
        "segmentation": 1.391082,
        "regularised": -2.8076e-06,
        "total": 3.302558,
    }
    assert {name: value.item() for name, value in losses._asdict().items()} == pytest.approx(stored, rel=0.01)


def test_step__the_same_from_the_same_generator() -> None:
    step = make_step().eval()  # in which the teacher is not updated
    assert losses_of(step) == losses_of(step)
    other = step(make_batch(), ALL, generators(5))
    assert other.classification == losses_of(step).classification
    assert other.ctc != losses_of(step).ctc  # other local crops


@pytest.mark.parametrize("auxiliary_labels", [False, True])
def test_step__which_cam_makes_the_pseudo_labels(auxiliary_labels: bool) -> None:
    """They depend on only one CAM, while PTC always depends on the auxiliary one."""
    step, phase = make_step().eval(), ALL._replace(auxiliary_labels=auxiliary_labels)
    classifiers = [step.model.classifier, step.model.auxiliary_classifier]
    before = losses_of(step, phase)
    for classifier in classifiers:
        with torch.no_grad():
            classifier.weight.neg_()
        after = losses_of(step, phase)
        with torch.no_grad():
            classifier.weight.neg_()
        makes_labels = classifier is classifiers[auxiliary_labels]
        assert (after.segmentation != before.segmentation) == makes_labels
        assert (after.ptc != before.ptc) == (classifier is step.model.auxiliary_classifier)


GROUPS: dict[str, Callable[[ToCo], nn.Module]] = {
    "encoder": lambda model: model.backbone,
    "classifier": lambda model: model.classifier,
    "auxiliary classifier": lambda model: model.auxiliary_classifier,
    "decoder": lambda model: model.decoder,
    "projector": lambda model: model.projector,
}


@pytest.mark.parametrize(
    ("name", "trained"),
    [
        ("classification", {"encoder", "classifier"}),
        ("auxiliary_classification", {"encoder", "auxiliary classifier"}),
        ("ptc", {"encoder"}),
        ("ctc", {"encoder", "projector"}),
        ("segmentation", {"encoder", "decoder"}),
        ("regularised", {"encoder", "decoder"}),
        ("total", set(GROUPS)),
    ],
)
def test_step__what_each_loss_trains(name: str, trained: set[str]) -> None:
    """CAMs and labels are targets: they pass no gradient to the classifiers. The teacher never gets any."""
    step = make_step()
    getattr(losses_of(step), name).backward()
    moved = {
        group
        for group, part in GROUPS.items()
        if any(one.grad is not None and one.grad.any() for one in part(step.model).parameters())
    }
    assert moved == trained
    assert all(one.grad is None and not one.requires_grad for one in step.model.teacher_projector.parameters())


def test_step__images_without_any_class_have_class_token_contrast() -> None:
    """As in the published program: without them the magnetic tiles' CAMs were worse (bench/recipes.md)."""
    assert losses_of(make_step(), batch=make_batch([[0.0, 0.0, 0.0]])).ctc > 0.1


def test_step__teacher_is_updated_only_in_training() -> None:
    step = make_step(replace(SETTINGS, momentum=0.75))
    model = step.model
    with torch.no_grad():
        for one in model.projector.parameters():
            one.add_(1.0)
    before = [one.clone() for one in model.teacher_projector.parameters()]
    losses_of(step.eval())
    assert all(map(torch.equal, before, model.teacher_projector.parameters()))
    losses_of(step.train())
    for old, teacher, student in zip(
        before, model.teacher_projector.parameters(), model.projector.parameters(), strict=True
    ):
        torch.testing.assert_close(teacher, 0.75 * old + 0.25 * student)


def test_step__teacher_is_not_updated_without_class_token_contrast() -> None:
    step = make_step(replace(SETTINGS, ctc_weight=0.0))
    with torch.no_grad():
        for one in step.model.projector.parameters():
            one.add_(1.0)
    before = [one.clone() for one in step.model.teacher_projector.parameters()]
    losses_of(step)
    assert all(map(torch.equal, before, step.model.teacher_projector.parameters()))


@pytest.mark.parametrize(
    ("phase", "weights", "first_block", "last_block", "decoded"),  # number of passes through each
    [
        (Phase(contrast=False, segment=False), {}, 1, 1, False),
        (Phase(contrast=True, segment=False), {"ptc_weight": 0.0, "ctc_weight": 0.0}, 1, 1, False),
        (Phase(contrast=False, segment=True), {"seg_weight": 0.0, "reg_weight": 0.0}, 1, 1, False),
        (Phase(contrast=False, segment=True), {}, 4, 4, True),
        # While no loss uses the final CAM, its three passes stop after the auxiliary block.
        (Phase(contrast=False, segment=True, auxiliary_labels=True), {}, 4, 1, True),
        (Phase(contrast=True, segment=False), {"ctc_weight": 0.0}, 4, 1, False),
        # Second view and crops need only the class token, for which the last block is computed in part.
        (Phase(contrast=True, segment=False), {"ptc_weight": 0.0}, 6, 1, False),
        (ALL, {}, 6, 4, True),
        (ALL._replace(encoder=False), {}, 4, 4, True),
    ],
)
def test_step__skips_what_no_loss_needs(
    phase: Phase, weights: dict[str, Any], first_block: int, last_block: int, decoded: bool
) -> None:
    step = make_step(replace(SETTINGS, **weights))
    calls: list[nn.Module] = []
    first, last = step.model.backbone.network.blocks
    for part in (first, last, step.model.decoder):
        part.register_forward_hook(lambda module, *more: calls.append(module))
    losses = losses_of(step, phase)
    assert calls.count(first) == first_block
    assert calls.count(last) == last_block
    assert calls.count(step.model.decoder) == int(decoded)
    if first_block == 1:
        assert losses.total == losses.classification + losses.auxiliary_classification
        assert losses.ptc == losses.ctc == losses.segmentation == losses.regularised == 0


@pytest.mark.parametrize(
    "phase", [Phase(contrast=True, segment=False), ALL._replace(auxiliary_labels=True)], ids=["early", "aux labels"]
)
def test_step__the_same_as_with_passes_through_all_blocks(phase: Phase, monkeypatch: pytest.MonkeyPatch) -> None:
    short = losses_of(make_step(), phase)
    step = make_step()
    monkeypatch.setattr(step.model, "raw_auxiliary_cam", lambda images: step.model.raw_cams(images).auxiliary)
    assert losses_of(step, phase) == short


def test_step_batch__of_single_images() -> None:
    batch = make_batch()
    singles = [StepBatch._make([*(one[place] for one in batch[:5]), most, None]) for place, most in ((0, 2), (1, 1))]
    stacked = StepBatch.stack(singles)
    assert all(map(torch.equal, stacked[:5], batch[:5]))
    assert stacked.most_classes == batch.most_classes == 2
    assert stacked.missing is None
    gap = torch.eye(32).bool()
    one_has_all = StepBatch.stack([singles[0], singles[1]._replace(missing=gap)]).missing
    assert one_has_all is not None
    assert torch.equal(one_has_all, torch.stack([torch.zeros_like(gap), gap]))


def gap_of(left: int) -> Tensor:
    """In a batch of two images: the first one has no value from this column on."""
    gap = torch.zeros(2, 32, 32, dtype=torch.bool)
    gap[0, :, left:] = True
    return gap


@pytest.mark.parametrize("loss", ["segmentation", "regularised"])
def test_step__the_decoder_learns_nothing_where_an_image_has_no_value(loss: str) -> None:
    """Its output changes no loss there, so that these pixels have no gradient."""
    batch = make_batch()._replace(missing=gap_of(12))
    step = make_step()
    found: dict[str, Tensor] = {}

    def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
        output.retain_grad()
        found["logits"] = output

    step.model.decoder.register_forward_hook(keep)
    for missing, without_gradient in ((batch.missing, True), (None, False)):
        getattr(losses_of(step, batch=batch._replace(missing=missing)), loss).backward()
        gradient = found["logits"].grad
        assert gradient is not None
        assert gradient[0, :, :, :1].any()  # with a value
        assert gradient[1].any()
        assert bool((gradient[0, :, :, 2:] == 0).all()) == without_gradient  # 4 tokens of 8 pixels; 2 reach the gap


def test_step__patch_contrast_ignores_tokens_without_a_value(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []

    def patch_token_contrast(tokens: Tensor, labels: Tensor, **options: Any) -> Tensor:
        seen.append(labels)
        return tokens.sum() * 0

    monkeypatch.setattr("stages.toco.step.patch_token_contrast", patch_token_contrast)
    for missing in (None, gap_of(12), gap_of(13)):  # the half of a token, or less
        losses_of(make_step(), batch=make_batch()._replace(missing=missing))
    whole, half, less = seen
    assert (whole[0, :, 2:] != 255).any()
    for labels in (half, less):
        assert (labels[0, :, 2:] == 255).all()
        assert torch.equal(labels[0, :, :2], whole[0, :, :2])
        assert torch.equal(labels[1], whole[1])


def test_step__local_crops_are_centred_where_there_is_a_value(monkeypatch: pytest.MonkeyPatch) -> None:
    centres: list[Tensor] = []

    def recorded(uncertainty: Tensor, *, size: int, **options: Any) -> CropPlaces:
        places = choose_crops(uncertainty, size=size, **options)
        centres.append(places.left[0] + size // 2)
        return places

    monkeypatch.setattr("stages.toco.step.choose_crops", recorded)
    for missing in (None, gap_of(16)):
        losses_of(make_step(), batch=make_batch()._replace(missing=missing))
    assert (centres[0] >= 16).any()
    assert (centres[1] < 16).all()


class Waits(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the operations for which the CPU waits for a GPU, because they return a number or a shape to it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        name = operation.overloadpacket.__name__
        by_mask = name in ("index", "index_put", "index_put_") and any(
            one is not None and one.dtype in (torch.bool, torch.uint8) for one in arguments[1]
        )
        counted = name == "repeat_interleave" and (options or {}).get("output_size") is None
        if by_mask or counted or name in WAITING or name.startswith(("unique", "_unique")):
            self.names.append(name)
        return operation(*arguments, **(options or {}))


WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "bincount"}


@pytest.mark.parametrize(
    ("phase", "expected"),
    [
        (Phase(contrast=False, segment=False), []),
        (Phase(contrast=True, segment=False), []),
        # Only the filter's lattice: the range of its vertices, and their number.
        (Phase(contrast=False, segment=True, auxiliary_labels=True), ["tolist", "nonzero"]),
        (ALL, ["tolist", "nonzero"]),
        (ALL._replace(encoder=False), ["tolist", "nonzero"]),
    ],
)
def test_step__waits_for_the_device(phase: Phase, expected: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    step, batch = make_step(), make_batch()
    optimizer = torch.optim.AdamW([one for one in step.parameters() if one.requires_grad], fused=True)
    as_list = Tensor.tolist

    def tolist(tensor: Tensor) -> Any:  # is not dispatched as an operation
        waits.names.append("tolist")
        return as_list(tensor)

    monkeypatch.setattr(Tensor, "tolist", tolist)
    for _ in range(2):  # what only the first step waits for is not counted
        with Waits() as waits:
            step(batch, phase, generators()).total.backward()
            optimizer.step()
            optimizer.zero_grad()
    assert waits.names == expected


@pytest.mark.parametrize(
    "wait",
    [
        lambda tensor: tensor.item(),
        lambda tensor: int(tensor.sum()),
        lambda tensor: bool(tensor.any()),
        lambda tensor: tensor[tensor > 1],
        lambda tensor: tensor.nonzero(),
        lambda tensor: tensor.unique(),
        lambda tensor: tensor.repeat_interleave(tensor),
    ],
)
def test_waits__records_operations_that_wait(wait: Callable[[Tensor], Any]) -> None:
    with Waits() as waits:
        wait(torch.tensor([2]))
    assert waits.names


def test_step__frozen_encoder_gets_no_gradient() -> None:
    step = make_step()
    frozen = losses_of(step, ALL._replace(encoder=False))
    frozen.total.backward()  # type: ignore[no-untyped-call]
    assert all(one.grad is None for one in step.model.backbone.parameters())
    for head in (step.model.classifier, step.model.auxiliary_classifier, step.model.decoder):
        assert all(one.grad is not None and one.grad.any() for one in head.parameters())
    assert frozen.ptc == frozen.ctc == 0
    expected = losses_of(make_step(), Phase(contrast=False, segment=True))
    torch.testing.assert_close(frozen.total, expected.total)


@pytest.mark.parametrize("class_labels", [[[0.0, 0, 0]], [[0.0, 0, 0], [0, 0, 0]], [[0.0, 0, 0], [0, 1, 1]]])
def test_step__images_without_any_class(class_labels: list[list[float]]) -> None:
    step = make_step()
    losses = losses_of(step, batch=make_batch(class_labels))
    losses.total.backward()  # type: ignore[no-untyped-call]
    assert all(part.isfinite() for part in losses)
    assert all(one.grad is None or one.grad.isfinite().all() for one in step.parameters())
    assert losses.segmentation > 0  # the pseudo labels are background everywhere


def test_step__image_that_is_nearly_all_padding() -> None:
    batch = make_batch()._replace(box=torch.tensor([[31, 32, 0, 1], [3, 6, 0, 32]]))  # less than a token
    step = make_step()
    losses = losses_of(step, batch=batch)
    losses.total.backward()  # type: ignore[no-untyped-call]
    assert all(part.isfinite() for part in losses)


def test_step__bf16_is_near_float32() -> None:
    step = make_step().eval()
    full = losses_of(step)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = losses_of(step)
    assert all(part.isfinite() for part in half)
    torch.testing.assert_close(
        torch.stack([*half[1:3], half.ptc]), torch.stack([*full[1:3], full.ptc]), rtol=0.05, atol=0.02
    )
    # The last bits of the CAM decide which pixels are confident and where crops are cut, hence the wide tolerance.
    torch.testing.assert_close(torch.stack(half), torch.stack(full), rtol=0.3, atol=0.2)
    step.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses_of(step).total.backward()  # type: ignore[no-untyped-call]
    assert all(one.grad is None or one.grad.isfinite().all() for one in step.parameters())


def test_step__learns() -> None:
    """A few steps on one batch bring the total loss down."""
    step, batch = make_step(), make_batch()
    optimizer = torch.optim.AdamW([one for one in step.parameters() if one.requires_grad], lr=3e-3)
    totals = []
    for _ in range(12):
        losses = losses_of(step, batch=batch)
        totals.append(losses.total.item())
        optimizer.zero_grad()
        losses.total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert totals[-1] < 0.8 * totals[0]


@pytest.mark.parametrize(
    ("box", "patch", "expected"),
    [
        ((0, 32, 0, 32), 8, (0, 4, 0, 4)),
        ((0, 31, 0, 33), 8, (0, 3, 0, 4)),
        ((1, 32, 8, 32), 8, (1, 4, 1, 4)),
        ((7, 25, 9, 24), 8, (1, 3, 2, 3)),
        ((0, 7, 1, 8), 8, (0, 0, 1, 1)),  # no token lies wholly inside
        ((3, 5, 9, 15), 8, (1, 0, 2, 1)),
        ((100, 448, 0, 448), 16, (7, 28, 0, 28)),
        ((14, 28, 13, 29), 14, (1, 2, 1, 2)),
    ],
)
def test_box_in_tokens__by_hand(
    box: tuple[int, int, int, int], patch: int, expected: tuple[int, int, int, int]
) -> None:
    assert box_in_tokens(torch.tensor([box]), patch).tolist() == [list(expected)]


@pytest.mark.parametrize("patch", [4, 7])
def test_box_in_tokens__tokens_are_those_wholly_inside(patch: int) -> None:
    side, source = 28, torch.Generator().manual_seed(0)

    def draw() -> Tensor:
        return torch.randint(0, side + 1, (50, 2), generator=source).sort(dim=1).values

    boxes = torch.cat([draw(), draw()], dim=1)
    for box, (y0, y1, x0, x1) in zip(boxes, box_in_tokens(boxes, patch).tolist(), strict=True):
        pixels = torch.zeros(side, side)
        pixels[box[0] : box[1], box[2] : box[3]] = 1
        whole = pixels.view(side // patch, patch, side // patch, patch).amin(dim=(1, 3)) > 0
        tokens = torch.zeros_like(whole)
        tokens[y0 : max(y0, y1), x0 : max(x0, x1)] = True
        assert torch.equal(tokens, whole)
