"""Metal: coronary stents, surgical clips, sternal wires, pacing leads, valve prostheses.

Wires of a given radius along lines of the heart frame. Their HU are those of a solid block of the metal (beyond the range
of a CT image); thin struts shine less, as the scanner's blur has it. By attenuation at 70 keV solid steel and cobalt-chromium
have about 30,000 HU, titanium 9,000; leads and prosthetic rings are hollow or of carbon. Sizes are unverified defaults.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from cacsnet.errors import ConfigError
from cacsnet.phantom.anatomy import Patient
from cacsnet.phantom.calcium import artery_beds
from cacsnet.phantom.deposits import DEVICES, PIECE_MM, Deposit
from cacsnet.phantom.heart import Artery, resample, unit
from cacsnet.phantom.places import mitral_ring, on_sac, part_sdf

STEP_MM = 0.3


def wire(kind: str, line: np.ndarray, radius_mm: float, hu: float) -> Deposit:
    """A wire of circular cross section along a polyline [n, 3] (heart frame mm)."""
    line = resample(line, STEP_MM)
    along = np.gradient(line, axis=0)
    step = np.linalg.norm(along, axis=1)
    along = along / np.maximum(step, 1e-9)[:, None]
    first = np.linalg.eigh(along.T @ along)[1][:, 0]
    first = first - along * (along @ first)[:, None]
    first /= np.maximum(np.linalg.norm(first, axis=1, keepdims=True), 1e-9)
    second = np.cross(along, first)
    # seven points of a disc: the middle and six at 0.8 of its radius, each a seventh of the area
    turn = np.arange(6) * np.pi / 3
    ring = 0.8 * radius_mm * (np.cos(turn)[:, None, None] * first + np.sin(turn)[:, None, None] * second)
    points = np.concatenate([line[None], line + ring]).reshape(-1, 3)
    volumes = np.tile(np.pi * radius_mm**2 * step / 7, 7)
    piece = np.tile((np.arange(len(line)) * STEP_MM / PIECE_MM).astype(int), 7)
    length = float(step.sum())
    density = np.full(len(points), float(hu))
    return Deposit(DEVICES[kind], kind, kind, points, volumes, density, piece, length, 2 * radius_mm, 2 * radius_mm, metal=True)


def _stent(patient: Patient, arteries: Sequence[Artery], rng: np.random.Generator) -> list[Deposit]:
    """A helix of struts in an artery's lumen, 12 to 30 mm long."""
    beds = [bed for name in ("LAD", "LCX", "RCA") for bed in artery_beds(arteries, name) if bed.site == name]
    if not beds:
        return []
    bed = beds[int(rng.integers(len(beds)))]
    arc, line, tangent, _ = bed.smooth
    length = min(rng.uniform(12, 30), 0.6 * arc[-1])
    start = rng.uniform(0.03, 0.5) * (arc[-1] - length)
    s = np.arange(start, start + length, 0.1)
    here, along = (np.stack([np.interp(s, arc, v[:, k]) for k in range(3)], 1) for v in (line, tangent))
    first = np.linalg.eigh(along.T @ along)[1][:, 0]
    first = first - along * (along @ first)[:, None]
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    second = np.cross(along, first)
    lumen = np.interp(s, arc, bed.radii)[:, None]
    hu, thick, pitch = rng.uniform(18_000, 30_000), rng.uniform(0.08, 0.16), rng.uniform(1.0, 1.6)
    out = []
    for sign in (1, -1):  # two helices crossing: a mesh
        turn = (sign * 2 * np.pi * s / pitch)[:, None]
        out.append(wire("stent", here + lumen * (np.cos(turn) * first + np.sin(turn) * second), thick / 2, hu))
    return out


def _clip(patient: Patient, arteries: Sequence[Artery], rng: np.random.Generator) -> list[Deposit]:
    """A row of clips on the front of the heart, as beside a bypass graft: from the aorta down to the apex."""
    heart = patient.heart
    top, bottom = unit(np.array([0.7, -1.0, rng.uniform(-0.2, 0.5)])), unit(heart.axes[0] + np.array([0.3, -0.5, 0.2]))
    out = []
    share = np.arange(0, 0.95, rng.uniform(0.13, 0.3))
    for middle in on_sac(patient, (1 - share)[:, None] * top + share[:, None] * bottom):
        middle = middle * 1.03 + rng.normal(0, 1.5, 3)
        across = unit(rng.normal(size=3))
        open_side = unit(np.cross(across, rng.normal(size=3)))
        half, gap = rng.uniform(2, 3.5), rng.uniform(0.4, 0.9)
        ends = middle + half * across, middle - half * across
        line = np.stack([*ends, ends[1] + gap * open_side, ends[0] + gap * open_side])
        out.append(wire("clip", line, 0.35, rng.uniform(8000, 14000)))
    return out


