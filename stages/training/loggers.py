"""Loggers of a training: TensorBoard, Weights & Biases, MLflow. They get the figures of metrics.jsonl and the panels.

The files of TensorBoard, and the ids of the runs on the servers of the others, are in the stage's folder. A resumed
training continues the same log, and --overwrite begins a new one.
"""

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from data.errors import SettingsError, reason
from stages.config import LoggerName
from stages.run_folder.saving import write_json
from stages.runtime.lightning import TensorBoardLogger
from stages.runtime.monitor import Monitor, SilentMonitor

PROJECT = "toco"  # of the others, unless WANDB_PROJECT or MLFLOW_EXPERIMENT_NAME says otherwise
IDS = "loggers.json"


@runtime_checkable  # the tests check types at run time
class TrainingLogger(Protocol):
    """One log of a training."""

    def metrics(self, values: Mapping[str, float], iteration: int) -> None:
        """Log figures, all finite."""

    def image(self, name: str, picture: Image.Image, iteration: int) -> None:
        """Log an RGB picture."""

    def close(self, finished: bool) -> None:
        """End the log; `finished` is False if the training was stopped or failed."""


class Loggers:
    """All loggers of a training, as a context. One that fails is dropped with a warning: training continues."""

    def __init__(self, loggers: Mapping[str, TrainingLogger] | None = None, monitor: Monitor | None = None) -> None:
        """Log to all of `loggers`, by name; warnings go to `monitor`."""
        self._loggers = dict(loggers or {})
        self._monitor = monitor or SilentMonitor()

    def __enter__(self) -> "Loggers":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._each(lambda logger: logger.close(kind is None))

    def metrics(self, values: Mapping[str, float], iteration: int) -> None:
        """Log figures; NaN and infinite ones are left out."""
        finite = {name: value for name, value in values.items() if np.isfinite(value)}
        self._each(lambda logger: logger.metrics(finite, iteration))

    def image(self, name: str, picture: Image.Image, iteration: int) -> None:
        """Log an RGB picture."""
        self._each(lambda logger: logger.image(name, picture, iteration))

    def _each(self, act: Callable[[TrainingLogger], None]) -> None:
        for name, logger in list(self._loggers.items()):
            try:
                act(logger)
            except Exception as error:  # a server that cannot be reached, a full disk
                self._monitor.warn(f"--logger {name} stopped ({reason(error)}); training continues without it")
                del self._loggers[name]


class TensorBoardLog:
    """Writes STAGE/tensorboard, for `tensorboard --logdir RUN`."""

    def __init__(self, folder: Path, start: int) -> None:
        # Events after the checkpoint are hidden: they are logged again.
        self._logger = TensorBoardLogger(folder, name="tensorboard", version="", purge_step=start + 1)

    def metrics(self, values: Mapping[str, float], iteration: int) -> None:
        """Log figures, as in `TrainingLogger`."""
        self._logger.log_metrics(dict(values), iteration)

    def image(self, name: str, picture: Image.Image, iteration: int) -> None:
        """Log a picture, as in `TrainingLogger`."""
        self._logger.experiment.add_image(name, np.asarray(picture), iteration, dataformats="HWC")
        self._logger.experiment.flush()

    def close(self, finished: bool) -> None:
        """End the log."""
        self._logger.finalize("success" if finished else "failed")


class WandbLog:
    """A run of Weights & Biases; WANDB_PROJECT, WANDB_MODE=offline and its other variables work."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], run_id: str | None, monitor: Monitor) -> None:
        import wandb

        self._wandb = wandb
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run_name(folder),
            id=run_id,
            resume="allow",
            dir=folder,
            config=dict(settings),
            settings=wandb.Settings(silent=True, console="off"),
        )
        # Not W&B's own step, which cannot go back to a checkpoint.
        self._run.define_metric("*", step_metric="iteration")
        self.run_id = str(self._run.id)
        monitor.note(f"logging to {self._run.dir if self._run.offline else self._run.url}")

    def metrics(self, values: Mapping[str, float], iteration: int) -> None:
        """Log figures, as in `TrainingLogger`."""
        self._run.log({**values, "iteration": iteration})

    def image(self, name: str, picture: Image.Image, iteration: int) -> None:
        """Log a picture, as in `TrainingLogger`."""
        self._run.log({name: self._wandb.Image(picture), "iteration": iteration})

    def close(self, finished: bool) -> None:
        """End the log."""
        self._run.finish(exit_code=0 if finished else 1)


class MlflowLog:
    """A run of MLflow, where MLFLOW_TRACKING_URI says, in the experiment MLFLOW_EXPERIMENT_NAME."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], run_id: str | None, monitor: Monitor) -> None:
        from mlflow.entities import Metric
        from mlflow.tracking import MlflowClient

        self._metric = Metric
        self._client = MlflowClient()
        if run_id is not None:
            self._client.update_run(run_id, status="RUNNING")
        else:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
            experiment = self._client.get_experiment_by_name(name)
            experiment_id = experiment.experiment_id if experiment else self._client.create_experiment(name)
            run_id = self._client.create_run(experiment_id, run_name=run_name(folder)).info.run_id
            for key, value in settings.items():
                self._client.log_param(run_id, key, value)
        self.run_id = run_id
        monitor.note(f"logging to {self._client.tracking_uri}, run {run_id}")

    def metrics(self, values: Mapping[str, float], iteration: int) -> None:
        """Log figures, as in `TrainingLogger`."""
        now = int(1000 * time.time())
        self._client.log_batch(
            self.run_id, metrics=[self._metric(name, value, now, iteration) for name, value in values.items()]
        )

    def image(self, name: str, picture: Image.Image, iteration: int) -> None:
        """Log a picture, as in `TrainingLogger`."""
        self._client.log_image(self.run_id, picture, key=name, step=iteration)

    def close(self, finished: bool) -> None:
        """End the log."""
        self._client.set_terminated(self.run_id, "FINISHED" if finished else "KILLED")


def open_loggers(
    names: tuple[LoggerName, ...], folder: Path, settings: Mapping[str, Any], monitor: Monitor, *, start: int
) -> Loggers:
    """Begin or continue the logs of a training.

    Args:
        names: Which loggers.
        folder: The stage's folder.
        settings: The stage's settings, for the servers.
        monitor: Receives notes and warnings.
        start: Number of iterations of the training that are finished.

    Raises:
        SettingsError: A server cannot be reached, or there is no account.
    """
    path = folder / IDS
    ids: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    loggers: dict[str, TrainingLogger] = {}
    for name in dict.fromkeys(names):
        try:
            if name == "tensorboard":
                loggers[name] = TensorBoardLog(folder, start)
                continue
            kind = WandbLog if name == "wandb" else MlflowLog
            log = kind(folder, settings, ids.get(name), monitor)
        except Exception as error:  # each library raises its own kinds
            raise SettingsError(
                f"--logger {name} cannot begin ({reason(error)}): fix that, or train without it"
            ) from error
        loggers[name] = log
        ids[name] = log.run_id
    if ids:
        write_json(path, ids)
    return Loggers(loggers, monitor)


def run_name(folder: Path) -> str:
    """Return the name of a log: 'photos/cam' for runs/photos/cam."""
    return "/".join(folder.resolve().parts[-2:])
