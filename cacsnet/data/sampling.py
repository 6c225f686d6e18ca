"""Balanced sampling: what lies in the middle of a training patch.

Calcium is rare. A patch is centred on one of five kinds of places, drawn by shares; within a kind every scan, and in a scan
every lesion, is as likely as any other, so that a few heavily calcified patients don't fill the batches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import cc3d
import numpy as np
from scipy.spatial import cKDTree
from torch import Tensor
from torch.utils.data import Dataset

from cacsnet.errors import ConfigError
from cacsnet.labels import IGNORE, VESSELS
from cacsnet.phantom.anatomy import Patient
from cacsnet.phantom.deposits import Deposit, place
from cacsnet.phantom.heart import Artery
from cacsnet.phantom.render import heart_box

KINDS = ("calcium", "distractor", "vessel", "heart", "outside")
"""Coronary calcium; other candidates in the heart; an artery without calcium; the heart elsewhere; the rest of the body."""

DEFAULT_SHARES: Mapping[str, float] = {"calcium": 0.35, "distractor": 0.25, "vessel": 0.15, "heart": 0.15, "outside": 0.1}

MOST_PER_KIND = 64
"""Places of one kind kept per scan."""

CLEAR_MM = 8.0
"""Places "without calcium" are at least this far from any."""

Places = Mapping[str, np.ndarray]
"""Positions [n, 3] (z, y, x) mm by kind; a kind of which there is nothing is missing or empty."""


def check_shares(shares: Mapping[str, float]) -> dict[str, float]:
    """Shares by kind, adding up to one. Raises ConfigError for an unknown kind, a negative share, or nothing at all."""
    for kind, share in shares.items():
        if kind not in KINDS:
            raise ConfigError(f"unknown kind of place; choose from {', '.join(KINDS)}", field="shares", value=kind)
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share < float("inf"):
            raise ConfigError("a share must be a number from 0 on", field=f"shares.{kind}", value=share)
    total = sum(shares.values())
    if not total > 0:
        raise ConfigError("at least one share must be above 0", field="shares", value=dict(shares))
    return {kind: shares.get(kind, 0.0) / total for kind in KINDS}


def draw_centre(places: Sequence[Places], shares: Mapping[str, float], rng: np.random.Generator) -> tuple[str, int, np.ndarray]:
    """A kind by its share, then a scan that has it, then a place: (kind, scan, (z, y, x) mm).

    The share of a kind that no scan has goes to the others.

    Raises:
        ConfigError: no scan has a place of any kind with a share.
    """
    having = {k: [n for n, p in enumerate(places) if len(p.get(k, ()))] for k, share in shares.items() if share > 0}
    kinds = [kind for kind, scans in having.items() if scans]
    if not kinds:
        raise ConfigError("no scan has a place of these kinds", field="shares", value=dict(shares))
    weight = np.cumsum([shares[kind] for kind in kinds])
    kind = kinds[int(np.searchsorted(weight, rng.random() * weight[-1], side="right"))]
    scan = having[kind][int(rng.integers(len(having[kind])))]
    found = places[scan][kind]
    return kind, scan, np.asarray(found[int(rng.integers(len(found)))], float)


def phantom_places(
    patient: Patient, arteries: Sequence[Artery], deposits: Sequence[Deposit], rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """The same kinds of places in a phantom, patient mm: one per plaque and per distractor, others at random.

    ``draw_centre([phantom_places(...)], shares, rng)`` gives a patch's centre.
    """
    bodies = place(patient, deposits)
    coronary = [b.deposit.owner < len(VESSELS) for b in bodies]
    middles = np.array([b.points.mean(0) for b in bodies]).reshape(-1, 3)
    points = np.concatenate([b.points for b in bodies]) if bodies else np.zeros((0, 3))
    lines = np.concatenate([patient.heart_to_patient(a.line) for a in arteries if a.vessel])
    low, high = heart_box(patient)
    anywhere = rng.uniform(low - 90, high + 90, (8 * MOST_PER_KIND, 3))
    return {
        "calcium": middles[np.array(coronary, bool)],
        "distractor": middles[~np.array(coronary, bool)],
        "vessel": _clear(lines, points, rng),
        "heart": _clear(rng.uniform(low, high, (4 * MOST_PER_KIND, 3)), points, rng),
        "outside": _some(anywhere[((anywhere < low - CLEAR_MM) | (anywhere > high + CLEAR_MM)).any(1)], rng),
    }


def scan_places(
    calcium: np.ndarray | None,
    distractors: np.ndarray | None,
    course: np.ndarray | None,
    structures: np.ndarray | None,
    heart_mm: np.ndarray | None,
    spacing_mm: Sequence[float],
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """Places of a real scan, mm from its first voxel.

    Args:
        calcium: bool [z, y, x], candidates labelled as coronary; None: not known.
        distractors: bool, candidates known not to be coronary; None: not known.
        course, structures: labels with IGNORE, or None.
        heart_mm: lowest and highest corner of the heart [2, 3], or None.
    """
    spacing = np.asarray(spacing_mm, float)
    shape = next(a.shape for a in (calcium, course, structures) if a is not None)
    out = {}
    bright = [np.zeros((0, 3))]
    for kind, mask, least in (("calcium", calcium, 1), ("distractor", distractors, 3)):
        if mask is not None:
            out[kind] = _one_per_island(mask, least, rng) * spacing
            bright.append(np.argwhere(mask) * spacing)
    near = np.concatenate(bright)
    if course is not None:
        out["vessel"] = _clear(_voxels((course > 0) & (course != IGNORE), rng) * spacing, near, rng)
    if structures is not None:
        out["heart"] = _clear(_voxels((structures > 0) & (structures != IGNORE), rng) * spacing, near, rng)
    elif heart_mm is not None:
        out["heart"] = _clear(rng.uniform(heart_mm[0], heart_mm[1], (4 * MOST_PER_KIND, 3)), near, rng)
    if heart_mm is not None:
        anywhere = rng.uniform(0, (np.array(shape) - 1) * spacing, (8 * MOST_PER_KIND, 3))
        out["outside"] = _some(anywhere[((anywhere < heart_mm[0]) | (anywhere > heart_mm[1])).any(1)], rng)
    return out


def _one_per_island(mask: np.ndarray, least: int, rng: np.random.Generator) -> np.ndarray:
    """A random voxel [n, 3] of each 26-connected island of at least ``least`` voxels."""
    voxels = np.argwhere(mask)
    if not len(voxels):
        return np.zeros((0, 3))
    low = voxels.min(0)
    box = tuple(slice(a, b) for a, b in zip(low, voxels.max(0) + 1, strict=True))
    islands = cc3d.connected_components(np.ascontiguousarray(mask[box]), connectivity=26)
    label = islands[tuple((voxels - low).T)]
    order = rng.permutation(len(voxels))
    _, first, count = np.unique(label[order], return_index=True, return_counts=True)
    return _some(voxels[order][first[count >= least]].astype(float), rng)


def _voxels(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    flat = np.flatnonzero(mask)
    chosen = flat[rng.integers(len(flat), size=4 * MOST_PER_KIND)] if len(flat) else flat
    return np.stack(np.unravel_index(chosen, mask.shape), 1).astype(float)


def _clear(points: np.ndarray, calcium: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Some of the points that are away from calcium."""
    if len(calcium) and len(points):
        points = points[cKDTree(calcium).query(points, distance_upper_bound=CLEAR_MM)[0] >= CLEAR_MM]
    return _some(points, rng)


