"""Dense conditional random field (CRF): moves the edges of masks to the edges of the image (METHOD section 8).

Krähenbühl, Koltun: Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials, NIPS 2011: mean field
with a Gaussian and a bilateral kernel, symmetric normalisation and Potts compatibility. With unary U = log P of the
given probabilities P, each iteration is, for all pixels and labels at once,

    Q <- softmax over labels of ( U + sum over both kernels of  weight * D^-1/2 K D^-1/2 Q ),    D = row sums of K

    Gaussian kernel     K_ij = exp( -|x_i - x_j|^2 / (2 sxy^2) )
    bilateral kernel    K_ij = exp( -|x_i - x_j|^2 / (2 sxy^2) - |I_i - I_j|^2 / (2 srgb^2) )

Letters: u alternative unaries of an image, l labels, h w pixels, n pixels of all images together, k maps that are
filtered together. In `Merged`, k labels remain and r are merged.
"""

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from stages.toco.lattice import PermutohedralLattice, bilateral_features, spatial_features

CrfBackend = Literal["auto", "torch", "pydensecrf"]
LATTICE_PIXELS = 2**21  # of all images in one lattice: about 2 GB with few labels (bench/RESULTS.md)
CACHED_PIXELS = 2**20  # up to this many, the lattice of the Gaussian kernel is cached for later images
MAPS_PER_FILTER = 8  # filtered together on a CPU, so that the lattice's tables stay in its caches
IMPROBABLE = 3e-3  # labels whose highest probabilities sum to at most this are merged
FEW_LABELS = 8  # up to this many, TorchCrf is faster than pydensecrf also on a CPU (bench/crf.md)


@dataclass(frozen=True, kw_only=True)
class CrfParameters:
    """Kernels of the CRF: sigmas in pixels and in 0..255 units of colour."""

    gaussian_xy: float
    gaussian_weight: float
    bilateral_xy: float
    bilateral_rgb: float
    bilateral_weight: float
    iterations: int = 10


# Both from section 8.
FOR_PSEUDO_LABELS = CrfParameters(
    gaussian_xy=3.0, gaussian_weight=3.0, bilateral_xy=36.0, bilateral_rgb=3.0, bilateral_weight=4.0
)
FOR_SEGMENTATION = CrfParameters(
    gaussian_xy=1.0, gaussian_weight=1.0, bilateral_xy=121.0, bilateral_rgb=5.0, bilateral_weight=4.0
)


@runtime_checkable  # the tests check types at run time
class DenseCrf(Protocol):
    """The CRF of some images: built once, used for any number of unaries."""

    def infer(self, probabilities: Sequence[Float[Tensor, "u l h w"]]) -> list[Float[Tensor, "u l h w"]]:
        """Sharpen class probabilities.

        Args:
            probabilities: For each image u alternatives, each over l labels. l may differ between images, u may not.

        Returns:
            Probabilities of the same shapes that follow the edges of the image; they sum to 1 over the labels.
        """


class TorchCrf:
    """The CRF on the permutohedral lattice of this package, on any device; all images together."""

    def __init__(self, images: Sequence[UInt8[Tensor, "3 _h _w"]], parameters: CrfParameters) -> None:
        """Build the lattices of both kernels."""
        self.parameters = parameters
        self.sizes = [(image.shape[-2], image.shape[-1]) for image in images]
        self.counts = [height * width for height, width in self.sizes]
        bilateral = [
            bilateral_features(
                image[None].float(), sigma_xy=parameters.bilateral_xy, sigma_rgb=parameters.bilateral_rgb
            )[0]
            for image in images
        ]
        # The Gaussian kernel depends only on the sizes of the images, and most data sets have few sizes.
        gaussian = gaussian_lattice if sum(self.counts) <= CACHED_PIXELS else gaussian_lattice.__wrapped__
        self.kernels = [
            gaussian(tuple(self.sizes), parameters.gaussian_xy, parameters.gaussian_weight, images[0].device),
            PermutohedralLattice(torch.cat(bilateral)[None], self.counts).normalised(parameters.bilateral_weight),
        ]
        self.of_ones = self._filter(torch.ones(1, sum(self.counts), device=images[0].device))[0]

    def infer(self, probabilities: Sequence[Float[Tensor, "u _l _h _w"]]) -> list[Float[Tensor, "u _l _h _w"]]:
        """See DenseCrf."""
        labels = max(one.shape[1] for one in probabilities)
        # Labels first and pixels last, so that each operation runs along memory. Images with fewer labels are padded
        # with labels of probability 0.
        flat = [log_probabilities(one).transpose(0, 1).flatten(2) for one in probabilities]  # (l, u, h * w)
        unary = torch.cat([F.pad(one, (0, 0, 0, 0, 0, labels - len(one)), value=-torch.inf) for one in flat], dim=2)
        current = unary.softmax(dim=0)  # (l, u, n), n pixels of all images
        energy = torch.empty_like(unary)
        for _ in range(self.parameters.iterations):
            # Probabilities sum to 1 and the filter is linear, so the last label needs no filtering:
            #     filter(Q_last) = filter(1) - sum over the other labels of filter(Q)
            filtered = self._filter(current[:-1].flatten(0, 1)).view_as(current[:-1])
            torch.add(unary[:-1], filtered, out=energy[:-1])
            torch.add(unary[-1], self.of_ones - filtered.sum(dim=0), out=energy[-1])
            current = energy.softmax(dim=0)
        return [
            one[: original.shape[1]].transpose(0, 1).reshape(original.shape)
            for one, original in zip(torch.split(current, self.counts, dim=2), probabilities, strict=True)
        ]

    def _filter(self, values: Float[Tensor, "k n"]) -> Float[Tensor, "k n"]:
        """Filter maps with both kernels, weighted and normalised, and add the results."""
        filtered = torch.empty_like(values)
        size = MAPS_PER_FILTER if values.device.type == "cpu" else len(values)
        for maps, result in zip(torch.split(values, size), torch.split(filtered, size), strict=True):
            columns = maps.T.contiguous()[None]  # (1, n, k)
            first, second = (kernel.filter(columns)[0] for kernel in self.kernels)
            torch.add(first.T, second.T, out=result)
        return filtered


