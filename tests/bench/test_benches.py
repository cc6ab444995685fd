"""Each bench runs at a tiny size and prints its tables; the published order gives the same losses and gradients."""

import copy
from collections.abc import Callable, Sequence

import pytest
import torch

from bench import cams, loader, step_memory, student, train_cam
from bench.levers import CAM_LEVERS
from bench.published_step import PublishedStep
from bench.timing import count_operations
from bench.train_cam import CamStep, check_losses
from bench.workload import CLASSES, drawn_batch, operations
from stages.config import TrainCam
from stages.networks.cam_model import new_cam_model
from stages.runtime.fabric import make_fabric
from stages.toco.step import Phase, TrainingStep

TINY = ["--device", "cpu", "--backbone", "vit_tiny_patch16_224", "--backbone-option", "depth=3", "num_heads=3"]
FEW_SMALL = ["--image-size", "64", "--images", "2", "--batches", "1", "--batch", "1", "--workers", "0"]
RUNS: list[tuple[Callable[[Sequence[str]], None], list[str], list[str]]] = [
    (
        train_cam.main,
        [*TINY, "--image-size", "64", "--published", "--levers", "unfused", "checkpointed"],
        ["| published |", "| toco |", "| checkpointed |", "| PTC |", "| energy |", "| optimiser |"],
    ),
    (train_cam.main, [*TINY, "--image-size", "64", "--published", "--early"], ["| published |", "| toco |"]),
    (cams.main, [*TINY, "--image-size", "64", "--batch", "1", "2"], ["| one by one |", "| 2 at a time |", "| CAM |"]),
    (
        student.main,
        ["--device", "cpu", "--image-size", "32", "--batch", "2", "--levers", "channels-last"],
        ["| toco |", "| channels-last |", "| backward |"],
    ),
    (
        loader.main,
        [*FEW_SMALL, "--large", "600", "450", "--large-images", "1"],
        ["| 0 |", "| decode |", "| photometric: first view |", "| jpg, 0.", "| png, 0."],
    ),
]


@pytest.mark.parametrize(("main", "arguments", "rows"), RUNS)
def test_bench__prints_its_tables(
    main: Callable[[Sequence[str]], None],
    arguments: list[str],
    rows: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (train_cam, cams, student):
        monkeypatch.setattr(module, "measured_peak", lambda device: 0.1)
    main([*arguments, "--repeats", "1"])
    printed = capsys.readouterr().out
    assert "nan" not in printed
    for row in rows:
        assert f"\n{row}" in printed


def test_step_memory__counts_a_step(capsys: pytest.CaptureFixture[str]) -> None:
    step_memory.main([*TINY[2:], "--image-size", "64", "--batch", "2"])
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows] == ["| way, GB", "| ---", "| toco", "| --checkpoint-activations"]
    config = TrainCam(backbone="vit_tiny_patch16_224", backbone_option=("depth=3",), weights="none", image_size=64)
    batch = drawn_batch(config, seed=0)
    plain, again = (step_memory.count(config, batch, checkpoint=checkpoint) for checkpoint in (False, True))
    assert plain[:3] == again[:3]
    assert plain.moments >= 2 * plain.gradients  # and the steps that it counts
    assert again.kept < plain.kept
    assert plain.peak > plain.weights + plain.moments + plain.kept


def test_live__by_hand() -> None:
    with step_memory.Live() as live:
        one = torch.zeros(256)
        two = one + 1  # 2 KiB
        del one
        three = two.view(2, 128)
        del two
        assert (live.now, live.peak) == (1024, 2048)
        torch.zeros(64, dtype=torch.uint8)
        three = three.bfloat16()
    assert (live.now, live.peak) == (512, 2048)
    assert three.shape == (2, 128)


