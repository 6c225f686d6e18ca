"""The digital QRM cardio calcification insert: nine cylinders of known mass and two calibration rods.

The real insert is what manufacturers and studies check calcium scores with: diameters 5, 3 and 1 mm, length = diameter (98.2,
21.2 and 0.785 mm³), 200, 400 and 800 mg/cc hydroxyapatite; together 360.5 mm³ and 168.2 mg. Here it is analytic and imaged by
:mod:`cacsnet.scanner`, so a score of it has a true value. Where in the insert the cylinders lie is ours; they are too far
apart to matter to each other.

Hydroxyapatite adds HU in proportion to its concentration: to soft tissue in the cylinders, to water in the rod.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from torch import Tensor

from cacsnet.scanner.imaging import Protocol, image, noise

DIAMETERS_MM = (5.0, 3.0, 1.0)
DENSITIES_MG_CC = (200.0, 400.0, 800.0)
TISSUE_HU = 40.0
WATER_HU = 0.0
ROD_MG_CC = 200.0
ROD_DIAMETER_MM = 20.0
ROI_RADIUS_MM = 6.9
"""In which the rods are measured (FQM code, Med Phys 2021)."""

FINE_MM = 0.1
"""Lattice on which a cylinder is sampled before it is imaged."""

PIXEL_MM = 250.0 / 512
"""In-plane, of :func:`calcium_protocol`."""

_FIELD_PIXELS = 192
_DEPTH_MM = 18.0
_MARGIN_MM = 3.0
_SPOKES_DEG = (0.0, 120.0, 240.0)  # one per density
_RADII_MM = (30.0, 20.0, 12.0)  # one per diameter
_ROD_DEG, _WATER_DEG, _RODS_RADIUS_MM = 60.0, 180.0, 30.0


@dataclass(frozen=True)
class Cylinder:
    """A cylinder as long as wide, its axis along one of the scan's axes.

    Attributes:
        centre_mm: patient (z, y, x).
        axis: 0 z, 1 y, 2 x.
        diameter_mm: diameter and length.
        density_mg_cc: concentration of hydroxyapatite.
    """

    centre_mm: tuple[float, float, float]
    axis: int
    diameter_mm: float
    density_mg_cc: float

    @property
    def volume_mm3(self) -> float:
        return float(np.pi / 4 * self.diameter_mm**3)

    @property
    def mass_mg(self) -> float:
        return self.volume_mm3 * self.density_mg_cc / 1000


@dataclass(frozen=True)
class Insert:
    """Nine cylinders, all centred in one plane across z, by density and falling diameter, and two rods along z.

    Attributes:
        axis: of every cylinder: 0 along z, 1 or 2 in the slice.
        shift_mm: (z, y, x) by which the insert is moved against the scan's grid.
    """

    axis: int = 0
    shift_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @property
    def cylinders(self) -> tuple[Cylinder, ...]:
        return tuple(
            Cylinder(self._at(angle, radius), self.axis, diameter, density)
            for angle, density in zip(_SPOKES_DEG, DENSITIES_MG_CC, strict=True)
            for radius, diameter in zip(_RADII_MM, DIAMETERS_MM, strict=True)
        )

    @property
    def rod_mm(self) -> tuple[float, float, float]:
        """Centre (z, y, x) of the hydroxyapatite rod."""
        return self._at(_ROD_DEG, _RODS_RADIUS_MM)

    @property
    def water_mm(self) -> tuple[float, float, float]:
        """Centre (z, y, x) of the water rod."""
        return self._at(_WATER_DEG, _RODS_RADIUS_MM)

    @property
    def volume_mm3(self) -> float:
        return sum(c.volume_mm3 for c in self.cylinders)

    @property
    def mass_mg(self) -> float:
        return sum(c.mass_mg for c in self.cylinders)

    def _at(self, degrees: float, radius: float) -> tuple[float, float, float]:
        z, y, x = self.shift_mm
        return z, y + radius * float(np.sin(np.deg2rad(degrees))), x + radius * float(np.cos(np.deg2rad(degrees)))


@dataclass(frozen=True)
class InsertImage:
    """The insert as the scanner blurs and samples it, before it has HU; all [z, y, x] on the protocol's grid.

    Attributes:
        calcium_mg_cc: float32, hydroxyapatite of cylinders and rod.
        base_hu: float32, what the hydroxyapatite is added to.
        regions: uint8, the number 1 to 9 of the cylinder within 3 mm (along z: a slice thickness), else 0.
        insert: what was imaged.
        protocol: how.
    """

    calcium_mg_cc: Tensor
    base_hu: Tensor
    regions: np.ndarray
    insert: Insert
    protocol: Protocol

    def hu(self, kvp: int | None = None, calcium_scale: float | None = None, seed: int = 0) -> np.ndarray:
        """int16 HU with the protocol's noise; at another tube voltage or calcium scale without imaging the insert anew."""
        p = self.protocol
        if kvp is not None:
            p = replace(p, kvp=kvp)
        if calcium_scale is not None:
            p = replace(p, calcium_scale=calcium_scale)
        out = self.base_hu + p.hu_per_mg_cc * self.calcium_mg_cc
        if p.noise_hu > 0:
            out = out + noise(p, torch.Generator().manual_seed(seed))
        return out.round().to(torch.int16).numpy()

    def rods_hu(self, hu: np.ndarray) -> tuple[float, float]:
        """Mean HU of the hydroxyapatite rod and of water in their regions of interest, all slices."""
        mean_rod, mean_water = (
            float(hu[:, self._disc(centre, ROI_RADIUS_MM)].mean()) for centre in (self.insert.rod_mm, self.insert.water_mm)
        )
        return mean_rod, mean_water

    def _disc(self, centre_mm: tuple[float, float, float], radius_mm: float) -> np.ndarray:
        (_, dy, dx), (_, rows, columns), (_, y0, x0) = self.protocol.spacing_mm, self.protocol.shape, self.protocol.origin_mm
        y, x = y0 + dy * np.arange(rows), x0 + dx * np.arange(columns)
        return (y[:, None] - centre_mm[1]) ** 2 + (x[None] - centre_mm[2]) ** 2 <= radius_mm**2


