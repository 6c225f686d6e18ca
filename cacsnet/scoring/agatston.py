"""Agatston, volume and mass scores of a vessel label map on the scan's own voxels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cc3d
import numpy as np

from cacsnet.errors import ArgumentError
from cacsnet.labels import VESSEL_INDEX, VESSEL_NAMES
from cacsnet.scoring.categories import cac_drs, risk_category
from cacsnet.scoring.checks import check_affine, check_hu, check_labels, check_mass_factor, check_spacing
from cacsnet.scoring.islands import Box, above, bounding_box, island_weights, nonzero
from cacsnet.scoring.isotropic import interpolated_samples, samples_per_increment
from cacsnet.scoring.profiles import Bands, ScoringProfile, as_profile

NORMAL_INCREMENT_MM = 3.0  # Agatston 1990: contiguous 3 mm slices


@dataclass(frozen=True)
class Measures:
    """The scores of one vessel, lesion part or total.

    Attributes:
        agatston: no unit.
        volume_mm3: of the voxels.
        mass_mg: hydroxyapatite.
        volume_isotropic_mm3: interpolated along z to cubic voxels, see :mod:`cacsnet.scoring.isotropic`.
    """

    agatston: float = 0.0
    volume_mm3: float = 0.0
    mass_mg: float = 0.0
    volume_isotropic_mm3: float = 0.0

    def __add__(self, other: Measures) -> Measures:
        return Measures(
            self.agatston + other.agatston,
            self.volume_mm3 + other.volume_mm3,
            self.mass_mg + other.mass_mg,
            self.volume_isotropic_mm3 + other.volume_isotropic_mm3,
        )


@dataclass(frozen=True)
class Lesion:
    """A 3-D 26-connected component of kept calcium voxels.

    Attributes:
        index: 1, 2, ... in falling order of score.
        vessel: where most of its voxels lie (LM before LAD before LCX before RCA in a tie).
        parts: measures per vessel that it touches.
        slices: (first, last) index along z in the array that was scored.
        n_slices: slices with a kept voxel.
        n_voxels: kept voxels.
        area_mm2: area summed over its slices.
        peak_hu, mean_hu: of the kept voxels.
        volume_mm3, volume_isotropic_mm3, mass_mg, agatston: sums of the parts.
        centroid_lps_mm: patient (x, y, z), mm; None without an affine.
    """

    index: int
    vessel: str
    parts: dict[str, Measures]
    slices: tuple[int, int]
    n_slices: int
    n_voxels: int
    area_mm2: float
    peak_hu: float
    mean_hu: float
    volume_mm3: float
    volume_isotropic_mm3: float
    mass_mg: float
    agatston: float
    centroid_lps_mm: tuple[float, float, float] | None


@dataclass(frozen=True)
class CalciumScore:
    """The score of one scan.

    Attributes:
        total: sum of the four vessels, exactly (Measures).
        vessels: Measures for "LM", "LAD", "LCX", "RCA".
        lesions: in falling order of score.
        flags: ``mass_calibration_default`` (no mass factor was given: mass uses the profile's default),
            ``kvp_adjusted_thresholds`` (other thresholds than at 120 kVp), ``increment_not_3mm`` (a profile without
            slice normalisation met another increment than 3 mm).
        profile: name of the profile.
        kvp: tube voltage scored for.
        bands_hu: lower edges of the weights 1-4; the first is the threshold.
        mass_factor: mg/mm³ per HU that was used.
        category_rule: "real" or "round", the profile's.
    """

    total: Measures
    vessels: dict[str, Measures]
    lesions: tuple[Lesion, ...]
    flags: tuple[str, ...]
    profile: str
    kvp: float
    bands_hu: Bands
    mass_factor: float
    category_rule: str

    @property
    def n_vessels(self) -> int:
        """How many vessels hold calcium."""
        return sum(v.agatston > 0 for v in self.vessels.values())

    @property
    def risk_category(self) -> str:
        """ "0", "1-100", "101-400" or ">400" by the profile's rule."""
        return risk_category(self.total.agatston, self.category_rule)

    @property
    def risk_category_5(self) -> str:
        """ "0", "1-10", "11-100", "101-400" or ">400" by the profile's rule."""
        return risk_category(self.total.agatston, self.category_rule, levels=5)

    @property
    def risk_category_6(self) -> str:
        """ "0", "1-10", "11-100", "101-400", "401-1000" or ">1000" by the profile's rule."""
        return risk_category(self.total.agatston, self.category_rule, levels=6)

    @property
    def cac_drs(self) -> str:
        """CAC-DRS, e.g. "A2/N3"."""
        return cac_drs(self.total.agatston, self.n_vessels)


@dataclass(frozen=True)
class Units:
    """What one voxel is worth."""

    agatston: float  # per voxel of weight 1
    volume_mm3: float
    mass_mg_per_hu: float
    area_mm2: float
    samples: int  # interpolated samples per increment

    @classmethod
    def of(
        cls,
        spacing_mm: tuple[float, float, float],
        kvp: float | None,
        profile: ScoringProfile,
        mass_factor: float | None = None,
    ) -> Units:
        dz, dy, dx = spacing_mm
        area = dy * dx
        normal = dz / NORMAL_INCREMENT_MM if profile.slice_normalisation else 1.0
        factor = profile.mass_factor(kvp) if mass_factor is None else mass_factor
        return cls(area * normal, area * dz, area * dz * factor, area, samples_per_increment(spacing_mm))

    def measures(self, weight_sum: float, n_counted: float, hu_sum: float, n_samples: float) -> Measures:
        """From the sum of weights, the number of voxels counted for volume, the sum of their HU and their samples."""
        return Measures(
            agatston=float(weight_sum) * self.agatston,
            volume_mm3=float(n_counted) * self.volume_mm3,
            mass_mg=float(hu_sum) * self.mass_mg_per_hu,
            volume_isotropic_mm3=float(n_samples) * self.volume_mm3 / self.samples,
        )


def mass_factor_from_rods(hu_rod: float, hu_water: float, mg_cc: float = 200.0) -> float:
    """Mass calibration of a scan from the rods of a calibration phantom: mg/mm³ per HU.

    FQM (Med Phys 2021): c = 0.2 / (HU of the 200 mg/cc rod - HU of water); mass = c x volume x mean HU.

    Args:
        hu_rod: mean HU in the hydroxyapatite rod.
        hu_water: mean HU in the water rod.
        mg_cc: concentration of the hydroxyapatite rod, mg/cc.

    Raises:
        ArgumentError: a value isn't finite, the rod isn't brighter than water, the concentration isn't positive.
    """
    if not (np.isfinite(hu_rod) and np.isfinite(hu_water) and hu_rod > hu_water):
        raise ArgumentError("the rod must be brighter than water", field="hu_rod", value=(hu_rod, hu_water))
    if not (np.isfinite(mg_cc) and mg_cc > 0):
        raise ArgumentError("a concentration must be positive and finite", field="mg_cc", value=mg_cc)
    return mg_cc / 1000.0 / (hu_rod - hu_water)


def score(
    hu: np.ndarray,
    vessels: np.ndarray,
    spacing_mm: Sequence[float],
    kvp: float | None,
    profile: str | ScoringProfile = "smartscore",
    affine: np.ndarray | None = None,
    *,
    mass_factor: float | None = None,
) -> CalciumScore:
    """Score a vessel label map.

    Calcium is a voxel with a vessel label and HU at or above the profile's threshold for ``kvp``. Per slice, islands
    are formed on the *union* of the vessels, small ones dropped, and weighted 1-4 by their peak HU in that slice; each
    vessel gets weight x its own area (x increment / 3 mm). So the total doesn't depend on where LM ends and LAD begins,
    and the vessels add up to it. Nothing is rounded. Volume = voxels x dx x dy x increment, and once more interpolated
    (:mod:`cacsnet.scoring.isotropic`); mass = factor x volume x mean HU. Sources: Agatston 1990, the profile's file.

    Args:
        hu: signed integer or float [z, y, x], HU, native voxels.
        vessels: integer [z, y, x], 0 background, 1 LM, 2 LAD, 3 LCX, 4 RCA.
        spacing_mm: (dz, dy, dx); dz is the increment between slice positions, never the slice thickness.
        kvp: tube voltage.
        profile: name or profile.
        affine: float [4, 4], index (z, y, x, 1) to patient LPS mm, for the lesions' centroids.
        mass_factor: mg/mm³ per HU as measured for this scanner or patient (:func:`mass_factor_from_rods`; one in
            mg/cc per HU must be divided by 1000); None: the profile's default, flagged.

    Raises:
        ArgumentError: empty or wrong shape, HU not finite, float labels or labels outside the table, bad spacing, a
            mass factor that isn't positive and finite.
        TubeVoltageError: kvp is None or the profile has no thresholds for it.
        ConfigError: unknown profile.
    """
    rules = as_profile(profile)
    check_hu(hu)
    check_labels(vessels, hu.shape, len(VESSEL_NAMES), "vessels")
    spacing = check_spacing(spacing_mm)
    affine = check_affine(affine)
    check_mass_factor(mass_factor)
    bands = rules.bands(kvp)
    assert kvp is not None  # bands() refuses None
    units = Units.of(spacing, kvp, rules, mass_factor)

    lesions: tuple[Lesion, ...] = ()
    per_vessel = {name: Measures() for name in VESSEL_NAMES}
    box = bounding_box(vessels)
    if box is not None:
        kept = kept_voxels(hu, box, assign_vessels(hu[box], vessels[box], kvp, rules), spacing, kvp, rules)
        per_vessel = dict(zip(VESSEL_NAMES, kept.measures(units, len(VESSEL_NAMES)), strict=True))
        lesions = _lesions(kept, units, affine)

    total = sum(per_vessel.values(), Measures())
    flags = ["mass_calibration_default"] if mass_factor is None else []
    if bands != rules.density_bands_hu:
        flags.append("kvp_adjusted_thresholds")
    if not rules.slice_normalisation and abs(spacing[0] - NORMAL_INCREMENT_MM) > 1e-3:
        flags.append("increment_not_3mm")
    return CalciumScore(
        total=total,
        vessels=per_vessel,
        lesions=lesions,
        flags=tuple(flags),
        profile=rules.name,
        kvp=float(kvp),
        bands_hu=bands,
        mass_factor=rules.mass_factor(kvp) if mass_factor is None else float(mass_factor),
        category_rule=rules.category_rule,
    )


def assign_vessels(hu: np.ndarray, vessels: np.ndarray, kvp: float | None, profile: ScoringProfile) -> np.ndarray:
    """The vessel map as the profile sees it: LM folded into LAD, 3-D components given to their majority vessel."""
    out = vessels.astype(np.uint8)
    if profile.fold_lm_into_lad:
        out[out == VESSEL_INDEX["LM"]] = VESSEL_INDEX["LAD"]
    if profile.voting == "component3d_6":
        lowest = min(profile.threshold_hu(kvp), profile.volume_threshold(kvp))
        component = cc3d.connected_components((out > 0) & above(hu, lowest, profile.strict), connectivity=6)
        where = nonzero(component)
        if where[0].size:
            votes = np.zeros((int(component.max()) + 1, len(VESSEL_NAMES) + 1), dtype=np.int64)
            np.add.at(votes, (component[where], out[where]), 1)
            out[where] = votes.argmax(axis=1)[component[where]]
    return out


def weigh(
    hu: np.ndarray, mask: np.ndarray, spacing_mm: tuple[float, float, float], kvp: float | None, profile: ScoringProfile
) -> tuple[np.ndarray, np.ndarray]:
    """Agatston weight of every voxel of ``mask`` (uint8 [z, y, x]) and whether it counts for volume and mass (bool)."""
    bands = profile.bands(kvp)
    least = profile.least_pixels(spacing_mm[1] * spacing_mm[2])
    bright = mask & above(hu, bands[0], profile.strict)
    weight = island_weights(hu, bright, bands, least, profile.connectivity)
    if profile.volume_threshold_hu is None:
        return weight, weight > 0
    bright = mask & above(hu, profile.volume_threshold(kvp), profile.strict)
    return weight, island_weights(hu, bright, bands, least, profile.connectivity) > 0


@dataclass(frozen=True)
class KeptVoxels:
    """Voxels that count for any of the scores, [m] each, in array order.

    Attributes:
        where: (z, y, x) indices in the scan.
        hu: float64.
        label: of the label map that was scored.
        weight: float64, Agatston weight 0-4.
        counted: bool, for volume and mass.
        samples: float64, of the isotropic-interpolated volume; 0 where not counted.
    """

    where: tuple[np.ndarray, np.ndarray, np.ndarray]
    hu: np.ndarray
    label: np.ndarray
    weight: np.ndarray
    counted: np.ndarray
    samples: np.ndarray

    def measures(self, units: Units, n: int) -> list[Measures]:
        """Measures of the labels 1..n."""

        def total(values: np.ndarray) -> np.ndarray:
            return np.bincount(self.label, weights=values, minlength=n + 1)

        sums = (total(self.weight), total(self.counted), total(self.hu * self.counted), total(self.samples))
        return [units.measures(*(s[k] for s in sums)) for k in range(1, n + 1)]


def kept_voxels(
    hu: np.ndarray,
    box: Box,
    labels: np.ndarray,
    spacing_mm: tuple[float, float, float],
    kvp: float | None,
    profile: ScoringProfile,
) -> KeptVoxels:
    """The kept voxels of a label map.

    Args:
        hu: int or float [z, y, x], HU, the whole scan (the isotropic volume looks one slice beyond the box).
        box: where ``labels`` lies in it.
        labels: int [z, y, x] of the box's shape, 0 background.
        spacing_mm: (dz, dy, dx).
        kvp: tube voltage.
        profile: scoring profile.
    """
    weight, counted = weigh(hu[box], labels > 0, spacing_mm, kvp, profile)
    inside = nonzero((weight > 0) | counted)
    z, y, x = (i + b.start for i, b in zip(inside, box, strict=True))
    counts = counted[inside]
    samples = np.zeros(len(z))
    samples[counts] = interpolated_samples(
        hu,
        (z[counts], y[counts], x[counts]),
        samples_per_increment(spacing_mm),
        profile.volume_threshold(kvp),
        profile.strict,
    )
    return KeptVoxels(
        where=(z, y, x),
        hu=hu[z, y, x].astype(np.float64),
        label=labels[inside].astype(np.int64),
        weight=weight[inside].astype(np.float64),
        counted=counts,
        samples=samples,
    )


def _lesions(kept: KeptVoxels, units: Units, affine: np.ndarray | None) -> tuple[Lesion, ...]:
    if len(kept.hu) == 0:
        return ()
    z = kept.where[0]
    corner = [int(w.min()) for w in kept.where]
    inside = tuple(w - c for w, c in zip(kept.where, corner, strict=True))
    mask = np.zeros([int(w.max()) + 1 for w in inside], dtype=bool)
    mask[inside] = True
    component, n = cc3d.connected_components(mask, connectivity=26, return_N=True)
    number = component[inside].astype(np.int64)

    cell = number * (len(VESSEL_NAMES) + 1) + kept.label  # (lesion, vessel) as one number
    table = (n + 1, len(VESSEL_NAMES) + 1)

    def per_part(weights: np.ndarray | None = None) -> np.ndarray:
        return np.bincount(cell, weights=weights, minlength=table[0] * table[1]).reshape(table)

    voxels = per_part()
    sums = [per_part(w) for w in (kept.weight, kept.counted, kept.hu * kept.counted, kept.samples)]
    areas = np.bincount(number, weights=kept.weight > 0, minlength=n + 1)
    size = np.bincount(number, minlength=n + 1)
    total_hu = np.bincount(number, weights=kept.hu, minlength=n + 1)
    peak = np.full(n + 1, -np.inf)
    np.maximum.at(peak, number, kept.hu)
    centre = [np.bincount(number, weights=w, minlength=n + 1) for w in kept.where]
    depth = int(z.max()) + 1
    pair_number, pair_z = np.divmod(np.unique(number * depth + z), depth)

    found = []
    for k in range(1, n + 1):
        parts = {name: units.measures(*(s[k, i] for s in sums)) for i, name in enumerate(VESSEL_NAMES, start=1) if voxels[k, i]}
        whole = sum(parts.values(), Measures())
        slices = pair_z[pair_number == k]
        lesion = Lesion(
            index=k,
            vessel=VESSEL_NAMES[int(voxels[k, 1:].argmax())],
            parts=parts,
            slices=(int(slices[0]), int(slices[-1])),
            n_slices=len(slices),
            n_voxels=int(size[k]),
            area_mm2=float(areas[k]) * units.area_mm2,
            peak_hu=float(peak[k]),
            mean_hu=float(total_hu[k] / size[k]),
            volume_mm3=whole.volume_mm3,
            volume_isotropic_mm3=whole.volume_isotropic_mm3,
            mass_mg=whole.mass_mg,
            agatston=whole.agatston,
            centroid_lps_mm=to_lps([c[k] / size[k] for c in centre], affine),
        )
        found.append(lesion)
    found.sort(key=lambda lesion: (-lesion.agatston, -lesion.volume_mm3, lesion.slices))
    return tuple(Lesion(**{**lesion.__dict__, "index": i}) for i, lesion in enumerate(found, start=1))


def to_lps(index: Sequence[float], affine: np.ndarray | None) -> tuple[float, float, float] | None:
    """Patient (x, y, z) in mm of a (z, y, x) index; None without an affine."""
    if affine is None:
        return None
    x, y, z = (affine @ np.array([*index, 1.0]))[:3]
    return float(x), float(y), float(z)
