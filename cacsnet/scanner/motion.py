"""Residual motion of the heart: along a path within the acquisition window, and between the slabs of several beats.

A half scan sees the frequencies of direction φ only by the rays that run across φ, at one moment of the window. So the image
of an object on the path d(t) is, by the central slice theorem, F(f) · exp(-2πi f · d(t(φ))): double edges, crescents and dark
shadows, not a plain blur. The window is longer than half a turn by the fan's angle: what is seen twice, at its beginning and
end, is joined smoothly. Integrals are kept: at f = 0 nothing happens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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

HEIGHT_MM, HEIGHT_SHARE = 0.4, 0.16
"""Longest step along z between the heights at which an object is imaged, and as a share of the slice's thickness where that is
more: at most 4 % are added to a slice."""

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
    the smallest thing in them, else :class:`Frame`. The volume is continued by its edges.
    """
    return _displaced(volume, spacing_mm, protocol, [(slice(0, len(volume)), tuple(shift_mm))])


def _displaced(
    volume: Tensor, spacing_mm: Sequence[float], protocol: Protocol, slabs: Sequence[tuple[slice, Sequence[float]]]
) -> Tensor:
    """:func:`displace` slab by slab, each (slices, displacement), from one transform of the volume."""
    path = np.array(protocol.motion_path_mm or [(0.0, 0.0, 0.0)])
    furthest = np.abs(path).max(0) + np.abs(np.array([shift for _, shift in slabs])).max(0)
    pad = [int(np.ceil((furthest[k] + STREAK_MM) / spacing_mm[k])) for k in (1, 2)]
    rows, columns = volume.shape[1:]
    size = [next_fast_len(n + 2 * p, real=True) for n, p in zip(volume.shape[1:], pad, strict=True)]
    spectrum = _spectrum(volume, pad, size)
    phases = _phases(path, size, spacing_mm, protocol)
    out = torch.empty_like(volume)
    for slices, shift in slabs:
        place = (path[:, 0] + shift[0]) / spacing_mm[0]
        offsets = np.arange(np.floor(place.min() + 1e-6), np.ceil(place.max() - 1e-6) + 1)
        whole = _phases(np.array([shift]), size, spacing_mm, protocol)
        transfer = (_at_heights(place, offsets, phases) * whole).to(volume.device)
        index = torch.arange(slices.start, slices.stop, device=volume.device)
        moved = spectrum.new_zeros(len(index), *spectrum.shape[1:])
        for offset, factor in zip(offsets.astype(int).tolist(), transfer, strict=True):
            moved.addcmul_(factor, spectrum[(index - offset).clamp(0, len(volume) - 1)])
        back = torch.fft.irfft2(moved, s=size)
        out[slices] = back[:, pad[0] : pad[0] + rows, pad[1] : pad[1] + columns]
    return out


def slabs_of(protocol: Protocol, slices: slice) -> list[tuple[slice, Vector]]:
    """The slabs of a range of slices: the slices of each, and its displacement (z, y, x) mm."""
    if not protocol.slab_shifts_mm:
        return [(slices, (0.0, 0.0, 0.0))]
    slabs = slab_of(protocol, np.arange(slices.start, slices.stop))
    starts = [slices.start + int(k) for k in np.flatnonzero(np.diff(slabs, prepend=-1))]
    ends = [*starts[1:], slices.stop]
    return [(slice(a, b), protocol.slab_shifts_mm[slabs[a - slices.start]]) for a, b in zip(starts, ends, strict=True)]


