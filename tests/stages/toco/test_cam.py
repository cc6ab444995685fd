import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stages.toco.cam import (
    Cams,
    fuse_scales,
    ignore_outside,
    inside_box,
    keep_present,
    label_one_threshold,
    label_two_thresholds,
    labels_at,
    multi_scale_cams,
    normalise,
    present_classes,
    sum_scales,
    uncertainty_map,
)

Golden = Callable[[str], dict[str, Any]]


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


class Network:
    """Stands in for a ViT: each token has its own linear map, so the CAM of a flipped image is not the flipped CAM."""

    def __init__(self, patch: int = 4, classes: int = 3) -> None:
        self.patch, self.classes = patch, classes
        self.batches: list[tuple[int, ...]] = []

    def raw_cams(self, images: Tensor) -> Cams:
        self.batches.append(tuple(images.shape))
        tokens = F.avg_pool2d(images, self.patch)
        maps = []
        for seed in (1, 2):
            weights = torch.randn(self.classes, 3, *tokens.shape[-2:], generator=torch.Generator().manual_seed(seed))
            maps.append(torch.einsum("kchw,bchw->bkhw", weights, tokens))
        return Cams(final=maps[0], auxiliary=maps[1])


@pytest.mark.parametrize(("raw", "fused"), [("raw_cam_", "fused_cam"), ("raw_aux_cam_", "fused_aux_cam")])
def test_fuse_scales__golden(golden: Golden, assert_golden: Callable[..., None], raw: str, fused: str) -> None:
    arrays = golden("fuse_scales")
    count = sum(key.startswith(raw) for key in arrays)
    height, width = arrays["size"].tolist()
    result = fuse_scales([arrays[f"{raw}{scale}"] for scale in range(count)], (height, width))
    assert_golden(result, arrays[fused])


def test_labels__golden(golden: Golden, assert_golden: Callable[..., None]) -> None:
    arrays = golden("cam_to_label")
    high, low = arrays["high"], arrays["low"]
    valid_cam = keep_present(arrays["cam"], arrays["class_labels"])
    assert_golden(valid_cam, arrays["valid_cam"])
    single = label_one_threshold(valid_cam, arrays["background"])
    assert torch.equal(single, arrays["label_single_threshold"].long())
    double = label_two_thresholds(
        valid_cam, arrays["image_box"], high=high, low=low, ignore_index=arrays["ignore_index"]
    )
    assert torch.equal(double, arrays["label_two_thresholds"].long())
    assert torch.equal(uncertainty_map(valid_cam, high=high, low=low), arrays["uncertainty_map"].long())


def test_fuse_scales__by_hand() -> None:
    unflipped = torch.tensor([[1.0, 2.0], [3.0, -1.0]])
    flipped = torch.tensor([[0.0, 4.0], [-2.0, -3.0]])  # flipped back: (4, 0), (-3, -2)
    fused = fuse_scales([torch.stack([unflipped, flipped])[:, None]], (2, 2))
    # The larger of both, after ReLU: (4, 2), (3, 0).
    torch.testing.assert_close(fused[0, 0], torch.tensor([[4.0, 2.0], [3.0, 0.0]]) / 4.00001)


def test_sum_scales__adds_the_rectified_maps_of_all_scales() -> None:
    one = torch.tensor([[1.0, -5.0]]).expand(2, 1, 1, 2)
    two = torch.full((2, 1, 1, 1), 2.0)
    # Both halves of the batch are (1, -5), and (-5, 1) once the second is flipped back: the larger is 1 on either side.
    assert sum_scales([one, two], (1, 2)).tolist() == [[[[3.0, 3.0]]]]


def test_sum_scales__no_scale() -> None:
    with pytest.raises(ValueError, match="at least one scale"):
        sum_scales([], (2, 2))


def test_sum_scales__half_precision_is_summed_in_float32(generator: torch.Generator) -> None:
    raw = torch.randn(2, 2, 3, 3, generator=generator).bfloat16()
    assert torch.equal(sum_scales([raw], (9, 9)), sum_scales([raw.float()], (9, 9)))


