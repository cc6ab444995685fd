"""Label files in HDF5: written shard by shard, joined at the end, read by name.

    cams.h5    cams/<image id>        float16 (k, h, w), attribute `classes` (1-based)
    labels.h5  masks/<image id>       uint8 (h, w): 0 background, 1..C classes, 255 ignored
               confidence/<image id>  uint8 (h, w): 0..255 for 0..1; only if it was asked for

A file that has its final name is whole: shards and products are written beside and renamed. h, w are the
original image's size, k the classes that the image has. An image is one chunk of gzip, which any HDF5 from
1.10 on reads without a plugin; what this layout is worth is measured in bench/store.md.
"""

import io
import json
import math
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from data.atomic_write import atomic_write
from data.dataset import IGNORE_INDEX
from data.errors import ArtifactError
from stages.run_folder.saving import atomic_stream

FILE_GROUPS = {"cams.h5": ("cams",), "labels.h5": ("masks", "confidence")}
OPTIONAL = ("confidence",)  # groups that are there only if an image has something to put in
# The file format of HDF5 1.10 (2016): a lone chunk and a group of 100,000 names cost less than in older ones.
HDF5_VERSIONS = ("v110", "v110")
OPEN_SHARDS = 64  # at a time, while joining


class ImageLabels(NamedTuple):
    """What is stored of one image."""

    id: str
    classes: tuple[int, ...]  # 1-based, in the order of `cam`
    cam: NDArray[np.float16]  # (k, h, w), 0..1
    mask: NDArray[np.uint8]  # (h, w)
    confidence: NDArray[np.uint8] | None = None  # (h, w), 0..255 for 0..1


def write_shard(path: Path, labels: Sequence[ImageLabels], *, threads: int = 1) -> None:
    """Write some images' labels, whole or not at all.

    Processes may write side by side, each to paths of its own: how shards are named and how images are shared
    out between them changes nothing in the products.

    Args:
        path: Of the shard.
        labels: Of images that no other shard has.
        threads: How many compress, while this one writes; 1: none besides this one.

    Raises:
        OSError: Not everything could be written.
    """
    # In memory, so that a full disk meets a plain write and not HDF5, which floods the terminal and crashes.
    memory = io.BytesIO()
    with h5py.File(memory, "w", libver=HDF5_VERSIONS) as file, ExitStack() as stack:
        pack_all = map if threads == 1 else stack.enter_context(ThreadPoolExecutor(threads)).map
        for group in ("cams", "masks"):  # there even if all images of the shard were bad
            file.create_group(group)
        for one, packed in zip(labels, pack_all(_pack, labels), strict=True):
            cam = _write(file, f"cams/{one.id}", one.cam, packed.cam, shuffle=True)
            cam.attrs["classes"] = np.array(one.classes, dtype=np.uint8)
            _write(file, f"masks/{one.id}", one.mask, packed.mask)
            if one.confidence is not None:
                _write(file, f"confidence/{one.id}", one.confidence, packed.confidence)
    with atomic_write(path) as temporary:
        temporary.write_bytes(memory.getbuffer())


class Packed(NamedTuple):
    """An image's labels, compressed as HDF5's gzip filter does it."""

    cam: bytes
    mask: bytes
    confidence: bytes


def _pack(labels: ImageLabels) -> Packed:
    """Compress without HDF5, which does so under a lock: zlib lets other threads run meanwhile."""
    # Shuffled: all first bytes, then all second ones, since those of smooth maps are alike.
    shuffled = np.ascontiguousarray(labels.cam).view(np.uint8).reshape(-1, labels.cam.itemsize).T
    return Packed(
        cam=_gzip(shuffled),
        # Masks are runs of equal pixels: a search for nothing else is faster, and finds more than gzip's level 4.
        mask=_gzip(labels.mask, strategy=zlib.Z_RLE),
        confidence=b"" if labels.confidence is None else _gzip(labels.confidence),
    )


def _gzip(values: NDArray[Any], strategy: int = zlib.Z_DEFAULT_STRATEGY) -> bytes:
    packer = zlib.compressobj(level=1, strategy=strategy)
    return packer.compress(values.tobytes()) + packer.flush()


