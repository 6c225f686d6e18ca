"""Signed distances and random fields."""

import numpy as np
import pytest
import torch

from cacsnet.phantom.fields import Lattice, capsule_chain, ellipsoid, plane, smooth_max, smooth_min
from cacsnet.phantom.render import grid_points


def points(rows):
    return torch.tensor(rows, dtype=torch.float32).T


def directions(n=200, seed=0):
    v = np.random.default_rng(seed).normal(size=(n, 3))
    return v / np.linalg.norm(v, axis=1, keepdims=True)


def test_a_sphere_has_the_exact_distance():
    reach = np.linspace(0.5, 30, 200)
    p = points(np.array([3.0, -2.0, 5.0]) + directions() * reach[:, None])
    assert torch.allclose(ellipsoid(p, (3, -2, 5), None, (7, 7, 7)), torch.tensor(reach - 7).float(), atol=1e-3)


def test_an_ellipsoid_is_zero_on_its_surface_and_changes_sign_there():
    axes = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    radii, centre = np.array([12.0, 5.0, 3.0]), np.array([1.0, 2.0, 3.0])
    surface = directions() * radii  # in the ellipsoid's own axes

    def at(factor):
        return ellipsoid(points(centre + (surface * factor) @ axes), centre, axes, radii)

    assert at(1.0).abs().max() < 1e-3
    assert (at(0.9) < 0).all()
    assert (at(1.1) > 0).all()


def test_an_ellipsoid_has_unit_slope_at_its_surface():
    radii = (12.0, 5.0, 3.0)
    p = points(directions() * radii).requires_grad_()
    ellipsoid(p, (0, 0, 0), None, radii).sum().backward()
    assert torch.allclose(p.grad.norm(dim=0), torch.ones(200), atol=1e-3)


def test_a_tube_has_the_exact_distance_and_tapers():
    line = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 10.0], [0.0, 20.0, 10.0]])
    radii = torch.tensor([1.0, 3.0, 2.0])
    p = points([[5.0, 0.0, 5.0], [0.0, 0.0, 5.0], [-4.0, 0.0, 0.0], [0.0, 26.0, 10.0], [0.0, 10.0, 10.0]])
    assert capsule_chain(p, line, radii).tolist() == pytest.approx([3.0, -2.0, 3.0, 4.0, -2.5], abs=1e-4)


def test_a_half_space():
    assert plane(points([[1.0, 0.0, 0.0], [4.0, 9.0, 9.0]]), (3, 0, 0), (1, 0, 0)).tolist() == [-2.0, 1.0]


def test_smooth_union_and_intersection_are_plain_ones_where_shapes_are_apart():
    a, b = torch.tensor([-5.0, 2.0, 1.0]), torch.tensor([3.0, 9.0, 1.0])
    assert smooth_min(a, b, 4.0).tolist() == [-5.0, 2.0, 0.0]  # a fillet of k / 4 where they meet
    assert smooth_max(a, b, 4.0).tolist() == [3.0, 9.0, 2.0]


def lattice(seed=0, cell=20.0, channels=2):
    return Lattice(np.random.default_rng(seed), cell, channels)


def somewhere(n=4000, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).uniform(-400, 400, (3, n))).float()


def test_a_lattice_is_deterministic_and_seeds_differ():
    p = somewhere()
    assert torch.equal(lattice(3)(p), lattice(3)(p))
    assert (lattice(3)(p) - lattice(4)(p)).abs().mean() > 0.5


def test_a_lattice_is_periodic():
    p, period = somewhere(), 12 * 20.0
    for axis in range(3):
        shift = torch.zeros(3, 1)
        shift[axis] = period
        assert (lattice()(p + shift) - lattice()(p)).abs().max() < 1e-3


def test_a_lattice_has_zero_mean_and_unit_sd():
    values = lattice()(somewhere(100_000))
    assert values.shape == (2, 100_000)
    assert values.mean(1).abs().max() < 0.15
    assert ((values.std(1) - 1).abs() < 0.08).all()
    assert abs(float(torch.corrcoef(values)[0, 1])) < 0.15  # independent components


def test_a_lattice_is_smooth_over_its_cell():
    p = somewhere()
    step = torch.tensor([[1.0], [0.0], [0.0]])
    near = (lattice()(p + step) - lattice()(p)).abs()
    assert near.max() < 0.35  # 1 mm of a 20 mm cell
    far = lattice()(p + 2.5 * 20 * step)
    assert abs(float(torch.corrcoef(torch.stack([far[0], lattice()(p)[0]]))[0, 1])) < 0.2


def test_a_lattice_is_a_function_of_position_alone():
    grid = grid_points((-31.0, 5.0, 90.0), (1.5, 2.0, 0.7), (9, 8, 7))
    field = lattice()
    whole = field(grid)
    assert torch.allclose(whole[:, 3:7, 2:, 1:4], field(grid[:, 3:7, 2:, 1:4].contiguous()), atol=1e-5)
    assert torch.allclose(whole.reshape(2, -1), field(grid.reshape(3, -1)), atol=1e-5)
    assert whole.shape == (2, 9, 8, 7)
