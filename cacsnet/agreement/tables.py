"""A study as tables for a publication: text for LaTeX and HTML, and the same as numbers for CSV.

The first three are the tables and the running text of Sartoretti et al. 2022: scores of each vessel, the confusion matrix of
categories, the reclassified cases. Units and n stand in the head or the notes; a dash is what the data can't tell.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from cacsnet.agreement.categories import Share
from cacsnet.agreement.glm import GLM, ZERO_RULE
from cacsnet.agreement.lesions import MIN_AREA_MM2
from cacsnet.agreement.paired import RULE, Z_CAVEAT, PairedTest
from cacsnet.agreement.pairs import NOT_COMPARABLE
from cacsnet.agreement.reclassified import Candidate, ReclassifiedCase
from cacsnet.agreement.scan_rescan import ScanRescan
from cacsnet.agreement.statistics import Interval, Kappa
from cacsnet.agreement.study import Part, Study
from cacsnet.agreement.summary import format_summary, summary_row

TABLE_NAMES = (
    *("scores", "categories", "reclassified", "regression", "bland_altman", "icc", "kappa"),
    *("scan_rescan", "scan_agreement", "glm", "lesions"),
)
DASH = "–"
SHOWN_CASES = 10


@dataclass(frozen=True, eq=False)
class PaperTable:
    """One table.

    Attributes:
        name: file name without suffix, of :data:`TABLE_NAMES`.
        caption: what it shows, with unit and n.
        columns: head.
        rows: text cells.
        notes: below the table.
        data: the same as plain numbers, one value a column.
    """

    name: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]
    data: pd.DataFrame


def study_tables(study: Study) -> tuple[PaperTable, ...]:
    """All tables that a study has numbers for."""
    tables = [_scores(study), _categories(study), _reclassified(study), _regression(study), _bland_altman(study)]
    tables += [_icc(study), _kappa(study)]
    if study.scan_rescan is not None:
        tables += [_scan_rescan(study.scan_rescan), _scan_agreement(study.scan_rescan)]
    tables.append(_glm(study.glm))
    if study.lesions is not None:
        tables.append(_lesions(study))
    return tuple(replace(table, caption=marked(table.caption, study.phantom)) for table in tables)


def marked(caption: str, phantom: bool) -> str:
    """A caption that says that the numbers of digital phantoms aren't comparable with those of patients."""
    return f"{caption} {NOT_COMPARABLE[0].upper()}{NOT_COMPARABLE[1:]}." if phantom else caption


def study_summary(study: Study) -> str:
    """The short plain-text table of a study, the reclassified cases, and what has to be known about the numbers."""
    unscored = int((study.left_out["why"] != "not in the reference").sum())
    rows = []
    for name, part in study.parts.items():
        known = study.pairs[[f"reference_{name}", f"model_{name}"]].dropna().to_numpy(dtype=np.float64)
        rows.append(summary_row(name, known[:, 0], known[:, 1], part.n_left_out + unscored))
    lines = [format_summary(rows)]
    for case in study.categories.cases[:SHOWN_CASES]:
        scores = f"{number(case.reference)} ({case.reference_category}) -> {number(case.model)} ({case.model_category})"
        lines.append(f"reclassified {case.case_id}: {scores}: {reason_text(case)}")
    more = len(study.categories.cases) - SHOWN_CASES
    if more > 0:
        lines.append(f"and {more} more in reclassified.csv")
    lines += [f"note: {note}" for note in study.notes]
    lines += [f"no {name.replace('_', ' ')}: {why}" for name, why in study.missing.items()]
    return "\n".join(lines)


# ---- cells


def number(value: float, digits: int = 1) -> str:
    """A number with fixed decimals, or a dash."""
    if not math.isfinite(value):
        return DASH
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def interval(ci: Interval, digits: int = 1) -> str:
    """ "1.0 to 2.0", or a dash."""
    return DASH if not all(math.isfinite(v) for v in ci) else f"{number(ci[0], digits)} to {number(ci[1], digits)}"


