"""Where calcium lies that is not coronary: lines along valves, rings, walls, sheets, bronchi, cartilage and bone.

Bodies on them come from the same function as plaques (:func:`cacsnet.phantom.calcium.fill`). Places in the heart hang on
landmarks that every heart model has; places in the chest on the surface of the painted part of that name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from scipy.interpolate import RegularGridInterpolator
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from cacsnet.phantom.anatomy import Part, Patient, View
from cacsnet.phantom.calcium import Bed, fill, kept, linear_part
from cacsnet.phantom.deposits import DISTRACTORS, Deposit
from cacsnet.phantom.heart import Heart, resample, unit
from cacsnet.phantom.population import Population, draw_site_target, load_population

Sdf = Callable[[np.ndarray], np.ndarray]
"""Signed distance [n] (mm) at points [n, 3] of the heart frame."""


def _perpendicular(direction: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return unit(np.cross(direction, unit(rng.normal(size=3))))


def _span(length_mm: float) -> np.ndarray:
    """Positions (mm) about 1 mm apart, centred on 0."""
    return np.linspace(-0.5, 0.5, max(4, round(length_mm))) * length_mm


def _ring(centre: np.ndarray, a: np.ndarray, b: np.ndarray, middle: float, half: float) -> np.ndarray:
    """Arc [n, 3] of the ellipse centre + cos t a + sin t b around the angle ``middle``."""
    size = 0.5 * float(np.linalg.norm(a) + np.linalg.norm(b))
    t = middle + np.linspace(-half, half, max(4, round(2 * half * size)))
    return centre + np.cos(t)[:, None] * a + np.sin(t)[:, None] * b


def gradient(sdf: Sdf, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Value [n] and gradient [n, 3] by central differences."""
    h = 0.5
    values = sdf(np.concatenate([points] + [points + s * h * e for e in np.eye(3) for s in (1, -1)])).reshape(7, -1)
    return values[0], np.stack([values[1 + 2 * k] - values[2 + 2 * k] for k in range(3)], 1) / (2 * h)


def settle(sdf: Sdf, points: np.ndarray, rounds: int = 2) -> np.ndarray:
    """Move points [n, 3] onto the surface."""
    for _ in range(rounds):
        value, slope = gradient(sdf, points)
        steep = np.maximum(np.linalg.norm(slope, axis=1, keepdims=True), 0.2)
        points = points - np.clip(value[:, None] / steep, -6, 6) * slope / steep
    return points


def _torch_sdf(function: Callable[[Tensor], Tensor]) -> Sdf:
    return lambda points: function(torch.from_numpy(np.ascontiguousarray(points.T)).float()).numpy().astype(float)


def parts_from(patient: Patient, name: str) -> list[Part]:
    """The painted part of that name and all that are painted over it; none if this patient has no such part."""
    parts: list[Part] = kept(patient, "parts", patient.parts)
    return parts[next((k for k, part in enumerate(parts) if part.name == name), len(parts)) :]


def nearest_sdf(patient: Patient, parts: Sequence[Part]) -> Sdf:
    """Signed distance to the nearest of painted parts, at points of the heart frame."""
    to_heart = patient.to_heart(torch.eye(3)).numpy().astype(float)  # linear: columns are images of the axes
    to_thorax = np.linalg.inv(to_heart)

    def sdf(points: np.ndarray) -> np.ndarray:
        thorax = torch.from_numpy(to_thorax @ points.T).float()
        view = View(patient, thorax, patient.to_heart(thorax))
        return torch.stack([part.sdf(view) for part in parts]).amin(0).numpy().astype(float)

    return sdf


def part_sdf(patient: Patient, name: str) -> Sdf | None:
    """Signed distance to the painted part of that name, at points of the heart frame; None if this patient has none."""
    parts = parts_from(patient, name)
    return nearest_sdf(patient, parts[:1]) if parts else None


