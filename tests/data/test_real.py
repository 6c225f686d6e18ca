"""Patches of real scans: only what is known is taught, on the same path as in inference, reproducibly."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from cacsnet.data import real as real_module
from cacsnet.data import stored as stored_module
from cacsnet.data.inject import AWAY_MM, FALSE, Injection, add_bodies, inject
from cacsnet.data.manifest import OTHER_CALCIUM, DatasetSettings, load_case, read_manifest
from cacsnet.data.patches import DISTRACTOR, OTHER, PLAQUE, PatchSettings
from cacsnet.data.real import RealPatches, Reimaging, SampleSettings, cut_patch, patches_from, split_config
from cacsnet.data.sampling import Mixture, check_shares, draw_centre, phantom_places
from cacsnet.data.stored import StoreSettings, heart_region, label_candidates, noise_hu, open_stored, store, store_name
from cacsnet.errors import ArgumentError, ConfigError
from cacsnet.inference.windows import sample_scan
from cacsnet.io.write import write_nifti
from cacsnet.labels import IGNORE
from cacsnet.network.checkpoint import load_model, network_input
from cacsnet.network.losses import LossWeights, sample_at_points, total_loss
from cacsnet.phantom.calcium import Bed, Size, bend
from cacsnet.phantom.deposits import Body
from cacsnet.scan import Geometry
from cacsnet.scanner.protocol import Protocol

SETTINGS = PatchSettings(spacing_mm=3.0, patch=24, border=2, points=256)
SHAPE, SPACING = (30, 60, 60), (3.0, 2.0, 2.0)
MIDDLE = np.array([43.5, 59.0, 59.0])
SPOTS = {  # voxel: value in the label file, or None where nothing is labelled
    "LAD": ((14, 28, 28), 2), "other": ((12, 32, 24), 8), "ignore": ((16, 24, 34), 9),
    "unlabelled": ((10, 26, 34), None), "far": ((14, 4, 4), None),
}  # fmt: skip
LABELS = {0: "background", 2: "LAD", 8: "other", 9: "ignore"}


def write_scan(root, **dataset):
    """A ball of "left ventricle" in fat with bright spots, some of them labelled; returns the dataset of one case."""
    rng = np.random.default_rng(3)
    z, y, x = np.meshgrid(*(np.arange(n) * s for n, s in zip(SHAPE, SPACING, strict=True)), indexing="ij")
    ball = (z - MIDDLE[0]) ** 2 + (y - MIDDLE[1]) ** 2 + (x - MIDDLE[2]) ** 2 < 25.0**2
    hu = np.where(ball, 40, -100) + rng.normal(0, 8, SHAPE)
    hu[:, -1] = -1000
    labels = np.zeros(SHAPE, np.uint8)
    for (k, j, i), value in SPOTS.values():
        hu[k, j : j + 2, i : i + 2] = 400
        labels[k, j, i : i + 2] = value or 0  # the second row lies beside the contour
    geometry = Geometry.axial(SHAPE, SPACING)
    structures = ball.astype(np.uint8)
    for name, array in (("a", hu.round().astype(np.int16)), ("labels", labels), ("structures", structures)):
        write_nifti(root / f"{name}.nii.gz", array, geometry)
    write_nifti(root / "course.nii.gz", (ball & (abs(y - MIDDLE[1]) < 3) & (abs(z - MIDDLE[0]) < 3)).astype(np.uint8), geometry)
    head, row = "case_id,path,kvp,labels_path,structures_path,course_path", "a,a.nii.gz,120,labels.nii.gz,structures.nii.gz"
    (root / "manifest.csv").write_text(f"{head}\n{row},course.nii.gz\n")
    values = {"labels": LABELS, "structures": {0: "background", 1: "left_ventricle"}, "course": {0: "background", 1: "LAD"}}
    return DatasetSettings(str(root), **values | dataset)


def stored_scan(root, settings=None, **dataset):
    described = write_scan(root, **dataset)
    settings = settings or StoreSettings(str(root / "cache"), heart_margin_mm=6.0)
    return open_stored(store(read_manifest(described)[0], described, settings))


def patch_of(scan, real=None, seed=0):
    """The patch in the middle of a scan that was stored whole."""
    return cut_patch(scan, MIDDLE, SETTINGS, real or SampleSettings(), np.random.default_rng(seed))


def taught(patch):
    """(group, label) of the candidates, by the spot they belong to."""
    first = MIDDLE - SETTINGS.spacing_mm * (SETTINGS.patch + 2 * SETTINGS.border - 1) / 2
    out = {}
    real = patch["point_group"] != IGNORE
    for point, label, group in zip(*(patch[k][real] for k in ("points", "point_label", "point_group")), strict=True):
        place = first + point.numpy() * SETTINGS.spacing_mm
        name = min(SPOTS, key=lambda s: np.linalg.norm(place - np.array(SPOTS[s][0]) * SPACING))
        out.setdefault(name, set()).add((int(group), int(label)))
    return out


WHOLE = StoreSettings(crop_margin_mm=None)


def test_what_is_taught_where_everything_is_known(tmp_path):
    scan = stored_scan(tmp_path, replace(WHOLE, cache_dir=str(tmp_path / "c")), known="everything", complete=True)
    patch = patch_of(scan)
    assert taught(patch) == {
        "LAD": {(PLAQUE, 2)}, "other": {(DISTRACTOR, 0)}, "unlabelled": {(DISTRACTOR, 0)}
    }  # fmt: skip
    # two labelled voxels; those beside them are unknown, and so are all of the spot to be ignored and of the one outside
    assert int((patch["point_group"] == PLAQUE).sum()) == 2
    assert set(patch["structures"].unique().tolist()) == {0, 1}
    assert set(patch["course"].unique().tolist()) == {0, 2}


def test_without_a_border_the_contour_is_believed(tmp_path):
    whole = replace(WHOLE, cache_dir=str(tmp_path / "c"))
    scan = stored_scan(tmp_path, whole, known="everything", complete=True, border_voxels=0.0)
    assert taught(patch_of(scan))["LAD"] == {(PLAQUE, 2), (DISTRACTOR, 0)}


def test_an_unlabelled_candidate_is_unknown_unless_all_is_labelled(tmp_path):
    scan = stored_scan(tmp_path, replace(WHOLE, cache_dir=str(tmp_path / "c")), known="everything", complete=False)
    assert taught(patch_of(scan)) == {"LAD": {(PLAQUE, 2)}, "other": {(DISTRACTOR, 0)}}


def test_calcium_only_data_teach_only_candidates(tmp_path):
    """Without structures the heart region is the box around the labels; beyond it nothing is known."""
    narrow = StoreSettings(str(tmp_path / "c"), heart_margin_mm=2.0, crop_margin_mm=None)
    scan = stored_scan(tmp_path, narrow, complete=True)
    patch = patch_of(scan)
    assert (patch["structures"] == IGNORE).all()
    assert (patch["course"] == IGNORE).all()
    assert taught(patch) == {"LAD": {(PLAQUE, 2)}, "other": {(DISTRACTOR, 0)}}
    wide = stored_scan(tmp_path, replace(narrow, heart_margin_mm=16.0), complete=True)
    assert taught(patch_of(wide)) == {"LAD": {(PLAQUE, 2)}, "other": {(DISTRACTOR, 0)}, "unlabelled": {(OTHER, 0)}}


def test_structures_only_data_teach_no_candidate(tmp_path):
    scan = stored_scan(tmp_path, known=["structures"], complete=True)
    patch = patch_of(scan)
    assert not scan.complete
    assert (patch["point_group"] == IGNORE).all()
    assert (patch["course"] == IGNORE).all()
    assert (patch["structures"] == 1).any()


def test_the_window_is_what_inference_would_see(tmp_path):
    dataset = write_scan(tmp_path, known="everything")
    case = read_manifest(dataset)[0]
    whole = load_case(case, dataset)
    first = MIDDLE - 3.0 * 27 / 2
    expected = sample_scan(whole.hu, SPACING, first.tolist(), 3.0, (28,) * 3).round()
    scan = open_stored(store(case, dataset, replace(WHOLE, cache_dir=str(tmp_path / "c"))))
    assert torch.equal(patch_of(scan)["hu"].float(), expected)
    cropped = open_stored(store(case, dataset, StoreSettings(str(tmp_path / "c"), heart_margin_mm=6.0, crop_margin_mm=0.0)))
    assert np.prod(cropped.hu.shape) < 0.5 * np.prod(SHAPE)
    assert (cropped.heart_mm[0] >= 0).all()  # the crop starts with the heart region, to a voxel
    assert (cropped.heart_mm[0] < SPACING).all()
    moved = cut_patch(
        cropped, MIDDLE - heart_region(whole, 6.0)[0] // SPACING * SPACING, SETTINGS, SampleSettings(), np.random.default_rng(0)
    )
    inner = (slice(6, 22),) * 3
    assert torch.equal(moved["hu"][inner].float(), expected[inner])
    assert (moved["structures"][0] == IGNORE).all()  # cut off
    assert (moved["hu"][0] == -1000).all()


def test_points_are_where_the_patch_is_bright(files, tmp_path):
    patches = patches_from(config(files, tmp_path), replace(SETTINGS, spacing_mm=2.0))
    here, beside = [], []
    for k in range(6):
        patch = patches.full(k)
        points = patch["points"][patch["point_group"] != IGNORE]
        for out, shift in ((here, 0.0), (beside, 3.0)):
            out.append(sample_at_points(patch["hu"].float()[None, None], points[None] + shift)[0, 0])
    assert float(torch.cat(here).mean()) > 100
    assert float(torch.cat(beside).mean()) < float(torch.cat(here).mean()) - 80


def config(files, tmp_path, **values):
    return {
        "root": str(files.root), "manifest": files.everything(), "known": "everything", "complete": True,
        "labels": {0: "background", 1: "RCA", 2: "LCX", 3: "LAD", 4: "LM"}, "cache_dir": str(tmp_path / "cache"),
        "crop_margin_mm": 30.0, "length": 8,
    } | values  # fmt: skip


def same(a, b):
    return set(a) == set(b) and all(torch.equal(a[key], b[key]) for key in a)


def test_patches_have_the_phantoms_interface(files, tmp_path):
    patches = patches_from(config(files, tmp_path), SETTINGS)
    assert len(patches) == 8
    assert {key: (tuple(v.shape), v.dtype) for key, v in patches.full(0).items()} == {
        "hu": ((28,) * 3, torch.int16), "structures": ((28,) * 3, torch.uint8), "course": ((28,) * 3, torch.uint8),
        "points": ((256, 3), torch.float32), "point_label": ((256,), torch.uint8), "point_group": ((256,), torch.uint8),
    }  # fmt: skip
    assert patches[0]["hu"].shape == (24, 24, 24)
    assert patches[0]["hu"].dtype == torch.float32
    seen = [patches.full(k) for k in range(8)]
    for group in (PLAQUE, DISTRACTOR, OTHER):
        assert any((p["point_group"] == group).any() for p in seen)
    for p in seen:
        plaque = p["point_group"] == PLAQUE
        assert ((p["point_label"] >= 1) & (p["point_label"] <= 4))[plaque].all()
        assert (p["point_label"][~plaque] == 0).all()


def test_the_same_seed_gives_the_same_patches_on_any_number_of_workers(files, tmp_path):
    everything = {"reimage": {"share": 0.5}, "inject": {"share": 0.5}}
    patches = patches_from(config(files, tmp_path, **everything), SETTINGS, seed=3)
    alone = [patches[k] for k in range(4)]
    batches = list(DataLoader(torch.utils.data.Subset(patches, range(4)), batch_size=1, num_workers=2))
    assert all(same(a, {k: v[0] for k, v in b.items()}) for a, b in zip(alone, batches, strict=True))
    patches.epoch = 1
    assert not torch.equal(patches[0]["hu"], alone[0]["hu"])
    other = patches_from(config(files, tmp_path, **everything), SETTINGS, seed=4)
    assert not torch.equal(other[0]["hu"], alone[0]["hu"])


def test_without_jitter_every_epoch_is_the_same(files, tmp_path):
    patches = patches_from(config(files, tmp_path), SETTINGS)
    plain = RealPatches(SETTINGS, patches.real, patches.folders, 4, jitter=None)
    first = plain[1]
    plain.epoch = 5
    assert same(first, plain[1])
    assert torch.allclose(first["hu"], plain.full(1)["hu"][2:26, 2:26, 2:26].float(), atol=0.5)


# -- storing ----------------------------------------------------------------------------------------------------------


def test_a_case_is_stored_once_and_again_when_source_or_settings_change(tmp_path, monkeypatch):
    dataset, settings = write_scan(tmp_path), StoreSettings(str(tmp_path / "cache"))
    case = read_manifest(dataset)[0]
    folder = store(case, dataset, settings)
    assert folder.name == store_name(case, dataset, settings)
    with monkeypatch.context() as patched:
        patched.setattr(stored_module, "load_case", None)  # not read again
        assert store(case, dataset, settings) == folder
    os.utime(tmp_path / "labels.nii.gz", ns=(1, 1))
    names = {
        folder.name,
        store_name(case, dataset, settings),
        store_name(case, dataset, replace(settings, heart_margin_mm=9.0)),
    }
    names.add(store_name(case, replace(dataset, border_voxels=2.0), settings))
    names.add(store_name(replace(case, complete=not case.complete), dataset, settings))
    assert len(names) == 5
    assert store_name(case, dataset, replace(settings, cache_dir="elsewhere")) in names


def test_a_broken_case_leaves_nothing_behind(tmp_path):
    dataset, settings = write_scan(tmp_path), StoreSettings(str(tmp_path / "cache"))
    case = read_manifest(dataset)[0]
    with pytest.raises(ArgumentError):
        store(case, replace(dataset, labels={0: "background"}), settings)
    assert not (tmp_path / "cache").exists() or not list((tmp_path / "cache").iterdir())


def test_two_processes_may_store_the_same_case(tmp_path, monkeypatch):
    dataset, settings = write_scan(tmp_path), StoreSettings(str(tmp_path / "cache"))
    case = read_manifest(dataset)[0]
    honest = stored_module.load_case

    def meanwhile(*arguments):
        monkeypatch.setattr(stored_module, "load_case", honest)
        store(case, dataset, settings)  # the other process is faster
        return honest(*arguments)

    monkeypatch.setattr(stored_module, "load_case", meanwhile)
    monkeypatch.setattr(stored_module.os, "getpid", iter(range(1, 9)).__next__)
    folder = store(case, dataset, settings)
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [folder.name]
    assert open_stored(folder).hu.dtype == np.int16


def test_heart_region_by_structures_else_by_labels(tmp_path):
    dataset = write_scan(tmp_path, known="everything")
    scan = load_case(read_manifest(dataset)[0], dataset)
    low, high = heart_region(scan, 5.0)
    assert (abs(low - (MIDDLE - 25 - 5)) < 3).all()
    assert (abs(high - (MIDDLE + 25 + 5)) < 3).all()
    low, high = heart_region(replace(scan, structures=None), 5.0)
    assert (low + 5).tolist() == [42.0, 56.0, 56.0]  # the LAD's two voxels
    assert (high - 5).tolist() == [42.0, 56.0, 58.0]
    assert heart_region(replace(scan, structures=None, calcium=scan.calcium * 0), 5.0) is None


def test_the_model_finds_the_heart_where_no_structures_are_known(tmp_path, monkeypatch):
    dataset = write_scan(tmp_path)
    scan = load_case(read_manifest(dataset)[0], dataset)
    box = np.array([[1.0, 2, 3], [4, 5, 6]])
    monkeypatch.setattr(stored_module, "_heart_by_model", lambda scan, model, margin: box)
    assert heart_region(scan, 5.0, model=object()) is box
    assert heart_region(replace(scan, structures=(scan.calcium > 0).astype(np.uint8)), 5.0, model=object()) is not box


def test_a_scan_that_teaches_nothing_is_named(tmp_path):
    dataset, settings = write_scan(tmp_path), StoreSettings(str(tmp_path / "cache"))
    case = read_manifest(dataset)[0]
    empty = store(replace(case, maps={}), dataset, settings)
    with pytest.raises(ConfigError, match="teaches anything"):
        RealPatches(SETTINGS, SampleSettings(), [empty], 4)
    assert RealPatches(SETTINGS, SampleSettings(), [empty, store(case, dataset, settings)], 4).unused == [empty]


def test_noise_is_measured_in_soft_tissue():
    rng = np.random.default_rng(0)
    hu = np.where(np.arange(80)[None, None] < 60, 40.0, -900.0) + rng.normal(0, 17, (9, 80, 80))
    assert noise_hu(hu.astype(np.int16), (3.0, 1.0, 1.0)) == pytest.approx(17, rel=0.06)
    assert noise_hu(np.full((3, 40, 40), -900, np.int16), (3.0, 1.0, 1.0)) == stored_module.NOISE_FALLBACK_HU


def test_labels_reach_their_own_voxel_and_its_border_is_unknown():
    points = np.array([[0, 0, z] for z in (0.0, 1.0, 2.0)])
    values = label_candidates(points, np.zeros((1, 3)), np.array([3], np.uint8), np.full(3, 0.6), 1.0)
    assert values.tolist() == [3, IGNORE, 0]
    assert label_candidates(points, np.zeros((1, 3)), np.array([3], np.uint8), np.full(3, 0.6), 0.0).tolist() == [3, 0, 0]


# -- sampling ---------------------------------------------------------------------------------------------------------


def test_kinds_are_drawn_by_share_and_scans_alike():
    one = {"calcium": np.array([[1.0, 0, 0]]), "heart": np.zeros((0, 3)), "outside": np.array([[9.0, 9, 9]])}
    two = {"calcium": np.array([[2.0, 0, 0], [3, 0, 0], [4, 0, 0]])}
    rng = np.random.default_rng(0)
    shares = check_shares({"calcium": 2, "heart": 5, "outside": 6})
    drawn = [draw_centre([one, two], shares, rng) for _ in range(2000)]
    calcium = [d for d in drawn if d[0] == "calcium"]
    assert len(calcium) / 2000 == pytest.approx(0.25, abs=0.03)  # there is no "heart": its share goes to the others
    assert np.mean([d[1] for d in calcium]) == pytest.approx(0.5, abs=0.07)
    assert np.mean([d[2][0] == 3 for d in calcium]) == pytest.approx(1 / 6, abs=0.05)
    with pytest.raises(ConfigError, match="no scan has"):
        draw_centre([two], check_shares({"heart": 1}), rng)


@pytest.mark.parametrize("shares", [{"calcum": 1}, {"calcium": -1}, {"calcium": 0.0}, {}, {"calcium": True}])
def test_bad_shares_are_refused(shares):
    with pytest.raises(ConfigError):
        check_shares(shares)


def test_places_of_a_scan(tmp_path):
    scan = stored_scan(tmp_path, known="everything", complete=True)
    spots = {name: np.array(SPOTS[name][0]) * SPACING - place_shift(scan) for name in SPOTS}
    assert scan.places["calcium"].shape == (1, 3)
    assert np.linalg.norm(scan.places["calcium"][0] - spots["LAD"]) < 4
    assert len(scan.places["distractor"]) == 1  # the one labelled "other" has two voxels: too few
    assert np.linalg.norm(scan.places["distractor"][0] - spots["unlabelled"]) < 4
    bright = np.array([spots[n] for n in ("LAD", "unlabelled")])
    for kind in ("vessel", "heart"):
        assert len(scan.places[kind]) > 10
        assert np.linalg.norm(scan.places[kind][:, None] - bright, axis=2).min() > 6
    assert ((scan.places["outside"] < scan.heart_mm[0]) | (scan.places["outside"] > scan.heart_mm[1])).any(1).all()
    course = scan.course[tuple(np.rint(scan.places["vessel"] / SPACING).astype(int).T)]
    assert (course == 2).all()


def place_shift(scan):
    """Position (mm) of the stored crop in the whole scan: its heart region starts at a known place there."""
    return MIDDLE - (scan.heart_mm[0] + scan.heart_mm[1]) / 2


def test_places_of_a_phantom(files):
    case = files.case
    places = phantom_places(case.patient, case.arteries, case.deposits, np.random.default_rng(0))
    owners = [d.owner for d in case.deposits]
    assert len(places["calcium"]) == sum(o <= 4 for o in owners) > 0
    assert len(places["distractor"]) == sum(o > 4 for o in owners)
    lines = np.concatenate([case.patient.heart_to_patient(a.line) for a in case.arteries if a.vessel])

    def to_artery(kind):
        return np.linalg.norm(places[kind][:, None] - lines, axis=2).min(1)

    assert to_artery("calcium").max() < 5
    assert to_artery("vessel").max() < 1e-3
    assert np.median(to_artery("outside")) > 30
    for kind in ("vessel", "heart"):
        assert np.linalg.norm(places[kind][:, None] - places["calcium"], axis=2).min() > 4


class Numbered:
    """Patches that say where they come from."""

    jitter = None

    def __init__(self, name, length):
        self.name, self.length, self.epoch = name, length, 0

    def __len__(self):
        return self.length

    def full(self, index):
        return {"from": self.name, "index": index, "epoch": self.epoch}

    __getitem__ = full


def test_a_mixture_keeps_its_shares_and_passes_the_epoch_on():
    mixed = Mixture([(Numbered("phantom", 7), 0.25), (Numbered("real", 1000), 0.75)], 1000, seed=2)
    mixed.epoch = 3
    items = [mixed[k] for k in range(1000)]
    assert np.mean([i["from"] == "phantom" for i in items]) == pytest.approx(0.25, abs=0.05)
    assert all(i["epoch"] == 3 for i in items)
    assert max(i["index"] for i in items if i["from"] == "phantom") == 6
    assert [mixed[k] for k in range(20)] == items[:20]
    before = [i["from"] for i in items]
    mixed.epoch = 4
    assert [mixed[k]["from"] for k in range(1000)] != before


# -- augmentation on the native grid ----------------------------------------------------------------------------------

GRID = Protocol((2.5, 0.6, 0.6), (24, 80, 80), (0.0, 0.0, 0.0), 2.5, fwhm_mm=1.0, noise_hu=0.0)


def test_injected_calcium_adds_exactly_its_mass():
    bed = Bed(2, "x", np.array([[30.0, 24, 20.0 + k] for k in range(9)]), np.full(9, 1.4))
    deposit = bend(bed, 4.0, 1.0, Size("nodule", 5.0, 3.0, 2.0, 600.0), np.random.default_rng(0))
    hu = torch.full(GRID.shape, 40.0)
    owner = add_bodies(hu, [Body(deposit, deposit.points, deposit.volumes)], GRID)
    integral = float((hu.double() - 40).sum()) * 2.5 * 0.6 * 0.6
    assert integral == pytest.approx(GRID.hu_per_mg_cc * deposit.mass_mg * 1000, rel=0.01)
    assert set(np.unique(owner)) == {0, 2}
    assert ((hu.numpy() - 40 >= 20) == (owner == 2)).all()


def tube_and_heart():
    """A heart with an aorta on top, a left atrium behind and an artery along x beside it."""
    structures, course = np.zeros(GRID.shape, np.uint8), np.zeros(GRID.shape, np.uint8)
    structures[4:14, 15:55, 15:65] = 1
    structures[14:20, 15:40, 15:65] = 6
    structures[4:14, 55:70, 15:65] = 3
    course[8:10, 6:10, 10:70] = 4
    return structures, course


def test_plaques_lie_on_the_artery_and_false_ones_away_from_it():
    structures, course = tube_and_heart()
    artery = np.argwhere(course) * GRID.spacing_mm
    found = set()
    for seed in range(6):
        hu = torch.zeros(GRID.shape)
        rng = np.random.default_rng(seed)
        owner = inject(hu, GRID, structures, course, rng, Injection(1.0, (2, 2), (3, 3)))
        for who in np.unique(owner[owner > 0]).tolist():
            voxels = np.argwhere((owner == who) & (hu.numpy() > 60)) * GRID.spacing_mm
            found.add(who)
            near = np.array([np.linalg.norm(artery - v, axis=1).min() for v in voxels])
            assert (near < 8).all() if who == 4 else (near > AWAY_MM - 4).all()
    assert found == {4, FALSE}


def test_where_arteries_are_everywhere_no_false_plaque_fits():
    structures, _ = tube_and_heart()
    course = np.zeros(GRID.shape, np.uint8)
    course[:, ::8, ::8] = 1  # nowhere is 6 mm away
    for seed in range(3):
        rng = np.random.default_rng(seed)
        owner = inject(torch.zeros(GRID.shape), GRID, structures, course, rng, Injection(1.0, (0, 0), (4, 4)))
        assert not owner.any()


def test_nothing_is_injected_where_its_place_is_not_known():
    hu = torch.zeros(GRID.shape)
    assert not inject(hu, GRID, None, None, np.random.default_rng(0), Injection(1.0, (3, 3), (3, 3))).any()
    assert not hu.any()
    structures, _ = tube_and_heart()
    owner = inject(hu, GRID, structures, None, np.random.default_rng(0), Injection(1.0, (12, 12), (12, 12)))
    assert set(np.unique(owner)) == {0, FALSE}
    # deep inside the heart, where no artery runs; beyond its surface only blur
    assert ((structures > 0) | (hu.numpy() < 0.5 * float(hu.max()))).all()


def test_injected_calcium_becomes_points(files, tmp_path):
    def counts(plaques, false_plaques):
        """Candidates on arteries and beside them, in six patches (many: half of the bodies find no room or are faint)."""
        bodies = {"share": 1.0, "plaques": [plaques] * 2, "false_plaques": [false_plaques] * 2}
        patches = patches_from(config(files, tmp_path, shares={"vessel": 1.0}, inject=bodies), SETTINGS)
        groups = torch.stack([patches.full(k)["point_group"] for k in range(6)])
        return int((groups == PLAQUE).sum()), int((groups == DISTRACTOR).sum())

    none, plaques, false_plaques = counts(0, 0), counts(6, 0), counts(0, 12)
    assert plaques[0] > none[0] + 20
    assert false_plaques[1] > none[1] + 20


def test_reimaged_patches_are_labelled_by_their_own_hu(files, tmp_path, monkeypatch):
    """Thick slices: the labels move to the new slices, and only what is still bright there is a candidate."""
    patches = patches_from(config(files, tmp_path, reimage={"share": 1.0}, shares={"calcium": 1.0}), SETTINGS)
    seen = []
    honest = real_module._points

    def spy(native, scan, *rest):
        seen.append((native, scan))
        return honest(native, scan, *rest)

    monkeypatch.setattr(real_module, "_points", spy)
    plaques = 0
    for k in range(6):
        plaques += int((patches.full(k)["point_group"] == PLAQUE).sum())
        native, scan = seen[-1]
        voxels = np.rint((native.at_mm - native.first_mm) / native.spacing_mm).astype(int)
        assert (native.hu[tuple(voxels.T)] >= scan.threshold_hu).all()
        assert len(voxels) == int((native.hu >= scan.threshold_hu).sum())
        truth = scan.candidates[(scan.labels > 0) & (scan.labels < OTHER_CALCIUM)] * np.array(scan.spacing_mm)
        labelled = native.at_mm[(native.labels > 0) & (native.labels < OTHER_CALCIUM)]
        assert all(abs(truth - at).max(1).min() < 6 for at in labelled)
    assert plaques > 20
    assert len({s[0].spacing_mm for s in seen}) > 1


def test_a_label_reaches_as_far_as_a_thicker_slice_shows_it(tmp_path, monkeypatch):
    scan = stored_scan(tmp_path, replace(WHOLE, cache_dir=str(tmp_path / "c")), known="everything", complete=True)
    thick = {"thickness_mm": 8.0, "fwhm_mm": 0.9, "noise_hu": 0.0}
    monkeypatch.setattr(real_module, "_target", lambda source, settings, rng: replace(source, **thick))
    native = real_module._native(
        scan, tuple(slice(0, n) for n in SHAPE), 3.0, SampleSettings(reimage=Reimaging(1.0)), np.random.default_rng(0)
    )
    slices = np.rint(native.at_mm[native.labels == 2][:, 0] / SPACING[0]).astype(int)
    assert {14, 15} <= set(slices.tolist()) <= {13, 14, 15}  # it lay in slice 14; noise decides about 13


def test_reimaging_adds_noise_and_never_changes_the_voltage(tmp_path):
    scan = stored_scan(tmp_path, known="everything")
    plain, noisy = patch_of(scan), patch_of(scan, SampleSettings(reimage=Reimaging(1.0, ("spect_pet_ac",))))
    inside = (plain["structures"] == 1) & (plain["hu"] < 80)
    assert float(noisy["hu"][inside].float().std()) != float(plain["hu"][inside].float().std())
    assert float(noisy["hu"][inside].float().mean()) == pytest.approx(float(plain["hu"][inside].float().mean()), abs=8)
    with pytest.raises(ConfigError):
        Reimaging(0.5, ("toshiba_1990",))


# -- settings and fine-tuning -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [{"lenght": 3}, {"phantom_share": 1.0}, {"phantom_share": True}, {"shares": {"x": 1}}, {"inject": {"often": 1}},
     {"inject": {"share": 2.0}}, {"inject": {"plaques": [3, 1]}}, {"reimage": {"share": -1}}, {"offset_mm": -1.0},
     {"heart_margin_mm": -1.0}],
)  # fmt: skip
def test_bad_settings_are_refused(tmp_path, values):
    with pytest.raises(ConfigError):
        split_config({"root": str(tmp_path)} | values)


def test_phantoms_are_mixed_in_by_share(files, tmp_path):
    phantom = Numbered("phantom", 50)
    mixed = patches_from(config(files, tmp_path, phantom_share=0.5, length=40), SETTINGS, phantom=phantom)
    assert len(mixed) == 40
    assert 8 < sum(mixed.source(k)[0] is phantom for k in range(40)) < 32
    assert mixed.parts[1].jitter is None  # that of the phantom
    assert isinstance(patches_from(config(files, tmp_path, phantom_share=0.0), SETTINGS, phantom=phantom), RealPatches)


def test_calcium_only_data_fine_tune_the_decision_alone(files, tmp_path):
    """From the shipped checkpoint: the loss of candidates falls, and no gradient comes from what isn't known."""
    manifest = files.manifest("lesions.csv", labels_path=[f"{name}_labels.nii.gz" for name in files.names])
    lesions = config(files, tmp_path, manifest=manifest, known=["calcium"], shares={"calcium": 1.0})
    patches = patches_from(lesions, SETTINGS)
    stage = load_model(Path(__file__).parents[2] / "checkpoints" / "cacsnet.safetensors").coarse
    batch = torch.utils.data.default_collate([patches[k] for k in range(2)])
    assert (batch["point_group"] == PLAQUE).any()
    network = stage.network.train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-4)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        prediction = network(network_input(batch["hu"], stage.config.hu_window))
        parts = total_loss(prediction, batch, LossWeights())
        parts["loss"].backward()
        losses.append(float(parts["decision"].detach()))
        assert not parts["structures"].detach().any()
        assert not parts["course"].detach().any()
        optimizer.step()
    assert losses[-1] < losses[0]
    heads = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    assert all(not g.any() for n, g in heads.items() if "structure" in n or "course" in n)
    assert any(g.any() for g in heads.values())
