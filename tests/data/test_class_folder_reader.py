from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from data.class_folder_reader import read_class_folders
from data.dataset import Dataset
from data.errors import DataError
from data.inspection import UnusedMasks, find_unused_masks
from data.readers import open_dataset


def build(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(root / name)
    return root


def labels(dataset: Dataset) -> dict[str, dict[str, tuple[int, ...]]]:
    return {split: {sample.id: sample.classes for sample in samples} for split, samples in dataset.splits.items()}


def test_read_class_folders__flat(tmp_path: Path) -> None:
    dataset = read_class_folders(build(tmp_path, "dogs/b.jpg", "cats/a.jpg", "cats/old/a.png"))
    assert dataset.class_names == ("cats", "dogs")
    assert labels(dataset) == {"train": {"cats/a": (1,), "cats/old/a": (1,), "dogs/b": (2,)}}
    assert (dataset.layout, dataset.train_split, dataset.val_split) == ("class_folders", "train", None)
    assert dataset.split()[0].mask is None
    assert dataset.warnings == ()


def test_read_class_folders__splits(tmp_path: Path) -> None:
    names = ("train/cats/a.jpg", "train/dogs/b.jpg", "Val/dogs/c.jpg", "extra/cats/d.jpg", "val/e.jpg")
    dataset = read_class_folders(build(tmp_path, *names[:4]))
    assert labels(dataset) == {
        "train": {"train/cats/a": (1,), "train/dogs/b": (2,)},
        "val": {"Val/dogs/c": (2,)},
    }
    assert (dataset.train_split, dataset.val_split) == ("train", "val")
    assert dataset.warnings == (
        "images outside the class folders, skipped: 1 (extra/: 1); if 'extra' is a split, call it 'val' or 'test'",
    )


@pytest.mark.parametrize("name", ["train/b.jpg", "train/steam/b.jpg"])
def test_read_class_folders__class_called_train(tmp_path: Path, name: str) -> None:
    assert read_class_folders(build(tmp_path, "car/a.jpg", name)).class_names == ("car", "train")


def test_read_class_folders__background_folder_shows_no_class(tmp_path: Path) -> None:
    dataset = read_class_folders(build(tmp_path, "background/a.jpg", "cats/b.jpg"))
    assert dataset.class_names == ("cats",)
    assert labels(dataset) == {"train": {"background/a": (), "cats/b": (1,)}}


def test_read_class_folders__masks(tmp_path: Path) -> None:
    dataset = read_class_folders(build(tmp_path, "cats/a.jpg", "dogs/b.jpg", "masks/cats/a.png"))
    assert dataset.class_names == ("cats", "dogs")
    assert [sample.mask is not None for sample in dataset.split()] == [True, False]


def test_read_class_folders__images_beside_the_folders_are_counted(tmp_path: Path) -> None:
    dataset = read_class_folders(build(tmp_path, "cats/a.jpg", "dogs/b.jpg", "c.jpg"))
    assert dataset.warnings == ("images outside the class folders, skipped: 1 (in no folder: 1)",)


def test_read_class_folders__same_id_twice(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"two images have the id 'cats/a' \('cats/a.jpg', 'cats/a.png'\): rename"):
        read_class_folders(build(tmp_path, "cats/a.jpg", "cats/a.png", "dogs/b.jpg"))


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ((), "no folder with images"),
        (("a.jpg",), "no folder with images"),
        (("pets/a.jpg",), "only one folder with images, 'pets'"),
        (("train/pets/a.jpg",), "only one folder with images, 'pets'"),
    ],
)
def test_read_class_folders__too_few(tmp_path: Path, names: tuple[str, ...], found: str) -> None:
    with pytest.raises(DataError, match=f"holds {found}: class folders need at least two, one per class"):
        read_class_folders(build(tmp_path, *names))


