"""A cohort: tables, folders, failures, resume, exit codes. The network is a fake, the files are real."""

import csv
import io
import json
import subprocess
import sys
import types
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from rich.console import Console
from simple_thorax import PLAQUE_HU, SPACING, with_acquisition

from cacsnet.inference import results, run
from cacsnet.io import write_dicom_series
from cacsnet.io.write import write_nifti
from cacsnet.scan import Geometry
from cacsnet.scoring.__main__ import main as scoring_main

ROOT = Path(__file__).resolve().parents[2]
ALL = ("scores.json", "lesions.csv", "labels.nii.gz", "overlay.png")


@pytest.fixture
def cohort(tmp_path, thorax_hu):
    """Manifest of two scans that can be scored, one text file and one volume without a heart."""
    geometry = Geometry.axial(thorax_hu.shape, SPACING)
    write_nifti(tmp_path / "good.nii.gz", thorax_hu, geometry)
    no_heart = np.where((thorax_hu > -59) & (thorax_hu < 100), -60, thorax_hu)
    write_nifti(tmp_path / "empty.nii.gz", no_heart.astype(np.int16), geometry)
    (tmp_path / "bad.nii.gz").write_text("not an image")
    rows = [
        "case_id,path,patient_id,kvp,gated",
        "a,good.nii.gz,p1,120,true",
        "b,bad.nii.gz,p2,,",
        "c,empty.nii.gz,p3,,",
    ]
    (tmp_path / "manifest.csv").write_text("\n".join([*rows, "d,good.nii.gz,p1,,"]) + "\n")
    return tmp_path / "manifest.csv"


@pytest.fixture
def fake_model(monkeypatch, model):
    monkeypatch.setattr(run, "load_model", lambda path, device: model)
    return model


def start(cohort, **changes):
    console = Console(record=True, width=200, file=io.StringIO())
    config = {"input": str(cohort), "output": str(cohort.parent / "out"), "device": "cpu", **changes}
    code = run.main(config, ROOT, console)
    return code, console.export_text()


def table(path):
    with path.open(newline="") as file:
        return {row["case_id"]: row for row in csv.DictReader(file)}


def test_bad_cases_among_good_ones(cohort, fake_model):
    (cohort.parent / "reference.csv").write_text("case_id,agatston_total\na,40\nb,0\nd,35.5\n")
    code, text = start(cohort, reference=str(cohort.parent / "reference.csv"), save_structures=True)
    out = cohort.parent / "out"
    assert code == 3

    scores = table(out / "scores.csv")
    assert tuple(scores["a"]) == results.SCORE_COLUMNS
    assert list(scores) == ["a", "b", "c", "d"]
    assert (scores["a"]["status"], scores["a"]["flags"]) == ("flagged", "") or scores["a"]["status"] == "ok"
    assert float(scores["a"]["agatston_total"]) == pytest.approx(40)
    assert float(scores["a"]["agatston_LAD"]) == pytest.approx(40)
    assert scores["a"]["risk_category"] == "1-100"
    assert scores["d"]["flags"] == "kvp_assumed;gating_unknown"
    for case_id, reason in (("b", "not_an_image"), ("c", "no_heart;gating_unknown")):
        # the reason first, then what the header of a scan that could be read says
        assert (scores[case_id]["status"], scores[case_id]["flags"]) == ("failed", reason)
        measured = [c for c in results.SCORE_COLUMNS if c.startswith(("agatston", "volume", "mass", "lesions", "risk"))]
        assert {scores[case_id][column] for column in measured} == {""}
        assert not (out / case_id).exists()
    failures = table(out / "failures.csv")
    assert {k: v["error"] for k, v in failures.items()} == {"b": "not_an_image", "c": "no_heart"}

    for case_id in ("a", "d"):
        assert sorted(p.name for p in (out / case_id).iterdir()) == sorted((*ALL, "structures.nii.gz"))
    document = json.loads((out / "a" / "scores.json").read_text())
    assert document["run"]["weights_sha256"] == "0" * 64
    assert set(document["run"]["versions"]) >= {"cacsnet", "torch", "numpy", "python"}
    assert document["run"]["windows"]["fine_run"] > 0
    assert "fine windows" in document["run"]["seconds"]
    assert document["scores"]["agatston_total"] == pytest.approx(40)
    assert not list(out.glob("*.tmp")) + list(out.glob(".*.partial"))
    assert "ICC" in text
    assert "no_heart" in text
    assert (out / "agreement" / "report.html").is_file()
    study = json.loads((out / "agreement" / "agreement.json").read_text())
    assert study["total"]["n"] == 2
    assert study["left_out"] == [
        {"case_id": "b", "why": "failed: not_an_image"},
        {"case_id": "c", "why": "failed: no_heart;gating_unknown"},
    ]


