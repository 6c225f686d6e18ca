"""Noise has the SD, the spectrum and the correlation between slices that the protocol asks for, and is worst where rays are."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cacsnet.errors import ArgumentError
from cacsnet.scanner import Protocol, draw_protocol, noise, profile_names
from cacsnet.scanner.kernel import noise_power, slice_correlation
from cacsnet.scanner.rays import ray_sd

PROTOCOL = Protocol((3.0, 0.5, 0.5), (24, 192, 192), (0.0, 0.0, 0.0), 3.0, fwhm_mm=1.1, noise_hu=21.0)
KERNELS = [
    {"fwhm_mm": 0.8},
    {"fwhm_mm": 1.4},
    {"fwhm_mm": 0.8, "edge_enhancement": 0.5},
    {"iterative": 0.6},
    {"noise_correlation_mm": 0.6},
]


def noisy(seed=1, hu=None, **changes):
    return noise(replace(PROTOCOL, **changes), torch.Generator().manual_seed(seed), hu)


def correlation(a, b):
    return float(np.corrcoef(a.double().flatten().numpy(), b.double().flatten().numpy())[0, 1])


def spectrum(volume, pixel_mm=0.5, band=0.02):
    """Radial noise power spectrum: frequencies (1/mm) and power."""
    power = torch.fft.fft2(volume.double()).abs().square().mean(0)
    axes = [torch.fft.fftfreq(n, pixel_mm) for n in volume.shape[1:]]
    ring = (torch.hypot(axes[0][:, None], axes[1][None]) / band).long().flatten()
    count = torch.bincount(ring)
    return (torch.arange(len(count)) + 0.5) * band, torch.bincount(ring, power.flatten()) / count


def peak(volume):
    return vertex(*spectrum(volume))


def vertex(frequency, power):
    """Frequency of the largest power, from a parabola through the upper part of the spectrum."""
    upper = power > 0.8 * power.max()
    a, b, _ = np.polyfit(frequency[upper].numpy(), power[upper].numpy(), 2)
    return -b / (2 * a)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("pixel_mm", [0.4, 0.8])
def test_noise_has_the_protocols_sd_and_no_mean(kernel, pixel_mm):
    out = noisy(spacing_mm=(3.0, pixel_mm, pixel_mm), **kernel)
    assert out.shape == PROTOCOL.shape
    assert float(out.std()) == pytest.approx(21.0, rel=0.03)
    assert abs(float(out.mean())) < 0.1


@pytest.mark.parametrize("fwhm_mm", [0.8, 1.1, 1.5])
def test_the_spectrum_peaks_where_ramp_times_mtf_squared_does(fwhm_mm):
    """f · exp(-4 π² σ² f²) peaks at 1 / (2 √2 π σ) = 0.265 / FWHM; a floor of aliased noise lowers that by some percent."""
    out = torch.cat([noisy(seed, fwhm_mm=fwhm_mm) for seed in range(3)])
    frequency, power = spectrum(out)
    ideal = frequency * torch.exp(-((2 * np.pi * fwhm_mm / 2.355 * frequency) ** 2))
    assert vertex(frequency, ideal) == pytest.approx(0.265 / fwhm_mm, rel=0.06)
    assert vertex(frequency, power) == pytest.approx(vertex(frequency, ideal), rel=0.12)
    middle = (frequency > 0.1) & (frequency < 0.6)
    assert float(torch.corrcoef(torch.stack([power, ideal])[:, middle])[0, 1]) > 0.96


def test_a_sharp_kernel_is_grainier_and_iterative_reconstruction_blotchier():
    plain = peak(noisy())
    assert peak(noisy(edge_enhancement=0.5)) > 1.1 * plain
    assert peak(noisy(iterative=0.3)) < 0.93 * plain
    assert peak(noisy(iterative=0.6)) < 0.8 * plain
    assert peak(noisy(noise_correlation_mm=0.8)) == pytest.approx(1 / (2 * 2**0.5 * np.pi * 0.8), rel=0.12)
    near = [correlation(n[:, 2:], n[:, :-2]) for n in (noisy(), noisy(iterative=0.4), noisy(iterative=0.9))]
    assert near[0] + 0.1 < near[1] < near[2] - 0.05


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_bank_equals_direct_shaping(kernel):
    """White noise shaped slice by slice with the same spectrum: the same autocorrelation in all directions."""
    protocol = replace(PROTOCOL, **kernel)
    frequency = torch.hypot(torch.fft.fftfreq(192, 0.5)[:, None], torch.fft.rfftfreq(192, 0.5)[None])
    white = torch.randn(PROTOCOL.shape, generator=torch.Generator().manual_seed(9))
    shape = noise_power(protocol, frequency).sqrt()
    shape[0, 0] = 0
    direct = torch.fft.irfft2(torch.fft.rfft2(white) * shape, s=(192, 192))
    bank = noisy(**kernel)
    for dy, dx in ((1, 0), (0, 1), (2, 0), (0, 2), (2, 2), (5, 0), (0, 5)):
        pairs = [(n[:, dy:, dx:], n[:, : 192 - dy, : 192 - dx]) for n in (bank, direct)]
        assert correlation(*pairs[0]) == pytest.approx(correlation(*pairs[1]), abs=0.03)
    assert (bank.abs() > 2 * 21).double().mean() == pytest.approx(0.0455, abs=0.004)  # Gaussian


def test_slices_that_do_not_overlap_are_independent_and_do_not_repeat():
    out = noisy()
    for gap in range(1, 8):
        assert abs(correlation(out[gap:], out[:-gap])) < 0.03
    spectra = torch.fft.rfft2(out / out.std((1, 2), keepdim=True))
    for gap in (1, 2, 5):
        shifted = torch.fft.irfft2(spectra[gap:] * spectra[:-gap].conj(), s=(192, 192)) / 192**2
        assert float(shifted.abs().max()) < 0.2  # at no displacement does a slice look like one of its neighbours


@pytest.mark.parametrize(
    ("profile", "thickness_mm", "expected"),
    [("box", 6.0, (0.5, 0.0)), ("box", 4.5, (1 / 3, 0.0)), ("gaussian", 3.0, (0.25, 0.004)), ("trapezoid", 6.0, (0.6, 0.1))],
)
def test_slices_are_correlated_as_far_as_their_profiles_overlap(profile, thickness_mm, expected):
    assert slice_correlation(profile, thickness_mm, 3.0, 3)[1:] == pytest.approx(expected, abs=0.005)
    out = noisy(slice_profile=profile, thickness_mm=thickness_mm)
    assert float(out.std()) == pytest.approx(21.0, rel=0.04)
    for gap, wanted in zip((1, 2), expected, strict=True):
        assert correlation(out[gap:], out[:-gap]) == pytest.approx(wanted, abs=0.04)


def test_noise_is_reproducible():
    assert torch.equal(noisy(5), noisy(5))
    assert abs(correlation(noisy(5), noisy(6))) < 0.02
    body = chest()
    assert torch.equal(noisy(5, body), noisy(5, body))


# -- rays -------------------------------------------------------------------------------------------------------------
WIDE = replace(PROTOCOL, spacing_mm=(3.0, 2.0, 2.0), fwhm_mm=3.0, ray_noise=0.8)


def chest(arms=False, slices=24):
    """A chest of water of 360 x 240 mm with lungs; from the middle slice on two arms beside its lower half."""
    y, x = (torch.arange(192) - 95.5) * 2, (torch.arange(192) - 95.5) * 2
    y, x = y[:, None].expand(192, 192), x[None].expand(192, 192)
    hu = torch.full((192, 192), -1000.0)
    hu[(y / 120) ** 2 + (x / 180) ** 2 < 1] = 0.0
    hu[((y / 70) ** 2 + ((x.abs() - 90) / 60) ** 2) < 1] = -850.0
    out = hu.repeat(slices, 1, 1)
    if arms:
        arm = ((y - 80).abs() < 25) & (x.abs() > 120)
        out[slices // 2 :, arm] = 300.0
    return out


def test_even_rays_give_even_noise():
    flat = torch.zeros(PROTOCOL.shape)
    protocol = replace(PROTOCOL, ray_noise=1.0)
    rows, columns, streaks = ray_sd(flat, protocol)
    assert rows.numpy() == pytest.approx(1.0, abs=1e-3)
    assert columns.numpy() == pytest.approx(1.0, abs=1e-3)
    assert streaks is None
    assert float(noisy(hu=flat, ray_noise=1.0).std()) == pytest.approx(21.0, rel=0.03)


def test_noise_is_stronger_at_the_centre_than_at_the_periphery():
    water = chest()
    water[water > -999] = 0.0
    out = noise(replace(WIDE, noise_hu=20.0), torch.Generator().manual_seed(0), water)
    centre, side, front = out[:, 86:106, 86:106].std(), out[:, 86:106, 10:26].std(), out[:, 38:48, 86:106].std()
    assert float(centre) == pytest.approx(20.0, rel=0.06)
    assert float(side) < 0.98 * float(centre)
    assert float(front) < 0.85 * float(centre)
    even = noise(replace(WIDE, noise_hu=20.0, ray_noise=0.0), torch.Generator().manual_seed(0), water)
    assert float(even[:, 38:48, 86:106].std()) == pytest.approx(20.0, rel=0.06)


def test_arms_leave_horizontal_streaks_in_their_rows():
    out = noise(WIDE, torch.Generator().manual_seed(0), chest(arms=True))
    rows, clear = (slice(126, 146), slice(80, 110)), slice(80, 110)
    streaky, calm = out[12:, rows[0], clear], out[:12, rows[0], clear]
    assert float(streaky.std()) > 1.3 * float(calm.std())

    def along(volume, axis):
        return correlation(volume.narrow(axis, 4, volume.shape[axis] - 4), volume.narrow(axis, 0, volume.shape[axis] - 4))

    assert along(streaky, 2) > along(streaky, 1) + 0.25
    assert abs(along(calm, 2) - along(calm, 1)) < 0.12
    assert float(streaky.diff(dim=1).std()) > 1.2 * float(streaky.diff(dim=2).std())


def test_current_modulation_evens_out_slices():
    body = chest(arms=True)
    shares = []
    for modulation in (0.0, 1.0):
        out = noise(replace(WIDE, current_modulation=modulation, noise_hu=20.0), torch.Generator().manual_seed(0), body)
        shares.append(float(out[12:, 86:106, 86:106].std() / out[:12, 86:106, 86:106].std()))
    heavier = body.clone()
    heavier[12:] = torch.where(heavier[12:] > -999, heavier[12:] + 400, heavier[12:])
    ratio = []
    for modulation in (0.0, 1.0):
        rows, columns, _ = ray_sd(heavier, replace(WIDE, current_modulation=modulation))
        sd = (rows[:, 96] ** 2 + columns[:, 96] ** 2).sqrt()
        ratio.append(float(sd[12:].mean() / sd[:12].mean()))
    assert ratio[0] > 1.25
    assert ratio[1] == pytest.approx(1.0, abs=0.1)
    assert shares[1] == pytest.approx(1.0, abs=0.15)


def test_the_same_generator_state_gives_the_same_noise_whatever_the_device_of_the_image():
    protocol = replace(PROTOCOL, ray_noise=0.0)
    even = noise(protocol, torch.Generator().manual_seed(3))
    assert torch.equal(noise(protocol, torch.Generator().manual_seed(3), torch.zeros(PROTOCOL.shape)), even)


def test_an_image_on_another_grid_or_larger_than_the_bank_is_refused():
    with pytest.raises(ArgumentError):
        noisy(hu=torch.zeros(3, 3, 3))
    with pytest.raises(ArgumentError):
        noisy(shape=(1, 4, 1300))


@pytest.mark.parametrize("name", profile_names())
def test_the_protocols_noise_is_that_at_the_centre_whatever_the_profile(name):
    protocol = draw_protocol(name, np.random.default_rng(3), (-45.0, 45.0), matrix=224)
    _, dy, dx = protocol.spacing_mm
    y, x = ((torch.arange(n) - (n - 1) / 2) * d for n, d in ((224, dy), (224, dx)))
    body = torch.where((y[:, None] / 120) ** 2 + (x[None] / 180) ** 2 < 1, 0.0, -1000.0)
    body[(y[:, None] / 75) ** 2 + ((x.abs()[None] - 110) / 50) ** 2 < 1] = -850.0
    out = noise(protocol, torch.Generator().manual_seed(0), body.repeat(protocol.shape[0], 1, 1))
    assert float(out[:, 90:134, 90:134].std()) == pytest.approx(protocol.noise_hu, rel=0.03)
