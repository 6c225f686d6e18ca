"""A real (or finished) scan as another scanner would have shown it: motion, thickness, blur, noise, cupping and padding.

Resolution is never restored. Where the target is sharper, thinner or less noisy than the source, nothing is done about it (or,
on request, an error is raised), and the protocol that comes back says what was reached. Edge enhancement isn't added, the tube
voltage stays that of the source (the HU of its calcium can't be known for another one), and metal has left its streaks already.
Labels that depend on HU must be made again afterwards.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor

from cacsnet.errors import ArgumentError
from cacsnet.scanner.finish import LOWEST_HU, finish
from cacsnet.scanner.kernel import SIGMA_PER_FWHM, apply_weights, noise_power, slice_correlation
from cacsnet.scanner.motion import move
from cacsnet.scanner.noise import noise
from cacsnet.scanner.protocol import Protocol

SAMPLE = 160
"""Pixels a side on which the effect of motion on noise is tried out."""

PADDED_HU = -1500.0
"""Below this no tissue or air can be: padding outside a reconstruction circle."""


def reimage(
    hu: Tensor,
    source: Protocol,
    target: Protocol,
    generator: torch.Generator,
    heart: Tensor | None = None,
    strict: bool = False,
) -> tuple[Tensor, Protocol]:
    """Re-image a scan.

    Args:
        hu: float32 [slices, rows, columns] of ``source``.
        source: grid, thickness, FWHM and noise of the scan (for a real one: its header, an assumed FWHM, its measured noise).
        target: what it shall become; rows and columns as in the source, slices wherever they lie in the source's range.
        generator: on the CPU.
        heart: weights 0 to 1 [slices, rows, columns] of what the target's motion displaces; None: everything.
        strict: raise where the target is sharper, thinner or less noisy, instead of leaving that as it is.

    Returns:
        float32 [slices, rows, columns] on the target's grid, and the protocol that was reached.

    Raises:
        ArgumentError: other rows or columns, slices outside the source, or (``strict``) a target that would need restoration.
    """
    _check(hu, source, target, strict)
    thick = _slice_weights(source, target)
    join = torch.from_numpy(thick).float()
    added = max(target.fwhm_mm**2 - source.fwhm_mm**2, 0.0) ** 0.5 * SIGMA_PER_FWHM
    still, moving = _noise_left(source, target, thick, added)
    if strict and target.noise_hu < float(still.max()) - 0.01:
        raise ArgumentError(f"{still.max():.1f} HU of noise would be left", field="noise_hu", value=target.noise_hu)

    padded = (hu < PADDED_HU).any(0)
    out = hu.clamp_min(LOWEST_HU).float()
    if target.moves:
        moved = move(out, source.origin_mm[0], source.spacing_mm, target)
        out = moved if heart is None else out + heart * (moved - out)
    out = apply_weights(out, join, 0)
    for axis in (1, 2):
        if added > 0:
            out = apply_weights(out, _blur(added / source.spacing_mm[axis], source.shape[axis]), axis)

    thicker = target if _variance(target) > _variance(source) else source
    reached = replace(
        target, kvp=source.kvp, calcium_scale=source.calcium_scale, fwhm_mm=max(target.fwhm_mm, source.fwhm_mm),
        edge_enhancement=source.edge_enhancement, thickness_mm=thicker.thickness_mm, slice_profile=thicker.slice_profile,
        noise_hu=max(target.noise_hu, float(np.median(still))),
    )  # fmt: skip
    variance, where_moving = (torch.from_numpy(sd**2).to(out)[:, None, None] for sd in (still, moving))
    if target.moves:
        variance = variance + (where_moving - variance) * (1.0 if heart is None else apply_weights(heart.to(out), join, 0))
    missing = (target.noise_hu**2 - variance).clamp_min(0).sqrt()
    if bool((missing > 0.01).any()):
        out = out + missing * noise(replace(reached, noise_hu=1.0), generator, out)
    out = finish(out, replace(reached, noise_hu=0.0), generator, metal_hu=torch.zeros_like(out))
    out[:, padded] = float(target.padding_hu)
    return out, reached


def _check(hu: Tensor, source: Protocol, target: Protocol, strict: bool) -> None:
    if tuple(hu.shape) != tuple(source.shape):
        raise ArgumentError("scan isn't on the source's grid", field="hu.shape", value=tuple(hu.shape))
    for field in ("spacing_mm", "shape", "origin_mm"):
        if not np.allclose(getattr(source, field)[1:], getattr(target, field)[1:], atol=1e-3):
            raise ArgumentError(
                "rows and columns must stay as in the source", field=f"target.{field}", value=getattr(target, field)
            )
    low = source.origin_mm[0] - source.spacing_mm[0] / 2
    high = low + source.shape[0] * source.spacing_mm[0]
    last = target.origin_mm[0] + (target.shape[0] - 1) * target.spacing_mm[0]
    if target.origin_mm[0] < low or last > high:
        raise ArgumentError(
            f"slices outside the source ({low:g} to {high:g} mm)", field="target", value=(target.origin_mm[0], last)
        )
    if strict:
        for field in ("fwhm_mm", "thickness_mm"):
            if getattr(target, field) < getattr(source, field) - 1e-9:
                raise ArgumentError("re-imaging can't restore what the source lost", field=field, value=getattr(target, field))
        if target.edge_enhancement > source.edge_enhancement or target.kvp != source.kvp:
            raise ArgumentError("kernel or tube voltage can't be changed", field="target", value=target.kernel or target.kvp)


def _variance(protocol: Protocol) -> float:
    """Variance of the slice profile, mm²."""
    t = protocol.thickness_mm
    return {"box": t * t / 12, "trapezoid": 1.25 * t * t / 12, "gaussian": (t * SIGMA_PER_FWHM) ** 2}[protocol.slice_profile]


def _slice_weights(source: Protocol, target: Protocol) -> np.ndarray:
    """Weights [target slices, source slices]: the part of each source slice, taken as a cell, within a box just so wide that
    it adds the missing variance (at least a cell). Contiguous slices joined to a multiple of them give that thicker slice."""
    step = source.spacing_mm[0]
    missing = max(_variance(target) - _variance(source), 0.0) / step**2
    place = (target.origin_mm[0] - source.origin_mm[0] + target.spacing_mm[0] * np.arange(target.shape[0])) / step
    widths = {phase: _box_width(missing, phase) for phase in np.unique(np.round(place % 1.0, 3)).tolist()}
    width = np.array([widths[phase] for phase in np.round(place % 1.0, 3).tolist()])
    weights = _cells(np.arange(source.shape[0] + 1) - 0.5 - place[:, None], width[:, None])
    return weights / weights.sum(1, keepdims=True)


def _cells(borders: np.ndarray, width: float | np.ndarray) -> np.ndarray:
    """Share of a box around 0 in each of the cells between ``borders`` (last axis)."""
    shares: np.ndarray = np.diff(np.clip(borders / width + 0.5, 0, 1), axis=-1)
    return shares


def _box_width(variance: float, phase: float) -> float:
    """Width (cells) of a box, ``phase`` beyond a cell's middle, whose shares have that variance about it; at least 1."""
    reach = int(np.ceil(np.sqrt(12 * variance + 1))) + 2
    cells = np.arange(-reach, reach + 1) - phase
    borders = np.arange(-reach, reach + 2) - 0.5 - phase

    def excess(width: float) -> float:
        return float((_cells(borders, width) * cells**2).sum()) - variance

    return 1.0 if excess(1.0) >= 0 else float(brentq(excess, 1.0, 2.0 * reach))


