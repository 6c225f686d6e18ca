"""Digital cohorts: whole scans with reference scores, from fixed seeds that training never draws."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cacsnet.labels import VESSEL_NAMES
from cacsnet.phantom.anatomy import Patient
from cacsnet.phantom.calcium import Deposit, draw_distractors, draw_plaques
from cacsnet.phantom.heart import Artery
from cacsnet.phantom.render import heart_box, render
from cacsnet.phantom.scan import PhantomScan, make_scan
from cacsnet.scan import Acquisition, Geometry, Scan
from cacsnet.scanner.imaging import Protocol
from cacsnet.scoring import CalciumScore, score

USUAL_DISTRACTORS = {
    "aorta": 1.2, "aortic_valve": 0.8, "mitral_annulus": 0.5, "pericardium": 0.2, "papillary_muscle": 0.2, "node": 0.4,
}  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """One case of a cohort.

    Attributes:
        seed: patient seed.
        burden: expected number of coronary plaques.
        distractors: expected number of deposits per kind.
        gated: short range, small field of view, 2.5 to 3 mm; else 5 mm slices of the whole chest.
        enhanced: contrast-enhanced blood.
        matrix: rows and columns.
    """

    seed: int
    burden: float = 8.0
    distractors: tuple[tuple[str, float], ...] = tuple(USUAL_DISTRACTORS.items())
    gated: bool = True
    enhanced: bool = False
    matrix: int = 512


@dataclass(frozen=True)
class CohortCase:
    """A scan with its truth."""

    scan: Scan
    truth: PhantomScan
    reference: CalciumScore
    patient: Patient
    arteries: list[Artery]
    deposits: list[Deposit]
    origin_mm: tuple[float, float, float]


def reference_score(truth: PhantomScan) -> CalciumScore:
    """Reference Agatston of one scan: HU ≥ threshold where a vessel's plaque adds most, and at least 20 HU."""
    vessels = np.where(truth.owner <= 4, truth.owner, 0).astype(np.uint8)
    return score(truth.hu, vessels, truth.protocol.spacing_mm, truth.protocol.kvp)


def make_case(recipe: Recipe) -> CohortCase:
    """Make one case; deterministic."""
    rng = np.random.default_rng([recipe.seed, 7])
    patient = Patient(recipe.seed, enhanced=recipe.enhanced)
    arteries = patient.heart.grow_tree(rng)
    low, high = heart_box(patient)
    if recipe.gated:
        field_mm = max(rng.uniform(200, 260), float((high - low)[1:].max()) + 40)
        increment = float(rng.choice([2.5, 3.0]))
        pixel = field_mm / recipe.matrix
        middle = (low + high) / 2
        z_low, z_high = low[0] - rng.uniform(8, 25), high[0] + rng.uniform(15, 40)
    else:
        field_mm = 2 * (patient.half_width + patient.wall + patient.subcutaneous) + 16
        increment, pixel = 5.0, field_mm / recipe.matrix
        middle = np.array([0.0, patient.chest_y, patient.midline])
        z_low, z_high = low[0] - 45, high[0] + 70
    count = int((z_high - z_low) / increment) + 1
    origin = (float(z_low), float(middle[1] - field_mm / 2), float(middle[2] - field_mm / 2))
    protocol = Protocol(
        (increment, pixel, pixel), (count, recipe.matrix, recipe.matrix), origin, increment,
        fwhm_mm=rng.uniform(0.9, 1.3), noise_hu=rng.uniform(12, 24), noise_correlation_mm=rng.uniform(0.5, 0.75),
        kvp=120, calcium_scale=rng.uniform(0.85, 1.05),
    )  # fmt: skip
    deposits = [] if recipe.enhanced else [
        *draw_plaques(patient.heart, arteries, rng, recipe.burden),
        *draw_distractors(patient.heart, rng, dict(recipe.distractors)),
    ]  # fmt: skip
    step = float(np.clip(0.8 * pixel, 1.25, 2.5))
    reach = [(count - 1) * increment + 2 * increment, field_mm + 6, field_mm + 6]
    shape = [int(np.ceil(r / step)) for r in reach]
    first = [origin[0] - increment, origin[1] - 3, origin[2] - 3]
    truth = make_scan(patient, render(patient, arteries, first, step, shape), deposits, protocol, recipe.seed)
    acquisition = Acquisition(
        modality="CT", kvp=float(protocol.kvp), manufacturer="cacsnet phantom", kernel="STANDARD",
        slice_thickness_mm=increment, gated=recipe.gated,
        series_description="Calcium scoring, gated" if recipe.gated else "Chest, not gated",
    )  # fmt: skip
    geometry = Geometry.axial(truth.hu.shape, protocol.spacing_mm, (origin[2], origin[1], origin[0]))
    return CohortCase(Scan(truth.hu, geometry, acquisition), truth, reference_score(truth), patient, arteries, deposits, origin)


def reference_row(case_id: str, case: CohortCase) -> dict[str, object]:
    """One row of ``reference.csv``."""
    row: dict[str, object] = {"case_id": case_id, "agatston_total": case.reference.total.agatston}
    row |= {f"agatston_{name}": case.reference.vessels[name].agatston for name in VESSEL_NAMES}
    row |= {"volume_mm3_total": case.reference.total.volume_mm3, "kvp": case.truth.protocol.kvp}
    return row
