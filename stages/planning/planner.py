"""The plan: settings, and minutes of each stage, from facts about data and machine. A pure function, without torch."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from data.small_objects import LARGER, describe_small
from data.spans import spans
from stages.config import TrainCam
from stages.features.spec import PATCHES, patch_side, patch_size_by_name
from stages.option import Given
from stages.planning.budget import time_text
from stages.planning.fingerprint import Fingerprint
from stages.planning.hardware import Hardware
from stages.planning.operations import EncoderShape, StepKind, step_kinds, step_operations, training_operations
from stages.planning.recipes import (
    CRF_SECONDS_A_MEGAPIXEL,
    DEFAULT,
    GPU_FACTOR,
    GPU_OPERATIONS_A_SECOND,
    GPU_SHORTEST_STEP,
    IMAGE_STUDENT_SECONDS_A_MEGAPIXEL,
    MOST_ITERATIONS,
    ORDER,
    PATCH_16,
    REASONS,
    RECIPES,
    RELABEL_SECONDS_A_STEP,
    REPORT_IMAGES,
    SAM_OPERATIONS,
    SAM_OPERATIONS_A_POINT,
    SLIC_SECONDS_A_MEGAPIXEL,
    STUDENT_SECONDS_A_STEP,
    PlanRecipe,
)
from stages.run_folder.run_config import AllSettings
from stages.segments.superpixels import SLIC_PIXELS

# Options of a student that is a network for images; one of them asks for such a student.
IMAGE_STUDENT_OPTIONS = frozenset({"encoder", "weights", "image_size", "long_side", "confidence_weighting"})
COARSE = 50  # pixels; from here on the plan warns that a patch of the network covers this much of an image


@dataclass(frozen=True, kw_only=True)
class Times:
    """Times that were measured on this machine with images of the data set.

    Attributes:
        shape: The network that was timed.
        config: Its settings.
        steps: Seconds of a training step, by kind.
        pass_speed: Operations in a second of a pass without gradients.
        loading: Seconds to read one image.
        memory: Largest memory of the timing in bytes; None if unknown.
    """

    shape: EncoderShape
    config: TrainCam
    steps: Mapping[StepKind, float]
    pass_speed: float
    loading: float
    memory: float | None = None

    def step(self, kind: StepKind, config: TrainCam) -> float:
        """Seconds of a step with other settings, by counted operations."""
        timed = kind if kind in self.steps else max(self.steps, key=self._operations)
        operations = step_operations(kind, config, self.shape)
        return self.steps[timed] * operations / self._operations(timed)

    def _operations(self, kind: StepKind) -> float:
        return step_operations(kind, self.config, self.shape)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One setting of a plan."""

    option: str  # without '--', as in a settings file: 'train-cam.iterations'
    value: Any
    reason: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Settings of a run, and why.

    Attributes:
        recipe: The recipe in the end; a short time may make it a shorter one.
        fingerprint: The data.
        hardware: The machine.
        settings: Settings of all stages, complete.
        choices: The settings that the plan chose or that matter for the time, with reasons.
        minutes: Predicted minutes by stage; empty if nothing was timed.
        budget: Minutes that the run may take; None for no limit.
        lost: What is lost because the time is short, one sentence each.
        notes: What else is to be known.
        memory: Bytes that a training step took when it was timed; None if unknown.
    """

    recipe: str
    fingerprint: Fingerprint
    hardware: Hardware
    settings: AllSettings
    choices: tuple[Choice, ...]
    minutes: Mapping[str, float]
    budget: float | None
    lost: tuple[str, ...]
    notes: tuple[str, ...]
    memory: float | None = None

    @property
    def total(self) -> float:
        """Minutes of all stages."""
        return sum(self.minutes.values())

    @property
    def fits(self) -> bool:
        """Whether the run fits its time, as far as it is known."""
        return self.budget is None or self.total <= self.budget

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for --json."""
        return {
            "recipe": self.recipe,
            "data": self.fingerprint.as_dict(),
            "machine": self.hardware.as_dict(),
            "choices": [asdict(one) for one in self.choices],
            "minutes": dict(self.minutes),
            "total_minutes": self.total if self.minutes else None,
            "budget_minutes": self.budget,
            "fits": self.fits,
            "lost": list(self.lost),
            "notes": list(self.notes),
            "memory": self.memory,
        }


def needs_timing(given: Given) -> bool:
    """Whether a measured time decides anything: not if steps and image size are given."""
    return not {"iterations", "image_size"} <= given.of("train_cam")


def uses_feature_student(settings: AllSettings, hardware: Hardware, given: Given) -> bool:
    """Whether the student will be a head on frozen features: as given, otherwise on a CPU."""
    fields = given.of("train_seg")
    if "arch" in fields:
        return settings.seg.uses_features
    return hardware.kind == "cpu" and not fields & IMAGE_STUDENT_OPTIONS


