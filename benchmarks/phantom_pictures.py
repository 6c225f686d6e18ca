"""The pictures of docs/phantom.md: reformats with labels, the LAD straightened, the coronary trees, distractors and devices."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from phantom_measure import Painted, courses
from phantom_vessels import arc_mm, frames
from scipy import ndimage

from cacsnet.labels import STRUCTURE_INDEX, STRUCTURES, VESSEL_NAMES, VESSELS
from cacsnet.phantom.cohort import CohortCase, Recipe, make_case
from cacsnet.phantom.deposits import DEVICES, DISTRACTORS
from cacsnet.phantom.render import heart_box, render

PICTURE_SEED = 69_900_000
MODELS = ("ellipsoid", "polar")
WINDOW = {"cmap": "gray", "vmin": -160, "vmax": 340}
VESSEL_COLOURS = {"LM": "#F0E442", "LAD": "#D55E00", "LCX": "#56B4E9", "RCA": "#009E73"}
"""Okabe and Ito's colours, told apart by colour-blind readers."""


@dataclass(frozen=True)
class Shown:
    """A case with labels painted at 1 mm around its heart."""

    case: CohortCase
    painted: Painted


def shown(model: str, recipe: Recipe | None = None, step_mm: float = 1.0) -> Shown:
    case = make_case(recipe or Recipe(PICTURE_SEED, agatston=700.0, heart_model=model))
    low, high = heart_box(case.patient, 30.0)
    shape = np.ceil((high - low) / step_mm).astype(int)
    anatomy = render(case.patient, case.arteries, low.tolist(), step_mm, shape.tolist())
    arrays = (anatomy.hu.numpy(), anatomy.structures.numpy(), anatomy.area.numpy())
    return Shown(case, Painted(*arrays, step_mm=step_mm, origin_mm=anatomy.origin_mm))


def scan_at(case: CohortCase, points_mm: np.ndarray, order: int = 1) -> np.ndarray:
    """HU of a case's scan at patient mm [..., 3]; air outside."""
    place = (points_mm - case.origin_mm) / np.array(case.scan.spacing_mm)
    out: np.ndarray = ndimage.map_coordinates(
        case.scan.hu.astype(np.float32), np.moveaxis(place, -1, 0), order=order, cval=-1000
    )
    return out


# -- reformats ----------------------------------------------------------------------------------------------------------


def reformats(path: Path) -> None:
    """Axial, coronal and sagittal reformats through the middle of the heart, per model: the scan, and with its labels."""
    figure = Figure(figsize=(15, 19), facecolor="black", layout="constrained")
    axes = figure.subplots(4, 3)
    for which, model in enumerate(MODELS):
        one = shown(model)
        chambers = np.argwhere((one.painted.structures > 0) & (one.painted.structures < 6))
        middle = chambers.mean(0)
        for column, (axis, name) in enumerate(((0, "axial"), (1, "coronal"), (2, "sagittal"))):
            for row in range(2):
                place = axes[2 * which + row, column]
                draw_plane(place, one, axis, round(middle[axis]), labels=row == 1)
                place.set_title(f"{model}: {name}" if row == 0 else "", color="white", fontsize=12)
    handles = [Patch(facecolor=np.array(s.colour) / 255, label=s.name.replace("_", " ")) for s in STRUCTURES[1:]]
    handles += [Line2D([], [], color=c, lw=3, label=f"{v} area") for v, c in VESSEL_COLOURS.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=6, fontsize=11, labelcolor="white", facecolor="black")
    figure.savefig(path, dpi=70)


def draw_plane(axes: Axes, one: Shown, axis: int, index: int, labels: bool) -> None:
    """One plane of the painted grid, axial (0), coronal (1) or sagittal (2), with the scan's HU."""
    painted = one.painted
    shape, step, origin = painted.structures.shape, painted.step_mm, np.array(painted.origin_mm)
    grid = np.indices([1 if k == axis else shape[k] for k in range(3)]).astype(float)
    grid[axis] = index
    hu = scan_at(one.case, np.moveaxis(grid, 0, -1) * step + origin).squeeze(axis)
    flip = slice(None, None, -1) if axis else slice(None)  # z upwards
    axes.imshow(hu[flip], **WINDOW, interpolation="bilinear")  # type: ignore[arg-type]
    axes.set_axis_off()
    if not labels:
        return
    structures, area = (np.take(v, index, axis)[flip] for v in (painted.structures, painted.area))
    colours = ListedColormap(np.array([label.colour for label in STRUCTURES]) / 255)
    axes.imshow(
        np.ma.masked_equal(structures, 0), cmap=colours, vmin=0, vmax=len(STRUCTURES) - 1, alpha=0.45, interpolation="nearest"
    )
    for label in VESSELS[1:]:
        mine = area == label.index
        if mine.any():
            axes.contour(mine, [0.5], colors=[VESSEL_COLOURS[label.name]], linewidths=2)


