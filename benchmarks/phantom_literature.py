"""Published ranges beside what was measured, and the verdicts that follow from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cacsnet.agreement.statistics import category_indices
from cacsnet.labels import VESSEL_NAMES
from cacsnet.scoring.categories import RISK_CATEGORIES

MOST_OUTSIDE = 0.10
"""A 95 % range leaves 5 % of people outside; up to this share of phantoms may be."""


@dataclass(frozen=True)
class Published:
    """A range that 95 % of people lie in (or the range published), and where it is from.

    ``low``, ``high``: two means and SDs given by sex: the lower mean - 2 SD to the higher mean + 2 SD.
    ``below``, ``above``: why phantoms are below or above it, if they are and it is known.
    """

    key: str
    name: str
    unit: str
    low: float
    high: float
    source: str
    below: str = ""
    above: str = ""


def two_sd(*means_sds: tuple[float, float]) -> tuple[float, float]:
    """From the lowest mean - 2 SD to the highest mean + 2 SD."""
    return min(m - 2 * s for m, s in means_sds), max(m + 2 * s for m, s in means_sds)


HUDSMITH = "Hudsmith 2005, MR, doi:10.1080/10976640500295516"
MAFFEI = "Maffei 2012, CT, as tabled in doi:10.21037/cdt-20-530"
DODGE = "Dodge 1992, doi:10.1161/01.cir.86.1.232"
DEFAULT = "usual textbook range, not checked against one publication"
WOMEN = 0.91
"""Dodge 1992: women's coronary arteries are 9 % narrower."""

LEFT_DOMINANT = "15 % are left-dominant: the LCX goes on to the crux, the RCA ends at the right margin"
MARGINAL = (
    "a marginal is followed as long as it stays within 16 mm of the left atrium: in right dominance the LCX itself is drawn "
    "60 ± 11 mm long"
)
SIZES = "heart sizes are drawn wider than life on purpose"
DIASTOLE = f"the published volumes are end-diastolic, the phantoms' mean lies below them; {SIZES}"
APEX = "what runs round the apex, further than 16 mm from the right ventricle, isn't counted"
NOISE_WAY = "the phantom's noise is much the same along both; the reference is one kernel of one vendor, 3 cases"
NO_OVERLAP = "3 mm slices that don't overlap have none; what lies below 0 is sampling error"
WIDE = "drawn wider than life on purpose: contrast between tissues must not tell them apart"

