"""Training patches from real scans: the same path, the same dictionary and the same jitter as the phantom's.

A patch maps only the part of a stored scan (:mod:`cacsnet.data.stored`) that it needs. On the native grid the scan may get
injected calcium and be shown as another scanner would have shown it; then come the candidates of *that* image and the
resampling that inference uses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import get_worker_info

from cacsnet.data.inject import Injection, inject
from cacsnet.data.jitter import Jitter
from cacsnet.data.manifest import OTHER_CALCIUM, DatasetSettings, dataset_from, read_manifest
from cacsnet.data.memory import keep_memory
from cacsnet.data.patches import DEFAULT_JITTER, DISTRACTOR, OTHER, PLAQUE, PatchSettings, PhantomPatches
from cacsnet.data.sampling import DEFAULT_SHARES, Mixture, Patches, check_shares, draw_centre
from cacsnet.data.stored import BORDER, REACH, StoredScan, StoreSettings, label_candidates, noise_hu, open_stored, store
from cacsnet.errors import ConfigError
from cacsnet.inference.windows import sample_scan
from cacsnet.labels import IGNORE
from cacsnet.network.checkpoint import load_model
from cacsnet.scan import OUTSIDE_FOV_HU
from cacsnet.scanner.profiles import draw_protocol, profile_names
from cacsnet.scanner.protocol import Protocol
from cacsnet.scanner.reimage import reimage as reimage_scan

NEAR_HEART_MM = 10.0
"""An unlabelled candidate this near to a known structure (along each axis) is a distractor, farther away bone or noise."""


@dataclass(frozen=True)
class Reimaging:
    """Multi-vendor augmentation: a share of the patches is shown as another scanner would have shown them.

    Attributes:
        share: of the patches.
        profiles: of ``conf/scanner``; empty: all of them.
        assumed_fwhm_mm: in-plane resolution of the source, which no file tells.
    """

    share: float = 0.0
    profiles: tuple[str, ...] = ()
    assumed_fwhm_mm: float = 0.9

    def __post_init__(self) -> None:
        object.__setattr__(self, "profiles", tuple(self.profiles) or profile_names())
        for name in self.profiles:
            if name not in profile_names():
                raise ConfigError(f"choose from {', '.join(profile_names())}", field="reimage.profiles", value=name)
        if not 0 <= self.share <= 1:
            raise ConfigError("must be within 0 and 1", field="reimage.share", value=self.share)


@dataclass(frozen=True)
class SampleSettings:
    """How patches are drawn from stored scans.

    Attributes:
        offset_mm: half range of the window's centre around the drawn place.
        shares: of the kinds of places, see :mod:`cacsnet.data.sampling`.
        reimage, inject: augmentation on the native grid.
    """

    offset_mm: float = 20.0
    shares: Mapping[str, float] = field(default_factory=lambda: dict(DEFAULT_SHARES))
    reimage: Reimaging = field(default_factory=Reimaging)
    inject: Injection = field(default_factory=Injection)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shares", check_shares(self.shares))
        if not self.offset_mm >= 0:
            raise ConfigError("must be a number from 0 on", field="data.offset_mm", value=self.offset_mm)


# -- patches ----------------------------------------------------------------------------------------------------------


class RealPatches(PhantomPatches):
    """Patches of stored scans. Which scan, place, scanner and calcium patch ``index`` has follows from seed, epoch and index:
    the same on any number of workers, and new ones in each epoch. Without jitter the epoch doesn't matter either.

    Args:
        settings: of the stage: spacing, size, border and number of points hold for real scans too.
        real: sampling and augmentation.
        folders: of the stored scans.
        length: patches per epoch.
        jitter, seed: see :class:`PhantomPatches`.

    Attributes:
        unused: folders of scans that teach nothing (nothing is known, or no calcium and no heart was found).
    """

    def __init__(
        self, settings: PatchSettings, real: SampleSettings, folders: Sequence[Path], length: int,
        jitter: Jitter | None = DEFAULT_JITTER, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(settings, length, None, jitter, seed)
        self.real = real
        places = {folder: open_stored(folder).places for folder in folders}
        self.folders = [f for f, p in places.items() if any(len(v) for v in p.values())]
        self.unused = [f for f in places if f not in self.folders]
        self.places = [places[f] for f in self.folders]
        if not self.folders:
            raise ConfigError(
                "no scan of this dataset teaches anything", field="data.root", value=[f.name for f in self.unused]
            )

    def full(self, index: int) -> dict[str, Tensor]:
        """The patch with its border, in this epoch."""
        if get_worker_info() is not None:
            keep_memory()
        rng = np.random.default_rng([self.seed, 7, self.epoch if self.jitter is not None else 0, index])
        _, scan, place = draw_centre(self.places, self.real.shares, rng)
        centre = place + rng.uniform(-1, 1, 3) * self.real.offset_mm
        return cut_patch(open_stored(self.folders[scan]), centre, self.settings, self.real, rng)


def cut_patch(
    scan: StoredScan, centre_mm: np.ndarray, settings: PatchSettings, real: SampleSettings, rng: np.random.Generator
) -> dict[str, Tensor]:
    """The patch around a position (mm from the stored scan's first voxel), with what ``patches.make_patch`` returns."""
    size, step = settings.patch + 2 * settings.border, settings.spacing_mm
    spacing = np.array(scan.spacing_mm)
    first = centre_mm - step * (size - 1) / 2
    reach = 2 * np.maximum(spacing, step) + spacing
    low = np.clip(np.floor((first - reach) / spacing), 0, np.array(scan.hu.shape) - 1).astype(int)
    high = np.clip(np.ceil((first + step * (size - 1) + reach) / spacing) + 1, low + 1, scan.hu.shape).astype(int)
    box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    native = _native(scan, box, step, real, rng)
    window = sample_scan(native.hu, native.spacing_mm, (first - native.first_mm).tolist(), step, (size,) * 3)
    structures, course = (_nearest(a, first, step, size, spacing) for a in (scan.structures, scan.course))
    points, label, group = _points(native, scan, first, step, structures, settings.points, rng)
    count = len(points)
    out_points = torch.zeros(settings.points, 3)
    out_label = torch.zeros(settings.points, dtype=torch.uint8)
    out_group = torch.full((settings.points,), IGNORE, dtype=torch.uint8)
    out_points[:count], out_label[:count], out_group[:count] = points, label, group
    return {
        "hu": window.round().to(torch.int16), "structures": structures, "course": course,
        "points": out_points, "point_label": out_label, "point_group": out_group,
    }  # fmt: skip


@dataclass(frozen=True)
class _Native:
    """Part of a scan on its (or the new) native grid: HU, first voxel, spacing (mm); candidates [n, 3] (mm) and labels."""

    hu: np.ndarray
    first_mm: np.ndarray
    spacing_mm: tuple[float, float, float]
    at_mm: np.ndarray
    labels: np.ndarray


def _native(
    scan: StoredScan, box: tuple[slice, ...], step_mm: float, real: SampleSettings, rng: np.random.Generator
) -> _Native:
    """Read a box and, by their shares, inject calcium and re-image it."""
    injecting, reimaging = rng.random(2) < (real.inject.share, real.reimage.share)
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    low, high = (np.array([getattr(s, end) for s in box]) for end in ("start", "stop"))
    spacing = np.array(scan.spacing_mm)
    start, stop = np.searchsorted(scan.candidates[:, 0], [low[0], high[0]])  # sorted by slice
    voxels, labels = scan.candidates[start:stop], scan.labels[start:stop]
    inside = ((voxels >= low) & (voxels < high)).all(1)
    at, labels = voxels[inside] * spacing, np.asarray(labels[inside])
    hu, first = np.asarray(scan.hu[box]), low * spacing
    if not (injecting or reimaging) or min(hu.shape) < 3:
        return _Native(hu, first, scan.spacing_mm, at, labels)

    source = _protocol(scan, hu.shape, first, real.reimage.assumed_fwhm_mm)
    volume = torch.from_numpy(hu.astype(np.float32))
    known = labels != BORDER
    at, labels = at[known], labels[known]
    reach = REACH * spacing
    if injecting and scan.calcium_known:
        maps = [None if a is None else np.asarray(a[box]) for a in (scan.structures, scan.course)]
        owner = inject(volume, source, maps[0], maps[1], rng, real.inject)
        new = np.argwhere((owner > 0) & (volume.numpy() >= scan.threshold_hu))
        at = np.concatenate([new * spacing + first, at])
        labels = np.concatenate([owner[tuple(new.T)], labels])
    if reimaging:
        volume, source = _binned(volume, source, step_mm / 3)
        target = _target(source, real.reimage, rng)
        added = max(target.fwhm_mm**2 - source.fwhm_mm**2, 0.0) ** 0.5
        volume, _ = reimage_scan(volume, source, target, generator)
        source = target
        # a calcification shows as far as the slice it lies in, the larger pixel and the added blur reach
        far = np.array(
            [max(target.thickness_mm, target.spacing_mm[0]) / 2, *(added + (s - spacing[1]) / 2 for s in target.spacing_mm[1:])]
        )
        reach = reach + far
    hu, first = volume.numpy(), np.array(source.origin_mm)
    here = np.argwhere(hu >= scan.threshold_hu) * np.array(source.spacing_mm) + first
    known = labels > 0
    found = label_candidates(here, at[known], labels[known], reach, scan.border_voxels)
    return _Native(hu, first, source.spacing_mm, here, found)


def _binned(hu: Tensor, source: Protocol, most_mm: float) -> tuple[Tensor, Protocol]:
    """Pixels joined while they stay below ``most_mm``: what a larger field of view on the same matrix shows. The network's
    voxel is much larger, and re-imaging a volume of fine pixels is slow."""
    many = max(1, int(most_mm / source.spacing_mm[1]))
    if many == 1:
        return hu, source
    rows, columns = (n // many * many for n in hu.shape[1:])
    joined = F.avg_pool2d(hu[:, None, :rows, :columns], many)[:, 0]
    dz, dy, dx = source.spacing_mm
    z, y, x = source.origin_mm
    shape = (joined.shape[0], joined.shape[1], joined.shape[2])
    spacing, origin = (dz, dy * many, dx * many), (z, y + dy * (many - 1) / 2, x + dx * (many - 1) / 2)
    return joined, replace(
        source, spacing_mm=spacing, shape=shape, origin_mm=origin, fwhm_mm=max(source.fwhm_mm, spacing[1]),
        noise_hu=noise_hu(joined.numpy(), spacing),
    )  # fmt: skip


def _protocol(scan: StoredScan, shape: tuple[int, ...], first_mm: np.ndarray, fwhm_mm: float) -> Protocol:
    z, y, x = first_mm.tolist()
    slices, rows, columns = shape
    return Protocol(
        scan.spacing_mm, (slices, rows, columns), (z, y, x), scan.thickness_mm, fwhm_mm=fwhm_mm, noise_hu=scan.noise_hu,
        kvp=int(scan.kvp),
    )  # fmt: skip


def _target(source: Protocol, settings: Reimaging, rng: np.random.Generator) -> Protocol:
    """A drawn protocol on the source's rows and columns: its slices, kernel and noise, a heart that stands still."""
    first, last = source.origin_mm[0], source.origin_mm[0] + source.spacing_mm[0] * (source.shape[0] - 1)
    name = settings.profiles[int(rng.integers(len(settings.profiles)))]
    drawn = draw_protocol(name, rng, (first, last + source.spacing_mm[0])).still()
    increment = min(drawn.spacing_mm[0], max(last - first, source.spacing_mm[0]) / 2)  # at least three slices
    start = first + rng.random() * min(increment, last - first - 2 * increment) if last - first > 2 * increment else first
    slices = int((last - start) / increment + 1e-6) + 1
    return replace(
        drawn, spacing_mm=(increment, *source.spacing_mm[1:]), shape=(slices, *source.shape[1:]),
        origin_mm=(float(start), *source.origin_mm[1:]), kvp=source.kvp, calcium_scale=source.calcium_scale,
        cupping_hu=0.0, circle_mm=0.0, padding_hu=OUTSIDE_FOV_HU,
    )  # fmt: skip


def _nearest(labels: np.ndarray | None, first: np.ndarray, step: float, size: int, spacing: np.ndarray) -> Tensor:
    """Nearest label uint8 [size, size, size]; IGNORE outside the scan and where nothing is known."""
    out = torch.full((size,) * 3, IGNORE, dtype=torch.uint8)
    if labels is None:
        return out
    index = [np.rint((first[k] + step * np.arange(size)) / spacing[k]).astype(int) for k in range(3)]
    inside = [np.flatnonzero((i >= 0) & (i < n)) for i, n in zip(index, labels.shape, strict=True)]
    if all(len(i) for i in inside):
        spans = [slice(int(i[k].min()), int(i[k].max()) + 1) for i, k in zip(index, inside, strict=True)]
        part = np.asarray(labels[tuple(spans)])  # one piece of the map, then the picking in memory
        picked = part[np.ix_(*(i[k] - s.start for i, k, s in zip(index, inside, spans, strict=True)))]
        out[np.ix_(*inside)] = torch.from_numpy(picked)
    return out


def _points(
    native: _Native, scan: StoredScan, first: np.ndarray, step: float, structures: Tensor, most: int,
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Candidates in the patch whose truth is known: position, label, group.

    Labelled ones; of a complete scan also the unlabelled ones in the heart region. Anything else is unknown.
    """
    size = structures.shape[0]
    position = (native.at_mm - first) / step
    inside = ((position >= 0) & (position <= size - 1)).all(1)
    at, position, value = native.at_mm[inside], position[inside], native.labels[inside]
    group = np.full(len(at), IGNORE, np.uint8)
    group[(value > 0) & (value < OTHER_CALCIUM)] = PLAQUE
    group[value == OTHER_CALCIUM] = DISTRACTOR
    if scan.complete and scan.heart_mm is not None:
        none = (value == 0) & ((at >= scan.heart_mm[0]) & (at <= scan.heart_mm[1])).all(1)
        near = near_heart(structures, NEAR_HEART_MM / step)[tuple(np.rint(position).astype(int).T)]
        group[none] = np.where(near, DISTRACTOR, OTHER)[none]
    label = np.where(group == PLAQUE, value, 0).astype(np.uint8)
    keep = []  # calcium first, as in the phantom's patches; bone and noise fill what is left
    for kind, share in ((PLAQUE, 0.4), (DISTRACTOR, 0.3)):
        keep.append(rng.permutation(np.flatnonzero(group == kind))[: int(most * share)])
    keep.append(rng.permutation(np.flatnonzero(group == OTHER))[: most - sum(len(k) for k in keep)])
    pick = np.concatenate(keep)
    return torch.from_numpy(position[pick]).float(), torch.from_numpy(label[pick]), torch.from_numpy(group[pick])


def near_heart(structures: Tensor, voxels: float) -> np.ndarray:
    """bool: known structures, grown by so many voxels along each axis."""
    grown = ((structures > 0) & (structures != IGNORE)).float()[None, None]
    reach = round(voxels)
    for kernel in ((2 * reach + 1, 1, 1), (1, 2 * reach + 1, 1), (1, 1, 2 * reach + 1)):
        grown = F.max_pool3d(grown, kernel, 1, tuple(k // 2 for k in kernel))
    out: np.ndarray = grown[0, 0].numpy() > 0
    return out


# -- from YAML --------------------------------------------------------------------------------------------------------


def split_config(config: Mapping[str, Any]) -> tuple[DatasetSettings, StoreSettings, SampleSettings, dict[str, Any]]:
    """A ``conf/data`` mapping as its parts; the last holds ``length`` (patches per epoch) and ``phantom_share``.

    Raises:
        ConfigError: an unknown key or a bad value.
    """
    rest: dict[str, Any] = {"length": 400, "phantom_share": 0.0}
    kinds = (DatasetSettings, StoreSettings, SampleSettings)
    names = {f.name: kind for kind in kinds for f in fields(kind)}
    parts: dict[Any, dict[str, Any]] = {kind: {} for kind in kinds}
    for key, value in config.items():
        if key in rest:
            rest[key] = value
        elif key in names:
            parts[names[key]][key] = value
        else:
            raise ConfigError(f"unknown key; known are {', '.join([*names, *rest])}", field="data", value=key)
    share = rest["phantom_share"]
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share < 1:
        raise ConfigError("must be from 0 to below 1", field="data.phantom_share", value=share)
    sample = parts[SampleSettings]
    try:
        for name, kind in (("reimage", Reimaging), ("inject", Injection)):
            if name in sample:
                sample[name] = kind(**sample[name])
        out = StoreSettings(**parts[StoreSettings]), SampleSettings(**sample)
    except TypeError as error:
        raise ConfigError(f"bad settings ({error})", field="data", value=sorted(sample)) from error
    return dataset_from(parts[DatasetSettings]), *out, rest


def patches_from(
    config: Mapping[str, Any], settings: PatchSettings, seed: int = 0, phantom: PhantomPatches | None = None
) -> Patches:
    """Training patches of a ``conf/data`` mapping for one stage; scans are stored first where they aren't yet.

    Args:
        settings: the stage's patches.
        phantom: mixed in by ``phantom_share``; the scans are jittered as it is.
    """
    dataset, storing, real, rest = split_config(config)
    model = load_model(Path(storing.heart_checkpoint)) if storing.heart_checkpoint else None
    folders = [store(case, dataset, storing, model) for case in read_manifest(dataset)]
    jitter = DEFAULT_JITTER if phantom is None else phantom.jitter
    patches = RealPatches(settings, real, folders, int(rest["length"]), jitter, seed)
    if phantom is None or not rest["phantom_share"]:
        return patches
    return Mixture([(phantom, rest["phantom_share"]), (patches, 1 - rest["phantom_share"])], int(rest["length"]), seed)
