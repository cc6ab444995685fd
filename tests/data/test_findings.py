import tracemalloc
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from data.dataset import Dataset, Sample
from data.findings import (
    Facts,
    Finding,
    Pair,
    class_findings,
    co_occurrence,
    co_occurring_pairs,
    duplicates,
    find_all,
    split_images,
)
from data.images import FileContents, MaskFile
from data.inspection import Inspection, UnusedMasks
from data.pixel_facts import PixelFacts

ROOT = Path("pets")


def sample(name: str, classes: tuple[int, ...] = (1,), *, mask: bool = True) -> Sample:
    return Sample(
        id=name,
        image=ROOT / "images" / f"{name}.jpg",
        classes=classes,
        mask=MaskFile(ROOT / "masks" / f"{name}.png") if mask else None,
    )


def several(*rows: tuple[int, tuple[int, ...]], prefix: str = "t") -> tuple[Sample, ...]:
    """Return `count` samples of each row's classes."""
    classes = [shown for count, shown in rows for _ in range(count)]
    return tuple(sample(f"{prefix}{number:03d}", shown) for number, shown in enumerate(classes))


GOOD = several((30, (1,)), (30, (2,)), (5, ()))  # a data set without findings


def dataset(
    train: tuple[Sample, ...] = GOOD,
    *,
    class_names: tuple[str, ...] = ("cat", "dog"),
    layout: str = "custom",
    others: Mapping[str, tuple[Sample, ...]] | None = None,
    unlabelled: tuple[Sample, ...] = (),
    missing: tuple[str, ...] = (),
    warnings: tuple[str, ...] = (),
) -> Dataset:
    return Dataset(
        root=ROOT,
        layout=layout,
        class_names=class_names,
        splits={"train": train, "val": (sample("v"),), **(others or {})},
        train_split="train",
        val_split="val",
        unlabelled=unlabelled,
        missing=missing,
        warnings=warnings,
    )


def facts(found: Dataset, *shown: Inspection, unused_masks: UnusedMasks | None = None) -> Facts:
    """Every image is whole, 60 x 80 (height x width) and different from the others, but for those given."""
    paths = [*split_images(found), *(one.image for one in found.unlabelled)]
    usual = {path: Inspection(image=path, size=(60, 80), digest=str(path).encode()) for path in paths}
    return Facts(
        dataset=found,
        inspections={**usual, **{one.image: one for one in shown}},
        unused_masks=unused_masks or UnusedMasks(),
    )


def only(found: Facts) -> Finding:
    (finding,) = find_all(found)
    return finding


def test_find_all__a_good_data_set() -> None:
    assert find_all(facts(dataset())) == ()


def test_co_occurrence__by_hand() -> None:
    samples = (sample("a", (1,)), sample("b", (1, 3)), sample("c", ()), sample("d", (1, 2, 3)))
    assert co_occurrence(samples, 3).tolist() == [[3, 1, 2], [1, 1, 1], [2, 1, 2]]
    assert co_occurrence((), 2).tolist() == [[0, 0], [0, 0]]


def test_co_occurrence__holds_no_matrix_of_images_and_classes() -> None:
    samples = [sample(f"{number}", (1 + number % 254,)) for number in range(5_000)]
    tracemalloc.start()
    together = co_occurrence(samples, 254)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert together.sum() == 5_000
    assert peak < 5_000 * 254  # a byte for each pair of image and class


def test_pairs_together__at_the_limits() -> None:
    samples = several((17, (1, 2)), (3, (1,)), (9, (2,)), (4, (3, 4)), (6, (4,)))  # 17 of 20 are 0.85; 4 are too few
    assert co_occurring_pairs(co_occurrence(samples, 4), len(samples)) == (Pair(one=1, other=2, shared=17, images=20),)
    samples = several((16, (1, 2)), (4, (1,)), (9, (2,)))
    assert co_occurring_pairs(co_occurrence(samples, 2), len(samples)) == ()


def test_pairs_together__a_class_that_is_in_every_image_is_left_out() -> None:
    samples = several((10, (1, 2)), (10, (2,)))
    assert co_occurring_pairs(co_occurrence(samples, 2), 20) == ()


def test_find_all__missing_images() -> None:
    finding = only(facts(replace(dataset(missing=("x.jpg", "y.jpg")), counted=("rows ... skipped: 2",))))
    assert (finding.level, finding.topic, finding.skippable) == ("error", "missing", True)
    assert finding.text == "2 images with labels but without a file"
    assert finding.items == ("x.jpg", "y.jpg")


