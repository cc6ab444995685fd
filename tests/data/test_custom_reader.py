from __future__ import annotations

import csv
import tracemalloc
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.custom_reader import read_custom
from data.dataset import Sample
from data.errors import DataError


def build(
    root: Path,
    table: str | bytes,
    images: tuple[str, ...] = ("a.jpg", "b.jpg"),
    *,
    classes: str | None = None,
    masks: tuple[str, ...] = (),
) -> Path:
    for path in [root / "images" / name for name in images] + [root / "masks" / name for name in masks]:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.ones((4, 6), np.uint8)).save(path)
    (root / "labels.csv").write_bytes(table.encode() if isinstance(table, str) else table)
    if classes is not None:
        (root / "classes.txt").write_text(classes)
    return root


def by_id(samples: tuple[Sample, ...]) -> dict[str, tuple[int, ...]]:
    return {sample.id: sample.classes for sample in samples}


def test_read_custom__kinds_that_are_not_read(tmp_path: Path) -> None:
    root = build(tmp_path, "image,labels\na,cat\nc.heic,cat\n")
    (root / "images" / "c.heic").touch()
    with pytest.raises(
        DataError, match=r"line 3: image 'c\.heic' is in images/ as 'c\.heic', a kind of file that is not"
    ):
        read_custom(root)
    dataset = read_custom(root, skip_bad=True)
    assert dataset.unread_files == ("images/c.heic",)
    assert "1 .heic file is not read: save as JPEG or PNG (.heic with pillow-heif)" in dataset.counted


def test_read_custom__labels(tmp_path: Path) -> None:
    table = "image,labels\na.jpg, dog ;cat;\nb.jpg,\n"
    dataset = read_custom(build(tmp_path, table))
    assert dataset.class_names == ("cat", "dog")
    assert by_id(dataset.split()) == {"a": (1, 2), "b": ()}
    assert dataset.split()[0].image == tmp_path / "images" / "a.jpg"
    assert (dataset.layout, dataset.train_split, dataset.val_split) == ("custom", "train", None)
    assert dataset.warnings == ()


def test_read_custom__classes_file_gives_order(tmp_path: Path) -> None:
    table = "image,labels\na.jpg,dog\nb.jpg,cat\n"
    dataset = read_custom(build(tmp_path, table, classes="\ufeffdog\n\n cat \nbird\n"))
    assert dataset.class_names == ("dog", "cat", "bird")
    assert by_id(dataset.split()) == {"a": (1,), "b": (2,)}


def test_read_custom__splits(tmp_path: Path) -> None:
    table = "image,labels,split\na.jpg,cat,\nb.jpg,cat,Val\nc.jpg,cat,extra\n"
    dataset = read_custom(build(tmp_path, table, ("a.jpg", "b.jpg", "c.jpg")))
    assert {name: [sample.id for sample in samples] for name, samples in dataset.splits.items()} == {
        "train": ["a"],
        "val": ["b"],
        "extra": ["c"],
    }
    assert dataset.val_split == "val"


@pytest.mark.parametrize(
    "table",
    [
        b"\xef\xbb\xbfimage,labels\r\na.jpg,cat\r\nb.jpg,dog\r\n",
        b"Image , LABELS\na.jpg,cat\n\n,\nb.jpg,dog",
        b'"labels","image"\n"cat","a.jpg"\n"dog","b.jpg"\n',
        b"image,labels\na,cat\nb,dog\n",
        b"image,labels\n./a.jpg,cat\nb,dog;dog\n",
        b"image,cat,dog\na.jpg,1,0\nb.jpg,0,1\n",
        b"image,split,dog,cat\na.jpg,train,0.0,1.0\nb.jpg,train,1.0,0.0\n",
        b'image,labels\na.jpg,"cat\r\n\r\ncat\n"\nb.jpg,dog\n',
        b"image,cat,dog\na.jpg,True,False\nb.jpg,False,True\n",
        b"image,cat,dog\na.jpg,YES,no\nb.jpg,FALSE,TRUE\n",
        b"image;labels\r\na.jpg;cat\r\nb.jpg;dog;\r\n".replace(b"dog;", b'"dog;"'),
        b"\xef\xbb\xbfsep=;\r\nimage;labels;split\r\na.jpg;cat;train\r\nb.jpg;dog;\r\n",
        b"# mine, in May\nimage\tlabels\na.jpg\tcat\nb.jpg\tdog\n",
        "image,labels\nimages/A.JPG, cat\u200b\nb.jpg,\u00a0dog\n".encode(),
        "\ufeffimage\ufeff,labels\na.jpg,cat\n.\\b.jpg,dog\n".encode(),
    ],
)
def test_read_custom__ways_to_write_the_same(tmp_path: Path, table: bytes) -> None:
    dataset = read_custom(build(tmp_path, table))
    assert dataset.class_names == ("cat", "dog")
    assert by_id(dataset.split()) == {"a": (1,), "b": (2,)}


