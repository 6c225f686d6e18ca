"""Which component is the heart, and is all of it there."""

from dataclasses import replace

import cc3d
import numpy as np
import pytest
import torch
from scipy import ndimage
from simple_thorax import SHAPE, SPACING, paint_spheres

from cacsnet.errors import NoHeartError
from cacsnet.inference.localise import between_lungs, find_heart
from cacsnet.inference.settings import HeartSettings
from cacsnet.inference.windows import Grid, resample_scan
from cacsnet.labels import STRUCTURE_INDEX
from cacsnet.scan import OUTSIDE_FOV_HU, Geometry

GEOMETRY = Geometry.axial(SHAPE, SPACING)
GRID = Grid.covering(SHAPE, SPACING, 3.0)


@pytest.fixture(scope="module")
def coarse_hu(thorax_hu):
    return resample_scan(thorax_hu, SPACING, GRID)


@pytest.fixture
def labels():
    axes = [f + GRID.step_mm * np.arange(n) for f, n in zip(GRID.first_mm, GRID.shape, strict=True)]
    out = np.zeros(GRID.shape, dtype=np.uint8)
    paint_spheres(out, np.meshgrid(*axes, indexing="ij"), STRUCTURE_INDEX)
    return out


def probabilities(labels):
    return torch.nn.functional.one_hot(torch.from_numpy(labels.astype(np.int64)), 8).movedim(-1, 0).float()


def find(labels, coarse_hu, hu, settings=None, geometry=GEOMETRY, grid=GRID):
    return find_heart(probabilities(labels), coarse_hu, grid, hu, geometry, settings or HeartSettings())


def test_volumes_box_and_distances(labels, coarse_hu, thorax_hu):
    heart = find(labels, coarse_hu, thorax_hu)
    assert heart.volumes_ml["left_ventricle"] == pytest.approx(4 / 3 * np.pi * 28**3 / 1000, rel=0.03)
    assert heart.plausibility > 0.9
    assert heart.flags == ()
    low, high = heart.box_mm()
    np.testing.assert_allclose(low, [6, 59, 41], atol=3.1)
    np.testing.assert_allclose(high, [105, 149, 156], atol=3.1)
    # 20 mm to the left of the myocardium, on its axis
    point = np.array([[42.0, 110.0, 176.0]])
    assert heart.sample(heart.distance_mm, point)[0] == pytest.approx(20, abs=2)
    assert heart.sample(heart.ventricle_distance_mm, np.array([[42.0, 110.0, 120.0]]))[0] == 0


def test_a_larger_organ_loses(labels, coarse_hu, thorax_hu):
    wrong = np.zeros_like(labels)
    wrong[:, 46:, 5:60] = STRUCTURE_INDEX["left_ventricle"]  # one huge "ventricle" in the back
    wrong[:, 52:, 5:60] = STRUCTURE_INDEX["right_ventricle"]
    wrong[labels > 0] = 0
    gap = np.zeros_like(labels, dtype=bool)
    gap[:, 51:53] = True
    wrong[gap & (wrong == 1)] = 0
    both = np.where(labels > 0, labels, wrong)
    both[:, 50:54][labels[:, 50:54] == 0] = 0
    both[:, :54][labels[:, :54] == 0] = 0
    assert (both[:, 54:] > 0).sum() > 0.5 * (labels > 0).sum()
    heart = find(both, coarse_hu, thorax_hu)
    np.testing.assert_array_equal(heart.structures, labels)


def parted(labels, voxels):
    """The right atrium parted from the rest of the heart by a gap of some voxels."""
    atrium = labels == STRUCTURE_INDEX["right_atrium"]
    near = ndimage.binary_dilation((labels > 0) & ~atrium, iterations=voxels)
    return np.where(atrium & near, 0, labels)


@pytest.mark.parametrize("voxels", [1, 2])
def test_a_groove_of_fat_parts_no_atrium_from_the_heart(labels, coarse_hu, thorax_hu, voxels):
    apart = parted(labels, voxels)
    assert cc3d.connected_components(apart > 0, connectivity=6).max() == 2
    np.testing.assert_array_equal(find(apart, coarse_hu, thorax_hu).structures, apart)


def test_what_is_further_away_is_another_organ(labels, coarse_hu, thorax_hu):
    heart = find(parted(labels, 3), coarse_hu, thorax_hu)
    assert heart.volumes_ml["right_atrium"] == 0
    without = find(parted(labels, 1), coarse_hu, thorax_hu, HeartSettings(bridge_mm=0.0))
    assert without.volumes_ml["right_atrium"] == 0


