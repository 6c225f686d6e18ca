"""What a painted phantom and its scan measure: volumes, calibres, HU, noise, Agatston.

Everything is read off arrays (labels, coronary artery area, HU), never off the generator's parameters. Arrays are [z, y, x]:
z to the head, y to the back, x to the left.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from phantom_vessels import Tube, arc_mm, calibres_mm, length_mm, planes
from scipy import ndimage
from scipy.ndimage import distance_transform_edt

from cacsnet.labels import STRUCTURE_INDEX, VESSEL_INDEX, VESSEL_NAMES
from cacsnet.scoring import score

AREA_MARGIN_MM = 1.5
"""What the label "coronary artery area" lies outside the lumen, by its definition."""

MUSCLE_G_ML = 1.05
"""Density of myocardium."""


@dataclass(frozen=True)
class Painted:
    """A painted box: ``hu`` float32, ``structures`` and ``area`` uint8 [z, y, x], voxel ``step_mm``, place of voxel 0."""

    hu: np.ndarray
    structures: np.ndarray
    area: np.ndarray
    step_mm: float
    origin_mm: tuple[float, float, float]

    def label(self, *names: str) -> np.ndarray:
        found: np.ndarray = np.isin(self.structures, [STRUCTURE_INDEX[name] for name in names])
        return found

    def thinned(self, step_mm: float = 1.5) -> Painted:
        """Every n-th voxel, so that they are about ``step_mm`` wide: enough for distances of many mm, and much faster."""
        n = max(1, round(step_mm / self.step_mm))
        volumes = (volume[::n, ::n, ::n] for volume in (self.hu, self.structures, self.area))
        return Painted(*volumes, step_mm=n * self.step_mm, origin_mm=self.origin_mm)


CHAMBERS = ("left_ventricle", "right_ventricle", "left_atrium", "right_atrium", "myocardium")


def away(mask: np.ndarray, step_mm: float) -> np.ndarray:
    """Distance (mm) to the nearest voxel of a mask; infinity if it is empty."""
    return distance_transform_edt(~mask) * step_mm if mask.any() else np.full(mask.shape, np.inf)


def depth(mask: np.ndarray, step_mm: float) -> np.ndarray:
    """Distance (mm) of a mask's voxels to the nearest voxel outside it, 0 outside."""
    out = np.zeros(mask.shape)
    for box in ndimage.find_objects(mask.astype(np.uint8)):  # one box around all of it: the rest is zero anyway
        wide = tuple(slice(max(0, side.start - 1), side.stop + 1) for side in box)
        out[wide] = distance_transform_edt(mask[wide]) * step_mm
    return out


def largest(mask: np.ndarray) -> np.ndarray:
    """Largest 6-connected component."""
    label, count = ndimage.label(mask)
    return mask if count < 2 else label == 1 + int(np.bincount(label.ravel())[1:].argmax())


# -- chambers and great vessels ---------------------------------------------------------------------------------------


def chambers(painted: Painted) -> dict[str, float]:
    """Volumes (mL), mass of the left ventricle (g), its wall (mm); all chambers with their clefts filled (mL)."""
    ml = painted.step_mm**3 / 1000
    out = {f"{name}_ml": float(painted.label(name).sum()) * ml for name in CHAMBERS[:4]}
    out["lv_mass_g"] = float(painted.label("myocardium").sum()) * ml * MUSCLE_G_ML
    thin = painted.thinned()
    out["lv_wall_mm"] = wall_mm(thin.label("left_ventricle"), thin.label("myocardium"), thin.step_mm)
    out["heart_ml"] = float(closed(thin.label(*CHAMBERS), 12.0, thin.step_mm).sum()) * thin.step_mm**3 / 1000
    return out


def wall_mm(cavity: np.ndarray, wall: np.ndarray, step_mm: float) -> float:
    """Thickness of a wall around a cavity: median distance from the cavity's surface through the wall to the outside."""
    rim = cavity & ndimage.binary_dilation(wall)
    if not rim.any():
        return float("nan")
    # the rim's centres lie about half a voxel inside the cavity; the nearest centre outside lies just beyond the wall
    return float(np.median(depth(cavity | wall, step_mm)[rim])) - 0.5 * step_mm


