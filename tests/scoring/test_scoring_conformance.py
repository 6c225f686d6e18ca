"""Twelve conformance phantoms on which published scorers differ, and the sub-cases about the scoring rules.

Sub-cases, by the letter in the test's name: (a) a lesion across LM and LAD, (d) anisotropic pixels and axis order,
(e) invariances, (g) tube voltage, (h) category edges, (i) sums, empty mask, whole slice, monotone volume. Property tests
of (a), (e), (h) and (i) are in test_scoring_properties.py; (b) rescaling and padding of each slice and (c) order, tilt, missing
and double slices are about reading, see tests/io/test_io_dicom.py; (f) thin slices and (j) the phase of the slice grid are in
test_slabs.py.

Expected values follow from the reference definition: per slice, voxel in a vessel and ≥ 130 HU, 8-connected islands on
the union of vessels, ≥ 1 mm², weight from the island's peak, times increment / 3.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from cacsnet.errors import TubeVoltageError
from cacsnet.scoring import load_profile, profile_names, risk_category, score, scoring_kvp

LAD = 2
SPACING = (3.0, 0.5, 0.5)


def volume(*slices: np.ndarray, label: int = LAD) -> tuple[np.ndarray, np.ndarray]:
    """Stack slices with an empty one around; the mask covers every pixel that isn't 0 HU."""
    size = 14
    hu = np.zeros((len(slices) + 2, size, size), dtype=np.float32)
    for z, s in enumerate(slices, start=1):
        hu[z, 3 : 3 + s.shape[0], 3 : 3 + s.shape[1]] = s
    return hu, (hu != 0).astype(np.uint8) * label


def square(hu: float, side: int = 5) -> np.ndarray:
    return np.full((side, side), hu, dtype=np.float32)


def halo() -> np.ndarray:
    out = square(100, 7)
    out[1:-1, 1:-1] = 250
    return out


DIAGONAL = np.diag([250.0] * 4).astype(np.float32)

PHANTOMS = {
    "P1": (volume(square(250)), SPACING, 12.5),
    "P2": (volume(square(250), square(250)), (1.5, 0.5, 0.5), 12.5),
    "P3": (volume(square(150), square(450)), SPACING, 31.25),
    "P4": (volume(halo()), SPACING, 12.5),
    "P5": (volume(square(500, 1)), SPACING, 0.0),
    "P6": (volume(square(250, 2)), SPACING, 2.0),
    "P7": (volume(DIAGONAL), SPACING, 2.0),
    "P8": (volume(square(130)), SPACING, 6.25),
    "P9": (volume(square(199)), SPACING, 6.25),
    "P10": (volume(square(129)), SPACING, 0.0),
    "P12": (volume(*[square(250)] * 3), (1.0, 0.5, 0.5), 12.5),
}


@pytest.mark.parametrize("name", PHANTOMS)
def test_phantom(name: str) -> None:
    (hu, vessels), spacing, expected = PHANTOMS[name]
    result = score(hu, vessels, spacing, 120)
    assert result.total.agatston == pytest.approx(expected, abs=1e-12)
    assert result.vessels["LAD"].agatston == result.total.agatston


def test_p11_islands_weigh_apart_though_joined_in_3d() -> None:
    # slice 1: islands of 15 pixels at 150 HU and 15 at 450 HU; slice 2 a bar that joins them in 3-D, 0 score of its own
    arms = np.zeros((5, 7), dtype=np.float32)
    arms[:, :3], arms[:, 4:] = 150, 450
    hu, vessels = volume(arms)
    assert score(hu, vessels, SPACING, 120).total.agatston == pytest.approx(18.75)  # 3.75 x 1 + 3.75 x 4
    bridge = np.zeros((5, 7), dtype=np.float32)
    bridge[2, 2:5] = 140  # 3 pixels: 0.75 mm², dropped
    hu, vessels = volume(arms, bridge)
    result = score(hu, vessels, SPACING, 120)
    assert result.total.agatston == pytest.approx(18.75)
    # the same U whose bridge is large enough to stay is one lesion; its arms keep their own weights
    bridge[2, :] = 140
    hu, vessels = volume(arms, bridge)
    result = score(hu, vessels, SPACING, 120)
    assert result.total.agatston == pytest.approx(18.75 + 7 * 0.25)
    assert len(result.lesions) == 1


