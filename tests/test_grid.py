"""One resampling function: exact where it interpolates, mean-preserving where it averages, the same from any crop."""

import numpy as np
import pytest
import torch

from cacsnet.grid import AIR_HU, axis_weights, resample

SPACING = (3.0, 0.7, 0.9)


def ramp(shape, spacing):
    z, y, x = np.meshgrid(*(np.arange(n) * s for n, s in zip(shape, spacing, strict=True)), indexing="ij")
    return torch.from_numpy(2.0 * z - 1.5 * y + 0.5 * x + 7).float()


def naive(hu, spacing, first, step, shape, fill):
    """Tent of the coarser step along each axis, voxel by voxel."""
    out = np.full(shape, float(fill))
    for index in np.ndindex(*shape):
        weights = []
        for axis in range(3):
            at = first[axis] + step * index[axis]
            if not -0.5 * spacing[axis] <= at <= (hu.shape[axis] - 0.5) * spacing[axis]:
                break
            width = max(spacing[axis], step)
            tent = np.array([max(0.0, 1 - abs(k * spacing[axis] - at) / width) for k in range(hu.shape[axis])])
            weights.append(tent / tent.sum())
        else:
            out[index] = np.einsum("zyx,z,y,x->", hu, *weights)
    return out


def test_a_linear_field_is_exact_when_interpolated():
    shape, step = (9, 20, 18), 0.6
    window = resample(ramp(shape, SPACING), SPACING, (3.1, 2.2, 1.7), step, (20, 12, 14))
    z, y, x = np.meshgrid(*(f + step * np.arange(n) for f, n in zip((3.1, 2.2, 1.7), (20, 12, 14), strict=True)), indexing="ij")
    expected = 2.0 * z - 1.5 * y + 0.5 * x + 7
    assert np.abs(window.numpy() - expected).max() < 1e-3


@pytest.mark.parametrize("step", [0.5, 1.0, 3.0, 4.3])
def test_a_constant_stays_constant(step):
    size = tuple(int((n - 1) * s / step) + 1 for n, s in zip((12, 40, 40), SPACING, strict=True))
    window = resample(torch.full((12, 40, 40), 37.0), SPACING, (0.0, 0.0, 0.0), step, size)
    assert torch.allclose(window, torch.full(size, 37.0), atol=1e-3)


def test_averaging_keeps_the_integral():
    generator = torch.Generator().manual_seed(3)
    hu = torch.zeros(24, 60, 60)
    hu[10:13, 25:34, 22:35] = 300 * torch.rand((3, 9, 13), generator=generator)
    spacing, step = (1.0, 0.5, 0.5), 3.0
    window = resample(hu, spacing, (0.5, 0.3, 0.8), step, (8, 10, 10), fill=0.0)
    assert float(window.sum()) * step**3 == pytest.approx(float(hu.sum()) * 0.25, rel=1e-4)


def test_outside_the_scan_is_fill():
    hu = torch.full((4, 10, 10), 50.0)
    window = resample(hu, (2.0, 1.0, 1.0), (-6.0, -3.0, -3.0), 1.0, (20, 16, 16), fill=-777.0)
    inside = torch.zeros(20, 16, 16, dtype=torch.bool)
    inside[5:14, 3:13, 3:13] = True  # from half a voxel before the first centre to half a voxel behind the last one
    assert (window[~inside] == -777.0).all()
    assert torch.allclose(window[inside], torch.tensor(50.0))


def test_far_away_is_all_fill_and_air_by_default():
    assert (resample(torch.zeros(3, 3, 3), (1.0, 1.0, 1.0), (50.0, 0.0, 0.0), 1.0, (4, 4, 4)) == AIR_HU).all()


@pytest.mark.parametrize("step", [0.6, 2.0, 3.0])
def test_a_crop_gives_the_same_window_as_the_whole_scan(step):
    hu = torch.randn((20, 50, 50), generator=torch.Generator().manual_seed(1)) * 100
    first = np.array([20.0, 12.0, 15.0])
    whole = resample(hu, SPACING, first.tolist(), step, (5, 5, 5))
    cut = (3, 5, 6)
    crop = hu[cut[0] :, cut[1] : 45, cut[2] : 46]
    part = resample(crop, SPACING, (first - np.array(cut) * SPACING).tolist(), step, (5, 5, 5))
    assert torch.allclose(whole, part, atol=1e-3)


@pytest.mark.parametrize(("step", "first"), [(0.8, (-2.0, -1.0, 0.3)), (2.5, (-2.0, 1.0, 0.3)), (4.0, (1.0, -3.0, 2.0))])
def test_same_as_the_naive_implementation(step, first):
    hu = torch.randn((5, 9, 8), generator=torch.Generator().manual_seed(2)) * 100
    got = resample(hu, SPACING, first, step, (6, 5, 7))
    assert np.abs(got.numpy() - naive(hu.numpy(), SPACING, first, step, (6, 5, 7), AIR_HU)).max() < 1e-2


def test_channels_are_resampled_alike():
    hu = torch.randn((2, 5, 9, 8), generator=torch.Generator().manual_seed(4))
    both = resample(hu, SPACING, (1.0, 0.5, 0.5), 1.0, (4, 4, 4))
    for channel in range(2):
        assert torch.allclose(both[channel], resample(hu[channel], SPACING, (1.0, 0.5, 0.5), 1.0, (4, 4, 4)), atol=1e-6)


def test_rows_of_weights_sum_to_one_inside_and_to_zero_outside():
    sums = axis_weights(10, 2.0, -5.0, 0.5, 60).sum(1)
    position = -5.0 + 0.5 * np.arange(60)
    inside = (position >= -1.0) & (position <= 19.0)
    assert np.allclose(sums.numpy(), inside.astype(float), atol=1e-6)
