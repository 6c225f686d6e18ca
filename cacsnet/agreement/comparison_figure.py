"""The figure of a comparison: how far each scan's two scores lie from the reference, and which scans changed category."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator
from numpy.typing import NDArray

from cacsnet.agreement.compare import Comparison
from cacsnet.agreement.figure_style import BLUE, DARK, GREY, UNIT, VERMILLION, Picture, new_figure, picture, study_style, title
from cacsnet.agreement.panels import IDENTITY
from cacsnet.agreement.tables import number, p_words
from cacsnet.scoring.categories import RISK_CATEGORIES

Scores = NDArray[np.float64]

VERDICTS = {"better": ("^", "white"), "worse": ("v", DARK), "neither": ("D", "#B0B0B0")}
"""Marker and colour of a scan that the second puts into another category than the first: nearer to the reference's or not."""

_LINEAR_TO = 10.0  # Agatston units; logarithmic above
_FIRST: dict[str, Any] = {"marker": "o", "markerfacecolor": BLUE, "markeredgecolor": DARK, "markeredgewidth": 0.5}
_SECOND: dict[str, Any] = {"marker": "s", "markerfacecolor": "white", "markeredgecolor": VERMILLION, "markeredgewidth": 0.9}
_FIRST_BIAS: dict[str, Any] = {"color": BLUE, "linewidth": 1.2}
_SECOND_BIAS: dict[str, Any] = {"color": VERMILLION, "linewidth": 1.2, "linestyle": (0, (5, 2))}
_NAME_LENGTH = 40


def comparison_picture(found: Comparison) -> Picture:
    """The figure as files with its caption."""
    with study_style():
        return picture(comparison_figure(found), "comparison", "Two models against the reference", comparison_words(found))


def comparison_figure(found: Comparison) -> Figure:
    """Differences to the reference of both, scan by scan (A), and their sizes against each other (B)."""
    figure = new_figure(4.3)
    left, right = figure.subplots(1, 2, width_ratios=[1.75, 1])
    table = found.cases.sort_values(["reference", "case_id"], kind="stable").reset_index(drop=True)
    draw_differences(left, table)
    draw_errors(right, table)
    title(left, "A", "Difference to the reference", f"n = {found.n}")
    error = found.absolute_error
    title(right, "B", "Absolute error", f"{p_words(error.p_value)} ({error.test})" if error.test else error.reason)
    present = [verdict for verdict in VERDICTS if (table["verdict"] == verdict).any()]
    legend = figure.legend(handles=_entries(found.names, present), loc="outside lower center", ncols=3, handletextpad=0.5)
    for text in legend.get_texts():
        text.set_parse_math(False)  # names of files
    return figure


def draw_differences(axes: Axes, table: pd.DataFrame) -> None:
    """Reference - model of both models at each scan, scans in rising order of the reference; signed marks on those that
    changed category stand above."""
    x = np.arange(1, len(table) + 1)
    reference = table["reference"].to_numpy(dtype=np.float64)
    first, second = (reference - table[name].to_numpy(dtype=np.float64) for name in ("first", "second"))
    top = float(max(np.abs(first).max(), np.abs(second).max(), 1.0))
    _scale(axes, "y", top, signed=True, room=2.6)
    changed = (table["verdict"] != "").to_numpy(dtype=bool)
    for here, colour, width in ((~changed, GREY, 0.5), (changed, DARK, 1.5)):
        axes.vlines(x[here], first[here], second[here], color=colour, linewidth=width, zorder=2)
    size = 4.0 if len(table) <= 60 else 3.0
    axes.plot(x, first, linestyle="none", markersize=size, zorder=3, label="first", **_FIRST)
    axes.plot(x, second, linestyle="none", markersize=size, zorder=3.1, label="second", **_SECOND)
    axes.axhline(0, color=GREY, linewidth=0.6, linestyle=":", zorder=1)
    axes.axhline(float(first.mean()), label="bias of the first", zorder=1.5, **_FIRST_BIAS)
    axes.axhline(float(second.mean()), label="bias of the second", zorder=1.5, **_SECOND_BIAS)
    line = axes.get_xaxis_transform()
    for verdict, (marker, colour) in VERDICTS.items():
        here = (table["verdict"] == verdict).to_numpy(dtype=bool)
        if here.any():
            style: dict[str, Any] = {"marker": marker, "facecolors": colour, "edgecolors": DARK, "linewidths": 0.8}
            axes.scatter(x[here], np.full(int(here.sum()), 0.93), s=22, transform=line, zorder=4, label=verdict, **style)
    counts = [int((table["reference_category"] == name).sum()) for name in RISK_CATEGORIES]
    ends = np.cumsum([0, *counts])
    for end in ends[1:-1]:
        if 0 < end < len(table):
            axes.axvline(end + 0.5, color=GREY, linewidth=0.6, zorder=0.5)
    places = [(low + high + 1) / 2 for low, high in pairwise(ends)]
    labels = [f"{name}\n(n = {n})" for name, n in zip(RISK_CATEGORIES, counts, strict=True)]
    shown = [i for i, n in enumerate(counts) if n]
    axes.set_xticks([places[i] for i in shown], [labels[i] for i in shown])
    axes.tick_params(axis="x", length=0)
    axes.set(xlim=(0.3, len(table) + 0.7))
    axes.set_xlabel(f"Scans by rising reference score; its risk category ({UNIT})")
    axes.set_ylabel(f"Reference − model ({UNIT})")


