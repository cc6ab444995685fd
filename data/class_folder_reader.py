"""Class folders: one folder of images per class, for example cats/ and dogs/, also within train/ and val/."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from data.dataset import TRAIN_NAMES, VAL_NAMES, Dataset, Sample, first_present
from data.errors import DataError
from data.images import find_images, find_masks, image_id

BACKGROUND_FOLDER = "background"  # for images that show none of the classes
MASKS_FOLDER = "masks"
SPLIT_NAMES = (*TRAIN_NAMES, *VAL_NAMES)


def read_class_folders(root: Path) -> Dataset:
    """Read a folder of class folders: the name of the folder is the only class of its images.

    Images in a folder 'background' show none of the classes. The ground-truth mask of cats/a.jpg is masks/cats/a.png,
    if it exists.

    Raises:
        DataError: Fewer than two folders hold images.
    """
    files = {name: path for name, path in find_images(root).items() if name.split("/")[0].lower() != MASKS_FOLDER}
    depth = 1 if _has_split_folders(files) else 0  # number of folders above a class folder
    placed: dict[str, tuple[str, str]] = {}  # file -> split, class
    for name in files:
        *folders, _ = name.split("/")
        split = folders[0].lower() if depth and folders else TRAIN_NAMES[0]
        if len(folders) > depth and split in SPLIT_NAMES:
            placed[name] = split, folders[depth]
    folder_names = {folder for _, folder in placed.values()}
    class_names = tuple(sorted(name for name in folder_names if name.lower() != BACKGROUND_FOLDER))
    _check_folders(folder_names, class_names, root)

    masks = find_masks(root / MASKS_FOLDER)
    splits: dict[str, list[Sample]] = defaultdict(list)
    for name, (split, folder) in placed.items():
        classes = (class_names.index(folder) + 1,) if folder in class_names else ()
        sample_id = image_id(name)
        splits[split].append(Sample(id=sample_id, image=files[name], classes=classes, mask=masks.get(sample_id)))
    outside = len(files) - len(placed)
    return Dataset(
        root=root,
        layout="class_folders",
        class_names=class_names,
        splits={name: tuple(samples) for name, samples in splits.items()},
        train_split=first_present(TRAIN_NAMES, splits) or TRAIN_NAMES[0],
        val_split=first_present(VAL_NAMES, splits),
        warnings=(f"images outside the class folders, skipped: {outside}",) if outside else (),
    )


def _has_split_folders(files: dict[str, Path]) -> bool:
    """Tell whether the folders at the top are splits (train/cats/a.jpg) rather than classes (train/a.jpg)."""
    tops = {name.split("/")[0] for name in files if "/" in name}
    splits = {top for top in tops if top.lower() in SPLIT_NAMES}
    deep = all(name.count("/") > 1 for name in files if name.split("/")[0] in splits)
    # A single 'train' beside other folders may be a class, for example of vehicles.
    return deep and len(splits) > 0 and (splits == tops or len(splits) > 1)


def _check_folders(folder_names: set[str], class_names: tuple[str, ...], root: Path) -> None:
    if len(folder_names) < 2:
        found = f"only one folder with images, '{class_names[0]}'" if class_names else "no folder with images"
        raise DataError(
            f"{root} holds {found}: class folders need at least two, one per class (if a folder in it is the data set, "
            "give its path)"
        )
