"""Class folders: one folder of images per class, for example cats/ and dogs/, also within train/ and val/."""

from __future__ import annotations

import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from data.class_list import (
    CLASSES_FILE,
    LIST_ALL,
    LIST_IF_MEANT,
    MOST_TOLD,
    joined_warnings,
    read_class_list,
    refuse_doubtful_names,
)
from data.class_names import canonical_name, did_you_mean, in_order
from data.dataset import TRAIN_NAMES, VAL_NAMES, Dataset, Sample, drop_same_ids, first_present, list_names
from data.errors import DataError
from data.file_kinds import conversion_advice, count_unread, describe_unread, is_unread_picture
from data.image_files import find_images_and_unread, find_masks, image_id
from data.mask_folders import MASK_PART, MASKS_FOLDER

BACKGROUND_FOLDER = "background"  # for images that show none of the classes
SPLITS = {name: name for name in (*TRAIN_NAMES, *VAL_NAMES)} | {"testing": "test"}  # name of a folder -> split
OTHER_SPLITS = frozenset({"dev", "eval", "evaluation", "holdout"})  # are not read
# Folders of splits: also train2017, test1, val_images, trainA and the like.
SPLIT_FOLDER = re.compile(rf"({'|'.join(SPLITS)})([ _-]?(set|data|images?|imgs?))?[ _-]?(\d*|[ab])", re.IGNORECASE)
# Folders that programs make for the parts of a data set. 'mask' is not among them: it is a usual class.
PART_FOLDER = re.compile(
    r"images?|imgs?|labels|jpegimages|annotations?|imagesets|.*ground_?truths?|segmentation(class|object).*|unlabell?ed",
    re.IGNORECASE,
)
# The same, for names that are doubtful only beside one of MASK_PART.
IMAGE_PART = re.compile(r"originals?|inputs?|sources?|photos?|rgb|leftimg8bit|[ab]", re.IGNORECASE)
# Names of masks beside their images: 1_mask.png or 1_mask_1.png beside 1.jpg, mask_1.png beside image_1.jpg.
MASK_NAME = re.compile(
    r"(?P<image>.+?)[ _.-](seg(mentation)?[ _-])?(masks?|labels?|gt|ground[ _-]?truth|seg|segmentation|annotations?)"
    r"([ _.-]\d+)?|masks?[ _.-](?P<same>.+)",
    re.IGNORECASE,
)
IMAGE_NAME = re.compile(r"^(images?|img|rgb)[ _.-]|[ _.-](images?|img|rgb)$", re.IGNORECASE)  # the rest is its own name
OTHER_LAYOUTS = "for image labels in a table, move the images into images/ and run 'toco init'"
ADVICE = f"merge or rename the folders ('{BACKGROUND_FOLDER}' means none of the classes); {LIST_IF_MEANT}"