def closed(mask: np.ndarray, radius_mm: float, step_mm: float) -> np.ndarray:
    """A mask with clefts narrower than twice the radius filled."""
    pad = int(np.ceil(radius_mm / step_mm)) + 1
    wide = np.pad(mask, pad)
    grown = away(wide, step_mm) <= radius_mm
    inner = depth(grown, step_mm) > radius_mm
    out: np.ndarray = inner[tuple(slice(pad, -pad) for _ in range(3))] | mask
    return out


def aorta(painted: Painted) -> dict[str, float]:
    """Widest calibre of the root (mm), and calibre of the ascending aorta at the level of the right pulmonary artery."""
    mask = largest(painted.label("aorta"))
    line, calibre = great_vessel(mask, painted.label("left_ventricle"), painted.step_mm)
    if len(line) < 30:
        return {}
    arc = arc_mm(line)
    steady = ndimage.median_filter(np.nan_to_num(calibre), 7)  # not one oblique plane
    out = {"aortic_root_mm": float(steady[(arc > 3) & (arc < 28)].max())}
    lung_artery = painted.label("pulmonary_artery")
    if lung_artery.any():
        # the right pulmonary artery is where the label reaches farthest to the right
        voxels = np.argwhere(lung_artery)
        level = np.median(voxels[voxels[:, 2] <= np.quantile(voxels[:, 2], 0.2), 0]) * painted.step_mm
        near = (np.abs(line[:, 0] - level) < 6) & (arc > 28)
        if near.any():
            out["ascending_aorta_mm"] = float(np.nanmedian(calibre[near]))
    return out


def pulmonary_trunk(painted: Painted) -> dict[str, float]:
    """Calibre (mm) of the pulmonary trunk: median over 8 to 24 mm above the valve."""
    mask = largest(painted.label("pulmonary_artery"))
    line, calibre = great_vessel(mask, painted.label("right_ventricle"), painted.step_mm)
    arc = arc_mm(line) if len(line) else np.zeros(0)
    near = (arc > 8) & (arc < 24)
    return {"pulmonary_trunk_mm": float(np.nanmedian(calibre[near]))} if near.any() else {}


def great_vessel(mask: np.ndarray, chamber: np.ndarray, step_mm: float) -> tuple[np.ndarray, np.ndarray]:
    """Centre line [n, 3] of a great vessel from its chamber to the far end, and its calibre [n]; on at least 1.5 mm voxels."""
    if not mask.any() or not chamber.any():
        return np.zeros((0, 3)), np.zeros(0)
    thin = max(1, round(1.5 / step_mm))
    coarse, step = mask[::thin, ::thin, ::thin], step_mm * thin
    tube = Tube.of(coarse, step)
    gap = away(chamber[::thin, ::thin, ::thin], step)[tuple(tube.voxels.T)]
    # begin in the middle of the face that touches the chamber
    face = np.flatnonzero(gap <= gap.min() + 2 * step)
    start = int(face[tube.depth_mm[face].argmax()])
    line = tube.way(start, np.arange(len(tube.voxels)))
    if len(line) < 3:
        return line, np.zeros(len(line))
    return line, calibres_mm(mask, line, step_mm, 30.0)


# -- coronary arteries ------------------------------------------------------------------------------------------------

IN_GROOVE_MM = 16.0
"""Circumflex and right coronary artery run in their atrioventricular groove as long as they lie this close to its atrium, the
LAD in the interventricular groove as long as it does to the right ventricle; diagonals, marginals, the posterior descending and
the posterolateral artery leave it."""


@dataclass(frozen=True)
class Course:
    """Centre line [n, 3] (mm from voxel 0) of a main vessel from the aorta on, which vessel label each point has, and the
    diameter of the lumen there (mm)."""

    line: np.ndarray
    label: np.ndarray
    lumen: np.ndarray