def mean_sd(mean: float, sd: float) -> str:
    """ "352.6 ± 491.0"."""
    return f"{number(mean)} ± {number(sd)}" if math.isfinite(sd) else number(mean)


def p_value(p: float) -> str:
    """Three decimals, or "<0.001"."""
    return DASH if not math.isfinite(p) else "<0.001" if p < 0.001 else number(p, 3)


def p_words(p: float) -> str:
    """ "p = 0.012", "p < 0.001"."""
    text = p_value(p)
    return f"p < {text[1:]}" if text.startswith("<") else f"p = {text}"


def strength(value: float) -> str:
    """The words of Sartoretti et al. 2022 for a correlation coefficient: below 0.20 poor, then fair, moderate, good from
    0.60, excellent above 0.80. Their classes leave gaps (0.20-0.21 ...); here each ends where the next begins."""
    if not math.isfinite(value):
        return DASH
    limits = ((0.2, "poor"), (0.4, "fair"), (0.6, "moderate"), (0.8, "good"))
    return next((word for limit, word in limits if value <= limit), "excellent")


def _percent(share: Share) -> str:
    return f"{share.count} ({number(100 * share.rate)} %)" if share.n else f"{share.count}"


def _table(
    name: str,
    caption: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    notes: Sequence[str],
    data: list[dict[str, Any]],
) -> PaperTable:
    unique = tuple(dict.fromkeys(note for note in notes if note))
    return PaperTable(name, caption, tuple(columns), tuple(tuple(row) for row in rows), unique, pd.DataFrame(data))


def _pair(name: str, ci: Interval) -> dict[str, float]:
    return {f"{name}_low": ci[0], f"{name}_high": ci[1]}


def _whys(parts: Sequence[Part], of: str) -> list[str]:
    return _reasons((part.name, getattr(part, of).reason) for part in parts)


def _clustered_whys(parts: Sequence[Part], name: str) -> list[str]:
    return _reasons(((part.name, part.clustered[name].reason) for part in parts), " clustered")


def _reasons(found: Iterable[tuple[str, str]], what: str = "") -> list[str]:
    """One sentence for each reason, with all that share it: "LM, RCA: scores do not vary between cases."."""
    names: dict[str, list[str]] = {}
    for name, why in found:
        if why:
            names.setdefault(why, []).append(name)
    return [f"{', '.join(which)}{what}: {why}." for why, which in names.items()]


def _bootstrap_note(study: Study) -> str:
    what = "patients" if study.settings["clusters"] == "patient_id" else "cases (patients unknown)"
    return (
        f"Clustered: percentile bootstrap of {study.n_patients} whole {what}, {study.settings['resamples']} resamples; "
        "the other interval takes scans as independent."
    )


# ---- tables


def _scores(study: Study) -> PaperTable:
    parts = list(study.parts.values())
    rows, data = [], []
    for part in parts:
        rows.append(
            (
                part.name,
                str(part.n),
                mean_sd(part.mean_reference, part.sd_reference),
                mean_sd(part.mean_model, part.sd_model),
                mean_sd(part.test.mean, part.test.sd),
                number(part.mean_absolute_error),
                p_value(part.test.p_value),
                part.test.test or DASH,
            )
        )
        data.append(
            {
                "vessel": part.name,
                "n": part.n,
                "mean_reference": part.mean_reference,
                "sd_reference": part.sd_reference,
                "mean_model": part.mean_model,
                "sd_model": part.sd_model,
                "mean_difference": part.test.mean,
                "sd_difference": part.test.sd,
                "mean_absolute_error": part.mean_absolute_error,
                "p": part.test.p_value,
                "test": part.test.test,
            }
        )
    columns = ("Vessel", "n", "Reference", "Model", "Reference - model", "Mean absolute error", "p", "Test")
    caption = f"Agatston scores of {len(study.pairs)} scans of {_patients(study)}, mean ± SD."
    return _table("scores", caption, columns, rows, [f"p: {RULE}.", *_whys(parts, "test")], data)


def _patients(study: Study) -> str:
    return f"{study.n_patients} patients" if study.settings["clusters"] == "patient_id" else "an unknown number of patients"


