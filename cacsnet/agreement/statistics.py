"""Agreement between reference and model: ICC, kappa, reclassification, Bland-Altman, regression, bootstrap.

Signs, as in Sartoretti et al. 2022: bias = reference - model, and reference = slope * model + intercept.

A number that the data can't support is ``nan`` and the result's ``reason`` says why (fewer than three cases, no
variation, one category only). Nothing degenerate is reported as perfect agreement. An empty ``reason`` means that
everything was estimated. Non-finite or unpaired input raises :class:`~cacsnet.errors.ArgumentError`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from statsmodels.stats.inter_rater import cohens_kappa
from statsmodels.stats.proportion import proportion_confint

from cacsnet.errors import ArgumentError
from cacsnet.scoring.categories import RISK_CATEGORIES, risk_category

MINIMUM_CASES = 3
"""Below this, no statistic with an interval is reported."""

_TOO_FEW = f"fewer than {MINIMUM_CASES} cases"

Interval = tuple[float, float]
_NAN_INTERVAL: Interval = (math.nan, math.nan)


@dataclass(frozen=True)
class ICC:
    """Intraclass correlation, two-way, single measurement, in the names of McGraw & Wong (1996).

    Attributes:
        consistency: ICC(C,1), equal to ICC(3,1) of Shrout & Fleiss (1979); ignores a constant offset (the paper's).
        consistency_ci: its confidence interval (low, high).
        agreement: ICC(A,1), equal to ICC(2,1) of Shrout & Fleiss; a systematic offset lowers it.
        agreement_ci: its confidence interval (low, high).
        n: number of subjects.
        reason: why a value is ``nan``; empty if none is.
    """

    consistency: float
    consistency_ci: Interval
    agreement: float
    agreement_ci: Interval
    n: int
    reason: str = ""


@dataclass(frozen=True)
class Kappa:
    """Cohen's kappa with its asymptotic interval (clipped to [-1, 1]); ``n`` cases; ``reason`` if ``nan``."""

    kappa: float
    ci: Interval
    n: int
    weights: str
    reason: str = ""


@dataclass(frozen=True)
class Reclassification:
    """How many of ``n`` cases the model puts in another category: ``up`` (model higher), ``down``, ``rate`` = both / n.

    ``ci`` is the Wilson interval of the rate.
    """

    n: int
    changed: int
    up: int
    down: int
    rate: float
    ci: Interval
    reason: str = ""


@dataclass(frozen=True)
class BlandAltman:
    """Limits of agreement (Bland & Altman 1986), in the unit of the scores.

    Attributes:
        bias: mean of reference - model, and ``bias_ci`` its t interval.
        sd: standard deviation of the differences (n - 1).
        lower, upper: bias -/+ 1.96 sd, with ``lower_ci`` and ``upper_ci`` from the standard error sd * sqrt(3 / n).
        n: number of pairs.
        reason: why a value is ``nan``; empty if none is.
    """

    bias: float
    bias_ci: Interval
    sd: float
    lower: float
    lower_ci: Interval
    upper: float
    upper_ci: Interval
    n: int
    reason: str = ""


@dataclass(frozen=True)
class Regression:
    """Least squares of reference = slope * model + intercept, with t intervals and the p value of slope = 0."""

    slope: float
    slope_ci: Interval
    intercept: float
    intercept_ci: Interval
    r_squared: float
    p_value: float
    n: int
    reason: str = ""


@dataclass(frozen=True)
class Bootstrap:
    """Percentile interval (low, high) from ``n_valid`` finite resamples of ``n_resamples``."""

    low: float
    high: float
    n_valid: int
    n_resamples: int
    reason: str = ""


def _pairs(reference: ArrayLike, model: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    ref, mod = (np.asarray(values, dtype=np.float64) for values in (reference, model))
    if ref.ndim != 1 or ref.shape != mod.shape:
        raise ArgumentError(
            "reference and model must be two vectors of one length", field="shape", value=(ref.shape, mod.shape)
        )
    for name, values in (("reference", ref), ("model", mod)):
        if not np.isfinite(values).all():
            raise ArgumentError("leave out cases without a finite score", field=name, value=values[~np.isfinite(values)][0])
    return ref, mod


def _negligible(value: float, scale: float) -> bool:
    """Whether a sum of squares is only rounding of numbers as large as ``scale``."""
    return value <= (1e-13 * scale) ** 2


# ---- intraclass correlation ------------------------------------------------------------------------------------------


def icc(reference: ArrayLike, model: ArrayLike, confidence: float = 0.95) -> ICC:
    """ICC(C,1) and ICC(A,1) of two score vectors [n]; see :func:`icc_of_ratings`.

    A model that answers the same for every case gets an ICC of 0 (no association); if both vectors are constant it is
    ``nan``.
    """
    return icc_of_ratings(np.column_stack(_pairs(reference, model)), confidence)


def icc_of_ratings(ratings: ArrayLike, confidence: float = 0.95) -> ICC:
    """Two-way single-measurement ICC of a table [n subjects, k raters] by McGraw & Wong (1996), tables 4 and 7.

    With MSR, MSC and MSE the mean squares of rows (subjects), columns (raters) and residual::

        ICC(C,1) = (MSR - MSE) / (MSR + (k - 1) MSE)
        ICC(A,1) = (MSR - MSE) / (MSR + (k - 1) MSE + k / n (MSC - MSE))

    The interval of a coefficient that is exactly 1 does not exist (its F statistic is infinite) and is ``nan``.

    Raises:
        ArgumentError: the table isn't 2-D and finite with at least two raters.
    """
    table = np.asarray(ratings, dtype=np.float64)
    if table.ndim != 2 or table.shape[1] < 2:
        raise ArgumentError("ratings must be [subjects, raters] with two raters or more", field="ratings", value=table.shape)
    if not np.isfinite(table).all():
        raise ArgumentError("leave out cases without a finite score", field="ratings", value="not finite")
    n, k = table.shape
    if n < MINIMUM_CASES:
        return ICC(math.nan, _NAN_INTERVAL, math.nan, _NAN_INTERVAL, n, _TOO_FEW)
    msr, msc, mse = _mean_squares(table)
    if msr == 0 and mse == 0:
        return ICC(math.nan, _NAN_INTERVAL, math.nan, _NAN_INTERVAL, n, "scores do not vary between cases")
    consistency, agreement = _coefficients(msr, msc, mse, n, k)
    reasons = []
    if math.isnan(agreement):
        reasons.append("no variance left for absolute agreement")
    if mse == 0:
        reasons.append("no residual variance, so no interval")
    interval = _agreement_interval(agreement, msr, msc, mse, n, k, confidence)
    if not reasons and math.isnan(interval[0]):
        reasons.append("no interval of absolute agreement can be computed")
    return ICC(
        consistency,
        consistency_interval(consistency, n, k, confidence),
        agreement,
        interval,
        n,
        "; ".join(reasons),
    )


def icc_values(reference: NDArray[np.float64], model: NDArray[np.float64]) -> tuple[float, float]:
    """ICC(C,1) and ICC(A,1) of two finite vectors [n] as :func:`icc`, without intervals: for resampling."""
    if len(reference) < MINIMUM_CASES:
        return math.nan, math.nan
    msr, msc, mse = _mean_squares(np.column_stack([reference, model]))
    return (math.nan, math.nan) if msr == 0 and mse == 0 else _coefficients(msr, msc, mse, len(reference), 2)


def _mean_squares(table: NDArray[np.float64]) -> tuple[float, float, float]:
    """Mean squares of rows, columns and residual of a two-way table [n, k]; 0 where only rounding is left."""
    n, k = table.shape
    scale = float(np.abs(table).max())
    grand, rows, columns = table.mean(), table.mean(axis=1), table.mean(axis=0)
    residual = table - rows[:, None] - columns[None, :] + grand
    msr = float(k * ((rows - grand) ** 2).sum() / (n - 1))
    msc = float(n * ((columns - grand) ** 2).sum() / (k - 1))
    mse = float((residual**2).sum() / ((n - 1) * (k - 1)))
    msr, msc, mse = (0.0 if _negligible(ms, scale) else ms for ms in (msr, msc, mse))
    return msr, msc, mse


def _coefficients(msr: float, msc: float, mse: float, n: int, k: int) -> tuple[float, float]:
    """ICC(C,1) and ICC(A,1) of mean squares that are not both zero."""
    spread = msr + (k - 1) * mse + k / n * (msc - mse)
    # MSC below MSE can shrink the denominator to nothing where the raters' errors mirror each other
    return (msr - mse) / (msr + (k - 1) * mse), (msr - mse) / spread if spread > 0 else math.nan


def consistency_interval(value: float, n: int, k: int = 2, confidence: float = 0.95) -> Interval:
    """Interval of an ICC(C,1) ``value`` of ``n`` subjects and ``k`` raters (McGraw & Wong 1996, table 7).

    Needs nothing but the printed coefficient, so a paper's intervals can be checked. ``nan`` for a value of 1.
    """
    if n < MINIMUM_CASES or not -1 / (k - 1) <= value < 1:
        return _NAN_INTERVAL
    observed = (1 + (k - 1) * value) / (1 - value)  # MSR / MSE
    upper = (1 + confidence) / 2
    low = observed / stats.f.ppf(upper, n - 1, (n - 1) * (k - 1))
    high = observed * stats.f.ppf(upper, (n - 1) * (k - 1), n - 1)
    return float((low - 1) / (low + k - 1)), float((high - 1) / (high + k - 1))


def _agreement_interval(value: float, msr: float, msc: float, mse: float, n: int, k: int, confidence: float) -> Interval:
    """Interval of ICC(A,1) (McGraw & Wong 1996, table 7, with Satterthwaite degrees of freedom)."""
    if not value < 1:  # also nan
        return _NAN_INTERVAL
    a = k * value / (n * (1 - value))
    b = 1 + k * value * (n - 1) / (n * (1 - value))
    divisor = (a * msc) ** 2 / (k - 1) + (b * mse) ** 2 / ((n - 1) * (k - 1))
    if not divisor > 0:
        return _NAN_INTERVAL
    freedom = (a * msc + b * mse) ** 2 / divisor
    if not freedom > 0:
        return _NAN_INTERVAL
    upper = (1 + confidence) / 2
    f_low, f_high = float(stats.f.ppf(upper, n - 1, freedom)), float(stats.f.ppf(upper, freedom, n - 1))
    if not (math.isfinite(f_low) and math.isfinite(f_high)):  # next to no degrees of freedom
        return _NAN_INTERVAL
    noise = k * msc + (k * n - k - n) * mse
    low = n * (msr - f_low * mse) / (f_low * noise + n * msr)
    high = n * (f_high * msr - mse) / (noise + n * f_high * msr)
    return float(low), float(high)


# ---- categories ------------------------------------------------------------------------------------------------------


def category_indices(scores: ArrayLike) -> NDArray[np.int64]:
    """Agatston scores [n] to indices into the rising ``RISK_CATEGORIES`` of :func:`cacsnet.scoring.risk_category`.

    Raises:
        ArgumentError: a score is negative or not finite.
    """
    values = np.asarray(scores, dtype=np.float64).ravel()
    return np.array([RISK_CATEGORIES.index(risk_category(float(value))) for value in values], dtype=np.int64)


def confusion(
    reference: Sequence[object] | NDArray,
    model: Sequence[object] | NDArray,
    categories: Sequence[object] = RISK_CATEGORIES,
) -> NDArray[np.int64]:
    """Cross table [reference, model] of two lists of category labels, in the order of ``categories``.

    Raises:
        ArgumentError: the lists differ in length or hold a label that isn't in ``categories``.
    """
    if len(reference) != len(model):
        raise ArgumentError("reference and model must be of one length", field="length", value=(len(reference), len(model)))
    position = {label: i for i, label in enumerate(categories)}
    table = np.zeros((len(position), len(position)), dtype=np.int64)
    for pair in zip(reference, model, strict=True):
        for label in pair:
            if label not in position:
                raise ArgumentError("unknown category", field="category", value=label)
        table[position[pair[0]], position[pair[1]]] += 1
    return table


def _counts(table: ArrayLike) -> NDArray[np.int64]:
    counts = np.asarray(table)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or counts.shape[0] < 2:
        raise ArgumentError("a cross table is square, [reference, model]", field="table", value=counts.shape)
    if not np.issubdtype(counts.dtype, np.number) or (counts < 0).any() or (counts != np.round(counts)).any():
        raise ArgumentError("a cross table holds counts", field="table", value=counts.tolist())
    return counts.astype(np.int64)


KappaWeights = Literal["quadratic", "linear", "none"]


def weighted_kappa(table: ArrayLike, weights: KappaWeights = "quadratic", confidence: float = 0.95) -> Kappa:
    """Cohen's kappa of a cross table [reference, model] (see :func:`confusion`).

    Disagreement counts with the distance of the categories (linear), its square (quadratic; only this gives the 0.977
    of Sartoretti et al. 2022) or as one whatever the distance (none). The interval is asymptotic (Fleiss, Cohen &
    Everitt 1969). If both raters use one and the same category only, kappa is ``nan``; if they never disagree, kappa is
    1 and its interval ``nan``; if one rater uses a single category, kappa is 0 and its interval ``nan``.

    Raises:
        ArgumentError: the table isn't a square one of counts, or ``weights`` is unknown.
    """
    if weights not in ("quadratic", "linear", "none"):
        raise ArgumentError("weights are quadratic, linear or none", field="weights", value=weights)
    counts = _counts(table)
    n = int(counts.sum())
    if n < MINIMUM_CASES:
        return Kappa(math.nan, _NAN_INTERVAL, n, weights, _TOO_FEW)
    used = (counts.sum(axis=0) > 0) | (counts.sum(axis=1) > 0)
    if used.sum() < 2:
        return Kappa(math.nan, _NAN_INTERVAL, n, weights, "all cases are in one category")
    if n == np.trace(counts):
        return Kappa(1.0, _NAN_INTERVAL, n, weights, "no disagreement, so no interval")
    if min(np.count_nonzero(counts.sum(axis=axis)) for axis in (0, 1)) < 2:
        return Kappa(0.0, _NAN_INTERVAL, n, weights, "one rater uses a single category, so no interval")
    with np.errstate(all="ignore"):  # small tables can have no variance, or one of -1e-17
        result = cohens_kappa(counts, wt=None if weights == "none" else weights)
    kappa, spread = float(result.kappa), float(result.std_kappa)
    if not spread > 1e-9:
        return Kappa(kappa, _NAN_INTERVAL, n, weights, "kappa has no variance here, so no interval")
    margin = float(stats.norm.ppf((1 + confidence) / 2)) * spread
    return Kappa(kappa, (max(kappa - margin, -1.0), min(kappa + margin, 1.0)), n, weights)


def kappa_value(reference: NDArray[np.int64], model: NDArray[np.int64], n_categories: int = len(RISK_CATEGORIES)) -> float:
    """Quadratic kappa of category indices [n] as :func:`weighted_kappa`, without an interval: for resampling."""
    if len(reference) < MINIMUM_CASES:
        return math.nan
    # sum of squared distances, observed and expected from the margins
    observed = float(((reference - model) ** 2).mean())
    ours, theirs = np.bincount(reference, minlength=n_categories), np.bincount(model, minlength=n_categories)
    distance = (np.arange(n_categories)[:, None] - np.arange(n_categories)[None, :]) ** 2
    expected = float(ours @ distance @ theirs) / len(reference) ** 2
    return 1 - observed / expected if expected > 0 else math.nan


def reclassification(table: ArrayLike, confidence: float = 0.95) -> Reclassification:
    """Cases off the diagonal of a cross table [reference, model]; no case at all gives ``nan``."""
    counts = _counts(table)
    n = int(counts.sum())
    up, down = int(np.triu(counts, 1).sum()), int(np.tril(counts, -1).sum())
    if n == 0:
        return Reclassification(0, 0, 0, 0, math.nan, _NAN_INTERVAL, "no cases")
    low, high = proportion_confint(up + down, n, alpha=1 - confidence, method="wilson")
    return Reclassification(n, up + down, up, down, (up + down) / n, (float(low), float(high)))


# ---- differences and regression --------------------------------------------------------------------------------------


def bland_altman(reference: ArrayLike, model: ArrayLike, confidence: float = 0.95) -> BlandAltman:
    """Bias and limits of agreement of two score vectors [n]; difference = reference - model.

    Below three pairs only the bias is given (``nan`` for none).
    """
    ref, mod = _pairs(reference, model)
    difference = ref - mod
    n = len(difference)
    nan = math.nan
    if n < MINIMUM_CASES:
        bias = float(difference.mean()) if n else nan
        return BlandAltman(bias, _NAN_INTERVAL, nan, nan, _NAN_INTERVAL, nan, _NAN_INTERVAL, n, _TOO_FEW)
    bias, sd = float(difference.mean()), float(difference.std(ddof=1))
    quantile = float(stats.t.ppf((1 + confidence) / 2, n - 1))
    at_bias, at_limit = quantile * sd / math.sqrt(n), quantile * sd * math.sqrt(3 / n)
    lower, upper = bias - 1.96 * sd, bias + 1.96 * sd
    return BlandAltman(
        bias,
        (bias - at_bias, bias + at_bias),
        sd,
        lower,
        (lower - at_limit, lower + at_limit),
        upper,
        (upper - at_limit, upper + at_limit),
        n,
    )


def regression(reference: ArrayLike, model: ArrayLike, confidence: float = 0.95) -> Regression:
    """Ordinary least squares of reference on model, two score vectors [n].

    ``nan`` if the model's scores don't vary. If the reference's don't, the slope is 0 and R squared ``nan``.
    """
    ref, mod = _pairs(reference, model)
    n, nan = len(ref), math.nan
    if n < MINIMUM_CASES:
        return Regression(nan, _NAN_INTERVAL, nan, _NAN_INTERVAL, nan, nan, n, _TOO_FEW)
    if _negligible(float(mod.var()), float(np.abs(mod).max())):
        return Regression(nan, _NAN_INTERVAL, nan, _NAN_INTERVAL, nan, nan, n, "model scores do not vary")
    if _negligible(float(ref.var()), float(np.abs(ref).max())):
        mean = float(ref.mean())
        return Regression(0.0, _NAN_INTERVAL, mean, _NAN_INTERVAL, nan, nan, n, "reference scores do not vary")
    fit = stats.linregress(mod, ref)
    quantile = float(stats.t.ppf((1 + confidence) / 2, n - 2))
    slope, intercept = float(fit.slope), float(fit.intercept)
    of_slope, of_intercept = quantile * float(fit.stderr), quantile * float(fit.intercept_stderr)
    return Regression(
        slope,
        (slope - of_slope, slope + of_slope),
        intercept,
        (intercept - of_intercept, intercept + of_intercept),
        float(fit.rvalue) ** 2,
        float(fit.pvalue),
        n,
    )


# ---- bootstrap -------------------------------------------------------------------------------------------------------


def bootstrap_ci(
    statistic: Callable[[NDArray[np.float64], NDArray[np.float64]], float],
    reference: ArrayLike,
    model: ArrayLike,
    clusters: Sequence[object] | NDArray | None = None,
    n: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Bootstrap:
    """Percentile interval of ``statistic(reference, model)`` by resampling whole clusters; see :func:`bootstrap`.

    Raises:
        ArgumentError: unpaired or non-finite scores, clusters of another length or with missing ids, or ``n`` < 1.
    """
    ref, mod = _pairs(reference, model)
    labels = np.arange(len(ref)).astype(object) if clusters is None else np.asarray(clusters, dtype=object)
    if labels.shape != ref.shape:
        raise ArgumentError("one cluster per case", field="clusters", value=labels.shape)
    return bootstrap(lambda drawn: {"": statistic(ref[drawn], mod[drawn])}, labels, n, seed, confidence)[""]


def bootstrap(
    statistics: Callable[[NDArray[np.int64]], Mapping[str, float]],
    clusters: Sequence[object] | NDArray,
    n: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, Bootstrap]:
    """Percentile intervals of several statistics of the same resamples of whole clusters.

    Two scans of one patient aren't independent: ``clusters`` holds a patient id per case, and patients are drawn with
    replacement, each with all their scans. Resamples in which a statistic is not finite are left out. ``nan`` if that
    leaves fewer than half, if there are fewer than three clusters, or if the statistic is the same in all resamples:
    a perfect sample says nothing about how far off the next one may be.

    Args:
        statistics: from case indices [m], with repeats, to named values. Called once with all cases for the names.
        clusters: one id per case [cases].
        n: resamples.
        seed: of the random draws; the same seed gives the same intervals.
        confidence: of the intervals.

    Raises:
        ArgumentError: a missing cluster id, or ``n`` < 1.
    """
    if n < 1:
        raise ArgumentError("at least one resample", field="n", value=n)
    members: dict[object, list[int]] = {}
    for index, label in enumerate(clusters):
        if label is None or label != label:  # NaN of a csv
            raise ArgumentError("a case has no cluster", field="clusters", value=label)
        members.setdefault(label, []).append(index)
    groups = [np.asarray(group) for group in members.values()]
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)  # a resample may be degenerate; its nan is counted below
        names = list(statistics(np.arange(len(clusters))))
        if len(groups) < MINIMUM_CASES:
            few = Bootstrap(math.nan, math.nan, 0, n, f"fewer than {MINIMUM_CASES} clusters")
            return dict.fromkeys(names, few)
        rng = np.random.default_rng(seed)
        values = np.empty((n, len(names)))
        for i in range(n):
            drawn = np.concatenate([groups[j] for j in rng.integers(len(groups), size=len(groups))])
            found = statistics(drawn)
            values[i] = [found[name] for name in names]
    return {name: _percentiles(values[:, k], confidence) for k, name in enumerate(names)}


def _percentiles(values: NDArray[np.float64], confidence: float) -> Bootstrap:
    valid, n = values[np.isfinite(values)], len(values)
    if 2 * len(valid) < n:
        return Bootstrap(math.nan, math.nan, len(valid), n, "the statistic is undefined in most resamples")
    if n > 1 and _negligible(float(np.ptp(valid)) ** 2, float(np.abs(valid).max())):
        return Bootstrap(math.nan, math.nan, len(valid), n, "the statistic is the same in all resamples")
    tail = (1 - confidence) / 2
    low, high = np.quantile(valid, [tail, 1 - tail])
    return Bootstrap(float(low), float(high), len(valid), n)