def test_resume_skips_finished_and_retries_failed(cohort, fake_model):
    out = cohort.parent / "out"
    assert start(cohort)[0] == 3
    before = (out / "a" / "scores.json").stat().st_mtime_ns
    calls = fake_model.coarse.network.calls
    (cohort.parent / "bad.nii.gz").write_bytes((cohort.parent / "good.nii.gz").read_bytes())
    (out / "scores.csv").unlink()  # an interrupted cohort may have lost it
    code, text = start(cohort)
    assert "2 finished" in text
    assert "1 of 2: b\n2 of 2: c\n" in text  # no terminal: lines instead of a bar
    assert code == 3
    assert (out / "a" / "scores.json").stat().st_mtime_ns == before
    assert fake_model.coarse.network.calls < 3 * calls
    scores = table(out / "scores.csv")
    assert list(scores) == ["a", "b", "c", "d"]
    assert float(scores["b"]["agatston_total"]) == pytest.approx(40)
    assert list(table(out / "failures.csv")) == ["c"]


def test_scores_json_has_all_measures_categories_and_rules(cohort, fake_model):
    start(cohort)
    document = json.loads((cohort.parent / "out" / "a" / "scores.json").read_text())
    assert set(document["measures"]) == {"total", "LM", "LAD", "LCX", "RCA"}
    for name, measures in document["measures"].items():
        assert set(measures) == {"agatston", "volume_mm3", "mass_mg", "volume_isotropic_mm3"}
        for kind in ("agatston", "volume_mm3", "mass_mg"):
            assert measures[kind] == pytest.approx(document["scores"][f"{kind}_{name}"], abs=1e-6)
    assert document["measures"]["total"]["volume_isotropic_mm3"] > 0
    levels = {"risk_category": "1-100", "risk_category_5": "11-100", "risk_category_6": "11-100", "cac_drs": "A1/N1"}
    assert document["categories"] == levels
    assert document["rules"]["mass_factor_from"] == "profile default"
    assert (document["rules"]["kvp"], document["rules"]["kvp_of_scan"]) == (120.0, 120.0)
    assert document["slab"] is None


def test_a_mass_factor_of_the_manifest_is_used_and_named(cohort, fake_model):
    cohort.write_text("case_id,path,kvp,mass_factor\na,good.nii.gz,120,0.0009\nb,good.nii.gz,120,0.9\n")
    assert start(cohort)[0] == 3
    rules = json.loads((cohort.parent / "out" / "a" / "scores.json").read_text())["rules"]
    assert (rules["mass_factor"], rules["mass_factor_from"]) == (0.0009, "manifest")
    assert "mass_calibration_default" not in rules["flags"]
    failed = table(cohort.parent / "out" / "failures.csv")["b"]
    assert failed["error"] == "bad_argument"
    assert "divided by 1000" in failed["message"]


def test_no_spectrum_without_thresholds_is_scored(cohort, thorax, fake_model):
    cases = {
        "tin": {"kvp": 100.0, "tin_filter": True},
        "kev": {"virtual_image": "VMI"},
        "kvp110": {"kvp": 110.0},
        "kvp140": {"kvp": 140.0},
        "good": {},
    }
    folder = cohort.parent / "dicom"
    for name, facts in cases.items():
        write_dicom_series(with_acquisition(thorax, **facts), folder / name, name)
    code, text = start(folder, output=str(cohort.parent / "spectra"))
    assert code == 3
    rows = table(cohort.parent / "spectra" / "scores.csv")
    assert rows["good"]["status"] == "ok"
    refused = {name: row["flags"] for name, row in rows.items() if name != "good"}
    expected = {"kev": ["multi_energy", "virtual_image"], "tin": ["tin_filter"], "kvp110": [], "kvp140": []}
    assert refused == {name: ";".join(["kvp_not_scorable", *more]) for name, more in expected.items()}
    assert all(rows[name]["agatston_total"] == "" for name in refused)
    assert "tin" in text


