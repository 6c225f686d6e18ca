"""Heart model ``polar``: surfaces as radius functions, built apart from the model ``ellipsoid``.

The left ventricle is a bent body of revolution about its long axis with angular ripples; the right ventricle a crescent on
it, given by its thickness over (height, angle); the atria are star-shaped bodies with a low-order radius function; the aortic
root has three sinuses. Arteries are curves in the ventricle's (height, angle) coordinates: the interventricular grooves are
the crescent's edges, the atrioventricular grooves rings; nothing is relaxed on the surface as in the other model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d, maximum_filter1d
from torch import Tensor

from cacsnet.labels import VESSEL_INDEX
from cacsnet.phantom.fields import capsule_chain, smooth_max, smooth_min, vector
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
    resample,
    rounded,
    sinus_mouth,
    unit,
)

DEPTH_MM = 2.6
"""Height of the centrelines above the surface."""

COVER_MM = 7.0
"""A surface this far outside the left ventricle's radius is another chamber's or vessel's that covers it."""

GROOVE_HEIGHT_MM = 4.0
"""Of the left atrioventricular groove above the base."""

LAST_DIAGONAL, FIRST_MARGINAL = 2.36, 2.18
"""Angles (radians) about the long axis: how far diagonals reach, and where marginals begin."""

LEFT_OF_TRUNK = 1.8
"""Angle (radians) at which the left ventricle's surface emerges beside the pulmonary trunk."""

BASAL_NARROWING = 0.30
"""How much narrower than at its widest level the left ventricle is at the base."""

ANNULUS_WALL_MM, TAPER_MM = 3.0, 14.0
"""The left ventricle's wall at the mitral annulus, and how far below it the wall has its full thickness."""

RECESS_WALL_MM = 3.0
"""Muscle between the left ventricle's blood and the recesses in which the arteries leave the root."""

LM_MM, LAD_MM, LCX_MM = (9.5, 2.3), (110.0, 9.0), (61.0, 10.0)
"""Mean and SD (heart frame mm) of the length of the left main, of the longest course of the LAD, and of that of the LCX where
the right artery is dominant."""


