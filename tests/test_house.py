"""Rules that the house keeps by itself as it grows."""

import ast
import importlib.util
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
from typer.main import get_command

from stages.option import option_text
from toco_cli.commands import app

ROOT = Path(__file__).parent.parent
COMMANDS = dict(getattr(get_command(app), "commands", {}))
CONFIGS = [
    value
    for name, value in sorted(vars(importlib.import_module("stages.config")).items())
    if is_dataclass(value) and isinstance(value, type) and value.__module__ == "stages.config"
]


@pytest.mark.parametrize("name", COMMANDS)
def test_commands__have_help(name: str) -> None:
    assert COMMANDS[name].help, f"toco {name} has no docstring"
    for parameter in COMMANDS[name].params:
        assert getattr(parameter, "help", None), f"toco {name}: {parameter.name} has no help"


@pytest.mark.parametrize("name", COMMANDS)
def test_commands__stand_in_the_readme(name: str) -> None:
    assert f"toco {name}" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.__name__)
def test_configs__every_field_has_help_and_is_read(config: type) -> None:
    read = set().union(*(attributes_read(path) for path in (ROOT / "stages").rglob("*.py")))
    for one in fields(config):
        assert option_text(one).help
        assert one.name in read, f"{config.__name__}.{one.name} is read nowhere in stages/"


def attributes_read(path: Path) -> set[str]:
    """Names N that the file reads as `something.N`, outside of the checks in `__post_init__`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    checks = [node for node in ast.walk(tree) if getattr(node, "name", None) == "__post_init__"]
    left_out = {node for check in checks for node in ast.walk(check)}
    found = (node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node not in left_out)
    return {node.attr for node in found}


def test_help__imports_nothing_heavy() -> None:
    program = (
        "import sys; from toco_cli.main import main; main(['--help'])\n"
        "heavy = {'torch', 'numpy', 'PIL', 'h5py', 'timm', 'rich'} & set(sys.modules)\n"
        "sys.exit(f'imported: {sorted(heavy)}' if heavy else 0)"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_code__names_no_data_set_outside_of_its_reader() -> None:
    for folder in ("stages", "toco_cli"):
        for path in (ROOT / folder).rglob("*.py"):
            if path.parent != ROOT / "stages" / "exports":  # there the names are those of formats
                assert not {"voc", "coco"} & set(path.stem.split("_")), path
