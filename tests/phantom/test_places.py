"""Calcium that is not coronary lies where its name says, in both heart models, and looks like plaques."""

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree
from scipy.stats import ks_2samp

from cacsnet.phantom.anatomy import HEART_MODELS, Patient
from cacsnet.phantom.calcium import artery_beds, draw_size, fill, linear_part
from cacsnet.phantom.deposits import DISTRACTORS, image_calcium, place
from cacsnet.phantom.places import (
    PLACES,
    _on_part,
    beds_of,
    draw_distractors,
    mitral_ring,
    nearest_sdf,
    on_sac,
    part_sdf,
    surface_point,
)
from cacsnet.phantom.population import draw_site_target, draw_targets, load_population
from cacsnet.scanner.protocol import Protocol

SEEDS = (0, 3, 5)


@pytest.fixture(scope="module", params=list(HEART_MODELS))
def patients(request):
    return [Patient(seed, heart_model=request.param) for seed in SEEDS]


def sdf(function, points):
    return function(torch.tensor(np.ascontiguousarray(points.T), dtype=torch.float32)).numpy()


def lines_of(kind, patients, draws=4):
    for patient in patients:
        rng = np.random.default_rng(patient.seed)
        for _ in range(draws):
            for line in PLACES[kind](patient, rng):
                yield patient, line


def test_mitral_calcium_lies_where_left_atrium_and_ventricle_meet(patients):
    """Near both cavities; away from the aortic valve's side; never in the right ventricle."""
    found = 0
    for patient, line in lines_of("mitral_annulus", patients):
        heart = patient.heart
        height = (line - heart.base) @ heart.axes[0]
        assert np.abs(height).max() < 3.5  # the plane of the base
        ventricle = sdf(heart.lv_inner_sdf, line + (3 - height)[:, None] * heart.axes[0])
        assert ventricle.max() < 5.0
        assert ventricle.min() > -20.0
        assert np.median(sdf(heart.la_sdf, line - 4 * heart.axes[0])) < 9.0
        found += 1
    assert found >= 3 * 4


def test_mitral_calcium_prefers_the_posterior_half(patients):
    behind = []
    for patient, line in lines_of("mitral_annulus", patients, 12):
        ring, heart = mitral_ring(patient), patient.heart
        centre = ring.mean(0)
        away = centre - heart.root[0]
        away -= heart.axes[0] * (away @ heart.axes[0])
        behind += list((line - centre) @ away / (np.linalg.norm(line - centre, axis=1) * np.linalg.norm(away)))
        # an arc, not the whole ring
        assert np.ptp(behind[-len(line) :]) < 2.0
    assert np.mean(np.array(behind) > 0) > 0.75