@dataclass
class PolarHeart(Heart):
    """Shape parameters. Angles in radians about the long axis: 0 = middle of the septum, positive towards the anterior groove.

    Attributes:
        length, radius: of the left ventricle's outer surface, mm.
        wall: thickness of its myocardium, mm.
        bend: sideways displacement of the long axis at the apex along ``axes`` 1 and 2, mm.
        ripple: amplitudes of cos and sin of 2 and 3 times the angle.
        crescent: thickness of the right ventricle, mm; edges: its half widths (anterior, inferior) at the base.
        reach: share of the left ventricle's length that the right one spans.
        la_radius, ra_radius: mean radius; la_shape, ra_shape: [9] linear (3) and quadratic (6) terms of the radius function.
        la_appendage, ra_appendage: polylines [n, 3]; their radii.
    """

    length: float
    radius: float
    wall: float
    bend: np.ndarray
    ripple: np.ndarray
    crescent: float
    edges: tuple[float, float]
    reach: float
    la_radius: float
    ra_radius: float
    la_shape: np.ndarray
    ra_shape: np.ndarray
    la_appendage: np.ndarray
    ra_appendage: np.ndarray
    appendage_radii: tuple[float, float]

    # -- coordinates ----------------------------------------------------------------------------------------------
    def polar(self, p: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Height above the base (mm), distance from the bent axis (mm) and angle of points [3, ...]."""
        q = torch.einsum("ij,j...->i...", torch.as_tensor(self.axes, dtype=p.dtype), p - vector(self.base, p))
        share = (q[0] / self.length).clamp(-0.3, 1.2).square()
        u, v = q[1] - float(self.bend[0]) * share, q[2] - float(self.bend[1]) * share
        return q[0], (u.square() + v.square() + 1e-6).sqrt(), torch.atan2(v, u)

    def at(self, height: np.ndarray, distance: np.ndarray, angle: np.ndarray) -> np.ndarray:
        """Inverse of :meth:`polar`: points [n, 3]."""
        share = np.clip(height / self.length, -0.3, 1.2) ** 2
        u = distance * np.cos(angle) + self.bend[0] * share
        v = distance * np.sin(angle) + self.bend[1] * share
        return self.base + np.stack([height, u, v], -1) @ self.axes

    def _spheroid(self, height: Tensor, distance: Tensor, angle: Tensor, thinner: float) -> Tensor:
        """Signed distance to the ventricle's surface moved inwards by ``thinner``: half a spheroid below its widest level, a
        slightly narrowing tube above it."""
        widest = 0.30 * self.length
        radius = torch.full_like(angle, self.radius - thinner)
        for k, (even, odd) in enumerate(self.ripple.tolist(), start=2):
            radius = radius + self.radius * (even * torch.cos(k * angle) + odd * torch.sin(k * angle))
        long = self.length - 0.6 * thinner - widest
        s = (height - widest).clamp_min(0)
        k0 = ((distance / radius).square() + (s / long).square()).sqrt()
        k1 = ((distance / radius.square()).square() + (s / long**2).square()).sqrt().clamp_min(1e-6)
        below = k0 * (k0 - 1) / k1
        narrow = 1 - BASAL_NARROWING * ((widest - height).clamp_min(0) / widest).square()
        return torch.where(height > widest, below, distance - radius * narrow)

    def clear_of_ostia(self, sdf: Tensor, p: Tensor) -> Tensor:
        """Also without the fat between the left main's recess and the ventricle's surface, where the artery divides."""
        end = self.ostia[0] + np.array([[8.0], [13.0]]) * self.left_out
        height, distance, angle = (q.numpy() for q in self.polar(torch.tensor(end.T, dtype=torch.float32)))
        line = np.concatenate(
            [
                end[:1],
                self.at(
                    height[1:] + 1.0, np.maximum(distance[1:], self.radius + 8.0), np.maximum(angle[1:] + 0.12, LEFT_OF_TRUNK)
                ),
            ]
        )
        fat = capsule_chain(p, torch.tensor(line, dtype=torch.float32), torch.tensor([6.0, 9.0]))
        return smooth_max(super().clear_of_ostia(sdf, p), -fat, 4.0)

    # -- chambers -------------------------------------------------------------------------------------------------
    def lv_outer_sdf(self, p: Tensor) -> Tensor:
        height, distance, angle = self.polar(p)
        body = smooth_max(self._spheroid(height, distance, angle, 0.0), -height - 2.0, 6.0)
        return self.clear_of_ostia(smooth_min(body, self.outflow_sdf(p) - OUTFLOW_WALL_MM, 4.0), p)

    def lv_inner_sdf(self, p: Tensor) -> Tensor:
        height, distance, angle = self.polar(p)
        thicker = (self.wall - ANNULUS_WALL_MM) * (1 - height / TAPER_MM).clamp(0, 1)
        cavity = smooth_max(self._spheroid(height, distance, angle, self.wall) - thicker, -height, 4.0)
        cavity = self.clear_of_ostia(cavity - RECESS_WALL_MM, p) + RECESS_WALL_MM
        return smooth_min(cavity, self.outflow_sdf(p), 4.0)

    def rv_sdf(self, p: Tensor) -> Tensor:
        height, distance, angle = self.polar(p)
        septum = self._spheroid(height, distance, angle, 0.0)
        end = self.reach * self.length
        along = (height / end).clamp(-0.4, 1.0)
        shrink = 1 - 0.35 * along.clamp_min(0)
        edge = torch.where(angle > 0, torch.full_like(angle, self.edges[0]), torch.full_like(angle, self.edges[1])) * shrink
        bump = (1 - (angle / edge).square()).clamp_min(-0.5)
        thick = self.crescent * (1 - along.clamp_min(0).pow(2.2))
        outer = (septum - (thick + 5.0) * bump.clamp_min(0).sqrt() - bump.clamp_max(0) * 20 + 5.0) * 0.75
        body = smooth_max(smooth_max(outer, 0.5 - septum, 4.0), -height - 5.0, 6.0)
        start = self.at(np.array([4.0]), np.array([self.radius + 0.5 * self.crescent]), np.array([0.55 * self.edges[0]]))[0]
        outflow = capsule_chain(
            p, torch.tensor(np.array([start, self.trunk[0]]), dtype=torch.float32), torch.tensor([16.0, 13.5])
        )
        whole = smooth_min(body, smooth_max(outflow, 1.0 - septum, 4.0), 12.0)
        whole = smooth_min(whole, smooth_max(self.rv_floor_sdf(p), 1.0 - septum, 4.0), 8.0)
        return self.clear_of_ostia(self.with_groove(whole, p), p)

    def la_sdf(self, p: Tensor) -> Tensor:
        sdf = self._atrium(p, self.la_centre, self.la_radius, self.la_shape, self.la_appendage, self.appendage_radii[0])
        sdf = smooth_min(sdf, self.la_floor_sdf(p), 12.0)
        neck = np.stack([*(self.la_centre + np.array([[12, -4, 22], [24, -15, 36.0]])), self.la_appendage[-1]])
        return self.clear_of_ostia(self.over_left_groove(sdf, p, neck), p)

    def ra_sdf(self, p: Tensor) -> Tensor:
        sdf = self._atrium(p, self.ra_centre, self.ra_radius, self.ra_shape, self.ra_appendage, self.appendage_radii[1])
        sdf = smooth_min(sdf, self.ra_floor_sdf(p), 12.0)
        return self.clear_of_ostia(self.with_groove(sdf, p), p)

    def _atrium(
        self, p: Tensor, centre: np.ndarray, radius: float, shape: np.ndarray, appendage: np.ndarray, thickness: float
    ) -> Tensor:
        q = p - vector(centre, p)
        r = q.square().sum(0).add(1e-6).sqrt()
        z, y, x = q / r
        terms = (z, y, x, z * z, y * y, x * x, z * y, z * x, y * x)
        body = (r - radius * (1 + sum(float(a) * t for a, t in zip(shape, terms, strict=True)))) * 0.85
        tube = capsule_chain(
            p, torch.tensor(appendage, dtype=torch.float32), torch.linspace(1.2, 0.7, len(appendage)) * thickness
        )
        return smooth_min(body, tube, 10.0)

    def root_sdf(self, p: Tensor) -> Tensor:
        """Ascending aorta with three sinuses above the valve."""
        tube = super().root_sdf(p)
        middle = 0.25 * self.root[0] + 0.75 * self.root[1]
        size = 0.62 * float(self.root_radii[1])
        for side in self.sinus_axes[1:]:
            tube = smooth_min(tube, (p - vector(middle + size * side, p)).square().sum(0).sqrt() - size, 5.0)
        return above_valve(tube, p, self.root)

    @property
    def crux(self) -> np.ndarray:
        low = np.array([self.edge(np.zeros(1), False)[0] - 0.1])
        place: np.ndarray = self.at(np.array([3.0]), np.array([(1 - 0.8 * BASAL_NARROWING) * self.radius]), low)[0]
        return place

    # -- coronary tree --------------------------------------------------------------------------------------------
    def edge(self, height: np.ndarray, anterior: bool) -> np.ndarray:
        """Angle of the interventricular groove at a height: the crescent's edge, a little beyond."""
        share = np.clip(height / (self.reach * self.length), 0, 1)
        return (self.edges[0] if anterior else -self.edges[1]) * (1 - 0.35 * share) * 1.03

    def aside(self, height: np.ndarray) -> np.ndarray:
        """How far (radians) the anterior descending artery keeps to the left of the groove's edge at heights [n]: where the
        outflow tract or the pulmonary trunk covers the edge, it runs on the left ventricle beside them."""
        levels, shifts = np.linspace(0.0, self.length, 31), np.arange(-0.06, 1.1, 0.06)
        h, turn = (a.ravel() for a in np.meshgrid(levels, shifts, indexing="ij"))
        top = self._first_free(h, self.edge(h, True) + turn, DEPTH_MM + 2.0).reshape(len(levels), len(shifts))
        low = top < self.radius + 2.0 + COVER_MM
        low &= np.roll(low, -1, 1) & np.roll(low, 1, 1)  # with room to both sides
        first = shifts[np.where(low.any(1), low.argmax(1), top.argmin(1))].clip(0)
        needed = maximum_filter1d(np.maximum.accumulate(first[::-1])[::-1], 5, mode="nearest")
        return np.interp(height, levels, gaussian_filter1d(needed, 2.0, mode="nearest"))

    def _first_free(self, height: np.ndarray, angle: np.ndarray, depth: float) -> np.ndarray:
        """Distance [n] from the axis at which a place first lies ``depth`` mm above the surface."""
        steps = np.arange(0.1 * self.radius, 85.0, 0.6)
        n, m = len(height), len(steps)
        places = self.at(np.repeat(height, m), np.tile(steps, n), np.repeat(angle, m))
        solid = self.solid_sdf(torch.tensor(np.ascontiguousarray(places.T), dtype=torch.float32)).numpy().reshape(n, m)
        start = self.radius * np.interp(height / self.length, [0.5, 0.8], [0.55, 0.1])  # above the recesses' floor
        free = (solid > depth) & (steps >= start[:, None])
        return steps[np.where(free.any(1), free.argmax(1), m - 1)]

    def on_surface(self, height: np.ndarray, angle: np.ndarray, depth: float = DEPTH_MM, at_most: float = 18.0) -> np.ndarray:
        """Distance [n] from the axis of a curve at heights and angles that lies on the surface, or bridges its dents, but
        not ``at_most`` mm outside the left ventricle's radius."""
        distance = np.minimum(self._first_free(height, angle, depth), self.radius + at_most)
        return gaussian_filter1d(maximum_filter1d(distance, 3, mode="nearest"), 4.0, mode="nearest")

    def course(
        self, start: np.ndarray, height: np.ndarray, angle: np.ndarray, over_mm: float = 15.0, at_most: float = 18.0,
        depth: float = DEPTH_MM,
    ) -> np.ndarray:  # fmt: skip
        """Curve [n, 3] on the surface that leaves another artery at ``start`` [3]: height, angle and distance go over into
        their own course within ``over_mm``; ``at_most``: see :meth:`on_surface`."""
        h0, d0, a0 = (float(v) for v in self.polar(torch.tensor(start, dtype=torch.float32)))
        a0 += 2 * np.pi * np.round((angle[0] - a0) / (2 * np.pi))
        rough = self.at(height, np.full(len(height), self.radius), angle)
        arc = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(rough, axis=0), axis=1))])
        share = np.clip(arc / over_mm, 0, 1)
        fade = 1 - share**2 * (3 - 2 * share)
        height, angle = height + (h0 - height[0]) * fade, angle + (a0 - angle[0]) * fade
        distance = self.on_surface(height, angle, depth, at_most)
        line = resample(self.at(height, distance + (d0 - distance[0]) * fade, angle))
        for _ in range(2):  # round off what the surface's dents leave
            line[1:] = gaussian_filter1d(line, 2.5, axis=0, mode="nearest")[1:]
            line[0] = start
            line = push_out(self, resample(line), depth, keep=1)
        return line

    def _reach(self, centre: np.ndarray, rays: np.ndarray) -> np.ndarray:
        """How far the solid first reaches along rays [n, 3] from a centre [3], mm [n], plus the arteries' height."""
        steps = np.arange(12.0, 60.0, 0.75)
        places = centre + rays[:, None] * steps[:, None]
        p = torch.tensor(np.ascontiguousarray(places.reshape(-1, 3).T), dtype=torch.float32)
        low = self.solid_sdf(p).numpy().reshape(len(rays), -1) <= DEPTH_MM
        return steps[low.argmin(1)]

    def grow_tree(self, rng: np.random.Generator) -> list[Artery]:
        right_dominant = rng.random() < 0.85
        scale = self.draw_calibre(rng)

        def artery(name: str, owner: str, line: np.ndarray, first_mm: float, last_mm: float) -> Artery:
            line = resample(line)
            share = np.linspace(0, 1, len(line)) ** 0.8
            return Artery(name, VESSEL_INDEX[owner], line, 0.5 * scale * (first_mm + (last_mm - first_mm) * share))

        def wave(n: int, amplitude: float) -> np.ndarray:
            """Tortuosity: a smooth random curve that starts at 0."""
            noise = gaussian_filter1d(rng.normal(size=n + 60), 9.0)[30 : 30 + n]
            return amplitude * noise / max(noise.std(), 1e-6) * np.minimum(1, np.arange(n) / 20)

        left_ostium, right_ostium = self.ostia
        right_out = self.right_out

        # left main: to the left in the recess behind the pulmonary trunk
        length = float(np.clip(rng.normal(*LM_MM), 5.0, 14.0))
        lm = left_ostium + np.linspace(0, length, 15)[:, None] * self.left_out
        lm = push_out(self, resample(lm), 2.0, keep=1)
        split = lm[-1]
        arteries = [artery("LM", "LM", lm, 4.5, 4.3)]

        # anterior interventricular groove
        top, _, beside = (float(v) for v in self.polar(torch.tensor(split, dtype=torch.float32)))
        end = rng.uniform(0.92, 1.0) * self.length
        heights = np.linspace(top, end, 90)
        angles = self.edge(heights, True) + self.aside(heights) + wave(90, 0.04)
        lad = cut(self.course(split, heights, angles, over_mm=24.0, at_most=COVER_MM), rng.normal(*LAD_MM))
        arteries.append(artery("LAD", "LAD", lad, 3.7, 1.7))
        for number, share in enumerate(sorted(rng.uniform(0.15, 0.5, rng.integers(1, 4)))):
            start = lad[int(share * len(lad))]
            h0, _, a0 = (float(v) for v in self.polar(torch.tensor(start, dtype=torch.float32)))
            levels = np.linspace(h0, min(h0 + rng.uniform(35, 55), 0.9 * self.length), 40)
            sideways = max(min(rng.uniform(0.3, 0.8), LAST_DIAGONAL - a0), 0.15)
            angles = a0 + sideways * np.linspace(0, 1, 40) ** 1.2 + wave(40, 0.04)
            diagonal = cut(self.course(start, levels, angles), branch_length_mm(rng))
            arteries.append(artery(f"D{number + 1}", "LAD", diagonal, 2.2, 1.2))

        # left atrioventricular groove: on to the crux, where it ends in a left-dominant heart
        low_edge = self.edge(np.zeros(1), False)[0] - 0.1
        level = GROOVE_HEIGHT_MM + rng.uniform(-1.5, 1.5)
        turn = np.linspace(beside, 2 * np.pi + low_edge, 120)
        crux = self.at(np.full(3, 3.0), self.on_surface(np.full(3, 3.0), np.full(3, low_edge)), np.full(3, low_edge))[1]
        lcx = whole_groove = self.course(split, level + wave(120, 1.0), turn, over_mm=25.0, at_most=6.0)
        if right_dominant:
            lcx = cut(whole_groove, float(np.clip(rng.normal(*LCX_MM), 40, 82)))
        arteries.append(artery("LCX", "LCX", lcx, 3.4, 1.8))

        def down_the_wall(
            start: np.ndarray, to_mm: float, sideways: float = 0.25, at_most: float = 18.0, depth: float = DEPTH_MM
        ) -> np.ndarray:
            """A branch from ``start`` towards the apex."""
            h0, _, a0 = (float(v) for v in self.polar(torch.tensor(start, dtype=torch.float32)))
            levels = np.linspace(h0, h0 + rng.uniform(30, to_mm), 40)
            angles = a0 + np.linspace(0, rng.uniform(-sideways, sideways), 40) + wave(40, 0.04)
            return cut(self.course(start, levels, angles, at_most=at_most, depth=depth), branch_length_mm(rng))

        turned = self.polar(torch.tensor(np.ascontiguousarray(lcx.T), dtype=torch.float32))[2].numpy() % (2 * np.pi)
        first = max(int((turned >= FIRST_MARGINAL).argmax()), int(0.3 * len(lcx)))
        for number, share in enumerate(sorted(rng.uniform(0, 1, rng.integers(1, 4)))):
            start = lcx[int(first + share * (0.9 * (len(lcx) - 1) - first))]
            marginal = clear_of(down_the_wall(start, 55), arteries, "LCX")
            if marginal is not None:
                arteries.append(artery(f"OM{number + 1}", "LCX", marginal, 2.2, 1.2))

        # right atrioventricular groove: a ring around the tricuspid valve from the front over the right margin to the crux
        normal = self.tricuspid_normal
        front = unit(np.array([0.4, -1.0, 0.0]) - normal * (np.array([0.4, -1.0, 0.0]) @ normal))
        down = np.cross(normal, front)
        down = down if down[0] < 0 else -down
        turn = np.linspace(np.deg2rad(-40), np.deg2rad(rng.uniform(112, 132)), 100)
        rays = np.cos(turn)[:, None] * front + np.sin(turn)[:, None] * down
        distance = gaussian_filter1d(self._reach(self.tricuspid, rays), 3.0, mode="nearest") + 0.3 * DEPTH_MM + wave(100, 0.8)
        ring_line = self.tricuspid + rays * distance[:, None] + normal * wave(100, 1.0)[:, None]
        leaves = right_ostium + 4 * right_out
        ahead = ((ring_line - leaves) * np.gradient(ring_line, axis=0)).sum(1) > 0
        onto = int(np.argmax(ahead & (np.linalg.norm(ring_line - leaves, axis=1) > 12) & (np.arange(100) >= 4)))
        rough = np.concatenate([[right_ostium, leaves], ring_line[onto:], [crux]])
        smooth = resample(rough)
        smooth[1:-1] = gaussian_filter1d(smooth, 4.0, axis=0, mode="nearest")[1:-1]
        rca = push_out(self, resample(smooth), DEPTH_MM, keep=6)
        rca[1:-1] = gaussian_filter1d(rca, 3.0, axis=0, mode="nearest")[1:-1]
        rca = push_out(self, resample(rca), DEPTH_MM, keep=6)
        if not right_dominant:  # it ends at the right margin
            rca = cut(rca, rng.uniform(0.55, 0.75) * len(rca))
        sizes = (3.9, 2.6) if right_dominant else (2.8, 1.4)
        arteries.append(artery("RCA", "RCA", rca, *sizes))
        levels = np.linspace(3.0, rng.uniform(0.45, 0.8) * self.length, 60)
        pda = self.course(
            (rca if right_dominant else lcx)[-1], levels, self.edge(levels, False) + wave(60, 0.03), at_most=COVER_MM
        )
        arteries.append(artery("PDA", "RCA" if right_dominant else "LCX", pda, 2.3, 1.2))
        if right_dominant:  # on along the left groove, as far as the circumflex leaves it free, and down the inferior wall
            free = float(np.linalg.norm(np.diff(whole_groove, axis=0), axis=1).sum()) - len(lcx) - APART_MM
            if free > 12:
                back = cut(whole_groove[::-1], min(rng.uniform(20, 45), free))
                twig = down_the_wall(back[-1], 50)
                whole = cut(np.concatenate([rca[-1:], back[4:], twig[3:]]), POSTEROLATERAL_MM)
                inferior = clear_of(push_out(self, rounded(whole, 5.0), DEPTH_MM, keep=2), arteries, "RCA")
                if inferior is not None:
                    arteries.append(artery("PL", "RCA", inferior, 2.4, 1.2))
        start = rca[int((rng.uniform(0.45, 0.6) if right_dominant else rng.uniform(0.6, 0.9)) * len(rca))]
        acute = inside_sac(self, down_the_wall(start, 50, 0.15, at_most=60.0, depth=1.7))
        if acute is not None:
            arteries.append(artery("AM", "RCA", acute, 2.0, 1.0))

        levels = np.linspace(6.0, 0.8 * end, 80)
        angles = self.edge(levels, True) + self.aside(levels) + 0.16 + wave(80, 0.03)
        great = self.at(levels, self.on_surface(levels, angles), angles)
        arteries.append(Artery("vein_anterior", 0, resample(great), np.full(len(resample(great)), rng.uniform(1.2, 2.0))))
        around = np.linspace(self.edge(np.zeros(1), True)[0] + 0.6, 2 * np.pi + low_edge - 0.15, 110)
        ring = GROOVE_HEIGHT_MM - 3.0 + wave(110, 1.0)
        vein = self.at(ring, self.on_surface(ring, around, depth=3.5, at_most=1.0), around)
        vein = resample(np.concatenate([vein, sinus_mouth(self, crux)[None]]))
        vein[1:-1] = gaussian_filter1d(vein, 4.0, axis=0, mode="nearest")[1:-1]
        arteries.append(coronary_sinus(rng, resample(push_out(self, vein[::-1], 3.2, keep=8)[::-1])))
        return arteries


