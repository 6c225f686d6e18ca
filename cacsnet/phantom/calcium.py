"""Plaques and distractors with exact truth.

Both draw size, concentration and shape from the same distributions: only place may tell them apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from cacsnet.labels import VESSEL_INDEX
from cacsnet.phantom.anatomy import Patient
from cacsnet.phantom.fields import ellipsoid
from cacsnet.phantom.heart import Artery, Heart, tangent, unit
from cacsnet.scanner.imaging import Protocol, image

DISTRACTORS = {"aorta": 5, "aortic_valve": 6, "mitral_annulus": 7, "pericardium": 8, "papillary_muscle": 9, "node": 10}
"""Owners of calcium that is not coronary; the vessels are owners 1 to 4."""

REFERENCE_MINIMUM_HU = 20.0
"""A voxel is reference calcium only where the plaque adds at least this in the noise-free image."""


@dataclass(frozen=True)
class Deposit:
    """An ellipsoid of calcium in the heart frame: owner, centre (mm), axes (rows), radii (mm), mg/cc hydroxyapatite."""

    owner: int
    centre: np.ndarray
    axes: np.ndarray
    radii: np.ndarray
    concentration: float

    @property
    def mass_mg(self) -> float:
        """Analytic mass, before the smooth deformation of the patient."""
        return float(4 / 3 * np.pi * np.prod(self.radii) * self.concentration / 1000)


def _frame(along: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    side = unit(np.cross(along, rng.normal(size=3)))
    return np.stack([along, side, np.cross(along, side)])


def _plaque(
    owner: int, points: np.ndarray, normal: np.ndarray, along: np.ndarray, rng: np.random.Generator, size: float
) -> list[Deposit]:
    """One plaque: a nodule, or a chain of them along ``points``. The same draw for plaques and distractors."""
    concentration = float(np.clip(rng.lognormal(np.log(330), 0.55), 110, 1100))
    thick = float(np.clip(rng.lognormal(np.log(1.0 * size), 0.45), 0.4, 3.0))
    out = []
    for point in points:
        radii = thick * np.array([rng.uniform(1.0, 2.4), rng.uniform(0.8, 1.3), rng.uniform(0.7, 1.1)])
        out.append(
            Deposit(
                owner,
                point + normal * rng.normal(0, 0.3),
                _frame(along, rng),
                radii,
                concentration * rng.uniform(0.7, 1.3),
            )
        )
    return out


def _length(rng: np.random.Generator) -> int:
    """Number of links, 2.5 mm apart: most plaques are nodules or short, some are long shells."""
    return int(np.clip(rng.geometric(0.45), 1, 9))


def draw_plaques(heart: Heart, arteries: Sequence[Artery], rng: np.random.Generator, burden: float) -> list[Deposit]:
    """Coronary plaques; ``burden`` is the expected number of them. LAD gets most, then RCA, LCX, LM."""
    out: list[Deposit] = []
    share = {"LM": 0.08, "LAD": 0.46, "LCX": 0.20, "RCA": 0.26}
    by_vessel = {name: [a for a in arteries if a.vessel == VESSEL_INDEX[name]] for name in share}
    for _ in range(rng.poisson(burden)):
        name = rng.choice(list(share), p=list(share.values()))
        lines = by_vessel[name]
        weights = np.array([a.length_mm * (1.0 if len(a.name) == 3 or a.name == "LM" else 0.3) for a in lines])
        artery = lines[int(rng.choice(len(lines), p=weights / weights.sum()))]
        start = int(len(artery.line) * rng.beta(1.1, 1.8))
        links = _length(rng)
        index = np.clip(start + np.round(2.5 * np.arange(links)).astype(int), 0, len(artery.line) - 1)
        along = tangent(artery.line, start)
        around = _frame(along, rng)[1]
        points = artery.line[index] + around * artery.radii[index][:, None] * rng.uniform(0.6, 1.05)
        out += _plaque(artery.vessel, points, around, along, rng, rng.uniform(0.7, 1.4))
    return out


def _on_surface(sdf_line: np.ndarray, along: np.ndarray, links: int) -> np.ndarray:
    return sdf_line + along * (2.5 * np.arange(links))[:, None]


def draw_distractors(heart: Heart, rng: np.random.Generator, expected: dict[str, float]) -> list[Deposit]:
    """Calcium that is not coronary: ``expected`` number of deposits per kind of :data:`DISTRACTORS`."""
    out: list[Deposit] = []
    axis = heart.axes[0]
    for kind, mean in expected.items():
        owner = DISTRACTORS[kind]
        for _ in range(rng.poisson(mean)):
            links = _length(rng)
            if kind == "aorta":
                place = rng.uniform(1.0, len(heart.root) - 1.2)
                i = int(place)
                along = unit(heart.root[i + 1] - heart.root[i])
                centre = heart.root[i] + (place - i) * (heart.root[i + 1] - heart.root[i])
                normal = _frame(along, rng)[1]
                first = centre + normal * heart.root_radii[i]
            elif kind == "aortic_valve":
                along = unit(rng.normal(size=3))
                normal = unit(rng.normal(size=3))
                first = heart.root[0] + 0.7 * (heart.root[1] - heart.root[0]) * rng.uniform(0, 1)
                first = first + normal * rng.uniform(0, 0.85) * heart.root_radii[0]
                links = min(links, 4)
            elif kind == "mitral_annulus":
                side = _frame(axis, rng)[1]
                along = np.cross(axis, side)
                normal = side
                first = heart.base + axis * rng.uniform(-3, 4) + side * heart.mitral_radii[0] * rng.uniform(0.9, 1.1)
            elif kind == "papillary_muscle":
                normal = _frame(axis, rng)[1]
                along = axis
                first = heart.base + axis * rng.uniform(28, 52) + normal * heart.papillary_radius
                links = min(links, 3)
            else:
                direction = unit(rng.normal(size=3))
                reach = np.arange(15.0, 95.0, 1.0)
                line = direction * reach[:, None]
                sdf = heart.sac_sdf(torch.tensor(line.T.copy(), dtype=torch.float32)).numpy()
                outside = np.flatnonzero(sdf > 0)
                first = line[outside[0] if outside.size else -1]
                if kind == "node":
                    first = first + direction * rng.uniform(3, 25)
                normal, along = direction, _frame(direction, rng)[1]
            out += _plaque(owner, _on_surface(first, along, links), normal, along, rng, rng.uniform(0.7, 1.4))
    return out


@dataclass(frozen=True)
class CalciumImage:
    """Calcium on a scan's grid, sparse: flat voxel indices [n] and the HU that each owner adds there [owners, n]."""

    index: np.ndarray
    added_hu: np.ndarray
    owners: tuple[int, ...]