def test_the_mitral_ring_is_as_large_as_a_mitral_valve(patients):
    """10 to 50 mm across, closed, and it leaves the aortic root out."""
    for patient in patients:
        ring = mitral_ring(patient)
        across = np.linalg.norm(ring - np.roll(ring, len(ring) // 2, axis=0), axis=1)
        assert across.min() > 10
        assert across.max() < 52
        assert np.linalg.norm(ring - np.roll(ring, 1, axis=0), axis=1).max() < 12
        assert sdf(patient.heart.root_sdf, ring).min() > -6


def test_valve_calcium_lies_inside_the_root_at_the_valve(patients):
    for patient, line in lines_of("aortic_valve", patients):
        heart = patient.heart
        up = (heart.root[1] - heart.root[0]) / np.linalg.norm(heart.root[1] - heart.root[0])
        assert sdf(heart.root_sdf, line).max() < 0.5
        height = (line - heart.root[0]) @ up
        assert height.min() > -1
        assert height.max() < 16


def test_wall_and_ostium_lie_in_the_aortic_wall(patients):
    for patient, line in lines_of("ostium", patients):
        assert np.abs(sdf(patient.heart.root_sdf, line)).max() < 1.5
        ostia = np.array(patient.heart.ostia)
        assert np.linalg.norm(line[:, None] - ostia, axis=2).min(1).max() < 9
    on_root, all_lines = 0, 0
    for patient, line in lines_of("aorta", patients):
        off = np.abs(sdf(patient.heart.root_sdf, line))
        others = [part_sdf(patient, name) for name in ("arch", "descending_aorta")]
        off = np.minimum(off, np.min([np.abs(other(line)) for other in others if other], axis=0))
        on_root += np.median(off) < 1.0
        all_lines += 1
    assert on_root > 0.9 * all_lines


def test_pericardial_calcium_lies_on_the_sac(patients):
    for patient, line in lines_of("pericardium", patients):
        assert np.percentile(np.abs(part_sdf(patient, "sac")(line)), 90) < 1.5


def test_pericardial_calcium_does_not_lie_in_the_chest_wall():
    """Of a heart that would reach some mm into the wall the sac is painted flat: calcium follows that."""
    patient = Patient(3)
    patient.thorax.chest_y += 12.0
    inside = part_sdf(patient, "mediastinum")
    front = on_sac(patient, np.random.default_rng(1).normal((0, -3, 0), 1, (80, 3)))
    assert (sdf(patient.heart.sac_sdf, front) < -3).mean() > 0.2
    assert inside(front).max() < 1.0
    found = [inside(line).max() for _, line in lines_of("pericardium", [patient], 12)]
    assert max(found) < 0.5
    assert sum(value > -1.0 for value in found) >= 3  # some lie at the wall


def test_the_sac_is_found_in_any_direction(patients):
    rays = np.random.default_rng(0).normal(size=(60, 3))
    for patient in patients:
        points = on_sac(patient, rays)
        assert np.percentile(np.abs(part_sdf(patient, "sac")(points)), 80) < 4
        along = np.cross(points, rays)
        assert np.abs(along).max() < 1e-6 * np.abs(points).max() ** 2 + 1e-6


def test_papillary_calcium_lies_in_the_muscles(patients):
    for patient, line in lines_of("papillary_muscle", patients):
        assert sdf(patient.heart.papillary_sdf, line).max() < 0.5
        assert sdf(patient.heart.lv_inner_sdf, line).max() < 2.0


def test_nodes_lie_outside_the_sac_and_parts_on_their_surface(patients):
    outside = [np.median(sdf(p.heart.sac_sdf, line)) for p, line in lines_of("node", patients)]
    assert np.mean(np.array(outside) > 0) > 0.8
    near = []
    for kind, names in (("cartilage", ("cartilage",)), ("bone", ("sternum_cortex", "rib_cortex"))):
        for patient, line in lines_of(kind, patients, 3):
            near.append(min(np.median(np.abs(part_sdf(patient, name)(line))) for name in names))
    assert len(near) > 10
    assert np.mean(np.array(near) < 2.5) > 0.85


CHAMBERS = ("la_sdf", "ra_sdf", "rv_sdf", "lv_outer_sdf", "root_sdf", "trunk_sdf")


@pytest.mark.parametrize("model", list(HEART_MODELS))
def test_bronchial_calcium_lies_in_no_chamber_or_great_vessel(model):
    found = 0
    for seed in range(900, 908):
        patient = Patient(seed, heart_model=model)
        for _, line in lines_of("bronchus", [patient], 6):
            assert min(sdf(getattr(patient.heart, name), line).min() for name in CHAMBERS) > 0
            found += 1
    assert found >= 40


def test_calcium_lies_where_nothing_is_painted_over_its_part(patients):
    """The right pulmonary artery is partly covered by the aorta, the sac and the airways."""
    covered, found = 0, 0
    for patient in patients:
        parts = patient.parts()
        rng = np.random.default_rng(patient.seed)
        for name in ("pulmonary_right", "descending_aorta", "trachea"):
            first = next(k for k, part in enumerate(parts) if part.name == name)
            over = nearest_sdf(patient, parts[first + 1 :])
            own = part_sdf(patient, name)
            anywhere = rng.uniform((-60, -40, -60), (100, 80, 60), (4000, 3))
            covered += (over(anywhere[own(anywhere) < 0]) < 0).sum()
            for line in _on_part((name,))(patient, rng) + _on_part((name,))(patient, rng):
                assert over(line).min() > 0.5, name
                found += 1
    assert found >= 12
    assert covered > 50


def test_what_a_patient_has_not_gets_no_calcium(patients):
    assert part_sdf(patients[0], "third_lung") is None
    assert surface_point(patients[0], "third_lung", np.random.default_rng(0), np.zeros(3), 0.3) is None


def test_every_kind_is_drawn_as_often_as_asked(patients):
    patient = patients[0]
    for kind, code in DISTRACTORS.items():
        found = draw_distractors(patient, np.random.default_rng(1), {kind: 4.0})
        assert found
        assert {d.owner for d in found} == {code}
        assert {d.site for d in found} == {kind}
    assert draw_distractors(patient, np.random.default_rng(1), dict.fromkeys(DISTRACTORS, 0.0)) == []


def test_distractors_and_plaques_share_size_density_and_shape(patients):
    """What the whole way draws (targets, shapes, filling) for places and for vessels: the same distributions."""
    people = load_population("balanced")
    samples = {"plaque": [], "other": []}
    trees = {}
    rng = np.random.default_rng(2)
    for number in range(60):
        patient = patients[number % len(patients)]
        if patient.seed not in trees:
            trees[patient.seed] = patient.heart.grow_tree(np.random.default_rng([patient.seed, 2])), linear_part(patient)
        arteries, linear = trees[patient.seed]
        for vessel, target in draw_targets(people, rng).items():
            if 0 < target < 60:
                samples["plaque"] += fill(artery_beds(arteries, vessel), rng, target, linear)
        kind = list(DISTRACTORS)[number % len(DISTRACTORS)]
        target = draw_site_target(people, rng)
        if target < 60:
            samples["other"] += fill(beds_of(kind, patient, rng), rng, target, linear)
    assert min(len(s) for s in samples.values()) > 30
    for name in ("length_mm", "width_mm", "thickness_mm", "concentration", "mass_mg"):
        values = [[getattr(d, name) for d in found] for found in samples.values()]
        assert ks_2samp(*values).pvalue > 0.003, name
    shapes = [
        {s: np.mean([d.shape == s for d in found]) for s in ("speck", "nodule", "arc", "shell")} for found in samples.values()
    ]
    assert all(abs(shapes[0][s] - shapes[1][s]) < 0.17 for s in shapes[0])


def test_imaged_peaks_are_alike_inside_and_outside_the_vessels(patients):
    """The HU that the scanner adds at the brightest voxel, noise-free."""
    patient = patients[1]
    arteries = patient.heart.grow_tree(np.random.default_rng([patient.seed, 2]))
    linear = linear_part(patient)
    peaks = {}
    for name, beds in (
        ("plaque", lambda rng: artery_beds(arteries, ("LAD", "LCX", "RCA")[int(rng.integers(3))])),
        ("other", lambda rng: beds_of(("aortic_valve", "pericardium", "mitral_annulus")[int(rng.integers(3))], patient, rng)),
    ):
        peaks[name] = []
        for seed in range(10):
            rng = np.random.default_rng(seed)
            for body in fill(beds(rng), rng, 25.0, linear)[:2]:
                middle = place(patient, [body])[0].points.mean(0)
                scan = Protocol((3.0, 0.6, 0.6), (14, 70, 70), tuple((middle - (20.0, 21.0, 21.0)).tolist()), 3.0)
                peaks[name].append(image_calcium(patient, [body], scan).added_hu.max())
    assert ks_2samp(*peaks.values()).pvalue > 0.01
    assert min(len(p) for p in peaks.values()) >= 10


def test_bodies_lie_along_their_lines(patients):
    rng = np.random.default_rng(3)
    for kind in ("mitral_annulus", "pericardium", "aorta"):
        beds = beds_of(kind, patients[0], rng)
        for body in fill(beds, rng, 40.0, np.eye(3)):
            gap = min(cKDTree(bed.line).query(body.centre)[0] for bed in beds)
            assert gap < 3.5
    assert draw_size(rng, 10.0).length_mm > 0


def test_lymph_nodes_lie_inside_the_chest():
    for seed in range(900, 906):
        patient, rng = Patient(seed), np.random.default_rng(seed)
        for _ in range(6):
            for line in PLACES["node"](patient, rng):
                middle = patient.to_thorax(
                    torch.tensor(patient.heart_to_patient(line[[len(line) // 2]]).T, dtype=torch.float32)
                )
                assert float(patient.thorax.ring(middle)[0]) < 0