def test_normalise__stretches_each_map_of_each_image(generator: torch.Generator) -> None:
    cam = 10 * torch.rand(2, 3, 5, 4, generator=generator) - 4
    result = normalise(cam)
    assert result.amin(dim=(-2, -1)).tolist() == [[0] * 3] * 2
    assert (result < 1).all()
    assert (result.amax(dim=(-2, -1)) > 0.9999).all()
    torch.testing.assert_close(result[1:, 2:], normalise(cam[1:, 2:]))


@pytest.mark.parametrize("value", [-2.0, 0.0, 7.0])
def test_normalise__constant_map_is_zero(value: float) -> None:
    assert not normalise(torch.full((1, 1, 3, 3), value)).any()


def test_multi_scale_cams__flipped_image_gives_flipped_cam(generator: torch.Generator) -> None:
    images = torch.randn(2, 3, 16, 24, generator=generator)
    network = Network()
    cams = multi_scale_cams(network.raw_cams, images)
    of_flipped = multi_scale_cams(network.raw_cams, images.flip(-1))
    for cam, flipped in zip(cams, of_flipped, strict=True):
        assert cam.shape == (2, 3, 16, 24)
        torch.testing.assert_close(flipped.flip(-1), cam)
    # This is not so for the network's raw CAMs.
    assert not torch.allclose(network.raw_cams(images.flip(-1)).final.flip(-1), network.raw_cams(images).final)


def test_multi_scale_cams__reuses_the_unflipped_pass(generator: torch.Generator) -> None:
    images = torch.randn(2, 3, 16, 24, generator=generator)
    network = Network()
    expected = multi_scale_cams(network.raw_cams, images)
    unflipped = network.raw_cams(images)
    network.batches.clear()
    cams = multi_scale_cams(network.raw_cams, images, unflipped=unflipped)
    assert network.batches == [(2, 3, 16, 24), (4, 3, 8, 12), (4, 3, 24, 36)]
    torch.testing.assert_close(cams.final, expected.final)
    torch.testing.assert_close(cams.auxiliary, expected.auxiliary)


def test_multi_scale_cams__sides_are_cut_to_whole_pixels(generator: torch.Generator) -> None:
    network = Network(patch=1)
    images = torch.randn(1, 3, 21, 28, generator=generator)
    cams = multi_scale_cams(network.raw_cams, images, scales=(1.0, 0.5, 1.5))
    assert [batch[-2:] for batch in network.batches] == [(21, 28), (10, 14), (31, 42)]
    assert cams.final.shape == (1, 3, 21, 28)


def test_multi_scale_cams__batch_of_two_equals_each_alone(generator: torch.Generator) -> None:
    images = torch.randn(2, 3, 8, 8, generator=generator)
    together = multi_scale_cams(Network().raw_cams, images)
    for index in range(2):
        alone = multi_scale_cams(Network().raw_cams, images[index : index + 1])
        torch.testing.assert_close(together.final[index], alone.final[0])


def test_labels__by_hand() -> None:
    valid_cam = torch.tensor([[[[0.9, 0.2], [0.5, 0.0]], [[0.1, 0.6], [0.3, 0.0]]]])
    assert label_one_threshold(valid_cam).tolist() == [[[1, 2], [0, 0]]]
    assert label_two_thresholds(valid_cam).tolist() == [[[1, 255], [255, 0]]]
    assert uncertainty_map(valid_cam).tolist() == [[[2, 1], [1, 0]]]


def test_labels__scores_that_equal_a_threshold() -> None:
    cam = torch.tensor([0.25, 0.5, 0.75])[None, None, None]
    assert label_one_threshold(cam, background=0.5).tolist() == [[[0, 0, 1]]]
    assert label_two_thresholds(cam, high=0.75, low=0.25).tolist() == [[[0, 255, 255]]]
    assert uncertainty_map(cam, high=0.75, low=0.25).tolist() == [[[0, 1, 2]]]


