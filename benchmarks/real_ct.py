"""How a model reads real chest CT, beside phantoms on the same 3 mm grid: the difference is the gap from phantom to patient.

``python benchmarks/real_ct.py image=IMAGE mask=MASK phantoms=8 [heart_model=ellipsoid] [checkpoint=] [output=real_ct.json]``:
a chest CT with a mask as DeepCAC published them for LIDC-IDRI (1 heart, 2 bone-like, 3 coronary calcium; 3 mm), and non-gated
phantoms resampled to 3 mm with a mask of the same kind. ``phantoms=0`` or no image: only the other.
``python benchmarks/real_ct.py image=IMAGE heart=MASK``: a scan with a heart mask alone (TotalSegmentator's example, enhanced):
intersection over union of the heart's box (that label also holds the pulmonary artery and its branches near the heart: the
figure with our pulmonary artery stands beside the one without), and whether the scan is refused.

Per scan: Dice of the heart (labels 1 and 3) with structures 1 to 5 of the localised heart after a 9 mm closing, and what is
missed of that label, the whole sac with the roots of the vessels: fat, what was found as a great vessel, other; labelled
calcium components that are hit (p_cor ≥ tau in any voxel, whatever its HU); kept components in the heart's box and 6 mm
around it, and how many of them lie outside the labelled calcium dilated by one voxel. A 3 mm grid is far outside the
definition of the Agatston score: none is printed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import SimpleITK
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.ndimage import binary_closing, binary_dilation
from scipy.ndimage import label as components

from cacsnet.errors import CacsError, ConfigError
from cacsnet.inference.localise import find_heart
from cacsnet.inference.pipeline import CaseResult, coarse_predictor, fine_predictor, score_scan
from cacsnet.inference.settings import InferenceSettings
from cacsnet.inference.windows import Grid, Layout, resample_scan, stitch_dense, stitch_points
from cacsnet.io import read_scan
from cacsnet.keys import read_keys, whole_number
from cacsnet.labels import STRUCTURE_INDEX, STRUCTURES, VESSELS
from cacsnet.network.checkpoint import Model, load_model
from cacsnet.phantom.anatomy import HEART_MODELS
from cacsnet.phantom.cohort import Recipe, make_case
from cacsnet.scan import Acquisition, Geometry, Scan
from cacsnet.training.validation import true_structures

TOUCHING = np.ones((3, 3, 3))
SPACING_MM = 3.0
CLOSING_MM = 9.0
AROUND_HEART_MM = 6.0
FAT_HU = -20.0
FIRST_SEED = 32_000_000
"""Not drawn by training, validation or any cohort."""


@dataclass(frozen=True)
class Reading:
    """What a model made of one scan."""

    name: str
    heart_dice: float
    labelled: int
    hit: int
    kept: int
    false: int
    missed_ml: dict[str, float]
    volumes_ml: dict[str, float]


def closed(mask: np.ndarray) -> np.ndarray:
    """A mask with clefts closed; nothing is lost at the edge."""
    times = round(CLOSING_MM / SPACING_MM)
    out: np.ndarray = binary_closing(np.pad(mask, times), iterations=times)[(slice(times, -times),) * 3]
    return out


def missed_ml(missed: np.ndarray, structures: np.ndarray, hu: np.ndarray, voxel_ml: float) -> dict[str, float]:
    """What a missed part of the heart (bool [z, y, x]) is: fat by its HU, else what was found as a great vessel, else other."""
    fat, vessel = hu < FAT_HU, structures > 5
    parts = {"fat": missed & fat, "great vessels": missed & vessel & ~fat, "other": missed & ~vessel & ~fat}
    return {what: round(float(where.sum()) * voxel_ml) for what, where in parts.items()}


def p_cor_at(scan: Scan, model: Model, result: CaseResult, settings: InferenceSettings, points_mm: np.ndarray) -> np.ndarray:
    """Probability [n] of coronary calcium at places [n, 3] (z, y, x; scan mm), candidates or not."""
    grid = Grid.covering(scan.hu.shape, scan.spacing_mm, model.coarse.config.spacing_mm)
    layout = Layout.over(grid, model.coarse.config.patch, settings.coarse_overlap)
    if model.fine is None:
        predict = coarse_predictor(model.coarse, resample_scan(scan.hu, scan.spacing_mm, grid), grid, with_coronary=True)
        channels = len(STRUCTURES) + len(VESSELS)
        background = stitch_points(layout, points_mm, predict, channels, settings.batch).probabilities[:, len(STRUCTURES)]
        return np.asarray(1 - background)
    config = model.fine.config
    layout = Layout.over_box(points_mm.min(0), points_mm.max(0), config.spacing_mm, config.patch, settings.fine_overlap)
    predict = fine_predictor(model.fine, scan, result.heart.probabilities, grid)
    return np.asarray(1 - stitch_points(layout, points_mm, predict, len(VESSELS), settings.batch).probabilities[:, 0])


def read(name: str, scan: Scan, heart: np.ndarray, calcium: np.ndarray, model: Model) -> Reading:
    """Figures of one scan; ``heart`` and ``calcium``: bool [z, y, x] on its grid."""
    settings = InferenceSettings()
    result = score_scan(scan, model, settings)
    structures = result.structures_native(scan)
    found = closed((structures > 0) & (structures <= 5))
    labelled, count = components(calcium, TOUCHING)
    index = np.argwhere(calcium)
    hit = 0
    if count:
        p_cor = p_cor_at(scan, model, result, settings, index * np.array(scan.spacing_mm))
        hit = len(set(labelled[tuple(index[p_cor >= settings.tau].T)]))
    box = np.argwhere(heart)
    margin = np.ceil(AROUND_HEART_MM / np.array(scan.spacing_mm)).astype(int)
    low, high = np.maximum(box.min(0) - margin, 0), box.max(0) + margin + 1
    inside = np.zeros(scan.hu.shape, bool)
    inside[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
    kept, n_kept = components((result.vessel_map > 0) & inside, TOUCHING)
    near = binary_dilation(calcium, TOUCHING)
    return Reading(
        name=name,
        heart_dice=float(2 * (found & heart).sum() / (found.sum() + heart.sum())),
        labelled=count,
        hit=hit,
        kept=n_kept,
        false=sum(not near[kept == k].any() for k in range(1, n_kept + 1)),
        missed_ml=missed_ml(heart & ~found, structures, scan.hu, float(np.prod(scan.spacing_mm)) / 1000),
        volumes_ml={STRUCTURES[i].name: round(v) for i, v in enumerate(result.heart.volumes_ml.values(), start=1)},
    )


def phantom(seed: int, heart_model: str) -> tuple[Scan, np.ndarray, np.ndarray]:
    """A non-gated phantom scan on a 3 mm grid, its heart (structures 1 to 5, closed) and its coronary calcium."""
    case = make_case(Recipe(seed, gated=False, matrix=256, heart_model=heart_model))
    spacing = case.scan.spacing_mm
    grid = Grid.covering(case.scan.hu.shape, spacing, SPACING_MM)
    hu = resample_scan(case.scan.hu, spacing, grid).numpy()
    scan = Scan(hu, Geometry.axial(hu.shape, (SPACING_MM,) * 3), Acquisition(modality="CT", kvp=case.scan.acquisition.kvp))
    structures = true_structures(case, grid)
    coronary = (case.truth.owner > 0) & (case.truth.owner < len(VESSELS))
    place = (np.argwhere(coronary) * np.array(spacing) - grid.first_mm) / SPACING_MM
    calcium = np.zeros(hu.shape, bool)
    calcium[tuple(np.clip(np.rint(place).astype(int), 0, np.array(hu.shape) - 1).T)] = True
    return scan, closed((structures > 0) & (structures <= 5)), calcium


def box_iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes [2, 3] (low, high)."""
    overlap = np.prod(np.clip(np.minimum(a[1], b[1]) - np.maximum(a[0], b[0]), 0, None))
    return float(overlap / (np.prod(a[1] - a[0]) + np.prod(b[1] - b[0]) - overlap))


