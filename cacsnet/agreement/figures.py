"""The figures of a study: agreement of the total (Figure 1 of Sartoretti et al. 2022), each vessel, categories, rescan."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from cacsnet.agreement.figure_style import (
    CATEGORY_STYLES,
    DARK,
    UNIT,
    Picture,
    new_figure,
    picture,
    say,
    signed,
    signed_interval,
    study_style,
    title,
)
from cacsnet.agreement.panels import (
    BAND,
    IDENTITY,
    LIMIT,
    LIMIT_BAND,
    LINE,
    Scores,
    bland_altman_span,
    draw_bland_altman,
    draw_categories,
    draw_confusion,
    draw_regression,
    regression_words,
)
from cacsnet.agreement.statistics import bland_altman
from cacsnet.agreement.study import Part, Study
from cacsnet.agreement.tables import interval, number
from cacsnet.labels import VESSEL_NAMES

_BANDS = "Bands are 95 % confidence intervals that take scans as independent; {clustered}."
_CLUSTERED = "those of the bootstrap of whole patients stand in the tables"


def study_figures(study: Study) -> tuple[Picture, ...]:
    """All figures that are made of scores. A panel that the data can't fill says so."""
    found = []
    for maker in figure_makers(study):
        with study_style():
            found.append(picture(maker(study), *figure_words(maker, study)))
    return tuple(found)


def figure_makers(study: Study) -> tuple[Callable[[Study], Figure], ...]:
    """Functions that draw the figures of a study."""
    makers = (agreement_figure, vessels_figure, confusion_figure)
    return makers if study.scan_rescan is None else (*makers, scan_rescan_figure)


def figure_words(maker: Callable[[Study], Figure], study: Study) -> tuple[str, str, str]:
    """File name, title and caption of a figure."""
    return _WORDS[maker](study)


# ---- figures


def agreement_figure(study: Study) -> Figure:
    """Regression, Bland-Altman, and scores by category of the total."""
    figure = new_figure(7.6)
    panels = figure.subplot_mosaic([["A", "B"], ["C", "C"]], height_ratios=[1, 0.9])
    part, table = study.parts["total"], study.pairs
    reference, model = part_scores(study, "total")
    categories = list(table["reference_category"])
    moved = (table["reference_category"] != table["model_category"]).to_numpy(dtype=bool)
    draw_regression(panels["A"], reference, model, part.regression, categories, moved, confidence(study))
    draw_bland_altman(panels["B"], reference, model, part.bland_altman, categories=categories, moved=moved)
    panels["B"].set_box_aspect(1)
    draw_categories(panels["C"], reference, model, categories)
    title(panels["A"], "A", "Linear regression", regression_words(part.regression))
    title(panels["B"], "B", "Bland-Altman analysis", f"n = {part.n}")
    title(panels["C"], "C", "Scores by risk category")
    _legend(figure, _category_entries(set(categories), bool(moved.any())) + _line_entries(), 4)
    return figure


def vessels_figure(study: Study) -> Figure:
    """Regression and Bland-Altman of each vessel, a row each."""
    figure = new_figure(9.6)
    grid = figure.subplots(len(VESSEL_NAMES), 2, width_ratios=[1, 1.5])
    for row, name in enumerate(VESSEL_NAMES):
        left, right = grid[row]
        part = study.parts.get(name)
        if part is None:
            title(left, "ABCD"[row], name)
            for axes in (left, right):
                say(axes, f"no column agatston_{name} in both tables", empty=True)
            left.set_box_aspect(1)
            continue
        reference, model = part_scores(study, name)
        draw_regression(left, reference, model, part.regression, confidence=confidence(study))
        draw_bland_altman(right, reference, model, part.bland_altman, room=0.25)
        title(left, "ABCD"[row], name, regression_words(part.regression))
    _legend(figure, _line_entries(), 5)
    return figure


def confusion_figure(study: Study) -> Figure:
    """The confusion matrix of the risk categories."""
    figure = new_figure(3.9, 4.6)
    draw_confusion(figure.subplots(), study.categories.confusion, study.categories.labels)
    return figure


def scan_rescan_figure(study: Study) -> Figure:
    """Bland-Altman of the first against the second scan, for reference and model, on the same axes."""
    figure = new_figure(3.7)
    panels = figure.subplots(1, 2)
    scans = rescanned(study)
    names = tuple(f"scan {name}" for name in study.scan_rescan.scans)  # type: ignore[union-attr]
    sides = []
    for side in ("reference", "model"):
        first, second = (scan[f"{side}_total"].to_numpy(dtype=np.float64) for scan in scans)
        sides.append((first, second, bland_altman(first, second, confidence(study))))
    spans = [bland_altman_span(*side) for side in sides]
    span = max(s[0] for s in spans), min(s[1] for s in spans), max(s[2] for s in spans)
    for axes, letter, name, (first, second, limits) in zip(panels, "AB", ("Reference", "Model"), sides, strict=True):
        draw_bland_altman(axes, first, second, limits, names, span=span)  # type: ignore[arg-type]
        title(axes, letter, name, f"n = {limits.n}")
    _legend(figure, _line_entries("bias")[1:], 4)
    return figure


def _category_entries(present: set[str], moved: bool) -> list[Artist]:
    point = {"linestyle": "none", "markeredgecolor": DARK}
    entries: list[Artist] = [
        Line2D([], [], marker=marker, color=colour, markeredgewidth=0.5, label=f"reference {name}", **point)  # type: ignore[arg-type]
        for name, (marker, colour) in CATEGORY_STYLES.items()
        if name in present
    ]
    if moved:
        entries.append(Line2D([], [], marker="o", markersize=9, markerfacecolor="none", label="reclassified", **point))  # type: ignore[arg-type]
    return entries


