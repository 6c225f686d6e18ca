"""NIfTI on the grid of the source."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import DTypeLike

from cacsnet.errors import ArgumentError
from cacsnet.io.volumes import NIFTI_SUFFIXES, RAS_TO_LPS, volume_suffix
from cacsnet.scan import Geometry


def source_affine_lps(geometry: Geometry) -> np.ndarray:
    """Float64 [4, 4]: index in the source array's axis order to patient mm in DICOM LPS."""
    affine = np.eye(4)
    affine[:3, 3] = geometry.affine_lps[:3, 3]
    for canonical in range(3):
        column = geometry.affine_lps[:3, canonical]
        source = geometry.source_axes.index(canonical)
        affine[:3, source] = -column if geometry.source_flips[canonical] else column
        if geometry.source_flips[canonical]:
            affine[:3, 3] += column * (geometry.shape[canonical] - 1)
    return affine


def write_nifti(
    path: str | Path, volume: np.ndarray, geometry: Geometry, dtype: DTypeLike | None = None, *, source: str = ""
) -> None:
    """Write a volume as NIfTI-1 on the grid of the file it came from; the file appears whole or not at all.

    Args:
        path: ends in ``.nii`` or ``.nii.gz``.
        volume: [z, y, x] on ``geometry`` (bool is written as uint8).
        geometry: of the scan.
        dtype: of the file; the volume's by default. A value it can't hold exactly is an error for integer types.
        source: ``Scan.source``. From a NIfTI file the array order of that file is kept; from anything else (DICOM,
            NRRD, MetaImage, generated; there the array order is slice first) the axes are reversed, so that x runs
            fastest as NIfTI readers expect. If empty, the geometry's axes decide.

    Raises:
        ArgumentError: suffix, shape or dtype don't fit.
    """
    path = Path(path)
    if volume_suffix(path) not in NIFTI_SUFFIXES:
        raise ArgumentError("the name must end in .nii or .nii.gz", path=path, field="path", value=path.name)
    if volume.shape != geometry.shape:
        raise ArgumentError("array and geometry differ in shape", path=path, field="shape", value=volume.shape)
    wanted = np.dtype(np.uint8 if volume.dtype == bool else volume.dtype) if dtype is None else np.dtype(dtype)
    if wanted.kind not in "iuf" or wanted == np.float16:
        raise ArgumentError("NIfTI can't hold this type", path=path, field="dtype", value=str(wanted))
    data = geometry.to_source(volume).astype(wanted)
    if wanted.kind in "iu" and not np.array_equal(data, geometry.to_source(volume)):
        raise ArgumentError("values don't fit the type of the file", path=path, field="dtype", value=str(wanted))
    affine = source_affine_lps(geometry)
    from_nifti = volume_suffix(source) in NIFTI_SUFFIXES if source else geometry.source_axes[0] != 0
    if not from_nifti:
        data, affine = data.transpose(2, 1, 0), affine[:, [2, 1, 0, 3]]

    image = nib.Nifti1Image(data, RAS_TO_LPS @ affine, dtype=wanted)
    image.header.set_xyzt_units("mm")
    image.set_sform(image.affine, code=1)
    image.set_qform(image.affine, code=1, strip_shears=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=volume_suffix(path))
    os.close(handle)
    try:
        nib.save(image, temporary)
        os.chmod(temporary, 0o644)  # mkstemp makes it private
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
