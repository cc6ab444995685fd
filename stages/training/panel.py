"""The panel: a few fixed images with what the network makes of them, drawn while it trains.

RUN/STAGE/panels/000500.png is the panel after 500 iterations.
"""

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from data.atomic_write import atomic_write
from data.band_image import Pixels, as_picture
from data.dataset import Mask, Sample
from data.errors import DataError, reason
from data.images import image_size, read_reduced
from data.pictures import CELL
from data.readers import read_mask
from stages.runtime.monitor import Monitor
from stages.training.loggers import Loggers

PANELS = "panels"  # the folder in that of the stage
PANEL_IMAGES = 8
PANELS_OF_A_TRAINING = 20  # by default
MOST_TIME = 0.02  # fraction of the training time; a panel that would exceed it is left out


class PanelImage(NamedTuple):
    """An image of the panel."""

    sample: Sample
    picture: Pixels  # reduced to about the size that the network takes
    small: Image.Image  # as it is shown
    truth: Mask | None  # of the size of `small`


def choose_panel(samples: Sequence[Sample], seed: int) -> list[Sample]:
    """Choose the images of a panel, the same for the same seed.

    Each image shows a class that the images before it show least often; images without a class come last. Among equals,
    an image with ground truth comes first.
    """
    shuffled = random.Random(seed).sample(samples, len(samples))
    left = sorted(shuffled, key=lambda sample: sample.mask is None)
    chosen: list[Sample] = []
    shown: Counter[int] = Counter()
    while left and len(chosen) < PANEL_IMAGES:
        best = min(left, key=lambda sample: min((shown[number] for number in sample.classes), default=PANEL_IMAGES))
        left.remove(best)
        chosen.append(best)
        shown.update(best.classes)
    return chosen


def load_panel(samples: Sequence[Sample], side: int, num_classes: int) -> list[PanelImage]:
    """Read the images of a panel; bad ones are left out, because the training reports them.

    Args:
        samples: The images.
        side: Longer side of `picture`, in pixels.
        num_classes: Number of foreground classes.
    """
    loaded = []
    for sample in samples:
        with suppress(DataError):
            picture = read_reduced(sample.image, side, sample.pixels)
            factor = CELL / max(picture.size)
            width, height = (max(1, round(length * factor)) for length in picture.size)
            truth = None
            if sample.mask is not None:
                whole = Image.fromarray(read_mask(sample, image_size(sample.image), num_classes))
                truth = np.asarray(whole.resize((width, height), Image.Resampling.NEAREST))
            small = as_picture(picture).resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)
            loaded.append(PanelImage(sample, picture, small, truth))
    return loaded


@dataclass(kw_only=True)
class PanelWriter:
    """Draws the panel when it is due, as long as that takes at most `MOST_TIME` of the training time."""

    draw: Callable[[], Image.Image]
    folder: Path  # of the stage
    every: int  # iterations; 0 for no panels
    loggers: Loggers
    monitor: Monitor
    clock: Callable[[], float] = time.monotonic
    began: float = field(init=False)
    spent: float = 0.0  # seconds

    def __post_init__(self) -> None:
        self.began = self.clock()

    def is_due(self, iteration: int, last: bool) -> bool:
        """Whether to draw after this iteration: the first panel and the last one are always drawn."""
        if not self.every or not (last or iteration % self.every == 0):
            return False
        return last or self.spent <= MOST_TIME * (self.clock() - self.began)

    def write(self, iteration: int) -> None:
        """Draw the panel, write it, and give it to the loggers. If that fails, no further panel is drawn."""
        start = self.clock()
        try:
            picture = self.draw()
            with atomic_write(self.folder / PANELS / f"{iteration:06d}.png") as temporary:
                picture.save(temporary, format="PNG")
        except Exception as error:  # a picture is not worth the training
            self.monitor.warn(f"no more panels are drawn: {reason(error)}")
            self.every = 0
            return
        self.loggers.image("panel", picture, iteration)
        self.spent += self.clock() - start
