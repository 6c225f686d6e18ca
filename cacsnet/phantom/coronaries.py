"""The coronary tree in the grooves of one heart.

Each artery starts from a few guide points (ostium, rays in the plane of its groove), is then alternately smoothed and
projected to its depth above the surface of chambers, root and trunk. Lumen after Dodge et al. 1992.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d

from cacsnet.labels import VESSEL_INDEX
from cacsnet.phantom.anatomy import BASE, Heart, _unit


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


def _solid(heart: Heart, points: np.ndarray) -> np.ndarray:
    p = torch.tensor(np.ascontiguousarray(points.T), dtype=torch.float32)
    return heart.solid_sdf(p).numpy().astype(float)


def _outward(heart: Heart, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance to the surface and its gradient by central differences."""
    h = 0.5
    offsets = np.concatenate([points] + [points + s * h * e for e in np.eye(3) for s in (1, -1)])
    values = _solid(heart, offsets).reshape(7, -1)
    gradient = np.stack([values[1 + 2 * k] - values[2 + 2 * k] for k in range(3)], 1)
    return values[0], gradient / np.maximum(np.linalg.norm(gradient, axis=1, keepdims=True), 1e-6)


def _ray_out(heart: Heart, origin: np.ndarray, direction: np.ndarray, depth: float, outermost: bool = False) -> np.ndarray:
    """First (or outermost) point from ``origin`` along ``direction`` that comes to lie ``depth`` mm above the surface."""
    steps = np.arange(4.0, 80.0, 0.75)
    low = np.flatnonzero(_solid(heart, origin + steps[:, None] * direction) <= depth)
    if not low.size:
        return origin + steps[0] * direction
    last = low[-1] if outermost else low[np.flatnonzero(np.diff(low, append=len(steps) + 1) > 1)[0]]
    return origin + steps[min(last + 1, len(steps) - 1)] * direction


def _resample(line: np.ndarray, step: float = 1.0) -> np.ndarray:
    arc = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    n = max(3, round(arc[-1] / step) + 1)
    return np.stack([np.interp(np.linspace(0, arc[-1], n), arc, line[:, k]) for k in range(3)], 1)


def _settle(heart: Heart, guide: np.ndarray, depth: float, rounds: int = 16) -> np.ndarray:
    """Smooth the guide and lay it ``depth`` mm above the surface, ends fixed."""
    line = _resample(guide)
    for _ in range(rounds):
        smooth = gaussian_filter1d(line, 3.0, axis=0, mode="nearest")
        line[1:-1] = smooth[1:-1]
        sdf, gradient = _outward(heart, line)
        # moves are smoothed too: in a narrow cleft the normals flip from point to point and would fold the line
        move = gaussian_filter1d(np.clip((depth - sdf)[:, None] * gradient, -3, 3), 2.0, axis=0, mode="nearest")
        line[1:-1] += move[1:-1]
        line = _resample(line)
    return line


def _lift(heart: Heart, point: np.ndarray, depth: float) -> np.ndarray:
    """Move a point along the surface normal until it lies ``depth`` mm above the surface."""
    for _ in range(12):
        sdf, gradient = _outward(heart, point[None])
        point = point + np.clip(depth - sdf[0], -4, 4) * gradient[0]
    return point


def _around(axis_a: np.ndarray, axis_b: np.ndarray, angle_deg: float) -> np.ndarray:
    t = np.deg2rad(angle_deg)
    return np.cos(t) * axis_a + np.sin(t) * axis_b


