"""The panels that figures are made of: regression, Bland-Altman, scores by category, confusion matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from numpy.typing import NDArray
from scipy import stats

from cacsnet.agreement.figure_style import (
    BLUE,
    CATEGORY_STYLES,
    DARK,
    GREY,
    UNIT,
    VERMILLION,
    say,
    signed,
    signed_interval,
)
from cacsnet.agreement.statistics import BlandAltman, Regression
from cacsnet.scoring.categories import RISK_CATEGORIES

Scores = NDArray[np.float64]

Span = tuple[float, float, float]

IDENTITY: dict[str, Any] = {"color": GREY, "linestyle": (0, (4, 2)), "linewidth": 0.9}
LINE: dict[str, Any] = {"color": BLUE, "linewidth": 1.3}
LIMIT: dict[str, Any] = {"color": DARK, "linestyle": (0, (5, 2)), "linewidth": 1.0}
BAND: dict[str, Any] = {"color": BLUE, "alpha": 0.22, "linewidth": 0}
LIMIT_BAND: dict[str, Any] = {"color": GREY, "alpha": 0.18, "linewidth": 0}

_SIZE = 20.0  # of a marker, points²
_EDGE: dict[str, Any] = {"edgecolors": DARK, "linewidths": 0.5}
_LINEAR_TO = 10.0  # scores by category: linear up to here, logarithmic above
_JITTER, _APART = 0.11, 0.2
_LEAST = 1.0  # Bland-Altman: axes never zoom in further than ± this, so that rounding doesn't look like deviation


def draw_points(
    axes: Axes, x: Scores, y: Scores, categories: Sequence[str] | None = None, moved: NDArray[np.bool_] | None = None
) -> None:
    """One marker a case: in the style of its category, or all alike; a ring around those that ``moved``."""
    if categories is None:
        axes.scatter(x, y, s=_SIZE, marker="o", color=BLUE, alpha=0.75, zorder=3, label="scans", **_EDGE)
    else:
        of = np.asarray(categories, dtype=object)
        for name, (marker, colour) in CATEGORY_STYLES.items():
            here = of == name
            if here.any():
                axes.scatter(x[here], y[here], s=_SIZE, marker=marker, color=colour, alpha=0.85, zorder=3, label=name, **_EDGE)
    if moved is not None and moved.any():
        axes.scatter(
            x[moved], y[moved], s=4 * _SIZE, facecolors="none", edgecolors=DARK, linewidths=0.9, zorder=4, label="reclassified"
        )


def draw_regression(
    axes: Axes,
    reference: Scores,
    model: Scores,
    line: Regression,
    categories: Sequence[str] | None = None,
    moved: NDArray[np.bool_] | None = None,
    confidence: float = 0.95,
) -> None:
    """Reference (y) on model (x), both [n], with identity, regression line, and the band of its mean."""
    axes.set_xlabel(f"Model ({UNIT})")
    axes.set_ylabel(f"Reference ({UNIT})")
    axes.set_box_aspect(1)
    if len(reference) == 0:
        say(axes, line.reason or "no scores", empty=True)
        return
    draw_points(axes, model, reference, categories, moved)
    top = max(float(reference.max()), float(model.max())) or 1.0
    axes.plot([0, top], [0, top], label="identity", zorder=2.2, **IDENTITY)
    axes.set(xlim=(-0.04 * top, 1.06 * top), ylim=(-0.04 * top, 1.06 * top))
    if not (math.isfinite(line.slope) and math.isfinite(line.intercept)):
        say(axes, line.reason, empty=False)
        return
    x = np.linspace(float(model.min()), float(model.max()), 101)
    axes.plot(x, line.slope * x + line.intercept, label="regression", zorder=2, **LINE)
    low, high = mean_band(reference, model, line, x, confidence)
    if np.isfinite(low).all():
        axes.fill_between(x, low, high, label="interval", zorder=1.5, **BAND)


def regression_words(line: Regression) -> str:
    """ "y = 1.06 x − 18.0, R² = 0.980, n = 112"."""
    words = []
    if math.isfinite(line.slope) and math.isfinite(line.intercept):
        sign = "−" if signed(line.intercept).startswith("−") else "+"
        words.append(f"y = {signed(line.slope, 2)} x {sign} {signed(abs(line.intercept))}")
    words += [f"R² = {line.r_squared:.3f}"] if math.isfinite(line.r_squared) else []
    return ", ".join([*words, f"n = {line.n}"])


def mean_band(reference: Scores, model: Scores, line: Regression, x: Scores, confidence: float = 0.95) -> tuple[Scores, Scores]:
    """Pointwise interval of the regression's mean at ``x``: fit ± t s sqrt(1/n + (x - mean)² / Sxx); nan below 3 cases."""
    n = len(model)
    spread = float(((model - model.mean()) ** 2).sum())
    if n < 3 or not spread > 0:
        return np.full_like(x, math.nan), np.full_like(x, math.nan)
    residual = reference - (line.slope * model + line.intercept)
    s = math.sqrt(float((residual**2).sum()) / (n - 2))
    margin = float(stats.t.ppf((1 + confidence) / 2, n - 2)) * s * np.sqrt(1 / n + (x - model.mean()) ** 2 / spread)
    fit = line.slope * x + line.intercept
    return fit - margin, fit + margin


