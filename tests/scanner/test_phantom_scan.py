"""The scanner around the phantom: only the heart moves, artefacts and padding arrive, the seed decides."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from cacsnet.phantom.cohort import make_subject
from cacsnet.phantom.render import Anatomy, heart_box, render
from cacsnet.phantom.scan import BONE_HU, bone_at, make_scan, moving_heart
from cacsnet.scanner import Protocol
from cacsnet.scanner.materials import CALCIUM_HU_PER_MG_CC
from cacsnet.training.evaluate import held_out_recipe

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


def block(hu, structures):
    """A painted block [z, y, x] with a heart in its middle."""
    return Anatomy(hu, structures, torch.zeros_like(structures), (-40.0, -60.0, -60.0), 2.0)


def test_the_border_to_the_lungs_moves_less_than_the_arteries():
    """A heart beside lung, an artery within it: displaced by 10 mm along x, the artery follows, the border 3 mm."""
    hu = torch.full((40, 60, 60), 40.0)
    hu[:, :, 40:] = -850.0
    hu[:, 28:32, 18:22] = 110.0
    structures = torch.zeros(hu.shape, dtype=torch.uint8)
    structures[10:30, 10:50, 10:40] = 1
    moved = moving_heart(block(hu, structures), replace(MOVING, motion_path_mm=((0.0, 0.0, 10.0),)))[20, 30]
    artery = (moved[10:35] - 60).clamp_min(0)
    assert float((artery * torch.arange(10.0, 35.0)).sum() / artery.sum()) == pytest.approx(19.5 + 5, abs=0.3)
    border = ((moved[34:] + 850).clamp(0, 890) / 890).sum() + 34  # voxels of tissue
    # of its contrast of 890 HU, the 160 between blood and fat go all the way
    assert float(border) == pytest.approx(40 + (5 * 160 + 1.5 * 730) / 890, abs=0.35)


def test_bone_beside_the_heart_stands_still():
    hu = torch.full((40, 60, 60), 40.0)
    hu[:, 6:8] = 700.0
    structures = torch.zeros(hu.shape, dtype=torch.uint8)
    structures[10:30, 10:50, 10:36] = 1
    moved = moving_heart(block(hu, structures), replace(MOVING, motion_path_mm=((0.0, 6.0, 0.0),)))
    assert torch.equal(moved > 300, hu > 300)
    assert float((moved - hu).abs()[hu < 100].max()) < 120  # marrow and muscle around it may be mixed, its cortex isn't


def test_enhanced_blood_moves():
    hu = torch.full((40, 60, 60), 40.0)
    structures = torch.zeros(hu.shape, dtype=torch.uint8)
    structures[10:30, 10:50, 10:36] = 1
    hu[structures > 0] = 400.0
    moved = moving_heart(block(hu, structures), replace(MOVING, motion_path_mm=((0.0, 0.0, 6.0),)))
    assert float(moved[20, 30, 10:13].max()) < 150
    assert float(moved[20, 30, 36:39].min()) > 300


@pytest.mark.parametrize(("model", "number"), [("polar", 22), ("ellipsoid", 17)])
def test_motion_leaves_no_false_calcium_at_the_lungs(model, number):
    """Two held-out scans, gated and not, in which moving lungs left 200 and 2,400 mm³ above 130 HU where nothing is."""
    patient, arteries, _, [protocol] = make_subject(held_out_recipe(number, model))
    low, high = heart_box(patient, 15.0)
    anatomy = render(patient, arteries, low.tolist(), 1.5, np.ceil((high - low) / 1.5).astype(int).tolist())
    moved = gaussian_filter(moving_heart(anatomy, protocol).numpy(), (1.0, 0.5, 0.5))
    away = gaussian_filter((anatomy.hu.numpy() > 90).astype(float), 6) < 0.002  # from bone
    assert ((moved > 130) & away).sum() * 1.5**3 < 60


def test_a_scan_without_a_heart_does_not_move(painted):
    empty = replace(painted.anatomy, structures=torch.zeros_like(painted.anatomy.structures))
    assert torch.equal(moving_heart(empty, MOVING), empty.hu)


def test_motion_reaches_the_scan_and_the_seed_decides(painted):
    still, moved = scan(painted, PROTOCOL), scan(painted, MOVING)
    assert (still.hu != moved.hu).mean() > 0.02
    noisy = replace(PROTOCOL, noise_hu=15.0)
    assert np.array_equal(scan(painted, noisy, 3).hu, scan(painted, noisy, 3).hu)
    assert not np.array_equal(scan(painted, noisy, 3).hu, scan(painted, noisy, 4).hu)


@pytest.mark.parametrize("kvp", [80, 100, 135])
def test_bone_brightens_with_falling_voltage_as_calcium_does(painted, kvp):
    """Otherwise only calcium that was drawn would, and a network could tell it from bone by that."""
    factor = CALCIUM_HU_PER_MG_CC[kvp] / CALCIUM_HU_PER_MG_CC[120]
    hu = painted.anatomy.hu
    painted_at = bone_at(hu, kvp)
    bone = hu > 300
    torch.testing.assert_close((painted_at[bone] - BONE_HU) / (hu[bone] - BONE_HU), torch.full((int(bone.sum()),), factor))
    assert torch.equal(painted_at[hu < BONE_HU], hu[hu < BONE_HU])
    usual, other = (scan(painted, replace(PROTOCOL, kvp=voltage)).hu.astype(float) for voltage in (120, kvp))
    change, bright = (other - usual)[usual > 300], (usual - BONE_HU)[usual > 300]
    assert change.sum() / bright.sum() == pytest.approx(factor - 1, rel=0.1)
    enhanced = SimpleNamespace(tissue=SimpleNamespace(enhanced=True))  # its tissue is already that of the voltage
    same = make_scan(enhanced, painted.anatomy, [], replace(PROTOCOL, kvp=kvp), 0).hu
    np.testing.assert_array_equal(same, usual)


def test_padding_noise_and_dtype(painted):
    out = scan(painted, replace(PROTOCOL, circle_mm=150.0, padding_hu=-2048, noise_hu=15.0)).hu
    assert out.dtype == np.int16
    assert (out[:, 0, 0] == -2048).all()
    assert out[:, 55, 55].min() > -1025
    clean = scan(painted, PROTOCOL).hu.astype(float)
    difference = (out - clean)[:, 35:75, 35:75]
    assert difference[clean[:, 35:75, 35:75] > -900].std() == pytest.approx(15.0, rel=0.35)