def test_find_all__unreadable_images() -> None:
    found = dataset(unlabelled=(sample("u", ()),))
    broken = [
        Inspection(image=ROOT / "images" / f"{name}.jpg", problem=f"pets/images/{name}.jpg is empty")
        for name in ("t000", "v", "u")
    ]
    error, warning, unlabelled = find_all(facts(found, *broken))
    assert (error.level, error.text, error.skippable) == ("error", "2 images that cannot be read", True)
    assert error.items == ("images/t000.jpg is empty", "images/v.jpg is empty")
    assert (warning.level, warning.topic) == ("warning", "unreadable_unlabelled")
    assert warning.items == ("images/u.jpg is empty",)
    assert (unlabelled.level, unlabelled.items) == ("warning", ("images/u.jpg",))


@pytest.mark.parametrize(
    ("layout", "how"),
    [
        ("custom", "in labels.csv, add a row for each"),
        ("class_folders", "move each into the folder of its class"),
        ("voc", "add an XML file for each to Annotations/"),
        ("coco", "annotate them in the annotation file; for those that show none of the classes"),
    ],
)
def test_find_all__how_to_label_in_this_layout(layout: str, how: str) -> None:
    found = dataset(layout=layout, unlabelled=(sample("u", ()),))
    finding = only(facts(found, Inspection(image=ROOT / "images" / "u.jpg", size=(60, 80), digest=b"u")))
    assert (finding.topic, finding.items) == ("unlabelled", ("images/u.jpg",))
    assert finding.advice.startswith(f"label them ({how}")
    assert ("labels.csv, add" in finding.advice) == (layout == "custom")


def test_find_all__what_other_layouts_skipped() -> None:
    finding = only(facts(dataset(layout="coco", warnings=("images without annotation, skipped: 3",))))
    assert (finding.level, finding.text) == ("warning", "images without annotation, skipped: 3")


@pytest.mark.parametrize(
    ("size", "level", "topic"),
    [
        ((15, 80), "error", "too_small"),
        ((80, 16), "warning", "tiny"),
        ((31, 80), "warning", "tiny"),
        ((32, 320), None, None),
        ((32, 321), "note", "large"),
    ],
)
def test_find_all__sizes(size: tuple[int, int], level: str | None, topic: str | None) -> None:
    path = ROOT / "images" / "t000.jpg"
    found = find_all(facts(dataset(), Inspection(image=path, size=size, digest=b"t000")))
    assert [(one.level, one.topic) for one in found] == ([(level, topic)] if level else [])
    assert all(one.items == ("images/t000.jpg",) for one in found)


def test_find_all__bad_masks() -> None:
    path = ROOT / "images" / "t000.jpg"
    bad = Inspection(image=path, size=(60, 80), digest=b"t000", mask_problem="pets/masks/t000.png is empty")
    finding = only(facts(dataset(), bad))
    assert (finding.level, finding.topic, finding.skippable) == ("error", "bad_mask", True)
    assert finding.text == "1 ground-truth mask that cannot be used"
    assert finding.items == ("masks/t000.png is empty",)


def test_find_all__masks_in_jpeg() -> None:
    finding = only(facts(dataset(), unused_masks=UnusedMasks(other_formats=("a.jpg", "b.tif"))))
    assert (finding.level, finding.text) == ("warning", "2 images in masks/ not used, since they are not PNGs")
    assert "JPEG changes class numbers" in finding.advice
    finding = only(facts(dataset(), unused_masks=UnusedMasks(other_formats=("b.tif",))))
    assert finding.advice == "save them as PNG"


def test_find_all__masks_without_image() -> None:
    finding = only(facts(dataset(), unused_masks=UnusedMasks(without_image=("a_mask.png",))))
    assert (finding.level, finding.topic, finding.items) == ("warning", "mask_without_image", ("a_mask.png",))


def test_find_all__no_masks_and_no_validation_split() -> None:
    train = tuple(sample(f"t{number}", shown, mask=False) for number, shown in enumerate([(1,)] * 20 + [(2,)] * 20))
    found = Dataset(
        root=ROOT,
        layout="custom",
        class_names=("cat", "dog"),
        splits={"train": train},
        train_split="train",
        val_split=None,
    )
    assert [(one.level, one.topic) for one in find_all(facts(found))] == [
        ("note", "no_masks"),
        ("note", "no_validation_split"),
    ]


