"""The isotropic-interpolated volume: known bodies, plain interpolation, whose sample is whose, edges."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from cacsnet.scoring import REASON_INDEX, Measures, extracoronary_scores, load_profile, score
from cacsnet.scoring.isotropic import interpolated_samples, samples_per_increment

SPACING = (3.0, 0.5, 0.5)  # 6 samples per increment
SAMPLE = 3.0 * 0.5 * 0.5 / 6  # mm³


def box(*slices: float, background: float = 0.0, side: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """A square prism of the given HU per slice between two slices of background; only the prism is labelled (LAD)."""
    hu = np.full((len(slices) + 2, side + 2, side + 2), background)
    hu[1:-1, 1:-1, 1:-1] = np.reshape(slices, (-1, 1, 1))
    vessels = np.zeros(hu.shape, dtype=np.uint8)
    vessels[1:-1, 1:-1, 1:-1] = 2
    return hu, vessels


def isotropic(hu: np.ndarray, vessels: np.ndarray, spacing: tuple[float, float, float] = SPACING, profile="siemens") -> float:
    return score(hu, vessels, spacing, 120, profile).total.volume_isotropic_mm3


@pytest.mark.parametrize(
    ("spacing", "n"),
    [
        ((3.0, 0.5, 0.5), 6),
        ((3.0, 0.4883, 0.4883), 6),  # 6.14
        ((2.5, 0.4883, 0.4883), 5),  # 5.12
        ((3.0, 0.4, 0.9), 5),  # the geometric mean 0.6; the mean 0.65 would give 4.6
        ((3.0, 0.9, 0.4), 5),
        ((3.0, 0.3, 1.2), 5),  # the mean 0.75 would give 4
        ((1.0, 0.7, 0.7), 1),  # 1.43
        ((1.0, 0.6, 0.6), 2),
        ((0.3, 0.7, 0.7), 1),
    ],
)
def test_pitch_is_the_nearest_whole_fraction_of_the_increment(spacing: tuple[float, float, float], n: int) -> None:
    assert samples_per_increment(spacing) == n


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
@pytest.mark.parametrize("peak", [131, 200, 260, 800])
@pytest.mark.parametrize("background", [-100, 40, 129])
@pytest.mark.parametrize("k", [1, 2, 5])
def test_volume_of_a_box(dtype: type, peak: int, background: int, k: int) -> None:
    hu, vessels = box(*[peak] * k, background=background)
    reach = int(np.floor(6 * (peak - 130) / (peak - background)))  # samples up to where the edge falls below 130 HU
    expected = 9 * SAMPLE * (k + 5 * (k - 1) + 2 * reach)
    assert isotropic(hu.astype(dtype), vessels) == pytest.approx(expected, rel=1e-12)


def test_octahedron_is_measured_better_than_by_voxels() -> None:
    # HU fall linearly from the centre: {HU >= 130} is an octahedron with semi-axes a, b, c of volume 4/3 a b c
    spacing = (3.0, 0.1, 0.1)
    a, b, c = 4.7, 5.0, 4.0
    z, y, x = np.meshgrid(np.arange(-3, 4), np.arange(-60, 61), np.arange(-60, 61), indexing="ij")
    hu = 530 - 400 * (abs(z) * 3.0 / a + abs(y) * 0.1 / b + abs(x) * 0.1 / c)
    total = score(hu, np.full(hu.shape, 4, dtype=np.uint8), spacing, 120).total
    assert total.volume_isotropic_mm3 == pytest.approx(4 / 3 * a * b * c, rel=0.005)
    assert abs(total.volume_mm3 / (4 / 3 * a * b * c) - 1) > 0.05


@pytest.mark.parametrize("profile", ["siemens", "philips"])
def test_equals_plain_interpolation_where_all_bright_voxels_are_kept(profile: str) -> None:
    rules = dataclasses.replace(load_profile(profile), min_area_mm2=None, min_pixels=1)
    threshold = rules.volume_threshold(100)
    rng = np.random.default_rng(1)
    for spacing in (SPACING, (3.0, 0.7, 0.7), (2.0, 0.3, 0.5)):
        hu = rng.normal(130, 80, (6, 7, 8))
        n = samples_per_increment(spacing)
        fine = np.linspace(0, 5, 5 * n + 1)
        columns = [np.interp(fine, np.arange(6), column) for column in hu.reshape(6, -1).T]
        expected = np.count_nonzero(np.array(columns) >= threshold) * np.prod(spacing) / n
        vessels = rng.integers(1, 5, hu.shape).astype(np.uint8)
        result = score(hu, vessels, spacing, 100, rules)
        assert result.total.volume_isotropic_mm3 == pytest.approx(expected, rel=1e-12)
        assert sum(result.vessels.values(), Measures()) == result.total


def test_cubic_voxels_need_no_interpolation() -> None:
    rng = np.random.default_rng(2)
    hu, vessels = rng.normal(130, 80, (6, 9, 9)), rng.integers(0, 5, (6, 9, 9)).astype(np.uint8)
    total = score(hu, vessels, (0.7, 0.7, 0.7), 120).total
    assert total.volume_isotropic_mm3 == pytest.approx(total.volume_mm3, rel=1e-12)


@pytest.mark.parametrize(("pitch", "n"), [(0.5, 6), (0.6, 5)])
def test_two_vessels_share_the_samples_between_them(pitch: float, n: int) -> None:
    hu, vessels = box(300, 150, background=-1e6)  # no reach into the background
    vessels[2][vessels[2] > 0] = 3
    result = score(hu, vessels, (3.0, pitch, pitch), 120)
    half = 9 * (1 + (n - 1) / 2) * 3 * pitch**2 / n  # the sample in the middle, if any, counts half for each
    assert result.vessels["LAD"].volume_isotropic_mm3 == pytest.approx(half)
    assert result.vessels["LCX"].volume_isotropic_mm3 == pytest.approx(half)
    (lesion,) = result.lesions
    assert lesion.parts["LAD"] == result.vessels["LAD"]
    assert lesion.volume_isotropic_mm3 == result.total.volume_isotropic_mm3


def test_neighbour_below_the_threshold_leaves_its_half() -> None:
    hu, vessels = box(400, 129, background=129.9)
    with_label = isotropic(hu, vessels)
    assert with_label == pytest.approx(9 * SAMPLE * (1 + 5 + 5))  # labelled or not, a dim neighbour owns nothing
    vessels[2] = 0
    assert isotropic(hu, vessels) == pytest.approx(with_label)


def test_bright_neighbour_that_is_not_kept_keeps_its_half() -> None:
    hu, vessels = box(400, 400, background=-1e6)
    vessels[2] = 0  # calcium of another structure
    assert isotropic(hu, vessels) == pytest.approx(9 * SAMPLE * (1 + 2.5))
    hu, vessels = box(400, -1e6, background=-1e6)
    hu[2, 2, 2] = 500  # labelled, but dropped: too small an island
    assert isotropic(hu, vessels, profile="smartscore") == pytest.approx(SAMPLE * (9 + 2.5))
    assert isotropic(hu, vessels, profile="siemens") == pytest.approx(SAMPLE * (9 + 1 + 5))


def test_extracoronary_calcium_shares_with_coronary() -> None:
    hu, vessels = box(400, 400, background=-1e6)
    reasons = np.zeros(hu.shape, dtype=np.uint8)
    reasons[2][vessels[2] > 0] = REASON_INDEX["aorta"]
    vessels[2] = 0
    extra = extracoronary_scores(hu, reasons, SPACING, 120)
    assert extra["aorta"].volume_isotropic_mm3 == pytest.approx(9 * SAMPLE * 3.5)
    assert extra["aorta"].volume_isotropic_mm3 == pytest.approx(isotropic(hu, vessels))
    assert extra["aortic_valve"].volume_isotropic_mm3 == 0


def test_nothing_is_invented_beyond_the_array() -> None:
    hu, vessels = box(400, 400)
    inner = 9 * SAMPLE * (2 + 5)
    assert isotropic(hu[1:-1], vessels[1:-1]) == pytest.approx(inner)
    assert isotropic(hu[1:], vessels[1:]) == pytest.approx(inner + 9 * SAMPLE * 4)  # 6 * 270 / 400
    assert isotropic(hu[:-1], vessels[:-1]) == pytest.approx(inner + 9 * SAMPLE * 4)
    assert isotropic(hu[1:2], vessels[1:2]) == pytest.approx(9 * SAMPLE)


def test_sample_at_the_threshold() -> None:
    spacing = (1.0, 0.5, 0.5)
    hu, vessels = box(260)  # the only sample in between has 130 HU
    voxel = 9 * 1.0 * 0.25
    assert isotropic(hu, vessels, spacing, "smartscore") == pytest.approx(voxel * 2 / 2 + voxel / 2)
    assert isotropic(hu, vessels, spacing, "agatston1990") == pytest.approx(voxel / 2)
    # the neighbour itself at the threshold: kept by >=, dim for >
    hu[0] = hu[2] = 130
    assert isotropic(hu, vessels, spacing, "smartscore") == pytest.approx(voxel / 2 * 2)  # unlabelled: only our halves
    assert isotropic(hu, vessels, spacing, "agatston1990") == pytest.approx(voxel / 2 * 3)


def test_voxel_rounded_below_the_threshold_keeps_its_own_sample() -> None:
    threshold = load_profile("philips").volume_threshold(100)  # 125.480769...
    value = np.float32(threshold)
    assert float(value) != threshold
    hu = np.zeros((3, 1, 2), dtype=np.float32)
    hu[1] = value
    where = (np.array([1, 1]), np.array([0, 0]), np.array([0, 1]))
    np.testing.assert_array_equal(interpolated_samples(hu, where, 6, threshold), [1, 1])
    np.testing.assert_array_equal(interpolated_samples(hu, where, 6, float(np.nextafter(value, np.float32(999)))), [1, 1])


def test_volume_has_its_own_threshold() -> None:
    hu, vessels = box(120, 120)
    result = score(hu, vessels, SPACING, 120, "philips").total  # 112.5 HU: 6 * 7.5 / 120 = 0.4 samples
    assert (result.agatston, result.volume_isotropic_mm3) == (0, pytest.approx(9 * SAMPLE * 7))
    assert isotropic(hu, vessels, profile="siemens") == 0
