"""Paint a patient on an isotropic grid: HU without calcium, structure labels, coronary artery area.

The grid is any box of patient mm; patches and whole scans come from here. A part is first tested on a thinned-out grid and
then evaluated only in the box where it can be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cacsnet.labels import STRUCTURE_INDEX
from cacsnet.phantom.anatomy import Block, Patient, View, block_of, doubled
from cacsnet.phantom.fields import capsule_chain
from cacsnet.phantom.heart import Artery

THIN = 8
AREA_MARGIN_MM = 1.5
"""The coronary artery area is the lumen, the wall and a small margin: lumen radius plus this."""


@dataclass(frozen=True)
class Anatomy:
    """A painted box of patient mm.

    Attributes:
        hu: float32 [z, y, x], noise-free, without coronary or other focal calcium.
        structures: uint8 [z, y, x], structure labels.
        area: uint8 [z, y, x], coronary artery area (vessel labels).
        origin_mm: patient (z, y, x) of voxel (0, 0, 0).
        step_mm: voxel size.
    """

    hu: Tensor
    structures: Tensor
    area: Tensor
    origin_mm: tuple[float, float, float]
    step_mm: float


def grid_points(origin_mm: Sequence[float], step_mm: Sequence[float], shape: Sequence[int]) -> Tensor:
    """Points float32 [3, *shape], (z, y, x) mm."""
    axes = [origin_mm[k] + step_mm[k] * torch.arange(shape[k], dtype=torch.float32) for k in range(3)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def _paint(
    hu: Tensor,
    block: Block,
    sdf: Tensor,
    value: float | Tensor,
    step_mm: float,
) -> None:
    cover = (0.5 - sdf / step_mm).clamp(0, 1)
    hu[block] = hu[block] * (1 - cover) + value * cover


def render(
    patient: Patient, arteries: Sequence[Artery], origin_mm: Sequence[float], step_mm: float, shape: Sequence[int]
) -> Anatomy:
    """Paint the box. ``shape`` in voxels; float32 throughout; deterministic.

    Smooth parts are evaluated on every second point and interpolated: a surface of 20 mm radius moves by step² / (2 · 20 mm),
    0.1 mm for 2 mm voxels.
    """
    odd = [size + 1 - size % 2 for size in shape]
    view = View.of(patient, grid_points(origin_mm, (step_mm,) * 3, odd))
    thin = view.thinned(THIN)
    assert view.half is not None
    reach = THIN * step_mm * 1.9
    hu = torch.full(tuple(odd), -1000.0)
    structures = torch.zeros(tuple(odd), dtype=torch.uint8)
    for part in patient.parts():
        block = block_of(part.sdf(thin) < reach, THIN, odd)
        if block is None:
            continue
        box = view.box(block)
        sdf = part.sdf(box) if part.fine else doubled(part.sdf(view.half.box(_halved(block))))
        _paint(hu, block, sdf, part.hu(box) if callable(part.hu) else part.hu, step_mm)
        if part.label is not None:
            structures[block][sdf < 0] = part.label
    hu += patient.shading(view)
    area = paint_arteries(patient, arteries, hu, structures, view.heart, thin.heart, step_mm)
    inner = tuple(slice(0, size) for size in shape)
    hu, structures, area = hu[inner], structures[inner], area[inner]
    z, y, x = (float(v) for v in origin_mm)
    return Anatomy(hu, structures, area, (z, y, x), float(step_mm))


def _halved(block: Block) -> Block:
    """The same box on the half grid; its ends must lie on it."""
    return tuple(slice(b.start // 2, b.stop // 2 + 1) for b in block)


def paint_arteries(
    patient: Patient, arteries: Sequence[Artery], hu: Tensor, structures: Tensor, heart: Tensor, thin: Tensor, step_mm: float
) -> Tensor:
    """Arteries and veins, each in a sheath of fat that keeps it apart from the chambers' walls; returns the coronary artery
    area, uint8 [z, y, x], nearest artery first. Two passes: a sheath must not cover another vessel."""
    area = torch.zeros(hu.shape, dtype=torch.uint8)
    nearest = torch.full(hu.shape, 1e3)
    blood = patient.tissue.chamber_hu.get("aorta", patient.tissue.blood)
    scale = patient.heart_scale
    chunk = 12
    pieces = []
    for artery in arteries:
        for start in range(0, len(artery.line) - 1, chunk):
            line = torch.tensor(artery.line[start : start + chunk + 1 : 2], dtype=torch.float32)
            radii = torch.tensor(artery.radii[start : start + chunk + 1 : 2], dtype=torch.float32)
            if len(line) < 2:
                line = torch.tensor(artery.line[start : start + 2], dtype=torch.float32)
                radii = torch.tensor(artery.radii[start : start + 2], dtype=torch.float32)
            middle = line.mean(0)
            size = float((line - middle).norm(dim=1).max()) + 5.0
            distance = (thin - middle.reshape(3, 1, 1, 1)).norm(dim=0) * scale
            block = block_of(distance < size + THIN * step_mm, THIN, hu.shape)
            if block is None:
                continue
            sdf = capsule_chain(heart[(slice(None), *block)], line, radii) * scale
            pieces.append((artery.vessel, block, sdf))
            sheath = sdf - patient.sheath_mm
            sheath[structures[block] >= STRUCTURE_INDEX["aorta"]] = step_mm  # the ostia stay open
            _paint(hu, block, sheath, patient.tissue.fat, step_mm)
            structures[block][sheath < 0] = 0
    for vessel, block, sdf in pieces:
        _paint(hu, block, sdf, blood, step_mm)
        if vessel:
            closer = (sdf < nearest[block]) & (sdf < AREA_MARGIN_MM)
            area[block][closer] = vessel
            nearest[block] = torch.minimum(nearest[block], sdf)
    return area


def heart_box(patient: Patient, margin_mm: float = 0.0) -> np.ndarray:
    """Patient mm box [2, 3] (low, high) of the chambers, measured on a 6 mm grid."""
    points = grid_points((-110, -110, -120), (6.0,) * 3, (38, 38, 41))
    inside = patient.heart.muscle_sdf(patient.to_heart(patient.to_thorax(points))) < 0
    hit = points[:, inside].numpy()
    return np.stack([hit.min(1) - margin_mm, hit.max(1) + margin_mm])
