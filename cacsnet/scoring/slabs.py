"""Thin slices averaged to slabs before scoring.

The Agatston score weighs an island by its *peak* HU, and the threshold takes the brighter half of what noise moves across it:
noise inflates both. So 1 mm slices scored with increment / 3 mm are not the same as 3 mm slices; averaging first gives back
the noise of the slices that the score was defined on (Agatston 1990: contiguous 3 mm).

The rules:

- A slab is the mean of n neighbouring slices, no slice is in two slabs. With slices as thick as their increment n is the
  whole number for which n x increment comes closest to the slab's thickness, the smaller one in a tie (2 mm stays 2 mm).
- Slices thicker than their increment overlap and are averages already. Then thickness + (n - 1) x increment has to come
  closest: 3 mm slices every 1.5 mm stay as they are, n = 2 would blur over 4.5 mm (the score's increment / 3 mm is right).
- The first slab starts at the first slice, at the feet. Up to n - 1 slices at the head that fill no slab are left out, and
  counted.
- float32, not rounded: 129.5 HU stays below a threshold of 130.
- A voxel outside the field of view in some slices is the mean of the others; outside in all, it stays outside.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from cacsnet.errors import ArgumentError
from cacsnet.labels import VESSEL_NAMES
from cacsnet.scan import OUTSIDE_FOV_HU, Geometry, Scan
from cacsnet.scoring.checks import check_hu, check_labels, check_spacing

SLAB_MM = 3.0
MAX_SLAB_MM = 10.0
"""Thicker slabs are no calcium scoring any more; a larger number is a typing error."""
LOWEST_HU = -1024  # below it a voxel is outside the field of view (cacsnet.scan)


@dataclass(frozen=True)
class Slabs:
    """How slices become slabs.

    Attributes:
        slab_mm: the thickness asked for.
        n_slices: slices averaged per slab; 1: the slices stay as they are.
        slice_increment_mm: of the slices.
        increment_mm: of the slabs, n_slices x slice_increment_mm.
        n_slabs: slabs of the whole volume.
        n_dropped: slices at the head that fill no slab and are left out.
    """

    slab_mm: float
    n_slices: int
    slice_increment_mm: float
    increment_mm: float
    n_slabs: int
    n_dropped: int

    @property
    def averaged(self) -> bool:
        return self.n_slices > 1


def plan_slabs(depth: int, increment_mm: float, slab_mm: float = SLAB_MM, thickness_mm: float | None = None) -> Slabs:
    """Which slices of a volume make which slabs.

    Args:
        depth: slices of the volume.
        increment_mm: between slice positions.
        slab_mm: thickness of a slab.
        thickness_mm: of a slice; None: as thick as the increment.

    Raises:
        ArgumentError: a slab thickness outside (0, 10] mm, a bad increment or thickness, or too few slices for one slab.
    """
    check_slab_mm(slab_mm)
    for name, value in (("increment_mm", increment_mm), ("thickness_mm", thickness_mm)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ArgumentError("must be positive and finite", field=name, value=value)
    missing = (slab_mm - max(thickness_mm or increment_mm, increment_mm)) / increment_mm
    # the tolerance keeps a tie a tie that 0.1 + 0.2 would decide
    n = max(1, 1 + math.ceil(missing - 0.5 - 1e-6))
    if depth < n:
        raise ArgumentError(f"one slab of {slab_mm:g} mm takes {n} slices", field="slices", value=depth)
    step = round(increment_mm * n, 5)  # three slices of 0.833333 mm are 2.5 mm
    return Slabs(float(slab_mm), n, float(increment_mm), step, depth // n, depth % n)


def check_slab_mm(slab_mm: object) -> float:
    """The slab thickness as a float, or ArgumentError unless it is a number in (0, 10] mm."""
    number = isinstance(slab_mm, (int, float)) and not isinstance(slab_mm, bool)
    if not number or not 0 < float(slab_mm) <= MAX_SLAB_MM:  # type: ignore[arg-type]
        raise ArgumentError(f"must be a number of mm above 0, at most {MAX_SLAB_MM:g}", field="slab_mm", value=slab_mm)
    return float(slab_mm)  # type: ignore[arg-type]


def average_slabs(
    hu: np.ndarray, spacing_mm: Sequence[float], slab_mm: float = SLAB_MM, thickness_mm: float | None = None
) -> tuple[np.ndarray, Slabs]:
    """Average slices to slabs by the rules above.

    Args:
        hu: signed integer or float [z, y, x], HU, z towards the head; below -1024 outside the field of view.
        spacing_mm: (dz, dy, dx), dz the increment.
        slab_mm: thickness of a slab.
        thickness_mm: slice thickness; None: the increment.

    Returns:
        float32 [slabs, y, x], or ``hu`` itself where one slice makes a slab; and how it was done.

    Raises:
        ArgumentError: bad HU, spacing, thickness, or fewer slices than one slab takes.
    """
    check_hu(hu)
    slabs = plan_slabs(len(hu), check_spacing(spacing_mm)[0], slab_mm, thickness_mm)
    if not slabs.averaged:
        return hu, slabs
    out = np.empty((slabs.n_slabs, *hu.shape[1:]), dtype=np.float32)
    for k, part in enumerate(_parts(hu, slabs)):
        inside = part >= LOWEST_HU
        count = inside.sum(axis=0)
        total = part.sum(axis=0, dtype=np.float64, where=inside)
        out[k] = np.where(count > 0, total / np.maximum(count, 1), OUTSIDE_FOV_HU)
    return out, slabs


def average_scan(scan: Scan, slab_mm: float = SLAB_MM) -> tuple[Scan, Slabs]:
    """The scan on slabs, at the same place in the patient: each slab lies in the middle of its slices.

    The slice thickness becomes the slab's. A slab is no image of the series, so ``sop_instance_uids`` is empty. A note says
    what was averaged and left out. Where one slice makes a slab the scan comes back as it is.

    Raises:
        ArgumentError: as :func:`average_slabs`.
    """
    facts = scan.acquisition
    hu, slabs = average_slabs(scan.hu, scan.spacing_mm, slab_mm, facts.slice_thickness_mm)
    if not slabs.averaged:
        return scan, slabs
    thickness = facts.slice_thickness_mm
    if thickness is not None:
        more = slabs.increment_mm - slabs.slice_increment_mm
        thickness = round(max(thickness, slabs.slice_increment_mm) + more, 6)
    note = (
        f"{slabs.n_slices} slices of {slabs.slice_increment_mm:g} mm were averaged to a slab of {slabs.increment_mm:g} mm; "
        f"{slabs.n_dropped} slice(s) at the head fill no slab and were left out"
    )
    averaged = replace(
        scan,
        hu=hu,
        geometry=slab_geometry(scan.geometry, slabs),
        acquisition=replace(facts, slice_thickness_mm=thickness, sop_instance_uids=()),
        notes=(*scan.notes, note),
    )
    return averaged, slabs


def slab_geometry(geometry: Geometry, slabs: Slabs) -> Geometry:
    """Grid of the slabs: the increment times n, the first slab in the middle of its slices, axes and flips of the source."""
    affine = geometry.affine_lps.copy()
    affine[:3, 3] += affine[:3, 0] * (slabs.n_slices - 1) / 2
    affine[:3, 0] *= slabs.n_slices
    shape = (slabs.n_slabs, *geometry.shape[1:])
    return replace(geometry, shape=shape, spacing_mm=(slabs.increment_mm, *geometry.spacing_mm[1:]), affine_lps=affine)


def slab_labels(labels: np.ndarray, slabs: Slabs) -> tuple[np.ndarray, int]:
    """Vessel labels of slices brought to slabs.

    A slab voxel gets the vessel that most of its labelled slices have, the first of the table in a tie; it need not be
    labelled in all of them, since the slab's HU decide whether it is calcium.

    Args:
        labels: integer [z, y, x] on the slices, vessels 0-4.
        slabs: from :func:`plan_slabs`.

    Returns:
        uint8 [slabs, y, x], and how many labelled voxels lie in the slices left out at the head.

    Raises:
        ArgumentError: labels outside the table, or another depth than the slices of ``slabs``.
    """
    check_labels(labels, labels.shape, len(VESSEL_NAMES), "labels")
    depth = slabs.n_slabs * slabs.n_slices + slabs.n_dropped
    if len(labels) != depth:
        raise ArgumentError(f"the slabs are made of {depth} slices", field="labels", value=labels.shape)
    out = np.zeros((slabs.n_slabs, *labels.shape[1:]), dtype=np.uint8)
    for k, part in enumerate(_parts(labels, slabs)):
        if part.any():
            votes = np.stack([(part == vessel).sum(axis=0) for vessel in range(1, len(VESSEL_NAMES) + 1)])
            out[k] = np.where(votes.any(axis=0), votes.argmax(axis=0) + 1, 0)
    return out, int(np.count_nonzero(labels[slabs.n_slabs * slabs.n_slices :]))


def _parts(volume: np.ndarray, slabs: Slabs) -> list[np.ndarray]:
    n = slabs.n_slices
    return [volume[k * n : (k + 1) * n] for k in range(slabs.n_slabs)]
