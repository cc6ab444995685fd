"""Dense conditional random field: masks that follow the image's edges (METHOD section 8).

Krähenbühl, Koltun: Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials, NIPS 2011:
mean field with a Gaussian and a bilateral kernel, symmetric normalisation and Potts compatibility.

Letters: u alternative unaries of an image, l labels, h w pixels.
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
PIXELS_AT_A_TIME = 2**21  # of all images of a lattice together: about 2 GB with few labels (bench/RESULTS.md)
REMEMBERED_PIXELS = 2**20  # up to this many, the lattice of the Gaussian kernel is kept for the next images
MAPS_AT_A_TIME = 8  # that are filtered together on a CPU, so that the lattice's tables stay in its caches
IMPROBABLE = 3e-3  # labels whose highest probabilities sum to no more go as one
FEW_LABELS = 8  # up to here the lattice of this package is faster than pydensecrf on a CPU, too (bench/crf.md)


@dataclass(frozen=True, kw_only=True)
class CrfParameters:
    """Kernels of the CRF: sigmas in pixels and in 0..255 units of colour."""

    gaussian_xy: float
    gaussian_weight: float
    bilateral_xy: float
    bilateral_rgb: float
    bilateral_weight: float
    iterations: int = 10


FOR_PSEUDO_LABELS = CrfParameters(
    gaussian_xy=3.0, gaussian_weight=3.0, bilateral_xy=36.0, bilateral_rgb=3.0, bilateral_weight=4.0
)
FOR_SEGMENTATION = CrfParameters(
    gaussian_xy=1.0, gaussian_weight=1.0, bilateral_xy=121.0, bilateral_rgb=5.0, bilateral_weight=4.0
)


@runtime_checkable  # where the tests check types as they run
class DenseCrf(Protocol):
    """The CRF of some images, built once; serves any number of unaries."""

    def infer(self, probabilities: Sequence[Float[Tensor, "u l h w"]]) -> list[Float[Tensor, "u l h w"]]:
        """Sharpen class probabilities.

        Args:
            probabilities: For each image u alternatives, each over l labels; l may differ between images, u not.

        Returns:
            The same, sharpened; sums to 1 over the labels.
        """


class TorchCrf:
    """The CRF on the permutohedral lattice of this package, on any device; all images at a time."""

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
        # The Gaussian kernel depends on the images' sizes alone, and most come in a few.
        gaussian = gaussian_lattice if sum(self.counts) <= REMEMBERED_PIXELS else gaussian_lattice.__wrapped__
        self.kernels = [
            gaussian(tuple(self.sizes), parameters.gaussian_xy, parameters.gaussian_weight, images[0].device),
            PermutohedralLattice(torch.cat(bilateral)[None], self.counts).normalised(parameters.bilateral_weight),
        ]
        self.of_ones = self._filter(torch.ones(1, sum(self.counts), device=images[0].device))[0]

    def infer(self, probabilities: Sequence[Float[Tensor, "u _l _h _w"]]) -> list[Float[Tensor, "u _l _h _w"]]:
        """See DenseCrf."""
        labels = max(one.shape[1] for one in probabilities)
        # Labels first and pixels last: each operation then runs along memory.
        flat = [log_probabilities(one).transpose(0, 1).flatten(2) for one in probabilities]  # (l, u, h * w)
        unary = torch.cat([F.pad(one, (0, 0, 0, 0, 0, labels - len(one)), value=-torch.inf) for one in flat], dim=2)
        current = unary.softmax(dim=0)  # (l, u, n), n pixels of all images
        energy = torch.empty_like(unary)
        for _ in range(self.parameters.iterations):
            # Probabilities sum to 1 and the filter is linear, so the last label need not be filtered.
            filtered = self._filter(current[:-1].flatten(0, 1)).view_as(current[:-1])
            torch.add(unary[:-1], filtered, out=energy[:-1])
            torch.add(unary[-1], self.of_ones - filtered.sum(dim=0), out=energy[-1])
            current = energy.softmax(dim=0)
        return [
            one[: given.shape[1]].transpose(0, 1).reshape(given.shape)
            for one, given in zip(torch.split(current, self.counts, dim=2), probabilities, strict=True)
        ]

    def _filter(self, values: Float[Tensor, "k n"]) -> Float[Tensor, "k n"]:
        """Both kernels, weighted and normalised, together."""
        filtered = torch.empty_like(values)
        some = MAPS_AT_A_TIME if values.device.type == "cpu" else len(values)
        for given, result in zip(torch.split(values, some), torch.split(filtered, some), strict=True):
            columns = given.T.contiguous()[None]  # (1, n, k)
            first, second = (kernel.filter(columns)[0] for kernel in self.kernels)
            torch.add(first.T, second.T, out=result)
        return filtered


@lru_cache(maxsize=4)
def gaussian_lattice(
    sizes: tuple[tuple[int, int], ...], sigma: float, weight: float, device: torch.device
) -> PermutohedralLattice:
    """The normalised lattice of a Gaussian kernel over images of these heights and widths."""
    features = [spatial_features(height, width, sigma, device)[0] for height, width in sizes]
    counts = [height * width for height, width in sizes]
    return PermutohedralLattice(torch.cat(features)[None], counts).normalised(weight)


class PyDenseCrf:
    """The same CRF by the pydensecrf extension, on the CPU, one image after another."""

    def __init__(self, images: Sequence[UInt8[Tensor, "3 _h _w"]], parameters: CrfParameters) -> None:
        """Keep the images: the extension wants the number of labels before it builds its lattices."""
        self.parameters = parameters
        # The extension refuses read-only and non-contiguous arrays.
        self.images = [np.array(image.permute(1, 2, 0).cpu().numpy(), order="C") for image in images]

    def infer(self, probabilities: Sequence[Float[Tensor, "u _l _h _w"]]) -> list[Float[Tensor, "u _l _h _w"]]:
        """See DenseCrf."""
        return [self._infer(image, given) for image, given in zip(self.images, probabilities, strict=True)]

    def _infer(self, image: NDArray[np.uint8], probabilities: Tensor) -> Tensor:
        crf = self._build(image, probabilities.shape[1])
        energies = -log_probabilities(probabilities).flatten(2).cpu()
        results = []
        for energy in energies:  # one lattice serves all alternatives
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
    """Logarithm that stays finite where a probability is zero."""
    return _above_zero(probabilities).log()


def _above_zero(probabilities: Tensor) -> Tensor:
    return probabilities.float().clamp_min(1e-5)


class Merged(NamedTuple):
    """Class probabilities of an image with the improbable labels as one, the last.

    The published CRF filters all labels. A label's message is about the kernels' weights, 7 at most, times its own
    probability, so that here it changes an improbable label by a factor of e^(7 * IMPROBABLE), 2 %, of less than
    IMPROBABLE. The iterations pass that on to the others, measured to 4e-6 for a network's probabilities; a test holds
    it to 3e-4.
    """

    probabilities: Float[Tensor, "u k h w"]
    order: list[int]  # the labels: the k - 1 that stay, then the r that the last stands for; empty if nothing is merged
    shares: Float[Tensor, "u r h w"]  # of each of these in it

    @staticmethod
    def of(probabilities: Float[Tensor, "u l h w"]) -> "Merged":
        """Merge the least probable labels, as many as have highest probabilities that sum to IMPROBABLE at most.

        Args:
            probabilities: Sum to 1 over the labels.
        """
        highest = probabilities.amax(dim=(0, 2, 3)).tolist()
        order = sorted(range(len(highest)), key=highest.__getitem__, reverse=True)
        merged = sum(total <= IMPROBABLE for total in accumulate(highest[label] for label in order[:0:-1]))
        if merged < 2:
            return Merged(probabilities, [], probabilities[:, :0])
        rest = _above_zero(probabilities[:, order[-merged:]])
        total = rest.sum(dim=1, keepdim=True)
        return Merged(torch.cat([probabilities[:, order[:-merged]], total], dim=1), order, rest / total)

    def split(self, result: Float[Tensor, "u k h w"]) -> Float[Tensor, "u l h w"]:
        """All labels again, from the CRF's result."""
        if not self.order:
            return result
        whole = torch.cat([result[:, :-1], result[:, -1:] * self.shares], dim=1)
        return whole[:, sorted(range(len(self.order)), key=self.order.__getitem__)]


