from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cacsnet.agreement.categories import category_rows
from cacsnet.agreement.statistics import KappaWeights, confusion, kappa_value, weighted_kappa
from cacsnet.errors import ArgumentError

PAPER_TABLE = [[0, 1, 0, 0], [0, 49, 0, 0], [0, 1, 23, 2], [0, 0, 0, 36]]
WEIGHTS: tuple[KappaWeights, ...] = ("none", "linear", "quadratic")

raters = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=3, max_size=40)


def test_rows_of_the_paper() -> None:
    rows = category_rows(PAPER_TABLE)
    assert [row.n for row in rows] == [1, 49, 26, 36]
    assert [(r.under.count, r.over.count, r.concordant.count) for r in rows] == [(0, 1, 0), (0, 0, 49), (1, 2, 23), (0, 0, 36)]
    assert [round(100 * s.rate, 1) for s in (rows[2].under, rows[2].over, rows[2].concordant)] == [3.8, 7.7, 88.5]
    assert rows[1].concordant.rate == 1
    assert rows[1].concordant.ci[0] == pytest.approx(0.927, abs=1e-3)  # Wilson: 49 of 49 isn't certainty


def test_a_category_without_cases_has_no_rate() -> None:
    row = category_rows(np.zeros((4, 4), int))[0]
    assert math.isnan(row.concordant.rate)
    assert math.isnan(row.concordant.ci[0])


def test_rows_refuse_another_table() -> None:
    with pytest.raises(ArgumentError):
        category_rows([[1, 2], [3, 4]])


def test_unweighted_kappa_of_the_paper() -> None:
    result = weighted_kappa(PAPER_TABLE, "none")
    assert result.kappa == pytest.approx(0.9445, abs=5e-5)
    assert result.ci[0] < 0.9445 < result.ci[1]


def test_kappa_against_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(4)
    a = rng.integers(0, 4, 60)
    b = np.clip(a + rng.integers(-1, 2, 60), 0, 3)
    table = confusion(a, b, range(4))
    for weights in WEIGHTS:
        oracle = metrics.cohen_kappa_score(a, b, labels=[0, 1, 2, 3], weights=None if weights == "none" else weights)
        assert weighted_kappa(table, weights).kappa == pytest.approx(oracle)
    assert kappa_value(a, b) == pytest.approx(metrics.cohen_kappa_score(a, b, labels=[0, 1, 2, 3], weights="quadratic"))


def test_kappa_interval_against_statsmodels() -> None:
    from statsmodels.stats.inter_rater import cohens_kappa

    for weights in WEIGHTS:
        oracle = cohens_kappa(np.array(PAPER_TABLE), wt=None if weights == "none" else weights)
        assert weighted_kappa(PAPER_TABLE, weights).ci == pytest.approx((oracle.kappa_low, min(oracle.kappa_upp, 1.0)))


@pytest.mark.parametrize("pairs", [[(0, 1), (0, 2), (1, 1)], [(0, 1), (0, 1), (1, 3)], [(0, 1), (0, 1), (1, 2)]])
def test_kappa_without_variance_has_no_interval(pairs) -> None:
    table = confusion(*zip(*pairs, strict=True), range(4))
    found = [weighted_kappa(table, weights) for weights in WEIGHTS]
    assert any("no variance" in kappa.reason and math.isnan(kappa.ci[0]) for kappa in found)
    assert all(math.isfinite(kappa.kappa) for kappa in found)


@settings(max_examples=60, deadline=None)
@given(raters, st.randoms())
def test_kappa_is_symmetric_and_does_not_depend_on_the_order_of_cases(pairs, random) -> None:
    a, b = (np.array(values) for values in zip(*pairs, strict=True))
    shuffled = list(pairs)
    random.shuffle(shuffled)
    c, d = (np.array(values) for values in zip(*shuffled, strict=True))
    for weights in WEIGHTS:
        result = weighted_kappa(confusion(a, b, range(4)), weights)
        for other in (confusion(b, a, range(4)), confusion(c, d, range(4))):
            assert weighted_kappa(other, weights).kappa == pytest.approx(result.kappa, nan_ok=True)
    quadratic = weighted_kappa(confusion(a, b, range(4)))
    assert kappa_value(a, b) == pytest.approx(quadratic.kappa, nan_ok=True)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=3, max_size=30).filter(lambda values: len(set(values)) > 1))
def test_a_reader_agrees_with_itself(values) -> None:
    table = confusion(values, values, range(4))
    assert all(weighted_kappa(table, weights).kappa == 1 for weights in WEIGHTS)
    assert kappa_value(np.array(values), np.array(values)) == 1
    assert all(row.concordant.count == row.n for row in category_rows(table))
