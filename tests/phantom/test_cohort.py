"""Whole scans with a reference that can be worked out by hand."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from cacsnet.agreement.statistics import category_indices
from cacsnet.io.read import read_scan
from cacsnet.labels import VESSEL_NAMES
from cacsnet.phantom import examples
from cacsnet.phantom.anatomy import HEART_MODELS, Patient
from cacsnet.phantom.cohort import (
    Recipe,
    Visit,
    bmi_kg_m2,
    body_mm,
    draw_scan,
    make_case,
    make_cases,
    make_subject,
    reference_row,
)
from cacsnet.phantom.deposits import DISTRACTORS
from cacsnet.phantom.examples import ensure_examples
from cacsnet.phantom.scan import make_scan
from cacsnet.scanner import IODINE_HU_PER_MG_CC
from cacsnet.scanner.profiles import load_profile
from cacsnet.scoring import score


def agatston_by_hand(truth):
    """Islands of reference calcium per slice, their area, peak and increment."""
    dz, dy, dx = truth.protocol.spacing_mm
    total = 0.0
    calcium = (truth.hu >= 130) & (truth.owner >= 1) & (truth.owner <= 4)
    for hu, mask in zip(truth.hu, calcium, strict=True):
        islands, count = ndimage.label(mask, np.ones((3, 3)))
        for k in range(1, count + 1):
            area, peak = (islands == k).sum() * dy * dx, hu[islands == k].max()
            if area >= 1.0:
                total += area * (1 + (peak >= 200) + (peak >= 300) + (peak >= 400)) * dz / 3
    return total


def test_a_case_is_deterministic(small_case):
    again = make_case(Recipe(30_000_104, agatston=350.0, matrix=80))
    assert np.array_equal(again.scan.hu, small_case.scan.hu)
    assert np.array_equal(again.truth.owner, small_case.truth.owner)
    assert again.reference == small_case.reference


def test_the_reference_is_the_score_by_hand(small_case):
    total = small_case.reference.total.agatston
    assert total > 20
    assert total == pytest.approx(agatston_by_hand(small_case.truth), rel=1e-6)
    parts = [small_case.reference.vessels[name].agatston for name in VESSEL_NAMES]
    assert sum(parts) == pytest.approx(total, rel=1e-6)


def test_the_scan_is_a_gated_ct(small_case):
    scan = small_case.scan
    assert scan.hu.dtype == np.int16
    assert scan.hu.shape[1:] == (80, 80)
    assert scan.spacing_mm[0] in (2.5, 3.0)
    assert 200 / 80 <= scan.spacing_mm[1] < 330 / 80
    assert scan.acquisition.kvp == 120
    assert scan.acquisition.gated
    z, y, x = small_case.origin_mm
    assert np.allclose(scan.geometry.affine_lps[:3, 3], [x, y, z])


def test_the_whole_heart_is_in_the_scan(small_case):
    """Every plaque's centre lies inside the field of view."""
    centres = small_case.patient.heart_to_patient(np.array([d.centre for d in small_case.deposits if d.owner <= 4]))
    index = (centres - np.array(small_case.origin_mm)) / small_case.scan.spacing_mm
    assert (index > 0).all()
    assert (index < np.array(small_case.scan.hu.shape) - 1).all()


def test_noise_is_what_the_protocol_says(small_case):
    """Two scans of one patient differ by noise alone; in the middle of the field it has the protocol's SD."""
    protocol, case = small_case.truth.protocol, small_case
    from cacsnet.phantom.render import render

    step = 2.5
    shape = [int(n * s / step) + 4 for n, s in zip(protocol.shape, protocol.spacing_mm, strict=True)]
    anatomy = render(case.patient, case.arteries, [o - step for o in protocol.origin_mm], step, shape)
    a, b = (make_scan(case.patient, anatomy, [], protocol, seed).hu.astype(float) for seed in (1, 2))
    soft = (a + b) / 2 > 0
    soft[:, :25] = soft[:, 55:] = soft[:, :, :25] = soft[:, :, 55:] = False
    assert (a - b)[soft].std() / np.sqrt(2) == pytest.approx(protocol.noise_hu, rel=0.08)
    assert abs((a - b)[soft].mean()) < 1


def test_without_plaques_the_score_is_exactly_nothing_whatever_else_calcifies():
    heavy = {"aorta": 6.0, "aortic_valve": 6.0, "mitral_annulus": 6.0}
    case = make_case(Recipe(30_000_105, agatston=0.0, distractors=heavy, matrix=64))
    assert case.reference.total.agatston == 0
    assert case.reference.total.volume_mm3 == 0
    bright = (case.truth.owner >= 5) & (case.truth.hu >= 130)
    assert bright.sum() > 20
    assert case.truth.owner[bright].min() >= 5


