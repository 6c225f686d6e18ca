"""Calcium scoring on the scan's own voxels: candidates, vessel filter, lesions, Agatston, volume, mass, categories.

Numpy, scipy and cc3d only: nothing here imports torch or MONAI, so a report or a study can score without them.
Arrays are ``[z, y, x]`` = (slice, row, column), spacing is ``(dz, dy, dx)`` in mm, dz the slice *increment*.
"""

from cacsnet.scoring.agatston import CalciumScore, Lesion, Measures, mass_factor_from_rods, score
from cacsnet.scoring.calibration import Calibration, calibration_of
from cacsnet.scoring.candidates import VoteSettings, candidate_mask, vessel_filter, vote_islands
from cacsnet.scoring.categories import cac_drs, risk_category
from cacsnet.scoring.distances import distance_lookup, distance_mm
from cacsnet.scoring.islands import bounding_box, islands
from cacsnet.scoring.lesions import LESION_COLUMNS, extracoronary_scores, lesion_table
from cacsnet.scoring.profiles import ScoringProfile, load_profile, profile_from_mapping, profile_names, scoring_kvp
from cacsnet.scoring.reasons import REASON_INDEX, REASONS, ComponentFacts, ReasonSettings, name_reason, reason_map
from cacsnet.scoring.slabs import average_scan, average_slabs

__all__ = [
    "LESION_COLUMNS",
    "REASONS",
    "REASON_INDEX",
    "CalciumScore",
    "Calibration",
    "ComponentFacts",
    "Lesion",
    "Measures",
    "ReasonSettings",
    "ScoringProfile",
    "VoteSettings",
    "average_scan",
    "average_slabs",
    "bounding_box",
    "cac_drs",
    "calibration_of",
    "candidate_mask",
    "distance_lookup",
    "distance_mm",
    "extracoronary_scores",
    "islands",
    "lesion_table",
    "load_profile",
    "mass_factor_from_rods",
    "name_reason",
    "profile_from_mapping",
    "profile_names",
    "reason_map",
    "risk_category",
    "score",
    "scoring_kvp",
    "vessel_filter",
    "vote_islands",
]
