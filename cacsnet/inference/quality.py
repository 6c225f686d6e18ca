"""Is this a scan that may be scored? Contrast is refused; whatever else weakens a score is flagged by a short word."""

from __future__ import annotations

import re

import cc3d
import numpy as np
from scipy import ndimage

from cacsnet.errors import EnhancedBloodError
from cacsnet.inference.localise import Heart, between_lungs
from cacsnet.inference.settings import QualitySettings
from cacsnet.inference.windows import Grid
from cacsnet.labels import STRUCTURE_INDEX
from cacsnet.scan import Acquisition, Scan

SOFT_HU = (-20.0, 700.0)  # blood with or without contrast, muscle; neither fat nor lung nor cortical bone
BRIGHT_HU = (120.0, 700.0)
NOISE_RADIUS_MM = 10.0
NEAR_HEART_MM = 10.0


def blood_pool_hu(hu: np.ndarray, heart: Heart) -> float:
    """HU of the blood in the heart's centre and near the great vessels, without asking the structure branch.

    In the middle (in-plane) of the heart's box, below and above its centre, the median HU of a 15 mm cube is taken at
    every place well inside soft tissue. The upper decile of these medians is blood: without contrast all are alike;
    with contrast the myocardium is darker, and early after the injection only one half of the heart is bright.

    Args:
        hu: float32 [z, y, x] on the coarse grid.
        heart: the localised heart.

    Returns:
        HU; nan if there is no soft tissue.
    """
    step = heart.grid.step_mm
    low, high = heart.box_mm()
    middle, half = (low + high) / 2, (high - low) / 2
    start = np.ceil(heart.grid.index(middle - half * (0.75, 0.6, 0.6))).clip(0).astype(int)
    stop = np.floor(heart.grid.index(middle + half * (0.95, 0.6, 0.6))).astype(int) + 1
    part = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    region = hu[part]
    if region.size == 0:
        return float("nan")
    soft = (region > SOFT_HU[0]) & (region < SOFT_HU[1])
    # the box of a heart with strays may hold bone
    inner = ndimage.binary_erosion(soft, border_value=1) & (heart.distance_mm[part] <= NEAR_HEART_MM)
    medians = ndimage.median_filter(np.where(soft, region, 0), size=max(3, round(15 / step) | 1), mode="nearest")[inner]
    return float(np.percentile(medians, 90)) if medians.size else float("nan")


def refuse_enhanced(blood_hu: float, settings: QualitySettings) -> None:
    """Raise EnhancedBloodError from ``enhanced_hu`` on."""
    if blood_hu >= settings.enhanced_hu:
        raise EnhancedBloodError(
            "the blood is contrast-enhanced: calcium can't be scored", field="blood_hu", value=round(blood_hu)
        )


def refuse_enhanced_without_heart(hu: np.ndarray, grid: Grid, settings: QualitySettings) -> None:
    """A network that never saw contrast may not find an enhanced heart: say so rather than "no heart".

    Args:
        hu: float32 [z, y, x] on the coarse grid.
        grid: the coarse grid.
        settings: thresholds.

    Raises:
        EnhancedBloodError: a bright compartment between the lungs is large, with nothing brighter (bone) around it.
    """
    bright = ndimage.binary_erosion((hu > BRIGHT_HU[0]) & (hu < BRIGHT_HU[1]), iterations=max(1, round(3 / grid.step_mm)))
    components = cc3d.connected_components(bright, connectivity=6)
    between = between_lungs(hu, grid.step_mm, reach_mm=150.0)
    volumes = np.bincount(components.ravel()) * grid.step_mm**3 / 1000
    for component in np.flatnonzero(volumes > settings.enhanced_ml):
        if component == 0:
            continue
        mask = components == component
        # the eroded rim: cortical bone is brighter than what it encloses, heart muscle is darker than blood
        shell = ndimage.binary_dilation(mask, iterations=2) & ~mask
        median = float(np.median(hu[mask]))
        if between[mask].mean() > 0.5 and (hu[shell] > median + 50).mean() < 0.15:
            raise EnhancedBloodError(
                "the blood is contrast-enhanced: calcium can't be scored", field="blood_hu", value=round(median)
            )


