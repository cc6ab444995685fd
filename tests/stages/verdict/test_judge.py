from dataclasses import replace
from typing import Any

import pytest

from stages.verdict.judge import Advice, ClassEvidence, MaskSettings, Quality, judge, judge_class

FINE = ClassEvidence(name="cat", images=40, examined=40, empty=0, cover=0.2, repeated=0.8, told_apart=0.97)
SETTINGS = MaskSettings(
    run="runs/c",
    data="photos",
    iterations=20_000,
    background_threshold=0.5,
    threshold_chosen=False,
    relabelled=False,
    options={"make-labels": ["--refine crf", "--background-threshold 0.5"]},
)


def evidence(**changes: Any) -> ClassEvidence:
    return replace(FINE, **changes)


@pytest.mark.parametrize(
    ("changes", "level", "reason"),
    [
        ({}, "good", "80 % agreement between images"),
        ({"repeated": None, "told_apart": None}, "good", "40 of 40 masks show it"),
        ({"iou": 0.62, "measured": 9}, "good", "masks: IoU 62 % on 9 images with ground truth"),
        ({"iou": 0.41, "measured": 1}, "weak", "masks: IoU 41 % on 1 image with ground truth"),
        ({"iou": 0.29, "measured": 9, "repeated": 0.9}, "failed", "masks: IoU 29 % on 9 images with ground truth"),
        ({"iou": 0.7, "measured": 9, "repeated": 0.1, "empty": 39}, "good", "masks: IoU 70 %"),  # measured beats signs
        (
            {"iou": 0.7, "measured": 9, "student_iou": 0.1, "student_images": 5},
            "failed",
            "student: IoU 10 % on 5 images with ground truth",
        ),
        ({"empty": 34}, "failed", "no pixel in 34 of 40 images"),
        ({"empty": 15}, "weak", "no pixel in 15 of 40 images"),
        ({"repeated": 0.2}, "failed", "masks differ from image to image (20 % agreement)"),
        ({"repeated": 0.5}, "weak", "(50 % agreement)"),
        ({"told_apart": 0.6}, "failed", "masks predict badly which images show it (AUC 0.60, good is 0.92)"),
        ({"cover": 0.9}, "weak", "cover 90 % of the image"),
        ({"together": "body"}, "weak", "nearly all of its images also show body"),
        ({"images": 3, "examined": 3}, "weak", "only 3 images"),
        ({"images": 0, "examined": 0}, "failed", "no image has this label"),
        ({"images": 0, "examined": 0, "drawn": 12}, "good", "people drew all of its masks"),
        ({"images": 3, "examined": 3, "drawn": 2}, "weak", "only 5 images"),
    ],
)
def test_judge_class__level_and_first_reason(changes: dict[str, Any], level: Quality, reason: str) -> None:
    found = judge_class(evidence(**changes))
    assert found.level == level
    assert reason in found.reasons[0]


def test_judge_class__the_worst_reason_comes_first() -> None:
    found = judge_class(evidence(together="body", empty=34, repeated=0.5))
    assert [reason.split(" (")[0] for reason in found.reasons] == [
        "no pixel in 34 of 40 images",
        "masks differ from image to image",
        "nearly all of its images also show body",
    ]


def test_judge_class__few_images_do_not_hide_stronger_signs() -> None:
    few = {"images": 8, "examined": 8}
    assert judge_class(evidence(**few, repeated=0.5, empty=3)).reasons == (
        "no pixel in 3 of 8 images",
        "masks differ from image to image (50 % agreement)",
        "only 8 images",
    )
    # Agreement tells classes apart that have few images, although it is not low in any.
    assert judge_class(evidence(**few, repeated=0.71)).reasons == ("only 8 images", "71 % agreement between images")
    assert judge_class(evidence(**few, repeated=None)).reasons == ("only 8 images", "8 of 8 masks show it")