def test_read_custom__one_hot_in_the_order_of_the_classes_file(tmp_path: Path) -> None:
    table = "image,Cat,dog\na.jpg,1,0\nb.jpg,1,1\n"
    dataset = read_custom(build(tmp_path, table, classes="dog\ncat\n"))
    assert dataset.class_names == ("dog", "cat")
    assert by_id(dataset.split()) == {"a": (2,), "b": (1, 2)}


def test_read_custom__comments(tmp_path: Path) -> None:
    table = "# by me, in May\nimage,labels\n#a.jpg,dog\n  # say \"b\"; not 'a'\nb.jpg,cat\n./#c.jpg,dog\n"
    root = build(tmp_path, table, ("a.jpg", "b.jpg", "#c.jpg"), classes="# in order\ndog\n #cow\ncat\n")
    dataset = read_custom(root)
    assert dataset.class_names == ("dog", "cat")
    assert by_id(dataset.split()) == {"b": (2,), "#c": (1,)}
    assert [sample.id for sample in dataset.unlabelled] == ["a"]


def test_read_custom__classes_file_of_comments_only(tmp_path: Path) -> None:
    dataset = read_custom(build(tmp_path, "image,labels\na.jpg,dog\nb.jpg,cat\n", classes="# one a line\n"))
    assert dataset.class_names == ("cat", "dog")


def test_read_custom__nested_images_and_umlauts(tmp_path: Path) -> None:
    table = "image,labels\nx/y/Bär.1.png,Bär\nx\\b,Bär\n"
    dataset = read_custom(build(tmp_path, table, ("x/y/Bär.1.png", "x/b.webp"), masks=("x/y/Bär.1.png",)))
    assert by_id(dataset.split()) == {"x/y/Bär.1": (1,), "x/b": (1,)}
    assert dataset.split()[0].mask is not None


def test_read_custom__masks_for_some(tmp_path: Path) -> None:
    table = "image,labels\na.jpg,cat\nb.jpg,cat\n"
    first, second = read_custom(build(tmp_path, table, masks=("a.png",))).split()
    assert first.mask is not None
    assert first.mask.read().tolist() == np.ones((4, 6)).tolist()
    assert second.mask is None


def test_read_custom__masks_for_none_is_a_warning(tmp_path: Path) -> None:
    table = "image,labels\na.jpg,cat\nb.jpg,cat\n"
    dataset = read_custom(build(tmp_path, table, masks=("a_mask.png",)))
    assert dataset.counted == ("masks/ has no PNG with the name of an image: its files are not used",)


def test_read_custom__images_without_row_are_counted(tmp_path: Path) -> None:
    dataset = read_custom(build(tmp_path, "image,labels\na.jpg,cat\n", ("a.jpg", "b.jpg", "c.png")))
    assert [sample.id for sample in dataset.split()] == ["a"]
    assert dataset.counted == (
        "images in images/ without a row in labels.csv, skipped (make-labels --image-labels predicted uses them): 2",
    )


def test_read_custom__missing_image(tmp_path: Path) -> None:
    root = build(tmp_path, "image,labels\na.jpg,cat\nb.jpg,cat\n", ("a.jpg", "b.png"))
    with pytest.raises(
        DataError,
        match=r"labels\.csv line 3: image 'b\.jpg' is missing in images/ \(did you mean 'b\.png'\?\): "
        r"add it or correct the name, or skip it with --skip-bad$",
    ):
        read_custom(root)
    dataset = read_custom(root, skip_bad=True)
    assert [sample.id for sample in dataset.split()] == ["a"]
    assert dataset.counted[1] == "rows in labels.csv whose image is missing, skipped: 1"
    assert dataset.missing == ("b.jpg",)


