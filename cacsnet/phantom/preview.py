"""The reference of a scan without painting the chest: calcium on the scan's grid, its near surroundings, noise.

The same bodies, the same scanner operator and the same reference rule as in a whole scan. Only the background is simpler: under
a plaque lie blood (in the arteries and inside the surface of chambers and great vessels) and fat elsewhere, on a 1 mm lattice;
noise has the protocol's SD everywhere. There are no veins, no lung and no other tissue.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from scipy.spatial import cKDTree
from scipy.special import ndtr

from cacsnet.labels import VESSEL_NAMES
from cacsnet.phantom.anatomy import Patient
from cacsnet.phantom.calcium import NOMINAL
from cacsnet.phantom.deposits import (
    REFERENCE_MINIMUM_HU,
    Body,
    CalciumImage,
    Deposit,
    image_bodies,
    place,
    reference_owner,
)
from cacsnet.phantom.heart import Artery, resample
from cacsnet.phantom.scan import PhantomScan
from cacsnet.scanner.imaging import CALCIUM_HU_PER_MG_CC, Protocol, noise
from cacsnet.scoring import load_profile
from cacsnet.scoring.agatston import NORMAL_INCREMENT_MM
from cacsnet.scoring.islands import islands

RULES = load_profile("smartscore")
"""The profile that reference scores follow."""

DENSEST_MG_CC = 1500.0

SEEN_HU = 5.0
"""Voxels where calcium adds less can't become reference."""


def preview_scan(
    patient: Patient, arteries: Sequence[Artery], bodies: Sequence[Body], protocol: Protocol, seed: int
) -> PhantomScan:
    """Scan and truth on the part of the grid around the coronary calcium; what lies beyond it is left out."""
    coronary = [body.points for body in bodies if body.deposit.owner <= len(VESSEL_NAMES)]
    if not coronary:
        tiny = replace(protocol.still(), shape=(1, 1, 1))
        return PhantomScan(np.full((1, 1, 1), -100, np.int16), np.zeros((1, 1, 1), np.uint8), tiny)
    crop = cropped(protocol, np.concatenate(coronary))
    calcium = image_bodies(bodies, crop)
    added = calcium.added_hu.sum(0)
    seen = added > SEEN_HU
    hu = np.full(int(np.prod(crop.shape)), -100.0, np.float32)
    hu[calcium.index[seen]] = added[seen] + background_hu(patient, arteries, crop, calcium.index[seen])
    volume = hu.reshape(crop.shape) + noise(crop, torch.Generator().manual_seed(seed)).numpy()
    return PhantomScan(np.clip(np.rint(volume), -1024, 3071).astype(np.int16), reference_owner(calcium, crop.shape), crop)


def cropped(protocol: Protocol, points: np.ndarray) -> Protocol:
    """The same scan of the surroundings of points [n, 3] (patient mm), in one beat."""
    spacing, origin = np.array(protocol.spacing_mm), np.array(protocol.origin_mm)
    margin = np.array(protocol.reach_mm) + 3
    low = np.maximum(np.floor((points.min(0) - margin - origin) / spacing).astype(int), 0)
    high = np.minimum(np.ceil((points.max(0) + margin - origin) / spacing).astype(int) + 1, protocol.shape)
    z, y, x = (origin + low * spacing).tolist()
    slices, rows, columns = np.maximum(high - low, 1).tolist()
    return replace(protocol, shape=(slices, rows, columns), origin_mm=(z, y, x), slab_slices=0, slab_shifts_mm=())


def background_hu(patient: Patient, arteries: Sequence[Artery], protocol: Protocol, voxels: np.ndarray) -> np.ndarray:
    """Noise-free HU [n] of flat voxels [n] without calcium: the anatomy averaged over slice profile and point spread."""
    index = np.stack(np.unravel_index(voxels, protocol.shape), 1)
    centres = np.array(protocol.origin_mm) + index * protocol.spacing_mm
    # 5 samples of the slice; in-plane 7 that integrate a Gaussian exactly up to degree 5
    sigma = protocol.fwhm_mm / 2.355
    turn = np.arange(6) * np.pi / 3
    flat = np.concatenate([[[0.0, 0.0]], 2 * sigma * np.stack([np.cos(turn), np.sin(turn)], 1)])
    weight = np.tile([0.5] + [1 / 12] * 6, 5) / 5
    through = np.repeat((np.arange(5) - 2) / 5 * protocol.thickness_mm, 7)
    samples = (centres[:, None] + np.concatenate([through[:, None], np.tile(flat, (5, 1))], 1)).reshape(-1, 3)
    nodes, of = np.unique(np.rint(samples).astype(np.int32), axis=0, return_inverse=True)
    return tissue_hu(patient, arteries, nodes.astype(float))[of.ravel()].reshape(len(voxels), -1) @ weight


