"""Building blocks of an implicit anatomy: signed distances (mm, negative inside) and smooth random fields.

Points are float32 tensors [3, ...] of (z, y, x) mm: z to the head, y to the back, x to the patient's left.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

Vector = Sequence[float] | np.ndarray
"""Three numbers, (z, y, x)."""


def vector(values: Vector, like: Tensor) -> Tensor:
    """A (z, y, x) vector shaped to broadcast against points [3, ...]."""
    return torch.tensor(list(values), dtype=like.dtype, device=like.device).reshape(3, *([1] * (like.dim() - 1)))


def ellipsoid(p: Tensor, centre: Vector, axes: np.ndarray | None, radii: Vector) -> Tensor:
    """Approximate signed distance to an ellipsoid. ``axes``: rows are the unit (z, y, x) directions of the radii (mm),
    None for the coordinate axes."""
    q = p - vector(centre, p)
    if axes is not None:
        q = torch.einsum("ij,j...->i...", torch.as_tensor(axes, dtype=p.dtype, device=p.device), q)
    r = vector(radii, p)
    k0 = (q / r).square().sum(0).sqrt()
    k1 = (q / (r * r)).square().sum(0).sqrt().clamp_min(1e-6)
    return k0 * (k0 - 1) / k1


def capsule_chain(p: Tensor, line: Tensor, radii: Tensor) -> Tensor:
    """Signed distance to a tube: polyline [n, 3] (mm) with a radius (mm) at each point, linear in between."""
    best = torch.full(p.shape[1:], 1e6, dtype=p.dtype, device=p.device)
    for a, b, ra, rb in zip(line[:-1], line[1:], radii[:-1], radii[1:], strict=True):
        ab = b - a
        pa = p - vector(a.tolist(), p)
        t = (torch.einsum("i,i...->...", ab.to(p), pa) / ab.square().sum().clamp_min(1e-9).to(p)).clamp(0, 1)
        d = (pa - vector(ab.tolist(), p) * t).square().sum(0).sqrt() - (ra + (rb - ra) * t)
        best = torch.minimum(best, d)
    return best


def plane(p: Tensor, point: Vector, normal: Vector) -> Tensor:
    """Signed distance to a half space; negative on the side against ``normal`` (unit)."""
    return (vector(normal, p) * (p - vector(point, p))).sum(0)


def smooth_min(a: Tensor, b: Tensor, k: float) -> Tensor:
    """Union of two shapes with a fillet of size k mm (polynomial smooth minimum)."""
    h = (k - (a - b).abs()).clamp_min(0) / k
    return torch.minimum(a, b) - h * h * (k / 4)


def smooth_max(a: Tensor, b: Tensor, k: float) -> Tensor:
    return -smooth_min(-a, -b, k)


class Lattice:
    """A smooth, periodic, zero-mean, unit-SD random field as a function of position.

    Args:
        rng: numpy generator; the values depend on it alone, not on the device.
        cell_mm: distance of the random nodes, the field's correlation length.
        channels: independent components.
    """

    SIZE = 12
    FINE = 4

    def __init__(self, rng: np.random.Generator, cell_mm: float, channels: int = 1) -> None:
        nodes = torch.from_numpy(rng.standard_normal((channels, self.SIZE, self.SIZE, self.SIZE)).astype(np.float32))
        # along each axis: linear between the nodes, then a mean over a cell
        line = F.interpolate(F.pad(torch.eye(self.SIZE)[None], (2, 2), mode="circular"), scale_factor=self.FINE, mode="linear")
        line = F.avg_pool1d(line, self.FINE + 1, stride=1)[0]
        rise = line[:, 2 * self.FINE - self.FINE // 2 :][:, : self.SIZE * self.FINE].T.contiguous()
        fine = nodes.double()  # so that a library's order of summation doesn't show
        for _ in range(3):
            fine = torch.tensordot(fine, rise.double(), dims=([1], [1]))  # the axis goes to the end
        self.values = F.pad((fine / fine.std()).float()[None], (0, 1, 0, 1, 0, 1), mode="circular")
        self.step_mm = cell_mm / self.FINE

    def __call__(self, p: Tensor) -> Tensor:
        """Values float32 [channels, ...] at points [3, ...]."""
        size = self.SIZE * self.FINE
        index = torch.remainder(p / self.step_mm, size)
        grid = (index.flip(0) * (2 / size) - 1).movedim(0, -1)
        grid = grid.reshape(1, -1, 1, 1, 3) if p.dim() != 4 else grid[None]
        out = F.grid_sample(self.values.to(p.device), grid, mode="bilinear", align_corners=True)[0]
        return out.reshape(out.shape[0], *p.shape[1:])
