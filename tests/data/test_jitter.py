"""Jitter: everything in a patch moves together, nothing folds, and what is drawn has the SDs that the settings say."""

import numpy as np
import pytest
import torch

from cacsnet.data.jitter import KNOT_MM, Jitter, Warp, cut_inner, jitter_from
from cacsnet.data.module import PhantomData
from cacsnet.data.patches import IGNORE, OTHER, PLAQUE
from cacsnet.errors import ConfigError
from cacsnet.phantom.anatomy import random_rotation

STILL = Jitter((0, 0, 0), 0, 0, 0, 0, 0, 0)


def with_blob(centre, size=48):
    """A patch with a bright blob, a labelled ball around it and a point in its middle."""
    z, y, x = torch.meshgrid(*(torch.arange(float(size)),) * 3, indexing="ij")
    distance2 = (z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2
    return {
        "hu": (1000 * torch.exp(-distance2 / 8)).round().to(torch.int16),
        "structures": (distance2 < 36).to(torch.uint8) * 3,
        "course": (distance2 < 9).to(torch.uint8) * 2,
        "points": torch.tensor([centre, (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)]),
        "point_label": torch.tensor([2, 0, 0], dtype=torch.uint8),
        "point_group": torch.tensor([PLAQUE, OTHER, IGNORE], dtype=torch.uint8),
    }


def centroid(weights):
    total = weights.double().sum()
    return [float((weights.double().movedim(a, -1) * torch.arange(float(weights.shape[a]))).sum() / total) for a in range(3)]


@pytest.mark.parametrize("seed", range(6))
def test_points_and_labels_follow_the_bright_voxels(seed):
    rng = np.random.default_rng(seed)
    full = with_blob(rng.uniform(20, 27, 3).tolist())
    turn = random_rotation(rng, (25, 25, 25)) * np.exp(rng.normal(0, 0.12))
    out = Warp(turn, rng.uniform(-3, 3, 3)).apply(full, 32)
    point = out["points"][0].tolist()
    assert centroid(out["hu"].clamp_min(0)) == pytest.approx(point, abs=0.1)
    assert centroid(out["structures"] == 3) == pytest.approx(point, abs=0.3)
    assert centroid(out["course"] == 2) == pytest.approx(point, abs=0.5)
    assert out["point_group"].tolist()[0] == PLAQUE
    assert out["point_group"].tolist()[2] == IGNORE


def test_a_point_that_leaves_the_patch_is_dropped():
    out = cut_inner(with_blob((24.0, 24.0, 24.0)), 32)
    assert out["point_group"].tolist() == [PLAQUE, IGNORE, IGNORE]  # the second one lay in the border


def test_beyond_the_border_nothing_is_known():
    out = Warp(np.eye(3) * 2.0, np.zeros(3)).apply(with_blob((24.0, 24.0, 24.0)), 32)
    assert (out["structures"][0] == IGNORE).all()
    assert (out["hu"][0] == -1000).all()


@pytest.mark.parametrize("seed", range(6))
def test_points_and_labels_follow_the_bright_voxels_of_a_bent_patch(seed):
    rng = np.random.default_rng(seed)
    full = with_blob(rng.uniform(18, 29, 3).tolist())
    warp = Jitter((10, 10, 10), 0.1, 0.1, 5.0).warp(rng, 32, 3, 1.5)
    out = warp.apply(full, 32)
    assert warp.bend is not None
    straight = Warp(warp.matrix, warp.shift).apply(full, 32)
    assert float((straight["points"][0] - out["points"][0]).norm()) > 0.3  # it was bent
    point = out["points"][0].tolist()
    assert centroid(out["hu"].clamp_min(0)) == pytest.approx(point, abs=0.3)
    assert centroid(out["structures"] == 3) == pytest.approx(point, abs=0.5)


def test_labels_are_never_mixed():
    out = Jitter().warp(np.random.default_rng(9), 32, 3, 1.5).apply(with_blob((24.0, 24.0, 24.0)), 32)
    assert set(out["structures"].unique().tolist()) == {0, 3}
    assert set(out["course"].unique().tolist()) == {0, 2}


def test_the_way_back_ends_where_it_began():
    rng = np.random.default_rng(3)
    for _ in range(40):
        warp = Jitter(bend_mm=5.0, stretch=0.1).warp(rng, 64, 4, 3.0)
        there = torch.from_numpy(rng.uniform(-31, 31, (200, 3))).float()
        places = there @ torch.from_numpy(warp.matrix.T).float() + torch.from_numpy(warp.shift).float() + warp._bent(there, 64)
        assert float((warp.back(places, 64) - there).abs().max()) < 0.02


def test_voxels_and_points_are_bent_alike():
    warp = Jitter(bend_mm=5.0).warp(np.random.default_rng(8), 32, 4, 3.0)
    voxels = torch.cartesian_prod(*(torch.arange(32.0) - 15.5,) * 3)
    field = torch.nn.functional.interpolate(warp.bend[None], (32,) * 3, mode="trilinear", align_corners=True)[0]
    assert torch.allclose(warp._bent(voxels, 32), field.flatten(1).T, atol=1e-4)


def test_no_patch_folds():
    """The largest bend that is allowed: volumes stay positive everywhere."""
    rng = np.random.default_rng(4)
    least = []
    for _ in range(60):
        warp = Jitter(bend_mm=KNOT_MM / 8).warp(rng, 64, 4, 3.0)
        there = torch.from_numpy(rng.uniform(-28, 28, (300, 3))).float()
        sides = [
            (warp._bent(there + 0.5 * e, 64) - warp._bent(there - 0.5 * e, 64)).numpy() for e in torch.eye(3)
        ]  # fmt: skip
        jacobian = warp.matrix + np.stack(sides, 2)
        least.append(np.linalg.det(jacobian).min())
    assert min(least) > 0


def test_what_is_drawn_has_the_given_spread():
    rng = np.random.default_rng(5)
    jitter = Jitter(turn_deg=(0, 0, 0), zoom=0.07, stretch=0.05, bend_mm=2.0)
    warps = [jitter.warp(rng, 64, 4, 3.0) for _ in range(3000)]
    size = np.array([np.log(np.linalg.det(w.matrix)) / 3 for w in warps])
    assert size.std() == pytest.approx(0.07, rel=0.05)
    along = np.array([np.log(np.linalg.norm(w.matrix[:, 0])) - s for w, s in zip(warps, size, strict=True)])
    assert along.std() == pytest.approx(0.05 * np.sqrt(2 / 3), rel=0.1)  # without its mean of three
    shear = np.array([w.matrix[0, 1] / np.exp(s) for w, s in zip(warps, size, strict=True)])
    assert shear.std() == pytest.approx(0.05 / np.sqrt(2), rel=0.1)
    bend = torch.stack([w.bend for w in warps[:200]]) * 3.0
    assert float(bend.std()) == pytest.approx(2.0, rel=0.1)
    assert bend.shape[2:] == (6, 6, 6)  # about KNOT_MM apart in 192 mm
    assert np.abs([w.shift for w in warps]).max() <= 4
    assert np.std([w.shift for w in warps]) == pytest.approx(4 / np.sqrt(3), rel=0.05)


def test_turns_are_about_the_named_axes():
    rng = np.random.default_rng(6)
    turned = [Jitter((20, 0, 0), 0, 0, 0).warp(rng, 32, 0, 3.0).matrix for _ in range(50)]
    assert np.allclose([t[0] for t in turned], [1, 0, 0], atol=1e-9)
    assert np.std([np.rad2deg(np.arctan2(t[2, 1], t[1, 1])) for t in turned]) == pytest.approx(20, rel=0.35)


def test_none_of_it_is_none_of_it():
    full = with_blob((22.0, 25.0, 24.0))
    out = STILL.apply(full, np.random.default_rng(0), 48, 0, 3.0)
    inner = cut_inner(full, 48)
    assert all(torch.allclose(out[key].float(), inner[key].float(), atol=1e-3) for key in inner)


def test_hu_change_by_factor_offset_and_noise():
    flat = with_blob((24.0, 24.0, 24.0)) | {"hu": torch.full((48, 48, 48), 100, dtype=torch.int16)}
    rng = np.random.default_rng(7)

    def hu(**each):
        values = dict.fromkeys(("hu_scale", "hu_offset", "noise_hu"), 0.0) | each
        return torch.stack([Jitter((0, 0, 0), 0, 0, 0, **values).apply(flat, rng, 32, 0, 3.0)["hu"] for _ in range(200)])

    assert float(hu(hu_scale=0.02).mean((1, 2, 3)).std()) == pytest.approx(2.0, rel=0.2)
    assert float(hu(hu_offset=6.0).mean((1, 2, 3)).std()) == pytest.approx(6.0, rel=0.2)
    noise = hu(noise_hu=8.0).flatten(1).std(1)
    assert float(noise.max()) < 8.2
    assert float(noise.mean()) == pytest.approx(4.0, rel=0.2)


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"zooms": 0.1}, "zooms"), ({"zoom": -0.1}, "zoom"), ({"turn_deg": [8, 6]}, "turn_deg"), ({"bend_mm": 6.0}, "bend_mm"),
        ({"turn_deg": [8, -6, 6]}, "turn_deg"),
    ],
)  # fmt: skip
def test_bad_settings_are_refused(config, field):
    with pytest.raises(ConfigError, match=field):
        jitter_from(config)


def test_a_stage_names_its_jitter():
    assert jitter_from(None) == Jitter()
    assert jitter_from({"turn_deg": [1, 2, 3], "zoom": 0.2}) == Jitter((1.0, 2.0, 3.0), 0.2)
    values = {"patch": 32, "border": 2, "spacing_mm": 4.0}
    assert PhantomData(values, length=4, jitter={"zoom": 0.2}).patches.jitter == Jitter(zoom=0.2)
