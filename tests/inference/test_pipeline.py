"""A scan through the whole pipeline with networks whose answer is known."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import with_acquisition

from cacsnet.errors import EnhancedBloodError, NoHeartError, TubeVoltageError
from cacsnet.inference.pipeline import score_scan
from cacsnet.inference.settings import InferenceSettings
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
    assert result.windows["fine_run"] + result.windows["fine_skipped"] > result.windows["fine_run"] > 0
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


def test_no_candidates_is_zero_and_runs_no_fine_window(thorax, model):
    thorax.hu[thorax.hu >= 130] = 0
    result = score_scan(thorax, model)
    assert result.score.total.agatston == 0
    assert result.lesions == []
    assert result.windows["fine_run"] == 0


def test_unknown_kvp_is_assumed_and_flagged(thorax, model):
    result = score_scan(with_acquisition(thorax, kvp=None), model)
    assert (result.status, result.flags, result.kvp) == ("flagged", ("kvp_assumed",), 120.0)
    assert result.score.total.agatston == pytest.approx(AGATSTON)


def test_kvp_without_thresholds_is_refused(thorax, model):
    with pytest.raises(TubeVoltageError):
        score_scan(with_acquisition(thorax, kvp=90.0), model)


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
