"""Metal: where it lies, how it shines, and what it does to the score."""

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from cacsnet.errors import ConfigError
from cacsnet.phantom.anatomy import HEART_MODELS, Patient
from cacsnet.phantom.deposits import DEVICES, image_calcium, place
from cacsnet.phantom.devices import MAKERS, draw_devices, wire
from cacsnet.phantom.places import mitral_ring, part_sdf
from cacsnet.phantom.scan import make_scan
from cacsnet.scanner.protocol import Protocol


@pytest.fixture(scope="module", params=list(HEART_MODELS))
def subject(request):
    patient = Patient(7, heart_model=request.param)
    return patient, patient.heart.grow_tree(np.random.default_rng([7, 2]))


def made(kind, subject, seed=0):
    return MAKERS[kind](*subject, np.random.default_rng(seed))


def sdf(function, points):
    return function(torch.tensor(np.ascontiguousarray(points.T), dtype=torch.float32)).numpy()


def test_a_wire_is_as_thick_and_long_as_asked():
    line = np.stack([np.zeros(50), 20 * np.cos(np.linspace(0, 2, 50)), 20 * np.sin(np.linspace(0, 2, 50))], 1)
    body = wire("lead", line, 0.6, 8000.0)
    assert body.metal
    assert body.mass_mg == 0
    assert body.volumes.sum() == pytest.approx(np.pi * 0.36 * 40, rel=0.02)
    assert cKDTree(line).query(body.points)[0].max() < 0.8
    assert np.unique(np.diff(np.unique(body.piece))) == 1


def test_every_device_has_its_owner(subject):
    assert set(MAKERS) == set(DEVICES)
    for kind in MAKERS:
        bodies = made(kind, subject)
        assert bodies, kind
        assert {d.owner for d in bodies} == {DEVICES[kind]}
        assert all(d.metal and d.density.min() >= 3000 for d in bodies)


def test_a_stent_lines_an_artery(subject):
    _, arteries = subject
    for seed in range(4):
        points = np.concatenate([d.points for d in made("stent", subject, seed)])
        gaps = {a.name: cKDTree(a.line).query(points)[0] for a in arteries if a.vessel}
        nearest = min(gaps.values(), key=lambda gap: gap.max())
        assert nearest.max() < 3.5
        assert np.percentile(nearest, 10) > 0.4
        assert 9 < np.linalg.norm(np.ptp(points, axis=0)) < 34


def test_clips_lie_on_the_heart_and_wires_around_the_sternum(subject):
    patient, _ = subject
    clips = np.concatenate([d.centre[None] for d in made("clip", subject)])
    assert len(clips) >= 3
    assert np.abs(sdf(patient.heart.sac_sdf, clips)).max() < 14
    sternum = part_sdf(patient, "sternum_cortex")
    loops = made("wire", subject)
    assert len(loops) >= 3
    for loop in loops:
        distance = sternum(loop.points)
        assert np.percentile(np.abs(distance), 60) < 5
        assert distance.min() < 3


def test_a_lead_reaches_from_the_cava_to_the_right_ventricle(subject):
    patient, _ = subject
    heart = patient.heart
    for seed in range(3):
        points = made("lead", subject, seed)[0].points
        inside = sdf(heart.rv_sdf, points)
        assert inside.min() < -2
        assert points[:, 0].max() > heart.ra_centre[0] + 50
        assert sdf(heart.ra_sdf, points).min() < -5


def test_a_prosthesis_sits_in_a_valve(subject):
    patient, _ = subject
    heart = patient.heart
    places = set()
    for seed in range(8):
        ring = made("prosthesis", subject, seed)[0]
        valves = {"aortic": heart.root[0], "mitral": mitral_ring(patient).mean(0)}
        gaps = {name: np.linalg.norm(ring.centre - middle) for name, middle in valves.items()}
        nearest = min(gaps, key=lambda name: gaps[name])
        assert gaps[nearest] < 2.5
        places.add(nearest)
        across = np.ptp(ring.points, axis=0).max()
        assert 12 < across < 45
    assert places == {"aortic", "mitral"}


def test_the_expected_number_decides(subject):
    patient, arteries = subject
    none = draw_devices(patient, arteries, np.random.default_rng(0), dict.fromkeys(DEVICES, 0.0))
    assert none == []
    many = draw_devices(patient, arteries, np.random.default_rng(0), {"stent": 3.0, "lead": 0.0})
    assert {d.owner for d in many} == {DEVICES["stent"]}
    with pytest.raises(ConfigError, match=r"stent, clip.*'staple'"):
        draw_devices(patient, arteries, np.random.default_rng(0), {"staple": 1.0})


def test_thin_struts_shine_less_than_solid_metal(subject):
    patient, _ = subject
    peak = {}
    for kind in ("stent", "lead"):
        bodies = made(kind, subject)
        middle = place(patient, bodies)[0].points[0]
        scan = Protocol((2.5, 0.5, 0.5), (20, 90, 90), tuple((middle - (25.0, 22.0, 22.0)).tolist()), 2.5)
        peak[kind] = image_calcium(patient, bodies, scan).added_hu.max()
    assert 150 < peak["stent"] < 2500
    assert peak["lead"] > 1500


def test_metal_streaks_and_is_nobodys_calcium(painted):
    """Beside a lead the tissue gets darker and brighter; the reference knows the metal's owner, never a vessel."""
    lead = MAKERS["lead"](painted.patient, painted.arteries, np.random.default_rng(0))
    scan = Protocol((5.0, 1.0, 1.0), (20, 150, 150), (-60.0, -75.0, -75.0), 5.0, noise_hu=0.0)
    plain, with_it = (make_scan(painted.patient, painted.anatomy, d, scan, 1) for d in ([], lead))
    assert set(np.unique(with_it.owner)) == {0, DEVICES["lead"]}
    assert with_it.hu.max() > 1500
    change = (with_it.hu.astype(int) - plain.hu)[with_it.owner == 0]
    assert change.min() < -40
    assert change.max() > 20
