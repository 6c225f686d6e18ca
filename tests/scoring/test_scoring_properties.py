"""Invariances of the score, a second implementation, bad input, profiles, categories, mass calibration, imports.

The letters (e), (h), (i) in names are those of the conformance sub-cases, see test_scoring_conformance.py.
"""

from __future__ import annotations

import dataclasses
import itertools
import subprocess
import sys
import tracemalloc

import cc3d
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_scorer import naive_score
from scipy import ndimage

from cacsnet.errors import ArgumentError, ConfigError, TubeVoltageError
from cacsnet.scoring import (
    CalciumScore,
    Measures,
    ScoringProfile,
    cac_drs,
    extracoronary_scores,
    lesion_table,
    load_profile,
    mass_factor_from_rods,
    profile_from_mapping,
    profile_names,
    risk_category,
    score,
    scoring_kvp,
)
from cacsnet.scoring.profiles import PROFILE_FOLDER

SPACING = (2.5, 0.45, 0.6)
PROFILES = ("agatston1990", "canon", "literature_fqm", "orcascore", "philips", "siemens", "smartscore")
FIELDS = ("agatston", "volume_mm3", "mass_mg", "volume_isotropic_mm3")


def random_case(seed: int, size: int = 12) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    hu = rng.normal(140, 90, (4, size, size)).astype(np.float32)
    if seed % 2:
        hu = np.round(hu).astype(np.int16)
    vessels = rng.integers(0, 5, hu.shape).astype(np.uint8)
    vessels[:, size // 2 :] = rng.integers(0, 5, (4, 1, size))  # some coherent stripes
    return hu, vessels


def fields(measures: Measures) -> list[float]:
    return [getattr(measures, f) for f in FIELDS]


def values(result: CalciumScore) -> np.ndarray:
    """[part, field]: total, LM, LAD, LCX, RCA."""
    return np.array([fields(v) for v in [result.total, *result.vessels.values()]])


@pytest.mark.parametrize("name", PROFILES)
def test_second_implementation_agrees(name: str) -> None:
    profile = load_profile(name)
    voltages = sorted(profile.kvp_table_hu)
    for seed in range(150):  # 1,050 volumes over the seven profiles
        rng = np.random.default_rng(1000 + seed)
        hu, vessels = random_case(seed, 6)
        spacing = tuple(rng.uniform((0.6, 0.4, 0.4), (3.5, 1, 1)))
        kvp = voltages[seed % len(voltages)]
        factor = rng.uniform(3e-4, 2e-3) if seed % 3 else None
        ours = score(hu, vessels, spacing, kvp, profile, mass_factor=factor)
        theirs = naive_score(hu, vessels, spacing, kvp, profile, factor)
        expected = np.array([theirs[k] for k in ("total", "LM", "LAD", "LCX", "RCA")])
        np.testing.assert_allclose(values(ours), expected, rtol=1e-9, atol=1e-9)
        lesions = [sum(getattr(x, f) for x in ours.lesions) for f in FIELDS]
        np.testing.assert_allclose(lesions, expected[0], rtol=1e-9, atol=1e-9)
        parts = sum((part for lesion in ours.lesions for part in lesion.parts.values()), Measures())
        np.testing.assert_allclose(fields(parts), expected[0], rtol=1e-9, atol=1e-9)


any_case = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 10_000)
profiles = st.sampled_from([load_profile(name) for name in PROFILES])


def assert_same(a: CalciumScore, b: CalciumScore) -> None:
    np.testing.assert_allclose(values(a), values(b), rtol=1e-9, atol=1e-9)
    assert len(a.lesions) == len(b.lesions)


@any_case
@given(seeds, st.sampled_from([(0,), (1,), (2,), (0, 1), (1, 2), (0, 1, 2)]), profiles)
def test_e_flip(seed: int, axes: tuple[int, ...], profile: ScoringProfile) -> None:
    hu, vessels = random_case(seed)
    assert_same(
        score(hu, vessels, SPACING, 120, profile), score(np.flip(hu, axes), np.flip(vessels, axes), SPACING, 120, profile)
    )


