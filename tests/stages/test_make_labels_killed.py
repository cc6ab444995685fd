"""`toco make-labels` killed at random moments: no damaged file under a final name, and a rerun makes the same."""

import random
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from stages.run_folder.artifacts import finished

KILLS = 20
Content = dict[str, NDArray[np.generic]]


def content(folder: Path) -> Content:
    found: Content = {}
    for name in ("cams.h5", "labels.h5"):
        with h5py.File(folder / name) as file:

            def visit(path: str, item: object, name: str = name) -> None:
                if isinstance(item, h5py.Dataset):
                    found[f"{name}/{path}"] = item[()]

            file.visititems(visit)
    return found


def readable(path: Path) -> int:
    """Read all of a file and count its images; raises for a damaged file."""
    with h5py.File(path) as file:
        names: list[str] = []
        file["masks" if "masks" in file else "cams"].visit(names.append)
        for name in names:
            item = file[f"{'masks' if 'masks' in file else 'cams'}/{name}"]
            if isinstance(item, h5py.Dataset):
                item[()]
        return len(names)


@pytest.mark.slow
def test_make_labels__killed_at_random_moments(trained_run: Path, tmp_path: Path, child_processes: Any) -> None:
    from labelling_process import SHARD, label_in_process  # type: ignore[import-not-found]

    def new_run(name: str) -> Path:
        (tmp_path / name).mkdir()
        (tmp_path / name / "cam").symlink_to(trained_run / "cam")
        return tmp_path / name

    durations = []
    for name in ("warm", "undisturbed"):
        began = time.monotonic()
        process = child_processes.start(label_in_process, new_run(name), tmp_path / f"{name}.log", False)
        process.join()
        assert process.exitcode == 0
        durations.append(time.monotonic() - began)
    expected = content(tmp_path / "undisturbed" / "labels")
    source = random.Random(0)
    stopped = 0
    for number in range(KILLS):
        run, log = new_run(f"run{number}"), tmp_path / f"run{number}.log"
        process = child_processes.start(label_in_process, run, log, False)
        time.sleep(source.uniform(0.1, 1.0) * durations[-1])
        process.kill()
        process.join()
        for path in run.rglob("*.h5"):
            if not path.name.startswith("."):
                assert readable(path)
        stopped += not finished(run, "labels")
        again = child_processes.start(label_in_process, run, log, True)
        again.join()
        assert again.exitcode == 0
        assert log.stat().st_size - 8 <= SHARD  # at most one shard is made again
        mine = content(run / "labels")
        assert mine.keys() == expected.keys()
        for key, value in expected.items():
            np.testing.assert_array_equal(mine[key], value)
        # A run that was killed after its last file and before its line of sessions.jsonl has no such file.
        names = {path.name for path in (run / "labels").iterdir()} - {"sessions.jsonl"}
        assert names == {"config.json", "cams.h5", "labels.h5"}
    assert stopped >= KILLS // 2  # otherwise the kills came too late to test anything


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for processes in /proc")
def test_make_labels__killed_leaves_no_process(trained_run: Path, tmp_path: Path, child_processes: Any) -> None:
    from labelling_process import label_with_others

    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "cam").symlink_to(trained_run / "cam")
    log = tmp_path / "log"
    log.touch()
    process = child_processes.start(label_with_others, tmp_path / "run", log)
    while process.is_alive() and not log.stat().st_size:
        time.sleep(0.05)
    assert process.is_alive()
    process.kill()
    process.join()
    children = {int(number) for number in log.read_text().split()}
    assert children
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.05)