def draw_bland_altman(
    axes: Axes,
    first: Scores,
    second: Scores,
    limits: BlandAltman,
    names: tuple[str, str] = ("reference", "model"),
    categories: Sequence[str] | None = None,
    moved: NDArray[np.bool_] | None = None,
    span: Span | None = None,
    room: float = 0.15,
) -> None:
    """Difference first - second against the mean of both [n]; bias, limits of agreement, and their intervals as bands.

    Args:
        axes: where.
        first, second: scores.
        limits: of them.
        names: of the two.
        categories, moved: as for :func:`draw_points`.
        span: range of the axes; default :func:`bland_altman_span`.
        room: share of the panel's height that a number beside it needs.
    """
    axes.set_xlabel(f"Mean of {names[0]} and {names[1]} ({UNIT})")
    axes.set_ylabel(f"{names[0].capitalize()} − {names[1]}\n({UNIT})")
    if len(first) == 0:
        say(axes, limits.reason or "no scores", empty=True)
        return
    draw_points(axes, (first + second) / 2, first - second, categories, moved)
    axes.axhline(0, color=GREY, linewidth=0.6, linestyle=":", zorder=1)
    right, low, high = span or bland_altman_span(first, second, limits)
    axes.set(xlim=(-0.04 * right, 1.06 * right), ylim=(low, high))
    if not (math.isfinite(limits.lower) and math.isfinite(limits.upper)):
        say(axes, limits.reason, empty=False)
        return
    lines = (
        ("lower limit", limits.lower, limits.lower_ci, LIMIT),
        ("bias", limits.bias, limits.bias_ci, LINE),
        ("upper limit", limits.upper, limits.upper_ci, LIMIT),
    )
    # numbers stand beside their lines, or as close as they can without touching each other
    heights = [(value - low) / (high - low) for _, value, _, _ in lines]
    gap = max(room, heights[2] - heights[1])
    middle = min(max(heights[1], gap), 1 - gap) if gap <= 0.5 else heights[1]
    for step, (name, value, ci, style) in zip((-1, 0, 1), lines, strict=True):
        axes.axhline(value, label=name, zorder=2, **style)
        axes.axhspan(*ci, label=f"interval of the {name}", zorder=0.5, **(BAND if name == "bias" else LIMIT_BAND))
        axes.text(
            1.02,
            middle + step * gap,
            f"{name}\n{signed(value)}\n({signed_interval(ci)})",
            transform=axes.transAxes,
            va="center",
            fontsize=6.8,
            color=DARK,
        )


def bland_altman_span(first: Scores, second: Scores, limits: BlandAltman) -> Span:
    """Largest mean, and lowest and highest difference to show: all points, the limits, their intervals, and 0."""
    difference = first - second
    ends = [0.0, *difference, *limits.lower_ci, *limits.upper_ci]
    ends = [end for end in ends if math.isfinite(end)]
    low, high = min(-_LEAST, *ends), max(_LEAST, *ends)
    # a panel without limits holds words above its points
    pad = (0.06 if math.isfinite(limits.lower) else 0.4) * (high - low)
    return float(((first + second) / 2).max()) or 1.0, low - pad, high + pad


