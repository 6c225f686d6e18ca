"""Validation: scans scored with the shared library, overlaps on the right grid, the worst scans shown."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cacsnet.errors import NoHeartError
from cacsnet.inference.settings import InferenceSettings
from cacsnet.inference.windows import Grid
from cacsnet.labels import STRUCTURE_INDEX, STRUCTURES
from cacsnet.network.checkpoint import Model, Stage, StageConfig
from cacsnet.phantom.cohort import reference_row, vessel_labels
from cacsnet.training import judging, validation
from cacsnet.training.logs import log_picture
from cacsnet.training.metrics import score_metrics
from cacsnet.training.module import StageModule
from cacsnet.training.validation import (
    ScoreValidation,
    reference_calcium,
    score_cohort,
    true_structures,
    validation_cohort,
    worst_cases,
    worst_picture,
)

TINY = {"spacing_mm": 4.0, "patch": 16, "widths": [2, 4]}


@pytest.fixture(scope="module")
def cases():
    return validation_cohort(2, 64)


def untrained():
    torch.manual_seed(0)
    config = StageConfig(4.0, patch=16, widths=(2, 4))
    return Model(Stage(config, config.build().eval()), None, {}, "")


def references(cases):
    return pd.DataFrame([reference_row(str(n), case) for n, case in enumerate(cases)])


def perfect(case, structures_of=true_structures):
    """What a perfect network would make of a case."""
    grid = Grid.covering(case.scan.hu.shape, case.scan.spacing_mm, 3.0)
    heart = SimpleNamespace(grid=grid, structures=structures_of(case, grid))
    return SimpleNamespace(score=case.reference, vessel_map=reference_calcium(case), heart=heart)


def test_scans_that_fail_are_recorded(cases):
    assert cases[0].reference.total.agatston == 0  # the totals start with none
    scored = score_cohort(cases, untrained(), InferenceSettings())
    scores, reference = scored.table, references(cases)
    assert list(scores["case_id"]) == ["0", "1"]
    assert "ok" not in set(scores["status"])  # the network is untrained
    assert score_metrics(reference, scores)["failed"] == 1
    assert scores["lesions_true"][0] == 0
    assert scores["lesions_true"][1] > 0
    assert (scores["lesions_kept"] == 0).all()  # what a failed scan misses still counts
    assert [kept.shape for kept in scored.maps] == [case.scan.hu.shape for case in cases]
    assert not any(kept.any() for kept in scored.maps)
    values = score_metrics(reference, reference.assign(status="ok"))
    assert values["failed"] == values["false_zero_median"] == 0


def test_a_perfect_network_is_measured_as_one(cases, monkeypatch):
    found = iter([perfect(case) for case in cases])
    monkeypatch.setattr(judging, "score_scan", lambda *_: next(found))
    scored = score_cohort(cases, untrained(), InferenceSettings())
    values = score_metrics(references(cases), scored.table)
    assert values["lesion_sensitivity"] == values["lesion_ppv"] == 1
    assert {values[f"dice_{label.name}"] for label in STRUCTURES[1:]} == {1.0}
    assert worst_cases(references(cases), scored.table, 2) == []


def test_structures_lie_where_the_patient_has_them(cases):
    """The left ventricle of the label map is that of the phantom's own distances, on the scan's grid."""
    case = cases[1]
    grid = Grid.covering(case.scan.hu.shape, case.scan.spacing_mm, 3.0)
    labels = true_structures(case, grid)
    assert labels.shape == tuple(grid.shape)
    index = np.argwhere(np.ones(labels.shape, bool))
    place = torch.from_numpy((np.array(case.origin_mm) + grid.first_mm + index * grid.step_mm).T).float()
    heart = case.patient.to_heart(case.patient.to_thorax(place))
    inside = ((case.patient.heart.lv_inner_sdf(heart) < -1) & (case.patient.heart.root_sdf(heart) > 1)).numpy()
    assert inside.sum() > 500
    found = labels[tuple(index[inside].T)]
    assert (found == STRUCTURE_INDEX["left_ventricle"]).mean() > 0.995  # one voxel aside it is 0.95 to 0.97


def test_the_worst_are_those_that_failed_then_the_largest_errors():
    reference = pd.DataFrame({"agatston_total": [0.0, 10.0, 500.0, 5.0]})
    scores = pd.DataFrame({"agatston_total": [0.0, 60.0, 480.0, None]})
    assert worst_cases(reference, scores, 2) == [3, 1]
    assert worst_cases(reference, scores, 9) == [3, 1, 2]  # the first one has no error


def test_the_picture_shows_reference_and_model(cases):
    case = cases[1]
    kept = np.zeros(case.scan.hu.shape, np.uint8)
    row = {"case_id": "1", "status": "ok", "agatston_total": 0.0}
    missed = worst_picture(case, row, kept)
    assert missed.dtype == np.uint8
    assert missed.shape[2] == 3
    found = worst_picture(case, row, vessel_labels(case.truth))
    assert found.shape != missed.shape or (found != missed).any()
    failed = worst_picture(case, row | {"status": "no_heart", "agatston_total": None}, kept)
    assert failed.shape == missed.shape


def test_pictures_go_to_the_loggers_that_show_any(tmp_path, monkeypatch):
    board, table = TensorBoardLogger(str(tmp_path), name="board", version=""), CSVLogger(str(tmp_path), name="csv")
    shown = []
    wandb = WandbLogger(save_dir=str(tmp_path), project="test", offline=True, id="a")
    monkeypatch.setattr(wandb, "log_image", lambda name, images, step: shown.append((name, len(images), step)))
    log_picture([board, table, wandb], "scans/worst_1", np.full((8, 12, 3), 200, np.uint8), 7)
    board.experiment.flush()
    events = EventAccumulator(str(tmp_path / "board"))
    events.Reload()
    image = events.Images("scans/worst_1")[0]
    assert (image.step, image.height, image.width) == (7, 8, 12)
    assert shown == [("scans/worst_1", 1, 7)]


def test_a_validation_shows_its_worst_scans(cases, monkeypatch):
    """The second scan is missed: one picture; none of the first, which is right."""

    def missing(scan, *_):
        if scan is cases[1].scan:
            raise NoHeartError("no heart")
        return perfect(cases[0])

    shown = []
    monkeypatch.setattr(judging, "score_scan", missing)
    monkeypatch.setattr(validation, "log_picture", lambda loggers, name, image, step: shown.append((name, step)))
    module = StageModule({**TINY, "in_channels": 1})
    callback = ScoreValidation(2, 64, 1, pictures=2)
    callback.cases = cases
    values = callback.run(SimpleNamespace(global_step=5, loggers=[]), module)
    assert shown == [("scans/worst_1", 5)]
    assert values["failed"] == 0.5
    assert values["dice_left_ventricle"] == 1
    shown.clear()
    callback.pictures = 0
    callback.run(SimpleNamespace(global_step=6, loggers=[]), module)
    assert shown == []