def _blur(sigma: float, size: int) -> Tensor:
    """Matrix [size, size] of a sampled Gaussian whose variance is exactly sigma² (pixels); edges are continued."""
    reach = int(np.ceil(5 * sigma)) + 2
    offset = np.arange(-reach, reach + 1)

    def taps(width: float) -> np.ndarray:
        values: np.ndarray = np.exp(-0.5 * (offset / width) ** 2)
        return values / values.sum()

    width = float(brentq(lambda w: float((taps(w) * offset**2).sum()) - sigma**2, 0.05, 1.1 * sigma + 0.5))
    matrix = np.zeros((size, size))
    rows = np.arange(size)
    for tap, value in zip(offset, taps(width), strict=True):
        np.add.at(matrix, (rows, np.clip(rows + tap, 0, size - 1)), value)
    return torch.from_numpy(matrix).float()


def _noise_left(source: Protocol, target: Protocol, thick: np.ndarray, added_mm: float) -> tuple[np.ndarray, np.ndarray]:
    """Noise SD (HU) of the source left in each target slice after joining slices with ``thick`` [out, in] and a Gaussian blur
    of sigma ``added_mm``: where everything stands still, and where the target's motion has mixed it."""
    per_mm = torch.linspace(0, 0.5 / source.spacing_mm[1], 400, dtype=torch.float64)
    power = noise_power(source, per_mm) * per_mm
    passed = power * torch.exp(-2 * (np.pi * added_mm * per_mm) ** 2) ** 2
    level = source.noise_hu * float((passed.sum() / power.sum()).sqrt())
    lag = np.abs(np.arange(thick.shape[1])[:, None] - np.arange(thick.shape[1])[None])
    correlation = slice_correlation(source.slice_profile, source.thickness_mm, source.spacing_mm[0], thick.shape[1])[lag]

    def joined(weights: np.ndarray) -> np.ndarray:
        sd: np.ndarray = level * np.sqrt(((weights @ correlation) * weights).sum(1))
        return sd

    still = joined(thick)
    return still, joined(thick * _noise_moved(source, target)) if target.moves and source.noise_hu > 0 else still


def _noise_moved(source: Protocol, target: Protocol) -> np.ndarray:
    """Share of its noise SD that each source slice keeps when the target's motion mixes places: tried out on noise alone."""
    before = noise(replace(source, shape=(source.shape[0], SAMPLE, SAMPLE)), torch.Generator().manual_seed(0))
    after = move(before, source.origin_mm[0], source.spacing_mm, target)
    shares: np.ndarray = (after.std((1, 2)) / before.std((1, 2))).double().numpy()
    return shares