def read_class_folders(root: Path) -> Dataset:
    """Read a folder of class folders: the name of the folder is the only class of its images.

    Images in a folder 'background' show none of the classes. The ground-truth mask of cats/a.jpg is masks/cats/a.png,
    if it exists. If the folders at the top are splits (train/cats/a.jpg), those without class folders have images
    without labels. A split may be in a folder of its own name, train/train/cats/a.jpg. If there is a classes.txt, the
    folders that it lists are classes, whatever their names.

    Raises:
        DataError: Fewer than two folders hold images, or folders are not meant as classes.
    """
    listed = read_class_list(root / CLASSES_FILE)
    found, unread_found = find_images_and_unread(root)
    images, unread = (
        {name: path for name, path in files.items() if not _is_mask(name, listed)} for files in (found, unread_found)
    )
    folders_of = _folders_above((*images, *unread))
    tops: dict[str, set[str]] = defaultdict(set)  # folder at the top -> folders in it
    for name in images:
        if folders_of[name]:
            tops[folders_of[name][0]].update(folders_of[name][1:2])
    splits_of = _split_folders(tops, listed)
    if not listed:
        _check_splits(tops, splits_of, root)
    if splits_of and not any(tops[top] for top in splits_of):
        raise DataError(
            f"{root}: {list_names(sorted(splits_of))} hold images, but no folders of classes, so that there are no "
            f"labels: sort the images into one folder per class, for example train/cats/; {OTHER_LAYOUTS}; "
            f"if these folders are classes, {LIST_ALL}"
        )
    unknown = _unlabelled_folders(tops, splits_of, listed)
    depth = 1 if splits_of else 0  # number of folders above a class folder

    def place(names: Iterable[str]) -> dict[str, tuple[str, str]]:
        """Return {file: (split, folder of the class)} of the files in class folders."""
        placed = {}
        for name in names:
            folders = folders_of[name]
            split = splits_of.get(folders[0]) if splits_of and folders else TRAIN_NAMES[0]
            if len(folders) > depth and split and folders[0] not in unknown:
                placed[name] = split, canonical_name(folders[depth])
        return placed

    placed = place(images)
    counts = Counter(folder for _, folder in placed.values())
    folder_of_unread = {name: folder for name, (_, folder) in place(unread).items() if folder not in counts}
    _check_unread({name: one for name, one in folder_of_unread.items() if not listed or one in listed}, root)
    used = in_order([name for name in counts if name.lower() != BACKGROUND_FOLDER])
    if listed:
        _check_listed(used, listed, root)
    else:
        _check_folders(counts, root)
    masks_among_images = [*_masks_beside_images(placed), *_masks_in_classes(placed, folders_of)]
    if masks_among_images and not listed:
        raise DataError(f"{root}: {masks_among_images[0]}; if these are photographs, {LIST_ALL}")
    if not listed:
        _check_masks(found.keys() - images.keys(), tops, root)
    if len(counts) < 2:
        few = f"only one folder with images, '{used[0]}'" if used else "no folder with images"
        raise DataError(
            f"{root} holds {few}: class folders need at least two, one per class (if a folder in it is the data set, "
            "give its path)"
        )

    class_names = listed or used
    masks = {} if MASKS_FOLDER in class_names and not splits_of else find_masks(root / MASKS_FOLDER)
    splits: dict[str, list[Sample]] = defaultdict(list)
    for name, (split, folder) in placed.items():
        classes = (class_names.index(folder) + 1,) if folder in class_names else ()
        sample_id = image_id(name)
        splits[split].append(Sample(id=sample_id, image=images[name], classes=classes, mask=masks.get(sample_id)))
    without_labels = [
        name
        for name in images
        if (folders := folders_of[name])
        and (folders[0] in unknown or (folders[0] in splits_of and not tops[folders[0]]))
    ]
    unlabelled, dropped = drop_same_ids(
        (
            Sample(id=image_id(name), image=images[name], classes=(), mask=masks.get(image_id(name)), labelled=False)
            for name in without_labels
        ),
        beside=(sample for samples in splits.values() for sample in samples),
    )
    outside = Counter(
        folders_of[name][0] if folders_of[name] else "" for name in images.keys() - {*placed, *without_labels}
    )
    return Dataset(
        root=root,
        layout="class_folders",
        class_names=class_names,
        splits={name: tuple(samples) for name, samples in splits.items()},
        train_split=first_present(TRAIN_NAMES, splits) or TRAIN_NAMES[0],
        val_split=first_present(VAL_NAMES, splits),
        warnings=(
            *((_describe_outside(outside, splits_of, tops, counts),) if outside else ()),
            *(
                f"images in {top}/{folder}/ are read as images without labels, since the training split has no class "
                f"'{folder}'; if it is one, {LIST_ALL}"
                for top, folder in unknown.items()
            ),
            *dropped,
            *masks_among_images[:1],
            *(() if listed else _inner_folder_warnings(placed, folders_of)),
            *(() if listed else joined_warnings(counts, "sort the images in a table instead (toco init)")),
        ),
        counted=(describe_unread(unread),) if unread else (),
        unlabelled=unlabelled,
        unread_files=tuple(unread),
    )


def _is_mask(name: str, listed: Collection[str]) -> bool:
    top = name.split("/")[0]
    return top.lower() == MASKS_FOLDER and canonical_name(top) not in listed


