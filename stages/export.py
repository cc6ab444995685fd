"""`toco export`: pseudo masks, or the student, in formats that other programs read.

In: RUN/labels, and the data set where the format needs its images; RUN/seg for the student. Out: a folder as
stages/exports/FORMAT.py says.
"""

import importlib.util
from collections.abc import Mapping
from pathlib import Path

from data.errors import SettingsError
from data.output_place import check_holds_results, check_output_place
from data.written_folders import MARK, mark_as_written, written_by_toco
from stages.exports.labelled_images import (
    DEFAULT_MIN_AREA,
    DEFAULT_SEPARATION,
    SEPARATIONS,
    LabelledImages,
    Separation,
    open_labelled_images,
)
from stages.labels.store import LabelFile
from stages.run_folder.artifacts import open_stage, outdated, outdated_message
from stages.run_folder.lock import OUTPUT_LOCK, output_lock
from stages.runtime.extras import install_command
from stages.runtime.monitor import Monitor

# Packages that a format needs beyond toco's own: name to import -> name to install.
OBJECTS = {"scipy": "scipy", "skimage": "scikit-image"}
FORMATS: Mapping[str, Mapping[str, str]] = {
    "png": {},
    "voc": OBJECTS,
    "coco": OBJECTS,
    "yolo": {**OBJECTS, "supervision": "supervision", "cv2": "opencv-python-headless"},
    "yolo-detect": OBJECTS,
    "labelstudio": {},
    "cvat": OBJECTS,
    "onnx": {"onnx": "onnx", "onnxscript": "onnxscript"},
}
WITH_OBJECTS = tuple(name for name, packages in FORMATS.items() if OBJECTS.items() <= packages.items())


def export(
    run: Path,
    out: Path,
    monitor: Monitor,
    *,
    format: str = "png",
    instances: str | None = None,
    min_area: int | None = None,
    data: Path | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Write the masks of RUN/labels/labels.h5, or the network of RUN/seg, in another format.

    Args:
        run: A run folder in which `toco make-labels` finished; for the network, `toco train-seg`.
        out: Folder to write to.
        monitor: Receives progress.
        format: Key of FORMATS.
        instances: How touching objects are separated, one of SEPARATIONS; None for the default. Only for formats with
            objects.
        min_area: Pixels of the smallest object; smaller pieces of a mask are left out. None for the default. Only for
            formats with objects to learn from.
        data: The data set's present folder if it was moved.
        overwrite: Write into a folder that is not empty; files with other names are kept.

    Returns:
        The files.

    Raises:
        SettingsError: The format is unknown, or lacks a package; `instances` or `min_area` cannot be used with it; the
            folder is not empty, holds images that toco did not write, or is among the files of a data set; or the data
            set does not fit.
        ArtifactError: RUN/labels, or RUN/seg, is not finished, or damaged.
    """
    check_export_format(format)
    separation, smallest = separation_for(format, instances), min_area_for(format, min_area)
    stage = "seg" if format == "onnx" else "labels"
    check_output_place(out, datasets=[open_stage(run, stage).dataset_root, data])
    with output_lock(out, monitor):
        check_contents(out, overwrite=overwrite)
        if format == "onnx":
            return _export_student(run, out, monitor)
        return _export_labels(run, out, monitor, format=format, separation=separation, min_area=smallest, data=data)


def check_contents(
    out: Path, *, overwrite: bool, advice: str = "give another folder, or --overwrite to write into it"
) -> None:
    """Refuse a folder that holds images that toco did not write, or anything if it is not to be overwritten.

    Raises:
        SettingsError: Says what it holds.
    """
    if overwrite:
        check_holds_results(out)
    elif out.is_dir() and any(file for file in out.iterdir() if file.name not in (OUTPUT_LOCK, MARK)):
        found = "holds another or an unfinished export" if written_by_toco(out) else "is not empty"
        raise SettingsError(f"{out} {found}: {advice}")


def _export_student(run: Path, out: Path, monitor: Monitor) -> list[Path]:
    folder = open_stage(run, "seg")
    if outdated(run, "seg"):
        monitor.warn(outdated_message(run, "seg"))
    from stages.exports.onnx import export_onnx  # needs a package that may not be installed

    mark_as_written(out)
    return export_onnx(folder, out, monitor)


def _export_labels(
    run: Path, out: Path, monitor: Monitor, *, format: str, separation: Separation, min_area: int, data: Path | None
) -> list[Path]:
    folder = open_stage(run, "labels")
    labels = LabelFile(folder.path / "labels.h5", "masks")
    if format == "png":
        from stages.exports.png import export_png

        return export_png(labels, out, monitor)

    images = open_labelled_images(folder, labels, monitor, data=data, separation=separation, min_area=min_area)
    return write_masks(images, out, format=format)


def write_masks(images: LabelledImages, out: Path, *, format: str) -> list[Path]:
    """Write the masks of some images in any format of masks, and return the files; see `export`."""
    if format == "png":
        from stages.exports.png import export_png

        return export_png(images.labels, out, images.monitor, ids=[one.id for one in images.samples])
    # Imported only when needed, because each may need a package that is not installed.
    if format == "voc":
        from stages.exports.voc import export_voc as write
    elif format == "coco":
        from stages.exports.coco import export_coco as write
    elif format == "yolo":
        from stages.exports.yolo import export_yolo as write
    elif format == "yolo-detect":
        from stages.exports.yolo_detect import export_yolo_detect as write
    elif format == "cvat":
        from stages.exports.cvat import export_cvat as write
    else:
        from stages.exports.labelstudio import export_labelstudio as write
    mark_as_written(out)
    return write(images, out)


def check_export_format(format: str) -> None:
    """Refuse a format that is not known, or whose packages are not installed.

    Raises:
        SettingsError: Names the formats, or the package.
    """
    if format not in FORMATS:
        raise SettingsError(f"--format {format!r} is not known: choose one of {', '.join(FORMATS)}")
    for module, package in FORMATS[format].items():
        if importlib.util.find_spec(module) is None:
            raise SettingsError(
                f"--format {format} needs the package '{package}', which is not installed: run "
                f"{install_command('export')}"
            )


def separation_for(format: str, instances: str | None) -> Separation:
    """Return how touching objects are separated.

    Raises:
        SettingsError: The value is not known, or the format has no objects.
    """
    if instances is None:
        return DEFAULT_SEPARATION
    if instances not in SEPARATIONS:
        raise SettingsError(f"--instances {instances!r} is not known: choose one of {', '.join(SEPARATIONS)}")
    if format not in WITH_OBJECTS:
        raise SettingsError(
            f"--instances has no effect on --format {format}, which has no objects: leave it out, or choose one of "
            f"{', '.join(WITH_OBJECTS)}"
        )
    return next(one for one in SEPARATIONS if one == instances)


def min_area_for(format: str, min_area: int | None) -> int:
    """Return the pixels of the smallest object.

    Raises:
        SettingsError: The number is not positive, or the format keeps the whole masks.
    """
    if min_area is None:
        return DEFAULT_MIN_AREA
    if min_area < 1:
        raise SettingsError(f"--min-area is {min_area}: it must be at least 1, which keeps all pieces of the masks")
    formats = [name for name in WITH_OBJECTS if name != "cvat"]
    if format not in formats:
        raise SettingsError(
            f"--min-area has no effect on --format {format}, which leaves nothing out: do not give it, or choose one "
            f"of {', '.join(formats)}"
        )
    return min_area
