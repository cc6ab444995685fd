"""The losses on class labels, patch tokens, class tokens and pseudo labels (METHOD sections 1, 4, 5, 6).

Letters: b images, c foreground classes, d embedding width, h w token or pixel grid, n = h * w tokens,
s student views of an image, t teacher views of an image.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from stages.toco.cam import IGNORE_INDEX
from stages.toco.ranks import SINGLE_RANK, Ranks


def classification_loss(class_logits: Float[Tensor, "b c"], class_labels: Float[Tensor, "b c"]) -> Float[Tensor, ""]:
    """Multi-label soft margin loss of an image-level classifier (section 1).

    L_cls = mean over images and classes of  -y log sigmoid(x) - (1 - y) log(1 - sigmoid(x))

    Args:
        class_logits: Logits x.
        class_labels: y, 1 where the image has the class, else 0.
    """
    return F.multilabel_soft_margin_loss(class_logits, class_labels)


def patch_token_contrast(
    patch_tokens: Float[Tensor, "b d h w"],
    token_labels: Int[Tensor, "b h w"],
    ignore_index: int = IGNORE_INDEX,
    ranks: Ranks = SINGLE_RANK,
) -> Float[Tensor, ""]:
    """Make tokens of the same label alike and tokens of different labels unlike (PTC, section 4).

    Without it, the last blocks of a ViT make all patch tokens of an image alike (over-smoothing). The labels come from
    an intermediate block, which has not yet done so.

        S_ij  = |cosine similarity of tokens i and j|
        L_ptc = 0.5 (1 - sum_positive S / (n_positive + 1)) + 0.5 sum_negative S / (n_negative + 1)

    Args:
        patch_tokens: The final patch tokens.
        token_labels: Labels on the token grid, from the auxiliary CAM.
        ignore_index: The label of tokens that do not count.
        ranks: The ranks that share the batch.

    Returns:
        A loss in [0, 1].
    """
    # S for all pairs of one image. Autocast would compute the product in bf16, too coarse for cosines near 1.
    directions = F.normalize(patch_tokens.float().flatten(2), dim=1)  # (b, d, n)
    with torch.autocast(directions.device.type, enabled=False):
        similarity = (directions.transpose(1, 2) @ directions).abs()  # (b, n, n)

    # A pair counts if both tokens have a label and are not the same token. Pairs are ordered: (i, j) and (j, i) count.
    labels = token_labels.flatten(1)  # (b, n)
    labelled = labels != ignore_index
    same_token = torch.eye(labels.shape[1], dtype=torch.bool, device=labels.device)  # (n, n)
    counts = labelled[:, :, None] & labelled[:, None, :] & ~same_token  # (b, n, n)
    same_label = labels[:, :, None] == labels[:, None, :]
    positive, negative = (counts & same_label).float(), (counts & ~same_label).float()

    # Sums and counts run over the whole batch, so an image weighs as much as it has labelled pairs. The 1 in the
    # denominators avoids 0 / 0 where there are no pairs; it is shared by the ranks.
    one = 1 / ranks.world_size
    positive_part = 1 - (similarity * positive).sum() / (ranks.mean(positive.sum()) + one)
    negative_part = (similarity * negative).sum() / (ranks.mean(negative.sum()) + one)
    return 0.5 * positive_part + 0.5 * negative_part


def class_token_contrast(
    student: Float[Tensor, "b s d"],
    teacher: Float[Tensor, "b t d"],
    positive: Float[Tensor, "b s"],
    temperature: float = 0.5,
) -> Float[Tensor, ""]:
    """Pull views that show objects towards the global views; push background crops away (CTC, section 5).

    With l = exp(<teacher, student> / temperature), positives p and negatives n of one image and one teacher view:

        L = sum_p -log( l_p / (l_p + sum_n l_n + 1e-4) )  -  log( 1 / (1 + sum_n l_n + 1e-4) )

    averaged over the teacher views, divided by (number of positives + 1e-4), averaged over the images.

    Args:
        student: Projected class tokens of all s views of each image.
        teacher: Projected class tokens of its t global views; they get no gradient.
        positive: 1 for views that show an object, 0 for background crops.
        temperature: 0.5 for VOC, 1.0 for COCO (section 5).
    """
    # z = log l, for each teacher view and student view.
    with torch.autocast(student.device.type, enabled=False):
        logits = torch.einsum("bsd,btd->bts", student.float(), teacher.float().detach()) / temperature
    positive = positive[:, None, :].to(logits)  # (b, 1, s), the same for each teacher view

    # The published program computes l itself; here everything stays in logarithms, because a dot product of 1024
    # cosines over the temperature is beyond exp() in float32, and the loss would be infinite.
    #     N = log( sum_n l_n + 1e-4 )
    floor = logits.new_full((*logits.shape[:2], 1), 1e-4).log()  # (b, t, 1)
    negatives = torch.cat([logits.masked_fill(positive > 0, -torch.inf), floor], dim=-1)  # (b, t, s + 1)
    negatives = negatives.logsumexp(dim=-1, keepdim=True)  # (b, t, 1)

    # First term:   -log( l_p / (l_p + e^N) ) = log(e^z_p + e^N) - z_p
    # Second term:  -log( 1 / (1 + e^N) )     = log(1 + e^N) = softplus(N), once for each image and teacher view
    per_positive = (torch.logaddexp(logits, negatives) - logits) * positive  # (b, t, s)
    per_view = per_positive.sum(dim=-1) + F.softplus(negatives[..., 0])  # (b, t)
    return (per_view.mean(dim=1) / (positive.sum(dim=-1)[:, 0] + 1e-4)).mean()


def segmentation_loss(
    logits: Float[Tensor, "b classes h w"],
    label: Int[Tensor, "b h w"],
    ignore_index: int = IGNORE_INDEX,
    ranks: Ranks = SINGLE_RANK,
) -> Float[Tensor, ""]:
    """Cross-entropy on pseudo labels, in which background and foreground weigh the same (section 6).

    L_seg = 0.5 (mean cross-entropy over background pixels) + 0.5 (mean cross-entropy over foreground pixels)

    Args:
        logits: Segmentation logits, background first.
        label: Pseudo labels: 0 background, 1..c classes, `ignore_index`.
        ignore_index: The label of pixels that do not count.
        ranks: The ranks that share the batch.
    """
    per_pixel = F.cross_entropy(logits.float(), label, ignore_index=ignore_index, reduction="none")  # (b, h, w)
    background = (label == 0).to(per_pixel)
    foreground = ((label != 0) & (label != ignore_index)).to(per_pixel)

    # The published program's mean over zero pixels is NaN; here a part without pixels contributes 0, because one batch
    # without a confident pixel would otherwise end the run.
    one = 1 / ranks.world_size
    background_part = (per_pixel * background).sum() / ranks.mean(background.sum()).clamp_min(one)
    foreground_part = (per_pixel * foreground).sum() / ranks.mean(foreground.sum()).clamp_min(one)
    return 0.5 * background_part + 0.5 * foreground_part
