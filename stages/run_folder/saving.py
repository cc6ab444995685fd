"""Save to and load from a run folder: weights, checkpoints, JSON. All writes are atomic.

Loading accepts tensors and plain values only; nothing else is unpickled.
"""

import io
import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.atomic_write import atomic_write
from data.errors import ArtifactError, reason

if TYPE_CHECKING:
    from torch import Tensor


def unreadable(path: Path, error: Exception, what: str, advice: str) -> ArtifactError:
    """Say why a file cannot be read; only a damaged file is to be made again.

    Args:
        path: The file.
        error: What reading it raised.
        what: What a file without damage would be: 'a complete label file'.
        advice: What to do if it is damaged.
    """
    if isinstance(error, BlockingIOError):
        return ArtifactError(
            f"{path} is open for writing in another program, such as a notebook or HDFView: close it there and repeat "
            "the command"
        )
    if "already open for write" in str(error):  # a mark that HDF5 writes into the file
        return ArtifactError(
            f"{path} is open for writing in another program, or that program was killed: close it there; if no program "
            f"has it open, run 'h5clear -s {path}' (package hdf5-tools) to remove the mark"
        )
    if isinstance(error, PermissionError):
        return ArtifactError(f"no permission to read {path}: change its permissions, or ask its owner")
    if isinstance(error, OSError) and error.errno is not None and not isinstance(error, FileNotFoundError):
        why = os.strerror(error.errno)
        return ArtifactError(f"{path} cannot be read ({why}): check the path and the drive, and repeat the command")
    return ArtifactError(f"{path} is not {what} ({reason(error)}): {advice}")


class DiskFullSafeFile(io.RawIOBase):
    """A new file for writers that cannot handle a full disk: after the first error, writes are dropped silently.

    `check` raises that first error afterwards. Without this, HDF5 floods the terminal and crashes the process, and
    torch reports 'unexpected pos'.
    """

    def __init__(self, path: Path) -> None:
        """Create or empty the file."""
        super().__init__()
        self.error: OSError | None = None
        self._file = path.open("w+b")

    def check(self) -> None:
        """Raise the first error, if there was one.

        Raises:
            OSError: Most often a full disk.
        """
        if self.error is not None:
            raise self.error

    def write(self, data: Any) -> int:
        """Write, unless an earlier write failed."""
        self._try(self._file.write, data)
        return memoryview(data).nbytes

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer."""
        return self._try(self._file.readinto, buffer)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position."""
        return self._try(self._file.seek, offset, whence)

    def truncate(self, size: int | None = None) -> int:
        """Change the length of the file."""
        return self._try(self._file.truncate, size)

    def flush(self) -> None:
        """Write buffered bytes."""
        if not self._file.closed:
            self._try(self._file.flush)

    def close(self) -> None:
        """Write buffered bytes and close."""
        try:
            self._file.close()
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
    """Like `atomic_write`, but yield an open file, and report a full disk at the end.

    Raises:
        OSError: Not everything could be written.
    """
    with atomic_write(path) as temporary:
        with DiskFullSafeFile(temporary) as file:
            try:
                yield file
            except Exception:
                file.check()  # an earlier write error is the cause
                raise
        file.check()


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n")


def save_weights(path: Path, state: Mapping[str, "Tensor"]) -> None:
    """Write a state dict as safetensors, atomically."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with atomic_write(path) as temporary:
        try:
            save_file({key: value.detach().cpu().contiguous() for key, value in state.items()}, temporary)
        except SafetensorError as error:
            raise OSError(f"{path} cannot be written: {error}") from error


def check_weights_file(path: Path) -> None:
    """Refuse a file of weights that does not exist.

    Raises:
        ArtifactError: There is no such file.
    """
    if not path.is_file():
        raise ArtifactError(f"there is no file {path}: check the path")


def load_weights(path: Path) -> dict[str, "Tensor"]:
    """Read a state dict from safetensors.

    Raises:
        ArtifactError: The file is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    check_weights_file(path)
    try:
        with path.open("rb"):  # raises the system's own errors, which safetensors does not tell apart
            pass
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise unreadable(path, error, "a complete .safetensors file", "make or copy it again") from error


def save_checkpoint(path: Path, value: Mapping[str, Any]) -> None:
    """Write tensors and plain values to resume from, atomically."""
    import torch

    with atomic_stream(path) as file:
        torch.save(dict(value), file)  # type: ignore[arg-type]


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of tensors and plain values.

    Raises:
        ArtifactError: The file is damaged.
    """
    import pickle

    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about unusual pickles: if it matters, an error follows
            value: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files cause nearly any exception
        if isinstance(error, OSError):
            raise unreadable(path, error, "a complete checkpoint", "start again with --overwrite") from error
        if isinstance(error, MemoryError):
            raise
        # torch's own message for an UnpicklingError advises to load the file unsafely.
        unsafe = isinstance(error, pickle.UnpicklingError)
        why = "it holds more than tensors and plain values" if unsafe else reason(error)
        raise ArtifactError(f"{path} is damaged ({why}): start again with --overwrite") from error
    return value
