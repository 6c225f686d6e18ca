"""Calcium with exact truth: what is imaged is what was put in."""

import numpy as np
import pytest
import torch

from cacsnet.labels import VESSEL_INDEX, VESSEL_NAMES
from cacsnet.phantom.anatomy import Patient
from cacsnet.phantom.calcium import (
    DISTRACTORS,
    CalciumImage,
    Deposit,
    draw_distractors,
    draw_plaques,
    image_calcium,
    reference_owner,
)
from cacsnet.scanner.imaging import Protocol


def protocol(**changes):
    values = {
        "spacing_mm": (3.0, 0.5, 0.5),
        "shape": (70, 420, 420),
        "origin_mm": (-105.0, -105.0, -105.0),
        "thickness_mm": 3.0,
    }
    return Protocol(**values | changes)


def true_mass_mg(patient, deposit):
    """Analytic mass in patient space: the heart's scale and the local stretch of the deformation."""
    centre = patient.heart_to_patient(deposit.centre[None])[0]
    steps = np.concatenate([centre + s * e for e in 0.5 * np.eye(3) for s in (1, -1)]).reshape(6, 3)
    mapped = patient.to_heart(patient.to_thorax(torch.tensor(steps.T, dtype=torch.float32))).numpy()
    jacobian = np.stack([mapped[:, 2 * k] - mapped[:, 2 * k + 1] for k in range(3)], 1)
    return deposit.mass_mg / abs(np.linalg.det(jacobian))


def deposit(owner=2, centre=(0.0, -50.0, 20.0), radii=(3.0, 2.0, 1.5), concentration=400.0, seed=0):
    axes = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]
    return Deposit(owner, np.array(centre), axes, np.array(radii), concentration)


def imaged_mass_mg(calcium, scan):
    return float(calcium.added_hu.sum()) * np.prod(scan.spacing_mm) / scan.hu_per_mg_cc / 1000


@pytest.mark.parametrize("seed", [900, 902, 904])
@pytest.mark.parametrize(("radii", "tolerance"), [((3.0, 2.0, 1.5), 0.05), ((1.2, 1.0, 0.8), 0.10)])
def test_imaged_mass_is_the_analytic_mass(seed, radii, tolerance):
    patient = Patient(seed, wide=True)
    rng = np.random.default_rng(seed)
    for scan in (protocol(), protocol(kvp=100, calcium_scale=0.9, fwhm_mm=0.9, thickness_mm=6.0)):
        for k in range(4):
            one = deposit(centre=rng.uniform(-50, 50, 3), radii=radii, seed=k)
            mass = imaged_mass_mg(image_calcium(patient, [one], scan), scan)
            assert mass == pytest.approx(true_mass_mg(patient, one), rel=tolerance)


def test_a_lighter_and_a_smaller_plaque_have_less_mass():
    assert deposit(concentration=200).mass_mg == pytest.approx(0.5 * deposit().mass_mg)
    assert deposit(radii=(1, 1, 1), concentration=1000).mass_mg == pytest.approx(4 / 3 * np.pi)


def test_calcium_lies_where_its_deposit_lies(painted):
    one, scan = deposit(), protocol()
    calcium = image_calcium(painted.patient, [one], scan)
    weights = calcium.added_hu[0]
    index = np.stack(np.unravel_index(calcium.index, scan.shape))
    centroid = (index * weights).sum(1) / weights.sum() * scan.spacing_mm + np.array(scan.origin_mm)
    expected = painted.patient.heart_to_patient(one.centre[None])[0]
    assert np.abs(centroid - expected).max() < 0.6
    assert np.abs(centroid - expected)[1:].max() < 0.1


