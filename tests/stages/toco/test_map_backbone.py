"""Networks with stages, and Vision Transformers without a class token."""

from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F

from stages.toco.backbone import Backbone
from stages.toco.build_backbone import build_backbone, load_backbone_weights

# Name in timm, its settings for a tiny network, and its two last widths.
SWIN: dict[str, Any] = {"embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2)}
KINDS: dict[str, tuple[str, dict[str, Any], tuple[int, int]]] = {
    "Swin": ("swin_tiny_patch4_window7_224", SWIN, (64, 128)),
    "Swin V2": ("swinv2_tiny_window8_256", SWIN, (64, 128)),
    "ConvNeXt, norm in the head": ("convnext_atto", {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}, (24, 32)),
    "ConvNeXt, dilated": (
        "convnext_atto",
        {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32), "output_stride": 16},
        (24, 32),
    ),
    "PVT": ("pvt_v2_b0", {"depths": (1, 1, 1, 1), "embed_dims": (8, 16, 24, 32), "num_heads": (1, 1, 1, 1)}, (24, 32)),
    "ResNet, batch norm": ("resnet18", {"layers": (1, 1, 1, 1)}, (256, 512)),
    "EfficientNet, five stages": ("tf_efficientnet_lite0", {}, (112, 320)),
}
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)
SIGLIP: dict[str, Any] = {"depth": 3, "embed_dim": 32, "num_heads": 2, "img_size": 48}


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def build(kind: str, **more: Any) -> Backbone:
    name, options, _ = KINDS[kind]
    return build_backbone(name, **options, **more)


