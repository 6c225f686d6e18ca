"""Scoring profiles: everything in which one vendor's or one author's Agatston score differs from another's.

A profile is a YAML file in ``conf/scoring/``; each setting there names its unit and source. Nothing about scoring
rules is decided outside a profile.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from cacsnet.errors import ConfigError, TubeVoltageError

PROFILE_FOLDER = Path(__file__).resolve().parents[2] / "conf" / "scoring"

Bands = tuple[float, float, float, float]

_AREA_TOLERANCE = 1e-9  # mm², so that an island of exactly the minimum area counts despite floating-point pixel areas


@dataclass(frozen=True)
class ScoringProfile:
    """Rules of one way to score. HU settings hold at 120 kVp unless said otherwise.

    Attributes:
        name: the YAML file's name.
        comparison: ">=" or ">": how a voxel is compared with the threshold.
        density_bands_hu: four lower edges of the weights 1-4; the first is the calcium threshold.
        kvp_table_hu: tube voltage (kVp) to the four edges at that voltage. A voltage without a row isn't scored.
        bands_scale_with_kvp: False: only the threshold follows ``kvp_table_hu``, weights 2-4 keep the 120 kVp edges.
        min_area_mm2: smallest island kept, mm² in the slice; None where ``min_pixels`` decides.
        min_pixels: smallest island kept, pixels; None where ``min_area_mm2`` decides.
        connectivity: 4 or 8: which pixels of a slice hang together.
        slice_normalisation: multiply the Agatston score with increment / 3 mm.
        voting: "island": vessels as given; "component3d_6": each 3-D 6-connected component goes to its majority vessel.
        category_rule: "real" (0 | (0,100] | (100,400] | >400) or "round" (round half up, then bin).
        fold_lm_into_lad: count LM as LAD (label sets without LM).
        volume_threshold_hu: other threshold for volume and mass; None: the Agatston threshold.
        ha_hu_per_mg_cc: HU per mg/cc hydroxyapatite: the default mass calibration.
        kvp_independent_kernels: regular expressions (whole name, case ignored) of reconstruction kernels whose images
            show calcium with the HU of 120 kVp at every voltage, see :func:`scoring_kvp`.
    """

    name: str
    comparison: str
    density_bands_hu: Bands
    kvp_table_hu: Mapping[float, Bands]
    bands_scale_with_kvp: bool
    min_area_mm2: float | None
    min_pixels: int | None
    connectivity: int
    slice_normalisation: bool
    voting: str
    category_rule: str
    fold_lm_into_lad: bool
    volume_threshold_hu: float | None
    ha_hu_per_mg_cc: float
    kvp_independent_kernels: tuple[str, ...]

    def __post_init__(self) -> None:
        def require(good: bool, field: str, message: str) -> None:
            if not good:
                raise ConfigError(f"scoring profile {self.name}: {message}", field=field, value=getattr(self, field))

        require(self.comparison in (">=", ">"), "comparison", "must be '>=' or '>'")
        require(self.connectivity in (4, 8), "connectivity", "must be 4 or 8")
        require(self.voting in ("island", "component3d_6"), "voting", "must be 'island' or 'component3d_6'")
        require(self.category_rule in ("real", "round"), "category_rule", "must be 'real' or 'round'")
        require(_rising(self.density_bands_hu), "density_bands_hu", "must be four rising HU")
        require(all(_rising(b) for b in self.kvp_table_hu.values()), "kvp_table_hu", "each row must be four rising HU")
        require(self.kvp_table_hu.get(120.0) == self.density_bands_hu, "kvp_table_hu", "row 120 must equal density_bands_hu")
        require((self.min_area_mm2 is None) != (self.min_pixels is None), "min_area_mm2", "give it or min_pixels")
        require(self.min_area_mm2 is None or self.min_area_mm2 > 0, "min_area_mm2", "must be positive")
        require(self.min_pixels is None or self.min_pixels >= 1, "min_pixels", "must be at least 1")
        require(self.ha_hu_per_mg_cc > 0, "ha_hu_per_mg_cc", "must be positive")
        require(self.volume_threshold_hu is None or self.volume_threshold_hu > 0, "volume_threshold_hu", "must be > 0")
        require(_patterns(self.kvp_independent_kernels), "kvp_independent_kernels", "must be a list of regular expressions")

    def bands(self, kvp: float | None) -> Bands:
        """Lower HU edges of the weights 1-4 at ``kvp``; the first is the threshold.

        Raises:
            TubeVoltageError: kvp is None or the profile has no thresholds for it (130 HU is never assumed).
        """
        number = isinstance(kvp, (int, float)) or hasattr(kvp, "__float__")
        row = self.kvp_table_hu.get(float(kvp)) if kvp is not None and number else None
        if row is None:
            known = ", ".join(f"{k:g}" for k in sorted(self.kvp_table_hu))
            raise TubeVoltageError(f"profile {self.name} has thresholds for {known} kVp only", field="kvp", value=kvp)
        return row if self.bands_scale_with_kvp else (row[0], *self.density_bands_hu[1:])

    def threshold_hu(self, kvp: float | None) -> float:
        """Agatston threshold at ``kvp``, HU. Raises TubeVoltageError as :meth:`bands`."""
        return self.bands(kvp)[0]

    def volume_threshold(self, kvp: float | None) -> float:
        """Threshold of volume and mass at ``kvp``, HU; it follows the voltage as the Agatston threshold does."""
        threshold = self.threshold_hu(kvp)
        if self.volume_threshold_hu is None:
            return threshold
        return self.volume_threshold_hu * threshold / self.density_bands_hu[0]

    def mass_factor(self, kvp: float | None) -> float:
        """Default mass calibration at ``kvp``: mg/mm³ per HU. mass = factor x volume x mean HU."""
        return 1e-3 / (self.ha_hu_per_mg_cc * self.threshold_hu(kvp) / self.density_bands_hu[0])

    def least_pixels(self, pixel_area_mm2: float) -> int:
        """The smallest number of pixels an island may have to be kept."""
        if self.min_area_mm2 is None:
            return self.min_pixels or 1
        return max(1, math.ceil((self.min_area_mm2 - _AREA_TOLERANCE) / pixel_area_mm2))

    @property
    def strict(self) -> bool:
        """True where a voxel must exceed the threshold, not only reach it."""
        return self.comparison == ">"


def profile_names(folder: Path = PROFILE_FOLDER) -> tuple[str, ...]:
    """Names of all profiles in ``conf/scoring/``."""
    return tuple(sorted(path.stem for path in folder.glob("*.yaml")))


def load_profile(name: str, folder: Path = PROFILE_FOLDER) -> ScoringProfile:
    """Load ``conf/scoring/<name>.yaml``.

    Raises:
        ConfigError: no such profile (the message lists the names), or a bad setting.
    """
    names = profile_names(folder)
    if name not in names:
        raise ConfigError(f"unknown scoring profile, choose from {', '.join(names)}", field="scoring", value=name)
    settings = yaml.safe_load((folder / f"{name}.yaml").read_text(encoding="utf-8"))
    return profile_from_mapping(settings)


def profile_from_mapping(settings: Mapping[str, Any]) -> ScoringProfile:
    """A profile from plain settings (a YAML file, or a resolved Hydra config with overrides).

    Raises:
        ConfigError: a setting is missing, unknown or out of its domain.
    """
    known = {f.name for f in fields(ScoringProfile)}
    given = {str(key) for key in settings}
    name = str(settings.get("name", "?"))
    if given != known:
        raise ConfigError(
            f"scoring profile {name}: missing {sorted(known - given)}, unknown {sorted(given - known)}",
            field="scoring",
            value=name,
        )
    values = dict(settings)
    values["density_bands_hu"] = _four(name, "density_bands_hu", settings["density_bands_hu"])
    values["kvp_table_hu"] = {
        float(kvp): _four(name, f"kvp_table_hu.{kvp}", row) for kvp, row in settings["kvp_table_hu"].items()
    }
    if isinstance(settings["kvp_independent_kernels"], list | tuple):
        values["kvp_independent_kernels"] = tuple(settings["kvp_independent_kernels"])
    return ScoringProfile(**values)


def scoring_kvp(kvp: float | None, kernel: str | None, profile: str | ScoringProfile = "smartscore") -> float | None:
    """The tube voltage whose thresholds fit an image: 120 for a kernel independent of it, else the tube voltage itself.

    Some kernels (Siemens Sa36) show calcium with the HU of 120 kVp whatever the voltage; scaled thresholds would be wrong
    twice. This says nothing about tin-filtered beams (Sn100) and monoenergetic images of other kernels, whose nominal
    voltage doesn't describe the spectrum: the caller must refuse or flag these.

    Args:
        kvp: tube voltage of the scan; None if unknown.
        kernel: name of the reconstruction kernel, the first of several (DICOM separates them with a backslash).
        profile: name or profile.

    Returns:
        What :func:`cacsnet.scoring.score` takes as ``kvp``; None if unknown.
    """
    name = (kernel or "").split("\\")[0].strip()
    patterns = as_profile(profile).kvp_independent_kernels
    independent = any(re.fullmatch(pattern, name, re.IGNORECASE) for pattern in patterns)
    return 120.0 if name and independent else kvp


def as_profile(profile: str | ScoringProfile) -> ScoringProfile:
    """The profile itself, or the one of that name."""
    return profile if isinstance(profile, ScoringProfile) else load_profile(profile)


def _four(name: str, field: str, values: Any) -> Bands:
    try:
        a, b, c, d = (float(v) for v in values)
    except (TypeError, ValueError):
        raise ConfigError(f"scoring profile {name}: must be four numbers", field=field, value=values) from None
    return a, b, c, d


def _rising(bands: Bands) -> bool:
    return 0 < bands[0] < bands[1] < bands[2] < bands[3]


def _patterns(values: object) -> bool:
    try:
        return isinstance(values, tuple) and all(re.compile(pattern) for pattern in values)
    except (TypeError, re.error):
        return False
