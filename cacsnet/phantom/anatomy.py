"""The patient: a heart and thorax as a function of position.

:class:`Patient` is drawn from a seed. It maps patient mm to two canonical frames (thorax and heart: rigid motion, scale and a
random smooth deformation) and lists the parts to paint, in order. The heart frame's origin is the heart's centre.
Positions and sizes follow typical adult anatomy (lumen: Dodge et al. 1992).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import EllipsisType

import numpy as np
import torch
from torch import Tensor

from cacsnet.errors import ConfigError
from cacsnet.labels import STRUCTURE_INDEX
from cacsnet.phantom import heart_ellipsoid, heart_polar
from cacsnet.phantom.fields import Lattice, capsule_chain, ellipsoid, smooth_max
from cacsnet.phantom.heart import Heart, random_rotation, unit

@dataclass(frozen=True)
class Part:
    """One painted part: ``sdf`` (mm, negative inside); ``hu`` a value or a function of the points; label 0 = unlabelled,
    None = keep the label that is there."""

    name: str
    sdf: Callable[[View], Tensor]
    hu: float | Callable[[View], Tensor]
    label: int | None = 0


class View:
    """Points [3, ...] of a grid or of a box of it in both frames, with the fields that several parts share.

    Shared fields are computed once for the whole grid, on demand, and sliced for a box.
    """

    def __init__(self, patient: Patient, thorax: Tensor, heart: Tensor, root: View | None = None, block: Block = ()):
        self.patient, self.thorax, self.heart = patient, thorax, heart
        self.root, self.block = root, block
        self.fields: dict[str, Tensor] = {}

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
            self.fields[name] = self.patient.fields[name](self)
        return self.fields[name]


Block = tuple[slice, ...]


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


def draw_tissue(rng: np.random.Generator, enhanced: bool) -> Tissue:
    blood = rng.uniform(25, 65) if rng.random() < 0.5 else rng.normal(42, 5)
    tissue = Tissue(
        blood=blood,
        myocardium=blood + (0.0 if rng.random() < 0.3 else rng.uniform(-10, 15)),
        fat=rng.uniform(-115, -75), lung=rng.uniform(-910, -780), muscle=rng.normal(55, 7), liver=rng.normal(57, 10),
        trabecular=rng.uniform(90, 260), cortical=rng.uniform(350, 1000), cartilage=rng.uniform(75, 130), enhanced=enhanced,
    )  # fmt: skip
    if enhanced:
        level = rng.uniform(110, 450)
        tissue.myocardium = rng.uniform(70, 130)
        for chamber in ("lv", "rv", "la", "ra", "aorta", "trunk"):
            tissue.chamber_hu[chamber] = max(60.0, level * rng.uniform(0.6, 1.3))
    return tissue


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

    def __init__(
        self, seed: int, enhanced: bool = False, wide: bool | None = None, heart_model: str = "ellipsoid"
    ) -> None:
        if heart_model not in HEART_MODELS:
            raise ConfigError(f"unknown; known are {', '.join(HEART_MODELS)}", field="heart_model", value=heart_model)
        rng = np.random.default_rng([seed, 1])
        self.seed = seed
        self.wide = bool(rng.random() < 0.5) if wide is None else wide
        self.heart = HEART_MODELS[heart_model](np.random.default_rng([seed, 4]))
        self.tissue = draw_tissue(rng, enhanced)
        self.sheath_mm = float(np.clip(rng.normal(1.2 + 0.25 * self.heart.fat_mm, 0.5), 0.6, 3.5))
        # thorax frame: origin at the heart's centre too
        self.midline = rng.normal(-8, 7)
        self.half_width = rng.uniform(118, 152)
        self.half_depth = rng.uniform(74, 98)
        self.subcutaneous = float(np.clip(rng.gamma(2.2, 8), 4, 60))
        self.wall = rng.uniform(14, 28)
        self.dome = np.array([rng.uniform(-46, -22), rng.uniform(-54, -34)])  # top of the diaphragm, right and left
        self.rib_step = rng.uniform(22, 28)
        self.rib_phase = rng.uniform(0, 28)
        self.rib_slope = rng.uniform(55, 85)
        self.spine_phase = rng.uniform(0, 28)
        self.sternum_half = rng.uniform(14, 20)
        self.descending_radius = rng.uniform(10.5, 15)
        self.pad_radii = rng.uniform(10, 34, (2, 3)) * (rng.random((2, 1)) < 0.8)
        spread = 1.6 if self.wide else 1.0
        self.heart_rotation = random_rotation(rng, (9 * spread, 6 * spread, 8 * spread))
        self.heart_scale = float(np.clip(rng.normal(1.04, 0.05 * spread), 0.88, 1.24))
        self.body_rotation = random_rotation(rng, (4 * spread, 3, 3))
        self.warp = Lattice(rng, rng.uniform(45, 80), 3)
        self.warp_mm = rng.uniform(1.0, 3.2) * spread
        self.fine_warp = Lattice(rng, 22.0, 3)
        self.fine_warp_mm = rng.uniform(0.2, 0.7)
        self.texture = Lattice(rng, 9.0, 2)
        self.coarse_texture = Lattice(rng, 40.0, 2)
        self.lung_lines = Lattice(rng, rng.uniform(14, 22), 2)
        self.clutter = [self._draw_clutter(rng) for _ in range(rng.poisson(10 if self.wide else 4))]
        self.chest_y = self._heart_front() - rng.uniform(-3, 8) + self.half_depth
        spine_y = self.chest_y + self.half_depth - 4
        self.descending = np.array(
            [0.0, spine_y - 16 - self.descending_radius + rng.uniform(-3, 6), self.midline + rng.uniform(8, 24)]
        )
        self.fields: dict[str, Callable[[View], Tensor]] = {
            "ring": lambda v: torch.stack(self._ring(v.thorax)),
            "texture": lambda v: self.texture(v.thorax),
            "coarse_texture": lambda v: self.coarse_texture(v.thorax),
            "sac": self._sac_field,
            "diaphragm": lambda v: self._diaphragm(v.thorax),
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

    def _heart_front(self) -> float:
        """Foremost y (mm, thorax frame) of the heart, on an 8 mm grid."""
        axes = [torch.arange(-88.0, 96.0, 8.0)] * 3
        p = torch.stack(torch.meshgrid(*axes, indexing="ij"))
        inside = self.heart.muscle_sdf(self.to_heart(p)) < 0
        return float(p[1][inside].min()) - 4.0

    def _sac_field(self, v: View) -> Tensor:
        """Distance to the pericardial sac where it is near, 30 mm elsewhere."""
        out = torch.full(v.heart.shape[1:], 30.0)
        thin = v.heart[:, ::4, ::4, ::4]
        near = self.heart.sac_sdf(thin) < 30.0
        block = block_of(near, 4, out.shape)
        if block is not None:
            out[block] = self.heart.sac_sdf(v.heart[(slice(None), *block)]) * self.heart_scale
        return out

    # -- thorax ---------------------------------------------------------------------------------------------------
    def _ring(self, p: Tensor) -> tuple[Tensor, Tensor]:
        """Distance outside the thoracic cavity's wall (mm) and angle from the spine (0) over the side to the front (pi)."""
        z, y, x = p[0], p[1] - self.chest_y, p[2] - self.midline
        taper = (1 - ((z - 10).clamp_min(0) / 190).square()).clamp_min(0.15).sqrt()
        a, b = self.half_width * taper, self.half_depth * (0.4 + 0.6 * taper)
        power = 2.3
        k = ((x.abs() / a) ** power + (y.abs() / b) ** power) ** (1 / power)
        radius = (x.square() + y.square()).sqrt().clamp_min(1.0)
        distance = radius * (1 - 1 / k.clamp_min(1e-3))
        return distance, torch.atan2(x.abs() / a, y / b)

    def _body(self, v: View) -> Tensor:
        return v.field("ring")[0] - self.wall - self.subcutaneous

    def _muscle(self, v: View) -> Tensor:
        distance, angle = v.field("ring")
        back = (1 - angle / 1.2).clamp_min(0) * 26
        front = ((angle - 2.0) / 1.1).clamp_min(0) * 0.35 * self.wall
        return torch.maximum(distance - self.wall - back + front, self._body(v) + 3)

    def _diaphragm(self, p: Tensor) -> Tensor:
        """Height above the diaphragm (mm): a dome on each side, a saddle under the heart, steep to the wall."""
        x, y = p[2] - self.midline, p[1] - self.chest_y
        side = torch.sigmoid(x / 12)
        top = self.dome[0] * (1 - side) + self.dome[1] * side
        away = x.abs() - 0.5 * self.half_width
        drop = torch.where(away > 0, 30.0, 9.0) * (away / 65).square()
        drop = drop + ((y + 5) / 75).square() * 30 + y.clamp_min(0) * 0.25
        return p[0] - (top - drop)

    def _lung(self, v: View) -> Tensor:
        z, y, x = v.thorax[0], v.thorax[1], v.thorax[2] - self.midline
        upper = ((z - 20) / 60).clamp(0, 1)
        half = 24 + 8 * upper - 14 * ((y - self.chest_y - 10) / 60).clamp(0, 1) - 12 * ((-y - 30) / 30).clamp(0, 1)
        out = torch.maximum(v.field("ring")[0] + 3.5, half.clamp_min(3.0) - x.abs())
        out = torch.maximum(out, 1.0 - torch.minimum(v.field("sac"), self._pads(v)))
        return torch.maximum(out, 3.0 - v.field("diaphragm"))

    def _pads(self, v: View) -> Tensor:
        """Cardiophrenic fat pads, right and left of the heart's lower front edge."""
        p = v.thorax
        out = torch.full(p.shape[1:], 1e3, dtype=p.dtype)
        for centre, radii in zip(((-44, -38, -48), (-46, -42, 62)), self.pad_radii, strict=True):
            if radii.min() > 0:
                out = torch.minimum(out, ellipsoid(p, centre, None, radii))
        return out

    def _ribs(self, v: View) -> tuple[Tensor, Tensor]:
        distance, angle = v.field("ring")
        height = v.thorax[0] + self.rib_slope * (angle / np.pi) ** 1.5 + self.rib_phase
        height = torch.remainder(height, self.rib_step) - self.rib_step / 2
        sdf = ((distance - 5.0).square() / (4.2 / 6.5) ** 2 + height.square()).sqrt() - 6.5
        return sdf * 0.7, angle

    def _rib(self, v: View) -> Tensor:
        sdf, angle = self._ribs(v)
        return torch.maximum(sdf, (angle - 2.35) * 60)

    def _cartilage(self, v: View) -> Tensor:
        sdf, angle = self._ribs(v)
        edge = (self.sternum_half - (v.thorax[2] - self.midline).abs()) + 2
        return torch.maximum(torch.maximum(sdf - 0.5, (2.35 - angle) * 60), edge)

    def _sternum(self, v: View) -> Tensor:
        distance, angle = v.field("ring")
        front = torch.where(angle > 1.6, distance - 6.0, torch.full_like(distance, 1e3))
        p = v.thorax
        wide = self.sternum_half * (1.25 - 0.25 * torch.tanh((30 - p[0]) / 30))
        box = smooth_max(front.abs() - 6.0, (p[2] - self.midline).abs() - wide, 5.0)
        return torch.maximum(box, -70 - p[0])

    def _spine_axes(self, v: View) -> tuple[Tensor, Tensor, Tensor]:
        p = v.thorax
        z = torch.remainder(p[0] + self.spine_phase, 26.0) - 13.0
        return z, p[1] - (self.chest_y + self.half_depth - 4), p[2] - self.midline

    def _vertebra(self, v: View) -> Tensor:
        z, y, x = self._spine_axes(v)
        waist = 1.0 - 0.10 * torch.cos(z / 13 * np.pi * 0.9).clamp_min(0)
        body = ((y / 15.5).square() + (x / 20).square()).sqrt() * 16 - 16 * waist
        return smooth_max(body, z.abs() - 10.5, 3.0)

    def _disc(self, v: View) -> Tensor:
        _, y, x = self._spine_axes(v)
        return ((y / 15).square() + (x / 19).square()).sqrt() * 15 - 15

    def _canal(self, v: View) -> Tensor:
        _, y, x = self._spine_axes(v)
        return ((y - 24).square() + x.square()).sqrt() - 8.5

    def _processes(self, v: View) -> Tensor:
        z, y, x = self._spine_axes(v)
        arch = ((y - 24).square() + x.square()).sqrt() - 14.0
        spinous = torch.maximum(torch.maximum(x.abs() - 3.5, (y - 42).abs() - 14), z.abs() - 9)
        transverse = torch.maximum(torch.maximum(x.abs() - 34, (y - 24 - 0.2 * x.abs()).abs() - 5), (z - 2).abs() - 6)
        processes = torch.minimum(torch.minimum(arch, spinous), transverse)
        return torch.maximum(processes, -self._canal(v))

    def _draw_clutter(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, float, float]:
        """A blob or tube somewhere in the chest: centre, half length vector, radius (mm) and HU offset."""
        centre = rng.uniform([-90, -70, -110], [90, 80, 110])
        direction = unit(rng.normal(size=3)) * rng.choice([0.0, rng.uniform(5, 40)])
        return centre, direction, rng.uniform(1.5, 9), rng.uniform(-90, 90)

    def parts(self) -> list[Part]:
        """Everything to paint, back to front."""
        t, heart = self.tissue, self.heart
        s = STRUCTURE_INDEX
        scale = self.heart_scale

        def textured(mean: float, sd: float) -> Callable[[View], Tensor]:
            return lambda v: mean + sd * v.field("texture")[0]

        def lung(v: View) -> Tensor:
            distance = self.lung_lines(v.thorax).square().sum(0).sqrt()
            vessels = (1 - distance / 0.16).clamp(0, 1)
            near = (1.3 - (v.thorax[1:] / 130).square().sum(0).sqrt()).clamp(0.1, 1)
            return t.lung + 25 * v.field("coarse_texture")[0] + 12 * v.field("texture")[1] + 800 * vessels * near

        def bone(v: View) -> Tensor:
            return t.trabecular * (1 + 0.35 * v.field("texture")[0] + 0.25 * v.field("coarse_texture")[1])

        def abdomen(v: View) -> Tensor:
            shape, pattern = v.field("coarse_texture")
            liver = torch.sigmoid((18 + 14 * shape - (v.thorax[2] - self.midline)) / 2)
            gut = torch.where(pattern > 1.0, -700.0, torch.where(pattern > -0.1, 35.0, t.fat))
            return liver * t.liver + (1 - liver) * gut

        def beside(place: np.ndarray, *offset: float) -> list[float]:
            return list(place + np.array(offset))

        def tube(line: Sequence[Sequence[float]], radii: Sequence[float], frame: str = "heart") -> Callable[[View], Tensor]:
            nodes, sizes = torch.tensor(line, dtype=torch.float32), torch.tensor(radii, dtype=torch.float32)
            if frame == "heart":
                return lambda v: capsule_chain(v.heart, nodes, sizes) * scale
            return lambda v: capsule_chain(v.thorax, nodes, sizes)

        def chamber(sdf: Callable[[Tensor], Tensor]) -> Callable[[View], Tensor]:
            return lambda v: sdf(v.heart) * scale

        hu = {name: t.chamber_hu.get(name, t.blood) for name in ("lv", "rv", "la", "ra", "aorta", "trunk")}
        m, d, dr = self.midline, self.descending, self.descending_radius
        la, ra = heart.la_centre, heart.ra_centre
        arch = [list(heart.root[-1]), [96, 42, 12]]
        aorta_line = [[-150, d[1] + 6, d[2] - 8], [0, d[1], d[2]], [70, d[1] - 4, d[2]], [95, 40, d[2] - 2]]
        right_artery = [[62, 10, 12], [56, 20, -18], [48, 28, -58]]
        left_artery = [[64, 8, 18], [64, 32, 36], [48, 48, 52]]
        cava: list[list[float]] = [beside(ra, 22, 4, 4), [60, 4, -44], [120, 6, -40]]
        parts = [
            Part("skin", self._body, 20.0),
            Part("subcutaneous_fat", lambda v: self._body(v) + 2.0, textured(t.fat, 8)),
            Part("muscle", self._muscle, textured(t.muscle, 9)),
            Part("mediastinum", lambda v: v.field("ring")[0] + 1.0, textured(t.fat, 10)),
            Part("abdomen", lambda v: torch.maximum(v.field("ring")[0] + 1.0, v.field("diaphragm")), abdomen),
            Part("lung", self._lung, lung),
            Part("pads", self._pads, textured(t.fat, 8)),
            Part("oesophagus", tube([[-90, d[1] - 10, m + 4], [100, d[1] - 6, m]], [8, 7], "thorax"), textured(35, 12)),
            Part("descending_aorta", tube(aorta_line, [dr, dr, dr, dr], "thorax"), hu["aorta"]),
            Part("trachea", tube([[150, 22, m], [66, 34, m + 2]], [9, 9], "thorax"), -990.0),
            Part("bronchus_right", tube([[66, 34, m + 1], [44, 44, m - 34]], [7.5, 6], "thorax"), -990.0),
            Part("bronchus_left", tube([[66, 34, m + 3], [46, 46, m + 42]], [7, 5.5], "thorax"), -990.0),
            Part("pulmonary_right", tube(right_artery, [11, 10, 8]), hu["trunk"], s["pulmonary_artery"]),
            Part("pulmonary_left", tube(left_artery, [11, 11, 8]), hu["trunk"], s["pulmonary_artery"]),
            Part("sac", lambda v: v.field("sac"), textured(t.fat, 9)),
            Part("pericardium", lambda v: v.field("sac").abs() - 0.6, 0.5 * t.muscle),
            Part("veins_right", tube([beside(la, 2, 6, -26), beside(la, 2, 14, -66)], [8, 6]), hu["la"]),
            Part("veins_left", tube([beside(la, 2, 8, 26), beside(la, 4, 20, 60)], [8, 6]), hu["la"]),
            Part("vena_cava_superior", tube(cava, [10, 9.5, 9]), hu["ra"]),
            Part("vena_cava_inferior", tube([beside(ra, -22, 10, 4), [-80.0, 26.0, -34.0]], [12, 12]), hu["ra"]),
            Part("wall", chamber(heart.muscle_sdf), textured(t.myocardium, 3)),
            Part("right_ventricle", chamber(heart.rv_sdf), hu["rv"], s["right_ventricle"]),
            Part("right_atrium", chamber(heart.ra_sdf), hu["ra"], s["right_atrium"]),
            Part("left_atrium", chamber(heart.la_sdf), hu["la"], s["left_atrium"]),
            Part("myocardium", chamber(heart.lv_outer_sdf), textured(t.myocardium, 3), s["myocardium"]),
            Part("left_ventricle", chamber(heart.lv_inner_sdf), hu["lv"], s["left_ventricle"]),
            Part("trunk", chamber(heart.trunk_sdf), hu["trunk"], s["pulmonary_artery"]),
            Part("arch", tube(arch, [0.9 * heart.root_radii[-1], dr]), hu["aorta"]),
            Part("aorta", chamber(heart.root_sdf), hu["aorta"], s["aorta"]),
            Part("cartilage", self._cartilage, textured(t.cartilage, 15)),
            Part("rib_cortex", self._rib, textured(t.cortical, 60)),
            Part("rib_marrow", lambda v: self._rib(v) + 1.6, bone),
            Part("sternum_cortex", self._sternum, textured(0.6 * t.cortical, 40)),
            Part("sternum_marrow", lambda v: self._sternum(v) + 1.7, bone),
            Part("disc", self._disc, textured(85, 8)),
            Part("vertebra_cortex", self._vertebra, textured(0.8 * t.cortical, 60)),
            Part("vertebra_marrow", lambda v: self._vertebra(v) + 1.7, bone),
            Part("posterior_elements", self._processes, lambda v: 1.6 * bone(v)),
            Part("canal", self._canal, 30.0),
        ]
        for centre, direction, radius, offset in self.clutter:
            line = np.stack([centre - direction, centre + direction + 0.01])
            blob = Part("clutter", tube(line.tolist(), [radius, radius], "thorax"), offset + 20.0, None)
            parts.insert(6 if offset > 0 else len(parts) - 10, blob)
        return parts

    def shading(self, v: View) -> Tensor:
        """Slow cupping, +- 10 HU at most."""
        return (3.0 * self.coarse_texture(v.thorax * 0.3)[0]).clamp(-10, 10)


def block_of(near: Tensor, step: int, shape: Sequence[int]) -> Block | None:
    """Box of full-grid voxels around the true voxels of a grid thinned out by ``step``; None if there are none."""
    if not bool(near.any()):
        return None
    out = []
    for axis in range(3):
        hit = torch.nonzero(near.amax(dim=[a for a in range(3) if a != axis])).flatten()
        out.append(slice(max(0, (int(hit[0]) - 1) * step), min(shape[axis], (int(hit[-1]) + 1) * step + 1)))
    return tuple(out)
