"""Plans from facts; no network is built and no torch is needed."""

import math
from dataclasses import replace
from typing import Any

import pytest

from stages.check import Sizes, SplitCounts
from stages.config import MakeLabels, TrainCam, TrainSeg
from stages.option import Given
from stages.planning.fingerprint import Fingerprint
from stages.planning.hardware import Hardware
from stages.planning.operations import StepKind, VitShape, step_kinds, step_operations, training_operations
from stages.planning.planner import Plan, Times, first_settings, make_plan, needs_timing, predicted_minutes
from stages.planning.recipes import ORDER, RECIPES, SMALL_VIT
from stages.run_folder.run_config import AllSettings

CPU = Hardware(kind="cpu", name="2 CPU cores", cores=2, memory=8e9)
GPU = Hardware(kind="gpu", name="a GPU", cores=8, memory=40e9)
SMALL = VitShape(width=384, depth=12, patch_size=14, mlp_width=1536)
FULL, FROZEN = StepKind(True, True, True), StepKind(False, False, False)


def facts(images: int = 300, side: int = 320, **changes: Any) -> Fingerprint:
    counts = SplitCounts(images=images, negatives=images // 10, masks=0)
    size = (side, side)
    values: dict[str, Any] = {
        "root": "photos",
        "splits": {"train": counts},
        "train_split": "train",
        "val_split": None,
        "class_names": ("scratch",),
        "fewest": images // 2,
        "labels_per_image": 1.0,
        "sizes": Sizes(smallest=size, median=size, largest=size),
        "unlabelled": 0,
    }
    return Fingerprint(**{**values, **changes})


def times(seconds: float, **changes: Any) -> Times:
    """Times of a machine that takes this long for a step with all losses at 196 pixels and one scale."""
    config = first_settings(facts(), CPU, AllSettings(), Given()).cam
    share = step_operations(FROZEN, config, SMALL) / step_operations(FULL, config, SMALL)
    values = {"steps": {FULL: seconds, FROZEN: share * seconds}, "pass_speed": 5e10, "loading": 0.01}
    return Times(shape=SMALL, config=config, **{**values, **changes})


def planned(
    hardware: Hardware = CPU,
    *,
    data: Fingerprint | None = None,
    step: float | None = None,
    budget: float | None = None,
    recipe: str | None = None,
    cam: dict[str, Any] | None = None,
    labels: dict[str, Any] | None = None,
    seg: dict[str, Any] | None = None,
) -> Plan:
    """A plan in which the values of cam, labels and seg are given."""
    own = {"train_cam": cam or {}, "make_labels": labels or {}, "train_seg": seg or {}}
    settings = AllSettings(
        cam=TrainCam(**own["train_cam"]),
        labels=MakeLabels(**{"refine": "crf", **own["make_labels"]}),
        seg=TrainSeg(**own["train_seg"]),
    )
    given = Given(recipe, {name: frozenset(values) for name, values in own.items()})
    measured = None if step is None else times(step)
    return make_plan(data or facts(), hardware, settings, given, times=measured, budget=budget)


def value(plan: Plan, option: str) -> Any:
    return next(one.value for one in plan.choices if one.option == option)


def reason(plan: Plan, option: str) -> str:
    return next(one.reason for one in plan.choices if one.option == option)


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
@pytest.mark.parametrize("name", ORDER)
def test_recipes__are_valid_settings_and_get_longer(name: str, kind: Any) -> None:
    plan = planned(CPU if kind == "cpu" else GPU, recipe=name)
    cam = plan.settings.cam
    assert cam.image_size % 14 == 0
    assert all(one.reason for one in plan.choices)
    steps = [RECIPES[one, kind].iterations for one in ORDER]
    assert steps == sorted(steps)
    assert RECIPES[name, kind].fewest_iterations <= RECIPES[name, kind].iterations


def test_make_plan__a_cpu_gets_a_small_network_and_a_student_on_features() -> None:
    plan = planned()
    assert (plan.recipe, plan.settings.cam.backbone) == ("balanced", SMALL_VIT)
    assert plan.settings.seg.arch == "mlp"
    assert plan.minutes == {}
    assert plan.fits


def test_make_plan__a_gpu_gets_a_network_for_images_as_student() -> None:
    plan = planned(GPU)
    assert plan.settings.seg.arch == "DeepLabV3Plus"
    assert plan.settings.cam.image_size == 448


@pytest.mark.parametrize("images", [20, 100_000])
def test_make_plan__large_data_sets_get_more_steps_on_a_gpu(images: int) -> None:
    steps = planned(GPU, data=facts(images)).settings.cam.iterations
    assert steps == {20: RECIPES["balanced", "gpu"].iterations, 100_000: 20_000}[images]


def test_make_plan__given_values_win() -> None:
    cam = {"backbone": "vit_base_patch16_224", "image_size": 448, "scales": (1.0, 0.5), "rescale_max": 0.7}
    plan = planned(cam=cam, labels={"relabel": "none"}, seg={"arch": "conv", "iterations": 7})
    assert {name: getattr(plan.settings.cam, name) for name in cam} == cam
    assert plan.settings.cam.rescale_min == 0.5  # the recipe's 0.8 would contradict the given maximum
    assert (plan.settings.labels.relabel, plan.settings.seg.arch, plan.settings.seg.iterations) == ("none", "conv", 7)
    assert reason(plan, "train-cam.backbone") == reason(plan, "train-seg.arch") == "given"


@pytest.mark.parametrize(
    ("given", "backbone", "size"),
    [
        ({"backbone": "deit_small_patch16_224"}, "deit_small_patch16_224", 192),
        ({"image_size": 256}, "deit_small_patch16_224", 256),
        ({"image_size": 224}, SMALL_VIT, 224),
        ({"backbone": "vit_tiny_patch16_224", "backbone_option": ("patch_size=8",)}, "vit_tiny_patch16_224", 192),
    ],
)
def test_make_plan__image_size_is_in_whole_patches(given: dict[str, Any], backbone: str, size: int) -> None:
    cam = planned(cam=given).settings.cam
    assert (cam.backbone, cam.image_size) == (backbone, size)


@pytest.mark.parametrize(
    "given",
    [{"encoder": "resnet34"}, {"image_size": 320}, {"weights": "w.safetensors"}, {"confidence_weighting": True}],
)
def test_make_plan__options_of_an_image_student_ask_for_one(given: dict[str, Any]) -> None:
    seg = planned(seg=given, labels={"confidence": True}).settings.seg
    assert not seg.uses_features
    assert all(getattr(seg, name) == one for name, one in given.items())


def test_make_plan__what_fits_is_not_reduced() -> None:
    plan = planned(step=1.0, budget=600.0)
    assert (plan.recipe, plan.settings.cam.iterations, plan.lost) == ("balanced", 500, ())
    assert plan.minutes["train-cam"] == pytest.approx((0.6 * 1 + 0.4 * times(1.0).steps[FROZEN]) * 500 / 60)
    assert plan.total == pytest.approx(sum(plan.minutes.values()))


def test_make_plan__steps_first_then_size_then_the_recipe() -> None:
    """Slower and slower machines lose in the fixed order, and each plan says what."""
    found: list[tuple[str, int, int]] = []
    for step in (2, 20, 24, 30, 34, 38, 44, 79):
        plan = planned(step=float(step), budget=120.0)
        assert plan.fits, step
        cam = plan.settings.cam
        found.append((plan.recipe, cam.image_size, cam.iterations))
        reduced = (plan.recipe, cam.image_size, cam.iterations) != ("balanced", 196, 500)
        assert bool(plan.lost) == reduced
    seen = list(dict.fromkeys((recipe, size) for recipe, size, _ in found))
    assert seen[:4] == [("balanced", 196), ("balanced", 182), ("balanced", 168), ("quick", 196)]
    steps = [steps for recipe, size, steps in found if (recipe, size) == ("balanced", 196)]
    assert steps == sorted(steps, reverse=True)
    assert 300 <= steps[-1] < steps[0] == 500


def test_make_plan__says_what_is_lost() -> None:
    plan = planned(step=44.0, budget=120.0)
    assert plan.lost[0].startswith("recipe quick instead of balanced: ")
    plan = planned(step=20.0, budget=120.0)
    assert plan.lost == (f"{plan.settings.cam.iterations} of 500 steps: the classes are told apart less well",)
    assert "500 do not fit the time" in reason(plan, "train-cam.iterations")


def test_make_plan__what_never_fits_is_the_smallest_plan() -> None:
    plan = planned(step=5.0, budget=120.0, data=facts(100_000))
    assert not plan.fits
    assert plan.recipe == "quick"
    assert plan.settings.cam.iterations == RECIPES["quick", "cpu"].fewest_iterations
    assert plan.minutes["make-labels"] > 120


def test_make_plan__given_steps_are_kept_though_they_do_not_fit() -> None:
    plan = planned(step=8.0, budget=10.0, cam={"iterations": 3000})
    assert plan.settings.cam.iterations == 3000
    assert not plan.fits


def test_make_plan__a_coarse_grid_is_said() -> None:
    (note,) = planned(data=facts(side=8000)).notes
    assert "250 x 250 pixels" in note
    (note,) = planned(data=facts(covers={"scratch": 0.002})).notes
    assert "scratch covers 0.2 % of an image in the median, 0.39 patches of 14 pixels at --image-size 196" in note
    assert planned(data=facts(side=64)).notes == ()
    assert planned(data=facts(side=2000), labels={"feature_size": 1022}).notes == ()  # as the note advises


def test_make_plan__says_what_a_gpu_would_change() -> None:
    (note,) = planned(step=2.0, budget=120.0).notes
    assert "on a GPU, train-cam would take about" in note
    assert "an estimate from counted operations" in note


@pytest.mark.parametrize(
    ("fields", "needed"), [((), True), (("iterations",), True), (("iterations", "image_size"), False)]
)
def test_needs_timing__only_if_it_decides_something(fields: tuple[str, ...], needed: bool) -> None:
    assert needs_timing(Given(None, {"train_cam": frozenset(fields)})) == needed


def test_step_kinds__are_the_phases_of_a_training() -> None:
    config = TrainCam(freeze_encoder_until=0.4, contrast_start=0.4, seg_start=0.5)
    assert step_kinds(config) == {
        FROZEN: pytest.approx(0.4),
        StepKind(True, True, False): pytest.approx(0.1),
        FULL: pytest.approx(0.5),
    }


def test_training_operations__are_those_of_the_paper_s_step() -> None:
    """METHOD section 9: 8.6 TFLOP for ViT-B at 448 pixels with 4 images."""
    shape = VitShape(width=768, depth=12, patch_size=16, mlp_width=3072)
    config = TrainCam(seg_start=0.0)
    assert training_operations(config, shape) / config.iterations == pytest.approx(8.6e12, rel=0.01)


def test_times__are_carried_over_by_operations() -> None:
    measured = times(2.0)
    larger = replace(measured.config, image_size=392)
    ratio = step_operations(FULL, larger, SMALL) / step_operations(FULL, measured.config, SMALL)
    assert 4 < ratio < 6
    assert measured.step(FULL, larger) == pytest.approx(2 * ratio)
    assert math.isclose(measured.step(FULL, measured.config), 2.0)


def test_predicted_minutes__grow_with_the_windows_of_the_cams() -> None:
    settings = AllSettings(labels=MakeLabels(relabel="none"))
    measured = replace(times(2.0), loading=0.0)

    def minutes(window: int | None) -> float:
        changed = replace(settings, labels=replace(settings.labels, window=window))
        return predicted_minutes(facts(side=320), CPU, changed, measured)["make-labels"]

    assert minutes(320) == minutes(None)
    assert minutes(160) == pytest.approx(9 * minutes(None))  # 0, 120 and 160 along each side


def test_make_plan__tells_of_small_objects_of_ground_truth_and_of_earlier_masks() -> None:
    notes = planned(data=facts(covers={"dent": 0.001}, found={"scratch": 0.002, "sky": 0.5})).notes
    (note,) = [one for one in notes if one.startswith("small objects")]
    assert "dent covers 0.1 % of an image in the median, 0.2 patches of 14 pixels at --image-size 196" in note
    assert "scratch was found by the earlier run on 0.2 % of an image in the median" in note
    assert "sky" not in note


def test_predicted_minutes__count_segments() -> None:
    measured = times(2.0)

    def seconds(segments: str, hardware: Hardware = CPU, **changes: Any) -> float:
        """Of the segments of 100 images of 500 x 500 pixels."""
        plain = MakeLabels(relabel="none", **changes)
        with_segments, without = (
            predicted_minutes(facts(100, side=500), hardware, AllSettings(labels=one), measured)["make-labels"]
            for one in (replace(plain, segments=segments), plain)
        )
        return 60 * (with_segments - without)

    assert seconds("slic") == pytest.approx(100 * 0.25 * 1.3 / 2)  # on two cores
    assert seconds("segments") == 0  # files
    sam = 0.97e12 + 32**2 * 3.6e9
    assert seconds("sam") == pytest.approx(100 * (sam / 5e10 + 0.01))
    assert seconds("sam", sam_points=16) < seconds("sam") / 2
