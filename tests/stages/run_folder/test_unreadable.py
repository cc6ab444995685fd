"""Files that cannot be read: in use, forbidden, damaged, or on a broken drive, each with its own advice."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import pytest

from data.errors import ArtifactError
from stages.labels.store import ImageLabels, LabelFile, join_shards, label_attributes, write_shard
from stages.run_folder.hdf5 import open_hdf5
from stages.run_folder.saving import load_weights, unreadable

HOLD = "import h5py, sys; file = h5py.File(sys.argv[1], 'r+'); print('held', flush=True); sys.stdin.read()"


@pytest.fixture
def label_file(tmp_path: Path) -> Path:
    import numpy as np

    one = ImageLabels(id="a", classes=(1,), cam=np.zeros((1, 4, 4), np.float16), mask=np.ones((5, 7), np.uint8))
    write_shard(tmp_path / "shards" / "0.h5", [one])
    join_shards([tmp_path / "shards" / "0.h5"], tmp_path, label_attributes(("cat",), {}))
    return tmp_path / "labels.h5"


def test_label_file__open_for_writing_elsewhere(label_file: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(label_file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(ArtifactError) as caught:
            LabelFile(label_file, "masks")
        other.communicate()  # ends it, so that it closes the file
    assert str(caught.value) == (
        f"{label_file} is open for writing in another program, such as a notebook or HDFView: close it there and "
        "repeat the command"
    )
    assert LabelFile(label_file, "masks").ids == ["a"]


def test_label_file__left_open_by_a_killed_program(label_file: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(label_file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        other.kill()
    with pytest.raises(ArtifactError, match=rf"or that program was killed: .* run 'h5clear -s {label_file}'"):
        LabelFile(label_file, "masks")


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EIO])
def test_open_hdf5__on_a_drive_without_locks(label_file: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    real = h5py.File

    def no_locks(path: Path, mode: str, **options: Any) -> h5py.File:
        if options.get("locking") is not False:
            raise OSError(code, f"Unable to synchronously open file (unable to lock file, errno = {code})")
        return real(path, mode, **options)

    monkeypatch.setattr(h5py, "File", no_locks)
    with open_hdf5(label_file) as file:
        assert list(file) == ["masks"]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (BlockingIOError(errno.EAGAIN, "x"), "is open for writing in another program"),
        (PermissionError(errno.EACCES, "x"), "no permission to read /r/a.h5: change its permissions"),
        (OSError(errno.EIO, "x"), f"cannot be read ({os.strerror(errno.EIO)}): check the path and the drive"),
        (OSError(errno.ESTALE, "x"), f"cannot be read ({os.strerror(errno.ESTALE)}): check"),
        (IsADirectoryError(errno.EISDIR, "x"), "cannot be read (Is a directory)"),
        (OSError("truncated file"), "is not a whole thing (truncated file): make it again"),
        (KeyError("masks"), "is not a whole thing ('masks'): make it again"),
        (FileNotFoundError(errno.ENOENT, "No such file"), "is not a whole thing (No such file): make it again"),
    ],
)
def test_unreadable__only_damage_is_answered_by_making_the_file_again(error: Exception, message: str) -> None:
    said = str(unreadable(Path("/r/a.h5"), error, "a whole thing", "make it again"))
    assert message in said
    assert "/r/a.h5" in said
    assert ("make it again" in said) == ("make it again" in message)


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff" * 20, b"\x04\0\0\0\0\0\0\0{xx}", b"\x02\0\0\0\0\0\0\0{}rest", b"hello world, this is text"],
)
def test_load_weights__damaged_header(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ArtifactError) as caught:
        load_weights(path)
    assert str(caught.value).startswith(f"{path} is not a complete .safetensors file (")
    assert str(caught.value).endswith("): make or copy it again")
    assert "\n" not in str(caught.value)
