"""toco installed from its wheel, beside a project that has a folder `data` of its own."""

import os
import re
import shutil
import subprocess
import venv
from pathlib import Path

import pytest
import typer

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
OWN = "import data.loader; print(data.loader.NAME)"  # what the project's code does


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a new environment with toco from its wheel, and with this environment's other packages."""
    folder = tmp_path_factory.mktemp("installed")
    local = ROOT / ".tools" / "bin" / "uv"
    uv = os.environ.get("UV") or shutil.which("uv") or (str(local) if local.is_file() else None)
    if uv is None:
        pytest.skip("needs uv to build the wheel")
    subprocess.run([uv, "build", "--wheel", "--quiet", "--offline", "--out-dir", folder, ROOT], check=True)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "venv", symlinks=True)
    python = folder / "venv" / "bin" / "python"
    install: list[str | Path] = [uv, "pip", "install", "--quiet", "--offline", "--no-deps", "--python", python, wheel]
    subprocess.run(install, check=True)
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True).stdout.strip())
    # After toco on the path. Its own .pth files, such as that of an editable toco, are not read.
    (site / "packages.pth").write_text(str(Path(typer.__file__).parents[1]))
    return python


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with data/loader.py and no data/__init__.py."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "loader.py").write_text("NAME = 'of the project'\n")
    return tmp_path


def call(*words: str | Path, cwd: Path, path: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if path is not None:
        environment["PYTHONPATH"] = path
    return subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("path", [None, "."])
def test_installed__beside_a_data_folder_without_init(python: Path, project: Path, path: str | None) -> None:
    commands: list[list[str | Path]] = [
        [python.with_name("toco"), "init", "photos", "--json"],
        [python, "-m", "toco_cli", "check", "--help"],
    ]
    for words in commands:
        done = call(*words, cwd=project, path=path)
        assert (done.returncode, done.stderr) == (0, "")
    both = call(python, "-c", f"{OWN}; import data.images; print(data.images.__file__)", cwd=project, path=path)
    name, file = both.stdout.split("\n")[:2]
    assert name == "of the project"
    assert Path(file).is_relative_to(python.parents[1])


def test_installed__beside_a_data_package(python: Path, project: Path) -> None:
    package = project / "data" / "__init__.py"
    package.touch()
    assert call(python, "-c", OWN, cwd=project).stdout == "of the project\n"
    assert call(python.with_name("toco"), "--version", cwd=project).returncode == 0
    hidden = (
        call(python.with_name("toco"), "--version", cwd=project, path="."),
        call(python, "-m", "toco_cli", "--version", cwd=project),
    )
    for done in hidden:
        assert done.returncode == 1
        assert done.stderr.startswith(f"toco: error: {package} hides toco's own package 'data': unset PYTHONPATH")
        assert done.stderr.count("\n") == 1


def test_installed__beside_a_file_of_the_same_name(python: Path, project: Path) -> None:
    (project / "data" / "images.py").touch()
    done = call(python.with_name("toco"), "--version", cwd=project, path=".")
    assert done.returncode == 1
    assert done.stderr.startswith(f"toco: error: {project / 'data' / 'images.py'} hides toco's own package 'data'")


def test_installed__gives_the_python_api(python: Path, project: Path) -> None:
    ask = "import toco, toco_cli, sys; print(toco is toco_cli, toco.load.__module__, 'torch' in sys.modules)"
    assert call(python, "-c", ask, cwd=project).stdout == "True toco_cli.api False\n"
    (project / "data" / "__init__.py").touch()
    hidden = call(python, "-c", "import toco; toco.load", cwd=project)
    assert "hides toco's own package 'data'" in hidden.stderr.splitlines()[-1]


def test_installed__says_how_to_install_extras_here(python: Path, project: Path) -> None:
    ask = "from stages.runtime.extras import install_command; print(install_command('export'))"
    said = call(python, "-c", ask, cwd=project).stdout
    assert re.fullmatch(rf"uv pip install --python {python} 'toco\[export\] @ file:///.*\.whl'\n", said)


def test_installed__has_all_files_of_the_repository(python: Path, project: Path) -> None:
    ask = "import pathlib, toco_cli; print(pathlib.Path(toco_cli.__file__).parents[1])"
    site = Path(call(python, "-c", ask, cwd=project).stdout.strip())
    for folder in ("toco_cli", "stages", "data"):
        files = {path.relative_to(ROOT) for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".j2", ".css")}
        assert files
        assert {path for path in files if not (site / path).is_file()} <= {Path("toco_cli/toco.py")}
    assert (site / "toco.py").is_file()  # is moved, for `import toco`
