"""Kills, full disks, little memory and damaged files: each ends in one line, and finished work is kept."""

import json
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="limits and signals of Linux"),
]

KILLS = 3  # of each command, each followed by a kill of the resumed one
SETTINGS = "--device cpu --workers 0 --quiet"
CAM = (
    "--backbone vit_tiny_patch16_224 --backbone-option patch_size=8 --backbone-option embed_dim=32 "
    "--backbone-option depth=2 --backbone-option num_heads=2 --auxiliary-block -2 --weights none --iterations 6 "
    f"--batch-size 2 --image-size 32 --seg-start 0.2 --log-every 1 --checkpoint-every 2 --evaluate-every 3 {SETTINGS}"
)
SEG = (
    "--arch Unet --encoder resnet18 --weights none --image-size 32 --iterations 6 --batch-size 2 --checkpoint-every 2 "
    f"{SETTINGS}"
)
LABELS = "--device cpu --workers 1 --batch-size 2 --quiet"


@dataclass(frozen=True)
class Command:
    """A command, the stages that it needs, its results, and how it is resumed."""

    words: str
    needs: tuple[str, ...]
    results: tuple[str, ...]
    resume: str = "--resume"


COMMANDS = {
    "train-cam": Command(f"train-cam DATA --out RUN {CAM}", (), ("cam/model.safetensors",)),
    "make-labels --crf": Command(
        f"make-labels RUN --crf --relabel none {LABELS}", ("cam",), ("labels/cams.h5", "labels/labels.h5")
    ),
    "make-labels --relabel linear": Command(
        f"make-labels RUN --relabel linear {LABELS}", ("cam",), ("labels/labels.h5", "labels/scores.h5")
    ),
    "train-seg": Command(f"train-seg RUN {SEG}", ("cam", "labels"), ("seg/model.safetensors",)),
    "predict": Command(
        f"predict RUN DATA/images --out RUN/out {SETTINGS}", ("cam", "labels", "seg"), ("out/masks", "out/overlays")
    ),
    "export": Command("export RUN --format voc --out RUN/out --quiet", ("cam", "labels"), ("out",), "--overwrite"),
}


def run_folder(folder: Path, whole_run: Path, needs: tuple[str, ...]) -> Path:
    folder.mkdir()
    for stage in needs:
        shutil.copytree(whole_run / stage, folder / stage)
    return folder


def words(command: Command, run: Path, data: Path) -> list[str]:
    return [word.replace("RUN", str(run)).replace("DATA", str(data)) for word in command.words.split()]


def results(command: Command, run: Path) -> dict[str, bytes]:
    """All bytes of the results; of HDF5 files, the values, since their bytes depend on the order of writing."""
    found: dict[str, bytes] = {}
    paths = [path for name in command.results for path in (run / name, *sorted((run / name).rglob("*")))]
    for path in (path for path in paths if path.is_file() and not path.name.startswith(".")):
        name = str(path.relative_to(run))
        if path.suffix != ".h5":
            found[name] = path.read_bytes()
            continue
        with h5py.File(path) as file:

            def keep(key: str, item: object, name: str = name) -> None:
                if isinstance(item, h5py.Dataset):
                    found[f"{name}/{key}"] = item[()].tobytes()

            file.visititems(keep)
    assert found
    return found


def assert_one_line(errors: str, where: str) -> None:
    lines = [line for line in errors.splitlines() if "error:" in line or not line.startswith("warning")]
    assert len(lines) == 1, f"{where}: {errors}"
    assert lines[0].startswith("toco: error: "), f"{where}: {errors}"
    assert "not foreseen" not in errors, f"{where}: {errors}"
    assert "Traceback" not in errors, f"{where}: {errors}"


@pytest.fixture(scope="module")
def undisturbed(
    whole_run: Path, pictures: Path, child_processes: Any, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[dict[str, bytes], float]]:
    """Runs a command once: its results, and its seconds."""
    kept: dict[str, tuple[dict[str, bytes], float]] = {}

    def run(name: str) -> tuple[dict[str, bytes], float]:
        if name not in kept:
            command = COMMANDS[name]
            for turn in ("warm", "timed"):
                folder = run_folder(tmp_path_factory.mktemp("faults") / turn, whole_run, command.needs)
                began = time.monotonic()
                (done,) = child_processes.toco(*words(command, folder, pictures))
                assert done.returncode == 0, done.stderr
                kept[name] = results(command, folder), time.monotonic() - began
        return kept[name]

    return run