def test_verdict__names_the_worst_of_a_level_first() -> None:
    few = {"images": 8, "examined": 8}
    classes = [
        evidence(**few, name="cow", repeated=0.96),
        evidence(**few, name="car", repeated=0.71),
        evidence(**few, name="flower", empty=3),  # a sign counts more than few images
        evidence(name="sky", iou=0.4, measured=5),
        evidence(name="dog", iou=0.45, measured=5, student_iou=0.35, student_images=5),
    ]
    verdict = judge(classes, SETTINGS, examined=40, measured=5)
    assert [one.name for one in verdict.named("weak")] == ["dog", "sky", "flower", "car", "cow"]
    assert verdict.headline.endswith(
        "flower (no pixel in 3 of 8 images, only 8 images), "
        "car (only 8 images, 71 % agreement between images), cow (only 8 images, 96 % agreement between images)"
    )


@pytest.mark.parametrize(
    ("changes", "settings", "command"),
    [
        ({"empty": 30}, {}, "toco make-labels runs/c --overwrite --refine crf --background-threshold auto"),
        ({"empty": 30}, {"threshold_chosen": True}, "--background-threshold 0.3"),
        ({"cover": 0.95}, {"threshold_chosen": True}, "--background-threshold 0.7"),
        ({"empty": 30}, {"relabelled": True}, "--relabel none"),
        ({"empty": 30}, {"relabelled": True, "threshold_fits": True}, "--relabel none"),
        (
            {"empty": 30},
            {"larger_features": 672, "threshold_fits": True},
            "toco make-labels runs/c --overwrite --refine crf --background-threshold 0.5 --feature-size 672",
        ),
        ({"repeated": 0.1, "patches": 0.6}, {"larger_features": 672}, "--background-threshold 0.5 --feature-size 672"),
        (
            {"empty": 30},
            {"threshold_fits": True},
            "toco pick runs/c --class cat --count 10",
        ),  # and not options that exclude others
        (
            {"empty": 30},
            {"config": "runs/c/config.toml"},
            "toco run --config runs/c/config.toml --overwrite make-labels --make-labels.background-threshold auto",
        ),
        (
            {"repeated": 0.1},
            {"iterations": 80, "options": {"train-cam": ["--iterations 80", "--weights none"]}},
            "toco train-cam photos --out runs/c --overwrite --weights none --iterations 320",
        ),
        ({"repeated": 0.1}, {}, "toco pick runs/c --class cat --count 10"),
        ({"repeated": 0.1, "patches": 0.6}, {}, "toco pick runs/c --class cat --count 10"),
        ({"images": 3, "examined": 3}, {}, "toco check photos"),
        ({"images": 3, "examined": 3, "empty": 3}, {}, "--background-threshold auto"),  # which needs no new images
        ({"together": "body"}, {}, "toco check photos"),
        ({"iou": 0.1, "cam_iou": 0.5, "measured": 5}, {"relabelled": True}, "--relabel none"),
        (
            {"iou": 0.7, "measured": 5, "student_iou": 0.0, "student_images": 5},
            {"student_iterations": 60},
            "toco train-seg runs/c --overwrite --iterations 120",
        ),
    ],
)
def test_judge__next_command(changes: dict[str, Any], settings: dict[str, Any], command: str) -> None:
    verdict = judge([FINE, evidence(**changes)], replace(SETTINGS, **settings), examined=40, measured=0)
    assert verdict.advice is not None
    assert verdict.advice.command.endswith(command)


@pytest.mark.parametrize(
    ("classes", "why", "by_hand"),
    [
        (
            [
                evidence(name=name, images=8, examined=8, repeated=repeated)
                for name, repeated in {"cow": 0.96, "sports car": 0.71, "sky": 0.8, "dog": 0.9}.items()
            ],
            "label more images of 'sports car', 'sky', 'dog' and 1 more",
            "toco pick runs/c --class 'sports car' --class sky --class dog --count 10",
        ),
        (
            [FINE, evidence(name="cow", together="grass")],
            "label images of 'cow' that do not show 'grass'",
            "toco pick runs/c --class cow --count 10",
        ),
        ([FINE, evidence(name="cow", images=0, examined=0)], "label more images of 'cow'", None),  # none to pick
        (
            [evidence(iou=0.7, measured=5, student_iou=0.1, student_images=5)],  # its masks are good
            "the student is worse than the masks that it learned",
            None,
        ),
    ],
)
def test_judge__corrections_by_hand_beside_other_advice(
    classes: list[ClassEvidence], why: str, by_hand: str | None
) -> None:
    advice = judge(classes, replace(SETTINGS, student_iterations=60), examined=40, measured=0).advice
    assert advice is not None
    assert (advice.why, advice.by_hand) == (why, by_hand)


