"""Judge each class by the evidence: good, weak or failed, why, and which command is likely to help.

Pure functions of numbers, without torch. The constants come from bench/verdict.md, which measures how often the
judgement without ground truth is right.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from data.command_line import as_command
from data.dataset import list_names
from data.small_objects import FEW_PATCHES, LARGER, LARGER_FEATURES
from stages.option import as_option

Quality = Literal["good", "weak", "failed"]
QUALITIES: tuple[Quality, ...] = ("failed", "weak", "good")

# IoU of the class against the ground truth, 0..1
GOOD_IOU = 0.5
WEAK_IOU = 0.3
# Without ground truth: IoU of the masks with what a head finds that learned the masks of other images, 0..1
GOOD_REPEATED = 0.55
WEAK_REPEATED = 0.45
# and the area under the ROC curve with which that head tells images with the class from images without it, 0..1
GOOD_TOLD_APART = 0.92
WEAK_TOLD_APART = 0.87
# Part of a class's images whose mask shows (almost) nothing of it
WEAK_EMPTY = 0.25
FAILED_EMPTY = 0.5
MOST_COVER = 0.8  # a mask that covers more of most images is hardly an object
FEW_IMAGES = 10
ALWAYS_TOGETHER = 0.95  # part of a class's images that show another class, too
CLEARLY = 0.05  # a difference of IoU
FEW_STEPS = 2000  # of train-cam: with fewer, and many bad classes, more steps are the first thing to try


@dataclass(frozen=True, kw_only=True)
class ClassEvidence:
    """Numbers about one class's masks. None means that it was not measured."""

    name: str
    images: int  # images whose labels name the class
    examined: int  # of these, the ones whose masks were examined
    empty: int  # of these, the ones whose mask has (almost) no pixel of the class
    cover: float  # median part of an image's pixels with a value that the mask covers, 0..1; without empty masks
    iou: float | None = None  # of the pseudo masks against the ground truth, 0..1
    cam_iou: float | None = None  # of the CAMs alone, at the background threshold
    measured: int = 0  # images with ground truth that show the class
    repeated: float | None = None  # IoU with what a head finds that learned the masks of other images, 0..1
    told_apart: float | None = None  # area under the ROC curve with which that head classifies images, 0..1
    together: str | None = None  # a class that (nearly) all images of this class show, too
    patches: float | None = None  # of the network's input that it covers, in the ground truth or else in the masks
    student_iou: float | None = None  # of the student's masks against the ground truth of other images, 0..1
    student_images: int = 0  # on this many images
    drawn: int = 0  # further images whose labels name the class, and whose masks people drew

    @property
    def empty_part(self) -> float:
        """Part of the examined images whose mask is empty, 0..1."""
        return self.empty / self.examined if self.examined else 1.0

    @property
    def is_small(self) -> bool:
        """Whether the network's maps hardly show its objects, as far as their size is known."""
        return self.patches is not None and self.patches < FEW_PATCHES


@dataclass(frozen=True, kw_only=True)
class ClassVerdict:
    """The judgement of one class."""

    name: str
    level: Quality
    by_ground_truth: bool  # otherwise by evidence
    reasons: tuple[str, ...]  # in plain words; never empty
    evidence: ClassEvidence


@dataclass(frozen=True, kw_only=True)
class MaskSettings:
    """What advice depends on."""

    run: str
    data: str
    iterations: int  # of train-cam
    background_threshold: float | None  # of the masks; None for the decoder
    threshold_chosen: bool  # by toco, on images
    relabelled: bool  # from the labels of the CAMs
    without_cams: bool = False  # made by --relabel mil
    larger_features: int | None = None  # --feature-size that would show smaller objects; None if it is large already
    threshold_fits: bool = False  # no other one can help: ground truth chose it, or the decoder needs none
    student_iterations: int | None = None  # None without a student
    config: str | None = None  # config.toml, if `toco run` made the run
    options: Mapping[str, Sequence[str]] = field(default_factory=dict)  # by command: the other options of the run

    def again(self, stage: str, name: str, value: object, why: str) -> "Advice":
        """Advise to run a stage again with one other option."""
        if self.config:
            option = f"--{stage}.{as_option(name, value).removeprefix('--')}"
            return Advice(
                command=f"{as_command('run', '--config', self.config, '--overwrite', stage)} {option}", why=why
            )
        place = (self.data, "--out", self.run) if stage == "train-cam" else (self.run,)
        others = [one for one in self.options.get(stage, ()) if not one.startswith(f"{as_option(name)} ")]
        command = " ".join([as_command(stage, *place, "--overwrite"), *others, as_option(name, value)])
        return Advice(command=command, why=why)


