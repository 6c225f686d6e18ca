"""Phantoms beside real chest CT at the same window: what does the phantom lack?

``python benchmarks/beside_real.py [FOLDER] [picture=docs/phantom_beside_real.png] [seeds=3]``

FOLDER holds ``lidc_3mm/0506_img.nrrd`` with its mask ``0506_msk.nrrd`` (a non-gated chest CT on a 3 mm grid, as published with
DeepCAC) and, if there, ``totalsegmentator_ct/example_ct.nii.gz`` with ``heart.nii.gz`` (a contrast CT). Without it only
phantoms are drawn. Columns: five axial levels from the heart's lower to its upper end and a coronal slice through the heart's
middle, each around the heart's centre. Phantoms are non-gated scans of both heart models. All are resampled to 3 mm, window
-160 to 240 HU.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK
from matplotlib import pyplot as plt
from PIL import Image

from cacsnet.inference.windows import Grid, resample_scan
from cacsnet.io import read_scan
from cacsnet.phantom.anatomy import HEART_MODELS
from cacsnet.phantom.cohort import Recipe, make_case
from cacsnet.phantom.render import heart_box
from cacsnet.scan import Scan

SPACING_MM = 3.0
LEVELS = (0.12, 0.32, 0.5, 0.66, 0.85)
"""Axial levels as shares of the heart's height, from below."""
HALF_MM = (110.0, 138.0, 165.0)
"""Half size of the cut out (z, y, x)."""
WINDOW_HU = (-160.0, 240.0)
FIRST_SEED = 31_000_000
"""Not drawn by training, validation or any cohort."""


@dataclass(frozen=True)
class Row:
    """A scan at 3 mm, int16 [z, y, x] (z to the head), and its heart's box [2, 3] (voxels: low, high)."""

    title: str
    hu: np.ndarray
    heart: np.ndarray


def at_spacing(scan: Scan, title: str, box_mm: np.ndarray) -> Row:
    """Resample; ``box_mm`` [2, 3]: the heart's box from the first voxel (mm)."""
    grid = Grid.covering(scan.hu.shape, scan.spacing_mm, SPACING_MM)
    return Row(title, resample_scan(scan.hu, scan.spacing_mm, grid).numpy(), box_mm / SPACING_MM)


def phantom(seed: int, model: str) -> Row:
    """One non-gated phantom scan."""
    case = make_case(Recipe(seed, gated=False, matrix=176, heart_model=model))
    return at_spacing(case.scan, f"phantom, {model}, {seed % 1000}", heart_box(case.patient) - np.array(case.origin_mm))


def real(image: Path, mask: Path, values: tuple[int, ...], title: str) -> Row:
    """One real scan with its heart mask on the same grid."""
    scan = read_scan(image)
    labels = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(mask)))
    if mask.name.endswith(".nii.gz"):
        labels = labels.T  # NIfTI is read as [x, y, z]
    heart = np.isin(scan.geometry.from_source(labels), values)
    index = np.argwhere(heart)
    box = np.stack([np.percentile(index, 0.5, axis=0), np.percentile(index, 99.5, axis=0)])
    return at_spacing(scan, title, box * scan.spacing_mm)


def rows(folder: Path | None, seeds: int) -> Iterator[Row]:
    """Real scans that are there, then phantoms of both heart models."""
    sources = (
        ("lidc_3mm/0506_img.nrrd", "lidc_3mm/0506_msk.nrrd", (1, 3), "real: LIDC-IDRI 0506"),
        ("totalsegmentator_ct/example_ct.nii.gz", "totalsegmentator_ct/heart.nii.gz", (1,), "real, contrast: TotalSegmentator"),
    )
    for image, mask, values, title in sources:
        if folder is not None and (folder / image).exists() and (folder / mask).exists():
            yield real(folder / image, folder / mask, values, title)
        else:
            print(f"{title}: not there, left out")
    for model in HEART_MODELS:
        for k in range(seeds):
            yield phantom(FIRST_SEED + k, model)


def cut(plane: np.ndarray, centre: tuple[float, float], half_mm: tuple[float, float]) -> np.ndarray:
    """A window [2 h, 2 w] of a slice around a centre (voxels); what lies beyond is air."""
    reach = [round(h / SPACING_MM) for h in half_mm]
    padded = np.pad(plane, [(r, r) for r in reach], constant_values=-1024)
    top, left = (round(c) for c in centre)
    return padded[top : top + 2 * reach[0], left : left + 2 * reach[1]]


def draw(shown: list[Row], picture: Path) -> None:
    widths = [1.0] * len(LEVELS) + [HALF_MM[1] / HALF_MM[0] * 1.0]
    size = (2.05 * sum(widths), 2.05 * HALF_MM[1] / HALF_MM[2] * len(shown) + 0.1)
    figure, panels = plt.subplots(
        len(shown), len(widths), figsize=size, squeeze=False,
        gridspec_kw={"width_ratios": widths, "wspace": 0.02, "hspace": 0.02, "left": 0, "right": 1, "top": 1, "bottom": 0},
    )  # fmt: skip
    for row, line in zip(shown, panels, strict=True):
        low, high = row.heart
        z, y, x = (low + high) / 2
        planes = [cut(row.hu[_level(row, share)], (y, x), HALF_MM[1:]) for share in LEVELS]
        planes.append(cut(row.hu[:, round(y)], (z, x), (HALF_MM[0], HALF_MM[2]))[::-1])
        for panel, plane in zip(line, planes, strict=True):
            panel.imshow(plane, cmap="gray", vmin=WINDOW_HU[0], vmax=WINDOW_HU[1], interpolation="bilinear")
            panel.axis("off")
        line[0].text(0.02, 0.98, row.title, color="yellow", size=7, va="top", transform=line[0].transAxes)
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=100, facecolor="black")
    plt.close(figure)
    with Image.open(picture) as drawn:
        small = drawn.convert("RGB").quantize(64)
    small.save(picture, optimize=True)


def _level(row: Row, share: float) -> int:
    return int(np.clip(round(row.heart[0, 0] + share * (row.heart[1, 0] - row.heart[0, 0])), 0, len(row.hu) - 1))


def main(arguments: list[str]) -> None:
    settings = dict(a.split("=", 1) for a in arguments if "=" in a)
    folders = [Path(a) for a in arguments if "=" not in a]
    picture = Path(settings.get("picture", "docs/phantom_beside_real.png"))
    draw(list(rows(folders[0] if folders else None, int(settings.get("seeds", "3")))), picture)
    print(f"{picture}: {picture.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
