"""Calcium and metal in a patient: bodies of known mass, how they are imaged, and who owns a voxel.

A body is a cloud of points that each stand for a small volume, so its mass is a sum and doesn't depend on any grid. The
patient's deformation is linearised over pieces of a few mm; its change of volume goes into the mass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from cacsnet.labels import VESSEL_INDEX, VESSEL_NAMES
from cacsnet.phantom.anatomy import Patient
from cacsnet.scanner.imaging import image
from cacsnet.scanner.motion import STREAK_MM
from cacsnet.scanner.protocol import Protocol

DISTRACTORS = {
    "aorta": 5, "aortic_valve": 6, "mitral_annulus": 7, "pericardium": 8, "papillary_muscle": 9, "node": 10,
    "ostium": 11, "bronchus": 12, "cartilage": 13, "bone": 14,
}  # fmt: skip
"""Owners of calcium that is not coronary; the vessels are owners 1 to 4."""

DEVICES = {"stent": 20, "clip": 21, "wire": 22, "lead": 23, "prosthesis": 24}
"""Owners of metal."""

OWNER_NAMES = {VESSEL_INDEX[name]: name for name in VESSEL_NAMES} | {
    index: name for name, index in (*DISTRACTORS.items(), *DEVICES.items())
}

STILL = frozenset([*(DISTRACTORS[k] for k in ("bronchus", "cartilage", "bone", "node")), DEVICES["clip"], DEVICES["wire"]])
"""Owners outside the heart, which don't move with it."""

REFERENCE_MINIMUM_HU = 20.0
"""A voxel is reference calcium only where the plaque adds at least this in the noise-free image."""

PIECE_MM = 6.0
"""The deformation is linear over this length of a body: its finest random part has a correlation length of 22 mm."""

FINE_MM = 0.25
"""Grid on which a body's points are gathered before imaging: its blur adds less than 3 % to a PSF of 0.8 mm."""

FAINT_HU = 0.05
"""What a body adds below this is dropped; with it less than 1 % of the mass of a visible speck."""


PRICE_MM3 = {False: 2000.0, True: 8000.0}
"""What one image costs apart from its size, as a volume: of a still and of a moving heart. Only speed depends on it."""


@dataclass(frozen=True, eq=False)
class Deposit:
    """One body of calcium (or metal) in the heart frame.

    Attributes:
        owner: 1 to 4 a vessel, else of :data:`DISTRACTORS` or :data:`DEVICES`.
        shape: "speck", "nodule", "arc", "shell" or a device.
        site: artery name or kind of distractor.
        points: float64 [n, 3] (z, y, x) mm, each the middle of a small volume.
        volumes: float64 [n] mm³.
        density: float64 [n]: mg/cc of hydroxyapatite; HU for metal.
        piece: int [n]: pieces of at most about :data:`PIECE_MM`.
        length_mm, width_mm, thickness_mm: along the wall, around it, across it; before the patient's deformation.
        metal: the density is HU and doesn't depend on the tube voltage.
    """

    owner: int
    shape: str
    site: str
    points: np.ndarray
    volumes: np.ndarray
    density: np.ndarray
    piece: np.ndarray
    length_mm: float
    width_mm: float
    thickness_mm: float
    metal: bool = False

    @property
    def centre(self) -> np.ndarray:
        """Centre of mass [3], heart frame mm."""
        weight = self.volumes * self.density
        return (self.points * weight[:, None]).sum(0) / weight.sum()

    @property
    def mass_mg(self) -> float:
        """Mass of hydroxyapatite before the patient's scale and deformation; 0 for metal. See :func:`masses_mg`."""
        return 0.0 if self.metal else float((self.volumes * self.density).sum()) / 1000

    @property
    def concentration(self) -> float:
        """Mean density, mg/cc (HU for metal)."""
        return float((self.volumes * self.density).sum() / self.volumes.sum())