@pytest.mark.parametrize(
    "tops",
    [
        ("train", "val", "test"),
        ("train",),
        ("Train", "VALID"),
        ("train2017", "val2017"),
        ("train", "test1"),
        ("trainA", "trainB", "testA"),
        ("train/train", "test/test"),
        ("seg_train", "seg_test"),
        ("my-data-train", "my-data-val2"),
        ("train", "test_final"),
        ("Training", "Testing"),
        ("train", "dev"),
    ],
)
def test_read_class_folders__flat_splits_are_not_classes(tmp_path: Path, tops: tuple[str, ...]) -> None:
    root = build(tmp_path, *(f"{top}/a.jpg" for top in tops))
    with pytest.raises(
        DataError, match=rf"'{tops[0].split('/')[0]}'.* hold images, but no folders of classes.*: sort the images into"
    ):
        read_class_folders(root)


@pytest.mark.parametrize("test", ["test", "test1", "test_images"])
def test_read_class_folders__flat_split_beside_deep_ones_has_no_labels(tmp_path: Path, test: str) -> None:
    names = ("train/cats/a.jpg", "train/dogs/b.jpg", "val/dogs/c.jpg", f"{test}/1.jpg", f"{test}/1.png")
    dataset = read_class_folders(build(tmp_path, *names))
    assert dataset.class_names == ("cats", "dogs")
    assert sorted(dataset.splits) == ["train", "val"]
    assert [(sample.id, sample.labelled) for sample in dataset.unlabelled] == [(f"{test}/1", False)]


@pytest.mark.parametrize(
    "names",
    [
        ("JPEGImages/a.jpg", "SegmentationClass/a.png", "SegmentationClassVisualization/a.jpg"),
        ("train/images/a.jpg", "valid/images/b.jpg"),
        ("train/images/a.jpg", "train/masks/a.png"),
        ("Images/a.jpg", "labels/a.png"),
        ("annotations/trimaps/a.png", "cats/b.jpg"),
        ("cats/a.jpg", "unlabeled/b.jpg"),
        ("original/a.jpg", "mask/a.png"),
        ("train/input/a.jpg", "train/target/a.jpg"),
        ("leftImg8bit/bonn/a.jpg", "gtFine/bonn/a.png"),
        ("A/a.png", "B/a.png", "label/a.png"),
    ],
)
def test_read_class_folders__parts_of_other_layouts_are_not_classes(tmp_path: Path, names: tuple[str, ...]) -> None:
    with pytest.raises(
        DataError,
        match=r"not look like folders of classes, .*: give the folder .*run 'toco init'; to use such .*classes",
    ):
        read_class_folders(build(tmp_path, *names))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ("cats/a.jpg", "birds/b.jpg", "dogs/c.HEIC", "dogs/d.gif"),
            "no image in 'dogs' can be read (1 .heic and 1 .gif files): save as",
        ),
        (("cats/a.heic", "dogs/b.heic"), "no image in 'cats', 'dogs' can be read (2 .heic files): save as"),
        (
            ("train/cats/a.jpg", "train/birds/b.jpg", "train/dogs/c.psd"),
            "no image in 'dogs' can be read (1 .psd file): save as",
        ),
    ],
)
def test_read_class_folders__class_of_pictures_that_are_not_read(
    tmp_path: Path, names: tuple[str, ...], message: str
) -> None:
    for name in names:
        build(tmp_path, f"{name}.png")
        (tmp_path / f"{name}.png").rename(tmp_path / name)
    with pytest.raises(DataError) as caught:
        read_class_folders(tmp_path)
    assert message in str(caught.value)


