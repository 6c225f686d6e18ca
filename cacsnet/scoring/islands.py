"""Islands: connected pixels of one slice, the unit in which calcium is weighted.

Agatston 1990: per slice, area times a weight from the island's peak HU in that slice.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

Box = tuple[slice, slice, slice]

# only the middle plane is set: neighbouring slices never join
_IN_PLANE = {n: np.zeros((3, 3, 3), dtype=bool) for n in (4, 8)}
_IN_PLANE[4][1] = ndimage.generate_binary_structure(2, 1)
_IN_PLANE[8][1] = ndimage.generate_binary_structure(2, 2)


def bounding_box(mask: np.ndarray) -> Box | None:
    """Slices around the non-zero voxels of [z, y, x] ``mask``; None where there are none."""
    z = np.flatnonzero(np.any(mask, axis=(1, 2)))
    if z.size == 0:
        return None
    slab = np.any(mask[z[0] : z[-1] + 1], axis=0)
    y, x = np.flatnonzero(slab.any(axis=1)), np.flatnonzero(slab.any(axis=0))
    return slice(int(z[0]), int(z[-1]) + 1), slice(int(y[0]), int(y[-1]) + 1), slice(int(x[0]), int(x[-1]) + 1)


def nonzero(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(z, y, x) indices of the non-zero voxels, as ``np.nonzero`` but several times faster where they are few."""
    z, y, x = np.unravel_index(np.flatnonzero(mask), mask.shape)
    return z, y, x


def above(hu: np.ndarray, threshold_hu: float, strict: bool = False) -> np.ndarray:
    """bool: HU ≥ threshold, or > where ``strict``."""
    if hu.dtype.kind == "i":  # compare integers with an integer: no float copy of the volume
        threshold_hu = int(np.floor(threshold_hu)) if strict else int(np.ceil(threshold_hu))
    return hu > threshold_hu if strict else hu >= threshold_hu


def islands(mask: np.ndarray, connectivity: int = 8) -> np.ndarray:
    """Label the islands of every slice.

    Args:
        mask: bool [z, y, x].
        connectivity: 4 or 8, in the slice.

    Returns:
        int32 [z, y, x], 0 background, 1..n unique over all slices.
    """
    labels = np.zeros(mask.shape, dtype=np.int32)
    box = bounding_box(mask)
    if box is not None:
        ndimage.label(mask[box], _IN_PLANE[connectivity], output=labels[box])
    return labels


def island_weights(
    hu: np.ndarray, mask: np.ndarray, bands_hu: tuple[float, float, float, float], least_pixels: int, connectivity: int
) -> np.ndarray:
    """Density weight of every voxel: 1-4 from its island's peak HU, 0 outside ``mask`` and in too small islands.

    Bands are half-open: a peak of 199.5 HU has weight 1, 200.0 has weight 2.

    Args:
        hu: int or float [z, y, x].
        mask: bool [z, y, x], voxels at or above the threshold.
        bands_hu: lower edges of the weights 1-4.
        least_pixels: smallest island kept.
        connectivity: 4 or 8.

    Returns:
        uint8 [z, y, x].
    """
    weights = np.zeros(mask.shape, dtype=np.uint8)
    where = nonzero(mask)
    if where[0].size == 0:
        return weights
    label = islands(mask, connectivity)[where]
    peak = np.full(label.max() + 1, -np.inf)
    np.maximum.at(peak, label, hu[where].astype(np.float64))
    # "right" counts the edges ≤ peak; a peak below the first edge is possible for a lower volume threshold only
    weight = np.maximum(np.searchsorted(bands_hu, peak, side="right"), 1).astype(np.uint8)
    weight[np.bincount(label) < least_pixels] = 0
    weights[where] = weight[label]
    return weights
