import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.toco.backbone import Tokens
from stages.toco.build_backbone import build_backbone, load_backbone_weights
from stages.toco.cam import multi_scale_cams
from stages.toco.losses import class_token_contrast
from stages.toco.model import LargeFieldOfView, Projector, ToCo

Golden = Callable[[str], dict[str, Any]]
AssertGolden = Callable[..., None]

# Width of an attention head in the stored network, which cannot be read off its weights.
HEAD_WIDTH = 16
# The published program's names, and the names here.
OUTPUTS = {
    "class_logits": "class_logits",
    "aux_class_logits": "auxiliary_class_logits",
    "seg_logits": "seg_logits",
    "patch_features": "patch_tokens",
    "class_token": "class_token",
}


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def model(generator: torch.Generator) -> ToCo:
    backbone = build_backbone("vit_tiny_patch16_224", patch_size=8, img_size=32, embed_dim=32, depth=4, num_heads=2)
    network = ToCo(backbone, 3, decoder_channels=12, projector_hidden=20, projector_bottleneck=10, projector_out=14)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return network.eval()


def images(generator: torch.Generator, height: int = 32, width: int = 48) -> Tensor:
    return torch.randn(2, 3, height, width, generator=generator)


# --- golden ---


def published_network(arrays: dict[str, Any]) -> ToCo:
    """Build the stored network; its sizes are read off its weights."""
    prefix = "state/"
    state = {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}
    encoder = {key.removeprefix("encoder."): value for key, value in state.items() if key.startswith("encoder.")}
    width, _, patch, _ = encoder["patch_embed.proj.weight"].shape
    blocks = {key.split(".")[1] for key in encoder if key.startswith("blocks.")}
    hidden = encoder["blocks.0.mlp.fc1.weight"].shape[0]
    backbone = build_backbone(
        "vit_tiny_patch16_224",
        patch_size=patch,
        img_size=patch * math.isqrt(encoder["pos_embed"].shape[1] - 1),
        embed_dim=width,
        depth=len(blocks),
        num_heads=width // HEAD_WIDTH,
        mlp_ratio=(hidden + 0.5) / width,  # timm rounds down
    )
    load_backbone_weights(backbone, encoder)
    projector = {name: state[f"proj_head.{name}"].shape for name in ("mlp.0.weight", "last_layer.weight_v")}
    network = ToCo(
        backbone,
        num_classes=len(state["classifier.weight"]),
        decoder_channels=len(state["decoder.conv6.weight"]),
        projector_hidden=projector["mlp.0.weight"][0],
        projector_bottleneck=projector["last_layer.weight_v"][1],
        projector_out=projector["last_layer.weight_v"][0],
    )
    network.classifier.load_state_dict({"weight": state["classifier.weight"]})
    network.auxiliary_classifier.load_state_dict({"weight": state["aux_classifier.weight"]})
    network.decoder.load_state_dict(
        {key: state[f"decoder.{key}"] for key in ("conv6.weight", "conv7.weight", "conv8.weight")}
    )
    return network.eval()


def golden_groups(arrays: dict[str, Any]) -> list[tuple[Tensor, str]]:
    """Pair each input with the prefix of its outputs: 'out64/' or 'out96x80/', by its height and width."""
    inputs = {tuple(value.shape[-2:]): value for key, value in arrays.items() if key.startswith("image")}
    groups = []
    for name in sorted({key.split("/")[0] for key in arrays if key.startswith("out")}):
        sides = [int(side) for side in name.removeprefix("out").split("x")]
        groups.append((inputs[sides[0], sides[-1]], f"{name}/"))
    return groups


def test_toco__golden(golden: Golden, assert_golden: AssertGolden) -> None:
    arrays = golden("network")
    network = published_network(arrays)
    groups = golden_groups(arrays)
    assert groups
    for image, group in groups:
        with torch.no_grad():
            outputs = network(image)
            raw = network.raw_cams(image)
        for theirs, ours in OUTPUTS.items():
            assert_golden(getattr(outputs, ours), arrays[group + theirs], rtol=1e-4)
        for cams in (outputs.cams, raw):
            assert_golden(cams.final, arrays[group + "cam"], rtol=1e-4)
            assert_golden(cams.auxiliary, arrays[group + "aux_cam"], rtol=1e-4)


