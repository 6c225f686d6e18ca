"""What a CT scanner does to anatomy: in-plane blur, slice profile, sampling, correlated noise.

Separable and linear in the noise-free part, so calcium can be imaged apart from the rest and added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

CALCIUM_HU_PER_MG_CC = {70: 2.25, 80: 1.96, 100: 1.61, 120: 1.41, 135: 1.29, 140: 1.27}
"""HU per mg/cc of hydroxyapatite behind 20 cm of water with 6 mm Al (first-principles values; 135 kVp interpolated)."""


@dataclass(frozen=True)
class Protocol:
    """How one scan is made.

    Attributes:
        spacing_mm: (dz, dy, dx), dz the increment.
        shape: (slices, rows, columns).
        origin_mm: patient (z, y, x) of voxel (0, 0, 0)'s centre.
        thickness_mm: full width of the (box) slice profile.
        fwhm_mm: full width at half maximum of the in-plane point spread function.
        noise_hu: standard deviation of the noise.
        noise_correlation_mm: in-plane correlation length of the noise (Gaussian sigma).
        kvp: tube voltage.
        calcium_scale: factor on CALCIUM_HU_PER_MG_CC (body size, filtration).
    """

    spacing_mm: tuple[float, float, float]
    shape: tuple[int, int, int]
    origin_mm: tuple[float, float, float]
    thickness_mm: float
    fwhm_mm: float = 1.0
    noise_hu: float = 18.0
    noise_correlation_mm: float = 0.6
    kvp: int = 120
    calcium_scale: float = 1.0

    @property
    def hu_per_mg_cc(self) -> float:
        return CALCIUM_HU_PER_MG_CC[self.kvp] * self.calcium_scale


def _gauss_weights(centres_out: Tensor, first_in: float, step_in: float, size_in: int, fwhm: float) -> Tensor:
    """Gaussian weights, normalised over the endless input lattice: a constant stays constant wherever the samples fall, and
    what lies beyond the volume counts as background. Without it a blur near the lattice step leaves a ripple of percents."""
    sigma = max(fwhm / 2.355, 0.45 * step_in)
    place = (centres_out - first_in) / step_in
    lattice = torch.arange(size_in, dtype=torch.float64)[None]
    weights = torch.exp(-0.5 * ((place[:, None] - lattice) * (step_in / sigma)) ** 2)
    around = place.floor()[:, None] + torch.arange(-8, 10, dtype=torch.float64)[None]
    endless = torch.exp(-0.5 * ((place[:, None] - around) * (step_in / sigma)) ** 2).sum(1, keepdim=True)
    reach = int(np.ceil(6 * sigma / step_in))
    if reach > 8:  # a blur much wider than the lattice: the sum is its integral
        endless = torch.full_like(endless, sigma * np.sqrt(2 * np.pi) / step_in)
    return (weights / endless).float()


def _box_weights(centres_out: Tensor, first_in: float, step_in: float, size_in: int, width: float) -> Tensor:
    """Overlap of each input cell with the slice, as a share of the slice width."""
    low = first_in + step_in * (torch.arange(size_in, dtype=torch.float64) - 0.5)
    overlap = torch.minimum(low[None] + step_in, centres_out[:, None] + width / 2) - torch.maximum(
        low[None], centres_out[:, None] - width / 2
    )
    return (overlap.clamp_min(0) / width).float()


def image(
    volume: Tensor,
    origin_mm: Sequence[float],
    step_mm: Sequence[float],
    protocol: Protocol,
    box: tuple[slice, slice, slice] | None = None,
    background: float = 0.0,
) -> Tensor:
    """Image a sampled field: slice profile along z, Gaussian in-plane, sampled on the protocol's grid (or a box of it).

    Args:
        volume: float32 [z, y, x] on a regular grid, first voxel at ``origin_mm`` (patient mm), voxel size ``step_mm``.
        background: value of the field outside ``volume``.

    Returns:
        float32 [slices, rows, columns] of the box.
    """
    out = volume - background
    for axis in range(3):
        box_axis = slice(0, protocol.shape[axis]) if box is None else box[axis]
        index = torch.arange(box_axis.start, box_axis.stop, dtype=torch.float64)
        centres = protocol.origin_mm[axis] + protocol.spacing_mm[axis] * index
        args = (centres, origin_mm[axis], step_mm[axis], volume.shape[axis])
        weights = _box_weights(*args, protocol.thickness_mm) if axis == 0 else _gauss_weights(*args, protocol.fwhm_mm)
        out = torch.tensordot(out, weights, dims=([axis], [1])).movedim(-1, axis)
    return out + background


def noise(protocol: Protocol, generator: torch.Generator) -> Tensor:
    """Zero-mean noise with the protocol's SD: correlated in-plane (band-pass, as filtered back projection leaves it),
    correlated between slices as far as their profiles overlap. float32 [slices, rows, columns]."""
    dz, dy, _ = protocol.spacing_mm
    overlap = max(0.0, 1 - dz / protocol.thickness_mm)
    white = torch.randn(protocol.shape, generator=generator)
    if overlap > 0:
        white = white + overlap * torch.roll(white, 1, 0)
    sigma = protocol.noise_correlation_mm / dy
    out = _blur(white, sigma) - 0.6 * _blur(white, 2.2 * sigma)
    return out * (protocol.noise_hu / float(out[:: max(1, len(out) // 4)].std().clamp_min(1e-6)))


def _blur(volume: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of rows and columns as two matrix products (one-channel convolutions are slow)."""
    for dim in (1, 2):
        index = torch.arange(volume.shape[dim])
        taps = torch.exp(-0.5 * ((index[:, None] - index[None]) / max(sigma, 1e-3)) ** 2).float()
        volume = torch.tensordot(volume, taps / taps.sum(1, keepdim=True), dims=([dim], [1])).movedim(-1, dim)
    return volume
