"""Plaques and false plaques put into a native volume when it is loaded.

The natural burden is too sparse to teach what is coronary calcium and what isn't. A synthetic body, of the sizes, shapes and
densities of the phantom's, is imaged with the scan's own slice thickness and point spread and added to its HU: plaques in the
wall of an artery (where its course is known), false plaques at the aortic root, the mitral ring, the pericardium and in the
chambers. Both come from the same draw: only their place tells them apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import binary_dilation, binary_erosion
from scipy.spatial import cKDTree
from torch import Tensor

from cacsnet.errors import ConfigError
from cacsnet.labels import IGNORE, STRUCTURE_INDEX, VESSELS
from cacsnet.phantom.calcium import Bed, bend, draw_size
from cacsnet.phantom.deposits import Body, image_bodies, reference_owner
from cacsnet.scanner.protocol import Protocol

FALSE = len(VESSELS)
"""Owner of false plaques: calcium that isn't coronary (1 to 4 are the vessels)."""

AWAY_MM = 6.0
"""A false plaque is at least this far from the course of an artery; where no course is known, this deep inside the heart."""

COARSE_MM = 2.0
"""Places are looked for on a grid of about this voxel size."""

LUMEN_MM = 1.4
"""Radius of the line around which a body is bent: half a coronary artery's mean diameter."""

AGATSTON = (3.0, 300.0)
"""Range (log-uniform) of the burden that sizes are drawn for."""


@dataclass(frozen=True)
class Injection:
    """How often and how much is injected.

    Attributes:
        share: of the patches.
        plaques, false_plaques: lowest and highest number in one patch.
    """

    share: float = 0.0
    plaques: tuple[int, int] = (0, 3)
    false_plaques: tuple[int, int] = (0, 3)

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ConfigError("must be within 0 and 1", field="inject.share", value=self.share)
        for name in ("plaques", "false_plaques"):
            low, high = getattr(self, name)
            object.__setattr__(self, name, (int(low), int(high)))
            if not 0 <= low <= high:
                raise ConfigError("must be [lowest, highest] number", field=f"inject.{name}", value=getattr(self, name))


def inject(
    hu: Tensor, protocol: Protocol, structures: np.ndarray | None, course: np.ndarray | None, rng: np.random.Generator,
    settings: Injection,
) -> np.ndarray:  # fmt: skip
    """Add bodies to ``hu`` in place.

    Args:
        hu: float32 [z, y, x] on the protocol's grid.
        structures, course: uint8 labels on that grid, or None: then nothing is put where they would be needed.

    Returns:
        uint8 [z, y, x]: who adds most, at least 20 HU: 1 to 4 a vessel, :data:`FALSE`, 0 nobody.
    """
    counts = [int(rng.integers(low, high + 1)) for low, high in (settings.plaques, settings.false_plaques)]
    bodies: list[Body] = []
    if course is not None:
        bodies += _plaques(course, protocol, rng, counts[0])
    if structures is not None:
        bodies += _false_plaques(structures, course, protocol, rng, counts[1])
    return add_bodies(hu, bodies, protocol)


def add_bodies(hu: Tensor, bodies: Sequence[Body], protocol: Protocol) -> np.ndarray:
    """Image bodies (points in the protocol's mm) with the scanner's operator and add them to ``hu``; returns their owners."""
    calcium = image_bodies(bodies, protocol)
    if calcium.index.size:
        hu.view(-1)[torch.from_numpy(calcium.index)] += torch.from_numpy(calcium.added_hu.sum(0))
    return reference_owner(calcium, protocol.shape)


def _body(owner: int, middle: np.ndarray, direction: np.ndarray, rng: np.random.Generator) -> Body:
    """A body in the wall of a straight tube through ``middle`` (mm)."""
    size = draw_size(rng, float(np.exp(rng.uniform(*np.log(AGATSTON)))))
    half = max(3.0, size.length_mm / 2)
    line = middle + np.arange(-half, half + 1)[:, None] * direction
    bed = Bed(owner, "injected", line, np.full(len(line), LUMEN_MM))
    deposit = bend(bed, half, rng.uniform(0, 2 * np.pi), size, rng)
    return Body(deposit, deposit.points, deposit.volumes)


def _millimetres(voxels: np.ndarray, protocol: Protocol) -> np.ndarray:
    return np.array(protocol.origin_mm) + voxels * np.array(protocol.spacing_mm)


def _course_mm(course: np.ndarray, protocol: Protocol) -> tuple[np.ndarray, np.ndarray]:
    """Positions [n, 3] of voxels of the arteries, about 1 mm apart, and their vessel [n]."""
    step = [max(1, int(1.0 / s)) for s in protocol.spacing_mm]
    thin = course[:: step[0], :: step[1], :: step[2]]
    voxels = np.argwhere((thin > 0) & (thin != IGNORE))
    return _millimetres(voxels * step, protocol), thin[tuple(voxels.T)]


def _plaques(course: np.ndarray, protocol: Protocol, rng: np.random.Generator, count: int) -> list[Body]:
    points, vessel = _course_mm(course, protocol)
    out = []
    for _ in range(count if len(points) else 0):
        chosen = int(rng.integers(len(points)))
        near = points[(vessel == vessel[chosen]) & (((points - points[chosen]) ** 2).sum(1) < AWAY_MM**2)]
        # the artery runs where its voxels are spread most; its middle is that of the nearest ones
        spread = np.linalg.svd(near - near.mean(0), full_matrices=False)[2] if len(near) > 2 else np.eye(3)
        closest = near[((near - points[chosen]) ** 2).sum(1) < (2 * LUMEN_MM) ** 2]
        out.append(_body(int(vessel[chosen]), closest.mean(0), spread[0], rng))
    return out


def _false_plaques(
    structures: np.ndarray, course: np.ndarray | None, protocol: Protocol, rng: np.random.Generator, count: int
) -> list[Body]:
    step = [max(1, round(COARSE_MM / s)) for s in protocol.spacing_mm]
    thin = structures[:: step[0], :: step[1], :: step[2]]
    spacing = np.array(step) * protocol.spacing_mm
    # one step along an axis is one voxel, however long: the grid is only roughly isotropic
    heart = (thin > 0) & (thin != IGNORE)
    index = STRUCTURE_INDEX
    ventricle = np.isin(thin, (index["left_ventricle"], index["myocardium"]))

    def beside(name: str) -> np.ndarray:
        return binary_dilation(thin == index[name]) & binary_dilation(ventricle)

    if course is None:
        depth = max(1, int(np.ceil(AWAY_MM / spacing.min())))
        places = [binary_erosion(heart, iterations=depth)]
    else:
        places = [beside("aorta"), beside("left_atrium"), binary_dilation(heart) & ~heart & (thin != IGNORE), heart]
    arteries = cKDTree(_course_mm(course, protocol)[0]) if course is not None and (course % IGNORE).any() else None
    out = []
    for _ in range(count):
        mask = places[int(rng.integers(len(places)))]
        voxels = np.argwhere(mask)
        if not len(voxels):
            continue
        middle = _millimetres(voxels[int(rng.integers(len(voxels)))] * step, protocol)
        direction = rng.normal(size=3)
        body = _body(FALSE, middle, direction / np.linalg.norm(direction), rng)
        if course is None:
            cells = np.rint((body.points - protocol.origin_mm) / spacing).astype(int)
            away = bool(heart[tuple(np.clip(cells, 0, np.array(heart.shape) - 1).T)].all())
        else:
            away = arteries is None or arteries.query(body.points)[0].min() >= AWAY_MM
        if away:
            out.append(body)
    return out
