"""The patient: a heart and thorax as a function of position.

:class:`Patient` is drawn from a seed. It maps patient mm to two canonical frames (thorax and heart: rigid motion, scale and a
random smooth deformation) and lists the parts to paint, in order. The heart frame's origin is the heart's centre.
Positions and sizes follow typical adult anatomy (lumen: Dodge et al. 1992).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import EllipsisType

import numpy as np
import torch
from torch import Tensor

from cacsnet.errors import ArgumentError, ConfigError
from cacsnet.labels import STRUCTURE_INDEX
from cacsnet.phantom import heart_ellipsoid, heart_polar
from cacsnet.phantom.age import MEAN_YEARS, aortic_width, draw_age, trabecular_hu
from cacsnet.phantom.fields import Lattice, capsule_chain, ellipsoid, smooth_min
from cacsnet.phantom.heart import Heart, random_rotation, unit
from cacsnet.phantom.lungs import Lungs
from cacsnet.phantom.thorax import VERTEBRA_MM, Thorax
from cacsnet.phantom.thorax import tube as body_tube


@dataclass(frozen=True)
class Part:
    """One painted part: ``sdf`` (mm, negative inside); ``hu`` a value or a function of the points; label 0 = unlabelled,
    None = keep the label that is there; ``fine``: too thin for the half grid."""

    name: str
    sdf: Callable[[View], Tensor]
    hu: float | Callable[[View], Tensor]
    label: int | None = 0
    fine: bool = False


class View:
    """Points [3, ...] of a grid or of a box of it in both frames, with the fields that several parts share.

    Shared fields are computed once for the whole grid, on demand, and sliced for a box. What is smooth is evaluated on the
    half grid (every second point) and interpolated.
    """

    def __init__(
        self, patient: Patient, thorax: Tensor, heart: Tensor, root: View | None = None, block: Block = (),
        half: View | None = None,
    ) -> None:  # fmt: skip
        self.patient, self.thorax, self.heart = patient, thorax, heart
        self.root, self.block, self.half = root, block, half
        self.fields: dict[str, Tensor] = {}

    @classmethod
    def of(cls, patient: Patient, points: Tensor) -> View:
        """View of patient points [3, z, y, x] (mm) on a regular grid with an odd number of points along each axis."""
        if not all(size % 2 for size in points.shape[1:]):
            raise ArgumentError("needs an odd number of points along each axis", field="points", value=tuple(points.shape))
        thorax = patient.to_thorax(points[:, ::2, ::2, ::2])
        half = cls(patient, thorax, patient.to_heart(thorax))
        return cls(patient, doubled(half.thorax), doubled(half.heart), half=half)

    def box(self, block: Block) -> View:
        inner = (slice(None), *block)
        return View(self.patient, self.thorax[inner], self.heart[inner], self, block)

    def thinned(self, step: int) -> View:
        return View(
            self.patient,
            self.thorax[:, ::step, ::step, ::step].contiguous(),
            self.heart[:, ::step, ::step, ::step].contiguous(),
        )

    def field(self, name: str) -> Tensor:
        if self.root is not None:
            inner: tuple[EllipsisType | slice, ...] = (..., *self.block)
            return self.root.field(name)[inner]
        if name not in self.fields:
            at_full = self.half is None or name in FINE_FIELDS
            self.fields[name] = self.patient.fields[name](self) if at_full else doubled(self.half.field(name))  # type: ignore[union-attr]
        return self.fields[name]


FINE_FIELDS = ("texture",)


def doubled(values: Tensor) -> Tensor:
    """[..., z, y, x] on every second point to [..., 2 z - 1, 2 y - 1, 2 x - 1] on all, trilinear."""
    for axis in (-3, -2, -1):  # axis by axis: several times faster than torch's trilinear interpolation
        shape = list(values.shape)
        shape[axis] = 2 * shape[axis] - 1
        out = values.new_empty(shape)
        every, between = (out.movedim(axis, 0)[k::2] for k in (0, 1))
        lines = values.movedim(axis, 0)
        every.copy_(lines)
        torch.add(lines[:-1], lines[1:], out=between)
        between.mul_(0.5)
        values = out
    return values


Block = tuple[slice, ...]

Tube = tuple[np.ndarray, np.ndarray]
"""Line [n, 3] (mm) and radii [n]."""


@dataclass
class Tissue:
    """Mean HU of each tissue at 120 kVp and without contrast agent."""

    blood: float
    myocardium: float
    fat: float
    lung: float
    muscle: float
    liver: float
    trabecular: float
    cortical: float
    cartilage: float
    enhanced: bool = False
    chamber_hu: dict[str, float] = field(default_factory=dict)


def draw_tissue(rng: np.random.Generator, enhanced: bool, age_years: float = MEAN_YEARS) -> Tissue:
    blood = rng.uniform(25, 65) if rng.random() < 0.5 else rng.normal(42, 5)
    tissue = Tissue(
        blood=blood,
        myocardium=blood + (0.0 if rng.random() < 0.3 else rng.uniform(-10, 15)),
        fat=rng.uniform(-110, -75), lung=rng.uniform(-910, -780), muscle=rng.normal(55, 7), liver=rng.normal(57, 10),
        trabecular=max(50.0, trabecular_hu(age_years) + rng.uniform(-72, 72)), cortical=rng.uniform(350, 1000),
        cartilage=rng.uniform(80, 120), enhanced=enhanced,
    )  # fmt: skip
    if enhanced:
        level = rng.uniform(110, 450)
        tissue.myocardium = rng.uniform(70, 130)
        for chamber in ("lv", "rv", "la", "ra", "aorta", "trunk"):
            tissue.chamber_hu[chamber] = max(60.0, level * rng.uniform(0.6, 1.3))
    return tissue


SAC_GAP_MM = 1.2
"""Between the pericardial sac and the inside of the chest wall where they meet; ribs and cartilages lie 0.5 mm further out."""

PULMONARY_VEINS: list[tuple[str, list[list[float]], list[float]]] = [
    ("right_superior", [[15, -1, -16], [19, -4, -46], [29, 0, -82]], [11, 8, 5]),
    ("left_superior", [[15, 3, 16], [19, -2, 44], [31, -2, 76]], [11, 8, 5]),
    ("right_inferior", [[-4, 8, -24], [-8, 18, -50], [-16, 26, -82]], [10, 7, 5]),
    ("left_inferior", [[-2, 9, 22], [-6, 17, 44], [-14, 26, 74]], [9.5, 6.5, 5]),
]
"""Name, ends (mm, from the left atrium's middle), radii: they widen to funnels where they enter."""

CARINA = [72.0, 36.0, -8.0]
BESIDE_ARCH = [100.0, 42.0, -16.0]
"""Where the trachea passes to the right of the aortic arch, and where it divides (heart frame mm)."""

AIRWAYS: dict[str, list[tuple[list[list[float]], list[float]]]] = {
    "bronchus_right": [
        ([CARINA, [58, 40, -38]], [7.5, 6]),
        ([[65, 38, -22], [70, 37, -46], [84, 34, -68]], [5, 4.5, 2.5]),
        ([[58, 40, -38], [36, 46, -54], [8, 46, -74]], [5.5, 5, 2.5]),
    ],
    "bronchus_left": [
        ([CARINA, [66, 32, 14], [60, 35, 36]], [7, 6.3, 5.5]),
        ([[60, 35, 36], [66, 32, 56], [84, 28, 70]], [5, 4.5, 2.5]),
        ([[60, 35, 36], [40, 49, 46], [20, 50, 64]], [5.5, 5, 2.5]),
    ],
}
"""Main, upper and lower lobe bronchus of each side: ends (heart frame mm) and radii of the air in them. The main bronchi pass
above the left atrium: the right one behind the right pulmonary artery, the left one below the left artery and the arch."""

AIRWAY_WALL_MM = 1.4

ARCH_END = [96.0, 42.0, 12.0]

LEFT_PULMONARY_ARTERY = [[64.0, 8.0, 14.0], [77.0, 22.0, 34.0], [78.0, 38.0, 44.0], [62.0, 50.0, 55.0], [46.0, 54.0, 62.0]]
LEFT_PULMONARY_RADII = [12, 11, 9.5, 8, 6.5]
"""Ends (heart frame mm) and radii: from the trunk over the left main bronchus, then down behind it."""

BESIDE_AORTA_MM = 3.0
"""Least fat between the descending aorta and the left pulmonary artery or main bronchus."""

OESOPHAGUS_MM = (4.5, 9.0)
"""Half its depth and half its width."""

WALL_MM = 2.6
"""Least distance of a chamber's wall from the chest wall: the pericardium and a little fat."""

BEHIND_ATRIUM_MM = 2.0
"""Least room between the left atrium and the descending aorta; where there is less, the atrium is flattened."""

ARTERY_BED_MM, ARTERY_MM = 8.0, 7.6
"""Where coronary arteries can run (near the left ventricle or the right atrium) the heart's surface stays so far from the chest
wall: 2.6 mm of height, a lumen radius of at most 2.4 mm, a plaque of 2 mm, and the heart's scale."""


HEART_MODELS: dict[str, Callable[[np.random.Generator], Heart]] = {
    "ellipsoid": heart_ellipsoid.draw_heart,
    "polar": heart_polar.draw_heart,
}
"""Two ways to build a heart and its coronary course: train on one, judge on the other."""


class Patient:
    """One virtual patient, a function of position.

    Args:
        seed: everything follows from it.
        enhanced: None draws it (never, unless ``enhanced_share`` is given); True / False decides.
        wide: draw from the wide half of the domain randomisation (clutter, missing parts).
        heart_model: one of :data:`HEART_MODELS`.

    Raises:
        ConfigError: unknown heart model.
    """

    def __init__(self, seed: int, enhanced: bool = False, wide: bool | None = None, heart_model: str = "ellipsoid") -> None:
        if heart_model not in HEART_MODELS:
            raise ConfigError(f"unknown; known are {', '.join(HEART_MODELS)}", field="heart_model", value=heart_model)
        rng = np.random.default_rng([seed, 1])
        self.seed = seed
        self.wide = bool(rng.random() < 0.5) if wide is None else wide
        self.age_years = draw_age(np.random.default_rng([seed, 16]), self.wide)
        self.heart = HEART_MODELS[heart_model](np.random.default_rng([seed, 4]))
        self.heart.root_radii = self.heart.root_radii * aortic_width(self.age_years)
        self.tissue = draw_tissue(rng, enhanced, self.age_years)
        self.sheath_mm = float(np.clip(rng.normal(1.2 + 0.25 * self.heart.fat_mm, 0.5), 0.6, 3.5))
        spread = 1.6 if self.wide else 1.0
        turn = 1.3 if self.wide else 1.0  # wider, and hearts point where none does
        self.heart_rotation = random_rotation(rng, (9 * turn, 6 * turn, 8 * turn))
        self.body_rotation = random_rotation(rng, (4 * spread, 3, 3))
        self.heart_scale = 1.0
        size = float(np.clip(rng.normal(1.04, 0.05 * spread), 0.86, 1.26))
        self.thorax = Thorax(rng, *self._heart_surface(size), self.age_years)
        self.heart_scale = size * self.thorax.heart_fit
        self.heart.female = self.thorax.female
        self.descending_radius = rng.uniform(10.5, 15) * aortic_width(self.age_years)
        before_spine = self.thorax.spine_y - 16 - self.descending_radius + rng.uniform(-3, 6)
        self.descending = np.array([0.0, before_spine, self.thorax.midline + rng.uniform(8, 24)])
        self.descending_line = self._place_descending_aorta()
        self.left_pulmonary = self._beside_aorta(LEFT_PULMONARY_ARTERY, np.array(LEFT_PULMONARY_RADII) * self.heart_scale)
        self.airways = self._place_airways()
        self.warp = Lattice(rng, rng.uniform(45, 80), 3)
        self.warp_mm = rng.uniform(1.0, 3.2) * spread
        self.fine_warp = Lattice(rng, 22.0, 3)
        self.fine_warp_mm = rng.uniform(0.2, 0.7)
        self.texture = Lattice(rng, 9.0, 2)
        self.coarse_texture = Lattice(rng, 40.0, 2)
        self.lung_lines = Lattice(rng, rng.uniform(14, 22), 2)
        self.thymus_hu = float(rng.uniform(-95, 20))
        self.thymus_mm = rng.uniform([28, 4, 6], [42, 16, 26])
        self.mediastinal_fat_mm = float(rng.uniform(1.0, 5.0))
        self.bridged_mm = float(rng.uniform(6, 20))
        self.clutter = [self._draw_clutter(rng) for _ in range(rng.poisson(10 if self.wide else 4))]
        self.lungs = Lungs(rng, self.thorax)
        self.fields: dict[str, Callable[[View], Tensor]] = {
            "ring": lambda v: self.thorax.ring(v.thorax),
            "texture": lambda v: self.texture(v.thorax),
            "coarse_texture": lambda v: self.coarse_texture(v.thorax),
            "sac": self._sac_field,
            "mediastinum": self._mediastinum_field,
            "diaphragm": lambda v: self.thorax.diaphragm(v.thorax),
        }

    # -- frames ---------------------------------------------------------------------------------------------------
    def to_thorax(self, p: Tensor) -> Tensor:
        """Patient mm to the thorax frame."""
        moved = p + self.warp_mm * self.warp(p) + self.fine_warp_mm * self.fine_warp(p)
        return torch.einsum("ij,j...->i...", torch.as_tensor(self.body_rotation, dtype=p.dtype, device=p.device), moved)

    def to_heart(self, thorax: Tensor) -> Tensor:
        """Thorax frame to heart frame."""
        turn = torch.as_tensor(self.heart_rotation / self.heart_scale, dtype=thorax.dtype, device=thorax.device)
        return torch.einsum("ij,j...->i...", turn, thorax)

    def heart_to_patient(self, q: np.ndarray) -> np.ndarray:
        """Heart frame [n, 3] to patient mm, by fixed-point inversion of the deformation (to 0.01 mm)."""
        target = q @ (self.heart_rotation * self.heart_scale)  # inverse of a rotation is its transpose
        target = target @ self.body_rotation
        rigid = torch.tensor(np.ascontiguousarray(target.T), dtype=torch.float32)
        p = rigid.clone()
        for _ in range(12):
            p = rigid - self.warp_mm * self.warp(p) - self.fine_warp_mm * self.fine_warp(p)
        return p.T.numpy().astype(float)

    def _in_thorax(self, q: Sequence[Sequence[float]] | np.ndarray) -> np.ndarray:
        """Heart frame [n, 3] to thorax frame."""
        turned: np.ndarray = np.asarray(q, float) @ (self.heart_rotation * self.heart_scale)
        return turned

    def _heart_surface(self, scale: float) -> tuple[Tensor, float, float]:
        """The front of a heart of a given scale: float32 [4, n], points (z, y, x) mm of the thorax frame with the distance that
        each keeps from the chest wall; its lowest z; and its largest y near the midline. Points lie 8 mm apart."""
        heart = self.heart

        def sdf(p: Tensor) -> Tensor:
            return heart.solid_sdf(self.to_heart(p / scale)) * scale

        axes = [torch.arange(-96.0, 104.0, 8.0)] * 3
        p = torch.stack(torch.meshgrid(*axes, indexing="ij")).reshape(3, -1)
        value = sdf(p)
        lowest = float(p[0][value < 0].min()) - 4.0
        back = float(p[1][(value < 0) & ((p[2] + 8).abs() < 32)].max()) + 4.0
        p = p[:, (value.abs() < 8) & (p[1] < 10)]
        for _ in range(2):  # onto the surface
            value = sdf(p)
            slope = torch.stack([sdf(p + torch.eye(3)[k].reshape(3, 1)) - value for k in range(3)])
            p = p - value * slope / slope.square().sum(0).clamp_min(0.2)
        p = p[:, sdf(p).abs() < 2.0]  # where the field has a fold a step may lead anywhere
        q = self.to_heart(p / scale)
        bed = torch.minimum(heart.lv_outer_sdf(q), heart.ra_sdf(q)) < ARTERY_BED_MM
        keep = torch.where(bed, torch.tensor(ARTERY_MM), torch.tensor(WALL_MM))
        return torch.cat([p, keep[None]]), lowest, back

    def _sac_field(self, v: View) -> Tensor:
        """Distance to the pericardial sac where it is near, 30 mm elsewhere. Where it meets the chest wall it is flat."""
        if v.heart.dim() != 4:
            return torch.maximum(self.heart.sac_sdf(v.heart) * self.heart_scale, v.field("ring")[0] + SAC_GAP_MM)
        out = torch.full(v.heart.shape[1:], 30.0)
        thin = v.heart[:, ::4, ::4, ::4]
        near = self.heart.sac_sdf(thin) < 30.0
        block = block_of(near, 4, out.shape)
        if block is not None:
            wall = v.field("ring")[0][block] + SAC_GAP_MM
            out[block] = torch.maximum(self.heart.sac_sdf(v.heart[(slice(None), *block)]) * self.heart_scale, wall)
        return out

    def _draw_clutter(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, float, float]:
        """A blob or tube somewhere in the chest: centre, half length vector, radius (mm) and HU offset.

        No brighter than soft tissue gets without contrast or calcium: it has no label, so brighter ones would be false
        candidates with no owner."""
        centre = rng.uniform([-90, -70, -110], [90, 80, 110])
        direction = unit(rng.normal(size=3)) * rng.choice([0.0, rng.uniform(5, 40)])
        return centre, direction, rng.uniform(1.5, 9), rng.uniform(-90, 45)

    def great_vessels(self) -> dict[str, Callable[[View], Tensor]]:
        """Distances to the vessels above the heart, oesophagus and airway, which the lungs lie against."""
        heart, dr, scale = self.heart, self.descending_radius, self.heart_scale

        def tube(line: Sequence[Sequence[float]], radii: Sequence[float]) -> Callable[[View], Tensor]:
            nodes, sizes = torch.tensor(line, dtype=torch.float32), torch.tensor(radii, dtype=torch.float32)
            return lambda v: capsule_chain(v.heart, nodes, sizes) * scale

        cava = [list(heart.ra_centre + np.array([22, 4, 4])), [60, 6, -41], [120, 6, -38]]
        return {
            "pulmonary_right": tube([[62, 10, 12], [56, 20, -18], [48, 28, -58]], [12, 11, 8]),
            "pulmonary_left": body_tube(self.left_pulmonary, np.array(LEFT_PULMONARY_RADII) * scale),
            "vena_cava_superior": tube(cava, [10, 9.5, 9]),
            "arch": tube([list(heart.root[-1]), ARCH_END], [0.9 * heart.root_radii[-1], dr]),
            "descending_aorta": body_tube(self.descending_line, [dr] * 4),
            "oesophagus": self._oesophagus(),
            "airway": self._airway([lines[0] for lines in self.airways.values()], AIRWAY_WALL_MM),
        }

    def _oesophagus(self) -> Callable[[View], Tensor]:
        """A flattened tube before the spine, to the right of the descending aorta, which it crosses in front at the
        diaphragm; behind the trachea at the top."""
        _, y, x = self.descending
        spine, m = self.thorax.spine_y - VERTEBRA_MM, self.thorax.midline
        aside = min(m + 2.0, x - self.descending_radius - OESOPHAGUS_MM[1] - 1.0)
        before_aorta = y - self.descending_radius - OESOPHAGUS_MM[0] - 2.0
        low = [[-120, before_aorta, x], [-75, before_aorta + 4, x - 8]]
        line = np.array([*low, [-35, spine - 6, aside], [60, spine - 6, aside], [110, spine - 6, m + 2]])
        flat = OESOPHAGUS_MM[1] / OESOPHAGUS_MM[0]
        nodes = torch.tensor(line * [1, flat, 1], dtype=torch.float32)
        radii = torch.full((len(line),), OESOPHAGUS_MM[1])

        def sdf(v: View) -> Tensor:
            q = torch.stack([v.thorax[0], flat * v.thorax[1], v.thorax[2]])
            return capsule_chain(q, nodes, radii) / flat

        return sdf

    def _place_descending_aorta(self) -> np.ndarray:
        """Axis [4, 3], thorax frame: from the arch down behind the left main bronchus, beside the spine."""
        _, y, x = self.descending
        ends, radii = AIRWAYS["bronchus_left"][0]
        bronchus = torch.tensor(self._in_thorax(ends), dtype=torch.float32)
        keep = self.descending_radius + max(radii) + AIRWAY_WALL_MM + BESIDE_AORTA_MM
        behind = np.array([self._in_thorax(ends)[1][0], y, x])
        while float(capsule_chain(torch.tensor(behind, dtype=torch.float32), bronchus, torch.zeros(len(ends)))) < keep:
            behind += [0.0, 1.0, 0.5]
        line = np.stack([[-150, y + 6, x - 8], [0, y, x], behind, self._in_thorax([ARCH_END])[0]])
        levels = np.arange(-45.0, 61.0, 5.0)
        for _ in range(16):  # back and to the left, beside the vertebrae, until it clears the left atrium
            at = np.stack([levels, *(np.interp(levels, line[:3, 0], line[:3, k]) for k in (1, 2))])
            near = self.heart.la_sdf(self.to_heart(torch.tensor(at, dtype=torch.float32))) * self.heart_scale
            if float(near.min()) > self.descending_radius + BEHIND_ATRIUM_MM:
                break
            line[:3, 1:] += 0.7
        return line

    def _beside_aorta(self, ends: Sequence[Sequence[float]], radii: np.ndarray) -> np.ndarray:
        """A tube's line [n, 3] (from the heart to the thorax frame) moved to the left, point by point, until it clears the
        descending aorta."""
        line, aorta = self._in_thorax(ends), torch.tensor(self.descending_line, dtype=torch.float32)
        keep = torch.tensor(radii + self.descending_radius + BESIDE_AORTA_MM, dtype=torch.float32)
        for _ in range(60):  # mm
            near = capsule_chain(torch.tensor(line.T, dtype=torch.float32), aorta, torch.zeros(len(aorta))) < keep
            if not bool(near.any()):
                break
            line[near.numpy(), 2] += 1.0
        return line

    def _place_airways(self) -> dict[str, list[Tube]]:
        """Lines (thorax frame) and radii of the air: trachea; main bronchi, each followed by its lobar bronchi."""
        top = [150.0, 30.0, self.thorax.midline]
        out = {"trachea": [(np.stack([top, *self._in_thorax([BESIDE_ARCH, CARINA])]), np.full(3, 9.0))]}
        for name, tubes in AIRWAYS.items():
            place = self._in_thorax if name == "bronchus_right" else self._left_bronchus
            out[name] = [(place(ends), np.array(radii)) for ends, radii in tubes]
        return out

    def _left_bronchus(self, ends: Sequence[Sequence[float]]) -> np.ndarray:
        return self._beside_aorta(ends, np.full(len(ends), 5.0 + AIRWAY_WALL_MM))

    def _airway(self, tubes: Sequence[Tube], wider_mm: float = 0.0) -> Callable[[View], Tensor]:
        """Distance to airways, ``wider_mm`` beyond the air in them."""
        sdfs = [body_tube(line, radii + wider_mm) for line, radii in tubes]
        return lambda v: torch.stack([sdf(v) for sdf in sdfs]).amin(0)

    def _mediastinum_field(self, v: View) -> Tensor:
        """Distance to what the lungs lie against in the middle of the chest: sac and great vessels with the fat between
        them, up to 30 mm."""
        out = v.field("sac")
        above = torch.minimum(self.heart.root_sdf(v.heart), self.heart.trunk_sdf(v.heart)) * self.heart_scale
        for one in (lambda _: above, *self.great_vessels().values()):
            out = smooth_min(out, one(v), self.bridged_mm)
        return out - self.mediastinal_fat_mm

    def parts(self) -> list[Part]:
        """Everything to paint, back to front."""
        t, heart = self.tissue, self.heart
        s = STRUCTURE_INDEX
        scale = self.heart_scale

        def textured(mean: float, sd: float) -> Callable[[View], Tensor]:
            return lambda v: mean + sd * v.field("texture")[0]

        def lung(v: View) -> Tensor:
            return self.lungs.hu(v, t.lung, self.lung_lines(v.thorax))

        def bone(v: View) -> Tensor:
            return t.trabecular * (1 + 0.22 * v.field("texture")[0] + 0.25 * v.field("coarse_texture")[1])

        def muscle(v: View) -> Tensor:
            fine, streaks = v.field("texture")
            return t.muscle + 9 * fine - 60 * (streaks - 1.3).clamp(0, 1)  # fat between the fibres

        def diaphragm(v: View) -> Tensor:
            return torch.maximum(v.field("ring")[0] + 1.0, (v.field("diaphragm") - 1.0).abs() - 1.2)

        def beside(place: np.ndarray, *offset: float) -> list[float]:
            return list(place + np.array(offset))

        def tube(line: Sequence[Sequence[float]], radii: Sequence[float]) -> Callable[[View], Tensor]:
            nodes, sizes = torch.tensor(line, dtype=torch.float32), torch.tensor(radii, dtype=torch.float32)
            return lambda v: capsule_chain(v.heart, nodes, sizes) * scale

        def pulmonary_vein(ends: Sequence[Sequence[float]], radii: Sequence[float]) -> Callable[[View], Tensor]:
            return tube([beside(heart.la_centre, *end) for end in ends], radii)

        def left_ventricle(p: Tensor) -> Tensor:
            """Half way between both where the left atrium (its appendage lies on the ventricle) reaches into the muscle."""
            muscle = heart.lv_outer_sdf(p)
            return torch.maximum(muscle, 0.5 * (muscle - heart.la_sdf(p)))

        def chamber(sdf: Callable[[Tensor], Tensor]) -> Callable[[View], Tensor]:
            return lambda v: sdf(v.heart) * scale

        hu = {name: t.chamber_hu.get(name, t.blood) for name in ("lv", "rv", "la", "ra", "aorta", "trunk")}
        chest = self.thorax
        m, y0 = chest.midline, chest.chest_y
        ra = heart.ra_centre
        vessel = self.great_vessels()
        neck = [[[98, 14, 0], [150, 8, -22]], [[100, 22, 4], [165, 14, 22]], [[98, 32, 10], [160, 30, 34]]]
        left_vein = [[132, -4, 52], [116, -6, 20], [104, 2, -38]]
        azygos: list[list[float]] = [[-120, chest.spine_y - 22, m - 8], [80, chest.spine_y - 24, m - 10], [84, 30, -34]]

        def before_aorta(sdf: Callable[[Tensor], Tensor], room_mm: float) -> Callable[[View], Tensor]:
            return lambda v: torch.maximum(sdf(v.heart) * scale, room_mm - vessel["descending_aorta"](v))

        def upper_vessels(v: View) -> Tensor:
            out = torch.full(v.heart.shape[1:], 1e3)
            for line, radius in zip(neck, (6.5, 4.0, 5.0), strict=True):
                out = torch.minimum(out, tube(line, [radius, 0.9 * radius])(v))
            return torch.minimum(out, tube(left_vein, [7.0, 7.0, 8.0])(v))

        def thymus(v: View) -> Tensor:
            high, deep, wide = self.thymus_mm
            return ellipsoid(v.thorax, (82, y0 - chest.half_depth + 10 + deep, m + 6), None, (high, deep, wide))

        parts = [
            Part("table", chest.table, -60.0, fine=True),
            Part("skin", chest.body, 20.0),
            Part("subcutaneous_fat", lambda v: chest.body(v) + 2.0, textured(t.fat, 8)),
            Part("gland", chest.gland, lambda v: t.fat + 70 * v.field("texture")[0].clamp_min(0)),
            Part("muscle", chest.muscle, muscle),
            Part("shoulder_cortex", chest.shoulder_bones, textured(0.8 * t.cortical, 60), fine=True),
            Part("shoulder_marrow", lambda v: chest.shoulder_bones(v) + 2.0, bone, fine=True),
            Part("mediastinum", lambda v: v.field("ring")[0] + 1.0, textured(t.fat, 10)),
            Part("abdomen", lambda v: torch.maximum(v.field("ring")[0] + 1.0, v.field("diaphragm")),
                 lambda v: chest.abdomen_hu(v, t.liver, t.fat)),
            Part("diaphragm", diaphragm, t.muscle, fine=True),
            Part("lung", chest.lung, lung),
            *(Part("scar", partial(self.lungs.scar, which=k), band[-1], fine=True) for k, band in enumerate(self.lungs.scars)),
            *([Part("effusion", self.lungs.effusion, self.lungs.effusion_hu)] if self.lungs.effusion_mm.any() else []),
            Part("pads", chest.pads, textured(t.fat, 8)),
            Part("thymus", thymus, lambda v: self.thymus_hu + 12 * v.field("texture")[0]),
            Part("oesophagus", vessel["oesophagus"], textured(35, 12)),
            Part("azygos", body_tube(azygos, [4, 5, 5]), hu["ra"], fine=True),
            Part("upper_vessels", upper_vessels, hu["aorta"], fine=True),
            Part("pulmonary_right", vessel["pulmonary_right"], hu["trunk"], s["pulmonary_artery"]),
            Part("pulmonary_left", vessel["pulmonary_left"], hu["trunk"], s["pulmonary_artery"]),
            Part("sac", lambda v: v.field("sac"), textured(t.fat, 9)),
            Part("pericardium", lambda v: v.field("sac").abs() - 0.6, 0.5 * t.muscle, fine=True),
            Part("descending_aorta", vessel["descending_aorta"], hu["aorta"]),
            *(Part(f"{way}_wall", self._airway(tubes, AIRWAY_WALL_MM), 30.0, fine=True) for way, tubes in self.airways.items()),
            *(Part(way, self._airway(tubes), -990.0, fine=True) for way, tubes in self.airways.items()),
            *(Part(f"vein_{side}", pulmonary_vein(ends, radii), hu["la"]) for side, ends, radii in PULMONARY_VEINS),
            Part("vena_cava_superior", vessel["vena_cava_superior"], hu["ra"]),
            Part("vena_cava_inferior", tube([beside(ra, -22, 10, 4), [-80.0, 26.0, -34.0]], [12, 12]), hu["ra"]),
            Part("wall", before_aorta(heart.muscle_sdf, 0.5), textured(t.myocardium, 3)),
            Part("right_ventricle", chamber(heart.rv_sdf), hu["rv"], s["right_ventricle"]),
            Part("right_atrium", chamber(heart.ra_sdf), hu["ra"], s["right_atrium"]),
            Part("left_atrium", before_aorta(heart.la_sdf, BEHIND_ATRIUM_MM), hu["la"], s["left_atrium"]),
            Part("myocardium", chamber(left_ventricle), textured(t.myocardium, 3), s["myocardium"]),
            Part("left_ventricle", chamber(heart.lv_inner_sdf), hu["lv"], s["left_ventricle"]),
            Part("papillary_muscles", chamber(heart.papillary_sdf), textured(t.myocardium, 3), None, fine=True),
            Part("trunk", chamber(heart.trunk_sdf), hu["trunk"], s["pulmonary_artery"]),
            Part("arch", vessel["arch"], hu["aorta"]),
            Part("aorta", chamber(heart.root_sdf), hu["aorta"], s["aorta"]),
            Part("cartilage", chest.cartilage, lambda v: chest.cartilage_hu(v, t.cartilage), fine=True),
            Part("rib_cortex", chest.rib, textured(t.cortical, 60), fine=True),
            Part("rib_marrow", lambda v: chest.rib(v) + 1.6, bone, fine=True),
            Part("sternum_cortex", chest.sternum, textured(0.6 * t.cortical, 40), fine=True),
            Part("sternum_marrow", lambda v: chest.sternum(v) + 1.7, bone, fine=True),
            Part("disc", chest.disc, textured(85, 8), fine=True),
            Part("vertebra_cortex", chest.vertebra, textured(0.8 * t.cortical, 60), fine=True),
            Part("vertebra_marrow", lambda v: chest.vertebra(v) + 1.7, bone, fine=True),
            Part("posterior_elements", chest.processes, lambda v: 1.6 * bone(v), fine=True),
            Part("canal", chest.canal, 30.0, fine=True),
        ]  # fmt: skip
        after_lung = next(i for i, part in enumerate(parts) if part.name == "lung") + 1
        for line, radii in chest.branches:
            inside_lung = Part("lung_vessel", body_tube(line, radii), hu["la"], fine=True)
            parts.insert(after_lung, inside_lung)
        for centre, direction, radius, offset in self.clutter:
            line = np.stack([centre - direction, centre + direction + 0.01])
            blob = Part("clutter", body_tube(line, [radius, radius]), offset + 20.0, None, fine=True)
            parts.insert(after_lung if offset > 0 else len(parts) - 10, blob)
        return parts

    def shading(self, v: View) -> Tensor:
        """Slow cupping, +- 10 HU at most."""
        half = v.half or v
        slow = (3.0 * self.coarse_texture(half.thorax * 0.3)[0]).clamp(-10, 10)
        return doubled(slow) if v.half else slow


def block_of(near: Tensor, step: int, shape: Sequence[int]) -> Block | None:
    """Box of full-grid voxels around the true voxels of a grid thinned out by ``step``; None if there are none."""
    if not bool(near.any()):
        return None
    out = []
    for axis in range(3):
        hit = torch.nonzero(near.amax(dim=[a for a in range(3) if a != axis])).flatten()
        out.append(slice(max(0, (int(hit[0]) - 1) * step), min(shape[axis], (int(hit[-1]) + 1) * step + 1)))
    return tuple(out)
