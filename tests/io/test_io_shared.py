"""Every row of the manifest of the real CT files: what reads, what is refused, and why."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

from cacsnet.errors import (
    ArgumentError,
    CacsError,
    ModalityError,
    NotAnImageError,
    NotAVolumeError,
    NotHounsfieldError,
    SeveralSeriesError,
    SliceGapError,
    TiltedGantryError,
    TruncatedFileError,
)
from cacsnet.io import find_cases, read_label_map, read_scan, write_nifti
from cacsnet.io.dicom_file import slice_hu

pytestmark = pytest.mark.shared

READS = [
    # path, shape [z, y, x], spacing (dz, dy, dx)
    ("lidc_dicom/lidc_0001", (16, 512, 512), (2.5, 0.703125, 0.703125)),
    ("lidc_dicom/lidc_0002", (12, 512, 512), (1.25, 0.681641, 0.681641)),
    ("lidc_dicom/lidc_0003", (11, 512, 512), (2.5, 0.820312, 0.820312)),
    ("dicom_hard/tiny_5_slices_no_suffix", (5, 16, 16), (2.5, 0.488281, 0.488281)),
    ("dicom_hard/derived/duplicate_slice", (3, 512, 512), (2.5, 0.703125, 0.703125)),
    ("lidc_3mm/0506_img.nrrd", (112, 112, 112), (3.0, 3.0, 3.0)),
    ("lidc_3mm/0987_img.nrrd", (112, 112, 112), (3.0, 3.0, 3.0)),
    ("totalsegmentator_ct/example_ct.nii.gz", (191, 167, 233), (1.5, 1.5, 1.5)),
]
REFUSED = [
    ("dicom_hard/ge_tilt_mixed_4_7mm", TiltedGantryError, "18.5"),
    ("dicom_hard/philips_tilt", TiltedGantryError, "16.5"),
    ("dicom_hard/siemens_tilt_no_tag", TiltedGantryError, "14.0"),
    ("dicom_hard/siemens_tilt_missing_slice", TiltedGantryError, "15.5"),
    ("dicom_hard/ge_missing_slice", SliceGapError, "between 28.1075 mm"),
    ("dicom_hard/tiny_far_gap_no_suffix", SliceGapError, "202.5 mm"),
    ("dicom_hard/siemens_same_position", NotAVolumeError, "one place"),
    ("dicom_hard/philips_surview", ModalityError, "LOCALIZER"),
    ("dicom_hard/tiny_two_localizers_no_suffix", ModalityError, "LOCALIZER"),
    ("dicom_hard/philips_dose_page", ModalityError, "Secondary Capture"),
    ("dicom_hard/mr_two_slices", ModalityError, "modality MR"),
    ("dicom_hard/enhanced_multiframe_perfusion", ModalityError, "multi-frame"),
    ("dicom_hard/j2k_flipped_vr_un", NotAVolumeError, "at least 3"),
    ("dicom_hard/jpeg_lossless_bad_sequence", NotAVolumeError, "at least 3"),
    ("dicom_hard/single_slice_small", NotAVolumeError, "at least 3"),
    ("dicom_hard/no_pixel_data", TruncatedFileError, "no pixel data"),
    ("dicom_hard/derived/truncated_file", TruncatedFileError, "520192 of 524288"),
    ("dicom_hard/derived/empty_file", NotAnImageError, "empty.dcm"),
    ("dicom_hard/derived/text_file", NotAnImageError, "notes.dcm"),
    ("dicom_hard/derived/two_series_mixed", SeveralSeriesError, "3 slices"),
    ("dicom_hard/derived/transfer_syntaxes", NotAVolumeError, "at least 3"),
    ("lidc_3mm/0506_msk.nrrd", NotHounsfieldError, "distinct"),
    ("lidc_3mm/0987_msk.nrrd", NotHounsfieldError, "distinct"),
    ("totalsegmentator_ct/heart.nii.gz", NotHounsfieldError, "distinct"),
    ("totalsegmentator_ct/aorta.nii.gz", NotHounsfieldError, "distinct"),
    ("totalsegmentator_ct/pulmonary_artery.nii.gz", NotHounsfieldError, "distinct"),
]


@pytest.mark.parametrize(("name", "shape", "spacing_mm"), READS)
def test_reads(shared_data: Path, name: str, shape: tuple[int, ...], spacing_mm: tuple[float, ...]) -> None:
    scan = read_scan(shared_data / name)
    assert scan.hu.shape == shape
    assert scan.hu.dtype == np.int16
    assert scan.spacing_mm == pytest.approx(spacing_mm, abs=1e-6)


@pytest.mark.parametrize(("name", "error", "words"), REFUSED)
def test_refused(shared_data: Path, name: str, error: type[CacsError], words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        read_scan(shared_data / name)
    assert caught.type is error
    assert Path(name).name in str(caught.value)


def test_the_table_names_every_case(shared_data: Path) -> None:
    found = {str(case.path.relative_to(shared_data)) for case in find_cases(shared_data)}
    assert found == {name for name, *_ in (*READS, *REFUSED)}


def test_lidc_0001(shared_data: Path) -> None:
    scan = read_scan(shared_data / "lidc_dicom/lidc_0001")
    facts = scan.acquisition
    assert (facts.contrast_agent, facts.kvp, facts.kernel, facts.gated) == ("IV", 120.0, "STANDARD", None)
    assert facts.slice_thickness_mm == 2.5
    assert scan.geometry.affine_lps[:3, 3] == pytest.approx([-166.0, -171.699997, -132.5])
    assert (scan.hu.min(), scan.hu.max(), np.count_nonzero(scan.hu == 3071)) == (-2048, 3071, 383)
    # z falls with the file name: 16.dcm is the lowest slice
    lowest = pydicom.dcmread(shared_data / "lidc_dicom/lidc_0001/16.dcm")
    np.testing.assert_array_equal(scan.hu[0], lowest.pixel_array.astype(int) - 1024)
    assert facts.sop_instance_uids[0] == lowest.SOPInstanceUID


def test_contrast_is_free_text_and_padding_is_outside(shared_data: Path) -> None:
    third = read_scan(shared_data / "lidc_dicom/lidc_0003")
    assert third.acquisition.contrast_agent == "ORAL/RECTAL & IV CONTRAST"
    second = read_scan(shared_data / "lidc_dicom/lidc_0002")
    assert second.acquisition.contrast_agent is None
    assert second.hu.min() == -2048  # stored -2000 is the padding value, -3024 HU is none
    assert not ((second.hu < -1024) & (second.hu != -2048)).any()


def test_gated_calcium_series_is_noticed(shared_data: Path) -> None:
    facts = read_scan(shared_data / "dicom_hard/tiny_5_slices_no_suffix").acquisition
    assert (facts.gated, facts.kvp, facts.slice_thickness_mm, facts.contrast_agent) == (True, 120.0, 2.5, None)


def test_one_of_two_series(shared_data: Path) -> None:
    folder = shared_data / "dicom_hard/derived/two_series_mixed"
    uid = str(pydicom.dcmread(folder / "a01.dcm").SeriesInstanceUID)
    scan = read_scan(folder, uid)
    assert scan.hu.shape == (3, 512, 512)
    assert scan.spacing_mm[0] == 2.5
    with pytest.raises(NotAVolumeError, match="at least 3"):
        read_scan(folder, str(pydicom.dcmread(folder / "b01.dcm").SeriesInstanceUID))


def test_localizer_and_dose_page_within_a_series(shared_data: Path, tmp_path: Path) -> None:
    shutil.copytree(shared_data / "dicom_hard/tiny_5_slices_no_suffix", tmp_path / "s")
    for name in ("philips_surview/I10.dcm", "philips_dose_page/I50.dcm", "mr_two_slices/1.dcm"):
        shutil.copy(shared_data / "dicom_hard" / name, tmp_path / "s")
    scan = read_scan(tmp_path / "s")
    assert scan.hu.shape == (5, 16, 16)
    assert len(scan.notes) == 3


def test_duplicate_is_noted(shared_data: Path) -> None:
    assert "copy" in read_scan(shared_data / "dicom_hard/derived/duplicate_slice").notes[0]


@pytest.mark.parametrize("kind", ["rle", "deflated", "implicit", "big_endian"])
def test_transfer_syntaxes_decode_alike(shared_data: Path, kind: str) -> None:
    wanted = slice_hu(shared_data / "dicom_hard/single_slice_small/CT_small.dcm")
    assert (wanted.shape, wanted.min(), wanted.max()) == ((128, 128), -896, 1167)
    path = shared_data / f"dicom_hard/derived/transfer_syntaxes/CT_small_{kind}.dcm"
    np.testing.assert_array_equal(slice_hu(path), wanted)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("j2k_flipped_vr_un/explicit_VR-UN.dcm", -1024, 1186),
        ("jpeg_lossless_bad_sequence/bad_sequence.dcm", -1011, 1243),
    ],
)
def test_compressed_slices_decode(shared_data: Path, name: str, low: int, high: int) -> None:
    hu = slice_hu(shared_data / "dicom_hard" / name)
    assert (hu.shape, hu.min(), hu.max()) == ((512, 512), low, high)


@pytest.mark.parametrize(("key", "counts"), [("0506", {1: 33975, 2: 54848, 3: 20}), ("0987", {1: 21525, 2: 46834, 3: 4})])
def test_resampled_lidc_and_its_labels(shared_data: Path, key: str, counts: dict[int, int]) -> None:
    scan = read_scan(shared_data / f"lidc_3mm/{key}_img.nrrd")
    labels = read_label_map(shared_data / f"lidc_3mm/{key}_msk.nrrd", scan.geometry)
    assert {value: int(np.count_nonzero(labels == value)) for value in counts} == counts
    assert np.median(scan.hu[labels == 1]) == {"0506": 37, "0987": 35}[key]
    assert scan.hu[labels == 3].min() == {"0506": 61, "0987": 219}[key]


def test_total_segmentator_masks_go_where_their_affine_says(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "totalsegmentator_ct"
    scan = read_scan(folder / "example_ct.nii.gz")
    heart = read_label_map(folder / "heart.nii.gz", scan.geometry)
    assert np.count_nonzero(heart) == 198176
    assert scan.hu[heart > 0].mean() == pytest.approx(405, abs=1)
    for name, voxels, mean_hu in (("aorta", 72810, 353), ("pulmonary_artery", 14261, 538)):
        with pytest.raises(ArgumentError, match="grid"):
            read_label_map(folder / f"{name}.nii.gz", scan.geometry)
        mask = read_label_map(folder / f"{name}.nii.gz", scan.geometry, allow_box=True)
        assert np.count_nonzero(mask) == voxels
        assert scan.hu[mask > 0].mean() == pytest.approx(mean_hu, abs=1)

    write_nifti(tmp_path / "heart.nii.gz", heart, scan.geometry, source=scan.source)
    written, original = nib.load(tmp_path / "heart.nii.gz"), nib.load(folder / "heart.nii.gz")
    np.testing.assert_array_equal(np.asarray(written.dataobj), np.asarray(original.dataobj))
    np.testing.assert_allclose(written.affine, original.affine, atol=1e-4)
