from pathlib import Path

import pytest

from data.command_line import as_command
from data.custom_writer import begin_custom
from data.errors import DataError
from data.readers import open_dataset


def test_as_command__can_be_copied() -> None:
    assert as_command("view", Path("my run"), "--count", 3) == "toco view 'my run' --count 3"


def test_messages__quote_folders_with_spaces(tmp_path: Path) -> None:
    root = tmp_path / "my photos"
    (root / "images").mkdir(parents=True)
    with pytest.raises(DataError) as caught:
        open_dataset(root)
    assert f"or run toco init '{root}';" in str(caught.value)
    begin_custom(root)
    with pytest.raises(DataError, match="exists already") as caught:
        begin_custom(root)
    assert str(caught.value).endswith(f"toco check '{root}'")
