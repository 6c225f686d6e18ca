"""How a scan was made, from the header of its first slice. Missing or empty means unknown, never "no"."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from pydicom.dataset import Dataset

from cacsnet.io.dicom_file import number, text, value
from cacsnet.scan import MASS_FACTOR_LIMITS, Acquisition

NOT_GATED = re.compile(r"\b(non|not|un|no|without)[\s_-]*(ecg[\s_-]*)?gat(ed|ing)", re.IGNORECASE)
GATED = re.compile(
    r"gated|gating|smart\s*score|(?<![a-z])ca(lcium)?[\s_-]*(score|scoring|sc)(?![a-z])|(?<![a-z])cacs|cardiac\s*scor"
    r"|agatston|prospective|retrospective|(?<![a-z])ecg(?![a-z])",
    re.IGNORECASE,
)
ITERATIVE_KERNEL = re.compile(r"^I\d{2}", re.IGNORECASE)
STRENGTH = re.compile(r"^[1-9]$")
NO_AGENT = {"NONE", "NO", "N", "NO CONTRAST", "NIL"}
# ImageType value 4 of multi-energy images (PS3.3 C.8.15.2.1.1.5); MONOENERGETIC... is a vendor's
VIRTUAL_IMAGE_TYPES = re.compile(r"^(VMI|MAT_\w+|MONOENERGETIC\w*|EFF_ATOMIC_NUM|ELECTRON_DENSITY)$")
KEV = re.compile(r"(?<![\d.])\d{2,3}[\s_-]*keV(?![a-z])|mono[\s_-]*(energetic|chromatic)", re.IGNORECASE)
# a word of FilterMaterial (TIN is its defined term) or FilterType (free text), and Siemens' name of a voltage with tin
TIN = re.compile(r"(?<![A-Z])(TIN|SN)(?![A-Z])", re.IGNORECASE)
TIN_VOLTAGE = re.compile(r"(?<![A-Z0-9])Sn[\s_-]?(70|80|90|1[0-5]0)(?!\d)", re.IGNORECASE)


def patient_hash(patient_id: str | None, salt: str) -> str | None:
    """First 12 hex digits of the salted SHA-256 of a PatientID, or None if there is no ID."""
    if not patient_id:
        return None
    return hashlib.sha256(f"{salt}{patient_id}".encode()).hexdigest()[:12]


def acquisition_of(
    headers: Sequence[Dataset], sop_instance_uids: Sequence[str] = (), patient_salt: str = ""
) -> tuple[Acquisition, tuple[str, ...]]:
    """Collect the acquisition facts of a classic CT series (PS3.3 A.3).

    Args:
        headers: of all slices, from feet to head. What forbids scoring (a tin filter, a virtual image) is looked for in
            each, the rest is the first one's; what must agree between slices was checked before.
        sop_instance_uids: of all slices.
        patient_salt: for ``patient_id_hash``.

    Returns:
        The facts, and notes about what was left out or interpreted.
    """
    ds = headers[0]
    factor, notes = _mass_factor(headers)
    facts = Acquisition(
        modality=text(ds, "Modality"),
        kvp=_positive(ds, "KVP"),
        manufacturer=text(ds, "Manufacturer"),
        model=text(ds, "ManufacturerModelName"),
        kernel=text(ds, "ConvolutionKernel"),
        slice_thickness_mm=_positive(ds, "SliceThickness"),
        contrast_agent=_contrast_agent(ds),
        gated=_gated(ds),
        iterative_reconstruction=_iterative(ds),
        tin_filter=True if any(_tin_filter(header) for header in headers) else None,
        multi_energy=_multi_energy(ds),
        virtual_image=next(filter(None, map(_virtual_image, headers)), None),
        mass_factor=factor,
        heart_rate_bpm=_positive(ds, "HeartRate"),
        bmi_kg_m2=_bmi(ds),
        series_description=text(ds, "SeriesDescription"),
        protocol_name=text(ds, "ProtocolName"),
        series_uid=text(ds, "SeriesInstanceUID"),
        patient_id_hash=patient_hash(text(ds, "PatientID"), patient_salt),
        sop_instance_uids=tuple(sop_instance_uids),
    )
    return facts, notes


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
    return True if _virtual_image(ds) else None


def _virtual_image(ds: Dataset) -> str | None:
    for part in (text(ds, "ImageType") or "").upper().split("\\"):
        if VIRTUAL_IMAGE_TYPES.match(part.strip()):
            return part.strip()
    return "VMI" if KEV.search(text(ds, "SeriesDescription") or "") else None


def _tin_filter(ds: Dataset) -> bool:
    if any(TIN.search(text(ds, keyword) or "") for keyword in ("FilterMaterial", "FilterType")):
        return True
    return any(TIN_VOLTAGE.search(text(ds, keyword) or "") for keyword in ("SeriesDescription", "ProtocolName"))


def _mass_factor(headers: Sequence[Dataset]) -> tuple[float | None, tuple[str, ...]]:
    """CalciumScoringMassFactorPatient in mg/mm³ per HU.

    PS3.3 C.8.2.1 names no unit. Scanners write numbers like 0.8 (mg/cm³ per HU, as calcium adds about 1.3 HU per mg/cm³ at
    120 kVp); mg/mm³ per HU is 1000 times less, so the size of the number tells the two apart. Any other is left out.
    """
    name = "CalciumScoringMassFactorPatient"
    found = [value for header in headers if (value := number(header, name)) is not None]
    if not found:
        return None, ()
    low, high = min(found), max(found)
    if len(found) < len(headers) or high - low > 0.01 * abs(high):
        return None, (f"{name} (0018,9351) differs between slices ({low:.6g} to {high:.6g}) and was left out",)
    for unit, scale in (("mg/cm3", 1e-3), ("mg/mm3", 1.0)):
        if MASS_FACTOR_LIMITS[0] <= low * scale <= MASS_FACTOR_LIMITS[1]:
            read = f"{name} (0018,9351) {low:.6g} was read as {unit} per HU (the standard names no unit)"
            return round(low * scale, 9), (read,)
    return None, (f"{name} (0018,9351) {low:.6g} can be no calcium mass factor in mg/cm3 or mg/mm3 per HU and was left out",)


def _bmi(ds: Dataset) -> float | None:
    weight, size = number(ds, "PatientWeight"), number(ds, "PatientSize")  # kg, m
    if weight is None or size is None or not (20 < weight < 400 and 0.8 < size < 2.5):
        return None
    return round(weight / size**2, 1)
