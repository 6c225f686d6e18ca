"""Whole scans with reference scores, from fixed seeds that training never draws.

Seeds: training below 10 000 000, validation below 20 000 000, held-out phantoms below 30 000 000, the embedded examples below
40 000 000; the cohorts of ``conf/cohort`` above.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from cacsnet.labels import VESSEL_INDEX, VESSEL_NAMES
from cacsnet.phantom.anatomy import Patient, Tissue
from cacsnet.phantom.calcium import draw_plaques
from cacsnet.phantom.deposits import DISTRACTORS, OWNER_NAMES, Deposit, place
from cacsnet.phantom.devices import draw_devices
from cacsnet.phantom.heart import Artery
from cacsnet.phantom.places import draw_distractors, part_sdf
from cacsnet.phantom.population import draw_targets, load_population
from cacsnet.phantom.preview import meet_targets
from cacsnet.phantom.render import Anatomy, heart_box, render
from cacsnet.phantom.scan import PhantomScan, make_scan
from cacsnet.scan import Acquisition, Geometry, Scan
from cacsnet.scanner.materials import IODINE_HU_PER_MG_CC
from cacsnet.scanner.profiles import ScannerProfile, Slices, draw_protocol, load_profile
from cacsnet.scanner.protocol import Protocol
from cacsnet.scoring import CalciumScore, score
from cacsnet.scoring.lesions import EXTRACORONARY

USUAL_DISTRACTORS: Mapping[str, float] = {
    "aorta": 0.7, "aortic_valve": 0.45, "mitral_annulus": 0.25, "ostium": 0.15, "pericardium": 0.06, "papillary_muscle": 0.08,
    "node": 0.25, "bronchus": 0.15, "cartilage": 0.5, "bone": 0.2,
}  # fmt: skip
"""Mean number of calcified places per patient. Defaults of this project."""

FORMAT = "19"
"""Raised whenever the phantom or a recipe changes, so that scans made before are made again and never mixed with new ones."""


@dataclass(frozen=True)
class Recipe:
    """One patient of a cohort.

    Attributes:
        seed: everything follows from it.
        agatston: target in total, or per vessel, of the nominal scan (gated, 120 kVp); None: drawn from the population.
        distractors: mean number of calcified places per kind.
        gated: short range around the heart; else the whole chest.
        enhanced: contrast-enhanced blood; then there is no calcium.
        matrix: rows and columns.
        devices: mean number of devices per kind.
        population: how much calcium there is, how a total is split between the vessels, and how much a calcified place scores.
        heart_model: see :class:`cacsnet.phantom.anatomy.Patient`.
        scanner: profile in ``conf/scanner``; None: a gated one by the seed, or the one for chests.
        increment_mm: contiguous slices of this thickness instead of the profile's.
        kvp: tube voltage.
        noise_hu: instead of what profile and patient size give.
        own_scanner: the target is what the patient's own scans measure, not the nominal scan.
    """

    seed: int
    agatston: float | Mapping[str, float] | None = None
    distractors: Mapping[str, float] = field(default_factory=lambda: dict(USUAL_DISTRACTORS))
    gated: bool = True
    enhanced: bool = False
    matrix: int = 512
    devices: Mapping[str, float] = field(default_factory=dict)
    population: str = "sartoretti2022"
    heart_model: str = "ellipsoid"
    scanner: str | None = None
    increment_mm: float | None = None
    kvp: int = 120
    noise_hu: float | None = None
    own_scanner: bool = False


@dataclass(frozen=True)
class Visit:
    """One scan of a patient: its number and heart rate (None: drawn)."""

    number: int = 1
    heart_rate_bpm: float | None = None


@dataclass(frozen=True)
class CohortCase:
    """A scan with its truth. Patient, arteries and deposits are shared by all scans of a patient."""

    scan: Scan
    truth: PhantomScan
    reference: CalciumScore
    patient: Patient
    arteries: list[Artery]
    deposits: list[Deposit]
    origin_mm: tuple[float, float, float]
    visit: Visit = Visit()


def reference_score(truth: PhantomScan) -> CalciumScore:
    """Reference Agatston of one scan: HU ≥ threshold where a vessel's plaque adds most, and at least 20 HU."""
    return score(truth.hu, vessel_labels(truth), truth.protocol.spacing_mm, truth.protocol.kvp)


