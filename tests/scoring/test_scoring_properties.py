"""Invariances of the score, a second implementation, bad input, profiles, categories, imports."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_scorer import naive_score

from cacsnet.errors import ArgumentError, ConfigError, TubeVoltageError
from cacsnet.scoring import cac_drs, load_profile, profile_from_mapping, profile_names, risk_category, score
from cacsnet.scoring.profiles import PROFILE_FOLDER

SPACING = (2.5, 0.45, 0.6)
PROFILES = ("agatston1990", "canon", "literature_fqm", "orcascore", "philips", "siemens", "smartscore")


def random_case(seed: int, size: int = 12) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    hu = rng.normal(140, 90, (4, size, size)).astype(np.float32)
    if seed % 2:
        hu = np.round(hu).astype(np.int16)
    vessels = rng.integers(0, 5, hu.shape).astype(np.uint8)
    vessels[:, size // 2 :] = rng.integers(0, 5, (4, 1, size))  # some coherent stripes
    return hu, vessels


def values(result: object) -> list[float]:
    return [getattr(v, f) for v in [result.total, *result.vessels.values()] for f in ("agatston", "volume_mm3", "mass_mg")]


@pytest.mark.parametrize("name", PROFILES)
def test_second_implementation_agrees(name: str) -> None:
    profile = load_profile(name)
    voltages = sorted(profile.kvp_table_hu)
    for seed in range(100):
        rng = np.random.default_rng(1000 + seed)
        hu, vessels = random_case(seed, 9)
        spacing = tuple(rng.uniform((0.6, 0.3, 0.3), (5, 1, 1)))
        kvp = voltages[seed % len(voltages)]
        ours, theirs = score(hu, vessels, spacing, kvp, profile), naive_score(hu, vessels, spacing, kvp, profile)
        expected = [x for k in ("total", "LM", "LAD", "LCX", "RCA") for x in theirs[k]]
        np.testing.assert_allclose(values(ours), expected, rtol=1e-9, atol=1e-9)
        lesions = [sum(getattr(x, f) for x in ours.lesions) for f in ("agatston", "volume_mm3", "mass_mg")]
        np.testing.assert_allclose(lesions, expected[:3], rtol=1e-9, atol=1e-9)


any_case = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 10_000)
names = st.sampled_from(PROFILES)


def assert_same(a: object, b: object) -> None:
    np.testing.assert_allclose(values(a), values(b), rtol=1e-9, atol=1e-9)
    assert len(a.lesions) == len(b.lesions)


@any_case
@given(seeds, st.sampled_from([(0,), (1,), (2,), (0, 1), (1, 2), (0, 1, 2)]), names)
def test_flip(seed: int, axes: tuple[int, ...], name: str) -> None:
    hu, vessels = random_case(seed)
    assert_same(score(hu, vessels, SPACING, 120, name), score(np.flip(hu, axes), np.flip(vessels, axes), SPACING, 120, name))


@any_case
@given(seeds, names)
def test_transpose_in_the_plane(seed: int, name: str) -> None:
    hu, vessels = random_case(seed)
    turned = score(hu.transpose(0, 2, 1), vessels.transpose(0, 2, 1), (SPACING[0], SPACING[2], SPACING[1]), 120, name)
    assert_same(score(hu, vessels, SPACING, 120, name), turned)


@any_case
@given(seeds, st.tuples(*[st.tuples(st.integers(0, 3), st.integers(0, 3))] * 3), names)
def test_translation_and_crop_margin(seed: int, margin: tuple, name: str) -> None:
    hu, vessels = random_case(seed)
    wide = np.pad(hu, margin, constant_values=900), np.pad(vessels, margin)
    assert_same(score(hu, vessels, SPACING, 120, name), score(*wide, SPACING, 120, name))


@any_case
@given(seeds, seeds, names)
def test_additive_over_separate_lesions(a: int, b: int, name: str) -> None:
    (hu1, v1), (hu2, v2) = random_case(2 * a), random_case(2 * b)
    gap = np.zeros((4, 12, 1))
    both = np.concatenate([hu1, gap, hu2], axis=2), np.concatenate([v1, gap.astype(np.uint8), v2], axis=2)
    one, two = score(hu1, v1, SPACING, 120, name), score(hu2, v2, SPACING, 120, name)
    np.testing.assert_allclose(values(score(*both, SPACING, 120, name)), np.add(values(one), values(two)), rtol=1e-9)


@any_case
@given(seeds, st.integers(0, 12), st.sampled_from([p for p in PROFILES if p != "orcascore"]))
def test_moving_the_border_of_lm_and_lad_leaves_the_total(seed: int, border: int, name: str) -> None:
    hu, vessels = random_case(seed)
    moved = vessels.copy()
    left = (vessels == 1) | (vessels == 2)
    moved[left] = np.where(np.arange(12) < border, 1, 2)[np.nonzero(left)[2]]
    one, two = score(hu, vessels, SPACING, 120, name), score(hu, moved, SPACING, 120, name)
    assert one.total.agatston == pytest.approx(two.total.agatston, rel=1e-12)
    assert one.vessels["RCA"] == two.vessels["RCA"]
    total = two.vessels["LM"] + two.vessels["LAD"] + two.vessels["LCX"] + two.vessels["RCA"]
    assert total == two.total


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
    ],
)
def test_bad_input_names_field_and_value(bad: dict, field: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        score(**(GOOD | bad), kvp=120)
    assert caught.value.field == field
    assert caught.value.value is not None


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


EDGES = (0, 0.4, 0.5, 1, 99.9, 100, 100.4, 100.5, 101, 299.9, 300, 400, 400.4, 400.5)


def test_category_edges() -> None:
    real = ["0"] + ["1-100"] * 5 + ["101-400"] * 6 + [">400"] * 2
    rounded = ["0", "0"] + ["1-100"] * 5 + ["101-400"] * 6 + [">400"]
    drs = ["A0"] + ["A1/N1"] * 4 + ["A2/N1"] * 5 + ["A3/N1"] * 4
    assert [risk_category(s) for s in EDGES] == real
    assert [risk_category(s, "round") for s in EDGES] == rounded
    assert [cac_drs(s, 1 if s else 0) for s in EDGES] == drs
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


def test_category_of_a_score_follows_the_profile() -> None:
    hu, vessels = np.zeros((1, 8, 8)), np.zeros((1, 8, 8), dtype=np.uint8)
    hu[0, 2:4, 2:4], vessels[0, 2:4, 2:4] = 150, 3
    spacing = (1.2, 0.5, 0.5)  # Agatston 0.4
    profile = load_profile("smartscore")
    real = score(hu, vessels, spacing, 120, profile)
    assert real.total.agatston == pytest.approx(0.4)
    assert (real.risk_category, real.cac_drs) == ("1-100", "A1/N1")
    rounded = score(hu, vessels, spacing, 120, dataclasses.replace(profile, category_rule="round"))
    assert rounded.risk_category == "0"


def test_imports_neither_torch_nor_monai() -> None:
    code = "import sys, cacsnet.scoring; print([m for m in ('torch', 'monai', 'pandas', 'hydra') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_a_whole_scan_is_scored_on_the_bounding_box() -> None:
    hu = np.full((60, 512, 512), 40, dtype=np.int16)
    vessels = np.zeros(hu.shape, dtype=np.uint8)
    hu[20:40, 200:330:7, 200:330:7] = 300
    vessels[20:40, 190:340, 190:340] = 2
    start = time.perf_counter()
    score(hu, vessels, (3.0, 0.4, 0.4), 120)
    assert time.perf_counter() - start < 2  # takes hundredths of a second; generous for a busy computer
