import copy
import re
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.toco.backbone import Backbone
from stages.toco.build_backbone import build_backbone, load_backbone_weights

SMALL: dict[str, Any] = {"embed_dim": 32, "depth": 3, "num_heads": 2}

# Name in timm, patch size, overridden settings.
KINDS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "patch 16": ("vit_tiny_patch16_224", 16, {}),
    "patch 8": ("vit_tiny_patch16_224", 8, {"patch_size": 8}),
    "patch 14, LayerScale": ("vit_small_patch14_dinov2", 14, {}),
    "distilled": ("deit_tiny_distilled_patch16_224", 16, {}),
    "register tokens": ("vit_small_patch14_reg4_dinov2", 14, {}),
    "no class position": ("deit3_small_patch16_224", 16, {}),
    "rotary, registers": ("vit_small_patch16_dinov3", 16, {}),
    "rotary": ("vit_small_patch16_rope_224", 16, {}),
    "rotary, learned": ("vit_small_patch16_rope_mixed_224", 16, {}),
    "rotary and absolute": ("vit_small_patch16_rope_ape_224", 16, {}),
    "norm after pooling": ("eva02_tiny_patch14_224", 14, {}),
}
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)
WITH_POSITIONS = pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind not in ("rotary, registers", "rotary", "rotary, learned")]
)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def build(kind: str, grid: int = 3, **more: Any) -> Backbone:
    name, patch, overrides = KINDS[kind]
    return build_backbone(name, img_size=grid * patch, **SMALL, **overrides, **more).eval()


def timm_model(kind: str, generator: torch.Generator, grid: int = 3, **more: Any) -> nn.Module:
    """Build timm's own network of that kind, with random weights everywhere (none is zero)."""
    name, patch, overrides = KINDS[kind]
    overrides = {"img_size": grid * patch, **SMALL, **overrides, **more}
    model: nn.Module = timm.create_model(name, num_classes=5, **overrides)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def random_images(kind: str, rows: int, columns: int, generator: torch.Generator) -> Tensor:
    patch = KINDS[kind][1]
    return torch.randn(2, 3, rows * patch, columns * patch, generator=generator)


