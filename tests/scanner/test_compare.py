"""The yardstick for noise in real scans: known noise is measured as what it is."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cacsnet.errors import ArgumentError
from cacsnet.scan import Acquisition, Geometry, Scan
from cacsnet.scanner import Protocol, noise
from cacsnet.scanner.compare import SIDE, compare, row_noise, smooth_regions, texture

PROTOCOL = Protocol((3.0, 0.7, 0.7), (4, 160, 160), (0.0, 0.0, 0.0), 3.0, fwhm_mm=1.2, noise_hu=15.0)


def noisy(**changes):
    return 40.0 + noise(replace(PROTOCOL, **changes), torch.Generator().manual_seed(2)).numpy()


def test_regions_lie_in_soft_tissue_apart_from_each_other_and_from_structure():
    hu = noisy()
    hu[:, :60] = -1000.0
    hu[:, 100:130, 100:130] += 60.0 * (np.indices((30, 30)).sum(0) % 20 > 10)
    regions = smooth_regions(hu)
    assert len(regions) == 24
    for n, (k, i, j) in enumerate(regions):
        assert i >= 60
        assert hu[k, i : i + SIDE, j : j + SIDE].min() > -220
        assert all(a != k or abs(b - i) >= SIDE or abs(c - j) >= SIDE for a, b, c in regions[:n])
    busy = [r for r in regions[:8] if 80 < r[1] < 125 and 80 < r[2] < 125]
    assert not busy


def test_texture_measures_sd_and_autocorrelation():
    expected = noisy() - 40
    measured = texture(noisy(), smooth_regions(noisy()))
    assert measured["sd_hu"][0] == pytest.approx(15.0, rel=0.06)
    truth = [np.corrcoef(expected[:, :, d:].ravel(), expected[:, :, :-d].ravel())[0, 1] for d in (1, 2, 3)]
    assert measured["along_x"] == pytest.approx(truth, abs=0.08)
    assert measured["along_y"] == pytest.approx(truth, abs=0.08)
    assert abs(measured["next_slice"][0]) < 0.06
    thick = noisy(thickness_mm=6.0)
    assert texture(thick, smooth_regions(thick))["next_slice"][0] == pytest.approx(0.5, abs=0.08)


def test_row_noise_follows_the_rows():
    white = np.random.default_rng(0).normal(0, 10, (4, 160, 160))
    white[:, 80:] *= 2
    tissue = np.ones(white.shape, bool)
    tissue[:, :40] = False
    for axis in (1, 2):
        bands = row_noise(white, tissue, axis)
        assert np.isnan(bands[:3]).all()
        assert bands[5:7] == pytest.approx(10.0, rel=0.1)
        assert bands[9:] == pytest.approx(20.0, rel=0.1)
    smooth = np.repeat(white[:, :, :80], 2, axis=2)
    assert np.nanmean(row_noise(smooth, tissue, 2)) < 0.75 * np.nanmean(row_noise(smooth, tissue, 1))


def test_a_scan_made_by_the_model_agrees_with_the_model():
    geometry = Geometry.axial(PROTOCOL.shape, PROTOCOL.spacing_mm, (0.0, 0.0, 0.0))
    scan = Scan(noisy().round().astype(np.int16), geometry, Acquisition(modality="CT"))
    lines = compare(scan, 1.2, 0.0).splitlines()
    assert len(lines) == 7
    real, model = (
        [float(v) for v in line.split() if v.replace(".", "").lstrip("-").isdigit()] for line in (lines[1], lines[4])
    )
    assert model[0] == pytest.approx(real[0], rel=0.01)
    assert model[1:4] == pytest.approx(real[1:4], abs=0.08)
    hu = np.full(PROTOCOL.shape, -1000.0)
    hu[:, 50:110, 50:110] = noisy()[:, 50:110, 50:110] + 200
    assert all(50 <= i <= 110 - SIDE and 50 <= j <= 110 - SIDE for _, i, j in smooth_regions(hu, (150.0, 400.0), 6))
    assert len(smooth_regions(hu, (150.0, 400.0), 6)) == 6
    assert smooth_regions(hu) == []
    air = Scan(np.full(PROTOCOL.shape, -1000, np.int16), geometry, Acquisition(modality="CT"))
    with pytest.raises(ArgumentError):
        compare(air, 1.2, 0.0)
