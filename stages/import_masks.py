"""`toco import`: bring corrected masks back into a run.

In: a run, and masks from Label Studio, CVAT, a COCO file or PNGs. Out: RUN/corrections.h5. All masks are imported, or
none.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath

import numpy as np

from data.dataset import IGNORE_INDEX, Dataset, Mask, Sample, checked_mask, list_names
from data.errors import DataError, SettingsError
from data.file_names import FileNames
from data.images import image_size
from data.mask_agreement import MaskedImage, compare_masks, distinct_values
from stages.corrections.correction_file import Correction, CorrectionFile, Provenance, classes_shown
from stages.corrections.given_masks import used_ids
from stages.corrections.picked_masks import PickedMasks
from stages.imports.colour_masks import find_colour_masks
from stages.imports.drawn_masks import DrawnMask, FoundMasks
from stages.imports.instance_masks import find_instance_masks
from stages.imports.labelling_tasks import find_labelling_tasks
from stages.imports.png_masks import find_png_masks
from stages.labels.store import LabelFile
from stages.run_folder.artifacts import StageFolder, finished, open_stage
from stages.run_folder.lock import stage_lock
from stages.run_folder.run_data import open_run_data, warn_of_other_data
from stages.runtime.monitor import Monitor

READERS: Mapping[str, Callable[[Path, tuple[str, ...]], FoundMasks]] = {
    "labelstudio": find_labelling_tasks,
    "cvat": find_colour_masks,
    "coco": find_instance_masks,
    "png": find_png_masks,
}
SHOWN_PROBLEMS = 20
SHOWN_NAMES = 3  # of masks that have the same problem


class OtherNumbersError(DataError):
    """A mask has other class numbers than the labels of its image, or than the run."""

    def __init__(self, message: str, unknown: frozenset[int] = frozenset()) -> None:
        """Keep the numbers that no class of the run has."""
        super().__init__(message)
        self.unknown = unknown


@dataclass(frozen=True, kw_only=True)
class ImportedMasks:
    """What was imported."""

    file: Path  # RUN/corrections.h5
    masks: int
    replaced: int  # of these, images that had a corrected mask before
    left_out: int  # masks that do not fit


def import_masks(
    run: Path,
    path: Path,
    monitor: Monitor,
    *,
    tool: str,
    data: Path | None = None,
    skip_bad: bool = False,
    allow_new_labels: bool = False,
    confirm_unchanged: bool = False,
) -> ImportedMasks:
    """Read corrected masks, check them, and write them into RUN/corrections.h5.

    Args:
        run: A run folder in which `toco train-cam` finished.
        path: What the tool exported.
        monitor: Receives progress, and one warning for each mask that does not fit.
        tool: Key of READERS.
        data: The data set's present folder if it was moved.
        skip_bad: Import the masks that fit, although others do not.
        allow_new_labels: Accept classes in a mask that the labels of its image do not have.
        confirm_unchanged: Also import masks that equal the pseudo masks. Those of Label Studio are always imported,
            because a person submitted each of them.

    Raises:
        SettingsError: The tool is not known.
        DataError: The file is damaged or of another format, a mask does not fit, or there is none. Nothing is written.
        ArtifactError: The run is not usable, or another command uses it.
    """
    if tool not in READERS:
        raise SettingsError(f"--from {tool!r} is not known: choose one of {', '.join(READERS)}")
    if not path.exists():
        raise DataError(f"there is no {path}: check the path")
    stage = open_stage(run, "labels" if finished(run, "labels") else "cam")
    # Stages read the corrections while they run.
    with stage_lock(run, "labels", "seg", monitor=monitor):
        dataset = open_run_data(stage, data, skip_bad=True)
        warn_of_other_data(stage, dataset, monitor)
        corrections = CorrectionFile(run, dataset.class_names)
        # Most likely no person looked at masks that equal the pseudo masks, of now or as they were picked.
        picked = None if confirm_unchanged or tool == "labelstudio" else PickedMasks(run)
        images = CorrectableImages(stage, dataset, picked)
        found = READERS[tool](path, dataset.class_names)
        problems = list(found.problems)
        drawn, moved = newest(found.masks, images, problems, monitor)
        new: list[Correction] = []
        misnumbered: dict[str, OtherNumbersError] = {}
        monitor.start("reading masks", len(drawn))
        for image_id, one in drawn.items():
            try:
                new.append(images.correction(image_id, one, path, tool, allow_new_labels=allow_new_labels))
            except OtherNumbersError as error:
                misnumbered[one.where] = error
            except DataError as error:
                problems.append(f"{one.where}: {error}")
            monitor.advance()
        monitor.finish()
        if tool == "png":  # the other tools have a name for what was not judged
            doubtful = images.objects_not_judged(new)
            misnumbered |= {drawn[image_id].where: error for image_id, error in doubtful.items()}
            new = [one for one in new if one.id not in doubtful]
        if found.unannotated:
            monitor.note(f"images without an annotation, left out: {found.unannotated}")
        left_out = len(problems) + len(misnumbered)
        summary = f"{left_out} of {len(found.masks) + len(found.problems)} masks in {path} do not fit"
        lines = [*images.describe(misnumbered), *problems]
        report_problems(lines, summary, monitor, skip_bad=skip_bad and bool(new))
        if not new:
            raise DataError(f"{path} has no annotated image: annotate some, export again, and import that")
        new = changed_masks(new, images, monitor)
        images.tell_of(new, moved, monitor)
        corrections.add(new)
    replaced = sum(one.id in corrections.classes for one in new)
    return ImportedMasks(file=corrections.path, masks=len(new), replaced=replaced, left_out=left_out)


def newest(
    masks: list[DrawnMask], images: "CorrectableImages", problems: list[str], monitor: Monitor
) -> tuple[dict[str, DrawnMask], dict[str, str]]:
    """Choose the newest mask of each image; names that fit no image are added to the problems.

    Returns:
        {image id: mask}, and {image id: path in the import} of those that were found in another folder.
    """
    by_image: dict[str, list[tuple[DrawnMask, str]]] = defaultdict(list)
    for one in masks:
        try:
            image_id, path = images.find(one)
        except DataError as error:
            problems.append(f"{one.where}: {error}")
        else:
            by_image[image_id].append((one, path))
    for image_id, own in by_image.items():
        paths = [path for _, path in own if path]
        known = {name for one, path in own if not path for name in one.names}
        if not known and all(f"/{path}".endswith(f"/{min(paths, key=len)}") for path in paths):
            continue  # one path, possibly of several storages
        for one, path in [*own]:
            if path and path not in known:
                own.remove((one, path))
                problems.append(
                    f"{one.where}: it is in another folder than image '{image_id}', and the import has other masks of "
                    "this image: remove it, or correct its path"
                )
    by_image = {image_id: own for image_id, own in by_image.items() if own}
    several = [image_id for image_id, own in by_image.items() if len(own) > 1]
    if several:
        monitor.note(
            f"images that were annotated several times: {len(several)}, first '{several[0]}'; the newest annotation of "
            "each is used"
        )
    # Of annotations without a time, or with the same one, the last in the file.
    chosen = {image_id: max(reversed(own), key=lambda pair: pair[0].annotated) for image_id, own in by_image.items()}
    return (
        {image_id: one for image_id, (one, _) in chosen.items()},
        {image_id: path for image_id, (_, path) in chosen.items() if path},
    )


def changed_masks(masks: list[Correction], images: "CorrectableImages", monitor: Monitor) -> list[Correction]:
    """Leave out masks that no person changed.

    Raises:
        DataError: No other mask is left.
    """
    changed = [one for one in masks if not images.is_untouched(one.id, one.mask)]
    unchanged = len(masks) - len(changed)
    if unchanged:
        text = f"masks that equal the pseudo masks: {unchanged}; to confirm them as they are, add --confirm-unchanged"
        if not changed:
            raise DataError(f"nothing was imported: {text}")
        monitor.note(f"left out, {text}")
    return changed


def report_problems(problems: list[str], summary: str, monitor: Monitor, *, skip_bad: bool) -> None:
    """Show each problem in one line.

    Raises:
        DataError: There are problems, and they are not to be skipped; names the first one.
    """
    for problem in problems[0 if skip_bad else 1 : SHOWN_PROBLEMS]:
        monitor.warn(problem)
    if len(problems) > SHOWN_PROBLEMS:
        monitor.warn(f"and {len(problems) - SHOWN_PROBLEMS} more masks that do not fit")
    if problems and not skip_bad:
        first = ", first" if len(problems) > 1 else ":"
        raise DataError(
            f"nothing was imported: {summary}{first} {problems[0]}; correct them, or import the others with --skip-bad"
        )


class CorrectableImages:
    """The images whose masks may be corrected."""

    def __init__(self, stage: StageFolder, dataset: Dataset, picked: PickedMasks | None) -> None:
        """List them: those with a pseudo mask, those of the stage's split, and those without image labels.

        Args:
            stage: RUN/labels, or RUN/cam if there are no labels.
            dataset: The data set.
            picked: The masks that were picked, which are untouched if they come back; None if all masks count.
        """
        self.dataset = dataset
        self._picked = picked
        self.samples = dataset.by_id()
        self.masks: LabelFile | None = None
        if (stage.path / "labels.h5").is_file():
            self.masks = LabelFile(stage.path / "labels.h5", "masks")
        self._drawn = used_ids(stage)  # whose masks in labels.h5 are not pseudo masks
        train = dataset.splits.get(stage.settings["split"] or dataset.train_split, ())
        self.usable = {one.id for one in (*train, *dataset.unlabelled)} | set(self.masks.ids if self.masks else ())
        files = {one.id + one.image.suffix: one.id for one in self.samples.values()}
        first = next(iter(self.samples.values()))
        self._names = FileNames(first.image.parents[first.id.count("/")], files)
        self._ids = files
        self._by_last: dict[str, list[str]] = defaultdict(list)  # tools often keep only the last part of a path
        for image_id in self.samples:
            self._by_last[PurePosixPath(image_id).name].append(image_id)
        self._compared: list[MaskedImage] = []  # the masks that were read

    def find(self, mask: DrawnMask) -> tuple[str, str]:
        """Return the id of the image of a mask, and the path by whose last part alone it was found, or ''.

        Raises:
            DataError: There is none, or it is not a training image.
        """
        for name in mask.names:
            file = self._names.find(name)
            last = PurePosixPath(name).name
            same = self._by_last.get(last) or self._by_last.get(PurePosixPath(last).stem) or []
            image_id = self._ids[file] if file else same[0] if len(same) == 1 else None
            if image_id in self.usable:
                return image_id, "" if file or "/" not in name else name
            if image_id is not None:
                raise DataError(
                    f"image '{image_id}' is not a training image: it would be measured on what it was trained with"
                )
        raise DataError(self._names.describe_missing(mask.names[0]))

    def correction(
        self, image_id: str, drawn: DrawnMask, path: Path, tool: str, *, allow_new_labels: bool
    ) -> Correction:
        """Decode and check the mask of an image.

        Raises:
            OtherNumbersError: It has other class numbers than the image labels.
            DataError: It does not fit the image.
        """
        sample = self.samples[image_id]
        size = image_size(sample.image)
        mask = drawn.read(size)
        untouched = mask.shape == size and self.is_untouched(image_id, mask)
        if mask.shape == size and sample.labelled and not untouched:
            labels = frozenset(sample.classes)
            self._compared.append(MaskedImage(name=image_id, labels=labels, values=distinct_values(mask)))
        try:
            checked_mask(mask, size, len(self.dataset.class_names), "it")
        except DataError as error:
            if mask.shape != size:
                raise
            unknown = distinct_values(mask) - {*range(len(self.dataset.class_names) + 1), IGNORE_INDEX}
            raise OtherNumbersError(str(error), unknown) from error
        if not untouched:
            self._check_labels(sample, mask, allow_new_labels=allow_new_labels)
        provenance = Provenance(
            source=str(path.resolve()),
            tool=tool,
            annotator=drawn.annotator,
            annotated=drawn.annotated,
            imported=datetime.now().astimezone().isoformat(timespec="seconds"),
        )
        return Correction(id=image_id, mask=mask, before=self._pseudo_mask(image_id), provenance=provenance)

    def is_untouched(self, image_id: str, mask: Mask) -> bool:
        """Whether a mask equals the pseudo mask of its image, of now or as it was picked."""
        if self._picked is None:
            return False
        before = self._pseudo_mask(image_id)
        return self._picked.has(image_id, mask) or (before is not None and np.array_equal(before, mask))

    def objects_not_judged(self, masks: Sequence[Correction]) -> dict[str, OtherNumbersError]:
        """Return the masks, by image id, that show no class, if that is because 255 stands for their objects.

        Each of them may be right, since 255 is the value of pixels that were not judged. All of them together are not.
        """
        explained = compare_masks(self._compared, self.dataset.class_names).explained
        return {
            one.id: OtherNumbersError(f"it shows none of the labels of image '{one.id}', only 0 and 255 (not judged)")
            for one in masks
            if one.id in explained and not classes_shown(one.mask)
        }

    def describe(self, misnumbered: Mapping[str, OtherNumbersError]) -> list[str]:
        """Describe masks with other class numbers: in one line those that have the same cause.

        Args:
            misnumbered: The problem of each mask, by the mask's place.
        """
        agreement = compare_masks(self._compared, self.dataset.class_names)
        if len(misnumbered) > 1 and agreement.explained:
            names = list_names(misnumbered, SHOWN_NAMES)
            return [f"{len(misnumbered)} masks contradict the labels of their images ({names}): {agreement.cause}"]
        unknown = {where: error.unknown for where, error in misnumbered.items() if error.unknown}
        if len(unknown) < 2:
            return [f"{where}: {error}" for where, error in misnumbered.items()]
        numbers = sorted(frozenset[int]().union(*unknown.values()))
        listed = ", ".join(map(str, numbers[:SHOWN_PROBLEMS])) + (", ..." if len(numbers) > SHOWN_PROBLEMS else "")
        return [
            f"{len(unknown)} masks have values that no class of the run has ({list_names(unknown, SHOWN_NAMES)}; "
            f"values {listed}): allowed are 0 (background), 1 to {len(self.dataset.class_names)} (classes) and "
            f"{IGNORE_INDEX} (not judged)",
            *(f"{where}: {error}" for where, error in misnumbered.items() if not error.unknown),
        ]

    def tell_of(self, new: list[Correction], moved: Mapping[str, str], monitor: Monitor) -> None:
        """Say what may be meant, or may be a mistake; `moved` has the paths in the import of some images."""
        if elsewhere := [one.id for one in new if one.id in moved]:
            monitor.warn(
                f"masks whose folder is not that of their image: {len(elsewhere)}, first '{moved[elsewhere[0]]}' for "
                f"'{elsewhere[0]}'; check that these are the same images"
            )
        lacking = [one.id for one in new if not {*self.samples[one.id].classes} <= {*classes_shown(one.mask)}]
        if lacking:
            monitor.note(f"masks that lack a class of their image's labels: {len(lacking)}, first '{lacking[0]}'")

    def _check_labels(self, sample: Sample, mask: Mask, *, allow_new_labels: bool) -> None:
        if (mask == 255).all():
            raise DataError(f"no pixel of image '{sample.id}' was judged (all are 255): draw its mask, or leave it out")
        if not sample.labelled:
            return
        names = self.dataset.class_names
        shown = classes_shown(mask)
        labels = list_names(names[number - 1] for number in sample.classes)
        new = [names[number - 1] for number in shown if number not in sample.classes]
        if new and not allow_new_labels:
            raise OtherNumbersError(
                f"it shows {list_names(new)}, but the labels of image '{sample.id}' are {labels}: correct its labels "
                "or its mask, or accept the mask with --allow-new-labels"
            )
        if sample.classes and not shown and not (mask == 255).any():
            raise DataError(
                f"it shows only background, but the labels of image '{sample.id}' are {labels}: draw them, or correct "
                "the labels"
            )

    def _pseudo_mask(self, image_id: str) -> Mask | None:
        if self.masks is None or image_id not in self.masks or image_id in self._drawn:
            return None
        mask: Mask = self.masks.read(image_id)
        return mask
