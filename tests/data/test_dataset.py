from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from data.dataset import Dataset, Sample, checked_mask, default_splits, drop_same_ids, first_present, list_names
from data.errors import DataError
from data.readers import open_dataset


def sample(sample_id: str) -> Sample:
    return Sample(id=sample_id, image=Path(f"{sample_id}.jpg"), classes=(), mask=None)


def dataset(
    *, class_names: tuple[str, ...] = ("cat",), train: tuple[str, ...] = ("a",), val: tuple[str, ...] = ()
) -> Dataset:
    return Dataset(
        root=Path("pets"),
        layout="custom",
        class_names=class_names,
        splits={"train": tuple(map(sample, train)), "val": tuple(map(sample, val))},
        train_split="train",
        val_split=None,
    )


def test_split__default_is_train() -> None:
    assert [entry.id for entry in dataset(train=("a", "b")).split()] == ["a", "b"]


def test_split__by_name() -> None:
    assert [entry.id for entry in dataset(val=("c",)).split("val")] == ["c"]


def test_split_names__training_and_validation_first() -> None:
    entry = sample("a")
    found = replace(
        dataset(), splits={"extra": (entry,), "val": (entry,), "train": (entry,)}, train_split="train", val_split="val"
    )
    assert found.split_names() == ("train", "val", "extra")
    assert replace(found, train_split="gone", val_split=None).split_names() == ("extra", "val", "train")


def test_split__unknown() -> None:
    with pytest.raises(DataError, match=r"^pets has no split 'test': choose one of 'train', 'val'$"):
        dataset().split("test")


def test_split__empty() -> None:
    with pytest.raises(DataError, match=r"^pets: split 'val' is empty: choose one of 'train', 'val'$"):
        dataset().split("val")


@pytest.mark.parametrize(
    ("class_names", "message"),
    [
        ((), "pets has no classes: label at least one image"),
        (("cat", "cat"), "pets, class names: 'cat' occurs twice"),
        (("cat", ""), "pets: the class name '' has no visible character: rename the class"),
        (("cat", "x\0"), r"pets: the class name 'x\\x00' has a control character"),
        (("cat", "Background"), "pets lists 'background' as a class: list the foreground classes only"),
        (tuple(map(str, range(255))), "pets has 255 classes: the limit is 254, since masks have 8 bits"),
    ],
)
def test_dataset__impossible_class_names(class_names: tuple[str, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        dataset(class_names=class_names)


def test_dataset__id_twice_in_a_split() -> None:
    with pytest.raises(DataError, match=r"pets: two images have the id 'a' \('a.jpg', 'a.jpg'\): rename or remove one"):
        dataset(train=("a", "a"))


def test_dataset__id_of_a_labelled_and_an_unlabelled_image() -> None:
    preview = replace(sample("a"), image=Path("pets/previews/a.png"), labelled=False)
    with pytest.raises(DataError, match=r"two images have the id 'a' \('a.jpg', 'previews/a.png'\): rename or remove"):
        replace(dataset(val=("b",)), unlabelled=(preview,))


def test_dataset__id_of_images_in_two_splits() -> None:
    found = dataset(train=("a", "b"), val=("a",))  # one image in two splits
    other = replace(sample("b"), image=Path("pets/val/b.jpg"))
    with pytest.raises(DataError, match=r"two images have the id 'b' \('b.jpg', 'val/b.jpg'\): rename or remove one"):
        replace(found, splits={**found.splits, "val": (other,)})


def test_drop_same_ids__first_image_of_an_id_remains() -> None:
    unlabelled = [replace(sample(name), image=Path(f"{name}.png"), labelled=False) for name in ("a", "b", "b", "c")]
    unlabelled[2] = replace(unlabelled[2], image=Path("b.tif"))
    kept, warnings = drop_same_ids(iter(unlabelled), beside=[sample("a")])
    assert kept == (unlabelled[1], unlabelled[3])
    assert warnings == (
        "images without labels that have the name of another image, skipped: 2, for example 'a.png' beside 'a.jpg'",
    )
    assert drop_same_ids(kept, beside=[]) == (kept, ())


def test_dataset__same_id_in_two_splits() -> None:
    assert dataset(train=("a",), val=("a",)).split("val")


def test_dataset__id_is_folder_of_another() -> None:
    with pytest.raises(DataError, match="image 'x/a' has the name of the folder of image 'x/a/b/c'"):
        dataset(train=("x/a/b/c", "y"), val=("x/a",))


def test_dataset__id_in_another_encoding() -> None:
    with pytest.raises(DataError, match=r"pets: the name of image 'B\\udce4r' is not in UTF-8: rename the file"):
        dataset(train=("B\udce4r",))


def test_checked_mask__good() -> None:
    mask = np.array([[0, 3, 255]], np.uint8)
    assert checked_mask(mask, (1, 3), 3, "the mask of 'a'") is mask


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((3, 1)), "the mask of 'a' is 3 x 1 (height x width), its image is 1 x 3: use other data"),
        (np.zeros((1, 3, 1)), "the mask of 'a' is 1 x 3 x 1 (height x width), its image is 1 x 3: use other data"),
        (
            np.array([[4, 254, 255]]),
            "the mask of 'a' has the value 4 in 2 pixels: "
            "allowed are 0 (background), 1 to 3 (classes) and 255 (ignored)",
        ),
    ],
)
def test_checked_mask__bad(values: NDArray[Any], message: str) -> None:
    with pytest.raises(DataError) as caught:
        checked_mask(values.astype(np.uint8), (1, 3), 3, "the mask of 'a'", remedy="use other data")
    assert str(caught.value) == message


def test_first_present__prefers_earlier() -> None:
    assert first_present(("val", "test"), ("test", "val")) == "val"
    assert first_present(("val", "test"), ("train",)) is None


def test_list_names__cuts_long_lists() -> None:
    assert list_names(["a", "b", "c"], limit=2) == "'a', 'b' and 1 more"
    assert list_names([]) == "none"


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["val", "train"], ("train", "val")),
        (["train2014", "train2017", "val2017"], ("train2014", "val2017")),
        (["test", "valid", "train"], ("train", "valid")),
        (["default"], ("default", None)),
        (["default", "val"], ("default", "val")),
        (["val2017"], ("val2017", None)),
        (["a", "b"], ("train", None)),
        (["val", "test"], ("train", "val")),
    ],
)
def test_default_splits(names: list[str], expected: tuple[str, str | None]) -> None:
    assert default_splits(names) == expected


def test_fingerprint__follows_labels_and_files(draw_pictures: Callable[[Path], Path], tmp_path: Path) -> None:
    data = draw_pictures(tmp_path / "data")
    first = open_dataset(data).fingerprint
    assert open_dataset(data).fingerprint == first
    table = (data / "labels.csv").read_text()
    (data / "labels.csv").write_text(table.replace("a.jpg,red,", "a.jpg,blue,"))
    relabelled = open_dataset(data).fingerprint
    (data / "labels.csv").write_text(table)
    with (data / "images/a.jpg").open("ab") as file:
        file.write(b"more")
    assert len({first, relabelled, open_dataset(data).fingerprint}) == 3