def test_calcium_adds_up_and_keeps_its_owner(painted):
    first, second, scan = deposit(2), deposit(5, centre=(0.0, -49.0, 21.0)), protocol()
    both = image_calcium(painted.patient, [first, second, first], scan)
    assert both.owners == (2, 5)
    assert len(np.unique(both.index)) == len(both.index)
    for row, (one, times) in enumerate(((first, 2), (second, 1))):
        alone = image_calcium(painted.patient, [one], scan)
        assert both.added_hu[row].sum() == pytest.approx(times * alone.added_hu.sum(), rel=1e-4)


def test_calcium_outside_the_scan_is_not_there(painted):
    scan = protocol(shape=(10, 100, 100), origin_mm=(60.0, 60.0, 60.0))
    for deposits in ([], [deposit()]):
        calcium = image_calcium(painted.patient, deposits, scan)
        assert calcium.owners == ()
        assert not reference_owner(calcium, scan.shape).any()


def test_calcium_at_the_scans_edge_is_cut_off(painted):
    one = deposit()
    z, y, x = painted.patient.heart_to_patient(one.centre[None])[0]
    scan = protocol(shape=(20, 60, 60), origin_mm=(z, y - 15, x - 15), spacing_mm=(1.0, 0.5, 0.5), thickness_mm=1.0)
    share = imaged_mass_mg(image_calcium(painted.patient, [one], scan), scan) / true_mass_mg(painted.patient, one)
    assert 0.3 < share < 0.75


def test_the_strongest_owner_of_enough_calcium_is_the_reference():
    """Flat voxels 0 to 5 of a 1 x 2 x 3 scan; owners 1 (LM), 2 (LAD), 6 (aortic valve)."""
    added = np.array(
        [
            [19.99, 20.0, 30.0, 0.0, 15.0],
            [0.0, 0.0, 40.0, 50.0, 15.0],
            [0.0, 0.0, 0.0, 51.0, 15.0],
        ],
        np.float32,
    )
    calcium = CalciumImage(np.array([0, 1, 2, 4, 5]), added, (1, 2, 6))
    assert reference_owner(calcium, (1, 2, 3)).tolist() == [[[0, 1, 2], [0, 6, 0]]]


@pytest.fixture(scope="module")
def many(painted):
    rng = np.random.default_rng(17)
    heart = painted.patient.heart
    plaques = draw_plaques(heart, painted.arteries, rng, 900.0)
    return plaques, draw_distractors(heart, rng, dict.fromkeys(DISTRACTORS, 150.0))


def test_plaques_and_distractors_can_only_be_told_apart_by_place(many):
    for name, value in (
        ("size", lambda d: np.prod(d.radii) ** (1 / 3)),
        ("elongation", lambda d: d.radii[0] / d.radii[2]),
        ("concentration", lambda d: d.concentration),
    ):
        quantiles = [np.quantile([value(d) for d in deposits], [0.25, 0.5, 0.75]) for deposits in many]
        assert np.allclose(quantiles[0], quantiles[1], rtol=0.12), name


def test_each_kind_of_calcium_is_drawn(many):
    plaques, distractors = many
    assert {d.owner for d in plaques} == {VESSEL_INDEX[name] for name in VESSEL_NAMES}
    assert {d.owner for d in distractors} == set(DISTRACTORS.values())
    count = {name: sum(d.owner == VESSEL_INDEX[name] for d in plaques) for name in VESSEL_NAMES}
    assert count["LAD"] > count["RCA"] > count["LCX"] > count["LM"] > 0


def test_plaques_lie_in_the_wall_of_their_own_artery(painted, many):
    for one in many[0][::7]:
        gap = min(np.linalg.norm(a.line - one.centre, axis=1).min() for a in painted.arteries if a.vessel == one.owner)
        assert gap < 3.5


def test_no_burden_no_calcium(painted):
    rng = np.random.default_rng(0)
    assert draw_plaques(painted.patient.heart, painted.arteries, rng, 0.0) == []
    assert draw_distractors(painted.patient.heart, rng, dict.fromkeys(DISTRACTORS, 0.0)) == []