@lru_cache(maxsize=4)
def gaussian_lattice(
    sizes: tuple[tuple[int, int], ...], sigma: float, weight: float, device: torch.device
) -> PermutohedralLattice:
    """Build the normalised lattice of a Gaussian kernel over images of these heights and widths."""
    features = [spatial_features(height, width, sigma, device)[0] for height, width in sizes]
    counts = [height * width for height, width in sizes]
    return PermutohedralLattice(torch.cat(features)[None], counts).normalised(weight)


class PyDenseCrf:
    """The same CRF computed by the pydensecrf extension, on the CPU, one image after another."""

    def __init__(self, images: Sequence[UInt8[Tensor, "3 _h _w"]], parameters: CrfParameters) -> None:
        """Keep the images; the extension needs the number of labels before it can build its lattices."""
        self.parameters = parameters
        # The extension refuses read-only and non-contiguous arrays.
        self.images = [np.array(image.permute(1, 2, 0).cpu().numpy(), order="C") for image in images]

    def infer(self, probabilities: Sequence[Float[Tensor, "u _l _h _w"]]) -> list[Float[Tensor, "u _l _h _w"]]:
        """See DenseCrf."""
        return [self._infer(image, unaries) for image, unaries in zip(self.images, probabilities, strict=True)]

    def _infer(self, image: NDArray[np.uint8], probabilities: Tensor) -> Tensor:
        crf = self._build(image, probabilities.shape[1])
        energies = -log_probabilities(probabilities).flatten(2).cpu()
        results = []
        for energy in energies:  # the lattices are the same for all alternatives
            crf.setUnaryEnergy(np.ascontiguousarray(energy.numpy(), dtype=np.float32))
            results.append(np.array(crf.inference(self.parameters.iterations), dtype=np.float32))
        return torch.from_numpy(np.stack(results)).reshape(probabilities.shape).to(probabilities.device)

    def _build(self, image: NDArray[np.uint8], labels: int) -> Any:
        from pydensecrf.densecrf import DenseCRF2D

        height, width = image.shape[:2]
        crf = DenseCRF2D(width, height, labels)
        crf.addPairwiseGaussian(sxy=self.parameters.gaussian_xy, compat=self.parameters.gaussian_weight)
        crf.addPairwiseBilateral(
            sxy=self.parameters.bilateral_xy,
            srgb=self.parameters.bilateral_rgb,
            rgbim=image,
            compat=self.parameters.bilateral_weight,
        )
        return crf


def log_probabilities(probabilities: Tensor) -> Tensor:
    """Take the logarithm, with probabilities below 1e-5 raised to it, so that it stays finite."""
    return _above_zero(probabilities).log()


def _above_zero(probabilities: Tensor) -> Tensor:
    return probabilities.float().clamp_min(1e-5)