@any_case
@given(seeds, profiles)
def test_e_transpose_in_the_plane(seed: int, profile: ScoringProfile) -> None:
    hu, vessels = random_case(seed)
    turned = score(hu.transpose(0, 2, 1), vessels.transpose(0, 2, 1), (SPACING[0], SPACING[2], SPACING[1]), 120, profile)
    assert_same(score(hu, vessels, SPACING, 120, profile), turned)


@any_case
@given(seeds, st.tuples(*[st.tuples(st.integers(0, 3), st.integers(0, 3))] * 3), profiles)
def test_e_translation_and_crop_margin(seed: int, margin: tuple, profile: ScoringProfile) -> None:
    hu, vessels = random_case(seed)
    vessels[[0, -1]] = 0  # the isotropic volume looks at the slices next to a lesion: the crop must hold them
    wide = np.pad(hu, margin, constant_values=900), np.pad(vessels, margin)
    assert_same(score(hu, vessels, SPACING, 120, profile), score(*wide, SPACING, 120, profile))


@any_case
@given(seeds, st.tuples(*[st.integers(-2, 2)] * 3), profiles)
def test_e_moving_a_lesion_within_the_scan(seed: int, by: tuple[int, int, int], profile: ScoringProfile) -> None:
    lesion = random_case(seed, 6)
    hu, vessels = (np.pad(array, 3) for array in lesion)
    moved = np.roll(hu, by, (0, 1, 2)), np.roll(vessels, by, (0, 1, 2))
    assert_same(score(hu, vessels, SPACING, 120, profile), score(*moved, SPACING, 120, profile))


@any_case
@given(seeds, st.permutations(range(5)), profiles)
def test_e_order_of_separate_lesions(seed: int, order: list[int], profile: ScoringProfile) -> None:
    cells = []
    for k in range(5):  # apart by an empty shell
        lesion = random_case(5 * seed + 2 * k, 4)
        cells.append([np.pad(array, 1) for array in lesion])
    one = [np.concatenate(arrays, axis=2) for arrays in zip(*cells, strict=True)]
    two = [np.concatenate(arrays, axis=2) for arrays in zip(*(cells[k] for k in order), strict=True)]
    a, b = score(*one, SPACING, 120, profile), score(*two, SPACING, 120, profile)
    assert_same(a, b)

    def facts(result: CalciumScore) -> list[tuple]:
        return sorted((x.vessel, x.slices, x.n_voxels, x.peak_hu, round(x.agatston, 9)) for x in result.lesions)

    assert facts(a) == facts(b)
    scores = [x.agatston for x in b.lesions]
    assert scores == sorted(scores, reverse=True)
    assert [x.index for x in b.lesions] == list(range(1, len(scores) + 1))


@any_case
@given(seeds, st.permutations([1, 2, 3, 4]), profiles.filter(lambda p: p.name != "orcascore"))
def test_renaming_the_vessels_renames_the_scores(seed: int, order: list[int], profile: ScoringProfile) -> None:
    # not orcascore: it folds LM into LAD, and in a tied vote the first vessel wins
    hu, vessels = random_case(seed)
    one = values(score(hu, vessels, SPACING, 120, profile))
    two = values(score(hu, np.array([0, *order], dtype=np.uint8)[vessels], SPACING, 120, profile))
    np.testing.assert_allclose(two[[0, *order]], one, rtol=1e-12)


