"""What a patient's age changes, and by how much."""

import numpy as np
import pytest

from cacsnet.phantom.age import OLDEST, YOUNGEST, aortic_width, calcified_cartilage_share, draw_age, trabecular_hu
from cacsnet.phantom.anatomy import HEART_MODELS, Patient


def test_bone_loses_mineral_as_published():
    """Jang et al. 2019: 226 HU under 30 years, 89 HU at 90 and over."""
    assert trabecular_hu(25) == 226
    assert trabecular_hu(95) == 89
    assert trabecular_hu(60) == pytest.approx(157, abs=2)
    assert (np.diff([trabecular_hu(age) for age in range(30, 91, 5)]) < 0).all()


def test_cartilage_calcifies_and_the_aorta_widens_with_age():
    assert calcified_cartilage_share(35) < 0.1 < 0.9 < calcified_cartilage_share(80)
    assert aortic_width(63) == 1
    assert 31 * (aortic_width(70) - aortic_width(60)) == pytest.approx(1.1, abs=0.2)  # mm a decade


def test_ages_are_those_of_the_paper_or_wider():
    rng = np.random.default_rng(0)
    usual, wide = ([draw_age(rng, kind) for _ in range(2000)] for kind in (False, True))
    assert np.mean(usual) == pytest.approx(63, abs=1)
    assert np.std(usual) == pytest.approx(9, abs=1)
    assert np.std(wide) > 12
    assert min(wide) >= YOUNGEST
    assert max(wide) <= OLDEST


@pytest.mark.parametrize("model", HEART_MODELS)
def test_a_patients_bone_cartilage_and_aorta_fit_the_age(model, monkeypatch):
    """The same seeds, young and old."""
    found = {}
    for age in (40.0, 82.0):
        monkeypatch.setattr("cacsnet.phantom.anatomy.draw_age", lambda *_, age=age: age)
        found[age] = [Patient(seed, heart_model=model) for seed in range(12)]
    young, old = found.values()
    assert all(a.tissue.trabecular > b.tissue.trabecular for a, b in zip(young, old, strict=True))
    for a, b in zip(young, old, strict=True):
        assert b.heart.root_radii / a.heart.root_radii == pytest.approx(aortic_width(82) / aortic_width(40))
    widths = [np.mean([p.descending_radius for p in patients]) for patients in (young, old)]
    assert widths[1] > 1.05 * widths[0]
    rims = [sum(p.thorax.rim > 0 for p in patients) for patients in (young, old)]
    assert rims[0] < 5 < 8 < rims[1]


def test_age_follows_from_the_seed_alone():
    assert Patient(3).age_years == Patient(3).age_years == Patient(3, heart_model="polar").age_years
    assert len({Patient(seed).age_years for seed in range(4)}) == 4
