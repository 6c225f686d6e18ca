"""Residual motion of the heart: along a path within the acquisition window, and between the slabs of several beats.

A half scan sees the frequencies of direction φ only by the rays that run across φ, at one moment of the window. So the image
of an object on the path d(t) is, by the central slice theorem, F(f) · exp(-2πi f · d(t(φ))): double edges, crescents and dark
shadows, not a plain blur. The window is longer than half a turn by the fan's angle: what is seen twice, at its beginning and
end, is joined smoothly. Integrals are kept: at f = 0 nothing happens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy.fft import next_fast_len
from torch import Tensor
from torch.nn import functional as F

from cacsnet.scanner.protocol import Protocol, Vector

OVERLAP = 50 / 180
"""Share of half a turn that is measured twice: fans of 50 cm scanners open 47 to 55 degrees."""

STREAK_MM = 6.0
"""Margin in which the streaks of a moving object are kept apart from the lattice's other end."""

HEIGHT_MM = 0.4
"""Longest step along z between the heights at which an object is imaged: at most 4 % are added to a slice of 2.5 mm."""

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

    The window is longer than the temporal resolution (half a turn, divided by the sources) by OVERLAP. Speed: 10-30 mm/s in the
    phase of a gated acquisition (published), growing with heart rate, since scores are stable up to about 60/min and deviate
    above 70/min; without gating the phase is any, and the speed 15-60 mm/s: single arteries move at 22-109 mm/s, depending on
    phase and artery (Mao et al. 2000, electron beam CT), the heart as a whole more slowly. The range without gating, scatter,
    bend and share of z (0.5) are unverified defaults.
    """
    speed = 10 + 20 * float(np.clip((heart_rate_bpm - 55) / 30, 0, 1)) if gated else rng.uniform(15, 60)
    window_s = (1 + OVERLAP) * temporal_resolution_ms / 1000
    length = min(speed * rng.lognormal(0, 0.3) * window_s, EXCURSION_MM)
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

    In-plane by phases in Fourier space, along z by linear interpolation between slices: right for slices much thinner than
    the smallest thing in them, else :func:`in_motion`. The volume is continued by its edges.
    """
    path = np.array(protocol.motion_path_mm or [(0.0, 0.0, 0.0)]) + np.array(shift_mm)
    pad = [int(np.ceil((np.abs(path[:, k]).max() + STREAK_MM) / spacing_mm[k])) for k in (1, 2)]
    slices, rows, columns = volume.shape
    spectrum, size = _spectrum(volume, pad)
    place = path[:, 0] / spacing_mm[0]
    offsets = np.arange(np.floor(place.min() + 1e-6), np.ceil(place.max() - 1e-6) + 1)
    transfer = _transfer(path, spacing_mm[0] * offsets, size, spacing_mm, protocol)
    index = torch.arange(slices, device=volume.device)
    moved = torch.zeros_like(spectrum)
    for offset, factor in zip(offsets.astype(int).tolist(), transfer.to(volume.device), strict=True):
        moved += factor * (spectrum if offset == 0 else spectrum[(index - offset).clamp(0, slices - 1)])
    out = torch.fft.irfft2(moved, s=size)
    return out[:, pad[0] : pad[0] + rows, pad[1] : pad[1] + columns].to(volume.dtype)