TABLE: tuple[Published, ...] = (
    Published("left_ventricle_ml", "left ventricle, blood", "mL", *two_sd((160, 29), (135, 26)), HUDSMITH, DIASTOLE, SIZES),
    Published("right_ventricle_ml", "right ventricle, blood", "mL", *two_sd((190, 33), (148, 35)), HUDSMITH, SIZES, SIZES),
    Published(
        "left_atrium_ml",
        "left atrium with appendage",
        "mL",
        22,
        163,
        HUDSMITH + ": any phase; largest 103 ± 30 and 89 ± 21, less 58 and 48 when smallest (the same relative SD taken)",
        above=SIZES,
    ),
    Published("lv_mass_g", "left ventricle, muscle", "g", *two_sd((167, 38), (129, 29)), MAFFEI),
    Published(
        "lv_wall_mm",
        "left ventricle, wall",
        "mm",
        *two_sd((10.8, 1.8), (7.8, 1.5)),
        "Kang 2017, CT, septal and posterior wall, as tabled in doi:10.21037/cdt-20-530",
    ),
    Published(
        "aortic_root_mm",
        "aortic root, widest",
        "mm",
        21,
        43,
        "Devereux et al., echocardiography of 1207 healthy people, their range",
    ),
    Published(
        "ascending_aorta_mm",
        "ascending aorta at the right pulmonary artery",
        "mm",
        *two_sd((33, 4)),
        "Wolak 2008, calcium CT, doi:10.1016/j.jcmg.2007.11.005",
    ),
    Published(
        "pulmonary_trunk_mm",
        "pulmonary trunk",
        "mm",
        *two_sd((25.1, 2.8)),
        "Truong 2012, calcium CT, doi:10.1161/CIRCIMAGING.111.968610",
        below=SIZES,
        above=SIZES,
    ),
    Published("LM_length_mm", "LM, length", "mm", 0, 21.1, "Medrano-Gracia 2016, CT, 10.5 ± 5.3, doi:10.4244/EIJV12I7A139"),
    Published("LAD_length_mm", "LAD in the groove, length", "mm", 100, 130, DEFAULT, below=APEX, above=SIZES),
    Published("LCX_length_mm", "LCX in the groove, length", "mm", 50, 80, DEFAULT, above=f"{LEFT_DOMINANT}; {MARGINAL}"),
    Published("RCA_length_mm", "RCA to the crux, length", "mm", 100, 140, DEFAULT, below=LEFT_DOMINANT, above=SIZES),
    Published("LM_mm", "LM, lumen", "mm", WOMEN * 4.5 - 1.0, 5.5, DODGE),
    Published("LAD_proximal_mm", "LAD, proximal lumen", "mm", WOMEN * 3.7 - 0.8, 4.5, DODGE),
    Published("LAD_distal_mm", "LAD, distal lumen", "mm", WOMEN * 1.9 - 0.8, 2.7, DODGE),
    Published("LCX_proximal_mm", "LCX, proximal lumen", "mm", WOMEN * 3.4 - 1.0, 5.4, DODGE),
    Published("RCA_proximal_mm", "RCA, proximal lumen", "mm", WOMEN * 2.8 - 1.0, 5.1, DODGE),
    Published(
        "blood_hu",
        "blood",
        "HU",
        25,
        50,
        "325 patients, interquartile ranges of anaemic and other patients, doi:10.21203/rs.3.rs-1420003/v1",
        below=WIDE,
        above=WIDE,
    ),
    Published(
        "myocardium_hu", "myocardium", "HU", 25, 60, DEFAULT + " (40-50), wider by what anaemia takes off blood", WIDE, WIDE
    ),
    Published(
        "epicardial_fat_hu",
        "epicardial fat",
        "HU",
        -110,
        -69,
        "Monti 2021, CT without contrast: median -73, doi:10.3390/jcm10040735; down to the usual -110 of pure fat",
        below=WIDE,
        above=WIDE,
    ),
    Published("lung_hu", "lung", "HU", -900, -780, DEFAULT + ", in inspiration"),
    Published(
        "muscle_hu",
        "muscle",
        "HU",
        30,
        65,
        "Goodpaster 2000: 49 ± 3 (lean) to 34 ± 4 (obese), doi:10.1152/jappl.2000.89.1.104; usual 50-60",
    ),
    Published("liver_hu", "liver", "HU", *two_sd((58.3, 8.9)), "livers without pathology, doi:10.1007/s00414-019-02016-1"),
    Published(
        "trabecular_hu",
        "trabecular bone of the spine",
        "HU",
        51,
        270,
        "Jang 2019, L1: 226 ± 44 (under 30 years) to 89 ± 38 (90 and over), each ± 1 SD, doi:10.1148/radiol.2019181648",
    ),
    Published("cortical_hu", "cortical bone of the spine", "HU", 300, 1500, DEFAULT),
    Published(
        "noise_hu",
        "noise, left ventricle",
        "HU",
        *two_sd((19, 4), (20, 2)),
        "clinical calcium CT at 120 kVp: 18-20 ± 2-4; higher without tube current by size",
    ),
    Published(
        "autocorrelation_x1",
        "noise, correlation of next pixels along x",
        "",
        0.5,
        0.8,
        "LIDC-IDRI, GE, STANDARD, 3 cases: docs/scanner.md",
    ),
    Published("autocorrelation_y1", "noise, correlation of next pixels along y", "", 0.3, 0.6, "as above", above=NOISE_WAY),
    Published(
        "autocorrelation_z1", "noise, correlation of next slices", "", 0.0, 0.6, "as above; contiguous slices", below=NO_OVERLAP
    ),
)

INFORMATION: tuple[tuple[str, str, str], ...] = (
    ("right_atrium_ml", "right atrium with appendage", "mL"),
    ("heart_ml", "four chambers and the left ventricle's muscle, clefts up to 24 mm filled", "mL"),
    ("LAD_middle_mm", "LAD, middle lumen", "mm"),
    ("RCA_middle_mm", "RCA, middle lumen", "mm"),
    ("RCA_PDA_length_mm", "RCA with its longest branch", "mm"),
    ("LAD_off_groove_mm", "LAD, middle: to the farther of both ventricles", "mm"),
    ("LCX_off_groove_mm", "LCX, middle: to the farther of left ventricle and atrium", "mm"),
    ("RCA_off_groove_mm", "RCA, middle: to the farther of right ventricle and atrium", "mm"),
    ("LAD_tortuosity", "LAD, way along it over the straight way", ""),
    ("LCX_tortuosity", "LCX, way along it over the straight way", ""),
    ("RCA_tortuosity", "RCA, way along it over the straight way", ""),
    ("autocorrelation_x2", "noise, correlation over 2 pixels along x", ""),
    ("autocorrelation_y2", "noise, correlation over 2 pixels along y", ""),
)
"""Measured, too, but without a range that could be confirmed."""


