"""Reading CT scans and label maps, finding cases, writing NIfTI and DICOM."""

from cacsnet.io.cases import Case, apply_overrides, find_cases
from cacsnet.io.read import read_label_map, read_scan
from cacsnet.io.write import write_nifti
from cacsnet.io.write_dicom import write_dicom_series

__all__ = [
    "Case",
    "apply_overrides",
    "find_cases",
    "read_label_map",
    "read_scan",
    "write_dicom_series",
    "write_nifti",
]
