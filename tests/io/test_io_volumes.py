"""NIfTI, NRRD and MetaImage: orientation, refusals, writing, label maps."""

from __future__ import annotations

from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from cacsnet.errors import (
    ArgumentError,
    CacsError,
    NotAnImageError,
    NotAVolumeError,
    NotHounsfieldError,
    TiltedGantryError,
    TruncatedFileError,
)
from cacsnet.io import read_label_map, read_scan, write_nifti
from cacsnet.scan import Scan

LPS_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
ORIENTATIONS = [(axes, flips) for axes in permutations(range(3)) for flips in product((False, True), repeat=3)]


def turned(scan: Scan, axes: tuple[int, ...], flips: tuple[bool, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Transpose and flip by plain indexing; returns the array and its RAS affine."""
    columns = scan.geometry.affine_lps[:3, list(axes)].copy()
    origin = scan.geometry.affine_lps[:3, 3].copy()
    array = scan.hu.transpose(axes)
    for axis, flip in enumerate(flips):
        if flip:
            origin += columns[:, axis] * (array.shape[axis] - 1)
            columns[:, axis] *= -1
            array = np.flip(array, axis)
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = columns, origin
    return array, LPS_RAS @ affine


def save(path: Path, array: np.ndarray, affine: np.ndarray) -> Path:
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


@pytest.fixture
def nifti(scan: Scan, tmp_path: Path) -> Path:
    return save(tmp_path / "ct.nii.gz", *turned(scan, (2, 1, 0), (True, False, False)))


@pytest.mark.parametrize(("axes", "flips"), ORIENTATIONS)
def test_every_orientation_gives_the_same_volume(
    scan: Scan, tmp_path: Path, axes: tuple[int, ...], flips: tuple[bool, ...]
) -> None:
    array, affine = turned(scan, axes, flips)
    path = save(tmp_path / "ct.nii", array, affine)
    read = read_scan(path)
    np.testing.assert_array_equal(read.hu, scan.hu)
    assert read.hu.dtype == np.int16
    assert read.spacing_mm == pytest.approx(scan.spacing_mm, rel=1e-6)
    np.testing.assert_allclose(read.geometry.affine_lps, scan.geometry.affine_lps, atol=1e-5)
    np.testing.assert_array_equal(read.geometry.to_source(read.hu), array)
    np.testing.assert_array_equal(read.geometry.from_source(array), scan.hu)

    labels = (read.hu > 130).astype(np.uint8)
    write_nifti(tmp_path / "labels.nii.gz", labels, read.geometry, source=read.source)
    written = nib.load(tmp_path / "labels.nii.gz")
    np.testing.assert_array_equal(np.asarray(written.dataobj), array > 130)
    np.testing.assert_allclose(written.affine, nib.load(path).affine, atol=1e-5)
    assert written.get_data_dtype() == np.uint8
    # as for a file with other axes than the scan
    np.testing.assert_array_equal(read_label_map(tmp_path / "labels.nii.gz", scan.geometry), scan.hu > 130)


@pytest.mark.parametrize("name", ["ct.nrrd", "ct.mha", "ct.mhd", "ct.nhdr"])
@pytest.mark.parametrize("compress", [False, True])
def test_nrrd_and_metaimage(scan: Scan, tmp_path: Path, name: str, compress: bool) -> None:
    image = sitk.GetImageFromArray(scan.hu[:, ::-1])
    image.SetSpacing(scan.spacing_mm[::-1])
    image.SetOrigin((-31.25, -40.5 + 9 * 0.4, 120.0))
    image.SetDirection((1, 0, 0, 0, -1, 0, 0, 0, 1))
    sitk.WriteImage(image, str(tmp_path / name), useCompression=compress)
    read = read_scan(tmp_path / name)
    np.testing.assert_array_equal(read.hu, scan.hu)
    np.testing.assert_allclose(read.geometry.affine_lps, scan.geometry.affine_lps, atol=1e-9)
    np.testing.assert_array_equal(read.geometry.to_source(read.hu), sitk.GetArrayFromImage(image))

    write_nifti(tmp_path / "labels.nii.gz", read.hu > 130, read.geometry, source=read.source)
    labels = sitk.ReadImage(str(tmp_path / "labels.nii.gz"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(labels), scan.hu[:, ::-1] > 130)
    np.testing.assert_allclose(labels.GetOrigin(), image.GetOrigin(), atol=1e-5)
    np.testing.assert_allclose(labels.GetDirection(), image.GetDirection(), atol=1e-6)


def test_oblique_grid_keeps_its_affine(scan: Scan, tmp_path: Path) -> None:
    array, affine = turned(scan, (2, 1, 0), (False, False, False))
    angle = np.radians(10)
    rotation = np.eye(4)
    rotation[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    read = read_scan(save(tmp_path / "ct.nii", array, rotation @ affine))
    np.testing.assert_array_equal(read.hu, scan.hu)
    assert "oblique by 10.0" in read.notes[0]
    assert read.spacing_mm == pytest.approx(scan.spacing_mm, rel=1e-5)
    corner = read.geometry.affine_lps @ [5, 9, 11, 1]
    np.testing.assert_allclose(corner, LPS_RAS @ rotation @ affine @ [11, 9, 5, 1], atol=1e-4)
    write_nifti(tmp_path / "again.nii", read.hu, read.geometry)
    np.testing.assert_allclose(nib.load(tmp_path / "again.nii").affine, rotation @ affine, atol=1e-4)


def test_scaled_and_float_files(scan: Scan, tmp_path: Path) -> None:
    array, affine = turned(scan, (2, 1, 0), (False, False, False))
    image = nib.Nifti1Image((array.astype(np.int32) + 2048).astype(np.uint16), affine)
    image.header.set_slope_inter(1, -2048)
    nib.save(image, tmp_path / "scaled.nii")
    read = read_scan(tmp_path / "scaled.nii")
    assert read.hu.dtype == np.int16
    np.testing.assert_array_equal(read.hu, scan.hu)
    read = read_scan(save(tmp_path / "float.nii", array.astype(np.float64) + 0.25, affine))
    assert read.hu.dtype == np.float32
    np.testing.assert_array_equal(read.hu, scan.hu + np.float32(0.25))


def test_lengths_in_metres_become_mm(scan: Scan, tmp_path: Path) -> None:
    array, affine = turned(scan, (2, 1, 0), (False, False, False))
    affine[:3] /= 1000
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("meter")
    nib.save(image, tmp_path / "m.nii")
    assert read_scan(tmp_path / "m.nii").spacing_mm == pytest.approx(scan.spacing_mm, rel=1e-5)


def with_nan(hu: np.ndarray) -> np.ndarray:
    hu = hu.astype(np.float32)
    hu[2, 2, 2] = np.nan
    return hu


def rgb(hu: np.ndarray) -> np.ndarray:
    return np.zeros(hu.shape, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda hu: np.stack([hu, hu], -1), NotAVolumeError),
        (lambda hu: hu[..., :1], NotAVolumeError),
        (lambda hu: hu[..., 0], NotAVolumeError),
        (lambda hu: hu[..., :2], NotAVolumeError),
        (rgb, NotAnImageError),
        (lambda hu: hu.astype(np.complex64), NotAnImageError),
        (lambda hu: (hu > 130).astype(np.uint8), NotHounsfieldError),
        (lambda hu: (hu > 130).astype(np.float32) * -1000, NotHounsfieldError),
        (lambda hu: np.abs(hu), NotHounsfieldError),
        (with_nan, NotHounsfieldError),
    ],
)
def test_nifti_refusals(scan: Scan, tmp_path: Path, change, error: type[CacsError]) -> None:
    array, affine = turned(scan, (2, 1, 0), (False, False, False))
    path = save(tmp_path / "ct.nii.gz", change(array), affine)
    with pytest.raises(error, match=r"ct\.nii\.gz"):
        read_scan(path)


def test_a_trailing_axis_of_one_is_dropped(scan: Scan, tmp_path: Path) -> None:
    array, affine = turned(scan, (2, 1, 0), (False, False, False))
    read = read_scan(save(tmp_path / "ct.nii", array[..., None], affine))
    np.testing.assert_array_equal(read.hu, scan.hu)
    assert "axes" in read.notes[0]


def test_zero_spacing_and_shear(scan: Scan, tmp_path: Path) -> None:
    array, affine = turned(scan, (2, 1, 0), (False, False, False))
    image = nib.Nifti1Image(array, affine)
    image.header["srow_z"] = [0, 0, 0, 5]
    image.header["sform_code"] = 1
    raw = bytearray(image.to_bytes())
    (tmp_path / "flat.nii").write_bytes(raw)
    flat = nib.load(tmp_path / "flat.nii").header
    flat["srow_z"] = 0
    (tmp_path / "flat.nii").write_bytes(flat.binaryblock + bytes(raw[348:]))
    with pytest.raises(NotAVolumeError, match="spacing"):
        read_scan(tmp_path / "flat.nii")
    affine[1, 2] += 0.3
    with pytest.raises(TiltedGantryError):
        read_scan(save(tmp_path / "shear.nii", array, affine))


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd", "a.mha", "a.mhd", "a.nhdr"])
@pytest.mark.parametrize("content", [b"", b"just a text\n\nwith lines\n"])
def test_text_and_empty_files(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(NotAnImageError, match=name.replace(".", r"\.")):
        read_scan(tmp_path / name)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd", "a.mha"])
@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("left", [-5, 0.5])
def test_truncated(scan: Scan, tmp_path: Path, name: str, compress: bool, left: float) -> None:
    image = sitk.GetImageFromArray(scan.hu)
    path = tmp_path / name
    sitk.WriteImage(image, str(path), useCompression=compress)
    raw = path.read_bytes()
    path.write_bytes(raw[:-20] if left < 0 else raw[: int(len(raw) * left)])
    with pytest.raises(TruncatedFileError, match=r"a\."):
        read_scan(path)


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha"])
def test_a_header_without_spacing(scan: Scan, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    sitk.WriteImage(sitk.GetImageFromArray(scan.hu), str(path))
    lines = path.read_bytes().split(b"\n")
    dropped = (b"space", b"ElementSpacing")
    path.write_bytes(b"\n".join(line for line in lines if not line.startswith(dropped)))
    with pytest.raises(NotAVolumeError, match="spacing"):
        read_scan(path)


def test_vector_and_flat_images(tmp_path: Path) -> None:
    sitk.WriteImage(sitk.Image([8, 8, 8], sitk.sitkVectorUInt8, 3), str(tmp_path / "rgb.nrrd"))
    with pytest.raises(NotAnImageError, match="components"):
        read_scan(tmp_path / "rgb.nrrd")
    sitk.WriteImage(sitk.Image([8, 8], sitk.sitkInt16), str(tmp_path / "flat.mha"))
    with pytest.raises(NotAVolumeError, match="shape"):
        read_scan(tmp_path / "flat.mha")
    sitk.WriteImage(sitk.Image([8, 8, 1], sitk.sitkInt16), str(tmp_path / "one.mha"))
    with pytest.raises(NotAVolumeError, match="at least 3"):
        read_scan(tmp_path / "one.mha")


def test_series_uid_is_for_dicom(nifti: Path) -> None:
    with pytest.raises(ArgumentError, match="series_uid"):
        read_scan(nifti, "1.2")


def test_writing_is_atomic_and_checked(scan: Scan, tmp_path: Path) -> None:
    for volume, dtype, name in (
        (scan.hu[1:], None, "a.nii"),
        (scan.hu, np.uint8, "a.nii"),
        (scan.hu, np.complex64, "a.nii"),
        (scan.hu, None, "a.nrrd"),
    ):
        with pytest.raises(ArgumentError):
            write_nifti(tmp_path / name, volume, scan.geometry, dtype)
    assert list(tmp_path.iterdir()) == []
    write_nifti(tmp_path / "new" / "a.nii.gz", scan.hu, scan.geometry)
    write_nifti(tmp_path / "new" / "a.nii.gz", scan.hu + 1, scan.geometry, np.float32)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a.nii.gz"]
    written = nib.load(tmp_path / "new" / "a.nii.gz")
    assert written.get_data_dtype() == np.float32
    # a generated or DICOM scan is written x first
    np.testing.assert_array_equal(np.asarray(written.dataobj), scan.hu.T + 1)


def test_label_maps_on_other_grids(scan: Scan, tmp_path: Path) -> None:
    labels = (scan.hu > 130).astype(np.uint8) * 3
    array, affine = turned(Scan(labels, scan.geometry), (2, 1, 0), (True, True, False))
    box, offset = array[2:9, 1:8, 3:5], affine.copy()
    offset[:3, 3] += affine[:3, :3] @ [2, 1, 3]
    path = save(tmp_path / "box.nii.gz", box, offset)
    with pytest.raises(ArgumentError, match="grid"):
        read_label_map(path, scan.geometry)
    placed = read_label_map(path, scan.geometry, allow_box=True)
    wanted = np.zeros_like(labels)
    wanted[3:5, 2:9, 3:10] = labels[3:5, 2:9, 3:10]
    np.testing.assert_array_equal(placed, wanted)
    assert placed.dtype == np.uint8

    shifted = affine.copy()
    shifted[0, 3] += 0.3
    with pytest.raises(ArgumentError, match="another grid"):
        read_label_map(save(tmp_path / "shifted.nii", array, shifted), scan.geometry)
    with pytest.raises(ArgumentError, match="another grid"):
        read_label_map(save(tmp_path / "coarse.nii", array, affine @ np.diag([2, 2, 2, 1])), scan.geometry)
    with pytest.raises(ArgumentError, match="whole numbers"):
        read_label_map(save(tmp_path / "p.nii", array * np.float32(0.3), affine), scan.geometry)