def draw_errors(axes: Axes, table: pd.DataFrame) -> None:
    """|reference - second| over |reference - first|: below the identity the second is nearer."""
    reference = table["reference"].to_numpy(dtype=np.float64)
    first, second = (np.abs(reference - table[name].to_numpy(dtype=np.float64)) for name in ("first", "second"))
    top = float(max(first.max(), second.max(), 1.0))
    for axis in ("x", "y"):
        _scale(axes, axis, top, signed=False, room=1.5)
    same = (table["verdict"] == "").to_numpy(dtype=bool)
    grey: dict[str, Any] = {"color": "#9A9A9A", "edgecolors": DARK, "linewidths": 0.4, "alpha": 0.8}
    axes.scatter(first[same], second[same], s=16, marker="o", zorder=3, label="same category", **grey)
    for verdict, (marker, colour) in VERDICTS.items():
        here = (table["verdict"] == verdict).to_numpy(dtype=bool)
        if here.any():
            axes.scatter(
                first[here], second[here], s=26, marker=marker, facecolors=colour, edgecolors=DARK, linewidths=0.9, zorder=4,
                label=verdict, clip_on=False,
            )  # fmt: skip
    end = axes.get_xlim()[1]
    axes.plot([0, end], [0, end], label="identity", zorder=2, **IDENTITY)
    axes.text(0.04, 0.97, "first nearer", transform=axes.transAxes, va="top", fontsize=7, color=GREY)
    axes.text(0.97, 0.03, "second nearer", transform=axes.transAxes, ha="right", fontsize=7, color=GREY)
    axes.set_box_aspect(1)
    axes.set_xlabel(f"|Reference − first|\n({UNIT})")
    axes.set_ylabel(f"|Reference − second| ({UNIT})")


def _scale(axes: Axes, axis: str, top: float, *, signed: bool, room: float) -> None:
    """Linear up to ten units, logarithmic above; wholly linear where nothing is larger."""
    which = {"x": axes.xaxis, "y": axes.yaxis}[axis]
    linear = top <= _LINEAR_TO
    limit = (1 + 0.25 * (room - 1)) * top if linear else room * top
    getattr(axes, f"set_{axis}lim")(-limit if signed else -0.06 * min(limit, _LINEAR_TO), limit)
    if linear:
        return
    getattr(axes, f"set_{axis}scale")("symlog", linthresh=_LINEAR_TO, linscale=0.8)
    steps = [10.0**k for k in range(1, 12) if 10.0**k <= limit]
    ticks = [*(-step for step in reversed(steps) if signed), 0.0, *steps]
    which.set_ticks(ticks, [f"{tick:.0f}".replace("-", "−") for tick in ticks])
    which.set_minor_locator(NullLocator())


def _entries(names: tuple[str, str], verdicts: list[str]) -> list[Artist]:
    first, second = (name if len(name) <= _NAME_LENGTH else f"…{name[1 - _NAME_LENGTH :]}" for name in names)
    entries: list[Artist] = [
        Line2D([], [], linestyle="none", markersize=4.5, label=f"first: {first}", **_FIRST),
        Line2D([], [], linestyle="none", markersize=4.5, label=f"second: {second}", **_SECOND),
        Line2D([], [], label="bias of the first", **_FIRST_BIAS),
        Line2D([], [], label="bias of the second", **_SECOND_BIAS),
    ]
    words = {"better": "nearer to", "worse": "farther from", "neither": "neither nearer to nor farther from"}
    for verdict in verdicts:
        marker, colour = VERDICTS[verdict]
        style: dict[str, Any] = {"markerfacecolor": colour, "markeredgecolor": DARK, "markersize": 5}
        entries.append(
            Line2D(
                [], [], linestyle="none", marker=marker, label=f"second's category {words[verdict]} the reference's", **style
            )
        )
    return entries


def comparison_words(found: Comparison) -> str:
    """The caption."""
    by_measure = {d.measure: d for d in found.differences if d.part == "total"}
    error, bias = by_measure["mean_absolute_error"], by_measure["bias"]
    counts = {verdict: int((found.cases["verdict"] == verdict).sum()) for verdict in VERDICTS}
    words = {"better": "nearer to its category", "worse": "farther from its category", "neither": "neither"}
    marked = ", ".join(f"{n} {words[verdict]}" for verdict, n in counts.items() if n)
    changed = f"{sum(counts.values())}, by the reference {marked} (thick lines and marks)" if marked else "0"
    first, second = found.names
    return (
        f"Total Agatston score of {found.n} scan{'' if found.n == 1 else 's'} by {first} (first) and {second} (second). "
        f"(A) Reference − model of both; a line joins the two of a scan. Bias {number(bias.first)} and {number(bias.second)} "
        f"{UNIT}. (B) Absolute errors; below the dashed identity the second is nearer to the reference. Mean "
        f"{number(error.first)} and {number(error.second)} {UNIT}. Scans that the second puts into another risk category than "
        f"the first: {changed}. Axes are linear up to {_LINEAR_TO:g} and logarithmic above."
    ).replace(" -", " −")
