"""What the network really sees: a picture of training patches after jitter and augmentation, with everything it is taught.

``python -m cacsnet.data.look experiment=phantom output=docs/patches.png``: patches of that training run. Further keys: ``rows``
(how many), ``stage`` (coarse or fine), ``epoch``; all others are those of ``train.py``, such as ``experiment=finetune
data.root=FOLDER``.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from torch import Tensor

from cacsnet.data.module import PhantomData
from cacsnet.data.patches import DISTRACTOR, OTHER, PLAQUE
from cacsnet.data.real import patches_from
from cacsnet.data.sampling import Patches
from cacsnet.errors import CacsError, ConfigError
from cacsnet.labels import IGNORE, STRUCTURES, VESSELS

CONF = Path(__file__).resolve().parents[2] / "conf"
WINDOW_HU = (-160.0, 340.0)
SLAB_MM = 4.5
"""Points this far from the slice are drawn on it."""

GROUPS = {PLAQUE: "coronary calcium", DISTRACTOR: "other calcium", OTHER: "bone and noise"}
MARKERS = {DISTRACTOR: ("x", "magenta"), OTHER: ("+", "white")}
"""Of the groups that have no vessel."""

COLUMNS = ("axial", "structures", "course and candidates", "coronal")
KEYS = {"output": "docs/patches.png", "rows": "6", "stage": "coarse", "epoch": "0"}


def training_patches(config: Mapping[str, Any], stage: str) -> tuple[Patches, float]:
    """The patches that a training run of ``conf/train.yaml`` would see, and their voxel size (mm)."""
    if stage not in config["stages"]:
        raise ConfigError(f"choose from {', '.join(config['stages'])}", field="stage", value=stage)
    seed = int(config["seed"])
    data = PhantomData(**config["stages"][stage]["data"], seed=seed)
    patches: Patches = data.patches
    if config.get("data"):
        patches = patches_from(config["data"], data.settings, seed, phantom=data.patches)
    return patches, data.settings.spacing_mm


def picture(patches: Sequence[Mapping[str, Tensor]], spacing_mm: float) -> Figure:
    """One row a patch, its middle slices: HU; structures as outlines; the course filled, candidates by group; coronal all."""
    figure = Figure(figsize=(3.2 * len(COLUMNS), 3.3 * len(patches) + 0.5), facecolor="black", layout="constrained")
    axes = figure.subplots(len(patches), len(COLUMNS), squeeze=False)
    for row, patch in zip(axes, patches, strict=True):
        arrays = {name: value.numpy() for name, value in patch.items()}
        for ax, name in zip(row, COLUMNS, strict=True):
            _panel(ax, arrays, 1 if name == "coronal" else 0, spacing_mm, name)
        counts = ", ".join(f"{int((arrays['point_group'] == g).sum())} {name}" for g, name in GROUPS.items())
        row[2].set_title(counts, color="white", fontsize=7)
    for ax, name in zip(axes[0], COLUMNS, strict=True):
        ax.text(0.02, 0.98, name, color="white", fontsize=8, va="top", transform=ax.transAxes)
    figure.legend(handles=_legend(), loc="outside lower center", ncols=8, fontsize=7, labelcolor="white", frameon=False)
    return figure


def _legend() -> list[Line2D]:
    lines = [Line2D([], [], color=_rgb(s.colour), label=s.name.replace("_", " ")) for s in STRUCTURES[1:]]
    for v in VESSELS[1:]:
        label = f"{v.name}: course, calcium"
        lines.append(Line2D([], [], color=_rgb(v.colour), label=label, marker="o", markerfacecolor="none", lw=4, alpha=0.8))
    lines += [Line2D([], [], color=c, marker=m, lw=0, label=GROUPS[group]) for group, (m, c) in MARKERS.items()]
    return [*lines, Line2D([], [], color="#3050a0", lw=6, alpha=0.5, label="nothing known")]


def _rgb(colour: tuple[int, int, int]) -> tuple[float, float, float]:
    r, g, b = colour
    return r / 255, g / 255, b / 255


def _panel(ax: Axes, patch: Mapping[str, np.ndarray], axis: int, spacing_mm: float, name: str) -> None:
    middle = patch["hu"].shape[axis] // 2

    def plane(volume: np.ndarray) -> np.ndarray:
        # coronal: head up
        return volume.take(middle, axis) if axis == 0 else volume.take(middle, axis)[::-1]

    hu, structures, course = (plane(patch[key]) for key in ("hu", "structures", "course"))
    height, width = hu.shape
    ax.imshow(hu, cmap="gray", vmin=WINDOW_HU[0], vmax=WINDOW_HU[1], interpolation="nearest")
    known = structures if name == "structures" else course
    if name in COLUMNS[1:3]:
        _fill(ax, known == IGNORE, (0.2, 0.3, 0.65), 0.35)
    if name in ("structures", "coronal"):
        for label in STRUCTURES[1:]:
            if (structures == label.index).any():
                ax.contour(structures == label.index, [0.5], colors=[_rgb(label.colour)], linewidths=0.9)
    if name in ("course and candidates", "coronal"):
        for label in VESSELS[1:]:
            _fill(ax, course == label.index, _rgb(label.colour), 0.5)
        near = np.abs(patch["points"][:, axis] - middle) * spacing_mm <= SLAB_MM
        across = patch["points"][:, 1 - axis]
        across = across if axis == 0 else height - 1 - across
        for group, (marker, colour) in MARKERS.items():
            chosen = near & (patch["point_group"] == group)
            ax.scatter(patch["points"][chosen, 2], across[chosen], s=9, c=colour, marker=marker, linewidths=0.6)
        for label in VESSELS[1:]:
            chosen = near & (patch["point_group"] == PLAQUE) & (patch["point_label"] == label.index)
            ax.scatter(
                patch["points"][chosen, 2], across[chosen], s=14, facecolors="none", edgecolors=[_rgb(label.colour)],
                linewidths=0.8,
            )  # fmt: skip
    ax.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    ax.set_axis_off()


def _fill(ax: Axes, mask: np.ndarray, colour: tuple[float, float, float], alpha: float) -> None:
    if mask.any():
        image = np.zeros((*mask.shape, 4))
        image[mask] = (*colour, alpha)
        ax.imshow(image, interpolation="nearest")


def main(arguments: Sequence[str]) -> int:
    """Exit code 0, or 2 for a bad command."""
    keys, overrides = dict(KEYS), []
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key in keys:
            keys[key] = value
        else:
            overrides.append(argument)
    try:
        for key in ("rows", "epoch"):
            if not keys[key].isdigit():
                raise ConfigError("must be a whole number", field=key, value=keys[key])
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = OmegaConf.to_container(compose("train", overrides), resolve=True)
        assert isinstance(config, dict)
        patches, spacing_mm = training_patches({str(k): v for k, v in config.items()}, keys["stage"])
        patches.epoch = int(keys["epoch"])
        shown = [patches[k] for k in np.linspace(0, len(patches) - 1, max(1, int(keys["rows"]))).astype(int).tolist()]
    except (CacsError, HydraException, OmegaConfBaseException) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    path = Path(keys["output"])
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(shown, spacing_mm).savefig(path, dpi=80)
    Console().print(f"{len(shown)} patches in {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
