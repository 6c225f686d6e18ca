"""From any source grid to the canonical one: transposes and flips, never a resampled voxel."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import numpy as np

from cacsnet.errors import NotAVolumeError, TiltedGantryError
from cacsnet.scan import Geometry

MAX_SHEAR_DEGREES = 1.0
"""A larger angle between slice shift and slice normal is gantry tilt; less drifts under 3 mm over a heart."""

OBLIQUE_NOTE_DEGREES = 3.0
MIN_SLICES = 3


def angle_degrees(a: np.ndarray, b: np.ndarray) -> float:
    """Angle between two directions (not lines) in degrees."""
    sine = float(np.linalg.norm(np.cross(a, b)))
    return float(np.degrees(np.arctan2(sine, float(np.dot(a, b)))))


def canonical_geometry(
    shape: tuple[int, ...], affine_lps: np.ndarray, path: str | Path | None = None
) -> tuple[Geometry, tuple[str, ...]]:
    """Geometry of a source array after :meth:`Geometry.from_source`, and notes about it.

    Args:
        shape: shape of the source array, three axes in any order.
        affine_lps: float [4, 4], source index (in the source array's axis order) to patient mm in DICOM LPS.
        path: named in errors.

    Raises:
        NotAVolumeError: fewer than three slices, an axis of one voxel, zero or non-finite spacing, axes not at
            right angles.
        TiltedGantryError: the slices are sheared against each other by more than ``MAX_SHEAR_DEGREES``.
    """
    columns = np.asarray(affine_lps, dtype=np.float64)[:3, :3]
    lengths = np.linalg.norm(columns, axis=0)
    if not np.isfinite(affine_lps).all() or not (lengths > 0).all():
        spacing = tuple(float(s) for s in lengths)
        raise NotAVolumeError("voxel spacing must be positive and finite", path=path, field="spacing", value=spacing)

    cosines = columns / lengths
    # canonical axis k lies along patient axis 2 - k: z, y, x
    axes = max(permutations(range(3)), key=lambda order: sum(abs(cosines[2 - axis, i]) for i, axis in enumerate(order)))
    source_of = np.argsort(axes)
    flip_z, flip_y, flip_x = (bool(cosines[2 - k, source_of[k]] < 0) for k in range(3))
    flips = (flip_z, flip_y, flip_x)
    depth, height, width = (int(shape[source_of[k]]) for k in range(3))
    out_shape = (depth, height, width)

    affine = np.eye(4)
    affine[:3, 3] = affine_lps[:3, 3]
    for k in range(3):
        column = columns[:, source_of[k]]
        affine[:3, k] = -column if flips[k] else column
        if flips[k]:
            affine[:3, 3] += column * (out_shape[k] - 1)

    z, y, x = (affine[:3, k] / np.linalg.norm(affine[:3, k]) for k in range(3))
    skew = abs(90.0 - angle_degrees(x, y))
    if skew > MAX_SHEAR_DEGREES:
        raise NotAVolumeError("rows and columns are not at right angles", path=path, field="skew_degrees", value=skew)
    normal = np.cross(x, y)
    tilt = angle_degrees(z, normal)
    if tilt > MAX_SHEAR_DEGREES:
        raise TiltedGantryError(
            "slices are sheared against each other (gantry tilt)", path=path, field="tilt_degrees", value=round(tilt, 2)
        )
    if out_shape[0] < MIN_SLICES or min(out_shape) < 2:
        raise NotAVolumeError(f"a volume needs at least {MIN_SLICES} slices", path=path, field="shape", value=out_shape)

    dz = abs(float(affine[:3, 0] @ normal))
    dy, dx = (float(np.linalg.norm(affine[:3, k])) for k in (1, 2))
    # a nanometre is below any header's precision; rounding takes off float32 noise such as 0.7031250238
    spacing_mm = (round(dz, 6), round(dy, 6), round(dx, 6))
    if min(spacing_mm) <= 0:
        raise NotAVolumeError("voxel spacing must be positive", path=path, field="spacing", value=(dz, dy, dx))
    oblique = max(angle_degrees(axis, np.eye(3)[2 - k]) for k, axis in enumerate((z, y, x)))
    notes: tuple[str, ...] = ()
    if oblique > OBLIQUE_NOTE_DEGREES:
        notes = (f"the grid is oblique by {oblique:.1f} degrees: axes are the nearest ones, the affine is true",)
    return Geometry(out_shape, spacing_mm, affine, (axes[0], axes[1], axes[2]), flips), notes
