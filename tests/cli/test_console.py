"""Output on terminals and in files that cannot show every character, and names that look like markup."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from stages.sweep import Sweep
from toco_cli.main import main
from toco_cli.progress import RichMonitor
from toco_cli.tables import sweep_table

CLASSES = ("錆", "Größe", "😀", "[red]dent[/red]", ":dog:", "[/]")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A custom folder with one image of each class."""
    root = tmp_path / "photos"
    (root / "images").mkdir(parents=True)
    rows = ["image,labels"]
    for seed, name in enumerate(CLASSES):
        noise = np.random.default_rng(seed).integers(0, 255, (32, 40, 3), dtype=np.uint8)
        Image.fromarray(noise).save(root / "images" / f"{seed}.png")
        rows.append(f"{seed}.png,{name}")
    (root / "labels.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return root


def written(
    words: list[str], encoding: str, monkeypatch: pytest.MonkeyPatch, errors: str = "strict"
) -> tuple[int, str, str]:
    """Run a command; return its exit code, and what it wrote to stdout and stderr in this encoding."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding, errors=errors) for _ in range(2)]
    monkeypatch.setenv("COLUMNS", "200")
    with monkeypatch.context() as patch:
        patch.setattr("sys.stdout", streams[0])
        patch.setattr("sys.stderr", streams[1])
        code = main(words)
    texts = []
    for stream in streams:
        stream.flush()
        texts.append(stream.buffer.getvalue().decode(encoding))
    return code, texts[0], texts[1]


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "cp437", "utf-8"])
def test_report__is_whole_in_every_encoding(photos: Path, encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = written(["check", str(photos)], encoding, monkeypatch)
    assert code in (0, 1)
    assert out.splitlines()[-1].startswith(("The data set is ready", "Fix the errors"))
    for name in CLASSES:
        assert name.encode(encoding, "backslashreplace").decode(encoding) in out


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_errors__and_progress_in_every_encoding(tmp_path: Path, encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = os.fsdecode(b"caf\xe9-") + "図"  # a name that is not in UTF-8
    code, out, err = written(["check", str(tmp_path / missing)], encoding, monkeypatch)
    assert (code, out) == (1, "")
    assert err.startswith("toco: error: ")
    assert "is not a folder" in err
    stream = io.TextIOWrapper(io.BytesIO(), encoding, errors="backslashreplace")
    with RichMonitor(stream=stream) as monitor:
        monitor.start("reading 図", 1)
        monitor.warn("skipped: 図.png")
        monitor.advance()


def test_streams__keep_the_users_own_way_with_errors(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, out, _ = written(["check", str(photos)], "ascii", monkeypatch, errors="replace")
    assert "\\u" not in out
    assert "Gr??e" in out


@pytest.mark.parametrize(("encoding", "bar"), [("ascii", "#"), ("cp1252", "#"), ("utf-8", "\u2588")])
def test_sweep__bars_are_of_characters_that_the_terminal_has(encoding: str, bar: str) -> None:
    curve = Sweep(source="cam", split="[/]", images=1, backgrounds=(0.4, 0.5), mious=(0.25, 0.5), used=0.4)
    stream = io.TextIOWrapper(io.BytesIO(), encoding)
    Console(file=stream, width=120, markup=False).print(sweep_table(curve))
    stream.flush()
    text = stream.buffer.getvalue().decode(encoding)
    assert f" {bar * 20} " in text
    assert f" {bar * 40} best" in text
    assert "split '[/]'" in text
