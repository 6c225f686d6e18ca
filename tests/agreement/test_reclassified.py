from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cacsnet.agreement.label_maps import CaseLabels
from cacsnet.agreement.reclassified import contributions, explain
from cacsnet.agreement.study import Study, agreement_study
from cacsnet.io.write import write_nifti
from cacsnet.labels import VESSEL_INDEX
from cacsnet.scan import Geometry
from cacsnet.scoring import LESION_COLUMNS

NAMES = {6: "aortic_valve"}
SHAPE, SPACING = (4, 12, 12), (3.0, 1.0, 1.0)  # a voxel of 3 mm³
LM, LAD, LCX, RCA = (VESSEL_INDEX[name] for name in ("LM", "LAD", "LCX", "RCA"))


def row(reference: float, model: float, **more: object) -> dict[str, object]:
    known = {"case_id": "a", "patient_id": None, "scan": None, "reference_category": "x", "model_category": "y"}
    return known | {"reference_total": reference, "model_total": model} | more


def empty(n: int) -> list[np.ndarray]:
    return [np.zeros(SHAPE, np.uint8) for _ in range(n)]


def test_missed_lesions_by_vessel_largest_first() -> None:
    reference, model = empty(2)
    reference[1, 2, 2:8], reference[1, 8, 2:4] = LCX, RCA  # 6 and 2 voxels
    reference[2, 5, 5:8], model[2, 5, 5:7] = LAD, LAD  # one of 3 voxels missed
    labels = CaseLabels(reference, model, None, SPACING)
    found = contributions(labels, {}, over=False)
    assert found == {"missed lesion in LCX": 18, "missed lesion in RCA": 6, "part of a lesion missed in LAD": 3}
    assert contributions(labels, {}, over=True) == {}
    case = explain(row(174, 90), labels, {}, None)
    assert (case.reason, case.evidence, case.direction) == ("missed lesion in LCX", "labels", "under")


def test_extra_calcium_by_its_origin() -> None:
    reference, model, origins = empty(3)
    model[1, 2, 2:8], origins[1, 2, 3:8] = RCA, 6  # valve, with a blurred rim of one voxel
    model[2, 10, 1:3] = LAD  # nothing there
    reference[2, 6, 6], model[2, 6, 6:8], origins[2, 6, 6] = LCX, LCX, LCX
    labels = CaseLabels(reference, model, origins, SPACING)
    found = contributions(labels, NAMES, over=True)
    assert found == {
        "aortic valve counted as RCA": 18,
        "image noise counted as LAD": 6,
        "lesion in LCX outlined larger": 3,
    }
    case = explain(row(315, 551), labels, NAMES, None)
    assert (case.reason, case.direction) == ("aortic valve counted as RCA", "over")
    assert next(iter(contributions(labels, {}, over=True))) == "origin 6 counted as RCA"


def test_image_noise_of_the_paper() -> None:
    """Reference 0, model 3: noise falsely rated as calcium."""
    reference, model, origins = empty(3)
    model[1, 2, 2:4] = LAD
    origins[3, 9, 9] = 6  # calcium elsewhere explains nothing
    case = explain(row(0, 3), CaseLabels(reference, model, origins, SPACING), NAMES, None)
    assert case.reason == "image noise counted as LAD"


def test_a_wrong_vessel_does_not_change_the_total() -> None:
    reference, model = empty(2)
    reference[1, 2, 2:8], model[1, 2, 2:8] = LM, LAD
    labels = CaseLabels(reference, model, None, SPACING)
    assert contributions(labels, {}, over=True) == contributions(labels, {}, over=False) == {}


def test_islands_too_small_to_score_explain_nothing() -> None:
    reference, model = empty(2)
    reference[1, 2, 2:5], reference[2, 8, 2:6] = LCX, RCA
    labels = CaseLabels(reference, model, None, (3.0, 0.5, 0.5))
    assert contributions(labels, {}, over=False) == {"missed lesion in RCA": pytest.approx(3.0)}


@pytest.mark.parametrize(
    ("scores", "valve", "reason"),
    [
        ((315, 551), (240, 0), "aortic valve calcium counted as coronary"),
        ((551, 315), (0, 240), "coronary calcium rejected as aortic valve"),
        ((315, 551), (100, 0), "undetermined"),  # less than half of the deviation
        ((315, 551), (0, 240), "undetermined"),  # the wrong way round
    ],
)
def test_extracoronary_scores_where_labels_are_unknown(scores, valve, reason) -> None:
    case = explain(row(*scores, reference_aortic_valve=valve[0], model_aortic_valve=valve[1]), None, {}, None)
    assert case.reason == reason
    assert case.evidence == ("none" if reason == "undetermined" else "extra-coronary scores")


def test_extracoronary_scores_name_calcium_of_unknown_origin() -> None:
    reference, model = empty(2)
    model[1, 2, 2:8] = RCA
    labels = CaseLabels(reference, model, None, SPACING)
    assert (
        explain(row(315, 551), labels, {}, None).reason == "calcium that the reference lacks, of unknown origin, counted as RCA"
    )
    named = explain(row(315, 551, reference_aorta=230.0, model_aorta=1.0), labels, {}, None)
    assert named.reason == "aorta calcium counted as coronary"


