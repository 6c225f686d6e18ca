"""In-plane kernel, slice profile and noise spectrum of a protocol, and their use on a regular lattice.

In-plane the point spread function is a Gaussian (Nickoloff and Riley 1985: measured ones are nearly), for sharp kernels a
difference of two: (1 + a) G(σ) - a G(3 σ), whose MTF exceeds 1 at middle frequencies if a > 1/8.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from scipy.optimize import brentq
from scipy.special import ndtr
from torch import Tensor

from cacsnet.scanner.protocol import Protocol

SIGMA_PER_FWHM = 1 / 2.354820045
EDGE_RATIO = 3.0
"""Width of the subtracted Gaussian of a sharp kernel, as a multiple of the narrow one. Unverified default."""

NOISE_FLOOR_PER_MM = 0.02
"""Noise power spectra don't reach zero at zero frequency, since pixels alias (Kijewski and Judy 1987). Unverified value."""

BLOCK = 64
"""Output samples that share one band of a weight matrix."""


# -- in-plane -----------------------------------------------------------------------------------------------------------
@lru_cache(maxsize=256)
def _narrow_sigma(edge: float) -> float:
    """Sigma of the narrow Gaussian of a kernel whose point spread function is 1 mm wide (FWHM)."""
    if edge == 0:
        return SIGMA_PER_FWHM
    wide = edge / EDGE_RATIO**2

    def above_half(r: float) -> float:  # r in units of sigma
        value = (1 + edge) * np.exp(-0.5 * r * r) - wide * np.exp(-0.5 * (r / EDGE_RATIO) ** 2)
        return float(value - 0.5 * (1 + edge - wide))

    return 0.5 / float(brentq(above_half, 0.1, 2.0))


def gaussians(protocol: Protocol) -> list[tuple[float, float]]:
    """(weight, sigma in mm) of the Gaussians that make up the point spread function. The weights add up to 1."""
    sigma = protocol.fwhm_mm * _narrow_sigma(protocol.edge_enhancement)
    if protocol.edge_enhancement == 0:
        return [(1.0, sigma)]
    return [(1 + protocol.edge_enhancement, sigma), (-protocol.edge_enhancement, EDGE_RATIO * sigma)]


def mtf(protocol: Protocol, per_mm: Tensor) -> Tensor:
    """Modulation transfer function at frequencies in 1/mm."""
    out = torch.zeros_like(per_mm)
    for weight, sigma in gaussians(protocol):
        out += weight * torch.exp(-2 * (np.pi * sigma * per_mm) ** 2)
    return out


def noise_power(protocol: Protocol, per_mm: Tensor) -> Tensor:
    """Noise power spectrum (no unit) at radial frequencies in 1/mm.

    Filtered back projection: ramp · MTF² (Riederer et al. 1978). Iterative reconstruction of strength s flattens the ramp
    and adds a low-pass, so that the peak moves down (s = 0.6: to 0.7, s = 1: to 0.56 of its frequency) and the noise turns
    blotchy, as measured by De Marco and Origgi 2018; the form is ours.
    """
    sigma = protocol.noise_correlation_mm
    if sigma is None:
        power = mtf(protocol, per_mm) ** 2
        sigma = gaussians(protocol)[0][1]
    else:
        power = torch.exp(-((2 * np.pi * sigma * per_mm) ** 2))
    peak = 1 / (2 * np.pi * np.sqrt(2) * sigma)
    s = protocol.iterative
    ramp = (1 - s / 4) * (per_mm + NOISE_FLOOR_PER_MM) + s / 4 * peak
    return ramp * power * torch.exp(-0.5 * s * (per_mm / peak) ** 2)


