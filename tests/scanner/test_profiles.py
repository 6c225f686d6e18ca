"""Scanner profiles: every YAML file is sound, draws stay within its ranges, and dose and habitus make the noise."""

from dataclasses import replace

import numpy as np
import pytest
import yaml

from cacsnet.errors import ArgumentError, ConfigError
from cacsnet.scanner import Protocol, draw_protocol, load_profile, profile_names
from cacsnet.scanner.profiles import PROFILE_FOLDER, noise_sd, profile_from_mapping, water_mm_of
from cacsnet.scoring import load_profile as scoring_profile

Z = (-60.0, 60.0)
GATED = ("canon", "ge_revolution", "philips", "siemens_force")


def draw(name, seed=0, z=Z, **given):
    return draw_protocol(name, np.random.default_rng(seed), z, **given)


def settings(name="ge_revolution"):
    return yaml.safe_load((PROFILE_FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))


def test_the_six_profiles_are_there():
    assert profile_names() == ("canon", "chest_nongated", "ge_revolution", "philips", "siemens_force", "spect_pet_ac")
    assert {name for name in profile_names() if load_profile(name).gated} == set(GATED)


@pytest.mark.parametrize("name", profile_names())
def test_draws_lie_within_the_profile(name):
    profile = load_profile(name)
    assert profile.name == name
    seen = set()
    for seed in range(40):
        protocol = draw(name, seed)
        kernels = [k for k in profile.kernels if k.name == protocol.kernel]
        assert any(
            k.fwhm_mm[0] <= protocol.fwhm_mm <= k.fwhm_mm[1]
            and k.edge_enhancement[0] <= protocol.edge_enhancement <= k.edge_enhancement[1]
            and k.iterative[0] <= protocol.iterative <= k.iterative[1]
            for k in kernels
        )
        ways = {(s.thickness_mm, s.increment_mm) for s in profile.slices}
        assert (protocol.thickness_mm, protocol.spacing_mm[0]) in ways
        field = protocol.spacing_mm[1] * protocol.shape[1]
        assert profile.field_mm[0] - 1e-6 <= field <= profile.field_mm[1] + 1e-6
        assert protocol.shape[1:] == (profile.matrix, profile.matrix)
        assert protocol.circle_mm == pytest.approx(field if profile.circle else 0.0)
        assert protocol.kvp in profile.kvp
        assert profile.cupping_hu[0] <= protocol.cupping_hu <= profile.cupping_hu[1]
        assert (protocol.slice_profile, protocol.padding_hu, protocol.sources) == (
            profile.slice_profile, profile.padding_hu, profile.sources,
        )  # fmt: skip
        assert 5 < protocol.noise_hu < 130
        assert scoring_profile("smartscore").threshold_hu(protocol.kvp) > 0  # every drawn scan can be scored
        seen.add((protocol.kernel, protocol.kvp))
    assert len(seen) >= len({k.name for k in profile.kernels})


@pytest.mark.parametrize("name", profile_names())
def test_the_same_seed_draws_the_same_protocol(name):
    assert draw(name, 5) == draw(name, 5)
    assert draw(name, 5) != draw(name, 6)


def test_the_grid_covers_the_range_around_the_centre():
    for seed in range(10):
        protocol = draw("philips", seed, centre_mm=(20.0, -15.0), matrix=100, field_mm=230.0)
        dz, dy, _ = protocol.spacing_mm
        assert protocol.shape[1:] == (100, 100)
        assert dy == pytest.approx(2.3)
        middle = np.array(protocol.origin_mm[1:]) + 2.3 * 99 / 2
        assert middle == pytest.approx([20.0, -15.0])
        first, last = protocol.origin_mm[0], protocol.origin_mm[0] + dz * (protocol.shape[0] - 1)
        assert Z[0] - 1e-9 <= first <= Z[0] + dz
        assert Z[1] - 2 * dz <= last <= Z[1] + 1e-9


def test_the_papers_protocol():
    """Sartoretti et al. 2022: 120 kVp, 256 x 0.625 mm, 25 cm, 280 ms, filtered back projection."""
    profile, protocol = load_profile("ge_revolution"), draw("ge_revolution")
    assert (protocol.kvp, protocol.iterative, profile.collimation_mm) == (120, 0.0, 160.0)
    assert protocol.spacing_mm[1] * 512 == pytest.approx(250.0)
    assert profile.rotation_ms == (280.0, 280.0)
    assert protocol.slab_slices == 0  # one beat covers the heart
    assert draw("ge_revolution", z=(-100.0, 100.0)).slab_slices == 64


