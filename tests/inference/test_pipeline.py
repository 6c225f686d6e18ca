"""A scan through the whole pipeline with networks whose answer is known."""

from dataclasses import replace

import numpy as np
import pytest
from simple_thorax import with_acquisition

from cacsnet.errors import EnhancedBloodError, NoHeartError, TubeVoltageError
from cacsnet.inference.pipeline import score_scan
from cacsnet.inference.settings import InferenceSettings, QualitySettings
from cacsnet.network.checkpoint import Model
from cacsnet.scan import Geometry, Scan

# 16 mm² of weight 3 in slices 2.5 mm apart
AGATSTON = 16 * 3 * 2.5 / 3


def test_the_known_plaque_is_scored_and_the_bone_rejected(thorax, model):
    result = score_scan(thorax, model)
    assert result.status == "ok"
    assert result.flags == ()
    assert result.score.total.agatston == pytest.approx(AGATSTON)
    assert result.score.vessels["LAD"].agatston == pytest.approx(AGATSTON)
    assert result.score.total.volume_mm3 == pytest.approx(16 * 2.5)
    assert (result.vessel_map > 0).sum() == 16
    assert set(np.unique(result.vessel_map)) == {0, 2}
    kept = [row for row in result.lesions if row["kept"]]
    assert [(row["vessel_or_reason"], row["slices"]) for row in kept] == [("LAD", "17-17")]
    assert kept[0]["centroid_x_mm"] == pytest.approx(158.5)
    assert "bone" in [row["vessel_or_reason"] for row in result.lesions if not row["kept"]]
    assert result.windows["fine_run"] > 0
    assert 20 < result.blood_hu < 100
    assert result.image_noise_hu == pytest.approx(0, abs=1e-3)
    assert list(result.seconds) == ["coarse windows", "heart", "candidates", "fine windows", "lesions", "score"]
    structures = result.structures_native(thorax)
    assert structures.shape == thorax.hu.shape
    assert structures[17, 110, 120] == 1


def test_without_a_fine_stage_the_coarse_probabilities_decide(thorax, model):
    thorax.hu[14:20, 105:117, 158:163] = 300  # large enough to survive the coarse spacing
    result = score_scan(thorax, Model(model.coarse, None, {}, ""))
    assert result.windows["fine_run"] == 0
    assert result.score.vessels["LAD"].agatston > AGATSTON


@pytest.mark.parametrize(("share", "kept"), [(0.0, True), (0.4, True), (0.6, False), (1.0, False)])
def test_coarse_and_fine_probabilities_decide_together(thorax, model, share, kept):
    """The coarse network can't see the small plaque, the fine one is sure of it."""
    result = score_scan(thorax, model, InferenceSettings(coarse_share=share))
    assert result.score.total.agatston == pytest.approx(AGATSTON if kept else 0)
    assert result.windows["fine_run"] > 0


def test_what_the_vessel_filter_would_remove_gets_no_fine_window(thorax, model):
    """The bone is a candidate either way. Ventricles that can't be right filter nothing."""
    settings = {mm: InferenceSettings(vessel_filter_mm=mm) for mm in (200.0, 5.0)}
    wide, narrow = (score_scan(thorax, model, settings[mm]) for mm in (200.0, 5.0))
    assert 0 < narrow.windows["fine_run"] < wide.windows["fine_run"]
    assert narrow.score.vessels["LAD"].agatston == pytest.approx(AGATSTON)
    assert len(narrow.lesions) == len(wide.lesions) > 1
    strange = replace(settings[5.0], quality=QualitySettings(ventricles_ml=(5000.0, 9000.0)))
    assert score_scan(thorax, model, strange).windows == wide.windows


def test_no_candidates_is_zero_and_runs_no_fine_window(thorax, model):
    thorax.hu[thorax.hu >= 130] = 0
    result = score_scan(thorax, model)
    assert result.score.total.agatston == 0
    assert result.lesions == []
    assert result.windows["fine_run"] == 0


def test_unknown_kvp_is_assumed_and_flagged(thorax, model):
    result = score_scan(with_acquisition(thorax, kvp=None), model)
    assert (result.status, result.flags, result.calibration.kvp) == ("flagged", ("kvp_assumed",), 120.0)
    assert result.score.total.agatston == pytest.approx(AGATSTON)


@pytest.mark.parametrize(
    "facts",
    [
        {"kvp": 90.0},
        {"kvp": 110.0},
        {"kvp": 140.0},
        {"tin_filter": True},
        {"kvp": 100.0, "tin_filter": True, "kernel": "Sa36f"},
        {"virtual_image": "VMI"},
        {"kvp": None, "multi_energy": True},
    ],
)
def test_spectra_without_thresholds_are_refused_before_a_network_runs(thorax, model, facts):
    with pytest.raises(TubeVoltageError):
        score_scan(with_acquisition(thorax, **facts), model)
    assert model.coarse.network.calls == 0