def timm_tokens(model: Any, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Final patch tokens, tokens of the third block from the end, class token."""
    with torch.no_grad():
        final = model.fc_norm(model.forward_features(images))
        auxiliary = model.get_submodule("blocks.0")
        seen: list[Tensor] = []
        handle = auxiliary.register_forward_hook(lambda module, args, output: seen.append(output))
        model.forward_features(images)
        handle.remove()
    prefix = model.num_prefix_tokens
    return final[:, prefix:], seen[0][:, prefix:], final[:, 0]


def assert_same_tokens(backbone: Backbone, model: nn.Module, images: Tensor) -> None:
    with torch.no_grad():
        tokens = backbone(images)
    final, auxiliary, class_token = timm_tokens(model, images)
    grid = (images.shape[-2] // backbone.patch_size, images.shape[-1] // backbone.patch_size)
    expected = [maps.transpose(1, 2).reshape(len(images), -1, *grid) for maps in (final, auxiliary)]
    torch.testing.assert_close(tokens.final, expected[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(tokens.auxiliary, expected[1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(tokens.class_token, class_token, rtol=1e-4, atol=1e-4)


def resized_positions(positions: Tensor, prefix: int, old: int, new: tuple[int, int], antialias: bool) -> Tensor:
    grid = positions[:, prefix:].reshape(1, old, old, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=new, mode="bicubic", align_corners=False, antialias=antialias)
    return torch.cat([positions[:, :prefix], grid.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


# --- tokens ---


@EVERY_KIND
def test_backbone__tokens_of_any_size(kind: str, generator: torch.Generator) -> None:
    backbone = build(kind)
    for rows, columns in ((3, 3), (2, 5), (4, 1)):
        tokens = backbone(random_images(kind, rows, columns, generator))
        assert tokens.final.shape == tokens.auxiliary.shape == (2, 32, rows, columns)
        assert tokens.class_token.shape == (2, 32)


@EVERY_KIND
def test_backbone__auxiliary_tokens_are_those_of_a_whole_pass(kind: str, generator: torch.Generator) -> None:
    backbone = build(kind)
    images = random_images(kind, 2, 4, generator)
    assert torch.equal(backbone.auxiliary_tokens(images), backbone(images).auxiliary)


@EVERY_KIND
def test_class_token__is_that_of_a_whole_pass(kind: str, generator: torch.Generator) -> None:
    backbone = build(kind).train().double()
    images = random_images(kind, 2, 4, generator).double()
    tokens = backbone(images).class_token, backbone.class_token(images)
    torch.testing.assert_close(*tokens)
    weights = [*backbone.parameters()]
    gradients = [torch.autograd.grad(token.square().sum(), weights, allow_unused=True) for token in tokens]
    for whole, alone in zip(*gradients, strict=True):
        torch.testing.assert_close(whole, alone)


@pytest.mark.parametrize(("kind", "tokens"), [("register tokens", 1), ("rotary, registers", 13)])
def test_class_token__tokens_that_the_last_mlp_sees(kind: str, tokens: int, generator: torch.Generator) -> None:
    backbone, seen = build(kind), []
    backbone.network.blocks[-1].mlp.register_forward_pre_hook(lambda module, given: seen.append(given[0].numel()))
    backbone.class_token(random_images(kind, 2, 4, generator))
    assert seen == [2 * 32 * tokens]


@EVERY_KIND
def test_load_backbone_weights__features_equal_those_of_timm(kind: str, generator: torch.Generator) -> None:
    model, backbone = timm_model(kind, generator), build(kind)
    load_backbone_weights(backbone, model.state_dict())
    assert_same_tokens(backbone, model, random_images(kind, 3, 3, generator))


@EVERY_KIND
def test_load_backbone_weights__of_another_grid(kind: str, generator: torch.Generator) -> None:
    model, backbone = timm_model(kind, generator, grid=4), build(kind, grid=3)
    load_backbone_weights(backbone, model.state_dict())
    assert backbone.position_grid == ((3, 3) if backbone.positions is None else (4, 4))
    assert_same_tokens(backbone, model, random_images(kind, 4, 4, generator))


@WITH_POSITIONS
@pytest.mark.parametrize("grid", [(2, 4), (6, 3)])
def test_backbone__positions_are_resized_without_antialiasing(
    kind: str, grid: tuple[int, int], generator: torch.Generator
) -> None:
    # The reference is a timm model built for this size, with positions resized here.
    model: Any = timm_model(kind, generator, grid=5)
    backbone = build(kind)
    load_backbone_weights(backbone, model.state_dict())
    patch, prefix = backbone.patch_size, 0 if model.no_embed_class else model.num_prefix_tokens
    sized: Any = timm_model(kind, generator, img_size=(grid[0] * patch, grid[1] * patch))
    weights = model.state_dict()
    positions = weights["pos_embed"]
    weights["pos_embed"] = resized_positions(positions, prefix, 5, grid, antialias=False)
    sized.load_state_dict(weights)
    images = random_images(kind, *grid, generator)
    assert_same_tokens(backbone, sized, images)
    # The comparison is strict enough to notice antialiasing.
    sized.pos_embed.data.copy_(resized_positions(positions, prefix, 5, grid, antialias=True))
    with pytest.raises(AssertionError, match="not close"):
        assert_same_tokens(backbone, sized, images)


@EVERY_KIND
def test_backbone__images_of_other_sizes_do_not_change_its_state(kind: str, generator: torch.Generator) -> None:
    backbone = build(kind)
    images = random_images(kind, 3, 3, generator)
    before = backbone(images)
    backbone(random_images(kind, 2, 4, generator))
    for first, second in zip(before, backbone(images), strict=True):
        assert torch.equal(first, second)


def test_backbone__auxiliary_block_counts_from_either_end(generator: torch.Generator) -> None:
    images = random_images("patch 16", 3, 3, generator)
    backbones = [build("patch 16", auxiliary_block=block) for block in (-3, 0, 2)]
    assert [backbone.auxiliary_block for backbone in backbones] == [0, 0, 2]
    for backbone in backbones[1:]:
        backbone.load_state_dict(backbones[0].state_dict())
    tokens = [backbone(images) for backbone in backbones]
    assert torch.equal(tokens[0].auxiliary, tokens[1].auxiliary)
    # The last block's tokens are taken before the final norm.
    normed = backbones[2].network.norm(tokens[2].auxiliary.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    torch.testing.assert_close(normed, tokens[2].final)
    assert not torch.allclose(tokens[2].auxiliary, tokens[2].final)


def test_normalise__by_hand() -> None:
    backbone = build("distilled")
    images = torch.tensor([0.0, 127.5, 255.0]).view(1, 3, 1, 1)
    expected = [(0 - 0.485) / 0.229, (0.5 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    torch.testing.assert_close(backbone.normalise(images).flatten(), torch.tensor(expected))


# --- channels ---


def test_backbone__mean_and_deviation_of_the_channels_in_the_unit_of_the_images() -> None:
    backbone = build("patch 16", channels=2, mean=[1000.0, 0.5], std=[200.0, 0.25])
    images = torch.tensor([1200.0, 0.25]).view(1, 2, 1, 1)
    torch.testing.assert_close(backbone.normalise(images).flatten(), torch.tensor([1.0, -1.0]))


def test_backbone__mean_of_pretraining_for_other_channels() -> None:
    backbone = build("distilled", channels=1)
    expected = torch.tensor([-(0.485 + 0.456 + 0.406) / (0.229 + 0.224 + 0.225)])
    torch.testing.assert_close(backbone.normalise(torch.zeros(1, 1, 1, 1)).flatten(), expected)


@pytest.mark.parametrize(("given", "what"), [({"mean": [0.1]}, "mean"), ({"std": [1.0] * 3}, "standard deviation")])
def test_backbone__mean_of_another_number_of_channels(given: dict[str, Any], what: str) -> None:
    with pytest.raises(ValueError, match=rf"^the {what} has \d values, but the images have 4 channels$"):
        build("patch 16", channels=4, **given)


@pytest.mark.parametrize(("channels", "expected"), [(1, [6.0]), (5, [0.6, 1.2, 1.8, 0.6, 1.2])])
def test_load_backbone_weights__of_three_channels_into_others(
    channels: int, expected: list[float], generator: torch.Generator
) -> None:
    state = timm_model("patch 16", generator).state_dict()
    kernel = state["patch_embed.proj.weight"]
    kernel.copy_(torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1).expand_as(kernel))
    backbone = build("patch 16", channels=channels)
    load_backbone_weights(backbone, state)
    torch.testing.assert_close(backbone.network.patch_embed.proj.weight[0, :, 0, 0], torch.tensor(expected))
    assert backbone(torch.zeros(1, channels, 32, 48)).final.shape == (1, 32, 2, 3)


def test_load_backbone_weights__of_the_same_channels_are_kept(generator: torch.Generator) -> None:
    state = timm_model("patch 16", generator, in_chans=4).state_dict()
    backbone = build("patch 16", channels=4)
    load_backbone_weights(backbone, state)
    assert torch.equal(backbone.network.patch_embed.proj.weight, state["patch_embed.proj.weight"])
    with pytest.raises(ValueError, match=r"has another shape of 'patch_embed\.proj\.weight'$"):
        load_backbone_weights(build("patch 16", channels=5), state)


# --- memory ---


def bytes_kept(backbone: Backbone, images: Tensor) -> int:
    """Count the bytes that a pass stores for its backward pass; shared tensors count once, weights do not count."""
    weights = {one.untyped_storage().data_ptr() for one in backbone.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        tokens = backbone(images)
    assert tokens.final.requires_grad
    return sum(kept.values())


@EVERY_KIND
def test_grad_checkpointing__stores_only_the_inputs_of_blocks(kind: str, generator: torch.Generator) -> None:
    plain, images = build(kind).train(), random_images(kind, 3, 3, generator)
    again = copy.deepcopy(plain)
    again.set_grad_checkpointing()
    assert bytes_kept(again, images) < 0.4 * bytes_kept(plain, images)
    gradients = []
    for backbone in (plain, again):
        tokens = backbone(images)
        alone = backbone.class_token(images).square().sum()
        (tokens.final.square().sum() + tokens.auxiliary.sum() + tokens.class_token.sum() + alone).backward()
        gradients.append({name: one.grad for name, one in backbone.named_parameters() if one.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.equal(one, gradients[1][name]) for name, one in gradients[0].items())


# --- parameters ---


@EVERY_KIND
def test_backbone__positions_are_frozen_and_everything_else_is_trained(kind: str, generator: torch.Generator) -> None:
    backbone = build(kind)
    names = dict(backbone.named_parameters())
    assert not [name for name in names if "pos" in name]
    tokens = backbone(random_images(kind, 2, 4, generator))
    (tokens.final.square().sum() + tokens.class_token.square().sum()).backward()
    assert [name for name, parameter in names.items() if parameter.grad is None] == []


@EVERY_KIND
def test_backbone__state_dict_round_trip(kind: str, generator: torch.Generator) -> None:
    backbone, other = build(kind), build(kind)
    load_backbone_weights(backbone, timm_model(kind, generator).state_dict())
    images = random_images(kind, 2, 4, generator)
    backbone(images)  # the positions that a pass sets are not part of the state
    other.load_state_dict(backbone.state_dict())
    for first, second in zip(backbone(images), other(images), strict=True):
        assert torch.equal(first, second)


@WITH_POSITIONS
def test_set_position_grid__makes_room_for_a_state(kind: str, generator: torch.Generator) -> None:
    backbone, other = build(kind), build(kind)
    load_backbone_weights(backbone, timm_model(kind, generator, grid=4).state_dict())
    other.set_position_grid(backbone.position_grid)
    other.load_state_dict(backbone.state_dict())
    images = random_images(kind, 2, 4, generator)
    assert torch.equal(backbone(images).final, other(images).final)


def test_backbone__can_be_copied_after_a_pass(generator: torch.Generator) -> None:
    backbone = build("patch 16")
    images = random_images("patch 16", 2, 4, generator)
    expected = backbone(images).final
    assert torch.equal(copy.deepcopy(backbone)(images).final, expected)


def test_load_backbone_weights__half_precision(generator: torch.Generator) -> None:
    backbone = build("patch 16")
    state = {key: value.half() for key, value in timm_model("patch 16", generator).state_dict().items()}
    load_backbone_weights(backbone, state)
    assert {value.dtype for value in backbone.state_dict().values()} == {torch.float32}


# --- errors ---


def test_backbone__unknown_name() -> None:
    with pytest.raises(ValueError, match=r"^--backbone 'deit_bose_patch16_224' is not a model of timm .*; try one"):
        build_backbone("deit_bose_patch16_224")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("beit_base_patch16_224", "does not take images of every size (Input height"),  # positions relative to one grid
        ("maxvit_rmlp_pico_rw_256", "does not take images of every size ("),
        (
            "mvitv2_tiny",
            "does not take images of every size (index",
        ),  # fails for images above the size of its positions
        ("samvit_base_patch16", "has a map of shape (256, 2, "),
    ],
)
def test_backbone__no_map_of_tokens(name: str, reason: str) -> None:
    overrides: dict[str, Any] = {"depth": 1, "embed_dim": 32, "num_heads": 2} if "patch16" in name else {}
    with pytest.raises(ValueError, match=f"^--backbone '{name}' {re.escape(reason)}.*; choose one such as 'deit_base_"):
        build_backbone(name, auxiliary_block=-1, **overrides)


@pytest.mark.parametrize("block", [-4, 3])
def test_backbone__auxiliary_block_out_of_range(block: int) -> None:
    with pytest.raises(ValueError, match=f"^--auxiliary-block {block} does not exist: .* has 3 blocks; choose -3..2$"):
        build("patch 16", auxiliary_block=block)


def test_load_backbone_weights__other_depth(generator: torch.Generator) -> None:
    state = timm_model("patch 16", generator, depth=2).state_dict()
    with pytest.raises(
        ValueError,
        match=r"^is of another model than --backbone 'vit_tiny_patch16_224': it has no 'blocks\.2\.attn",
    ):
        load_backbone_weights(build("patch 16"), state)


def test_load_backbone_weights__other_width(generator: torch.Generator) -> None:
    state = timm_model("patch 16", generator, embed_dim=48).state_dict()
    with pytest.raises(ValueError, match=r"another model .* has another shape of 'blocks\.0"):
        load_backbone_weights(build("patch 16"), state)


def test_load_backbone_weights__no_positions(generator: torch.Generator) -> None:
    state = timm_model("patch 16", generator).state_dict()
    del state["pos_embed"]
    with pytest.raises(ValueError, match=r"it has no 'pos_embed'$"):
        load_backbone_weights(build("patch 16"), state)


def test_load_backbone_weights__positions_of_another_width(generator: torch.Generator) -> None:
    state = timm_model("patch 16", generator).state_dict()
    state["pos_embed"] = state["pos_embed"][..., :16]
    with pytest.raises(ValueError, match=r"has another shape of 'pos_embed'$"):
        load_backbone_weights(build("patch 16"), state)


def test_load_backbone_weights__positions_of_no_square(generator: torch.Generator) -> None:
    state = timm_model("patch 16", generator).state_dict()
    state["pos_embed"] = state["pos_embed"][:, :-1]
    with pytest.raises(ValueError, match=r"^has position embeddings for 8 patches, which is not a square number$"):
        load_backbone_weights(build("patch 16"), state)


def test_load_backbone_weights__a_wrong_file_changes_nothing(generator: torch.Generator) -> None:
    backbone = build("patch 16")
    before = copy.deepcopy(backbone.state_dict())
    state = timm_model("patch 16", generator).state_dict()
    state["pos_embed"] = state["pos_embed"][:, :-1]
    with pytest.raises(ValueError, match="not a square number"):
        load_backbone_weights(backbone, state)
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())


def test_backbone__drops_what_is_less_than_a_patch(generator: torch.Generator) -> None:
    backbone = build("patch 8")
    image = torch.randn(1, 3, 29, 24, generator=generator)
    for whole, cut in zip(backbone(image), backbone(image[:, :, :24]), strict=True):
        torch.testing.assert_close(whole, cut)


def test_block_tokens__are_those_of_forward() -> None:
    backbone = build_backbone(
        "vit_tiny_patch16_224", auxiliary_block=-2, patch_size=8, embed_dim=32, depth=3, num_heads=2
    ).eval()
    images = torch.randn(2, 3, 40, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        tokens, blocks = backbone(images), backbone.block_tokens(images)
    assert len(blocks) == 4
    torch.testing.assert_close(blocks[1], tokens.auxiliary)
    torch.testing.assert_close(blocks[-1], tokens.final)
