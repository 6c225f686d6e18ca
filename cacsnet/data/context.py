"""Coarse structure probabilities as the fine network's context, simulated from the truth.

Training the fine network needs no coarse network: its context is the true structures, blurred to the coarse grid's resolution,
bent by a smooth random displacement and, now and then, with a structure missing, as coarse results on real scans are.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from cacsnet.labels import STRUCTURES

COARSE_MM = 3.0


def simulated_context(structures: Tensor, spacing_mm: float, bend_mm: float = 2.5, missing: float = 0.06) -> Tensor:
    """Context float [B, 8, Z, Y, X] from true structures uint8 [B, Z, Y, X] (255 = no data, becomes background).

    ``bend_mm``: SD of the displacement; ``missing``: chance that a structure is dropped into the background.
    """
    batch, *shape = structures.shape
    known = torch.where(structures == 255, torch.zeros_like(structures), structures).long()
    onehot = F.one_hot(known, len(STRUCTURES)).movedim(-1, 1).float()
    drop = torch.rand(batch, len(STRUCTURES), device=structures.device) < missing
    drop[:, 0] = False
    onehot = torch.where(drop[:, :, None, None, None], torch.zeros_like(onehot), onehot)
    onehot[:, 0] += 1 - onehot.sum(1)
    factor = COARSE_MM / spacing_mm
    coarse = F.interpolate(F.avg_pool3d(onehot, 3, 1, 1, count_include_pad=False), scale_factor=1 / factor, mode="area")
    coarse = F.avg_pool3d(coarse, 3, 1, 1, count_include_pad=False)
    bend = torch.randn(batch, 3, 4, 4, 4, device=structures.device) * bend_mm * 1.6
    bend = F.interpolate(bend, size=shape, mode="trilinear", align_corners=True)
    identity = torch.eye(3, 4, device=structures.device).expand(batch, 3, 4)
    grid = F.affine_grid(identity, [batch, 1, *shape], align_corners=False)
    extent = torch.tensor(shape[::-1], device=structures.device) * spacing_mm / 2
    return F.grid_sample(coarse, grid + bend.movedim(1, -1) / extent, padding_mode="border", align_corners=False)
