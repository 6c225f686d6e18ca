"""Scan, Geometry, Acquisition: the currency between all rooms.

Every array in cacsnet is ``[z, y, x]`` = (slice, row, column). Readers bring each scan into the canonical order
z towards the head, y towards the back, x towards the patient's left (DICOM LPS directions) by transposing and
flipping only; no voxel is ever resampled. :meth:`Geometry.to_source` undoes it for writing on the source's grid.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from cacsnet.errors import ArgumentError

OUTSIDE_FOV_HU = -2048
"""Readers set padding to this; any HU below -1024 means "outside the field of view"."""


MASS_FACTOR_LIMITS = (2e-4, 2e-3)
"""mg/mm³ per HU: calcium of 1 mg/cc adds 1.1 to 2.4 HU at 140 to 70 kVp; 5 to 0.5 HU are taken for possible."""


@dataclass(frozen=True)
class Geometry:
    """Where the voxels are.

    Attributes:
        shape: (slices, rows, columns).
        spacing_mm: (dz, dy, dx); dz is the *increment* between slice positions along the normal, never the thickness.
        affine_lps: float64 [4, 4], maps index (z, y, x, 1) to patient mm (x, y, z, 1) in DICOM LPS.
        source_axes: for each axis of the *source* array the canonical axis it became, e.g. (2, 1, 0) for a NIfTI [x, y, z].
        source_flips: for each *canonical* axis whether it runs against the source's.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    affine_lps: np.ndarray
    source_axes: tuple[int, int, int] = (0, 1, 2)
    source_flips: tuple[bool, bool, bool] = (False, False, False)

    def __post_init__(self) -> None:
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise ArgumentError("a volume needs three axes of at least one voxel", field="shape", value=self.shape)
        if not all(np.isfinite(s) and s > 0 for s in self.spacing_mm):
            raise ArgumentError("spacing must be positive and finite", field="spacing_mm", value=self.spacing_mm)
        if self.affine_lps.shape != (4, 4) or not np.isfinite(self.affine_lps).all():
            raise ArgumentError("the affine must be a finite 4 x 4 matrix", field="affine_lps", value=self.affine_lps)

    @property
    def voxel_volume_mm3(self) -> float:
        return float(np.prod(self.spacing_mm))

    @classmethod
    def axial(
        cls,
        shape: tuple[int, int, int],
        spacing_mm: tuple[float, float, float],
        origin_lps_mm: tuple[float, float, float] = (0.0, 0.0, 0.0),
    ) -> Geometry:
        """A straight axial grid; ``origin_lps_mm`` = patient (x, y, z) of voxel (0, 0, 0)."""
        affine = np.zeros((4, 4))
        affine[2, 0], affine[1, 1], affine[0, 2] = spacing_mm
        affine[:3, 3] = origin_lps_mm
        affine[3, 3] = 1.0
        return cls(shape, spacing_mm, affine)

    def to_source(self, volume: np.ndarray) -> np.ndarray:
        """Bring a canonical [z, y, x] array back to the axis order and direction of the source array."""
        flipped = volume[tuple(slice(None, None, -1) if f else slice(None) for f in self.source_flips)]
        return np.ascontiguousarray(np.transpose(flipped, self.source_axes))

    def from_source(self, volume: np.ndarray) -> np.ndarray:
        """Inverse of :meth:`to_source`."""
        canonical = np.transpose(volume, np.argsort(self.source_axes))
        return np.ascontiguousarray(canonical[tuple(slice(None, None, -1) if f else slice(None) for f in self.source_flips)])


@dataclass(frozen=True)
class Acquisition:
    """How the scan was made, as far as the file says. ``None`` means unknown, never "no".

    Those that change what a HU threshold means:

    Attributes:
        kvp: tube voltage.
        tin_filter: the beam was hardened by tin (Siemens Sn100, say): the HU are not those of ``kvp`` without it. Many
            headers don't say so.
        multi_energy: acquired with more than one spectrum.
        virtual_image: "VMI" (monoenergetic, keV) or the name of a material map: computed HU, of no tube voltage.
        mass_factor: calcium mass calibration of the scanner for this patient, mg/mm³ per HU.
    """

    modality: str | None = None
    kvp: float | None = None
    manufacturer: str | None = None
    model: str | None = None
    kernel: str | None = None
    slice_thickness_mm: float | None = None
    contrast_agent: str | None = None
    gated: bool | None = None
    iterative_reconstruction: bool | None = None
    tin_filter: bool | None = None
    multi_energy: bool | None = None
    virtual_image: str | None = None
    mass_factor: float | None = None
    heart_rate_bpm: float | None = None
    bmi_kg_m2: float | None = None
    series_description: str | None = None
    protocol_name: str | None = None
    series_uid: str | None = None
    patient_id_hash: str | None = None
    sop_instance_uids: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scan:
    """One CT volume.

    Attributes:
        hu: int16 or float32 [z, y, x], Hounsfield units; values below -1024 are outside the field of view.
        geometry: grid of ``hu``.
        acquisition: header facts.
        source: path it was read from ("" for a generated scan).
        notes: what the reader left out or repaired, one sentence each (shown as warnings).
    """

    hu: np.ndarray
    geometry: Geometry
    acquisition: Acquisition = field(default_factory=Acquisition)
    source: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.hu.shape != self.geometry.shape:
            raise ArgumentError("array and geometry differ in shape", field="shape", value=self.hu.shape)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        return self.geometry.spacing_mm