def test_read_custom__all_images_missing(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"line 2: image 'c\.jpg' is missing in images/ \(.*\): add it or correct the name$"
    ):
        read_custom(build(tmp_path, "image,labels\nc.jpg,cat\n"), skip_bad=True)


def test_read_custom__unknown_label(tmp_path: Path) -> None:
    root = build(tmp_path, "image,labels\na.jpg,cat\nb.jpg,Cat;dog\n", classes="cat\ndog\n")
    with pytest.raises(
        DataError,
        match=r"labels\.csv line 3: label 'Cat' is not in classes\.txt \('cat', 'dog'; did you mean 'cat'\?\): "
        r"correct it, or add it there$",
    ):
        read_custom(root)


def test_read_custom__same_id_in_two_rows(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"lines 2 and 3 both name image 'a' \('a\.jpg', 'a'\): keep one row"):
        read_custom(build(tmp_path, "image,labels\na.jpg,cat\na,dog\n"))


def test_read_custom__same_id_in_two_files(tmp_path: Path) -> None:
    root = build(tmp_path, "image,labels\na.jpg,cat\na.png,dog\n", ("a.jpg", "a.png"))
    with pytest.raises(DataError, match=r"both name image 'a' \('a\.jpg', 'a\.png'\): keep one row, or rename"):
        read_custom(root)


def test_read_custom__ambiguous_without_extension(tmp_path: Path) -> None:
    root = build(tmp_path, "image,labels\na,cat\n", ("a.jpg", "a.png"))
    with pytest.raises(DataError, match=r"line 2: image 'a' could be any of 'a\.jpg', 'a\.png': write the complete"):
        read_custom(root)


