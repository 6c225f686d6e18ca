"""Training patches: reproducible, labelled only where something is known, points where the calcium is."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, default_collate

from cacsnet.data import patches as patches_module
from cacsnet.data.jitter import cut_inner
from cacsnet.data.module import PhantomData
from cacsnet.data.patches import (
    DISTRACTOR,
    IGNORE,
    OTHER,
    PLAQUE,
    PatchSettings,
    PhantomPatches,
    cache_name,
    make_patch,
    seed_of,
    settings_from,
)
from cacsnet.data.sampling import check_shares
from cacsnet.errors import ConfigError
from cacsnet.network.losses import sample_at_points
from cacsnet.phantom.anatomy import Patient
from cacsnet.phantom.deposits import place
from cacsnet.phantom.render import heart_box
from cacsnet.training.validation import VALIDATION_SEED

SETTINGS = PatchSettings(
    spacing_mm=4.0, patch=32, border=2, step_mm=4.0, images_per_patient=4, native_mvox=0.3, far_share=0.0, points=512,
    enhanced_share=0.0, offset_mm=10.0, device_share=0.0, pixel_mm=(0.9, 2.0), realistic_share=0.25,
)  # fmt: skip
WHOLE = 36


def same(a, b):
    return all(torch.equal(a[key], b[key]) for key in a) and set(a) == set(b)


@pytest.fixture(scope="module")
def several():
    return [make_patch(SETTINGS, index) for index in range(8)]


def test_the_same_index_gives_the_same_patch(several):
    """Also after other patches of this and of other patients were made in between."""
    for index in (5, 0, 7):
        patches_module._painted.cache_clear()
        assert same(make_patch(SETTINGS, index), several[index])


def test_images_of_one_patient_differ(several):
    assert not any(same(a, b) for k, a in enumerate(several) for b in several[:k])


def test_shapes_and_types(several):
    for patch in several:
        assert {key: (tuple(v.shape), v.dtype) for key, v in patch.items()} == {
            "hu": ((WHOLE,) * 3, torch.int16),
            "structures": ((WHOLE,) * 3, torch.uint8),
            "course": ((WHOLE,) * 3, torch.uint8),
            "points": ((512, 3), torch.float32),
            "point_label": ((512,), torch.uint8),
            "point_group": ((512,), torch.uint8),
        }


def test_labels_come_from_the_tables(several):
    assert set(torch.cat([p["structures"].unique() for p in several]).tolist()) <= {*range(8), IGNORE}
    assert set(torch.cat([p["course"].unique() for p in several]).tolist()) <= {*range(5), IGNORE}
    assert all((p["structures"] == label).any() for p in several for label in range(1, 8))  # the heart is in the window


def test_outside_the_scan_nothing_is_known(several):
    shares = []
    for patch in several:
        unknown = patch["structures"] == IGNORE
        assert torch.equal(unknown, patch["course"] == IGNORE)
        assert (patch["hu"][unknown] == -1000).all()
        assert (patch["hu"][~unknown] != -1000).float().mean() > 0.9
        shares.append(float(unknown.float().mean()))
    assert max(shares) > 0.1  # gated scans with a short range
    assert min(shares) < 0.02


def test_points_lie_in_the_patch_and_plaques_have_vessels(several):
    groups = {PLAQUE: 0, DISTRACTOR: 0, OTHER: 0}
    for patch in several:
        group, label = patch["point_group"], patch["point_label"]
        real = group != IGNORE
        points = patch["points"][real]
        assert (points >= 0).all()
        assert (points <= WHOLE - 1).all()
        assert ((label >= 1) & (label <= 4))[group == PLAQUE].all()
        assert (label[group != PLAQUE] == 0).all()
        for kind in groups:
            groups[kind] += int((group == kind).sum())
    assert min(groups.values()) > 10, groups


def test_calcium_points_are_where_calcium_brightens_the_patch(several, monkeypatch):
    """What calcium adds to the patch (trilinear, against the same patch without it) is highest just at its points."""
    draw = patches_module._calcium
    monkeypatch.setattr(patches_module, "_calcium", lambda *arguments: draw(*arguments)[:0])  # the same draws, nothing placed
    added = [patch["hu"].float() - make_patch(SETTINGS, k)["hu"].float() for k, patch in enumerate(several)]

    def mean_hu(shift):
        out = []
        for patch, hu in zip(several, added, strict=True):
            calcium = (patch["point_group"] == PLAQUE) | (patch["point_group"] == DISTRACTOR)
            points = patch["points"][calcium][None] + torch.tensor(shift)
            out.append(sample_at_points(hu[None, None], points)[0, 0])
        return float(torch.cat(out).mean())

    here = mean_hu((0.0, 0.0, 0.0))
    assert here > 30
    for axis in range(3):
        below, above = (mean_hu([step * (axis == k) for k in range(3)]) for step in (-1.0, 1.0))
        assert max(below, above) < here - 10
        assert mean_hu([3.0 * (axis == k) for k in range(3)]) < 0.4 * here
        peak = 0.5 * (below - above) / (below + above - 2 * here)  # of the parabola through the three, voxels
        assert abs(peak) < 0.1


def test_bone_and_noise_near_the_heart_come_first():
    """However many points there are, those beside the heart are not thinned out while far ones are kept."""
    few = replace(SETTINGS, points=60, realistic_share=0.0, noise_hu=(34.0, 36.0))
    counted = 0
    for index in range(8):
        subject = patches_module._painted(few, index // few.images_per_patient)
        patch, everything = make_patch(few, index), make_patch(replace(few, points=20_000), index)
        near = []
        for one in (patch, everything):
            points = one["points"][one["point_group"] == OTHER].numpy()
            heart = (one["structures"].numpy() > 0) & (one["structures"].numpy() != IGNORE)
            if not heart.any():
                continue
            distance = distance_transform_edt(~heart, sampling=few.spacing_mm)
            near.append(distance[tuple(np.round(points).astype(int).T)])
        if len(near) < 2:
            continue  # a window far from the heart
        assert (near[1] <= 50).all()
        close = [int((d <= 8).sum()) for d in near]  # well within 12 mm on both grids
        limit = int((patch["point_group"] == OTHER).sum())
        if len(near[1]) > limit:
            counted += 1
            assert close[0] >= min(close[1], 0.6 * limit)
            assert subject.distance is not None
    assert counted


def test_distractors_of_every_kind_are_not_coronary(monkeypatch):
    """Owners from 5 on, devices too, are distractor points with label 0."""
    monkeypatch.setattr(patches_module, "draw_plaques", lambda *_: [])
    patches_module._painted.cache_clear()
    patches = [make_patch(replace(SETTINGS, device_share=1.0), k) for k in range(2)]
    assert not any(p["point_label"].any() for p in patches)
    assert sum(int((p["point_group"] == DISTRACTOR).sum()) for p in patches) > 20
    assert not any((p["point_group"] == PLAQUE).any() for p in patches)


def test_plaques_lie_at_their_artery(several):
    """Within a few voxels of a plaque point there is artery area of its vessel."""
    for patch in several:
        for point, label in zip(*(patch[k][patch["point_group"] == PLAQUE] for k in ("points", "point_label")), strict=True):
            low, high = (point.round().long() - 3).clamp_min(0), point.round().long() + 4
            near = patch["course"][tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))]
            assert (near == label).any() or (near == IGNORE).any()


def test_calcium_and_scanner_differ_between_images(several, monkeypatch):
    seen = []
    real = patches_module.make_scan

    def spy(patient, anatomy, deposits, protocol, seed):
        seen.append((tuple(round(d.mass_mg, 6) for d in deposits), protocol.spacing_mm, protocol.noise_hu, seed))
        return real(patient, anatomy, deposits, protocol, seed)

    monkeypatch.setattr(patches_module, "make_scan", spy)
    for index in range(4):
        make_patch(SETTINGS, index)
    for values in zip(*seen, strict=True):
        assert len(set(values)) == 4


@pytest.mark.parametrize("model", ["ellipsoid", "polar"])
def test_both_heart_models_make_patches(model):
    patch = make_patch(replace(SETTINGS, heart_model=model), 0)
    assert all((patch["structures"] == label).any() for label in range(1, 8))
    assert (patch["course"] > 0).any()


def test_no_number_is_drawn_without_a_generator_of_the_cpu():
    """So no number is drawn on the device: parameters and noise are the same anywhere."""
    drawn = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            kwargs = kwargs or {}
            if any(word in str(func) for word in ("rand", "normal", "uniform", "bernoulli", "poisson", "dropout")):
                generators = [v for v in (*args, *kwargs.values()) if isinstance(v, torch.Generator)]
                drawn.append((str(func), [g.device.type for g in generators]))
            return func(*args, **kwargs)

    patches_module._painted.cache_clear()
    with Watch():
        make_patch(SETTINGS, 1)
    assert drawn
    assert all(devices == ["cpu"] for _, devices in drawn), drawn


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_devices_agree_within_one_hu(several):
    for index in range(3):
        other = make_patch(replace(SETTINGS, device="cuda"), index)
        off = (other["hu"].float() - several[index]["hu"].float()).abs()
        assert float((off <= 1).float().mean()) > 0.9999
        assert float((other["structures"] != several[index]["structures"]).float().mean()) < 1e-3
        assert same(other, make_patch(replace(SETTINGS, device="cuda"), index))


def test_any_number_of_workers_gives_the_same_patches(several):
    loader = DataLoader(
        PhantomPatches(SETTINGS, 3, jitter=None),
        batch_size=None,
        num_workers=2,
        multiprocessing_context="fork",
        sampler=[2, 0, 1],
    )
    for index, patch in zip([2, 0, 1], loader, strict=True):
        assert same(patch, cut_inner(several[index], 32))


def test_most_points_is_a_limit():
    few = make_patch(replace(SETTINGS, points=10), 0)
    assert few["points"].shape == (10, 3)
    assert int((few["point_group"] != IGNORE).sum()) <= 10


def test_enhanced_patients_teach_structures_only():
    patch = make_patch(replace(SETTINGS, enhanced_share=1.0), 0)
    assert (patch["course"] == IGNORE).all()
    assert (patch["point_group"] == IGNORE).all()
    assert not patch["point_label"].any()
    assert (patch["structures"] == 1).any()
    assert float(patch["hu"][(patch["structures"] >= 1) & (patch["structures"] <= 4)].float().median()) > 80


AROUND = replace(SETTINGS, spacing_mm=2.0, step_mm=2.5, patch=24, offset_mm=0.0)


def around(**shares):
    return replace(AROUND, shares=tuple(check_shares(shares).items()))


@pytest.mark.parametrize("kind", ["calcium", "distractor", "vessel", "heart", "outside"])
def test_windows_lie_around_places_of_the_kinds_asked_for(kind):
    settings = around(**{kind: 1.0})
    tried = 0
    for seed in range(4):
        patient = Patient(seed)
        arteries = patient.heart.grow_tree(np.random.default_rng([seed, 2]))
        centre = patches_module._centre(settings, patient, arteries, None)
        if kind in ("calcium", "distractor"):
            deposits = patches_module._first_calcium(settings, patient, arteries, np.random.default_rng([seed, 18]))
            bodies = [b for b in place(patient, deposits) if (b.deposit.owner > 4) == (kind == "distractor")]
            if not bodies:  # a patient without
                assert not centre.any()
                continue
            places = np.array([b.points.mean(0) for b in bodies])
        else:
            places = np.concatenate([patient.heart_to_patient(a.line) for a in arteries if a.vessel])
        low, high = heart_box(patient)
        in_box = ((centre >= low) & (centre <= high)).all()
        at_place = np.linalg.norm(places - centre, axis=1).min() < 1e-6
        assert {"heart": in_box, "outside": not in_box}.get(kind, at_place)
        tried += 1
    assert tried >= 2


def test_windows_around_vessels_show_arteries():
    settings = around(vessel=1.0)
    seen = [bool(((p["course"] > 0) & (p["course"] <= 4)).any()) for p in (make_patch(settings, 4 * k) for k in range(3))]
    assert all(seen)


def test_an_enhanced_patient_has_no_places_with_calcium():
    """The share of calcium goes to the other kinds; without any the window lies around the heart's centre."""
    patient = Patient(1, enhanced=True)
    arteries = patient.heart.grow_tree(np.random.default_rng([1, 2]))
    centre = patches_module._centre(around(calcium=0.9, vessel=0.1), patient, arteries, None)
    lines = np.concatenate([patient.heart_to_patient(a.line) for a in arteries if a.vessel])
    assert np.linalg.norm(lines - centre, axis=1).min() < 1e-3
    assert not patches_module._centre(around(calcium=1.0), patient, arteries, None).any()


