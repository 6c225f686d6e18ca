"""Two models, or one under two scoring profiles, on the same cases: which is nearer to the reference?

Every difference is second - first, over the cases that the reference and both tables score, with a percentile interval of a
bootstrap that draws whole patients and scores both models on the same draw: what both get wrong alike cancels.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cacsnet.agreement.document import plain
from cacsnet.agreement.paired import RULE, PairedTest, RateTest, paired_test, rate_test
from cacsnet.agreement.pairs import match
from cacsnet.agreement.statistics import Bootstrap, bootstrap, category_indices, icc_values, kappa_value
from cacsnet.agreement.study import CONFIDENCE, RESAMPLES, limits
from cacsnet.agreement.tables import PaperTable, interval, marked, number, p_words
from cacsnet.agreement.write import write_frame, write_json, write_paper_tables
from cacsnet.errors import ArgumentError

MEASURES = ("icc_a1", "icc_c1", "mean_absolute_error", "bias", "loa_width")
COMPARISON_FILES = (
    *("comparison.json", "comparison_pairs.csv", "comparison.csv", "comparison.tex"),
    *("changed_cases.csv", "changed_cases.tex"),
)
OF_CATEGORIES = ("kappa_quadratic", "reclassification_rate")
_NAMES = {
    "icc_a1": "ICC(A,1)",
    "icc_c1": "ICC(C,1)",
    "mean_absolute_error": "Mean absolute error",
    "bias": "Bias (reference - model)",
    "loa_width": "Width of the limits of agreement",
    "kappa_quadratic": "Kappa (quadratic)",
    "reclassification_rate": "Reclassification rate",
}


@dataclass(frozen=True)
class Difference:
    """One measure of one part: both values, second - first, and the interval of that difference."""

    part: str
    measure: str
    n: int
    first: float
    second: float
    difference: float
    interval: Bootstrap


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two score tables against one reference.

    Attributes:
        names: of the first and the second table.
        n, n_patients: cases and patients that all three score; patients are cases where unknown.
        left_out: ``case_id``, ``why``, of cases that one of the tables lacks.
        differences: each measure of the total (also those of the categories) and of each vessel.
        absolute_error: |reference - first| against |reference - second| of the total, by
            :data:`~cacsnet.agreement.paired.RULE`.
        reclassified: how many cases each puts into another category than the reference, with McNemar's exact test.
        cases: every compared case: ``case_id``, totals ``reference``, ``first``, ``second``, their categories and
            ``verdict``: empty where both models name the same category, else "better", "worse" or "neither" (the second is
            nearer to the reference's category, farther from it, or as far).
        notes: what should be known.
        phantom: whether the reference is that of digital phantoms.
    """

    names: tuple[str, str]
    n: int
    n_patients: int
    left_out: pd.DataFrame
    differences: tuple[Difference, ...]
    absolute_error: PairedTest
    reclassified: RateTest
    cases: pd.DataFrame
    notes: tuple[str, ...]
    phantom: bool = False

    @property
    def changed(self) -> pd.DataFrame:
        """The cases whose category differs between the two models."""
        return self.cases[self.cases["verdict"] != ""].reset_index(drop=True)