@pytest.mark.parametrize("reuse", [False, True], ids=["every pass", "one pass reused"])
def test_multi_scale_cams__golden(golden: Golden, assert_golden: AssertGolden, reuse: bool) -> None:
    arrays = golden("network")
    network = published_network(arrays)
    size = arrays["fused_cam"].shape[-2:]
    image = next(image for image, _ in golden_groups(arrays) if image.shape[-2:] == size)
    with torch.no_grad():
        cams = multi_scale_cams(
            network.raw_cams,
            image,
            scales=arrays["scales"].tolist(),
            unflipped=network(image).cams if reuse else None,
        )
    assert_golden(cams.final, arrays["fused_cam"], rtol=1e-4)
    assert_golden(cams.auxiliary, arrays["fused_aux_cam"], rtol=1e-4)


# --- outputs ---


def test_toco__shapes(model: ToCo, generator: torch.Generator) -> None:
    outputs = model(images(generator))
    assert outputs.class_logits.shape == outputs.auxiliary_class_logits.shape == (2, 3)
    assert outputs.cams.final.shape == outputs.cams.auxiliary.shape == (2, 3, 4, 6)
    assert outputs.seg_logits.shape == (2, 4, 4, 6)
    assert outputs.patch_tokens.shape == (2, 32, 4, 6)
    assert outputs.class_token.shape == (2, 32)


def test_toco__decoder_runs_only_on_demand(model: ToCo, generator: torch.Generator) -> None:
    batch = images(generator)
    outputs = model(batch, decode=False)
    assert outputs.seg_logits is None
    assert torch.equal(outputs.cams.final, model(batch).cams.final)


