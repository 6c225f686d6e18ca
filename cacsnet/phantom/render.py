"""Paint a patient on an isotropic grid: HU without calcium, structure labels, coronary artery area.

The grid is any box of patient mm; patches and whole scans come from here. A part is first tested in tiles, then in their
cells, and evaluated only where its surface can be.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from cacsnet.labels import STRUCTURE_INDEX
from cacsnet.phantom.anatomy import Part, Patient, View
from cacsnet.phantom.fields import capsule_chain
from cacsnet.phantom.heart import Artery

TILE, CELL = 8, 2
"""Voxels a side of the tiles and of their cells. One point of each is tested."""

REACH = 1.9
"""A tile or cell of n voxels a side is left out where its tested point is more than n voxels times this from the surface: its
corners are 0.87 n away, and distances are only roughly true."""

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


def grid_points(
    origin_mm: Sequence[float], step_mm: Sequence[float], shape: Sequence[int], device: torch.device | str = "cpu"
) -> Tensor:
    """Points float32 [3, *shape], (z, y, x) mm."""
    axes = [origin_mm[k] + step_mm[k] * torch.arange(shape[k], dtype=torch.float32, device=device) for k in range(3)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


class _Points(View):
    """Single points [m] of a view's grid, by flat index; they share the grid's fields."""

    def __init__(self, grid: View, place: Tensor) -> None:
        self.patient, self.grid, self.place = grid.patient, grid, place

    @cached_property
    def thorax(self) -> Tensor:  # type: ignore[override]
        return self._of(self.grid.thorax)

    @cached_property
    def heart(self) -> Tensor:  # type: ignore[override]
        return self._of(self.grid.heart)

    def field(self, name: str) -> Tensor:
        return self._of(self.grid.field(name))

    def _of(self, values: Tensor) -> Tensor:
        return values.reshape(*values.shape[:-3], -1).index_select(-1, self.place)


class _Tiles:
    """Flat indices of the tiles, cells and voxels of a grid of 8 k + 1 points a side, its last planes left out."""

    def __init__(self, shape: Sequence[int], device: torch.device | str) -> None:
        self.rows = (shape[1] * shape[2], shape[2], 1)
        base = self._flat([torch.arange(0, n - 1, TILE, device=device) for n in shape])
        cell = torch.arange(0, TILE, CELL, device=device)
        voxel = torch.arange(CELL, device=device)
        self.tested = base + self._flat([torch.tensor([TILE // 2], device=device)] * 3)
        self.cells = base[:, None] + self._flat([cell] * 3)
        self.tested_of_cell = int(self._flat([torch.tensor([CELL // 2], device=device)] * 3))
        self.voxels = self._flat([voxel] * 3)

    def _flat(self, axes: Sequence[Tensor]) -> Tensor:
        z, y, x = (a * row for a, row in zip(axes, self.rows, strict=True))
        return (z[:, None, None] + y[:, None] + x).reshape(-1)

    def cells_near(self, part: Part, view: View, tested: View, step_mm: float) -> tuple[Tensor, Tensor]:
        """Flat indices of the first voxels of cells where the part may be, and its distance (mm) at their tested voxels."""
        cells = self.cells[part.sdf(tested).reshape(-1) < TILE * REACH * step_mm].reshape(-1)
        sdf = part.sdf(_Points(view, cells + self.tested_of_cell)) if len(cells) else cells.float()
        near = sdf < CELL * REACH * step_mm
        return cells[near], sdf[near]


def render(
    patient: Patient, arteries: Sequence[Artery], origin_mm: Sequence[float], step_mm: float, shape: Sequence[int],
    device: torch.device | str = "cpu",
) -> Anatomy:  # fmt: skip
    """Paint the box. ``shape`` in voxels; float32 throughout; deterministic. Another box shows the same patient."""
    whole = [TILE * -(-size // TILE) + 1 for size in shape]
    # nothing is drawn at random here; the parts' own constants go where the grid is
    with nullcontext() if torch.device(device).type == "cpu" else torch.device(device):
        view = View.of(patient, grid_points(origin_mm, (step_mm,) * 3, whole, device))
        hu = torch.full(tuple(whole), -1000.0)
        structures = torch.zeros(tuple(whole), dtype=torch.uint8)
        tiles = _Tiles(whole, device)
        tested = _tested(view)
        for part in patient.parts():
            cells, sdf = tiles.cells_near(part, view, tested, step_mm)
            if len(cells):
                edge = sdf > -CELL * REACH * step_mm
                inner = (cells[~edge, None] + tiles.voxels).reshape(-1)
                place = (cells[edge, None] + tiles.voxels).reshape(-1)
                exact = part.sdf(_Points(view, place))
                covered = exact < 0.5 * step_mm
                place = torch.cat([place[covered], inner])
                exact = torch.cat([exact[covered], torch.full(inner.shape, -step_mm)])
                _paint_points(part, view, hu, structures, place, exact, step_mm)
        hu += patient.shading(view)
        area = paint_arteries(patient, arteries, hu, structures, view.heart, origin_mm, step_mm)
    inside = tuple(slice(0, size) for size in shape)
    z, y, x = (float(v) for v in origin_mm)
    return Anatomy(hu[inside], structures[inside], area[inside], (z, y, x), float(step_mm))


def _tested(view: View) -> View:
    """The tested points of all tiles [3, n], apart from the grid: the view's fields are not made for them."""
    thorax, heart = (p[:, TILE // 2 :: TILE, TILE // 2 :: TILE, TILE // 2 :: TILE] for p in (view.thorax, view.heart))
    return View(view.patient, thorax.contiguous(), heart.contiguous())


def _paint_points(part: Part, view: View, hu: Tensor, structures: Tensor, place: Tensor, sdf: Tensor, step_mm: float) -> None:
    value = part.hu(_Points(view, place)) if callable(part.hu) else part.hu
    flat = hu.view(-1)
    flat[place] = _mix(flat[place], sdf, value, step_mm)
    if part.label is not None:
        structures.view(-1)[place[sdf < 0]] = part.label


def _mix(hu: Tensor, sdf: Tensor, value: float | Tensor, step_mm: float) -> Tensor:
    """``value`` over ``hu`` (changed in place) where the part covers a voxel: 0.5 - sdf / step of it."""
    cover = (sdf * (-1 / step_mm) + 0.5).clamp_(0, 1)
    hu += cover.mul_(value - hu)
    return hu


def paint_arteries(
    patient: Patient, arteries: Sequence[Artery], hu: Tensor, structures: Tensor, heart: Tensor,
    origin_mm: Sequence[float], step_mm: float,
) -> Tensor:  # fmt: skip
    """Arteries and veins, each in a sheath of fat that keeps it apart from the chambers' walls; returns the coronary artery
    area, uint8 [z, y, x], nearest artery first. Two passes: a sheath must not cover another vessel.

    Args:
        hu, structures: the painted grid, changed.
        heart: its points [3, z, y, x] in the heart frame.
    """
    area = torch.zeros_like(structures)
    if not arteries:
        return area
    nearest = torch.full_like(hu, 1e3)
    blood = patient.tissue.chamber_hu.get("aorta", patient.tissue.blood)
    scale = patient.heart_scale
    reach = scale * max(float(a.radii.max()) for a in arteries) + max(patient.sheath_mm, AREA_MARGIN_MM) + step_mm
    points = patient.heart_to_patient(np.concatenate([a.line for a in arteries]))
    points = (points - np.array(origin_mm)) / step_mm  # voxels
    starts = np.cumsum([0, *(len(a.line) for a in arteries)])
    chunk = 12
    pieces = []
    for artery, first in zip(arteries, starts.tolist(), strict=False):
        for start in range(0, len(artery.line) - 1, chunk):
            mine = slice(start, start + chunk + 1, 2 if len(artery.line) - start > 2 else 1)
            here = points[first + start : first + min(start + chunk + 1, len(artery.line))]
            low = np.maximum(np.floor(here.min(0) - 1.3 * reach / step_mm).astype(int), 0)
            high = np.minimum(np.ceil(here.max(0) + 1.3 * reach / step_mm).astype(int) + 1, hu.shape)
            if (high <= low).any():
                continue
            block = tuple(slice(a, b) for a, b in zip(low.tolist(), high.tolist(), strict=True))
            line, radii = (torch.tensor(values[mine], dtype=torch.float32) for values in (artery.line, artery.radii))
            sdf = capsule_chain(heart[(slice(None), *block)], line, radii) * scale
            pieces.append((artery.vessel, block, sdf))
            sheath = sdf - patient.sheath_mm
            sheath[structures[block] >= STRUCTURE_INDEX["aorta"]] = step_mm  # the ostia stay open
            if not artery.vessel:  # and so does the coronary sinus
                sheath[structures[block] == STRUCTURE_INDEX["right_atrium"]] = step_mm
            _mix(hu[block], sheath, patient.tissue.fat, step_mm)
            structures[block][sheath < 0] = 0
    for vessel, block, sdf in pieces:
        _mix(hu[block], sdf, blood, step_mm)
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
