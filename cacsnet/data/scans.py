"""How the scans of training patches are made: half from the scanner profiles, half from wide ranges.

Only what lies in the patch's window is imaged. Cupping and padding belong to the scan's whole field, so they are kept apart and
put on afterwards (:func:`apply_field`); ray noise is that of the window.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from cacsnet.scanner.finish import CUPPING_RADIUS_MM
from cacsnet.scanner.motion import motion_path, slab_shifts
from cacsnet.scanner.profiles import draw_protocol, load_profile, profile_names
from cacsnet.scanner.protocol import SLICE_PROFILES, Protocol

LEAST_MM = 30.0
"""A scan covers at least this much of the window along each axis."""

GATED_SHARE = 0.5
"""Share of the wide scans with the short range and small field of a gated scan."""


@dataclass(frozen=True)
class ScanRanges:
    """What :class:`cacsnet.data.patches.PatchSettings` says about scans."""

    realistic_share: float
    pixel_mm: tuple[float, float]
    increment_mm: tuple[float, float]
    fwhm_mm: tuple[float, float]
    noise_hu: tuple[float, float]
    blurred_share: float
    kvps: tuple[int, ...]
    native_voxels: float


@dataclass(frozen=True)
class Field:
    """What depends on the place in the whole field: its centre (y, x; patient mm), cupping and padding as in Protocol."""

    centre_mm: tuple[float, float]
    cupping_hu: float
    circle_mm: float
    padding_hu: int


def draw_native(
    ranges: ScanRanges, rng: np.random.Generator, first: np.ndarray, last: np.ndarray, step_mm: float, heart: np.ndarray,
    bmi_kg_m2: float,
) -> tuple[Protocol, Field]:  # fmt: skip
    """A scan's protocol, cut to the window between the voxel centres ``first`` and ``last`` [3] (patient mm).

    Args:
        step_mm: voxel of the window.
        heart: box [2, 3] of the chambers, patient mm.

    Returns:
        The protocol of the cut, without cupping and circle, and these.
    """
    realistic = rng.random() < ranges.realistic_share
    best: Protocol | None = None
    for _ in range(5):
        drawn = _realistic(rng, first, last, heart, bmi_kg_m2) if realistic else _wide(ranges, rng, first, last)
        whole, centre = drawn
        cut = _cut(whole, first, last, step_mm)
        if best is None or np.prod(cut.shape) < np.prod(best.shape):
            best, best_field = cut, Field(centre, whole.cupping_hu, whole.circle_mm, whole.padding_hu)
        if np.prod(best.shape) <= ranges.native_voxels:
            break
    assert best is not None
    return best, best_field


def _realistic(
    rng: np.random.Generator, first: np.ndarray, last: np.ndarray, heart: np.ndarray, bmi_kg_m2: float
) -> tuple[Protocol, tuple[float, float]]:
    """A scan of the heart (gated) or of the chest by one of the profiles; of the window itself where that misses it."""
    names = profile_names()
    profile = load_profile(names[int(rng.integers(len(names)))])
    below, above = (rng.uniform(8, 20), rng.uniform(12, 30)) if profile.gated else (45.0, 70.0)
    low, high = heart[0][0] - below, heart[1][0] + above
    middle = (heart[0] + heart[1])[1:] / 2 + rng.uniform(-8, 8, 2) if profile.gated else rng.uniform(-25, 25, 2)
    field_mm = float(rng.uniform(*profile.field_mm))
    if profile.gated:
        field_mm = max(field_mm, float((heart[1] - heart[0])[1:].max()) + 20)
    overlap = np.minimum([high, *(middle + field_mm / 2)], last) - np.maximum([low, *(middle - field_mm / 2)], first)
    if (overlap < LEAST_MM).any():
        low, high, middle = first[0] - 5, last[0] + 5, (first + last)[1:] / 2
    y, x = (float(v) for v in middle)
    return draw_protocol(profile, rng, (float(low), float(high)), (y, x), bmi_kg_m2, field_mm=field_mm), (y, x)


def _wide(
    ranges: ScanRanges, rng: np.random.Generator, first: np.ndarray, last: np.ndarray
) -> tuple[Protocol, tuple[float, float]]:
    """Anything that a scanner might do, each setting for itself."""
    low, high = _coverage(rng, first - 5, last + 5)
    blurred = rng.random() < ranges.blurred_share
    pixel = rng.uniform(2, 3) if blurred else rng.uniform(*ranges.pixel_mm)
    increment = rng.uniform(*ranges.increment_mm)
    thickness = max(0.5, increment * rng.choice([1.0, rng.uniform(0.6, 1.0), rng.uniform(1.0, 2.5)]))
    spacing = np.array([increment, pixel, pixel])
    shape = np.maximum(3, np.floor((high - low) / spacing).astype(int))
    origin = low + rng.random(3) * spacing
    slab = int(rng.uniform(12, 80) / increment) if rng.random() < 0.4 else 0
    slabs = -(-int(shape[0]) // slab) if slab else 0
    moving, gated = rng.random() < 0.5, bool(rng.random() < 0.5)
    path = motion_path(rng, rng.uniform(45, 100), rng.uniform(60, 350), gated) if moving else ()
    edge, iterative = rng.uniform(0, 0.8), rng.uniform(0, 1)
    protocol = Protocol(
        tuple(spacing.tolist()), tuple(shape.tolist()), tuple(origin.tolist()), float(thickness),
        fwhm_mm=rng.uniform(*ranges.fwhm_mm) + (1.5 if blurred else 0.0),
        noise_hu=rng.uniform(*ranges.noise_hu) * (0.5 if blurred else 1.0),
        noise_correlation_mm=rng.uniform(0.45, 0.9) if rng.random() < 0.5 and not blurred else None,
        kvp=int(rng.choice(ranges.kvps)), calcium_scale=rng.uniform(0.8, 1.1),
        slice_profile=SLICE_PROFILES[int(rng.integers(len(SLICE_PROFILES)))],
        edge_enhancement=edge if rng.random() < 0.25 else 0.0, iterative=iterative if rng.random() < 0.5 else 0.0,
        ray_noise=rng.uniform(0, 1), current_modulation=rng.uniform(0, 1), motion_path_mm=path,
        motion_start_deg=rng.uniform(0, 180), sources=int(rng.integers(1, 3)), slab_slices=slab if slabs > 1 else 0,
        slab_shifts_mm=slab_shifts(rng, slabs, rng.uniform(0, 2.5)) if slabs > 1 else (),
        cupping_hu=rng.uniform(0, 12), circle_mm=rng.uniform(180, 500) if rng.random() < 0.3 else 0.0,
        padding_hu=int(rng.choice([-1024, -2048, -3024])),
    )  # fmt: skip
    y, x = (float(v) for v in (low + high)[1:] / 2 + rng.uniform(-15, 15, 2))
    return protocol, (y, x)


def _coverage(rng: np.random.Generator, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the scan covers of the window: half of them are gated scans with a short range and a small field of view."""
    middle = rng.uniform([-15, -15, -15], [25, 15, 15])
    half = np.array([rng.uniform(55, 85), *([rng.uniform(88, 130)] * 2)])
    if rng.random() < GATED_SHARE:
        covered = np.minimum(high, middle + half) - np.maximum(low, middle - half)
        if (covered > LEAST_MM).all():
            return np.maximum(low, middle - half), np.minimum(high, middle + half)
    return low, high