def verdict(values: np.ndarray, published: Published) -> str:
    """Within: the mean is, and at most MOST_OUTSIDE of the phantoms are not. Else outside, how, and why if it is known."""
    mean, below, above = values.mean(), float((values < published.low).mean()), float((values > published.high).mean())
    if published.low <= mean <= published.high and below + above <= MOST_OUTSIDE:
        return "within"
    text = "outside: " + " and ".join(
        f"{100 * share:.0f} % {side}" for share, side in ((below, "below"), (above, "above")) if share > 0
    )
    reasons = [r for share, r in ((below, published.below), (above, published.above)) if share > MOST_OUTSIDE / 2 and r]
    return text + "; " + ("; ".join(dict.fromkeys(reasons)) if reasons else "reason not known")


def digits(value: float) -> str:
    """Three significant digits at most, no more than two after the point."""
    size = abs(value)
    return f"{value:.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.2f}"


def literature_table(rows: pd.DataFrame) -> tuple[str, int, int]:
    """Markdown; how many quantities are within their range; how many there are."""
    lines = [
        "| | measured, mean ± SD | 5 to 95 % | published | n | verdict | source |",
        "|---|---:|---:|---:|---:|---|---|",
    ]
    inside = counted = 0
    for one in TABLE:
        values = rows[one.key].dropna().to_numpy(float) if one.key in rows else np.zeros(0)
        if not len(values):
            lines.append(f"| {one.name} | - | - | {_span(one.low, one.high)} {one.unit} | 0 | not measured | {one.source} |")
            counted += 1
            continue
        found = verdict(values, one)
        counted, inside = counted + 1, inside + (found == "within")
        lines.append(
            f"| {one.name} | {_measured(values, one.unit)} | {_span(one.low, one.high)} | {len(values)} | {found} "
            f"| {one.source} |"
        )
    lines += [
        "",
        "Without a published range that could be confirmed:",
        "",
        "| | measured, mean ± SD | 5 to 95 % | n |",
        "|---|---:|---:|---:|",
    ]
    for key, name, unit in INFORMATION:
        values = rows[key].dropna().to_numpy(float) if key in rows else np.zeros(0)
        if len(values):
            lines.append(f"| {name} | {_measured(values, unit)} | {len(values)} |")
    return "\n".join(lines), inside, counted


def _measured(values: np.ndarray, unit: str) -> str:
    sd = values.std(ddof=1) if len(values) > 1 else 0.0
    low, high = np.quantile(values, [0.05, 0.95])
    return f"{digits(values.mean())} ± {digits(sd)} {unit} | {_span(low, high)}"


def _span(low: float, high: float) -> str:
    return f"{digits(low)} to {digits(high)}"


def agatston_table(rows: pd.DataFrame, paper: Mapping[str, Sequence[float]]) -> str:
    """Measured reference scores beside a population's published ones.

    Within: the two means differ by no more than the 95 % interval of their difference."""
    lines = ["| Agatston | measured, mean ± SD | share | published | share | verdict |", "|---|---:|---:|---:|---:|---|"]
    total = rows["agatston_total"].to_numpy(float)
    published_total = sum(paper[name][0] for name in VESSEL_NAMES)
    for name in (*VESSEL_NAMES, "total"):
        values = rows[f"agatston_{name}"].to_numpy(float)
        mean, sd = values.mean(), values.std(ddof=1)
        error = 1.96 * np.hypot(sd / np.sqrt(len(values)), paper[name][1] / np.sqrt(sum(paper["categories"])))
        good = (
            "within"
            if abs(mean - paper[name][0]) <= error
            else f"outside: {mean - paper[name][0]:+.1f}, 95 % interval ± {error:.1f}"
        )
        share = f"{100 * values.sum() / max(total.sum(), 1e-9):.1f} %"
        known = "100.0 %" if name == "total" else f"{100 * paper[name][0] / published_total:.1f} %"
        lines.append(
            f"| {name} | {mean:.1f} ± {sd:.1f} | {share} | {paper[name][0]:.1f} ± {paper[name][1]:.1f} | {known} | {good} |"
        )
    counts = np.bincount(category_indices(total), minlength=len(RISK_CATEGORIES))
    lines += ["", "| category | " + " | ".join(RISK_CATEGORIES) + " |", "|---|" + "---:|" * len(RISK_CATEGORIES)]
    for title, values in (("measured", counts), ("published", np.array(paper["categories"]))):
        lines.append(f"| {title} | " + " | ".join(f"{v} ({100 * v / values.sum():.0f} %)" for v in values) + " |")
    return "\n".join(lines)
