"""The shipped checkpoint on real CT: each case ends as it should, none with a silent 0."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest

from cacsnet.inference.run import main

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def shared_data() -> Path:
    """Folder with the real CT data that is not part of the repository."""
    named = os.environ.get("CACSNET_SHARED")
    data = (Path(named) if named else ROOT / ".." / "shared") / "data"
    if not (data / "MANIFEST.md").is_file():
        pytest.skip("real CT data is not here")
    return data


@pytest.mark.shared
@pytest.mark.slow
def test_real_cases_end_as_they_should(shared_data, tmp_path):
    paths = {
        "contrast_arch": "lidc_dicom/lidc_0001",
        "no_heart": "lidc_dicom/lidc_0002",
        "contrast_trunk": "lidc_dicom/lidc_0003",
        "calcium": "lidc_3mm/0506_img.nrrd",
        "mask": "lidc_3mm/0506_msk.nrrd",
        "enhanced": "totalsegmentator_ct/example_ct.nii.gz",
    }
    manifest = tmp_path / "manifest.csv"
    rows = [f"{name},{(shared_data / path).resolve()}" for name, path in paths.items()]
    manifest.write_text("case_id,path\n" + "\n".join(rows) + "\n")
    assert main({"input": str(manifest), "output": str(tmp_path / "out")}, ROOT) == 3
    with (tmp_path / "out" / "scores.csv").open() as file:
        scores = {row["case_id"]: row for row in csv.DictReader(file)}
    flags = {name: row["flags"].split(";") for name, row in scores.items()}
    for name in paths.keys() - {"calcium"}:
        assert scores[name]["status"] == "failed"
        assert scores[name]["agatston_total"] == ""
    for name in ("contrast_arch", "contrast_trunk"):
        assert flags[name][0] in ("no_heart", "enhanced_blood")
        assert "contrast_tag" in flags[name]
    assert flags["no_heart"][0] == "no_heart"
    assert "thickness" in flags["no_heart"]
    assert flags["mask"] == ["not_hu"]
    assert flags["enhanced"][0] == "enhanced_blood"
    # calcified LAD and RCA, on a grid too coarse for an Agatston score: the flag says so
    assert scores["calcium"]["status"] == "flagged"
    assert "coarse_pixels" in flags["calcium"]
    assert float(scores["calcium"]["agatston_LAD"]) > 0
    assert float(scores["calcium"]["agatston_RCA"]) > 0
