import errno
import json
import pickle
import random
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path

import h5py
import numpy as np
import pytest

import stages.labels.store
from data.errors import ArtifactError
from stages.labels.store import ImageLabels, LabelFile, join_shards, label_attributes, stored_ids, write_shard

Disk = Callable[[], AbstractContextManager[None]]


def labels_of(
    image_id: str, classes: tuple[int, ...] = (1,), size: tuple[int, int] = (5, 7), confidence: bool = False
) -> ImageLabels:
    source = np.random.default_rng(len(image_id))
    cam = source.random((len(classes), max(size), max(size))).astype(np.float16)
    mask = source.choice(np.array([0, *classes, 255], np.uint8), size)
    sure = source.integers(0, 256, size, dtype=np.uint8) if confidence else None
    return ImageLabels(id=image_id, classes=classes, cam=cam, mask=mask, confidence=sure)


def make_files(folder: Path, shards: Iterable[list[ImageLabels]], threads: int = 1) -> list[Path]:
    paths = []
    for number, labels in enumerate(shards):
        paths.append(folder / "shards" / f"{number}.h5")
        write_shard(paths[-1], labels, threads=threads)
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
            assert cam.attrs["size"].tolist() == list(one.mask.shape)
            assert mask.compression == "gzip"
            assert cam.compression == ("gzip" if one.classes else None)


def test_join_shards__products_do_not_depend_on_the_shards(tmp_path: Path) -> None:
    """Stages that follow are tied to the bytes of labels.h5, so a run that was resumed must give the same."""
    stored = [labels_of(name, (1, 2), confidence=True) for name in ("c", "deep/b", "deep/a", "a", "x" * 9, "deep-er")]
    make_files(tmp_path / "one", [stored])
    random.Random(0).shuffle(stored)
    make_files(tmp_path / "many", [[one] for one in stored], threads=3)
    for name in ("cams.h5", "labels.h5"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "many" / name).read_bytes()
    assert LabelFile(tmp_path / "many" / "labels.h5", "masks").ids == [
        "a",
        "c",
        "deep/a",
        "deep/b",
        "deep-er",
        "x" * 9,
    ]


def test_join_shards__more_shards_than_may_be_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages.labels.store, "OPEN_SHARDS", 2)
    stored = [labels_of("x" * number) for number in range(1, 13)]
    make_files(tmp_path, [stored[first::4] for first in range(4)])
    masks = LabelFile(tmp_path / "labels.h5", "masks")
    for one in stored:
        np.testing.assert_array_equal(masks.read(one.id), one.mask)


def test_join_shards__image_in_two_shards(tmp_path: Path) -> None:
    first, second = labels_of("a", (1,)), labels_of("a", (2,))
    make_files(tmp_path, [[first], [second]])
    assert LabelFile(tmp_path / "cams.h5", "cams").classes("a") == (1,)
    np.testing.assert_array_equal(LabelFile(tmp_path / "labels.h5", "masks").read("a"), first.mask)