def compare(
    reference: pd.DataFrame,
    first: pd.DataFrame,
    second: pd.DataFrame,
    names: tuple[str, str] = ("first", "second"),
    *,
    covariates: pd.DataFrame | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Compare two score tables on the cases that both and the reference score.

    Args:
        reference, first, second, covariates: as for :func:`~cacsnet.agreement.study.agreement_study`.
        names: of the two tables.
        resamples, seed: of the bootstrap.

    Raises:
        ArgumentError: a table lacks a column that everything needs, or no case is in all three.
    """
    one, two = match(reference, first, covariates), match(reference, second, covariates)
    a, b = one.table.set_index("case_id"), two.table.set_index("case_id")
    common = a.index.intersection(b.index).sort_values()
    if len(common) == 0:
        raise ArgumentError("no case is scored by both tables", field="case_id", value=(list(a.index[:1]), list(b.index[:1])))
    left_out = pd.concat([t.assign(table=name) for t, name in zip((one.left_out, two.left_out), names, strict=True)])
    a, b = a.loc[common], b.loc[common]
    patients = next((t["patient_id"] for t in (a, b) if t["patient_id"].notna().all()), None)
    clusters = np.asarray(common if patients is None else patients, dtype=object)

    differences: list[Difference] = []
    for part in (p for p in one.parts if p in two.parts):
        columns = [t[f"{side}_{part}"].to_numpy(dtype=np.float64) for t, side in ((a, "reference"), (a, "model"), (b, "model"))]
        known = np.isfinite(columns).all(axis=0)
        ref, mod_1, mod_2 = (column[known] for column in columns)
        differences += _differences(part, ref, mod_1, mod_2, clusters[known], resamples, seed)

    ref, mod_1, mod_2 = (t.to_numpy(dtype=np.float64) for t in (a["reference_total"], a["model_total"], b["model_total"]))
    categories = [t.to_numpy(dtype=object) for t in (a["reference_category"], a["model_category"], b["model_category"])]
    notes = [f"{name}: {note}" for name, t in zip(names, (one, two), strict=True) for note in t.notes]
    if patients is None:
        notes.append("patients are unknown: the bootstrap resamples cases")
    return Comparison(
        names=names,
        n=len(common),
        n_patients=len(set(clusters)),
        left_out=left_out,
        differences=tuple(differences),
        absolute_error=paired_test(np.abs(ref - mod_1), np.abs(ref - mod_2)),
        reclassified=rate_test(categories[0] != categories[1], categories[0] != categories[2]),
        cases=_cases(list(common), (ref, mod_1, mod_2), categories),
        notes=tuple(dict.fromkeys(notes)),
        phantom=one.phantom or two.phantom,
    )


def _measures(ref: NDArray[np.float64], mod: NDArray[np.float64]) -> dict[str, float]:
    consistency, agreement = icc_values(ref, mod)
    bias, lower, upper = limits(ref, mod)
    error = float(np.abs(ref - mod).mean()) if len(ref) else math.nan
    return dict(zip(MEASURES, (agreement, consistency, error, bias, upper - lower), strict=True))


def _of_categories(ref: NDArray[np.int64], mod: NDArray[np.int64]) -> dict[str, float]:
    moved = float((ref != mod).mean()) if len(ref) else math.nan
    return dict(zip(OF_CATEGORIES, (kappa_value(ref, mod), moved), strict=True))


def _differences(
    part: str,
    ref: NDArray[np.float64],
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    clusters: NDArray[np.object_],
    resamples: int,
    seed: int,
) -> list[Difference]:
    scores = (ref, first, second)
    ranks = tuple(category_indices(values) for values in scores)

    def of(model: int, drawn: NDArray[np.int64]) -> dict[str, float]:
        values = _measures(ref[drawn], scores[model][drawn])
        return values | _of_categories(ranks[0][drawn], ranks[model][drawn]) if part == "total" else values

    def change(drawn: NDArray[np.int64]) -> dict[str, float]:
        one, two = of(1, drawn), of(2, drawn)
        return {name: two[name] - one[name] for name in one}

    everything = np.arange(len(ref))
    one, two = of(1, everything), of(2, everything)
    found = bootstrap(change, clusters, resamples, seed, CONFIDENCE)
    return [Difference(part, name, len(ref), one[name], two[name], two[name] - one[name], found[name]) for name in one]


def _cases(cases: list[str], scores: tuple[NDArray[np.float64], ...], categories: list[NDArray[np.object_]]) -> pd.DataFrame:
    ranks = [category_indices(values) for values in scores]
    off_1, off_2 = np.abs(ranks[1] - ranks[0]), np.abs(ranks[2] - ranks[0])
    columns: dict[str, Any] = {"case_id": cases}
    for name, values, labels in zip(("reference", "first", "second"), scores, categories, strict=True):
        columns |= {name: values, f"{name}_category": labels}
    verdicts = np.where(off_2 < off_1, "better", np.where(off_2 > off_1, "worse", "neither"))
    columns["verdict"] = np.where(ranks[1] != ranks[2], verdicts, "")
    return pd.DataFrame(columns)


# ---- files


def comparison_document(found: Comparison) -> dict[str, Any]:
    """The content of ``comparison.json``: ``<part>.<measure>`` with ``first, second, difference, difference_ci``."""
    parts: dict[str, dict[str, Any]] = {}
    for d in found.differences:
        parts.setdefault(d.part, {"n": d.n})[d.measure] = {
            "first": d.first,
            "second": d.second,
            "difference": d.difference,
            "difference_ci": (d.interval.low, d.interval.high),
            "reason": d.interval.reason,
        }
    return plain(
        {
            "names": found.names,
            "phantom": found.phantom,
            "n": found.n,
            "n_patients": found.n_patients,
            **parts,
            "absolute_error_test": asdict(found.absolute_error),
            "reclassified": asdict(found.reclassified),
            "changed": found.changed.to_dict("records"),
            "left_out": found.left_out.to_dict("records"),
            "notes": found.notes,
            "rules": {"difference": "second - first, interval by bootstrap of whole patients", "test": RULE},
        }
    )


def comparison_tables(found: Comparison) -> tuple[PaperTable, PaperTable]:
    """The differences, and the cases in another category."""
    rows, data = [], []
    for d in found.differences:
        digits = 3 if d.measure in ("icc_a1", "icc_c1", "kappa_quadratic", "reclassification_rate") else 1
        cells = (number(d.first, digits), number(d.second, digits), number(d.difference, digits))
        ci = (d.interval.low, d.interval.high)
        rows.append((d.part, _NAMES[d.measure], str(d.n), *cells, interval(ci, digits)))
        values = {"first": d.first, "second": d.second, "difference": d.difference}
        data.append({"vessel": d.part, "measure": d.measure, "n": d.n, **values, "ci_low": ci[0], "ci_high": ci[1]})
    error, moved = found.absolute_error, found.reclassified
    notes = (
        f"Bootstrap of {found.n_patients} whole patients (scans where patients are unknown), both models on the same draw.",
        f"Absolute error of the total, first - second: {number(error.mean)} ± {number(error.sd)}, {p_words(error.p_value)} "
        f"({error.test or error.reason}).",
        f"Reclassified by the first only: {moved.only_first}, by the second only: {moved.only_second}; "
        f"McNemar exact {p_words(moved.mcnemar_p)}.",
    )
    first, second = found.names
    columns = ("Vessel", "Measure", "n", "First", "Second", "Difference", "95 % CI")
    caption = (
        f"Agreement with the reference of {first} (first) and {second} (second), {found.n} scans; difference = second - first; "
        "errors, bias and limits in Agatston units."
    )
    differences = PaperTable("comparison", marked(caption, found.phantom), columns, tuple(rows), notes, pd.DataFrame(data))
    changed = tuple(
        (
            str(row["case_id"]),
            *(f"{number(row[name])} ({row[f'{name}_category']})" for name in ("reference", "first", "second")),
            str(row["verdict"]),
        )
        for row in found.changed.to_dict("records")
    )
    heads = ("Case", "Reference", "First", "Second", "Second is")
    caption = (
        f"Scans that {first} (first) and {second} (second) put into different risk categories ({len(changed)} of {found.n}), "
        "total Agatston score and its category."
    )
    return differences, PaperTable("changed_cases", marked(caption, found.phantom), heads, changed, (), found.changed)


def write_comparison(found: Comparison, output_dir: str | Path) -> Path:
    """Write ``comparison.json``, ``comparison_pairs.csv``, and ``comparison`` and ``changed_cases`` as CSV and LaTeX; returns
    the JSON's path.

    Raises:
        OSError: the folder can't be written.
    """
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    write_paper_tables(comparison_tables(found), folder)
    write_frame(folder / "comparison_pairs.csv", found.cases)
    path = folder / "comparison.json"
    write_json(path, comparison_document(found))
    return path
