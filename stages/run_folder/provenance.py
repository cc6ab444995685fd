"""Provenance of a run: versions, command, code, hardware and duration, enough to repeat it."""

import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from data.cores import cores

SESSIONS = "sessions.jsonl"
PACKAGES = ("toco", "torch", "torchvision", "timm", "segmentation-models-pytorch", "numpy", "pillow")


def made_with() -> dict[str, Any]:
    """Return versions, command, code and hardware as plain values; unknown ones are left out."""
    return {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "python": platform.python_version(),
        **{name: found for name in PACKAGES if (found := _version(name))},
        **_code(),
        **hardware(),
    }


def hardware() -> dict[str, Any]:
    """Processor, cores, memory and GPUs of this machine."""
    import torch  # late, because commands check run folders before they import it

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    found: dict[str, Any] = {"system": platform.platform(), "processor": _processor(), "cores": cores()}
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found["memory_gb"] = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1)
    return {**found, "gpus": gpus} if gpus else found


class Session(NamedTuple):
    """One run of a stage, from start to end or interruption: one line of sessions.jsonl."""

    began: str  # local time, ISO 8601
    seconds: float
    ended: str  # finished, stopped or failed
    made_with: Mapping[str, Any]


@contextmanager
def session(folder: Path, *, recorded: bool = True) -> Iterator[None]:
    """Append a line to the stage folder's sessions.jsonl when the block ends, also after an error.

    A process that is killed leaves no line.

    Args:
        folder: The stage's folder.
        recorded: Whether to write; True on rank 0 only.
    """
    began, clock, ended = datetime.now().astimezone().isoformat(timespec="seconds"), time.monotonic(), "failed"
    made = made_with() if recorded else {}  # at the start: hours later, the checkout may have another commit
    try:
        yield
        ended = "finished"
    except KeyboardInterrupt:
        ended = "stopped"
        raise
    finally:
        if recorded:
            line = Session(began, round(time.monotonic() - clock, 1), ended, made)
            with (folder / SESSIONS).open("a", encoding="utf-8") as file:
                file.write(json.dumps(line._asdict()) + "\n")


def read_sessions(folder: Path) -> list[Session]:
    """Read the sessions of a stage, in order; incomplete lines are skipped."""
    path, found = folder / SESSIONS, []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        try:
            found.append(Session(**json.loads(line)))
        except (json.JSONDecodeError, TypeError):
            continue
    return found


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    """The processor's name. On Linux, `platform` knows only its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _code() -> dict[str, str]:
    """The git commits of toco's own code and of the working folder, if they are checkouts."""
    folders = {"toco_commit": Path(__file__).parent, "working_folder_commit": Path.cwd()}
    return {name: commit for name, folder in folders.items() if (commit := git_state(folder))}


def git_state(folder: Path) -> str | None:
    """The commit of a checkout, with ' with changes' if files differ from it; None without a checkout or git."""
    head = _git(folder, "rev-parse", "HEAD")
    if not head:
        return None
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return f"{head} with changes" if changed else head


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
