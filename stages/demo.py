"""`toco demo`: the whole pipeline on a drawn data set, from scratch, without a download."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from data.drawing.sample import draw_sample
from data.label_table import LABELS_FILE
from data.readers import open_dataset
from data.written_folders import mark_as_written
from stages.config import Evaluate, MakeLabels, Report, TrainCam, TrainSeg
from stages.evaluate import Evaluation, evaluate, label_columns
from stages.make_labels import make_labels
from stages.preflight.checks import DEMO_MARK, before_demo
from stages.report import report
from stages.run_folder.lock import output_lock
from stages.runtime.monitor import Monitor
from stages.train_cam import train_cam
from stages.train_seg import train_seg

# Chosen by trials on two CPU cores: small pictures, and a transformer that is small enough to train from scratch.
SAMPLE: Mapping[str, Any] = {"images": 400, "validation": 100, "size": 96}

CAM = TrainCam(
    backbone="vit_tiny_patch16_224",
    backbone_option=("patch_size=8", "embed_dim=128", "depth=6", "num_heads=2"),
    weights="none",
    iterations=260,
    checkpoint_every=50,
    batch_size=16,
    image_size=96,
    long_side=96,
    rescale_min=0.8,
    rescale_max=1.4,
    learning_rate=1e-3,
    head_lr_multiplier=3.0,
    # The classifiers learn first: contrast against the CAMs of an untrained network has no useful gradient.
    contrast_start=0.85,
    seg_start=0.85,
    scales=(1.0,),  # a little faster than three scales; the masks were not worse
    evaluate_every=0,
    evaluate_images=10,
)
LABELS = MakeLabels(
    relabel="none",  # the features of a network trained from scratch gain nothing (bench/quality.md)
    refine="crf",
    scales=(1.0, 2.0),
    background_threshold=0.3,
    # Near each other, so that nearly every pixel gets a label: a pixel without one counts as wrong.
    high_threshold=0.31,
    low_threshold=0.29,
    feature_size=192,  # twice the pictures' size: patches of 4 pixels for the student
)
SEG = TrainSeg(arch="conv", iterations=400, checkpoint_every=100, batch_size=16, evaluate_every=0, evaluate_images=10)


def demo(out: Path, monitor: Monitor, *, seed: int = 0, overwrite: bool = False) -> Evaluation:
    """Draw the sample data, run all stages on it, evaluate each product on the ground-truth masks, and write a report.

    Parts that an earlier call finished are skipped.

    Args:
        out: A folder for the demo alone: the data set is written to out/data, the run to out/run.
        monitor: Receives progress.
        seed: Random seed of the pictures and of all training.
        overwrite: Delete the earlier demo in `out` first.

    Returns:
        One table: see `demo_scores`.

    Raises:
        ArtifactError: `out` holds something else, or a demo with another seed or other settings; or a command writes
            there.
    """
    data, run = out / "data", out / "run"
    with output_lock(out, monitor):
        before_demo(out, seed=seed, overwrite=overwrite)
        if overwrite and run.exists():
            shutil.rmtree(run)
        out.mkdir(parents=True, exist_ok=True)
        (out / DEMO_MARK).write_text(str(seed), encoding="utf-8")
        mark_as_written(out)
        if overwrite or not (data / LABELS_FILE).is_file():  # the last file that is written
            shutil.rmtree(data, ignore_errors=True)
            monitor.note(f"drawing {SAMPLE['images']} + {SAMPLE['validation']} pictures into {data}")
            draw_sample(data, **SAMPLE, seed=seed)
        train_cam(data, run, replace(CAM, seed=seed), monitor, resume=True)
        make_labels(run, LABELS, monitor, resume=True)
        train_seg(run, replace(SEG, seed=seed), monitor, resume=True)
        return demo_scores(data, run, monitor)


def demo_scores(data: Path, run: Path, monitor: Monitor) -> Evaluation:
    """Evaluate all products and write the report.

    Returns:
        One table: CAMs (at the published threshold) and pseudo masks (without and with CRF) on the images that they
        were made for, decoder and student on images that were not used for training.
    """
    published = label_columns(run, open_dataset(data), monitor, background=CAM.background_threshold)[0]
    result = evaluate(run, Evaluate(), monitor)
    report(run, Report(), monitor, evaluation=result)
    plain, sharpened, *networks = result.columns
    columns = (
        replace(published, name=f"CAM at {CAM.background_threshold}"),
        replace(plain, name=f"pseudo masks\nat {LABELS.background_threshold}"),
        replace(sharpened, name="pseudo masks\nwith CRF"),
        *networks,
    )
    return Evaluation(class_names=result.class_names, columns=columns)
