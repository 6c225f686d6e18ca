"""One DICOM file: is it a CT slice, are its pixels there, what are its Hounsfield units."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import UID

from cacsnet.errors import DecoderError, ModalityError, NotAnImageError, NotHounsfieldError, TruncatedFileError
from cacsnet.io.hounsfield import rescale
from cacsnet.scan import OUTSIDE_FOV_HU

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_CT = ("1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2")
NOT_A_SLICE = {
    "LOCALIZER",
    "SCOUT",
    "DOSE_INFO",
    "SCREEN SAVE",
    "PERFUSION",
    "PROJECTION IMAGE",
    "MIP",
    "MINIP",
}
"""ImageType values (PS3.3 C.7.6.1.1.2) of pictures, maps and projections. SECONDARY or DERIVED alone is no reason."""

# first elements of files without preamble: (0002,0000) and the first of group 0008, little endian
BARE_STARTS = {b"\x02\0\0\0", *(bytes((8, 0, element, 0)) for element in (0x00, 0x01, 0x05, 0x08, 0x12, 0x16, 0x18))}
MARKS = ("SOPClassUID", "Modality", "MediaStorageSOPClassUID")
DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
LONG_VR = (b"OB", b"OW", b"UN", b"OF", b"OD", b"OL", b"OV")
PIXEL_DATA_TAGS = {(0x7FE0, 0x0008), (0x7FE0, 0x0009), (0x7FE0, 0x0010)}
UNDEFINED_LENGTH = 0xFFFFFFFF


@dataclass(frozen=True)
class SliceFile:
    """A DICOM file's header, and what is wrong with its pixels ("" if nothing, as far as can be told undecoded)."""

    path: Path
    header: Dataset
    pixel_fault: str


def value(ds: Dataset, keyword: str) -> Any:
    """The element's value, or None if it is missing, empty or so malformed that it can't be converted."""
    try:
        found = ds.get(keyword)
    except Exception:  # conversion of a malformed value raises whatever it runs into
        return None
    if found is None or (hasattr(found, "__len__") and len(found) == 0):
        return None
    return found


def number(ds: Dataset, keyword: str) -> float | None:
    """The element as a finite float, or None."""
    try:
        result = float(value(ds, keyword))
    except (TypeError, ValueError):
        return None
    return result if math.isfinite(result) else None


def numbers(ds: Dataset, keyword: str, count: int) -> np.ndarray | None:
    """The element as ``count`` finite float64, or None."""
    try:
        result = np.asarray([float(item) for item in value(ds, keyword)])
    except (TypeError, ValueError):
        return None
    return result if result.shape == (count,) and np.isfinite(result).all() else None


def text(ds: Dataset, keyword: str) -> str | None:
    r"""The element as stripped text, several values joined by "\\", or None if there is nothing in it."""
    found = value(ds, keyword)
    if found is None or isinstance(found, bytes):
        return None
    parts = [str(found)] if isinstance(found, str) or not hasattr(found, "__iter__") else [str(part) for part in found]
    joined = "\\".join(part.strip().strip("\0") for part in parts)
    return joined if joined.strip("\\") else None


def is_dicom_file(path: Path) -> bool:
    """Whether the file starts like DICOM: "DICM" after 128 bytes (PS3.10 7.1), or group 0008 without a preamble."""
    with path.open("rb") as file:
        start = file.read(132)
    return start[128:] == b"DICM" or start[:4] in BARE_STARTS


def read_header(path: Path) -> SliceFile | None:
    """Read everything before the pixels; None if the file isn't DICOM.

    Raises:
        TruncatedFileError: it starts like DICOM but can't be parsed.
    """
    if not is_dicom_file(path):
        return None
    with path.open("rb") as file:
        try:
            header = pydicom.dcmread(file, stop_before_pixels=True, force=True)
            # a file that is no DICOM may still parse to a few random elements
            if not any(key in ds for ds in (header, header.file_meta) for key in MARKS):
                return None
            fault = _pixel_fault(file, header, path.stat().st_size)
        except Exception as e:  # the parser raises whatever it runs into
            raise TruncatedFileError(f"the DICOM header can't be parsed ({e})", path=path) from e
    return SliceFile(path, header, fault)


def _pixel_fault(file: BinaryIO, header: Dataset, size: int) -> str:
    """Say whether the pixel data is missing or cut, from lengths alone; the file stands at the pixel element."""
    syntax = transfer_syntax(header)
    if syntax.is_deflated:
        return ""  # no lengths without inflating: left to the decoder
    implicit, order = syntax.is_implicit_VR, "little" if syntax.is_little_endian else "big"

    def integer(count: int) -> int:
        return int.from_bytes(file.read(count), order)  # type: ignore[arg-type]

    if (integer(2), integer(2)) not in PIXEL_DATA_TAGS:
        return "there is no pixel data"
    if implicit:
        length = integer(4)
    elif file.read(2) in LONG_VR:
        file.read(2)
        length = integer(4)
    else:
        length = integer(2)
    if length == UNDEFINED_LENGTH:
        while True:  # items of the encapsulated stream, PS3.5 A.4
            tag, length = (integer(2), integer(2)), integer(4)
            if tag == (0xFFFE, 0xE0DD):
                return ""
            if tag != (0xFFFE, 0xE000) or file.tell() + length > size:
                return "the encapsulated pixel data is cut off"
            file.seek(length, 1)
    there = min(length, size - file.tell())
    needed = 1
    for keyword, default in (("Rows", 0), ("Columns", 0), ("SamplesPerPixel", 1), ("NumberOfFrames", 1)):
        needed *= int(number(header, keyword) or default)
    needed = (needed * int(number(header, "BitsAllocated") or 0) + 7) // 8
    return f"{there} of {needed} bytes of pixel data are left" if there < needed else ""