@any_case
@given(seeds, seeds, profiles)
def test_additive_over_separate_lesions(a: int, b: int, profile: ScoringProfile) -> None:
    (hu1, v1), (hu2, v2) = random_case(2 * a), random_case(2 * b)
    gap = np.zeros((4, 12, 1))
    both = np.concatenate([hu1, gap, hu2], axis=2), np.concatenate([v1, gap.astype(np.uint8), v2], axis=2)
    one, two = score(hu1, v1, SPACING, 120, profile), score(hu2, v2, SPACING, 120, profile)
    np.testing.assert_allclose(values(score(*both, SPACING, 120, profile)), values(one) + values(two), rtol=1e-9)


@any_case
@given(seeds, profiles)
def test_i_vessels_add_up_to_the_total(seed: int, profile: ScoringProfile) -> None:
    hu, vessels = random_case(seed)
    result = score(hu, vessels, SPACING, 120, profile)
    assert sum(result.vessels.values(), Measures()) == result.total  # exactly
    # and a vessel that touches no other scores alone what it scores among the others
    stripes = np.zeros_like(vessels)
    for k in range(4):
        stripes[:, :, 3 * k : 3 * k + 2] = k + 1
    together = values(score(hu, stripes, SPACING, 120, profile))
    alone = [values(score(hu, np.where(stripes == k, stripes, 0), SPACING, 120, profile)) for k in range(1, 5)]
    np.testing.assert_allclose(together, sum(alone), rtol=1e-9)


@any_case
@given(seeds, st.integers(0, 12), profiles)
def test_a_moving_the_border_of_lm_and_lad_leaves_the_total(seed: int, border: int, profile: ScoringProfile) -> None:
    hu, vessels = random_case(seed)
    moved = vessels.copy()
    left = (vessels == 1) | (vessels == 2)
    moved[left] = np.where(np.arange(12) < border, 1, 2)[np.nonzero(left)[2]]
    one, two = score(hu, vessels, SPACING, 120, profile), score(hu, moved, SPACING, 120, profile)
    assert fields(one.total) == pytest.approx(fields(two.total), rel=1e-12)
    assert one.vessels["RCA"] == two.vessels["RCA"]
    assert sum(two.vessels.values(), Measures()) == two.total


@any_case
@given(seeds, st.floats(0, 1), st.floats(1, 300), profiles, st.sampled_from([100, 120]))
def test_i_monotone_in_hu(seed: int, share: float, by: float, profile: ScoringProfile, kvp: int) -> None:
    """Under a fixed mask, brighter voxels never lower total Agatston, voxel volume and uncalibrated mass.

    True of every profile: islands only grow, merge and gain peak, so none falls below the minimum area or loses weight,
    and orcascore's vote moves calcium between vessels only. Per vessel it holds for the others, then. For the isotropic
    volume see below.
    """
    if profile.name == "agatston1990":
        kvp = 120  # it has no thresholds for 100
    hu, vessels = random_case(seed)
    rng = np.random.default_rng(seed)
    brighter = hu + (rng.random(hu.shape) < share) * rng.uniform(0, by, hu.shape)
    a, b = (values(score(h, vessels, SPACING, kvp, profile, mass_factor=1.0)) for h in (hu.astype(float), brighter))
    parts = slice(0, 1) if profile.name == "orcascore" else slice(0, 5)
    assert (b[parts, :3] >= a[parts, :3] - 1e-9).all()


@any_case
@given(seeds, st.floats(0, 1), st.floats(1, 300))
def test_i_isotropic_volume_monotone_in_hu(seed: int, share: float, by: float) -> None:
    """Only within the mask and without a minimum area (siemens): a neighbour that becomes bright but isn't kept claims
    the half between the slices that was ours while it was dim."""
    hu, vessels = random_case(seed)
    rng = np.random.default_rng(seed)
    brighter = hu + (vessels > 0) * (rng.random(hu.shape) < share) * rng.uniform(0, by, hu.shape)
    a, b = (score(h, vessels, SPACING, 120, "siemens").total for h in (hu.astype(float), brighter))
    assert b.volume_isotropic_mm3 >= a.volume_isotropic_mm3 - 1e-9


