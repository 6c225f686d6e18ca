"""Lesions of a score, the audit trail, reasons, extra-coronary scores."""

from __future__ import annotations

import numpy as np
import pytest

from cacsnet.scan import Geometry
from cacsnet.scoring import (
    LESION_COLUMNS,
    REASON_INDEX,
    extracoronary_scores,
    lesion_table,
    load_profile,
    score,
)

SPACING = (3.0, 0.5, 0.5)
SHAPE = (8, 40, 60)


def empty() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.full(SHAPE, 40, dtype=np.int16), np.zeros(SHAPE, dtype=np.uint8), np.zeros(SHAPE, dtype=np.uint8)


def testlesion_facts() -> None:
    hu, vessels, _ = empty()
    hu[2, 10:15, 20:25] = 250
    hu[3, 10:15, 20:25] = 450
    hu[6, 30:33, 50:53] = 150
    vessels[2:4, 10:15, 20:25] = 2
    vessels[3, 10:15, 24] = 3
    vessels[6, 30:33, 50:53] = 4
    geometry = Geometry.axial(SHAPE, SPACING, (-100.0, -50.0, 7.0))
    result = score(hu, vessels, SPACING, 120, affine=geometry.affine_lps)
    first, second = result.lesions
    assert (first.index, first.vessel, first.slices, first.n_slices, first.n_voxels) == (1, "LAD", (2, 3), 2, 50)
    assert first.area_mm2 == pytest.approx(12.5)
    assert (first.peak_hu, first.mean_hu) == (450, 350)
    assert first.volume_mm3 == pytest.approx(50 * 0.75)
    assert first.agatston == pytest.approx(12.5 + 25)
    assert first.parts["LCX"].agatston == pytest.approx(5.0)
    assert first.centroid_lps_mm == pytest.approx((-100 + 22 * 0.5, -50 + 12 * 0.5, 7 + 2.5 * 3))
    assert (second.vessel, second.slices) == ("RCA", (6, 6))
    for field in ("agatston", "volume_mm3", "mass_mg"):
        assert sum(getattr(x, field) for x in result.lesions) == pytest.approx(getattr(result.total, field))
    assert result.n_vessels == 3
    assert result.cac_drs == "A1/N3"
    assert score(hu, vessels, SPACING, 120).lesions[0].centroid_lps_mm is None


def test_lesion_vessel_tie_goes_to_the_first_vessel() -> None:
    hu, vessels, _ = empty()
    hu[2, 10:12, 20:24] = 250
    vessels[2, 10:12, 20:22], vessels[2, 10:12, 22:24] = 4, 3
    assert score(hu, vessels, SPACING, 120).lesions[0].vessel == "LCX"


def test_audit_trail() -> None:
    hu, vessels, reasons = empty()
    hu[2, 10:15, 20:25] = 250  # LAD, three columns LM
    vessels[2, 10:15, 20:25] = 2
    vessels[2, 10:15, 20:23] = 1
    hu[2, 10, 25:27] = 180  # two rejected pixels hanging on it: no row of their own
    hu[4:6, 30:34, 40:44] = 500  # rejected: aorta
    reasons[4:6, 30:34, 40:44] = REASON_INDEX["aorta"]
    hu[6, 5:8, 5:8] = 150  # rejected without a reason
    hu[7, 35, 55] = hu[7, 38, 50] = 300  # two specks
    candidates = hu >= 130
    affine = Geometry.axial(SHAPE, SPACING).affine_lps
    rows = lesion_table(hu, candidates, vessels, reasons, SPACING, 120, affine=affine)
    assert all(tuple(row) == LESION_COLUMNS for row in rows)
    assert [(r["lesion"], r["kept"], r["vessel_or_reason"]) for r in rows] == [
        (1, True, "LM"),
        (1, True, "LAD"),
        (2, False, "aorta"),
        (3, False, "other"),
        (0, False, "below_min_area"),
    ]
    total = score(hu, vessels, SPACING, 120).total
    assert sum(r["agatston"] for r in rows if r["kept"]) == pytest.approx(total.agatston)
    assert sum(r["volume_mm3"] for r in rows if r["kept"]) == pytest.approx(total.volume_mm3)
    assert rows[0]["area_dropped_mm2"] == pytest.approx(0.5)
    aorta = rows[2]
    assert (aorta["slices"], aorta["n_slices"], aorta["peak_hu"]) == ("4-5", 2, 500)
    assert aorta["agatston"] == pytest.approx(2 * 4.0 * 4)
    assert aorta["centroid_x_mm"] == pytest.approx(41.5 * 0.5)
    assert aorta["centroid_z_mm"] == pytest.approx(4.5 * 3)
    assert (rows[4]["n_components"], rows[4]["n_voxels"], rows[4]["agatston"]) == (2, 2, None)
    extra = extracoronary_scores(hu, np.where(candidates & (vessels == 0), reasons, 0), SPACING, 120)
    assert extra["aorta"].agatston == pytest.approx(aorta["agatston"])
    assert extra["aorta"].volume_mm3 == pytest.approx(aorta["volume_mm3"])
    assert extra["aortic_valve"].agatston == extra["mitral_annulus"].agatston == 0


