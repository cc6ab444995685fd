"""`toco report`: one HTML page with the scores, the charts and a gallery of a run.

In: a run folder, with any of its stages finished, and its data set. Out: RUN/report.html.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from data.atomic_write import atomic_write
from data.command_line import as_command
from data.dataset import Dataset
from stages.config import Report
from stages.evaluate import Evaluation, NoGroundTruthError, evaluate
from stages.labels.label_settings import CHOSEN
from stages.reporting import charts, gallery
from stages.reporting.charts import Chart, ConfusionMatrix
from stages.reporting.corrected import corrected_masks
from stages.reporting.live_report import REPORT
from stages.reporting.oversmoothing import Smoothness, smoothness_curves
from stages.reporting.page import Page, StageFacts, render
from stages.reporting.products import RunProducts, open_products
from stages.reporting.training_charts import training_charts
from stages.run_folder.artifacts import PRODUCERS, SETTINGS, StageFolder, finished, open_stage
from stages.run_folder.provenance import read_sessions
from stages.run_folder.run_data import open_run_data, spread, with_skip_bad
from stages.runtime.monitor import Monitor
from stages.sweep import Sweep, sweep
from stages.verdict.judged_run import judge_run

SMOOTHNESS_IMAGES = 16  # number of images on which over-smoothing is measured


def report(
    run: Path,
    config: Report,
    monitor: Monitor,
    *,
    data: Path | Dataset | None = None,
    evaluation: Evaluation | None = None,
) -> Path:
    """Write RUN/report.html. Parts that need an unfinished stage or ground-truth masks are left out.

    Args:
        run: A run folder in which `toco train-cam` finished.
        config: Settings.
        monitor: Receives the progress, and notes about parts that are left out.
        data: The present folder of the data set if it was moved, or the open data set.
        evaluation: The result of `evaluate` if it is known already.

    Returns:
        The page.

    Raises:
        DataError: There is no data set, or an image or mask cannot be used.
        SettingsError: This machine does not have the device.
        ArtifactError: `toco train-cam` did not finish, or a part of the run is damaged.
    """
    cam = open_stage(run, "cam")
    config = with_skip_bad(config, cam)
    dataset = open_run_data(cam, data, skip_bad=config.skip_bad)
    products = open_products(run, dataset, config, monitor)
    folders = {stage: open_stage(run, stage) for stage in SETTINGS if finished(run, stage)}
    evaluation = evaluation or _evaluation(products, config, monitor)
    curve = _sweep(products, config, monitor)
    samples = gallery.rankable_samples(products)
    judged = judge_run(run, monitor, data=dataset, evaluation=evaluation, skip_bad=config.skip_bad) if samples else None
    chosen: list[gallery.Ranked] = []
    if samples:
        ranked = gallery.rank(
            samples if config.images is None else spread(samples, config.images),
            products,
            monitor,
            trust=judged.trust if judged else {},
            skip_bad=config.skip_bad,
        )
        chosen = gallery.choose(ranked, config.gallery, len(dataset.class_names))
    entries = list(gallery.entries(chosen, products, monitor, skip_bad=config.skip_bad))
    measured = spread(samples or dataset.split(cam.settings["split"]), SMOOTHNESS_IMAGES)
    curves = smoothness_curves(products.cam_folder, products.model, config.compare, measured, products.fabric, monitor)
    page = Page(
        run=run,
        dataset=dataset,
        stages=[_facts(stage, folder, cam.settings) for stage, folder in folders.items()],
        verdict=judged.verdict if judged else None,
        evaluation=evaluation,
        image_counts=_image_counts(dataset, cam.settings["split"]),
        entries=entries,
        by_ground_truth=any(sample.mask is not None for sample in samples),
        background=products.background_threshold,
        sweep=curve,
        charts={**_charts(folders, curve), "smoothness": _smoothness(curves, len(measured))},
        confusion=None if evaluation is None else _confusion(evaluation),
        masks=0 if products.masks is None else len(products.masks.ids),
        following=_following(run, folders),
        corrected=corrected_masks(products, monitor, skip_bad=config.skip_bad),
    )
    with atomic_write(run / REPORT) as temporary:
        temporary.write_text(render(page), encoding="utf-8")
    return run / REPORT


def _evaluation(products: RunProducts, config: Report, monitor: Monitor) -> Evaluation | None:
    try:
        return evaluate(
            products.run, config, monitor, data=products.dataset, segmenters=products.segmenters(config.precision)
        )
    except NoGroundTruthError as error:
        monitor.note(f"no scores: {error}")
        return None


def _sweep(products: RunProducts, config: Report, monitor: Monitor) -> Sweep | None:
    if products.labels_folder is None or products.labels_folder.settings["source"] == "decoder":
        return None
    try:
        return sweep(products.run, config, monitor, data=products.dataset, checked=True)
    except NoGroundTruthError:
        return None


def _image_counts(dataset: Dataset, split: str | None) -> list[int]:
    """Count the training images of each class."""
    counts = Counter(number for sample in dataset.split(split) for number in sample.classes)
    return [counts[number] for number in range(1, len(dataset.class_names) + 1)]


def _facts(stage: str, folder: StageFolder, trained: Mapping[str, Any]) -> StageFacts:
    used = {**folder.settings, **folder.config.get(CHOSEN, {})}
    folder = replace(folder, config={**folder.config, "settings": used})
    sessions = read_sessions(folder.path)
    settings = {name: value for name, value in folder.settings.items() if value is not None}
    return StageFacts(
        name=PRODUCERS[stage],
        seconds=sum(one.seconds for one in sessions),
        sessions=sessions,
        settings=settings,
        changed=folder.changed_settings(trained),
    )


def _following(run: Path, folders: Mapping[str, StageFolder]) -> str:
    """Return the command that comes after the finished stages."""
    if "labels" not in folders:
        return as_command("make-labels", run, "--crf")
    return as_command("predict", run, "PATHS...", "--out", "DIR") if "seg" in folders else as_command("train-seg", run)


def _charts(folders: Mapping[str, StageFolder], curve: Sweep | None) -> dict[str, Chart]:
    found: dict[str, Chart] = {}
    for stage, folder in folders.items():
        found |= training_charts(stage, folder.path)
    if curve is not None:
        found["threshold"] = Chart(
            "mIoU of the CAM masks by background threshold",
            f"The highest mIoU is {100 * curve.mious[curve.best]:.1f} %, at {curve.backgrounds[curve.best]:g}; "
            f"the labels were made with {curve.used:g}. Measured on the ground-truth masks of {curve.images} images of "
            f"split '{curve.split}': a threshold chosen by this curve is fitted to these images.",
            [charts.threshold_curve(curve)],
        )
    return found


def _smoothness(curves: Sequence[Smoothness], images: int) -> Chart:
    return Chart(
        "Similarity of the patch tokens after each block",
        f"Mean absolute cosine similarity between patch tokens after each block, over {images} images; "
        + "; ".join(f"{one.name}: {one.values[0]:.2f} after block 1, {one.values[-1]:.2f} at the end" for one in curves)
        + ".",
        [charts.smoothness(curves)],
    )


def _confusion(evaluation: Evaluation) -> ConfusionMatrix:
    column = evaluation.columns[-1]
    return charts.confusion_matrix(
        column.counts,
        evaluation.class_names,
        title=f"Confusion matrix of the {column.name}",
        words=f"On {column.measured} of split '{column.split}': {100 * column.scores.pixel_accuracy:.1f} % of all "
        f"pixels are predicted correctly. {_worst_confusions(column.counts.tolist(), evaluation.class_names)}",
    )


def _worst_confusions(counts: list[list[int]], names: Sequence[str]) -> str:
    """Name the three pairs of classes with the largest share of a ground-truth class predicted as the other class."""
    pairs = [
        (row[predicted] / sum(row), names[actual], names[predicted])
        for actual, row in enumerate(counts)
        for predicted in range(len(names))
        if predicted != actual and any(row)
    ]
    worst = sorted(pairs, reverse=True)[:3]
    return (
        "Most frequent confusions: "
        + "; ".join(f"{actual} predicted as {predicted} ({100 * share:.0f} %)" for share, actual, predicted in worst)
        + "."
    )
