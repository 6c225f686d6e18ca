"""NIfTI, NRRD and MetaImage: one file, one array, one affine."""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk  # noqa: N813

from cacsnet.errors import NotAnImageError, NotAVolumeError, TruncatedFileError

NIFTI_SUFFIXES = (".nii.gz", ".nii")
ITK_SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")
VOLUME_SUFFIXES = NIFTI_SUFFIXES + ITK_SUFFIXES

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
MM_PER_UNIT = {1: 1000.0, 3: 0.001}  # NIfTI unit codes of metre and micron; 2 is mm, others are taken as mm


@dataclass(frozen=True)
class SourceVolume:
    """Stored values in the file's own axis order.

    Attributes:
        stored: array with three axes: nibabel's [i, j, k], or SimpleITK's GetArrayFromImage [k, j, i].
        affine_lps: float64 [4, 4], index in that axis order to patient mm in DICOM LPS.
        slope, intercept: value = stored * slope + intercept.
        notes: what was assumed.
    """

    stored: np.ndarray
    affine_lps: np.ndarray
    slope: float = 1.0
    intercept: float = 0.0
    notes: tuple[str, ...] = ()


def volume_suffix(path: str | Path) -> str:
    """The volume suffix of a file name (``.nii.gz`` counts as one) or ""."""
    name = Path(path).name.lower()
    return next((suffix for suffix in VOLUME_SUFFIXES if name.endswith(suffix)), "")


def read_volume_file(path: Path) -> SourceVolume:
    """Read a NIfTI, NRRD or MetaImage file without changing its axis order.

    Raises:
        NotAnImageError: empty, not the format its suffix says, or RGB / vector / complex pixels.
        NotAVolumeError: 2-D or 4-D, or the file doesn't say how large its voxels are.
        TruncatedFileError: the header reads, the pixels do not.
    """
    if path.stat().st_size == 0:
        raise NotAnImageError("the file is empty", path=path, field="size", value=0)
    return _read_nifti(path) if volume_suffix(path) in NIFTI_SUFFIXES else _read_itk(path)


def _read_nifti(path: Path) -> SourceVolume:
    try:
        image = nib.load(path)
    except (nib.filebasedimages.ImageFileError, nib.spatialimages.HeaderDataError, OSError, EOFError, zlib.error) as e:
        if _is_cut_gzip(path):
            raise TruncatedFileError("the compressed file is cut off", path=path) from e
        raise NotAnImageError(f"not a readable NIfTI file ({e})", path=path) from e
    if not isinstance(image, nib.Nifti1Image):  # Nifti2Image is one too
        raise NotAnImageError("not a NIfTI file", path=path, field="format", value=type(image).__name__)
    dtype = image.get_data_dtype()
    if dtype.kind not in "iuf":
        raise NotAnImageError("pixels are not plain numbers (RGB or complex)", path=path, field="datatype", value=dtype)
    shape, notes = image.shape, []
    if len(shape) > 3 and set(shape[3:]) == {1}:
        notes.append(f"the file has {len(shape)} axes; those of length one were dropped")
        shape = shape[:3]
    if len(shape) != 3 or min(shape) < 1:
        raise NotAVolumeError("the file holds no single three-dimensional volume", path=path, field="shape", value=shape)
    if int(image.header["sform_code"]) == 0 and int(image.header["qform_code"]) == 0:
        notes.append("the header has no orientation (sform and qform code 0): nibabel's default was assumed")
    try:
        proxy: Any = image.dataobj
        stored = proxy.get_unscaled().reshape(shape)
    except (OSError, EOFError, ValueError, OverflowError, MemoryError, zlib.error) as e:
        raise TruncatedFileError(f"the pixel data can't be read ({e})", path=path) from e
    scale = MM_PER_UNIT.get(int(image.header["xyzt_units"]) & 7, 1.0)
    affine = RAS_TO_LPS @ np.asarray(image.affine, dtype=np.float64)
    if scale != 1.0:
        affine[:3] *= scale
        notes.append(f"the header's lengths are in units of {scale:g} mm and were turned into mm")
    slope, intercept = float(proxy.slope), float(proxy.inter)
    return SourceVolume(stored, affine, slope, intercept, tuple(notes))


def _is_cut_gzip(path: Path) -> bool:
    """Whether gzip data starts well and ends early."""
    try:
        with gzip.open(path) as file:
            while file.read(1 << 20):
                pass
    except EOFError:
        return True
    except (OSError, zlib.error):
        pass
    return False


