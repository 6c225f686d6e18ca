"""From scored scans to the numbers that say whether a network is good. Pure functions of tables and label maps.

A table has one row a scan: ``case_id, agatston_total, agatston_LM, …`` (empty where the scan couldn't be scored). The model's
may also hold the counts of :func:`lesion_counts` and the overlaps of :func:`structure_dice`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import cc3d
import numpy as np
import pandas as pd

from cacsnet.agreement.statistics import category_indices, confusion, icc, reclassification, weighted_kappa
from cacsnet.errors import ArgumentError
from cacsnet.labels import IGNORE, STRUCTURES, VESSEL_NAMES
from cacsnet.scoring.categories import RISK_CATEGORIES

LESION_COLUMNS = ("lesions_true", "lesions_hit", "lesions_kept", "lesions_kept_true")
FALSE_AGATSTON_SCALE = 100.0
"""Agatston at which false calcium on zero scans costs its full weight (the risk category 1-100 ends there)."""


def lesion_counts(truth: np.ndarray, kept: np.ndarray) -> dict[str, float]:
    """Lesions of two vessel maps uint8 [z, y, x] (0 = no coronary calcium), as 26-connected components of any vessel.

    ``lesions_true`` of the truth, ``lesions_hit`` of them share a voxel with what was kept; ``lesions_kept`` of what was kept,
    ``lesions_kept_true`` of them share a voxel with the truth.
    """
    if truth.shape != kept.shape:
        raise ArgumentError("two maps of one scan", field="kept.shape", value=kept.shape)
    counts = []
    for lesions, other in ((truth > 0, kept > 0), (kept > 0, truth > 0)):
        components, number = cc3d.connected_components(lesions, connectivity=26, return_N=True)
        counts += [float(number), float(len(np.unique(components[other & lesions])))]
    return dict(zip(LESION_COLUMNS, counts, strict=True))


def structure_dice(truth: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """``dice_<structure>`` of two structure maps uint8 [z, y, x] where the truth is known; nan for one in neither."""
    known = truth != IGNORE
    out = {}
    for label in STRUCTURES[1:]:
        a, b = (truth == label.index) & known, (predicted == label.index) & known
        size = int(a.sum()) + int(b.sum())
        out[f"dice_{label.name}"] = 2 * int((a & b).sum()) / size if size else math.nan
    return out


def score_metrics(reference: pd.DataFrame, scores: pd.DataFrame) -> dict[str, float]:
    """Flat metrics of scored scans, matched by ``case_id``.

    A scan without a score counts as scored 0 in the agreement, and is counted in ``failed`` (its share of all scans): a network
    that finds no heart can't look good by leaving scans out.

    Returns:
        ``icc_total``, ``icc_LM`` … (ICC(A,1)), ``kappa`` (quadratic), ``reclassified`` (share), ``failed`` (share),
        ``false_zero_median`` and ``false_zero_p95`` (Agatston on scans with a reference of 0, scored ones only); where the
        columns are there, ``lesion_sensitivity``, ``lesion_ppv`` (lesions of all scans together) and the mean ``dice_…``.
        What the scans can't support is nan.
    """
    ref, mod = (table.assign(case_id=table["case_id"].astype(str)).set_index("case_id") for table in (reference, scores))
    if not ref.index.is_unique or not mod.index.is_unique or set(ref.index) != set(mod.index):
        raise ArgumentError("reference and scores must hold the same cases, each once", field="case_id", value=list(mod.index))
    mod = mod.loc[ref.index]
    raw = pd.to_numeric(mod["agatston_total"]).to_numpy(float)
    truth = ref["agatston_total"].to_numpy(float)
    out = {"failed": float(np.isnan(raw).mean()) if len(raw) else math.nan}
    for name in ("total", *VESSEL_NAMES):
        column = f"agatston_{name}"
        if column in ref.columns and column in mod.columns:
            strict = pd.to_numeric(mod[column]).fillna(0.0).to_numpy(float)
            out[f"icc_{name}"] = icc(ref[column].to_numpy(float), strict).agreement
    table = confusion(category_indices(truth), category_indices(np.nan_to_num(raw)), range(len(RISK_CATEGORIES)))
    out["kappa"] = weighted_kappa(table, "quadratic").kappa
    out["reclassified"] = reclassification(table).rate
    zero = raw[(truth == 0) & np.isfinite(raw)]
    out["false_zero_median"] = float(np.median(zero)) if len(zero) else math.nan
    out["false_zero_p95"] = float(np.percentile(zero, 95)) if len(zero) else math.nan
    if set(LESION_COLUMNS) <= set(mod.columns):
        true, hit, kept, kept_true = (float(mod[column].sum()) for column in LESION_COLUMNS)
        out["lesion_sensitivity"] = hit / true if true else math.nan
        out["lesion_ppv"] = kept_true / kept if kept else math.nan
    for column in [f"dice_{label.name}" for label in STRUCTURES[1:]]:
        if column in mod.columns:
            out[column] = float(mod[column].astype(float).mean())
    return {name: float(value) for name, value in out.items()}


def agreement(values: Mapping[str, float]) -> float:
    """One number (1 = perfect) that chooses the best checkpoint, from the values of :func:`score_metrics`::

        (ICC total + mean ICC of the vessels + quadratic kappa) / 3 - failed share - 0.1 min(1, false_zero_p95 / 100)

    The ICC is ruled by heavy scans, kappa by the low risk categories, the vessels' ICC by naming; the last two terms are
    what neither sees: a scan refused, and calcium found in people who have none. What is nan (too few scans) counts as 0, so
    that nothing degenerate is chosen as the best.
    """

    def number(name: str) -> float:
        value = float(values.get(name, math.nan))
        return value if math.isfinite(value) else 0.0

    vessels = sum(number(f"icc_{name}") for name in VESSEL_NAMES) / len(VESSEL_NAMES)
    false = 0.1 * min(1.0, number("false_zero_p95") / FALSE_AGATSTON_SCALE)
    return (number("icc_total") + vessels + number("kappa")) / 3 - number("failed") - false
