"""What can be set about inference. The values that ship are in ``conf/inference/default.yaml``; these are the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from cacsnet.errors import ArgumentError, ConfigError
from cacsnet.scoring.profiles import ScoringProfile
from cacsnet.scoring.slabs import check_slab_mm


@dataclass(frozen=True)
class HeartSettings:
    """When a component of the coarse structure map is a heart.

    Attributes:
        plausible_ml: per chamber, the lowest and highest volume that counts in full.
        min_plausibility: 0..1; half of it is chamber volumes, a quarter adjacency, a quarter lying between the lungs.
        min_ventricles_ml: left and right ventricle with myocardium; less is "heart not covered".
        min_left_ventricle_ml: left ventricle with myocardium that a heart cut off by the scan must still show.
        cut_off_area_cm2: area of chambers on the scan's border from which the heart counts as cut off.
        lung_reach_mm: how far to the left and to the right lung is looked for.
        bridge_mm: widest gap between parts of one heart.
        min_part_ml: smaller parts that touch nothing are none of it.
    """

    plausible_ml: Mapping[str, tuple[float, float]] = field(
        default_factory=lambda: {
            "left_ventricle": (30.0, 400.0),
            "right_ventricle": (30.0, 400.0),
            "left_atrium": (15.0, 350.0),
            "right_atrium": (15.0, 350.0),
            "myocardium": (30.0, 400.0),
        }
    )
    min_plausibility: float = 0.5
    min_ventricles_ml: float = 50.0
    min_left_ventricle_ml: float = 15.0
    cut_off_area_cm2: float = 1.0
    lung_reach_mm: float = 150.0
    bridge_mm: float = 6.0
    min_part_ml: float = 3.0


@dataclass(frozen=True)
class QualitySettings:
    """Where a scan is refused or flagged.

    Attributes:
        enhanced_hu: blood at or above it is contrast-enhanced.
        enhanced_ml: without a heart: volume of one bright compartment that says contrast.
        noise_hu: image noise from which a scan is flagged.
        thickness_mm: slice thickness and increment within it are standard.
        max_pixel_mm: larger pixels are flagged.
        metal_hu, metal_mm3: a component at least this bright and large within the heart region is metal.
        ventricles_ml: outside it the vessel filter is switched off.
        sharp_kernels: regular expressions (whole name, case ignored) of kernels too sharp for calcium scoring.
    """

    enhanced_hu: float = 100.0
    enhanced_ml: float = 60.0
    noise_hu: float = 25.0
    thickness_mm: tuple[float, float] = (2.4, 3.1)
    max_pixel_mm: float = 1.0
    metal_hu: float = 2000.0
    metal_mm3: float = 5.0
    ventricles_ml: tuple[float, float] = (100.0, 900.0)
    sharp_kernels: tuple[str, ...] = (
        r"[A-Z][a-z]?[5-9]\d[a-z]?.*",  # Siemens: B50f, Br59d, Bl64, ...
        r".*(LUNG|BONE|EDGE|ULTRA|DETAIL).*",  # GE
        r"(D|E|L|Y[A-E]|EB|EC)",  # Philips
        r"FC(3|5|8)\d.*",  # Canon
    )


@dataclass(frozen=True)
class InferenceSettings:
    """How a scan is read by a model.

    Attributes:
        scoring: scoring profile or its name.
        coarse_overlap, fine_overlap: shares by which neighbouring windows overlap.
        coarse_share: of the coarse network's coronary probabilities in the decision, where there is a fine one.
        batch: windows per network call.
        heart_margin_mm: candidates lie within it of the heart.
        tau: a voxel with ``p_cor`` at or above it is coronary.
        vessel_filter_mm: largest distance of a coronary lesion from the ventricles.
        assumed_kvp: taken, and flagged, where a scan can't say.
        slab_mm: slices are averaged to slabs of this thickness before everything else; None: scored as they are.
        heart, quality: see there.
    """

    scoring: str | ScoringProfile = "smartscore"
    coarse_overlap: float = 0.25
    fine_overlap: float = 0.25
    coarse_share: float = 0.5
    batch: int = 2
    heart_margin_mm: float = 30.0
    tau: float = 0.5
    vessel_filter_mm: float = 26.0
    assumed_kvp: float = 120.0
    slab_mm: float | None = None
    heart: HeartSettings = field(default_factory=HeartSettings)
    quality: QualitySettings = field(default_factory=QualitySettings)

    def __post_init__(self) -> None:
        for name, low, high in (
            ("coarse_overlap", 0, 0.9),
            ("fine_overlap", 0, 0.9),
            ("coarse_share", 0, 1),
            ("tau", 0, 1),
            ("batch", 1, 1024),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(f"must lie in {low:g}..{high:g}", field=f"inference.{name}", value=value)
        if self.slab_mm is not None:
            try:
                check_slab_mm(self.slab_mm)
            except ArgumentError as error:
                raise ConfigError(error.message, field="slab_mm", value=self.slab_mm) from None


def settings_from(config: Mapping[str, Any]) -> InferenceSettings:
    """Settings from nested mappings and lists, as a YAML file has them.

    Raises:
        ConfigError: a key that isn't one.
    """
    parts = dict(config)
    for name, cls in (("heart", HeartSettings), ("quality", QualitySettings)):
        if name in parts:
            parts[name] = _build(cls, parts[name], f"inference.{name}")
    return _build(InferenceSettings, parts, "inference")


def _build(cls: type, values: Mapping[str, Any], where: str) -> Any:
    known = {f.name for f in fields(cls)}
    for key in values:
        if key not in known:
            raise ConfigError(f"unknown key; known are {', '.join(sorted(known))}", field=where, value=key)
        default = next(f.default for f in fields(cls) if f.name == key)
        number = isinstance(values[key], (int, float)) and not isinstance(values[key], bool)
        if isinstance(default, (int, float)) and not number:
            raise ConfigError("must be a number", field=f"{where}.{key}", value=values[key])
    return cls(**{key: _frozen(value) for key, value in values.items()})


def _frozen(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(value)
    if isinstance(value, Mapping):
        return {key: _frozen(inner) for key, inner in value.items()}
    return value
