"""What every heart model offers: chambers and great vessels as signed distances, landmarks, and a coronary tree.

Two models are built in different ways, so that a network trained on one can be judged on the other:
``ellipsoid`` (:mod:`cacsnet.phantom.heart_ellipsoid`) and ``polar`` (:mod:`cacsnet.phantom.heart_polar`).
The heart frame is (z, y, x) mm with the origin in the middle of the heart: z to the head, y to the back, x to the left.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d, map_coordinates
from torch import Tensor

from cacsnet.labels import VESSEL_INDEX
from cacsnet.phantom.fields import capsule_chain, plane, smooth_max, smooth_min, vector


def unit(v: np.ndarray) -> np.ndarray:
    """The vector scaled to length 1."""
    return v / np.linalg.norm(v)


def random_rotation(rng: np.random.Generator, sd_deg: tuple[float, float, float]) -> np.ndarray:
    """Random rotation matrix on (z, y, x) vectors; SD in degrees about the z, y and x axis."""
    out = np.eye(3)
    for axis, sd in enumerate(sd_deg):
        angle = np.deg2rad(np.clip(rng.normal(0, sd), -2 * sd, 2 * sd))
        i, j = [k for k in range(3) if k != axis]
        turn = np.eye(3)
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        out = turn @ out
    return out


@dataclass(frozen=True)
class Artery:
    """A centreline in the heart frame: ``line`` float [n, 3] (z, y, x) mm at about 1 mm steps, lumen radius per point (mm),
    and the vessel label that its calcium counts for (0: a cardiac vein)."""

    name: str
    vessel: int
    line: np.ndarray
    radii: np.ndarray

    @property
    def length_mm(self) -> float:
        return float(np.linalg.norm(np.diff(self.line, axis=0), axis=1).sum())


LEAST_FAT_MM = 1.6
"""Everywhere: arteries lie in it."""


LEFT_GROOVE_MM = 8.5
"""Radius of the ring of fat in the left atrioventricular groove where the atrium overhangs it."""


NECK_MM = np.array([9.0, 5.5, 6.5])
"""Radii along the neck of the left appendage."""

BENEATH_APPENDAGE_MM, WIDENING = 18.0, 0.4
"""How far that fat reaches from the groove towards the apex, and by how much its ring widens with the ventricle on the way."""


def draw_fat_side(rng: np.random.Generator) -> np.ndarray:
    """Fat is thickest in front of the right ventricle and around the apex, more or less to either side."""
    return unit(np.array([-0.25, -0.85, 0.1]) + rng.normal(0, 0.35, 3))


OSTIUM_OFFSET = 1.05
"""How far from the root's axis the coronary ostia lie, in radii of the ascending aorta."""

OUTFLOW_MM, OUTFLOW_WALL_MM = 16.0, 3.0
"""How deep below the base the left ventricle's outflow begins; its wall."""

BEFORE_CRUX_MM = 16.0
"""So far before the crux the middle of the right atrium's lowest part ends."""


def above_valve(sdf: Tensor, p: Tensor, line: np.ndarray) -> Tensor:
    """A great vessel [n, 3] without what lies before its first point, the valve: a tube's end is round."""
    return torch.maximum(sdf, -plane(p, line[0], unit(line[1] - line[0])))


