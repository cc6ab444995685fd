"""`--compile`: parts of a network compiled by torch, where the machine can."""

from collections.abc import Callable, Iterable, Mapping

import torch
import torch._dynamo
from torch import nn

from stages.runtime.monitor import Monitor


def compile_parts(parts: Iterable[nn.Module], device: torch.device, monitor: Monitor) -> None:
    """Compile parts of a network in place, so that its weights keep their names, or say why not and leave them.

    Each is compiled when it first runs, anew for every shape and with and without gradient: minutes in all.
    """
    try:
        _try_out(device)
    # No C++ compiler or Triton, no Python headers, an old GPU: each fails in a way of its own.
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        monitor.warn(f"--compile: torch cannot compile on this machine ({reason}); going on without it")
        return
    # A ViT's block has one graph for each grid and batch of a step. Beyond torch's limit of 8, all would run as it is.
    torch._dynamo.config.recompile_limit = 64
    for part in parts:
        part.compile(dynamic=False)


def uncompiled(evaluate: Callable[[], Mapping[str, float]]) -> Callable[[], Mapping[str, float]]:
    """The same without compiled parts: it has other shapes than a step, each of which would be compiled."""
    return torch.compiler.set_stance("force_eager")(evaluate)  # type: ignore[no-any-return]


def _try_out(device: torch.device) -> None:
    """Compile something small, forward and backward."""
    layer = nn.Linear(8, 8, device=device)
    torch.compile(layer)(torch.ones(2, 8, device=device)).sum().backward()