@pytest.mark.parametrize("image", ["../secret.jpg", "x/../../secret.jpg", "..\\secret.jpg", "/etc/secret.jpg"])
def test_read_custom__path_outside_the_folder(tmp_path: Path, image: str) -> None:
    root = build(tmp_path / "data", f"image,labels\n{image},cat\n")
    Image.new("RGB", (2, 2)).save(tmp_path / "secret.jpg")
    with pytest.raises(DataError, match=r"labels\.csv line 2: image '.*secret\.jpg' is outside images/"):
        read_custom(root, skip_bad=True)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("", "has no rows: write a header 'image,labels' and one row per image"),
        ("image,labels\n", "has no rows below its header: write one per image"),
        ("# my table\nimage,labels\n# a.jpg,cat\n", "has no rows below its header"),
        ("file,labels\na.jpg,cat\n", "line 1: no column 'image' among 'file', 'labels'"),
        ("image,label\na.jpg,cat\n", "line 1: there is a column 'label' but no column 'labels': rename it"),
        ("image,labels,spilt\na.jpg,cat,val\n", "line 1: there is a column 'spilt' but no column 'split': rename it"),
        ("image,labels,Splits\na,cat,train\na,cat,VAL\na,cat,other\n", "line 1: there is a column 'Splits' but"),
        ("imgae,labels\na.jpg,cat\n", r"among 'imgae', 'labels' \(did you mean 'image' by 'imgae'\?\): write image,"),
        ("image,lables\na.jpg,cat\n", "line 2: 'cat' in column 'lables' must be 0 or 1; if .* call it 'labels'"),
        ("image,Class,split\na.jpg,cat,val\n", "'cat' in column 'Class' must be 0 or 1; if .* call it 'labels'"),
        # One wrong cell in a column of the class 'tables', which is no misspelt 'labels'.
        ("image,tables,dog\na.jpg,1,0\na.jpg,x,1\n", "line 3: 'x' in column 'tables' must be 0 or 1"),
        (
            "image,kind\na.jpg,cat\n",
            "'cat' in column 'kind' must be 0 or 1; if the column holds names of classes, call",
        ),
        ("image,split\na.jpg,train\n", "line 1: there is no column 'labels' and no 0/1 column of a class"),
        ("image,labels,Labels\na.jpg,cat,cat\n", "line 1: column 'Labels' occurs twice"),
        (",image,labels\n0,a.jpg,cat\n", "line 1: column 1 has no name"),
        ("Unnamed: 0,image,cat\n0,a.jpg,1\n", "line 1: column 'Unnamed: 0' holds row numbers, .*: remove it"),
        (
            "image,labels\na.jpg,cat,dog\n",
            "line 2: 3 cells, but the header has 2: separate labels by ';'",
        ),
        ("image,labels,split\na.jpg,cat\n", "line 2: 2 cells, but the header has 3"),
        ("image,labels\n,cat\n", "line 2: the cell 'image' is empty"),
        ('image,labels\na.jpg,"cat\n', "line 2 is not valid CSV: unexpected end of data"),
        ("image,cat,dog\na.jpg,1,2\n", "line 2: '2' in column 'dog' must be 0 or 1"),
        ("image,cat,dog\na.jpg,1,\n", "line 2: '' in column 'dog' must be 0 or 1"),
        (
            "image,cat,is_valid\na.jpg,1,0\n",
            "line 1: columns that seem to hold splits, not classes: 'is_valid'; write 'train' or 'val' into",
        ),
        ("image,cat,is_train,is_val\na.jpg,1,1,0\n", "not classes: 'is_train', 'is_val'; write"),
        ("image,is_cat,is_train,is_val\na.jpg,1,1,0\n", "not classes: 'is_train', 'is_val'; write"),
        ("image,island,isTrain\na.jpg,1,1\n", "not classes: 'isTrain'; write"),
        ("image,cat,Train,Val\na.jpg,1,1,0\n", "not classes: 'Train', 'Val'; write"),
        (
            "image;labels;split\na.jpg;cat;dog\nb.jpg;dog;val\n",
            "line 2: split 'dog' is the name of a class: .*or rename",
        ),
        ("image,labels\na.jpg,\n", "has no classes: label at least one image"),
        ("image,labels\na.jpg,background\n", "lists 'background' as a class"),
        (b"image,labels\na.jpg,B\xe4r\n", r"is not in UTF-8 \(byte 20\): save it as UTF-8 text"),
    ],
)
def test_read_custom__bad_table(tmp_path: Path, table: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_custom(build(tmp_path, table))


def test_read_custom__misspelt_labels_beside_a_list_of_classes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="line 1: there is a column 'lables' but no column 'labels': did you mean"):
        read_custom(build(tmp_path, "image,lables\na.jpg,cat\n", classes="cat\n"))