def steps(*kinds: type[TrainingStep], lever: str | None = None, segment: bool = True) -> list[CamStep]:
    """The same tiny network in steps of several kinds, the last one with the lever."""
    torch.manual_seed(0)
    config = TrainCam(
        backbone="vit_tiny_patch16_224", backbone_option=("depth=3",), weights="none", image_size=96, batch_size=3
    )
    model, _ = new_cam_model(config, CLASSES)
    fabric, batch, phase = make_fabric("cpu"), drawn_batch(config, seed=1), Phase(contrast=True, segment=segment)
    return [
        CamStep(
            kind,
            copy.deepcopy(model),
            config,
            fabric,
            batch,
            phase,
            CAM_LEVERS[lever] if lever and place == len(kinds) - 1 else None,
        )
        for place, kind in enumerate(kinds)
    ]


def assert_equal_gradients(one: CamStep, other: CamStep) -> None:
    for step in (one, other):
        torch.manual_seed(0)
        step.step(step.batch, step.phase, step.crops).total.backward()
    for (name, ours), theirs in zip(one.step.named_parameters(), other.step.parameters(), strict=True):
        if ours.requires_grad:
            # Not reached by a loss, and reached by one of weight 0, are the same.
            mine = ours.grad if ours.grad is not None else torch.zeros_like(ours)
            its = theirs.grad if theirs.grad is not None else torch.zeros_like(theirs)
            scale = max(mine.abs().max().item(), 1e-6)
            assert (mine - its).abs().max().item() < 1e-3 * scale, name


@pytest.mark.parametrize("segment", [True, False])
def test_published_step__same_losses_and_gradients(segment: bool) -> None:
    toco, published = steps(TrainingStep, PublishedStep, segment=segment)
    check_losses(published.losses_in_float32(), toco.losses_in_float32(), early=not segment)
    assert_equal_gradients(toco, published)
    teachers = (one.step.model.teacher_projector.prototypes for one in (toco, published))
    torch.testing.assert_close(next(teachers), next(teachers))


@pytest.mark.parametrize("lever", [name for name in CAM_LEVERS if name not in ("unfused", "compiled", "compiled-par")])
def test_levers__change_no_gradient(lever: str) -> None:
    plain, changed = steps(TrainingStep, TrainingStep, lever=lever)
    check_losses(changed.losses_in_float32(), plain.losses_in_float32(), early=False)
    assert_equal_gradients(plain, changed)


def test_check_losses__refuses_others() -> None:
    (toco,) = steps(TrainingStep)
    losses = toco.losses_in_float32()
    with pytest.raises(AssertionError, match="not the same"):
        check_losses(losses._replace(ctc=1.01 * losses.ctc), losses, early=False)


def test_operations__are_those_of_the_method() -> None:
    config = TrainCam(weights="none")  # ViT-B, 448 pixels, batch 4: METHOD.md, section 9
    with torch.device("meta"):
        backbone = new_cam_model(config, CLASSES)[0].backbone
    ours, published = operations(config, backbone), operations(config, backbone, published=True)
    figures = (ours.cam, ours.forward, ours.backward, published.cam, published.forward, published.backward)
    assert [round(one / 1e12, 1) for one in figures] == [4.2, 1.5, 2.9, 4.9, 3.3, 4.2]


def test_count_operations__of_dense_and_sparse_products() -> None:
    dense, sparse = torch.ones(3, 4), torch.eye(4).to_sparse_csr()
    assert count_operations(lambda: dense @ dense.T) == 2 * 3 * 4 * 3
    assert count_operations(lambda: sparse @ dense.T) == 2 * 4 * 3


@pytest.mark.parametrize("groups", [1, 4])
def test_count_operations__of_a_convolution_and_its_gradients(groups: int) -> None:
    layer = torch.nn.Conv2d(4, 4, kernel_size=3, padding=1, groups=groups, bias=False)
    images = torch.ones(2, 4, 5, 5, requires_grad=True)
    forward = 2 * (2 * 4 * 5 * 5) * (4 // groups * 9)
    assert count_operations(lambda: layer(images).sum().backward()) == 3 * forward
