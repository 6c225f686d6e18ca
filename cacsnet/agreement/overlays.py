"""Pictures of the best, the median and the worst case, as in Figure 2 of Sartoretti et al. 2022: CT, reference, model."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.patheffects import AbstractPathEffect, withStroke
from numpy.typing import NDArray
from scipy import ndimage

from cacsnet.agreement.figure_style import UNIT, Picture, new_figure, picture, signed, study_style
from cacsnet.agreement.study import Study
from cacsnet.agreement.tables import number
from cacsnet.errors import CacsError
from cacsnet.io.read import read_label_map, read_scan
from cacsnet.labels import VESSEL_NAMES, VESSELS
from cacsnet.report.overlay import WINDOW_HU
from cacsnet.scoring.checks import check_labels

ROLES = ("best", "median", "worst")
SLICES = 4
_FIELD_MM = 80.0  # at least, around calcium
_HEART_MM = 150.0  # shown if there is no calcium
_MARGIN_MM = 12.0
_ZERO = 0.05  # scores are printed with one decimal; smaller errors are alike
_HALO: list[AbstractPathEffect] = [withStroke(linewidth=1.8, foreground="black")]


@dataclass(frozen=True)
class Chosen:
    """A case with the places that it takes among all: of :data:`ROLES`."""

    case_id: str
    roles: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Maps:
    """One scan: ``hu`` [z, y, x], integer vessel maps 0-4 of the same shape (``reference`` None if unknown)."""

    hu: NDArray
    model: NDArray[np.integer]
    reference: NDArray[np.integer] | None
    spacing_mm: tuple[float, float, float]


def choose_cases(pairs: pd.DataFrame) -> tuple[Chosen, ...]:
    """Best, median and worst case by the absolute error of the total score; ties by case id.

    Best is, among cases with calcium where there are any, the one with the highest reference score of those with the
    smallest error. Median is the lower one. A case that takes several places is chosen once.
    """
    table = pairs[["case_id", "reference_total", "model_total"]].copy()
    table["error"] = (table["reference_total"] - table["model_total"]).abs()
    table = table.sort_values(["error", "case_id"], kind="stable").reset_index(drop=True)
    if table.empty:
        return ()
    calcified = table[(table["reference_total"] > 0) & (table["model_total"] > 0)]
    candidates = calcified if len(calcified) else table
    smallest = candidates[candidates["error"] <= candidates["error"].min() + _ZERO]
    best = smallest.sort_values(["reference_total", "case_id"], ascending=[False, True], kind="stable")["case_id"].iloc[0]
    worst = table[table["error"] == table["error"].max()]["case_id"].iloc[0]
    places: dict[str, list[str]] = {}
    for role, case in zip(ROLES, (best, table["case_id"].iloc[(len(table) - 1) // 2], worst), strict=True):
        places.setdefault(str(case), []).append(role)
    return tuple(Chosen(case, tuple(roles)) for case, roles in places.items())


def case_pictures(study: Study, references: Mapping[str, Path] | None = None) -> tuple[tuple[Picture, ...], tuple[str, ...]]:
    """Pictures of the chosen cases, and a note for each that can't be shown as it should.

    Args:
        study: with the folder of results.
        references: reference label map of each case id, where known.

    A scan is found by the path in its ``scores.json``. Where it can't be read, the ``overlay.png`` of its folder takes the
    place, and without that there is no picture.
    """
    if study.results is None:
        return (), ("no pictures of cases: the scores have no case folders",)
    pictures, notes = [], []
    if not references:
        notes.append("pictures of cases show the model only: no label maps of the reference are known")
    for chosen in choose_cases(study.pairs):
        folder = study.results / chosen.case_id
        row = study.pairs[study.pairs["case_id"] == chosen.case_id].iloc[0]
        name = f"case_{chosen.roles[0]}"
        head = f"{' and '.join(chosen.roles).capitalize()} case: {chosen.case_id}"
        try:
            maps, without = read_maps(folder, (references or {}).get(chosen.case_id))
        except (CacsError, OSError, ValueError) as error:
            existing = folder / "overlay.png"
            if existing.is_file():
                notes.append(f"picture of case {chosen.case_id} is that of its results, without the reference: {error}")
                caption = f"{_words(row, chosen)} Picture of the results: calcium that the model counts, outlined by vessel."
                pictures.append(Picture(name, head, caption, existing.read_bytes()))
            else:
                notes.append(f"no picture of case {chosen.case_id}: {error}")
            continue
        if without and references:
            notes.append(f"picture of case {chosen.case_id} without the reference: {without}")
        with study_style():
            figure = overlay_figure(maps, head)
            pictures.append(picture(figure, name, head, f"{_words(row, chosen)} {_picture_words(maps)}"))
    return tuple(pictures), tuple(notes)


def _words(row: pd.Series, chosen: Chosen) -> str:
    what = {
        "best": "highest score among the smallest errors",
        "median": "median error",
        "worst": "largest error",
    }
    vessels = [
        f"{name} {number(row[f'reference_{name}'])} / {number(row[f'model_{name}'])}"
        for name in VESSEL_NAMES
        if f"reference_{name}" in row
    ]
    text = (
        f"Case {chosen.case_id}, {' and '.join(what[role] for role in chosen.roles)}: reference "
        f"{number(row['reference_total'])} (category {row['reference_category']}), model {number(row['model_total'])} "
        f"({row['model_category']}), reference − model {signed(row['difference'])} {UNIT}"
    )
    return f"{text}; reference / model: {', '.join(vessels)}." if vessels else f"{text}."


def _picture_words(maps: Maps) -> str:
    rows = "CT, reference, model" if maps.reference is not None else "CT, model"
    return (
        f"Rows: {rows}; columns: axial slices from head to foot, seen from the feet. Coloured: calcium of each vessel, "
        f"named beside it. Window {WINDOW_HU[0]:g} to {WINDOW_HU[1]:g} HU."
    )


# ---- reading


def read_maps(folder: Path, reference: Path | None) -> tuple[Maps, str]:
    """Scan and label maps of a case folder; with why the reference's map is missing, "" if it isn't.

    Raises:
        CacsError: the scan or the model's map can't be read, or they lie on different grids.
        OSError: a file isn't there.
        ValueError: ``scores.json`` names no scan.
    """
    scan = read_scan(scan_path(folder))
    maps: list[NDArray[np.integer]] = []
    for path in (folder / "labels.nii.gz", reference):
        if path is None:
            return Maps(scan.hu, maps[0], None, scan.spacing_mm), "no label map of the reference is known"
        try:
            labels = read_label_map(path, scan.geometry)
            check_labels(labels, scan.hu.shape, len(VESSEL_NAMES), "labels")
        except (CacsError, OSError) as error:
            if not maps:
                raise
            return Maps(scan.hu, maps[0], None, scan.spacing_mm), str(error)
        maps.append(labels)
    return Maps(scan.hu, maps[0], maps[1], scan.spacing_mm), ""


def scan_path(folder: Path) -> Path:
    """Where ``scores.json`` of a case folder says that the scan lies.

    A relative path starts where the scores were made: here, or in a folder above the results.

    Raises:
        OSError: no ``scores.json``, or no scan there.
        ValueError: it isn't JSON with a ``path``.
    """
    document = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    if not isinstance(document, dict) or not isinstance(document.get("path"), str):
        raise ValueError("scores.json names no scan")
    path = Path(document["path"])
    for base in (Path(), *folder.resolve().parents):
        if (base / path).exists():
            return base / path
    raise FileNotFoundError(f"the scan is no longer at {path}")


# ---- drawing


def overlay_figure(maps: Maps, head: str) -> Figure:
    """Rows: CT, reference (where known), model; columns: the slices that tell most, from head to foot."""
    shown = pick_slices(maps)
    rows, columns = pick_field(maps, shown)
    layers: list[tuple[str, NDArray | None]] = [("CT", None)]
    layers += [("Reference", maps.reference)] if maps.reference is not None else []
    layers += [("Model", maps.model)]
    panel = 1.75 if len(shown) > 3 else 2.25
    figure = new_figure(panel * len(layers) + 0.75, max(panel * len(shown) + 0.3, 4.5))
    figure.suptitle(_printable(head), fontsize=9, fontweight="bold", x=0.01, ha="left", parse_math=False)
    grid = figure.subplots(len(layers), len(shown), squeeze=False)
    for line, (name, labels) in zip(grid, layers, strict=True):
        for axes, z in zip(line, shown, strict=True):
            _draw(axes, maps, labels, z, rows, columns)
        line[0].set_ylabel(name, fontweight="bold")
    for axes, z in zip(grid[0], shown, strict=True):
        axes.set_title(f"slice {z} of 0–{len(maps.hu) - 1}", fontsize=7.5)
    _marks(grid[0][0], maps.spacing_mm, rows, columns)
    drawn = np.concatenate([labels[shown].ravel() for _, labels in layers if labels is not None])
    entries: list[Artist] = [Patch(color=_colour(v.index), label=v.name) for v in VESSELS[1:] if (drawn == v.index).any()]
    entries = entries or [Patch(color="none", label="no coronary calcium")]
    figure.legend(handles=entries, loc="outside lower center", ncols=len(entries))
    return figure


def pick_slices(maps: Maps, count: int = SLICES) -> list[int]:
    """Slices to show, from head to foot: where the maps differ most, where other vessels have most, where most is."""
    either = maps.model > 0
    differs = np.zeros_like(either)
    if maps.reference is not None:
        either, differs = either | (maps.reference > 0), maps.model != maps.reference
    total, disagreement = either.sum(axis=(1, 2)), differs.sum(axis=(1, 2))
    if not total.any():
        middle, reach = (len(total) - 1) / 2, len(total) / 8
        places = np.linspace(middle - reach, middle + reach, count)
        return sorted({int(np.clip(round(z), 0, len(total) - 1)) for z in places}, reverse=True)
    wanted = [int(disagreement.argmax())] if disagreement.any() else []
    of_vessels = []
    for vessel in VESSELS[1:]:
        here = maps.model == vessel.index
        if maps.reference is not None:
            here = here | (maps.reference == vessel.index)
        of_vessels.append(here.sum(axis=(1, 2)))
    for of_slice in sorted(of_vessels, key=lambda counts: -int(counts.max())):
        if of_slice.any() and not of_slice[wanted].any():
            wanted.append(int(of_slice.argmax()))
    wanted += [int(z) for z in np.argsort(-total, kind="stable") if total[z]]
    return sorted(list(dict.fromkeys(wanted))[:count], reverse=True)


def pick_field(maps: Maps, shown: list[int]) -> tuple[slice, slice]:
    """Rows and columns to show: a square around the calcium of the shown slices, or the middle."""
    either: NDArray[np.bool_] = np.any(maps.model[shown] > 0, axis=0)
    if maps.reference is not None:
        either = either | np.any(maps.reference[shown] > 0, axis=0)
    steps = maps.spacing_mm[1:]
    if either.any():
        ends = [np.flatnonzero(either.any(axis=1 - axis))[[0, -1]] for axis in (0, 1)]
        middle = [float(end.mean()) for end in ends]
        size = max(_FIELD_MM, *(float(np.ptp(end)) * step + 2 * _MARGIN_MM for end, step in zip(ends, steps, strict=True)))
    else:
        middle, size = [(n - 1) / 2 for n in either.shape], _HEART_MM
    field = []
    for axis, step in enumerate(steps):
        n, half = either.shape[axis], size / 2 / step
        field.append(slice(max(0, math.floor(middle[axis] - half)), min(n, math.ceil(middle[axis] + half) + 1)))
    return field[0], field[1]


def _draw(axes: Axes, maps: Maps, labels: NDArray | None, z: int, rows: slice, columns: slice) -> None:
    dy, dx = maps.spacing_mm[1:]
    height, width = (rows.stop - rows.start) * dy, (columns.stop - columns.start) * dx
    # y points down in the picture, as it does to the patient's back
    frame = {"extent": (0.0, width, height, 0.0), "aspect": "equal"}
    low, high = WINDOW_HU
    axes.imshow(maps.hu[z, rows, columns], cmap="gray", vmin=low, vmax=high, interpolation="bicubic", **frame)  # type: ignore[arg-type]
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    if labels is None:
        return
    part = labels[z, rows, columns]
    colours = np.zeros((*part.shape, 4))
    for vessel in VESSELS[1:]:
        colours[part == vessel.index] = (*_colour(vessel.index), 0.85)
    axes.imshow(colours, interpolation="nearest", **frame)  # type: ignore[arg-type]
    places: list[tuple[float, float]] = []
    for vessel in VESSELS[1:]:
        if not (part == vessel.index).any():
            continue
        y, left, right = _largest(part == vessel.index)
        # beside the calcium, never on it: at the panel's right edge the name stands to the left
        x = (right + 2.0) * dx if (right + 2.0) * dx <= 0.84 * width else max((left - 1.0) * dx - 0.16 * width, 0.0)
        place = _free_place(x, (y - 1.0) * dy, places, width, height)
        places.append(place)
        text = axes.text(*place, vessel.name, va="bottom", color=_colour(vessel.index), fontsize=7, fontweight="bold")
        text.set_path_effects(_HALO)
    axes.set(xlim=(0, width), ylim=(height, 0))


def _free_place(x: float, y: float, taken: list[tuple[float, float]], width: float, height: float) -> tuple[float, float]:
    """Where a name can stand at ``x``: at ``y`` or the nearest line above or below, within the panel, that is free."""
    step = 0.07 * height
    y = min(max(y, step), height)
    lines = [y, *sorted(np.arange(step, height, step), key=lambda line: abs(line - y))]
    near = [other for place, other in taken if abs(place - x) < 0.18 * width]
    return x, next((float(line) for line in lines if all(abs(line - other) > 0.95 * step for other in near)), y)


def _largest(mask: NDArray[np.bool_]) -> tuple[int, int, int]:
    """Topmost row, leftmost and rightmost column of the largest connected part of a mask [y, x]."""
    groups, _ = ndimage.label(mask, structure=np.ones((3, 3)))
    sizes = np.bincount(groups.ravel())
    rows, columns = np.nonzero(groups == 1 + int(sizes[1:].argmax()))
    return int(rows.min()), int(columns.min()), int(columns.max())


def _marks(axes: Axes, spacing_mm: tuple[float, float, float], rows: slice, columns: slice) -> None:
    """Sides of the patient and a scale."""
    height, width = (rows.stop - rows.start) * spacing_mm[1], (columns.stop - columns.start) * spacing_mm[2]
    for x, side, align in ((0.02, "R", "left"), (0.98, "L", "right")):
        axes.text(x, 0.5, side, color="white", ha=align, va="center", transform=axes.transAxes, path_effects=_HALO)
    bar = 20.0  # mm
    end, base = width - 0.04 * width, height - 0.05 * height
    axes.plot([end - bar, end], [base, base], color="white", linewidth=1.5, path_effects=_HALO)
    axes.text(end - bar / 2, base - 0.02 * height, "20 mm", color="white", fontsize=7, ha="center", path_effects=_HALO)
    axes.set(xlim=(0, width), ylim=(height, 0))


def _colour(index: int) -> tuple[float, float, float]:
    red, green, blue = VESSELS[index].colour
    return red / 255, green / 255, blue / 255


def _printable(text: str, length: int = 90) -> str:
    clean = "".join(c if c.isprintable() else " " for c in text)
    return clean if len(clean) <= length else f"{clean[: length - 1]}…"