@pytest.mark.parametrize("name", COMMANDS)
def test_killed_at_random_moments(
    name: str, whole_run: Path, pictures: Path, child_processes: Any, tmp_path: Path, undisturbed: Any
) -> None:
    from fault_process import quietly  # type: ignore[import-not-found]

    command = COMMANDS[name]
    expected, seconds = undisturbed(name)
    draws = random.Random(name)
    stopped = 0
    for number in range(KILLS):
        run = run_folder(tmp_path / str(number), whole_run, command.needs)
        given = words(command, run, pictures)
        for extra in ([], [command.resume]):  # the resumed command may be killed again
            process = child_processes.start(quietly, *given, *extra)
            process.join(draws.uniform(0.05, 0.8) * seconds)
            process.kill()
            process.join()
            stopped += process.exitcode == -signal.SIGKILL
        (done,) = child_processes.toco(*given, command.resume)
        assert done.returncode == 0, f"kill {number}: {done.stderr}"
        assert results(command, run) == expected, f"kill {number}"
    print(f"{name}: {stopped} of {2 * KILLS} killed")
    assert stopped >= KILLS - 1  # otherwise the kills came too late


@pytest.mark.parametrize("size", [300, 2_000, 9_000, 60_000])
@pytest.mark.parametrize("name", COMMANDS)
def test_disk_full(
    name: str, size: int, whole_run: Path, pictures: Path, child_processes: Any, tmp_path: Path, undisturbed: Any
) -> None:
    from fault_process import with_small_files

    command = COMMANDS[name]
    run = run_folder(tmp_path / "run", whole_run, command.needs)
    given = words(command, run, pictures)
    (done,) = child_processes.run(with_small_files, size, *given)
    if done.returncode != 0:
        assert done.returncode == 1
        if size > 300:  # otherwise the line itself may not fit into the file of this test
            assert_one_line(done.stderr, f"{name} with {size} bytes")
        (done,) = child_processes.toco(*given, command.resume)
        assert done.returncode == 0, done.stderr
    assert results(command, run) == undisturbed(name)[0]


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("train-cam", "--image-size 640 --batch-size 32"),
        ("make-labels --crf", "--scales 60"),
        ("train-seg", "--image-size 1600 --batch-size 32"),
    ],
)
def test_little_memory(
    name: str, more: str, whole_run: Path, pictures: Path, child_processes: Any, tmp_path: Path
) -> None:
    from fault_process import with_little_memory

    command = COMMANDS[name]
    run = run_folder(tmp_path / "run", whole_run, command.needs)
    (done,) = child_processes.run(with_little_memory, 200 << 20, *words(command, run, pictures), *more.split())
    assert done.returncode == 1
    assert_one_line(done.stderr, name)
    assert "memory" in done.stderr


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="loading processes no longer fork by default")
@pytest.mark.parametrize("name", ["train-cam", "train-seg"])
def test_loader_dies(
    name: str, whole_run: Path, pictures: Path, child_processes: Any, tmp_path: Path, undisturbed: Any
) -> None:
    from fault_process import with_dying_loader

    command = COMMANDS[name]
    run = run_folder(tmp_path / "run", whole_run, command.needs)
    given = words(command, run, pictures)
    (done,) = child_processes.run(with_dying_loader, *given, "--workers", "1")
    assert done.returncode == 1
    assert_one_line(done.stderr, name)
    (done,) = child_processes.toco(*given, "--resume")
    assert done.returncode == 0, done.stderr
    assert results(command, run) == undisturbed(name)[0]


OF_FILE = {
    "cam/model.safetensors": "make-labels RUN --relabel none --overwrite --refine none " + LABELS,
    "labels/labels.h5": "export RUN --out RUN/out --overwrite --quiet",
    "labels/cams.h5": "report RUN --device cpu --quiet",
    "seg/model.safetensors": f"predict RUN DATA/images --out RUN/out --overwrite {SETTINGS}",
}


