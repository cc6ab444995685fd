"""The training loop of both training stages: schedule, progress, metrics, checkpoints, interruption."""

import math
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader

from data.errors import ArtifactError, DataError, SettingsError, UserError, reason
from data.stream import LoadedBatch, SampleStream, StreamBatches
from stages.config import TrainingSettings
from stages.run_folder.saving import load_checkpoint, save_checkpoint, save_weights
from stages.runtime.fabric import loader_workers
from stages.runtime.lightning import Fabric
from stages.runtime.monitor import Monitor
from stages.runtime.shared_memory import SHARED_MEMORY_FULL, is_shared_memory_full
from stages.toco.schedule import learning_rate_factor
from stages.training.eager_adamw import EagerAdamW
from stages.training.loggers import Loggers, open_loggers
from stages.training.metrics_log import MetricsLog
from stages.training.panel import PANELS_OF_A_TRAINING, PanelWriter


class LostWorkerError(UserError):
    """A process that loads images ended."""


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
    panel: Callable[[], Image.Image],
    resume: bool,
) -> None:
    """Train a network and write model.safetensors.

    Args:
        learner: The module that a step calls; all its parameters are trained.
        encoder: The part of it that learns at `settings.learning_rate`. The rest learns faster, by
            `settings.head_lr_multiplier`.
        product: The part whose weights are saved.
        fabric: Device and processes.
        settings: Settings of the training.
        folder: The stage's folder.
        monitor: Shows progress.
        title: The task's title in the progress display.
        stream: The training images.
        losses: Called with the learner, the iteration (from 0) and its batch. Its entry 'loss' is minimised; all
            entries are logged.
        evaluate: Called on all ranks every `evaluate_every` iterations and at the end; its figures are logged and
            shown.
        panel: Draws the panel; called on rank 0.
        resume: Start from the checkpoint, if there is one.

    Raises:
        SettingsError: The loss is no longer finite.
        DataError: An image is bad, and bad images are not to be skipped.
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
    with training.opened_loggers():
        training.draw_panels(panel)
        training.run(training.batches(stream), partial(losses, module), evaluate)
    if fabric.is_global_zero:
        # Cloned: modules may share a tensor, which safetensors does not allow.
        weights = {name: value.clone() for name, value in product.state_dict().items()}
        save_weights(folder / "model.safetensors", weights)
        training.checkpoint.unlink(missing_ok=True)
    fabric.barrier()


def new_optimizer(learner: nn.Module, encoder: nn.Module, settings: TrainingSettings) -> torch.optim.Optimizer:
    """AdamW over the encoder and, at a higher rate, the rest. Fused: one pass over the weights instead of ten."""
    groups = parameter_groups(learner, encoder, settings.learning_rate, settings.head_lr_multiplier)
    return EagerAdamW(groups, weight_decay=settings.weight_decay, fused=True)


def parameter_groups(
    learner: nn.Module, encoder: nn.Module, learning_rate: float, head_lr_multiplier: float
) -> list[dict[str, Any]]:
    """Split the trained parameters into two groups: the encoder, and the rest at a higher learning rate."""
    slow = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    known = {id(parameter) for parameter in slow}
    fast = [parameter for parameter in learner.parameters() if parameter.requires_grad and id(parameter) not in known]
    return [
        {"params": parameters, "lr": rate, "base_lr": rate}
        for parameters, rate in ((slow, learning_rate), (fast, learning_rate * head_lr_multiplier))
    ]


@dataclass(kw_only=True)
class TrainingLoop:
    """A network in training, with its optimizer and the number of finished steps."""

    fabric: Fabric
    module: nn.Module  # as set up by Fabric; checkpoints hold its state
    optimizer: torch.optim.Optimizer
    schedule: TrainingSettings
    folder: Path
    monitor: Monitor
    title: str
    loggers: Loggers = field(default_factory=Loggers)
    panel: PanelWriter | None = None  # on rank 0
    iteration: int = 0  # finished steps
    recent: list[Mapping[str, Tensor]] = field(default_factory=list)  # losses since the last line of the log

    @property
    def checkpoint(self) -> Path:
        """The checkpoint's path."""
        return self.folder / "checkpoint.pt"

    def restore(self) -> None:
        """Load the checkpoint, if there is one.

        Raises:
            ArtifactError: It is damaged, or belongs to another network.
        """
        if not self.checkpoint.exists():
            return
        state = load_checkpoint(self.checkpoint)
        try:
            self.module.load_state_dict(state["module"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.iteration = int(state["iteration"])
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise ArtifactError(
                f"{self.checkpoint} does not fit this network ({reason(error)}): start again with --overwrite"
            ) from error

    def save(self, *, together: bool = True) -> None:
        """Write the checkpoint on rank 0. A checkpoint is never replaced if the loss is not finite.

        Args:
            together: Whether all ranks call this. Otherwise rank 0 checks only its own loss.
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

    def opened_loggers(self) -> Loggers:
        """Begin or continue the logs, on rank 0.

        Raises:
            SettingsError: A logger's server cannot be reached.
        """
        if self.fabric.is_global_zero:
            settings, names = asdict(self.schedule), self.schedule.logger
            self.loggers = open_loggers(names, self.folder, settings, self.monitor, start=self.iteration)
        return self.loggers

    def draw_panels(self, draw: Callable[[], Image.Image]) -> None:
        """Draw panels while training, on rank 0."""
        every = self.schedule.panel_every
        if every is None:
            every = max(1, self.schedule.iterations // PANELS_OF_A_TRAINING)
        if self.fabric.is_global_zero and every:
            self.panel = PanelWriter(
                draw=draw, folder=self.folder, every=every, loggers=self.loggers, monitor=self.monitor
            )

    def batches(self, stream: SampleStream) -> Iterator[Any]:
        """Yield this rank's part of each remaining batch, on the device."""
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
        shown: set[str] = set()
        for batch in _without_lost_workers(loader):
            left_out = [f"skipped: {problem}" for problem in batch.problems if stream.skip_bad]
            for text in (*left_out, *batch.warnings):
                if text not in shown:
                    self.monitor.warn(text)
                    shown.add(text)
            yield self.fabric.to_device(batch.checked())

    def run(
        self,
        batches: Iterable[Any],
        losses: Callable[[int, Any], Mapping[str, Tensor]],
        evaluate: Callable[[], Mapping[str, float]] | None = None,
    ) -> None:
        """Train to the last iteration.

        Args:
            batches: The batches of the remaining iterations.
            losses: Called with the iteration (from 0) and its batch; the entry 'loss' is minimised, all are logged.
            evaluate: Called every `evaluate_every` iterations and at the end; its figures are logged and shown.

        Raises:
            SettingsError: The loss is no longer finite.
        """
        schedule = self.schedule
        log = None
        if self.fabric.is_global_zero:
            log = MetricsLog(self.folder / "metrics.jsonl", start=self.iteration, loggers=self.loggers)
        single_process, announced = self.fabric.world_size == 1, False
        self.monitor.start(self.title, schedule.iterations, done=self.iteration, unit="steps")
        # Several ranks must stop after the same step. They agree on it when they exchange their losses.
        with deferred_interrupt(active=not single_process) as interrupts:
            try:
                if evaluate:  # the earlier run may have been stopped between a step and its evaluation
                    self._evaluate(evaluate, log)
                for batch in batches:
                    figures: dict[str, float] = {}
                    stop = False
                    # Ctrl-C takes effect after the step, so that weights and optimizer stay consistent.
                    with deferred_interrupt(active=single_process) as own_interrupts:
                        rate = self._set_rates()
                        self._step(losses, batch)
                        last = self.iteration == schedule.iterations
                        # Reading a loss waits for the GPU, so it happens only every log_every steps.
                        if self.iteration % schedule.log_every == 0 or last:
                            figures = self._over_processes({**self._recent_means(), "stop": float(bool(interrupts))})
                            stop = figures.pop("stop") > 0
                            self._check(figures)
                            self.recent.clear()
                            if log is not None:
                                log.write(iteration=self.iteration, learning_rate=rate, **figures)
                    self.monitor.advance(1, **figures)
                    if stop or own_interrupts:
                        raise KeyboardInterrupt
                    if interrupts and not announced:
                        self.monitor.note("Ctrl-C: all processes stop together, at the next line of metrics")
                        announced = True
                    if not last and self.iteration % schedule.checkpoint_every == 0:
                        self.save()
                    if evaluate:
                        self._evaluate(evaluate, log)
                    if self.panel and self.panel.is_due(self.iteration, last):
                        self.module.eval()
                        self.panel.write(self.iteration)
                        self.module.train()
                self.monitor.finish()
            except KeyboardInterrupt:  # between two steps, so that no finished step is lost
                self.save()
                self.fabric.barrier()  # the first process that ends stops the others
                raise
            except (DataError, LostWorkerError):  # of this rank alone: the other ranks do not know about it
                self.save(together=False)
                raise

    def _set_rates(self) -> float:
        """Set the learning rates of the next step, and return the encoder's."""
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
        """Mean of each loss over the recent steps of this rank."""
        recent = self.recent
        return {name: torch.stack([parts[name] for parts in recent]).mean().item() for name in recent[0]}

    def _check(self, figures: Mapping[str, float]) -> None:
        """Stop when the loss is not finite.

        Raises:
            SettingsError: The loss is NaN or infinite.
        """
        if not math.isfinite(figures["loss"]):
            kept = "the last checkpoint is kept" if self.checkpoint.exists() else "no checkpoint was written yet"
            raise SettingsError(
                f"the loss is {figures['loss']} at iteration {self.iteration} in {self.folder} ({kept}): "
                "start again with a lower --learning-rate"
            )

    def _over_processes(self, figures: dict[str, float]) -> dict[str, float]:
        """Mean of figures over all ranks."""
        if self.fabric.world_size == 1:
            return figures
        values = self.fabric.all_reduce(torch.tensor(list(figures.values()), device=self.fabric.device))
        return dict(zip(figures, values.tolist(), strict=True))  # type: ignore[union-attr]

    def _evaluate(self, evaluate: Callable[[], Mapping[str, float]], log: MetricsLog | None) -> None:
        """Evaluate, if it is due at this iteration."""
        every, last = self.schedule.evaluate_every, self.iteration == self.schedule.iterations
        if not (last or (every and self.iteration and self.iteration % every == 0)):
            return
        if last:  # without these lines, the last one would have time left while images are measured
            self.monitor.finish()
            self.monitor.note("measuring the network on validation images")
        self.module.eval()
        scores = evaluate()
        self.module.train()
        if log is not None and scores:
            log.write(iteration=self.iteration, **scores)
            shown = ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
            self.monitor.note(f"iteration {self.iteration}: {shown}")


@contextmanager
def deferred_interrupt(*, active: bool = True) -> Iterator[list[int]]:
    """Collect Ctrl-C in the list that this yields instead of raising KeyboardInterrupt inside the block.

    Args:
        active: False leaves Ctrl-C as it is.
    """
    interrupts: list[int] = []
    if not active or threading.current_thread() is not threading.main_thread():
        yield interrupts
        return

    def remember(number: int, frame: FrameType | None) -> None:
        interrupts.append(number)

    before = signal.signal(signal.SIGINT, remember)
    try:
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, before)


def _without_lost_workers(loader: Iterable[LoadedBatch]) -> Iterator[LoadedBatch]:
    """Yield the batches, and say why a process that loads them ended.

    Raises:
        LostWorkerError: Names the options to change.
    """
    try:
        yield from loader
    except RuntimeError as error:
        if is_shared_memory_full(error):
            raise LostWorkerError(f"{SHARED_MEMORY_FULL}; then resume") from error
        text = str(error)
        if "DataLoader worker" in text and ("killed by signal" in text or "exited unexpectedly" in text):
            raise LostWorkerError(
                f"a process that loads images ended ({reason(error)}), most likely because memory ran out: use fewer "
                "--workers or a smaller --batch-size; then resume"
            ) from error
        raise


def _ignore_interrupt(worker: int) -> None:
    """Ctrl-C reaches all processes of a terminal; loaders keep working until the training loop ends them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