@dataclass
class Heart(ABC):
    """Landmarks (mm, heart frame) that the thorax, the calcium and the arteries hang on.

    Attributes:
        base: centre of the mitral and aortic plane.
        axes: rows: base to apex, towards the right ventricle, their cross product.
        root, root_radii: aortic root to arch, polyline [n, 3] from the valve on, radius per point.
        trunk, trunk_radii: pulmonary trunk from the valve to its bifurcation.
        la_centre, ra_centre: middle of the atria, where veins enter.
        mitral_radii: half axes of the mitral ring along ``axes`` 1 and 2.
        papillary_radius: distance of the papillary muscles from the left ventricle's axis.
        tricuspid, tricuspid_normal: centre of the valve and direction from atrium to ventricle; groove_radius: of the floor of
            the atrioventricular groove around it.
        left_groove: height above the base along ``axes`` 0 and radius of the ring of fat around the mitral valve.
        left_out, right_out: directions in which the left main and the right coronary artery leave the root.
        fat_mm: mean thickness of the fat on the free walls; fat_side: unit vector to where it is thickest; groove_mm:
            how far the sac bridges the grooves.
        female: the patient's sex; women's coronary arteries are narrower.
    """

    base: np.ndarray
    axes: np.ndarray
    root: np.ndarray
    root_radii: np.ndarray
    trunk: np.ndarray
    trunk_radii: np.ndarray
    la_centre: np.ndarray
    ra_centre: np.ndarray
    mitral_radii: tuple[float, float]
    papillary_radius: float
    tricuspid: np.ndarray
    tricuspid_normal: np.ndarray
    groove_radius: float
    left_groove: tuple[float, float]
    left_out: np.ndarray
    right_out: np.ndarray
    fat_mm: float
    fat_side: np.ndarray
    groove_mm: float
    female: bool = field(default=False, kw_only=True)

    @abstractmethod
    def lv_outer_sdf(self, p: Tensor) -> Tensor:
        """Left ventricle with its myocardium."""

    @abstractmethod
    def lv_inner_sdf(self, p: Tensor) -> Tensor:
        """Left ventricle's blood pool."""

    @abstractmethod
    def rv_sdf(self, p: Tensor) -> Tensor:
        """Right ventricle's blood pool with its outflow tract."""

    @abstractmethod
    def la_sdf(self, p: Tensor) -> Tensor:
        """Left atrium with its appendage."""

    @abstractmethod
    def ra_sdf(self, p: Tensor) -> Tensor:
        """Right atrium with its appendage."""

    @abstractmethod
    def grow_tree(self, rng: np.random.Generator) -> list[Artery]:
        """LM, LAD with diagonals, LCX with marginals, RCA with its posterior descending branch, and cardiac veins."""

    @property
    @abstractmethod
    def crux(self) -> np.ndarray:
        """Where all four chambers meet at the back, on the left ventricle's surface [3]."""

    def la_floor_sdf(self, p: Tensor) -> Tensor:
        """The left atrium's lower part, down to the inferior mitral annulus."""
        low = self.crux - self.base
        low = low - self.axes[0] * (low @ self.axes[0])
        return _tube(p, np.stack([self.la_centre, self.base - 6 * self.axes[0] + 0.52 * low]), np.array([16.0, 13.0]))

    def ra_floor_sdf(self, p: Tensor) -> Tensor:
        """The right atrium's lower part: to the tricuspid valve and to the crux."""
        valve = self.tricuspid - 3 * self.tricuspid_normal
        way = self.crux - self.ra_centre
        back = self.crux - BEFORE_CRUX_MM * unit(way)
        to_valve = _tube(p, np.stack([self.ra_centre, valve]), np.array([18.0, 0.85 * self.groove_radius]))
        return smooth_min(to_valve, _tube(p, np.stack([self.ra_centre, back]), np.array([16.0, 11.0])), 8.0)

    def rv_floor_sdf(self, p: Tensor) -> Tensor:
        """The right ventricle's lower part behind the tricuspid valve, towards the crux."""
        back = self.crux + self.axes[:2].T @ np.array([10.0, 16.0])
        return _tube(p, np.stack([self.tricuspid + 14 * self.tricuspid_normal, back]), np.array([14.0, 8.0]))

    def root_sdf(self, p: Tensor) -> Tensor:
        """Aortic root and ascending aorta, from the valve on."""
        return above_valve(_tube(p, self.root, self.root_radii), p, self.root)

    def trunk_sdf(self, p: Tensor) -> Tensor:
        """Pulmonary trunk, from the valve on."""
        return above_valve(_tube(p, self.trunk, self.trunk_radii), p, self.trunk)

    def outflow_sdf(self, p: Tensor) -> Tensor:
        """The left ventricle's way to the aortic valve, as wide as the valve."""
        inside = self.base + OUTFLOW_MM * self.axes[0]
        return _tube(p, np.stack([inside, self.root[0]]), np.array([0.9, 0.95]) * self.root_radii[0])

    def papillary_sdf(self, p: Tensor) -> Tensor:
        """The two papillary muscles of the left ventricle: cones along its long axis at the free wall."""
        out = torch.full(p.shape[1:], 1e3)
        for angle in (2.2, -2.2):  # from the septum's middle, towards the anterior and the inferior free wall
            side = np.cos(angle) * self.axes[1] + np.sin(angle) * self.axes[2]
            line = self.base + np.outer([30.0, 56.0], self.axes[0]) + 0.95 * self.papillary_radius * side
            out = torch.minimum(out, _tube(p, line, np.array([3.0, 5.5])))
        return out

    @property
    def sinus_axes(self) -> np.ndarray:
        """Unit vectors [4, 3]: along the root where its sinuses are, and across it to the left, the right and the non-coronary
        sinus of Valsalva; the third lies opposite to the other two."""
        along = unit(self.root[2] - self.root[1])
        left, right = (unit(out - along * (out @ along)) for out in (self.left_out, self.right_out))
        return np.stack([along, left, right, -unit(left + right)])

    @property
    def ostia(self) -> tuple[np.ndarray, np.ndarray]:
        """Left and right coronary ostium, in the upper part of their sinuses."""
        middle = 0.35 * self.root[1] + 0.65 * self.root[2]
        _, left, right, _ = OSTIUM_OFFSET * self.root_radii[2] * self.sinus_axes
        return middle + left, middle + right

    def clear_of_ostia(self, sdf: Tensor, p: Tensor) -> Tensor:
        """A chamber without the fat-filled recesses in which the arteries leave the root."""
        for ostium, out in zip(self.ostia, (self.left_out, self.right_out), strict=True):
            line = np.stack([ostium + 2 * out, ostium + 13 * out])
            sdf = smooth_max(sdf, -_tube(p, line, np.array([6.0, 7.0])), 4.0)
        return sdf

    def with_groove(self, sdf: Tensor, p: Tensor) -> Tensor:
        """The right atrium or ventricle without the wedge of fat between them, in which the right coronary artery runs."""
        q = p - vector(self.tricuspid, p)
        along = (vector(self.tricuspid_normal, p) * q).sum(0)
        aside = (q.square().sum(0) - along.square()).clamp_min(1e-6).sqrt() - self.groove_radius
        wedge = torch.maximum(along.abs() - 4.5 - 0.35 * aside.clamp_min(0), -aside)
        return smooth_max(sdf, -wedge, 4.0)

    def with_left_groove(self, sdf: Tensor, p: Tensor) -> Tensor:
        """The left atrium without the ring of fat in which the circumflex artery and the great cardiac vein run all around the
        mitral valve. Beneath the appendage it reaches on towards the apex: marginal arteries leave there."""
        height, radius = self.left_groove
        q = p - vector(self.base + height * self.axes[0], p)
        along = (vector(self.axes[0], p) * q).sum(0)
        below = along.clamp(0, BENEATH_APPENDAGE_MM)
        aside = (q.square().sum(0) - along.square()).clamp_min(1e-6).sqrt() - radius - WIDENING * below
        along = along - below
        ring = (along.square() + aside.square()).sqrt() - LEFT_GROOVE_MM
        return smooth_max(sdf, -ring, 4.0)

    def over_left_groove(self, sdf: Tensor, p: Tensor, neck: np.ndarray) -> Tensor:
        """The left atrium without that ring of fat; its appendage hangs on a ``neck`` [3, 3] above it."""
        return smooth_min(self.with_left_groove(sdf, p), _tube(p, neck, NECK_MM), 6.0)

    def draw_calibre(self, rng: np.random.Generator) -> float:
        """Factor on the widths of all arteries; women's are 9 % narrower (Dodge et al. 1992)."""
        return float((0.91 if self.female else 1.0) * rng.normal(1.0, 0.08))

    def muscle_sdf(self, p: Tensor) -> Tensor:
        """All chambers with their walls."""
        wall = torch.minimum(self.rv_sdf(p) - 3.0, torch.minimum(self.ra_sdf(p), self.la_sdf(p)) - 2.0)
        return torch.minimum(self.lv_outer_sdf(p), wall)

    def solid_sdf(self, p: Tensor) -> Tensor:
        """Chambers, root and trunk: what a coronary artery lies on."""
        return torch.minimum(self.muscle_sdf(p), torch.minimum(self.root_sdf(p), self.trunk_sdf(p)) - 1.5)

    def sac_sdf(self, p: Tensor) -> Tensor:
        """Pericardial sac: the chambers with their grooves bridged, and the fat around them."""
        k = self.groove_mm
        sdf = smooth_min(self.lv_outer_sdf(p), self.rv_sdf(p) - 3, k)
        sdf = smooth_min(sdf, self.ra_sdf(p) - 2, k)
        sdf = smooth_min(sdf, self.la_sdf(p) - 2, k)
        low_vessels = torch.minimum(self.root_sdf(p), self.trunk_sdf(p)) - 1.5
        low_vessels = smooth_max(low_vessels, plane(p, (58.0, 0.0, 0.0), (1.0, 0.0, 0.0)), 4.0)
        return smooth_min(sdf, low_vessels, 0.45 * k) - self._fat(p)

    def _fat(self, p: Tensor) -> Tensor:
        """Thickness of the fat (mm): next to none on one side of the heart, nearly twice the mean on the other."""
        towards = (vector(self.fat_side, p) * p).sum(0) / p.square().sum(0).sqrt().clamp_min(10.0)
        return LEAST_FAT_MM + (self.fat_mm - LEAST_FAT_MM) * (1 + 0.9 * towards)


