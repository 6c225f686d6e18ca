"""A second, slow scorer, written apart from cacsnet.scoring: plain loops over slices, islands, pixels and samples."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from cacsnet.scoring import ScoringProfile

NAMES = {1: "LM", 2: "LAD", 3: "LCX", 4: "RCA"}


def naive_score(
    hu: np.ndarray,
    vessels: np.ndarray,
    spacing_mm: tuple[float, float, float],
    kvp: float,
    p: ScoringProfile,
    mass_factor: float | None = None,
) -> dict[str, list[float]]:
    """Agatston, volume, mass and isotropic-interpolated volume per vessel and "total"."""
    dz, dy, dx = spacing_mm
    edges = list(p.kvp_table_hu[kvp])
    if not p.bands_scale_with_kvp:
        edges[1:] = [200.0, 300.0, 400.0]
    if mass_factor is None:
        mass_factor = 0.001 / (p.ha_hu_per_mg_cc * edges[0] / 130)
    labels = vessels.astype(int)
    if p.fold_lm_into_lad:
        labels[labels == 1] = 2
    if p.voting == "component3d_6":
        bright = _bright(hu, edges[0], p) & (labels > 0)
        components, n = ndimage.label(bright)
        for k in range(1, n + 1):
            inside = components == k
            counts = [np.sum(labels[inside] == v) for v in range(1, 5)]
            labels[inside] = 1 + int(np.argmax(counts))

    out = {name: [0.0, 0.0, 0.0, 0.0] for name in [*NAMES.values(), "total"]}
    low_volume = edges[0] if p.volume_threshold_hu is None else p.volume_threshold_hu * edges[0] / 130
    for column, threshold in ((0, edges[0]), (1, low_volume)):
        mask = _bright(hu, threshold, p) & (labels > 0)
        for z in range(hu.shape[0]):
            for ys, xs in _islands(mask[z], p):
                if p.min_pixels is not None and len(ys) < p.min_pixels:
                    continue
                if p.min_area_mm2 is not None and len(ys) * dy * dx < p.min_area_mm2 - 1e-9:
                    continue
                peak = max(float(hu[z, y, x]) for y, x in zip(ys, xs, strict=True))
                weight = 4 if peak >= edges[3] else 3 if peak >= edges[2] else 2 if peak >= edges[1] else 1
                for y, x in zip(ys, xs, strict=True):
                    for name in (NAMES[labels[z, y, x]], "total"):
                        if column == 0:
                            out[name][0] += dy * dx * weight * (dz / 3 if p.slice_normalisation else 1)
                        else:
                            out[name][1] += dy * dx * dz
                            out[name][2] += dy * dx * dz * float(hu[z, y, x]) * mass_factor
                            out[name][3] += _samples(hu, z, y, x, spacing_mm, threshold, p)
    return out


def _samples(
    hu: np.ndarray, z: int, y: int, x: int, spacing_mm: tuple[float, float, float], threshold: float, p: ScoringProfile
) -> float:
    """Interpolated volume of one kept voxel, mm³: walk to both neighbours along z, sample by sample."""
    dz, dy, dx = spacing_mm
    n = max(1, int(dz / (dy * dx) ** 0.5 + 0.5))
    here, found = float(hu[z, y, x]), 1.0
    for other in (z - 1, z + 1):
        if not 0 <= other < hu.shape[0]:
            continue
        there = float(hu[other, y, x])
        contested = _bright(hu[other, y, x], threshold, p)
        for j in range(1, n):
            if not contested:
                found += bool(_bright(here + (there - here) * j / n, threshold, p))
            elif 2 * j == n:
                found += 0.5
            elif 2 * j < n:
                found += 1
    return found * dy * dx * dz / n


def _bright(hu: np.ndarray, threshold: float, p: ScoringProfile) -> np.ndarray:
    return hu > threshold if p.comparison == ">" else hu >= threshold


def _islands(mask: np.ndarray, p: ScoringProfile) -> list[tuple[np.ndarray, np.ndarray]]:
    labels, n = ndimage.label(mask, structure=ndimage.generate_binary_structure(2, 1 if p.connectivity == 4 else 2))
    return [np.nonzero(labels == k) for k in range(1, n + 1)]
