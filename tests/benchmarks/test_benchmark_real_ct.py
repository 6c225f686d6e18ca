"""Measures of real CT: boxes in mm, closing."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from real_ct import box_iou, box_mm, closed, missed_ml


def test_a_box_has_the_edges_of_its_voxels_and_the_axes_order():
    mask = np.zeros((10, 12, 14), bool)
    mask[2:5, 3:4, 6:10] = True
    np.testing.assert_allclose(box_mm(mask, (3.0, 2.0, 1.0)), [[4.5, 5.0, 5.5], [13.5, 7.0, 9.5]])
    np.testing.assert_allclose(box_mm(mask, (3.0, 2.0, 1.0), (-10.0, 0.0, 5.0)), [[-5.5, 5.0, 10.5], [3.5, 7.0, 14.5]])


def test_the_same_body_on_two_grids_has_nearly_the_same_box():
    z, y, x = np.indices((60, 60, 60)) + 0.5
    fine = (z - 30) ** 2 + (y - 32) ** 2 + (x - 28) ** 2 < 20**2
    coarse = fine[1::3, 1::3, 1::3]
    assert box_iou(box_mm(fine, (1.0,) * 3), box_mm(coarse, (3.0,) * 3, (1.0,) * 3)) > 0.85


def test_overlap_of_boxes():
    one = np.array([[0.0, 0, 0], [2, 2, 2]])
    assert box_iou(one, one) == 1
    assert box_iou(one, one + np.array([1, 0, 0])) == pytest.approx(1 / 3)
    assert box_iou(one, one + np.array([5, 0, 0])) == 0


def test_closing_fills_clefts_and_loses_nothing():
    mask = np.ones((12, 12, 12), bool)
    mask[:, 6] = False  # a cleft of one voxel of 3 mm
    assert closed(mask)[2:-2, :, 2:-2].all()
    assert closed(mask)[mask].all()
    apart = np.zeros((12, 24, 12), bool)
    apart[:, :6], apart[:, 18:] = True, True  # 36 mm: wider than twice the closing
    assert not closed(apart)[:, 9:15].any()


def test_each_missed_voxel_is_counted_once():
    missed = np.ones((1, 1, 8), bool)
    missed[..., 7] = False
    hu = np.array([[[-90, -90, 40, 40, 40, 40, 300, -90]]])
    structures = np.array([[[0, 6, 6, 7, 0, 0, 0, 6]]])  # fat that was found as aorta is fat
    assert missed_ml(missed, structures, hu, 1.0) == {"fat": 2, "great vessels": 2, "other": 3}
    assert missed_ml(missed, structures, hu, 10.0)["other"] == 30