def transfer_syntax(header: Dataset) -> UID:
    """Transfer syntax of the file meta header; implicit little endian where there is none (PS3.10)."""
    meta = getattr(header, "file_meta", None)
    found = None if meta is None else meta.get("TransferSyntaxUID")
    if found:
        return UID(found)
    implicit, little = getattr(header, "original_encoding", (True, True))
    if implicit is False:
        return UID("1.2.840.10008.1.2.1" if little else "1.2.840.10008.1.2.2")
    return UID("1.2.840.10008.1.2")


def why_no_ct_slice(ds: Dataset) -> str | None:
    """Why this object is no axial CT image in Hounsfield units, or None if it may be one."""
    modality = text(ds, "Modality")
    sop_class = text(ds, "SOPClassUID") or ""
    announced = text(getattr(ds, "file_meta", Dataset()), "MediaStorageSOPClassUID") or ""
    if announced.startswith(sop_class):
        sop_class = announced  # a file that was cut early holds less of the second copy
    image_type = [part.strip().upper() for part in (text(ds, "ImageType") or "").split("\\")]
    kind = UID(sop_class).name if sop_class else "no SOP class"
    if modality not in (None, "CT"):
        return f"modality {modality} ({kind})"
    unit = text(ds, "RescaleType")
    if sop_class in ENHANCED_CT or (number(ds, "NumberOfFrames") or 1) > 1:
        return f"multi-frame CT is not supported ({kind}, {'/'.join(image_type)}); export it as single slices"
    if sop_class != CT_IMAGE:
        return f"{kind}, not a CT image"
    pictures = NOT_A_SLICE.intersection(image_type)
    if pictures:
        return f"image type {sorted(pictures)[0]}"
    if (number(ds, "SamplesPerPixel") or 1) != 1:
        return "a colour picture"
    if unit not in (None, "HU"):  # PS3.3 C.11.1.1.2; US = unspecified
        return f"rescale type {unit}, not HU"
    return None


def slice_hu(path: Path) -> np.ndarray:
    """Decode one CT slice.

    PixelPaddingValue (PS3.3 C.7.5.1.1.2) is looked for in the stored values, before RescaleSlope and
    RescaleIntercept (C.11.1) are applied, and becomes ``OUTSIDE_FOV_HU``.

    Returns:
        int16 or float32 [row, column] in HU, as the file orders them.

    Raises:
        TruncatedFileError, DecoderError: the pixels are cut, missing or can't be decoded.
        NotHounsfieldError: no RescaleSlope or RescaleIntercept, or a slope of zero.
        NotAnImageError, ModalityError: no DICOM, no grey-scale image.
    """
    if not is_dicom_file(path):
        raise NotAnImageError("not a DICOM file", path=path)
    ds = pydicom.dcmread(path, force=True)
    slope, intercept = number(ds, "RescaleSlope"), number(ds, "RescaleIntercept")
    for keyword, found in (("RescaleSlope", slope), ("RescaleIntercept", intercept)):
        if found is None or (keyword == "RescaleSlope" and found == 0):
            raise NotHounsfieldError("the header doesn't say how to reach HU", path=path, field=keyword, value=found)
    assert slope is not None  # for mypy
    assert intercept is not None
    stored = _decode(ds, path)
    padding = _padding_mask(ds, stored)
    if not padding.any():
        return rescale(stored, slope, intercept)
    # the padding value may lie far outside the range of real values and must not decide the type
    real = stored[~padding]
    filled = np.where(padding, real.min() if real.size else stored.dtype.type(0), stored)
    hu = rescale(filled, slope, intercept)
    hu[padding] = OUTSIDE_FOV_HU
    return hu


def _decode(ds: Dataset, path: Path) -> np.ndarray:
    syntax = transfer_syntax(ds)
    if "PixelData" not in ds:
        raise TruncatedFileError("there is no pixel data", path=path, field="PixelData", value=None)
    if not getattr(ds.file_meta, "TransferSyntaxUID", None):
        ds.file_meta.TransferSyntaxUID = syntax  # pydicom won't decode without
    try:
        stored = ds.pixel_array
    except RuntimeError as e:  # pydicom: no plugin, or every plugin failed
        raise DecoderError(
            f"the pixel data can't be decoded ({syntax.name}): {e}",
            path=path,
            field="TransferSyntaxUID",
            value=str(syntax),
        ) from e
    except Exception as e:  # decoders raise whatever they run into
        raise TruncatedFileError(f"the pixel data is broken ({syntax.name}): {e}", path=path) from e
    if stored.ndim != 2:
        raise ModalityError("not a grey-scale slice", path=path, field="shape", value=stored.shape)
    return stored


def _padding_mask(ds: Dataset, stored: np.ndarray) -> np.ndarray:
    first = _stored_integer(ds, "PixelPaddingValue")
    if first is None:
        return np.zeros(stored.shape, dtype=bool)
    last = _stored_integer(ds, "PixelPaddingRangeLimit")
    low, high = sorted((first, first if last is None else last))
    return (stored >= low) & (stored <= high)


def _stored_integer(ds: Dataset, keyword: str) -> int | None:
    """An element "US or SS" as the integer it is among the pixels, whichever VR the writer chose."""
    found = value(ds, keyword)
    if isinstance(found, bytes):
        found = int.from_bytes(found[:2], "little")
    try:
        result = int(found)
    except (TypeError, ValueError):
        return None
    bits = int(number(ds, "BitsAllocated") or 16)
    if number(ds, "PixelRepresentation") == 1:
        return result - (1 << bits) if result >= 1 << (bits - 1) else result
    return result + (1 << bits) if result < 0 else result
