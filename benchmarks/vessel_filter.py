"""How far from the ventricles true coronary calcium lies: justifies ``vessel_filter_mm`` in conf/inference/default.yaml.

``python benchmarks/vessel_filter.py [patients]`` draws plaques in validation phantoms and prints, per vessel, the share of
their mass within each distance of the true ventricles (left and right blood pool and myocardium), and the smallest whole
millimetre that keeps 99.5 % of every vessel.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy.ndimage import map_coordinates

from cacsnet.labels import VESSEL_NAMES
from cacsnet.phantom.anatomy import Patient
from cacsnet.phantom.calcium import draw_plaques
from cacsnet.scoring import distance_mm

STEP_MM = 3.0
KEEP = 0.995


def main(patients: int) -> None:
    axes = [torch.arange(-120.0, 121.0, STEP_MM)] * 3
    p = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    distances: dict[str, list[np.ndarray]] = {name: [] for name in VESSEL_NAMES}
    masses: dict[str, list[np.ndarray]] = {name: [] for name in VESSEL_NAMES}
    for number in range(patients):
        patient = Patient(10_000_000 + number)
        rng = np.random.default_rng([10_000_000 + number, 11])
        heart = patient.heart
        plaques = draw_plaques(heart, heart.grow_tree(rng), rng, burden=30.0)
        inside = (torch.minimum(heart.lv_outer_sdf(p), heart.rv_sdf(p)) < 0).numpy()
        distance = distance_mm(inside, (STEP_MM,) * 3)
        for index, name in enumerate(VESSEL_NAMES, start=1):
            mine = [d for d in plaques if d.owner == index]
            if mine:
                place = (np.array([d.centre for d in mine]) + 120.0) / STEP_MM
                values = map_coordinates(distance, place.T, order=1, mode="nearest") * patient.heart_scale
                distances[name].append(values)
                masses[name].append(np.array([d.mass_mg for d in mine]))
    table = Table(title=f"share of true calcium mass within a distance of the ventricles, {patients} phantoms")
    table.add_column("mm")
    for name in VESSEL_NAMES:
        table.add_column(name, justify="right")
    d = {name: np.concatenate(distances[name]) for name in VESSEL_NAMES}
    m = {name: np.concatenate(masses[name]) for name in VESSEL_NAMES}
    share = {name: [float(m[name][d[name] <= mm].sum() / m[name].sum()) for mm in range(61)] for name in VESSEL_NAMES}
    for mm in (0, 2, 4, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50):
        table.add_row(str(mm), *(f"{share[name][mm]:.4f}" for name in VESSEL_NAMES))
    Console().print(table)
    enough = [mm for mm in range(61) if all(share[name][mm] >= KEEP for name in VESSEL_NAMES)]
    print(f"smallest distance that keeps {KEEP:.1%} of every vessel: {enough[0] if enough else 'above 60'} mm")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 60)