def test_judge__no_advice_if_all_is_good() -> None:
    verdict = judge([FINE], SETTINGS, examined=40, measured=0)
    assert verdict.advice is None
    assert verdict.headline == "the class is good"


def test_verdict__names_failed_and_weak_classes() -> None:
    classes = [FINE, evidence(name="dog", empty=34), evidence(name="sky", repeated=0.5)]
    verdict = judge(classes, SETTINGS, examined=100, measured=0)
    assert verdict.headline == (
        "1 of 3 classes failed: dog (no pixel in 34 of 40 images); "
        "1 of 3 classes is weak: sky (masks differ from image to image (50 % agreement))"
    )
    assert verdict.basis.startswith("Judged without ground truth, from 100 masks")
    assert verdict.advice == Advice(
        command="toco make-labels runs/c --overwrite --refine crf --background-threshold auto",
        why="most of the bad masks are empty",
        by_hand="toco pick runs/c --class dog --count 10",
    )


def test_verdict__many_failed_classes_are_counted() -> None:
    classes = [evidence(name=f"c{number}", empty=40) for number in range(9)]
    headline = judge(classes, SETTINGS, examined=40, measured=0).headline
    assert headline.startswith("9 of 9 classes failed: c0 (no pixel in 40 of 40 images), c1")
    assert headline.endswith("and 4 more")


def test_verdict__tells_of_small_objects_also_of_good_classes() -> None:
    classes = [FINE, evidence(name="crack", patches=3.9), evidence(name="blowhole", patches=0.24, iou=0.6, measured=3)]
    verdict = judge(classes, SETTINGS, examined=40, measured=3)
    assert verdict.small_objects is not None
    assert "in the median image: blowhole 0.24, crack 3.9 (as found): train with a" in verdict.small_objects
    assert verdict.as_dict()["small_objects"] == verdict.small_objects
    assert judge([FINE, evidence(patches=4.0)], SETTINGS, examined=40, measured=3).small_objects is None
    found = judge(classes, replace(SETTINGS, without_cams=True), examined=40, measured=3).small_objects
    assert found is not None
    assert "make masks with a larger --feature-size, or cut" in found
    assert "--relabel mil" not in found


@pytest.mark.parametrize(
    ("measured", "basis"),
    [
        (2, "Measured on the ground truth of 7 images."),
        (1, "1 of 2 classes was measured on the ground truth of 7 images; the others were judged without ground truth"),
        (0, "Judged without ground truth, from 40 masks"),
    ],
)
def test_verdict__says_what_it_rests_on(measured: int, basis: str) -> None:
    classes = [evidence(iou=0.6, measured=5) if number < measured else FINE for number in range(2)]
    assert judge(classes, SETTINGS, examined=40, measured=7).basis.startswith(basis)


def test_verdict__rests_on_the_images_of_the_student_if_no_mask_was_measured() -> None:
    classes = [evidence(student_iou=0.6, student_images=8), evidence(name="other")]
    basis = judge(classes, SETTINGS, examined=40, measured=0).basis
    assert basis.startswith("1 of 2 classes was measured on the ground truth of 8 images")


def test_verdict__says_that_features_are_missing() -> None:
    verdict = judge([evidence(repeated=None, told_apart=None)], SETTINGS, examined=40, measured=0)
    assert "misses wrong regions, because the run has no features of these images" in verdict.basis