def test_find_all__duplicates() -> None:
    same = [
        [("t000", b"1"), ("v", b"1")],  # in two splits
        [("t001", b"2"), ("t040", b"2")],  # cat and dog
        [("t002", b"3"), ("t003", b"3"), ("t004", b"3")],
    ]
    shown = [
        Inspection(image=ROOT / "images" / f"{name}.jpg", size=(60, 80), digest=digest)
        for group in same
        for name, digest in group
    ]
    found = facts(dataset(), *shown)
    assert [[path.stem for path in group] for group in duplicates(found)] == [
        [name for name, _ in group] for group in same
    ]
    leaking, contradicting, other = find_all(found)
    assert (leaking.level, leaking.text) == ("warning", "1 image with duplicates in another split")
    assert leaking.items == ("images/t000.jpg (train) = images/v.jpg (val)",)
    assert (contradicting.level, contradicting.topic) == ("warning", "duplicate_with_other_labels")
    assert contradicting.items == ("images/t001.jpg (train) = images/t040.jpg (train)",)
    assert (other.level, other.text) == ("note", "1 image with duplicates")
    assert other.items == ("images/t002.jpg (train) = images/t003.jpg (train) = images/t004.jpg (train)",)


def test_find_all__one_file_in_two_lists_is_not_a_duplicate() -> None:
    assert find_all(facts(dataset(others={"train_aug": GOOD[:3]}))) == ()


def test_find_all__one_file_in_both_splits() -> None:
    finding = only(facts(dataset(others={"val": (sample("v"), *GOOD[:2])})))
    assert (finding.level, finding.topic) == ("error", "same_in_splits")
    assert finding.text == "2 images in both splits 'train' and 'val'"
    assert finding.items == ("images/t000.jpg", "images/t001.jpg")


def test_find_all__split_with_a_typo() -> None:
    good = dict.fromkeys(("train_aug", "extra", "trainval", "minival2014", "validation", "all"), ())
    finding = only(facts(dataset(others={**good, "tarin": GOOD[:1], "vla": ()})))
    assert (finding.level, finding.topic) == ("warning", "split_name")
    assert finding.items == ("'tarin' (did you mean 'train'?)", "'vla' (did you mean 'val'?)")


@pytest.mark.parametrize(
    ("class_names", "topic", "items"),
    [
        (("cat", "Cat"), "similar_classes", ("'cat', 'Cat'",)),
        (("cat", "dog, small"), "joined_class", ("dog, small",)),
        (("cat", "dog|cow"), "joined_class", ("dog|cow",)),
    ],
)
def test_find_all__names_that_may_not_be_meant(class_names: tuple[str, ...], topic: str, items: tuple[str]) -> None:
    finding = only(facts(dataset(class_names=class_names)))
    assert (finding.level, finding.topic, finding.items) == ("warning", topic, items)


def test_find_all__no_training_split() -> None:
    finding = only(facts(dataset(train=())))
    assert (finding.level, finding.skippable) == ("error", False)
    assert finding.text == "no image in split 'train' (splits with images: 'val')"


def test_find_all__a_class_in_no_training_image() -> None:
    finding = only(facts(dataset(class_names=("cat", "dog", "cow"))))
    assert (finding.level, finding.topic, finding.items) == ("warning", "class_in_no_image", ("cow",))


def test_find_all__no_class_in_any_training_image() -> None:
    finding = only(facts(dataset(train=several((30, ())))))
    assert (finding.level, finding.text) == ("error", "2 classes in no image of the training split")


def test_find_all__a_class_in_every_training_image() -> None:
    finding = only(facts(dataset(train=several((30, (1, 2)), (30, (2,))))))
    assert (finding.level, finding.topic, finding.items) == ("warning", "class_in_every_image", ("dog",))


def test_find_all__the_one_class_in_every_training_image() -> None:
    finding = only(facts(dataset(train=several((30, (1,))), class_names=("cat",))))
    assert (finding.level, finding.skippable) == ("error", False)
    assert finding.text == "1 class in every image of the training split, which cannot be learnt"


def test_find_all__one_class_and_few_images_without_it() -> None:
    finding = only(facts(dataset(train=several((30, (1,)), (19, ())), class_names=("cat",))))
    assert (finding.level, finding.text) == ("warning", "only 19 training images without the only class")
    assert find_all(facts(dataset(train=several((30, (1,)), (20, ())), class_names=("cat",)))) == ()