def _some(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return points if len(points) <= MOST_PER_KIND else points[np.sort(rng.permutation(len(points))[:MOST_PER_KIND])]


class Patches(Protocol):
    """What phantom and real patches have in common."""

    epoch: int

    def __len__(self) -> int: ...
    def full(self, index: int) -> dict[str, Tensor]: ...
    def __getitem__(self, index: int) -> dict[str, Tensor]: ...


class Mixture(Dataset[dict[str, Tensor]]):
    """Patches of several sources by shares: real ones beside phantoms, so that what the labels don't say isn't forgotten.

    Which source patch ``index`` of an epoch comes from depends on seed, epoch and index alone.
    """

    def __init__(self, parts: Sequence[tuple[Patches, float]], length: int, seed: int = 0) -> None:
        shares = np.array([share for _, share in parts], float)
        if not len(parts) or (shares < 0).any() or not shares.sum() > 0:
            raise ConfigError("sources need shares from 0 on, one above 0", field="shares", value=shares.tolist())
        self.parts, self.length, self.seed = [part for part, _ in parts], length, seed
        self.cumulative = np.cumsum(shares / shares.sum())
        self._epoch = 0

    @property
    def epoch(self) -> int:
        return self._epoch

    @epoch.setter
    def epoch(self, value: int) -> None:
        self._epoch = value
        for part in self.parts:
            part.epoch = value

    def __len__(self) -> int:
        return self.length

    def source(self, index: int) -> tuple[Patches, int]:
        """The part that patch ``index`` comes from, and its index there."""
        rng = np.random.default_rng([self.seed, 5, self._epoch, index])
        which = int(np.searchsorted(self.cumulative[:-1], rng.random(), side="right"))
        part = self.parts[which]
        return part, index % len(part)

    def full(self, index: int) -> dict[str, Tensor]:
        part, at = self.source(index)
        return part.full(at)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not 0 <= index < self.length:
            raise IndexError(index)
        part, at = self.source(index)
        return part[at]
