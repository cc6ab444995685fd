"""Dense conditional random field: masks that follow the image's edges (METHOD section 8).

Krähenbühl, Koltun: Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials, NIPS 2011:
mean field with a Gaussian and a bilateral kernel, symmetric normalisation and Potts compatibility.

Letters: l labels, k present classes, h w pixels.
"""

import importlib.util
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from stages.toco.lattice import PermutohedralLattice, bilateral_features, spatial_features
from stages.toco.par import combine_labels

Backend = Literal["auto", "torch", "pydensecrf"]


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
    """The CRF of one image, built once; serves any number of unaries of one label count."""

    def infer(self, probabilities: Float[Tensor, "l h w"]) -> Float[Tensor, "l h w"]:
        """Sharpen class probabilities; the result sums to 1 over the labels."""


class TorchCrf:
    """The CRF on the permutohedral lattice of this package, on any device."""

    def __init__(self, image: UInt8[Tensor, "3 h w"], parameters: CrfParameters) -> None:
        """Build the lattices of both kernels."""
        self.parameters = parameters
        height, width = image.shape[-2:]
        spatial = PermutohedralLattice(spatial_features(height, width, parameters.gaussian_xy, image.device))
        bilateral = PermutohedralLattice(
            bilateral_features(
                image[None].float(), sigma_xy=parameters.bilateral_xy, sigma_rgb=parameters.bilateral_rgb
            )
        )
        ones = torch.ones(1, height * width, 1, device=image.device)
        self.kernels = [
            (weight, lattice, (lattice.filter(ones) + 1e-20).rsqrt())
            for weight, lattice in (
                (parameters.gaussian_weight, spatial),
                (parameters.bilateral_weight, bilateral),
            )
        ]

    def infer(self, probabilities: Float[Tensor, "l h w"]) -> Float[Tensor, "l h w"]:
        """See DenseCrf."""
        unary = log_probabilities(probabilities).flatten(1).T[None]  # (1, n, l)
        current = unary.softmax(dim=-1)
        for _ in range(self.parameters.iterations):
            energy = unary
            for weight, lattice, norm in self.kernels:
                energy = energy + weight * norm * lattice.filter(norm * current)
            current = energy.softmax(dim=-1)
        return current[0].T.reshape(probabilities.shape)


class PyDenseCrf:
    """The same CRF by the pydensecrf extension, on the CPU."""

    def __init__(self, image: UInt8[Tensor, "3 h w"], parameters: CrfParameters) -> None:
        """Keep the image: the extension wants the number of labels before it builds its lattices."""
        self.parameters = parameters
        # The extension refuses read-only and non-contiguous arrays.
        self.image = np.array(image.permute(1, 2, 0).cpu().numpy(), order="C")
        self.crf: Any = None
        self.labels = 0

    def infer(self, probabilities: Float[Tensor, "l h w"]) -> Float[Tensor, "l h w"]:
        """See DenseCrf."""
        labels, height, width = probabilities.shape
        if self.crf is None or labels != self.labels:
            self.crf, self.labels = self._build(labels), labels
        energy = -log_probabilities(probabilities).flatten(1).cpu().numpy()
        self.crf.setUnaryEnergy(np.ascontiguousarray(energy, dtype=np.float32))
        result = np.array(self.crf.inference(self.parameters.iterations), dtype=np.float32)
        return torch.from_numpy(result).reshape(labels, height, width).to(probabilities.device)

    def _build(self, labels: int) -> Any:
        from pydensecrf.densecrf import DenseCRF2D

        height, width = self.image.shape[:2]
        crf = DenseCRF2D(width, height, labels)
        crf.addPairwiseGaussian(sxy=self.parameters.gaussian_xy, compat=self.parameters.gaussian_weight)
        crf.addPairwiseBilateral(
            sxy=self.parameters.bilateral_xy,
            srgb=self.parameters.bilateral_rgb,
            rgbim=self.image,
            compat=self.parameters.bilateral_weight,
        )
        return crf


def log_probabilities(probabilities: Tensor) -> Tensor:
    """Logarithm that stays finite where a probability is zero."""
    return probabilities.float().clamp_min(1e-5).log()


def dense_crf(image: UInt8[Tensor, "3 h w"], parameters: CrfParameters, backend: Backend = "auto") -> DenseCrf:
    """Build the CRF of an image: by torch on a GPU, by pydensecrf on a CPU that has it, else by torch.

    Raises:
        ValueError: pydensecrf was asked for and is not installed.
    """
    installed = importlib.util.find_spec("pydensecrf") is not None
    if backend == "pydensecrf" and not installed:
        raise ValueError(
            "--crf-backend pydensecrf needs the package 'pydensecrf2', which is not installed: "
            "run 'uv sync --extra crf' (a C++ compiler is needed), or use --crf-backend torch"
        )
    if backend == "pydensecrf" or (backend == "auto" and installed and image.device.type == "cpu"):
        return PyDenseCrf(image, parameters)
    return TorchCrf(image, parameters)


def refine_with_crf(
    cam: Float[Tensor, "k h w"],
    image: UInt8[Tensor, "3 h w"],
    *,
    high: float = 0.7,
    low: float = 0.25,
    parameters: CrfParameters = FOR_PSEUDO_LABELS,
    backend: Backend = "auto",
) -> Int[Tensor, "h w"]:
    """Make pseudo labels from the CAMs of the classes an image has: CRF against a high and a low background.

    Returns:
        0 background, 1..k the given classes in order, 255 where the two disagree on background.
    """
    crf = dense_crf(image, parameters, backend)
    labels = []
    for background in (high, low):
        plane = cam.new_full((1, *cam.shape[1:]), background)
        labels.append(crf.infer(torch.cat([plane, cam]).softmax(dim=0)).argmax(dim=0))
    return combine_labels(labels[0], labels[1])
