"""What the tests of faults run in child processes: a command line under limits, and many with edited settings."""

import contextlib
import io
import json
import os
import random
import resource
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from child_processes import call_toco  # type: ignore[import-not-found]

# Values that somebody may type into a config.json, or that another program writes.
ODD: tuple[Any, ...] = (None, True, -1, 0, 3.5, 1e400, "", "x", "../..", [], [1], ["a", "b", "c"], {}, {"a": 1})


def quietly(*words: str) -> NoReturn:
    """Run a command line whose output does not matter."""
    with open(os.devnull, "w") as null:
        os.dup2(null.fileno(), 1)
        os.dup2(null.fileno(), 2)
    call_toco(*words)
    raise AssertionError


def with_small_files(size: int, *words: str) -> None:
    """Run a command line that cannot write more than this many bytes to a file, as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    call_toco(*words)


def with_little_memory(size: int, *words: str) -> None:
    """Run a command line that can allocate this many bytes in addition to what the process has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + size
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    call_toco(*words)


def with_dying_loader(*words: str) -> None:
    """Run a command line whose processes that load images are killed."""
    from torch.utils.data._utils import worker

    worker._worker_loop = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    call_toco(*words)


def edited(config: Any, draws: random.Random) -> Any:
    """Return a copy of a JSON value in which one entry is replaced, removed or renamed."""
    config = json.loads(json.dumps(config))
    parent, key = config, draws.choice(list(config))
    while isinstance(parent[key], (dict, list)) and parent[key] and draws.random() < 0.8:
        parent = parent[key]
        key = draws.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
    match draws.randrange(4):
        case 0:
            del parent[key]
        case 1 if isinstance(parent, dict):
            parent[f"{key}_"] = parent.pop(key)
        case _:
            parent[key] = draws.choice(ODD)
    return config


def with_edited_config(path: Path, count: int, result: Path, *words: str) -> None:
    """Run a command line with many variants of a config.json; write [edit, exit code, text on stderr] of each."""
    original = path.read_text()
    found: list[tuple[str, int, str]] = []
    for number in range(count):
        changed = edited(json.loads(original), random.Random(number))
        path.write_text(json.dumps(changed))
        found.append((json.dumps(changed), *_called(words)))
    path.write_text(original)
    code, errors = _called(words)
    assert code == 0, f"the undamaged folder is refused, too: {errors}"
    result.write_text(json.dumps(found))


def with_damaged_file(path: Path, contents: Sequence[bytes], result: Path, *words: str) -> None:
    """Run a command line with each of these contents of a file; write [number, exit code, text on stderr] of each."""
    original = path.read_bytes()
    found: list[tuple[str, int, str]] = []
    for number, content in enumerate(contents):
        path.write_bytes(content)
        found.append((str(number), *_called(words)))
        assert path.read_bytes() == content, "a damaged file was changed"
    path.write_bytes(original)
    code, errors = _called(words)
    assert code == 0, f"the undamaged folder is refused, too: {errors}"
    result.write_text(json.dumps(found))


def _called(words: Sequence[str]) -> tuple[int, str]:
    import small_heads  # type: ignore[import-not-found]  # noqa: F401  # as the run's network has

    from toco_cli.main import main

    with contextlib.redirect_stderr(io.StringIO()) as errors, contextlib.redirect_stdout(io.StringIO()):
        code = main(words)
    return code, errors.getvalue()