# -- along z ------------------------------------------------------------------------------------------------------------
def _profile_integral(protocol: Protocol, x: np.ndarray) -> np.ndarray:
    """Integral of the slice profile (area 1) from far below up to x mm."""
    t = protocol.thickness_mm
    out: np.ndarray
    if protocol.slice_profile == "gaussian":
        out = ndtr(x / (t * SIGMA_PER_FWHM))
    elif protocol.slice_profile == "box":
        out = np.clip(x / t + 0.5, 0, 1)
    else:  # a box of t convolved with one of t / 2
        out = np.zeros_like(x)
        for sign, shift in ((1, 0.75), (-1, 0.25), (-1, -0.25), (1, -0.75)):
            out += sign * np.maximum(x + shift * t, 0) ** 2 / (t * t)
    return out


@lru_cache(maxsize=64)
def slice_correlation(profile: str, thickness_mm: float, increment_mm: float, count: int) -> np.ndarray:
    """Correlation of the noise of slices k = 0 .. count - 1 increments apart: autocorrelation of the slice profile."""
    protocol = Protocol((1, 1, 1), (1, 1, 1), (0, 0, 0), thickness_mm, slice_profile=profile)
    fine = thickness_mm / 200
    p = np.diff(_profile_integral(protocol, np.arange(-800, 801) * fine))
    auto = np.correlate(p, p, "full")[len(p) - 1 :]
    lags = np.arange(count) * increment_mm
    out: np.ndarray = np.interp(lags, np.arange(len(auto)) * fine, auto / auto[0], right=0.0)
    out[np.abs(out) < 1e-9] = 0.0
    return out


# -- weights on a lattice -----------------------------------------------------------------------------------------------
def slice_weights(protocol: Protocol, centres_mm: np.ndarray, first: float, step: float, size: int) -> Tensor:
    """Weights [slices, size] of the slice profile over cells of ``step`` mm, the first one's centre at ``first``."""
    borders = first + step * (np.arange(size + 1) - 0.5)
    below = _profile_integral(protocol, borders - centres_mm[:, None])
    return torch.from_numpy((below[:, 1:] - below[:, :-1]).astype(np.float32))


def gauss_weights(sigma: float, centres_mm: np.ndarray, first: float, step: float, size: int) -> Tensor:
    """Weights [samples, size] of a Gaussian over a field that is linear between its values, each the mean of its cell.

    The lattice itself blurs: a cell has variance step²/12, the line between the values step²/6; both are taken off sigma².
    A lattice too coarse for sigma leaves linear interpolation. The weights of an endless lattice add up to exactly 1.
    """
    sigma = max(sigma**2 - step**2 / 4, 0.0) ** 0.5
    x = centres_mm[:, None] - (first + step * np.arange(-1, size + 1))
    if sigma > 1e-3 * step:
        u = x / sigma
        twice = x * ndtr(u) + sigma / np.sqrt(2 * np.pi) * np.exp(-0.5 * u * u)  # the Gaussian integrated twice
    else:
        twice = np.maximum(x, 0)
    weights = (twice[:, 2:] - 2 * twice[:, 1:-1] + twice[:, :-2]) / step
    return torch.from_numpy(weights.astype(np.float32))


def apply_weights(volume: Tensor, weights: Tensor, axis: int) -> Tensor:
    """Weights [out, in] along one axis of a volume [z, y, x], block by block, where they aren't zero."""
    if weights.numel() <= BLOCK**2:
        return _product(volume, weights.to(volume), axis)
    used = weights.abs() > 1e-8
    weights = weights.to(volume)
    pieces = []
    for start in range(0, len(weights), BLOCK):
        columns = torch.nonzero(used[start : start + BLOCK].any(0)).flatten()
        low, high = (int(columns[0]), int(columns[-1]) + 1) if columns.numel() else (0, 1)
        pieces.append(_product(volume.narrow(axis, low, high - low), weights[start : start + BLOCK, low:high], axis))
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, axis)


def _product(volume: Tensor, weights: Tensor, axis: int) -> Tensor:
    if axis == 2:
        return volume @ weights.T
    if axis == 1:
        return torch.matmul(weights, volume)
    return (weights @ volume.reshape(volume.shape[0], -1)).reshape(-1, *volume.shape[1:])
