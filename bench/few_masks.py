"""What are a few masks worth, beside image labels and without them?

    python -m bench.few_masks RUN --data DATA --out DIR [--relabel linear|mlp] [--counts 0 5 10 20 50] [--steps 400]

Takes a run with CAMs (RUN/cam, RUN/labels/cams.h5) and gives the ground truth of some training images as corrected
masks: those that `toco pick` chooses, or random ones. With image labels, heads learn the CAMs' labels and the given
masks, label all images again, and a student (mlp) learns all of these masks. Without, the student learns the given
masks alone. Pseudo masks are measured on the training images that no selection has, students on the validation images.
Networks are run once, for the features; everything else takes a minute a row on one core. Finished rows are kept.
"""

import argparse
import json
import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from data.dataset import Dataset, Mask, Sample
from data.images import image_size
from data.readers import open_dataset, read_mask
from stages.config import MakeLabels, TrainSeg
from stages.corrections.correction_file import Correction, CorrectionFile, Provenance
from stages.features.cache import FeatureCache, compute_features
from stages.features.spec import feature_spec
from stages.labels.label_settings import used_settings
from stages.labels.mask_shares import mask_shares
from stages.labels.store import ImageLabels, LabelFile, join_shards, label_attributes, write_shard
from stages.labels.stored_cams import stored_label
from stages.networks.student import load_student
from stages.pick import candidates
from stages.picking.choice import choose_images
from stages.relabel.choose_heads import HIDDEN, LOSS
from stages.relabel.heads import TwoHeads, probabilities_map
from stages.relabel.patches import collect_patches, patch_shares
from stages.relabel.rounds import relabel_rounds
from stages.run_folder.artifacts import begin_stage, open_stage
from stages.runtime.fabric import start
from stages.runtime.monitor import SilentMonitor
from stages.toco.metrics import Confusion
from stages.train_seg import train_seg