def test_splits_never_share_seeds():
    last_of_training, first_of_validation = seed_of(0, 9_999_999), seed_of(1, 0)
    assert last_of_training < first_of_validation == VALIDATION_SEED
    patches_module._painted.cache_clear()
    a, b = make_patch(SETTINGS, 0), make_patch(replace(SETTINGS, split=1), 0)
    assert not torch.equal(a["hu"], b["hu"])


def test_cache_round_trip(tmp_path, several):
    stored = PhantomPatches(SETTINGS, 3, tmp_path / "new")
    assert same(stored.full(2), several[2])
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == [f"{k:06d}.npz" for k in range(3)]  # all of its patient
    patches_module._painted.cache_clear()
    before = stored.cached(2).stat().st_mtime_ns
    assert same(stored.full(2), several[2])
    assert same(stored.full(0), several[0])
    assert stored.cached(2).stat().st_mtime_ns == before


def test_patches_of_other_settings_never_mix():
    names = {cache_name(s) for s in (SETTINGS, replace(SETTINGS, step_mm=2.0), replace(SETTINGS, split=1), PatchSettings())}
    assert len(names) == 4
    assert cache_name(SETTINGS) == cache_name(replace(SETTINGS, device="cuda"))
    assert cache_name(SETTINGS) == cache_name(replace(SETTINGS))


