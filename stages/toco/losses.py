"""The losses on class labels, patch tokens, class tokens and pseudo labels (METHOD sections 1, 4, 5, 6).

Letters: b images, c foreground classes, d embedding width, h w token or pixel grid, n = h * w tokens.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from stages.toco.cam import IGNORE_INDEX
from stages.toco.processes import SINGLE_PROCESS, Processes


def classification_loss(class_logits: Float[Tensor, "b c"], class_labels: Float[Tensor, "b c"]) -> Float[Tensor, ""]:
    """Multi-label soft margin loss of an image-level classifier (section 1)."""
    return F.multilabel_soft_margin_loss(class_logits, class_labels)


def patch_token_contrast(
    patch_tokens: Float[Tensor, "b d h w"],
    token_labels: Int[Tensor, "b h w"],
    ignore_index: int = IGNORE_INDEX,
    processes: Processes = SINGLE_PROCESS,
) -> Float[Tensor, ""]:
    """Pull tokens of one label together and push tokens of two labels apart (PTC, section 4).

    Args:
        patch_tokens: The final patch tokens.
        token_labels: Labels on the token grid, from the auxiliary CAM.
        ignore_index: The label of tokens that do not count.
        processes: Those that share the batch.

    Returns:
        A loss in [0, 1]: 0.5 * (1 - mean |cosine| of equal pairs) + 0.5 * mean |cosine| of unequal pairs.
    """
    directions = F.normalize(patch_tokens.float().flatten(2), dim=1)  # (b, d, n)
    with torch.autocast(directions.device.type, enabled=False):
        similarity = (directions.transpose(1, 2) @ directions).abs()  # (b, n, n)
    labels = token_labels.flatten(1)  # (b, n)
    known = labels != ignore_index
    itself = torch.eye(labels.shape[1], dtype=torch.bool, device=labels.device)
    counted = known[:, :, None] & known[:, None, :] & ~itself
    equal = labels[:, :, None] == labels[:, None, :]
    positive, negative = (counted & equal).float(), (counted & ~equal).float()
    one = 1 / processes.number
    positive_part = 1 - (similarity * positive).sum() / (processes.mean(positive.sum()) + one)
    negative_part = (similarity * negative).sum() / (processes.mean(negative.sum()) + one)
    return 0.5 * positive_part + 0.5 * negative_part


def class_token_contrast(
    student: Float[Tensor, "b s d"],
    teacher: Float[Tensor, "b t d"],
    positive: Float[Tensor, "b s"],
    temperature: float = 0.5,
) -> Float[Tensor, ""]:
    """Pull positive views to the global views and push background crops away (CTC, section 5).

    Args:
        student: Projected class tokens of all s views of each image.
        teacher: Projected class tokens of its t global views; no gradient flows into them.
        positive: 1 for views that show an object, 0 for background crops.
        temperature: 0.5; COCO 1.0.
    """
    with torch.autocast(student.device.type, enabled=False):
        logits = torch.einsum("bsd,btd->bts", student.float(), teacher.float().detach()) / temperature
    positive = positive[:, None, :].to(logits)  # (b, 1, s)
    # In logarithms throughout: a dot product of 1024 cosines over the temperature can be larger than any float's
    # exponent, and then the published form is infinite.
    floor = logits.new_full((*logits.shape[:2], 1), 1e-4).log()
    negatives = torch.cat([logits.masked_fill(positive > 0, -torch.inf), floor], dim=-1)
    negatives = negatives.logsumexp(dim=-1, keepdim=True)  # (b, t, 1), log(sum_n l_n + 1e-4)
    per_positive = (torch.logaddexp(logits, negatives) - logits) * positive
    per_image = per_positive.sum(dim=-1) + F.softplus(negatives[..., 0])  # (b, t)
    return (per_image.mean(dim=1) / (positive.sum(dim=-1)[:, 0] + 1e-4)).mean()


def segmentation_loss(
    logits: Float[Tensor, "b classes h w"],
    label: Int[Tensor, "b h w"],
    ignore_index: int = IGNORE_INDEX,
    processes: Processes = SINGLE_PROCESS,
) -> Float[Tensor, ""]:
    """Half the mean cross-entropy over background pixels plus half that over foreground pixels (section 6).

    The published program takes the mean over no pixels where a part is empty, which is NaN; here such
    a part is 0, so that a batch without a sure pixel teaches nothing instead of ending the run.
    """
    per_pixel = F.cross_entropy(logits.float(), label, ignore_index=ignore_index, reduction="none")
    background = (label == 0).to(per_pixel)
    foreground = ((label != 0) & (label != ignore_index)).to(per_pixel)
    one = 1 / processes.number
    background_part = (per_pixel * background).sum() / processes.mean(background.sum()).clamp_min(one)
    foreground_part = (per_pixel * foreground).sum() / processes.mean(foreground.sum()).clamp_min(one)
    return 0.5 * background_part + 0.5 * foreground_part
