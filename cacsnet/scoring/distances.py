"""Distances in mm to a structure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from cacsnet.scoring.checks import check_spacing
from cacsnet.scoring.islands import bounding_box

DistanceLookup = Callable[[np.ndarray], np.ndarray]


def distance_mm(mask: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Distance of every voxel centre to the nearest voxel centre of ``mask``.

    Seconds on a whole scan: for a few candidate voxels :func:`distance_lookup` gives the same numbers at once.

    Args:
        mask: bool [z, y, x].
        spacing_mm: (dz, dy, dx).

    Returns:
        float32 [z, y, x], mm; 0 inside, inf everywhere if the mask is empty.
    """
    spacing = check_spacing(spacing_mm)
    if not mask.any():  # the transform would measure to a voxel that isn't there
        return np.full(mask.shape, np.inf, dtype=np.float32)
    return ndimage.distance_transform_edt(~mask.astype(bool), sampling=spacing).astype(np.float32)


def surface(mask: np.ndarray) -> np.ndarray:
    """Indices int [n, 3] (z, y, x) of the mask's voxels with a 6-neighbour outside it (the array's edge is outside)."""
    box = bounding_box(mask)
    if box is None:
        return np.zeros((0, 3), dtype=np.int64)
    m = np.pad(mask[box].astype(bool), 1)
    core = m[1:-1, 1:-1, 1:-1]
    inner = core & m[2:, 1:-1, 1:-1] & m[:-2, 1:-1, 1:-1]
    inner &= m[1:-1, 2:, 1:-1] & m[1:-1, :-2, 1:-1]
    inner &= m[1:-1, 1:-1, 2:] & m[1:-1, 1:-1, :-2]
    return np.argwhere(core & ~inner) + [b.start for b in box]


def nearest_lookup(points_mm: np.ndarray, max_mm: float = np.inf) -> DistanceLookup:
    """Distance to the nearest of some points.

    Args:
        points_mm: float [n, 3] (z, y, x) mm; may be empty.
        max_mm: places this far away or farther get inf (a bound makes the search fast).

    Returns:
        A function from places float [n, 3] to distances float64 [n], both mm; inf everywhere without points.
    """
    tree = cKDTree(points_mm) if len(points_mm) else None

    def lookup(places_mm: np.ndarray) -> np.ndarray:
        if tree is None:
            return np.full(len(places_mm), np.inf)
        return np.asarray(tree.query(places_mm, distance_upper_bound=max_mm)[0], dtype=np.float64)

    return lookup


def distance_lookup(
    mask: np.ndarray, spacing_mm: Sequence[float], max_mm: float = np.inf, to_surface: bool = False
) -> DistanceLookup:
    """Distance to a mask at chosen places only.

    Args:
        mask: bool [z, y, x].
        spacing_mm: (dz, dy, dx).
        max_mm: places this far away or farther get inf (a bound makes the search fast).
        to_surface: inside the mask, too, measure to its surface instead of giving 0.

    Returns:
        A function from places float [n, 3] = (z, y, x) index x spacing, mm from the centre of voxel (0, 0, 0), to
        distances float64 [n] in mm. Inf where the mask is empty.
    """
    spacing = np.array(check_spacing(spacing_mm))
    nearest = nearest_lookup(surface(mask) * spacing, max_mm)
    shape = np.array(mask.shape)

    def lookup(places_mm: np.ndarray) -> np.ndarray:
        distance = nearest(places_mm)
        if not to_surface and len(places_mm):
            index = np.rint(places_mm / spacing).astype(np.int64)
            known = ((index >= 0) & (index < shape)).all(axis=1)
            inside = np.zeros(len(index), dtype=bool)
            inside[known] = mask[tuple(index[known].T)]
            distance[inside] = 0.0
        return distance

    return lookup


def junction(first_mm: np.ndarray, second_mm: np.ndarray, contact_mm: float) -> np.ndarray:
    """Where two structures meet: the points of the first that lie within ``contact_mm`` of a point of the second.

    Args:
        first_mm, second_mm: float [n, 3] (z, y, x) mm, surface points of the structures.
        contact_mm: largest gap between voxel centres of structures that still touch.

    Returns:
        float [m, 3], a part of ``first_mm``; empty if they don't meet.
    """
    # the search stops strictly below its bound
    gap = nearest_lookup(second_mm, contact_mm + 1e-6)(first_mm)
    return first_mm[gap <= contact_mm]
