from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from cacsnet.agreement.pairs import match
from cacsnet.agreement.scan_rescan import ScanRescan, scan_rescan
from cacsnet.agreement.statistics import icc


def run(reference: pd.DataFrame, scores: pd.DataFrame) -> ScanRescan:
    found = scan_rescan(match(reference, scores).table)
    assert isinstance(found, ScanRescan)
    return found


def test_differences_are_first_minus_second(cohort) -> None:
    reference, scores = cohort
    found = run(reference, scores)
    first, second = (reference.loc[reference["scan"] == s, "agatston_total"].to_numpy() for s in (1, 2))
    model_1, model_2 = (scores.loc[reference["scan"] == s, "agatston_total"].to_numpy() for s in (1, 2))
    assert (found.scans, found.n, found.n_left_out) == (("1", "2"), 15, 0)
    assert found.reference.mean == pytest.approx((first - second).mean(), abs=1e-5)
    assert found.reference.sd == pytest.approx((first - second).std(ddof=1), abs=1e-5)
    assert found.model.mean == pytest.approx((model_1 - model_2).mean(), abs=1e-5)
    assert found.methods.mean == pytest.approx(found.reference.mean - found.model.mean)
    assert found.reference_icc.consistency == pytest.approx(icc(first, second).consistency)
    assert found.model_icc.agreement == pytest.approx(icc(model_1, model_2).agreement)
    assert found.first.icc.consistency == pytest.approx(icc(first, model_1).consistency)
    assert found.second.icc.consistency == pytest.approx(icc(second, model_2).consistency)
    assert found.heart_rate is not None
    assert found.heart_rate.mean > 0


def test_patients_are_paired_by_id_and_not_by_place(cohort) -> None:
    reference, scores = cohort
    shuffled = reference.sample(frac=1, random_state=5)
    shuffled["case_id"] = [f"case{i}" for i in range(len(shuffled))]  # ids that sort in another order than the patients
    renamed = scores.assign(case_id=shuffled["case_id"].sort_index())
    assert run(shuffled, renamed) == run(reference, scores)


def test_reclassified_in_each_scan() -> None:
    ids = [f"p{i}" for i in range(5)]
    table = pd.DataFrame({"patient_id": ids * 2, "scan": [1] * 5 + [2] * 5})
    table["case_id"] = table["patient_id"] + "-" + table["scan"].astype(str)
    reference = table.assign(agatston_total=[50.0, 60, 70, 150, 500] * 2)
    scores = table.assign(agatston_total=[50.0, 160, 70, 150, 500, 150, 160, 70, 50, 500])
    found = run(reference, scores)
    assert (found.first.reclassification.changed, found.second.reclassification.changed) == (1, 3)
    assert (found.reclassified.first, found.reclassified.second) == (1, 3)
    assert (found.reclassified.only_first, found.reclassified.only_second) == (0, 2)
    assert found.reclassified.mcnemar_p == 0.5
    assert found.heart_rate is None


def test_patients_without_both_scans_are_counted(cohort) -> None:
    reference, scores = cohort
    same = reference.assign(scan=reference["scan"].mask(reference.index == 1, 1))  # two first scans, no second
    found = run(same.drop(index=5), scores)
    assert (found.n, found.n_left_out) == (13, 3)
    two = reference.replace({"patient_id": {"p01": "p00"}}).drop(index=3)  # two first scans and one second: which is it?
    found = run(two, scores)
    assert (found.n, found.n_left_out) == (13, 3)


def test_scan_names_sort_as_numbers(cohort) -> None:
    reference, scores = cohort
    reference["scan"] = reference["scan"].map({1: 2, 2: 10})
    assert run(reference, scores).scans == ("2", "10")


def test_says_why_there_is_none(cohort) -> None:
    reference, scores = cohort
    for changed, why in (
        (reference.drop(columns="scan"), "no scan"),
        (reference.drop(columns="patient_id"), "no patient_id"),
        (reference.assign(scan=1), "one scan only"),
        (reference.assign(patient_id=np.arange(len(reference))), "no patient has"),
    ):
        found = scan_rescan(match(changed, scores).table)
        assert isinstance(found, str)
        assert why in found
