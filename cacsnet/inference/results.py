"""What a run leaves behind: ``scores.csv``, ``failures.csv`` and one folder per scored case.

Every file appears whole or not at all, and a case's ``scores.json`` comes last: a case that has one is finished.
"""

from __future__ import annotations

import csv
import json
import math
import os
import platform
import shutil
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cacsnet.errors import CacsError
from cacsnet.inference.pipeline import CaseResult, native_box
from cacsnet.inference.quality import acquisition_flags
from cacsnet.inference.settings import QualitySettings
from cacsnet.io.cases import Case
from cacsnet.io.write import write_nifti
from cacsnet.labels import VESSEL_NAMES
from cacsnet.report.overlay import write_overlay
from cacsnet.scan import Scan
from cacsnet.scoring import LESION_COLUMNS, Measures
from cacsnet.scoring.document import score_document

PARTS = ("total", *VESSEL_NAMES)
EXTRACORONARY = ("aorta", "aortic_valve", "mitral_annulus")
SCORE_COLUMNS: tuple[str, ...] = (
    *("case_id", "patient_id", "scan", "status", "flags"),
    *(f"{measure}_{part}" for measure in ("agatston", "volume_mm3", "mass_mg") for part in PARTS),
    *(f"{measure}_{part}" for measure in ("agatston", "volume_mm3") for part in EXTRACORONARY),
    *("lesions_total", "risk_category", "cac_drs", "kvp", "manufacturer", "kernel"),
    *("slice_thickness_mm", "slice_increment_mm", "image_noise_hu", "seconds"),
)
FAILURE_COLUMNS: tuple[str, ...] = ("case_id", "path", "error", "message")
CASE_FILES = ("scores.json", "lesions.csv", "labels.nii.gz", "structures.nii.gz", "overlay.png")

Row = dict[str, Any]


def versions() -> dict[str, str]:
    """Versions of what computed the scores."""
    names = ("cacsnet", "torch", "numpy", "scipy")
    return {"python": platform.python_version(), **{name: _version(name) for name in names}}


def _version(name: str) -> str:
    try:
        return version(name)
    except ModuleNotFoundError:  # run from a checkout that isn't installed
        return "unknown"


def score_row(case: Case, scan: Scan, result: CaseResult, seconds: float) -> Row:
    """The row of a scored case in ``scores.csv``."""
    measures: dict[str, Measures] = {"total": result.score.total, **result.score.vessels, **result.extracoronary}
    row = _known(case, scan)
    for column in SCORE_COLUMNS:
        for measure in ("agatston", "volume_mm3", "mass_mg"):
            if column.startswith(f"{measure}_"):
                row[column] = round(float(getattr(measures[column.removeprefix(f"{measure}_")], measure)), 6)
    return row | {
        "status": result.status,
        "flags": ";".join(result.flags),
        "lesions_total": len(result.score.lesions),
        "risk_category": result.score.risk_category,
        "cac_drs": result.score.cac_drs,
        "kvp": result.calibration.kvp,
        "image_noise_hu": None if result.image_noise_hu is None else round(result.image_noise_hu, 2),
        "seconds": round(seconds, 2),
    }


def failed_row(case: Case, scan: Scan | None, error: BaseException, seconds: float, quality: QualitySettings) -> Row:
    """The row of a failed case: its reason first in ``flags``, then what the header says; scores empty, never 0."""
    flags = [error_code(error)]
    if scan is not None:
        flags += acquisition_flags(scan.acquisition, scan.spacing_mm, quality)
    return _known(case, scan) | {"status": "failed", "flags": ";".join(flags), "seconds": round(seconds, 2)}


def failure(case: Case, error: BaseException) -> Row:
    """The row of a failed case in ``failures.csv``."""
    if isinstance(error, CacsError):
        what = f" [{error.field}={error.value!r}]" if error.field else ""
        message = f"{error.message}{what}"
    else:
        message = f"{type(error).__name__}: {error}"
    message = " ".join(message.split())
    return {"case_id": case.case_id, "path": str(case.path), "error": error_code(error), "message": message}


def error_code(error: BaseException) -> str:
    """Short stable word for a typed error; ``out_of_memory`` or ``unexpected_error`` for others."""
    if isinstance(error, CacsError):
        return error.code
    memory = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    return "out_of_memory" if memory else "unexpected_error"


def _known(case: Case, scan: Scan | None) -> Row:
    row: Row = dict.fromkeys(SCORE_COLUMNS)
    row |= {"case_id": case.case_id, "patient_id": case.patient_id, "scan": case.scan}
    if scan is not None:
        facts = scan.acquisition
        row |= {"kvp": facts.kvp, "manufacturer": facts.manufacturer, "kernel": facts.kernel}
        row |= {"slice_thickness_mm": facts.slice_thickness_mm, "slice_increment_mm": round(scan.spacing_mm[0], 6)}
        row["patient_id"] = case.patient_id or facts.patient_id_hash
    return row


