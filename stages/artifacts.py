"""Run folders: what each stage writes, and how the next one opens it.

    RUN/cam     config.json  model.safetensors  metrics.jsonl  (checkpoint.pt until it is done)
    RUN/labels  config.json  cams.h5  labels.h5  (shards/ until it is done)
    RUN/seg     config.json  model.safetensors  metrics.jsonl  (checkpoint.pt until it is done)

A product appears under its final name only when it is whole: it is written beside and renamed.
Nothing here is unpickled beyond tensors and plain values.
"""

import hashlib
import io
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.dataset import Dataset

if TYPE_CHECKING:
    from torch import Tensor

PRODUCERS = {"cam": "train-cam", "labels": "make-labels", "seg": "train-seg"}
PRODUCTS = {"cam": ("model.safetensors",), "labels": ("cams.h5", "labels.h5"), "seg": ("model.safetensors",)}


class ArtifactError(Exception):
    """A run folder is not as a stage needs it; one line: what, where, what to do."""


@dataclass(frozen=True, kw_only=True)
class StageFolder:
    """One stage's folder in a run."""

    path: Path
    config: Mapping[str, Any]  # what config.json holds

    @property
    def class_names(self) -> tuple[str, ...]:
        """Foreground classes; class c is class_names[c - 1]."""
        return tuple(self.config["dataset"]["class_names"])

    @property
    def dataset_root(self) -> Path:
        """Where the data set was."""
        return Path(self.config["dataset"]["root"])

    @property
    def settings(self) -> Mapping[str, Any]:
        """The stage's settings, by field name."""
        settings: Mapping[str, Any] = self.config["settings"]
        return settings


def begin_stage(
    run: Path,
    stage: str,
    *,
    settings: Any,
    dataset: Dataset,
    extra: Mapping[str, Any] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    may_change: tuple[str, ...] = (),
) -> StageFolder:
    """Make a stage's folder and write its config; nothing is deleted before everything else was checked.

    Args:
        run: The run folder.
        stage: Key of PRODUCERS.
        settings: The stage's settings, a dataclass.
        dataset: What it works on.
        extra: More for the config.
        resume: Go on with a folder that an interrupted run left.
        overwrite: Delete what an earlier run left, and the stages made from it stay.
        may_change: Settings that may differ when a run goes on.

    Raises:
        ArtifactError: The folder exists and neither `resume` nor `overwrite` was given, or it is none of toco's,
            or a run to go on with had other settings.
    """
    path = run / stage
    config = {
        "stage": PRODUCERS[stage],
        "toco": version("toco"),
        "settings": asdict(settings),
        "dataset": {
            "root": str(dataset.root.resolve()),
            "layout": dataset.layout,
            "class_names": list(dataset.class_names),
        },
        **(extra or {}),
    }
    config = json.loads(json.dumps(config))  # as it will be read: tuples are lists
    if check_vacant(run, stage, resume=resume, overwrite=overwrite):
        if resume:
            old = read_config(run, stage)
            _check_same(old, config, path, may_change)
            if finished(run, stage):
                return StageFolder(path=path, config=old)
        else:
            shutil.rmtree(path)
    path.mkdir(parents=True, exist_ok=True)
    for partial in path.rglob(".*.partial"):  # of a run that was killed while it wrote
        partial.unlink()
    write_json(path / "config.json", config)
    return StageFolder(path=path, config=config)


def check_vacant(run: Path, stage: str, *, resume: bool, overwrite: bool) -> bool:
    """Refuse a stage's folder that is in use; asked first, before anything is loaded or downloaded.

    Returns:
        Whether an earlier run of the stage left something there.

    Raises:
        ArtifactError: It did, and neither `resume` nor `overwrite` was given; or the folder is none of toco's.
    """
    path = run / stage
    # Hidden files do not count: a run that was killed before it had a config left no others.
    if not path.exists() or all(file.name.startswith(".") for file in path.iterdir()):
        return False
    if not (resume or overwrite):
        raise ArtifactError(
            f"{path} exists: use --resume to go on with it, --overwrite to start again, or another run folder"
        )
    if not (path / "config.json").is_file():
        raise ArtifactError(f"{path} has no config.json, so it is none of toco's: give another run folder")
    return True