def draw_categories(
    axes: Axes, reference: Scores, model: Scores, categories: Sequence[str], labels: Sequence[str] = RISK_CATEGORIES
) -> None:
    """Scores of reference and model side by side in each category of the reference; a thin line joins each pair.

    Boxes show median and quartiles. The axis is linear up to 10 and logarithmic above.
    """
    axes.set_xlabel(f"Risk category of the reference ({UNIT})")
    axes.set_ylabel(f"Score ({UNIT})")
    axes.set_yscale("symlog", linthresh=_LINEAR_TO, linscale=0.8)
    of = np.asarray(categories, dtype=object)
    shown = [label for label in labels if (of == label).any()]
    sides = (("reference", reference, -_APART, "o", BLUE), ("model", model, _APART, "s", VERMILLION))
    for place, label in enumerate(labels):
        here = np.flatnonzero(of == label)
        if len(here) == 0:
            continue
        # spread by rank, so that equal scores don't hide each other
        here = here[np.argsort(reference[here], kind="stable")]
        step = np.linspace(-_JITTER, _JITTER, len(here)) if len(here) > 1 else np.zeros(1)
        left, right = np.column_stack([place + step - _APART, reference[here]]), place + step + _APART
        joined = np.stack([left, np.column_stack([right, model[here]])], axis=1)
        axes.add_collection(LineCollection(list(joined), colors=GREY, linewidths=0.35, alpha=0.7, zorder=1))
        for name, scores, shift, marker, colour in sides:
            axes.scatter(
                place + shift + step,
                scores[here],
                s=0.6 * _SIZE,
                marker=marker,
                facecolors=colour if name == "reference" else "white",
                edgecolors=colour,
                linewidths=0.8,
                alpha=0.85,
                zorder=3,
                label=name if label == shown[0] else None,
            )
            _box(axes, place + shift, scores[here])
    for limit in (100, 400):
        axes.axhline(limit, color=GREY, linewidth=0.6, linestyle=":", zorder=0.5)
    axes.set_xticks(range(len(labels)), [f"{label}\n(n = {int((of == label).sum())})" for label in labels])
    top = max(float(reference.max()), float(model.max()), _LINEAR_TO) if len(reference) else _LINEAR_TO
    axes.set(xlim=(-0.6, len(labels) - 0.4), ylim=(-1.0, 1.6 * top))
    ticks = [tick for tick in (0, 5, 10, 100, 400, 1000, 10000, 100000) if tick <= 1.6 * top]
    axes.set_yticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    if len(reference):
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0.1, handletextpad=0.2)
    else:
        say(axes, "no scores", empty=True)


def _box(axes: Axes, x: float, scores: Scores) -> None:
    """Median and quartiles of at least three scores."""
    if len(scores) < 3:
        return
    low, median, high = np.quantile(scores, [0.25, 0.5, 0.75])
    half = _JITTER + 0.05
    axes.plot([x - half, x + half], [median, median], color=DARK, linewidth=1.6, zorder=4)
    axes.fill_between([x - half, x + half], low, high, facecolor="none", edgecolor=DARK, linewidth=0.8, zorder=2.5)


def draw_confusion(axes: Axes, counts: NDArray[np.int64], labels: Sequence[str]) -> None:
    """Counts [reference, model] with their share of the row; darker is a larger share, the diagonal is framed."""
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1.15)
    for i in range(len(labels)):
        for j in range(len(labels)):
            text = str(counts[i, j]) if not counts[i, j] else f"{counts[i, j]}\n{100 * shares[i, j]:.1f} %"
            axes.text(j, i, text, ha="center", va="center", color="white" if shares[i, j] > 0.6 else DARK, fontsize=8)
        axes.plot(
            [i - 0.5, i + 0.5, i + 0.5, i - 0.5, i - 0.5],
            [i - 0.5, i - 0.5, i + 0.5, i + 0.5, i - 0.5],
            color=DARK,
            linewidth=1.2,
            clip_on=False,
        )
    places = range(len(labels))
    axes.set_xticks(places, [f"{label}\n(n = {n})" for label, n in zip(labels, counts.sum(axis=0), strict=True)])
    axes.set_yticks(places, [f"{label}\n(n = {n})" for label, n in zip(labels, totals[:, 0], strict=True)])
    axes.set(xlabel=f"Category of the model ({UNIT})", ylabel=f"Category of the reference ({UNIT})")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
