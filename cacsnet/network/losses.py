"""Losses with partial labels: gradients flow only where the truth is known.

The coronary branch is asked two questions. *Course*: where do the arteries run; learnt on voxels that are not bright.
*Decision*: is this candidate voxel coronary calcium, and of which artery; learnt only at candidate points, with plaques,
distractors and bone averaged apart, because bright voxels are rare and most of them are bone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from monai.losses import DiceLoss
from torch import Tensor
from torch.nn import functional as F

from cacsnet.labels import IGNORE
from cacsnet.network.unet import Prediction

POINT_GROUPS = 3


@dataclass(frozen=True)
class LossWeights:
    """Weights of the parts and the HU at which a voxel counts as bright."""

    structures: float = 1.0
    course: float = 0.5
    decision: float = 1.0
    dice: float = 1.0
    course_background: float = 0.2
    bright_hu: float = 130.0


def masked_ce_dice(logits: Tensor, target: Tensor, dice_weight: float, class_weight: Tensor | None = None) -> Tensor:
    """Cross-entropy plus soft Dice without background, on voxels whose target is not IGNORE.

    logits float [B, C, Z, Y, X]; target uint8 [B, Z, Y, X]. Zero (with a graph) if nothing is known.
    """
    known = target != IGNORE
    if not bool(known.any()):
        return logits.sum() * 0.0
    long = target.long()
    loss = F.cross_entropy(logits, long, weight=class_weight, ignore_index=IGNORE)
    if dice_weight:
        mask = known[:, None].to(logits)
        onehot = F.one_hot(long.clamp_max(logits.shape[1] - 1), logits.shape[1]).movedim(-1, 1).to(logits) * mask
        loss = loss + dice_weight * DiceLoss(include_background=False, batch=True)(logits.softmax(1) * mask, onehot)
    return loss


def sample_at_points(volume: Tensor, points: Tensor) -> Tensor:
    """Trilinear values [B, C, n] of a volume [B, C, Z, Y, X] at points [B, n, 3] = (z, y, x) voxels."""
    size = torch.tensor(volume.shape[2:], dtype=points.dtype, device=points.device)
    grid = (points * (2 / (size - 1)) - 1).flip(-1)[:, :, None, None]
    return F.grid_sample(volume, grid, mode="bilinear", padding_mode="border", align_corners=True)[..., 0, 0]


def decision_loss(logits: Tensor, points: Tensor, label: Tensor, group: Tensor) -> Tensor:
    """Negative log of the trilinear probability at candidate points; the mean of the groups' means.

    logits [B, 5, Z, Y, X]; points float [B, n, 3]; label, group uint8 [B, n], group IGNORE = no point.
    """
    probability = sample_at_points(logits.softmax(1), points).clamp_min(1e-6)
    nll = -probability.log().gather(1, label.long()[:, None])[:, 0]
    means = [nll[group == g].mean() for g in range(POINT_GROUPS) if bool((group == g).any())]
    return torch.stack(means).mean() if means else logits.sum() * 0.0


def total_loss(prediction: Prediction, batch: Mapping[str, Tensor], weights: LossWeights) -> dict[str, Tensor]:
    """All parts and their weighted sum (``loss``) for a batch of patches."""
    bright = batch["hu"] >= weights.bright_hu
    course_target = torch.where(bright, torch.full_like(batch["course"], IGNORE), batch["course"])
    class_weight = torch.ones(prediction.course.shape[1], device=prediction.course.device)
    class_weight[0] = weights.course_background
    parts = {
        "structures": masked_ce_dice(prediction.structures, batch["structures"], weights.dice),
        "course": masked_ce_dice(prediction.course, course_target, weights.dice, class_weight),
        "decision": decision_loss(prediction.coronary, batch["points"], batch["point_label"], batch["point_group"]),
    }
    total = sum(getattr(weights, name) * value for name, value in parts.items())
    return {"loss": total, **parts}
