"""What the lungs look like: parenchyma with its vessels and, in a few patients, emphysema, scars and a pleural effusion."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from cacsnet.phantom.fields import ellipsoid
from cacsnet.phantom.heart import random_rotation
from cacsnet.phantom.thorax import Thorax

if TYPE_CHECKING:
    from cacsnet.phantom.anatomy import View

EMPHYSEMA_SHARE, SCAR_SHARE, EFFUSION_SHARE = 0.15, 0.20, 0.06
"""Of patients; defaults of this project: common enough to be learnt, as on CT of smokers."""

DESTROYED_HU = -970.0
"""Lung tissue destroyed by emphysema."""


class Lungs:
    """Both lungs of one patient, drawn from ``rng``.

    Attributes:
        emphysema: share of the tissue lost in the worst patches, 0 in most patients.
        scars: middle (thorax frame mm), axes and half sizes (mm) of flat bands, and their HU.
        effusion_mm: thickness of the fluid behind the right and the left lung, 0 in most patients.
        effusion_hu: HU of the fluid.
    """

    def __init__(self, rng: np.random.Generator, thorax: Thorax) -> None:
        self.thorax = thorax
        self.emphysema = float(rng.uniform(0.3, 1.0)) if rng.random() < EMPHYSEMA_SHARE else 0.0
        scars = int(rng.integers(1, 5)) if rng.random() < SCAR_SHARE else 0
        self.scars = [self._draw_scar(rng) for _ in range(scars)]
        sides = rng.random(2) < 0.7
        sides[int(rng.integers(2))] = True
        fluid = rng.uniform(5, 18, 2) * sides
        self.effusion_mm = fluid if rng.random() < EFFUSION_SHARE else np.zeros(2)
        self.effusion_hu = float(rng.uniform(0, 20))

    def _draw_scar(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
        chest = self.thorax
        aside = rng.choice([-1.0, 1.0]) * rng.uniform(45, 0.95 * chest.half_width)
        deep = chest.chest_y + rng.uniform(-0.6, 0.8) * chest.half_depth
        middle = np.array([rng.uniform(-50, 80), deep, chest.midline + aside])
        half_sizes = rng.uniform([0.6, 5, 12], [1.6, 15, 32])
        return middle, random_rotation(rng, (60, 60, 60)), half_sizes, float(rng.uniform(-250, 30))

    def hu(self, v: View, normal: float, lines: Tensor) -> Tensor:
        """HU at a view's points. ``normal``: mean of healthy tissue; ``lines`` [2, ...]: a field whose zeros are vessels."""
        vessels = (1 - lines.square().sum(0).sqrt() / 0.16).clamp(0, 1)
        near = (1.3 - (v.thorax[1:] / 130).square().sum(0).sqrt()).clamp(0.1, 1)
        uneven, patchy = v.field("coarse_texture")
        tissue = normal + 25 * uneven + 12 * v.field("texture")[1]
        if self.emphysema > 0:
            lost = self.emphysema * ((patchy - 0.3) / 0.5).clamp(0, 1)
            tissue = tissue + lost * (DESTROYED_HU - tissue)
        return tissue + 800 * vessels * near

    def scar(self, v: View, which: int) -> Tensor:
        """Distance to a band, kept inside the lungs."""
        middle, axes, half_sizes, _ = self.scars[which]
        beyond = torch.maximum(v.field("ring")[0] + 3.5, 3.0 - v.field("diaphragm"))
        beyond = torch.maximum(beyond, 1.0 - v.field("mediastinum"))
        return torch.maximum(ellipsoid(v.thorax, middle, axes, half_sizes), beyond)

    def effusion(self, v: View) -> Tensor:
        """Distance to fluid that lies behind and below the lungs of a patient on the back, tapering off upwards."""
        chest = self.thorax
        right, left = self.effusion_mm.tolist()
        side = torch.where(v.thorax[2] < chest.midline, torch.tensor(right), torch.tensor(left))
        behind = ((v.thorax[1] - chest.chest_y) / chest.half_depth).clamp(0, 1)
        below = ((130 - v.field("diaphragm")) / 80).clamp(0, 1)
        off_wall = -3.5 - v.field("ring")[0]
        return torch.maximum(chest.lung(v), off_wall + 0.5 - side * behind * below)
