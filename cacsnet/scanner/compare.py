"""Noise of a real scan beside the model's: the model's noise is laid over the smoothed real scan, so both are measured in the
same places by the same estimator."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from scipy.ndimage import gaussian_filter, maximum_filter, minimum_filter, uniform_filter

from cacsnet.errors import ArgumentError
from cacsnet.scan import Scan
from cacsnet.scanner.noise import noise
from cacsnet.scanner.protocol import Protocol

SIDE, STRIDE = 24, 4
SOFT_HU = (-10.0, 110.0)

Region = tuple[int, int, int]


def smooth_regions(hu: np.ndarray, within_hu: tuple[float, float] = SOFT_HU, count: int = 24) -> list[Region]:
    """(slice, row, column) corners of the ``count`` squares of :data:`SIDE` pixels with least structure whose mean lies within
    ``within_hu``, none overlapping. Enhanced blood (150 to 400 HU) is the only tissue without structure of its own."""
    found: list[tuple[float, Region]] = []
    for k, one in enumerate(hu.astype(float)):
        soft = gaussian_filter(one, 3)
        spread = maximum_filter(soft, SIDE - 6) - minimum_filter(soft, SIDE - 6)
        mean, least = uniform_filter(one, SIDE), minimum_filter(one, SIDE)
        for i in range(SIDE // 2, hu.shape[1] - SIDE, STRIDE):
            for j in range(SIDE // 2, hu.shape[2] - SIDE, STRIDE):
                if within_hu[0] < mean[i, j] < within_hu[1] and least[i, j] > -220:
                    found.append((float(spread[i, j]), (k, i - SIDE // 2, j - SIDE // 2)))
    chosen: list[Region] = []
    for _, (k, i, j) in sorted(found):
        if all(a != k or abs(b - i) >= SIDE or abs(c - j) >= SIDE for a, b, c in chosen):
            chosen.append((k, i, j))
        if len(chosen) == count:
            break
    return chosen


def texture(hu: np.ndarray, regions: Sequence[Region]) -> dict[str, np.ndarray]:
    """SD (HU) and autocorrelation at 1, 2 and 3 pixels along x and y, and at 1 slice, mean over regions less a plane."""
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE - 0.5
    basis = np.linalg.qr(np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], -1).reshape(-1, 6))[0]

    def residual(k: int, i: int, j: int) -> np.ndarray:
        flat = hu[k, i : i + SIDE, j : j + SIDE].astype(float).reshape(-1)
        return (flat - basis @ (basis.T @ flat)).reshape(SIDE, SIDE)

    parts = [residual(*region) for region in regions]
    next_slice = [
        float(np.corrcoef(p.ravel(), residual(k + 1, i, j).ravel())[0, 1])
        for p, (k, i, j) in zip(parts, regions, strict=True)
        if k + 1 < len(hu)
    ]
    return {
        "sd_hu": np.array([np.median([p.std() for p in parts])]),
        "along_x": np.mean([[(p[:, d:] * p[:, :-d]).mean() / p.var() for d in (1, 2, 3)] for p in parts], 0),
        "along_y": np.mean([[(p[d:] * p[:-d]).mean() / p.var() for d in (1, 2, 3)] for p in parts], 0),
        "next_slice": np.array([np.mean(next_slice)]),
    }


def row_noise(hu: np.ndarray, tissue: np.ndarray, axis: int, bands: int = 16) -> np.ndarray:
    """Noise SD (HU) [bands] from differences of neighbours along an axis (1 rows, 2 columns), where ``tissue`` is, in bands of
    rows from front to back; NaN where there is too little tissue."""
    difference = np.diff(hu.astype(float), axis=axis) / np.sqrt(2)
    inside = tissue.take(range(1, tissue.shape[axis]), axis) & tissue.take(range(tissue.shape[axis] - 1), axis)
    edges = np.linspace(0, difference.shape[1], bands + 1).astype(int)
    out = []
    for low, high in pairwise(edges.tolist()):
        values = np.abs(difference[:, low:high][inside[:, low:high]])
        out.append(1.4826 * float(np.median(values)) if values.size > 800 else float("nan"))
    return np.array(out)


def compare(scan: Scan, fwhm_mm: float, ray_noise: float, within_hu: tuple[float, float] = SOFT_HU, count: int = 24) -> str:
    """A table: texture and noise by rows of the real scan and of the model's noise in the same :func:`smooth_regions`."""
    hu = np.clip(scan.hu, -1024, None).astype(np.float32)
    regions = smooth_regions(hu, within_hu, count)
    if not regions:
        raise ArgumentError("no such tissue to measure", field="within_hu", value=within_hu)
    clean = torch.from_numpy(np.stack([gaussian_filter(one, 3) for one in hu]))
    thickness = scan.acquisition.slice_thickness_mm or scan.spacing_mm[0]
    protocol = Protocol(
        scan.spacing_mm, (hu.shape[0], hu.shape[1], hu.shape[2]), (0.0, 0.0, 0.0), thickness, fwhm_mm=fwhm_mm, noise_hu=1.0,
        ray_noise=ray_noise, slice_profile="gaussian",
    )  # fmt: skip
    unit = noise(protocol, torch.Generator().manual_seed(0), clean).numpy()
    real, alone = texture(hu, regions), texture(unit, regions)
    model = unit * float(real["sd_hu"][0] / alone["sd_hu"][0])
    tissue = np.abs(np.stack([gaussian_filter(one, 2) for one in hu]) - 45) < 25
    lines = [f"{len(regions)} regions, {scan.spacing_mm[1]:.3f} mm pixels, FWHM {fwhm_mm:g} mm, ray_noise {ray_noise:g}"]
    for name, volume, stats in (("real", hu, real), ("model", model, texture(model, regions))):
        lines.append(name + ": " + "  ".join(f"{key} {' '.join(f'{v:.2f}' for v in value)}" for key, value in stats.items()))
        for label, axis in (("between rows", 1), ("between columns", 2)):
            bands = " ".join("   -" if np.isnan(v) else f"{v:4.0f}" for v in row_noise(volume, tissue, axis))
            lines.append(f"  {label:16}{bands}  HU, front to back")
    return "\n".join(lines)
