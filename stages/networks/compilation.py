"""`--compile`: compile parts of a network with torch, if this machine can."""

from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
import torch._dynamo
from torch import nn

from data.errors import reason
from stages.runtime.monitor import Monitor

Returned = TypeVar("Returned")


def compile_parts(parts: Iterable[nn.Module], device: torch.device, monitor: Monitor) -> None:
    """Compile parts of a network in place, so that its weights keep their names; warn if that is impossible.

    Each part is compiled when it first runs, once for every shape, with and without gradient. This takes minutes.
    """
    try:
        _try_out(device)
    # A missing C++ compiler, Triton or Python header and an old GPU all raise different exceptions.
    except Exception as error:
        monitor.warn(f"--compile: torch cannot compile on this machine ({reason(error)}); continuing without it")
        return
    # A ViT block needs one graph for each token grid and batch size of a step. Above torch's default limit of 8,
    # torch would run everything uncompiled.
    torch._dynamo.config.recompile_limit = 64
    for part in parts:
        part.compile(dynamic=False)


def uncompiled(evaluate: Callable[[], Returned]) -> Callable[[], Returned]:
    """Run without the compiled parts: evaluation uses other shapes than a step, and each would be compiled."""
    return torch.compiler.set_stance("force_eager")(evaluate)  # type: ignore[no-any-return]


def _try_out(device: torch.device) -> None:
    """Compile a small layer, forward and backward."""
    layer = nn.Linear(8, 8, device=device)
    torch.compile(layer)(torch.ones(2, 8, device=device)).sum().backward()
