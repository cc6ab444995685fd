import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from stages.planning import measured_times
from stages.runtime.fabric import make_fabric
from stages.toco.build_backbone import build_backbone


def test_memory__is_unknown_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (measured_times._memory(make_fabric("cpu")) or 0.0) > 1e6  # bytes
    monkeypatch.setitem(sys.modules, "resource", None)
    assert measured_times._memory(make_fabric("cpu")) is None


@pytest.mark.parametrize(
    "name", ["vit_small_patch16_dinov3", "vit_small_plus_patch16_dinov3", "eva02_tiny_patch14_224"]
)
def test_shape_of__operations_are_those_that_torch_counts(name: str) -> None:
    backbone = build_backbone(name, depth=2, auxiliary_block=0).eval()
    side = 4 * backbone.patch_size
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        backbone(torch.zeros(1, 3, side, side))
    assert measured_times.shape_of(backbone).encode(side) == pytest.approx(counter.get_total_flops(), rel=0.05)
