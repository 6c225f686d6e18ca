"""Flags, noise and contrast."""

from dataclasses import replace

import numpy as np
import pytest
from simple_thorax import TISSUE_HU, with_acquisition

from cacsnet.errors import EnhancedBloodError
from cacsnet.inference import quality
from cacsnet.inference.localise import find_heart
from cacsnet.inference.pipeline import coarse_predictor
from cacsnet.inference.settings import HeartSettings, QualitySettings
from cacsnet.inference.windows import Grid, Layout, resample_scan, stitch_dense
from cacsnet.scan import Acquisition

SETTINGS = QualitySettings()
STANDARD = Acquisition(gated=True, slice_thickness_mm=2.5, kernel="Qr36d")
SPACING = (2.5, 0.5, 0.5)


@pytest.fixture
def located(thorax, model):
    """(coarse HU, heart) of the thorax."""
    grid = Grid.covering(thorax.hu.shape, thorax.spacing_mm, 3.0)
    hu = resample_scan(thorax.hu, thorax.spacing_mm, grid)
    structures = stitch_dense(Layout.over(grid, 32, 0.25), coarse_predictor(model.coarse, hu, grid, False))
    return hu.numpy(), find_heart(structures, hu, grid, thorax.hu, thorax.geometry, HeartSettings())


@pytest.mark.parametrize(
    ("acquisition", "spacing", "flags"),
    [
        (STANDARD, SPACING, []),
        (replace(STANDARD, contrast_agent="IV"), SPACING, ["contrast_tag"]),
        (replace(STANDARD, gated=False), SPACING, ["non_gated"]),
        (replace(STANDARD, gated=None), SPACING, ["gating_unknown"]),
        (replace(STANDARD, slice_thickness_mm=5.0), SPACING, ["thickness"]),
        (replace(STANDARD, slice_thickness_mm=None), SPACING, []),
        (STANDARD, (1.25, 0.5, 0.5), ["thickness"]),
        (STANDARD, (3.0, 1.2, 1.2), ["coarse_pixels"]),
        (replace(STANDARD, iterative_reconstruction=True), SPACING, ["iterative_reconstruction"]),
        (replace(STANDARD, multi_energy=True), SPACING, ["multi_energy"]),
        (replace(STANDARD, tin_filter=True), SPACING, ["tin_filter"]),
        (replace(STANDARD, virtual_image="VMI"), SPACING, ["virtual_image"]),
    ],
)
def test_acquisition_flags(acquisition, spacing, flags):
    assert quality.acquisition_flags(acquisition, spacing, SETTINGS) == flags


@pytest.mark.parametrize("kernel", ["B70f", "Br59d\\2", "Bl64", "LUNG", "BONEPLUS", "YC", "FC52", "FC30"])
def test_sharp_kernels(kernel):
    assert quality.acquisition_flags(replace(STANDARD, kernel=kernel), SPACING, SETTINGS) == ["sharp_kernel"]


@pytest.mark.parametrize("kernel", ["B35f", "Qr36d", "Sa36f", "STANDARD", "XCB", "B", "FC12", "I26f\\3", "", None])
def test_standard_kernels(kernel):
    assert quality.acquisition_flags(replace(STANDARD, kernel=kernel), SPACING, SETTINGS) == []


def test_noise_is_the_sd_in_the_left_ventricle(thorax, located):
    noise = np.random.default_rng(0).normal(0, 30, thorax.hu.shape)
    noisy = replace(thorax, hu=(thorax.hu + noise).astype(np.float32))
    measured = quality.image_noise_hu(noisy, located[1])
    assert measured == pytest.approx(30, rel=0.07)
    assert "noise_high" in quality.image_flags(noisy, located[1], measured, SETTINGS)
    assert quality.image_flags(thorax, located[1], 24.9, SETTINGS) == []


def test_metal_only_where_the_heart_is(thorax, located):
    thorax.hu[20:23, 30:33, 30:33] = 3000  # in the chest wall
    assert quality.image_flags(thorax, located[1], None, SETTINGS) == []
    thorax.hu[20, 110, 120] = 3000  # 2.5 mm³: too small
    assert quality.image_flags(thorax, located[1], None, SETTINGS) == []
    thorax.hu[20:23, 110:112, 120:122] = 3000
    assert quality.image_flags(thorax, located[1], None, SETTINGS) == ["metal_suspected"]


def test_implausible_ventricles(thorax, located):
    settings = replace(SETTINGS, ventricles_ml=(400.0, 900.0))
    assert quality.image_flags(thorax, located[1], None, settings) == ["ventricle_implausible"]


@pytest.mark.parametrize("bright", [tuple(TISSUE_HU), ("right_ventricle", "right_atrium")])
def test_enhanced_blood_is_refused_also_if_only_the_right_heart_is_bright(located, bright):
    hu, heart = located
    assert quality.blood_pool_hu(hu, heart) < 90
    quality.refuse_enhanced(99.9, SETTINGS)
    enhanced = hu.copy()
    for name in bright:
        enhanced[np.abs(hu - TISSUE_HU[name]) < 7] += 200
    with pytest.raises(EnhancedBloodError):
        quality.refuse_enhanced(quality.blood_pool_hu(enhanced, heart), SETTINGS)


def test_a_vertebra_is_not_enhanced_blood(located):
    hu, heart = located
    bone = hu.copy()
    bone[:, 39:49, 29:39] = 600  # cortex
    bone[:, 40:48, 30:38] = 200  # spongiosa, more than 60 mL
    quality.refuse_enhanced_without_heart(bone, heart.grid, SETTINGS)


def test_contrast_tag_alone_is_a_flag(thorax, model):
    from cacsnet.inference.pipeline import score_scan

    result = score_scan(with_acquisition(thorax, contrast_agent="IV"), model)
    assert result.flags == ("contrast_tag",)
