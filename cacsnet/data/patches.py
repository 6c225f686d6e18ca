"""Training patches from the phantom, made the way inference sees a scan.

A patch is first imaged on a randomly drawn native grid (pixel, increment, thickness, phase, coverage, noise *there*) and then
goes through :func:`cacsnet.grid.resample`, the function inference uses. Candidates (native voxels at or above the threshold)
travel as points with the owner of the calcium, so the decision is trained exactly where inference reads it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from cacsnet.errors import ConfigError
from cacsnet.grid import AIR_HU, resample
from cacsnet.labels import IGNORE
from cacsnet.phantom.anatomy import Patient, random_rotation
from cacsnet.phantom.calcium import draw_distractors, draw_plaques
from cacsnet.phantom.heart import Artery
from cacsnet.phantom.render import Anatomy, render
from cacsnet.phantom.scan import make_scan
from cacsnet.scanner.imaging import Protocol
from cacsnet.scoring import load_profile

PLAQUE, DISTRACTOR, OTHER = 0, 1, 2
"""Point groups: coronary calcium, other calcium inside or beside the heart, bone and noise."""

GENERATOR = 4
"""Raised whenever the phantom changes, so that cached patches of an older one are not used."""

THRESHOLDS = load_profile("smartscore")
"""Candidates of a patch are those of the default scoring profile at its tube voltage."""

@dataclass(frozen=True)
class PatchSettings:
    """What is drawn. Lengths in mm, ranges uniform.

    Attributes:
        spacing_mm: voxel of the patch (the network's grid).
        patch: voxels a side that the network sees.
        border: extra voxels on each side, for a random shift when a cached patch is loaded.
        step_mm: voxel of the painted anatomy.
        images_per_patient: patches made from one painted patient, each with its own scanner, window and calcium.
        pixel_mm, increment_mm, fwhm_mm, noise_hu, noise_correlation_mm: scanner ranges.
        offset_mm: SD-like half range of the window's centre around the heart's centre (coarse) or around a random
            point of the coronary tree (fine).
        around_tree: centre windows on the coronary tree, on distractor places and elsewhere, instead of the heart.
        far_share: share of windows far from the heart (neck, abdomen, shoulders).
        enhanced_share: share of contrast-enhanced hearts, supervised on structures only.
        points: most candidate points kept per patch.
    """

    spacing_mm: float = 3.0
    patch: int = 64
    border: int = 4
    step_mm: float = 2.0
    images_per_patient: int = 8
    pixel_mm: tuple[float, float] = (0.75, 1.2)
    increment_mm: tuple[float, float] = (1.5, 5.0)
    fwhm_mm: tuple[float, float] = (0.8, 1.6)
    noise_hu: tuple[float, float] = (8.0, 34.0)
    noise_correlation_mm: tuple[float, float] = (0.45, 0.9)
    offset_mm: float = 36.0
    around_tree: bool = False
    far_share: float = 0.12
    enhanced_share: float = 0.07
    points: int = 3072
    heart_model: str = "ellipsoid"
    """Which of the two heart models (cacsnet/phantom/anatomy.py HEART_MODELS)."""
    split: int = 0
    """Seeds of different splits never meet: 0 train, 1 validation."""
    kvps: tuple[int, ...] = field(default=(120, 120, 120, 120, 100, 80, 135))


def seed_of(split: int, index: int) -> int:
    """Patient seed. Training and validation patches and the cohorts (split 2 and above) draw from disjoint ranges."""
    return split * 10_000_000 + index


@lru_cache(maxsize=2)
def _painted(settings: PatchSettings, number: int) -> tuple[Patient, list[Artery], Anatomy, np.ndarray]:
    seed = seed_of(settings.split, number)
    rng = np.random.default_rng([seed, 2])
    patient = Patient(seed, bool(rng.random() < settings.enhanced_share), heart_model=settings.heart_model)
    arteries = patient.heart.grow_tree(rng)
    side = settings.spacing_mm * (settings.patch + 2 * settings.border)
    if settings.around_tree:
        kind = rng.random()
        if kind < 0.65:
            named = [a for a in arteries if a.vessel]
            line = named[int(rng.integers(len(named)))].line
            centre = patient.heart_to_patient(line[int(rng.integers(len(line)))][None])[0]
        elif kind < 0.85:
            centre = patient.heart_to_patient(patient.heart.root[int(rng.integers(0, 4))][None])[0]
        else:
            centre = rng.uniform(-75, 75, 3)
        centre = centre + rng.uniform(-1, 1, 3) * settings.offset_mm
    else:
        centre = rng.uniform(-1, 1, 3) * settings.offset_mm
        if rng.random() < settings.far_share:
            centre = rng.uniform([-150, -60, -110], [140, 70, 110])
    reach = side + 16.0
    count = int(np.ceil(reach / settings.step_mm))
    origin = centre - settings.step_mm * (count - 1) / 2
    return patient, arteries, render(patient, arteries, origin.tolist(), settings.step_mm, (count,) * 3), centre


def _coverage(rng: np.random.Generator, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the scan covers of the window: half of them are gated scans with a short range and a small field of view."""
    low, high = low.copy(), high.copy()
    if rng.random() < 0.5:
        middle = rng.uniform([-15, -15, -15], [25, 15, 15])
        half = np.array([rng.uniform(55, 85), *([rng.uniform(88, 130)] * 2)])
        covered = np.minimum(high, middle + half) - np.maximum(low, middle - half)
        if (covered > 30).all():
            low, high = np.maximum(low, middle - half), np.minimum(high, middle + half)
    return low, high


def make_patch(settings: PatchSettings, index: int) -> dict[str, Tensor]:
    """Patch ``index`` of the settings' split, with its border.

    Returns:
        hu int16, structures uint8, course uint8 (IGNORE where the scan has no data) [Z, Y, X];
        points float32 [n, 3] (z, y, x) patch voxels, point_label uint8 [n] (0 to 4), point_group uint8 [n] (IGNORE = padding).
    """
    number, image_number = divmod(index, settings.images_per_patient)
    patient, arteries, anatomy, centre = _painted(settings, number)
    rng = np.random.default_rng([seed_of(settings.split, number), 3, image_number])
    size = settings.patch + 2 * settings.border
    side = settings.spacing_mm * size
    window_first = centre - 0.5 * side + 0.5 * settings.spacing_mm + rng.uniform(-8, 8, 3)
    low, high = _coverage(rng, window_first - 3, window_first + side)

    pixel = rng.uniform(*settings.pixel_mm)
    increment = rng.choice([2.5, 3.0, 3.0, rng.uniform(*settings.increment_mm)])
    thickness = increment * rng.choice([1.0, 1.0, 1.0, rng.uniform(0.7, 2.0)])
    spacing = np.array([increment, pixel, pixel])
    origin = low + rng.random(3) * spacing
    shape = np.maximum(3, np.floor((high - origin) / spacing).astype(int))
    kvp = int(rng.choice(settings.kvps))
    protocol = Protocol(
        tuple(spacing.tolist()), tuple(shape.tolist()), tuple(origin.tolist()), float(thickness),
        fwhm_mm=rng.uniform(*settings.fwhm_mm), noise_hu=rng.uniform(*settings.noise_hu),
        noise_correlation_mm=rng.uniform(*settings.noise_correlation_mm), kvp=kvp, calcium_scale=rng.uniform(0.8, 1.1),
    )  # fmt: skip
    heart = patient.heart
    burden = 0.0 if rng.random() < 0.12 else rng.uniform(4, 26)
    scale = 0.0 if rng.random() < 0.12 else rng.uniform(0.4, 2.2)
    expected = {
        "aorta": 1.6,
        "aortic_valve": 1.8,
        "mitral_annulus": 1.8,
        "pericardium": 1.0,
        "papillary_muscle": 0.7,
        "node": 1.0,
    }
    deposits = [] if patient.tissue.enhanced else [
        *draw_plaques(heart, arteries, rng, burden),
        *draw_distractors(heart, rng, {kind: mean * scale for kind, mean in expected.items()}),
    ]  # fmt: skip
    scan = make_scan(patient, anatomy, deposits, protocol, int(rng.integers(2**31)))

    hu = torch.from_numpy(scan.hu).float()
    first = window_first - origin
    window = resample(hu, spacing.tolist(), first.tolist(), settings.spacing_mm, (size,) * 3)
    structures, course = _nearest_labels(anatomy, window_first, settings.spacing_mm, size)
    position = first[:, None] + settings.spacing_mm * np.arange(size)
    inside = [
        torch.from_numpy((position[k] > -0.5 * spacing[k]) & (position[k] < (shape[k] - 0.5) * spacing[k])) for k in range(3)
    ]
    covered = inside[0][:, None, None] & inside[1][None, :, None] & inside[2][None, None]
    structures[~covered] = IGNORE
    course[~covered] = IGNORE
    if patient.tissue.enhanced:
        course[:] = IGNORE
        points = (torch.zeros(0, 3), torch.zeros(0, dtype=torch.uint8), torch.zeros(0, dtype=torch.uint8))
    else:
        points = _points(scan.hu, scan.owner, THRESHOLDS.threshold_hu(kvp), first, spacing, structures, settings, rng)
    count = len(points[0])
    out_points = torch.zeros(settings.points, 3)
    label = torch.zeros(settings.points, dtype=torch.uint8)
    group = torch.full((settings.points,), IGNORE, dtype=torch.uint8)
    out_points[:count], label[:count], group[:count] = points
    return {
        "hu": window.round().to(torch.int16), "structures": structures, "course": course,
        "points": out_points, "point_label": label, "point_group": group,
    }  # fmt: skip


def _nearest_labels(anatomy: Anatomy, first: np.ndarray, spacing: float, size: int) -> tuple[Tensor, Tensor]:
    index = []
    for k in range(3):
        position = (first[k] + spacing * np.arange(size) - anatomy.origin_mm[k]) / anatomy.step_mm
        index.append(torch.from_numpy(np.clip(np.round(position), 0, anatomy.hu.shape[k] - 1).astype(np.int64)))
    pick = np.ix_(*(i.numpy() for i in index))
    return torch.from_numpy(anatomy.structures.numpy()[pick]), torch.from_numpy(anatomy.area.numpy()[pick])


def _points(
    hu: np.ndarray, owner: np.ndarray, threshold: float, first: np.ndarray, spacing: np.ndarray, structures: Tensor,
    settings: PatchSettings, rng: np.random.Generator,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Candidates of the native scan inside the patch; bone is thinned out, and kept only within 40 mm of the heart."""
    voxels = np.argwhere(hu >= threshold)
    position = (voxels * spacing - first) / settings.spacing_mm
    size = structures.shape[0]
    inside = ((position >= 0) & (position <= size - 1)).all(1)
    voxels, position = voxels[inside], position[inside]
    who = owner[tuple(voxels.T)]
    label = np.where(who <= 4, who, 0).astype(np.uint8)
    group = np.where(who == 0, OTHER, np.where(who <= 4, PLAQUE, DISTRACTOR)).astype(np.uint8)
    chambers = (structures.numpy() > 0) & (structures.numpy() != IGNORE)
    if chambers.any():
        distance = distance_transform_edt(~chambers, sampling=settings.spacing_mm)
        near = distance[tuple(np.round(position).astype(int).T)] <= 40.0
    else:
        near = np.ones(len(position), bool)
    keep = []
    for kind, share in ((PLAQUE, 0.4), (DISTRACTOR, 0.3), (OTHER, 0.3)):
        chosen = np.flatnonzero((group == kind) & near)
        limit = int(settings.points * share)
        keep.append(rng.permutation(chosen)[:limit] if len(chosen) > limit else chosen)
    pick = np.concatenate(keep)
    return torch.from_numpy(position[pick]).float(), torch.from_numpy(label[pick]), torch.from_numpy(group[pick])


class PhantomPatches(Dataset[dict[str, Tensor]]):
    """Patches of one split by index; the same index gives the same patch anywhere, on any number of workers.

    With ``cache_dir`` each patch is made once, stored (int16 and uint8), and read again in later epochs.
    On reading it is turned, scaled (``turn_deg`` about z, y, x and ``zoom``, both SDs) and shifted by up to the border, and its
    HU are jittered, unless ``jitter`` is off.
    """

    def __init__(
        self, settings: PatchSettings, length: int, cache_dir: str | Path | None = None, jitter: bool = True, seed: int = 0,
        turn_deg: tuple[float, float, float] = (8.0, 6.0, 6.0), zoom: float = 0.07,
    ) -> None:  # fmt: skip
        self.settings, self.length, self.jitter, self.seed = settings, length, jitter, seed
        self.turn_deg, self.zoom = turn_deg, zoom
        self.cache_dir = None if cache_dir is None else Path(cache_dir)
        self.epoch = 0
        if self.cache_dir is not None:
            self.cache_dir.mkdir(parents=True, exist_ok=True)

    def __len__(self) -> int:
        return self.length

    def cached(self, index: int) -> Path:
        return (self.cache_dir or Path()) / f"{index:06d}.npz"

    def full(self, index: int) -> dict[str, Tensor]:
        """The patch with its border, from the cache if it is there."""
        if self.cache_dir is None:
            return make_patch(self.settings, index)
        path = self.cached(index)
        if not path.exists():
            patch = make_patch(self.settings, index)
            temporary = path.with_suffix(f".{os.getpid()}.tmp.npz")
            arrays: dict[str, Any] = {key: value.numpy() for key, value in patch.items()}
            np.savez(temporary, **arrays)
            os.replace(temporary, path)
        with np.load(path) as stored:
            return {key: torch.from_numpy(stored[key]) for key in stored.files}

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        full = self.full(index)
        border, size = self.settings.border, self.settings.patch
        if not self.jitter:
            return _turned(full, np.eye(3), np.zeros(3), border, size)
        rng = np.random.default_rng([self.seed, self.epoch, index])
        turn = random_rotation(rng, self.turn_deg) * np.exp(rng.normal(0, self.zoom))
        out = _turned(full, turn, rng.uniform(-border, border, 3), border, size)
        white = torch.randn(out["hu"].shape, generator=torch.Generator().manual_seed(int(rng.integers(2**31))))
        out["hu"] = out["hu"] * rng.normal(1.0, 0.02) + rng.normal(0, 6.0) + white * rng.uniform(0, 8)
        return out


def _turned(full: dict[str, Tensor], turn: np.ndarray, shift: np.ndarray, border: int, size: int) -> dict[str, Tensor]:
    """Cut the inner patch out of a patch with border, turned and scaled about its centre by ``turn`` and shifted (voxels)."""
    whole = size + 2 * border
    middle = (whole - 1) / 2
    axis = torch.arange(size, dtype=torch.float32) - (size - 1) / 2
    place = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1) @ torch.from_numpy(turn.T).float()
    place = place + torch.from_numpy(shift).float()  # voxels from the middle of the whole patch
    grid = (place / (whole / 2)).flip(-1)[None]
    outside = (place.abs() > middle + 0.5).any(-1)

    def sample(volume: Tensor, mode: str) -> Tensor:
        return F.grid_sample(volume.float()[None, None], grid, mode=mode, padding_mode="border", align_corners=False)[0, 0]

    hu = torch.where(outside, torch.tensor(AIR_HU), sample(full["hu"], "bilinear"))
    labels = {}
    for name in ("structures", "course"):
        labels[name] = torch.where(outside, torch.tensor(float(IGNORE)), sample(full[name], "nearest")).to(torch.uint8)
    back = torch.from_numpy(np.linalg.inv(turn).T).float()
    points = (full["points"] - middle - torch.from_numpy(shift).float()) @ back + (size - 1) / 2
    inside = ((points >= 0) & (points <= size - 1)).all(1)
    group = torch.where(inside, full["point_group"], torch.tensor(IGNORE, dtype=torch.uint8))
    return {"hu": hu, **labels, "points": points, "point_label": full["point_label"], "point_group": group}


def settings_from(config: Mapping[str, Any]) -> PatchSettings:
    """Settings from a plain YAML mapping; an unknown key raises ConfigError."""
    known = [f.name for f in fields(PatchSettings)]
    for key in config:
        if key not in known:
            raise ConfigError(f"unknown key; known are {', '.join(known)}", field="patches", value=key)
    plain: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in config.items()}
    return PatchSettings(**plain)


def cache_name(settings: PatchSettings) -> str:
    """Folder name for cached patches: patches of other settings never mix."""
    text = json.dumps({**asdict(settings), "generator": GENERATOR}, sort_keys=True)
    return f"split{settings.split}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"


def fill_cache(settings: PatchSettings, length: int, cache_dir: Path, worker: int = 0, workers: int = 1) -> None:
    """Make every missing patch of this worker's patients."""
    torch.set_num_threads(1)
    patches = PhantomPatches(settings, length, cache_dir)
    for index in range(length):
        if (index // settings.images_per_patient) % workers == worker and not patches.cached(index).exists():
            patches.full(index)
