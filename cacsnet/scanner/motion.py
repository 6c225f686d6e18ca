"""Residual motion of the heart: along a path within the acquisition window, and between the slabs of several beats.

A half scan sees the frequencies of direction φ only by the rays that run across φ, at one moment of the window. So the image
of an object on the path d(t) is, by the central slice theorem, F(f) · exp(-2πi f · d(t(φ))): double edges, crescents and dark
shadows, not a plain blur. Projections that overlap or come from several heart beats mix in the average over the path, weighted
by AVERAGED. Integrals are kept either way: at f = 0 nothing happens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.fft import next_fast_len
from torch import Tensor
from torch.nn import functional as F

from cacsnet.scanner.protocol import Protocol, Vector

AVERAGED = 0.4
"""Share of the plain average of the displaced images. Unverified default."""

STREAK_MM = 6.0
"""Margin in which the streaks of a moving object are kept apart from the lattice's other end."""

POSITIONS = 9
"""Positions of a drawn path."""

EXCURSION_MM = 12.0
"""Longest drawn path: a heart moves to and fro, so a long window doesn't see it go on. Unverified default."""


def slab_of(protocol: Protocol, index: np.ndarray) -> np.ndarray:
    """Slab of each slice index; indices outside the scan belong to the first or last slab."""
    if not protocol.slab_shifts_mm:
        return np.zeros(len(index), dtype=int)
    slabs: np.ndarray = np.clip(index // protocol.slab_slices, 0, len(protocol.slab_shifts_mm) - 1)
    return slabs


def motion_path(
    rng: np.random.Generator, heart_rate_bpm: float, temporal_resolution_ms: float, gated: bool
) -> tuple[Vector, ...]:
    """A slightly bent path of the coronary arteries during the window, centred on its mean, (z, y, x) mm.

    Speed: 10-30 mm/s in the phase of a gated acquisition (published), growing with heart rate, since scores are stable up to
    about 60/min and deviate above 70/min; without gating the phase is any, and the speed 15-60 mm/s: single arteries move at
    22-109 mm/s, depending on phase and artery (Mao et al. 2000, electron beam CT), the heart as a whole more slowly. The range
    without gating, scatter, bend and share of z (0.5) are unverified defaults.
    """
    speed = 10 + 20 * float(np.clip((heart_rate_bpm - 55) / 30, 0, 1)) if gated else rng.uniform(15, 60)
    length = min(speed * rng.lognormal(0, 0.3) * temporal_resolution_ms / 1000, EXCURSION_MM)
    along = rng.normal(size=3) * (0.5, 1, 1)
    along /= np.linalg.norm(along)
    across = np.cross(along, rng.normal(size=3))
    across /= np.linalg.norm(across)
    time = np.linspace(-0.5, 0.5, POSITIONS)[:, None]
    path = length * (along * time + rng.uniform(0, 1.2) * across * (time**2 - 1 / 12))
    return tuple((float(z), float(y), float(x)) for z, y, x in path - path.mean(0))


def slab_shifts(rng: np.random.Generator, slabs: int, sd_mm: float) -> tuple[Vector, ...]:
    """Displacement of each slab, mostly along z (breathing, filling): independent, SD ``sd_mm`` along z, half in-plane."""
    drawn = rng.normal(size=(slabs, 3)) * (sd_mm, sd_mm / 2, sd_mm / 2)
    return tuple((float(z), float(y), float(x)) for z, y, x in drawn)


def displace(
    volume: Tensor, spacing_mm: Sequence[float], protocol: Protocol, shift_mm: Sequence[float] = (0.0, 0.0, 0.0)
) -> Tensor:
    """Volume [z, y, x] of an object on the protocol's path, the whole path displaced by ``shift_mm``.

    In-plane by phases in Fourier space, along z by linear interpolation between slices. The volume is continued by its edges.
    """
    path = np.array(protocol.motion_path_mm or [(0.0, 0.0, 0.0)]) + np.array(shift_mm)
    most = np.abs(path).max(0)
    slices, rows, columns = volume.shape
    pad_y, pad_x = (int(np.ceil((most[k] + STREAK_MM) / spacing_mm[k])) for k in (1, 2))
    padded = F.pad(volume[None], (pad_x, pad_x, pad_y, pad_y), mode="replicate")[0]
    size = [next_fast_len(n, real=True) for n in padded.shape[1:]]
    spectrum = torch.fft.rfft2(padded, s=size)
    fy = torch.fft.fftfreq(size[0], spacing_mm[1])[:, None]
    fx = torch.fft.rfftfreq(size[1], spacing_mm[2])[None]
    y, x = (torch.from_numpy(path[:, k]).float().reshape(-1, 1, 1) for k in (1, 2))
    phases = torch.polar(_seen(fy, fx, len(path), protocol), -2 * np.pi * (fy * y + fx * x))
    place = path[:, 0] / spacing_mm[0]
    offsets = np.arange(np.floor(place.min() + 1e-6), np.ceil(place.max() - 1e-6) + 1)
    along_z = torch.from_numpy((1 - np.abs(place[None] - offsets[:, None])).clip(0)).to(phases)
    transfer = torch.tensordot(along_z, phases, 1).to(volume.device)
    index = torch.arange(slices, device=volume.device)
    moved = torch.zeros_like(spectrum)
    for offset, factor in zip(offsets.astype(int).tolist(), transfer, strict=True):
        moved += factor * (spectrum if offset == 0 else spectrum[(index - offset).clamp(0, slices - 1)])
    out = torch.fft.irfft2(moved, s=size)
    return out[:, pad_y : pad_y + rows, pad_x : pad_x + columns].to(volume.dtype)


def _seen(fy: Tensor, fx: Tensor, count: int, protocol: Protocol) -> Tensor:
    """Share [count, y, x] that each position has in each frequency; adds up to 1. Neighbouring moments overlap linearly."""
    if count == 1:
        return torch.ones(1, fy.shape[0], fx.shape[1])
    turn = np.pi / protocol.sources
    angle = torch.atan2(fy, fx) - np.pi / 2 - np.deg2rad(protocol.motion_start_deg)  # the ray runs across the frequency
    place = (angle / turn).remainder(1.0) * count - 0.5
    away = (place[None] - torch.arange(count, dtype=place.dtype).reshape(-1, 1, 1)).abs()
    away = torch.minimum(away, count - away)
    return AVERAGED / count + (1 - AVERAGED) * (1 - away).clamp_min(0)


def move(volume: Tensor, origin_z_mm: float, spacing_mm: Sequence[float], protocol: Protocol) -> Tensor:
    """A whole volume [z, y, x] on any grid as the protocol's moving heart would show it, slab by slab.

    Args:
        origin_z_mm: patient z of the first slice; the slabs lie where the protocol's slices are.
    """
    if not protocol.moves:
        return volume
    z_mm = origin_z_mm + spacing_mm[0] * np.arange(len(volume))
    slabs = slab_of(protocol, np.round((z_mm - protocol.origin_mm[0]) / protocol.spacing_mm[0]).astype(int))
    out = torch.empty_like(volume)
    for slab in np.unique(slabs):
        shift = protocol.slab_shifts_mm[slab] if protocol.slab_shifts_mm else (0.0, 0.0, 0.0)
        inside = np.flatnonzero(slabs == slab)
        most = np.abs(np.array(protocol.motion_path_mm or [(0.0, 0.0, 0.0)])[:, 0] + shift[0]).max()
        margin = int(np.ceil(most / spacing_mm[0])) + 1
        low, high = max(int(inside[0]) - margin, 0), min(int(inside[-1]) + 1 + margin, len(volume))
        moved = displace(volume[low:high], spacing_mm, protocol, shift)
        out[int(inside[0]) : int(inside[-1]) + 1] = moved[int(inside[0]) - low : int(inside[-1]) + 1 - low]
    return out
