"""Heart model ``ellipsoid``: chambers from ellipsoids, half spaces and capsules with smooth unions.

Each artery starts from a few guide points (ostium, rays in the plane of its groove), is then alternately smoothed and
projected to its depth above the surface of chambers, root and trunk. Lumen after Dodge et al. 1992.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from cacsnet.labels import VESSEL_INDEX
from cacsnet.phantom.fields import capsule_chain, ellipsoid, plane, smooth_max, smooth_min, vector
from cacsnet.phantom.heart import (
    APART_MM,
    LEAST_FAT_MM,
    OUTFLOW_WALL_MM,
    POSTEROLATERAL_MM,
    Artery,
    Heart,
    above_valve,
    branch_length_mm,
    clear_of,
    coronary_sinus,
    cut,
    draw_fat_side,
    inside_sac,
    push_out,
    ray_out,
    resample,
    rounded,
    sinus_mouth,
    surface_distance,
    unit,
)

BASE = np.array([8.0, 12.0, 6.0])
APEX_DIRECTION = unit(np.array([-0.50, -0.56, 0.66]))

SINUS_OFFSET, SINUS_SIZE = 0.52, np.array([0.85, 0.60, 0.60])
"""In radii of the ascending aorta: how far from the root's axis the middle of a sinus of Valsalva lies; its half axes along and
across the root."""

RIGHT_ENTRY_DEG = -15.0
"""Where the right coronary artery enters its groove: angle around the tricuspid valve from the front, negative above it."""

GROOVE_HEIGHT_MM = 4.0
"""Of the left atrioventricular groove above the base: a little on the ventricle's side."""

LAST_DIAGONAL_DEG, FIRST_MARGINAL_DEG = 45.0, 35.0
"""About the left ventricle's axis from the front to the left: how far diagonals reach, and where marginals begin."""

BASAL_STRETCH = 2.0
"""The left ventricle's cavity narrows so much slower towards the base than towards the apex: its wall is thin at the mitral
annulus."""


