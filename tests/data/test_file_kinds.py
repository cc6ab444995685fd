import re

import pytest
from PIL import Image

from data.file_kinds import (
    IMAGE_FORMATS,
    IMAGE_SUFFIXES,
    PROGRAM_OF,
    conversion_advice,
    count_unread,
    describe_unread,
    is_unread_picture,
)


def test_kinds__read_or_reported() -> None:
    assert IMAGE_SUFFIXES & PROGRAM_OF.keys() == {".npy"}  # images only where there are no others
    assert all(re.fullmatch(r"\.[a-z0-9_]+", suffix) for suffix in (*IMAGE_SUFFIXES, *PROGRAM_OF))
    assert {Image.registered_extensions().get(suffix, "JPEG") for suffix in IMAGE_SUFFIXES} <= set(IMAGE_FORMATS)


def test_kinds__usual_ones_are_known() -> None:
    suffixes = (
        "heic",
        "gif",
        "jp2",
        "jxl",
        "svg",
        "psd",
        "pdf",
        "exr",
        "dcm",
        "cr2",
        "nef",
        "dng",
        "mp4",
        "npz",
        "nii",
    )
    assert {f".{suffix}" for suffix in suffixes} <= PROGRAM_OF.keys()


def test_describe_unread__several_kinds() -> None:
    names = ["x/a.HEIC", "b.gif", "c.heic", "d.Mp4"]
    assert count_unread(names) == "2 .heic, 1 .gif and 1 .mp4 files"
    assert conversion_advice(names) == (
        "save as JPEG or PNG (.heic with pillow-heif, .gif with ImageMagick, .mp4 with FFmpeg)"
    )
    assert describe_unread(names[1:2]) == "1 .gif file is not read: save as JPEG or PNG (.gif with ImageMagick)"


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.GIF", True), ("a.mp4", False), ("a.npy", False), ("a.pdf", False), ("a.ico", False), ("a.jpg", False)],
)
def test_is_unread_picture(name: str, expected: bool) -> None:
    assert is_unread_picture(name) is expected
