import json
import signal
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from data.dataset import Sample
from data.errors import ArtifactError, DataError
from data.stream import SampleStream
from stages.config import TrainingSettings as Settings
from stages.runtime.fabric import make_fabric
from stages.runtime.monitor import Monitor, SilentMonitor
from stages.toco.schedule import learning_rate_factor
from stages.training.loop import (
    LostWorkerError,
    TrainingLoop,
    _without_lost_workers,
    deferred_interrupt,
    parameter_groups,
)


def training_of(folder: Path, monitor: Monitor | None = None, **settings: Any) -> TrainingLoop:
    """Fits y = w x to y = 2 x, one number a step."""
    defaults = {"iterations": 5, "batch_size": 1, "warmup_fraction": 0.4, "learning_rate": 0.1, "log_every": 2}
    schedule = Settings(**{**defaults, "checkpoint_every": 100, "evaluate_every": 0, "workers": 0, **settings})
    fabric = make_fabric("cpu")
    linear = nn.Linear(1, 1, bias=False)
    nn.init.ones_(linear.weight)
    groups = [{"params": linear.parameters(), "lr": 0.1, "base_lr": 0.1}]
    module, optimizer = fabric.setup(linear, torch.optim.SGD(groups))
    return TrainingLoop(
        fabric=fabric,
        module=module,
        optimizer=optimizer,
        schedule=schedule,
        folder=folder,
        monitor=monitor or SilentMonitor(),
        title="fitting",
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "DataLoader worker (pid 3) is killed by signal: Killed. ",
            r"ended \(.*Killed.*most likely .* fewer --workers",
        ),
        ("DataLoader worker (pid(s) 3, 4) exited unexpectedly", r"ended \(.*most likely because memory ran out"),
        ("DataLoader worker (pid 3) is killed by signal: Bus error. It is possible", r"^shared memory .*--workers 0"),
        ("unable to write to file </torch_1>: No space left on device (28)", r"^shared memory .*--shm-size"),
    ],
)
def test_loop__a_lost_loader_keeps_the_finished_steps(tmp_path: Path, text: str, message: str) -> None:
    training = training_of(tmp_path)

    def batches() -> Iterator[Tensor]:
        yield from (torch.ones(1, 1), torch.ones(1, 1))
        raise RuntimeError(text)

    with pytest.raises(LostWorkerError, match=message):
        training.run(
            _without_lost_workers(batches()),  # type: ignore[arg-type]
            lambda iteration, batch: {"loss": training.module(batch).mean()},
        )
    resumed = training_of(tmp_path)
    resumed.restore()
    assert resumed.iteration == 2


def test_loop__other_errors_of_a_loader_are_not_explained_away() -> None:
    def batches() -> Iterator[Any]:
        yield 1
        raise RuntimeError("a bug in DataLoader worker process 0")

    with pytest.raises(RuntimeError, match="a bug"):
        list(_without_lost_workers(batches()))


def weight(training: TrainingLoop) -> float:
    return training.module.state_dict()["weight"].item()  # type: ignore[no-any-return]


