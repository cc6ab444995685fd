import sys
from importlib.metadata import PathDistribution
from pathlib import Path
from typing import Any

import pytest

from data.errors import SettingsError
from stages.runtime import extras
from stages.runtime.extras import check_crf_backend, check_loggers, install_command


def test_install_command__in_a_clone() -> None:
    assert install_command("export") == "uv sync --inexact --extra export"


@pytest.mark.parametrize(
    ("pip", "command"),
    [
        (True, f"{sys.executable} -m pip install"),
        (False, f"uv pip install --python {sys.executable}"),
    ],
)
@pytest.mark.parametrize(
    ("record", "package"),
    [
        (None, "toco[export]"),  # from an index
        ('{"url": "file:///a/clone", "dir_info": {}}', "toco[export] @ file:///a/clone"),
        (
            '{"url": "https://host/toco.git", "vcs_info": {"vcs": "git", "commit_id": "1"}}',
            "toco[export] @ git+https://host/toco.git",
        ),
    ],
)
def test_install_command__of_a_wheel(
    pip: bool, command: str, record: str | None, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "CHECKOUT", tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name if pip else None)
    monkeypatch.setattr(PathDistribution, "read_text", lambda *_: record)
    assert install_command("export") == f"{command} '{package}'"


def test_check_crf_backend__a_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    check_crf_backend("auto")
    check_crf_backend("torch")
    with pytest.raises(SettingsError, match="needs the package 'pydensecrf2', which is not installed: run \"uv sync"):
        check_crf_backend("pydensecrf")


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_check_loggers__a_missing_package(name: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / name).mkdir()  # a folder of results is not the package
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, name, raising=False)
    check_loggers(())
    command = f"uv sync --inexact --extra {name}"
    message = f"^--logger {name} needs the package '{name}', which is not installed: run \"{command}\""
    with pytest.raises(SettingsError, match=message):
        check_loggers((name,))
