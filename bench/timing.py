"""Shared by the benches: options, timing of a step by part, peak memory, operation counts, tables."""

import argparse
import platform
import resource
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

P = ParamSpec("P")
Result = TypeVar("Result")
REST = "rest"
Rows = list[dict[str, Any]]  # a table: heading -> value, row by row


def add_options(parser: argparse.ArgumentParser, *, repeats: int = 10) -> None:
    """Add the options that all benches of networks have."""
    parser.add_argument("--repeats", type=int, default=repeats, help=f"measurements of each variant [{repeats}]")
    parser.add_argument("--threads", type=int, help="CPU threads [torch's default]")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and pictures [0]")


class Parts:
    """Time of a step by part. Each moment counts for the innermost open part.

    On a GPU the marks are CUDA events, so that measuring does not make the CPU wait.
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
        """End the step and return the milliseconds of each part."""
        self._mark(REST)
        wait_for(self.device)
        spent: dict[str, float] = {}
        for (name, since), (_, until) in zip(self.marks, self.marks[1:], strict=False):
            spent[name] = spent.get(name, 0.0) + (since.elapsed_time(until) if self.on_gpu else 1000 * (until - since))
        return spent

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the time inside the context for this part."""
        outer = self.marks[-1][0] if self.marks else REST
        self._mark(name)
        try:
            yield
        finally:
            self._mark(outer)

    def around(self, name: str, function: Callable[P, Result]) -> Callable[P, Result]:
        """Wrap a function so that its calls count for this part."""

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


class Variant(NamedTuple):
    """One way to do the work that a bench measures."""

    name: str
    run: Callable[[], object]
    parts: Parts


class Measured(NamedTuple):
    """Medians over the repetitions of one variant."""

    milliseconds: float
    parts: Mapping[str, float]  # milliseconds
    peak_bytes: int  # see `peak`; includes the weights of the other variants


def alternate(variants: Sequence[Variant], device: torch.device, *, repeats: int) -> dict[str, Measured]:
    """Measure the variants in alternation, so that other work on the machine affects all of them equally."""
    for variant in variants:  # warm-up: compilation, the allocator, the caches
        for _ in range(2):
            variant.parts.begin()
            variant.run()
        wait_for(device)
    totals: dict[str, list[float]] = {variant.name: [] for variant in variants}
    parts: dict[str, list[dict[str, float]]] = {variant.name: [] for variant in variants}
    peaks = dict.fromkeys(totals, 0)
    for _ in range(repeats):
        for name, run, step_parts in variants:
            reset_peak(device)
            wait_for(device)
            began = time.perf_counter()
            step_parts.begin()
            run()
            spent = step_parts.end()
            totals[name].append(1000 * (time.perf_counter() - began))
            parts[name].append(spent)
            peaks[name] = max(peaks[name], peak(device))
    return {name: Measured(statistics.median(totals[name]), medians(parts[name]), peaks[name]) for name in totals}


def medians(steps: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Median of each part over the steps. A part that is missing in a step counts as 0 there."""
    names = dict.fromkeys(name for step in steps for name in step)
    return {name: statistics.median(step.get(name, 0.0) for step in steps) for name in names}


def timed(
    device: torch.device, run: Callable[..., Result], *arguments: object, repeats: int = 1
) -> tuple[float, Result]:
    """Return the median seconds of a call, and its last result."""
    seconds = []
    for _ in range(repeats):
        wait_for(device)
        began = time.perf_counter()
        result = run(*arguments)
        wait_for(device)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds), result


def wait_for(device: torch.device) -> None:
    """Wait until the GPU has finished its queue."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def exact() -> AbstractContextManager[None]:
    """Switch off TF32 in convolutions, which is on by default and keeps 10 bits of each factor."""
    flags: AbstractContextManager[None] = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    return flags


def reset_peak(device: torch.device) -> None:
    """Forget the peak of memory measured so far."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    forget = Path("/proc/self/clear_refs")
    if forget.exists():  # Linux only; elsewhere the peak is that of the whole process
        forget.write_text("5")


def peak(device: torch.device) -> int:
    """Return the peak in bytes since `reset_peak`: of tensors on a GPU, of the whole process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    unit = 1 if platform.system() == "Darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def count_operations(run: Callable[[], object]) -> int:
    """Count the operations of all matrix products and convolutions in a call; a multiply-add counts as two.

    Two formulas differ from torch's, which treats sparse matrices as dense and ignores groups in the gradients of
    convolutions.
    """

    def products(left: Tensor, right: Tensor, *_: Any, **__: Any) -> int:
        if left.layout == torch.strided:
            return 2 * left.shape[0] * left.shape[1] * right.shape[1]
        return 2 * left.values().numel() * right.shape[1]  # sparse matrices of the bilateral filter

    def gradients(gradient: Tensor, values: Tensor, weight: Tensor, *others: Any, **__: Any) -> int:
        transposed, wanted = others[4], others[7]
        each = 2 * (values if transposed else gradient).numel() * weight[0].numel()
        return each * int(wanted[0] + wanted[1])

    products._get_raw = gradients._get_raw = True  # type: ignore[attr-defined]  # pass tensors, not shapes
    formulas = {torch.ops.aten.mm: products, torch.ops.aten.convolution_backward: gradients}
    counter = FlopCounterMode(display=False, custom_mapping=formulas)
    with counter:
        run()
    return counter.get_total_flops()


def count_waits(run: Callable[[], object], device: torch.device) -> int | None:
    """Count how often the CPU waits for the GPU in a call; None on a CPU."""
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
    return sum("synchronizing" in str(warning.message) for warning in caught)


def measured_peak(device: torch.device) -> float:
    """TFLOP/s of a large matrix product: in bf16 on a GPU, in float32 on a CPU."""
    on_gpu = device.type == "cuda"
    side = 8192 if on_gpu else 1024
    factor = torch.randn(side, side, device=device, dtype=torch.bfloat16 if on_gpu else torch.float32)
    return 2 * side**3 / min(timed(device, torch.matmul, factor, factor)[0] for _ in range(10)) / 1e12


def describe(device: torch.device) -> str:
    """Return the machine in one line."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    precision = "bf16" if device.type == "cuda" else "float32"
    return f"{name}, {precision}, {torch.get_num_threads()} CPU thread(s), torch {torch.__version__}"


def print_table(rows: Rows) -> None:
    """Print a table in Markdown. The first row has all headings."""
    headings = list(rows[0])
    print("| " + " | ".join(headings) + " |")
    print("| " + " | ".join("---" for _ in headings) + " |")
    for row in rows:
        print("| " + " | ".join(_cell(row.get(heading)) for heading in headings) + " |")
    print()


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return "" if value is None else str(value)


def print_parts(measured: Mapping[str, Measured]) -> None:
    """Print the parts of all variants side by side, in milliseconds."""
    names = dict.fromkeys(name for variant in measured.values() for name in variant.parts if name != REST)
    print_table(
        [
            {"part, ms": name, **{variant: figures.parts.get(name) for variant, figures in measured.items()}}
            for name in (*names, REST)
        ]
    )