def courses(painted: Painted) -> dict[str, Course]:
    """Main courses: LAD and LCX with the left main before them, RCA (to where it leaves the atrium, and to its end)."""
    thin = painted.thinned()

    def gap_mm(*names: str) -> np.ndarray:
        return away(thin.label(*names), thin.step_mm)

    def at_mm(gaps: np.ndarray, places_mm: np.ndarray) -> np.ndarray:
        found: np.ndarray = ndimage.map_coordinates(gaps, places_mm.T / thin.step_mm, order=1, mode="nearest")
        return found

    aorta_mm = gap_mm("aorta")
    half = 0.5 * (fat_hu(thin) + float(thin.hu[thin.label("aorta")].mean())) if thin.label("aorta").any() else 0.0
    out = {}
    wanted: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
        ("LAD", ("LM", "LAD"), ("right_ventricle",)),
        ("LCX", ("LM", "LCX"), ("left_atrium",)),
        ("RCA", ("RCA",), ("right_atrium",)),
        ("RCA_PDA", ("RCA",), ()),
    )
    for name, labels, groove in wanted:
        mask = np.isin(painted.area, [VESSEL_INDEX[v] for v in labels])
        first = painted.area == VESSEL_INDEX[labels[0]]
        if not (first.any() and (painted.area == VESSEL_INDEX[labels[-1]]).any()):
            continue
        tube = Tube.of(mask, painted.step_mm)
        at = tuple(tube.voxels.T)
        stem = np.flatnonzero(painted.area[at] == VESSEL_INDEX[labels[0]])
        places = tube.voxels * painted.step_mm
        gap = at_mm(aorta_mm, places[stem])
        # the ostium: where the stem leaves the aorta, in its middle
        face = stem[gap <= gap.min() + 1.5]
        start = int(face[tube.depth_mm[face].argmax()])
        ends = painted.area[at] == VESSEL_INDEX[labels[-1]]
        if groove:
            ends &= at_mm(gap_mm(*groove), places) <= IN_GROOVE_MM
        line = tube.way(start, np.flatnonzero(ends))
        if len(line) < 10:
            continue
        outside = at_mm(aorta_mm, line) > 0.75
        line = line[int(outside.argmax()) :]
        index = tuple(np.round(line / painted.step_mm).astype(int).T)
        label = painted.area[index]
        calibre = np.full(len(line), np.nan)
        for vessel in labels:  # of the vessel's own area: at a bifurcation the others lie in the same plane
            mine = label == VESSEL_INDEX[vessel]
            if mine.any():
                lumen = lumens_mm(painted.hu, painted.area == VESSEL_INDEX[vessel], half, line, painted.step_mm)
                calibre[mine] = lumen[mine]
        if name in ("LAD", "RCA_PDA"):  # the way ends at the tip of the cap that the area adds to the artery's end
            line, index, calibre = _without_cap(line, index, calibre)
        if len(line) >= 10:
            out[name] = Course(line, painted.area[index], calibre)
    return out


def lumens_mm(hu: np.ndarray, area: np.ndarray, half_hu: float, line: np.ndarray, step_mm: float) -> np.ndarray:
    """Lumen diameter [n] along a centre line: the narrow axis of what is brighter than ``half_hu`` (midway between fat and
    blood) in the cross section, within the coronary artery area, and hangs together with the line (to 1.2 mm).

    The narrow axis is that of the ellipse with the same second moments: a branch in the plane and a plane that isn't quite
    perpendicular make the cross section longer, not broader.
    """
    pixel = 0.25
    inside = planes(hu, line, step_mm, 5.0, pixel) > half_hu
    inside &= planes(area.view(np.uint8), line, step_mm, 5.0, pixel) > 0.5
    middle = inside.shape[1] // 2
    reach = np.hypot(*np.indices(inside.shape[1:]) - middle) * pixel
    out = np.full(len(line), np.nan)
    for k, plane in enumerate(inside):
        label, _ = ndimage.label(plane)
        near = np.where(plane, reach, np.inf)
        best = int(near.argmin())
        if near.flat[best] <= 1.2:
            mine = np.argwhere(label == label.flat[best]) * pixel
            if len(mine) > 4:
                out[k] = 4 * np.sqrt(np.linalg.eigvalsh(np.cov(mine.T, bias=True))[0] + pixel**2 / 12)
    return out


def fat_hu(painted: Painted) -> float:
    """Mean HU of fat within 10 mm of the chambers, away from its edges."""
    gap = away(painted.label(*CHAMBERS), painted.step_mm)
    inner = depth((painted.hu > -250) & (painted.hu < -20) & (gap < 10), painted.step_mm) > painted.step_mm
    return float(painted.hu[inner].mean()) if inner.sum() > 20 else float("nan")


