"""`toco evaluate --sweep`: mIoU of the stored CAMs at many background thresholds.

In: RUN/labels and the ground-truth masks of its data set. Out: one curve.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.dataset import Dataset
from data.errors import SettingsError
from stages.config import Evaluate
from stages.evaluate import no_class_shown, read_ground_truth, with_ground_truth
from stages.labels.choose_background import GRID
from stages.labels.store import LabelFile
from stages.labels.stored_cams import read_cam
from stages.run_folder.artifacts import open_stage
from stages.run_folder.run_data import check_masks, open_run_data, skipping, warn_of_other_data, with_skip_bad
from stages.runtime.monitor import Monitor
from stages.toco.cam import labels_at, to_class_numbers
from stages.toco.metrics import Confusion


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """mIoU (0..1) at each background threshold, and what it was measured on."""

    source: str  # cam or aux
    split: str
    images: int
    backgrounds: tuple[float, ...]
    mious: tuple[float, ...]
    used: float  # the threshold that the labels were made with

    @property
    def best(self) -> int:
        """Index of the highest mIoU."""
        return max(range(len(self.mious)), key=self.mious.__getitem__)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for --json."""
        return {
            "source": self.source,
            "split": self.split,
            "images": self.images,
            "curve": [
                {"background": background, "miou": round(miou, 6)}
                for background, miou in zip(self.backgrounds, self.mious, strict=True)
            ],
            "best": self.backgrounds[self.best],
            "used": self.used,
        }


def sweep(
    run: Path, config: Evaluate, monitor: Monitor, *, data: Path | Dataset | None = None, checked: bool = False
) -> Sweep:
    """Measure the stored CAMs at each threshold of a grid.

    Args:
        run: A run folder in which `toco make-labels` finished.
        config: Settings. The split is always that of the labels.
        monitor: Receives progress and warnings.
        data: The data set's present folder if it was moved, or the open data set.
        checked: Whether `evaluate` has checked the data set and its masks already.

    Raises:
        SettingsError: The labels were made from the decoder, which has no threshold.
        NoGroundTruthError: There are no ground-truth masks of the labelled images, or none shows any class.
        DataError: A ground-truth mask is bad, or the masks contradict the image labels.
        ArtifactError: The labels are not finished, or a file is damaged.
    """
    labels = open_stage(run, "labels")
    config = with_skip_bad(config, labels)
    source = labels.settings["source"]
    if source == "decoder":
        raise SettingsError(f"{labels.path} was made from the decoder, which has no threshold to sweep over")
    dataset = open_run_data(labels, data, skip_bad=config.skip_bad)
    split = labels.settings["split"] or dataset.train_split
    if not checked:
        warn_of_other_data(labels, dataset, monitor)
        check_masks(dataset, (split,), monitor)
    cams = LabelFile(labels.path / "cams.h5", "cams")
    stored = [sample for sample in dataset.split(split) if sample.id in cams]
    samples = with_ground_truth(stored, split, dataset, config.images)
    confusions = [Confusion(len(dataset.class_names) + 1) for _ in GRID]
    measured = 0
    monitor.start("measuring the CAMs at each threshold", len(samples))
    for sample in samples:
        with skipping(config.skip_bad, monitor):
            cam = read_cam(cams, sample.id)
            classes = cams.classes(sample.id)
            truth = read_ground_truth(sample, cam, len(dataset.class_names))
            for confusion, background in zip(confusions, GRID, strict=True):
                confusion.add(to_class_numbers(labels_at(cam, background), classes), truth)
            measured += 1
        monitor.advance()
    monitor.finish()
    if not confusions[0].counts[1:].any():
        raise no_class_shown(dataset, split, measured)
    return Sweep(
        source=source,
        split=split,
        images=measured,
        backgrounds=GRID,
        mious=tuple(confusion.scores().miou for confusion in confusions),
        used=labels.config["background_threshold"],
    )
