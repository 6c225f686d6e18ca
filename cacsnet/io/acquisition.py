"""How a scan was made, from the header of its first slice. Missing or empty means unknown, never "no"."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from pydicom.dataset import Dataset

from cacsnet.io.dicom_file import number, text, value
from cacsnet.scan import Acquisition

NOT_GATED = re.compile(r"\b(non|not|un|no|without)[\s_-]*(ecg[\s_-]*)?gat(ed|ing)", re.IGNORECASE)
GATED = re.compile(
    r"gated|gating|smart\s*score|(?<![a-z])ca(lcium)?[\s_-]*(score|scoring|sc)(?![a-z])|(?<![a-z])cacs|cardiac\s*scor"
    r"|agatston|prospective|retrospective|(?<![a-z])ecg(?![a-z])",
    re.IGNORECASE,
)
ITERATIVE_KERNEL = re.compile(r"^I\d{2}", re.IGNORECASE)
STRENGTH = re.compile(r"^[1-9]$")
NO_AGENT = {"NONE", "NO", "N", "NO CONTRAST", "NIL"}
MULTI_ENERGY_IMAGE_TYPES = re.compile(r"^(VMI|MAT_\w+|MONOENERGETIC\w*|EFF_ATOMIC_NUM|ELECTRON_DENSITY)$")


def patient_hash(patient_id: str | None, salt: str) -> str | None:
    """First 12 hex digits of the salted SHA-256 of a PatientID, or None if there is no ID."""
    if not patient_id:
        return None
    return hashlib.sha256(f"{salt}{patient_id}".encode()).hexdigest()[:12]


def acquisition_of(ds: Dataset, sop_instance_uids: Sequence[str] = (), patient_salt: str = "") -> Acquisition:
    """Collect the acquisition facts of a classic CT image (PS3.3 A.3).

    Args:
        ds: header of one slice; what must agree between slices was checked before.
        sop_instance_uids: of all slices, from feet to head.
        patient_salt: for ``patient_id_hash``.
    """
    return Acquisition(
        modality=text(ds, "Modality"),
        kvp=_positive(ds, "KVP"),
        manufacturer=text(ds, "Manufacturer"),
        model=text(ds, "ManufacturerModelName"),
        kernel=text(ds, "ConvolutionKernel"),
        slice_thickness_mm=_positive(ds, "SliceThickness"),
        contrast_agent=_contrast_agent(ds),
        gated=_gated(ds),
        iterative_reconstruction=_iterative(ds),
        multi_energy=_multi_energy(ds),
        heart_rate_bpm=_positive(ds, "HeartRate"),
        bmi_kg_m2=_bmi(ds),
        series_description=text(ds, "SeriesDescription"),
        protocol_name=text(ds, "ProtocolName"),
        series_uid=text(ds, "SeriesInstanceUID"),
        patient_id_hash=patient_hash(text(ds, "PatientID"), patient_salt),
        sop_instance_uids=tuple(sop_instance_uids),
    )


def _positive(ds: Dataset, keyword: str) -> float | None:
    found = number(ds, keyword)
    return found if found is not None and found > 0 else None


def _contrast_agent(ds: Dataset) -> str | None:
    agent = text(ds, "ContrastBolusAgent")
    if agent is None and value(ds, "ContrastBolusAgentSequence") is not None:
        agent = text(ds.ContrastBolusAgentSequence[0], "CodeMeaning") or "unnamed agent"
    return None if agent is None or agent.upper() in NO_AGENT else agent


def _gated(ds: Dataset) -> bool | None:
    technique = text(ds, "CardiacSynchronizationTechnique")  # PS3.3 C.7.6.18
    if technique is not None:
        return technique.upper() != "NONE"
    words = " ".join(text(ds, keyword) or "" for keyword in ("SeriesDescription", "ProtocolName"))
    if NOT_GATED.search(words):
        return False
    if GATED.search(words) or number(ds, "NominalPercentageOfCardiacPhase") is not None:
        return True
    return None


def _iterative(ds: Dataset) -> bool | None:
    algorithm = (text(ds, "ReconstructionAlgorithm") or "").upper()
    if algorithm in ("ITERATIVE", "FILTER_BACK_PROJ"):
        return algorithm == "ITERATIVE"
    kernel, *rest = (text(ds, "ConvolutionKernel") or "").split("\\")
    # Siemens: SAFIRE kernels start with I; SAFIRE and ADMIRE put their strength into the second value
    if ITERATIVE_KERNEL.match(kernel) or (rest and STRENGTH.match(rest[0])):
        return True
    return None


def _multi_energy(ds: Dataset) -> bool | None:
    tag = (text(ds, "MultienergyCTAcquisition") or "").upper()
    if tag in ("YES", "NO"):
        return tag == "YES"
    image_type = (text(ds, "ImageType") or "").upper().split("\\")
    return True if any(MULTI_ENERGY_IMAGE_TYPES.match(part.strip()) for part in image_type) else None


def _bmi(ds: Dataset) -> float | None:
    weight, size = number(ds, "PatientWeight"), number(ds, "PatientSize")  # kg, m
    if weight is None or size is None or not (20 < weight < 400 and 0.8 < size < 2.5):
        return None
    return round(weight / size**2, 1)
