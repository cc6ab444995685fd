from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data.dataset import Sample
from data.images import MaskFile
from data.pictures import CELL
from data.readers import open_dataset
from stages.runtime.monitor import SilentMonitor
from stages.training.loggers import Loggers
from stages.training.panel import PANEL_IMAGES, PanelWriter, choose_panel, load_panel


def sample(name: str, *classes: int, mask: bool = False) -> Sample:
    return Sample(id=name, image=Path(name), classes=classes, mask=MaskFile(Path(name)) if mask else None)


def test_choose_panel__spreads_over_classes_even_if_one_is_rare() -> None:
    samples = [sample(f"common{number}", 1) for number in range(50)] + [sample("rare", 2), sample("third", 3)]
    chosen = choose_panel(samples, seed=0)
    assert len(chosen) == PANEL_IMAGES
    assert Counter(one.classes for one in chosen) == {(1,): 6, (2,): 1, (3,): 1}


def test_choose_panel__more_classes_than_images() -> None:
    chosen = choose_panel([sample(f"{number}", 1 + number % 20) for number in range(100)], seed=1)
    assert len({one.classes for one in chosen}) == PANEL_IMAGES


def test_choose_panel__ground_truth_before_others_and_no_class_last() -> None:
    samples = [sample(f"{number}", 1) for number in range(20)] + [sample(f"m{number}", 1, mask=True) for number in "ab"]
    assert {one.id for one in choose_panel(samples, 0)} > {"ma", "mb"}
    with_empty = [*(sample(f"{number}") for number in range(9)), *(sample(f"c{number}", 1) for number in range(3))]
    assert [len(one.classes) for one in choose_panel(with_empty, 0)] == [1, 1, 1, 0, 0, 0, 0, 0]
    assert choose_panel([], 0) == []


def test_choose_panel__is_fixed_by_the_seed() -> None:
    samples = [sample(f"{number}", 1 + number % 3) for number in range(60)]
    assert choose_panel(samples, 3) == choose_panel(samples, 3)
    assert choose_panel(samples, 3) != choose_panel(samples, 4)


def test_load_panel__fits_a_cell_and_leaves_bad_images_out(pictures: Path) -> None:
    samples = open_dataset(pictures).split("train")
    bad = sample("nothing.png", 1)
    loaded = load_panel([samples[0], bad, samples[1]], 32, 2)
    assert [one.sample.id for one in loaded] == [samples[0].id, samples[1].id]
    for one in loaded:
        assert max(one.small.size) == CELL
        assert one.truth is not None
        assert one.truth.shape == (one.small.height, one.small.width)
        assert set(np.unique(one.truth).tolist()) == {0, *one.sample.classes}


def writer(folder: Path, draw: Any = None, **options: Any) -> PanelWriter:
    picture = Image.new("RGB", (3, 2))
    defaults = {"every": 10, "loggers": Loggers(), "monitor": SilentMonitor()}
    return PanelWriter(draw=draw or (lambda: picture), folder=folder, **{**defaults, **options})


def test_panel_writer__draws_the_first_the_last_and_what_time_allows(tmp_path: Path) -> None:
    now = [0.0]

    def draw() -> Image.Image:
        now[0] += 1.0  # a second for a panel
        return Image.new("RGB", (3, 2))

    panels = writer(tmp_path, draw, clock=lambda: now[0])
    drawn = []
    for iteration in range(1, 206):  # of half a second each
        now[0] += 0.5
        if panels.is_due(iteration, iteration == 205):
            panels.write(iteration)
            drawn.append(iteration)
    assert drawn == [10, 100, 200, 205]  # a panel needs 50 seconds of training
    assert sorted(path.name for path in (tmp_path / "panels").iterdir()) == [f"{number:06d}.png" for number in drawn]


def test_panel_writer__0_draws_none(tmp_path: Path) -> None:
    assert not writer(tmp_path, every=0).is_due(10, last=True)


def test_panel_writer__a_failure_does_not_stop_the_training(tmp_path: Path, listener: Any) -> None:
    def fail() -> Image.Image:
        raise RuntimeError("CUDA out of memory")

    monitor = listener()
    panels = writer(tmp_path, fail, monitor=monitor)
    panels.write(10)
    assert monitor.warnings == ["no more panels are drawn: CUDA out of memory"]
    assert not panels.is_due(20, last=True)


@pytest.mark.parametrize("stage", ["cam", "seg"])
def test_stages__draw_the_last_panel(stage: str, whole_run: Path) -> None:
    panels = sorted((whole_run / stage / "panels").iterdir())
    last = {"cam": "000004.png", "seg": "000002.png"}[stage]
    assert panels[-1].name == last
    with Image.open(panels[-1]) as picture:
        columns = {"cam": 6, "seg": 6}[stage]
        assert picture.width > columns * CELL
        assert len(picture.getcolors(picture.width * picture.height) or ()) > 1000
