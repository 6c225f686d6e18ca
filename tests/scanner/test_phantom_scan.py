"""The scanner around the phantom: only the heart moves, artefacts and padding arrive, the seed decides."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cacsnet.phantom.scan import make_scan, moving_heart
from cacsnet.scanner import Protocol

PROTOCOL = Protocol((5.0, 1.5, 1.5), (20, 110, 110), (-50.0, -82.0, -82.0), 5.0, fwhm_mm=2.0, noise_hu=0.0)
MOVING = replace(PROTOCOL, motion_path_mm=((0.0, 0.0, 6.0),))


def scan(painted, protocol, seed=0):
    return make_scan(painted.patient, painted.anatomy, [], protocol, seed)


def test_the_heart_moves_and_the_rest_stands_still(painted):
    anatomy = painted.anatomy
    moved = moving_heart(anatomy, MOVING)
    heart = anatomy.structures > 0
    changed = (moved - anatomy.hu).abs() > 1.0
    shifted = torch.roll(anatomy.hu, round(6.0 / anatomy.step_mm), 2)
    inside = heart.clone()
    inside[:, :, :8] = inside[:, :, -8:] = False
    assert float((moved - shifted)[inside].abs().median()) < 8
    assert changed[heart].double().mean() > 0.3
    index = torch.nonzero(heart)
    far = torch.ones_like(heart)
    reach = round(32.0 / anatomy.step_mm)  # the heart's share has died out, whatever the cell size
    low, high = index.amin(0) - reach, index.amax(0) + reach + 1
    far[low[0].clamp_min(0) : high[0], low[1].clamp_min(0) : high[1], low[2].clamp_min(0) : high[2]] = False
    assert not changed[far].any()


def test_a_scan_without_a_heart_does_not_move(painted):
    empty = replace(painted.anatomy, structures=torch.zeros_like(painted.anatomy.structures))
    assert torch.equal(moving_heart(empty, MOVING), empty.hu)


def test_motion_reaches_the_scan_and_the_seed_decides(painted):
    still, moved = scan(painted, PROTOCOL), scan(painted, MOVING)
    assert (still.hu != moved.hu).mean() > 0.02
    noisy = replace(PROTOCOL, noise_hu=15.0)
    assert np.array_equal(scan(painted, noisy, 3).hu, scan(painted, noisy, 3).hu)
    assert not np.array_equal(scan(painted, noisy, 3).hu, scan(painted, noisy, 4).hu)


def test_padding_noise_and_dtype(painted):
    out = scan(painted, replace(PROTOCOL, circle_mm=150.0, padding_hu=-2048, noise_hu=15.0)).hu
    assert out.dtype == np.int16
    assert (out[:, 0, 0] == -2048).all()
    assert out[:, 55, 55].min() > -1025
    clean = scan(painted, PROTOCOL).hu.astype(float)
    difference = (out - clean)[:, 35:75, 35:75]
    assert difference[clean[:, 35:75, 35:75] > -900].std() == pytest.approx(15.0, rel=0.35)
