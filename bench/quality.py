"""How good are pseudo masks and students, step by step, on a data set with ground truth?

    python -m bench.quality DATA --out DIR --backbone NAME --weights FILE [--encoder NAME --encoder-weights FILE]
        [--seeds 0 1 2] [--cams toco plain] [--labels ...] [--students ...] [--table FILE]

Trains the CAM networks (short runs, as bench/msrc.md has them), makes masks in several ways, and trains students on
each kind of masks and on the ground truth (the ceiling). Nothing is chosen by ground truth. Finished parts are kept in
DIR, so that the command can be stopped and repeated, also with more seeds or students. Writes DIR/quality.json, and the
table with --table.
"""

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from data.atomic_write import atomic_write
from data.dataset import Dataset
from data.images import image_size
from data.readers import open_dataset, read_mask
from stages.config import Evaluate, MakeLabels, TrainCam, TrainSeg
from stages.run_folder.artifacts import begin_stage, finished
from toco_cli.progress import RichMonitor

CAM = TrainCam(
    image_size=196,
    iterations=500,
    learning_rate=2e-5,
    head_lr_multiplier=150.0,
    warmup_fraction=0.05,
    freeze_encoder_until=0.4,
    contrast_start=0.4,
    seg_start=0.4,
    rescale_min=0.8,
    rescale_max=1.4,
    evaluate_every=0,
)
CAMS: Mapping[str, Mapping[str, Any]] = {"toco": {}, "plain": {"ptc_weight": 0.0, "ctc_weight": 0.0}}
LABELS: Mapping[str, MakeLabels] = {
    "cam": MakeLabels(relabel="none"),
    "crf": MakeLabels(relabel="none", refine="crf"),
    "auto": MakeLabels(),
    "relabelled": MakeLabels(relabel="linear"),
    "relabelled-mlp": MakeLabels(relabel="mlp", relabel_rounds=3),
    "relabelled-crf": MakeLabels(relabel="linear", refine="crf"),
}
TRUTH = "ground-truth"
HEAD = {"iterations": 1500, "batch_size": 16, "learning_rate": 1e-4, "evaluate_every": 0}
STUDENTS: Mapping[str, TrainSeg] = {
    **{arch: TrainSeg(arch=arch, **HEAD) for arch in ("linear", "mlp", "conv")},  # type: ignore[arg-type]
    "deeplab": TrainSeg(
        image_size=192,
        batch_size=8,
        iterations=240,
        learning_rate=5e-4,
        head_lr_multiplier=4.0,
        rescale_min=0.8,
        rescale_max=1.4,
        evaluate_every=0,
    ),
}
Figures = dict[str, dict[str, float]]  # by row of the table and seed


def measure(options: argparse.Namespace) -> Figures:
    """Run what is missing, and return all figures of the folder."""
    path = options.out / "quality.json"
    networks = [str(options.data), options.backbone, options.weights, options.encoder, options.encoder_weights]
    stored: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {"networks": networks, "figures": {}}
    if stored["networks"] != networks:
        raise SystemExit(f"{path} has figures of other data or networks, {stored['networks']}: give another --out")
    figures: Figures = stored["figures"]
    dataset = open_dataset(options.data)
    for cams in options.cams:
        for seed in options.seeds:
            first = options.out / f"{cams}-{seed}" / "cam-network"
            if not finished(first, "cam"):
                train(dataset, first, options, cams, seed)
            for labels in (*options.labels, TRUTH):
                run = options.out / f"{cams}-{seed}" / labels
                label(dataset, run, first, labels)
                for student in (None, *options.students):
                    if labels == TRUTH and (student is None or cams != options.cams[0]):
                        continue  # there is nothing to measure, or it is the same for all CAMs
                    row = f"{cams}, {labels}" + (f", {student}" if student else "")
                    if str(seed) not in figures.get(row, {}):
                        figures.setdefault(row, {})[str(seed)] = score(run, student, options, seed)
                        with atomic_write(path) as temporary:
                            temporary.write_text(json.dumps(stored, indent=1))
    return figures


def train(dataset: Dataset, run: Path, options: argparse.Namespace, cams: str, seed: int) -> None:
    """Train a CAM network."""
    from stages.train_cam import train_cam

    settings = replace(CAM, backbone=options.backbone, weights=options.weights, seed=seed, **CAMS[cams])
    resume = (run / "cam").exists()
    train_cam(dataset, run, settings, RichMonitor(), resume=resume)


