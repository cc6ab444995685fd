from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from data.dataset import Dataset, Sample
from data.errors import DataError, SettingsError
from stages.config import MakeLabels, TrainCam, TrainSeg
from stages.labels.label_settings import with_training_defaults
from stages.preflight.training import (
    check_instances,
    check_label_scales,
    check_learnable,
    check_student_splits,
    warn_of_shared_images,
)


def data_set(labels: str, names: Sequence[str]) -> Dataset:
    """Images whose classes are the digits of these words; 0 for none."""
    samples = tuple(
        Sample(
            id=f"{number}",
            image=Path(f"/d/{number}.jpg"),
            classes=tuple(int(one) for one in word if one != "0"),
            mask=None,
        )
        for number, word in enumerate(labels.split())
    )
    return Dataset(
        root=Path("/d"), layout="custom", class_names=tuple(names), splits={"train": samples}, train_split="train",
        val_split=None,
    )  # fmt: skip


def check(labels: str, names: Sequence[str], monitor: Any) -> None:
    """Check such a data set."""
    dataset = data_set(labels, names)
    check_learnable(dataset, dataset.split("train"), monitor)


def test_check_instances__a_class_in_all_images() -> None:
    mil = MakeLabels(relabel="mil")
    with pytest.raises(DataError, match="the split 'train' have the class 'dog', and --relabel mil learns"):
        check_instances(data_set("12 2 2", ["cat", "dog"]), mil)
    check_instances(data_set("12 2 0", ["cat", "dog"]), mil)
    check_instances(data_set("12 2 2", ["cat", "dog"]), MakeLabels())


def test_check_instances__classes_that_few_images_lack(listener: Any) -> None:
    """Of 20 images, 9 lack the cat, and 10 the dog."""
    dataset = data_set(" ".join(["0"] * 9 + ["1"] + ["12"] * 10), ["cat", "dog"])
    monitor = listener()
    check_instances(dataset, MakeLabels(), monitor)
    assert monitor.warnings == []
    check_instances(dataset, MakeLabels(relabel="mil"), monitor)
    (warning,) = monitor.warnings
    assert "too few images do not show these classes: 'cat' (9). " in warning
    assert "Add images that do not show the class, or use --relabel linear" in warning


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        ("1 1 1", "a", "1 class in every image of the training split, which cannot be learnt ('a'): add images"),
        ("1", "a", "1 class in every image"),  # one image
        ("12", "ab", "2 classes in every image of the training split, which cannot be learnt ('a', 'b')"),
        ("12 12 12", "ab", "2 classes in every image"),
        ("1 1", "ab", "1 class in every image of the training split, which cannot be learnt ('a')"),
        ("0 0", "a", "1 class in no image of the training split ('a'): add images of the class, or remove it"),
        ("0", "ab", "2 classes in no image"),
    ],
)
def test_check_learnable__refuses(labels: str, names: str, message: str, listener: Any) -> None:
    with pytest.raises(DataError) as caught:
        check(labels, names, listener())
    assert message in str(caught.value)
    assert str(caught.value).startswith("/d: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("labels", "names", "warnings"),
    [
        ("1 0", "a", []),  # one class, and images without it
        ("1 2", "ab", []),
        ("1 2 12", "ab", []),
        ("12 1", "ab", ["1 class in every image of the training split, which cannot be learnt ('a')"]),
        ("1 2", "abc", ["1 class in no image of the training split ('c')"]),
        ("1 0", "ab", ["1 class in no image of the training split ('b')"]),
        ("13 3", "abc", ["1 class in no image of the training split ('b')", "1 class in every image"]),
    ],
)
def test_check_learnable__accepts(labels: str, names: str, warnings: list[str], listener: Any) -> None:
    monitor = listener()
    check(labels, names, monitor)
    assert len(monitor.warnings) == len(warnings)
    for text, expected in zip(monitor.warnings, warnings, strict=True):
        assert expected in text


@pytest.mark.parametrize(
    ("cam", "labels", "expected"),
    [
        (TrainCam(scales=(1.0,)), MakeLabels(), (1.0,)),
        (TrainCam(scales=(1.0,)), MakeLabels(scales=(2.0, 0.5)), (2.0, 0.5)),
        (TrainCam(), MakeLabels(), TrainCam().scales),
    ],
)
def test_with_training_defaults__scales(cam: TrainCam, labels: MakeLabels, expected: tuple[float, ...]) -> None:
    assert with_training_defaults(labels, asdict(cam)).scales == expected


def test_check_label_scales__before_the_training() -> None:
    def check_scales_of(backbone: str, options: tuple[str, ...] = ()) -> None:
        cam = TrainCam(backbone=backbone, backbone_option=options, image_size=224)
        labels = MakeLabels(scales=(1.0, 0.05))
        check_label_scales(cam, with_training_defaults(labels, asdict(cam)))

    with pytest.raises(SettingsError, match=r"--scales 0\.05 of --image-size 224 is less than one patch \(16 pixels\)"):
        check_scales_of("vit_base_patch16_224")
    check_scales_of("vit_base_patch8_224")
    check_scales_of("vit_base_patch16_224", ("patch_size=8",))
    check_scales_of("some_other_network")  # its patches are not known before it is built


def images(*names: str) -> tuple[Sample, ...]:
    return tuple(Sample(id=name, image=Path(f"/d/{name}.jpg"), classes=(1,), mask=None) for name in names)


@pytest.mark.parametrize(
    ("split", "warnings"),
    [
        (
            None,
            [
                "/d: 1 image in both splits 'train' and 'val' ('a.jpg'): keep each image in one split; otherwise sc",
                "/d: 1 image in both splits 'train' and 'test2014' ('b.jpg')",
            ],
        ),
        ("more", ["/d: 2 images in both splits 'more' and 'val' ('a.jpg', 'c.jpg'): keep each image in one split; "]),
        ("other", ["/d: 1 image in both splits 'other' and 'test2014' ('b.jpg')"]),
        ("val", []),
    ],
)
def test_warn_of_shared_images(split: str | None, warnings: list[str], listener: Any) -> None:
    dataset = Dataset(
        root=Path("/d"), layout="voc", class_names=("x",), train_split="train", val_split="val",
        splits={
            "train": images("a", "b"), "more": images("c", "a"), "other": images("b"), "val": images("a", "c"),
            "test2014": images("b", "d"),
        },
    )  # fmt: skip
    heard = listener()
    warn_of_shared_images(dataset, split, heard)
    assert [told[: len(expected)] for told, expected in zip(heard.warnings, warnings, strict=True)] == warnings


@pytest.mark.parametrize("val_split", [None, "val"])
def test_check_student_splits__validation_images_are_missing(val_split: str | None) -> None:
    dataset = Dataset(
        root=Path("/d"), layout="voc", class_names=("x",), train_split="train", val_split="val",
        splits={"train": images("a"), "val": images("b")}, incomplete={"val": "image 'c' is missing"},
    )  # fmt: skip
    with pytest.raises(DataError, match="image 'c' is missing"):
        check_student_splits(dataset, TrainSeg(val_split=val_split))


def test_check_learnable__warns_of_a_class_that_is_probably_none(listener: Any) -> None:
    monitor = listener()
    check("1 2", ("crack", "good"), monitor)
    (warning,) = monitor.warnings
    assert "1 class that may stand for images without any object ('good')" in warning
    assert "call the folder 'background'" in warning
