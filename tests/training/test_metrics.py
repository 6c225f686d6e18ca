"""From scored scans to numbers: each against what can be counted by hand."""

import math

import numpy as np
import pandas as pd
import pytest

from cacsnet.agreement.statistics import icc
from cacsnet.errors import ArgumentError
from cacsnet.labels import IGNORE, STRUCTURE_INDEX, VESSEL_NAMES
from cacsnet.training.metrics import agreement, lesion_counts, score_metrics, structure_dice

TOTALS = [0.0, 0.0, 50.0, 150.0, 500.0, 900.0]


def table(totals, **columns):
    shares = dict(zip(VESSEL_NAMES, (0.1, 0.4, 0.2, 0.3), strict=True))
    vessels = {f"agatston_{name}": [None if t is None else t * share for t in totals] for name, share in shares.items()}
    return pd.DataFrame({"case_id": range(len(totals)), "agatston_total": totals, **vessels, **columns})


def test_a_perfect_model_agrees_fully():
    values = score_metrics(table(TOTALS), table(TOTALS))
    assert values["failed"] == values["reclassified"] == values["false_zero_median"] == values["false_zero_p95"] == 0
    assert all(values[f"icc_{name}"] == pytest.approx(1) for name in ("total", *VESSEL_NAMES))
    assert values["kappa"] == 1
    assert agreement(values) == pytest.approx(1)


def test_agreement_is_absolute():
    """Twice the score correlates perfectly and is wrong."""
    doubled = [2 * t for t in TOTALS]
    values = score_metrics(table(TOTALS), table(doubled))
    assert values["icc_total"] == pytest.approx(icc(TOTALS, doubled).agreement)
    assert values["icc_total"] < 0.9
    assert values["icc_LAD"] == pytest.approx(icc([0.4 * t for t in TOTALS], [0.4 * t for t in doubled]).agreement)


def test_cases_are_matched_by_name_not_by_row():
    shuffled = table(TOTALS).sample(frac=1, random_state=0)
    assert score_metrics(table(TOTALS), shuffled)["icc_total"] == pytest.approx(1)
    with pytest.raises(ArgumentError, match="same cases"):
        score_metrics(table(TOTALS), table(TOTALS[:-1]))


def test_false_calcium_on_zero_scans():
    reference = [0.0] * 5 + [80.0, 300.0]
    model = [0.0, 0.0, 0.0, 4.0, 100.0, 80.0, 300.0]
    values = score_metrics(table(reference), table(model))
    assert values["false_zero_median"] == 0
    assert values["false_zero_p95"] == pytest.approx(4 + 0.8 * 96)
    assert values["reclassified"] == pytest.approx(2 / 7)
    nobody = score_metrics(table([5.0, 50.0, 500.0]), table([5.0, 50.0, 500.0]))
    assert math.isnan(nobody["false_zero_p95"])


def test_a_refused_scan_is_a_zero_and_a_failure():
    model = [*TOTALS[:-1], None]
    values = score_metrics(table(TOTALS), table(model))
    assert values["failed"] == pytest.approx(1 / 6)
    assert values["icc_total"] == pytest.approx(icc(TOTALS, [*TOTALS[:-1], 0.0]).agreement)
    assert values["reclassified"] == pytest.approx(1 / 6)
    refused_zero = score_metrics(table(TOTALS), table([None, *TOTALS[1:]]))
    assert refused_zero["icc_total"] == pytest.approx(1)
    assert agreement(refused_zero) == pytest.approx(1 - 1 / 6)  # right by chance, and still a failure


def test_worse_in_any_respect_is_worse():
    good = score_metrics(table(TOTALS), table(TOTALS))
    for name in ("icc_total", "icc_LM", "kappa"):
        assert agreement(good | {name: 0.5}) < agreement(good)
        assert agreement(good | {name: math.nan}) == agreement(good | {name: 0.0})
    for name in ("failed", "false_zero_p95"):
        assert agreement(good | {name: 0.5}) < agreement(good)
    assert agreement(good | {"false_zero_p95": 1e6}) == pytest.approx(agreement(good) - 0.1)
    assert agreement({}) == 0


def test_a_network_that_answers_nothing_is_worth_nothing():
    values = score_metrics(table(TOTALS), table([0.0] * 6))
    assert agreement(values) <= 0.05


def test_lesions_are_counted_in_three_dimensions():
    truth, kept = np.zeros((4, 12, 12), np.uint8), np.zeros((4, 12, 12), np.uint8)
    truth[0, 2, 2] = truth[1, 3, 3] = 2  # one lesion, joined at a corner
    truth[2, 8:10, 8] = 1
    truth[2, 10, 8] = 2  # two vessels, one lesion
    truth[3, 1, 10] = 4  # missed
    kept[1, 3, 3] = 3  # another vessel: found all the same
    kept[2, 8:11, 8] = 1
    kept[0, 10, 2] = 1  # false
    kept[0, 10, 5] = 1  # false
    assert lesion_counts(truth, kept) == {
        "lesions_true": 3.0, "lesions_hit": 2.0, "lesions_kept": 4.0, "lesions_kept_true": 2.0,
    }  # fmt: skip
    assert set(lesion_counts(truth * 0, kept * 0).values()) == {0.0}
    with pytest.raises(ArgumentError, match="shape"):
        lesion_counts(truth, kept[1:])


def test_lesions_are_pooled_over_scans():
    """A scan with one lesion doesn't weigh as much as one with nine."""
    lesions = {"lesions_true": [9, 1], "lesions_hit": [9, 0], "lesions_kept": [6, 0], "lesions_kept_true": [3, 0]}
    values = score_metrics(table([0.0, 5.0]), table([0.0, 5.0], **lesions))
    assert values["lesion_sensitivity"] == pytest.approx(0.9)
    assert values["lesion_ppv"] == pytest.approx(0.5)
    none = {name: [0, 0] for name in lesions}
    assert math.isnan(score_metrics(table([0.0, 5.0]), table([0.0, 5.0], **none))["lesion_ppv"])
    assert "lesion_ppv" not in score_metrics(table([0.0, 5.0]), table([0.0, 5.0]))


def test_dice_of_structures_where_they_are_known():
    left, aorta = STRUCTURE_INDEX["left_ventricle"], STRUCTURE_INDEX["aorta"]
    truth, predicted = np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8)
    truth[:2] = left
    predicted[1:3] = left
    assert structure_dice(truth, predicted)["dice_left_ventricle"] == pytest.approx(0.5)
    assert math.isnan(structure_dice(truth, predicted)["dice_aorta"])
    truth[2:] = IGNORE
    assert structure_dice(truth, predicted)["dice_left_ventricle"] == pytest.approx(2 / 3)
    predicted[0] = aorta
    assert structure_dice(truth, predicted)["dice_aorta"] == 0


def test_dice_is_averaged_over_the_scans_that_have_the_structure():
    dice = {"dice_aorta": [0.5, math.nan, 0.9]}
    values = score_metrics(table([0.0, 5.0, 9.0]), table([0.0, 5.0, 9.0], **dice))
    assert values["dice_aorta"] == pytest.approx(0.7)