def test_read_class_folders__files_that_are_not_read_are_counted(tmp_path: Path) -> None:
    build(tmp_path, "cats/a.jfif.jpg", "dogs/b.jpg")
    (tmp_path / "cats" / "a.jfif.jpg").rename(tmp_path / "cats" / "a.jfif")
    for name in ("dogs/c.gif", "videos/d.mp4", "masks/e.gif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    dataset = read_class_folders(tmp_path)
    assert labels(dataset) == {"train": {"cats/a": (1,), "dogs/b": (2,)}}
    assert dataset.unread_files == ("dogs/c.gif", "videos/d.mp4")
    assert dataset.counted[0].startswith("1 .gif and 1 .mp4 files are not read: save as JPEG or PNG")


@pytest.mark.parametrize(
    "names",
    [("mask", "no_mask"), ("fake_images", "real_images"), ("test strip", "trainer"), ("test tube", "training shoe")],
)
def test_read_class_folders__similar_names_may_be_classes(tmp_path: Path, names: tuple[str, ...]) -> None:
    assert read_class_folders(build(tmp_path, *(f"{name}/a.jpg" for name in names))).class_names == names


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("cats", "Cats"), "folder 'cats' looks the same as 'Cats': merge or rename the folders"),
        (("cats", "None"), "folder 'None' stands for a missing value: merge .*'background' means none of the classes"),
        (("cats", "dogs", "cats, dogs"), "folder 'cats, dogs' looks like several labels, 'cats;dogs': merge"),
    ],
)
def test_read_class_folders__names_that_are_not_meant(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_class_folders(build(tmp_path, *(f"{name}/a.jpg" for name in names)))


def test_read_class_folders__numbers_sort_as_numbers(tmp_path: Path) -> None:
    assert read_class_folders(build(tmp_path, *(f"{number}/a.jpg" for number in (10, 9, 1)))).class_names == (
        "1",
        "9",
        "10",
    )


def test_read_class_folders__one_class_in_two_unicode_forms(tmp_path: Path) -> None:
    names = (
        f"{unicodedata.normalize('NFD', 'Bär')}/a.jpg",
        f"{unicodedata.normalize('NFC', 'Bär')}/b.jpg",
        "Uhu/c.jpg",
    )
    dataset = read_class_folders(build(tmp_path, *names))
    assert labels(dataset)["train"] == {"Bär/a": (1,), "Bär/b": (1,), "Uhu/c": (2,)}


def test_read_class_folders__splits_inside_classes(tmp_path: Path) -> None:
    root = build(tmp_path, "cats/train/a.jpg", "cats/val/b.jpg", "dogs/train/c.jpg")
    with pytest.raises(
        DataError, match=r"'train', 'val' are inside the folders of classes: put the classes inside the"
    ):
        read_class_folders(root)


def test_read_class_folders__split_beside_other_folders(tmp_path: Path) -> None:
    root = build(tmp_path, "train/cats/a.jpg", "train/dogs/b.jpg", "more/c.jpg")
    with pytest.raises(
        DataError, match=r"'train' holds folders \('cats', 'dogs'\), so that it looks like .*'more'\): rename"
    ):
        read_class_folders(root)


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("seg_train/seg_train", "seg_test/seg_test"),
        ("training_set/training_set", "test_set/test_set"),
        ("Train/train", "test/Test"),
        ("flowers_train", "flowers_val"),
        ("Training", "Testing"),
        ("dataset-training", "dataset-test2"),
    ],
)
def test_read_class_folders__splits_in_folders_of_their_names(tmp_path: Path, train: str, test: str) -> None:
    names = [f"{split}/{folder}/{split.split('/')[0]}.jpg" for split in (train, test) for folder in ("sea", "ice")]
    dataset = read_class_folders(build(tmp_path, *names, "seg_pred/seg_pred/1.jpg"))
    assert dataset.class_names == ("ice", "sea")
    assert [len(dataset.splits[name]) for name in (dataset.train_split, dataset.val_split or "")] == [2, 2]
    assert dataset.warnings == ("images outside the class folders, skipped: 1 (seg_pred/: 1)",)


@pytest.mark.parametrize("test", ["test/unknown", "test_set/all", "val/test"])
def test_read_class_folders__only_folder_of_a_split_is_no_class(tmp_path: Path, test: str) -> None:
    root = build(tmp_path, "train/cat/a.jpg", "train/dog/b.jpg", f"{test}/c.jpg")
    dataset = read_class_folders(root)
    folder = test.split("/")[1]
    assert dataset.class_names == ("cat", "dog")
    assert [sample.id for sample in dataset.unlabelled] == [f"{test}/c"]
    assert dataset.warnings == (
        f"images in {test}/ are read as images without labels, since the training split has no class '{folder}'; if it "
        "is one, list all classes in classes.txt, one per line",
    )
    (root / "classes.txt").write_text(f"dog\n{folder}\ncat\n")
    dataset = read_class_folders(root)
    assert dataset.class_names == ("dog", folder, "cat")
    assert (dataset.unlabelled, dataset.warnings) == ((), ())


