"""Two measurements of the same subjects: a paired test by a stated rule, and paired and unpaired tests of two rates."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportions_ztest

from cacsnet.agreement.statistics import MINIMUM_CASES
from cacsnet.errors import ArgumentError

NORMALITY_LEVEL = 0.05
SHAPIRO_LIMIT = 5000
ROUNDING = 1e-6
"""Differences below this share of the largest value are rounding: a header's spacing has seven digits."""

RULE = (
    f"paired t-test where Shapiro-Wilk does not reject normality of the differences at {NORMALITY_LEVEL:g} "
    f"(or above {SHAPIRO_LIMIT} pairs), else Wilcoxon signed-rank test; two-sided"
)
"""Sartoretti et al. 2022 use both tests and don't say when which."""

Z_CAVEAT = (
    "the z-test takes the two proportions as those of different patients; both scans are of the same ones, so "
    "McNemar's exact test decides"
)
"""Sartoretti et al. 2022 name "paired z-tests of proportions" and print p < 0.001 for 1/56 against 3/56. Neither test gives
that: the pooled z-test gives 0.31, McNemar's exact test at least 0.50."""


@dataclass(frozen=True)
class PairedTest:
    """Test of two paired measurements by :data:`RULE`.

    Attributes:
        test: "paired t" or "Wilcoxon"; empty if neither could be made.
        statistic, p_value: of that test.
        mean, sd: of the differences first - second (sd with n - 1).
        shapiro_p: of Shapiro-Wilk on the differences.
        n: number of pairs.
        reason: why a value is ``nan``; empty if none is.
    """

    test: str
    statistic: float
    p_value: float
    mean: float
    sd: float
    shapiro_p: float
    n: int
    reason: str = ""


@dataclass(frozen=True)
class RateTest:
    """How many of the same ``n`` subjects are hit in the first and in the second measurement.

    Attributes:
        first, second: number of subjects hit.
        only_first, only_second: hit in one of them only: all that McNemar's test looks at.
        mcnemar_p: exact (binomial), two-sided: the test to report.
        z, z_p: unpaired z-test of two proportions with pooled variance, for comparison only (:data:`Z_CAVEAT`).
        n: number of subjects.
        reason: why a value is ``nan``.
    """

    first: int
    second: int
    only_first: int
    only_second: int
    mcnemar_p: float
    z: float
    z_p: float
    n: int
    reason: str = ""


def paired_test(first: ArrayLike, second: ArrayLike) -> PairedTest:
    """Compare two vectors [n] of the same subjects by :data:`RULE`.

    Raises:
        ArgumentError: not two finite vectors of one length.
    """
    a, b = (np.asarray(values, dtype=np.float64) for values in (first, second))
    if a.ndim != 1 or a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ArgumentError("needs two finite vectors of one length", field="shape", value=(a.shape, b.shape))
    difference, n, nan = a - b, len(a), math.nan
    mean = float(difference.mean()) if n else nan
    if n < MINIMUM_CASES:
        return PairedTest("", nan, nan, mean, nan, nan, n, f"fewer than {MINIMUM_CASES} pairs")
    sd = float(difference.std(ddof=1))
    rounding = ROUNDING * float(max(np.abs(a).max(), np.abs(b).max()))
    if sd <= rounding:
        what = "no difference in any pair" if abs(mean) <= rounding else "the difference is the same in all pairs"
        return PairedTest("", nan, nan, mean, sd, nan, n, what)
    shapiro = float(stats.shapiro(difference).pvalue) if n <= SHAPIRO_LIMIT else nan
    if n > SHAPIRO_LIMIT or shapiro >= NORMALITY_LEVEL:
        result, name = stats.ttest_rel(a, b), "paired t"
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of small samples with ties: the approximate p is given all the same
            result, name = stats.wilcoxon(a, b), "Wilcoxon"
    return PairedTest(name, float(result.statistic), float(result.pvalue), mean, sd, shapiro, n)


def rate_test(first: ArrayLike, second: ArrayLike) -> RateTest:
    """Compare two bool vectors [n] of the same subjects: how often each is true.

    Raises:
        ArgumentError: not two vectors of one length.
    """
    a, b = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if a.ndim != 1 or a.shape != b.shape:
        raise ArgumentError("needs two vectors of one length", field="shape", value=(a.shape, b.shape))
    n, hits = len(a), (int(a.sum()), int(b.sum()))
    only_first, only_second = int((a & ~b).sum()), int((~a & b).sum())
    if n == 0:
        return RateTest(0, 0, 0, 0, math.nan, math.nan, math.nan, 0, "no pairs")
    exact = float(mcnemar([[int((a & b).sum()), only_first], [only_second, int((~a & ~b).sum())]], exact=True).pvalue)
    if sum(hits) in (0, 2 * n):
        what = "no subject is hit" if sum(hits) == 0 else "every subject is hit"
        return RateTest(*hits, only_first, only_second, exact, math.nan, math.nan, n, f"{what}, so no z-test")
    z, p = proportions_ztest(hits, (n, n))
    return RateTest(*hits, only_first, only_second, exact, float(z), float(p), n)
