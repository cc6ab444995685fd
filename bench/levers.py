"""Ways to make a step faster that should change no result; each is tried on a network of its own.

A lever changes the learner or its optimiser in place. Those that pay are taken into `stages`; what they brought is
measured by undoing them here ('unfused').
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from stages.networks.compilation import compile_parts
from stages.networks.student import Student
from stages.runtime.monitor import SilentMonitor
from stages.toco import par
from stages.toco.backbone import Tokens
from stages.toco.step import StepCams, TrainingStep

Lever = Callable[[Any, torch.optim.Optimizer], None]


def unfused(learner: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """AdamW as torch does it by default: operation by operation over the weights, each parameter alone on a CPU."""
    for group in optimizer.param_groups:
        group["fused"] = None


def compiled(step: TrainingStep, optimizer: torch.optim.Optimizer) -> None:
    """Each block of the encoder compiled, once for each grid and batch that the step has, with and without gradient."""
    compile_parts(step.model.backbone.vit.blocks, next(step.parameters()).device, SilentMonitor())


def checkpointed(step: TrainingStep, optimizer: torch.optim.Optimizer) -> None:
    """The blocks' activations computed again in the backward pass: less memory for a third more arithmetic."""
    step.model.backbone.checkpoint_activations()


def channels_last(step: TrainingStep, optimizer: torch.optim.Optimizer) -> None:
    """The decoder's weights with channels last, as the tokens come."""
    step.model.decoder.to(memory_format=torch.channels_last)


def joined_views(step: TrainingStep, optimizer: torch.optim.Optimizer) -> None:
    """The second global view in one pass with the first: larger products, half as many launches."""
    backbone = step.model.backbone
    encode, class_token = backbone.forward, backbone.class_token
    waiting: list[Tensor] = []  # the second views, until the main pass takes them along
    known: list[Tensor] = []  # their class tokens, until these are asked for

    def begin(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        batch, phase = arguments[:2]
        waiting[:] = [backbone.normalise(batch.second.float())] if phase.contrast and phase.encoder else []

    def pass_through(images: Tensor) -> Tokens:
        if not waiting:
            return encode(images)
        both = encode(torch.cat([images, waiting.pop()]))
        known[:] = [both.class_token[len(images) :]]
        return Tokens(*(one[: len(images)] for one in both))

    step.register_forward_pre_hook(begin)
    backbone.forward = pass_through  # type: ignore[method-assign]
    # First asked for the second views', then for the crops'.
    backbone.class_token = lambda images: known.pop() if known else class_token(images)  # type: ignore[method-assign]


def whole_last_block(step: TrainingStep, optimizer: torch.optim.Optimizer) -> None:
    """The last block's MLP for all tokens of second view and local crops, of which only the class token is wanted."""
    backbone = step.model.backbone
    backbone.class_token = lambda images: backbone(images).class_token  # type: ignore[method-assign]


def inference_mode(step: TrainingStep, optimizer: torch.optim.Optimizer) -> None:
    """The CAM's passes under torch's inference mode; what comes of them is copied, to be a tensor as others are."""
    cams = step._cams

    def infer(*arguments: Any, **options: Any) -> StepCams:
        with torch.inference_mode():
            both = cams(*arguments, **options)
        return StepCams(*(one.clone() for one in both))

    step._cams = infer  # type: ignore[method-assign]


def gathered_par(step: TrainingStep, optimizer: torch.optim.Optimizer) -> None:
    """PAR's 48 neighbours in one product: few launches for 48 times the memory of the masks."""

    def average(masks: Tensor, weights: Tensor, dilations: Sequence[int]) -> Tensor:
        return torch.einsum("bcphw,bphw->bchw", torch.stack(par._neighbours(masks, dilations), dim=2), weights)

    _replace_average(step, average)


def compiled_par(step: TrainingStep, optimizer: torch.optim.Optimizer) -> None:
    """PAR's 48 neighbours in one compiled kernel: few launches, masks read once."""
    _replace_average(step, torch.compile(par._average_neighbours, dynamic=False))


def _replace_average(step: TrainingStep, average: Callable[[Tensor, Tensor, Sequence[int]], Tensor]) -> None:
    segmentation = step._segmentation

    def segment(*arguments: Any) -> tuple[Tensor, Tensor]:
        with mock.patch.object(par, "_average_neighbours", average):
            return segmentation(*arguments)

    step._segmentation = segment  # type: ignore[method-assign, assignment]


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
    "whole-last-block": whole_last_block,
    "inference-mode": inference_mode,
    "gathered-par": gathered_par,
    "compiled-par": compiled_par,
}
STUDENT_LEVERS: Mapping[str, Lever] = {
    "unfused": unfused,
    "channels-last": student_channels_last,
    "compiled": student_compiled,
}
