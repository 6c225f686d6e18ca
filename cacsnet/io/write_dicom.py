"""A scan as a classic CT series, for phantoms and tests."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from pydicom.valuerep import DSfloat

from cacsnet.errors import ArgumentError
from cacsnet.scan import OUTSIDE_FOV_HU, Scan

INTERCEPT = -1024
UNSIGNED_PADDING = 65535


def write_dicom_series(
    scan: Scan,
    folder: str | Path,
    patient_id: str,
    *,
    seed: str | None = None,
    patient_name: str = "Phantom",
    study_description: str = "",
    series_number: int = 1,
    unsigned: bool = False,
    date: str = "20000101",
) -> list[Path]:
    """Write CT Image Storage files, explicit VR little endian, one per slice; the folder appears whole or not at all.

    ``read_scan`` gives back the same ``hu`` bit by bit if it is whole-numbered. Facts come from ``scan.acquisition``;
    what is None there is left out. ``gated`` becomes CardiacSynchronizationTechnique PROSPECTIVE or NONE.

    Args:
        scan: ``hu`` [z, y, x] in HU on the canonical grid; fractions are rounded.
        folder: must not exist or be empty. Files are called IM0001.dcm ... from feet to head.
        patient_id: PatientID; with ``seed`` it decides all UIDs, so the same call writes the same bytes.
        seed: names the study and series; ``patient_id`` by default.
        patient_name: PatientName.
        study_description: StudyDescription.
        series_number: SeriesNumber; also tells the UIDs of two series of one study apart.
        unsigned: store uint16 (voxels outside the field of view as PixelPaddingValue 65535) instead of int16.
        date: StudyDate, YYYYMMDD.

    Returns:
        The files, from feet to head.

    Raises:
        ArgumentError: the folder isn't empty, or values can't be stored in 16 bits.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ArgumentError("the folder must be new or empty", path=folder, field="folder", value=str(folder))
    stored = _stored(scan.hu, unsigned)
    key = f"{patient_id}|{patient_id if seed is None else seed}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".dicom-"))
    names = [f"IM{number:04d}.dcm" for number in range(1, len(stored) + 1)]
    try:
        for index, (name, pixels) in enumerate(zip(names, stored, strict=True)):
            ds = _dataset(scan, index, key, series_number, unsigned)
            ds.PatientID, ds.PatientName = patient_id, patient_name
            ds.StudyDescription, ds.StudyDate, ds.SeriesDate = study_description, date, date
            ds.PixelData = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
            ds.save_as(temporary / name, enforce_file_format=True)
        temporary.chmod(0o755)
        if folder.exists():
            folder.rmdir()
        os.replace(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return [folder / name for name in names]


def _stored(hu: np.ndarray, unsigned: bool) -> np.ndarray:
    stored = np.rint(hu).astype(np.int64) - INTERCEPT
    outside = np.rint(hu) == OUTSIDE_FOV_HU
    dtype = np.dtype(np.uint16 if unsigned else np.int16)
    limits = np.iinfo(dtype)
    inside = stored[~outside] if unsigned else stored
    if inside.size and (inside.min() < limits.min or inside.max() >= limits.max):
        ends = (int(inside.min()) + INTERCEPT, int(inside.max()) + INTERCEPT)
        raise ArgumentError(f"HU can't be stored as {dtype} with intercept {INTERCEPT}", field="hu", value=ends)
    if unsigned:
        stored[outside] = UNSIGNED_PADDING
    return stored.astype(dtype)


def _dataset(scan: Scan, index: int, key: str, series_number: int, unsigned: bool) -> FileDataset:
    geometry, facts = scan.geometry, scan.acquisition
    series_key = f"{key}|series {series_number}"
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[series_key, f"slice {index}"])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)

    ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    ds.StudyInstanceUID = generate_uid(entropy_srcs=[key, "study"])
    ds.SeriesInstanceUID = generate_uid(entropy_srcs=[series_key, "series"])
    ds.FrameOfReferenceUID = generate_uid(entropy_srcs=[key, "frame of reference"])
    ds.PositionReferenceIndicator = ""
    ds.PatientBirthDate = ds.PatientSex = ds.AccessionNumber = ds.ReferringPhysicianName = ""
    ds.StudyID, ds.StudyTime, ds.SeriesTime = "1", "000000", "000000"
    ds.SeriesNumber, ds.InstanceNumber, ds.AcquisitionNumber = series_number, index + 1, 1
    image_type = ["ORIGINAL", "PRIMARY", "AXIAL"] if facts.virtual_image is None else ["DERIVED", "PRIMARY", "AXIAL"]
    ds.ImageType = image_type if facts.virtual_image is None else [*image_type, facts.virtual_image]
    ds.Modality, ds.PatientPosition = "CT", "HFS"

    column_direction, row_direction = (geometry.affine_lps[:3, k] / geometry.spacing_mm[k] for k in (1, 2))
    position = geometry.affine_lps[:3, 3] + index * geometry.affine_lps[:3, 0]
    ds.ImageOrientationPatient = [_decimal(v) for v in (*row_direction, *column_direction)]
    ds.ImagePositionPatient = [_decimal(v) for v in position]
    ds.PixelSpacing = [_decimal(v) for v in geometry.spacing_mm[1:]]
    # thickness is how much a slice averages over; the increment is in the positions alone
    ds.SliceThickness = _decimal(facts.slice_thickness_mm or geometry.spacing_mm[0])

    ds.Rows, ds.Columns = geometry.shape[1:]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
    ds.PixelRepresentation = 0 if unsigned else 1
    if unsigned:
        ds.PixelPaddingValue = UNSIGNED_PADDING
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = str(INTERCEPT), "1", "HU"

    ds.KVP = None if facts.kvp is None else _decimal(facts.kvp)
    ds.Manufacturer = facts.manufacturer or ""
    optional = {
        "ManufacturerModelName": facts.model,
        "ConvolutionKernel": None if facts.kernel is None else facts.kernel.split("\\"),
        "SeriesDescription": facts.series_description,
        "ProtocolName": facts.protocol_name,
        "ContrastBolusAgent": facts.contrast_agent,
        "HeartRate": None if facts.heart_rate_bpm is None else round(facts.heart_rate_bpm),
        "CardiacSynchronizationTechnique": {None: None, True: "PROSPECTIVE", False: "NONE"}[facts.gated],
        "FilterMaterial": "TIN" if facts.tin_filter else None,
        "CalciumScoringMassFactorPatient": None if facts.mass_factor is None else 1000 * facts.mass_factor,
        "MultienergyCTAcquisition": {None: None, True: "YES", False: "NO"}[facts.multi_energy],
    }
    for keyword, found in optional.items():
        if found is not None:
            setattr(ds, keyword, found)
    return ds


def _decimal(number: float) -> DSfloat:
    """At most 16 characters, as the VR DS demands (PS3.5 6.2)."""
    return DSfloat(float(number), auto_format=True)
