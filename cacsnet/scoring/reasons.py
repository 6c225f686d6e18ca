"""Why the network's rejected candidates were rejected: a name from the geometry around each.

A first version: fixed distances to the structure labels. A reason explains a rejection; it never overrides a kept
candidate. All distances and factors are unverified defaults.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cc3d
import numpy as np

from cacsnet.labels import STRUCTURE_INDEX, STRUCTURES
from cacsnet.scoring.checks import check_bool, check_hu, check_labels, check_spacing
from cacsnet.scoring.distances import distance_lookup
from cacsnet.scoring.islands import bounding_box, islands
from cacsnet.scoring.profiles import ScoringProfile, as_profile

REASONS: tuple[str, ...] = (
    "",  # not rejected
    "outside_heart",
    "aorta",
    "aortic_valve",
    "mitral_annulus",
    "pericardium",
    "bone",
    "metal_or_stent",
    "noise",
    "other",
)
REASON_INDEX: dict[str, int] = {name: i for i, name in enumerate(REASONS)}


@dataclass(frozen=True)
class ReasonSettings:
    """Limits of the rules in :func:`name_reason`. Units are in the names.

    Attributes:
        metal_hu: peak from which a component is metal or a stent.
        bone_distance_mm: farther from every heart structure is bone.
        bone_volume_mm3: a larger connected component is bone.
        noise_area_factor: a component without an island of this many minimum areas may be noise ...
        noise_margin_hu: ... if its peak is less than this above the threshold, too.
        aorta_distance_mm, aorta_fraction: aortic wall if this fraction of the voxels lies this close to the aorta.
        valve_distance_mm: aortic valve if this close to the aorta and to the left ventricle.
        mitral_distance_mm: mitral annulus if this close to the left atrium and to the left ventricle or myocardium.
        pericardium_distance_mm: pericardium if this close to the heart's outer surface.
    """

    metal_hu: float = 2000.0
    bone_distance_mm: float = 15.0
    bone_volume_mm3: float = 3000.0
    noise_area_factor: float = 3.0
    noise_margin_hu: float = 30.0
    aorta_distance_mm: float = 3.0
    aorta_fraction: float = 0.5
    valve_distance_mm: float = 6.0
    mitral_distance_mm: float = 8.0
    pericardium_distance_mm: float = 8.0


REASON_DEFAULTS = ReasonSettings()


@dataclass(frozen=True)
class ComponentFacts:
    """What the rules look at in one 3-D 26-connected component of rejected candidates.

    Distances in mm are the component's smallest; None: no structures known. Inf: none within reach.

    Attributes:
        peak_hu: highest HU.
        margin_hu: peak minus the calcium threshold.
        island_factor: area of its largest island in a slice, in minimum areas of the profile.
        volume_mm3: volume.
        heart_mm: to any heart structure.
        surface_mm: to the outer surface of the chambers and the myocardium.
        aorta_mm, left_ventricle_mm, left_atrium_mm, left_heart_wall_mm: to the aorta, the left ventricle's blood pool,
            the left atrium, the left ventricle or its myocardium.
        aorta_fraction: fraction of the voxels within ``aorta_distance_mm`` of the aorta.
        filtered: the network kept it, the vessel filter removed it.
    """

    peak_hu: float
    margin_hu: float
    island_factor: float
    volume_mm3: float
    heart_mm: float | None = None
    surface_mm: float = np.inf
    aorta_mm: float = np.inf
    left_ventricle_mm: float = np.inf
    left_atrium_mm: float = np.inf
    left_heart_wall_mm: float = np.inf
    aorta_fraction: float = 0.0
    filtered: bool = False


def name_reason(facts: ComponentFacts, settings: ReasonSettings = REASON_DEFAULTS) -> str:
    """One of :data:`REASONS` for a rejected component; the first rule that holds.

    Order: metal, bone, noise, aortic valve, aorta, mitral annulus, pericardium, outside the heart, other. Noise comes
    before the anatomical names so that specks don't add up to a valve score; the valve comes before the aorta because
    it lies within the root, which is labelled aorta.
    """
    s = settings
    if facts.peak_hu >= s.metal_hu:
        return "metal_or_stent"
    if facts.volume_mm3 > s.bone_volume_mm3:
        return "bone"
    if facts.heart_mm is not None and facts.heart_mm > s.bone_distance_mm:
        return "bone"
    if facts.island_factor < s.noise_area_factor and facts.margin_hu < s.noise_margin_hu:
        return "noise"
    if facts.heart_mm is not None:
        if max(facts.aorta_mm, facts.left_ventricle_mm) <= s.valve_distance_mm:
            return "aortic_valve"
        if facts.aorta_fraction >= s.aorta_fraction:
            return "aorta"
        if max(facts.left_atrium_mm, facts.left_heart_wall_mm) <= s.mitral_distance_mm:
            return "mitral_annulus"
        if facts.surface_mm <= s.pericardium_distance_mm:
            return "pericardium"
        if facts.filtered or facts.heart_mm > s.pericardium_distance_mm:
            return "outside_heart"
    return "outside_heart" if facts.filtered else "other"


def reason_map(
    hu: np.ndarray,
    rejected: np.ndarray,
    structures: np.ndarray | None,
    spacing_mm: Sequence[float],
    kvp: float | None,
    profile: str | ScoringProfile = "smartscore",
    settings: ReasonSettings = REASON_DEFAULTS,
    filtered: np.ndarray | None = None,
) -> np.ndarray:
    """Name the reason of every rejected candidate voxel (all voxels of a 26-connected component share one).

    Pass the region within 30 mm of the heart, not the whole scan: time grows with it.

    Args:
        hu: int or float [z, y, x], HU.
        rejected: bool [z, y, x], candidate voxels that no vessel holds.
        structures: uint8 [z, y, x], structure labels 0-7 on the same grid, or None where unknown.
        spacing_mm: (dz, dy, dx).
        kvp: tube voltage (for the threshold).
        profile: scoring profile (threshold, minimum area, connectivity).
        settings: limits of the rules.
        filtered: bool [z, y, x], voxels that the vessel filter removed (a part of ``rejected``), or None.

    Returns:
        uint8 [z, y, x], index into :data:`REASONS`; 0 where nothing was rejected.

    Raises:
        ArgumentError: shapes differ, wrong types, labels outside the table.
        TubeVoltageError: no thresholds for ``kvp``.
    """
    rules = as_profile(profile)
    check_hu(hu)
    check_bool(rejected, hu.shape, "rejected")
    if structures is not None:
        check_labels(structures, hu.shape, len(STRUCTURES) - 1, "structures")
    if filtered is not None:
        check_bool(filtered, hu.shape, "filtered")
    spacing = check_spacing(spacing_mm)
    threshold = rules.threshold_hu(kvp)
    least = rules.least_pixels(spacing[1] * spacing[2])

    out = np.zeros(hu.shape, dtype=np.uint8)
    box = bounding_box(rejected)
    if box is None:
        return out
    component, n = cc3d.connected_components(rejected[box], connectivity=26, return_N=True)
    inside = np.nonzero(component)
    number = component[inside].astype(np.int64)
    where = tuple(i + b.start for i, b in zip(inside, box, strict=True))

    size = np.bincount(number, minlength=n + 1)
    peak = _extreme(np.maximum, number, hu[where], n)
    island = islands(rejected[box], rules.connectivity)[inside]
    largest = _extreme(np.maximum, number, np.bincount(island)[island], n)
    removed = np.zeros(n + 1, dtype=bool)
    if filtered is not None:
        removed[number[filtered[where]]] = True

    near: dict[str, np.ndarray] = {}
    fraction = np.zeros(n + 1)
    if structures is not None:
        places = np.stack(where, axis=1) * np.array(spacing)
        for name, (labels, reach, to_surface) in _targets(settings).items():
            member = np.zeros(len(STRUCTURES), dtype=bool)
            member[list(labels)] = True
            # the search stops strictly below its bound, so reach a little farther than the rule asks for
            distance = distance_lookup(member[structures], spacing, reach + 1e-6, to_surface)(places)
            near[name] = _extreme(np.minimum, number, distance, n)
            if name == "aorta_mm":
                close = np.bincount(number, weights=distance <= settings.aorta_distance_mm, minlength=n + 1)
                fraction = close / np.maximum(size, 1)

    code = np.zeros(n + 1, dtype=np.uint8)
    voxel_mm3 = float(np.prod(spacing))
    for k in range(1, n + 1):
        facts = ComponentFacts(
            peak_hu=float(peak[k]),
            margin_hu=float(peak[k]) - threshold,
            island_factor=float(largest[k]) / least,
            volume_mm3=float(size[k]) * voxel_mm3,
            aorta_fraction=float(fraction[k]),
            filtered=bool(removed[k]),
            **{name: float(values[k]) for name, values in near.items()},
        )
        code[k] = REASON_INDEX[name_reason(facts, settings)]
    out[where] = code[number]
    return out


def _targets(s: ReasonSettings) -> dict[str, tuple[tuple[int, ...], float, bool]]:
    """For each distance in ComponentFacts: structure labels, how far the rules look, whether to measure inside, too."""
    at = STRUCTURE_INDEX
    wall = (at["left_ventricle"], at["myocardium"])
    chambers = (*wall, at["right_ventricle"], at["left_atrium"], at["right_atrium"])
    return {
        "heart_mm": (tuple(range(1, len(STRUCTURES))), s.bone_distance_mm, False),
        "surface_mm": (chambers, s.pericardium_distance_mm, True),
        "aorta_mm": ((at["aorta"],), max(s.valve_distance_mm, s.aorta_distance_mm), False),
        "left_ventricle_mm": ((at["left_ventricle"],), s.valve_distance_mm, False),
        "left_atrium_mm": ((at["left_atrium"],), s.mitral_distance_mm, False),
        "left_heart_wall_mm": (wall, s.mitral_distance_mm, False),
    }


def _extreme(pick: np.ufunc, number: np.ndarray, values: np.ndarray, n: int) -> np.ndarray:
    """Largest (np.maximum) or smallest (np.minimum) value per component number, float64 [n + 1]."""
    out = np.full(n + 1, -np.inf if pick is np.maximum else np.inf)
    pick.at(out, number, values.astype(np.float64))
    return out