@pytest.mark.parametrize("name", ["good", "OK_1", "No defect", "defect-free", "bottle good", "non-defective"])
def test_find_all__a_class_for_images_without_objects(name: str) -> None:
    (finding,) = find_all(facts(dataset(class_names=("crack", name))))
    assert (finding.level, finding.topic, finding.items) == ("warning", "class_without_object", (name,))
    assert "folder 'background'" in finding.advice


@pytest.mark.parametrize("name", ["no entry", "mountain_pass", "sugar free", "without_helmet", "goodies"])
def test_find_all__a_class_whose_name_only_resembles_none(name: str) -> None:
    assert find_all(facts(dataset(class_names=("crack", name)))) == ()


def test_find_all__a_class_called_clean_beside_others_in_an_image() -> None:
    both = several((30, (1,)), (30, (1, 2)), (5, ()))
    assert "class_without_object" not in {
        one.topic for one in find_all(facts(dataset(both, class_names=("a", "clean"))))
    }


def test_find_all__rare_classes() -> None:
    finding = only(facts(dataset(train=several((19, (1,)), (20, (2,))))))
    assert (finding.level, finding.items) == ("warning", ("cat (19)",))
    assert finding.text == "1 class in fewer than 20 images of the training split"


@pytest.mark.parametrize(
    ("name", "images", "meant"),
    [
        ("aeroplan", 1, "aeroplane"),
        ("aeroplaen", 2, "aeroplane"),
        ("aeroplan", 3, None),
        ("cell2", 1, None),  # beside cell1
        ("cel1", 1, "cell1"),
        ("car", 1, None),
    ],
)
def test_class_findings__misspelt_classes(name: str, images: int, meant: str | None) -> None:
    samples = several((30, (1,)), (30, (2,)), (images, (3,)))
    found = dataset(train=samples, class_names=("aeroplane", "cell1", name))
    items = [one.items for one in class_findings(found, samples) if one.topic == "misspelt_class"]
    assert items == ([(f"'{name}' (did you mean '{meant}'?)",)] if meant else [])


def test_find_all__classes_that_come_together() -> None:
    finding = only(facts(dataset(train=several((20, (1, 2)), (30, (2,)), (5, ())))))
    assert (finding.level, finding.items) == ("warning", ("cat with dog (20 of 20)",))


def masks(found: Dataset, values: Mapping[str, set[int]]) -> tuple[Finding, ...]:
    """Return the findings on masks if these images have masks with these values, and the others none."""
    inspections = [
        Inspection(image=path, size=(60, 80), digest=str(path).encode(), mask_values=frozenset(values[path.stem]))
        for path in split_images(found)
        if path.stem in values
    ]
    return tuple(one for one in find_all(facts(found, *inspections)) if "mask" in one.topic)


def test_find_all__masks_in_another_order() -> None:
    (finding,) = masks(dataset(), {"t000": {0, 2}, "t001": {0, 2}, "t030": {0, 1}, "t060": {0}})
    assert (finding.level, finding.topic, finding.skippable) == ("error", "masks_contradict_labels", False)
    assert finding.text == "the ground-truth masks contradict the image labels of most images"
    assert "in another order (1 is 'dog', 2 is 'cat')" in finding.advice
    assert finding.items[0] == "images/t000.jpg (labels: 'cat'; mask: 'dog')"


def test_find_all__masks_of_one_split_are_wrong() -> None:
    found = dataset(others={"val": several((2, (1,)), (2, (2,)), prefix="v")})
    right = {f"t{number:03d}": {0, 1} for number in range(20)}
    (finding,) = masks(found, {**right, "v000": {0, 255}, "v001": {0, 255}, "v002": {1, 255}, "v003": {1, 255}})
    assert finding.text == "the ground-truth masks of split 'val' contradict the image labels of most images"
    assert "count the classes from 0" in finding.advice


def test_find_all__single_wrong_masks() -> None:
    right = {f"t{number:03d}": {0, 1} for number in range(8)}
    other, empty, absent = masks(dataset(), {**right, "t008": {0}, "t030": {0, 1}, "t060": {0}})
    assert (other.level, other.topic) == ("warning", "mask_contradicts_labels")
    assert other.items == ("images/t030.jpg (labels: 'dog'; mask: 'cat')",)
    assert (empty.level, empty.topic, empty.items) == ("warning", "empty_mask", ("images/t008.jpg",))
    assert (absent.level, absent.topic, absent.items) == ("warning", "class_in_no_mask", ("dog",))


