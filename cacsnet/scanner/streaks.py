"""Streaks of metal: the error of its projections, filtered and back-projected, slice by slice.

Rays through metal are wrong in three ways: the beam hardens (they look too weak, the more so the longer the path through metal
and body), few photons are left (they are noisy), and the views don't agree with each other (the metal moves and is smaller than
what a detector sees). The errors are a parallel-beam sinogram, so the star of bright and dark streaks obeys the geometry:
straight through the metal, darkest between two pieces.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cacsnet.scanner.kernel import mtf
from cacsnet.scanner.materials import WATER_PER_MM
from cacsnet.scanner.protocol import Protocol

METAL_HU = 3000.0
"""A voxel of the noise-free image above this is metal; the densest plaque stays below."""

VISIBLE_HU = 300.0
"""Given metal voxels that add less (blurred rims) are left out."""

HARDENING = 0.03
"""Share of attenuation lost per unit of it (quadratic term after water correction). Unverified default."""

VIEW_ERROR = 0.15
"""SD of the relative error of the metal's attenuation from view to view, correlated over VIEW_DEG. Unverified default."""

VIEW_DEG = 4.0

ANGLES = 180
REACH_MM = 70.0
"""Streaks are computed this far around the metal and faded out over the last third. Chosen for speed."""

STEP_MM = 1.0
FINER = 8
"""Steps of the back-projection between two rays: to look up the nearest one is several times faster than to interpolate."""


def metal_streaks(
    hu: Tensor, protocol: Protocol, generator: torch.Generator, metal_hu: Tensor | None = None
) -> dict[int, Tensor]:
    """HU to add, float32 [rows, columns], to each slice with metal.

    Args:
        hu: noise-free image [slices, rows, columns].
        generator: on the CPU, for the noise of the starved rays; untouched if there is no metal.
        metal_hu: HU of the metal alone [slices, rows, columns]; None: what exceeds METAL_HU.
    """
    source, least = (hu, METAL_HU) if metal_hu is None else (metal_hu, VISIBLE_HU)
    touched = torch.nonzero(source.amax((1, 2)) > least).flatten().tolist()
    if not touched:
        return {}
    seeds = torch.randint(2**31, (len(touched),), generator=generator).tolist()
    _, dy, dx = protocol.spacing_mm
    out = {}
    for k, seed in zip(touched, seeds, strict=True):
        metal = source[k] * (source[k] > least)
        body = (hu[k].clamp(-1000, 1500) + 1000) / 1000
        rows, columns = (torch.nonzero(metal.any(axis)).flatten() for axis in (1, 0))
        path = (float(body[rows].mean()) * hu.shape[2] * dx, float(body[:, columns].mean()) * hu.shape[1] * dy)
        box = []
        for used, step, count in ((rows, dy, hu.shape[1]), (columns, dx, hu.shape[2])):
            margin = int(REACH_MM / step)
            box.append(slice(max(int(used[0]) - margin, 0), min(int(used[-1]) + 1 + margin, count)))
        crop = (box[0], box[1])
        out[k] = torch.zeros_like(metal, dtype=torch.float32)
        out[k][crop] = _slice_streaks(metal[crop], path, protocol, seed)
    return out


def _slice_streaks(metal: Tensor, path_mm: tuple[float, float], protocol: Protocol, seed: int) -> Tensor:
    """Streaks of one crop [y, x]. ``path_mm``: water-equivalent path of the rays through the metal along x and along y."""
    device = metal.device
    water = WATER_PER_MM[protocol.kvp]
    _, dy, dx = protocol.spacing_mm
    rows, columns = metal.shape
    theta = torch.arange(ANGLES, dtype=torch.float32) * (np.pi / ANGLES)  # direction of s; the ray runs across it
    cos, sin = torch.cos(theta).to(device), torch.sin(theta).to(device)
    step = min(dy, dx)
    bins = 2 * int(np.hypot(rows * dy, columns * dx) / 2 / step) + 5
    y, x = torch.nonzero(metal, as_tuple=True)
    y_mm, x_mm = (y - (rows - 1) / 2).float() * dy, (x - (columns - 1) / 2).float() * dx
    weight = metal[y, x] / 1000 * water * (dy * dx / step)
    s = x_mm * cos[:, None] + y_mm * sin[:, None]
    place = s / step + bins // 2
    low = place.floor()
    sinogram = torch.zeros(ANGLES, bins, device=device)
    sinogram.scatter_add_(1, low.long(), weight * (1 - (place - low)))
    sinogram.scatter_add_(1, low.long() + 1, weight * (place - low))

    body = water * (path_mm[1] * cos**2 + path_mm[0] * sin**2)[:, None]  # rays at theta = 0 run along y
    random = torch.Generator().manual_seed(seed)
    white = torch.randn(ANGLES, bins, generator=random).to(device)
    taps = torch.exp(-0.5 * (torch.fft.fftfreq(ANGLES, 1 / 180.0) / VIEW_DEG) ** 2)  # periodic in 180°
    view = torch.fft.ifft(torch.fft.fft(torch.randn(ANGLES, generator=random)) * torch.fft.fft(taps / taps.norm())).real.to(
        device
    )
    ray_noise = protocol.noise_hu * water / 1000 * step * np.sqrt(12 * ANGLES) / np.pi  # gives noise_hu after FBP
    starved = torch.exp(0.5 * sinogram.clamp_max(6.0)) - 1
    error = sinogram * (VIEW_ERROR * view[:, None] - HARDENING * (sinogram + 2 * body)) + ray_noise * starved * white
    length = 2 * bins
    frequency = torch.fft.rfftfreq(length, step)
    ramp = (frequency * mtf(protocol, frequency)).to(device)
    filtered = torch.fft.irfft(torch.fft.rfft(error, n=length) * ramp, n=length)[:, :bins]

    coarse = [max(2, int(np.ceil(n * d / STEP_MM))) for n, d in ((rows, dy), (columns, dx))]
    at_y = torch.linspace(-(rows - 1) / 2 * dy, (rows - 1) / 2 * dy, coarse[0]).to(device)
    at_x = torch.linspace(-(columns - 1) / 2 * dx, (columns - 1) / 2 * dx, coarse[1]).to(device)
    fine = F.interpolate(filtered[None], size=FINER * (bins - 1) + 1, mode="linear", align_corners=True)[0]
    rows_at, columns_at = ((FINER / step * at * turn[:, None]).round().long() for at, turn in ((at_y, sin), (at_x, cos)))
    rows_at += FINER * (bins // 2)
    total = torch.zeros(coarse, device=device)
    for a in range(ANGLES):
        total += fine[a].take(rows_at[a][:, None] + columns_at[a])
    streaks = total * (np.pi / ANGLES) * 1000 / water
    away_y, away_x = (torch.maximum(m.min() - at, at - m.max()) for m, at in ((y_mm, at_y), (x_mm, at_x)))
    streaks = streaks * ((REACH_MM - torch.maximum(away_y[:, None], away_x[None])) / (REACH_MM / 3)).clamp(0, 1)
    return F.interpolate(streaks[None, None], size=(rows, columns), mode="bilinear", align_corners=True)[0, 0]