def label(dataset: Dataset, run: Path, first: Path, labels: str) -> None:
    """Make the masks of a run, which shares the CAM network and the features with the others of its seed."""
    if finished(run, "labels"):
        return
    (first / "features").mkdir(exist_ok=True)
    run.mkdir(parents=True, exist_ok=True)
    for part in ("cam", "features"):
        if not (run / part).exists():
            (run / part).symlink_to((first / part).resolve())
    if labels == TRUTH:
        write_truth(dataset, run)
        return
    from stages.make_labels import make_labels

    make_labels(run, LABELS[labels], RichMonitor(), data=dataset, resume=(run / "labels").exists())


def write_truth(dataset: Dataset, run: Path) -> None:
    """Write the ground truth of the training images as RUN/labels."""
    import numpy as np

    from stages.labels.store import ImageLabels, join_shards, label_attributes, write_shard

    folder = begin_stage(
        run, "labels", settings=MakeLabels(), dataset=dataset, extra={"background_threshold": 0.5}
    ).path
    found = [
        ImageLabels(
            id=one.id,
            classes=(),
            cam=np.zeros((0, 1, 1), np.float16),
            mask=read_mask(one, image_size(one.image), len(dataset.class_names)),
        )
        for one in dataset.split()
        if one.mask is not None
    ]
    shard = folder / "shards" / "0.h5"
    write_shard(shard, found)
    join_shards([shard], folder, label_attributes(dataset.class_names, {}))


def score(run: Path, student: str | None, options: argparse.Namespace, seed: int) -> float:
    """Train a student and return its mIoU on the validation split; without one, that of the masks. In %."""
    from stages.evaluate import label_columns, network_columns
    from stages.train_seg import train_seg

    monitor = RichMonitor()
    dataset = open_dataset(options.data)
    if student is None:
        return 100 * label_columns(run, dataset, monitor)[1].scores.miou
    settings = replace(STUDENTS[student], seed=seed)
    if not settings.uses_features:
        settings = replace(settings, encoder=options.encoder, weights=options.encoder_weights)
    train_seg(run, settings, monitor, data=dataset, overwrite=True)
    assert dataset.val_split is not None
    columns = network_columns(run, dataset, Evaluate(), monitor, split=dataset.val_split, segmenters={})
    return 100 * columns[-1].scores.miou


def table(figures: Figures) -> str:
    """Markdown: mean and spread over the seeds, and the share of the same student's ceiling."""
    lines = ["| CAMs | masks | product | mIoU | seeds | of the ceiling |", "| --- | --- | --- | --- | --- | --- |"]
    first = next(iter(figures)).split(", ")[0]
    for row, by_seed in figures.items():
        cams, labels, student = [*row.split(", "), ""][:3]
        values = list(by_seed.values())
        ceiling = figures.get(f"{first}, {TRUTH}, {student}", {})
        share = (
            f"{statistics.mean(values) / statistics.mean(ceiling.values()):.0%}" if ceiling and labels != TRUTH else ""
        )
        lines.append(
            f"| {cams} | {labels} | {student or 'masks (train)'} | {spread(values)} | {len(values)} | {share} |"
        )
    return "\n".join(lines) + "\n"


def spread(values: Sequence[float]) -> str:
    """Mean, and smallest to largest."""
    mean = f"{statistics.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.1f} to {max(values):.1f})"


def main() -> None:
    """Parse the arguments, run, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--backbone", default=CAM.backbone)
    parser.add_argument("--weights", default=CAM.weights)
    parser.add_argument("--encoder", default="resnet50")
    parser.add_argument("--encoder-weights", default="pretrained")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cams", nargs="+", choices=CAMS, default=["toco"])
    parser.add_argument("--labels", nargs="+", choices=LABELS, default=[*LABELS])
    parser.add_argument("--students", nargs="*", choices=STUDENTS, default=["linear", "mlp", "conv"])
    parser.add_argument("--table", type=Path)
    options = parser.parse_args()
    text = table(measure(options))
    print(text)
    if options.table:
        options.table.write_text(text)


if __name__ == "__main__":
    main()
