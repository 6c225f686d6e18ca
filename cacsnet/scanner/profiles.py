"""Scanner profiles: what one vendor's protocol may look like, as ranges, and the draw of one protocol from them.

A profile is a YAML file in ``conf/scanner/``; each setting there names its unit and source. Ranges are uniform.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from cacsnet.errors import ArgumentError, ConfigError
from cacsnet.scanner.kernel import noise_power
from cacsnet.scanner.materials import CALCIUM_HU_PER_MG_CC, WATER_PER_MM, calcium_hu_per_mg_cc
from cacsnet.scanner.motion import motion_path, slab_shifts
from cacsnet.scanner.protocol import SLICE_PROFILES, Protocol

PROFILE_FOLDER = Path(__file__).resolve().parents[2] / "conf" / "scanner"

Range = tuple[float, float]

REFERENCE_WATER_MM = 250.0
"""Water-equivalent diameter of an adult chest of 28 kg/m². Unverified default."""

WATER_MM_PER_BMI = 4.2
"""Chosen so that noise of 20 HU rises by 0.81 HU a unit of BMI at constant dose, as published for 120 kVp."""

ITERATIVE_SD = 0.6
"""Noise left by iterative reconstruction of strength s: 1 - 0.6 s (De Marco and Origgi 2018: -12 to -64 % at 2.5 mm)."""

REFERENCE_THICKNESS_MM, REFERENCE_FWHM_MM = 3.0, 1.0


@dataclass(frozen=True)
class Slices:
    """One way to reconstruct slices: thickness and increment, mm."""

    thickness_mm: float
    increment_mm: float
    weight: float


@dataclass(frozen=True)
class Kernel:
    """One kernel: its name, ranges of in-plane FWHM (mm), edge enhancement and strength of iterative reconstruction."""

    name: str
    fwhm_mm: Range
    edge_enhancement: Range
    iterative: Range
    weight: float


@dataclass(frozen=True)
class ScannerProfile:
    """What may be drawn. Ranges are (low, high).

    Attributes:
        name: the YAML file's name.
        manufacturer: for the file header.
        kvp: tube voltages and their weights.
        slices, slice_profile, kernels: reconstruction.
        field_mm, matrix: reconstructed square.
        circle: whether everything outside the inscribed circle is padded, with ``padding_hu``.
        noise_hu: SD at 3 mm, FWHM 1 mm, filtered back projection and a water-equivalent diameter of 250 mm.
        exposure_limits: lowest and highest exposure of the automatic control, relative to that reference; 1, 1: fixed.
        ray_noise, current_modulation: see :class:`Protocol`.
        rotation_ms, sources, gated: temporal resolution is rotation / (2 · sources).
        collimation_mm: z covered in one beat (or, free breathing, before the body has moved on).
        slab_shift_mm: SD of the displacement between such slabs, along z.
        cupping_hu: residual cupping.
        calcium_factor: the scanner's calcium calibration relative to first principles in a body of the same size.
    """

    name: str
    manufacturer: str
    kvp: Mapping[int, float]
    slices: tuple[Slices, ...]
    slice_profile: str
    kernels: tuple[Kernel, ...]
    field_mm: Range
    matrix: int
    circle: bool
    padding_hu: int
    noise_hu: Range
    exposure_limits: Range
    ray_noise: Range
    current_modulation: Range
    rotation_ms: Range
    sources: int
    gated: bool
    collimation_mm: float
    slab_shift_mm: Range
    cupping_hu: Range
    calcium_factor: Range

    def __post_init__(self) -> None:
        def require(good: bool, field: str, message: str) -> None:
            if not good:
                raise ConfigError(f"scanner profile {self.name}: {message}", field=field, value=getattr(self, field))

        require(bool(self.kvp) and set(self.kvp) <= set(CALCIUM_HU_PER_MG_CC), "kvp", "must be known tube voltages")
        require(min(self.kvp.values()) >= 0 < sum(self.kvp.values()), "kvp", "weights must not be negative")
        require(bool(self.slices) and sum(s.weight for s in self.slices) > 0, "slices", "must name at least one way")
        require(all(s.thickness_mm > 0 and s.increment_mm > 0 for s in self.slices), "slices", "must be positive mm")
        require(self.slice_profile in SLICE_PROFILES, "slice_profile", f"choose from {', '.join(SLICE_PROFILES)}")
        require(bool(self.kernels) and sum(k.weight for k in self.kernels) > 0, "kernels", "must name at least one kernel")
        require(all(k.fwhm_mm[0] > 0 for k in self.kernels), "kernels", "FWHM must be positive")
        require(
            all(k.edge_enhancement[0] >= 0 and k.edge_enhancement[1] <= 2 for k in self.kernels),
            "kernels", "edge enhancement must be within 0 and 2",
        )  # fmt: skip
        require(
            all(k.iterative[0] >= 0 and k.iterative[1] <= 1 for k in self.kernels),
            "kernels", "strength of iterative reconstruction must be within 0 and 1",
        )  # fmt: skip
        for field in ("field_mm", "noise_hu", "exposure_limits", "rotation_ms", "calcium_factor"):
            require(getattr(self, field)[0] > 0, field, "must be positive")
        for field in ("slab_shift_mm", "cupping_hu", "ray_noise", "current_modulation"):
            require(getattr(self, field)[0] >= 0, field, "must not be negative")
        for field in ("ray_noise", "current_modulation"):
            require(getattr(self, field)[1] <= 1, field, "must be within 0 and 1")
        require(self.matrix >= 16, "matrix", "must be at least 16")
        require(self.sources >= 1, "sources", "must be at least 1")
        require(self.collimation_mm > 0, "collimation_mm", "must be positive")


def profile_names(folder: Path = PROFILE_FOLDER) -> tuple[str, ...]:
    """Names of all profiles in ``conf/scanner/``."""
    return tuple(sorted(path.stem for path in folder.glob("*.yaml")))


@lru_cache(maxsize=64)
def load_profile(name: str, folder: Path = PROFILE_FOLDER) -> ScannerProfile:
    """Load ``conf/scanner/<name>.yaml``.

    Raises:
        ConfigError: no such profile (the message lists the names), or a bad setting.
    """
    if name not in profile_names(folder):
        known = ", ".join(profile_names(folder))
        raise ConfigError(f"unknown scanner profile, choose from {known}", field="scanner", value=name)
    settings = yaml.safe_load((folder / f"{name}.yaml").read_text(encoding="utf-8"))
    if not isinstance(settings, dict):
        raise ConfigError("a scanner profile must be a mapping", path=folder / f"{name}.yaml", field="scanner", value=name)
    return profile_from_mapping(settings)


def profile_from_mapping(settings: Mapping[str, Any]) -> ScannerProfile:
    """A profile from plain settings.

    Raises:
        ConfigError: a setting is missing, unknown, of the wrong kind or out of its domain.
    """
    name = str(settings.get("name", "?"))
    _same_keys(name, "scanner", settings, ScannerProfile)
    values = dict(settings)
    for field in fields(ScannerProfile):
        given = settings[field.name]
        if field.type == "Range":
            values[field.name] = _range(name, field.name, given)
        elif field.type in ("int", "float", "bool", "str"):
            values[field.name] = _plain(name, field.name, given, str(field.type))
    if not isinstance(settings["kvp"], Mapping):
        raise ConfigError(f"scanner profile {name}: must map kVp to a weight", field="kvp", value=settings["kvp"])
    values["kvp"] = {
        int(_plain(name, "kvp", k, "int")): float(_plain(name, "kvp", w, "float")) for k, w in settings["kvp"].items()
    }
    values["slices"] = tuple(_part(name, "slices", entry, Slices) for entry in _entries(name, "slices", settings["slices"]))
    values["kernels"] = tuple(_part(name, "kernels", entry, Kernel) for entry in _entries(name, "kernels", settings["kernels"]))
    return ScannerProfile(**values)


def _same_keys(name: str, field: str, given: Mapping[str, Any], kind: type) -> None:
    known = {f.name for f in fields(kind)}
    if set(given) != known:
        raise ConfigError(
            f"scanner profile {name}: missing {sorted(known - set(given))}, unknown {sorted(set(map(str, given)) - known)}",
            field=field, value=name,
        )  # fmt: skip


def _entries(name: str, field: str, given: Any) -> Sequence[Mapping[str, Any]]:
    if not isinstance(given, list) or not all(isinstance(entry, Mapping) for entry in given):
        raise ConfigError(f"scanner profile {name}: must be a list of mappings", field=field, value=given)
    return given


def _part(name: str, field: str, entry: Mapping[str, Any], kind: type) -> Any:
    _same_keys(name, field, entry, kind)
    ranges = {f.name for f in fields(kind) if f.type == "Range"}
    numbers = {f.name for f in fields(kind) if f.type == "float"}
    values = {
        key: _range(name, f"{field}.{key}", value) if key in ranges
        else _plain(name, f"{field}.{key}", value, "float" if key in numbers else "str")
        for key, value in entry.items()
    }  # fmt: skip
    return kind(**values)


def _plain(name: str, field: str, value: Any, kind: str) -> Any:
    good = {"int": int, "float": (int, float), "bool": bool, "str": str}[kind]
    if not isinstance(value, good) or (isinstance(value, bool) and kind != "bool"):  # type: ignore[arg-type]
        raise ConfigError(f"scanner profile {name}: must be a {kind}", field=field, value=value)
    return value


def _range(name: str, field: str, values: Any) -> Range:
    try:
        low, high = (float(v) for v in values)
    except (TypeError, ValueError):
        raise ConfigError(f"scanner profile {name}: must be [low, high]", field=field, value=values) from None
    if not low <= high:
        raise ConfigError(f"scanner profile {name}: low exceeds high", field=field, value=values)
    return low, high


def water_mm_of(bmi_kg_m2: float) -> float:
    """Water-equivalent diameter of a chest, mm, from the body mass index."""
    return REFERENCE_WATER_MM + WATER_MM_PER_BMI * (bmi_kg_m2 - 28.0)


def noise_sd(profile: ScannerProfile, reference_hu: float, protocol: Protocol, water_mm: float) -> float:
    """Noise SD (HU) at the centre: σ² ∝ exp(μ D) / (exposure · thickness) · ∫ NPS of the kernel (Brooks and Di Chiro 1976).

    Automatic exposure control follows exp(μ D) within its limits, so very thick patients are noisier. Iterative
    reconstruction leaves 1 - 0.6 s.
    """
    growth = float(np.exp(WATER_PER_MM[protocol.kvp] * (water_mm - REFERENCE_WATER_MM)))
    exposure = float(np.clip(growth, *profile.exposure_limits))
    thin = REFERENCE_THICKNESS_MM / protocol.thickness_mm
    kernel = _kernel_power(protocol.fwhm_mm, protocol.edge_enhancement) / _kernel_power(REFERENCE_FWHM_MM, 0.0)
    return reference_hu * float(np.sqrt(growth / exposure * thin * kernel)) * (1 - ITERATIVE_SD * protocol.iterative)


@lru_cache(maxsize=1024)
def _kernel_power(fwhm_mm: float, edge: float) -> float:
    """Noise variance that a kernel lets through, filtered back projection, arbitrary unit."""
    protocol = Protocol((1, 1, 1), (1, 1, 1), (0, 0, 0), 1.0, fwhm_mm=fwhm_mm, edge_enhancement=edge)
    per_mm = torch.linspace(0, 3.0, 500, dtype=torch.float64)
    return float((noise_power(protocol, per_mm) * per_mm).sum())


def draw_protocol(
    profile: str | ScannerProfile,
    rng: np.random.Generator,
    z_range_mm: Range,
    centre_mm: Range = (0.0, 0.0),
    bmi_kg_m2: float | None = None,
    heart_rate_bpm: float | None = None,
    matrix: int | None = None,
    field_mm: float | None = None,
) -> Protocol:
    """Draw one protocol.

    Args:
        profile: a profile or the name of one.
        z_range_mm: (low, high) patient z to cover.
        centre_mm: (y, x) centre of the field, patient mm.
        bmi_kg_m2: habitus; None draws one (28 ± 5, the paper's population).
        heart_rate_bpm: None draws one (62 ± 10, the paper's two scans together).
        matrix, field_mm: instead of the profile's.

    Raises:
        ConfigError: unknown or bad profile.
        ArgumentError: an empty z range or field.
    """
    profile = load_profile(profile) if isinstance(profile, str) else profile
    if not z_range_mm[1] > z_range_mm[0]:
        raise ArgumentError("must be (low, high)", field="z_range_mm", value=z_range_mm)
    if (field_mm is not None and field_mm <= 0) or (matrix is not None and matrix < 1):
        raise ArgumentError("field and matrix must be positive", field="field_mm, matrix", value=(field_mm, matrix))
    bmi = float(np.clip(rng.normal(28, 5), 17, 45)) if bmi_kg_m2 is None else bmi_kg_m2
    rate = float(np.clip(rng.normal(62, 10), 40, 110)) if heart_rate_bpm is None else heart_rate_bpm
    water = water_mm_of(bmi) + rng.normal(0, 8)
    kvp = int(rng.choice(list(profile.kvp), p=_shares(list(profile.kvp.values()))))
    way = profile.slices[int(rng.choice(len(profile.slices), p=_shares([s.weight for s in profile.slices])))]
    kernel = profile.kernels[int(rng.choice(len(profile.kernels), p=_shares([k.weight for k in profile.kernels])))]
    field = rng.uniform(*profile.field_mm) if field_mm is None else field_mm
    side = matrix or profile.matrix
    pixel = float(field / side)
    slices = max(1, int((z_range_mm[1] - z_range_mm[0]) / way.increment_mm))
    first_z = z_range_mm[0] + (0.5 + rng.uniform(-0.5, 0.5)) * way.increment_mm
    corner = [centre_mm[k] - pixel * (side - 1) / 2 for k in (0, 1)]
    rotation = rng.uniform(*profile.rotation_ms)
    path = motion_path(rng, rate, rotation / (2 * profile.sources), profile.gated)
    slab = max(1, int(profile.collimation_mm / way.increment_mm))
    slabs = -(-slices // slab)
    shifts = slab_shifts(rng, slabs, rng.uniform(*profile.slab_shift_mm)) if slabs > 1 else ()
    calcium = calcium_hu_per_mg_cc(kvp, water) / CALCIUM_HU_PER_MG_CC[kvp]
    plain = Protocol(
        (way.increment_mm, pixel, pixel), (slices, side, side), (float(first_z), float(corner[0]), float(corner[1])),
        way.thickness_mm, fwhm_mm=rng.uniform(*kernel.fwhm_mm), kvp=kvp,
        calcium_scale=calcium * rng.uniform(*profile.calcium_factor),
        slice_profile=profile.slice_profile, edge_enhancement=rng.uniform(*kernel.edge_enhancement),
        iterative=rng.uniform(*kernel.iterative),
    )  # fmt: skip
    return replace(
        plain, noise_hu=noise_sd(profile, rng.uniform(*profile.noise_hu), plain, water),
        ray_noise=rng.uniform(*profile.ray_noise), current_modulation=rng.uniform(*profile.current_modulation),
        motion_path_mm=path, motion_start_deg=rng.uniform(0, 180), sources=profile.sources,
        slab_slices=slab if shifts else 0, slab_shifts_mm=shifts, cupping_hu=rng.uniform(*profile.cupping_hu),
        circle_mm=field if profile.circle else 0.0, padding_hu=profile.padding_hu, scanner=profile.name, kernel=kernel.name,
    )  # fmt: skip


def _shares(weights: Sequence[float]) -> np.ndarray:
    out = np.asarray(weights, float)
    shares: np.ndarray = out / out.sum()
    return shares