def test_read_custom__a_class_with_a_name_like_labels(tmp_path: Path) -> None:
    assert read_custom(build(tmp_path, "image,cables\na.jpg,1\n")).class_names == ("cables",)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("\n", r"classes\.txt is empty: write one class per line, or remove it"),
        ("cat\ndog\ncat\n", "class names: 'cat' occurs twice"),
        ("background\ncat\ndog\n", "lists 'background' as a class"),
    ],
)
def test_read_custom__bad_classes_file(tmp_path: Path, classes: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_custom(build(tmp_path, "image,labels\na.jpg,\n", classes=classes))


def test_read_custom__holds_no_table_of_images_and_classes(tmp_path: Path) -> None:
    rows = 2_000
    peaks = []
    for classes in (2, 202):
        names = [f"class{number}" for number in range(classes)]
        lines = [f"{number}.jpg,1" + ",0" * (classes - 1) for number in range(rows)]
        root = build(tmp_path / str(classes), "\n".join([",".join(["image", *names]), *lines]), ("0.jpg",))
        tracemalloc.start()
        read_custom(root, skip_bad=True)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < rows * 200  # a byte for each cell more


def test_read_custom__one_hot_differs_from_classes_file(tmp_path: Path) -> None:
    root = build(tmp_path, "image,cat,cow\na.jpg,1,0\n", classes="cat\ndog\n")
    with pytest.raises(DataError, match=r"the class columns and classes\.txt differ in 'cow', 'dog'"):
        read_custom(root)


def test_read_custom__no_images_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has labels\.csv but no folder images/: put the images there"):
        read_custom(build(tmp_path, "image,labels\n", images=()))


def test_read_custom__images_folder_in_other_case(tmp_path: Path) -> None:
    root = build(tmp_path, "image,labels\n", images=())
    (root / "Images").mkdir()
    with pytest.raises(DataError, match=r"has labels\.csv but no folder images/: rename Images/ to images/$"):
        read_custom(root)


def test_read_custom__columns_that_are_not_read(tmp_path: Path) -> None:
    root = build(tmp_path, "image,labels,camera,split\na.jpg,cat,north,val\n", ("a.jpg",))
    assert read_custom(root).unread_columns == ("camera",)


def test_read_custom__whole_numbers_sort_as_numbers(tmp_path: Path) -> None:
    dataset = read_custom(build(tmp_path, "image,labels\na.jpg,10;2;b\nb.jpg,1;a\n"))
    assert dataset.class_names == ("1", "2", "10", "a", "b")


def test_read_custom__one_name_in_two_unicode_forms(tmp_path: Path) -> None:
    names = [unicodedata.normalize(form, "Blüte") for form in ("NFC", "NFD")]
    table = f"image,labels\na.jpg,{names[0]}\nb.jpg,{names[1]}\n"
    for classes in (None, *names):
        assert read_custom(build(tmp_path, table, classes=classes)).class_names == ("Blüte",)


def test_read_custom__mask_and_image_in_two_unicode_forms(tmp_path: Path) -> None:
    image, mask = (unicodedata.normalize(form, "Blüte") for form in ("NFD", "NFC"))
    root = build(tmp_path, "image,labels\nBlüte.jpg,cat\n", (f"{image}.jpg",), masks=(f"{mask}.png",))
    (sample,) = read_custom(root).split()
    assert (sample.id, sample.mask is not None) == (mask, True)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            ("cat", "dog", "cat, dog"),
            "line 4: label 'cat, dog' looks like several labels, 'cat;dog': correct the labels, with ';' between",
        ),
        (
            ("cat", "dog", "cat|dog"),
            "line 4: label 'cat|dog' looks like several labels, 'cat;dog': correct the labels, with ';' between",
        ),
        (("a,b", "b|c", "c，a"), "line 2: label 'a,b' looks like several labels, .*line 3: label 'b|c' looks like"),  # noqa: RUF001
        (("['cat', 'dog']", "cat", "dog"), "line 2: label .* is a list of Python or JSON, for 'cat;dog': correct"),
        (('["cat"]', "[]", "dog"), "line 2: label .* is a list .* for 'cat'; line 3: label '.*' is an empty list: "),
        (
            ("cat", "Cat", "cat"),
            "line 3: label 'Cat' looks the same as 'cat': correct the .*; to use such names as classes, list",
        ),
        (("traffic light", "traffic_light", "dog"), "line 3: label 'traffic_light' looks the same as 'traffic light'"),
        (
            ("'cat'", "cat", "cat"),
            "line 2: label \"'cat'\" looks the same as 'cat'",
        ),
        (("cat", "c\u0430t", "cat"), "line 3: label 'c\u0430t' looks the same as 'cat'"),
        (("cat", "c\u200da\u200dt", "cat"), "line 3: label .* looks the same as 'cat'"),
        (
            ("cat", "nan", "N/A"),
            "line 3: label 'nan' stands for a missing value; line 4: label 'N/A' stands for a missing",
        ),
        (
            ("cat", "None", "null"),
            "line 3: label 'None' stands for a missing value; line 4: label 'null' stands for a missing value: correct",
        ),
    ],
)
def test_read_custom__labels_that_are_not_meant_as_classes(
    tmp_path: Path, labels: tuple[str, ...], message: str
) -> None:
    root = build(tmp_path, "", ("1.jpg", "2.jpg", "3.jpg"))
    with (root / "labels.csv").open("w", encoding="utf-8") as file:
        csv.writer(file).writerows([("image", "labels"), *((str(row), label) for row, label in enumerate(labels, 1))])
    with pytest.raises(DataError, match=message.replace("|", r"\|")):
        read_custom(root)


@pytest.mark.parametrize(
    "labels", ["Cat;cat", "cat|dog;cat;dog", "nan;None", "[unknown];[a b]", "traffic light;traffic_light"]
)
def test_read_custom__listed_names_are_meant(tmp_path: Path, labels: str) -> None:
    root = build(tmp_path, f"image,labels\na.jpg,{labels}\nb.jpg,\n", classes=labels.replace(";", "\n"))
    assert read_custom(root).class_names == tuple(labels.split(";"))


