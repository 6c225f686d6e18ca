"""Whose calcium a model keeps, and under which name."""

import math

import numpy as np
import pandas as pd
import pytest

from cacsnet.labels import VESSEL_NAMES
from cacsnet.phantom.deposits import OWNER_NAMES
from cacsnet.training.judging import calcium_amounts, calcium_shares


def test_amounts_are_those_of_bright_voxels_and_their_owners():
    hu = np.array([[[129, 130, 200, 300, 400, 500]]], np.int16)
    owner = np.array([[[2, 2, 2, 6, 20, 0]]], np.uint8)
    kept = np.array([[[2, 0, 2, 3, 0, 1]]], np.uint8)
    found = calcium_amounts(hu, owner, kept, 120, (2.0, 0.5, 0.5))
    assert found == {
        "amount_nobody": 250, "kept_nobody": 250, "amount_LAD": 165, "kept_LAD": 100, "named_LAD": 100,
        "amount_aortic_valve": 150, "kept_aortic_valve": 150, "amount_stent": 200, "kept_stent": 0,
    }  # fmt: skip
    assert "amount_LAD" not in calcium_amounts(hu[..., :3], owner[..., :3], kept[..., :3], 70, (2.0, 0.5, 0.5))


def test_a_name_counts_apart_from_being_kept():
    hu, owner = np.full((1, 1, 4), 200, np.int16), np.array([[[1, 1, 4, 4]]], np.uint8)
    found = calcium_amounts(hu, owner, np.array([[[1, 2, 3, 0]]], np.uint8), 120, (1.0, 1.0, 1.0))
    assert (found["kept_LM"], found["named_LM"]) == (400, 200)
    assert (found["kept_RCA"], found["named_RCA"]) == (200, 0)


def test_shares_are_of_all_scans_together():
    rows = pd.DataFrame([
        {"amount_LAD": 6.0, "kept_LAD": 5.0, "named_LAD": 4.0, "amount_aorta": 4.0, "kept_aorta": 1.0},
        {"amount_LM": 4.0, "kept_LM": 3.0, "named_LM": 0.0, "amount_nobody": 90.0, "kept_nobody": 1.0},
        {"status": "no_heart"},
    ])  # fmt: skip
    found = calcium_shares(rows)
    assert found["true_kept"] == pytest.approx(0.8)
    assert found["right_vessel_of_kept"] == 0.5
    assert found["LAD_kept"] == pytest.approx(5 / 6)
    assert found["aorta_kept"] == 0.25
    assert found["nobody_among_kept"] == pytest.approx(0.1)
    assert found["false_among_kept"] == pytest.approx(0.2)
    assert math.isnan(found["stent_kept"])
    assert all(f"{name}_kept" in found for name in OWNER_NAMES.values())


def test_nothing_kept_has_no_shares_of_it():
    found = calcium_shares(pd.DataFrame({"amount_LAD": [5.0], "kept_LAD": [0.0], "named_LAD": [0.0]}))
    assert (found["true_kept"], found["LAD_kept"]) == (0, 0)
    assert math.isnan(found["right_vessel_of_kept"])
    assert math.isnan(found["false_among_kept"])
    assert set(VESSEL_NAMES) <= set(OWNER_NAMES.values())