def test_a_lesion_across_lm_and_lad_is_one_island() -> None:
    hu, vessels = volume(square(250))
    hu[1, 4, 6] = 450  # the peak lies in the LM part and weighs the LAD part, too
    whole = score(hu, vessels, SPACING, 120).total.agatston
    assert whole == pytest.approx(25.0)
    for border in range(3, 9):
        vessels[1, 3:8, 3:border] = 1
        result = score(hu, vessels, SPACING, 120)
        assert result.total.agatston == pytest.approx(whole, abs=1e-12)
        assert result.vessels["LM"].agatston == pytest.approx((border - 3) * 5 * 0.25 * 4)
        assert sum(v.agatston for v in result.vessels.values()) == result.total.agatston
        assert len(result.lesions) == 1
        assert set(result.lesions[0].parts) == {"LM", "LAD"} - ({"LM"} if border == 3 else set()) - (
            {"LAD"} if border == 8 else set()
        )


def test_a_vote_of_the_majority_conserves_the_sum() -> None:
    hu, vessels = volume(square(250))
    vessels[1, 3:8, 3] = 3
    island, component = score(hu, vessels, SPACING, 120), score(hu, vessels, SPACING, 120, "orcascore")
    assert island.vessels["LCX"].agatston == pytest.approx(2.5)
    assert component.vessels["LCX"].agatston == 0
    assert component.total.agatston == pytest.approx(island.total.agatston)


def test_d_anisotropic_pixels() -> None:
    hu, vessels = volume(np.full((2, 5), 250.0))
    result = score(hu, vessels, (2.0, 0.4, 0.7), 120)
    assert result.total.agatston == pytest.approx(10 * 0.28 * 2 * 2 / 3)
    assert result.total.volume_mm3 == pytest.approx(10 * 0.28 * 2)
    turned = score(hu.transpose(0, 2, 1).copy(), vessels.transpose(0, 2, 1).copy(), (2.0, 0.7, 0.4), 120)
    assert turned.total.agatston == pytest.approx(result.total.agatston)


def test_d_axis_order_and_e_rotation() -> None:
    # a bar of 5 pixels along y and 2 along x; each axis has a spacing of its own
    hu, vessels = np.zeros((4, 9, 8)), np.zeros((4, 9, 8), dtype=np.uint8)
    hu[1, 2:7, 3:5], vessels[1, 2:7, 3:5] = 450, LAD
    spacing = (1.8, 0.5, 0.7)
    result = score(hu, vessels, spacing, 120).total
    assert result.agatston == pytest.approx(10 * 0.35 * 4 * 0.6)
    assert result.volume_mm3 == pytest.approx(10 * 0.35 * 1.8)
    turned = score(np.rot90(hu, axes=(1, 2)), np.rot90(vessels, axes=(1, 2)), (1.8, 0.7, 0.5), 120).total
    assert turned.agatston == pytest.approx(result.agatston)
    assert turned.volume_isotropic_mm3 == pytest.approx(result.volume_isotropic_mm3)
    assert score(hu, vessels, spacing, 120).lesions[0].area_mm2 == pytest.approx(10 * 0.35)  # not of dz or the thickness
    upright = score(np.moveaxis(hu, 0, 2), np.moveaxis(vessels, 0, 2), (0.5, 0.7, 1.8), 120).total  # axes y, x, z
    assert upright.agatston == pytest.approx(5 * 2 * (0.7 * 1.8) * 4 * 0.5 / 3)  # five slices of 2 x 1 pixels
    assert upright.volume_mm3 == pytest.approx(result.volume_mm3)


@pytest.mark.parametrize("profile", profile_names())
def test_g_tin_filter_monoenergetic_and_odd_voltages_are_refused(profile: str) -> None:
    hu, vessels = volume(square(140))
    for kvp in (None, "Sn100", "70 keV", "120", 110, 90, 150, -120, float("inf")):
        with pytest.raises(TubeVoltageError):
            score(hu, vessels, SPACING, kvp, profile)


def test_g_kernel_independent_of_the_voltage_has_130_hu() -> None:
    hu, vessels = volume(square(135))
    for kvp in (70, 80, 100, 110, 120, 140):
        result = score(hu, vessels, SPACING, scoring_kvp(kvp, "Sa36f", "siemens"), "siemens")
        assert result.total.agatston == pytest.approx(6.25)
        assert result.bands_hu == (130, 200, 300, 400)
    for kvp in (70, 80, 100):
        assert score(hu, vessels, SPACING, scoring_kvp(kvp, "Qr36f", "siemens"), "siemens").total.agatston == 0
    with pytest.raises(TubeVoltageError):
        score(hu, vessels, SPACING, scoring_kvp(110, "Qr36f", "siemens"), "siemens")


def test_g_other_thresholds_than_130_are_flagged() -> None:
    hu, vessels = volume(square(250))
    for name in profile_names():
        for kvp, bands in load_profile(name).kvp_table_hu.items():
            flagged = "kvp_adjusted_thresholds" in score(hu, vessels, SPACING, kvp, name).flags
            assert flagged == (bands[0] != 130), (name, kvp)


