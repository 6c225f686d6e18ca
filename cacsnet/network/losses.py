"""Losses with partial labels: gradients flow only where the truth is known.

A dataset that knows only part of the truth marks the rest IGNORE: all of ``structures``, all of ``course``, or every point's
group. Every part is a quotient of sums over the batch; with several processes the sums are added up first (``total``), so
that two processes give what one does with twice the batch, whatever truth each of them happened to get.

The coronary branch is asked two questions. *Course*: where do the arteries run; learnt on voxels that are not bright.
*Decision*: is this candidate voxel coronary calcium, and of which artery; learnt only at candidate points, with plaques,
distractors and bone averaged apart, because bright voxels are rare and most of them are bone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed
from torch.nn import functional as F

from cacsnet.labels import IGNORE
from cacsnet.network.unet import Prediction

POINT_GROUPS = 3
SMOOTH = 1e-5
"""Of the Dice quotient, as in MONAI's DiceLoss: a class that is neither there nor predicted costs nothing."""

Total = Callable[[Tensor], Tensor]
"""Sums of this process to sums of all processes."""


class _SumOverProcesses(torch.autograd.Function):
    """``all_reduce`` of sums forwards and of their gradients backwards."""

    @staticmethod
    def forward(context: Any, sums: Tensor) -> Tensor:
        out = sums.detach().clone()
        distributed.all_reduce(out)
        return out

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        out = gradients[0].clone()
        distributed.all_reduce(out)
        return out


def over_processes(sums: Tensor) -> Tensor:
    """Sums over all processes of a run, with gradients; unchanged where there is only one.

    Each process takes the loss of the whole batch and the gradients are averaged afterwards: the backward pass of
    ``all_reduce`` adds them up, so the mean is the gradient of the whole batch.
    """
    alone = not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1
    return sums if alone else _SumOverProcesses.apply(sums)


@dataclass(frozen=True)
class LossWeights:
    """Weights of the parts and the HU at which a voxel counts as bright."""

    structures: float = 1.0
    course: float = 0.5
    decision: float = 1.0
    dice: float = 1.0
    course_background: float = 0.2
    bright_hu: float = 130.0


def masked_ce_dice(
    logits: Tensor, target: Tensor, dice_weight: float, class_weight: Tensor | None = None, total: Total = over_processes
) -> Tensor:
    """Cross-entropy plus soft Dice of the batch without background, on voxels whose target is not IGNORE.

    logits float [B, C, Z, Y, X]; target uint8 [B, Z, Y, X]; class_weight float [C]. Zero (with a graph) if nothing is known.
    """
    known = (target != IGNORE)[:, None].float()
    label = torch.where(target == IGNORE, torch.zeros_like(target), target).long()[:, None]
    log_p = logits.float().log_softmax(1)
    weight = known if class_weight is None else known * class_weight.float()[label]
    sums = [-(weight * log_p.gather(1, label)).sum()[None], weight.sum()[None]]
    if dice_weight:
        p = log_p.exp() * known
        truth = torch.zeros_like(p).scatter_(1, label, known)
        axes = (0, 2, 3, 4)
        sums += [(p * truth).sum(axes)[1:], (p + truth).sum(axes)[1:]]
    ce, ce_weight, *rest = total(torch.cat(sums)).split([len(part) for part in sums])
    loss = (ce / ce_weight.clamp_min(1e-12))[0]
    if rest:
        overlap, size = rest
        loss = loss + dice_weight * (1 - (2 * overlap + SMOOTH) / (size + SMOOTH)).mean()
    return loss


def sample_at_points(volume: Tensor, points: Tensor) -> Tensor:
    """Trilinear values [B, C, n] of a volume [B, C, Z, Y, X] at points [B, n, 3] = (z, y, x) voxels."""
    size = torch.tensor(volume.shape[2:], dtype=points.dtype, device=points.device)
    grid = (points * (2 / (size - 1)) - 1).flip(-1)[:, :, None, None]
    return F.grid_sample(volume, grid, mode="bilinear", padding_mode="border", align_corners=True)[..., 0, 0]


def log_probability_at_points(logits: Tensor, points: Tensor, label: Tensor) -> Tensor:
    """Log of the trilinear softmax probability [B, n] of class ``label`` [B, n] at points [B, n, 3] = (z, y, x) voxels.

    Summed over the eight corners in logarithms, so that a candidate of which the network is very sure, and wrong, still has
    a gradient.
    """
    depth, height, width = logits.shape[2:]
    last = torch.tensor([depth, height, width], dtype=points.dtype, device=points.device) - 1
    points = torch.minimum(points.clamp_min(0), last)
    base = torch.minimum(points.floor(), (last - 1).clamp_min(0))
    part = points - base
    corner = torch.tensor([[z, y, x] for z in (0, 1) for y in (0, 1) for x in (0, 1)], device=points.device)
    weight = torch.where(corner > 0, part[:, :, None], 1 - part[:, :, None]).prod(-1)  # [B, n, 8]
    z, y, x = torch.minimum(base.long()[:, :, None] + corner, last.long()).unbind(-1)
    index = ((label.long()[:, :, None] * depth + z) * height + y) * width + x
    log_probability = logits.float().log_softmax(1).flatten(1)
    value = log_probability.gather(1, index.flatten(1)).view_as(weight)
    return torch.logsumexp(value + weight.log(), -1)


def decision_loss(logits: Tensor, points: Tensor, label: Tensor, group: Tensor, total: Total = over_processes) -> Tensor:
    """Negative log of the trilinear probability at candidate points; the mean of the groups' means.

    logits [B, 5, Z, Y, X]; points float [B, n, 3]; label, group uint8 [B, n], group IGNORE = no point.
    """
    safe = torch.where(group == IGNORE, torch.zeros_like(label), label)
    nll = -log_probability_at_points(logits, points, safe)
    member = torch.stack([group == g for g in range(POINT_GROUPS)]).float()
    sums, counts = total(torch.cat([(member * nll).sum((1, 2)), member.sum((1, 2))])).split(POINT_GROUPS)
    return (sums / counts.clamp_min(1)).sum() / (counts > 0).sum().clamp_min(1)


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
