"""High-dimensional Gaussian filtering on the permutohedral lattice, in plain torch.

Adams, Baek, Davis: Fast High-Dimensional Filtering Using the Permutohedral Lattice, Eurographics 2010.
Every point lies in one simplex of d + 1 lattice vertices. A filter *splats* values onto these, *blurs* along
the d + 1 lattice directions, and *slices* the result back out at the points.

Letters: b images, n points of one image, d features of a point, k values of a point, m vertices in use.
"""

import torch
from jaxtyping import Float
from torch import Tensor


class PermutohedralLattice:
    """The lattice of some points, built once; `filter` then serves any number of values on them."""

    def __init__(self, features: Float[Tensor, "b n d"]) -> None:
        """Build the lattice.

        Args:
            features: Positions in a space where the Gaussian has standard deviation 1 (for a bilateral
                filter: x and y over sigma_xy, red, green and blue over sigma_rgb). Images do not mix.

        Raises:
            ValueError: The features span so many cells that vertex keys do not fit into 64 bits.
        """
        images, points, dimensions = features.shape
        self.shape = (images, points)
        self.dimensions = dimensions
        elevated = _elevate(features.float().reshape(-1, dimensions).T)  # (d + 1, b * n)
        base, rank = _enclosing_simplex(elevated)
        # Coordinates of a simplex's vertices: vertex r adds r to each, less d + 1 to the r lowest of them.
        # The last coordinate is minus the sum of the others and so does not enter the key.
        remainders = torch.arange(dimensions + 1, device=rank.device)[:, None, None]
        vertices = (
            base[:-1] + remainders - (dimensions + 1) * (rank[:-1] > dimensions - remainders)
        )  # (d + 1, d, b * n)
        self.weights = _barycentric(elevated, base, rank)  # (d + 1, b * n)
        keys, strides = _keys(vertices, images)
        unique, inverse = torch.unique(keys, return_inverse=True)  # unique is sorted
        self.vertices = inverse.reshape(dimensions + 1, -1)  # (d + 1, b * n), rows of the table of values
        self.neighbours = _neighbours(unique, strides)  # (d + 1, 2, m + 1), m where there is none

    @property
    def size(self) -> int:
        """Number of lattice vertices in use."""
        return int(self.neighbours.shape[-1]) - 1

    def filter(self, values: Float[Tensor, "b n k"]) -> Float[Tensor, "b n k"]:
        """Apply the (unnormalised) Gaussian filter to values of the points; linear in the values."""
        flat = values.float().reshape(-1, values.shape[-1])  # (b * n, k)
        table = flat.new_zeros(self.size + 1, flat.shape[1])  # the last row stays zero: 'no neighbour'
        for vertex, weight in zip(self.vertices, self.weights, strict=True):
            table.index_add_(0, vertex, flat * weight[:, None])
        for before, after in self.neighbours:
            table = table + 0.5 * (table[before] + table[after])
        sliced = torch.zeros_like(flat)
        for vertex, weight in zip(self.vertices, self.weights, strict=True):
            sliced += table[vertex] * weight[:, None]
        # The blur's kernels (0.5, 1, 0.5) sum to 2 along each direction; this is the usual normalisation.
        return (sliced / (1 + 2.0**-self.dimensions)).reshape(values.shape)


def _elevate(features: Tensor) -> Tensor:
    """Map points of R^d, (d, n), onto the hyperplane of R^(d + 1) with coordinate sum zero, (d + 1, n)."""
    dimensions = features.shape[0]
    axis = torch.arange(1, dimensions + 1, device=features.device, dtype=torch.float64)
    # A step of the blur has variance 2/3 (d + 1)^2 on the lattice: this scale makes it 1 in feature space.
    scale = (dimensions + 1) * (2 / 3) ** 0.5 / (axis * (axis + 1)).sqrt()
    scaled = features * scale.to(features)[:, None]
    # Coordinate i is the sum of the later features less i times its own.
    tails = scaled.flip(0).cumsum(0).flip(0)  # tails[i] = scaled[i] + scaled[i + 1] + ...
    later = torch.cat([tails, torch.zeros_like(tails[:1])])
    own = torch.cat([torch.zeros_like(scaled[:1]), axis.to(features)[:, None] * scaled])
    return later - own


