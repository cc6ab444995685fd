"""Label files in HDF5: written in shards, joined at the end, read by image id.

    cams.h5    cams/<image id>        float16 (k, s, s), 0..1; attributes `classes` (1-based) and `size` (h, w);
                           (k, h, w) of images in windows
               digests/<image id>     uint8 (32): SHA-256 of the image's pixels as the network gets them
    labels.h5  masks/<image id>       uint8 (h, w): 0 background, 1..C classes, 255 ignored
               confidence/<image id>  uint8 (h, w): 0..255 for 0..1; only with --confidence
    scores.h5  scores/<image id>      float16 (k, gh, gw), 0..1, and the attributes of CAMs; only of relabelled masks

Letters: k classes of the image, s side of the network's square input, h w size of the original image, gh gw patches of
the frozen features. Earlier versions stored CAMs as (k, h, w), without `size`.

Shards and products are written atomically: a file under its final name is complete. Each array is one gzip chunk,
which HDF5 1.10 and later read without a plugin. bench/store.md has the measurements behind this layout.
"""

import io
import json
import zlib
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
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
from stages.run_folder.artifacts import command_for
from stages.run_folder.hdf5 import HDF5_VERSIONS, dataset_names, open_hdf5
from stages.run_folder.saving import atomic_stream, unreadable

OPTIONAL = ("confidence", "digests")  # groups that exist only if an image has data for them
OPEN_SHARDS = 64  # files open at the same time while shards are joined


class ImageLabels(NamedTuple):
    """What is stored of one image."""

    id: str
    classes: tuple[int, ...]  # 1-based, in the order of `cam`
    cam: NDArray[np.float16]  # (k, s, s) or (k, h, w), 0..1; of a relabelled image its scores (k, gh, gw)
    mask: NDArray[np.uint8]  # (h, w)
    confidence: NDArray[np.uint8] | None = None  # (h, w), 0..255 for 0..1
    digest: NDArray[np.uint8] | None = None  # (32,), SHA-256 of the image's pixels as the network gets them


def write_shard(path: Path, labels: Sequence[ImageLabels], *, threads: int = 1) -> None:
    """Write the labels of some images to one file, atomically.

    Several processes may write at once, each to its own paths. Neither the shards' names nor the choice of images in
    a shard affect the joined files.

    Args:
        path: Path of the shard.
        labels: Labels of images that no other shard has.
        threads: Number of threads that compress.

    Raises:
        OSError: The file could not be written completely.
    """
    # HDF5 writes to memory. On a full disk, HDF5 would flood the terminal and crash; a plain write raises OSError.
    memory = io.BytesIO()
    with h5py.File(memory, "w", libver=HDF5_VERSIONS) as file, ExitStack() as stack:
        pack_all = map if threads == 1 else stack.enter_context(ThreadPoolExecutor(threads)).map
        for group in ("cams", "masks"):  # also if all images of the shard were bad
            file.create_group(group)
        for one, (cam, mask, confidence) in zip(labels, pack_all(_pack, labels), strict=True):
            dataset = _write(file, f"cams/{one.id}", one.cam, cam)
            dataset.attrs["classes"] = np.array(one.classes, dtype=np.uint8)
            dataset.attrs["size"] = np.array(one.mask.shape, dtype=np.uint32)
            _write(file, f"masks/{one.id}", one.mask, mask)
            if one.confidence is not None:
                _write(file, f"confidence/{one.id}", one.confidence, confidence)
            if one.digest is not None:
                file[f"digests/{one.id}"] = one.digest
    with atomic_write(path) as temporary:
        temporary.write_bytes(memory.getbuffer())


def _pack(labels: ImageLabels) -> tuple[bytes, bytes, bytes]:
    """Compress CAM, mask and confidence as HDF5's gzip filter does.

    HDF5 compresses under a lock. zlib releases Python's lock, so that several threads compress at once.
    """
    # HDF5's shuffle filter: the first bytes of all values, then the second bytes. Those of smooth maps are similar.
    shuffled = np.ascontiguousarray(labels.cam).view(np.uint8).reshape(-1, labels.cam.itemsize).T
    return (
        # Z_RLE searches for runs only, which halves the time for a CAM. Masks consist of long runs, so that Z_RLE makes
        # them smaller than gzip level 4 does.
        _gzip(shuffled, strategy=zlib.Z_RLE),
        _gzip(labels.mask, strategy=zlib.Z_RLE),
        b"" if labels.confidence is None else _gzip(labels.confidence),
    )


