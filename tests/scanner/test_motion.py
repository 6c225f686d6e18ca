"""Motion: crescents along the path, nothing lost; slabs of several beats shifted as a whole."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cacsnet.scanner import Protocol, image, move
from cacsnet.scanner.motion import OVERLAP, displace, motion_path, slab_shifts

STILL = Protocol((2.0, 0.5, 0.5), (9, 96, 96), (0.0, 0.0, 0.0), 2.0)
SPACING = STILL.spacing_mm


def straight(length_mm, axis=2, count=9):
    """A path of that length along one axis, centred."""
    path = np.zeros((count, 3))
    path[:, axis] = np.linspace(-length_mm / 2, length_mm / 2, count)
    return tuple(map(tuple, path.tolist()))


def disc():
    """A disc of 3 mm in the middle slices."""
    y = (torch.arange(96) - 47.5) * 0.5
    one = (3.0 - torch.hypot(y[:, None], y[None])).clamp(0, 1) * 400
    volume = torch.zeros(9, 96, 96)
    volume[3:6] = one
    return volume


def extent(volume, dim):
    """Length along one axis of what exceeds 130, mm."""
    return float((volume[4].amax(1 - dim) > 130).sum()) * 0.5


def centroid(slice_2d):
    weight = slice_2d.double()
    index = torch.arange(96).double() * 0.5
    return float((weight.sum(1) * index).sum() / weight.sum()), float((weight.sum(0) * index).sum() / weight.sum())


@pytest.mark.parametrize("sources", [1, 2])
@pytest.mark.parametrize("start", [0.0, 35.0, 90.0])
def test_motion_keeps_the_integral(start, sources):
    protocol = replace(STILL, motion_path_mm=straight(4.0), motion_start_deg=start, sources=sources)
    moved = displace(disc(), SPACING, protocol)
    # the streaks of what moves reach far; what leaves the volume is below half a percent
    assert float(moved.sum()) == pytest.approx(float(disc().sum()), rel=0.005)


@pytest.mark.parametrize(("axis", "dim"), [(2, 1), (1, 0)])
def test_motion_lengthens_along_the_path(axis, dim):
    plain = extent(disc(), dim)
    along, across = [], []
    for start in (0.0, 45.0, 90.0, 135.0):
        moved = displace(disc(), SPACING, replace(STILL, motion_path_mm=straight(4.0, axis), motion_start_deg=start))
        along.append(extent(moved, dim))
        across.append(extent(moved, 1 - dim))
    assert np.mean(along) >= plain + 1.0
    assert np.mean(along) >= np.mean(across) + 0.5


def test_motion_is_no_plain_blur():
    """A plain average of displaced images is symmetric and never below the background; crescents have a dark side."""
    average = sum(displace(disc(), SPACING, replace(STILL, motion_path_mm=(p,))) for p in straight(4.0)) / 9
    moved = displace(disc(), SPACING, replace(STILL, motion_path_mm=straight(4.0), motion_start_deg=90.0))
    assert float(average.min()) > -4
    assert float(moved.min()) < -40
    for dim, least in ((0, 60), (1, 0)):
        assert float((average[4] - average[4].flip(dim)).abs().max()) < 4
        assert float((moved[4] - moved[4].flip(dim)).abs().max()) >= least


def test_an_edge_is_seen_at_the_moment_when_the_ray_runs_along_it():
    """A line along y that jumps aside in the middle of the window: it shows only if the ray runs along y then."""
    line = torch.zeros(1, 96, 96)
    line[:, 20:76, 46:49] = 400.0
    path = tuple((0.0, 0.0, 5.0 if 3 <= k <= 5 else 0.0) for k in range(9))
    aside = []
    middle = 90 * (1 + OVERLAP)
    for start in (90.0 - middle, 180.0 - middle):  # in the middle of the window: rays along y, along x
        moved = displace(line, SPACING, replace(STILL, shape=(1, 96, 96), motion_path_mm=path, motion_start_deg=start))
        aside.append(float(moved[0, 40:56, 56:59].mean()))
    assert aside[0] > 240
    assert aside[1] < 100


def test_what_is_seen_twice_is_joined_smoothly():
    """A line along y that moves along x: seen at one moment, it is at one place; at both ends of the window, at both."""
    line = torch.zeros(1, 96, 96)
    line[:, 20:76, 46:50] = 400.0
    profiles = []
    for place in (0.5 * OVERLAP, 0.5 * (1 + OVERLAP), OVERLAP):  # of the ray along y, in half turns from the window's start
        protocol = replace(STILL, shape=(1, 96, 96), motion_path_mm=straight(8.0), motion_start_deg=90.0 - 180 * place)
        profiles.append(displace(line, SPACING, protocol)[0, 40:56].mean(0))
    first, last = (slice(46 + s * 7, 50 + s * 7) for s in (-1, 1))
    # half way through the overlap: half at 3.1 mm before the middle, half as far behind it
    assert [float(profiles[0][side].mean()) for side in (first, last)] == pytest.approx([200, 200], abs=60)
    assert float(profiles[1][46:50].mean()) > 300
    assert float(profiles[2][last].mean()) < 60


def test_two_sources_see_another_crescent_than_one():
    one, two = (displace(disc(), SPACING, replace(STILL, motion_path_mm=straight(4.0), sources=n)) for n in (1, 2))
    assert float((one - two).abs().max()) > 40


def test_a_single_position_is_a_displacement():
    moved = displace(disc(), SPACING, replace(STILL, motion_path_mm=((2.0, 3.0, -1.5),)))
    before, after = centroid(disc()[4]), centroid(moved[5])
    assert after[0] - before[0] == pytest.approx(3.0, abs=0.05)
    assert after[1] - before[1] == pytest.approx(-1.5, abs=0.05)
    assert float(moved[3].abs().max()) < 1.0  # one slice up: the first of three is empty now
    half = displace(disc(), SPACING, replace(STILL, motion_path_mm=((1.0, 0.0, 0.0),)))
    assert float(half[3].sum() / disc()[3].sum()) == pytest.approx(0.5, abs=0.01)


def test_motion_along_z_does_not_smear_thick_slices():
    """A body in the middle of a thick slice that moves up and down within it stays there whole."""
    body = torch.zeros(9, 24, 24)
    body[:, 10:14, 10:14] = 300.0
    grid = replace(STILL, spacing_mm=(3.0, 0.5, 0.5), shape=(5, 24, 24), thickness_mm=3.0)
    path = tuple((z, 0.0, 0.0) for z in np.linspace(-0.6, 0.6, 9))
    rest, moving = (image(body, (5.6, 0.0, 0.0), (0.1, 0.5, 0.5), p) for p in (grid, replace(grid, motion_path_mm=path)))
    assert float(moving[2].sum() / rest[2].sum()) == pytest.approx(1.0, abs=0.01)
    assert float(moving[[1, 3]].abs().max()) < 0.01 * float(rest.max())
    assert float((moving[2] - rest[2]).abs().max()) < 0.02 * float(rest.max())


def test_motion_along_z_passes_through_every_height():
    """A disc 1 mm thick that moves from 2 mm below to 2 mm above shows in the slices of 1 mm between them, not beyond."""
    body = torch.zeros(10, 40, 40)
    body[:, 14:26, 14:26] = 300.0
    grid = replace(STILL, spacing_mm=(1.0, 0.5, 0.5), shape=(9, 40, 40), thickness_mm=1.0)
    moving = replace(grid, motion_path_mm=straight(4.0, axis=0))
    peak = image(body, (3.55, 0.0, 0.0), (0.1, 0.5, 0.5), moving).abs().amax((1, 2))
    assert float(peak[3:6].min()) > 60  # the ends are seen from few directions
    assert float(peak[[0, 1, 7, 8]].max()) < 1


def test_what_reaches_beyond_the_scan_is_displaced_as_a_whole():
    bar = torch.zeros(30, 60, 80)
    bar[:, 25:28] = 300.0
    args = (-6.0, -5.0, -15.0), (1.0, 1.0, 1.0)
    moved = image(bar, *args, replace(STILL, motion_path_mm=((0.0, 2.0, 0.0),)))
    aside = image(bar, (-6.0, -3.0, -15.0), args[1], STILL)
    assert float((moved - aside).abs().max()) < 3.0


@pytest.mark.parametrize("device", ["meta", "cuda"])
def test_everything_happens_on_the_volumes_device(device):
    """The meta device holds no values: it fails where tensors of two devices meet."""
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    protocol = replace(
        STILL, motion_path_mm=straight(4.0), slab_slices=4, slab_shifts_mm=((0.5, 1.0, 0.0),) * 3, edge_enhancement=0.2
    )
    volume, origin, step = rod()
    made = {
        d: (image(volume.to(d), origin, step, protocol), move(disc().to(d), 0.0, SPACING, protocol)) for d in ("cpu", device)
    }
    for here, there in zip(*made.values(), strict=True):
        assert there.device.type == device
        assert there.shape == here.shape
        if device == "cuda":
            assert float((there.cpu() - here).abs().max()) < 0.02


def test_a_heart_at_rest_is_left_alone():
    assert torch.equal(move(disc(), 0.0, SPACING, STILL), disc())
    volume = torch.rand(20, 60, 60)
    args = ((-2.0, 5.0, 5.0), (1.0, 0.7, 0.7))
    assert torch.equal(image(volume, *args, STILL), image(volume, *args, replace(STILL, motion_start_deg=30.0)))
    moving = replace(STILL, motion_path_mm=straight(4.0), slab_slices=3, slab_shifts_mm=((1.0, 1.0, 1.0),) * 3)
    assert moving.moves
    assert moving.still() == STILL


def rod():
    """A rod along z through the scan, in a field of 1 mm voxels."""
    volume = torch.zeros(30, 60, 60)
    volume[:, 25:28, 25:28] = 300.0
    return volume, (-6.0, -5.0, -5.0), (1.0, 1.0, 1.0)


def test_slabs_are_shifted_each_by_its_own_displacement():
    shifts = ((0.0, 0.0, 0.0), (0.0, 2.0, 0.0), (0.0, 0.0, -3.0))
    protocol = replace(STILL, slab_slices=3, slab_shifts_mm=shifts)
    volume, origin, step = rod()
    still, moved = image(volume, origin, step, STILL), image(volume, origin, step, protocol)
    native = move(still, 0.0, SPACING, protocol)
    for out, tolerance in ((moved, 0.02), (native, 0.1)):
        for k in range(9):
            before, after = centroid(still[k]), centroid(out[k].clamp_min(0))
            assert after[0] - before[0] == pytest.approx(shifts[k // 3][1], abs=tolerance)
            assert after[1] - before[1] == pytest.approx(shifts[k // 3][2], abs=tolerance)


def test_slabs_shifted_along_z_leave_a_step():
    tilted = torch.zeros(30, 60, 60)
    for k in range(30):
        tilted[k, 15 + k : 18 + k, 25:28] = 300.0  # 1 mm along y for each mm along z
    protocol = replace(STILL, slab_slices=5, slab_shifts_mm=((0.0, 0.0, 0.0), (3.0, 0.0, 0.0)))
    still, moved = (image(tilted, (-6.0, -5.0, -5.0), (1.0,) * 3, p) for p in (STILL, protocol))
    place = [[centroid(s)[0] for s in out] for out in (still, moved)]
    assert np.diff(place[0]) == pytest.approx(2.0, abs=0.05)
    assert place[1][4] == pytest.approx(place[0][4], abs=0.05)
    assert place[1][5] == pytest.approx(place[0][5] - 3.0, abs=0.05)


def test_a_box_of_a_moving_scan_is_a_crop():
    protocol = replace(
        STILL, motion_path_mm=straight(3.0), motion_start_deg=30.0, slab_slices=4, slab_shifts_mm=((0.5, 1.0, 0.0),) * 3
    )
    volume, origin, step = rod()
    volume[:12] = 0
    whole = image(volume, origin, step, protocol)
    for box in ((slice(2, 7), slice(20, 70), slice(25, 60)), (slice(0, 9), slice(36, 56), slice(36, 56))):
        part = image(volume, origin, step, protocol, box)
        assert part.shape == whole[box].shape
        assert float((part - whole[box]).abs().max()) < 0.02 * float(whole.max())


def test_paths_grow_with_heart_rate_and_window_and_more_without_gating():
    def mean_length(rate, window, gated):
        drawn = [np.array(motion_path(np.random.default_rng(k), rate, window, gated)) for k in range(200)]
        assert all(np.abs(path.mean(0)).max() < 1e-9 for path in drawn)
        return np.mean([np.linalg.norm(np.diff(path, axis=0), axis=1).sum() for path in drawn])

    slow = mean_length(55, 140, True)
    assert 1.7 < slow < 2.4  # 10 mm/s for 179 ms, a bit longer for the bend
    assert mean_length(70, 140, True) > 1.3 * slow
    assert mean_length(90, 140, True) > 2.5 * slow
    assert mean_length(55, 70, True) == pytest.approx(slow / 2)
    assert 6.0 < mean_length(55, 140, False) < 8.5  # 37 mm/s on average, a bit longer for scatter and bend
    assert mean_length(90, 140, False) == mean_length(55, 140, False)
    longest = max(np.ptp(np.array(motion_path(np.random.default_rng(k), 60, 2000, False)), 0).max() for k in range(200))
    assert 10.0 < longest < 14.0  # the heart moves to and fro
    assert motion_path(np.random.default_rng(3), 60, 140, True) == motion_path(np.random.default_rng(3), 60, 140, True)


def test_slab_shifts_have_their_sd_and_are_mostly_along_z():
    drawn = np.array(slab_shifts(np.random.default_rng(0), 4000, 1.5))
    assert drawn.std(0) == pytest.approx([1.5, 0.75, 0.75], rel=0.05)