def _categories(study: Study) -> PaperTable:
    found = study.categories
    rows, data = [], []
    for counts, row in zip(found.confusion, found.rows, strict=True):
        shares = (row.under, row.over, row.concordant)
        rows.append((row.category, *(str(c) for c in counts), str(row.n), *(_percent(s) for s in shares)))
        record: dict[str, Any] = {"reference": row.category}
        record |= {f"model_{label}": int(count) for label, count in zip(found.labels, counts, strict=True)}
        record["total"] = row.n
        for name, share in zip(("underestimation", "overestimation", "concordance"), shares, strict=True):
            record |= {name: share.count, f"{name}_rate": share.rate, **_pair(f"{name}_ci", share.ci)}
        data.append(record)
    columns = ("Reference", *(f"Model {label}" for label in found.labels), "Total", "Underestimation", "Overestimation")
    moved = found.reclassification
    notes = (
        f"Reclassified: {moved.changed} of {moved.n} ({number(100 * moved.rate)} %, Wilson 95 % CI "
        f"{interval((100 * moved.ci[0], 100 * moved.ci[1]))} %), {moved.up} upwards, {moved.down} downwards.",
        _kappa_note("quadratic", found.kappa_quadratic),
    )
    caption = f"Risk categories of {moved.n} scans: reference in rows, model in columns; categories by Agatston score."
    return _table("categories", caption, (*columns, "Concordance"), rows, notes, data)


def _kappa_note(weights: str, kappa: Kappa) -> str:
    why = f" ({kappa.reason})" if kappa.reason else ""
    return f"Kappa ({weights} weights) {number(kappa.kappa, 3)}, 95 % CI {interval(kappa.ci, 3)}{why}."


def _reclassified(study: Study) -> PaperTable:
    rows, data = [], []
    for case in study.categories.cases:
        categories = f"{case.reference_category} to {case.model_category}"
        scores = (number(case.reference), number(case.model))
        rows.append((case.case_id, *scores, categories, f"{case.direction}estimated", reason_text(case)))
        record = {name: value for name, value in vars(case).items() if not isinstance(value, (dict, Candidate))}
        record["contributions_mm3"] = "; ".join(f"{what}: {volume:.1f}" for what, volume in case.contributions.items())
        record |= {f"difference_{vessel}": value for vessel, value in case.vessels.items()}
        for name, candidate in (("kept", case.kept), ("rejected", case.rejected)):
            record[name] = "" if candidate is None else candidate_text(candidate)
        data.append(record)
    if not data:
        names = ("case_id", "patient_id", "scan", "reference", "model", "reference_category", "model_category", "direction")
        data_frame = pd.DataFrame(columns=[*names, "reason", "evidence"])
    else:
        data_frame = pd.DataFrame(data)
    columns = ("Case", "Reference", "Model", "Category", "Deviation", "Reason")
    caption = f"Scans in another risk category than the reference's ({len(rows)} of {len(study.pairs)}), Agatston scores."
    evidence = sorted({case.evidence for case in study.categories.cases} - {"none"})
    notes = [f"Reasons from {' and '.join(evidence)}."] if evidence else []
    table = _table("reclassified", caption, columns, rows, notes, [])
    return PaperTable(table.name, table.caption, table.columns, table.rows, table.notes, data_frame)


def reason_text(case: ReclassifiedCase) -> str:
    """The reason with its volume, or the candidates where it is undetermined."""
    if case.evidence == "labels":
        return f"{case.reason} ({number(case.contributions[case.reason])} mm³)"
    known = [(name, getattr(case, name)) for name in ("kept", "rejected")]
    texts = [f"largest {name}: {candidate_text(found)}" for name, found in known if found is not None]
    return f"{case.reason} ({'; '.join(texts)})" if texts else case.reason


def candidate_text(found: Candidate) -> str:
    """ "LAD, Agatston 84.2, slices 31-34"."""
    return f"{found.what.replace('_', ' ')}, Agatston {number(found.agatston)}, slices {found.slices}"