@any_case
@given(seeds, profiles)
def test_i_zero_mask_scores_zero(seed: int, profile: ScoringProfile) -> None:
    hu, vessels = random_case(seed)
    for h, v in ((hu, vessels * 0), (np.minimum(hu, 112), vessels)):
        result = score(h, v, SPACING, 120, profile)
        assert not values(result).any()
        assert (result.lesions, result.n_vessels, result.risk_category, result.cac_drs) == ((), 0, "0", "A0")


GOOD = {"hu": np.full((2, 4, 4), 200.0), "vessels": np.ones((2, 4, 4), dtype=np.uint8), "spacing_mm": (3.0, 0.5, 0.5)}


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ({"hu": np.zeros((4, 4))}, "hu"),
        ({"hu": np.zeros((0, 4, 4)), "vessels": np.zeros((0, 4, 4), dtype=np.uint8)}, "hu"),
        ({"hu": np.full((2, 4, 4), np.nan)}, "hu"),
        ({"hu": np.full((2, 4, 4), np.inf)}, "hu"),
        ({"hu": np.ones((2, 4, 4), dtype=np.uint16)}, "hu"),
        ({"hu": [[[200.0]]]}, "hu"),
        ({"vessels": np.ones((2, 4, 5), dtype=np.uint8)}, "vessels"),
        ({"vessels": np.ones((2, 4, 4), dtype=np.float32)}, "vessels"),
        ({"vessels": np.ones((2, 4, 4), dtype=bool)}, "vessels"),
        ({"vessels": np.full((2, 4, 4), 5, dtype=np.uint8)}, "vessels"),
        ({"vessels": np.full((2, 4, 4), -1, dtype=np.int8)}, "vessels"),
        ({"spacing_mm": (3.0, -0.5, 0.5)}, "spacing_mm"),
        ({"spacing_mm": (3.0, 0.0, 0.5)}, "spacing_mm"),
        ({"spacing_mm": (3.0, np.nan, 0.5)}, "spacing_mm"),
        ({"spacing_mm": (0.5, 0.5)}, "spacing_mm"),
        ({"spacing_mm": 0.5}, "spacing_mm"),
        ({"affine": np.eye(3)}, "affine"),
        ({"affine": np.full((4, 4), np.nan)}, "affine"),
        ({"hu": np.full((2, 4, 4), -np.inf)}, "hu"),
        ({"hu": np.ones((2, 4, 4), dtype=complex)}, "hu"),
        ({"vessels": None}, "vessels"),
        ({"spacing_mm": (np.inf, 0.5, 0.5)}, "spacing_mm"),
        ({"spacing_mm": ("a", 0.5, 0.5)}, "spacing_mm"),
        *(({"mass_factor": bad}, "mass_factor") for bad in (0, -1e-3, np.nan, np.inf, "much")),
    ],
)
def test_bad_input_names_field_and_value(bad: dict, field: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        score(**(GOOD | bad), kvp=120)
    assert caught.value.field == field
    assert caught.value.value is not None


def test_one_nan_is_found() -> None:
    hu = GOOD["hu"].copy()
    hu[1, 2, 3] = np.nan
    with pytest.raises(ArgumentError, match="finite"):
        score(**(GOOD | {"hu": hu}), kvp=120)


@pytest.mark.parametrize("bad", [0, -1e-3, np.nan, np.inf, "much"])
def test_bad_mass_factor_of_the_audit_trail(bad: object) -> None:
    hu, vessels, spacing = GOOD.values()
    with pytest.raises(ArgumentError, match="mass_factor"):
        extracoronary_scores(hu, vessels, spacing, 120, mass_factor=bad)
    with pytest.raises(ArgumentError, match="mass_factor"):
        lesion_table(hu, hu > 0, vessels, vessels * 0, spacing, 120, mass_factor=bad)


def test_voltage_is_checked_before_anything_is_scored() -> None:
    hu, vessels, spacing = GOOD.values()
    for labels in (vessels, vessels * 0):
        with pytest.raises(TubeVoltageError):
            score(hu, labels, spacing, None, mass_factor=1e-3)
        with pytest.raises(TubeVoltageError):
            extracoronary_scores(hu, labels, spacing, 110, mass_factor=1e-3)
        with pytest.raises(TubeVoltageError):
            lesion_table(hu, labels > 0, labels, labels * 0, spacing, 110, mass_factor=1e-3)


def test_inputs_are_left_alone() -> None:
    hu, vessels = random_case(5)
    before = hu.copy(), vessels.copy()
    for name in PROFILES:
        score(hu, vessels, SPACING, 120, name)
    np.testing.assert_array_equal(hu, before[0])
    np.testing.assert_array_equal(vessels, before[1])


def test_profiles() -> None:
    assert profile_names() == PROFILES
    assert [load_profile(name).name for name in PROFILES] == list(PROFILES)
    with pytest.raises(ConfigError, match="smartscore") as caught:
        load_profile("toshiba")
    assert caught.value.value == "toshiba"
    with pytest.raises(dataclasses.FrozenInstanceError):
        load_profile("siemens").connectivity = 8
    assert sorted(load_profile("smartscore").kvp_table_hu) == [70, 80, 100, 120, 135]
    with pytest.raises(TubeVoltageError, match="70, 80, 100, 120, 135"):
        load_profile("smartscore").bands(140)
    assert load_profile("smartscore").bands(np.float32(100)) == (145, 222, 334, 446)


@pytest.mark.parametrize(
    "change",
    [
        {"connectivity": 6},
        {"comparison": "=>"},
        {"voting": "majority"},
        {"category_rule": "floor"},
        {"density_bands_hu": [130, 300, 200, 400]},
        {"density_bands_hu": [130, 200, 300]},
        {"density_bands_hu": [131, 200, 300, 400]},
        {"kvp_table_hu": {120: [130, 200, 300, 400], 100: [1, 2]}},
        {"min_pixels": 3},
        {"min_area_mm2": None},
        {"min_area_mm2": -1.0},
        {"ha_hu_per_mg_cc": 0},
        {"treshold": 130},
        {"kvp_independent_kernels": "Sa36"},
        {"kvp_independent_kernels": ["Sa36("]},
        {"kvp_independent_kernels": [36]},
        {"kvp_independent_kernels": None},
    ],
)
def test_a_bad_profile_is_refused(change: dict) -> None:
    plain = yaml.safe_load((PROFILE_FOLDER / "smartscore.yaml").read_text(encoding="utf-8"))
    assert profile_from_mapping(plain) == load_profile("smartscore")
    with pytest.raises(ConfigError):
        profile_from_mapping(plain | change)


def test_every_setting_of_a_profile_is_commented() -> None:
    for name in PROFILES:
        lines = (PROFILE_FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
        settings_lines = [line for line in lines if line[:1].isalpha() and not line.startswith("name:")]
        assert all("#" in line for line in settings_lines), name


EDGES = (0, 0.4, 0.5, 1, 10, 10.4, 10.5, 11, 99.9, 100, 100.4, 100.5, 101, 299.9, 300, 400, 400.4, 400.5)
EDGES += (401, 1000, 1000.4, 1000.5, 1001)


def runs(*runs: tuple[str, int]) -> list[str]:
    return list(itertools.chain.from_iterable([name] * n for name, n in runs))


@pytest.mark.parametrize(
    ("levels", "rule", "expected"),
    [
        (4, "real", runs(("0", 1), ("1-100", 9), ("101-400", 6), (">400", 7))),
        (4, "round", runs(("0", 2), ("1-100", 9), ("101-400", 6), (">400", 6))),
        (5, "real", runs(("0", 1), ("1-10", 4), ("11-100", 5), ("101-400", 6), (">400", 7))),
        (5, "round", runs(("0", 2), ("1-10", 4), ("11-100", 5), ("101-400", 6), (">400", 6))),
        (6, "real", runs(("0", 1), ("1-10", 4), ("11-100", 5), ("101-400", 6), ("401-1000", 4), (">1000", 3))),
        (6, "round", runs(("0", 2), ("1-10", 4), ("11-100", 5), ("101-400", 6), ("401-1000", 4), (">1000", 2))),
    ],
)
def test_h_category_edges(levels: int, rule: str, expected: list[str]) -> None:
    assert [risk_category(s, rule, levels) for s in EDGES] == expected


def test_h_cac_drs_edges() -> None:
    expected = ["A0"] + ["A1/N1"] * 8 + ["A2/N1"] * 5 + ["A3/N1"] * 9
    assert [cac_drs(s, 1 if s else 0) for s in EDGES] == expected
    assert cac_drs(300, 4) == "A3/N4"


def test_category_bad_input() -> None:
    for bad in (-1, float("nan"), float("inf")):
        with pytest.raises(ArgumentError):
            risk_category(bad)
        with pytest.raises(ArgumentError):
            cac_drs(bad, 1)
    with pytest.raises(ArgumentError):
        cac_drs(1, 5)
    with pytest.raises(ArgumentError):
        risk_category(1, "up")
    for levels in (0, 3, 7, None):
        with pytest.raises(ArgumentError, match="levels"):
            risk_category(1, levels=levels)


def test_category_of_a_score_follows_the_profile() -> None:
    hu, vessels = np.zeros((1, 8, 8)), np.zeros((1, 8, 8), dtype=np.uint8)
    hu[0, 2:4, 2:4], vessels[0, 2:4, 2:4] = 150, 3
    spacing = (1.2, 0.5, 0.5)  # Agatston 0.4
    profile = load_profile("smartscore")
    real = score(hu, vessels, spacing, 120, profile)
    assert real.total.agatston == pytest.approx(0.4)
    assert (real.risk_category, real.cac_drs) == ("1-100", "A1/N1")
    assert (real.risk_category_5, real.risk_category_6) == ("1-10", "1-10")
    rounded = score(hu, vessels, spacing, 120, dataclasses.replace(profile, category_rule="round"))
    assert (rounded.risk_category, rounded.risk_category_5, rounded.risk_category_6) == ("0", "0", "0")
    big = score(np.full((50, 8, 8), 500), np.ones((50, 8, 8), dtype=np.uint8), (3.0, 0.5, 0.5), 120)
    assert big.total.agatston == pytest.approx(3200)
    assert (big.risk_category, big.risk_category_5, big.risk_category_6) == (">400", ">400", ">1000")


# --- mass calibration ------------------------------------------------------------------------------------------------


def test_mass_factor_of_rods() -> None:
    assert mass_factor_from_rods(260.0, 0.0) == pytest.approx(0.2 / 260)  # the default: 1.3 HU per mg/cc
    assert mass_factor_from_rods(300.0, -10.0) == pytest.approx(0.2 / 310)
    assert mass_factor_from_rods(300.0, -10.0, mg_cc=100) == pytest.approx(0.1 / 310)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ((0.0, 0.0), "hu_rod"),
        ((-5.0, 0.0), "hu_rod"),
        ((np.nan, 0.0), "hu_rod"),
        ((260.0, np.nan), "hu_rod"),
        ((np.inf, 0.0), "hu_rod"),
        ((260.0, -np.inf), "hu_rod"),
        ((260.0, 0.0, 0.0), "mg_cc"),
        ((260.0, 0.0, np.inf), "mg_cc"),
    ],
)
def test_bad_rods(arguments: tuple[float, ...], field: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        mass_factor_from_rods(*arguments)
    assert caught.value.field == field


def test_given_mass_factor_replaces_the_default_and_its_flag() -> None:
    hu, vessels = random_case(4)
    default = score(hu, vessels, SPACING, 100)
    given_factor = score(hu, vessels, SPACING, 100, mass_factor=2 * default.mass_factor)
    assert given_factor.mass_factor == 2 * default.mass_factor
    assert set(default.flags) - set(given_factor.flags) == {"mass_calibration_default"}
    np.testing.assert_allclose(values(given_factor)[:, [0, 1, 3]], values(default)[:, [0, 1, 3]])
    np.testing.assert_allclose(values(given_factor)[:, 2], 2 * values(default)[:, 2])
    assert given_factor.lesions[0].mass_mg == pytest.approx(2 * default.lesions[0].mass_mg)
    rows, given_rows = (
        lesion_table(hu, hu >= 130, vessels, vessels * 0, SPACING, 120, mass_factor=factor) for factor in (None, 2e-3)
    )
    assert [r["mass_mg"] for r in given_rows[:-1]] == pytest.approx([2e-3 * 1300 * r["mass_mg"] for r in rows[:-1]])
    extra, given_extra = (extracoronary_scores(hu, vessels, SPACING, 120, mass_factor=f)["aorta"] for f in (None, 2e-3))
    assert given_extra.mass_mg == pytest.approx(2e-3 * 1300 * extra.mass_mg)
    assert extra.mass_mg > 0


# --- tube voltage ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kvp", "kernel", "profile", "expected"),
    [
        (80.0, "Sa36f", "siemens", 120.0),
        (80.0, "sa36F", "smartscore", 120.0),
        (110.0, "Sa36", "orcascore", 120.0),
        (None, "Sa36f\\3", "siemens", 120.0),
        (80.0, " Sa36f", "siemens", 120.0),
        (80.0, "Qr36f", "siemens", 80.0),
        (80.0, "xSa36f", "siemens", 80.0),
        (80.0, "Qr36d\\Sa36f", "siemens", 80.0),
        (80.0, "", "siemens", 80.0),
        (110.0, None, "siemens", 110.0),
        (None, None, "siemens", None),
        (100.0, "Sa36f", "literature_fqm", 100.0),
    ],
)
def test_kernel_independent_of_the_voltage(kvp: float | None, kernel: str | None, profile: str, expected: float | None) -> None:
    assert scoring_kvp(kvp, kernel, profile) == expected


