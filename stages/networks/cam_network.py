"""The interface that a CAM network must have, so that another method can take ToCo's place.

ToCo's network is one `CamNetwork`. Another method provides a network with these names and a training step of its own;
label making, evaluation and reports then work unchanged. A network with one classifier returns its
output for both.
"""

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from stages.toco.cam import Cams
from stages.toco.model import Outputs


@runtime_checkable  # the tests check types at run time
class Encoder(Protocol):
    """The input format of a network."""

    @property
    def patch_size(self) -> int:
        """Pixels per side of a token; sides of input images are multiples of it."""

    def normalise(self, images: Float[Tensor, "b bands h w"]) -> Float[Tensor, "b bands h w"]:
        """Turn red, green, blue in 0..255, or other bands in this range, into the network's input."""


@runtime_checkable
class CamNetwork(Protocol):
    """A network with image-level classifiers and a decoder; all its maps are on the token grid."""

    @property
    def num_classes(self) -> int:
        """Number of foreground classes."""

    @property
    def backbone(self) -> Encoder:
        """The encoder."""

    def __call__(self, images: Float[Tensor, "b bands h w"], *, decode: bool = True) -> Outputs:
        """Compute all outputs for normalised images; `seg_logits` is None without `decode`."""

    def raw_cams(self, images: Float[Tensor, "b bands h w"]) -> Cams:
        """Compute only the raw CAMs of normalised images."""
