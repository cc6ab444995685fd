"""Collect the evidence about a run's pseudo masks, class by class and image by image.

The main sign without ground truth: a linear head on frozen features learns the masks of half of the images, and its
decisions, among the classes of each image, are compared with the masks of the other half. Masks that show the same
object in all images are found again; a wrong region differs from image to image. Cached features only are used, so
that this takes seconds.

Letters: c classes, n patches, h w pixels.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from data.dataset import IGNORE_INDEX, Dataset, Mask, Sample
from data.errors import DataError
from data.missing_pixels import without_missing_pixels
from data.readers import read_mask
from data.small_objects import class_covers, median_covers, patches_covered
from stages.config import TrainCam
from stages.corrections.given_masks import used_ids
from stages.features.cache import stored_features
from stages.features.spec import patch_side
from stages.labels.mask_shares import all_shares
from stages.labels.store import LabelFile
from stages.labels.stored_cams import stored_label
from stages.relabel.choose_heads import held_out_heads, image_scores, probabilities_by_image
from stages.relabel.patches import Patches, collect_patches
from stages.run_folder.artifacts import StageFolder, open_stage
from stages.run_folder.run_data import check_masks, skipping, spread
from stages.runtime.monitor import Monitor
from stages.toco.metrics import Confusion
from stages.verdict.judge import ALWAYS_TOGETHER, ClassEvidence

EXAMINED = 1000  # images, at most
EMPTY = 0.0002  # a mask that covers less of the image shows nothing of the class
FEATURE_BYTES = 2**26  # of the patches that heads learn from


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Evidence about classes and images."""

    classes: tuple[ClassEvidence, ...]
    examined: int  # images whose masks were examined
    measured: int  # images with ground truth among them
    images: Mapping[str, float]  # how far each image's mask can be trusted, 0..1; without ground truth


def collect_evidence(run: Path, dataset: Dataset, monitor: Monitor) -> Evidence:
    """Examine the pseudo masks of a run.

    Ground-truth masks that cannot be used are left out with a warning: they must not abort a command after
    hours of work. `toco evaluate` refuses them.

    Args:
        run: A run folder in which `toco make-labels` finished.
        dataset: Its data set.
        monitor: Receives progress and warnings.

    Raises:
        ArtifactError: `toco make-labels` did not finish, or a file is damaged.
    """
    labels = open_stage(run, "labels")
    masks, cams = LabelFile(labels.path / "labels.h5", "masks"), LabelFile(labels.path / "cams.h5", "cams")
    threshold = None if labels.settings["source"] == "decoder" else labels.config["background_threshold"]
    given = used_ids(labels)  # people drew these masks
    labelled = [one for one in dataset.by_id().values() if one.id in masks and one.labelled]
    stored = [one for one in labelled if one.id not in given]
    with_truth = _with_usable_truth(stored, dataset, monitor)
    samples = spread(stored, EXAMINED)
    classes = len(dataset.class_names)
    by_mask, by_cam = Confusion(classes + 1), Confusion(classes + 1)
    shown = torch.zeros(classes + 1, dtype=torch.int64)  # images whose ground truth shows the class
    true_covers: list[Mapping[int, float]] = []
    if with_truth:
        monitor.start("measuring the masks", len(with_truth))
    for one in with_truth:
        with skipping(True, monitor):
            mask = masks.read(one.id)
            drawn = read_mask(one, (mask.shape[0], mask.shape[1]), classes)
            truth = torch.from_numpy(drawn).long()
            by_mask.add(torch.from_numpy(mask).long(), truth)
            by_cam.add(stored_label(cams, one.id, threshold), truth)
            shown[[number for number in torch.unique(truth).tolist() if number != IGNORE_INDEX]] += 1
            true_covers.append(class_covers(drawn))
        monitor.advance()
    covers: dict[int, list[float]] = {number: [] for number in range(1, classes + 1)}  # of the pixels with a value
    whole_covers: dict[int, list[float]] = {number: [] for number in range(1, classes + 1)}  # of the whole image
    examined = []
    monitor.start("examining the masks", len(samples))
    for one in samples:
        mask = masks.read(one.id)
        valued = _pixels_with_values(one, mask, monitor)
        if valued.any():
            examined.append(one)
            for number in one.classes:
                covers[number].append(float((mask[valued] == number).mean()))
                whole_covers[number].append(float((mask == number).mean()))
        monitor.advance()
    heads = _held_out(run, examined, masks, classes, monitor)
    monitor.finish()
    iou, cam_iou = by_mask.scores().iou, by_cam.scores().iou
    found = {number: _median_cover(own) for number, own in whole_covers.items()}
    sizes = _in_patches(run, labels, found, median_covers(true_covers, dataset.class_names), dataset.class_names)
    return Evidence(
        classes=tuple(
            ClassEvidence(
                name=name,
                images=sum(number in one.classes for one in stored),
                examined=len(covers[number]),
                empty=sum(cover < EMPTY for cover in covers[number]),
                cover=_median_cover(covers[number]),
                patches=sizes.get(name),
                iou=float(iou[number]) if shown[number] else None,
                cam_iou=float(cam_iou[number]) if shown[number] else None,
                measured=int(shown[number]),
                repeated=heads.repeated.get(number),
                told_apart=heads.told_apart.get(number),
                together=_always_beside(number, stored, dataset.class_names),
                drawn=sum(number in one.classes for one in labelled if one.id in given),
            )
            for number, name in enumerate(dataset.class_names, start=1)
        ),
        examined=len(examined),
        measured=len(true_covers),
        images=heads.images,
    )


