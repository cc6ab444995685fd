import pickle

import pytest

from data.errors import ArtifactError, DataError, SettingsError, UserError, reason


@pytest.mark.parametrize("kind", [DataError, SettingsError, ArtifactError])
def test_errors__share_one_base_and_can_be_sent_between_processes(kind: type[UserError]) -> None:
    copy = pickle.loads(pickle.dumps(kind("a.jpg is missing")))
    assert isinstance(copy, UserError)
    assert (type(copy), str(copy)) == (kind, "a.jpg is missing")


@pytest.mark.parametrize("kind", [DataError, SettingsError])
def test_errors__bad_values_are_value_errors(kind: type[UserError]) -> None:
    assert issubclass(kind, ValueError)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("bad value"), "bad value"),
        (ValueError("first line\nsecond line"), "first line"),
        (ValueError("\n  first  line \t here\nsecond"), "first line here"),
        (
            RuntimeError("Error(s) in loading:\n\tsize mismatch for a\n\tsize mismatch for b"),
            "Error(s) in loading: size mismatch for a",
        ),
        (ValueError(), "ValueError"),
        (RuntimeError(" \n "), "RuntimeError"),
        (PermissionError(13, "Permission denied", "/data/a.jpg"), "Permission denied"),
        (OSError("truncated file"), "truncated file"),
        (OSError(), "OSError"),
        (ValueError("x" * 120), "x" * 120),
        (ValueError("x" * 121), "x" * 116 + " ..."),
    ],
)
def test_reason__is_one_short_line(error: Exception, expected: str) -> None:
    assert reason(error) == expected


def test_errors__one_line() -> None:
    assert str(DataError("image 'a\nb\u2028c.jpg' is missing")) == "image 'a b c.jpg' is missing"
