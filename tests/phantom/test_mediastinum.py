"""What lies around the heart keeps its place: airways, pulmonary arteries, descending aorta, appendage and fat pads."""

from functools import cache

import numpy as np
import pytest
import torch

from cacsnet.phantom.anatomy import AIRWAYS, HEART_MODELS, Patient, View
from cacsnet.phantom.render import grid_points

SEEDS = range(900, 912)
MODELS = tuple(HEART_MODELS)
CHAMBERS = ("right_atrium", "right_ventricle", "left_atrium", "left_ventricle", "myocardium", "aorta", "trunk")


@cache
def patient_of(seed, model):
    return Patient(seed, heart_model=model)


def view_of(patient, thorax):
    """View of points [3, n] of the thorax frame."""
    return View(patient, thorax, patient.to_heart(thorax))


def box(low, high, step_mm=3.0):
    """Points [3, n] of a box (mm)."""
    return grid_points(low, (step_mm,) * 3, [int((b - a) / step_mm) + 1 for a, b in zip(low, high, strict=True)]).reshape(3, -1)


@cache
def above(seed, model):
    """Distance (mm) to each painted part by name, at points around the great vessels."""
    patient = patient_of(seed, model)
    view = view_of(patient, box((10, -10, -70), (110, 95, 80)))
    wanted = (*CHAMBERS, *AIRWAYS, "trachea", "pulmonary_left", "pulmonary_right", "descending_aorta", "arch")
    return {part.name: part.sdf(view) for part in patient.parts() if part.name in wanted}


def depth(one, other):
    """How deep (mm) two shapes lie in each other; negative where they don't touch."""
    return -float(torch.maximum(one, other).min())


@pytest.mark.parametrize("model", MODELS)
def test_no_pulmonary_artery_covers_the_descending_aorta(model):
    for seed in SEEDS:
        mm = above(seed, model)
        for name in ("pulmonary_left", "pulmonary_right", "trunk"):
            assert depth(mm["descending_aorta"], mm[name]) < 1.0, (seed, name)


@pytest.mark.parametrize("model", MODELS)
def test_bronchi_keep_clear_of_heart_aorta_and_pulmonary_arteries(model):
    for seed in SEEDS:
        mm = above(seed, model)
        for side in AIRWAYS:
            air = mm[side] < 0
            for name in (*CHAMBERS, "arch", "pulmonary_right"):
                assert not bool((mm[name][air] < 0).any()), (seed, side, name)
            assert float((mm["pulmonary_left"][air] < 0).float().mean()) < 0.16, (seed, side)  # it winds round the bronchus
            assert depth(mm[side], mm["descending_aorta"]) < 3.0, (seed, side)


@pytest.mark.parametrize("model", MODELS)
def test_the_main_bronchi_pass_above_the_left_atrium_behind_and_below_the_pulmonary_arteries(model):
    for seed in SEEDS:
        patient = patient_of(seed, model)
        for side, tubes in patient.airways.items():
            if side == "trachea":
                continue
            line, radii = tubes[0]
            heart = patient.to_heart(torch.tensor(line.T, dtype=torch.float32))
            clear = patient.heart.la_sdf(heart) * patient.heart_scale
            assert bool((clear > torch.tensor(radii)).all()), (seed, side)
        left = patient.airways["bronchus_left"][0][0][-1]
        artery = patient.left_pulmonary
        assert artery[:, 0].max() > left[0] + 12  # it arches over the bronchus
        assert artery[-1, 1] > left[1]  # and descends behind it


def test_lobar_bronchi_reach_into_the_lungs_with_a_wall():
    patient = patient_of(900, "polar")
    parts = {part.name: part for part in patient.parts()}
    for side in AIRWAYS:
        ends = np.stack([line[-1] for line, _ in patient.airways[side][1:]])
        view = view_of(patient, torch.tensor(ends.T, dtype=torch.float32))
        assert bool((patient.thorax.lung(view) < 0).all())
        assert bool((parts[side].sdf(view) < parts[f"{side}_wall"].sdf(view) + 2).all())
        assert bool((parts[f"{side}_wall"].sdf(view) < parts[side].sdf(view) - 1).all())


@pytest.mark.parametrize("model", MODELS)
def test_left_atrium_and_ventricle_share_the_ground_where_they_overlap(model):
    """Neither cuts into the other: what both claim belongs to the one in which it lies deeper."""
    claimed = 0
    for seed in (900, 901, 908, 69_900_000):
        patient = patient_of(seed, model)
        parts = {part.name: part for part in patient.parts()}
        view = view_of(patient, box((-30, -40, -30), (50, 50, 60)))
        atrium, muscle = parts["left_atrium"].sdf(view), parts["myocardium"].sdf(view)
        ventricle = patient.heart.lv_outer_sdf(view.heart) * patient.heart_scale
        claimed += int(((atrium < -2) & (ventricle < 0)).sum())
        assert not bool(((muscle < 0) & (atrium < ventricle - 0.01)).any())
        away = atrium > 0.1
        assert bool((muscle[away] < 0).eq(ventricle[away] < 0).all())  # elsewhere the ventricle is whole
        assert bool((muscle[(ventricle < atrium - 0.01) & (ventricle < 0)] < 0).all())
    assert claimed > 100


@pytest.mark.parametrize("model", MODELS)
def test_fat_pads_are_wedges_between_sac_diaphragm_and_front_wall(model):
    sizes, at_the_wall = [], 0
    for seed in SEEDS:
        patient = patient_of(seed, model)
        view = view_of(patient, box((-110, -130, -120), (0, 60, 120), 4.0))
        pad = patient.thorax.pads(view) < -0.5
        sac, high, ring = view.field("sac"), view.field("diaphragm"), view.field("ring")[0]
        assert float(high[pad].min()) > 0  # never in the abdomen
        assert float(ring[pad].max()) < 0
        sizes += patient.thorax.pad_mm.tolist()
        at_the_wall += int((pad & (high > max(sizes[-2:]))).sum())
        outside = pad & (sac > 0)
        if bool(outside.any()):
            assert float(sac[outside].min()) < 4.0, seed  # it lies on the sac, thickest in the corner
            assert float((sac + high.minimum(-ring))[outside].max()) < max(patient.thorax.pad_mm) + 3
        for side, size in zip((-1, 1), patient.thorax.pad_mm, strict=True):
            if size == 0:
                assert not bool((outside & ((view.thorax[2] - patient.thorax.midline) * side > 60)).any()), seed
    assert (at_the_wall > 50) == (
        model == "polar"
    )  # the other model's hearts lie flat against the wall, without a corner there
    assert 0 < np.mean(np.array(sizes) == 0) < 0.5
