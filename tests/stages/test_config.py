from dataclasses import fields
from typing import Any

import pytest

from data.errors import SettingsError
from stages.config import CAM_RECIPES, Evaluate, MakeLabels, Predict, TrainCam, TrainSeg, View, from_values
from stages.option import option_text


def test_train_cam__defaults_are_the_published_ones_for_voc() -> None:
    config = TrainCam()
    assert (config.iterations, config.batch_size, config.image_size) == (20_000, 4, 448)
    assert (config.learning_rate, config.head_lr_multiplier, config.weight_decay) == (6e-5, 10, 0.01)
    assert config.warmup_iterations == 1500
    assert config.seg_start * config.iterations == 2000
    assert (config.ptc_weight, config.ctc_weight, config.seg_weight, config.reg_weight) == (0.2, 0.5, 0.1, 0.05)
    assert (config.high_threshold, config.low_threshold, config.background_threshold) == (0.7, 0.25, 0.5)
    assert (config.temperature, config.momentum) == (0.5, 0.9)
    assert (config.rescale_min, config.rescale_max, config.scales) == (0.5, 2.0, (1.0, 0.5, 1.5))


def test_cam_recipes__coco() -> None:
    config = TrainCam(**CAM_RECIPES["coco"])
    assert (config.iterations, config.batch_size, config.warmup_iterations) == (80_000, 8, 1500)
    assert (config.high_threshold, config.background_threshold, config.temperature) == (0.65, 0.45, 1.0)


@pytest.mark.parametrize("name", CAM_RECIPES)
def test_cam_recipes__change_fields_that_exist(name: str) -> None:
    assert CAM_RECIPES[name].keys() <= {field.name for field in fields(TrainCam)}
    config = TrainCam(**CAM_RECIPES[name])
    assert config.image_size == 448


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (TrainCam, {"iterations": 0}, "--iterations is 0: it must be at least 1"),
        (TrainCam, {"seed": -1}, "--seed is -1: it must be at least 0"),
        (TrainCam, {"warmup_fraction": 1.5}, "--warmup-fraction is 1.5: it must be at most 1"),
        (TrainCam, {"learning_rate": float("nan")}, "--learning-rate is nan: it must be at least 0"),
        (TrainCam, {"learning_rate": float("inf")}, "--learning-rate is inf: it must be a finite number"),
        (Predict, {"scales": (1.0, float("nan"))}, "--scales is nan: it must be a finite number"),
        (TrainCam, {"workers": -1}, "--workers is -1: it must be at least 0"),
        (TrainCam, {"low_threshold": 0.7}, "--low-threshold 0.7 must be below --high-threshold 0.7"),
        (TrainCam, {"high_threshold": 1.2}, "--high-threshold 1.2"),
        (TrainCam, {"low_threshold": -0.1}, "--low-threshold -0.1"),
        (TrainCam, {"rescale_min": 3.0}, "--rescale-min 3.0 is above --rescale-max 2.0"),
        (TrainCam, {"scales": ()}, "--scales must be one or more positive factors"),
        (TrainCam, {"scales": (1.0, 0.0)}, "--scales must be one or more positive factors"),
        (TrainCam, {"devices": 3}, "--batch-size 4 (over all devices) cannot be divided evenly by --devices 3"),
        (TrainCam, {"devices": 8}, "--batch-size 4 (over all devices) cannot be divided evenly by --devices 8"),
        (TrainCam, {"backbone_option": ("depth",)}, "--backbone-option 'depth' must have the form NAME=VALUE"),
        (MakeLabels, {"refine": "crf", "ignore_uncertain": True}, "--ignore-uncertain needs plain CAMs"),
        (MakeLabels, {"refine": "par", "ignore_uncertain": True}, "--ignore-uncertain needs plain CAMs"),
        (
            MakeLabels,
            {"source": "decoder", "ignore_uncertain": True},
            "does not work with --refine, --relabel or --source decoder",
        ),
        (
            MakeLabels,
            {"source": "decoder", "background_threshold": "auto"},
            "--source decoder predicts the background itself",
        ),
        (
            MakeLabels,
            {"background_threshold": "auto", "calibration_images": 8},
            "--background-threshold and --calibration-images exclude each other",
        ),
        (
            MakeLabels,
            {"relabel": "mil", "calibration_images": 8},
            "--calibration-images chooses a threshold of CAMs, and --relabel mil makes its masks without CAMs",
        ),
        (MakeLabels, {"low_threshold": 0.5, "high_threshold": 0.4}, "--low-threshold 0.5 must be below"),
        (MakeLabels, {"background_threshold": 1.1}, "--background-threshold is 1.1: it must be at most 1"),
        (MakeLabels, {"crf_fast": True}, "--crf-fast needs --refine crf"),
        (MakeLabels, {"scales": (-1.0,)}, "--scales must be one or more positive factors"),
        (TrainSeg, {"image_size": 100}, "--image-size 100 is not a multiple of 32: use 96"),
        (TrainSeg, {"image_size": 40}, "--image-size 40 is not a multiple of 32: use 32"),
        (TrainSeg, {"rescale_max": 0.1}, "--rescale-min 0.5 is above --rescale-max 0.1"),
        (TrainCam, {"devices": 2, "nodes": 4}, "by --devices 2 --nodes 4: use --batch-size 8 (more images per step"),
        (TrainSeg, {"devices": 5}, "cannot be divided evenly by --devices 5"),
    ],
)
def test_configs__refuse_contradictions(kind: Any, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="--") as caught:
        kind(**values)
    assert message in str(caught.value)


