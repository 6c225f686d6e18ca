"""Small made-up cohorts: two scans of each patient, reference and model scores."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

VESSELS = ("LM", "LAD", "LCX", "RCA")


def make_cohort(n_patients: int = 15, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Reference (with covariates) and scores of ``n_patients`` x 2 scans."""
    rng = np.random.default_rng(seed)
    burden = rng.gamma(0.5, 200, (n_patients, 4)) + 1
    reference, scores = [], []
    for patient in range(n_patients):
        for scan in (1, 2):
            true = burden[patient] * rng.uniform(0.9, 1.1, 4)
            model = np.clip(true * rng.uniform(0.8, 1.25, 4) + rng.normal(0, 8, 4), 0, None)
            ids = {"case_id": f"p{patient:02d}-{scan}"}
            known = {"patient_id": f"p{patient:02d}", "scan": scan, "heart_rate_bpm": rng.normal(72 - 6 * scan, 8)}
            known |= {"bmi_kg_m2": rng.normal(28, 4)}
            reference.append(ids | known | _row(true))
            scores.append(ids | {"status": "ok", "flags": "", "image_noise_hu": rng.normal(20, 3)} | _row(model))
    return pd.DataFrame(reference), pd.DataFrame(scores)


def _row(values: np.ndarray) -> dict[str, float]:
    return {"agatston_total": float(values.sum())} | {f"agatston_{v}": float(x) for v, x in zip(VESSELS, values, strict=True)}


@pytest.fixture
def cohort() -> tuple[pd.DataFrame, pd.DataFrame]:
    return make_cohort()
