"""Painted volumes against closed forms, at the voxel of a whole scan's anatomy."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cacsnet.labels import STRUCTURE_INDEX, VESSEL_INDEX
from cacsnet.phantom.anatomy import HEART_MODELS, Part, Patient
from cacsnet.phantom.fields import capsule_chain, ellipsoid
from cacsnet.phantom.heart import Artery
from cacsnet.phantom.render import AREA_MARGIN_MM, grid_points, render

STEP_MM = 1.25
LINE = np.stack([np.linspace(-20, 22, 43), np.linspace(3, 15, 43), np.linspace(-9, 2, 43)], 1)


BLOOD = SimpleNamespace(chamber_hu={}, blood=40.0, fat=-90.0)


def patient(*parts):
    """Heart, thorax and patient are one frame; nothing is deformed."""
    return SimpleNamespace(
        to_thorax=lambda points: points, to_heart=lambda points: points, heart_to_patient=lambda points: points,
        parts=lambda: list(parts), shading=lambda view: 0.0, heart_scale=1.0, sheath_mm=3.0, tissue=BLOOD,
    )  # fmt: skip


def volumes(labels):
    return np.bincount(labels.numpy().ravel(), minlength=10) * STEP_MM**3


@pytest.mark.parametrize("at", [(0.0, 0.0, 0.0), (0.4, -0.3, 0.9)])
@pytest.mark.parametrize("label", ["left_ventricle", "aorta"])
def test_a_ball_and_a_tube_have_their_volume(label, at):
    """Label and HU: a voxel that is covered in part has that part of the HU."""
    radius, ends = 17.0, torch.tensor([[-20.0, -5.0, 3.0], [20.0, 5.0, -3.0]]) + torch.tensor(at)
    shapes = {
        "left_ventricle": (lambda v: ellipsoid(v.heart, at, None, (radius,) * 3), 4 / 3 * np.pi * radius**3),
        "aorta": (
            lambda v: capsule_chain(v.heart, ends, torch.tensor([9.0, 9.0])),
            np.pi * 81 * float((ends[1] - ends[0]).norm()) + 4 / 3 * np.pi * 9**3,
        ),
    }
    sdf, exact = shapes[label]
    part = Part(label, sdf, 100.0, STRUCTURE_INDEX[label])
    anatomy = render(patient(part), [], (-40.0,) * 3, STEP_MM, (65,) * 3)
    assert volumes(anatomy.structures)[STRUCTURE_INDEX[label]] == pytest.approx(exact, rel=0.02)
    assert float((anatomy.hu + 1000).sum()) / 1100 * STEP_MM**3 == pytest.approx(exact, rel=0.01)


@pytest.mark.parametrize("lumen_mm", [0.8, 2.0])
def test_a_coronary_area_is_a_tube_of_lumen_and_margin(lumen_mm):
    artery = Artery("RCA", VESSEL_INDEX["RCA"], LINE, np.full(len(LINE), lumen_mm))
    anatomy = render(patient(), [artery], (-40.0,) * 3, STEP_MM, (65,) * 3)
    reach, length = lumen_mm + AREA_MARGIN_MM, float(np.linalg.norm(LINE[-1] - LINE[0]))
    exact = np.pi * reach**2 * length + 4 / 3 * np.pi * reach**3
    assert volumes(anatomy.area)[VESSEL_INDEX["RCA"]] == pytest.approx(exact, rel=0.02)


def test_a_later_part_covers_an_earlier_one_and_takes_its_label():
    balls = [
        Part(name, lambda v, radius=radius: ellipsoid(v.heart, (0.0,) * 3, None, (radius,) * 3), 40.0, STRUCTURE_INDEX[name])
        for name, radius in (("myocardium", 20.0), ("left_ventricle", 12.0))
    ]
    anatomy = render(patient(*balls), [], (-30.0,) * 3, STEP_MM, (49,) * 3)
    found = volumes(anatomy.structures)
    assert found[STRUCTURE_INDEX["left_ventricle"]] == pytest.approx(4 / 3 * np.pi * 12**3, rel=0.02)
    assert found[STRUCTURE_INDEX["myocardium"]] == pytest.approx(4 / 3 * np.pi * (20**3 - 12**3), rel=0.02)


@pytest.mark.parametrize("model", HEART_MODELS)
def test_the_coronary_sinus_opens_into_the_atrium_without_a_shell_of_fat(model):
    for seed in range(3):
        drawn = Patient(seed, heart_model=model)
        tree = drawn.heart.grow_tree(np.random.default_rng([seed, 7]))
        mouth = drawn.heart_to_patient(next(a for a in tree if a.name == "vein_ring").line[-1:])[0]
        anatomy = render(drawn, tree, (mouth - 12).tolist(), 1.0, (25,) * 3)
        points = grid_points(anatomy.origin_mm, (1.0,) * 3, (25,) * 3)
        deep = drawn.heart.ra_sdf(drawn.to_heart(drawn.to_thorax(points))) < -1.5
        assert deep.sum() > 100
        assert float((anatomy.hu[deep] > -20).float().mean()) > 0.99, seed
        assert float((anatomy.structures[deep] == STRUCTURE_INDEX["right_atrium"]).float().mean()) > 0.97, seed