def _pixels_with_values(sample: Sample, mask: Mask, monitor: Monitor) -> Bool[np.ndarray, "h w"]:
    """Return where an image has a value. Its mask is 255 elsewhere, so that most images need not be opened."""
    if IGNORE_INDEX in mask:
        try:
            missing = without_missing_pixels(np.zeros_like(mask), sample.image, sample.pixels)
            return np.not_equal(missing, IGNORE_INDEX)
        except DataError as error:
            monitor.warn(f"judged as if all pixels of '{sample.id}' had a value: {error}")
    return np.ones(mask.shape, bool)


def _median_cover(covers: Sequence[float]) -> float:
    """Return the median over the masks that are not empty; 0 if all are."""
    return float(np.median([one for one in covers if one >= EMPTY] or [0.0]))


def _in_patches(
    run: Path,
    labels: StageFolder,
    found: Mapping[int, float],
    true_covers: Mapping[str, float],
    class_names: Sequence[str],
) -> dict[str, float]:
    """How many patches of the network's input each class covers: in the ground truth, or else as found in the masks.

    Empty for CAMs of windows, in which objects are larger.
    """
    if labels.settings["window"] is not None:
        return {}
    cam = open_stage(run, "cam").typed_settings(TrainCam)
    side = labels.settings["image_size"] or cam.image_size
    by_name = {class_names[number - 1]: cover for number, cover in found.items() if cover}
    return {name: patches_covered(cover, side, patch_side(cam)) for name, cover in {**by_name, **true_covers}.items()}


def _with_usable_truth(samples: Sequence[Sample], dataset: Dataset, monitor: Monitor) -> list[Sample]:
    """List the images with ground truth, at most EXAMINED; none if the masks contradict the image labels."""
    found = spread([one for one in samples if one.mask is not None], EXAMINED)
    if not found:
        return []
    try:
        check_masks(replace(dataset, splits={"measured": tuple(found)}), ("measured",), monitor)
    except DataError as error:
        monitor.warn(f"judged without ground truth: {error}")
        return []
    return found


def _always_beside(number: int, samples: Sequence[Sample], class_names: Sequence[str]) -> str | None:
    """Name the class that is in nearly all images of a class; None if there is none."""
    having = [one.classes for one in samples if number in one.classes]
    for other, name in enumerate(class_names, start=1):
        if having and other != number and sum(other in own for own in having) >= ALWAYS_TOGETHER * len(having):
            return name
    return None