@dataclass
class EllipsoidHeart(Heart):
    """Shape parameters (mm, heart frame)."""

    lv_centre: np.ndarray
    lv_outer: np.ndarray
    lv_inner: np.ndarray
    rv_centre: np.ndarray
    rv_radii: np.ndarray
    la_radii: np.ndarray
    ra_radii: np.ndarray

    def lv_outer_sdf(self, p: Tensor) -> Tensor:
        body = ellipsoid(p, self.lv_centre, self.axes, self.lv_outer)
        body = smooth_max(body, -plane(p, self.base - 2 * self.axes[0], self.axes[0]), 6.0)
        return smooth_min(body, self.outflow_sdf(p) - OUTFLOW_WALL_MM, 4.0)

    def lv_inner_sdf(self, p: Tensor) -> Tensor:
        q = torch.einsum("ij,j...->i...", torch.as_tensor(self.axes, dtype=p.dtype, device=p.device), p)
        q = q - vector(self.axes @ (self.lv_centre - 3 * self.axes[0]), p)
        q[0] = torch.where(q[0] < 0, q[0] / BASAL_STRETCH, q[0])
        body = smooth_max(ellipsoid(q, (0.0, 0.0, 0.0), None, self.lv_inner), -plane(p, self.base, self.axes[0]), 4.0)
        return smooth_min(body, self.outflow_sdf(p), 4.0)

    def rv_sdf(self, p: Tensor) -> Tensor:
        body = ellipsoid(p, self.rv_centre, self.axes, self.rv_radii)
        outflow = capsule_chain(
            p,
            torch.tensor(np.array([self.rv_centre + np.array([12, -6, 6]), self.trunk[0]]), dtype=torch.float32),
            torch.tensor([20.0, 14.0]),
        )
        body = smooth_max(body, -plane(p, self.tricuspid, self.tricuspid_normal), 6.0)
        body = smooth_min(smooth_min(body, outflow, 12.0), self.rv_floor_sdf(p), 8.0)
        return self.clear_of_ostia(self.with_groove(body, p), p)

    def la_sdf(self, p: Tensor) -> Tensor:
        body = smooth_min(ellipsoid(p, self.la_centre, None, self.la_radii), self.la_floor_sdf(p), 12.0)
        appendage = ellipsoid(p, self.la_centre + np.array([18, -24, 42]), None, (13, 16, 11))
        neck = self.la_centre + np.array([[12, -4, 24], [20, -14, 37], [18, -24, 42.0]])
        return self.clear_of_ostia(self.over_left_groove(smooth_min(body, appendage, 14.0), p, neck), p)

    def ra_sdf(self, p: Tensor) -> Tensor:
        body = smooth_min(ellipsoid(p, self.ra_centre, None, self.ra_radii), self.ra_floor_sdf(p), 12.0)
        appendage = ellipsoid(p, self.ra_centre + np.array([26, -24, 10]), None, (13, 15, 11))
        tip = self.ra_centre + np.array([[36.0, -20.0, 10.0], [46.0, -26.0, 24.0]])  # over the right artery, beside the aorta
        appendage = smooth_min(
            appendage, capsule_chain(p, torch.tensor(tip, dtype=torch.float32), torch.tensor([9.0, 7.0])), 8.0
        )
        return self.clear_of_ostia(self.with_groove(smooth_min(body, appendage, 12.0), p), p)

    def root_sdf(self, p: Tensor) -> Tensor:
        """Aortic root with three gentle bulges above the valve, and ascending aorta."""
        sdf = super().root_sdf(p)
        middle, radius = 0.65 * self.root[1] + 0.35 * self.root[2], self.root_radii[2]
        along, *sides = self.sinus_axes
        for side in sides:
            axes = np.stack([along, side, np.cross(along, side)])
            sdf = smooth_min(sdf, ellipsoid(p, middle + SINUS_OFFSET * radius * side, axes, radius * SINUS_SIZE), 4.0)
        return above_valve(sdf, p, self.root)

    @property
    def crux(self) -> np.ndarray:
        low = self.axes[2] if self.axes[2][0] < 0 else -self.axes[2]
        at_base = (1 - ((2 + 12 - self.lv_inner[0]) / self.lv_outer[0]) ** 2) ** 0.5
        place: np.ndarray = self.base + 2 * self.axes[0] + 12 * self.axes[1] + at_base * self.lv_outer[2] * low
        return place

    @property
    def groove_axes(self) -> tuple[np.ndarray, np.ndarray]:
        """Unit vectors across the tricuspid valve: to the front and down."""
        front = np.array([0.3, -1.0, 0.0])
        front = unit(front - self.tricuspid_normal * (front @ self.tricuspid_normal))
        down = np.cross(self.tricuspid_normal, front)
        return front, down if down[0] < 0 else -down

    def clear_of_ostia(self, sdf: Tensor, p: Tensor) -> Tensor:
        """Also without the fat in which the right artery goes over from its recess into the groove."""
        groove = self.tricuspid + (self.groove_radius + 3) * _around(*self.groove_axes, RIGHT_ENTRY_DEG)
        line = torch.tensor(np.stack([self.ostia[1] + 10 * self.right_out, groove]), dtype=torch.float32)
        return smooth_max(super().clear_of_ostia(sdf, p), -capsule_chain(p, line, torch.tensor([7.0, 7.0])), 4.0)

    def grow_tree(self, rng: np.random.Generator) -> list[Artery]:
        return _grow_tree(self, rng)


