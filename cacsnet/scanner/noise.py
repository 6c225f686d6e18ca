"""Quantum noise with the kernel's spectrum, streaky where rays are weak, correlated between slices that overlap.

Rays along x carry the frequencies along y and the other way round. So the noise is the sum of two textures: one of rays
along x, with sin²φ of the spectrum, times their relative SD, and one of rays along y, with cos²φ. Where both SDs agree it is
isotropic. Where rays along x are far weaker than all others, a third one, of a narrow range of directions, leaves long
horizontal streaks.

Slices are cut from a bank of periodic textures: white noise, transformed once, shaped by a product and an inverse transform.
Each slice is the sum of two members at random offsets and signs, one for either direction of rays.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from cacsnet.errors import ArgumentError
from cacsnet.scanner.kernel import noise_power, slice_correlation
from cacsnet.scanner.protocol import Protocol
from cacsnet.scanner.rays import ray_sd

MEMBERS = 24
"""White textures kept."""

DRAWN = (6, 7, 5)
"""Members used in one volume for rays along x, along y and for streaks. Slices take them in turn: neighbours share none, and
a pair comes back only after 42 slices, at other offsets."""

NARROW = 24
"""Streaks have sin^NARROW φ of the spectrum: rays within some 16° of x. Unverified default."""

SIZES = (96, 128, 192, 256, 384, 512, 768, 1024, 1536)


@lru_cache(maxsize=len(SIZES))
def _white(size: int, device: torch.device) -> Tensor:
    """Spectra [MEMBERS, size, size / 2 + 1] of white noise, drawn on the CPU: the same for every device."""
    white = torch.randn(MEMBERS, size, size, generator=torch.Generator().manual_seed(size))
    return torch.fft.rfft2(white).to(device)


@lru_cache(maxsize=8)
def _shapes(size: int, dy: float, dx: float, key: Protocol) -> Tensor:
    """Amplitudes [3, size, size / 2 + 1] of rays along x, along y and streaks. The first two give textures of SD 1, the third
    one of the SD that goes with it: the share of directions in its variance."""
    fy = torch.fft.fftfreq(size, dy)[:, None]
    fx = torch.fft.rfftfreq(size, dx)[None]
    square = (fy**2 + fx**2).clamp_min(1e-12)
    across = fy**2 / square
    power = noise_power(key, square.sqrt()) * torch.stack([across, 1 - across, across ** (NARROW // 2)])
    power[:, 0, 0] = 0
    twice = torch.full((size // 2 + 1,), 2.0)  # columns that stand for two
    twice[0] = twice[-1] = 1.0
    mean = (power * twice).sum((1, 2), keepdim=True) / size**2
    mean[2] = mean[0]
    return (power / mean).sqrt()


def _key(protocol: Protocol) -> Protocol:
    """Only what the spectrum depends on."""
    return Protocol(
        (1, 1, 1), (1, 1, 1), (0, 0, 0), 1.0, fwhm_mm=protocol.fwhm_mm, edge_enhancement=protocol.edge_enhancement,
        iterative=protocol.iterative, noise_correlation_mm=protocol.noise_correlation_mm,
    )  # fmt: skip


def noise(protocol: Protocol, generator: torch.Generator, hu: Tensor | None = None) -> Tensor:
    """Zero-mean noise, float32 [slices, rows, columns] on the device of ``hu`` (CPU without it).

    Args:
        generator: on the CPU; the same state gives the same noise on every device.
        hu: the noise-free image [slices, rows, columns], by which the noise is stronger behind thick parts; None: even noise.

    Raises:
        ArgumentError: ``hu`` isn't on the protocol's grid, or the grid is larger than the bank.
    """
    if hu is not None and tuple(hu.shape) != tuple(protocol.shape):
        raise ArgumentError("image isn't on the protocol's grid", field="hu.shape", value=tuple(hu.shape))
    slices, rows, columns = protocol.shape
    device = torch.device("cpu") if hu is None else hu.device
    size = next((s for s in SIZES if s >= 1.25 * max(rows, columns)), 0)
    if not size:
        raise ArgumentError(f"no texture is larger than {SIZES[-1]} pixels", field="protocol.shape", value=protocol.shape)
    member = torch.randperm(MEMBERS, generator=generator)[: sum(DRAWN)].split(DRAWN)
    place = torch.rand(2, 3, slices, generator=generator)
    top = (place[0] * (size - rows + 1)).int().tolist()
    left = (place[1] * (size - columns + 1)).int().tolist()
    sign = (2.0 * torch.randint(2, (3, slices), generator=generator) - 1).tolist()

    level = protocol.noise_hu / np.sqrt(2)
    scale = [] if hu is None or protocol.ray_noise == 0 else [level * sd for sd in ray_sd(hu, protocol) if sd is not None]
    used = max(2, len(scale))
    shape = _shapes(size, *protocol.spacing_mm[1:], _key(protocol)).to(device)
    white = _white(size, device)
    texture = [[torch.fft.irfft2(white[m] * shape[d], s=(size, size)) for m in member[d].tolist()] for d in range(used)]
    out = torch.empty(protocol.shape, device=device)
    for k in range(slices):
        x_rays, y_rays, *streaks = (
            texture[d][k % DRAWN[d]][top[d][k] : top[d][k] + rows, left[d][k] : left[d][k] + columns] for d in range(used)
        )
        if not scale:
            torch.mul(x_rays, sign[0][k] * level, out=out[k]).add_(y_rays, alpha=sign[1][k] * level)
            continue
        torch.mul(x_rays, sign[0][k] * scale[0][k][:, None], out=out[k])
        out[k].addcmul_(y_rays, scale[1][k][None], value=sign[1][k])
        for streak in streaks:
            out[k].addcmul_(streak, scale[2][k][:, None], value=sign[2][k])
    return _overlap(out, protocol)


def _overlap(white: Tensor, protocol: Protocol) -> Tensor:
    """Correlate independent slices as their profiles overlap: the Cholesky factor of the wanted correlation."""
    count = len(white)
    correlation = slice_correlation(protocol.slice_profile, protocol.thickness_mm, protocol.spacing_mm[0], count)
    if not (np.abs(correlation[1:]) > 0.01).any():
        return white
    lag = np.abs(np.arange(count)[:, None] - np.arange(count)[None])
    wanted = correlation[lag] + 1e-4 * np.eye(count)
    factor = np.linalg.cholesky(wanted / wanted[0, 0]).astype(np.float32)
    for k in range(count - 1, -1, -1):  # from the last on: a slice needs those before it as they were
        white[k] *= float(factor[k, k])
        for j in np.flatnonzero(np.abs(factor[k, :k]) > 1e-8).tolist():
            white[k].add_(white[j], alpha=float(factor[k, j]))
    return white
