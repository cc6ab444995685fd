"""The documentation agrees with the code: commands and options exist, links lead somewhere, the site is complete."""

import ast
import importlib.util
import re
import shlex
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.main import get_command

import stages.config
from data.readers import open_dataset, read_mask
from stages.option import flag, option_text
from toco_cli.commands import app

ROOT = Path(__file__).parent.parent
GUIDES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [*GUIDES, ROOT / "CHANGELOG.md", *sorted((ROOT / "bench").glob("*.md"))]
COMMANDS: dict[str, Any] = dict(getattr(get_command(app), "commands", {}))


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def code_lines(page: str) -> list[str]:
    """Lines of indented and fenced code, with continuation lines joined."""
    text = re.sub(r"\\\n\s*", "", page)
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    indented = re.findall(r"^    (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return [line.strip() for block in fenced for line in block.splitlines()] + indented


def commands_in(page: str) -> list[list[str]]:
    """The arguments of every `toco ...` line of a page's code."""
    lines = [re.search(r"(?:^|--no-python |--gpus-per-node=4 )toco (.*)$", line) for line in code_lines(page)]
    return [shlex.split(found[1].split(" #")[0]) for found in lines if found]


ALL_COMMANDS = [
    pytest.param(command, id=f"{name_of(page)}: toco {' '.join(command)}")
    for page in GUIDES
    for command in commands_in(page.read_text(encoding="utf-8"))
]


def test_commands_in__finds_indented_fenced_and_continued_lines() -> None:
    page = "Text\n\n    toco check a   # comment\n    toco run a \\\n        --out b\n\n```sh\ntoco view 'x y' b\n```\n"
    assert sorted(commands_in(page)) == [["check", "a"], ["run", "a", "--out", "b"], ["view", "x y", "b"]]
    assert len(ALL_COMMANDS) > 50


@pytest.mark.parametrize("command", ALL_COMMANDS)
def test_guides__commands_parse(command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs/photos").mkdir(parents=True)
    for settings in ("photos.toml", "runs/photos/config.toml"):  # read while options are parsed
        (tmp_path / settings).touch()
    monkeypatch.chdir(tmp_path)
    assert command[0] in COMMANDS
    COMMANDS[command[0]].make_context(f"toco {command[0]}", command[1:])  # an error if it does not parse


@pytest.mark.parametrize("page", GUIDES, ids=name_of)
def test_guides__name_commands_that_exist(page: Path) -> None:
    mentioned = re.findall(r"`toco ([a-z][a-z-]*)", page.read_text(encoding="utf-8"))
    assert set(mentioned) <= COMMANDS.keys()


@pytest.mark.parametrize("page", GUIDES, ids=name_of)
def test_guides__name_options_as_they_are_called_now(page: Path) -> None:
    settings = [value for value in vars(stages.config).values() if is_dataclass(value) and isinstance(value, type)]
    all_fields = [one for kind in settings for one in fields(kind)]
    old = {flag(name) for one in all_fields for name in option_text(one).old_names}
    words = set(re.findall(r"--(?:[a-z-]+\.)?([a-z][a-z-]*)", page.read_text(encoding="utf-8")))
    assert not old & {f"--{word}" for word in words}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_pages__links_and_anchors_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(\s*([^)\s]+)\)", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{name_of(page)} links to {target}"
        assert not anchor or anchor in anchors(linked), f"{name_of(page)} links to {target}"


def anchors(page: Path) -> set[str]:
    """Anchors of the headings of a page, as Markdown renderers name them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_function_reference__names_what_exists() -> None:
    names = re.findall(r"^::: (\S+)$", (ROOT / "docs/reference/python.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(names) > 10
    for name in names:
        module, _, symbol = name.rpartition(".")
        tree = ast.parse(
            (ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
        )  # not imported: no torch
        assert symbol in {getattr(node, "name", None) for node in tree.body}, name


@pytest.fixture(scope="module")
def site_pages() -> ModuleType:
    spec = importlib.util.spec_from_file_location("site_pages", ROOT / "docs/site_pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", COMMANDS)
def test_options_page__lists_every_option_but_those_of_other_stages(name: str, site_pages: ModuleType) -> None:
    section = site_pages.options_page().split(f"## toco {name}\n")[1].split("\n## ")[0]
    listed = set(re.findall(r"^\| `[^`]*?(--[a-z][a-z-]*)", section, flags=re.MULTILINE))
    options = {parameter.opts[-1] for parameter in COMMANDS[name].params if parameter.param_type_name == "option"}
    assert listed - {"--help"} == {option for option in options if "." not in option}


@pytest.mark.parametrize(
    ("page", "link", "on_the_site"),
    [
        ("how-to/predict.md", "](../../bench/crf.md)", "](../bench/crf.md)"),
        ("tutorial.md", "](../bench/crf.md)", "](bench/crf.md)"),
        ("how-to/predict.md", "](../reference/scores.md)", "](../reference/scores.md)"),
        ("CONTRIBUTING.md", "](docs/tutorial.md)", "](tutorial.md)"),
        ("bench/msrc.md", "](../docs/tutorial.md)", "](../tutorial.md)"),
        ("bench/msrc.md", "](crf.md)", "](crf.md)"),
    ],
)
def test_site_links__cross_the_border_of_docs(page: str, link: str, on_the_site: str, site_pages: ModuleType) -> None:
    assert site_pages.site_links(f"[x{link}", page) == f"[x{on_the_site}"


def test_prepare_data__its_code_converts_mvtec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad = ("train/good/000", "train/good/001", "test/good/000"), ("crack/000", "hole/000", "hole/001")
    for name in (*good, *(f"test/{one}" for one in bad)):
        image = tmp_path / "bottle" / f"{name}.png"
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 32), (120, len(name), 90)).save(image)
    for name in bad:
        mask = tmp_path / "bottle/ground_truth" / f"{name}_mask.png"
        mask.parent.mkdir(parents=True, exist_ok=True)
        drawn = Image.new("L", (40, 32))
        drawn.paste(255, (5, 5, 20, 20))
        drawn.save(mask)
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/how-to/prepare-data.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    made = open_dataset(tmp_path / "photos")
    classes = {one.id: one.classes for samples in made.splits.values() for one in samples}
    assert classes == {
        "test/crack/000": (1,), "test/good/000": (), "test/hole/000": (2,), "test/hole/001": (2,),
        "train/good/000": (), "train/good/001": (),
    }  # fmt: skip
    assert {name: len(samples) for name, samples in made.splits.items()} == {"train": 4, "val": 2}
    assert set(np.unique(read_mask(made.by_id()["test/hole/001"], (32, 40), 2))) == {0, 2}
    assert not read_mask(made.by_id()["train/good/001"], (32, 40), 2).any()
