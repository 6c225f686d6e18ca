"""What a model reaches on whole digital cohorts, beside what it has to reach.

``python benchmarks/cohort.py cohort=sartoretti2022 patients=250 heart_model=ellipsoid,polar docs=docs``
``python benchmarks/cohort.py cohort=stress docs=docs``

Scans are made, scored and forgotten; what is kept is one JSON line a patient below ``runs/cohort/``, in a file of its own for
each set of weights, phantom format, cohort and heart model: an interrupted run goes on where it stopped. Nobody trains on these
seeds. Intervals are percentiles of 2000 resamples of patients with all their scans. A refused scan counts as scored 0 in the
agreement, and isn't among the scans without calcium of which the false calcium is told.

``card=true``: figures and intervals go into the card beside the weights, as ``digital_cohorts``.

``docs=`` (empty: none): the table replaces what stands between the marks of the cohort in ``<docs>/cohorts.md``.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from pages import write_between
from rich.console import Console
from rows import collected

from cacsnet.agreement.statistics import Bootstrap, bootstrap, category_indices, icc_values, kappa_value
from cacsnet.errors import CacsError, ConfigError
from cacsnet.inference.settings import InferenceSettings
from cacsnet.keys import read_keys, whole_number
from cacsnet.labels import VESSEL_NAMES
from cacsnet.network.checkpoint import Model, load_model, update_card
from cacsnet.phantom.anatomy import HEART_MODELS
from cacsnet.phantom.cohort import FORMAT, make_cases
from cacsnet.phantom.deposits import OWNER_NAMES
from cacsnet.phantom.plan import Planned, plan_cohort
from cacsnet.training.evaluate import CARD_DECIMALS, trained_heart_model
from cacsnet.training.judging import calcium_shares, judged_row

ROOT = Path(__file__).resolve().parents[1]
SCORES = ("total", *VESSEL_NAMES)
RESAMPLES = 2000

TARGETS: Mapping[str, tuple[str, float]] = {
    "ICC(A,1) total": ("≥", 0.99), "ICC(A,1) LM": ("≥", 0.90), "ICC(A,1) LAD": ("≥", 0.97), "ICC(A,1) LCX": ("≥", 0.97),
    "ICC(A,1) RCA": ("≥", 0.97), "quadratic kappa": ("≥", 0.98), "reclassified": ("≤", 0.03),
    "false Agatston, median": ("≤", 0.0), "false Agatston, 95th percentile": ("≤", 5.0),
    "aortic_valve taken for coronary": ("≤", 0.05), "mitral_annulus taken for coronary": ("≤", 0.05),
    "stent taken for coronary": ("≤", 0.10),
}  # fmt: skip
"""What the project wants to reach; figures without a target are told too."""

SHARES = ("reclassified", "taken for coronary", "refused", "kept")
"""Figures whose names hold these are shares, shown as %."""


@lru_cache(maxsize=1)
def _loaded(path: str) -> Model:
    return load_model(Path(path))


def score_patient(planned: Planned, checkpoint: str) -> dict[str, Any]:
    """All scans of one patient: ``{"patient_id", "scans": [...]}``."""
    model, cases = _loaded(checkpoint), make_cases(planned.recipe, planned.visits)
    return {"patient_id": planned.patient_id, "scans": [judged_row(case, model, InferenceSettings()) for case in cases]}


def table_of(patients: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """One row a scan, with its ``patient_id``."""
    return pd.DataFrame([{"patient_id": p["patient_id"], **scan} for p in patients for scan in p["scans"]])


def figures(scans: pd.DataFrame) -> dict[str, float]:
    """Everything that is judged, from any selection of scans; nan where they can't support it."""
    status = scans["status"].to_numpy()
    values = {name: pd.to_numeric(scans[f"agatston_{name}"]).fillna(0.0).to_numpy(float) for name in SCORES}
    truth = {name: scans[f"reference_{name}"].to_numpy(float) for name in SCORES}
    out = {f"ICC(A,1) {name}": icc_values(truth[name], values[name])[1] for name in SCORES}
    ours, theirs = category_indices(truth["total"]), category_indices(values["total"])
    out["quadratic kappa"] = kappa_value(ours, theirs)
    out["reclassified"] = float((ours != theirs).mean())
    false = values["total"][(truth["total"] == 0) & (status == "ok")]
    out["false Agatston, median"] = float(np.median(false)) if len(false) else math.nan
    out["false Agatston, 95th percentile"] = float(np.percentile(false, 95)) if len(false) else math.nan
    shares = calcium_shares(scans)
    for name in OWNER_NAMES.values():
        if f"amount_{name}" in scans:
            out[f"{name} kept" if name in VESSEL_NAMES else f"{name} taken for coronary"] = shares[f"{name}_kept"]
    out["refused"] = float((status != "ok").mean())
    return out


Judged = tuple[dict[str, float], dict[str, Bootstrap]]


def judged(scans: pd.DataFrame, resamples: int = RESAMPLES) -> Judged:
    """The figures and their intervals."""
    columns = scans.drop(columns="patient_id")
    return figures(columns), bootstrap(lambda drawn: figures(columns.iloc[drawn]), scans["patient_id"].tolist(), resamples)


