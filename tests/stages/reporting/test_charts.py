from typing import Any
from xml.etree import ElementTree

import pytest
import torch

from stages.reporting import charts
from stages.reporting.oversmoothing import Smoothness
from stages.sweep import Sweep

LINES: list[dict[str, Any]] = [
    {"iteration": 10, "learning_rate": 1e-4, "loss": 2.0, "ptc": 0.5},
    {"iteration": 20, "learning_rate": 1e-4, "loss": None, "ptc": 0.25},
    {"iteration": 20, "cam_miou": 0.5},
    {"iteration": 30, "learning_rate": 1e-4, "loss": 1.0, "ptc": 0.125},
    {"iteration": 30, "cam_miou": 0.75},
]
CURVE = Sweep(source="cam", split="train", images=3, backgrounds=(0.2, 0.5), mious=(0.4, 0.6), used=0.5)


def texts(svg: str) -> list[str]:
    return [
        "".join(one.itertext()).strip() for one in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
    ]


def test_losses__one_chart_each_and_no_learning_rate() -> None:
    words = texts(charts.losses(LINES))
    assert {"loss", "ptc"} <= set(words)
    assert "learning rate" not in words
    assert "cam miou" not in words


def test_measurements__one_line_each() -> None:
    assert "cam" in texts(charts.measurements(LINES))


def test_threshold_curve__marks_the_threshold_of_the_labels() -> None:
    assert "used: 0.5" in texts(charts.threshold_curve(CURVE))


@pytest.mark.parametrize("ignored", [0, 3])
def test_confusion_matrix__names_classes_in_any_script_and_ignored_pixels_if_any(ignored: int) -> None:
    counts = torch.tensor([[5, 1, ignored], [0, 4, 0]])
    words = texts(charts.confusion_matrix(counts, ("background", "傷")))
    assert {"background", "傷"} <= set(words)
    assert ("(ignored)" in words) == bool(ignored)


def test_confusion_matrix__dollars_in_a_name_do_not_start_a_formula() -> None:
    assert r"$\frac$" in texts(charts.confusion_matrix(torch.eye(2, 3, dtype=torch.int64), ("background", r"$\frac$")))


def test_confusion_matrix__many_classes_are_not_named() -> None:
    names = [f"class {number}" for number in range(80)]
    assert "class 7" not in texts(charts.confusion_matrix(torch.ones(80, 81, dtype=torch.int64), names))


def test_smoothness__the_last_point_is_the_norm() -> None:
    words = texts(charts.smoothness([Smoothness("after training", (0.2, 0.5, 0.6))]))
    assert {"1", "2", "norm", "after training"} <= set(words)
    assert "3" not in words


def test_charts__the_same_chart_gives_the_same_text() -> None:
    assert charts.threshold_curve(CURVE) == charts.threshold_curve(CURVE)
