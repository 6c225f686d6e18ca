"""The two label tables. Labels live here and nowhere else.

SNOMED CT codes: DICOM PS3.16 CID 3016 (coronary arteries) and the anatomical structure concepts.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Label:
    """One row of a label table: voxel value, short name, RGB colour (0-255), SNOMED CT code and meaning."""

    index: int
    name: str
    colour: tuple[int, int, int]
    snomed_code: str
    meaning: str


VESSELS: tuple[Label, ...] = (
    Label(0, "background", (0, 0, 0), "", "Background"),
    Label(1, "LM", (240, 200, 40), "3227004", "Left main coronary artery"),
    Label(2, "LAD", (230, 60, 50), "59438005", "Left anterior descending coronary artery"),
    Label(3, "LCX", (60, 130, 240), "57396003", "Circumflex coronary artery"),
    Label(4, "RCA", (60, 190, 90), "13647002", "Right coronary artery"),
)

STRUCTURES: tuple[Label, ...] = (
    Label(0, "background", (0, 0, 0), "", "Background"),
    Label(1, "left_ventricle", (220, 70, 70), "87878005", "Left cardiac ventricle"),
    Label(2, "right_ventricle", (70, 110, 220), "53085002", "Right cardiac ventricle"),
    Label(3, "left_atrium", (240, 150, 90), "82471001", "Left atrium"),
    Label(4, "right_atrium", (90, 180, 220), "73829009", "Right atrium"),
    Label(5, "myocardium", (150, 50, 90), "74281007", "Myocardium of left ventricle"),
    Label(6, "aorta", (250, 210, 70), "15825003", "Aorta (root and ascending)"),
    Label(7, "pulmonary_artery", (120, 90, 200), "45341000", "Pulmonary artery"),
)

VESSEL_NAMES: tuple[str, ...] = tuple(label.name for label in VESSELS[1:])  # ("LM", "LAD", "LCX", "RCA")
VESSEL_INDEX: dict[str, int] = {label.name: label.index for label in VESSELS}
STRUCTURE_INDEX: dict[str, int] = {label.name: label.index for label in STRUCTURES}

# the vessel filter measures the distance to these: the left ventricle alone would reject the right coronary artery
VENTRICLES: tuple[int, ...] = (
    STRUCTURE_INDEX["left_ventricle"],
    STRUCTURE_INDEX["right_ventricle"],
    STRUCTURE_INDEX["myocardium"],
)

IGNORE = 255
"""In label maps for training: the truth is not known here."""
