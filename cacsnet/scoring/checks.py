"""Argument checks shared by the scoring functions: each raises ArgumentError with the field and the value."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cacsnet.errors import ArgumentError


def check_spacing(spacing_mm: Sequence[float]) -> tuple[float, float, float]:
    """(dz, dy, dx) in mm as three positive finite floats."""
    try:
        dz, dy, dx = (float(s) for s in spacing_mm)
    except (TypeError, ValueError):
        raise ArgumentError("spacing must be three numbers (dz, dy, dx)", field="spacing_mm", value=spacing_mm) from None
    if not all(np.isfinite(s) and s > 0 for s in (dz, dy, dx)):
        raise ArgumentError("spacing must be positive and finite", field="spacing_mm", value=spacing_mm)
    return dz, dy, dx


def check_hu(hu: np.ndarray) -> None:
    """A non-empty 3-D array of finite signed integers or floats."""
    if not isinstance(hu, np.ndarray) or hu.ndim != 3:
        raise ArgumentError("HU must be a 3-D array [z, y, x]", field="hu", value=getattr(hu, "shape", type(hu)))
    if hu.size == 0:
        raise ArgumentError("the volume is empty", field="hu", value=hu.shape)
    if hu.dtype.kind not in "if":
        raise ArgumentError("HU must be signed integers or floats", field="hu", value=str(hu.dtype))
    if hu.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            low, high = float(hu.min()), float(hu.max())  # both carry a NaN on; no temporary volume as isnan() makes
        if not (np.isfinite(low) and np.isfinite(high)):
            raise ArgumentError("HU must be finite", field="hu", value=low if not np.isfinite(low) else high)


def check_labels(labels: np.ndarray, shape: tuple[int, ...], highest: int, field: str) -> None:
    """An integer label map of the given shape with values 0..highest."""
    check_mask_shape(labels, shape, field)
    if labels.dtype.kind not in "iu":  # a bool mask would silently become LM
        raise ArgumentError("a label map must be of integer type", field=field, value=str(labels.dtype))
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high > highest:
        raise ArgumentError(f"labels must be 0..{highest}", field=field, value=low if low < 0 else high)


def check_bool(mask: np.ndarray, shape: tuple[int, ...], field: str) -> None:
    """A bool array of the given shape."""
    check_mask_shape(mask, shape, field)
    if mask.dtype != bool:
        raise ArgumentError("a mask must be of type bool", field=field, value=str(mask.dtype))


def check_mask_shape(array: np.ndarray, shape: tuple[int, ...], field: str) -> None:
    """An array of the given shape."""
    if not isinstance(array, np.ndarray) or array.shape != tuple(shape):
        found = getattr(array, "shape", type(array))
        raise ArgumentError(f"the shape must be {tuple(shape)}", field=field, value=found)


def check_affine(affine: np.ndarray | None) -> np.ndarray | None:
    """None, or a finite 4 x 4 matrix (index (z, y, x, 1) to patient LPS mm) as float64."""
    if affine is None:
        return None
    matrix = np.asarray(affine, dtype=np.float64)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        raise ArgumentError("the affine must be a finite 4 x 4 matrix", field="affine", value=matrix.tolist())
    return matrix


def check_mass_factor(mass_factor: float | None) -> None:
    """None, or a positive finite number (mg/mm³ per HU)."""
    try:
        good = mass_factor is None or 0 < float(mass_factor) < np.inf
    except (TypeError, ValueError):
        good = False
    if not good:
        raise ArgumentError("the mass factor must be positive and finite", field="mass_factor", value=mass_factor)