@dataclass(frozen=True)
class Body:
    """A deposit in the patient: points [n, 3] patient mm, volumes [n] mm³ (with the deformation's change), pieces [n]."""

    deposit: Deposit
    points: np.ndarray
    volumes: np.ndarray

    @property
    def mass_mg(self) -> float:
        return 0.0 if self.deposit.metal else float((self.volumes * self.deposit.density).sum()) / 1000


def place(patient: Patient, deposits: Sequence[Deposit]) -> list[Body]:
    """Bring deposits from the heart frame into the patient, the deformation linearised per piece."""
    if not deposits:
        return []
    reach = 1.5
    centres = [d.points[d.piece == k].mean(0) for d in deposits for k in range(int(d.piece.max()) + 1)]
    nodes = np.array(centres)[:, None] + np.concatenate([np.zeros((1, 3)), reach * np.eye(3), -reach * np.eye(3)])
    mapped = patient.heart_to_patient(nodes.reshape(-1, 3)).reshape(-1, 7, 3)
    stretch = (mapped[:, 1:4] - mapped[:, 4:7]).transpose(0, 2, 1) / (2 * reach)  # columns: image of each axis
    growth = np.abs(np.linalg.det(stretch))
    out, first = [], 0
    for deposit in deposits:
        index = first + deposit.piece
        offset = deposit.points - nodes[index, 0]
        points = mapped[index, 0] + np.einsum("nij,nj->ni", stretch[index], offset)
        out.append(Body(deposit, points, deposit.volumes * growth[index]))
        first += int(deposit.piece.max()) + 1
    return out


def masses_mg(patient: Patient, deposits: Sequence[Deposit]) -> np.ndarray:
    """Mass of hydroxyapatite [n] of each deposit in the patient, mg: the anatomical truth."""
    return np.array([body.mass_mg for body in place(patient, deposits)])


@dataclass(frozen=True)
class CalciumImage:
    """Calcium on a scan's grid, sparse: flat voxel indices [n] and the HU that each owner adds there [owners, n]."""

    index: np.ndarray
    added_hu: np.ndarray
    owners: tuple[int, ...]


def image_calcium(patient: Patient, deposits: Sequence[Deposit], protocol: Protocol) -> CalciumImage:
    """Image every body with the scanner's own operator and add up what each owner brings."""
    return image_bodies(place(patient, deposits), protocol)


def image_bodies(bodies: Sequence[Body], protocol: Protocol) -> CalciumImage:
    """:func:`image_calcium` for bodies that are already in the patient."""
    shape, spacing, origin = protocol.shape, np.array(protocol.spacing_mm), np.array(protocol.origin_mm)
    parts: list[tuple[np.ndarray, np.ndarray, int]] = []
    for owner, scanner, points, amount in _fields(bodies, protocol):
        first = points.min(0)
        reach = np.array(scanner.reach_mm) + ((0.0, STREAK_MM, STREAK_MM) if scanner.moves else 0.0)
        low = np.maximum(np.ceil((first - reach - origin) / spacing).astype(int), 0)
        high = np.minimum(np.floor((points.max(0) + reach - origin) / spacing).astype(int) + 1, shape)
        if (high <= low).any():
            continue
        field = torch.from_numpy(_gathered((points - first) / FINE_MM, amount / FINE_MM**3))
        box = (slice(low[0], high[0]), slice(low[1], high[1]), slice(low[2], high[2]))
        added = image(field, first.tolist(), (FINE_MM,) * 3, scanner, box).numpy()
        z, y, x = np.nonzero(np.abs(added) > FAINT_HU)
        index = ((z + low[0]) * shape[1] + y + low[1]) * shape[2] + x + low[2]
        parts.append((index, added[z, y, x], owner))
    if not parts:
        return CalciumImage(np.zeros(0, np.int64), np.zeros((0, 0), np.float32), ())
    owners = tuple(sorted({owner for *_, owner in parts}))
    voxels, place_of = np.unique(np.concatenate([index for index, *_ in parts]), return_inverse=True)
    row = np.repeat([owners.index(owner) for *_, owner in parts], [len(index) for index, *_ in parts])
    total = np.bincount(row * len(voxels) + place_of, np.concatenate([v for _, v, _ in parts]), len(owners) * len(voxels))
    return CalciumImage(voxels, total.reshape(len(owners), -1).astype(np.float32), owners)


