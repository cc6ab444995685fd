import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from data.errors import DataError
from stages.check import Sizes, check, sizes_of
from stages.runtime.monitor import SilentMonitor


def test_sizes_of__by_pixels() -> None:
    assert sizes_of([(9, 9), (1, 100), (20, 2)]) == Sizes(smallest=(20, 2), median=(9, 9), largest=(1, 100))
    assert sizes_of([(1, 1), (2, 2)]) == Sizes(smallest=(1, 1), median=(2, 2), largest=(2, 2))
    assert sizes_of([]) is None


def test_check__the_pictures(pictures: Path, listener: Callable[[], SilentMonitor]) -> None:
    monitor = listener()
    found = check(pictures, monitor)
    assert vars(monitor)["steps"] == 10
    assert vars(monitor)["calls"][-1] == "finish"
    assert found.sizes == Sizes(smallest=(64, 48), median=(64, 64), largest=(64, 64))
    # Labels in turn: red, blue, both, none; the last two of the ten are 'val'.
    assert {name: vars(counts) for name, counts in found.splits.items()} == {
        "train": {"images": 8, "negatives": 2, "masks": 8},
        "val": {"images": 2, "negatives": 0, "masks": 2},
    }
    assert [(one.name, one.images, one.together) for one in found.classes] == [
        ("red", {"train": 4, "val": 1}, ()),
        ("blue", {"train": 4, "val": 1}, ()),
    ]
    assert [(one.level, one.topic) for one in found.findings] == [("warning", "rare_class")]
    assert found.errors == ()


def test_check__as_dict_is_whole(tmp_path: Path) -> None:
    names = [f"{number:02d}.png" for number in range(40)]
    (tmp_path / "images").mkdir()
    for shade, name in enumerate(names):
        Image.new("RGB", (40, 32), (shade, 0, 0)).save(tmp_path / "images" / name)
    rows = [f"{name},{'cat;dog' if name < '06' else 'dog'}" for name in names[:10]]
    (tmp_path / "labels.csv").write_text("\n".join(["image,labels", *rows, "gone.png,cat"]))
    found = json.loads(json.dumps(check(tmp_path, SilentMonitor()).as_dict()))
    findings = {finding.pop("topic"): finding for finding in found.pop("findings")}
    assert found == {
        "root": str(tmp_path),
        "layout": "custom",
        "class_names": ["cat", "dog"],
        "train_split": "train",
        "val_split": None,
        "splits": {"train": {"images": 10, "negatives": 0, "masks": 0}},
        "unlabelled": 30,
        "missing": 1,
        "pixels": {"bits": 16, "alpha": True, "clip": False},
        "sizes": {name: {"height": 32, "width": 40} for name in ("smallest", "median", "largest")},
        "classes": [
            {"number": 1, "name": "cat", "images": {"train": 6}, "together": []},  # dog is in all images
            {"number": 2, "name": "dog", "images": {"train": 10}, "together": []},
        ],
        "co_occurrence": {"cat": {"dog": 6}, "dog": {"cat": 6}},
        "errors": 1,
    }
    assert list(findings) == [
        "missing",
        "unlabelled",
        "one_colour",
        "no_masks",
        "no_validation_split",
        "class_in_every_image",
        "rare_class",
    ]
    assert findings["missing"]["items"] == ["gone.png"]
    assert len(findings["unlabelled"]["items"]) == 30


def test_check__no_image_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").touch()
    (tmp_path / "labels.csv").write_text("image,labels\na.jpg,cat\n")
    found = check(tmp_path, SilentMonitor())
    assert found.sizes is None
    assert found.as_dict()["sizes"] is None
    assert [one.topic for one in found.errors] == ["unreadable", "class_in_every_image"]


def test_check__no_data_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere is not a folder"):
        check(tmp_path / "nowhere", SilentMonitor())
