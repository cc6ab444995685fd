"""Stages in several processes, which give what one process gives.

In one file, because the first of these tests starts the server that they fork from, for seconds.
"""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from data.written_folders import MARK
from stages.config import MakeLabels, TrainCam
from stages.make_labels import make_labels
from stages.runtime.monitor import SilentMonitor

Settings = Callable[..., TrainCam]


@pytest.fixture
def train_in_child() -> Callable[..., Any]:
    """The function that child processes of these tests call; see `training_process.py`."""
    from training_process import train  # type: ignore[import-not-found]  # not above: it imports torch

    return cast(Callable[..., Any], train)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_almost_equal(folder: Path, other: Path) -> None:
    """The same metrics, line by line, within the rounding of sums in another order."""
    for one, expected in zip(lines(folder), lines(other), strict=True):
        assert one == pytest.approx(expected, rel=1e-5, abs=1e-5)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_train_cam__two_processes_have_the_losses_of_one_also_when_one_was_killed(
    trained_run: Path,
    pictures: Path,
    cam_settings: Settings,
    tmp_path: Path,
    child_processes: Any,
    train_in_child: Callable[..., Any],
) -> None:
    """Gradient checkpointing must fit to data-parallel training, too; the tests below do without it."""
    settings = cam_settings(devices=2, grad_checkpointing=True)
    killed, other = child_processes.run(train_in_child, pictures, tmp_path / "run", settings, "cut", ranks=2)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert other.returncode == 1  # it ended by itself
    assert "gloo" in other.stderr
    for done in child_processes.run(train_in_child, pictures, tmp_path / "run", settings, ranks=2):
        assert done.returncode == 0, done.stderr
    assert_almost_equal(tmp_path / "run" / "cam", trained_run / "cam")


