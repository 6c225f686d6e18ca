"""Centre lines, lengths and calibres of tubes in label arrays. Reads labels only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.ndimage import distance_transform_edt, gaussian_filter1d, map_coordinates
from scipy.sparse import coo_array
from scipy.sparse.csgraph import dijkstra

SMOOTH_MM = 2.0
"""A path over voxels is a staircase; smoothed with this SD it is as long as the line it follows (tested)."""

HALF_OFFSETS = [
    (z, y, x)
    for z in (-1, 0, 1)
    for y in (-1, 0, 1)
    for x in (-1, 0, 1)
    if (z, y, x) > (0, 0, 0)
]  # fmt: skip


@dataclass(frozen=True)
class Tube:
    """A connected mask as a graph of its voxels.

    Attributes:
        step_mm: voxel.
        voxels: int [n, 3] (z, y, x).
        depth_mm: float [n], distance to the nearest voxel outside.
        length, cost: sparse [n, n]: mm between neighbours (26), and the same made dear near the wall.
    """

    step_mm: float
    voxels: np.ndarray
    depth_mm: np.ndarray
    length: coo_array
    cost: coo_array

    @classmethod
    def of(cls, mask: np.ndarray, step_mm: float) -> Tube:
        """Of the voxels of a bool mask [z, y, x]; beyond the array is outside."""
        found = ndimage.find_objects(mask.astype(np.uint8))
        low = np.array([s.start for s in found[0]]) if found else np.zeros(3, int)
        inner = np.pad(mask[found[0]] if found else mask, 1)  # with a rim: cheap, and neighbours need no check
        depth = distance_transform_edt(inner) * step_mm
        index = np.argwhere(inner)
        voxels = index - 1 + low
        number = np.full(inner.shape, -1, np.int32)
        number[tuple(index.T)] = np.arange(len(index))
        rows, columns, lengths = [], [], []
        for offset in HALF_OFFSETS:
            other = number[tuple((index + offset).T)]
            here = np.flatnonzero(other >= 0)
            rows.append(here)
            columns.append(other[here])
            lengths.append(np.full(len(here), float(np.linalg.norm(offset)) * step_mm))
        i, j, length = np.concatenate(rows), np.concatenate(columns), np.concatenate(lengths)
        at = depth[tuple(index.T)]
        dear = length / np.minimum(at[i], at[j]) ** 3  # cube: clings to the ridge of the depth, also round bends
        n = len(voxels)
        return cls(step_mm, voxels, at, coo_array((length, (i, j)), (n, n)), coo_array((dear, (i, j)), (n, n)))

    def way(self, start: int, ends: np.ndarray) -> np.ndarray:
        """Centre line float [m, 3] (mm from voxel 0, about one point a mm) from a voxel to the farthest of ``ends``.

        Farthest along the tube. Voxels that can't be reached don't count; none left: an empty line.
        """
        far = dijkstra(self.length.tocsr(), directed=False, indices=start)
        reached = ends[np.isfinite(far[ends])]
        if not len(reached):
            return np.zeros((0, 3))
        last = int(reached[far[reached].argmax()])
        _, before = dijkstra(self.cost.tocsr(), directed=False, indices=start, return_predecessors=True)
        path = [last]
        while path[-1] != start:
            path.append(int(before[path[-1]]))
        return self._line(np.array(path[::-1]))

    def _line(self, path: np.ndarray) -> np.ndarray:
        line = self.voxels[path] * self.step_mm
        if len(line) < 3:
            return line.astype(float)
        even = resampled(line, self.step_mm / 2)
        return resampled(gaussian_filter1d(even, SMOOTH_MM / (self.step_mm / 2), axis=0, mode="nearest"), 1.0)


def resampled(line: np.ndarray, step: float) -> np.ndarray:
    """A polyline [n, 3] at equal steps of about ``step`` mm."""
    arc = arc_mm(line)
    n = max(2, round(arc[-1] / step) + 1)
    return np.stack([np.interp(np.linspace(0, arc[-1], n), arc, line[:, k]) for k in range(3)], 1)


def arc_mm(line: np.ndarray) -> np.ndarray:
    """Length [n] along a polyline [n, 3] up to each of its points."""
    return np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])


def length_mm(line: np.ndarray) -> float:
    return float(arc_mm(line)[-1]) if len(line) > 1 else 0.0


def frames(line: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit tangents and two normals [n, 3] that turn with the line as little as possible."""
    along = np.gradient(line, axis=0)
    along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)
    first = np.zeros_like(along)
    side = np.eye(3)[np.abs(along[0]).argmin()]
    for k, direction in enumerate(along):
        side = side - direction * (side @ direction)
        side = side / np.linalg.norm(side)
        first[k] = side
    return along, first, np.cross(along, first)


def planes(volume: np.ndarray, line: np.ndarray, step_mm: float, half_mm: float, pixel_mm: float) -> np.ndarray:
    """A volume's values on planes across a line (mm from voxel 0): float [n, m, m], linear, 0 outside the volume."""
    _, first, second = frames(line)
    reach = np.arange(-round(half_mm / pixel_mm), round(half_mm / pixel_mm) + 1) * pixel_mm
    a, b = np.meshgrid(reach, reach, indexing="ij")
    points = line[:, None, None] + a[..., None] * first[:, None, None] + b[..., None] * second[:, None, None]
    out: np.ndarray = map_coordinates(volume, np.moveaxis(points, -1, 0) / step_mm, output=np.float32, order=1)
    return out


def calibres_mm(mask: np.ndarray, line: np.ndarray, step_mm: float, half_mm: float) -> np.ndarray:
    """Diameter [n] of the circle with the area of a mask's cross section, at each point of a centre line (mm from voxel 0).

    The cross section is what hangs together with the line within ``half_mm``; NaN where the line lies outside the mask.
    """
    pixel = max(0.5 * step_mm, half_mm / 40)
    soft = ndimage.gaussian_filter(mask.astype(np.float32), 0.7)  # its half level is a smoother surface than the voxels'
    inside = planes(soft, line, step_mm, half_mm, pixel) > 0.5
    middle = inside.shape[1] // 2
    out = np.full(len(line), np.nan)
    for k, plane in enumerate(inside):
        label, _ = ndimage.label(plane)
        mine = label[middle, middle]
        if mine:
            out[k] = 2 * np.sqrt((label == mine).sum() * pixel**2 / np.pi)
    return out


def nearest_voxel(tube: Tube, place: np.ndarray) -> int:
    """Number of the tube's voxel nearest to a place in voxels [3]."""
    return int(np.square(tube.voxels - place).sum(1).argmin())
