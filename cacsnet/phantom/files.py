"""A cohort on disk: scans as DICOM series or NIfTI, label maps, the two truths, a manifest and a reference table.

``<output>/manifest.csv`` and ``reference.csv`` name the finished scans; ``scans/`` holds them; ``truth/`` one JSON a patient
(every body of calcium with its mass: the anatomical truth, shared by all scans, and a reference row per scan) and two label
maps a scan: ``<case>_vessels.nii.gz`` (voxels of the reference: 1 LM ... 4 RCA) and ``<case>_owners.nii.gz`` (who adds most
calcium or metal, codes in the JSON). A patient is finished when the JSON is there; it is written last.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from cacsnet.errors import ConfigError
from cacsnet.io import write_dicom_series
from cacsnet.io.write import write_nifti
from cacsnet.phantom.cohort import CohortCase, anatomical_truth, make_cases, reference_row, vessel_labels
from cacsnet.phantom.deposits import OWNER_NAMES
from cacsnet.phantom.plan import Planned

FORMATS = ("dicom", "nifti")


def write_cohort(plan: Sequence[Planned], output: Path, file_format: str = "dicom", workers: int = 1) -> Iterable[str]:
    """Make what isn't there yet; yields the id of each patient when finished. Tables are written at the end, and kept up to
    date for the finished patients if it is interrupted.

    Raises:
        ConfigError: unknown format, or the folder holds another cohort (other settings under the same patient id).
    """
    if file_format not in FORMATS:
        raise ConfigError(f"must be one of {', '.join(FORMATS)}", field="format", value=file_format)
    truth = output / "truth"
    truth.mkdir(parents=True, exist_ok=True)
    missing = []
    for planned in plan:
        path = truth / f"{planned.patient_id}.json"
        if not path.is_file():
            missing.append(planned)
        elif json.loads(path.read_text(encoding="utf-8"))["plan"] != _settings(planned, file_format):
            raise ConfigError(
                "was made with other settings; choose another folder", path=path, field="output", value=str(output)
            )
        else:
            yield planned.patient_id
    jobs = [(planned, output, file_format) for planned in missing]
    try:
        if workers <= 1:
            for job in jobs:
                yield _write_patient(job)
        elif jobs:
            with ProcessPoolExecutor(
                min(workers, len(jobs)), get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
            ) as pool:
                yield from pool.map(_write_patient, jobs)
    finally:
        _write_tables(plan, output)


def _settings(planned: Planned, file_format: str) -> dict[str, Any]:
    """What decides a patient's files, as JSON gives it back."""
    settings: dict[str, Any] = json.loads(
        json.dumps(
            {"recipe": vars(planned.recipe), "visits": [vars(v) for v in planned.visits], "format": file_format}, default=dict
        )
    )
    return settings


def _write_patient(job: tuple[Planned, Path, str]) -> str:
    planned, output, file_format = job
    cases = make_cases(planned.recipe, planned.visits)
    scans = []
    for case in cases:
        case_id = f"{planned.patient_id}-{case.visit.number}"
        path = _write_scan(case, case_id, planned.patient_id, output, file_format)
        row = reference_row(case_id, case)
        scans.append({"case_id": case_id, "path": path, "patient_id": planned.patient_id, "scan": case.visit.number} | row)
    facts = {
        "patient_id": planned.patient_id, "plan": _settings(planned, file_format), "owners": OWNER_NAMES,
        "truth": anatomical_truth(cases[0]), "scans": scans,
    }  # fmt: skip
    target = output / "truth" / f"{planned.patient_id}.json"
    temporary = target.with_suffix(f".json.tmp{os.getpid()}")
    temporary.write_text(json.dumps(facts, indent=1, default=float), encoding="utf-8")
    os.replace(temporary, target)
    return planned.patient_id


def _write_scan(case: CohortCase, case_id: str, patient_id: str, output: Path, file_format: str) -> str:
    """Write one scan and its label maps; returns its path below ``output``."""
    threshold = case.reference.bands_hu[0]
    vessels = np.where(case.truth.hu >= threshold, vessel_labels(case.truth), 0).astype(np.uint8)
    write_nifti(output / "truth" / f"{case_id}_vessels.nii.gz", vessels, case.scan.geometry)
    write_nifti(output / "truth" / f"{case_id}_owners.nii.gz", case.truth.owner, case.scan.geometry)
    folder = output / "scans"
    if file_format == "nifti":
        write_nifti(folder / f"{case_id}.nii.gz", case.truth.hu, case.scan.geometry)
        return f"scans/{case_id}.nii.gz"
    shutil.rmtree(folder / case_id, ignore_errors=True)  # of a patient that wasn't finished
    write_dicom_series(case.scan, folder / case_id, patient_id=patient_id, seed=case_id, series_number=case.visit.number)
    return f"scans/{case_id}"


MANIFEST = ("case_id", "path", "patient_id", "scan", "heart_rate_bpm", "bmi_kg_m2", "kvp")


def _write_tables(plan: Sequence[Planned], output: Path) -> None:
    rows = []
    for planned in plan:
        path = output / "truth" / f"{planned.patient_id}.json"
        if path.is_file():
            rows += json.loads(path.read_text(encoding="utf-8"))["scans"]
    if not rows:
        return
    table = pd.DataFrame(rows)
    reference = table.drop(columns="path")
    for name, values in (("reference.csv", reference), ("manifest.csv", table[list(MANIFEST)])):
        temporary = output / f".{name}.tmp{os.getpid()}"
        values.to_csv(temporary, index=False)
        os.replace(temporary, output / name)
