import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomlkit

from stages.config import MakeLabels, Run, TrainCam, TrainSeg
from stages.monitor import SilentMonitor
from stages.run import run
from stages.whole_files import ArtifactError

PRODUCTS = ("cam/model.safetensors", "labels/cams.h5", "labels/labels.h5", "seg/model.safetensors")
LABELS = MakeLabels(crf="full", device="cpu", workers=1)


@pytest.fixture
def own_run(whole_run: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole_run, tmp_path / "run")
    return tmp_path / "run"


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in PRODUCTS}


def test_run__leaves_all_products_and_a_config_that_says_how(whole_run: Path) -> None:
    assert all((whole_run / name).is_file() for name in PRODUCTS)
    assert (whole_run / "report.html").is_file()
    config = tomlkit.parse((whole_run / "config.toml").read_text()).unwrap()
    assert config["train-cam"]["backbone-option"][0] == "patch_size=8"
    assert config["make-labels"]["crf"] == "full"
    assert config["train-seg"]["iterations"] == 2
    assert {"command", "torch", "processor", "data_fingerprint", "began"} <= config["made-with"].keys()


def test_run__what_is_finished_is_not_done_again(
    own_run: Path,
    pictures: Path,
    cam_settings: Callable[..., TrainCam],
    seg_settings: Callable[..., TrainSeg],
    listener: Callable[[], Any],
) -> None:
    before = {name: (own_run / name).stat().st_mtime_ns for name in PRODUCTS}
    heard = listener()
    run(pictures, own_run, Run(), heard, cam=cam_settings(), labels=LABELS, seg=seg_settings())
    assert {name: (own_run / name).stat().st_mtime_ns for name in PRODUCTS} == before
    notes = "\n".join(heard.notes)
    assert re.findall(r"(\d/4 [a-z-]+): .* is finished already", notes) == [
        "1/4 train-cam",
        "2/4 make-labels",
        "3/4 train-seg",
    ]


def test_run__overwrite_starts_again_with_a_stage(
    own_run: Path, pictures: Path, cam_settings: Callable[..., TrainCam], seg_settings: Callable[..., TrainSeg]
) -> None:
    before = contents(own_run)
    seg = seg_settings(iterations=3)
    run(pictures, own_run, Run(overwrite="train-seg"), SilentMonitor(), cam=cam_settings(), labels=LABELS, seg=seg)
    changed = {name for name, content in contents(own_run).items() if content != before[name]}
    assert changed == {"seg/model.safetensors"}


def test_run__other_settings_are_refused_by_their_whole_names(
    own_run: Path, pictures: Path, cam_settings: Callable[..., TrainCam], seg_settings: Callable[..., TrainSeg]
) -> None:
    config = (own_run / "config.toml").read_bytes()
    with pytest.raises(ArtifactError) as caught:
        run(
            pictures,
            own_run,
            Run(),
            SilentMonitor(),
            cam=cam_settings(ptc_weight=0.0),
            labels=LABELS,
            seg=seg_settings(),
        )
    assert "begun with --train-cam.ptc-weight 0.2 and cannot go on with 0.0" in str(caught.value)
    assert "--overwrite train-cam" in str(caught.value)
    assert (own_run / "config.toml").read_bytes() == config


def test_run__may_go_on_with_other_workers(
    own_run: Path, pictures: Path, cam_settings: Callable[..., TrainCam], seg_settings: Callable[..., TrainSeg]
) -> None:
    run(pictures, own_run, Run(), SilentMonitor(), cam=cam_settings(workers=1), labels=LABELS, seg=seg_settings())


@pytest.mark.parametrize("part", ["training the CAM network", "making labels", "training the student"])
def test_run__stopped_anywhere_it_ends_as_if_undisturbed(
    part: str,
    whole_run: Path,
    pictures: Path,
    cam_settings: Callable[..., TrainCam],
    seg_settings: Callable[..., TrainSeg],
    tmp_path: Path,
) -> None:
    class Impatient(SilentMonitor):
        task = ""

        def start(self, title: str, total: int, done: int = 0, unit: str = "images") -> None:
            self.task = title

        def advance(self, steps: int = 1, **figures: float) -> None:
            if part in self.task:
                raise KeyboardInterrupt

    def again(monitor: SilentMonitor) -> None:
        run(pictures, tmp_path / "run", Run(), monitor, cam=cam_settings(), labels=LABELS, seg=seg_settings())

    with pytest.raises(KeyboardInterrupt):
        again(Impatient())
    assert (tmp_path / "run/config.toml").is_file()
    again(SilentMonitor())
    assert contents(tmp_path / "run") == contents(whole_run)


def test_run__tells_when_the_data_changed_since(
    draw_pictures: Callable[[Path], Path],
    own_run: Path,
    cam_settings: Callable[..., TrainCam],
    seg_settings: Callable[..., TrainSeg],
    listener: Callable[[], Any],
    tmp_path: Path,
) -> None:
    data = draw_pictures(tmp_path / "data")
    table = (data / "labels.csv").read_text()
    (data / "labels.csv").write_text(table.replace("a.jpg,red,", "a.jpg,blue,"))
    heard = listener()
    run(data, own_run, Run(), heard, cam=cam_settings(), labels=LABELS, seg=seg_settings())
    assert any("is not as it was when" in warning for warning in heard.warnings)


def test_run__several_devices_are_refused(
    pictures: Path, cam_settings: Callable[..., TrainCam], seg_settings: Callable[..., TrainSeg], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"--train-cam.devices 2: 'toco run' uses one device"):
        run(
            pictures,
            tmp_path / "run",
            Run(),
            SilentMonitor(),
            cam=cam_settings(devices=2),
            labels=LABELS,
            seg=seg_settings(),
        )
    assert not (tmp_path / "run").exists()


def test_run__a_damaged_config_is_said(
    own_run: Path, pictures: Path, cam_settings: Callable[..., TrainCam], seg_settings: Callable[..., TrainSeg]
) -> None:
    (own_run / "config.toml").write_text("[train-cam\n")
    with pytest.raises(ArtifactError, match=r"config\.toml is damaged"):
        run(pictures, own_run, Run(), SilentMonitor(), cam=cam_settings(), labels=LABELS, seg=seg_settings())
