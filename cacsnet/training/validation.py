"""Validation by scoring whole phantom scans with the shared library: the number that counts is the score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

from cacsnet.agreement.figure_style import study_style
from cacsnet.agreement.overlays import Maps, overlay_figure
from cacsnet.errors import ConfigError
from cacsnet.inference.settings import InferenceSettings
from cacsnet.inference.windows import Grid
from cacsnet.network.checkpoint import Model, Stage
from cacsnet.phantom.anatomy import HEART_MODELS
from cacsnet.phantom.cohort import CohortCase, Recipe, make_case, reference_row, vessel_labels
from cacsnet.phantom.population import load_population, spread_total
from cacsnet.phantom.render import render
from cacsnet.scoring import load_profile
from cacsnet.training.judging import scored_row
from cacsnet.training.logs import log_picture
from cacsnet.training.metrics import agreement, lesion_counts, score_metrics, structure_dice
from cacsnet.training.module import StageModule

VALIDATION_SEED = 10_000_000


def validation_recipe(number: int, matrix: int, heart_model: str = "ellipsoid") -> Recipe:
    """A scan of the validation split; totals from none (the first) to heavy."""
    total = spread_total(load_population("balanced"), number)
    return Recipe(VALIDATION_SEED + number, total, population="balanced", matrix=matrix, heart_model=heart_model)


def validation_cohort(size: int, matrix: int, heart_model: str = "ellipsoid") -> list[CohortCase]:
    """Phantom scans with totals from none to heavy, from seeds of the validation split."""
    return [make_case(validation_recipe(number, matrix, heart_model)) for number in range(size)]


def reference_calcium(case: CohortCase) -> np.ndarray:
    """uint8 [z, y, x]: the vessel of each voxel that the reference score counts, 0 elsewhere."""
    threshold = load_profile("smartscore").threshold_hu(case.truth.protocol.kvp)
    return np.where(case.truth.hu >= threshold, vessel_labels(case.truth), 0).astype(np.uint8)


def true_structures(case: CohortCase, grid: Grid) -> np.ndarray:
    """uint8 [z, y, x]: structures of the phantom at the voxels of a grid on its scan."""
    origin = np.array(case.origin_mm) + grid.first_mm
    return np.asarray(render(case.patient, case.arteries, origin.tolist(), grid.step_mm, grid.shape).structures.numpy())


@dataclass(frozen=True)
class ScoredCohort:
    """What a model makes of some cases.

    Attributes:
        table: one row a case: ``case_id, status, agatston_total, agatston_LM ...``, the counts of :func:`lesion_counts` and the
            overlaps of :func:`structure_dice`; a case that failed has no scores, no lesions kept and no overlaps.
        maps: the scored calcium of each case, uint8 [z, y, x].
    """

    table: pd.DataFrame
    maps: list[np.ndarray]


def score_cohort(cases: Sequence[CohortCase], model: Model, settings: InferenceSettings) -> ScoredCohort:
    """Score every case with the shared library."""
    rows, maps = [], []
    for number, case in enumerate(cases):
        row, result = scored_row(case.scan, model, settings)
        kept = np.zeros(case.scan.hu.shape, np.uint8)
        if result is not None:
            kept = result.vessel_map
            row |= structure_dice(true_structures(case, result.heart.grid), result.heart.structures)
        rows.append({"case_id": str(number), **row} | lesion_counts(reference_calcium(case), kept))
        maps.append(kept)
    return ScoredCohort(pd.DataFrame(rows), maps)


def worst_cases(reference: pd.DataFrame, scores: pd.DataFrame, count: int) -> list[int]:
    """Numbers of the cases to look at: those that failed, then by the error of the total score; none without an error."""
    error = (pd.to_numeric(scores["agatston_total"]) - reference["agatston_total"]).abs().fillna(np.inf).to_numpy(float)
    order = np.argsort(-error, kind="stable")
    return [int(k) for k in order[:count] if error[k] > 0]


def worst_picture(case: CohortCase, row: Mapping[str, Any], kept: np.ndarray) -> np.ndarray:
    """uint8 [rows, columns, 3]: slices of a case, the reference's calcium and the model's."""
    total = "failed: " + str(row["status"]) if row["status"] != "ok" else f"{row['agatston_total']:.0f}"
    head = f"scan {row['case_id']}: reference {case.reference.total.agatston:.0f}, model {total}"
    with study_style():
        figure = overlay_figure(Maps(case.scan.hu, kept, reference_calcium(case), case.scan.spacing_mm), head)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()


class ScoreValidation(pl.Callback):
    """Scores the validation scans with the current weights and shows the worst ``pictures`` of them; when, is
    :class:`cacsnet.training.callbacks.Validate`'s."""

    def __init__(
        self,
        size: int,
        matrix: int,
        every_steps: int,
        heart_model: str = "ellipsoid",
        pictures: int = 2,
        settings: InferenceSettings | None = None,
    ) -> None:
        if heart_model not in HEART_MODELS:
            raise ConfigError(f"choose from {', '.join(HEART_MODELS)}", field="validation.heart_model", value=heart_model)
        self.size, self.matrix, self.every_steps, self.heart_model = size, matrix, every_steps, heart_model
        self.pictures = pictures
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
            scored = score_cohort(self.cases, model, self.settings)
        pl_module.network.train(was_training)
        for place, number in enumerate(worst_cases(reference, scored.table, self.pictures), start=1):
            image = worst_picture(self.cases[number], scored.table.iloc[number], scored.maps[number])
            log_picture(trainer.loggers, f"scans/worst_{place}", image, trainer.global_step)
        values = score_metrics(reference, scored.table)
        values["agreement"] = agreement(values)
        values["step"] = float(trainer.global_step)
        self.history.append(values)
        for logger in trainer.loggers:
            logger.log_metrics({f"scans/{k}": v for k, v in values.items()}, step=trainer.global_step)
        return values
