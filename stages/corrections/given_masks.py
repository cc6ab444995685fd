"""The masks of training images that people drew, and that a stage trains with: corrected ones, and ground truth.

This file does not import torch, so that commands can check the settings at once.
"""

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from data.dataset import Dataset, Mask, MaskSource, Sample
from data.errors import ArtifactError, DataError
from data.images import image_size
from data.readers import read_mask
from stages.config import MakeLabels, TrainSeg
from stages.corrections.correction_file import CORRECTIONS, CorrectionFile, classes_shown, mask_digest
from stages.run_folder.artifacts import StageFolder, begun_stage, repeating_command
from stages.run_folder.run_data import check_masks, open_run_data, skipping
from stages.runtime.monitor import Monitor

ENTRY = "given_masks"  # of a stage's config.json
TRUTH = "truth"  # of ENTRY; missing in stages of earlier versions

# Masks that people drew count more than pseudo masks, because they are right; but a few images, repeated too often, are
# learnt by heart. They are a quarter of all samples at most, and each is repeated ten times at most.
MOST_SHARE = 0.25
MOST_REPEATED = 10


@dataclass(frozen=True, kw_only=True)
class GivenMasks:
    """Masks that are used as they are."""

    num_classes: int
    sources: Mapping[str, MaskSource] = field(default_factory=dict)  # by image id
    classes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # that each mask shows, by image id
    corrected: int = 0  # number of masks from corrections.h5; the others are ground truth
    digest: str = ""  # of corrections.h5
    truth: Mapping[str, str] = field(default_factory=dict)  # digests of the ground-truth masks, by image id

    def __contains__(self, image_id: str) -> bool:
        """Whether the mask of an image is given."""
        return image_id in self.sources

    def __len__(self) -> int:
        """Number of masks."""
        return len(self.sources)

    def read(self, sample: Sample) -> Mask:
        """Return the mask of an image, checked; 255 where the image has no value.

        Raises:
            DataError: It is unreadable, or has another size or other values.
        """
        return read_mask(replace(sample, mask=self.sources[sample.id]), image_size(sample.image), self.num_classes)

    def added_to(self, dataset: Dataset, split: str | None) -> Dataset:
        """Return a data set whose samples of a split have the given masks and their classes.

        Images without image labels that have a given mask join the split.
        """
        if not self.sources:
            return dataset
        split = split or dataset.train_split
        samples = [self._with_mask(one) for one in dataset.splits.get(split, ())]
        ids = {one.id for one in samples}
        samples += [self._with_mask(one) for one in dataset.unlabelled if one.id in self and one.id not in ids]
        others = tuple(one for one in dataset.unlabelled if one.id not in self)
        return replace(dataset, splits={**dataset.splits, split: tuple(samples)}, unlabelled=others)

    def _with_mask(self, sample: Sample) -> Sample:
        if sample.id not in self:
            return sample
        classes = tuple(sorted({*sample.classes, *self.classes[sample.id]}))
        return replace(sample, mask=self.sources[sample.id], classes=classes, labelled=True)

    def as_entry(self, use: str) -> Mapping[str, Any]:
        """What a stage's config.json keeps under ENTRY."""
        ids = sorted(self.sources)
        return {"use": use, "corrected": self.corrected, "digest": self.digest, "ids": ids, TRUTH: self.truth}


