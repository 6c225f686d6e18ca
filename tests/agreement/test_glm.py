from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm

from cacsnet.agreement.glm import percentage_difference, percentage_glm
from cacsnet.agreement.pairs import match
from cacsnet.errors import ArgumentError


def table(cohort) -> pd.DataFrame:
    return match(*cohort).table


def design(pairs: pd.DataFrame) -> np.ndarray:
    columns = [pairs[name].to_numpy() for name in ("heart_rate_bpm", "image_noise_hu", "bmi_kg_m2")]
    return sm.add_constant(np.column_stack([*columns, (pairs["scan"] == "2").to_numpy(float)]))


@pytest.mark.parametrize("denominator", ["reference", "mean"])
def test_equals_ordinary_least_squares(cohort, denominator) -> None:
    pairs = table(cohort)
    found = percentage_glm(pairs, denominator)
    outcome = percentage_difference(pairs["reference_total"], pairs["model_total"], denominator)
    oracle = sm.OLS(outcome, design(pairs)).fit()
    names = [c.name for c in found.coefficients]
    assert names == ["intercept", "heart_rate_bpm", "image_noise_hu", "bmi_kg_m2", "scan 2"]
    np.testing.assert_allclose([c.value for c in found.coefficients], oracle.params)
    np.testing.assert_allclose([c.ci for c in found.coefficients], oracle.conf_int())
    np.testing.assert_allclose([c.p_value for c in found.coefficients], oracle.pvalues)
    assert (found.n, found.n_zero_reference, found.n_incomplete, found.reason) == (30, 0, 0, "")


def test_clustered_errors_equal_those_of_least_squares(cohort) -> None:
    pairs = table(cohort)
    outcome = percentage_difference(pairs["reference_total"], pairs["model_total"])
    groups = pd.factorize(pairs["patient_id"])[0]
    oracle = sm.OLS(outcome, design(pairs)).fit(cov_type="cluster", cov_kwds={"groups": groups}, use_t=True)
    found = percentage_glm(pairs).coefficients
    np.testing.assert_allclose([c.clustered_p for c in found], oracle.pvalues, rtol=1e-6)
    np.testing.assert_allclose([c.clustered_ci for c in found], oracle.conf_int(), rtol=1e-6)


def test_a_reference_of_zero_is_excluded_and_counted(cohort) -> None:
    reference, scores = cohort
    reference.loc[[0, 1], "agatston_total"] = 0.0
    scores.loc[1, "agatston_total"] = 0.0
    pairs = match(reference, scores).table
    found, symmetric = percentage_glm(pairs), percentage_glm(pairs, "mean")
    assert (found.n, found.n_zero_reference) == (28, 2)
    assert (symmetric.n, symmetric.n_zero_reference) == (30, 0)
    assert percentage_difference([0, 0, 100], [3, 0, 90], "mean") == pytest.approx([200, 0, 1000 / 95])
    plain = percentage_difference([0, 0, 100, 100], [3, 0, 90, 110])
    assert np.isnan(plain[:2]).all()
    assert plain[2:] == pytest.approx([10, 10])
    with pytest.raises(ArgumentError, match="denominator"):
        percentage_difference([1], [1], "model")  # type: ignore[arg-type]


def test_finds_an_effect_that_is_there() -> None:
    rng = np.random.default_rng(0)
    rate = rng.normal(65, 10, 80)
    pairs = pd.DataFrame({"reference_total": 100.0, "heart_rate_bpm": rate, "scan": None, "patient_id": None}, index=range(80))
    pairs["model_total"] = 100 + 0.5 * rate + rng.normal(0, 1, 80)
    found = percentage_glm(pairs.assign(image_noise_hu=np.nan, bmi_kg_m2=25.0))
    rate_effect = next(c for c in found.coefficients if c.name == "heart_rate_bpm")
    assert rate_effect.value == pytest.approx(0.5, abs=0.05)
    assert rate_effect.p_value < 1e-6
    assert math.isnan(rate_effect.clustered_p)
    assert set(found.dropped) == {"scan: unknown", "image_noise_hu: unknown", "bmi_kg_m2: does not vary"}


def test_incomplete_cases_are_counted(cohort) -> None:
    pairs = table(cohort)
    pairs.loc[[0, 3, 8], "bmi_kg_m2"] = np.nan
    found = percentage_glm(pairs)
    assert (found.n, found.n_incomplete) == (27, 3)


def test_says_why_there_is_no_fit(cohort) -> None:
    pairs = table(cohort)
    unknown = pairs.assign(heart_rate_bpm=np.nan, image_noise_hu=np.nan, bmi_kg_m2=np.nan, scan=None)
    collinear = pairs.assign(bmi_kg_m2=2e6 * pairs["heart_rate_bpm"] + 5)
    for changed, why in (
        (pairs[:4], "too few"),
        (unknown, "no predictor"),
        (collinear, "linearly"),
        (pairs.assign(model_total=pairs["reference_total"]), "does not vary"),
        (pairs.assign(reference_total=0.0), "no predictor"),
        (pairs[:0], "no predictor"),
    ):
        found = percentage_glm(changed)
        assert why in found.reason
        assert found.coefficients == ()


def test_the_last_digit_of_a_percentage_is_not_fitted(cohort) -> None:
    """A model that answers 0 everywhere is off by 100 %, but not by 100.00000000000001 % more with a faster heart."""
    reference, scores = cohort
    none = scores.assign(**{column: 0.0 for column in scores if column.startswith("agatston")})
    table = match(reference, none).table
    outcome = percentage_difference(table["reference_total"], table["model_total"])
    assert 0 < np.ptp(outcome) < 1e-9  # else this tests nothing
    assert percentage_glm(table).reason == "the percentage difference does not vary"
