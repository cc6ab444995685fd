"""Label files in HDF5: written shard by shard, joined at the end, read by name.

    cams.h5    cams/<image id>   float16 (k, h, w), attribute `classes` (1-based)
    labels.h5  masks/<image id>  uint8 (h, w): 0 background, 1..C classes, 255 ignored

A file that has its final name is whole: shards and products are written beside and renamed. h, w are the
original image's size, k the classes that the image has.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from data.dataset import IGNORE_INDEX
from stages.whole_files import ArtifactError, whole_stream


class ImageLabels(NamedTuple):
    """What is stored of one image."""

    id: str
    classes: tuple[int, ...]  # 1-based, in the order of `cam`
    cam: NDArray[np.float16]  # (k, h, w), 0..1
    mask: NDArray[np.uint8]  # (h, w)


def write_shard(path: Path, labels: Sequence[ImageLabels]) -> None:
    """Write some images' labels, whole or not at all."""
    with whole_stream(path) as stream, h5py.File(stream, "w") as file:
        for group in ("cams", "masks"):  # there even if all images of the shard were bad
            file.create_group(group)
        for one in labels:
            # One chunk an image: images are read whole. Shuffled bytes of smooth float16 maps compress well.
            chunks = one.cam.shape if one.cam.size else None
            packing = {"compression": "gzip", "compression_opts": 1, "shuffle": True} if chunks else {}
            cam = file.create_dataset(f"cams/{one.id}", data=one.cam, chunks=chunks, **packing)
            cam.attrs["classes"] = np.array(one.classes, dtype=np.uint8)
            file.create_dataset(
                f"masks/{one.id}",
                data=one.mask,
                chunks=one.mask.shape,
                compression="gzip",
                compression_opts=4,
            )


def stored_ids(shards: Sequence[Path]) -> set[str]:
    """The images whose labels are in these shards."""
    ids: set[str] = set()
    for shard in shards:
        with h5py.File(shard, "r") as file:
            ids.update(dataset_names(file["masks"]))
    return ids


def join_shards(shards: Sequence[Path], folder: Path, attributes: Mapping[str, Any]) -> None:
    """Copy all shards into cams.h5 and labels.h5 of a folder, without unpacking them."""
    for name, group in (("cams.h5", "cams"), ("labels.h5", "masks")):
        with whole_stream(folder / name) as stream, h5py.File(stream, "w") as product:
            for key, value in attributes.items():
                product.attrs[key] = value
            product.create_group(group)
            for shard in shards:
                with h5py.File(shard, "r") as source:
                    for image_id in dataset_names(source[group]):
                        path = f"{group}/{image_id}"
                        product.require_group(path.rpartition("/")[0])
                        source.copy(path, product, path)
                stream.check()


def dataset_names(group: h5py.Group, prefix: str = "") -> Iterator[str]:
    """List the data sets below a group, as paths relative to it."""
    for name, item in group.items():
        if isinstance(item, h5py.Group):
            yield from dataset_names(item, f"{prefix}{name}/")
        else:
            yield prefix + name


def label_attributes(class_names: Sequence[str], how: Mapping[str, Any]) -> dict[str, Any]:
    """File attributes: class names, the ignored value, and how the labels were made (JSON)."""
    return {"class_names": list(class_names), "ignore_index": IGNORE_INDEX, "made_by": json.dumps(how)}


class LabelFile:
    """Reads cams.h5 or labels.h5; opened lazily in each process, so that loaders may receive it."""

    def __init__(self, path: Path, group: str) -> None:
        """Check the file.

        Args:
            path: cams.h5 or labels.h5.
            group: 'cams' or 'masks'.

        Raises:
            ArtifactError: It is missing or damaged.
        """
        self.path = path
        self.group = group
        self._file: h5py.File | None = None
        try:
            with h5py.File(path, "r") as file:
                self.ids = list(dataset_names(file[group]))
                self.class_names = tuple(str(name) for name in file.attrs["class_names"])
        except (OSError, KeyError) as error:
            raise ArtifactError(
                f"{path} is no whole label file ({error}): run 'toco make-labels --overwrite' again"
            ) from error

    def __getstate__(self) -> dict[str, Any]:
        """Travel without the open file."""
        return {**self.__dict__, "_file": None}

    def __contains__(self, image_id: str) -> bool:
        """Whether an image is in the file."""
        return f"{self.group}/{image_id}" in self._open()

    def read(self, image_id: str) -> NDArray[Any]:
        """Read one image's data set."""
        value: NDArray[Any] = self._open()[f"{self.group}/{image_id}"][()]
        return value

    def classes(self, image_id: str) -> tuple[int, ...]:
        """The classes (1-based) of one image's CAM."""
        return tuple(int(number) for number in self._open()[f"{self.group}/{image_id}"].attrs["classes"])

    def _open(self) -> h5py.File:
        if self._file is None:
            self._file = h5py.File(self.path, "r")
        return self._file
