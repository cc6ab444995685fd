from pathlib import Path

import h5py
import numpy as np
import pytest

from stages.labels.store import ImageLabels, LabelFile, join_shards, label_attributes, write_shard
from stages.labels.stored_cams import read_cam, stored_label

CAM = np.array([[[0.0, 1.0]], [[0.6, 0.6]]], np.float16)  # of classes 3 and 5


@pytest.fixture
def cams(tmp_path: Path) -> LabelFile:
    """cams.h5 with image a of 2 x 4, and image b of 3 x 5 without classes."""
    labels = [
        ImageLabels(id="a", classes=(3, 5), cam=CAM, mask=np.zeros((2, 4), np.uint8)),
        ImageLabels(id="b", classes=(), cam=np.zeros((0, 2, 2), np.float16), mask=np.zeros((3, 5), np.uint8)),
    ]
    write_shard(tmp_path / "0.h5", labels)
    join_shards([tmp_path / "0.h5"], tmp_path, label_attributes(("cat", "dog"), {}))
    return LabelFile(tmp_path / "cams.h5", "cams")


def test_read_cam__has_the_images_size(cams: LabelFile) -> None:
    cam = read_cam(cams, "a")
    assert cam[0].tolist() == [[0, 0.25, 0.75, 1]] * 2
    np.testing.assert_allclose(cam[1], 0.6, atol=3e-4)
    assert read_cam(cams, "b").shape == (0, 3, 5)


def test_read_cam__at_another_size(cams: LabelFile) -> None:
    np.testing.assert_array_equal(read_cam(cams, "a", (1, 2)).numpy(), CAM.astype(np.float32))
    assert read_cam(cams, "a", (7, 9)).shape == (2, 7, 9)
    assert read_cam(cams, "b", (7, 9)).shape == (0, 7, 9)


def test_stored_label__by_hand(cams: LabelFile) -> None:
    assert stored_label(cams, "a", 0.5).tolist() == [[5, 5, 3, 3]] * 2
    assert stored_label(cams, "a", 0.7).tolist() == [[0, 0, 3, 3]] * 2
    assert stored_label(cams, "b", 0.5).tolist() == [[0] * 5] * 3


def test_stored_label__of_the_decoder_by_hand(tmp_path: Path) -> None:
    probabilities = np.array([[[0.1, 0.2, 0.5]], [[0.3, 0.2, 0.4]]], np.float16)  # background 0.6, 0.6, 0.1
    labels = ImageLabels(id="a", classes=(3, 5), cam=probabilities, mask=np.zeros((1, 3), np.uint8))
    write_shard(tmp_path / "0.h5", [labels])
    join_shards([tmp_path / "0.h5"], tmp_path, label_attributes(("cat", "dog"), {}))
    assert stored_label(LabelFile(tmp_path / "cams.h5", "cams"), "a", None).tolist() == [[0, 0, 3]]


def test_read_cam__of_an_earlier_version(tmp_path: Path) -> None:
    """It stored CAMs at the image's size, without the attribute `size`."""
    cam = np.random.default_rng(0).random((2, 6, 9)).astype(np.float16)
    with h5py.File(tmp_path / "cams.h5", "w") as file:
        file.attrs["class_names"] = ["cat", "dog"]
        stored = file.create_dataset("cams/deep/a", data=cam, compression="gzip", shuffle=True, chunks=cam.shape)
        stored.attrs["classes"] = np.array([1, 2], np.uint8)
        file.create_dataset("cams/b", data=np.zeros((0, 4, 5), np.float16)).attrs["classes"] = np.array([], np.uint8)
    cams = LabelFile(tmp_path / "cams.h5", "cams")
    np.testing.assert_array_equal(read_cam(cams, "deep/a").numpy(), cam.astype(np.float32))
    assert read_cam(cams, "b").shape == (0, 4, 5)


def test_cams__readable_with_h5py_alone(cams: LabelFile) -> None:
    stored = h5py.File(cams.path)["cams/a"]
    np.testing.assert_array_equal(stored[()], CAM)
    assert (stored.attrs["classes"].tolist(), stored.attrs["size"].tolist()) == ([3, 5], [2, 4])