def first_settings(fingerprint: Fingerprint, hardware: Hardware, settings: AllSettings, given: Given) -> AllSettings:
    """Return what a plan without a limit of time would choose; for the timing."""
    return _Planner(fingerprint, hardware, settings, given).settings_of(_asked(given))


def make_plan(
    fingerprint: Fingerprint,
    hardware: Hardware,
    settings: AllSettings,
    given: Given,
    *,
    times: Times | None = None,
    budget: float | None = None,
    recognised: bool = False,
) -> Plan:
    """Choose the settings that were not given.

    What does not fit the time is reduced in this order: steps, image size, recipe.

    Args:
        fingerprint: The data.
        hardware: The machine.
        settings: The given values, and defaults for all others.
        given: The recipe, and which values were given: they are kept.
        times: Measured times; without them nothing is predicted and nothing is reduced.
        budget: Minutes that the run may take; None for no limit.
        recognised: Whether the given backbone was recognised by the file of its weights.
    """
    planner = _Planner(fingerprint, hardware, settings, given)
    asked = _asked(given)
    name, chosen, fewer = planner.fitted(asked, times, budget)
    minutes = predicted_minutes(fingerprint, hardware, chosen, times) if times else {}
    return Plan(
        recipe=name,
        fingerprint=fingerprint,
        hardware=hardware,
        settings=chosen,
        choices=tuple(planner.choices(name, chosen, recognised=recognised)),
        minutes=minutes,
        budget=budget if times else None,
        lost=tuple(planner.lost(asked, name, chosen, fewer)),
        notes=tuple(_notes(fingerprint, hardware, chosen, times)),
        memory=times.memory if times else None,
    )


def _asked(given: Given) -> str:
    return given.recipe if given.recipe in ORDER else DEFAULT