def test_the_kvp_independent_kernel_is_scored_with_the_thresholds_of_120(thorax, model):
    scan = with_acquisition(thorax, kvp=80.0, kernel="Sa36f\\3")
    result = score_scan(scan, model, InferenceSettings(scoring="siemens"))
    assert result.flags == ("kvp_independent_kernel",)
    assert (result.score.kvp, result.score.bands_hu[0], result.calibration.kvp) == (120.0, 130.0, 80.0)
    assert result.score.total.agatston == pytest.approx(AGATSTON)
    other = score_scan(with_acquisition(thorax, kvp=80.0), model, InferenceSettings(scoring="siemens"))
    assert other.score.bands_hu[0] == 177
    assert other.score.total.agatston == pytest.approx(AGATSTON * 2 / 3)  # 300 HU have weight 2 at 80 kVp


def test_the_mass_factor_of_the_scan_reaches_every_mass(thorax, model):
    thorax.hu[17, 60:64, 150:154] = 300  # filtered: not coronary
    thorax.hu[27:30, 119:125, 103:109] = 900  # between left atrium and ventricle
    settings = InferenceSettings(vessel_filter_mm=15)
    usual = score_scan(thorax, model, settings)
    scan = with_acquisition(thorax, mass_factor=2 * usual.score.mass_factor)
    result = score_scan(scan, model, settings)
    assert "mass_calibration_default" in usual.score.flags
    assert "mass_calibration_default" not in result.score.flags
    assert result.score.total.mass_mg == pytest.approx(2 * usual.score.total.mass_mg)
    pairs = list(zip(usual.lesions, result.lesions, strict=True))
    assert len(pairs) > 1
    assert all(b["mass_mg"] == pytest.approx(2 * a["mass_mg"]) for a, b in pairs if a["mass_mg"])
    assert usual.extracoronary["mitral_annulus"].mass_mg > 0
    for name, measures in usual.extracoronary.items():
        assert result.extracoronary[name].mass_mg == pytest.approx(2 * measures.mass_mg)


def thin_slices(scan, n=3, more=1):
    """The scan as n identical slices for each of its own, and some slices of air above."""
    hu = np.concatenate([scan.hu.repeat(n, axis=0), np.full((more, *scan.hu.shape[1:]), -1000, np.int16)])
    dz, dy, dx = scan.spacing_mm
    facts = replace(scan.acquisition, slice_thickness_mm=dz / n)
    return Scan(hu, Geometry.axial(hu.shape, (dz / n, dy, dx)), facts, scan.source)


def test_thin_slices_are_averaged_before_everything_else(thorax, model):
    whole = score_scan(thorax, model)
    thin = thin_slices(thorax)
    result = score_scan(thin, model, InferenceSettings(slab_mm=2.5))
    assert result.flags == ("slab_averaged",)  # the header's thickness is no longer that of what was scored
    assert (result.slabs.n_slices, result.slabs.n_dropped) == (3, 1)
    assert result.scan.hu.shape == result.vessel_map.shape == thorax.hu.shape
    assert result.scan.spacing_mm == thorax.spacing_mm
    assert result.score.total.agatston == pytest.approx(whole.score.total.agatston)
    assert result.image_noise_hu == whole.image_noise_hu
    kept, before = (next(row for row in r.lesions if row["kept"]) for r in (result, whole))
    assert kept["slices"] == before["slices"]
    assert kept["centroid_z_mm"] == pytest.approx(before["centroid_z_mm"] + 2.5 / 3)  # in the middle of its three slices
    plain = score_scan(thin, model)
    assert plain.slabs is None
    assert plain.scan is thin
    assert "thickness" in plain.flags


def test_slices_as_thick_as_a_slab_stay_as_they_are(thorax, model):
    result = score_scan(thorax, model, InferenceSettings(slab_mm=3))
    assert result.flags == ()
    assert result.scan is thorax
    assert result.slabs.n_slices == 1


def test_a_lesion_far_from_the_ventricles_is_filtered(thorax, model):
    thorax.hu[17, 60:64, 150:154] = 300  # 22 mm from the myocardium
    near = score_scan(thorax, model, InferenceSettings(vessel_filter_mm=15))
    far = score_scan(thorax, model, InferenceSettings(vessel_filter_mm=30))
    assert near.score.total.agatston == pytest.approx(AGATSTON)
    assert far.score.total.agatston == pytest.approx(2 * AGATSTON)


def test_a_scan_without_a_heart_is_no_zero(thorax, model):
    hu = np.where((thorax.hu > -59) & (thorax.hu < 100), -60, thorax.hu)
    with pytest.raises(NoHeartError):
        score_scan(replace(thorax, hu=hu), model)


def test_slices_above_the_ventricles_are_no_zero(thorax, model):
    top = Scan(thorax.hu[32:].copy(), Geometry.axial((12, 200, 200), thorax.spacing_mm), thorax.acquisition)
    with pytest.raises(NoHeartError):
        score_scan(top, model)


def test_enhanced_blood_is_refused_where_no_heart_is_found(thorax, model):
    hu = thorax.hu.copy()
    hu[(hu >= 32) & (hu <= 88)] += 250
    with pytest.raises(EnhancedBloodError):
        score_scan(replace(thorax, hu=hu), model)


def test_a_heart_cut_off_below_is_flagged(thorax, model):
    cut = Scan(thorax.hu[10:].copy(), Geometry.axial((34, 200, 200), thorax.spacing_mm), thorax.acquisition)
    result = score_scan(cut, model)
    assert result.flags == ("heart_cut_off_z",)
    assert result.score.total.agatston == pytest.approx(AGATSTON)
