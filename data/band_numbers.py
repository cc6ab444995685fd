"""The bands that a user asks for. This file imports little, so that `toco --help` is instant."""

from data.errors import SettingsError


def band_numbers(text: str) -> list[int]:
    """Return the numbers in a text such as '4,3,2'.

    Raises:
        SettingsError: It is not a list of different numbers from 1.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts) or len({*parts}) < len(parts):
        raise SettingsError(f"--bands {text!r}: give different numbers from 1, such as 4,3,2; or all; or auto")
    return [int(part) for part in parts]
