"""One picture per scan: the slices that carry calcium, each lesion outlined in the colour of its vessel."""

from __future__ import annotations

import os
import tempfile
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray
from scipy import ndimage

from cacsnet.errors import ArgumentError
from cacsnet.labels import VESSELS
from cacsnet.scoring.reasons import REASONS

MAX_SLICES = 6
SLICES_WITHOUT_CALCIUM = 3
WINDOW_HU = (-160.0, 440.0)
"""Displayed range: soft tissue stays apart from fat, and 130 HU from denser calcium."""

DISCLAIMER = "Research use only, not a medical device."

_HEART_MM = 170.0  # field shown around a centre when no box is given
_REACH_MM = 28.0  # from the middle of the heart to the slices above and below, shown if there is no calcium
_MARGIN_MM = 8.0  # around lesions that lie outside the box
_OUTLINE_GAP_MM = 0.6  # outlines keep this distance, so that they don't hide a small lesion
_CHARACTERS_PER_LINE = 105
_BACKGROUND, _TEXT, _FAINT = "#101114", "#f2f2f2", "#9a9ca3"
# dashed, and none of the vessels' colours; reasons that don't look like coronary calcium stay grey
_REASON_COLOURS = {
    "aorta": "#f08a3c",
    "aortic_valve": "#d070e0",
    "mitral_annulus": "#5fd6d6",
    "pericardium": "#c08a60",
    "metal_or_stent": "#ff9ecb",
}
_OTHER_REASON = "#a8a8a8"
_DASHES = (0, (1.2, 0.9))
_HALO = [withStroke(linewidth=2.5, foreground=_BACKGROUND)]  # readable on bright tissue too

Box = tuple[slice, slice, slice]