def in_motion(
    still: Callable[[tuple[slice, slice, slice], Vector], Tensor], protocol: Protocol, box: Sequence[slice]
) -> Tensor:
    """Image of a box of the protocol's grid with the object in motion, from images of the object at rest.

    Along z the object itself is displaced, by steps of :data:`HEIGHT_MM`, before slices are formed: slices are far thicker
    than plaques, and interpolation between them would smear each plaque into its neighbours, however little it moves.

    Args:
        still: float32 image of a box of the grid, which may lie outside of it, with the object displaced by (z, y, x) mm.
        box: slices, rows and columns; slab by slab each has its own displacement.
    """
    path = np.array(protocol.motion_path_mm or [(0.0, 0.0, 0.0)])
    _, dy, dx = protocol.spacing_mm
    reach = np.abs(path).max(0) + STREAK_MM
    pad = [int(np.ceil(reach[k] / step)) if protocol.motion_path_mm else 0 for k, step in ((1, dy), (2, dx))]
    wide = [slice(box[k].start - pad[k - 1], box[k].stop + pad[k - 1]) for k in (1, 2)]
    slabs = slab_of(protocol, np.arange(box[0].start, box[0].stop))

    def at_height(height_mm: float) -> Tensor:
        pieces = []
        for slab in np.unique(slabs):
            inside = box[0].start + np.flatnonzero(slabs == slab)
            z, y, x = protocol.slab_shifts_mm[slab] if protocol.slab_shifts_mm else (0.0, 0.0, 0.0)
            part = (slice(int(inside[0]), int(inside[-1]) + 1), wide[0], wide[1])
            pieces.append(still(part, (z + height_mm, y, x)))
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    if not protocol.motion_path_mm:
        return at_height(0.0)
    low, high = float(path[:, 0].min()), float(path[:, 0].max())
    heights = np.linspace(low, high, int(np.ceil((high - low) / HEIGHT_MM)) + 1)
    spectra = [_spectrum(at_height(height), pad) for height in heights.tolist()]
    size = spectra[0][1]
    transfer = _transfer(path, heights, size, protocol.spacing_mm, protocol).to(spectra[0][0].device)
    moved = torch.fft.irfft2(sum(factor * one for factor, (one, _) in zip(transfer, spectra, strict=True)), s=size)
    rows, columns = (part.stop - part.start for part in box[1:])
    return moved[:, 2 * pad[0] : 2 * pad[0] + rows, 2 * pad[1] : 2 * pad[1] + columns]


def _spectrum(volume: Tensor, pad: Sequence[int]) -> tuple[Tensor, list[int]]:
    """Spectrum of each slice, continued by its edges by ``pad`` rows and columns on either side, and its size in space."""
    padded = F.pad(volume[None], (pad[1], pad[1], pad[0], pad[0]), mode="replicate")[0]
    size = [next_fast_len(n, real=True) for n in padded.shape[1:]]
    return torch.fft.rfft2(padded, s=size), size


def _transfer(
    path: np.ndarray, heights_mm: np.ndarray, size: Sequence[int], spacing_mm: Sequence[float], protocol: Protocol
) -> Tensor:
    """Factors [heights, y, x] of the spectra of the object displaced to each of equally spaced heights: the path [n, 3] by
    phases in-plane, along z shared linearly between the next heights."""
    fy = torch.fft.fftfreq(size[0], spacing_mm[1])[:, None]
    fx = torch.fft.rfftfreq(size[1], spacing_mm[2])[None]
    y, x = (torch.from_numpy(path[:, k]).float().reshape(-1, 1, 1) for k in (1, 2))
    phases = torch.polar(_seen(fy, fx, len(path), protocol), -2 * np.pi * (fy * y + fx * x))
    step = heights_mm[1] - heights_mm[0] if len(heights_mm) > 1 else 1.0
    shares = (1 - np.abs(path[:, 0] - heights_mm[:, None]) / step).clip(0)
    return torch.tensordot(torch.from_numpy(shares).to(phases), phases, 1)


def _seen(fy: Tensor, fx: Tensor, count: int, protocol: Protocol) -> Tensor:
    """Share [count, y, x] that each position has in each frequency; adds up to 1. Between two positions both count."""
    if count == 1:
        return torch.ones(1, fy.shape[0], fx.shape[1])
    turn = np.pi / protocol.sources
    angle = torch.atan2(fy, fx) - np.pi / 2 - np.deg2rad(protocol.motion_start_deg)  # the ray runs across the frequency
    first = (angle / turn).remainder(1.0)  # time in half turns; the window ends at 1 + OVERLAP
    late = (1 - first / OVERLAP).clamp_min(0)  # share of what is seen again half a turn later
    position = torch.arange(count, dtype=first.dtype).reshape(-1, 1, 1)

    def at(time: Tensor) -> Tensor:
        return (1 - (time / (1 + OVERLAP) * (count - 1) - position).abs()).clamp_min(0)

    return (1 - late) * at(first) + late * at(first + 1)


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