def grow_tree(heart: Heart, rng: np.random.Generator) -> list[Artery]:
    """LM, LAD with diagonals, LCX with marginals, RCA with its posterior descending branch, and two cardiac veins."""
    axis, to_rv, third = heart.lv_axes
    up = third if third[0] > 0 else -third  # towards the anterior interventricular groove
    right_dominant = rng.random() < 0.85
    female = 0.91 if rng.random() < 0.4 else 1.0
    scale = female * rng.normal(1.0, 0.08)
    depth = 2.6

    def tapered(line: np.ndarray, first_mm: float, last_mm: float) -> np.ndarray:
        return 0.5 * scale * np.linspace(first_mm, last_mm, len(line))

    # above the base of the ventricles, where the groove between root and trunk is open
    sinus, radius = 0.35 * heart.root[1] + 0.65 * heart.root[2], heart.root_radii[2]
    left_out = _unit(np.array([0.35, rng.normal(-0.10, 0.12), 1.0]))
    right_out = _unit(np.array([0.10, -0.8, rng.normal(-0.85, 0.15)]))
    left_ostium, right_ostium = sinus + radius * left_out, sinus + radius * right_out
    reach_lm = left_ostium + rng.uniform(5, 13) * _unit(left_out + np.array([0.0, -0.25, 0.1]))
    bifurcation = _lift(heart, reach_lm, depth)
    lm = _settle(heart, np.stack([left_ostium, 0.5 * (left_ostium + bifurcation), bifurcation]), depth, 4)

    # anterior interventricular groove, base to apex
    reach = heart.lv_outer[0]
    septum = lambda t: heart.lv_centre + axis * t + to_rv * 0.85 * heart.lv_outer[1]  # noqa: E731
    levels = np.linspace(-0.20, rng.uniform(0.75, 0.97), 7) * reach
    turns = np.linspace(14, 0, 7)  # at the base the artery passes to the left of the pulmonary trunk
    groove = [_ray_out(heart, septum(t), _around(up, -to_rv, a), depth) for t, a in zip(levels, turns, strict=True)]
    apex = heart.lv_centre + axis * (reach + depth)
    lad = _settle(heart, np.stack([bifurcation, *groove, apex]), depth)
    lad = lad[: max(60, round(rng.uniform(0.8, 1.0) * len(lad)))]
    arteries = [
        Artery("LM", VESSEL_INDEX["LM"], lm, tapered(lm, 4.5, 4.3)),
        Artery("LAD", VESSEL_INDEX["LAD"], lad, tapered(lad, 3.7, 1.7)),
    ]
    lateral = -to_rv
    for number, share in enumerate(sorted(rng.uniform(0.15, 0.5, rng.integers(1, 4)))):
        start = lad[int(share * len(lad))]
        t0 = float((start - heart.lv_centre) @ axis)
        turns = np.linspace(15, rng.uniform(45, 70), 4)
        rows = [
            _ray_out(heart, heart.lv_centre + axis * t, _around(up, lateral, a), depth)
            for a, t in zip(turns, np.linspace(t0 + 8, t0 + rng.uniform(30, 50), 4), strict=True)
        ]
        line = _settle(heart, np.stack([start, *rows]), depth, 6)
        arteries.append(Artery(f"D{number + 1}", VESSEL_INDEX["LAD"], line, tapered(line, 2.2, 1.2)))

    # left atrioventricular groove
    ring_centre = BASE + axis * 9.0  # on the ventricle's side of the groove: further back the atrium bulges over it
    end_angle = rng.uniform(120, 150) if right_dominant else rng.uniform(165, 185)
    ring = [_ray_out(heart, ring_centre, _around(up, lateral, a), depth) for a in np.arange(25.0, end_angle, 15.0)]
    lcx = _settle(heart, np.stack([bifurcation, *ring]), depth)
    arteries.append(Artery("LCX", VESSEL_INDEX["LCX"], lcx, tapered(lcx, 3.4, 1.8)))
    for number, share in enumerate(sorted(rng.uniform(0.3, 0.85, rng.integers(1, 4)))):
        start = lcx[int(share * len(lcx))]
        side = start - heart.lv_centre
        side = _unit(side - axis * (side @ axis))
        t0 = float((start - heart.lv_centre) @ axis)
        rows = [
            _ray_out(heart, heart.lv_centre + axis * t, side, depth) for t in np.linspace(t0 + 10, t0 + rng.uniform(30, 55), 4)
        ]
        line = _settle(heart, np.stack([start, *rows]), depth, 6)
        arteries.append(Artery(f"OM{number + 1}", VESSEL_INDEX["LCX"], line, tapered(line, 2.2, 1.2)))

    # right atrioventricular groove: from the ostium to the front, the right margin, and back to the crux
    n = heart.tricuspid_normal
    front = _unit(np.array([0.3, -1.0, 0.0]) - n * (np.array([0.3, -1.0, 0.0]) @ n))
    down = np.cross(n, front)
    down = down if down[0] < 0 else -down
    angles = np.arange(25.0, rng.uniform(115, 140), 15.0)
    ring = [_ray_out(heart, heart.tricuspid, _around(front, down, a), depth, outermost=True) for a in angles]
    crux = _ray_out(heart, BASE + axis * 2 + to_rv * 12, -up, depth)
    rca = _settle(heart, np.stack([right_ostium, right_ostium + 5 * right_out, *ring, crux]), depth)
    arteries.append(
        Artery(
            "RCA",
            VESSEL_INDEX["RCA"],
            rca,
            tapered(rca, 3.9 if right_dominant else 2.8, 2.6 if right_dominant else 1.4),
        )
    )
    rows = [_ray_out(heart, septum(t), -up, depth) for t in np.linspace(-0.35, rng.uniform(0.1, 0.5), 5) * reach]
    pda = _settle(heart, np.stack([crux, *rows]), depth, 6)
    owner = "RCA" if right_dominant else "LCX"
    arteries.append(Artery("PDA", VESSEL_INDEX[owner], pda, tapered(pda, 2.3, 1.2)))

    for name, source in (("vein_anterior", lad[8:-20]), ("vein_ring", lcx[6:])):
        shift = _unit(rng.normal(size=3)) * 1.0 + (lateral if name == "vein_anterior" else -axis)
        vein = _settle(heart, source + 5.0 * _unit(shift), 2.8, 4)
        arteries.append(Artery(name, 0, vein, np.full(len(vein), rng.uniform(1.4, 2.4))))
    return arteries


def tangent(line: np.ndarray, index: int) -> np.ndarray:
    a, b = max(0, index - 2), min(len(line) - 1, index + 2)
    return _unit(line[b] - line[a])


def surface_normal(heart: Heart, point: np.ndarray) -> np.ndarray:
    return _outward(heart, point[None])[1][0]
