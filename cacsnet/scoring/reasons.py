"""Why the network's rejected candidates were rejected: a name from the geometry around each.

The place rules look at distances to the structure labels and to two junctions: aorta-left ventricle (the aortic valve) and
left atrium-left ventricle (the mitral valve). A reason explains a rejection; it never overrides a kept candidate. The
rules with their sources are in ``docs/reasons.md``; ``benchmarks/reasons.py`` measures them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cc3d
import numpy as np

from cacsnet.labels import STRUCTURE_INDEX, STRUCTURES
from cacsnet.scoring.checks import check_bool, check_hu, check_labels, check_spacing
from cacsnet.scoring.distances import junction, nearest_lookup, surface
from cacsnet.scoring.islands import above, bounding_box, islands, nonzero
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

PLACES: tuple[str, ...] = ("aortic_valve", "aorta", "mitral_annulus", "pericardium", "outside_heart", "other")
"""Reasons that are places, in the order in which they are tried; "other" is the inside of the heart."""

_CHAMBERS = ("left_ventricle", "right_ventricle", "left_atrium", "right_atrium", "myocardium")


@dataclass(frozen=True)
class ReasonSettings:
    """Limits of the rules. Units are in the names; where each comes from is in ``docs/reasons.md``.

    Attributes:
        metal_hu: peak from which a component is metal or a stent.
        bone_volume_mm3: a larger bright component is bone, wherever it lies ...
        far_bone_volume_mm3, bone_distance_mm: ... and one larger than this if it is farther than this from the heart.
        noise_area_factor: a component without an island of this many minimum areas may be noise ...
        noise_margin_hu: ... if its peak is less than this above the threshold, too.
        contact_mm: structures whose surfaces are this close meet (a coarse voxel and a half).
        annulus_distance_mm: aortic valve if this close to the aorta-left ventricle junction ...
        valve_distance_mm, valve_depth_mm: ... or this close to it and at least this deep inside the aorta.
        aorta_distance_mm: aorta if inside it or this close to it.
        mitral_distance_mm: mitral annulus if this close to the left atrium-left ventricle junction.
        pericardium_distance_mm: pericardium if this close to the surface of the chambers ...
        pericardium_depth_mm: ... or inside them, but not deeper than this.
    """

    metal_hu: float = 2500.0
    bone_volume_mm3: float = 3000.0
    far_bone_volume_mm3: float = 1000.0
    bone_distance_mm: float = 10.0
    noise_area_factor: float = 3.0
    noise_margin_hu: float = 30.0
    contact_mm: float = 4.5
    annulus_distance_mm: float = 5.0
    valve_distance_mm: float = 18.0
    valve_depth_mm: float = 2.0
    aorta_distance_mm: float = 4.0
    mitral_distance_mm: float = 12.0
    pericardium_distance_mm: float = 12.0
    pericardium_depth_mm: float = 3.0


REASON_DEFAULTS = ReasonSettings()


@dataclass(frozen=True)
class ComponentFacts:
    """What the rules look at in one 3-D 26-connected component of rejected candidates.

    Attributes:
        peak_hu: highest HU.
        margin_hu: peak minus the calcium threshold.
        island_factor: area of its largest island in a slice, in minimum areas of the profile.
        volume_mm3: volume of the bright component of the region that it is a part of: bone goes on where no candidate is.
        heart_mm: smallest distance to any heart structure; inf: out of reach.
        place: the one of :data:`PLACES` that holds most of its voxels; None: no structures known.
        filtered: the network kept it, the vessel filter removed it.
    """

    peak_hu: float
    margin_hu: float
    island_factor: float
    volume_mm3: float
    heart_mm: float = 0.0
    place: str | None = None
    filtered: bool = False


def name_reason(facts: ComponentFacts, settings: ReasonSettings = REASON_DEFAULTS) -> str:
    """One of :data:`REASONS` for a rejected component; the first rule that holds.

    Order: metal, bone, noise, place. Noise comes before the places so that specks don't add up to a valve score. What
    the vessel filter removed is outside the heart unless it has a better name.
    """
    s = settings
    if facts.peak_hu >= s.metal_hu:
        return "metal_or_stent"
    if facts.volume_mm3 > s.bone_volume_mm3:
        return "bone"
    if facts.volume_mm3 > s.far_bone_volume_mm3 and facts.heart_mm > s.bone_distance_mm:
        return "bone"
    if facts.island_factor < s.noise_area_factor and facts.margin_hu < s.noise_margin_hu:
        return "noise"
    place = facts.place or "other"
    return "outside_heart" if facts.filtered and place == "other" else place


@dataclass(frozen=True)
class Landmarks:
    """What the places are measured to: surface and junction points, float [n, 3] (z, y, x) mm, index x spacing.

    Attributes:
        heart: surface of all structures together.
        chambers: surface of the chambers and the left ventricle's myocardium together.
        aorta: surface of the aorta.
        aortic_junction: the aorta's surface where it meets the left ventricle.
        mitral_junction: the left atrium's surface where it meets the left ventricle.
    """

    heart: np.ndarray
    chambers: np.ndarray
    aorta: np.ndarray
    aortic_junction: np.ndarray
    mitral_junction: np.ndarray

    @classmethod
    def of(
        cls, structures: np.ndarray, spacing_mm: Sequence[float], contact_mm: float = REASON_DEFAULTS.contact_mm
    ) -> Landmarks:
        """Measure a structure map, uint8 [z, y, x]; a structure that isn't there has no points.

        Labels that touch from slice to slice are one increment apart, so thicker increments widen ``contact_mm``.
        """
        spacing = np.array(check_spacing(spacing_mm))
        aorta, left_ventricle, left_atrium = (
            surface(structures == STRUCTURE_INDEX[name]) * spacing for name in ("aorta", "left_ventricle", "left_atrium")
        )
        reach = max(contact_mm, float(spacing.max()))
        return cls(
            heart=surface(structures > 0) * spacing,
            chambers=surface(_chambers(structures)) * spacing,
            aorta=aorta,
            aortic_junction=junction(aorta, left_ventricle, reach),
            mitral_junction=junction(left_atrium, left_ventricle, reach),
        )


def place_voxels(
    index: np.ndarray,
    structures: np.ndarray,
    spacing_mm: Sequence[float],
    landmarks: Landmarks,
    settings: ReasonSettings = REASON_DEFAULTS,
) -> np.ndarray:
    """The place of single voxels.

    Args:
        index: int [n, 3], (z, y, x) of the voxels.
        structures: uint8 [z, y, x], structure labels.
        spacing_mm: (dz, dy, dx).
        landmarks: of ``structures``.
        settings: limits of the rules.

    Returns:
        uint8 [n], index into :data:`PLACES`.
    """
    s = settings
    places = index * np.array(check_spacing(spacing_mm))
    labels = structures[tuple(index.T)]

    def distance(points: np.ndarray, reach: float) -> np.ndarray:
        return nearest_lookup(points, reach + 1e-6)(places)  # the search stops strictly below its bound

    valve = distance(landmarks.aortic_junction, max(s.annulus_distance_mm, s.valve_distance_mm))
    mitral = distance(landmarks.mitral_junction, s.mitral_distance_mm)
    aorta = distance(landmarks.aorta, max(s.aorta_distance_mm, s.valve_depth_mm))
    chambers = distance(landmarks.chambers, max(s.pericardium_distance_mm, s.pericardium_depth_mm))
    in_aorta = labels == STRUCTURE_INDEX["aorta"]
    in_chambers = _chambers(labels)
    rules = {
        "aortic_valve": (valve <= s.annulus_distance_mm)
        | ((valve <= s.valve_distance_mm) & in_aorta & (aorta >= s.valve_depth_mm)),
        "aorta": in_aorta | (aorta <= s.aorta_distance_mm),
        "mitral_annulus": mitral <= s.mitral_distance_mm,
        "pericardium": chambers <= np.where(in_chambers, s.pericardium_depth_mm, s.pericardium_distance_mm),
        "outside_heart": ~in_chambers,
    }
    return np.select([rules[name] for name in PLACES[:-1]], list(range(len(PLACES) - 1)), len(PLACES) - 1).astype(np.uint8)


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
    inside = nonzero(component)
    number = component[inside].astype(np.int64)
    index = np.stack(inside, axis=1) + [b.start for b in box]
    where = tuple(index.T)

    peak = _extreme(np.maximum, number, hu[where], n)
    island = islands(rejected[box], rules.connectivity)[inside]
    largest = _extreme(np.maximum, number, np.bincount(island)[island], n)
    bright = cc3d.connected_components(rejected | above(hu, threshold, rules.strict), connectivity=26)
    volume = _extreme(np.maximum, number, cc3d.statistics(bright)["voxel_counts"][bright[where]], n) * float(np.prod(spacing))
    removed = np.zeros(n + 1, dtype=bool)
    if filtered is not None:
        removed[number[filtered[where]]] = True

    def facts(k: int, heart_mm: float = 0.0, place: str | None = None) -> ComponentFacts:
        margin, factor = float(peak[k]) - threshold, float(largest[k]) / least
        return ComponentFacts(float(peak[k]), margin, factor, float(volume[k]), heart_mm, place, bool(removed[k]))

    # most voxels (bone, noise) have their name without a distance; far bone may still hide among the noise
    names = [""] + [name_reason(facts(k), settings) for k in range(1, n + 1)]
    far_bone = volume > settings.far_bone_volume_mm3
    unsettled = np.array(
        [name in ("other", "outside_heart") or (name == "noise" and far_bone[k]) for k, name in enumerate(names)]
    )
    if structures is not None and unsettled.any():
        pick = unsettled[number]
        number, index = number[pick], index[pick]
        landmarks = Landmarks.of(structures, spacing, settings.contact_mm)
        heart = nearest_lookup(landmarks.heart, settings.bone_distance_mm + 1e-6)(index * np.array(spacing))
        heart[structures[tuple(index.T)] > 0] = 0.0
        nearest = _extreme(np.minimum, number, heart, n)
        votes = np.zeros((n + 1, len(PLACES)), dtype=np.int64)
        np.add.at(votes, (number, place_voxels(index, structures, spacing, landmarks, settings)), 1)
        for k in np.flatnonzero(unsettled).tolist():
            names[k] = name_reason(facts(k, float(nearest[k]), PLACES[int(votes[k].argmax())]), settings)
    out[where] = np.array([REASON_INDEX[name] for name in names], dtype=np.uint8)[component[inside]]
    return out


def _chambers(structures: np.ndarray) -> np.ndarray:
    """bool, same shape: chambers and left-ventricular myocardium."""
    member = np.zeros(len(STRUCTURES), dtype=bool)
    member[[STRUCTURE_INDEX[name] for name in _CHAMBERS]] = True
    return member[structures]


def _extreme(pick: np.ufunc, number: np.ndarray, values: np.ndarray, n: int) -> np.ndarray:
    """Largest (np.maximum) or smallest (np.minimum) value per component number, float64 [n + 1]."""
    out = np.full(n + 1, -np.inf if pick is np.maximum else np.inf)
    pick.at(out, number, values.astype(np.float64))
    return out