def stack(path: Path) -> None:
    """Axial slices from below the apex to the pulmonary artery, scan and labels, per model."""
    count = 6
    figure = Figure(figsize=(3.1 * count, 13), facecolor="black", layout="constrained")
    axes = figure.subplots(4, count)
    for which, model in enumerate(MODELS):
        one = shown(model)
        levels = np.argwhere(one.painted.structures > 0)[:, 0]
        for column, level in enumerate(np.linspace(levels.min() + 14, levels.max() - 22, count).round().astype(int)):
            for row in range(2):
                draw_plane(axes[2 * which + row, column], one, 0, int(level), labels=row == 1)
    figure.savefig(path, dpi=70)


# -- straightened LAD ---------------------------------------------------------------------------------------------------


def straightened(case: CohortCase, line_mm: np.ndarray, half_mm: float = 14.0, pixel_mm: float = 0.4) -> tuple[np.ndarray, ...]:
    """HU and owners along a line (patient mm [n, 3]) and across it, in two perpendicular planes: each [2, across, along]."""
    along = np.arange(0, arc_mm(line_mm)[-1], pixel_mm)
    fine = np.stack([np.interp(along, arc_mm(line_mm), line_mm[:, k]) for k in range(3)], 1)
    fine = ndimage.gaussian_filter1d(fine, 2.0 / pixel_mm, axis=0, mode="nearest")
    _, first, second = frames(fine)
    across = np.arange(-half_mm, half_mm + 1e-6, pixel_mm)
    points = np.stack([fine[None] + across[:, None, None] * side[None] for side in (first, second)])
    place = (points - case.origin_mm) / np.array(case.scan.spacing_mm)
    owner = ndimage.map_coordinates(case.truth.owner, np.moveaxis(place, -1, 0), order=0)
    return scan_at(case, points), owner


def lad(path: Path) -> None:
    """Curved planar reformat of a scan along left main and LAD, per model; the true plaques outlined below."""
    figure = Figure(figsize=(16, 13), layout="constrained")
    axes = figure.subplots(4, 1)
    for which, model in enumerate(MODELS):
        one = shown(
            model,
            Recipe(PICTURE_SEED + 3, agatston={"LM": 30.0, "LAD": 400.0, "LCX": 0.0, "RCA": 0.0}, heart_model=model),
            0.75,
        )
        course = courses(one.painted)["LAD"]
        hu, owner = straightened(one.case, course.line + np.array(one.painted.origin_mm))
        length = 0.4 * hu.shape[2]
        stem = arc_mm(course.line)[int((course.label != 1).argmax())]
        for row in range(2):
            place = axes[2 * which + row]
            place.imshow(
                hu[row], extent=(0, length, -14, 14), vmin=-200, vmax=500, cmap="gray", interpolation="bilinear", aspect="equal"
            )
            for vessel in VESSELS[1:]:
                mine = (owner[row] == vessel.index) & (hu[row] >= 130)
                if mine.any():
                    place.contour(
                        mine,
                        [0.5],
                        colors=[VESSEL_COLOURS[vessel.name]],
                        linewidths=1.2,
                        origin="upper",
                        extent=(0, length, -14, 14),
                    )
            place.axvline(stem, color="#F0E442", lw=0.8, ls="--")
            place.set_ylabel("mm")
        axes[2 * which].set_title(
            f"{model}: two perpendicular planes along LM and LAD; dashed: end of the left main; outlined: reference calcium"
        )
    axes[-1].set_xlabel("mm from the ostium")
    figure.savefig(path, dpi=70)


# -- coronary trees -----------------------------------------------------------------------------------------------------


def trees(path: Path) -> None:
    """The coronary trees of three patients per model in 3-D, with the ventricles' surface as dots."""
    figure = Figure(figsize=(15, 10.5), layout="constrained")
    for which, model in enumerate(MODELS):
        for column in range(3):
            axes = figure.add_subplot(2, 3, 3 * which + column + 1, projection="3d")
            recipe = Recipe(PICTURE_SEED + 20 + column, heart_model=model)
            tree(axes, recipe)
            axes.set_title(f"{model}, patient {column + 1}", fontsize=11)
    handles = [Line2D([], [], color=c, lw=3, label=v) for v, c in VESSEL_COLOURS.items()]
    handles += [Line2D([], [], color="#999999", lw=2, label="cardiac veins")]
    figure.legend(handles=handles, loc="outside lower center", ncols=5, fontsize=11)
    figure.savefig(path, dpi=70)