def given_masks(
    run: Path, dataset: Dataset, config: MakeLabels | TrainSeg, split: str | None, monitor: Monitor
) -> GivenMasks:
    """Collect the masks that `--use-masks` asks for.

    Args:
        run: The run folder.
        dataset: Its data set.
        config: Settings.
        split: Split whose ground-truth masks are used with `all`; None for the training split.
        monitor: Receives the number of masks, and warnings.

    Raises:
        ArtifactError: corrections.h5 is damaged, or of other classes.
        DataError: There are no such masks, or one of them is bad.
    """
    count = len(dataset.class_names)
    if config.use_masks == "none":
        return GivenMasks(num_classes=count)
    corrections = CorrectionFile(run, dataset.class_names)
    known = dataset.by_id()
    lost = [one for one in corrections.classes if one not in known]
    if lost:
        monitor.warn(f"{corrections.path} has masks of {len(lost)} images that {dataset.root} lacks, first '{lost[0]}'")
    classes = {one: shown for one, shown in corrections.classes.items() if one in known}
    sources: dict[str, MaskSource] = {one: corrections.mask(one) for one in classes}
    corrected = len(sources)
    truth: Mapping[str, str] = {}
    if config.use_masks == "all":
        split = split or dataset.train_split
        check_masks(dataset, (split,), monitor)
        truth = _truth_digests(dataset, split, without=corrections.classes)
        for sample in dataset.split(split):
            if sample.mask is not None and sample.id not in sources:
                with skipping(config.skip_bad, monitor):
                    classes[sample.id] = classes_shown(read_mask(sample, image_size(sample.image), count))
                    sources[sample.id] = sample.mask
        if not sources:
            raise DataError(
                f"--use-masks all: no image of split '{split}' has a ground-truth mask, and no corrected masks were "
                "imported: use --use-masks none"
            )
    if sources:
        others = f", {len(sources) - corrected} of ground truth" if len(sources) > corrected else ""
        monitor.note(f"masks drawn by people that are used as they are: {corrected} corrected{others}")
    return GivenMasks(
        num_classes=count,
        sources=sources,
        classes=classes,
        corrected=corrected,
        digest=corrections.digest,
        truth=truth,
    )


def given_share(given: int, total: int) -> float:
    """Part of the training samples that have a given mask, 0..1; see MOST_SHARE.

    Args:
        given: Number of images (or patches) whose mask is given.
        total: Number of all images (or patches).
    """
    natural = given / max(1, total)
    return max(natural, min(MOST_SHARE, MOST_REPEATED * natural))


def every_nth(given: int, total: int, batch_size: int) -> int | None:
    """Return n if every n-th training sample is to have a given mask, at least one in each batch.

    None means that the samples are drawn without regard to it: none or most of them have one.
    """
    if not given or 2 * given >= total:
        return None
    return max(2, min(batch_size, round(1 / given_share(given, total))))


def used_ids(folder: StageFolder) -> frozenset[str]:
    """Ids of the images whose given mask a stage was trained with."""
    return frozenset(folder.config.get(ENTRY, {}).get("ids", ()))


def other_given_masks(run: Path, stage: str, data: Path | Dataset | None = None) -> str | None:
    """Say that corrected or ground-truth masks have changed since a stage was made with them; None if they have not.

    Args:
        run: The run folder.
        stage: labels or seg, begun.
        data: The data set's present folder if it was moved, or the open data set.

    Raises:
        ArtifactError: A file of the run is damaged, or the data set has other classes.
        DataError: There is no data set with these masks.
    """
    folder = begun_stage(run, stage)
    use = folder.settings["use_masks"]
    if use == "none":
        return None
    before = folder.config.get(ENTRY, {})
    now = CorrectionFile(run, folder.class_names)
    advice = f"to use them, run {repeating_command(run, stage)}"
    if before.get("digest", "") != now.digest:
        return (
            f"{folder.path} was made with {before.get('corrected', 0)} corrected masks; {run / CORRECTIONS} has "
            f"{len(now.classes)} now, or others: {advice}"
        )
    if use == "all" and TRUTH in before:
        dataset = open_run_data(folder, data, skip_bad=True)  # only masks are compared
        split = folder.settings["split"] or begun_stage(run, "labels").settings["split"]
        truth = _truth_digests(dataset, split, without=now.classes)
        changed = sorted(one for one in {*before[TRUTH], *truth} if before[TRUTH].get(one) != truth.get(one))
        if changed:
            return (
                f"{folder.path} was made with other ground-truth masks than {dataset.root} has now, of {len(changed)} "
                f"images, first '{changed[0]}': {advice}"
            )
    return None


def check_same_given_masks(run: Path, stage: str, data: Path | Dataset | None = None) -> None:
    """Refuse to resume a stage that was begun with other corrected or ground-truth masks; see `other_given_masks`.

    Raises:
        ArtifactError: Says what to do.
    """
    if difference := other_given_masks(run, stage, data):
        raise ArtifactError(difference)


def _truth_digests(dataset: Dataset, split: str | None, without: Collection[str]) -> dict[str, str]:
    """Digests of the ground-truth masks of a split, by image id, without those of some images.

    They are of the values in the masks, because some layouts keep many masks in one file. Unreadable masks have none.
    """
    digests = {}
    for sample in dataset.split(split):
        if sample.mask is not None and sample.id not in without:
            with suppress(DataError):
                digests[sample.id] = mask_digest(sample.mask.read())
    return digests
