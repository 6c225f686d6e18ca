"""What happens to a patch each time it is read: turned, stretched, bent, shifted, its HU changed a little.

No two epochs show the same heart, and none of them one that the phantom could have drawn: shapes beyond the generator's habits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from scipy.linalg import expm
from torch import Tensor
from torch.nn import functional as F

from cacsnet.errors import ConfigError
from cacsnet.grid import AIR_HU
from cacsnet.labels import IGNORE
from cacsnet.phantom.anatomy import random_rotation

KNOT_MM = 40.0
"""Distance of the knots between which a patch is bent: linear between them, so a heart has about three along each axis."""

INVERSIONS = 20
"""Steps in which the place of a point is found in a bent patch: to 0.02 voxels for the strongest bend."""


@dataclass(frozen=True)
class Jitter:
    """Standard deviations, if not said otherwise.

    Attributes:
        turn_deg: rotations about z, y, x.
        zoom: of the size's logarithm.
        stretch: of the logarithms of stretch and shear along the axes, the volume kept.
        bend_mm: of a smooth displacement, each component.
        hu_scale, hu_offset: of a factor of the HU, and of what is added to them.
        noise_hu: most additional white noise.
    """

    turn_deg: tuple[float, float, float] = (8.0, 6.0, 6.0)
    zoom: float = 0.07
    stretch: float = 0.05
    bend_mm: float = 2.0
    hu_scale: float = 0.02
    hu_offset: float = 6.0
    noise_hu: float = 8.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "turn_deg", tuple(float(v) for v in self.turn_deg))
        if len(self.turn_deg) != 3:
            raise ConfigError("three angles: about z, y, x", field="jitter.turn_deg", value=self.turn_deg)
        for each in fields(self):
            value = getattr(self, each.name)
            if not min(value if each.name == "turn_deg" else (value,)) >= 0:
                raise ConfigError("must be 0 or more", field=f"jitter.{each.name}", value=value)
        if self.bend_mm > KNOT_MM / 8:
            raise ConfigError(f"more than {KNOT_MM / 8:g} mm would fold the patch", field="jitter.bend_mm", value=self.bend_mm)

    def warp(self, rng: np.random.Generator, size: int, border: int, spacing_mm: float) -> Warp:
        """A random deformation of a patch of ``size`` voxels a side, shifted by up to ``border``."""
        symmetric = rng.normal(0, self.stretch, (3, 3))
        symmetric = (symmetric + symmetric.T) / 2
        symmetric -= np.eye(3) * np.trace(symmetric) / 3
        matrix = random_rotation(rng, self.turn_deg) @ expm(symmetric) * np.exp(rng.normal(0, self.zoom))
        shift = rng.uniform(-border, border, 3)
        knots = max(2, round(size * spacing_mm / KNOT_MM) + 1)
        # two SDs at most: the patch must not fold
        drawn = np.clip(rng.normal(size=(3, knots, knots, knots)), -2, 2) * self.bend_mm / spacing_mm
        return Warp(matrix, shift, torch.from_numpy(drawn).float() if self.bend_mm > 0 else None)

    def apply(
        self, full: Mapping[str, Tensor], rng: np.random.Generator, size: int, border: int, spacing_mm: float
    ) -> dict[str, Tensor]:
        """The inner patch of one with border, warped, its HU changed."""
        out = self.warp(rng, size, border, spacing_mm).apply(full, size)
        white = torch.randn(out["hu"].shape, generator=torch.Generator().manual_seed(int(rng.integers(2**31))))
        factor, offset = rng.normal(1.0, self.hu_scale), rng.normal(0, self.hu_offset)
        out["hu"] = out["hu"] * factor + offset + white * rng.uniform(0, self.noise_hu)
        return out


def jitter_from(config: Mapping[str, Any] | None) -> Jitter:
    """From a plain YAML mapping; an unknown key raises ConfigError."""
    known = [each.name for each in fields(Jitter)]
    for key in config or {}:
        if key not in known:
            raise ConfigError(f"unknown key; known are {', '.join(known)}", field="jitter", value=key)
    return Jitter(**(config or {}))


@dataclass(frozen=True)
class Warp:
    """From a patch's voxels, counted from its middle, to those of the patch with border: ``matrix @ x + shift + bend(x)``.

    Attributes:
        matrix: [3, 3]; shift: [3], voxels.
        bend: displacement float32 [3, k, k, k] (z, y, x; voxels) at knots from the first to the last voxel, linear between
            them; None: none.
    """

    matrix: np.ndarray
    shift: np.ndarray
    bend: Tensor | None = None

    def apply(self, full: Mapping[str, Tensor], size: int) -> dict[str, Tensor]:
        """Cut the inner patch [size, size, size] out of a patch with border; beyond the border nothing is known."""
        whole = full["hu"].shape[0]
        middle = (whole - 1) / 2
        axis = torch.arange(size, dtype=torch.float32) - (size - 1) / 2
        place = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1) @ torch.from_numpy(self.matrix.T).float()
        place = place + torch.from_numpy(self.shift).float()
        if self.bend is not None:
            place = place + F.interpolate(self.bend[None], (size,) * 3, mode="trilinear", align_corners=True)[0].movedim(0, -1)
        grid = (place / (whole / 2)).flip(-1)[None]
        outside = (place.abs() > middle + 0.5).any(-1)

        def sample(volume: Tensor, mode: str) -> Tensor:
            return F.grid_sample(volume.float()[None, None], grid, mode=mode, padding_mode="border", align_corners=False)[0, 0]

        hu = torch.where(outside, torch.tensor(AIR_HU), sample(full["hu"], "bilinear"))
        labels = {}
        for name in ("structures", "course"):
            labels[name] = torch.where(outside, torch.tensor(float(IGNORE)), sample(full[name], "nearest")).to(torch.uint8)
        points = self.back(full["points"] - middle, size) + (size - 1) / 2
        inside = ((points >= 0) & (points <= size - 1)).all(1)
        group = torch.where(inside, full["point_group"], torch.tensor(IGNORE, dtype=torch.uint8))
        return {"hu": hu, **labels, "points": points, "point_label": full["point_label"], "point_group": group}

    def back(self, places: Tensor, size: int) -> Tensor:
        """Where places [n, 3] of the patch with border come to lie; both counted from the middle."""
        inverse = torch.from_numpy(np.linalg.inv(self.matrix).T).float()
        straight = places - torch.from_numpy(self.shift).float()
        found = straight @ inverse
        for _ in range(INVERSIONS if self.bend is not None else 0):
            found = (straight - self._bent(found, size)) @ inverse
        return found

    def _bent(self, places: Tensor, size: int) -> Tensor:
        assert self.bend is not None
        grid = (places / ((size - 1) / 2)).flip(-1)[None, None, None]
        out = F.grid_sample(self.bend[None], grid, mode="bilinear", padding_mode="border", align_corners=True)
        return out[0, :, 0, 0].T


def cut_inner(full: Mapping[str, Tensor], size: int) -> dict[str, Tensor]:
    """The inner patch as it is."""
    return Warp(np.eye(3), np.zeros(3)).apply(full, size)
