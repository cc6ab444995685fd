"""Locks of stage and output folders: between processes, after a kill, from other machines, without kernel locks."""

import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import stages.run_folder.lock
from data.dataset import Dataset, Sample
from data.errors import ArtifactError, SettingsError
from data.readers import open_dataset
from stages.config import MakeLabels, TrainCam, TrainSeg
from stages.demo import demo
from stages.make_labels import make_labels
from stages.preflight.checks import DEMO_MARK, before_make_labels, before_train_seg
from stages.run_folder.artifacts import PRODUCTS, begin_stage, open_stage
from stages.run_folder.lock import OUTPUT_LOCK, check_not_locked, output_lock, stage_lock
from stages.runtime.monitor import SilentMonitor
from stages.train_seg import train_seg

MONITOR = SilentMonitor()
HOLD = """
import sys, time
from pathlib import Path
from stages.run_folder.lock import output_lock, stage_lock
from stages.runtime.monitor import SilentMonitor
folder = Path(sys.argv[1])
with stage_lock(folder, *sys.argv[2:], monitor=SilentMonitor()), output_lock(folder / "out", SilentMonitor()):
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def holding(folder: Path, *stages: str) -> Iterator["subprocess.Popen[str]"]:
    """Run another process that writes into these stages of a run, and into folder/out."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), *stages], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