def _enclosing_simplex(elevated: Tensor) -> tuple[Tensor, Tensor]:
    """Find each point's simplex: its vertex of remainder 0, and the rank of each coordinate's residual.

    Returns:
        Two int64 tensors of shape (d + 1, n); rank 0 has the largest residual.
    """
    count = elevated.shape[0]
    rounded = torch.round(elevated / count)
    base = (rounded * count).long()
    residual = elevated - rounded * count
    rank = torch.zeros_like(base)
    for i in range(count):
        for j in range(i + 1, count):
            smaller = residual[i] < residual[j]
            rank[i] += smaller
            rank[j] += ~smaller
    # Rounding may leave the plane; as many coordinates as it is off by step to their next multiple.
    rank += rounded.sum(dim=0).long()
    below, above = rank < 0, rank >= count
    base += count * (below.long() - above.long())
    rank += count * (below.long() - above.long())
    return base, rank


def _barycentric(elevated: Tensor, base: Tensor, rank: Tensor) -> Tensor:
    """Weights of the simplex's vertices for each point, by remainder; shape (d + 1, n), sum 1."""
    count = elevated.shape[0]
    residual = (elevated - base) / count
    by_rank = torch.empty_like(residual).scatter_(0, rank, residual)  # descending
    weights = by_rank.flip(0).diff(dim=0, prepend=by_rank[:1])
    weights[0] = 1 + by_rank[-1] - by_rank[0]
    return weights


def _keys(vertices: Tensor, images: int) -> tuple[Tensor, list[int]]:
    """Number the vertices: one integer each, linear in the coordinates, so that a step is a constant.

    Args:
        vertices: Coordinates, shape (d + 1, d, images * n).
        images: How many images the points belong to, in order.

    Returns:
        Keys of shape (d + 1, images * n), and each coordinate's stride in them.
    """
    dimensions, points = vertices.shape[1:]
    # A margin of a blur step on both sides, so that a neighbour out of range never meets another's key.
    low = vertices.amin(dim=(0, 2)) - (dimensions + 1)
    extents = (vertices.amax(dim=(0, 2)) + dimensions + 2 - low).tolist()
    strides, total = [], 1
    for extent in extents:
        strides.append(total)
        total *= extent
    if total * images >= 2**63:
        raise ValueError(
            "the bilateral filter's standard deviations are too small for these images: "
            f"{total * images:.1e} lattice cells do not fit into 64 bits; use larger ones"
        )
    steps = torch.tensor(strides, device=vertices.device)
    keys = ((vertices - low[:, None]) * steps[:, None]).sum(dim=1)
    image = torch.arange(images, device=keys.device).repeat_interleave(points // images)
    return keys + total * image, strides


def _neighbours(unique: Tensor, strides: list[int]) -> Tensor:
    """Find the two neighbours of each vertex along each of the d + 1 directions; shape (d + 1, 2, m + 1)."""
    missing = len(unique)
    directions = []
    for axis in range(len(strides) + 1):
        step = sum(strides) - ((len(strides) + 1) * strides[axis] if axis < len(strides) else 0)
        pair = []
        for sought in (unique - step, unique + step):
            found = torch.searchsorted(unique, sought).clamp_(max=missing - 1)
            found = torch.where(unique[found] == sought, found, missing)
            pair.append(torch.cat([found, found.new_tensor([missing])]))
        directions.append(torch.stack(pair))
    return torch.stack(directions)


def bilateral_features(
    images: Float[Tensor, "b 3 h w"], *, sigma_xy: float, sigma_rgb: float
) -> Float[Tensor, "b n 5"]:
    """Features of a bilateral Gaussian: x, y (pixels) and red, green, blue (0..255) over their sigmas."""
    position = spatial_features(images.shape[-2], images.shape[-1], sigma_xy, images.device)
    colour = images.float().flatten(2).transpose(1, 2) / sigma_rgb
    return torch.cat([position.expand(len(images), -1, -1), colour], dim=-1)


def spatial_features(height: int, width: int, sigma: float, device: torch.device) -> Float[Tensor, "1 n 2"]:
    """Features of a spatial Gaussian: x and y in pixels over sigma."""
    y = torch.arange(height, device=device, dtype=torch.float32)[:, None].expand(height, width)
    x = torch.arange(width, device=device, dtype=torch.float32).expand(height, width)
    return torch.stack([x, y], dim=-1).reshape(1, height * width, 2) / sigma
