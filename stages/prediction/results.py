"""Write the results of one image; which files there are, see `stages.prediction.output_folder`."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from data.atomic_write import atomic_write
from data.palette import overlay, palette_image
from stages.networks.inference import resize_maps
from stages.networks.segmenter import Segmentation
from stages.tiling.rasters import write_placed_mask


def write_results(
    files: Mapping[str, Path], picture: Image.Image, result: Segmentation, class_names: Sequence[str], image: Path
) -> None:
    """Write the results of an image, each with an atomic write.

    Args:
        files: The file for each kind of result.
        picture: The image, RGB.
        result: Its labels, and its probabilities if they are written.
        class_names: Names of the classes 1..C for the legend of the overlay.
        image: The file of the image, which tells its coordinates.
    """
    mask = result.label.numpy()
    for kind, file in files.items():
        with atomic_write(file) as temporary:
            if kind == "masks":
                palette_image(mask).save(temporary, format="PNG")
            elif kind == "overlays":
                overlay(picture, mask, legend=class_names).save(temporary, format="PNG")
            elif kind == "numpy":
                with temporary.open("wb") as opened:
                    np.save(opened, mask)
            elif kind == "geotiff":
                write_placed_mask(temporary, mask, image, class_names)
            elif result.probabilities is not None:  # None only with --window, which excludes probabilities
                _save_probabilities(temporary, result.probabilities, mask.shape)


def _save_probabilities(path: Path, probabilities: Float[Tensor, "classes _h _w"], size: tuple[int, ...]) -> None:
    """Resize probabilities to (h, w) and save them, class by class, because all together may not fit into memory."""
    shape = (len(probabilities), *size)
    with path.open("wb") as opened:
        np.lib.format.write_array_header_1_0(opened, {"descr": "<f2", "fortran_order": False, "shape": shape})
        for plane in probabilities:
            resized = resize_maps(plane[None], (size[0], size[1]))[0]
            opened.write(resized.half().cpu().numpy().astype("<f2", copy=False).tobytes())
