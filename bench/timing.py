"""What the benches share: ways that take turns, the parts of a step, peak memory, counted operations, tables."""

import platform
import resource
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

P = ParamSpec("P")
Result = TypeVar("Result")
REST = "rest"


class Parts:
    """Where the time of a step goes: each moment counts for the innermost part that is open.

    On a GPU the marks are events in its stream, so that nothing waits for them; elsewhere the clock's readings.
    """

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"
        self.device = device
        self.marks: list[tuple[str, Any]] = []

    def begin(self) -> None:
        """Start a step."""
        self.marks = []
        self._mark(REST)

    def end(self) -> dict[str, float]:
        """End it, and give the milliseconds of each part."""
        self._mark(REST)
        wait_for(self.device)
        spent: dict[str, float] = {}
        for (name, since), (_, until) in zip(self.marks, self.marks[1:], strict=False):
            spent[name] = spent.get(name, 0.0) + (since.elapsed_time(until) if self.on_gpu else 1000 * (until - since))
        return spent

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what happens within for this part."""
        outer = self.marks[-1][0] if self.marks else REST
        self._mark(name)
        try:
            yield
        finally:
            self._mark(outer)

    def around(self, name: str, function: Callable[P, Result]) -> Callable[P, Result]:
        """The function, as a part."""

        @wraps(function)
        def counted(*arguments: P.args, **options: P.kwargs) -> Result:
            with self.part(name):
                return function(*arguments, **options)

        return counted

    def _mark(self, name: str) -> None:
        if self.on_gpu:
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record()
            self.marks.append((name, event))
        else:
            self.marks.append((name, time.perf_counter()))


@dataclass(kw_only=True)
class Way:
    """One way to do a step, to be measured beside others."""

    name: str
    run: Callable[[], object]
    parts: Parts
    holds: Callable[[], int] = field(default=lambda: 0)  # bytes that stay between its steps


class Measured(NamedTuple):
    """A way's figures, medians over the repetitions."""

    milliseconds: float
    parts: Mapping[str, float]  # milliseconds
    peak_bytes: int  # without what other ways hold


def take_turns(ways: Sequence[Way], device: torch.device, *, repeats: int, warmup: int) -> dict[str, Measured]:
    """Measure ways in turns, so that other work on the machine meets all of them."""
    for way in ways:
        for _ in range(warmup):
            way.parts.begin()
            way.run()
        wait_for(device)
    totals: dict[str, list[float]] = {way.name: [] for way in ways}
    parts: dict[str, list[dict[str, float]]] = {way.name: [] for way in ways}
    peaks = dict.fromkeys(totals, 0)
    for _ in range(repeats):
        for way in ways:
            reset_peak(device)
            wait_for(device)
            began = time.perf_counter()
            way.parts.begin()
            way.run()
            spent = way.parts.end()
            totals[way.name].append(1000 * (time.perf_counter() - began))
            parts[way.name].append(spent)
            others = sum(other.holds() for other in ways if other is not way)
            peaks[way.name] = max(peaks[way.name], peak(device) - others)
    return {name: Measured(statistics.median(totals[name]), medians(parts[name]), peaks[name]) for name in totals}


def medians(steps: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Median of each part; a part that a step lacks took no time in it."""
    names = dict.fromkeys(name for step in steps for name in step)
    return {name: statistics.median(step.get(name, 0.0) for step in steps) for name in names}


def wait_for(device: torch.device) -> None:
    """Wait for what a GPU still has to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def exact() -> AbstractContextManager[None]:
    """Float32 in full, where ways are compared: a GPU's convolutions take ten bits of each number by default."""
    flags: AbstractContextManager[None] = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    return flags


def reset_peak(device: torch.device) -> None:
    """Begin to look for the peak of memory anew."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    forget = Path("/proc/self/clear_refs")
    if forget.exists():  # elsewhere the peak is the process's
        forget.write_text("5")


def peak(device: torch.device) -> int:
    """Largest number of bytes since: of tensors on a GPU, of the whole process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    unit = 1 if platform.system() == "Darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def bytes_held(module: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Bytes of weights, buffers and the optimiser's state."""
    tensors = [*module.parameters(), *module.buffers()]
    for state in optimizer.state.values():
        tensors += [value for value in state.values() if isinstance(value, Tensor)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def count_operations(run: Callable[[], object]) -> int:
    """Operations of the matrix products and convolutions of a call, two for each multiplication with its addition.

    By torch's formulas but for two: it takes sparse matrices for dense ones, and the gradients of a convolution in
    groups for those of one without.
    """

    def products(left: Tensor, right: Tensor, *_: Any, **__: Any) -> int:
        if left.layout == torch.strided:
            return 2 * left.shape[0] * left.shape[1] * right.shape[1]
        return 2 * left.values().numel() * right.shape[1]  # the filter's sparse matrices

    def gradients(gradient: Tensor, values: Tensor, weight: Tensor, *others: Any, **__: Any) -> int:
        transposed, wanted = others[4], others[7]
        each = 2 * (values if transposed else gradient).numel() * weight[0].numel()
        return each * int(wanted[0] + wanted[1])

    products._get_raw = gradients._get_raw = True  # type: ignore[attr-defined]  # torch then passes no shapes, but tensors
    formulas = {torch.ops.aten.mm: products, torch.ops.aten.convolution_backward: gradients}
    counter = FlopCounterMode(display=False, custom_mapping=formulas)
    with counter:
        run()
    return counter.get_total_flops()


def count_waits(run: Callable[[], object], device: torch.device) -> int | None:
    """How often the CPU waits for the GPU in a call; None where there is none."""
    if device.type != "cuda":
        return None
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            run()
        finally:
            torch.cuda.set_sync_debug_mode(before)
    return sum("synchronizing" in str(one.message) for one in caught)


def measured_peak(device: torch.device, side: int | None = None) -> float:
    """TFLOP/s of a large matrix product: in bf16 on a GPU, in float32 elsewhere."""
    on_gpu = device.type == "cuda"
    side = side or (8192 if on_gpu else 1536)
    one = torch.randn(side, side, device=device, dtype=torch.bfloat16 if on_gpu else torch.float32)
    seconds = []
    for _ in range(10):
        wait_for(device)
        began = time.perf_counter()
        one @ one
        wait_for(device)
        seconds.append(time.perf_counter() - began)
    return 2 * side**3 / min(seconds) / 1e12


def describe(device: torch.device) -> str:
    """The machine, in a line."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    return f"{name}, {torch.get_num_threads()} CPU thread(s), torch {torch.__version__}"


def print_table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table in Markdown."""
    print("| " + " | ".join(headings) + " |")
    print("| " + " | ".join("---" for _ in headings) + " |")
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |")
    print()


def print_parts(measured: Mapping[str, Measured]) -> None:
    """Print the parts of each way side by side, in milliseconds."""
    names = dict.fromkeys(name for one in measured.values() for name in one.parts if name != REST)
    rows = [
        [name, *(f"{one.parts[name]:.1f}" if name in one.parts else "" for one in measured.values())]
        for name in (*names, REST)
    ]
    print_table(["part, ms", *measured], rows)
