"""The audit trail: every candidate near the heart with its vessel or the reason why it was rejected."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cc3d
import numpy as np

from cacsnet.labels import VESSEL_NAMES
from cacsnet.scoring.agatston import Measures, Units, assign_vessels, kept_voxels, to_lps, weigh
from cacsnet.scoring.checks import check_affine, check_bool, check_hu, check_labels, check_mass_factor, check_spacing
from cacsnet.scoring.islands import above, bounding_box, islands
from cacsnet.scoring.profiles import ScoringProfile, as_profile
from cacsnet.scoring.reasons import REASON_INDEX, REASONS

LESION_COLUMNS: tuple[str, ...] = (
    "lesion",
    "kept",
    "vessel_or_reason",
    "slices",
    "n_slices",
    "area_mm2",
    "area_dropped_mm2",
    "peak_hu",
    "volume_mm3",
    "mass_mg",
    "agatston",
    "centroid_x_mm",
    "centroid_y_mm",
    "centroid_z_mm",
    "n_components",
    "n_voxels",
)

BELOW_MIN_AREA = "below_min_area"
EXTRACORONARY: tuple[str, ...] = ("aorta", "aortic_valve", "mitral_annulus")

_N_VESSELS = len(VESSEL_NAMES)
_PARTS: tuple[str, ...] = ("", *VESSEL_NAMES, *REASONS[1:])  # what one voxel's part can be; the index is its code


def extracoronary_scores(
    hu: np.ndarray,
    reasons: np.ndarray,
    spacing_mm: Sequence[float],
    kvp: float | None,
    profile: str | ScoringProfile = "smartscore",
    *,
    mass_factor: float | None = None,
) -> dict[str, Measures]:
    """Scores of calcium that isn't coronary; never a part of the coronary total.

    The island rule is that of :func:`cacsnet.scoring.score`, on the union of all rejected voxels.

    Args:
        hu: int or float [z, y, x], HU.
        reasons: uint8 [z, y, x], from :func:`cacsnet.scoring.reason_map`.
        spacing_mm: (dz, dy, dx).
        kvp: tube voltage.
        profile: scoring profile.
        mass_factor: mg/mm³ per HU; None: the profile's default.

    Returns:
        Measures for "aorta", "aortic_valve", "mitral_annulus".

    Raises:
        ArgumentError, TubeVoltageError: as :func:`cacsnet.scoring.score`.
    """
    rules = as_profile(profile)
    check_hu(hu)
    check_labels(reasons, hu.shape, len(REASONS) - 1, "reasons")
    spacing = check_spacing(spacing_mm)
    check_mass_factor(mass_factor)
    rules.bands(kvp)  # refuses an unknown voltage before anything else
    units = Units.of(spacing, kvp, rules, mass_factor)
    box = bounding_box(reasons)
    if box is None:
        return {name: Measures() for name in EXTRACORONARY}
    kept = kept_voxels(hu, box, reasons[box], spacing, kvp, rules)
    measures = kept.measures(units, len(REASONS) - 1)
    return {name: measures[REASON_INDEX[name] - 1] for name in EXTRACORONARY}


def lesion_table(
    hu: np.ndarray,
    candidates: np.ndarray,
    vessels: np.ndarray,
    reasons: np.ndarray,
    spacing_mm: Sequence[float],
    kvp: float | None,
    profile: str | ScoringProfile = "smartscore",
    affine: np.ndarray | None = None,
    offset: tuple[int, int, int] = (0, 0, 0),
    *,
    mass_factor: float | None = None,
) -> list[dict[str, Any]]:
    """One row for every kept lesion and rejected candidate.

    A candidate is a 3-D 26-connected component of candidate voxels with at least one island of the minimum area; it
    gets one row for each vessel and each reason among its voxels, all with the same number in ``lesion``. Kept ones
    come first, in falling order of score. A part none of whose islands reaches the minimum area is no row but counts in
    ``area_dropped_mm2`` of the component's largest row. All smaller components are one last row: ``lesion`` 0,
    ``vessel_or_reason`` "below_min_area", with their number and voxels. The Agatston of kept rows adds up to
    :func:`cacsnet.scoring.score`; that of rejected rows is what they would have scored.

    Args:
        hu: int or float [z, y, x], HU; the region within 30 mm of the heart is enough.
        candidates: bool [z, y, x], from :func:`cacsnet.scoring.candidate_mask`.
        vessels: uint8 [z, y, x], the final vessel map.
        reasons: uint8 [z, y, x], from :func:`cacsnet.scoring.reason_map`; a rejected voxel without one is "other".
        spacing_mm: (dz, dy, dx).
        kvp: tube voltage.
        profile: scoring profile.
        affine: float [4, 4], index (z, y, x, 1) of the *whole scan* to patient LPS mm; None leaves centroids empty.
        offset: (z, y, x) index in the whole scan of the region's first voxel.
        mass_factor: mg/mm³ per HU; None: the profile's default.

    Returns:
        Rows with :data:`LESION_COLUMNS`. ``slices`` is "first-last", z indices from 0 in the whole scan. Centroids are
        patient mm. Empty values are None.

    Raises:
        ArgumentError, TubeVoltageError: as :func:`cacsnet.scoring.score`.
    """
    rules = as_profile(profile)
    check_hu(hu)
    check_bool(candidates, hu.shape, "candidates")
    check_labels(vessels, hu.shape, _N_VESSELS, "vessels")
    check_labels(reasons, hu.shape, len(REASONS) - 1, "reasons")
    spacing = check_spacing(spacing_mm)
    affine = check_affine(affine)
    check_mass_factor(mass_factor)
    lowest = min(rules.threshold_hu(kvp), rules.volume_threshold(kvp))
    box = bounding_box(candidates | (vessels > 0))
    if box is None:
        return []
    hu, candidates, reasons = hu[box], candidates[box], reasons[box]
    vessel = assign_vessels(hu, vessels[box], kvp, rules)
    units = Units.of(spacing, kvp, rules, mass_factor)

    kept = (vessel > 0) & above(hu, lowest, rules.strict)
    rejected = candidates & ~kept
    part = np.where(kept, vessel, 0)
    part[rejected] = _N_VESSELS + np.where(reasons[rejected] > 0, reasons[rejected], REASON_INDEX["other"])
    weight, counted = weigh(hu, kept, spacing, kvp, rules)
    weight_rejected, counted_rejected = weigh(hu, rejected, spacing, kvp, rules)
    weight, counted = weight + weight_rejected, counted | counted_rejected

    component, n = cc3d.connected_components(part > 0, connectivity=26, return_N=True)
    where = np.nonzero(component)
    number = component[where].astype(np.int64)
    island = islands(part > 0, rules.connectivity)[where]
    enough = np.bincount(island) >= rules.least_pixels(units.area_mm2)
    qualifies = np.zeros(n + 1, dtype=bool)
    qualifies[number[enough[island]]] = True

    start = [b.start + o for b, o in zip(box, offset, strict=True)]
    key, inverse = np.unique(number * len(_PARTS) + part[where], return_inverse=True)
    sums = _sums(inverse, len(key), where, start, hu[where], weight[where], counted[where])
    whose, what = np.divmod(key, len(_PARTS))

    rows: list[dict[str, Any]] = []
    for k in np.flatnonzero(qualifies):
        mine = np.flatnonzero(whose == k)
        shown = [i for i in mine if sums["kept"][i] > 0]
        main = max(shown or mine, key=lambda i: sums["voxels"][i])
        lost = sum(sums["voxels"][i] for i in mine if i not in shown and i != main)
        for i in shown or [main]:
            row = _row(int(i), int(what[i]), sums, units, affine)
            row["lesion"] = int(k)
            row["area_dropped_mm2"] += float(lost) * units.area_mm2 if i == main else 0.0
            rows.append(row)
    _number(rows)

    small = ~qualifies[number]
    if small.any():
        empty: dict[str, Any] = dict.fromkeys(LESION_COLUMNS)
        n_voxels = int(np.count_nonzero(small))
        empty.update(
            lesion=0,
            kept=False,
            vessel_or_reason=BELOW_MIN_AREA,
            area_dropped_mm2=n_voxels * units.area_mm2,
            n_components=int(n - np.count_nonzero(qualifies)),
            n_voxels=n_voxels,
        )
        rows.append(empty)
    return rows


def _sums(
    part: np.ndarray,
    n: int,
    where: tuple[np.ndarray, ...],
    start: list[int],
    hu: np.ndarray,
    weight: np.ndarray,
    counted: np.ndarray,
) -> dict[str, np.ndarray]:
    """Sums over the voxels of each part, [n] each; ``part`` [m] is the part's number of each voxel."""

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(part, weights=values, minlength=n)

    z = where[0] + start[0]
    depth = int(z.max()) + 1
    out = {
        "voxels": total(np.ones(len(part))),
        "weight": total(weight),
        "area": total(weight > 0),
        "kept": total((weight > 0) | counted),
        "counted": total(counted),
        "hu": total(hu * counted.astype(np.float64)),
        "peak": np.full(n, -np.inf),
        "first": np.full(n, np.iinfo(np.int64).max),
        "last": np.full(n, -1),
        "n_slices": np.bincount(np.unique(part * depth + z) // depth, minlength=n),
    }
    for axis, name in enumerate("zyx"):
        out[name] = total(where[axis]) / out["voxels"] + start[axis]
    np.maximum.at(out["peak"], part, hu.astype(np.float64))
    np.minimum.at(out["first"], part, z)
    np.maximum.at(out["last"], part, z)
    return out


def _row(i: int, what: int, sums: dict[str, np.ndarray], units: Units, affine: np.ndarray | None) -> dict[str, Any]:
    has_calcium = sums["kept"][i] > 0
    is_vessel = what <= _N_VESSELS
    measures = units.measures(sums["weight"][i], sums["counted"][i], sums["hu"][i], 0)  # the table has no isotropic volume
    x, y, z = to_lps([sums[axis][i] for axis in "zyx"], affine) or (None, None, None)
    values = (
        0,  # numbered by the caller
        bool(is_vessel and has_calcium),
        BELOW_MIN_AREA if is_vessel and not has_calcium else _PARTS[what],
        f"{int(sums['first'][i])}-{int(sums['last'][i])}",
        int(sums["n_slices"][i]),
        float(sums["area"][i]) * units.area_mm2,
        float(sums["voxels"][i] - sums["kept"][i]) * units.area_mm2,
        float(sums["peak"][i]),
        measures.volume_mm3,
        measures.mass_mg,
        measures.agatston,
        x,
        y,
        z,
        1,
        int(sums["voxels"][i]),
    )
    return dict(zip(LESION_COLUMNS, values, strict=True))


def _number(rows: list[dict[str, Any]]) -> None:
    """Sort the rows, kept components first, by score, and number the components 1, 2, ... in that order."""
    best: dict[int, tuple[bool, float]] = {}
    for row in rows:
        rank = (row["kept"], row["agatston"])
        best[row["lesion"]] = max(best.get(row["lesion"], rank), rank)
    rows.sort(key=lambda row: (*(-v for v in best[row["lesion"]]), row["lesion"], not row["kept"], -row["agatston"]))
    numbers: dict[int, int] = {}
    for row in rows:
        row["lesion"] = numbers.setdefault(row["lesion"], len(numbers) + 1)
