"""Small scans and where the real ones are."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from cacsnet.io import write_dicom_series
from cacsnet.scan import Acquisition, Geometry, Scan


@pytest.fixture
def shared_data() -> Path:
    """Folder with the real CT data that is not part of the repository."""
    named = os.environ.get("CACSNET_SHARED")
    shared = Path(named) if named else Path(__file__).resolve().parents[2] / ".." / "shared"
    data = shared / "data" if (shared / "data").is_dir() else shared
    if not (data / "MANIFEST.md").is_file():
        pytest.skip("real CT data is not here")
    return data


@pytest.fixture
def hu() -> np.ndarray:
    """int16 [6, 10, 12], no symmetry, air to bone, some voxels outside the field of view."""
    hu = np.random.default_rng(7).integers(-1000, 1500, (6, 10, 12)).astype(np.int16)
    hu[:, 0, 0] = -2048
    return hu


@pytest.fixture
def scan(hu: np.ndarray) -> Scan:
    geometry = Geometry.axial(hu.shape, (1.5, 0.4, 0.6), (-31.25, -40.5, 120.0))
    acquisition = Acquisition(
        kvp=120.0, manufacturer="ACME", model="One", kernel="Qr36d\\3", slice_thickness_mm=3.0, gated=True
    )
    return Scan(hu, geometry, acquisition)


@pytest.fixture
def series(scan: Scan, tmp_path: Path) -> list[Path]:
    """Six slices of a written series, from feet to head."""
    return write_dicom_series(scan, tmp_path / "series", "P1")


@pytest.fixture
def edit() -> Callable[..., None]:
    """Change elements of a DICOM file; a callable value gets the dataset, None deletes the element."""

    def change(path: Path, **elements: object) -> None:
        ds: Dataset = pydicom.dcmread(path)
        for keyword, new in elements.items():
            if new is None:
                delattr(ds, keyword)
            else:
                setattr(ds, keyword, new(ds) if callable(new) else new)
        if "SOPInstanceUID" in elements:
            ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        ds.save_as(path)

    return change
