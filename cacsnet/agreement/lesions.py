"""Lesions found and missed: two label maps on one grid, by volume and by number, as orCaScore evaluates.

orCaScore (Wolterink et al. 2016; orcascore.isi.uu.nl/evaluation): a lesion is a 3-D 6-connected group of labelled voxels;
sensitivity = TP / (TP + FN) and PPV = TP / (TP + FP), by number of lesions and by volume, over all arteries whatever the
label and for each artery; F1 is the harmonic mean of *volume* sensitivity and PPV. There a volume is that of voxels, here
too: TP is what both maps label. By number, a reference lesion is found if the other map labels any of its voxels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cc3d
import numpy as np

from cacsnet.errors import ArgumentError
from cacsnet.labels import VESSEL_INDEX, VESSEL_NAMES
from cacsnet.scoring.islands import islands

MIN_AREA_MM2 = 1.0


@dataclass(frozen=True)
class Overlap:
    """Reference against model labels, summed over cases; volumes in mm³.

    Attributes:
        part: "total" (whatever the vessel) or a vessel.
        tp_mm3, fn_mm3, fp_mm3: labelled by both, by the reference only, by the model only.
        found, missed: reference lesions; ``false``: model lesions that no reference voxel touches; ``true``: the others.
    """

    part: str
    tp_mm3: float = 0.0
    fn_mm3: float = 0.0
    fp_mm3: float = 0.0
    found: int = 0
    missed: int = 0
    true: int = 0
    false: int = 0

    @property
    def sensitivity(self) -> float:
        """By volume."""
        return _ratio(self.tp_mm3, self.tp_mm3 + self.fn_mm3)

    @property
    def ppv(self) -> float:
        """By volume."""
        return _ratio(self.tp_mm3, self.tp_mm3 + self.fp_mm3)

    @property
    def f1(self) -> float:
        """Harmonic mean of sensitivity and PPV by volume, equal to Dice; nan if neither map has calcium."""
        return _ratio(2 * self.tp_mm3, 2 * self.tp_mm3 + self.fn_mm3 + self.fp_mm3)

    @property
    def lesion_sensitivity(self) -> float:
        return _ratio(self.found, self.found + self.missed)

    @property
    def lesion_ppv(self) -> float:
        return _ratio(self.true, self.true + self.false)

    def __add__(self, other: Overlap) -> Overlap:
        return Overlap(
            self.part,
            self.tp_mm3 + other.tp_mm3,
            self.fn_mm3 + other.fn_mm3,
            self.fp_mm3 + other.fp_mm3,
            self.found + other.found,
            self.missed + other.missed,
            self.true + other.true,
            self.false + other.false,
        )


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else math.nan


def overlaps(
    reference: np.ndarray, model: np.ndarray, spacing_mm: Sequence[float], min_area_mm2: float = MIN_AREA_MM2
) -> tuple[Overlap, ...]:
    """Overlap of two vessel maps of one scan: total first, then each vessel.

    Args:
        reference: integer [z, y, x], vessels 1-4, 0 elsewhere.
        model: the same of the model.
        spacing_mm: (dz, dy, dx).
        min_area_mm2: islands of a map (8-connected in a slice, whatever the vessel) smaller than this are dropped from
            it first: the score doesn't count them either. 0 keeps all.

    Raises:
        ArgumentError: maps of different shape.
    """
    if reference.shape != model.shape or reference.ndim != 3:
        raise ArgumentError("the label maps lie on different grids", field="shape", value=(reference.shape, model.shape))
    voxel_mm3, pixel_mm2 = float(np.prod(spacing_mm)), float(spacing_mm[1] * spacing_mm[2])
    ref, mod = (scored(labels, pixel_mm2, min_area_mm2) for labels in (reference, model))
    out = [_overlap("total", ref > 0, mod > 0, voxel_mm3)]
    out += [_overlap(name, ref == VESSEL_INDEX[name], mod == VESSEL_INDEX[name], voxel_mm3) for name in VESSEL_NAMES]
    return tuple(out)


def scored(labels: np.ndarray, pixel_mm2: float, min_area_mm2: float = MIN_AREA_MM2) -> np.ndarray:
    """Labels without islands smaller than the minimum area."""
    number = islands(labels > 0)
    enough = np.bincount(number.ravel()) * pixel_mm2 >= min_area_mm2 - 1e-9
    enough[0] = False
    return np.where(enough[number], labels, 0)


def _overlap(part: str, reference: np.ndarray, model: np.ndarray, voxel_mm3: float) -> Overlap:
    both = reference & model
    found, missed = _touched(reference, model)
    true, false = _touched(model, reference)
    tp, fn, fp = (int(np.count_nonzero(v)) * voxel_mm3 for v in (both, reference & ~model, model & ~reference))
    return Overlap(part, tp, fn, fp, found, missed, true, false)


def _touched(lesions: np.ndarray, other: np.ndarray) -> tuple[int, int]:
    """How many 6-connected groups of one mask hold a voxel of the other, and how many don't."""
    number, n = cc3d.connected_components(lesions, connectivity=6, return_N=True)
    hit = len(np.setdiff1d(np.unique(number[other]), [0]))
    return hit, int(n) - hit


def sum_overlaps(cases: Iterable[Sequence[Overlap]]) -> tuple[Overlap, ...]:
    """Overlaps of several scans added up, part by part: large lesions weigh more, as in orCaScore."""
    total: dict[str, Overlap] = {}
    for case in cases:
        for overlap in case:
            total[overlap.part] = total.get(overlap.part, Overlap(overlap.part)) + overlap
    return tuple(total.values())