def _folders_above(names: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Return the folders above each file, without a folder that has the name of the one around it and is alone in it.

    Archives are often unpacked into such a pair: train/train/cats/a.jpg.
    """
    folders_of = {name: tuple(name.split("/")[:-1]) for name in names}
    inner: dict[str, set[str]] = defaultdict(set)
    for folders in filter(None, folders_of.values()):
        inner[folders[0]].add(folders[1].lower() if len(folders) > 1 else "")
    doubled = {top for top, inside in inner.items() if inside == {top.lower()}}
    return {
        name: (folders[0], *folders[2:]) if folders and folders[0] in doubled else folders
        for name, folders in folders_of.items()
    }


def _split_folders(tops: Mapping[str, Collection[str]], listed: Collection[str]) -> dict[str, str]:
    """Return {folder at the top: split}; empty if these folders are classes."""
    inside = {canonical_name(one) for top in tops for one in tops[top]}
    if len({canonical_name(top) for top in tops} & {*listed}) > len(inside & {*listed}):
        return {}
    found = {top: SPLITS[match[1].lower()] for top in tops if (match := SPLIT_FOLDER.fullmatch(top))}
    # A single 'train' beside other folders may be a class, for example of vehicles.
    if found and (len(found) > 1 or {top.lower() for top in tops.keys() - found.keys()} <= OTHER_SPLITS):
        return found
    # seg_train and seg_test: the rest of the names is the same. 'training shoe' and 'test strip' are classes.
    groups: dict[tuple[str, ...], dict[str, str]] = defaultdict(dict)
    for top in tops:
        words = re.split(r"[ _-]+|(?<=[^\W\d])(?=\d)", top.lower())
        if (word := first_present(SPLITS, words)) is not None:
            rest = () if found else tuple(one for one in words if one != word and not one.isdigit())
            groups[rest][top] = SPLITS[word]
    for rest, group in groups.items():
        has_both = all(not {*group.values()}.isdisjoint(names) for names in (TRAIN_NAMES, VAL_NAMES))
        if has_both and (rest or len(group) == len(tops)):
            return group
    return {}


def _unlabelled_folders(
    tops: Mapping[str, Collection[str]], splits_of: Mapping[str, str], listed: Collection[str]
) -> dict[str, str]:
    """Return {split folder: the only folder in it} for folders such as test/unknown, which are not classes."""
    trained = {canonical_name(one) for top, split in splits_of.items() if split in TRAIN_NAMES for one in tops[top]}
    known = {*trained, *listed, BACKGROUND_FOLDER}
    return {
        top: folder
        for top, split in splits_of.items()
        if trained and split not in TRAIN_NAMES and len(tops[top]) == 1
        for folder in tops[top]
        if canonical_name(folder) not in known
    }


def _check_splits(tops: Mapping[str, Collection[str]], splits_of: Mapping[str, str], root: Path) -> None:
    """Refuse splits inside folders of classes, and a folder 'train' with folders of classes beside other folders."""
    classes = sorted(tops.keys() - splits_of.keys())
    inner = {one for top in tops for one in tops[top] if SPLIT_FOLDER.fullmatch(one)}
    if len(inner) > 1 and not splits_of:
        raise DataError(
            f"{root}: {list_names(sorted(inner))} are inside the folders of classes: put the classes inside the "
            f"splits, for example train/cats/; or if each folder at the top is a class, {LIST_ALL}"
        )
    for top in filter(SPLIT_FOLDER.fullmatch, classes):
        if len(tops[top]) > 1:
            raise DataError(
                f"{root}: '{top}' holds folders ({list_names(sorted(tops[top]), 3)}), so that it looks like a split, "
                f"but beside it are folders that are not splits ({list_names(one for one in classes if one != top)}): "
                f"rename these to '{VAL_NAMES[0]}' or move them away; if '{top}' is a class, {LIST_ALL}"
            )


def _check_unread(class_of: Mapping[str, str], root: Path) -> None:
    """Refuse classes that would vanish: folders that have pictures, but none of a kind that is read."""
    if pictures := [name for name in class_of if is_unread_picture(name)]:
        folders = list_names(dict.fromkeys(class_of[name] for name in pictures))
        raise DataError(
            f"{root}: no image in {folders} can be read ({count_unread(pictures)}): {conversion_advice(pictures)}, or "
            "move the folder elsewhere"
        )


def _check_listed(used: Collection[str], listed: Collection[str], root: Path) -> None:
    if unlisted := [name for name in used if name not in listed]:
        hint = did_you_mean(unlisted[0], listed)
        raise DataError(
            f"{root}: {CLASSES_FILE} lacks the folder {list_names(unlisted)} (it lists {list_names(listed)}{hint}): "
            "rename the folder, add it there, or move it elsewhere"
        )


def _check_folders(counts: Counter[str], root: Path) -> None:
    """Refuse folders that were probably not meant as classes."""
    refuse_doubtful_names(counts, root, "folder", ADVICE)
    parts = [name for name in counts if PART_FOLDER.fullmatch(name)]
    images, masks = ([name for name in counts if kind.fullmatch(name)] for kind in (IMAGE_PART, MASK_PART))
    if images and masks:
        parts += [*images, *masks]
    if parts:
        raise DataError(
            f"{root}: {list_names(parts)} {'does' if len(parts) == 1 else 'do'} not look like folders of classes, but "
            f"like images, masks or annotations: give the folder that holds one folder of images per class; "
            f"{OTHER_LAYOUTS}; {LIST_IF_MEANT}"
        )


def _masks_beside_images(images: Iterable[str]) -> Iterator[str]:
    """Describe files that have the names of masks of the images beside them: they are read as photographs."""
    masks: dict[str, tuple[str, str]] = {}  # file -> its folder, and the own name of its image
    others: dict[tuple[str, str], str] = {}
    for name in images:
        folder, stem = posixpath.split(image_id(name))
        match = MASK_NAME.fullmatch(stem)
        own = IMAGE_NAME.sub("", (match["image"] or match["same"]) if match else stem).lower()
        if match:
            masks[name] = folder, own
        others[folder, IMAGE_NAME.sub("", stem).lower()] = name
    beside = {name: others[place] for name, place in masks.items() if others.get(place, name) != name}
    if beside:
        mask, image = next(iter(beside.items()))
        yield (
            f"files with the names of masks, beside images: {len(beside)} (first {mask} beside {image}); masks would "
            f"be read as photographs: move them to {MASKS_FOLDER}/, as PNGs with the path of their image "
            f"({MASKS_FOLDER}/{image_id(image)}.png), 0 for background and the number of the class"
        )


def _masks_in_classes(placed: Iterable[str], folders_of: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Describe classes that hold a folder of masks beside images, such as 01/masks/ beside 01/images/ or 01/a.jpg."""
    inner: dict[tuple[str, ...], set[str]] = defaultdict(set)  # folders above -> the folders in them, '' for files
    for name in placed:
        folders = (*folders_of[name], "")
        for depth in range(1, len(folders)):
            inner[folders[:depth]].add(folders[depth])
    for above, names in inner.items():
        masks = {one for one in names if MASK_PART.fullmatch(one)}
        images = {one for one in names - masks if not one or PART_FOLDER.fullmatch(one) or IMAGE_PART.fullmatch(one)}
        if masks and images:
            yield (
                f"{'/'.join(above)}/ holds the folder {list_names(sorted(masks))} beside images; masks would be read "
                f"as photographs: move them to {MASKS_FOLDER}/, as PNGs with the path of their image"
            )


def _inner_folder_warnings(
    placed: Mapping[str, tuple[str, str]], folders_of: Mapping[str, Sequence[str]]
) -> tuple[str, ...]:
    """Return a warning about classes whose images are all in several inner folders, which may be the classes."""
    inner: dict[str, set[str]] = defaultdict(set)  # class -> the folders in it, '' for images directly in it
    for name, (_, folder) in placed.items():
        folders = [canonical_name(one) for one in folders_of[name]]
        inner[folder].update((*folders, "")[folders.index(folder) + 1 :][:1])
    groups = {
        folder: sorted(inside)
        for folder, inside in sorted(inner.items())
        if len(inside) > 1 and "" not in inside and folder.lower() != BACKGROUND_FOLDER
    }
    if not groups:
        return ()
    told = [f"'{folder}' of {list_names(inside, 3)}" for folder, inside in groups.items()]
    more = f"; and {len(told) - 3} more" if len(told) > 3 else ""
    return (
        f"classes whose images are in several folders, and are read as one class: {'; '.join(told[:3])}{more}. If the "
        f"inner folders are the classes, move each of them up, beside '{next(iter(groups))}'",
    )


def _check_masks(masks: Collection[str], tops: Collection[str], root: Path) -> None:
    """Refuse a folder masks/ whose files cannot belong to the images, since it may be a class."""
    if masks and tops and {name.split("/")[1].lower() for name in masks}.isdisjoint(top.lower() for top in tops):
        raise DataError(
            f"{root}: the files in {MASKS_FOLDER}/ ({len(masks)}) belong to no image: the mask of {min(tops)}/1.jpg is "
            f"{MASKS_FOLDER}/{min(tops)}/1.png; if {MASKS_FOLDER}/ is a class, {LIST_ALL}"
        )


def _describe_outside(
    outside: Counter[str], splits_of: Collection[str], tops: Mapping[str, Collection[str]], classes: Collection[str]
) -> str:
    """Count skipped images by their folder at the top, '' for none, and ask for those that may be splits."""
    places = [f"{top}/: {count}" for top, count in sorted(outside.items()) if top][:MOST_TOLD]
    places += [f"in no folder: {outside['']}"] if outside[""] else []
    others = [top for top in sorted(outside) if top not in splits_of and {*tops.get(top, ())} & {*classes}]
    masks = [top for top in others if PART_FOLDER.fullmatch(top) or MASK_PART.fullmatch(top)]
    splits = [top for top in others if top not in masks]
    hint = f"; if {list_names(splits)} is a split, call it 'val' or 'test'" if splits else ""
    if masks:
        hint += (
            f"; if {list_names(masks)} holds ground-truth masks, call it '{MASKS_FOLDER}', and give each mask the path "
            "of its image"
        )
    return f"images outside the class folders, skipped: {outside.total()} ({', '.join(places)}){hint}"
