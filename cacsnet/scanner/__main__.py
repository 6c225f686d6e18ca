"""``python -m cacsnet.scanner picture=docs/scanner.png seed=30000004``: one phantom slice through each scanner profile.

``python -m cacsnet.scanner scan=/path/to/dicom fwhm=1.1 ray_noise=0.8``: noise of a real scan beside the model's, in the 24
smoothest places of soft tissue, or with ``low=150 high=400 regions=6`` in six of enhanced blood.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from cacsnet.errors import ConfigError
from cacsnet.io import read_scan
from cacsnet.labels import VESSEL_NAMES
from cacsnet.phantom.cohort import Recipe, make_subject
from cacsnet.phantom.render import render
from cacsnet.phantom.scan import make_scan
from cacsnet.scanner.compare import SOFT_HU, compare
from cacsnet.scanner.noise import noise
from cacsnet.scanner.profiles import draw_protocol, profile_names

PROFILES_IN_ORDER = ("ge_revolution", "siemens_force", "philips", "canon", "chest_nongated", "spect_pet_ac")
FIELD_MM = 500.0
NEAR_MM = 70.0
TEXTURE_MM = 50.0


def picture(path: Path, seed: int) -> None:
    """Top: the slice as reconstructed; middle: the heart; bottom: noise alone, scaled to ± 3 SD."""
    patient, arteries, deposits, *_ = make_subject(Recipe(seed, agatston=900.0))
    coronary = [d for d in deposits if d.owner <= len(VESSEL_NAMES)]
    z_mm = patient.heart_to_patient(np.array([d.centre for d in coronary]))[:, 0]
    mass = np.array([d.mass_mg for d in coronary])
    level = float(max(z_mm, key=lambda z: mass[np.abs(z_mm - z) < 3.0].sum()))  # where most calcium lies within a slice
    step, slices = 1.25, 40
    side = int(FIELD_MM / step)
    corner = (level - step * slices / 2, patient.thorax.chest_y - FIELD_MM / 2, -FIELD_MM / 2)
    anatomy = render(patient, arteries, corner, step, (slices, side, side))
    names = [name for name in PROFILES_IN_ORDER if name in profile_names()]
    figure = Figure(figsize=(3 * len(names), 9.4), facecolor="black", layout="constrained")
    axes = figure.subplots(3, len(names))
    for column, name in enumerate(names):
        protocol = draw_protocol(name, np.random.default_rng([seed, column]), (level - 12, level + 12), bmi_kg_m2=28.0)
        scan = make_scan(patient, anatomy, deposits, protocol, seed)
        k = round((level - protocol.origin_mm[0]) / protocol.spacing_mm[0])
        pixel = protocol.spacing_mm[1]
        extent_mm = protocol.shape[1] * pixel / 2
        texture = noise(protocol, torch.Generator().manual_seed(seed)).numpy()[k]
        shown = ((scan.hu[k], extent_mm), (scan.hu[k], NEAR_MM), (texture, TEXTURE_MM / 2))
        for row, (values, half_mm) in enumerate(shown):
            low, high = (-160, 340) if row < 2 else (-3 * protocol.noise_hu, 3 * protocol.noise_hu)
            middle, half = values.shape[0] // 2, int(min(half_mm, extent_mm) / pixel)
            cut = values[middle - half : middle + half, middle - half : middle + half]
            axes[row, column].imshow(cut, cmap="gray", vmin=low, vmax=high, interpolation="bilinear")
            axes[row, column].set_axis_off()
        title = f"{name}\n{protocol.kernel} {protocol.kvp} kVp  {protocol.thickness_mm:g}/{protocol.spacing_mm[0]:g} mm"
        title += f"\nFWHM {protocol.fwhm_mm:.2f} mm  noise {protocol.noise_hu:.0f} HU  IR {protocol.iterative:.2f}"
        axes[0, column].set_title(title, color="white", fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=75)


def main(arguments: Sequence[str]) -> int:
    keys = {"picture": "docs/scanner.png", "seed": "30000004", "scan": ""}
    numbers = {"fwhm": 1.1, "ray_noise": 0.8, "low": SOFT_HU[0], "high": SOFT_HU[1], "regions": 24}
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key in numbers:
            try:
                numbers[key] = float(value)
            except ValueError:
                raise ConfigError("must be a number", field=key, value=value) from None
        elif key in keys:
            keys[key] = value
        else:
            raise ConfigError(f"unknown key; known are {', '.join([*keys, *numbers])}", field="key", value=argument)
    if keys["scan"]:
        within = (numbers["low"], numbers["high"])
        print(compare(read_scan(keys["scan"]), numbers["fwhm"], numbers["ray_noise"], within, int(numbers["regions"])))
        return 0
    picture(Path(keys["picture"]), int(keys["seed"]))
    print(f"written to {keys['picture']}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
