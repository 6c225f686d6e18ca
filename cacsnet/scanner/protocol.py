"""How one scan is made: plain values, from which with a seed everything follows."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from cacsnet.errors import ArgumentError
from cacsnet.scanner.materials import CALCIUM_HU_PER_MG_CC

SLICE_PROFILES = ("box", "trapezoid", "gaussian")

Vector = tuple[float, float, float]


@dataclass(frozen=True)
class Protocol:
    """How one scan is made. Lengths in mm, axes [z, y, x].

    Attributes:
        spacing_mm: (dz, dy, dx), dz the increment.
        shape: (slices, rows, columns).
        origin_mm: patient (z, y, x) of voxel (0, 0, 0)'s centre.
        thickness_mm: full width at half maximum of the slice profile.
        fwhm_mm: full width at half maximum of the in-plane point spread function.
        noise_hu: standard deviation of the noise at the centre of the field.
        noise_correlation_mm: width (Gaussian sigma) of the noise's low-pass where it isn't the kernel's; None: the kernel's.
        kvp: tube voltage.
        calcium_scale: factor on CALCIUM_HU_PER_MG_CC (body size, calibration of the scanner).
        slice_profile: "box", "trapezoid" (base three times as wide as the top) or "gaussian".
        edge_enhancement: 0 smooth; a > 0: (1 + a) narrow - a wide Gaussian, so that the MTF exceeds 1 (sharp kernels).
        iterative: strength of iterative reconstruction, 0 (filtered back projection) to 1: where the noise spectrum lies.
            ``noise_hu`` is what is left after it.
        ray_noise: share of the rays' attenuation that shows in the noise, 0 (the same noise everywhere) to 1 (no bow-tie
            filter, no tube current modulation).
        current_modulation: how far the tube current evens out the noise from slice to slice, 0 to 1.
        motion_path_mm: positions (z, y, x) of the heart at equal times of the acquisition window; empty: it stands still.
        motion_start_deg: direction of the ray at the window's start.
        sources: X-ray sources; each sees 180° / sources in the window.
        slab_slices: slices taken in one heart beat; 0: all in one.
        slab_shifts_mm: displacement (z, y, x) of the heart in each slab (step artefacts).
        cupping_hu: how much too dark water is at the centre, compared with 150 mm away from it.
        circle_mm: diameter of the reconstruction circle; 0: the whole square.
        padding_hu: value outside that circle.
        scanner, kernel: names, for the file header only.

    Raises:
        ArgumentError: a value out of its domain.
    """

    spacing_mm: Vector
    shape: tuple[int, int, int]
    origin_mm: Vector
    thickness_mm: float
    fwhm_mm: float = 1.0
    noise_hu: float = 18.0
    noise_correlation_mm: float | None = None
    kvp: int = 120
    calcium_scale: float = 1.0
    slice_profile: str = "box"
    edge_enhancement: float = 0.0
    iterative: float = 0.0
    ray_noise: float = 0.6
    current_modulation: float = 0.0
    motion_path_mm: tuple[Vector, ...] = ()
    motion_start_deg: float = 0.0
    sources: int = 1
    slab_slices: int = 0
    slab_shifts_mm: tuple[Vector, ...] = ()
    cupping_hu: float = 0.0
    circle_mm: float = 0.0
    padding_hu: int = -1024
    scanner: str = ""
    kernel: str = ""

    def __post_init__(self) -> None:
        def require(good: bool, field: str, message: str) -> None:
            if not good:
                raise ArgumentError(f"protocol: {message}", field=field, value=getattr(self, field))

        require(len(self.spacing_mm) == 3 and min(self.spacing_mm) > 0, "spacing_mm", "must be three positive mm")
        require(len(self.shape) == 3 and min(self.shape) > 0, "shape", "must be three positive numbers of voxels")
        require(len(self.origin_mm) == 3, "origin_mm", "must be three mm")
        require(self.thickness_mm > 0, "thickness_mm", "must be positive")
        require(self.fwhm_mm > 0, "fwhm_mm", "must be positive")
        require(self.noise_hu >= 0, "noise_hu", "must not be negative")
        require(self.noise_correlation_mm is None or self.noise_correlation_mm > 0, "noise_correlation_mm", "must be positive")
        require(self.kvp in CALCIUM_HU_PER_MG_CC, "kvp", f"choose from {', '.join(map(str, CALCIUM_HU_PER_MG_CC))}")
        require(self.slice_profile in SLICE_PROFILES, "slice_profile", f"choose from {', '.join(SLICE_PROFILES)}")
        require(0 <= self.edge_enhancement <= 2, "edge_enhancement", "must be within 0 and 2")
        for field in ("iterative", "ray_noise", "current_modulation"):
            require(0 <= getattr(self, field) <= 1, field, "must be within 0 and 1")
        require(self.sources >= 1, "sources", "must be at least 1")
        require(all(len(p) == 3 for p in self.motion_path_mm), "motion_path_mm", "must be (z, y, x) positions")
        slabs = -(-self.shape[0] // self.slab_slices) if self.slab_slices > 0 else 0
        require(self.slab_slices >= 0, "slab_slices", "must not be negative")
        require(len(self.slab_shifts_mm) in (0, slabs), "slab_shifts_mm", f"must be one shift for each of {slabs} slabs")
        require(self.circle_mm >= 0, "circle_mm", "must not be negative")

    @property
    def hu_per_mg_cc(self) -> float:
        """HU per mg/cc hydroxyapatite."""
        return CALCIUM_HU_PER_MG_CC[self.kvp] * self.calcium_scale

    @property
    def moves(self) -> bool:
        """Whether the heart moves within or between the slabs."""
        return bool(self.motion_path_mm) or bool(self.slab_shifts_mm)

    @property
    def reach_mm(self) -> Vector:
        """How far (z, y, x) beyond an object's surface its image reaches (99.9 % of it): blur, slice profile, motion."""
        across = 1.6 * self.fwhm_mm * (3.0 if self.edge_enhancement > 0 else 1.0)
        along = {"box": 0.5, "trapezoid": 0.75, "gaussian": 1.6}[self.slice_profile] * self.thickness_mm
        path = np.abs(np.array(self.motion_path_mm or [(0.0, 0.0, 0.0)])).max(0)
        shift = np.abs(np.array(self.slab_shifts_mm or [(0.0, 0.0, 0.0)])).max(0)
        z, y, x = (path + shift).tolist()
        return along + z, across + y, across + x

    def still(self) -> Protocol:
        """The same scan of a heart that stands still."""
        return replace(self, motion_path_mm=(), slab_slices=0, slab_shifts_mm=()) if self.moves else self
