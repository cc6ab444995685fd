import os
from pathlib import Path

import pytest

from data.errors import SettingsError
from data.output_place import check_file_names, check_holds_results, check_output_place
from data.written_folders import mark_as_written

LAYOUTS = {
    "custom": ("labels.csv", "images/a.jpg", "masks/a.png"),
    "class_folders": ("cat/a.jpg", "dog/b.jpg"),
    "splits": ("train/cat/a.jpg", "train/dog/b.jpg"),
    "voc": ("JPEGImages/a.jpg", "ImageSets/Segmentation/train.txt", "Annotations/a.xml"),
    "coco": ("annotations/instances_train2017.json", "train2017/a.jpg"),
}


def make(root: Path, layout: str) -> Path:
    for name in LAYOUTS[layout]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


@pytest.mark.parametrize(
    ("layout", "out"),
    [
        *((layout, out) for layout in LAYOUTS for out in (".", "..")),
        *(
            (layout, out)
            for layout in ("custom", "class_folders", "splits")
            for out in ("masks", "masks/new", "runs/../masks", "Masks")
        ),
        ("custom", "images"),
        ("custom", "images/predicted"),
        ("class_folders", "cat"),
        ("class_folders", "cat/predicted"),
        ("splits", "train/masks"),
        ("splits", "val"),
        ("voc", "JPEGImages"),
        ("voc", "SegmentationClass"),
        ("voc", "segmentationclassaug/new"),
        ("coco", "train2017/new"),
        ("coco", "annotations"),
    ],
)
def test_place__among_the_files_of_a_data_set_is_refused(layout: str, out: str, tmp_path: Path) -> None:
    data = make(tmp_path / "data", layout)
    with pytest.raises(SettingsError, match=r"(is or holds|which belongs to) the data set .*data.*own"):
        check_output_place(data / out, datasets=[data])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("out", ["runs/first", "predicted", "../elsewhere", "../data2"])
def test_place__of_its_own_is_accepted(layout: str, out: str, tmp_path: Path) -> None:
    data = make(tmp_path / "data", layout)
    check_output_place(data / out, datasets=[data, None, tmp_path / "moved away"])
    mark_as_written(data / out)
    (data / out / "a.png").touch()
    check_output_place(data / out, datasets=[data])  # once more, with its results
    check_output_place(data / out / "deeper", datasets=[data])


@pytest.mark.parametrize(
    ("layout", "out"),
    [
        ("custom", "train/run1"),
        ("custom", "plots/run1"),
        ("voc", "plots/run1"),
        ("voc", "train"),
        ("coco", "plots"),
        ("coco", "training_runs"),
    ],
)
def test_place__in_a_folder_that_the_layout_does_not_read(layout: str, out: str, tmp_path: Path) -> None:
    data = make(tmp_path / "data", layout)
    (data / out).mkdir(parents=True)
    (data / out / "loss.png").touch()
    check_output_place(data / out, datasets=[data])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("out", [".", ".."])
def test_place__only_the_folders_that_are_written_count(layout: str, out: str, tmp_path: Path) -> None:
    data = make(tmp_path / "data", layout)
    check_output_place(data / out, folders=("cam", "seg"), datasets=[data], inputs=[data / "cat" / "a.jpg"])
    for folder in {Path(name).parts[0] for name in LAYOUTS[layout] if "/" in name}:
        with pytest.raises(SettingsError, match="data set"):
            check_output_place(data, folders=("cam", folder), datasets=[data])
    with pytest.raises(SettingsError, match=r"cam is or holds the input image .*a\.jpg"):
        check_output_place(data, folders=("seg", "cam"), inputs=[data / "cam" / "a.jpg"])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_place__data_sets_that_cannot_be_opened_are_ignored(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make(tmp_path / "data", layout)

    def fail(*arguments: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied", str(data))

    for name in ("listdir", "scandir"):
        monkeypatch.setattr(os, name, fail)
    check_output_place(tmp_path / "out", datasets=[data])
    monkeypatch.setattr(os, "stat", fail)
    check_output_place(tmp_path / "out", datasets=[data], inputs=[tmp_path / "a.jpg"])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_place__links_to_folders_without_images_are_ignored(layout: str, tmp_path: Path) -> None:
    data = make(tmp_path / "data", layout)
    (tmp_path / "scratch" / "run").mkdir(parents=True)
    (data / "run").symlink_to(tmp_path / "scratch" / "run")
    (data / "gone").symlink_to(tmp_path / "nowhere")
    check_output_place(data / "run", datasets=[data])
    check_output_place(tmp_path / "scratch", datasets=[data])


def test_holds_results__images_of_others(tmp_path: Path) -> None:
    check_holds_results(tmp_path / "new")
    data = make(tmp_path / "data", "class_folders")
    (data / "notes").mkdir()
    check_holds_results(data / "notes")
    with pytest.raises(SettingsError, match=r"data holds images that toco did not write \(first 'cat/a.jpg'\)"):
        check_holds_results(data)
    mark_as_written(data)
    check_holds_results(data)


@pytest.mark.parametrize("layout", ["custom", "voc", "coco"])
def test_place__other_data_sets_are_found(layout: str, tmp_path: Path) -> None:
    """For example the present place of a data set that was moved since the run."""
    data = make(tmp_path / "data", layout)
    with pytest.raises(SettingsError, match="belongs to the data set"):
        check_output_place(data / Path(LAYOUTS[layout][1]).parts[0])
    check_output_place(data / "runs")
    mark_as_written(data)  # now it is an export with the layout of a data set
    check_output_place(data)


def test_place__links_are_followed(tmp_path: Path) -> None:
    data = make(tmp_path / "data", "custom")
    photos = (data / "images").rename(tmp_path / "photos")
    (data / "images").symlink_to(photos)
    (tmp_path / "link").symlink_to(data / "masks")
    for out in (photos, tmp_path / "link", tmp_path / "link/new"):
        with pytest.raises(SettingsError, match="the data set"):
            check_output_place(out, datasets=[data])
    (tmp_path / "data link").symlink_to(data)
    with pytest.raises(SettingsError, match="the data set"):
        check_output_place(tmp_path / "data link/masks")


def test_place__holds_input_images(tmp_path: Path) -> None:
    image = tmp_path / "new" / "deep" / "a.jpg"
    for out in (tmp_path / "new", image.parent, image, tmp_path / "new/results/.."):
        with pytest.raises(SettingsError, match=r"holds the input image .*a\.jpg: give another place"):
            check_output_place(out, inputs=[image])
    check_output_place(tmp_path / "new" / "results", inputs=[image])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a.png", "n" * 252 + ".png"], "too long .256 bytes, 255 are possible."),
        (["図" * 84 + ".png"], "too long .256 bytes"),
        (["/".join(["d" * 200] * 21) + "/a.png"], "4095 are possible"),
        (["a.png/b.png", "a.png"], "a.png would be a file and the folder of b.png"),
        (["a/b.png", "a/b.png/c/d.png"], "a/b.png would be a file and the folder of c/d.png"),
    ],
)
def test_file_names__that_cannot_be_written(names: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=message):
        check_file_names(tmp_path / name for name in names)


def test_file_names__that_can(tmp_path: Path) -> None:
    check_file_names(tmp_path / name for name in ["a.png", "a/b.png", "n" * 251 + ".png", os.fsdecode(b"caf\xe9.png")])