@pytest.mark.skipif(sys.platform == "win32", reason="signals of a group are POSIX's")
def test_train_cam__two_processes_stop_together(
    trained_run: Path,
    pictures: Path,
    cam_settings: Settings,
    tmp_path: Path,
    child_processes: Any,
    train_in_child: Callable[..., Any],
) -> None:
    """Ctrl-C reaches both at the first step; they agree at the second, where losses are logged, and not before."""
    settings = cam_settings(devices=2, log_every=2, checkpoint_every=500)
    for stopped in child_processes.run(train_in_child, pictures, tmp_path / "run", settings, "interrupt", ranks=2):
        assert stopped.returncode not in (0, -signal.SIGKILL), stopped.stderr
        assert "KeyboardInterrupt" in stopped.stderr
        assert "gloo" not in stopped.stderr
    assert (tmp_path / "run" / "cam" / "checkpoint.pt").is_file()
    assert lines(tmp_path / "run" / "cam")[-1]["iteration"] == 2
    again = replace(settings, log_every=1)
    for done in child_processes.run(train_in_child, pictures, tmp_path / "run", again, ranks=2):
        assert done.returncode == 0, done.stderr
    assert lines(tmp_path / "run" / "cam")[-1] == pytest.approx(lines(trained_run / "cam")[-1], rel=1e-5, abs=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals of a group are POSIX's")
def test_train_cam__processes_that_toco_starts_itself_end_together(
    trained_run: Path,
    pictures: Path,
    cam_settings: Settings,
    tmp_path: Path,
    child_processes: Any,
    train_in_child: Callable[..., Any],
) -> None:
    """Interrupted, killed and resumed: the second process is a child of the first and ends with it each time."""
    settings = cam_settings(devices=2, log_every=2, checkpoint_every=500)
    stopped = child_processes.run_anew(train_in_child, pictures, tmp_path / "run", settings, "interrupt")
    assert stopped.returncode not in (0, -signal.SIGKILL), stopped.stderr
    assert "KeyboardInterrupt" in stopped.stderr
    assert "gloo" not in stopped.stderr
    assert lines(tmp_path / "run" / "cam")[-1]["iteration"] == 2

    settings = cam_settings(devices=2)
    killed = child_processes.run_anew(train_in_child, pictures, tmp_path / "other", settings, "cut")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert "gloo" in killed.stderr  # of the second, which ended by itself
    done = child_processes.run_anew(train_in_child, pictures, tmp_path / "other", settings)
    assert done.returncode == 0, done.stderr
    assert_almost_equal(tmp_path / "other" / "cam", trained_run / "cam")


@pytest.fixture
def other_run(trained_run: Path, tmp_path: Path) -> Path:
    """A second run of the network of `cam_run`."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other/cam").symlink_to(trained_run / "cam")
    return tmp_path / "other"


def stored_in(run: Path) -> dict[str, NDArray[Any]]:
    """All CAMs and masks of a run."""
    found: dict[str, NDArray[Any]] = {}

    def keep(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = item[()]

    for name in ("cams.h5", "labels.h5"):
        with h5py.File(run / "labels" / name) as file:
            file.visititems(keep)
    return found


def assert_same_labels(run: Path, other: Path) -> None:
    one, two = stored_in(run), stored_in(other)
    assert len(one) == 24  # CAMs, a digest and a mask of each image
    assert one.keys() == two.keys()
    for name, values in one.items():
        np.testing.assert_array_equal(values, two[name], err_msg=name)


def test_make_labels__crf_in_other_processes(cam_run: Path, other_run: Path) -> None:
    """As on any CPU with several cores; to the bit as here."""
    config = MakeLabels(
        relabel="none", device="cpu", workers=1, scales=(1.0, 0.5), batch_size=1, refine="crf", crf_backend="torch"
    )
    make_labels(cam_run, config, SilentMonitor())
    make_labels(other_run, replace(config, workers=2), SilentMonitor())
    assert_same_labels(cam_run, other_run)


def test_make_labels__two_processes_write_what_one_does(cam_run: Path, other_run: Path, child_processes: Any) -> None:
    settings = ["--device", "cpu", "--batch-size", "1", "--scales", "1", "--scales", "0.5", "--workers", "1"]
    settings += ["--relabel", "none", "--quiet"]
    for run, ranks in ((cam_run, 2), (other_run, 1)):
        for ended in child_processes.toco("make-labels", str(run), "--devices", str(ranks), *settings, ranks=ranks):
            assert ended.returncode == 0, ended.stderr
    assert_same_labels(cam_run, other_run)


def names(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() and path.name != MARK
    )


def toco_anew(*words: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a new interpreter; it starts its second process itself."""
    program = str(Path(sys.executable).with_name("toco"))
    return subprocess.run([program, *words], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("anew", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["forked", "by toco itself"])
def test_predict__two_processes_write_what_one_does(
    student_run: Any, tmp_path: Path, child_processes: Any, anew: bool
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(5):
        values = np.random.default_rng(number).integers(0, 256, (3, 4 + number % 2, 3), dtype=np.uint8)
        Image.fromarray(values).resize((40 + 10 * (number % 2), 30)).save(photos / f"{number}.png")
    bad = photos / "0b.jpg"  # the second one, for the second process
    Image.fromarray(values).resize((40, 30)).save(bad)
    bad.write_bytes(bad.read_bytes()[: bad.stat().st_size // 2])
    for processes in (1, 2):
        words = ["predict", str(student_run.run), str(photos), "--out", str(tmp_path / str(processes))]
        words += ["--devices", str(processes), "--device", "cpu", "--batch-size", "1"]
        words += ["--skip-bad", "--quiet", "--json"]
        ended = [toco_anew(*words)] if anew else child_processes.toco(*words, ranks=processes)
        assert not any(one.returncode for one in ended), ended
        (said,) = (one.stdout for one in ended if one.stdout)
        assert len(json.loads(said)["masks"]) == 5  # said once, of all images
        assert "".join(one.stderr for one in ended).count(f"skipped: {bad} cannot be read") == 1
    assert names(tmp_path / "1") == names(tmp_path / "2")
    for name in names(tmp_path / "1"):
        if name not in ("predict.json", "log.txt"):  # the command, and the time of each warning
            assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()