def write_overlay(
    path: str | Path,
    hu: NDArray,
    vessel_map: NDArray,
    reason_map: NDArray | None,
    spacing_mm: tuple[float, float, float],
    title_lines: Sequence[str],
    *,
    centre: tuple[float, float, float] | None = None,
    box: Box | None = None,
    reason_names: Mapping[int, str] | Sequence[str] = REASONS,
) -> Path:
    """Write one PNG with up to six axial slices and the calcium in them outlined.

    Every vessel that has calcium is shown on at least one slice; the other places go to the slices with most calcium.
    Without any calcium, three slices through the heart are shown. Slices run from head to foot. As is usual for CT, the
    patient is seen from the feet: their left is on the right of the picture, their front at the top. The file appears
    complete or not at all.

    Args:
        path: the PNG; its folder is made if need be.
        hu: [z, y, x] in canonical order (z to the head, y to the back, x to the patient's left), Hounsfield units.
        vessel_map: integers [z, y, x], calcium per vessel as in :data:`cacsnet.labels.VESSELS`, 0 elsewhere.
        reason_map: integers [z, y, x], rejected candidates by reason, 0 elsewhere; None if there are none to show.
        spacing_mm: (dz, dy, dx), mm.
        title_lines: the first is the headline (case id), the others follow smaller: scores, category, flags. Long
            lines are wrapped. That this is for research use only is always added.
        centre: voxel (z, y, x) of the heart, for the slices and the field shown without calcium or box; default the
            middle of the volume.
        box: slices (z, y, x) of the heart; the picture is cropped to it, widened where calcium lies outside.
        reason_names: what the values of ``reason_map`` mean, by value.

    Returns:
        ``path``.

    Raises:
        ArgumentError: the arrays differ in shape, a label is unknown, or spacing, centre or box make no sense.
    """
    path = Path(path)
    hu, vessel_map, reason_map = _checked(hu, vessel_map, reason_map, spacing_mm)
    middle = _middle(hu.shape, centre, box)
    shown = _slices(vessel_map, middle, box, spacing_mm[0])
    rows, columns = _field(vessel_map, shown, middle, box, spacing_mm)

    names = dict(reason_names) if isinstance(reason_names, Mapping) else dict(enumerate(reason_names))
    titles = _titles(title_lines)
    across = min(3, len(shown))
    down = -(-len(shown) // across)
    height_per_width = (rows.stop - rows.start) * spacing_mm[1] / ((columns.stop - columns.start) * spacing_mm[2])
    # three panels of 4.2 inches each; fewer are as large as the same width allows
    width = 12.9
    panel = 4.2 if across == 3 else (6.0 if across == 2 else 7.5)
    head = 0.2 + 0.32 + 0.21 * (len(titles) - 1)
    foot = 0.42
    panel_height = panel * float(np.clip(height_per_width, 0.4, 2.0)) + 0.28
    height = head + down * panel_height + foot

    figure = Figure(figsize=(width, height), facecolor=_BACKGROUND)
    FigureCanvasAgg(figure)
    for line, text in enumerate(titles):
        y = 1 - (0.2 if line == 0 else 0.32 + 0.21 * line) / height
        figure.text(
            0.11 / width,
            y,
            text,
            color=_TEXT if line == 0 else _FAINT,
            fontsize=14 if line == 0 else 10,
            fontweight="bold" if line == 0 else "normal",
            va="center",
            parse_math=False,
        )
    left = (width - across * panel) / 2
    gap = 0.06
    for place, z in enumerate(shown):
        x0 = left + (place % across) * panel
        y0 = height - head - (place // across + 1) * panel_height
        axes = figure.add_axes(
            ((x0 + gap) / width, (y0 + gap) / height, (panel - 2 * gap) / width, (panel_height - 0.28 - gap) / height)
        )
        _draw_slice(axes, z, hu, vessel_map, reason_map, names, spacing_mm, rows, columns)
    _legend(figure, vessel_map[shown], reason_map[shown, rows, columns], names)
    _save(figure, path)
    return path


def _checked(
    hu: NDArray, vessel_map: NDArray, reason_map: NDArray | None, spacing_mm: tuple[float, float, float]
) -> tuple[NDArray, NDArray, NDArray]:
    if hu.ndim != 3 or hu.size == 0:
        raise ArgumentError("a volume is [z, y, x]", field="hu", value=hu.shape)
    if len(spacing_mm) != 3 or not all(np.isfinite(s) and s > 0 for s in spacing_mm):
        raise ArgumentError("spacing must be positive and finite", field="spacing_mm", value=spacing_mm)
    reason_map = np.zeros(hu.shape, np.uint8) if reason_map is None else reason_map
    for name, labels in (("vessel_map", vessel_map), ("reason_map", reason_map)):
        if labels.shape != hu.shape:
            raise ArgumentError("the map and the scan differ in shape", field=name, value=labels.shape)
        if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0:
            raise ArgumentError("a map holds labels, 0 and above", field=name, value=str(labels.dtype))
    if vessel_map.max() >= len(VESSELS):
        raise ArgumentError("unknown vessel label", field="vessel_map", value=int(vessel_map.max()))
    return hu, vessel_map, reason_map


def _middle(shape: tuple[int, ...], centre: tuple[float, float, float] | None, box: Box | None) -> tuple[float, float, float]:
    if box is not None:
        ranges = [range(*part.indices(size)) for part, size in zip(box, shape, strict=True)]
        if any(len(r) == 0 or r.step != 1 for r in ranges):
            raise ArgumentError("the box is empty in this volume", field="box", value=box)
    if centre is None:
        if box is None:
            return (shape[0] - 1) / 2, (shape[1] - 1) / 2, (shape[2] - 1) / 2
        centre = tuple((r[0] + r[-1]) / 2 for r in ranges)  # type: ignore[assignment]
    assert centre is not None
    if not all(np.isfinite(c) and 0 <= c <= size - 1 for c, size in zip(centre, shape, strict=True)):
        raise ArgumentError("the centre lies outside the volume", field="centre", value=centre)
    return centre


def _slices(vessel_map: NDArray, middle: tuple[float, float, float], box: Box | None, dz: float) -> list[int]:
    """Which slices to show, from head to foot."""
    count = np.stack([(vessel_map == label.index).sum(axis=(1, 2)) for label in VESSELS[1:]])  # [vessel, z]
    if count.any():
        chosen = {int(of_vessel.argmax()) for of_vessel in count if of_vessel.any()}
        total = count.sum(axis=0)
        for z in np.argsort(-total, kind="stable"):
            if len(chosen) >= MAX_SLICES or total[z] == 0:
                break
            chosen.add(int(z))
    else:
        size = vessel_map.shape[0]
        z0, z1, _ = (0, size, 1) if box is None else box[0].indices(size)
        reach = min((z1 - z0) / 4, _REACH_MM / dz)
        chosen = {int(np.clip(round(middle[0] + step * reach), 0, size - 1)) for step in (-1, 0, 1)}
    return sorted(chosen, reverse=True)


def _field(
    vessel_map: NDArray,
    shown: list[int],
    middle: tuple[float, float, float],
    box: Box | None,
    spacing_mm: tuple[float, float, float],
) -> tuple[slice, slice]:
    """Rows and columns to show: the box or the heart's size around the centre, and all calcium of the shown slices."""
    calcium: NDArray[np.bool_] = np.any(vessel_map[shown] > 0, axis=0)
    field = []
    for axis in (1, 2):
        size, spacing = vessel_map.shape[axis], spacing_mm[axis]
        if box is None:
            half = 0.5 * _HEART_MM / spacing
            first, last = middle[axis] - half, middle[axis] + half
        else:
            first, stop, _ = box[axis].indices(size)
            last = stop - 1
        hit = np.flatnonzero(np.any(calcium, axis=2 - axis))
        if len(hit):
            first, last = min(first, hit[0] - _MARGIN_MM / spacing), max(last, hit[-1] + _MARGIN_MM / spacing)
        field.append(slice(max(0, int(np.floor(first))), min(size, int(np.ceil(last)) + 1)))
    return field[0], field[1]


def _draw_slice(
    axes: Axes,
    z: int,
    hu: NDArray,
    vessel_map: NDArray,
    reason_map: NDArray,
    reason_names: Mapping[int, str],
    spacing_mm: tuple[float, float, float],
    rows: slice,
    columns: slice,
) -> None:
    dy, dx = spacing_mm[1:]
    height, width = (rows.stop - rows.start) * dy, (columns.stop - columns.start) * dx
    # y points down in the picture, as it does to the patient's back
    axes.imshow(
        hu[z, rows, columns],
        cmap="gray",
        vmin=WINDOW_HU[0],
        vmax=WINDOW_HU[1],
        extent=(0.0, width, height, 0.0),
        aspect="equal",
        interpolation="bicubic",
    )
    axes.set_axis_off()
    for reason in np.unique(reason_map[z, rows, columns]):
        if reason:
            mask = reason_map[z, rows, columns] == reason
            axes.add_collection(_outline(mask, dy, dx, _reason_colour(reason_names.get(int(reason), "")), dashed=True))
    names = []
    for label in VESSELS[1:]:
        mask = vessel_map[z, rows, columns] == label.index
        if mask.any():
            axes.add_collection(_outline(mask, dy, dx, _vessel_colour(label.index), dashed=False))
            names.append(label.name)
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    caption = f"slice {z} of 0–{hu.shape[0] - 1}" + (f"   {', '.join(names)}" if names else "")
    axes.set_title(caption, color=_TEXT, fontsize=9.5, pad=4, loc="left")
    for x, side, align in ((0.012, "R", "left"), (0.988, "L", "right")):
        axes.text(x, 0.5, side, color=_TEXT, fontsize=10, ha=align, va="center", transform=axes.transAxes, path_effects=_HALO)
    bar = 20.0  # mm
    if width > 3 * bar:
        axes.plot([width - 6 - bar, width - 6], [height - 5, height - 5], color=_TEXT, linewidth=1.6, path_effects=_HALO)
        axes.text(
            width - 6 - bar / 2,
            height - 7,
            "20 mm",
            color=_TEXT,
            fontsize=8,
            ha="center",
            va="bottom",
            path_effects=_HALO,
        )


def _outline(mask: NDArray, dy: float, dx: float, colour: tuple[float, ...] | str, *, dashed: bool) -> LineCollection:
    """Pixel-exact border of ``mask`` [y, x], widened by a small gap, in mm from the corner of the first pixel."""
    reach_y, reach_x = (max(1, round(_OUTLINE_GAP_MM / step)) for step in (dy, dx))
    padded = np.pad(mask, ((reach_y + 1,) * 2, (reach_x + 1,) * 2))
    y, x = np.ogrid[-reach_y : reach_y + 1, -reach_x : reach_x + 1]
    wide = ndimage.binary_dilation(padded, structure=(y / reach_y) ** 2 + (x / reach_x) ** 2 <= 1)
    row, column = np.nonzero(wide[1:] != wide[:-1])  # horizontal edges, below `row`
    top = np.stack([np.stack([column, row + 1], -1), np.stack([column + 1, row + 1], -1)], 1)
    row, column = np.nonzero(wide[:, 1:] != wide[:, :-1])
    side = np.stack([np.stack([column + 1, row], -1), np.stack([column + 1, row + 1], -1)], 1)
    edges = (np.concatenate([top, side]) - [reach_x + 1, reach_y + 1]) * [dx, dy]
    return LineCollection(
        list(edges),
        colors=[colour],
        linewidths=0.9 if dashed else 1.4,
        linestyles=[_DASHES] if dashed else "solid",
        capstyle="projecting" if not dashed else "butt",
    )


def _vessel_colour(index: int) -> tuple[float, float, float]:
    red, green, blue = VESSELS[index].colour
    return red / 255, green / 255, blue / 255


def _reason_colour(name: str) -> str:
    return _REASON_COLOURS.get(name, _OTHER_REASON)


def _legend(
    figure: Figure,
    vessel_map: NDArray,
    reason_map: NDArray,
    reason_names: Mapping[int, str],
) -> None:
    entries = [
        Line2D([], [], color=_vessel_colour(label.index), linewidth=3, label=label.name)
        for label in VESSELS[1:]
        if (vessel_map == label.index).any()
    ]
    by_colour: dict[str, list[str]] = {}
    for reason in np.unique(reason_map):
        if reason:
            name = reason_names.get(int(reason), f"reason {reason}")
            by_colour.setdefault(_reason_colour(name), []).append(name.replace("_", " "))
    entries += [
        Line2D([], [], color=colour, linewidth=2, linestyle=_DASHES, label=f"rejected: {', '.join(names)}")
        for colour, names in by_colour.items()
    ]
    if not entries:
        entries.append(Line2D([], [], linestyle="none", label="no coronary calcium"))
    figure.legend(
        handles=entries,
        loc="lower center",
        ncols=len(entries),
        frameon=False,
        labelcolor=_TEXT,
        fontsize=9.5 if len(entries) < 8 else 7.5,
        handlelength=1.6,
        columnspacing=1.6,
        borderaxespad=0.4,
    )


def _titles(title_lines: Sequence[str]) -> list[str]:
    wrapped: list[str] = []
    for line in title_lines:
        printable = "".join(c if c.isprintable() else " " for c in str(line))
        wrapped += textwrap.wrap(printable, _CHARACTERS_PER_LINE if not wrapped else 150)
    return [*(wrapped or ["Coronary calcium"]), DISCLAIMER]


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph")  # a case id may be in any script
            figure.savefig(name, format="png", dpi=110, facecolor=_BACKGROUND, metadata={"Software": None})
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
