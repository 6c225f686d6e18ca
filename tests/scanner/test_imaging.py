"""The scanner: linear, keeps constants and integrals, and its noise is what the protocol says."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cacsnet.data.patches import THRESHOLD_HU, PatchSettings
from cacsnet.scanner.imaging import CALCIUM_HU_PER_MG_CC, Protocol, image, noise

PROTOCOL = Protocol((2.5, 0.6, 0.6), (9, 40, 40), (0.0, 0.0, 0.0), 2.5, fwhm_mm=1.1)
STEP, FIRST = 0.5, (-5.0, -5.0, -5.0)


def blob():
    """Something of 4 mm in the middle of the scan."""
    volume = torch.zeros(64, 68, 68)
    volume[27:33, 30:37, 28:39] = 100 * torch.rand((6, 7, 11), generator=torch.Generator().manual_seed(0))
    return volume


@pytest.mark.parametrize("background", [0.0, 40.0])
def test_constants_are_preserved(background):
    out = image(torch.full((64, 68, 68), 40.0), FIRST, (STEP,) * 3, PROTOCOL, background=background)
    assert out.shape == PROTOCOL.shape
    margin = slice(None) if background else slice(4, -4)
    assert (out[:, margin, margin] - 40.0).abs().max() < 0.05


@pytest.mark.parametrize("thickness", [2.5, 5.0])
def test_integrals_are_preserved(thickness):
    protocol = replace(PROTOCOL, thickness_mm=thickness)
    out = image(blob(), FIRST, (STEP,) * 3, protocol)
    assert float(out.sum()) * 2.5 * 0.6 * 0.6 == pytest.approx(float(blob().sum()) * STEP**3, rel=0.01)


def test_a_box_is_a_crop():
    box = (slice(2, 6), slice(10, 30), slice(5, 21))
    whole = image(blob(), FIRST, (STEP,) * 3, PROTOCOL, background=-1000.0)
    assert torch.allclose(image(blob(), FIRST, (STEP,) * 3, PROTOCOL, box, background=-1000.0), whole[box], atol=1e-3)


def test_a_point_spreads_over_the_thickness_and_the_in_plane_width():
    point = torch.zeros(41, 41, 41)
    point[20, 20, 20] = 1.0
    step = 0.1
    protocol = Protocol((0.1, 0.05, 0.05), (80, 81, 81), (-2.0, 0.0, 0.0), 3.0, fwhm_mm=1.2)
    out = image(point, (0.0, 0.0, 0.0), (step,) * 3, protocol)
    along_z, in_plane = out[:, 40, 40], out[:, 40].amax(0)
    assert float((along_z > 0.5 * along_z.max()).sum()) * 0.1 == pytest.approx(3.0, abs=0.11)
    flat = along_z[along_z > 0.9 * along_z.max()]
    assert float(flat.max() / flat.min()) < 1.01  # a box, not a bell
    assert float((in_plane > 0.5 * in_plane.max()).sum()) * 0.05 == pytest.approx(1.2, abs=0.11)


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


def noisy(seed=1, **changes):
    values = {"shape": (10, 128, 128), "spacing_mm": (3.0, 0.5, 0.5), "thickness_mm": 3.0, "noise_hu": 21.0} | changes
    return noise(replace(PROTOCOL, **values), torch.Generator().manual_seed(seed)).double()


def correlation(a, b):
    return float(np.corrcoef(a.flatten().numpy(), b.flatten().numpy())[0, 1])


@pytest.mark.parametrize("correlation_mm", [0.45, 0.9])
def test_noise_has_the_protocols_sd_and_no_mean(correlation_mm):
    out = noisy(noise_correlation_mm=correlation_mm)
    assert float(out.std()) == pytest.approx(21.0, rel=0.05)
    assert abs(float(out.mean())) < 0.5


def test_noise_is_correlated_in_plane_only_where_neighbours_are_near():
    out = noisy(noise_correlation_mm=0.6)
    assert correlation(out[:, 1:], out[:, :-1]) > 0.5
    assert correlation(out[:, :, 1:], out[:, :, :-1]) > 0.5
    assert correlation(out[:, 5:], out[:, :-5]) < -0.04  # a band-pass, as filtered back projection leaves it
    assert abs(correlation(out[:, 20:], out[:, :-20])) < 0.05


def test_slices_are_correlated_as_far_as_they_overlap():
    apart, overlapping = noisy(), noisy(thickness_mm=6.0)
    assert abs(correlation(apart[1:], apart[:-1])) < 0.05
    assert correlation(overlapping[1:], overlapping[:-1]) > 0.3
    assert abs(correlation(overlapping[2:], overlapping[:-2])) < 0.1


def test_noise_is_reproducible():
    assert torch.equal(noisy(5), noisy(5))
    assert not torch.equal(noisy(5), noisy(6))


def test_calcium_is_brighter_at_lower_voltage_and_every_drawn_voltage_is_known():
    values = [CALCIUM_HU_PER_MG_CC[kvp] for kvp in sorted(CALCIUM_HU_PER_MG_CC)]
    assert values == sorted(values, reverse=True)
    assert set(PatchSettings().kvps) <= set(CALCIUM_HU_PER_MG_CC) & set(THRESHOLD_HU)
    assert replace(PROTOCOL, kvp=100, calcium_scale=0.9).hu_per_mg_cc == pytest.approx(0.9 * 1.61)


@pytest.mark.parametrize("step_mm", [0.3, 1.0, 1.25, 2.0])
def test_a_constant_has_no_ripple_when_the_blur_is_near_the_lattice_step(step_mm):
    """Unnormalised samples of a narrow Gaussian ripple by some percent: tens of HU of false, periodic noise."""
    protocol = Protocol((3.0, 0.45, 0.45), (3, 60, 60), (6.0, 20.0, 20.0), 3.0, fwhm_mm=1.0)
    count = int(80 / step_mm)
    out = image(torch.full((20, count, count), 1040.0), (0.0, 0.0, 0.0), (1.0, step_mm, step_mm), protocol)
    assert float((out - 1040.0).abs().max()) < 0.01