def _tube(p: Tensor, line: np.ndarray, radii: np.ndarray) -> Tensor:
    return capsule_chain(p, torch.tensor(line, dtype=torch.float32), torch.tensor(radii, dtype=torch.float32))


def resample(line: np.ndarray, step: float = 1.0) -> np.ndarray:
    """A polyline [n, 3] at equal steps of about ``step`` mm."""
    arc = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    n = max(3, round(arc[-1] / step) + 1)
    return np.stack([np.interp(np.linspace(0, arc[-1], n), arc, line[:, k]) for k in range(3)], 1)


def tangent(line: np.ndarray, index: int) -> np.ndarray:
    """Unit direction of a polyline at a point."""
    a, b = max(0, index - 2), min(len(line) - 1, index + 2)
    return unit(line[b] - line[a])


def surface_distance(heart: Heart, points: np.ndarray, h: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Distance [n] of points [n, 3] to the surface of :meth:`Heart.solid_sdf`, and its unit gradient [n, 3] (outwards) over
    ``h`` mm to each side."""
    offsets = np.concatenate([points] + [points + s * h * e for e in np.eye(3) for s in (1, -1)])
    values = _solid(heart, offsets).reshape(7, -1)
    gradient = np.stack([values[1 + 2 * k] - values[2 + 2 * k] for k in range(3)], 1)
    return values[0], gradient / np.maximum(np.linalg.norm(gradient, axis=1, keepdims=True), 1e-6)


def ray_out(heart: Heart, origin: np.ndarray, direction: np.ndarray, depth: float, outermost: bool = False) -> np.ndarray:
    """First (or outermost) point from ``origin`` along ``direction`` that comes to lie ``depth`` mm above the surface."""
    steps = np.arange(4.0, 80.0, 0.75)
    low = np.flatnonzero(_solid(heart, origin + steps[:, None] * direction) <= depth)
    if not low.size:
        return origin + steps[0] * direction
    last = low[-1] if outermost else low[np.flatnonzero(np.diff(low, append=len(steps) + 1) > 1)[0]]
    return origin + steps[min(last + 1, len(steps) - 1)] * direction


TABLE_MM, TABLE_LOW_MM, TABLE_HIGH_MM = 2.5, -90.0, 110.0


def _solid(heart: Heart, points: np.ndarray) -> np.ndarray:
    """:meth:`Heart.solid_sdf` at points [n, 3] from a table made once per heart: growing a tree asks thousands of times."""
    table = vars(heart).get("solid_table")
    if table is None:
        axes = [torch.arange(TABLE_LOW_MM, TABLE_HIGH_MM + TABLE_MM, TABLE_MM)] * 3
        table = heart.solid_sdf(torch.stack(torch.meshgrid(*axes, indexing="ij"))).numpy()
        vars(heart)["solid_table"] = table
    values: np.ndarray = map_coordinates(table, (points.T - TABLE_LOW_MM) / TABLE_MM, order=1, mode="nearest").astype(float)
    return values


def push_out(heart: Heart, line: np.ndarray, depth: float, keep: int = 0, rounds: int = 14) -> np.ndarray:
    """Move what of a polyline lies less than ``depth`` mm above the surface outwards.

    Outwards is where there is more room within 3 mm: in a cleft between two chambers the normals of their own surfaces flip
    from point to point. ``keep`` points at the start stay (an ostium lies in the aortic wall), and none jumps where they end.
    """
    line = line.copy()
    free = np.clip((np.arange(len(line)) - keep + 1) / 6.0, 0, 1)[:, None]
    for round_ in range(rounds):
        lack = np.clip(depth - _solid(heart, line), 0, 1.5)
        if (lack * free[:, 0]).max() < 0.2:
            break
        lack = np.maximum(lack, gaussian_filter1d(lack, 2.0, mode="nearest"))[:, None]
        if round_ % 3 == 0:
            outwards = gaussian_filter1d(surface_distance(heart, line, 3.0)[1], 2.0, axis=0, mode="nearest")
        line += gaussian_filter1d(lack * outwards, 1.0, axis=0, mode="nearest") * free
    return resample(line)


APART_MM, SHORTEST_BRANCH_MM = 8.0, 15.0
"""Least distance between branches of different vessels; a branch that would become shorter is left out."""


POSTEROLATERAL_MM = 65.0
"""Longest posterolateral branch of the right artery, from the crux on."""


def rounded(line: np.ndarray, sd_mm: float) -> np.ndarray:
    """A polyline [n, 3] at steps of about 1 mm with its corners smoothed, ends fixed."""
    out = resample(line)
    out[1:-1] = gaussian_filter1d(out, sd_mm, axis=0, mode="nearest")[1:-1]
    return resample(out)


def inside_sac(heart: Heart, line: np.ndarray) -> np.ndarray | None:
    """What of a branch [n, 3] comes before it leaves the pericardial sac; None if that is too little."""
    out = heart.sac_sdf(torch.tensor(np.ascontiguousarray(line.T), dtype=torch.float32)).numpy() > 0
    kept = line[: int(out.argmax())] if out.any() else line
    return kept if len(kept) > SHORTEST_BRANCH_MM else None


def clear_of(line: np.ndarray, arteries: Sequence[Artery], owner: str, apart_mm: float = APART_MM) -> np.ndarray | None:
    """What of a branch [n, 3] keeps its distance from other vessels' arteries; None if that is too little."""
    others = [a.line for a in arteries if a.vessel not in (0, VESSEL_INDEX[owner]) and a.name != "LM"]
    near = np.min(np.linalg.norm(line[:, None] - np.concatenate(others)[None], axis=2), axis=1) < apart_mm
    near[: int(SHORTEST_BRANCH_MM)] = False
    kept = line[: int(near.argmax())] if near.any() else line
    return kept if len(kept) > SHORTEST_BRANCH_MM + 3 else None


def branch_length_mm(rng: np.random.Generator) -> float:
    """Length of a diagonal or marginal branch that CT shows; default of this project."""
    return float(np.clip(rng.normal(48, 13), 20, 80))


def sinus_mouth(heart: Heart, crux: np.ndarray) -> np.ndarray:
    """Where the coronary sinus opens, [3]: the right atrium's wall on the way from the crux [3] to the atrium's middle."""
    way = crux + np.linspace(0, 1, 120)[:, None] * (heart.ra_centre - crux)
    inside = heart.ra_sdf(torch.tensor(np.ascontiguousarray(way.T), dtype=torch.float32)) < 0.5
    mouth: np.ndarray = way[int(inside.int().argmax())]
    return mouth


def coronary_sinus(rng: np.random.Generator, line: np.ndarray) -> Artery:
    """Great cardiac vein and coronary sinus along ``line`` [n, 3]: narrow at the front, wide where it opens."""
    share = np.linspace(0, 1, len(line)) ** 2
    narrow, wide = rng.uniform(1.6, 2.4), rng.uniform(4.0, 6.0)
    return Artery("vein_ring", 0, line, narrow + (wide - narrow) * share)


def cut(line: np.ndarray, length_mm: float) -> np.ndarray:
    """The first ``length_mm`` of a polyline at steps of about 1 mm."""
    arc = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    return line[: max(3, int(np.searchsorted(arc, length_mm)) + 1)]
