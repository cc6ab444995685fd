from dataclasses import fields
from typing import Any

import pytest

from stages.config import CAM_RECIPES, Evaluate, MakeLabels, Predict, TrainCam, TrainSeg
from stages.option import option_text


def test_train_cam__defaults_are_the_published_ones_for_voc() -> None:
    config = TrainCam()
    assert (config.iterations, config.batch_size, config.image_size) == (20_000, 4, 448)
    assert (config.learning_rate, config.head_factor, config.weight_decay) == (6e-5, 10, 0.01)
    assert config.warmup_iterations == 1500
    assert config.seg_start * config.iterations == 2000
    assert (config.ptc_weight, config.ctc_weight, config.seg_weight, config.reg_weight) == (0.2, 0.5, 0.1, 0.05)
    assert (config.background_high, config.background_low, config.background) == (0.7, 0.25, 0.5)
    assert (config.temperature, config.momentum, config.auxiliary_block) == (0.5, 0.9, -3)
    assert (config.rescale_min, config.rescale_max, config.scales) == (0.5, 2.0, (1.0, 0.5, 1.5))


def test_cam_recipes__coco() -> None:
    config = TrainCam(**CAM_RECIPES["coco"])
    assert (config.iterations, config.batch_size, config.warmup_iterations) == (80_000, 8, 1500)
    assert (config.background_high, config.background, config.temperature) == (0.65, 0.45, 1.0)


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
        (TrainCam, {"warmup": 1.5}, "--warmup is 1.5: it must be at most 1"),
        (TrainCam, {"learning_rate": float("nan")}, "--learning-rate is nan: it must be at least 0"),
        (TrainCam, {"workers": -1}, "--workers is -1: it must be at least 0"),
        (TrainCam, {"background_low": 0.7}, "--background-low 0.7 must be below --background-high 0.7"),
        (TrainCam, {"background_high": 1.2}, "--background-high 1.2"),
        (TrainCam, {"background_low": -0.1}, "--background-low -0.1"),
        (TrainCam, {"rescale_min": 3.0}, "--rescale-min 3.0 is above --rescale-max 2.0"),
        (TrainCam, {"scales": ()}, "--scales must be one or more positive factors"),
        (TrainCam, {"scales": (1.0, 0.0)}, "--scales must be one or more positive factors"),
        (TrainCam, {"devices": 3}, "--batch-size 4 (over all devices) cannot be shared evenly by --devices 3"),
        (TrainCam, {"devices": 8}, "--batch-size 4 (over all devices) cannot be shared evenly by --devices 8"),
        (TrainCam, {"backbone_option": ("depth",)}, "--backbone-option 'depth' is not of the form NAME=VALUE"),
        (MakeLabels, {"crf": "full", "two_thresholds": True}, "--two-thresholds is of class activation maps alone"),
        (MakeLabels, {"refine": "par", "two_thresholds": True}, "--two-thresholds is of class activation maps alone"),
        (MakeLabels, {"source": "decoder", "two_thresholds": True}, "not with --crf, --refine or a decoder"),
        (MakeLabels, {"source": "decoder", "background": "auto"}, "--source decoder knows a background of its own"),
        (MakeLabels, {"background": "auto", "calibrate": 8}, "--background and --calibrate are two ways"),
        (MakeLabels, {"background_low": 0.5, "background_high": 0.4}, "--background-low 0.5 must be below"),
        (MakeLabels, {"background": 1.1}, "--background is 1.1: it must be at most 1"),
        (MakeLabels, {"scales": (-1.0,)}, "--scales must be one or more positive factors"),
        (TrainSeg, {"image_size": 100}, "--image-size 100 is no multiple of 32; take 96"),
        (TrainSeg, {"image_size": 40}, "--image-size 40 is no multiple of 32; take 32"),
        (TrainSeg, {"rescale_max": 0.1}, "--rescale-min 0.5 is above --rescale-max 0.1"),
        (TrainCam, {"devices": 2, "nodes": 4}, "by --devices 2 --nodes 4: take --batch-size 8 (more images a step"),
        (TrainSeg, {"devices": 5}, "cannot be shared evenly by --devices 5"),
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
    assert TrainCam(iterations=iterations, warmup=warmup).warmup_iterations == expected