def tissue_hu(patient: Patient, arteries: Sequence[Artery], points: np.ndarray) -> np.ndarray:
    """Blood or fat [n] at points [n, 3] (patient mm), with edges of 1 mm."""
    heart = patient.to_heart(patient.to_thorax(torch.from_numpy(np.ascontiguousarray(points.T)).float()))
    solid = patient.heart.solid_sdf(heart).numpy() * patient.heart_scale
    lines = [resample(artery.line, 0.5) for artery in arteries]
    radii = [
        np.interp(np.linspace(0, 1, len(line)), np.linspace(0, 1, len(a.radii)), a.radii)
        for line, a in zip(lines, arteries, strict=True)
    ]
    distance, nearest = cKDTree(np.concatenate(lines)).query(heart.numpy().T)
    lumen = (distance - np.concatenate(radii)[nearest]) * patient.heart_scale
    tissue = patient.tissue

    def cover(sdf: np.ndarray) -> np.ndarray:
        return np.clip(0.5 - sdf, 0, 1)

    hu = tissue.fat + (tissue.blood - tissue.fat) * cover(solid)
    hu += (tissue.fat - hu) * cover(lumen - patient.sheath_mm)
    return hu + (tissue.blood - hu) * cover(lumen)


# -- meeting a target -------------------------------------------------------------------------------------------------


def meet_targets(
    patient: Patient,
    arteries: Sequence[Artery],
    plaques: Sequence[Deposit],
    targets: Mapping[str, float],
    protocols: Sequence[Protocol] = (),
) -> list[Deposit]:
    """Plaques whose density is scaled, per vessel, so that scans are expected to measure ``targets`` (Agatston).

    :func:`cacsnet.phantom.calcium.draw_plaques` adds up bodies that it images alone on an assumed background; here all of them
    are imaged together on their own background. What lies between half and twice the density drawn can be met.

    Args:
        protocols: the scans whose mean is to meet the targets; none: the nominal scan.
    """
    if not plaques:
        return list(plaques)
    bodies = place(patient, plaques)
    points = np.concatenate([body.points for body in bodies])
    vessels = sorted({d.owner for d in plaques})
    wanted = np.array([targets[VESSEL_NAMES[v - 1]] for v in vessels])
    images = []
    for protocol in [cropped(p, points) for p in protocols] or [nominal_protocol(points, phase) for phase in (0.0, 0.5)]:
        whole = image_bodies(bodies, protocol)
        some = whole.added_hu.max(0) >= REFERENCE_MINIMUM_HU / 2  # at twice the density this is enough
        calcium = CalciumImage(whole.index[some], whole.added_hu[:, some], whole.owners)
        images.append((protocol, calcium, background_hu(patient, arteries, protocol, calcium.index)))

    def expected(factors: np.ndarray) -> np.ndarray:
        return np.mean([expected_score(*image, factors) for image in images], 0)

    low, high = np.full(len(vessels), 0.5), np.full(len(vessels), 2.0)
    for _ in range(9):
        middle = np.sqrt(low * high)
        much = expected(middle) > wanted
        low, high = np.where(much, low, middle), np.where(much, middle, high)
    factor = dict(zip(vessels, np.sqrt(low * high), strict=True))
    return [replace(d, density=np.minimum(d.density * factor[d.owner], DENSEST_MG_CC)) for d in plaques]


def nominal_protocol(points: np.ndarray, phase: float) -> Protocol:
    """The scan for which targets hold (:data:`cacsnet.phantom.calcium.NOMINAL`), around points [n, 3] (patient mm)."""
    dz, pixel = NOMINAL.increment_mm, 0.488
    low = points.min(0) - 6 - np.array([phase * dz, 0, 0])
    shape = np.ceil((points.max(0) + 6 - low) / (dz, pixel, pixel)).astype(int)
    z, y, x = low.tolist()
    return Protocol(
        (dz, pixel, pixel), tuple(shape.tolist()), (z, y, x), dz, fwhm_mm=NOMINAL.fwhm_mm, noise_hu=NOMINAL.noise_hu,
        calcium_scale=NOMINAL.hu_per_mg_cc / CALCIUM_HU_PER_MG_CC[120],
    )  # fmt: skip


def expected_score(protocol: Protocol, calcium: CalciumImage, background: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Expected Agatston [owners] with each owner's calcium times its factor.

    The noise's effect on threshold and peak is taken in expectation.

    Args:
        background: HU [n] without calcium at the voxels of ``calcium``.
    """
    edges, noise_hu = np.array(RULES.bands(protocol.kvp)), protocol.noise_hu
    added = calcium.added_hu * factors[:, None]
    total = background + added.sum(0)
    seen = (added.max(0) >= REFERENCE_MINIMUM_HU) & (total > edges[0] - 2 * noise_hu)
    hu = np.full(protocol.shape, -1000.0, np.float32)
    hu.reshape(-1)[calcium.index[seen]] = total[seen]
    label = islands(hu > edges[0] - noise_hu).reshape(-1)[calcium.index[seen]]
    area = ndtr((total[seen] - edges[0]) / noise_hu) * protocol.spacing_mm[1] * protocol.spacing_mm[2]
    count = int(label.max(initial=0)) + 1
    peak = np.full(count, -1000.0)
    np.maximum.at(peak, label, total[seen])
    weight = 1 + ndtr((peak[:, None] + NOMINAL.peak_noise * noise_hu - edges[1:]) / (0.6 * noise_hu)).sum(1)
    weight *= ndtr((np.bincount(label, area, count) - NOMINAL.island_mm2) / NOMINAL.island_spread_mm2)
    weight[0] = 0
    score = np.bincount(added[:, seen].argmax(0), area * weight[label], len(factors))
    return score * protocol.spacing_mm[0] / NORMAL_INCREMENT_MM
