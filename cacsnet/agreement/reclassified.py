"""Why a case got another risk category (the paper's Table 3), as far as the data can tell.

Three sources, the first that answers:

1. ``labels``: reference and model label maps. The reason is the largest volume that works in the direction of the change:
   reference calcium that the model lacks, or calcium that only the model has, by what lies there (``origins`` map).
2. ``extra-coronary scores``: both tables know the calcium of aorta, aortic valve and mitral annulus, and at least half of the
   deviation is missing there (counted as coronary), or is too much there (rejected as extra-coronary).
3. Else ``undetermined``, with the largest kept and the largest rejected candidate of the case's ``lesions.csv``.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import cc3d
import numpy as np
import pandas as pd

from cacsnet.agreement.label_maps import CaseLabels
from cacsnet.agreement.lesions import MIN_AREA_MM2, scored
from cacsnet.agreement.pairs import EXTRACORONARY
from cacsnet.labels import VESSEL_NAMES

UNDETERMINED = "undetermined"
FROM_LABELS, FROM_SCORES, FROM_NOTHING = "labels", "extra-coronary scores", "none"
UNKNOWN_ORIGIN = "calcium that the reference lacks, of unknown origin"
FAR = ("bone", "outside_heart")
"""Rejected candidates that are large in every chest and explain nothing, unless there are no others."""


@dataclass(frozen=True)
class Candidate:
    """A row of ``lesions.csv``: vessel or reason for rejection, Agatston score (would-be, if rejected), mm³, slices."""

    what: str
    agatston: float
    volume_mm3: float
    slices: str


@dataclass(frozen=True)
class ReclassifiedCase:
    """A case in another category than the reference's.

    Attributes:
        case_id, patient_id, scan: as in the pairs; None where unknown.
        reference, model: total Agatston scores.
        reference_category, model_category: their categories.
        direction: "over" or "under", of the model.
        reason: in words, or "undetermined".
        evidence: "labels", "extra-coronary scores" or "none".
        contributions: volumes in mm³ by reason, largest first, of all that works in the direction of the change.
        vessels: reference - model of each vessel (Agatston) where known.
        kept, rejected: largest candidates of ``lesions.csv`` where the reason is undetermined.
    """

    case_id: str
    patient_id: str | None
    scan: str | None
    reference: float
    model: float
    reference_category: str
    model_category: str
    direction: str
    reason: str
    evidence: str
    contributions: Mapping[str, float]
    vessels: Mapping[str, float]
    kept: Candidate | None = None
    rejected: Candidate | None = None


def explain(
    row: Mapping[str, object], labels: CaseLabels | None, origin_names: Mapping[int, str], folder: Path | None
) -> ReclassifiedCase:
    """Name the reason of a reclassified case.

    Args:
        row: of the table of :class:`~cacsnet.agreement.pairs.Pairs`.
        labels: its label maps, if known.
        origin_names: names of the codes of the origins.
        folder: the case's folder with ``lesions.csv``, if known.
    """
    reference, model = float(str(row["reference_total"])), float(str(row["model_total"]))
    over = model > reference
    shares = {} if labels is None else contributions(labels, origin_names, over)
    reason, evidence = (next(iter(shares)), FROM_LABELS) if shares else (UNDETERMINED, FROM_NOTHING)
    if not shares or reason.startswith(UNKNOWN_ORIGIN):
        named = _from_scores(row, reference - model)
        reason, evidence = (named, FROM_SCORES) if named else (reason, evidence)
    kept = rejected = None
    if evidence == FROM_NOTHING and folder is not None:
        kept, rejected = largest_candidates(folder / "lesions.csv")
    return ReclassifiedCase(
        case_id=str(row["case_id"]),
        patient_id=None if row["patient_id"] is None else str(row["patient_id"]),
        scan=None if row["scan"] is None else str(row["scan"]),
        reference=reference,
        model=model,
        reference_category=str(row["reference_category"]),
        model_category=str(row["model_category"]),
        direction="over" if over else "under",
        reason=reason,
        evidence=evidence,
        contributions=shares,
        vessels={name: value for name in VESSEL_NAMES if math.isfinite(value := _difference(row, name))},
        kept=kept,
        rejected=rejected,
    )


def contributions(
    labels: CaseLabels, origin_names: Mapping[int, str], over: bool, min_area_mm2: float = MIN_AREA_MM2
) -> dict[str, float]:
    """Volumes in mm³ by reason, largest first: what only the model has (``over``), or only the reference.

    A calcification is a 26-connected group of voxels; one that both maps touch is a difference of outline. Islands that
    are too small to be scored don't count. Where ``origins`` are known, calcium of the model's at a place where nothing
    calcified or metallic is, and that touches no calcium, is image noise.
    """
    dz, dy, dx = labels.spacing_mm
    ref, mod = (scored(m, dy * dx, min_area_mm2) for m in (labels.reference, labels.model))
    here, there = (mod, ref) if over else (ref, mod)
    only = (here > 0) & (there == 0)
    found: dict[str, float] = {}
    group = cc3d.connected_components(here > 0, connectivity=26)
    for number in np.unique(group[only]):
        whole = group == number
        voxels = whole & only
        vessel = VESSEL_NAMES[_most(here[voxels]) - 1]
        shared = bool((whole & (there > 0)).any())
        if not over:
            what = f"part of a lesion missed in {vessel}" if shared else f"missed lesion in {vessel}"
            _add(found, what, voxels, dz * dy * dx)
            continue
        if labels.origins is None:
            what = f"lesion in {vessel} outlined larger" if shared else f"{UNKNOWN_ORIGIN}, counted as {vessel}"
            _add(found, what, voxels, dz * dy * dx)
            continue
        kinds = labels.origins[voxels]
        for code in np.unique(kinds[kinds > 0]):
            name = origin_names.get(int(code), f"origin {code}").replace("_", " ")
            own = int(code) <= len(VESSEL_NAMES)
            what = f"lesion in {VESSEL_NAMES[int(code) - 1]} outlined larger" if own else f"{name} counted as {vessel}"
            _add(found, what, voxels & (labels.origins == code), dz * dy * dx)
        nothing = voxels & (labels.origins == 0)
        near = labels.origins[whole]
        if shared:
            what = f"lesion in {vessel} outlined larger"
        elif (near > 0).any():  # the blurred rim of what it is
            code = _most(near[near > 0])
            what = f"{origin_names.get(code, f'origin {code}').replace('_', ' ')} counted as {vessel}"
        else:
            what = f"image noise counted as {vessel}"
        _add(found, what, nothing, dz * dy * dx)
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def _add(found: dict[str, float], what: str, voxels: np.ndarray, voxel_mm3: float) -> None:
    n = int(np.count_nonzero(voxels))
    if n:
        found[what] = found.get(what, 0.0) + n * voxel_mm3


def _most(values: np.ndarray) -> int:
    return int(np.bincount(values.astype(np.int64)).argmax())


def _difference(row: Mapping[str, object], name: str) -> float:
    """Reference - model of a part; nan where unknown."""
    reference, model = row.get(f"reference_{name}"), row.get(f"model_{name}")
    return math.nan if reference is None or model is None else float(str(reference)) - float(str(model))


def _from_scores(row: Mapping[str, object], difference: float) -> str:
    """The extra-coronary calcium that explains at least half of reference - model, in words; "" if none does."""
    over = difference < 0
    # what the model counts as coronary is missing elsewhere, and the other way round
    moved = {kind: _difference(row, kind) * (1 if over else -1) for kind in EXTRACORONARY}
    known = {kind: value for kind, value in moved.items() if value > 0}
    if not known:
        return ""
    kind, value = max(known.items(), key=lambda item: item[1])
    if value < abs(difference) / 2:
        return ""
    name = kind.replace("_", " ")
    return f"{name} calcium counted as coronary" if over else f"coronary calcium rejected as {name}"


def largest_candidates(path: Path) -> tuple[Candidate | None, Candidate | None]:
    """The kept and the rejected candidate of a ``lesions.csv`` with the highest Agatston score; None where there is none.

    Bone and what lies outside the heart is named only if nothing else was rejected.
    """
    if not path.is_file():
        return None, None
    best: dict[str, Candidate] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            score, volume = (float(pd.to_numeric(row.get(name) or "", errors="coerce")) for name in ("agatston", "volume_mm3"))
            if not math.isfinite(score):
                continue  # the summary row of those below the minimum area
            what = row.get("vessel_or_reason") or ""
            kind = "kept" if row.get("kept") == "True" else "far" if what in FAR else "rejected"
            if kind not in best or score > best[kind].agatston:
                best[kind] = Candidate(what, score, volume, row.get("slices") or "")
    return best.get("kept"), best.get("rejected", best.get("far"))