def run(training: TrainingLoop, *, evaluate: Any = None, seen: list[int] | None = None) -> None:
    def losses(iteration: int, batch: Tensor) -> Mapping[str, Tensor]:
        if seen is not None:
            seen.append(iteration)
        error = training.module(batch) - 2 * batch
        return {"loss": (error**2).mean(), "error": error.mean()}

    batches = [torch.full((1, 1), 1.0 + number) for number in range(training.iteration, training.schedule.iterations)]
    training.run(batches, losses, evaluate)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_run__follows_the_schedule(tmp_path: Path, listener: Any) -> None:
    monitor = listener()
    training = training_of(tmp_path, monitor)
    seen: list[int] = []
    run(training, seen=seen)
    by_hand, losses, errors = 1.0, [], []
    for number in range(5):
        x, rate = 1.0 + number, 0.1 * learning_rate_factor(number, iterations=5, warmup_iterations=2)
        losses.append(((by_hand - 2) * x) ** 2)
        errors.append((by_hand - 2) * x)
        by_hand -= rate * 2 * (by_hand - 2) * x**2
    assert seen == [0, 1, 2, 3, 4]
    assert weight(training) == pytest.approx(by_hand, rel=1e-4)
    # Means over the steps since the line before; the last iteration has a line in any case.
    logged = lines(tmp_path)
    assert [line["iteration"] for line in logged] == [2, 4, 5]
    assert [line["loss"] for line in logged] == pytest.approx(
        [(losses[0] + losses[1]) / 2, (losses[2] + losses[3]) / 2, losses[4]], rel=1e-4
    )
    assert logged[1]["error"] == pytest.approx((errors[2] + errors[3]) / 2, rel=1e-4)
    assert logged[0]["learning_rate"] == pytest.approx(0.1 * learning_rate_factor(1, iterations=5, warmup_iterations=2))
    assert monitor.calls == ["start", *["advance"] * 5, "finish"]
    assert not (tmp_path / "checkpoint.pt").exists()


def test_run__checkpoints_between_steps(tmp_path: Path, listener: Any) -> None:
    with pytest.raises(RuntimeError):
        run(training_of(tmp_path, listener(("advance", 4), RuntimeError), checkpoint_every=3))
    training = training_of(tmp_path)
    training.restore()
    assert training.iteration == 3
    whole = training_of(tmp_path / "whole")
    run(whole)
    run(training)
    assert weight(training) == weight(whole)


def test_run__measures_every_so_often_and_at_the_end(tmp_path: Path, listener: Any) -> None:
    monitor = listener()
    training = training_of(tmp_path, monitor, evaluate_every=2)
    modes = []

    def evaluate() -> dict[str, float]:
        modes.append(training.module.training)
        return {"miou": training.iteration / 10}

    run(training, evaluate=evaluate)
    assert modes == [False] * 3
    assert training.module.training
    assert [line for line in lines(tmp_path) if "miou" in line] == [
        {"iteration": 2, "miou": 0.2},
        {"iteration": 4, "miou": 0.4},
        {"iteration": 5, "miou": 0.5},
    ]
    *first, measuring, last = monitor.notes
    assert [*first, last] == [f"iteration {number}: miou {number / 10:.3f}" for number in (2, 4, 5)]
    assert measuring == "measuring the network on validation images"


def test_run__measures_at_the_end_alone(tmp_path: Path) -> None:
    training = training_of(tmp_path, evaluate_every=0)
    run(training, evaluate=lambda: {"miou": 0.5})
    assert [line["iteration"] for line in lines(tmp_path) if "miou" in line] == [5]


def test_run__bad_data_keeps_what_was_done(tmp_path: Path) -> None:
    training = training_of(tmp_path)

    def losses(iteration: int, batch: Tensor) -> Mapping[str, Tensor]:
        return {"loss": training.module(batch).mean()}

    def batches() -> Any:
        yield torch.ones(1, 1)
        yield torch.ones(1, 1)
        raise DataError("a.jpg is missing")

    with pytest.raises(DataError, match=r"a\.jpg is missing"):
        training.run(batches(), losses)
    again = training_of(tmp_path)
    again.restore()
    assert again.iteration == 2


def test_restore__nothing_to_go_on_from(tmp_path: Path) -> None:
    training = training_of(tmp_path)
    training.restore()
    assert training.iteration == 0


def test_restore__of_another_network(tmp_path: Path) -> None:
    training = training_of(tmp_path)
    training.save()
    other = training_of(tmp_path)
    other.module = nn.Linear(2, 2)
    with pytest.raises(ArtifactError, match=r"\.pt does not fit this network .*: start again with --overwrite"):
        other.restore()


class Twice:
    """Reads a 'picture': its name's number; bad for 'x'."""

    def __call__(self, sample: Sample) -> Tensor:
        if sample.id == "x":
            raise DataError("x is bad")
        return torch.tensor(float(sample.id))