def _write(file: h5py.File, name: str, values: NDArray[Any], packed: bytes, shuffle: bool = False) -> h5py.Dataset:
    """Store an array whose bytes are compressed already, as one chunk: images are read whole."""
    if not values.size:  # HDF5 has no empty chunks
        return file.create_dataset(name, data=values)
    dataset = file.create_dataset(
        name,
        shape=values.shape,
        dtype=values.dtype,
        chunks=values.shape,
        compression="gzip",
        compression_opts=1,
        shuffle=shuffle,
    )
    dataset.id.write_direct_chunk((0,) * values.ndim, packed)
    return dataset


def stored_ids(shards: Sequence[Path]) -> set[str]:
    """The images whose labels are in these shards.

    Raises:
        ArtifactError: A shard is damaged or foreign; it is not passed over, since only whole files get such a name.
    """
    return set(_places(shards, "masks"))


def join_shards(shards: Sequence[Path], folder: Path, attributes: Mapping[str, Any]) -> None:
    """Copy all shards into cams.h5 and labels.h5 of a folder, without unpacking them.

    The images stand in the order of their ids, so that the products depend, to the byte, on the labels alone and
    not on who wrote which shard when. Of an image that is in several shards, the first one's labels are taken.
    Memory holds the ids and a few open shards.

    Raises:
        ArtifactError: A shard is damaged or foreign.
        OSError: Not everything could be written.
    """
    for name, groups in FILE_GROUPS.items():
        with atomic_stream(folder / name) as stream, h5py.File(stream, "w", libver=HDF5_VERSIONS) as product:
            for key, value in attributes.items():
                product.attrs[key] = value
            for group in groups:
                _copy_group(shards, group, product, stream.check)


def _copy_group(shards: Sequence[Path], group: str, product: h5py.File, check_disk: Callable[[], None]) -> None:
    places = _places(shards, group)
    if places or group not in OPTIONAL:
        product.create_group(group)
    parent = group
    with _opened() as open_shard:
        for number, (image_id, shard) in enumerate(sorted(places.items())):
            path = f"{group}/{image_id}"
            if parent != (parent := path.rpartition("/")[0]):
                product.require_group(parent)
            source = open_shard(shard)
            with _damaged(shard):
                source.copy(path, product, path)
            if number % 1000 == 0:  # there is no need to go on for long
                check_disk()
    check_disk()


def _places(shards: Sequence[Path], group: str) -> dict[str, Path]:
    """Image id -> the first of the shards that has it in a group."""
    places: dict[str, Path] = {}
    for shard in shards:
        with _damaged(shard), h5py.File(shard, "r") as file:
            names = dataset_names(file[group]) if group in file or group not in OPTIONAL else []
            for image_id in names:
                places.setdefault(image_id, shard)
    return places


@contextmanager
def _opened() -> Iterator[Callable[[Path], h5py.File]]:
    """Give a function that opens shards and closes those that were not asked for lately."""
    files: OrderedDict[Path, h5py.File] = OrderedDict()

    def open_shard(path: Path) -> h5py.File:
        if path not in files:
            if len(files) == OPEN_SHARDS:
                files.popitem(last=False)[1].close()
            with _damaged(path):
                files[path] = h5py.File(path, "r")
        files.move_to_end(path)
        return files[path]

    try:
        yield open_shard
    finally:
        for file in files.values():
            file.close()


@contextmanager
def _damaged(shard: Path) -> Iterator[None]:
    """Say what to do about a shard that cannot be read: its final name says that it was whole once."""
    try:
        yield
    except (OSError, KeyError, RuntimeError) as error:
        raise ArtifactError(
            f"{shard} is no whole shard of labels ({error}): delete it and run 'toco make-labels --resume', "
            "which makes its images again"
        ) from error


def dataset_names(group: h5py.Group) -> list[str]:
    """List the data sets below a group, as paths relative to it, folder by folder in the order of their names."""
    names: list[str] = []

    def visit(name: bytes, about: Any) -> None:
        if about.type == h5py.h5o.TYPE_DATASET:
            names.append(name.decode())

    # Not h5py's `items`, which opens each data set: ten times slower.
    h5py.h5o.visit(group.id, visit, idx_type=h5py.h5.INDEX_NAME, order=h5py.h5.ITER_INC, info=True)
    return names