def dense_crf(
    images: Sequence[UInt8[Tensor, "3 _h _w"]],
    parameters: CrfParameters,
    backend: CrfBackend = "auto",
    *,
    labels: int = 2,
) -> DenseCrf:
    """Build the CRF of some images, all on one device; their results are the same, whoever computes them.

    Args:
        images: The images.
        parameters: The kernels.
        backend: auto is pydensecrf for many labels on a CPU, where it is installed; else torch.
        labels: The most that an image has, which only matters for auto.

    Raises:
        ValueError: pydensecrf was asked for and is not installed.
    """
    installed = importlib.util.find_spec("pydensecrf") is not None
    slower = labels > FEW_LABELS and images[0].device.type == "cpu"
    if backend == "torch" or (backend == "auto" and not (installed and slower)):
        return TorchCrf(images, parameters)
    if not installed:
        raise ValueError(
            "--crf-backend pydensecrf needs the package 'pydensecrf2', which is not installed: "
            "run 'uv sync --extra crf' (a C++ compiler is needed), or use --crf-backend torch"
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
        probabilities: As DenseCrf takes them.
        parameters: Of the CRF at full resolution.
        backend: Who computes it.
        fast: At half the resolution, a quarter of the pixels; resized back.
    """
    results = []
    for chunk in _chunks([image.shape[-2] * image.shape[-1] for image in images]):
        results += _sharpen(images[chunk], probabilities[chunk], parameters, backend, fast)
    return results


def _chunks(sizes: Sequence[int]) -> Iterator[slice]:
    """Cut a list of images, of so many pixels each, into parts whose lattices fit into memory together."""
    first, total = 0, 0
    for place, size in enumerate(sizes):
        if place > first and total + size > PIXELS_AT_A_TIME:
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
    given = [one.probabilities for one in merged]
    labels = max(one.shape[1] for one in given)
    if not fast:
        results = dense_crf(images, parameters, backend, labels=labels).infer(given)
        return [one.split(result) for one, result in zip(merged, results, strict=True)]
    sizes = [(image.shape[-2], image.shape[-1]) for image in images]
    halves = [(max(1, height // 2), max(1, width // 2)) for height, width in sizes]
    small = dense_crf(
        [
            F.interpolate(image[None].float(), size=half, mode="bilinear", antialias=True)[0].round().byte()
            for image, half in zip(images, halves, strict=True)
        ],
        replace(parameters, gaussian_xy=parameters.gaussian_xy / 2, bilateral_xy=parameters.bilateral_xy / 2),
        backend,
        labels=labels,
    )
    results = small.infer([_resized(one, half) for one, half in zip(given, halves, strict=True)])
    return [one.split(_resized(result, size)) for one, result, size in zip(merged, results, sizes, strict=True)]


def _resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(maps.float(), size=size, mode="bilinear", align_corners=False)