def damaged(content: bytes) -> list[bytes]:
    """Cut a file at many places, and change bytes at its beginning."""
    draws = random.Random(0)
    cut = [content[: len(content) * part // 12] for part in range(12)] + [content[:-1], content[:9]]
    changed = []
    for _ in range(16):
        place = draws.randrange(min(len(content), 120))
        changed.append(content[:place] + draws.randbytes(draws.choice((1, 4, 8))) + content[place + 8 :])
    lengths = [number.to_bytes(8, "little") + content[8:] for number in (0, 1, 1 << 20, (1 << 63) - 1, (1 << 64) - 1)]
    return [*cut, *changed, *lengths]


@pytest.mark.parametrize("name", OF_FILE)
def test_damaged_file(name: str, whole_run: Path, pictures: Path, child_processes: Any, tmp_path: Path) -> None:
    from fault_process import with_damaged_file

    run = run_folder(tmp_path / "run", whole_run, ("cam", "labels", "seg"))
    given = words(Command(OF_FILE[name], (), ()), run, pictures)
    contents, result = damaged((run / name).read_bytes()), tmp_path / "result.json"
    (done,) = child_processes.run(with_damaged_file, run / name, contents, result, *given)
    assert done.returncode == 0, done.stderr
    found = json.loads(result.read_text())
    faults = [one for one in found if one[1] and not _is_one_line(one[2])]
    print(f"{name}: {len(found)} inputs, {sum(bool(code) for _, code, _ in found)} refused, {len(faults)} faults")
    assert faults == []
    assert all(code in (0, 1) for _, code, _ in found)
    assert sum(code == 1 for _, code, _ in found) >= len(found) // 2


OF_CONFIG = {
    "cam": OF_FILE["cam/model.safetensors"],
    "labels": OF_FILE["labels/labels.h5"],
    "seg": OF_FILE["seg/model.safetensors"],
}


@pytest.mark.parametrize("stage", OF_CONFIG)
def test_edited_config(stage: str, whole_run: Path, pictures: Path, child_processes: Any, tmp_path: Path) -> None:
    from fault_process import with_edited_config

    run = run_folder(tmp_path / "run", whole_run, ("cam", "labels", "seg"))
    given = words(Command(OF_CONFIG[stage], (), ()), run, pictures)
    result = tmp_path / "result.json"
    (done,) = child_processes.run(with_edited_config, run / stage / "config.json", 40, result, *given)
    assert done.returncode == 0, done.stderr
    found = json.loads(result.read_text())
    faults = [one for one in found if one[1] and not _is_one_line(one[2])]
    print(f"{stage}: {len(found)} inputs, {sum(bool(code) for _, code, _ in found)} refused, {len(faults)} faults")
    assert faults == []


def _is_one_line(errors: str) -> bool:
    try:
        assert_one_line(errors, "")
    except AssertionError:
        return False
    return True


@pytest.mark.parametrize("part", ["shard", "features"])
def test_cut_shard_of_a_killed_run(
    part: str, whole_run: Path, pictures: Path, child_processes: Any, tmp_path: Path, undisturbed: Any
) -> None:
    """A part of the results that the disk damaged is refused in one line, or made again."""
    name = "make-labels --relabel linear"
    command = COMMANDS[name]
    from fault_process import quietly

    run = run_folder(tmp_path / "run", whole_run, command.needs)
    given = words(command, run, pictures)
    process = child_processes.start(quietly, *given)
    pattern = "labels/shards/**/*.h5" if part == "shard" else "features/*.h5"
    while not (shards := [one for one in run.glob(pattern) if not one.name.startswith(".")]):
        assert process.is_alive(), "no shard was written"
        time.sleep(0.005)
    process.kill()
    process.join()
    content = shards[0].read_bytes()
    shards[0].write_bytes(content[: len(content) // 2])
    (done,) = child_processes.toco(*given, "--resume")
    if done.returncode != 0:
        assert_one_line(done.stderr, part)
        assert str(shards[0]) in done.stderr
        shards[0].unlink()
        (done,) = child_processes.toco(*given, "--resume")
    assert done.returncode == 0, done.stderr
    assert results(command, run) == undisturbed(name)[0]
