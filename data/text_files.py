"""Read small text files of a data set."""

from pathlib import Path

from data.errors import DataError, reason

COMMENT = "#"  # first character of lines that are not read


def read_text(path: Path) -> str:
    """Return the text of a UTF-8 file, without a byte order mark.

    Raises:
        DataError: The file is missing, unreadable or not in UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not in UTF-8 (byte {error.start}): save it as UTF-8 text") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {reason(error)}") from error