def write_case(
    output: Path, case: Case, scan: Scan, result: CaseResult, row: Row, run: Mapping[str, Any], save_structures: bool
) -> Path:
    """Write ``<output>/<case_id>/``; it is finished, with ``scores.json``, or not there at all.

    Args:
        output: results folder.
        case: the case.
        scan: as it was scored (``result.scan``).
        result: from :func:`cacsnet.inference.pipeline.score_scan`.
        row: from :func:`score_row`.
        run: the run manifest (versions, weights, settings), goes into ``scores.json``.
        save_structures: also write ``structures.nii.gz``.
    """
    temporary = output / f".{case.case_id}.partial"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        write_csv(temporary / "lesions.csv", LESION_COLUMNS, result.lesions)
        write_nifti(temporary / "labels.nii.gz", result.vessel_map, scan.geometry, np.uint8, source=scan.source)
        if save_structures:
            structures = result.structures_native(scan)
            write_nifti(temporary / "structures.nii.gz", structures, scan.geometry, np.uint8, source=scan.source)
        _picture(temporary / "overlay.png", case, scan, result)
        (temporary / "scores.json").write_text(json.dumps(_document(case, scan, result, row, run), indent=2) + "\n")
        folder = output / case.case_id
        remove_case(output, case.case_id)
        folder.mkdir(exist_ok=True)
        for name in reversed(CASE_FILES):  # scores.json last
            if (temporary / name).exists():
                os.replace(temporary / name, folder / name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def remove_case(output: Path, case_id: str) -> None:
    """Remove what an earlier run wrote about a case, and its folder if nothing else is in it."""
    folder = output / case_id
    for name in CASE_FILES:
        (folder / name).unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def finished_case(output: Path, case_id: str) -> dict[str, Any] | None:
    """What an earlier run wrote in ``scores.json``; None if the case is not finished."""
    try:
        document = json.loads((output / case_id / "scores.json").read_text())
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) and "scores" in document and "run" in document else None


def _picture(path: Path, case: Case, scan: Scan, result: CaseResult) -> None:
    reasons = np.zeros(scan.hu.shape, dtype=np.uint8)
    reasons[result.box] = result.reasons
    score = result.score
    vessels = ", ".join(f"{name} {score.vessels[name].agatston:.1f}" for name in VESSEL_NAMES)
    lines = [
        case.case_id,
        f"Agatston {score.total.agatston:.1f} ({vessels}), category {score.risk_category}, profile {score.profile}",
    ]
    if result.flags:
        lines.append(f"flags: {', '.join(result.flags)}")
    box = native_box(scan, result.heart, margin_mm=0.0)
    write_overlay(path, scan.hu, result.vessel_map, reasons, scan.spacing_mm, lines, box=box)


def _document(case: Case, scan: Scan, result: CaseResult, row: Row, run: Mapping[str, Any]) -> dict[str, Any]:
    return plain(
        {
            "case_id": case.case_id,
            "path": str(case.path),
            "status": result.status,
            "flags": list(result.flags),
            "notes": list(scan.notes),
            "scores": row,
            **score_document(result.score, result.calibration, result.slabs, mass_factor_from(case, scan)),
            "heart": {
                "plausibility": result.heart.plausibility,
                "volumes_ml": result.heart.volumes_ml,
                "blood_hu": result.blood_hu,
                "image_noise_hu": result.image_noise_hu,
            },
            "run": {**run, "windows": result.windows, "seconds": result.seconds},
        }
    )


def mass_factor_from(case: Case, scan: Scan) -> str:
    """Where a scan's calcium mass factor came from: its manifest or its header."""
    given = case.overrides.get("mass_factor")
    return "manifest" if given is not None and given == scan.acquisition.mass_factor else "header (0018,9351)"


def plain(value: Any) -> Any:
    """Mappings, tuples and numpy numbers to what JSON knows; nan and infinity to null."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a table under a temporary name, then rename it; None is an empty cell."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", restval="")
        writer.writeheader()
        writer.writerows(rows)
    os.replace(temporary, path)


def read_csv(path: Path) -> list[dict[str, str]]:
    """Rows of an earlier run's table; none where there is no table."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row.get("case_id")]


class Tables:
    """``scores.csv`` and ``failures.csv`` of an output folder, rewritten whole after each case.

    Rows of cases that belong to earlier runs into the same folder stay, after those of this run.
    """

    def __init__(self, output: Path, case_ids: Sequence[str]) -> None:
        self.output = output
        self.scores: dict[str, Mapping[str, Any] | None] = dict.fromkeys(case_ids)
        self.failures: dict[str, Mapping[str, Any] | None] = dict.fromkeys(case_ids)
        for row in read_csv(output / "scores.csv"):
            self.scores.setdefault(row["case_id"], row)
        for row in read_csv(output / "failures.csv"):
            self.failures.setdefault(row["case_id"], row)

    def add(self, row: Row, failed: Row | None = None) -> None:
        """Set the row of a case (and its failure) and write both tables."""
        self.scores[row["case_id"]] = row
        self.failures[row["case_id"]] = failed
        self.write()

    def write(self) -> None:
        write_csv(self.output / "scores.csv", SCORE_COLUMNS, [row for row in self.scores.values() if row])
        write_csv(self.output / "failures.csv", FAILURE_COLUMNS, [row for row in self.failures.values() if row])
