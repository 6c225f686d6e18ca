"""Re-imaging adds what is missing and nothing else."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cacsnet.errors import ArgumentError
from cacsnet.scanner import Protocol, image, noise, reimage
from tests.scanner.test_imaging import width

SOURCE = Protocol((1.0, 0.5, 0.5), (30, 96, 96), (0.0, 0.0, 0.0), 1.0, fwhm_mm=0.9, noise_hu=0.0, ray_noise=0.0)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def wire(protocol):
    """A wire along z, imaged noise-free; the lattice is finer than the pixels."""
    field = torch.zeros(3, 481, 481)
    field[:, 240, 240] = 2.5e5
    return image(field, (-1.0, -0.25, -0.25), (20.0, 0.1, 0.1), replace(protocol, origin_mm=(0.0, 0.0, 0.0)))


def fwhm(volume, pixel_mm):
    """FWHM of a Gaussian wire from its second moment along x."""
    line = volume[len(volume) // 2].double().sum(0)
    place = torch.arange(len(line)).double() * pixel_mm
    middle = (line * place).sum() / line.sum()
    return 2.3548 * float(((line * (place - middle) ** 2).sum() / line.sum()).sqrt())


@pytest.mark.parametrize("growth", [1.05, 1.2, 1.6, 2.5])
@pytest.mark.parametrize(("pixel_mm", "source_mm"), [(0.5, 0.9), (0.8, 1.3)])
def test_a_blurred_volume_reaches_the_target_width(growth, pixel_mm, source_mm):
    source = replace(SOURCE, spacing_mm=(1.0, pixel_mm, pixel_mm), shape=(30, 60, 60), fwhm_mm=source_mm)
    blurred = wire(source)
    assert fwhm(blurred, pixel_mm) == pytest.approx(source_mm, rel=0.03)
    target_mm = growth * source_mm
    out, reached = reimage(blurred, source, replace(source, fwhm_mm=target_mm), generator())
    assert fwhm(out, pixel_mm) == pytest.approx(target_mm, rel=0.03)
    assert reached.fwhm_mm == target_mm
    assert float(out.sum()) == pytest.approx(float(blurred.sum()), rel=0.005)


def test_the_same_protocol_changes_nothing():
    hu = (100 * torch.randn(SOURCE.shape, generator=generator(1))).round()
    out, reached = reimage(hu, SOURCE, SOURCE, generator())
    assert torch.equal(out, hu)
    assert reached == SOURCE


def test_resolution_is_never_restored():
    source = replace(SOURCE, fwhm_mm=1.4, thickness_mm=3.0, spacing_mm=(3.0, 0.5, 0.5), noise_hu=20.0)
    hu = (100 * torch.randn(source.shape, generator=generator(1))).round()
    target = replace(source, fwhm_mm=0.8, edge_enhancement=0.5, thickness_mm=1.0, noise_hu=5.0, kvp=80, calcium_scale=0.8)
    out, reached = reimage(hu, source, target, generator())
    assert torch.equal(out, hu)
    assert (reached.fwhm_mm, reached.thickness_mm, reached.edge_enhancement) == (1.4, 3.0, 0.0)
    assert (reached.kvp, reached.calcium_scale) == (120, 1.0)
    assert reached.noise_hu == pytest.approx(20.0, rel=1e-3)


@pytest.mark.parametrize(
    "sharper", [{"fwhm_mm": 0.8}, {"thickness_mm": 0.5}, {"noise_hu": 5.0}, {"edge_enhancement": 0.3}, {"kvp": 100}]
)
def test_strict_refuses_what_would_need_restoration(sharper):
    source = replace(SOURCE, noise_hu=10.0)
    hu = torch.zeros(source.shape)
    reimage(hu, source, replace(source, fwhm_mm=1.2, noise_hu=15.0), generator(), strict=True)
    with pytest.raises(ArgumentError):
        reimage(hu, source, replace(source, **sharper), generator(), strict=True)


def test_strict_allows_less_noise_where_joining_slices_gives_it():
    source = replace(SOURCE, noise_hu=30.0)
    hu = torch.zeros(source.shape)
    _, reached = reimage(hu, source, thick(3.0, 3.0, 10, noise_hu=20.0), generator(), strict=True)  # 30 / sqrt(3) = 17.3
    assert reached.noise_hu == 20.0
    with pytest.raises(ArgumentError):
        reimage(hu, source, thick(3.0, 3.0, 10, noise_hu=16.0), generator(), strict=True)


def test_what_is_reached_names_the_wider_slice_profile():
    source = replace(SOURCE, thickness_mm=3.0, slice_profile="gaussian")
    hu = torch.zeros(source.shape)
    for target, wider in ((("box", 3.0), ("gaussian", 3.0)), (("box", 4.0), ("gaussian", 3.0)), (("box", 6.0), ("box", 6.0))):
        wanted = replace(source, slice_profile=target[0], thickness_mm=target[1])
        _, reached = reimage(hu, source, wanted, generator())
        assert (reached.slice_profile, reached.thickness_mm) == wider


def test_added_noise_is_no_sharper_than_the_image():
    """A target sharper than the source changes nothing, the grain of the added noise included."""
    source = replace(SOURCE, fwhm_mm=1.4)
    wanted = replace(source, fwhm_mm=0.7, edge_enhancement=0.8, noise_hu=20.0)
    hu = torch.zeros(source.shape)
    sharp, plain = (reimage(hu, source, t, generator())[0] for t in (wanted, replace(source, noise_hu=20.0)))
    assert torch.equal(sharp, plain)
    assert float(plain.std()) == pytest.approx(20.0, rel=0.04)


def test_metal_in_a_real_scan_has_its_streaks_already():
    hu = torch.zeros(SOURCE.shape)
    hu[:, 46:50, 46:50] = 3071.0
    assert torch.equal(reimage(hu, SOURCE, SOURCE, generator())[0], hu)


def thick(thickness_mm, increment_mm, count, first=1.0, **changes):
    return replace(
        SOURCE, spacing_mm=(increment_mm, 0.5, 0.5), thickness_mm=thickness_mm, shape=(count, 96, 96),
        origin_mm=(first, 0.0, 0.0), **changes,
    )  # fmt: skip


def test_contiguous_slices_join_to_thicker_ones():
    hu = torch.randn(SOURCE.shape, generator=generator(2)) * 200
    out, reached = reimage(hu, SOURCE, thick(3.0, 3.0, 10), generator())
    assert out.shape == (10, 96, 96)
    assert float((out - hu.reshape(10, 3, 96, 96).mean(1)).abs().max()) <= 0.51
    assert reached.thickness_mm == 3.0


@pytest.mark.parametrize(("profile", "thickness_mm"), [("box", 3.0), ("box", 5.0), ("gaussian", 3.0), ("trapezoid", 4.0)])
def test_thickness_reaches_the_targets_variance(profile, thickness_mm):
    plate = torch.zeros(SOURCE.shape)
    plate[15] = 3000.0
    target = thick(thickness_mm, 1.0, 30, first=0.0, slice_profile=profile)
    line = reimage(plate, SOURCE, target, generator())[0][:, 48, 48].double().numpy()
    place = np.arange(30)
    variance = (line * (place - 15) ** 2).sum() / line.sum() + 1 / 12  # the source slice itself
    expected = {"box": 1 / 12, "trapezoid": 1.25 / 12, "gaussian": 1 / 2.3548**2}[profile] * thickness_mm**2
    assert variance == pytest.approx(expected, rel=0.03)
    if profile == "box":
        assert width(line, 1.0) == pytest.approx(thickness_mm, abs=0.5)


@pytest.mark.parametrize(
    ("before", "changes"),
    [(10.0, {"noise_hu": 25.0}), (25.0, {"fwhm_mm": 1.5, "noise_hu": 20.0}), (20.0, {"iterative": 0.5, "noise_hu": 30.0})],
)
def test_noise_is_brought_up_to_the_target(before, changes):
    source = replace(SOURCE, noise_hu=before)
    out, reached = reimage(noise(source, generator(1)), source, replace(source, **changes), generator(2))
    assert float(out.std()) == pytest.approx(changes["noise_hu"], rel=0.04)
    assert reached.noise_hu == pytest.approx(changes["noise_hu"])


def test_noise_that_is_left_is_known():
    """Three slices joined and blurred from 0.9 to 1.5 mm: nothing is added where more is left than wanted."""
    source = replace(SOURCE, noise_hu=60.0)
    target = thick(3.0, 3.0, 10, fwhm_mm=1.5, noise_hu=1.0)
    out, reached = reimage(noise(source, generator(1)), source, target, generator(2))
    assert float(out.std()) == pytest.approx(reached.noise_hu, rel=0.05)
    assert 5.0 < reached.noise_hu < 60.0 / 3**0.5


def test_padding_is_kept_apart_from_the_image():
    hu = torch.full(SOURCE.shape, 40.0)
    hu[:, :20] = -2048.0
    out, _ = reimage(hu, SOURCE, replace(SOURCE, fwhm_mm=2.0, noise_hu=10.0, padding_hu=-1024), generator())
    assert bool((out[:, :20] == -1024).all())
    assert float(out[:, 30:].mean()) == pytest.approx(40.0, abs=0.5)


def test_only_the_heart_moves_where_it_is_given():
    hu = torch.zeros(SOURCE.shape)
    hu[:, 20:24, 20:24] = hu[:, 70:74, 70:74] = 500.0
    heart = torch.zeros(SOURCE.shape)
    heart[:, :48] = 1.0
    target = replace(SOURCE, motion_path_mm=((0.0, 0.0, 3.0),))
    out, _ = reimage(hu, SOURCE, target, generator(), heart=heart)
    assert torch.equal(out[:, 48:], hu[:, 48:])
    assert float(out[15, 22, 28]) == pytest.approx(500.0, abs=60)
    assert float(out[15, 22, 21]) == pytest.approx(0.0, abs=60)
    everything, _ = reimage(hu, SOURCE, target, generator())
    assert float(everything[15, 72, 78]) == pytest.approx(500.0, abs=60)


@pytest.mark.parametrize("shifts", [(), tuple((0.5, 0.0, 0.0) for _ in range(3))])
def test_noise_reaches_the_target_where_the_heart_moves_and_where_nothing_does(shifts):
    """Motion mixes the noise of the source, too: in the moving heart less of it is left."""
    source = replace(SOURCE, noise_hu=20.0)
    heart = torch.zeros(SOURCE.shape)
    heart[:, :48] = 1.0
    target = replace(
        source, motion_path_mm=tuple((0.0, y, 2 * y) for y in np.linspace(-1, 1, 9)), slab_slices=10 if shifts else 0,
        slab_shifts_mm=shifts,
    )  # fmt: skip
    mixed, _ = reimage(noise(source, generator(1)), source, replace(target, noise_hu=0.0), generator(), heart=heart)
    assert float(mixed[:, :46].std()) < 18
    for wanted in (20.0, 25.0):
        out, _ = reimage(noise(source, generator(1)), source, replace(target, noise_hu=wanted), generator(2), heart=heart)
        assert float(out[:, :46].std()) == pytest.approx(wanted, rel=0.05)
        assert float(out[:, 50:].std()) == pytest.approx(wanted, rel=0.04)


def test_cupping_and_padding_of_the_target_are_added():
    out, _ = reimage(torch.zeros(SOURCE.shape), SOURCE, replace(SOURCE, cupping_hu=12.0, circle_mm=40.0), generator())
    assert float(out[0, 47, 47]) == -12.0
    assert float(out[0, 0, 0]) == -1024.0


def test_the_seed_decides():
    target = replace(SOURCE, noise_hu=20.0)
    hu = torch.zeros(SOURCE.shape)
    first, again, other = (reimage(hu, SOURCE, target, generator(s))[0] for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    "target",
    [
        replace(SOURCE, spacing_mm=(1.0, 0.6, 0.6)),
        replace(SOURCE, shape=(30, 95, 96)),
        replace(SOURCE, origin_mm=(0.0, 1.0, 0.0)),
        replace(SOURCE, shape=(40, 96, 96)),
        replace(SOURCE, origin_mm=(-3.0, 0.0, 0.0)),
    ],
)
def test_other_pixels_or_slices_outside_are_refused(target):
    with pytest.raises(ArgumentError):
        reimage(torch.zeros(SOURCE.shape), SOURCE, target, generator())
    with pytest.raises(ArgumentError):
        reimage(torch.zeros(3, 3, 3), SOURCE, SOURCE, generator())
