"""Collect the pages of the documentation site in build/docs: `python docs/site_pages.py`, a part of `make docs`.

They are the pages of docs/, with the options of all commands filled in from the command line itself, and the pages
outside of docs/ (bench/*.md, CONTRIBUTING.md, CHANGELOG.md) under their own paths.
"""

import re
import shutil
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
OUTSIDE = ("bench/*.md", "CONTRIBUTING.md", "CHANGELOG.md")
MARK = "<!-- options -->"  # where docs/reference/options.md gets the options


def collect(target: Path) -> None:
    """Write all pages of the site into `target`, whose earlier contents are deleted."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(ROOT / "docs", target, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    for path in (path for pattern in OUTSIDE for path in ROOT.glob(pattern)):
        (target / path.relative_to(ROOT)).parent.mkdir(exist_ok=True)
        shutil.copy(path, target / path.relative_to(ROOT))
    for page in target.rglob("*.md"):
        text = page.read_text(encoding="utf-8")
        if MARK in text:
            text = text.replace(MARK, options_page())
        page.write_text(site_links(text, page.relative_to(target).as_posix()), encoding="utf-8")


def site_links(markdown: str, page: str) -> str:
    """Rewrite relative links that cross the border of docs/, which does not exist on the site.

    Args:
        markdown: The page.
        page: Its path on the site, for example 'how-to/predict.md' or 'bench/msrc.md'.
    """
    if any(Path(page).match(pattern) for pattern in OUTSIDE):
        return re.sub(r"\]\(((?:\.\./)*)docs/", r"](\1", markdown)
    up = "../" * (page.count("/") + 1)
    return markdown.replace(f"]({up}", f"]({up.removesuffix('../')}")


def options_page() -> str:
    """Return the options of every command as Markdown: one section per command, one table per group."""
    from typer.main import get_command

    from toco_cli.commands import app

    commands = getattr(get_command(app), "commands", {})
    return "\n\n".join(_command_section(name, command) for name, command in commands.items())


def _command_section(name: str, command: Any) -> str:
    context = command.context_class(command)
    groups: dict[str, list[str]] = {}
    for parameter in command.params:
        if record := parameter.get_help_record(context):  # None for hidden options
            argument = parameter.param_type_name == "argument"
            group = "Arguments" if argument else getattr(parameter, "rich_help_panel", None) or "Options"
            groups.setdefault(group, []).append(_row(*record))
    parts = [f"## toco {name}", *(_plain(paragraph) for paragraph in command.help.split("\n\n"))]
    for group, rows in groups.items():
        parts.append("\n".join([f"**{group}**", "", "| option | meaning |", "| --- | --- |", *rows]))
    return "\n\n".join(parts)


def _row(option: str, meaning: str) -> str:
    return f"| `{option}` | {_plain(meaning)} |"


def _plain(text: str) -> str:
    """Return text as one line in which Markdown and HTML find nothing to interpret."""
    return re.sub(r"([|<*_\[\]`])", r"\\\1", " ".join(text.split()))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # toco need not be installed to build the site
    collect(ROOT / "build" / "docs")