def _sternal_wire(patient: Patient, arteries: Sequence[Artery], rng: np.random.Generator) -> list[Deposit]:
    """Loops around the sternum, some 20 mm apart, each twisted in front."""
    sdf = part_sdf(patient, "sternum_cortex")
    if sdf is None:
        return []
    y, x = np.meshgrid(np.arange(-150.0, 0.0, 2.0), np.arange(-60.0, 61.0, 2.0), indexing="ij")
    out = []
    hu, radius = rng.uniform(18_000, 30_000), rng.uniform(0.35, 0.5)
    for z in np.arange(rng.uniform(-60, -45), 75, rng.uniform(17, 24)):
        plane = np.stack([np.full(y.size, z), y.ravel(), x.ravel()], 1)
        inside = plane[sdf(plane) < 0]
        if len(inside) < 6:
            continue
        low, high = inside.min(0) - 1, inside.max(0) + 1
        centre, half = (low + high) / 2, (high - low) / 2
        t = np.linspace(-np.pi / 2, 1.5 * np.pi, 50)  # from the front, around, to the front
        loop = centre + np.stack([rng.normal(0, 1.5) * np.sin(2 * t), half[1] * np.sin(t), half[2] * np.cos(t)], 1)
        twist = loop[-1] + np.cumsum(np.tile([[0.3, -0.8, 0.5]], (8, 1)), 0)
        out.append(wire("wire", np.concatenate([loop, twist]), radius, hu))
    return out


def _lead(patient: Patient, arteries: Sequence[Artery], rng: np.random.Generator) -> list[Deposit]:
    """A pacing lead from the superior vena cava through the right atrium to the right ventricle's apex, thick at its tip."""
    heart = patient.heart
    ra = heart.ra_centre
    candidates = heart.base + rng.uniform([20, 5, -20], [75, 55, 20], (400, 3)) @ heart.axes
    depth = heart.rv_sdf(torch.tensor(candidates.T.copy(), dtype=torch.float32)).numpy()
    inside = candidates[depth < -2]
    tip = max(inside, key=lambda p: float((p - heart.base) @ heart.axes[0])) if len(inside) else heart.base + 60 * heart.axes[0]
    bottom = ra + np.array([-14.0, -4.0, 4.0])
    guide = np.stack([ra + np.array([85.0, 2.0, 4.0]), ra + np.array([35.0, 2.0, 2.0]), bottom, 0.5 * (bottom + tip), tip])
    guide += rng.normal(0, 2, guide.shape)
    t = np.linspace(0, 1, len(guide))
    line = np.stack([np.interp(np.linspace(0, 1, 80), t, guide[:, k]) for k in range(3)], 1)
    line[2:-2] = (line[:-4] + line[1:-3] + line[2:-2] + line[3:-1] + line[4:]) / 5
    hu = rng.uniform(5000, 9000)
    body = wire("lead", line, 0.55, hu)
    return [body, wire("lead", line[-6:], 1.0, 1.3 * hu)]


def _prosthesis(patient: Patient, arteries: Sequence[Artery], rng: np.random.Generator) -> list[Deposit]:
    """A mechanical valve in aortic or mitral position: a ring and two leaflets."""
    heart = patient.heart
    if rng.random() < 0.6:
        centre, normal, radius = heart.root[0], unit(heart.root[1] - heart.root[0]), 0.85 * float(heart.root_radii[0])
    else:
        ring = mitral_ring(patient)
        centre, normal = ring.mean(0), heart.axes[0]
        radius = max(0.9 * float(np.linalg.norm(ring - centre, axis=1).mean()), 10.0)
    side = unit(np.cross(normal, unit(rng.normal(size=3))))
    other = np.cross(normal, side)
    t = np.linspace(0, 2 * np.pi, 60)[:, None]
    hu = rng.uniform(4000, 9000)
    out = [wire("prosthesis", centre + radius * (np.cos(t) * side + np.sin(t) * other), rng.uniform(0.9, 1.6), hu)]
    for offset in (-0.25, 0.25):
        leaf = centre + radius * (offset * side + np.linspace(-0.8, 0.8, 12)[:, None] * other) + 3 * normal
        out.append(wire("prosthesis", leaf, 0.6, hu))
    return out


MAKERS: dict[str, Callable[[Patient, Sequence[Artery], np.random.Generator], list[Deposit]]] = {
    "stent": _stent, "clip": _clip, "wire": _sternal_wire, "lead": _lead, "prosthesis": _prosthesis,
}  # fmt: skip


def draw_devices(
    patient: Patient, arteries: Sequence[Artery], rng: np.random.Generator, expected: Mapping[str, float]
) -> list[Deposit]:
    """Metal; ``expected`` number of devices per kind of :data:`cacsnet.phantom.deposits.DEVICES`."""
    out: list[Deposit] = []
    for kind, mean in expected.items():
        if kind not in MAKERS:
            raise ConfigError(f"unknown device; known are {', '.join(MAKERS)}", field="devices", value=kind)
        for _ in range(rng.poisson(mean)):
            out += MAKERS[kind](patient, arteries, rng)
    return out