@pytest.fixture
def thin(cohort, thorax_hu):
    """The good scan as slices of 2.5 / 3 mm, with two slices that fill no slab."""
    hu = np.concatenate([thorax_hu.repeat(3, axis=0), np.full((2, *thorax_hu.shape[1:]), -1000, np.int16)])
    geometry = Geometry.axial(hu.shape, (2.5 / 3, 1.0, 1.0), (-10.0, 20.0, 300.0))
    write_nifti(cohort.parent / "thin.nii.gz", hu, geometry)
    cohort.write_text("case_id,path,kvp,gated\na,thin.nii.gz,120,true\n")
    return cohort


def rescore(*arguments):
    console = Console(record=True, width=200, file=io.StringIO())
    return scoring_main([str(a) for a in arguments], console), console.export_text()


@pytest.mark.parametrize("case", ["good", "thin"])
def test_unedited_labels_score_what_scores_csv_says(cohort, fake_model, case, request):
    options = [] if case == "good" else ["slab_mm=2.5"]
    if case == "thin":
        request.getfixturevalue("thin")
    start(cohort, slab_mm=2.5 if options else None)
    out = cohort.parent / "out"
    row = table(out / "scores.csv")["a"]
    assert float(row["agatston_total"]) > 0
    labels = out / "a" / "labels.nii.gz"
    code, text = rescore(cohort.parent / f"{case}.nii.gz", labels, "kvp=120", f"output={out / 'again'}", *options)
    assert code == 0, text
    measures = json.loads((out / "again" / "scores.json").read_text())["measures"]
    for name in ("total", "LM", "LAD", "LCX", "RCA"):
        for kind in ("agatston", "volume_mm3", "mass_mg"):
            assert round(measures[name][kind], 6) == float(row[f"{kind}_{name}"])


def test_labels_of_slabs_lie_where_the_slabs_are(thin, fake_model):
    assert start(thin, slab_mm=2.5)[0] == 0
    out = thin.parent / "out"
    document = json.loads((out / "a" / "scores.json").read_text())
    assert "slab_averaged" in document["flags"]
    slab = {"slab_mm": 2.5, "n_slices": 3, "increment_mm": 2.5, "n_slabs": 44, "n_dropped": 2}
    assert {key: document["slab"][key] for key in slab} == slab
    assert any("2 slice(s) at the head" in note for note in document["notes"])
    row = table(out / "scores.csv")["a"]
    assert row["slice_increment_mm"] == "2.5"
    assert "slab_averaged" in row["flags"].split(";")
    # of the slab with the plaque, as the scan's own file places its three slices
    scan, labels = (nib.load(path) for path in (thin.parent / "thin.nii.gz", out / "a" / "labels.nii.gz"))
    index = np.argwhere(np.asarray(labels.dataobj) > 0)
    place = nib.affines.apply_affine(labels.affine, index.mean(0))
    slices = np.argwhere(np.asarray(scan.dataobj) == PLAQUE_HU)
    assert place == pytest.approx(nib.affines.apply_affine(scan.affine, slices.mean(0)), abs=1e-3)


def test_another_slab_thickness_is_not_mixed_into_the_same_table(thin, fake_model):
    assert start(thin, slab_mm=2.5)[0] == 0
    for other in (None, 3):
        code, text = start(thin, slab_mm=other)
        assert code == 2
        assert "overwrite=true" in text
    assert "1 finished" in start(thin, slab_mm=2.5)[1]
    assert start(thin, slab_mm=None, overwrite=True)[0] == 0
    assert json.loads((thin.parent / "out" / "a" / "scores.json").read_text())["slab"] is None


def test_another_profile_is_not_mixed_into_the_same_table(cohort, fake_model):
    start(cohort)
    code, text = start(cohort, scoring="agatston1990")
    assert code == 2
    assert "overwrite=true" in text
    assert start(cohort, scoring="agatston1990", overwrite=True)[0] == 3


