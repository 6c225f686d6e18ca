"""The short agreement table: printed by ``infer.py`` after a run with a reference, logged by validation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from cacsnet.agreement.statistics import (
    bland_altman,
    category_indices,
    confusion,
    icc,
    reclassification,
    weighted_kappa,
)
from cacsnet.errors import ArgumentError
from cacsnet.labels import VESSEL_NAMES
from cacsnet.scoring.categories import RISK_CATEGORIES

Row = dict[str, str | int | float]


def _by_case(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    for column in ("case_id", "agatston_total"):
        if column not in frame.columns:
            raise ArgumentError(f"the {name} table has no column {column}", field="column", value=column)
    keyed = frame.assign(case_id=frame["case_id"].astype(str)).set_index("case_id")
    repeated = keyed.index[keyed.index.duplicated()]
    if len(repeated):
        raise ArgumentError(f"the {name} table has a case twice", field="case_id", value=repeated[0])
    return keyed


def _scores(frame: pd.DataFrame, column: str, name: str) -> pd.Series:
    """Scores of a column as float64; empty cells (failed, not read) become nan."""
    cells = frame[column]
    values = pd.to_numeric(cells, errors="coerce").astype(np.float64)
    blank = cells.isna() | (cells.astype(str).str.strip() == "")
    wrong = (values.isna() & ~blank) | (values < 0) | np.isinf(values)
    if wrong.any():
        case = wrong.index[wrong.to_numpy()][0]
        raise ArgumentError(f"the {name} table has no score in {column}, case {case}", field=column, value=cells[case])
    return values


def summary_table(reference: pd.DataFrame, scores: pd.DataFrame) -> list[Row]:
    """Agreement of Agatston scores, one row for the total and one per vessel that both tables hold.

    Args:
        reference: columns ``case_id``, ``agatston_total`` and, where known, ``agatston_LM`` ...
        scores: the same columns, as in ``scores.csv``.

    Cases are matched by ``case_id``. A case enters a row if both tables hold a score for it; empty scores (a failed
    scan is never 0) and unmatched cases don't, and ``n_left_out`` counts those that the reference knows.

    Returns:
        Rows with the keys ``vessel``, ``n``, ``n_left_out``, ``icc_a1``, ``icc_a1_low``, ``icc_a1_high``, ``icc_c1``,
        ``icc_c1_low``, ``icc_c1_high``, ``kappa_quadratic``, ``kappa_low``, ``kappa_high``, ``kappa_linear``,
        ``reclassified``, ``reclassification_rate``, ``bias``, ``loa_low``, ``loa_high`` and ``reason`` (why
        something is nan). Bias = reference - model, in Agatston units. Intervals are 95 % and take cases as
        independent.

    Raises:
        ArgumentError: a missing column, a case twice, a cell that isn't a score, or no case in common.
    """
    ref, mod = _by_case(reference, "reference"), _by_case(scores, "scores")
    common = ref.index.intersection(mod.index)
    if len(common) == 0:
        example = (list(ref.index[:1]), list(mod.index[:1]))
        raise ArgumentError("reference and scores have no case_id in common", field="case_id", value=example)
    rows: list[Row] = []
    for vessel in ("total", *VESSEL_NAMES):
        column = f"agatston_{vessel}"
        if column not in ref.columns or column not in mod.columns:
            continue
        known = _scores(ref, column, "reference").dropna()
        pairs = pd.DataFrame({"reference": known, "model": _scores(mod, column, "scores")}).dropna()
        rows.append(summary_row(vessel, pairs["reference"].to_numpy(), pairs["model"].to_numpy(), len(known) - len(pairs)))
    return rows


def summary_row(vessel: str, reference: np.ndarray, model: np.ndarray, left_out: int) -> Row:
    """A row of :func:`summary_table` from paired finite scores [n]; ``left_out`` cases of the reference have none."""
    correlation = icc(reference, model)
    table = confusion(category_indices(reference), category_indices(model), range(len(RISK_CATEGORIES)))
    quadratic, linear = weighted_kappa(table, "quadratic"), weighted_kappa(table, "linear")
    moved, limits = reclassification(table), bland_altman(reference, model)
    reasons = {"ICC": correlation.reason, "kappa": quadratic.reason, "limits of agreement": limits.reason}
    return {
        "vessel": vessel,
        "n": len(reference),
        "n_left_out": left_out,
        "icc_a1": correlation.agreement,
        "icc_a1_low": correlation.agreement_ci[0],
        "icc_a1_high": correlation.agreement_ci[1],
        "icc_c1": correlation.consistency,
        "icc_c1_low": correlation.consistency_ci[0],
        "icc_c1_high": correlation.consistency_ci[1],
        "kappa_quadratic": quadratic.kappa,
        "kappa_low": quadratic.ci[0],
        "kappa_high": quadratic.ci[1],
        "kappa_linear": linear.kappa,
        "reclassified": moved.changed,
        "reclassification_rate": moved.rate,
        "bias": limits.bias,
        "loa_low": limits.lower,
        "loa_high": limits.upper,
        "reason": "; ".join(f"{what}: {why}" for what, why in reasons.items() if why),
    }


def format_summary(rows: Sequence[Row]) -> str:
    """:func:`summary_table` as aligned plain text; what isn't estimable is a dash, explained below the table."""
    header = ("vessel", "n", "ICC(A,1) [95 % CI]", "ICC(C,1)", "kappa (quadr.)", "reclassified", "bias", "95 % limits")
    lines = [header]
    notes = []
    for row in rows:
        lines.append(
            (
                str(row["vessel"]),
                str(row["n"]),
                f"{_number(row['icc_a1'])} [{_number(row['icc_a1_low'])}, {_number(row['icc_a1_high'])}]",
                _number(row["icc_c1"]),
                _number(row["kappa_quadratic"]),
                f"{row['reclassified']} ({_number(100 * float(row['reclassification_rate']), 1)} %)",
                _number(row["bias"], 1),
                f"{_number(row['loa_low'], 1)} to {_number(row['loa_high'], 1)}",
            )
        )
        if row["n_left_out"]:
            notes.append(f"{row['vessel']}: {row['n_left_out']} case(s) of the reference without a score are left out")
        if row["reason"]:
            notes.append(f"{row['vessel']}: {row['reason']}")
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    text.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join([*text, "bias = reference - model", *notes])


def _number(value: str | int | float, digits: int = 3) -> str:
    number = float(value)
    text = f"{number:.{digits}f}"
    return "-" if not math.isfinite(number) else text.removeprefix("-") if float(text) == 0 else text