def test_heads__run_on_stored_tokens(model: ToCo, generator: torch.Generator) -> None:
    """Features of a frozen encoder may come from a cache: the heads need no image, and only they get gradients."""
    batch = images(generator)
    expected = model(batch)
    with torch.no_grad():
        stored = Tokens(*(tokens.clone() for tokens in model.backbone(batch)))
    outputs = model.heads(stored)
    for name in ("class_logits", "auxiliary_class_logits", "seg_logits", "patch_tokens", "class_token"):
        assert torch.equal(getattr(outputs, name), getattr(expected, name))
    assert all(map(torch.equal, outputs.cams, expected.cams))
    assert model.heads(stored, decode=False).seg_logits is None
    assert outputs.seg_logits is not None
    (outputs.class_logits.sum() + outputs.auxiliary_class_logits.sum() + outputs.seg_logits.sum()).backward()  # type: ignore[no-untyped-call]
    trained = {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained == {"classifier", "auxiliary_classifier", "decoder"}


def test_toco__classifies_max_pooled_tokens(model: ToCo, generator: torch.Generator) -> None:
    batch = images(generator)
    outputs, tokens = model(batch), model.backbone(batch)
    for logits, classifier, maps in (
        (outputs.class_logits, model.classifier, tokens.final),
        (outputs.auxiliary_class_logits, model.auxiliary_classifier, tokens.auxiliary),
    ):
        expected = maps.flatten(2).amax(dim=2) @ classifier.weight.flatten(1).T
        torch.testing.assert_close(logits, expected)


def test_toco__cams_are_the_classifiers_weights_on_each_token(model: ToCo, generator: torch.Generator) -> None:
    batch = images(generator)
    tokens, cams = model.backbone(batch), model.raw_cams(batch)
    expected = torch.einsum("bdhw,cd->bchw", tokens.auxiliary, model.auxiliary_classifier.weight.flatten(1))
    torch.testing.assert_close(cams.auxiliary, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(cams.final, model(batch).cams.final)
    assert torch.equal(cams.auxiliary, model.raw_auxiliary_cam(batch))


def test_large_field_of_view__equals_convolutions_with_spread_kernels(generator: torch.Generator) -> None:
    decoder = LargeFieldOfView(6, 4, channels=5)
    assert all("bias" not in name for name, _ in decoder.named_parameters())
    tokens = torch.randn(1, 6, 7, 8, generator=generator)
    expected = tokens
    for layer in (decoder.conv6, decoder.conv7):
        # A 3 x 3 kernel with dilation 5 equals an 11 x 11 kernel with zeros between its weights.
        spread = torch.zeros(*layer.weight.shape[:2], 11, 11)
        spread[..., ::5, ::5] = layer.weight.detach()
        expected = F.conv2d(expected, spread, padding=5).relu()
    expected = torch.einsum("bdhw,cd->bchw", expected, decoder.conv8.weight.flatten(1))
    torch.testing.assert_close(decoder(tokens), expected, rtol=1e-4, atol=1e-5)


# --- projectors ---


def test_projector__equals_a_weight_normed_layer_of_gain_one(generator: torch.Generator) -> None:
    projector = Projector(6, hidden=8, bottleneck=5, out=7)
    last = nn.utils.parametrizations.weight_norm(nn.Linear(5, 7, bias=False))
    with torch.no_grad():
        last.parametrizations.weight.original0.fill_(1)
        last.parametrizations.weight.original1.copy_(projector.prototypes)
    tokens = torch.randn(2, 3, 6, generator=generator)
    expected = last(F.normalize(projector.mlp(tokens), dim=-1))
    torch.testing.assert_close(projector(tokens), expected)


def test_projector__outputs_are_cosines(generator: torch.Generator) -> None:
    projector = Projector(6, hidden=8, bottleneck=5, out=7)
    tokens = 100 * torch.randn(4, 6, generator=generator)
    result = projector(tokens)
    assert result.shape == (4, 7)
    assert result.abs().max() <= 1 + 1e-6
    projector.prototypes.data.mul_(3)
    torch.testing.assert_close(projector(tokens), result)


def test_projector__sizes_of_the_paper() -> None:
    shapes = [tuple(parameter.shape) for parameter in Projector(48).parameters() if parameter.ndim == 2]
    assert shapes == [(1024, 256), (2048, 48), (2048, 2048), (256, 2048)]


def test_toco__teacher_starts_as_the_student() -> None:
    backbone = build_backbone("vit_tiny_patch16_224", img_size=32, embed_dim=32, depth=3, num_heads=2)
    model = ToCo(backbone, 2, projector_hidden=8, projector_bottleneck=6, projector_out=5)
    for student, teacher in zip(model.projector.parameters(), model.teacher_projector.parameters(), strict=True):
        assert torch.equal(student, teacher)
        assert student.data_ptr() != teacher.data_ptr()
        assert student.requires_grad
        assert not teacher.requires_grad


def test_toco__no_gradient_into_the_teacher(model: ToCo, generator: torch.Generator) -> None:
    model.teacher_projector.requires_grad_(False)
    class_token = model(images(generator)).class_token
    student = model.projector(class_token)[:, None]
    teacher = model.teacher_projector(class_token)[:, None]
    through_both = class_token_contrast(student, teacher, torch.ones(2, 1))
    (with_teacher,) = torch.autograd.grad(through_both, class_token, retain_graph=True)
    torch.autograd.backward(through_both)
    assert all(parameter.grad is None for parameter in model.teacher_projector.parameters())
    assert all(parameter.grad is not None for parameter in model.projector.parameters())
    # No gradient reaches the encoder through the teacher either.
    alone = class_token_contrast(model.projector(class_token)[:, None], teacher.detach(), torch.ones(2, 1))
    (without_teacher,) = torch.autograd.grad(alone, class_token)
    torch.testing.assert_close(with_teacher, without_teacher)


def test_update_teacher__is_a_moving_average(model: ToCo) -> None:
    student = [parameter.detach().clone() for parameter in model.projector.parameters()]
    teacher = [parameter.detach().clone() for parameter in model.teacher_projector.parameters()]
    model.update_teacher()
    for now, before, other in zip(model.teacher_projector.parameters(), teacher, student, strict=True):
        torch.testing.assert_close(now, 0.9 * before + 0.1 * other)
        assert not now.requires_grad
    model.update_teacher(momentum=0.0)
    for now, other in zip(model.teacher_projector.parameters(), student, strict=True):
        torch.testing.assert_close(now, other)
    for parameter, before in zip(model.projector.parameters(), student, strict=True):
        assert torch.equal(parameter, before)


def test_toco__state_dict_round_trip(model: ToCo, generator: torch.Generator) -> None:
    backbone = build_backbone("vit_tiny_patch16_224", patch_size=8, img_size=32, embed_dim=32, depth=4, num_heads=2)
    other = ToCo(backbone, 3, decoder_channels=12, projector_hidden=20, projector_bottleneck=10, projector_out=14)
    other.load_state_dict(model.state_dict())
    batch = images(generator)
    assert torch.equal(other.eval()(batch).seg_logits, model(batch).seg_logits)