def test_small_parts_are_none_of_the_heart(labels, coarse_hu, thorax_hu):
    places = np.argwhere(labels > 0)
    z, y, x = places[places[:, 2].argmax()]
    speck = labels.copy()
    speck[z - 1 : z + 2, y - 2 : y + 2, x + 2 : x + 6] = STRUCTURE_INDEX["left_atrium"]  # 48 voxels, 1.3 mL, 3 mm aside
    assert cc3d.connected_components(speck > 0, connectivity=6).max() == 2
    np.testing.assert_array_equal(find(speck, coarse_hu, thorax_hu).structures, labels)
    kept = find(speck, coarse_hu, thorax_hu, HeartSettings(min_part_ml=1.0))
    np.testing.assert_array_equal(kept.structures, speck)


def test_one_chamber_alone_is_no_heart(labels, coarse_hu, thorax_hu):
    with pytest.raises(NoHeartError):
        find(np.where(labels == STRUCTURE_INDEX["left_atrium"], labels, 0), coarse_hu, thorax_hu)


def test_nothing_is_no_heart(labels, coarse_hu, thorax_hu):
    with pytest.raises(NoHeartError):
        find(np.zeros_like(labels), coarse_hu, thorax_hu)


def test_atria_without_ventricles_are_not_covered(labels, coarse_hu, thorax_hu):
    labels[np.isin(labels, [1, 2, 5])] = STRUCTURE_INDEX["left_atrium"]
    with pytest.raises(NoHeartError, match="not covered"):
        find(labels, coarse_hu, thorax_hu, HeartSettings(min_plausibility=0.1))


@pytest.mark.parametrize(
    ("first", "last", "flags"), [(0, 44, ()), (10, 44, ("heart_cut_off_z",)), (0, 25, ("heart_cut_off_z",))]
)
def test_cut_off_in_z(labels, thorax_hu, first, last, flags):
    hu = thorax_hu[first:last]
    geometry = Geometry.axial(hu.shape, SPACING)
    grid = Grid.covering(hu.shape, SPACING, 3.0)
    shift = round((first * SPACING[0] + grid.first_mm[0] - GRID.first_mm[0]) / 3.0)
    part = labels[shift : shift + grid.shape[0]]
    assert find(part, resample_scan(hu, SPACING, grid), hu, HeartSettings(), geometry, grid).flags == flags


def test_cut_off_by_the_field_of_view(labels, coarse_hu, thorax_hu):
    hu = thorax_hu.copy()
    hu[:, :, 140:] = OUTSIDE_FOV_HU
    assert find(labels, coarse_hu, hu).flags == ("heart_cut_off_fov",)


def test_cut_off_by_the_border_of_the_image(labels, coarse_hu, thorax_hu):
    # the same structures on a grid that ends within the heart
    shape = (SHAPE[0], SHAPE[1], 140)
    grid = replace(GRID, shape=(*GRID.shape[:2], 47))
    heart = find(
        labels[..., :47],
        coarse_hu[..., :47],
        thorax_hu[..., :140],
        HeartSettings(min_plausibility=0.3),
        Geometry.axial(shape, SPACING),
        grid,
    )
    assert heart.flags == ("heart_cut_off_fov",)


def test_between_lungs(coarse_hu):
    inside = between_lungs(coarse_hu.numpy(), 3.0, 150.0)
    z, y = 15, round((100 - GRID.first_mm[1]) / 3)
    assert inside[z, y, 33]
    assert not inside[z, round((175 - GRID.first_mm[1]) / 3), 33]


def test_native_maps_follow_the_coarse_ones(labels, coarse_hu, thorax_hu):
    heart = find(labels, coarse_hu, thorax_hu)
    box = (slice(10, 20), slice(60, 150), slice(100, 170))
    native = heart.structures_on_native(SPACING, box)
    truth = np.zeros(SHAPE, dtype=np.uint8)
    paint_spheres(
        truth,
        np.meshgrid(*(np.arange(n) * s for n, s in zip(SHAPE, SPACING, strict=True)), indexing="ij"),
        STRUCTURE_INDEX,
    )
    assert (native == truth[box]).mean() > 0.93
    assert heart.structures_on_native(SPACING, tuple(slice(0, n) for n in SHAPE)).shape == SHAPE