def test_find_all__values_in_16_bits_and_alpha() -> None:
    found = dataset()
    paths = (GOOD[0].image, GOOD[1].image)
    pixels = PixelFacts(deep=paths, bits=12, alpha=paths[:1], transparent=False)
    bits, alpha = find_all(replace(facts(found), pixels=pixels))
    assert (bits.level, bits.topic) == ("note", "bits")
    assert bits.text == "2 images of 16 bits, whose values are read as 12 bits"
    assert bits.advice == "no change is needed if 4095 is meant to be white; otherwise give --image-bits"
    assert (alpha.level, alpha.topic) == ("warning", "alpha_is_no_transparency")
    assert "--alpha transparency" in alpha.advice
    (shown,) = find_all(replace(facts(found), pixels=PixelFacts(alpha=paths)))
    assert (shown.level, shown.topic, shown.text) == (
        "note",
        "transparency",
        "2 images with transparency, which is shown on white",
    )


@pytest.mark.parametrize(
    ("brightness", "contents", "topic", "text"),
    [
        ((0, 12), FileContents(1, 1, False), "nearly_black", "1 image of nearly black pixels only"),
        ((240, 255), FileContents(1, 1, False), "nearly_white", "1 image of nearly white pixels only"),
        ((90, 91), FileContents(1, 1, False), "one_colour", "1 image of one colour"),
        ((0, 255), FileContents(12, 1, False), "several_pages", "with several pages, of which only the first is read"),
        ((0, 255), FileContents(1, 4, False), "more_bands", "of which only the first three are read, as red, green"),
        ((0, 255), FileContents(1, 3, True), "rotated_with_mask", "1 image stored rotated (EXIF orientation)"),
    ],
)
def test_find_all__images_that_look_wrong(
    brightness: tuple[int, int], contents: FileContents, topic: str, text: str
) -> None:
    path = GOOD[0].image
    one = Inspection(image=path, size=(60, 80), digest=b"1", brightness=brightness, contents=contents)
    finding = only(facts(dataset(), one))
    assert finding.topic == topic
    assert text in finding.text
    assert finding.items == ("images/t000.jpg",)


def test_find_all__images_that_look_like_masks() -> None:
    one = Inspection(image=GOOD[0].image, size=(60, 80), digest=b"1", brightness=(0, 255), grey_values=2)
    finding = only(facts(dataset(), one))
    assert (finding.level, finding.topic, finding.items) == ("warning", "like_masks", ("images/t000.jpg",))
    assert "move them to masks/" in finding.advice
    for usual in (replace(one, grey_values=9), replace(one, brightness=(90, 91))):
        assert "like_masks" not in [found.topic for found in find_all(facts(dataset(), usual))]


def test_find_all__usual_brightness() -> None:
    for brightness in ((0, 255), (0, 60), (200, 255), (100, 110)):
        one = Inspection(
            image=GOOD[0].image, size=(60, 80), digest=b"1", brightness=brightness, contents=FileContents(1, 3, False)
        )
        assert find_all(facts(dataset(), one)) == ()


def test_small_objects__are_named_by_the_masks_that_show_them() -> None:
    found = dataset()
    shown = [
        Inspection(image=one.image, size=(60, 80), digest=str(one.id).encode(), mask_covers={number: cover})
        for one, number, cover in zip(GOOD, (1, 1, 1, 2, 9), (0.001, 0.002, 0.5, 0.1, 0.0001), strict=False)
    ]
    (finding,) = [one for one in find_all(facts(found, *shown)) if one.topic == "small_objects"]
    assert (finding.level, finding.text) == (
        "warning",
        "1 class of small objects, which the network's maps hardly show",
    )
    assert finding.items == (
        "cat covers 0.2 % of an image in the median, 1.6 patches of 16 pixels at --image-size 448",
    )
    assert "make-labels --relabel mil" in finding.advice
    assert not [one for one in find_all(facts(found, *shown[2:])) if one.topic == "small_objects"]


def test_small_objects__start_where_the_default_of_train_cam_shows_them() -> None:
    from data.findings import IMAGE_SIDE
    from stages.config import TrainCam

    assert TrainCam().image_size == IMAGE_SIDE