def _line_entries(solid: str = "regression, bias") -> list[Artist]:
    return [
        Line2D([], [], label="identity", **IDENTITY),
        Line2D([], [], label=solid, **LINE),
        Line2D([], [], label="limits of agreement", **LIMIT),
        Patch(label="95 % CI", **BAND),
        Patch(label="95 % CI of limits", **LIMIT_BAND),
    ]


def _legend(figure: Figure, entries: list[Artist], columns: int) -> None:
    figure.legend(handles=entries, loc="outside lower center", ncols=columns, handletextpad=0.5, columnspacing=1.8)


# ---- numbers


def part_scores(study: Study, name: str) -> tuple[Scores, Scores]:
    """Reference and model scores [n] of the cases that a part compares."""
    known = study.pairs[[f"reference_{name}", f"model_{name}"]].dropna()
    return known.iloc[:, 0].to_numpy(dtype=np.float64), known.iloc[:, 1].to_numpy(dtype=np.float64)


def rescanned(study: Study) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of the first and of the second scan, by patient, as :mod:`cacsnet.agreement.scan_rescan` pairs them."""
    assert study.scan_rescan is not None
    frames = []
    for name in study.scan_rescan.scans:
        rows = study.pairs[study.pairs["scan"] == name]
        frames.append(rows[~rows["patient_id"].duplicated(keep=False)].set_index("patient_id"))
    both = frames[0].index.intersection(frames[1].index).sort_values()
    return frames[0].loc[both], frames[1].loc[both]


def confidence(study: Study) -> float:
    """Level of the intervals."""
    return float(str(study.settings["confidence"]))


# ---- words


def _agreement_words(study: Study) -> tuple[str, str, str]:
    part = study.parts["total"]
    moved = study.categories.reclassification
    ringed = f"Ringed: the {moved.changed} scan{'' if moved.changed == 1 else 's'} that the model puts in another category."
    ringed = ringed if moved.changed else "The model puts no scan in another category."
    caption = (
        f"Total Agatston score of {part.n} scans, model against reference. (A) Linear regression of the reference on the model "
        "with the band of its mean; y is the reference, x the model; dashed: identity. (B) Bland-Altman analysis: "
        "reference − model against the mean of both; "
        f"{_limits_words(part)} Axes of A and B are linear. (C) Scores in each risk category of the reference; thin lines join "
        "the two scores of a scan, boxes show median and quartiles (from three scans on); linear up to 10, logarithmic above; "
        f"dotted: limits of the categories. {ringed} "
        f"{_BANDS.format(clustered=_CLUSTERED)}"
    )
    return "agreement", "Agreement of the total score", caption


def _limits_words(part: Part) -> str:
    found = part.bland_altman
    if found.reason:
        return f"no limits of agreement: {found.reason}."
    return (
        f"bias {signed(found.bias)} (95 % CI {signed_interval(found.bias_ci)}), limits of agreement (bias ± 1.96 SD) "
        f"{signed(found.lower)} ({signed_interval(found.lower_ci)}) and {signed(found.upper)} "
        f"({signed_interval(found.upper_ci)}) {UNIT}."
    )


def _vessels_words(study: Study) -> tuple[str, str, str]:
    counts = ", ".join(f"{name} n = {study.parts[name].n}" for name in VESSEL_NAMES if name in study.parts)
    caption = (
        "Agatston score of each vessel, model against reference: linear regression of the reference on the model (left; y is "
        "the reference, x the model; dashed: identity) and Bland-Altman analysis, reference − model (right; solid: bias, "
        f"dashed: limits of agreement, bias ± 1.96 SD). {counts or 'No vessel is compared'}. "
        "Linear axes, of each vessel's own range. "
        f"{_BANDS.format(clustered=_CLUSTERED)}"
    )
    return "vessels", "Agreement of each vessel", caption


def _confusion_words(study: Study) -> tuple[str, str, str]:
    found = study.categories
    moved, kappa = found.reclassification, found.kappa_quadratic
    rate = interval((100 * moved.ci[0], 100 * moved.ci[1]))
    caption = (
        f"Risk categories of {moved.n} scans: number of scans and share of the reference's category. Reclassified: "
        f"{moved.changed} ({number(100 * moved.rate)} %, Wilson 95 % CI {rate} %). Kappa with quadratic weights "
        f"{number(kappa.kappa, 3)} (95 % CI {interval(kappa.ci, 3)})."
    )
    return "confusion", "Risk categories", caption


def _scan_rescan_words(study: Study) -> tuple[str, str, str]:
    assert study.scan_rescan is not None
    first, second = study.scan_rescan.scans
    caption = (
        f"Scan-rescan variability of the total Agatston score in {study.scan_rescan.n} patients: scan {first} − scan {second} "
        "against the mean of both, for the reference (A) and the model (B). Solid: bias; dashed: limits of agreement "
        "(bias ± 1.96 SD); bands: 95 % confidence intervals. Both panels have the same linear axes."
    )
    return "scan_rescan", "Scan-rescan variability", caption


_WORDS: dict[Callable[[Study], Figure], Callable[[Study], tuple[str, str, str]]] = {
    agreement_figure: _agreement_words,
    vessels_figure: _vessels_words,
    confusion_figure: _confusion_words,
    scan_rescan_figure: _scan_rescan_words,
}
