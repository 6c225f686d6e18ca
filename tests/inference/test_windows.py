"""Stitching against predictors whose answer is known everywhere."""

import numpy as np
import pytest
import torch

from cacsnet.grid import AIR_HU, resample
from cacsnet.inference.windows import Grid, Layout, resample_scan, sample_scan, stitch_dense, stitch_points, trilinear

PATCH = 16


def linear_predictor(step, patch=PATCH, calls=None):
    """Two channels: 1 everywhere, and 0.1 z - 0.2 y + 0.3 x + 4 at each voxel's position (mm)."""

    def predict(firsts):
        if calls is not None:
            calls.extend(firsts)
        out = []
        for z, y, x in firsts:
            axis = torch.arange(patch, dtype=torch.float64) * step
            value = 0.1 * (z + axis)[:, None, None] - 0.2 * (y + axis)[:, None] + 0.3 * (x + axis) + 4
            out.append(torch.stack([torch.ones_like(value), value]))
        return torch.stack(out).float()

    return predict


def linear(points):
    return points @ np.array([0.1, -0.2, 0.3]) + 4


@pytest.mark.parametrize("shape", [(5, 16, 40), (17, 33, 50), (1, 1, 1)])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
def test_dense_stitching_of_a_linear_function_is_exact(shape, overlap):
    grid = Grid((-3.0, 10.0, 2.5), 2.0, shape)
    out = stitch_dense(Layout.over(grid, PATCH, overlap), linear_predictor(2.0), batch=3)
    positions = np.stack(
        np.meshgrid(*(f + 2.0 * np.arange(n) for f, n in zip(grid.first_mm, shape, strict=True)), indexing="ij"), -1
    )
    assert out.shape == (2, *shape)
    np.testing.assert_allclose(out[0].numpy(), 1, atol=1e-6)
    np.testing.assert_allclose(out[1].numpy(), linear(positions), atol=1e-4)


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
def test_point_stitching_of_a_linear_function_is_exact(overlap):
    rng = np.random.default_rng(1)
    low, high = np.array([3.0, -20.0, 7.0]), np.array([51.0, 31.3, 20.0])
    points = np.concatenate([rng.uniform(low, high, (300, 3)), [low, high]])
    out = stitch_points(Layout.over_box(low, high, 1.3, PATCH, overlap), points, linear_predictor(1.3), channels=2)
    np.testing.assert_allclose(out.probabilities[:, 0], 1, atol=1e-6)
    np.testing.assert_allclose(out.probabilities[:, 1], linear(points), atol=1e-3)


def test_skipped_windows_change_nothing():
    rng = np.random.default_rng(2)
    volume = torch.from_numpy(rng.random((3, 80, 80, 80), dtype=np.float32))
    layout = Layout.over_box((0, 0, 0), (70, 70, 70), 1.0, PATCH, 0.25)

    def predict(firsts):
        return torch.stack(
            [volume[:, int(z) : int(z) + PATCH, int(y) : int(y) + PATCH, int(x) : int(x) + PATCH] for z, y, x in firsts]
        )

    few = rng.uniform(0, 14, (20, 3))
    everywhere = np.concatenate([few, rng.uniform(0, 70, (3000, 3))])
    alone, together = (stitch_points(layout, p, predict, channels=3) for p in (few, everywhere))
    assert alone.windows_skipped > 0
    assert together.windows_skipped == 0
    assert alone.windows_run + alone.windows_skipped == len(layout.starts)
    np.testing.assert_array_equal(alone.probabilities, together.probabilities[:20])


def test_no_points_runs_no_window():
    out = stitch_points(Layout.over_box((0, 0, 0), (9, 9, 9), 1.0, PATCH, 0.25), np.zeros((0, 3)), linear_predictor(1.0), 2)
    assert out.probabilities.shape == (0, 2)
    assert (out.windows_run, out.windows_skipped) == (0, 1)


def test_a_point_outside_every_window_is_an_error():
    with pytest.raises(ValueError, match="no window"):
        stitch_points(Layout.over_box((0, 0, 0), (9, 9, 9), 1.0, PATCH, 0.25), np.full((1, 3), 99.0), linear_predictor(1.0), 2)


def test_trilinear_at_voxels_between_them_and_beyond():
    volume = torch.arange(24, dtype=torch.float32).reshape(1, 2, 3, 4)
    index = torch.tensor([[1, 2, 3], [0.5, 1.0, 1.5], [-4, 0, 0]], dtype=torch.float64)
    np.testing.assert_allclose(trilinear(volume, index)[:, 0].numpy(), [23, 11.5, 0], atol=1e-5)


@pytest.mark.parametrize("first", [(-30.0, 5.0, 5.0), (4.0, 7.0, 3.0), (500.0, 0.0, 0.0)])
def test_sampling_a_part_equals_resampling_the_whole(first):
    hu = np.random.default_rng(3).integers(-900, 400, (20, 40, 44)).astype(np.int16)
    spacing = (2.5, 0.7, 0.8)
    whole = resample(torch.from_numpy(hu.astype(np.float32)), spacing, first, 1.5, (16, 16, 16))
    torch.testing.assert_close(sample_scan(hu, spacing, first, 1.5, (16, 16, 16)), whole, atol=2e-3, rtol=0)


def test_covering_grid_stays_inside_the_scan_and_outside_the_field_of_view_is_air():
    hu = np.full((7, 30, 31), -2048, dtype=np.int16)
    grid = Grid.covering(hu.shape, (2.5, 0.7, 0.8), 3.0)
    out = resample_scan(hu, (2.5, 0.7, 0.8), grid, slab=2)
    assert out.shape == grid.shape
    assert float(out.min()) >= -1024.01
    assert float(out.max()) < AIR_HU + 1