class HeldOut(NamedTuple):
    """Predictions of heads that learned the masks of other images. Empty without cached features."""

    repeated: Mapping[int, float]  # IoU with the masks by class (1..C), 0..1
    told_apart: Mapping[int, float]  # by class: how often an image that shows it has a higher score than one without
    images: Mapping[str, float]  # mean IoU over the image's classes by image id, 0..1


def _held_out(run: Path, samples: Sequence[Sample], masks: LabelFile, classes: int, monitor: Monitor) -> HeldOut:
    """Predict the images whose features are cached, without the patches that have no value."""
    by_id = {one.id: one for one in samples}
    read = lru_cache(maxsize=1)(masks.read)  # each mask is used twice in a row

    def with_values(image_id: str, grid: tuple[int, int]) -> Bool[Tensor, "h w"]:
        valued = torch.from_numpy(_pixels_with_values(by_id[image_id], read(image_id), monitor))
        return F.adaptive_avg_pool2d(valued[None].float(), grid)[0] >= 0.5

    features = stored_features(run)
    if features is None:
        return HeldOut({}, {}, {})
    with closing(features):
        missing = {one.id for one in features.missing(samples)}
        usable = [one for one in samples if one.id not in missing]
        if len(usable) < 2:
            return HeldOut({}, {}, {})
        patches = collect_patches(
            features.read,
            lambda image_id, grid: all_shares(read(image_id), classes, grid),
            [(one.id, one.classes) for one in usable],
            classes,
            seed=0,
            usable=with_values,
            limit=FEATURE_BYTES,
        )
    if not len(patches.features):
        return HeldOut({}, {}, {})
    return held_out(usable, patches, held_out_heads(patches))


def held_out(
    samples: Sequence[Sample], patches: Patches, heads: Iterable[tuple[Int[Tensor, " half"], nn.Module]]
) -> HeldOut:
    """Compare masks with what heads find that learned those of other images.

    Args:
        samples: The images; those without any patch are left out.
        patches: Their patches, with the labels of the masks.
        heads: Heads, and the numbers of the images that they did not learn from.
    """
    classes = patches.allowed.shape[1]
    both, either = torch.zeros(len(samples), classes + 1), torch.zeros(len(samples), classes + 1)
    scores = torch.zeros(len(samples), classes + 1)
    counts = patches.image.bincount(minlength=len(samples))
    own_shares = torch.split(patches.shares, counts.tolist())
    for half, head in heads:
        for image, probabilities in probabilities_by_image(head, patches, half):
            scores[image] = image_scores(probabilities)
            allowed = torch.tensor([0, *samples[image].classes])
            found = allowed[probabilities[:, allowed].argmax(dim=1)]
            share, label = own_shares[image].float().max(dim=1)
            clear = share > 0.5  # the other patches are ignored, or divided between labels
            for number in samples[image].classes:
                in_found, in_mask = (found == number) & clear, (label == number) & clear
                both[image, number] = (in_found & in_mask).sum()
                either[image, number] = (in_found | in_mask).sum()
    numbers = range(1, classes + 1)
    known = counts > 0
    showing = {number: torch.tensor([number in one.classes for one in samples])[known] for number in numbers}
    iou = both / either.clamp_min(1)
    return HeldOut(
        repeated={n: float(both[:, n].sum() / either[:, n].sum().clamp_min(1)) for n in numbers},
        told_apart={
            n: area_under_curve(scores[known][has, n], scores[known][~has, n])
            for n, has in showing.items()
            if has.any() and not has.all()
        },
        images={
            one.id: float(iou[row, list(one.classes)].mean())
            for row, one in enumerate(samples)
            if one.classes and known[row]
        },
    )


def area_under_curve(with_class: Float[Tensor, " n"], without: Float[Tensor, " m"]) -> float:
    """Area under the ROC curve: how often a score of the first kind is the larger one of a pair; ties count half."""
    difference = with_class[:, None] - without[None, :]
    return float((difference > 0).float().mean() + (difference == 0).float().mean() / 2)
