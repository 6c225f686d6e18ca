from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from cacsnet.agreement.paired import paired_test, rate_test
from cacsnet.agreement.statistics import icc
from cacsnet.errors import ArgumentError


def normal_differences(n: int, mean: float, sd: float) -> np.ndarray:
    """Values of exactly this mean and SD that look normal."""
    values = stats.norm.ppf((np.arange(n) + 0.5) / n)
    return mean + sd * (values - values.mean()) / values.std(ddof=1)


@pytest.mark.parametrize(("mean", "sd", "p"), [(6.7, 64.7, 0.44), (13.6, 57.6, 0.083)])
def test_variability_of_the_paper(mean: float, sd: float, p: float) -> None:
    """6.7 ± 64.7 and 13.6 ± 57.6 of 56 patients."""
    base = np.linspace(0, 900, 56)
    result = paired_test(base + normal_differences(56, mean, sd), base)
    assert (result.test, result.n) == ("paired t", 56)
    assert (result.mean, result.sd) == pytest.approx((mean, sd))
    assert result.p_value == pytest.approx(p, abs=0.003)


def test_scan_rescan_icc_of_the_paper() -> None:
    """Differences of SD 64.7 between scans of SD 491 mean an ICC of 0.991."""
    rng = np.random.default_rng(3)
    basis, _ = np.linalg.qr(np.column_stack([np.ones(56), rng.normal(size=(56, 2))]))
    unit = basis[:, 1:] * math.sqrt(55)  # two uncorrelated vectors of mean 0 and SD 1
    middle = math.sqrt(491**2 - 64.7**2 / 4) * unit[:, 0]
    half = 64.7 / 2 * unit[:, 1]
    result = icc(400 + middle + half, 400 + middle - half)
    assert result.consistency == pytest.approx(0.991, abs=5e-4)
    assert result.consistency_ci == pytest.approx((0.985, 0.995), abs=6e-4)


def test_the_rule_between_t_and_wilcoxon() -> None:
    rng = np.random.default_rng(0)
    base = rng.exponential(100, 60)
    even, skewed = base + normal_differences(60, 3, 10), base + rng.exponential(10, 60) ** 2
    for first, name, oracle in ((even, "paired t", stats.ttest_rel), (skewed, "Wilcoxon", stats.wilcoxon)):
        result = paired_test(first, base)
        assert result.test == name
        assert result.p_value == pytest.approx(oracle(first, base).pvalue)
        assert (result.shapiro_p >= 0.05) == (name == "paired t")
        assert result.mean == pytest.approx((first - base).mean())
        back = paired_test(base, first)
        assert (back.p_value, back.mean) == pytest.approx((result.p_value, -result.mean))


def test_many_pairs_need_no_test_of_normality() -> None:
    rng = np.random.default_rng(1)
    base = rng.exponential(100, 5001)
    result = paired_test(base + rng.exponential(1, 5001), base)
    assert result.test == "paired t"
    assert math.isnan(result.shapiro_p)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_too_few_pairs(n: int) -> None:
    result = paired_test(np.arange(n), np.zeros(n))
    assert math.isnan(result.p_value)
    assert "fewer than 3" in result.reason


def test_no_test_of_equal_differences() -> None:
    base = np.array([1.0, 5, 9, 2])
    assert "no difference" in paired_test(base, base).reason
    assert "same in all" in paired_test(base + 0.1, base).reason
    assert math.isnan(paired_test(base + 0.1, base).p_value)


def test_small_samples_with_ties_give_no_warning() -> None:
    result = paired_test([1, 2, 3, 50, 5, 5], [1, 1, 1, 1, 5, 4])
    assert result.test == "Wilcoxon"
    assert 0 < result.p_value < 1


def test_refuses_unpaired_and_missing() -> None:
    for first, second in (([1, 2, 3], [1, 2]), ([1, 2, math.nan], [1, 2, 3]), ([[1, 2, 3]], [[1, 2, 3]])):
        with pytest.raises(ArgumentError):
            paired_test(first, second)
    with pytest.raises(ArgumentError):
        rate_test([True], [True, False])


def reclassified(only_first: int, only_second: int, both: int, n: int = 56) -> tuple[list[bool], list[bool]]:
    rest = n - only_first - only_second - both
    first = [True] * only_first + [False] * only_second + [True] * both + [False] * rest
    second = [False] * only_first + [True] * only_second + [True] * both + [False] * rest
    return first, second


@pytest.mark.parametrize(("only_first", "only_second", "both", "exact"), [(1, 3, 0, 0.625), (0, 2, 1, 0.5)])
def test_reclassification_of_the_paper_does_not_differ_between_scans(only_first, only_second, both, exact) -> None:
    """1 of 56 in the first scan, 3 of 56 in the second: the printed p < 0.001 comes from neither test."""
    result = rate_test(*reclassified(only_first, only_second, both))
    assert (result.first, result.second, result.n) == (1, 3, 56)
    assert result.mcnemar_p == pytest.approx(exact)
    assert result.z == pytest.approx(-1.018, abs=5e-4)
    assert result.z_p == pytest.approx(0.31, abs=2e-3)


def test_mcnemar_is_the_binomial_test_of_the_discordant() -> None:
    result = rate_test(*reclassified(2, 9, 4))
    assert result.mcnemar_p == pytest.approx(stats.binomtest(2, 11).pvalue)
    assert (result.only_first, result.only_second) == (2, 9)
    swapped = rate_test(*reversed(reclassified(2, 9, 4)))
    assert (swapped.mcnemar_p, swapped.z) == pytest.approx((result.mcnemar_p, -result.z))


@pytest.mark.parametrize("value", [True, False])
def test_rates_of_none_and_all(value: bool) -> None:
    result = rate_test([value] * 4, [value] * 4)
    assert result.mcnemar_p == 1
    assert math.isnan(result.z)
    assert "no z-test" in result.reason
    assert math.isnan(rate_test([], []).mcnemar_p)


def test_the_last_digit_of_a_float_is_no_difference() -> None:
    """Pixel spacing in a file's header has seven digits, so equal scores can differ in the eighth."""
    scores = np.array([0.0, 64.8, 57.6, 324.1, 288.3])
    found = paired_test(scores, scores * (1 + 5e-8 * np.array([1, 1, -1, 1, 1])))
    assert (found.test, found.reason) == ("", "no difference in any pair")
    assert math.isnan(found.p_value)
    assert paired_test(scores, scores + 7 + 1e-6 * np.arange(5)).reason == "the difference is the same in all pairs"
    assert paired_test(scores, scores * np.array([1, 1.001, 1, 0.999, 1])).test