def bare(patient: Patient, name: str, points: np.ndarray) -> np.ndarray:
    """Which of points [n, 3] (heart frame) no part covers that is painted over the one of that name, nor comes very near."""
    over = parts_from(patient, name)[1:]
    free: np.ndarray = nearest_sdf(patient, over)(points) > BARE_MM
    return free


BARE_MM = 1.0
"""Least distance of calcium at a part's surface from what is painted over the part; the marrow lies deeper under its bone."""


def surface_point(patient: Patient, name: str, rng: np.random.Generator, near: np.ndarray, share: float) -> np.ndarray | None:
    """A random point near a part's bare surface, among the ``share`` nearest to ``near``; None if there is none around the
    heart."""

    def sample() -> np.ndarray:
        sdf = part_sdf(patient, name)
        if sdf is None:
            return np.zeros((0, 3))
        own = np.random.default_rng([patient.seed, 14, *name.encode()])
        points = own.uniform(CHEST[0], CHEST[1], (6000, 3))
        points = points[np.abs(sdf(points)) < 8.0]
        return points[bare(patient, name, settle(sdf, points))] if len(points) else points

    points = kept(patient, f"surface of {name}", sample)
    if not len(points):
        return None
    order = np.argsort(np.linalg.norm(points - near, axis=1))
    return np.asarray(points[order[int(rng.integers(max(1, round(share * len(points)))))]])


CHEST = np.array([[-85.0, -140.0, -105.0], [110.0, 110.0, 105.0]])
"""Box (heart frame mm) in which places of the chest are looked for."""


def sac_sdf(patient: Patient) -> Sdf:
    """Signed distance to the pericardial sac as painted: flat where it meets the chest wall."""
    sdf = part_sdf(patient, "sac")
    assert sdf is not None
    return sdf


def sac_reach(patient: Patient) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distance (mm) of the pericardium from the heart's centre by direction: heights and turns of a lattice, reach [31, 65]."""

    def sample() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        height, turn = np.linspace(-1, 1, 31), np.linspace(-np.pi, np.pi, 65)
        h, t = np.meshgrid(height, turn, indexing="ij")
        flat = np.sqrt(1 - h * h)
        rays = np.stack([h, flat * np.cos(t), flat * np.sin(t)], -1)
        steps = np.arange(15.0, 116.0, 10.0)
        sdf = sac_sdf(patient)
        values = sdf((rays[..., None, :] * steps[:, None]).reshape(-1, 3)).reshape(*h.shape, len(steps))
        first = np.clip((values > 0).argmax(-1), 1, len(steps) - 1)  # the first step outside
        inside, outside = (np.take_along_axis(values, k[..., None], -1)[..., 0] for k in (first - 1, first))
        share = np.clip(-inside / np.maximum(outside - inside, 1e-3), 0, 1)
        return height, turn, steps[first - 1] + 10.0 * share

    found: tuple[np.ndarray, np.ndarray, np.ndarray] = kept(patient, "sac", sample)
    return found


def on_sac(patient: Patient, directions: np.ndarray) -> np.ndarray:
    """Points [n, 3] of the pericardium in directions [n, 3] from the heart's centre."""
    height, turn, reach = sac_reach(patient)
    rays = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    place = np.stack([rays[:, 0], np.arctan2(rays[:, 2], rays[:, 1])], 1)
    return rays * RegularGridInterpolator((height, turn), reach)(place)[:, None]


# -- places -------------------------------------------------------------------------------------------------------


