"""All ways of making masks are measured, and CAMs that are right have an IoU of 100 %."""

import json
from pathlib import Path

import numpy as np
import pytest

from bench import segments
from data.images import image_size
from data.readers import open_dataset, read_mask
from stages.labels.store import ImageLabels, join_shards, label_attributes, write_shard


@pytest.fixture
def labels(pictures: Path, tmp_path: Path) -> Path:
    """As RUN/labels, with CAMs that are the ground truth."""
    dataset = open_dataset(pictures)
    made = []
    for one in dataset.split():
        mask = read_mask(one, image_size(one.image), 2)
        cam = np.stack([np.zeros(mask.shape), *(mask == number for number in one.classes)])[1:].astype(np.float16)
        made.append(ImageLabels(id=one.id, classes=one.classes, cam=cam, mask=mask))
    folder = tmp_path / "labels"
    folder.mkdir()
    write_shard(tmp_path / "0.h5", made)
    join_shards([tmp_path / "0.h5"], folder, label_attributes(dataset.class_names, {}))
    return folder


def test_segments__measures_every_way(
    pictures: Path,
    labels: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "figures.json"
    command = ["segments", str(pictures), "--labels", str(labels), "--every", "3", "--out", str(out)]
    monkeypatch.setattr("sys.argv", command)  # images of one class, of none and of two
    segments.main()
    figures = json.loads(out.read_text())[str(labels)]
    assert figures.pop("images") == 3
    assert set(figures) == {f"CAM, {way}" for way in segments.WAYS}
    assert figures["CAM, none"]["iou"] == {"background": 100.0, "red": 100.0, "blue": 100.0}
    assert all(50 < one["miou"] <= 100 for one in figures.values())
    assert "| CAM, none | 100.0 | " in capsys.readouterr().out


def test_table__ways_that_a_folder_does_not_have_are_empty() -> None:
    row = {"miou": 50.04, "seconds": 0.125}
    figures = {"a": {"images": 2, "CAM, none": row}, "b": {"images": 2, "CAM, none": row, "relabelled, SLIC": row}}
    assert segments.table(figures).splitlines() == [
        "| scores, refinement | a | b | s/image |",
        "| --- | --- | --- | --- |",
        "| CAM, none | 50.0 | 50.0 | 0.12 |",
        "| relabelled, SLIC |  | 50.0 | 0.12 |",
    ]