def box_mm(mask: np.ndarray, spacing_mm: Sequence[float], first_mm: Sequence[float] = (0.0, 0.0, 0.0)) -> np.ndarray:
    """Box [2, 3] (low, high) of a mask's voxels, edges included; ``first_mm``: middle of voxel 0."""
    index = np.argwhere(mask)
    return np.array(first_mm) + np.array(spacing_mm) * np.stack([index.min(0) - 0.5, index.max(0) + 0.5])


def heart_box(scan: Scan, heart: np.ndarray, model: Model) -> tuple[float, float, str]:
    """IoU of the localised heart's box with the labelled one's, chambers and muscle alone and with the pulmonary artery;
    what scoring the scan said."""
    settings = InferenceSettings()
    grid = Grid.covering(scan.hu.shape, scan.spacing_mm, model.coarse.config.spacing_mm)
    hu = resample_scan(scan.hu, scan.spacing_mm, grid)
    layout = Layout.over(grid, model.coarse.config.patch, settings.coarse_overlap)
    predict = coarse_predictor(model.coarse, hu, grid, with_coronary=False)
    probabilities = stitch_dense(layout, predict, settings.batch)[: len(STRUCTURES)]
    found = find_heart(probabilities, hu, grid, scan.hu, scan.geometry, settings.heart)
    chambers = (found.structures > 0) & (found.structures <= 5)
    lung_artery = found.structures == STRUCTURE_INDEX["pulmonary_artery"]
    true = box_mm(heart, scan.spacing_mm)
    overlaps = [box_iou(box_mm(m, (grid.step_mm,) * 3, grid.first_mm), true) for m in (chambers, chambers | lung_artery)]
    try:
        score_scan(scan, model, settings)
        said = "scored"
    except CacsError as error:
        said = f"refused: {type(error).__name__}: {error}"
    return overlaps[0], overlaps[1], said


