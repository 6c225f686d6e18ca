"""How valves, chambers and vessels lie to each other, in both heart models: figures as on axial CT, in mm."""

from functools import cache

import numpy as np
import pytest
import torch
from scipy import ndimage

from cacsnet.labels import VESSEL_INDEX
from cacsnet.phantom.anatomy import HEART_MODELS, Patient, View
from cacsnet.phantom.heart import unit
from cacsnet.phantom.places import PLACES, mitral_ring

MODELS = tuple(HEART_MODELS)
SEEDS = range(101, 109)
STEP_MM = 3.0


@pytest.fixture(params=MODELS)
def model(request):
    return request.param


@cache
def drawn(seed, model):
    patient = Patient(seed, heart_model=model)
    tree = patient.heart.grow_tree(np.random.default_rng([seed, 7]))
    return patient, {a.name: a for a in tree}


@cache
def grid():
    axis = torch.arange(-80.0, 91.0, STEP_MM)
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"))


def at(sdf, points):
    """Values of a signed distance at points [n, 3] or [3]."""
    return sdf(torch.tensor(np.ascontiguousarray(np.atleast_2d(points).T), dtype=torch.float32)).numpy()


def apart(line, others):
    return float(np.linalg.norm(line[:, None] - others[None], axis=2).min())


def test_the_pulmonary_valve_lies_in_front_of_above_and_left_of_the_aortic_one(model):
    found = []
    for seed in SEEDS:
        patient, _ = drawn(seed, model)
        aortic, pulmonary = patient.heart_to_patient(np.stack([patient.heart.root[0], patient.heart.trunk[0]]))
        found.append(pulmonary - aortic)
    above, behind, left = np.mean(found, 0)
    assert 10 < above < 24
    assert -34 < behind < -18
    assert 10 < left < 26
    assert 26 < np.linalg.norm(found, axis=1).mean() < 42


def test_the_mitral_valve_lies_below_and_behind_the_aortic_one(model):
    below, behind, area = [], [], []
    for seed in SEEDS:
        patient, _ = drawn(seed, model)
        ring = mitral_ring(patient)
        away = (patient.heart_to_patient(ring) - patient.heart_to_patient(patient.heart.root[:1])).mean(0)
        below.append(-away[0])
        behind.append(away[1])
        corners = np.cross(ring - ring.mean(0), np.roll(ring, -1, 0) - ring.mean(0))
        area.append(np.linalg.norm(corners.sum(0)) / 2 / 100 * patient.heart_scale**2)
    assert 5 < np.mean(below) < 18
    assert 15 < np.mean(behind) < 32
    assert 7 < np.mean(area) < 14  # cm²


def test_ostia_lie_as_high_above_the_valve_as_the_sinuses_reach(model):
    for seed in range(100, 130):
        heart = HEART_MODELS[model](np.random.default_rng([seed, 4]))
        up = unit(heart.root[1] - heart.root[0])
        assert all(6 < (ostium - heart.root[0]) @ up < 21 for ostium in heart.ostia), seed


def test_annular_calcium_lies_near_the_circumflex_artery_but_not_in_it(model):
    found = []
    for seed in SEEDS:
        patient, tree = drawn(seed, model)
        arteries = np.concatenate([a.line for a in tree.values() if a.vessel])
        rng = np.random.default_rng(seed)
        found += [apart(line, arteries) for _ in range(4) for line in PLACES["mitral_annulus"](patient, rng)]
    assert 5 < np.median(found) < 10
    assert min(found) > 2  # of its centre line


def test_valve_calcium_lies_no_further_from_the_ostia_than_in_life(model):
    found = []
    for seed in SEEDS:
        patient, tree = drawn(seed, model)
        arteries = np.concatenate([a.line for a in tree.values() if a.vessel])
        lines = PLACES["aortic_valve"](patient, np.random.default_rng(seed))
        found.append(min(apart(line, arteries) for line in lines))
    assert 5 < np.median(found) < 14


def test_four_chambers_meet_at_the_crux(model):
    for seed in SEEDS:
        patient, tree = drawn(seed, model)
        end, heart = tree["PDA"].line[0], patient.heart
        for sdf in (heart.lv_outer_sdf, heart.rv_sdf, heart.la_sdf, heart.ra_sdf):
            assert 0 < at(sdf, end)[0] < 13, seed


def test_the_right_atrium_meets_the_right_ventricle_at_the_tricuspid_valve(model):
    for seed in SEEDS:
        heart = drawn(seed, model)[0].heart
        ventricle, atrium = (sdf(grid()).numpy() < 0 for sdf in (heart.rv_sdf, heart.ra_sdf))
        near = ndimage.distance_transform_edt(~ventricle, sampling=STEP_MM) <= 5
        assert (near & atrium).sum() * STEP_MM**2 > 500, seed  # mm²


def test_each_atrium_is_one_piece(model):
    for seed in range(100, 112):
        heart = HEART_MODELS[model](np.random.default_rng([seed, 4]))
        for sdf in (heart.la_sdf, heart.ra_sdf):
            label, count = ndimage.label(sdf(grid()).numpy() < 0)
            size = np.sort(np.bincount(label.ravel())[1:])
            assert count == 1 or size[:-1].sum() < 20, seed  # voxels of 27 mm³


def test_the_left_ventricle_reaches_the_aortic_valve_inside_its_own_wall(model):
    for seed in SEEDS:
        heart = drawn(seed, model)[0].heart
        assert at(heart.lv_inner_sdf, heart.root[0])[0] < -5
        inside = heart.lv_inner_sdf(grid()) < 0
        assert float((heart.lv_outer_sdf(grid())[inside] < 0).float().mean()) > 0.99


def test_aorta_and_pulmonary_artery_begin_at_their_valves(model):
    for seed in SEEDS:
        heart = drawn(seed, model)[0].heart
        for line, sdf in ((heart.root, heart.root_sdf), (heart.trunk, heart.trunk_sdf)):
            along = unit(line[1] - line[0])
            assert at(sdf, line[0] - 1.0 * along)[0] > 0.9
            assert at(sdf, line[0] + 1.0 * along)[0] < 0


def test_the_left_atrium_covers_neither_the_descending_aorta_nor_the_oesophagus(model):
    """Painted parts, thorax frame."""
    for seed in SEEDS:
        patient, _ = drawn(seed, model)
        parts = {p.name: p for p in patient.parts()}
        patch = torch.stack(torch.meshgrid(*[torch.arange(-60.0, 61.0, STEP_MM)] * 3, indexing="ij"))
        patch = patch + torch.tensor([0.0, 50.0, 10.0]).reshape(3, 1, 1, 1)
        view = View.of(patient, patch)
        atrium, aorta, gullet = (parts[name].sdf(view) for name in ("left_atrium", "descending_aorta", "oesophagus"))
        assert not bool(((atrium < 0) & (aorta < 0)).any()), seed
        assert float(((gullet < 0) & (atrium < 0)).sum()) < 0.2 * float((gullet < 0).sum()), seed
        assert float(((gullet < 0) & (aorta < 0)).sum()) < 0.1 * float((gullet < 0).sum()), seed


def test_the_right_artery_owns_the_inferior_wall_where_it_is_dominant(model):
    for seed in SEEDS:
        _, tree = drawn(seed, model)
        if tree["PDA"].vessel == VESSEL_INDEX["RCA"] and "PL" in tree:
            assert apart(tree["PL"].line[8:], tree["LCX"].line) > 7, seed
