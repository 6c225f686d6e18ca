"""Imaging is linear, keeps constants, integrals and places, and blurs exactly as the protocol says."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cacsnet.errors import ArgumentError
from cacsnet.scanner import CALCIUM_HU_PER_MG_CC, IODINE_HU_PER_MG_CC, Protocol, image
from cacsnet.scanner.kernel import mtf
from cacsnet.scanner.materials import calcium_hu_per_mg_cc

PROTOCOL = Protocol((2.5, 0.6, 0.6), (9, 40, 40), (0.0, 0.0, 0.0), 2.5, fwhm_mm=1.1)
STEP, FIRST = 0.5, (-5.0, -5.0, -5.0)


def width(values, step):
    """Full width at half maximum, interpolated linearly."""
    values = np.asarray(values, float)
    inside = np.flatnonzero(values > values.max() / 2)
    low, high = inside[0], inside[-1]
    left = (values.max() / 2 - values[low - 1]) / (values[low] - values[low - 1])
    right = (values.max() / 2 - values[high + 1]) / (values[high] - values[high + 1])
    return (high - low + 2 - left - right) * step


def blob():
    """Something of 4 mm in the middle of the scan."""
    volume = torch.zeros(64, 68, 68)
    volume[27:33, 30:37, 28:39] = 100 * torch.rand((6, 7, 11), generator=torch.Generator().manual_seed(0))
    return volume


KINDS = [
    {},
    {"slice_profile": "gaussian"},
    {"slice_profile": "trapezoid"},
    {"edge_enhancement": 0.5},
    {"thickness_mm": 5.0},
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("background", [0.0, 40.0])
def test_constants_are_preserved(kind, background):
    out = image(torch.full((64, 68, 68), 40.0), FIRST, (STEP,) * 3, replace(PROTOCOL, **kind), background=background)
    assert out.shape == PROTOCOL.shape
    inner = (slice(2, -2), slice(8, -8), slice(8, -8)) if background == 0 else ...
    assert (out[inner] - 40.0).abs().max() < 0.01


@pytest.mark.parametrize("step_mm", [0.3, 1.0, 1.25, 2.0])
def test_a_constant_has_no_ripple_when_the_blur_is_near_the_lattice_step(step_mm):
    """Unnormalised samples of a narrow Gaussian ripple by some percent: tens of HU of false, periodic noise."""
    protocol = Protocol((3.0, 0.45, 0.45), (3, 60, 60), (6.0, 20.0, 20.0), 3.0, fwhm_mm=1.0)
    count = int(80 / step_mm)
    out = image(torch.full((20, count, count), 1040.0), (0.0, 0.0, 0.0), (1.0, step_mm, step_mm), protocol)
    assert float((out - 1040.0).abs().max()) < 0.01


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fwhm_mm", [0.7, 1.4])
def test_integrals_are_preserved(kind, fwhm_mm):
    protocol = replace(PROTOCOL, spacing_mm=(1.0, 0.35, 0.35), shape=(22, 70, 70), thickness_mm=2.0, fwhm_mm=fwhm_mm)
    out = image(blob(), FIRST, (STEP,) * 3, replace(protocol, **kind))
    assert float(out.double().sum()) * 0.35**2 == pytest.approx(float(blob().double().sum()) * STEP**3, rel=0.005)


def test_a_box_is_a_crop():
    box = (slice(2, 6), slice(10, 30), slice(5, 21))
    whole = image(blob(), FIRST, (STEP,) * 3, PROTOCOL, background=-1000.0)
    assert torch.allclose(image(blob(), FIRST, (STEP,) * 3, PROTOCOL, box, background=-1000.0), whole[box], atol=1e-3)


@pytest.mark.parametrize(("fwhm_mm", "edge"), [(0.7, 0.0), (1.0, 0.0), (1.4, 0.0), (1.0, 0.2), (0.7, 0.8)])
def test_a_wire_is_as_wide_as_the_point_spread_function(fwhm_mm, edge):
    wire = torch.zeros(3, 161, 161)
    wire[:, 80, 80] = 1.0
    protocol = Protocol((3.0, 0.05, 0.05), (1, 161, 161), (0.0, 0.0, 0.0), 3.0, fwhm_mm=fwhm_mm, edge_enhancement=edge)
    out = image(wire, (-3.0, 0.0, 0.0), (3.0, 0.05, 0.05), protocol)[0]
    assert width(out[80], 0.05) == pytest.approx(fwhm_mm, rel=0.03)
    assert width(out[:, 80], 0.05) == pytest.approx(fwhm_mm, rel=0.03)


@pytest.mark.parametrize(("fwhm_mm", "step"), [(1.0, 0.25), (1.0, 0.5), (1.3, 0.6)])
def test_an_edge_painted_on_a_coarse_lattice_is_no_wider(fwhm_mm, step):
    """The lattice's own blur (cells, and lines between their values) is taken off the kernel."""
    spread = np.zeros(200)
    for shift in (np.arange(8) + 0.5) / 8 * step:
        edge = (0.5 + (step * torch.arange(60) - 30 * step - shift) / step).clamp(0, 1)
        protocol = Protocol((3.0, 1.0, 0.05), (1, 1, 201), (0.0, 10.0, 30 * step + shift - 5.0), 3.0, fwhm_mm=fwhm_mm)
        out = image(edge.expand(3, 60, 60).clone(), (-3.0, 0.0, 0.0), (3.0, step, step), protocol)[0, 0]
        spread += out.diff().numpy()
    assert width(spread, 0.05) == pytest.approx(fwhm_mm, rel=0.03)


