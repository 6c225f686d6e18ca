"""The chest around the heart: wall, bones, muscles, lungs, diaphragm, abdomen, arms and table, as functions of position.

The thorax frame is (z, y, x) mm with its origin in the heart's middle. The heart rests on the diaphragm and lies behind the
sternum: both are placed by the heart's own extent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from cacsnet.phantom.age import MEAN_YEARS, calcified_cartilage_share
from cacsnet.phantom.fields import capsule_chain, ellipsoid, smooth_max, smooth_min
from cacsnet.phantom.heart import unit

if TYPE_CHECKING:
    from cacsnet.phantom.anatomy import View

FAR_MM = 1e3

BEFORE_SPINE_MM = 6.0
"""Least room between the left atrium and the vertebrae: the oesophagus, flattened, and fat."""

PAD_BACK_MM = 25.0
"""Cardiophrenic fat pads lie in front of this y."""

VERTEBRA_MM = 16.0
"""From a vertebra's middle to its front."""


class Thorax:
    """Shape parameters of one chest, drawn from ``rng``.

    Args:
        rng: everything follows from it.
        front: float32 [4, n], (z, y, x) mm of points on the heart's surface, and how far each must stay from the wall (mm);
            thorax frame, before the heart is fitted to the chest.
        heart_bottom_mm: lowest z of the heart.
        heart_back_mm: largest y of the heart before the spine.
        age_years: decides how often the cartilages are calcified.

    Attributes:
        midline, chest_y: x of the midline and y of the chest's middle.
        heart_fit: factor by which a wide chest holds a larger heart.
        half_width, half_depth: of the rib cage's inside at the heart's level.
        subcutaneous, wall: thickness of fat and of muscle with ribs (mm); gutter: how far the lungs reach beside the spine;
            septum: half width of the fat between them in front of the great vessels and behind the heart.
        pad_mm: size of the fat pads beside the heart's lower edge, right and left; 0 for none.
        rim, rim_hu: share of the cartilages' surface that is calcified, and its HU.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        front: Tensor,
        heart_bottom_mm: float,
        heart_back_mm: float,
        age_years: float = MEAN_YEARS,
    ) -> None:
        self.midline = rng.normal(-8, 7)
        self.half_width = float(np.clip(rng.normal(135, 10), 112, 160))
        self.half_depth = self.half_width * rng.uniform(0.58, 0.70)
        self.subcutaneous = float(np.clip(rng.gamma(2.2, 8), 4, 60))
        self.wall = rng.uniform(14, 28)
        self.female = bool(rng.random() < 0.45)
        self.heart_fit = float(np.clip((self.half_width / 135) ** 0.5, 0.92, 1.08))
        left_dome = self.heart_fit * heart_bottom_mm + rng.uniform(2, 16)
        self.dome = np.array([left_dome + rng.uniform(6, 28), left_dome])  # top of the diaphragm, right and left
        self.rib_step = rng.uniform(22, 28)
        self.rib_phase = rng.uniform(0, 28)
        self.rib_slope = rng.uniform(125, 180)
        self.rib_rise = rng.uniform(25, 60)  # of the cartilages towards the sternum
        self.spine_phase = rng.uniform(0, 28)
        self.sternum_half = rng.uniform(14, 20)
        # right and left, mostly of middle size; less than 30 mm, as far as the sac's distance is known
        self.pad_mm = (rng.uniform(6, 34, (2, 3)).mean(1) * (rng.random(2) < 0.8)).clip(0, 29)
        self.gutter = rng.uniform(14, 26)
        # in most the lungs nearly meet in front of the great vessels; a broad septum of fat is the exception
        self.septum = rng.uniform(2.0, 9.0) if rng.random() < 0.75 else rng.uniform(9.0, 26.0)
        # most hearts touch the wall; a lung between them is the exception
        gap = rng.uniform(0.0, 2.0) if rng.random() < 0.85 else rng.uniform(2.0, 12.0)
        self.chest_y = self._behind_the_wall(front, gap)
        most = rng.uniform(9, 25)
        for _ in range(16):  # the chest is as deep as its heart asks for
            room = self.chest_y + self.half_depth - 4 - VERTEBRA_MM - self.heart_fit * heart_back_mm
            if BEFORE_SPINE_MM < room < most:
                break
            if room <= BEFORE_SPINE_MM:
                self.half_width *= 1.015
                self.half_depth *= 1.03
                gap = min(gap, 1.0)
            else:
                self.half_depth -= 0.4 * (room - most) + 0.5
            self.chest_y = self._behind_the_wall(front, gap)
        self.spine_y = self.chest_y + self.half_depth - 4
        self.arms_up = bool(rng.random() < 0.75)
        self.breast = rng.uniform(0.5, 1.3) if self.female else 0.0
        self.gas = float(rng.uniform(-30, 30))  # level of the gas in the stomach, mm in front of its middle
        self.organs = rng.normal(0, 1, (4, 3)) * np.array([8.0, 6.0, 8.0])  # liver's lobes, stomach, spleen
        self.table_mm = rng.uniform(4, 25)
        self.branches = [self._draw_branch(rng) for _ in range(16)]
        self.rim = float(rng.beta(1.2, 1.6)) if rng.random() < calcified_cartilage_share(age_years) else 0.0
        self.rim_hu = float(rng.uniform(150, 600))

    def _behind_the_wall(self, front: Tensor, gap_mm: float) -> float:
        """y of the chest's middle at which the nearest of the heart's points keeps its distance, and ``gap_mm`` more."""
        points, clear = self.heart_fit * front[:3], front[3] + gap_mm
        self.chest_y = 0.0
        middle = points * torch.tensor([1.0, 0.0, 1.0])[:, None]  # the same points halfway between breastbone and spine
        for _ in range(12):  # moving the chest can't make room at the sides: a larger heart has a wider chest
            beside = self.ring(middle)[0] + clear > 0
            if not bool(beside.any()):
                break
            self.half_width *= 1.03
            self.half_depth *= 1.03
        points, clear = points[:, ~beside], clear[~beside]
        low, high = -120.0, 160.0  # so far in front, so far behind
        for _ in range(16):
            self.chest_y = 0.5 * (low + high)
            in_front = points[1] < self.chest_y  # a chest too far in front is not mended by moving it on
            too_near = bool(((self.ring(points)[0] + clear > 0) & in_front).any())
            low, high = (low, self.chest_y) if too_near else (self.chest_y, high)
        return low

    # -- wall -----------------------------------------------------------------------------------------------------
    def ring(self, p: Tensor) -> Tensor:
        """[2, ...]: distance outside the thoracic cavity (mm); angle from the spine (0) over the side to the front (pi)."""
        z, y, x = p[0], p[1] - self.chest_y, p[2] - self.midline
        taper = (1 - ((z - 10).clamp_min(0) / 190).square()).clamp_min(0.15).sqrt()
        a, b = self.half_width * taper, self.half_depth * (0.4 + 0.6 * taper)
        # behind, the lungs reach beside the spine beyond its front
        back = (y / b).clamp(0, 1)
        y = y + self.gutter * back * torch.exp(-(x / 30).square())
        b = b + self.gutter * back
        power = 2.4
        k = ((x.abs() / a) ** power + (y.abs() / b) ** power) ** (1 / power)
        radius = (x.square() + y.square()).sqrt().clamp_min(1.0)
        distance = radius * (1 - 1 / k.clamp_min(1e-3))
        return torch.stack([distance, torch.atan2(x.abs() / a, y / b)])

    def _wall(self, angle: Tensor) -> Tensor:
        """Thickness of ribs and muscles (mm): thinner at the side and in front than behind."""
        return (self.wall * (1 - 0.4 * ((angle - 0.9) / 0.8).clamp(0, 1))).clamp_min(11.0)

    def _mirrored(self, p: Tensor) -> Tensor:
        """Points with x measured from the midline outwards, for what is there on both sides."""
        return torch.stack([p[0], p[1] - self.chest_y, (p[2] - self.midline).abs()])

    def body(self, v: View) -> Tensor:
        q = self._mirrored(v.thorax)
        distance, angle = v.field("ring")
        out = distance - self._wall(angle) - self.subcutaneous
        wide = self.half_width
        shoulder = ellipsoid(q, (135, 15, wide + 5), None, (70 + 0.5 * self.subcutaneous, 68, 70))
        out = smooth_min(out, shoulder, 25.0)
        back = ellipsoid(q, (40, self.half_depth + 18, 45), None, (200, 26 + 0.6 * self.subcutaneous, 60))
        out = smooth_min(out, back, 20.0)
        if self.breast:
            out = smooth_min(out, self._breast(v), 25.0)
        if not self.arms_up:
            out = torch.minimum(out, self._arm(v) - 46.0)
        return out

    def _breast(self, v: View) -> Tensor:
        front = -self.half_depth - self.wall - 0.7 * self.subcutaneous
        s = self.breast
        return ellipsoid(self._mirrored(v.thorax), (-5, front, 0.52 * self.half_width), None, (66 * s, 26 * s, 62 * s))

    def gland(self, v: View) -> Tensor:
        return self._breast(v) + 10.0 if self.breast else torch.full(v.thorax.shape[1:], FAR_MM)

    def _arm(self, v: View) -> Tensor:
        """Distance to the humerus's axis of a hanging arm."""
        side = self.half_width + self.wall + self.subcutaneous + 52
        line = torch.tensor([[140.0, 20.0, self.half_width + 40], [60.0, 25.0, side], [-200.0, 15.0, side + 8]])
        return capsule_chain(self._mirrored(v.thorax), line, torch.zeros(3))

    def muscle(self, v: View) -> Tensor:
        distance, angle = v.field("ring")
        q = self._mirrored(v.thorax)
        back = (1 - angle / 1.2).clamp_min(0) * 12
        front = ((angle - 2.0) / 1.1).clamp_min(0) * 0.2 * self.wall
        out = distance - self._wall(angle) - back + front
        out = torch.minimum(out, ellipsoid(q, (40, self.half_depth + 12, 28), None, (210, 22, 26)))  # beside the spine
        out = torch.minimum(out, ellipsoid(q, (125, 35, 0.75 * self.half_width), None, (62, 32, 48)))  # shoulder blade
        out = torch.minimum(out, ellipsoid(q, (120, -5, self.half_width), None, (55, 40, 42)))  # shoulder
        out = torch.minimum(
            out, ellipsoid(q, (70, -self.half_depth - 4, 0.5 * self.half_width), None, (65, 13, 58))
        )  # pectoral
        if not self.arms_up:
            out = torch.minimum(out, self._arm(v) - 34.0)
        return torch.maximum(out, self.body(v) + 3)

    # -- bones ----------------------------------------------------------------------------------------------------
    def _ribs(self, v: View) -> tuple[Tensor, Tensor]:
        distance, angle = v.field("ring")
        rise = self.rib_rise * ((angle - 2.35) / 0.8).clamp(0, 1) ** 1.3
        height = v.thorax[0] + self.rib_slope * (angle / np.pi) ** 1.3 - rise + self.rib_phase
        height = torch.remainder(height, self.rib_step) - self.rib_step / 2
        sdf = ((distance - 5.0).square() / (4.2 / 6.5) ** 2 + height.square()).sqrt() - 6.5
        return sdf * 0.7, angle

    def rib(self, v: View) -> Tensor:
        sdf, angle = self._ribs(v)
        return torch.maximum(sdf, (angle - 2.35) * 60)

    def cartilage(self, v: View) -> Tensor:
        sdf, angle = self._ribs(v)
        edge = (self.sternum_half - (v.thorax[2] - self.midline).abs()) + 2
        return torch.maximum(torch.maximum(sdf - 0.5, (2.35 - angle) * 60), edge)

    def cartilage_hu(self, v: View, soft: float) -> Tensor:
        """HU of costal cartilage: soft, with calcified patches along its rim."""
        fine, patch = v.field("texture")
        hu = soft + 12 * fine
        if self.rim > 0:
            depth = -self.cartilage(v)
            calcified = (1.9 - depth).clamp(0, 1) * ((patch + 2.6 * self.rim - 1.5) / 0.4).clamp(0, 1)
            hu = hu + (self.rim_hu * (1 + 0.2 * fine) - hu) * calcified
        return hu

    def sternum(self, v: View) -> Tensor:
        distance, angle = v.field("ring")
        front = torch.where(angle > 1.6, distance - 6.0, torch.full_like(distance, FAR_MM))
        p = v.thorax
        wide = self.sternum_half * (1.25 - 0.25 * torch.tanh((30 - p[0]) / 30))
        box = smooth_max(front.abs() - 6.0, (p[2] - self.midline).abs() - wide, 5.0)
        return torch.maximum(box, -70 - p[0])

    def shoulder_bones(self, v: View) -> Tensor:
        """Shoulder blades, collar bones, humerus."""
        q = self._mirrored(v.thorax)
        lean = unit(np.array([0.05, 0.80, -0.55]))  # the blade's flat side
        along = unit(np.array([1.0, 0.0, 0.08]) - lean * (np.array([1.0, 0.0, 0.08]) @ lean))
        blade = ellipsoid(
            q,
            (100, 0.62 * self.half_depth, 0.80 * self.half_width),
            np.stack([along, lean, np.cross(along, lean)]),
            (62, 5, 38),
        )
        collar = torch.tensor([[128.0, -0.55 * self.half_depth, 22.0], [150.0, -0.1 * self.half_depth, self.half_width]])
        out = torch.minimum(blade, capsule_chain(q, collar, torch.tensor([8.0, 7.0])))
        head = torch.tensor([[140.0, 10.0, self.half_width + 22], [146.0, 10.0, self.half_width + 26]])
        out = torch.minimum(out, capsule_chain(q, head, torch.tensor([22.0, 22.0])))
        return out if self.arms_up else torch.minimum(out, self._arm(v) - 11.0)

    def _spine_axes(self, v: View) -> tuple[Tensor, Tensor, Tensor]:
        p = v.thorax
        z = torch.remainder(p[0] + self.spine_phase, 26.0) - 13.0
        return z, p[1] - self.spine_y, p[2] - self.midline

    def vertebra(self, v: View) -> Tensor:
        z, y, x = self._spine_axes(v)
        waist = 1.0 - 0.10 * torch.cos(z / 13 * np.pi * 0.9).clamp_min(0)
        body = ((y / 15.5).square() + (x / 20).square()).sqrt() * 16 - 16 * waist
        return smooth_max(body, z.abs() - 10.5, 3.0)

    def disc(self, v: View) -> Tensor:
        _, y, x = self._spine_axes(v)
        return ((y / 15).square() + (x / 19).square()).sqrt() * 15 - 15

    def canal(self, v: View) -> Tensor:
        _, y, x = self._spine_axes(v)
        return ((y - 24).square() + x.square()).sqrt() - 8.5

    def processes(self, v: View) -> Tensor:
        z, y, x = self._spine_axes(v)
        arch = ((y - 24).square() + x.square()).sqrt() - 14.0
        spinous = torch.maximum(torch.maximum(x.abs() - 3.5, (y - 42).abs() - 14), z.abs() - 9)
        transverse = torch.maximum(torch.maximum(x.abs() - 34, (y - 24 - 0.2 * x.abs()).abs() - 5), (z - 2).abs() - 6)
        out = torch.minimum(torch.minimum(arch, spinous), transverse)
        return torch.maximum(out, -self.canal(v))

    # -- inside ---------------------------------------------------------------------------------------------------
    def diaphragm(self, p: Tensor) -> Tensor:
        """Height above the diaphragm (mm): a dome on each side, a saddle under the heart, steep to the wall."""
        x, y = p[2] - self.midline, p[1] - self.chest_y
        side = torch.sigmoid((x - 8) / 12)
        top = self.dome[0] * (1 - side) + self.dome[1] * side
        away = x.abs() - 0.5 * self.half_width
        drop = torch.where(away > 0, 30.0, 9.0) * (away / 65).square()
        drop = drop + ((y + 5) / 75).square() * 30 + y.clamp_min(0) * 0.25
        return p[0] - (top - drop)

    def lung(self, v: View) -> Tensor:
        z, y, x = v.thorax[0], v.thorax[1], v.thorax[2] - self.midline
        behind = ((y - self.chest_y - 10) / 60).clamp(0, 1)
        half = self.septum * (1 - 0.4 * behind) * (1 + 0.5 * ((z - 60) / 40).clamp(0, 1))  # wider towards the neck
        out = torch.maximum(v.field("ring")[0] + 3.5, half.clamp_min(1.5) - x.abs())
        out = torch.maximum(out, 1.0 - torch.minimum(v.field("mediastinum"), self.pads(v)))
        out = torch.maximum(out, 4.0 - self.disc(v))
        return torch.maximum(out, 3.0 - v.field("diaphragm"))

    def pads(self, v: View) -> Tensor:
        """Cardiophrenic fat pads, right and left: wedges that fill the corner between the sac, the diaphragm and the front
        chest wall. They taper off along the sac and towards the back."""
        high, outside = v.field("diaphragm"), v.field("ring")[0] + 1.0
        right, left = self.pad_mm.tolist()
        size = right + (left - right) * torch.sigmoid((v.thorax[2] - self.midline) / 12)
        size = size * ((PAD_BACK_MM - v.thorax[1]) / 40).clamp(0, 1)
        corner = torch.minimum(high, 0.6 * high.clamp_min(0) - outside)  # the wall counts only near the diaphragm
        wedge = 0.7 * (v.field("sac").clamp_min(0) + corner.clamp_min(0) - size)
        return torch.maximum(wedge, torch.maximum(outside, -high))

    def _draw_branch(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """A lung vessel from the hilum: polyline (thorax frame) and radii."""
        side = rng.choice([-1.0, 1.0])
        start = np.array([rng.uniform(5, 60), self.chest_y - self.half_depth + rng.uniform(75, 105), self.midline + side * 42])
        way = unit(np.array([rng.normal(0, 0.8), rng.normal(0, 0.7), side * rng.uniform(0.5, 1.0)]))
        line = [start]
        for _ in range(4):
            way = unit(way + rng.normal(0, 0.25, 3))
            line.append(line[-1] + way * rng.uniform(10, 20))
        first = rng.uniform(2.5, 6.0)
        return np.array(line), first * np.array([1.0, 0.85, 0.65, 0.5, 0.3])

    def abdomen_hu(self, v: View, liver: float, fat: float) -> Tensor:
        """HU below the diaphragm: liver across the midline, stomach with gas in front, spleen at the back, gut, fat."""
        p, m, y0 = v.thorax, self.midline, self.chest_y
        shift, right, left, wide = self.organs, self.dome[0], self.dome[1], self.half_width
        texture, pattern = v.field("coarse_texture")

        def organ(centre: np.ndarray, radii: tuple[float, float, float]) -> Tensor:
            return ellipsoid(p, centre, None, radii) + 3.0 * texture

        lobes = torch.minimum(
            organ(np.array([right - 78, y0 + 2, m - 0.42 * wide]) + shift[0], (90.0, 0.92 * self.half_depth, 0.62 * wide)),
            organ(np.array([left - 40, y0 - 0.42 * self.half_depth, m + 8]) + shift[1], (48.0, 34.0, 60.0)),
        )
        stomach = organ(np.array([left - 44, y0 - 6, m + 0.50 * wide]) + shift[2], (46.0, 46.0, 42.0))
        spleen = organ(np.array([left - 46, y0 + 0.55 * self.half_depth, m + 0.72 * wide]) + shift[3], (50.0, 26.0, 26.0))
        hu = torch.where(pattern > 1.3, torch.tensor(-600.0), torch.tensor(fat)) + 10 * v.field("texture")[1]
        content = torch.where(p[1] < y0 - 6 + self.gas, torch.tensor(-900.0), torch.tensor(30.0))
        for sdf, value in ((spleen, liver - 6.0), (stomach, 42.0), (stomach + 4.0, content), (lobes, liver)):
            hu = hu + (value - hu) * (0.5 - sdf / 3.0).clamp(0, 1)
        return hu

    def table(self, v: View) -> Tensor:
        """Two curved shells of the patient table below the back."""
        y = v.thorax[1] - (self.spine_y + 62 + self.subcutaneous + self.wall + self.table_mm)
        x = v.thorax[2] - self.midline
        curve = y + 0.0007 * x.square()
        return torch.maximum(torch.minimum(curve.abs(), (y - 28).abs()) - 1.4, x.abs() - 215)


def tube(line: np.ndarray | Sequence[Sequence[float]], radii: np.ndarray | Sequence[float]) -> Callable[[View], Tensor]:
    """Part distance of a tube in the thorax frame."""
    nodes, sizes = torch.tensor(np.asarray(line), dtype=torch.float32), torch.tensor(np.asarray(radii), dtype=torch.float32)
    return lambda v: capsule_chain(v.thorax, nodes, sizes)
