"""The `toco` command: runs one command line, and says in one clean line when something is wrong."""

import errno
import os
import signal
import sys
import traceback
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import typer
from typer.main import get_command

from data.errors import UserError
from stages.runtime.launch import is_local_child, is_rank_zero
from toco_cli.commands import app

KEPT = "what was finished is kept, run "


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line.

    Args:
        arguments: The words after `toco`; those of this process if not given.

    Returns:
        The exit code: 0 if all went well, 1 for an error, 2 for bad options, 130 if stopped by Ctrl-C.
    """
    # Torch's own warnings, of each process and in its words; errors are still told. Read when torch is imported.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if is_local_child():  # Ctrl-C is for the process that started it, which ends it
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    given = list(sys.argv[1:] if arguments is None else arguments)
    words = [word for word in given if word != "--debug"]  # understood after the command's name, too
    try:
        code = get_command(app).main(args=words, prog_name="toco", standalone_mode=False) or 0
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except Exception as error:
        if "--debug" in given:
            traceback.print_exc()
        print(f"toco: error: {describe(error, options_of(words), going_on(words))}", file=sys.stderr)
        return int(getattr(error, "exit_code", 1))
    if code == 130 and is_rank_zero():
        print("; ".join(filter(None, ("toco: stopped", going_on(words)))), file=sys.stderr)
    return int(code)


def command_of(words: Sequence[str]) -> Any:
    """The command in these words, None if there is none."""
    commands: Mapping[str, Any] = getattr(get_command(app), "commands", {})
    return next((commands[word] for word in words if word in commands), None)


def options_of(words: Sequence[str]) -> set[str]:
    """The options that the command in these words has, whether they were given or not."""
    command = command_of(words)
    return {option for parameter in command.params for option in parameter.opts} if command else set()


def going_on(words: Sequence[str]) -> str:
    """How an interrupted command goes on; nothing for one that starts anew each time."""
    command = command_of(words)
    if command is not None and command.name == "run":
        return f"{KEPT}the same again" + " without --overwrite" * ("--overwrite" in words)
    return f"{KEPT}again with --resume" if "--resume" in options_of(words) else ""


def describe(error: Exception, options: Collection[str] = (), going_on: str = "") -> str:
    """Say in one line what went wrong, where, and where possible what to do.

    Args:
        error: What was raised.
        options: Those that the command has.
        going_on: How the command goes on after an interruption.
    """
    text = " ".join(str(error).splitlines())
    if hasattr(error, "format_message"):  # Typer's own: something about the options
        return _describe_bad_option(error)
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in text:
        return "; ".join(filter(None, (f"the disk is full{_while_writing(error)}: free some space", going_on)))
    if type(error).__name__ in ("OutOfMemoryError", "MemoryError") or "allocate memory" in text:
        sizes = sorted(option for option in options if option.endswith(("batch-size", "image-size")))
        advice = f"make {' or '.join(sizes)} smaller" if sizes else "use a machine with more, or smaller images"
        if "--window" in options:
            advice += ", or look at large images through --window 1024"
        return f"out of memory: {advice} ({text})"
    what = f"{type(error).__name__} {text}"
    if isinstance(error, RuntimeError) and any(name in what for name in ("gloo", "NCCL", "DistNetworkError")):
        lost = "another process of this run ended, or cannot be reached any more"
        return "; ".join(filter(None, (lost, going_on)))
    if isinstance(error, OSError) and error.filename is not None:
        return _describe_file_error(error)
    if isinstance(error, (UserError, OSError)):
        return text
    return f"{type(error).__name__}: {text} (not foreseen: the same command with --debug shows where)"


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
