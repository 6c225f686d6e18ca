"""Resampling between a scan's grid and a network's grid: one function, used in training and in inference.

Positions are in *scan mm*: voxel (i, j, k) of a scan has its centre at (i * dz, j * dy, k * dx), axes [z, y, x].
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

AIR_HU = -1000.0


def axis_weights(size_in: int, step_in: float, first_out: float, step_out: float, size_out: int) -> Tensor:
    """Weights [size_out, size_in] of a tent as wide as the coarser of the two steps (mm): interpolates when going finer,
    averages (anti-aliases) when going coarser. Rows sum to one where the scan has data, to zero outside it."""
    position_in = torch.arange(size_in, dtype=torch.float64) * step_in
    position_out = first_out + torch.arange(size_out, dtype=torch.float64) * step_out
    width = max(step_in, step_out)
    weights = (1 - (position_out[:, None] - position_in[None]).abs() / width).clamp_min(0)
    inside = (position_out > -0.5 * step_in - 1e-6) & (position_out < (size_in - 0.5) * step_in + 1e-6)
    weights = weights * inside[:, None]
    return (weights / weights.sum(1, keepdim=True).clamp_min(1e-12)).float()


def resample(
    hu: Tensor,
    spacing_mm: Sequence[float],
    first_mm: Sequence[float],
    step_mm: float,
    shape: Sequence[int],
    fill: float = AIR_HU,
) -> Tensor:
    """Resample a volume to an isotropic window.

    Args:
        hu: float32 [z, y, x] or [c, z, y, x].
        spacing_mm: (dz, dy, dx) of ``hu``.
        first_mm: (z, y, x) position of the window's first voxel centre, scan mm.
        step_mm: the window's voxel size.
        shape: (z, y, x) voxels of the window.
        fill: value where the scan has no data.

    Returns:
        float32 [..., *shape].
    """
    out = hu
    rows = []
    for axis in (3, 2, 1):  # x first: it shrinks the volume most
        dim = out.dim() - (4 - axis)
        weights = axis_weights(hu.shape[axis - 4], spacing_mm[axis - 1], first_mm[axis - 1], step_mm, shape[axis - 1])
        used = torch.nonzero(weights.sum(0) > 0).flatten()
        lo, hi = (int(used[0]), int(used[-1]) + 1) if used.numel() else (0, 1)
        out = out.narrow(dim, lo, hi - lo)
        rows.append(weights.sum(1))
        out = torch.tensordot(out, weights[:, lo:hi].to(out), dims=([dim], [1])).movedim(-1, dim)
    covered = rows[2][:, None, None] * rows[1][None, :, None] * rows[0][None, None]
    return out + fill * (1 - covered.to(out))
