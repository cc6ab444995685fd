import sys
from pathlib import Path

import pytest

from stages.runtime import extras
from stages.runtime.extras import install_command


def test_install_command__in_a_clone() -> None:
    assert install_command("export") == "uv sync --extra export"


@pytest.mark.parametrize(
    ("pip", "command"),
    [
        (True, f"{sys.executable} -m pip install 'toco[export]'"),
        (False, f"uv pip install --python {sys.executable} 'toco[export]'"),
    ],
)
def test_install_command__of_a_wheel(pip: bool, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "CHECKOUT", tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name if pip else None)
    assert install_command("export") == command
