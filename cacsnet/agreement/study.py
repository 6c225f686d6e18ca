"""The whole agreement analysis of Sartoretti et al. 2022 on any cohort: every number, as plain data.

Bias = reference - model; regression: reference = slope * model + intercept. Tables, JSON and pictures are made of
:class:`Study` elsewhere (:mod:`cacsnet.agreement.tables`, :mod:`cacsnet.agreement.write`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cacsnet.agreement.categories import CategoryRow, category_rows
from cacsnet.agreement.glm import GLM, percentage_difference, percentage_glm
from cacsnet.agreement.label_maps import CaseLabels, read_case_labels, read_origin_names
from cacsnet.agreement.lesions import Overlap, overlaps, sum_overlaps
from cacsnet.agreement.paired import PairedTest, paired_test
from cacsnet.agreement.pairs import Pairs, match
from cacsnet.agreement.reclassified import ReclassifiedCase, explain
from cacsnet.agreement.scan_rescan import ScanRescan, scan_rescan
from cacsnet.agreement.statistics import (
    ICC,
    BlandAltman,
    Bootstrap,
    Kappa,
    Reclassification,
    Regression,
    bland_altman,
    bootstrap,
    category_indices,
    confusion,
    icc,
    icc_values,
    kappa_value,
    reclassification,
    regression,
    weighted_kappa,
)
from cacsnet.errors import CacsError
from cacsnet.scoring.categories import RISK_CATEGORIES

CONFIDENCE = 0.95
RESAMPLES = 2000


@dataclass(frozen=True)
class Part:
    """Agreement of the total or of one vessel, in Agatston units.

    Attributes:
        name: "total", "LM", "LAD", "LCX" or "RCA".
        n: compared cases; n_left_out: compared cases whose score of this vessel is missing in a table.
        mean_reference, sd_reference, mean_model, sd_model: sd with n - 1; nan where there are too few cases.
        mean_absolute_error: mean |reference - model|.
        regression: reference on model.
        bland_altman: of reference - model.
        icc: ICC(C,1) and ICC(A,1) with intervals that take scans as independent.
        test: reference against model.
        clustered: bootstrap intervals of whole patients: "icc_c1", "icc_a1", "bias", "loa_lower", "loa_upper".
    """

    name: str
    n: int
    n_left_out: int
    mean_reference: float
    sd_reference: float
    mean_model: float
    sd_model: float
    mean_absolute_error: float
    regression: Regression
    bland_altman: BlandAltman
    icc: ICC
    test: PairedTest
    clustered: Mapping[str, Bootstrap]


@dataclass(frozen=True, eq=False)
class Categories:
    """Agreement of the risk categories of the total score.

    Attributes:
        labels: the categories, rising.
        confusion: int64 [reference, model].
        rows: under-, overestimation and concordance of each reference category.
        kappa, kappa_linear, kappa_quadratic: unweighted, linear, quadratic weights.
        reclassification: rate with Wilson interval.
        clustered: bootstrap intervals of whole patients: "kappa_quadratic", "reclassification_rate".
        cases: each reclassified case with its reason, by case id.
    """

    labels: tuple[str, ...]
    confusion: NDArray[np.int64]
    rows: tuple[CategoryRow, ...]
    kappa: Kappa
    kappa_linear: Kappa
    kappa_quadratic: Kappa
    reclassification: Reclassification
    clustered: Mapping[str, Bootstrap]
    cases: tuple[ReclassifiedCase, ...]


@dataclass(frozen=True, eq=False)
class Study:
    """Everything the tables, the figures and the report are made of.

    Attributes:
        pairs: one row per compared case; columns of :class:`~cacsnet.agreement.pairs.Pairs` plus
            ``percentage_difference`` (100 |reference - model| / reference, nan for a reference of 0).
        left_out: cases that couldn't be compared: ``case_id``, ``why``.
        parts: by name, "total" first, then the vessels that both tables hold.
        categories: of the total score.
        scan_rescan: None if patients weren't scanned twice; ``missing["scan_rescan"]`` says why.
        glm: absolute percentage difference with the reference as denominator, and with the mean of both.
        lesions: overlap of the label maps, summed over ``n_label_cases`` cases, total first; None without label maps.
        n_label_cases: cases with readable label maps of both.
        n_patients: clusters of the bootstrap; equal to the number of cases if patients are unknown.
        missing: what couldn't be computed, by name, and why.
        notes: one sentence each that a reader of the numbers should know.
        settings: ``confidence``, ``resamples``, ``seed``, ``clusters`` ("patient_id" or "case_id").
        results: folder with one folder per case (``labels.nii.gz``, ``lesions.csv``, ``scores.json``), or None.
        reference_folder: folder that paths of the reference table start at, or None.
        phantom: whether the reference is that of digital phantoms; tables and figures then say "not comparable: phantom".
    """

    pairs: pd.DataFrame
    left_out: pd.DataFrame
    parts: Mapping[str, Part]
    categories: Categories
    scan_rescan: ScanRescan | None
    glm: tuple[GLM, ...]
    lesions: tuple[Overlap, ...] | None
    n_label_cases: int
    n_patients: int
    missing: Mapping[str, str]
    notes: tuple[str, ...]
    settings: Mapping[str, object]
    results: Path | None = None
    reference_folder: Path | None = None
    phantom: bool = False


@dataclass
class _Collected:
    """What is gathered on the way over the label maps."""

    overlaps: list[tuple[Overlap, ...]] = field(default_factory=list)
    cases: list[ReclassifiedCase] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def agreement_study(
    reference: pd.DataFrame,
    scores: pd.DataFrame,
    *,
    covariates: pd.DataFrame | None = None,
    results: Path | None = None,
    reference_folder: Path | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Study:
    """Compare the model's scores with the reference.

    Args:
        reference: ``case_id``, ``agatston_total``, and where known ``agatston_LM`` ..., ``patient_id``, ``scan``,
            ``heart_rate_bpm``, ``image_noise_hu``, ``bmi_kg_m2``, ``agatston_aorta`` ..., and paths below
            ``reference_folder``: ``labels`` (vessel map, 1-4) and ``origins`` (what each bright voxel is; names of its
            codes in ``origins.json`` beside the table), and ``source`` ("phantom" marks every table and figure).
        scores: as ``scores.csv`` of ``infer.py``. Its ``image_noise_hu`` is measured as in the paper, automatically: SD of
            HU in a region of the left ventricle, averaged over three consecutive slices.
        covariates: a further table by ``case_id``, such as the manifest.
        results: folder with one folder per case; gives label maps and candidates.
        reference_folder: where paths in the reference table start.
        resamples: of the cluster bootstrap.
        seed: of the bootstrap.

    Raises:
        ArgumentError: a table lacks a column that everything needs, or no case can be compared. All else that can't be
            computed is nan, None or empty, and ``missing``, ``notes`` or its own ``reason`` says why.
    """
    pairs = match(reference, scores, covariates)
    table = pairs.table
    clusters = "case_id" if table["patient_id"].isna().any() else "patient_id"
    n_patients = int(table[clusters].nunique())
    notes, missing = list(pairs.notes), {}
    if clusters == "case_id":
        notes.append("patients are unknown: the bootstrap resamples cases, and takes scans of one patient as independent")

    parts = {name: _part(pairs, name, clusters, resamples, seed) for name in pairs.parts}
    collected = _case_by_case(table, reference, results, reference_folder)
    notes += collected.notes
    rescan = scan_rescan(table)
    if isinstance(rescan, str):
        missing["scan_rescan"] = rescan
    elif rescan.n_left_out:
        notes.append(f"scan-rescan: {rescan.n_left_out} case(s) are no part of a pair")
    glm = tuple(percentage_glm(table, denominator) for denominator in ("reference", "mean"))
    for fit in glm:
        if fit.reason:
            missing[f"glm ({fit.denominator})"] = fit.reason
    if not collected.overlaps:
        missing["lesions"] = "no label maps of reference and model"
    table = table.assign(percentage_difference=percentage_difference(table["reference_total"], table["model_total"]))
    return Study(
        pairs=table,
        left_out=pairs.left_out,
        parts=parts,
        categories=_categories(table, clusters, tuple(collected.cases), resamples, seed),
        scan_rescan=None if isinstance(rescan, str) else rescan,
        glm=glm,
        lesions=sum_overlaps(collected.overlaps) if collected.overlaps else None,
        n_label_cases=len(collected.overlaps),
        n_patients=n_patients,
        missing=missing,
        notes=tuple(notes),
        settings={"confidence": CONFIDENCE, "resamples": resamples, "seed": seed, "clusters": clusters},
        results=results,
        reference_folder=reference_folder,
        phantom=pairs.phantom,
    )


def _part(pairs: Pairs, name: str, clusters: str, resamples: int, seed: int) -> Part:
    columns = [f"reference_{name}", f"model_{name}"]
    known = pairs.table.dropna(subset=columns)
    ref, mod = (known[column].to_numpy(dtype=np.float64) for column in columns)

    def values(drawn: NDArray[np.int64]) -> dict[str, float]:
        a, b = ref[drawn], mod[drawn]
        consistency, agreement = icc_values(a, b)
        bias, lower, upper = limits(a, b)
        return {"icc_c1": consistency, "icc_a1": agreement, "bias": bias, "loa_lower": lower, "loa_upper": upper}

    n = len(ref)
    return Part(
        name=name,
        n=n,
        n_left_out=len(pairs.table) - n,
        mean_reference=float(ref.mean()) if n else math.nan,
        sd_reference=float(ref.std(ddof=1)) if n > 1 else math.nan,
        mean_model=float(mod.mean()) if n else math.nan,
        sd_model=float(mod.std(ddof=1)) if n > 1 else math.nan,
        mean_absolute_error=float(np.abs(ref - mod).mean()) if n else math.nan,
        regression=regression(ref, mod),
        bland_altman=bland_altman(ref, mod),
        icc=icc(ref, mod),
        test=paired_test(ref, mod),
        clustered=bootstrap(values, known[clusters].to_numpy(), resamples, seed, CONFIDENCE),
    )


def limits(reference: NDArray[np.float64], model: NDArray[np.float64]) -> tuple[float, float, float]:
    """Bias and limits of agreement as :func:`~cacsnet.agreement.statistics.bland_altman`: for resampling."""
    difference = reference - model
    if len(difference) < 2:
        return float(difference.mean()) if len(difference) else math.nan, math.nan, math.nan
    bias, spread = float(difference.mean()), 1.96 * float(difference.std(ddof=1))
    return bias, bias - spread, bias + spread


def _categories(
    table: pd.DataFrame, clusters: str, cases: tuple[ReclassifiedCase, ...], resamples: int, seed: int
) -> Categories:
    ref, mod = (category_indices(table[f"{side}_total"]) for side in ("reference", "model"))
    counts = confusion(ref, mod, range(len(RISK_CATEGORIES)))

    def values(drawn: NDArray[np.int64]) -> dict[str, float]:
        a, b = ref[drawn], mod[drawn]
        return {"kappa_quadratic": kappa_value(a, b), "reclassification_rate": float((a != b).mean())}

    return Categories(
        labels=RISK_CATEGORIES,
        confusion=counts,
        rows=category_rows(counts),
        kappa=weighted_kappa(counts, "none"),
        kappa_linear=weighted_kappa(counts, "linear"),
        kappa_quadratic=weighted_kappa(counts, "quadratic"),
        reclassification=reclassification(counts),
        clustered=bootstrap(values, table[clusters].to_numpy(), resamples, seed, CONFIDENCE),
        cases=cases,
    )


def _case_by_case(
    table: pd.DataFrame, reference: pd.DataFrame, results: Path | None, reference_folder: Path | None
) -> _Collected:
    """Lesion overlap of every case with label maps, and the reason of every reclassified one."""
    collected = _Collected()
    paths: dict[str, Mapping[str, object]] = {}
    for row in reference.to_dict("records"):
        paths[str(row["case_id"]).strip()] = {str(key): value for key, value in row.items()}
    try:
        names = read_origin_names(reference_folder)
    except (CacsError, OSError) as error:
        names = {}
        collected.notes.append(str(error))
    for row in table.to_dict("records"):
        case_id = str(row["case_id"])
        folder = None if results is None else results / case_id
        labels = None
        try:
            labels = _labels(paths.get(case_id, {}), folder, reference_folder)
        except (CacsError, OSError) as error:
            collected.notes.append(f"no labels of case {case_id}: {error}")
        if labels is not None:
            collected.overlaps.append(overlaps(labels.reference, labels.model, labels.spacing_mm))
        if row["reference_category"] != row["model_category"]:
            plain = {str(key): value for key, value in row.items()}
            collected.cases.append(explain(plain, labels, names, folder))
    return collected


def _labels(row: Mapping[str, object], folder: Path | None, reference_folder: Path | None) -> CaseLabels | None:
    """Label maps of a case; None where a path isn't known."""
    named = {name: str(row[name]) for name in ("labels", "origins") if pd.notna(row.get(name)) and str(row[name]).strip()}
    if "labels" not in named or folder is None or not (folder / "labels.nii.gz").is_file():
        return None
    base = reference_folder or Path()
    origins = base / named["origins"] if "origins" in named else None
    return read_case_labels(base / named["labels"], folder / "labels.nii.gz", origins)