def _regression(study: Study) -> PaperTable:
    parts = list(study.parts.values())
    rows, data = [], []
    for part in parts:
        line = part.regression
        rows.append(
            (
                part.name,
                str(part.n),
                number(line.slope, 3),
                interval(line.slope_ci, 3),
                number(line.intercept),
                interval(line.intercept_ci),
                number(line.r_squared, 3),
                p_value(line.p_value),
            )
        )
        record = {"vessel": part.name, "n": part.n, "slope": line.slope, **_pair("slope_ci", line.slope_ci)}
        record |= {"intercept": line.intercept, **_pair("intercept_ci", line.intercept_ci)}
        data.append(record | {"r2": line.r_squared, "p": line.p_value})
    columns = ("Vessel", "n", "Slope", "95 % CI", "Intercept", "95 % CI", "R²", "p")
    caption = "Linear regression of the reference on the model, Agatston scores: reference = slope · model + intercept."
    return _table("regression", caption, columns, rows, ["p: slope = 0.", *_whys(parts, "regression")], data)


def _bland_altman(study: Study) -> PaperTable:
    parts = list(study.parts.values())
    rows, data = [], []
    for part in parts:
        found, clustered = part.bland_altman, part.clustered
        for what, name, value, ci in (
            ("bias", "bias", found.bias, found.bias_ci),
            ("lower limit", "loa_lower", found.lower, found.lower_ci),
            ("upper limit", "loa_upper", found.upper, found.upper_ci),
        ):
            of_patients = (clustered[name].low, clustered[name].high)
            cells = (number(value), interval(ci), interval(of_patients), number(found.sd))
            rows.append((part.name, str(part.n), what, *cells))
            record: dict[str, Any] = {"vessel": part.name, "n": part.n, "what": name, "value": value, **_pair("ci", ci)}
            data.append(record | _pair("ci_clustered", of_patients) | {"sd_difference": found.sd})
    columns = ("Vessel", "n", "", "Value", "95 % CI", "clustered 95 % CI", "SD")
    caption = (
        "Bland-Altman analysis, Agatston scores: difference = reference - model; limits = bias ± 1.96 SD of the differences."
    )
    return _table(
        "bland_altman",
        caption,
        columns,
        rows,
        [_bootstrap_note(study), *_whys(parts, "bland_altman"), *_clustered_whys(parts, "bias")],
        data,
    )


def _icc(study: Study) -> PaperTable:
    parts = list(study.parts.values())
    rows, data = [], []
    for part in parts:
        found = part.icc
        row, record = [part.name, str(part.n)], {"vessel": part.name, "n": part.n}
        for name, value, ci in (
            ("icc_c1", found.consistency, found.consistency_ci),
            ("icc_a1", found.agreement, found.agreement_ci),
        ):
            of_patients = (part.clustered[name].low, part.clustered[name].high)
            row += [number(value, 3), interval(ci, 3), interval(of_patients, 3)]
            record |= {name: value, **_pair(f"{name}_ci", ci), **_pair(f"{name}_ci_clustered", of_patients)}
        rows.append((*row, strength(found.agreement)))
        data.append(record)
    two = ("95 % CI", "clustered 95 % CI")
    columns = ("Vessel", "n", "ICC(C,1)", *two, "ICC(A,1)", *two, "Agreement")
    caption = "Intraclass correlation of Agatston scores, two-way, single measurement: consistency C and absolute agreement A."
    notes = [_bootstrap_note(study), "Agreement: ICC(A,1) in the classes of Sartoretti et al. 2022."]
    return _table("icc", caption, columns, rows, [*notes, *_whys(parts, "icc"), *_clustered_whys(parts, "icc_a1")], data)


