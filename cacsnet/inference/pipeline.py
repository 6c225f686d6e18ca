"""One scan in, one defensible score out (or a typed error that says why not)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from cacsnet.errors import NoHeartError
from cacsnet.grid import resample
from cacsnet.inference import quality
from cacsnet.inference.localise import Heart, find_heart
from cacsnet.inference.settings import InferenceSettings
from cacsnet.inference.windows import (
    Grid,
    Layout,
    Point,
    Predict,
    cut,
    resample_scan,
    sample_scan,
    stitch_dense,
    stitch_points,
    trilinear,
)
from cacsnet.labels import STRUCTURES, VESSELS
from cacsnet.network.checkpoint import Model, Stage, network_input
from cacsnet.network.unet import Prediction
from cacsnet.scan import Scan
from cacsnet.scoring import (
    CalciumScore,
    Measures,
    ScoringProfile,
    extracoronary_scores,
    lesion_table,
    load_profile,
    reason_map,
    score,
    vessel_filter,
    vote_islands,
)
from cacsnet.scoring.agatston import weigh
from cacsnet.scoring.calibration import Calibration, calibration_of
from cacsnet.scoring.islands import above
from cacsnet.scoring.slabs import Slabs, average_scan

Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class CaseResult:
    """What is known about a scan that could be scored.

    Attributes:
        scan: as it was scored: the one given, or its slabs (``settings.slab_mm``). All below lies on its grid.
        slabs: how its slices were averaged; None if that wasn't asked for.
        status: "ok" or "flagged".
        flags: short words, see :mod:`cacsnet.inference.quality` and :mod:`cacsnet.scoring.calibration`; ``slab_averaged``.
        score: the coronary score.
        extracoronary: Measures of "aorta", "aortic_valve", "mitral_annulus".
        lesions: rows with ``cacsnet.scoring.LESION_COLUMNS``.
        vessel_map: uint8 [z, y, x] on the scan's grid, scored calcium per vessel.
        reasons: uint8 [z, y, x] on the voxels of ``box`` only, index into ``cacsnet.scoring.REASONS``.
        box: slices (z, y, x) of the scan's voxels around the heart where candidates were looked for.
        heart: the localised heart on the coarse grid.
        calibration: tube voltage and mass factor that it was scored with.
        blood_hu, image_noise_hu: HU; None where there was nothing to measure in.
        windows: how many windows ran and were skipped, per stage of the model.
        seconds: per stage of the pipeline.
    """

    scan: Scan
    slabs: Slabs | None
    status: str
    flags: tuple[str, ...]
    score: CalciumScore
    extracoronary: dict[str, Measures]
    lesions: list[dict]
    vessel_map: np.ndarray
    reasons: np.ndarray
    box: Box
    heart: Heart
    calibration: Calibration
    blood_hu: float | None
    image_noise_hu: float | None
    windows: dict[str, int]
    seconds: dict[str, float]

    def structures_native(self, scan: Scan) -> np.ndarray:
        """The heart's structures on the scan's own grid: uint8 [z, y, x]."""
        n, m, k = scan.hu.shape
        return self.heart.structures_on_native(scan.spacing_mm, (slice(0, n), slice(0, m), slice(0, k)))


@dataclass
class _Clock:
    on_stage: Callable[[str], None] | None
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        if self.on_stage:
            self.on_stage(name)
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 3)


def score_scan(
    scan: Scan,
    model: Model,
    settings: InferenceSettings | None = None,
    on_stage: Callable[[str], None] | None = None,
) -> CaseResult:
    """Score one scan.

    With ``settings.slab_mm`` its slices are averaged to slabs before anything else.

    Args:
        scan: HU [z, y, x] with geometry and acquisition.
        model: coarse and, where there is one, fine stage; runs on the device its weights are on.
        settings: thresholds and window layout.
        on_stage: called with the name of each stage as it starts (for a progress bar).

    Raises:
        TubeVoltageError: the profile has no thresholds for the scan's kVp, a tin filter, a monoenergetic image.
        ArgumentError: fewer slices than one slab takes, or a mass factor in another unit.
        EnhancedBloodError: contrast-enhanced blood.
        NoHeartError: no heart found, or most of it lies outside the scan.
    """
    settings = settings or InferenceSettings()
    profile = settings.scoring if isinstance(settings.scoring, ScoringProfile) else load_profile(settings.scoring)
    calibration = calibration_of(scan.acquisition, profile, settings.assumed_kvp)
    kvp, mass_factor = calibration.scored_kvp, calibration.mass_factor
    lowest_hu = min(profile.threshold_hu(kvp), profile.volume_threshold(kvp))
    flags = list(calibration.flags)
    slabs = None
    if settings.slab_mm is not None:
        scan, slabs = average_scan(scan, settings.slab_mm)
        flags += ["slab_averaged"] if slabs.averaged else []
    flags += quality.acquisition_flags(scan.acquisition, scan.spacing_mm, settings.quality)
    clock = _Clock(on_stage)

    with clock.stage("coarse windows"):
        grid = Grid.covering(scan.hu.shape, scan.spacing_mm, model.coarse.config.spacing_mm)
        hu_coarse = resample_scan(scan.hu, scan.spacing_mm, grid)
        layout = Layout.over(grid, model.coarse.config.patch, settings.coarse_overlap)
        windows = {"coarse_run": len(layout.starts), "fine_run": 0, "fine_skipped": 0}
        probabilities = stitch_dense(layout, coarse_predictor(model.coarse, hu_coarse, grid), settings.batch)
        structures, coronary = probabilities[: len(STRUCTURES)], probabilities[len(STRUCTURES) :]

    with clock.stage("heart"):
        try:
            heart = find_heart(structures, hu_coarse, grid, scan.hu, scan.geometry, settings.heart)
        except NoHeartError:
            quality.refuse_enhanced_without_heart(hu_coarse.numpy(), grid, settings.quality)
            raise
        blood_hu = quality.blood_pool_hu(hu_coarse.numpy(), heart)
        quality.refuse_enhanced(blood_hu, settings.quality)
        noise_hu = quality.image_noise_hu(scan, heart)
        flags += quality.image_flags(scan, heart, noise_hu, settings.quality)

    with clock.stage("candidates"):
        box = native_box(scan, heart, settings.heart_margin_mm)
        hu = scan.hu[box]
        first = np.array([s.start for s in box])
        index = np.argwhere(above(hu, lowest_hu, profile.strict))
        points = (index + first) * scan.spacing_mm
        near = heart.sample(heart.distance_mm, points) <= settings.heart_margin_mm
        index, points = index[near], points[near]
        candidates = np.zeros(hu.shape, dtype=bool)
        candidates[tuple(index.T)] = True

    with clock.stage("fine windows"):
        found = trilinear(coronary, torch.from_numpy(grid.index(points))).numpy()
        by_ventricles = quality.ventricles_plausible(heart, settings.quality)
        # what lies too far from the ventricles to be kept isn't looked at twice: the coarse network decides
        reach_mm = settings.vessel_filter_mm if by_ventricles else np.inf
        again = heart.sample(heart.ventricle_distance_mm, points) <= reach_mm
        if model.fine is not None and again.any():
            config, share = model.fine.config, settings.coarse_share
            low, high = points[again].min(0).tolist(), points[again].max(0).tolist()
            layout = Layout.over_box(low, high, config.spacing_mm, config.patch, settings.fine_overlap)
            predict = fine_predictor(model.fine, scan, structures, grid)
            prediction = stitch_points(layout, points[again], predict, len(VESSELS), settings.batch)
            found[again] = share * found[again] + (1 - share) * prediction.probabilities
            windows |= {"fine_run": prediction.windows_run, "fine_skipped": prediction.windows_skipped}

    with clock.stage("lesions"):
        p_cor = np.zeros(hu.shape, dtype=np.float32)
        vessel = np.zeros(hu.shape, dtype=np.uint8)
        p_cor[tuple(index.T)] = 1 - found[:, 0]
        vessel[tuple(index.T)] = found[:, 1:].argmax(1) + 1
        kept = vote_islands(candidates, p_cor, vessel, scan.spacing_mm, settings.tau, profile.connectivity)
        filtered = np.zeros(hu.shape, dtype=bool)
        if by_ventricles:
            offset_mm = first * scan.spacing_mm
            kept, filtered = vessel_filter(
                kept,
                lambda places: heart.sample(heart.ventricle_distance_mm, places + offset_mm),
                scan.spacing_mm,
                settings.vessel_filter_mm,
            )
        native = heart.structures_on_native(scan.spacing_mm, box)
        rejected = candidates & (kept == 0)
        reasons = reason_map(hu, rejected, native, scan.spacing_mm, kvp, profile, filtered=filtered)
        affine = scan.geometry.affine_lps
        offset = (int(first[0]), int(first[1]), int(first[2]))
        rows = lesion_table(
            hu, candidates, kept, reasons, scan.spacing_mm, kvp, profile, affine, offset, mass_factor=mass_factor
        )

    with clock.stage("score"):
        vessel_map = np.zeros(scan.hu.shape, dtype=np.uint8)
        vessel_map[box] = kept
        calcium = score(scan.hu, vessel_map, scan.spacing_mm, kvp, profile, affine, mass_factor=mass_factor)
        # what fell below the minimum area is no calcium: a picture or a segmentation mustn't show it
        weight, counted = weigh(hu, kept > 0, scan.spacing_mm, kvp, profile)
        vessel_map[box] = np.where((weight > 0) | counted, kept, 0)
        extracoronary = extracoronary_scores(hu, reasons, scan.spacing_mm, kvp, profile, mass_factor=mass_factor)

    return CaseResult(
        scan=scan,
        slabs=slabs,
        status="flagged" if flags else "ok",
        flags=tuple(flags),
        score=calcium,
        extracoronary=extracoronary,
        lesions=rows,
        vessel_map=vessel_map,
        reasons=reasons,
        box=box,
        heart=heart,
        calibration=calibration,
        blood_hu=blood_hu if np.isfinite(blood_hu) else None,
        image_noise_hu=noise_hu,
        windows=windows,
        seconds=clock.seconds,
    )


def native_box(scan: Scan, heart: Heart, margin_mm: float) -> Box:
    """The scan's voxels within ``margin_mm`` of the heart's box, as slices (z, y, x)."""
    low, high = heart.box_mm(margin_mm)
    spacing = np.array(scan.spacing_mm)
    start = np.ceil(low / spacing).clip(0).astype(int)
    stop = np.minimum(np.floor(high / spacing).astype(int) + 1, scan.hu.shape)
    return slice(int(start[0]), int(stop[0])), slice(int(start[1]), int(stop[1])), slice(int(start[2]), int(stop[2]))


def coarse_predictor(stage: Stage, hu: Tensor, grid: Grid, with_coronary: bool = True) -> Predict:
    """Structure (and coronary) probabilities of windows cut out of the coarse volume ``hu`` [z, y, x]."""

    def predict(firsts: list[Point]) -> Tensor:
        starts = np.rint(grid.index(np.array(firsts))).astype(int)
        patches = torch.stack([cut(hu, start, stage.config.patch) for start in starts.tolist()])
        out = _run(stage, patches)
        parts = [out.structures.softmax(1)] + ([out.coronary.softmax(1)] if with_coronary else [])
        return torch.cat(parts, dim=1)

    return predict


def fine_predictor(stage: Stage, scan: Scan, structures: Tensor, grid: Grid) -> Predict:
    """Coronary probabilities of windows sampled from the scan, with the coarse structures as context where asked for.

    Args:
        stage: the fine network.
        scan: sampled on the stage's spacing.
        structures: float32 [8, z, y, x] on ``grid``, the blended coarse probabilities.
        grid: the coarse grid.
    """
    step, shape = stage.config.spacing_mm, (stage.config.patch,) * 3

    def predict(firsts: list[Point]) -> Tensor:
        patches = torch.stack([sample_scan(scan.hu, scan.spacing_mm, first, step, shape) for first in firsts])
        context = None
        if stage.config.in_channels > 1:
            context = torch.stack([context_window(structures, grid, first, step, shape) for first in firsts])
        return _run(stage, patches, context).coronary.softmax(1)

    return predict


def context_window(structures: Tensor, grid: Grid, first_mm: Point, step_mm: float, shape: tuple[int, ...]) -> Tensor:
    """Structure probabilities [8, z, y, x] on ``grid`` resampled to a window: background where the grid ends."""
    relative = [a - b for a, b in zip(first_mm, grid.first_mm, strict=True)]
    window = resample(structures, (grid.step_mm,) * 3, relative, step_mm, shape, fill=0.0)
    window[0] = 1 - window[1:].sum(0)
    return window


def _run(stage: Stage, hu: Tensor, context: Tensor | None = None) -> Prediction:
    parameter = next(stage.network.parameters(), None)
    x = network_input(hu, stage.config.hu_window, context)
    with torch.inference_mode():
        return stage.network(x if parameter is None else x.to(parameter.device))