def test_label_two_thresholds__pixels_outside_the_box_are_ignored(generator: torch.Generator) -> None:
    cam = torch.rand(2, 3, 6, 7, generator=generator)
    box = torch.tensor([[0, 6, 0, 7], [1, 4, 2, 7]])
    label = label_two_thresholds(cam, box)
    assert torch.equal(label[0], label_two_thresholds(cam)[0])
    assert (label[1, 0] == 255).all()
    assert (label[1, :, :2] == 255).all()
    other = torch.where(inside_box(box, 6, 7)[:, None], cam, 1 - cam)
    assert torch.equal(label_two_thresholds(other, box), label)


def test_ignore_outside__other_ignore_index() -> None:
    label = ignore_outside(torch.ones(1, 2, 2, dtype=torch.int64), torch.tensor([[0, 1, 1, 2]]), -1)
    assert label.tolist() == [[[-1, 1], [-1, -1]]]


def test_inside_box__half_open() -> None:
    inside = inside_box(torch.tensor([[1, 3, 0, 2], [0, 0, 0, 0]]), 4, 3)
    expected = [[1 <= y < 3 and 0 <= x < 2 for x in range(3)] for y in range(4)]
    assert inside.tolist() == [expected, [[False] * 3] * 4]


def test_keep_present__absent_classes_are_zero(generator: torch.Generator) -> None:
    cam = torch.rand(1, 2, 3, 3, generator=generator)
    valid_cam = keep_present(cam, torch.tensor([[0.0, 1.0]]))
    assert not valid_cam[0, 0].any()
    assert torch.equal(valid_cam[0, 1], cam[0, 1])


def test_present_classes__by_hand() -> None:
    present = present_classes(torch.tensor([[0.0, 1.0, 0.0, 1.0], [0.0, 0.0, 1.0, 0.0], [0.0] * 4]))
    assert present.index.shape == present.valid.shape == (3, 2)
    assert present.index[0].tolist() == [1, 3]  # in order
    assert present.index[1, 0] == 2
    assert present.valid.tolist() == [[1, 1], [1, 0], [0, 0]]


def test_present_classes__no_class_anywhere() -> None:
    present = present_classes(torch.zeros(2, 3))
    assert present.valid.tolist() == [[0], [0]]


@pytest.mark.parametrize("seed", range(5))
def test_present_classes__labels_equal_those_of_all_classes(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    classes = 9
    class_labels = (torch.rand(4, classes, generator=generator) < 0.3).float()
    class_labels[0] = 0
    cam = torch.rand(4, classes, 6, 5, generator=generator)
    box = torch.tensor([[0, 6, 0, 5], [1, 5, 0, 5], [0, 6, 2, 4], [0, 3, 0, 3]])
    present = present_classes(class_labels)
    assert present.index.shape[1] == max(1, int(class_labels.sum(dim=1).max()))
    valid_cam, picked = keep_present(cam, class_labels), keep_present(present.pick(cam), present.valid)
    for label in (label_one_threshold, lambda maps: label_two_thresholds(maps, box)):
        assert torch.equal(present.class_numbers(label(picked)), label(valid_cam))


def test_fuse_scales__values_stay_below_one(generator: torch.Generator) -> None:
    cam = fuse_scales([100 * torch.randn(2, 1, 4, 4, generator=generator)], (8, 8))
    assert 0 <= cam.min() <= cam.max() <= 1
    assert math.isclose(cam.max(), 1, rel_tol=1e-4)


def test_labels_at__above_the_score_alone() -> None:
    scores = torch.tensor([[[0.5, 0.6, 0.1]], [[0.2, 0.7, 0.4]]])
    assert labels_at(scores, 0.5).tolist() == [[0, 2, 0]]
    assert labels_at(scores, 0.1).tolist() == [[1, 2, 2]]
    assert labels_at(torch.zeros(0, 2, 3), 0.5).tolist() == [[0] * 3] * 2