class Merged(NamedTuple):
    """Class probabilities of an image in which the improbable labels are merged into one, the last.

    The published program's CRF filters all labels; here improbable ones are filtered as one, because the time grows
    with the number of labels. The error is small: a label's message is at most the sum of the kernels' weights (7)
    times its own probability. That changes an improbable label by a factor of at most e^(7 * IMPROBABLE), which is 2 %
    of a value below IMPROBABLE. The effect on the other labels, measured on a network's probabilities, is 4e-6; a test
    bounds it by 3e-4.
    """

    probabilities: Float[Tensor, "u k h w"]
    order: list[int]  # label numbers: the k - 1 that remain, then the r that are merged; empty if none are
    shares: Float[Tensor, "u r h w"]  # fraction of each merged label in the last plane

    @staticmethod
    def of(probabilities: Float[Tensor, "u l h w"]) -> "Merged":
        """Merge the least probable labels: as many as possible while their highest probabilities sum to <= IMPROBABLE.

        Args:
            probabilities: They sum to 1 over the labels.
        """
        highest = probabilities.amax(dim=(0, 2, 3)).tolist()
        order = sorted(range(len(highest)), key=highest.__getitem__, reverse=True)
        # From the least probable label up; order[0], the most probable one, is never merged.
        merged = sum(total <= IMPROBABLE for total in accumulate(highest[label] for label in order[:0:-1]))
        if merged < 2:
            return Merged(probabilities, [], probabilities[:, :0])
        improbable = _above_zero(probabilities[:, order[-merged:]])  # (u, r, h, w)
        total = improbable.sum(dim=1, keepdim=True)
        return Merged(torch.cat([probabilities[:, order[:-merged]], total], dim=1), order, improbable / total)

    def split(self, result: Float[Tensor, "u k h w"]) -> Float[Tensor, "u l h w"]:
        """Split the merged label of the CRF's result by its shares, and restore the order of the labels."""
        if not self.order:
            return result
        ordered = torch.cat([result[:, :-1], result[:, -1:] * self.shares], dim=1)
        return ordered[:, sorted(range(len(self.order)), key=self.order.__getitem__)]  # the inverse permutation


def dense_crf(
    images: Sequence[UInt8[Tensor, "3 _h _w"]],
    parameters: CrfParameters,
    backend: CrfBackend = "auto",
    *,
    labels: int = 2,
) -> DenseCrf:
    """Build the CRF of some images, all on one device; the backends compute the same CRF.

    Args:
        images: The images.
        parameters: The kernels.
        backend: 'auto' takes pydensecrf for many labels on a CPU, if it is installed; else torch.
        labels: The largest number of labels of one image; only 'auto' uses it.

    Raises:
        ValueError: The backend is pydensecrf, which is not installed.
    """
    installed = importlib.util.find_spec("pydensecrf") is not None
    slower = labels > FEW_LABELS and images[0].device.type == "cpu"
    if backend == "torch" or (backend == "auto" and not (installed and slower)):
        return TorchCrf(images, parameters)
    if not installed:
        raise ValueError(
            "--crf-backend pydensecrf needs the package 'pydensecrf2', which is not installed: "
            "install the package 'pydensecrf2' (needs a C++ compiler), or use --crf-backend torch"
        )
    return PyDenseCrf(images, parameters)


def sharpen(
    images: Sequence[UInt8[Tensor, "3 _h _w"]],
    probabilities: Sequence[Float[Tensor, "u _l _h _w"]],
    parameters: CrfParameters,
    backend: CrfBackend = "auto",
    *,
    fast: bool = False,
) -> list[Float[Tensor, "u _l _h _w"]]:
    """Sharpen class probabilities of images by their CRF.

    Args:
        images: All on one device.
        probabilities: See DenseCrf.infer.
        parameters: Those of the CRF at full resolution.
        backend: See dense_crf.
        fast: Run the CRF at half the resolution, on a quarter of the pixels, and resize the result.
    """
    results = []
    for chunk in _chunks([image.shape[-2] * image.shape[-1] for image in images]):
        results += _sharpen(images[chunk], probabilities[chunk], parameters, backend, fast)
    return results


def _chunks(sizes: Sequence[int]) -> Iterator[slice]:
    """Cut a list of images, given their numbers of pixels, into parts of at most LATTICE_PIXELS."""
    first, total = 0, 0
    for place, size in enumerate(sizes):
        if place > first and total + size > LATTICE_PIXELS:
            yield slice(first, place)
            first, total = place, 0
        total += size
    yield slice(first, len(sizes))


def _sharpen(
    images: Sequence[Tensor],
    probabilities: Sequence[Tensor],
    parameters: CrfParameters,
    backend: CrfBackend,
    fast: bool,
) -> list[Tensor]:
    merged = [Merged.of(one) for one in probabilities]
    unaries = [one.probabilities for one in merged]
    labels = max(one.shape[1] for one in unaries)
    if not fast:
        results = dense_crf(images, parameters, backend, labels=labels).infer(unaries)
        return [one.split(result) for one, result in zip(merged, results, strict=True)]
    sizes = [(image.shape[-2], image.shape[-1]) for image in images]
    halves = [(max(1, height // 2), max(1, width // 2)) for height, width in sizes]
    # Sigmas in pixels shrink with the image; colours keep theirs.
    small = dense_crf(
        [
            F.interpolate(image[None].float(), size=half, mode="bilinear", antialias=True)[0].round().byte()
            for image, half in zip(images, halves, strict=True)
        ],
        replace(parameters, gaussian_xy=parameters.gaussian_xy / 2, bilateral_xy=parameters.bilateral_xy / 2),
        backend,
        labels=labels,
    )
    results = small.infer([_resized(one, half) for one, half in zip(unaries, halves, strict=True)])
    return [one.split(_resized(result, size)) for one, result, size in zip(merged, results, sizes, strict=True)]


def _resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(maps.float(), size=size, mode="bilinear", align_corners=False)