def test_g_tube_voltage_is_never_assumed() -> None:
    hu, vessels = volume(square(140))
    for kvp in (None, 110, 140, 0, float("nan"), "120"):
        with pytest.raises(TubeVoltageError):
            score(hu, vessels, SPACING, kvp)
    assert score(hu, vessels, SPACING, 100).total.agatston == 0  # 145 HU at 100 kVp
    low = score(hu, vessels, SPACING, 135)
    assert low.total.agatston == pytest.approx(6.25)
    assert "kvp_adjusted_thresholds" in low.flags
    assert "kvp_adjusted_thresholds" not in score(hu, vessels, SPACING, 120).flags


def test_h_category_is_decided_before_rounding() -> None:
    edges = (0, 0.4, 1, 10, 10.5, 100, 100.4, 100.5, 400, 400.5)
    assert [risk_category(s) for s in edges] == ["0", *["1-100"] * 5, *["101-400"] * 3, ">400"]
    assert [risk_category(s, levels=6) for s in edges] == [
        "0",
        *["1-10"] * 3,
        *["11-100"] * 2,
        *["101-400"] * 3,
        "401-1000",
    ]


def test_i_total_is_the_sum_of_the_vessels() -> None:
    hu, vessels = volume(square(0.1), square(250, 7))  # one island in all four vessels
    for label, columns in enumerate((slice(3, 5), slice(5, 6), slice(6, 8), slice(8, 10)), start=1):
        vessels[2, 3:10, columns] = label
    result = score(hu, vessels, (2.3, 0.41, 0.37), 120)
    assert [round(v.volume_mm3 / (2.3 * 0.41 * 0.37)) for v in result.vessels.values()] == [14, 7, 14, 14]
    assert sum(v.agatston for v in result.vessels.values()) == result.total.agatston
    assert sum(v.volume_mm3 for v in result.vessels.values()) == result.total.volume_mm3
    assert sum(v.mass_mg for v in result.vessels.values()) == result.total.mass_mg
    assert sum(v.volume_isotropic_mm3 for v in result.vessels.values()) == result.total.volume_isotropic_mm3


def test_i_empty_mask_whole_slice_and_monotone_volume() -> None:
    hu, vessels = volume(square(250))
    assert score(hu, np.zeros_like(vessels), SPACING, 120).total.agatston == 0
    full_hu, full = np.full((3, 14, 14), 500.0), np.ones((3, 14, 14), dtype=np.uint8)
    result = score(full_hu, full, SPACING, 120)
    assert result.total.agatston == pytest.approx(3 * 14 * 14 * 0.25 * 4)
    assert len(result.lesions) == 1
    before = 0.0
    for side in range(1, 8):
        now = score(*volume(square(250, side)), SPACING, 120).total.volume_mm3
        assert now >= before
        before = now


@pytest.mark.parametrize(
    ("hu", "weight"), [(129, 0), (130, 1), (199.5, 1), (200, 2), (299.5, 2), (300, 3), (399.5, 3), (400, 4), (3000, 4)]
)
def test_bands_are_half_open(hu: float, weight: int) -> None:
    assert score(*volume(square(hu)), SPACING, 120).total.agatston == pytest.approx(6.25 * weight)


def test_five_pixels_are_needed_at_the_paper_s_pixel_size() -> None:
    row = np.full((1, 5), 250.0)
    spacing = (3.0, 0.4883, 0.4883)  # 1 mm² = 4.19 pixels
    assert score(*volume(row[:, :4]), spacing, 120).total.agatston == 0
    assert score(*volume(row), spacing, 120).total.agatston == pytest.approx(5 * 0.4883**2 * 2)


def test_exactly_one_square_millimetre_counts_despite_rounding() -> None:
    side = np.sqrt(1 / 7)  # in floating point 7 pixels are a little less than 1 mm²
    assert score(*volume(np.full((1, 7), 250.0)), (3.0, side, side), 120).total.agatston == pytest.approx(2.0)


def test_diagonal_needs_8_connectivity() -> None:
    hu, vessels = volume(DIAGONAL)
    assert score(hu, vessels, SPACING, 120, "smartscore").total.agatston == pytest.approx(2.0)
    assert score(hu, vessels, SPACING, 120, "literature_fqm").total.agatston == 0


def test_slice_normalisation() -> None:
    thick = score(*volume(square(250)), SPACING, 120)
    hu, vessels = volume(square(250), square(250))
    overlapping = (1.5, 0.5, 0.5)
    assert score(hu, vessels, overlapping, 120).total.agatston == pytest.approx(thick.total.agatston)
    plain = score(hu, vessels, overlapping, 120, "literature_fqm")
    assert plain.total.agatston == pytest.approx(2 * thick.total.agatston)
    assert "increment_not_3mm" in plain.flags
    assert plain.total.volume_mm3 == pytest.approx(thick.total.volume_mm3)  # volume always uses the increment


