"""High-dimensional Gaussian filtering on the permutohedral lattice, in plain torch.

Adams, Baek, Davis: Fast High-Dimensional Filtering Using the Permutohedral Lattice, Eurographics 2010. It approximates

    out_i = sum_j exp( -|f_i - f_j|^2 / 2 ) v_j        over points with features f and values v

in time linear in the number of points. Each point lies in one simplex of d + 1 lattice vertices. The filter *splats*
the values onto these vertices, *blurs* along each of the d + 1 lattice directions, and *slices*: it interpolates the
result at the points.

    out = slice (m -> p)  blur_d ... blur_0 (m -> m)  splat (p -> m)  v

The lattice is the set of integer points of the hyperplane (coordinate sum 0) in R^(d + 1) whose coordinates have the
same remainder modulo d + 1. A simplex has one vertex of each remainder 0..d.

Letters: b images, n points of one image, p points of all images, d features of a point, k values of a point,
m vertices in use.
"""

import warnings
from collections.abc import Sequence
from copy import copy

import torch
from jaxtyping import Float
from torch import Tensor


class PermutohedralLattice:
    """The lattice of some points: built once, then `filter` is used for any number of values on them.

    Splat, each direction of the blur, and slice are sparse matrices: on a CPU several times faster than gather and
    scatter, and deterministic.
    """

    def __init__(self, features: Float[Tensor, "b n d"], counts: Sequence[int] | None = None) -> None:
        """Build the lattice.

        Args:
            features: Positions in a space where the Gaussian has standard deviation 1 (for a bilateral
                filter: x and y over sigma_xy, red, green and blue over sigma_rgb). Images do not mix.
            counts: Number of points of each image, if images of several sizes follow each other in a single row
                (b is 1); by default each image has n.

        Raises:
            ValueError: The features span so many cells that vertex keys do not fit into 64 bits.
        """
        images, points, dimensions = features.shape
        self.dimensions = dimensions
        flat = features.float().reshape(-1, dimensions).T  # (d, p)
        if flat.device.type == "mps":  # torch has no sparse matrices there
            flat = flat.cpu()
        elevated = _elevate(flat)  # (d + 1, p)
        base, rank = _enclosing_simplex(elevated)
        weights = _barycentric(elevated, base, rank)  # (d + 1, p)
        keys, strides = _keys(base, rank, counts or [points] * images)  # (d + 1, p)
        # In the sorted keys, each run of equal keys is one vertex; the run lists the points that splat onto it.
        ordered, origin = keys.flatten().sort()
        first = torch.ones_like(ordered, dtype=torch.bool)
        torch.ne(ordered[1:], ordered[:-1], out=first[1:])
        starts = first.nonzero().flatten()
        unique = ordered[starts]
        vertex = torch.empty_like(origin).scatter_(
            0, origin, first.cumsum(0) - 1
        )  # vertex number of each corner of each point
        total = weights.shape[1]
        self.size = len(unique)  # vertices in use, m
        end = starts.new_full((1,), len(ordered))
        self.splat = _sparse(torch.cat([starts, end]), origin % total, weights.flatten()[origin], total)  # (m, p)
        corners = torch.arange(0, len(ordered) + 1, dimensions + 1, device=end.device)
        # The blur's kernels (0.5, 1, 0.5) sum to 2 along each direction; the division is that of the published filter.
        shares = weights.T.flatten() / (1 + 2.0**-dimensions)
        self.slice = _sparse(corners, vertex.view(weights.shape).T.flatten(), shares, self.size)  # (p, m)
        self.blurs = [_blur(unique, step) for step in _steps(strides)]  # each (m, m)

    def filter(self, values: Float[Tensor, "b n k"]) -> Float[Tensor, "b n k"]:
        """Apply the (unnormalised) Gaussian filter to values of the points."""
        flat = values.float().reshape(-1, values.shape[-1]).to(self.splat.device)  # (p, k)
        with torch.autocast(flat.device.type, enabled=False):  # sparse products do not support bf16
            table = self.splat @ flat  # (m, k)
            for blur in self.blurs:
                table = blur @ table
            sliced = self.slice @ table
        return sliced.reshape(values.shape).to(values.device)

    def normalised(self, weight: float) -> "PermutohedralLattice":
        """Return the filter weight * D^-1/2 K D^-1/2 that a CRF uses; K is this filter, D has the sums of its rows."""
        total = self.splat.shape[1]
        ones = torch.ones(1, total, 1, device=self.splat.device)
        norm = (self.filter(ones).flatten() + 1e-20).rsqrt()  # (p,)
        other = copy(self)
        columns = self.splat.col_indices()
        other.splat = _sparse(self.splat.crow_indices(), columns, self.splat.values() * norm[columns], total)
        shares = self.slice.values().view(total, -1) * (weight * norm)[:, None]
        other.slice = _sparse(self.slice.crow_indices(), self.slice.col_indices(), shares.flatten(), self.size)
        return other