@pytest.mark.parametrize("damage", ["cut off", "text", "other file", "empty"])
def test_join_shards__damaged_shard(tmp_path: Path, damage: str) -> None:
    shards = make_files(tmp_path, [[labels_of("a")], [labels_of("b")]])
    before = (tmp_path / "labels.h5").read_bytes()
    whole = shards[1].read_bytes()
    if damage == "other file":
        with h5py.File(shards[1], "w") as file:
            file["something"] = 1
    else:
        shards[1].write_bytes({"cut off": whole[: len(whole) // 2], "text": b"text", "empty": b""}[damage])
    for use in (lambda: stored_ids(shards), lambda: join_shards(shards, tmp_path, {})):
        with pytest.raises(ArtifactError) as caught:
            use()
        assert str(caught.value).startswith(f"{shards[1]} is not a complete shard of labels (")
        assert str(caught.value).endswith(
            "): delete it and run 'toco make-labels --resume', which makes its images again"
        )
        assert "\n" not in str(caught.value)
    assert (tmp_path / "labels.h5").read_bytes() == before
    assert not list(tmp_path.glob(".*"))


def test_join_shards__leaves_out_images_that_are_no_longer_wanted(tmp_path: Path) -> None:
    paths = make_files(tmp_path, [[labels_of("a"), labels_of("deep/b", confidence=True)], [labels_of("deep/c")]])
    join_shards(paths, tmp_path, label_attributes(("cat", "dog"), {}), ids={"a", "deep/c", "never labelled"})
    assert LabelFile(tmp_path / "labels.h5", "masks").ids == ["a", "deep/c"]
    assert LabelFile(tmp_path / "cams.h5", "cams").ids == ["a", "deep/c"]


def test_join_shards__confidence(tmp_path: Path) -> None:
    stored = [
        labels_of("deep/b", (1, 2), (9, 4), confidence=True),
        labels_of("a", (), confidence=True),
        labels_of("without"),
    ]
    make_files(tmp_path, [[stored[0]], [stored[1], stored[2]]])
    sure = LabelFile(tmp_path / "labels.h5", "confidence")
    assert sure.ids == ["a", "deep/b"]
    assert sorted(LabelFile(tmp_path / "labels.h5", "masks").ids) == ["a", "deep/b", "without"]
    with h5py.File(tmp_path / "labels.h5") as labels:
        assert list(labels) == ["confidence", "masks"]
        for one in stored[:2]:
            assert labels[f"confidence/{one.id}"].dtype == np.uint8
            np.testing.assert_array_equal(labels[f"confidence/{one.id}"][()], one.confidence)
            np.testing.assert_array_equal(sure.read(one.id), one.confidence)


def test_label_file__made_without_confidence(tmp_path: Path) -> None:
    make_files(tmp_path, [[labels_of("a")]])
    with pytest.raises(
        ArtifactError, match=r"labels\.h5 has no confidence, because it was made without --confidence: run"
    ):
        LabelFile(tmp_path / "labels.h5", "confidence")


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
        assert cams.image_size(one.id) == masks.image_size(one.id) == one.mask.shape


def test_label_file__values_may_be_changed(tmp_path: Path) -> None:
    """Torch warns of arrays that may not."""
    make_files(tmp_path, [[labels_of("a")]])
    masks = LabelFile(tmp_path / "labels.h5", "masks")
    masks.read("a")[:] = 7
    np.testing.assert_array_equal(masks.read("a"), labels_of("a").mask)


def test_label_file__damaged_mask(tmp_path: Path) -> None:
    make_files(tmp_path, [[labels_of("a", size=(50, 70))]])
    path = tmp_path / "labels.h5"
    with h5py.File(path) as file:
        chunk = file["masks/a"].id.get_chunk_info(0)
    with path.open("r+b") as damaged:
        damaged.seek(chunk.byte_offset)
        damaged.write(b"x" * chunk.size)
    with pytest.raises(ArtifactError, match=r"not a complete label file \(.*filter returned failure.*--overwrite"):
        LabelFile(path, "masks").read("a")


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
    assert str(caught.value).startswith(f"{path} is not a complete label file (")
    assert str(caught.value).endswith("): run toco make-labels RUN --overwrite")
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


@pytest.mark.parametrize("threads", [1, 3])
def test_write_shard__keeps_what_it_is_given(tmp_path: Path, threads: int) -> None:
    """The chunks are packed outside of HDF5, which must unpack them to the bit."""
    source = np.random.default_rng(0)
    blob = np.zeros((375, 500), np.uint8)
    blob[100:250, 80:410] = 3
    blob[90:100] = 255
    masks = [
        blob,
        blob.T,
        blob[::-1, ::-1],
        source.integers(0, 256, (31, 17), dtype=np.uint8),
        np.zeros((1, 1), np.uint8),
    ]
    stored = [
        ImageLabels(
            id=f"deep/{number}",
            classes=(3, 9),
            cam=source.random((*mask.T.shape, 2)).astype(np.float16).T,
            mask=mask,
            confidence=255 - mask,
        )
        for number, mask in enumerate(masks)
    ]
    write_shard(tmp_path / "0.h5", stored, threads=threads)
    with h5py.File(tmp_path / "0.h5") as file:
        for one in stored:
            np.testing.assert_array_equal(file[f"cams/{one.id}"][()], one.cam)
            np.testing.assert_array_equal(file[f"masks/{one.id}"][()], one.mask)
            np.testing.assert_array_equal(file[f"confidence/{one.id}"][()], one.confidence)


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
