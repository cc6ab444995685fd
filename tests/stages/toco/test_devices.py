"""Every function of the method keeps its tensors on one device, so that it runs on a GPU.

No GPU is needed. `OtherDevice` is a device that is not the CPU: its tensors say that they are on 'meta', compute real
values on the CPU, and refuse operations with a CPU tensor. FakeTensorMode then repeats the forward passes for 'cuda',
with torch's own rules but without values.
"""

import copy
import inspect
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map

from stages.config import TrainCam
from stages.networks.cam_model import new_cam_model
from stages.networks.inference import class_probabilities, decoder_probabilities, square_cams
from stages.toco import energy
from stages.toco.cam import most_classes, present_classes
from stages.toco.crf import FOR_PSEUDO_LABELS, sharpen
from stages.toco.metrics import Confusion
from stages.toco.model import ToCo
from stages.toco.step import Losses, Phase, StepBatch, TrainingStep
from stages.train_cam import step_settings

CLASSES = 3
CONFIG = TrainCam(
    backbone="vit_tiny_patch16_224",
    backbone_option=("depth=3", "embed_dim=48", "num_heads=2"),
    weights="none",
    image_size=64,
    batch_size=2,
    local_crop_size=32,
)
aten = torch.ops.aten
# These take tensors of two devices also on a GPU.
MIXED = {aten._to_copy.default, aten.copy_.default, aten.index.Tensor}


class Elsewhere(Tensor):
    """A tensor on 'meta', the device that autograd runs on the CPU; `on_cpu` has its values."""

    on_cpu: Tensor

    @staticmethod
    def __new__(cls, on_cpu: Tensor) -> "Elsewhere":
        layout: dict[str, Any] = {}
        if on_cpu.layout == torch.strided:
            layout = {"strides": on_cpu.stride(), "storage_offset": on_cpu.storage_offset()}
        wrapper: Elsewhere = Tensor._make_wrapper_subclass(
            cls, on_cpu.shape, dtype=on_cpu.dtype, device=torch.device("meta"), **layout
        )
        wrapper.on_cpu = on_cpu
        return wrapper

    def tolist(self) -> Any:
        return self.on_cpu.tolist()

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, operation: Any, types: Any, arguments: Any = (), options: Any = None
    ) -> Any:
        return compute(operation, arguments, options or {})


