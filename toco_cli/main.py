"""The `toco` command: runs one command line and reports an error in one line."""

import errno
import io
import os
import signal
import sys
import traceback
from collections.abc import Collection, Mapping, MutableMapping, Sequence
from functools import cache
from typing import Any, TextIO

from toco_cli.shadowing import what_hides_toco

if problem := what_hides_toco():  # before the first import of a package that may be hidden
    print(f"toco: error: {problem}", file=sys.stderr)
    sys.exit(1)

import typer
from typer.main import get_command

from data.errors import UserError
from stages.runtime.launch import is_local_child, is_rank_zero
from stages.runtime.quick_imports import begin_command
from stages.runtime.shared_memory import SHARED_MEMORY_FULL, is_shared_memory_full
from toco_cli.commands import app

KEPT = "finished work is kept: run "
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")  # how OpenMP threads wait for work


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line.

    Args:
        arguments: The words after `toco`; by default those of this process.

    Returns:
        The exit code: 0 for success, 1 for an error, 2 for bad options, 130 if stopped by Ctrl-C.
    """
    set_environment(os.environ)
    begin_command()
    for stream in (sys.stdout, sys.stderr):
        write_every_character(stream)
    if is_local_child():  # the process that started this one handles Ctrl-C and ends it
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    given = list(sys.argv[1:] if arguments is None else arguments)
    words = [word for word in given if word != "--debug"]  # also allowed after the command's name
    try:
        code = click_command().main(args=words, prog_name="toco", standalone_mode=False) or 0
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except Exception as error:
        if "--debug" in given:
            traceback.print_exc()
        print(f"toco: error: {describe(error, options_of(words), how_to_resume(words))}", file=sys.stderr)
        return int(getattr(error, "exit_code", 1))
    if code == 130 and is_rank_zero():
        print("; ".join(filter(None, ("toco: stopped", how_to_resume(words)))), file=sys.stderr)
    return int(code)


def set_environment(variables: MutableMapping[str, str]) -> None:
    """Set what torch and OpenMP read when torch is imported, unless the user has set it."""
    variables.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # no warnings of torch's C++ code, once per process
    # Idle threads sleep at once. By default they spin, and with other work on the machine they take the cores away
    # from the threads that compute: a step then takes 1.7 times as long. Alone, both take the same time within 5 %
    # (bench/threads.py).
    if not any(name in variables for name in WAITING):
        variables["OMP_WAIT_POLICY"] = "passive"


def write_every_character(stream: TextIO) -> None:
    """Make a stream write characters that its encoding lacks as escapes of ASCII letters, instead of failing."""
    if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
        stream.reconfigure(errors="backslashreplace")


@cache
def click_command() -> Any:
    """Build the Click command of the app, with all subcommands: a tenth of a second."""
    return get_command(app)


def command_of(words: Sequence[str]) -> Any:
    """Return the command in these words; None if there is none."""
    commands: Mapping[str, Any] = getattr(click_command(), "commands", {})
    return next((commands[word] for word in words if word in commands), None)


def options_of(words: Sequence[str]) -> set[str]:
    """Return all options of the command in these words."""
    command = command_of(words)
    return {option for parameter in command.params for option in parameter.opts} if command else set()


def how_to_resume(words: Sequence[str]) -> str:
    """Return how to resume an interrupted command; empty for a command that always starts again."""
    command = command_of(words)
    if command is not None and command.name == "run":
        same = "the same command again"
        return f"{KEPT}{same} without --overwrite" if "--overwrite" in words else f"{KEPT}{same}"
    return f"{KEPT}it again with --resume" if "--resume" in options_of(words) else ""


def describe(error: Exception, options: Collection[str] = (), resume: str = "") -> str:
    """Return one line: what went wrong, where, and if possible what to do.

    Args:
        error: The exception.
        options: All options of the command.
        resume: How to resume the command.
    """
    text = " ".join(str(error).splitlines())
    if hasattr(error, "format_message"):  # Typer's own errors, about options
        return _describe_bad_option(error)
    if isinstance(error, UserError):
        return text
    if is_shared_memory_full(error):
        return "; ".join(filter(None, (SHARED_MEMORY_FULL, resume)))
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in text:
        return "; ".join(filter(None, (f"the disk is full{_while_writing(error)}: free some space", resume)))
    if type(error).__name__ in ("OutOfMemoryError", "MemoryError") or "allocate memory" in text:
        sizes = sorted(option for option in options if option.endswith(("batch-size", "image-size")))
        advice = f"use a smaller {' or '.join(sizes)}" if sizes else "use a machine with more memory, or smaller images"
        if "--window" in options:
            advice += ", or segment large images in windows: --window 1024"
        return f"out of memory: {advice} ({text})"
    what = f"{type(error).__name__} {text}"
    if isinstance(error, RuntimeError) and any(name in what for name in ("gloo", "NCCL", "DistNetworkError")):
        lost = "another process of this run ended or cannot be reached any more"
        return "; ".join(filter(None, (lost, resume)))
    if isinstance(error, OSError) and error.filename is not None:
        return _describe_file_error(error)
    if isinstance(error, OSError):
        return text
    return f"{type(error).__name__}: {text} (unexpected error: add --debug to see where it happened)"


def _describe_bad_option(error: Exception) -> str:
    text = " ".join(str(error.format_message()).splitlines())  # type: ignore[attr-defined]
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "toco"
    return f"{text.replace('Value error, ', '')} (see '{path} --help')"


def _describe_file_error(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return f"'{error.filename}' does not exist"
    if isinstance(error, PermissionError):
        return f"no permission to read or write '{error.filename}'"
    return f"'{error.filename}': {error.strerror}"


def _while_writing(error: Exception) -> str:
    filename = getattr(error, "filename", None)
    return f", writing '{filename}'" if filename else ""
