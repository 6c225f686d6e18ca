"""The same protocol and seed give the same scan: again, with any number of threads, and on any device."""

import sys
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from cacsnet.scanner import Protocol, draw_protocol, finish, image, metal_streaks, move, noise, profile_names, reimage

CLOSE_HU = 1e-3


def scan(name: str, device: str = "cpu") -> tuple[torch.Tensor, Protocol]:
    """A body with a piece of metal, imaged and finished by a profile's protocol."""
    protocol = draw_protocol(name, np.random.default_rng(2), (-12.0, 12.0), matrix=64, field_mm=220.0)
    field = torch.full((24, 100, 100), -1000.0, device=device)
    field[:, 20:80, 12:88] = 40.0
    field[11:13, 30:33, 48:51] = 9000.0
    hu = image(field, (-29.0, -124.0, -124.0), (2.5, 2.5, 2.5), protocol, background=-1000.0)
    return finish(hu, protocol, torch.Generator().manual_seed(5)), protocol


def reimaged(hu: torch.Tensor, protocol: Protocol) -> torch.Tensor:
    """The finished scan once more: another motion, blur and noise."""
    target = replace(
        protocol, fwhm_mm=1.4 * protocol.fwhm_mm, noise_hu=1.5 * protocol.noise_hu,
        motion_path_mm=((0.5, 1.0, -1.0), (-0.5, -1.0, 1.0)), slab_slices=0, slab_shifts_mm=(),
    )  # fmt: skip
    return reimage(hu, protocol, target, torch.Generator().manual_seed(6))[0]


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal but for voxels that fell on the other side of a rounding border."""
    apart = (a.cpu() - b.cpu()).abs() > CLOSE_HU
    return float((a.cpu() - b.cpu()).abs().max()) <= 1.0 and float(apart.double().mean()) < 1e-3


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", profile_names())
def test_a_scan_is_replayed(name):
    first, protocol = scan(name)
    again, same_protocol = scan(name)
    assert protocol == same_protocol
    assert torch.equal(first, again)


def test_no_other_random_numbers_are_used():
    """Neither the global generator nor the process decides: the noise bank is drawn anew, from its own seed."""
    bank = sys.modules["cacsnet.scanner.noise"]._white
    results = []
    for seed in (1, 2):
        bank.cache_clear()
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        before = torch.get_rng_state()
        results.append(scan("ge_revolution")[0])
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(*results)


@pytest.mark.usefixtures("threads")
def test_the_number_of_threads_does_not_matter():
    """Each operator within 1e-3 HU; only the last one rounds."""
    protocol = draw_protocol("spect_pet_ac", np.random.default_rng(2), (-12.0, 12.0), matrix=64, field_mm=220.0)
    field = torch.randn((24, 100, 100), generator=torch.Generator().manual_seed(1)) * 300
    results = []
    for count in (1, 2):
        torch.set_num_threads(count)
        clean = image(field, (-29.0, -124.0, -124.0), (2.5, 2.5, 2.5), protocol)
        clean[1, 30:33, 30:33] = 9000.0
        grain = noise(protocol, torch.Generator().manual_seed(5), clean)
        streaks = metal_streaks(clean, protocol, torch.Generator().manual_seed(5))
        finished = finish(clean, protocol, torch.Generator().manual_seed(5))
        results.append(
            ([clean, grain, streaks[1], move(clean, 0.0, (3.0, 3.0, 3.0), protocol)], finished, reimaged(finished, protocol))
        )
    (exact, *rounded), (exact_too, *rounded_too) = results
    assert all(float((a - b).abs().max()) < CLOSE_HU for a, b in zip(exact, exact_too, strict=True))
    assert all(same(a, b) for a, b in zip(rounded, rounded_too, strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", profile_names())
def test_a_cuda_device_makes_the_same_scan(name):
    here, protocol = scan(name)
    there, _ = scan(name, "cuda")
    for cpu, cuda in ((here, there), (reimaged(here, protocol), reimaged(here.cuda(), protocol))):
        assert cuda.device.type == "cuda"
        assert same(cuda, cpu)
