"""The verdict on a run: judged from its files, and kept in RUN/labels/verdict.json for other commands."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from data.dataset import Dataset
from data.errors import DataError, reason
from stages.config import Evaluate, TrainCam, TrainSeg
from stages.evaluate import Column, Evaluation, network_columns
from stages.features.spec import PATCHES, patch_side
from stages.labels.label_settings import used_settings
from stages.run_folder.artifacts import PRODUCERS, StageFolder, finished, open_stage, options_to_repeat
from stages.run_folder.run_config import CONFIG
from stages.run_folder.run_data import open_run_data
from stages.run_folder.saving import write_json
from stages.runtime.monitor import Monitor
from stages.verdict.evidence import collect_evidence
from stages.verdict.judge import Advice, ClassEvidence, ClassVerdict, MaskSettings, Verdict, judge

FILE = "verdict.json"
STUDENT_IMAGES = 50  # on which the student is measured at the end of its training


class JudgedRun(NamedTuple):
    """A verdict, and how far each image's mask can be trusted without ground truth (0..1, by image id)."""

    verdict: Verdict
    trust: Mapping[str, float]


def judge_run(
    run: Path,
    monitor: Monitor,
    *,
    data: Path | Dataset | None = None,
    evaluation: Evaluation | None = None,
    skip_bad: bool = False,
) -> JudgedRun:
    """Judge the pseudo masks of a run, and write RUN/labels/verdict.json.

    Args:
        run: A run folder in which `toco make-labels` finished.
        monitor: Receives progress and warnings.
        data: The data set's present folder if it was moved, or the open data set.
        evaluation: What `toco evaluate` measured, if it did; the student is judged by it.
        skip_bad: Skip entries that name a missing image.

    Raises:
        DataError: There is no data set.
        ArtifactError: `toco make-labels` did not finish, or a file is damaged.
    """
    labels = open_stage(run, "labels")
    skip_bad = bool(skip_bad or labels.settings["skip_bad"])
    dataset = open_run_data(labels, data, skip_bad=skip_bad)
    found = collect_evidence(run, dataset, monitor)
    students = [one for one in evaluation.columns if one.name == "student"] if evaluation else []
    classes = [
        _with_student(one, number, students[0]) if students else one for number, one in enumerate(found.classes, 1)
    ]
    verdict = judge(classes, _settings(run, labels, dataset), examined=found.examined, measured=found.measured)
    try:
        write_json(labels.path / FILE, verdict.as_dict())
    except OSError as error:  # for example another user's run: the verdict is shown all the same
        monitor.warn(f"{labels.path / FILE} cannot be written: {reason(error)}")
    return JudgedRun(verdict, found.images)


def measured_student(run: Path, dataset: Dataset, config: TrainSeg, monitor: Monitor) -> Evaluation | None:
    """Measure the student on some validation images; None without usable ground truth."""
    settings = Evaluate(
        device=config.device, precision=config.precision, skip_bad=config.skip_bad, images=STUDENT_IMAGES
    )
    split = config.val_split or dataset.val_split
    if split is None or not any(one.mask is not None for one in dataset.split(split)):
        return None
    try:
        columns = network_columns(run, dataset, settings, monitor, split=split, segmenters={}, networks=("student",))
    except DataError as error:  # a bad mask must not end a command whose training is finished
        monitor.warn(f"the student is not measured: {error}")
        return None
    return Evaluation(class_names=("background", *dataset.class_names), columns=tuple(columns))


def read_verdict(run: Path) -> Verdict | None:
    """Return the verdict that a command left in a run; None if there is none, or it is of another version."""
    try:
        values = json.loads((run / "labels" / FILE).read_text(encoding="utf-8"))
        return Verdict(
            classes=tuple(_class_verdict(one) for one in values["classes"]),
            examined=values["examined"],
            measured=values["measured"],
            advice=None if values["advice"] is None else Advice(**values["advice"]),
            without_cams=values.get("without_cams", False),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _class_verdict(values: Mapping[str, Any]) -> ClassVerdict:
    evidence = ClassEvidence(**values["evidence"])
    return ClassVerdict(**{**values, "reasons": tuple(values["reasons"]), "evidence": evidence})


def _with_student(one: ClassEvidence, number: int, column: Column) -> ClassEvidence:
    iou = float(column.scores.iou[number])
    return one if iou != iou else replace(one, student_iou=iou, student_images=column.images)


def _settings(run: Path, labels: StageFolder, dataset: Dataset) -> MaskSettings:
    trained = open_stage(run, "cam").settings
    student = open_stage(run, "seg") if finished(run, "seg") else None
    config = run / CONFIG
    used = used_settings(labels)
    instances = used.relabel == "mil"
    larger = 3 * PATCHES // 2 * patch_side(open_stage(run, "cam").typed_settings(TrainCam))
    return MaskSettings(
        run=str(run),
        data=str(dataset.root),
        iterations=trained["iterations"],
        background_threshold=labels.config.get("background_threshold"),
        threshold_chosen=labels.settings["background_threshold"] == "auto",
        relabelled=(labels.path / "scores.h5").is_file() and not instances,
        without_cams=instances,
        larger_features=larger if instances and used.feature_size is None else None,
        threshold_fits=instances or used.source == "decoder" or used.calibration_images > 0,
        student_iterations=student.settings["iterations"] if student else None,
        config=str(config) if config.is_file() else None,
        options={
            producer: options_to_repeat(run, stage) for stage, producer in PRODUCERS.items() if finished(run, stage)
        },
    )