def _kappa(study: Study) -> PaperTable:
    found = study.categories
    rows, data = [], []
    kappas = {"none": found.kappa, "linear": found.kappa_linear, "quadratic": found.kappa_quadratic}
    for name, kappa in kappas.items():
        boot = found.clustered["kappa_quadratic"] if name == "quadratic" else None
        of_patients = (boot.low, boot.high) if boot else (math.nan, math.nan)
        rows.append((name, str(kappa.n), number(kappa.kappa, 3), interval(kappa.ci, 3), interval(of_patients, 3)))
        record = {"weights": name, "n": kappa.n, "kappa": kappa.kappa, **_pair("ci", kappa.ci)}
        data.append(record | _pair("ci_clustered", of_patients))
    columns = ("Weights", "n", "Kappa", "95 % CI", "clustered 95 % CI")
    caption = f"Cohen's kappa of the risk categories ({', '.join(found.labels)})."
    notes = [_bootstrap_note(study), *_reasons((name, kappa.reason) for name, kappa in kappas.items())]
    notes += _reasons([("quadratic", found.clustered["kappa_quadratic"].reason)], " clustered")
    return _table("kappa", caption, columns, rows, notes, data)


def _test_cells(test: PairedTest) -> tuple[str, str, str]:
    return mean_sd(test.mean, test.sd), p_value(test.p_value), test.test or DASH


def _scan_rescan(found: ScanRescan) -> PaperTable:
    rows: list[tuple[str, ...]] = []
    data: list[dict[str, Any]] = []
    lines = (("Reference", found.reference, found.reference_icc), ("Model", found.model, found.model_icc))
    for name, test, correlation in lines:
        cells = (
            *(number(correlation.consistency, 3), interval(correlation.consistency_ci, 3)),
            *(number(correlation.agreement, 3), interval(correlation.agreement_ci, 3)),
        )
        rows.append((name, str(test.n), *_test_cells(test), *cells))
        data.append(
            {
                "what": name.lower(),
                **_test_numbers(test),
                "icc_c1": correlation.consistency,
                **_pair("icc_c1_ci", correlation.consistency_ci),
                "icc_a1": correlation.agreement,
                **_pair("icc_a1_ci", correlation.agreement_ci),
            }
        )
    others = [("Reference - model", found.methods)]
    others += [("Heart rate (1/min)", found.heart_rate)] if found.heart_rate else []
    for name, test in others:
        rows.append((name, str(test.n), *_test_cells(test), *[DASH] * 4))
        data.append({"what": name.lower(), **_test_numbers(test)})
    columns = ("", "n", "Difference", "p", "Test", "ICC(C,1)", "95 % CI", "ICC(A,1)", "95 % CI")
    first, second = found.scans
    caption = f"Scan-rescan: total Agatston score of scan {first} minus scan {second} of {found.n} patients, mean ± SD."
    whys = _reasons((name, test.reason) for name, test in (*((n, t) for n, t, _ in lines), *others))
    return _table("scan_rescan", caption, columns, rows, [f"p: {RULE}.", *whys], data)


def _test_numbers(test: PairedTest) -> dict[str, Any]:
    names = ("n", "mean", "sd", "statistic", "p_value", "test", "shapiro_p")
    return {name: getattr(test, name) for name in names}


def _scan_agreement(found: ScanRescan) -> PaperTable:
    rows, data = [], []
    for one in (found.first, found.second):
        moved = one.reclassification
        percent = (100 * moved.ci[0], 100 * moved.ci[1])
        rows.append(
            (
                one.scan,
                str(one.n),
                number(one.icc.consistency, 3),
                interval(one.icc.consistency_ci, 3),
                number(one.kappa_quadratic.kappa, 3),
                interval(one.kappa_quadratic.ci, 3),
                f"{moved.changed} ({number(100 * moved.rate)} %)",
                interval(percent),
            )
        )
        data.append(
            {
                "scan": one.scan,
                "n": one.n,
                "icc_c1": one.icc.consistency,
                **_pair("icc_c1_ci", one.icc.consistency_ci),
                "kappa_quadratic": one.kappa_quadratic.kappa,
                **_pair("kappa_quadratic_ci", one.kappa_quadratic.ci),
                "reclassified": moved.changed,
                "reclassification_rate": moved.rate,
                **_pair("reclassification_rate_ci", moved.ci),
            }
        )
    test = found.reclassified
    columns = ("Scan", "n", "ICC(C,1)", "95 % CI", "Kappa (quadratic)", "95 % CI", "Reclassified", "95 % CI (%)")
    notes = (
        f"Reclassified in one scan only: {test.only_first} in the first, {test.only_second} in the second; McNemar exact "
        f"{p_words(test.mcnemar_p)}. Unpaired pooled z-test: z = {number(test.z, 3)}, {p_words(test.z_p)}.",
        f"Caveat: {Z_CAVEAT}.",
        *_reasons((f"ICC of scan {one.scan}", one.icc.reason) for one in (found.first, found.second)),
        *_reasons((f"Kappa of scan {one.scan}", one.kappa_quadratic.reason) for one in (found.first, found.second)),
        *_reasons([("z-test", test.reason)]),
    )
    caption = f"Agreement of the model with the reference in each scan of {found.n} patients."
    return _table("scan_agreement", caption, columns, rows, notes, data)


