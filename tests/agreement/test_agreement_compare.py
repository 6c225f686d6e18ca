from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cacsnet.agreement.compare import Comparison, compare, write_comparison
from cacsnet.agreement.statistics import icc
from cacsnet.errors import ArgumentError


def by_measure(found: Comparison, part: str = "total") -> dict:
    return {d.measure: d for d in found.differences if d.part == part}


def test_differences_are_second_minus_first(cohort) -> None:
    reference, scores = cohort
    worse = scores.assign(agatston_total=scores["agatston_total"] * 1.4 + 20)
    found = compare(reference, scores, worse, resamples=200)
    total = by_measure(found)
    ref = reference["agatston_total"].to_numpy()
    for name, value in (("first", scores), ("second", worse)):
        model = value["agatston_total"].to_numpy()
        assert getattr(total["icc_a1"], name) == pytest.approx(icc(ref, model).agreement, abs=1e-6)
        assert getattr(total["mean_absolute_error"], name) == pytest.approx(np.abs(ref - model).mean(), abs=1e-5)
        assert getattr(total["bias"], name) == pytest.approx((ref - model).mean(), abs=1e-5)
    error = total["mean_absolute_error"]
    assert error.difference == pytest.approx(error.second - error.first)
    assert 0 < error.interval.low < error.difference < error.interval.high
    assert total["icc_a1"].interval.high < 0
    assert found.absolute_error.mean == pytest.approx(-error.difference)
    assert found.absolute_error.p_value < 0.01
    assert set(by_measure(found, "LM")) == {"icc_a1", "icc_c1", "mean_absolute_error", "bias", "loa_width"}


def test_swapping_the_models_changes_the_sign_only(cohort) -> None:
    reference, scores = cohort
    other = scores.assign(agatston_total=scores["agatston_total"] * 1.2)
    one, two = (
        by_measure(compare(reference, scores, other, resamples=50)),
        by_measure(compare(reference, other, scores, resamples=50)),
    )
    for name, d in one.items():
        assert two[name].difference == pytest.approx(-d.difference)
        assert (two[name].interval.low, two[name].interval.high) == pytest.approx(
            (-d.interval.high, -d.interval.low), nan_ok=True
        )


def test_a_model_against_itself_shows_no_difference(cohort) -> None:
    reference, scores = cohort
    found = compare(reference, scores, scores, resamples=20)
    assert all(d.difference == 0 for d in found.differences)
    assert all(math.isnan(d.interval.low) for d in found.differences)
    assert found.changed.empty
    assert found.reclassified.mcnemar_p == 1


def test_cases_that_change_category() -> None:
    ids = {"case_id": list("abcdef")}
    reference = pd.DataFrame(ids | {"agatston_total": [50.0, 50, 150, 0, 500, 50]})
    first = pd.DataFrame(ids | {"agatston_total": [150.0, 50, 150, 0, 500, 0]})
    second = pd.DataFrame(ids | {"agatston_total": [50.0, 150, 160, 0, 500, 150]})
    found = compare(reference, first, second, resamples=20)
    assert list(found.changed["case_id"]) == ["a", "b", "f"]
    assert list(found.changed["verdict"]) == ["better", "worse", "neither"]
    assert list(found.changed["second_category"]) == ["1-100", "101-400", "101-400"]
    assert (found.reclassified.first, found.reclassified.second) == (2, 2)
    assert (found.reclassified.only_first, found.reclassified.only_second) == (1, 1)


def test_only_cases_of_all_three_tables_count(cohort) -> None:
    reference, scores = cohort
    other = scores.drop(index=[0, 1]).assign(agatston_total=lambda t: t["agatston_total"] + 5)
    found = compare(reference, scores.drop(index=2), other, resamples=20)
    assert (found.n, found.n_patients) == (27, 14)
    assert sorted(found.left_out["case_id"]) == sorted(scores["case_id"][:3])
    with pytest.raises(ArgumentError, match="both"):
        compare(reference, scores[:3], scores[5:], resamples=20)


def test_files(cohort, tmp_path: Path) -> None:
    reference, scores = cohort
    other = scores.assign(agatston_total=scores["agatston_total"] * 1.5)
    found = compare(reference, scores, other, ("old", "new"), resamples=50)
    document = json.loads(write_comparison(found, tmp_path).read_text())
    assert document["names"] == ["old", "new"]
    assert document["total"]["icc_a1"]["difference"] == pytest.approx(by_measure(found)["icc_a1"].difference)
    assert len(document["total"]["icc_a1"]["difference_ci"]) == 2
    assert len(document["changed"]) == len(pd.read_csv(tmp_path / "changed_cases.csv")) == len(found.changed) > 0
    assert "old (first) and new (second)" in (tmp_path / "comparison.tex").read_text()