def label_attributes(class_names: Sequence[str], how: Mapping[str, Any]) -> dict[str, Any]:
    """File attributes: class names, the ignored value, and how the labels were made (JSON)."""
    return {"class_names": list(class_names), "ignore_index": IGNORE_INDEX, "made_by": json.dumps(how)}


class LabelFile:
    """Reads cams.h5 or labels.h5; opened lazily in each process, so that loaders may receive it."""

    def __init__(self, path: Path, group: str) -> None:
        """Check the file.

        Args:
            path: cams.h5 or labels.h5.
            group: 'cams', 'masks' or 'confidence'.

        Raises:
            ArtifactError: It is missing or damaged, or was made without this group.
        """
        self.path = path
        self.group = group
        self._file: h5py.File | None = None
        with self._damaged(), h5py.File(path, "r") as file:
            self.class_names = tuple(str(name) for name in file.attrs["class_names"])
            without = group in OPTIONAL and group not in file
            if not without:
                file[group]  # or a KeyError
        if without:
            raise ArtifactError(
                f"{path} has no {group}: it was made without; run 'toco make-labels --{group} --overwrite' again"
            )

    @cached_property
    def ids(self) -> list[str]:
        """The images in the file, folder by folder in the order of their names.

        Raises:
            ArtifactError: The file is damaged.
        """
        with self._damaged():
            return dataset_names(self._open()[self.group])

    def __getstate__(self) -> dict[str, Any]:
        """Travel without the open file."""
        return {**self.__dict__, "_file": None}

    def __contains__(self, image_id: str) -> bool:
        """Whether an image is in the file."""
        return f"{self.group}/{image_id}" in self._open()

    def read(self, image_id: str) -> NDArray[Any]:
        """Read one image's data set.

        Raises:
            KeyError: The image is not in the file.
            OSError: The image's data are damaged.
        """
        stored = h5py.h5d.open(self._open().id, f"{self.group}/{image_id}".encode())
        value: NDArray[Any] | None = _unpack(stored)
        if value is None:
            value = h5py.Dataset(stored)[()]
        return value

    def classes(self, image_id: str) -> tuple[int, ...]:
        """The classes (1-based) of one image's CAM."""
        return tuple(int(number) for number in self._open()[f"{self.group}/{image_id}"].attrs["classes"])

    def _open(self) -> h5py.File:
        if self._file is None:
            self._file = h5py.File(self.path, "r")
        return self._file

    @contextmanager
    def _damaged(self) -> Iterator[None]:
        try:
            yield
        except (OSError, KeyError, RuntimeError) as error:
            raise ArtifactError(
                f"{self.path} is no whole label file ({error}): run 'toco make-labels --overwrite' again"
            ) from error


def _unpack(stored: h5py.h5d.DatasetID) -> NDArray[np.uint8] | None:
    """Read bytes stored as one chunk of gzip, a third faster than HDF5's own filter does (bench/store.md).

    Returns:
        None if they are stored otherwise or damaged, so that HDF5 may read them, or say what is wrong.
    """
    shape, how = stored.shape, stored.get_create_plist()
    one_chunk = how.get_layout() == h5py.h5d.CHUNKED and how.get_chunk() == shape
    gzip_alone = how.get_nfilters() == 1 and how.get_filter(0)[0] == h5py.h5z.FILTER_DEFLATE
    if not (one_chunk and gzip_alone and stored.dtype == np.uint8):
        return None
    size = math.prod(shape)
    skipped_filters, packed = stored.read_direct_chunk((0,) * len(shape))
    try:
        values = b"" if skipped_filters else zlib.decompress(packed, bufsize=size)
    except zlib.error:
        return None
    if len(values) != size:
        return None
    # A copy, since what belongs to `bytes` may not be changed.
    return np.frombuffer(values, dtype=np.uint8).reshape(shape).copy()
