"""Start processes that do not run the user's script again."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def hidden_main_module() -> Iterator[None]:
    """Hide where `__main__` comes from while processes are started.

    A process that is not forked imports `__main__` once more, for the functions that are defined there. Those of toco
    are not, and a script that calls toco without `if __name__ == "__main__"` would start everything again in each
    process.
    """
    main = sys.modules["__main__"]
    names = ("__file__", "__spec__")
    hidden = {name: vars(main)[name] for name in names if name in vars(main)}
    vars(main).pop("__file__", None)
    main.__spec__ = None
    try:
        yield
    finally:
        vars(main).update(hidden)
