"""Images as training takes them, kept on disk where the user likes, so that each file is decoded once."""

import hashlib
import os
import tempfile
from pathlib import Path

import numpy as np
import PIL
from PIL import Image, features

from data.atomic_write import atomic_write
from data.dataset import DataError
from data.images import read_reduced

FORMAT = 1  # to be raised when `read_reduced` gives other pixels, or entries hold them in another way
DECODER = f"{PIL.__version__} {features.version('jpg')}"  # others may give other pixels


def open_cache(folder: str | None) -> Path | None:
    """Make the folder of a cache, and see whether files can be made in it; None for none.

    Raises:
        DataError: They cannot.
    """
    if folder is None:
        return None
    path = Path(folder).expanduser().resolve()
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        reason = "it is no folder" if path.is_file() else error.strerror
        raise DataError(
            f"images cannot be kept in {folder} ({reason}): give another --cache, or leave it out"
        ) from error
    return path


class TrainingImages:
    """Reads images reduced to what training needs; from a cache, if there is one, into which it puts what is not there.

    An entry is a NumPy file of the pixels, (h, w, 3) uint8, named after the image's path, size in bytes, time of
    change, `side` and the decoder's version; whatever changes, another entry is made. Any number of processes may use
    one cache. Picklable.
    """

    def __init__(self, side: int, cache: Path | None = None) -> None:
        """Set up.

        Args:
            side: Pixels of the longer side that are needed, as for `read_reduced`.
            cache: What `open_cache` gives.
        """
        self.side = side
        self.cache = cache
        self.refuses_more = False
        self._warnings: list[str] = []

    def read(self, path: Path) -> Image.Image:
        """Return what `read_reduced` does, bit for bit.

        Raises:
            DataError: as `read_image`.
        """
        entry = self._entry(path)
        image = None if entry is None else _kept(entry)
        if image is None:
            image = read_reduced(path, self.side)
            if entry is not None and not self.refuses_more:
                self._keep(image, entry)
        return image

    def take_warnings(self) -> tuple[str, ...]:
        """Return what the user is to hear since this was last called."""
        taken = tuple(self._warnings)
        self._warnings.clear()
        return taken

    def _entry(self, path: Path) -> Path | None:
        """The file of an image in the cache; None where there is no cache, or no image."""
        if self.cache is None:
            return None
        try:
            status = path.stat()
        except OSError:
            return None  # reading it will say so
        key = f"{FORMAT} {DECODER} {self.side} {status.st_size} {status.st_mtime_ns} ".encode() + os.fsencode(
            path.resolve()
        )
        digest = hashlib.sha256(key).hexdigest()
        return self.cache / digest[:2] / f"{digest[2:]}.npy"  # 256 folders: file systems slow down with huge ones

    def _keep(self, image: Image.Image, entry: Path) -> None:
        try:
            with atomic_write(entry) as temporary, temporary.open("wb") as file:
                np.lib.format.write_array(file, np.asarray(image), allow_pickle=False)
        except OSError as error:  # of use to nobody, but training can go on
            self.refuses_more = True
            reason = error.strerror or error
            self._warnings.append(f"{self.cache} takes no more images ({reason}): those are decoded again each time")


def _kept(entry: Path) -> Image.Image | None:
    """An entry's image; None where there is none, or it is damaged."""
    try:
        with entry.open("rb") as file:
            image = Image.fromarray(np.lib.format.read_array(file, allow_pickle=False))
    except Exception:  # a damaged file is met with nearly any
        return None
    return image if image.mode == "RGB" else None