FINER = 4  # as in relabelling
BY_HAND = Provenance(source="ground truth", tool="png", annotator="", annotated="", imported="")
Grid = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What all rows share."""

    run: Path
    dataset: Dataset
    features: FeatureCache
    labels: MakeLabels
    student: TrainSeg
    out: Path

    @property
    def classes(self) -> int:
        """Number of classes without background."""
        return len(self.dataset.class_names)

    @property
    def samples(self) -> list[Sample]:
        """The training images with ground truth and features."""
        return [one for one in self.dataset.split() if one.mask is not None and one.id in self.features]

    def truth(self, sample: Sample) -> Mask:
        """The ground truth of an image."""
        return read_mask(sample, image_size(sample.image), self.classes)

    def relabelled(self, given: Mapping[str, Mask]) -> TwoHeads:
        """Heads that learned the CAMs' labels and the given masks."""
        cams = LabelFile(self.run / "labels" / "cams.h5", "cams")
        threshold = float(open_stage(self.run, "labels").config["background_threshold"])

        def seeds(image_id: str, grid: Grid) -> Tensor:
            size = (FINER * grid[0], FINER * grid[1])
            return patch_shares(stored_label(cams, image_id, threshold, size), self.classes, grid)

        def drawn(image_id: str, grid: Grid) -> Tensor | None:
            if image_id not in given:
                return None
            shares = torch.zeros(self.classes + 1, *grid)
            numbers, own = mask_shares(given[image_id], grid)
            shares[numbers] = own
            return shares

        images = [(one.id, one.classes) for one in self.samples]
        patches = collect_patches(self.features.read, seeds, images, self.classes, seed=0, given=drawn)
        kind = self.labels.relabel
        return relabel_rounds(
            patches,
            rounds=self.labels.relabel_rounds,
            steps=self.labels.relabel_steps,
            after_round=lambda: None,
            foreground_loss=LOSS[kind],
            hidden=HIDDEN[kind],
        )

    @torch.inference_mode()
    def probabilities(self, heads: TwoHeads, sample: Sample) -> Tensor:
        """Probabilities (c + 1, h, w) of an image's patches, among its classes."""
        allowed = torch.zeros(self.classes, dtype=torch.bool)
        allowed[[number - 1 for number in sample.classes]] = True
        return probabilities_map(heads, torch.from_numpy(self.features.read(sample.id)).float(), allowed)

    def pseudo_mask(self, heads: TwoHeads, sample: Sample) -> Mask:
        """The mask that the heads give an image."""
        maps = F.interpolate(self.probabilities(heads, sample)[None], size=image_size(sample.image), mode="bilinear")[0]
        mask: NDArray[np.uint8] = maps.argmax(dim=0).byte().numpy()
        return mask

    def write_run(self, folder: Path, given: Mapping[str, Mask], heads: TwoHeads | None) -> None:
        """Write a run with the masks of the heads, or with the given ones alone; the given ones are corrections."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for part in ("cam", "features"):
            (folder / part).symlink_to((self.run / part).resolve())
        extra = {"background_threshold": 0.5}
        path = begin_stage(folder, "labels", settings=self.labels, dataset=self.dataset, extra=extra).path
        made = []
        for sample in self.samples:
            if heads is not None:
                scores = self.probabilities(heads, sample)[list(sample.classes)].half().numpy()
                mask = self.pseudo_mask(heads, sample)
                made.append(ImageLabels(id=sample.id, classes=sample.classes, cam=scores, mask=mask))
            elif sample.id in given:
                empty = np.zeros((0, 1, 1), np.float16)
                made.append(ImageLabels(id=sample.id, classes=(), cam=empty, mask=given[sample.id]))
        shard = path / "shards" / "0.h5"
        write_shard(shard, made)
        attributes = label_attributes(self.dataset.class_names, {})
        join_shards([shard], path, attributes, relabelled=[shard] if heads is not None else [])
        if given:
            new = [Correction(id=key, mask=mask, before=None, provenance=BY_HAND) for key, mask in given.items()]
            CorrectionFile(folder, self.dataset.class_names).add(new)

    def student_miou(self, folder: Path) -> float:
        """Train the student and measure it on the validation images, in %."""
        train_seg(folder, self.student, SilentMonitor(), data=self.dataset, overwrite=True)
        head = load_student(open_stage(folder, "seg")).network.head.eval()
        assert self.dataset.val_split is not None
        return self.miou(
            [one for one in self.dataset.split(self.dataset.val_split) if one.mask is not None],
            partial(self._by_head, head),
        )

    @torch.inference_mode()
    def _by_head(self, head: Callable[[Tensor], Tensor], sample: Sample) -> Mask:
        logits = head(torch.from_numpy(self.features.read(sample.id))[None].float())
        size = image_size(sample.image)
        mask: NDArray[np.uint8] = F.interpolate(logits, size=size, mode="bilinear")[0].argmax(dim=0).byte().numpy()
        return mask

    def miou(self, samples: Sequence[Sample], predict: Callable[[Sample], Mask]) -> float:
        """MIoU of predictions, in %."""
        confusion = Confusion(self.classes + 1)
        for sample in samples:
            label, truth = (torch.from_numpy(one).long() for one in (predict(sample), self.truth(sample)))
            confusion.add(label, truth)
        return 100 * confusion.scores().miou


def selections(bench: Bench, counts: Sequence[int], seed: int) -> dict[str, dict[int, list[str]]]:
    """The images of each way to select them; smaller selections are part of larger ones."""
    found = candidates(bench.run, open_stage(bench.run, "labels"), bench.samples, SilentMonitor())
    picked = [one.id for one in choose_images(found, max(counts))]
    drawn = random.Random(seed).sample([one.id for one in bench.samples], max(counts))
    return {"pick": {n: picked[:n] for n in counts}, "random": {n: drawn[:n] for n in counts}}


def measure(bench: Bench, counts: Sequence[int], seed: int) -> dict[str, dict[str, float]]:
    """All rows: 'way, count' -> figures in %."""
    path = bench.out / "few_masks.json"
    rows: dict[str, dict[str, float]] = json.loads(path.read_text()) if path.is_file() else {}
    chosen = selections(bench, counts, seed)
    given_somewhere = {one for ways in chosen.values() for ids in ways.values() for one in ids}
    rest = [one for one in bench.samples if one.id not in given_somewhere]
    by_id = {one.id: one for one in bench.samples}
    for count in counts:
        for way in ("pick", "random") if count else ("none",):
            row = f"{way}, {count}"
            if row in rows:
                continue
            given = {one: bench.truth(by_id[one]) for one in (chosen[way][count] if count else ())}
            heads = bench.relabelled(given)
            folder = bench.out / f"{way}-{count}"
            figures = {"masks": bench.miou(rest, partial(bench.pseudo_mask, heads))}
            bench.write_run(folder / "with", given, heads)
            figures["student"] = bench.student_miou(folder / "with")
            if count:
                bench.write_run(folder / "without", given, None)
                figures["student without labels"] = bench.student_miou(folder / "without")
            rows[row] = figures
            path.write_text(json.dumps(rows, indent=1))
            print(row, {key: round(value, 1) for key, value in figures.items()}, flush=True)
    return rows


def table(rows: Mapping[str, Mapping[str, float]]) -> str:
    """Markdown."""
    lines = [
        "| masks | chosen by | pseudo masks | student | student of these masks alone |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row, figures in rows.items():
        way, count = row.split(", ")
        cells = [
            f"{figures[key]:.1f}" if key in figures else "" for key in ("masks", "student", "student without labels")
        ]
        lines.append(f"| {count} | {'' if way == 'none' else way} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Parse the arguments, run, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--relabel", choices=HIDDEN, default="linear")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--counts", type=int, nargs="+", default=[0, 5, 10, 20, 50])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    dataset = open_dataset(options.data)
    stored = used_settings(open_stage(options.run, "labels"))
    spec = feature_spec(stored, open_stage(options.run, "cam"))
    student = TrainSeg(
        arch="mlp",
        iterations=options.steps,
        batch_size=16,
        evaluate_every=0,
        evaluate_images=1,
        device="cpu",
        workers=0,
        seed=options.seed,
    )
    fabric, _, _ = start(student, SilentMonitor())
    everything = [one for samples in dataset.splits.values() for one in samples]
    features = compute_features(options.run, spec, everything, student, fabric, SilentMonitor())
    labels = replace(stored, relabel=options.relabel, relabel_rounds=options.rounds, relabel_steps=300, refine="none")
    bench = Bench(run=options.run, dataset=dataset, features=features, labels=labels, student=student, out=options.out)
    print(table(measure(bench, options.counts, options.seed)))


if __name__ == "__main__":
    main()