def _without_cap(line: np.ndarray, index: tuple, calibre: np.ndarray) -> tuple[np.ndarray, tuple, np.ndarray]:  # type: ignore[type-arg]
    """The area ends in a half ball of its own radius around the artery's end; the way goes to its tip."""
    arc = arc_mm(line)
    before = calibre[(arc > arc[-1] - 12) & (arc < arc[-1] - 5)]
    cap = AREA_MARGIN_MM + (0.5 * float(np.nanmedian(before)) if np.isfinite(before).any() else 0.0)
    keep = arc <= arc[-1] - cap
    return line[keep], tuple(i[keep] for i in index), calibre[keep]


def coronaries(painted: Painted, found: dict[str, Course] | None = None) -> dict[str, float]:
    """Lengths and lumen diameters (mm), and how many area voxels don't hang together with a main vessel (share)."""
    found = courses(painted) if found is None else found
    out: dict[str, float] = {}
    for name, course in found.items():
        own = name if name != "RCA_PDA" else "RCA"
        mine = course.label == VESSEL_INDEX[own]
        steps = np.linalg.norm(np.diff(course.line, axis=0), axis=1)
        out[f"{name}_length_mm"] = float(steps[mine[1:]].sum())
        if name == "RCA_PDA":
            continue
        own_line = course.line[mine]
        out[f"{name}_tortuosity"] = length_mm(own_line) / float(np.linalg.norm(own_line[-1] - own_line[0]))
        lumen = course.lumen
        arc = np.concatenate([[0.0], np.cumsum(steps * mine[1:])])
        out[f"{name}_proximal_mm"] = _middle(lumen[mine & (arc >= 4) & (arc <= 16)])
        if name == "LAD":
            out["LAD_distal_mm"] = _middle(lumen[mine & (arc >= 0.85 * arc[-1]) & (arc <= arc[-1] - 3)])
            out["LAD_middle_mm"] = _middle(lumen[mine & (np.abs(arc - 0.5 * arc[-1]) <= 8)])
            stem = course.label == VESSEL_INDEX["LM"]
            out["LM_length_mm"] = length_mm(course.line[stem])
            on_stem = arc_mm(course.line[stem]) if stem.any() else np.zeros(0)
            inner = (on_stem > 0.25 * on_stem[-1:]) & (on_stem < 0.7 * on_stem[-1:]) if len(on_stem) else on_stem > 0
            out["LM_mm"] = _middle(lumen[stem][inner])
        if name == "RCA":
            out["RCA_middle_mm"] = _middle(lumen[mine & (np.abs(arc - 0.5 * arc[-1]) <= 8)])
    return {key: value for key, value in out.items() if np.isfinite(value)}


BESIDE: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "LAD": (("left_ventricle", "myocardium"), ("right_ventricle",)),
    "LCX": (("left_ventricle", "myocardium"), ("left_atrium",)),
    "RCA": (("right_ventricle",), ("right_atrium",)),
}
"""The chambers whose groove a vessel runs in."""


def off_groove(painted: Painted, found: dict[str, Course]) -> dict[str, float]:
    """How far (mm) the middle of LAD, LCX and RCA (20 to 80 % of it) lies from the farther of its two chambers, mean."""
    thin = painted.thinned()
    out = {}
    for name, sides in BESIDE.items():
        if name not in found:
            continue
        line = found[name].line[found[name].label == VESSEL_INDEX[name]]
        line = line[round(0.2 * len(line)) : round(0.8 * len(line))] / thin.step_mm
        gaps = [away(thin.label(*side), thin.step_mm) for side in sides]
        at = [ndimage.map_coordinates(gap, line.T, order=1, mode="nearest") for gap in gaps]
        out[f"{name}_off_groove_mm"] = float(np.maximum(*at).mean()) if len(line) else float("nan")
    return {key: value for key, value in out.items() if np.isfinite(value)}


NEAR_BOTH_MM, FROM_AORTA_MM = 12.0, 30.0
"""The posterior interventricular groove lies this close to both ventricles, this far from the aorta."""