def vessel_labels(truth: PhantomScan) -> np.ndarray:
    """uint8 [z, y, x]: the vessel whose plaque adds most there (no threshold on the HU), 0 elsewhere."""
    return np.where(truth.owner <= len(VESSEL_NAMES), truth.owner, 0).astype(np.uint8)


def body_mm(patient: Patient) -> tuple[float, float]:
    """Width and depth of the trunk at the height of the heart (mm), read off its skin; hanging arms don't count."""
    sdf = part_sdf(patient, "skin")
    assert sdf is not None
    reach = np.arange(-400.0, 401.0, 2.0)
    zero = np.zeros_like(reach)

    def longest(inside: np.ndarray) -> np.ndarray:
        outside = np.flatnonzero(~np.concatenate([[False], inside, [False]]))
        first = int(np.diff(outside).argmax())
        return reach[outside[first] : outside[first + 1] - 1]

    depth = longest(sdf(np.stack([zero, reach, zero], 1)) < 0)
    width = longest(sdf(np.stack([zero, np.full_like(reach, depth.mean()), reach], 1)) < 0)
    return float(np.ptp(width)) * patient.heart_scale, float(np.ptp(depth)) * patient.heart_scale


MEAN_SECTION_MM2 = 88_700.0
"""Mean width times depth of the first 60 patients of ``conf/cohort/sartoretti2022.yaml``."""


def bmi_kg_m2(patient: Patient) -> float:
    """Body mass index from the trunk's cross section: that of the phantoms' mean is 28, and it grows with the section's area.

    A convention of the phantom, so that patient size, noise and BMI go together; mean and SD are the paper's (28.0 ± 5.0)."""
    width, depth = body_mm(patient)
    return float(np.clip(28.0 * width * depth / MEAN_SECTION_MM2, 16.0, 50.0))


def make_case(recipe: Recipe) -> CohortCase:
    """Make one scan of one patient; deterministic."""
    return make_cases(recipe)[0]


def make_cases(recipe: Recipe, visits: Sequence[Visit] = (Visit(),)) -> list[CohortCase]:
    """Make scans of one patient: the same anatomy and plaques, each time another position, phase, noise and heart rate."""
    patient, arteries, deposits, protocols = make_subject(recipe, visits)
    anatomy = _painted(patient, arteries, protocols)
    cases = []
    for visit, protocol in zip(visits, protocols, strict=True):
        truth = make_scan(patient, anatomy, deposits, protocol, recipe.seed + 7919 * (visit.number - 1))
        acquisition = Acquisition(
            modality="CT", kvp=float(protocol.kvp), manufacturer=load_profile(protocol.scanner).manufacturer,
            model=f"cacsnet phantom, {protocol.scanner}", kernel=protocol.kernel, slice_thickness_mm=protocol.thickness_mm,
            iterative_reconstruction=protocol.iterative > 0, gated=recipe.gated, heart_rate_bpm=visit.heart_rate_bpm,
            bmi_kg_m2=round(bmi_kg_m2(patient), 1),
            series_description="Calcium scoring, gated" if recipe.gated else "Chest, not gated",
        )  # fmt: skip
        z, y, x = protocol.origin_mm
        geometry = Geometry.axial(truth.hu.shape, protocol.spacing_mm, (x, y, z))
        scan = Scan(truth.hu, geometry, acquisition)
        cases.append(CohortCase(scan, truth, reference_score(truth), patient, arteries, deposits, (z, y, x), visit))
    return cases


def make_subject(
    recipe: Recipe, visits: Sequence[Visit] = (Visit(),)
) -> tuple[Patient, list[Artery], list[Deposit], list[Protocol]]:
    """The patient of a recipe with arteries, calcium and devices, and the protocols of the visits."""
    rng = np.random.default_rng([recipe.seed, 7])
    patient = Patient(recipe.seed, enhanced=recipe.enhanced, heart_model=recipe.heart_model)
    if recipe.enhanced:
        patient.tissue = contrast_at(patient.tissue, recipe.kvp)
    arteries = patient.heart.grow_tree(rng)
    protocols = [draw_scan(recipe, visit, patient) for visit in visits]
    deposits: list[Deposit] = []
    if not recipe.enhanced:
        population = load_population(recipe.population)
        targets = draw_targets(population, rng) if recipe.agatston is None else recipe.agatston
        if not isinstance(targets, Mapping):
            targets = population.split(targets, rng.random(3))
        plaques = draw_plaques(patient, arteries, rng, targets)
        deposits += meet_targets(patient, arteries, plaques, targets, protocols if recipe.own_scanner else ())
        deposits += draw_distractors(patient, rng, recipe.distractors, population)
    deposits += draw_devices(patient, arteries, rng, recipe.devices)
    return patient, arteries, deposits, protocols


