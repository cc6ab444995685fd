"""Saving to and loading from a run folder: tensors, checkpoints, JSON; each file whole or not at all.

Nothing here is unpickled beyond tensors and plain values.
"""

import io
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.atomic_write import atomic_write
from data.errors import ArtifactError

if TYPE_CHECKING:
    from torch import Tensor


class DiskFullSafeFile(io.RawIOBase):
    """A new file for writers that cannot cope with a full disk: after the first error it only seems to write.

    HDF5 floods the terminal and crashes the process, torch says 'unexpected pos'.
    """

    def __init__(self, path: Path) -> None:
        """Create or empty the file."""
        super().__init__()
        self.error: OSError | None = None
        self._file = path.open("w+b")

    def check(self) -> None:
        """Raise what went wrong, if anything did.

        Raises:
            OSError: Most likely the disk is full.
        """
        if self.error is not None:
            raise self.error

    def write(self, data: Any) -> int:
        """Write, or pretend to."""
        self._try(self._file.write, data)
        return memoryview(data).nbytes

    def readinto(self, buffer: Any) -> int:
        """Read what was written."""
        return self._try(self._file.readinto, buffer)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place."""
        return self._try(self._file.seek, offset, whence)

    def truncate(self, size: int | None = None) -> int:
        """Cut off, or lengthen."""
        return self._try(self._file.truncate, size)

    def flush(self) -> None:
        """Write what is still in memory."""
        if not self._file.closed:
            self._try(self._file.flush)

    def close(self) -> None:
        """Write what is still in memory, and close."""
        try:
            self._file.close()  # after an error too
        except OSError as error:
            self.error = self.error or error
        super().close()

    def _try(self, action: Callable[..., Any], *arguments: Any) -> int:
        try:
            if self.error is None:
                return int(action(*arguments) or 0)
        except OSError as error:
            self.error = error
        return 0


@contextmanager
def atomic_stream(path: Path) -> Iterator[DiskFullSafeFile]:
    """Like `atomic_write`, but give an open file, and tell of a full disk at the end.

    Raises:
        OSError: Not everything could be written.
    """
    with atomic_write(path) as temporary:
        with DiskFullSafeFile(temporary) as file:
            try:
                yield file
            except Exception:
                file.check()  # which is then the cause
                raise
        file.check()


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n")


def save_weights(path: Path, state: Mapping[str, "Tensor"]) -> None:
    """Write a state dict as safetensors, whole or not at all."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with atomic_write(path) as temporary:
        try:
            save_file({key: value.detach().cpu().contiguous() for key, value in state.items()}, temporary)
        except SafetensorError as error:
            raise OSError(f"{path} cannot be written: {error}") from error


def load_weights(path: Path) -> dict[str, "Tensor"]:
    """Read a state dict from safetensors.

    Raises:
        ArtifactError: The file is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise ArtifactError(f"there is no file {path}: check the path")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ArtifactError(f"{path} is no whole .safetensors file ({error}): make or copy it again") from error


def save_checkpoint(path: Path, value: Mapping[str, Any]) -> None:
    """Write tensors and plain values for a run to go on from, whole or not at all."""
    import torch

    with atomic_stream(path) as file:
        torch.save(dict(value), file)  # type: ignore[arg-type]


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint; tensors and plain values only.

    Raises:
        ArtifactError: The file is damaged.
    """
    import pickle

    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd pickles: if they matter, an error follows
            value: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file is met with nearly any
        reason = str(error).splitlines()[0].split(". ")[0] if str(error) else type(error).__name__
        if isinstance(error, pickle.UnpicklingError):  # torch's own words advise to load it nevertheless
            reason = "it holds other things than tensors and plain values"
        raise ArtifactError(f"{path} is damaged ({reason}): start again with --overwrite") from error
    return value