def test_narrow_detectors_leave_slabs_and_each_has_a_shift():
    for name in ("siemens_force", "philips", "chest_nongated", "spect_pet_ac"):
        protocol = draw(name)
        slabs = -(-protocol.shape[0] // protocol.slab_slices)
        assert len(protocol.slab_shifts_mm) == slabs > 1
        assert protocol.slab_slices * protocol.spacing_mm[0] <= load_profile(name).collimation_mm + 1e-9


def test_motion_follows_gating_sources_and_heart_rate():
    def mean_path(name, rate):
        paths = [np.array(draw(name, seed, heart_rate_bpm=rate).motion_path_mm) for seed in range(60)]
        return np.mean([np.linalg.norm(np.diff(p, axis=0), axis=1).sum() for p in paths])

    assert mean_path("siemens_force", 60) < 0.6 * mean_path("ge_revolution", 60)
    assert mean_path("ge_revolution", 60) < 0.7 * mean_path("ge_revolution", 80)
    assert mean_path("spect_pet_ac", 60) > 2 * mean_path("ge_revolution", 60)


# -- noise ------------------------------------------------------------------------------------------------------------
PLAIN = Protocol((3.0, 0.5, 0.5), (10, 64, 64), (0.0, 0.0, 0.0), 3.0, fwhm_mm=1.0)


def sd(protocol=PLAIN, bmi=28.0, limits=(1.0, 1.0), reference=20.0):
    profile = replace(load_profile("ge_revolution"), exposure_limits=limits)
    return noise_sd(profile, reference, protocol, water_mm_of(bmi))


def test_noise_at_the_reference_is_the_references():
    assert sd() == pytest.approx(20.0)


def test_at_constant_exposure_noise_rises_by_0_81_hu_a_unit_of_bmi():
    assert (sd(bmi=29) - sd(bmi=27)) / 2 == pytest.approx(0.81, abs=0.03)


def test_exposure_control_evens_out_habitus_within_its_limits():
    controlled = {"limits": (0.5, 2.0)}
    assert sd(bmi=25, **controlled) == pytest.approx(sd(bmi=33, **controlled))
    assert sd(bmi=45, **controlled) > sd(bmi=33, **controlled)
    assert sd(bmi=18, **controlled) < sd(bmi=25, **controlled)
    assert sd(bmi=45, **controlled) == pytest.approx(sd(bmi=45) / 2**0.5)


def test_noise_follows_thickness_kernel_and_reconstruction():
    assert sd(replace(PLAIN, thickness_mm=1.5)) == pytest.approx(20 * 2**0.5)
    assert sd(replace(PLAIN, fwhm_mm=0.8)) == pytest.approx(20 * (1 / 0.8) ** 1.5, rel=0.05)
    assert sd(replace(PLAIN, edge_enhancement=0.5)) > 24
    assert sd(replace(PLAIN, iterative=0.5)) == pytest.approx(20 * 0.7)


def test_gated_profiles_have_the_published_noise():
    """120 kVp calcium scans: 18 to 20 HU, SD 2 to 4, over patients."""
    for name in GATED:
        drawn = [draw(name, seed) for seed in range(200)]
        plain = [p.noise_hu for p in drawn if p.kvp == 120 and p.iterative == 0]
        assert 14 < np.median(plain) < 23, name
        assert 1.5 < np.std(plain) < 6, name
        iterative = [p.noise_hu for p in drawn if p.iterative > 0.3]
        if iterative:
            assert np.median(iterative) < 0.9 * np.median(plain), name


def test_calcium_is_darker_in_heavier_patients():
    light, heavy = (np.mean([draw("canon", s, bmi_kg_m2=b).calcium_scale for s in range(40)]) for b in (20, 40))
    assert heavy < 0.95 * light


# -- errors -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "wrong",
    [
        {"kvp": {110: 1.0}}, {"kvp": {}}, {"kvp": [120]}, {"kvp": {120: -1.0}}, {"kvp": {"x": 1.0}},
        {"slices": []}, {"slices": [{"thickness_mm": 3.0}]}, {"slices": {"thickness_mm": 3.0}},
        {"slices": [{"thickness_mm": 0.0, "increment_mm": 3.0, "weight": 1.0}]},
        {"slices": [{"thickness_mm": "3", "increment_mm": 3.0, "weight": 1.0}]}, {"slice_profile": "triangle"}, {"kernels": []},
        {"field_mm": [250.0]}, {"field_mm": [260.0, 250.0]}, {"field_mm": 250.0}, {"field_mm": [0.0, 250.0]},
        {"matrix": 512.5}, {"matrix": 8}, {"circle": 1}, {"padding_hu": "air"}, {"noise_hu": [-5.0, 5.0]},
        {"exposure_limits": [0.0, 1.0]}, {"ray_noise": [0.0, 1.5]}, {"current_modulation": [-0.1, 0.5]}, {"sources": 0},
        {"collimation_mm": 0.0}, {"gated": "yes"}, {"cupping_hu": [-5.0, 5.0]}, {"unknown": 1},
    ],
)  # fmt: skip
def test_a_bad_profile_is_refused(wrong):
    with pytest.raises(ConfigError):
        profile_from_mapping(settings() | wrong)


@pytest.mark.parametrize(
    "wrong", [{"fwhm_mm": [0.0, 1.0]}, {"edge_enhancement": [0.0, 3.0]}, {"iterative": [0.0, 1.5]}, {"name": 3}, {"colour": 1}]
)
def test_a_bad_kernel_is_refused(wrong):
    given = settings()
    given["kernels"] = [given["kernels"][0] | wrong]
    with pytest.raises(ConfigError):
        profile_from_mapping(given)


def test_a_missing_setting_an_unknown_name_and_no_mapping_are_refused(tmp_path):
    given = settings()
    del given["rotation_ms"]
    with pytest.raises(ConfigError, match="rotation_ms"):
        profile_from_mapping(given)
    with pytest.raises(ConfigError, match="ge_revolution"):
        load_profile("picker")
    (tmp_path / "empty.yaml").write_text("", encoding="utf-8")
    with pytest.raises(ConfigError):
        load_profile("empty", tmp_path)


@pytest.mark.parametrize("wrong", [{"z": (5.0, 5.0)}, {"field_mm": 0.0}, {"matrix": 0}])
def test_an_empty_scan_is_refused(wrong):
    with pytest.raises(ArgumentError):
        draw("canon", **wrong)
