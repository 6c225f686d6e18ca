"""A phantom scan, twice, as a dataset of one's own: NIfTI images, label maps with other values than ours, a manifest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cacsnet.io.write import write_nifti
from cacsnet.phantom.cohort import CohortCase, vessel_labels
from cacsnet.phantom.render import render

LABELS = {0: "background", 1: "RCA", 2: "LCX", 3: "LAD", 4: "LM", 9: "ignore", 20: "other"}
"""Values of the written calcium maps: not ours, so that the map has something to do."""
WRITTEN = np.array([0, 4, 3, 2, 1], np.uint8)  # ours -> the file's


@dataclass(frozen=True)
class Files:
    """A dataset on disk and the phantom it was made from."""

    root: Path
    case: CohortCase
    names: tuple[str, str]

    def manifest(self, name: str = "manifest.csv", **columns: list[str]) -> str:
        """Write a manifest of both cases with these label columns; returns its name."""
        names = list(self.names)
        table = pd.DataFrame({"case_id": names, "path": [f"{n}.nii.gz" for n in names], "kvp": ["120"] * len(names), **columns})
        table.to_csv(self.root / name, index=False)
        return name

    def everything(self, name: str = "everything.csv") -> str:
        return self.manifest(
            name,
            **{f"{what}_path": [f"{n}_{what}.nii.gz" for n in self.names] for what in ("labels", "structures", "course")},
        )


@pytest.fixture(scope="session")
def files(small_case: CohortCase, tmp_path_factory: pytest.TempPathFactory) -> Files:
    root = tmp_path_factory.mktemp("dataset")
    case, protocol, geometry = small_case, small_case.truth.protocol, small_case.scan.geometry
    spacing, step = np.array(protocol.spacing_mm), 3.0
    count = np.ceil(spacing * (np.array(protocol.shape) - 1) / step).astype(int) + 1
    anatomy = render(case.patient, case.arteries, list(protocol.origin_mm), step, count.tolist())
    pick = np.ix_(*(np.rint(s * np.arange(n) / step).astype(int) for s, n in zip(spacing, protocol.shape, strict=True)))
    structures, course = anatomy.structures.numpy()[pick], anatomy.area.numpy()[pick]
    calcium = WRITTEN[vessel_labels(case.truth)]
    rng = np.random.default_rng(1)
    names = ("first", "second")
    for name in names:
        noisier = case.truth.hu + (name == "second") * rng.normal(0, 8, case.truth.hu.shape).round().astype(np.int16)
        write_nifti(root / f"{name}.nii.gz", noisier, geometry)
        for what, array in (("labels", calcium), ("structures", structures), ("course", course)):
            write_nifti(root / f"{name}_{what}.nii.gz", array, geometry)
    return Files(root, case, names)
