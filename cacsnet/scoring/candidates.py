"""From the network's probabilities to a vessel map: candidate voxels, the vote of islands, the vessel filter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cc3d
import numpy as np
from scipy.spatial import cKDTree

from cacsnet.errors import ArgumentError
from cacsnet.labels import VESSELS
from cacsnet.scoring.checks import check_bool, check_hu, check_labels, check_mask_shape, check_spacing
from cacsnet.scoring.distances import DistanceLookup
from cacsnet.scoring.islands import above, bounding_box, islands

_AREA_TOLERANCE = 1e-9  # mm²


@dataclass(frozen=True)
class VoteSettings:
    """How an island's voxels vote.

    Attributes:
        join_fraction: from this fraction of coronary voxels on the whole island is coronary (0-1).
        reject_fraction: below it none of the island is (0-1).
        max_island_mm2: larger islands (bone touching an artery, say) are decided voxel by voxel, mm².
    """

    join_fraction: float = 0.5
    reject_fraction: float = 0.2
    max_island_mm2: float = 100.0

    def __post_init__(self) -> None:
        if not 0 <= self.reject_fraction <= self.join_fraction <= 1:
            raise ArgumentError(
                "need 0 <= reject_fraction <= join_fraction <= 1",
                field="reject_fraction",
                value=(self.reject_fraction, self.join_fraction),
            )


VOTE_DEFAULTS = VoteSettings()


def candidate_mask(
    hu: np.ndarray, threshold_hu: float, heart: np.ndarray, max_distance_mm: float = 30.0, strict: bool = False
) -> np.ndarray:
    """Voxels bright enough to be calcium, near the heart.

    Args:
        hu: int or float [z, y, x], HU.
        threshold_hu: the profile's threshold at the scan's kVp.
        heart: bool [z, y, x]: the region allowed; or float [z, y, x]: distance to the heart in mm.
        max_distance_mm: how far from the heart, for a distance volume.
        strict: True: > instead of ≥ (``ScoringProfile.strict``).

    Returns:
        bool [z, y, x].

    Raises:
        ArgumentError: shapes differ, HU not finite, ``heart`` neither bool nor float.
    """
    check_hu(hu)
    check_mask_shape(heart, hu.shape, "heart")
    if heart.dtype == bool:
        near = heart
    elif heart.dtype.kind == "f":
        near = heart <= max_distance_mm
    else:
        raise ArgumentError("heart must be a bool region or float distances", field="heart", value=str(heart.dtype))
    mask = above(hu, threshold_hu, strict)
    mask &= near
    return mask


def vote_islands(
    candidates: np.ndarray,
    p_cor: np.ndarray,
    vessel: np.ndarray,
    spacing_mm: Sequence[float],
    tau: float = 0.5,
    connectivity: int = 8,
    settings: VoteSettings = VOTE_DEFAULTS,
) -> np.ndarray:
    """Decide per island which candidate voxels are coronary, and of which vessel.

    Per slice, connected candidates form an island. Up to ``max_island_mm2``: if at least ``join_fraction`` of its
    voxels are coronary (p_cor ≥ tau) the others join, each with the label of the nearest coronary voxel of the same
    island; if fewer than ``reject_fraction`` are, none is kept. In between, and for larger islands, each voxel decides
    for itself.

    Args:
        candidates: bool [z, y, x].
        p_cor: float [z, y, x], 1 - P(background); read at candidates only.
        vessel: uint8 [z, y, x], most likely vessel 1-4; read at coronary candidates only.
        spacing_mm: (dz, dy, dx).
        tau: coronary from this probability on.
        connectivity: 4 or 8, the scoring profile's.
        settings: fractions and the area limit.

    Returns:
        uint8 [z, y, x], vessel labels, 0 where not coronary.

    Raises:
        ArgumentError: shapes differ, wrong types, NaN in p_cor or a vessel outside 1-4 where they are read.
    """
    check_bool(candidates, candidates.shape, "candidates")
    check_mask_shape(p_cor, candidates.shape, "p_cor")
    check_mask_shape(vessel, candidates.shape, "vessel")
    _, dy, dx = check_spacing(spacing_mm)
    kept = np.zeros(candidates.shape, dtype=np.uint8)
    where = np.nonzero(candidates)
    if where[0].size == 0:
        return kept

    probability = p_cor[where]
    if not np.isfinite(probability).all():
        raise ArgumentError("probabilities must be finite", field="p_cor", value=float("nan"))
    coronary = probability >= tau
    island = islands(candidates, connectivity)[where]
    size = np.bincount(island)
    share = np.bincount(island, weights=coronary) / np.maximum(size, 1)
    small = size * (dy * dx) <= settings.max_island_mm2 + _AREA_TOLERANCE
    rejects = small & (share < settings.reject_fraction)
    # without a coronary voxel there is no label to join, whatever the settings say
    joins = small & ~rejects & (share >= settings.join_fraction) & (share > 0)

    label = np.where(coronary, vessel[where], 0)
    wrong = coronary & ((label < 1) | (label >= len(VESSELS)))
    if wrong.any():
        raise ArgumentError("a coronary voxel needs a vessel 1-4", field="vessel", value=int(label[wrong][0]))
    rest = ~coronary & joins[island]
    if rest.any():
        # the island's number as a far coordinate keeps the search within the island
        apart = 4.0 * (candidates.shape[1] * dy + candidates.shape[2] * dx)
        place = np.stack([island * apart, where[1] * dy, where[2] * dx], axis=1)
        source = np.flatnonzero(coronary & joins[island])
        _, nearest = cKDTree(place[source]).query(place[rest])
        label[rest] = label[source[nearest]]
    label[rejects[island]] = 0
    kept[where] = label
    return kept


def vessel_filter(
    vessel_map: np.ndarray,
    ventricle_distance_mm: np.ndarray | DistanceLookup,
    spacing_mm: Sequence[float],
    max_distance_mm: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Remove lesions far from the ventricles.

    A 3-D 26-connected lesion is removed as a whole if its *smallest* distance to the ventricles (left and right blood
    pool and left-ventricular myocardium) exceeds ``max_distance_mm``.

    Args:
        vessel_map: uint8 [z, y, x], vessels 0-4.
        ventricle_distance_mm: float [z, y, x] in mm, or a function from places [n, 3] (index x spacing, mm) to
            distances [n] in mm (see :func:`cacsnet.scoring.distance_lookup`).
        spacing_mm: (dz, dy, dx).
        max_distance_mm: largest distance kept.

    Returns:
        (filtered uint8 [z, y, x], removed bool [z, y, x]).

    Raises:
        ArgumentError: shapes differ, bad labels or spacing, NaN distances.
    """
    check_labels(vessel_map, vessel_map.shape, len(VESSELS) - 1, "vessel_map")
    spacing = np.array(check_spacing(spacing_mm))
    filtered = vessel_map.astype(np.uint8)
    removed = np.zeros(vessel_map.shape, dtype=bool)
    box = bounding_box(vessel_map)
    if box is None:
        return filtered, removed

    lesion = cc3d.connected_components(vessel_map[box] > 0, connectivity=26)
    inside = np.nonzero(lesion)
    where = tuple(i + b.start for i, b in zip(inside, box, strict=True))
    if callable(ventricle_distance_mm):
        distance = ventricle_distance_mm(np.stack(where, axis=1) * spacing)
    else:
        check_mask_shape(ventricle_distance_mm, vessel_map.shape, "ventricle_distance_mm")
        distance = ventricle_distance_mm[where]
    if np.isnan(distance).any():
        raise ArgumentError("distances must not be NaN", field="ventricle_distance_mm", value=float("nan"))
    number = lesion[inside]
    nearest = np.full(int(number.max()) + 1, np.inf)
    np.minimum.at(nearest, number, distance)
    removed[where] = nearest[number] > max_distance_mm
    filtered[removed] = 0
    return filtered, removed
