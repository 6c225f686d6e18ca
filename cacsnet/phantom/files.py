"""A cohort on disk: scans as DICOM series or NIfTI, label maps, the two truths, a manifest and a reference table.

``<output>/manifest.csv`` and ``reference.csv`` name the finished scans; ``scans/`` holds them; ``truth/`` one JSON a patient
(every body of calcium with its mass: the anatomical truth, shared by all scans, and a reference row per scan) and two label
maps a scan: ``<case>_vessels.nii.gz`` (voxels of the reference: 1 LM ... 4 RCA) and ``<case>_owners.nii.gz`` (who adds most
calcium or metal, codes in ``origins.json``), which ``reference.csv`` names as ``labels`` and ``origins``. A patient is
finished when the JSON is there; it is written last. ``cohort.json`` names the plan: a folder holds scans of one plan only.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cacsnet.errors import ConfigError
from cacsnet.io import write_dicom_series
from cacsnet.io.write import write_nifti
from cacsnet.phantom.cohort import FORMAT, CohortCase, anatomical_truth, make_cases, reference_row, vessel_labels
from cacsnet.phantom.deposits import OWNER_NAMES
from cacsnet.phantom.plan import Planned
from cacsnet.workers import worker_pool

FORMATS = ("dicom", "nifti")


def write_cohort(plan: Sequence[Planned], output: Path, file_format: str = "dicom", workers: int = 1) -> Iterable[str]:
    """Make what isn't there yet; yields the id of each patient when finished. Tables are written at the end, and kept up to
    date for the finished patients if it is interrupted.

    Raises:
        ConfigError: unknown format, or the folder holds something else (another plan, or no cohort at all).
    """
    if file_format not in FORMATS:
        raise ConfigError(f"must be one of {', '.join(FORMATS)}", field="format", value=file_format)
    _claim(output, plan, file_format)
    done = finished(plan, output)
    yield from (planned.patient_id for planned in plan if planned.patient_id in done)
    jobs = [(planned, output, file_format) for planned in plan if planned.patient_id not in done]
    try:
        if workers <= 1:
            for job in jobs:
                yield _write_patient(job)
        elif jobs:
            with worker_pool(min(workers, len(jobs))) as pool:
                yield from pool.map(_write_patient, jobs)
    finally:
        _write_tables(plan, output)


def finished(plan: Sequence[Planned], output: Path) -> set[str]:
    """Ids of the patients of a plan that an earlier run has made."""
    return {planned.patient_id for planned in plan if _truth_path(output, planned).is_file()}


def _claim(output: Path, plan: Sequence[Planned], file_format: str) -> None:
    """Write the plan's fingerprint into a new folder; refuse a folder that holds anything else."""
    text = json.dumps([[p.patient_id, _settings(p)] for p in plan], sort_keys=True)
    claim = {
        "phantom": FORMAT, "format": file_format, "patients": len(plan), "first_patient": plan[0].patient_id,
        "plan_sha256": hashlib.sha256(text.encode()).hexdigest(),
    }  # fmt: skip
    path = output / "cohort.json"
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        if found != claim:
            changed = ", ".join(key for key in claim if found.get(key) != claim[key])
            raise ConfigError(
                f"this folder holds a cohort with other settings ({changed}); choose another folder",
                path=path, field="output", value=str(output),
            )  # fmt: skip
    elif output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConfigError("the folder holds something else than a cohort; choose a new one", field="output", value=str(output))
    else:
        _write_json(path, claim)


def _truth_path(output: Path, planned: Planned) -> Path:
    return output / "truth" / f"{planned.patient_id}.json"


def _settings(planned: Planned) -> dict[str, Any]:
    """What decides a patient's scans."""
    recipe = {key: dict(value) if isinstance(value, Mapping) else value for key, value in vars(planned.recipe).items()}
    return {"recipe": recipe, "visits": [vars(v) for v in planned.visits]}


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp{os.getpid()}")
    temporary.write_text(json.dumps(values, indent=1, default=float), encoding="utf-8")
    os.replace(temporary, path)


def _write_patient(job: tuple[Planned, Path, str]) -> str:
    planned, output, file_format = job
    cases = make_cases(planned.recipe, planned.visits)
    scans = []
    for case in cases:
        case_id = f"{planned.patient_id}-{case.visit.number}"
        path = _write_scan(case, case_id, planned.patient_id, output, file_format)
        scans.append(
            reference_row(case_id, case, planned.patient_id)
            | write_truth(case, case_id, output)
            | {"path": path, "gated": case.scan.acquisition.gated}
        )
    facts = {
        "patient_id": planned.patient_id, "plan": _settings(planned), "truth": anatomical_truth(cases[0]), "scans": scans,
    }  # fmt: skip
    _write_json(_truth_path(output, planned), facts)
    return planned.patient_id


def write_truth(case: CohortCase, case_id: str, output: Path) -> dict[str, str]:
    """Write the label maps of a scan; returns the columns ``labels`` and ``origins``: their paths below ``output``."""
    threshold = case.reference.bands_hu[0]
    vessels = np.where(case.truth.hu >= threshold, vessel_labels(case.truth), 0).astype(np.uint8)
    paths = {"labels": f"truth/{case_id}_vessels.nii.gz", "origins": f"truth/{case_id}_owners.nii.gz"}
    for path, values in zip(paths.values(), (vessels, case.truth.owner), strict=True):
        write_nifti(output / path, values, case.scan.geometry)
    return paths


def write_origin_names(output: Path) -> None:
    """``origins.json``: what the codes of the ``origins`` maps mean."""
    _write_json(output / "origins.json", {str(code): name for code, name in OWNER_NAMES.items()})


def _write_scan(case: CohortCase, case_id: str, patient_id: str, output: Path, file_format: str) -> str:
    """Write one scan; returns its path below ``output``."""
    folder = output / "scans"
    if file_format == "nifti":
        write_nifti(folder / f"{case_id}.nii.gz", case.truth.hu, case.scan.geometry)
        return f"scans/{case_id}.nii.gz"
    shutil.rmtree(folder / case_id, ignore_errors=True)  # of a patient that wasn't finished
    write_dicom_series(case.scan, folder / case_id, patient_id=patient_id, seed=case_id, series_number=case.visit.number)
    return f"scans/{case_id}"


MANIFEST = (
    "case_id", "path", "patient_id", "scan", "heart_rate_bpm", "bmi_kg_m2", "kvp", "gated", "manufacturer", "kernel",
    "slice_thickness_mm",
)  # fmt: skip
"""What a NIfTI file can't say, a reader finds here."""


def _write_tables(plan: Sequence[Planned], output: Path) -> None:
    rows = []
    for planned in plan:
        path = _truth_path(output, planned)
        if path.is_file():
            rows += json.loads(path.read_text(encoding="utf-8"))["scans"]
    if not rows:
        return
    write_origin_names(output)
    table = pd.DataFrame(rows)
    reference = table.drop(columns=["path", "gated"]).assign(source="phantom")
    for name, values in (("reference.csv", reference), ("manifest.csv", table[list(MANIFEST)])):
        temporary = output / f".{name}.tmp{os.getpid()}"
        values.to_csv(temporary, index=False)
        os.replace(temporary, output / name)
