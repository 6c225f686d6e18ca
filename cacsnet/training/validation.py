"""Validation by scoring whole phantom scans with the shared library: the number that counts is the score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch

from cacsnet.errors import CacsError, ConfigError
from cacsnet.inference.pipeline import score_scan
from cacsnet.inference.settings import InferenceSettings
from cacsnet.labels import VESSEL_NAMES
from cacsnet.network.checkpoint import Model, Stage
from cacsnet.phantom.anatomy import HEART_MODELS
from cacsnet.phantom.cohort import CohortCase, Recipe, make_case, reference_row, vessel_labels
from cacsnet.phantom.population import load_population, spread_total
from cacsnet.scoring import load_profile
from cacsnet.training.metrics import agreement, lesion_counts, score_metrics
from cacsnet.training.module import StageModule

VALIDATION_SEED = 10_000_000


def validation_recipe(number: int, matrix: int, heart_model: str = "ellipsoid") -> Recipe:
    """A scan of the validation split; totals from none (the first) to heavy."""
    total = spread_total(load_population("training"), number)
    return Recipe(VALIDATION_SEED + number, total, population="training", matrix=matrix, heart_model=heart_model)


def validation_cohort(size: int, matrix: int, heart_model: str = "ellipsoid") -> list[CohortCase]:
    """Phantom scans with totals from none to heavy, from seeds of the validation split."""
    return [make_case(validation_recipe(number, matrix, heart_model)) for number in range(size)]


def reference_calcium(case: CohortCase) -> np.ndarray:
    """uint8 [z, y, x]: the vessel of each voxel that the reference score counts, 0 elsewhere."""
    threshold = load_profile("smartscore").threshold_hu(case.truth.protocol.kvp)
    return np.where(case.truth.hu >= threshold, vessel_labels(case.truth), 0).astype(np.uint8)


def score_cohort(cases: Sequence[CohortCase], model: Model, settings: InferenceSettings) -> pd.DataFrame:
    """One row per case: ``case_id, status, agatston_total, agatston_LM ...`` and the counts of :func:`lesion_counts`; a case
    that failed has no scores and no lesions kept."""
    rows = []
    for number, case in enumerate(cases):
        row: dict[str, Any] = {"case_id": str(number), "status": "ok"}
        kept = np.zeros(case.scan.hu.shape, np.uint8)
        try:
            result = score_scan(case.scan, model, settings)
            kept = result.vessel_map
            row["agatston_total"] = result.score.total.agatston
            row |= {f"agatston_{name}": result.score.vessels[name].agatston for name in VESSEL_NAMES}
        except CacsError as error:
            row |= {"status": error.code, "agatston_total": None} | {f"agatston_{name}": None for name in VESSEL_NAMES}
        rows.append(row | lesion_counts(reference_calcium(case), kept))
    return pd.DataFrame(rows)


class ScoreValidation(pl.Callback):
    """Scores the validation scans with the current weights; when, is :class:`cacsnet.training.callbacks.Validate`'s."""

    def __init__(
        self,
        size: int,
        matrix: int,
        every_steps: int,
        heart_model: str = "ellipsoid",
        settings: InferenceSettings | None = None,
    ) -> None:
        if heart_model not in HEART_MODELS:
            raise ConfigError(f"choose from {', '.join(HEART_MODELS)}", field="validation.heart_model", value=heart_model)
        self.size, self.matrix, self.every_steps, self.heart_model = size, matrix, every_steps, heart_model
        self.settings = settings or InferenceSettings()
        self.cases: list[CohortCase] | None = None
        self.coarse: Stage | None = None
        self.history: list[dict[str, float]] = []

    def run(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, float]:
        assert isinstance(pl_module, StageModule)
        if self.cases is None:
            self.cases = validation_cohort(self.size, self.matrix, self.heart_model)
        was_training = pl_module.network.training
        stage = Stage(pl_module.stage, pl_module.network.eval())
        model = Model(self.coarse, stage, {}, "") if self.coarse is not None else Model(stage, None, {}, "")
        reference = pd.DataFrame([reference_row(str(n), case) for n, case in enumerate(self.cases)])
        with torch.inference_mode():
            scores = score_cohort(self.cases, model, self.settings)
        pl_module.network.train(was_training)
        values = score_metrics(reference, scores)
        values["agreement"] = agreement(values)
        values["step"] = float(trainer.global_step)
        self.history.append(values)
        for logger in trainer.loggers:
            logger.log_metrics({f"scans/{k}": v for k, v in values.items()}, step=trainer.global_step)
        return values
