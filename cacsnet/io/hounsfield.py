"""Stored numbers to Hounsfield units, and the check that they are Hounsfield units."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cacsnet.errors import NotHounsfieldError

MIN_DISTINCT_VALUES = 64
AIR_BELOW_HU = -200
INT16 = np.iinfo(np.int16)


def rescale(stored: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    """``stored * slope + intercept``: int16 where that is exact, else float32; same shape."""
    exact = stored.dtype.kind in "iu" and float(slope).is_integer() and float(intercept).is_integer()
    if exact and stored.size:
        ends = [int(end) * int(slope) + int(intercept) for end in (stored.min(), stored.max())]
        if min(ends) >= INT16.min and max(ends) <= INT16.max:
            if slope == 1 and intercept == 0:
                return stored.astype(np.int16)
            # int64 since slope and intercept alone may leave int32
            return (stored.astype(np.int64) * int(slope) + int(intercept)).astype(np.int16)
    if slope == 1 and intercept == 0:
        return stored.astype(np.float32)
    return (stored * np.float64(slope) + np.float64(intercept)).astype(np.float32)


def check_hounsfield(hu: np.ndarray, path: str | Path | None = None) -> None:
    """Refuse a volume whose values can't be CT numbers: NaN, a mask, a picture, another unit.

    Raises:
        NotHounsfieldError: NaN or infinity; fewer than 64 distinct values; no air (nothing in -1024..-200 HU).
    """
    if hu.dtype.kind == "f" and not np.isfinite(hu).all():
        bad = int(np.count_nonzero(~np.isfinite(hu)))
        raise NotHounsfieldError("the volume holds NaN or infinity", path=path, field="non_finite_voxels", value=bad)
    sample = hu.reshape(-1)[:: max(1, hu.size // 100_000)]
    if np.unique(sample).size < MIN_DISTINCT_VALUES:
        distinct = int(np.unique(hu).size)
        if distinct < MIN_DISTINCT_VALUES:
            raise NotHounsfieldError(
                f"fewer than {MIN_DISTINCT_VALUES} distinct values: a mask or a picture, not a CT",
                path=path,
                field="distinct_values",
                value=distinct,
            )
    # slice by slice: mostly the first has air
    if not any(((plane <= AIR_BELOW_HU) & (plane >= -1024)).any() for plane in hu):
        raise NotHounsfieldError(
            f"nothing at or below {AIR_BELOW_HU} HU inside the field of view: the values are not in Hounsfield units",
            path=path,
            field="minimum",
            value=float(hu.min()),
        )
