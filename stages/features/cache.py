"""The features of a data set's images, computed once and kept in RUN/features.

    config.json            what determines the features (FeatureSpec)
    NNNNNNNN.h5            features/<image id>: float16 (d, h, w); attributes `bytes` and `modified` of the image file

A file under its final name is complete, so that an interrupted command goes on where it stopped. Features of an image
file that has changed are computed again. Float16 rounds by 0.05 %; it halves the file.

Letters: n patches, d width of the features, h w patches down and across.
"""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from data.atomic_write import atomic_write
from data.band_image import Pixels
from data.dataset import Sample
from data.errors import FIX_OR_SKIP, ArtifactError, DataError
from data.pixel_rule import PixelRule
from data.read_ahead import batches, read_ahead
from stages.config import Loading
from stages.features.encoder import load_encoder
from stages.features.spec import FEATURES, MIDDLE, FeatureSpec
from stages.networks.frozen_encoder import FrozenEncoder, fitted_image
from stages.run_folder.hdf5 import HDF5_VERSIONS, dataset_names, open_hdf5
from stages.run_folder.saving import unreadable, write_json
from stages.runtime.launch import own_cores
from stages.runtime.lightning import Fabric
from stages.runtime.monitor import Monitor

IMAGES_PER_FILE = 32
IMAGES_PER_PASS = 8  # on a GPU; a CPU takes one image at a time
OPEN_FILES = 64  # at most, because systems limit them


class Stamp(NamedTuple):
    """Tells whether an image file has changed."""

    bytes: int
    modified: int  # nanoseconds

    @classmethod
    def of(cls, path: Path) -> "Stamp":
        """Look at a file."""
        about = path.stat()
        return cls(about.st_size, about.st_mtime_ns)


