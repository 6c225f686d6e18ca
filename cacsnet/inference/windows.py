"""A fixed layout of cubic windows over a box, and the stitching of what a network says about them.

Positions are scan mm (see :mod:`cacsnet.grid`), axes [z, y, x].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cacsnet.grid import AIR_HU, resample

SIGMA = 0.2
"""Width of the Gaussian blending weight as a share of the window's side: 4 % of the centre's weight at a face."""

Point = tuple[float, float, float]
Predict = Callable[[list[Point]], Tensor]
"""First voxel centres (z, y, x; mm) of a batch of windows to probabilities, float32 [B, channels, P, P, P]."""


@dataclass(frozen=True)
class Grid:
    """An isotropic grid: voxel (i, j, k) has its centre at ``first_mm + step_mm * (i, j, k)``."""

    first_mm: Point
    step_mm: float
    shape: tuple[int, int, int]

    @classmethod
    def covering(cls, shape: Sequence[int], spacing_mm: Sequence[float], step_mm: float) -> Grid:
        """The centred grid that covers a scan of ``shape`` voxels; no voxel centre lies outside the scan."""
        sizes = [max(1, math.ceil(n * s / step_mm - 1e-6)) for n, s in zip(shape, spacing_mm, strict=True)]
        first = [((n - 1) * s - (m - 1) * step_mm) / 2 for n, s, m in zip(shape, spacing_mm, sizes, strict=True)]
        return cls((first[0], first[1], first[2]), step_mm, (sizes[0], sizes[1], sizes[2]))

    def index(self, points_mm: np.ndarray) -> np.ndarray:
        """Positions float [N, 3] (mm) to continuous indices float64 [N, 3]."""
        return (np.asarray(points_mm, dtype=np.float64) - self.first_mm) / self.step_mm


@dataclass(frozen=True)
class Layout:
    """Windows of ``patch`` voxels a side on ``grid``; ``starts``, their first voxels, may lie outside the grid."""

    grid: Grid
    patch: int
    starts: tuple[tuple[int, int, int], ...]

    @classmethod
    def over(cls, grid: Grid, patch: int, overlap: float) -> Layout:
        """Evenly spread windows that overlap by at least ``overlap`` (0..1); an axis that fits in one is centred."""
        if not 0 <= overlap < 1:
            raise ValueError(f"overlap must lie in [0, 1), got {overlap}")
        # two neighbours share at least one voxel, so that every position between voxel centres lies in a window
        stride = max(1, min(patch - 1, int(patch * (1 - overlap))))
        axes = []
        for size in grid.shape:
            if size <= patch:
                axes.append([-((patch - size) // 2)])
            else:
                count = math.ceil((size - patch) / stride) + 1
                axes.append([round(i * (size - patch) / (count - 1)) for i in range(count)])
        return cls(grid, patch, tuple((z, y, x) for z, y, x in product(*axes)))

    @classmethod
    def over_box(cls, low_mm: Sequence[float], high_mm: Sequence[float], step_mm: float, patch: int, overlap: float) -> Layout:
        """Windows over the box from ``low_mm`` to ``high_mm`` (z, y, x): every position in it lies in a window."""
        sizes = [math.ceil((b - a) / step_mm - 1e-6) + 1 for a, b in zip(low_mm, high_mm, strict=True)]
        grid = Grid((low_mm[0], low_mm[1], low_mm[2]), step_mm, (sizes[0], sizes[1], sizes[2]))
        return cls.over(grid, patch, overlap)

    def first_mm(self, start: Sequence[int]) -> Point:
        z, y, x = (f + s * self.grid.step_mm for f, s in zip(self.grid.first_mm, start, strict=True))
        return z, y, x


@dataclass(frozen=True)
class PointPrediction:
    """Probabilities float32 [N, channels] at N positions, and how many windows ran or held no position."""

    probabilities: np.ndarray
    windows_run: int
    windows_skipped: int


def gaussian(patch: int) -> Tensor:
    """Blending weight float32 [P, P, P], 1 at the centre."""
    axis = _gaussian_at(torch.arange(patch, dtype=torch.float64), patch)
    return (axis[:, None, None] * axis[:, None] * axis).float()


def _gaussian_at(index: Tensor, patch: int) -> Tensor:
    return torch.exp(-0.5 * ((index - (patch - 1) / 2) / (SIGMA * patch)) ** 2)


def _batches(layout: Layout, chosen: Sequence[int], batch: int) -> Iterator[tuple[Sequence[int], list[Point]]]:
    for i in range(0, len(chosen), batch):
        part = chosen[i : i + batch]
        yield part, [layout.first_mm(layout.starts[w]) for w in part]


def stitch_dense(layout: Layout, predict: Predict, batch: int = 2) -> Tensor:
    """Gaussian-weighted mean of all windows on the layout's grid: float32 [channels, z, y, x]."""
    shape, patch = layout.grid.shape, layout.patch
    weight = gaussian(patch)
    total = torch.zeros(shape)
    blended: Tensor | None = None
    for part, firsts in _batches(layout, range(len(layout.starts)), batch):
        probabilities = predict(firsts).float().cpu()
        if blended is None:
            blended = torch.zeros(probabilities.shape[1], *shape)
        for w, window in zip(part, probabilities, strict=True):
            spans = [(max(s, 0), min(s + patch, n), s) for s, n in zip(layout.starts[w], shape, strict=True)]
            on_grid = tuple(slice(a, b) for a, b, _ in spans)
            in_window = tuple(slice(a - s, b - s) for a, b, s in spans)
            blended[(slice(None), *on_grid)] += window[(slice(None), *in_window)] * weight[in_window]
            total[on_grid] += weight[in_window]
    assert blended is not None
    return blended / total