@pytest.mark.parametrize(("profile", "flat"), [("box", 0.97), ("trapezoid", 0.5), ("gaussian", 0.0)])
@pytest.mark.parametrize("thickness_mm", [1.25, 3.0])
def test_a_thin_plate_shows_the_slice_profile(profile, flat, thickness_mm):
    plate = torch.zeros(401, 1, 1)
    plate[200] = 1.0
    protocol = Protocol((0.05, 1, 1), (160, 1, 1), (-4.0, 0, 0), thickness_mm, slice_profile=profile)
    plate = plate.expand(401, 9, 9).clone()
    out = image(plate, (-4.0, -4.0, -4.0), (0.02, 1.0, 1.0), protocol)[:, 0, 0].numpy()
    assert width(out, 0.05) == pytest.approx(thickness_mm, rel=0.03)
    assert float((out > 0.99 * out.max()).sum()) * 0.05 == pytest.approx(flat * thickness_mm, abs=0.1 * thickness_mm + 0.1)


def test_edge_enhancement_overshoots_and_lifts_the_mtf_above_one():
    edge = (torch.arange(120) >= 60).float().expand(3, 120, 120).clone()
    frequency = torch.linspace(0, 2, 100)
    tops = []
    for enhancement in (0.0, 0.3, 0.8):
        protocol = Protocol((3.0, 0.2, 0.2), (1, 1, 60), (0.0, 12.0, 6.0), 3.0, edge_enhancement=enhancement)
        out = image(edge, (-3.0, 0.0, 0.0), (3.0, 0.2, 0.2), protocol)
        tops.append(float(out.max()) - 1)
        assert float(mtf(protocol, frequency)[0]) == pytest.approx(1.0)
        assert bool((mtf(protocol, frequency) > 1.01).any()) == (enhancement > 0)
    assert tops[0] < 1e-4
    assert 0.02 < tops[1] < tops[2] < 0.5


def test_position_is_kept():
    out = image(blob(), FIRST, (STEP,) * 3, PROTOCOL)

    def centroid(volume, first, step):
        weights = volume.double()
        return [
            float(
                (weights.sum([b for b in range(3) if b != a]) * (f + s * torch.arange(volume.shape[a]))).sum() / weights.sum()
            )
            for a, (f, s) in enumerate(zip(first, step, strict=True))
        ]

    got, expected = centroid(out, (0, 0, 0), (2.5, 0.6, 0.6)), centroid(blob(), FIRST, (STEP,) * 3)
    assert got[0] == pytest.approx(expected[0], abs=0.6)  # slices of 2.5 mm can't say it better
    assert got[1:] == pytest.approx(expected[1:], abs=0.02)


