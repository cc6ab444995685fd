"""Errors that the user can fix, and the reasons of other errors in one line."""


class UserError(Exception):
    """Something that the user can fix; the message is one line: what, where, what to do."""

    def __init__(self, message: str) -> None:
        """Join the lines of the message: names of files and classes may contain line breaks."""
        super().__init__(" ".join(message.splitlines()))


class DataError(UserError, ValueError):
    """Something is wrong with the user's data."""


class SettingsError(UserError, ValueError):
    """An option or a setting has a value that cannot work, or does not fit the others."""


class ArtifactError(UserError):
    """A file or folder of a run is missing, damaged, or was made with other settings."""


MAX_REASON = 120  # characters
FIX_OR_SKIP = "fix or remove it, or skip it with --skip-bad"  # advice for a bad file


def reason(error: BaseException) -> str:
    """Return the cause of an error for a message in one line, at most `MAX_REASON` characters long.

    An `OSError` gives the system's own text, for example 'Permission denied', without the path. Every other error gives
    the first line of its text, or the name of its class if it has no text. A first line that ends with a colon only
    announces the reason, so the next line is added.
    """
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    lines = [line for line in text.splitlines() if line.strip()] or [type(error).__name__]
    first = 2 if lines[0].rstrip().endswith(":") else 1
    collapsed = " ".join(" ".join(lines[:first]).split())
    return collapsed if len(collapsed) <= MAX_REASON else f"{collapsed[: MAX_REASON - 4]} ..."