def _gathered(place: np.ndarray, amount: np.ndarray) -> np.ndarray:
    """Amounts [n] at places [n, 3] (cells, from 0 on) as a lattice float32 [z, y, x], each shared linearly between eight."""
    cell = place.astype(int)
    part = place - cell
    size = cell.max(0) + 2
    row = size[1:].prod(), size[2], 1
    z, y, x = (np.stack([1 - part[:, k], part[:, k]]) for k in range(3))
    share = amount * z[:, None, None] * y[:, None] * x
    corner = np.array([0, row[0]])[:, None, None] + np.array([0, row[1]])[:, None] + np.array([0, 1])
    out = np.bincount((cell @ np.array(row) + corner[..., None]).ravel(), share.ravel(), int(size.prod()))
    return out.astype(np.float32).reshape(size)


def _fields(bodies: Sequence[Body], protocol: Protocol) -> Iterator[tuple[int, Protocol, np.ndarray, np.ndarray]]:
    """What is imaged in one go: owner, scanner, points [n, 3] and HU mm³ [n].

    A box around a whole long body is mostly empty, and each image has its price: neighbouring pieces of one owner go together
    where that is cheaper.
    """
    still = protocol.still()
    margins = {scanner.moves: 2 * np.array(scanner.reach_mm) for scanner in (still, protocol)}
    clusters: dict[int, list[tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]]] = {}
    for body in bodies:
        deposit = body.deposit
        moves = protocol.moves and deposit.owner not in STILL
        amount = body.volumes * deposit.density * (1.0 if deposit.metal else protocol.hu_per_mg_cc)
        mine = clusters.setdefault(deposit.owner, [])
        for piece in range(int(deposit.piece.max()) + 1):
            inside = deposit.piece == piece
            points = body.points[inside]
            # boxes as (low, -high), so that a union is a minimum
            boxes = np.array([np.stack([points.min(0), -points.max(0)]), *(box for box, *_ in mine)])
            unions = np.minimum(boxes[0], boxes)
            own, joint = (np.prod(margins[moves] - each.sum(1), axis=1) for each in (boxes, unions))
            saved = own[0] + own[1:] + PRICE_MM3[moves] - joint[1:]
            best = int(saved.argmax()) if len(saved) else -1
            if best < 0 or saved[best] <= 0:
                mine.append((boxes[0], [points], [amount[inside]]))
            else:
                _, all_points, amounts = mine[best]
                mine[best] = (unions[1 + best], [*all_points, points], [*amounts, amount[inside]])
    for owner, found in clusters.items():
        for _, all_points, amounts in found:
            yield owner, still if owner in STILL else protocol, np.concatenate(all_points), np.concatenate(amounts)


def reference_owner(calcium: CalciumImage, shape: Sequence[int]) -> np.ndarray:
    """uint8 [z, y, x]: the owner that adds most, where it adds at least :data:`REFERENCE_MINIMUM_HU`; 0 elsewhere.

    With HU ≥ threshold this is the reference (a voxel belongs to the vessel whose plaque adds most)."""
    out = np.zeros(int(np.prod(shape)), np.uint8)
    if calcium.index.size:
        strongest = calcium.added_hu.argmax(0)
        enough = calcium.added_hu.max(0) >= REFERENCE_MINIMUM_HU
        out[calcium.index[enough]] = np.array(calcium.owners, np.uint8)[strongest[enough]]
    return out.reshape(tuple(shape))
