"""Finding cases: trees, single inputs, manifests."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from cacsnet.errors import ConfigError, NotAnImageError, SeveralSeriesError
from cacsnet.io import Case, apply_overrides, find_cases, read_scan, write_dicom_series, write_nifti
from cacsnet.scan import Scan


@pytest.fixture
def tree(scan: Scan, tmp_path: Path) -> Path:
    root = tmp_path / "cohort"
    for name in ("p1/1.2.3", "p1/second"):
        write_dicom_series(scan, root / name, name.split("/")[0], seed=name)
    for file in (root / "p1/second").iterdir():
        file.rename(file.with_suffix(""))
    write_nifti(root / "p2" / "chest.low.nii.gz", scan.hu, scan.geometry)
    for name in ("README.md", "p1/list.csv", "p1/1.2.3/report.pdf", "p2/ct.raw", "p2/.DS_Store", ".git/x.nii"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"text")
    for name, content in (("text/notes.dcm", b"no image"), ("empty/scan", b"")):
        (root / name).parent.mkdir()
        (root / name).write_bytes(content)
    return root


def test_a_tree(tree: Path) -> None:
    cases = find_cases(tree, "salt")
    assert [case.case_id for case in cases] == ["empty", "p1__1.2.3", "p1__second", "p2__chest.low", "text"]
    by_id = {case.case_id: case for case in cases}
    assert by_id["p1__1.2.3"].patient_id == by_id["p1__second"].patient_id is not None
    assert by_id["p2__chest.low"].patient_id is None
    assert by_id["p1__second"].patient_id == read_scan(tree / "p1/second", patient_salt="salt").acquisition.patient_id_hash
    assert by_id["p1__second"].patient_id != find_cases(tree, "other")[1].patient_id
    for case_id in ("empty", "text"):
        with pytest.raises(NotAnImageError):
            read_scan(by_id[case_id].path)


def test_single_inputs(tree: Path) -> None:
    assert [(c.case_id, c.path) for c in find_cases(tree / "p1/1.2.3")] == [("1.2.3", tree / "p1/1.2.3")]
    assert [c.case_id for c in find_cases(tree / "p2/chest.low.nii.gz")] == ["chest.low"]
    assert [c.case_id for c in find_cases(tree / "p1/1.2.3/IM0001.dcm")] == ["IM0001"]


def test_two_series_in_a_folder_are_one_case_that_fails(tree: Path) -> None:
    for file in (tree / "p1/second").iterdir():
        shutil.move(file, tree / "p1/1.2.3" / f"b{file.name}")
    case = find_cases(tree / "p1")[0]
    with pytest.raises(SeveralSeriesError):
        read_scan(case.path, case.series_uid)


def test_links_are_followed_but_not_in_circles(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "a").symlink_to(tree / "p1/1.2.3")
    (tmp_path / "links" / "b").symlink_to(tmp_path / "links")
    assert [case.case_id for case in find_cases(tmp_path / "links")] == ["a"]


def test_bad_commands(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such input"):
        find_cases(tmp_path / "nothing")
    (tmp_path / "bare" / "deep").mkdir(parents=True)
    with pytest.raises(ConfigError, match="no scans"):
        find_cases(tmp_path / "bare")
    shutil.copy(tree / "p2/chest.low.nii.gz", tree / "p2/chest.low.nii")
    with pytest.raises(ConfigError, match=r"p2__chest\.low"):
        find_cases(tree)


def write_manifest(tree: Path, text: str) -> Path:
    (tree / "cases.csv").write_text(text, encoding="utf-8-sig")
    return tree / "cases.csv"


def test_manifest(tree: Path) -> None:
    manifest = write_manifest(
        tree,
        "case_id,path,patient_id,scan,kvp,gated,contrast_agent,series_uid,agatston_total\n"
        "a,p2/chest.low.nii.gz,P7,2,100,no,,,12.5\n"
        f"b,{tree / 'p1/second'},,,100,,,1.2.3,\n"
        "c,gone.nii,,,,,,,\n",
    )
    a, b, c = find_cases(manifest, "salt")
    assert a == Case("a", tree / "p2/chest.low.nii.gz", "P7", "2", {"kvp": 100.0, "gated": False}, None)
    assert b.series_uid == "1.2.3"
    assert b.patient_id == find_cases(tree / "p1", "salt")[1].patient_id
    assert c == Case("c", tree / "gone.nii")

    filled = apply_overrides(read_scan(a.path), a)
    assert (filled.acquisition.kvp, filled.acquisition.gated, filled.notes) == (100.0, False, ())
    kept = apply_overrides(read_scan(b.path), replace(b, overrides={"kvp": 100.0, "slice_thickness_mm": 3.0}))
    assert kept.acquisition.kvp == 120.0
    assert len(kept.notes) == 1
    assert "kvp = 100.0" in kept.notes[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("path\nx.nii\n", "lacks a column"),
        ("case_id,path\n", "no scans"),
        ("", "lacks a column"),
        ("case_id,path\na,x.nii\na,y.nii\n", "one case_id"),
        ("case_id,path\n,x.nii\n", "line 2 has no case_id"),
        ("case_id,path\na,\n", "line 2 has no path"),
        ("case_id,path\na/b,x.nii\n", "usable as a name"),
        ("case_id,path\n..,x.nii\n", "usable as a name"),
        ("case_id,path,kVp\na,x.nii,120\n", "is it kvp"),
        ("case_id,path,heart_rate\na,x.nii,60\n", "is it heart_rate_bpm"),
        ("case_id,path,kvp,kvp\na,x.nii,120,120\n", "twice"),
        ("case_id,path,kvp\na,x.nii,high\n", "positive number"),
        ("case_id,path,kvp\na,x.nii,-1\n", "positive number"),
        ("case_id,path,gated\na,x.nii,maybe\n", "true or false"),
        ("case_id,path\na,x.nii,more\n", "more values"),
    ],
)
def test_broken_manifests(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        find_cases(write_manifest(tmp_path, text))
