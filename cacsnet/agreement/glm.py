"""What drives the deviation: a Gaussian GLM of the absolute percentage difference on heart rate, noise, BMI and scan."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from statsmodels.genmod import families, generalized_linear_model

from cacsnet.agreement.statistics import Interval
from cacsnet.errors import ArgumentError

Denominator = Literal["reference", "mean"]
PREDICTORS: tuple[str, ...] = ("heart_rate_bpm", "image_noise_hu", "bmi_kg_m2", "scan")
ZERO_RULE = (
    "the percentage of a reference of 0 does not exist: those cases are excluded and counted. With the mean of both "
    "scores as denominator they stay (200 % if only one is 0; 0 % if both are)"
)


@dataclass(frozen=True)
class Coefficient:
    """One predictor: percentage points per unit, t interval and p; ``clustered`` with errors grouped by patient."""

    name: str
    value: float
    ci: Interval
    p_value: float
    clustered_ci: Interval
    clustered_p: float


@dataclass(frozen=True)
class GLM:
    """A fitted model.

    Attributes:
        denominator: "reference" or "mean" of reference and model.
        n: cases in the fit.
        n_zero_reference: cases excluded because the percentage does not exist.
        n_incomplete: cases excluded because a predictor is missing.
        mean, sd: of the absolute percentage difference in the fit.
        coefficients: intercept and predictors; empty if nothing could be fitted.
        dropped: predictors that are unknown or don't vary, and why.
        reason: why there is no fit; empty if there is one.
    """

    denominator: Denominator
    n: int
    n_zero_reference: int
    n_incomplete: int
    mean: float
    sd: float
    coefficients: tuple[Coefficient, ...]
    dropped: tuple[str, ...] = ()
    reason: str = ""


def percentage_difference(
    reference: ArrayLike, model: ArrayLike, denominator: Denominator = "reference"
) -> NDArray[np.float64]:
    """100 |reference - model| / denominator [n]; nan where it does not exist (:data:`ZERO_RULE`).

    Raises:
        ArgumentError: an unknown denominator.
    """
    if denominator not in ("reference", "mean"):
        raise ArgumentError("is reference or mean", field="denominator", value=denominator)
    ref, mod = (np.asarray(values, dtype=np.float64) for values in (reference, model))
    below = ref if denominator == "reference" else (ref + mod) / 2
    out = np.full(ref.shape, np.nan)
    np.divide(100 * np.abs(ref - mod), below, out=out, where=below > 0)
    if denominator == "mean":
        out[(ref == 0) & (mod == 0)] = 0.0
    return out


def percentage_glm(pairs: pd.DataFrame, denominator: Denominator = "reference", predictors: Sequence[str] = PREDICTORS) -> GLM:
    """Fit 100 |reference - model| / denominator of the total score, Gaussian with identity link.

    ``pairs`` is the table of :class:`~cacsnet.agreement.pairs.Pairs`. ``scan`` enters as a category (against the first
    name). A Gaussian GLM with identity link fitted by iteratively reweighted least squares is ordinary least squares;
    intervals and p values are those of the t distribution, as R's ``glm`` gives.
    """
    outcome = percentage_difference(pairs["reference_total"], pairs["model_total"], denominator)
    exists = np.isfinite(outcome)
    kept, outcome = pairs[exists].reset_index(drop=True), outcome[exists]
    n_zero, nan = int((~exists).sum()), math.nan

    columns: dict[str, NDArray[np.float64]] = {}
    dropped = []
    for name in predictors:
        if name == "scan":
            levels = sorted(set(kept["scan"].dropna()))
            if kept["scan"].isna().any() or len(levels) < 2:
                dropped.append(f"scan: {'unknown' if not levels else 'does not vary'}")
                continue
            columns |= {f"scan {level}": (kept["scan"] == level).to_numpy(dtype=np.float64) for level in levels[1:]}
            continue
        values = kept[name].to_numpy(dtype=np.float64)
        if np.isfinite(values).sum() == 0:
            dropped.append(f"{name}: unknown")
        else:
            columns[name] = values
    complete = np.all([np.isfinite(v) for v in columns.values()], axis=0) if columns else np.ones(len(outcome), bool)
    outcome, kept = outcome[complete], kept[complete]
    n_incomplete = int((~complete).sum())
    for name in list(columns):
        columns[name] = columns[name][complete]
        if np.ptp(columns[name]) == 0 if len(outcome) else True:
            del columns[name]
            dropped.append(f"{name}: does not vary")
    n = len(outcome)
    mean = float(outcome.mean()) if n else nan
    sd = float(outcome.std(ddof=1)) if n > 1 else nan

    def without(reason: str) -> GLM:
        return GLM(denominator, n, n_zero, n_incomplete, mean, sd, (), tuple(dropped), reason)

    if not columns:
        return without("no predictor is known and varies")
    design = np.column_stack([np.ones(n), *columns.values()])
    if n <= design.shape[1]:
        return without(f"{n} cases are too few for {len(columns)} predictors")
    if np.linalg.matrix_rank(design) < design.shape[1]:
        return without("the predictors depend on each other linearly")
    if np.ptp(outcome) <= 1e-9:  # percent; more digits are rounding
        return without("the percentage difference does not vary")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a perfect fit; its numbers are finite or nan below
        model = generalized_linear_model.GLM(outcome, design, family=families.Gaussian())
        fit = model.fit(use_t=True)
        plain = np.column_stack([fit.params, fit.conf_int(), fit.pvalues])
        clustered = _clustered(model, kept["patient_id"], design.shape[1])
    names = ("intercept", *columns)
    coefficients = tuple(
        Coefficient(name, float(p[0]), (float(p[1]), float(p[2])), float(p[3]), (float(c[0]), float(c[1])), float(c[2]))
        for name, p, c in zip(names, plain, clustered, strict=True)
    )
    return GLM(denominator, n, n_zero, n_incomplete, mean, sd, coefficients, tuple(dropped))


def _clustered(model: generalized_linear_model.GLM, patients: pd.Series, n_parameters: int) -> NDArray[np.float64]:
    """Low, high and p of each parameter with errors grouped by patient; nan without enough patients."""
    groups = pd.factorize(patients)[0]
    if patients.isna().any() or groups.max() + 1 <= n_parameters or groups.max() + 1 == len(groups):
        return np.full((n_parameters, 3), np.nan)
    fit = model.fit(cov_type="cluster", cov_kwds={"groups": groups}, use_t=True)
    return np.column_stack([fit.conf_int(), fit.pvalues])
