from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from cacsnet.agreement.statistics import icc
from cacsnet.agreement.summary import _number, format_summary, summary_table
from cacsnet.errors import ArgumentError

VESSELS = ["LM", "LAD", "LCX", "RCA"]


def cohort(n: int = 12, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    rng = np.random.default_rng(seed)
    reference = pd.DataFrame(rng.exponential(80, (n, 4)), columns=[f"agatston_{v}" for v in VESSELS])
    scores = reference * rng.uniform(0.8, 1.3, (n, 4))
    for frame in (reference, scores):
        frame.insert(0, "agatston_total", frame.sum(axis=1))
        frame.insert(0, "case_id", [f"case{i:02d}" for i in range(n)])
    return reference, scores


def test_rows_are_total_and_vessels() -> None:
    reference, scores = cohort()
    rows = summary_table(reference, scores.sample(frac=1, random_state=1))  # matched by case_id, not by place
    assert [row["vessel"] for row in rows] == ["total", *VESSELS]
    assert all(row["n"] == 12 and row["n_left_out"] == 0 for row in rows)
    oracle = icc(reference["agatston_LAD"], scores["agatston_LAD"])
    assert rows[2]["icc_a1"] == pytest.approx(oracle.agreement)
    assert rows[2]["bias"] == pytest.approx((reference["agatston_LAD"] - scores["agatston_LAD"]).mean())


def test_failed_and_unmatched_cases_are_left_out_not_zero() -> None:
    reference, scores = cohort()
    scores = scores.astype(object)
    scores.loc[3, [c for c in scores if c != "case_id"]] = math.nan
    scores.loc[4, [c for c in scores if c != "case_id"]] = ""
    scores = scores.drop(index=5)
    row = summary_table(reference, scores)[0]
    assert (row["n"], row["n_left_out"]) == (9, 3)
    kept = [0, 1, 2, 6, 7, 8, 9, 10, 11]
    oracle = icc(reference["agatston_total"][kept], cohort()[1]["agatston_total"][kept])
    assert row["icc_c1"] == pytest.approx(oracle.consistency)


def test_reference_of_totals_only() -> None:
    reference, scores = cohort()
    assert [row["vessel"] for row in summary_table(reference[["case_id", "agatston_total"]], scores)] == ["total"]


def test_all_failed_gives_nan_with_reasons() -> None:
    reference, scores = cohort()
    scores[[c for c in scores if c != "case_id"]] = math.nan
    rows = summary_table(reference, scores)
    assert rows[0]["n"] == 0
    assert math.isnan(float(rows[0]["icc_a1"]))
    assert "fewer than 3" in str(rows[0]["reason"])
    assert "12 case(s)" in format_summary(rows)


def test_vessel_without_calcium_is_not_perfect() -> None:
    reference, scores = cohort()
    reference["agatston_LM"] = scores["agatston_LM"] = 0.0
    row = next(row for row in summary_table(reference, scores) if row["vessel"] == "LM")
    assert np.isnan([float(row[key]) for key in ("icc_a1", "icc_c1", "kappa_quadratic")]).all()
    assert "do not vary" in str(row["reason"])
    assert row["reclassified"] == 0


def test_refuses_bad_tables() -> None:
    reference, scores = cohort()
    with pytest.raises(ArgumentError, match="agatston_total"):
        summary_table(reference.drop(columns="agatston_total"), scores)
    with pytest.raises(ArgumentError, match="twice"):
        summary_table(reference, pd.concat([scores, scores[:1]]))
    with pytest.raises(ArgumentError, match="in common"):
        summary_table(reference.assign(case_id=lambda t: "x" + t["case_id"]), scores)
    for bad in (-1.0, "many", math.inf):
        wrong = reference.astype(object)
        wrong.loc[2, "agatston_LCX"] = bad
        with pytest.raises(ArgumentError, match="case02"):
            summary_table(wrong, scores)


def test_text_is_aligned_and_says_the_sign() -> None:
    text = format_summary(summary_table(*cohort()))
    lines = text.splitlines()
    assert lines[0].startswith("vessel")
    assert len({line.index("[") for line in lines[2:7]}) <= 2
    assert "bias = reference - model" in text


def test_no_negative_zero() -> None:
    assert [_number(v, 1) for v in (-0.04, 0.04, -0.06, math.nan)] == ["0.0", "0.0", "-0.1", "-"]
