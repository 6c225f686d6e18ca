"""A folder of classic CT slices to one volume, or a refusal that says why."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from cacsnet.errors import (
    ArgumentError,
    EmptyFolderError,
    ModalityError,
    NotAnImageError,
    NotAVolumeError,
    SeveralSeriesError,
    SliceGapError,
    TiltedGantryError,
    TruncatedFileError,
)
from cacsnet.io.acquisition import acquisition_of
from cacsnet.io.dicom_file import (
    SliceFile,
    number,
    numbers,
    read_header,
    slice_hu,
    text,
    why_no_ct_slice,
)
from cacsnet.io.orient import MAX_SHEAR_DEGREES, MIN_SLICES, angle_degrees, canonical_geometry
from cacsnet.scan import Scan

SAME_PLACE_MM = 0.01
STEP_TOLERANCE_MM = 0.05
STEP_TOLERANCE = 0.02
IN_PLANE_TOLERANCE_MM = 1.0
MIN_AXIAL_COSINE = 0.7071

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class _Slice:
    file: SliceFile
    origin: np.ndarray  # mm [3], LPS, centre of the first pixel
    row_direction: np.ndarray  # towards higher column index
    column_direction: np.ndarray  # towards higher row index
    pixel_spacing: tuple[float, float]  # mm between rows, between columns

    @property
    def path(self) -> Path:
        return self.file.path


def read_dicom(path: Path, series_uid: str | None = None, patient_salt: str = "") -> Scan:
    """Read the CT series in a folder (not recursive), or refuse a single file; see :func:`cacsnet.io.read_scan`.

    Slices are ordered by ImagePositionPatient along the normal of ImageOrientationPatient (PS3.3 C.7.6.2.1.1);
    file names, InstanceNumber, SliceLocation, SpacingBetweenSlices and GantryDetectorTilt decide nothing.
    """
    notes: list[str] = []
    files = _ct_files(path, notes)
    for file in files:
        # a cut header may have lost its series; it counts for each
        mine = series_uid is None or text(file.header, "SeriesInstanceUID") in (None, series_uid)
        if mine and file.pixel_fault:
            raise TruncatedFileError(
                "the pixel data is missing or short", path=file.path, field="PixelData", value=file.pixel_fault
            )
    series = _choose_series(files, path, series_uid)
    slices = _check_same_grid([_located(file) for file in series], path)

    across = np.cross(slices[0].row_direction, slices[0].column_direction)
    # feet to head whichever way the image rows run
    normal = across if across[2] >= 0 else -across
    slices = sorted(slices, key=lambda s: float(s.origin @ normal))
    slices, pixels = _drop_duplicates(slices, normal, notes)
    if len(slices) < MIN_SLICES:
        raise NotAVolumeError(
            f"a volume needs at least {MIN_SLICES} slices; pass the folder of the whole series",
            path=path,
            field="slices",
            value=len(slices),
        )
    if normal[2] < MIN_AXIAL_COSINE:
        raise NotAVolumeError("the slices are not axial", path=path, field="ImageOrientationPatient", value=_rounded(normal))
    step_mm, shift = _even_steps(slices, normal, path)
    _check_agree(slices, "SliceThickness", path)
    _check_agree(slices, "KVP", path)
    _check_agree(slices, "ConvolutionKernel", path)

    hu = np.stack(_in_threads(lambda s: pixels[s.path] if s.path in pixels else slice_hu(s.path), slices))
    affine = np.eye(4)
    affine[:3, 0] = shift * step_mm
    affine[:3, 1] = slices[0].column_direction * slices[0].pixel_spacing[0]
    affine[:3, 2] = slices[0].row_direction * slices[0].pixel_spacing[1]
    affine[:3, 3] = slices[0].origin
    geometry, grid_notes = canonical_geometry(hu.shape, affine, path)
    notes.extend(grid_notes)

    if any(text(s.file.header, "LossyImageCompression") == "01" for s in slices):
        notes.append("the pixels were compressed with loss before")
    uids = [text(s.file.header, "SOPInstanceUID") or "" for s in slices]
    acquisition, fact_notes = acquisition_of([s.file.header for s in slices], uids if all(uids) else (), patient_salt)
    notes.extend(fact_notes)
    return Scan(geometry.from_source(hu), geometry, acquisition, str(path), tuple(notes))


def _in_threads(function: Callable[[T], R], items: Iterable[T]) -> list[R]:
    # waiting for the disk and decoding leave the interpreter lock; more threads only fight over it
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        return list(pool.map(function, items))


def _ct_files(path: Path, notes: list[str]) -> list[SliceFile]:
    """All CT slices at ``path``; what else lies there is left out with a note."""
    if path.is_dir():
        names = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
        if not names:
            raise EmptyFolderError("the folder holds no files (subfolders are not searched)", path=path)
    else:
        names = [path]
    files, foreign, left_out = [], [], defaultdict(list)
    for name, file in zip(names, _in_threads(read_header, names), strict=True):
        if file is None:
            foreign.append(name)
        elif reason := why_no_ct_slice(file.header):
            left_out[reason].append(name)
        else:
            files.append(file)
    if not files and left_out:
        reasons = "; ".join(f"{reason}: {_names(found)}" for reason, found in left_out.items())
        raise ModalityError(f"no CT slices ({reasons})", path=path, field="files", value=len(names))
    if not files:
        empty = all(name.stat().st_size == 0 for name in foreign)
        raise NotAnImageError(
            f"{'empty' if empty else 'neither DICOM nor another supported format'}: {_names(foreign)}",
            path=path,
            field="files",
            value=len(foreign),
        )
    if foreign:
        notes.append(f"{len(foreign)} files are not DICOM and were left out: {_names(foreign)}")
    notes.extend(f"left out ({reason}): {_names(found)}" for reason, found in left_out.items())
    return files


def _names(paths: Sequence[Path], most: int = 4) -> str:
    shown = ", ".join(p.name for p in paths[:most])
    return shown if len(paths) <= most else f"{shown} and {len(paths) - most} more"


def _choose_series(files: list[SliceFile], path: Path, series_uid: str | None) -> list[SliceFile]:
    series: dict[str, list[SliceFile]] = defaultdict(list)
    for file in files:
        series[text(file.header, "SeriesInstanceUID") or ""].append(file)
    listing = "; ".join(
        f"{uid or 'no UID'}: {len(found)} slices, {text(found[0].header, 'SeriesDescription') or 'no name'}"
        for uid, found in sorted(series.items())
    )
    if series_uid is not None:
        if series_uid not in series:
            raise ArgumentError(f"no such series here ({listing})", path=path, field="series_uid", value=series_uid)
        return series[series_uid]
    if len(series) > 1:
        raise SeveralSeriesError(
            f"{len(series)} series, choose one with series_uid ({listing})",
            path=path,
            field="SeriesInstanceUID",
            value=tuple(sorted(series)),
        )
    return next(iter(series.values()))


def _located(file: SliceFile) -> _Slice:
    """Position, orientation and pixel spacing of a slice (image plane module, PS3.3 C.7.6.2)."""
    found: dict[str, np.ndarray] = {}
    for keyword, count in (("ImagePositionPatient", 3), ("ImageOrientationPatient", 6), ("PixelSpacing", 2)):
        item = numbers(file.header, keyword, count)
        if item is None:
            raise NotAVolumeError(
                "the slice doesn't say where it lies", path=file.path, field=keyword, value=text(file.header, keyword)
            )
        found[keyword] = item
    row, column = found["ImageOrientationPatient"].reshape(2, 3)
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if min(lengths) < 0.5 or abs(float(row @ column)) > 0.01 * lengths[0] * lengths[1]:
        raise NotAVolumeError(
            "rows and columns are not at right angles",
            path=file.path,
            field="ImageOrientationPatient",
            value=_rounded(found["ImageOrientationPatient"]),
        )
    between_rows, between_columns = (float(s) for s in found["PixelSpacing"])
    if not (between_rows > 0 and between_columns > 0):
        raise NotAVolumeError(
            "voxel spacing must be positive",
            path=file.path,
            field="PixelSpacing",
            value=(between_rows, between_columns),
        )
    return _Slice(file, found["ImagePositionPatient"], row / lengths[0], column / lengths[1], (between_rows, between_columns))


def _check_same_grid(slices: list[_Slice], path: Path) -> list[_Slice]:
    first = slices[0]
    for other in slices[1:]:
        turned = max(
            np.abs(other.row_direction - first.row_direction).max(),
            np.abs(other.column_direction - first.column_direction).max(),
        )
        if turned > 1e-3:
            raise NotAVolumeError(
                f"mixed orientations in one series (differs from {first.path.name})",
                path=other.path,
                field="ImageOrientationPatient",
                value=text(other.file.header, "ImageOrientationPatient"),
            )
        if not np.allclose(other.pixel_spacing, first.pixel_spacing, rtol=1e-4):
            raise NotAVolumeError(
                f"mixed pixel spacing in one series (differs from {first.path.name})",
                path=other.path,
                field="PixelSpacing",
                value=other.pixel_spacing,
            )
        for keyword in ("Rows", "Columns", "FrameOfReferenceUID"):
            if text(other.file.header, keyword) != text(first.file.header, keyword):
                raise NotAVolumeError(
                    f"mixed {keyword} in one series (differs from {first.path.name})",
                    path=other.path,
                    field=keyword,
                    value=text(other.file.header, keyword),
                )
    return slices


def _drop_duplicates(slices: list[_Slice], normal: np.ndarray, notes: list[str]) -> tuple[list[_Slice], dict[Path, np.ndarray]]:
    """Drop second copies of the same image; refuse different images at one place. Slices sorted by position.

    Returns the slices that stay, and the pixels that had to be decoded to find out.
    """
    kept: list[_Slice] = []
    pixels: dict[Path, np.ndarray] = {}
    for new in slices:
        if not kept or float((new.origin - kept[-1].origin) @ normal) > SAME_PLACE_MM:
            kept.append(new)
            continue
        old = kept[-1]
        uids = [text(s.file.header, "SOPInstanceUID") for s in (old, new)]
        same = uids[0] is not None and uids[0] == uids[1]
        if same:
            for s in (old, new):
                if s.path not in pixels:
                    pixels[s.path] = slice_hu(s.path)
            same = np.array_equal(pixels[old.path], pixels[new.path])
        if not same:
            raise NotAVolumeError(
                f"different images at one place ({old.path.name} and {new.path.name})",
                path=new.path,
                field="ImagePositionPatient",
                value=_rounded(new.origin),
            )
        notes.append(f"{new.path.name} is a copy of {old.path.name} and was left out")
        del pixels[new.path]
    uid_of: dict[str, _Slice] = {}
    for s in kept:
        uid = text(s.file.header, "SOPInstanceUID")
        if uid is not None and uid_of.setdefault(uid, s) is not s:
            raise NotAVolumeError(
                f"two slices at different places share a UID (the other is {uid_of[uid].path.name})",
                path=s.path,
                field="SOPInstanceUID",
                value=uid,
            )
    return kept, pixels


def _even_steps(slices: list[_Slice], normal: np.ndarray, path: Path) -> tuple[float, np.ndarray]:
    """Increment (mm along the normal) and the shift (mm, LPS) from slice to slice per mm of it.

    Raises:
        TiltedGantryError: the shift leaves the normal by more than ``MAX_SHEAR_DEGREES``.
        SliceGapError: a step differs from the median by more than 0.05 mm and 2 %.
        NotAVolumeError: single slices are moved sideways.
    """
    origins = np.stack([s.origin for s in slices])
    positions = origins @ normal
    total = float(positions[-1] - positions[0])
    shift = (origins[-1] - origins[0]) / total
    tilt = angle_degrees(shift, normal)
    if tilt > MAX_SHEAR_DEGREES:
        raise TiltedGantryError(
            "slices are sheared against each other (gantry tilt)", path=path, field="tilt_degrees", value=round(tilt, 2)
        )
    steps = np.diff(positions)
    usual = float(np.median(steps))
    worst = int(np.abs(steps - usual).argmax())
    if abs(steps[worst] - usual) > max(STEP_TOLERANCE_MM, STEP_TOLERANCE * usual):
        raise SliceGapError(
            f"uneven slices: {steps[worst]:.4g} mm between {positions[worst]:.6g} mm ({slices[worst].path.name}) and "
            f"{positions[worst + 1]:.6g} mm ({slices[worst + 1].path.name}), {usual:.4g} mm elsewhere",
            path=path,
            field="ImagePositionPatient",
            value=_rounded(origins[worst + 1]),
        )
    sideways = origins - origins[0] - (positions - positions[0])[:, None] * shift
    off = np.linalg.norm(sideways, axis=1)
    if off.max() > IN_PLANE_TOLERANCE_MM:
        raise NotAVolumeError(
            f"a slice is moved sideways by {off.max():.3g} mm against the others",
            path=slices[int(off.argmax())].path,
            field="ImagePositionPatient",
            value=_rounded(origins[int(off.argmax())]),
        )
    # the steps are even: their mean has less rounding error than their median
    return total / (len(slices) - 1), shift


def _check_agree(slices: list[_Slice], keyword: str, path: Path) -> None:
    """Refuse a series in which an element has several values; slices without it don't count."""
    seen: dict[object, Path] = {}
    for s in slices:
        found = number(s.file.header, keyword)
        key = text(s.file.header, keyword) if found is None else round(found, 3)
        if key is not None:
            seen.setdefault(key, s.path)
    if len(seen) > 1:
        which = ", ".join(f"{key} ({file.name})" for key, file in seen.items())
        raise NotAVolumeError(f"mixed {keyword} in one series: {which}", path=path, field=keyword, value=tuple(seen))


def _rounded(vector: np.ndarray) -> tuple[float, ...]:
    return tuple(round(float(v), 4) for v in vector)