class OtherDevice(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        return compute(operation, arguments, options or {})


def compute(operation: Any, arguments: Any, options: dict[str, Any]) -> Any:
    tensors = [one for one in tree_iter((arguments, options)) if isinstance(one, Tensor)]
    there = [one for one in tensors if isinstance(one, Elsewhere)]
    here = [one for one in tensors if not isinstance(one, Elsewhere) and one.dim()]  # CPU scalars may join
    if there and here and operation not in MIXED:
        shapes = [tuple(one.shape) for one in here]
        raise RuntimeError(f"{operation}: tensors of shapes {shapes} are on the CPU, others are not")
    result_there = bool(there)
    if operation is aten.copy_.default:
        result_there = isinstance(arguments[0], Elsewhere)
    if (device := options.get("device")) is not None:
        result_there = torch.device(device).type == "meta"
        options = {**options, "device": torch.device("cpu")}
    cpu_arguments, cpu_options = tree_map(
        lambda one: one.on_cpu if isinstance(one, Elsewhere) else one, (arguments, options)
    )
    result = operation(*cpu_arguments, **cpu_options)
    if not result_there:
        return result
    known = {id(one.on_cpu): one for one in there}  # results of operations in place

    def wrapped(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return known[id(value)] if id(value) in known else Elsewhere(value)

    return tree_map(wrapped, result)


@pytest.fixture
def other_device() -> Iterator[None]:
    # Autocast does not know 'meta'; the method only switches it off.
    device = OtherDevice()  # type: ignore[no-untyped-call]
    with device, mock.patch.object(torch, "autocast", return_value=nullcontext()):
        yield


@pytest.fixture
def model() -> ToCo:
    torch.manual_seed(0)
    return new_cam_model(CONFIG, CLASSES)[0]


@pytest.fixture
def batch() -> StepBatch:
    generator = torch.Generator().manual_seed(0)
    views = torch.randint(256, (3, 2, 3, 64, 64), generator=generator).byte()
    labels = torch.tensor([[1.0, 0, 1], [0, 1, 0]])
    box = torch.tensor([[0, 64, 8, 64], [0, 64, 0, 64]])
    return StepBatch(views[0], views[1], views[2], box, labels, most_classes(labels))


def moved(batch: StepBatch, move: Callable[[Tensor], Tensor]) -> StepBatch:
    return StepBatch._make(move(one) if isinstance(one, Tensor) else one for one in batch)


def move_network(network: nn.Module, move: Callable[[Tensor], Tensor]) -> None:
    for module in network.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                module._parameters[name] = nn.Parameter(move(weight).detach(), requires_grad=weight.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = move(buffer)


def losses_of(model: ToCo, batch: StepBatch) -> Losses:
    generators = [torch.Generator().manual_seed(number) for number in range(2)]
    step = TrainingStep(model, step_settings(CONFIG, model.backbone.patch_size))
    losses: Losses = step(batch, Phase(contrast=True, segment=True), generators)
    return losses


def to_other_device(tensor: Tensor) -> Tensor:
    return tensor.to("meta")


@pytest.mark.usefixtures("other_device")
def test_other_device__refuses_a_tensor_on_the_cpu() -> None:
    one = torch.ones(2).to("meta")
    assert (one + torch.tensor(1.0)).tolist() == [2, 2]
    with pytest.raises(RuntimeError, match=r"aten\.add.*are on the CPU"):
        one + torch.ones(2)
    with pytest.raises(RuntimeError, match=r"aten\.mm.*are on the CPU"):
        torch.eye(2) @ one[:, None]


def test_training_step__same_losses_and_gradients_on_another_device(
    model: ToCo, batch: StepBatch, other_device: None
) -> None:
    there = copy.deepcopy(model)
    move_network(there, to_other_device)
    expected, losses = losses_of(model, batch), losses_of(there, moved(batch, to_other_device))
    for name, one, other in zip(Losses._fields, losses, expected, strict=True):
        assert one.device.type == "meta"
        assert one.item() == pytest.approx(other.item(), rel=1e-4), name
        assert one.item() != 0, name
    losses.total.backward()  # type: ignore[no-untyped-call]
    expected.total.backward()  # type: ignore[no-untyped-call]
    for (name, weight), other in zip(there.named_parameters(), model.parameters(), strict=True):
        assert (weight.grad is None) == (other.grad is None), name
        if weight.grad is not None and other.grad is not None:
            assert weight.grad.device.type == "meta"
            atol = 1e-4 * other.grad.abs().max().item()
            torch.testing.assert_close(weight.grad.cpu(), other.grad, rtol=1e-3, atol=atol, msg=name)


@pytest.mark.usefixtures("other_device")
def test_inference__on_another_device(model: ToCo, batch: StepBatch) -> None:
    model.eval()
    # Subclasses of tensors do not work in inference mode.
    cams_of, decode, find = (
        torch.no_grad()(inspect.unwrap(function))
        for function in (square_cams, decoder_probabilities, class_probabilities)
    )
    images = batch.image
    expected = cams_of(model, images, present_classes(batch.class_labels), CONFIG.scales)
    decoded, found = decode(model, images), find(model, images)
    move_network(model, to_other_device)
    images = to_other_device(images)
    cams = cams_of(model, images, present_classes(to_other_device(batch.class_labels)), CONFIG.scales)
    for one, other in zip(cams, expected, strict=True):
        torch.testing.assert_close(one.cpu(), other, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(decode(model, images).cpu(), decoded, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(find(model, images).cpu(), found, rtol=1e-3, atol=1e-4)


@pytest.mark.usefixtures("other_device")
@pytest.mark.parametrize("fast", [False, True])
def test_crf__on_another_device(batch: StepBatch, fast: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    images = [batch.image[0], batch.image[1, :, :40, :56]]  # of two sizes
    unaries = [torch.rand(2, 3, *one.shape[-2:], generator=generator).softmax(dim=1) for one in images]
    expected = sharpen(images, unaries, FOR_PSEUDO_LABELS, "torch", fast=fast)
    there = [to_other_device(one) for one in images], [to_other_device(one) for one in unaries]
    for one, other in zip(sharpen(*there, FOR_PSEUDO_LABELS, "torch", fast=fast), expected, strict=True):
        assert one.device.type == "meta"
        torch.testing.assert_close(one.cpu(), other)


@pytest.mark.usefixtures("other_device")
def test_confusion__of_masks_on_another_device() -> None:
    masks = [torch.tensor([[0, 1], [1, 255]]), torch.tensor([[0, 1], [0, 255]])]
    here, there = Confusion(2), Confusion(2)
    here.add(*masks)
    there.add(*(to_other_device(one) for one in masks))
    assert torch.equal(there.counts.cpu(), here.counts)


class Unfiltered:
    """Stands in for the lattice: its size depends on the values of its points, which fake tensors do not have."""

    def __init__(self, features: Tensor) -> None:
        self.device = features.device

    def filter(self, values: Tensor) -> Tensor:
        assert values.device == self.device
        return values.float()


@pytest.mark.slow  # torch imports sympy and traces each operation
def test_forward_passes__on_a_fake_gpu(model: ToCo, batch: StepBatch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a backward pass: autograd asks the driver for the streams of 'cuda'."""
    monkeypatch.setattr(energy, "PermutohedralLattice", Unfiltered)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # warns that there is no GPU
    with FakeTensorMode() as mode:

        def to_gpu(tensor: Tensor) -> Tensor:
            return mode.from_tensor(tensor).to("cuda")

        move_network(model, to_gpu)
        batch = moved(batch, to_gpu)
        for loss in losses_of(model, batch):
            assert loss.device.type == "cuda"
        model.eval()
        cams = square_cams(model, batch.image, present_classes(batch.class_labels, 2), CONFIG.scales)
        for result in (*cams, decoder_probabilities(model, batch.image)):
            assert result.device.type == "cuda"
        with pytest.raises(RuntimeError, match="device"):  # the mode would notice
            cams.final + torch.ones(64)