def image_noise_hu(scan: Scan, heart: Heart) -> float | None:
    """SD of HU in a region of interest in the left ventricle, averaged over three consecutive slices (the paper's).

    The circle lies where the left ventricle's blood pool is widest, 3 mm inside it. None where it has no room.
    """
    pool = heart.structures == STRUCTURE_INDEX["left_ventricle"]
    if not pool.any():
        return None
    depth = ndimage.distance_transform_edt(np.pad(pool, 1), sampling=heart.grid.step_mm)[1:-1, 1:-1, 1:-1]
    centre = np.array(np.unravel_index(int(depth.argmax()), depth.shape))
    radius = min(NOISE_RADIUS_MM, float(depth.max()) - 3.0)
    dz, dy, dx = scan.spacing_mm
    z, y, x = np.array(heart.grid.first_mm) + centre * heart.grid.step_mm
    middle = int(np.clip(round(z / dz), 1, max(1, scan.hu.shape[0] - 2)))
    rows, columns = np.arange(scan.hu.shape[1]) * dy - y, np.arange(scan.hu.shape[2]) * dx - x
    roi = rows[:, None] ** 2 + columns**2 <= max(radius, 0) ** 2
    if roi.sum() < 20:
        return None
    slices = scan.hu[max(middle - 1, 0) : middle + 2]
    return float(np.mean([s[roi].std() for s in slices.astype(np.float32)]))


def acquisition_flags(acquisition: Acquisition, spacing_mm: tuple[float, float, float], settings: QualitySettings) -> list[str]:
    """Flags that the header alone gives: contrast_tag, non_gated, gating_unknown, thickness, coarse_pixels,
    sharp_kernel, iterative_reconstruction, multi_energy, tin_filter and virtual_image (these two can't be scored)."""
    low, high = settings.thickness_mm
    thicknesses = [spacing_mm[0]] + ([acquisition.slice_thickness_mm] if acquisition.slice_thickness_mm else [])
    kernel = (acquisition.kernel or "").split("\\")[0].strip()
    sharp = any(re.fullmatch(pattern, kernel, re.IGNORECASE) for pattern in settings.sharp_kernels)
    found = {
        "contrast_tag": acquisition.contrast_agent is not None,
        "non_gated": acquisition.gated is False,
        "gating_unknown": acquisition.gated is None,
        "thickness": any(not low <= t <= high for t in thicknesses),
        "coarse_pixels": max(spacing_mm[1:]) > settings.max_pixel_mm,
        "sharp_kernel": bool(kernel) and sharp,
        "iterative_reconstruction": acquisition.iterative_reconstruction is True,
        "multi_energy": acquisition.multi_energy is True,
        "tin_filter": acquisition.tin_filter is True,
        "virtual_image": acquisition.virtual_image is not None,
    }
    return [name for name, holds in found.items() if holds]


def image_flags(scan: Scan, heart: Heart, noise_hu: float | None, settings: QualitySettings) -> list[str]:
    """Flags that need the image: heart_cut_off_z, heart_cut_off_fov, noise_high, metal_suspected,
    ventricle_implausible."""
    flags = list(heart.flags)
    if noise_hu is not None and noise_hu >= settings.noise_hu:
        flags.append("noise_high")
    if _metal(scan, heart, settings):
        flags.append("metal_suspected")
    if not ventricles_plausible(heart, settings):
        flags.append("ventricle_implausible")
    return flags


def ventricles_plausible(heart: Heart, settings: QualitySettings) -> bool:
    """Whether the ventricles are of a size that the vessel filter may measure from."""
    low, high = settings.ventricles_ml
    return low <= heart.ventricles_ml <= high


def _metal(scan: Scan, heart: Heart, settings: QualitySettings) -> bool:
    bright = np.argwhere(scan.hu >= settings.metal_hu)
    if len(bright) == 0:
        return False
    inside = heart.sample(heart.distance_mm, bright * scan.spacing_mm) <= heart.grid.step_mm
    bright = bright[inside]
    if len(bright) == 0:
        return False
    low = bright.min(0)
    mask = np.zeros(bright.max(0) - low + 1, dtype=bool)
    mask[tuple((bright - low).T)] = True
    sizes = np.bincount(cc3d.connected_components(mask, connectivity=26).ravel())[1:]
    return bool((sizes * scan.geometry.voxel_volume_mm3 >= settings.metal_mm3).any())