@pytest.mark.parametrize("kind", [TrainCam, MakeLabels, TrainSeg, Predict, Evaluate])
def test_configs__help_is_a_sentence(kind: Any) -> None:
    for field in fields(kind):
        text = option_text(field).help
        assert text.endswith("."), field.name
        assert text[0].isupper(), field.name


@pytest.mark.parametrize(("iterations", "warmup", "expected"), [(500, 0.075, 38), (10, 0.0, 0), (10, 1.0, 10)])
def test_warmup_iterations__is_a_share(iterations: int, warmup: float, expected: int) -> None:
    assert TrainCam(iterations=iterations, warmup_fraction=warmup).warmup_iterations == expected


@pytest.mark.parametrize(
    ("kind", "old", "new"),
    [
        (
            TrainCam,
            {"encoder_start": 0.4, "head_factor": 3.0},
            {"freeze_encoder_until": 0.4, "head_lr_multiplier": 3.0},
        ),
        (TrainCam, {"warmup": 0.1, "background": 0.4}, {"warmup_fraction": 0.1, "background_threshold": 0.4}),
        (TrainCam, {"background_high": 0.6, "background_low": 0.2}, {"high_threshold": 0.6, "low_threshold": 0.2}),
        (TrainCam, {"checkpoint_activations": True}, {"grad_checkpointing": True}),
        (TrainCam, {"scales": [1.0, 0.5]}, {"scales": (1.0, 0.5)}),
        (MakeLabels, {"calibrate": 4, "crf": "off"}, {"calibration_images": 4}),
        (MakeLabels, {"two_thresholds": True}, {"ignore_uncertain": True}),
        (MakeLabels, {"crf": "full", "refine": "none"}, {"refine": "crf"}),
        (MakeLabels, {"crf": "fast", "refine": "par"}, {"refine": "par+crf", "crf_fast": True}),
        (MakeLabels, {"crf": "off", "refine": "par+crf"}, {"refine": "par+crf"}),
        (TrainSeg, {"weigh_by_confidence": True}, {"confidence_weighting": True}),
        (Predict, {"write": ["masks"], "mirror": False}, {"outputs": ("masks",), "flip_tta": False}),
        (View, {"background": 0.3}, {"background_threshold": 0.3}),
    ],
)
def test_from_values__settings_of_version_0_1(kind: Any, old: dict[str, Any], new: dict[str, Any]) -> None:
    assert from_values(kind, old) == kind(**new)


def test_from_values__a_setting_that_no_version_has() -> None:
    with pytest.raises(SettingsError, match="this version of toco has no setting 'colour'"):
        from_values(TrainCam, {"colour": 1})