@EVERY_KIND
def test_tokens__of_any_size_are_on_a_grid_of_16_pixels(kind: str, generator: torch.Generator) -> None:
    backbone, (auxiliary, final) = build(kind).eval(), KINDS[kind][2]
    assert (backbone.patch_size, backbone.auxiliary_dim, backbone.embed_dim) == (16, auxiliary, final)
    for height, width in ((64, 96), (96, 112), (37, 50)):
        tokens = backbone(torch.randn(2, 3, height, width, generator=generator))
        assert tokens.final.shape == (2, final, height // 16, width // 16)
        assert tokens.auxiliary.shape == (2, auxiliary, height // 16, width // 16)
        torch.testing.assert_close(tokens.class_token, tokens.final.mean(dim=(2, 3)))


@EVERY_KIND
def test_tokens__computed_alone_are_those_of_a_whole_pass(kind: str, generator: torch.Generator) -> None:
    backbone = build(kind).eval()
    images = torch.randn(2, 3, 64, 48, generator=generator)
    tokens, blocks = backbone(images), backbone.block_tokens(images)
    torch.testing.assert_close(backbone.auxiliary_tokens(images), tokens.auxiliary)
    torch.testing.assert_close(backbone.class_token(images), tokens.class_token)
    torch.testing.assert_close(blocks[-1], tokens.final)
    torch.testing.assert_close(blocks[backbone.auxiliary_block], tokens.auxiliary)
    assert [one.shape[1] for one in blocks] == [*backbone.block_dims, backbone.embed_dim]


@EVERY_KIND
def test_gradients__reach_every_weight_of_the_encoder(kind: str, generator: torch.Generator) -> None:
    backbone = build(kind).train()
    backbone.set_grad_checkpointing()
    tokens = backbone(torch.randn(2, 3, 64, 96, generator=generator))
    (tokens.final.square().sum() + tokens.auxiliary.sum() + tokens.class_token.sum()).backward()
    assert [name for name, parameter in backbone.named_parameters() if parameter.grad is None] == []


@EVERY_KIND
def test_weights__of_timm_give_the_maps_of_timm(kind: str, generator: torch.Generator) -> None:
    name, options, _ = KINDS[kind]
    sizes: dict[str, Any] = {"dynamic_img_size": True} if "Swin" in kind else {}
    network: Any = timm.create_model(name, num_classes=5, **options, **sizes).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    backbone = build(kind).eval()
    load_backbone_weights(backbone, network.state_dict())
    images = torch.randn(2, 3, 64, 96, generator=generator)
    with torch.no_grad():
        ours = backbone(images)
        theirs = network.forward_intermediates(images, norm=True, intermediates_only=True)
        last, auxiliary = theirs[-1], theirs[-2]
        if "head" in kind or "dilated" in kind:
            last = network.head.norm(last)
    resized = F.interpolate(last, size=(4, 6), mode="bilinear", align_corners=False)
    torch.testing.assert_close(ours.final, resized, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.auxiliary, auxiliary, rtol=1e-4, atol=1e-4)


def test_image_size__makes_windows_that_are_part_of_the_options() -> None:
    backbone = build("Swin", image_size=64)
    assert backbone.options == {**SWIN, "img_size": 64}
    again = build_backbone("swin_tiny_patch4_window7_224", **backbone.options)
    again.load_state_dict(backbone.state_dict())
    assert "img_size" not in build("PVT", image_size=64).options


def test_drop_path__is_off_unless_asked_for() -> None:
    assert all(getattr(one, "drop_prob", 0.0) in (0.0, None) for one in build("Swin").modules())
    assert any(getattr(one, "drop_prob", 0.0) for one in build("Swin", drop_path_rate=0.5).modules())


@pytest.mark.parametrize("pretrained", [True, False])
def test_batch_norm__keeps_the_statistics_of_a_pretraining(pretrained: bool, generator: torch.Generator) -> None:
    backbone, (name, options, _) = build("ResNet, batch norm"), KINDS["ResNet, batch norm"]
    if pretrained:
        load_backbone_weights(backbone, timm.create_model(name, **options).state_dict())
    backbone.train()
    before = {key: value.clone() for key, value in backbone.state_dict().items() if "running" in key}
    backbone(torch.randn(2, 3, 64, 64, generator=generator))
    same = [torch.equal(value, backbone.state_dict()[key]) for key, value in before.items()]
    assert all(same) == pretrained


@pytest.mark.parametrize(
    ("kind", "key", "message"),
    [
        ("ResNet, batch norm", "stem.weight", "it has no 'bn1.bias'"),
        ("ConvNeXt, norm in the head", "blocks.0.attn.qkv.weight", "timm cannot convert it"),
        ("Swin", "layers.2.blocks.6.attn.relative_position_bias_table", "timm cannot convert it"),  # of a deeper one
    ],
)
def test_weights__of_another_network(kind: str, key: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^is of another model than --backbone '{KINDS[kind][0]}': {message}$"):
        load_backbone_weights(build(kind), {key: torch.zeros(169, 1)})


def test_weights__of_other_channels() -> None:
    name, options, _ = KINDS["ConvNeXt, norm in the head"]
    backbone = build("ConvNeXt, norm in the head", channels=5)
    load_backbone_weights(backbone, timm.create_model(name, **options).state_dict())
    assert backbone(torch.zeros(1, 5, 32, 32)).final.shape == (1, 32, 2, 2)


def test_auxiliary_block__counts_stages() -> None:
    assert build("PVT").auxiliary_block == 2
    assert build("PVT", auxiliary_block=1).auxiliary_dim == 16
    with pytest.raises(
        ValueError, match=r"^--auxiliary-block 4 does not exist: 'pvt_v2_b0' has 4 stages; choose -4..3$"
    ):
        build("PVT", auxiliary_block=4)


@pytest.mark.parametrize(
    ("name", "pooled"), [("vit_base_patch16_siglip_224", True), ("vit_medium_patch16_gap_240", False)]
)
def test_no_class_token__the_models_own_pooling_or_the_mean(
    name: str, pooled: bool, generator: torch.Generator
) -> None:
    backbone = build_backbone(name, **SIGLIP).eval()
    assert not backbone.has_class_token
    network: Any = timm.create_model(name, num_classes=0, **SIGLIP).eval()
    load_backbone_weights(backbone, network.state_dict())
    images = torch.randn(2, 3, 48, 48, generator=generator)
    with torch.no_grad():
        tokens = backbone(images)
        expected = network(images) if pooled else tokens.final.mean(dim=(2, 3))
    torch.testing.assert_close(tokens.class_token, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(backbone.class_token(images), tokens.class_token)
    assert backbone(images[..., :32, :]).final.shape == (2, 32, 2, 3)


def test_frozen_encoder__joins_stages_of_different_widths(generator: torch.Generator) -> None:
    from stages.networks.frozen_encoder import FrozenEncoder

    encoder = FrozenEncoder(build("PVT"), (1, -1))
    features = encoder(255 * torch.rand(1, 3, 64, 48, generator=generator))
    assert features.shape == (1, encoder.width, 4, 3)
    assert encoder.width == 16 + 32
