"""Diseased lungs are a minority and never bright."""

import numpy as np
import pytest
import torch

from cacsnet.phantom.anatomy import Patient, View
from cacsnet.phantom.lungs import Lungs
from cacsnet.phantom.render import grid_points


@pytest.fixture(scope="module")
def many():
    thorax = Patient(1).thorax
    return [Lungs(np.random.default_rng(seed), thorax) for seed in range(400)]


@pytest.fixture(scope="module")
def patient():
    """With everything: both lungs diseased."""
    patient = Patient(5)
    patient.lungs.emphysema, patient.lungs.effusion_mm = 1.0, np.array([15.0, 0.0])
    patient.lungs.scars = [patient.lungs._draw_scar(np.random.default_rng(seed)) for seed in range(4)]
    return patient


def view_of(patient, step_mm=4.0):
    low, high = (-70, patient.thorax.chest_y - 110, -150), (90, patient.thorax.chest_y + 110, 150)
    shape = [int((b - a) / step_mm) for a, b in zip(low, high, strict=True)]
    p = grid_points(low, (step_mm,) * 3, shape).reshape(3, -1)
    return View(patient, p, patient.to_heart(p))


def test_few_lungs_are_diseased(many):
    for found in ([m.emphysema > 0 for m in many], [bool(m.scars) for m in many], [m.effusion_mm.any() for m in many]):
        assert 0.02 < np.mean(found) < 0.27
    one_sided = [(m.effusion_mm > 0).sum() == 1 for m in many if m.effusion_mm.any()]
    assert 0.2 < np.mean(one_sided) < 0.9


def test_lungs_never_look_like_calcium(patient):
    view = view_of(patient)
    inside = patient.thorax.lung(view) < 0
    lines = patient.lung_lines(view.thorax)
    for emphysema in (0.0, 1.0):
        patient.lungs.emphysema = emphysema
        hu = patient.lungs.hu(view, patient.tissue.lung, lines)[inside]
        assert float(hu.max()) < 130
        assert float(hu.min()) > -1010
    assert max(hu for *_, hu in patient.lungs.scars) < 100
    assert patient.lungs.effusion_hu < 40


def test_emphysema_thins_patches_of_the_lung(patient):
    view = view_of(patient)
    inside = patient.thorax.lung(view) < 0
    none = torch.ones(2, *view.thorax.shape[1:])  # no vessel
    patient.lungs.emphysema = 0.0
    healthy = patient.lungs.hu(view, -850.0, none)[inside]
    patient.lungs.emphysema = 0.9
    change = patient.lungs.hu(view, -850.0, none)[inside] - healthy
    assert 0.1 < float((change < -40).float().mean()) < 0.6
    assert float((change.abs() < 1).float().mean()) > 0.3


def test_scars_and_effusions_lie_inside_the_lungs(patient):
    view = view_of(patient, 3.0)
    lung = patient.thorax.lung(view)
    scars = torch.stack([patient.lungs.scar(view, k) for k in range(4)]).amin(0) < 0
    assert int(scars.sum()) > 5
    assert float(view.field("ring")[0][scars].max()) < -3
    assert float(view.field("mediastinum")[scars].min()) > 0.9
    fluid = patient.lungs.effusion(view) < 0
    assert float(lung[fluid].max()) < 0
    place = view.thorax[:, fluid]
    assert float(place[1].min()) > patient.thorax.chest_y  # at the back of someone lying on it
    assert float(place[2].max()) < patient.thorax.midline  # on the right side alone
    litres = float(fluid.sum()) * 27e-6
    assert 0.02 < litres < 0.5
    names = [part.name for part in patient.parts()]
    assert names.count("scar") == 4
    assert names.count("effusion") == 1
    assert names.index("lung") < names.index("scar") < names.index("sac")


def test_a_healthy_patient_has_no_such_parts():
    patient = Patient(901)
    assert not patient.lungs.scars
    assert not {"scar", "effusion"} & {part.name for part in patient.parts()}