def test_an_enhanced_case_has_bright_blood_and_no_truth():
    case = make_case(Recipe(30_000_106, enhanced=True, matrix=64))
    assert case.deposits == []
    assert np.quantile(case.scan.hu, 0.98) > 110
    assert not case.truth.owner.any()


def test_iodine_is_brighter_at_a_lower_voltage():
    """Above the blood's own HU, in proportion to iodine's attenuation; the patient's other tissue stays."""
    plain, *_ = make_subject(Recipe(30_000_106, enhanced=True))
    for kvp in (80, 140):
        patient, *_ = make_subject(Recipe(30_000_106, enhanced=True, kvp=kvp))
        factor = IODINE_HU_PER_MG_CC[kvp] / IODINE_HU_PER_MG_CC[120]
        given, found, blood = plain.tissue, patient.tissue, plain.tissue.blood
        assert found.chamber_hu == pytest.approx({k: blood + factor * (hu - blood) for k, hu in given.chamber_hu.items()})
        assert found.myocardium == pytest.approx(blood + factor * (given.myocardium - blood))
        assert replace(found, myocardium=given.myocardium, chamber_hu=given.chamber_hu) == given
        painted = {part.name: part.hu for part in patient.parts()}
        assert painted["left_ventricle"] == found.chamber_hu["lv"]
    at_120 = Patient(30_000_106, enhanced=True).tissue
    assert plain.tissue.chamber_hu == pytest.approx(at_120.chamber_hu)  # and no scan changed another's
    without, *_ = make_subject(Recipe(30_000_106, agatston=0.0, distractors={}, kvp=80))
    assert without.tissue == Patient(30_000_106).tissue


def test_hanging_arms_are_no_part_of_the_trunk():
    patient = Patient(30_000_106)
    sizes = []
    for patient.thorax.arms_up in (True, False):
        sizes.append(body_mm(patient))
    assert sizes[0] == sizes[1]
    assert 200 < sizes[0][1] < sizes[0][0] < 480


def test_a_thicker_trunk_has_a_higher_bmi_and_the_mean_is_that_of_the_paper():
    patients = [Patient(40_000_000 + k) for k in range(24)]
    found = [bmi_kg_m2(patient) for patient in patients]
    assert np.mean(found) == pytest.approx(28.0, abs=2.5)  # three standard errors
    area = [np.prod(body_mm(patient)) for patient in patients]
    assert np.array_equal(np.argsort(found), np.argsort(area))


def test_a_chest_scan_is_wide_and_thick():
    case = make_case(Recipe(30_000_107, gated=False, matrix=64))
    slices = load_profile("chest_nongated").slices
    made = (case.truth.protocol.thickness_mm, case.scan.spacing_mm[0])
    assert made in {(s.thickness_mm, s.increment_mm) for s in slices}
    assert case.scan.acquisition.slice_thickness_mm == made[0]
    assert case.scan.spacing_mm[1] * 64 > 270
    assert case.scan.hu.shape[0] * case.scan.spacing_mm[0] > 200  # more than the heart
    assert draw_scan(Recipe(30_000_107, gated=False, increment_mm=5.0), Visit(), case.patient).thickness_mm == 5.0
    assert case.scan.acquisition.gated is False


def test_reference_row(small_case):
    """Scores of the scan, as in scores.csv; what isn't coronary apart."""
    row = reference_row("a", small_case, "p")
    assert list(row)[:3] == ["case_id", "patient_id", "scan"]
    assert (row["case_id"], row["patient_id"], row["scan"]) == ("a", "p", 1)
    for name, measures in {"total": small_case.reference.total, **small_case.reference.vessels}.items():
        for measure in ("agatston", "volume_mm3", "mass_mg"):
            assert row[f"{measure}_{name}"] == getattr(measures, measure)
    truth = small_case.truth
    alone = score(truth.hu, (truth.owner == DISTRACTORS["aorta"]).astype(np.uint8), truth.protocol.spacing_mm, 120)
    assert row["agatston_aorta"] == alone.total.agatston
    assert row["image_noise_hu"] == pytest.approx(truth.protocol.noise_hu, rel=0.5)
    assert row["risk_category"] == small_case.reference.risk_category
    assert reference_row("a", small_case)["patient_id"] == "a"


