"""The loop that both training stages run in: schedule, progress, metrics, checkpoints, interruption."""

import math
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.utils.data import DataLoader

from data.dataset import DataError
from data.errors import ArtifactError, SettingsError
from data.stream import LoadedBatch, SampleStream, StreamBatches
from stages.config import TrainingSettings
from stages.run_folder.saving import load_checkpoint, save_checkpoint, save_weights
from stages.runtime.fabric import loader_workers
from stages.runtime.monitor import Monitor
from stages.toco.schedule import learning_rate_factor
from stages.training.metrics_log import MetricsLog


def fit(
    learner: nn.Module,
    *,
    encoder: nn.Module,
    product: nn.Module,
    fabric: Fabric,
    settings: TrainingSettings,
    folder: Path,
    monitor: Monitor,
    title: str,
    stream: SampleStream,
    losses: Callable[[nn.Module, int, Any], Mapping[str, Tensor]],
    evaluate: Callable[[], Mapping[str, float]] | None,
    resume: bool,
) -> None:
    """Train a network, from the checkpoint if there is one to go on from, and write model.safetensors.

    Args:
        learner: What a step calls, and what is trained.
        encoder: The part of it that learns at `settings.learning_rate`; the rest is faster by the head factor.
        product: The part whose weights are kept.
        fabric: Where.
        settings: How.
        folder: The stage's folder.
        monitor: Told of progress.
        title: What it is told.
        stream: The images.
        losses: Called with the learner, the iteration (from 0) and its batch; 'loss' is minimised, all are logged.
        evaluate: Called every `evaluate_every` iterations and at the end, in all processes; its figures are logged
            and shown.
        resume: Go on from the checkpoint.

    Raises:
        SettingsError: The loss is not finite any more, or an image is bad.
        ArtifactError: The checkpoint is damaged.
    """
    optimizer = new_optimizer(learner, encoder, settings)
    module, optimizer = fabric.setup(learner, optimizer)
    training = TrainingLoop(
        fabric=fabric,
        module=module,
        optimizer=optimizer,
        schedule=settings,
        folder=folder,
        monitor=monitor,
        title=title,
    )
    if resume:
        training.restore()
    module.train()
    training.run(training.batches(stream), partial(losses, module), evaluate)
    if fabric.is_global_zero:
        # Cloned: parts of a network may share one tensor, which the file format does not allow.
        weights = {name: value.clone() for name, value in product.state_dict().items()}
        save_weights(folder / "model.safetensors", weights)
        training.checkpoint.unlink(missing_ok=True)
    fabric.barrier()


def new_optimizer(learner: nn.Module, encoder: nn.Module, settings: TrainingSettings) -> torch.optim.Optimizer:
    """AdamW over the encoder and, at a higher rate, the rest; fused: one pass over the weights and not ten."""
    groups = parameter_groups(learner, encoder, settings.learning_rate, settings.head_lr_multiplier)
    return torch.optim.AdamW(groups, weight_decay=settings.weight_decay, fused=True)


def parameter_groups(
    learner: nn.Module, encoder: nn.Module, learning_rate: float, head_lr_multiplier: float
) -> list[dict[str, Any]]:
    """Split the trained parameters into the encoder's and, at a higher rate, the rest."""
    slow = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    known = {id(parameter) for parameter in slow}
    fast = [parameter for parameter in learner.parameters() if parameter.requires_grad and id(parameter) not in known]
    return [
        {"params": parameters, "lr": rate, "base_lr": rate}
        for parameters, rate in ((slow, learning_rate), (fast, learning_rate * head_lr_multiplier))
    ]