def contrast_at(tissue: Tissue, kvp: int) -> Tissue:
    """Enhanced tissue, given at 120 kVp, at another voltage: what iodine adds to the blood's HU grows as the voltage falls."""
    factor, blood = IODINE_HU_PER_MG_CC[kvp] / IODINE_HU_PER_MG_CC[120], tissue.blood
    chambers = {name: blood + factor * (hu - blood) for name, hu in tissue.chamber_hu.items()}
    return replace(tissue, myocardium=blood + factor * (tissue.myocardium - blood), chamber_hu=chambers)


GATED = ("canon", "ge_revolution", "philips", "siemens_force")


def profile_of(recipe: Recipe) -> ScannerProfile:
    """The scanner of a recipe, narrowed to its tube voltage, one kernel and one way to reconstruct slices."""
    rng = np.random.default_rng([recipe.seed, 10])
    name = recipe.scanner or (GATED[int(rng.integers(len(GATED)))] if recipe.gated else "chest_nongated")
    profile = load_profile(name)

    def one(values: Sequence[Any]) -> tuple[Any]:
        weights = np.array([value.weight for value in values], float)
        return (values[int(rng.choice(len(values), p=weights / weights.sum()))],)

    slices, kernels = one(profile.slices), one(profile.kernels)
    if recipe.increment_mm is not None:
        slices = (Slices(recipe.increment_mm, recipe.increment_mm, 1.0),)
    return replace(profile, kvp={recipe.kvp: 1.0}, slices=slices, kernels=kernels)


def draw_scan(recipe: Recipe, visit: Visit, patient: Patient) -> Protocol:
    """How one scan of a patient is made. What belongs to the scanner follows from the seed alone; position, slice phase, motion
    and heart rate also from the visit."""
    profile = profile_of(recipe)
    low, high = heart_box(patient)
    place_rng = np.random.default_rng([recipe.seed, 8])
    if recipe.gated:
        z_range = (float(low[0] - place_rng.uniform(8, 20)), float(high[0] + place_rng.uniform(12, 30)))
        centre, need = ((low + high) / 2)[1:], float((high - low)[1:].max()) + 30
    else:
        width, _ = body_mm(patient)
        z_range = (float(low[0] - 45), float(high[0] + 70))
        centre, need = np.array([patient.thorax.chest_y, patient.thorax.midline]), width + 10
    field_mm = max(float(place_rng.uniform(*profile.field_mm)), need)

    def drawn(stream: list[int], shift: np.ndarray) -> Protocol:
        y, x = (float(v) for v in centre + shift)
        rng = np.random.default_rng(stream)
        return draw_protocol(profile, rng, z_range, (y, x), bmi, visit.heart_rate_bpm, recipe.matrix, field_mm)

    bmi = bmi_kg_m2(patient)
    own_rng = np.random.default_rng([recipe.seed, 9, visit.number])
    fixed = drawn([recipe.seed, 11], np.zeros(2))
    own = drawn([recipe.seed, 12, visit.number], own_rng.uniform(-3, 3, 2))
    same = {
        name: getattr(fixed, name)
        for name in ("fwhm_mm", "edge_enhancement", "iterative", "calcium_scale", "noise_hu", "cupping_hu", "ray_noise")
    }
    protocol = replace(own, **same)
    return protocol if recipe.noise_hu is None else replace(protocol, noise_hu=recipe.noise_hu)


def _painted(patient: Patient, arteries: Sequence[Artery], protocols: Sequence[Protocol]) -> Anatomy:
    """One painted box that covers all protocols' grids."""
    low = np.min([np.array(p.origin_mm) - p.reach_mm for p in protocols], 0)
    high = np.max([np.array(p.origin_mm) + np.array(p.spacing_mm) * (np.array(p.shape) - 1) + p.reach_mm for p in protocols], 0)
    step = float(np.clip(0.8 * min(p.spacing_mm[1] for p in protocols), 1.25, 2.5))
    return render(
        patient, arteries, low.tolist(), step, np.ceil((high - low) / step).astype(int).tolist() + np.array([1, 1, 1])
    )


