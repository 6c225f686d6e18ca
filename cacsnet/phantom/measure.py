"""A population measured: reference scores of two scans a patient, beside the published figures.

Every scan is a :func:`cacsnet.phantom.preview.preview_scan`: the cohort's own patients, plaques and scanner (kernel, slices,
motion, noise) and the reference rule, without painting the chest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from rich.table import Table

from cacsnet.agreement.statistics import bland_altman, category_indices, icc
from cacsnet.labels import VESSEL_NAMES
from cacsnet.phantom.cohort import bmi_kg_m2, make_subject, reference_score
from cacsnet.phantom.deposits import place
from cacsnet.phantom.plan import Planned
from cacsnet.phantom.preview import preview_scan
from cacsnet.scoring.categories import RISK_CATEGORIES
from cacsnet.workers import worker_pool


def measure(plan: Sequence[Planned], workers: int = 1) -> Iterator[list[dict[str, Any]]]:
    """Rows of each patient's scans."""
    if workers <= 1:
        yield from map(measure_patient, plan)
        return
    with worker_pool(min(workers, len(plan))) as pool:
        yield from pool.map(measure_patient, plan)


def measure_patient(planned: Planned) -> list[dict[str, Any]]:
    """Reference scores of one patient's scans, with targets, true masses and covariates."""
    patient, arteries, deposits, protocols = make_subject(planned.recipe, planned.visits)
    coronary = [d for d in deposits if d.owner <= len(VESSEL_NAMES)]
    bodies = place(patient, coronary)
    mass = {n: sum(b.mass_mg for b in bodies if b.deposit.owner == k) for k, n in enumerate(VESSEL_NAMES, start=1)}
    targets = planned.recipe.agatston
    rows = []
    for visit, protocol in zip(planned.visits, protocols, strict=True):
        score = reference_score(preview_scan(patient, arteries, bodies, protocol, planned.recipe.seed + visit.number))
        row: dict[str, Any] = {"patient_id": planned.patient_id, "scan": visit.number, "agatston_total": score.total.agatston}
        row |= {f"agatston_{n}": score.vessels[n].agatston for n in VESSEL_NAMES}
        row |= {f"true_mass_mg_{n}": mass[n] for n in VESSEL_NAMES}
        if isinstance(targets, Mapping):
            row |= {f"target_{n}": targets[n] for n in VESSEL_NAMES}
        row |= {
            "heart_rate_bpm": visit.heart_rate_bpm, "bmi_kg_m2": bmi_kg_m2(patient), "noise_hu": protocol.noise_hu,
            "plaques": len(coronary),
        }  # fmt: skip
        rows.append(row)
    return rows


def figures(rows: pd.DataFrame) -> dict[str, Any]:
    """Shares, means and SDs per vessel, categories, scan-rescan differences (first minus second scan)."""
    out: dict[str, Any] = {"scans": len(rows)}
    total = rows["agatston_total"].to_numpy(float)
    for name in (*VESSEL_NAMES, "total"):
        values = rows[f"agatston_{name}"].to_numpy(float)
        out[name] = {"mean": values.mean(), "sd": values.std(ddof=1), "share": values.sum() / max(total.sum(), 1e-9)}
    counts = np.bincount(category_indices(total), minlength=len(RISK_CATEGORIES))
    out["categories"] = counts.tolist()
    pairs = rows.pivot(index="patient_id", columns="scan", values="agatston_total")
    if pairs.shape[1] == 2:
        limits = bland_altman(pairs[1], pairs[2])
        out["rescan"] = {
            "mean": limits.bias,
            "sd": float((pairs[1] - pairs[2]).std(ddof=1)),
            "icc": icc(pairs[1], pairs[2]).agreement,
        }
    for name in ("heart_rate_bpm", "bmi_kg_m2", "noise_hu"):
        grouped = rows.groupby("scan")[name]
        out[name] = [[float(m), float(s)] for m, s in zip(grouped.mean(), grouped.std(ddof=1), strict=True)]
    return out


def figure_table(measured: Mapping[str, Any], paper: Mapping[str, Any], title: str) -> Table:
    """Measured beside published; a dash where nothing is published."""
    table = Table(title=title)
    for column in ("", "measured", "published"):
        table.add_column(column, justify="left" if not column else "right")

    def pair(values: Sequence[float] | None) -> str:
        return "-" if values is None else f"{values[0]:.1f} ± {values[1]:.1f}"

    for name in (*VESSEL_NAMES, "total"):
        row = measured[name]
        table.add_row(f"Agatston {name}, mean ± SD", pair([row["mean"], row["sd"]]), pair(paper.get(name)))
    for name in VESSEL_NAMES:
        published = "-" if name not in paper else f"{100 * paper[name][0] / sum(paper[n][0] for n in VESSEL_NAMES):.1f} %"
        table.add_row(f"share {name}", f"{100 * measured[name]['share']:.1f} %", published)
    for k, name in enumerate(RISK_CATEGORIES):
        count = measured["categories"][k]
        published = "-"
        if "categories" in paper:
            published = f"{paper['categories'][k]} ({100 * paper['categories'][k] / sum(paper['categories']):.1f} %)"
        table.add_row(f"scans in category {name}", f"{count} ({100 * count / measured['scans']:.1f} %)", published)
    if "rescan" in measured:
        row = measured["rescan"]
        table.add_row("first minus second scan, mean ± SD", pair([row["mean"], row["sd"]]), pair(paper.get("rescan")))
        table.add_row(
            "ICC of the two scans", f"{row['icc']:.3f}", f"{paper['rescan_icc']:.3f}" if "rescan_icc" in paper else "-"
        )
    for name, label in (("heart_rate_bpm", "heart rate, 1/min"), ("bmi_kg_m2", "BMI, kg/m²"), ("noise_hu", "noise, HU")):
        for number, values in enumerate(measured[name]):
            known = paper.get(name)
            known = known[number] if known is not None and isinstance(known[0], list) else known
            table.add_row(f"{label}, scan {number + 1}", pair(values), pair(known))
    return table
