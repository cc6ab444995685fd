"""The optional packages of toco: whether they are installed, and how to install them."""

import importlib.util
import json
import sys
from importlib.metadata import distribution
from pathlib import Path

from data.errors import SettingsError
from stages.config import CrfBackend, LoggerName

CHECKOUT = Path(__file__).resolve().parents[2]


def install_command(extra: str) -> str:
    """Return the shell command that installs an extra of toco ('export', 'crf', 'wandb') into this installation."""
    if (CHECKOUT / "uv.lock").is_file():  # a clone of the repository
        return f"uv sync --inexact --extra {extra}"  # keeps other extras, such as crf
    package = f"'toco[{extra}]{_source()}'"
    if importlib.util.find_spec("pip") is not None:
        return f"{sys.executable} -m pip install {package}"
    return f"uv pip install --python {sys.executable} {package}"  # uv's environments have no pip


def _source() -> str:
    """Return where toco was installed from, as pip takes it behind the name; empty for a package index.

    A name alone would be searched on PyPI, where it may be that of another project.
    """
    record = json.loads(distribution("toco").read_text("direct_url.json") or "{}")
    if not record:
        return ""
    return f" @ {record['vcs_info']['vcs']}+{record['url']}" if "vcs_info" in record else f" @ {record['url']}"


def check_crf_backend(backend: CrfBackend) -> None:
    """Refuse the pydensecrf back end if its package is missing.

    Raises:
        SettingsError: Says how to install it.
    """
    if backend == "pydensecrf" and importlib.util.find_spec("pydensecrf") is None:
        raise SettingsError(
            "--crf-backend pydensecrf needs the package 'pydensecrf2', which is not installed: run "
            f'"{install_command("crf")}" (needs a C++ compiler), or use --crf-backend torch'
        )


def check_segment_packages(segments: str) -> None:
    """Refuse the segments 'slic' and 'sam' if their packages are missing.

    Raises:
        SettingsError: Says how to install them.
    """
    needed = {"slic": ("segments", {"skimage": "scikit-image"}), "sam": ("sam", {"transformers": "transformers"})}
    extra, packages = needed.get(segments, ("", {}))
    for module, package in packages.items():
        if importlib.util.find_spec(module) is None:
            raise SettingsError(
                f"--segments {segments} needs the package '{package}', which is not installed: run "
                f'"{install_command(extra)}"'
            )


def check_loggers(names: tuple[LoggerName, ...]) -> None:
    """Refuse a logger whose package is missing.

    Raises:
        SettingsError: Says how to install it.
    """
    for name in names:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:  # W&B writes to a folder 'wandb', which looks like a package
            raise SettingsError(
                f"--logger {name} needs the package '{name}', which is not installed: run \"{install_command(name)}\", "
                f"or leave out --logger {name}"
            )
