"""Over-smoothing: how much alike a Vision Transformer makes all patch tokens, block by block (METHOD section 4)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def mean_absolute_cosine(tokens: Float[Tensor, "b d h w"]) -> Float[Tensor, " b"]:
    """Mean |cosine similarity| between two different patch tokens of an image: 1 where all point one way.

    Raises:
        ValueError: There is but one token.
    """
    vectors = F.normalize(tokens.float().flatten(2), dim=1)  # (b, d, n)
    count = vectors.shape[-1]
    if count < 2:
        raise ValueError("one token has no other to be compared with")
    cosines = torch.einsum("bdn,bdm->bnm", vectors, vectors).abs()
    return (cosines.sum(dim=(1, 2)) - cosines.diagonal(dim1=1, dim2=2).sum(dim=1)) / (count * (count - 1))