def test_two_scans_share_the_patient_and_differ_in_all_that_a_visit_changes():
    recipe = Recipe(30_000_110, agatston=150.0, matrix=128, increment_mm=3.0)
    first, second = make_cases(recipe, (Visit(1, 60.0), Visit(2, 60.0)))
    assert first.deposits is second.deposits
    assert first.patient is second.patient
    assert first.truth.protocol.noise_hu == second.truth.protocol.noise_hu
    assert first.truth.protocol.origin_mm != second.truth.protocol.origin_mm
    assert first.truth.protocol.motion_path_mm != second.truth.protocol.motion_path_mm
    assert first.reference.total.mass_mg != second.reference.total.mass_mg
    assert min(first.reference.total.agatston, second.reference.total.agatston) > 0


def test_without_a_target_the_population_decides():
    found = {tuple(vessels_of(Recipe(30_000_200 + k, distractors={}, population="balanced"))) for k in range(5)}
    assert len(found) > 1
    asked = vessels_of(Recipe(30_000_201, agatston={"LM": 0.0, "LAD": 0.0, "LCX": 90.0, "RCA": 0.0}))
    assert asked == ["LCX"]


def vessels_of(recipe):
    """Vessels with plaques, without making a scan."""
    _, _, deposits, _ = make_subject(recipe)
    return sorted({VESSEL_NAMES[d.owner - 1] for d in deposits if d.owner <= 4})


def test_both_heart_models_can_be_chosen():
    for model in HEART_MODELS:
        patient, *_ = make_subject(Recipe(30_000_111, agatston=0.0, distractors={}, heart_model=model))
        assert type(patient.heart) is type(HEART_MODELS[model](np.random.default_rng(0)))


def test_the_examples_cover_every_category_and_have_one_zero():
    totals = [recipe.agatston for recipe in examples.EXAMPLES.values()]
    assert len(totals) == 6
    assert totals.count(0.0) == 1
    assert set(category_indices(np.array(totals))) == {0, 1, 2, 3}
    assert any(0 < total <= 20 for total in totals)


@pytest.fixture
def tiny_cohort(monkeypatch):
    recipes = {"none": Recipe(30_000_108, agatston=0.0, matrix=64), "some": Recipe(30_000_109, agatston=200.0, matrix=64)}
    monkeypatch.setattr(examples, "EXAMPLES", recipes)
    return recipes


def test_examples_are_made_once_and_read_back_the_same(tmp_path, tiny_cohort, monkeypatch):
    made, cases = [], {}

    def remembered(recipe):
        cases[recipe.seed] = make_case(recipe)
        return cases[recipe.seed]

    monkeypatch.setattr(examples, "make_case", remembered)
    manifest = ensure_examples(tmp_path / "new", made.append)
    assert made == ["none", "some"]
    assert ensure_examples(tmp_path / "new", made.append) == manifest
    assert made == ["none", "some"]
    assert [p.name for p in (tmp_path / "new").iterdir()] == [manifest.parent.name]

    table, reference = pd.read_csv(manifest), pd.read_csv(manifest.parent / "reference.csv")
    assert list(table.columns) == ["case_id", "path", "patient_id", "scan"]
    assert {"case_id", "agatston_total", *(f"agatston_{name}" for name in VESSEL_NAMES)} <= set(reference.columns)
    assert reference["agatston_total"][0] == 0
    assert reference["agatston_total"][1] > 0
    for (case_id, recipe), path in zip(tiny_cohort.items(), table["path"], strict=True):
        scan, case = read_scan(manifest.parent / path), cases[recipe.seed]
        assert np.array_equal(scan.hu, case.scan.hu), case_id
        assert scan.spacing_mm == pytest.approx(case.scan.spacing_mm, abs=1e-4)
        assert scan.acquisition.kvp == 120


def test_examples_appear_complete_or_not_at_all(tmp_path, tiny_cohort, monkeypatch):
    def full_disk(scan, folder, **_):
        folder.mkdir(parents=True)
        if folder.name == "some":
            raise OSError("no space left")

    monkeypatch.setattr(examples, "make_case", lambda recipe: tiny_case(recipe))
    monkeypatch.setattr(examples, "reference_row", lambda case_id, case: {"case_id": case_id})
    monkeypatch.setattr(examples, "write_truth", lambda case, case_id, output: {"labels": case_id})
    monkeypatch.setattr(examples, "write_dicom_series", full_disk)
    with pytest.raises(OSError, match="no space"):
        ensure_examples(tmp_path)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(examples, "write_dicom_series", lambda scan, folder, **_: folder.mkdir(parents=True))
    assert ensure_examples(tmp_path).is_file()


def tiny_case(recipe):
    class Case:
        scan = None

    return Case()


def test_seeds_of_the_examples_are_never_trained_on():
    seeds = [recipe.seed for recipe in examples.EXAMPLES.values()]
    assert len(set(seeds)) == len(seeds)
    assert min(seeds) >= 20_000_000  # train and validation patches lie below