def _cut(protocol: Protocol, first: np.ndarray, last: np.ndarray, step_mm: float) -> Protocol:
    """The protocol's voxels that the window needs, without cupping and circle. Slabs are counted from the first kept slice."""
    spacing, origin = np.array(protocol.spacing_mm), np.array(protocol.origin_mm)
    margin = np.maximum(spacing, step_mm)
    low = np.maximum(np.ceil((first - margin - origin) / spacing).astype(int), 0)
    high = np.minimum(np.floor((last + margin - origin) / spacing).astype(int) + 1, protocol.shape)
    low = np.minimum(low, np.array(protocol.shape) - 1)
    shape = np.maximum(high - low, 1).tolist()
    slabs = -(-shape[0] // protocol.slab_slices) if protocol.slab_slices else 0
    z, y, x = (origin + low * spacing).tolist()
    return replace(
        protocol, shape=tuple(shape), origin_mm=(z, y, x), slab_shifts_mm=protocol.slab_shifts_mm[:slabs],
        slab_slices=protocol.slab_slices if slabs else 0, cupping_hu=0.0, circle_mm=0.0,
    )  # fmt: skip


def apply_field(hu: Tensor, protocol: Protocol, field: Field) -> Tensor:
    """Cupping and padding of the whole field on a cut of it: ``hu`` float32 [slices, rows, columns], changed."""
    if not (field.cupping_hu or field.circle_mm):
        return hu
    first = [protocol.origin_mm[k] - field.centre_mm[k - 1] for k in (1, 2)]
    y, x = (first[k - 1] + protocol.spacing_mm[k] * torch.arange(protocol.shape[k], device=hu.device) for k in (1, 2))
    away = (y**2)[:, None] + (x**2)[None]
    darker = field.cupping_hu * (1 - away / CUPPING_RADIUS_MM**2).clamp_min(0)
    outside = away > (field.circle_mm / 2) ** 2 if field.circle_mm else None
    for one in hu:
        if field.cupping_hu:
            one.addcmul_(darker, ((one + 1000) / 1000).clamp_(0, 1), value=-1).round_()
        if outside is not None:
            one.masked_fill_(outside, float(field.padding_hu))
    return hu