_UNITS = {"heart_rate_bpm": "Heart rate (1/min)", "image_noise_hu": "Image noise (HU)", "bmi_kg_m2": "BMI (kg/m²)"}


def _glm(fits: Sequence[GLM]) -> PaperTable:
    rows, data, notes = [], [], [f"{ZERO_RULE[0].upper()}{ZERO_RULE[1:]}."]
    for fit in fits:
        notes.append(
            f"Denominator {fit.denominator}: {number(fit.mean)} ± {number(fit.sd)} % in {fit.n} scans; excluded: "
            f"{fit.n_zero_reference} with a denominator of 0, {fit.n_incomplete} without all predictors."
        )
        notes += [f"Denominator {fit.denominator}: {fit.reason}."] if fit.reason else []
        notes += [f"Left out: {what}." for what in fit.dropped]
        for c in fit.coefficients:
            name = _UNITS.get(c.name, c.name)
            cells = (number(c.value, 2), interval(c.ci, 2), p_value(c.p_value))
            rows.append((fit.denominator, name, *cells, interval(c.clustered_ci, 2), p_value(c.clustered_p)))
            record: dict[str, Any] = {
                "denominator": fit.denominator,
                "n": fit.n,
                "predictor": c.name,
                "value": c.value,
                "p": c.p_value,
            }
            data.append(record | _pair("ci", c.ci) | {"p_clustered": c.clustered_p} | _pair("ci_clustered", c.clustered_ci))
    columns = ("Denominator", "Predictor", "Coefficient", "95 % CI", "p", "clustered 95 % CI", "clustered p")
    caption = (
        "Generalised linear model (Gaussian, identity link) of the absolute percentage difference of the total Agatston score, "
        "100 |reference - model| / denominator; percentage points per unit."
    )
    notes.append("Clustered: errors grouped by patient.")
    return _table("glm", caption, columns, rows, notes, data)


def _lesions(study: Study) -> PaperTable:
    assert study.lesions is not None
    rows, data = [], []
    for o in study.lesions:
        ratios = (o.sensitivity, o.ppv, o.f1)
        lesions = (f"{o.found}/{o.found + o.missed}", f"{o.true}/{o.true + o.false}")
        by_number = (number(o.lesion_sensitivity, 3), number(o.lesion_ppv, 3))
        volumes = (number(o.tp_mm3 + o.fn_mm3), number(o.tp_mm3 + o.fp_mm3))
        rows.append((o.part, *volumes, *(number(r, 3) for r in ratios), lesions[0], by_number[0], lesions[1], by_number[1]))
        record = vars(o) | {"sensitivity": o.sensitivity, "ppv": o.ppv, "f1": o.f1}
        data.append(record | {"lesion_sensitivity": o.lesion_sensitivity, "lesion_ppv": o.lesion_ppv})
    columns = ("Vessel", "Reference mm³", "Model mm³", "Sensitivity", "PPV", "F1", "Found", "Sensitivity", "True", "PPV")
    caption = f"Lesions in {study.n_label_cases} scans with reference labels: by volume, then by number."
    notes = (
        "orCaScore's definitions: 3-D 6-connected lesions; F1 of the volumes; total whatever the vessel.",
        f"Islands below {MIN_AREA_MM2:g} mm² are dropped from both maps.",
    )
    return _table("lesions", caption, columns, rows, notes, data)