def tree(axes: Axes, recipe: Recipe) -> None:
    from cacsnet.phantom.anatomy import Patient

    patient = Patient(recipe.seed, heart_model=recipe.heart_model)
    arteries = patient.heart.grow_tree(np.random.default_rng([recipe.seed, 7]))
    low, high = heart_box(patient, 15.0)
    anatomy = render(patient, arteries, low.tolist(), 3.0, np.ceil((high - low) / 3.0).astype(int).tolist())
    structures = anatomy.structures.numpy()
    for names, colour in ((("left_ventricle", "myocardium", "right_ventricle"), "#BBBBBB"), (("aorta",), "#E0A0A0")):
        solid = np.isin(structures, [STRUCTURE_INDEX[name] for name in names])
        rim = np.argwhere(solid & ~ndimage.binary_erosion(solid)) * 3.0 + low
        axes.scatter(rim[:, 2], rim[:, 1], rim[:, 0], s=2.5, color=colour, alpha=0.35, linewidths=0)  # type: ignore[misc]
    for artery in sorted(arteries, key=lambda a: a.vessel):
        line = patient.heart_to_patient(artery.line)
        colour = VESSEL_COLOURS[VESSEL_NAMES[artery.vessel - 1]] if artery.vessel else "#999999"
        width = 2.2 * float(artery.radii.mean()) if artery.vessel else 1.0
        axes.plot(line[:, 2], line[:, 1], line[:, 0], color=colour, lw=width, solid_capstyle="round")  # type: ignore[arg-type]
    axes.set_box_aspect((1, 1, 1), zoom=1.25)  # type: ignore[call-arg]
    middle, half = 0.5 * (low + high), 0.5 * float((high - low).max())
    axes.set(xlim=(middle[2] - half, middle[2] + half), ylim=(middle[1] - half, middle[1] + half))
    axes.set_zlim(middle[0] - half, middle[0] + half)  # type: ignore[attr-defined]
    axes.view_init(elev=12, azim=-65)  # type: ignore[attr-defined]
    axes.set_xlabel("left (mm)", fontsize=8)
    axes.set_ylabel("back (mm)", fontsize=8)
    axes.tick_params(labelsize=7)


# -- distractors and devices --------------------------------------------------------------------------------------------


def zoo(path: Path) -> None:
    """Every distractor and device where it shows most, in the slice as scanned."""
    kinds = [*DISTRACTORS.items(), *DEVICES.items()]
    columns = 5
    rows = -(-len(kinds) // columns)
    figure = Figure(figsize=(3.2 * columns, 3.5 * rows), facecolor="black", layout="constrained")
    axes = figure.subplots(rows, columns).ravel()
    for place in axes:
        place.set_axis_off()
    for place, (k, (kind, owner)) in zip(axes, enumerate(kinds), strict=False):
        device = kind in DEVICES
        recipe = Recipe(
            PICTURE_SEED + 40 + k, agatston=0.0, distractors={} if device else {kind: 3.0},
            devices={kind: 1.5} if device else {}, heart_model=MODELS[k % 2],
        )  # fmt: skip
        zoom(place, recipe, owner)
        place.set_title(f"{kind.replace('_', ' ')} ({recipe.heart_model})", color="white", fontsize=11)
    figure.savefig(path, dpi=70)


def zoom(axes: Axes, recipe: Recipe, owner: int, half_mm: float = 55.0) -> None:
    """The slice with most voxels of an owner; what isn't there in five patients is drawn as nothing."""
    for attempt in range(5):
        case = make_case(Recipe(**{**vars(recipe), "seed": recipe.seed + 100 * attempt}))
        mine = (case.truth.owner == owner) & (case.truth.hu >= 130)
        if mine.any():
            break
    else:
        return
    z = int(mine.sum((1, 2)).argmax())
    middle = np.argwhere(mine[z]).mean(0)
    half = half_mm / case.scan.spacing_mm[1]
    low, high = np.maximum(middle - half, 0).astype(int), np.minimum(middle + half, mine.shape[1:]).astype(int)
    window = (slice(low[0], high[0]), slice(low[1], high[1]))
    axes.imshow(case.scan.hu[z][window], **WINDOW, interpolation="bilinear")  # type: ignore[arg-type]
    axes.contour(mine[z][window], [0.5], colors=[to_rgba("#CC79A7", 0.9)], linewidths=0.7)


PICTURES: dict[str, Callable[[Path], None]] = {
    "reformats": reformats, "axial": stack, "lad": lad, "trees": trees, "distractors": zoo,
}  # fmt: skip


def pictures(folder: Path, only: str = "") -> Iterator[Path]:
    """Draw them all (or those named, separated by commas)."""
    folder.mkdir(parents=True, exist_ok=True)
    names: Sequence[str] = only.split(",") if only else tuple(PICTURES)
    for name in names:
        path = folder / f"phantom_{name}.png"
        PICTURES[name](path)
        yield path
