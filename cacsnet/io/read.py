"""``read_scan``: any supported input to one canonical :class:`~cacsnet.scan.Scan`."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from cacsnet.errors import ArgumentError, MissingPathError
from cacsnet.io.dicom import read_dicom
from cacsnet.io.hounsfield import check_hounsfield, rescale
from cacsnet.io.orient import canonical_geometry
from cacsnet.io.volumes import VOLUME_SUFFIXES, read_volume_file, volume_suffix
from cacsnet.scan import Acquisition, Geometry, Scan


def read_scan(path: str | Path, series_uid: str | None = None, *, patient_salt: str = "") -> Scan:
    """Read one CT volume in Hounsfield units.

    Args:
        path: a folder with the slices of one classic CT series (any file suffix or none, not recursive), one DICOM
            file, or a ``.nii``, ``.nii.gz``, ``.nrrd``, ``.nhdr``, ``.mha`` or ``.mhd`` file.
        series_uid: which SeriesInstanceUID to read where a folder holds several; only for DICOM.
        patient_salt: mixed into ``Acquisition.patient_id_hash``.

    Returns:
        A scan with ``hu`` int16 (float32 if slope, intercept or data are not integral) [z, y, x], z to the head,
        y to the back, x to the patient's left. ``geometry.to_source`` gives back nibabel's ``dataobj`` order for
        NIfTI, SimpleITK's ``GetArrayFromImage`` order for NRRD and MetaImage, and [slice, row, column] with the
        slices from feet to head for DICOM.

    Raises:
        MissingPathError: nothing there.
        EmptyFolderError: a folder without files.
        NotAnImageError: a text file, an empty file, an unknown format, RGB.
        ModalityError: DICOM without a CT slice (MR, localizer, secondary capture, derived map, enhanced multi-frame).
        TruncatedFileError: pixel data missing or short.
        DecoderError: the transfer syntax can't be decoded.
        SeveralSeriesError: more than one series and no ``series_uid``.
        SliceGapError: slice positions not equally spaced.
        TiltedGantryError: slices sheared by a gantry tilt.
        NotAVolumeError: fewer than three slices, 4-D, mixed geometry, two images at one place, no voxel spacing.
        NotHounsfieldError: a mask, a map, NaN.
        ArgumentError: ``series_uid`` names no series of the folder or the file isn't DICOM.
    """
    path = Path(path)
    if not path.exists():
        raise MissingPathError("no such file or folder", path=path)
    # real headers are full of odd values; what matters is checked by name
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if path.is_file() and volume_suffix(path) in VOLUME_SUFFIXES:
            if series_uid is not None:
                raise ArgumentError("only DICOM has series", path=path, field="series_uid", value=series_uid)
            scan = _read_volume(path)
        else:
            scan = read_dicom(path, series_uid, patient_salt)
    check_hounsfield(scan.hu, path)
    return scan


def _read_volume(path: Path) -> Scan:
    source = read_volume_file(path)
    geometry, notes = canonical_geometry(source.stored.shape, source.affine_lps, path)
    hu = geometry.from_source(rescale(source.stored, source.slope, source.intercept))
    return Scan(hu, geometry, Acquisition(), str(path), source.notes + notes)


def read_label_map(path: str | Path, geometry: Geometry, *, allow_box: bool = False, tolerance_mm: float = 0.05) -> np.ndarray:
    """Read a label file (NIfTI, NRRD or MetaImage) onto the canonical grid of a scan.

    Args:
        path: label file; its axes may run in any order and direction.
        geometry: grid of the scan.
        allow_box: also take a label map that covers only a box of the grid: it is placed by its affine, the rest is 0.
        tolerance_mm: how far a corner may be off.

    Returns:
        Labels [z, y, x] of shape ``geometry.shape`` in the smallest integer dtype that holds the file's type.

    Raises:
        ArgumentError: another shape or affine, or values that are no integers. Nothing is ever stretched.
        ReadError: as for :func:`read_scan`.
    """
    path = Path(path)
    if not path.exists():
        raise MissingPathError("no such file", path=path)
    if volume_suffix(path) not in VOLUME_SUFFIXES or not path.is_file():
        raise ArgumentError("labels are read from NIfTI, NRRD or MetaImage files", path=path, field="path", value=path.name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        source = read_volume_file(path)
    # index in the label array -> index in the scan; must be a signed permutation plus a whole shift
    to_scan = np.linalg.inv(geometry.affine_lps) @ source.affine_lps
    steps = np.rint(to_scan[:3, :3])
    corners = np.stack(np.meshgrid(*[(0, n - 1) for n in source.stored.shape], indexing="ij"), -1).reshape(-1, 3)
    exact = corners @ to_scan[:3, :3].T + to_scan[:3, 3]
    whole = corners @ steps.T + np.rint(to_scan[:3, 3])
    off_mm = float(np.abs((exact - whole) * geometry.spacing_mm).max())
    if not (np.abs(steps).sum(0) == 1).all() or not (np.abs(steps).sum(1) == 1).all() or off_mm > tolerance_mm:
        raise ArgumentError(
            "the label map lies on another grid than the scan", path=path, field="corner_offset_mm", value=off_mm
        )
    axes = tuple(int(a) for a in np.abs(steps).argmax(0))  # canonical axis of each label axis
    order = np.argsort(axes)
    labels = np.transpose(source.stored, order)
    labels = labels[tuple(slice(None, None, int(steps[k, order[k]])) for k in range(3))]
    start = whole.min(0).astype(int)
    stop = start + labels.shape
    shape_fits = labels.shape == geometry.shape and not start.any()
    if not shape_fits and not (allow_box and (start >= 0).all() and (stop <= geometry.shape).all()):
        raise ArgumentError(
            f"the label map covers voxels {start.tolist()} to {stop.tolist()}, not the scan's grid {geometry.shape}",
            path=path,
            field="shape",
            value=labels.shape,
        )
    values = labels if source.slope == 1 and source.intercept == 0 else labels * source.slope + source.intercept
    if values.dtype.kind == "f":
        if not np.isfinite(values).all() or (values != np.rint(values)).any():
            raise ArgumentError("labels must be whole numbers", path=path, field="dtype", value=str(values.dtype))
        values = values.astype(np.int32)
    out = np.zeros(geometry.shape, dtype=values.dtype.newbyteorder("="))
    out[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = values
    return out
