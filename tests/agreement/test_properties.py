"""What holds for any two readers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cacsnet.agreement.statistics import bland_altman, bootstrap, bootstrap_ci, icc, icc_values, regression

pairs = st.lists(
    st.tuples(*[st.floats(0, 5000, allow_subnormal=False).map(lambda v: round(v, 3))] * 2), min_size=3, max_size=25
).filter(lambda found: len(set(found)) > 2)


def test_an_interval_without_degrees_of_freedom_is_none() -> None:
    found = icc([0, 0, 2], [3, 4, 1])
    assert np.isfinite(found.agreement)
    assert np.isnan(found.agreement_ci).all()
    assert "no interval of absolute agreement" in found.reason


@settings(max_examples=60, deadline=None)
@given(pairs, st.randoms())
def test_icc_does_not_depend_on_the_order_of_cases_or_who_is_first(found, random) -> None:
    a, b = np.array(found).T
    shuffled = list(found)
    random.shuffle(shuffled)
    c, d = np.array(shuffled).T
    one = icc(a, b)
    for other in (icc(b, a), icc(c, d)):
        assert other.consistency == pytest.approx(one.consistency, nan_ok=True, abs=1e-9)
        assert other.agreement == pytest.approx(one.agreement, nan_ok=True, abs=1e-9)
    assert icc_values(a, b) == pytest.approx((one.consistency, one.agreement), nan_ok=True)


@settings(max_examples=40, deadline=None)
@given(pairs)
def test_a_reader_agrees_with_itself(found) -> None:
    a = np.array(found)[:, 0]
    itself = icc(a, a)
    if np.ptp(a) > 0:
        assert itself.consistency == itself.agreement == 1
        assert regression(a, a).slope == pytest.approx(1)
    else:
        assert np.isnan(itself.agreement)
    assert (bland_altman(a, a).bias, bland_altman(a, a).sd) == (0, 0)


@settings(max_examples=40, deadline=None)
@given(pairs)
def test_bias_and_limits_change_sign_with_the_readers(found) -> None:
    a, b = np.array(found).T
    one, other = bland_altman(a, b), bland_altman(b, a)
    assert (other.bias, other.lower, other.upper) == pytest.approx((-one.bias, -one.upper, -one.lower), abs=1e-9)


def test_the_bootstrap_of_several_statistics_is_that_of_each() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.exponential(100, 30), rng.exponential(100, 30)
    patients = np.repeat(np.arange(10), 3)
    both = bootstrap(lambda i: {"bias": float((a - b)[i].mean()), "n": float(len(i))}, patients, n=200, seed=3)
    assert both["bias"] == bootstrap_ci(lambda x, y: float((x - y).mean()), a, b, patients, n=200, seed=3)
    assert "same in all resamples" in both["n"].reason