def left_dominant(painted: Painted) -> float | None:
    """1 if more of the artery in the posterior interventricular groove has the LCX's label than the RCA's, else 0; None
    without any."""
    thin = painted.thinned()
    gaps = [
        away(thin.label(*names), thin.step_mm) for names in (("right_ventricle",), ("left_ventricle", "myocardium"), ("aorta",))
    ]
    groove = (gaps[0] <= NEAR_BOTH_MM) & (gaps[1] <= NEAR_BOTH_MM) & (gaps[2] > FROM_AORTA_MM)
    left, right = (int((thin.area[groove] == VESSEL_INDEX[name]).sum()) for name in ("LCX", "RCA"))
    return float(left > right) if left + right else None


def _middle(values: np.ndarray) -> float:
    return float(np.nanmedian(values)) if np.isfinite(values).any() else float("nan")


# -- tissues ----------------------------------------------------------------------------------------------------------


def heart_tissues(painted: Painted) -> dict[str, float]:
    """Mean HU of blood, myocardium and the fat around the heart in a fine painted box."""
    thin = painted.thinned()
    out = {"epicardial_fat_hu": fat_hu(thin)}
    for name, label, margin in (("blood", "left_ventricle", 4.0), ("myocardium", "myocardium", 2.5)):
        inner = depth(thin.label(label), thin.step_mm) > margin
        if inner.any():
            out[f"{name}_hu"] = float(thin.hu[inner].mean())
    return {key: value for key, value in out.items() if np.isfinite(value)}


def body_tissues(painted: Painted) -> dict[str, float]:
    """HU of lung (median), liver, muscle (means) in a wide painted box of about 2 mm."""
    hu, step = painted.hu, painted.step_mm
    out = {}
    body = largest(hu > -300)
    filled = np.stack([ndimage.binary_fill_holes(s) for s in body])
    lung = (hu < -600) & filled
    inner = depth(lung, step) > 6
    if inner.any():
        out["lung_hu"] = float(np.median(hu[inner]))
    soft = (hu > -10) & (hu < 110)
    heart = painted.structures > 0
    if not heart.any() or not lung.any():
        return out
    middle = np.argwhere(heart).mean(0)
    z, _, x = np.indices(hu.shape, sparse=True)
    below = soft & (away(heart, step) > 8) & (z < middle[0]) & (x < middle[2])
    deep = largest(depth(below, step) > 8)
    if deep.sum() * step**3 > 5000:
        out["liver_hu"] = float(hu[deep].mean())
    back = np.zeros(hu.shape, bool)
    for k, one in enumerate(lung):
        rows = np.flatnonzero(one.any(1))
        if len(rows):
            back[k, int(rows[-1]) + round(4 / step) :] = True
    muscle = depth(soft & back, step) > 3.5
    if muscle.sum() > 50:
        out["muscle_hu"] = float(hu[muscle].mean())
    return out


def spine_place(painted: Painted) -> tuple[float, float] | None:
    """Voxel (y, x) of the middle of the vertebral bodies in a wide painted box: the midline bone behind the heart."""
    heart = np.argwhere(painted.structures > 0)
    if not len(heart):
        return None
    low, high = np.quantile(heart[:, 0], [0.2, 0.8]).astype(int)
    bone = (painted.hu[low:high] > 150).mean(0)  # share of the slices with bone there
    middle = heart.mean(0)
    y, x = np.indices(bone.shape)
    behind = (y > np.quantile(heart[:, 1], 0.98) - 10 / painted.step_mm) & (np.abs(x - middle[2]) * painted.step_mm < 60)
    mass = ndimage.gaussian_filter(bone * behind, 10 / painted.step_mm)
    if not mass.any():
        return None
    best = np.unravel_index(int(mass.argmax()), mass.shape)
    return float(best[0]), float(best[1])


