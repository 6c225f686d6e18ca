"""From the coarse structure probabilities to the heart: which component it is, whether the scan holds all of it, and
how far every place is from it."""

from __future__ import annotations

from dataclasses import dataclass

import cc3d
import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from cacsnet.errors import NoHeartError
from cacsnet.grid import axis_weights
from cacsnet.inference.settings import HeartSettings
from cacsnet.inference.windows import Grid, trilinear
from cacsnet.labels import STRUCTURE_INDEX, STRUCTURES, VENTRICLES
from cacsnet.scan import OUTSIDE_FOV_HU, Geometry

CHAMBERS = ("left_ventricle", "right_ventricle", "left_atrium", "right_atrium", "myocardium")
TOUCHING = (
    ("left_ventricle", "myocardium"),
    ("right_ventricle", "myocardium"),
    ("left_atrium", "myocardium"),
    ("right_atrium", "right_ventricle"),
    ("left_atrium", "right_atrium"),
)
LUNG_HU = (-970.0, -400.0)
FAR_MM = 1000.0


@dataclass(frozen=True)
class Heart:
    """The heart on the coarse grid.

    Attributes:
        grid: the coarse grid; all arrays below are [z, y, x] on it.
        mask: bool, the heart with its great vessels, holes filled.
        structures: uint8, labels of the heart's component, 0 elsewhere.
        probabilities: float32 [8, z, y, x] as the network gave them.
        volumes_ml: volume per structure.
        plausibility: 0..1.
        distance_mm: float32, to ``mask`` (0 inside).
        ventricle_distance_mm: float32, to the ventricles and the myocardium (0 inside).
        flags: ``heart_cut_off_z``, ``heart_cut_off_fov``.
    """

    grid: Grid
    mask: np.ndarray
    structures: np.ndarray
    probabilities: Tensor
    volumes_ml: dict[str, float]
    plausibility: float
    distance_mm: np.ndarray
    ventricle_distance_mm: np.ndarray
    flags: tuple[str, ...]

    @property
    def ventricles_ml(self) -> float:
        return sum(self.volumes_ml[STRUCTURES[i].name] for i in VENTRICLES)

    def box_mm(self, margin_mm: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest corner (z, y, x; scan mm) of the heart's box with a margin."""
        z, y, x = (_span(self.mask, axis) for axis in range(3))
        low = np.array([z[0], y[0], x[0]]) - 0.5
        high = np.array([z[1], y[1], x[1]]) + 0.5
        first = np.array(self.grid.first_mm)
        return first + low * self.grid.step_mm - margin_mm, first + high * self.grid.step_mm + margin_mm

    def sample(self, volume: np.ndarray, points_mm: np.ndarray) -> np.ndarray:
        """Trilinear sample of a coarse volume [z, y, x] at scan positions [N, 3] (mm): float32 [N]."""
        index = torch.from_numpy(self.grid.index(points_mm))
        return trilinear(torch.from_numpy(np.asarray(volume, dtype=np.float32))[None], index)[:, 0].numpy()

    def on_native(self, volume: np.ndarray, spacing_mm: tuple[float, float, float], box: tuple[slice, ...]) -> np.ndarray:
        """Linear interpolation of a coarse volume [z, y, x] to a box of the scan's voxels: float32 [z, y, x]."""
        out = torch.from_numpy(np.asarray(volume, dtype=np.float32))
        for axis, weights in enumerate(self._weights(spacing_mm, box)):
            out = torch.tensordot(out, weights, dims=([axis], [1])).movedim(-1, axis)
        return out.numpy()

    def structures_on_native(self, spacing_mm: tuple[float, float, float], box: tuple[slice, ...]) -> np.ndarray:
        """Argmax of the interpolated structure probabilities on a box of the scan's voxels: uint8 [z, y, x]."""
        wz, wy, wx = self._weights(spacing_mm, box)
        # beyond the component only background: another organ's labels must not come back
        mine = torch.from_numpy(ndimage.binary_dilation(self.structures > 0))
        kept = self.probabilities * mine
        kept[0] = 1 - kept[1:].sum(0)
        planes = []
        for row in wz:  # slice by slice: eight native volumes at once would be large
            used = torch.nonzero(row).flatten()
            plane = (kept[:, used] * row[used][:, None, None]).sum(1)
            # numpy's argmax over the first axis: torch's takes five times as long
            planes.append((wy @ plane @ wx.T).numpy().argmax(0).astype(np.uint8))
        return np.stack(planes)

    def _weights(self, spacing_mm: tuple[float, float, float], box: tuple[slice, ...]) -> list[Tensor]:
        weights = []
        for axis in range(3):
            positions = np.arange(box[axis].start, box[axis].stop) * spacing_mm[axis]
            # the outermost native voxels may lie beyond the outermost coarse centres: they take the nearest value
            low = self.grid.first_mm[axis]
            high = low + (self.grid.shape[axis] - 1) * self.grid.step_mm
            if spacing_mm[axis] <= self.grid.step_mm:
                index = (np.clip(positions, low, high) - low) / self.grid.step_mm
                rows = (1 - np.abs(index[:, None] - np.arange(self.grid.shape[axis]))).clip(0)
                weights.append(torch.from_numpy(rows.astype(np.float32)))
            else:
                step = spacing_mm[axis]
                weights.append(axis_weights(self.grid.shape[axis], self.grid.step_mm, positions[0] - low, step, len(positions)))
        return weights


def find_heart(
    probabilities: Tensor, hu: Tensor, grid: Grid, hu_native: np.ndarray, geometry: Geometry, settings: HeartSettings
) -> Heart:
    """Choose the heart among the components of the structure map, by plausibility and not by size.

    Args:
        probabilities: float32 [8, z, y, x] on ``grid``.
        hu: float32 [z, y, x] on ``grid``.
        grid: the coarse grid over the whole scan.
        hu_native: the scan [z, y, x], to see where its field of view ends.
        geometry: of ``hu_native``.
        settings: thresholds.

    Raises:
        NoHeartError: no plausible heart, or most of it lies outside the scan.
    """
    labels = probabilities.argmax(0).numpy().astype(np.uint8)
    components = joined_components(labels, grid.step_mm, settings)
    between = between_lungs(hu.numpy(), grid.step_mm, settings.lung_reach_mm)
    voxel_ml = grid.step_mm**3 / 1000
    best: tuple[float, int] = (-1.0, 0)
    for component in range(1, int(components.max(initial=0)) + 1):
        mask = components == component
        if mask.sum() * voxel_ml < settings.min_ventricles_ml:
            continue
        best = max(best, (plausibility(labels * mask, between, grid.step_mm, settings), component))
    score, component = best
    if not component or score < settings.min_plausibility:
        raise NoHeartError("no heart found", field="plausibility", value=round(max(score, 0.0), 2))

    structures = labels * (components == component)
    volumes = {label.name: float((structures == label.index).sum() * voxel_ml) for label in STRUCTURES[1:]}
    flags = cut_off(structures, grid, hu_native, geometry, settings.cut_off_area_cm2)
    ventricles = sum(volumes[STRUCTURES[i].name] for i in VENTRICLES)
    left = volumes["left_ventricle"] + volumes["myocardium"]
    if ventricles < settings.min_ventricles_ml:
        raise NoHeartError("the heart is not covered by the scan", field="ventricles_ml", value=round(ventricles))
    if flags and left < settings.min_left_ventricle_ml:
        raise NoHeartError("the heart is cut off, the left ventricle missing", field="left_ventricle_ml", value=round(left))
    mask = ndimage.binary_fill_holes(structures > 0)
    return Heart(
        grid=grid,
        mask=mask,
        structures=structures,
        probabilities=probabilities,
        volumes_ml=volumes,
        plausibility=score,
        distance_mm=_distance(mask, grid.step_mm),
        ventricle_distance_mm=_distance(np.isin(structures, VENTRICLES), grid.step_mm),
        flags=flags,
    )


def joined_components(labels: np.ndarray, step_mm: float, settings: HeartSettings) -> np.ndarray:
    """Components [z, y, x] of a structure map, 0 = none. A wide groove of fat may part an atrium from its ventricle: parts
    across a gap of up to ``bridge_mm`` are one heart, but for those smaller than ``min_part_ml``."""
    parts = cc3d.dust(labels > 0, threshold=settings.min_part_ml * 1000 / step_mm**3, connectivity=6)
    steps = round(settings.bridge_mm / 2 / step_mm)
    grown = ndimage.binary_dilation(parts, iterations=steps) if steps else parts
    return np.asarray(cc3d.connected_components(grown, connectivity=6) * parts)


def plausibility(structures: np.ndarray, between: np.ndarray, step_mm: float, settings: HeartSettings) -> float:
    """0..1 for a structure map [z, y, x] that holds one component; ``between`` marks voxels between the lungs."""
    present = []
    for name, (low, high) in settings.plausible_ml.items():
        volume = float((structures == STRUCTURE_INDEX[name]).sum() * step_mm**3 / 1000)
        present.append(min(1.0, volume / low, max(0.0, 2 - volume / high)))
    grown = {
        name: ndimage.binary_dilation(structures == STRUCTURE_INDEX[name])
        for name in {name for pair in TOUCHING for name in pair}
    }
    touching = [bool((grown[a] & grown[b]).any()) for a, b in TOUCHING]
    lungs = float(between[structures > 0].mean())
    return 0.5 * float(np.mean(present)) + 0.25 * float(np.mean(touching)) + 0.25 * lungs


def between_lungs(hu: np.ndarray, step_mm: float, reach_mm: float) -> np.ndarray:
    """Voxels with lung on both sides within ``reach_mm`` on their row: bool [z, y, x] for a coarse volume ``hu``."""
    lung = (hu > LUNG_HU[0]) & (hu < LUNG_HU[1])
    # the partial-volume skin of the body and of fat has the same HU but is thin
    lung = ndimage.binary_opening(lung, structure=np.ones((1, 3, 3)))
    reach = round(reach_mm / step_mm)
    index = np.arange(hu.shape[2])
    left = np.maximum.accumulate(np.where(lung, index, -reach - 1), axis=2)
    right = np.minimum.accumulate(np.where(lung, index, hu.shape[2] + reach)[..., ::-1], axis=2)[..., ::-1]
    return (index - left <= reach) & (right - index <= reach)


def cut_off(structures: np.ndarray, grid: Grid, hu_native: np.ndarray, geometry: Geometry, area_cm2: float) -> tuple[str, ...]:
    """Which borders of the scan cut off the heart's chambers (the great vessels always leave it)."""
    chambers = np.isin(structures, [STRUCTURE_INDEX[name] for name in CHAMBERS])
    smallest = area_cm2 * 100 / grid.step_mm**2
    flags = []
    if any(_touches(chambers, grid, geometry, axis=0, end=end, voxels=smallest) for end in (0, 1)):
        flags.append("heart_cut_off_z")
    in_plane = any(_touches(chambers, grid, geometry, axis, end, smallest) for axis, end in ((1, 0), (1, 1), (2, 0), (2, 1)))
    if in_plane or (_outside_field(hu_native, geometry, grid) & chambers).sum() >= smallest:
        flags.append("heart_cut_off_fov")
    return tuple(flags)


def _touches(mask: np.ndarray, grid: Grid, geometry: Geometry, axis: int, end: int, voxels: float) -> bool:
    """Whether at least ``voxels`` of a mask lie within one native voxel of the scan's border."""
    spacing, step = geometry.spacing_mm[axis], grid.step_mm
    border = (-0.5 if end == 0 else geometry.shape[axis] - 0.5) * spacing
    edges = grid.first_mm[axis] + step * (np.arange(grid.shape[axis]) + (-0.5 if end == 0 else 0.5))
    near = np.abs(edges - border) <= max(spacing, step / 2) + 1e-6
    near |= (edges < border) if end == 0 else (edges > border)
    if not near.any():
        return False
    return int(np.take(mask, np.flatnonzero(near), axis=axis).any(axis=axis).sum()) >= voxels


def _outside_field(hu: np.ndarray, geometry: Geometry, grid: Grid) -> np.ndarray:
    """Coarse voxels [z, y, x] at or beside native voxels outside the field of view."""
    nearest = [
        np.clip(np.rint((f + grid.step_mm * np.arange(n)) / s), 0, m - 1).astype(int)
        for f, n, s, m in zip(grid.first_mm, grid.shape, geometry.spacing_mm, geometry.shape, strict=True)
    ]
    outside = hu[np.ix_(*nearest)] <= OUTSIDE_FOV_HU
    # in-plane only: whole slices outside the field are cut off in z
    return ndimage.binary_dilation(outside, structure=np.ones((1, 3, 3)))


def _distance(mask: np.ndarray, step_mm: float) -> np.ndarray:
    if not mask.any():
        return np.full(mask.shape, FAR_MM, dtype=np.float32)
    # to the surface, which lies half a voxel beyond the outermost centres
    distance = ndimage.distance_transform_edt(~mask, sampling=step_mm) - step_mm / 2
    return distance.clip(0).astype(np.float32)


def _span(mask: np.ndarray, axis: int) -> tuple[int, int]:
    others = tuple(a for a in range(3) if a != axis)
    used = np.flatnonzero(mask.any(axis=others))
    return int(used[0]), int(used[-1])


__all__ = ["CHAMBERS", "Heart", "between_lungs", "cut_off", "find_heart", "plausibility"]
