"""Gives CAM networks a small decoder and small projectors, in the tests and in the child processes that import this.

The paper's sizes are most of a tiny network's weights. tests/stages/toco/test_model.py checks them.
"""

from functools import partial

import stages.networks.cam_model
from stages.toco.model import ToCo

SMALL = partial(ToCo, decoder_channels=8, projector_hidden=16, projector_bottleneck=8, projector_out=16)
setattr(stages.networks.cam_model, "ToCo", SMALL)  # noqa: B010  # mypy sees a class
