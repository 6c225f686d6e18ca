from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cacsnet.agreement.lesions import Overlap, overlaps, sum_overlaps
from cacsnet.errors import ArgumentError
from cacsnet.labels import VESSEL_INDEX

SPACING = (3.0, 1.0, 1.0)  # a voxel of 3 mm³


def maps() -> tuple[np.ndarray, np.ndarray]:
    """Reference: LAD 4 voxels, RCA 2, LCX 1. Model: LAD 3 of the 4, the LCX lesion as RCA, and a false LM of 2 voxels."""
    reference, model = np.zeros((2, 4, 9, 9), np.uint8)
    reference[1, 1, 1:5], model[1, 1, 2:5] = VESSEL_INDEX["LAD"], VESSEL_INDEX["LAD"]
    reference[1, 5, 1:3] = VESSEL_INDEX["RCA"]
    reference[3, 7, 7], model[3, 7, 7] = VESSEL_INDEX["LCX"], VESSEL_INDEX["RCA"]
    model[2, 7, 1:3] = VESSEL_INDEX["LM"]
    return reference, model


def test_volumes_and_lesions_counted_by_hand() -> None:
    found = {o.part: o for o in overlaps(*maps(), SPACING)}
    assert found["total"] == Overlap("total", tp_mm3=12, fn_mm3=9, fp_mm3=6, found=2, missed=1, true=2, false=1)
    assert found["LAD"] == Overlap("LAD", 9, 3, 0, 1, 0, 1, 0)
    assert found["RCA"] == Overlap("RCA", 0, 6, 3, 0, 1, 0, 1)
    assert found["LCX"] == Overlap("LCX", 0, 3, 0, 0, 1, 0, 0)
    assert found["LM"] == Overlap("LM", 0, 0, 6, 0, 0, 0, 1)
    total = found["total"]
    assert (total.sensitivity, total.ppv) == pytest.approx((12 / 21, 12 / 18))
    assert total.f1 == pytest.approx(2 * (12 / 21) * (12 / 18) / (12 / 21 + 12 / 18))
    assert (total.lesion_sensitivity, total.lesion_ppv) == pytest.approx((2 / 3, 2 / 3))


def test_no_calcium_has_no_sensitivity() -> None:
    empty = np.zeros((3, 4, 4), np.uint8)
    total = overlaps(empty, empty, SPACING)[0]
    assert all(math.isnan(v) for v in (total.sensitivity, total.ppv, total.f1, total.lesion_sensitivity, total.lesion_ppv))


def test_lesions_are_six_connected() -> None:
    reference = np.zeros((3, 5, 5), np.uint8)
    reference[1, 1, 1] = reference[1, 2, 2] = 2  # they touch at an edge only
    total = overlaps(reference, np.zeros_like(reference), SPACING)[0]
    assert total.missed == 2
    reference[1, 1, 2] = 3  # another vessel joins them: one lesion, whatever the label
    assert overlaps(reference, np.zeros_like(reference), SPACING)[0].missed == 1


def test_islands_too_small_to_score_do_not_count() -> None:
    reference = np.zeros((3, 6, 6), np.uint8)
    reference[1, 1, 1] = 2
    reference[1, 4, 1:5] = 2
    small = (3.0, 0.5, 0.5)  # 0.25 mm² a pixel: 1 mm² is 4 of them
    assert overlaps(reference, reference, small)[0].found == 1
    assert overlaps(reference, reference, small, min_area_mm2=0)[0].found == 2
    reference[1, 4, 4] = 0
    assert overlaps(reference, reference, small)[0].found == 0


def test_sums_add_volumes_and_not_ratios() -> None:
    reference, model = maps()
    one, other = overlaps(reference, model, SPACING), overlaps(reference, reference, SPACING)
    total = sum_overlaps([one, other])[0]
    assert (total.tp_mm3, total.fn_mm3, total.found, total.true) == (12 + 21, 9, 5, 5)
    assert total.sensitivity == pytest.approx(33 / 42)


def test_refuses_maps_of_different_grids() -> None:
    with pytest.raises(ArgumentError, match="grid"):
        overlaps(np.zeros((3, 4, 4), int), np.zeros((3, 4, 5), int), SPACING)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_swapping_the_maps_swaps_sensitivity_and_ppv(seed) -> None:
    rng = np.random.default_rng(seed)
    a, b = (rng.integers(0, 5, (3, 6, 6)) * (rng.random((3, 6, 6)) < 0.3) for _ in range(2))
    for one, other in zip(overlaps(a, b, SPACING), overlaps(b, a, SPACING), strict=True):
        assert one.sensitivity == pytest.approx(other.ppv, nan_ok=True)
        assert one.f1 == pytest.approx(other.f1, nan_ok=True)
        assert (one.found, one.missed) == (other.true, other.false)
    itself = overlaps(a, a, SPACING)[0]
    assert itself.f1 == 1 or math.isnan(itself.f1)
