import errno
from pathlib import Path

import pytest

from data.atomic_write import atomic_write


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_atomic_write__appears_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    with atomic_write(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
        assert temporary.parent == path.parent  # renaming works within a file system alone
    assert path.read_text() == "whole"
    assert names(path.parent) == {"file.txt"}


def test_atomic_write__may_be_read_as_other_files(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("")
    with atomic_write(tmp_path / "file") as temporary:
        temporary.write_text("")
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize("name", ["n" * 251 + ".png", "図" * 83 + ".png", "😀" * 62 + ".png", "a.png"])
def test_atomic_write__takes_every_name_that_the_file_system_takes(tmp_path: Path, name: str) -> None:
    with atomic_write(tmp_path / name) as temporary:
        temporary.write_text("whole")
        assert temporary.match(".*.partial")  # what is deleted after a run that was killed
    assert names(tmp_path) == {name}


def write_half(path: Path, error: BaseException) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text("half")
        raise error


@pytest.mark.parametrize("error", [ValueError("no"), OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_atomic_write__leaves_nothing_behind_on_an_error(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(type(error)):
        write_half(path, error)
    assert path.read_text() == "old"
    assert names(tmp_path) == {"file.txt"}


def test_atomic_write__disk_full_at_the_end(tmp_path: Path, full_disk: None) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(OSError, match="No space left on device"), atomic_write(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "old"
    assert names(tmp_path) == {"file.txt"}
