import errno
import json
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path

import h5py
import numpy as np
import pytest

from stages.store import ImageLabels, LabelFile, join_shards, label_attributes, stored_ids, write_shard
from stages.whole_files import ArtifactError

Disk = Callable[[], AbstractContextManager[None]]


def labels_of(image_id: str, classes: tuple[int, ...] = (1,), size: tuple[int, int] = (5, 7)) -> ImageLabels:
    source = np.random.default_rng(len(image_id))
    cam = source.random((len(classes), *size)).astype(np.float16)
    mask = source.choice(np.array([0, *classes, 255], np.uint8), size)
    return ImageLabels(id=image_id, classes=classes, cam=cam, mask=mask)


def make_files(folder: Path, shards: Iterable[list[ImageLabels]]) -> list[Path]:
    paths = []
    for number, labels in enumerate(shards):
        paths.append(folder / "shards" / f"{number}.h5")
        write_shard(paths[-1], labels)
    join_shards(paths, folder, label_attributes(("cat", "dog"), {"background": 0.5}))
    return paths


def test_join_shards__everything_is_in_the_products(tmp_path: Path) -> None:
    stored = [
        labels_of("a", (2,)),
        labels_of("deep/er/b", (1, 2), (3, 9)),
        labels_of("deep/c", ()),
        labels_of("ü x", (1,)),
    ]
    paths = make_files(tmp_path, [stored[:1], [], stored[1:]])
    assert stored_ids(paths) == {"a", "deep/er/b", "deep/c", "ü x"}
    assert {path.name for path in tmp_path.iterdir()} == {"shards", "cams.h5", "labels.h5"}
    with h5py.File(tmp_path / "cams.h5") as cams, h5py.File(tmp_path / "labels.h5") as labels:
        for file in (cams, labels):
            assert list(file.attrs["class_names"]) == ["cat", "dog"]
            assert file.attrs["ignore_index"] == 255
            assert json.loads(file.attrs["made_by"]) == {"background": 0.5}
        assert list(cams) == ["cams"]
        assert list(labels) == ["masks"]
        for one in stored:
            cam, mask = cams[f"cams/{one.id}"], labels[f"masks/{one.id}"]
            assert (cam.dtype, mask.dtype) == (np.float16, np.uint8)
            np.testing.assert_array_equal(cam[()], one.cam)
            np.testing.assert_array_equal(mask[()], one.mask)
            assert cam.attrs["classes"].tolist() == list(one.classes)
            assert mask.compression == "gzip"
            assert cam.compression == ("gzip" if one.classes else None)


def test_join_shards__readable_with_h5py_alone(tmp_path: Path) -> None:
    one = labels_of("deep/b", (1, 2))
    make_files(tmp_path, [[one]])
    program = "import h5py, sys; mask = h5py.File(sys.argv[1])['masks/deep/b'][()]; print(mask.tolist())"
    run = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "labels.h5")], capture_output=True, text=True, check=True
    )
    assert json.loads(run.stdout) == one.mask.tolist()


def test_label_file__reads_by_name(tmp_path: Path) -> None:
    stored = [labels_of("deep/b", (1, 2)), labels_of("a", ())]
    make_files(tmp_path, [stored])
    cams, masks = LabelFile(tmp_path / "cams.h5", "cams"), LabelFile(tmp_path / "labels.h5", "masks")
    assert sorted(cams.ids) == sorted(masks.ids) == ["a", "deep/b"]
    assert cams.class_names == masks.class_names == ("cat", "dog")
    assert ("deep/b" in masks, "b" in masks) == (True, False)
    for one in stored:
        np.testing.assert_array_equal(cams.read(one.id), one.cam)
        np.testing.assert_array_equal(masks.read(one.id), one.mask)
        assert cams.classes(one.id) == one.classes


def test_label_file__travels_to_other_processes(tmp_path: Path) -> None:
    one = labels_of("a")
    make_files(tmp_path, [[one]])
    masks = LabelFile(tmp_path / "labels.h5", "masks")
    masks.read("a")  # opens it
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(masks)).read("a"), one.mask)


@pytest.mark.parametrize("damage", ["missing", "cut off", "text", "other file", "empty"])
def test_label_file__damaged(tmp_path: Path, damage: str) -> None:
    make_files(tmp_path, [[labels_of("a")]])
    path = tmp_path / "labels.h5"
    whole = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "other file":
        path.write_bytes((tmp_path / "cams.h5").read_bytes())
    else:
        path.write_bytes({"cut off": whole[: len(whole) // 2], "text": b"text", "empty": b""}[damage])
    with pytest.raises(ArtifactError) as caught:
        LabelFile(path, "masks")
    assert str(caught.value).startswith(f"{path} is no whole label file (")
    assert str(caught.value).endswith("): run 'toco make-labels --overwrite' again")
    assert "\n" not in str(caught.value)


def test_write_shard__disk_full(small_disk: Disk, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """HDF5 itself would print hundreds of lines and crash the process."""
    path = tmp_path / "0.h5"
    write_shard(path, [labels_of("a")])
    with small_disk(), pytest.raises(OSError, match="File too large"):
        write_shard(path, [labels_of(str(number), (1, 2), (50, 60)) for number in range(5)])
    assert stored_ids([path]) == {"a"}
    assert [file.name for file in tmp_path.iterdir()] == ["0.h5"]
    assert capfd.readouterr().err == ""


def test_join_shards__disk_full(small_disk: Disk, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    make_files(tmp_path, [[labels_of("a")]])
    before = {path: path.read_bytes() for path in tmp_path.glob("*.h5")}
    shards = [tmp_path / "shards" / f"big{number}.h5" for number in range(5)]
    for number, shard in enumerate(shards):
        write_shard(shard, [labels_of(str(number), (1, 2), (50, 60))])
    with small_disk(), pytest.raises(OSError, match="File too large"):
        join_shards(shards, tmp_path, {})
    assert {path: path.read_bytes() for path in tmp_path.glob("*.h5")} == before
    assert not list(tmp_path.glob(".*"))
    assert capfd.readouterr().err == ""


def test_write_shard__error_of_the_operating_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **more: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(h5py.Group, "create_dataset", fail)
    with pytest.raises(OSError, match="No space left on device"):
        write_shard(tmp_path / "0.h5", [labels_of("a")])
    assert list(tmp_path.iterdir()) == []
