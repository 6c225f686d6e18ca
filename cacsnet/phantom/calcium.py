"""Plaques and distractors: bodies bent around a line, filled in until a target Agatston score is expected.

A body is an ellipsoid in wall coordinates (along a line, around it, across its wall): a speck, a nodule, an arc or a long
shell, depending on its three sizes. Plaques lie in the walls of arteries, distractors along lines of their own
(:mod:`cacsnet.phantom.places`); both are drawn by the same functions, so only place may tell them apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import yaml
from scipy import stats
from scipy.ndimage import gaussian_filter1d
from scipy.special import chndtr, ndtr

from cacsnet.labels import VESSEL_INDEX
from cacsnet.phantom.anatomy import Patient
from cacsnet.phantom.deposits import PIECE_MM, Deposit
from cacsnet.phantom.heart import Artery
from cacsnet.phantom.population import CONF

COVERED = 0.6
"""At most this share of the coronary tree carries calcium: its course must be learnt from what doesn't shine."""

COVERED_VESSEL = {"LM": 0.9, "LAD": 0.75, "LCX": 0.75, "RCA": 0.75}
"""At most this share of one vessel's length."""

BRANCH_WEIGHT = 0.3
"""Chance of calcium per mm of a side branch, against 1 in the main artery."""


@dataclass(frozen=True)
class Size:
    """Full lengths (mm) along, around and across the wall, and mg/cc of hydroxyapatite."""

    shape: str
    length_mm: float
    width_mm: float
    thickness_mm: float
    concentration: float

    def scaled(self, factor: float) -> Size:
        return Size(self.shape, self.length_mm * factor, self.width_mm * factor, self.thickness_mm * factor, self.concentration)