def stitch_points(layout: Layout, points_mm: np.ndarray, predict: Predict, channels: int, batch: int = 2) -> PointPrediction:
    """Gaussian-weighted mean, over the windows that hold a position, of the trilinear sample there.

    A window that holds no position isn't run: it has no weight anywhere, so the result stays exactly the same.

    Args:
        layout: windows; every position must lie in one.
        points_mm: float [N, 3] (z, y, x).
        predict: the network.
        channels: number of channels ``predict`` returns.
        batch: windows per call of ``predict``.
    """
    patch = layout.patch
    index = torch.from_numpy(layout.grid.index(points_mm).reshape(-1, 3))
    starts = torch.tensor(layout.starts, dtype=torch.float64)
    holds = []
    for start in starts:
        local = index - start
        holds.append(torch.nonzero(((local > -1e-6) & (local < patch - 1 + 1e-6)).all(1)).flatten())
    chosen = [w for w, inside in enumerate(holds) if inside.numel()]
    blended = torch.zeros(len(index), channels, dtype=torch.float64)
    total = torch.zeros(len(index), dtype=torch.float64)
    for part, firsts in _batches(layout, chosen, batch):
        probabilities = predict(firsts).float().cpu()
        for w, window in zip(part, probabilities, strict=True):
            local = index[holds[w]] - starts[w]
            weight = _gaussian_at(local, patch).prod(1)
            blended[holds[w]] += trilinear(window, local).double() * weight[:, None]
            total[holds[w]] += weight
    if bool((total == 0).any()):
        raise ValueError("a position lies in no window")
    return PointPrediction((blended / total[:, None]).float().numpy(), len(chosen), len(layout.starts) - len(chosen))


def trilinear(volume: Tensor, index: Tensor) -> Tensor:
    """Sample ``volume`` float32 [channels, z, y, x] at continuous indices [N, 3] (z, y, x): float32 [N, channels].

    Positions beyond the outermost voxel centres take the nearest value.
    """
    sizes = torch.tensor(volume.shape[1:], dtype=torch.float64)
    # grid_sample wants (x, y, z) in -1..1; an axis of one voxel has only one place to be
    place = (2 * index.double() / (sizes - 1).clamp_min(1) - 1) * (sizes > 1)
    where = place.flip(-1).to(volume)[None, None, None]
    sampled = F.grid_sample(volume[None], where, mode="bilinear", padding_mode="border", align_corners=True)
    return sampled[0, :, 0, 0].T


def cut(volume: Tensor, start: Sequence[int], patch: int, fill: float = AIR_HU) -> Tensor:
    """The cube of ``patch`` voxels a side at index ``start`` of ``volume`` [z, y, x]; ``fill`` beyond its border."""
    window = torch.full((patch,) * 3, fill)
    spans = [(max(s, 0), min(s + patch, n), s) for s, n in zip(start, volume.shape, strict=True)]
    if all(a < b for a, b, _ in spans):
        window[tuple(slice(a - s, b - s) for a, b, s in spans)] = volume[tuple(slice(a, b) for a, b, _ in spans)]
    return window


def sample_scan(
    hu: np.ndarray, spacing_mm: Sequence[float], first_mm: Sequence[float], step_mm: float, shape: Sequence[int]
) -> Tensor:
    """:func:`cacsnet.grid.resample` of an int16 or float scan [z, y, x], converting only the part the window needs.

    Voxels outside the field of view count as air; so does everything beyond the scan.
    """
    spans, firsts = [], []
    for n, s, first, m in zip(hu.shape, spacing_mm, first_mm, shape, strict=True):
        reach = 2 * max(s, step_mm)
        low = min(max(math.floor((first - reach) / s), 0), n)
        high = max(min(math.ceil((first + (m - 1) * step_mm + reach) / s) + 1, n), low)
        spans.append(slice(low, high))
        firsts.append(first - low * s)
    part = hu[tuple(spans)]
    if part.size == 0:
        return torch.full(tuple(shape), AIR_HU)
    tensor = torch.from_numpy(np.ascontiguousarray(part, dtype=np.float32)).clamp_min(-1024)
    return resample(tensor, spacing_mm, firsts, step_mm, shape)


def resample_scan(hu: np.ndarray, spacing_mm: Sequence[float], grid: Grid, slab: int = 16) -> Tensor:
    """The whole scan on ``grid``, float32 [z, y, x], made in slabs of ``slab`` planes to spare memory."""
    planes = []
    for z in range(0, grid.shape[0], slab):
        first = (grid.first_mm[0] + z * grid.step_mm, grid.first_mm[1], grid.first_mm[2])
        shape = (min(slab, grid.shape[0] - z), grid.shape[1], grid.shape[2])
        planes.append(sample_scan(hu, spacing_mm, first, grid.step_mm, shape))
    return torch.cat(planes)