@dataclass(frozen=True)
class _Planner:
    fingerprint: Fingerprint
    hardware: Hardware
    base: AllSettings
    given: Given

    def recipe(self, name: str) -> PlanRecipe:
        return RECIPES[name, self.hardware.kind]

    def settings_of(self, name: str, iterations: int | None = None, image_size: int | None = None) -> AllSettings:
        """Return a recipe's settings under the given ones, with other steps and sizes if they are not given."""
        recipe = self.recipe(name)
        given = self.given.of("train_cam")
        cam = self._filled(self.base.cam, given, {"backbone": self._backbone(recipe), **recipe.cam})
        patch = patch_side(cam)
        side = max(2, round((image_size or recipe.image_size) / patch)) * patch
        cam = self._filled(
            cam, given, {"image_size": side, "iterations": iterations or self._iterations(recipe, cam.batch_size)}
        )
        labels = self._filled(self.base.labels, self.given.of("make_labels"), self._masks(recipe))
        student = uses_feature_student(self.base, self.hardware, self.given)
        values = recipe.student if student else recipe.image_student
        seg = self._filled(self.base.seg, self.given.of("train_seg"), values)
        return AllSettings(cam=cam, labels=labels, seg=seg)

    def _filled(self, settings: Any, given: frozenset[str], values: Mapping[str, Any]) -> Any:
        changed = {name: value for name, value in values.items() if name not in given}
        for pair in ({"rescale_min", "rescale_max"},):  # a given half may contradict the other half of a recipe
            if pair & given:
                changed = {name: value for name, value in changed.items() if name not in pair}
        return replace(settings, **changed)

    def _backbone(self, recipe: PlanRecipe) -> str:
        """The recipe's network, or one whose patches divide a given image size."""
        side = self.base.cam.image_size
        patch = patch_size_by_name(recipe.backbone)
        sized = "image_size" in self.given.of("train_cam") and patch is not None and side % patch
        return PATCH_16 if sized and side % 16 == 0 else recipe.backbone

    def _masks(self, recipe: PlanRecipe) -> Mapping[str, Any]:
        """Settings of the masks, without those that a given option excludes."""
        fields = self.given.of("make_labels")
        return {} if fields & {"ignore_uncertain", "crf_fast", "source"} else recipe.labels

    def _iterations(self, recipe: PlanRecipe, batch_size: int) -> int:
        seen = math.ceil(self.fingerprint.training.images * recipe.passes / batch_size)
        return min(MOST_ITERATIONS, max(recipe.iterations, math.ceil(seen / 10) * 10))

    def fitted(self, asked: str, times: Times | None, budget: float | None) -> tuple[str, AllSettings, int]:
        """Return the recipe that fits, its settings, and its steps without a limit of time."""
        for name in reversed(ORDER[: ORDER.index(asked) + 1]):
            whole = self.settings_of(name)
            if times is None or budget is None:
                break
            for chosen in self._smaller(name, whole, times, budget):
                if sum(predicted_minutes(self.fingerprint, self.hardware, chosen, times).values()) <= budget:
                    return name, chosen, whole.cam.iterations
            whole = chosen
        return name, whole, self.settings_of(name).cam.iterations

    def _smaller(self, name: str, whole: AllSettings, times: Times, budget: float) -> Iterator[AllSettings]:
        """Yield smaller and smaller settings of one recipe: fewer steps, then smaller images."""
        recipe, given = self.recipe(name), self.given.of("train_cam")
        yield whole
        patch = patch_side(whole.cam)
        smallest = whole.cam.image_size if "image_size" in given else recipe.smallest_image_size
        for side in range(whole.cam.image_size, min(smallest, whole.cam.image_size) - 1, -patch):
            resized = self.settings_of(name, image_size=side)
            if "iterations" in given:
                yield resized
                continue
            minutes = predicted_minutes(self.fingerprint, self.hardware, resized, times)
            room = budget - sum(minutes.values()) + minutes["train-cam"]
            fitting = int(room / minutes["train-cam"] * resized.cam.iterations) // 10 * 10
            steps = min(resized.cam.iterations, max(recipe.fewest_iterations, fitting))
            yield self.settings_of(name, iterations=steps, image_size=side)

    def choices(self, name: str, chosen: AllSettings, *, recognised: bool) -> Iterator[Choice]:
        """Yield the settings of the plan with their reasons: chosen ones, and given ones of the same kind."""
        recipe = self.recipe(name)
        student = recipe.student if chosen.seg.uses_features else recipe.image_student
        shown = {
            "train-cam": ("backbone", "weights", "image_size", "iterations", *recipe.cam),
            "make-labels": (*recipe.labels, "background_threshold"),
            "train-seg": tuple(student),
        }
        whole = self.settings_of(name)
        for stage, settings in chosen.by_stage().items():
            given = self.given.of(stage.replace("-", "_"))
            for one in dict.fromkeys((*shown[stage], *sorted(given & student.keys() if stage == "train-seg" else ()))):
                value = getattr(settings, one)
                if one == "background_threshold" and value is None:
                    value = chosen.cam.background_threshold
                reason = "given" if one in given else self._reason(stage, one, chosen, whole)
                if recognised and (stage, one) == ("train-cam", "backbone"):
                    reason = "recognised by the file of weights"
                yield Choice(option=f"{stage}.{one.replace('_', '-')}", value=value, reason=reason)

    def _reason(self, stage: str, name: str, chosen: AllSettings, whole: AllSettings) -> str:
        cam, images = chosen.cam, self.fingerprint.training.images
        on_cpu = self.hardware.kind == "cpu"
        reasons = {
            ("train-cam", "backbone"): "small, pretrained without labels" if on_cpu else "pretrained without labels",
            ("train-cam", "weights"): "downloaded once from the Hugging Face hub",
            ("train-cam", "image_size"): (
                f"{cam.image_size // patch_side(cam)} x {cam.image_size // patch_side(cam)} patches"
                + (", less than usual for the time" if cam.image_size < whole.cam.image_size else "")
            ),
            ("train-cam", "iterations"): (
                f"{cam.iterations * cam.batch_size / max(1, images):.1f} passes over {images} images"
                + (f"; {whole.cam.iterations} do not fit the time" if cam.iterations < whole.cam.iterations else "")
            ),
            ("make-labels", "background_threshold"): "as in training, the paper's",
            ("train-seg", "arch"): (
                "a head on the same frozen features, minutes on a CPU"
                if chosen.seg.uses_features
                else "an ordinary network for images"
            ),
            ("train-seg", "iterations"): "short training",
            ("train-seg", "learning_rate"): "few steps",
            ("train-seg", "head_lr_multiplier"): "the new layers learn fast",
            ("train-seg", "batch_size"): "fits the memory of a usual machine",
            ("train-seg", "image_size"): "small, for a CPU",
        }
        return reasons.get((stage, name)) or REASONS.get(name, "")

    def lost(self, asked: str, name: str, chosen: AllSettings, full_steps: int) -> Iterator[str]:
        """Say what the plan loses because the time is short."""
        for skipped in ORDER[ORDER.index(name) : ORDER.index(asked)]:
            yield f"recipe {skipped} instead of {ORDER[ORDER.index(skipped) + 1]}: {self.recipe(skipped).loss}"
        if chosen.cam.iterations < full_steps:
            yield f"{chosen.cam.iterations} of {full_steps} steps: the classes are told apart less well"
        usual = self.settings_of(name).cam.image_size
        if chosen.cam.image_size < usual:
            yield f"images of {chosen.cam.image_size} instead of {usual} pixels: small objects are lost"


