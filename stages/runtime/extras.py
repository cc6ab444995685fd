"""How to install the optional packages of toco in the installation at hand."""

import importlib.util
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]


def install_command(extra: str) -> str:
    """Return the shell command that installs an extra of toco ('export', 'crf') into this installation."""
    if (CHECKOUT / "uv.lock").is_file():  # a clone of the repository
        return f"uv sync --extra {extra}"
    if importlib.util.find_spec("pip") is not None:
        return f"{sys.executable} -m pip install 'toco[{extra}]'"
    return f"uv pip install --python {sys.executable} 'toco[{extra}]'"  # uv's environments have no pip