def test_settings_from_yaml():
    assert settings_from({"pixel_mm": [0.5, 1.0], "patch": 48}) == PatchSettings(pixel_mm=(0.5, 1.0), patch=48)
    assert dict(settings_from({"shares": {"calcium": 3, "vessel": 1}}).shares)["calcium"] == 0.75
    assert settings_from({"shares": {}}) == settings_from({"shares": None}) == PatchSettings()
    with pytest.raises(ConfigError, match="calcum"):
        settings_from({"shares": {"calcum": 1}})
    with pytest.raises(ConfigError, match="pixels_mm") as error:
        settings_from({"pixels_mm": [0.5, 1.0]})
    assert "increment_mm" in str(error.value)  # names what is known


def test_without_jitter_the_middle_is_cut_out(several):
    out = cut_inner(several[1], 32)
    inner = (slice(2, 34),) * 3
    assert torch.allclose(out["hu"], several[1]["hu"][inner].float(), atol=0.5)
    assert torch.equal(out["structures"], several[1]["structures"][inner])
    real = out["point_group"] != IGNORE
    assert torch.allclose(out["points"][real], several[1]["points"][real] - 2, atol=1e-3)


def test_jitter_changes_with_the_epoch_and_is_reproducible(tmp_path):
    data = PhantomPatches(SETTINGS, 4, tmp_path)
    first, again = data[0], data[0]
    data.epoch = 1
    assert same(first, again)
    assert not torch.equal(first["hu"], data[0]["hu"])
    assert first["hu"].shape == (32, 32, 32)
    plain = PhantomPatches(SETTINGS, 4, tmp_path, jitter=None)
    assert torch.allclose(plain[0]["hu"], data.full(0)["hu"][2:34, 2:34, 2:34].float(), atol=0.5)


def test_patches_of_a_stage_make_batches(tmp_path):
    values = {"patch": 32, "border": 2, "spacing_mm": 4.0, "step_mm": 4.0, "native_mvox": 0.3, "images_per_patient": 4}
    data = PhantomData(values, length=4, batch_size=2, cache_dir=str(tmp_path), seed=3)
    batch = default_collate([data.patches[0], data.patches[1]])
    assert batch["hu"].shape == (2, 32, 32, 32)
    assert batch["points"].shape == (2, 3072, 3)
    assert [p.name for p in tmp_path.iterdir()] == [cache_name(data.settings)]
