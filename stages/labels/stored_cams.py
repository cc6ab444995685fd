"""Read the CAMs of cams.h5 at the size that is needed.

cams.h5 holds CAMs at the size of the network's input, rounded to float16. `toco make-labels` makes masks from the
rounded maps, so that masks made again from stored CAMs are the same.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from stages.labels.pixel_labels import at_image_size
from stages.labels.store import LabelFile
from stages.toco.cam import labels_at, to_class_numbers
from stages.toco.refine import with_background


def read_cam(cams: LabelFile, image_id: str, size: tuple[int, int] | None = None) -> Float[Tensor, "k h w"]:
    """Read the CAM of one image, resized bilinearly.

    Args:
        cams: The group 'cams' of cams.h5.
        image_id: The image.
        size: Height and width of the result; by default the image's size.

    Returns:
        Scores of the image's k classes, 0..1, float32. Like the scores that masks are made from, they are rounded to
        float16 after resizing.

    Raises:
        KeyError: The image is not in the file.
        OSError: The image's data are damaged.
    """
    return at_image_size(torch.from_numpy(cams.read(image_id)), size or cams.image_size(image_id)).float()


def stored_label(
    cams: LabelFile, image_id: str, threshold: float | None, size: tuple[int, int] | None = None
) -> Int[Tensor, "h w"]:
    """Label an image from its stored scores, with the data set's class numbers.

    Args:
        cams: The group 'cams' of cams.h5.
        image_id: The image.
        threshold: Background threshold; None for scores of the decoder. They are probabilities; the background has 1
            minus their sum.
        size: Height and width of the label; by default the image's size.
    """
    scores = read_cam(cams, image_id, size)
    label = with_background(scores)[0].argmax(dim=0) if threshold is None else labels_at(scores, threshold)
    return to_class_numbers(label, cams.classes(image_id))
