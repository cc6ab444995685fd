"""Logs of a training. Those of Weights & Biases and MLflow are tested where their packages are installed."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from lightning_fabric.utilities.rank_zero import rank_zero_only
from PIL import Image

from data.errors import SettingsError
from stages.runtime.monitor import SilentMonitor
from stages.training.loggers import Loggers, open_loggers
from stages.training.metrics_log import MetricsLog

PICTURE = Image.new("RGB", (4, 3), "red")


class Remembering:
    def __init__(self, fails: str = "") -> None:
        self.fails = fails
        self.calls: list[tuple[Any, ...]] = []

    def called(self, *call: Any) -> None:
        self.calls.append(call)
        if call[0] == self.fails:
            raise ConnectionError("no route to host")

    def metrics(self, values: Mapping[str, float], iteration: int) -> None:
        self.called("metrics", dict(values), iteration)

    def image(self, name: str, picture: Image.Image, iteration: int) -> None:
        self.called("image", name, iteration)

    def close(self, finished: bool) -> None:
        self.called("close", finished)


def test_loggers__get_the_lines_of_metrics_jsonl_once(tmp_path: Path) -> None:
    logger = Remembering()
    log = MetricsLog(tmp_path / "metrics.jsonl", start=0, loggers=Loggers({"one": logger}))
    log.write(iteration=2, loss=0.5, ptc=math.nan)
    log.write(iteration=2, loss=0.5, ptc=math.nan)
    log.write(iteration=2, student_miou=0.25)
    assert logger.calls == [("metrics", {"loss": 0.5}, 2), ("metrics", {"student_miou": 0.25}, 2)]


def test_loggers__one_that_fails_is_dropped_with_a_warning(listener: Any) -> None:
    monitor, good, bad = listener(), Remembering(), Remembering(fails="image")
    with Loggers({"wandb": bad, "mlflow": good}, monitor) as loggers:
        loggers.metrics({"loss": 1.0}, 1)
        loggers.image("panel", PICTURE, 1)
        loggers.metrics({"loss": 2.0}, 2)
    assert [call[0] for call in bad.calls] == ["metrics", "image"]
    assert [call[0] for call in good.calls] == ["metrics", "image", "metrics", "close"]
    assert monitor.warnings == ["--logger wandb stopped (no route to host); training continues without it"]


@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_loggers__are_closed_and_know_whether_the_training_finished(error: type[BaseException] | None) -> None:
    logger = Remembering()
    try:
        with Loggers({"one": logger}):
            if error:
                raise error
    except KeyboardInterrupt:
        pass
    assert logger.calls == [("close", error is None)]


def train(folder: Path, name: Any, iterations: range) -> None:
    with open_loggers((name,), folder, {"seed": 3}, SilentMonitor(), start=iterations.start) as loggers:
        for iteration in iterations:
            loggers.metrics({"loss": 10.0 - iteration}, iteration + 1)
        loggers.image("panel", PICTURE, iterations.stop)


def test_tensorboard__continues_after_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard")
    monkeypatch.setattr(rank_zero_only, "rank", 0, raising=False)  # other tests of this process have had other ranks
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tmp_path, "tensorboard", range(4))
    train(tmp_path, "tensorboard", range(2, 6))  # was killed after four, and resumed from two
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(one.step, one.value) for one in events.Scalars("loss")] == [(n + 1, 10.0 - n) for n in range(6)]
    assert [one.step for one in events.Images("panel")][-1] == 6


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_wandb__continues_the_same_run_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    train(tmp_path, "wandb", range(2))
    first = json.loads((tmp_path / "loggers.json").read_text())
    train(tmp_path, "wandb", range(2, 4))
    assert json.loads((tmp_path / "loggers.json").read_text()) == first
    runs = [path.name for path in (tmp_path / "wandb").glob("offline-run-*")]
    assert runs
    assert all(name.endswith(first["wandb"]) for name in runs)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_mlflow__continues_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv("MLFLOW_DEFAULT_ARTIFACT_ROOT", str(tmp_path / "artifacts"))
    monkeypatch.chdir(tmp_path)
    train(tmp_path, "mlflow", range(2))
    train(tmp_path, "mlflow", range(2, 4))
    run_id = json.loads((tmp_path / "loggers.json").read_text())["mlflow"]
    client = MlflowClient()
    assert [(one.step, one.value) for one in client.get_metric_history(run_id, "loss")] == [
        (n + 1, 10.0 - n) for n in range(4)
    ]
    assert client.get_run(run_id).info.status == "FINISHED"
    assert client.get_run(run_id).data.params == {"seed": "3"}


def test_open_loggers__a_server_that_refuses_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> None:
        raise RuntimeError("api_key not configured (no-tty)\nand more")

    monkeypatch.setattr("stages.training.loggers.WandbLog", refuse)
    message = r"^--logger wandb cannot begin \(api_key not configured \(no-tty\)\): fix that, or train without it$"
    with pytest.raises(SettingsError, match=message):
        open_loggers(("wandb",), tmp_path, {}, SilentMonitor(), start=0)