def test_a_case_that_fails_on_writing_leaves_nothing_half_written(cohort, fake_model, monkeypatch):
    def broken(*args, **kwargs):
        raise MemoryError("no room for a picture")

    monkeypatch.setattr(results, "write_overlay", broken)
    out = cohort.parent / "out"
    assert start(cohort)[0] == 3
    reasons = {row["flags"].split(";")[0] for row in table(out / "scores.csv").values()}
    assert reasons == {"out_of_memory", "not_an_image", "no_heart"}
    assert sorted(p.name for p in out.iterdir()) == [".patient_salt", "failures.csv", "scores.csv"]


def test_an_interrupt_stops_and_keeps_what_is_done(cohort, fake_model, monkeypatch):
    seen = []

    def interrupt(path, *args, **kwargs):
        seen.append(path)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return real(path, *args, **kwargs)

    real = run.read_scan
    monkeypatch.setattr(run, "read_scan", interrupt)
    with pytest.raises(KeyboardInterrupt):
        start(cohort)
    assert list(table(cohort.parent / "out" / "scores.csv")) == ["a"]


def test_all_scored_is_zero(cohort, fake_model):
    assert start(cohort.parent / "good.nii.gz", output=str(cohort.parent / "one"))[0] == 0


def test_no_input_scores_the_examples_against_their_reference(cohort, fake_model, monkeypatch):
    examples = types.ModuleType("cacsnet.phantom.examples")
    examples.ensure_examples = lambda folder, on_case=None: cohort
    monkeypatch.setitem(sys.modules, "cacsnet.phantom.examples", examples)
    monkeypatch.chdir(cohort.parent)
    cohort.write_text("case_id,path\na,good.nii.gz\n")
    (cohort.parent / "reference.csv").write_text("case_id,agatston_total\na,40\n")
    code, text = start(cohort, input=None, output=None)
    assert code == 0
    assert "ICC" in text
    assert list(table(cohort.parent / "outputs" / "examples" / cohort.parent.name / "scores.csv")) == ["a"]


def test_results_inside_the_input_are_no_scans(cohort, fake_model):
    folder = cohort.parent / "scans"
    folder.mkdir()
    (cohort.parent / "good.nii.gz").rename(folder / "good.nii.gz")
    for _ in range(2):
        assert start(folder, output=str(folder / "out"))[0] == 0
    assert list(table(folder / "out" / "scores.csv")) == ["good"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input": "/no/such/folder"}, "no such"),
        ({"scoring": "nonsense"}, "smartscore"),
        ({"device": "tpu"}, "auto, cpu or cuda"),
        ({"engine": "openvino"}, "not available yet"),
        ({"overwrite": "maybe"}, "true or false"),
        ({"reference": "/no/such/table.csv"}, "reference"),
        ({"inference": {"tua": 0.5}}, "tau"),
        ({"inference": {"tau": 5}}, "0..1"),
        ({"colour": "red"}, "unknown key"),
        ({"slab_mm": 0}, "at most 10"),
        ({"slab_mm": "thick"}, "at most 10"),
        ({"slab_mm": True}, "at most 10"),
        ({"inference": {"slab_mm": 3}}, "key of its own"),
        ({"inference": {"scoring": "siemens"}}, "key of its own"),
    ],
)
def test_bad_commands(cohort, fake_model, changes, message):
    code, text = start(cohort, **changes)
    assert code == 2
    assert message in text
    assert "Traceback" not in text


def test_a_missing_checkpoint_is_a_bad_command(cohort):
    code, text = start(cohort, checkpoint="/no/such.safetensors")
    assert code == 2
    assert "no such checkpoint" in text


def test_a_reference_of_other_cases_is_a_bad_command(cohort, fake_model):
    (cohort.parent / "reference.csv").write_text("case_id,agatston_total\nx,40\n")
    assert start(cohort, reference=str(cohort.parent / "reference.csv"))[0] == 2


@pytest.mark.parametrize("override", ["inptu=x", "input=/no/such/folder"])
def test_infer_py_exits_with_two_and_without_a_traceback(tmp_path, override):
    done = subprocess.run(
        [sys.executable, str(ROOT / "infer.py"), override], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert "error" in done.stderr + done.stdout
    assert not list(tmp_path.iterdir())  # no litter