def image_noise_hu(case: CohortCase) -> float:
    """SD (HU) in the left ventricle, mean of three consecutive slices, as a reader measures it with a region of interest."""
    protocol, heart = case.truth.protocol, case.patient.heart
    middle = case.patient.heart_to_patient((heart.base + 28 * heart.axes[0])[None])[0]
    index = np.round((middle - protocol.origin_mm) / protocol.spacing_mm).astype(int)
    half = max(2, round(6 / protocol.spacing_mm[1]))
    rows, columns = (slice(max(0, i - half), i + half + 1) for i in index[1:])
    slices = [k for k in (index[0] - 1, index[0], index[0] + 1) if 0 <= k < case.truth.hu.shape[0]]
    return float(np.mean([case.truth.hu[k][rows, columns].std() for k in slices])) if slices else float("nan")


def reference_row(case_id: str, case: CohortCase, patient_id: str = "") -> dict[str, object]:
    """One row of ``reference.csv``: the reference scores of one scan and its covariates, named as in ``scores.csv``."""
    reference, protocol, facts = case.reference, case.truth.protocol, case.scan.acquisition
    row: dict[str, object] = {"case_id": case_id, "patient_id": patient_id or case_id, "scan": case.visit.number}
    for measure in ("agatston", "volume_mm3", "mass_mg"):
        row[f"{measure}_total"] = getattr(reference.total, measure)
        row |= {f"{measure}_{name}": getattr(reference.vessels[name], measure) for name in VESSEL_NAMES}
    masks = {kind: (case.truth.owner == DISTRACTORS[kind]).astype(np.uint8) for kind in EXTRACORONARY}
    others = {k: score(case.truth.hu, mask, protocol.spacing_mm, protocol.kvp).total for k, mask in masks.items()}
    row |= {f"agatston_{kind}": measures.agatston for kind, measures in others.items()}
    row |= {f"volume_mm3_{kind}": measures.volume_mm3 for kind, measures in others.items()}
    return row | {
        "lesions_total": len(reference.lesions), "risk_category": reference.risk_category, "cac_drs": reference.cac_drs,
        "kvp": protocol.kvp, "manufacturer": facts.manufacturer, "kernel": facts.kernel,
        "slice_thickness_mm": protocol.thickness_mm, "slice_increment_mm": round(protocol.spacing_mm[0], 6),
        "image_noise_hu": round(image_noise_hu(case), 2), "heart_rate_bpm": case.visit.heart_rate_bpm,
        "bmi_kg_m2": facts.bmi_kg_m2,
    }  # fmt: skip


def anatomical_truth(case: CohortCase) -> dict[str, object]:
    """The patient's truth, shared by all scans: every body of calcium or metal with its place (patient LPS mm) and mass."""
    bodies = place(case.patient, case.deposits)
    rows = []
    for body in bodies:
        d, weight = body.deposit, body.volumes * body.deposit.density
        z, y, x = ((body.points * weight[:, None]).sum(0) / weight.sum()).tolist()
        rows.append({
            "owner": OWNER_NAMES[d.owner], "site": d.site, "shape": d.shape, "centre_lps_mm": [x, y, z],
            "mass_mg": body.mass_mg, "volume_mm3": float(body.volumes.sum()), "mean_density": d.concentration,
            "density_unit": "HU" if d.metal else "mg/cc", "length_mm": d.length_mm, "width_mm": d.width_mm,
            "thickness_mm": d.thickness_mm,
        })  # fmt: skip
    mass = {n: sum(b.mass_mg for b in bodies if b.deposit.owner == VESSEL_INDEX[n]) for n in VESSEL_NAMES}
    return {
        "seed": case.patient.seed, "heart": type(case.patient.heart).__name__,
        "age_years": round(case.patient.age_years, 1), "sex": "F" if case.patient.thorax.female else "M",
        "mass_mg": mass | {"total": sum(mass.values())},
        "coronary_length_mm": {n: sum(a.length_mm for a in case.arteries if a.vessel == VESSEL_INDEX[n]) for n in VESSEL_NAMES},
        "bodies": rows,
    }  # fmt: skip