def image_calcium(patient: Patient, deposits: Sequence[Deposit], protocol: Protocol) -> CalciumImage:
    """Image every deposit on its own fine grid with the scanner's blur and slice profile."""
    shape = protocol.shape
    spacing = np.array(protocol.spacing_mm)
    origin = np.array(protocol.origin_mm)
    indices: list[np.ndarray] = []
    values: list[np.ndarray] = []
    owners: list[np.ndarray] = []
    centres = patient.heart_to_patient(np.array([d.centre for d in deposits])) if deposits else np.zeros((0, 3))
    for deposit, centre in zip(deposits, centres, strict=True):
        solid = deposit.radii.max() * patient.heart_scale + 1.0
        spread = np.array([protocol.thickness_mm / 2, 1.3 * protocol.fwhm_mm, 1.3 * protocol.fwhm_mm])
        low = np.ceil((centre - solid - spread - origin) / spacing).astype(int)
        high = np.floor((centre + solid + spread - origin) / spacing).astype(int) + 1
        low, high = np.maximum(low, 0), np.minimum(high, shape)
        if (high <= low).any():
            continue
        step = float(np.clip(deposit.radii.min() / 3, 0.2, 0.45))
        count = int(np.ceil(2 * solid / step)) + 1
        first = centre - step * (count - 1) / 2
        axes = [torch.tensor(first[k] + step * np.arange(count), dtype=torch.float32) for k in range(3)]
        points = torch.stack(torch.meshgrid(*axes, indexing="ij"))
        p = patient.to_heart(patient.to_thorax(points))
        sdf = ellipsoid(p, deposit.centre, deposit.axes, deposit.radii) * patient.heart_scale
        field = (0.5 - sdf / step).clamp(0, 1) * (deposit.concentration * protocol.hu_per_mg_cc)
        box = (slice(low[0], high[0]), slice(low[1], high[1]), slice(low[2], high[2]))
        added = image(field, first.tolist(), (step,) * 3, protocol, box).numpy()
        z, y, x = np.nonzero(added > 0.5)
        indices.append(np.ravel_multi_index((z + low[0], y + low[1], x + low[2]), shape))
        values.append(added[z, y, x])
        owners.append(np.full(len(z), deposit.owner))
    if not indices:
        return CalciumImage(np.zeros(0, np.int64), np.zeros((0, 0), np.float32), ())
    flat, value, owner = np.concatenate(indices), np.concatenate(values), np.concatenate(owners)
    names = tuple(int(o) for o in np.unique(owner))
    unique, place = np.unique(flat, return_inverse=True)
    added_hu = np.zeros((len(names), len(unique)), np.float32)
    np.add.at(added_hu, (np.searchsorted(names, owner), place), value)
    return CalciumImage(unique, added_hu, names)


def reference_owner(calcium: CalciumImage, shape: Sequence[int]) -> np.ndarray:
    """uint8 [z, y, x]: the owner that adds most, where it adds at least :data:`REFERENCE_MINIMUM_HU`; 0 elsewhere.

    With HU ≥ threshold this is the reference (a voxel belongs to the vessel whose plaque adds most)."""
    out = np.zeros(int(np.prod(shape)), np.uint8)
    if calcium.index.size:
        strongest = calcium.added_hu.argmax(0)
        enough = calcium.added_hu.max(0) >= REFERENCE_MINIMUM_HU
        out[calcium.index[enough]] = np.array(calcium.owners, np.uint8)[strongest[enough]]
    return out.reshape(tuple(shape))


__all__ = [
    "DISTRACTORS",
    "CalciumImage",
    "Deposit",
    "draw_distractors",
    "draw_plaques",
    "image_calcium",
    "reference_owner",
]
