import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench import quality
from stages.config import MakeLabels, TrainCam, TrainSeg


def test_table__spread_and_share_of_the_ceiling() -> None:
    figures = {
        "toco, cam": {"0": 50.0, "1": 52.0},
        "toco, cam, linear": {"0": 40.0, "1": 44.0},
        "toco, ground-truth, linear": {"0": 70.0, "1": 70.0},
    }
    assert quality.table(figures).splitlines()[2:] == [
        "| toco | cam | masks (train) | 51.0 (50.0 to 52.0) | 2 |  |",
        "| toco | cam | linear | 42.0 (40.0 to 44.0) | 2 | 60% |",
        "| toco | ground-truth | linear | 70.0 (70.0 to 70.0) | 2 |  |",
    ]


@pytest.mark.slow
def test_quality__measures_all_and_goes_on(
    pictures: Path,
    tmp_path: Path,
    cam_settings: Callable[..., TrainCam],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tiny: dict[str, Any] = {"device": "cpu", "workers": 1}
    monkeypatch.setattr(quality, "CAM", cam_settings())
    plain = MakeLabels(relabel="none", **tiny)
    again = MakeLabels(relabel="linear", relabel_rounds=1, relabel_steps=20, **tiny)
    monkeypatch.setattr(quality, "LABELS", {"cam": plain, "relabelled": again})
    monkeypatch.setattr(
        quality, "STUDENTS", {"linear": TrainSeg(arch="linear", iterations=2, batch_size=2, evaluate_every=0, **tiny)}
    )
    names = ["--backbone", "vit_tiny_patch16_224", "--weights", "none", "--students", "linear"]
    command = ["quality", str(pictures), "--out", str(tmp_path), *names, "--labels", "cam", "relabelled"]
    monkeypatch.setattr("sys.argv", [*command, "--seeds", "0"])
    quality.main()
    first = json.loads((tmp_path / "quality.json").read_text())["figures"]
    assert set(first) == {
        "toco, cam", "toco, cam, linear", "toco, relabelled", "toco, relabelled, linear", "toco, ground-truth, linear",
    }  # fmt: skip
    assert all(0 <= value["0"] <= 100 for value in first.values())
    monkeypatch.setattr(quality, "train", None)  # nothing is trained again
    monkeypatch.setattr(quality, "score", None)
    quality.main()
    assert json.loads((tmp_path / "quality.json").read_text())["figures"] == first
    assert "| toco | relabelled | linear |" in capsys.readouterr().out