RA_APPENDAGE = np.array([[14, -14, 4], [28, -24, 8], [38, -26, 14], [45, -28, 24]])
"""From the right atrium's middle over the right coronary artery to beside the aorta (mm)."""


def draw_heart(rng: np.random.Generator) -> PolarHeart:
    """One heart; everything follows from ``rng``."""
    axis = unit(np.array([-0.48, -0.58, 0.66]) + rng.normal(0, 0.07, 3))
    to_rv = np.array([-0.28, -0.70, -0.65]) + rng.normal(0, 0.06, 3)
    to_rv = unit(to_rv - axis * (to_rv @ axis))
    third = np.cross(axis, to_rv)
    third = third if third[0] > 0 else -third  # positive angles lead to the anterior groove
    axes = np.stack([axis, to_rv, third])
    base = np.array([8.0, 12.0, 6.0]) + rng.normal(0, 1.5, 3)
    length, radius, wall = rng.uniform(85, 99), rng.uniform(31.5, 38), rng.uniform(7.5, 12.0)
    crescent = rng.uniform(24, 33)
    below = rng.normal(0.28, 0.06)  # the valve lies towards the inferior edge of the crescent
    tricuspid = (
        base
        - 3 * axis
        + (np.cos(below) * to_rv - np.sin(below) * third) * ((1 - 0.75 * BASAL_NARROWING) * radius + 0.5 * crescent)
    )
    normal = unit(axis + rng.normal(0, 0.08, 3) - 0.15 * to_rv)
    to_atrium = unit(np.array([0.05, 0.60, -0.80]) + rng.normal(0, 0.08, 3))
    ra_radius, la_radius = rng.uniform(24, 29.5), rng.uniform(23, 28)
    ra_centre = tricuspid + to_atrium * 0.92 * ra_radius
    la_centre = base + np.array([12.0, 22.0, -5.0]) + rng.normal(0, 2.5, 3)
    root = (
        base
        + np.array([-2.0, -9.0, -6.0])
        + np.array(
            [[8, -9, -4], [15.5, -8.5, -7], [23, -8, -10], [44, -13, -12], [68, -10, -12], [86, 3, -8], [93, 19, 3]], float
        )
    )
    root += np.cumsum(rng.normal(0, 0.8, root.shape), axis=0)
    trunk = np.array([[31, -30, 13], [43, -26, 18], [57, -12, 18], [64, 8, 14]], float) + rng.normal(0, 1.5, (4, 3))
    shape_sd = np.array([0.05] * 3 + [0.05] * 3 + [0.06] * 3)
    return PolarHeart(
        base=base, axes=axes, root=root, root_radii=rng.normal(15.3, 1.6) * np.array([0.86, 0.98, 0.96, 1.0, 1.02, 0.97, 0.92]),
        trunk=trunk, trunk_radii=rng.normal(12.6, 1.2) * np.array([0.95, 1.0, 1.0, 0.97]),
        la_centre=la_centre, ra_centre=ra_centre, mitral_radii=(radius - wall, radius - wall),
        papillary_radius=0.6 * (radius - wall),
        left_out=unit(np.array([0.35, rng.normal(-0.15, 0.10), 1.0])),
        right_out=unit(np.array([0.05, -0.85, rng.normal(-0.75, 0.12)])),
        fat_mm=float(np.clip(rng.lognormal(np.log(2.6), 0.55), LEAST_FAT_MM, 9.0)), fat_side=draw_fat_side(rng),
        groove_radius=rng.uniform(13, 17), left_groove=(GROOVE_HEIGHT_MM, (1 - 0.75 * BASAL_NARROWING) * radius + 4.0),
        groove_mm=rng.uniform(18, 36), length=length, radius=radius, wall=wall, bend=rng.normal(0, 4.0, 2),
        ripple=rng.normal(0, 0.025, (2, 2)), crescent=crescent,
        edges=(float(np.deg2rad(rng.uniform(62, 80))), float(np.deg2rad(rng.uniform(64, 82)))), reach=rng.uniform(0.78, 0.90),
        tricuspid=tricuspid, tricuspid_normal=normal, la_radius=la_radius, ra_radius=ra_radius,
        la_shape=np.array([0, 0, 0, 0.0, -0.17, 0.20, 0, 0, 0]) + rng.normal(0, shape_sd),
        ra_shape=np.array([0, 0, 0, 0.14, 0.0, -0.14, 0, 0, 0]) + rng.normal(0, shape_sd),
        la_appendage=la_centre + np.array([[4, -7, 30], [18, -20, 41], [24, -31, 42]]) + rng.normal(0, 1.5, (3, 3)),
        ra_appendage=ra_centre + RA_APPENDAGE + rng.normal(0, 1.5, RA_APPENDAGE.shape),
        appendage_radii=(rng.uniform(9, 12), rng.uniform(10, 13)),
    )  # fmt: skip
