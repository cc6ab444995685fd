"""Ways to make a step faster that should change no result; each is tried on a network of its own.

A lever changes the learner or its optimiser in place. Those that pay are taken into `stages`; what they brought is
measured by undoing them here ('unfused').
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from stages.student import Student
from stages.toco.backbone import Tokens
from stages.toco.step import TrainingStep

Lever = Callable[[Any, torch.optim.Optimizer], None]


def unfused(learner: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """AdamW as torch does it by default: operation by operation over the weights, each parameter alone on a CPU."""
    for group in optimizer.param_groups:
        group["fused"] = None


def compiled(step: TrainingStep, optimizer: torch.optim.Optimizer) -> None:
    """Each block of the encoder compiled, once for each grid and batch that the step has."""
    for block in step.model.backbone.vit.blocks:
        block.compile(dynamic=False)


def checkpointed(step: TrainingStep, optimizer: torch.optim.Optimizer) -> None:
    """The blocks' activations computed again in the backward pass: less memory for a third more arithmetic."""
    step.model.backbone.vit.set_grad_checkpointing(True)


def channels_last(step: TrainingStep, optimizer: torch.optim.Optimizer) -> None:
    """The decoder's weights with channels last, as the tokens come."""
    step.model.decoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def joined_views(step: TrainingStep, optimizer: torch.optim.Optimizer) -> None:
    """The second global view in one pass with the first: larger products, half as many launches."""
    backbone = step.model.backbone
    encode, contrast = backbone.forward, step._ctc
    waiting: list[Tensor] = []  # the second views, until the main pass takes them along
    known: list[Tokens] = []  # theirs, from then on
    asked: list[bool] = []  # whether it is these that the next pass is for

    def begin(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        batch, phase = arguments[:2]
        waiting[:] = [backbone.normalise(batch.second.float())] if phase.contrast and phase.encoder else []

    def pass_through(images: Tensor) -> Tokens:
        if waiting:
            both = encode(torch.cat([images, waiting.pop()]))
            known[:] = [Tokens(*(one[len(images) :] for one in both))]
            return Tokens(*(one[: len(images)] for one in both))
        if asked:
            asked.clear()
            return known.pop()
        return encode(images)

    def contrast_classes(*arguments: Any) -> Tensor:
        asked.append(True)
        return contrast(*arguments)

    step.register_forward_pre_hook(begin)
    backbone.forward = pass_through  # type: ignore[method-assign]
    step._ctc = contrast_classes  # type: ignore[method-assign]


def student_channels_last(student: Student, optimizer: torch.optim.Optimizer) -> None:
    """All weights of the student with channels last."""
    student.network.to(memory_format=torch.channels_last)


def student_compiled(student: Student, optimizer: torch.optim.Optimizer) -> None:
    """The student compiled."""
    student.network.compile()


CAM_LEVERS: Mapping[str, Lever] = {
    "unfused": unfused,
    "joined-views": joined_views,
    "channels-last": channels_last,
    "compiled": compiled,
    "checkpointed": checkpointed,
}
STUDENT_LEVERS: Mapping[str, Lever] = {
    "unfused": unfused,
    "channels-last": student_channels_last,
    "compiled": student_compiled,
}