@dataclass(frozen=True, eq=False)
class Bed:
    """Where bodies may lie: a line [n, 3] (heart frame mm, about 1 mm steps) and the radius of the wall around it (mm).

    Attributes:
        proximal: calcium prefers the line's beginning, as in arteries.
        weight: chance of calcium per mm against other beds.
    """

    owner: int
    site: str
    line: np.ndarray
    radii: np.ndarray
    proximal: bool = False
    weight: float = 1.0

    @cached_property
    def smooth(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Position along the line (mm) [n], smoothed line, its unit tangent and curvature vector (1/mm), each [n, 3]."""
        line = np.asarray(self.line, float)
        if len(line) > 8:  # odd reflection keeps the ends where they are
            padded = np.pad(line, ((6, 6), (0, 0)), mode="reflect", reflect_type="odd")
            line = gaussian_filter1d(padded, 1.5, axis=0)[6:-6]
        arc = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
        arc = arc + 1e-6 * np.arange(len(arc))  # two points may coincide
        tangent = np.gradient(line, arc, axis=0)
        tangent /= np.maximum(np.linalg.norm(tangent, axis=1, keepdims=True), 1e-9)
        return arc, line, tangent, np.gradient(tangent, arc, axis=0)

    @cached_property
    def length_mm(self) -> float:
        return float(self.smooth[0][-1])

    def lumen(self, at_mm: float) -> float:
        """Radius (mm) at a position along the line."""
        return float(np.interp(at_mm, self.smooth[0], self.radii))


@lru_cache(maxsize=1)
def shape_table() -> dict[str, Any]:
    """``conf/phantom/shapes.yaml``."""
    table: dict[str, Any] = yaml.safe_load((CONF / "shapes.yaml").read_text(encoding="utf-8"))
    return table


def _lognormal(rng: np.random.Generator, row: Mapping[str, float]) -> float:
    return min(max(float(rng.lognormal(math.log(row["median"]), row["spread"])), row["low"]), row["high"])


def draw_size(rng: np.random.Generator, target: float) -> Size:
    """Shape and size of one body; the more is still to be placed, the likelier a long shell."""
    table = shape_table()
    heavy = min(max(math.log10(max(target, 1.0) / 10) / 2, 0.0), 1.0)  # 10 Agatston: 0, 1000: 1
    shapes = table["shapes"]
    shares = [(1 - heavy) * s["share"]["light"] + heavy * s["share"]["heavy"] for s in shapes.values()]
    name = list(shapes)[_pick(rng, np.cumsum(shares))]
    length, width, thickness = (_lognormal(rng, shapes[name][k]) for k in ("length_mm", "width_mm", "thickness_mm"))
    dense = table["concentration_mg_cc"]
    concentration = min(_lognormal(rng, dense) * table["heavy"]["concentration"] ** heavy, dense["high"])
    return Size(name, length, width, thickness, concentration).scaled(table["heavy"]["size"] ** heavy)


def _pick(rng: np.random.Generator, cumulative: np.ndarray) -> int:
    """Index drawn by cumulative weights (Generator.choice takes ten times as long)."""
    return int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))


@lru_cache(maxsize=8)
def _ball(count: int) -> np.ndarray:
    """Evenly spread points [count, 3] of the unit ball, each standing for the same volume, symmetric about its centre."""
    u = stats.qmc.Sobol(3, rng=np.random.default_rng(5)).random(count // 2)
    z, turn, r = 2 * u[:, 0] - 1, 2 * np.pi * u[:, 1], np.cbrt(u[:, 2])
    flat = np.sqrt(1 - z * z)
    half = np.stack([z, flat * np.cos(turn), flat * np.sin(turn)], 1) * r[:, None]
    return np.concatenate([half, -half])


POINT_MM3 = 0.03
"""Volume that one point of a body stands for: about 0.3 mm apart, closer than any scanner resolves."""


def _inside(middle_mm: float, half_mm: float, length_mm: float) -> float:
    """The middle of a body that ends where its line ends; the line's middle if it is longer than that."""
    return min(max(middle_mm, min(half_mm, length_mm / 2)), max(length_mm - half_mm, length_mm / 2))


def _seat(lumen: float, size: Size, wall_mm: float) -> float:
    """Distance of a body's middle from the vessel's: its outer face lies ``wall_mm`` outside the lumen."""
    return max(lumen + wall_mm - size.thickness_mm / 2, 0.4 * lumen, 0.3)


def _across(directions: np.ndarray) -> np.ndarray:
    """An axis [3] that no part of a line runs along: what its unit tangents [n, 3] have least of.

    Many axes are as good for a straight line, and an axis has two signs: both are settled here, since linear algebra libraries
    differ in what they choose.
    """
    spread = directions.T @ directions / len(directions) + 1e-3 * np.diag([0.0, 1.0, 2.0])
    axis = np.linalg.eigh(spread)[1][:, 0]
    return np.asarray(axis * np.sign(axis[np.abs(axis).argmax()]))


def bend(bed: Bed, start_mm: float, turn: float, size: Size, rng: np.random.Generator) -> Deposit:
    """Lay a body into the wall around a line.

    Args:
        start_mm: its middle along the line.
        turn: its middle around the line, radians.

    Volume elements follow from the line's curvature; where a body would reach past the centre of a sharp bend they are
    kept positive.
    """
    table = shape_table()
    arc, line, tangent, curve = bed.smooth
    volume = math.pi / 6 * size.length_mm * size.width_mm * size.thickness_mm
    count = 2 ** min(max(math.ceil(math.log2(volume / POINT_MM3)), 6), 12)
    u, v, w = _ball(count).T
    half = size.length_mm / 2
    middle = _inside(start_mm, half, bed.length_mm)
    s = middle + half * u

    # positions on the line: linear between its points; a body longer than its line goes on straight
    cell = np.clip(np.searchsorted(arc, s) - 1, 0, len(arc) - 2)
    share = ((s - arc[cell]) / (arc[cell + 1] - arc[cell]))[:, None]
    here = line[cell] + share * (line[cell + 1] - line[cell])
    share = np.clip(share, 0, 1)
    direction = tangent[cell] + share * (tangent[cell + 1] - tangent[cell])
    direction /= np.sqrt((direction * direction).sum(1, keepdims=True))
    turning = curve[cell] + share * (curve[cell + 1] - curve[cell])
    axis = _across(direction)
    first = axis - direction * (direction @ axis)[:, None]
    first /= np.sqrt((first * first).sum(1, keepdims=True))
    (a0, a1, a2), (b0, b1, b2) = direction.T, first.T
    second = np.stack([a1 * b2 - a2 * b1, a2 * b0 - a0 * b2, a0 * b1 - a1 * b0], 1)

    lumen = bed.lumen(middle)
    radius = _seat(lumen, size, rng.normal(table["wall_mm"], table["wall_spread_mm"]))
    angle = turn + min(size.width_mm / 2 / radius, 0.95 * math.pi) * v
    r = np.maximum(radius + size.thickness_mm / 2 * w, 0.02)
    out = np.cos(angle)[:, None] * first + np.sin(angle)[:, None] * second
    width = min(size.width_mm, 1.9 * math.pi * radius)
    bent = np.maximum(1 - r * (turning * out).sum(1), 0.1)
    volumes = 4 / 3 * math.pi / count * half * (width / 2 / radius) * (size.thickness_mm / 2) * r * bent
    wave = table["ripple"] * np.sin(2 * np.pi * s / rng.uniform(3, 9) + rng.uniform(0, 2 * np.pi))
    pieces = math.ceil(size.length_mm / PIECE_MM)
    piece = np.minimum(((u + 1) / 2 * pieces).astype(int), pieces - 1)
    return Deposit(
        bed.owner, size.shape, bed.site, here + r[:, None] * out, volumes,
        size.concentration * (1 + wave), piece, size.length_mm, width, size.thickness_mm,
    )  # fmt: skip


# -- how much a body will score -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Expectation:
    """The scan for which targets hold: a gated 120 kVp scan. Under a plaque lies blood, and fat outside the vessel."""

    increment_mm: float = 2.5
    pixel_mm: float = 0.6
    fwhm_mm: float = 1.05
    hu_per_mg_cc: float = 1.34
    noise_hu: float = 19.0
    blood_hu: float = 42.0
    fat_hu: float = -98.0
    island_mm2: float = 1.15
    island_spread_mm2: float = 0.35
    """Islands below 1 mm², five pixels of a usual matrix, don't count; noise softens that."""
    spread_mm: float = 0.7
    """Sigma that mixes blood and fat: point spread, and the slice through a slanted vessel."""
    edges_hu: tuple[float, ...] = (130.0, 200.0, 300.0, 400.0)
    peak_noise: float = 0.8
    """How many noise SDs the brightest of an island's voxels lies above the noise-free peak."""

    def background_hu(self, lumen_mm: float, distance_mm: float) -> float:
        """HU under a body that lies at a distance from the middle of a vessel: a disc of blood in fat, blurred."""
        share = chndtr((lumen_mm / self.spread_mm) ** 2, 2, (distance_mm / self.spread_mm) ** 2)
        return float(self.fat_hu + (self.blood_hu - self.fat_hu) * share)


NOMINAL = Expectation()


def expected_agatston(
    points: np.ndarray, amount_mg: np.ndarray, background_hu: float = -35.0, scan: Expectation = NOMINAL
) -> float:
    """Expected reference Agatston of one body of ``amount_mg`` [n] at ``points`` [n, 3] (patient mm) on a background.

    Imaged alone, with the noise's effect on threshold and peak taken in expectation, averaged over slice positions.
    """
    most = 256 + int(24 * float(np.ptp(points, axis=0).max()))  # enough for this blur
    if len(points) > 2 * most:
        keep = slice(None, None, len(points) // most)
        points, amount_mg = points[keep], amount_mg[keep] * (amount_mg.sum() / amount_mg[keep].sum())
    sigma = scan.fwhm_mm / 2.355
    low, high = points.min(0), points.max(0)
    dz = scan.increment_mm
    slices = np.arange(low[0] - dz / 2, high[0] + dz / 2 + 0.01, dz / 2)  # twice as many as there are: both phases
    profile = np.clip((dz / 2 + 0.2 - np.abs(slices[:, None] - points[:, 0])) / 0.4, 0, 1) / dz

    def blurred(axis: int) -> np.ndarray:
        grid = np.arange(low[axis] - 2 * sigma, high[axis] + 2 * sigma + scan.pixel_mm, scan.pixel_mm)
        return np.exp(-0.5 * ((grid - points[:, axis : axis + 1]) / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi))

    rows, columns = (blurred(1) * (amount_mg * 1000 * scan.hu_per_mg_cc)[:, None]).T, blurred(2)
    total = 0.0
    chunk = max(1, 400_000 // rows.size)
    for start in range(0, len(profile), chunk):
        added = (rows * profile[start : start + chunk, None]) @ columns  # [slices, rows, columns]
        hu = added + background_hu
        area = (ndtr((hu - scan.edges_hu[0]) / scan.noise_hu) * (added >= 20)).sum((1, 2)) * scan.pixel_mm**2
        peak = hu.max((1, 2)) + scan.peak_noise * scan.noise_hu
        weight = 1 + ndtr((peak[:, None] - np.array(scan.edges_hu[1:])) / (0.6 * scan.noise_hu)).sum(1)
        total += float((area * weight * ndtr((area - scan.island_mm2) / scan.island_spread_mm2)).sum())
    return total * (dz / 2) / 3


# -- filling ------------------------------------------------------------------------------------------------------


class _Beds:
    """Beds with what already lies on them."""

    def __init__(self, beds: Sequence[Bed], covered: float) -> None:
        self.beds = list(beds)
        self.bodies: list[list[tuple[float, float, float, float]]] = [[] for _ in beds]
        self.covered = [np.zeros(math.ceil(bed.length_mm) + 1, bool) for bed in beds]
        self.limit = covered * sum(len(c) for c in self.covered)
        self.total = 0
        self.chance = np.cumsum([bed.weight * bed.length_mm for bed in beds])

    def find(self, size: Size, rng: np.random.Generator) -> tuple[Bed, float, float] | None:
        """A bed, a place along it and a turn around it where the body lies mostly free; None if there is no room.

        Where nothing has to stay free, the body gets the freest of several places: to turn it away would leave only small ones
        on short beds, and size would tell them from plaques.
        """
        half = size.length_mm / 2
        anywhere = self.limit >= sum(len(c) for c in self.covered)
        freest: tuple[float, int, float, float, float] | None = None
        for _ in range(14):
            k = _pick(rng, self.chance)
            bed, cells = self.beds[k], self.covered[k]
            if bed.proximal and size.length_mm > bed.length_mm:
                continue  # it would leave the artery
            share = rng.beta(1.1, 1.8) if bed.proximal else rng.random()
            middle = _inside(share * bed.length_mm, half, bed.length_mm)
            turn = rng.random() * 2 * math.pi
            wide = min(size.width_mm / 2 / max(bed.lumen(middle), 0.5), math.pi)
            clash = max((_clash((middle, half, turn, wide), other) for other in self.bodies[k]), default=0.0)
            if clash > 0.3:
                freest = min(freest or (math.inf, k, middle, turn, wide), (clash, k, middle, turn, wide))
                continue
            span = cells[max(0, int(middle - half)) : int(middle + half) + 1]
            new = len(span) - int(span.sum())
            if new == 0 or self.total + new <= self.limit:
                span[:] = True
                self.total += new
                self.bodies[k].append((middle, half, turn, wide))
                return bed, middle, turn
        if anywhere and freest is not None:
            _, k, middle, turn, wide = freest
            self.bodies[k].append((middle, half, turn, wide))
            return self.beds[k], middle, turn
        return None


def _clash(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    """Share of the shorter of two bodies (middle, half length, turn, half angle) that lies on the other."""
    shared = min(a[0] + a[1], b[0] + b[1]) - max(a[0] - a[1], b[0] - b[1])
    apart = abs((a[2] - b[2] + math.pi) % (2 * math.pi) - math.pi)
    return shared / (2 * min(a[1], b[1])) if apart < a[3] + b[3] else 0.0


def fill(
    beds: Sequence[Bed], rng: np.random.Generator, target: float, linear: np.ndarray, covered: float = 1.0
) -> list[Deposit]:
    """Draw bodies on the beds until their expected Agatston scores add up to ``target``, or there is no more room.

    Args:
        linear: [3, 3], heart frame to patient without the fine deformation (for the expectation only).
        covered: largest share of the beds' length that carries calcium.
    """
    out: list[Deposit] = []
    total, misses = 0.0, 0
    room = _Beds(beds, covered)
    grow = abs(float(np.linalg.det(linear))) / 1000
    tolerance = max(0.04 * target, 0.4)

    def score(deposit: Deposit, bed: Bed, middle: float, size: Size, factor: float) -> float:
        """Expected score of the body shrunk by a factor about its middle."""
        lumen = bed.lumen(middle)
        background = NOMINAL.background_hu(lumen, _seat(lumen, size.scaled(factor), shape_table()["wall_mm"]))
        points = (deposit.points @ linear.T) * factor
        return expected_agatston(points, deposit.volumes * deposit.density * (grow * factor**3), background)

    while target - total > tolerance and misses < 15 and len(out) < 90:
        rest = target - total
        size = draw_size(rng, rest)
        found = room.find(size, rng)
        if found is None:
            misses += 1
            continue
        bed, middle, turn = found
        seed = int(rng.integers(2**31))
        deposit = bend(bed, middle, turn, size, np.random.default_rng(seed))
        value = score(deposit, bed, middle, size, 1.0)
        if value > rest + tolerance:  # the last body is shrunk to what is still to be placed
            low, high, factor = 0.25, 1.0, 1.0
            for _ in range(5):
                guess = factor * (rest / max(value, 0.1 * rest)) ** 0.4  # a score grows with about the 2.5th power of size
                factor = guess if low < guess < high else 0.5 * (low + high)
                value = score(deposit, bed, middle, size, factor)
                if abs(value - rest) < tolerance:
                    break
                low, high = (low, factor) if value > rest else (factor, high)
            deposit = bend(bed, middle, turn, size.scaled(factor), np.random.default_rng(seed))
        out.append(deposit)
        total += value
    return out


def kept(patient: Patient, name: str, make: Callable[[], Any]) -> Any:
    """What is expensive and belongs to the patient alone; a training patient is imaged several times."""
    values = vars(patient).setdefault("kept_by_calcium", {})
    if name not in values:
        values[name] = make()
    return values[name]


def linear_part(patient: Patient) -> np.ndarray:
    """Heart frame to patient as one matrix [3, 3]: rotations, scale and the mean stretch around the heart."""
    mapped = patient.heart_to_patient(30.0 * np.concatenate([np.eye(3), -np.eye(3)]))
    return (mapped[:3] - mapped[3:]).T / 60.0


def artery_beds(arteries: Sequence[Artery], vessel: str) -> list[Bed]:
    """The walls of a vessel's arteries; side branches carry less."""
    mine = [a for a in arteries if a.vessel == VESSEL_INDEX[vessel]]
    return [
        Bed(a.vessel, a.name, a.line, a.radii, proximal=True, weight=1.0 if a.name == vessel else BRANCH_WEIGHT) for a in mine
    ]


def draw_plaques(
    patient: Patient, arteries: Sequence[Artery], rng: np.random.Generator, targets: Mapping[str, float]
) -> list[Deposit]:
    """Coronary plaques that are expected to score ``targets`` (Agatston per vessel; :mod:`cacsnet.phantom.population`)."""
    out: list[Deposit] = []
    if not any(value > 0 for value in targets.values()):
        return out
    linear = kept(patient, "linear", lambda: linear_part(patient))
    free = COVERED * sum(a.length_mm for a in arteries if a.vessel)
    for vessel, target in targets.items():
        beds = artery_beds(arteries, vessel)
        if target > 0 and beds:
            length = sum(bed.length_mm for bed in beds)
            found = fill(beds, rng, target, linear, min(COVERED_VESSEL[vessel], free / length))
            free -= min(sum(d.length_mm for d in found), COVERED_VESSEL[vessel] * length)
            out += found
    return out