def calcium_protocol(
    increment_mm: float = 3.0, thickness_mm: float = 3.0, fwhm_mm: float = 1.0, kvp: int = 120, noise_hu: float = 0.0
) -> Protocol:
    """A calcium-scoring protocol around the insert: pixel 250 mm / 512, 94 mm field."""
    slices = 2 * round(_DEPTH_MM / 2 / increment_mm) + 1
    spacing, shape = (increment_mm, PIXEL_MM, PIXEL_MM), (slices, _FIELD_PIXELS, _FIELD_PIXELS)
    z, y, x = (-s * (n - 1) / 2 for s, n in zip(spacing, shape, strict=True))
    return Protocol(spacing, shape, (z, y, x), thickness_mm, fwhm_mm, noise_hu, kvp=kvp)


def image_insert(insert: Insert, protocol: Protocol, cylinder_base_hu: float = TISSUE_HU) -> InsertImage:
    """Image the insert, surrounded by soft tissue.

    Args:
        insert: its pose.
        protocol: the scan; its noise, tube voltage and calcium scale come in with :meth:`InsertImage.hu`.
        cylinder_base_hu: what the cylinders would be without hydroxyapatite.
    """
    calcium = torch.zeros(protocol.shape)
    base = torch.full(protocol.shape, TISSUE_HU)
    regions = torch.zeros(protocol.shape, dtype=torch.uint8)
    for number, cylinder in enumerate(insert.cylinders, start=1):
        solid, first = _sample(cylinder)
        box = _box(cylinder, protocol)
        share = image(solid, first, (FINE_MM,) * 3, protocol, box)
        calcium[box] += cylinder.density_mg_cc * share
        base[box] += (cylinder_base_hu - TISSUE_HU) * share
        regions[box] = number
    for (_, y, x), density in ((insert.rod_mm, ROD_MG_CC), (insert.water_mm, 0.0)):
        disc = torch.from_numpy(_disc(ROD_DIAMETER_MM)).float()[None]
        half = FINE_MM * (disc.shape[1] - 1) / 2
        # one cell along z, longer than the scan
        share = image(disc, (0.0, y - half, x - half), (10 * _DEPTH_MM, FINE_MM, FINE_MM), protocol)
        calcium += density * share
        base += (WATER_HU - TISSUE_HU) * share
    return InsertImage(calcium, base, regions.numpy(), insert, protocol)


def _box(cylinder: Cylinder, protocol: Protocol) -> tuple[slice, slice, slice]:
    """The voxels that a cylinder can reach through the scanner's blur."""
    reach = np.array([protocol.thickness_mm, _MARGIN_MM, _MARGIN_MM]) + cylinder.diameter_mm / 2
    place = np.array(cylinder.centre_mm) - protocol.origin_mm
    low = np.maximum(np.ceil((place - reach) / protocol.spacing_mm), 0).astype(int)
    high = np.minimum(np.floor((place + reach) / protocol.spacing_mm) + 1, protocol.shape).astype(int)
    z, y, x = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return z, y, x


def _sample(cylinder: Cylinder) -> tuple[Tensor, tuple[float, float, float]]:
    """Share of each fine cell that a cylinder fills, float32 [z, y, x], and the centre of the first cell, mm."""
    disc = _disc(cylinder.diameter_mm)
    solid = _interval(cylinder.diameter_mm, len(disc))[:, None, None] * disc[None]
    z, y, x = (c - FINE_MM * (len(disc) - 1) / 2 for c in cylinder.centre_mm)
    return torch.from_numpy(np.moveaxis(solid, 0, cylinder.axis).astype(np.float32)), (z, y, x)


def _interval(size_mm: float, count: int) -> np.ndarray:
    """Share of each of ``count`` cells around 0 that lies within ``size_mm``, exactly; float64 [count]."""
    edges = (np.arange(count + 1) - count / 2) * FINE_MM
    return np.diff(np.clip(edges, -size_mm / 2, size_mm / 2)) / FINE_MM


@cache
def _disc(diameter_mm: float, chords: int = 16) -> np.ndarray:
    """Share of each cell that lies within a disc, float64 [n, n]: chords exact along a row, ``chords`` of them per row."""
    count = int(np.ceil(diameter_mm / FINE_MM)) + 2
    place = ((np.arange(count * chords) + 0.5) / chords - count / 2) * FINE_MM
    lengths = 2 * np.sqrt(np.maximum((diameter_mm / 2) ** 2 - place**2, 0))
    return np.stack([_interval(length, count) for length in lengths]).reshape(count, chords, count).mean(1)


def vessel_map(regions: np.ndarray, label: int = 2) -> np.ndarray:
    """uint8 [z, y, x]: all cylinders' regions as one vessel (LAD; which doesn't matter)."""
    return np.where(regions > 0, label, 0).astype(np.uint8)
