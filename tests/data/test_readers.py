from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from data.dataset import Sample
from data.errors import DataError
from data.images import MaskFile
from data.readers import check_images, open_dataset, read_mask


def picture(path: Path, width: int = 8, height: int = 6) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (width, height)).save(path)
    return path


def masked(path: Path, values: list[list[int]]) -> Sample:
    Image.fromarray(np.array(values, np.uint8)).save(path)
    return Sample(id="a", image=path, classes=(), mask=MaskFile(path))


def samples(*paths: Path) -> list[Sample]:
    return [Sample(id=path.stem, image=path, classes=(), mask=None) for path in paths]


def test_open_dataset__custom(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png")
    (tmp_path / "labels.csv").write_text("image,labels\na,cat\nb,cat\n")
    with pytest.raises(DataError, match="image 'b' is missing"):
        open_dataset(tmp_path)
    assert open_dataset(str(tmp_path), skip_bad=True).layout == "custom"


def test_open_dataset__class_folders(tmp_path: Path) -> None:
    picture(tmp_path / "cats" / "a.png")
    picture(tmp_path / "dogs" / "b.png")
    assert open_dataset(tmp_path).layout == "class_folders"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        *((name, True) for name in ("Masks", "GT", "ground_truth", "SegmentationClass", "train_masks", "annotations")),
        *((name, False) for name in ("other", "depth", "output", "outputs", "annotated")),
    ],
)
def test_open_dataset__tells_of_masks_in_a_folder_of_another_name(name: str, told: bool, tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png")
    picture(tmp_path / name / "a.png")
    (tmp_path / "labels.csv").write_text("image,labels\na,cat\n")
    warning = f"{tmp_path / name} is not read: if it holds ground-truth masks, rename it to masks/"
    assert open_dataset(tmp_path).warnings == ((warning,) if told else ())
    picture(tmp_path / "masks" / "a.png")
    assert open_dataset(tmp_path).warnings == ()


def test_open_dataset__tells_of_masks_beside_class_folders_in_a_folder_of_another_name(tmp_path: Path) -> None:
    for name in ("cats", "dogs", "Masks/cats", "Masks/dogs"):
        picture(tmp_path / name / "a.png")
    (warning,) = open_dataset(tmp_path).warnings
    assert warning == f"{tmp_path / 'Masks'} is not read: if it holds ground-truth masks, rename it to masks/"


def test_open_dataset__tells_of_two_names_of_one_split(tmp_path: Path) -> None:
    rows = [f"{number},cat,{split}" for number, split in enumerate(("train", "Training", "val", "valid", "test"))]
    for number in range(len(rows)):
        picture(tmp_path / "images" / f"{number}.png")
    (tmp_path / "labels.csv").write_text("\n".join(["image,labels,split", *rows]))
    assert open_dataset(tmp_path).warnings == (
        "split 'training' (images: 1) is used only if --split names it, beside split 'train': if they are one split, "
        "give them one name",
        "split 'valid' (images: 1) is used only if --split names it, beside split 'val': if they are one split, give "
        "them one name",
    )


def test_open_dataset__voc(tmp_path: Path) -> None:
    folder = tmp_path / "VOCdevkit" / "VOC2012"
    picture(folder / "JPEGImages" / "a.jpg")
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    (folder / "ImageSets" / "Main" / "train.txt").write_text("a\n")
    (folder / "Annotations").mkdir()
    (folder / "Annotations" / "a.xml").write_text("<annotation><object><name>cat</name></object></annotation>")
    for root in (tmp_path, folder.parent, folder):
        dataset = open_dataset(root)
        assert (dataset.layout, dataset.root) == ("voc", folder)


def test_open_dataset__coco(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "train2017" / "a.jpg")
    (tmp_path / "annotations").mkdir()
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 6, "width": 8}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 3}],
        "categories": [{"id": 3, "name": "car"}],
    }
    (tmp_path / "annotations" / "instances_train2017.json").write_text(json.dumps(content))
    assert open_dataset(tmp_path).layout == "coco"


