"""The QRM benchmark's arithmetic, and that it writes what it says."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import pytest

SPEC = importlib.util.spec_from_file_location("benchmark_qrm", Path(__file__).parents[2] / "benchmarks" / "qrm.py")
qrm = sys.modules[SPEC.name] = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(qrm)


@pytest.fixture(scope="module")
def result():
    return qrm.measure(qrm.image_insert(qrm.Insert(), qrm.calcium_protocol()), 120)


def test_the_error_is_background_less_cut_off(result):
    assert result.mass == pytest.approx(result.background - result.cut_off)
    # 40 HU over 1.41 HU per mg/cc in every counted mm³
    assert result.background == pytest.approx(40 / 1.41 * result.volume * 360.5 / 1000 / 168.2, rel=1e-3)
    assert 0 < result.cut_off < 0.2


def test_limits_follow_the_blur():
    assert [qrm.mass_limit(fwhm) for fwhm in (0.7, 1.0, 1.2, 1.4)] == [0.07, 0.07, 0.12, 0.12]


def test_the_verdict_names_what_is_beyond_its_limit(result):
    good, sharp, blurred = (replace(result, mass=m, fwhm_mm=f) for m, f in ((0.069, 1.0), (-0.071, 0.7), (0.119, 1.4)))
    assert qrm.verdict([good, blurred]) == "2 of 2 images are within the limits."
    assert qrm.verdict([good, sharp, blurred]).startswith("2 of 3 images are within the limits. Beyond: 120 kVp, 0.7 mm FWHM")
    assert qrm.summary([good, sharp])[:3] == ("2", "-0.1", "-7.1 to +6.9")
    assert qrm.summary([good, sharp])[6:8] == ("±7", "1")


def test_the_poses_cover_half_an_increment_in_three_orientations():
    poses = qrm.poses(2.5)
    assert {p.axis for p in poses} == {0, 1, 2}
    assert sorted({p.shift_mm[0] for p in poses}) == pytest.approx([0, 0.3125, 0.625, 0.9375, 1.25])
    assert len(set(poses)) == len(poses) == qrm.POSES


def test_the_page_is_written(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(qrm, "SLICES_MM", ((3.0, 3.0),))
    monkeypatch.setattr(qrm, "FWHM_MM", (1.0,))
    monkeypatch.setattr(qrm, "poses", lambda increment_mm: [qrm.Insert(), qrm.Insert(1, (1.0, 0.1, 0.2))])
    qrm.main(tmp_path)
    page = (tmp_path / "qrm.md").read_text(encoding="utf-8")
    assert "8 of 8 images are within the limits." in page
    assert "together 360.5 mm³" in page
    assert page.count("| 120 | 1 | 2 |") == 1
    assert (tmp_path / "qrm.png").read_bytes().startswith(b"\x89PNG")
    assert "8 of 8" in capsys.readouterr().out