@dataclass(frozen=True)
class Frame:
    """Where the image of a box of a moving scan is made: rows and columns around it, the size of their spectrum.

    Along z the object itself is displaced, to a few heights, before slices are formed: slices are far thicker than plaques, and
    interpolation between them would smear each plaque into its neighbours, however little it moves.
    """

    protocol: Protocol
    box: tuple[slice, slice, slice]
    region: tuple[slice, slice]
    pad: tuple[int, int]
    size: tuple[int, int]

    @classmethod
    def around(cls, protocol: Protocol, box: tuple[slice, slice, slice], extent_mm: Sequence[tuple[float, float]]) -> Frame:
        """``extent_mm``: first and last (z, y, x) of the object at rest. What reaches further than streaks do is continued by
        its edges; around what doesn't there is nothing."""
        region, pad, size = [], [], []
        path = np.abs(np.array(protocol.motion_path_mm)).max(0)
        for k in (1, 2):
            step = protocol.spacing_mm[k]
            margin = int(np.ceil((path[k] + STREAK_MM) / step))
            reach = protocol.reach_mm[k] - path[k]
            first, last = (int(np.rint((mm - protocol.origin_mm[k]) / step)) for mm in extent_mm[k])
            low, high = first - int(np.ceil(reach / step)), last + int(np.ceil(reach / step)) + 1
            furthest = box[k].start - margin, box[k].stop + margin
            whole = furthest[0] <= low and high <= furthest[1]
            region.append(slice(low, high) if whole else slice(*furthest))
            pad.append(0 if whole else margin)
            used = max(high, box[k].stop) - min(low, box[k].start) if whole else furthest[1] - furthest[0]
            size.append(next_fast_len(used + 2 * margin, real=True))
        return cls(protocol, box, (region[0], region[1]), (pad[0], pad[1]), (size[0], size[1]))

    @property
    def heights_mm(self) -> np.ndarray:
        """Heights (mm) at which the object is imaged: those of the path's positions, or fewer equally spaced ones."""
        z = np.array(self.protocol.motion_path_mm)[:, 0]
        step = max(HEIGHT_MM, HEIGHT_SHARE * self.protocol.thickness_mm)
        count = int(np.ceil((z.max() - z.min()) / step)) + 1
        return np.linspace(z.min(), z.max(), count) if count < len(z) else np.unique(z)

    def transfer(self) -> Tensor:
        """Factors [heights, y, x] of the spectra at each height."""
        path = np.array(self.protocol.motion_path_mm)
        return _at_heights(path[:, 0], self.heights_mm, _phases(path, self.size, self.protocol.spacing_mm, self.protocol))

    def spectrum(self, layers: Tensor) -> Tensor:
        """Spectra [n, y, x] of layers [n, rows, columns] of the region."""
        return _spectrum(layers, self.pad, self.size)

    def image(self, spectra: Tensor) -> Tensor:
        """The box of the slices with those spectra."""
        moved = torch.fft.irfft2(spectra, s=self.size)
        ahead = [r.start - p - b.start for p, b, r in zip(self.pad, self.box[1:], self.region, strict=True)]
        rows, columns = (b.stop - b.start for b in self.box[1:])
        return torch.roll(moved, ahead, (1, 2))[:, :rows, :columns]


def _spectrum(volume: Tensor, pad: Sequence[int], size: Sequence[int]) -> Tensor:
    """Spectrum of each slice, continued by its edges by ``pad`` rows and columns on either side, then by zeros."""
    padded = F.pad(volume[None], (pad[1], pad[1], pad[0], pad[0]), mode="replicate")[0] if max(pad) else volume
    return torch.fft.rfft2(padded, s=tuple(size))


def _phases(path: np.ndarray, size: Sequence[int], spacing_mm: Sequence[float], protocol: Protocol) -> Tensor:
    """Factors [n, y, x] of an object's spectrum: its in-plane displacement at each position of a path [n, 3], and the share
    that the position has."""
    fy = torch.fft.fftfreq(size[0], spacing_mm[1])[:, None]
    fx = torch.fft.rfftfreq(size[1], spacing_mm[2])[None]
    y, x = (torch.from_numpy(path[:, k]).float().reshape(-1, 1, 1) for k in (1, 2))
    along_y, along_x = (torch.polar(torch.ones_like(f * mm), -2 * np.pi * f * mm) for f, mm in ((fy, y), (fx, x)))
    return along_y * (along_x * _seen(fy, fx, len(path), protocol))


def _at_heights(z: np.ndarray, heights: np.ndarray, phases: Tensor) -> Tensor:
    """Factors [heights, y, x] of the spectra of an object at each of the heights: phases [n, y, x] of positions at ``z`` [n],
    each shared linearly between the next heights."""
    shares = np.stack([np.interp(z, heights, one) for one in np.eye(len(heights))])
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
    starts = np.flatnonzero(np.diff(slabs, prepend=-1)).tolist()
    shifts = protocol.slab_shifts_mm or ((0.0, 0.0, 0.0),)
    pieces = [(slice(a, b), shifts[slabs[a]]) for a, b in zip(starts, [*starts[1:], len(volume)], strict=True)]
    return _displaced(volume, spacing_mm, protocol, pieces)
