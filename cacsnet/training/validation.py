"""Validation by scoring whole phantom scans with the shared library: the number that counts is the score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch

from cacsnet.agreement.summary import summary_table
from cacsnet.errors import CacsError, ConfigError
from cacsnet.inference.pipeline import score_scan
from cacsnet.inference.settings import InferenceSettings
from cacsnet.labels import VESSEL_NAMES
from cacsnet.network.checkpoint import Model, Stage
from cacsnet.phantom.anatomy import HEART_MODELS
from cacsnet.phantom.cohort import CohortCase, Recipe, make_case, reference_row
from cacsnet.phantom.population import load_population, spread_total
from cacsnet.training.module import StageModule

VALIDATION_SEED = 10_000_000


def validation_recipe(number: int, matrix: int, heart_model: str = "ellipsoid") -> Recipe:
    """A scan of the validation split; totals from none (the first) to heavy."""
    total = spread_total(load_population("training"), number)
    return Recipe(VALIDATION_SEED + number, total, population="training", matrix=matrix, heart_model=heart_model)


def validation_cohort(size: int, matrix: int, heart_model: str = "ellipsoid") -> list[CohortCase]:
    """Phantom scans with totals from none to heavy, from seeds of the validation split."""
    return [make_case(validation_recipe(number, matrix, heart_model)) for number in range(size)]


def score_cohort(cases: Sequence[CohortCase], model: Model, settings: InferenceSettings) -> pd.DataFrame:
    """One row per case: ``case_id, status, agatston_total, agatston_LM ...``; a case that failed has no scores."""
    rows = []
    for number, case in enumerate(cases):
        row: dict[str, Any] = {"case_id": str(number), "status": "ok"}
        try:
            result = score_scan(case.scan, model, settings)
            row["agatston_total"] = result.score.total.agatston
            row |= {f"agatston_{name}": result.score.vessels[name].agatston for name in VESSEL_NAMES}
        except CacsError as error:
            row |= {"status": error.code, "agatston_total": None} | {f"agatston_{name}": None for name in VESSEL_NAMES}
        rows.append(row)
    return pd.DataFrame(rows)


def metrics(reference: pd.DataFrame, scores: pd.DataFrame) -> dict[str, float]:
    """Flat metrics for the logger: ICC(A,1) in total and per vessel, quadratic kappa, reclassification, failures."""
    out: dict[str, float] = {"failed": float(scores["agatston_total"].isna().sum())}
    for row in summary_table(reference, scores):
        out[f"icc_{row['vessel']}"] = float(row["icc_a1"])
        if row["vessel"] == "total":
            out["kappa"] = float(row["kappa_quadratic"])
            out["reclassified"] = float(row["reclassification_rate"])
    zero = scores["agatston_total"][(reference["agatston_total"] == 0).to_numpy()].dropna()
    out["false_agatston_on_zero"] = float(zero.astype(float).mean()) if len(zero) else float("nan")
    return out


class ScoreValidation(pl.Callback):
    """Every ``every_steps`` steps and at the end, score the validation scans with the current weights.

    ``score`` (for choosing the best checkpoint) is the mean of the total ICC(A,1) and the kappa; a failed scan counts as
    one that scored nothing for that mean, so a network that finds no heart can't look good.
    """

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

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        step = trainer.global_step
        if self.size and self.every_steps and step % self.every_steps == 0:
            self.run(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.size:
            self.run(trainer, pl_module)

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
        values = metrics(reference, scores)
        filled = scores.fillna({c: 0.0 for c in scores.columns if c.startswith("agatston")})
        strict = metrics(reference, filled)
        values["score"] = float(np.nan_to_num(strict.get("icc_total", 0.0)) + np.nan_to_num(strict.get("kappa", 0.0))) / 2
        values["step"] = float(trainer.global_step)
        self.history.append(values)
        for logger in trainer.loggers:
            logger.log_metrics({f"scans/{k}": v for k, v in values.items()}, step=trainer.global_step)
        trainer.callback_metrics["scans/score"] = torch.tensor(values["score"])
        return values