def test_audit_trail_of_a_region_gives_numbers_of_the_whole_scan() -> None:
    hu, vessels, reasons = empty()
    hu[4, 10:15, 20:25], vessels[4, 10:15, 20:25] = 250, 2
    affine = Geometry.axial(SHAPE, SPACING).affine_lps
    whole = lesion_table(hu, hu >= 130, vessels, reasons, SPACING, 120, affine=affine)
    box = (slice(2, 7), slice(5, 30), slice(10, 40))
    part = lesion_table(hu[box], hu[box] >= 130, vessels[box], reasons[box], SPACING, 120, affine=affine, offset=(2, 5, 10))
    assert part == whole
    assert lesion_table(hu, hu > 9999, vessels * 0, reasons, SPACING, 120) == []


def test_a_candidate_split_below_the_minimum_area_is_still_listed() -> None:
    hu, vessels, reasons = empty()
    hu[3, 10, 10:16] = 200
    vessels[3, 10, 10:13] = 2
    (row,) = lesion_table(hu, hu >= 130, vessels, reasons, SPACING, 120)
    assert (row["kept"], row["vessel_or_reason"], row["agatston"]) == (False, "below_min_area", 0)
    assert row["area_dropped_mm2"] == pytest.approx(1.5)


@pytest.mark.parametrize("name", ["smartscore", "philips", "orcascore", "literature_fqm"])
def test_kept_rows_add_up_on_random_volumes(name: str) -> None:
    rng = np.random.default_rng(3)
    for _ in range(10):
        hu = rng.normal(120, 60, (5, 14, 14)).astype(np.float32)
        vessels = (rng.integers(0, 9, hu.shape) % 5).astype(np.uint8)
        profile = load_profile(name)
        vessels[hu < 130] = 0
        candidates = (hu > 130) if profile.strict else (hu >= 130)
        reasons = rng.integers(1, 10, hu.shape).astype(np.uint8)
        rows = lesion_table(hu, candidates, vessels, reasons, SPACING, 120, profile)
        total = score(hu, vessels, SPACING, 120, profile).total
        assert sum(r["agatston"] for r in rows if r["kept"]) == pytest.approx(total.agatston)
        assert sum(r["volume_mm3"] for r in rows if r["kept"]) == pytest.approx(total.volume_mm3)
        assert sum(r["n_voxels"] for r in rows) <= np.count_nonzero(candidates)
        extra = extracoronary_scores(hu, np.where(candidates & (vessels == 0), reasons, 0), SPACING, 120, profile)
        for key, measures in extra.items():
            listed = sum(r["agatston"] for r in rows if r["vessel_or_reason"] == key)
            assert listed == pytest.approx(measures.agatston)
