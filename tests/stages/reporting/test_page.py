from typing import Any

import pytest

from stages.option import as_option


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("seed", 1, "--seed 1"),
        ("scales", [1.0, 0.5], "--scales 1.0 --scales 0.5"),
        ("seg_weight", 0.0, "--seg-weight 0.0"),
        ("flip_tta", True, "--flip-tta"),
        ("flip_tta", False, "--no-flip-tta"),
        ("weights", "none", "--weights none"),
        ("weights", "my file", "--weights 'my file'"),
        ("batch_size", None, "--batch-size"),
    ],
)
def test_option__as_on_the_command_line(name: str, value: Any, text: str) -> None:
    assert as_option(name, value) == text