def _read_itk(path: Path) -> SourceVolume:
    fields, header_bytes = _header_text(path)
    is_nrrd = volume_suffix(path) in (".nrrd", ".nhdr")
    if not (fields.startswith("nrrd000") if is_nrrd else _is_metaimage(fields)):
        raise NotAnImageError(f"not a {'NRRD' if is_nrrd else 'MetaImage'} file", path=path)
    # ITK would silently take 1 mm
    spacing_keys = ("space directions:", "spacings:") if is_nrrd else ("elementspacing", "elementsize")
    if not any(key in fields for key in spacing_keys):
        raise NotAVolumeError("the header has no voxel spacing", path=path, field=spacing_keys[0].strip(":"), value=None)

    reader = sitk.ImageFileReader()
    reader.SetImageIO("NrrdImageIO" if is_nrrd else "MetaImageIO")
    reader.SetFileName(str(path))
    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)  # else ITK prints to stderr
    try:
        try:
            reader.ReadImageInformation()
        except RuntimeError as e:
            if "spacing" in str(e).lower():
                raise NotAVolumeError("voxel spacing must be positive", path=path, field="spacing", value=_reason(e)) from e
            raise NotAnImageError(f"the header can't be read ({_reason(e)})", path=path) from e
        if reader.GetNumberOfComponents() != 1:
            raise NotAnImageError(
                "pixels are not plain numbers (RGB or vectors)",
                path=path,
                field="components",
                value=reader.GetNumberOfComponents(),
            )
        if reader.GetDimension() != 3:
            raise NotAVolumeError("no three-dimensional volume", path=path, field="shape", value=reader.GetSize())
        _check_raw_size(path, fields, header_bytes, reader)
        try:
            image = reader.Execute()
        except RuntimeError as e:
            if "spacing" in str(e).lower():
                raise NotAVolumeError(
                    "voxel spacing must be positive", path=path, field="spacing", value=reader.GetSpacing()
                ) from e
            raise TruncatedFileError(f"the pixel data can't be read ({_reason(e)})", path=path) from e
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)
    affine = np.eye(4)
    direction = np.reshape(image.GetDirection(), (3, 3)) * np.asarray(image.GetSpacing())
    affine[:3, :3] = direction[:, ::-1]
    affine[:3, 3] = image.GetOrigin()
    return SourceVolume(sitk.GetArrayFromImage(image), affine)


def _header_text(path: Path) -> tuple[str, int]:
    """Lower-case text header up to the line before the pixels, and how many bytes it takes."""
    lines: list[str] = []
    count = 0
    with path.open("rb") as file:
        for raw in iter(lambda: file.readline(4096), b""):
            count += len(raw)
            line = raw.decode("latin-1").strip().lower()
            if not line or len(lines) > 500:
                break
            lines.append(line)
            if line.startswith("elementdatafile"):
                break
    return "\n".join(lines), count


def _metaimage_fields(fields: str) -> dict[str, str]:
    lines = dict(line.split("=", 1) for line in fields.splitlines() if "=" in line)
    return {key.strip(): text.strip() for key, text in lines.items()}


def _is_metaimage(fields: str) -> bool:
    """Whether the header is complete and its lists are as long as they must be; MetaIO writes past its own if not."""
    header = _metaimage_fields(fields)
    axes = header.get("ndims", "")
    if axes not in ("2", "3", "4") or not all(key in header for key in ("dimsize", "elementtype", "elementdatafile")):
        return False
    lengths = {"dimsize": 1, "offset": 1, "position": 1, "origin": 1, "centerofrotation": 1, "elementspacing": 1}
    lengths |= {"elementsize": 1, "transformmatrix": 2, "rotation": 2, "orientation": 2}
    return all(len(header[key].split()) == int(axes) ** power for key, power in lengths.items() if key in header)


def _check_raw_size(path: Path, fields: str, header_bytes: int, reader: sitk.ImageFileReader) -> None:
    """ITK fills up MetaImage data that is too short; compare the lengths first."""
    header = _metaimage_fields(fields)
    data_file = header.get("elementdatafile")
    if data_file is None or data_file.startswith("list") or "%" in data_file or "/" in data_file:
        return  # NRRD (checks itself), or several files
    where, start = path, header_bytes
    if data_file != "local":
        # the header text was lowered; find the name as it is spelled
        found = next((p for p in path.parent.iterdir() if p.name.lower() == data_file), None)
        if found is None:
            raise TruncatedFileError("the file with the pixels is missing", path=path, field="ElementDataFile", value=data_file)
        where, start = found, 0
    if header.get("compresseddata") == "true":
        size = header.get("compresseddatasize", "0")
        needed = int(size) if size.isdigit() else 0
    else:
        voxel = sitk.GetArrayFromImage(sitk.Image([1, 1, 1], reader.GetPixelID()))
        needed = int(np.prod(reader.GetSize())) * voxel.itemsize
    there = where.stat().st_size - start
    if there < needed:
        raise TruncatedFileError(
            f"the pixel data is shorter than the header says ({needed} bytes)", path=path, field="bytes", value=there
        )


def _reason(error: Exception) -> str:
    """The last line of an ITK message, which says why; the lines above say where in ITK."""
    return str(error).strip().splitlines()[-1].strip()