def test_undetermined_names_the_largest_candidates(tmp_path: Path) -> None:
    rows = [
        {"kept": True, "vessel_or_reason": "LAD", "agatston": 20, "volume_mm3": 9, "slices": "4-5"},
        {"kept": True, "vessel_or_reason": "RCA", "agatston": 80, "volume_mm3": 30, "slices": "7-9"},
        {"kept": False, "vessel_or_reason": "bone", "agatston": 9000, "volume_mm3": 99, "slices": "0-40"},
        {"kept": False, "vessel_or_reason": "aorta", "agatston": 60, "volume_mm3": 20, "slices": "2-3"},
        {"kept": False, "vessel_or_reason": "below_min_area", "agatston": None},
    ]
    pd.DataFrame(rows, columns=list(LESION_COLUMNS)).to_csv(tmp_path / "lesions.csv", index=False)
    case = explain(row(90, 120, reference_LAD=10.0, model_LAD=20.0), None, {}, tmp_path)
    assert case.reason == "undetermined"
    assert case.kept is not None
    assert (case.kept.what, case.kept.agatston, case.kept.slices) == ("RCA", 80, "7-9")
    assert case.rejected is not None
    assert case.rejected.what == "aorta"  # the spine is in every chest
    assert case.vessels == {"LAD": -10.0}
    assert explain(row(90, 120), None, {}, tmp_path / "none").kept is None


def labelled_study(tmp_path: Path, flip: bool = False, **changes: object) -> Study:
    """One case, scored 174 by the reference and 90 by the model, which misses a lesion in LCX."""
    reference, model = empty(2)
    reference[1, 2, 2:8], reference[2, 8, 2:6], model[2, 8, 2:6] = LCX, LAD, LAD
    geometry = Geometry.axial(SHAPE, SPACING)
    results = tmp_path / "results"
    for path, labels in ((tmp_path / "truth" / "a.nii.gz", reference), (results / "a" / "labels.nii.gz", model)):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_nifti(path, labels, geometry)
    table = pd.DataFrame({"case_id": ["a"], "agatston_total": [174.0], "labels": ["truth/a.nii.gz"]}).assign(**changes)
    scores = pd.DataFrame({"case_id": ["a"], "agatston_total": [90.0]})
    return agreement_study(table, scores, results=results, reference_folder=tmp_path, resamples=20)


def test_a_study_reads_labels_beside_its_tables(tmp_path: Path) -> None:
    study = labelled_study(tmp_path)
    case = study.categories.cases[0]
    assert (case.reason, case.evidence) == ("missed lesion in LCX", "labels")
    assert study.n_label_cases == 1
    assert study.lesions is not None
    assert study.lesions[0].sensitivity == pytest.approx(4 / 10)
    assert study.lesions[0].ppv == 1


def test_origins_are_named_by_the_file_beside_the_reference(tmp_path: Path) -> None:
    origins = np.zeros(SHAPE, np.uint8)
    origins[2, 8, 2:6] = 31
    write_nifti(tmp_path / "origins.nii.gz", origins, Geometry.axial(SHAPE, SPACING))
    (tmp_path / "origins.json").write_text(json.dumps({"31": "aortic_valve"}))
    write_nifti(tmp_path / "none.nii.gz", np.zeros(SHAPE, np.uint8), Geometry.axial(SHAPE, SPACING))
    study = labelled_study(tmp_path, labels="none.nii.gz", origins="origins.nii.gz", agatston_total=0.0)
    assert study.categories.cases[0].reason == "aortic valve counted as LAD"


@pytest.mark.parametrize(
    ("name", "content"),
    [("truth/b.nii.gz", None), ("cut.nii.gz", b"no volume"), ("labels.txt", b"1")],
)
def test_labels_that_cannot_be_read_are_a_note(tmp_path: Path, name: str, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    study = labelled_study(tmp_path, labels=name)
    assert study.categories.cases[0].reason == "undetermined"
    assert study.lesions is None
    assert any("no labels of case a" in note for note in study.notes)


def test_labels_on_another_grid_or_of_other_classes_are_a_note(tmp_path: Path) -> None:
    write_nifti(tmp_path / "other.nii.gz", np.zeros((4, 12, 11), np.uint8), Geometry.axial((4, 12, 11), SPACING))
    write_nifti(tmp_path / "nine.nii.gz", np.full(SHAPE, 9, np.uint8), Geometry.axial(SHAPE, SPACING))
    (tmp_path / "origins.json").write_text("[]")
    for name in ("other.nii.gz", "nine.nii.gz"):
        study = labelled_study(tmp_path, labels=name)
        assert study.lesions is None
        assert any("no labels of case a" in note for note in study.notes)
        assert any("origins.json" in note for note in study.notes)