def _gzip(values: NDArray[Any], strategy: int = zlib.Z_DEFAULT_STRATEGY) -> bytes:
    packer = zlib.compressobj(level=1, strategy=strategy)
    return packer.compress(values.tobytes()) + packer.flush()


def _write(file: h5py.File, name: str, values: NDArray[Any], packed: bytes) -> h5py.Dataset:
    """Store an array as one chunk whose bytes are compressed already; float16 bytes are shuffled."""
    if not values.size:  # HDF5 has no empty chunks
        return file.create_dataset(name, data=values)
    dataset = file.create_dataset(
        name,
        shape=values.shape,
        dtype=values.dtype,
        chunks=values.shape,
        compression="gzip",
        compression_opts=1,
        shuffle=values.dtype.itemsize > 1,
    )
    dataset.id.write_direct_chunk((0,) * values.ndim, packed)
    return dataset


def stored_ids(shards: Sequence[Path]) -> set[str]:
    """Return the ids of the images in these shards.

    Raises:
        ArtifactError: A shard is damaged or is another kind of file.
    """
    return set(_places(shards, "masks"))


def join_shards(
    shards: Sequence[Path],
    folder: Path,
    attributes: Mapping[str, Any],
    *,
    relabelled: Sequence[Path] = (),
    given: Sequence[Path] = (),
    ids: Collection[str] | None = None,
) -> None:
    """Copy shards into cams.h5 and labels.h5 of a folder, without decompressing them.

    If there are relabelled shards, the masks are theirs, and their scores become scores.h5. Masks in `given` shards,
    drawn by people, take precedence over both. Images that are not in `ids` are left out: they were removed from the
    data set since their shard was written. None means all images.

    Images are written in the order of their ids, so that the products are byte-identical whichever process wrote which
    shard, and when. If an image is in several shards, the labels of the first shard are used. Memory holds the ids and
    a few open shards.

    Raises:
        ArtifactError: A shard is damaged or is another kind of file.
        OSError: A product could not be written completely.
    """
    sources = [("cams.h5", shards, {"cams": "cams", "digests": "digests"})]
    if relabelled:
        sources.append(("scores.h5", relabelled, {"cams": "scores"}))
    # Last, because a stage is finished when it exists.
    sources.append(("labels.h5", [*given, *(relabelled or shards)], {"masks": "masks", "confidence": "confidence"}))
    for name, parts, groups in sources:
        join_file(folder / name, parts, groups, attributes, ids=ids)


def join_file(
    path: Path,
    shards: Sequence[Path],
    groups: Mapping[str, str],
    attributes: Mapping[str, Any],
    *,
    ids: Collection[str] | None = None,
) -> None:
    """Copy groups of all shards into one file.

    Args:
        path: The file.
        shards: The shards.
        groups: The groups' names in the shards, and their names in the file.
        attributes: Attributes of the file.
        ids: The images to copy; None means all.

    Raises:
        ArtifactError: A shard is damaged or is another kind of file.
        OSError: The file could not be written completely.
    """
    with atomic_stream(path) as stream, h5py.File(stream, "w", libver=HDF5_VERSIONS) as product:
        for key, value in attributes.items():
            product.attrs[key] = value
        for stored, group in groups.items():
            places = {one: shard for one, shard in _places(shards, stored).items() if ids is None or one in ids}
            _copy_group(places, stored, group, product, stream.check)


def _copy_group(
    places: Mapping[str, Path], stored: str, group: str, product: h5py.File, check_disk: Callable[[], None]
) -> None:
    """Copy the group `stored` of the shards that have these images to `group` of the product."""
    if places or group not in OPTIONAL:
        product.create_group(group)
    parent = group
    with _opened() as open_shard:
        for number, (image_id, shard) in enumerate(sorted(places.items())):
            path = f"{group}/{image_id}"
            folder = path.rpartition("/")[0]
            if folder != parent:  # one look-up per folder instead of per image makes joining fast
                product.require_group(folder)
                parent = folder
            source = open_shard(shard)
            with _damaged(shard):
                source.copy(f"{stored}/{image_id}", product, path)
            if number % 1000 == 0:  # stop soon after the disk is full
                check_disk()
    check_disk()


