"""`toco pick`: choose the training images whose masks are worth correcting, and export them for a labelling tool.

In: a run with pseudo masks. Out: a table, and a folder as stages/exports/FORMAT.py says.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from data.class_names import did_you_mean
from data.command_line import as_command
from data.dataset import IGNORE_INDEX, Dataset, Sample, list_names
from data.errors import DataError, SettingsError
from data.images import MaskFile
from data.output_place import check_output_place
from stages.corrections.correction_file import CorrectionFile, classes_shown
from stages.corrections.given_masks import used_ids
from stages.corrections.picked_masks import PickedMasks
from stages.export import check_contents, check_export_format, write_masks
from stages.exports.labelled_images import open_labelled_images
from stages.features.cache import stored_features
from stages.labels.label_settings import used_settings
from stages.labels.mask_shares import patches_with_values
from stages.labels.store import LabelFile
from stages.labels.stored_cams import stored_label
from stages.picking.choice import Candidate, choose_images
from stages.picking.doubt import Doubt, contradiction, unsureness
from stages.run_folder.artifacts import StageFolder, check_up_to_date, open_stage
from stages.run_folder.lock import output_lock
from stages.run_folder.run_data import open_run_data
from stages.runtime.monitor import Monitor
from stages.verdict.judge import Quality, Verdict
from stages.verdict.judged_run import judge_run, read_verdict

PICK_FORMATS = ("labelstudio", "cvat", "png")
NOT_EMPTY = "give another folder with --out, or --overwrite to write into it; PNGs that you corrected are kept"
COMPARED_SIDE = 64  # masks and CAMs are compared at this size
TURNS: Mapping[Quality, int] = {"failed": 3, "weak": 2, "good": 1}  # images of a class in each round


@dataclass(frozen=True, kw_only=True)
class PickedImage:
    """One line of the table."""

    id: str
    classes: tuple[str, ...]  # by its image labels
    chosen_for: str  # the class whose turn it was; 'no label' for images without one
    why: str


@dataclass(frozen=True, kw_only=True)
class Picks:
    """The images, and where their masks were written."""

    images: tuple[PickedImage, ...]
    out: Path


def pick(
    run: Path,
    monitor: Monitor,
    *,
    count: int = 10,
    classes: Sequence[str] = (),
    format: str = "labelstudio",
    out: Path | None = None,
    data: Path | None = None,
    overwrite: bool = False,
) -> Picks:
    """Choose images that have a pseudo mask and none drawn by people yet, and export them.

    In each round, a class that failed by the verdict gets three images, a weak class two, and a good class one.

    Args:
        run: A run folder in which `toco make-labels` finished.
        monitor: Receives progress.
        count: Number of images, at most.
        classes: Choose images for these classes only; empty for all.
        format: One of PICK_FORMATS.
        out: Folder to write to; by default RUN/picked.
        data: The data set's present folder if it was moved.
        overwrite: Write into a folder that is not empty; files with other names are kept.

    Raises:
        SettingsError: The format is not known or lacks a package; or the folder is not empty, is among the data, or has
            corrected masks that would be replaced.
        DataError: The data set is missing; it has no such class, or no image of one; or people drew all masks.
        ArtifactError: RUN/labels is not finished, outdated or damaged.
    """
    if format not in PICK_FORMATS:
        raise SettingsError(f"--format {format!r} is not known: choose one of {', '.join(PICK_FORMATS)}")
    check_export_format(format)
    labels = open_stage(run, "labels")
    check_up_to_date(run, "labels")
    target = run / "picked" if out is None else out
    check_output_place(target, datasets=[labels.dataset_root, data])
    with output_lock(target, monitor):
        check_contents(target, overwrite=overwrite, advice=NOT_EMPTY)
        masks = LabelFile(labels.path / "labels.h5", "masks")
        dataset = open_run_data(labels, data, skip_bad=True)
        drawn = used_ids(labels) | CorrectionFile(run, dataset.class_names).classes.keys()
        known = dataset.by_id()
        wanted = _numbers(classes, dataset)
        with_mask = [known[one] for one in masks.ids if one in known]
        for number in sorted(wanted):
            having = [one.id for one in with_mask if number in one.classes]
            if drawn.issuperset(having):
                name = dataset.class_names[number - 1]
                raise DataError(
                    f"people drew all {len(having)} masks of images with '{name}' already: give other classes"
                    if having
                    else f"no image with a mask in {run} has the label '{name}': label some, or give other classes"
                )
        samples = [one for one in with_mask if one.id not in drawn and (not wanted or wanted & {*one.classes})]
        if not samples:
            raise DataError(f"people drew all {len(masks.ids)} masks of {run} already: none is left to pick")
        # Stages that were called from Python leave no verdict.
        judged = read_verdict(run) or judge_run(run, monitor, data=dataset).verdict
        picked = choose_images(candidates(run, labels, samples, monitor), count, _turns(judged, wanted))
        chosen = {one.id for one in picked}
        if format == "png":
            _check_replaced(run, target, sorted(chosen), masks)
        images = open_labelled_images(labels, masks, monitor, data=dataset)
        images = replace(images, samples=tuple(one for one in images.samples if one.id in chosen), split="default")
        PickedMasks(run).add((one, masks.read(one)) for one in sorted(chosen))
        write_masks(images, target, format=format)
    return Picks(
        images=tuple(_described(one.id, one.chosen_for, one.doubt, known, masks, dataset) for one in picked), out=target
    )


def _numbers(names: Sequence[str], dataset: Dataset) -> set[int]:
    """Return the class numbers, 1..C."""
    listed = dataset.class_names
    for name in names:
        if name not in listed:
            raise SettingsError(
                f"--class '{name}' is not a class of {dataset.root} ({list_names(listed)}{did_you_mean(name, listed)})"
            )
    return {listed.index(name) + 1 for name in names}


def _check_replaced(run: Path, out: Path, ids: Sequence[str], masks: LabelFile) -> None:
    """Refuse to replace PNGs that people may have corrected and not imported."""
    given = PickedMasks(run)

    def corrected(image_id: str) -> bool:
        file = out / f"{image_id}.png"
        try:
            mask = MaskFile(file).read() if file.is_file() else None
        except DataError:  # RGB, for example: another program has written it
            return True
        return mask is not None and not (given.has(image_id, mask) or np.array_equal(mask, masks.read(image_id)))

    if changed := [one for one in ids if corrected(one)]:
        raise SettingsError(
            f"masks in {out} that differ from the pseudo masks would be replaced ({list_names(changed, 3)}): run "
            f"{as_command('import', run, out, '--from', 'png')!r} if you corrected them, or give another --out"
        )


def _turns(verdict: Verdict, wanted: set[int]) -> dict[int | None, int]:
    """How many images each class gets in a round: all classes and images without labels, or those wanted."""
    turns: dict[int | None, int] = {n: TURNS[one.level] for n, one in enumerate(verdict.classes, start=1)}
    return {number: turns[number] for number in turns if number in wanted} if wanted else {**turns, None: 1}


def candidates(run: Path, labels: StageFolder, samples: list[Sample], monitor: Monitor) -> list[Candidate]:
    """Judge the masks of images, and describe what the images look like by their features, where these are stored."""
    masks = LabelFile(labels.path / "labels.h5", "masks")
    cams = LabelFile(labels.path / "cams.h5", "cams")
    path = labels.path / "scores.h5"
    scores = LabelFile(path, "scores") if path.is_file() else None
    threshold = None if labels.settings["source"] == "decoder" else float(labels.config["background_threshold"])
    by_cams = used_settings(labels).relabel != "mil"  # which makes masks where CAMs show nothing
    features = stored_features(run)
    found = []
    monitor.start("judging masks", len(samples))
    for sample in samples:
        mask = masks.read(sample.id)
        shown = classes_shown(mask)
        stored, rule = (scores, None) if scores is not None and sample.id in scores else (cams, threshold)
        size = (min(COMPARED_SIDE, mask.shape[0]), min(COMPARED_SIDE, mask.shape[1]))
        rows, columns = (torch.arange(new) * old // new for new, old in zip(size, mask.shape, strict=True))
        small = torch.from_numpy(mask).long()[rows][:, columns]
        missing = [number for number in sample.classes if number not in shown]
        own = torch.from_numpy(stored.read(sample.id)).float()
        doubt = Doubt(
            unsure=unsureness(own, rule, _usable(sample, (own.shape[1], own.shape[2]))),
            contradicted=contradiction(small, stored_label(cams, sample.id, threshold, size), IGNORE_INDEX)
            if by_cams
            else 0.0,
            missing=len(missing) / max(1, len(sample.classes)),
        )
        look = None
        if features is not None and sample.id in features:
            look = torch.from_numpy(features.read(sample.id)).float().mean(dim=(1, 2))
        found.append(Candidate(id=sample.id, classes=sample.classes, doubt=doubt, look=look))
        monitor.advance()
    monitor.finish()
    return found


def _usable(sample: Sample, grid: tuple[int, int]) -> Bool[Tensor, "h w"]:
    """Which patches have a value; all of an image that has become unreadable: picking it says what is wrong."""
    try:
        return patches_with_values(sample, grid)
    except DataError:
        return torch.ones(grid, dtype=torch.bool)


def _described(
    image_id: str,
    chosen_for: int | None,
    doubt: Doubt,
    known: dict[str, Sample],
    masks: LabelFile,
    dataset: Dataset,
) -> PickedImage:
    names, classes = dataset.class_names, known[image_id].classes
    shown = classes_shown(masks.read(image_id))
    return PickedImage(
        id=image_id,
        classes=tuple(names[number - 1] for number in classes),
        chosen_for="no label" if chosen_for is None else names[chosen_for - 1],
        why=doubt.reasons([names[number - 1] for number in classes if number not in shown]),
    )