def bone_tissues(painted: Painted) -> dict[str, float]:
    """Mean HU of trabecular bone, and HU of cortical bone, in a fine painted box (about 0.75 mm) around the spine.

    As a reader places it: a circle of 8 mm radius in the middle of a vertebral body, 14 mm behind its front, 4 mm and more away
    from cortex and end plates. Cortical: 90th percentile of the front's outermost 2.5 mm (its middle; the edges are blurred by
    the voxels).
    """
    step = painted.step_mm
    cortex = painted.hu > max(250.0, 0.6 * float(np.quantile(painted.hu, 0.99)))
    middle = painted.hu.shape[2] / 2 - 0.5
    y, x = np.indices(painted.hu.shape[1:])
    before = cortex[:, :, np.abs(x[0] - middle) * step < 6].any(2)  # [z, y]
    fronts = {z: int(rows.argmax()) for z, rows in enumerate(before) if rows.any()}
    clear = away(cortex, step) >= 4
    inside, edge = [np.zeros(0)], [np.zeros(0)]
    for z, front in fronts.items():
        if front > min(fronts.values()) + 6 / step:  # between two bodies, only the arch is bone
            continue
        circle = np.hypot(y - front - 14 / step, x - middle) * step < 8
        inside.append(painted.hu[z][circle & clear[z]])
        edge.append(painted.hu[z][(np.abs(x - middle) * step < 6) & (y >= front) & (y < front + 2.5 / step)])
    core, rim = np.concatenate(inside), np.concatenate(edge)
    out = {}
    if core.size > 500:
        out = {"trabecular_hu": float(core.mean()), "cortical_hu": float(np.quantile(rim, 0.9))}
    return out


# -- scan -------------------------------------------------------------------------------------------------------------


def sampled(
    labels: np.ndarray, step_mm: float, first_mm: np.ndarray, shape: tuple[int, ...], spacing_mm: np.ndarray
) -> np.ndarray:
    """Labels on another grid, nearest voxel; ``first_mm``: place of the other grid's voxel 0 from the labels' voxel 0."""
    out = np.zeros(shape, labels.dtype)
    index = [np.round((first_mm[k] + spacing_mm[k] * np.arange(shape[k])) / step_mm).astype(int) for k in range(3)]
    good = [np.flatnonzero((i >= 0) & (i < n)) for i, n in zip(index, labels.shape, strict=True)]
    out[np.ix_(*good)] = labels[np.ix_(*(i[g] for i, g in zip(index, good, strict=True)))]
    return out


def noise(hu: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """SD (HU) in a region, mean of its slices, and the autocorrelation there: 1 and 2 pixels along x and y, next slice.

    Each slice's mean is taken off first, as a reader's region of interest does; slices with fewer than 200 voxels don't count.
    """
    kept = mask.sum((1, 2)) >= 200
    if kept.sum() < 2:
        return {}
    box = tuple(slice(int(i.min()), int(i.max()) + 1) for i in np.nonzero(mask & kept[:, None, None]))
    region, values = mask[box] & kept[box[0], None, None], hu[box].astype(float)
    count = np.maximum(region.sum((1, 2)), 1)
    mean = (values * region).sum((1, 2)) / count
    rest = (values - mean[:, None, None]) * region
    variance = (rest**2).sum((1, 2)) / np.maximum(count - 1, 1)
    used = kept[box[0]]
    out = {"noise_hu": float(np.sqrt(variance[used]).mean())}
    total = (rest**2).sum() / region.sum()
    for name, (dz, dy, dx) in {"x1": (0, 0, 1), "x2": (0, 0, 2), "y1": (0, 1, 0), "y2": (0, 2, 0), "z1": (1, 0, 0)}.items():
        n, m, k = rest.shape
        a, b = (slice(dz, n), slice(dy, m), slice(dx, k)), (slice(0, n - dz), slice(0, m - dy), slice(0, k - dx))
        pairs = (region[a] & region[b]).sum()
        if pairs:
            out[f"autocorrelation_{name}"] = float((rest[a] * rest[b]).sum() / pairs / total)
    return out


def agatston(hu: np.ndarray, owner: np.ndarray, spacing_mm: tuple[float, float, float], kvp: int) -> dict[str, float]:
    """Reference Agatston in total and per vessel from HU and the owner map (1 to 4: vessels)."""
    vessels = np.where(owner <= len(VESSEL_NAMES), owner, 0).astype(np.uint8)
    found = score(hu, vessels, spacing_mm, kvp)
    out = {"agatston_total": float(found.total.agatston)}
    return out | {f"agatston_{name}": float(found.vessels[name].agatston) for name in VESSEL_NAMES}