@pytest.mark.parametrize("kind", [*KINDS, {"motion_path_mm": ((0.5, -1.0, 0.0), (-0.5, 1.0, 0.0))}])
def test_everything_stays_on_the_volumes_device(kind):
    """A tensor made on another device than the input's would raise here (no data is needed to see that)."""
    out = image(torch.empty((64, 68, 68), device="meta"), FIRST, (STEP,) * 3, replace(PROTOCOL, **kind))
    assert out.device.type == "meta"
    assert out.shape == PROTOCOL.shape


def test_reach_covers_the_image_of_a_point():
    path = ((0.5, -1.0, 0.0), (-0.5, 1.0, 2.0))
    for kind in KINDS:
        protocol = replace(PROTOCOL, **kind)
        moving = replace(protocol, motion_path_mm=path)
        for k in range(3):
            assert moving.reach_mm[k] == pytest.approx(protocol.reach_mm[k] + max(abs(p[k]) for p in path))
        half_z, half_y, _ = protocol.reach_mm
        point = torch.zeros(161, 161, 161)
        point[80, 80, 80] = 1.0
        fine = replace(protocol, spacing_mm=(0.1, 0.1, 0.1), shape=(161, 161, 161))
        out = image(point, (0.0, 0.0, 0.0), (0.1,) * 3, fine).abs()
        far = (torch.arange(161) - 80).abs() * 0.1
        lost = out[far > half_z].sum() + out[:, far > half_y].sum() + out[:, :, far > half_y].sum()
        assert float(lost / out.sum()) < 0.005


def test_calcium_and_iodine_are_brighter_at_lower_voltage_and_in_thinner_bodies():
    for table in (CALCIUM_HU_PER_MG_CC, IODINE_HU_PER_MG_CC):
        values = [table[kvp] for kvp in sorted(table)]
        assert values == sorted(values, reverse=True)
    assert 1.1 < CALCIUM_HU_PER_MG_CC[120] < 1.5  # published range
    assert 24 < IODINE_HU_PER_MG_CC[120] < 30
    of = calcium_hu_per_mg_cc
    assert of(120, 120) == of(120, 160) > of(120, 180) > of(120, 250) > of(120, 280) == of(120, 350)
    assert of(100, 200) > of(120, 200) == CALCIUM_HU_PER_MG_CC[120]
    with pytest.raises(ArgumentError):
        of(110, 200)
    assert replace(PROTOCOL, kvp=100, calcium_scale=0.9).hu_per_mg_cc == pytest.approx(0.9 * 1.61)


def test_calcium_follows_the_published_thresholds():
    """130 HU at 120 kVp become 207, 177, 145-147 and 119 HU at 70, 80, 100 and 135 kVp, since calcium does (Graeni 2018)."""
    for kvp, threshold, tolerance in ((70, 207, 0.02), (80, 177, 0.04), (100, 146, 0.03), (135, 119, 0.02)):
        ratio = CALCIUM_HU_PER_MG_CC[kvp] / CALCIUM_HU_PER_MG_CC[120]
        assert ratio == pytest.approx(threshold / 130, rel=tolerance)


@pytest.mark.parametrize(
    "wrong",
    [
        {"spacing_mm": (0.0, 1.0, 1.0)}, {"shape": (0, 4, 4)}, {"origin_mm": (0.0, 0.0)}, {"thickness_mm": 0.0},
        {"fwhm_mm": -1.0}, {"noise_hu": -1.0}, {"noise_correlation_mm": 0.0}, {"kvp": 110}, {"slice_profile": "triangle"},
        {"edge_enhancement": 3.0}, {"iterative": 1.1}, {"ray_noise": -0.1}, {"current_modulation": 2.0}, {"sources": 0},
        {"motion_path_mm": ((1.0, 2.0),)}, {"slab_slices": -1}, {"circle_mm": -1.0},
        {"slab_slices": 3, "slab_shifts_mm": ((0.0, 0.0, 0.0),)},
    ],
)  # fmt: skip
def test_a_bad_protocol_is_refused(wrong):
    with pytest.raises(ArgumentError):
        replace(PROTOCOL, **wrong)