def draw_heart(rng: np.random.Generator) -> EllipsoidHeart:
    """One heart; everything follows from ``rng``."""

    def jitter(values: list[float], sd: float) -> np.ndarray:
        return np.asarray(values) + rng.normal(0, sd, 3)

    axis = APEX_DIRECTION
    to_rv = np.array([-0.30, -0.72, -0.62])
    to_rv = unit(to_rv - axis * (to_rv @ axis))
    third = np.cross(axis, to_rv)
    axes = np.stack([axis, to_rv, third])
    size = rng.normal(1.0, 0.05)
    wall = rng.uniform(7.5, 12.0)
    inner = np.array([rng.uniform(46, 54), rng.uniform(22, 27), rng.uniform(22, 27)]) * size
    outer = inner + np.array([6.0, wall, wall])
    lv_centre = BASE + axis * (inner[0] - 12)
    rv_shift = outer[1] + rng.uniform(1, 7)
    rv_centre = lv_centre + to_rv * rv_shift - axis * 6 + third * rng.normal(0, 3)
    rv_radii = np.array([rng.uniform(42, 49), rng.uniform(19, 25), rng.uniform(33, 42)]) * size
    ra_centre = jitter([-4, 2, -46], 3)
    la_centre = jitter([19, 35, 1], 3)
    root = np.array(
        [[14, -3.5, -4], [21, -4, -7.5], [28, -4.5, -11], [48, -8, -15], [72, -4, -15], [90, 8, -11], [98, 24, 0]], float
    )
    root += np.cumsum(rng.normal(0, 0.8, root.shape), axis=0)
    radius = rng.normal(15.5, 1.7)
    root_radii = radius * np.array([0.88, 0.97, 1.0, 1.0, 1.0, 0.95, 0.9])
    trunk = np.array([[32, -30, 14], [44, -25, 17], [58, -12, 17], [64, 8, 14]], float)  # beside the aorta, touching it
    trunk += rng.normal(0, 2.0, trunk.shape)
    trunk_radii = rng.normal(12.6, 1.2) * np.array([0.95, 1.0, 1.0, 0.95])
    at_groove = (1 - ((GROOVE_HEIGHT_MM + 12 - inner[0]) / outer[0]) ** 2) ** 0.5
    tricuspid = np.array([-4.0, -16.0, -24.0])
    return EllipsoidHeart(
        base=BASE, axes=axes, root=root, root_radii=root_radii, trunk=trunk, trunk_radii=trunk_radii,
        la_centre=la_centre, ra_centre=ra_centre, mitral_radii=(0.95 * inner[1], 0.95 * inner[2]),
        papillary_radius=0.6 * inner[1],
        left_out=unit(np.array([0.35, rng.normal(-0.10, 0.12), 1.0])),
        right_out=unit(np.array([0.10, -0.8, rng.normal(-0.5, 0.15)])),
        fat_mm=float(np.clip(rng.gamma(2.0, 1.4), LEAST_FAT_MM, 9.0)), fat_side=draw_fat_side(rng),
        groove_mm=rng.uniform(12, 30),
        lv_centre=lv_centre, lv_outer=outer, lv_inner=inner, rv_centre=rv_centre, rv_radii=rv_radii,
        la_radii=np.array([rng.uniform(23, 30), rng.uniform(17, 24), rng.uniform(30, 38)]),
        ra_radii=np.array([rng.uniform(27, 33), rng.uniform(22, 28), rng.uniform(19, 24)]),
        tricuspid=tricuspid, tricuspid_normal=unit(np.array([-0.25, -0.35, 0.9])),
        groove_radius=rng.uniform(19, 23), left_groove=(GROOVE_HEIGHT_MM, at_groove * float(outer[1:].mean()) + 4.0),
    )  # fmt: skip


def _settle(heart: EllipsoidHeart, guide: np.ndarray, depth: float, rounds: int = 16) -> np.ndarray:
    """Smooth the guide and lay it ``depth`` mm above the surface, ends fixed."""
    line = resample(guide)
    for _ in range(rounds):
        smooth = gaussian_filter1d(line, 3.0, axis=0, mode="nearest")
        line[1:-1] = smooth[1:-1]
        sdf, gradient = surface_distance(heart, line)
        # moves are smoothed too: in a narrow cleft the normals flip from point to point and would fold the line
        move = gaussian_filter1d(np.clip((depth - sdf)[:, None] * gradient, -3, 3), 2.0, axis=0, mode="nearest")
        line[1:-1] += move[1:-1]
        line = resample(line)
    return line


def _lift(heart: EllipsoidHeart, point: np.ndarray, depth: float) -> np.ndarray:
    """Move a point along the surface normal until it lies ``depth`` mm above the surface."""
    for _ in range(12):
        sdf, gradient = surface_distance(heart, point[None])
        point = point + np.clip(depth - sdf[0], -4, 4) * gradient[0]
    return point


def _between_ventricles(heart: EllipsoidHeart, septum: np.ndarray, side: np.ndarray, depth: float) -> np.ndarray:
    """The interventricular groove beyond a point of the septum: turning from ``side`` (its front or its back) away from the
    right ventricle, where the surface first is as near to the left ventricle."""
    turns = np.arange(0.0, 64.0, 3.0)
    places = np.stack([ray_out(heart, septum, _around(side, -heart.axes[1], a), depth) for a in turns])
    p = torch.tensor(np.ascontiguousarray(places.T), dtype=torch.float32)
    nearer = (heart.rv_sdf(p) - 3.0 - heart.lv_outer_sdf(p)).numpy()
    if nearer[0] >= 0 or nearer.max() < 0:
        return places[0 if nearer[0] >= 0 else -1]
    first = int((nearer >= 0).argmax())
    turn = np.interp(0.0, nearer[first - 1 : first + 1], turns[first - 1 : first + 1])
    return ray_out(heart, septum, _around(side, -heart.axes[1], float(turn)), depth)