def test_open_dataset__no_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none is not a folder: give the folder of a data set \(images/ with labels"):
        open_dataset(tmp_path / "none")


def test_open_dataset__images_without_table(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png")
    with pytest.raises(DataError, match=r"has images/ but no labels\.csv: write one with the columns image,"):
        open_dataset(tmp_path)


def test_open_dataset__coco_file_in_the_wrong_place(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png")
    (tmp_path / "result.json").write_text("{}")
    with pytest.raises(
        DataError, match=r"if result\.json has annotations of COCO, move it to annotations/instances_train"
    ):
        open_dataset(tmp_path)


def test_open_dataset__nothing_known(tmp_path: Path) -> None:
    with pytest.raises(
        DataError,
        match=r"is not a data set: expected images/ with labels\.csv, or one folder of images per class, or "
        r"Pascal VOC \(JPEGImages/, ImageSets/, Annotations/\), or COCO \(annotations/instances_\*\.json, or _anno",
    ):
        open_dataset(tmp_path)


def test_open_dataset__needs_no_torch() -> None:
    script = "import sys, data.readers; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[2]).returncode == 0


def test_read_mask__good(tmp_path: Path) -> None:
    mask: NDArray[np.uint8] = read_mask(masked(tmp_path / "a.png", [[0, 3, 255]]), (1, 3), 3)
    assert mask.tolist() == [[0, 3, 255]]


def test_read_mask__none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^image 'a' has no mask$"):
        read_mask(samples(tmp_path / "a.png")[0], (1, 1), 1)


def test_read_mask__other_size(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.png is 1 x 3 \(height x width\), its image is 2 x 3: give the mask the "):
        read_mask(masked(tmp_path / "a.png", [[0, 0, 0]]), (2, 3), 3)


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_read_mask__of_the_stored_pixels_of_a_rotated_photograph(tmp_path: Path, orientation: int, suffix: str) -> None:
    sample = masked(tmp_path / "a.png", [[0, 0, 0]])
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = tmp_path / f"a{suffix}"
    Image.new("RGB", (3, 1)).save(image, exif=exif)
    with pytest.raises(DataError, match=r"its image is 3 x 1: the image is stored rotated \(EXIF orientation\) and"):
        read_mask(replace(sample, image=image), (3, 1), 3)


def test_read_mask__values_out_of_range(tmp_path: Path) -> None:
    with pytest.raises(
        DataError,
        match=r"a\.png has the value 4 in 2 pixels: allowed are 0 \(background\), 1 to 3 \(classes\) and 255",
    ):
        read_mask(masked(tmp_path / "a.png", [[255, 4, 254]]), (1, 3), 3)


def test_check_images__all_good_in_order(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    given = [Sample(id=str(number), image=tmp_path / "a.png", classes=(), mask=None) for number in range(600)]
    assert check_images(given, 6) == (tuple(given), ())
    assert check_images([], 6) == ((), ())


def test_check_images__missing(tmp_path: Path) -> None:
    given = samples(picture(tmp_path / "a.png"), tmp_path / "b.png", tmp_path / "c.png")
    with pytest.raises(
        DataError,
        match=r"b\.png is missing \(and 1 more of 3 images\): fix or remove it, or "
        r"skip it with --skip-bad$",
    ):
        check_images(given, 1)
    good, problems = check_images(given, 1, skip_bad=True)
    assert good == (given[0],)
    assert problems == (f"{tmp_path}/b.png is missing", f"{tmp_path}/c.png is missing")


def test_check_images__unreadable(tmp_path: Path) -> None:
    (tmp_path / "b.jpg").write_text("text")
    with pytest.raises(
        DataError, match=r"b\.jpg is not a readable JPEG, PNG, BMP, TIFF, WebP, AVIF or NumPy image: fix"
    ):
        check_images(samples(picture(tmp_path / "a.png"), tmp_path / "b.jpg"), 1)


def test_check_images__too_small(tmp_path: Path) -> None:
    given = samples(picture(tmp_path / "a.png", 16, 16), picture(tmp_path / "b.png", 40, 15))
    with pytest.raises(DataError, match=r"b\.png is too small: its shorter side has 15 pixels, 16 are needed: fix"):
        check_images(given, 16)


def test_check_images__none_is_good(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.png is missing \(and 1 more of 2 images\): no image is usable$"):
        check_images(samples(tmp_path / "a.png", tmp_path / "b.png"), 1, skip_bad=True)


@pytest.mark.parametrize("name", ["Labels.csv", "labels.csv.txt", "LABELS.CSV"])
def test_open_dataset__table_with_a_similar_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(DataError, match=rf"has '{name}' but no labels\.csv: rename it$"):
        open_dataset(tmp_path)


def test_read_mask__that_is_turned_by_its_orientation(tmp_path: Path) -> None:
    """It was saved upright, with the orientation of the photograph."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 6)).save(tmp_path / "a.png")
    Image.new("L", (8, 6)).save(tmp_path / "mask.png", exif=exif)
    sample = Sample(id="a", image=tmp_path / "a.png", classes=(1,), mask=MaskFile(tmp_path / "mask.png"))
    with pytest.raises(DataError, match="the mask was rotated by its EXIF orientation: if its stored"):
        read_mask(sample, (6, 8), 1)