def _sparse(starts: Tensor, columns: Tensor, values: Tensor, width: int) -> Tensor:
    """Build a sparse matrix whose row i has the entries starts[i] to starts[i + 1].

    Indices have 32 bits: MKL requires it, and there is half as much to read.
    """
    starts, columns = starts.int(), columns.int()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that compressed rows are in beta
        return torch.sparse_csr_tensor(starts, columns, values, (len(starts) - 1, width), check_invariants=False)


def _blur(unique: Tensor, step: int) -> Tensor:
    """Build one direction of the blur, (m, m): each vertex, plus half of each of its two neighbours that are in use."""
    count = len(unique)
    numbers = torch.arange(count, device=unique.device)
    place = torch.searchsorted(unique, unique + step).clamp_(max=count - 1)
    found = unique[place] == unique + step
    # A missing neighbour is the vertex itself with weight 0, so that all rows have three entries.
    after = torch.where(found, place, numbers)
    # The same pairs, from the other end. Pairs that were not found go into one extra entry, because removing them would
    # make a GPU report their number to the CPU.
    target = torch.where(found, place, count)
    before = torch.arange(count + 1, device=unique.device).scatter_(0, target, numbers)[:-1]
    columns = torch.stack([before, numbers, after], dim=1)
    values = torch.stack([0.5 * (before != numbers), torch.ones_like(found), 0.5 * (after != numbers)], dim=1)
    starts = torch.arange(0, 3 * count + 1, 3, device=unique.device)
    return _sparse(starts, columns.flatten(), values.flatten().float(), count)


def _elevate(features: Tensor) -> Tensor:
    """Map points of R^d, (d, n), onto the hyperplane of R^(d + 1) with coordinate sum zero, (d + 1, n)."""
    dimensions = features.shape[0]
    axis = torch.arange(1, dimensions + 1, dtype=torch.float64)  # on the CPU: Apple GPUs have no float64
    # The blur has variance 2/3 (d + 1)^2 on the lattice; this scale makes it 1 in feature space.
    scale = (dimensions + 1) * (2 / 3) ** 0.5 / (axis * (axis + 1)).sqrt()
    scaled = features * scale.to(features)[:, None]
    # Coordinate i is the sum of scaled features i, i + 1, ... minus i times scaled feature i - 1.
    tails = scaled.flip(0).cumsum(0).flip(0)  # tails[i] = scaled[i] + scaled[i + 1] + ...
    later = torch.cat([tails, torch.zeros_like(tails[:1])])
    own = torch.cat([torch.zeros_like(scaled[:1]), axis.to(features)[:, None] * scaled])
    return later - own


def _enclosing_simplex(elevated: Tensor) -> tuple[Tensor, Tensor]:
    """Find the simplex of each point: its vertex of remainder 0, and the rank of each coordinate's residual.

    Returns:
        Two int64 tensors of shape (d + 1, n); rank 0 has the largest residual.
    """
    count = elevated.shape[0]
    rounded = torch.round(elevated / count)
    base = (rounded * count).long()
    residual = elevated - rounded * count
    ranks = torch.zeros_like(base, dtype=torch.int8)  # small numbers: an eighth of the memory traffic
    for i in range(count):
        for j in range(i + 1, count):
            smaller = residual[i] < residual[j]
            ranks[i] += smaller
            ranks[j] += ~smaller
    # Rounding may leave the hyperplane by a few multiples of d + 1: as many coordinates move to their next multiple.
    rank = ranks.long() + rounded.sum(dim=0).long()
    below, above = rank < 0, rank >= count
    base += count * (below.long() - above.long())
    rank += count * (below.long() - above.long())
    return base, rank


