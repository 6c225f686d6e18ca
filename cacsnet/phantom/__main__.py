"""``python -m cacsnet.phantom picture=docs/phantom.png seed=30000003``: axial slices of a phantom and of its truth."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from cacsnet.keys import read_keys
from cacsnet.labels import STRUCTURES, VESSELS
from cacsnet.phantom.calcium import DISTRACTORS
from cacsnet.phantom.cohort import Recipe, make_case
from cacsnet.phantom.render import heart_box, render


def picture(path: Path, seed: int, slices: int = 6) -> None:
    """Top row: the scan as it is; middle: true structures and coronary artery area; bottom: true calcium by owner."""
    case = make_case(Recipe(seed, burden=14.0))
    hu, owner = case.truth.hu, case.truth.owner
    spacing = np.array(case.truth.protocol.spacing_mm)
    origin = np.array(case.truth.protocol.origin_mm)
    low, high = heart_box(case.patient, 12.0)
    step = 1.0
    shape = np.ceil((high - low) / step).astype(int)
    anatomy = render(case.patient, case.arteries, low.tolist(), step, shape.tolist())
    start, stop = np.round((low - origin) / spacing).astype(int), np.round((high - origin) / spacing).astype(int)
    start, stop = np.maximum(start, 0), np.minimum(stop, hu.shape)
    extent = (low[2], high[2], high[1], low[1])
    figure = Figure(figsize=(3 * slices, 8.2), facecolor="black", layout="constrained")
    axes = figure.subplots(3, slices)
    chambers = ListedColormap(np.array([label.colour for label in STRUCTURES]) / 255)
    calcium = np.where((owner > 0) & (hu >= 130), owner, 0)
    for column, z_mm in enumerate(np.linspace(low[0] + 24, high[0] - 34, slices)):
        k = int(np.clip(round((z_mm - origin[0]) / spacing[0]), 0, len(hu) - 1))
        j = int(np.clip(round((z_mm - low[0]) / step), 0, shape[0] - 1))
        window = (slice(start[1], stop[1]), slice(start[2], stop[2]))
        box = tuple(origin[axis] + spacing[axis] * (np.array([start[axis], stop[axis]]) - 0.5) for axis in (2, 1))
        native = (box[0][0], box[0][1], box[1][1], box[1][0])
        for row in range(3):
            axes[row, column].imshow(hu[k][window], cmap="gray", vmin=-160, vmax=340, extent=native, interpolation="bilinear")
        structures = np.ma.masked_equal(anatomy.structures[j].numpy(), 0)
        axes[1, column].imshow(structures, cmap=chambers, vmin=0, vmax=len(STRUCTURES) - 1, alpha=0.5, extent=extent)
        for label in VESSELS[1:]:
            colour = np.array(label.colour) / 255
            area = anatomy.area[j].numpy() == label.index
            if area.any():
                axes[1, column].contour(area, [0.5], colors=[colour], linewidths=1.2, extent=extent, origin="upper")
            mine = calcium[k][window] == label.index
            if mine.any():
                axes[2, column].contour(mine, [0.5], colors=[colour], linewidths=1.5, extent=native, origin="upper")
        other = np.isin(calcium[k][window], list(DISTRACTORS.values()))
        if other.any():
            axes[2, column].contour(other, [0.5], colors="magenta", linewidths=1.5, extent=native, origin="upper")
        for row in range(3):
            axes[row, column].set_axis_off()
            axes[row, column].set_xlim(extent[0], extent[1])
            axes[row, column].set_ylim(extent[2], extent[3])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=70)


def main(arguments: Sequence[str]) -> int:
    keys = read_keys(arguments, {"picture": "docs/phantom.png", "seed": "30000004"})
    picture(Path(keys["picture"]), int(keys["seed"]))
    print(f"written to {keys['picture']}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