@pytest.mark.parametrize(("doubtful", "problem"), [("Cat", "looks the same as 'cat'"), ("nan", "stands for a missing")])
def test_read_custom__columns_of_classes_that_are_not_meant(tmp_path: Path, doubtful: str, problem: str) -> None:
    table = f"# mine\nimage,cat,{doubtful}\na.jpg,1,0\nb.jpg,1,1\n"
    with pytest.raises(
        DataError, match=rf"labels\.csv line 2: column '{doubtful}' {problem}.*: correct the columns; to use"
    ):
        read_custom(build(tmp_path, table))
    dataset = read_custom(build(tmp_path, table, classes=f"cat\n{doubtful}\n"))
    assert dataset.class_names == ("cat", doubtful)
    assert by_id(dataset.split()) == {"a": (1,), "b": (1, 2)}


def test_read_custom__several_labels_or_one_name(tmp_path: Path) -> None:
    dataset = read_custom(build(tmp_path, "image,labels\na.jpg,cat;dog\nb.jpg,cat/dog\n"))
    assert dataset.class_names == ("cat", "cat/dog", "dog")
    assert dataset.warnings == (
        "classes whose parts are classes as well: 'cat/dog'; correct the labels, with ';' between them, if they are "
        "several labels",
    )


def test_read_custom__what_to_do_is_said_once(tmp_path: Path) -> None:
    rows = "".join(f"a.jpg,{name}\n" for name in ("nan", "None", "NULL", "n/a", "NA", "cat", "Cat", "CAT"))
    with pytest.raises(DataError) as caught:
        read_custom(build(tmp_path, f"image,labels\n{rows}"))
    assert str(caught.value).count("classes.txt") == 1


@pytest.mark.parametrize(
    "column", ["site", "slide", "plot", "plant", "spot", "sport", "slice", "pilot", "splits", "subset"]
)
def test_read_custom__ordinary_columns_are_not_misspelled_splits(tmp_path: Path, column: str) -> None:
    dataset = read_custom(build(tmp_path, f"image,labels,{column}\na.jpg,cat,north\nb.jpg,cat,train\n"))
    assert dataset.unread_columns == (column,)
    assert dataset.warnings == ()


def test_read_custom__column_of_splits_with_another_name(tmp_path: Path) -> None:
    dataset = read_custom(build(tmp_path, "image,labels,phase,vehicle\na.jpg,cat,Train,train\nb.jpg,cat,val,train\n"))
    assert dataset.warnings == (
        "column 'phase' holds splits ('train', 'val') but is not read: rename it to 'split' if these are the splits",
    )


def test_read_custom__folds_with_the_numbers_of_classes(tmp_path: Path) -> None:
    dataset = read_custom(build(tmp_path, "image,labels,split\na.jpg,1,1\nb.jpg,2,2\n"))
    assert dataset.class_names == ("1", "2")
    assert set(dataset.splits) == {"1", "2"}


def test_read_custom__split_with_the_name_of_a_column_of_a_class(tmp_path: Path) -> None:
    table = "image,split,day,night\na.jpg,train,1,0\nb.jpg,night,0,1\n"
    assert set(read_custom(build(tmp_path, table)).splits) == {"train", "night"}


def test_read_custom__column_of_flags_for_a_split(tmp_path: Path) -> None:
    dataset = read_custom(build(tmp_path, "image,labels,is_valid,is_car\na.jpg,cat,False,0\nb.jpg,cat,True,1\n"))
    assert dataset.warnings == (
        "column 'is_valid' seems to hold splits but is not read: write 'train' or 'val' into a column 'split'",
    )
    assert read_custom(build(tmp_path, "image,labels,is_valid\na.jpg,cat,1\nb.jpg,cat,1\n")).warnings == ()
    with pytest.raises(DataError, match="not classes: 'is_valid'; remove them, or rename those that are classes"):
        read_custom(build(tmp_path, "image,cat,is_valid,split\na.jpg,1,0,train\n"))
    dataset = read_custom(build(tmp_path, "image,is_bus,is_train\na.jpg,1,0\nb.jpg,0,1\n"))
    assert dataset.class_names == ("is_bus", "is_train")
    assert read_custom(build(tmp_path, "image,bus,train\na.jpg,1,0\n")).class_names == ("bus", "train")
    dataset = read_custom(build(tmp_path, "image,cat,is_valid\na.jpg,1,0\n", classes="cat\nis_valid\n"))
    assert dataset.class_names == ("cat", "is_valid")


