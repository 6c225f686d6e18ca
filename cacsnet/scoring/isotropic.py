"""The isotropic-interpolated volume: HU interpolated along z to about cubic voxels, then thresholded.

Callister 1998 introduced it to make the volume less dependent on where the slices fall; the "literature" volume of FQM
(Med Phys 2021) is the same idea. Both leave details open, which are decided here so that the volume depends neither on
the direction of an axis nor on where the array starts:

- The pitch along z is the increment over a whole number n, the nearest to the in-plane pitch (geometric mean of dy and
  dx). So each slice is itself a sample, n - 1 lie between two slices, and one sample is worth dy x dx x increment / n.
- A sample counts if its interpolated HU reach the volume threshold. Between a kept voxel and one below the threshold
  it belongs to the kept one, also beyond the midpoint. Between two bright voxels each owns the half nearer to it (a
  sample in the middle counts half for each), and a half whose voxel isn't kept isn't counted.
- Above the last and below the first slice nothing is invented: those slices count with their own sample only.

No interpolated volume is made. How far a line from the HU of a kept voxel to that of its neighbour stays at or above
the threshold is known, and so is the number of samples up to there.
"""

from __future__ import annotations

import math

import numpy as np

from cacsnet.scoring.islands import above

Where = tuple[np.ndarray, np.ndarray, np.ndarray]


def samples_per_increment(spacing_mm: tuple[float, float, float]) -> int:
    """n: interpolated samples per increment, at least 1 (no interpolation where slices are as close as pixels)."""
    dz, dy, dx = spacing_mm
    return max(1, math.floor(dz / math.sqrt(dy * dx) + 0.5))


def interpolated_samples(hu: np.ndarray, where: Where, n: int, threshold_hu: float, strict: bool = False) -> np.ndarray:
    """How many samples each kept voxel owns: its own and its share of those towards its neighbours along z.

    Args:
        hu: int or float [z, y, x], HU; not cropped along z.
        where: (z, y, x) indices [m] of the kept voxels, all at or above the threshold.
        n: samples per increment.
        threshold_hu: the volume threshold.
        strict: > instead of ≥.

    Returns:
        float64 [m], from 1 to 2 n - 1, whole or half numbers.
    """
    z, y, x = where
    value = hu[where].astype(np.float64)
    samples = np.ones(len(value))
    for step in (-1, 1):
        exists = np.flatnonzero((z + step >= 0) & (z + step < hu.shape[0]))
        neighbour = hu[z[exists] + step, y[exists], x[exists]]
        bright = above(neighbour, threshold_hu, strict)
        samples[exists[bright]] += (n - 1) / 2
        dim = exists[~bright]
        reach = n * (value[dim] - threshold_hu) / (value[dim] - neighbour[~bright])  # where the line meets the threshold
        count = np.ceil(reach) - 1 if strict else np.floor(reach)
        samples[dim] += np.clip(count, 0, n - 1)  # rounding may put a voxel at the threshold a hair below it
    return samples
