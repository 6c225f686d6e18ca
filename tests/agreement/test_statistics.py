"""Golden numbers: Sartoretti et al. 2022, Shrout & Fleiss 1979; oracle: pingouin."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from cacsnet.agreement.statistics import (
    bland_altman,
    bootstrap_ci,
    category_indices,
    confusion,
    consistency_interval,
    icc,
    icc_of_ratings,
    reclassification,
    regression,
    weighted_kappa,
)
from cacsnet.errors import ArgumentError

# Sartoretti et al. 2022, table 2: rows reference, columns model
PAPER_TABLE = [[0, 1, 0, 0], [0, 49, 0, 0], [0, 1, 23, 2], [0, 0, 0, 36]]
# Shrout & Fleiss 1979, table 2: six subjects, four judges
SHROUT_FLEISS = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]


def scores(n: int = 40, seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    reference = rng.exponential(200, n) * (rng.random(n) > 0.3)
    return reference, np.clip(0.9 * reference + rng.normal(15, 20, n), 0, None)


# ---- kappa and categories


def test_quadratic_kappa_of_the_paper() -> None:
    result = weighted_kappa(PAPER_TABLE)
    assert result.kappa == pytest.approx(0.9771, abs=5e-5)
    assert result.ci == pytest.approx((0.9551, 0.9991), abs=5e-5)
    assert (result.n, result.weights, result.reason) == (112, "quadratic", "")


def test_linear_kappa_of_the_paper() -> None:
    result = weighted_kappa(PAPER_TABLE, weights="linear")
    assert result.kappa == pytest.approx(0.9623, abs=5e-5)
    assert result.ci == pytest.approx((0.9262, 0.9984), abs=5e-5)


def test_kappa_is_not_perfect_for_a_single_category() -> None:
    result = weighted_kappa([[9, 0], [0, 0]])
    assert math.isnan(result.kappa)
    assert "one category" in result.reason


def test_kappa_without_disagreement_has_no_interval() -> None:
    result = weighted_kappa([[4, 0], [0, 3]])
    assert result.kappa == 1.0
    assert math.isnan(result.ci[0])
    assert result.reason


def test_kappa_of_a_constant_model_is_zero() -> None:
    result = weighted_kappa([[5, 0, 0], [4, 0, 0], [3, 0, 0]])
    assert result.kappa == 0
    assert math.isnan(result.ci[0])
    assert result.reason


@pytest.mark.parametrize("table", [[[1, 2]], [[1.5, 0], [0, 2]], [[-1, 0], [0, 2]], [[3]]])
def test_kappa_refuses_what_is_no_table(table: list) -> None:
    with pytest.raises(ArgumentError):
        weighted_kappa(table)


def test_kappa_refuses_unknown_weights() -> None:
    with pytest.raises(ArgumentError, match="weights"):
        weighted_kappa(PAPER_TABLE, weights="cubic")  # type: ignore[arg-type]


def test_reclassification_of_the_paper() -> None:
    result = reclassification(PAPER_TABLE)
    assert (result.changed, result.n, result.up, result.down) == (4, 112, 3, 1)
    assert result.rate == pytest.approx(4 / 112)
    assert result.ci == pytest.approx((0.014, 0.088), abs=5e-4)


def test_reclassification_of_nothing() -> None:
    assert math.isnan(reclassification(np.zeros((4, 4), int)).rate)


def test_category_borders() -> None:
    values = [0, 0.4, 0.5, 1, 100, 100.4, 100.5, 101, 400, 400.5]
    assert category_indices(values).tolist() == [0, 1, 1, 1, 1, 2, 2, 2, 2, 3]


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_category_refuses_what_is_no_score(value: float) -> None:
    with pytest.raises(ArgumentError):
        category_indices([value])


def test_confusion_has_the_reference_in_rows() -> None:
    table = confusion(["0", "1-100", "1-100", ">400"], ["0", "0", "1-100", ">400"])
    assert table.tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]]


def test_confusion_refuses_unknown_and_unpaired() -> None:
    with pytest.raises(ArgumentError, match="category"):
        confusion(["0"], ["1-99"])
    with pytest.raises(ArgumentError, match="length"):
        confusion(["0"], ["0", "0"])


# ---- ICC


def test_icc_of_shrout_and_fleiss() -> None:
    result = icc_of_ratings(SHROUT_FLEISS)
    assert result.agreement == pytest.approx(0.290, abs=5e-4)
    assert result.consistency == pytest.approx(0.715, abs=5e-4)
    assert result.agreement_ci == pytest.approx((0.019, 0.761), abs=1e-3)
    assert result.consistency_ci == pytest.approx((0.342, 0.946), abs=1e-3)


@pytest.mark.parametrize(
    ("value", "n", "interval"),
    [
        (0.635, 112, (0.511, 0.734)),  # LM
        (0.950, 112, (0.928, 0.965)),  # LAD
        (0.928, 112, (0.897, 0.950)),  # LCX
        (0.986, 112, (0.979, 0.990)),  # total
        (0.991, 56, (0.985, 0.995)),  # scan and rescan
    ],
)
def test_intervals_of_the_paper_are_those_of_consistency(value: float, n: int, interval: tuple[float, float]) -> None:
    assert consistency_interval(value, n) == pytest.approx(interval, abs=1.3e-3)  # coefficients are printed to 3 digits


def test_interval_of_the_left_main() -> None:
    assert consistency_interval(0.635, 112) == pytest.approx((0.510, 0.734), abs=5e-4)


@pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame")  # pingouin with pandas 3.1
def test_icc_against_pingouin() -> None:
    pingouin = pytest.importorskip("pingouin")
    reference, model = scores()
    n = len(reference)
    long = pd.DataFrame(
        {
            "case": np.tile(np.arange(n), 2),
            "reader": np.repeat(["reference", "model"], n),
            "score": np.concatenate([reference, model]),
        }
    )
    oracle = pingouin.intraclass_corr(long, targets="case", raters="reader", ratings="score").set_index("Type")
    result = icc(reference, model)
    for name, value, interval in (
        ("ICC(A,1)", result.agreement, result.agreement_ci),
        ("ICC(C,1)", result.consistency, result.consistency_ci),
    ):
        assert value == pytest.approx(float(oracle.loc[name, "ICC"]), abs=1e-9)
        assert interval == pytest.approx(tuple(oracle.loc[name, "CI95"]), abs=6e-3)


def test_offset_lowers_agreement_but_not_consistency() -> None:
    reference, _ = scores()
    result = icc(reference, reference + 100)
    assert result.consistency == pytest.approx(1)
    assert result.agreement < 0.95
    assert np.isfinite(result.agreement_ci).all()
    assert math.isnan(result.consistency_ci[0])
    assert result.reason


def test_icc_does_not_depend_on_the_order_of_cases_or_raters() -> None:
    reference, model = scores()
    order = np.random.default_rng(0).permutation(len(reference))
    one, other = icc(reference, model), icc(model[order], reference[order])
    assert (one.agreement, one.consistency) == pytest.approx((other.agreement, other.consistency))


@pytest.mark.parametrize("n", [0, 1, 2])
def test_too_few_cases(n: int) -> None:
    reference, model = (values[:n] for values in scores())
    results = (icc(reference, model), bland_altman(reference, model), regression(reference, model))
    assert all("fewer than 3" in result.reason for result in results)
    assert math.isnan(results[0].agreement)
    assert math.isnan(results[1].upper)
    assert math.isnan(results[2].slope)


@pytest.mark.parametrize("offset", [0.0, 7.3])
def test_constant_scores_are_not_perfect_agreement(offset: float) -> None:
    result = icc([0.1] * 5, [0.1 + offset] * 5)
    assert math.isnan(result.agreement)
    assert math.isnan(result.consistency)
    assert "do not vary" in result.reason


def test_a_constant_model_has_no_agreement() -> None:
    reference, _ = scores()
    result = icc(reference, np.zeros_like(reference))
    assert result.consistency == pytest.approx(0, abs=1e-12)
    assert result.agreement == pytest.approx(0, abs=1e-12)
    assert regression(reference, np.zeros_like(reference)).reason == "model scores do not vary"


def test_identical_scores_agree_without_an_interval() -> None:
    reference, _ = scores()
    result = icc(reference, reference)
    assert result.agreement == result.consistency == 1.0
    assert np.isnan([*result.agreement_ci, *result.consistency_ci]).all()
    assert "no interval" in result.reason


@pytest.mark.parametrize("function", [icc, bland_altman, regression])
def test_refuses_unpaired_and_missing(function) -> None:
    with pytest.raises(ArgumentError, match="length"):
        function([1, 2, 3], [1, 2])
    with pytest.raises(ArgumentError, match="finite"):
        function([1, 2, math.nan], [1, 2, 3])


# ---- Bland-Altman and regression


def test_bland_altman_sign_and_limits() -> None:
    result = bland_altman([10, 20, 30, 40], [8, 21, 26, 37])  # differences 2, -1, 4, 3
    sd = np.std([2, -1, 4, 3], ddof=1)
    assert result.bias == pytest.approx(2)
    assert (result.lower, result.upper) == pytest.approx((2 - 1.96 * sd, 2 + 1.96 * sd))


def test_bland_altman_of_the_paper() -> None:
    """Bias 0.44 and limits -156.8 .. 157.7 of 112 scans mean an SD of 80.2 and a bias CI of (-14.6, 15.5)."""
    noise = np.random.default_rng(1).normal(size=112)
    difference = 0.44 + 80.22 * (noise - noise.mean()) / noise.std(ddof=1)
    model = np.full(112, 500.0)
    result = bland_altman(model + difference, model)
    assert (result.lower, result.upper) == pytest.approx((-156.8, 157.7), abs=0.1)
    assert result.bias_ci == pytest.approx((-14.6, 15.5), abs=0.1)


def test_regression_is_reference_on_model() -> None:
    model = np.array([0.0, 10, 50, 200, 400])
    result = regression(1.1 * model - 18, model)
    assert (result.slope, result.intercept, result.r_squared) == pytest.approx((1.1, -18, 1))


def test_regression_of_the_paper() -> None:
    """Means 352.6 / 352.1, SDs 491 / 461 and differences of SD 80.2 give slope 1.05, intercept -18, R squared 0.976."""
    rng = np.random.default_rng(2)
    basis, _ = np.linalg.qr(np.column_stack([np.ones(112), rng.normal(size=(112, 2))]))
    unit = basis[:, 1:] * math.sqrt(111)  # two uncorrelated vectors of mean 0 and SD 1
    r = (491**2 + 461**2 - 80.23**2) / (2 * 491 * 461)
    model = 352.1 + 461 * unit[:, 0]
    reference = 352.6 + 491 * (r * unit[:, 0] + math.sqrt(1 - r**2) * unit[:, 1])
    result = regression(reference, model)
    assert result.slope == pytest.approx(1.05, abs=0.005)
    assert result.intercept == pytest.approx(-17.9, abs=0.3)
    assert result.r_squared == pytest.approx(0.976, abs=0.002)


def test_regression_of_a_constant_reference() -> None:
    result = regression([5, 5, 5, 5], [1, 2, 3, 4])
    assert (result.slope, result.intercept) == (0, 5)
    assert math.isnan(result.r_squared)


# ---- bootstrap


def test_bootstrap_is_repeatable_and_holds_the_estimate() -> None:
    reference, model = scores()

    def bias(a: np.ndarray, b: np.ndarray) -> float:
        return bland_altman(a, b).bias

    one, two = (bootstrap_ci(bias, reference, model, n=400, seed=5) for _ in range(2))
    assert one == two
    assert one.low < bias(reference, model) < one.high
    assert one.n_valid == 400


def test_bootstrap_of_clusters_is_wider_where_scans_repeat() -> None:
    """Each patient scanned four times with the same result: cases look like four times the evidence."""
    reference, model = (np.repeat(values, 4) for values in scores(20))
    patients = np.repeat(np.arange(20), 4)

    def bias(a: np.ndarray, b: np.ndarray) -> float:
        return float((a - b).mean())

    cases = bootstrap_ci(bias, reference, model, n=500)
    clustered = bootstrap_ci(bias, reference, model, clusters=patients, n=500)
    assert (clustered.high - clustered.low) / (cases.high - cases.low) == pytest.approx(2, rel=0.2)


def test_bootstrap_of_degenerate_data() -> None:
    result = bootstrap_ci(lambda a, b: icc(a, b).agreement, np.zeros(6), np.zeros(6), n=20)
    assert math.isnan(result.low)
    assert "undefined" in result.reason
    assert "clusters" in bootstrap_ci(lambda a, b: 0.0, [1.0, 2, 3], [1.0, 2, 3], clusters=["a", "a", "b"], n=5).reason


def test_bootstrap_refuses_bad_clusters() -> None:
    for clusters in (["a", "b"], ["a", "b", None], ["a", "b", math.nan]):
        with pytest.raises(ArgumentError, match="cluster"):
            bootstrap_ci(lambda a, b: 0.0, [1.0, 2, 3], [1.0, 2, 3], clusters=clusters)
