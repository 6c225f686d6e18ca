"""The phantom benchmark measures shapes of known size rightly, judges ranges rightly, and loses nothing when interrupted."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import phantom
import phantom_literature as literature
import phantom_measure as measures
import phantom_pictures as pictures
import phantom_truth
import phantom_vessels as vessels
import rows as rows_module

from cacsnet.errors import ConfigError
from cacsnet.labels import STRUCTURE_INDEX, VESSEL_INDEX

STEP = 0.75


def ball(shape, centre_mm, radius_mm, step=STEP):
    grid = np.indices(shape) * step
    return sum((g - c) ** 2 for g, c in zip(grid, centre_mm, strict=True)) < radius_mm**2


def distance_to(line, shape, step=STEP):
    points = np.moveaxis(np.indices(shape) * step, 0, -1)
    return cKDTree(line).query(points.reshape(-1, 3))[0].reshape(shape)


def arch(radius=25.0):
    """A three quarter circle in a plane that no axis lies in, and its length."""
    turn = np.linspace(0, 1.5 * np.pi, 800)
    plane = np.array([[0.3, 0.1, 1.0], [0.1, 1.0, -0.13]])
    plane[0] /= np.linalg.norm(plane[0])
    plane[1] -= plane[0] * (plane[1] @ plane[0])
    plane[1] /= np.linalg.norm(plane[1])
    line = np.array([13.0, 34.0, 34.0]) + radius * (np.cos(turn)[:, None] * plane[0] + np.sin(turn)[:, None] * plane[1])
    return line, 1.5 * np.pi * radius


def painted(hu=None, structures=None, area=None, step=STEP, shape=(40, 90, 90)):
    empty = np.zeros(shape, np.uint8)
    return measures.Painted(
        np.full(shape, -100, np.float32) if hu is None else hu,
        empty if structures is None else structures, empty if area is None else area, step, (0.0, 0.0, 0.0),
    )  # fmt: skip


# -- tubes --------------------------------------------------------------------------------------------------------------


def test_the_way_through_a_bent_tube_is_as_long_as_its_axis():
    line, length = arch()
    tube = vessels.Tube.of(distance_to(line, (40, 90, 90)) < 3.0, STEP)
    start = vessels.nearest_voxel(tube, line[0] / STEP)
    found = tube.way(start, np.array([vessels.nearest_voxel(tube, line[-1] / STEP)]))
    assert vessels.length_mm(found) == pytest.approx(length, rel=0.02)
    assert cKDTree(line).query(found)[0].max() < 0.6  # in the middle, not along the inner wall


def test_the_way_goes_to_the_farthest_end_and_no_further_than_the_tube():
    mask = np.zeros((9, 9, 60), bool)
    mask[3:6, 3:6, 5:50] = True
    mask[:, :, 55:] = True  # another component
    tube = vessels.Tube.of(mask, 1.0)
    start = vessels.nearest_voxel(tube, np.array([4, 4, 5]))
    found = tube.way(start, np.arange(len(tube.voxels)))
    assert 42 < vessels.length_mm(found) < 47
    assert found[:, 2].max() < 51
    other = vessels.nearest_voxel(tube, np.array([4, 4, 57]))
    assert len(tube.way(start, np.array([other]))) == 0


@pytest.mark.parametrize("diameter", [8.0, 14.0])
def test_the_calibre_of_a_bent_tube_is_its_diameter(diameter):
    line, _ = arch()
    mask = distance_to(line, (48, 92, 92)) < diameter / 2
    found = vessels.calibres_mm(mask, line[100:-100:40], STEP, 12.0)
    assert found == pytest.approx(np.full(len(found), diameter), rel=0.04)


def test_outside_the_mask_there_is_no_calibre():
    assert np.isnan(
        vessels.calibres_mm(np.zeros((9, 9, 9), bool), np.array([[3.0, 3, 3], [4, 4, 4], [5, 5, 5]]), 1.0, 3.0)
    ).all()


@pytest.mark.parametrize("lumen", [1.6, 3.0, 4.4])
def test_the_lumen_is_measured_at_half_level_whatever_lies_beside_it(lumen):
    line, _ = arch()
    distance = distance_to(line, (40, 90, 90))
    hu = (-100 + 140 * np.clip(0.5 - (distance - lumen / 2) / STEP, 0, 1)).astype(np.float32)
    hu[distance > lumen / 2 + 2.0] = 40  # a chamber all around, outside the area
    area = distance < lumen / 2 + 1.5
    found = measures.lumens_mm(hu, area, -30.0, line[60:-60:30], STEP)
    assert np.median(found) == pytest.approx(lumen, abs=0.2)
    assert np.abs(found - lumen).max() < 0.4


def test_a_branch_in_the_plane_does_not_widen_the_lumen():
    line = np.stack([np.full(60, 15.0), np.full(60, 15.0), np.arange(60.0)], 1)
    side = np.stack([15.0 + 0.9 * np.arange(12.0), np.full(12, 15.0), np.full(12, 30.0)], 1)
    distance = np.minimum(distance_to(line, (42, 42, 80)), distance_to(side, (42, 42, 80)) + 0.5)
    hu = np.where(distance < 1.5, 40, -100).astype(np.float32)
    found = measures.lumens_mm(hu, distance < 3.0, -30.0, line[28:33], STEP)
    assert np.nanmax(found) < 3.7


# -- chambers, vessels --------------------------------------------------------------------------------------------------


def test_volumes_mass_and_wall_of_balls():
    structures = np.zeros((80, 80, 80), np.uint8)
    structures[ball((80,) * 3, (30, 30, 30), 25)] = STRUCTURE_INDEX["myocardium"]
    structures[ball((80,) * 3, (30, 30, 30), 16)] = STRUCTURE_INDEX["left_ventricle"]
    found = measures.chambers(painted(np.zeros((80,) * 3, np.float32), structures, structures * 0))
    inner, outer = (4 / 3 * np.pi * r**3 / 1000 for r in (16, 25))
    assert found["left_ventricle_ml"] == pytest.approx(inner, rel=0.01)
    assert found["lv_mass_g"] == pytest.approx(1.05 * (outer - inner), rel=0.01)
    assert found["lv_wall_mm"] == pytest.approx(9.0, abs=0.6)
    assert found["right_atrium_ml"] == 0
    assert found["heart_ml"] == pytest.approx(outer, rel=0.03)


def test_closing_fills_clefts_but_not_more():
    mask = np.zeros((40, 40, 40), bool)
    mask[10:30, 10:30, 10:19] = mask[10:30, 10:30, 21:30] = True
    closed = measures.closed(mask, 3.0, 1.0)
    assert closed[20, 20, 20]
    assert not closed[5, 20, 20]
    assert closed.sum() < 20 * 20 * 20 * 1.02


def test_aorta_and_trunk_have_the_calibre_of_their_tubes():
    shape = (110, 70, 70)
    up = np.stack([np.arange(15.0, 105.0, 0.5), np.full(180, 35.0), np.full(180, 35.0)], 1)
    structures = np.zeros(shape, np.uint8)
    structures[distance_to(up, shape, 1.0) < 15.0] = STRUCTURE_INDEX["aorta"]
    structures[ball(shape, (25, 35, 35), 18, 1.0)] = STRUCTURE_INDEX["aorta"]  # the widest place
    structures[:12] = STRUCTURE_INDEX["left_ventricle"]
    structures[60:72, 20:50, 0:10] = STRUCTURE_INDEX["pulmonary_artery"]  # on the right, at its level
    found = measures.aorta(painted(structures=structures, step=1.0, shape=shape))
    assert found["ascending_aorta_mm"] == pytest.approx(30.0, rel=0.03)
    assert found["aortic_root_mm"] == pytest.approx(36.0, rel=0.04)

    trunk = np.where(distance_to(up, shape, 1.0) < 12.0, STRUCTURE_INDEX["pulmonary_artery"], 0).astype(np.uint8)
    trunk[:12] = STRUCTURE_INDEX["right_ventricle"]
    found = measures.pulmonary_trunk(painted(structures=trunk, step=1.0, shape=shape))
    assert found["pulmonary_trunk_mm"] == pytest.approx(24.0, rel=0.03)
    assert measures.aorta(painted()) == {} == measures.pulmonary_trunk(painted())


def test_lengths_and_lumens_of_a_made_up_tree():
    """LM 10 mm out of an aorta; LAD 80 mm beside the right ventricle, with a longer branch that leaves it; RCA 60 mm."""
    shape, step = (60, 130, 170), 0.75
    y = 30.0
    left = [
        ("LM", 4.4, np.stack([np.full(21, 20.0), np.full(21, y), np.linspace(12, 22, 21)], 1)),
        ("LAD", 3.6, np.stack([np.full(161, 20.0), np.full(161, y), np.linspace(22, 102, 161)], 1)),
        ("LAD", 2.4, np.stack([np.full(141, 20.0), np.linspace(y, y + 60, 141), np.linspace(60, 110, 141)], 1)),
        ("RCA", 3.0, np.stack([np.full(121, 40.0), np.full(121, y), np.linspace(12, 72, 121)], 1)),
    ]
    hu, nearest = np.full(shape, -100, np.float32), np.full(shape, 99.0)
    area = np.zeros(shape, np.uint8)
    for name, lumen, line in left:
        out = distance_to(line, shape, step) - lumen / 2
        hu = np.maximum(hu, (-100 + 140 * np.clip(0.5 - out / step, 0, 1)).astype(np.float32))
        closer = (out < 1.5) & (out < nearest)
        area[closer], nearest = VESSEL_INDEX[name], np.minimum(nearest, out)
    structures = np.zeros(shape, np.uint8)
    structures[:, :, :16] = STRUCTURE_INDEX["aorta"]
    structures[:, :26, 24:] = STRUCTURE_INDEX["right_ventricle"]
    structures[50:, 50:, 24:] = STRUCTURE_INDEX["right_atrium"]
    hu[structures > 0] = 40
    found = measures.coronaries(painted(hu, structures, area, step))
    assert found["LM_length_mm"] == pytest.approx(10.0, abs=1.5)
    assert found["LAD_length_mm"] == pytest.approx(80.0, abs=3.0)
    assert found["LM_mm"] == pytest.approx(4.4, abs=0.3)
    assert found["LAD_proximal_mm"] == pytest.approx(3.6, abs=0.25)
    assert found["LAD_distal_mm"] == pytest.approx(3.6, abs=0.25)
    assert found["RCA_PDA_length_mm"] == pytest.approx(60.0, abs=3.0)
    assert found["RCA_proximal_mm"] == pytest.approx(3.0, abs=0.2)
    assert "LCX_length_mm" not in found
    assert found["LAD_tortuosity"] == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize(("groove", "margin", "expected"), [("RCA", "LCX", 0.0), ("LCX", "RCA", 1.0), ("LCX", "LCX", 1.0)])
def test_dominance_is_read_from_the_groove_behind_both_ventricles(groove, margin, expected):
    structures, area = (np.zeros((60, 60, 80), np.uint8) for _ in range(2))
    structures[:, :40, :30] = STRUCTURE_INDEX["right_ventricle"]
    structures[:, :40, 36:] = STRUCTURE_INDEX["myocardium"]
    structures[57:, 50:, 70:] = STRUCTURE_INDEX["aorta"]
    area[4:20, 42:46, 31:35] = VESSEL_INDEX[groove]
    area[4:40, 42:46, 4:10] = VESSEL_INDEX[margin]  # longer, and near one ventricle only
    assert measures.left_dominant(painted(None, structures, area, 1.5)) == expected
    area[:, :, 20:] = 0
    assert measures.left_dominant(painted(None, structures, area, 1.5)) is None


def test_the_distance_from_a_groove_is_that_of_the_farther_chamber():
    structures = np.zeros((40, 60, 100), np.uint8)
    structures[:, :, :20] = STRUCTURE_INDEX["right_ventricle"]
    structures[:, :, 50:] = STRUCTURE_INDEX["myocardium"]
    line = np.stack([np.linspace(3, 55, 60), np.full(60, 40.0), np.full(60, 42.0)], 1)  # 13.5 and 33 mm away
    line[:8, 2] = 60.0  # its first eighth doesn't count
    course = measures.Course(line, np.full(60, VESSEL_INDEX["LAD"]), np.full(60, 3.0))
    found = measures.off_groove(painted(None, structures, None, 1.5, structures.shape), {"LAD": course})
    assert found == {"LAD_off_groove_mm": pytest.approx(75 - 42)}


def test_a_bent_course_is_longer_than_its_chord():
    """A half circle: pi / 2."""
    turn = np.linspace(0, np.pi, 300)
    line = np.stack([np.full(300, 20.0), 30 + 30 * np.sin(turn), 50 - 30 * np.cos(turn)], 1)
    structures, area = (np.zeros((60, 110, 130), np.uint8) for _ in range(2))
    structures[:, :26, :] = STRUCTURE_INDEX["aorta"]
    structures[50:, :, :] = STRUCTURE_INDEX["right_atrium"]
    area[distance_to(line, area.shape, 0.75) < 3.0] = VESSEL_INDEX["RCA"]
    structures[:, :, 65:][structures[:, :, 65:] == STRUCTURE_INDEX["aorta"]] = 0
    hu = np.where(area > 0, 40, -100).astype(np.float32)
    found = measures.coronaries(painted(hu, structures, area, 0.75))
    assert found["RCA_tortuosity"] == pytest.approx(np.pi / 2, rel=0.06)


# -- HU and noise -------------------------------------------------------------------------------------------------------


def test_blood_muscle_and_fat_keep_away_from_their_edges():
    shape = (80,) * 3
    structures = np.zeros(shape, np.uint8)
    structures[ball(shape, (30, 30, 30), 25)] = STRUCTURE_INDEX["myocardium"]
    structures[ball(shape, (30, 30, 30), 15)] = STRUCTURE_INDEX["left_ventricle"]
    hu = np.full(shape, -95, np.float32)
    hu[structures == STRUCTURE_INDEX["myocardium"]] = 52
    hu[structures == STRUCTURE_INDEX["left_ventricle"]] = 41
    found = measures.heart_tissues(painted(gaussian_filter(hu, 1.0), structures, structures * 0))
    assert found["blood_hu"] == pytest.approx(41, abs=0.5)
    assert found["myocardium_hu"] == pytest.approx(52, abs=1.0)
    assert found["epicardial_fat_hu"] == pytest.approx(-95, abs=2.0)


def test_lung_liver_and_muscle_of_a_box_shaped_chest():
    shape = (60, 70, 90)
    hu = np.full(shape, -1000, np.float32)
    hu[:, 5:65, 5:85] = -100
    hu[:, 50:62, 20:70] = 55  # muscle of the back
    hu[20:, 10:44, 10:80] = -850  # lungs
    hu[2:18, 10:44, 10:50] = 60  # liver, on the right (low x), below the heart
    hu[2:18, 10:44, 60:80] = 20  # stomach
    structures = np.zeros(shape, np.uint8)
    structures[25:45, 20:40, 40:60] = 1
    hu[structures == 1] = 40
    found = measures.body_tissues(painted(hu, structures, structures * 0, step=2.0))
    assert found == {"lung_hu": -850, "liver_hu": 60, "muscle_hu": 55}


@pytest.mark.parametrize("marrow", [90.0, 240.0])
def test_marrow_and_cortex_of_a_vertebra(marrow):
    y, x = np.indices((96, 96)) * STEP
    outer, canal = np.hypot((y - 26) / 15, (x - 36) / 20), np.hypot(y - 52, x - 36)
    one = np.full((96, 96), 50.0)
    one[outer < 1] = 600
    one[np.hypot((y - 26) / 13, (x - 36) / 18) < 1] = marrow
    one[(canal < 13) & (outer >= 1)] = 600
    one[canal < 9] = 30
    disc = one.copy()
    disc[outer < 1] = 85
    plate = np.where(outer < 1, 600.0, one)
    stack = [plate] * 2 + [one] * 20 + [plate] * 2 + [disc] * 5 + [plate] * 2
    hu = np.stack([gaussian_filter(s, 0.5) for s in stack]).astype(np.float32)
    found = measures.bone_tissues(painted(hu, hu.astype(np.uint8) * 0, hu.astype(np.uint8) * 0))
    assert found["trabecular_hu"] == pytest.approx(marrow, rel=0.03)
    assert found["cortical_hu"] == pytest.approx(600, rel=0.1)


def test_noise_and_its_autocorrelation():
    rng = np.random.default_rng(5)
    white = rng.normal(0, 1, (12, 160, 160))
    smooth = gaussian_filter(white, (0, 1.0, 0.8))
    smooth *= 20 / smooth.std()
    slope = 30.0 * np.arange(12)[:, None, None]  # slices differ in level, as with cupping: no noise
    mask = np.zeros(white.shape, bool)
    mask[1:11, 20:140, 20:140] = True
    found = measures.noise(smooth + slope, mask)
    assert found["noise_hu"] == pytest.approx(20, rel=0.03)
    assert found["autocorrelation_y1"] == pytest.approx(np.exp(-1 / 4), abs=0.03)
    assert found["autocorrelation_y2"] == pytest.approx(np.exp(-1), abs=0.03)
    assert found["autocorrelation_x1"] == pytest.approx(np.exp(-1 / (4 * 0.64)), abs=0.03)
    assert found["autocorrelation_z1"] == pytest.approx(0, abs=0.03)
    assert measures.noise(smooth, np.zeros_like(mask)) == {}


def test_labels_are_sampled_where_they_lie():
    labels = np.zeros((20, 20, 20), np.uint8)
    labels[10, 5, 8] = 3
    found = measures.sampled(labels, 2.0, np.array([-4.0, 2.0, 0.0]), (20, 30, 30), np.array([3.0, 0.5, 1.0]))
    index = np.argwhere(found == 3)
    assert (index * [3.0, 0.5, 1.0] + [-4.0, 2.0, 0.0]).mean(0) == pytest.approx([20.0, 9.75, 15.5], abs=0.6)
    assert found[0].max() == 0


def test_agatston_counts_vessels_only():
    hu, owner = np.full((3, 20, 20), 40, np.int16), np.zeros((3, 20, 20), np.uint8)
    hu[1, 5:9, 5:9], owner[1, 5:9, 5:9] = 350, VESSEL_INDEX["LAD"]
    hu[1, 12:16, 12:16], owner[1, 12:16, 12:16] = 500, 6  # aortic valve
    found = measures.agatston(hu, owner, (3.0, 0.5, 0.5), 120)
    assert found["agatston_LAD"] == found["agatston_total"] == pytest.approx(16 * 0.25 * 3)


# -- table --------------------------------------------------------------------------------------------------------------

RANGE = literature.Published("a", "a", "mm", 10, 20, "somebody", below="too small because", above="too large because")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.linspace(11, 19, 50), "within"),
        (np.array([9.0] * 4 + [15.0] * 46), "within"),  # 8 % outside
        (np.array([9.0] * 6 + [15.0] * 44), "outside: 12 % below; too small because"),
        (np.array([25.0] * 40 + [15.0] * 10), "outside: 80 % above; too large because"),
        (np.array([5.0] * 20 + [25.0] * 20), "outside: 50 % below and 50 % above; too small because; too large because"),
    ],
)
def test_verdicts_are_computed(values, expected):
    assert literature.verdict(values, RANGE) == expected


def test_a_reason_is_given_only_where_it_is_known():
    plain = literature.Published("a", "a", "mm", 10, 20, "somebody")
    assert literature.verdict(np.full(9, 30.0), plain) == "outside: 100 % above; reason not known"


def test_two_sexes_make_one_range():
    assert literature.two_sd((160, 29), (135, 26)) == (83, 218)
    assert all(one.low < one.high and one.source for one in literature.TABLE)
    keys = [one.key for one in literature.TABLE] + [key for key, *_ in literature.INFORMATION]
    assert len(set(keys)) == len(keys)


def test_the_table_counts_what_is_within():
    rows = pd.DataFrame({"left_ventricle_ml": [120.0, 140.0], "lung_hu": [-500.0, -510.0]})
    table, inside, counted = literature.literature_table(rows)
    assert (inside, counted) == (1, len(literature.TABLE))
    assert "| left ventricle, blood | 130 ± 14.1 mL | 121 to 139 | 83.0 to 218 | 2 | within | Hudsmith" in table
    assert "| lung | -505 ± 7.07 HU | -510 to -500 | -900 to -780 | 2 | outside: 100 % above" in table


def test_agatston_beside_the_paper():
    rows = pd.DataFrame({f"agatston_{n}": [0.0, 200.0, 400.0, 1000.0] for n in ("LM", "LAD", "LCX", "RCA", "total")})
    paper = {"LM": [400, 10], "LAD": [4000, 10], "LCX": [1, 1], "RCA": [1, 1], "total": [400, 10], "categories": [1, 1, 1, 1]}
    table = literature.agatston_table(rows, paper)
    assert "| LM | 400.0 ± 432.0 | 100.0 % | 400.0 ± 10.0 | 9.1 % | within |" in table
    assert "| LAD | 400.0 ± 432.0 | 100.0 % | 4000.0 ± 10.0 | 90.9 % | outside: -3600.0, 95 % interval ± 423.5 |" in table
    assert "| measured | 1 (25 %) | 0 (0 %) | 2 (50 %) | 1 (25 %) |" in table


def test_great_vessels_that_leave_the_box_are_cut_at_the_same_place():
    errors = phantom_truth.volume_errors("ellipsoid", 1).set_index("label")["error"]
    assert errors[["aorta", "pulmonary_artery"]].abs().max() < 0.005


# -- runs ---------------------------------------------------------------------------------------------------------------


def test_an_interrupted_run_loses_nothing(monkeypatch, tmp_path):
    made = []

    def fake(number, phantoms, heart_model):
        made.append(number)
        if len(made) == 3:
            raise KeyboardInterrupt
        return {"seed": phantom.FIRST_SEED + number, "value": number}

    monkeypatch.setattr(phantom, "measure_phantom", fake)
    path, console = tmp_path / "runs" / "a.jsonl", Console(quiet=True)
    with pytest.raises(KeyboardInterrupt):
        phantom.measured(5, "polar", 1, path, console)
    with path.open("a") as file:
        file.write('{"seed": 600000')  # cut off
    rows = phantom.measured(5, "polar", 1, path, console)
    assert [row["value"] for row in rows] == [0, 1, 2, 3, 4]
    assert made == [0, 1, 2, 2, 3, 4]
    assert len(rows_module.stored(path, "seed")) == 5
    phantom.measured(5, "polar", 1, path, console)
    assert len(made) == 6


def test_seeds_are_of_this_benchmark_alone():
    recipe = phantom.recipe_of(7, 10, "polar")
    assert recipe.seed == 60_000_007
    assert recipe.heart_model == "polar"
    assert recipe.agatston == phantom.plan_cohort("sartoretti2022", 10, "polar")[7].recipe.agatston
    seeds = (phantom.FIRST_SEED + 10_000, phantom_truth.TRUTH_SEED, pictures.PICTURE_SEED)
    assert all(60_000_000 <= seed < 70_000_000 for seed in seeds)


def test_the_page_is_written_between_its_marks(tmp_path):
    page = tmp_path / "phantom.md"
    page.write_text("a\n<!-- speed: start -->\nold\n<!-- speed: end -->\nb\n")
    phantom.write(str(tmp_path), "speed", "new")
    assert page.read_text() == "a\n<!-- speed: start -->\n\nnew\n\n<!-- speed: end -->\nb\n"
    with pytest.raises(ConfigError, match="marks"):
        phantom.write(str(tmp_path), "truth", "new")
    phantom.write("", "truth", "new")


def test_the_real_page_has_every_mark():
    page = (Path(__file__).parents[2] / "docs" / "phantom.md").read_text(encoding="utf-8")
    for mark in ("measured ellipsoid", "measured polar", "truth", "speed"):
        assert page.count(f"<!-- {mark}: start -->") == page.count(f"<!-- {mark}: end -->") == 1
    for name in pictures.PICTURES:
        assert f"(phantom_{name}.png)" in page


@pytest.mark.parametrize(
    "command", [[], ["draw"], ["measure", "size=3"], ["measure", "heart_model=cube"], ["measure", "phantoms=0"]]
)
def test_bad_commands_exit_with_2(command, capsys):
    assert phantom.main([*command]) == 2
    assert capsys.readouterr().err.startswith("error:")


def test_the_cache_belongs_to_one_state_of_the_source():
    assert json.dumps(phantom.source_hash()) == json.dumps(phantom.source_hash())
    assert len(phantom.source_hash()) == 10
