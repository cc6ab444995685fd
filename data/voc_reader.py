"""Pascal VOC: JPEGImages/, ImageSets/, Annotations/ and SegmentationClass[Aug]/."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

from data.dataset import Dataset, Sample, list_names
from data.errors import DataError, reason
from data.images import find_masks

CLASS_NAMES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
CLASS_INDEX = {name: index for index, name in enumerate(CLASS_NAMES, start=1)}

# The list of 10,582 images with the masks of Hariharan et al. (ICCV 2011) goes by both names.
LIST_FILES = {
    "train": ("train.txt",),
    "train_aug": ("train_aug.txt", "trainaug.txt"),
    "val": ("val.txt",),
}


def find_voc(root: Path) -> Path | None:
    """Return the folder with JPEGImages/ and ImageSets/: root itself, one in it, or one in its VOCdevkit/."""
    folders = (root, *_newest_first(root), *_newest_first(root / "VOCdevkit"))
    return next(
        (folder for folder in folders if (folder / "JPEGImages").is_dir() and (folder / "ImageSets").is_dir()),
        None,
    )


def read_voc(folder: Path) -> Dataset:
    """Read the folder found by `find_voc`: image labels from the boxes, masks where there are any.

    Labels are the classes of all boxes, those marked difficult included, as is usual in weak supervision.

    Raises:
        DataError: no list of images, or one of its images has no annotation or an unknown class.
    """
    lists = _find_lists(folder)
    masks = find_masks(folder / "SegmentationClass") | find_masks(folder / "SegmentationClassAug")
    samples: dict[str, Sample] = {}
    splits: dict[str, tuple[Sample, ...]] = {}
    for split, path in lists.items():
        ids = _read_list(path)
        for sample_id in ids:
            if sample_id not in samples:  # the splits share images; each annotation is read once
                samples[sample_id] = Sample(
                    id=sample_id,
                    image=folder / "JPEGImages" / f"{sample_id}.jpg",
                    classes=_read_classes(folder / "Annotations" / f"{sample_id}.xml"),
                    mask=masks.get(sample_id),
                )
        splits[split] = tuple(samples[sample_id] for sample_id in ids)
    return Dataset(
        root=folder,
        layout="voc",
        class_names=CLASS_NAMES,
        splits=splits,
        train_split="train_aug" if "train_aug" in splits else "train",
        val_split="val" if "val" in splits else None,
    )


def _newest_first(folder: Path) -> list[Path]:
    return sorted((path for path in folder.iterdir() if path.is_dir()), reverse=True) if folder.is_dir() else []


def _find_lists(folder: Path) -> dict[str, Path]:
    for kind in ("Segmentation", "Main"):
        found: dict[str, Path] = {}
        for split, names in LIST_FILES.items():
            for name in names:
                path = folder / "ImageSets" / kind / name
                if split not in found and path.is_file():
                    found[split] = path
        if found:
            return found
    raise DataError(
        f"{folder} has neither ImageSets/Segmentation/train.txt nor ImageSets/Main/train.txt: add the lists"
    )


def _read_list(path: Path) -> tuple[str, ...]:
    """Return the ids of a list; lines are an id, or an image's path with anything behind it."""
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    return tuple(PurePosixPath(line.split()[0]).stem for line in lines if line.strip())


def _read_classes(path: Path) -> tuple[int, ...]:
    try:
        root = ElementTree.parse(path).getroot()
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing: the image labels come from there") from error
    except (ElementTree.ParseError, OSError) as error:
        raise DataError(f"{path} cannot be read: {reason(error)}") from error
    names = {name.strip() for name in (item.findtext("name", "") for item in root.iterfind("object"))}
    unknown = sorted(names.difference(CLASS_INDEX))
    if unknown:
        raise DataError(
            f"{path}: '{unknown[0]}' is none of the classes ({list_names(CLASS_NAMES)}): for classes of your "
            "own use images/ with labels.csv"
        )
    return tuple(sorted(CLASS_INDEX[name] for name in names))