def _around(axis_a: np.ndarray, axis_b: np.ndarray, angle_deg: float) -> np.ndarray:
    t = np.deg2rad(angle_deg)
    return np.cos(t) * axis_a + np.sin(t) * axis_b


def _grow_tree(heart: EllipsoidHeart, rng: np.random.Generator) -> list[Artery]:
    axis, to_rv, third = heart.axes
    up = third if third[0] > 0 else -third  # towards the anterior interventricular groove
    right_dominant = rng.random() < 0.85
    scale = heart.draw_calibre(rng)
    depth, branch_depth = 2.6, 1.9

    def tapered(line: np.ndarray, first_mm: float, last_mm: float) -> np.ndarray:
        return 0.5 * scale * np.linspace(first_mm, last_mm, len(line))

    left_out, right_out = heart.left_out, heart.right_out
    left_ostium, right_ostium = heart.ostia
    reach_lm = left_ostium + rng.uniform(5, 13) * left_out
    bifurcation = _lift(heart, reach_lm, depth)
    lm = _settle(heart, np.stack([left_ostium, 0.5 * (left_ostium + bifurcation), bifurcation]), depth, 4)

    # anterior interventricular groove, base to apex
    reach = heart.lv_outer[0]
    septum = lambda t: heart.lv_centre + axis * t + to_rv * 0.85 * heart.lv_outer[1]  # noqa: E731
    levels = np.linspace(-0.20, rng.uniform(0.75, 0.97), 7) * reach
    groove = [_between_ventricles(heart, septum(t), up, depth) for t in levels]
    apex = heart.lv_centre + axis * (reach + depth)
    # where the bifurcation lies in the cleft before the trunk, the nearest way would be round the trunk's right side
    left_of_trunk = heart.trunk[0] + np.array([0.0, 4.0, heart.trunk_radii[0] + 1.5 + depth])
    lad = _settle(heart, np.stack([bifurcation, left_of_trunk, *groove, apex]), depth)
    lad = cut(push_out(heart, lad, depth, keep=4), float(np.clip(rng.normal(111, 10), 88, 135)))
    arteries = [
        Artery("LM", VESSEL_INDEX["LM"], lm, tapered(lm, 4.5, 4.3)),
        Artery("LAD", VESSEL_INDEX["LAD"], lad, tapered(lad, 3.7, 1.7)),
    ]
    lateral = -to_rv
    for number, share in enumerate(sorted(rng.uniform(0.15, 0.5, rng.integers(1, 4)))):
        start = lad[int(share * len(lad))]
        t0 = float((start - heart.lv_centre) @ axis)
        away = start - heart.lv_centre
        leaves = float(np.rad2deg(np.arctan2(away @ lateral, away @ up)))
        turns = np.linspace(leaves + 12, min(leaves + rng.uniform(45, 75), LAST_DIAGONAL_DEG), 4)
        rows = [
            ray_out(heart, heart.lv_centre + axis * t, _around(up, lateral, a), branch_depth)
            for a, t in zip(turns, np.linspace(t0 + 8, t0 + rng.uniform(30, 50), 4), strict=True)
        ]
        line = cut(_settle(heart, np.stack([start, *rows]), branch_depth, 6), branch_length_mm(rng))
        arteries.append(Artery(f"D{number + 1}", VESSEL_INDEX["LAD"], line, tapered(line, 2.2, 1.2)))

    # left atrioventricular groove
    crux = ray_out(heart, BASE + axis * 2 + to_rv * 12, -up, depth)
    height, radius = heart.left_groove
    ring = [BASE + height * axis + radius * _around(up, lateral, a) for a in np.arange(35.0, 190.0, 15.0)]
    groove_line = push_out(heart, _settle(heart, np.stack([bifurcation, *ring, crux]), depth), depth, keep=4)
    lcx = cut(groove_line, float(np.clip(rng.normal(60, 11), 40, 90))) if right_dominant else groove_line
    arteries.append(Artery("LCX", VESSEL_INDEX["LCX"], lcx, tapered(lcx, 3.4, 1.8)))

    def down_the_wall(start: np.ndarray, origin: np.ndarray) -> np.ndarray:
        """A branch from ``start`` towards the apex, straight out from an axis through ``origin``."""
        side = start - origin
        side = unit(side - axis * (side @ axis))
        t0 = float((start - origin) @ axis)
        rows = [
            ray_out(heart, origin + axis * t, side, branch_depth) for t in np.linspace(t0 + 10, t0 + rng.uniform(30, 55), 4)
        ]
        line = cut(_settle(heart, np.stack([start, *rows]), branch_depth, 6), branch_length_mm(rng))
        return push_out(heart, line, branch_depth, keep=2)

    around = (lcx - heart.lv_centre) @ np.stack([up, lateral], 1)
    turned = np.rad2deg(np.arctan2(around[:, 1], around[:, 0]))
    first = max(int((turned >= FIRST_MARGINAL_DEG).argmax()), int(0.3 * len(lcx)))
    for number, share in enumerate(sorted(rng.uniform(0, 1, rng.integers(1, 4)))):
        start = lcx[int(first + share * (0.88 * len(lcx) - first))]
        marginal = clear_of(down_the_wall(start, heart.lv_centre), arteries, "LCX")
        if marginal is not None:
            arteries.append(Artery(f"OM{number + 1}", VESSEL_INDEX["LCX"], marginal, tapered(marginal, 2.2, 1.2)))

    # right atrioventricular groove: from the ostium over the front, the right margin, and back to the crux
    angles = np.arange(RIGHT_ENTRY_DEG, rng.uniform(115, 140), 15.0)
    ring = [ray_out(heart, heart.tricuspid, _around(*heart.groove_axes, a), depth) for a in angles]
    rca = _settle(heart, np.stack([right_ostium, right_ostium + 5 * right_out, *ring, crux]), depth)
    rca = push_out(heart, rca, depth, keep=6)
    if not right_dominant:  # it ends at the right margin
        rca = cut(rca, rng.uniform(0.55, 0.75) * len(rca))
    arteries.append(
        Artery(
            "RCA",
            VESSEL_INDEX["RCA"],
            rca,
            tapered(rca, 3.9 if right_dominant else 2.8, 2.6 if right_dominant else 1.4),
        )
    )
    rows = [_between_ventricles(heart, septum(t), -up, depth) for t in np.linspace(-0.35, rng.uniform(0.1, 0.5), 5) * reach]
    owner = "RCA" if right_dominant else "LCX"
    pda = _settle(heart, np.stack([(rca if right_dominant else lcx)[-1], *rows]), depth, 6)
    arteries.append(Artery("PDA", VESSEL_INDEX[owner], pda, tapered(pda, 2.3, 1.2)))

    if right_dominant:  # on along the left groove, as far as the circumflex leaves it free, and down the inferior wall
        free = (len(groove_line) - len(lcx)) - APART_MM
        back = cut(groove_line[::-1], min(rng.uniform(20, 45), free))
        if free > 12:
            twig = down_the_wall(back[-1], heart.lv_centre)
            whole = cut(np.concatenate([back, twig[3:]]), POSTEROLATERAL_MM)
            inferior = clear_of(push_out(heart, rounded(whole, 5.0), branch_depth, keep=2), arteries, "RCA")
            if inferior is not None:
                arteries.append(Artery("PL", VESSEL_INDEX["RCA"], inferior, tapered(inferior, 2.4, 1.2)))
    start = rca[int((rng.uniform(0.45, 0.6) if right_dominant else rng.uniform(0.6, 0.9)) * len(rca))]
    acute = inside_sac(heart, down_the_wall(start, heart.rv_centre))
    if acute is not None:
        arteries.append(Artery("AM", VESSEL_INDEX["RCA"], acute, tapered(acute, 2.0, 1.0)))

    shift = unit(rng.normal(size=3)) + lateral
    vein = _settle(heart, lad[8:-20] + 5.0 * unit(shift), 2.8, 4)
    arteries.append(Artery("vein_anterior", 0, vein, np.full(len(vein), rng.uniform(1.4, 2.4))))
    shift = unit(rng.normal(size=3)) - 2 * axis
    ring_vein = np.concatenate([groove_line[6:-4] + 5.0 * unit(shift), sinus_mouth(heart, crux)[None]])
    arteries.append(coronary_sinus(rng, _settle(heart, ring_vein, 3.5, 6)))
    return arteries
