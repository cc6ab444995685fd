"""The time that a run may take, read from `--time 2h`; how times and settings are shown."""

import re

from data.errors import SettingsError

CPU_MINUTES = 120.0  # of a run on a CPU, unless --time is given
UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def minutes_of(text: str) -> float:
    """Read a time: '90s', '45m', '2h', '1h30m', '1d'.

    Raises:
        SettingsError: It has another form, or is zero.
    """
    words = text.strip().lower().replace(" ", "")
    if not re.fullmatch(r"(\d+(\.\d+)?[smhd])+", words):
        raise SettingsError(f"--time {text!r} is not a time: write 90s, 45m, 2h or 1h30m")
    seconds = sum(float(number) * UNIT_SECONDS[unit] for number, _, unit in re.findall(r"(\d+(\.\d+)?)([smhd])", words))
    if not seconds:
        raise SettingsError("--time is zero: give the time that the run may take")
    return seconds / 60


def time_text(minutes: float) -> str:
    """Show a time with two or three digits: '40 s', '12 min', '3.5 h', '12 days'."""
    if minutes < 1:
        return f"{max(1, round(60 * minutes))} s"
    if minutes < 100:
        return f"{round(minutes)} min"
    if minutes < 48 * 60:
        return f"{minutes / 60:.3g} h" if minutes < 600 else f"{round(minutes / 60)} h"
    return f"{round(minutes / 1440)} days"


def value_text(value: object) -> str:
    """Show a setting: a short number, or several values with blanks between them."""
    if isinstance(value, tuple):
        return " ".join(map(value_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
