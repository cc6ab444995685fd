"""Find files of another project that Python imports instead of toco's own.

toco's packages `data` and `stages` have common names. They have no `__init__.py`, so a folder `data/` of another
project can share the name with toco's. Two cases remain in which toco cannot work: a package `data` with an
`__init__.py`, and a file of the same name as one of toco's, in a folder that comes earlier on Python's path.
"""

import importlib.util
from pathlib import Path

TOP_LEVEL_PACKAGES = ("data", "stages")
ROOT = Path(__file__).resolve().parent.parent


def what_hides_toco() -> str | None:
    """Return one line about a file or folder that hides a part of toco, and what to do; None if nothing does."""
    for package in TOP_LEVEL_PACKAGES:
        if path := _hiding(package):
            return (
                f"{path} hides toco's own package '{package}': unset PYTHONPATH, or run 'toco' (not "
                "'python -m toco_cli') in another folder"
            )
    return None


def _hiding(package: str) -> Path | None:
    own = ROOT / package
    spec = importlib.util.find_spec(package)
    if spec is None:
        return None
    if spec.origin is not None:  # a regular package or a file; toco's has no origin
        return Path(spec.origin)
    for folder in map(Path, spec.submodule_search_locations or ()):
        if folder.resolve() == own:
            return None  # the folders after toco's hide nothing
        if same := sorted(_modules(folder) & _modules(own)):
            return folder / same[0]
    return None


def _modules(folder: Path) -> set[str]:
    """Return the names of a folder's modules: 'images.py', or 'drawing' for a package."""
    if not folder.is_dir():
        return set()
    return {path.name for path in folder.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