def _check_same(old: Mapping[str, Any], new: Mapping[str, Any], path: Path, may_change: tuple[str, ...]) -> None:
    for name, value in new["settings"].items():
        before = old["settings"].get(name)
        if before != value and name not in may_change:
            raise ArtifactError(
                f"{path} was begun with --{name.replace('_', '-')} {before} and cannot go on with {value}: "
                "give the same, or --overwrite to start again"
            )
    if old["dataset"]["class_names"] != new["dataset"]["class_names"]:
        raise ArtifactError(
            f"{path} was begun with other classes than {new['dataset']['root']} has now: use --overwrite to start again"
        )
    if old.get("made_from") != new.get("made_from"):
        raise ArtifactError(
            f"{path} was begun from another result of the stage before it: use --overwrite to start again"
        )


def digest(path: Path) -> str:
    """SHA-256 of a file, for a config's `made_from`: what a stage was made from must not change under it."""
    with path.open("rb") as file:
        state = hashlib.sha256()
        while block := file.read(1 << 20):
            state.update(block)
        return state.hexdigest()


def read_config(run: Path, stage: str) -> Mapping[str, Any]:
    """Read a stage's config.json.

    Raises:
        ArtifactError: There is none, or it is damaged.
    """
    path = run / stage / "config.json"
    producer = PRODUCERS[stage]
    if not run.is_dir():
        raise ArtifactError(f"there is no run folder {run}: check the path, or run 'toco train-cam DATA --out {run}'")
    if not path.is_file():
        raise ArtifactError(f"{run} has no {stage}/config.json: run 'toco {producer}' first")
    try:
        config: Mapping[str, Any] = json.loads(path.read_text())
        dataset = config["dataset"]
        for value, kind in ((config["settings"], dict), (dataset["root"], str), (dataset["class_names"], list)):
            if not isinstance(value, kind):
                raise TypeError(f"{value!r} is no {kind.__name__}")
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path} is damaged ({error}): run 'toco {producer} --overwrite' again") from error
    return config


def open_stage(run: Path, stage: str) -> StageFolder:
    """Open what a finished stage wrote.

    Raises:
        ArtifactError: The stage did not run, or did not finish.
    """
    config = read_config(run, stage)
    for name in PRODUCTS[stage]:
        if not (run / stage / name).is_file():
            raise ArtifactError(
                f"{run / stage} has no {name}: 'toco {PRODUCERS[stage]}' did not finish there; "
                "run it again with --resume"
            )
    return StageFolder(path=run / stage, config=config)


def finished(run: Path, stage: str) -> bool:
    """Whether a stage's products are all there."""
    return all((run / stage / name).is_file() for name in PRODUCTS[stage])


def check_classes(folder: StageFolder, dataset: Dataset) -> None:
    """Refuse a data set whose classes are not those that the run was made with.

    Raises:
        ArtifactError: Names the first difference.
    """
    mine, theirs = folder.class_names, dataset.class_names
    if mine == theirs:
        return
    missing = [name for name in mine if name not in theirs]
    added = [name for name in theirs if name not in mine]
    what = (
        f"lacks the class {missing[0]!r}"
        if missing
        else f"has the class {added[0]!r} more"
        if added
        else "has the classes in another order"
    )
    raise ArtifactError(
        f"{dataset.root} {what} ({len(theirs)} classes; {folder.path} was made with {len(mine)}): "
        "use the data set of that run, or train again"
    )


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary path in the same folder; rename it to `path` if the block ends well, else delete it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp's files are for their owner alone
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


