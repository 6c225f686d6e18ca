"""The independent phantom: lies the right way round, owns only calcium, is the same for the same seed, and shares no code."""

import ast
import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from cacsnet.errors import NoHeartError
from cacsnet.training import judging

FILE = Path(__file__).parents[2] / "benchmarks" / "independent_phantom.py"
SPEC = importlib.util.spec_from_file_location("independent_phantom", FILE)
phantom = sys.modules[SPEC.name] = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(phantom)

MATRIX = 128


@pytest.fixture(scope="module")
def scans():
    return [phantom.make(seed, matrix=MATRIX) for seed in range(5)]


def plaques_of(seed):
    """What ``make`` would place on straight arteries of 60 mm: the draws do not depend on their course."""
    course = np.array([[0, 0, 0, 1.8], [0, 0, -30, 1.5], [0, 0, -60, 1.2]], float)
    return phantom.coronary_plaques(np.random.default_rng([seed, 2]), {name: [course] for name in phantom.VESSELS[:4]})


def test_imports_only_numpy_and_scipy():
    nodes = [n for n in ast.walk(ast.parse(FILE.read_text())) if isinstance(n, ast.Import | ast.ImportFrom)]
    names = {a.name for n in nodes if isinstance(n, ast.Import) for a in n.names}
    names |= {n.module or "." for n in nodes if isinstance(n, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} == {"__future__", "collections", "dataclasses", "numpy", "scipy"}


def test_a_seed_gives_one_scan(scans):
    again = phantom.make(1, matrix=MATRIX)
    assert np.array_equal(again.hu, scans[1].hu)
    assert np.array_equal(again.owner, scans[1].owner)
    assert not np.array_equal(scans[0].hu[:10], scans[1].hu[:10])


def test_types_and_spacing(scans):
    for scan in scans:
        assert (scan.hu.dtype, scan.owner.dtype) == (np.int16, np.uint8)
        assert scan.hu.shape == scan.owner.shape
        assert scan.hu.shape[1:] == (MATRIX, MATRIX)
        assert scan.spacing_mm[0] in (1.5, 2.5, 3.0, 5.0)
        assert scan.spacing_mm[1] == scan.spacing_mm[2]
        assert 80 < len(scan.hu) * scan.spacing_mm[0] < 190
        assert scan.kvp in (100, 120, 130, 140)


def test_axes(scans):
    for scan in scans:
        columns = np.arange(MATRIX) - MATRIX / 2
        bone = scan.hu.mean(0) > 150  # the spine stays in place from slice to slice
        bone[:, np.abs(columns) * scan.spacing_mm[2] > 45] = False
        rows, middle = np.nonzero(bone)
        assert (rows > MATRIX / 2).mean() > 0.6  # spine at the back, sternum in front
        spine = middle[rows > MATRIX / 2].mean()
        bottom = scan.hu[:2]
        soft = (bottom > 0) & (bottom < 110)
        near = slice(int(MATRIX * 0.3), int(MATRIX * 0.7))
        # liver: at the foot end, on the right, which is the low-x side
        assert soft[:, near, : int(spine - 8 / scan.spacing_mm[2])].mean() > 0.3
        assert scan.hu[-1, near, : MATRIX // 3].mean() < -500


def test_aorta_descends_left_of_the_spine(scans):
    for scan in scans:
        centre, spacing = MATRIX / 2, scan.spacing_mm[1]
        middle = scan.hu[len(scan.hu) // 2].astype(float)
        rows = slice(int(centre + 52 / spacing), int(centre + 62 / spacing))
        columns = int(centre + 6 / spacing)  # the field is 2 to 14 mm left of the midline
        right = middle[rows, columns - int(40 / spacing) : columns - int(20 / spacing)]
        left = middle[rows, columns : columns + int(20 / spacing)]
        assert np.median(left) > np.median(right)


def test_tissues(scans):
    for scan in scans:
        hu = scan.hu[len(scan.hu) // 2].astype(float)
        quarter = MATRIX // 4
        heart = hu[quarter:-quarter, quarter:-quarter]
        assert 25 < np.median(heart[(heart > -20) & (heart < 110)]) < 65
        assert -900 < np.median(hu[(hu < -700) & (hu > -980)]) < -800
        assert ((hu > -130) & (hu < -70)).mean() > 0.04


def test_owned_voxels_are_brighter_than_their_neighbours(scans):
    for scan in scans:
        owned = scan.owner > 0
        around = ndimage.binary_dilation(owned, np.ones((1, 5, 5))) & ~ndimage.binary_dilation(owned, np.ones((1, 3, 3)))
        if owned.any():
            assert scan.hu[owned].mean() > scan.hu[around].mean() + 40
    assert np.mean(np.concatenate([scan.hu[scan.owner > 0] for scan in scans])) > 50


def test_owners_are_where_plaques_add_enough():
    added = np.zeros((2, 6, 6), np.float32)
    added[0, 1, 1], added[0, 2, 2], added[1, 3, 3] = 14.9, 15.0, 40.0
    everywhere = (slice(None), slice(0, 6), slice(0, 6))
    owner = phantom.assign_owners((2, 6, 6), [(2, everywhere, added), (4, everywhere, 0.5 * added[:, ::-1])])
    assert owner[0, 1, 1] == 0
    assert (owner[0, 2, 2], owner[1, 3, 3]) == (2, 2)
    assert owner[1, 2, 3] == 4  # 20 HU of the other vessel


def test_no_plaques_no_owner(monkeypatch):
    monkeypatch.setattr(phantom, "coronary_plaques", lambda *_: [])
    scan = phantom.make(1, matrix=MATRIX)
    assert not np.isin(scan.owner, (1, 2, 3, 4)).any()


def test_a_sixth_has_no_coronary_calcium_and_all_vessels_appear():
    owners = [{p.owner for p in plaques_of(seed)} for seed in range(120)]
    assert 0.08 < np.mean([not o for o in owners]) < 0.27
    assert set.union(*owners) == {1, 2, 3, 4}
    assert np.mean([len(o) > 1 for o in owners]) > 0.5


def test_vessels_of_the_scans(scans):
    assert set(np.unique(np.concatenate([np.unique(s.owner) for s in scans]))) == {0, 1, 2, 3, 4, 5}


# -- the benchmark ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def benchmark():
    sys.path.insert(0, str(FILE.parent))
    import independent

    return independent


def test_a_scan_is_judged_by_its_own_truth(benchmark, scans, monkeypatch):
    """A model that keeps the true arteries and calls other calcium LM: names and what is false are told apart."""
    found = next(scan for scan in scans if {1, 2, 3, 4, 5} & set(np.unique(scan.owner[scan.hu >= 130])) >= {2, 5})
    monkeypatch.setattr(benchmark, "make", lambda *_: found)
    monkeypatch.setattr(benchmark, "load_model", lambda path: None)
    kept = np.where(found.owner == 5, 1, found.owner)
    reference = benchmark.score(found.hu, np.where(found.owner < 5, found.owner, 0), found.spacing_mm, found.kvp)
    monkeypatch.setattr(judging, "score_scan", lambda *_: SimpleNamespace(score=reference, vessel_map=kept))
    row = benchmark.judge(3, "")
    assert row["patient_id"] == 3
    assert row["agatston_total"] == row["reference_total"] > 0
    assert row["kept_LAD"] == row["named_LAD"] == row["amount_LAD"] > 0
    assert row["kept_other"] == row["amount_other"] > 0
    text = benchmark.page(pd.DataFrame([row, row | {"patient_id": 4}]), "command", "0123456789")
    assert "100.0 % of the coronary calcium that was kept has the right vessel's name" in text
    assert "100.0 % of the calcium that is no artery's was taken for coronary" in text

    def refuse(*_):
        raise NoHeartError("no heart")

    monkeypatch.setattr(judging, "score_scan", refuse)
    refused = benchmark.judge(3, "")
    assert refused["status"] == "no_heart"
    assert refused["reference_total"] == row["reference_total"]


def test_a_bad_command_of_the_benchmark_is_told(benchmark, capsys):
    for wrong in ("scans=1", "first=-1", "matrix=8", "checkpoint=none.safetensors", "colour=red"):
        assert benchmark.main([wrong]) == 2
        assert capsys.readouterr().err.startswith("error: ")
