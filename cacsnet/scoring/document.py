"""A score as plain values for ``scores.json``: of ``infer.py`` and of an edited label map alike."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from cacsnet.scoring.agatston import CalciumScore
from cacsnet.scoring.calibration import Calibration
from cacsnet.scoring.slabs import Slabs

MASS_FACTOR_DEFAULT = "profile default"


def score_document(
    score: CalciumScore, calibration: Calibration, slabs: Slabs | None, mass_factor_from: str
) -> dict[str, dict[str, Any] | None]:
    """The parts of ``scores.json`` that say what was scored and how.

    Args:
        score: the coronary score.
        calibration: how the scan was to be scored.
        slabs: how slices were averaged; None if that wasn't asked for.
        mass_factor_from: where a mass factor of the scan came from; not used if the profile's default was scored with.

    Returns:
        ``measures`` (all four scores of "total" and each vessel), ``categories``, ``rules``, ``slab``.
    """
    default = calibration.mass_factor is None
    return {
        "measures": {name: asdict(measures) for name, measures in {"total": score.total, **score.vessels}.items()},
        "categories": {
            "risk_category": score.risk_category,
            "risk_category_5": score.risk_category_5,
            "risk_category_6": score.risk_category_6,
            "cac_drs": score.cac_drs,
        },
        "rules": {
            "profile": score.profile,
            "kvp": score.kvp,
            "kvp_of_scan": calibration.kvp,
            "bands_hu": list(score.bands_hu),
            "mass_factor": score.mass_factor,
            "mass_factor_from": MASS_FACTOR_DEFAULT if default else mass_factor_from,
            "category_rule": score.category_rule,
            "flags": list(score.flags),
        },
        "slab": None if slabs is None else asdict(slabs),
    }
