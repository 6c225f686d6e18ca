"""A cohort on disk: read back as it was made, resumed, never mixed with another."""

import json
from dataclasses import replace
from functools import cache

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from cacsnet.agreement.pairs import match
from cacsnet.errors import ConfigError
from cacsnet.inference.results import SCORE_COLUMNS
from cacsnet.io.cases import OVERRIDE_TYPES, apply_overrides, find_cases
from cacsnet.io.read import read_scan
from cacsnet.labels import VESSEL_NAMES
from cacsnet.phantom import __main__ as command
from cacsnet.phantom import files
from cacsnet.phantom.cohort import make_cases
from cacsnet.phantom.deposits import OWNER_NAMES
from cacsnet.phantom.files import write_cohort
from cacsnet.phantom.plan import plan_cohort
from cacsnet.scoring import score


@cache
def made(seed):
    planned = {p.recipe.seed: p for p in PLAN}[seed]
    return make_cases(planned.recipe, planned.visits)


PLAN = [
    replace(p, recipe=replace(p.recipe, own_scanner=False, increment_mm=6.0))
    for p in plan_cohort("sartoretti2022", 2, matrix=48)
]


@pytest.fixture
def once(monkeypatch):
    """Each patient is made once for all tests; counts how often one is asked for."""
    calls = []

    def remembered(recipe, visits):
        calls.append(recipe.seed)
        return made(recipe.seed)

    monkeypatch.setattr(files, "make_cases", remembered)
    return calls


@pytest.mark.parametrize("file_format", ["dicom", "nifti"])
def test_a_cohort_is_read_back_as_it_was_made(tmp_path, once, file_format):
    """By the reader of infer.py: the same HU, geometry and facts; the reference is the score of the label map."""
    done = list(write_cohort(PLAN, tmp_path, file_format))
    assert done == [p.patient_id for p in PLAN]
    cases = find_cases(tmp_path / "manifest.csv")
    reference = pd.read_csv(tmp_path / "reference.csv").set_index("case_id")
    assert [c.case_id for c in cases] == [f"{p.patient_id}-{v.number}" for p in PLAN for v in p.visits] == list(reference.index)
    truths = [case for p in PLAN for case in made(p.recipe.seed)]
    for case, truth in zip(cases, truths, strict=True):
        scan = apply_overrides(read_scan(case.path), case)
        assert np.array_equal(scan.hu, truth.truth.hu)
        assert scan.spacing_mm == pytest.approx(truth.truth.protocol.spacing_mm, rel=1e-5)
        assert np.allclose(scan.geometry.affine_lps, truth.scan.geometry.affine_lps, atol=1e-3)
        facts = scan.acquisition
        assert (facts.kvp, facts.gated, facts.manufacturer) == (120, True, truth.scan.acquisition.manufacturer)
        assert facts.heart_rate_bpm == pytest.approx(truth.visit.heart_rate_bpm, abs=0.51)
        assert facts.bmi_kg_m2 == truth.scan.acquisition.bmi_kg_m2
        labels = labels_of(tmp_path / "truth" / f"{case.case_id}_vessels.nii.gz")
        again = score(scan.hu, labels, scan.spacing_mm, facts.kvp)
        assert again.total.agatston == pytest.approx(reference.loc[case.case_id, "agatston_total"], rel=1e-4)
        owners = labels_of(tmp_path / "truth" / f"{case.case_id}_owners.nii.gz")
        assert np.array_equal(owners, truth.truth.owner)
    assert reference["agatston_total"].max() > 0


def labels_of(path):
    """[z, y, x] of a label map."""
    return np.ascontiguousarray(np.asarray(nib.load(path).dataobj).transpose(2, 1, 0))


def test_tables_have_the_contracts_columns(tmp_path, once):
    list(write_cohort(PLAN[:1], tmp_path, "nifti"))
    manifest, reference = pd.read_csv(tmp_path / "manifest.csv"), pd.read_csv(tmp_path / "reference.csv")
    first = ["case_id", "path", "patient_id", "scan"]
    assert list(manifest.columns)[:4] == first
    assert set(manifest.columns) - set(first) <= set(OVERRIDE_TYPES)
    assert {"heart_rate_bpm", "bmi_kg_m2", "kvp"} <= set(manifest.columns)
    known = [c for c in SCORE_COLUMNS if c not in ("status", "flags", "seconds")]
    assert list(reference.columns) == [*known, "heart_rate_bpm", "bmi_kg_m2", "labels", "origins", "source"]
    assert all((tmp_path / path).is_file() for path in (*reference["labels"], *reference["origins"]))
    names = json.loads((tmp_path / "origins.json").read_text())
    assert {int(code): name for code, name in names.items()} == OWNER_NAMES
    assert (reference["patient_id"] == PLAN[0].patient_id).all()
    assert list(reference["scan"]) == [1, 2]
    parts = reference[[f"agatston_{n}" for n in VESSEL_NAMES]].sum(axis=1)
    assert parts.to_numpy() == pytest.approx(reference["agatston_total"].to_numpy(), rel=1e-5)


def test_the_anatomical_truth_belongs_to_the_patient(tmp_path, once):
    list(write_cohort(PLAN[:1], tmp_path, "nifti"))
    [path] = (tmp_path / "truth").glob("*.json")
    facts = json.loads(path.read_text())
    truth, case = facts["truth"], made(PLAN[0].recipe.seed)[0]
    assert len(truth["bodies"]) == len(case.deposits)
    assert truth["mass_mg"]["total"] == pytest.approx(sum(truth["mass_mg"][n] for n in VESSEL_NAMES))
    by_owner = {n: sum(b["mass_mg"] for b in truth["bodies"] if b["owner"] == n) for n in VESSEL_NAMES}
    assert by_owner == pytest.approx({n: truth["mass_mg"][n] for n in VESSEL_NAMES})
    assert len(facts["scans"]) == 2