@dataclass(frozen=True, kw_only=True)
class Advice:
    """The next command that is likely to help."""

    command: str
    why: str  # a phrase
    by_hand: str | None = None  # another command: pick masks of these classes to correct


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The judgement of a run's pseudo masks."""

    classes: tuple[ClassVerdict, ...]
    examined: int  # images whose masks were examined
    measured: int  # images with ground truth among them
    advice: Advice | None  # None if all is good
    without_cams: bool = False  # whether --relabel mil made the masks

    def named(self, level: Quality) -> list[ClassVerdict]:
        """The classes of one level, the worst first."""
        return worst_first(one for one in self.classes if one.level == level)

    @property
    def headline(self) -> str:
        """One line: how many classes failed, which, and the two strongest signs of each."""
        total = len(self.classes)
        parts = []
        for level in ("failed", "weak"):
            found = self.named(level)
            if found:
                first = ", ".join(f"{one.name} ({', '.join(one.reasons[:2])})" for one in found[:SHOWN])
                more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
                verb = "failed" if level == "failed" else ("is weak" if len(found) == 1 else "are weak")
                parts.append(f"{len(found)} of {total} classes {verb}: {first}{more}")
        if not parts:
            good = "the class is" if total == 1 else f"all {total} classes are"
            parts.append(f"{good} good")
        return "; ".join(parts)

    @property
    def small_objects(self) -> str | None:
        """One sentence: the classes of small objects; None if there are none."""
        small = [one.evidence for one in self.classes if one.evidence.is_small]
        if not small:
            return None
        small.sort(key=lambda one: one.patches or 0.0)
        listed = [f"{one.name} {one.patches:.2g}{'' if one.measured else ' (as found)'}" for one in small[:SHOWN]]
        more = f" and {len(small) - SHOWN} more" if len(small) > SHOWN else ""
        return (
            "Small objects, which the network's maps hardly show, in patches of the network in the median image: "
            f"{', '.join(listed)}{more}: {LARGER_FEATURES if self.without_cams else LARGER}."
        )

    @property
    def basis(self) -> str:
        """One sentence: what the judgement rests on."""
        truth = sum(one.by_ground_truth for one in self.classes)
        images = self.measured or max((one.evidence.student_images for one in self.classes), default=0)
        if truth == len(self.classes):
            return f"Measured on the ground truth of {images} images."
        blind = all(one.evidence.repeated is None for one in self.classes if not one.by_ground_truth)
        misses = "wrong regions, because the run has no features of these images" if blind else "some bad masks"
        without = (
            f"judged without ground truth, from {self.examined} masks: such a verdict misses {misses}; so look at the "
            "gallery of the report"
        )
        if not truth:
            return f"{without[0].upper()}{without[1:]}."
        return (
            f"{truth} of {len(self.classes)} {'classes was' if truth == 1 else 'classes were'} measured on the ground "
            f"truth of {images} images; the others were {without}."
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        sentences = {"headline": self.headline, "basis": self.basis, "small_objects": self.small_objects}
        return {**sentences, **asdict(self)}


PICKED = 3  # classes that advice names at most, the worst
SHOWN = 5  # classes that the headline names at most, of each level


def judge(evidence: Sequence[ClassEvidence], settings: MaskSettings, *, examined: int, measured: int) -> Verdict:
    """Judge all classes.

    Args:
        evidence: Numbers of each class.
        settings: How the masks were made.
        examined: Number of images whose masks were examined.
        measured: Number of images with ground truth among them.
    """
    classes = tuple(judge_class(one) for one in evidence)
    return Verdict(
        classes=classes,
        examined=examined,
        measured=measured,
        advice=advice(classes, settings),
        without_cams=settings.without_cams,
    )


def judge_class(one: ClassEvidence) -> ClassVerdict:
    """Judge one class: by the ground truth if an image with ground truth shows it, otherwise by evidence."""
    measured = _measurements(one)
    signs = _signs(one)
    doubts = sorted([*signs, *_hints(one)], key=lambda pair: QUALITIES.index(pair[0]))  # of equal levels, signs first
    reasons = measured + (doubts if any(level != "good" for level, _ in measured) or not measured else [])
    decisive = measured or doubts
    return ClassVerdict(
        name=one.name,
        level=min((level for level, _ in decisive), key=QUALITIES.index, default="good"),
        by_ground_truth=bool(measured),
        # Without it, all classes of a small data set would have the same reason.
        reasons=(*(reason for _, reason in reasons), *(() if measured or signs else (_unsuspicious(one),))),
        evidence=one,
    )


def worst_first(classes: Iterable[ClassVerdict]) -> list[ClassVerdict]:
    """Sort classes of one level: by IoU or agreement, those last that only a hint speaks against."""

    def rank(one: ClassVerdict) -> tuple[bool, float]:
        numbers = one.evidence
        if one.by_ground_truth:
            return False, min(iou for iou in (numbers.iou, numbers.student_iou) if iou is not None)
        return not _signs(numbers), 1 - numbers.empty_part if numbers.repeated is None else numbers.repeated

    return sorted(classes, key=rank)


def level_of(iou: float) -> Quality:
    """The level of an IoU with the ground truth, 0..1."""
    return "good" if iou >= GOOD_IOU else "weak" if iou >= WEAK_IOU else "failed"


def _measurements(one: ClassEvidence) -> list[tuple[Quality, str]]:
    """What the ground truth says, the worst first."""
    found = []
    for whose, iou, images in (("masks", one.iou, one.measured), ("student", one.student_iou, one.student_images)):
        if iou is not None:
            count = "1 image" if images == 1 else f"{images} images"
            found.append((iou, f"{whose}: IoU {100 * iou:.0f} % on {count} with ground truth"))
    return [(level_of(iou), text) for iou, text in sorted(found)]


def _unsuspicious(one: ClassEvidence) -> str:
    if not one.examined:
        return "people drew all of its masks"
    if one.repeated is None:
        return f"{one.examined - one.empty} of {one.examined} masks show it"
    return f"{100 * one.repeated:.0f} % agreement between images"


def _signs(one: ClassEvidence) -> list[tuple[Quality, str]]:
    """What is wrong with the masks of a class, and the level that each reason alone would give."""
    if not one.examined:
        return [] if one.drawn else [("failed", "no image has this label")]
    found: list[tuple[Quality, str]] = []
    if one.empty_part > WEAK_EMPTY:
        level: Quality = "failed" if one.empty_part > FAILED_EMPTY else "weak"
        found.append((level, f"no pixel in {one.empty} of {one.examined} images"))
    if one.repeated is not None and one.repeated < GOOD_REPEATED:
        level = "failed" if one.repeated < WEAK_REPEATED else "weak"
        found.append((level, f"masks differ from image to image ({100 * one.repeated:.0f} % agreement)"))
    if one.told_apart is not None and one.told_apart < GOOD_TOLD_APART:
        level = "failed" if one.told_apart < WEAK_TOLD_APART else "weak"
        figures = f"AUC {one.told_apart:.2f}, good is {GOOD_TOLD_APART:g}"
        found.append((level, f"masks predict badly which images show it ({figures})"))
    return found


def _hints(one: ClassEvidence) -> list[tuple[Quality, str]]:
    """What makes bad masks likely, although these may be right: never more than weak."""
    if not one.examined:
        return []
    found: list[tuple[Quality, str]] = []
    if one.cover > MOST_COVER:
        found.append(("weak", f"masks cover {100 * one.cover:.0f} % of the image"))
    if one.together is not None:
        found.append(("weak", f"nearly all of its images also show {one.together}"))
    if (images := one.examined + one.drawn) < FEW_IMAGES:
        found.append(("weak", "only 1 image" if images == 1 else f"only {images} images"))
    return found


def advice(classes: Sequence[ClassVerdict], settings: MaskSettings) -> Advice | None:
    """Return one command that is likely to help most of the failed classes, or else of the weak ones.

    None if all are good. Other settings come first where a sign speaks for them, because they need no work by people;
    then more images; then corrections by hand, which are offered beside the others where masks are bad.
    """
    level: Quality = "failed" if any(one.level == "failed" for one in classes) else "weak"
    bad = [one.evidence for one in worst_first(one for one in classes if one.level == level)]
    if not bad:
        return None
    # There is nothing to pick without images, and nothing to correct if only the student is bad.
    correctable = [one.name for one in bad if one.examined and (one.iou is None or one.iou < GOOD_IOU)][:PICKED]
    named = [word for name in correctable for word in ("--class", name)]
    pick = as_command("pick", settings.run, *named, "--count", 10)
    found = _without_corrections(bad, len(classes), settings)
    if found is None:
        return Advice(command=pick, why="correct a few masks, which the next runs learn from")
    return replace(found, by_hand=pick if correctable else None)


def _without_corrections(bad: Sequence[ClassEvidence], classes: int, settings: MaskSettings) -> Advice | None:
    """Advise to change settings or to label more images; None if nothing speaks for either."""

    def most(says: Callable[[ClassEvidence], bool]) -> bool:
        return 2 * sum(map(says, bad)) > len(bad)

    if settings.relabelled and most(lambda one: (one.cam_iou or 0.0) > (one.iou or 0.0) + CLEARLY):
        return settings.again("make-labels", "relabel", "none", "the masks of the CAMs alone have a higher IoU")
    if settings.student_iterations and most(
        lambda one: one.student_iou is not None and (one.iou or 0.0) > one.student_iou + CLEARLY
    ):
        steps = 2 * settings.student_iterations
        return settings.again("train-seg", "iterations", steps, "the student is worse than the masks that it learned")

    def has_empty(one: ClassEvidence) -> bool:
        return one.examined > 0 and one.empty_part > WEAK_EMPTY

    if settings.larger_features and most(lambda one: has_empty(one) or one.is_small):
        why = "larger images show smaller objects"
        return settings.again("make-labels", "feature_size", settings.larger_features, why)
    if settings.relabelled or not settings.threshold_fits:
        if most(has_empty):
            return _other_threshold(settings, 0.6, "most of the bad masks are empty")
        if most(lambda one: one.cover > MOST_COVER):
            return _other_threshold(settings, 1.4, "the bad masks cover nearly everything")
    few = [one.name for one in bad if one.examined + one.drawn < FEW_IMAGES]
    if 2 * len(few) > len(bad):
        why = f"label more images of {list_names(few, PICKED)}"
        return Advice(command=as_command("check", settings.data), why=why)
    together = [one for one in bad if one.together is not None]
    if 2 * len(together) > len(bad):
        why = f"label images of '{together[0].name}' that do not show '{together[0].together}'"
        return Advice(command=as_command("check", settings.data), why=why)
    if settings.iterations < FEW_STEPS and 2 * len(bad) >= classes:
        why = f"half of the classes or more are bad after {settings.iterations} steps"
        return settings.again("train-cam", "iterations", 4 * settings.iterations, why)
    return None


def _other_threshold(settings: MaskSettings, factor: float, why: str) -> Advice:
    if settings.relabelled:
        return settings.again("make-labels", "relabel", "none", f"{why}; those of the CAMs may be better")
    before = settings.background_threshold
    value = "auto" if before is None or not settings.threshold_chosen else f"{min(0.95, factor * before):.2g}"
    return settings.again("make-labels", "background_threshold", value, why)
