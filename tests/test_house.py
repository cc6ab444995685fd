"""Rules that the repository keeps as it grows."""

import ast
import importlib.util
import re
import subprocess
import sys
from dataclasses import fields, is_dataclass
from itertools import pairwise
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
def test_configs__every_field_has_help_and_is_read(config: type, attributes_read: set[str]) -> None:
    for one in fields(config):
        assert option_text(one).help
        assert one.name in attributes_read, f"{config.__name__}.{one.name} is not read in stages/"


@pytest.fixture(scope="module")
def trees() -> dict[Path, ast.Module]:
    """The syntax tree of each file of the product, by its path from the repository's folder."""
    paths = [path for folder in ("data", "stages", "toco_cli") for path in sorted((ROOT / folder).rglob("*.py"))]
    return {path.relative_to(ROOT): ast.parse(path.read_text(encoding="utf-8")) for path in paths}


@pytest.fixture(scope="module")
def attributes_read(trees: dict[Path, ast.Module]) -> set[str]:
    """Names N that files of stages/ read as `something.N`, outside of the checks in `__post_init__`."""
    return set().union(*(attributes_of(tree) for path, tree in trees.items() if path.parts[0] == "stages"))


def attributes_of(tree: ast.Module) -> set[str]:
    checks = [node for node in ast.walk(tree) if getattr(node, "name", None) == "__post_init__"]
    left_out = {node for check in checks for node in ast.walk(check)}
    found = (node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node not in left_out)
    return {node.attr for node in found}


def test_python_api__imports_nothing_heavy() -> None:
    program = (
        "import sys; import toco_cli as toco; toco.train_cam; toco.load\n"
        "heavy = {'torch', 'timm', 'rich', 'lightning_fabric'} & set(sys.modules)\n"
        "sys.exit(f'imported: {sorted(heavy)}' if heavy else 0)"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


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


# Names that several modules give to the same thing.
SAME_THING = {
    "IGNORE_INDEX": "stages/toco imports nothing from outside, so the method states it again",
    "CrfBackend": "stages/toco imports nothing from outside, so the method states it again",
}


def test_code__different_things_have_different_names(trees: dict[Path, ast.Module]) -> None:
    """Public classes, functions and constants; a command of toco_cli, and its function in the API, has the name of the
    function that it runs."""
    modules: dict[str, list[str]] = {}
    for path, tree in trees.items():
        if path not in (Path("toco_cli/commands.py"), Path("toco_cli/api.py")):
            for name in names_defined(tree):
                modules.setdefault(name, []).append(path.as_posix())
    shared = {name: paths for name, paths in modules.items() if len(paths) > 1 and not name.startswith("_")}
    assert {name: paths for name, paths in shared.items() if name not in SAME_THING} == {}
    assert shared.keys() == SAME_THING.keys()


def test_code__commands_in_messages_quote_their_paths(trees: dict[Path, ast.Module]) -> None:
    """A command with a path comes from `as_command`, so that it can be copied: no f-string puts a value into one."""
    command = re.compile(rf"toco ({'|'.join(COMMANDS)})( [\w.-]+)* $")
    found = [
        f"{path}:{one.lineno}"
        for path, tree in trees.items()
        for text in ast.walk(tree)
        if isinstance(text, ast.JoinedStr)
        for one, following in pairwise(text.values)
        if isinstance(following, ast.FormattedValue)
        and isinstance(one, ast.Constant)
        and command.search(str(one.value))
    ]
    assert found == []


def names_defined(tree: ast.Module) -> set[str]:
    """The names that a module gives at its top level; names that it imports are not among them."""
    names = set()
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def test_code__no_two_files_share_a_name(trees: dict[Path, ast.Module]) -> None:
    names = sorted(path.name for path in trees if path.name != "__init__.py")
    assert [name for name in set(names) if names.count(name) > 1] == []