def _aorta(patient: Patient, rng: np.random.Generator) -> list[np.ndarray]:
    heart = patient.heart
    if rng.random() < 0.3:  # arch and descending aorta
        found = _on_part(("descending_aorta", "descending_aorta", "arch"), reach_mm=(15, 50))(patient, rng)
        if found:
            return found
    # a helix on the root's wall, from lengthwise to round it
    place = rng.uniform(1.0, len(heart.root) - 1.2)
    along = unit(heart.root[int(place) + 1] - heart.root[int(place)])
    side = _perpendicular(along, rng)
    slope = rng.uniform(0, np.pi / 2)
    span = _span(rng.uniform(15, 50))[:, None]
    radius = np.interp(place, np.arange(len(heart.root)), heart.root_radii)
    arc = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(heart.root, axis=0), axis=1))])
    at = np.clip(np.interp(place, np.arange(len(arc)), arc) + span[:, 0] * np.cos(slope), 0, arc[-1])
    centre = np.stack([np.interp(at, arc, heart.root[:, k]) for k in range(3)], 1)
    turn = span * np.sin(slope) / radius
    wall = np.interp(at, arc, heart.root_radii)[:, None]
    line = centre + wall * (np.cos(turn) * side + np.sin(turn) * np.cross(along, side))
    coarse = settle(_torch_sdf(heart.root_sdf), line[:: max(1, len(line) // 7)])  # sinuses are no tube
    return [resample(coarse)]


def _ostium(patient: Patient, rng: np.random.Generator) -> list[np.ndarray]:
    heart = patient.heart
    which = int(rng.integers(2))
    out = (heart.left_out, heart.right_out)[which]
    side = _perpendicular(out, rng)
    reach = rng.uniform(3.0, 6.0)
    line = _ring(heart.ostia[which], reach * side, reach * np.cross(out, side), 0.0, rng.uniform(0.8, np.pi))
    return [settle(_torch_sdf(heart.root_sdf), line)]  # in the wall around the ostium


def _aortic_valve(patient: Patient, rng: np.random.Generator) -> list[np.ndarray]:
    heart = patient.heart
    up = unit(heart.root[1] - heart.root[0])
    side = _perpendicular(up, rng)
    other = np.cross(up, side)
    radius = float(heart.root_radii[0])
    floor = heart.root[0] + up * rng.uniform(1, 5)
    lines = [_ring(floor, 0.92 * radius * side, 0.92 * radius * other, rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 1.6))]
    for turn in np.deg2rad([0, 120, 240]):  # cusps: from the annulus up to the middle
        if rng.random() < 0.7:
            outward = np.cos(turn) * side + np.sin(turn) * other
            share = np.linspace(0.15, 0.9, 12)[:, None]
            lines.append(floor + radius * share * outward + up * (6 * (1 - share) + 2 * np.sin(np.pi * share)))
    return lines


def mitral_ring(patient: Patient) -> np.ndarray:
    """Closed ring [36, 3] (heart frame mm) where left atrium and left ventricle meet, from the posterior middle on around.

    The edge of the opening that the atrium and the cavity of the ventricle share in the plane of the base, read off their
    signed distances; its posterior middle lies opposite the aortic root.
    """

    def find() -> np.ndarray:
        heart, axis = patient.heart, patient.heart.axes[0]
        grid = np.stack(np.meshgrid(*[np.arange(-45.0, 46.0, 1.5)] * 2, indexing="ij"), -1).reshape(-1, 2)
        plane = heart.base + grid @ heart.axes[1:]
        ventricle, atrium = _torch_sdf(heart.lv_inner_sdf)(plane + 1.0 * axis), _torch_sdf(heart.la_sdf)(plane - 3.0 * axis)
        aorta = _torch_sdf(heart.root_sdf)(plane)
        for gap in (0.0, 2.0, 4.0, 8.0, 16.0):  # where the atrium lies apart, the valve's ring bridges the gap
            # the fibrous curtain between both valves belongs to the aortic root
            inside = np.maximum(np.maximum(ventricle, atrium - gap), -aorta) < 0
            if inside.sum() * 1.5**2 >= SMALLEST_OPENING_MM2:
                break
        opening = grid[inside] if inside.any() else np.zeros((1, 2))
        centre = opening.mean(0)
        away = centre - (heart.root[0] - heart.base) @ heart.axes[1:].T
        turns = np.arctan2(away[1], away[0]) + np.linspace(0, 2 * np.pi, 36, endpoint=False)
        rays = np.stack([np.cos(turns), np.sin(turns)], 1)
        along = (opening - centre) @ rays.T  # [n, 36]
        off = np.abs((opening - centre) @ np.stack([-rays[:, 1], rays[:, 0]]))
        reach = np.where(off < 2.5, along, 4.0).max(0)
        reach = gaussian_filter1d(reach, 1.5, mode="wrap")
        return np.asarray(heart.base + (centre + reach[:, None] * rays) @ heart.axes[1:])

    found: np.ndarray = kept(patient, "mitral ring", find)
    return found


SMALLEST_OPENING_MM2 = 350.0
"""A mitral valve is hardly smaller."""


def _mitral_annulus(patient: Patient, rng: np.random.Generator) -> list[np.ndarray]:
    """An arc of the ring, mostly in its posterior half, up to nearly all of that half and beyond."""
    ring = mitral_ring(patient)
    middle, half = rng.normal(0, 0.5), rng.uniform(0.3, 1.6)
    turn = (middle + np.linspace(-half, half, 24)) % (2 * np.pi)
    at = np.linspace(0, 2 * np.pi, len(ring) + 1)
    line = np.stack([np.interp(turn, at, np.append(ring[:, k], ring[0, k])) for k in range(3)], 1)
    centre = ring.mean(0)
    outward = (line - centre) / np.linalg.norm(line - centre, axis=1, keepdims=True)
    line = line + rng.uniform(-0.5, 6.0) * outward + rng.uniform(-2.5, 2.5) * patient.heart.axes[0]
    return [resample(_inside_left_groove(patient.heart, line))]


CLEAR_OF_GROOVE_MM = 5.0
"""Least distance of annular calcium from the ring on which circumflex artery and coronary sinus run."""


def _inside_left_groove(heart: Heart, line: np.ndarray) -> np.ndarray:
    """A line [n, 3] moved towards the long axis where it comes too near to the vessels in the left groove."""
    height, radius = heart.left_groove
    away = line - heart.base
    along = away @ heart.axes[0]
    aside = away - along[:, None] * heart.axes[0]
    reach = np.linalg.norm(aside, axis=1)
    most = radius - 1.0 - np.sqrt(np.clip(CLEAR_OF_GROOVE_MM**2 - (along - height) ** 2, 0, None))
    out: np.ndarray = line - aside * np.clip(1 - most / np.maximum(reach, 1e-6), 0, None)[:, None]
    return out


def _pericardium(patient: Patient, rng: np.random.Generator) -> list[np.ndarray]:
    middle = on_sac(patient, unit(rng.normal(size=3))[None])[0]
    along = _perpendicular(unit(middle), rng)
    across = np.cross(unit(middle), along)
    span = _span(rng.uniform(15, 45))[:, None]
    rows = int(rng.integers(1, 5))  # a sheet: rows side by side
    sac = sac_sdf(patient)
    lines = [on_sac(patient, middle + span[::5] * along + 3.5 * row * across) for row in range(rows)]
    return [resample(settle(sac, line)) for line in lines]


def _papillary_muscle(patient: Patient, rng: np.random.Generator) -> list[np.ndarray]:
    """Lines along the long axis through random places inside the muscles."""
    heart = patient.heart

    def sample() -> np.ndarray:
        own = np.random.default_rng([patient.seed, 15])
        box = own.uniform([15, -35, -35], [75, 35, 35], (6000, 3))
        points = heart.base + box @ heart.axes
        return points[_torch_sdf(heart.papillary_sdf)(points) < -1.0]

    inside = kept(patient, "papillary muscles", sample)
    if not len(inside):
        return []
    sdf = _torch_sdf(heart.papillary_sdf)
    lines = []
    for _ in range(2):
        middle = inside[int(rng.integers(len(inside)))]
        line = middle + _span(rng.uniform(8, 18))[:, None] * heart.axes[0]
        line = line[sdf(line) < 0]
        if len(line) >= 4:
            lines.append(line)
    return lines


NODE_MM = 8.0
"""Half of a large node: so far from the chest wall is a node's middle."""


def _node(patient: Patient, rng: np.random.Generator) -> list[np.ndarray]:
    """Lines through each other in the fat between sac, chest wall and spine; none if three tries find no room there."""
    for _ in range(3):
        direction = unit(rng.normal(size=3))
        middle = on_sac(patient, direction[None])[0] + direction * rng.uniform(3, 28)
        at = patient.to_thorax(torch.tensor(patient.heart_to_patient(middle[None]).T, dtype=torch.float32))
        if float(patient.thorax.ring(at)[0]) < -NODE_MM:
            break
    else:
        return []
    lines = rng.normal(size=(3, 3))
    return [middle + rng.normal(0, 2, 3) + _span(rng.uniform(6, 16))[:, None] * unit(line) for line in lines]


TRIES = 12
"""Lines tried on a part, each a little shorter than the last, until one stays where nothing covers the part."""


def _on_part(
    names: tuple[str, ...], near: str | None = None, share: float = 0.33, reach_mm: tuple[float, float] = (8, 22)
) -> Callable[[Patient, np.random.Generator], list[np.ndarray]]:
    """Lines along the bare surface of painted parts, the nearer to a landmark (the heart's centre) the likelier."""

    def lines(patient: Patient, rng: np.random.Generator) -> list[np.ndarray]:
        name = names[int(rng.integers(len(names)))]
        sdf = part_sdf(patient, name)
        length = rng.uniform(*reach_mm)
        for _ in range(TRIES):
            start = surface_point(patient, name, rng, np.zeros(3) if near is None else getattr(patient.heart, near), share)
            if sdf is None or start is None:
                break
            normal = unit(gradient(sdf, start[None])[1][0] + 1e-6)
            span = np.linspace(-0.5, 0.5, 6)[:, None] * length
            line = resample(settle(sdf, start + span * _perpendicular(normal, rng), 3))
            if bare(patient, name, line).all():
                return [line]
            length *= 0.9
        return []

    return lines


PLACES: dict[str, Callable[[Patient, np.random.Generator], list[np.ndarray]]] = {
    "aorta": _aorta,
    "aortic_valve": _aortic_valve,
    "mitral_annulus": _mitral_annulus,
    "pericardium": _pericardium,
    "papillary_muscle": _papillary_muscle,
    "node": _node,
    "ostium": _ostium,
    "bronchus": _on_part(("trachea", "bronchus_right", "bronchus_left")),
    "cartilage": _on_part(("cartilage",)),
    "bone": _on_part(("sternum_cortex", "rib_cortex"), near="ra_centre", share=0.12),
}
"""Lines [n, 3] (heart frame mm) of one calcified place; none if this patient has no such part."""


def beds_of(kind: str, patient: Patient, rng: np.random.Generator) -> list[Bed]:
    """Beds of one calcified place. Bodies bend around the lines as tightly as around coronary arteries."""
    lumen = rng.uniform(0.8, 2.1)
    return [Bed(DISTRACTORS[kind], kind, line, np.full(len(line), lumen)) for line in PLACES[kind](patient, rng)]


def draw_distractors(
    patient: Patient, rng: np.random.Generator, expected: Mapping[str, float], population: Population | str = "balanced"
) -> list[Deposit]:
    """Calcium that is not coronary.

    Args:
        expected: mean number of calcified places per kind of :data:`cacsnet.phantom.deposits.DISTRACTORS`.
        population: each place scores as much as one calcified vessel of this population.
    """
    people = load_population(population) if isinstance(population, str) else population
    out: list[Deposit] = []
    for kind, mean in expected.items():
        for _ in range(rng.poisson(mean)):
            beds = beds_of(kind, patient, rng)
            if beds:
                linear = kept(patient, "linear", lambda: linear_part(patient))
                out += fill(beds, rng, draw_site_target(people, rng), linear)
    return out