def test_what_is_finished_is_not_made_again(tmp_path, once):
    list(write_cohort(PLAN, tmp_path, "nifti"))
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.nii.gz")}
    tables = {name: (tmp_path / name).read_text() for name in ("manifest.csv", "reference.csv")}
    assert list(write_cohort(PLAN, tmp_path, "nifti")) == [p.patient_id for p in PLAN]
    assert once == [p.recipe.seed for p in PLAN]
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.nii.gz")} == before
    assert {name: (tmp_path / name).read_text() for name in tables} == tables


@pytest.mark.parametrize("file_format", ["dicom", "nifti"])
def test_an_interrupted_cohort_goes_on(tmp_path, once, monkeypatch, file_format):
    """The disk fills up at the second patient's second scan: the first patient is in the tables, the second in none."""
    writer = "write_dicom_series" if file_format == "dicom" else "write_nifti"
    real = getattr(files, writer)

    def full(*args, **keys):
        path = args[1] if file_format == "dicom" else args[0]
        if f"{PLAN[1].patient_id}-2" in str(path):
            raise OSError("no space left")
        return real(*args, **keys)

    monkeypatch.setattr(files, writer, full)
    with pytest.raises(OSError, match="no space"):
        list(write_cohort(PLAN, tmp_path, file_format))
    assert list(pd.read_csv(tmp_path / "manifest.csv")["patient_id"]) == [PLAN[0].patient_id] * 2
    monkeypatch.setattr(files, writer, real)
    assert list(write_cohort(PLAN, tmp_path, file_format)) == [p.patient_id for p in PLAN]
    assert once == [PLAN[0].recipe.seed, PLAN[1].recipe.seed, PLAN[1].recipe.seed]
    assert len(pd.read_csv(tmp_path / "reference.csv")) == 4
    assert not [p for p in tmp_path.rglob("*") if "tmp" in p.name]


@pytest.mark.parametrize("change", ["recipe", "format", "phantom", "fewer", "visits"])
def test_a_folder_never_mixes_two_plans(tmp_path, once, monkeypatch, change):
    list(write_cohort(PLAN, tmp_path, "nifti"))
    tables = (tmp_path / "reference.csv").read_text()
    plan, file_format = PLAN, "nifti"
    if change == "recipe":
        plan = [PLAN[0], replace(PLAN[1], recipe=replace(PLAN[1].recipe, kvp=100))]
    elif change == "visits":
        plan = [PLAN[0], replace(PLAN[1], visits=PLAN[1].visits[:1])]
    elif change == "fewer":
        plan = PLAN[:1]
    elif change == "format":
        file_format = "dicom"
    else:
        monkeypatch.setattr(files, "FORMAT", "later")
    with pytest.raises(ConfigError, match="choose another folder"):
        list(write_cohort(plan, tmp_path, file_format))
    assert (tmp_path / "reference.csv").read_text() == tables
    assert len(once) == 2


def test_a_folder_with_something_else_is_left_alone(tmp_path, once):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="something else"):
        list(write_cohort(PLAN, tmp_path))
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(ConfigError, match=r"dicom, nifti.*'png'"):
        list(write_cohort(PLAN, tmp_path / "new", "png"))
    assert not (tmp_path / "new").exists()


def test_the_command_writes_a_cohort_and_names_mistakes(tmp_path, once, monkeypatch, capsys):
    asked = []

    def planned(*arguments):
        asked.append(arguments)
        return PLAN

    monkeypatch.setattr(command, "plan_cohort", planned)
    keys = ["cohort=sartoretti2022", "patients=2", "format=nifti", "matrix=48", f"output={tmp_path / 'out'}"]
    assert command.main(keys) == 0
    assert asked == [("sartoretti2022", 2, "ellipsoid", 48)]
    log = capsys.readouterr().out.splitlines()  # no terminal: lines instead of a bar
    assert [line for line in log if " of 2: " in line] == [f"{i + 1} of 2: {p.patient_id}" for i, p in enumerate(PLAN)]
    assert command.main(keys) == 0
    log = capsys.readouterr().out
    assert " of 2: " not in log
    assert "2 patients in" in log
    assert "2 of them made earlier" in log
    assert len(once) == 2
    assert len(pd.read_csv(tmp_path / "out" / "manifest.csv")) == 4
    for bad, word in (
        (["format=png"], "png"),
        (["patients=0"], "patients"),
        (["colour=3"], "colour"),
        (["heart_model=x"], "polar"),
    ):
        assert command.main([*keys, *bad]) == 2
        assert word in capsys.readouterr().err


@pytest.mark.slow
def test_several_workers_make_the_same(tmp_path, once):
    list(write_cohort(PLAN, tmp_path / "one", "nifti"))
    assert list(write_cohort(PLAN, tmp_path / "two", "nifti", workers=2)) == [p.patient_id for p in PLAN]
    for name in ("manifest.csv", "reference.csv"):
        assert (tmp_path / "two" / name).read_text() == (tmp_path / "one" / name).read_text()
    assert list((tmp_path / "two").rglob("*.nii.gz"))
    for path in (tmp_path / "two").rglob("*.nii.gz"):
        other = tmp_path / "one" / path.relative_to(tmp_path / "two")
        assert np.array_equal(np.asarray(nib.load(path).dataobj), np.asarray(nib.load(other).dataobj))


def test_the_agreement_study_knows_a_phantoms_reference(tmp_path, once):
    list(write_cohort(PLAN[:1], tmp_path, "nifti"))
    reference = pd.read_csv(tmp_path / "reference.csv")
    assert match(reference, reference.drop(columns="source")).phantom