def test_an_unknown_kernel_never_becomes_120_kvp() -> None:
    everything = dataclasses.replace(load_profile("siemens"), kvp_independent_kernels=(".*",))
    assert scoring_kvp(80.0, "B35f", everything) == 120.0
    assert scoring_kvp(80.0, None, everything) == 80.0


def test_imports_neither_torch_nor_monai() -> None:
    code = "import sys, cacsnet.scoring; print([m for m in ('torch', 'monai', 'pandas', 'hydra') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_a_whole_scan_is_scored_on_the_bounding_box(monkeypatch: pytest.MonkeyPatch) -> None:
    hu = np.full((30, 256, 256), 40, dtype=np.int16)
    vessels = np.zeros(hu.shape, dtype=np.uint8)
    hu[10:20, 100:140, 100:140] = 300
    hu[10:20, :, 110:130] = 40
    vessels[10:20, 90:150, 95:145] = 2
    sizes = []

    def spy(module: object, name: str) -> None:
        plain = getattr(module, name)

        def counted(array: np.ndarray, *args: object, **kwargs: object) -> object:
            sizes.append(array.size)
            return plain(array, *args, **kwargs)

        monkeypatch.setattr(module, name, counted)

    spy(cc3d, "connected_components")
    spy(ndimage, "label")
    tracemalloc.start()
    try:
        score(hu, vessels, (3.0, 0.4, 0.4), 120)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sizes == [10 * 40 * 40] * 2  # the islands, then the lesions
    assert peak < hu.size  # bytes: not even a bool array of the scan's size was made