def stream_of(*ids: str, skip_bad: bool = False) -> SampleStream:
    samples = [Sample(id=name, image=Path(name), classes=(), mask=None) for name in ids]
    return SampleStream(samples, Twice(), seed=0, skip_bad=skip_bad)


def test_batches__goes_on_where_the_run_is(tmp_path: Path) -> None:
    stream = stream_of("1", "2", "3", "4", "5")
    whole = list(training_of(tmp_path, batch_size=2).batches(stream))
    assert [len(batch) for batch in whole] == [2] * 5
    training = training_of(tmp_path, batch_size=2)
    training.iteration = 3
    rest = list(training.batches(stream))
    assert [batch.tolist() for batch in rest] == [batch.tolist() for batch in whole[3:]]


def test_batches__tells_of_a_bad_image_once(tmp_path: Path, listener: Any) -> None:
    monitor = listener()
    training = training_of(tmp_path, monitor, batch_size=2)
    assert len(list(training.batches(stream_of("1", "x", skip_bad=True)))) == 5
    assert monitor.warnings == ["skipped: x is bad"]


def test_batches__tells_what_was_said_while_loading_once(tmp_path: Path, listener: Any) -> None:
    def load(sample: Sample) -> Tensor:
        return torch.zeros(())

    samples = [Sample(id=name, image=Path(name), classes=(), mask=None) for name in "ab"]
    monitor = listener()
    stream = SampleStream(samples, load, seed=0, take_warnings=lambda: ["the cache is full"])
    assert len(list(training_of(tmp_path, monitor, batch_size=2).batches(stream))) == 5
    assert monitor.warnings == ["the cache is full"]


def test_batches__stops_at_a_bad_image(tmp_path: Path, listener: Any) -> None:
    monitor = listener()
    training = training_of(tmp_path, monitor, batch_size=2)
    with pytest.raises(DataError, match=r"^x is bad: fix or remove it, or skip it with --skip-bad$"):
        list(training.batches(stream_of("1", "x")))
    assert monitor.warnings == []


@pytest.fixture
def ctrl_c_interrupts() -> Iterator[None]:
    """As in a terminal; a shell's background jobs, such as a run of all tests may be, ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def press_ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


def test_deferred_interrupt__lets_the_block_end() -> None:
    before = signal.getsignal(signal.SIGINT)
    with deferred_interrupt() as asked:
        press_ctrl_c()
        press_ctrl_c()
    assert len(asked) == 2
    assert signal.getsignal(signal.SIGINT) is before
    with deferred_interrupt() as asked:
        pass
    assert not asked


def test_deferred_interrupt__does_not_hide_an_error() -> None:
    def block() -> None:
        with deferred_interrupt():
            press_ctrl_c()
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        block()


def test_deferred_interrupt__not(ctrl_c_interrupts: None) -> None:
    def block() -> None:
        with deferred_interrupt(active=False):
            press_ctrl_c()

    with pytest.raises(KeyboardInterrupt):
        block()


def test_deferred_interrupt__in_another_thread() -> None:
    """Signals are the main thread's alone."""
    done = []

    def block() -> None:
        with deferred_interrupt() as asked:
            done.append(asked)

    thread = threading.Thread(target=block)
    thread.start()
    thread.join()
    assert done == [[]]


def test_parameter_groups__each_trained_parameter_once() -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 3), nn.Linear(3, 1))
    network[0].bias.requires_grad_(False)
    network[1].requires_grad_(False)
    encoder, rest = parameter_groups(network, network[0], 1e-4, 10.0)
    assert encoder["lr"] == encoder["base_lr"] == 1e-4
    assert rest["lr"] == rest["base_lr"] == pytest.approx(1e-3)
    assert encoder["params"] == [network[0].weight]
    assert [id(one) for one in rest["params"]] == [id(one) for one in network[2].parameters()]
