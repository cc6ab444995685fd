"""Do SLIC superpixels improve pseudo masks, before or after a CRF, on CAMs and on relabelled probabilities?

    python -m bench.segments DATA --labels FOLDER... [--every N] [--out FILE]

Each FOLDER has cams.h5 and, if it was relabelled, scores.h5 of `toco make-labels`. Masks are made from them in several
ways and measured on the ground truth of every N-th training image. Thresholds are the published ones. Prints a Markdown
table; --out keeps the figures as JSON, also of an interrupted run.
"""

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from data.atomic_write import atomic_write
from data.images import read_image
from data.readers import open_dataset, read_mask
from stages.config import MakeLabels
from stages.labels.label_settings import resolved
from stages.labels.pixel_labels import at_image_size, pixel_labels
from stages.labels.store import LabelFile
from stages.networks.inference import to_tensor
from stages.segments.image_segments import image_segments
from stages.toco.cam import to_class_numbers
from stages.toco.crf import FOR_PSEUDO_LABELS, sharpen
from stages.toco.metrics import Confusion
from stages.toco.refine import against_backgrounds, most_likely, with_background
from stages.toco.segment_vote import Segments, vote

NONE = MakeLabels(relabel="none", crf_backend="torch")
SLIC = replace(NONE, segments="slic")
AFTER = "CRF, then SLIC"
WAYS: Mapping[str, MakeLabels] = {
    "none": NONE,
    "SLIC": SLIC,
    "SLIC, segments alone": replace(SLIC, segment_weight=1.0),
    "CRF": replace(NONE, refine="crf"),
    "SLIC, then CRF": replace(SLIC, refine="crf"),
    AFTER: SLIC,
}
TRAINED = {"background_threshold": 0.5, "high_threshold": 0.7, "low_threshold": 0.25}


class MeasuredMasks:
    """Figures of one way of making masks."""

    def __init__(self, classes: int) -> None:
        """Begin with no image."""
        self.confusion = Confusion(classes + 1)
        self.seconds = 0.0

    def add(self, label: torch.Tensor, truth: torch.Tensor, started: float) -> None:
        """Compare the mask of one image, made since `started`."""
        self.seconds += time.process_time() - started
        self.confusion.add(label, truth)


def labelled(
    maps: torch.Tensor, image: torch.Tensor, way: MakeLabels, segments: Segments, *, given: bool, after: bool
) -> torch.Tensor:
    """Label an image 0..k; with `after`, the segments vote on the results of the CRF, which the program does not do."""
    if not after:
        voters = [segments if way.segments != "none" else None]
        (made,) = pixel_labels([maps], [image], way, probabilities_given=given, segments=voters)
        return torch.from_numpy(made.mask).long()
    scores = at_image_size(maps, (image.shape[1], image.shape[2])).float()
    assert way.high_threshold is not None
    assert way.low_threshold is not None
    unaries = with_background(scores) if given else against_backgrounds(scores, (way.high_threshold, way.low_threshold))
    (sharpened,) = sharpen([image], [unaries], FOR_PSEUDO_LABELS, way.crf_backend)
    return most_likely(torch.stack([vote(one, segments, way.vote_weight) for one in sharpened])).label


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure all folders; returns {folder: {scores: {way: figures}}}."""
    dataset = open_dataset(options.data)
    classes = len(dataset.class_names)
    samples = [one for one in dataset.split() if one.mask is not None][:: options.every]
    ways = {name: resolved(way, TRAINED) for name, way in WAYS.items() if name in (*options.ways, "SLIC")}
    figures: dict[str, Any] = {}
    for folder in options.labels:
        sources = {"CAM": LabelFile(folder / "cams.h5", "cams")}
        if (folder / "scores.h5").is_file():
            sources["relabelled"] = LabelFile(folder / "scores.h5", "scores")
        found = {(source, name): MeasuredMasks(classes) for source in sources for name in ways}
        for number, sample in enumerate(samples, 1):
            image = read_image(sample.image, rule=sample.pixels)
            truth = torch.from_numpy(read_mask(sample, (image.height, image.width), classes)).long()
            pixels = to_tensor(image)
            segments = image_segments(pixels, ways["SLIC"])
            assert segments is not None
            for (source, name), measured in found.items():
                stored = sources[source]
                maps = torch.from_numpy(stored.read(sample.id)).float()
                started = time.process_time()
                if not len(maps):
                    label = torch.zeros_like(truth)
                else:
                    given, after = source == "relabelled", name == AFTER
                    label = labelled(maps, pixels, ways[name], segments, given=given, after=after)
                measured.add(to_class_numbers(label, stored.classes(sample.id)), truth, started)
            figures[str(folder)] = {
                "images": number,
                **{
                    f"{source}, {name}": _row(one, number, dataset.class_names) for (source, name), one in found.items()
                },
            }
            if options.out:
                with atomic_write(options.out) as temporary:
                    temporary.write_text(json.dumps(figures, indent=1))
    return figures


def _row(measured: MeasuredMasks, images: int, names: tuple[str, ...]) -> dict[str, Any]:
    scores = measured.confusion.scores()
    ious = {name: round(100 * float(iou), 1) for name, iou in zip(("background", *names), scores.iou, strict=True)}
    return {"miou": round(100 * scores.miou, 2), "seconds": round(measured.seconds / images, 3), "iou": ious}


def table(figures: Mapping[str, Any]) -> str:
    """Markdown: one row for each way, mIoU in % for each folder, seconds an image without SLIC itself."""
    lines = ["| scores, refinement | " + " | ".join(figures) + " | s/image |", "| --- " * (len(figures) + 2) + "|"]
    rows = dict.fromkeys(name for one in figures.values() for name in one if name != "images")
    for row in rows:
        cells = [f"{one[row]['miou']:.1f}" if row in one else "" for one in figures.values()]
        seconds = next(one[row]["seconds"] for one in figures.values() if row in one)
        lines.append(f"| {row} | {' | '.join(cells)} | {seconds:.2f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Parse the arguments, measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--labels", type=Path, nargs="+", required=True)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=[*WAYS])
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    print(table(measure(options)))


if __name__ == "__main__":
    main()