@pytest.fixture
def other(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process that writes into tmp_path/cam and tmp_path/out."""
    with holding(tmp_path, "cam") as process:
        yield process


def test_lock__refuses_folders_of_another_process(tmp_path: Path, other: "subprocess.Popen[str]") -> None:
    who = rf"in use by process {other.pid} on {re.escape(socket.gethostname())}, which began at 2\d\d\d-.*: wait"
    with pytest.raises(ArtifactError, match=rf"{tmp_path}/cam is {who}"), stage_lock(tmp_path, "cam", monitor=MONITOR):
        pass
    with pytest.raises(ArtifactError, match=who), stage_lock(tmp_path, "seg", "cam", monitor=MONITOR):
        pass  # as `toco run` does
    with pytest.raises(ArtifactError, match=rf"out is {who}"), output_lock(tmp_path / "out", MONITOR):
        pass
    with pytest.raises(ArtifactError, match=who):
        check_not_locked(tmp_path, "labels", "cam")
    check_not_locked(tmp_path, "labels", "seg")
    with stage_lock(tmp_path, "labels", monitor=MONITOR):  # another stage
        pass


@pytest.mark.usefixtures("other")
def test_open_stage__that_another_process_makes(tmp_path: Path) -> None:
    dataset = Dataset(
        root=tmp_path,
        layout="custom",
        class_names=("cat", "dog"),
        splits={"train": (Sample(id="a", image=tmp_path / "a.jpg", classes=(1,), mask=None),)},
        train_split="train",
        val_split=None,
    )
    begin_stage(tmp_path, "cam", settings=TrainCam(), dataset=dataset)
    with pytest.raises(ArtifactError, match=rf"^{tmp_path}/cam is in use by process \d+ on "):
        open_stage(tmp_path, "cam")
    (tmp_path / "cam" / "model.safetensors").touch()  # of the earlier training, while it is made again
    assert open_stage(tmp_path, "cam").class_names == ("cat", "dog")


def test_lock__of_a_killed_process_is_taken_over(tmp_path: Path, other: "subprocess.Popen[str]", listener: Any) -> None:
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert (tmp_path / ".cam.lock").is_file()
    check_not_locked(tmp_path, "cam")
    monitor = listener()
    with stage_lock(tmp_path, "cam", monitor=monitor), output_lock(tmp_path / "out", monitor):
        assert json.loads((tmp_path / ".cam.lock").read_text())["pid"] == os.getpid()
    assert monitor.warnings == []


def test_lock__is_not_kept_by_forked_children(tmp_path: Path) -> None:
    """The workers of a data loader outlive a killed training by some seconds."""
    child = 0
    try:
        with stage_lock(tmp_path, "cam", monitor=MONITOR):
            child = os.fork()
            if child == 0:
                time.sleep(60)
                os._exit(0)
        probe = subprocess.run(
            [sys.executable, "-c", HOLD.replace("time.sleep(60)", ""), str(tmp_path), "cam"],
            capture_output=True,
            check=False,
        )
        assert probe.returncode == 0, probe.stderr
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_lock__may_be_taken_again_by_its_process_and_leaves_nothing(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with stage_lock(run, "cam", "labels", monitor=MONITOR):
        with stage_lock(run, "cam", monitor=MONITOR):
            check_not_locked(run, "cam")
        assert (run / ".cam.lock").is_file()  # still locked
        probe = subprocess.run(
            [sys.executable, "-c", HOLD, str(run), "cam"], capture_output=True, text=True, check=False
        )
        assert f"in use by process {os.getpid()} on" in probe.stderr
    assert not run.exists()
    run.mkdir()
    with stage_lock(run, "cam", monitor=MONITOR):
        (run / "cam").mkdir()
    assert [path.name for path in run.iterdir()] == ["cam"]


def test_lock__is_for_rank_zero_alone(
    tmp_path: Path, other: "subprocess.Popen[str]", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    check_not_locked(tmp_path, "cam")
    with stage_lock(tmp_path, "cam", monitor=MONITOR):
        pass


def test_lock__warns_of_a_process_of_another_machine(tmp_path: Path, listener: Any) -> None:
    """Some network drives lock on each machine alone."""
    (tmp_path / ".cam.lock").write_text(json.dumps({"host": "node7", "pid": 12, "since": "2026-01-01T10:00:00+01:00"}))
    monitor = listener()
    with stage_lock(tmp_path, "cam", monitor=monitor):
        pass
    (warning,) = monitor.warnings
    assert "cam was left by process 12 on node7, which began at 2026-01-01T10:00:00+01:00: make sure" in warning


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"host": "a"}', "\0\0"])
def test_lock__reads_any_file(tmp_path: Path, text: str) -> None:
    (tmp_path / OUTPUT_LOCK).write_text(text)
    with output_lock(tmp_path, MONITOR):
        pass


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_lock__warns_where_there_are_no_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, listener: Any
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(stages.run_folder.lock, "lockf", no_locks)
    monitor = listener()
    with stage_lock(tmp_path, "cam", monitor=monitor):
        check_not_locked(tmp_path, "cam")
    (warning,) = monitor.warnings
    assert f"cam cannot be locked ({os.strerror(code)}): make sure that no other command writes there" in warning


def test_lock__gives_up_where_files_are_not_recognised_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listener: Any
) -> None:
    """Some network drives number their files anew each time."""
    monkeypatch.setattr(os.path, "samestat", lambda *_: False)
    monitor = listener()
    with stage_lock(tmp_path, "cam", monitor=monitor):
        pass
    (warning,) = monitor.warnings
    assert "cam cannot be locked (its file system does not recognise a file again): make sure" in warning


def test_lock__file_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / ".cam.lock"
    path.touch()

    def refuse(self: Path, *_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)  # root may write all files
    check_not_locked(tmp_path, "cam")
    message = rf"cam cannot be locked: no permission to write {path}; .* if no other"
    with pytest.raises(ArtifactError, match=message), stage_lock(tmp_path, "cam", monitor=MONITOR):
        pass
    with (
        pytest.raises(ArtifactError, match="no permission to write into"),
        stage_lock(tmp_path, "seg", monitor=MONITOR),
    ):
        pass


@pytest.mark.parametrize("below", ["", "run", "a/b"])
def test_lock__needs_a_folder(tmp_path: Path, below: str) -> None:
    file = tmp_path / "file"
    file.touch()
    message = f"^{file} is not a folder: give another one"
    with pytest.raises(SettingsError, match=message), stage_lock(file / below, "cam", monitor=MONITOR):
        pass
    with pytest.raises(SettingsError, match=message), output_lock(file / below, MONITOR):
        pass
    with pytest.raises(SettingsError, match=message):
        check_not_locked(file / below, "cam")


@pytest.mark.parametrize(("source", "command"), [("cam", "make-labels"), ("labels", "train-seg"), ("labels", "demo")])
def test_lock__of_what_a_stage_is_made_from(
    draw_pictures: Callable[[Path], Path], tmp_path: Path, source: str, command: str
) -> None:
    """Its file must not be replaced between reading it and noting its digest."""
    dataset, run = open_dataset(draw_pictures(tmp_path / "data")), tmp_path / "demo" / "run"
    for stage, settings in (("cam", TrainCam()), ("labels", MakeLabels())):
        folder = begin_stage(run, stage, settings=settings, dataset=dataset).path
        for name in PRODUCTS[stage]:
            (folder / name).touch()
    (tmp_path / "demo" / DEMO_MARK).touch()
    attempts: dict[str, list[Callable[[], object]]] = {
        "make-labels": [
            lambda: before_make_labels(run, MakeLabels(), SilentMonitor(), overwrite=True),
            lambda: make_labels(run, MakeLabels(), MONITOR, overwrite=True),
        ],
        "train-seg": [lambda: before_train_seg(run, TrainSeg()), lambda: train_seg(run, TrainSeg(), MONITOR)],
        "demo": [lambda: demo(tmp_path / "demo", MONITOR, overwrite=True)],  # deletes the folder
    }
    with holding(run, source):
        for attempt in attempts[command]:
            with pytest.raises(ArtifactError, match=f"run/{source} is in use by process"):
                attempt()
    assert (run / "labels" / "labels.h5").is_file()


def test_demo__while_another_draws_there(tmp_path: Path) -> None:
    with holding(tmp_path, "cam"), pytest.raises(ArtifactError, match="out is in use by process"):
        demo(tmp_path / "out", MONITOR)