def met(name: str, value: float) -> str:
    """The target of a figure, and whether it is reached."""
    if name not in TARGETS or not math.isfinite(value):
        return ""
    sign, target = TARGETS[name]
    reached = value >= target if sign == "≥" else value <= target
    return f"{sign} {shown(name, target)}: {'reached' if reached else 'missed'}"


def shown(name: str, value: float) -> str:
    if not math.isfinite(value):
        return "–"
    if any(word in name for word in SHARES):
        return f"{100 * value:.1f} %"
    return f"{value:.1f}" if "Agatston" in name else f"{value:.4f}"


def plain(values: Mapping[str, float], intervals: Mapping[str, Bootstrap]) -> dict[str, list[float | None]]:
    """Value, low and high of each figure, for the card; None where there is none."""

    def known(value: float) -> float | None:
        return round(value, CARD_DECIMALS) if math.isfinite(value) else None

    spans = {name: (i.low, i.high) for name, i in intervals.items()}
    return {name: [known(v) for v in (value, *spans.get(name, (math.nan, math.nan)))] for name, value in values.items()}


def markdown(found: Mapping[str, pd.DataFrame], results: Mapping[str, Judged], trained_on: str) -> str:
    """A table: figures by heart model with intervals and target, and the gap between the first two heart models."""
    heads = [f"{model}{'' if model == trained_on else ', never trained on'}" for model in found]
    gap = len(found) == 2
    lines = ["| | " + " | ".join(f"{head} | target" for head in heads) + (" | gap |" if gap else " |")]
    lines.append("|---|" + "---:|---|" * len(heads) + ("---:|" if gap else ""))
    for name in dict.fromkeys(name for values, _ in results.values() for name in values):
        cells = []
        for values, intervals in results.values():
            value, interval = values.get(name, math.nan), intervals.get(name)
            known = interval is not None and math.isfinite(interval.low)
            span = f" ({shown(name, interval.low)} to {shown(name, interval.high)})" if known and interval else ""
            cells += [f"{shown(name, value)}{span}", met(name, value)]
        if gap:
            first, second = (values.get(name, math.nan) for values, _ in results.values())
            cells.append(shown(name, first - second))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    counts = "; ".join(
        f"{model}: {len(scans)} scans of {scans['patient_id'].nunique()} patients, "
        f"{int((scans['reference_total'] == 0).sum())} without calcium, {refusals(scans)}"
        for model, scans in found.items()
    )
    return f"{counts}.\n\n" + "\n".join(lines)


def refusals(scans: pd.DataFrame) -> str:
    counts = scans.loc[scans["status"] != "ok", "status"].value_counts()
    return "refused: " + (", ".join(f"{count} {code}" for code, count in counts.items()) if len(counts) else "none")


KEYS = {
    "cohort": "sartoretti2022", "patients": "", "heart_model": "ellipsoid", "checkpoint": "checkpoints/cacsnet.safetensors",
    "workers": "2", "matrix": "512", "cache": "", "docs": "", "card": "false",
}  # fmt: skip


def main(arguments: Sequence[str], score: Callable[..., dict[str, Any]] = score_patient) -> int:
    """Exit code 0, or 2 for a bad command."""
    console = Console(width=160)
    torch.set_num_threads(1)
    try:
        keys = read_keys(arguments, KEYS)
        models = keys["heart_model"].split(",")
        if keys["card"] not in ("true", "false"):
            raise ConfigError("choose from true, false", field="card", value=keys["card"])
        for model in models:
            if model not in HEART_MODELS:
                raise ConfigError(f"choose from {', '.join(HEART_MODELS)}", field="heart_model", value=model)
        patients = whole_number(keys, "patients", 1) if keys["patients"] else None
        matrix, workers = whole_number(keys, "matrix", 64), whole_number(keys, "workers", 1)
        plans = {model: plan_cohort(keys["cohort"], patients, model, matrix) for model in models}
        loaded = load_model(Path(keys["checkpoint"]))
    except CacsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    found = {}
    for model, plan in plans.items():
        name = f"{keys['cohort']}_{len(plan)}_{model}_{keys['matrix']}_{FORMAT}_{loaded.sha256[:10]}.jsonl"
        jobs = {planned.patient_id: (planned, keys["checkpoint"]) for planned in plan}
        path = Path(keys["cache"] or ROOT / "runs" / "cohort") / name
        title = f"{keys['cohort']}, {model}"
        found[model] = table_of(collected(path, "patient_id", jobs, score, workers, title, console))
    given = " ".join(f"{key}={keys[key]}" for key in ("cohort", "patients", "heart_model") if keys[key])
    results = {model: judged(scans) for model, scans in found.items()}
    text = f"`python benchmarks/cohort.py {given}`, weights {loaded.sha256[:8]}. " + markdown(
        found, results, trained_heart_model(loaded.card)
    )
    console.print(text, markup=False)
    if keys["docs"]:
        write_between(Path(keys["docs"]) / "cohorts.md", keys["cohort"], text)
    if keys["card"] == "true":
        entry = {"command": f"python benchmarks/cohort.py {given}"} | {
            model: {"scans": len(found[model]), "figures": plain(*result)} for model, result in results.items()
        }
        update_card(Path(keys["checkpoint"]), digital_cohorts=loaded.card.get("digital_cohorts", {}) | {keys["cohort"]: entry})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