def predicted_minutes(
    fingerprint: Fingerprint, hardware: Hardware, settings: AllSettings, times: Times
) -> dict[str, float]:
    """Predict the minutes of each stage: counts times measured seconds.

    The CRF, segments, the heads and an image student are not measured; see `stages.planning.recipes`.
    """
    cam, labels, seg = settings.cam, settings.labels, settings.seg
    images = fingerprint.training.images
    height, width = fingerprint.median_size
    faster = GPU_FACTOR if hardware.kind == "gpu" else 1
    shape = times.shape
    training = sum(share * times.step(kind, cam) for kind, share in step_kinds(cam).items()) * cam.iterations

    side, scales = labels.image_size or cam.image_size, labels.scales or cam.scales
    window = min(labels.window or max(height, width), max(height, width))
    windows = len(spans(height, window)) * len(spans(width, window))
    cam_pass = windows * sum(2 * shape.encode(int(scale * side)) for scale in scales) / times.pass_speed + times.loading
    long_side = labels.feature_size or PATCHES * shape.patch_size
    factor = long_side / max(height, width)
    feature_pass = shape.encode(round(factor * height), round(factor * width)) / times.pass_speed + times.loading
    crf = CRF_SECONDS_A_MEGAPIXEL * height * width / 1e6 * labels.uses_crf
    slic = SLIC_SECONDS_A_MEGAPIXEL * min(SLIC_PIXELS, height * width) / 1e6 * (labels.segments == "slic")
    refining = (crf + slic) / max(1, hardware.cores)
    sam = 0.0
    if labels.segments == "sam":  # computed once
        sam = (SAM_OPERATIONS + SAM_OPERATIONS_A_POINT * labels.sam_points**2) / times.pass_speed + times.loading
    heads = 4 * labels.relabel_rounds * labels.relabel_steps * RELABEL_SECONDS_A_STEP / faster * labels.may_relabel
    relabelling = images * (feature_pass + refining + times.loading) * labels.may_relabel + heads
    making = images * (sam + cam_pass + refining) + relabelling

    if seg.uses_features:
        first = 0 if labels.may_relabel else images * feature_pass
        student = first + seg.iterations * STUDENT_SECONDS_A_STEP * seg.batch_size / 16 / faster
        student_pass = feature_pass
    else:
        megapixels = seg.batch_size * seg.image_size**2 / 1e6
        student = seg.iterations * IMAGE_STUDENT_SECONDS_A_MEGAPIXEL * megapixels / faster
        student_pass = IMAGE_STUDENT_SECONDS_A_MEGAPIXEL * seg.image_size**2 / 1e6 / 2 / faster
    measured = fingerprint.splits[fingerprint.val_split].masks if fingerprint.val_split else fingerprint.training.masks
    reporting = 30 + min(REPORT_IMAGES, measured) * (cam_pass + student_pass)
    seconds = {"train-cam": training, "make-labels": making, "train-seg": student, "report": reporting}
    return {stage: value / 60 for stage, value in seconds.items()}


def _notes(fingerprint: Fingerprint, hardware: Hardware, settings: AllSettings, times: Times | None) -> Iterator[str]:
    height, width = fingerprint.median_size
    patches = settings.labels.feature_size / patch_side(settings.cam) if settings.labels.feature_size else PATCHES
    patch = max(height, width) / patches
    if patch > COARSE:
        yield (
            f"a patch of the network covers {round(patch)} x {round(patch)} pixels of the median image: smaller "
            "objects are hardly found; cut large images into tiles, or give a larger --make-labels.feature-size"
        )
    network = settings.cam.image_size, patch_side(settings.cam)
    small = describe_small(fingerprint.covers, *network)
    small += describe_small(fingerprint.found, *network, verb="was found by the earlier run on")
    if small:
        yield f"small objects, which the network's maps hardly show: {'; '.join(small)}: {LARGER}"
    if times is not None and hardware.kind == "cpu":
        cam = settings.cam
        recipe = RECIPES[DEFAULT, "gpu"]
        larger = replace(
            cam,
            **{**recipe.cam, "image_size": recipe.image_size // times.shape.patch_size * times.shape.patch_size},
            iterations=recipe.iterations,
        )
        yield (
            f"on a GPU, train-cam would take about {time_text(_gpu_minutes(cam, times))}, and "
            f"{time_text(_gpu_minutes(larger, times))} with the settings for GPUs ({larger.image_size} pixels, "
            f"{larger.iterations} steps): an estimate from counted operations at "
            f"{GPU_OPERATIONS_A_SECOND / 1e12:.0f} TFLOP/s"
        )


def _gpu_minutes(cam: TrainCam, times: Times) -> float:
    """Minutes of a training on a GPU, from counted operations; a step is not shorter than its launches."""
    seconds = training_operations(cam, times.shape) / GPU_OPERATIONS_A_SECOND
    return max(seconds, cam.iterations * GPU_SHORTEST_STEP) / 60
