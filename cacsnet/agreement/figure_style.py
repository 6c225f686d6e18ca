"""How the figures of a study look and how they become files.

Colours are of Okabe & Ito's palette, which colour-blind readers can tell apart; categories also fall in lightness and differ
in shape, so that they can be read in grey. Nothing depends on the user's matplotlib settings, and the same study gives the
same bytes.
"""

from __future__ import annotations

import io
import os
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cacsnet.scoring.categories import RISK_CATEGORIES

UNIT = "Agatston units"
DPI = 200
WIDTH_IN = 7.1
"""Two columns of a journal, 180 mm."""

BLUE, VERMILLION, GREY, DARK = "#0072B2", "#D55E00", "#767676", "#222222"
CATEGORY_STYLES: dict[str, tuple[str, str]] = dict(
    zip(RISK_CATEGORIES, (("o", "#F0E442"), ("^", "#56B4E9"), ("s", "#D55E00"), ("D", "#000000")), strict=True)
)
"""Marker and colour of each risk category; darker is more calcium."""

_SETTINGS: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "pdf.fonttype": 42,  # text stays text
}


@dataclass(frozen=True)
class Picture:
    """A finished figure.

    Attributes:
        name: file name without suffix.
        title: a few words.
        caption: what is drawn, with unit, n and what intervals mean.
        png, pdf: file contents; ``pdf`` is None where the picture exists as PNG only.
    """

    name: str
    title: str
    caption: str
    png: bytes
    pdf: bytes | None = None

    def write(self, folder: Path) -> None:
        """Write ``<name>.png`` and ``.pdf``, each under a temporary name first. A PDF of an earlier study goes."""
        folder.mkdir(parents=True, exist_ok=True)
        for suffix, content in (("png", self.png), ("pdf", self.pdf)):
            path = folder / f"{self.name}.{suffix}"
            if content is None:
                path.unlink(missing_ok=True)
                continue
            temporary = path.with_name(f".{path.name}.tmp{os.getpid()}")
            temporary.write_bytes(content)
            os.replace(temporary, path)


@contextmanager
def study_style() -> Iterator[None]:
    """Matplotlib's defaults with the settings of this study, whatever the user's; put back afterwards."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)  # type: ignore[arg-type]
        yield


def new_figure(height_in: float, width_in: float = WIDTH_IN) -> Figure:
    """An empty figure that arranges its panels itself."""
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def picture(figure: Figure, name: str, title: str, caption: str) -> Picture:
    """Draw a figure into bytes. Files hold no date and no program version."""
    contents = []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a case id may be in any script
        for form, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None, "Creator": None, "Producer": None})):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=form, dpi=DPI, facecolor="white", metadata=metadata)
            contents.append(buffer.getvalue())
            figure.set_layout_engine("none")  # arranged once
    return Picture(name, title, caption, contents[0], contents[1])


def title(axes: Axes, letter: str, text: str, detail: str = "") -> None:
    """Head of a panel: bold letter and words, and a plain line below."""
    axes.set_title(f"{letter}  {text}", loc="left", fontweight="bold", pad=14 if detail else None)
    if detail:
        axes.text(0, 1.02, detail, transform=axes.transAxes, va="bottom", fontsize=7.5)


def say(axes: Axes, why: str, *, empty: bool) -> None:
    """Say in a panel what it can't show: in the middle if it is ``empty``, else at the top."""
    text = "\n".join(["not enough data", *textwrap.wrap(why, 28)])
    axes.text(
        0.5,
        0.5 if empty else 0.97,
        text,
        transform=axes.transAxes,
        ha="center",
        va="center" if empty else "top",
        color=GREY,
        fontstyle="italic",
        parse_math=False,
        zorder=6,
    )
    if empty:
        axes.set_xticks([])
        axes.set_yticks([])


def signed(value: float, digits: int = 1) -> str:
    """A number with a true minus sign; no "-0.0"."""
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text.replace("-", "−")


def signed_interval(ci: tuple[float, float], digits: int = 1) -> str:
    """ "−1.0 to 2.0"."""
    return f"{signed(ci[0], digits)} to {signed(ci[1], digits)}"
