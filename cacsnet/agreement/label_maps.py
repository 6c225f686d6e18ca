"""The label maps of a case: reference calcium, the model's, and where known what each bright voxel really is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cacsnet.errors import ArgumentError
from cacsnet.io.orient import canonical_geometry
from cacsnet.io.read import read_label_map
from cacsnet.io.volumes import read_volume_file
from cacsnet.labels import VESSEL_NAMES
from cacsnet.scoring.checks import check_labels

ORIGIN_NAMES_FILE = "origins.json"


@dataclass(frozen=True, eq=False)
class CaseLabels:
    """Maps of one scan, on one grid.

    Attributes:
        reference, model: integer [z, y, x], vessels 1-4.
        origins: integer [z, y, x], 1-4 calcium of that vessel, other codes other calcium or metal, 0 nothing; None if unknown.
        spacing_mm: (dz, dy, dx).
    """

    reference: np.ndarray
    model: np.ndarray
    origins: np.ndarray | None
    spacing_mm: tuple[float, float, float]


def label_paths(reference: pd.DataFrame, folder: Path | None) -> dict[str, Path]:
    """Reference label map of each case id: column ``labels`` of a reference table, paths below ``folder``."""
    if "labels" not in reference:
        return {}
    known = reference[["case_id", "labels"]].dropna().astype(str)
    cells = zip(known["case_id"].str.strip(), known["labels"].str.strip(), strict=True)
    return {case_id: (folder or Path()) / path for case_id, path in cells if path}


def read_case_labels(reference: Path, model: Path, origins: Path | None = None) -> CaseLabels:
    """Read the maps of a case onto one grid; nothing is resampled.

    Raises:
        CacsError: a file can't be read, lies on another grid, or holds labels outside the vessel table.
        OSError: a file isn't there.
    """
    source = read_volume_file(reference)
    geometry, _ = canonical_geometry(source.stored.shape, source.affine_lps, reference)
    maps = {}
    for name, path in (("reference", reference), ("model", model)):
        maps[name] = read_label_map(path, geometry)
        try:
            check_labels(maps[name], geometry.shape, len(VESSEL_NAMES), "labels")
        except ArgumentError as error:
            raise ArgumentError(error.message, path=path, field="labels", value=error.value) from None
    kinds = None if origins is None else read_label_map(origins, geometry)
    return CaseLabels(maps["reference"], maps["model"], kinds, geometry.spacing_mm)


def read_origin_names(folder: Path | None) -> Mapping[int, str]:
    """Names of the codes of ``origins`` maps from ``origins.json`` ({"6": "aortic_valve"}) beside the reference table.

    Empty without such a file.

    Raises:
        ArgumentError: the file holds something else.
    """
    path = None if folder is None else folder / ORIGIN_NAMES_FILE
    if path is None or not path.is_file():
        return {}
    try:
        return {int(code): str(name) for code, name in json.loads(path.read_text(encoding="utf-8")).items()}
    except (ValueError, AttributeError) as error:
        raise ArgumentError(f"is no table of codes and names ({error})", path=path) from error