def _barycentric(elevated: Tensor, base: Tensor, rank: Tensor) -> Tensor:
    """Compute the weights of the simplex's vertices for each point, by remainder: (d + 1, n), sum 1."""
    count = elevated.shape[0]
    residual = (elevated - base) / count
    by_rank = torch.empty_like(residual).scatter_(0, rank, residual)  # descending
    weights = by_rank.flip(0).diff(dim=0, prepend=by_rank[:1])
    weights[0] = 1 + by_rank[-1] - by_rank[0]
    return weights


def _keys(base: Tensor, rank: Tensor, counts: Sequence[int]) -> tuple[Tensor, list[int]]:
    """Give each vertex of each point's simplex an integer key.

    The key is linear in the coordinates, so a step along a lattice direction adds a constant. Vertex r of a simplex is
    the base plus r in each coordinate, minus d + 1 in the coordinates of the r highest ranks. The last coordinate is
    minus the sum of the others and does not enter the key.

    Args:
        base: Shape (d + 1, p).
        rank: Shape (d + 1, p).
        counts: Number of points of each image.

    Returns:
        Keys of shape (d + 1, p), and the stride of each coordinate in them.

    Raises:
        ValueError: The keys do not fit into 64 bits.
    """
    count = len(base)
    # Vertices reach d above and d + 1 below the base. A margin of one more blur step on both sides makes sure that a
    # neighbour outside the range does not have the key of another vertex.
    low = base[:-1].amin(dim=1) - 2 * count
    extents = (base[:-1].amax(dim=1) + 2 * count - low).tolist()
    strides, total = [], 1
    for extent in extents:
        strides.append(total)
        total *= extent
    if total * len(counts) >= 2**63:
        raise ValueError(
            "the bilateral filter's standard deviations are too small for these images: "
            f"{total * len(counts):.1e} lattice cells do not fit into 64 bits; use larger ones"
        )
    steps = torch.tensor([*strides, 0]).to(base.device, non_blocking=True)
    images = torch.arange(len(counts), device=base.device)
    sizes = torch.tensor(counts).to(base.device, non_blocking=True)
    image = images.repeat_interleave(sizes, output_size=base.shape[1])
    lowest = total * image + ((base[:-1] - low[:, None]) * steps[:-1, None]).sum(dim=0)  # (p,)
    by_rank = torch.empty_like(rank).scatter_(0, rank, steps[:, None].expand_as(rank))
    taken = by_rank.flip(0).cumsum(dim=0)[:-1]  # (d, p): sum of the strides of the 1, 2, ... highest ranks
    remainders = torch.arange(1, count, device=base.device)[:, None]
    keys = torch.cat([lowest[None], lowest + remainders * sum(strides) - count * taken])
    return keys, strides


def _steps(strides: list[int]) -> list[int]:
    """Compute by how much a step along each of the d + 1 directions changes a key (absolute value)."""
    count = len(strides) + 1
    return [abs(sum(strides) - count * stride) for stride in (*strides, 0)]


def bilateral_features(
    images: Float[Tensor, "b 3 h w"], *, sigma_xy: float, sigma_rgb: float
) -> Float[Tensor, "b n 5"]:
    """Compute the features of a bilateral Gaussian: x, y (pixels) and red, green, blue (0..255) over their sigmas."""
    position = spatial_features(images.shape[-2], images.shape[-1], sigma_xy, images.device)
    colour = images.float().flatten(2).transpose(1, 2) / sigma_rgb
    return torch.cat([position.expand(len(images), -1, -1), colour], dim=-1)


def spatial_features(height: int, width: int, sigma: float, device: torch.device) -> Float[Tensor, "1 n 2"]:
    """Compute the features of a spatial Gaussian: x and y in pixels over sigma."""
    y = torch.arange(height, device=device, dtype=torch.float32)[:, None].expand(height, width)
    x = torch.arange(width, device=device, dtype=torch.float32).expand(height, width)
    return torch.stack([x, y], dim=-1).reshape(1, height * width, 2) / sigma
