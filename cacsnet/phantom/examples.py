"""The embedded example cohort: six phantom scans as DICOM series with their reference scores, made on first use."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd

from cacsnet.io import write_dicom_series
from cacsnet.phantom.cohort import FORMAT, USUAL_DISTRACTORS, Recipe, make_case, reference_row
from cacsnet.phantom.files import write_origin_names, write_truth

EXAMPLES: dict[str, Recipe] = {
    name: replace(recipe, own_scanner=True)  # targets are met on the example's own scan, as far as densities allow
    for name, recipe in {
        "zero": Recipe(30_000_001, agatston=0.0),
        "low": Recipe(30_000_007, agatston=10.0),
        "moderate": Recipe(30_000_003, agatston=225.0),
        "high": Recipe(30_000_004, agatston=900.0),
        "valve_and_aorta": Recipe(
            30_000_005, agatston=50.0, distractors=dict(USUAL_DISTRACTORS) | {"aortic_valve": 5.0, "aorta": 5.0}
        ),
        "nongated_5mm": Recipe(30_000_006, agatston=800.0, gated=False, increment_mm=5.0),
    }.items()
}


def ensure_examples(folder: Path, on_case: Callable[[str], None] | None = None) -> Path:
    """Make the cohort below ``folder`` unless it is there; returns its ``manifest.csv`` (``reference.csv`` lies beside it).

    The folder appears only when complete. ``on_case`` is called with the name of each case before it is made.
    """
    target = folder / f"v{FORMAT}"
    if not (target / "manifest.csv").is_file():
        temporary = folder / f"v{FORMAT}.tmp{os.getpid()}"
        shutil.rmtree(temporary, ignore_errors=True)
        manifest, reference = [], []
        try:
            for case_id, recipe in EXAMPLES.items():
                if on_case:
                    on_case(case_id)
                case = make_case(recipe)
                write_dicom_series(case.scan, temporary / case_id, patient_id=f"PHANTOM-{recipe.seed}", seed=case_id)
                manifest.append({"case_id": case_id, "path": case_id, "patient_id": case_id, "scan": 1})
                reference.append(reference_row(case_id, case) | write_truth(case, case_id, temporary))
            write_origin_names(temporary)
            pd.DataFrame(reference).assign(source="phantom").to_csv(temporary / "reference.csv", index=False)
            pd.DataFrame(manifest).to_csv(temporary / "manifest.csv", index=False)
            shutil.rmtree(target, ignore_errors=True)
            os.replace(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return target / "manifest.csv"