def test_vendor_profiles_differ_in_the_smallest_island() -> None:
    def kept(n: int) -> set[str]:
        hu, vessels = volume(np.full((1, n), 250.0))
        names = ("smartscore", "literature_fqm", "siemens", "philips", "canon", "orcascore", "agatston1990")
        return {p for p in names if score(hu, vessels, (3.0, 0.5, 0.5), 120, p).total.agatston > 0}

    assert kept(1) == {"siemens"}
    assert kept(2) == {"siemens", "philips"}  # 0.5 mm²
    assert kept(3) == {"siemens", "philips", "canon"}  # 3 pixels
    assert len(kept(4)) == 7


def test_strict_profiles_exclude_130() -> None:
    hu, vessels = volume(square(130))
    strict = {
        p
        for p in ("smartscore", "siemens", "orcascore", "agatston1990")
        if not score(hu, vessels, SPACING, 120, p).total.agatston
    }
    assert strict == {"orcascore", "agatston1990"}


def test_fqm_at_100_kvp_has_147_and_unscaled_bands() -> None:
    for hu, expected in ((146, 0), (147, 6.25), (199, 6.25), (200, 12.5), (300, 18.75), (400, 25)):
        assert score(*volume(square(hu)), SPACING, 100, "literature_fqm").total.agatston == pytest.approx(expected)
    for hu, expected in ((144, 0), (145, 6.25), (221, 6.25), (222, 12.5), (334, 18.75), (446, 25)):
        assert score(*volume(square(hu)), SPACING, 100).total.agatston == pytest.approx(expected)


def test_philips_volume_has_its_own_threshold() -> None:
    hu, vessels = volume(halo())
    hu[hu == 100] = 112.5
    result = score(hu, vessels, SPACING, 120, "philips")
    assert result.total.agatston == pytest.approx(12.5)
    assert result.total.volume_mm3 == pytest.approx(49 * 0.75)
    assert result.lesions[0].n_voxels == 49
    assert result.lesions[0].area_mm2 == pytest.approx(6.25)
    hu[hu == 112.5] = 112.0
    assert score(hu, vessels, SPACING, 120, "philips").total.volume_mm3 == pytest.approx(25 * 0.75)


def test_lesions_join_across_a_corner() -> None:
    hu, vessels = np.zeros((4, 6, 6)), np.full((4, 6, 6), LAD, dtype=np.uint8)
    hu[1, 2, 2] = hu[2, 3, 3] = 250  # 26-connected
    assert len(score(hu, vessels, SPACING, 120, "siemens").lesions) == 1
    hu[2, 3, 3], hu[3, 3, 3] = 0, 250
    assert len(score(hu, vessels, SPACING, 120, "siemens").lesions) == 2


def test_volume_threshold_above_the_agatston_threshold() -> None:
    profile = dataclasses.replace(load_profile("siemens"), volume_threshold_hu=200.0)
    hu, vessels = volume(np.repeat([[150.0, 250.0]], 4, axis=0))  # one island, half of it counts for volume and mass
    result = score(hu, vessels, SPACING, 120, profile, mass_factor=1e-3)
    assert result.total.agatston == pytest.approx(8 * 0.25 * 2)
    assert result.total.volume_mm3 == pytest.approx(4 * 0.75)
    assert result.total.mass_mg == pytest.approx(4 * 0.75 * 0.25)
    assert result.lesions[0].mass_mg == pytest.approx(result.total.mass_mg)
    assert result.total.volume_isotropic_mm3 == pytest.approx(4 * 0.75 / 6 * 3)  # 6 * 50 / 250: one sample on each side


def test_mass_of_130_hu_is_100_mg_per_cc() -> None:
    hu, vessels = volume(square(130))
    result = score(hu, vessels, SPACING, 120)
    assert result.total.mass_mg == pytest.approx(result.total.volume_mm3 * 0.1)
    assert "mass_calibration_default" in result.flags
    hu, vessels = volume(square(145))
    assert score(hu, vessels, SPACING, 100).total.mass_mg == pytest.approx(result.total.mass_mg)


def test_orcascore_folds_lm_into_lad() -> None:
    result = score(*volume(square(250), label=1), SPACING, 120, "orcascore")
    assert (result.vessels["LM"].agatston, result.vessels["LAD"].agatston) == (0, pytest.approx(12.5))
    assert load_profile("orcascore").fold_lm_into_lad
