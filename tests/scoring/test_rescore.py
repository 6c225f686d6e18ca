"""An edited label map scored against its scan: ``python -m cacsnet.scoring``."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from rich.console import Console

from cacsnet.io import read_scan, write_dicom_series, write_nifti
from cacsnet.scan import Acquisition, Geometry, Scan
from cacsnet.scoring import CalciumScore, load_profile, score
from cacsnet.scoring.__main__ import main
from cacsnet.scoring.agatston import weigh
from cacsnet.scoring.slabs import average_scan

SPACING = (2.5, 0.5, 0.6)
LM, LAD, LCX, RCA = 1, 2, 3, 4


def chest(spacing: tuple[float, float, float] = SPACING, **facts: object) -> tuple[Scan, np.ndarray]:
    """A small scan with a lesion in each vessel, without symmetry, and its vessel map; LM and LAD share one lesion."""
    hu = np.random.default_rng(5).integers(-1000, 90, (12, 40, 50)).astype(np.int16)
    vessels = np.zeros(hu.shape, dtype=np.uint8)
    rng = np.random.default_rng(6)
    for where, vessel in (
        ((slice(2, 5), slice(5, 10), slice(8, 12)), LM),
        ((slice(2, 5), slice(5, 10), slice(12, 15)), LAD),
        ((slice(7, 8), slice(20, 29), slice(30, 34)), LCX),
        ((slice(6, 11), slice(30, 34), slice(3, 9)), RCA),
    ):
        hu[where] = rng.integers(131, 700, hu[where].shape)
        vessels[where] = vessel
    geometry = Geometry.axial(hu.shape, spacing, (-31.0, -40.5, 120.0))
    acquisition = replace(Acquisition(kvp=120.0, slice_thickness_mm=spacing[0], gated=True), **facts)  # type: ignore[arg-type]
    return Scan(hu, geometry, acquisition), vessels


def run(*arguments: object) -> tuple[int, str]:
    console = Console(record=True, width=160, file=io.StringIO())
    code = main([str(a) for a in arguments], console)
    return code, console.export_text()


def rescored(tmp_path: Path, *arguments: object) -> dict:
    """``scores.json`` of a run that must work."""
    output = tmp_path / "rescored"
    code, text = run(*arguments, f"output={output}")
    assert code == 0, text
    return json.loads((output / "scores.json").read_text())


def as_infer_writes(path: Path, scan: Scan, vessels: np.ndarray, profile: str = "smartscore") -> CalciumScore:
    """The score of a vessel map, and its ``labels.nii.gz`` without what fell below the minimum area."""
    kvp = scan.acquisition.kvp or 120.0
    found = score(scan.hu, vessels, scan.spacing_mm, kvp, profile, scan.geometry.affine_lps)
    weight, counted = weigh(scan.hu, vessels > 0, scan.spacing_mm, kvp, load_profile(profile))
    write_nifti(path, np.where((weight > 0) | counted, vessels, 0), scan.geometry, np.uint8, source=scan.source)
    return found


@pytest.fixture
def case(tmp_path: Path) -> tuple[Path, Path, CalciumScore]:
    """A scan as NIfTI, its labels and its score."""
    scan, vessels = chest()
    write_nifti(tmp_path / "scan.nii.gz", scan.hu, scan.geometry)
    scan = read_scan(tmp_path / "scan.nii.gz")
    return tmp_path / "scan.nii.gz", tmp_path / "labels.nii.gz", as_infer_writes(tmp_path / "labels.nii.gz", scan, vessels)


@pytest.fixture
def edited(tmp_path: Path) -> Callable[..., Path]:
    """Write a changed copy of a label file."""

    def change(labels: Path, how: Callable[[np.ndarray], np.ndarray], affine: np.ndarray | None = None) -> Path:
        image = nib.load(labels)
        data = how(np.asarray(image.dataobj))
        nib.save(nib.Nifti1Image(data, image.affine if affine is None else affine), tmp_path / "edited.nii.gz")
        return tmp_path / "edited.nii.gz"

    return change


def check_same(document: dict, found: CalciumScore) -> None:
    for name, measures in {"total": found.total, **found.vessels}.items():
        for kind in ("agatston", "volume_mm3", "mass_mg"):
            assert document["measures"][name][kind] == getattr(measures, kind), (name, kind)
    assert document["lesions_total"] == len(found.lesions)
    assert document["categories"]["risk_category"] == found.risk_category


@pytest.mark.parametrize("codes", ["LPS", "RAS", "LAS", "SPL", "ARI", "IAR"])
@pytest.mark.parametrize("profile", ["smartscore", "philips", "literature_fqm"])
def test_unedited_labels_give_the_same_score_for_nifti_in_any_orientation(tmp_path: Path, codes: str, profile: str) -> None:
    scan, vessels = chest()
    write_nifti(tmp_path / "lps.nii.gz", scan.hu, scan.geometry)
    image = nib.load(tmp_path / "lps.nii.gz")
    turn = nib.orientations.ornt_transform(nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(tuple(codes)))
    path = tmp_path / "turned.nii.gz"
    nib.save(image.as_reoriented(turn), path)
    read = read_scan(path)
    np.testing.assert_array_equal(read.hu, scan.hu)
    found = as_infer_writes(tmp_path / "labels.nii.gz", read, vessels, profile)
    assert found.total.agatston > 100
    # the labels lie in the axes of their scan
    assert nib.load(tmp_path / "labels.nii.gz").shape == nib.load(path).shape
    check_same(rescored(tmp_path, path, tmp_path / "labels.nii.gz", "kvp=120", f"scoring={profile}"), found)


@pytest.mark.parametrize("forwards", [False, True])
def test_unedited_labels_give_the_same_score_for_dicom(tmp_path: Path, forwards: bool) -> None:
    scan, vessels = chest()
    files = write_dicom_series(scan, tmp_path / "series", "P1")
    if forwards:  # rows run towards the front
        import pydicom

        for file in files:
            ds = pydicom.dcmread(file)
            x, y, z = ds.ImagePositionPatient
            ds.ImagePositionPatient = [x, y + 39 * SPACING[1], z]
            ds.ImageOrientationPatient = [1, 0, 0, 0, -1, 0]
            ds.PixelData = ds.pixel_array[::-1].tobytes()
            ds.save_as(file)
    read = read_scan(tmp_path / "series")
    assert read.geometry.source_flips == (False, forwards, False)
    found = as_infer_writes(tmp_path / "labels.nii.gz", read, vessels)
    check_same(rescored(tmp_path, tmp_path / "series", tmp_path / "labels.nii.gz"), found)


def test_labels_saved_in_other_axes_by_an_editor_are_the_same_labels(tmp_path: Path, case: tuple) -> None:
    scan, labels, found = case
    nib.save(nib.as_closest_canonical(nib.load(labels)), tmp_path / "saved.nii.gz")
    assert nib.aff2axcodes(nib.load(labels).affine) != ("R", "A", "S")
    check_same(rescored(tmp_path, scan, tmp_path / "saved.nii.gz", "kvp=120"), found)


def test_an_edit_changes_what_was_edited(tmp_path: Path, case: tuple, edited: Callable[..., Path]) -> None:
    scan, labels, found = case
    path = edited(labels, lambda data: np.where(data == RCA, 0, np.where(data == LM, LAD, data)))
    document = rescored(tmp_path, scan, path, "kvp=120")
    after = {name: measures["agatston"] for name, measures in document["measures"].items()}
    before = {name: measures.agatston for name, measures in found.vessels.items()}
    assert (after["RCA"], after["LM"]) == (0, 0)
    assert after["LAD"] == pytest.approx(before["LM"] + before["LAD"])
    assert after["LCX"] == before["LCX"]
    assert after["total"] == pytest.approx(found.total.agatston - before["RCA"])
    with (tmp_path / "rescored" / "lesions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["vessel_or_reason"] for row in rows} == {"LAD", "LCX"}
    assert sum(float(row["agatston"]) for row in rows) == pytest.approx(after["total"])
    assert sorted(p.name for p in (tmp_path / "rescored").iterdir()) == ["lesions.csv", "scores.json"]


def test_no_label_left_is_a_zero_and_says_so(case: tuple, edited: Callable[..., Path]) -> None:
    scan, labels, _ = case
    code, text = run(scan, edited(labels, np.zeros_like), "kvp=120")
    assert code == 0
    assert "no voxel is labelled" in text
    assert "category 0 (of 4 levels)" in text


def test_the_table_says_what_was_scored(case: tuple) -> None:
    scan, labels, found = case
    code, text = run(scan, labels, "kvp=120")
    assert code == 0
    for name, measures in {"total": found.total, **found.vessels}.items():
        line = next(line for line in text.splitlines() if name in line.split())
        values = (measures.agatston, measures.volume_mm3, measures.volume_isotropic_mm3, measures.mass_mg)
        assert [f"{value:.1f}" in line for value in values] == [True] * 4
    levels = (found.risk_category, found.risk_category_5, found.risk_category_6)
    assert "category {} (of 4 levels), {} (of 5), {} (of 6)".format(*levels) in text
    assert f"CAC-DRS {found.cac_drs}" in text
    assert "Research use only, not a medical device." in text
    assert "mass_calibration_default" in text
    assert "thresholds of 120 kVp: 130 HU" in text


def test_labelled_voxels_that_do_not_count_are_reported(tmp_path: Path, case: tuple, edited: Callable[..., Path]) -> None:
    scan_path, labels, found = case
    scan = read_scan(scan_path)
    dark = (slice(0, 1), slice(0, 3), slice(0, 4))
    assert (scan.hu[dark] < 130).all()
    scan.hu[11, 39, 49] = 300  # one bright voxel: 0.3 mm²
    write_nifti(tmp_path / "speck.nii.gz", scan.hu, scan.geometry, source=scan.source)

    def paint(data: np.ndarray) -> np.ndarray:
        canonical = scan.geometry.from_source(data)
        canonical[dark] = LCX
        canonical[11, 39, 49] = LCX
        return scan.geometry.to_source(canonical)

    path = edited(labels, paint)
    code, text = run(tmp_path / "speck.nii.gz", path, "kvp=120")
    assert code == 0
    assert "12 below the threshold; 1 in islands below the minimum area" in text
    document = rescored(tmp_path, tmp_path / "speck.nii.gz", path, "kvp=120")
    kept = int((np.asarray(nib.load(labels).dataobj) > 0).sum())
    expected = {"labelled": kept + 13, "counted": kept, "below_threshold": 12, "below_min_area": 1, "outside_slabs": 0}
    assert document["voxels"] == expected
    check_same(document, found)


def test_a_scan_without_tube_voltage_is_never_scored_for_120(case: tuple) -> None:
    scan, labels, found = case
    code, text = run(scan, labels)
    assert code == 3
    assert "kvp=" in text
    assert "Agatston" not in text
    code, text = run(scan, labels, "kvp=110")
    assert code == 3
    assert "70, 80, 100, 120, 135 kVp only" in text
    code, text = run(scan, labels, "kvp=100")
    assert code == 0
    assert "145 HU" in text
    assert f"{found.total.agatston:.1f}" not in text


def test_the_tube_voltage_of_the_file_is_used_and_can_not_be_contradicted(tmp_path: Path) -> None:
    scan, vessels = chest(kvp=100.0)
    write_dicom_series(scan, tmp_path / "series", "P1")
    found = as_infer_writes(tmp_path / "labels.nii.gz", read_scan(tmp_path / "series"), vessels)
    assert found.bands_hu[0] == 145
    check_same(rescored(tmp_path, tmp_path / "series", tmp_path / "labels.nii.gz", "kvp=100"), found)
    code, text = run(tmp_path / "series", tmp_path / "labels.nii.gz", "kvp=120")
    assert code == 2
    assert "the scan says 100 kVp" in text


@pytest.mark.parametrize("facts", [{"tin_filter": True}, {"virtual_image": "VMI"}, {"kvp": 140.0}, {"kvp": 110.0}])
def test_scans_of_no_scorable_spectrum_are_refused(tmp_path: Path, facts: dict) -> None:
    scan, vessels = chest(**facts)
    write_dicom_series(scan, tmp_path / "series", "P1")
    write_nifti(tmp_path / "labels.nii.gz", vessels, scan.geometry)
    code, text = run(tmp_path / "series", tmp_path / "labels.nii.gz")
    assert code == 3
    assert "thresholds" in text
    assert "Agatston" not in text


def test_the_kernel_sa36_is_scored_with_the_thresholds_of_120(tmp_path: Path) -> None:
    scan, vessels = chest(kvp=100.0, kernel="Sa36f\\3")
    write_dicom_series(scan, tmp_path / "series", "P1")
    write_nifti(tmp_path / "labels.nii.gz", vessels, scan.geometry)
    document = rescored(tmp_path, tmp_path / "series", tmp_path / "labels.nii.gz", "scoring=siemens")
    assert (document["rules"]["kvp"], document["rules"]["kvp_of_scan"]) == (120.0, 100.0)
    assert document["rules"]["bands_hu"][0] == 130
    assert "kvp_independent_kernel" in document["flags"]


def test_the_mass_factor_is_the_headers_or_the_one_given(tmp_path: Path) -> None:
    scan, vessels = chest(mass_factor=8e-4)
    write_dicom_series(scan, tmp_path / "series", "P1")
    labels = tmp_path / "labels.nii.gz"
    write_nifti(labels, vessels, scan.geometry)
    header = rescored(tmp_path, tmp_path / "series", labels)
    assert header["rules"]["mass_factor"] == pytest.approx(8e-4)
    assert header["rules"]["mass_factor_from"] == "header (0018,9351)"
    assert "mg/cm3 per HU" in header["notes"][0]
    assert "mass_calibration_default" not in header["flags"]
    given = rescored(tmp_path, tmp_path / "series", labels, "mass_factor=4e-4")
    assert given["rules"]["mass_factor_from"] == "argument"
    assert given["measures"]["total"]["mass_mg"] == pytest.approx(header["measures"]["total"]["mass_mg"] / 2)
    assert given["measures"]["total"]["agatston"] == header["measures"]["total"]["agatston"]


@pytest.fixture
def thin(tmp_path: Path) -> tuple[Path, Scan, Scan, np.ndarray]:
    """A scan of 1 mm slices as NIfTI: its path, as read, on 3 mm slabs; and the vessel map of its slices."""
    scan, vessels = chest(spacing=(1.0, 0.5, 0.6))
    write_nifti(tmp_path / "thin.nii.gz", scan.hu[:11], Geometry.axial((11, 40, 50), (1.0, 0.5, 0.6)))
    read = read_scan(tmp_path / "thin.nii.gz")
    return tmp_path / "thin.nii.gz", read, average_scan(read, 3.0)[0], vessels[:11]


def test_labels_on_slabs_are_scored_on_slabs(tmp_path: Path, thin: tuple) -> None:
    path, _, slabs, vessels = thin
    found = as_infer_writes(tmp_path / "labels.nii.gz", slabs, vessels[1:10:3])
    assert found.total.agatston > 0
    document = rescored(tmp_path, path, tmp_path / "labels.nii.gz", "kvp=120", "slab_mm=3")
    check_same(document, found)
    slab = document["slab"]
    assert (slab["n_slices"], slab["slice_increment_mm"], slab["increment_mm"], slab["n_dropped"]) == (3, 1.0, 3.0, 2)
    assert "slab_averaged" in document["flags"]
    assert "2 slice(s) at the head" in document["notes"][-1]
    code, text = run(path, tmp_path / "labels.nii.gz", "kvp=120")
    assert code == 3
    assert "slab_mm=" in text


def test_labels_on_slices_are_brought_to_the_slabs(tmp_path: Path, thin: tuple) -> None:
    path, read, slabs, vessels = thin
    write_nifti(tmp_path / "labels.nii.gz", vessels, read.geometry, source=read.source)
    on_slabs = rescored(tmp_path, path, tmp_path / "labels.nii.gz", "kvp=120", "slab_mm=3")
    majority = np.stack([vessels[k : k + 3].max(0) for k in (0, 3, 6)])  # the vessels don't overlap in z here
    assert on_slabs["measures"]["total"]["agatston"] == score(slabs.hu, majority, slabs.spacing_mm, 120).total.agatston
    assert on_slabs["voxels"]["outside_slabs"] == int((vessels[9:] > 0).sum()) > 0
    code, text = run(path, tmp_path / "labels.nii.gz", "kvp=120", "slab_mm=3")
    assert code == 0
    assert "in slices at the head that fill no slab" in text
    plain = rescored(tmp_path, path, tmp_path / "labels.nii.gz", "kvp=120")
    assert plain["slab"] is None
    assert "slab_averaged" not in plain["flags"]
    assert plain["measures"]["total"]["agatston"] != on_slabs["measures"]["total"]["agatston"]


def test_slices_that_are_thick_already_are_not_averaged(tmp_path: Path, case: tuple) -> None:
    scan, labels, found = case
    document = rescored(tmp_path, scan, labels, "kvp=120", "slab_mm=3")
    check_same(document, found)
    assert document["slab"]["n_slices"] == 1
    assert "slab_averaged" not in document["flags"]


def shifted(mm: float) -> Callable[[np.ndarray], np.ndarray]:
    def move(affine: np.ndarray) -> np.ndarray:
        out = affine.copy()
        out[0, 3] += mm
        return out

    return move


@pytest.mark.parametrize(
    ("how", "affine", "words"),
    [
        (lambda data: data[:-1], None, "not the scan's grid"),
        (lambda data: data, shifted(0.3), "another grid"),
        (lambda data: data, lambda a: a @ np.diag([1, 1, 1.02, 1]), "another grid"),
        (lambda data: (data + 3 * (data > 1)).astype(np.uint8), None, "0..4"),
        (lambda data: data.astype(np.int16) - 1, None, "0..4"),
        (lambda data: data * np.float32(0.5), None, "whole numbers"),
    ],
)
def test_labels_that_do_not_fit_are_refused(case: tuple, edited: Callable[..., Path], how, affine, words: str) -> None:
    scan, labels, _ = case
    path = edited(labels, how, None if affine is None else affine(nib.load(labels).affine))
    code, text = run(scan, path, "kvp=120")
    assert code == 3
    assert words in text
    assert "edited.nii.gz" in text
    assert "Traceback" not in text


def test_labels_off_by_rounding_are_taken(tmp_path: Path, case: tuple, edited: Callable[..., Path]) -> None:
    scan, labels, found = case
    path = edited(labels, lambda data: data.astype(np.float32), shifted(0.01)(nib.load(labels).affine))
    check_same(rescored(tmp_path, scan, path, "kvp=120"), found)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{scan}"], "needs the scan and the labels"),
        (["{scan}", "{labels}", "{labels}"], "needs the scan and the labels"),
        (["{scan}", "/no/such.nii.gz"], "no such file"),
        (["/no/such/folder", "{labels}"], "no such file"),
        (["{scan}", "{labels}", "kpv=120"], "unknown key"),
        (["{scan}", "{labels}", "kvp=high"], "positive number"),
        (["{scan}", "{labels}", "kvp=-120"], "positive number"),
        (["{scan}", "{labels}", "kvp=nan"], "positive number"),
        (["{scan}", "{labels}", "kvp=120", "kvp=100"], "given twice"),
        (["{scan}", "{labels}", "scoring=nonsense"], "smartscore"),
        (["{scan}", "{labels}", "slab_mm=30"], "at most 10"),
        (["{scan}", "{labels}", "mass_factor=0.8"], "divided by 1000"),
        (["{scan}", "{labels}", "kvp=120", "output={scan}"], "is a file"),
    ],
)
def test_bad_commands(case: tuple, arguments: list[str], words: str) -> None:
    code, text = run(*(a.format(scan=case[0], labels=case[1]) for a in arguments))
    assert code == 2
    assert words in text
    assert "python -m cacsnet.scoring <scan>" in text


def test_unreadable_scans_are_named(tmp_path: Path, case: tuple) -> None:
    (tmp_path / "text.nii.gz").write_text("not an image")
    for scan, words in ((tmp_path / "text.nii.gz", "text.nii.gz"), (case[1], "distinct values")):
        code, text = run(scan, case[1], "kvp=120")
        assert code == 3
        assert words in text


def test_a_result_of_infer_is_not_overwritten(tmp_path: Path, case: tuple) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "scores.json").write_text('{"scores": {}, "run": {}}')
    code, text = run(case[0], case[1], "kvp=120", f"output={folder}")
    assert code == 2
    assert "holds a result of infer.py" in text
    assert (folder / "scores.json").read_text() == '{"scores": {}, "run": {}}'
    # its own result may be replaced
    rescored(tmp_path, case[0], case[1], "kvp=120")
    rescored(tmp_path, case[0], case[1], "kvp=120")


def test_an_output_that_can_not_be_written_is_no_traceback(tmp_path: Path, case: tuple) -> None:
    code, text = run(case[0], case[1], "kvp=120", f"output={case[0]}/below/a/file")
    assert code == 2
    assert "error" in text


def test_the_module_runs_without_torch_and_monai(tmp_path: Path, case: tuple) -> None:
    code = (
        "import runpy, sys\n"
        "try:\n"
        "    runpy.run_module('cacsnet.scoring', run_name='__main__', alter_sys=True)\n"
        "except SystemExit as stop:\n"
        "    print('exit', stop.code, [m for m in ('torch', 'monai', 'pandas', 'hydra') if m in sys.modules])\n"
    )
    command = [sys.executable, "-c", code, str(case[0]), str(case[1]), "kvp=120"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "exit 0 []" in done.stdout, done.stderr
    assert "total" in done.stdout
    nothing = subprocess.run([sys.executable, "-m", "cacsnet.scoring"], capture_output=True, text=True, timeout=120)
    assert nothing.returncode == 2
    assert "Traceback" not in nothing.stdout + nothing.stderr