@dataclass(kw_only=True)
class TrainingLoop:
    """A network in training, and where it stands."""

    fabric: Fabric
    module: nn.Module  # as set up by Fabric; its state is what a checkpoint keeps
    optimizer: torch.optim.Optimizer
    schedule: TrainingSettings
    folder: Path
    monitor: Monitor
    title: str
    iteration: int = 0  # steps done
    recent: list[Mapping[str, Tensor]] = field(default_factory=list)  # losses of the steps since they were last read

    @property
    def checkpoint(self) -> Path:
        """Where the state is kept between steps."""
        return self.folder / "checkpoint.pt"

    def restore(self) -> None:
        """Go on from the checkpoint, where there is one.

        Raises:
            ArtifactError: It is damaged.
        """
        if not self.checkpoint.exists():
            return
        state = load_checkpoint(self.checkpoint)
        try:
            self.module.load_state_dict(state["module"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.iteration = int(state["iteration"])
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ArtifactError(
                f"{self.checkpoint} is none of this network ({reason}): start again with --overwrite"
            ) from error

    def save(self, *, together: bool = True) -> None:
        """Write the checkpoint, by the first process alone; never over a good one when the loss is broken.

        Args:
            together: Whether all processes are here; else the first knows of its own loss alone.
        """
        if self.recent:
            figures = self._recent_means()
            self._check(self._over_processes(figures) if together else figures)
        if self.fabric.is_global_zero:
            state = {
                "iteration": self.iteration,
                "module": self.module.state_dict(),
                "optimizer": self.optimizer.state_dict(),
            }
            save_checkpoint(self.checkpoint, state)

    def batches(self, stream: SampleStream) -> Iterator[Any]:
        """Load this process's share of each batch that is still to come, on the device."""
        sampler = StreamBatches(
            start=self.iteration,
            iterations=self.schedule.iterations,
            batch_size=self.schedule.batch_size,
            rank=self.fabric.global_rank,
            processes=self.fabric.world_size,
        )
        workers = loader_workers(self.schedule.workers, self.fabric.device, self.schedule.devices)
        loader: DataLoader[LoadedBatch] = DataLoader(
            stream,
            batch_sampler=sampler,
            num_workers=workers,
            collate_fn=stream.collate,
            pin_memory=self.fabric.device.type == "cuda",
            persistent_workers=workers > 0,
            worker_init_fn=_ignore_interrupt,
        )
        told: set[str] = set()
        for batch in loader:
            left_out = [f"left out: {problem}" for problem in batch.problems if stream.skip_bad]
            for text in (*left_out, *batch.warnings):
                if text not in told:
                    self.monitor.warn(text)
                    told.add(text)
            yield self.fabric.to_device(batch.checked())

    def run(
        self,
        batches: Iterable[Any],
        losses: Callable[[int, Any], Mapping[str, Tensor]],
        evaluate: Callable[[], Mapping[str, float]] | None = None,
    ) -> None:
        """Train to the last iteration.

        Args:
            batches: What `batches` gives.
            losses: Called with the iteration (from 0) and its batch; the entry 'loss' is minimised, all are logged.
            evaluate: Called every `evaluate_every` iterations and at the end; its figures are logged and shown.

        Raises:
            SettingsError: The loss is not finite any more.
        """
        schedule = self.schedule
        log = MetricsLog(self.folder / "metrics.jsonl", start=self.iteration) if self.fabric.is_global_zero else None
        alone, told = self.fabric.world_size == 1, False
        self.monitor.start(self.title, schedule.iterations, done=self.iteration, unit="steps")
        # Several processes have to stop after the same step, which they agree upon where they share their losses.
        with interrupt_noted(noted=not alone) as asked:
            try:
                if evaluate:  # the run before may have been stopped between a step and its measurement
                    self._evaluate(evaluate, log)
                for batch in batches:
                    figures: dict[str, float] = {}
                    stop = False
                    with interrupt_noted(noted=alone) as asked_alone:
                        rate = self._set_rates()
                        self._step(losses, batch)
                        last = self.iteration == schedule.iterations
                        # Reading a loss waits for the GPU, so it is done once in a while.
                        if self.iteration % schedule.log_every == 0 or last:
                            figures = self._over_processes({**self._recent_means(), "stop": float(bool(asked))})
                            stop = figures.pop("stop") > 0
                            self._check(figures)
                            self.recent.clear()
                            if log is not None:
                                log.write(iteration=self.iteration, learning_rate=rate, **figures)
                    self.monitor.advance(1, **figures)
                    if stop or asked_alone:
                        raise KeyboardInterrupt
                    if asked and not told:
                        self.monitor.note("Ctrl-C: all processes stop together, at the next line of metrics")
                        told = True
                    if not last and self.iteration % schedule.checkpoint_every == 0:
                        self.save()
                    if evaluate:
                        self._evaluate(evaluate, log)
                self.monitor.finish()
            except KeyboardInterrupt:  # between two steps: nothing done so far is lost
                self.save()
                self.fabric.barrier()  # a process that ends takes the others along
                raise
            except DataError:  # as well, but that other processes do not know of it
                self.save(together=False)
                raise

    def _set_rates(self) -> float:
        """Set the learning rates of the next step, and return the first."""
        factor = learning_rate_factor(
            self.iteration,
            iterations=self.schedule.iterations,
            warmup_iterations=self.schedule.warmup_iterations,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        return float(self.optimizer.param_groups[0]["lr"])

    def _step(self, losses: Callable[[int, Any], Mapping[str, Tensor]], batch: Any) -> None:
        parts = losses(self.iteration, batch)
        self.fabric.backward(parts["loss"])
        if self.schedule.clip_grad > 0:
            self.fabric.clip_gradients(self.module, self.optimizer, max_norm=self.schedule.clip_grad)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.iteration += 1
        self.recent.append({name: part.detach() for name, part in parts.items()})

    def _recent_means(self) -> dict[str, float]:
        """Mean of the parts over recent steps, this process's share."""
        recent = self.recent
        return {name: torch.stack([parts[name] for parts in recent]).mean().item() for name in recent[0]}

    def _check(self, figures: Mapping[str, float]) -> None:
        """Refuse a loss that is not finite.

        Raises:
            SettingsError: It is not.
        """
        if not math.isfinite(figures["loss"]):
            kept = "the last checkpoint is kept" if self.checkpoint.exists() else "no checkpoint was written yet"
            raise SettingsError(
                f"the loss is {figures['loss']} at iteration {self.iteration} in {self.folder} ({kept}): "
                "start again with a lower --learning-rate"
            )

    def _over_processes(self, figures: dict[str, float]) -> dict[str, float]:
        """Mean of figures over all processes, each of which had its share of the batches."""
        if self.fabric.world_size == 1:
            return figures
        values = self.fabric.all_reduce(torch.tensor(list(figures.values()), device=self.fabric.device))
        return dict(zip(figures, values.tolist(), strict=True))  # type: ignore[union-attr]

    def _evaluate(self, evaluate: Callable[[], Mapping[str, float]], log: MetricsLog | None) -> None:
        """Measure, if this is the iteration for it."""
        every, last = self.schedule.evaluate_every, self.iteration == self.schedule.iterations
        if not (last or (every and self.iteration and self.iteration % every == 0)):
            return
        self.module.eval()
        scores = evaluate()
        self.module.train()
        if log is not None and scores:
            log.write(iteration=self.iteration, **scores)
            shown = ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
            self.monitor.note(f"iteration {self.iteration}: {shown}")


@contextmanager
def interrupt_noted(*, noted: bool = True) -> Iterator[list[int]]:
    """Note Ctrl-C in the list that this gives, and go on, so that what is stopped by it has done whole steps.

    Args:
        noted: Else nothing is done about it.
    """
    asked: list[int] = []
    if not noted or threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def remember(number: int, frame: FrameType | None) -> None:
        asked.append(number)

    before = signal.signal(signal.SIGINT, remember)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


def _ignore_interrupt(worker: int) -> None:
    """Ctrl-C reaches all processes of a terminal: loaders go on until the training ends them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
