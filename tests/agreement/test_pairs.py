from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from cacsnet.agreement.pairs import match
from cacsnet.errors import ArgumentError


def test_rows_are_matched_by_case_id_and_not_by_place(cohort) -> None:
    reference, scores = cohort
    found = match(reference, scores.sample(frac=1, random_state=3))
    assert list(found.table["case_id"]) == sorted(reference["case_id"])
    np.testing.assert_allclose(found.table["reference_LAD"], reference["agatston_LAD"], atol=1e-6)
    np.testing.assert_allclose(found.table["model_LAD"], scores["agatston_LAD"], atol=1e-6)
    np.testing.assert_allclose(found.table["difference"], reference["agatston_total"] - scores["agatston_total"], atol=2e-6)
    assert found.parts == ("total", "LM", "LAD", "LCX", "RCA")
    assert found.left_out.empty


def test_each_kind_of_unusable_case_is_left_out_and_named(cohort) -> None:
    reference, scores = (table.astype(object) for table in cohort)
    reference.loc[0, "agatston_total"] = math.nan
    scores.loc[1, "agatston_total"] = ""
    scores.loc[2, ["status", "flags", "agatston_total"]] = ["failed", "no_heart", math.nan]
    scores.loc[3, "agatston_total"] = -4
    reference.loc[4, "agatston_total"] = "many"
    scores = pd.concat([scores.drop(index=5), scores.loc[[6]].assign(agatston_total=1.0)])
    reference = reference.drop(index=7)
    found = match(reference, scores)
    whys = dict(zip(found.left_out["case_id"], found.left_out["why"], strict=True))
    ids = cohort[0]["case_id"]
    assert [whys[ids[i]] for i in range(8)] == [
        "no total score in the reference",
        "no total score in the scores",
        "failed: no_heart",
        "no total score in the scores",
        "no total score in the reference",
        "not in the scores",
        "stands more than once in the scores, with different rows",
        "not in the reference",
    ]
    assert len(found.table) == len(ids) - 8
    text = " ".join(found.notes)
    assert "-4" in text
    assert "'many'" in text


def test_a_failed_case_is_out_even_if_it_has_a_score(cohort) -> None:
    reference, scores = cohort
    scores.loc[0, "status"] = "failed"
    found = match(reference, scores)
    assert list(found.left_out["case_id"]) == [scores.loc[0, "case_id"]]
    assert scores.loc[0, "case_id"] not in set(found.table["case_id"])


def test_equal_rows_of_one_case_count_once(cohort) -> None:
    reference, scores = cohort
    found = match(reference, pd.concat([scores, scores[:2]]))
    assert len(found.table) == len(reference)
    assert found.left_out.empty


def test_a_bad_vessel_score_leaves_the_total(cohort) -> None:
    reference, scores = cohort
    scores.loc[0, "agatston_LM"] = math.inf
    found = match(reference, scores)
    assert len(found.table) == len(reference)
    assert math.isnan(found.table["model_LM"][0])
    assert "agatston_LM" in " ".join(found.notes)


def test_digits_that_scores_csv_does_not_keep_are_no_difference(cohort) -> None:
    reference, _ = cohort
    rounded = reference.round(6)
    assert (match(reference, rounded).table["difference"] == 0).all()


def test_ids_and_covariates_come_from_one_table(cohort) -> None:
    reference, scores = cohort
    scores["patient_id"] = "hash-" + scores["case_id"]
    scores["heart_rate_bpm"] = 1.0
    manifest = pd.DataFrame({"case_id": reference["case_id"], "heart_rate_bpm": 99.0, "bmi_kg_m2": 33.0})
    found = match(reference.drop(columns="bmi_kg_m2"), scores, manifest).table
    assert list(found["patient_id"]) == list(reference["patient_id"])
    np.testing.assert_allclose(found["heart_rate_bpm"], reference["heart_rate_bpm"])
    assert set(found["bmi_kg_m2"]) == {33.0}
    np.testing.assert_allclose(found["image_noise_hu"], scores["image_noise_hu"])
    reference.loc[3, "patient_id"] = None  # two ways of naming patients don't mix
    assert list(match(reference, scores).table["patient_id"]) == list(scores["patient_id"])
    partly = match(reference, cohort[1].drop(columns="patient_id"))
    assert partly.table["patient_id"].isna().all()
    assert any("patient_id is empty" in note for note in partly.notes)


@pytest.mark.parametrize("column", ["scan", "patient_id"])
def test_numbers_as_names_read_the_same_however_stored(cohort, column) -> None:
    reference, scores = cohort
    reference["patient_id"] = np.repeat(np.arange(15), 2)
    as_float = reference.assign(**{column: reference[column].astype(float)})
    assert list(match(as_float, scores).table[column]) == [str(value) for value in reference[column]]


def test_tables_without_what_everything_needs_are_refused(cohort) -> None:
    reference, scores = cohort
    for column in ("case_id", "agatston_total"):
        with pytest.raises(ArgumentError, match=column):
            match(reference.drop(columns=column), scores)
    with pytest.raises(ArgumentError, match="not in the scores"):
        match(reference.assign(case_id="x" + reference["case_id"]), scores)
    with pytest.raises(ArgumentError, match="no_heart"):
        match(reference, scores.assign(status="failed", flags="no_heart"))
    with pytest.raises(ArgumentError, match="in common"):
        match(reference[:0], scores)


def test_rows_that_repeat_are_noted_and_numbers_read_as_numbers(cohort) -> None:
    reference, scores = cohort
    scores.loc[3, "agatston_total"] = np.inf
    found = match(pd.concat([reference, reference[:2]]), scores)
    assert "2 row(s) of the reference table repeat another one word for word" in found.notes
    assert len(found.table) == 29
    assert any("'inf' (p01-2)" in note for note in found.notes)
    assert not any("repeat" in note for note in match(reference, scores).notes)
