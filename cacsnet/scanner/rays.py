"""How noisy the rays through each voxel are: parallel line integrals along x and y of the imaged volume itself."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from cacsnet.scanner.materials import WATER_PER_MM
from cacsnet.scanner.protocol import Protocol

STRIDE = 4
FAN_MM = 10.0
"""Rays of neighbouring directions see about the same: line integrals are averaged over this width."""

MOST, LEAST = 5.0, 0.35
"""Limits of the relative SD: beyond them scanners filter adaptively. Unverified default."""

BROAD = 1.5
"""Relative SD up to which rays of a broad range of directions are as weak. What goes beyond belongs to few of them: streaks."""


def ray_sd(hu: Tensor, protocol: Protocol) -> tuple[Tensor, Tensor, Tensor | None]:
    """Relative noise SD of an image [z, y, x] in HU (noise-free or nearly): of the rays along x [z, y] and along y [z, x], and
    of the streaks [z, y] that the weakest rays along x leave (shoulders, arms), None without any.

    The variance of a ray is exp(μ L), L the water-equivalent path (Brooks and Di Chiro 1976); bow-tie filter and current
    modulation leave a share ``ray_noise`` of the exponent. 1 at the centre of the field in the median slice. What lies beyond
    the field is not known and taken as the same for all rays.
    """
    _, dy, dx = protocol.spacing_mm
    water = (hu[:, ::STRIDE, ::STRIDE].clamp(-1000, 2000) + 1000) / 1000
    exponent = protocol.ray_noise * WATER_PER_MM[protocol.kvp]
    along_x = torch.exp(exponent * _smooth(water.mean(2) * (hu.shape[2] * dx), FAN_MM / (STRIDE * dy)))
    along_y = torch.exp(exponent * _smooth(water.mean(1) * (hu.shape[1] * dy), FAN_MM / (STRIDE * dx)))
    centre = 0.5 * (_middle(along_x) + _middle(along_y))
    level = (centre.median() ** (1 - protocol.current_modulation) * centre**protocol.current_modulation)[:, None]
    weak = (along_x / level).sqrt().clamp(LEAST, MOST)
    broad = weak.clamp_max(BROAD)
    excess = (weak**2 - broad**2).sqrt()
    columns = (along_y / level).sqrt().clamp(LEAST, MOST)
    streaks = _stretch(excess, hu.shape[1]) if bool((excess > 0.3).any()) else None
    return _stretch(broad, hu.shape[1]), _stretch(columns, hu.shape[2]), streaks


def _smooth(lines: Tensor, width: float) -> Tensor:
    half = int(width / 2)
    return F.avg_pool1d(F.pad(lines[:, None], (half, half), mode="replicate"), 2 * half + 1, 1)[:, 0] if half else lines


def _middle(lines: Tensor) -> Tensor:
    """Mean over the middle fifth of each line."""
    count = lines.shape[1]
    return lines[:, 2 * count // 5 : max(3 * count // 5, 2 * count // 5 + 1)].mean(1)


def _stretch(lines: Tensor, count: int) -> Tensor:
    return F.interpolate(lines[:, None], size=count, mode="linear", align_corners=True)[:, 0]