def test_read_class_folders__only_folder_of_a_split_may_be_a_known_class(tmp_path: Path) -> None:
    names = ("train/cat/a.jpg", "train/dog/b.jpg", "test/cat/c.jpg", "val/cow/d.jpg", "val/cat/e.jpg")
    assert read_class_folders(build(tmp_path, *names)).class_names == ("cat", "cow", "dog")


@pytest.mark.parametrize(
    "folders",
    [
        ("A", "a"),
        ("nan", "naan"),
        ("None", "some"),
        ("crack-like", "crack like"),
        ("labels", "bottles"),
        ("images", "videos"),
        ("annotation", "ground_truth"),
        ("masks", "no masks"),
        ("train", "test"),
        ("seg_train", "seg_test"),
        ("original", "mask"),
        ("cat", "dog", "cat, dog"),
    ],
)
def test_read_class_folders__listed_folders_are_classes(tmp_path: Path, folders: tuple[str, ...]) -> None:
    root = build(tmp_path, *(f"{folder}/{number}.jpg" for number, folder in enumerate(folders)), "background/x.jpg")
    with pytest.raises(DataError, match=r"list all classes in classes\.txt, one per line$"):
        read_class_folders(root)
    (root / "classes.txt").write_text("# mine\n" + "".join(f"{name}\n" for name in reversed(folders)))
    dataset = open_dataset(root)
    assert dataset.class_names == folders[::-1]
    expected = {f"{folder}/{number}": (len(folders) - number,) for number, folder in enumerate(folders)}
    assert labels(dataset) == {"train": expected | {"background/x": ()}}
    assert find_unused_masks(dataset) == UnusedMasks()


def test_read_class_folders__listed_classes_inside_splits(tmp_path: Path) -> None:
    root = build(tmp_path, "train/train/a.jpg", "train/car/b.jpg", "test/train/c.jpg", "test/car/d.jpg")
    (root / "classes.txt").write_text("train\ncar\n")
    assert labels(read_class_folders(root)) == {
        "train": {"train/car/b": (2,), "train/train/a": (1,)},
        "test": {"test/car/d": (2,), "test/train/c": (1,)},
    }


def test_read_class_folders__folder_that_is_not_listed(tmp_path: Path) -> None:
    root = build(tmp_path, "cat/a.jpg", "dgo/b.jpg")
    (root / "classes.txt").write_text("cat\ndog\n")
    with pytest.raises(
        DataError, match=r"classes\.txt lacks the folder 'dgo' \(it lists 'cat', 'dog'; did you mean 'dog'\?\): rename"
    ):
        read_class_folders(root)


def test_read_class_folders__masks_is_a_class_inside_a_split(tmp_path: Path) -> None:
    dataset = read_class_folders(build(tmp_path, "train/masks/a.jpg", "train/gloves/b.jpg", "masks/train/gloves/b.png"))
    assert dataset.class_names == ("gloves", "masks")
    assert [sample.mask is not None for sample in dataset.split()] == [True, False]


@pytest.mark.parametrize("mask", ["masks/a.png", "masks/session 1/a.jpg"])
def test_read_class_folders__masks_of_no_image(tmp_path: Path, mask: str) -> None:
    with pytest.raises(
        DataError, match=r"files in masks/ \(1\) belong to no image: the mask of cats/1\.jpg is masks/cats"
    ):
        read_class_folders(build(tmp_path, "cats/a.jpg", "dogs/b.jpg", mask))


