"""A second digital phantom of cardiac CT without contrast, sharing no code with the one that the network trains on.

``make(seed)`` draws a patient and a scanner and returns the scan with the vessel of each calcified voxel. The anatomy is made
of level sets on a coarse lattice whose coordinates are warped by smooth noise: chambers are metaballs, the chest is a lofted
spline contour, vessels and bones are swept splines. Coronary arteries are not drawn but *settled*: a guessed course slides
along the heart until it lies in the seam of two chambers, and fat is carved around it. A plaque is a pile of small
grains on the wall of its artery. Lattices are interpolated slice by slice and painted with partial coverage; small things are
painted on top.

Lengths are millimetres. Points are (x, y, z): x to the patient's left, y to the back, z to the head; x = 0 is the midline.
Volumes are [z, y, x].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage
from scipy.interpolate import CubicSpline
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist
from scipy.spatial.transform import Rotation

Array = NDArray[np.floating]
Grains = tuple[Array, float]  # centres [n, 3] and their common radius
Layers = list[tuple[Array, Array | float]]  # level sets and the HU inside, painted in turn

VESSELS = ("LM", "LAD", "LCX", "RCA", "other")  # owner 1 to 5
FAR = 30.0  # what a level set holds where it was not evaluated
OWNED_HU = 15.0  # a plaque owns the voxels to which it adds this much
AGATSTON_PER_MG = 5.0  # of calcium hydroxyapatite, roughly; only for drawing burdens
HU_PER_MG_CC = 1.35


@dataclass(frozen=True)
class IndependentScan:
    """``hu`` int16 and ``owner`` uint8 (0 none, 1 LM, 2 LAD, 3 LCX, 4 RCA, 5 other calcium), both [z, y, x]."""

    hu: NDArray[np.int16]
    spacing_mm: tuple[float, float, float]
    owner: NDArray[np.uint8]
    kvp: int


@dataclass(frozen=True)
class Grid:
    """Voxels to paint: ``slices`` sub-slices ``dz`` apart, ``matrix`` squared pixels of ``pixel``; ``origin`` is (x, y, z)."""

    origin: Array
    pixel: float
    dz: float
    slices: int
    matrix: int

    @property
    def step(self) -> Array:
        return np.array([self.pixel, self.pixel, self.dz])

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.slices, self.matrix, self.matrix

    def voxels(self, points: Array, margin: float) -> tuple[NDArray[np.intp], Array]:
        """Flat indices [n] and centres [n, 3] of the voxels in the box around ``points`` [m, 3], ``margin`` wider."""
        low = np.ceil((points.min(0) - margin - self.origin) / self.step).astype(int).clip(0)
        high = np.floor((points.max(0) + margin - self.origin) / self.step).astype(int)
        ranges = [np.arange(a, min(b, n - 1) + 1) for a, b, n in zip(low, high, self.shape[::-1], strict=True)]
        z, y, x = np.meshgrid(ranges[2], ranges[1], ranges[0], indexing="ij")
        centres = self.origin + np.stack([x.ravel(), y.ravel(), z.ravel()], 1) * self.step
        return np.ravel_multi_index((z.ravel(), y.ravel(), x.ravel()), self.shape), centres


class Noise:
    """Smooth random field of unit variance and the given correlation length, over a cube of 480 mm."""

    def __init__(self, rng: Generator, length: float) -> None:
        self.step = length / 2.5
        values = ndimage.gaussian_filter(rng.standard_normal((round(480 / self.step),) * 3), 1.0, mode="wrap")
        self.values = (values / values.std()).astype(np.float32)

    def __call__(self, xyz: Array) -> Array:
        """Value at coordinates [3, ...]."""
        return ndimage.map_coordinates(self.values, (xyz + 240) / self.step, order=1, mode="wrap", prefilter=False)


class Lattice:
    """Coarse points that carry level sets (negative inside) as float32 arrays [z, y, x]."""

    def __init__(self, grid: Grid, step: float, rng: Generator) -> None:
        self.step, self.origin = step, grid.origin - step
        extent = np.array(grid.shape[::-1]) * grid.step
        nx, ny, nz = np.ceil(extent / step).astype(int) + 3
        axes = [self.origin[i] + step * np.arange(n) for i, n in enumerate((nx, ny, nz))]
        z, y, x = np.meshgrid(axes[2], axes[1], axes[0], indexing="ij")
        self.straight = np.stack([x, y, z]).astype(np.float32)
        self.warped = self.straight + np.stack([1.3 * Noise(rng, 35)(self.straight) for _ in range(3)])
        self.mottle, self.swell = (Noise(rng, length)(self.straight) for length in (14, 50))  # textures, unevenness

    def full(self, value: float = FAR) -> Array:
        return np.full(self.straight.shape[1:], value, np.float32)

    def box(self, points: Array, margin: float) -> tuple[slice, slice, slice]:
        """Index box [z, y, x] around ``points`` [n, 3]."""
        low = np.floor((points.min(0) - margin - self.origin) / self.step).astype(int)
        high = np.ceil((points.max(0) + margin - self.origin) / self.step).astype(int) + 1
        z, y, x = (slice(max(low[i], 0), max(high[i], 0)) for i in (2, 1, 0))
        return z, y, x

    def metaballs(self, balls: Array, softness: float = 4.0) -> Array:
        """Soft union of ``balls`` [n, 4] (x, y, z, radius)."""
        out, total = self.full(), 0.0
        box = self.box(balls[:, :3], 60)
        xyz = self.warped[(slice(None), *box)]
        for x, y, z, radius in balls:
            gap = np.sqrt((xyz[0] - x) ** 2 + (xyz[1] - y) ** 2 + (xyz[2] - z) ** 2) - radius
            total = total + np.exp(-np.clip(gap, -60, 60) / softness)
        if np.size(total) > 1:
            out[box] = np.minimum(-softness * np.log(total), FAR)
        return out

    def tube(self, course: Array, squeeze: Sequence[float] = (1, 1, 1), warped: bool = True) -> Array:
        """Swept spline through ``course`` [n, 4] (x, y, z, radius); ``squeeze`` < 1 lengthens sections along an axis."""
        out, fine = self.full(), sweep(course, 1.5)
        box = self.box(fine[:, :3], (20 + fine[:, 3].max()) / min(squeeze))
        xyz = (self.warped if warped else self.straight)[(slice(None), *box)]
        if not xyz.size:
            return out
        tree = cKDTree(fine[:, :3] * squeeze)
        points = np.moveaxis(xyz, 0, -1).reshape(-1, 3) * np.float32(squeeze)
        distance, nearest = tree.query(points, distance_upper_bound=FAR)
        radius = np.append(fine[:, 3], 0)[nearest]
        out[box] = np.minimum(distance - radius, FAR).reshape(xyz.shape[1:])
        return out

    def sample(self, values: Array, points: Array) -> Array:
        """Lattice ``values`` at ``points`` [n, 3]."""
        index = (points - self.origin).T[::-1] / self.step
        return ndimage.map_coordinates(values, index, order=1, mode="nearest", prefilter=False)

    def push(self, values: Array, points: Array, target: float, weight: Array | float = 1.0) -> Array:
        """``points`` [n, 3] moved one damped Newton step, 4 mm at most, towards the level ``target``."""
        ahead, behind = ([self.sample(values, points + sign * e) for e in 1.5 * np.eye(3)] for sign in (1, -1))
        slope = np.stack(ahead, 1) / 3 - np.stack(behind, 1) / 3
        miss = self.sample(values, points) - target
        move = 0.6 * miss[:, None] * slope / np.maximum((slope**2).sum(1, keepdims=True), 0.1)
        length = np.linalg.norm(move, axis=1, keepdims=True)
        return points - np.atleast_1d(weight)[:, None] * move * np.minimum(1, 4 / np.maximum(length, 1e-6))


def sweep(course: Array, step: float) -> Array:
    """Cubic spline through the rows of ``course`` [n, k] (x, y, z first), resampled every ``step`` mm."""
    course = np.asarray(course, float)
    knots = np.append(0, np.cumsum(np.linalg.norm(np.diff(course[:, :3], axis=0), axis=1) + 1e-6))
    count = max(2, round(knots[-1] / step) + 1)
    spline = CubicSpline(knots, course, bc_type="natural" if len(course) > 2 else "not-a-knot")
    return spline(np.linspace(0, knots[-1], count))


def merge(*levels: Array, k: float) -> Array:
    """Union of level sets with seams rounded over ``k`` mm."""
    out = levels[0]
    for level in levels[1:]:
        out = np.minimum(out, level) - np.maximum(k - np.abs(out - level), 0) ** 2 / (4 * k)
    return out


# ---------------------------------------------------------------------------------------------------------------- the patient


@dataclass
class Patient:
    """What is drawn once per seed and the level sets that are built from it."""

    rng: Generator
    pose: Callable[[Sequence[Sequence[float]]], Array]
    size: float
    fat_mm: float
    skin_fat_mm: float
    muscle_mm: float
    width: float
    depth: float
    blood_hu: float
    layers: Layers = field(default_factory=list)
    arteries: dict[str, list[Array]] = field(default_factory=dict)


CHAMBERS = {
    "LV": [(14, 8, 6, 25), (24, -1, -1, 27), (34, -9, -8, 27), (44, -18, -15, 24), (52, -26, -21, 19), (59, -32, -26, 13)],
    "RV": [
        (-20, -20, -6, 18), (-5, -31, -13, 18), (13, -39, -20, 15), (32, -43, -26, 11), (47, -43, -30, 7), (0, -36, 6, 15),
        (7, -38, 20, 12), (11, -36, 31, 10),
    ],
    "LA": [(0, 36, 22, 17), (14, 34, 20, 16), (-14, 34, 20, 15), (4, 24, 14, 13), (-3, 26, 4, 10)],
    "RA": [(-35, 0, 17, 16), (-37, 2, 2, 18), (-33, 7, -14, 14), (-23, 14, 8, 10)],
}  # fmt: skip
APPENDAGES = {
    "LA": [(21, 24, 31, 8), (33, 11, 39, 9), (36, -2, 40, 7), (32, -11, 37, 5)],
    "RA": [(-33, -9, 26, 12), (-25, -24, 31, 10), (-15, -31, 33, 6)],
}
AORTA = [(0, -3, 13, 12), (-4, -9, 26, 16), (-8, -13, 43, 14.5), (-12, -13, 64, 15.5), (-10, -5, 86, 15), (2, 14, 101, 13.5)]
PULMONARY = [(12, -36, 32, 12.5), (16, -27, 49, 13.5), (15, -11, 62, 13)]
BRANCHES = {
    "PA right": [(12, -9, 63, 11), (-2, 8, 61, 10.5), (-22, 14, 60, 10), (-46, 16, 55, 8)],
    "PA left": [(16, -10, 64, 12), (28, 10, 71, 11), (41, 28, 68, 10), (51, 38, 56, 8)],
    "SVC": [(-33, 1, 18, 10), (-32, -1, 42, 9.5), (-31, 1, 66, 9), (-27, 0, 105, 9)],
    "IVC": [(-31, 10, -18, 12), (-30, 17, -44, 12), (-27, 22, -90, 12)],
    "PV 1": [(-16, 34, 27, 8), (-38, 30, 36, 7), (-60, 22, 44, 6)],
    "PV 2": [(-16, 41, 15, 8), (-38, 50, 8, 7), (-60, 55, 0, 6)],
    "PV 3": [(20, 33, 31, 8), (38, 28, 43, 7), (58, 20, 52, 6)],
    "PV 4": [(20, 42, 17, 8), (38, 50, 12, 7), (58, 56, 5, 6)],
}
# courses guessed in the frame of the heart, the chambers whose seam they seek, the depth they keep on it, lumen radii, and the
# radius of the fat around them
COURSES = {
    "LM": ([(11, -5, 29), (17, -8, 30), (23, -11, 29)], None, 4.0, (2.2, 2.0), 5.0),
    "LAD": ([(23, -11, 29), (30, -24, 23), (38, -36, 11), (47, -43, 0), (57, -47, -12), (65, -46, -24), (67, -40, -34)],
            ("LV", "RV"), 2.0, (1.85, 0.9), 5.0),
    "LCX": ([(23, -11, 29), (33, -2, 26), (41, 10, 18), (39, 24, 5), (29, 33, -5), (15, 31, -14)], ("LV", "LA"), 2.0,
            (1.7, 0.9), 6.0),
    "RCA": ([(-12, -23, 28), (-22, -30, 23), (-38, -27, 10), (-46, -19, -5), (-40, -8, -23), (-22, 4, -28), (-4, 16, -24)],
            ("RV", "RA"), 1.0, (1.95, 1.4), 7.0),
    "diagonal 1": ([(38, -36, 11), (52, -31, 8), (64, -24, -4), (70, -22, -16)], None, 2.5, (1.1, 0.7), 2.5),
    "diagonal 2": ([(50, -44, -4), (62, -38, -10), (69, -34, -19)], None, 2.5, (0.9, 0.6), 2.5),
    "marginal 1": ([(41, 9, 19), (52, 6, 8), (62, -4, -8), (66, -14, -20)], None, 2.5, (1.2, 0.7), 2.5),
    "marginal 2": ([(38, 25, 4), (48, 18, -8), (56, 5, -20)], None, 2.5, (1.0, 0.6), 2.5),
    "acute": ([(-45, -21, -3), (-30, -42, -14), (-8, -54, -26)], None, 2.5, (0.9, 0.6), 2.5),
    "PDA": ([(-4, 16, -24), (12, 5, -32), (26, -8, -37), (40, -20, -40)], ("LV", "RV"), 2.0, (1.2, 0.7), 4.0),
    "posterolateral": ([(-4, 16, -24), (10, 18, -23), (26, 13, -26), (36, 6, -27)], None, 2.5, (1.1, 0.7), 3.0),
}  # fmt: skip
OWNERS = {"LM": "LM", "LAD": "LAD", "diagonal 1": "LAD", "diagonal 2": "LAD", "LCX": "LCX", "marginal 1": "LCX",
          "marginal 2": "LCX", "RCA": "RCA", "acute": "RCA", "PDA": "RCA", "posterolateral": "RCA"}  # fmt: skip
PARENTS = {"LAD": "LM", "LCX": "LM", "diagonal 1": "LAD", "diagonal 2": "LAD", "marginal 1": "LCX", "marginal 2": "LCX",
           "acute": "RCA", "PDA": "RCA", "posterolateral": "RCA"}  # fmt: skip


def draw_patient(rng: Generator) -> Patient:
    """Size, posture and fatness; the heart is scaled and turned about its base and shifted 14 mm to the left."""
    stature, size = rng.normal(1, 0.05), rng.uniform(0.92, 1.14)
    turn = Rotation.from_euler("zyx", rng.normal(0, [7, 5, 6]), degrees=True)
    stretch, shift = size * rng.normal(1, 0.03, 3), np.array([14, 0, 0]) + rng.normal(0, [4, 2, 3])
    fatness = rng.beta(1.6, 2.2)

    def pose(points: Sequence[Sequence[float]]) -> Array:
        rows = np.array(points, float)
        placed = turn.apply(rows[:, :3] * stretch) + shift
        return np.hstack([placed, rows[:, 3:] * size])

    return Patient(
        rng, pose, size, fat_mm=2.5 + 6 * fatness + rng.uniform(0, 2), skin_fat_mm=5 + 38 * fatness,
        muscle_mm=rng.uniform(4, 12), width=stature * rng.uniform(0.95, 1.08), depth=stature * rng.uniform(0.95, 1.04),
        blood_hu=rng.uniform(33, 50),
    )  # fmt: skip


def chest_contour(lattice: Lattice, patient: Patient) -> Array:
    """Level set of the inside of the rib cage: a closed spline of the cross section, lofted narrower towards the neck."""
    half = [(0, -67), (30, -69), (70, -58), (100, -25), (114, 25), (107, 70), (84, 104), (52, 116), (24, 107)]
    ring = np.array([*half, (0, 92), *[(-x, y) for x, y in half[:0:-1]], half[0]], float)
    spline = CubicSpline(np.arange(len(ring)), ring, bc_type="periodic")
    t = np.linspace(0, len(ring) - 1, 1200, endpoint=False)
    outline, along = spline(t), spline(t, 1)
    axis = np.arange(-260, 261, 2.0)
    points = np.stack(np.meshgrid(axis, axis, indexing="xy"), -1).reshape(-1, 2)
    distance, nearest = cKDTree(outline).query(points)
    off, way = points - outline[nearest], along[nearest]
    plane = np.where(way[:, 0] * off[:, 1] - way[:, 1] * off[:, 0] > 0, -distance, distance).reshape(len(axis), -1)
    x, y, z = lattice.warped
    loft = 1 - 0.10 * np.clip(z / 110, 0, 1.5) ** 2
    index = np.stack([y / patient.depth - 8 * (1 - loft), x / (patient.width * loft)])
    return ndimage.map_coordinates(plane, (index + 260) / 2, order=1, mode="nearest").astype(np.float32)


def roomy_chest(lattice: Lattice, patient: Patient) -> Array:
    """The rib cage, widened until it leaves 6 mm around the chambers."""
    balls = np.vstack([patient.pose(chamber) for chamber in CHAMBERS.values()])
    for _ in range(8):
        cage = chest_contour(lattice, patient)
        if (lattice.sample(cage, balls[:, :3]) + balls[:, 3]).max() < -6:
            break
        patient.width, patient.depth = 1.03 * patient.width, 1.02 * patient.depth
    return cage


def bump(lattice: Lattice, x0: float, y0: float, width: float) -> Array:
    """Gaussian of the cross section, the same at every height and mirrored in the midline."""
    x, y, _ = lattice.straight
    return np.exp(-((np.abs(x) - x0) ** 2 + (y - y0) ** 2) / (2 * width**2)).astype(np.float32)


def build_trunk(lattice: Lattice, patient: Patient, cage: Array) -> None:
    """Skin, fat, muscle and lungs, from outside to inside."""
    back, breast = bump(lattice, 28, 132, 24), bump(lattice, 75, -85, 30)
    wall = 11 + patient.muscle_mm + 26 * back + 30 * bump(lattice, 0, 144, 17) + 6 * breast + 1.5 * lattice.swell
    fat = patient.skin_fat_mm * (0.55 + 0.3 * breast + 0.08 * lattice.swell) + patient.rng.choice([0, 25]) * breast
    patient.layers += [
        (cage - wall - fat - 2, 15.0), (cage - wall - fat, -105 + 6 * lattice.mottle), (cage - wall, 52 + 4 * lattice.mottle),
        (np.maximum(cage - 9, 3 - cage), -60 + 50 * lattice.mottle), (cage - 1, -20.0),
        (cage, -870 + 0.35 * (lattice.straight[1] + 60) + 14 * lattice.mottle),
    ]  # fmt: skip


def build_abdomen(lattice: Lattice, patient: Patient) -> Array:
    """Diaphragm, liver, stomach and spleen under two domes; returns their common level set."""
    x, y, z = lattice.warped
    low = patient.pose([(30, -10, -43)])[0, 2] + patient.rng.normal(-3, 3)
    lift = patient.rng.uniform(6, 22)
    right = low + lift - ((x + 58) ** 2 + (y - 8) ** 2) / 300
    left = low + lift / 3 - ((x - 56) ** 2 + (y - 8) ** 2) / 300
    domes = 0.75 * (z + merge(-right, -left, k=12)) + 1.5 * lattice.swell
    liver = np.maximum(domes + 2.5, 0.8 * (x - 25 - 6 * lattice.swell))
    stomach = lattice.metaballs(np.array([(48, -8, low - 34, 26), (66, 10, low - 32, 24)]))
    spleen = lattice.metaballs(np.array([(88, 62, low - 40, 20), (78, 78, low - 46, 18)]))
    patient.layers += [
        (domes, 45.0), (domes + 2.5, -98 + 6 * lattice.mottle), (liver, 58 + 2 * lattice.mottle),
        (np.maximum(stomach, domes + 3), 30.0), (np.maximum(spleen, domes + 3), 50.0),
    ]  # fmt: skip
    return domes


def great_vessels(lattice: Lattice, patient: Patient) -> dict[str, Array]:
    """Level sets of the aorta with its arch, the pulmonary arteries and veins and the cavae."""
    arch = patient.pose([*AORTA, (9, 40, 104, 12.5)])
    down = np.array([(20, 66, 88, 12.5), (23, 70, 50, 12), (21, 71, 0, 12), (15, 68, -60, 11.5), (9, 66, -110, 11)])
    vessels = {"aorta": lattice.tube(np.vstack([arch, down])), "PA": lattice.tube(patient.pose(PULMONARY))}
    return vessels | {name: lattice.tube(patient.pose(course)) for name, course in BRANCHES.items()}


def build_mediastinum(lattice: Lattice, patient: Patient, heart: Array, vessels: dict[str, Array], domes: Array) -> Array:
    """Fat around heart and great vessels with airway and gullet; returns its envelope."""
    pose = patient.pose
    carina = (-12, 44, 82, 7)
    tubes = ([(-12, 38, 120, 8), (-12, 42, 98, 8), carina], [carina, (-28, 41, 70, 6.5), (-46, 38, 58, 5)],
             [carina, (8, 43, 66, 6), (38, 42, 52, 5)])  # fmt: skip
    airway = np.minimum.reduce([lattice.tube(pose(tube)) for tube in tubes])
    gullet = lattice.tube(np.array([(3, 62, 110, 6), (2, 66, 40, 6.5), (5, 66, 0, 6.5), (12, 58, -60, 7)]), (0.7, 1, 1))
    spine = lattice.tube(np.array([(0, 92, 150, 18), (0, 92, -150, 18)]))
    front = lattice.tube(np.array([(0, -72, 150, 7), (0, -72, -150, 7)]), (0.5, 1, 1))
    body = merge(heart, *(vessels[n] for n in ("aorta", "PA", "SVC")), airway, gullet, spine - 1, front, k=22)
    pads = np.array([(58, -52, -34, 2.2), (20, -58, -36, 1.8), (-34, -44, -30, 2.2)]) * [1, 1, 1, patient.fat_mm]
    body = merge(body - 1.5 - 0.5 * patient.fat_mm * (1 + 0.3 * lattice.swell), lattice.metaballs(pose(pads)), k=12)
    body = np.maximum(body, -2 - domes - np.maximum(lattice.straight[1] - 45, 0))
    patient.layers += [(body, -97 + 7 * lattice.mottle), (airway - 1.5, 20.0), (airway, -985.0), (gullet, 36.0)]
    return body


def build_heart(lattice: Lattice, patient: Patient, vessels: dict[str, Array]) -> tuple[Array, Layers]:
    """Settles the arteries, carves their fat and paints the heart; returns the pericardium and the layers to paint."""
    pose, blood = patient.pose, patient.blood_hu
    chambers = {name: lattice.metaballs(pose(balls), 4.0 * patient.size) for name, balls in CHAMBERS.items()}
    seams = {name: level.copy() for name, level in chambers.items()}
    for name, course in APPENDAGES.items():
        chambers[name] = merge(chambers[name], lattice.tube(pose(course)), k=5)
    root = lattice.tube(pose(AORTA[:3]))
    pulmonary = lattice.tube(pose(PULMONARY[:2]))
    core = merge(*seams.values(), root, pulmonary, k=5)  # arteries pass under the appendages
    muscle = merge(*chambers.values(), root, pulmonary, k=5)
    sac = merge(*chambers.values(), root, pulmonary, k=22) - patient.fat_mm * np.maximum(0.6 + 0.45 * lattice.swell, 0.15)
    trench = lattice.full()
    for name, (_, seam, depth, radii, gutter) in COURSES.items():
        course = settle_course(lattice, patient, name, core, seam and (seams[seam[0]] - seams[seam[1]]), depth)
        course = np.hstack([course, np.linspace(*radii, len(course))[:, None] * patient.size])
        patient.arteries.setdefault(OWNERS[name], []).append(course)
        sleeve = course[::2] * [1, 1, 1, 0]
        sleeve[:, 3] = gutter * (0.55 + patient.fat_mm / 16) * patient.size
        if name in ("LM", "RCA"):
            sleeve[:, 3] = np.minimum(sleeve[:, 3], course[::2, 3] + 0.5 + 0.8 * np.arange(len(sleeve)))
        trench = np.minimum(trench, lattice.tube(sleeve, warped=False))
        sac = merge(sac, lattice.tube(sleeve, warped=False) + 1.5, k=6)
    carved = np.maximum(np.maximum(muscle, -trench), sac + 2.0)
    walls = {"LV": 8.5 * patient.size, "RV": 3.5, "LA": 2.0, "RA": 2.0}
    vessels |= {name: np.maximum(vessels[name], -trench) for name in ("aorta", "PA")}
    layers: Layers = [(sac, 15.0), (sac + 0.9, -92 + 7 * lattice.mottle), *((v, blood) for v in vessels.values())]
    layers.append((carved, blood + patient.rng.uniform(2, 9)))
    layers += [(np.maximum(chambers[n] + wall, carved + 1.5), blood) for n, wall in walls.items()]
    layers += [(np.maximum(root, -trench), blood + 2), (np.maximum(pulmonary, -trench), blood)]
    return sac, layers


def settle_course(lattice: Lattice, patient: Patient, name: str, muscle: Array, seam: Array | None, depth: float) -> Array:
    """Course [n, 3], a point per 2 mm, at ``depth`` over the muscle and, past its first 16 mm, in the seam (a signed level)."""
    guess = patient.pose(COURSES[name][0]) + patient.rng.normal(0, 1.5, (len(COURSES[name][0]), 3))
    course = sweep(guess, 2.0)
    if name in PARENTS:
        trunk = patient.arteries[OWNERS[PARENTS[name]]][0][:, :3]
        at_end = name in ("LAD", "LCX", "PDA", "posterolateral")
        start = trunk[-1 if at_end else np.argmin(np.linalg.norm(trunk - course[0], axis=1))]
        fade = np.exp(-np.arange(len(course))[:, None] / 8)
        course = course + fade * (start - course[0])
    anchor, along = course[0].copy(), 2.0 * np.arange(len(course))
    grip, hold = np.clip(along / 16 - 0.3, 0, 1), np.clip(along / 6, 0, 1)
    for _ in range(14):
        course = lattice.push(muscle, course, depth, hold)
        if seam is not None:
            course = lattice.push(seam, course, 0.0, grip)
        course = ndimage.gaussian_filter1d(course, 1.0, axis=0, mode="nearest")
        course[0] = anchor
    return sweep(course, 2.0)


def build_bones(lattice: Lattice, patient: Patient, cage: Array, calcium: float) -> None:
    """Vertebrae, ribs with cartilage and sternum; cortex around marrow. ``calcium`` scales bone HU with the tube voltage."""
    rng, (x, y, z) = patient.rng, lattice.warped
    marrow, cortex = calcium * rng.uniform(90, 220), calcium * rng.uniform(380, 600)
    phase = 2 * np.pi * (z - rng.uniform(0, 27)) / 27
    waist = 1.5 * np.cos(phase)
    column = lambda px, r: np.hypot(np.abs(x) - px, y - 91) - r  # noqa: E731
    body = merge(column(7, 11.5), column(0, 13.5), k=8) - waist
    disc = np.cos(phase) - 0.83
    arch = lattice.full()
    bars = ((11, 102, 14, 114, 6), (14, 114, 5, 128, 5), (0, 128, 0, 150, 3), (13, 115, 34, 124, 5))  # from, to, half width
    for *ends, r in bars:
        a, way = np.array(ends[:2]), np.subtract(ends[2:], ends[:2])
        t = np.clip(((np.abs(x) - a[0]) * way[0] + (y - a[1]) * way[1]) / (way**2).sum(), 0, 1)
        gap = np.hypot(np.abs(x) - a[0] - t * way[0], y - a[1] - t * way[1])
        arch = np.minimum(arch, gap - r * (0.75 - 0.4 * np.cos(phase)))
    patient.layers += [(body, cortex), (body + 1.3, marrow), (np.maximum(body + 0.5, -12 * disc), 80.0)]
    patient.layers += [(arch, cortex), (arch + 1.5, marrow), (np.hypot(x, y - 113) - 8.5, 25.0)]
    bone, cartilage = lattice.full(), lattice.full()
    for course in rib_courses(lattice, patient, cage):
        turn = int(0.74 * len(course))
        bone = np.minimum(bone, lattice.tube(course[:turn], (1, 1, 0.6)))
        cartilage = np.minimum(cartilage, lattice.tube(course[turn - 1 :], (1, 1, 0.7)))
    plate = np.array([(0, -69, 130, 5.0), (0, -75, 30, 5.5), (0, -75.5, -30, 4.5), (0, -74, -60, 2)]) * [1, patient.depth, 1, 1]
    sternum = lattice.tube(plate, (0.33, 1, 1))
    patient.layers += [
        (cartilage, rng.uniform(75, 120)), (bone, cortex), (bone + 1.3, marrow), (sternum, 0.75 * cortex),
        (sternum + 1.2, 0.8 * marrow),
    ]  # fmt: skip


def rib_courses(lattice: Lattice, patient: Patient, cage: Array) -> list[Array]:
    """Ribs [n, 4] of both sides: round the cage, falling to the front and rising again as cartilage to the sternum."""
    plan = np.array([
        (14, 112, 0, 3.8), (45, 122, -3, 3.8), (88, 108, -12, 3.8), (112, 70, -28, 3.8), (119, 20, -46, 3.8),
        (102, -31, -62, 3.8), (68, -63, -70, 3.8), (40, -74, -55, 3.8), (20, -76, -40, 3.8),
    ])  # fmt: skip
    ribs = []
    for level in range(-2, 8):
        height = 27.0 * level + patient.rng.normal(0, 2)
        for side in (-1, 1):
            rib = sweep(plan * [side * patient.width, patient.depth, 1, 1] + [0, 0, height, 0], 3.0)
            rib = rib[(rib[:, 2] > lattice.origin[2] - 20) & (rib[:, 2] < lattice.straight[2].max() + 20)]
            if len(rib) < 8:
                continue
            centre = rib[:, :3]
            for _ in range(4):
                centre = lattice.push(cage, centre, 5.0, 0.8)
            ribs.append(np.hstack([centre, rib[:, 3:]]))
    return ribs


def lung_vessels(lattice: Lattice, patient: Patient, cage: Array, body: Array, domes: Array) -> list[Array]:
    """Courses [n, 4] from the hila to random places in the lungs, with twigs."""
    rng, room, trees = patient.rng, np.maximum(cage + 5, np.maximum(4 - body, 4 - domes)), []
    hila = patient.pose([(-48, 18, 53), (-50, 46, 4), (50, 34, 56), (50, 48, 8)])
    places = rng.uniform(lattice.origin, lattice.straight.max(axis=(1, 2, 3)), (2500, 3))
    places = places[lattice.sample(room, places) < 0][:260]
    for place in places:
        near = hila[np.argmin(np.linalg.norm(hila - place, axis=1) + 200 * (hila[:, 0] * place[0] < 0))]
        near = near + rng.normal(0, 5, 3)
        bends = [near + t * (place - near) + rng.normal(0, 6, 3) for t in (0.35, 0.7)]
        thick = rng.uniform(1.1, 2.4) * np.array([1, 0.75, 0.5, 0.25])
        trees.append(np.hstack([np.vstack([near, *bends, place]), thick[:, None]]))
        for _ in range(3):
            tip = place + rng.normal(0, 12, 3)
            trees.append(np.array([[*bends[1], 0.9], [*((bends[1] + tip) / 2 + rng.normal(0, 3, 3)), 0.7], [*tip, 0.4]]))
    return [t for t in trees if (lattice.sample(room, sweep(t, 6)[1:, :3]) < 6).mean() > 0.6]


# --------------------------------------------------------------------------------------------------------------------- plaques


@dataclass(frozen=True)
class Plaque:
    """Grains of calcium, the HU that they add at 120 kVp and the vessel (1 to 5)."""

    grains: Array
    radius: float
    hu: float
    owner: int


def wall_grains(rng: Generator, course: Array, middle: float, length: float, spread: float, depth: float) -> Grains:
    """Grains on the wall of ``course`` [n, 4]: ``length`` at ``middle``, ``spread`` radians to each side, ``depth`` thick."""
    fine = sweep(course, 0.25)
    along = 0.25 * np.arange(len(fine))
    middle = float(np.clip(middle, length / 2, max(along[-1] - length / 2, length / 2)))
    way = np.gradient(ndimage.gaussian_filter1d(fine[:, :3], 4, axis=0), axis=0)
    way /= np.linalg.norm(way, axis=1, keepdims=True)
    side = np.cross(way, [0.31, 0.52, 0.8])
    side /= np.linalg.norm(side, axis=1, keepdims=True)
    other = np.cross(way, side)
    grain = float(np.clip(depth * 0.55, 0.3, 0.6))
    lumen = np.interp(middle, along, fine[:, 3])
    count = int(np.clip(1 + 2.2 * length * 2 * spread * lumen * depth / (4.2 * grain**3), 1, 4000))
    s = middle + length * (rng.beta(1.6, 1.6, count) - 0.5)
    ragged = np.interp(s, np.linspace(middle - length, middle + length, 24), rng.uniform(0.5, 1.3, 24))
    drift = rng.uniform(0, 2 * np.pi) + rng.normal(0, 0.05) * (s - middle)
    angle = drift + spread * ragged * rng.uniform(-1, 1, count)
    at = np.clip((s / 0.25).astype(int), 0, len(fine) - 1)
    out = fine[at, 3] + rng.uniform(-0.4, 0.6, count) * depth * ragged
    return fine[at, :3] + out[:, None] * (np.cos(angle)[:, None] * side[at] + np.sin(angle)[:, None] * other[at]), grain


def draw_plaque(rng: Generator, courses: list[Array], owner: int, left: float) -> tuple[Plaque, float]:
    """A speck, an arc or a long shell in one of the ``courses``, and roughly its Agatston score; ``left`` is still to place."""
    course = courses[0] if len(courses) == 1 or rng.random() < 0.8 else courses[rng.integers(1, len(courses))]
    total = float(np.linalg.norm(np.diff(course[:, :3], axis=0), axis=1).sum())
    kind = rng.choice(3, p=(0.7, 0.3, 0) if left < 25 else (0.25, 0.6, 0.15) if left < 150 else (0.15, 0.4, 0.45))
    length = min((rng.uniform(0.4, 2), rng.uniform(2, 8), rng.uniform(9, 38))[kind], 0.8 * total)
    spread = (rng.uniform(0.2, 0.5), rng.uniform(0.4, 1.3), rng.uniform(0.5, 2.2))[kind]
    depth, hu = rng.uniform(0.6, 1.1 if kind == 0 else 1.9), float(rng.uniform(250, 1300))
    grains, radius = wall_grains(rng, course, rng.beta(1.1, 2.3) * total, length, spread, depth)
    filled = len(np.unique(np.floor(grains / radius), axis=0)) * radius**3 * 1.6
    return Plaque(grains, radius, hu, owner), filled * hu / HU_PER_MG_CC / 1000 * AGATSTON_PER_MG


def coronary_plaques(rng: Generator, arteries: dict[str, list[Array]]) -> list[Plaque]:
    """None in a sixth of the patients, few in a sixth; otherwise a lognormal burden up to 3000, shared among the vessels."""
    if rng.random() < 1 / 6:
        return []
    middle, spread = (2.0, 0.9) if rng.random() < 0.2 else (5.0, 1.5)
    burden = float(np.clip(np.exp(rng.normal(middle, spread)), 1, 3000))
    shares = rng.dirichlet(3.5 * np.array([0.07, 0.46, 0.18, 0.29]))
    plaques: list[Plaque] = []
    for number in np.argsort(-shares):
        left, name = burden * shares[number], VESSELS[number]
        for _ in range(40):
            if left < 2.5 and plaques:
                break
            plaque, score = draw_plaque(rng, arteries[name], int(number) + 1, left)
            if score < 1.4 * left + 2:
                plaques.append(plaque)
                left -= score
    return plaques


def other_calcium(rng: Generator, lattice: Lattice, patient: Patient, sac: Array, aorta: Array) -> list[Plaque]:
    """Calcium outside the coronary arteries: aortic wall, aortic valve, mitral annulus, pericardium, lymph node, cartilage."""
    found: list[Plaque] = []

    def add(grains: Array, radius: float, low: float, high: float) -> None:
        found.append(Plaque(grains, radius, float(rng.uniform(low, high)), 5))

    def wall(course: Array, times: int, longest: float) -> None:
        for _ in range(times):
            grains, radius = wall_grains(rng, course, rng.uniform(0, 200), rng.uniform(2, longest), rng.uniform(0.06, 0.3), 1.0)
            for _ in range(5):
                grains = lattice.push(aorta, grains, -0.5)
            add(grains + rng.normal(0, 0.3, grains.shape), radius, 300, 1000)

    ascending = patient.pose(AORTA[1:])
    descending = np.array([(23, 70, 60, 12), (21, 71, 0, 12), (15, 68, -60, 11.5)], float)
    wall(ascending, rng.poisson(0.4), 9)
    wall(descending, rng.poisson(0.9), 14)
    if rng.random() < 0.3:
        centre = patient.pose([(-2, -7, 20)])[0]
        for _ in range(rng.integers(1, 7)):
            spot = centre + rng.normal(0, [6, 6, 2.5])
            add(spot + rng.normal(0, rng.uniform(0.4, 1.6), (rng.integers(2, 30), 3)), 0.5, 300, 1100)
    if rng.random() < 0.2:
        ring = patient.pose([(36, 8, 12, 1.5), (35, 20, 4, 1.8), (24, 26, -5, 1.8), (12, 25, -7, 1.5)])
        add(*wall_grains(rng, ring, rng.uniform(0, 40), rng.uniform(4, 22), 1.3, 1.4), 400, 1100)
    if rng.random() < 0.1:
        patch = patient.pose([(-15, -50, -10)]) + rng.normal(0, [14, 5, 12], 3) + rng.normal(0, [7, 2, 4], (120, 3))
        for _ in range(12):
            patch = lattice.push(sac, patch, -0.6)
        add(patch, 0.6, 300, 900)
    if rng.random() < 0.25:
        node = patient.pose([(-26, 34, 52), (2, 40, 60), (40, 30, 48)])[rng.integers(3)]
        add(node + rng.normal(0, 1.3, (rng.integers(10, 60), 3)), 0.6, 300, 1200)
    for _ in range(rng.poisson(0.7)):
        spot = np.array([rng.choice([-1, 1]) * rng.uniform(24, 48), -72 * patient.depth, rng.uniform(-50, 50)])
        add(spot + rng.normal(0, [3, 1, 2], (25, 3)), 0.5, 120, 320)
    return found


# -------------------------------------------------------------------------------------------------------------------- painting


def weights(fine: Array, origin: float, step: float, count: int) -> Array:
    """Matrix [len(fine), count] of linear interpolation from a lattice axis to the positions ``fine``."""
    place = (fine - origin) / step
    return np.maximum(1 - np.abs(place[:, None] - np.arange(count)), 0).astype(np.float32)


class Painter:
    """Interpolates lattice arrays to pixels, one sub-slice at a time, and paints them with partial coverage."""

    def __init__(self, grid: Grid, lattice: Lattice) -> None:
        self.grid, self.soft = grid, max(grid.pixel, 0.5)
        axes = [grid.origin[i] + grid.step[i] * np.arange(n) for i, n in enumerate((grid.matrix, grid.matrix, grid.slices))]
        shape = lattice.straight.shape[:0:-1]
        self.x, self.y, self.z = (weights(a, lattice.origin[i], lattice.step, shape[i]) for i, a in enumerate(axes))

    def plane(self, values: Array, k: int) -> Array:
        """Lattice plane [y, x] at sub-slice ``k``."""
        first = int(np.argmax(self.z[k] > 0))
        part = self.z[k, first : first + 2]
        return np.tensordot(part, values[first : first + len(part)], 1)

    def upsample(self, plane: Array) -> Array:
        return self.y @ plane @ self.x.T

    def paint(self, canvas: Array, level: Array, hu: Array | float, k: int) -> None:
        """Draws the inside of ``level`` at ``hu`` (a number or a lattice array) on ``canvas`` [y, x]."""
        plane = self.plane(level, k)
        reach = plane < 1.5 * self.grid.pixel + 1
        if not reach.any():
            return
        inside = [np.flatnonzero(reach.any(axis)) for axis in (1, 0)]
        rows, columns = (slice(max(i[0] - 1, 0), i[-1] + 2) for i in inside)
        wy, wx = self.y[:, rows], self.x[:, columns]
        ys, xs = (slice(*(np.flatnonzero(w.any(1))[[0, -1]] + [0, 1])) if w.any() else slice(0) for w in (wy, wx))
        wy, wx = wy[ys], wx[xs].T
        cover = np.clip(0.5 - (wy @ plane[rows, columns] @ wx) / self.soft, 0, 1)
        cover *= (wy.sum(1)[:, None] > 0.999) & (wx.sum(0) > 0.999)
        value = hu if np.isscalar(hu) else wy @ self.plane(np.asarray(hu), k)[rows, columns] @ wx
        canvas[ys, xs] += cover * (value - canvas[ys, xs])


def paint_courses(volume: Array, grid: Grid, courses: list[Array], hu: float) -> None:
    """Draws thin tubes [n, 4] into ``volume``, a few millimetres at a time."""
    flat, soft = volume.reshape(-1), max(grid.pixel, 0.5)
    for course in courses:
        fine = sweep(course, 0.5)
        for start in range(0, len(fine), 14):
            part = fine[start : start + 15]
            index, centres = grid.voxels(part[:, :3], part[:, 3].max() + soft)
            if len(index):
                gap = (cdist(centres, part[:, :3]) - part[:, 3]).min(1)
                cover = np.clip(0.5 - gap / soft, 0, 1) * np.minimum(1, 2 * part[:, 3].max() / soft)
                flat[index] += cover * (hu - flat[index])


def plaque_cover(grid: Grid, plaque: Plaque) -> tuple[NDArray[np.intp], Array]:
    """Flat indices [n] of the voxels touched by a plaque and the share of each that it fills, from samples 0.25 mm apart."""
    tree, half = cKDTree(plaque.grains), np.linalg.norm(grid.step) / 2
    index, centres = grid.voxels(plaque.grains, plaque.radius + half)
    near = np.isfinite(tree.query(centres, distance_upper_bound=plaque.radius + half)[0]) if len(index) else np.zeros(0, bool)
    index, centres = index[near], centres[near]
    shares = [(np.arange(n) + 0.5) / n - 0.5 for n in np.ceil(grid.step / 0.25).astype(int)]
    offsets = np.stack(np.meshgrid(*shares, indexing="ij"), -1).reshape(-1, 3) * grid.step
    samples = (centres[:, None] + offsets).reshape(-1, 3)
    hit = np.isfinite(tree.query(samples, distance_upper_bound=plaque.radius)[0])
    return index, hit.reshape(-1, len(offsets)).mean(1)


# --------------------------------------------------------------------------------------------------------------------- imaging


@dataclass(frozen=True)
class Protocol:
    """Scanner settings: slices of ``stacked`` sub-slices every ``stride``, in-plane blur, noise, heart motion, tube voltage."""

    pixel: float
    matrix: int
    thickness: float
    stacked: int
    stride: int
    fwhm: float
    noise_hu: float
    grain_mm: float
    motion_mm: Array
    kvp: int

    @property
    def dz(self) -> float:
        return self.thickness / self.stacked

    @property
    def calcium(self) -> float:
        return {100: 1.14, 120: 1.0, 130: 0.95, 140: 0.9}[self.kvp]


def draw_protocol(rng: Generator, matrix: int | None) -> Protocol:
    slices = ((3.0, 3, 3), (2.5, 3, 3), (3.0, 4, 2), (1.5, 2, 2), (5.0, 5, 5))
    thickness, stacked, stride = slices[rng.choice(5, p=(0.45, 0.33, 0.08, 0.07, 0.07))]
    own = 384 if rng.random() < 0.12 else 512
    field_mm = np.clip(own * rng.choice([rng.uniform(0.35, 0.52), rng.uniform(0.52, 0.7)], p=(0.75, 0.25)), 185, 360)
    speed = rng.gamma(2.0, 0.55, 2)
    angle = rng.uniform(0, 2 * np.pi, 2)
    matrix = matrix or own
    return Protocol(
        field_mm / matrix, matrix, thickness, stacked, stride, rng.uniform(0.8, 1.3), rng.uniform(12, 28),
        rng.uniform(0.5, 0.85), (np.clip(speed * [0.8, 1.3], 0, 4) * np.stack([np.sin(angle), np.cos(angle)])).T,
        int(rng.choice([100, 120, 130, 140], p=(0.08, 0.8, 0.07, 0.05))),
    )  # fmt: skip


class Imager:
    """Linear chain from sub-slices to a noise-free scan; ``hearts`` [2, z, y, x]: shares that move as left and right heart."""

    def __init__(self, protocol: Protocol, hearts: Array) -> None:
        self.protocol, self.hearts = protocol, hearts

    def stack(self, volume: Array) -> Array:
        """Means of sub-slices [slices, y, x]."""
        p = self.protocol
        starts = range(0, len(volume) - p.stacked + 1, p.stride)
        return np.stack([volume[s : s + p.stacked].mean(0) for s in starts])

    def blur(self, image: Array, box: tuple[slice, ...] = (slice(None),) * 3) -> Array:
        """Motion of the heart and the in-plane point spread of ``image``, which is the part ``box`` of the scan."""
        p, out = self.protocol, image.copy()
        for weight, motion in zip(self.hearts, p.motion_mm, strict=True):
            moved = np.zeros_like(image)
            for t in (-0.5, -0.17, 0.17, 0.5):
                moved += ndimage.shift(image, (0, *(t * motion / p.pixel)), order=1, mode="nearest") / 4
            out += weight[box] * (moved - image)
        sigma = p.fwhm / 2.355 / p.pixel
        return ndimage.gaussian_filter(out, (0, sigma, sigma), mode="nearest", truncate=3.5)

    def noise(self, rng: Generator, shape: tuple[int, ...]) -> Array:
        """Noise with the spectrum of filtered back projection, a ramp cut by a Gaussian, in the plane."""
        p = self.protocol
        frequency = np.hypot(np.fft.fftfreq(shape[1], p.pixel)[:, None], np.fft.rfftfreq(shape[2], p.pixel))
        gain = np.sqrt(frequency + 0.015) * np.exp(-((frequency * p.grain_mm * 1.9) ** 2))
        white = rng.standard_normal(shape, dtype=np.float32)
        out = np.stack([np.fft.irfft2(np.fft.rfft2(plane) * gain, shape[1:]) for plane in white]).astype(np.float32)
        return out * (p.noise_hu / out.std())


def owner_images(imager: Imager, grid: Grid, plaques: list[Plaque]) -> list[tuple[int, tuple[slice, ...], Array]]:
    """For each vessel with plaques: its number, a box of the scan and the HU that its plaques add there, noise-free."""
    images, pad = [], 8 + round(5 / grid.pixel)
    for owner in sorted({p.owner for p in plaques}):
        added = np.zeros(grid.shape, np.float32)
        for plaque in (p for p in plaques if p.owner == owner):
            index, cover = plaque_cover(grid, plaque)
            flat = added.reshape(-1)
            flat[index] = np.maximum(flat[index], cover * plaque.hu * imager.protocol.calcium)
        stacked = imager.stack(added)
        if stacked.any():
            _, y, x = ndimage.find_objects((stacked > 0).astype(np.uint8))[0]
            box = (slice(None), *(slice(max(s.start - pad, 0), s.stop + pad) for s in (y, x)))
            images.append((owner, box, imager.blur(stacked[box], box)))
    return images


def assign_owners(shape: tuple[int, ...], images: list[tuple[int, tuple[slice, ...], Array]]) -> NDArray[np.uint8]:
    """The vessel that adds most to a voxel, where it adds ``OWNED_HU`` or more."""
    owner, most = np.zeros(shape, np.uint8), np.full(shape, OWNED_HU, np.float32)
    for number, box, added in images:
        wins = added >= most[box]
        owner[box][wins] = number
        most[box][wins] = added[wins]
    return owner


def heart_shares(painter: Painter, numbers: Array, sac: Array) -> Array:
    """Shares of voxels [2, slices, y, x] that move with the left and with the right heart, at sub-slices ``numbers``."""
    grid = painter.grid
    right = 1 / (1 + np.exp((grid.origin[0] + grid.pixel * np.arange(grid.matrix) + 5) / 6)).astype(np.float32)
    inside = np.stack([np.clip(0.5 - painter.upsample(painter.plane(sac, int(k))) / 8, 0, 1) for k in numbers])
    return np.stack([inside * (1 - right), inside * right]).astype(np.float32)


def table_level(lattice: Lattice, patient: Patient) -> Array:
    """A curved couch behind the back, 8 mm thick."""
    x, y, _ = lattice.straight
    rear = 118 * patient.depth + 11 + patient.muscle_mm + 0.6 * patient.skin_fat_mm + 20
    return np.abs(y - rear - 12 + x**2 / 900) - 4


def make(seed: int, matrix: int | None = None) -> IndependentScan:
    """The scan of ``seed``; ``matrix`` replaces the drawn number of pixels along a side (the patient and the field stay)."""
    body, plan, lime, noise = (np.random.default_rng([seed, stream]) for stream in range(4))
    patient, protocol = draw_patient(body), draw_protocol(plan, matrix)
    bottom, top = patient.pose([(45, -20, -42), (0, 0, 50)])[:, 2] + [-plan.uniform(10, 22), plan.uniform(8, 30)]
    corner = np.array([plan.uniform(2, 14), plan.uniform(-2, 14)]) - protocol.pixel * protocol.matrix / 2
    count = int((top - bottom) / protocol.dz)
    grid = Grid(np.array([*corner, bottom]), protocol.pixel, protocol.dz, count, protocol.matrix)
    lattice = Lattice(grid, 2.0 if protocol.matrix >= 256 else 3.0, body)
    cage = roomy_chest(lattice, patient)
    build_trunk(lattice, patient, cage)
    domes = build_abdomen(lattice, patient)
    vessels = great_vessels(lattice, patient)
    sac, heart = build_heart(lattice, patient, vessels)
    mediastinum = build_mediastinum(lattice, patient, sac, vessels, domes)
    patient.layers += heart
    build_bones(lattice, patient, cage, protocol.calcium)
    patient.layers.append((table_level(lattice, patient), -180.0))
    painter = Painter(grid, lattice)
    volume = np.full(grid.shape, -1000, np.float32)
    for k, canvas in enumerate(volume):
        for level, hu in patient.layers:
            painter.paint(canvas, level, hu, k)
    paint_courses(volume, grid, lung_vessels(lattice, patient, cage, mediastinum, domes), 35.0)
    arteries = [course + np.array([0, 0, 0, 0.5]) for courses in patient.arteries.values() for course in courses]
    paint_courses(volume, grid, [*arteries, *veins(patient)], patient.blood_hu + 2)
    starts = np.arange(0, grid.slices - protocol.stacked + 1, protocol.stride) + protocol.stacked // 2
    imager = Imager(protocol, heart_shares(painter, starts, sac))
    plaques = coronary_plaques(lime, patient.arteries) + other_calcium(lime, lattice, patient, sac, vessels["aorta"])
    images = owner_images(imager, grid, plaques)
    scan = imager.blur(imager.stack(volume))
    for _, box, added in images:
        scan[box] += added
    owner = assign_owners(scan.shape, images)
    scan += imager.noise(noise, scan.shape)
    spacing = (protocol.stride * protocol.dz, protocol.pixel, protocol.pixel)
    return IndependentScan(np.clip(np.rint(scan), -1024, 3071).astype(np.int16), spacing, owner, protocol.kvp)


def veins(patient: Patient) -> list[Array]:
    """The great cardiac vein beside LAD and LCX, widening to the coronary sinus, and small veins beside other arteries."""
    shift = patient.rng.normal(2.5, 0.5, 3)
    lad, lcx = patient.arteries["LAD"][0], patient.arteries["LCX"][0]
    great = np.vstack([lad[len(lad) // 2 : 4 : -4, :3] + shift, lcx[5::4, :3] + shift * [1, 1, -1]])
    return [np.hstack([great, np.linspace(1.2, 4.2, len(great))[:, None] * patient.size])]