def test_read_custom__names_with_commas_may_be_classes(tmp_path: Path) -> None:
    root = build(tmp_path, 'image,labels\na.jpg,"crack, long"\nb.jpg,"crack, short;Na"\n')
    assert read_custom(root).class_names == ("Na", "crack, long", "crack, short")


def test_read_custom__all_mistakes_at_once(tmp_path: Path) -> None:
    table = "image,labels,split\na,dics,\nb.jpg,sqare,\nc,disc;sqare,nan\nx.jpg,,\na.jpg,disc,\n../a,,\n,,val\nd,disc\n"
    root = build(tmp_path, table, ("a.jpg", "b.jpg", "c.jpg"), classes="disc\nsquare")
    with pytest.raises(DataError) as raised:
        read_custom(root)
    place, *mistakes = str(raised.value).split("; line")
    assert place.endswith(
        "labels.csv has 8 mistakes: line 4: split 'nan' stands for an empty cell: leave it empty, which means 'train'"
    )
    for mistake, text in zip(
        mistakes,
        (
            " 8: the cell 'image' is empty",
            " 9: 2 cells, but the header has 3",
            " 2: label 'dics' is not in classes.txt ('disc', 'square'; did you mean 'disc'?)",
            "s 3, 4: label 'sqare' is not in classes.txt ('disc', 'square'; did you mean 'square'?)",
            "s 2 and 6 both name image 'a' ('a', 'a.jpg'): keep one row",
            " 7: image '../a' is outside images/",
            " 5: image 'x.jpg' is missing in images/",
        ),
        strict=True,
    ):
        assert mistake.startswith(text)


def test_read_custom__many_mistakes_are_counted(tmp_path: Path) -> None:
    rows = "".join(f"x{number}.jpg,cat\n" for number in range(100))
    with pytest.raises(DataError, match=r"labels\.csv has 100 mistakes: line 3: image 'x0\.jpg' .*; and 90 more$"):
        read_custom(build(tmp_path, f"image,labels\na.jpg,cat\n{rows}"))
    table = "image,labels\na.jpg,cat\n" + "b.jpg,cats\n" * 100
    with pytest.raises(
        DataError, match=r"mistakes: lines 3, 4, 5 and 97 more: label 'cats' is not in .*; and 90 more$"
    ):
        read_custom(build(tmp_path, table, classes="cat"))


def test_read_custom__same_image_in_two_splits(tmp_path: Path) -> None:
    root = build(tmp_path, "image,labels,split\na.jpg,cat,train\nimages/a,cat,val\n")
    with pytest.raises(
        DataError, match=r"lines 2 and 3 both name image 'a' .*in splits 'train' and 'val'\): keep one row"
    ):
        read_custom(root)


def test_read_custom__preview_beside_a_labelled_image(tmp_path: Path) -> None:
    root = build(tmp_path, "image,labels\na.jpg,cat\n", ("a.png", "a.jpg", "b.jpg", "x/a.jpg"))
    dataset = read_custom(root)
    assert dataset.by_id()["a"].image == root / "images" / "a.jpg"
    assert sorted(dataset.by_id()) == ["a", "b", "x/a"]
    assert dataset.warnings == (
        "images without labels that have the name of another image, skipped: 1, for example 'a.png' beside 'a.jpg'",
    )


def test_read_custom__corrected_names_are_told(tmp_path: Path) -> None:
    dataset = read_custom(build(tmp_path, "image,labels\nA.JPG,cat\n7,cat\n", ("a.jpg", "007.jpg")))
    assert [sample.id for sample in dataset.split()] == ["a", "007"]
    assert dataset.warnings == (
        "names in labels.csv that are not exactly those of the files: 2, for example 'A.JPG' for 'a.jpg'",
    )
