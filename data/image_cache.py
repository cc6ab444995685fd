"""A cache on disk of the reduced images used in training, so that each file is decoded only once."""

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from jaxtyping import Bool
from numpy.typing import NDArray
from PIL import Image, features

from data.atomic_write import atomic_write
from data.band_image import BandImage, Pixels
from data.errors import DataError, reason
from data.images import read_reduced
from data.missing_pixels import may_have_missing_pixels, missing_pixels
from data.pixel_rule import AS_STORED, PixelRule

ENTRY_FORMAT = 1  # increase it when the pixels of `read_reduced` or the format of entries change
DECODER = f"{PIL.__version__} {features.version('jpg')}"  # other versions may decode other pixels


def open_cache(folder: str | None) -> Path | None:
    """Create the folder of a cache and check that it is writable; None gives None, no cache.

    Raises:
        DataError: The folder cannot be created or written to.
    """
    if folder is None:
        return None
    path = Path(folder).expanduser().resolve()
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        cause = "it is not a folder" if path.is_file() else reason(error)
        raise DataError(
            f"images cannot be cached in {folder} ({cause}): give another folder, or omit --cache"
        ) from error
    return path


class TrainingImages:
    """Reads images at the reduced size that training needs, through a cache if there is one.

    An entry is a NumPy file of the pixels, (h, w, 3) uint8, or (h, w, c) float32 of bands. Its name is a hash of the
    image's path, size in bytes and modification time, of `side`, of the pixel rule, and of the decoder's version. If
    one of them changes, a new entry is made; the old one stays. Several processes may use one cache. Picklable.

    A second entry, of booleans (h, w), says where an image has no value; it is empty if each pixel has one. Files whose
    header says so have none.
    """

    def __init__(self, side: int, cache: Path | None = None) -> None:
        """Set up.

        Args:
            side: Number of pixels needed on the longer side, see `read_reduced`.
            cache: The folder, from `open_cache`; None for no cache.
        """
        self.side = side
        self.cache = cache
        self.write_failed = False
        self._warnings: list[str] = []

    def read(self, path: Path, rule: PixelRule = AS_STORED) -> Pixels:
        """Return the same pixels as `read_reduced`.

        Raises:
            DataError: See `read_image`.
        """
        entry = self._entry(path, rule)
        image = None if entry is None else _read_entry(entry, rule)
        if image is None:
            image = read_reduced(path, self.side, rule)
            self._write_entry(image.values if isinstance(image, BandImage) else np.asarray(image), entry)
        return image

    def missing(self, path: Path, size: tuple[int, int], rule: PixelRule = AS_STORED) -> Bool[np.ndarray, "h w"] | None:
        """Return where an image has no value, see `missing_pixels`; None if each pixel has one.

        Args:
            path: The file.
            size: Width and height of the image that `read` returns.
            rule: How networks get the values.

        Raises:
            DataError: See `missing_pixels`.
        """
        if not may_have_missing_pixels(path, rule):
            return None
        entry = self._entry(path, rule, "missing ")
        missing = None if entry is None else _read_values(entry)
        if missing is None or missing.dtype != bool or missing.shape not in ((0, 0), size[::-1]):
            found = missing_pixels(path, rule)
            missing = np.zeros((0, 0), bool)
            if found is not None:
                missing = np.asarray(Image.fromarray(found).resize(size, Image.Resampling.NEAREST))
            self._write_entry(missing, entry)
        return missing if missing.any() else None

    def take_warnings(self) -> tuple[str, ...]:
        """Return the warnings since the last call."""
        taken = tuple(self._warnings)
        self._warnings.clear()
        return taken

    def _entry(self, path: Path, rule: PixelRule, kind: str = "") -> Path | None:
        """Return the cache file of an image's pixels, or of another kind of values; None without a cache or image."""
        if self.cache is None:
            return None
        try:
            status = path.stat()
        except OSError:
            return None  # reading the image will raise the error
        other = "" if rule == AS_STORED else f"{rule.bits} {rule.alpha} {rule.clip} "
        if rule.bands:
            other += f"{rule!r} "
        key = f"{ENTRY_FORMAT} {DECODER} {kind}{other}{self.side} {status.st_size} {status.st_mtime_ns} ".encode()
        key += os.fsencode(path.resolve())
        digest = hashlib.sha256(key).hexdigest()
        return self.cache / digest[:2] / f"{digest[2:]}.npy"  # 256 folders: very large folders are slow

    def _write_entry(self, values: NDArray[Any], entry: Path | None) -> None:
        if entry is None or self.write_failed:
            return
        try:
            with atomic_write(entry) as temporary, temporary.open("wb") as file:
                np.lib.format.write_array(file, values, allow_pickle=False)
        except OSError as error:  # most likely the disk is full; training can continue without the cache
            self.write_failed = True
            self._warnings.append(
                f"no more images are cached in {self.cache} ({reason(error)}): the others are decoded each time"
            )


def _read_entry(entry: Path, rule: PixelRule) -> Pixels | None:
    """Read an image from the cache; None if the entry is missing or damaged."""
    values = _read_values(entry)
    if values is None or values.ndim != 3 or values.shape[2] != rule.channels:
        return None
    if rule.bands:
        return BandImage(values, rule.fill) if values.dtype == np.float32 else None
    return Image.fromarray(values) if values.dtype == np.uint8 else None


def _read_values(entry: Path) -> NDArray[Any] | None:
    try:
        with entry.open("rb") as file:
            values: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    except Exception:  # NumPy raises almost any exception for damaged files
        return None
    return values
