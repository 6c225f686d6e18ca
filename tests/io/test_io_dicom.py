"""Classic CT series: what is read, bit by bit, and what is refused.

The letters (b), (c) in names are those of the conformance sub-cases, see tests/scoring/test_scoring_conformance.py.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import (
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    RLELossless,
    generate_uid,
)

from cacsnet.errors import (
    ArgumentError,
    CacsError,
    EmptyFolderError,
    MissingPathError,
    ModalityError,
    NotAnImageError,
    NotAVolumeError,
    NotHounsfieldError,
    SeveralSeriesError,
    SliceGapError,
    TiltedGantryError,
    TruncatedFileError,
)
from cacsnet.io import read_scan, write_dicom_series
from cacsnet.scan import Scan

Edit = Callable[..., None]


@pytest.mark.parametrize("unsigned", [False, True])
def test_b_written_series_reads_back_bit_by_bit(scan: Scan, tmp_path: Path, unsigned: bool) -> None:
    files = write_dicom_series(scan, tmp_path / "s", "P1", unsigned=unsigned)
    read = read_scan(tmp_path / "s", patient_salt="salt")
    assert read.hu.dtype == np.int16
    np.testing.assert_array_equal(read.hu, scan.hu)
    np.testing.assert_allclose(read.geometry.affine_lps, scan.geometry.affine_lps, atol=1e-6)
    assert read.spacing_mm == (1.5, 0.4, 0.6)
    assert read.notes == ()
    facts = read.acquisition
    assert (facts.kvp, facts.manufacturer, facts.model, facts.kernel) == (120.0, "ACME", "One", "Qr36d\\3")
    assert (facts.slice_thickness_mm, facts.gated, facts.iterative_reconstruction) == (3.0, True, True)
    assert (facts.contrast_agent, facts.multi_energy, facts.heart_rate_bpm) == (None, None, None)
    assert facts.sop_instance_uids == tuple(str(pydicom.dcmread(file).SOPInstanceUID) for file in files)
    assert facts.patient_id_hash
    assert len(facts.patient_id_hash) == 12
    assert facts.patient_id_hash != read_scan(tmp_path / "s").acquisition.patient_id_hash


def test_writer_is_deterministic_and_quiet_in_strict_pydicom(scan: Scan, tmp_path: Path) -> None:
    first = write_dicom_series(scan, tmp_path / "a", "P1", seed="x")
    second = write_dicom_series(scan, tmp_path / "b", "P1", seed="x")
    other = write_dicom_series(scan, tmp_path / "c", "P1", seed="y")
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]
    assert first[0].read_bytes() != other[0].read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for element in pydicom.dcmread(first[0]):
            assert element.value is not None or element.VM == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "c"]


def test_writer_refuses_a_full_folder_and_values_beyond_16_bits(scan: Scan, series: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="empty"):
        write_dicom_series(scan, series[0].parent, "P1")
    large = Scan(scan.hu.astype(np.float32) * 100, scan.geometry)
    with pytest.raises(ArgumentError, match="stored"):
        write_dicom_series(large, tmp_path / "x", "P1")
    assert not (tmp_path / "x").exists()


def test_c_names_suffixes_and_instance_numbers_decide_nothing(scan: Scan, series: list[Path], edit: Edit) -> None:
    for place, (file, name) in enumerate(zip(series, ["z", "a.ima", "9", "m.dcm", "B", "q.txt"], strict=True)):
        edit(file, InstanceNumber=100 - place, SpacingBetweenSlices=-9.0, GantryDetectorTilt=20.0)
        file.rename(file.with_name(name))
    np.testing.assert_array_equal(read_scan(series[0].parent).hu, scan.hu)


def test_c_rows_running_forwards_are_flipped_and_found_again(scan: Scan, series: list[Path], edit: Edit) -> None:
    def turned(ds: pydicom.Dataset) -> list[float]:
        x, y, z = ds.ImagePositionPatient
        return [x, y + 9 * 0.4, z]

    for file in series:
        edit(
            file,
            ImagePositionPatient=turned,
            ImageOrientationPatient=[1, 0, 0, 0, -1, 0],
            PixelData=lambda ds: ds.pixel_array[::-1].tobytes(),
        )
    read = read_scan(series[0].parent)
    np.testing.assert_array_equal(read.hu, scan.hu)
    np.testing.assert_allclose(read.geometry.affine_lps, scan.geometry.affine_lps, atol=1e-6)
    assert read.geometry.source_flips == (False, True, False)
    np.testing.assert_array_equal(read.geometry.to_source(read.hu), scan.hu[:, ::-1])


def test_c_cosines_of_0_9999_are_no_tilt(scan: Scan, series: list[Path], edit: Edit) -> None:
    for file in series:
        edit(file, ImageOrientationPatient=[1, 0, 0, 0, 0.9999, 0.01414])
    read = read_scan(series[0].parent)
    np.testing.assert_array_equal(read.hu, scan.hu)
    assert read.spacing_mm[0] == pytest.approx(1.5, rel=2e-4)


def test_b_slope_and_intercept_are_each_slices_own(scan: Scan, series: list[Path], edit: Edit) -> None:
    hu = scan.hu[3].astype(int)
    edit(series[3], RescaleSlope="2", RescaleIntercept="-1000", PixelData=((hu + 1000) // 2).astype("<i2").tobytes())
    edit(series[4], RescaleSlope="0.5")
    read = read_scan(series[0].parent)
    assert read.hu.dtype == np.float32
    np.testing.assert_array_equal(read.hu[3], (hu + 1000) // 2 * 2 - 1000)
    np.testing.assert_array_equal(read.hu[4], (scan.hu[4] + 1024) * 0.5 - 1024)
    np.testing.assert_array_equal(read.hu[5], scan.hu[5])


def test_b_padding_is_found_before_rescale_also_as_unsigned_value(scan: Scan, series: list[Path], edit: Edit) -> None:
    for file in series:

        def padded(ds: pydicom.Dataset) -> bytes:
            stored = ds.pixel_array.copy()
            stored[2, 3] = -2000
            return stored.tobytes()

        edit(file, PixelData=padded)
        raw = pydicom.dcmread(file)
        raw.add_new("PixelPaddingValue", "US", 63536)  # -2000 as written by an old scanner on signed pixels
        raw.save_as(file)
    read = read_scan(series[0].parent)
    assert (read.hu[:, 2, 3] == -2048).all()
    read.hu[:, 2, 3] = scan.hu[:, 2, 3]
    np.testing.assert_array_equal(read.hu, scan.hu)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless])
def test_transfer_syntaxes(scan: Scan, series: list[Path], syntax: pydicom.uid.UID) -> None:
    for file in series:
        ds = pydicom.dcmread(file)
        if syntax == RLELossless:
            ds.compress(syntax)
            ds.save_as(file)
            continue
        if syntax == ExplicitVRBigEndian:
            ds.PixelData = ds.pixel_array.astype(">i2").tobytes()
        ds.file_meta.TransferSyntaxUID = syntax
        pydicom.dcmwrite(file, ds, implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian)
    np.testing.assert_array_equal(read_scan(series[0].parent).hu, scan.hu)


def test_c_an_identical_copy_is_dropped_with_a_note(scan: Scan, series: list[Path]) -> None:
    shutil.copy(series[2], series[2].with_name("copy.dcm"))
    read = read_scan(series[0].parent)
    np.testing.assert_array_equal(read.hu, scan.hu)
    assert "copy" in read.notes[0]


@pytest.mark.parametrize("new_uid", [True, False])
def test_c_different_images_at_one_place_are_refused(series: list[Path], edit: Edit, new_uid: bool) -> None:
    copy = series[2].with_name("copy.dcm")
    shutil.copy(series[2], copy)
    other = {"SOPInstanceUID": generate_uid()} if new_uid else {"PixelData": lambda ds: ds.PixelData[::-1]}
    edit(copy, **other)
    with pytest.raises(NotAVolumeError, match="one place"):
        read_scan(copy.parent)


def test_stray_files_and_localizers_are_left_out_with_a_note(scan: Scan, series: list[Path], edit: Edit) -> None:
    folder = series[0].parent
    (folder / "readme.dcm").write_text("no image")
    (folder / "sub").mkdir()
    shutil.copy(series[0], folder / "scout")
    edit(folder / "scout", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], SOPInstanceUID=generate_uid())
    read = read_scan(folder)
    np.testing.assert_array_equal(read.hu, scan.hu)
    assert ["readme.dcm" in note or "LOCALIZER" in note for note in read.notes] == [True, True]


def test_c_a_missing_slice_is_named(series: list[Path]) -> None:
    series[3].unlink()
    with pytest.raises(SliceGapError, match=r"3 mm between 123 mm \(IM0003.dcm\) and 126 mm \(IM0005.dcm\), 1.5 mm"):
        read_scan(series[0].parent)


def test_tilt_is_found_without_the_tag(series: list[Path], edit: Edit) -> None:
    for file in series:
        edit(file, ImageOrientationPatient=[1, 0, 0, 0, 0.9962, -0.0872])
    with pytest.raises(TiltedGantryError, match=r"tilt_degrees=5\.0"):
        read_scan(series[0].parent)


def test_several_series_are_listed_and_one_can_be_chosen(scan: Scan, series: list[Path], tmp_path: Path) -> None:
    more = write_dicom_series(scan, tmp_path / "more", "P1", series_number=2)
    for file in more:
        shutil.copy(file, series[0].with_name(f"b{file.name}"))
    uids = [str(pydicom.dcmread(files[0]).SeriesInstanceUID) for files in (series, more)]
    with pytest.raises(SeveralSeriesError) as caught:
        read_scan(series[0].parent)
    assert all(uid in str(caught.value) for uid in uids)
    read = read_scan(series[0].parent, uids[1])
    assert read.acquisition.series_uid == uids[1]
    np.testing.assert_array_equal(read.hu, scan.hu)
    with pytest.raises(ArgumentError, match="no such series"):
        read_scan(series[0].parent, "1.2.3")


@pytest.mark.parametrize(
    ("elements", "error", "words"),
    [
        ({"SliceThickness": "4"}, NotAVolumeError, "mixed SliceThickness"),
        ({"KVP": "100"}, NotAVolumeError, "mixed KVP"),
        ({"PixelSpacing": [0.4, 0.61]}, NotAVolumeError, "mixed pixel spacing"),
        ({"PixelSpacing": [0, 0]}, NotAVolumeError, "positive"),
        ({"ImageOrientationPatient": [0, 1, 0, 1, 0, 0]}, NotAVolumeError, "mixed orientations"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, NotAVolumeError, "right angles"),
        ({"FrameOfReferenceUID": "1.2.3"}, NotAVolumeError, "mixed FrameOfReferenceUID"),
        ({"ImagePositionPatient": None}, NotAVolumeError, "where it lies"),
        ({"ImagePositionPatient": [-21.25, -40.5, 123]}, NotAVolumeError, "sideways"),
        ({"RescaleSlope": None}, NotHounsfieldError, "RescaleSlope"),
        ({"RescaleIntercept": None}, NotHounsfieldError, "RescaleIntercept"),
        ({"RescaleSlope": "0"}, NotHounsfieldError, "RescaleSlope"),
        ({"PixelData": None}, TruncatedFileError, "no pixel data"),
        ({"Rows": 11}, TruncatedFileError, "bytes of pixel data"),
        ({"Modality": "MR"}, SliceGapError, "uneven"),
        ({"RescaleType": "US"}, SliceGapError, "uneven"),
    ],
)
def test_one_bad_slice_refuses_the_series(
    series: list[Path], edit: Edit, elements: dict[str, object], error: type[CacsError], words: str
) -> None:
    edit(series[2], **elements)
    with pytest.raises(error, match=words) as caught:
        read_scan(series[0].parent)
    assert caught.type is error
    assert str(series[0].parent) in str(caught.value)


@pytest.mark.parametrize(
    "elements",
    [
        {"Modality": "MR"},
        {"RescaleType": "US"},
        {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]},
        {"SOPClassUID": pydicom.uid.SecondaryCaptureImageStorage},
        {"SOPClassUID": pydicom.uid.EnhancedCTImageStorage, "NumberOfFrames": 6},
    ],
)
def test_a_folder_without_ct_slices(series: list[Path], edit: Edit, elements: dict[str, object]) -> None:
    for file in series:
        edit(file, **elements)
    with pytest.raises(ModalityError, match="IM0001"):
        read_scan(series[0].parent)


def test_odd_header_values_do_not_stop_reading(scan: Scan, series: list[Path]) -> None:
    for file in series:
        raw = file.read_bytes().replace(b"PROSPECTIVE ", b"PROSP\xe9CTIVE ")
        raw = raw.replace(b"LO\x04\x00ACME", b"LO\x04\x00AC\xffE").replace(b"DS\x06\x00120.0 ", b"DS\x06\x00abcde ")
        file.write_bytes(raw)
    read = read_scan(series[0].parent)
    np.testing.assert_array_equal(read.hu, scan.hu)
    assert read.acquisition.kvp is None


def test_truncated_files(series: list[Path]) -> None:
    whole = series[4].read_bytes()
    for left in (len(whole) - 2, len(whole) - 200, 700, 400):
        series[4].write_bytes(whole[:left])
        with pytest.raises(TruncatedFileError, match="IM0005"):
            read_scan(series[0].parent)


def test_truncated_compressed_file(series: list[Path]) -> None:
    ds = pydicom.dcmread(series[4])
    ds.compress(RLELossless)
    ds.save_as(series[4])
    series[4].write_bytes(series[4].read_bytes()[:-30])
    with pytest.raises(TruncatedFileError, match="IM0005"):
        read_scan(series[0].parent)


def test_too_few_slices(series: list[Path]) -> None:
    with pytest.raises(NotAVolumeError, match="at least 3"):
        read_scan(series[0])
    for file in series[2:]:
        file.unlink()
    with pytest.raises(NotAVolumeError, match="at least 3"):
        read_scan(series[0].parent)


def test_sagittal_slices_are_refused(series: list[Path], edit: Edit) -> None:
    for place, file in enumerate(series):
        edit(file, ImageOrientationPatient=[0, 1, 0, 0, 0, -1], ImagePositionPatient=[place, 0, 0])
    with pytest.raises(NotAVolumeError, match="not axial"):
        read_scan(series[0].parent)


def test_paths_that_are_no_scans(tmp_path: Path) -> None:
    with pytest.raises(MissingPathError):
        read_scan(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(EmptyFolderError):
        read_scan(tmp_path / "empty")
    for name, content in (("note.txt", b"hello"), ("x.dcm", b""), ("y.dcm", b"\0" * 128 + b"DICM")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises((NotAnImageError, TruncatedFileError), match=name):
            read_scan(tmp_path / name)


@pytest.mark.parametrize(
    ("elements", "field", "wanted"),
    [
        ({"CardiacSynchronizationTechnique": "NONE"}, "gated", False),
        ({"CardiacSynchronizationTechnique": None}, "gated", None),
        ({"CardiacSynchronizationTechnique": None, "SeriesDescription": "SmartScore - Gated 0.5"}, "gated", True),
        ({"CardiacSynchronizationTechnique": None, "SeriesDescription": "CaScore 3.0 Qr36"}, "gated", True),
        ({"CardiacSynchronizationTechnique": None, "ProtocolName": "CHEST NON-GATED"}, "gated", False),
        ({"CardiacSynchronizationTechnique": None, "SeriesDescription": "CAVERNOUS SCAN"}, "gated", None),
        ({"ContrastBolusAgent": ""}, "contrast_agent", None),
        ({"ContrastBolusAgent": "ORAL & IV"}, "contrast_agent", "ORAL & IV"),
        ({"ConvolutionKernel": "B35f"}, "iterative_reconstruction", None),
        ({"ConvolutionKernel": ["I30f", "2"]}, "kernel", "I30f\\2"),
        ({"ConvolutionKernel": "I30f"}, "iterative_reconstruction", True),
        ({"KVP": ""}, "kvp", None),
        ({"HeartRate": 61}, "heart_rate_bpm", 61.0),
        ({"PatientWeight": "81", "PatientSize": "1.8"}, "bmi_kg_m2", 25.0),
        ({"MultienergyCTAcquisition": "YES"}, "multi_energy", True),
        ({"FilterMaterial": "TIN"}, "tin_filter", True),
        ({"FilterMaterial": ["ALUMINUM", "TIN"]}, "tin_filter", True),
        ({"FilterMaterial": ["MIXED"]}, "tin_filter", None),
        ({"FilterType": "SHAPED_TIN"}, "tin_filter", True),
        ({"FilterType": "Sn 0.6mm"}, "tin_filter", True),
        ({"FilterType": "WEDGE_TITANIUM"}, "tin_filter", None),
        ({"FilterType": "BODY FILTER"}, "tin_filter", None),
        ({"SeriesDescription": "CaScore Sn100 3.0 Qr36"}, "tin_filter", True),
        ({"ProtocolName": "CaSc_Sn-150kV"}, "tin_filter", True),
        ({"SeriesDescription": "STATION ESN100 Sn1000"}, "tin_filter", None),
        ({"ImageType": ["DERIVED", "PRIMARY", "AXIAL", "VMI"]}, "virtual_image", "VMI"),
        ({"ImageType": ["DERIVED", "PRIMARY", "AXIAL", "VMI"]}, "multi_energy", True),
        ({"ImageType": ["DERIVED", "PRIMARY", "AXIAL", "MAT_REMOVED"]}, "virtual_image", "MAT_REMOVED"),
        ({"SeriesDescription": "CaScore 70 keV Qr36"}, "virtual_image", "VMI"),
        ({"SeriesDescription": "Mono_70keV"}, "virtual_image", "VMI"),
        ({"SeriesDescription": "Monoenergetic Plus"}, "virtual_image", "VMI"),
        ({"SeriesDescription": "CaScore 120 kV Qr36"}, "virtual_image", None),
        ({"MultienergyCTAcquisition": "YES"}, "virtual_image", None),
    ],
)
def test_acquisition(series: list[Path], edit: Edit, elements: dict[str, object], field: str, wanted: object) -> None:
    for file in series:
        edit(file, **elements)
    assert getattr(read_scan(series[0].parent).acquisition, field) == wanted


@pytest.mark.parametrize(
    ("value", "factor", "note"),
    [
        (0.8125, 0.8125e-3, "was read as mg/cm3 per HU"),
        (0.00078125, 0.78125e-3, "was read as mg/mm3 per HU"),
        (2.5, None, "left out"),
        (0.0, None, "left out"),
        (-0.8, None, "left out"),
        (None, None, None),
    ],
)
def test_the_calcium_mass_factor_is_told_by_its_size(
    series: list[Path], edit: Edit, value: float | None, factor: float | None, note: str | None
) -> None:
    for file in series:
        if value is not None:
            edit(file, CalciumScoringMassFactorPatient=value)
    read = read_scan(series[0].parent)
    assert read.acquisition.mass_factor == (None if factor is None else pytest.approx(factor))
    assert len(read.notes) == (0 if note is None else 1)
    assert all(note in found for found in read.notes if note)


@pytest.mark.parametrize("last", [0.9, None])
def test_a_mass_factor_that_differs_between_slices_is_left_out(series: list[Path], edit: Edit, last: float | None) -> None:
    for file in series[:-1]:
        edit(file, CalciumScoringMassFactorPatient=0.8)
    if last is not None:
        edit(series[-1], CalciumScoringMassFactorPatient=last)
    read = read_scan(series[0].parent)
    assert read.acquisition.mass_factor is None
    assert "differs between slices" in read.notes[0]


def test_one_slice_with_tin_or_of_a_virtual_image_is_enough(series: list[Path], edit: Edit) -> None:
    edit(series[3], FilterMaterial="TIN", ImageType=["DERIVED", "PRIMARY", "AXIAL", "VMI"])
    facts = read_scan(series[0].parent).acquisition
    assert (facts.tin_filter, facts.virtual_image) == (True, "VMI")


def test_what_changes_the_meaning_of_a_hu_is_written_and_read(scan: Scan, tmp_path: Path) -> None:
    facts = replace(scan.acquisition, tin_filter=True, virtual_image="VMI", multi_energy=True, mass_factor=8e-4)
    write_dicom_series(replace(scan, acquisition=facts), tmp_path / "s", "P1")
    read = read_scan(tmp_path / "s").acquisition
    assert (read.tin_filter, read.virtual_image, read.multi_energy) == (True, "VMI", True)
    assert read.mass_factor == pytest.approx(8e-4)


def test_a_series_without_air_is_not_hounsfield(scan: Scan, tmp_path: Path) -> None:
    write_dicom_series(Scan(np.abs(scan.hu), scan.geometry), tmp_path / "s", "P1")
    with pytest.raises(NotHounsfieldError, match="-200"):
        read_scan(tmp_path / "s")
