"""Each bench runs at a tiny size and prints its tables; operations are counted correctly."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

TINY = ["--device", "cpu", "--backbone", "vit_tiny_patch16_224", "--backbone-option", "depth=3", "num_heads=3"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arguments", "rows"),
    [
        (
            "step_speed",
            [*TINY, "--image-size", "64", "--beside", "float32", "grad-checkpointing"],
            ["| toco |", "| float32 |", "| grad-checkpointing |", "| PTC |", "| energy |", "| optimiser |"],
        ),
        ("step_speed", [*TINY, "--image-size", "64", "--early"], ["| toco |", "| CTC |"]),
        ("cam_speed", [*TINY, "--image-size", "64", "--batch", "1", "2"], ["| 2 at a time |", "| CAM |"]),
        ("student_speed", ["--device", "cpu", "--image-size", "32", "--batch", "2"], ["| backward |"]),
        (
            "loader_speed",
            ["--image-size", "64", "--images", "2", "--batches", "1", "--workers", "0", "--cache"],
            ["| 0 |", "| decode |", "| photometric: first view |", "| all |"],
        ),
        (
            "crf_speed",
            ["--device", "cpu", "--images", "1", "--labels", "2", "--threads", "1"],
            ["| pseudo labels | 2 | toco |", "| segmentation | 2 | toco, fast |", "| bilateral |"],
        ),
    ],
)
def test_bench__prints_its_tables(
    name: str,
    arguments: list[str],
    rows: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import importlib

    module = importlib.import_module(f"bench.{name}")
    monkeypatch.setattr("bench.timing.measured_peak", lambda device: 0.1)
    main: Callable[[Sequence[str]], list[dict[str, Any]]] = module.main
    table = main([*arguments, "--repeats", "1"])
    printed = capsys.readouterr().out
    assert table
    assert "nan" not in printed
    for row in rows:
        assert f"\n{row}" in printed


def test_store_speed__counts_the_bytes_of_masks_and_cams(capsys: pytest.CaptureFixture[str]) -> None:
    from bench import store_speed

    table = store_speed.main(["--images", "3", "--size", "40", "30", "--cam-size", "20", "15"])
    assert [row["step"] for row in table][:3] == ["write shards", "join", "read labels.h5, LabelFile"]
    small, large = (
        {row["step"]: float(row["bytes an image"]) for row in store_speed.main(["--images", "3", "--size", *size])}
        for size in (["40", "30"], ["400", "300"])
    )
    assert large["read cams.h5, h5py"] > 20 * small["read cams.h5, h5py"]
    assert "| join |" in capsys.readouterr().out


@pytest.mark.slow
def test_encoder_operations__are_those_of_the_method() -> None:
    import torch

    from bench.workload import CLASSES, encoder_operations
    from stages.config import TrainCam
    from stages.networks.cam_model import new_cam_model

    config = TrainCam(weights="none")  # ViT-B, 448 pixels, batch 4: METHOD.md, section 9
    with torch.device("meta"):
        backbone = new_cam_model(config, CLASSES)[0].backbone
    counted = encoder_operations(config, backbone)
    assert {name: round(one / 1e12, 1) for name, one in counted.items()} == {
        "cam": 4.2,
        "forward": 1.5,
        "backward": 2.9,
    }


@pytest.mark.slow
def test_count_operations__of_dense_and_sparse_products() -> None:
    import torch

    from bench.timing import count_operations

    dense, sparse = torch.ones(3, 4), torch.eye(4).to_sparse_csr()
    assert count_operations(lambda: dense @ dense.T) == 2 * 3 * 4 * 3
    assert count_operations(lambda: sparse @ dense.T) == 2 * 4 * 3


@pytest.mark.slow
@pytest.mark.parametrize("groups", [1, 4])
def test_count_operations__of_a_convolution_and_its_gradients(groups: int) -> None:
    import torch

    from bench.timing import count_operations

    layer = torch.nn.Conv2d(4, 4, kernel_size=3, padding=1, groups=groups, bias=False)
    images = torch.ones(2, 4, 5, 5, requires_grad=True)
    forward = 2 * (2 * 4 * 5 * 5) * (4 // groups * 9)
    assert count_operations(lambda: layer(images).sum().backward()) == 3 * forward