class PatientFile(io.RawIOBase):
    """A new file for writers that cannot cope with a full disk: after the first error it only seems to write.

    HDF5 floods the terminal and crashes the process, torch says 'unexpected pos'.
    """

    def __init__(self, path: Path) -> None:
        """Create or empty the file."""
        super().__init__()
        self.error: OSError | None = None
        self._file = path.open("w+b")

    def check(self) -> None:
        """Raise what went wrong, if anything did.

        Raises:
            OSError: Most likely the disk is full.
        """
        if self.error is not None:
            raise self.error

    def write(self, data: Any) -> int:
        """Write, or pretend to."""
        self._try(self._file.write, data)
        return memoryview(data).nbytes

    def readinto(self, buffer: Any) -> int:
        """Read what was written."""
        return self._try(self._file.readinto, buffer)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place."""
        return self._try(self._file.seek, offset, whence)

    def truncate(self, size: int | None = None) -> int:
        """Cut off, or lengthen."""
        return self._try(self._file.truncate, size)

    def flush(self) -> None:
        """Write what is still in memory."""
        if not self._file.closed:
            self._try(self._file.flush)

    def close(self) -> None:
        """Write what is still in memory, and close."""
        try:
            self._file.close()  # after an error too
        except OSError as error:
            self.error = self.error or error
        super().close()

    def _try(self, action: Callable[..., Any], *arguments: Any) -> int:
        try:
            if self.error is None:
                return int(action(*arguments) or 0)
        except OSError as error:
            self.error = error
        return 0


@contextmanager
def whole_stream(path: Path) -> Iterator[PatientFile]:
    """Like `whole_file`, but give an open file, and tell of a full disk at the end.

    Raises:
        OSError: Not everything could be written.
    """
    with whole_file(path) as temporary:
        with PatientFile(temporary) as file:
            try:
                yield file
            except Exception:
                file.check()  # which is then the cause
                raise
        file.check()


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n")


def save_weights(path: Path, state: Mapping[str, "Tensor"]) -> None:
    """Write a state dict as safetensors, whole or not at all."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with whole_file(path) as temporary:
        try:
            save_file({key: value.detach().cpu().contiguous() for key, value in state.items()}, temporary)
        except SafetensorError as error:
            raise OSError(f"{path} cannot be written: {error}") from error


def load_weights(path: Path) -> dict[str, "Tensor"]:
    """Read a state dict from safetensors.

    Raises:
        ArtifactError: The file is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise ArtifactError(f"there is no file {path}: check the path")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ArtifactError(f"{path} is no whole .safetensors file ({error}): make or copy it again") from error


def save_checkpoint(path: Path, value: Mapping[str, Any]) -> None:
    """Write tensors and plain values for a run to go on from, whole or not at all."""
    import torch

    with whole_stream(path) as file:
        torch.save(dict(value), file)  # type: ignore[arg-type]


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint; tensors and plain values only.

    Raises:
        ArtifactError: The file is damaged.
    """
    import pickle

    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd pickles: if they matter, an error follows
            value: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file is met with nearly any
        reason = str(error).splitlines()[0].split(". ")[0] if str(error) else type(error).__name__
        if isinstance(error, pickle.UnpicklingError):  # torch's own words advise to load it nevertheless
            reason = "it holds other things than tensors and plain values"
        raise ArtifactError(f"{path} is damaged ({reason}): start again with --overwrite") from error
    return value


class MetricsLog:
    """metrics.jsonl: one JSON object a line, in order of iterations."""

    def __init__(self, path: Path, *, start: int) -> None:
        """Go on after iteration `start`; later lines, from a run cut off after its checkpoint, are dropped."""
        self.path = path
        self._written: set[tuple[Any, ...]] = set()
        kept = []
        if path.exists():
            for line in path.read_text(errors="replace").splitlines():
                try:
                    values = json.loads(line)
                    if values["iteration"] <= start:
                        kept.append(line + "\n")
                        self._written.add(_kind(values))
                except (json.JSONDecodeError, KeyError, TypeError):  # a line cut off in the middle
                    continue
        with whole_file(path) as temporary:
            temporary.write_text("".join(kept))

    def write(self, **values: Any) -> None:
        """Append a line, unless one with the same names is there for the iteration; NaN becomes null."""
        if _kind(values) in self._written:
            return
        self._written.add(_kind(values))
        plain = {name: None if value != value else value for name, value in values.items()}
        with self.path.open("a") as file:
            file.write(json.dumps(plain) + "\n")


def _kind(values: Mapping[str, Any]) -> tuple[Any, ...]:
    return (values["iteration"], *sorted(values))
