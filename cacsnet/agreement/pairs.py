"""Reference and model scores of the same cases, side by side; what can't be compared is left out, counted and named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cacsnet.agreement.statistics import category_indices
from cacsnet.errors import ArgumentError
from cacsnet.labels import VESSEL_NAMES
from cacsnet.scoring.categories import RISK_CATEGORIES

PARTS: tuple[str, ...] = ("total", *VESSEL_NAMES)
EXTRACORONARY: tuple[str, ...] = ("aorta", "aortic_valve", "mitral_annulus")
COVARIATES: tuple[str, ...] = ("heart_rate_bpm", "image_noise_hu", "bmi_kg_m2")
DECIMALS = 6
"""Of scores in ``scores.csv``: a reference with more digits must not differ from the model by rounding."""

PHANTOM = "phantom"
NOT_COMPARABLE = "not comparable: phantom"
"""Of accuracy on digital phantoms (column ``source`` of the reference): model and reference share scorer and truth there."""

LEFT_OUT_COLUMNS = ("case_id", "why")


@dataclass(frozen=True, eq=False)
class Pairs:
    """Compared cases.

    Attributes:
        table: one row per case with both totals, sorted by ``case_id``: ``case_id``, ``patient_id``, ``scan`` (text or
            None), ``reference_total``, ``model_total``, ``reference_LM`` ... (Agatston; nan where unknown),
            ``reference_category``, ``model_category``, ``difference`` (reference - model), the covariates, and
            ``reference_aorta``, ``model_aorta`` ... where both tables know extra-coronary calcium.
        left_out: cases that couldn't be compared: ``case_id`` and ``why``.
        parts: of :data:`PARTS`, those that both tables hold.
        notes: one sentence each about anything a reader of the numbers should know.
        phantom: whether the reference calls the ``source`` of any compared case "phantom".
    """

    table: pd.DataFrame
    left_out: pd.DataFrame
    parts: tuple[str, ...]
    notes: tuple[str, ...]
    phantom: bool = False


def match(reference: pd.DataFrame, scores: pd.DataFrame, covariates: pd.DataFrame | None = None) -> Pairs:
    """Pair the rows of two tables by ``case_id``.

    Args:
        reference: ``case_id``, ``agatston_total`` and, where known, ``agatston_LM`` ..., ``patient_id``, ``scan``,
            covariates, extra-coronary scores, ``source``.
        scores: the same, as in ``scores.csv``.
        covariates: another table by ``case_id`` (the manifest).

    A case is left out if it is in one table only, failed, has no number ≥ 0 as a total in either, or stands twice in a
    table with different rows (nobody knows which one is right). A vessel score that is no such number is nan.
    ``patient_id``, ``scan`` and covariates come from the reference where it has them, then from ``covariates``, then
    from ``scores``: from one table for the whole cohort, since two ways of naming or measuring don't mix.

    Raises:
        ArgumentError: a table lacks ``case_id`` or ``agatston_total``, or no case can be compared.
    """
    notes: list[str] = []
    left_out: dict[str, str] = {}
    ref = _by_case(reference, "reference", ("agatston_total",), left_out, notes)
    mod = _by_case(scores, "scores", ("agatston_total",), left_out, notes)
    extra = None if covariates is None else _by_case(covariates, "manifest", (), {}, notes)
    if "status" in mod:
        failed = mod.index[mod["status"].astype(str) == "failed"]
        flags = mod.loc[failed, "flags"] if "flags" in mod else pd.Series("", index=failed)
        left_out |= {case: f"failed: {why}" if _filled(why) else "failed" for case, why in flags.items()}
        mod = mod.drop(index=failed)
    for case in ref.index.union(mod.index):
        if case not in ref.index:
            left_out.setdefault(case, "not in the reference")
        elif case not in mod.index:
            left_out.setdefault(case, "not in the scores")
    common = ref.index.intersection(mod.index).sort_values()
    ref, mod = ref.loc[common], mod.loc[common]

    columns: dict[str, pd.Series] = {}
    parts = tuple(part for part in PARTS if f"agatston_{part}" in ref and f"agatston_{part}" in mod)
    others = tuple(kind for kind in EXTRACORONARY if f"agatston_{kind}" in ref and f"agatston_{kind}" in mod)
    for part in (*parts, *others):
        for side, frame, name in (("reference", ref, "reference"), ("model", mod, "scores")):
            columns[f"{side}_{part}"] = _scores(frame, f"agatston_{part}", name, notes)
    table = pd.DataFrame(columns, index=common)
    for side, name in (("reference", "reference"), ("model", "scores")):
        for case in common[table[f"{side}_total"].isna()]:
            left_out.setdefault(case, f"no total score in the {name}")
    table = table[table["reference_total"].notna() & table["model_total"].notna()]
    if table.empty:
        whys = sorted(set(left_out.values()))
        example = (list(reference["case_id"][:1]), list(scores["case_id"][:1]))
        raise ArgumentError(
            f"reference and scores have no case in common that both score ({'; '.join(whys[:3])})",
            field="case_id",
            value=example,
        )
    missing = [part for part in PARTS if part not in parts]
    if missing:
        notes.append(f"not compared, since a table has no such column: {', '.join(missing)}")

    sources = {"reference": ref, "manifest": extra, "scores": mod}
    found = {name: _identifier(name, table.index, sources, notes) for name in ("patient_id", "scan")}
    found |= {name: _covariate(name, table.index, sources, notes) for name in COVARIATES}
    for side in ("reference", "model"):
        found[f"{side}_category"] = pd.Series(
            [RISK_CATEGORIES[i] for i in category_indices(table[f"{side}_total"])], index=table.index, dtype=object
        )
    found["difference"] = table["reference_total"] - table["model_total"]
    table = pd.concat([table, pd.DataFrame(found)], axis=1)
    first = ["case_id", "patient_id", "scan", "reference_total", "model_total", "difference"]
    table = table.rename_axis("case_id").reset_index()
    table = table[
        [*first, "reference_category", "model_category", *(c for c in table if c not in first and "category" not in c)]
    ]
    gone = pd.DataFrame(sorted(left_out.items()), columns=list(LEFT_OUT_COLUMNS))
    if len(gone):
        counts = gone["why"].str.partition(":")[0].value_counts()
        notes.insert(0, "left out: " + ", ".join(f"{count} case(s) {why}" for why, count in counts.items()))
    source = ref["source"].reindex(table["case_id"]) if "source" in ref else pd.Series(dtype=object)
    phantom = bool((source.astype(str).str.strip() == PHANTOM).any())
    if phantom:
        notes.insert(0, f"{NOT_COMPARABLE}: model and reference share scorer and truth; this says nothing about patients")
    return Pairs(table, gone, parts, tuple(notes), phantom)


def _by_case(
    frame: pd.DataFrame, name: str, needed: tuple[str, ...], left_out: dict[str, str], notes: list[str]
) -> pd.DataFrame:
    """The table by case id as text, each case once."""
    for column in ("case_id", *needed):
        if column not in frame.columns:
            raise ArgumentError(f"the {name} table has no column {column}", field="column", value=column)
    known = frame[np.array([_filled(case) for case in frame["case_id"]], dtype=bool)]
    if len(known) < len(frame):
        notes.append(f"{len(frame) - len(known)} row(s) of the {name} table have no case_id")
    named = known.assign(case_id=known["case_id"].astype(str).str.strip())
    keyed = named.drop_duplicates().set_index("case_id")
    if len(keyed) < len(named):
        notes.append(f"{len(named) - len(keyed)} row(s) of the {name} table repeat another one word for word")
    repeated = keyed.index[keyed.index.duplicated()].unique()
    for case in repeated:
        left_out[case] = f"stands more than once in the {name}, with different rows"
    return keyed.drop(index=repeated)


def _filled(cell: object) -> bool:
    return bool(pd.notna(cell)) and str(cell).strip() != ""


def _numbers(cells: pd.Series) -> pd.Series:
    return pd.to_numeric(cells, errors="coerce").astype(np.float64)


def _scores(frame: pd.DataFrame, column: str, name: str, notes: list[str]) -> pd.Series:
    """Scores as float64, rounded to :data:`DECIMALS`; nan where the cell is empty or, with a note, no score."""
    cells = frame[column]
    values = _numbers(cells)
    wrong = ~(np.isfinite(values) & (values >= 0))
    odd = [case for case in values.index[wrong] if _filled(cells[case])]
    if odd:
        notes.append(f"no score in {column} of the {name}: {str(cells[odd[0]])!r} ({odd[0]}){_more(odd)}")
    return values.mask(wrong).round(DECIMALS)


def _more(items: list[str]) -> str:
    return f" and {len(items) - 1} more" if len(items) > 1 else ""


def _identifier(column: str, cases: pd.Index, sources: Mapping[str, pd.DataFrame | None], notes: list[str]) -> pd.Series:
    """Text of the first table that has the column filled for every case; else None."""
    partly = ""
    for name, frame in sources.items():
        if frame is None or column not in frame:
            continue
        cells = frame[column].reindex(cases)
        filled = [_filled(cell) for cell in cells]
        if all(filled):
            return pd.Series([_text(cell) for cell in cells], index=cases, dtype=object)
        if any(filled) and not partly:
            partly = f"{column} is empty for some cases of the {name} table, so it is not used"
    if partly:
        notes.append(partly)
    return pd.Series([None] * len(cases), index=cases, dtype=object)


def _text(cell: object) -> str:
    """ "1" for 1, 1.0 and " 1 "."""
    if isinstance(cell, (float, np.floating)) and float(cell).is_integer():
        return str(int(cell))
    return str(cell).strip()


def _covariate(column: str, cases: pd.Index, sources: Mapping[str, pd.DataFrame | None], notes: list[str]) -> pd.Series:
    """Finite numbers of the first table that has any; nan elsewhere."""
    for name, frame in sources.items():
        if frame is None or column not in frame:
            continue
        values = _numbers(frame[column].reindex(cases))
        values = values.mask(~np.isfinite(values))
        if values.notna().any():
            notes.append(f"{column} from the {name} table ({int(values.notna().sum())} of {len(cases)} cases)")
            return values
    return pd.Series(np.nan, index=cases)
