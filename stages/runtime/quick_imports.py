"""Import torch, timm and what needs them in less time, in a process that runs a toco command."""

import atexit
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from stages.runtime.without_compiler import without_compiler

_in_command = False  # not in a notebook, whose objects the collector must not forget


def begin_command() -> None:
    """Allow `quick_imports` in this process."""
    global _in_command
    _in_command = True


@contextmanager
def quick_imports() -> Iterator[None]:
    """Import packages in this block without Python's garbage collector, which would take a fifth of the time.

    Imports create half a million objects that live as long as the process, and the collector would search them again
    and again. It leaves them out later, too. Nothing changes outside of commands, or if timm is imported already.
    """
    if not _in_command or "timm" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        with without_compiler():
            yield
    finally:
        gc.freeze()
        atexit.register(gc.unfreeze)  # packages of C++ report objects that are left at the end
        gc.enable()
