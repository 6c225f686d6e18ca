"""Thin slices averaged to slabs: what noise does to a peak, where the slabs lie, what is left out.

The letters (f), (j) in names are those of the conformance sub-cases, see test_scoring_conformance.py.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cacsnet.errors import ArgumentError
from cacsnet.io import read_label_map, write_nifti
from cacsnet.io.orient import canonical_geometry
from cacsnet.scan import OUTSIDE_FOV_HU, Acquisition, Geometry, Scan
from cacsnet.scoring import CalciumScore, score
from cacsnet.scoring.slabs import average_scan, average_slabs, plan_slabs, slab_geometry, slab_labels

THIN, THICK = (1.0, 0.5, 0.5), (3.0, 0.5, 0.5)
LAD = 2


def scored(hu: np.ndarray, vessels: np.ndarray, spacing: tuple[float, float, float], **options: object) -> CalciumScore:
    return score(hu, vessels, spacing, 120, **options)  # type: ignore[arg-type]


def rods() -> tuple[np.ndarray, np.ndarray]:
    """Nine rods of 160 HU, 5 mm wide and 12 mm long, in 40 HU; 1 mm slices. Their vessel map covers nothing else."""
    hu = np.full((24, 120, 120), 40, dtype=np.float32)
    y, x = np.ogrid[:120, :120]
    for centre_y in (20, 60, 100):
        for centre_x in (20, 60, 100):
            hu[6:18, (y - centre_y) ** 2 + (x - centre_x) ** 2 <= 25] = 160
    return hu, (hu > 100).astype(np.uint8) * LAD


def sphere(radius_mm: float, peak_hu: float) -> np.ndarray:
    """A ball with an edge 1 mm wide in 40 HU, sampled every 0.5 mm, 48 x 24 x 24 mm."""
    z, y, x = np.meshgrid(*((np.arange(n) - (n - 1) / 2) * 0.5 for n in (96, 48, 48)), indexing="ij")
    inside = np.clip(radius_mm - np.sqrt(z**2 + y**2 + x**2) + 0.5, 0, 1)
    return (40 + inside * (peak_hu - 40)).astype(np.float32)


@pytest.mark.parametrize("seed", range(3))
def test_f_noise_inflates_thin_slices_and_slabs_come_back_to_the_noise_free_score(seed: int) -> None:
    clean, vessels = rods()
    truth = scored(clean, vessels, THIN).total.agatston
    assert truth == pytest.approx(9 * 81 * 0.25 * 12 / 3)  # nine rods of 81 pixels, weight 1
    noisy = clean + np.random.default_rng(seed).normal(0, 20, clean.shape).astype(np.float32)
    thin = scored(noisy, vessels, THIN).total.agatston
    hu, slabs = average_slabs(noisy, THIN)
    slab = scored(hu, slab_labels(vessels, slabs)[0], THICK).total.agatston
    assert thin > 1.5 * truth
    assert slab == pytest.approx(truth, rel=0.1)


def test_identical_slices_score_the_same_both_ways() -> None:
    hu = np.zeros((9, 14, 14), dtype=np.int16)
    hu[3:6, 4:9, 4:9] = 250
    vessels = (hu > 0).astype(np.uint8) * LAD
    averaged, slabs = average_slabs(hu, THIN)
    labels, _ = slab_labels(vessels, slabs)
    assert scored(hu, vessels, THIN).total.agatston == pytest.approx(12.5, abs=1e-12)
    assert scored(averaged, labels, THICK).total.agatston == pytest.approx(12.5, abs=1e-12)
    assert scored(averaged, labels, THICK).total.mass_mg == pytest.approx(scored(hu, vessels, THIN).total.mass_mg)


@pytest.mark.parametrize("value", [130, 129.7, -1024, 3071])
def test_a_constant_volume_stays_what_it_is(value: float) -> None:
    hu = np.full((7, 3, 4), value, dtype=np.float32)
    averaged, slabs = average_slabs(hu, THIN)
    assert averaged.dtype == np.float32
    assert averaged.shape == (2, 3, 4)
    assert (averaged == np.float32(value)).all()
    assert (slabs.n_slabs, slabs.n_dropped) == (2, 1)


def test_the_mean_is_not_rounded_and_int16_does_not_overflow() -> None:
    hu = np.array([130, 130, 129], dtype=np.int16).reshape(3, 1, 1).repeat(4, axis=2)
    averaged, _ = average_slabs(hu, THIN)
    assert averaged[0, 0, 0] == pytest.approx(389 / 3)
    assert averaged[0, 0, 0] < 130  # a rounded mean would reach the threshold
    high, _ = average_slabs(np.full((3, 1, 4), 32767, np.int16), THIN)
    assert (high == 32767).all()


def test_a_mean_of_exactly_the_threshold_reaches_it() -> None:
    hu = np.array([100, 131, 159], dtype=np.int16).reshape(3, 1, 1).repeat(3, axis=2).repeat(3, axis=1)
    averaged, _ = average_slabs(hu, THIN)
    assert scored(averaged, np.full(averaged.shape, LAD, np.uint8), THICK).total.agatston == pytest.approx(9 * 0.25)


def test_what_is_outside_the_field_of_view_is_never_averaged_into_tissue() -> None:
    hu = np.full((6, 2, 2), 60, dtype=np.int16)
    hu[:, 0, 0] = OUTSIDE_FOV_HU
    hu[1, 0, 1] = -3024
    hu[4:, 1, 1] = OUTSIDE_FOV_HU
    hu[3, 1, 0] = -1024  # air inside the field of view takes part
    averaged, _ = average_slabs(hu, THIN)
    assert (averaged[:, 0, 0] == OUTSIDE_FOV_HU).all()
    assert averaged[0, 0, 1] == 60
    assert averaged[1, 1, 1] == 60
    assert averaged[1, 1, 0] == pytest.approx((60 + 60 - 1024) / 3)


@pytest.mark.parametrize(
    ("increment", "thickness", "slab", "n", "step"),
    [
        (1.0, None, 3.0, 3, 3.0),
        (1.0, 1.0, 3.0, 3, 3.0),
        (0.6, None, 3.0, 5, 3.0),
        (0.625, 0.625, 3.0, 5, 3.125),
        (0.833333, 0.83, 2.5, 3, 2.5),
        (1.25, 1.25, 2.5, 2, 2.5),
        (2.0, 2.0, 3.0, 1, 2.0),  # 2 and 4 mm are as far from 3: the thinner
        (1.2, 1.2, 3.0, 2, 2.4),  # 2.4 and 3.6 mm are as far from 3
        (2.5, 2.5, 3.0, 1, 2.5),
        (3.0, 3.0, 3.0, 1, 3.0),
        (5.0, 5.0, 3.0, 1, 5.0),
        (1.5, 3.0, 3.0, 1, 1.5),  # overlapping and 3 mm thick already
        (1.5, 1.5, 3.0, 2, 3.0),
        (0.7, 1.0, 3.0, 4, 2.8),  # 3.1 mm thick
        (1.0, 0.6, 3.0, 3, 3.0),  # gaps between the slices
    ],
)
def test_how_many_slices_make_a_slab(increment: float, thickness: float | None, slab: float, n: int, step: float) -> None:
    slabs = plan_slabs(40, increment, slab, thickness)
    assert (slabs.n_slices, slabs.increment_mm) == (n, step)
    assert slabs.averaged == (n > 1)
    assert slabs.n_slabs * n + slabs.n_dropped == 40
    assert 0 <= slabs.n_dropped < n


def test_one_slice_per_slab_changes_nothing() -> None:
    scan = Scan(np.zeros((4, 3, 3), np.int16), Geometry.axial((4, 3, 3), (2.5, 1, 1)), notes=("a",))
    averaged, slabs = average_scan(scan)
    assert averaged is scan
    assert not slabs.averaged


@pytest.mark.parametrize("slab_mm", [0, -3, 10.1, float("nan"), float("inf"), "3", True, None])
def test_a_bad_slab_thickness_is_refused(slab_mm: object) -> None:
    with pytest.raises(ArgumentError) as caught:
        average_slabs(np.zeros((6, 2, 2), np.int16), THIN, slab_mm)  # type: ignore[arg-type]
    assert caught.value.field == "slab_mm"


def test_bad_volumes_are_refused() -> None:
    with pytest.raises(ArgumentError, match="takes 3 slices"):
        average_slabs(np.zeros((2, 4, 4), np.int16), THIN)
    with pytest.raises(ArgumentError, match="finite"):
        average_slabs(np.full((6, 4, 4), np.nan, np.float32), THIN)
    with pytest.raises(ArgumentError, match="spacing"):
        average_slabs(np.zeros((6, 4, 4), np.int16), (0.0, 1.0, 1.0))
    with pytest.raises(ArgumentError, match="thickness_mm"):
        average_slabs(np.zeros((6, 4, 4), np.int16), THIN, thickness_mm=float("nan"))


def tilted_scan(depth: int = 11, orientation: str = "straight") -> Scan:
    """1 mm slices on a grid turned by 10 degrees about x; "flipped": from an [x, y, z] array with z and x reversed."""
    angle = np.deg2rad(10)
    z, y, x = np.array([0, -np.sin(angle), np.cos(angle)]), np.array([0, np.cos(angle), np.sin(angle)]), np.array([1.0, 0, 0])
    affine = np.eye(4)
    affine[:3, 3] = (-20, 7, 300)
    if orientation == "straight":
        shape: tuple[int, ...] = (depth, 30, 40)
        affine[:3, :3] = np.stack([1.0 * z, 0.5 * y, 0.5 * x], axis=1)
    else:
        shape = (40, 30, depth)
        affine[:3, :3] = np.stack([-0.5 * x, 0.5 * y, -1.0 * z], axis=1)
    geometry, _ = canonical_geometry(shape, affine)
    hu = np.full(geometry.shape, 40, dtype=np.int16)
    hu[3:6, 10:16, 20:27] = 300
    facts = Acquisition(kvp=120.0, slice_thickness_mm=1.0, sop_instance_uids=tuple(str(k) for k in range(depth)))
    return Scan(hu, geometry, facts, "scan.nii.gz", ("a note",))


@pytest.mark.parametrize("orientation", ["straight", "flipped"])
def test_a_lesion_stays_where_it_is_in_the_patient(orientation: str) -> None:
    scan = tilted_scan(orientation=orientation)
    vessels = (scan.hu > 100).astype(np.uint8) * LAD
    averaged, slabs = average_scan(scan)
    labels, _ = slab_labels(vessels, slabs)
    before = scored(scan.hu, vessels, scan.spacing_mm, affine=scan.geometry.affine_lps)
    after = scored(averaged.hu, labels, averaged.spacing_mm, affine=averaged.geometry.affine_lps)
    assert len(before.lesions) == len(after.lesions) == 1
    assert after.lesions[0].centroid_lps_mm == pytest.approx(before.lesions[0].centroid_lps_mm, abs=1e-9)
    assert after.total.mass_mg == pytest.approx(before.total.mass_mg)
    assert after.total.volume_mm3 == pytest.approx(before.total.volume_mm3)


@pytest.mark.parametrize("orientation", ["straight", "flipped"])
def test_every_slab_lies_in_the_middle_of_its_slices(orientation: str) -> None:
    scan = tilted_scan(orientation=orientation)
    grid = slab_geometry(scan.geometry, plan_slabs(11, 1.0))
    assert grid.shape == (3, 30, 40)
    assert grid.spacing_mm == (3.0, 0.5, 0.5)
    for k in range(3):
        slices = [scan.geometry.affine_lps @ [3 * k + i, 5, 7, 1] for i in range(3)]
        assert grid.affine_lps @ [k, 5, 7, 1] == pytest.approx(np.mean(slices, axis=0))


@pytest.mark.parametrize("orientation", ["straight", "flipped"])
def test_labels_on_slabs_are_written_and_read_at_their_place(tmp_path: Path, orientation: str) -> None:
    scan = tilted_scan(orientation=orientation)
    averaged, _ = average_scan(scan)
    labels = (averaged.hu > 130).astype(np.uint8)
    write_nifti(tmp_path / "labels.nii.gz", labels, averaged.geometry, source=averaged.source)
    assert np.array_equal(read_label_map(tmp_path / "labels.nii.gz", averaged.geometry), labels)
    with pytest.raises(ArgumentError):
        read_label_map(tmp_path / "labels.nii.gz", scan.geometry)


def test_the_averaged_scan_says_what_was_done() -> None:
    averaged, slabs = average_scan(tilted_scan(depth=11))
    assert (slabs.slab_mm, slabs.n_slices, slabs.slice_increment_mm, slabs.increment_mm) == (3.0, 3, 1.0, 3.0)
    assert (slabs.n_slabs, slabs.n_dropped) == (3, 2)
    assert averaged.notes[0] == "a note"
    assert "3 slices of 1 mm" in averaged.notes[1]
    assert "2 slice(s) at the head" in averaged.notes[1]
    assert averaged.acquisition.slice_thickness_mm == 3.0
    assert averaged.acquisition.sop_instance_uids == ()
    assert averaged.acquisition.kvp == 120.0
    assert averaged.source == "scan.nii.gz"


def test_overlapping_slices_make_thicker_slabs_than_their_increment() -> None:
    scan = tilted_scan()
    thick = replace(scan, acquisition=replace(scan.acquisition, slice_thickness_mm=2.0))
    averaged, slabs = average_scan(thick)
    assert (slabs.n_slices, averaged.spacing_mm[0], averaged.acquisition.slice_thickness_mm) == (2, 2.0, 3.0)
    unknown = replace(scan, acquisition=replace(scan.acquisition, slice_thickness_mm=None))
    assert average_scan(unknown)[0].acquisition.slice_thickness_mm is None


def test_the_first_slab_starts_at_the_feet_and_the_rest_is_dropped_at_the_head() -> None:
    hu = np.arange(8, dtype=np.int16).reshape(8, 1, 1).repeat(2, axis=1).repeat(2, axis=2)
    averaged, slabs = average_slabs(hu, THIN)
    assert averaged[:, 0, 0].tolist() == [1, 4]
    assert slabs.n_dropped == 2


def test_labels_of_slices_go_to_the_vessel_most_slices_have() -> None:
    labels = np.zeros((8, 1, 6), dtype=np.uint8)
    labels[:3, 0, 0] = (2, 2, 1)
    labels[:3, 0, 1] = (0, 4, 0)  # one labelled slice is enough: the slab's HU decide
    labels[:3, 0, 2] = (3, 1, 0)  # a tie: the first of the table
    labels[3:6, 0, 3] = (4, 1, 4)
    labels[6:, 0, 4] = 3  # above the last slab
    out, dropped = slab_labels(labels, plan_slabs(8, 1.0))
    assert out[0, 0].tolist() == [2, 4, 1, 0, 0, 0]
    assert out[1, 0].tolist() == [0, 0, 0, 4, 0, 0]
    assert dropped == 2
    with pytest.raises(ArgumentError, match="8 slices"):
        slab_labels(labels[:7], plan_slabs(8, 1.0))
    with pytest.raises(ArgumentError, match=r"0\.\.4"):
        slab_labels(labels + np.uint8(3), plan_slabs(8, 1.0))


def test_j_the_phase_of_the_grid_changes_agatston_by_a_third_but_mass_by_a_twentieth() -> None:
    """A 3 mm grid moved by 1.5 mm reclassifies patients: nothing tighter than this may be promised of an Agatston score."""
    fine = sphere(2.5, 600)
    found = []
    for start in (0, 3):  # 0.5 mm slices: the second grid lies 1.5 mm higher
        hu, slabs = average_slabs(fine[start:], (0.5, 0.5, 0.5))
        assert slabs.increment_mm == 3.0
        found.append(scored(hu, (hu > 0).astype(np.uint8) * LAD, THICK).total)
    first, second = found
    assert first.agatston == pytest.approx(160)
    assert second.agatston == pytest.approx(120)
    assert second.mass_mg == pytest.approx(first.mass_mg, rel=0.05)
