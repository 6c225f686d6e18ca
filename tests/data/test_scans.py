"""Scans of training patches: what is drawn, and that a cut of a scan is like the whole."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cacsnet.data import patches as patches_module
from cacsnet.data.patches import PatchSettings, make_patch
from cacsnet.data.scans import Field, ScanRanges, _cut, apply_field, draw_native
from cacsnet.grid import resample
from cacsnet.phantom.render import render
from cacsnet.phantom.scan import make_scan
from cacsnet.scanner import Protocol, finish, profile_names

RANGES = ScanRanges(0.5, (0.35, 0.98), (0.6, 5.0), (0.7, 2.0), (8.0, 34.0), 0.12, (120, 100, 80), 10e6)
FIRST, LAST = np.array([-100.0, -105.0, -95.0]), np.array([100.0, 95.0, 105.0])
HEART = np.array([[-55.0, -50.0, -60.0], [60.0, 55.0, 60.0]])


@pytest.fixture(scope="module")
def drawn():
    rng = np.random.default_rng(0)
    return [draw_native(RANGES, rng, FIRST, LAST, 3.0, HEART, 28.0) for _ in range(400)]


def test_half_of_the_scans_are_those_of_the_profiles(drawn):
    names = [protocol.scanner for protocol, _ in drawn]
    assert 0.43 < np.mean([name != "" for name in names]) < 0.57
    assert set(names) == {"", *profile_names()}


def test_the_other_half_is_wide(drawn):
    wide = [p for p, _ in drawn if not p.scanner and p.spacing_mm[1] < 1]
    spacing = np.array([p.spacing_mm for p in wide])
    assert spacing[:, 1].min() >= 0.35
    assert np.percentile(spacing[:, 1], 5) < 0.45
    assert np.percentile(spacing[:, 1], 95) > 0.9
    assert spacing[:, 0].min() >= 0.6
    assert np.percentile(spacing[:, 0], 5) < 1.6
    assert np.percentile(spacing[:, 0], 95) > 4.5
    thickness = np.array([p.thickness_mm for p in wide]) / spacing[:, 0]
    assert min((thickness < 0.95).mean(), (thickness > 1.05).mean(), (abs(thickness - 1) < 1e-6).mean()) > 0.15
    assert max(p.noise_hu for p in wide) > 32
    assert 0.3 < np.mean([bool(p.motion_path_mm) for p in wide]) < 0.7
    assert {p.kvp for p in wide} == {120, 100, 80}
    assert len({p.slice_profile for p in wide}) == 3


def test_a_tenth_of_the_wide_scans_has_large_pixels(drawn):
    large = [p.spacing_mm[1] > 1.9 for p, _ in drawn if not p.scanner]
    assert 0.05 < np.mean(large) < 0.2


def test_scans_are_cut_to_the_window_and_cover_enough_of_it(drawn):
    for protocol, _ in drawn:
        spacing = np.array(protocol.spacing_mm)
        first = np.array(protocol.origin_mm)
        last = first + spacing * (np.array(protocol.shape) - 1)
        margin = np.maximum(spacing, 3.0) + 1e-6
        assert (first >= FIRST - margin).all()
        assert (last <= LAST + margin).all()
        assert (np.minimum(last, LAST) - np.maximum(first, FIRST) > 20).all()
        assert protocol.cupping_hu == 0 == protocol.circle_mm
    assert max(np.prod(p.shape) for p, _ in drawn) < 3 * RANGES.native_voxels
    assert np.mean([np.prod(p.shape) for p, _ in drawn]) < 0.8 * RANGES.native_voxels


def test_the_phase_is_random(drawn):
    phase = np.array([((FIRST - p.origin_mm) / p.spacing_mm) % 1 for p, _ in drawn])
    assert (np.abs(phase.mean(0) - 0.5) < 0.06).all()
    assert (np.abs(phase.std(0) - 12**-0.5) < 0.04).all()


def test_a_scan_elsewhere_follows_the_window():
    rng = np.random.default_rng(1)
    shift = np.array([250.0, 0.0, 150.0])
    for _ in range(40):
        protocol, _ = draw_native(replace(RANGES, realistic_share=1.0), rng, FIRST + shift, LAST + shift, 3.0, HEART, 28.0)
        assert (np.array(protocol.shape) * protocol.spacing_mm > 25).all()


def test_cupping_and_padding_of_a_cut_are_those_of_the_whole_field():
    whole = Protocol(
        (2.0, 1.0, 1.1),
        (6, 120, 110),
        (0.0, -60.0, -50.0),
        2.0,
        noise_hu=0.0,
        cupping_hu=9.0,
        circle_mm=100.0,
        padding_hu=-2048,
    )
    centre = (-60.0 + 59.5, -50.0 + 1.1 * 54.5)
    hu = torch.linspace(-900, 200, 6 * 120 * 110).reshape(6, 120, 110).round()
    first, last = np.array([2.0, -30.0, -10.0]), np.array([8.0, 50.0, 60.0])
    cut = _cut(whole, first, last, 1.0)
    low = np.round((np.array(cut.origin_mm) - whole.origin_mm) / whole.spacing_mm).astype(int)
    inside = tuple(slice(a, a + n) for a, n in zip(low, cut.shape, strict=True))
    assert 0 < np.prod(cut.shape) < hu.numel()
    mine = apply_field(hu[inside].clone(), cut, Field(centre, whole.cupping_hu, whole.circle_mm, whole.padding_hu))
    expected = finish(hu.clone(), whole, torch.Generator().manual_seed(0))[inside]
    assert (mine == -2048).any()
    assert torch.equal(mine == -2048, expected == -2048)
    assert (mine - expected).abs().max() <= 1
    assert (mine - hu[inside])[mine != -2048].min() < -3


def autocorrelation(values, known):
    """At one and two voxels along each axis [6], of what lies in ``known``."""
    out = []
    for axis in range(3):
        for lag in (1, 2):
            a, b = (np.moveaxis(v, axis, 0) for v in (values, known))
            both = b[lag:] & b[:-lag]
            out.append(float((a[lag:] * a[:-lag])[both].mean() / (values[known] ** 2).mean()))
    return np.array(out)


def test_a_patch_is_like_the_same_window_of_a_whole_scan(monkeypatch):
    """The same protocols on grids that go on for 40 mm beyond the window, then the same resampling: mean, variance and
    autocorrelation of tissue and of noise agree. (The noise itself is another one.)"""
    settings = PatchSettings(
        spacing_mm=4.0, patch=32, border=2, step_mm=4.0, images_per_patient=10, native_mvox=0.4, far_share=0.0,
        device_share=0.0, enhanced_share=0.0, offset_mm=5.0,
    )  # fmt: skip
    seen = []

    def spy(patient, anatomy, deposits, protocol, seed):
        seen.append((patient, anatomy, deposits, protocol.still(), seed))
        return make_scan(*seen[-1])

    monkeypatch.setattr(patches_module, "make_scan", spy)
    monkeypatch.setattr(patches_module, "apply_field", lambda hu, *_: hu)
    painted, noisy = [], []
    large = None
    for index in range(10):
        patch = make_patch(settings, index)
        patient, anatomy, deposits, cut, seed = seen[-1]
        more = np.ceil(40 / np.array(cut.spacing_mm)).astype(int)
        origin = np.array(cut.origin_mm) - more * cut.spacing_mm
        shape = np.array(cut.shape) + 2 * more
        whole = replace(cut, shape=tuple(shape.tolist()), origin_mm=tuple(origin.tolist()))
        if large is None:
            corner = (np.array(anatomy.origin_mm) - 12 * 4.0).tolist()
            large = render(
                patient, patches_module._painted(settings, 0).arteries, corner, 4.0, [n + 24 for n in anatomy.hu.shape]
            )
        window = []
        for protocol, field, noise_seed in ((cut, anatomy, seed), (whole, large, seed + 1)):
            for noise_hu in (protocol.noise_hu, 0.0):
                scan = make_scan(patient, field, deposits, replace(protocol, noise_hu=noise_hu), noise_seed)
                first = (_first(settings, index) - protocol.origin_mm).tolist()
                window.append(resample(torch.from_numpy(scan.hu).float(), protocol.spacing_mm, first, 4.0, (36,) * 3).numpy())
        known = patch["structures"].numpy() != 255
        inner = known & (window[1] > -300) & (window[3] > -300)
        assert np.abs(window[0] - patch["hu"].numpy())[known].max() <= 1
        painted.append((window[1], window[3], inner))
        noisy.append((window[0] - window[1], window[2] - window[3], inner))
    for pairs, level in ((painted, "tissue"), (noisy, "noise")):
        mean = np.array([[v[inner].mean() for v in pair] for *pair, inner in pairs])
        sd = np.array([[v[inner].std() for v in pair] for *pair, inner in pairs])
        auto = np.array([[autocorrelation(v - v[inner].mean(), inner) for v in pair] for *pair, inner in pairs])
        assert np.abs(mean[:, 0] - mean[:, 1]).max() < 1.0, level
        assert np.abs(np.log(sd[:, 0] / sd[:, 1])).max() < 0.15, level
        assert abs(np.log(sd[:, 0] / sd[:, 1]).mean()) < 0.05, level
        differs = (auto[:, 0] - auto[:, 1]).reshape(-1, 3, 2)  # [patch, axis, lag]
        assert np.abs(differs).max() < 0.15, level
        assert np.abs(differs.mean(0)).max() < 0.12, level  # rays see the cut alone: the noise may have another direction
        assert np.abs(differs.mean(0)[0]).max() < 0.01, level  # along z
        assert np.abs(differs.mean(0)[1:].mean(0)).max() < 0.03, level  # in-plane, both directions together: the same noise


def _first(settings, index):
    """Patient mm of the window's first voxel, drawn as in make_patch."""
    rng = np.random.default_rng([index // settings.images_per_patient, 3, index % settings.images_per_patient])
    side = settings.spacing_mm * (settings.patch + 2 * settings.border)
    centre = patches_module._painted(settings, index // settings.images_per_patient).centre
    return centre - 0.5 * side + 0.5 * settings.spacing_mm + rng.uniform(-1, 1, 3) * patches_module.SHIFT_MM
