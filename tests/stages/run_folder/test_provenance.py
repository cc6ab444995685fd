import json
import subprocess
from pathlib import Path

import pytest

from stages.run_folder.provenance import SESSIONS, git_state, made_with, read_sessions, session


def test_session__each_ending_is_a_line(tmp_path: Path) -> None:
    with session(tmp_path):
        pass
    with pytest.raises(KeyboardInterrupt), session(tmp_path):
        raise KeyboardInterrupt
    with pytest.raises(ValueError, match="loss"), session(tmp_path):
        raise ValueError("the loss is NaN")
    found = read_sessions(tmp_path)
    assert [one.ended for one in found] == ["finished", "stopped", "failed"]
    assert all(one.seconds >= 0 for one in found)
    assert found[0].made_with["python"].startswith("3.")


def test_session__only_the_first_process_records(tmp_path: Path) -> None:
    with session(tmp_path, recorded=False):
        pass
    assert read_sessions(tmp_path) == []


def test_read_sessions__passes_over_a_line_that_was_cut_off(tmp_path: Path) -> None:
    with session(tmp_path):
        pass
    with (tmp_path / SESSIONS).open("a") as file:
        file.write('{"began": "2026-')
    assert len(read_sessions(tmp_path)) == 1


def test_made_with__is_plain_and_says_what_matters() -> None:
    found = made_with()
    assert {"command", "python", "toco", "torch", "timm", "system", "processor", "cores"} <= found.keys()
    assert json.loads(json.dumps(found)) == found


def test_git_state__a_commit_and_whether_files_differ(tmp_path: Path) -> None:
    assert git_state(tmp_path) is None
    (tmp_path / "a.txt").write_text("one")
    for words in ("init -q", "add a.txt", "-c user.name=x -c user.email=x@example.org commit -qm one"):
        subprocess.run(["git", "-C", str(tmp_path), *words.split()], check=True)
    commit = git_state(tmp_path)
    assert commit is not None
    assert len(commit) == 40
    (tmp_path / "a.txt").write_text("two")
    assert git_state(tmp_path) == f"{commit} with changes"