class FeatureCache:
    """Reads and adds features of images."""

    def __init__(self, run: Path, spec: FeatureSpec) -> None:
        """Open or begin the features of a run; those of another network or size are deleted."""
        self.folder = run / FEATURES
        self.spec = spec
        self._shards: dict[str, Path] = {}  # by image id
        self._stamps: dict[str, Stamp] = {}
        self._open: dict[Path, h5py.File] = {}
        config = self.folder / "config.json"
        if _read(config) != spec.as_dict():
            config.unlink(missing_ok=True)
            for shard in self.folder.glob("*.h5"):
                shard.unlink()
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(config, spec.as_dict())
        for shard in sorted(self.folder.glob("*.h5")):
            self._index(shard)

    def missing(self, samples: Sequence[Sample]) -> list[Sample]:
        """List the samples whose features are not there, or whose image file has changed."""
        return [one for one in samples if self._stamps.get(one.id) != Stamp.of(one.image)]

    def __contains__(self, image_id: str) -> bool:
        """Whether the features of an image are there."""
        return image_id in self._shards

    def add(self, features: Sequence[tuple[Sample, NDArray[np.float16]]]) -> None:
        """Write the features of some images to one new file.

        Raises:
            OSError: The file could not be written completely.
        """
        memory = io.BytesIO()  # a plain write reports a full disk, HDF5 does not
        with h5py.File(memory, "w", libver=HDF5_VERSIONS) as file:
            for sample, values in features:
                dataset = file.create_dataset(f"{FEATURES}/{sample.id}", data=values)
                dataset.attrs["bytes"], dataset.attrs["modified"] = Stamp.of(sample.image)
        numbers = [int(path.stem) for path in self.folder.glob("*.h5")]
        shard = self.folder / f"{max(numbers, default=-1) + 1:08d}.h5"
        with atomic_write(shard) as temporary:
            temporary.write_bytes(memory.getbuffer())
        self._index(shard)

    def read(self, image_id: str) -> NDArray[np.float16]:
        """Return the features of an image, (d, h, w).

        Raises:
            KeyError: They are not there.
            ArtifactError: The file is damaged.
        """
        shard = self._shards[image_id]
        try:
            if shard not in self._open:
                if len(self._open) >= OPEN_FILES:
                    self._open.pop(next(iter(self._open))).close()
                self._open[shard] = open_hdf5(shard)
            values: NDArray[np.float16] = self._open[shard][f"{FEATURES}/{image_id}"][()]
        except (OSError, KeyError, RuntimeError) as error:
            raise _damaged(shard, error) from error
        return values

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without open files, for the workers of a data loader."""
        return {**self.__dict__, "_open": {}}

    def close(self) -> None:
        """Close all files."""
        for file in self._open.values():
            file.close()
        self._open.clear()

    def _index(self, shard: Path) -> None:
        try:
            with open_hdf5(shard) as file:
                for image_id in dataset_names(file[FEATURES]):
                    attributes = file[f"{FEATURES}/{image_id}"].attrs
                    self._shards[image_id] = shard
                    self._stamps[image_id] = Stamp(int(attributes["bytes"]), int(attributes["modified"]))
        except (OSError, KeyError, RuntimeError) as error:
            raise _damaged(shard, error) from error


def stored_features(run: Path) -> FeatureCache | None:
    """Open the features that a run has, whatever they were made with; None if there are none."""
    values = _read(run / FEATURES / "config.json")
    if not isinstance(values, dict):
        return None
    try:
        pixels = PixelRule.from_dict(values.get("pixels", {}))
        blocks = () if values["blocks"] == MIDDLE else tuple(values["blocks"])
        spec = FeatureSpec(**{**values, "blocks": blocks, "pixels": pixels})
    except (KeyError, TypeError):  # of another version
        return None
    return FeatureCache(run, spec) if spec.as_dict() == values else None  # which would delete features of another spec


def _read(config: Path) -> object:
    try:
        return json.loads(config.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError, UnicodeDecodeError):
        return None


def _damaged(shard: Path, error: Exception) -> ArtifactError:
    return unreadable(shard, error, "a complete file of features", "delete it; its features are then computed again")


def check_encoder(run: Path, spec: FeatureSpec, samples: Sequence[Sample]) -> None:
    """Load the network of the features if it will be needed, so that an error does not come after hours.

    Features of another spec are kept: which ones are used may not have been decided yet.

    Raises:
        SettingsError: It is not available.
    """
    stored = stored_features(run)
    if stored is None or stored.spec != spec or stored.missing(samples):
        load_encoder(spec, run)


def compute_features(
    run: Path, spec: FeatureSpec, samples: Sequence[Sample], config: Loading, fabric: Fabric, monitor: Monitor
) -> FeatureCache:
    """Compute the features that are not in the cache yet.

    Args:
        run: The run folder.
        spec: Which features.
        samples: The images.
        config: Device, workers and what to do with bad images.
        fabric: The device.
        monitor: Receives progress.

    Returns:
        The cache. Bad images that were skipped are not in it.

    Raises:
        DataError: An image cannot be read, and bad images are not to be skipped.
        SettingsError: The network of the features is not available.
    """
    cache = FeatureCache(run, spec)
    left = cache.missing(samples)
    if not left:
        return cache
    encoder = load_encoder(spec, run)
    fabric.to_device(encoder)
    monitor.start("computing features", len(samples), done=len(samples) - len(left))

    def leave_out(error: DataError) -> None:
        if not config.skip_bad:
            raise DataError(f"{error}; {FIX_OR_SKIP}") from error
        monitor.warn(f"skipped: {error}")

    waiting: list[tuple[Sample, NDArray[np.float16]]] = []
    size = IMAGES_PER_PASS if fabric.device.type != "cpu" else 1
    threads = max(1, min(8, own_cores(1)) if config.workers is None else config.workers)
    for batch in read_ahead(batches(left, size), threads, leave_out):
        found = features_of(encoder, [one.picture for one in batch], spec.long_side, fabric)
        waiting += [(one.sample, values) for one, values in zip(batch, found, strict=True)]
        if len(waiting) >= IMAGES_PER_FILE:
            cache.add(waiting)
            waiting.clear()
        monitor.advance(len(batch))
    if waiting:
        cache.add(waiting)
    monitor.finish()
    return cache


@torch.inference_mode()
def features_of(
    encoder: FrozenEncoder, images: Sequence[Pixels], long_side: int, fabric: Fabric
) -> list[NDArray[np.float16]]:
    """Return the features (d, h, w) of images of one common size."""
    pixels = torch.stack([fitted_image(image, long_side, encoder.patch_size) for image in images])
    with fabric.autocast():
        tokens = encoder(pixels.to(fabric.device))
    return list(tokens.half().cpu().numpy())


def mean_and_deviation(features: Float[Tensor, "n d"]) -> tuple[Float[Tensor, " d"], Float[Tensor, " d"]]:
    """Mean and standard deviation of each feature, float32, without a float32 copy of all."""
    total = torch.zeros(features.shape[1], dtype=torch.float64)  # on the CPU: Apple GPUs have no float64
    squares = torch.zeros_like(total)
    for first in range(0, len(features), 2**16):
        part = features[first : first + 2**16].cpu().double()
        total += part.sum(dim=0)
        squares += part.square().sum(dim=0)
    mean = total / len(features)
    variance = (squares / len(features) - mean.square()).clamp_min(0)
    deviation = variance.sqrt().clamp_min(1e-6)
    return mean.float().to(features.device), deviation.float().to(features.device)
