"""Pascal VOC: JPEGImages/, ImageSets/, Annotations/, SegmentationClass/ and SegmentationClassAug/."""

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

# Both names of train_aug are in use: 10,582 images, with the additional masks of Hariharan et al. (ICCV 2011).
LIST_FILES = {
    "train": ("train.txt",),
    "train_aug": ("train_aug.txt", "trainaug.txt"),
    "val": ("val.txt",),
}


def find_voc(root: Path) -> Path | None:
    """Return the folder that has JPEGImages/ and ImageSets/: `root`, a folder in it, or one in its VOCdevkit/."""
    folders = (root, *_newest_first(root), *_newest_first(root / "VOCdevkit"))
    return next(
        (folder for folder in folders if (folder / "JPEGImages").is_dir() and (folder / "ImageSets").is_dir()),
        None,
    )


def read_voc(folder: Path) -> Dataset:
    """Read the folder found by `find_voc`.

    Image labels are the classes of all boxes, including those marked as difficult, as is usual in weak supervision.
    Masks are optional; those in SegmentationClassAug/ take precedence.

    Raises:
        DataError: There are no lists of images, or a listed image has no annotation or an unknown class.
    """
    lists = _find_lists(folder)
    masks = find_masks(folder / "SegmentationClass") | find_masks(folder / "SegmentationClassAug")
    samples: dict[str, Sample] = {}
    splits: dict[str, tuple[Sample, ...]] = {}
    for split, path in lists.items():
        ids = _read_list(path)
        for sample_id in ids:
            if sample_id not in samples:  # splits share images: read each annotation once
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
    """Return the ids of a list. A line is an id or the path of an image; text after it is ignored."""
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    return tuple(PurePosixPath(line.split()[0]).stem for line in lines if line.strip())


def _read_classes(path: Path) -> tuple[int, ...]:
    try:
        root = ElementTree.parse(path).getroot()
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing: add it, since it has the labels of the image") from error
    except (ElementTree.ParseError, OSError) as error:
        raise DataError(f"{path} cannot be read: {reason(error)}") from error
    names = {name.strip() for name in (item.findtext("name", "") for item in root.iterfind("object"))}
    unknown = sorted(names.difference(CLASS_INDEX))
    if unknown:
        raise DataError(
            f"{path}: '{unknown[0]}' is not a class of Pascal VOC ({list_names(CLASS_NAMES)}): for other classes "
            "use images/ with labels.csv"
        )
    return tuple(sorted(CLASS_INDEX[name] for name in names))
