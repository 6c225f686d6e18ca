"""Make phantoms: one picture, a cohort on disk, or a population measured.

``python -m cacsnet.phantom picture=docs/phantom.png seed=30000003``: axial slices of a phantom and of its truth.

``python -m cacsnet.phantom cohort=sartoretti2022 output=DIR patients=56 format=dicom workers=2``: the scans of a cohort of
``conf/cohort`` with label maps, ``manifest.csv`` and ``reference.csv``. What is finished is not made again.

``python -m cacsnet.phantom population=sartoretti2022 patients=100``: reference scores of that cohort beside the published
figures, without painting the chest (:mod:`cacsnet.phantom.preview`).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track

from cacsnet.errors import ConfigError
from cacsnet.keys import read_keys
from cacsnet.labels import STRUCTURES, VESSELS
from cacsnet.phantom.anatomy import HEART_MODELS
from cacsnet.phantom.cohort import Recipe, make_case
from cacsnet.phantom.deposits import DEVICES, DISTRACTORS
from cacsnet.phantom.files import finished, write_cohort
from cacsnet.phantom.measure import figure_table, figures, measure
from cacsnet.phantom.plan import plan_cohort
from cacsnet.phantom.population import load_population
from cacsnet.phantom.render import heart_box, render


def picture(path: Path, seed: int, slices: int = 6) -> None:
    """Top row: the scan as it is; middle: true structures and coronary artery area; bottom: true calcium by owner."""
    case = make_case(Recipe(seed, agatston=500.0))
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
        other = np.isin(calcium[k][window], [*DISTRACTORS.values(), *DEVICES.values()])
        if other.any():
            axes[2, column].contour(other, [0.5], colors="magenta", linewidths=1.5, extent=native, origin="upper")
        for row in range(3):
            axes[row, column].set_axis_off()
            axes[row, column].set_xlim(extent[0], extent[1])
            axes[row, column].set_ylim(extent[2], extent[3])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=70)


def make_cohort(keys: Mapping[str, str], console: Console) -> int:
    """``cohort=``: write the scans; returns how many patients are there."""
    name = keys["cohort"]
    plan = plan_cohort(name, _whole(keys, "patients"), keys["heart_model"], _whole(keys, "matrix") or 512)
    output = Path(keys["output"] or f"outputs/cohorts/{name}")
    earlier = finished(plan, output)
    count = 0
    for patient in track(
        write_cohort(plan, output, keys["format"], _whole(keys, "workers") or 1),
        f"cohort {name}", len(plan), console=console, transient=True,
    ):  # fmt: skip
        count += 1
        if not console.is_terminal and patient not in earlier:  # a log has no bar
            console.print(f"{count} of {len(plan)}: {patient}", soft_wrap=True)
    before = f", {len(earlier)} of them made earlier" if earlier else ""
    console.print(f"{count} patients in {output}{before}", soft_wrap=True)
    console.print(f"score them: python infer.py input={output}/manifest.csv reference={output}/reference.csv", soft_wrap=True)
    return count


def measure_population(keys: Mapping[str, str], console: Console) -> pd.DataFrame:
    """``population=``: print the measured figures beside the published ones; ``output=`` also writes the rows as CSV."""
    name = keys["population"]
    plan = plan_cohort(name, _whole(keys, "patients"), keys["heart_model"])
    found = measure(plan, _whole(keys, "workers") or 1)
    rows = [row for rows in track(found, f"population {name}", len(plan), console=console, transient=True) for row in rows]
    table = pd.DataFrame(rows)
    paper = load_population(plan[0].recipe.population).paper
    console.print(
        figure_table(figures(table), paper, f"{name}: {len(table)} scans of {len(plan)} patients, {keys['heart_model']}")
    )
    if keys["output"]:
        path = Path(keys["output"])
        path.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(path, index=False)
    return table


def _whole(keys: Mapping[str, str], name: str) -> int | None:
    if not keys[name]:
        return None
    try:
        value = int(keys[name])
    except ValueError:
        value = 0
    if value < 1:
        raise ConfigError("must be a whole number from 1 on", field=name, value=keys[name])
    return value


KEYS = {
    "picture": "", "seed": "30000004", "cohort": "", "population": "", "patients": "", "output": "", "format": "dicom",
    "heart_model": "ellipsoid", "workers": "1", "matrix": "512",
}  # fmt: skip


def main(arguments: Sequence[str]) -> int:
    """Exit code 0, or 2 for a bad command."""
    console = Console()
    torch.set_num_threads(1)
    try:
        keys = read_keys(arguments, KEYS)
        if keys["heart_model"] not in HEART_MODELS:
            raise ConfigError(f"choose from {', '.join(HEART_MODELS)}", field="heart_model", value=keys["heart_model"])
        if keys["cohort"]:
            make_cohort(keys, console)
        elif keys["population"]:
            measure_population(keys, console)
        else:
            path = Path(keys["picture"] or "docs/phantom.png")
            picture(path, _whole(keys, "seed") or 1)
            console.print(f"written to {path}")
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
