"""Locks, so that only one command at a time writes into a folder.

The lock is one of the kernel on a hidden file: it ends with its process, however that ends. It holds on all machines
that share the file system, where that has locks. The file names its holder, and is deleted when the lock is released.
A stage also locks the folder that it is made from, which must not be replaced meanwhile.
"""

import contextlib
import errno
import json
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TextIO

from data.errors import ArtifactError, reason
from data.output_place import check_folder
from stages.runtime.launch import is_rank_zero
from stages.runtime.monitor import Monitor

try:
    from fcntl import LOCK_EX, LOCK_NB, lockf
except ImportError:  # not on Windows
    lockf = None  # type: ignore[assignment]

OUTPUT_LOCK = ".toco.lock"
TRIES = 10  # to lock a file that others delete meanwhile
_held: set[Path] = set()  # lock files of this process


@dataclass(frozen=True, kw_only=True)
class Holder:
    """The process that has a lock."""

    host: str
    pid: int
    since: str  # local time, ISO 8601

    @classmethod
    def this_process(cls) -> "Holder":
        """Describe this process."""
        return cls(
            host=socket.gethostname(), pid=os.getpid(), since=datetime.now().astimezone().isoformat(timespec="seconds")
        )

    @classmethod
    def read(cls, file: TextIO) -> "Holder | None":
        """Read what the holder wrote about itself; None if it is missing or incomplete."""
        file.seek(0)
        try:
            return cls(**json.loads(file.read()))
        except (ValueError, TypeError):
            return None

    def __str__(self) -> str:
        """Name the process in a message."""
        return f"process {self.pid} on {self.host}, which began at {self.since}"


@contextmanager
def stage_lock(run: Path, *stages: str, monitor: Monitor) -> Iterator[None]:
    """Be the only command that writes into these stage folders; in several processes, rank 0 locks for all.

    A command that has the lock may take it again: `toco run` locks all stages, and each stage locks its own.

    Args:
        run: The run folder; created if missing.
        stages: Names of the stage folders, which need not exist.
        monitor: Gets a warning if the folders cannot be locked.

    Raises:
        ArtifactError: Another command uses them; names its process.
        SettingsError: The run folder is a file.
    """
    with ExitStack() as stack:
        for stage in stages:
            # Not inside of the stage's folder, which --overwrite deletes.
            stack.enter_context(_locked(run / f".{stage}.lock", run / stage, monitor))
        yield


@contextmanager
def output_lock(out: Path, monitor: Monitor) -> Iterator[None]:
    """Be the only command that writes into an output folder; see `stage_lock`.

    Raises:
        ArtifactError: Another command writes there; names its process.
        SettingsError: The folder is a file.
    """
    with _locked(out / OUTPUT_LOCK, out, monitor):
        yield


def check_not_locked(run: Path, *stages: str) -> None:
    """Refuse folders that `stage_lock` would refuse, before torch is imported; creates nothing.

    Raises:
        ArtifactError: Names the process.
        SettingsError: The run folder is a file.
    """
    check_folder(run)
    for stage in stages:
        path = run / f".{stage}.lock"
        if path.is_file() and is_rank_zero() and path.resolve() not in _held:
            # What cannot be opened or locked is reported when the folder is to be locked.
            with contextlib.suppress(OSError), path.open("r+", encoding="utf-8") as file:
                if not _try_lock(file):
                    raise _in_use(run / stage, file)


@contextmanager
def _locked(path: Path, folder: Path, monitor: Monitor) -> Iterator[None]:
    path = path.resolve()
    check_folder(path.parent)
    if path in _held or not is_rank_zero():
        yield
        return
    made = not path.parent.is_dir()
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _locked_file(path, folder, monitor) as file:
            before, me = Holder.read(file), Holder.this_process()
            if before is not None and before.host != me.host:
                # Its machine may share the folder without sharing locks.
                monitor.warn(f"{folder} was left by {before}: make sure that it has ended")
            file.seek(0)
            file.truncate()
            file.write(json.dumps(asdict(me)))
            file.flush()
            _held.add(path)
            try:
                yield
            finally:
                _held.discard(path)
                path.unlink(missing_ok=True)  # while it is locked, see `_locked_file`
    finally:
        if made:
            with contextlib.suppress(OSError):  # something was written there
                path.parent.rmdir()


@contextmanager
def _locked_file(path: Path, folder: Path, monitor: Monitor) -> Iterator[TextIO]:
    for left in reversed(range(TRIES)):
        with _opened(path, folder) as file:
            problem = ""
            try:
                if not _try_lock(file):
                    raise _in_use(folder, file)
                # The earlier holder may have deleted the file between opening and locking it.
                if not _is_at(file, path):
                    if left:
                        continue
                    problem = "its file system does not recognise a file again"
            except OSError as error:
                problem = reason(error)
            if problem:
                monitor.warn(f"{folder} cannot be locked ({problem}): make sure that no other command writes there")
            yield file
            return


def _opened(path: Path, folder: Path) -> TextIO:
    try:
        return path.open("a+", encoding="utf-8")
    except PermissionError as error:
        if not path.exists():
            raise ArtifactError(f"no permission to write into {path.parent}: give another folder") from error
        raise ArtifactError(
            f"{folder} cannot be locked: no permission to write {path}; delete it if no other command runs there"
        ) from error


def _is_at(file: TextIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _try_lock(file: TextIO) -> bool:
    """Lock a file; False if another process has the lock.

    Not `flock`, whose locks the workers of a data loader inherit: they outlive a killed process by some seconds.

    Raises:
        OSError: The file system has no locks.
    """
    if lockf is None:
        raise OSError(errno.ENOSYS, "this system has no such locks")
    try:
        lockf(file, LOCK_EX | LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def _in_use(folder: Path, file: TextIO) -> ArtifactError:
    return ArtifactError(
        f"{folder} is in use by {Holder.read(file) or 'another process'}: wait until it ends, or stop it"
    )
