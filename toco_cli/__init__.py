"""toco: from image labels to pixel masks and a segmentation network.

The package is the `toco` command, and the Python API: `import toco` gives this module. Its names are loaded when they
are first used, so that the command line starts quickly and torch is imported only by what needs it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data.errors import ArtifactError, DataError, SettingsError, UserError
    from stages.labels.pseudo_masks import PseudoMasks
    from stages.prediction.predictor import Predictor
    from stages.runtime.monitor import Monitor, SilentMonitor
    from toco_cli.api import (
        check,
        evaluate,
        export,
        import_masks,
        join,
        load,
        make_labels,
        pick,
        predict,
        report,
        run,
        tile,
        train_cam,
        train_seg,
    )

MODULES = {
    "ArtifactError": "data.errors",
    "DataError": "data.errors",
    "Monitor": "stages.runtime.monitor",
    "Predictor": "stages.prediction.predictor",
    "PseudoMasks": "stages.labels.pseudo_masks",
    "SettingsError": "data.errors",
    "SilentMonitor": "stages.runtime.monitor",
    "UserError": "data.errors",
    "check": "toco_cli.api",
    "evaluate": "toco_cli.api",
    "export": "toco_cli.api",
    "import_masks": "toco_cli.api",
    "join": "toco_cli.api",
    "load": "toco_cli.api",
    "make_labels": "toco_cli.api",
    "pick": "toco_cli.api",
    "predict": "toco_cli.api",
    "report": "toco_cli.api",
    "run": "toco_cli.api",
    "tile": "toco_cli.api",
    "train_cam": "toco_cli.api",
    "train_seg": "toco_cli.api",
}

__all__ = [
    "ArtifactError",
    "DataError",
    "Monitor",
    "Predictor",
    "PseudoMasks",
    "SettingsError",
    "SilentMonitor",
    "UserError",
    "check",
    "evaluate",
    "export",
    "import_masks",
    "join",
    "load",
    "make_labels",
    "pick",
    "predict",
    "report",
    "run",
    "tile",
    "train_cam",
    "train_seg",
]


def __getattr__(name: str) -> Any:
    """Load a name of the API when it is first used (PEP 562)."""
    if name not in MODULES:
        raise AttributeError(f"toco has no {name!r}")
    from toco_cli.shadowing import what_hides_toco

    if problem := what_hides_toco():
        raise ImportError(problem)
    value = getattr(import_module(MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the API, also the names that are not loaded yet."""
    return sorted([*globals(), *MODULES])
