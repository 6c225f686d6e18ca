"""How a model reads one real chest CT with a heart and calcium mask on a 3 mm grid (the LIDC cases that DeepCAC published).

``python benchmarks/real_ct.py IMAGE MASK [checkpoint]``. Mask values: 1 heart, 2 bone-like, 3 coronary calcium. Prints the Dice
of the heart (labels 1 and 3) with structures 1 to 5 of the localised heart after a 9 mm closing, the labelled calcium
components that are hit (p_cor ≥ 0.5 in any voxel, whatever their HU), and the kept components that touch no labelled one.
A 3 mm grid is far outside the definition of the Agatston score: none is printed.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import SimpleITK
from scipy.ndimage import binary_closing, binary_dilation
from scipy.ndimage import label as components

from cacsnet.inference.pipeline import coarse_predictor, score_scan
from cacsnet.inference.settings import InferenceSettings
from cacsnet.inference.windows import Grid, Layout, resample_scan, stitch_dense
from cacsnet.io import read_scan
from cacsnet.labels import STRUCTURES
from cacsnet.network.checkpoint import load_model

TOUCHING = np.ones((3, 3, 3))


def main(image: Path, mask_path: Path, checkpoint: Path) -> None:
    scan, model, settings = read_scan(image), load_model(checkpoint), InferenceSettings()
    mask = scan.geometry.from_source(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(mask_path))))
    result = score_scan(scan, model, settings)
    structures = result.structures_native(scan)
    found = binary_closing((structures > 0) & (structures <= 5), iterations=3)
    heart = (mask == 1) | (mask == 3)
    print(f"heart Dice {2 * (found & heart).sum() / (found.sum() + heart.sum()):.3f}")
    print({STRUCTURES[i].name: f"{v:.0f} mL" for i, v in enumerate(result.heart.volumes_ml.values(), start=1)})

    grid = Grid.covering(scan.hu.shape, scan.spacing_mm, model.coarse.config.spacing_mm)
    layout = Layout.over(grid, model.coarse.config.patch, settings.coarse_overlap)
    predict = coarse_predictor(model.coarse, resample_scan(scan.hu, scan.spacing_mm, grid), grid, with_coronary=True)
    p_cor = 1 - stitch_dense(layout, predict, settings.batch)[len(STRUCTURES)].numpy()
    labelled, count = components(mask == 3, TOUCHING)
    hit = sum(bool((p_cor[labelled == k] >= settings.tau).any()) for k in range(1, count + 1))
    print(f"labelled calcium components hit: {hit} of {count}")
    kept, n_kept = components(result.vessel_map > 0, TOUCHING)
    near = binary_dilation(mask == 3, TOUCHING)
    false = sum(not near[kept == k].any() for k in range(1, n_kept + 1))
    print(f"kept components: {n_kept}, of them touching no labelled calcium: {false}")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3] if len(sys.argv) > 3 else "checkpoints/cacsnet.safetensors"))
