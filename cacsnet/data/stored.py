"""Scans as they are stored for training: int16 crops around the heart with their label maps, read by memory map.

Each scan is read once. A folder's name carries a hash of the source files and of every setting that decides its content, and it
appears whole or not at all, so any number of processes may store and read at the same time.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import uniform_filter
from scipy.spatial import cKDTree

from cacsnet.data.manifest import OTHER_CALCIUM, DatasetSettings, LabelledCase, LabelledScan, load_case
from cacsnet.data.sampling import scan_places
from cacsnet.errors import ConfigError, NoHeartError
from cacsnet.inference.localise import find_heart
from cacsnet.inference.pipeline import coarse_predictor
from cacsnet.inference.settings import InferenceSettings
from cacsnet.inference.windows import Grid, Layout, resample_scan, stitch_dense
from cacsnet.labels import IGNORE, VESSELS
from cacsnet.network.checkpoint import Model

CACHE_VERSION = 1
"""Raised whenever what is stored changes."""

NOISE_FALLBACK_HU = 20.0

BORDER = 254
"""Label of an unlabelled candidate beside labelled calcium: unknown, and not a place that a label could come from."""

REACH = 0.6
"""A label reaches this many voxels: its own voxel, and rounding."""


@dataclass(frozen=True)
class StoreSettings:
    """What of a scan is kept. Lengths in mm.

    Attributes:
        cache_dir: where the crops are kept.
        heart_checkpoint: a model whose coarse stage finds the heart where no structures are known. Without one, the heart
            region is the box around the calcium labels.
        heart_margin_mm: around structures, labels or the found heart: the region where an unlabelled candidate of a complete
            scan is background.
        crop_margin_mm: what is kept around that region; None, or no region: the whole scan.
    """

    cache_dir: str = "runs/scans"
    heart_checkpoint: str | None = None
    heart_margin_mm: float = 20.0
    crop_margin_mm: float | None = 60.0

    def __post_init__(self) -> None:
        for name in ("heart_margin_mm", "crop_margin_mm"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise ConfigError("must be a number from 0 on", field=f"data.{name}", value=value)


@dataclass(frozen=True)
class StoredScan:
    """A crop on disk, memory-mapped. Positions are mm from its first voxel.

    Attributes:
        hu: int16 [z, y, x]; structures, course: uint8 or None where not known (see :class:`LabelledScan`).
        candidates: int16 [n, 3] (z, y, x), voxels at or above the threshold, sorted by slice; none where no calcium is known.
        labels: uint8 [n], of the candidates: as in :attr:`LabelledScan.calcium`, or :data:`BORDER`.
        heart_mm: lowest and highest corner [2, 3] of the heart region, or None.
        places: [n, 3] by kind.
        border_voxels: of the dataset, see :class:`DatasetSettings`.
        calcium_known: whether there is a calcium map; without one no candidate is taught.
    """

    hu: np.ndarray
    structures: np.ndarray | None
    course: np.ndarray | None
    candidates: np.ndarray
    labels: np.ndarray
    spacing_mm: tuple[float, float, float]
    kvp: float
    threshold_hu: float
    thickness_mm: float
    noise_hu: float
    complete: bool
    heart_mm: np.ndarray | None
    places: Mapping[str, np.ndarray]
    border_voxels: float
    calcium_known: bool


def store_name(labelled: LabelledCase, dataset: DatasetSettings, settings: StoreSettings) -> str:
    """Folder name of a case: its id and a hash of the source files (path, size, time) and of every setting that matters."""
    sources = []
    for path in (labelled.case.path, *labelled.maps.values()):
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            state = file.stat()
            sources.append([str(file.resolve()), state.st_size, state.st_mtime_ns])
    stored = {k: v for k, v in asdict(settings).items() if k != "cache_dir"}
    meaning = {k: v for k, v in asdict(dataset).items() if k not in ("root", "manifest", "known", "complete")}
    facts = [CACHE_VERSION, sources, stored, meaning, labelled.case.overrides, labelled.case.series_uid, labelled.complete]
    text = json.dumps([*facts, sorted(labelled.maps)], sort_keys=True, default=str)
    return f"{labelled.case.case_id}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def store(labelled: LabelledCase, dataset: DatasetSettings, settings: StoreSettings, model: Model | None = None) -> Path:
    """Read a case and keep its crop, unless it is there already; the folder appears whole or not at all."""
    folder = Path(settings.cache_dir) / store_name(labelled, dataset, settings)
    if folder.is_dir():
        return folder
    scan = load_case(labelled, dataset)
    heart = heart_region(scan, settings.heart_margin_mm, model)
    box = _crop(scan, heart, settings.crop_margin_mm)
    first = np.array([s.start for s in box]) * scan.geometry.spacing_mm
    heart = None if heart is None else heart - first
    cut = _cut(scan, box)
    candidates, labels = candidates_of(cut, dataset.border_voxels)
    facts = {
        "case_id": scan.case_id, "spacing_mm": scan.geometry.spacing_mm, "kvp": scan.kvp, "threshold_hu": scan.threshold_hu,
        "thickness_mm": scan.thickness_mm, "border_voxels": dataset.border_voxels, "complete": scan.complete,
        "calcium_known": scan.calcium is not None,
        "noise_hu": noise_hu(cut.hu, scan.geometry.spacing_mm), "first_voxel": [s.start for s in box],
        "heart_mm": None if heart is None else heart.tolist(),
        "places": {k: v.tolist() for k, v in _places(cut, heart, candidates, labels).items()},
    }  # fmt: skip
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    temporary.mkdir(parents=True)
    arrays = {"hu": cut.hu, "structures": cut.structures, "course": cut.course, "candidates": candidates, "labels": labels}
    for name, array in arrays.items():
        if array is not None:
            np.save(temporary / f"{name}.npy", np.ascontiguousarray(array))
    (temporary / "scan.json").write_text(json.dumps(facts), encoding="utf-8")
    try:
        os.replace(temporary, folder)
    except OSError:
        shutil.rmtree(temporary)
        if not folder.is_dir():  # else another process was faster
            raise
    return folder


def _cut(scan: LabelledScan, box: tuple[slice, ...]) -> LabelledScan:
    """The part of a scan; its affine stays that of the whole one."""
    z, y, x = (s.stop - s.start for s in box)

    def part(labels: np.ndarray | None) -> np.ndarray | None:
        return None if labels is None else labels[box]

    return replace(
        scan, hu=scan.hu[box], geometry=replace(scan.geometry, shape=(z, y, x)), calcium=part(scan.calcium),
        structures=part(scan.structures), course=part(scan.course),
    )  # fmt: skip


@lru_cache(maxsize=256)
def open_stored(folder: Path) -> StoredScan:
    """Map a stored scan into memory."""
    facts = json.loads((folder / "scan.json").read_text(encoding="utf-8"))

    def array(name: str) -> Any:
        path = folder / f"{name}.npy"
        return np.load(path, mmap_mode="r") if path.exists() else None

    heart = facts["heart_mm"]
    plain = {
        k: facts[k] for k in ("kvp", "threshold_hu", "thickness_mm", "noise_hu", "complete", "border_voxels", "calcium_known")
    }
    return StoredScan(
        hu=array("hu"), structures=array("structures"), course=array("course"), candidates=array("candidates"),
        labels=array("labels"), spacing_mm=tuple(facts["spacing_mm"]), heart_mm=None if heart is None else np.array(heart),
        places={k: np.array(v).reshape(-1, 3) for k, v in facts["places"].items()}, **plain,
    )  # fmt: skip


def heart_region(scan: LabelledScan, margin_mm: float, model: Model | None = None) -> np.ndarray | None:
    """Lowest and highest corner [2, 3] (mm from the scan's first voxel) of the heart with a margin.

    Of the known structures; else as the model's coarse stage finds it; else around the coronary calcium labels; else None.
    """
    spacing = np.array(scan.geometry.spacing_mm)
    if scan.structures is not None:
        mask = (scan.structures > 0) & (scan.structures != IGNORE)
        if mask.any():
            return _box_of(mask, spacing, margin_mm)
    if model is not None:
        try:
            return _heart_by_model(scan, model, margin_mm)
        except NoHeartError:
            pass
    if scan.calcium is not None:
        mask = (scan.calcium > 0) & (scan.calcium < len(VESSELS))
        if mask.any():
            return _box_of(mask, spacing, margin_mm)
    return None


def _box_of(mask: np.ndarray, spacing: np.ndarray, margin_mm: float) -> np.ndarray:
    spans = [np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))[[0, -1]] for axis in range(3)]
    low, high = np.array(spans).T * spacing
    return np.stack([low - margin_mm, high + margin_mm])


def _heart_by_model(scan: LabelledScan, model: Model, margin_mm: float) -> np.ndarray:
    settings, stage = InferenceSettings(), model.coarse
    spacing = scan.geometry.spacing_mm
    grid = Grid.covering(scan.hu.shape, spacing, stage.config.spacing_mm)
    hu = resample_scan(scan.hu, spacing, grid)
    layout = Layout.over(grid, stage.config.patch, settings.coarse_overlap)
    probabilities = stitch_dense(layout, coarse_predictor(stage, hu, grid, with_coronary=False), settings.batch)
    return np.stack(find_heart(probabilities, hu, grid, scan.hu, scan.geometry, settings.heart).box_mm(margin_mm))


def _crop(scan: LabelledScan, heart: np.ndarray | None, margin_mm: float | None) -> tuple[slice, ...]:
    if heart is None or margin_mm is None:
        return tuple(slice(0, n) for n in scan.hu.shape)
    spacing, shape = np.array(scan.geometry.spacing_mm), np.array(scan.hu.shape)
    low = np.clip(np.floor((heart[0] - margin_mm) / spacing), 0, shape - 1).astype(int)
    high = np.clip(np.ceil((heart[1] + margin_mm) / spacing) + 1, low + 1, shape).astype(int)
    return tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))


def noise_hu(hu: np.ndarray, spacing_mm: Sequence[float]) -> float:
    """SD of soft tissue: the median over squares of 8 mm in nine slices; NOISE_FALLBACK_HU where there is none."""
    side = [max(3, round(8.0 / s)) for s in spacing_mm[1:]]
    found = []
    for k in np.unique(np.linspace(0, len(hu) - 1, 9).round().astype(int)):
        plane = np.asarray(hu[k], np.float32)
        mean = uniform_filter(plane, side)
        variance = uniform_filter(plane * plane, side) - mean * mean
        # a square of one tissue only: fat or lung in it would count as noise
        found.append(np.sqrt(variance.clip(0))[(mean > 10) & (mean < 80) & (variance < 60.0**2)])
    values = np.concatenate(found)
    return float(np.median(values)) if len(values) > 100 else NOISE_FALLBACK_HU


def _places(scan: LabelledScan, heart: np.ndarray | None, candidates: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    if scan.calcium is None and scan.course is None and scan.structures is None:
        return {}
    rng = np.random.default_rng([zlib.crc32(scan.case_id.encode()), 6])
    coronary, other = None, None
    if scan.calcium is not None:
        none = labels == OTHER_CALCIUM
        if scan.complete and heart is not None:
            at = candidates * np.array(scan.geometry.spacing_mm)
            none |= (labels == 0) & ((at >= heart[0]) & (at <= heart[1])).all(1)
        coronary, other = (np.zeros(scan.hu.shape, bool) for _ in range(2))
        coronary[tuple(candidates[(labels > 0) & (labels < len(VESSELS))].T)] = True
        other[tuple(candidates[none].T)] = True
    return scan_places(coronary, other, scan.course, scan.structures, heart, scan.geometry.spacing_mm, rng)


def candidates_of(scan: LabelledScan, border_voxels: float) -> tuple[np.ndarray, np.ndarray]:
    """Voxels [n, 3] at or above the threshold and their labels [n], see :class:`StoredScan`; none if no calcium is known."""
    if scan.calcium is None:
        return np.zeros((0, 3), np.int16), np.zeros(0, np.uint8)
    voxels = np.argwhere(scan.hu >= scan.threshold_hu)
    labels = scan.calcium[tuple(voxels.T)]
    if border_voxels and labels.any():
        near = label_candidates(voxels[labels == 0], voxels[labels > 0], labels[labels > 0], np.full(3, REACH), border_voxels)
        labels[labels == 0] = np.where(near > 0, BORDER, 0)
    return voxels.astype(np.int16), labels


def label_candidates(
    points_mm: np.ndarray, labelled_mm: np.ndarray, values: np.ndarray, reach_mm: np.ndarray, border: float
) -> np.ndarray:
    """uint8 [n]: the value of the nearest labelled voxel within ``reach_mm`` (z, y, x), IGNORE within ``border`` voxels more
    (a voxel is reach / 0.6, see REACH), else 0."""
    out = np.zeros(len(points_mm), np.uint8)
    if not len(points_mm) or not len(labelled_mm):
        return out
    unsure = 1 + border / REACH + 1e-6
    distance, nearest = cKDTree(labelled_mm / reach_mm).query(points_mm / reach_mm, p=np.inf, distance_upper_bound=unsure)
    out[distance < unsure] = IGNORE
    hit = distance <= 1 + 1e-6
    out[hit] = values[nearest[hit]]
    return out