def mask_of(path: str, scan: Scan) -> np.ndarray:
    """A label image on the scan's grid [z, y, x]."""
    labels = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(path))
    if path.endswith((".nii", ".nii.gz")):
        labels = labels.T  # NIfTI is read as [x, y, z]
    return scan.geometry.from_source(labels)


def show(readings: Sequence[Reading], console: Console) -> None:
    table = Table("scan", "heart Dice", "missed mL", "components hit", "kept", "false", "mL")
    for one in readings:
        missed = ", ".join(f"{what} {ml:.0f}" for what, ml in one.missed_ml.items())
        row = (f"{one.heart_dice:.3f}", missed, f"{one.hit} of {one.labelled}", f"{one.kept}", f"{one.false}")
        table.add_row(one.name, *row, ", ".join(f"{v:.0f}" for v in one.volumes_ml.values()))
    console.print(table)


KEYS = {
    "image": "", "mask": "", "heart": "", "phantoms": "0", "heart_model": "ellipsoid",
    "checkpoint": "checkpoints/cacsnet.safetensors", "output": "",
}  # fmt: skip


def main(arguments: Sequence[str]) -> int:
    """Exit code 0, or 2 for a bad command."""
    console = Console(width=140)
    torch.set_num_threads(2)
    try:
        keys = read_keys(arguments, KEYS)
        if keys["heart_model"] not in HEART_MODELS:
            raise ConfigError(f"choose from {', '.join(HEART_MODELS)}", field="heart_model", value=keys["heart_model"])
        count = whole_number(keys, "phantoms")
        model = load_model(Path(keys["checkpoint"]))
        readings = []
        if keys["image"]:
            scan = read_scan(Path(keys["image"]))
            if keys["heart"]:
                iou, with_artery, said = heart_box(scan, mask_of(keys["heart"], scan) > 0, model)
                console.print(f"heart box IoU {iou:.2f}, with the pulmonary artery {with_artery:.2f}; {said}", markup=False)
                return 0
            mask = mask_of(keys["mask"], scan)
            readings.append(read(Path(keys["image"]).name, scan, np.isin(mask, (1, 3)), mask == 3, model))
            show(readings, console)
        for number in track(range(count), "phantoms", console=console, transient=True):
            case = phantom(FIRST_SEED + number, keys["heart_model"])
            readings.append(read(f"phantom {keys['heart_model']} {number}", *case, model))
    except CacsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if count:
        show(readings, console)
        mine = [r for r in readings if r.name.startswith("phantom")]
        labelled, hit = sum(r.labelled for r in mine), sum(r.hit for r in mine)
        console.print(
            f"phantoms: Dice {np.mean([r.heart_dice for r in mine]):.3f}, hit {hit} of {labelled}, "
            f"false {np.mean([r.false for r in mine]):.1f} a scan"
        )
    if keys["output"]:
        Path(keys["output"]).write_text(json.dumps([asdict(r) for r in readings], indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
