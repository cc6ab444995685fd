import pytest

from data.errors import SettingsError
from stages.planning.budget import minutes_of, time_text


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("2h", 120), ("45m", 45), ("90s", 1.5), ("1h30m", 90), ("1.5 h", 90), ("1d", 1440), ("2H", 120)],
)
def test_minutes_of__units(text: str, minutes: float) -> None:
    assert minutes_of(text) == minutes


@pytest.mark.parametrize("text", ["2", "", "h", "two hours", "-2h", "2h!", "0m"])
def test_minutes_of__refuses_what_is_no_time(text: str) -> None:
    with pytest.raises(SettingsError, match="--time"):
        minutes_of(text)


@pytest.mark.parametrize(
    ("minutes", "text"), [(0.5, "30 s"), (12.4, "12 min"), (118.0, "1.97 h"), (720.0, "12 h"), (14_400.0, "10 days")]
)
def test_time_text__two_or_three_digits(minutes: float, text: str) -> None:
    assert time_text(minutes) == text