@pytest.mark.parametrize("name", ["docs/paper.pdf", "icon/favicon.ico", "logo/logo.svg", "films/a.mp4"])
def test_read_class_folders__documents_are_counted(tmp_path: Path, name: str) -> None:
    build(tmp_path, "cats/a.jpg", "dogs/b.jpg", name.replace(name[-4:], ".png")).joinpath(name[:-4] + ".png").rename(
        tmp_path / name
    )
    dataset = read_class_folders(tmp_path)
    assert dataset.class_names == ("cats", "dogs")
    assert dataset.counted[0].startswith(f"1 {name[-4:]} file is not read")


def test_read_class_folders__split_of_an_unknown_name(tmp_path: Path) -> None:
    names = [f"{split}/{folder}/{split}.jpg" for split in ("train", "val", "dev") for folder in ("cats", "dogs")]
    assert read_class_folders(build(tmp_path, *names, "docs/a.png")).warnings == (
        "images outside the class folders, skipped: 3 (dev/: 2, docs/: 1); "
        "if 'dev' is a split, call it 'val' or 'test'",
    )


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("1.jpg", "1_mask.png"),
        ("1.jpg", "1-Label.bmp"),
        ("1.jpg", "mask_1.png"),
        ("1.png", "1_mask_1.png"),
        ("1.jpg", "1_segmentation_mask.png"),
        ("image_1.jpg", "mask_1.png"),
        ("1_image.png", "1_mask.png"),
    ],
)
def test_read_class_folders__masks_beside_images(tmp_path: Path, image: str, mask: str) -> None:
    build(tmp_path, f"cats/{image}", f"cats/{mask}", "dogs/2.jpg", "dogs/2_gt.png")
    with pytest.raises(DataError, match=r"names of masks, beside images: 2 .* move them to masks/.*list all classes"):
        read_class_folders(tmp_path)
    (tmp_path / "classes.txt").write_text("cats\ndogs\n")
    (warning,) = read_class_folders(tmp_path).warnings
    assert warning.startswith("files with the names of masks, beside images: 2 (first cats/")


def test_read_class_folders__name_of_a_mask_without_its_image(tmp_path: Path) -> None:
    found = read_class_folders(build(tmp_path, "cats/face_mask.jpg", "cats/hand.jpg", "dogs/hand_label.jpg"))
    assert len(found.split()) == 3
    assert found.warnings == ()


@pytest.mark.parametrize("image", ["01/images/a.jpg", "01/a.jpg"])
def test_read_class_folders__masks_in_a_class(tmp_path: Path, image: str) -> None:
    build(tmp_path, image, "01/masks/b.png", "02/a.jpg")
    with pytest.raises(DataError, match=r"01/ holds the folder 'masks' beside images.*list all classes in classes.txt"):
        read_class_folders(tmp_path)
    (tmp_path / "classes.txt").write_text("01\n02\n")
    (warning,) = read_class_folders(tmp_path).warnings
    assert warning.startswith("01/ holds the folder 'masks' beside images")


def test_read_class_folders__masks_outside_the_splits(tmp_path: Path) -> None:
    names = ("train/cats/1.jpg", "train/dogs/1.jpg", "test/cats/1.jpg", "test/dogs/1.jpg", "ground_truth/cats/1.png")
    (warning,) = read_class_folders(build(tmp_path, *names)).warnings
    assert "if 'ground_truth' holds ground-truth masks, call it 'masks', and give each mask the path of" in warning


def test_read_class_folders__classes_that_may_be_groups(tmp_path: Path) -> None:
    names = (
        "line1/dent/1.jpg",
        "line1/crack/2.jpg",
        "line2/dent/3.jpg",
        "ok/4.jpg",
        "ok/old/5.jpg",
        "background/a/6.jpg",
    )
    (warning,) = read_class_folders(build(tmp_path, *names, "background/b/7.jpg")).warnings
    assert warning.startswith("classes whose images are in several folders, and are read as one class: 'line1' of ")
    assert warning.endswith("move each of them up, beside 'line1'")
    (tmp_path / "classes.txt").write_text("line1\nline2\nok\n")
    assert read_class_folders(tmp_path).warnings == ()
