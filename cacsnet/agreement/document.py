"""A study as plain JSON values: every number under a stable key; what isn't estimable is null and says why."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from typing import Any

import numpy as np

from cacsnet.agreement.glm import ZERO_RULE
from cacsnet.agreement.lesions import MIN_AREA_MM2, Overlap
from cacsnet.agreement.paired import RULE, Z_CAVEAT
from cacsnet.agreement.scan_rescan import OneScan, ScanRescan
from cacsnet.agreement.statistics import Bootstrap
from cacsnet.agreement.study import Categories, Part, Study

RULES = {
    "signs": "bias = reference - model; reference = slope * model + intercept; scan differences are first - second",
    "icc": "two-way, single measurement, McGraw & Wong 1996; icc_c1 (consistency) is the one Sartoretti et al. 2022 print",
    "kappa": "kappa_quadratic is the one Sartoretti et al. 2022 print; its interval is asymptotic",
    "clustered": "..._ci_clustered: percentile bootstrap of whole patients; ..._ci takes scans as independent",
    "paired_test": RULE,
    "reclassification_rate_ci": "Wilson",
    "z_test": Z_CAVEAT,
    "glm": ZERO_RULE,
    "lesions": f"orCaScore: 3-D 6-connected lesions, F1 of volumes; islands below {MIN_AREA_MM2:g} mm2 dropped from both maps",
}


def study_document(study: Study) -> dict[str, Any]:
    """The content of ``agreement.json``: ``total``, each vessel, ``categories`` and the rest; plain JSON values."""
    rescan = study.scan_rescan
    return plain(
        {
            "n_cases": len(study.pairs),
            "n_patients": study.n_patients,
            "n_left_out": len(study.left_out),
            "phantom": study.phantom,
            **{name: part_document(part) for name, part in study.parts.items()},
            "categories": categories_document(study.categories),
            "scan_rescan": None if rescan is None else _scan_rescan(rescan),
            "glm": [asdict(fit) for fit in study.glm],
            "lesions": None if study.lesions is None else _lesions(study.lesions, study.n_label_cases),
            "missing": study.missing,
            "left_out": study.left_out.to_dict("records"),
            "notes": study.notes,
            "settings": study.settings,
            "rules": RULES,
        }
    )


def part_document(part: Part) -> dict[str, Any]:
    """Numbers of the total or of one vessel."""
    line, limits, correlation = part.regression, part.bland_altman, part.icc
    numbers = {
        "n": part.n,
        "n_left_out": part.n_left_out,
        "mean_reference": part.mean_reference,
        "sd_reference": part.sd_reference,
        "mean_model": part.mean_model,
        "sd_model": part.sd_model,
        "mean_absolute_error": part.mean_absolute_error,
        "slope": line.slope,
        "slope_ci": line.slope_ci,
        "intercept": line.intercept,
        "intercept_ci": line.intercept_ci,
        "r2": line.r_squared,
        "regression_p": line.p_value,
        "bias": limits.bias,
        "bias_ci": limits.bias_ci,
        "sd_difference": limits.sd,
        "loa_lower": limits.lower,
        "loa_lower_ci": limits.lower_ci,
        "loa_upper": limits.upper,
        "loa_upper_ci": limits.upper_ci,
        "icc_c1": correlation.consistency,
        "icc_c1_ci": correlation.consistency_ci,
        "icc_a1": correlation.agreement,
        "icc_a1_ci": correlation.agreement_ci,
    }
    reasons = {"regression": line.reason, "bland_altman": limits.reason, "icc": correlation.reason}
    reasons |= {f"{name}_clustered": found.reason for name, found in part.clustered.items()}
    return {
        **numbers,
        **clustered_document(part.clustered),
        "paired_test": asdict(part.test),
        "reasons": {name: why for name, why in reasons.items() if why},
    }


def clustered_document(found: Mapping[str, Bootstrap]) -> dict[str, Any]:
    """``<name>_ci_clustered`` of each bootstrap interval."""
    return {f"{name}_ci_clustered": (interval.low, interval.high) for name, interval in found.items()}


def categories_document(found: Categories) -> dict[str, Any]:
    """Numbers of the risk categories; ``reclassified`` is the number of cases, ``cases`` names them with their reasons."""
    moved = found.reclassification
    kappas = {"kappa": found.kappa, "kappa_linear": found.kappa_linear, "kappa_quadratic": found.kappa_quadratic}
    reasons = {name: kappa.reason for name, kappa in kappas.items()} | {"reclassification": moved.reason}
    reasons |= {f"{name}_clustered": interval.reason for name, interval in found.clustered.items()}
    return {
        "n": moved.n,
        "labels": found.labels,
        "confusion": found.confusion.tolist(),
        "rows": [asdict(row) for row in found.rows],
        **{name: kappa.kappa for name, kappa in kappas.items()},
        **{f"{name}_ci": kappa.ci for name, kappa in kappas.items()},
        "reclassification_rate": moved.rate,
        "reclassification_rate_ci": moved.ci,
        "reclassified": moved.changed,
        "reclassified_up": moved.up,
        "reclassified_down": moved.down,
        **clustered_document(found.clustered),
        "cases": [asdict(case) for case in found.cases],
        "reasons": {name: why for name, why in reasons.items() if why},
    }


def _scan_rescan(found: ScanRescan) -> dict[str, Any]:
    document = {name: value for name, value in vars(found).items() if name not in ("first", "second")}
    return document | {"first": _one_scan(found.first), "second": _one_scan(found.second)}


def _one_scan(found: OneScan) -> dict[str, Any]:
    return {
        "scan": found.scan,
        "n": found.n,
        "icc_c1": found.icc.consistency,
        "icc_c1_ci": found.icc.consistency_ci,
        "icc_a1": found.icc.agreement,
        "icc_a1_ci": found.icc.agreement_ci,
        "kappa_quadratic": found.kappa_quadratic.kappa,
        "kappa_quadratic_ci": found.kappa_quadratic.ci,
        "reclassified": found.reclassification.changed,
        "reclassification_rate": found.reclassification.rate,
        "reclassification_rate_ci": found.reclassification.ci,
    }


def _lesions(found: tuple[Overlap, ...], n_cases: int) -> dict[str, Any]:
    ratios = ("sensitivity", "ppv", "f1", "lesion_sensitivity", "lesion_ppv")
    parts = {o.part: {k: v for k, v in vars(o).items() if k != "part"} | {r: getattr(o, r) for r in ratios} for o in found}
    return {"n_cases": n_cases, **parts}


def plain(value: Any) -> Any:
    """What JSON knows: dataclasses and mappings to objects, tuples and arrays to lists, nan and infinity to null."""
    if is_dataclass(value) and not isinstance(value, type):
        value = vars(value)
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