def _places(shards: Sequence[Path], group: str) -> dict[str, Path]:
    """Map each image id to the first shard that has it in a group."""
    places: dict[str, Path] = {}
    for shard in shards:
        with _damaged(shard), open_hdf5(shard) as file:
            names = dataset_names(file[group]) if group in file or group not in OPTIONAL else []
            for image_id in names:
                places.setdefault(image_id, shard)
    return places


@contextmanager
def _opened() -> Iterator[Callable[[Path], h5py.File]]:
    """Yield a function that opens shards and closes the least recently used ones."""
    files: OrderedDict[Path, h5py.File] = OrderedDict()

    def open_shard(path: Path) -> h5py.File:
        if path not in files:
            if len(files) == OPEN_SHARDS:
                files.popitem(last=False)[1].close()
            with _damaged(path):
                files[path] = open_hdf5(path)
        files.move_to_end(path)
        return files[path]

    try:
        yield open_shard
    finally:
        for file in files.values():
            file.close()


@contextmanager
def _damaged(shard: Path) -> Iterator[None]:
    """Turn HDF5's errors into one line that says what to do; a shard was complete when it got its final name."""
    try:
        yield
    except (OSError, KeyError, RuntimeError) as error:
        advice = "delete it and run 'toco make-labels --resume', which makes its images again"
        raise unreadable(shard, error, "a complete shard of labels", advice) from error


def label_attributes(class_names: Sequence[str], how: Mapping[str, Any]) -> dict[str, Any]:
    """File attributes: class names, the ignored value, and the settings that made the labels (JSON)."""
    return {"class_names": list(class_names), "ignore_index": IGNORE_INDEX, "made_by": json.dumps(how)}


class LabelFile:
    """Reads one group of cams.h5 or labels.h5.

    Each process opens the file when it first reads from it, so that workers of a data loader may receive this object.
    """

    def __init__(self, path: Path, group: str) -> None:
        """Check the file.

        Args:
            path: cams.h5 or labels.h5.
            group: 'cams', 'masks', 'confidence' or 'digests'.

        Raises:
            ArtifactError: The file is missing, is damaged, or was made without this group.
        """
        self.path = path
        self.group = group
        self._file: h5py.File | None = None
        with self._damaged(), open_hdf5(path) as file:
            self.class_names = tuple(str(name) for name in file.attrs["class_names"])
            lacks_group = group in OPTIONAL and group not in file
            if not lacks_group:
                file[group]  # raises KeyError if it is missing
        if lacks_group:
            raise ArtifactError(
                f"{path} has no {group}, because it was made without --{group}: run {command_for(path)} --{group}"
            )

    @cached_property
    def ids(self) -> list[str]:
        """Ids of the images in the file, folder by folder in alphabetical order.

        Raises:
            ArtifactError: The file is damaged.
        """
        with self._damaged():
            return dataset_names(self._open()[self.group])

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without the open file."""
        return {**self.__dict__, "_file": None}

    def __contains__(self, image_id: str) -> bool:
        """Whether an image is in the file."""
        return f"{self.group}/{image_id}" in self._open()

    def read(self, image_id: str) -> NDArray[Any]:
        """Read one image's array as it is stored; see stages/labels/stored_cams.py for CAMs at another size.

        Raises:
            KeyError: The image is not in the file.
            ArtifactError: The image's data cannot be read.
        """
        if image_id not in self:
            raise KeyError(f"{self.path} has no {self.group}/{image_id}")
        with self._damaged():
            values: NDArray[Any] = self._dataset(image_id)[()]
        return values

    def classes(self, image_id: str) -> tuple[int, ...]:
        """Classes (1-based) of one image's CAM, in order."""
        return tuple(int(number) for number in self._dataset(image_id).attrs["classes"])

    def image_size(self, image_id: str) -> tuple[int, int]:
        """Height and width of the image that a CAM or mask belongs to."""
        dataset = self._dataset(image_id)
        # CAMs of earlier versions and masks have the image's size themselves.
        height, width = dataset.attrs.get("size", dataset.shape[-2:])
        return int(height), int(width)

    def _dataset(self, image_id: str) -> h5py.Dataset:
        return self._open()[f"{self.group}/{image_id}"]

    def _open(self) -> h5py.File:
        if self._file is None:
            self._file = open_hdf5(self.path)
        return self._file

    @contextmanager
    def _damaged(self) -> Iterator[None]:
        try:
            yield
        except (OSError, KeyError, RuntimeError) as error:
            advice = f"run {command_for(self.path)}"
            raise unreadable(self.path, error, "a complete label file", advice) from error
