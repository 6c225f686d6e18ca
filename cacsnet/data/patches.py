"""Training patches from the phantom, made the way inference sees a scan.

A patch is first imaged on a native grid (what a scanner of :mod:`cacsnet.data.scans` gives, noise *there*) and then goes
through :func:`cacsnet.grid.resample`, the function inference uses. Candidates (native voxels at or above the threshold) travel
as points with the owner of the calcium, so the decision is trained exactly where inference reads it.
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
from torch.utils.data import Dataset, get_worker_info

from cacsnet.data.jitter import Jitter, cut_inner
from cacsnet.data.memory import keep_memory
from cacsnet.data.sampling import check_shares, draw_centre, phantom_places
from cacsnet.data.scans import ScanRanges, apply_field, draw_native
from cacsnet.errors import ConfigError
from cacsnet.grid import resample
from cacsnet.labels import IGNORE, VESSELS
from cacsnet.phantom.anatomy import Patient
from cacsnet.phantom.calcium import draw_plaques
from cacsnet.phantom.cohort import bmi_kg_m2
from cacsnet.phantom.deposits import DEVICES, Deposit
from cacsnet.phantom.devices import draw_devices
from cacsnet.phantom.heart import Artery
from cacsnet.phantom.places import draw_distractors
from cacsnet.phantom.population import draw_targets, load_population
from cacsnet.phantom.render import Anatomy, heart_box, render
from cacsnet.phantom.scan import make_scan
from cacsnet.scoring import load_profile

PLAQUE, DISTRACTOR, OTHER = 0, 1, 2
"""Point groups: coronary calcium; other calcium and metal inside or beside the heart; bone, cartilage and noise."""

GENERATOR = 16
"""Raised whenever the phantom changes, so that cached patches of an older one are not used."""

THRESHOLDS = load_profile("smartscore")
"""Candidates of a patch are those of the default scoring profile at its tube voltage."""

FAR_MM, NEAR_MM = 40.0, 12.0
"""Bone and noise further from the heart are no points; where there are too many, those nearer than NEAR_MM are kept first."""

SHIFT_MM, MARGIN_MM = 5.0, 6.0
"""The images of one patient are shifted by up to SHIFT_MM; the painted box reaches MARGIN_MM beyond them."""

DEFAULT_JITTER = Jitter()

DISTRACTOR_SETS = 4
"""Draws of each kind of distractor per patient; an image takes one of each at random."""

EXPECTED = {
    "aorta": 1.0, "aortic_valve": 1.0, "mitral_annulus": 1.0, "pericardium": 0.4, "papillary_muscle": 0.3, "node": 0.5,
    "ostium": 0.7, "bronchus": 0.3, "cartilage": 0.9, "bone": 0.5,
}  # fmt: skip
"""Mean number of calcified places in an image: far more than in a patient, since each teaches something."""


@dataclass(frozen=True)
class PatchSettings:
    """What is drawn. Lengths in mm, ranges uniform.

    Attributes:
        spacing_mm: voxel of the patch (the network's grid).
        patch: voxels a side that the network sees.
        border: extra voxels on each side, for a random shift when a cached patch is loaded.
        step_mm: voxel of the painted anatomy.
        images_per_patient: patches made from one painted patient, each with its own scanner, window and calcium.
        realistic_share: share of scans from the profiles of conf/scanner; the others draw from the wide ranges below.
        pixel_mm, increment_mm, fwhm_mm, noise_hu: wide ranges.
        blurred_share: share of the wide scans with pixels of 2 to 3 mm, as scans that were resampled before.
        native_mvox: a scan with more million voxels in the window is drawn again, up to four times.
        offset_mm: half range of the window's centre around the heart's centre or that place.
        shares: of the kinds of places (cacsnet/data/sampling.py) in whose middle the windows of a patient lie, calcium and
            distractors as in the first draw for that patient; empty: the heart's centre.
        far_share: share of windows far from the heart (neck, abdomen, shoulders), without ``shares``.
        enhanced_share: share of contrast-enhanced hearts, supervised on structures only.
        device_share: share of images with metal.
        points: most candidate points kept per patch.
        population: of conf/phantom, for the burden of vessels and of calcified places.
        heart_model: which of the two heart models (cacsnet/phantom/anatomy.py HEART_MODELS).
        split: seeds of different splits never meet: 0 train, 1 validation.
        kvps: tube voltages of the wide scans.
        device: where patches are painted and imaged, cpu or cuda. Parameters are drawn on the CPU: the same anywhere.
    """

    spacing_mm: float = 3.0
    patch: int = 64
    border: int = 4
    step_mm: float = 2.0
    images_per_patient: int = 12
    realistic_share: float = 0.5
    pixel_mm: tuple[float, float] = (0.35, 0.98)
    increment_mm: tuple[float, float] = (0.6, 5.0)
    fwhm_mm: tuple[float, float] = (0.7, 2.0)
    noise_hu: tuple[float, float] = (8.0, 45.0)
    blurred_share: float = 0.12
    native_mvox: float = 10.0
    offset_mm: float = 36.0
    shares: tuple[tuple[str, float], ...] = ()
    far_share: float = 0.12
    enhanced_share: float = 0.07
    device_share: float = 0.015
    points: int = 3072
    population: str = "patches"
    heart_model: str = "ellipsoid"
    split: int = 0
    kvps: tuple[int, ...] = field(default=(120, 120, 120, 120, 100, 80, 135))
    device: str = "cpu"


def seed_of(split: int, index: int) -> int:
    """Patient seed. Training and validation patches and the cohorts (split 2 and above) draw from disjoint ranges."""
    return split * 10_000_000 + index


@dataclass(frozen=True, eq=False)
class Subject:
    """A painted patient and what all its images share.

    Attributes:
        centre: of the windows, patient mm.
        distance: to the heart's structures (mm) on the painted grid thinned out by ``stride``; None: no heart in the box.
        distractors: for each kind some draws of calcified places.
        heart: box [2, 3] of the chambers, patient mm.
    """

    patient: Patient
    arteries: list[Artery]
    anatomy: Anatomy
    centre: np.ndarray
    distance: np.ndarray | None
    stride: int
    distractors: dict[str, list[list[Deposit]]]
    heart: np.ndarray
    bmi_kg_m2: float


@lru_cache(maxsize=2)
def _painted(settings: PatchSettings, number: int) -> Subject:
    seed = seed_of(settings.split, number)
    rng = np.random.default_rng([seed, 2])
    patient = Patient(seed, bool(rng.random() < settings.enhanced_share), heart_model=settings.heart_model)
    arteries = patient.heart.grow_tree(rng)
    centre = _centre(settings, patient, arteries, rng)
    reach = settings.spacing_mm * (settings.patch + 2 * settings.border) + 2 * (SHIFT_MM + MARGIN_MM)
    count = int(np.ceil(reach / settings.step_mm))
    origin = centre - settings.step_mm * (count - 1) / 2
    anatomy = render(patient, arteries, origin.tolist(), settings.step_mm, (count,) * 3, settings.device)
    stride = max(1, round(4.0 / settings.step_mm))
    heart = (anatomy.structures[::stride, ::stride, ::stride] > 0).cpu().numpy()
    distance = distance_transform_edt(~heart, sampling=stride * settings.step_mm) if heart.any() else None
    distractors = {}
    if not patient.tissue.enhanced:
        for kind, mean in EXPECTED.items():
            means = mean * np.where(rng.random(DISTRACTOR_SETS) < 0.12, 0.0, rng.uniform(0.4, 2.2, DISTRACTOR_SETS))
            distractors[kind] = [draw_distractors(patient, rng, {kind: m}, settings.population) for m in means]
    return Subject(patient, arteries, anatomy, centre, distance, stride, distractors, heart_box(patient), bmi_kg_m2(patient))


def _centre(settings: PatchSettings, patient: Patient, arteries: list[Artery], rng: np.random.Generator) -> np.ndarray:
    """Middle of the windows of a patient [3], patient mm."""
    if settings.shares:
        own = np.random.default_rng([patient.seed, 18])
        places = phantom_places(patient, arteries, _first_calcium(settings, patient, arteries, own), own)
        known = any(len(places[kind]) for kind, share in settings.shares if share > 0)
        place = draw_centre([places], dict(settings.shares), own)[2] if known else np.zeros(3)
        return place + own.uniform(-1, 1, 3) * settings.offset_mm
    if rng.random() < settings.far_share:
        return rng.uniform([-150, -60, -110], [140, 70, 110])
    return rng.uniform(-1, 1, 3) * settings.offset_mm


def _first_calcium(
    settings: PatchSettings, patient: Patient, arteries: list[Artery], rng: np.random.Generator
) -> list[Deposit]:  # fmt: skip
    """Calcium around which the windows of a patient may lie; each image draws its own."""
    if patient.tissue.enhanced:
        return []
    plaques = draw_plaques(patient, arteries, rng, draw_targets(load_population(settings.population), rng))
    return plaques + draw_distractors(patient, rng, EXPECTED, settings.population)


def _calcium(settings: PatchSettings, subject: Subject, rng: np.random.Generator) -> list[Deposit]:
    """Calcium and metal of one image."""
    if subject.patient.tissue.enhanced:
        return []
    targets = draw_targets(load_population(settings.population), rng)
    out = draw_plaques(subject.patient, subject.arteries, rng, targets)
    for sets in subject.distractors.values():
        out += sets[int(rng.integers(len(sets)))]
    if rng.random() < settings.device_share:
        kind = list(DEVICES)[int(rng.integers(len(DEVICES)))]
        out += draw_devices(subject.patient, subject.arteries, rng, {kind: 1.0})
    return out


def make_patch(settings: PatchSettings, index: int) -> dict[str, Tensor]:
    """Patch ``index`` of the settings' split, with its border.

    Returns:
        hu int16, structures uint8, course uint8 (IGNORE where the scan has no data) [Z, Y, X];
        points float32 [n, 3] (z, y, x) patch voxels, point_label uint8 [n] (0 to 4), point_group uint8 [n] (IGNORE = padding).
    """
    if get_worker_info() is not None:
        keep_memory()
    number, image_number = divmod(index, settings.images_per_patient)
    subject = _painted(settings, number)
    rng = np.random.default_rng([seed_of(settings.split, number), 3, image_number])
    size = settings.patch + 2 * settings.border
    side = settings.spacing_mm * size
    window_first = subject.centre - 0.5 * side + 0.5 * settings.spacing_mm + rng.uniform(-1, 1, 3) * SHIFT_MM
    ranges = ScanRanges(
        settings.realistic_share, settings.pixel_mm, settings.increment_mm, settings.fwhm_mm, settings.noise_hu,
        settings.blurred_share, settings.kvps, settings.native_mvox * 1e6,
    )  # fmt: skip
    last = window_first + settings.spacing_mm * (size - 1)
    protocol, window_field = draw_native(ranges, rng, window_first, last, settings.spacing_mm, subject.heart, subject.bmi_kg_m2)
    deposits = _calcium(settings, subject, rng)
    scan = make_scan(subject.patient, subject.anatomy, deposits, protocol, int(rng.integers(2**31)))

    native = apply_field(torch.from_numpy(scan.hu).to(settings.device).float(), protocol, window_field)
    spacing, origin = np.array(protocol.spacing_mm), np.array(protocol.origin_mm)
    first = window_first - origin
    window = resample(native, spacing.tolist(), first.tolist(), settings.spacing_mm, (size,) * 3).cpu()
    structures, course = _nearest_labels(subject.anatomy, window_first, settings.spacing_mm, size)
    position = first[:, None] + settings.spacing_mm * np.arange(size)
    covered = [(position[k] > -0.5 * spacing[k]) & (position[k] < (protocol.shape[k] - 0.5) * spacing[k]) for k in range(3)]
    unknown = torch.from_numpy(~(covered[0][:, None, None] & covered[1][None, :, None] & covered[2][None, None]))
    structures[unknown] = IGNORE
    course[unknown] = IGNORE
    out_points = torch.zeros(settings.points, 3)
    label = torch.zeros(settings.points, dtype=torch.uint8)
    group = torch.full((settings.points,), IGNORE, dtype=torch.uint8)
    if subject.patient.tissue.enhanced:
        course[:] = IGNORE
    else:
        threshold = THRESHOLDS.threshold_hu(protocol.kvp)
        found = _points(native, scan.owner, threshold, first, spacing, window_first, settings, subject, rng)
        count = len(found[0])
        out_points[:count], label[:count], group[:count] = found
    return {
        "hu": window.round().to(torch.int16), "structures": structures, "course": course,
        "points": out_points, "point_label": label, "point_group": group,
    }  # fmt: skip


def _nearest_labels(anatomy: Anatomy, first: np.ndarray, spacing: float, size: int) -> tuple[Tensor, Tensor]:
    index = []
    for k in range(3):
        position = (first[k] + spacing * np.arange(size) - anatomy.origin_mm[k]) / anatomy.step_mm
        index.append(np.clip(np.round(position), 0, anatomy.hu.shape[k] - 1).astype(np.int64))
    z, y, x = (torch.from_numpy(i).to(anatomy.hu.device) for i in index)
    structures, course = (labels[z][:, y][:, :, x].cpu() for labels in (anatomy.structures, anatomy.area))
    return structures, course


def _points(
    native: Tensor, owner: np.ndarray, threshold: float, first: np.ndarray, spacing: np.ndarray, window_first: np.ndarray,
    settings: PatchSettings, subject: Subject, rng: np.random.Generator,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Candidates of the native scan inside the patch. Calcium is kept first; bone and noise fill what is left, within
    FAR_MM of the heart and the near ones first."""
    size = settings.patch + 2 * settings.border
    axes = [(np.arange(n) * spacing[k] - first[k]) / settings.spacing_mm for k, n in enumerate(native.shape)]
    inner = [np.flatnonzero((axis >= 0) & (axis <= size - 1)) for axis in axes]
    box = tuple(slice(int(found[0]), int(found[-1]) + 1) if len(found) else slice(0) for found in inner)
    axes = [axis[part] for axis, part in zip(axes, box, strict=True)]
    z, y, x = (one.cpu().numpy() for one in torch.nonzero(native[box] >= threshold, as_tuple=True))
    distance = np.zeros(len(z))
    if subject.distance is not None:
        step = subject.stride * subject.anatomy.step_mm
        place = [window_first[k] + axes[k] * settings.spacing_mm - subject.anatomy.origin_mm[k] for k in range(3)]
        cell = [np.clip(np.round(place[k] / step).astype(int), 0, subject.distance.shape[k] - 1) for k in range(3)]
        distance = subject.distance[cell[0][z], cell[1][y], cell[2][x]]
        near = distance <= FAR_MM
        z, y, x, distance = z[near], y[near], x[near], distance[near]
    position = np.stack([axes[0][z], axes[1][y], axes[2][x]], 1)
    who = owner[box][z, y, x]
    label = np.where(who < len(VESSELS), who, 0).astype(np.uint8)
    group = np.where(who == 0, OTHER, np.where(who < len(VESSELS), PLAQUE, DISTRACTOR)).astype(np.uint8)
    keep = []
    for kind, share in ((PLAQUE, 0.4), (DISTRACTOR, 0.3)):
        chosen = np.flatnonzero(group == kind)
        keep.append(rng.permutation(chosen)[: int(settings.points * share)])
    chosen = rng.permutation(np.flatnonzero(group == OTHER))
    chosen = chosen[np.argsort(distance[chosen] > NEAR_MM, kind="stable")]
    keep.append(chosen[: settings.points - sum(len(k) for k in keep)])
    pick = np.concatenate(keep)
    return torch.from_numpy(position[pick]).float(), torch.from_numpy(label[pick]), torch.from_numpy(group[pick])


class PhantomPatches(Dataset[dict[str, Tensor]]):
    """Patches of one split by index; the same index gives the same patch anywhere, on any number of workers.

    With ``cache_dir`` each patch is made once, stored (int16 and uint8), and read again in later epochs; a missing one is made
    together with the others of its patient, since painting is what takes long.
    On reading it is deformed and its HU are changed (``jitter``; None: it is shown as it is).
    """

    def __init__(
        self, settings: PatchSettings, length: int, cache_dir: str | Path | None = None, jitter: Jitter | None = DEFAULT_JITTER,
        seed: int = 0,
    ) -> None:  # fmt: skip
        self.settings, self.length, self.jitter, self.seed = settings, length, jitter, seed
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
            self.make(index // self.settings.images_per_patient)
        with np.load(path) as stored:
            return {key: torch.from_numpy(stored[key]) for key in stored.files}

    def missing(self, number: int) -> list[int]:
        """Indices of one patient's patches that are not in the cache."""
        each = self.settings.images_per_patient
        return [i for i in range(number * each, min((number + 1) * each, self.length)) if not self.cached(i).exists()]

    def make(self, number: int) -> int:
        """Make and store the missing patches of one patient; returns how many."""
        missing = self.missing(number)
        for index in missing:
            arrays: dict[str, Any] = {key: value.numpy() for key, value in make_patch(self.settings, index).items()}
            temporary = self.cached(index).with_suffix(f".{os.getpid()}.tmp.npz")
            np.savez(temporary, **arrays)
            os.replace(temporary, self.cached(index))
        return len(missing)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        full, size = self.full(index), self.settings.patch
        if self.jitter is None:
            return cut_inner(full, size)
        rng = np.random.default_rng([self.seed, self.epoch, index])
        return self.jitter.apply(full, rng, size, self.settings.border, self.settings.spacing_mm)


def settings_from(config: Mapping[str, Any]) -> PatchSettings:
    """Settings from a plain YAML mapping; an unknown key raises ConfigError."""
    known = [f.name for f in fields(PatchSettings)]
    for key in config:
        if key not in known:
            raise ConfigError(f"unknown key; known are {', '.join(known)}", field="patches", value=key)
    plain: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in config.items()}
    if not config.get("shares"):
        plain.pop("shares", None)
    else:
        plain["shares"] = tuple(check_shares(config["shares"]).items())
    return PatchSettings(**plain)


def cache_name(settings: PatchSettings) -> str:
    """Folder name for cached patches: patches of other settings never mix; where they are made makes no difference."""
    text = json.dumps({**asdict(settings), "device": "", "generator": GENERATOR}, sort_keys=True)
    return f"split{settings.split}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"
